"""Parameters: 128 bits, no wrap-around, enough flooding; predicted errors against measured ones."""

import functools
import importlib
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.ckks import Coefficients, Engine, Model, Params, Ring
from protocols.ckks.noise import gaussian
from protocols.ckks.params import MAX_BITS, error_variance, flooding_stddev, norm_bound
from protocols.ckks.residues import Rows, add, pack_ciphertext, pack_seeded, uniform
from protocols.errors import DecodeError, InputError
from protocols.primitives.prg import from_seed
from protocols.primitives.shamir import majority
from protocols.secrets import Secret
from protocols.wire import Reader

SEED = Secret(bytes(range(32)))
# The settings of each model on SEAL, for a session of 10**6 entries opened once.
SHARED = Params(
    model=Model.SHARED_KEY,
    clients=100,
    entries=10**6,
    clip=1.0,
    ring=Ring(degree=4096, prime_bits=(60,)),
    scale_sixteenths=829,
)
THRESHOLD = Params(
    model=Model.THRESHOLD,
    clients=100,
    entries=10**6,
    clip=1.0,
    ring=Ring(degree=4096, prime_bits=(33, 33), special_bits=40),
    scale_sixteenths=925,
    holders=5,
    threshold=4,
    max_corrupt=1,
)
FOUND = replace(THRESHOLD, scale_sixteenths=920)  # 2**57.5
# And on coefficients.
WORDS = {
    Model.SHARED_KEY: replace(SHARED, ring=Coefficients(messages=16, kept=3), scale_sixteenths=901),
    Model.THRESHOLD: replace(
        THRESHOLD, ring=Coefficients(messages=8, kept=3), scale_sixteenths=901
    ),
}
ALL = [SHARED, THRESHOLD, *WORDS.values()]
EACH = pytest.mark.parametrize("params", ALL, ids=lambda it: f"{it.engine.name}-{it.model.name}")
quick = settings(max_examples=40, derandomize=True, deadline=None)


def seal() -> Any:
    """Imported by the tests that need it: the others run without tenseal."""
    return importlib.import_module("protocols.ckks.microsoft_seal")


def collective(made: Any) -> tuple[Any, list[Any]]:
    ring = made.ring
    keys = [seal().Key(made, SEED, b"holder %d" % holder) for holder in range(5)]
    common = uniform(bytes(32), b"a", ring.degree, ring.key_primes)
    shares = [key.public_share(common) for key in keys]
    return seal().PublicKey(
        made, functools.reduce(lambda x, y: add(x, y, ring.key_primes), shares), common
    ), keys


def summed(params: Params, vectors: list[NDArray[np.float64]]) -> tuple[Any, Rows, list[Any]]:
    """One chunk of a sum, and whoever opens it."""
    made = seal().context(params.ring, params.scale)
    if params.model is Model.SHARED_KEY:
        key = seal().Key(made, SEED, b"all")
        keys, ciphertexts = [key], [made.expand(*key.encrypt(vector)) for vector in vectors]
    else:
        public, keys = collective(made)
        ciphertexts = [public.encrypt(vector) for vector in vectors]
    add_two = functools.partial(add, primes=params.ring.primes)
    return made, functools.reduce(add_two, ciphertexts), keys


def mean(made: Any, total: Rows, keys: list[Any], n: int, sigma: float) -> NDArray[np.float64]:
    plain = total[0]
    for index, key in enumerate(keys):
        drawn = gaussian(made.ring.degree, sigma, from_seed(SEED, b"%d" % index)) if sigma else None
        plain = add(plain, key.partial(total[1], drawn), made.ring.primes)
    return made.decode(plain) / n


def unflooded_error(params: Params) -> float:
    """What mean_error would be if nobody flooded."""
    slot = math.sqrt(params.sum_variance * params.ring.degree / 2)
    largest = math.sqrt(2 * math.log(2 * params.entries))
    return slot * largest / params.scale / params.clients


def clients_of(params: Params, seed: int) -> list[NDArray[np.float64]]:
    generator = np.random.default_rng(seed)
    return [generator.uniform(-1, 1, params.ring.degree) for _ in range(params.clients)]


# --- against the figures that were found before ---


def test_both_settings_are_within_the_table_special_prime_and_all() -> None:
    assert 105.99 < THRESHOLD.ring.bits <= MAX_BITS[4096] == 106
    assert 59.99 < SHARED.ring.bits <= 106


def test_the_scale_is_the_largest_that_cannot_wrap_around() -> None:
    assert THRESHOLD.largest_scale_sixteenths == THRESHOLD.scale_sixteenths == 925
    assert SHARED.largest_scale_sixteenths == SHARED.scale_sixteenths


def test_the_error_of_a_hundred_clients_unflooded_is_as_found_before() -> None:
    assert math.log2(unflooded_error(FOUND)) == pytest.approx(-47.8, abs=0.05)


def test_the_error_of_a_hundred_clients_flooded_by_five_is_as_found_before() -> None:
    """2**-14.9 with the root of the mean squared norm for T; the bound costs .4 bits more."""
    norm = math.sqrt(THRESHOLD.ring.degree * THRESHOLD.sum_variance)
    bound = norm_bound(THRESHOLD.ring.degree, THRESHOLD.sum_variance)
    assert 0.3 < math.log2(bound / norm) < 0.45
    found = math.log2(FOUND.mean_error())
    assert found + math.log2(norm / bound) == pytest.approx(-14.9, abs=0.05)


@pytest.mark.parametrize("degree", [2048, 4096, 8192, 16384, 32768])
def test_a_norm_passes_its_bound_once_in_2_to_the_39_ciphertexts(degree: int) -> None:
    """A Chernoff bound: means of products of two exponentials, the second cut at ``most``."""
    half, tail = degree // 2, 40 * math.log(2)
    most = math.log(half) + tail  # passed by the largest of half with 2**-40 at most
    bound = norm_bound(degree, 1.0) ** 2 / degree
    second = np.linspace(0, most, 200_001)
    found = min(
        half * math.log(np.trapezoid(np.exp(-second) / (1 - slope * second), second))
        - slope * half * bound
        for slope in np.linspace(0.02, 0.98, 49) / most
    )
    assert found / math.log(2) < -50


@pytest.mark.parametrize(("model", "bits"), [(Model.SHARED_KEY, 28), (Model.THRESHOLD, 12)])
def test_degree_2048_reaches_what_was_found_before_and_no_more(model: Model, bits: int) -> None:
    ring, clients, holders = Ring(degree=2048, prime_bits=(54,)), 100, 5
    scale = ring.modulus / 2 / (clients * math.sqrt(2))
    variance = clients * error_variance(ring, model, holders)
    norm = math.sqrt(2048 * variance)

    def error(flooding: int) -> float:
        sigma = flooding_stddev(flooding, math.ceil(10**6 / 2048), norm)
        sigma *= math.sqrt(holders) if model is Model.THRESHOLD else 1
        slot = math.sqrt((sigma**2 + variance) * 1024)
        return slot / scale / clients * math.sqrt(2 * math.log(2 * 10**6))

    assert error(bits) < 1.1 * 2**-14 < error(bits + 1)


def test_every_chunk_of_every_decryption_counts_as_opened() -> None:
    assert THRESHOLD.chunks == THRESHOLD.opened == 245
    again = replace(THRESHOLD, decryptions=9)
    assert again.opened == 9 * 245
    assert again.flooding_stddev == pytest.approx(3 * THRESHOLD.flooding_stddev)
    assert THRESHOLD.flooding_stddev == pytest.approx(
        math.sqrt(12 * 245) * 2**20 * norm_bound(4096, THRESHOLD.sum_variance)
    )


def test_every_polynomial_of_every_decryption_counts_as_opened_on_coefficients() -> None:
    """Also those that share one c1; each of 4,088 entries, beside the 8 that are checked."""
    params = WORDS[Model.THRESHOLD]
    assert params.opened == -(-(10**6) // 4088) == 245
    assert params.chunks == -(-245 // 8) == 31
    assert replace(params, decryptions=9).opened == 9 * 245
    assert params.flooding_stddev == pytest.approx(
        math.sqrt(12 * 245) * 2**20 * norm_bound(4096, params.sum_variance)
    )
    assert params.sum_variance == pytest.approx(100 * 10.5 * (1 + 4 / 3 * 5 * 4096))
    assert WORDS[Model.SHARED_KEY].sum_variance == 100 * 10.5


# --- against SEAL ---


@pytest.mark.parametrize("params", [SHARED, THRESHOLD], ids=lambda params: params.model.name)
def test_predicted_errors_are_those_measured(params: Params) -> None:
    vectors = clients_of(params, 3)
    made, total, keys = summed(params, vectors)
    truth = np.sum(np.array(vectors, np.longdouble), axis=0) / params.clients
    plain = np.asarray(mean(made, total, keys, params.clients, 0) - truth, float)
    slot = math.sqrt((params.sum_variance + params.clients / 12) * params.ring.degree / 2)
    expected = math.hypot(slot / params.scale / params.clients, 2.0**-52)
    assert plain.std() == pytest.approx(expected, rel=0.1)
    # A rounding error times the secret is larger in the slots where the secret's spectrum is.
    peak = math.sqrt(math.log(params.ring.degree)) if params is THRESHOLD else 1
    assert np.abs(plain).max() < unflooded_error(params) * 1.1 * peak

    flooded = np.asarray(
        mean(made, total, keys, params.clients, params.flooding_stddev) - truth, float
    )
    assert flooded.std() == pytest.approx(params.mean_stddev(), rel=0.05)
    assert np.abs(flooded).max() < params.mean_error()


def test_equal_clients_whose_roundings_add_up_stay_within_the_prediction() -> None:
    bare = replace(SHARED, flooding=None)
    vectors = clients_of(bare, 4)[:1] * 100
    made, total, keys = summed(bare, vectors)
    error = mean(made, total, keys, 100, 0) - vectors[0]
    assert error.std() < 1.1 * bare.mean_stddev()
    assert np.abs(error).max() < bare.mean_error()


def test_the_norm_of_a_sums_error_stays_below_its_bound() -> None:
    """Slots, times sqrt(2 / N) a coefficient: the norm of the error without leaving SEAL."""
    made, total, keys = summed(THRESHOLD, [np.zeros(4096)] * 100)
    slots = mean(made, total, keys, 1, 0) * THRESHOLD.scale
    norm = float(np.linalg.norm(slots)) * math.sqrt(2 / 4096)
    assert 0.6 < norm / norm_bound(4096, THRESHOLD.sum_variance) < 1


@pytest.mark.parametrize("params", [SHARED, THRESHOLD], ids=lambda params: params.model.name)
def test_predicted_sizes_are_those_of_the_wire(params: Params) -> None:
    made = seal().context(params.ring, params.scale)
    values = np.zeros(4096)
    if params.model is Model.SHARED_KEY:
        data = pack_seeded(*seal().Key(made, SEED, b"all").encrypt(values), params.ring)
    else:
        data = pack_ciphertext(collective(made)[0].encrypt(values), params.ring)
    assert len(data) == params.chunk_size()
    assert params.vector_size == 245 * params.chunk_size()
    assert params.chunk_size() / 4096 == (7.515625 if params is SHARED else 16.5)
    assert params.partial_size == 245 * 4096 * sum(params.ring.prime_bits) // 8


def test_one_bit_more_of_scale_would_wrap_the_sum_around() -> None:
    with pytest.raises(InputError, match=r"100 clients may reach 2\*\*65.14.*at 2\*\*65.00"):
        replace(THRESHOLD, scale_sixteenths=928)
    ones = np.ones(4096)
    for sixteenths, right in ((925, True), (936, False)):
        made = seal().Context(THRESHOLD.ring, 2.0 ** (sixteenths / 16))
        key = seal().Key(made, SEED, b"all")
        total = functools.reduce(
            functools.partial(add, primes=made.ring.primes),
            [made.expand(*key.encrypt(ones))] * 100,
        )
        error = np.abs(mean(made, total, [key], 100, 0) - 1).max()
        assert bool(error < 2**-30) is right


# --- refusals ---


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"ring": Ring(degree=2048, prime_bits=(54,))}, "54.00 bits"),
        ({"ring": Ring(degree=4096, prime_bits=(34, 33), special_bits=40)}, "allows 106"),
        ({"ring": Ring(degree=4096, prime_bits=(60, 60), special_bits=60)}, "180.00 bits"),
        ({"flooding": 29}, "outside .30"),
        ({"flooding": 0}, "outside .30"),
        ({"flooding": -40}, "outside .30"),
        ({"flooding": 10**6}, "outside .30"),
        ({"flooding": 80}, "above 2..50"),
        ({"clients": 1}, "clients is 1"),
        ({"minimum_survivors": 1}, "no sum"),
        ({"minimum_survivors": 101}, "no sum"),
        ({"entries": 0}, "entries 0"),
        ({"decryptions": 0}, "decryptions 0"),
        ({"clip": 0.0}, "clip"),
        ({"clip": -1.0}, "clip"),
        ({"clip": math.nan}, "clip"),
        ({"clip": math.inf}, "clip"),
        ({"scale_sixteenths": 8}, "scale"),
        ({"scale_sixteenths": 10**9}, "scale"),
    ],
    ids=str,
)
@EACH
def test_what_promises_less_is_refused(params: Params, wrong: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        replace(params, **wrong)  # type: ignore[arg-type]  # wrong on purpose


@EACH
def test_no_more_clients_than_the_scale_has_room_for(params: Params) -> None:
    full = replace(params, scale_sixteenths=params.largest_scale_sixteenths)
    with pytest.raises(InputError, match="wraps around"):
        replace(full, clients=150)
    with pytest.raises(InputError, match="wraps around"):
        replace(full, scale_sixteenths=full.scale_sixteenths + 1)


@pytest.mark.parametrize(
    ("ring", "says"),
    [
        ({"limbs": 1}, "limbs is 1, must be 2 or 3"),
        ({"limbs": 4}, "limbs is 4, must be 2 or 3"),
        ({"messages": 0}, r"messages is 0, must be in \[1, 16\]"),
        ({"messages": 17}, r"messages is 17, must be in \[1, 16\]"),
        ({"kept": 1}, r"kept is 1, must be in \[2, 8\]"),
        ({"kept": 9}, r"kept is 9, must be in \[2, 8\]"),
    ],
    ids=str,
)
def test_coefficients_that_nothing_could_be_sent_of_are_refused(
    ring: dict[str, int], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        Coefficients(**ring)


def test_a_sum_whose_errors_would_hide_that_it_does_not_open_is_refused() -> None:
    """Two bytes kept of 100 clients: 50 units of rounding, of 2**15."""
    rough = replace(WORDS[Model.SHARED_KEY], ring=Coefficients(kept=2), scale_sixteenths=800)
    assert rough.exact_bits == 9
    with pytest.raises(InputError, match="a sum has 7 exact bits, fewer than 8"):
        replace(rough, clients=400)


def test_what_belongs_to_one_engine_is_refused_to_the_other() -> None:
    assert SHARED.engine is Engine.SEAL
    assert WORDS[Model.SHARED_KEY].engine is Engine.COEFFICIENTS
    with pytest.raises(InputError, match="must be of SEAL's"):
        _ = WORDS[Model.SHARED_KEY].seal_ring
    for name in ("lattice", "encoding", "exact_bits"):
        with pytest.raises(InputError, match="must be of Coefficients"):
            getattr(SHARED, name)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"flooding": None}, "flooding is None"),
        ({"holders": 1}, "1 holders"),
        ({"holders": 70000}, "70000 holders"),
        ({"max_corrupt": 5}, "5 corrupt"),
        ({"max_corrupt": -1}, "corrupt"),
        ({"threshold": 3}, r"outside \[4, 5\]"),
        ({"threshold": 6}, r"outside \[4, 5\]"),
        ({"threshold": 4, "max_corrupt": 3}, r"outside \[5, 5\]"),
    ],
    ids=str,
)
def test_holders_who_could_answer_twice_or_see_too_much_are_refused(
    wrong: dict[str, object], says: str
) -> None:
    with pytest.raises(InputError, match=says):
        replace(THRESHOLD, **wrong)  # type: ignore[arg-type]  # wrong on purpose


def test_a_shared_key_has_no_holders_and_may_go_unflooded() -> None:
    for shared in (SHARED, WORDS[Model.SHARED_KEY]):
        with pytest.raises(InputError, match="must be 0 under a shared key"):
            replace(shared, holders=5, threshold=4)
        assert replace(shared, flooding=None).flooding_stddev == 0
    assert replace(SHARED, flooding=None).mean_error() < 2**-44


@given(st.integers(2, 60), st.integers(0, 59))
@quick
def test_two_majorities_always_share_an_honest_holder(holders: int, corrupt: int) -> None:
    if corrupt < holders:
        assert 2 * majority(holders, corrupt) - holders > corrupt
        assert 2 * (majority(holders, corrupt) - 1) - holders <= corrupt


# --- on the wire ---

some_params = st.builds(
    lambda params, clients, entries, clip, flooding, decryptions: replace(
        params,
        clients=clients,
        entries=entries,
        clip=clip,
        flooding=flooding,
        decryptions=decryptions,
    ),
    st.sampled_from(ALL),
    st.integers(2, 100),
    st.integers(1, 10**6),
    st.floats(1e-9, 1e9),
    st.integers(30, 40),
    st.integers(1, 50),
)


def whole(data: bytes) -> Params:
    reader = Reader(data)
    found = Params.read(reader)
    reader.finish()
    return found


@given(some_params)
@quick
def test_parameters_survive_their_encoding(params: Params) -> None:
    assert whole(params.to_bytes()) == params


@given(some_params, st.integers(0, 60), st.integers(1, 255))
@quick
def test_changed_parameters_are_refused_or_are_others(params: Params, at: int, by: int) -> None:
    data = bytearray(params.to_bytes())
    data[at % len(data)] ^= by
    try:
        read = whole(bytes(data))
    except DecodeError:
        return
    assert read.to_bytes() == data
    assert read != params


@given(st.binary(max_size=80))
@quick
def test_any_bytes_give_parameters_or_a_decode_error(data: bytes) -> None:
    try:
        params = Params.read(Reader(data))
    except DecodeError:
        return
    assert data.startswith(params.to_bytes())


def test_an_unflooded_shared_key_survives_its_encoding() -> None:
    for shared in (SHARED, WORDS[Model.SHARED_KEY]):
        bare = replace(shared, flooding=None)
        assert Params.read(Reader(bare.to_bytes())) == bare


def test_no_engine_reads_the_parameters_of_another_and_none_is_unknown() -> None:
    place = 1 + 4 * 4 + 8
    for params in ALL:
        data = bytearray(params.to_bytes())
        assert data[place] == params.engine
        for other in {0, 1, 2, 3, 255} - {params.engine}:
            data[place] = other
            with pytest.raises(DecodeError):
                whole(bytes(data))
