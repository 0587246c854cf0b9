"""Our implementation as a peer: a request in, an answer out, one line of JSON each.

docs/protocols/interop.md describes every request. A peer keeps test secrets that came in with a
request and draws none of its own: the same requests get the same answers, byte for byte.
"""

import json
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, BinaryIO, Final, Protocol, TypeAlias

import numpy as np

from protocols.bonawitz import Agreement, Params, Rates
from protocols.bonawitz.params import DIGEST_SIZE, VERSION
from protocols.entropy import Entropy
from protocols.errors import (
    DecodeError,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    TooFewSurvivors,
)
from protocols.primitives.agree import KEY_SIZE
from protocols.primitives.prg import SEED_SIZE, Suite
from protocols.primitives.sign import VERIFY_KEY_SIZE, SigningKey
from protocols.secrets import Secret
from protocols.wire import SESSION_SIZE
from secagg.errors import InputError
from secagg.rounds.parties import BonawitzClient
from secagg.rounds.relay import StageRequests, Total, advance, relay_bonawitz
from secagg.stage import UNSIGNED, Stage

Request: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = dict[str, Any]

PROTOCOL: Final = "secagg interop 1"
SPEAKS: Final = VERSION.decode()  # the protocol whose messages are compared
ROLES: Final = ("client", "server")
CLIENT_ENTROPY: Final = 2 * KEY_SIZE + SEED_SIZE  # bytes that a client draws, once a round
MAX_LINE: Final = 2**24  # bytes; two full frames in hexadecimal are 2**20
MAX_PARTIES: Final = 2**12  # that one process holds at a time
MAX_WORDS: Final = 2**17  # of a vector: a server's accumulator is then 1 MiB
MAX_CLIENTS: Final = 2**16 - 1  # of an agreement: a plan of more takes minutes
MAX_TEXT: Final = 300  # characters of a refusal's message


class Refusal(StrEnum):
    """What kind of mistake a request was refused for: the layer that found it."""

    DECODE = "decode"
    RULE = "rule"
    TOO_FEW = "too few"
    LOCAL = "local"
    REQUEST = "request"


class Answers(Protocol):
    """Whoever answers requests: our side, or another implementation behind a pipe."""

    def answer(self, request: Request) -> Answer:
        """``{"ok": value}``, or ``{"error": refusal, "message": text}``."""


class Peer:
    """Our clients and servers, made and driven by requests."""

    def __init__(self) -> None:
        self._parties: dict[str, _Client | _Server] = {}

    def answer_line(self, line: bytes) -> Answer:
        """The answer to one line, whatever is in it."""
        try:
            request = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            return _refusal(Refusal.REQUEST, f"a line that is no JSON: {error}")
        return self.answer(request)

    def answer(self, request: Request) -> Answer:
        try:
            return {"ok": self._do(_Fields("the request", request))}
        except InputError as error:
            return _refusal(Refusal.REQUEST, str(error))
        except ProtocolError as error:
            return _refusal(_kind(error), str(error))

    def _do(self, fields: "_Fields") -> Any:
        match op := fields.text("op"):
            case "hello":
                fields.finish()
                return {"protocol": PROTOCOL, "speaks": SPEAKS, "roles": list(ROLES)}
            case "agreement":
                agreement = _agreement(fields.table("agreement"))
                fields.finish()
                return agreement.to_bytes().hex()
            case "client" | "server":
                name = fields.text("id")
                if name in self._parties:
                    raise InputError(f"there is a party {name!r:.40} already")
                if len(self._parties) == MAX_PARTIES:
                    raise InputError(f"{MAX_PARTIES} parties at most: drop some")
                agreement = _agreement(fields.table("agreement"))
                if op == "server":
                    self._parties[name] = _Server(agreement, fields)
                    return None
                self._parties[name], message = _client(agreement, fields)
                return message.hex()
            case "drop":
                name = fields.text("id")
                fields.finish()
                self._party(name)
                del self._parties[name]
                return None
            case "message":
                client, message = self._client(fields.text("id")), fields.octets("message")
                fields.finish()
                return [sent.hex() for sent in client.answer(message)]
            case "receive":
                server, messages = self._server(fields.text("id")), fields.many("messages")
                fields.finish()
                return server.receive(messages)
            case "close":
                server = self._server(fields.text("id"))
                fields.finish()
                return {str(client): sent.hex() for client, sent in server.close().items()}
            case "result":
                server = self._server(fields.text("id"))
                fields.finish()
                total = server.result()
                words = total.values.astype("<u8").tobytes().hex()
                return {"survivors": list(total.survivors), "words": words}
        raise InputError(f"no request is called {op!r:.40}")

    def _party(self, name: str) -> "_Client | _Server":
        try:
            return self._parties[name]
        except KeyError:
            raise InputError(f"no party is called {name!r:.40}") from None

    def _client(self, name: str) -> "_Client":
        party = self._party(name)
        if not isinstance(party, _Client):
            raise InputError(f"party {name!r:.40} is no client")
        return party

    def _server(self, name: str) -> "_Server":
        party = self._party(name)
        if not isinstance(party, _Server):
            raise InputError(f"party {name!r:.40} is no server")
        return party


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Answer the lines of ``source`` on ``sink`` until there are no more."""
    peer = Peer()
    while line := source.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            while line and not line.endswith(b"\n"):
                line = source.readline(MAX_LINE)
            answer = _refusal(Refusal.REQUEST, f"a line of more than {MAX_LINE} bytes")
        else:
            answer = peer.answer_line(line)
        sink.write(json.dumps(answer).encode() + b"\n")
        sink.flush()  # whoever asked waits for it


class _Client:
    """A client of one round, who knows by itself what it waits for."""

    def __init__(self, party: BonawitzClient) -> None:
        self._party = party
        self._stages = list(Stage if party.agreement.params.active else UNSIGNED)

    def answer(self, message: bytes) -> tuple[bytes, ...]:
        if not self._stages:
            raise LocalProtocolError("this client is done: it refused, or gave its last answer")
        (stage, *after), self._stages = self._stages, []  # who refuses is out of the round
        sent = self._party.answer(stage, message)
        self._stages = after
        return sent


class _Server:
    """A server of one round, at one of its stages."""

    def __init__(self, agreement: Agreement, fields: "_Fields") -> None:
        entropy, identities = fields.octets("entropy"), fields.identities()
        fields.finish()
        anybody = (0,)  # whom the relay would ask first; whoever sends keys is taken
        self._relay = relay_bonawitz(
            agreement, anybody, identities=identities, entropy=_drawn(entropy)
        )
        self._stage: StageRequests | None = None
        self._advance()

    def _advance(self) -> StageRequests | Total:
        self._stage = None  # what fails to close stays closed
        found = advance(self._relay)
        if isinstance(found, StageRequests):
            self._stage = found
        return found

    def _open(self) -> StageRequests:
        if self._stage is None:
            raise LocalProtocolError("this server is closed")
        return self._stage

    def receive(self, messages: list[bytes]) -> int:
        stage = self._open()
        if len(messages) != 1 and stage.stage is not Stage.MASK:
            raise InputError(f"{len(messages)} messages at once; this stage takes one")
        return stage.receive(messages)

    def close(self) -> Mapping[int, bytes]:
        if self._open().stage is Stage.REVEAL or isinstance(found := self._advance(), Total):
            raise LocalProtocolError("the last stage has a result, and no messages")
        return found.requests

    def result(self) -> Total:
        last = self._open().stage is Stage.REVEAL
        if not last or isinstance(found := self._advance(), StageRequests):
            raise LocalProtocolError("no result before the last stage")
        return found


def _client(agreement: Agreement, fields: "_Fields") -> tuple[_Client, bytes]:
    me = fields.integer("client", 0, 2**32 - 1)
    entropy = fields.octets("entropy", CLIENT_ENTROPY)
    identity = None if fields.absent("identity") else fields.octets("identity", VERIFY_KEY_SIZE)
    identities, data = fields.identities(), fields.octets("words")
    fields.finish()
    if len(data) % 8:
        raise InputError("words are 8 bytes each, little-endian")
    words = np.frombuffer(data, "<u8").astype(np.uint64)
    client = _Client(
        BonawitzClient(
            agreement,
            me,
            lambda: words,
            entropy=_drawn(entropy),
            identity=None if identity is None else SigningKey(Secret(identity)),
            identities=identities,
        )
    )
    return client, client.answer(b"")[0]


def _agreement(fields: "_Fields") -> Agreement:
    """The agreement of a request; ``LocalProtocolError`` where it allows no round."""
    u32 = (0, 2**32 - 1)
    rates = None if fields.absent("rates") else fields.table("rates")
    threshold = None if fields.absent("threshold") else fields.integer("threshold", *u32)
    corrupt = None if fields.absent("corrupt") else fields.integer("corrupt", *u32)
    planned = rates and (rates.text("corrupt"), rates.text("dropout"))
    if rates:
        rates.finish()
    clients = fields.integer("clients", 0, MAX_CLIENTS)
    survivors = fields.integer("minimum_survivors", *u32)
    words, suite = fields.integer("words", 0, MAX_WORDS), fields.integer("suite", 1, len(Suite))
    active, round_number = fields.flag("active"), fields.integer("round", *u32)
    session, public = fields.octets("session", SESSION_SIZE), fields.octets("public", DIGEST_SIZE)
    fields.finish()
    params = Params(
        clients=clients,
        threshold=threshold,
        rates=Rates(corrupt_fraction=planned[0], dropout=planned[1]) if planned else None,
        minimum_survivors=survivors,
        words=words,
        suite=Suite(suite),
        active=active,
        max_corrupt=corrupt,
    )
    return Agreement(params=params, session=session, round=round_number, public_digest=public)


def _drawn(data: bytes) -> Entropy:
    """Bytes off the front of ``data``, while there are some."""
    left = memoryview(data)

    def draw(size: int) -> bytes:
        nonlocal left
        if size > len(left):
            raise InputError(f"entropy: {size} more bytes are needed, {len(left)} are left")
        head, left = left[:size], left[size:]
        return bytes(head)

    return draw


def _kind(error: ProtocolError) -> Refusal:
    kinds = {
        DecodeError: Refusal.DECODE,
        RemoteProtocolError: Refusal.RULE,
        TooFewSurvivors: Refusal.TOO_FEW,
    }
    return next((kind for of, kind in kinds.items() if isinstance(error, of)), Refusal.LOCAL)


def _refusal(kind: Refusal, message: str) -> Answer:
    return {"error": kind.value, "message": message[:MAX_TEXT]}


class _Fields:
    """The fields of a JSON object, each taken once and by its type."""

    def __init__(self, what: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise InputError(f"{what} is no JSON object")
        self._what, self._left = what, dict(value)

    def _take(self, name: str, kind: type, said: str) -> Any:
        value = self._left.pop(name, None)
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            raise InputError(f"{self._what}: {name} is missing, or no {said}")
        return value

    def absent(self, name: str) -> bool:
        """Whether the field is missing or null; it is then taken."""
        if self._left.get(name) is not None:
            return False
        self._left.pop(name, None)
        return True

    def text(self, name: str) -> str:
        return str(self._take(name, str, "string"))

    def flag(self, name: str) -> bool:
        return bool(self._take(name, bool, "true or false"))

    def integer(self, name: str, low: int, high: int) -> int:
        value = int(self._take(name, int, "integer"))
        if not low <= value <= high:
            raise InputError(f"{self._what}: {name} is not from {low} to {high}")
        return value

    def octets(self, name: str, size: int | None = None) -> bytes:
        return _octets(f"{self._what}: {name}", self._left.pop(name, None), size)

    def many(self, name: str) -> list[bytes]:
        values = self._take(name, list, "list")
        return [_octets(f"{self._what}: each of {name}", value, None) for value in values]

    def table(self, name: str) -> "_Fields":
        return _Fields(name, self._left.pop(name, None))

    def identities(self) -> dict[int, bytes] | None:
        """The public keys by client, or ``None`` where there are none."""
        if self.absent("identities"):
            return None
        found = {}
        for client, key in self._take("identities", dict, "JSON object").items():
            if not (client.isdecimal() and client.isascii() and str(int(client[:11])) == client):
                raise InputError(f"identities: {client!r:.40} is no number of a client")
            if int(client) >= 2**32:
                raise InputError(f"identities: {client!r:.40} is no number of a client")
            found[int(client)] = _octets(f"the identity of {client}", key, VERIFY_KEY_SIZE)
        return found

    def finish(self) -> None:
        if self._left:
            raise InputError(f"{self._what}: nobody reads {min(self._left)!r:.40}")


def _octets(what: str, value: object, size: int | None) -> bytes:
    """Bytes out of hexadecimal digits, in pairs and without anything between them."""
    try:
        if not isinstance(value, str) or 2 * len(data := bytes.fromhex(value)) != len(value):
            raise ValueError
    except ValueError:
        raise InputError(f"{what} is missing, or not in hexadecimal digits") from None
    if size is not None and len(data) != size:
        raise InputError(f"{what} has {len(data)} bytes, expected {size}")
    return data
