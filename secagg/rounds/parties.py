"""The client half of one sum, the mirror of ``relay``: a request in, messages out, by stage.

A party asks for its vector at the mask stage and not before, and keeps its state between
stages. Where every message meets a fresh process, ``into_record`` moves that state out and
``from_record`` in again; each answer of a state from a record goes through a burn store.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import KW_ONLY, dataclass, field
from typing import TYPE_CHECKING, Final, NoReturn, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols import bonawitz
from protocols.bonawitz import ClientId
from protocols.burn import Burn
from protocols.entropy import Entropy, system
from protocols.primitives.prg import Expand
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.errors import NodeError
from secagg.rounds.masking import expand
from secagg.rounds.relay import Identities, read_openings
from secagg.stage import Stage

if TYPE_CHECKING:
    from protocols.bonawitz.client import State as BonawitzState
    from protocols.ckks import Agreement as CkksAgreement
    from protocols.ckks.client import Private, Published
    from protocols.ckks.client import State as CkksState
    from protocols.ckks.keys import Chunks, SharedKey

NO_STATE: Final = "no state: this node was restarted, or not asked from the first stage on"

Messages: TypeAlias = tuple[bytes, ...]
Words: TypeAlias = NDArray[np.uint64]
Numbers: TypeAlias = NDArray[np.uint64] | NDArray[np.float64]


class Party(ABC):
    """One client of one sum."""

    @abstractmethod
    def answer(self, stage: Stage, request: bytes) -> Messages:
        """The messages to send: the frames of a vector, otherwise one.

        Raises:
          RemoteProtocolError: the request breaks a rule, or we answered another one.
          NodeError: there is no state, or it is one of another stage.
        """


@dataclass(slots=True, eq=False, repr=False)
class BonawitzClient(Party):
    """A client of ``protocols.bonawitz``.

    Attributes:
      agreement: all that is public about the round.
      me: our number in it.
      entropy: gives secret bytes.
      vector: gives ``params.words`` words, in one array or in parts. It is asked once the boxes
        were found good and the answer was burnt: what it computes cannot end in a refusal.
      identity, identities: against an active server, as in ``protocols.bonawitz.join``.
      expand: how the masks are put on; see ``secagg.rounds.masking``.
      accept: is told who is in a sum that nobody signs, before we help to open it; may refuse.
    """

    agreement: bonawitz.Agreement
    me: ClientId
    vector: Callable[[], Words | Iterable[Words]]
    _: KW_ONLY
    entropy: Entropy = system
    identity: SigningKey | None = None
    identities: Identities | None = None
    expand: Expand = expand
    accept: Callable[[Set[ClientId]], None] = lambda _: None
    _state: "BonawitzState | None" = field(default=None, init=False)

    def from_record(self, record: Secret, *, burn: Burn) -> Self:
        """This party in the state that ``record`` holds.

        Keys that were advertised, and shares that were sealed, before everything public was known
        answer under our agreement.

        Raises:
          NodeError: the record is of another agreement, or another client's.
          ProtocolError: it is no record, its keys are of another session, or its shares of other
            parameters.
        """
        state = bonawitz.restore(record, burn=burn)
        match state:
            case _ if state.me != self.me:
                raise NodeError(f"our state is of client {state.me}, we are called {self.me}")
            case bonawitz.AwaitRoster():
                state = state.rebind(self.agreement)
            case bonawitz.AwaitBoxes() if not state.agreement.known:
                state = state.rebind(self.agreement)
            case _ if state.agreement != self.agreement:
                raise NodeError("our state is of another proposal; begin with the first stage")
        self._state = state
        return self

    def answer(self, stage: Stage, request: bytes) -> Messages:
        match stage, self._state:
            case Stage.ADVERTISE, _:
                message, self._state = bonawitz.join(
                    self.agreement,
                    self.me,
                    self.entropy,
                    identity=self.identity,
                    identities=self.identities,
                )
            case Stage.SHARE, bonawitz.AwaitRoster() as state:
                message, self._state = state.on_roster(request)
            case Stage.MASK, bonawitz.AwaitBoxes() as state:
                parts, after = state.on_boxes(request, self._parts(), expand=self.expand)
                frames = tuple(parts)
                self._state = after
                return frames
            case Stage.SIGN, bonawitz.AwaitSurvivors() as state:
                message, self._state = state.sign_survivors(request)
            case Stage.REVEAL, bonawitz.AwaitSurvivors() as state:
                message = state.on_survivors(request, accept=self.accept)
                self._state = None
            case Stage.REVEAL, bonawitz.AwaitSignatures() as state:
                message, self._state = state.on_signatures(request), None
            case _:
                _refuse(stage, self._state)
        return (message,)

    def _parts(self) -> Iterator[Words]:
        vector = self.vector()
        yield from (vector,) if isinstance(vector, np.ndarray) else vector

    def into_record(self) -> Secret | None:
        """Move the state out, to be kept until the next request; ``None``: there is none."""
        return self._state.into_record() if self._state else None


@dataclass(slots=True, eq=False, repr=False)
class CkksClient(Party):
    """A client of threshold ``protocols.ckks``; the first ones also hold the key.

    Attributes:
      agreement: all that is public about the session.
      me: our number in it.
      entropy: gives secret bytes.
      vector: gives ``params.entries`` words, or reals; it is asked once the answer was burnt.
      burn: durable, where the state may move into a record.
      opens: told whose uploads a sum is said to be of, by number and digest, before an answer
        that helps to open it leaves. A sum that was none can be shown later.
      chunks: another way to work through the chunks of a vector. It sees the keys.
    """

    agreement: "CkksAgreement"
    me: ClientId
    vector: Callable[[], Numbers]
    _: KW_ONLY
    burn: Burn
    opens: Callable[[Mapping[ClientId, bytes]], None] = lambda _: None
    entropy: Entropy = system
    chunks: "Chunks" = map
    _state: "CkksState | Secret | None" = field(default=None, init=False)

    def from_record(self, record: Secret) -> Self:
        """This party in the state that ``record`` holds, which is read at a stage that needs it."""
        self._state = record
        return self

    def answer(self, stage: Stage, request: bytes) -> Messages:
        from protocols.ckks import client as ckks

        if stage is Stage.ADVERTISE:
            message, self._state = ckks.generate(self.agreement, self.me, self.entropy)
            return (message,)
        if stage is Stage.MASK:
            return self._upload(request)
        match stage, self._restored():
            case Stage.SHARE, ckks.AwaitRoster() as state:
                message, self._state = state.on_roster(request)
            case Stage.REVEAL, ckks.Holder() as state:
                parts, summands = state.on_request(self.agreement, request, chunks=self.chunks)
                self.opens(summands)
                self._state = None
                return tuple(parts)
            case _, state:
                _refuse(stage, state)
        return (message,)

    def _upload(self, request: bytes) -> Messages:
        """One vector, by every client. Who holds a part of the key first takes its shares."""
        from protocols.ckks import client as ckks
        from protocols.ckks.keys import CollectiveKey

        opened, boxes = read_openings(request)
        holder: ckks.Holder | None = None
        if not boxes:
            key = CollectiveKey.from_bytes(self.agreement, opened)
        elif isinstance(state := self._restored(), ckks.AwaitOpenings):
            holder, key = state.on_openings(opened, boxes, burn=self.burn)
        else:
            _refuse(Stage.MASK, state)
        own = (self.agreement, self.me, key, self.vector)
        frames = tuple(ckks.encrypt(*own, burn=self.burn, chunks=self.chunks))
        self._state = holder
        return frames

    def _restored(self) -> "CkksState | None":
        from protocols.ckks.client import restore

        if isinstance(self._state, Secret):
            self._state = restore(self._state, burn=self.burn)
        return self._state

    def into_record(self) -> Secret | None:
        """Move the state out, to be kept until the next request; ``None``: there is none."""
        state = self._restored()
        return state.into_record() if state else None


@dataclass(slots=True, eq=False, repr=False)
class SharedCkksClient(Party):
    """A client of ``protocols.ckks`` with the key that all clients share, and no server has.

    It answers at the mask stage alone, and opens the sum for itself.

    Attributes:
      agreement: all that is public about the session.
      me: our number in it.
      vector: gives ``params.entries`` words, or reals; it is asked once the answer was burnt.
      key: that all clients share.
      burn: durable, where the state may move into a record.
      chunks: another way to work through the chunks of a vector. It sees the key.
    """

    agreement: "CkksAgreement"
    me: ClientId
    vector: Callable[[], Numbers]
    key: "SharedKey"
    _: KW_ONLY
    burn: Burn
    chunks: "Chunks" = map
    _sent: bytes | None = field(default=None, init=False)  # the name of our upload

    def answer(self, stage: Stage, request: bytes) -> Messages:
        from protocols.ckks.client import encrypt

        if stage is not Stage.MASK:
            raise NodeError(f"asked for stage {stage}, a shared key has {Stage.MASK} alone")
        own = (self.agreement, self.me, self.key, self.vector)
        upload = encrypt(*own, burn=self.burn, chunks=self.chunks)
        frames = tuple(upload)
        self._sent = upload.name
        return frames

    def open(self, message: bytes) -> "Published | Private":
        """The sum of the round; see ``protocols.ckks.client.open_sum``."""
        from protocols.ckks.client import open_sum

        own = (self.agreement, self.me, self.key, message)
        return open_sum(*own, burn=self.burn, sent=self._sent, chunks=self.chunks)


def _refuse(stage: Stage, state: object) -> NoReturn:
    if state is None:
        raise NodeError(NO_STATE)
    raise NodeError(f"asked for stage {stage}, our state is {type(state).__name__}")
