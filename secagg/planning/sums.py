"""Every parameter of a sum, from clients, dropouts, corruption, value range, entries, rounds.

``plan_sum`` chooses graph, threshold and lanes, counts the bytes of every message
from the message classes themselves, bounds what can go wrong, and estimates the
time on this machine from a calibration of well under a second. Degree and
threshold of a sparse graph are those of ``protocols.bonawitz.graph``; its two
probabilities are summed again here in exact integers, so that a tail of 2**-60
is not what is left over from a rounding.

[BBG+20]: https://eprint.iacr.org/2020/704, section 3.
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from math import comb
from typing import Any, Final

import numpy as np

from dp.noise.mechanisms import DistributedNoise
from protocols.bonawitz import ClientId, Params, Rates
from protocols.bonawitz.graph import GraphPlan, as_fraction, complete
from protocols.bonawitz.graph import plan_graph as plan_graph
from protocols.bonawitz.messages import (
    BOX_SIZE,
    SHARE_SIZE,
    Advertise,
    Mark,
    MaskedFrame,
    PublicKeys,
    Reveal,
    Roster,
    SealedShares,
    ShareBoxes,
    Signatures,
    SignedSet,
    SignedSurvivors,
    Survivors,
    frame_sizes,
)
from protocols.bonawitz.params import DIGEST_SIZE, TAG_SIZE
from protocols.bonawitz.picks import SECURITY
from protocols.entropy import system
from protocols.primitives.aead import seal, unseal
from protocols.primitives.agree import KEY_SIZE, PrivateKey
from protocols.primitives.prg import SEED_SIZE, Mask, Masks, Suite
from protocols.primitives.shamir import combine, majority, split
from protocols.primitives.sign import SIGNATURE_SIZE, SigningKey, verify
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE, Header, Message, write_subset
from secagg.errors import InputError
from secagg.stage import UNSIGNED, Stage
from secagg.vectors.layout import Layout, NoisyIntegers, Segment
from secagg.vectors.packing import lane_bits
from secagg.vectors.quantize import FixedPoint

COMPLETE_BELOW = 100
"""Clients below which everybody shares with everybody.

Nothing is then left to chance, clients count the survivors themselves, and a
client pays for it with at most a hundred masks: 56 ms for 10^6 entries, where the sparse
graph took 14 (measured, one core).
"""

BITS = 16  # of a quantised entry, where nobody says otherwise
PLAIN_BYTES = 4  # an entry of a plain fp32 vector
_SHOWN: Final = (
    *("clients", "corrupt_fraction", "dropout", "active", "entries", "clip", "bits", "rounds"),
    *("graph", "degree", "threshold", "masks", "quorum", "alpha", "left_out", "minimum_survivors"),
    *("lanes", "lane_bits", "words", "step"),
    *("bytes_up_per_client", "bytes_down_per_client", "bits_per_entry", "expansion", "traffic"),
    *("client_milliseconds", "server_milliseconds", "p_insecure", "p_failure"),
    *("p_insecure_any_round", "p_failure_any_round"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class SumWishes:
    """What a sum should be able to do.

    Attributes:
      clients: n, from 2.
      corrupt_fraction: fraction of them that may work with the server, a decimal or fraction.
      dropout: fraction of them that may vanish after the keys are in.
      active: the server may lie about who is alive.
      entries: of each client's vector.
      clip: largest magnitude of an entry; with noise, L2 bound on what one unit adds to a sum.
      bits: of a quantised entry, 2 to 32; with noise, of its total. ``None`` for 16, or with
        noise for the rule of ``secagg.planning.noise``.
      lanes: entries a word, 1 to 8; ``None`` for as few words as are safe.
      rounds: how often the sum is taken, from 1.
      complete_below: as of ``choose_graph``.

    Raises:
      InputError: ``rounds`` is not an int from 1.
    """

    clients: int
    corrupt_fraction: Fraction | float | str = "0.05"
    dropout: Fraction | float | str = "0.1"
    active: bool = False
    entries: int = 10**6
    clip: float = 1.0
    bits: int | None = None
    lanes: int | None = None
    rounds: int = 1
    complete_below: int = COMPLETE_BELOW

    def __post_init__(self) -> None:
        if type(self.rounds) is not int or self.rounds < 1:
            raise InputError(f"rounds {self.rounds!r} is not an int from 1")

    @property
    def rates(self) -> tuple[Fraction, Fraction]:
        """``corrupt_fraction`` and ``dropout``, exact; ``InputError`` if one is no fraction."""
        return as_fraction("corrupt_fraction", self.corrupt_fraction), as_fraction(
            "dropout", self.dropout
        )

    @property
    def graph(self) -> GraphPlan:
        """The graph that ``choose_graph`` chooses."""
        return choose_graph(
            self.clients, *self.rates, active=self.active, complete_below=self.complete_below
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Bytes that one client sends in a stage, and that it is sent before it answers."""

    bytes_up: int
    bytes_down: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Advice:
    """Every parameter of a sum, what it costs, and what can go wrong.

    Attributes:
      clients: n, who advertise keys.
      corrupt_fraction: fraction of them that may work with the server.
      dropout: fraction of them that may vanish after the keys are in.
      active: the server may lie.
      entries: of each client's vector.
      clip: largest magnitude of an entry; with noise, of one unit's L2 norm.
      bits: of a quantised entry; with noise, of its total.
      rounds: how often the sum is taken.
      graph: ``complete`` or ``sparse``.
      degree: neighbours of each client, or holders that each picks; all others, n - 1, in
        the complete graph.
      threshold: shares that rebuild a secret.
      masks: with how many others a client masks, in the mean: with its picks and its pickers.
      quorum: clients that sign the one set of survivors, against a server that lies; else 0.
      alpha: where clients pick their holders: no honest set of so many or fewer opens;
        otherwise None, as the next.
      left_out: most honest survivors of the signed set that are not in the sum; the others,
        less those that are corrupt, are.
      minimum_survivors: fewest clients whose sum may be opened: the threshold, or in a sparse
        graph half of the clients, but no more than the planned dropouts leave. With noise, what
        the noise counts on.
      lanes: entries a word.
      lane_bits: width of each, in bits.
      words: uint64 words of a vector.
      step: what rounding to an integer moves an entry by at most; with noise, after a rotation.
      traffic: exact bytes of one client by stage, where nobody drops out; who does makes
        it less.
      client_milliseconds: estimate for one client's round on one idle core of this machine,
        without quantising and packing; None where it was not measured.
      server_milliseconds: the same for the server, the planned fraction of clients
        lost after they shared their secrets, the dearest moment.
      p_insecure: sparse graph: bound on the probability, in one round, that the
        honest survivors do not stay connected or some client has so many corrupt
        neighbours that they can open its input. Complete graph: 0.
      p_failure: sparse graph: bound on the probability, in one round, that some
        client keeps fewer than ``threshold`` neighbours when just the planned fraction
        is lost. Complete graph: 0.
    """

    clients: int
    corrupt_fraction: Fraction
    dropout: Fraction
    active: bool
    entries: int
    clip: float
    bits: int
    rounds: int
    graph: str
    degree: int
    threshold: int
    masks: int
    quorum: int
    alpha: int | None
    left_out: int | None
    minimum_survivors: int
    lanes: int
    lane_bits: int
    words: int
    step: float
    traffic: dict[Stage, Traffic]
    client_milliseconds: float | None
    server_milliseconds: float | None
    p_insecure: float
    p_failure: float

    @property
    def bytes_up_per_client(self) -> int:
        """Bytes that a client sends in a whole round."""
        return sum(stage.bytes_up for stage in self.traffic.values())

    @property
    def bytes_down_per_client(self) -> int:
        """Bytes that a client is sent in a whole round."""
        return sum(stage.bytes_down for stage in self.traffic.values())

    @property
    def bits_per_entry(self) -> float:
        """Bits that a client sends for an entry, all stages together."""
        return 8 * self.bytes_up_per_client / self.entries

    @property
    def expansion(self) -> float:
        """Bytes sent by a client over those of its vector in plain fp32."""
        return self.bytes_up_per_client / (PLAIN_BYTES * self.entries)

    @property
    def p_insecure_any_round(self) -> float:
        """Bound on P[some round is insecure]; each draws its own graph."""
        return min(1.0, self.rounds * self.p_insecure)

    @property
    def p_failure_any_round(self) -> float:
        """Bound on P[some round fails], which then releases nothing."""
        return min(1.0, self.rounds * self.p_failure)

    def params(self) -> Params:
        """Parameters of ``protocols.bonawitz`` as advised."""
        sparse = self.graph == "sparse"
        return Params(
            clients=self.clients,
            threshold=None if sparse else self.threshold,
            rates=Rates(corrupt_fraction=self.corrupt_fraction, dropout=self.dropout)
            if sparse
            else None,
            minimum_survivors=self.minimum_survivors,
            words=self.words,
            active=self.active,
            max_corrupt=int(self.corrupt_fraction * self.clients)
            if self.active and not sparse
            else None,
        )

    def as_dict(self) -> dict[str, Any]:
        """The advice as JSON: every attribute and property, bytes by stage under ``traffic``."""
        traffic = {stage.value: asdict(cost) for stage, cost in self.traffic.items()}
        rates = {"corrupt_fraction": float(self.corrupt_fraction), "dropout": float(self.dropout)}
        return {name: getattr(self, name) for name in _SHOWN} | rates | {"traffic": traffic}


def plan_sum(
    wishes: SumWishes, *, mechanism: DistributedNoise | None = None, measure: bool = True
) -> Advice:
    """Choose every parameter of a sum.

    >>> advice = plan_sum(SumWishes(clients=1000, dropout="0.33"), measure=False)
    >>> advice.graph, advice.degree, advice.threshold
    ('sparse', 72, 24)

    Args:
      wishes: what the sum should be able to do.
      mechanism: what makes the integers that are summed. Its entries, clip, bits and minimum of
        survivors then count; ``secagg.planning.plan_noise`` chooses it.
      measure: whether to time this machine.

    Raises:
      protocols.InputError: no graph stands so many corrupt and lost clients.
      InputError: the sum of so many clients at so many bits does not fit the lanes.
      InputError: a wish is out of range.
    """
    clients, active = wishes.clients, wishes.active
    corrupt, dropout = wishes.rates
    entries, clip, bits, step, segment = _segment(wishes, mechanism)
    layout = Layout(segments=(segment,), clients=clients)
    if not layout.words:
        raise InputError("entries is 0, must be at least 1")
    chosen = wishes.graph
    survivors = _survivors(clients, dropout)
    client_ms, server_ms = (
        _Speed(clients, chosen).milliseconds(layout.words, survivors, active=active)
        if measure
        else (None, None)
    )
    advice = Advice(
        clients=clients,
        corrupt_fraction=corrupt,
        dropout=dropout,
        active=active,
        entries=entries,
        clip=float(clip),
        bits=bits,
        rounds=wishes.rounds,
        graph="complete" if chosen.degree is None else "sparse",
        degree=_degree(clients, chosen),
        threshold=chosen.threshold,
        masks=masks_of(clients, chosen),
        quorum=chosen.quorum if active else 0,
        alpha=chosen.picks.alpha if chosen.picks else None,
        left_out=chosen.picks.left_out if chosen.picks else None,
        minimum_survivors=mechanism.minimum_survivors
        if mechanism
        else fewest(clients, dropout, chosen),
        lanes=layout.lanes[0],
        lane_bits=lane_bits(layout.lanes[0]),
        words=layout.words,
        step=step,
        traffic=_traffic(clients, chosen, layout.words, active=active),
        client_milliseconds=client_ms,
        server_milliseconds=server_ms,
        p_insecure=_p_insecure(clients, chosen, int(corrupt * clients), clients - survivors),
        p_failure=_p_failure(clients, chosen, clients - survivors),
    )
    advice.params()  # refuses what the protocol would
    return advice


def choose_graph(
    clients: int,
    corrupt: Fraction,
    dropout: Fraction,
    *,
    active: bool,
    complete_below: int = COMPLETE_BELOW,
) -> GraphPlan:
    """Degree, ``None`` for the complete graph, and threshold.

    The complete graph is taken below ``complete_below`` clients while enough of them
    survive for its majority, and where no sparse graph keeps the promise of
    ``protocols.bonawitz.graph``; otherwise the sparse one of the smallest degree.
    """
    chosen = plan_graph(clients, corrupt, dropout, active=active)
    corrupted = int(corrupt * clients)
    everybody = max(majority(clients, corrupted if active else 0), corrupted + 1)
    if clients < complete_below and everybody <= _survivors(clients, dropout):
        return complete(everybody)
    return chosen


def fewest(clients: int, dropout: Fraction, chosen: GraphPlan) -> int:
    """The fewest survivors that a sum without noise should ask for; ``Advice`` says which."""
    if chosen.degree is None:
        return chosen.threshold
    return max(2, chosen.quorum, min(majority(clients), _survivors(clients, dropout)))


def _segment(
    wishes: SumWishes, mechanism: DistributedNoise | None
) -> tuple[int, float, int, float, Segment]:
    """Entries, clip, bits and step of a sum, and the integers that it is made of."""
    if mechanism is not None:
        noised = Segment(
            name="update",
            entries=mechanism.size,
            codec=NoisyIntegers(bits=mechanism.bits),
            lanes=wishes.lanes,
        )
        return mechanism.entries, mechanism.clip, mechanism.bits, mechanism.resolution, noised
    codec = FixedPoint(clip=wishes.clip, bits=BITS if wishes.bits is None else wishes.bits)
    plain = Segment(name="update", entries=wishes.entries, codec=codec, lanes=wishes.lanes)
    return wishes.entries, codec.clip, codec.bits, codec.step, plain


def _survivors(clients: int, dropout: Fraction) -> int:
    return clients - int(dropout * clients)


def _degree(clients: int, chosen: GraphPlan) -> int:
    return clients - 1 if chosen.degree is None else chosen.degree


def masks_of(clients: int, chosen: GraphPlan) -> int:
    """The peers that a client masks with: of its own picks and those who picked it, the mean."""
    degree = _degree(clients, chosen)
    if chosen.picks is None:
        return degree
    return round(2 * degree - degree**2 / (clients - 1))


def _listed(message: Callable[[list[ClientId]], Message], count: int) -> int:
    """Bytes of a message that lists ``count``; entries are alike, so that two messages tell it."""
    empty, one = len(message([]).to_bytes()), len(message([0]).to_bytes())
    return empty + count * (one - empty)


# 60 lines and more: the messages of a round, one after the other.
def _traffic(clients: int, chosen: GraphPlan, words: int, *, active: bool) -> dict[Stage, Traffic]:
    """Bytes of one client, all of whose peers stay; of one picked as often as it picks."""
    degree, header = _degree(clients, chosen), Header(bytes(SESSION_SIZE), 0)
    held = clients if chosen.degree is None else degree  # a share of its own secrets too
    signature = bytes(SIGNATURE_SIZE if active else 0)
    masks, part = masks_of(clients, chosen), chosen.degree is not None and not chosen.picks
    shown = degree if part else clients - 1
    keys = PublicKeys(mask=bytes(KEY_SIZE), seal=bytes(KEY_SIZE), signature=signature)

    def roster(listing: list[ClientId]) -> Roster:
        entries = dict.fromkeys(listing, keys)
        of = (2**32 - 1, bytes(DIGEST_SIZE))
        return Roster(header=header, agreement=bytes(TAG_SIZE), entries=entries, part_of=of)

    def sealed(peers: list[ClientId]) -> SealedShares:
        boxes = dict.fromkeys(peers, bytes(BOX_SIZE))
        return SealedShares(header=header, sender=0, agreement=bytes(TAG_SIZE), boxes=boxes)

    def passed_on(peers: list[ClientId]) -> ShareBoxes:
        boxes = dict.fromkeys(peers, bytes(BOX_SIZE))
        shared = write_subset(range(clients), range(clients)) if chosen.picks else b""
        return ShareBoxes(header=header, recipient=0, boxes=boxes, shared=shared)

    def signatures(peers: list[ClientId]) -> Signatures:
        return Signatures(header=header, signatures=dict.fromkeys(peers, signature))

    def reveal(peers: list[ClientId]) -> Reveal:
        shares = dict.fromkeys(peers, Secret(bytes(SHARE_SIZE)))
        return Reveal(header=header, sender=0, shares=shares)

    frame = MaskedFrame(header=header, sender=0, index=0, words=np.empty(0, np.uint64))
    named = Survivors(
        header=header,
        alive=frozenset(range(shown + 1)),
        members=range(shown + 1),
        unseen=clients - shown - 1 if part else None,
    )
    marked = 0
    if chosen.picks:  # whoever is included stands anywhere in the roster
        evenly = [place * clients // masks for place in range(masks)]
        mark = SignedSet(included=write_subset(evenly, range(clients)), signature=signature)
        named = replace(named, marks=dict.fromkeys(range(masks), mark))
        marked = len(Mark(header=header, sender=0, mark=mark).to_bytes())
    survivors = len(named.to_bytes())
    signed = SignedSurvivors(header=header, sender=0, signature=signature)
    sizes = {
        Stage.ADVERTISE: (len(Advertise(header=header, sender=0, keys=keys).to_bytes()), 0),
        Stage.SHARE: (_listed(sealed, degree), _listed(roster, shown + 1)),
        Stage.MASK: (
            8 * (words + 1) + len(frame_sizes(words + 1)) * len(frame.to_bytes()) + marked,
            _listed(passed_on, degree),
        ),
        Stage.SIGN: (len(signed.to_bytes()), survivors),
        Stage.REVEAL: (
            _listed(reveal, held),
            _listed(signatures, chosen.quorum if chosen.picks else held) if active else survivors,
        ),
    }
    return {
        stage: Traffic(bytes_up=sizes[stage][0], bytes_down=sizes[stage][1])
        for stage in (Stage if active else UNSIGNED)
    }


def _p_insecure(clients: int, chosen: GraphPlan, corrupted: int, lost: int) -> float:
    """[BBG+20]: both union bounds, over the cuts of the circle and over the clients.

    Where clients pick their holders, what ``protocols.bonawitz.picks`` plans for.
    """
    if chosen.degree is None:
        return 0.0
    if chosen.picks:
        return float(2 * 2.0**SECURITY)
    n, k, t = clients, chosen.degree, chosen.threshold
    cuts = n * (n - k - 1) // 2 * comb(corrupted + lost, k) / comb(n, k)
    return min(1.0, cuts + n * _at_least(t, n, corrupted, k))


def _p_failure(clients: int, chosen: GraphPlan, lost: int) -> float:
    """A union bound over the clients: so many neighbours lost that too few are left."""
    if chosen.degree is None:
        return 0.0
    too_many = chosen.degree - chosen.threshold + 1
    return min(1.0, clients * _at_least(too_many, clients, lost, chosen.degree))


def _at_least(minimum: int, population: int, marked: int, drawn: int) -> float:
    """P[``minimum`` or more of the drawn are marked], hypergeometric; rounded once, at the end."""
    rest = population - marked
    first = max(minimum, drawn - rest)
    term = comb(marked, first) * comb(rest, drawn - first)
    total = 0
    for x in range(first, min(marked, drawn) + 1):
        total += term
        term = term * (marked - x) * (drawn - x) // ((x + 1) * (rest - drawn + x + 1))
    return total / comb(population, drawn)


class _Speed:
    """Seconds that the parts of a round take here, each the best of a few tries.

    Shamir's sharing is timed at its own size up to ``MAX_HOLDERS`` holders, beyond it at that
    size and scaled by the number of multiplications.
    """

    MAX_HOLDERS = 512
    WORDS, MASKS = 2**15, 8  # one frame under a few masks: 0.3 ms
    LIST = 64  # entries of a message

    def __init__(self, clients: int, chosen: GraphPlan) -> None:
        self._clients, self._threshold = clients, chosen.threshold
        self._degree = masks_of(clients, chosen)
        self._verified = chosen.threshold
        if chosen.picks:  # everybody's keys, the marks of its peers, and the signatures
            self._verified = clients + chosen.quorum
        self._complete = chosen.degree is None
        seed, about = Secret(bytes(range(SEED_SIZE))), bytes(29)
        header = Header(bytes(SESSION_SIZE), 0)

        key = PrivateKey(seed)
        peer = PrivateKey(Secret(system(KEY_SIZE))).public
        self._agree = _best(lambda: key.agree(peer, about))
        content = Secret(bytes(2 * SHARE_SIZE))
        self._box = _best(lambda: unseal(seed, seal(seed, content, about, system), about))
        signing = SigningKey(seed)
        signature = signing.sign(about, about)
        self._sign = _best(lambda: signing.sign(about, about))
        self._verify = _best(lambda: verify(signing.public, about, about, signature))

        masks = [Mask(seed=seed, label=bytes([index])) for index in range(self.MASKS)]
        words, word = np.zeros(self.WORDS, np.uint64), np.zeros(1, np.uint64)
        self._stream = _best(lambda: Masks(masks, Suite.AES_128_CTR).apply_to(word)) / self.MASKS
        whole = _best(lambda: Masks(masks, Suite.AES_128_CTR).apply_to(words)) / self.MASKS
        self._word = (whole - self._stream) / self.WORDS
        frame = MaskedFrame(header=header, sender=0, index=0, words=words)
        self._send = _best(frame.to_bytes) / self.WORDS
        sent = frame.to_bytes()
        self._receive = (
            _best(lambda: MaskedFrame.from_bytes(sent, expect=header, index=0, count=self.WORDS))
            / self.WORDS
        )

        boxes = dict.fromkeys(range(self.LIST), bytes(BOX_SIZE))
        shares = SealedShares(header=header, sender=0, agreement=bytes(TAG_SIZE), boxes=boxes)
        data = shares.to_bytes()
        self._entry = (
            _best(lambda: SealedShares.from_bytes(data, expect=header).to_bytes()) / self.LIST
        )

        holders = clients if self._complete else _degree(clients, chosen)
        timed = min(holders, self.MAX_HOLDERS)
        threshold = max(1, self._threshold * timed // holders)
        scale = self._threshold * holders / (threshold * timed)
        self._split = _best(lambda: split(content, threshold, timed, system), tries=2) * scale
        numbers, row = range(1, threshold + 1), [bytes(SHARE_SIZE)] * threshold
        one = _best(lambda: combine(numbers, [row]))
        several = _best(lambda: combine(numbers, [row] * 9))
        each = max(several - one, 0.0) / 8
        larger = self._threshold / threshold
        self._rebuild = each * larger
        self._weights = max(one - each, 0.0) * larger**2

    def milliseconds(self, words: int, survivors: int, *, active: bool) -> tuple[float, float]:
        """The milliseconds of one client, and of the server."""
        server = self._server(words, survivors, active=active)
        return 1e3 * self._client(words, active=active), 1e3 * server

    def _client(self, words: int, *, active: bool) -> float:
        """The work of one client: three agreements, a box each way and a mask for each peer."""
        peers = self._degree
        signing = 2 * self._sign + (peers + self._verified) * self._verify
        return (
            (3 * peers + 2) * self._agree
            + peers * (self._box + 2 * self._entry)
            + self._split
            + self._masks(peers + 1, words)
            + (words + 1) * self._send
            + (signing if active else 0.0)
        )

    def _server(self, words: int, left: int, *, active: bool) -> float:
        """Work of the server: lists in and out, vectors in, and masks still in the sum."""
        n, lost = self._clients, self._clients - left
        pairs = lost * self._degree * left // n
        sets = 1 if self._complete else n  # of share holders, with Lagrange weights for each
        return (
            n * (2 * self._agree + (self._verify if active else 0.0))
            + (4 if active else 3) * n * self._degree * self._entry  # rosters, boxes, shares
            + left * (words + 1) * 2 * self._receive  # looked through, then added
            + sets * self._weights
            + n * self._rebuild
            + (lost + pairs) * self._agree
            + self._masks(left + pairs, words)
        )

    def _masks(self, count: int, words: int) -> float:
        return count * (self._stream + (words + 1) * self._word)


def _best(call: Callable[[], object], tries: int = 5) -> float:
    """Seconds of the fastest of a few calls."""
    times = []
    for _ in range(tries):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return min(times)
