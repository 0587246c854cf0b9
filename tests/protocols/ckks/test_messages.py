"""CKKS messages: every byte counted, one encoding a value, ``DecodeError`` for everything else."""

import functools
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocols.ckks import Coefficients, Engine
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
from protocols.ckks.params import Agreement
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
quick = settings(max_examples=8, derandomize=True, deadline=None)


def filled(size: int) -> st.SearchStrategy[bytes]:
    """Long fields, from few choices."""
    return st.integers(0, 2**32).map(lambda seed: hashlib.shake_256(b"%d" % seed).digest(size))


def listed(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[int, Any]]:
    return st.dictionaries(party, values, max_size=4)


party = st.integers(0, 2**32 - 1)
key = filled(32)
entry = st.builds(Entry, seal_key=key, commitment=key)
header = st.just(HEADER)
context = st.just(CONTEXT)
BOXES = listed(filled(BOX_SIZE))


@functools.cache
def strategy(engine: Engine, kind: type[Message]) -> st.SearchStrategy[Message]:
    shared, threshold = PARAMS[engine]
    share = filled(threshold.share_size)
    opened = st.builds(Opened, commitment=key, blind=key, share=share)
    of_chunks: list[dict[str, Any]] = [
        {
            "header": header,
            "sender": party,
            "index": st.just(index),
        }
        for index in (0, threshold.chunks - 1)
    ]
    strategies: dict[type[Message], st.SearchStrategy[Message]] = {
        Advertise: st.builds(Advertise, header=header, sender=party, entry=entry),
        Roster: st.builds(Roster, header=header, entries=listed(entry)),
        Opening: st.builds(
            Opening, header=header, sender=party, blind=key, share=share, boxes=BOXES
        ),
        ShareBoxes: st.builds(ShareBoxes, header=header, recipient=party, boxes=BOXES),
        Openings: st.builds(Openings, header=header, entries=listed(opened)),
        Frame: st.one_of(
            st.builds(
                Frame, **known, context=context, ciphertext=filled(threshold.chunk_size(index))
            )
            for index, known in zip((0, threshold.chunks - 1), of_chunks, strict=True)
        ),
        SharedSum: st.builds(
            SharedSum,
            header=header,
            context=context,
            summands=listed(key),
            ciphertexts=filled(shared.sum_size),
        ),
        Request: st.builds(
            Request,
            header=header,
            context=context,
            alive=st.frozensets(party, max_size=5),
            summands=listed(key),
            seconds=filled(threshold.chunks * threshold.second_size),
        ),
        Partial: st.one_of(
            st.builds(
                Partial,
                **known,
                part=filled(threshold.part_size(index)),
                shares=listed(key.map(Secret)),
            )
            for index, known in zip((0, threshold.chunks - 1), of_chunks, strict=True)
        ),
    }
    return strategies[kind]


KINDS = [
    *(Advertise, Roster, Opening, ShareBoxes, Openings),
    *(Frame, SharedSum, Request, Partial),
]
LARGE = (Opening, Openings, Frame, SharedSum, Request, Partial)  # theirs depend on the engine


def of(*kinds: type[Message]) -> pytest.MarkDecorator:
    """Each message under each engine; those without polynomials once."""
    both = [
        (engine, kind)
        for kind in kinds
        for engine in Engine
        if kind in LARGE or engine is Engine.COEFFICIENTS
    ]
    names = [f"{kind.__name__}-{engine.name}" for engine, kind in both]
    return pytest.mark.parametrize(("engine", "kind"), both, ids=names)


EVERY = of(*KINDS)


def decode(
    engine: Engine,
    like: Message,
    data: bytes,
    expect: Header = HEADER,
    about: bytes = CONTEXT,
) -> Message:
    more: dict[str, Any] = {}
    if isinstance(like, LARGE):
        more["params"] = PARAMS[engine][not isinstance(like, SharedSum)]
    if isinstance(like, Frame | SharedSum | Request):
        more["context"] = about
    if isinstance(like, Frame | Partial):
        more["index"] = like.index
    return type(like).from_bytes(data, expect=expect, **more)


def each(engine: Engine, kind: type[Message]) -> Callable[[Callable[[Message], None]], None]:
    def run(claim: Callable[[Message], None]) -> None:
        quick(given(strategy(engine, kind))(claim))()

    return run


@EVERY
def test_what_was_encoded_is_decoded_again(engine: Engine, kind: type[Message]) -> None:
    @each(engine, kind)
    def claim(message: Message) -> None:
        assert decode(engine, message, message.to_bytes()) == message


@EVERY
def test_no_byte_can_be_missing_or_too_many(engine: Engine, kind: type[Message]) -> None:
    @each(engine, kind)
    def claim(message: Message) -> None:
        data = message.to_bytes()
        body = bytes(without_checksum(data))
        for bad in (data[:-1], data + b"\0", b"", data[:20]):
            with pytest.raises(DecodeError):
                decode(engine, message, bad)
        for bad in (body[:-1], body + b"\0", body[: len(body) // 2], b""):
            with pytest.raises(DecodeError):
                decode(engine, message, with_checksum(bad))


@EVERY
def test_a_changed_byte_is_noticed(engine: Engine, kind: type[Message]) -> None:
    @quick
    @given(st.data())
    def claim(source: st.DataObject) -> None:
        message = source.draw(strategy(engine, kind))
        data = bytearray(message.to_bytes())
        data[source.draw(st.integers(0, len(data) - 1))] ^= source.draw(st.integers(1, 255))
        with pytest.raises(DecodeError, match=r"checksum|the peer speaks version"):
            decode(engine, message, bytes(data))

    claim()


@EVERY
def test_what_a_forger_changed_is_refused_or_is_the_only_encoding_of_something_else(
    engine: Engine, kind: type[Message]
) -> None:
    @quick
    @given(st.data())
    def claim(source: st.DataObject) -> None:
        message = source.draw(strategy(engine, kind))
        body = bytearray(without_checksum(message.to_bytes()))
        begin = source.draw(st.integers(0, min(len(body), 150) - 1))  # where the fields are
        if source.draw(st.booleans()):
            begin = len(body) - 1 - begin
        body[begin : begin + source.draw(st.integers(0, 9))] = source.draw(st.binary(max_size=9))
        data = with_checksum(bytes(body))
        try:
            found = decode(engine, message, data)
        except DecodeError:
            return
        assert found.to_bytes() == data

    claim()


@EVERY
def test_messages_of_another_session_round_or_type_are_refused(
    engine: Engine, kind: type[Message]
) -> None:
    @each(engine, kind)
    def claim(message: Message) -> None:
        data = message.to_bytes()
        for other in (Header(bytes(16), 3), Header(HEADER.session, 4)):
            with pytest.raises(DecodeError, match="another session or round"):
                decode(engine, message, data, other)
        retyped = bytes([1, message.TYPE ^ 0x40]) + bytes(without_checksum(data))[2:]
        with pytest.raises(DecodeError, match="message type"):
            decode(engine, message, with_checksum(retyped))


@of(Frame, SharedSum, Request)
def test_messages_under_another_context_are_refused(engine: Engine, kind: type[Message]) -> None:
    @each(engine, kind)
    def claim(message: Message) -> None:
        with pytest.raises(DecodeError, match="another context"):
            decode(engine, message, message.to_bytes(), about=bytes(32))


@of(Roster, Opening, ShareBoxes, Openings, SharedSum, Request, Partial)
def test_a_party_listed_twice_or_out_of_order_is_refused(
    engine: Engine, kind: type[Message]
) -> None:
    @each(engine, kind)
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
                decode(engine, message, with_checksum(bytes(twice)))


def frame(size: int) -> Frame:
    return Frame(header=HEADER, sender=1, index=0, context=CONTEXT, ciphertext=bytes(size))


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
        (frame(1000), 62 + 1000 + 16),
        (
            SharedSum(
                header=HEADER, context=CONTEXT, summands={1: CONTEXT}, ciphertexts=bytes(1000)
            ),
            22 + 32 + 4 + 36 + 1000 + 16,
        ),
        (
            Request(
                header=HEADER,
                context=CONTEXT,
                alive=frozenset({1, 2, 3}),
                summands={1: CONTEXT, 2: CONTEXT},
                seconds=bytes(1000),
            ),
            22 + 32 + 4 + 12 + 4 + 72 + 1000 + 16,
        ),
        (
            Partial(
                header=HEADER, sender=1, index=0, part=bytes(1000), shares={2: Secret(CONTEXT)}
            ),
            30 + 1000 + 4 + 36 + 16,
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_sizes_are_those_of_the_structs(message: Message, size: int) -> None:
    assert len(message.to_bytes()) == size


def test_polynomials_have_the_sizes_that_the_page_names() -> None:
    """5,000 entries: of coefficients 4,088 and 912, of SEAL's slots thrice 2,048."""
    assert (THRESHOLD.chunk_size(0), THRESHOLD.chunk_size(1)) == (
        8 * 4096 + 4 * 4096,
        8 * 4096 + 4 * (8 + 912),
    )
    assert (SHARED.chunk_size(0), SHARED.chunk_size(1)) == (32 + 4 * 4096, 32 + 4 * (8 + 912))
    assert SHARED.sum_size == THRESHOLD.partial_size == 4 * (5000 + 16)
    assert THRESHOLD.share_size == THRESHOLD.second_size == 8 * 4096
    wide = replace(THRESHOLD, ring=Coefficients(limbs=3, messages=2, kept=3), scale_sixteenths=144)
    assert (wide.chunks, wide.chunk_size()) == (1, 9 * 4096 + 3 * (5000 + 16))
    assert wide.share_size == 2 * wide.second_size == 18 * 4096
    polynomial = 2048 * 53 // 8
    for params, each in zip(PARAMS[Engine.SEAL], (64 + polynomial, 2 * polynomial), strict=True):
        assert params.vector_size == 3 * params.chunk_size() == 3 * each
        assert params.sum_size == 2 * params.partial_size == 6 * polynomial


def test_a_frame_or_part_with_another_index_is_refused() -> None:
    sent = frame(SHARED.chunk_size())
    with pytest.raises(DecodeError, match="frame 0 of client 1, expected frame 1"):
        Frame.from_bytes(sent.to_bytes(), expect=HEADER, context=CONTEXT, index=1, params=SHARED)
    part = bytes(THRESHOLD.part_size(1))
    answer = Partial(header=HEADER, sender=2, index=1, part=part, shares={})
    with pytest.raises(DecodeError, match="part 1 of holder 2, expected part 0"):
        Partial.from_bytes(answer.to_bytes(), expect=HEADER, index=0, params=THRESHOLD)


def test_no_message_prints_a_share() -> None:
    message = Partial(header=HEADER, sender=1, index=0, part=b"", shares={2: Secret(CONTEXT)})
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
