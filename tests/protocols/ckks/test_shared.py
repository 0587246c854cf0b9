"""Whole rounds of CKKS under a shared key: every client opens the same sum, once a round."""

import copy
import functools
import hashlib
import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.ckks.client import Private, Published, encrypt, open_sum
from protocols.ckks.keys import SharedKey
from protocols.ckks.messages import SharedSum
from protocols.ckks.params import Agreement, Model, Params
from protocols.ckks.residues import Ring
from protocols.ckks.server import CollectUploads
from protocols.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from protocols.secrets import Secret
from protocols.testing import BurnInMemory
from protocols.wire import with_checksum, without_checksum

CLIENTS = (1, 4, 6, 9)
ENTRIES = 2500  # two chunks, the second in part


def planned(**changed: Any) -> Params:
    draft = Params(
        **{
            "clients": 4,
            "entries": ENTRIES,
            "clip": 0.5,
            "ring": Ring(degree=2048, prime_bits=(53,)),
            "scale_half_bits": 2,
            "flooding": 30,
            "decryptions": 2,
            **changed,
        }
    )
    return replace(draft, scale_half_bits=draft.largest_scale_half_bits)


SHARED = planned(model=Model.SHARED_KEY)
SECRET = Secret(bytes(range(32)))


def agreed(params: Params, index: int = 0) -> Agreement:
    public = hashlib.sha256(b"model %d" % index).digest()
    return Agreement(params=params, session=bytes(range(16)), round=index, public_digest=public)


def vector(client: int) -> NDArray[np.float64]:
    return np.random.default_rng(client).uniform(-0.5, 0.5, ENTRIES)


def total(clients: Iterable[int]) -> NDArray[np.float64]:
    return np.sum([vector(client) for client in clients], axis=0)


def close_to(values: NDArray[np.float64], clients: Iterable[int], params: Params) -> bool:
    survivors = tuple(clients)
    tolerance = 8 * params.mean_stddev(len(survivors)) * len(survivors)
    return bool((np.abs(values - total(survivors)) < tolerance).all())


def shared_round(
    clients: Iterable[int], params: Params = SHARED
) -> tuple[bytes, dict[int, bytes], SharedKey]:
    agreement = agreed(params)
    key = SharedKey(agreement, SECRET)
    collect, sent = CollectUploads(agreement, key.digest, CLIENTS), {}
    for client in clients:
        upload = encrypt(agreement, client, key, vector(client))
        collect.receive(list(upload))
        sent[client] = upload.digest
    return collect.close_shared(), sent, key


@pytest.mark.parametrize("clients", [CLIENTS, (4, 9), (1, 4, 6)], ids=str)
def test_clients_of_a_shared_key_open_the_sum_of_the_survivors(clients: tuple[int, ...]) -> None:
    message, sent, key = shared_round(clients)
    results = {
        client: open_sum(
            agreed(SHARED), client, key, message, burn=BurnInMemory(), sent=sent.get(client)
        )
        for client in CLIENTS
    }
    assert all(isinstance(result, Published) for result in results.values())
    published = [result for result in results.values() if isinstance(result, Published)]
    assert {result.survivors for result in published} == {clients}
    assert close_to(published[0].values, clients, SHARED)
    assert len({result.values.tobytes() for result in published}) == 1


def test_a_digest_is_that_of_all_frames() -> None:
    upload = encrypt(agreed(SHARED), 1, SharedKey(agreed(SHARED), SECRET), vector(1))
    with pytest.raises(LocalProtocolError, match="once all its frames were taken"):
        _ = upload.digest
    frames = b"".join(upload)
    assert upload.digest == hashlib.sha256(frames).digest()
    assert len(frames) == SHARED.vector_size + 2 * (62 + 16)


# --- what is not flooded stays ---


def unflooded() -> Params:
    return planned(model=Model.SHARED_KEY, ring=Ring(degree=1024, prime_bits=(26,)), flooding=None)


def test_an_unflooded_sum_says_that_it_may_not_leave_the_client() -> None:
    params = unflooded()
    message, sent, key = shared_round(CLIENTS, params)
    result = open_sum(agreed(params), 1, key, message, burn=BurnInMemory(), sent=sent[1])
    assert isinstance(result, Private)
    assert close_to(result.expose(), CLIENTS, params)
    assert result.survivors == CLIENTS
    assert repr(result) == "<Private: 2500 entries>"
    for step in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            step(result)


# --- a sum under a shared key ---


def resummed(message: bytes, key: SharedKey, **changed: Any) -> bytes:
    agreement = agreed(SHARED)
    found = SharedSum.from_bytes(
        message, expect=agreement.header, context=key.context(agreement), params=SHARED
    )
    return replace(found, **changed).to_bytes()


@functools.cache
def summed() -> tuple[bytes, dict[int, bytes], SharedKey]:
    return shared_round(CLIENTS)


@pytest.mark.parametrize(
    ("summands", "refusal"),
    [
        (lambda sent: {1: sent[1]}, "a sum of 1 uploads"),
        (lambda sent: sent | {10: bytes(32)}, "a sum of 5 uploads"),
        (lambda sent: {4: sent[4], 6: sent[6]}, "lacks our upload"),
        (lambda sent: sent | {1: bytes(32)}, "one that we did not send"),
        (lambda sent: sent | {4: sent[1]}, "one upload twice"),
    ],
)
def test_a_sum_that_names_other_summands_is_refused(
    summands: Callable[[dict[int, bytes]], Mapping[int, bytes]], refusal: str
) -> None:
    message, sent, key = summed()
    bad = resummed(message, key, summands=summands(sent))
    with pytest.raises(RemoteProtocolError, match=refusal):
        open_sum(agreed(SHARED), 1, key, bad, burn=BurnInMemory(), sent=sent[1])


def test_a_client_that_sent_nothing_is_not_named() -> None:
    message, _, key = summed()
    with pytest.raises(RemoteProtocolError, match="names one that we did not send"):
        open_sum(agreed(SHARED), 1, key, message, burn=BurnInMemory(), sent=None)


def test_a_round_opens_one_sum_and_the_same_again_to_the_same_numbers() -> None:
    message, sent, key = summed()
    other, sent_again, _ = shared_round(CLIENTS)
    burn = BurnInMemory()
    one, same = (
        open_sum(agreed(SHARED), 1, key, message, burn=burn, sent=sent[1]) for _ in range(2)
    )
    assert isinstance(one, Published)
    assert isinstance(same, Published)
    assert one.values.tobytes() == same.values.tobytes()
    with pytest.raises(RemoteProtocolError, match="another sum was opened in round 0"):
        open_sum(agreed(SHARED), 1, key, other, burn=burn, sent=sent_again[1])


def test_a_sum_larger_than_its_summands_can_make_it_is_refused() -> None:
    message, sent, key = summed()
    found = bytearray(without_checksum(message))
    begin = len(found) - 2 * SHARED.partial_size
    found[begin : begin + 600] = bytes(600)
    with pytest.raises(RemoteProtocolError, match="some key, upload or partial"):
        open_sum(
            agreed(SHARED), 1, key, with_checksum(bytes(found)), burn=BurnInMemory(), sent=sent[1]
        )


def test_too_few_clients_open_nothing() -> None:
    with pytest.raises(TooFewSurvivors, match="1 clients left"):
        shared_round([4])


def test_chunks_may_be_worked_on_elsewhere() -> None:
    def chunks(work: Any, jobs: Iterable[Any], /) -> Iterable[Any]:
        return map(pickle.loads(pickle.dumps(work)), list(jobs))  # noqa: S301  # our own

    opened, sent, key = shared_round(CLIENTS)
    one, other = (
        open_sum(agreed(SHARED), 1, key, opened, burn=BurnInMemory(), sent=sent[1], **more)
        for more in ({}, {"chunks": chunks})
    )
    assert isinstance(one, Published)
    assert isinstance(other, Published)
    assert (one.values == other.values).all()


def test_any_change_of_a_sum_on_its_way_is_refused_with_a_typed_error() -> None:
    good, sent, key = summed()

    def nothing(session: bytes, stage: int, request: bytes) -> bool:
        raise AssertionError("burnt")

    @settings(max_examples=25, derandomize=True, deadline=None)
    @given(st.data())
    def claim(source: st.DataObject) -> None:
        body = bytearray(without_checksum(good))
        begin = source.draw(st.integers(0, 52))  # behind it others are as good
        new = source.draw(st.binary(max_size=53 - begin))
        body[begin : begin + len(new)] = new
        data = with_checksum(bytes(body[: len(body) - source.draw(st.integers(0, 3))]))
        if data == good:
            return
        with pytest.raises(RemoteProtocolError):
            open_sum(agreed(SHARED), 1, key, data, burn=nothing, sent=sent[1])

    claim()
