"""One whole round in this process: all parties, dropouts where they are wanted, the cost of it.

For trials, tests and benchmarks. The secrets of all parties lie in one memory
here, so such a round measures; it protects nothing.

Under CKKS the stages carry the names of masks: a key's commitments are advertised, its
openings shared, "mask" is the upload, "reveal" the opening of the sum. A holder that vanishes
before its part of the key is made is replaced by another client; one that vanishes later is
named as gone when the sum is opened, and its part rebuilt.
"""

import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, ClientId
from protocols.ckks import Agreement as CkksAgreement
from protocols.ckks import Model
from protocols.entropy import Entropy, system
from protocols.errors import TooFewSurvivors
from protocols.primitives.prg import SEED_SIZE, Expand
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.errors import InputError
from secagg.rounds.attendance import Costs, DropoutSchedule, Meter, Now
from secagg.rounds.burns import MemoryBurn
from secagg.rounds.ckks import require
from secagg.rounds.masking import expand
from secagg.rounds.parties import BonawitzClient, CkksClient, Party, SharedCkksClient, Words
from secagg.rounds.relay import (
    Found,
    StageRequests,
    Total,
    advance,
    relay_bonawitz,
    relay_shared_ckks,
    relay_threshold_ckks,
)
from secagg.stage import UNSIGNED, Stage
from secagg.vectors.layout import Layout
from secagg.vectors.sums import Params, Vector, decode

if TYPE_CHECKING:
    from protocols.ckks.client import Published
    from protocols.ckks.keys import Chunks

Input: TypeAlias = Words | Callable[[], Words]
RealInput: TypeAlias = Vector | Callable[[], Vector]
Dropouts: TypeAlias = Mapping[ClientId, Stage]
OnStage: TypeAlias = Callable[[Stage], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The sum as the protocol gives it, whose vectors it is of, and what it cost."""

    params: Params
    values: Vector = field(repr=False)
    survivors: tuple[ClientId, ...]
    costs: Costs

    def sums(self, layout: Layout) -> dict[str, NDArray[Any]]:
        """The totals by segment."""
        return decode(layout, self.params, self.values)


def run(
    relay: Generator[StageRequests, None, Found],
    parties: Mapping[ClientId, Party],
    present: DropoutSchedule,
    meter: Meter,
    on_stage: OnStage = lambda stage: None,
) -> Found:
    """Carry every message between a relay and its parties; returns what the relay does."""
    stage = Stage.ADVERTISE
    while True:
        with meter.time(stage, "server"):
            ask = advance(relay)
        if not isinstance(ask, StageRequests):
            return ask
        stage = ask.stage
        on_stage(stage)
        for client in present(stage):
            if client not in ask.requests:
                continue
            request = ask.requests[client]
            with meter.time(stage, "client"):
                messages = parties[client].answer(stage, request)
            meter.count(stage, messages, answering=request)
            with meter.time(stage, "server"):
                ask.receive(messages)


def run_bonawitz(
    agreement: Agreement,
    inputs: Mapping[ClientId, Input],
    dropouts: Dropouts | None = None,
    *,
    entropy: Entropy = system,
    expand: Expand = expand,
    now: Now = time.perf_counter,
    on_stage: OnStage = lambda stage: None,
) -> Outcome:
    """Carry a round of ``protocols.bonawitz`` from keys to sum.

    Args:
      inputs: each client's words, or a function that makes them, called when
        the client masks them.
      dropouts: the stage at which a client vanishes.
      expand: how masks are put on and taken off; see ``secagg.rounds.masking``.
      now: the clock of the costs.
      on_stage: called when a stage begins.

    Raises:
      TooFewSurvivors: nothing was released.
    """
    active, present = agreement.params.active, DropoutSchedule(inputs, dropouts)
    if not active and dropouts and Stage.SIGN in dropouts.values():
        raise InputError(f"dropouts at stage {Stage.SIGN} need an active server")
    meter = Meter(Stage if active else UNSIGNED, now)
    signing = {c: SigningKey(Secret(entropy(SEED_SIZE))) for c in inputs} if active else {}
    identities = {client: key.public for client, key in signing.items()} or None
    parties = {
        client: BonawitzClient(
            agreement,
            client,
            meter.source(given),
            entropy=entropy,
            identity=signing.get(client),
            identities=identities,
            expand=expand,
        )
        for client, given in inputs.items()
    }
    relay = relay_bonawitz(
        agreement, list(inputs), identities=identities, expand=expand, entropy=entropy
    )
    total = run(relay, parties, present, meter, on_stage)
    return _outcome(agreement.params, total, meter)


def run_ckks(
    agreement: CkksAgreement,
    inputs: Mapping[ClientId, RealInput],
    dropouts: Dropouts | None = None,
    *,
    chunks: "Chunks" = map,
    now: Now = time.perf_counter,
    on_stage: OnStage = lambda stage: None,
) -> Outcome:
    """Carry a round of ``protocols.ckks`` from keys to the sum.

    Args:
      inputs: each client's words, or reals in [-clip, clip], or a function that makes them.
      dropouts: the stage at which a client vanishes.
      chunks: another way to work through the chunks of a vector, such as ``pool.map``; it
        sees the keys, and seconds are then those of the clock on the wall.
      now: the clock of the costs.
      on_stage: called when a stage begins.

    Raises:
      TooFewSurvivors: nothing was opened.
      MissingExtraError: SEAL is asked for, and tenseal is not installed.
    """
    require(agreement.params.engine)
    present, meter = DropoutSchedule(inputs, dropouts), Meter(UNSIGNED, now)
    sources = {client: meter.source(given) for client, given in inputs.items()}
    if agreement.params.model is Model.SHARED_KEY:
        return _run_shared(agreement, sources, present, meter, chunks, on_stage)
    holders = present(Stage.SHARE)[: agreement.params.holders]
    if len(holders) < agreement.params.holders:
        raise TooFewSurvivors(
            f"{len(holders)} clients are there to make a key of {agreement.params.holders}"
        )
    parties = {
        client: CkksClient(agreement, client, source, burn=MemoryBurn(), chunks=chunks)
        for client, source in sources.items()
    }
    relay = relay_threshold_ckks(
        agreement,
        list(inputs),
        holders=holders,
        lost=lambda: inputs.keys() - present(Stage.REVEAL),
        chunks=chunks,
    )
    total = run(relay, parties, present, meter, on_stage)
    return _outcome(agreement.params, total, meter)


def _run_shared(
    agreement: CkksAgreement,
    sources: Mapping[ClientId, Callable[[], Vector]],
    present: DropoutSchedule,
    meter: Meter,
    chunks: "Chunks",
    on_stage: OnStage,
) -> Outcome:
    from protocols.ckks.client import Published
    from protocols.ckks.keys import SharedKey

    key = SharedKey(agreement, Secret(system(SEED_SIZE)))
    parties = {
        client: SharedCkksClient(agreement, client, source, key, burn=MemoryBurn(), chunks=chunks)
        for client, source in sources.items()
    }
    relay = relay_shared_ckks(agreement, list(sources), key=key.digest)
    message = run(relay, parties, present, meter, on_stage)
    left = present(Stage.REVEAL)
    on_stage(Stage.REVEAL)
    if not left:
        raise TooFewSurvivors("no client is left to open the sum")
    # Every client opens it to the same numbers: one of them is measured.
    with meter.time(Stage.REVEAL, "client"):
        opened = parties[left[0]].open(message)
    meter.costs[Stage.REVEAL].client_seconds *= len(left)
    meter.count(Stage.REVEAL, (), answering=message)
    if not isinstance(opened, Published):
        raise InputError("flooding must be given: an unflooded sum may not leave its client")
    return _outcome(agreement.params, opened, meter)


def run_plain(
    agreement: Agreement,
    inputs: Mapping[ClientId, Input],
    dropouts: Dropouts | None = None,
    *,
    now: Now = time.perf_counter,
    on_stage: OnStage = lambda stage: None,
) -> Outcome:
    """The same sum with nothing hidden: the server sees every vector. For comparison only."""
    meter, params = Meter(Stage, now), agreement.params
    total = np.zeros(params.words, np.uint64)
    survivors = tuple(DropoutSchedule(inputs, dropouts)(Stage.MASK))
    on_stage(Stage.MASK)
    for client in survivors:
        words = meter.source(inputs[client])()
        meter.count(Stage.MASK, [words.tobytes()])
        with meter.time(Stage.MASK, "server"):
            total += words
    needed = params.needed(params.plan(len(inputs)))
    if len(survivors) < needed:
        raise TooFewSurvivors(f"{len(survivors)} clients left, {needed} needed")
    return _outcome(params, Total(values=total, survivors=survivors), meter)


def _outcome(params: Params, total: "Total | Published", meter: Meter) -> Outcome:
    return Outcome(params=params, values=total.values, survivors=total.survivors, costs=meter.costs)
