"""Secrets do not print, pickle, copy or hash, and are taken once."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from protocols.errors import LocalProtocolError
from protocols.secrets import Once, Secret

VALUE = b"thirty-two bytes nobody may see."

HOLDERS = pytest.mark.parametrize(
    "holder", [Secret(VALUE), Once(VALUE), Once(Secret(VALUE))], ids=["secret", "once", "both"]
)


@HOLDERS
def test_a_holder_does_not_print_its_value(holder: Any) -> None:
    for text in (repr(holder), str(holder), f"{holder}", f"{holder!r}", f"{[holder]}"):
        assert VALUE.decode() not in text
        assert VALUE.hex() not in text


@HOLDERS
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_holder_is_not_pickled(holder: Any, protocol: int) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(holder, protocol)


@HOLDERS
@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
def test_a_holder_is_not_copied(holder: Any, duplicate: Any) -> None:
    with pytest.raises(TypeError):
        duplicate(holder)


def test_a_secret_is_not_hashed() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Secret(VALUE))


def test_a_secret_has_no_bytes_but_through_expose() -> None:
    secret: Any = Secret(VALUE)
    assert secret.expose() == VALUE
    assert len(secret) == len(VALUE)
    for read in (bytes, list, memoryview, lambda held: held[0], lambda held: held + b""):
        with pytest.raises(TypeError):
            read(secret)


def test_secrets_are_equal_by_value_and_to_secrets_only() -> None:
    assert Secret(VALUE) == Secret(bytes(VALUE))
    assert Secret(VALUE) != Secret(bytes(32))
    assert Secret(VALUE) != Secret(VALUE[:-1])
    assert Secret(VALUE) != VALUE


def test_a_value_is_taken_once() -> None:
    once = Once(VALUE)
    assert repr(once) == "<Once: ready>"
    assert once.take() == VALUE
    assert repr(once) == "<Once: taken>"
    with pytest.raises(LocalProtocolError, match="already answered"):
        once.take()


def test_of_many_threads_one_takes_the_value() -> None:
    once = Once(VALUE)

    def take(_: int) -> bool:
        try:
            once.take()
        except LocalProtocolError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(take, range(64))) == 1
