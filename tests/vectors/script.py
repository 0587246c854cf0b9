"""One round as a script: who does what with which message, written down while it runs."""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from protocols.bonawitz import Agreement, CollectKeys, CollectReveals, Params, Rates, join, restore
from protocols.errors import ProtocolError
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from protocols.wire import with_checksum, without_checksum

PAGE = Path(__file__).parents[2] / "docs" / "protocols" / "bonawitz.md"
SESSION = bytes(range(16))
PUBLIC = hashlib.sha256(b"a model, a clip and a scale").digest()
ABOUT = (
    "Test vector. Every key and every seed in this file is a test secret, known to everybody: "
    "use none of them for anything else."
)
WHOLE = 4096  # bytes; of a longer message the file holds size and SHA-256
SMALL_ORDER = b"\1" + bytes(31)  # the neutral point, as a public key of Ed25519
FIRST, STEP = 0x9E3779B97F4A7C15, 0xD1B54A32D192ED03  # odd, otherwise of no meaning

Fails = tuple[type[ProtocolError], str]


SENT = {  # by a stage of the server, what it sends when it closes
    "CollectKeys": "roster",
    "CollectShares": "boxes",
    "CollectVectors": "survivors",
    "CollectSignatures": "signatures",
}


class Counting:
    """Bytes for one party: SHA-256 of "secagg vector PARTY J" for J = 0, 1, ..., one after another.

    ``taken`` keeps what was asked for, so that the file can hold it.
    """

    def __init__(self, party: str) -> None:
        self._party, self._block, self._rest, self.taken = party, 0, b"", b""

    def __call__(self, count: int) -> bytes:
        while len(self._rest) < count:
            block = f"secagg vector {self._party} {self._block}".encode()
            self._rest += hashlib.sha256(block).digest()
            self._block += 1
        given, self._rest = self._rest[:count], self._rest[count:]
        self.taken += given
        return given


def layers() -> dict[str, str]:
    """Of each rule of the page, the layer at which it refuses."""
    rows = re.findall(r"^\| (R\d+) \| (\w+) \|", PAGE.read_text(), flags=re.MULTILINE)
    return dict(rows)


class Script:
    """One round.

    Args:
      shows: in a sentence, what the file shows.
      rule: of the page, that the file checks.
      clients: who could take part.
      told: of whom that was told another ``public`` than the rest, which.
      twin: client with the identity of client 0.
      weak: client with an identity of small order.
      records: every client moves into a record and out again after each answer.
    """

    def __init__(
        self,
        shows: str,
        params: Params,
        clients: Iterable[int],
        *,
        rule: str = "",
        round_number: int = 1,
        told: dict[int, bytes] | None = None,
        records: bool = False,
        twin: int | None = None,
        weak: int | None = None,
    ) -> None:
        self.rule = rule
        self.shows, self.clients, self.told, self.records = (
            shows,
            list(clients),
            told or {},
            records,
        )
        self.agreement = self._agreement(params, round_number, PUBLIC)
        self.agrees: dict[str, Any] = {}  # to what else, who joins or begins
        self.header = self.agreement.header
        self.entropy = {party: Counting(party) for party in map(_client, self.clients)}
        self.entropy["server"] = Counting("server")
        signing = self.clients if params.active else []
        self.identity = {c: SigningKey(Secret(Counting(f"identity {c}")(32))) for c in signing}
        if twin is not None:
            self.identity[twin] = self.identity[0]
        self.identities = {c: key.public for c, key in self.identity.items()} or None
        if weak is not None and self.identities:
            del self.identity[weak]
            self.identities[weak] = SMALL_ORDER
        self.inputs = {c: self._input(c) for c in self.clients}
        self.drops: dict[int, str] = {}
        self.bytes: dict[str, bytes] = {}
        self.messages: list[dict[str, Any]] = []
        self.steps: list[dict[str, Any]] = []
        self.result: dict[str, Any] | None = None
        self.error: str | None = None
        self._states: dict[int, Any] = {}
        self._server: Any = None
        self._joined: dict[int, int] = {}
        self._burnt: dict[tuple[bytes, int], bytes] = {}

    @staticmethod
    def _agreement(params: Params, round_number: int, public: bytes) -> Agreement:
        return Agreement(params=params, session=SESSION, round=round_number, public_digest=public)

    def told_agreement(self, client: int) -> Agreement:
        """What a client agrees to."""
        public = self.told.get(client, PUBLIC)
        return self._agreement(self.agreement.params, self.agreement.round, public)

    def other_agreement(self, agrees: Mapping[str, Any], agreement: Agreement) -> Agreement:
        """As ``agreement``, but for the fields that a step names."""
        return self._agreement(
            replace(agreement.params, words=agrees.get("words", agreement.params.words)),
            agrees.get("round", agreement.round),
            bytes.fromhex(agrees.get("public", agreement.public_digest.hex())),
        )

    @property
    def _long(self) -> bool:
        return 8 * self.agreement.params.words > WHOLE

    def _input(self, client: int) -> NDArray[np.uint64]:
        count = self.agreement.params.words
        if self._long:
            step = np.full(count, STEP, np.uint64)
            step[0] = (client + 1) * FIRST % 2**64
            return np.cumsum(step, dtype=np.uint64)
        return np.frombuffer(Counting(f"input {client}")(8 * count), ">u8").astype(np.uint64)

    # What a party does, and what comes of it.

    def act(
        self,
        party: str,
        does: str,
        receives: Sequence[str] = (),
        *,
        fails: Fails | None = None,
        **how: Any,
    ) -> list[str]:
        """Let a party do one thing; returns the names of what it sends, or notes how it refuses.

        Args:
          how: fields of the step: ``agrees``, ``again``, ``parts``.
        """
        if self.agrees and does in ("join", "begin"):
            how = {"agrees": self.agrees} | how
        step: dict[str, Any] = {"party": party, "does": does, **how}
        if receives:
            step["receives"] = list(receives)
        self.steps.append(step)
        given = [self.bytes[name] for name in receives]
        try:
            sends = (
                self._serve(does, given, how)
                if party == "server"
                else self._answer(party, does, given, how)
            )
        except ProtocolError as raised:
            if fails is None or type(raised) is not fails[0] or fails[1] not in str(raised):
                raise
            step["error"] = self.error = layers()[self.rule]
            return []
        if fails is not None:
            raise ValueError(f"{party} does not refuse: {self.shows}")
        if sends:
            step["sends"] = [self._enter(name, party, to, data) for name, to, data in sends]
        return step.get("sends", [])

    def change(self, like: str, change: str, data: bytes) -> str:
        """Somebody changes the message ``like`` on its way into ``data``."""
        (model,) = (entry for entry in self.messages if entry["name"] == like)
        return self._enter(f"{like}, changed", model["from"], model["to"], data, change)

    def client_refuses(self, does: str, like: str, change: str, data: bytes, fails: Fails) -> None:
        """Client 0 refuses ``data`` in place of the message ``like``."""
        self.act("client 0", does, [self.change(like, change, data)], fails=fails)

    def server_refuses(self, like: str, change: str, data: bytes, fails: Fails) -> None:
        """The server refuses ``data`` in place of the message ``like``."""
        self.act("server", "receive", [self.change(like, change, data)], fails=fails)

    def _enter(self, name: str, source: str, to: str, data: bytes, change: str = "") -> str:
        known = name in self.bytes
        if self.bytes.setdefault(name, data) != data:
            raise ValueError(f"two messages called {name}")
        if known:  # a client that was restored says it again
            return name
        entry: dict[str, Any] = {"name": name, "from": source, "to": to}
        if change:
            entry["changed"] = change
        if source == to:  # a record: each implementation has its own
            self.messages.append(entry)
            return name
        twin = next(n for n, other in self.bytes.items() if other == data)
        if twin != name:
            entry["same_as"] = twin
        elif len(data) > WHOLE:
            entry |= {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
        else:
            entry["bytes"] = data.hex()
        self.messages.append(entry)
        return name

    def _answer(
        self, party: str, does: str, given: list[bytes], how: dict[str, Any]
    ) -> list[tuple[str, str, bytes]]:
        me = int(party.removeprefix("client "))
        agreement = self.other_agreement(how.get("agrees", {}), self.told_agreement(me))
        match does:
            case "join":
                message, self._states[me] = join(
                    agreement,
                    me,
                    Counting(party) if how.get("again") else self.entropy[party],
                    identity=self.identity.get(me),
                    identities=self.identities,
                )
                self._joined[me] = self._joined.get(me, 0) + 1
                return [(f"advertise {me}{self._once_more(me)}", "server", message)]
            case "rebind":
                self._states[me] = self._states[me].rebind(agreement)
                return []
            case "save":
                stage = self._states[me].STAGE
                record = self._states[me].into_record().expose()
                return [(f"record {stage} of {me}{self._once_more(me)}", party, record)]
            case "restore":
                self._states[me] = restore(Secret(given[0]), burn=self._burn)
                return []
            case "on_boxes":
                words = self.inputs[me]
                whole: Any = iter((words[:1], words[1:])) if how.get("parts") else words
                frames, self._states[me] = self._states[me].on_boxes(given[0], whole)
                return [(f"frame {i} of {me}", "server", frame) for i, frame in enumerate(frames)]
            case "on_roster" | "sign_survivors":
                message, self._states[me] = getattr(self._states[me], does)(given[0])
                kind = "shares" if does == "on_roster" else "signed"
                return [(f"{kind} {me}", "server", message)]
        return [(f"reveal {me}", "server", getattr(self._states[me], does)(given[0]))]

    def _once_more(self, me: int) -> str:
        return ", again" if self._joined[me] > 1 else ""

    def _serve(
        self, does: str, given: list[bytes], how: dict[str, Any]
    ) -> list[tuple[str, str, bytes]]:
        agreement = self.other_agreement(how.get("agrees", {}), self.agreement)
        if self._server is None:
            self._server = CollectKeys(agreement, self.identities)
        if does == "begin":
            return []
        if does == "rebind":
            self._server = self._server.rebind(agreement)
            return []
        stage = type(self._server).__name__
        if does == "receive":
            self._server.receive(given if stage == "CollectVectors" else given[0])
            return []
        if isinstance(self._server, CollectReveals):
            done = self._server.close()
            self.result = {"survivors": list(done.survivors), **self._words(done.words)}
            return []
        entropy = [self.entropy["server"]] if stage == "CollectKeys" else []
        out, self._server = getattr(self._server, does)(*entropy)
        kind = SENT[stage]
        return [(f"{kind} {c}", _client(c), out[c]) for c in sorted(out)]

    def _burn(self, session: bytes, stage: int, request: bytes) -> bool:
        return self._burnt.setdefault((session, stage), request) == request

    # Whole stages, in which all is well but for those who drop out.

    def _stage(
        self, awaits: str, does: str, receives: str, drops: Iterable[int], close: str
    ) -> None:
        self.drops |= dict.fromkeys(drops, f"before {awaits}")
        for client in self.clients:
            if client not in self.drops:
                receive = [receives.format(client)] if receives else []
                sent = self.act(_client(client), does, receive)
                self.act("server", "receive", sent)
                if self.records and awaits != "Reveal":
                    (record,) = self.act(_client(client), "save")
                    self.act(_client(client), "restore", [record])
        if close:
            self.act("server", close)

    def keys(self, *drops: int) -> None:
        self._stage("Advertise", "join", "", drops, "close")

    def shares(self, *drops: int, close: bool = True) -> None:
        self._stage("SealedShares", "on_roster", "roster {}", drops, "close" if close else "")

    def vectors(self, *drops: int, close: bool = True) -> None:
        how = "close_to_sign" if self.identity else "close"
        self._stage("MaskedFrame", "on_boxes", "boxes {}", drops, how if close else "")

    def signed(self, *drops: int) -> None:
        self._stage("SignedSurvivors", "sign_survivors", "survivors {}", drops, "close")

    def reveals(self, *drops: int, close: bool = True) -> None:
        does, receives = (
            ("on_signatures", "signatures {}")
            if self.identity
            else ("on_survivors", "survivors {}")
        )
        self._stage("Reveal", does, receives, drops, "close" if close else "")

    # The file.

    def to_json(self) -> str:
        params = self.agreement.params
        settled = getattr(self._server, "_round", None)
        rates = params.rates
        script = {
            "about": ABOUT,
            "shows": self.shows,
            "rule": self.rule or None,
            "params": {
                "clients": params.clients,
                "threshold": params.threshold,
                "rates": rates
                and {"corrupt": str(rates.corrupt_fraction), "dropout": str(rates.dropout)},
                "minimum_survivors": params.minimum_survivors,
                "words": params.words,
                "suite": int(params.suite),
                "active": params.active,
                "corrupt": params.max_corrupt,
            },
            "session": SESSION.hex(),
            "round": self.agreement.round,
            "public": PUBLIC.hex(),
            "told": {str(c): digest.hex() for c, digest in self.told.items()},
            "agreement": self.agreement.to_bytes().hex(),
            "plan": settled
            and {"degree": settled.plan.degree, "threshold": settled.plan.threshold},
            "context": settled and self.agreement.context(settled.roster.digest()).digest.hex(),
            "entropy": {party: source.taken.hex() for party, source in self.entropy.items()},
            "identities": {
                str(c): {
                    "secret": self.identity[c].secret.expose().hex()
                    if c in self.identity
                    else None,
                    "public": public.hex(),
                }
                for c, public in sorted((self.identities or {}).items())
            },
            "inputs": {
                str(c): {"first": _word(words[0]), "step": _word(STEP)}
                if self._long
                else self._words(words)
                for c, words in self.inputs.items()
            },
            "drops": {str(c): when for c, when in sorted(self.drops.items())},
            "steps": self.steps,
            "messages": self.messages,
            "error": self.error,
            "sum": self.result,
        }
        return json.dumps(script, indent=1) + "\n"

    def _words(self, words: NDArray[np.uint64]) -> dict[str, Any]:
        if self._long:
            return {"sha256": hashlib.sha256(words.astype("<u8").tobytes()).hexdigest()}
        return {"words": [_word(word) for word in words]}


def _client(number: int) -> str:
    return f"client {number}"


def _word(value: int | np.uint64) -> str:
    return f"{int(value):016x}"


SCRIPTS: dict[str, Callable[[], Script]] = {}


def script(
    shows: str,
    *,
    rule: str = "",
    clients: int | list[int] = 3,
    most: int = 0,
    after: str = "",
    rates: Rates | None = None,
    told: dict[int, bytes] | None = None,
    records: bool = False,
    twin: int | None = None,
    weak: int | None = None,
    **numbers: Any,
) -> Callable[[Callable[[Script], None]], Callable[[Script], None]]:
    """Make a file of what the function does to a round that has come as far as ``after``.

    Args:
      rule: of the page, that it checks.
      most: clients that may take part, if more or fewer than do.
    """
    numbers = {"threshold": None if rates else 2, "rates": rates, "words": 3} | numbers
    members = list(range(clients)) if isinstance(clients, int) else clients
    params = Params(clients=most or len(members), **numbers)

    def register(play: Callable[[Script], None]) -> Callable[[Script], None]:
        def make() -> Script:
            run = Script(
                shows,
                params,
                members,
                rule=rule,
                told=told,
                records=records,
                twin=twin,
                weak=weak,
            )
            for stage in ("keys", "shares", "vectors", "signed"):
                if after:
                    getattr(run, stage)()
                if stage == after:
                    break
            play(run)
            return run

        SCRIPTS[play.__name__] = make
        return play

    return register


def turned(data: bytes, place: int) -> bytes:
    """The lowest bit of the byte at ``place`` changed."""
    place %= len(data)
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


def rewritten(data: bytes, change: Callable[[bytes], bytes]) -> bytes:
    """A client's message with another body, and the checksum that belongs to it."""
    return with_checksum(change(bytes(without_checksum(data))))
