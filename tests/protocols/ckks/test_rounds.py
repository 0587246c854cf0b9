"""Whole rounds of threshold CKKS: sums as planned, whoever is lost; every wrong thing typed."""

import copy
import functools
import hashlib
import multiprocessing.pool
import pickle
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from protocols.ckks.client import encrypt, restore
from protocols.ckks.keys import CollectiveKey, SharedKey
from protocols.ckks.messages import Frame, Partial, Request
from protocols.ckks.params import Agreement, Model, Params
from protocols.ckks.residues import Ring
from protocols.ckks.server import CollectPartials, CollectUploads, Sum
from protocols.errors import (
    DecodeError,
    InputError,
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, played_key
from protocols.wire import with_checksum, without_checksum

CLIENTS = (1, 4, 6, 9)
HOLDERS = (2, 3, 5, 7)
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
THRESHOLD = planned(model=Model.THRESHOLD, holders=4, threshold=3, max_corrupt=1)
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


class Threshold:
    """A session: its key, and what every party knows."""

    def __init__(self, params: Params = THRESHOLD) -> None:
        self.params = params
        self.burns = {holder: BurnInMemory() for holder in HOLDERS}
        made = played_key(agreed(params), HOLDERS, "requests", burns=self.burns)
        self.key, self.holders, self.shown = made.key, dict(made.states), made.shown

    def collect(self, index: int = 0, clients: Iterable[int] = CLIENTS) -> CollectUploads:
        collect = CollectUploads(agreed(self.params, index), self.key, CLIENTS)
        for client in clients:
            collect.receive(self.frames(client, index))
        return collect

    def frames(self, client: int, index: int = 0) -> list[bytes]:
        key = CollectiveKey.from_bytes(agreed(self.params, index), self.shown)
        return list(encrypt(agreed(self.params, index), client, key, vector(client)))

    def answered(
        self, message: bytes, partials: CollectPartials, alive: Iterable[int], index: int = 0
    ) -> None:
        for holder in alive:
            answer, _ = self.holders[holder].on_request(agreed(self.params, index), message)
            partials.receive(answer)

    def round(self, clients: Iterable[int], alive: Iterable[int], index: int = 0) -> Sum:
        left = tuple(alive)
        message, partials = self.collect(index, clients).close_threshold(left)
        self.answered(message, partials, left, index)
        return partials.close()


@functools.cache
def session() -> Threshold:
    """One that no test changes: whoever answers takes a fresh one, or fresh burns."""
    return Threshold()


def fresh() -> Threshold:
    made = copy.copy(session())
    made.burns = {holder: BurnInMemory() for holder in HOLDERS}
    made.holders = {
        holder: restore(session().holders[holder].into_record(), burn=made.burns[holder])
        for holder in HOLDERS
    }
    return made


# --- sums ---


@pytest.mark.parametrize("clients", [CLIENTS, (4, 9), (1, 4, 6)], ids=str)
@pytest.mark.parametrize("alive", [HOLDERS, (2, 3, 7), (3, 5, 7)], ids=str)
def test_a_threshold_of_holders_opens_the_sum_of_the_survivors(
    clients: tuple[int, ...], alive: tuple[int, ...]
) -> None:
    result = fresh().round(clients, alive)
    assert result.survivors == clients
    assert result.values.shape == (ENTRIES,)
    assert close_to(result.values, clients, THRESHOLD)


def test_several_rounds_are_opened_under_one_key_with_the_same_holders() -> None:
    made = fresh()
    for index in range(2):
        assert close_to(made.round(CLIENTS, (2, 3, 5), index).values, CLIENTS, THRESHOLD)


def test_too_few_clients_open_nothing() -> None:
    with pytest.raises(TooFewSurvivors, match="1 clients left"):
        session().collect(clients=[4]).close_threshold(HOLDERS)


def test_too_few_holders_open_nothing() -> None:
    with pytest.raises(TooFewSurvivors, match="2 holders left, 3 needed"):
        session().collect().close_threshold((2, 3))
    made = fresh()
    message, partials = made.collect().close_threshold(HOLDERS)
    made.answered(message, partials, HOLDERS[:-1])
    with pytest.raises(TooFewSurvivors, match="3 holders left after CollectPartials, 4 needed"):
        partials.close()


def test_an_upload_that_breaks_off_leaves_no_trace() -> None:
    made = fresh()
    collect = made.collect(clients=(1, 4))
    before = collect._total.copy()
    whole = made.frames(6)
    damaged = bytearray(whole[1])
    damaged[100] ^= 1
    for bad in (whole[:1], [], [whole[0], bytes(damaged)], [*whole, whole[0]]):
        with pytest.raises(RemoteProtocolError):
            collect.receive(bad)

    def cut() -> Iterable[bytes]:
        yield whole[0]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        collect.receive(cut())
    assert (collect._total == before).all()
    collect.receive(iter(whole))
    message, partials = collect.close_threshold(HOLDERS)
    made.answered(message, partials, HOLDERS)
    assert close_to(partials.close().values, (1, 4, 6), THRESHOLD)


def test_chunks_may_be_worked_on_elsewhere() -> None:
    made = fresh()
    with multiprocessing.pool.ThreadPool(2) as pool:

        def chunks(work: Any, jobs: Iterable[Any], /) -> Iterable[Any]:
            travelled = pickle.loads(pickle.dumps(work))  # noqa: S301  # our own
            return pool.map(travelled, list(jobs))

        collect = CollectUploads(agreed(THRESHOLD), made.key, CLIENTS)
        for client in CLIENTS:
            upload = encrypt(agreed(THRESHOLD), client, made.key, vector(client), chunks=chunks)
            collect.receive(upload)
        message, partials = collect.close_threshold((2, 3, 5))
        for holder in (2, 3, 5):
            answer, _ = made.holders[holder].on_request(agreed(THRESHOLD), message, chunks=chunks)
            here, _ = made.holders[holder].on_request(agreed(THRESHOLD), message)
            assert answer == here
            partials.receive(answer)
        assert close_to(partials.close(chunks=chunks).values, CLIENTS, THRESHOLD)


# --- uploads ---


def reframed(data: bytes, like: Params, collect: CollectUploads, **changed: Any) -> bytes:
    frame = Frame.from_bytes(
        data,
        expect=collect.agreement.header,
        context=collect._context,
        index=int.from_bytes(data[26:30], "big"),
        params=like,
    )
    return replace(frame, **changed).to_bytes()


def wrong_uploads() -> dict[str, tuple[str, Callable[[CollectUploads, list[bytes]], list[bytes]]]]:
    def changed(index: int, **fields: Any) -> Callable[[CollectUploads, list[bytes]], list[bytes]]:
        def change(collect: CollectUploads, frames: list[bytes]) -> list[bytes]:
            new = reframed(frames[index], THRESHOLD, collect, **fields)
            return [new if place == index else old for place, old in enumerate(frames)]

        return change

    each = THRESHOLD.chunk_size // 2
    some = bytes(range(1, 101)) + bytes(each - 100)
    return {
        "missing": ("1 frames, expected 2", lambda _, frames: frames[:1]),
        "one more": ("more than 2 frames", lambda _, frames: [*frames, frames[0]]),
        "repeated": ("frame 0 of client 6, expected frame 1", lambda _, frames: [frames[0]] * 2),
        "out of order": ("expected frame 0", lambda _, frames: frames[::-1]),
        "stranger": ("party 8 is not expected", changed(0, sender=8)),
        "of two clients": ("frames of clients 6 and 9", changed(1, sender=9)),
        "twice": ("party 4 has already answered", changed(0, sender=4)),
        "other context": ("another context", changed(1, context=bytes(32))),
        "transparent": ("second polynomial is zero", changed(1, ciphertext=some + bytes(each))),
        "residue": ("not below its prime", changed(1, ciphertext=b"\xff" * 2 * each)),
        "short": ("need 27136 bytes", changed(1, ciphertext=some)),
        "truncated": ("checksum", lambda _, frames: [frames[0], frames[1][:-1]]),
    }


@pytest.mark.parametrize("name", wrong_uploads())
def test_a_wrong_upload_is_refused(name: str) -> None:
    refusal, change = wrong_uploads()[name]
    made = session()
    collect = made.collect(clients=(1, 4))
    before = collect._total.copy()
    with pytest.raises(RemoteProtocolError, match=refusal):
        collect.receive(change(collect, made.frames(6)))
    assert (collect._total == before).all()
    assert collect.receive(made.frames(6)) == 6


def test_uploads_under_other_parameters_keys_rounds_and_sessions_are_refused() -> None:
    made, key = session(), SharedKey(agreed(SHARED), SECRET)
    collect = made.collect(clients=())
    for refusal, frames in {
        "another session or round": made.frames(1, index=1),
        "another context": list(
            encrypt(replace(agreed(THRESHOLD), public_digest=bytes(32)), 1, made.key, vector(1))
        ),
    }.items():
        with pytest.raises(DecodeError, match=refusal):
            collect.receive(frames)
    other = SharedKey(agreed(SHARED), Secret(bytes(32)))
    shared = CollectUploads(agreed(SHARED), key.digest, CLIENTS)
    with pytest.raises(DecodeError, match="another context"):
        shared.receive(encrypt(agreed(SHARED), 1, other, vector(1)))
    wider = replace(SHARED, clip=1.0)
    with pytest.raises(DecodeError, match="another context"):
        shared.receive(encrypt(agreed(wider), 1, SharedKey(agreed(wider), SECRET), vector(1)))


def test_no_more_uploads_than_the_errors_were_planned_for() -> None:
    made = session()
    collect = CollectUploads(agreed(THRESHOLD), made.key, range(20))
    for client in range(4):
        collect.receive(encrypt(agreed(THRESHOLD), client, made.key, vector(client)))
    with pytest.raises(RemoteProtocolError, match="the sum is full: 4 clients"):
        collect.receive(encrypt(agreed(THRESHOLD), 5, made.key, vector(5)))


@pytest.mark.parametrize(
    "values",
    [
        np.zeros(ENTRIES - 1),
        np.zeros(ENTRIES, np.float32),
        np.full(ENTRIES, 0.5000001),
        np.full(ENTRIES, np.nan),
        np.full(ENTRIES, -np.inf),
    ],
    ids=["short", "float32", "above the clip", "nan", "infinite"],
)
def test_a_vector_that_is_not_as_agreed_is_not_encrypted(values: NDArray[np.float64]) -> None:
    with pytest.raises(LocalProtocolError):
        encrypt(agreed(SHARED), 1, SharedKey(agreed(SHARED), SECRET), values)


def test_a_late_message_is_dropped() -> None:
    made = session()
    collect = made.collect()
    collect.close_threshold(HOLDERS)
    with pytest.raises(LocalProtocolError, match="CollectUploads is closed"):
        collect.receive(made.frames(1))


def test_the_model_decides_how_a_collection_closes() -> None:
    with pytest.raises(LocalProtocolError, match="close_threshold"):
        session().collect().close_shared()
    key = SharedKey(agreed(SHARED), SECRET)
    with pytest.raises(LocalProtocolError, match="close_shared"):
        CollectUploads(agreed(SHARED), key.digest, CLIENTS).close_threshold(HOLDERS)
    with pytest.raises(InputError, match="must be SHARED_KEY"):
        CollectUploads(agreed(THRESHOLD), key.digest, CLIENTS)
    with pytest.raises(InputError, match="digest has 3 bytes"):
        CollectUploads(agreed(SHARED), b"key", CLIENTS)


# --- a request to the holders ---


@functools.cache
def asked() -> bytes:
    return session().collect().close_threshold((2, 3, 5))[0]


def rerequested(**changed: Any) -> bytes:
    found = Request.from_bytes(
        asked(),
        expect=agreed(THRESHOLD).header,
        context=session().key.context(agreed(THRESHOLD)),
        params=THRESHOLD,
    )
    return replace(found, **changed).to_bytes()


NAMES = {client: hashlib.sha256(bytes([client])).digest() for client in range(5)}


@pytest.mark.parametrize(
    ("changed", "refusal"),
    [
        ({"alive": frozenset({2, 3})}, "2 holders alive, 3 needed"),
        ({"alive": frozenset({2, 3, 5, 6})}, r"no holders: \[6\]"),
        ({"alive": frozenset({3, 5, 7})}, "named as gone"),
        ({"summands": {1: bytes(32)}}, "a sum of 1 uploads"),
        ({"summands": NAMES}, "a sum of 5 uploads"),
        ({"summands": dict.fromkeys((1, 4), bytes(32))}, "one upload twice"),
        ({"context": bytes(32)}, "another context"),
        ({"seconds": bytes(THRESHOLD.partial_size)}, "second polynomial of chunk 0 is zero"),
        ({"seconds": b"\xff" * THRESHOLD.partial_size}, "not below its prime"),
        ({"seconds": b"\1" * (THRESHOLD.partial_size - 1)}, "need 27136 bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_holder_refuses(changed: dict[str, Any], refusal: str) -> None:
    made = fresh()
    with pytest.raises(RemoteProtocolError, match=refusal):
        made.holders[2].on_request(agreed(THRESHOLD), rerequested(**changed))
    made.holders[2].on_request(agreed(THRESHOLD), asked())  # nothing was burnt


def test_a_holder_is_of_one_session() -> None:
    agreement = replace(agreed(THRESHOLD), session=bytes(16))
    with pytest.raises(LocalProtocolError, match="another session"):
        session().holders[2].on_request(agreement, asked())


def test_an_answer_is_a_function_of_the_state_and_the_request() -> None:
    made = fresh()
    holder = made.holders[2]
    answer, evidence = holder.on_request(agreed(THRESHOLD), asked())
    again = restore(holder.into_record(), burn=made.burns[2])
    assert again.on_request(agreed(THRESHOLD), asked()) == (answer, evidence)
    assert sorted(evidence) == list(CLIENTS)
    shares = Partial.from_bytes(answer, expect=agreed(THRESHOLD).header, params=THRESHOLD).shares
    assert shares.keys() == {7}
    other = rerequested(seconds=bytes(reversed(rerequest_seconds())))
    with pytest.raises(RemoteProtocolError):
        again.on_request(agreed(THRESHOLD), other)


def rerequest_seconds() -> bytes:
    return bytes(without_checksum(asked()))[-THRESHOLD.partial_size :]


def test_another_ciphertext_gets_other_noise() -> None:
    """Else the difference of two answers would be the key's product with a known polynomial."""
    made, other = fresh(), fresh()
    seconds = rerequest_seconds()
    half = THRESHOLD.partial_size // 2
    swapped = rerequested(seconds=seconds[:half] + seconds[:half])
    one, two = (
        Partial.from_bytes(
            made.holders[2].on_request(agreed(THRESHOLD), message)[0],
            expect=agreed(THRESHOLD).header,
            params=THRESHOLD,
        ).parts
        for made, message in ((made, asked()), (other, swapped))
    )
    assert one[:half] != two[:half]  # the same c1 in another request
    assert two[:half] != two[half:]  # the same c1 twice in one


# --- partial decryptions ---


def answers(made: Threshold, alive: tuple[int, ...]) -> tuple[CollectPartials, dict[int, bytes]]:
    message, partials = made.collect().close_threshold(alive)
    return partials, {
        holder: made.holders[holder].on_request(agreed(THRESHOLD), message)[0] for holder in alive
    }


def test_a_wrong_partial_is_refused() -> None:
    partials, sent = answers(fresh(), (2, 3, 5))
    found = Partial.from_bytes(sent[2], expect=agreed(THRESHOLD).header, params=THRESHOLD)
    wrong: dict[str, dict[str, Any]] = {
        "party 7 is not expected": {"sender": 7},
        "gives 0 shares": {"shares": {}},
        "gives 1 shares, not one": {"shares": {3: found.shares[7]}},
        "gives 2 shares": {"shares": dict(found.shares) | {3: found.shares[7]}},
        "not below its prime": {"parts": b"\xff" * THRESHOLD.partial_size},
    }
    for refusal, changed in wrong.items():
        with pytest.raises(RemoteProtocolError, match=refusal):
            partials.receive(replace(found, **changed).to_bytes())
    for holder in (2, 3, 5):
        partials.receive(sent[holder])
    with pytest.raises(RemoteProtocolError, match="already answered"):
        partials.receive(sent[2])
    assert close_to(partials.close().values, CLIENTS, THRESHOLD)


def test_shares_that_rebuild_another_key_release_nothing() -> None:
    partials, sent = answers(fresh(), (2, 3, 5))
    found = Partial.from_bytes(sent[2], expect=agreed(THRESHOLD).header, params=THRESHOLD)
    partials.receive(replace(found, shares={7: Secret(bytes(32))}).to_bytes())
    for holder in (3, 5):
        partials.receive(sent[holder])
    with pytest.raises(RemoteProtocolError, match="shares of holder 7 rebuild another key"):
        partials.close()


def test_a_wrong_part_is_seen_in_the_sum() -> None:
    partials, sent = answers(fresh(), HOLDERS)
    found = Partial.from_bytes(sent[2], expect=agreed(THRESHOLD).header, params=THRESHOLD)
    partials.receive(replace(found, parts=bytes(THRESHOLD.partial_size)).to_bytes())
    for holder in HOLDERS[1:]:
        partials.receive(sent[holder])
    with pytest.raises(RemoteProtocolError, match="some key, upload or partial"):
        partials.close()


def test_a_server_asks_for_one_sum_a_round_also_after_a_restart() -> None:
    burn = BurnInMemory()
    session().collect(clients=(1, 4)).close_threshold(HOLDERS, burn)
    with pytest.raises(LocalProtocolError, match="another sum was sent in this round"):
        session().collect(clients=(1, 4, 6)).close_threshold(HOLDERS, burn)


def test_strangers_are_no_holders() -> None:
    with pytest.raises(LocalProtocolError, match=r"no holders: \[1\]"):
        session().collect().close_threshold((1, 2, 3, 5))


# --- any bytes ---


@pytest.mark.parametrize("what", ["frame", "request", "partial"])
def test_any_change_of_a_message_on_its_way_into_a_step_is_refused_with_a_typed_error(
    what: str,
) -> None:
    partials, sent = answers(fresh(), (2, 3, 5))
    frames = session().frames(6)

    def nothing(session: bytes, stage: int, request: bytes) -> bool:
        raise AssertionError("burnt")

    holder = restore(session().holders[2].into_record(), burn=nothing)
    good = {"frame": frames[1], "request": asked(), "partial": sent[2]}[what]
    steps: dict[str, Callable[[bytes], object]] = {
        "frame": lambda data: session().collect(clients=()).receive([frames[0], data]),
        "request": lambda data: holder.on_request(agreed(THRESHOLD), data),
        "partial": partials.receive,
    }

    # Behind these bytes come senders, digests and residues, of which others are as good.
    heads = {"frame": 62, "request": 54, "partial": 22}

    @settings(max_examples=25, derandomize=True, deadline=None)
    @given(st.data())
    def claim(source: st.DataObject) -> None:
        body = bytearray(without_checksum(good))
        begin = source.draw(st.integers(0, heads[what] - 1))
        new = source.draw(st.binary(max_size=heads[what] - begin))
        body[begin : begin + len(new)] = new
        data = with_checksum(bytes(body[: len(body) - source.draw(st.integers(0, 3))]))
        if data == good:
            return
        with pytest.raises(RemoteProtocolError):
            steps[what](data)

    claim()
