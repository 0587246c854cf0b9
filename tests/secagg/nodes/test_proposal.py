"""One encoding of a proposal, and what becomes of the numbers that a client brings."""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from between import ENTRIES, MAX_WEIGHT, MODEL, SHAPES, noise_of

from dp.accounting.events import Unit
from dp.noise.mechanisms import DistributedNoise
from protocols import bonawitz, ckks
from protocols.errors import DecodeError
from secagg.errors import InputError, RefusedError
from secagg.nodes.coordinator import SumSettings
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import (
    MAX_DIMENSIONS,
    MAX_SIZE,
    Average,
    Contribution,
    Failure,
    Noise,
    Proposal,
)
from secagg.vectors.arrays import flat, shapes_of, unflat
from secagg.vectors.layout import Layout

AVERAGE = Average(
    clip=1.0,
    bits=18,
    max_weight=MAX_WEIGHT,
    weighted_by="num-examples",
    metrics=(("loss", 10.0), ("accuracy", 1.0)),
)
PRIVATE = 0.1234567
OWN = Contribution(
    vector=np.full(ENTRIES, PRIVATE), weight=37, metrics={"loss": PRIVATE, "accuracy": 0.5}
)


def proposal_of(
    content: Average | Noise, protocol: str = "bonawitz", *, statistics: int = 0, **more: Any
) -> Proposal:
    minimum = content.mechanism.minimum_survivors if isinstance(content, Noise) else None
    noisy = isinstance(content, Noise)
    segments = content.segments() if noisy else content.segments(ENTRIES, statistics)
    params = SumSettings(protocol=protocol).params(6, Layout(segments=segments, clients=6), minimum)
    given: dict[str, Any] = {
        "purpose": "train",
        "session": bytes(16),
        "params": params,
        "model_digest": MODEL,
        "seed": bytes(32),
        "shapes": SHAPES,
        "content": content,
    }
    return Proposal(**given | more)


PLAIN, NOISED = proposal_of(AVERAGE), proposal_of(Noise(mechanism=noise_of(6)))


# The encoding


def changed(**change: Any) -> bytes:
    return json.dumps(
        json.loads(PLAIN.to_bytes()) | change, sort_keys=True, separators=(",", ":")
    ).encode()


def average(**change: Any) -> bytes:
    return changed(average=json.loads(PLAIN.to_bytes())["average"] | change)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b"1",
        b"\xff",
        b'"' + b"a" * 100,
        b"[" * 10**5,
        b'{"version":' * 10**5,
        b" " + PLAIN.to_bytes(),
        PLAIN.to_bytes() + b"\n",
        PLAIN.to_bytes().decode().encode("utf-16"),
        PLAIN.to_bytes().replace(b'"version":2', b'"version":2,"version":2'),
        PLAIN.to_bytes().replace(b":18", b":18.0"),
        PLAIN.to_bytes().replace(b":18", b":" + b"9" * 5000),
        PLAIN.to_bytes().replace(b"10.0", b"NaN"),
        PLAIN.to_bytes().replace(b"10.0", b"1e999"),
        PLAIN.to_bytes().replace(b"10.0", b"-Infinity"),
        bytes(MAX_SIZE + 1),
        changed(extra=1),
        changed(version=1),
        changed(version=True),
        changed(purpose=""),
        changed(purpose="a\nb"),
        changed(purpose=3),
        changed(protocol="threshold-ckks"),
        changed(protocol="ckks"),
        changed(session="00"),
        changed(session=bytes(16).hex() + " "),
        changed(model_digest=MODEL.hex().upper()),
        changed(seed=""),
        changed(params=""),
        changed(params=PLAIN.params.to_bytes().hex() + "00"),
        changed(roster_digest=bytes(32).hex()),
        changed(shapes=[]),
        changed(shapes={}),
        changed(shapes=[["a", [2]], ["a", [3]]]),
        changed(shapes=[["a", [5.0]]]),
        changed(shapes=[["a", [True, 5]]]),
        changed(shapes=[["a", [-5]]]),
        changed(shapes=[["a", [2**35]]]),
        changed(shapes=[["a", [2**34, 2**34]]]),
        changed(shapes=[["a", [1] * MAX_DIMENSIONS + [5]]]),
        changed(shapes=[["a", "5"]]),
        changed(shapes=[[5, [5]]]),
        changed(noise={}),
        changed(noise=[]),
        changed(average=[]),
        changed(average=None),
        average(clip=0.0),
        average(clip="1"),
        average(bits=33),
        average(bits=0),
        average(max_weight=0),
        average(max_weight=2**62),
        average(max_weight=1.5),
        average(weighted_by=["num-examples"]),
        average(weighted_by=None),
        average(metrics=[["loss", 10.0], ["loss", 1.0]]),
        average(metrics=[["loss"]]),
        average(metrics=[["\ud800", 1.0]]),
        average(metrics={"loss": 10.0}),
        average(other=1),
    ],
)
def test_what_is_not_the_one_encoding_of_a_proposal_is_not_decoded(data: bytes) -> None:
    with pytest.raises(DecodeError):
        Proposal.from_bytes(data)


def test_the_hash_of_a_proposal_is_what_parties_agree_upon() -> None:
    one, other = PLAIN.agreement(), replace(PLAIN, seed=bytes(31) + b"\1").agreement()
    assert (one.session, one.params) == (other.session, other.params)
    assert one.public_digest != other.public_digest
    assert isinstance(one, bonawitz.Agreement)
    assert isinstance(proposal_of(AVERAGE, "threshold-ckks").agreement(), ckks.Agreement)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"purpose": ""}, "purpose"),
        ({"purpose": "träin"}, "purpose"),
        ({"model_digest": b""}, "32 bytes"),
        ({"shapes": (("a", (5,)), ("a", (1,)))}, "named twice"),
        ({"shapes": (("a", (50,)),)}, "numbers, must be .* as in the layout"),
        ({"roster_digest": bytes(32)}, "roster"),
        ({"content": Noise(mechanism=noise_of(7))}, "the noise is for another"),
    ],
)
def test_parts_that_contradict_each_other_are_no_proposal(
    change: dict[str, Any], told: str
) -> None:
    with pytest.raises(InputError, match=told):
        replace(PLAIN, **change)


def test_noise_that_counts_on_whom_a_lying_server_may_leave_out_is_no_proposal() -> None:
    rates = bonawitz.Rates(corrupt_fraction="0.05", dropout="0.1")
    mechanism = noise_of(300, minimum_survivors=200, uncounted_shares=30)

    def proposed(mechanism: DistributedNoise) -> Proposal:
        content = Noise(mechanism=mechanism)
        params = bonawitz.Params(
            clients=300,
            rates=rates,
            minimum_survivors=200,
            words=Layout(segments=content.segments(), clients=300).words,
            active=True,
        )
        assert (params.corrupted, params.left_out) == (15, 15)
        return replace(NOISED, params=params, content=content, roster_digest=bytes(32))

    policy = NodePolicy(graphs=("sparse",), corrupt_fraction="0.05", operator=bytes(32))
    policy.check(proposed(mechanism))
    with pytest.raises(InputError, match=r"leaves out up to 15 survivors .* 30 needed"):
        proposed(replace(mechanism, uncounted_shares=29))
    with pytest.raises(RefusedError, match="the sum stands 15 of 300, not 30"):
        replace(policy, corrupt_fraction="0.1").check(proposed(mechanism))


def test_a_sampling_rate_is_of_examples_alone() -> None:
    with pytest.raises(InputError, match="sampling_rate must be 1"):
        Noise(mechanism=noise_of(6), sampling_rate=0.5)
    for rate in (0.0, -1.0, 1.5, float("nan")):
        with pytest.raises(InputError, match="outside"):
            Noise(mechanism=noise_of(6, unit=Unit.EXAMPLE), sampling_rate=rate)


def test_a_contribution_is_not_printed() -> None:
    assert "0.12" not in repr(OWN)
    assert "37" not in repr(OWN)


# What a client brings


def own(**change: Any) -> Contribution:
    return replace(OWN, **change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"vector": np.full(ENTRIES - 1, PRIVATE)}, "an update of shape"),
        ({"vector": np.full((ENTRIES, 1), PRIVATE)}, "an update of shape"),
        ({"vector": np.array([PRIVATE] * 4 + [np.nan])}, "'update' is nan at entry 4"),
        ({"vector": np.array([np.inf] + [PRIVATE] * 4)}, "'update' is inf at entry 0"),
        ({"weight": PRIVATE}, "weight must be an integer"),
    ],
)
@pytest.mark.parametrize("protocol", ["bonawitz", "threshold-ckks"])
def test_what_cannot_be_averaged_is_refused_and_the_refusal_tells_no_number(
    change: dict[str, Any], told: str, protocol: str
) -> None:
    with pytest.raises(InputError, match=told) as refusal:
        proposal_of(AVERAGE, protocol).encode(own(**change))
    assert "1234567" not in str(refusal.value)
    assert str(OWN.weight) not in str(refusal.value)


def test_noise_under_ckks_is_refused_as_no_book_of_a_node_counts_what_its_openings_add() -> None:
    mean = proposal_of(AVERAGE, "threshold-ckks")
    with pytest.raises(InputError, match="sums with noise between machines go under bonawitz"):
        replace(NOISED, params=mean.params)


@pytest.mark.parametrize(
    ("change", "weight", "metrics", "clamped"),
    [
        ({"weight": 0}, 0, {}, 0),
        ({"weight": -1234567}, 0, {}, 1),
        ({"weight": 1234567}, MAX_WEIGHT, {}, 1),
        ({"metrics": {"loss": PRIVATE}}, 37, {"accuracy": 0.0}, 1),
        ({"metrics": OWN.metrics | {"loss": 10 + PRIVATE}}, 37, {"loss": 10.0}, 1),
        ({"metrics": OWN.metrics | {"loss": np.nan}}, 37, {"loss": 0.0}, 1),
        ({"metrics": OWN.metrics | {"loss": -np.inf}}, 37, {"loss": -10.0}, 1),
        ({"weight": 1234567, "metrics": {}}, MAX_WEIGHT, {"loss": 0.0, "accuracy": 0.0}, 3),
    ],
)
@pytest.mark.parametrize("protocol", ["bonawitz", "threshold-ckks"])
def test_numbers_beyond_their_bounds_are_cut_to_them_and_counted(
    change: dict[str, Any], weight: int, metrics: dict[str, float], clamped: int, protocol: str
) -> None:
    proposal, other = proposal_of(AVERAGE, protocol), own(weight=MAX_WEIGHT)
    result = proposal.decode(proposal.encode(own(**change)) + proposal.encode(other), (0, 1))
    assert (result.weight, result.clamped, result.failed) == (MAX_WEIGHT + weight, clamped, 0)
    for name, of_other in OWN.metrics.items():
        value = metrics.get(name, of_other)
        mean = (weight * value + MAX_WEIGHT * of_other) / (MAX_WEIGHT + weight)
        assert result.metrics[name] == pytest.approx(mean, abs=1e-4)


@pytest.mark.parametrize("protocol", ["bonawitz", "threshold-ckks"])
def test_work_that_failed_is_zeros_without_weight_and_is_counted(protocol: str) -> None:
    proposal = proposal_of(AVERAGE, protocol)
    result = proposal.decode(proposal.encode(Failure.RAISED) + proposal.encode(OWN), (0, 1))
    assert (result.weight, result.clamped, result.failed) == (OWN.weight, 0, 1)
    assert result.reasons == {"the app raised an error": 1}
    assert np.abs(result.vector - PRIVATE).max() < 1e-3
    both = proposal.encode(Failure.RAISED) + proposal.encode(Failure.ARRAYS)
    with pytest.raises(InputError, match=r"the work of 2 of 2 failed.*; 1: .*; 1: the reply's"):
        proposal.decode(both, (0, 1))


def test_what_was_cut_or_missing_is_said_by_name() -> None:
    change = {"weight": 1234567, "metrics": {"accuracy": 7.0}}
    result = PLAIN.decode(PLAIN.encode(own(**change)) + PLAIN.encode(OWN), (0, 1))
    assert result.reasons == {
        f"weight 'num-examples' outside 0 to {MAX_WEIGHT}": 1,
        "metric 'accuracy' beyond 1": 1,
        "metric 'loss' missing or no number": 1,
    }


def test_running_statistics_have_a_range_of_their_own() -> None:
    shapes = (("bn.running_mean", (2,)), ("w", (ENTRIES - 3,)), ("bn.running_var", (1,)))
    proposal = proposal_of(AVERAGE, statistics=3, shapes=shapes)
    rest = [0.0] * (ENTRIES - 5)
    one = own(vector=np.array([-4000.0, 3.0, 0.25, 5.0, *rest, 90.0]), weight=MAX_WEIGHT)
    other = own(vector=np.array([2000.0, -7.0, -0.5, 0.5, *rest, 1e9]), weight=MAX_WEIGHT)
    result = proposal.decode(proposal.encode(one) + proposal.encode(other), (0, 1))
    expected = [-1000.0, -2.0, -0.125, 0.75, *rest, 2**15 + 45.0]
    assert result.vector == pytest.approx(expected, abs=2 * 2.0**-17)
    assert result.vector[[0, 1, -1]] == pytest.approx(np.take(expected, [0, 1, -1]), abs=1e-8)
    assert result.clipped == 2


def test_under_noise_work_that_failed_is_the_share_of_noise_alone() -> None:
    mechanism = noise_of(6, bits=32, scale=1000.0)
    proposal = proposal_of(Noise(mechanism=mechanism))
    share = proposal.decode(proposal.encode(Failure.RAISED), (0,)).vector
    assert 0 < np.abs(share).max() < 10 * mechanism.stddev(1)


def test_under_noise_what_is_not_finite_is_sent_as_zeros_and_the_share() -> None:
    words = NOISED.encode(own(vector=np.full(ENTRIES, np.nan)))
    assert words.shape == NOISED.encode(OWN).shape


def test_metrics_that_the_server_did_not_name_stay_where_they_are() -> None:
    words = PLAIN.encode(own(metrics=OWN.metrics | {"secret": 5.0}))
    assert PLAIN.decode(words, (0,)).metrics.keys() == {"loss", "accuracy"}


def test_under_noise_there_is_no_weight_no_metric_and_no_count() -> None:
    assert [segment.name for segment in NOISED.layout.segments] == ["update"]
    result = NOISED.decode(NOISED.encode(OWN) + NOISED.encode(OWN), (0, 3))
    assert (result.weight, result.metrics, result.clipped) == (2, {}, 0)


def test_a_sum_without_weight_or_of_another_length_is_no_sum() -> None:
    with pytest.raises(InputError, match="weights are all 0"):
        PLAIN.decode(np.zeros(PLAIN.layout.words, np.uint64), (0,))
    with pytest.raises(InputError, match="cannot decode"):
        PLAIN.decode(np.zeros(PLAIN.layout.words + 1, np.uint64), (0,))
    with pytest.raises(InputError, match="cannot decode"):
        PLAIN.decode(np.zeros(3, np.float64), (0,))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_the_widest_update_is_within_the_bound_whatever_its_type(kind: type[np.floating]) -> None:
    """In a lane of 32 bits a step is smaller than what float32 tells apart."""
    fine = replace(AVERAGE, bits=32, clip=0.1)
    proposal = proposal_of(fine)
    vector = np.array([0.03, -0.07, 0.09, 0.0999, -0.0123], kind)
    words = proposal.encode(own(vector=vector, weight=MAX_WEIGHT - 1))
    found = proposal.decode(words, (0,)).vector
    bound = fine.clip / (2**31 - 1) * MAX_WEIGHT / (MAX_WEIGHT - 1)
    assert np.abs(found - np.clip(vector.astype(np.float64), -0.1, 0.1)).max() <= bound


# Arrays


ARRAYS = {
    "weight": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32),
    "scalar": np.array(5.0),
    "none": np.empty((0, 3), np.float16),
}


def test_arrays_are_one_vector_and_back() -> None:
    shapes = shapes_of(ARRAYS)
    assert shapes == (("weight", (2, 2)), ("scalar", ()), ("none", (0, 3)))
    assert flat(ARRAYS, shapes).tolist() == [1, 2, 3, 4, 5]
    moved = {name: array + 1 for name, array in ARRAYS.items()}
    assert flat(moved, shapes, start=ARRAYS).tolist() == [1] * 5
    back = unflat(flat(moved, shapes, start=ARRAYS), ARRAYS)
    for name, array in ARRAYS.items():
        assert isinstance(back[name], np.ndarray)
        assert (back[name].dtype, back[name].shape) == (array.dtype, array.shape)
        assert np.array_equal(back[name], array + 1)
        assert not np.shares_memory(back[name], array)


def test_arrays_in_another_order_are_the_same_vector() -> None:
    shapes = shapes_of(ARRAYS)
    turned = dict(reversed(list(ARRAYS.items())))
    assert flat(turned, shapes).tolist() == flat(ARRAYS, shapes).tolist()


@pytest.mark.parametrize("kind", [np.int64, np.bool_, np.complex128, np.uint8])
def test_only_floats_are_averaged(kind: type[np.generic]) -> None:
    with pytest.raises(InputError, match="only floats are averaged"):
        shapes_of({"counter": np.ones(2, kind)})


def test_a_counter_of_batches_stays_as_the_start_has_it() -> None:
    start = {"bn.num_batches_tracked": np.array(7), **ARRAYS}
    after = {name: array + 1 for name, array in start.items()}
    shapes = shapes_of(start)
    assert shapes == shapes_of(ARRAYS)
    vector = flat(after, shapes, start=start)
    assert vector.tolist() == [1] * 5
    assert flat({name: after[name] for name in ARRAYS}, shapes, start=start).tolist() == [1] * 5
    moved = unflat(vector, start)
    assert moved["bn.num_batches_tracked"] == 7
    assert moved["bn.num_batches_tracked"].dtype == np.int64
    assert np.array_equal(moved["weight"], ARRAYS["weight"] + 1)


def test_a_counter_of_which_a_strategy_made_a_float_is_no_update() -> None:
    start = {"bn.num_batches_tracked": np.array(7.0), **ARRAYS}
    after = {**ARRAYS, "bn.num_batches_tracked": np.array(9)}
    vector = flat(after, shapes_of(start), start=start)
    assert vector.tolist() == [0] * 5
    assert unflat(vector, start)["bn.num_batches_tracked"] == 7


def test_a_running_variance_is_not_rounded_below_zero_and_other_arrays_are() -> None:
    start = {"bn.running_var": np.array([1e-6, 0.5, 0.0]), "w": np.array([1e-6])}
    moved = unflat(np.array([-2e-6, -0.25, 0.0, -2e-6]), start)
    assert moved["bn.running_var"].tolist() == [0.0, 0.25, 0.0]
    assert moved["w"] < 0


@pytest.mark.parametrize(
    "change",
    [{"weight": np.ones(4)}, {"more": np.ones(1)}, {"scalar": np.ones(1)}],
    ids=["shape", "name", "no scalar"],
)
def test_other_arrays_than_were_sent_are_refused(change: dict[str, Any]) -> None:
    shapes = shapes_of(ARRAYS)
    for arrays, start in ((ARRAYS | change, None), (ARRAYS, ARRAYS | change)):
        with pytest.raises(InputError, match="are not those, or not of the shapes"):
            flat(arrays, shapes, start=start)
    with pytest.raises(InputError, match="are not those"):
        flat({}, shapes)
