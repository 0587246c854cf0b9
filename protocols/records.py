"""Records: what a party knows between messages, moved into one secret and out of it again.

    struct {
        opaque version[];           /* of the protocol's records */
        uint8  stage;
        opaque fields[];            /* of the stage; what every stage knows comes first */
        opaque checksum[16];
    } Record;

A record can be copied, so each answer of a restored state goes through a ``Burn`` first.
"""

from abc import ABC, abstractmethod
from typing import ClassVar, Self, TypeVar

from protocols.burn import Burn
from protocols.errors import DecodeError
from protocols.secrets import Secret
from protocols.wire import Fields, Reader, with_checksum, without_checksum


class Kept(ABC):
    """A state that may be kept in a record. Each writes and reads its own fields."""

    __slots__ = ()
    RECORD: ClassVar[bytes]  # a name and, its last character, the version
    WHOSE: ClassVar[str]
    STAGE: ClassVar[int]  # in a record, and in a burn store

    @abstractmethod
    def _fields(self) -> Fields:
        """The fields; what may be answered with once is taken out of this state."""

    @classmethod
    @abstractmethod
    def read(cls, reader: Reader, burn: Burn) -> Self:
        """Inverse of ``_fields``."""

    def into_record(self) -> Secret:
        """Move this state into one secret record. A state that answers once is then used up."""
        return Secret(with_checksum(self.RECORD + bytes([self.STAGE]), *self._fields()))


State = TypeVar("State", bound=Kept)


def open_record(record: Secret, burn: Burn, kinds: tuple[type[State], ...]) -> State:
    """The state in ``record``, of one of ``kinds``.

    Raises:
      DecodeError: the record was cut, changed, or made by another version.
    """
    data, of = record.expose(), kinds[0]
    found = Reader(data).take(len(of.RECORD))
    if found[:-1] != of.RECORD[:-1]:
        raise DecodeError(f"not a {of.WHOSE} state")
    if found != of.RECORD:
        raise DecodeError(
            f"a {of.WHOSE} state of version {chr(found[-1])!r}, this is version "
            f"{chr(of.RECORD[-1])!r}"
        )
    reader = Reader(without_checksum(data))
    reader.view(len(of.RECORD))
    stage = reader.u8()
    for kind in kinds:
        if stage == kind.STAGE:
            state = kind.read(reader, burn)
            reader.finish()
            return state
    raise DecodeError(f"no {of.WHOSE} state has stage {stage}")
