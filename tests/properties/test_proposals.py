"""Any proposal has one encoding, and any updates' decoded mean is within the stated bound."""

import json
import math
import string
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from dp.accounting.events import Unit
from dp.noise.mechanisms import DistributedNoise
from protocols.errors import DecodeError
from secagg.nodes.coordinator import SumSettings
from secagg.nodes.proposal import Average, Contribution, Noise, Proposal
from secagg.nodes.versions import Versions
from secagg.vectors.arrays import Shapes, flat, shapes_of, unflat
from secagg.vectors.layout import Layout

KINDS = [np.float16, np.float32, np.float64]
NAMES = st.text(min_size=1, max_size=8).filter(lambda name: name.isprintable())
DIGEST = st.binary(min_size=32, max_size=32)
SHAPE = st.lists(st.integers(0, 4), max_size=3).map(tuple)
SHAPES: st.SearchStrategy[Shapes] = st.dictionaries(NAMES, SHAPE, max_size=4).map(
    lambda shapes: tuple(shapes.items())
)


class Signed(SumSettings):
    """One whose roster is not looked at."""

    @property
    def active(self) -> bool:
        return True


def entries_of(shapes: Shapes) -> int:
    return sum(math.prod(shape) for _, shape in shapes)


@st.composite
def averages(draw: st.DrawFn) -> Average:
    metrics = draw(st.dictionaries(NAMES, st.floats(1e-3, 1e6), max_size=3))
    return Average(
        clip=draw(st.floats(1e-6, 1e6)),
        bits=draw(st.integers(2, 32)),
        max_weight=draw(st.integers(1, 10**9)),
        weighted_by=draw(NAMES),
        metrics=tuple(metrics.items()),
        by_array=draw(st.booleans()),
    )


@st.composite
def noises(draw: st.DrawFn, entries: int, clients: int) -> Noise:
    unit = draw(st.sampled_from(Unit))
    mechanism = DistributedNoise(
        entries=entries,
        clip=draw(st.floats(0.1, 10)),
        noise_multiplier=draw(st.floats(0.5, 4)),
        clients=clients,
        minimum_survivors=draw(st.integers(clients // 2 + 1, clients)),
        bits=draw(st.sampled_from([16, 21])),
        noise=draw(st.sampled_from(["skellam", "discrete_gaussian"])),
        unit=unit,
    )
    rate = draw(st.floats(0.01, 1)) if unit is Unit.EXAMPLE else 1.0
    return Noise(mechanism=mechanism, sampling_rate=rate)


@st.composite
def proposals(draw: st.DrawFn) -> Proposal:
    clients, shapes = draw(st.integers(3, 300)), draw(SHAPES)
    content: Average | Noise = draw(averages())
    if entries_of(shapes) and draw(st.booleans()):
        content = draw(noises(entries_of(shapes), clients))
    return built(draw, content, shapes, clients)


def built(draw: st.DrawFn, content: Average | Noise, shapes: Shapes, clients: int) -> Proposal:
    kind = draw(st.sampled_from(["bonawitz", "signed", "threshold-ckks"]))
    noise = isinstance(content, Noise)
    if noise and (kind == "threshold-ckks" or clients >= 100):  # no books for it, or sparse
        kind = "bonawitz"
    cohort = Signed() if kind == "signed" else SumSettings(protocol=kind)
    versions = draw(several(clients)) if may_mix(kind, content, clients) else None
    if isinstance(content, Noise):
        segments = content.segments()
    else:
        factor = versions.weights[0] if versions else 1
        arrays = len(shapes)
        segments = content.segments(entries_of(shapes), arrays=arrays, factor=factor)
    minimum = content.mechanism.minimum_survivors if noise else None
    return Proposal(
        purpose=draw(st.text(string.ascii_letters + " .", min_size=1)),
        session=draw(st.binary(min_size=16, max_size=16)),
        params=cohort.params(clients, Layout(segments=segments, clients=clients), minimum),
        model_digest=versions.model_digest if versions else draw(DIGEST),
        seed=draw(st.binary(min_size=32, max_size=32)),
        shapes=shapes,
        content=content,
        roster_digest=bytes(32 if kind == "signed" else 0),
        versions=versions,
    )


def may_mix(kind: str, content: Average | Noise, clients: int) -> bool:
    """Whether a proposal of so many may name several versions: the graph is complete."""
    of_examples = isinstance(content, Noise) and content.mechanism.unit is Unit.EXAMPLE
    return kind == "bonawitz" and clients < 50 and not of_examples


@st.composite
def several(draw: st.DrawFn, clients: int) -> Versions | None:
    weights = draw(st.lists(st.integers(1, 99), max_size=5).map(lambda w: (max([1, *w]), *w)))
    newest, same = draw(st.integers(len(weights), 2**40)), draw(st.integers(2, 3))
    listed = [newest - behind for behind in range(len(weights) - 1, -1, -1)]
    named = sorted(draw(st.sets(st.integers(0, 2**20), min_size=same, max_size=clients)))
    fits = max(1, len(named) // same)
    used = draw(st.lists(st.sampled_from(listed), min_size=1, max_size=fits, unique=True))
    return (
        Versions(
            digests=tuple((number, draw(DIGEST)) for number in listed),
            clients=tuple((client, used[place % len(used)]) for place, client in enumerate(named)),
            weights=weights,
            minimum_same=same,
        )
        if draw(st.booleans())
        else None
    )


SOME = settings(max_examples=60, deadline=None)


@given(proposals())
@SOME
def test_a_proposal_decodes_to_itself(proposal: Proposal) -> None:
    said = proposal.to_bytes()
    assert Proposal.from_bytes(said) == proposal
    assert Proposal.from_bytes(said).to_bytes() == said
    assert Proposal.from_bytes(said).agreement() == proposal.agreement()


def refused_or_itself(data: bytes) -> None:
    """Another value in its one encoding is none of our business; its hash differs."""
    try:
        proposal = Proposal.from_bytes(data)
    except DecodeError:
        return
    assert proposal.to_bytes() == data


@given(proposals(), st.data())
@SOME
def test_changed_bytes_are_refused_or_another_proposal(proposal: Proposal, data: Any) -> None:
    said = bytearray(proposal.to_bytes())
    place = data.draw(st.integers(0, len(said) - 1))
    said[place] ^= data.draw(st.integers(1, 255))
    refused_or_itself(bytes(said))
    refused_or_itself(bytes(said[:place]))
    refused_or_itself(bytes(said[:place] + said[place + 1 :]))
    refused_or_itself(bytes(said[:place] + said[place : place + 20] + said[place:]))


ODD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.text(max_size=5)
    | st.just("00" * 16),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@given(proposals(), ODD, st.data())
@SOME
def test_other_values_in_any_field_are_refused_or_another_proposal(
    proposal: Proposal, odd: Any, data: Any
) -> None:
    said = json.loads(proposal.to_bytes())
    parts = [said.get(name, said) for name in ("noise", "average", "versions")]
    inside = data.draw(st.sampled_from([said, *parts]))
    inside[data.draw(st.sampled_from(sorted(inside)))] = odd
    refused_or_itself(json.dumps(said, sort_keys=True, separators=(",", ":")).encode())
    refused_or_itself(json.dumps(said).encode())


@given(proposals(), st.text(max_size=8), ODD)
@SOME
def test_a_key_more_or_in_another_encoding_is_refused(
    proposal: Proposal, name: str, odd: Any
) -> None:
    said = json.loads(proposal.to_bytes())
    compact = {"sort_keys": True, "separators": (",", ":")}
    others = [
        json.dumps(said).encode(),
        json.dumps(said, **compact).encode("utf-32"),
        json.dumps(said, **compact | {"indent": 1}).encode(),
    ]
    if name not in said:
        others.append(json.dumps(said | {name: odd}, **compact).encode())
    for data in others:
        try:
            Proposal.from_bytes(data)
        except DecodeError:
            continue
        raise AssertionError(data)


# Means


@st.composite
def sums(draw: st.DrawFn) -> tuple[Average, Shapes, list[dict[str, NDArray[Any]]], list[int]]:
    average, shapes = draw(averages()), draw(SHAPES)
    numbers = st.floats(-2, 2, width=16).map(float)
    clients = [
        {
            name: draw(arrays.arrays(draw(st.sampled_from(KINDS)), shape, elements=numbers))
            for name, shape in shapes
        }
        for _ in range(draw(st.integers(2, 5)))
    ]
    weights = [draw(st.integers(1, average.max_weight)) for _ in clients]
    return average, shapes, clients, weights


def exactly(values: list[float], weights: list[int]) -> Fraction:
    terms = (Fraction(value) * weight for value, weight in zip(values, weights, strict=True))
    return sum(terms, Fraction(0)) / sum(weights)


@given(sums(), st.data())
@SOME
def test_the_mean_is_within_the_stated_bound(given_sum: Any, data: Any) -> None:
    average, shapes, clients, weights = given_sum
    entries = entries_of(shapes)
    layout = Layout(segments=average.segments(entries, arrays=len(shapes)), clients=6)
    proposal = Proposal(
        purpose="train",
        session=bytes(16),
        params=SumSettings().params(6, layout, None),
        model_digest=bytes(32),
        seed=bytes(32),
        shapes=shapes,
        content=average,
    )
    vectors = [flat(each, shapes) * average.clip for each in clients]
    metrics = [
        {name: data.draw(st.floats(-most, most)) for name, most in average.metrics} for _ in clients
    ]
    total = np.zeros(layout.words, np.uint64)
    for vector, weight, named in zip(vectors, weights, metrics, strict=True):
        total += proposal.encode(Contribution(vector=vector, weight=weight, metrics=named))
    result = proposal.decode(total, tuple(range(len(clients))))

    share = average.max_weight * len(clients) / sum(weights)
    slack = 1 + 2.0**-20  # of the decoding's own products in float64
    clipped = [
        np.clip(vector.astype(np.float64), -average.clip, average.clip) for vector in vectors
    ]
    bound = average.clip / (2 ** (average.bits - 1) - 1) * share * slack
    assert result.weight == sum(weights)
    assert result.clipped == sum(
        int((one != vector).sum()) for one, vector in zip(clipped, vectors, strict=True)
    )
    for entry in range(entries):
        mean = exactly([float(one[entry]) for one in clipped], weights)
        assert abs(Fraction(result.vector[entry]) - mean) <= bound
    for name, most in average.metrics:
        mean = exactly([named[name] for named in metrics], weights)
        assert abs(Fraction(result.metrics[name]) - mean) <= most / (2**31 - 1) * share * slack


@given(st.data(), SHAPES)
@SOME
def test_what_was_added_to_arrays_is_what_flat_finds(data: Any, shapes: Shapes) -> None:
    def drawn(kinds: Any) -> dict[str, NDArray[Any]]:
        numbers = st.integers(-100, 100).map(float)  # exact in every type
        return {
            name: data.draw(arrays.arrays(data.draw(kinds), shape, elements=numbers))
            for name, shape in shapes
        }

    start = drawn(st.sampled_from(KINDS))
    moved = unflat(flat(drawn(st.sampled_from(KINDS)), shapes), start)
    assert shapes_of(moved) == shapes_of(start) == shapes
    again = unflat(flat(moved, shapes, start=start), start)
    for name in start:
        assert moved[name].dtype == start[name].dtype
        assert np.array_equal(again[name], moved[name])
