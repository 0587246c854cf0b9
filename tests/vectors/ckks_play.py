"""One session of ``protocols.ckks`` on coefficients as a script, for either implementation.

``Play`` writes a session down while ours plays it; ``replay`` has the other one do the same
steps from the file alone, and compares every message, every sum and every refusal.
"""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import second_ckks as second
from numpy.typing import NDArray
from script import ABOUT, FIRST, SESSION, STEP, Counting

from protocols.ckks import Agreement, Coefficients, Model, Params
from protocols.ckks.client import Private, encrypt, generate, open_sum, restore
from protocols.ckks.keys import CollectiveKey, SharedKey
from protocols.ckks.server import (
    CollectCommitments,
    CollectOpenings,
    CollectPartials,
    CollectUploads,
)
from protocols.errors import DecodeError, ProtocolError, TooFewSurvivors
from protocols.secrets import Secret
from protocols.testing import BurnInMemory

EDGE = 32  # bytes at either end of a message that a file shows beside its hash
CHECKSUM = 16
SAYS = {  # where the type of our errors does not say at which layer
    "context": ("speaks version", "another session or round", "another context", "box does not"),
    "state": (
        "answered another",
        "other holders were alive",
        "another sum was opened",
        "another vector",
        "took other",
        "is not expected",
        "has already",
        "the sum is full",
    ),
    "sum": ("does not open: some key", "rebuild another key"),
    "check": ("second polynomial",),
}


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def layer(error: ProtocolError) -> str:
    """At which layer of the pages we have refused."""
    if isinstance(error, TooFewSurvivors):
        return "sum"
    for name, texts in SAYS.items():
        if any(text in str(error) for text in texts):
            return name
    return "decode" if isinstance(error, DecodeError) else "check"


# What goes in.


def words_of(client: int, count: int) -> NDArray[np.uint64]:
    """Word i of a client's input is (client + 1) FIRST + i STEP."""
    with np.errstate(over="ignore"):
        first = np.uint64((client + 1) * FIRST % 2**64)
        return first + np.arange(count, dtype=np.uint64) * np.uint64(STEP)


def reals_of(words: NDArray[np.uint64], clip: float) -> NDArray[np.float64]:
    """Such words as reals: the upper 53 bits, as a number in [-clip, clip)."""
    return ((words >> np.uint64(11)) * 2.0**-52 - 1) * clip


def terms_of(params: dict[str, Any], known: dict[str, Any]) -> second.Terms:
    agreed = {name: bytes.fromhex(known[name]) for name in ("session", "public")}
    return second.Terms(**agreed, **params)


class Parties(ABC):
    """All parties of a session, in one implementation.

    Args:
      entropy: by party, what it draws from.
    """

    def __init__(self, params: dict[str, Any], known: dict[str, Any]) -> None:
        self.params, self.known = params, known
        self.session = bytes.fromhex(known["session"])
        self.public = bytes.fromhex(known["public"])
        self.holders, self.clients = known["holders"], known["clients"]
        self.entropy: dict[str, Counting] = {}
        if params["model"] == 1:
            self.secret = Counting("shared")(32)

    def draws(self, party: str) -> Counting:
        return self.entropy.setdefault(party, Counting(party))

    def perform(self, step: dict[str, Any], given: list[bytes]) -> dict[str, bytes]:
        """One step: the messages that are sent, by name, or ``sum`` and the words that it is."""
        kind, _, number = step["party"].partition(" ")
        me, r = int(number or 0), step.get("round", 0)
        match step["does"]:
            case "generate":
                return {f"advertise {me}": self.generate(me)}
            case "save" | "restore":
                getattr(self, step["does"])(me)
                return {}
            case "on_roster":
                return {f"opening {me}": self.on_roster(me, *given)}
            case "on_openings":
                self.on_openings(kind, me, *given)
                return {}
            case "encrypt":
                words = self.encode(self.input(me) + np.uint64(step.get("adds", 0)))
                frames = self.encrypt(me, r, words)
                return {f"frame {i} of {me} in {r}": frame for i, frame in enumerate(frames)}
            case "on_request":
                parts = self.on_request(me, r, *given)
                return {f"part {i} of {me} in {r}": part for i, part in enumerate(parts)}
            case "open_sum":
                return {"sum": _bytes(self.open_sum(me, r, *given))}
            case "begin":
                self.begin(r)
                return {}
            case "receive":
                self.receive(given)
                return {}
        return self.close(r, step.get("alive", []))

    def input(self, client: int) -> NDArray[np.uint64]:
        digits = self.digits(self.known["bits"]) if self.known.get("bits") else 1
        return words_of(client, self.params["entries"] // digits)

    def encode(self, words: NDArray[np.uint64]) -> Any:
        """What a client hands in, of the numbers that these words stand for."""
        if bits := self.known.get("bits"):
            return self.integers(words >> np.uint64(64 - bits), bits)
        if self.known["numbers"] == "reals":
            return self.reals(reals_of(words, self.params["clip"]))
        return words

    @abstractmethod
    def digits(self, bits: int) -> int: ...
    @abstractmethod
    def integers(self, values: NDArray[np.uint64], bits: int) -> Any: ...
    @abstractmethod
    def reals(self, values: NDArray[np.float64]) -> Any: ...
    @abstractmethod
    def decoded(self, words: NDArray[np.uint64]) -> bytes:
        """The numbers of a sum, 8 bytes each, little-endian."""

    @abstractmethod
    def generate(self, me: int) -> bytes: ...
    @abstractmethod
    def save(self, me: int) -> None: ...
    @abstractmethod
    def restore(self, me: int) -> None: ...
    @abstractmethod
    def on_roster(self, me: int, roster: bytes) -> bytes: ...
    @abstractmethod
    def on_openings(self, kind: str, me: int, openings: bytes, boxes: bytes = b"") -> None: ...
    @abstractmethod
    def encrypt(self, me: int, r: int, words: Any) -> list[bytes]: ...
    @abstractmethod
    def on_request(self, me: int, r: int, request: bytes) -> list[bytes]: ...
    @abstractmethod
    def open_sum(self, me: int, r: int, message: bytes) -> Any: ...
    @abstractmethod
    def begin(self, r: int) -> None: ...
    @abstractmethod
    def receive(self, given: list[bytes]) -> None: ...
    @abstractmethod
    def close(self, r: int, alive: list[int]) -> dict[str, bytes]: ...


def _bytes(words: Any) -> bytes:
    return np.asarray(words, np.uint64).astype("<u8").tobytes()


class Ours(Parties):
    """Those of ``protocols.ckks``."""

    def __init__(self, params: dict[str, Any], known: dict[str, Any]) -> None:
        super().__init__(params, known)
        self.agreed = Params(
            model=Model(params["model"]),
            ring=Coefficients(**{n: params[n] for n in ("limbs", "messages", "kept")}),
            flooding=params["flooding"] or None,
            max_corrupt=params["corrupt"],
            **{
                name: params[name]
                for name in (
                    *("clients", "minimum_survivors", "entries", "decryptions", "clip"),
                    *("scale_sixteenths", "holders", "threshold"),
                )
            },
        )
        self.states: dict[int, Any] = {}
        self.keys: dict[int, CollectiveKey] = {}
        self.uploads: dict[tuple[int, int], Any] = {}
        self.burns: dict[str, BurnInMemory] = {}
        self.records: dict[int, bytes] = {}
        self.server: Any = None
        if self.holders:
            self.server = CollectCommitments(self.agreement(), self.holders)
        else:
            self.shared = SharedKey(self.agreement(), Secret(self.secret))

    def agreement(self, r: int = 0) -> Agreement:
        return Agreement(
            params=self.agreed, session=self.session, round=r, public_digest=self.public
        )

    def _burn(self, party: str) -> BurnInMemory:
        return self.burns.setdefault(party, BurnInMemory())

    def digits(self, bits: int) -> int:
        return self.agreed.encoding.digits(bits)

    def integers(self, values: NDArray[np.uint64], bits: int) -> NDArray[np.uint64]:
        return self.agreed.encoding.encode_integers(values, bits)

    def reals(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        return values

    def decoded(self, words: NDArray[np.uint64]) -> bytes:
        encoding = self.agreed.encoding
        if bits := self.known.get("bits"):
            return encoding.decode_integers(words, bits).astype("<u8").tobytes()
        if self.known["numbers"] == "reals":
            return encoding.decode_reals(words).astype("<f8").tobytes()
        return _bytes(words)

    def generate(self, me: int) -> bytes:
        message, self.states[me] = generate(self.agreement(), me, self.draws(f"holder {me}"))
        return message

    def save(self, me: int) -> None:
        self.records[me] = self.states[me].into_record().expose()
        self.restore(me)

    def restore(self, me: int) -> None:
        burn = self._burn(f"holder {me}")
        self.states[me] = restore(Secret(self.records[me]), burn=burn)

    def on_roster(self, me: int, roster: bytes) -> bytes:
        message, self.states[me] = self.states[me].on_roster(roster)
        return message

    def on_openings(self, kind: str, me: int, openings: bytes, boxes: bytes = b"") -> None:
        if kind == "client":
            self.keys[me] = CollectiveKey.from_bytes(self.agreement(), openings)
            return
        burn = self._burn(f"holder {me}")
        self.states[me], _ = self.states[me].on_openings(openings, boxes, burn=burn)

    def encrypt(self, me: int, r: int, words: Any) -> list[bytes]:
        key = self.keys[me] if self.holders else self.shared
        party = f"client {me}"
        upload = encrypt(
            self.agreement(r), me, key, words, burn=self._burn(party), entropy=self.draws(party)
        )
        self.uploads[me, r] = upload
        return list(upload)

    def on_request(self, me: int, r: int, request: bytes) -> list[bytes]:
        return list(self.states[me].on_request(self.agreement(r), request)[0])

    def open_sum(self, me: int, r: int, message: bytes) -> Any:
        sent = self.uploads[me, r].name if (me, r) in self.uploads else None
        burn = self._burn(f"client {me}")
        found = open_sum(self.agreement(r), me, self.shared, message, burn=burn, sent=sent)
        return found.expose() if isinstance(found, Private) else found.values

    def begin(self, r: int) -> None:
        key = self.key if self.holders else self.shared.digest
        self.server = CollectUploads(self.agreement(r), key, self.clients)

    def receive(self, given: list[bytes]) -> None:
        one = isinstance(self.server, CollectCommitments | CollectOpenings)
        self.server.receive(given[0] if one else given)

    def close(self, r: int, alive: list[int]) -> dict[str, bytes]:
        match self.server:
            case CollectCommitments():
                roster, self.server = self.server.close()
                return {"roster": roster}
            case CollectOpenings():
                openings, boxes, self.key = self.server.close()
                return {"openings": openings} | {f"boxes {h}": boxes[h] for h in sorted(boxes)}
            case CollectPartials():
                return {"sum": _bytes(self.server.close().values)}
        if not self.holders:
            return {f"sum in {r}": self.server.close_shared()}
        request, self.server = self.server.close_threshold(alive)
        return {f"request in {r}": request}


class Theirs(Parties):
    """Those of the page alone."""

    def __init__(self, params: dict[str, Any], known: dict[str, Any]) -> None:
        super().__init__(params, known)
        self.terms = terms_of(params, known)
        self.states: dict[int, second.Holder] = {}
        self.senders: dict[int, second.Client] = {}
        self.server: second.Commitments | second.Server
        if self.holders:
            self.server = second.Commitments(self.terms, self.holders)
            return
        self.shared = second.SharedKey(self.terms, self.secret)
        for me in self.clients:
            self._joins(me, self.shared)

    def _joins(self, me: int, key: second.SharedKey | second.PublicKey) -> None:
        self.senders[me] = second.Client(self.terms, me, key, self.draws(f"client {me}"))

    def digits(self, bits: int) -> int:
        return len(self.terms.digits(bits))

    def integers(self, values: NDArray[np.uint64], bits: int) -> list[int]:
        return self.terms.encode_integers(values.tolist(), bits)

    def reals(self, values: NDArray[np.float64]) -> list[int]:
        return self.terms.encode_reals(values.tolist())

    def decoded(self, words: NDArray[np.uint64]) -> bytes:
        if bits := self.known.get("bits"):
            return _bytes(self.terms.decode_integers(words.tolist(), bits))
        if self.known["numbers"] == "reals":
            return np.array(self.terms.decode_reals(words.tolist()), "<f8").tobytes()
        return _bytes(words)

    def generate(self, me: int) -> bytes:
        self.states[me] = second.Holder(self.terms, me, self.draws(f"holder {me}"))
        return self.states[me].advertise()

    def save(self, me: int) -> None:
        """A holder here always answers again; what it has burnt is all that counts."""

    def restore(self, me: int) -> None:
        """As ``save``."""

    def on_roster(self, me: int, roster: bytes) -> bytes:
        return self.states[me].on_roster(roster)

    def on_openings(self, kind: str, me: int, openings: bytes, boxes: bytes = b"") -> None:
        if kind == "client":
            self._joins(me, second.PublicKey(self.terms, openings))
        else:
            self.states[me].on_openings(openings, boxes)

    def encrypt(self, me: int, r: int, words: Any) -> list[bytes]:
        given = words if isinstance(words, list) else words.tolist()
        return self.senders[me].encrypt(given, r)

    def on_request(self, me: int, r: int, request: bytes) -> list[bytes]:
        return self.states[me].on_request(request, r)

    def open_sum(self, me: int, r: int, message: bytes) -> Any:
        return self.senders[me].open(message, r)

    def begin(self, r: int) -> None:
        key = self.key if self.holders else self.shared.name
        self.server = second.Server(self.terms, r, key, self.clients)

    def receive(self, given: list[bytes]) -> None:
        match self.server:
            case second.Commitments():
                self.server.receive(given[0])
            case second.Server(asked=True):
                self.server.answer(given)
            case second.Server():
                self.server.add(given)

    def close(self, r: int, alive: list[int]) -> dict[str, bytes]:
        match self.server:
            case second.Commitments(closed=False):
                return {"roster": self.server.close_roster()}
            case second.Commitments():
                openings, boxes = self.server.close_openings()
                self.key = second.PublicKey(self.terms, openings)
                return {"openings": openings} | {f"boxes {h}": boxes[h] for h in sorted(boxes)}
            case second.Server(asked=True):
                return {"sum": _bytes(self.server.sum())}
        if not self.holders:
            return {f"sum in {r}": self.server.shared_sum()}
        return {f"request in {r}": self.server.request(alive)}


# What is written down.


def changed(data: bytes, change: dict[str, Any]) -> bytes:
    """``data`` with what somebody did to it on its way."""
    body = data[:-CHECKSUM]
    at = change["at"] if change["at"] >= 0 else len(body) + change["at"]
    instead = bytes.fromhex(change.get("bytes", "")) + bytes(change.get("zeros", 0))
    body = body[:at] + instead + body[at + change["cut"] :]
    whole = change.get("checksum", True)
    return body + (hashlib.sha256(body).digest()[:CHECKSUM] if whole else data[-CHECKSUM:])


def described(name: str, data: bytes) -> dict[str, Any]:
    """A message as it stands in a file."""
    if len(data) <= 4 * EDGE:
        return {"name": name, "bytes": data.hex()}
    ends = {"first": data[:EDGE].hex(), "last": data[-EDGE:].hex()}
    return {"name": name, "size": len(data), "sha256": sha(data), **ends}


class Play:
    """A session, written down while ours plays it.

    Args:
      shows: in a sentence, what the file shows.
      bits: of the integers that are summed; None: words, or reals.
      most: of the clients, that one sum may have; None: all of them.
      params: by the names of the page; what is left out is filled in.
    """

    def __init__(
        self,
        shows: str,
        *,
        clients: Sequence[int] = (0, 1, 4),
        holders: Sequence[int] = (),
        numbers: str = "words",
        bits: int | None = None,
        most: int | None = None,
        **params: Any,
    ) -> None:
        filled = {
            "model": 2 if holders else 1,
            "clients": most or len(clients),
            "minimum_survivors": 2,
            "entries": 100,
            "decryptions": 1,
            "clip": 0.5,
            "limbs": 2,
            "messages": 1,
            "kept": 4,
            "scale_sixteenths": 800,
            "flooding": 30,
            "holders": len(holders),
            "threshold": len(holders) // 2 + 1 if holders else 0,
            "corrupt": 0,
        }
        known = {
            "session": SESSION.hex(),
            "public": sha(b"a model, a clip and a scale"),
            "clients": list(clients),
            "holders": list(holders),
            "numbers": numbers,
            "bits": bits,
        }
        self.parties = Ours(filled | params, known)
        self.theirs = terms_of(filled | params, known)
        agreement = self.parties.agreement()
        derived = {
            "agreement": agreement.to_bytes().hex(),
            "key_context": agreement.key_context().hex(),
            "deviation": self.parties.agreed.flooding_stddev.hex(),
            "bound": self.parties.agreed.largest_error.hex(),
            "exact_bits": self.parties.agreed.exact_bits,
        }
        self.file: dict[str, Any] = {"about": ABOUT, "shows": shows, "params": filled | params}
        self.file |= known | derived | {"acts": [], "messages": []}
        self.bytes: dict[str, bytes] = {}

    def act(
        self, party: str, does: str, receives: Sequence[str] = (), *, error: str = "", **how: Any
    ) -> list[str]:
        """Let a party do one thing: the names of what it sends.

        Args:
          error: the layer at which it must refuse.
        """
        step: dict[str, Any] = {"party": party, "does": does, **how}
        if receives:
            step["receives"] = list(receives)
        self.file["acts"].append(step)
        try:
            sent = self.parties.perform(step, [self.bytes[name] for name in receives])
        except ProtocolError as raised:
            if layer(raised) != error:
                raise
            step["error"] = error
            return []
        if error:
            raise ValueError(f"{party} does not refuse at {error}: {how}")
        if (total := sent.pop("sum", None)) is not None:
            step["sum"] = self._result(total)
        for name, data in sent.items():
            if name not in self.bytes:
                self.file["messages"].append(described(name, data))
            if self.bytes.setdefault(name, data) != data:
                raise ValueError(f"two messages called {name}")
        if sent:
            step["sends"] = list(sent)
        return list(sent)

    def _result(self, data: bytes) -> dict[str, Any]:
        found = {"words": sha(data)}
        if self.file["numbers"] != "words":
            words = np.frombuffer(data, "<u8").astype(np.uint64)
            numbers = self.parties.decoded(words)
            found |= {"numbers": sha(numbers), "first": numbers[:EDGE].hex()}
        return found

    def change(
        self,
        like: str,
        at: int,
        data: bytes = b"",
        *,
        cut: int | None = None,
        zeros: int = 0,
        checksum: bool = True,
    ) -> str:
        """Somebody changes a message: from ``at`` on ``cut`` bytes become ``data`` and zeros."""
        change: dict[str, Any] = {
            "at": at,
            "cut": len(data) + zeros if cut is None else cut,
            "bytes": data.hex(),
        }
        if zeros:
            change["zeros"] = zeros
        if not checksum:
            change["checksum"] = False
        number = sum("like" in entry for entry in self.file["messages"]) + 1
        name = f"{like}, changed {number}"
        self.bytes[name] = changed(self.bytes[like], change)
        self.file["messages"].append({"name": name, "like": like, **change})
        return name

    def flipped(self, like: str, at: int) -> str:
        """One byte of a message with all of its bits turned."""
        body = self.bytes[like][:-CHECKSUM]
        return self.change(like, at, bytes([body[at] ^ 0xFF]))

    def longer(self, like: str) -> str:
        """A message with a byte behind its last."""
        return self.change(like, len(self.bytes[like]) - CHECKSUM, b"\0", cut=0)

    def shorter(self, like: str) -> str:
        """A message without its last byte."""
        return self.change(like, -1, cut=1)

    # Whole stages, in which all is well.

    def key(self) -> None:
        """The holders make their key, and the clients check it."""
        holders = self.file["holders"]
        for h in holders:
            self.act("server", "receive", self.act(f"holder {h}", "generate"))
        self.act("server", "close")
        for h in holders:
            self.act("server", "receive", self.act(f"holder {h}", "on_roster", ["roster"]))
        self.act("server", "close")
        for h in holders:
            self.act(f"holder {h}", "on_openings", ["openings", f"boxes {h}"])
        for c in self.file["clients"]:
            self.act(f"client {c}", "on_openings", ["openings"])

    def uploads(self, *clients: int, r: int = 0) -> None:
        self.act("server", "begin", round=r)
        for c in clients or self.file["clients"]:
            self.act("server", "receive", self.act(f"client {c}", "encrypt", round=r))

    def opened(self, *alive: int, r: int = 0) -> None:
        """The sum is opened by these holders, by default all of them."""
        left = list(alive or self.file["holders"])
        (request,) = self.act("server", "close", round=r, alive=left)
        for h in left:
            sent = self.act(f"holder {h}", "on_request", [request], round=r)
            self.act("server", "receive", sent)
        self.act("server", "close", round=r)

    def shown(self, *clients: int, r: int = 0) -> None:
        """The sum is opened by these clients, by default by the first."""
        (message,) = self.act("server", "close", round=r)
        for c in clients or self.file["clients"][:1]:
            self.act(f"client {c}", "open_sum", [message], round=r)

    def to_json(self) -> str:
        """The file: a line for each act and message."""
        parts = []
        for name, value in self.file.items():
            if name in ("acts", "messages"):
                lines = ",\n".join("  " + json.dumps(entry) for entry in value)
                parts.append(f' "{name}": [\n{lines}\n ]')
            else:
                parts.append(f" {json.dumps(name)}: {json.dumps(value)}")
        return "{\n" + ",\n".join(parts) + "\n}\n"


def replay(file: dict[str, Any]) -> int:
    """Have the second implementation do what a file says; the number of things compared.

    Raises:
      AssertionError: a message, a sum or a refusal is another than that of the file.
    """
    theirs = Theirs(file["params"], file)
    listed = {entry["name"]: entry for entry in file["messages"]}
    known: dict[str, bytes] = {}
    compared = 0

    def given(name: str) -> bytes:
        if name not in known:
            known[name] = changed(given(listed[name]["like"]), listed[name])
        return known[name]

    for step in file["acts"]:
        received = [given(name) for name in step.get("receives", [])]
        compared += 1
        sent, error = {}, None
        try:
            sent = theirs.perform(step, received)
        except second.Refused as refused:
            error = refused.layer
        assert error == step.get("error"), step
        if (total := sent.pop("sum", None)) is not None:
            assert sha(total) == step["sum"]["words"], step
            if "numbers" in step["sum"]:
                numbers = theirs.decoded(np.frombuffer(total, "<u8"))
                assert sha(numbers) == step["sum"]["numbers"], step
        assert list(sent) == step.get("sends", [])
        for name, data in sent.items():
            assert described(name, data) == listed[name], name
            compared += name not in known
        known |= sent
    return compared
