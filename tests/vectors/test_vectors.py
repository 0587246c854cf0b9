"""Every vector played again, step by step, and every file made again, byte for byte."""

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from protocols import errors
from protocols.bonawitz import Agreement, CollectKeys, Params, Rates, Sum, join, restore
from protocols.primitives.prg import Suite
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "protocols" / "bonawitz.md"
PICKS = {"R36", "R40", "R51", "R54"}  # rules whose vectors lie in picks.json
FILES = sorted(file for file in HERE.glob("*.json") if "steps" in json.loads(file.read_text()))
VECTORS = pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)


SAYS = {  # where the type of our errors does not say at which layer; another has errors of its own
    "context": (
        "speaks version",
        "another session or round",
        "agrees to something else",
        "a box does not open",
    ),
    "state": (
        "is not expected at this stage",
        "has already",
        "the round is full",
        "was answered for another request",
    ),
    "sum": ("the check word does not count", "rebuild another key"),
}


def layer(error: errors.ProtocolError) -> str:
    """At which layer of the page we have refused."""
    if isinstance(error, errors.TooFewSurvivors | errors.WrongShares):
        return "sum"
    if isinstance(error, errors.InputError):
        return "check"
    if isinstance(error, errors.LocalProtocolError):
        return "state"
    for name, texts in SAYS.items():
        if any(text in str(error) for text in texts):
            return name
    return "decode" if isinstance(error, errors.DecodeError) else "check"


def load(file: Path) -> dict[str, Any]:
    script: dict[str, Any] = json.loads(file.read_text())
    return script


def listed(entropy: bytes) -> Callable[[int], bytes]:
    """The bytes of the file, in order, and not one more."""
    rest = bytearray(entropy)

    def draw(count: int) -> bytes:
        given = bytes(rest[:count])
        assert len(given) == count, "more randomness is drawn than the file has"
        del rest[:count]
        return given

    return draw


class Player:
    """All parties of a file, made from its parameters, keys, inputs and entropy alone."""

    def __init__(self, script: dict[str, Any]) -> None:
        numbers = dict(script["params"])
        rates = numbers["rates"] and Rates(
            corrupt_fraction=numbers["rates"]["corrupt"], dropout=numbers["rates"]["dropout"]
        )
        numbers["max_corrupt"] = numbers.pop("corrupt")
        numbers |= {"rates": rates, "suite": Suite(numbers["suite"])}
        self.params = Params(**numbers)
        self.script = script
        self.agreement = self._agreement(script["public"])
        self.entropy = {
            party: listed(bytes.fromhex(data)) for party, data in script["entropy"].items()
        }
        self.identity = {
            int(client): SigningKey(Secret(bytes.fromhex(key["secret"])))
            for client, key in script["identities"].items()
            if key["secret"]
        }
        self.identities = {
            int(client): bytes.fromhex(key["public"])
            for client, key in script["identities"].items()
        } or None
        for client, key in self.identity.items():
            assert self.identities is not None
            assert self.identities[client] == key.public
        self.inputs = {int(client): self._input(of) for client, of in script["inputs"].items()}
        self.states: dict[int, Any] = {}
        self.server: Any = None
        self.sum: Sum | None = None
        self.burnt: dict[tuple[bytes, int], bytes] = {}

    def _agreement(self, public: str, agrees: Any = None) -> Agreement:
        """What is agreed, but for the fields that a step names."""
        said = {"round": self.script["round"], "public": public, "words": self.params.words}
        said |= agrees or {}
        return Agreement(
            params=replace(self.params, words=said["words"]),
            session=bytes.fromhex(self.script["session"]),
            round=said["round"],
            public_digest=bytes.fromhex(said["public"]),
        )

    def _input(self, of: dict[str, Any]) -> NDArray[np.uint64]:
        if "words" in of:
            return np.array([int(word, 16) for word in of["words"]], np.uint64)
        first, step = int(of["first"], 16), int(of["step"], 16)
        words = (first + place * step for place in range(self.params.words))
        return np.array([word % 2**64 for word in words], np.uint64)

    def burn(self, place: bytes, stage: int, request: bytes) -> bool:
        return self.burnt.setdefault((place, stage), request) == request

    def client(self, me: int, does: str, given: list[bytes], how: dict[str, Any]) -> list[bytes]:
        told = self.script["told"].get(str(me), self.script["public"])
        agreement = self._agreement(told, how.get("agrees"))
        if does == "join":
            once_more = listed(bytes.fromhex(self.script["entropy"][f"client {me}"]))
            message, self.states[me] = join(
                agreement,
                me,
                once_more if how.get("again") else self.entropy[f"client {me}"],
                identity=self.identity.get(me),
                identities=self.identities,
            )
            return [message]
        if does == "restore":
            self.states[me] = restore(Secret(given[0]), burn=self.burn)
            return []
        state = self.states[me]
        if does == "rebind":
            self.states[me] = state.rebind(agreement)
            return []
        if does == "save":
            return [state.into_record().expose()]
        if does == "on_boxes":
            words = self.inputs[me]
            whole: Any = iter((words[:1], words[1:])) if how.get("parts") else words
            frames, self.states[me] = state.on_boxes(given[0], whole)
            return list(frames)
        answer = getattr(state, does)(given[0])
        if isinstance(answer, bytes):
            return [answer]
        message, self.states[me] = answer
        return [message]

    def serve(self, does: str, given: list[bytes], how: dict[str, Any]) -> list[bytes]:
        agreement = self._agreement(self.script["public"], how.get("agrees"))
        if self.server is None:
            self.server = CollectKeys(agreement, self.identities)
        if does == "begin":
            return []
        if does == "rebind":
            self.server = self.server.rebind(agreement)
            return []
        if does == "receive":
            several = type(self.server).__name__ == "CollectVectors"
            self.server.receive(given if several else given[0])
            return []
        drawing = [self.entropy["server"]] if isinstance(self.server, CollectKeys) else []
        closed = getattr(self.server, does)(*drawing)
        if isinstance(closed, Sum):
            self.sum = closed
            return []
        out, self.server = closed
        return [out[client] for client in sorted(out)]


def messages_of(script: dict[str, Any]) -> dict[str, bytes]:
    """Those that the file holds whole."""
    found: dict[str, bytes] = {}
    for entry in script["messages"]:
        if "bytes" in entry:
            found[entry["name"]] = bytes.fromhex(entry["bytes"])
        elif entry.get("same_as") in found:
            found[entry["name"]] = found[entry["same_as"]]
    return found


def sent_as_written(entry: dict[str, Any], known: dict[str, bytes], data: bytes) -> None:
    """What a party sent is what the file says that it sends."""
    if entry["from"] == entry["to"]:  # a record; its bytes are ours alone
        known[entry["name"]] = data
    elif entry["name"] in known:
        assert data == known[entry["name"]]
    else:
        assert len(data) == entry["size"]
        assert hashlib.sha256(data).hexdigest() == entry["sha256"]
        known[entry["name"]] = data


@VECTORS
def test_a_vector_played_again_gives_the_same_bytes_errors_and_sum(file: Path) -> None:
    play(file)


def play(file: Path) -> None:
    script = load(file)
    player, known = Player(script), messages_of(script)
    entries = {entry["name"]: entry for entry in script["messages"]}
    for step in script["steps"]:
        given = [known[name] for name in step.get("receives", [])]
        party, does, how = step["party"], step["does"], step

        def perform(
            party: str = party, does: str = does, given: Any = given, how: Any = how
        ) -> list[bytes]:
            if party == "server":
                return player.serve(does, given, how)
            return player.client(int(party.removeprefix("client ")), does, given, how)

        if "error" in step:
            with pytest.raises(errors.ProtocolError) as caught:
                perform()
            assert layer(caught.value) == step["error"]
            # An argument of our own is wrong before a round, and no message makes it so.
            assert caught.type is not errors.InputError or does in ("join", "begin")
            continue
        names = step.get("sends", [])
        for name, data in zip(names, perform(), strict=True):
            assert entries[name]["from"] == party
            sent_as_written(entries[name], known, data)
    expected = script["sum"]
    if expected is None:
        assert player.sum is None
        return
    assert player.sum is not None
    words = player.sum.words
    assert list(player.sum.survivors) == expected["survivors"]
    if "words" in expected:
        assert [f"{int(word):016x}" for word in words] == expected["words"]
    else:
        assert hashlib.sha256(words.astype("<u8").tobytes()).hexdigest() == expected["sha256"]
    plain = np.zeros(player.params.words, np.uint64)
    for client in expected["survivors"]:
        plain += player.inputs[client]
    assert np.array_equal(words, plain)


@VECTORS
def test_the_derived_values_of_a_file_are_those_of_the_code(file: Path) -> None:
    script = load(file)
    player, known = Player(script), messages_of(script)
    assert script["agreement"] == player.agreement.to_bytes().hex()
    rosters = [data for name, data in known.items() if name.startswith("roster ")]
    if not rosters:
        assert script["plan"] is script["context"] is None
        return
    head = 2 + 16 + 4 + 8
    size = int.from_bytes(rosters[0][head : head + 4], "big")
    digest = rosters[0][head + 4 : head + 36]
    plan = player.params.plan(size)
    assert script["plan"] == {"degree": plan.degree, "threshold": plan.threshold}
    assert script["context"] == player.agreement.context(digest).digest.hex()


@VECTORS
def test_nothing_of_a_client_arrives_after_it_dropped_out(file: Path) -> None:
    script = load(file)
    kinds = ["Advertise", "SealedShares", "MaskedFrame", "SignedSurvivors", "Reveal"]
    prefixes = ["advertise", "shares", "frame", "signed", "reveal"]
    taken = {
        name
        for step in script["steps"]
        if step["party"] == "server" and "error" not in step
        for name in step.get("receives", [])
    }
    for client, when in script["drops"].items():
        gone = prefixes[kinds.index(when.removeprefix("before ")) :]
        sent = [e["name"] for e in script["messages"] if e["from"] == f"client {client}"]
        assert not [name for name in sent if name in taken and name.split()[0] in gone]


@VECTORS
def test_every_file_says_that_its_secrets_are_for_tests(file: Path) -> None:
    script = load(file)
    assert "test secret" in script["about"]
    assert "use none of them for anything else" in script["about"]


@VECTORS
def test_the_entropy_of_a_file_is_the_counting_one(file: Path) -> None:
    script = load(file)
    sources = script["entropy"] | {
        f"identity {client}": key["secret"] for client, key in script["identities"].items()
    }
    if script["rule"] in ("R8", "R9"):  # where identities are one, or randomness repeats itself
        return
    for party, data in sources.items():
        blocks = -(-len(data) // 64)
        stream = "".join(
            hashlib.sha256(f"secagg vector {party} {block}".encode()).hexdigest()
            for block in range(blocks)
        )
        assert stream.startswith(data)


def test_a_file_called_refuses_expects_an_error_and_no_other_does() -> None:
    for file in FILES:
        assert (load(file)["error"] is not None) is file.stem.startswith("refuses_")


def test_a_vector_fails_at_the_layer_of_its_rule_and_every_rule_has_one() -> None:
    rules = {
        *re.findall(r"^\| (R\d+) \| ", PAGE.read_text(), flags=re.MULTILINE),
    }
    layers = dict(re.findall(r"^\| (R\d+) \| (\w+) \|", PAGE.read_text(), flags=re.MULTILINE))
    seen = set()
    for file in FILES:
        script = load(file)
        if script["error"]:
            assert script["error"] == layers[script["rule"]]
            seen.add(script["rule"])
    assert layers.keys() == rules
    assert rules - seen == PICKS


def test_the_files_are_those_that_make_writes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, HERE / "make.py", tmp_path], check=True)
    made = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    kept = (file for file in HERE.iterdir() if file.suffix in {".json", ".csv"})
    assert made == {file.name: file.read_bytes() for file in kept}


def test_the_files_stay_small() -> None:
    masks = (file for file in HERE.glob("*.json") if not file.name.startswith("ckks_"))
    assert sum(file.stat().st_size for file in masks) < 2_000_000
