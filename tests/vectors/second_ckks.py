"""A second implementation of ``protocols.ckks`` on coefficients, from its page alone.

``docs/protocols/ckks.md`` is its only source, and for the Gaussians the module that the page
names. Nothing of ``protocols`` is imported here: the two agree through the page and the
files. A coefficient is a Python integer; a product of polynomials is the schoolbook's, exact in
64 bits. It is slow, and no code to encrypt anything with.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from page_blocks import Row, agree, checked, combine, joined, public, sha, split, stream, u32

N = 4096
ZEROS = 8  # coefficients in front of the entries of a polynomial
HALF = 36  # bits of the lower part of a coefficient: 4096 x 2^36 stays below 2^63
Layer = Literal["decode", "context", "state", "check", "sum"]
Poly = list[int]
Words = list[int]
Entropy = Callable[[int], bytes]


class Refused(Exception):
    """What a party must not take; ``layer`` as on the masks' page."""

    def __init__(self, layer: Layer, why: str) -> None:
        super().__init__(f"{layer}: {why}")
        self.layer = layer


def must(holds: bool, layer: Layer, why: str) -> None:
    if not holds:
        raise Refused(layer, why)


# Numbers.


def times(poly: Poly, small: Poly, q: int) -> Poly:
    """The product modulo X^N + 1 and q; ``small`` has coefficients of one digit."""
    whole, factor = np.array(poly, dtype=object), np.array(small, dtype=np.int64)
    total = np.zeros(2 * N - 1, dtype=object)
    for shift in (0, HALF):
        part = ((whole >> shift) % 2**HALF).astype(np.int64)
        total += np.convolve(part, factor).astype(object) << shift
    total[: N - 1] -= total[N:]
    return list(total[:N] % q)


def plus(one: Sequence[int], other: Sequence[int], q: int, sign: int = 1) -> list[int]:
    return [(x + sign * y) % q for x, y in zip(one, other, strict=True)]


def signed(value: int, q: int = 2**64) -> int:
    return value - q if value >= q // 2 else value


class Reader:
    """A stream read from its front."""

    def __init__(self, seed: bytes, label: bytes) -> None:
        self._seed, self._label, self._at, self._have = seed, label, 0, b""

    def __call__(self, count: int) -> bytes:
        self._at += count
        if self._at > len(self._have):
            self._have = stream(self._seed, self._label, 1, 2 * self._at)
        return self._have[self._at - count : self._at]

    def words(self, count: int) -> list[int]:
        return np.frombuffer(self(8 * count), "<u8").tolist()


def ternary(seed: bytes, label: bytes, count: int) -> list[int]:
    read, found = Reader(seed, label), []
    while len(found) < count:
        found += [byte % 3 - 1 for byte in read(N) if byte < 255]
    return found[:count]


def errors(read: Reader, count: int) -> list[int]:
    low = 2**21 - 1
    return [(w & low).bit_count() - (w >> 21 & low).bit_count() for w in read.words(count)]


def logarithm(x: float) -> float:
    mantissa, exponent = math.frexp(x)
    if mantissa < math.sqrt(0.5):
        mantissa, exponent = 2 * mantissa, exponent - 1
    ratio = (mantissa - 1) / (mantissa + 1)
    square, series = ratio * ratio, 1 / 25
    for term in range(11, -1, -1):
        series = series * square + 1 / (2 * term + 1)
    return exponent * 0.6931471805599453 + 2 * ratio * series


def gaussians(count: int, deviation: float, read: Callable[[int], bytes]) -> list[int]:
    """Rounded Gaussians by Marsaglia's method, one pair after the other."""
    missing, found = -(-count // 2), []
    while missing:
        drawn = read(16 * (math.ceil(1.3 * missing) + 16))
        for at in range(0, len(drawn), 16):
            words = (drawn[at : at + 8], drawn[at + 8 : at + 16])
            u, v = (((int.from_bytes(w, "little") >> 12) + 0.5) * 2.0**-51 - 1 for w in words)
            square = u * u + v * v
            if square < 1 and missing:
                factor = math.sqrt(-2 * logarithm(square) / square)
                found += [round(u * factor * deviation), round(v * factor * deviation)]
                missing -= 1
    return found[:count]


# Bytes.


def planes(values: Sequence[int], size: int) -> bytes:
    """Values of ``size`` bytes as planes of 8, 4, 2 or 1 bytes, the lowest first."""
    data = b""
    for width in (8, 4, 2, 1):
        if size & width:
            data += b"".join((v % 256**width).to_bytes(width, "little") for v in values)
            values = [v >> 8 * width for v in values]
    return data


def from_planes(data: bytes, count: int, size: int) -> list[int]:
    values, done, at = [0] * count, 0, 0
    for width in (8, 4, 2, 1):
        if size & width:
            for place in range(count):
                part = int.from_bytes(data[at : at + width], "little")
                values[place] += part << 8 * done
                at += width
            done += width
    return values


class Body:
    """The body of a message, read from its front, once all around it was found good."""

    def __init__(self, data: bytes, kind: int, header: bytes) -> None:
        must(data[:1] == b"\1", "context", "another version")
        must(len(data) >= 38, "decode", "cut short")
        must(data[-16:] == sha(data[:-16])[:16], "decode", "another checksum")
        must(data[1] == kind, "decode", "another type")
        must(data[2:22] == header, "context", "another session or round")
        self._rest = data[22:-16]

    def take(self, count: int) -> bytes:
        must(len(self._rest) >= count, "decode", "cut short")
        taken, self._rest = self._rest[:count], self._rest[count:]
        return taken

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def listed(self, size: int) -> Row:
        count, found = self.number(), {}
        must(count * (4 + size) <= len(self._rest), "decode", "cut short")
        for _ in range(count):
            party = self.number()
            must(party > max(found, default=-1), "decode", "not ascending")
            found[party] = self.take(size)
        return found

    def end(self) -> None:
        must(not self._rest, "decode", "bytes left over")


def check_keys(keys: list[bytes]) -> None:
    """Sealing keys of different holders."""
    must(len(set(keys)) == len(keys), "check", "no key twice")
    for key in keys:
        try:
            agree(bytes(range(32)), key, b"")
        except ValueError as error:
            raise Refused("check", "a key of low order") from error


# What is agreed.


@dataclass(frozen=True, kw_only=True)
class Terms:
    """The fields of an Agreement by the names of the page, on coefficients."""

    session: bytes
    public: bytes
    model: int  # 1 shared key, 2 threshold
    clients: int
    minimum_survivors: int
    entries: int
    decryptions: int
    clip: float
    limbs: int
    messages: int
    kept: int
    scale_sixteenths: int
    flooding: int
    holders: int = 0
    threshold: int = 0
    corrupt: int = 0

    @property
    def params(self) -> bytes:
        return (
            bytes([self.model])
            + b"".join(
                u32(n)
                for n in (self.clients, self.minimum_survivors, self.entries, self.decryptions)
            )
            + np.array(self.clip, ">f8").tobytes()
            + bytes([2, self.limbs, self.messages, self.kept])
            + u32(self.scale_sixteenths)
            + bytes([self.flooding])
            + b"".join(u32(n) for n in (self.holders, self.threshold, self.corrupt))
        )

    @classmethod
    def read(cls, data: bytes) -> "Terms":
        """The terms in the bytes of an Agreement, if they are within the limits."""
        read = Body(message(0, data[:20], data[20:]), 0, data[:20])
        model = read.take(1)[0]
        counts = [read.number() for _ in range(4)]
        clip = float(np.frombuffer(read.take(8), ">f8")[0])
        engine, limbs, messages, kept = read.take(4)
        must(engine == 2, "check", "on coefficients")
        scale, flooding = read.number(), read.take(1)[0]
        holders, threshold, corrupt = (read.number() for _ in range(3))
        public = read.take(32)
        read.end()
        found = cls(
            session=data[:16],
            public=public,
            model=model,
            clients=counts[0],
            minimum_survivors=counts[1],
            entries=counts[2],
            decryptions=counts[3],
            clip=clip,
            limbs=limbs,
            messages=messages,
            kept=kept,
            scale_sixteenths=scale,
            flooding=flooding,
            holders=holders,
            threshold=threshold,
            corrupt=corrupt,
        )
        found.check(int.from_bytes(data[16:20], "big"))
        return found

    def check(self, round_number: int) -> None:
        """Refuse terms beyond a limit of the page."""
        must(self.model in (1, 2), "check", "model")
        must(2 <= self.minimum_survivors <= self.clients, "check", "clients")
        must(min(self.entries, self.decryptions) >= 1, "check", "entries and decryptions")
        must(round_number < self.decryptions, "check", "round")
        must(0 < self.clip < math.inf, "check", "clip")
        must(self.limbs in (2, 3), "check", "limbs")
        must(1 <= self.messages <= 16 and 2 <= self.kept <= 8, "check", "messages and kept")
        must(30 <= self.flooding <= 128 or (self.shared and not self.flooding), "check", "flooding")
        if self.shared:
            must(not (self.holders or self.threshold or self.corrupt), "check", "no holders")
        else:
            must(2 <= self.holders <= 65535 and self.corrupt < self.holders, "check", "holders")
            least = (self.holders + self.corrupt) // 2 + 1
            must(least <= self.threshold <= self.holders, "check", "threshold")
        must(not self.flooding or self.deviation <= 2**50, "check", "sigma")
        must(self.scale * 2**self.low >= (512 if self.low else 2), "check", "scale")
        most = self.clients * (self.scale * 2**self.low + 2**self.low / 2) + self.bound
        must(most < self.q / 2, "check", "a sum wraps")
        must(self.exact_bits >= 8, "check", "exact bits")

    @property
    def shared(self) -> bool:
        return self.model == 1

    @property
    def q(self) -> int:
        return 2 ** (64 if self.limbs == 2 else 72)

    @property
    def low(self) -> int:
        """Bits of a coefficient below its word."""
        return 0 if self.limbs == 2 else 8

    @property
    def key_context(self) -> bytes:
        return sha(b"secagg/1 ckks key " + self.session + self.params)

    def header(self, round_number: int = 0) -> bytes:
        return self.session + u32(round_number)

    def agreement(self, round_number: int) -> bytes:
        return self.header(round_number) + self.params + self.public

    def context(self, round_number: int, name: bytes) -> bytes:
        return sha(b"secagg/1 ckks round " + self.agreement(round_number) + name)

    def label(self, usage: str, about: bytes = b"") -> bytes:
        return b"secagg/1 ckks " + usage.encode() + b" " + self.key_context + about

    @property
    def chunks(self) -> list[list[int]]:
        """Of each chunk, how many coefficients of each polynomial are sent."""
        held = N - ZEROS
        polys = [ZEROS + min(held, self.entries - at) for at in range(0, self.entries, held)]
        return [polys[at : at + self.messages] for at in range(0, len(polys), self.messages)]

    @property
    def polynomials(self) -> int:
        return sum(len(chunk) for chunk in self.chunks)

    # Polynomials and words.

    def whole(self, poly: Poly) -> bytes:
        data = b"".join((c >> self.low).to_bytes(8, "little") for c in poly)
        return data + bytes(c % 256 for c in poly) if self.low else data

    def of_whole(self, data: bytes) -> Poly:
        words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, 8 * N, 8)]
        if not self.low:
            return words
        return [(w << 8) + low for w, low in zip(words, data[8 * N :], strict=True)]

    @property
    def whole_size(self) -> int:
        return (9 if self.low else 8) * N

    def word(self, coefficient: int) -> int:
        if not self.low:
            return coefficient
        return ((coefficient >> 8) + (coefficient >> 7 & 1)) % 2**64

    def cut(self, words: Sequence[int]) -> list[int]:
        """The upper ``kept`` bytes of each word, rounded."""
        dropped = 64 - 8 * self.kept
        half = 2**dropped // 2
        return [((word + half) >> dropped) % 256**self.kept for word in words]

    def uncut(self, values: Sequence[int]) -> Words:
        return [v << (64 - 8 * self.kept) for v in values]

    def add_cut(self, one: Sequence[int], other: Sequence[int]) -> list[int]:
        return plus(one, other, 256**self.kept)

    def read_cut(self, body: Body, chunk: list[int]) -> list[list[int]]:
        return [from_planes(body.take(n * self.kept), n, self.kept) for n in chunk]

    def put_cut(self, polys: Sequence[Sequence[int]]) -> bytes:
        return b"".join(planes(values, self.kept) for values in polys)

    def uniform(self, seed: bytes, label: bytes) -> Poly:
        read = Reader(seed, label)
        poly = read.words(N)
        if self.low:
            poly = [(w << 8) + low for w, low in zip(poly, read(N), strict=True)]
        return poly

    @property
    def seed_of_a(self) -> bytes:
        return sha(b"secagg/1 ckks common " + self.key_context)

    @property
    def a(self) -> Poly:
        return self.uniform(self.seed_of_a, b"secagg/1 ckks common")

    def secrets(self, seed: bytes, usage: str, about: bytes = b"") -> list[Poly]:
        values = ternary(seed, self.label(usage, about), self.messages * N)
        return [values[at : at + N] for at in range(0, len(values), N)]

    def noise(self, seed: bytes, usage: str, about: bytes, polys: int) -> list[Poly]:
        read = Reader(seed, self.label(usage, about))
        values = gaussians(polys * N, self.deviation, read)
        return [values[at : at + N] for at in range(0, len(values), N)]

    # Errors.

    @property
    def variance(self) -> float:
        """n v."""
        v = 21 / 2 if self.shared else 21 / 2 * (1 + 2 * (2 / 3 * self.holders * N))
        return self.clients * v

    @property
    def deviation(self) -> float:
        """sigma."""
        half, x = N / 2, 40 * math.log(2)
        excess = 2 * math.sqrt(x / half) + (math.log(half) + x) * x / half
        norm = math.sqrt(N * self.variance * (1 + excess))
        tau = self.polynomials * self.decryptions
        return float(math.sqrt(12 * tau) * 2 ** (self.flooding / 2) * norm)

    @property
    def bound(self) -> float:
        """On the error of a coefficient of an opened sum."""
        floods = max(self.holders, 1) * self.deviation**2 if self.flooding else 0
        cut, word = self.q >> 8 * self.kept, 2**self.low if self.low else 0
        roundings = (self.clients + self.holders) * (cut + word) + word
        return 12.5 * math.sqrt(self.variance + floods) + roundings / 2

    @property
    def exact_bits(self) -> int:
        return min(63, math.floor(math.log2(self.q / 2 / self.bound)))

    def vector(self, words: Words) -> Iterator[list[Poly]]:
        """The polynomials m_j of each chunk, as words."""
        at = 0
        for chunk in self.chunks:
            polys = []
            for sent in chunk:
                entries = words[at : at + sent - ZEROS]
                polys.append([0] * ZEROS + entries + [0] * (N - sent))
                at += len(entries)
            yield polys

    def opened(self, polys: Iterator[Sequence[int]]) -> Words:
        """The entries of opened polynomials, given as words."""
        found: Words = []
        for poly in polys:
            most = math.ceil(self.bound / 2**self.low) + 1
            must(
                all(abs(signed(w)) <= most for w in poly[:ZEROS]),
                "sum",
                "the zeros of a polynomial are none",
            )
            found += poly[ZEROS:]
        return found

    # Reals and integers.

    def encode_reals(self, values: Sequence[float]) -> Words:
        factor = self.scale / self.clip
        return [round(x * factor) % 2**64 for x in values]

    def decode_reals(self, words: Words) -> list[float]:
        factor = self.clip / self.scale
        return [float(signed(word)) * factor for word in words]

    @property
    def scale(self) -> float:
        return float(2 ** (self.scale_sixteenths / 16) / 2**self.low)

    def digits(self, bits: int) -> list[int]:
        """Bits of each digit, the lowest first."""
        each = self.exact_bits - (self.clients - 1).bit_length()
        found = []
        while bits > self.exact_bits:
            found.append(each)
            bits -= each
        return [*found, bits]

    def encode_integers(self, values: Sequence[int], bits: int) -> Words:
        words: Words = []
        *low, top = self.digits(bits)
        for digit in low:
            words += [v % 2**digit << 64 - self.exact_bits for v in values]
            values = [v >> digit for v in values]
        return words + [v % 2**top << 64 - top for v in values]

    def decode_integers(self, words: Words, bits: int) -> list[int]:
        *low, top = self.digits(bits)
        count = len(words) // (len(low) + 1)
        total, done = [0] * count, 0
        for at, digit in enumerate((*low, top)):
            kept = self.exact_bits if at < len(low) else top
            row = words[at * count : (at + 1) * count]
            found = [((w + 2 ** (63 - kept)) >> 64 - kept) % 2**kept for w in row]
            total = [t + (f << done) for t, f in zip(total, found, strict=True)]
            done += digit
        return [t % 2**bits for t in total]


# Who takes part.


class Burns:
    """What a party has answered to, by place and stage."""

    def __init__(self) -> None:
        self._taken: dict[tuple[bytes, int], bytes] = {}

    def take(self, header: bytes, party: int, stage: int, request: bytes) -> None:
        asked = sha(request)
        known = self._taken.setdefault((header + u32(party), stage), asked)
        must(known == asked, "state", "another request was answered")


class Holder:
    def __init__(self, terms: Terms, me: int, entropy: Entropy) -> None:
        self.terms, self.me, self.burns = terms, me, Burns()
        self.seed, self.own, self.seal, self.blind = (entropy(32) for _ in range(4))
        self.secrets = terms.secrets(self.seed, "holder", u32(me))
        read = Reader(self.own, terms.label("share", u32(me)))
        a, q = terms.a, terms.q
        self.share = b"".join(
            terms.whole(plus(errors(read, N), times(a, s, q), q, -1)) for s in self.secrets
        )

    @property
    def commitment(self) -> bytes:
        return commitment(self.terms, self.me, self.share, self.blind)

    def _message(self, kind: int, body: bytes, round_number: int = 0) -> bytes:
        return message(kind, self.terms.header(round_number), body)

    def advertise(self) -> bytes:
        return self._message(1, u32(self.me) + public(self.seal) + self.commitment)

    def on_roster(self, message: bytes) -> bytes:
        body = Body(message, 2, self.terms.header())
        roster = body.listed(64)
        body.end()
        must(len(roster) == self.terms.holders, "check", "as many holders as agreed")
        own = public(self.seal) + self.commitment
        must(roster.get(self.me) == own, "check", "the entry of this holder")
        check_keys([entry[:32] for entry in roster.values()])
        self.burns.take(self.terms.header(), self.me, 4, message)
        self.roster = roster
        self.digest = sha(joined(roster))
        order = sorted(roster)
        read = Reader(self.own, self.terms.label("draw", self.digest))
        coefficients = read(32 * (self.terms.threshold - 1))
        shares = dict(zip(order, split(self.seed, coefficients, len(order)), strict=True))
        others = (peer for peer in order if peer != self.me)
        boxes = {peer: self.seal_for(peer, shares[peer], read(16)[:12]) for peer in others}
        return self._message(3, u32(self.me) + self.blind + self.share + joined(boxes))

    def seal_for(self, peer: int, share: bytes, nonce: bytes) -> bytes:
        """A box for another holder of the roster."""
        gcm = AESGCM(self._box_key(self.me, peer))
        return nonce + gcm.encrypt(nonce, share, self._about(self.me, peer))

    def _about(self, sender: int, recipient: int) -> bytes:
        return bytes([1, 3]) + self.terms.header() + u32(sender) + u32(recipient)

    def _box_key(self, sender: int, recipient: int) -> bytes:
        keys = {p: entry[:32] for p, entry in self.roster.items()}
        about = self.digest + u32(sender) + u32(recipient) + keys[sender] + keys[recipient]
        peer = recipient if sender == self.me else sender
        return agree(self.seal, keys[peer], self.terms.label("seal", about))

    def on_openings(self, openings: bytes, boxes: bytes) -> None:
        self.key = PublicKey(self.terms, openings)
        shown = {h: opening[:32] for h, opening in self.key.openings.items()}
        must(
            shown == {h: entry[32:] for h, entry in self.roster.items()},
            "check",
            "the commitments of the roster",
        )
        body = Body(boxes, 4, self.terms.header())
        must(body.number() == self.me, "check", "boxes of another")
        listed = body.listed(60)
        body.end()
        must(listed.keys() == self.roster.keys() - {self.me}, "check", "a box from each")
        shares = {}
        for peer, box in listed.items():
            gcm = AESGCM(self._box_key(peer, self.me))
            try:
                shares[peer] = gcm.decrypt(box[:12], box[12:], self._about(peer, self.me))
            except InvalidTag as error:
                raise Refused("context", "a box does not open") from error
        self.burns.take(self.terms.header(), self.me, 5, openings + boxes)
        self.shares = shares

    def on_request(self, message: bytes, round_number: int) -> list[bytes]:
        terms, header = self.terms, self.terms.header(round_number)
        body = Body(message, 8, header)
        must(
            body.take(32) == terms.context(round_number, self.key.name),
            "context",
            "another context",
        )
        alive = set(body.listed(0))
        summands = body.listed(32)
        sums = [body.take(terms.whole_size) for _ in terms.chunks]
        body.end()
        must(self.me in alive, "check", "this holder is named")
        must(alive <= self.roster.keys(), "check", "no stranger is named")
        must(len(alive) >= terms.threshold, "check", "enough holders are alive")
        allowed(terms, summands)
        must(all(map(any, sums)), "check", "c1 of a sum is not zero")
        self.burns.take(terms.header(), self.me, 1, joined(dict.fromkeys(alive, b"")))
        self.burns.take(header, self.me, 2, message)
        gone = {h: self.shares[h] for h in self.roster.keys() - alive}
        answers = []
        for index, (chunk, data) in enumerate(zip(terms.chunks, sums, strict=True)):
            c1 = terms.of_whole(data)
            noise = terms.noise(self.own, "smudge", sha(b"".join(sums)) + u32(index), len(chunk))
            parts = []
            for sent, secret, flood in zip(chunk, self.secrets, noise, strict=False):
                part = plus(times(c1, secret, terms.q), flood, terms.q)
                parts.append(terms.cut([terms.word(c) for c in part[:sent]]))
            rest = joined({} if index else gone)
            numbers = u32(self.me) + u32(index)
            answers.append(self._message(9, numbers + terms.put_cut(parts) + rest, round_number))
        return answers


def commitment(terms: Terms, holder: int, share: bytes, blind: bytes) -> bytes:
    return sha(b"ckks key" + terms.session + u32(holder) + terms.seed_of_a + share + blind)


def allowed(terms: Terms, summands: Row) -> None:
    must(
        terms.minimum_survivors <= len(summands) <= terms.clients,
        "check",
        "an allowed number of summands",
    )
    must(len(set(summands.values())) == len(summands), "check", "no upload twice")


class PublicKey:
    """The sum of all b_i, of openings that are those committed to."""

    def __init__(self, terms: Terms, message: bytes) -> None:
        size = terms.messages * terms.whole_size
        body = Body(message, 5, terms.header())
        self.openings = body.listed(64 + size)
        body.end()
        must(len(self.openings) == terms.holders, "check", "as many holders as agreed")
        self.b = [[0] * N for _ in range(terms.messages)]
        for holder, opening in self.openings.items():
            share = opening[64:]
            found = commitment(terms, holder, share, opening[32:64])
            must(found == opening[:32], "check", "an opening is not what was committed to")
            for j in range(terms.messages):
                part = share[j * terms.whole_size :][: terms.whole_size]
                self.b[j] = plus(self.b[j], terms.of_whole(part), terms.q)
        self.name = sha(joined(self.openings))


class SharedKey:
    def __init__(self, terms: Terms, seed: bytes) -> None:
        self.seed, self.name = seed, stream(seed, terms.label("name"), 1, 32)
        self.secrets = terms.secrets(seed, "shared")


class Client:
    def __init__(self, terms: Terms, me: int, key: PublicKey | SharedKey, entropy: Entropy) -> None:
        self.terms, self.me, self.key, self.entropy = terms, me, key, entropy
        self.burns = Burns()
        self.names: dict[int, bytes] = {}

    def encrypt(self, words: Words, round_number: int) -> list[bytes]:
        terms, key, q = self.terms, self.key, self.terms.q
        context = terms.context(round_number, key.name)
        vector = b"".join(word.to_bytes(8, "little") for word in words)
        self.burns.take(terms.header(round_number), self.me, 6, context + vector)
        seed = self.entropy(32) if isinstance(key, SharedKey) else b""
        hidden = self.entropy(32)
        frames = []
        for index, polys in enumerate(terms.vector(words)):
            about = u32(round_number) + u32(self.me) + u32(index)
            read = Reader(hidden, terms.label("errors", about))
            if isinstance(key, SharedKey):
                c1, first = terms.uniform(seed, terms.label("second", about)), seed
            else:
                u = ternary(hidden, terms.label("mask", about), N)
                c1 = plus(times(terms.a, u, q), errors(read, N), q)
                first = terms.whole(c1)
            cut = []
            for j, poly in enumerate(polys):
                hides, sign = (
                    (times(c1, key.secrets[j], q), -1)
                    if isinstance(key, SharedKey)
                    else (times(key.b[j], u, q), 1)
                )
                masked = map(terms.word, plus(hides, errors(read, N), q))
                c0 = plus(poly, list(masked), 2**64, sign)
                cut.append(terms.cut(c0[: terms.chunks[index][j]]))
            body = u32(self.me) + u32(index) + context + first + terms.put_cut(cut)
            frames.append(message(6, terms.header(round_number), body))
        self.names[round_number] = seed or sha(b"".join(frames))
        return frames

    def open(self, message: bytes, round_number: int) -> Words:
        """The sum of a SharedSum."""
        terms, key, q = self.terms, self.key, self.terms.q
        if not isinstance(key, SharedKey):
            raise TypeError("only under a shared key")
        body = Body(message, 7, terms.header(round_number))
        must(body.take(32) == terms.context(round_number, key.name), "context", "another context")
        summands = body.listed(32)
        sums = [terms.read_cut(body, chunk) for chunk in terms.chunks]
        body.end()
        allowed(terms, summands)
        must(summands.get(self.me) == self.names.get(round_number), "check", "the own upload")
        self.burns.take(terms.header(round_number), self.me, 3, message)
        digest = sha(u32(round_number) + joined(summands))

        def polys() -> Iterator[Words]:
            for index, chunk in enumerate(sums):
                c1 = [0] * N
                for client, seed in summands.items():
                    about = u32(round_number) + u32(client) + u32(index)
                    c1 = plus(c1, terms.uniform(seed, terms.label("second", about)), q)
                noise: Sequence[Poly | None] = [None] * len(chunk)
                if terms.flooding:
                    noise = terms.noise(key.seed, "flood", digest + u32(index), len(chunk))
                for cut, secret, flood in zip(chunk, key.secrets, noise, strict=False):
                    poly = times(c1, secret, q)
                    if flood is not None:
                        poly = plus(poly, flood, q)
                    opened = [terms.word(c) for c in poly[: len(cut)]]
                    yield plus(terms.uncut(cut), opened, 2**64)

        return terms.opened(polys())


def message(kind: int, header: bytes, body: bytes) -> bytes:
    return checked(bytes([1, kind]) + header + body)


class Commitments:
    """The server that collects commitments, and then openings."""

    def __init__(self, terms: Terms, holders: Sequence[int]) -> None:
        self.terms, self.holders = terms, holders
        self.roster: Row = {}
        self.opened: Row = {}
        self.boxes: dict[int, Row] = {}
        self.closed = False

    def receive(self, data: bytes) -> None:
        body = Body(data, 3 if self.closed else 1, self.terms.header())
        sender = body.number()
        seen = self.opened if self.closed else self.roster
        must(sender in self.holders and sender not in seen, "state", "who may answer now")
        if not self.closed:
            entry = body.take(64)
            body.end()
            check_keys([entry[:32], *(other[:32] for other in self.roster.values())])
            self.roster[sender] = entry
            return
        blind = body.take(32)
        share = body.take(self.terms.messages * self.terms.whole_size)
        boxes = body.listed(60)
        body.end()
        promised = self.roster[sender][32:]
        must(
            commitment(self.terms, sender, share, blind) == promised,
            "check",
            "an opening is not what was committed to",
        )
        must(boxes.keys() == self.roster.keys() - {sender}, "check", "a box for each")
        self.opened[sender], self.boxes[sender] = promised + blind + share, boxes

    def close_roster(self) -> bytes:
        must(len(self.roster) == len(self.holders), "sum", "every holder commits")
        self.closed = True
        return message(2, self.terms.header(), joined(self.roster))

    def close_openings(self) -> tuple[bytes, Row]:
        must(len(self.opened) == len(self.holders), "sum", "every holder opens")
        header = self.terms.header()
        boxes = {
            holder: message(
                4,
                header,
                u32(holder)
                + joined({s: row[holder] for s, row in self.boxes.items() if s != holder}),
            )
            for holder in self.holders
        }
        return message(5, header, joined(self.opened)), boxes


class Server:
    """The server of a round, under either model.

    Args:
      key: of a shared one its name alone.
    """

    def __init__(
        self, terms: Terms, round_number: int, key: PublicKey | bytes, clients: Sequence[int]
    ) -> None:
        self.terms, self.round, self.clients = terms, round_number, clients
        if isinstance(key, PublicKey):
            self.key = key
        name = key.name if isinstance(key, PublicKey) else key
        self.context = terms.context(round_number, name)
        self.names: Row = {}
        self.given: dict[int, Row] = {}
        self.asked = False
        self.c0 = [[[0] * n for n in chunk] for chunk in terms.chunks]
        self.c1 = [[0] * N for _ in terms.chunks]

    def _message(self, kind: int, body: bytes) -> bytes:
        return message(kind, self.terms.header(self.round), body)

    def add(self, frames: Sequence[bytes]) -> None:
        terms, seeds, found = self.terms, set(), []
        must(len(frames) == len(terms.chunks), "check", "a frame for each chunk")
        senders = set()
        for index, (frame, chunk) in enumerate(zip(frames, terms.chunks, strict=True)):
            body = Body(frame, 6, terms.header(self.round))
            senders.add(body.number())
            must(body.number() == index, "decode", "frames in order")
            must(body.take(32) == self.context, "context", "another context")
            c1: Poly = []
            if terms.shared:
                seeds.add(body.take(32))
            else:
                c1 = terms.of_whole(body.take(terms.whole_size))
                must(any(c1), "check", "c1 is not zero")
            found.append((c1, terms.read_cut(body, chunk)))
            body.end()
        must(len(senders) == 1, "check", "one sender")
        must(len(seeds) == terms.shared, "check", "one seed")
        (sender,) = senders
        expected = sender in self.clients and sender not in self.names
        must(expected, "state", "who may send now")
        must(len(self.names) < terms.clients, "state", "the round is full")
        name = seeds.pop() if seeds else sha(b"".join(frames))
        must(name not in self.names.values(), "check", "the upload of another")
        self.names[sender] = name
        for index, (c1, cut) in enumerate(found):
            if c1:
                self.c1[index] = plus(self.c1[index], c1, terms.q)
            self.c0[index] = [terms.add_cut(s, c) for s, c in zip(self.c0[index], cut, strict=True)]

    def shared_sum(self) -> bytes:
        self._enough()
        polys = b"".join(self.terms.put_cut(chunk) for chunk in self.c0)
        return self._message(7, self.context + joined(self.names) + polys)

    def _enough(self) -> None:
        must(len(self.names) >= self.terms.minimum_survivors, "sum", "too few uploads")

    def request(self, alive: Sequence[int]) -> bytes:
        self._enough()
        must(len(alive) >= self.terms.threshold, "sum", "too few holders")
        self.alive, self.asked = set(alive), True
        named = joined(dict.fromkeys(alive, b""))
        c1 = b"".join(map(self.terms.whole, self.c1))
        return self._message(8, self.context + named + joined(self.names) + c1)

    def answer(self, messages: Sequence[bytes]) -> None:
        """Take all answers of one holder."""
        terms, found, given = self.terms, [], {}
        senders = set()
        must(len(messages) == len(terms.chunks), "check", "a part of each chunk")
        for index, (data, chunk) in enumerate(zip(messages, terms.chunks, strict=True)):
            body = Body(data, 9, terms.header(self.round))
            senders.add(body.number())
            must(body.number() == index, "decode", "parts in order")
            found.append(terms.read_cut(body, chunk))
            shares = body.listed(32)
            body.end()
            if not index:
                given = shares
                must(senders <= self.alive - self.given.keys(), "state", "who may answer now")
            wanted = set() if index else self.key.openings.keys() - self.alive
            must(shares.keys() == wanted, "check", "shares of who is gone")
        must(len(senders) == 1, "check", "one sender")
        self.given[senders.pop()] = given
        for total, part in zip(self.c0, found, strict=True):
            total[:] = [terms.add_cut(s, c) for s, c in zip(total, part, strict=True)]

    def sum(self) -> Words:
        terms, q = self.terms, self.terms.q
        must(self.given.keys() == self.alive, "sum", "every holder that was named answers")
        order = sorted(self.key.openings)
        helpers = sorted(self.given)[: terms.threshold]
        for holder in sorted(self.key.openings.keys() - self.alive):
            shares = {order.index(h) + 1: self.given[h][holder] for h in helpers}
            secrets = terms.secrets(combine(shares), "holder", u32(holder))
            opening = self.key.openings[holder][64:]
            for j, secret in enumerate(secrets):
                b = terms.of_whole(opening[j * terms.whole_size :][: terms.whole_size])
                rest = plus(b, times(terms.a, secret, q), q)
                must(all(abs(signed(c, q)) <= 21 for c in rest), "sum", "another key")
            for c1, total in zip(self.c1, self.c0, strict=True):
                for j, cut in enumerate(total):
                    part = [terms.word(c) for c in times(c1, secrets[j], q)[: len(cut)]]
                    total[j] = terms.add_cut(cut, terms.cut(part))
        return terms.opened(terms.uncut(cut) for total in self.c0 for cut in total)
