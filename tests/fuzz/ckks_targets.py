"""The same of sums under CKKS, on coefficients and on SEAL where it is installed."""

import importlib.util
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from protocols.ckks import Agreement, Engine, Params
from protocols.ckks.client import encrypt, open_sum, restore
from protocols.ckks.keys import SharedKey
from protocols.ckks.messages import (
    Advertise,
    Frame,
    Opening,
    Openings,
    Partial,
    Request,
    Roster,
    ShareBoxes,
    SharedSum,
)
from protocols.ckks.server import (
    CollectCommitments,
    CollectOpenings,
    CollectPartials,
    CollectUploads,
)
from protocols.errors import DecodeError, RemoteProtocolError
from protocols.secrets import Secret
from protocols.testing import (
    burn_nothing,
    insecure_entropy,
    played_key,
    small_ckks,
    small_threshold,
)
from protocols.wire import Reader

Parts: TypeAlias = tuple[bytes, Callable[[bytes], bool]]  # a seed, and whether bytes are taken

HOLDERS, ALIVE, CLIENTS, ME = (1, 2, 3, 4), (1, 2, 3), (5, 6), 1


def agreed(params: Params) -> Agreement:
    return Agreement(params=params, session=bytes(range(16)), public_digest=bytes(32))


class Session:
    """An honest one of each model: holder 1's messages and records, and those of client 5."""

    def __init__(self, engine: Engine) -> None:
        self.agreement = agreed(small_threshold(engine, entries=20))
        self.params, self.header = self.agreement.params, self.agreement.header
        self.sent: dict[type[Any], bytes] = {}
        self.records: dict[str, bytes] = {}
        made = self._recorded("roster", played_key(self.agreement, HOLDERS, "roster"))
        self.sent[Advertise], self.sent[Roster] = made.advertised[ME], made.roster
        made = self._recorded("openings", made.until("openings"))
        self.sent[Opening], self.sent[Openings] = made.opened[ME], made.shown
        self.sent[ShareBoxes], self.key = made.boxes[ME], made.key
        made = self._recorded("request", made.until("requests"))
        self.uploads = {client: self._frame(self.agreement, client, self.key) for client in CLIENTS}
        self.sent[Frame] = self.uploads[CLIENTS[0]]
        self.sent[Request], _ = self.summed()
        (self.sent[Partial],) = made.states[ME].on_request(self.agreement, self.sent[Request])[0]
        self.shared = agreed(small_ckks(engine, entries=20))
        self.secret = SharedKey(self.shared, Secret(bytes(32)))
        collect = CollectUploads(self.shared, self.secret.digest, CLIENTS)
        self.mine = b""
        for client in CLIENTS:
            upload = encrypt(self.shared, client, self.secret, np.zeros(20), entropy=fixed(client))
            collect.receive(upload)
            self.mine = self.mine or upload.name
        self.sent[SharedSum] = collect.close_shared()

    def _recorded(self, awaits: str, made: Any) -> Any:
        """Holder 1's state in a record, and out of it again."""
        record = made.states[ME].into_record()
        self.records[awaits] = record.expose()
        return replace(made, states={**made.states, ME: restore(record, burn=burn_nothing)})

    def _frame(self, agreement: Agreement, client: int, key: Any) -> bytes:
        (frame,) = encrypt(agreement, client, key, np.zeros(20), entropy=fixed(client))
        return frame

    def summed(self) -> tuple[bytes, CollectPartials]:
        collect = CollectUploads(self.agreement, self.key, CLIENTS)
        for frame in self.uploads.values():
            collect.receive([frame])
        return collect.close_threshold(ALIVE)

    def state(self, awaits: str) -> Any:
        return restore(Secret(self.records[awaits]), burn=burn_nothing)


def fixed(client: int) -> Any:
    return insecure_entropy(f"client {client}")


def decoding(made: Session, kind: type[Any]) -> Parts:
    more: dict[str, Any] = {}
    if kind in (Opening, Openings, Frame, Request, Partial):
        more["params"] = made.params
    if kind in (Frame, Request):
        more["context"] = made.key.context(made.agreement)
    if kind in (Frame, Partial):
        more["index"] = 0
    if kind is SharedSum:
        more = {"params": made.shared.params, "context": made.secret.context(made.shared)}

    def attempt(data: bytes) -> bool:
        try:
            found = kind.from_bytes(data, expect=made.header, **more)
        except DecodeError:
            return False
        if found.to_bytes() != data:
            raise AssertionError(f"{kind.__name__} has a second encoding")
        return True

    return made.sent[kind], attempt


def step(made: Session, kind: type[Any], take: Callable[[bytes], object]) -> Parts:
    """A step that begins anew each time."""

    def attempt(data: bytes) -> bool:
        try:
            take(data)
        except RemoteProtocolError:
            return False
        return True

    return made.sent[kind], attempt


def record(made: Session, awaits: str) -> Parts:
    def attempt(data: bytes) -> bool:
        try:
            state = restore(Secret(data), burn=burn_nothing)
        except DecodeError:
            return False
        if state.into_record().expose() != data:
            raise AssertionError("a record has a second encoding")
        return True

    return made.records[awaits], attempt


def params(found: Params) -> Parts:
    def attempt(data: bytes) -> bool:
        reader = Reader(data)
        try:
            again = Params.read(reader)
            reader.finish()
        except DecodeError:
            return False
        if again.to_bytes() != data:
            raise AssertionError("parameters have a second encoding")
        return True

    return found.to_bytes(), attempt


def steps(made: Session) -> Iterator[tuple[str, Parts]]:
    agreement, sent = made.agreement, made.sent
    roster = Roster.from_bytes(sent[Roster], expect=made.header)

    def collected(message: bytes) -> object:
        return CollectUploads(agreement, made.key, CLIENTS).receive([message])

    def answered(message: bytes) -> object:
        return list(made.state("request").on_request(agreement, message)[0])

    def opened(message: bytes) -> object:
        return open_sum(
            made.shared, CLIENTS[0], made.secret, message, burn=burn_nothing, sent=made.mine
        )

    takers: dict[str, tuple[type[Any], Callable[[bytes], object]]] = {
        "holder.roster": (Roster, lambda data: made.state("roster").on_roster(data)),
        "holder.openings": (
            Openings,
            lambda data: made.state("openings").on_openings(data, sent[ShareBoxes]),
        ),
        "holder.boxes": (
            ShareBoxes,
            lambda data: made.state("openings").on_openings(sent[Openings], data),
        ),
        "holder.request": (Request, answered),
        "client.sum": (SharedSum, opened),
        "server.advertise": (
            Advertise,
            lambda data: CollectCommitments(agreement, HOLDERS).receive(data),
        ),
        "server.opening": (Opening, lambda data: CollectOpenings(agreement, roster).receive(data)),
        "server.frame": (Frame, collected),
        "server.partial": (Partial, lambda data: made.summed()[1].receive([data])),
    }
    for name, (kind, take) in takers.items():
        yield name, step(made, kind, take)


def engines() -> Iterable[Engine]:
    return [
        each for each in Engine if each is not Engine.SEAL or importlib.util.find_spec("tenseal")
    ]


def ckks_targets() -> dict[str, Parts]:
    """Every decoder and step by name: seeds under their checksum."""
    found: dict[str, Parts] = {}
    for engine in engines():
        made, prefix = Session(engine), f"ckks.{engine.name.lower()}"
        for kind in made.sent if engine is Engine.COEFFICIENTS else (Openings, Frame, SharedSum):
            found[f"decode.{prefix}.{kind.__name__}"] = decoding(made, kind)
        found |= {f"{prefix}.{name}": parts for name, parts in steps(made)}
        found |= {f"record.{prefix}.{name}": record(made, name) for name in made.records}
        for parameters in (made.params, made.shared.params):
            found[f"params.{prefix}.{parameters.model.name}"] = params(parameters)
    return found
