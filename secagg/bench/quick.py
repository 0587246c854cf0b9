"""``secagg bench quick``: the constructions and a round of every protocol, within two minutes.

All of it is measured many times over, from new keys and new memory each time: samples that
are seconds apart say more about a machine than as many in one second. A machine so
busy that it would not be done in time is measured fewer times over, and the record says so.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np

from dp.noise.sampling import SkellamSampler
from protocols.entropy import system
from protocols.primitives.aead import seal
from protocols.primitives.agree import PrivateKey
from protocols.primitives.prg import SEED_SIZE, Mask, Masks, Suite
from protocols.primitives.shamir import combine, split
from protocols.primitives.sign import SigningKey, verify
from protocols.secrets import Secret
from secagg.bench.costs import PLAIN, PROTOCOLS, Case, measure
from secagg.bench.measure import Interleaved, Work, interleaved, peak_memory
from secagg.bench.records import (
    Measurement,
    Measurements,
    Point,
    beside_exchanges,
    measurement,
    middle,
    of_session,
    pooled,
    start,
)
from secagg.bench.yardsticks import AES, NUMPY, REFERENCES, SHA256, X25519
from secagg.errors import InputError
from secagg.vectors.layout import Layout, Segment
from secagg.vectors.quantize import FixedPoint

SIZES: Final = ((10, 20_000), (30, 10_000))  # clients, entries
PASSES: Final = 24  # a sample each; 11 hold a median as ``compare`` wants it of all costs here
ROUNDS: Final = 7  # turns of a construction in a pass; the quickest of each makes the sample
DEADLINE: Final = 100.0  # seconds, so that it is two minutes with start and end
MASKS, WORDS, ENTRIES, DRAWS = 20, 41_667, 100_000, 100_000
HOLDERS, THRESHOLD = 100, 51


@dataclass(frozen=True, slots=True, kw_only=True)
class Primitive:
    """A construction, and what it is measured beside."""

    name: str
    reference: str
    make: Callable[[], Work]
    bound: bool = False


def _masks(suite: Suite) -> Callable[[], Work]:
    def make() -> Work:
        masks = [
            Mask(seed=Secret(system(SEED_SIZE)), label=b"bench", subtract=number % 2 == 0)
            for number in range(MASKS)
        ]
        words = np.zeros(WORDS, np.uint64)
        return lambda: Masks(masks, suite).apply_to(words)

    return make


def _agreement() -> Work:
    mine, theirs = (PrivateKey(Secret(system(32))) for _ in range(2))
    return lambda: mine.agree(theirs.public, b"bench")


def _box() -> Work:
    key, text = Secret(system(32)), Secret(system(64))
    return lambda: seal(key, text, b"header", system)


def _signature() -> Work:
    key, message = SigningKey(Secret(system(32))), system(64)

    def run() -> None:
        verify(key.public, b"bench", message, key.sign(b"bench", message))

    return run


def _split() -> Work:
    secret = Secret(system(2 * SEED_SIZE))
    return lambda: split(secret, THRESHOLD, HOLDERS, system)


def _rebuild() -> Work:
    secrets = [Secret(system(SEED_SIZE)) for _ in range(HOLDERS)]
    shares = [split(secret, THRESHOLD, THRESHOLD, system) for secret in secrets]
    rows = [[share.expose() for share in row] for row in shares]
    return lambda: combine(range(1, THRESHOLD + 1), rows)


def _layout() -> Layout:
    codec = FixedPoint(clip=1.0, bits=11)
    return Layout(segments=(Segment(name="update", entries=ENTRIES, codec=codec),), clients=1000)


def _update() -> "np.ndarray[tuple[int], np.dtype[np.float32]]":
    words = np.frombuffer(system(4 * ENTRIES), np.uint32)
    return words.astype(np.float32) * np.float32(2.0**-31) - np.float32(1)


def _encode() -> Work:
    layout, update = _layout(), _update()
    return lambda: layout.encode({"update": update})


def _decode() -> Work:
    layout = _layout()
    words = layout.encode({"update": _update()})
    return lambda: layout.decode(words)


def _noise() -> Work:
    sampler = SkellamSampler(1e4)
    return lambda: sampler.sample(DRAWS)


PRIMITIVES: Final = (
    Primitive(
        name=f"{MASKS} masks x {WORDS} words, AES-128",
        reference=AES.name,
        make=_masks(Suite.AES_128_CTR),
        bound=True,
    ),
    Primitive(
        name=f"{MASKS} masks x {WORDS} words, ChaCha20",
        reference=AES.name,
        make=_masks(Suite.CHACHA20),
    ),
    Primitive(name="agreement on a key", reference=X25519.name, make=_agreement, bound=True),
    Primitive(name="signature and check", reference=X25519.name, make=_signature),
    Primitive(name="box of 64 bytes", reference=SHA256.name, make=_box),
    Primitive(name=f"split, {THRESHOLD} of {HOLDERS}", reference=NUMPY.name, make=_split),
    Primitive(name=f"rebuild {HOLDERS} secrets", reference=NUMPY.name, make=_rebuild),
    Primitive(name=f"quantise and pack {ENTRIES} entries", reference=NUMPY.name, make=_encode),
    Primitive(name=f"decode {ENTRIES} entries", reference=NUMPY.name, make=_decode),
    Primitive(name=f"{DRAWS} Skellam draws", reference=AES.name, make=_noise),
)


def steps(passes: int = PASSES) -> int:
    """How often ``quick`` yields at most."""
    return passes * (len(PRIMITIVES) + len(PROTOCOLS) * len(SIZES))


def quick(
    *,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    passes: int = PASSES,
    rounds: int = ROUNDS,
    deadline: float = DEADLINE,
    known: Measurements | None = None,
) -> Iterator[tuple[str, Measurements]]:
    """What is measured now, and what is known so far; the last record is the whole one.

    Args:
      known: a record to go on with, of a run that was stopped; a whole one stays as it is.

    Raises:
      InputError: ``known`` is of other sessions.
      SecaggError: a sum was wrong.
    """
    began = time.perf_counter()
    record = start("quick") if known is None else known
    spent, done = record.seconds, len(record.passes)
    cases = [Case(protocol=p, clients=n, entries=d) for n, d in sizes for p in PROTOCOLS]
    alive: list[dict[str, Work]] = []
    if known is not None and not known.passes:
        yield "done", known
        return
    if done and [point.key for point in record.passes[0].points] != cases:
        raise InputError("the file was begun with other protocols; choose another file")
    for number in range(done, passes):
        gone = time.perf_counter() - began
        if number > done and spent + gone * (1 + 1 / (number - done)) > deadline:
            late = f"a busy machine: measured {number} times over, not {passes}"
            record = replace(record, notes=(*record.notes, late))
            break
        measured, points = list[Measurement](), list[Point]()
        for each in PRIMITIVES:
            works = {"it": each.make(), each.reference: REFERENCES[each.reference].make()}
            alive.append(works)  # so that the next pass finds other memory than this one had
            measured.append(_sampled(each, interleaved(works, rounds=rounds)))
            yield each.name, record
        for case in cases:
            peak = None
            if number == done:  # and so every session has run once before it is timed
                peak = peak_memory(partial(measure, case))
            kept, found = beside_exchanges(case, 1)
            points.append(Point(cost=middle(kept), peak_memory=peak))
            if case.protocol != PLAIN:  # some microseconds: shorter than what times them
                measured += of_session(case, [found])
            yield f"{case.protocol}, {case.clients} clients", record
        one = Measurements(
            kind="quick", machine=record.machine, points=tuple(points), measurements=tuple(measured)
        )
        record = replace(
            record, seconds=spent + time.perf_counter() - began, passes=(*record.passes, one)
        )
        record = pooled(record)
    yield "done", replace(record, passes=())


def _sampled(each: Primitive, found: Interleaved) -> Measurement:
    """One sample: within the milliseconds of a pass speed stands still, what interrupts adds."""
    seconds, unit = min(found.seconds["it"]), min(found.seconds[each.reference])
    return measurement(each.name, each.reference, [seconds], [seconds / unit], bound=each.bound)
