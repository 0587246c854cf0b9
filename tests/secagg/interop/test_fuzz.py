"""The fuzzer finds no difference where there is none, and a removed check where one is."""

import importlib.util
import json
import shlex
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

import protocols.bonawitz.client
import protocols.bonawitz.params
import protocols.bonawitz.server
import protocols.collect
import protocols.wire
import secagg.interop.peer
from protocols.bonawitz import (
    Agreement,
    AwaitRoster,
    AwaitSurvivors,
    CollectVectors,
    Params,
    Rates,
)
from protocols.errors import RemoteProtocolError
from protocols.primitives.agree import refuse_low_order
from protocols.testing import insecure_plan
from protocols.wire import CHECKSUM_SIZE
from secagg.errors import PeerError
from secagg.interop import Report, fuzz
from secagg.interop.mutants import LOW_ORDER
from secagg.interop.peer import ROLES, Answer, Answers, Peer, Refusal, Request
from secagg.interop.play import SETTINGS, Dice, Pair, Setting, cast, play
from secagg.stage import Stage

Run = Callable[..., tuple[int, str, str]]
PLACES = {setting.name: place for place, setting in enumerate(SETTINGS)}
PEER = [sys.executable, "-c", "from secagg.cli.main import main; main()", "interop", "peer"]
SECOND = Path(__file__).parents[2] / "vectors" / "test_second_implementation.py"


class Weak:
    """Our peer, with something else in the place of a check while it answers."""

    def __init__(self, where: Any, name: str, instead: Any) -> None:
        self._peer, self._patch = Peer(), (where, name, instead)

    def answer(self, request: Request) -> Answer:
        with patch.object(*self._patch):
            return self._peer.answer(request)


@pytest.fixture
def picks_of_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eleven clients that pick four holders, in the place of every setting."""
    monkeypatch.setattr(protocols.bonawitz.params, "plan_graph", insecure_plan(4, 2))
    rates = {"corrupt": "1/11", "dropout": "1/11"}
    agreed = {"clients": 11, "rates": rates, "active": True}
    few = Setting(name="picks of few", come=11, agreed=agreed)
    monkeypatch.setattr("secagg.interop.fuzzer.SETTINGS", (few,))


def compared(theirs: Answers, seed: int) -> Report:
    return fuzz(theirs, roles=ROLES, seed=seed, rounds=1)


def nothing_differs(report: Report) -> bool:
    assert min(report.accepted, report.refused) > 5
    assert list(report.settings.values()) == [report.comparisons]
    return (report.differences, report.first, report.ended) == (0, None, None)


@pytest.mark.parametrize("name", PLACES)
def test_we_do_not_differ_from_ourselves(name: str) -> None:
    if name != "picks":  # the next test has them, of fewer
        assert nothing_differs(compared(Peer(), PLACES[name]))


@pytest.mark.usefixtures("picks_of_few")
def test_we_do_not_differ_from_ourselves_in_picks() -> None:
    assert nothing_differs(compared(Peer(), 0))


@pytest.mark.slow
def test_we_do_not_differ_from_ourselves_in_picks_that_are_safe() -> None:
    assert nothing_differs(compared(Peer(), PLACES["picks"]))


def test_a_round_is_a_function_of_its_seed() -> None:
    reports = [compared(Peer(), seed) for seed in (0, 0, len(SETTINGS))]
    one, same, other = (replace(report, seconds=0) for report in reports)
    assert one == same
    assert (one.accepted, one.refused) != (other.accepted, other.refused)


def nothing(*_: Any, **__: Any) -> None:
    """In the place of a check: whatever it is asked, it agrees."""


def unchecked(data: bytes) -> memoryview:
    """``without_checksum`` that reads none."""
    return memoryview(data)[:-CHECKSUM_SIZE]


def unordered(reader: Any, *sizes: int) -> Any:
    """``Reader.rows`` that takes entries in any order."""
    return [(reader.u32(), *map(reader.take, sizes)) for _ in range(reader.u32())]


@pytest.mark.parametrize(
    ("setting", "where", "check", "instead"),
    [
        ("complete", protocols.wire, "without_checksum", unchecked),
        ("complete", protocols.wire.Reader, "finish", nothing),
        ("complete", protocols.wire.Reader, "rows", unordered),
        ("complete", protocols.bonawitz.client, "refuse_low_order", nothing),
        ("complete", protocols.bonawitz.server, "refuse_low_order", nothing),
        ("complete", protocols.collect.Collect, "_admit", nothing),
        ("complete, ChaCha20", Params, "needed", lambda *_: 2),
        ("sparse", AwaitRoster, "_check_roster", nothing),
        ("active", protocols.bonawitz.client, "check_keys", nothing),
        ("active", protocols.bonawitz.server, "check_keys", nothing),
        ("active", protocols.bonawitz.client, "verify", nothing),
    ],
)
def test_a_removed_check_is_found_and_its_seed_finds_it_again(
    setting: str, where: Any, check: str, instead: Any
) -> None:
    report = compared(Weak(where, check, instead), PLACES[setting])
    assert report.differences > 0
    assert report.first is not None
    again = compared(Weak(where, check, instead), report.first.seed)
    assert again.first == report.first


@pytest.mark.usefixtures("picks_of_few")
@pytest.mark.parametrize(
    ("where", "check"),
    [(AwaitSurvivors, "_check_marks"), (CollectVectors, "_drop_conflicts")],
)
def test_a_removed_check_of_picks_is_found(where: Any, check: str) -> None:
    assert compared(Weak(where, check, nothing), 0).differences > 0


def test_one_other_byte_is_found_in_the_first_message() -> None:
    other = Weak(Agreement, "advertised_by", lambda _: lambda client: b"another label")
    report = compared(other, PLACES["active"])
    first = report.first
    assert first is not None
    assert (first.requests[-1]["op"], report.differences) == ("client", 1)  # the round ends there
    assert isinstance(first.theirs, dict)
    assert len(first.ours["ok"]) == len(first.theirs["ok"])


def test_another_layer_is_a_difference_and_is_counted_apart() -> None:
    report = compared(Weak(secagg.interop.peer, "_kind", lambda _: Refusal.RULE), 0)
    assert report.layers == report.differences > 0
    assert report.first is not None
    assert isinstance(report.first.theirs, dict)
    assert (report.first.ours["error"], report.first.theirs["error"]) == ("decode", "rule")
    weak = compared(Weak(protocols.wire, "without_checksum", unchecked), 0)
    assert 0 < weak.layers < weak.differences
    assert weak.first is not None
    assert isinstance(weak.first.theirs, dict)
    assert "ok" in weak.first.theirs  # it is shown before any that both refused


class Ends:
    """A peer that ends at its hundredth request."""

    def __init__(self) -> None:
        self._peer, self._left = Peer(), 100

    def answer(self, request: Request) -> Answer:
        self._left -= 1
        if self._left < 0:
            raise PeerError("it ended with signal 11")
        return self._peer.answer(request)


def test_a_peer_that_ends_is_a_difference_and_the_last_request() -> None:
    report = fuzz(Ends(), roles=ROLES, seed=0, rounds=3)
    assert (report.rounds, report.differences) == (1, 1)
    assert report.ended == "it ended with signal 11"
    assert report.first is not None
    assert report.first.theirs == report.ended


@pytest.mark.parametrize("role", ROLES)
def test_a_peer_of_one_role_is_asked_for_nothing_else(role: str) -> None:
    ops: set[str] = set()

    class Noted(Peer):
        def answer(self, request: Request) -> Answer:
            ops.add(request["op"])
            return super().answer(request)

    assert not fuzz(Noted(), roles=[role], seed=0, rounds=1).differences
    both = {"agreement", "drop"}
    assert ops - both == (
        {"client", "message"} if role == "client" else {"server", "receive", "close", "result"}
    )


@pytest.mark.parametrize("point", LOW_ORDER)
def test_keys_of_low_order_are(point: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        refuse_low_order(point)


# The command


def test_the_command_says_that_nothing_differs(secagg: Run) -> None:
    code, out, err = secagg("interop", "fuzz", "--peer", shlex.join(PEER), "--rounds", 1)
    assert (code, err) == (0, "")
    assert "complete" in out
    assert "0 different" in out
    code, out, _ = secagg("interop", "fuzz", "--peer", shlex.join(PEER), "--rounds", 1, "--json")
    report = json.loads(out)
    assert (code, report["schema"], report["differences"]) == (0, "secagg interop 1", 0)
    assert report["comparisons"] == report["accepted"] + report["refused"]


WEAK = """
import sys, protocols.bonawitz.server as server
server.refuse_low_order = lambda key: None
from secagg.interop import serve
serve(sys.stdin.buffer, sys.stdout.buffer)
"""


def test_the_command_shows_the_first_difference_and_how_to_repeat_it(secagg: Run) -> None:
    command = shlex.join([sys.executable, "-c", WEAK])
    code, out, _ = secagg("interop", "fuzz", "--peer", command, "--rounds", 1)
    assert code == 1
    shown = " ".join(out.split())
    assert "server, advertise: Advertise, keys:" in shown
    assert '"error": "rule"' in shown
    assert "--seed 0 --rounds 1" in shown
    code, out, _ = secagg("interop", "fuzz", "--peer", command, "--rounds", 1, "--json")
    first = json.loads(out)["first"]
    assert (code, first["seed"], first["setting"]) == (1, 0, "complete")
    peer, answer = Peer(), {}
    for request in first["requests"]:
        answer = peer.answer(request)
    assert answer == first["ours"]


@pytest.mark.parametrize("command", ["/nowhere/at/all", "cat", "true", "'"])
def test_a_program_that_is_no_peer_is_bad_input(secagg: Run, command: str) -> None:
    code, out, err = secagg("interop", "fuzz", "--peer", command)
    assert (code, out, len(err.splitlines())) == (2, "", 1)


# The second implementation, which is of the page alone


def second_implementation() -> Any:
    spec = importlib.util.spec_from_file_location("second_implementation", SECOND)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Second:
    """The clients of ``tests/vectors`` as a peer: it plays rounds, and refuses nothing.

    Args:
      come: how many clients advertise; its clients are told the plan.
    """

    def __init__(self, come: int) -> None:
        self._module, self._come = second_implementation(), come
        self._clients: dict[str, tuple[Any, list[Any]]] = {}

    def answer(self, request: Request) -> Answer:
        match request["op"]:
            case "agreement":
                return {"ok": self._module.Common(self._script(request)).agreement.hex()}
            case "client":
                client = self._module.Client(self._script(request), request["client"])
                words = self._module.words_of(bytes.fromhex(request["words"]))
                self._clients[request["id"]] = client, self._steps(client, words)
                return {"ok": client.join().hex()}
            case "message":
                step = self._clients[request["id"]][1].pop(0)
                sent = step(bytes.fromhex(request["message"]))
                sent = [sent] if isinstance(sent, bytes) else sent
                return {"ok": [message.hex() for message in sent]}
        return {"ok": None}

    def _steps(self, client: Any, words: list[int]) -> list[Any]:
        opened = [client.on_roster, lambda message: client.on_boxes(message, words)]
        if client.active:
            return [*opened, client.sign_survivors, client.on_signatures]
        return [*opened, client.on_survivors]

    def _script(self, request: Request) -> Mapping[str, Any]:
        agreed = request["agreement"]
        params = dict.fromkeys(("rates", "threshold", "corrupt")) | agreed
        rates = agreed.get("rates")
        plan = Params(
            clients=agreed["clients"],
            threshold=agreed.get("threshold"),
            rates=rates and Rates(corrupt_fraction=rates["corrupt"], dropout=rates["dropout"]),
            words=agreed["words"],
            active=agreed["active"],
            max_corrupt=agreed.get("corrupt"),
        ).plan(self._come)
        identities = {
            client: {"public": public, "secret": request.get("identity")}
            for client, public in (request.get("identities") or {}).items()
        }
        return {
            **{name: agreed[name] for name in ("session", "round", "public")},
            "params": params,
            "plan": {"threshold": plan.threshold, "degree": plan.degree},
            "identities": identities,
            "entropy": {f"client {request.get('client')}": request.get("entropy")},
        }


@pytest.mark.parametrize("name", [name for name in PLACES if name != "picks"])
def test_the_second_implementation_plays_rounds_byte_for_byte(name: str) -> None:
    setting = SETTINGS[PLACES[name]]
    dice = Dice("second", name)
    pair = Pair(Peer(), Second(setting.come), ["client"])
    script, _ = cast(setting, dice)
    pair.asked("the agreement", {"op": "agreement", "agreement": script.agreement})
    lost = {max(script.clients): Stage.MASK} if setting.come > 2 else {}
    found = play(pair, script, lost, dice)
    assert found is not None
    assert found["survivors"] == sorted(script.clients.keys() - lost.keys())
    assert pair.accepted > 3 * len(found["survivors"])
