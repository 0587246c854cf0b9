"""The node's side: a mod in front of the application of a Flower client."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable, Mod

from dp.accounting.events import Unit
from secagg.adapters.flower.records import (
    PRIVACY,
    RECORD,
    STATE,
    answer_record,
    arrays_of,
    digest,
    request_in,
)
from secagg.adapters.simulation import SIMULATED, simulated_home
from secagg.errors import InputError, NodeError, RefusedError
from secagg.nodes.messages import Request
from secagg.nodes.node import Node
from secagg.nodes.policy import NodePolicy
from secagg.nodes.proposal import Contribution, Failure, Proposal
from secagg.nodes.work import SPOKEN, contribution, spoken

_log = logging.getLogger("flwr")
Home: TypeAlias = Path | str | Callable[[Context], Path | str]


def secure_mod(home: Home | None = None, *, policy: NodePolicy | None = None) -> Mod:
    """A mod for ``ClientApp(mods=[...])`` or ``@app.train(mods=[...])``.

    Args:
      home: the node's folder (``secagg node new``), or a function that tells it from the
        context. By default the node's own configuration says it, which no app can change:
        ``flower-supernode --node-config 'secagg-home="/srv/secagg"'``. Flower's simulation has
        no such nodes: it makes folders that go with the machine's temporary files.
      policy: in place of the folder's file; for trials and simulations.

    The app's ``train`` runs once a sum, at the stage that masks. It replies one ``ArrayRecord``
    of the arrays that it was sent, and one ``MetricRecord``. Where noise hides examples its
    arrays hold the sum of clipped gradients instead, and the record ``secagg.privacy`` of its
    message says ``clip`` and ``sampling-rate``.
    """

    def mod(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
        content = message.content
        if (asked := request_in(content)) is None:
            raise RefusedError(
                f"this {message.metadata.message_type} message asks for a plain reply: put the "
                "server's grid in a SecureGrid, or the mod only where sums are meant"
            )
        request = Request.from_bytes(asked)
        inner = RecordDict({name: each for name, each in content.items() if name != RECORD})

        def compute(proposal: Proposal) -> Contribution | Failure:
            return _compute(proposal, inner, message, context, call_next)

        kept = context.state.config_records.get(RECORD)
        state = kept.get(STATE) if kept is not None else None
        try:
            answer = _node(home, context, policy).answer(
                request,
                state if isinstance(state, bytes) else None,
                model=digest(inner),
                compute=compute,
                purpose=message.metadata.message_type,
            )
        except SPOKEN:
            raise
        except Exception as error:
            # Flower sends an exception's text to the server, and this one's may hold data.
            raise NodeError(spoken(error)) from error
        context.state.pop(RECORD, None)
        if answer.state is not None:
            context.state[RECORD] = ConfigRecord({STATE: answer.state})
        return Message(answer_record(answer.to_bytes()), reply_to=message)

    return mod


def _node(home: Home | None, context: Context, policy: NodePolicy | None) -> Node:
    told = context.node_config.get("secagg-home")
    if callable(home):
        return Node(Path(home(context)), policy)
    if home is not None or isinstance(told, str):
        return Node(Path(home or str(told)), policy)
    if (made := simulated_home(context.run_id, context.node_id)) is not None:
        return Node(made, policy or SIMULATED)
    raise NodeError(
        "no folder for this node: start flower-supernode with --node-config "
        "'secagg-home=\"/srv/secagg\"'"
    )


def _compute(
    proposal: Proposal,
    inner: RecordDict,
    message: Message,
    context: Context,
    call_next: ClientAppCallable,
) -> Contribution | Failure:
    """Run the app on what it would have been sent without us."""
    given = RecordDict(dict(inner.items()))
    noise = proposal.noise
    of_examples = noise is not None and noise.mechanism.unit is Unit.EXAMPLE
    if noise is not None and of_examples:
        given[PRIVACY] = ConfigRecord(
            {"clip": noise.mechanism.clip, "sampling-rate": noise.sampling_rate}
        )
    outer = message.content
    message.content = given
    try:
        reply = call_next(message, context)
    finally:
        message.content = outer
    if reply.has_error():
        return Failure.REPLIED
    said, numbers = reply.content, dict[str, float]()
    start, after = (arrays_of(inner)[1], {}) if proposal.shapes else ({}, {})
    if proposal.shapes:
        try:
            after = arrays_of(said)[1]
        except InputError as error:
            _log.warning("secagg: %s", error)
            return Failure.ARRAYS
    for record in () if noise is not None else said.metric_records.values():
        if numbers.keys() & record.keys():
            return Failure.METRICS
        numbers |= {name: float(n) for name, n in record.items() if not isinstance(n, list)}
    return contribution(proposal, start, after, numbers)
