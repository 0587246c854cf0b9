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

from protocols.ckks import Coefficients, Engine
from protocols.ckks.client import Private, Published, encrypt, open_sum
from protocols.ckks.keys import SharedKey
from protocols.ckks.messages import SharedSum
from protocols.ckks.params import Agreement, Params
from protocols.ckks.server import CollectUploads
from protocols.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, reals_of, small_ckks
from protocols.wire import with_checksum, without_checksum

CLIENTS = (1, 4, 6, 9)
# Two ciphertexts, the second in part; on coefficients of two polynomials, and of one.
SHARED = {
    Engine.SEAL: small_ckks(Engine.SEAL, clip=0.5, decryptions=2, entries=2500),
    Engine.COEFFICIENTS: small_ckks(
        clip=0.5, decryptions=2, entries=9000, ring=Coefficients(messages=2)
    ),
}
SECRET = Secret(bytes(range(32)))


def agreed(params: Params, index: int = 0) -> Agreement:
    public = hashlib.sha256(b"model %d" % index).digest()
    return Agreement(params=params, session=bytes(range(16)), round=index, public_digest=public)


def vector(client: int, params: Params) -> NDArray[np.float64]:
    return np.random.default_rng(client).uniform(-0.5, 0.5, params.entries)


def close_to(values: NDArray[Any], clients: Iterable[int], params: Params) -> bool:
    survivors = tuple(clients)
    total = np.sum([vector(client, params) for client in survivors], axis=0)
    tolerance = 8 * params.mean_stddev(len(survivors)) * len(survivors)
    return bool((np.abs(reals_of(params, values) - total) < tolerance).all())


def shared_round(
    clients: Iterable[int], params: Params
) -> tuple[bytes, dict[int, bytes], SharedKey]:
    agreement = agreed(params)
    key = SharedKey(agreement, SECRET)
    collect, sent = CollectUploads(agreement, key.digest, CLIENTS), {}
    for client in clients:
        upload = encrypt(agreement, client, key, vector(client, params))
        collect.receive(list(upload))
        sent[client] = upload.name
    return collect.close_shared(), sent, key


@pytest.mark.parametrize("clients", [CLIENTS, (4, 9), (1, 4, 6)], ids=str)
def test_clients_of_a_shared_key_open_the_sum_of_the_survivors(
    engine: Engine, clients: tuple[int, ...]
) -> None:
    params = SHARED[engine]
    message, sent, key = shared_round(clients, params)
    results = {
        client: open_sum(
            agreed(params), client, key, message, burn=BurnInMemory(), sent=sent.get(client)
        )
        for client in CLIENTS
    }
    assert all(isinstance(result, Published) for result in results.values())
    published = [result for result in results.values() if isinstance(result, Published)]
    assert {result.survivors for result in published} == {clients}
    assert close_to(published[0].values, clients, params)
    assert len({result.values.tobytes() for result in published}) == 1


def test_an_upload_is_named_by_its_frames_or_by_its_seed(engine: Engine) -> None:
    params = SHARED[engine]
    upload = encrypt(agreed(params), 1, SharedKey(agreed(params), SECRET), vector(1, params))
    with pytest.raises(LocalProtocolError, match="once all its frames were taken"):
        _ = upload.name
    frames = list(upload)
    found = hashlib.sha256(b"".join(frames)).digest()
    if engine is Engine.COEFFICIENTS:
        (found,) = {frame[62:94] for frame in frames}  # in front of every ciphertext
    assert upload.name == found
    assert len(b"".join(frames)) == params.vector_size + 2 * (62 + 16)


# --- what is not flooded stays ---


def test_an_unflooded_sum_says_that_it_may_not_leave_the_client(engine: Engine) -> None:
    params = replace(SHARED[engine], flooding=None)
    message, sent, key = shared_round(CLIENTS, params)
    result = open_sum(agreed(params), 1, key, message, burn=BurnInMemory(), sent=sent[1])
    assert isinstance(result, Private)
    assert close_to(result.expose(), CLIENTS, params)
    assert result.survivors == CLIENTS
    assert repr(result) == f"<Private: {params.entries} entries>"
    for step in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="neither pickled nor copied"):
            step(result)


# --- a sum under a shared key ---


def resummed(params: Params, message: bytes, key: SharedKey, **changed: Any) -> bytes:
    agreement = agreed(params)
    found = SharedSum.from_bytes(
        message, expect=agreement.header, context=key.context(agreement), params=params
    )
    return replace(found, **changed).to_bytes()


@functools.cache
def summed(engine: Engine) -> tuple[bytes, dict[int, bytes], SharedKey]:
    return shared_round(CLIENTS, SHARED[engine])


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
    engine: Engine, summands: Callable[[dict[int, bytes]], Mapping[int, bytes]], refusal: str
) -> None:
    params = SHARED[engine]
    message, sent, key = summed(engine)
    bad = resummed(params, message, key, summands=summands(sent))
    with pytest.raises(RemoteProtocolError, match=refusal):
        open_sum(agreed(params), 1, key, bad, burn=BurnInMemory(), sent=sent[1])


def test_a_client_that_sent_nothing_is_not_named(engine: Engine) -> None:
    params = SHARED[engine]
    message, _, key = summed(engine)
    with pytest.raises(RemoteProtocolError, match="names one that we did not send"):
        open_sum(agreed(params), 1, key, message, burn=BurnInMemory(), sent=None)


def test_a_round_opens_one_sum_and_the_same_again_to_the_same_numbers(engine: Engine) -> None:
    params = SHARED[engine]
    message, sent, key = summed(engine)
    other, sent_again, _ = shared_round(CLIENTS, params)
    burn = BurnInMemory()
    one, same = (
        open_sum(agreed(params), 1, key, message, burn=burn, sent=sent[1]) for _ in range(2)
    )
    assert isinstance(one, Published)
    assert isinstance(same, Published)
    assert one.values.tobytes() == same.values.tobytes()
    with pytest.raises(RemoteProtocolError, match="another sum was opened in round 0"):
        open_sum(agreed(params), 1, key, other, burn=burn, sent=sent_again[1])


@pytest.mark.parametrize("index", [0, 1])
def test_a_sum_that_does_not_open_is_refused(engine: Engine, index: int) -> None:
    params = SHARED[engine]
    message, sent, key = summed(engine)
    found = bytearray(without_checksum(message))
    begin = len(found) - params.sum_size + index * params.opened_size
    found[begin : begin + 600] = bytes(600)
    bad = with_checksum(bytes(found))
    with pytest.raises(RemoteProtocolError, match="some key, upload or partial"):
        open_sum(agreed(params), 1, key, bad, burn=BurnInMemory(), sent=sent[1])


def test_too_few_clients_open_nothing(engine: Engine) -> None:
    with pytest.raises(TooFewSurvivors, match="1 clients left"):
        shared_round([4], SHARED[engine])


def test_chunks_may_be_worked_on_elsewhere(engine: Engine) -> None:
    params = SHARED[engine]

    def chunks(work: Any, jobs: Iterable[Any], /) -> Iterable[Any]:
        return map(pickle.loads(pickle.dumps(work)), list(jobs))  # noqa: S301  # our own

    opened, sent, key = shared_round(CLIENTS, params)
    one, other = (
        open_sum(agreed(params), 1, key, opened, burn=BurnInMemory(), sent=sent[1], **more)
        for more in ({}, {"chunks": chunks})
    )
    assert isinstance(one, Published)
    assert isinstance(other, Published)
    assert (one.values == other.values).all()


def test_any_change_of_a_sum_on_its_way_is_refused_with_a_typed_error(engine: Engine) -> None:
    params = SHARED[engine]
    good, sent, key = summed(engine)

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
            open_sum(agreed(params), 1, key, data, burn=nothing, sent=sent[1])

    claim()
