"""CKKS messages: every byte counted, one encoding a value, ``DecodeError`` for everything else."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.ckks.messages import (
    BOX_SIZE,
    Advertise,
    Entry,
    Frame,
    Opened,
    Opening,
    Openings,
    Partial,
    Request,
    Roster,
    ShareBoxes,
    SharedSum,
)
from protocols.ckks.params import Agreement, Engine, Params
from protocols.errors import DecodeError, InputError
from protocols.secrets import Secret
from protocols.testing import small_ckks, small_threshold
from protocols.wire import Header, Reader, with_checksum, without_checksum

Message: TypeAlias = Any

HEADER = Header(bytes(range(16)), 3)
CONTEXT = hashlib.sha256(b"context").digest()
PARAMS = {  # of two ciphertexts, the second in part
    engine: (
        small_ckks(engine, entries=5000, flooding=None),
        small_threshold(engine, entries=5000),
    )
    for engine in Engine
}
SHARED, THRESHOLD = PARAMS[Engine.COEFFICIENTS]
quick = settings(max_examples=20, derandomize=True, deadline=None)


def filled(size: int) -> st.SearchStrategy[bytes]:
    """Long fields, from few choices."""
    return st.integers(0, 2**32).map(lambda seed: hashlib.shake_256(b"%d" % seed).digest(size))


def listed(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[int, Any]]:
    return st.dictionaries(party, values, max_size=4)


party = st.integers(0, 2**32 - 1)
key = filled(32)
entry = st.builds(Entry, seal_key=key, commitment=key)
share = filled(share_size(THRESHOLD))
opened = st.builds(Opened, commitment=key, blind=key, share=share)
header = st.just(HEADER)
context = st.just(CONTEXT)
MESSAGES: dict[type[Message], st.SearchStrategy[Message]] = {
    Advertise: st.builds(Advertise, header=header, sender=party, entry=entry),
    Roster: st.builds(Roster, header=header, entries=listed(entry)),
    Opening: st.builds(
        Opening, header=header, sender=party, blind=key, share=share, boxes=listed(filled(BOX_SIZE))
    ),
    ShareBoxes: st.builds(
        ShareBoxes, header=header, recipient=party, boxes=listed(filled(BOX_SIZE))
    ),
    Openings: st.builds(Openings, header=header, entries=listed(opened)),
    Frame: st.builds(
        Frame,
        header=header,
        sender=party,
        index=party,
        context=context,
        ciphertext=filled(THRESHOLD.chunk_size),
    ),
    SharedSum: st.builds(
        SharedSum,
        header=header,
        context=context,
        summands=listed(key),
        ciphertexts=filled(2 * SHARED.partial_size),
    ),
    Request: st.builds(
        Request,
        header=header,
        context=context,
        alive=st.frozensets(party, max_size=5),
        summands=listed(key),
        seconds=filled(THRESHOLD.partial_size),
    ),
    Partial: st.builds(
        Partial,
        header=header,
        sender=party,
        parts=filled(THRESHOLD.partial_size),
        shares=listed(key.map(Secret)),
    ),
}
KINDS = pytest.mark.parametrize("kind", list(MESSAGES), ids=lambda kind: kind.__name__)


def decode(like: Message, data: bytes, expect: Header = HEADER, about: bytes = CONTEXT) -> Message:
    more: dict[str, Any] = {}
    if isinstance(like, Opening | Openings | Frame | SharedSum | Request | Partial):
        more["params"] = SHARED if isinstance(like, SharedSum) else THRESHOLD
    if isinstance(like, Frame | SharedSum | Request):
        more["context"] = about
    if isinstance(like, Frame):
        more["index"] = like.index
    return type(like).from_bytes(data, expect=expect, **more)


def each(kind: type[Message]) -> Callable[[Callable[[Message], None]], None]:
    def run(claim: Callable[[Message], None]) -> None:
        quick(given(MESSAGES[kind])(claim))()

    return run


@KINDS
def test_what_was_encoded_is_decoded_again(kind: type[Message]) -> None:
    @each(kind)
    def claim(message: Message) -> None:
        assert decode(message, message.to_bytes()) == message


@KINDS
def test_no_byte_can_be_missing_or_too_many(kind: type[Message]) -> None:
    @each(kind)
    def claim(message: Message) -> None:
        data = message.to_bytes()
        body = bytes(without_checksum(data))
        for bad in (data[:-1], data + b"\0", b"", data[:20]):
            with pytest.raises(DecodeError):
                decode(message, bad)
        for bad in (body[:-1], body + b"\0", body[: len(body) // 2], b""):
            with pytest.raises(DecodeError):
                decode(message, with_checksum(bad))


@KINDS
def test_a_changed_byte_is_noticed(kind: type[Message]) -> None:
    @quick
    @given(st.data())
    def claim(source: st.DataObject) -> None:
        message = source.draw(MESSAGES[kind])
        data = bytearray(message.to_bytes())
        data[source.draw(st.integers(0, len(data) - 1))] ^= source.draw(st.integers(1, 255))
        with pytest.raises(DecodeError, match=r"checksum|the peer speaks version"):
            decode(message, bytes(data))

    claim()


@KINDS
def test_what_a_forger_changed_is_refused_or_is_the_only_encoding_of_something_else(
    kind: type[Message],
) -> None:
    @quick
    @given(st.data())
    def claim(source: st.DataObject) -> None:
        message = source.draw(MESSAGES[kind])
        body = bytearray(without_checksum(message.to_bytes()))
        begin = source.draw(st.integers(0, min(len(body), 150) - 1))  # where the fields are
        if source.draw(st.booleans()):
            begin = len(body) - 1 - begin
        body[begin : begin + source.draw(st.integers(0, 9))] = source.draw(st.binary(max_size=9))
        data = with_checksum(bytes(body))
        try:
            found = decode(message, data)
        except DecodeError:
            return
        assert found.to_bytes() == data

    claim()


@KINDS
def test_messages_of_another_session_round_or_type_are_refused(kind: type[Message]) -> None:
    @each(kind)
    def claim(message: Message) -> None:
        data = message.to_bytes()
        for other in (Header(bytes(16), 3), Header(HEADER.session, 4)):
            with pytest.raises(DecodeError, match="another session or round"):
                decode(message, data, other)
        retyped = bytes([1, message.TYPE ^ 0x40]) + bytes(without_checksum(data))[2:]
        with pytest.raises(DecodeError, match="message type"):
            decode(message, with_checksum(retyped))


@pytest.mark.parametrize("kind", [Frame, SharedSum, Request], ids=lambda kind: kind.__name__)
def test_messages_under_another_context_are_refused(kind: type[Message]) -> None:
    @each(kind)
    def claim(message: Message) -> None:
        with pytest.raises(DecodeError, match="another context"):
            decode(message, message.to_bytes(), about=bytes(32))


@pytest.mark.parametrize(
    "kind",
    [Roster, Opening, ShareBoxes, Openings, SharedSum, Request, Partial],
    ids=lambda kind: kind.__name__,
)
def test_a_party_listed_twice_or_out_of_order_is_refused(kind: type[Message]) -> None:
    @each(kind)
    def claim(message: Message) -> None:
        for name in ("entries", "boxes", "summands", "alive", "shares"):
            found = getattr(message, name, ())
            if len(found) < 2:
                continue
            numbers = [number.to_bytes(4, "big") for number in sorted(found)[:2]]
            body = bytes(without_checksum(message.to_bytes()))
            places = [body.find(number, 25) for number in numbers]
            if body.count(numbers[0]) > 1 or body.count(numbers[1]) > 1:
                continue
            twice = bytearray(body)
            twice[places[1] : places[1] + 4] = numbers[0]
            with pytest.raises(DecodeError, match="twice, or out of order"):
                decode(message, with_checksum(bytes(twice)))


@pytest.mark.parametrize(
    ("message", "size"),
    [
        (
            Advertise(header=HEADER, sender=1, entry=Entry(seal_key=CONTEXT, commitment=CONTEXT)),
            106,
        ),
        (
            Roster(header=HEADER, entries={1: Entry(seal_key=CONTEXT, commitment=CONTEXT)}),
            22 + 4 + 68 + 16,
        ),
        (
            Frame(header=HEADER, sender=1, index=0, context=CONTEXT, ciphertext=bytes(64 + 3328)),
            62 + 64 + 1024 * 26 // 8 + 16,
        ),
        (
            Request(
                header=HEADER,
                context=CONTEXT,
                alive=frozenset({1, 2, 3}),
                summands={1: CONTEXT, 2: CONTEXT},
                seconds=bytes(THRESHOLD.partial_size),
            ),
            22 + 32 + 4 + 12 + 4 + 72 + 2 * 2048 * 53 // 8 + 16,
        ),
        (
            Partial(
                header=HEADER,
                sender=1,
                parts=bytes(THRESHOLD.partial_size),
                shares={2: Secret(CONTEXT)},
            ),
            26 + 2 * 2048 * 53 // 8 + 4 + 36 + 16,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sizes_are_those_of_the_structs(message: Message, size: int) -> None:
    assert len(message.to_bytes()) == size


def test_a_frame_with_another_index_is_refused() -> None:
    frame = Frame(header=HEADER, sender=1, index=0, context=CONTEXT, ciphertext=bytes(64 + 3328))
    with pytest.raises(DecodeError, match="frame 0 of client 1, expected frame 1"):
        Frame.from_bytes(frame.to_bytes(), expect=HEADER, context=CONTEXT, index=1, params=SHARED)


def test_no_message_prints_a_share() -> None:
    message = Partial(header=HEADER, sender=1, parts=b"", shares={2: Secret(CONTEXT)})
    assert CONTEXT.hex() not in repr(message)
    assert repr(CONTEXT) not in repr(message)


# --- what is agreed ---


@given(st.integers(0, 5), st.binary(min_size=16, max_size=16), key)
@quick
def test_an_agreement_is_decoded_again_and_every_field_changes_the_context(
    index: int, session: bytes, public: bytes
) -> None:
    params = replace(SHARED, decryptions=6)
    agreement = Agreement(params=params, session=session, round=index, public_digest=public)
    reader = Reader(agreement.to_bytes())
    assert Agreement.read(reader) == agreement
    reader.finish()
    others = [
        replace(agreement, params=replace(params, entries=params.entries + 1)),
        replace(agreement, params=replace(params, clip=2.0)),
        replace(agreement, session=bytes(15) + b"\1" + session[16:]),
        replace(agreement, round=(index + 1) % 6),
        replace(agreement, public_digest=hashlib.sha256(public).digest()),
    ]
    contexts = {other.context(CONTEXT) for other in others} | {agreement.context(bytes(32))}
    assert agreement.context(CONTEXT) not in contexts
    assert len({other.key_context() for other in [agreement, *others]}) == 4  # round, public not


def test_a_round_beyond_the_decryptions_of_the_key_cannot_be_agreed_upon() -> None:
    with pytest.raises(InputError, match="the key opens 1 sums"):
        Agreement(params=SHARED, session=bytes(16), round=1, public_digest=bytes(32))
    late = bytearray(
        Agreement(params=SHARED, session=bytes(16), public_digest=bytes(32)).to_bytes()
    )
    late[19] = 1
    with pytest.raises(DecodeError, match="the key opens 1 sums"):
        Agreement.read(Reader(bytes(late)))
