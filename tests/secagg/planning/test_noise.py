import json
import math
from contextlib import suppress
from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import dp
from dp.accounting.accountant import epsilon_rdp
from dp.accounting.calibrate import calibrate_noise
from dp.accounting.events import CohortSecrecy, HiddenPoissonSampling, NoSampling, Unit
from dp.errors import PrivacyError
from dp.noise.lanes import WRAP_FAILURE
from dp.noise.mechanisms import DistributedNoise
from dp.noise.skellam import MAX_VARIANCE
from protocols.bonawitz import Agreement
from secagg.errors import InputError
from secagg.planning import NoiseAdvice, NoiseWishes, SumWishes, plan_noise
from secagg.planning.noise import MORE_NOISE, WIDTHS
from secagg.planning.survivors import LOST_RUNS, likely_survivors, p_round_lost
from secagg.training.data import federate
from secagg.training.settings import TrainingConfig

CLIENTS = {"clients": 60, "epsilon": 4.0, "delta": 1e-4, "unit": "client", "rounds": 20}
EXAMPLES = {"clients": 20, "epsilon": 2.0, "delta": 1e-4, "examples": 1437, "rounds": 40}


def advise(**changed: Any) -> NoiseAdvice:
    names = {each.name for each in fields(NoiseWishes)} & changed.keys()
    noise = NoiseWishes(**{name: changed.pop(name) for name in names})
    return plan_noise(SumWishes(**{"entries": 650, **changed}), noise, measure=False)


@pytest.mark.parametrize("wanted", [CLIENTS, EXAMPLES, EXAMPLES | {"sampling_rate": 0.1}])
def test_the_whole_plan_is_inside_the_budget_and_hardly_below(wanted: dict[str, Any]) -> None:
    advice = advise(**wanted)
    event = advice.mechanism.event(sampling=advice.sampling, steps=wanted["rounds"])
    assert advice.epsilon_planned == epsilon_rdp([(event, 1)], advice.delta.accountant)
    assert 0.999 * wanted["epsilon"] < advice.epsilon_planned <= wanted["epsilon"]
    assert advice.epsilon_expected < advice.epsilon_planned
    assert 0.999 * wanted["delta"] < advice.delta.total <= wanted["delta"]


def test_a_plan_is_what_the_same_training_does() -> None:
    from secagg.training.loop import _new_model
    from secagg.training.modes import mode

    config = TrainingConfig()
    federation = federate(config.data, clients=20, partition="iid", seed=0)
    trained = mode(config, federation, _new_model(federation, 0))
    advice = advise(**EXAMPLES, clip=config.clip, bits=config.bits)
    assert advice.mechanism.minimum_survivors == config.minimum_survivors
    assert advice.mechanism.batch == max(map(len, federation.clients))
    assert advice.mechanism.noise_multiplier == pytest.approx(trained.noise_multiplier, rel=1e-5)
    assert advice.mechanism.scale == pytest.approx(trained.mechanism.scale, rel=1e-5)
    assert advice.sum.words == trained.layout.words


@pytest.mark.parametrize("entries", [100, 10**4, 10**6])
@pytest.mark.parametrize("wanted", [CLIENTS, EXAMPLES])
def test_lanes_are_the_narrowest_that_cost_little(wanted: dict[str, Any], entries: int) -> None:
    advice = advise(**wanted | {"entries": entries})
    assert advice.mechanism.bits in WIDTHS
    assert 0 <= advice.more_noise <= MORE_NOISE
    for width in WIDTHS[: WIDTHS.index(advice.mechanism.bits)]:
        with suppress(InputError, dp.InputError):  # too narrow for any noise
            narrower = advise(**wanted | {"entries": entries, "bits": width})
            assert narrower.more_noise > MORE_NOISE
    assert advice.sum.lane_bits >= advice.mechanism.bits


@settings(deadline=None, max_examples=15)
@given(
    clients=st.integers(5, 95),
    entries=st.integers(1, 10**5),
    rounds=st.integers(1, 200),
    epsilon=st.floats(0.3, 20),
    client=st.booleans(),
    dropout=st.sampled_from(["0", "0.05", "0.1", "0.3"]),
)
def test_every_advice_can_be_built_and_keeps_its_promises(
    clients: int, entries: int, rounds: int, epsilon: float, client: bool, dropout: str
) -> None:
    wanted: dict[str, Any] = {"clients": clients, "entries": entries, "rounds": rounds}
    wanted |= {"epsilon": epsilon, "dropout": dropout, "delta": 1e-5}
    wanted |= {"unit": "client"} if client else {"examples": 50 * clients}
    advice = advise(**wanted)
    mechanism = advice.mechanism
    assert advice.epsilon_planned <= epsilon
    assert mechanism.wrap_probability <= WRAP_FAILURE
    assert advice.sum.threshold <= mechanism.minimum_survivors <= clients
    assert mechanism.uncounted_shares >= max(1, int(advice.sum.corrupt_fraction * clients))
    assert mechanism.minimum_survivors <= advice.expected_survivors <= clients
    params = advice.sum.params()
    assert params.minimum_survivors == mechanism.minimum_survivors
    assert json.loads(json.dumps(advice.as_dict(), allow_nan=False)) == advice.as_dict()
    Agreement(params=params, session=bytes(16), round=1, public_digest=bytes(32))


def test_the_deviation_of_the_mean_is_that_of_the_sum_over_the_public_divisor() -> None:
    clients, examples = (
        advise(**CLIENTS, client_sampling_rate=0.5),
        advise(**EXAMPLES, sampling_rate=0.1),
    )
    assert clients.expected_survivors == 54
    assert clients.mean_stddev == clients.mechanism.stddev(54) / (54 * 0.5)
    per_client = 1437 / 20
    assert examples.mean_stddev == pytest.approx(
        examples.mechanism.stddev(18) / (18 * per_client * 0.1)
    )


def test_coins_of_clients_are_amplified_only_where_all_take_part() -> None:
    advice = advise(**CLIENTS, client_sampling_rate=0.5)
    assert advice.sampling == HiddenPoissonSampling(rate=0.5, cover=CohortSecrecy.ALL_TAKE_PART)
    assert advise(**CLIENTS).sampling == NoSampling()
    assert advice.mechanism.noise_multiplier < advise(**CLIENTS).mechanism.noise_multiplier


def test_in_a_sparse_graph_the_servers_count_is_trusted_and_its_failure_is_in_delta() -> None:
    sparse, complete = advise(**CLIENTS | {"clients": 500}), advise(**CLIENTS)
    assert (sparse.sum.graph, sparse.trusts_count) == ("sparse", True)
    assert sparse.delta.sparse_graph == 20 * 2.0**-40
    assert (complete.sum.graph, complete.trusts_count) == ("complete", False)
    assert complete.delta.sparse_graph == 0


def test_against_a_server_that_lies_the_noise_of_whom_it_may_leave_out_is_not_counted() -> None:
    advice = advise(**CLIENTS | {"clients": 500, "active": True})
    assert (advice.sum.graph, advice.trusts_count) == ("sparse", False)
    assert advice.sum.left_out is not None
    assert advice.mechanism.uncounted_shares == 25 + 500 // 20 >= 25 + advice.sum.left_out
    assert advice.mechanism.minimum_survivors >= advice.sum.quorum == (500 + 25) // 2 + 1
    assert advice.delta.sparse_graph == 20 * 2.0**-40
    assert advice.epsilon_planned <= 4
    fewer = advise(**CLIENTS | {"clients": 500, "active": True}, minimum_survivors=100)
    assert fewer.mechanism.minimum_survivors == advice.sum.quorum


def test_shares_that_count_for_nothing_are_made_up_for_by_the_others() -> None:
    few = advise(**CLIENTS, minimum_survivors=50)
    many = advise(**CLIENTS, minimum_survivors=50, uncounted_shares=20)
    assert few.mechanism.uncounted_shares == 3
    ratio = many.mechanism.share_stddev / few.mechanism.share_stddev
    assert ratio == pytest.approx(math.sqrt((50 - 3) / (50 - 20)), rel=1e-3)


def test_lanes_that_are_too_narrow_are_not_blamed_on_the_budget() -> None:
    def at(noise: float) -> DistributedNoise:
        return DistributedNoise(
            entries=650,
            clip=1.0,
            noise_multiplier=noise,
            clients=60,
            minimum_survivors=47,
            uncounted_shares=3,
            bits=8,
            unit=Unit.CLIENT,
        )

    with pytest.raises(PrivacyError, match="no noise multiplier"):
        calibrate_noise(lambda z: at(z).event(steps=20), epsilon=4, delta=1e-4)
    with pytest.raises(InputError, match=r"bits 8: .*take more bits"):
        advise(**CLIENTS, bits=8)


def test_no_scale_is_planned_whose_noise_no_sampler_draws() -> None:
    wide = advise(clients=99, epsilon=2.0, delta=1e-6, examples=60_000, entries=10**4, bits=32)
    few = advise(clients=5, epsilon=0.3, delta=1e-6, unit="client", entries=50, bits=32)
    assert wide.mechanism.share_variance < few.mechanism.share_variance <= MAX_VARIANCE
    assert few.mechanism.share_variance > 0.999 * MAX_VARIANCE
    assert few.mechanism.encode(np.zeros(50), seed=bytes(16)).any()


@pytest.mark.parametrize(
    ("changed", "error", "words"),
    [
        (
            {"clients": 500, "active": True, "uncounted_shares": 49},
            InputError,
            "25 corrupt clients know .* 25 may be left out.* at least 50",
        ),
        ({"bits": 8}, InputError, "bits 8"),
        ({"bits": 3}, dp.InputError, "3-bit lanes are too narrow"),
        ({"bits": 64}, dp.InputError, "bits is 64"),
        ({"delta": 1 / 60}, dp.InputError, "below 1/60 for 60 units"),
        ({"delta": 1e-40}, InputError, "used up"),
        ({"minimum_survivors": 40, "uncounted_shares": 40}, InputError, "leaves no noise"),
        ({"minimum_survivors": 61}, dp.InputError, "minimum_survivors is 61"),
        ({"uncounted_shares": 0}, InputError, "uncounted_shares 0"),
        ({"uncounted_shares": 2}, InputError, "3 corrupt clients know"),
        ({"client_sampling_rate": 0.0}, dp.InputError, "rate"),
        ({"sampling_rate": 0.5}, InputError, "sampling_rate 0.5"),
        ({"examples": 1000}, InputError, "examples 1000"),
        ({"max_batch": 5}, InputError, "max_batch 5"),
        ({"unit": "record"}, InputError, "unknown unit 'record'"),
        ({"epsilon": 0.0}, dp.InputError, "epsilon"),
        ({"rounds": 0}, InputError, "rounds 0"),
        ({"clip": math.nan}, dp.InputError, "clip"),
        ({"entries": 0}, dp.InputError, "entries"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(
    changed: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words) as caught:
        advise(**CLIENTS | changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"examples": None}, "examples is missing"),
        ({"examples": 19}, "fewer than 20 clients"),
        ({"client_sampling_rate": 0.5}, "client_sampling_rate 0.5"),
        ({"delta": 1e-3}, "below 1/1437 for 1437 units"),
        ({"max_batch": 0}, "batch"),
        ({"sampling_rate": 0.0}, "rate"),
    ],
)
def test_what_examples_cannot_have_is_refused_by_name(changed: dict[str, Any], words: str) -> None:
    with pytest.raises((InputError, dp.InputError), match=words):
        advise(**EXAMPLES | changed)


@pytest.mark.parametrize("dropout", [0.0, 0.03, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("clients", [2, 20, 300])
def test_few_runs_lose_a_round_and_one_survivor_more_would_lose_too_many(
    clients: int, dropout: float
) -> None:
    rounds = 40
    minimum = likely_survivors(clients, dropout, rounds=rounds, minimum=2)
    if minimum > 2:
        assert rounds * p_round_lost(clients, dropout, minimum) <= LOST_RUNS
    if minimum < clients:
        assert rounds * p_round_lost(clients, dropout, minimum + 1) > LOST_RUNS


def test_the_chance_of_a_lost_round_is_the_binomial_one() -> None:
    from scipy.stats import binom

    for minimum in (0, 1, 70, 78, 90, 100):
        expected = binom.cdf(minimum - 1, 100, 0.9)
        assert p_round_lost(100, 0.1, minimum) == pytest.approx(expected, rel=1e-9, abs=1e-300)
    assert p_round_lost(100_000, 0.1, 89_000) < 1e-20
