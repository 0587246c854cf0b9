"""Polynomials modulo a power of two: exact products, what travels of them, numbers in words."""

import functools
import importlib
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.ckks import Coefficients, Engine, Model
from protocols.ckks.coefficients import (
    DEGREE,
    Poly,
    cut,
    errors,
    product,
    raised,
    small_spectrum,
    spectra,
    ternary,
    uncut,
)
from protocols.ckks.encoding import Encoding
from protocols.ckks.keys import arithmetic
from protocols.ckks.params import Agreement, Params, error_variance
from protocols.ckks.residues import Ring
from protocols.errors import DecodeError, InputError, LocalProtocolError
from protocols.primitives.prg import Stream
from protocols.secrets import Secret
from protocols.testing import insecure_entropy, small_ckks, small_threshold

SEED = Secret(bytes(range(32)))
TWO, THREE = Coefficients(limbs=2), Coefficients(limbs=3)
RINGS = pytest.mark.parametrize("ring", [TWO, THREE], ids=["2**64", "2**72"])
quick = settings(max_examples=30, derandomize=True, deadline=None)


def stream(label: str) -> Stream:
    return Stream(SEED, label.encode())


def integers(poly: Poly) -> list[int]:
    """The coefficients, from 0 to q."""
    if poly.low is None:
        return [int(word) for word in poly.high]
    return [(int(word) << 8) + int(low) for word, low in zip(poly.high, poly.low, strict=True)]


def poly_of(ring: Coefficients, values: list[int]) -> Poly:
    reduced = [value % ring.modulus for value in values]
    words = np.array([value // ring.unit for value in reduced], np.uint64)
    low = np.array([value % 256 for value in reduced], np.uint8)
    return Poly(words, low if ring.limbs == 3 else None)


SLOT = 12  # bytes: 4096 x 2**72 is below 2**84


def slots(columns: list[NDArray[np.uint64]]) -> int:
    """A polynomial as an integer: at X = 2**96, its coefficients of so many words."""
    octets = np.stack(columns, axis=-1).view(np.uint8)
    wide = np.zeros((len(octets), SLOT), np.uint8)
    wide[:, : min(SLOT, octets.shape[1])] = octets[:, :SLOT]
    return int.from_bytes(wide.tobytes(), "little")


def times(ring: Coefficients, small: NDArray[np.int8], poly: Poly) -> Poly:
    """The product modulo X^4096 + 1 and q, by two of Python's multiplications."""
    low, high = poly.high, np.zeros(DEGREE, np.uint64)
    if poly.low is not None:
        low, high = poly.high << 8 | poly.low, poly.high >> 56
    whole = slots([low, high])
    words = np.zeros((DEGREE, 2), np.uint64)  # modulo 2**128

    def more(other: NDArray[np.uint64], sign: int) -> None:
        if sign > 0:
            words[:, 0] += other[:, 0]
            words[:, 1] += other[:, 1] + (words[:, 0] < other[:, 0])
        else:
            words[:, 1] -= other[:, 1] + (words[:, 0] < other[:, 0])
            words[:, 0] -= other[:, 0]

    for sign in (1, -1):
        raw = whole * slots([(small == sign).astype(np.uint64)])
        wide = np.zeros((2 * DEGREE, 16), np.uint8)
        octets = np.frombuffer(raw.to_bytes(2 * DEGREE * SLOT, "little"), np.uint8)
        wide[:, :SLOT] = octets.reshape(-1, SLOT)
        parts = wide.view(np.uint64)
        more(parts[:DEGREE], sign)
        more(parts[DEGREE:], -sign)
    if ring.limbs == 2:
        return Poly(words[:, 0].copy(), None)
    return Poly(words[:, 0] >> 8 | words[:, 1] << 56, words[:, 0].astype(np.uint8))


# --- products ---


def constant(value: int) -> Callable[[Coefficients], list[int]]:
    return lambda ring: [value % ring.modulus] * DEGREE


def in_turn(*values: int) -> Callable[[Coefficients], list[int]]:
    return lambda ring: [value % ring.modulus for value in values * (DEGREE // len(values))]


@functools.cache
def signs() -> NDArray[np.int8]:
    words = np.empty(DEGREE, np.uint64)
    stream("signs").fill(words)
    return (words % 2).view(np.int64).astype(np.int8) * np.int8(2) - np.int8(1)


def limbs_of(word: int) -> Callable[[Coefficients], list[int]]:
    """Every limb the largest or smallest that it may be, with random signs."""

    def make(ring: Coefficients) -> list[int]:
        bits = {2: 32, 3: 24}[ring.limbs]
        limb = sum(word << bits * place for place in range(ring.limbs))
        return [limb * sign % ring.modulus for sign in signs().tolist()]

    return make


FACTORS: dict[str, Callable[[Coefficients], list[int]]] = {
    "random": lambda ring: integers(Poly.drawn(ring, stream("a"))),
    "zero": constant(0),
    "minus one": constant(-1),
    "largest": lambda ring: [ring.modulus // 2 - 1] * DEGREE,
    "smallest": lambda ring: [ring.modulus // 2] * DEGREE,
    "largest and smallest": lambda ring: [ring.modulus // 2 - 1, ring.modulus // 2] * (DEGREE // 2),
    "one and minus one": in_turn(1, -1),
    "largest limbs": limbs_of(2**31 - 1),
    "smallest limbs": limbs_of(-(2**31)),
    "largest limbs of 24 bits": limbs_of(2**23 - 1),
    "smallest limbs of 24 bits": limbs_of(-(2**23)),
}


@functools.cache
def smalls() -> dict[str, NDArray[np.int8]]:
    """Ternary polynomials that an exact product takes."""
    drawn = ternary(stream("u"), DEGREE)
    one = np.zeros(DEGREE, np.int8)
    one[4095] = -1
    regular = drawn.copy()
    for length in range(2, DEGREE, 2):  # alternating, as far as it may
        more = regular.copy()
        more[length - 2 : length] = 1, -1
        try:
            small_spectrum(more)
        except LocalProtocolError:
            break
        regular = more
    assert length > 200
    return {"random": drawn, "without zeros": signs(), "-X^4095": one, "alternating": regular}


def check(ring: Coefficients, name: str, poly: Poly) -> None:
    small = smalls()[name]
    once, prepared, expected = small_spectrum(small), spectra(ring, poly), times(ring, small, poly)
    assert product(ring, once, prepared).to_bytes() == expected.to_bytes()
    addend = np.full(DEGREE, 2**54, np.int64)
    addend[::2] = -(2**54)
    expected = expected + poly_of(ring, addend.tolist())
    assert product(ring, once, prepared, addend).to_bytes() == expected.to_bytes()


@RINGS
@pytest.mark.parametrize("factor", FACTORS)
def test_products_are_those_of_pythons_integers(ring: Coefficients, factor: str) -> None:
    check(ring, "random", poly_of(ring, FACTORS[factor](ring)))


@RINGS
@pytest.mark.parametrize("name", ["without zeros", "-X^4095", "alternating"])
def test_products_of_extreme_ternary_polynomials_are_exact(ring: Coefficients, name: str) -> None:
    limbs = "largest limbs" if ring is TWO else "largest limbs of 24 bits"
    for factor in ("random", limbs):
        check(ring, name, poly_of(ring, FACTORS[factor](ring)))


@RINGS
@given(st.binary(min_size=32, max_size=32))
@settings(max_examples=3, derandomize=True, deadline=None)
def test_any_random_product_is_exact(ring: Coefficients, seed: bytes) -> None:
    small = ternary(Stream(Secret(seed), b"small"), DEGREE)
    other = Poly.drawn(ring, Stream(Secret(seed), b"other"))
    found = product(ring, small_spectrum(small), spectra(ring, other))
    assert found.to_bytes() == times(ring, small, other).to_bytes()


def test_the_products_that_these_tests_go_by_are_sums_over_coefficients() -> None:
    small = np.zeros(DEGREE, np.int8)
    small[[0, 5, 4095]] = 1, -1, 1
    for ring in (TWO, THREE):
        poly = Poly.drawn(ring, stream("a"))
        a = integers(poly)
        expected = [
            a[at] - (a[at - 5] if at >= 5 else -a[at - 5]) + (a[0] if at == 4095 else -a[at + 1])
            for at in range(DEGREE)
        ]
        assert integers(times(ring, small, poly)) == [x % ring.modulus for x in expected]


@pytest.mark.parametrize("pattern", [[1], [1, -1], [1, 1, -1, -1], [1, 0]], ids=str)
def test_a_ternary_polynomial_too_regular_for_an_exact_product_is_refused(
    pattern: list[int],
) -> None:
    small = np.array(pattern * (DEGREE // len(pattern)), np.int8)
    with pytest.raises(LocalProtocolError, match="too regular"):
        small_spectrum(small)
    with pytest.raises(LocalProtocolError, match="too regular"):
        small_spectrum(np.stack([smalls()["random"], small]))


def test_a_random_one_is_far_from_too_regular() -> None:
    drawn = ternary(stream("many"), 200 * DEGREE).reshape(200, DEGREE)
    assert np.abs(small_spectrum(drawn)).max() < 2.0**8


@RINGS
@pytest.mark.parametrize(
    "broken",
    [
        lambda exact: lambda x: exact(x).astype(np.complex64).astype(np.complex128),
        lambda exact: lambda x: exact(x) + 0.2,
        lambda exact: lambda x: exact(x) * np.nan,
    ],
    ids=["of single precision", "off by a fifth", "not a number"],
)
def test_a_transform_that_is_not_exact_is_noticed(
    monkeypatch: pytest.MonkeyPatch, ring: Coefficients, broken: Callable[[Any], Any]
) -> None:
    other = spectra(ring, Poly.drawn(ring, stream("a")))
    once = small_spectrum(smalls()["random"])
    monkeypatch.setattr(np.fft, "ifft", broken(np.fft.ifft))
    with pytest.raises(LocalProtocolError, match="the transform of numpy is not exact"):
        product(ring, once, other)


def test_a_polynomial_of_the_other_modulus_is_refused() -> None:
    with pytest.raises(InputError, match=r"modulo 2\*\*64 is none modulo 2\*\*72"):
        spectra(THREE, Poly.zero(TWO))


# --- what is drawn ---


def test_ternary_polynomials_are_uniform_and_known() -> None:
    drawn = ternary(stream("ternary"), 300_000)
    _, counts = np.unique(drawn, return_counts=True)
    assert ((counts - 100_000) ** 2 / 100_000).sum() < 18  # chi squared, 2 degrees: 1e-4
    words = np.empty(2000, np.uint64)
    stream("ternary").fill(words)
    octets = [octet for octet in words.tobytes() if octet < 255]
    assert drawn[:15_000].tolist() == [octet % 3 - 1 for octet in octets[:15_000]]
    assert 255 in words.tobytes()  # it matters


def test_a_byte_of_255_is_no_coefficient() -> None:
    """It would make 0 a little likelier: 255 = 3 x 85."""

    class Full(Stream):
        def fill(self, words: NDArray[np.uint64]) -> None:
            words[:] = np.uint64(2**64 - 1)
            words.view(np.uint8)[::2] = 254

    assert set(ternary(Full(SEED, b"full"), 100).tolist()) == {254 % 3 - 1}


def test_errors_are_centred_binomials_of_21_bits_and_known() -> None:
    drawn = errors(stream("errors"), (100, DEGREE)).reshape(-1)
    count = drawn.size
    assert abs(drawn.mean()) < 4 * (10.5 / count) ** 0.5
    assert drawn.var() == pytest.approx(10.5, rel=4 * (2 / count) ** 0.5)
    fourth = (drawn**4).mean() / drawn.var() ** 2
    assert fourth == pytest.approx(3 - 1 / 21, abs=4 * (24 / count) ** 0.5)
    words = np.empty(100, np.uint64)
    stream("errors").fill(words)
    first, second = ([(int(w) >> at) % 2**21 for w in words] for at in (0, 21))
    expected = [x.bit_count() - y.bit_count() for x, y in zip(first, second, strict=True)]
    assert drawn[:100].tolist() == expected

    class Full(Stream):
        def fill(self, words: NDArray[np.uint64]) -> None:
            words[0::2], words[1::2] = np.uint64(2**21 - 1), np.uint64(2**64 - 2**21)

    assert errors(Full(SEED, b"full"), (4,)).tolist() == [21, -21, 21, -21]


@RINGS
def test_a_drawn_polynomial_is_the_words_of_its_stream(ring: Coefficients) -> None:
    words = np.empty(DEGREE + DEGREE // 8, np.uint64)
    stream("a").fill(words)
    assert Poly.drawn(ring, stream("a")).to_bytes() == words.tobytes()[: ring.whole]


# --- bytes ---


@st.composite
def polys(draw: st.DrawFn, ring: Coefficients) -> Poly:
    """Random ones, with extremes among them."""
    made = Poly.drawn(ring, Stream(Secret(draw(st.binary(min_size=32, max_size=32))), b"any"))
    ends = st.sampled_from([0, 1, 255, 256, 2**63 - 1, 2**63, ring.modulus // 2, ring.modulus - 1])
    values = integers(made)
    for place in draw(st.lists(st.integers(0, DEGREE - 1), max_size=8)):
        values[place] = draw(ends)
    return poly_of(ring, values)


@RINGS
@given(st.data())
@settings(max_examples=6, derandomize=True, deadline=None)
def test_polynomials_survive_their_bytes_and_add_up_with_carries(
    ring: Coefficients, data: st.DataObject
) -> None:
    one, other = data.draw(polys(ring)), data.draw(polys(ring))
    packed = one.to_bytes()
    assert len(packed) == ring.whole
    assert integers(Poly.read(ring, packed)) == integers(one)
    for bad in (packed[:-1], packed + b"\0", b""):
        with pytest.raises(DecodeError, match=f"expected {ring.whole}"):
            Poly.read(ring, bad)
    expected = [x + y for x, y in zip(integers(one), integers(other), strict=True)]
    assert integers(one + other) == [x % ring.modulus for x in expected]
    nearest = [(x + ring.unit // 2) // ring.unit % 2**64 for x in integers(one)]
    assert one.words.tolist() == nearest


@RINGS
def test_a_polynomial_is_something_unless_all_of_it_is_zero(ring: Coefficients) -> None:
    assert not Poly.zero(ring)
    for place, value in ((0, 1), (4095, 1), (7, 255), (9, ring.modulus - 1)):
        values = [0] * DEGREE
        values[place] = value
        assert poly_of(ring, values)


@RINGS
def test_a_small_polynomial_has_signs_and_a_large_one_is_not_small(ring: Coefficients) -> None:
    values = [0, 1, -1, 21, -21, 22, -22, 255, -256, 2**40, -(2**40)] + [0] * 4085
    assert poly_of(ring, values).centred().tolist() == values
    for large in (ring.modulus // 2, ring.modulus // 2 - 1, -ring.modulus // 2, 2**62, -(2**62)):
        found = poly_of(ring, [large] * DEGREE).centred()
        assert (np.abs(found.astype(object)) >= 2**54).all()


words = st.lists(
    st.one_of(
        st.integers(0, 2**64 - 1),
        st.sampled_from([0, 2**64 - 1, 2**63, 2**63 - 1]),
        st.builds(lambda at, by: (2**at + by) % 2**64, st.integers(0, 63), st.integers(-1, 1)),
    ),
    max_size=20,
).map(lambda found: np.array(found, np.uint64))


@given(words, st.integers(2, 8))
@quick
def test_what_travels_is_the_nearest_of_so_many_bytes(found: Any, kept: int) -> None:
    sent = cut(found, kept)
    assert len(sent) == kept * len(found)
    unit = 2 ** (64 - 8 * kept)
    came = raised(uncut(sent, kept), kept)
    for before, after in zip(found.tolist(), came.tolist(), strict=True):
        assert after == (before + unit // 2) // unit * unit % 2**64
    assert cut(came, kept) == sent


@given(st.integers(2, 8), st.data())
@quick
def test_any_bytes_are_integers_and_the_only_encoding_of_them(
    kept: int, data: st.DataObject
) -> None:
    sent = data.draw(st.binary(max_size=160).map(lambda found: found[: len(found) // kept * kept]))
    assert cut(raised(uncut(sent, kept), kept), kept) == sent


@given(st.lists(words, min_size=2, max_size=5), st.integers(2, 8))
@quick
def test_what_travelled_adds_up_modulo_its_bytes(found: list[Any], kept: int) -> None:
    length = min(map(len, found))
    parts = [uncut(cut(each[:length], kept), kept) for each in found]
    total = functools.reduce(lambda x, y: x + y, parts)
    alone = sum(raised(part, kept) for part in parts)
    assert (raised(total, kept) == alone).all()


# --- numbers in words ---


def encoding(clients: int, exact_bits: int) -> Encoding:
    return Encoding(clients=clients, clip=2.0, scale=2.0**50, exact_bits=exact_bits)


@given(st.integers(2, 5000), st.integers(8, 63), st.integers(1, 64), st.data())
@settings(max_examples=40, derandomize=True, deadline=None)
def test_integers_come_back_exactly_whatever_the_error_below_half_a_unit(
    clients: int, exact_bits: int, bits: int, data: st.DataObject
) -> None:
    made = encoding(clients, exact_bits)
    try:
        count = made.digits(bits)
    except InputError:
        assert bits > exact_bits
        assert 2**exact_bits < 2 * clients
        return
    some = st.one_of(
        st.integers(0, 2**bits - 1), st.sampled_from([0, 1, 2**bits - 1, 2**bits // 2])
    )
    summands = data.draw(st.lists(st.lists(some, min_size=3, max_size=3), min_size=1, max_size=4))
    times_each = max(1, clients // len(summands))
    total = np.zeros(3 * count, np.uint64)
    for values in summands:
        total += made.encode_integers(np.array(values, np.uint64), bits) * np.uint64(times_each)
    most = 2 ** (63 - exact_bits)
    error = st.one_of(st.integers(1 - most, most - 1), st.sampled_from([1 - most, most - 1]))
    found = data.draw(st.lists(error, min_size=1, max_size=4))
    total += np.resize(np.array([each % 2**64 for each in found], np.uint64), len(total))
    expected = [sum(column) * times_each % 2**bits for column in zip(*summands, strict=True)]
    assert made.decode_integers(total, bits).tolist() == expected


def test_all_clients_may_send_the_largest_integer() -> None:
    """Every digit full: the carries need all the room that they have."""
    for clients in (2, 3, 4, 5, 255, 256, 257):
        made = encoding(clients, 12)
        for bits in (1, 11, 12, 13, 30, 63, 64):
            largest = np.array([2**bits - 1], np.uint64)
            total = made.encode_integers(largest, bits) * np.uint64(clients)
            expected = clients * (2**bits - 1) % 2**bits
            assert made.decode_integers(total, bits).tolist() == [expected]


@pytest.mark.parametrize("signed", [-1, -5, 7])
def test_negative_integers_wrap_around_as_under_masks(signed: int) -> None:
    made = encoding(4, 20)
    total = 3 * made.encode_integers(np.array([signed], np.int64), 32)
    assert made.decode_integers(total, 32).tolist() == [3 * signed % 2**32]


@pytest.mark.parametrize("bits", [0, 65, -1])
def test_integers_of_no_number_of_bits_are_refused(bits: int) -> None:
    with pytest.raises(InputError, match="bits"):
        encoding(4, 20).digits(bits)


def test_digits_without_room_for_carries_are_refused() -> None:
    with pytest.raises(InputError, match="8 exact bits, none beside the carries"):
        encoding(200, 8).digits(9)
    assert encoding(200, 8).digits(8) == 1


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=20), st.integers(1, 50))
@quick
def test_reals_come_back_to_a_unit_of_the_scale(values: list[float], clients: int) -> None:
    made = encoding(50, 8)
    total = made.encode_reals(np.array(values)) * np.uint64(clients)
    for before, after in zip(values, made.decode_reals(total), strict=True):
        exact = Fraction(before) * clients
        rounding = Fraction(clients, 2) * Fraction(2.0 / 2.0**50)
        assert abs(Fraction(after) - exact) <= rounding + abs(exact) * Fraction(2.0**-51)


@pytest.mark.parametrize("value", [2.0000001, -3.0, np.nan, np.inf])
def test_a_real_above_the_clip_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="above the clip"):
        encoding(4, 8).encode_reals(np.array([0.0, value]))


@pytest.mark.parametrize("limbs", [2, 3])
@pytest.mark.parametrize("kept", [3, 4, 7, 8])
def test_any_error_that_parameters_allow_leaves_integers_exact(limbs: int, kept: int) -> None:
    params = small_threshold(ring=Coefficients(limbs=limbs, kept=kept), clients=100)
    made, unit = params.encoding, params.lattice.unit
    worst = int(params.largest_error // unit)
    for bits in (1, made.exact_bits, made.exact_bits + 1, 32, 64):
        values = np.array([0, 1, 2**bits - 1, 2**bits // 3], np.uint64)
        total = made.encode_integers(values, bits) * np.uint64(100)
        for error in (worst, -worst, 1, 0):
            found = made.decode_integers(total + np.uint64(error % 2**64), bits)
            assert found.tolist() == [int(value) * 100 % 2**bits for value in values]


# --- against SEAL ---


def test_a_product_reduced_modulo_seals_prime_is_what_seal_decrypts() -> None:
    """Below 2**71 in size, so that modulo 2**72 it is the product in the integers."""
    seal = importlib.import_module("protocols.ckks.microsoft_seal")
    ring = Ring(degree=DEGREE, prime_bits=(58,))
    made, (prime,) = seal.context(ring, 2.0**40), ring.primes
    key = seal.Key(made, SEED, b"oracle")
    small = ternary(Stream(SEED, b"oracle"), DEGREE)
    for label in ("one", "two", "three"):
        drawn = Poly.drawn(TWO, stream(label)).high % np.uint64(prime)
        theirs = made.data.coefficients(key.partial(made.data.transform(drawn[None]), None))[0]
        other = poly_of(THREE, [int(value) for value in drawn])
        ours = integers(product(THREE, small_spectrum(small), spectra(THREE, other)))
        centred = [value - 2**72 if value >= 2**71 else value for value in ours]
        assert [value % prime for value in centred] == theirs.tolist()


def agreement_of(params: Params) -> Agreement:
    return Agreement(params=params, session=bytes(16), public_digest=bytes(32))


def coefficients_of(params: Params, values: NDArray[Any]) -> NDArray[np.float64]:
    """Of SEAL's slots: each is N/2 coefficients' variance, so that only moments are right."""
    if params.engine is Engine.COEFFICIENTS:
        return values.view(np.int64).astype(np.float64)
    return values * params.scale / (params.ring.degree / 2) ** 0.5


def shared_error(params: Params, index: int) -> NDArray[np.float64]:
    """The error of one ciphertext of zeros."""
    made = arithmetic(agreement_of(params))
    entropy = insecure_entropy(index)
    encrypt = made.encrypt_shared(made.agreement, 1, SEED, entropy)
    sums = made.sums()
    sent = encrypt((0, np.zeros(params.entries)))
    sums.add(0, sums.read(0, memoryview(sent)))
    opened = made.open_shared(made.agreement, SEED, {1: sent[:32]}, b"")
    return coefficients_of(params, opened((0, memoryview(sums.shared(0)))))


def threshold_error(params: Params, index: int) -> NDArray[np.float64]:
    made = arithmetic(agreement_of(params))
    seeds = {n: Secret(insecure_entropy(f"{index} {n}")(32)) for n in range(4)}
    shares = {n: made.public_share(n, seed, seed) for n, seed in seeds.items()}
    encrypt = made.encrypt_for_all(made.agreement, 1, made.total(shares), insecure_entropy(index))
    sums = made.sums()
    sums.add(0, sums.read(0, memoryview(encrypt((0, np.zeros(params.entries))))))
    second = memoryview(sums.second(0))
    for holder, seed in seeds.items():
        part = made.part(holder, seed, None, b"")((0, second))
        sums.add_part(0, sums.read_part(0, memoryview(part)))
    return coefficients_of(params, sums.values(0))


@pytest.mark.parametrize("model", list(Model), ids=lambda model: model.name)
def test_an_encryptions_error_has_the_variance_of_the_page(engine: Engine, model: Model) -> None:
    """Over 24 keys: each is a little wider or narrower. SEAL's and ours have the same moments."""
    exact: dict[str, Any] = {"entries": 4088, "ring": Coefficients(kept=8)}
    changed = exact if engine is Engine.COEFFICIENTS else {}
    make = small_ckks if model is Model.SHARED_KEY else small_threshold
    params = make(engine, **changed)
    measure = threshold_error
    if model is Model.SHARED_KEY:
        params, measure = make(engine, **changed, flooding=None), shared_error
    found = np.concatenate([measure(params, index) for index in range(24)])
    variance = error_variance(params.ring, model, params.holders)
    deviation = variance**0.5
    assert abs(found.mean()) < 5 * deviation / found.size**0.5
    rounding = 1 / 12 if engine is Engine.SEAL else 0  # of what is encoded; zeros are exact
    assert variance <= found.var() * 1.03
    assert found.var() <= (variance + rounding) * 1.03


@pytest.mark.parametrize("limbs", [2, 3])
@pytest.mark.parametrize("kept", [3, 6, 7, 8])
def test_the_bound_on_a_sums_error_has_room_for_every_rounding(limbs: int, kept: int) -> None:
    """Of what each client sends, first to words and then to bytes; and of the decryptor's words."""
    ring = Coefficients(limbs=limbs, kept=kept)
    params = small_ckks(ring=ring, flooding=None)
    values = [ring.dropped // 2 + by for by in range(-256, 257)]
    sent = cut(poly_of(ring, [*values, *[0] * (DEGREE - len(values))]).words, kept)
    came = raised(uncut(sent, kept), kept).tolist()
    half = ring.modulus // 2
    worst = max(
        abs((x * ring.unit - y + half) % ring.modulus - half)
        for x, y in zip(came, values, strict=False)
    )
    opened = ring.unit // 2  # 0 modulo 2**64, whose words are whole
    gaussian = 12.5 * params.sum_variance**0.5
    assert params.largest_error - gaussian >= params.clients * worst + opened - 1e-3
