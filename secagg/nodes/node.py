"""A client on a machine of its own: its folder, its own say, and its answer at every stage.

Engines such as Flower start a fresh process for every message and keep a client's state for
it. That state is sealed here under a key of the node, and is opaque to the engine. What must
not be rolled back stays in the node's folder: the burn records, and the node's ledger.

| file | what it is |
|---|---|
| ``policy.toml`` | what the node agrees to, ``secagg.nodes.policy`` |
| ``state.key`` | seals the state between stages; made on first use |
| ``burnt.sqlite`` | which stages were answered, for which request |
| ``ledger.sqlite`` | what this node has spent, against every server |
| ``identity.key``, ``roster.json`` | of a cohort that signs, ``secagg.nodes.identities`` |
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final, TypeAlias

from dp.accounting.events import Unit
from dp.errors import LedgerConflict
from dp.ledger.ledger import Keeper, Key, Ledger
from protocols import bonawitz, ckks
from protocols.entropy import system
from protocols.errors import DecodeError, ProtocolError
from protocols.primitives.aead import seal, unseal
from protocols.primitives.prg import SEED_SIZE
from protocols.primitives.sign import SigningKey, verify
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE, Reader, opaque, u64
from secagg.errors import NodeError, RefusedError
from secagg.files import read_file
from secagg.nodes.identities import Roster, load_identity
from secagg.nodes.policy import TEMPLATE, Policy
from secagg.nodes.proposal import DIGEST_SIZE, Contribution, Proposal
from secagg.rounds.burns import BurnFile
from secagg.rounds.relay import read_openings
from secagg.stage import Stage

PROPOSED: Final = b"secagg/1 proposal"  # label of a server's signature
SUBJECT: Final = "this node"  # in the node's ledger
NO_STATE: Final = "no state: this node was restarted, or not asked from the first stage on"
_STATE: Final = b"secagg node state 2"

Compute: TypeAlias = Callable[[Proposal], Contribution]


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a server asks of one node.

    Attributes:
      stage: of the sum.
      proposal: ``Proposal.to_bytes()``.
      client: the number that the server gave the node; a signing cohort has its own.
      message: of the protocol; empty at the first stage.
      signature: of the server over the proposal, if it has an identity.
      following: with the last stage, the next session, for which the node is asked to
        advertise keys at once; empty if it is not.
    """

    stage: Stage
    proposal: bytes
    client: int
    message: bytes
    signature: bytes = b""
    following: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a node says.

    Attributes:
      messages: of the protocol; several frames of one vector, otherwise one.
      state: to be kept for the node until the next request, sealed; ``None``: nothing.
      following: keys for the next session, if they were asked for.
      examples: the node's public number of examples, where noise hides examples.
    """

    messages: tuple[bytes, ...]
    state: bytes | None
    following: bytes = b""
    examples: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """Between two stages. Of a key that is not ours to hold there is no record, only the charge."""

    record: Secret
    charge: Key | None = None  # in our ledger


class Node:
    """Answers for the node whose folder is ``home``.

    Args:
      policy: in place of the file, for trials.

    Raises:
      ConfigError: no policy, or a wrong one.
      NodeError: the folder cannot be used.
    """

    def __init__(self, home: Path, policy: Policy | None = None) -> None:
        self.home = home
        if not home.is_dir():
            raise NodeError(f"no folder {home}: `secagg node new {home}` makes one")
        self.policy = policy or Policy.read(home / "policy.toml")

    def answer(
        self, request: Request, state: bytes | None, *, model: bytes, compute: Compute
    ) -> Answer:
        """One stage.

        Args:
          state: what the last answer left.
          model: digest of what this request brought to compute on.
          compute: the program of the application; called at the mask stage alone, after the
            price was written down.

        Raises:
          RefusedError: the policy does not allow it.
          BudgetExceeded: nor does what is left of the budget.
          ProtocolError: the request breaks a rule, or our state was used up.
          NodeError: no state, or one of another stage.
          IdentityError, RunError, LedgerError: a file in our folder cannot be used.
        """
        proposal = Proposal.from_bytes(request.proposal)
        self.policy.check(proposal)
        self._check_server(request)
        with BurnFile(self.home / "burnt.sqlite") as burn:
            agreement = proposal.agreement()
            run = _Bonawitz if isinstance(agreement, bonawitz.Agreement) else _Ckks
            party = run(self, proposal, request, burn, model, compute)
            # The first stage needs none: who cannot open its state any more begins anew.
            kept = self._open(state) if state and request.stage is not Stage.ADVERTISE else None
            messages, after, following = party.step(kept)
        examples = self.policy.examples if _hides_examples(proposal) else None
        return Answer(
            messages=messages,
            state=self._close(after) if after else None,
            following=following,
            examples=examples or 0,
        )

    def _check_server(self, request: Request) -> None:
        if self.policy.server is None:
            return
        try:
            verify(self.policy.server, PROPOSED, request.proposal, request.signature)
        except ProtocolError:
            raise RefusedError(
                "this node's policy refuses (server): the proposal lacks that server's signature"
            ) from None

    def identity(self, roster: bytes) -> tuple[SigningKey, int, Mapping[int, bytes]]:
        """Our key, our number, and everybody's public keys, by the roster of this digest."""
        operator = self.policy.operator
        if operator is None:
            raise RefusedError("this node's policy names no operator, who would sign the roster")
        ours = Roster.read(self.home / "roster.json", operator=operator)
        if ours.digest != roster:
            raise RefusedError(
                f"the server's roster is not this node's, of serial {ours.serial}: one of the two "
                "is out of date"
            )
        key = load_identity(self.home / "identity.key").key
        return key, ours.number_of(key.public), ours.identities

    # The state between stages

    def _key(self) -> Secret:
        path = self.home / "state.key"
        if not path.exists():
            with NamedTemporaryFile(dir=self.home) as draft:  # its mode is 0600
                draft.write(system(SEED_SIZE))
                draft.flush()
                os.fsync(draft.fileno())
                with suppress(FileExistsError):  # another process was first: take its key
                    os.link(draft.name, path)
        key = read_file(path, SEED_SIZE, private=True)
        if len(key) != SEED_SIZE:
            raise NodeError(f"{path} is no key of {SEED_SIZE} bytes; move it away")
        return Secret(key)

    def _close(self, kept: _Kept) -> bytes:
        content = Secret(opaque(kept.record.expose()) + b"".join(map(u64, kept.charge or ())))
        return seal(self._key(), content, _STATE, system)

    def _open(self, state: bytes) -> _Kept:
        try:
            reader = Reader(unseal(self._key(), state, _STATE).expose())
        except ProtocolError:
            raise NodeError("the state is not of this node, or was changed") from None
        record = Secret(reader.opaque())
        charge = Key(reader.u64(), reader.u64()) if reader.left else None
        reader.finish()
        return _Kept(record=record, charge=charge)

    # The books

    def reserve(self, proposal: Proposal) -> Key | None:
        """Charge this node for a sum, unless it is without noise; where the charge stands."""
        if proposal.noise is None:
            return None
        with self._ledger() as ledger:
            return ledger.reserve_next({SUBJECT: proposal.noise.event()})

    def give_back(self, charge: Key | None) -> None:
        """Nothing left this node."""
        if charge:
            with self._ledger() as ledger:
                ledger.abort(charge.round, [SUBJECT], attempt=charge.attempt)

    def settle(self, charge: Key | None) -> None:
        """The sum was opened. How many were in it the server says, so the price stays."""
        if charge:
            with self._ledger() as ledger:
                ledger.commit(charge.round, [SUBJECT], attempt=charge.attempt)

    def _ledger(self) -> Ledger:
        path, policy = self.home / "ledger.sqlite", self.policy
        if not path.exists():
            return Ledger.create(path, policy.budget, keeper=Keeper.CLIENT, policy=policy.filter)
        try:
            return Ledger.open(path, policy.budget)
        except LedgerConflict:
            raise RefusedError(
                f"{path} was made for another budget than the policy's: put that back, or move the "
                "ledger away and state both"
            ) from None


class _Party:
    """One stage of one sum at a node."""

    def __init__(
        self,
        node: Node,
        proposal: Proposal,
        request: Request,
        burn: BurnFile,
        model: bytes,
        compute: Compute,
    ) -> None:
        self.node, self.proposal, self.request = node, proposal, request
        self.burn, self.model, self.compute = burn, model, compute

    def contribution(self) -> tuple[Any, Key | None]:
        """The vector to send, and what it was charged as."""
        if self.model != self.proposal.model:
            raise NodeError("the model that came is not the one that was proposed")
        charge = self.node.reserve(self.proposal)
        try:
            return self.proposal.encode(self.compute(self.proposal)), charge
        except BaseException:
            self.node.give_back(charge)
            raise

    def sent(self, messages: Iterable[bytes], charge: Key | None) -> tuple[bytes, ...]:
        """The frames of an upload, whose charge is given back if none of them can leave."""
        try:
            return tuple(messages)
        except BaseException:
            self.node.give_back(charge)
            raise


Step: TypeAlias = tuple[tuple[bytes, ...], _Kept | None, bytes]


class _Bonawitz(_Party):
    def step(self, kept: _Kept | None) -> Step:
        request, agreement = self.request, self.proposal.agreement()
        if not isinstance(agreement, bonawitz.Agreement):
            raise NodeError("a proposal of another protocol")
        if request.stage is Stage.ADVERTISE:
            return self._join(agreement)
        if kept is None:
            raise NodeError(NO_STATE)
        state = bonawitz.restore(kept.record, burn=self.burn)
        if isinstance(state, bonawitz.AwaitRoster):
            state = state.under(agreement)
        elif state.agreement != agreement:
            raise NodeError("our state is of another proposal")
        match request.stage, state:
            case Stage.SHARE, bonawitz.AwaitRoster():
                message, boxes_due = state.on_roster(request.message)
                return (message,), _Kept(record=boxes_due.into_record()), b""
            case Stage.MASK, bonawitz.AwaitBoxes():
                return self._mask(state)
            case Stage.SIGN, bonawitz.AwaitSurvivors():
                message, signing = state.sign_survivors(request.message)
                return (message,), replace(kept, record=signing.into_record()), b""
            case Stage.REVEAL, bonawitz.AwaitSurvivors():
                return self._reveal(state.on_survivors, kept)
            case Stage.REVEAL, bonawitz.AwaitSignatures():
                return self._reveal(state.on_signatures, kept)
        raise NodeError(f"asked for stage {request.stage}, our state is {type(state).__name__}")

    def _join(self, agreement: bonawitz.Agreement) -> Step:
        me, signing = self.request.client, None
        identities = None
        if agreement.params.active:
            signing, me, identities = self.node.identity(self.proposal.roster)
        message, state = bonawitz.join(agreement, me, identity=signing, identities=identities)
        return (message,), _Kept(record=state.into_record()), b""

    def _mask(self, state: bonawitz.AwaitBoxes) -> Step:
        words, charge = self.contribution()
        try:
            parts, waiting = state.on_boxes(self.request.message, words)
        except BaseException:
            self.node.give_back(charge)
            raise
        frames = self.sent(parts, charge)
        return frames, _Kept(record=waiting.into_record(), charge=charge), b""

    def _reveal(self, reveal: Callable[[bytes], bytes], kept: _Kept) -> Step:
        message = reveal(self.request.message)
        self.node.settle(kept.charge)
        if not self.request.following:
            return (message,), None, b""
        params = self.proposal.params
        if not isinstance(params, bonawitz.Params) or params.active:
            raise NodeError("signed keys are not advertised before everything public is known")
        if len(self.request.following) != SESSION_SIZE:
            raise DecodeError(f"a session of {len(self.request.following)} bytes")
        unknown = bonawitz.Agreement(
            params=params, session=self.request.following, round=0, public=bytes(DIGEST_SIZE)
        )
        keys, state = bonawitz.join(unknown, self.request.client)
        return (message,), _Kept(record=state.into_record()), keys


class _Ckks(_Party):
    def step(self, kept: _Kept | None) -> Step:
        from protocols.ckks import client as parties

        request, agreement = self.request, self.proposal.agreement()
        if not isinstance(agreement, ckks.Agreement):
            raise NodeError("a proposal of another protocol")
        if request.stage is Stage.ADVERTISE:
            message, first = parties.generate(agreement, request.client)
            return (message,), _Kept(record=first.into_record()), b""
        if request.stage is Stage.MASK:
            return self._upload(agreement, kept)
        if kept is None:
            raise NodeError(NO_STATE)
        state = parties.restore(kept.record, burn=self.burn)
        match request.stage, state:
            case Stage.SHARE, parties.AwaitRoster():
                message, openings_due = state.on_roster(request.message)
                return (message,), _Kept(record=openings_due.into_record()), b""
            case Stage.REVEAL, parties.Holder():
                message, summands = state.on_request(agreement, request.message)
                self._keep(summands)
                self.node.settle(kept.charge)
                return (message,), None, b""
        raise NodeError(f"asked for stage {request.stage}, our state is {type(state).__name__}")

    def _upload(self, agreement: ckks.Agreement, kept: _Kept | None) -> Step:
        from protocols.ckks import client as parties
        from protocols.ckks.keys import CollectiveKey

        me = self.request.client
        opened, boxes = read_openings(self.request.message)
        holder = None
        if boxes:
            if kept is None:
                raise NodeError(NO_STATE)
            state = parties.restore(kept.record, burn=self.burn)
            if not isinstance(state, parties.AwaitOpenings):
                raise NodeError(f"asked to hold a key, our state is {type(state).__name__}")
            holder, key = state.on_openings(opened, boxes)
        else:
            key = CollectiveKey.from_bytes(agreement, opened)
        values, charge = self.contribution()
        try:
            upload = parties.encrypt(agreement, me, key, values, burn=self.burn)
        except BaseException:
            self.node.give_back(charge)
            raise
        frames = self.sent(upload, charge)
        after = _Kept(record=holder.into_record(), charge=charge) if holder else None
        return frames, after, b""

    def _keep(self, summands: Mapping[int, bytes]) -> None:
        """Whose uploads we helped to open: a sum that was none can be shown later."""
        line = {str(client): digest.hex() for client, digest in summands.items()}
        with (self.node.home / "summands.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({self.proposal.session.hex(): line}) + "\n")


def _hides_examples(proposal: Proposal) -> bool:
    return proposal.noise is not None and proposal.noise.mechanism.unit is Unit.EXAMPLE


def new_home(home: Path) -> Path:
    """A folder for a node, with a policy to edit.

    Raises:
      NodeError: there is something of that name.
    """
    try:
        home.mkdir(mode=0o700, parents=True)
        with (home / "policy.toml").open("x", encoding="utf-8") as file:
            file.write(TEMPLATE)
    except OSError as error:
        raise NodeError(f"cannot make {home}: {error.strerror}") from None
    return home
