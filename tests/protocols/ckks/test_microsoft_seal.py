"""Residues, noise and SEAL: bytes of strangers, keys, encryption, flooding to the coefficient."""

import copy
import functools
import math
import os
import pickle
import random
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tenseal import sealapi

from protocols.ckks import noise, residues
from protocols.ckks.microsoft_seal import Context, Key, Level, PublicKey, context
from protocols.ckks.noise import gaussian
from protocols.ckks.residues import (
    SEED_SIZE,
    Ring,
    Rows,
    add,
    ntt_primes,
    pack,
    pack_ciphertext,
    pack_seeded,
    subtract,
    ternary,
    uniform,
    unpack,
    unpack_ciphertext,
    unpack_seeded,
)
from protocols.errors import DecodeError, InputError, LocalProtocolError
from protocols.primitives.prg import Stream, from_seed
from protocols.secrets import Secret

SMALL = Ring(degree=1024, prime_bits=(26,))
SHARED = context(Ring(degree=4096, prime_bits=(60,)), 2.0**51.5)
THRESHOLD = context(Ring(degree=4096, prime_bits=(33, 33), special_bits=40), 2.0**57.5)
SEED = Secret(bytes(range(32)))
quick = settings(max_examples=60, derandomize=True, deadline=None)
RINGS = [SMALL, SHARED.ring, THRESHOLD.ring, Ring(degree=1024, prime_bits=(16,))]


def some_rows(ring: Ring, label: str) -> Rows:
    return uniform(bytes(32), label.encode(), ring.degree, ring.primes)


def some_values(ring: Ring, seed: int = 1) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-1, 1, ring.degree)


@functools.cache
def collective() -> tuple[PublicKey, tuple[Key, ...]]:
    ring = THRESHOLD.ring
    keys = tuple(Key(THRESHOLD, SEED, b"holder %d" % holder) for holder in range(5))
    common = uniform(bytes(32), b"a", ring.degree, ring.key_primes)
    shares = [key.public_share(common) for key in keys]
    total = functools.reduce(lambda x, y: add(x, y, ring.key_primes), shares)
    return PublicKey(THRESHOLD, total, common), keys


def opened(made: Context, ciphertext: Rows, keys: tuple[Key, ...]) -> NDArray[np.float64]:
    total = ciphertext[0]
    for key in keys:
        total = add(total, key.partial(ciphertext[1], None), made.ring.primes)
    return made.decode(total)


def coefficients(level: Level, rows: Rows) -> list[int]:
    """Out of the transform and out of the residues: centred integers."""
    pair = level.ciphertext(np.stack([rows, np.ones_like(rows)]), 1.0)
    level.evaluator.transform_from_ntt_inplace(pair)
    modulus = math.prod(level.primes)
    parts = [modulus // prime * pow(modulus // prime, -1, prime) for prime in level.primes]
    columns = level.rows(pair)[0].T.tolist()
    found = [sum(r * part for r, part in zip(row, parts, strict=True)) % modulus for row in columns]
    return [value - modulus if 2 * value > modulus else value for value in found]


# --- the wire ---


@pytest.mark.parametrize("ring", RINGS, ids=str)
def test_a_residue_takes_exactly_the_bits_of_its_prime(ring: Ring) -> None:
    rows = some_rows(ring, "rows")
    packed = pack(rows, ring.primes)
    assert 8 * len(packed) == ring.degree * sum(ring.prime_bits)
    assert (unpack(packed, ring.degree, ring.primes) == rows).all()


@given(st.integers(14, 60), st.data())
@quick
def test_packing_is_reversible_at_every_size_of_prime(bits: int, data: st.DataObject) -> None:
    (prime,) = ntt_primes(1024, (max(bits, 15),))
    ends = data.draw(st.lists(st.integers(0, prime - 1), min_size=8, max_size=8))
    rows = np.array([(ends * 128)], np.uint64)
    rows[0, :2] = 0, prime - 1
    assert (unpack(pack(rows, (prime,)), 1024, (prime,)) == rows).all()


@given(st.binary(min_size=1024 * 26 // 8, max_size=1024 * 26 // 8))
@quick
def test_bytes_are_refused_or_are_the_only_encoding_of_what_they_mean(data: bytes) -> None:
    try:
        rows = unpack(data, SMALL.degree, SMALL.primes)
    except DecodeError:
        return
    assert int(rows.max()) < SMALL.primes[0]
    assert pack(rows, SMALL.primes) == data


@pytest.mark.parametrize("above", [0, 1, 2**26 - 1 - SMALL.primes[0]])
@pytest.mark.parametrize("index", [0, 511, 1023])
def test_a_residue_that_is_not_below_its_prime_is_refused(index: int, above: int) -> None:
    rows = some_rows(SMALL, "rows")
    rows[0, index] = SMALL.primes[0] + above
    with pytest.raises(DecodeError, match="not below its prime"):
        unpack(pack(rows, SMALL.primes), SMALL.degree, SMALL.primes)


@pytest.mark.parametrize("change", [-1, 1, -1000, 1000])
def test_a_polynomial_of_another_length_is_refused(change: int) -> None:
    good = pack(some_rows(SMALL, "rows"), SMALL.primes)
    bad = good[:change] if change < 0 else good + bytes(change)
    with pytest.raises(DecodeError, match="expected 3328"):
        unpack(bad, SMALL.degree, SMALL.primes)


def test_a_transparent_ciphertext_is_refused() -> None:
    ring = THRESHOLD.ring
    plain = np.stack([some_rows(ring, "plain"), np.zeros((2, 4096), np.uint64)])
    with pytest.raises(DecodeError, match="second polynomial is zero"):
        unpack_ciphertext(pack_ciphertext(plain, ring), ring)


def mutated(good: bytes, chance: random.Random) -> bytes:
    data = bytearray(good)
    where = chance.randrange(len(data))
    match chance.randrange(7):
        case 0:
            data[where] ^= 1 << chance.randrange(8)
        case 1:
            data[where : where + 64] = bytes([chance.choice([0, 255])]) * 64
        case 2:
            data[where : where + 32] = chance.randbytes(32)
        case 3:
            del data[where:]
        case 4:
            data[where:where] = chance.randbytes(chance.randrange(1, 9))
        case 5:
            data = bytearray(chance.randbytes(len(data)))
        case _:
            data[: len(data) // 2] = data[len(data) // 2 :][: len(data) // 2]
    return bytes(data)


def test_any_mutation_of_a_threshold_ciphertext_is_refused_or_is_just_another_one() -> None:
    public, keys = collective()
    ring, chance = THRESHOLD.ring, random.Random(1)  # noqa: S311  # the same mutations every time
    good = pack_ciphertext(public.encrypt(some_values(ring)), ring)
    passed = 0
    for _ in range(300):
        data = mutated(good, chance)
        try:
            ciphertext = unpack_ciphertext(data, ring)
        except DecodeError:
            continue
        assert pack_ciphertext(ciphertext, ring) == data
        assert np.isfinite(opened(THRESHOLD, ciphertext, keys[:1])).all()
        passed += 1
    assert passed > 20


def test_any_mutation_of_a_seeded_ciphertext_is_refused_or_is_just_another_one() -> None:
    key, ring = Key(SHARED, SEED, b"all"), SHARED.ring
    chance = random.Random(2)  # noqa: S311  # the same mutations every time
    good = pack_seeded(*key.encrypt(some_values(ring)), ring)
    assert len(good) == 64 + 4096 * 60 // 8
    passed = 0
    for _ in range(300):
        data = mutated(good, chance)
        try:
            seed, first = unpack_seeded(data, ring)
        except DecodeError:
            continue
        assert pack_seeded(seed, first, ring) == data
        assert np.isfinite(opened(SHARED, SHARED.expand(seed, first), (key,))).all()
        passed += 1
    assert passed > 20
    for length in range(SEED_SIZE + 2):
        with pytest.raises(DecodeError):
            unpack_seeded(good[:length], ring)


# --- the ring ---


@pytest.mark.parametrize(
    ("degree", "bits"), [(4096, (33, 33, 40)), (4096, (60,)), (2048, (54,)), (8192, (60, 40, 40))]
)
def test_primes_are_those_that_seal_would_choose(degree: int, bits: tuple[int, ...]) -> None:
    theirs = sealapi.CoeffModulus.Create(degree, list(bits))
    assert sorted(ntt_primes(degree, bits)) == sorted(prime.value() for prime in theirs)


@pytest.mark.parametrize(
    "wrong",
    [
        {"degree": 1000, "prime_bits": (26,)},
        {"degree": 4096, "prime_bits": ()},
        {"degree": 4096, "prime_bits": (61,)},
        {"degree": 4096, "prime_bits": (13,)},
        {"degree": 4096, "prime_bits": (33, 33)},
        {"degree": 4096, "prime_bits": (33,), "special_bits": 40},
        {"degree": 1024, "prime_bits": (13, 13, 13, 13), "special_bits": 13},
        {"degree": 4096, "prime_bits": (60,) * 20, "special_bits": 60},
    ],
    ids=str,
)
def test_rings_that_seal_or_the_protocol_cannot_use_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        Ring(**wrong)  # type: ignore[arg-type]  # wrong on purpose


@given(st.lists(st.integers(0, SHARED.ring.primes[0] - 1), min_size=2, max_size=2))
@quick
def test_sums_and_differences_are_modulo_the_prime(pair: list[int]) -> None:
    (prime,) = SHARED.ring.primes
    left, right = (np.full((1, 4), value, np.uint64) for value in pair)
    assert (add(left, right, (prime,)) == sum(pair) % prime).all()
    assert (subtract(left, right, (prime,)) == (pair[0] - pair[1]) % prime).all()


def test_the_public_polynomial_is_a_function_of_seed_and_label_and_uniform() -> None:
    primes = (ntt_primes(4096, (33,))[0], 3 * 2**30 + 1)  # of the second a quarter is rejected
    one = uniform(bytes(32), b"a", 4096, primes)
    assert (one == uniform(bytes(32), b"a", 4096, primes)).all()
    assert (one != uniform(bytes(32), b"b", 4096, primes)).mean() > 0.99
    for row, prime in zip(one, primes, strict=True):
        assert int(row.max()) < prime
        counts = np.histogram(row, 16, (0, prime))[0]
        assert ((counts - 256) ** 2 / 256).sum() < 45  # chi squared, 15 degrees: 1e-4


def test_secrets_are_uniform_over_three_values() -> None:
    counts = np.unique(ternary(SEED, b"k", 32768), return_counts=True)
    assert counts[0].tolist() == [-1, 0, 1]
    assert ((counts[1] - 32768 / 3) ** 2 / (32768 / 3)).sum() < 18  # 2 degrees: 1e-4


# --- noise ---


def test_the_logarithm_is_the_logarithm() -> None:
    x = np.concatenate([np.logspace(-31, -1e-12, 5000), 1 - np.logspace(-16, -1, 500)])
    x = x[x < 1]
    exact = np.array([math.log(value) for value in x])
    assert (np.abs(noise._ln(x) - exact) <= 4e-16 * np.abs(exact)).all()


def test_noise_is_gaussian_of_the_deviation_asked_for() -> None:
    count = 200_000
    values = gaussian(count, 2.0**40, from_seed(SEED, b"gauss")) / 2**40
    assert abs(values.mean()) < 4 / math.sqrt(count)
    assert abs(values.std() - 1) < 4 / math.sqrt(2 * count)
    for bound in (0.5, 1, 2, 3, 4):
        tail = math.erfc(bound / math.sqrt(2))
        assert abs((np.abs(values) > bound).mean() - tail) < 4 * math.sqrt(tail / count)
    pairs = values.reshape(-1, 2)
    assert abs((pairs[:, 0] * pairs[:, 1]).mean()) < 4 / math.sqrt(count / 2)


def test_one_seed_gives_one_noise_whatever_the_machine() -> None:
    """Recomputed in scalars: every step is one that IEEE 754 rounds exactly."""
    words = np.empty(2 * 100, np.uint64)
    Stream(SEED, b"flood").fill(words)
    expected: list[int] = []
    for u_word, v_word in words.reshape(-1, 2).tolist():
        u, v = (((word >> 12) + 0.5) * 2.0**-51 - 1 for word in (u_word, v_word))
        square = u * u + v * v
        if square < 1:
            mantissa, exponent = math.frexp(square)
            if mantissa < math.sqrt(0.5):
                mantissa, exponent = 2 * mantissa, exponent - 1
            ratio = (mantissa - 1) / (mantissa + 1)
            series = 1 / 25
            for term in range(11, -1, -1):
                series = series * (ratio * ratio) + 1 / (2 * term + 1)
            log = exponent * 0.6931471805599453 + 2 * ratio * series
            root = math.sqrt(-2 * log / square)
            expected += [round(u * root * 2.0**40), round(v * root * 2.0**40)]
    drawn = gaussian(60, 2.0**40, from_seed(SEED, b"flood"))
    assert drawn.tolist() == expected[:60]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 4096])
def test_noise_comes_in_the_number_asked_for_however_many_points_are_rejected(count: int) -> None:
    corner = b"\xff" * 16  # (1, 1), outside the disc
    take = from_seed(SEED, b"few")
    asked = iter([True])

    def unlucky(size: int) -> bytes:
        return corner * (size // 16) if next(asked, False) else take(size)

    assert gaussian(count, 2.0**40, unlucky).shape == (count,)


@pytest.mark.parametrize("deviation", [0.0, 0.5, 2.0**51, math.inf, math.nan])
def test_noise_too_narrow_or_too_wide_for_doubles_is_refused(deviation: float) -> None:
    with pytest.raises(InputError):
        gaussian(4, deviation, os.urandom)


# --- keys and encryption ---


def test_a_shared_key_opens_what_it_encrypted_and_another_does_not() -> None:
    values = some_values(SHARED.ring)
    key = Key(SHARED, SEED, b"all")
    ciphertext = SHARED.expand(*key.encrypt(values))
    assert np.abs(opened(SHARED, ciphertext, (key,)) - values).max() < 2**-40
    assert np.abs(opened(SHARED, ciphertext, (Key(SHARED, SEED, b"all"),)) - values).max() < 2**-40
    for other in (Key(SHARED, SEED, b"others"), Key(SHARED, Secret(bytes(32)), b"all")):
        assert np.abs(opened(SHARED, ciphertext, (other,)) - values).max() > 1


def test_two_primes_and_a_special_one_work_under_a_shared_key_too() -> None:
    made = context(Ring(degree=4096, prime_bits=(31, 30), special_bits=40), 2.0**52.5)
    key, values = Key(made, SEED, b"all"), some_values(made.ring)
    seed, first = unpack_seeded(pack_seeded(*key.encrypt(values), made.ring), made.ring)
    assert np.abs(opened(made, made.expand(seed, first), (key,)) - values).max() < 2**-40


def test_a_single_prime_works_for_a_collective_key_too() -> None:
    made = context(Ring(degree=2048, prime_bits=(53,)), 2.0**45)
    keys = tuple(Key(made, SEED, b"holder %d" % holder) for holder in range(2))
    common = uniform(bytes(32), b"a", 2048, made.ring.key_primes)
    total = add(*(key.public_share(common) for key in keys), made.ring.key_primes)
    values = some_values(made.ring)
    ciphertext = PublicKey(made, total, common).encrypt(values)
    assert np.abs(opened(made, ciphertext, keys) - values).max() < 2**-28


def test_all_holders_open_the_sum_and_all_but_one_open_nothing() -> None:
    public, keys = collective()
    ring = THRESHOLD.ring
    vectors = [some_values(ring, seed) for seed in range(3)]
    total = functools.reduce(
        lambda x, y: add(x, y, ring.primes), [public.encrypt(vector) for vector in vectors]
    )
    assert np.abs(opened(THRESHOLD, total, keys) - sum(vectors)).max() < 2**-40
    for missing in range(5):
        fewer = keys[:missing] + keys[missing + 1 :]
        assert np.abs(opened(THRESHOLD, total, fewer) - sum(vectors)).max() > 1


def test_equal_values_never_give_equal_ciphertexts() -> None:
    public, _ = collective()
    key, values = Key(SHARED, SEED, b"all"), some_values(SHARED.ring)
    assert len({key.encrypt(values)[0] for _ in range(20)}) == 20
    first, second = public.encrypt(values), public.encrypt(values)
    assert (first != second).mean() > 0.99


def test_a_public_share_is_the_common_polynomial_times_the_secret_but_for_a_small_error() -> None:
    ring, keys = THRESHOLD.ring, THRESHOLD.keys
    key = Key(THRESHOLD, SEED, b"holder 0")
    common = uniform(bytes(32), b"a", ring.degree, ring.key_primes)
    product = keys.decrypted(
        sealapi.Decryptor(keys.context, keys.secret(key._share)),
        keys.ciphertext(np.stack([np.zeros_like(common), common]), 1.0),
    )
    errors = [
        coefficients(keys, add(key.public_share(common), product, ring.key_primes))
        for _ in range(2)
    ]
    assert errors[0] != errors[1]
    deviation = np.std(errors)
    assert abs(deviation / math.sqrt(21 / 2) - 1) < 0.05  # SEAL's centred binomial of 21 bits
    assert np.abs(errors).max() <= 21


def test_a_secret_is_the_transform_of_its_ternary_coefficients() -> None:
    key = Key(THRESHOLD, SEED, b"holder 0")
    found = coefficients(THRESHOLD.keys, key._share)
    assert found == ternary(SEED, b"holder 0", 4096).tolist()


def test_noise_is_added_to_the_coefficients_and_to_nothing_else() -> None:
    public, keys = collective()
    ring = THRESHOLD.ring
    second = public.encrypt(some_values(ring))[1]
    drawn = gaussian(ring.degree, 2.0**40, from_seed(SEED, b"noise"))
    difference = subtract(
        keys[0].partial(second, drawn), keys[0].partial(second, None), ring.primes
    )
    found = coefficients(THRESHOLD.data, difference)
    assert found == drawn.tolist()
    assert abs(np.std(found) / 2**40 - 1) < 4 / math.sqrt(2 * ring.degree)


def test_noise_reaches_the_slots_with_the_square_root_of_half_the_degree() -> None:
    key, ring = Key(SHARED, SEED, b"all"), SHARED.ring
    ciphertext = SHARED.expand(*key.encrypt(np.zeros(ring.degree)))
    drawn = gaussian(ring.degree, 2.0**40, from_seed(SEED, b"slots"))
    slots = SHARED.decode(add(ciphertext[0], key.partial(ciphertext[1], drawn), ring.primes))
    expected = 2.0**40 * math.sqrt(ring.degree / 2) / SHARED.scale
    assert abs(slots.std() / expected - 1) < 4 / math.sqrt(2 * ring.degree)


def test_flooding_works_for_the_ciphertext_whose_second_polynomial_is_one() -> None:
    key, ring = Key(SHARED, SEED, b"all"), SHARED.ring
    ones = np.ones((1, ring.degree), np.uint64)
    drawn = gaussian(ring.degree, 2.0**30, from_seed(SEED, b"ones"))
    found = coefficients(SHARED.data, key.partial(ones, drawn))
    assert found == (drawn + ternary(SEED, b"all", ring.degree)).tolist()


def test_nothing_is_decrypted_for_a_transparent_ciphertext() -> None:
    key = Key(SHARED, SEED, b"all")
    with pytest.raises(LocalProtocolError, match="zero"):
        key.partial(np.zeros((1, 4096), np.uint64), None)


@pytest.mark.parametrize(
    "values",
    [np.zeros(4095), np.zeros((1, 4096)), np.full(4096, 1.01), np.full(4096, math.nan)],
    ids=["short", "shape", "above one", "not a number"],
)
def test_values_that_do_not_fit_are_refused(values: NDArray[np.float64]) -> None:
    with pytest.raises(LocalProtocolError):
        SHARED.encode(values)


def test_a_scale_that_leaves_no_room_is_refused() -> None:
    for scale in (0.5, 2.0**58, math.nan):
        with pytest.raises(InputError, match="scale"):
            Context(SHARED.ring, scale)


def test_a_key_is_neither_printed_nor_pickled_nor_copied() -> None:
    key = Key(SHARED, SEED, b"all")
    assert repr(key) == "<Key>"
    for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            attempt(key)


def test_no_file_stays_open_and_none_has_a_name() -> None:
    key, ring = Key(SHARED, SEED, b"all"), SHARED.ring
    before = sorted(os.listdir("/proc/self/fd"))
    opened(SHARED, SHARED.expand(*key.encrypt(some_values(ring))), (key,))
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_a_server_that_only_adds_does_not_load_seal() -> None:
    code = (
        "import sys, protocols.ckks, protocols.ckks.residues, protocols.ckks.noise\n"
        "raise SystemExit('tenseal' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_rejection_is_what_makes_residues_uniform() -> None:
    """Without it the low half of this range would be seen twice as often as the high."""
    prime = 2**33 * 3 // 4 // 8192 * 8192 + 1
    row = uniform(bytes(32), b"a", 4096, (prime,))[0]
    assert abs((row < 2**33 // 4).mean() - 2**33 / 4 / prime) < 4 / math.sqrt(4 * 4096)
    assert residues.size(4096, (prime,)) == 4096 * 33 // 8
