"""A client on a machine of its own: its folder, its own say, and its answer at every stage.

Engines such as Flower start a fresh process for every message and keep a client's state for
it. That state is sealed here under a key of the node, and is opaque to the engine. What must
not be rolled back stays in the node's folder: the burn records, and the node's ledger.

| file | what it is |
|---|---|
| ``policy.toml`` | what the node agrees to, ``secagg.nodes.policy`` |
| ``state.key`` | seals the state between stages; made on first use |
| ``burnt.sqlite`` | which stages were answered, for which request; sums over each model |
| ``ledger.sqlite`` | what this node has spent, against every server |
| ``identity.key``, ``roster.json`` | of a cohort that signs, ``secagg.nodes.identities`` |
| ``roster.serial`` | the highest serial of a roster that was read, and whose |

What a refusal says, it says before the program of the application has seen a byte of data: the
policy, then the message, then the price, and then the work. From there on a node answers
whatever comes of it, and gives no charge back: work that failed brings zeros.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Final, Self, TypeAlias

from dp.accounting.events import Unit
from dp.errors import LedgerConflict
from dp.ledger.ledger import Key, Ledger, LedgerOwner
from protocols import bonawitz, ckks
from protocols.bonawitz.params import UNKNOWN
from protocols.entropy import system
from protocols.errors import DecodeError, ProtocolError
from protocols.primitives.aead import seal, unseal
from protocols.primitives.prg import SEED_SIZE, Expand
from protocols.primitives.sign import SigningKey, verify
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE, Reader, opaque, u64
from secagg.errors import IdentityError, NodeError, RefusedError
from secagg.files import FolderLock, read_file, write_atomically
from secagg.nodes.identities import Roster, load_identity
from secagg.nodes.messages import REQUESTED, Answer, Request
from secagg.nodes.policy import TEMPLATE, NodePolicy
from secagg.nodes.proposal import Contribution, Failure, Proposal
from secagg.rounds.burns import BurnFile
from secagg.rounds.masking import expand
from secagg.rounds.parties import BonawitzClient, CkksClient
from secagg.stage import Stage

SUBJECT: Final = "this node"  # in the node's ledger
NOTHING: Final = "this node brings nothing to this sum; its log says why"
_STATE: Final = b"secagg node state 3"
_MODEL: Final = b"secagg node sums over a model"
_SERIAL_SIZE: Final = 256  # bytes of roster.serial, at most
_log = logging.getLogger("secagg")

Compute: TypeAlias = Callable[[Proposal], Contribution | Failure]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """What waits for one session between two stages: a record, and the charge in our ledger."""

    session: bytes
    record: Secret
    charge: Key | None = None  # in our ledger

    def to_bytes(self) -> bytes:
        charge = b"".join(map(u64, self.charge or ()))
        return self.session + opaque(self.record.expose()) + opaque(charge)

    @classmethod
    def read(cls, reader: Reader) -> Self:
        session, record = reader.take(SESSION_SIZE), Secret(reader.opaque())
        charge = Reader(reader.opaque())
        key = Key(charge.u64(), charge.u64()) if charge.left else None
        charge.finish()
        return cls(session=session, record=record, charge=key)


@dataclass(slots=True, kw_only=True)
class _Vector:
    """What one answer sends, if the protocol asks for it: charged first, and then computed.

    The protocol asks once it has found the request good, and sends what it is given: whether
    the work came to something, nobody can tell but by the sum.
    """

    node: "Node"
    proposal: Proposal
    client: int
    burn: BurnFile
    compute: Compute
    charge: Key | None = None
    ran: bool = False

    def __call__(self) -> Any:
        self.node.count(self.proposal, self.client, self.burn)
        self.charge = self.node.reserve(self.proposal)
        self.ran = True
        failure = Failure.RAISED
        try:
            own = self.compute(self.proposal)
            failure = own if isinstance(own, Failure) else Failure.UPDATE
            return self.proposal.encode(own, self.client)
        except KeyboardInterrupt:  # by a person, who may end what has been charged
            raise
        except BaseException as error:  # noqa: BLE001  # what it is would say something of the data
            _log.warning("secagg: %s", NOTHING, exc_info=error)
            return self.proposal.encode(failure, self.client)


class Node:
    """Answers for the node whose folder is ``home``.

    Args:
      policy: in place of the file, for trials.
      expand: how masks are put on; see ``secagg.rounds.masking``.

    Raises:
      InputError: no policy, or a wrong one.
      NodeError: the folder cannot be used.
    """

    def __init__(
        self, home: Path, policy: NodePolicy | None = None, *, expand: Expand = expand
    ) -> None:
        self.home, self.expand = home, expand
        if not home.is_dir():
            raise NodeError(f"no folder {home}: `secagg node new {home}` makes one")
        self.policy = policy or NodePolicy.read(home / "policy.toml")

    def answer(
        self,
        request: Request,
        state: bytes | None,
        *,
        model: bytes,
        compute: Compute,
        purpose: str | None = None,
    ) -> Answer:
        """Answer one request of the server, a stage of a sum.

        Args:
          state: what the last answer left.
          model: digest of what this request brought to compute on, or of what our update was
            computed on before it.
          compute: the program of the application; called at the mask stage alone, after the
            price was written down. If it fails, the answer is that of one who brings nothing.
          purpose: what the engine calls the request, if the proposal must call it the same.

        Raises:
          RefusedError: the policy does not allow it.
          BudgetExceeded: nor does what is left of the budget.
          ProtocolError: the request breaks a rule, or our state was used up.
          NodeError: no state, or one of another stage; another model or purpose than proposed;
            or, in the one text ``NOTHING``, whatever else went wrong once ``compute`` had run.
          IdentityError, RunError, LedgerError: a file in our folder cannot be used, or another
            process is just answering from there.
        """
        self._check_server(request)
        proposal = self.policy.read_proposal(request.proposal)
        if purpose is not None and proposal.purpose != purpose:
            raise NodeError("the message is of another type than the proposal")
        if request.stage is Stage.MASK and model != proposal.model_of(request.client):
            raise NodeError("the model that came is not the one that was proposed")
        ahead = _Ahead.of(request, proposal)
        with FolderLock(self.home), BurnFile(self.home / "burnt.sqlite") as burn:
            # The first stage needs no state, so a node that lost ``state.key`` can rejoin.
            kept = self._open(state) if state and request.stage is not Stage.ADVERTISE else []
            mine, later = _find(kept, proposal.session)
            vector = _Vector(
                node=self, proposal=proposal, client=request.client, burn=burn, compute=compute
            )
            party = self._party(request, mine.record if mine else None, vector)
            try:
                messages = party.answer(request.stage, request.message)
            except Exception as error:
                if vector.ran:
                    raise NodeError(NOTHING) from error
                raise
            charge = vector.charge or (mine.charge if mine else None)
            if request.stage is Stage.REVEAL:
                self.settle(charge)
            said, later = ahead.answer(later, burn) if ahead else ({}, later)
            if record := party.into_record():
                later = [_Kept(session=proposal.session, record=record, charge=charge), *later]
        tells = request.stage is Stage.MASK and _hides_examples(proposal)
        return Answer(
            messages=messages,
            state=self._close(later) if later else None,
            examples=(self.policy.examples or 0) if tells else 0,
            **said,
        )

    def _party(
        self, request: Request, record: Secret | None, vector: _Vector
    ) -> BonawitzClient | CkksClient:
        """The client of the protocol, as the last answer left it or from the start."""
        agreement, me, burn = vector.proposal.agreement(), request.client, vector.burn
        if isinstance(agreement, ckks.Agreement):
            opens = partial(self._keep_summands, vector.proposal)
            holder = CkksClient(agreement, me, vector, burn=burn, opens=opens)
            return holder.from_record(record) if record else holder
        key, identities = None, None
        if agreement.params.active and request.stage is Stage.ADVERTISE:
            key, me, identities = self.identity(vector.proposal.roster_digest)
            if agreement.params.rates is not None and agreement.params.clients > len(identities):
                raise RefusedError(
                    f"the server proposes a sparse graph of {agreement.params.clients}, the roster "
                    f"has {len(identities)}"
                )
        party = BonawitzClient(
            agreement, me, vector, identity=key, identities=identities, expand=self.expand
        )
        if vector.proposal.versions:
            party.accept = vector.proposal.versions.check_survivors
        return party.from_record(record, burn=burn) if record else party

    def _check_server(self, request: Request) -> None:
        if self.policy.server is None:
            return
        try:
            verify(self.policy.server, REQUESTED, request.signed(), request.signature)
        except ProtocolError:
            raise RefusedError(
                "this node's policy refuses (server): the request lacks that server's signature"
            ) from None

    def identity(self, roster: bytes) -> tuple[SigningKey, int, Mapping[int, bytes]]:
        """Our key, our number, and everybody's public keys, by the roster of this digest."""
        operator = self.policy.operator
        if operator is None:
            raise RefusedError("this node's policy names no operator, who would sign the roster")
        ours = self._roster(operator)
        if ours.digest != roster:
            raise RefusedError(
                f"the server's roster is not this node's, of serial {ours.serial}: one of the two "
                "is out of date"
            )
        key = load_identity(self.home / "identity.key").key
        return key, ours.number_of(key.public), ours.identities

    def _roster(self, operator: bytes) -> Roster:
        """The operator's roster in our folder, none older than one that we have read before."""
        path, seen, of = self.home / "roster.serial", 0, operator.hex()
        if path.exists():
            said = read_file(path, _SERIAL_SIZE).decode(errors="replace").strip()
            serial, _, whose = said.partition(" of ")
            if not serial.isdecimal():
                raise IdentityError(f"{path} holds no serial, so it was changed: restore it")
            seen = int(serial) if whose == of else 0
        found = Roster.read(self.home / "roster.json", operator=operator, at_least=seen)
        if found.serial > seen:
            write_atomically(path, f"{found.serial} of {of}\n".encode())
        return found

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

    def _close(self, kept: Sequence[_Kept]) -> bytes:
        content = Secret(b"".join(each.to_bytes() for each in kept))
        return seal(self._key(), content, _STATE, system)

    def _open(self, state: bytes) -> list[_Kept]:
        try:
            reader = Reader(unseal(self._key(), state, _STATE).expose())
        except ProtocolError:
            raise NodeError("the state is not of this node, or was changed: begin anew") from None
        kept = []
        while reader.left:
            kept.append(_Kept.read(reader))
        return kept

    # The books

    def count(self, proposal: Proposal, client: int, burn: BurnFile) -> None:
        """Count a sum without noise among those over our model, before a vector leaves for it.

        Args:
          client: our number in it, which says our version of the model.

        Raises:
          RefusedError: there were as many as the policy allows.
        """
        if proposal.noise is not None:
            return
        about = opaque(proposal.purpose.encode()) + proposal.model_of(client)
        place, most = hashlib.sha256(_MODEL + about).digest(), self.policy.sums_per_model
        # Of each vector: a server may give us several numbers in one session.
        this = system(SESSION_SIZE)
        if not any(burn(place, number, this) for number in range(most)):
            raise RefusedError(
                f"this node's policy refuses (sums_per_model {most}): it has brought its update of "
                "this model to as many sums"
            )

    def reserve(self, proposal: Proposal) -> Key | None:
        """Charge this node for a sum, unless it is without noise; where the charge stands."""
        if proposal.noise is None:
            return None
        with self._ledger() as ledger:
            return ledger.reserve_next({SUBJECT: proposal.noise.event()})

    def settle(self, charge: Key | None) -> None:
        """Keep the reserved price: only the server says how many survived, and it may lie."""
        if charge:
            with self._ledger() as ledger:
                ledger.commit(charge.round, [SUBJECT], attempt=charge.attempt)

    def _keep_summands(self, proposal: Proposal, summands: Mapping[int, bytes]) -> None:
        """Keep digests of the uploads that we helped to open: evidence against a false sum."""
        line = {str(client): digest.hex() for client, digest in summands.items()}
        with (self.home / "summands.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({proposal.session.hex(): line}) + "\n")

    def _ledger(self) -> Ledger:
        path, policy = self.home / "ledger.sqlite", self.policy
        if not path.exists():
            return Ledger.create(
                path, policy.budget, keeper=LedgerOwner.CLIENT, policy=policy.filter
            )
        try:
            return Ledger.open(path, policy.budget)
        except LedgerConflict:
            raise RefusedError(
                f"{path} was made for another budget than the policy's: put that back, or move the "
                "ledger away and state both"
            ) from None


def _find(kept: Sequence[_Kept], session: bytes) -> tuple[_Kept | None, list[_Kept]]:
    """What waits for this session, and for later ones; what waited for earlier ones is dropped.

    Where nothing waits for this session the protocol is handed what waits first, and refuses it.
    """
    for place, each in enumerate(kept):
        if each.session == session:
            return each, list(kept[place + 1 :])
    return (kept[0] if kept else None), []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Ahead:
    """What a request asks for sums that are not proposed yet. It says nothing of data.

    Attributes:
      params: of the sum that is under way, which our policy allows. Shares are sealed for the
        same: a sum with others cannot use them.
      roster: of the session of which we have keys waiting; empty: no shares are asked for.
      session: to advertise keys for; empty: none are asked for.
    """

    params: bonawitz.Params
    me: int
    roster: bytes
    session: bytes

    @classmethod
    def of(cls, request: Request, proposal: Proposal) -> Self | None:
        """``None``: nothing is asked. Raises ``NodeError`` for what is never sent ahead."""
        params, stage = proposal.params, request.stage
        roster = request.next_roster if stage is Stage.REVEAL else b""
        session = request.next_session if stage in (Stage.SHARE, Stage.REVEAL) else b""
        if isinstance(params, ckks.Params) or not (roster or session):
            return None
        if params.active:
            raise NodeError("signed keys are not advertised before everything public is known")
        if roster and proposal.noise and params.rates:
            raise NodeError("in a sparse graph with noise nothing is shared before a proposal")
        if session and len(session) != SESSION_SIZE:
            raise DecodeError(f"a session of {len(session)} bytes")
        return cls(params=params, me=request.client, roster=roster, session=session)

    def answer(self, later: list[_Kept], burn: BurnFile) -> tuple[dict[str, bytes], list[_Kept]]:
        """Shares and keys, as fields of an answer, and what then waits in place of ``later``.

        A roster that is no good costs us the next sum, and not the answer for this one.
        """
        said, waits = {}, list[_Kept]()
        if self.roster and later:
            try:
                said["next_shares"], kept = self._share(later[0], burn)
                waits.append(kept)
            except (ProtocolError, NodeError) as error:
                _log.warning("secagg: no shares for the next sum: %s", error)
        if self.session:
            said["next_keys"], state = bonawitz.join(self._agreement(self.session), self.me)
            waits.append(_Kept(session=self.session, record=state.into_record()))
        return said, waits

    def _share(self, kept: _Kept, burn: BurnFile) -> tuple[bytes, _Kept]:
        state = bonawitz.restore(kept.record, burn=burn)
        if not isinstance(state, bonawitz.AwaitRoster):
            raise NodeError(f"asked for shares ahead, our state is {type(state).__name__}")
        message, after = state.rebind(self._agreement(kept.session)).on_roster(self.roster)
        return message, _Kept(session=kept.session, record=after.into_record())

    def _agreement(self, session: bytes) -> bonawitz.Agreement:
        return bonawitz.Agreement(
            params=self.params, session=session, round=0, public_digest=UNKNOWN
        )


def _hides_examples(proposal: Proposal) -> bool:
    return proposal.noise is not None and proposal.noise.mechanism.unit is Unit.EXAMPLE


def new_folder(home: Path) -> Path:
    """A folder for a node, with a policy to edit.

    Args:
      home: its path; nothing of that name may be there.

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
