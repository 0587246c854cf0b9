"""A Flower grid in this process: apps are called as Flower calls them, nothing is shared.

Every message is copied by way of Flower's own encoding in both directions, and so is a node's
context between two messages, as between two processes.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.serde import (
    context_from_proto,
    context_to_proto,
    recorddict_from_proto,
    recorddict_to_proto,
)
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity


def carried(records: RecordDict) -> RecordDict:
    return recorddict_from_proto(recorddict_to_proto(records))


@dataclass
class LocalGrid(Grid):
    """Grid of ``apps``, by node.

    Attributes:
      lost: says whether a message never reaches its node, or its answer never the server.
      seen: every reply that the server was handed.
      sent: every message that a node was handed.
    """

    apps: Mapping[int, ClientApp]
    lost: Callable[[int, str], bool] = lambda node, stage: False
    configs: Mapping[int, dict[str, Any]] = field(default_factory=dict)
    contexts: dict[int, bytes] = field(default_factory=dict)
    seen: list[Message] = field(default_factory=list)
    sent: list[Message] = field(default_factory=list)
    _replies: dict[str, Message] = field(default_factory=dict)
    _count: int = 0

    def __post_init__(self) -> None:
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1

    def context(self, node: int) -> Context:
        if (kept := self.contexts.get(node)) is not None:
            return context_from_proto(copy.deepcopy(kept))
        return Context(1, node, self.configs.get(node, {}), RecordDict(), {})

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        return [self._push(message) for message in messages]

    def _push(self, message: Message) -> str:
        self._count += 1
        name, node = f"message-{self._count}", message.metadata.dst_node_id
        metadata = message.metadata
        metadata.__dict__["_message_id"] = name
        arrived = Message(content=carried(message.content), metadata=metadata)
        self.sent.append(arrived)
        record = arrived.content.config_records.get("secagg", {})
        if self.lost(node, str(record.get("stage", ""))):
            return name
        context = self.context(node)
        try:
            reply = self.apps[node](arrived, context)
            reply = Message(content=carried(reply.content), metadata=reply.metadata)
        except Exception as error:  # noqa: BLE001  # as flwr-clientapp does
            reply = Message(Error(code=2, reason=f"{type(error)}:<'{error}'>"), reply_to=arrived)
        self.contexts[node] = context_to_proto(context)
        self._replies[name] = reply
        return name

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[Message]:
        found = [self._replies.pop(name) for name in list(message_ids) if name in self._replies]
        self.seen += found
        return found

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        return self.pull_messages(self.push_messages(messages))

    def get_node_ids(self) -> Iterable[int]:
        return list(self.apps)

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **named: Any) -> Message:
        raise NotImplementedError
