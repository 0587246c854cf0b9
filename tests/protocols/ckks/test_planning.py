"""Plans: they reach what was asked for, exactly or as nearly, and cost no more than they must."""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.ckks import Coefficients, Engine, Model, Params, Ring, plan_parameters
from protocols.ckks.client import encrypt
from protocols.ckks.params import Agreement
from protocols.ckks.server import CollectUploads
from protocols.errors import InputError
from protocols.testing import played_key

quick = settings(max_examples=20, derandomize=True, deadline=None)
MILLION: dict[str, Any] = {"clients": 100, "entries": 10**6, "clip": 1.0}


def holders(model: Model) -> int:
    return 5 if model is Model.THRESHOLD else 0


@given(
    st.sampled_from(list(Engine)),
    st.sampled_from(list(Model)),
    st.integers(2, 2000),
    st.integers(1, 10**7),
    st.floats(1e-3, 1e3),
    st.floats(4, 14),
    st.integers(1, 20),
)
@quick
def test_what_is_planned_reaches_its_precision(
    engine: Engine,
    model: Model,
    clients: int,
    entries: int,
    clip: float,
    bits: float,
    decryptions: int,
) -> None:
    precision = clip * 2**-bits
    params = plan_parameters(
        engine=engine,
        model=model,
        clients=clients,
        entries=entries,
        clip=clip,
        precision=precision,
        decryptions=decryptions,
        holders=holders(model),
    )
    assert params.engine is engine
    assert params.mean_error() <= precision
    assert params.mean_error(survivors=clients // 2 or 1) > params.mean_error() * 1.5
    assert params.flooding == 40
    assert params.opened >= params.chunks * decryptions
    assert params.scale_sixteenths == params.largest_scale_sixteenths


@given(
    st.sampled_from(list(Model)),
    st.integers(2, 2000),
    st.integers(0, 10**5),
    st.lists(st.tuples(st.integers(1, 10**5), st.integers(1, 64)), min_size=1, max_size=3),
)
@quick
def test_integers_have_the_digits_that_their_noise_allows(
    model: Model, clients: int, entries: int, integers: list[tuple[int, int]]
) -> None:
    params = plan_parameters(
        model=model,
        clients=clients,
        entries=entries,
        integers=integers,
        clip=1.0,
        precision=2.0**-8,
        holders=holders(model),
    )
    words = sum(count * params.encoding.digits(bits) for count, bits in integers)
    assert params.entries == entries + words
    unit = params.lattice.modulus >> params.exact_bits
    assert unit >= 2 * params.largest_error
    assert not entries or params.mean_error() <= 2.0**-8


def test_what_was_planned_is_measured() -> None:
    """Reals within their precision, integers exact, through a whole round that three open."""
    bits, clients = 20, (1, 2, 3, 4, 5, 6)
    params = plan_parameters(
        model=Model.THRESHOLD,
        clients=len(clients),
        entries=6000,
        integers=[(3000, bits)],
        clip=2.0,
        precision=2.0**-12,
        holders=4,
    )
    agreement = Agreement(params=params, session=bytes(16), public_digest=bytes(32))
    made = played_key(agreement, (1, 2, 3, 4), "requests")
    rng, encoding = np.random.default_rng(1), params.encoding
    collect = CollectUploads(agreement, made.key, clients)
    reals, integers = np.zeros(6000), np.zeros(3000, np.uint64)
    for client in clients:
        mine, ours = rng.uniform(-2, 2, 6000), rng.integers(0, 2**bits, 3000, np.uint64)
        reals, integers = reals + mine, integers + ours
        words = [encoding.encode_reals(mine), encoding.encode_integers(ours, bits)]
        collect.receive(encrypt(agreement, client, made.key, np.concatenate(words)))
    message, partials = collect.close_threshold((1, 2, 4))
    for holder in (1, 2, 4):
        partials.receive(made.states[holder].on_request(agreement, message)[0])
    values = partials.close().values
    errors = encoding.decode_reals(values[:6000]) / 6 - reals / 6
    assert np.abs(errors).max() < params.mean_error() * 1.2 <= 1.2 * 2.0**-12
    assert errors.std() <= 1.03 * params.mean_stddev()
    found = encoding.decode_integers(values[6000:], bits)
    assert (found == integers % np.uint64(2**bits)).all()


@pytest.mark.parametrize("model", list(Model), ids=lambda model: model.name)
def test_more_precision_never_costs_fewer_bytes(engine: Engine, model: Model) -> None:
    plans = [
        plan_parameters(
            engine=engine, model=model, precision=2.0**-bits, holders=holders(model), **MILLION
        )
        for bits in (2, 8, 14)
    ]
    sizes = [params.vector_size for params in plans]
    assert sizes == sorted(sizes)
    assert len(set(sizes)) > 1
    assert all(one.mean_error() >= other.mean_error() for one, other in pairwise(plans))


def test_more_sums_than_two_limbs_have_room_for_take_three() -> None:
    """The noise grows with the root of what a key opens; 124 million entries, four sums."""

    def planned(entries: int, decryptions: int) -> Params:
        return plan_parameters(
            model=Model.THRESHOLD,
            clients=100,
            entries=entries,
            clip=1.0,
            precision=2.0**-14,
            decryptions=decryptions,
            holders=5,
        )

    assert planned(10**6, 1).lattice.limbs == 2
    large = planned(124 * 10**6, 4)
    assert large.lattice.limbs == 3
    assert large.mean_error() <= 2.0**-14
    assert large.ring.bits == 72


def test_the_planner_finds_the_setting_of_a_million_entries() -> None:
    shared = plan_parameters(model=Model.SHARED_KEY, precision=2.0**-14, **MILLION)
    assert shared.vector_size / 10**6 < 3.1  # bytes an entry
    threshold = plan_parameters(model=Model.THRESHOLD, precision=2.0**-14.8, holders=5, **MILLION)
    assert threshold.vector_size / 10**6 < 5.1


def test_the_planner_finds_the_setting_of_seal() -> None:
    found = plan_parameters(
        engine=Engine.SEAL,
        model=Model.THRESHOLD,
        precision=2**-14.3,
        holders=5,
        **MILLION,
    )
    assert found.ring == Ring(degree=4096, prime_bits=(33, 33), special_bits=40)
    assert (found.scale_sixteenths, found.threshold, found.max_corrupt) == (925, 4, 1)


def test_seals_planner_counts_whole_chunks_and_of_equal_uploads_takes_the_least_work() -> None:
    found = plan_parameters(
        engine=Engine.SEAL,
        model=Model.SHARED_KEY,
        clients=10,
        entries=10**6,
        clip=1.0,
        precision=2.0**-14,
    )
    # Degree 16384 saves seeds and fills its last chunk with zeros; 30 + 29 bits are one prime more.
    assert found.ring == Ring(degree=4096, prime_bits=(59,))


@pytest.mark.parametrize("entries", [1, 500, 4088, 4089, 30_000])
@pytest.mark.parametrize("model", list(Model), ids=lambda model: model.name)
def test_no_other_ring_that_reaches_the_precision_costs_less(model: Model, entries: int) -> None:
    """Beside the key's making, which the planner counts too."""

    def cost(params: Params) -> int:
        return params.vector_size + params.holders * params.share_size

    wanted: dict[str, Any] = {"clients": 10, "entries": entries, "clip": 1.0}
    found = plan_parameters(model=model, precision=2.0**-10, holders=holders(model), **wanted)
    others = [
        cost(other)
        for limbs in (2, 3)
        for kept in range(2, 9)
        for messages in range(1, 17)
        if (other := _with(found, Coefficients(limbs=limbs, kept=kept, messages=messages)))
        and other.mean_error() <= 2.0**-10
    ]
    assert cost(found) == min(others)


def _with(params: Params, ring: Coefficients) -> Params | None:
    try:
        draft = replace(params, ring=ring, scale_sixteenths=144)
        return replace(draft, scale_sixteenths=draft.largest_scale_sixteenths)
    except InputError:
        return None


def test_an_unreachable_precision_is_refused_with_the_best_there_is(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"the best reach [0-9.]+e-"):
        plan_parameters(engine=engine, model=Model.SHARED_KEY, precision=1e-30, **MILLION)


def test_a_refusal_that_no_ring_can_heal_is_the_planners_too(engine: Engine) -> None:
    with pytest.raises(InputError, match=r"outside .30"):
        plan_parameters(
            engine=engine, model=Model.SHARED_KEY, precision=0.1, flooding=12, **MILLION
        )


def test_integers_travel_exactly_on_coefficients_alone() -> None:
    with pytest.raises(InputError, match="exact on coefficients alone"):
        plan_parameters(
            engine=Engine.SEAL,
            model=Model.SHARED_KEY,
            precision=0.1,
            integers=[(1, 8)],
            **MILLION,
        )
    with pytest.raises(InputError, match="entries 0"):
        plan_parameters(model=Model.SHARED_KEY, clients=2, entries=0, clip=1.0, precision=math.inf)
