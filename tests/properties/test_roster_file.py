"""A roster's file: what was signed comes back, and nothing else is taken for it."""

import hashlib
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.errors import IdentityError
from secagg.nodes.identities import FORMAT, Identity, PublicIdentity, Roster, sign_roster


def key_of(seed: int) -> SigningKey:
    return SigningKey(Secret(hashlib.sha256(str(seed).encode()).digest()))


OPERATOR = Identity("operator", key_of(-1))
BOSS = OPERATOR.key.public
KEYS = [key_of(seed).public for seed in range(8)]
LETTERS = "ABYZabyz0189._-"
NAMES = st.text(LETTERS, min_size=1, max_size=64)
NUMBERS = st.integers(0, 2**32 - 1)


@st.composite
def members(draw: st.DrawFn) -> dict[int, PublicIdentity]:
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=2, unique=True))
    size = {"min_size": len(keys), "max_size": len(keys), "unique": True}
    numbers, names = draw(st.lists(NUMBERS, **size)), draw(st.lists(NAMES, **size))
    return dict(zip(numbers, map(PublicIdentity, names, keys), strict=True))


PAIR = sign_roster(OPERATOR, {0: ("a", KEYS[0]), 3: ("b", KEYS[1])}, serial=7)
BODY = json.loads(PAIR)["roster"]


def signed(body: bytes) -> bytes:
    """What an operator that signs anything hands out."""
    signature = OPERATOR.key.sign(FORMAT, body).hex().encode()
    return b'{"roster":%b,"signature":"%b"}\n' % (body, signature)


def compact(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


@settings(max_examples=50, deadline=None)
@given(members(), st.integers(1, 2**32 - 1))
def test_what_was_signed_is_read_and_has_one_encoding(
    given_: dict[int, PublicIdentity], serial: int
) -> None:
    data = sign_roster(OPERATOR, given_, serial=serial)
    roster = Roster.read(data, operator=BOSS)
    assert (roster.members, roster.serial, roster.operator) == (given_, serial, OPERATOR.shown)
    assert list(roster.members) == sorted(given_)
    assert sign_roster(OPERATOR, roster.members, serial=roster.serial) == data


@settings(max_examples=30, deadline=None)
@given(members(), members(), st.integers(1, 9), st.integers(1, 9))
def test_two_rosters_of_one_digest_are_one(
    one: dict[int, PublicIdentity], two: dict[int, PublicIdentity], serial: int, other: int
) -> None:
    first = Roster.read(sign_roster(OPERATOR, one, serial=serial), operator=BOSS)
    second = Roster.read(sign_roster(OPERATOR, two, serial=other), operator=BOSS)
    assert (first.digest == second.digest) is ((one, serial) == (two, other))


def test_any_bit_that_flips_is_noticed() -> None:
    for place in range(len(PAIR)):
        for flip in (1, 2, 4, 8, 16, 32, 64, 128, 255):
            changed = PAIR[:place] + bytes([PAIR[place] ^ flip]) + PAIR[place + 1 :]
            with pytest.raises(IdentityError):
                Roster.read(changed, operator=BOSS)


def test_any_cut_is_noticed() -> None:
    for size in range(len(PAIR)):
        for part in (PAIR[:size], PAIR[size + 1 :]):
            with pytest.raises(IdentityError):
                Roster.read(part, operator=BOSS)


@settings(deadline=None)
@given(st.binary(min_size=1), st.integers(0, len(PAIR)))
def test_anything_more_is_noticed(more: bytes, place: int) -> None:
    with pytest.raises(IdentityError):
        Roster.read(PAIR[:place] + more + PAIR[place:], operator=BOSS)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


def test_the_body_that_the_next_tests_change_is_a_good_one() -> None:
    assert signed(compact(BODY)) == PAIR


@settings(deadline=None)
@given(st.sampled_from(sorted(BODY)), JSON)
def test_a_signed_field_of_another_kind_is_refused_all_the_same(field: str, value: Any) -> None:
    body = compact(BODY | {field: value})
    if body != compact(BODY) and not (field == "serial" and _is_serial(value)):
        with pytest.raises(IdentityError):
            Roster.read(signed(body), operator=BOSS)


@settings(deadline=None)
@given(st.sampled_from(["name", "number", "public"]), JSON)
def test_a_signed_member_of_another_kind_is_refused_all_the_same(field: str, value: Any) -> None:
    first, second = BODY["members"]
    body = compact(BODY | {"members": [first | {field: value}, second]})
    if not (field == "number" and type(value) is int and 0 <= value < 3) and not (
        field == "name" and isinstance(value, str) and value.isascii()
    ):
        with pytest.raises(IdentityError):
            Roster.read(signed(body), operator=BOSS)


def _is_serial(value: Any) -> bool:
    return type(value) is int and 1 <= value < 2**32


FIRST, SECOND = BODY["members"]
OTHERWISE = {
    "a field more": compact(BODY | {"until": 1}),
    "a member's field more": compact(BODY | {"members": [FIRST | {"x": 1}, SECOND]}),
    "an operator's field more": compact(BODY | {"operator": BODY["operator"] | {"x": 1}}),
    "a field twice": compact(BODY)[:-1] + b',"serial":7}',
    "a member twice": compact(BODY | {"members": [FIRST, FIRST, SECOND]}),
    "a number twice": compact(BODY | {"members": [FIRST, SECOND | {"number": 0}]}),
    "members out of order": compact(BODY | {"members": [SECOND, FIRST]}),
    "one member": compact(BODY | {"members": [FIRST]}),
    "fields out of order": compact({"format": BODY["format"], **dict(reversed(BODY.items()))}),
    "upper case": compact(BODY).replace(KEYS[0].hex().encode(), KEYS[0].hex().upper().encode()),
    "blanks": json.dumps(BODY).replace('"format": ', '"format":').encode(),
    "an escape": compact(BODY).replace(b'"name":"a"', b'"name":"\\u0061"'),
    "a fraction": compact(BODY).replace(b'"serial":7', b'"serial":7.0'),
    "an exponent": compact(BODY).replace(b'"serial":7', b'"serial":7e0'),
    "a huge number": compact(BODY).replace(b'"serial":7', b'"serial":' + b"7" * 5000),
    "an abyss": compact(BODY).replace(b'"serial":7', b'"serial":' + b"[" * 10**5 + b"]" * 10**5),
    "another version": compact(BODY | {"format": "secagg roster 2"}),
    "no operator": compact({key: BODY[key] for key in BODY if key != "operator"}),
    "no text": b'{"format":"secagg roster 1",\xff}',
}


@pytest.mark.parametrize("body", OTHERWISE.values(), ids=OTHERWISE.keys())
def test_what_an_operator_should_not_have_signed_is_refused(body: bytes) -> None:
    with pytest.raises(IdentityError):
        Roster.read(signed(body), operator=BOSS)
    with pytest.raises(IdentityError):
        Roster.claimed_operator(signed(body))
