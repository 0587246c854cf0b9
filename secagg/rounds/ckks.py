"""A whole round under CKKS in this process, beside the rounds of ``secagg.rounds.in_memory``.

| protocol | who opens the sum | what a client sends |
|---|---|---|
| ``ckks`` | every client, with the one key that all share; the server cannot | one upload |
| ``threshold-ckks`` | the server, with ``threshold`` of the holders | one upload; a holder more |

Sums are of reals and approximate: ``protocols.ckks.params`` predicts the error. Every round
makes its own key. As everywhere in this package the secrets of all parties lie in one
memory, so that such a round measures; it protects nothing.

The stages carry the names of ``secagg.rounds.in_memory``: a key's commitments are advertised, its
openings and boxes shared, "mask" is the upload, "reveal" the opening of the sum. A holder
that vanishes before its part of the key is made is replaced by another client; one that
vanishes later is named as gone when the sum is opened, and its part rebuilt.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

import secagg.extras
from protocols.bonawitz import ClientId
from protocols.entropy import system
from protocols.errors import TooFewSurvivors
from protocols.primitives.prg import SEED_SIZE
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE
from secagg.errors import ConfigError
from secagg.rounds.attendance import Attendance, Costs, StageCost, clock, send
from secagg.rounds.burns import MemoryBurn
from secagg.stage import UNSIGNED, Stage
from secagg.vectors.layout import Layout

if TYPE_CHECKING:
    from protocols import ckks
    from protocols.ckks.keys import Chunks, CollectiveKey, SharedKey
    from protocols.ckks.server import CollectUploads

CKKS: Final = ("ckks", "threshold-ckks")
HOLDERS: Final = 5  # of a threshold key: four of them open a sum, and one may be lost
FLOODING: Final = 40  # bits; what an opened sum says about the key, see protocols.ckks
PRECISION: Final = 2.0**-14  # of the clip: the largest error of a mean to expect, no bound

Reals: TypeAlias = NDArray[np.float64]
RealInput: TypeAlias = Reals | Callable[[], Reals]


@dataclass(frozen=True, slots=True, kw_only=True)
class RealOutcome:
    """The reals of the sum, whose they are, and what it cost."""

    reals: Reals = field(repr=False)
    survivors: tuple[ClientId, ...]
    costs: Costs

    def sums(self, layout: Layout) -> dict[str, NDArray[Any]]:
        """The totals by segment."""
        return layout.decode_reals(self.reals)


def require(protocol: str) -> None:
    """Raise ``MissingExtraError`` if ``protocol`` needs tenseal and it is not installed."""
    if protocol in CKKS:
        secagg.extras.require(f"protocol {protocol}", "tenseal", extra="ckks")


def run_ckks(
    protocol: str,
    layout: Layout,
    inputs: Mapping[ClientId, RealInput],
    dropouts: Mapping[ClientId, Stage] | None = None,
    *,
    clients: int,
    minimum_survivors: int,
    public: bytes,
    holders: int = HOLDERS,
    flooding: int = FLOODING,
    precision: float = PRECISION,
    chunks: "Chunks | None" = None,
) -> RealOutcome:
    """Carry a round of ``protocols.ckks`` from keys to the sum.

    Args:
      protocol: one of ``CKKS``.
      inputs: each client's reals, ``layout.encode_reals``, or a function that makes them.
      dropouts: the stage at which a client vanishes.
      clients: most that the sum is planned for.
      public: SHA-256 over whatever is public beside the layout.
      holders: of a threshold key; the first ones that are there.
      flooding, precision: as in ``protocols.ckks.plan``.
      chunks: another way to work through the chunks of a vector, such as ``pool.map``; it
        sees the keys, and seconds are then those of the clock on the wall.

    Raises:
      TooFewSurvivors: nothing was opened.
      ParameterError: no parameters are precise enough.
      MissingExtraError: tenseal is not installed.
    """
    require(protocol)
    from protocols import ckks
    from protocols.ckks.keys import in_turn

    present = Attendance(inputs, dropouts)
    shared = protocol == CKKS[0]
    params = ckks.plan(
        model=ckks.Model.SHARED_KEY if shared else ckks.Model.THRESHOLD,
        clients=clients,
        entries=layout.reals,
        clip=1.0,
        precision=precision,
        flooding=flooding,
        holders=0 if shared else min(holders, len(inputs)),
        minimum_survivors=minimum_survivors,
    )
    agreement = ckks.Agreement(params=params, session=system(SESSION_SIZE), public=public)
    costs: Costs = {stage: StageCost() for stage in UNSIGNED}
    run = _shared if shared else _threshold
    reals, survivors = run(agreement, inputs, present, costs, chunks or in_turn)
    return RealOutcome(reals=reals, survivors=survivors, costs=costs)


def _shared(
    agreement: "ckks.Agreement",
    inputs: Mapping[ClientId, RealInput],
    present: Attendance,
    costs: Costs,
    chunks: "Chunks",
) -> tuple[Reals, tuple[ClientId, ...]]:
    from protocols.ckks import client as parties
    from protocols.ckks.keys import SharedKey
    from protocols.ckks.server import CollectUploads

    key = SharedKey(agreement, Secret(system(SEED_SIZE)))
    uploads = CollectUploads(agreement, key.digest, inputs)
    digests = _upload(agreement, key, uploads, inputs, present, costs, chunks)
    cost = costs[Stage.REVEAL]
    with clock(cost, "server_seconds"):
        message = uploads.close_shared()
    left = present(Stage.REVEAL)
    if not left:
        raise TooFewSurvivors("no client is left to open the sum")
    client = left[0]  # every client opens it to the same numbers: one of them is measured
    with clock(cost, "client_seconds"):
        opened = parties.open_sum(
            agreement,
            client,
            key,
            message,
            burn=MemoryBurn(),
            sent=digests[client],
            chunks=chunks,
        )
    cost.client_seconds *= len(left)
    send(cost, answering=message)
    if not isinstance(opened, parties.Published):
        raise ConfigError("an unflooded sum may not leave its client")
    return opened.values, opened.survivors


def _threshold(
    agreement: "ckks.Agreement",
    inputs: Mapping[ClientId, RealInput],
    present: Attendance,
    costs: Costs,
    chunks: "Chunks",
) -> tuple[Reals, tuple[ClientId, ...]]:
    from protocols.ckks import client as parties
    from protocols.ckks.keys import CollectiveKey
    from protocols.ckks.server import CollectCommitments, CollectUploads

    committee = present(Stage.SHARE)[: agreement.params.holders]
    if len(committee) < agreement.params.holders:
        raise TooFewSurvivors(
            f"{len(committee)} clients are there to make a key of {agreement.params.holders}"
        )
    cost, rosters_due = costs[Stage.ADVERTISE], {}
    commitments = CollectCommitments(agreement, committee)
    for holder in committee:
        with clock(cost, "client_seconds"):
            message, rosters_due[holder] = parties.generate(agreement, holder)
        send(cost, message)
        with clock(cost, "server_seconds"):
            commitments.receive(message)
    with clock(cost, "server_seconds"):
        roster, openings = commitments.close()

    cost, openings_due = costs[Stage.SHARE], {}
    for holder in committee:
        with clock(cost, "client_seconds"):
            message, openings_due[holder] = rosters_due.pop(holder).on_roster(roster)
        send(cost, message, answering=roster)
        with clock(cost, "server_seconds"):
            openings.receive(message)
    with clock(cost, "server_seconds"):
        opened, boxes, key = openings.close()
    waiting = {}
    for holder in committee:
        with clock(cost, "client_seconds"):
            waiting[holder], _ = openings_due.pop(holder).on_openings(
                opened, boxes[holder], burn=MemoryBurn()
            )

    uploads = CollectUploads(agreement, key, inputs)
    # Every client that sends adds the key up for itself, to the same: one of them is measured.
    cost = StageCost()
    with clock(cost, "client_seconds"):
        public = CollectiveKey.from_bytes(agreement, opened)
    costs[Stage.MASK].client_seconds += cost.client_seconds * len(present(Stage.MASK))
    _upload(agreement, public, uploads, inputs, present, costs, chunks, answering=opened)

    cost = costs[Stage.REVEAL]
    alive = [holder for holder in present(Stage.REVEAL) if holder in waiting]
    with clock(cost, "server_seconds"):
        request, partials = uploads.close_threshold(alive)
    for holder in alive:
        with clock(cost, "client_seconds"):
            message, _ = waiting[holder].on_request(agreement, request, chunks=chunks)
        send(cost, message, answering=request)
        with clock(cost, "server_seconds"):
            partials.receive(message)
    with clock(cost, "server_seconds"):
        total = partials.close(chunks=chunks)
    return total.values, total.survivors


def _upload(
    agreement: "ckks.Agreement",
    key: "SharedKey | CollectiveKey",
    uploads: "CollectUploads",
    inputs: Mapping[ClientId, RealInput],
    present: Attendance,
    costs: Costs,
    chunks: "Chunks",
    answering: bytes = b"",
) -> dict[ClientId, bytes]:
    """Every client's ciphertexts into the sum; what each of them will know its upload by."""
    from protocols.ckks.client import encrypt

    cost, digests = costs[Stage.MASK], {}
    for client in present(Stage.MASK):
        given = inputs[client]
        reals = given() if callable(given) else given
        with clock(cost, "client_seconds"):
            upload = encrypt(agreement, client, key, reals, chunks=chunks)
            frames = list(upload)
        digests[client] = upload.digest
        send(cost, *frames, answering=answering)
        with clock(cost, "server_seconds"):
            uploads.receive(frames)
    return digests
