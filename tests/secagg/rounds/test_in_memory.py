import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.bonawitz import Agreement, Params, Rates
from protocols.errors import TooFewSurvivors
from protocols.primitives.prg import Suite
from protocols.wire import digest
from secagg import (
    Bonawitz,
    FixedPoint,
    InputError,
    NoisyIntegers,
    Plain,
    Stage,
    aggregate,
)
from secagg.rounds.in_memory import run_bonawitz, run_plain
from secagg.stage import UNSIGNED


def agreement(clients: int, words: int, **params: int) -> Agreement:
    return Agreement(
        params=Params(clients=clients, threshold=clients // 2 + 1, words=words, **params),
        session=bytes(16),
        round=1,
        public_digest=digest(b"public"),
    )


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_bonawitz_and_plain_give_the_same_words_exactly(data: st.DataObject) -> None:
    clients = data.draw(st.integers(2, 8))
    words = data.draw(st.integers(1, 40))
    generator = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    inputs = {
        client: generator.integers(0, 2**64, words, dtype=np.uint64) for client in range(clients)
    }
    gone = data.draw(st.dictionaries(st.integers(0, clients - 1), st.sampled_from(UNSIGNED)))
    try:
        masked = run_bonawitz(agreement(clients, words), inputs, gone)
    except TooFewSurvivors:
        left = clients - len(gone)
        assert left < clients // 2 + 1
        return
    plain = run_plain(agreement(clients, words), inputs, gone)
    assert masked.survivors == plain.survivors
    np.testing.assert_array_equal(masked.values, plain.values)


@pytest.mark.parametrize("stage", UNSIGNED)
def test_a_client_that_vanishes_is_in_the_sum_only_if_its_vector_arrived(stage: Stage) -> None:
    result = aggregate([[0.5], [0.25], [0.125]], clip=1.0, dropouts={2: stage})
    expected = (0, 1, 2) if stage is Stage.REVEAL else (0, 1)
    assert result.survivors == expected
    assert result.weight == len(expected)
    assert result.sum == pytest.approx([sum([0.5, 0.25, 0.125][: len(expected)])], abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    values=st.lists(
        st.tuples(st.floats(-1, 1), st.integers(0, 1000)), min_size=2, max_size=6
    ).filter(lambda pairs: sum(weight for _, weight in pairs) > 0),
    bits=st.integers(8, 20),
    protocol=st.sampled_from([Bonawitz(), Plain()]),
)
def test_a_weighted_mean_is_exact_to_one_quantisation_step(
    values: list[tuple[float, int]], bits: int, protocol: Bonawitz | Plain
) -> None:
    updates, weights = zip(*values, strict=True)
    codec = FixedPoint(clip=1.0, bits=bits)
    result = aggregate(
        [[update] for update in updates], weights=weights, codec=codec, protocol=protocol
    )
    total = sum(weights)
    mean = sum(update * weight for update, weight in values) / total
    assert result.weight == total
    assert abs(result.mean[0] - mean) <= codec.step + 1e-12


def test_everything_a_client_names_travels_in_one_masked_vector() -> None:
    result = aggregate(
        [
            {"update": np.full((2, 3), 0.5), "loss": 2.0},
            {"update": np.full((2, 3), -0.25), "loss": 4.0},
        ],
        weights=[1, 3],
        codec={"update": FixedPoint(clip=1.0, bits=16), "loss": FixedPoint(clip=8.0, bits=24)},
    )
    assert result.mean["update"].shape == (2, 3)
    np.testing.assert_allclose(result.mean["update"], -0.0625, atol=1e-4)
    assert result.mean["loss"] == pytest.approx(3.5, abs=1e-5)


@pytest.mark.parametrize(
    ("given", "back"), [("float64",) * 2, ("float32",) * 2, ("bfloat16", "float32")]
)
def test_a_tensor_comes_back_as_a_tensor_of_its_kind_or_wider(given: str, back: str) -> None:
    import torch

    kind = getattr(torch, given)
    result = aggregate([torch.full((2, 2), 0.5, dtype=kind, requires_grad=True)] * 2, clip=1.0)
    assert isinstance(result.mean, torch.Tensor)
    assert result.mean.dtype is getattr(torch, back)
    assert result.mean.shape == (2, 2)
    assert torch.allclose(result.mean.double(), torch.tensor(0.5).double(), atol=1e-2)


@pytest.mark.parametrize("stage", Stage)
@pytest.mark.parametrize("rates", [None, Rates(corrupt_fraction=0.05, dropout=0.2)])
def test_signed_and_sparse_rounds_give_the_same_sum(stage: Stage, rates: Rates | None) -> None:
    gone = {3: stage, 8: stage}
    result = aggregate(
        [[0.5]] * 60, clip=1.0, protocol=Bonawitz(rates=rates, active=True), dropouts=gone
    )
    assert (result.weight == 60) is (stage in (Stage.SIGN, Stage.REVEAL))
    assert result.mean == pytest.approx([0.5], abs=1e-4)


def test_in_a_sparse_graph_a_client_hears_of_its_neighbours_alone() -> None:
    graph = Bonawitz(rates=Rates(corrupt_fraction="0.05", dropout="0.33"))
    sparse = aggregate([[0.5]] * 100, clip=1.0, protocol=graph).costs
    complete = aggregate([[0.5]] * 100, clip=1.0).costs
    assert sparse[Stage.SHARE].bytes_up == 54 + 96 * 28
    assert complete[Stage.SHARE].bytes_up == 54 + 96 * 99


def test_both_suites_give_the_sum() -> None:
    for suite in Suite:
        assert aggregate(
            [[0.5], [0.25]], clip=1.0, protocol=Bonawitz(suite=suite)
        ).sum == pytest.approx([0.75], abs=1e-4)


def test_below_the_threshold_nothing_is_released() -> None:
    with pytest.raises(TooFewSurvivors, match="nothing was released"):
        aggregate([[0.5]] * 4, clip=1.0, dropouts={0: "mask", 1: "share"})


def test_fewer_than_the_minimum_survivors_release_nothing() -> None:
    with pytest.raises(TooFewSurvivors):
        aggregate(
            [[0.5]] * 4, clip=1.0, protocol=Bonawitz(minimum_survivors=4), dropouts={0: "mask"}
        )


def test_a_threshold_that_is_no_majority_is_refused_by_the_clients() -> None:
    with pytest.raises(Exception, match="no majority"):
        aggregate([[0.5]] * 4, clip=1.0, protocol=Bonawitz(threshold=2))


@pytest.mark.parametrize(
    ("updates", "options", "error", "words"),
    [
        ([[0.5]], {}, InputError, "at least 2"),
        ([], {}, InputError, "at least 2"),
        ([[0.5], [0.5, 0.5]], {}, InputError, "client 1.*shape"),
        ([[0.5], [float("nan")]], {}, InputError, "nan at entry 0"),
        ([[0.5], [float("inf")]], {}, InputError, "inf at entry 0"),
        ([{"a": [1.0]}, {"b": [1.0]}], {}, InputError, "same names"),
        ([[0.5], [0.5]], {"weights": [1]}, InputError, "1 weights for 2"),
        ([[0.5], [0.5]], {"weights": [1, -1]}, InputError, "not a count"),
        ([[0.5], [0.5]], {"weights": [1, 0.5]}, InputError, "the number of examples"),
        ([[0.5], [0.5]], {"weights": [0, 0]}, InputError, "are all 0"),
        ([[0.5], [0.5]], {"weights": [2**62, 2**62]}, InputError, "fit"),
        ([[0.5], [0.5]], {"protocol": "bonawitz"}, InputError, "unknown protocol"),
        ([[0.5], [0.5]], {"dropouts": {7: "mask"}}, InputError, "do not exist"),
        ([[0.5], [0.5]], {"dropouts": {0: "sign"}}, InputError, "need an active server"),
        ([[0.5], [0.5]], {"dropouts": {0: "lunch"}}, InputError, "no stage"),
        ([[0.5], [0.5]], {"protocol": Bonawitz(threshold=3)}, InputError, "threshold 3"),
        ([[0.5], [0.5]], {"protocol": Bonawitz(minimum_survivors=1)}, InputError, "no sum"),
        ([[0.5], [0.5]], {"codec": {"x": FixedPoint(clip=1.0)}}, InputError, "codecs for"),
    ],
)
def test_bad_input_is_one_typed_error(
    updates: list[object], options: dict[str, object], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        aggregate(updates, **{"clip": 1.0} | options)  # type: ignore[arg-type]  # bad on purpose


def test_costs_name_the_bytes_of_every_stage() -> None:
    clients, words = 5, 100
    inputs = dict.fromkeys(range(clients), np.zeros(words, np.uint64))
    costs = run_bonawitz(agreement(clients, words), inputs).costs
    head, checksum = 1 + 1 + 16 + 4, 16
    assert costs[Stage.ADVERTISE].bytes_up == head + 4 + 64 + checksum
    assert costs[Stage.SHARE].bytes_down == head + 48 + clients * (4 + 64)
    assert costs[Stage.SHARE].bytes_up == head + 16 + (clients - 1) * (4 + 92) + checksum
    assert costs[Stage.MASK].bytes_up == head + 8 + 8 * (words + 1) + checksum
    assert costs[Stage.REVEAL].bytes_down == head + 1 + 1
    assert costs[Stage.REVEAL].bytes_up == head + 8 + clients * (4 + 32) + checksum
    assert all(cost.client_seconds > 0 and cost.server_seconds > 0 for cost in costs.values())


def test_digest_tells_the_parts_apart() -> None:
    assert digest(b"ab", b"c") != digest(b"a", b"bc") != digest(b"abc")


def test_importing_secagg_loads_no_framework() -> None:
    code = (
        "import importlib, secagg, secagg.cli.main as cli, sys; "
        "[importlib.import_module(f'secagg.cli.{name}') for name in cli.COMMANDS]; "
        "[getattr(secagg, name) for name in secagg.__all__]; "
        "print([m for m in ('torch', 'opacus', 'scipy', 'dp_accounting', 'sklearn', 'matplotlib')"
        " if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_noised_integers_are_summed_exactly_and_no_weight_may_stand_beside_them() -> None:
    shares = [np.array([client, -(2**40), 7]) for client in range(4)]
    result = aggregate(shares, codec=NoisyIntegers(bits=64), dropouts={2: "mask"})
    assert result.sum.tolist() == [4, -3 * 2**40, 21]
    with pytest.raises(InputError, match="would be a release of their own"):
        aggregate(shares, codec=NoisyIntegers(bits=64), weights=[1, 2, 3, 4])


def test_seconds_in_which_a_vector_is_made_are_no_cost_of_the_protocol() -> None:
    ticks = [0.0]

    def slow() -> np.ndarray:
        ticks[0] += 100
        return np.zeros(1, np.uint64)

    inputs = dict.fromkeys(range(3), slow)
    costs = run_bonawitz(agreement(3, 1), inputs, now=lambda: ticks[0]).costs
    assert ticks == [300]
    assert all(cost.client_seconds == cost.server_seconds == 0 for cost in costs.values())
