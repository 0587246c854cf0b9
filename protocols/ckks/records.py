"""Records: what a holder knows between messages, moved into one secret and out of it again.

    struct {
        opaque magic[19] = "secagg ckks state 2";
        uint8  stage;
        opaque agreement[];         /* session, round, parameters, public inputs */
        uint32 me;
        opaque fields[];            /* what the stage keeps */
        opaque checksum[16];
    } Record;

A record can be copied, so each answer of a restored state goes through a ``Burn`` first.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self, TypeVar

from protocols.burn import Burn
from protocols.ckks.messages import BLIND_SIZE, share_size
from protocols.ckks.params import Agreement, Model, Params
from protocols.errors import DecodeError
from protocols.primitives.agree import KEY_SIZE, PrivateKey
from protocols.primitives.prg import SEED_SIZE
from protocols.secrets import Secret
from protocols.wire import ClientId, Fields, Reader, open_checksum, seal_checksum, u32

RECORD = b"secagg ckks state 2"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept(ABC):
    """What every state of a holder knows; it writes and reads the fields that it keeps besides."""

    STAGE: ClassVar[int]  # of the message that it answers, in a burn store and in a record

    agreement: Agreement
    me: ClientId

    @abstractmethod
    def _fields(self) -> Fields:
        """What this state keeps besides, taken out of it where it answers once."""

    @classmethod
    @abstractmethod
    def read(cls, reader: Reader, known: dict[str, Any]) -> Self:
        """Inverse of ``_fields``; ``known`` holds what every state knows, by name."""

    def into_record(self) -> Secret:
        """Move this state into one secret record; one that answers once is then used up."""
        head = RECORD + bytes([self.STAGE]) + self.agreement.to_bytes() + u32(self.me)
        return Secret(seal_checksum(head, *self._fields()))


State = TypeVar("State", bound=Kept)


def open_record(record: Secret, burn: Burn, *states: type[State]) -> State:
    """The state of one of the classes ``states`` that ``record`` holds.

    Raises:
      DecodeError: the record was cut, changed, or made by another version.
    """
    reader = Reader(open_checksum(record.expose()))
    if reader.take(len(RECORD)) != RECORD:
        raise DecodeError("not a holder's state of this version")
    stage, agreement, me = reader.u8(), Agreement.read(reader), reader.u32()
    if agreement.params.model is not Model.THRESHOLD:
        raise DecodeError("a shared key has no holders")
    for kind in states:
        if stage == kind.STAGE:
            state = kind.read(reader, {"agreement": agreement, "me": me, "burn": burn})
            reader.finish()
            return state
    raise DecodeError(f"no holder's state has stage {stage}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Making:
    """A holder's part of the key, before anybody has seen it."""

    seed: Secret  # of s_i: what is shared among the holders
    own: Secret  # of everything random that later answers need; never shared
    seal: PrivateKey
    blind: bytes = field(repr=False)
    share: bytes = field(repr=False)  # b_i

    def to_bytes(self) -> bytes:
        secrets = self.seed.expose() + self.own.expose() + self.seal.secret.expose()
        return secrets + self.blind + self.share

    @classmethod
    def read(cls, reader: Reader, params: Params) -> Self:
        return cls(
            seed=reader.secret(SEED_SIZE),
            own=reader.secret(SEED_SIZE),
            seal=PrivateKey(reader.secret(KEY_SIZE)),
            blind=reader.take(BLIND_SIZE),
            share=reader.take(share_size(params)),
        )
