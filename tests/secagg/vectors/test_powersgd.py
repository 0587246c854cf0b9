"""PowerSGD over two sums is that of the mean update, and what it leaves out comes later."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dp.accounting.events import Unit
from secagg import Bonawitz, InputError, Plain, aggregate
from secagg.vectors.powersgd import PowerSgd

SEED = bytes(32)
SHAPES = {"w": (20, 30), "conv": (8, 4, 3, 3), "b": (5,), "s": ()}
SILOS = 3


def updates(seed: int, scale: float = 1.0) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    return [
        {name: scale * rng.uniform(-1, 1, shape) for name, shape in SHAPES.items()}
        for _ in range(SILOS)
    ]


def mean(silos: list[PowerSgd], given: list[dict[str, Any]], protocol: Any = None) -> Any:
    protocol = protocol or Plain()
    how: dict[str, Any] = {"clip": 200.0, "protocol": protocol}
    left = aggregate([s.left(u) for s, u in zip(silos, given, strict=True)], **how)
    right = aggregate([s.right(left.mean) for s in silos], **how)
    found = [s.estimate(right.mean) for s in silos]
    for name in SHAPES:
        assert all(np.array_equal(each[name], found[0][name]) for each in found)
    return found[0]


def exact(silos: list[PowerSgd], given: list[dict[str, Any]]) -> Any:
    """The same in floats, without rounding."""
    lefts = [s.left(u) for s, u in zip(silos, given, strict=True)]
    left = {name: np.mean([each[name] for each in lefts], axis=0) for name in lefts[0]}
    rights = [s.right(left) for s in silos]
    right = {name: np.mean([each[name] for each in rights], axis=0) for name in rights[0]}
    found = [s.estimate(right) for s in silos]
    return found[0]


def silos(rank: int = 2, **more: Any) -> list[PowerSgd]:
    return [PowerSgd(SHAPES, rank, seed=SEED, **more) for _ in range(SILOS)]


@given(rank=st.integers(1, 4), seed=st.integers(0, 2**32))
@settings(max_examples=20)
def test_the_estimate_is_the_projection_of_the_mean(rank: int, seed: int) -> None:
    given_ = updates(seed)
    found = exact(silos(rank, memory=False), given_)
    for name, shape in SHAPES.items():
        true = np.mean([each[name] for each in given_], axis=0).reshape(shape)
        if len(shape) < 2:
            assert np.allclose(found[name], true)
            continue
        matrix, got = true.reshape(shape[0], -1), found[name].reshape(shape[0], -1)
        assert np.linalg.matrix_rank(got, tol=1e-9) <= rank
        # What is left is orthogonal to what came: so it is the mean's own projection.
        assert abs(float(np.sum(got * (matrix - got)))) < 1e-9


def test_a_mean_of_low_rank_is_exact_whatever_each_silo_has() -> None:
    rng = np.random.default_rng(1)
    low = rng.normal(size=(20, 1)) @ rng.normal(size=(1, 30))
    apart = rng.normal(size=(20, 30))
    given_ = [
        dict(each, w=low + sign * apart) for each, sign in zip(updates(1), (1, -1, 0), strict=True)
    ]
    found = exact(silos(1, memory=False), given_)
    assert np.allclose(found["w"], low)


@pytest.mark.parametrize("protocol", [Bonawitz(), Bonawitz(active=True)], ids=["curious", "active"])
def test_secure_sums_give_what_plain_ones_do(protocol: Any) -> None:
    given_ = updates(2)
    secure, plain = mean(silos(), given_, protocol), exact(silos(), given_)
    for name in SHAPES:
        assert np.abs(secure[name] - plain[name]).max() < 0.2  # steps of .006 through products


def test_what_is_left_out_is_kept_and_comes_later() -> None:
    """The sum of all estimates and the mean of what silos keep is the sum of all means."""
    parties, total, true = silos(1), 0.0, 0.0
    for round_number in range(6):
        given_ = updates(round_number)
        total = total + exact(parties, given_)["w"]
        true = true + np.mean([each["w"] for each in given_], axis=0)
    kept = np.mean([silo._kept["w"] for silo in parties], axis=0).reshape(20, 30)
    assert np.allclose(total + kept, true)


def test_with_memory_a_constant_update_arrives_and_without_it_never_does() -> None:
    given_ = updates(3)
    true = np.mean([each["w"] for each in given_], axis=0)
    off = {}
    for memory in (True, False):
        parties, rounds = silos(1, memory=memory), 120
        arrived = sum(exact(parties, given_)["w"] for _ in range(rounds)) / rounds
        off[memory] = float(np.linalg.norm(arrived - true) / np.linalg.norm(true))
    assert off[True] < 0.2
    assert off[False] > 0.5


def test_a_round_that_is_lost_is_begun_again() -> None:
    parties, fresh = silos(), silos()
    for silo, lost in zip(parties, updates(5), strict=True):
        silo.left(lost)
    given_ = updates(6)
    again, once = exact(parties, given_), exact(fresh, given_)
    assert all(np.array_equal(again[name], once[name]) for name in SHAPES)


def test_fewer_entries_travel_and_small_arrays_whole() -> None:
    silo = silos(2)[0]
    # w at 2 (20 + 30), conv at 2 (8 + 36), b and s whole
    assert silo.entries == 100 + 88 + 5 + 1
    assert PowerSgd({"small": (3, 3)}, 4, seed=SEED).entries == 9


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ({"rank": 0}, "rank 0"),
        ({"rank": True}, "rank True"),
        ({"rank": 2, "unit": Unit.EXAMPLE}, "with noise that hides an example, memory=False"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(how: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError, match=told):
        PowerSgd(SHAPES, seed=SEED, **how)


def test_under_noise_on_examples_it_works_without_memory() -> None:
    assert PowerSgd(SHAPES, 1, seed=SEED, memory=False, unit=Unit.EXAMPLE).entries
    assert PowerSgd(SHAPES, 1, seed=SEED, unit=Unit.CLIENT).entries


def test_a_step_out_of_turn_or_of_another_shape_is_refused() -> None:
    silo, update = silos()[0], updates(7)[0]
    with pytest.raises(InputError, match=r"left\(update\) comes first"):
        silo.right({})
    with pytest.raises(InputError, match=r"right\(mean\) comes first"):
        silo.estimate({})
    with pytest.raises(InputError, match="must have the arrays"):
        silo.left({"w": update["w"]})
    with pytest.raises(InputError, match="'w' has shape"):
        silo.left(update | {"w": np.zeros((30, 20))})
    with pytest.raises(InputError, match="NaN or infinity"):
        silo.left(update | {"w": np.full((20, 30), np.nan)})
    left = silo.left(update)
    with pytest.raises(InputError, match="the mean lacks 'w'"):
        silo.right({name: left[name] for name in left if name != "w"})
    with pytest.raises(InputError, match="not finite, or not of shape"):
        silo.right(left | {"w": left["w"].T})
    right = silo.right(left)
    with pytest.raises(InputError, match="not finite, or not of shape"):
        silo.estimate(right | {"w": right["w"] * np.inf})
    silo.estimate(right)
    with pytest.raises(InputError, match="comes first"):
        silo.estimate(right)


def test_nothing_of_an_update_is_printed() -> None:
    silo = silos()[0]
    silo.left(updates(8)[0])
    assert repr(silo) == "PowerSgd(2 of 4 arrays at rank 2)"
