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

from protocols.ckks import Coefficients, Engine
from protocols.ckks.client import encrypt, restore
from protocols.ckks.keys import CollectiveKey, SharedKey
from protocols.ckks.messages import Frame, Partial, Request
from protocols.ckks.params import Agreement, Params
from protocols.ckks.server import CollectPartials, CollectUploads, Sum
from protocols.errors import (
    DecodeError,
    InputError,
    LocalProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from protocols.secrets import Secret
from protocols.testing import BurnInMemory, played_key, reals_of, small_ckks, small_threshold
from protocols.wire import with_checksum, without_checksum

CLIENTS = (1, 4, 6, 9)
HOLDERS = (2, 3, 5, 7)
SECRET = Secret(bytes(range(32)))
# Two ciphertexts, the second in part; on coefficients of two polynomials, and of one.
SIZES: dict[Engine, dict[str, Any]] = {
    Engine.SEAL: {"entries": 2500},
    Engine.COEFFICIENTS: {"entries": 9000, "ring": Coefficients(messages=2)},
}
SHARED = {
    engine: small_ckks(engine, clip=0.5, decryptions=2, **sizes) for engine, sizes in SIZES.items()
}
THRESHOLD = {
    engine: small_threshold(engine, clip=0.5, decryptions=2, **sizes)
    for engine, sizes in SIZES.items()
}


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


class Threshold:
    """A session: its key, and what every party knows."""

    def __init__(self, engine: Engine) -> None:
        self.params = THRESHOLD[engine]
        self.burns = {holder: BurnInMemory() for holder in HOLDERS}
        made = played_key(self.agreed(), HOLDERS, "requests", burns=self.burns)
        self.key, self.holders, self.shown = made.key, dict(made.states), made.shown

    def agreed(self, index: int = 0) -> Agreement:
        return agreed(self.params, index)

    def collect(self, index: int = 0, clients: Iterable[int] = CLIENTS) -> CollectUploads:
        collect = CollectUploads(self.agreed(index), self.key, CLIENTS)
        for client in clients:
            collect.receive(self.frames(client, index))
        return collect

    def frames(self, client: int, index: int = 0) -> list[bytes]:
        key = CollectiveKey.from_bytes(self.agreed(index), self.shown)
        return list(encrypt(self.agreed(index), client, key, vector(client, self.params)))

    def answered(
        self, message: bytes, partials: CollectPartials, alive: Iterable[int], index: int = 0
    ) -> None:
        for holder in alive:
            partials.receive(self.holders[holder].on_request(self.agreed(index), message)[0])

    def round(self, clients: Iterable[int], alive: Iterable[int], index: int = 0) -> Sum:
        left = tuple(alive)
        message, partials = self.collect(index, clients).close_threshold(left)
        self.answered(message, partials, left, index)
        return partials.close()


@functools.cache
def session(engine: Engine) -> Threshold:
    """One that no test changes: whoever answers takes a fresh one, or fresh burns."""
    return Threshold(engine)


def fresh(engine: Engine) -> Threshold:
    made = copy.copy(session(engine))
    made.burns = {holder: BurnInMemory() for holder in HOLDERS}
    made.holders = {
        holder: restore(session(engine).holders[holder].into_record(), burn=made.burns[holder])
        for holder in HOLDERS
    }
    return made


# --- sums ---


@pytest.mark.parametrize(
    ("clients", "alive"),
    [(CLIENTS, HOLDERS), (CLIENTS, (2, 3, 7)), ((4, 9), (3, 5, 7)), ((1, 4, 6), (2, 3, 5))],
    ids=str,
)
def test_a_threshold_of_holders_opens_the_sum_of_the_survivors(
    engine: Engine, clients: tuple[int, ...], alive: tuple[int, ...]
) -> None:
    made = fresh(engine)
    result = made.round(clients, alive)
    assert result.survivors == clients
    assert result.values.shape == (made.params.entries,)
    assert close_to(result.values, clients, made.params)


def test_several_rounds_are_opened_under_one_key_with_the_same_holders(engine: Engine) -> None:
    made = fresh(engine)
    for index in range(2):
        assert close_to(made.round(CLIENTS, (2, 3, 5), index).values, CLIENTS, made.params)


def test_too_few_clients_open_nothing(engine: Engine) -> None:
    with pytest.raises(TooFewSurvivors, match="1 clients left"):
        session(engine).collect(clients=[4]).close_threshold(HOLDERS)


def test_too_few_holders_open_nothing(engine: Engine) -> None:
    with pytest.raises(TooFewSurvivors, match="2 holders left, 3 needed"):
        session(engine).collect().close_threshold((2, 3))
    made = fresh(engine)
    message, partials = made.collect().close_threshold(HOLDERS)
    made.answered(message, partials, HOLDERS[:-1])
    with pytest.raises(TooFewSurvivors, match="3 holders left after CollectPartials, 4 needed"):
        partials.close()


def trace(collect: CollectUploads) -> bytes:
    """All that has been added up."""
    return pickle.dumps(collect._sums)


def test_an_upload_that_breaks_off_leaves_no_trace(engine: Engine) -> None:
    made = fresh(engine)
    collect = made.collect(clients=(1, 4))
    before = trace(collect)
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
    assert trace(collect) == before
    collect.receive(iter(whole))
    message, partials = collect.close_threshold(HOLDERS)
    made.answered(message, partials, HOLDERS)
    assert close_to(partials.close().values, (1, 4, 6), made.params)


def test_chunks_may_be_worked_on_elsewhere(engine: Engine) -> None:
    made = fresh(engine)
    with multiprocessing.pool.ThreadPool(2) as pool:

        def chunks(work: Any, jobs: Iterable[Any], /) -> Iterable[Any]:
            travelled = pickle.loads(pickle.dumps(work))  # noqa: S301  # our own
            return pool.map(travelled, list(jobs))

        collect = CollectUploads(made.agreed(), made.key, CLIENTS)
        for client in CLIENTS:
            upload = encrypt(
                made.agreed(), client, made.key, vector(client, made.params), chunks=chunks
            )
            collect.receive(upload)
        message, partials = collect.close_threshold((2, 3, 5))
        for holder in (2, 3, 5):
            parts, _ = made.holders[holder].on_request(made.agreed(), message, chunks=chunks)
            here, _ = made.holders[holder].on_request(made.agreed(), message)
            answer = list(parts)
            assert answer == list(here)
            partials.receive(answer)
        assert close_to(partials.close(chunks=chunks).values, CLIENTS, made.params)


# --- uploads ---


Change = Callable[[CollectUploads, list[bytes]], list[bytes]]


def reframed(data: bytes, collect: CollectUploads, **changed: Any) -> bytes:
    frame = Frame.from_bytes(
        data,
        expect=collect.agreement.header,
        context=collect._context,
        index=int.from_bytes(data[26:30], "big"),
        params=collect.agreement.params,
    )
    return replace(frame, **changed).to_bytes()


def wrong_uploads() -> dict[str, tuple[str, Change]]:
    def changed(index: int, **fields: Any) -> Change:
        def change(collect: CollectUploads, frames: list[bytes]) -> list[bytes]:
            new = reframed(frames[index], collect, **fields)
            return [new if place == index else old for place, old in enumerate(frames)]

        return change

    def transparent(collect: CollectUploads, frames: list[bytes]) -> list[bytes]:
        """c1 = 0: it stands first on coefficients, and last on SEAL."""
        params = collect.agreement.params
        zero, rest = bytes(params.second_size), bytes([1]) * params.part_size(1)
        first = params.engine is Engine.COEFFICIENTS
        return changed(1, ciphertext=zero + rest if first else rest + zero)(collect, frames)

    return {
        "missing": ("1 frames, expected 2", lambda _, frames: frames[:1]),
        "one more": ("more than 2 frames", lambda _, frames: [*frames, frames[0]]),
        "repeated": ("frame 0 of client 6, expected frame 1", lambda _, frames: [frames[0]] * 2),
        "out of order": ("expected frame 0", lambda _, frames: frames[::-1]),
        "stranger": ("party 8 is not expected", changed(0, sender=8)),
        "of two clients": ("frames of clients 6 and 9", changed(1, sender=9)),
        "twice": ("party 4 has already answered", changed(0, sender=4)),
        "other context": ("another context", changed(1, context=bytes(32))),
        "transparent": ("second polynomial is zero", transparent),
        "short": (r"need \d+ bytes", changed(1, ciphertext=bytes(100))),
        "truncated": ("checksum", lambda _, frames: [frames[0], frames[1][:-1]]),
    }


@pytest.mark.parametrize("name", wrong_uploads())
def test_a_wrong_upload_is_refused(engine: Engine, name: str) -> None:
    refusal, change = wrong_uploads()[name]
    made = session(engine)
    collect = made.collect(clients=(1, 4))
    before = trace(collect)
    with pytest.raises(RemoteProtocolError, match=refusal):
        collect.receive(change(collect, made.frames(6)))
    assert trace(collect) == before
    assert collect.receive(made.frames(6)) == 6


def test_an_upload_whose_residues_are_too_large_is_refused() -> None:
    made = session(Engine.SEAL)
    collect, frames = made.collect(clients=(1, 4)), made.frames(6)
    huge = reframed(frames[1], collect, ciphertext=b"\xff" * made.params.chunk_size())
    with pytest.raises(DecodeError, match="not below its prime"):
        collect.receive([frames[0], huge])


def test_an_upload_under_a_shared_key_has_one_seed() -> None:
    agreement = agreed(SHARED[Engine.COEFFICIENTS])
    key, params = SharedKey(agreement, SECRET), agreement.params
    collect = CollectUploads(agreement, key.digest, CLIENTS)
    one, other = (list(encrypt(agreement, 1, key, vector(1, params))) for _ in range(2))
    with pytest.raises(RemoteProtocolError, match="frames of client 1 with several seeds"):
        collect.receive([one[0], other[1]])
    collect.receive(one)
    again = [reframed(frame, collect, sender=4) for frame in one]
    with pytest.raises(RemoteProtocolError, match="client 4 sends the upload of another"):
        collect.receive(again)


def test_uploads_under_other_parameters_keys_rounds_and_sessions_are_refused(
    engine: Engine,
) -> None:
    made, here = session(engine), agreed(SHARED[engine])
    values = vector(1, made.params)
    collect = made.collect(clients=())
    elsewhere = replace(made.agreed(), public_digest=bytes(32))
    for refusal, frames in {
        "another session or round": made.frames(1, index=1),
        "another context": list(encrypt(elsewhere, 1, made.key, values)),
    }.items():
        with pytest.raises(DecodeError, match=refusal):
            collect.receive(frames)
    shared = CollectUploads(here, SharedKey(here, SECRET).digest, CLIENTS)
    wider = replace(here, params=replace(here.params, clip=1.0))
    for agreement, secret in ((here, Secret(bytes(32))), (wider, SECRET)):
        with pytest.raises(DecodeError, match="another context"):
            shared.receive(encrypt(agreement, 1, SharedKey(agreement, secret), values))


def test_no_more_uploads_than_the_errors_were_planned_for(engine: Engine) -> None:
    made = session(engine)
    collect = CollectUploads(made.agreed(), made.key, range(20))
    for client in range(4):
        collect.receive(encrypt(made.agreed(), client, made.key, vector(client, made.params)))
    with pytest.raises(RemoteProtocolError, match="the sum is full: 4 clients"):
        collect.receive(encrypt(made.agreed(), 5, made.key, vector(5, made.params)))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda zeros: zeros[1:], "expected"),
        (lambda zeros: zeros.astype(np.float32), "is float32 of shape"),
        (lambda zeros: zeros.astype(np.int64), "is int64 of shape"),
        (lambda zeros: zeros + 0.5000001, "above the clip"),
        (lambda zeros: zeros + np.nan, "not a number"),
        (lambda zeros: zeros - np.inf, "above the clip"),
    ],
    ids=["short", "float32", "int64", "above the clip", "nan", "infinite"],
)
def test_a_vector_that_is_not_as_agreed_is_not_encrypted(
    engine: Engine, change: Callable[[NDArray[np.float64]], NDArray[np.float64]], says: str
) -> None:
    agreement = agreed(SHARED[engine])
    values = change(np.zeros(agreement.params.entries))
    with pytest.raises(LocalProtocolError, match=says):
        encrypt(agreement, 1, SharedKey(agreement, SECRET), values)


def test_words_are_summed_on_coefficients_alone() -> None:
    """Modulo 2**bits, and exact: they wrap around as under masks."""
    made = fresh(Engine.COEFFICIENTS)
    params, encoding = made.params, made.params.encoding
    bits = params.exact_bits
    rng = np.random.default_rng(1)
    inputs = {n: rng.integers(0, 2**bits, params.entries, np.uint64) for n in CLIENTS}
    collect = CollectUploads(made.agreed(), made.key, CLIENTS)
    for client, values in inputs.items():
        words = encoding.encode_integers(values, bits)
        collect.receive(encrypt(made.agreed(), client, made.key, words))
    message, partials = collect.close_threshold((2, 3, 7))
    made.answered(message, partials, (2, 3, 7))
    found = encoding.decode_integers(partials.close().values, bits)
    total = np.sum(list(inputs.values()), axis=0, dtype=np.uint64)
    assert (found == total % np.uint64(2**bits)).all()

    seal = agreed(SHARED[Engine.SEAL])
    with pytest.raises(LocalProtocolError, match=r"is uint64 of shape .*expected float64 of"):
        encrypt(seal, 1, SharedKey(seal, SECRET), np.zeros(seal.params.entries, np.uint64))


def test_a_late_message_is_dropped(engine: Engine) -> None:
    made = session(engine)
    collect = made.collect()
    collect.close_threshold(HOLDERS)
    with pytest.raises(LocalProtocolError, match="CollectUploads is closed"):
        collect.receive(made.frames(1))


def test_the_model_decides_how_a_collection_closes(engine: Engine) -> None:
    made, shared = session(engine), agreed(SHARED[engine])
    with pytest.raises(LocalProtocolError, match="close_threshold"):
        made.collect().close_shared()
    key = SharedKey(shared, SECRET)
    with pytest.raises(LocalProtocolError, match="close_shared"):
        CollectUploads(shared, key.digest, CLIENTS).close_threshold(HOLDERS)
    with pytest.raises(InputError, match="must be SHARED_KEY"):
        CollectUploads(made.agreed(), key.digest, CLIENTS)
    with pytest.raises(InputError, match="digest has 3 bytes"):
        CollectUploads(shared, b"key", CLIENTS)


# --- a request to the holders ---


@functools.cache
def asked(engine: Engine) -> bytes:
    return session(engine).collect().close_threshold((2, 3, 5))[0]


def rerequested(engine: Engine, **changed: Any) -> bytes:
    made = session(engine)
    found = Request.from_bytes(
        asked(engine),
        expect=made.agreed().header,
        context=made.key.context(made.agreed()),
        params=made.params,
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
        ({"seconds": bytes}, "second polynomial of chunk 0 is zero"),
        ({"seconds": lambda size: b"\1" * (size - 1)}, r"need \d+ bytes"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_holder_refuses(engine: Engine, changed: dict[str, Any], refusal: str) -> None:
    made = fresh(engine)
    if make := changed.get("seconds"):
        changed = {"seconds": make(2 * made.params.second_size)}
    with pytest.raises(RemoteProtocolError, match=refusal):
        made.holders[2].on_request(made.agreed(), rerequested(engine, **changed))
    made.holders[2].on_request(made.agreed(), asked(engine))  # nothing was burnt


def test_a_holder_refuses_residues_that_are_too_large() -> None:
    made = fresh(Engine.SEAL)
    huge = b"\xff" * 2 * made.params.second_size
    with pytest.raises(DecodeError, match="not below its prime"):
        made.holders[2].on_request(made.agreed(), rerequested(Engine.SEAL, seconds=huge))


def test_a_holder_is_of_one_session(engine: Engine) -> None:
    made = session(engine)
    agreement = replace(made.agreed(), session=bytes(16))
    with pytest.raises(LocalProtocolError, match="another session"):
        made.holders[2].on_request(agreement, asked(engine))


def parts_of(made: Threshold, frames: Iterable[bytes]) -> list[Partial]:
    return [
        Partial.from_bytes(frame, expect=made.agreed().header, index=index, params=made.params)
        for index, frame in enumerate(frames)
    ]


def test_an_answer_is_a_function_of_the_state_and_the_request(engine: Engine) -> None:
    made = fresh(engine)
    holder = made.holders[2]
    frames, evidence = holder.on_request(made.agreed(), asked(engine))
    answer = list(frames)
    again = restore(holder.into_record(), burn=made.burns[2])
    same, evidence_again = again.on_request(made.agreed(), asked(engine))
    assert (list(same), evidence_again) == (answer, evidence)
    assert sorted(evidence) == list(CLIENTS)
    assert [part.shares.keys() for part in parts_of(made, answer)] == [{7}, set()]
    seconds = rerequest_seconds(engine)
    other = rerequested(engine, seconds=seconds[len(seconds) // 2 :] * 2)
    with pytest.raises(RemoteProtocolError, match="another request in round 0"):
        again.on_request(made.agreed(), other)


def rerequest_seconds(engine: Engine) -> bytes:
    return bytes(without_checksum(asked(engine)))[-2 * THRESHOLD[engine].second_size :]


# --- partial decryptions ---


def answers(
    made: Threshold, alive: tuple[int, ...]
) -> tuple[CollectPartials, dict[int, list[bytes]]]:
    message, partials = made.collect().close_threshold(alive)
    return partials, {
        holder: list(made.holders[holder].on_request(made.agreed(), message)[0]) for holder in alive
    }


def test_a_wrong_partial_is_refused(engine: Engine) -> None:
    made = fresh(engine)
    partials, sent = answers(made, (2, 3, 5))
    first, second = parts_of(made, sent[2])
    before = pickle.dumps(partials._sums)
    good, share = sent[2], first.shares[7]

    def changed(**fields: Any) -> bytes:
        return replace(first, **fields).to_bytes()

    wrong: list[tuple[str, list[bytes]]] = [
        ("party 7 is not expected", [changed(sender=7), good[1]]),
        ("gives 0 shares with part 0", [changed(shares={}), good[1]]),
        ("gives 1 shares with part 0", [changed(shares={3: share}), good[1]]),
        ("gives 2 shares with part 0", [changed(shares={3: share, 7: share}), good[1]]),
        ("gives 1 shares with part 1", [good[0], replace(second, shares={7: share}).to_bytes()]),
        ("1 parts, expected 2", good[:1]),
        ("0 parts, expected 2", []),
        ("more than 2 parts of holder 2", [*good, good[1]]),
        ("part 0 of holder 2, expected part 1", [good[0], good[0]]),
        ("part 1 of holder 2, expected part 0", good[::-1]),
        ("parts of holders 2 and 3", [good[0], sent[3][1]]),
        ("checksum", [good[0], good[1][:-1]]),
    ]
    for refusal, frames in wrong:
        with pytest.raises(RemoteProtocolError, match=refusal):
            partials.receive(frames)
    assert pickle.dumps(partials._sums) == before
    for holder in (2, 3, 5):
        assert partials.receive(iter(sent[holder])) == holder
    with pytest.raises(RemoteProtocolError, match="already answered"):
        partials.receive(sent[2])
    assert close_to(partials.close().values, CLIENTS, made.params)


def test_a_part_whose_residues_are_too_large_is_refused() -> None:
    made = fresh(Engine.SEAL)
    partials, sent = answers(made, (2, 3, 5))
    huge = replace(parts_of(made, sent[2])[1], part=b"\xff" * made.params.part_size(1))
    with pytest.raises(DecodeError, match="not below its prime"):
        partials.receive([sent[2][0], huge.to_bytes()])


def test_shares_that_rebuild_another_key_release_nothing(engine: Engine) -> None:
    made = fresh(engine)
    partials, sent = answers(made, (2, 3, 5))
    first = replace(parts_of(made, sent[2])[0], shares={7: Secret(bytes(32))})
    partials.receive([first.to_bytes(), sent[2][1]])
    for holder in (3, 5):
        partials.receive(sent[holder])
    with pytest.raises(RemoteProtocolError, match="shares of holder 7 rebuild another key"):
        partials.close()


@pytest.mark.parametrize("index", [0, 1])
def test_a_wrong_part_is_seen_in_the_sum(engine: Engine, index: int) -> None:
    made = fresh(engine)
    partials, sent = answers(made, HOLDERS)
    found = parts_of(made, sent[2])[index]
    wrong = replace(found, part=bytes(made.params.part_size(index))).to_bytes()
    partials.receive([wrong if place == index else old for place, old in enumerate(sent[2])])
    for holder in HOLDERS[1:]:
        partials.receive(sent[holder])
    with pytest.raises(RemoteProtocolError, match="some key, upload or partial"):
        partials.close()


def test_a_server_asks_for_one_sum_a_round_also_after_a_restart(engine: Engine) -> None:
    burn = BurnInMemory()
    session(engine).collect(clients=(1, 4)).close_threshold(HOLDERS, burn)
    with pytest.raises(LocalProtocolError, match="another sum was sent in this round"):
        session(engine).collect(clients=(1, 4, 6)).close_threshold(HOLDERS, burn)


def test_strangers_are_no_holders(engine: Engine) -> None:
    with pytest.raises(LocalProtocolError, match=r"no holders: \[1\]"):
        session(engine).collect().close_threshold((1, 2, 3, 5))


# --- any bytes ---


@pytest.mark.parametrize("what", ["frame", "request", "partial"])
def test_any_change_of_a_message_on_its_way_into_a_step_is_refused_with_a_typed_error(
    engine: Engine, what: str
) -> None:
    made = fresh(engine)
    partials, sent = answers(made, (2, 3, 5))
    frames, rest = session(engine).frames(6), sent[2][1:]

    def nothing(session: bytes, stage: int, request: bytes) -> bool:
        raise AssertionError("burnt")

    holder = restore(session(engine).holders[2].into_record(), burn=nothing)
    good = {"frame": frames[1], "request": asked(engine), "partial": sent[2][0]}[what]
    steps: dict[str, Callable[[bytes], object]] = {
        "frame": lambda data: session(engine).collect(clients=()).receive([frames[0], data]),
        "request": lambda data: holder.on_request(made.agreed(), data),
        "partial": lambda data: partials.receive([data, *rest]),
    }

    # Behind these bytes come senders, digests and residues, of which others are as good.
    heads = {"frame": 62, "request": 54, "partial": 22}

    @settings(max_examples=12, derandomize=True, deadline=None)
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
