"""Shamir's scheme: the field, any t shares, and that t - 1 say nothing."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.errors import InputError
from protocols.primitives import shamir
from protocols.primitives.shamir import ORDER, combine, correct, split
from protocols.secrets import Secret
from protocols.testing import insecure_entropy

MODULUS = 0x1100B  # z^16 + z^12 + z^3 + z + 1
element = st.integers(0, ORDER)
quick = settings(max_examples=60, derandomize=True, deadline=None)


def multiply(a: int, b: int) -> int:
    """The field's product, one bit at a time."""
    product = 0
    while b:
        if b & 1:
            product ^= a
        a <<= 1
        if a > ORDER:
            a ^= MODULUS
        b >>= 1
    return product


def through_tables(a: int, b: int) -> int:
    return int(shamir._EXP[int(shamir._LOG[a]) + int(shamir._LOG[b])])


def shares_of(secret: bytes, threshold: int, holders: int, random: bytes) -> list[bytes]:
    def entropy(count: int) -> bytes:
        assert count == len(random)
        return random

    return [share.expose() for share in split(Secret(secret), threshold, holders, entropy)]


@given(element, element)
@quick
def test_multiplication_is_that_of_the_field(a: int, b: int) -> None:
    assert through_tables(a, b) == multiply(a, b)


@given(element, element, element)
@quick
def test_the_field_axioms_hold(a: int, b: int, c: int) -> None:
    times = through_tables
    assert times(a, b) == times(b, a)
    assert times(a, times(b, c)) == times(times(a, b), c)
    assert times(a, b ^ c) == times(a, b) ^ times(a, c)
    assert times(a, 1) == a
    assert times(a, 0) == 0


@given(st.integers(1, ORDER))
@quick
def test_every_element_but_zero_has_an_inverse(a: int) -> None:
    inverse = int(shamir._EXP[(ORDER - int(shamir._LOG[a])) % ORDER])
    assert multiply(a, inverse) == 1


def test_z_generates_the_whole_group() -> None:
    power, seen = 1, set()
    for _ in range(ORDER):
        seen.add(power)
        power = multiply(power, 2)
    assert power == 1
    assert seen == set(range(1, ORDER + 1))
    assert sorted(shamir._EXP[:ORDER].tolist()) == list(range(1, ORDER + 1))


@st.composite
def sharings(draw: st.DrawFn) -> tuple[bytes, int, int, bytes]:
    holders = draw(st.integers(1, 12))
    threshold = draw(st.integers(1, holders))
    size = 2 * draw(st.integers(1, 32))
    secret = draw(st.binary(min_size=size, max_size=size))
    count = (threshold - 1) * size
    return secret, threshold, holders, draw(st.binary(min_size=count, max_size=count))


@given(sharings(), st.data())
@settings(max_examples=120, derandomize=True, deadline=None)
def test_any_t_shares_in_any_order_rebuild_the_secret(
    sharing: tuple[bytes, int, int, bytes], data: st.DataObject
) -> None:
    secret, threshold, holders, random = sharing
    shares = shares_of(secret, threshold, holders, random)
    chosen = data.draw(st.permutations(range(1, holders + 1)))[:threshold]
    assert combine(chosen, [[shares[holder - 1] for holder in chosen]]) == [Secret(secret)]


@given(sharings())
@quick
def test_shares_are_values_of_the_polynomial(sharing: tuple[bytes, int, int, bytes]) -> None:
    secret, threshold, holders, random = sharing
    symbols = np.frombuffer(random + secret, ">u2").reshape(threshold, -1)
    for holder, share in enumerate(shares_of(secret, threshold, holders, random), 1):
        expected = []
        for coefficients in symbols.T.tolist():
            value = 0
            for coefficient in coefficients:
                value = multiply(value, holder) ^ coefficient
            expected.append(value)
        assert np.frombuffer(share, ">u2").tolist() == expected


def test_many_secrets_are_rebuilt_in_one_pass() -> None:
    secrets = [bytes([number]) * 32 for number in range(5)]
    shares = [shares_of(secret, 3, 5, bytes(range(64))) for secret in secrets]
    rows = [[row[holder - 1] for holder in (5, 2, 3)] for row in shares]
    assert combine([5, 2, 3], rows) == [Secret(secret) for secret in secrets]


def test_one_of_two_shares_takes_every_value_equally_often() -> None:
    # All 2**16 polynomials of degree 1 at once: one symbol of the secret for each of them.
    secret = b"\x12\x34" * 2**16
    every_slope = np.arange(2**16, dtype=">u2").tobytes()
    for share in shares_of(secret, 2, 3, every_slope):
        values, counts = np.unique(np.frombuffer(share, ">u2"), return_counts=True)
        assert len(values) == 2**16
        assert counts.max() == 1


@given(
    threshold=st.integers(2, 6),
    candidate=st.binary(min_size=2, max_size=2),
    seen=st.lists(st.binary(min_size=2, max_size=2), min_size=5, max_size=5),
    data=st.data(),
)
@quick
def test_t_less_one_shares_agree_with_every_secret(
    threshold: int, candidate: bytes, seen: list[bytes], data: st.DataObject
) -> None:
    """For any secret and any t - 1 shares there is one polynomial through them all.

    The values at 0 and at t - 1 holders fix the value at a t-th holder: with that share
    they rebuild the candidate. As many polynomials lead to it as to any other secret.
    """
    others = data.draw(st.permutations(range(1, 8)))[:threshold]
    known, last = others[:-1], others[-1]
    shares = seen[: threshold - 1]
    weights = [int(weight) for weight in shamir._weights_at_zero(others)]
    partial = 0
    for share, weight in zip(shares, weights, strict=False):
        partial ^= through_tables(int.from_bytes(share, "big"), int(shamir._EXP[weight]))
    needed = partial ^ int.from_bytes(candidate, "big")
    unseen = through_tables(needed, int(shamir._EXP[(ORDER - weights[-1]) % ORDER]))
    row = [*shares, unseen.to_bytes(2, "big")]
    assert combine([*known, last], [row]) == [Secret(candidate)]


def test_fewer_shares_than_the_threshold_rebuild_something_else() -> None:
    secret = bytes(range(32))
    shares = shares_of(secret, 3, 4, bytes(reversed(range(64))))
    for pair in itertools.combinations(range(4), 2):
        holders = [holder + 1 for holder in pair]
        assert combine(holders, [[shares[holder] for holder in pair]]) != [Secret(secret)]


def test_with_threshold_one_every_share_is_the_secret() -> None:
    assert shares_of(b"secret", 1, 3, b"") == [b"secret"] * 3


def test_the_largest_holder_has_a_share() -> None:
    secret = b"\xbe\xef"
    shares = shares_of(secret, 2, ORDER, b"\x12\x34")
    assert len(shares) == ORDER
    assert combine([ORDER, 1], [[shares[-1], shares[0]]]) == [Secret(secret)]


@pytest.mark.parametrize(
    ("threshold", "holders"), [(0, 3), (-1, 3), (4, 3), (1, 0), (2, ORDER + 1)]
)
def test_a_threshold_outside_the_holders_is_refused(threshold: int, holders: int) -> None:
    with pytest.raises(InputError, match="cannot share with threshold"):
        split(Secret(bytes(2)), threshold, holders, bytes)


def test_half_a_symbol_is_refused() -> None:
    with pytest.raises(InputError, match="even number"):
        split(Secret(bytes(3)), 2, 3, bytes)


@pytest.mark.parametrize("holders", [[], [1, 1], [0, 1], [-1, 2], [1, ORDER + 1]])
def test_holders_that_are_no_set_of_points_are_refused(holders: list[int]) -> None:
    with pytest.raises(InputError, match="distinct"):
        combine(holders, [[bytes(2)] * len(holders)])


@pytest.mark.parametrize("row", [[b"ab"], [b"ab"] * 3, [b"ab", b"abcdef"], [b"abc", b"abc"]])
def test_shares_that_do_not_fit_the_holders_are_refused(row: list[bytes]) -> None:
    with pytest.raises(InputError):
        combine([1, 2], [row])


# Shares beyond the threshold


def shared_by(count: int, threshold: int, secrets: int) -> tuple[list[Secret], list[list[bytes]]]:
    whole = [Secret(insecure_entropy(n)(32)) for n in range(secrets)]
    rows = [
        [share.expose() for share in split(secret, threshold, count, insecure_entropy(-n))]
        for n, secret in enumerate(whole)
    ]
    return whole, rows


@pytest.mark.parametrize(
    ("count", "threshold", "wrong"),
    [(5, 3, [1]), (7, 3, [0, 6]), (20, 10, [0, 3, 7, 12, 19]), (9, 9, []), (10, 7, [9])],
)
def test_wrong_shares_are_corrected_and_their_holders_named(
    count: int, threshold: int, wrong: list[int]
) -> None:
    secrets, rows = shared_by(count, threshold, 3)
    for place in wrong:  # in some of the secrets only, and in one symbol
        spoiled = bytearray(rows[place % 3][place])
        spoiled[4] ^= 0x81
        rows[place % 3][place] = bytes(spoiled)
    numbers = list(range(1, count + 1))
    of_each = [[place for place in sorted(wrong) if place % 3 == n] for n in range(3)]
    assert correct(numbers, rows, threshold) == (secrets, of_each)


def test_a_secret_of_which_more_are_wrong_than_can_be_told_is_none() -> None:
    _, rows = shared_by(8, 4, 1)
    for place in (0, 3, 5):  # (8 - 4) / 2 are told
        rows[0][place] = bytes(32)
    assert correct(range(1, 9), rows, 4) == ([None], [[]])
    _, rows = shared_by(4, 3, 1)
    rows[0][2] = bytes(32)
    assert correct(range(1, 5), rows, 3) == ([None], [[]])


def test_wrong_shares_of_one_secret_spoil_no_other() -> None:
    secrets, rows = shared_by(9, 5, 6)
    for secret, places in enumerate([(0, 1), (2, 3), (4, 5, 6), (), (7, 8), (8,)]):
        for place in places:
            rows[secret][place] = bytes(32)
    found, wrong = correct(range(1, 10), rows, 5)
    assert found == [*secrets[:2], None, *secrets[3:]]
    assert wrong == [[0, 1], [2, 3], [], [], [7, 8], [8]]
