"""What travels between a server and a node, and its bytes, for networks that carry bytes.

    struct {                              struct {
        uint8 version;    /* 1 */             uint8 version;      /* 1 */
        uint8 type;       /* 0x40 */          uint8 type;         /* 0x41 */
        uint8 stage;      /* 0.. */           uint64 examples;
        uint32 client;                        opaque next_keys;
        opaque proposal;                      opaque next_shares;
        opaque message;                       uint32 count;
        opaque next_session;                  opaque messages[count];
        opaque next_roster;               } Answer;
        opaque signature;
    } Request;

Integers are big-endian, ``opaque`` is a ``uint32`` length and as many bytes, stages count as in
``secagg.stage.Stage``. One value has one encoding. Messages come last in an answer, so that whoever
reads it from a network has a frame as soon as its bytes are there: ``AnswerReader``.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

from protocols.errors import DecodeError
from protocols.wire import VERSION, Reader, opaque, u32, u64
from secagg.stage import Stage

REQUESTED: Final = b"secagg/1 request"  # label of a server's signature
REQUEST, ANSWER = 0x40, 0x41  # types, which no message of a protocol has
_STAGES: Final = tuple(Stage)
_HEAD: Final = 10  # bytes of an answer before its first length


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a server asks of one node.

    Attributes:
      stage: of the sum.
      proposal: ``Proposal.to_bytes()``.
      client: the number that the server gave the node; a signing cohort has its own.
      message: of the protocol; empty at the first stage.
      signature: of the server over all the rest, if it has an identity.
      next_session: with the share or the reveal stage, a session that comes later, for which
        the node is asked to advertise keys at once; empty if it is not.
      next_roster: with the reveal stage, the roster of the session for which the node has keys
        waiting: it is asked to share its secrets for that session at once; empty if it is not.
    """

    stage: Stage
    proposal: bytes
    client: int
    message: bytes
    signature: bytes = b""
    next_session: bytes = b""
    next_roster: bytes = b""

    def signed(self) -> bytes:
        """The bytes that ``signature`` signs."""
        numbers = f"{self.stage} {self.client}".encode()
        fields = (numbers, self.proposal, self.message, self.next_session, self.next_roster)
        return b"".join(map(opaque, fields))

    def to_bytes(self) -> bytes:
        fields = (self.proposal, self.message, self.next_session, self.next_roster, self.signature)
        head = bytes([VERSION, REQUEST, _STAGES.index(self.stage)]) + u32(self.client)
        return head + b"".join(map(opaque, fields))

    @classmethod
    def from_bytes(cls, data: bytes | memoryview) -> Self:
        """Inverse of :meth:`to_bytes`.

        Raises:
          DecodeError: not a request, or bytes left over.
        """
        reader = Reader(data)
        _expect(reader, REQUEST)
        if (place := reader.u8()) >= len(_STAGES):
            raise DecodeError(f"a request of stage {place}, there are {len(_STAGES)}")
        client = reader.u32()
        proposal, message, session, roster, signature = (reader.opaque() for _ in range(5))
        reader.finish()
        return cls(
            stage=_STAGES[place],
            client=client,
            proposal=proposal,
            message=message,
            next_session=session,
            next_roster=roster,
            signature=signature,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A node's answer to a request.

    Attributes:
      messages: of the protocol; several frames of one vector, otherwise one.
      state: to be kept for the node until the next request, sealed; ``None``: nothing. It is no
        part of the bytes: no server needs it.
      next_keys: keys for a session that comes later, if they were asked for.
      next_shares: shares for the next session, if they were asked for and its roster is good.
      examples: with the vector, where noise hides examples: the node's public number of them.
    """

    messages: Sequence[bytes]
    state: bytes | None
    next_keys: bytes = b""
    next_shares: bytes = b""
    examples: int = 0

    def parts(self) -> Iterator[bytes]:
        """The bytes in parts, no message of which is copied."""
        head = bytes([VERSION, ANSWER]) + u64(self.examples)
        ahead = opaque(self.next_keys) + opaque(self.next_shares)
        yield head + ahead + u32(len(self.messages))
        for message in self.messages:
            yield u32(len(message))
            yield message

    def to_bytes(self) -> bytes:
        return b"".join(self.parts())

    @classmethod
    def from_bytes(cls, data: bytes) -> "Answer":
        """Inverse of :meth:`to_bytes`; without state.

        Raises:
          DecodeError: not an answer, or bytes left over.
        """
        reader = AnswerReader(most=len(data))
        reader.feed(data)
        return reader.finish()


class AnswerReader:
    """Reads an answer as its bytes come; holds one message that is not whole, and no more.

    Args:
      most: bytes of the answer.
      messages: takes each message; by default they are kept in memory. ``secagg.rounds.spool`` has
        one on disk.

    Raises:
      DecodeError: ``feed`` and ``finish``: these bytes are no answer.
    """

    def __init__(self, *, most: int, messages: Sequence[bytes] | None = None) -> None:
        self._left, self._rest = most, bytearray()
        self._messages: Sequence[bytes] = [] if messages is None else messages
        self._keep: Callable[[bytes], None] = self._messages.append  # type: ignore[attr-defined]  # a list or a spool
        self._answer: Answer | None = None
        self._fields = self._read()
        self._need = next(self._fields)

    def feed(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes."""
        if len(chunk) > self._left:
            raise DecodeError("an answer is longer than this request allows")
        self._left -= len(chunk)
        self._rest += chunk
        while self._answer is None and len(self._rest) >= self._need:
            with memoryview(self._rest) as whole:
                taken = bytes(whole[: self._need])
            del self._rest[: self._need]
            try:
                self._need = self._fields.send(taken)
            except StopIteration:
                break
        if self._answer is not None and self._rest:
            raise DecodeError("bytes are left over behind an answer")

    def finish(self) -> Answer:
        """The answer, once all of its bytes were fed."""
        if self._answer is None:
            raise DecodeError(f"an answer is cut short: need {self._need} bytes")
        return self._answer

    def _read(self) -> Generator[int, bytes, None]:
        head = Reader((yield _HEAD))
        _expect(head, ANSWER)
        examples = head.u64()
        keys = yield from self._opaque()
        shares = yield from self._opaque()
        count = int.from_bytes((yield 4), "big")
        if 4 * count > self._left + len(self._rest):
            raise DecodeError(f"an answer of {count} messages has no room for them")
        for _ in range(count):
            self._keep((yield from self._opaque()))
        self._answer = Answer(
            messages=self._messages if type(self._messages) is not list else tuple(self._messages),
            state=None,
            next_keys=keys,
            next_shares=shares,
            examples=examples,
        )

    def _opaque(self) -> Generator[int, bytes, bytes]:
        length = int.from_bytes((yield 4), "big")
        if length > self._left + len(self._rest):
            raise DecodeError(f"{length} bytes are announced, and there is no room for so many")
        return (yield length) if length else b""


def _expect(reader: Reader, kind: int) -> None:
    reader.expect_version()
    if (found := reader.u8()) != kind:
        raise DecodeError(f"message type {found:#04x}, expected {kind:#04x}")
