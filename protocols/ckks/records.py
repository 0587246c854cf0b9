"""What a holder keeps in a record: the fields of every stage, and the secrets of the first."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from protocols.burn import Burn
from protocols.ckks.messages import BLIND_SIZE
from protocols.ckks.params import Agreement, Model, Params
from protocols.errors import DecodeError
from protocols.primitives.agree import KEY_SIZE, PrivateKey
from protocols.primitives.prg import SEED_SIZE
from protocols.records import Kept
from protocols.secrets import Secret
from protocols.wire import ClientId, Reader, u32

RECORD = b"secagg ckks state 3"


@dataclass(frozen=True, slots=True, kw_only=True)
class Party(Kept):
    """What a holder knows at every stage."""

    RECORD: ClassVar[bytes] = RECORD
    WHOSE: ClassVar[str] = "holder's"

    agreement: Agreement
    me: ClientId

    def _known(self) -> bytes:
        return self.agreement.to_bytes() + u32(self.me)

    @staticmethod
    def _read_known(reader: Reader, burn: Burn) -> dict[str, Any]:
        agreement = Agreement.read(reader)
        if agreement.params.model is not Model.THRESHOLD:
            raise DecodeError("a shared key has no holders")
        return {"agreement": agreement, "me": reader.u32(), "burn": burn}


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
            share=reader.take(params.share_size),
        )
