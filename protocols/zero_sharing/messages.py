"""The one message of an epoch; what follows it is a vector of masked words, and no message.

    rank                                    every rank
      | --- Advertise --------------------->  |   once an epoch
      | --- masked words, added up -------->  |   for every collective

Integers are big-endian, words little-endian as the collective carries them. A message is
decoded whole or refused.
"""

from dataclasses import dataclass
from typing import ClassVar, Self

from protocols.primitives.agree import KEY_SIZE
from protocols.primitives.sign import SIGNATURE_SIZE
from protocols.wire import ClientId, Fields, Header, Message, Reader, u32
from protocols.zero_sharing.params import TAG_SIZE


@dataclass(frozen=True, slots=True, kw_only=True)
class Advertise(Message):
    """A rank's public key for an epoch, and what the rank agrees to.

    struct {
        uint8  version = 0x01;
        uint8  type = 0x01;
        opaque session[16];
        uint32 round;
        uint32 sender;
        opaque agreement[8];        /* the start of SHA-256(Agreement) */
        opaque key[32];             /* X25519 */
        opaque signature[64];       /* of key, under the label keys(sender); signed keys only */
        opaque checksum[16];
    } Advertise;
    """

    TYPE: ClassVar[int] = 0x01

    sender: ClientId
    agreement: bytes
    key: bytes
    signature: bytes = b""

    def fields(self) -> Fields:
        return u32(self.sender), self.agreement, self.key, self.signature

    @classmethod
    def read(cls, reader: Reader, header: Header, *, signed: bool = False) -> Self:
        return cls(
            header=header,
            sender=reader.u32(),
            agreement=reader.take(TAG_SIZE),
            key=reader.take(KEY_SIZE),
            signature=reader.take(SIGNATURE_SIZE if signed else 0),
        )
