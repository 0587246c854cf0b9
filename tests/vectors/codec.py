"""What a node brings to a sum, from numbers to words: proposals, contributions, rounding's seeds.

docs/protocols/codec.md has the rules. Rounding is random in a sum; here its seeds are said, 32
bytes for each segment that is rounded, so that the words are too.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import numpy as np

from protocols.bonawitz import Params
from secagg.nodes.proposal import Average, Contribution, Failure, Proposal
from secagg.nodes.versions import Versions
from secagg.vectors.compress import Compress
from secagg.vectors.layout import Layout
from secagg.vectors.quantize import FixedPoint

WORDS: Final = ("raised", "replied", "arrays", "metrics", "weight", "update")  # as Failure counts
LONG: Final = (
    70_001  # entries: blocks of 2^15 words, the last of them short, in lanes of odd length
)


def _pattern(entries: int) -> list[float]:
    """Entry i is ((37 i) mod 1001 - 500) / 400."""
    return [((37 * i) % 1001 - 500) / 400 for i in range(entries)]


def _proposal(shapes: Any, average: Average, clients: int, seed: str) -> Proposal:
    entries = sum(int(np.prod(shape)) for _, shape in shapes)
    statistics = sum(int(np.prod(shape)) for name, shape in shapes if name.endswith("running_mean"))
    layout = Layout(segments=average.segments(entries, statistics), clients=clients)
    digest = hashlib.sha256(seed.encode()).digest()
    return Proposal(
        purpose="train",
        session=digest[:16],
        params=Params(
            clients=clients,
            threshold=clients // 2 + 1,
            minimum_survivors=min(clients, 3),
            words=layout.words,
        ),
        model_digest=hashlib.sha256(digest).digest(),
        seed=digest,
        shapes=shapes,
        content=average,
    )


def _cases() -> Iterator[tuple[str, Proposal, dict[str, Any] | str]]:
    """What each shows, its proposal, and what a node brings: a contribution, or a word of WORDS."""
    small = (("bias", (2,)), ("weight", (2, 3)))
    mean = Average(clip=1.0, bits=14, max_weight=100, weighted_by="n", metrics=(("loss", 10.0),))
    update = [0.5, -0.25, 1.0, -1.0, 1.5, -7.0, 1e-9, 0.0]
    own = {"update": update, "weight": 40, "metrics": {"loss": 2.5}}
    first = _proposal(small, mean, 10, "small")
    yield "two entries are cut by the clip", first, own
    yield "the weight is above its bound", first, own | {"weight": 101}
    yield "a weight below 0 is 0", first, own | {"weight": -3}
    yield "a metric is beyond its bound", first, own | {"metrics": {"loss": -11.0, "other": 1.0}}
    yield "a metric is missing", first, own | {"metrics": {}}
    for word in WORDS:
        yield f"work failed: {word}", first, word
    several = Average(
        clip=0.1, bits=8, max_weight=2**40, weighted_by="n", metrics=(("b", 1.0), ("a", 1e-3))
    )
    shapes = (
        ("norm.running_mean", (3,)),
        ("norm.weight", (3,)),
        ("norm.num", ()),
        ("end/var", (0, 4)),
    )
    held = {
        "update": [70000.0, -1.25, 3e-5, 0.05, -0.1, 0.1000001, 0.025],
        "weight": 2**39 + 1,
        "metrics": {"a": 5e-4, "b": -0.125},
    }
    yield (
        "running statistics, and as many lanes as there are",
        _proposal(shapes, several, 7, "statistics"),
        held,
    )
    wide = Average(clip=3.0, bits=32, max_weight=1, weighted_by="n")
    yield (
        "lanes of a whole word",
        _proposal(small, wide, 65_535, "wide"),
        own
        | {
            "weight": 1,
            "metrics": {},
        },
    )
    yield "only metrics are summed", _proposal((), mean, 10, "metrics"), own | {"update": []}
    long = _proposal((("w", (LONG,)),), mean, 10, "long")
    yield (
        "an update of several blocks: entry i is ((37 i) mod 1001 - 500) / 400",
        long,
        {
            "update": None,
            "weight": 100,
            "metrics": {"loss": 0.1},
        },
    )


def _of_versions() -> Iterator[tuple[str, Proposal, dict[str, Any] | str, int]]:
    """The same where clients trained on several versions, and the client's number."""
    mean = Average(clip=1.0, bits=14, max_weight=100, weighted_by="n", metrics=(("loss", 10.0),))
    bare = _proposal((("bias", (2,)), ("weight", (2, 3))), mean, 10, "versions")
    versions = Versions(
        digests=((6, bytes([6]) * 32), (7, bytes([7]) * 32), (8, bare.model_digest)),
        clients=((0, 8), (1, 6), (2, 8), (5, 6), (9, 6)),
        weights=(6, 4, 3),
        minimum_same=2,
    )
    segments = mean.segments(bare.entries, factor=6)
    words = Layout(segments=segments, clients=10).words
    params = replace(bare.params, words=words)  # type: ignore[type-var]  # of bonawitz, here
    mixed = replace(bare, params=params, versions=versions)
    update = [0.5, -0.25, 1.0, -1.0, 1.5, -7.0, 1e-9, 0.0]
    own = {"update": update, "weight": 40, "metrics": {"loss": 2.5}}
    yield "an update of the newest version counts six times its weight", mixed, own, 2
    yield "one of two versions before counts three times", mixed, own, 5
    yield "one of that version whose work failed", mixed, "raised", 9


def _by_array() -> Iterator[tuple[str, Proposal, dict[str, Any] | str]]:
    """A mean of each array by those who trained it."""
    mean = Average(clip=1.0, bits=14, max_weight=100, weighted_by="n", by_array=True)
    shapes = (("bias", (2,)), ("norm.running_mean", (2,)), ("weight", (2, 2)))
    bare = _proposal(shapes, replace(mean, by_array=False), 10, "parts")
    segments = mean.segments(bare.entries, 2, arrays=3)
    words = Layout(segments=segments, clients=10).words
    params = replace(bare.params, words=words)  # type: ignore[type-var]  # of bonawitz, here
    parts = replace(bare, params=params, content=mean)
    own = {"update": [0.5, -0.25, 3.0, -2.0, 1.0, -1.0, 1.5, -7.0], "weight": 40, "metrics": {}}
    yield "all arrays were trained", parts, own
    yield "one was not, and its entries are zeros", parts, own | {"trained": ["bias"]}
    yield "work on arrays failed", parts, "update"


def _compressed() -> Iterator[tuple[str, Proposal, dict[str, Any] | str]]:
    """One entry in so many is sent."""
    third = Compress(one_in=3)
    mean = Average(clip=1.0, bits=14, max_weight=100, weighted_by="n", compress=third)
    shapes = (("bias", (2,)), ("norm.running_mean", (2,)), ("weight", (2, 3)))
    own = {"update": [0.5, -0.25, 3.0, -2.0, 1.0, -1.0, 1.5, -7.0, 0.1, 0.2]}
    own |= {"weight": 40, "metrics": {}}
    told = "one entry in three is sent, of the last block one beyond the end, and all statistics"
    yield told, _proposal(shapes, mean, 10, "thirds 0"), own


def _seeds(number: int, proposal: Proposal) -> list[bytes]:
    rounded = [s for s in proposal.layout.segments if isinstance(s.codec, FixedPoint)]
    return [
        hashlib.sha256(f"secagg codec {number} {place}".encode()).digest()
        for place in range(len(rounded))
    ]


def words_of(
    proposal: Proposal, own: dict[str, Any] | str, seeds: list[bytes], client: int = 0
) -> Any:
    """The words under these seeds."""
    said: Contribution | Failure
    if isinstance(own, str):
        said = list(Failure)[WORDS.index(own)]
    else:
        update = _pattern(proposal.entries) if own["update"] is None else own["update"]
        said = Contribution(
            vector=np.array(update, np.float64),
            weight=own["weight"],
            metrics=own["metrics"],
            trained=own.get("trained"),
        )
    drawn = iter(seeds)

    def encode(layout: Layout, _: Params, values: Any) -> Any:
        return layout.encode(values, entropy=lambda _: next(drawn))

    with patch("secagg.nodes.proposal.encode", encode):
        return proposal.encode(said, client)


def codec() -> dict[str, Any]:
    """The cases with their layouts and words."""
    cases = [_case(number, *case) for number, case in enumerate(_cases())]
    mixed = [
        _case(len(cases) + number, *case) | {"client": case[-1]}
        for number, case in enumerate(_of_versions())
    ]
    before = len(cases) + len(mixed)
    parts = [_case(before + number, *case) for number, case in enumerate(_by_array())]
    before += len(parts)
    sampled = [_case(before + number, *case) for number, case in enumerate(_compressed())]
    return {
        "about": "what nodes bring to a sum: docs/protocols/codec.md",
        "cases": cases,
        "cases of several versions": mixed,
        "cases of parts": parts,
        "compressed cases": sampled,
    }


def _case(
    number: int, shows: str, proposal: Proposal, own: dict[str, Any] | str, client: int = 0
) -> dict[str, Any]:
    seeds, layout = _seeds(number, proposal), proposal.layout
    words = words_of(proposal, own, seeds, client).astype("<u8")
    case = {
        "shows": shows,
        "proposal": proposal.to_bytes().decode(),
        "public": proposal.agreement().public_digest.hex(),
        "segments": [
            {"name": segment.name, "entries": segment.entries, "lanes": lanes}
            for segment, lanes in zip(layout.segments, layout.lanes, strict=True)
        ],
        "own": own,
        "seeds": [seed.hex() for seed in seeds],
    }
    if len(words) < 100:
        case["words"] = [f"{word:016x}" for word in words.tolist()]
    else:
        case["sha256"] = hashlib.sha256(words.tobytes()).hexdigest()
    return case
