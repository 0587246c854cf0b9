"""Numbers that are no integers, and byte strings of another size, agree upon nothing."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from protocols import bonawitz, ckks
from protocols.bonawitz import join
from protocols.checks import check_integer, check_size
from protocols.ckks import Model, Ring
from protocols.errors import InputError
from protocols.wire import Header

PAIRS = bonawitz.Params(clients=4, threshold=3, words=5, active=True, max_corrupt=1)
SHARED = ckks.Params(
    model=Model.SHARED_KEY,
    clients=4,
    entries=1500,
    clip=1.0,
    ring=Ring(degree=1024, prime_bits=(26,)),
    scale_sixteenths=320,
    flooding=None,
)
NO_INTEGERS = [2.0, 2.5, True, "2", np.int64(2), 2**32]


@pytest.mark.parametrize("value", [1, 3])
def test_the_ends_of_a_range_belong_to_it(value: int) -> None:
    check_integer("number", value, 1, 3)


@pytest.mark.parametrize("value", [0, 4, -1, 1.0, True, None, "1", np.int64(1)])
def test_what_is_no_integer_of_the_range_is_named_with_its_value(value: Any) -> None:
    with pytest.raises(InputError, match=r"^number .*is no integer in \[1, 3\]$"):
        check_integer("number", value, 1, 3)


def test_a_long_value_is_cut_in_the_message() -> None:
    with pytest.raises(InputError) as caught:
        check_integer("number", "9" * 10**6, 1)  # type: ignore[arg-type]  # wrong on purpose
    assert len(str(caught.value)) < 150


def test_a_size_is_exact() -> None:
    check_size("key", bytes(32), 32)
    for size in (0, 31, 33):
        with pytest.raises(InputError, match=f"key has {size} bytes, expected 32"):
            check_size("key", bytes(size), 32)


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
@pytest.mark.parametrize("name", ["clients", "threshold", "minimum_survivors", "max_corrupt"])
def test_masks_are_agreed_in_integers(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        replace(PAIRS, **{name: value})


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
@pytest.mark.parametrize(
    "name",
    ["clients", "minimum_survivors", "entries", "decryptions", "scale_sixteenths", "holders"],
)
def test_ciphertexts_are_agreed_in_integers(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=name):
        replace(SHARED, **{name: value})


@pytest.mark.parametrize("value", NO_INTEGERS, ids=repr)
def test_rounds_and_clients_are_numbered_in_integers(value: Any) -> None:
    with pytest.raises(InputError, match="round"):
        Header(bytes(16), value)
    agreement = bonawitz.Agreement(
        params=replace(PAIRS, active=False, max_corrupt=None),
        session=bytes(16),
        round=0,
        public_digest=bytes(32),
    )
    with pytest.raises(InputError, match="client"):
        join(agreement, value)
