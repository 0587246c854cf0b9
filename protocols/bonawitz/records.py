"""What a client keeps in a record: the fields of every stage, and the secrets of some."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, Self

from protocols.bonawitz.params import Agreement
from protocols.burn import Burn
from protocols.errors import DecodeError, RemoteProtocolError
from protocols.primitives.agree import KEY_SIZE, PrivateKey
from protocols.primitives.prg import SEED_SIZE
from protocols.primitives.sign import VERIFY_KEY_SIZE, SigningKey
from protocols.records import Kept
from protocols.secrets import Secret
from protocols.wire import ClientId, Reader, opaque, u32, write_map

RECORD = b"secagg client state 4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client(Kept):
    """What a client knows at every stage."""

    RECORD: ClassVar[bytes] = RECORD
    WHOSE: ClassVar[str] = "client"

    agreement: Agreement
    me: ClientId
    burn: Burn | None = field(default=None, repr=False)
    identity: SigningKey | None = field(default=None, repr=False)  # ours
    identities: Mapping[ClientId, bytes] = field(default_factory=dict, repr=False)  # of our peers

    def _known(self) -> bytes:
        identity = opaque(self.identity.secret.expose() if self.identity else b"")
        head = self.agreement.to_bytes() + u32(self.me)
        return head + identity + write_map(self.identities, bytes)

    @staticmethod
    def _read_known(reader: Reader, burn: Burn) -> dict[str, Any]:
        agreement, me, identity = Agreement.read(reader), reader.u32(), reader.opaque()
        if len(identity) not in (0, VERIFY_KEY_SIZE):
            raise DecodeError(f"a signing key of {len(identity)} bytes")
        return {
            "agreement": agreement,
            "me": me,
            "burn": burn,
            "identity": SigningKey(Secret(identity)) if identity else None,
            "identities": reader.map(lambda source: source.take(VERIFY_KEY_SIZE)),
        }

    def _burn(self, request: bytes, *more: Any, place: bytes = b"") -> None:
        """Take this stage for ``request`` and ``more``, buffers of any size.

        Args:
          place: of the burn store; by default that of this client in this round.
        """
        if self.burn is None:
            return
        hashes = (hashlib.sha256(buffer).digest() for buffer in more)
        digest = hashlib.sha256(b"".join((request, *hashes))).digest()
        place = place or self.agreement.header.place(self.me)
        if not self.burn(place, self.STAGE, digest):
            raise RemoteProtocolError(
                f"stage {self.STAGE} of client {self.me} was answered for another request"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The secret halves of what a client has advertised."""

    mask: PrivateKey
    seal: PrivateKey
    draw: Secret  # seed of everything random that the next answer needs

    def to_bytes(self) -> bytes:
        return self.mask.secret.expose() + self.seal.secret.expose() + self.draw.expose()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(
            mask=PrivateKey(reader.secret(KEY_SIZE)),
            seal=PrivateKey(reader.secret(KEY_SIZE)),
            draw=reader.secret(SEED_SIZE),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """What a client that has shared its secrets keeps of each peer."""

    mask_key: bytes
    opening: Secret = field(repr=False)  # the key of the box that this peer seals for us

    def to_bytes(self) -> bytes:
        return self.mask_key + self.opening.expose()

    @classmethod
    def read(cls, reader: Reader) -> Self:
        return cls(mask_key=reader.take(KEY_SIZE), opening=reader.secret(KEY_SIZE))


class Stranger(NamedTuple):
    """What a client keeps of who is no pick of its own: it may have picked us.

    Few have, so the key of its box is agreed when that box comes.
    """

    mask_key: bytes
    seal_key: bytes

    def to_bytes(self) -> bytes:
        return self.mask_key + self.seal_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Sharing:
    """The secrets of a client that it has shared."""

    mask_key: PrivateKey
    seed: Secret  # of the self-mask, b_u in [BIK+17]
    own_share: Secret | None  # in a complete graph
    peers: Mapping[ClientId, Peer]  # to whom it sealed a box; where clients pick, its picks
    seal_key: PrivateKey | None = None  # where they pick, to open the boxes of strangers
    strangers: Mapping[ClientId, Stranger] = field(default_factory=dict)

    def mask_key_of(self, peer: ClientId) -> bytes:
        return (self.peers.get(peer) or self.strangers[peer]).mask_key

    def to_bytes(self) -> bytes:
        own_share = opaque(self.own_share.expose() if self.own_share else b"")
        seal_key = opaque(self.seal_key.secret.expose() if self.seal_key else b"")
        return b"".join(
            (
                *(self.mask_key.secret.expose(), self.seed.expose(), own_share),
                *(write_map(self.peers, Peer.to_bytes), seal_key),
                write_map(self.strangers, Stranger.to_bytes),
            )
        )

    @classmethod
    def read(cls, reader: Reader) -> Self:
        mask_key, seed = PrivateKey(reader.secret(KEY_SIZE)), reader.secret(SEED_SIZE)
        own_share, peers = reader.opaque(), reader.map(Peer.read)
        seal_key = reader.opaque()
        if len(seal_key) not in (0, KEY_SIZE):
            raise DecodeError(f"a sealing key of {len(seal_key)} bytes")
        return cls(
            mask_key=mask_key,
            seed=seed,
            own_share=Secret(own_share) if own_share else None,
            peers=peers,
            seal_key=PrivateKey(Secret(seal_key)) if seal_key else None,
            strangers={
                peer: Stranger(mask_key, seal_key)
                for peer, mask_key, seal_key in reader.rows(KEY_SIZE, KEY_SIZE)
            },
        )
