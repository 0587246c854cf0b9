"""A peer answers whatever it is asked: with the bytes of the protocol, or with a layer."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from secagg.interop.peer import MAX_LINE, MAX_PARTIES, Peer, Refusal, serve

VECTOR = Path(__file__).parents[2] / "vectors" / "complete_curious_aes.json"
AGREED = {
    "session": "00" * 16,
    "round": 1,
    "clients": 2,
    "threshold": 2,
    "minimum_survivors": 2,
    "words": 1,
    "suite": 1,
    "active": False,
    "public": "00" * 32,
}
COMMAND = (sys.executable, "-c", "from secagg.cli.main import main; main()", "interop", "peer")


def client(number: int, word: int, **changed: Any) -> dict[str, Any]:
    entropy = bytes((number + place * place) % 256 for place in range(96)).hex()
    words = word.to_bytes(8, "little").hex()
    made = {"op": "client", "id": str(number), "agreement": AGREED, "client": number}
    return {**made, "entropy": entropy, "words": words, **changed}


SERVER = {"op": "server", "id": "s", "agreement": AGREED, "entropy": ""}


@pytest.fixture
def ask() -> Callable[..., Any]:
    """What a fresh peer says: the value, or the layer of a refusal."""
    peer = Peer()

    def asked(request: Any, **more: Any) -> Any:
        answer = peer.answer({**request, **more} if more else request)
        return answer["ok"] if "ok" in answer else Refusal(answer["error"])

    return asked


def test_a_round_by_hand_ends_in_the_sum(ask: Callable[..., Any]) -> None:
    ask(SERVER)
    for number, word in ((7, 1), (9, 2)):
        message = ask(client(number, word))
        assert ask({"op": "receive", "id": "s", "messages": [message]}) == number
    for _ in range(3):
        for number, message in ask({"op": "close", "id": "s"}).items():
            sent = ask({"op": "message", "id": number, "message": message})
            assert ask({"op": "receive", "id": "s", "messages": sent}) == int(number)
    assert ask({"op": "close", "id": "s"}) is Refusal.LOCAL  # and nothing has changed
    found = ask({"op": "result", "id": "s"})
    assert found == {"survivors": [7, 9], "words": "0300000000000000"}
    assert ask({"op": "result", "id": "s"}) is Refusal.LOCAL
    assert ask({"op": "message", "id": "7", "message": ""}) is Refusal.LOCAL


def test_the_bytes_are_those_of_the_test_vectors(ask: Callable[..., Any]) -> None:
    script = json.loads(VECTOR.read_text())
    common = {name: script[name] for name in ("session", "round", "public")}
    agreement = {**script["params"], **common}
    assert ask({"op": "agreement", "agreement": agreement}) == script["agreement"]
    sent: dict[str, str] = {}
    for entry in script["messages"]:
        sent[entry["name"]] = entry.get("bytes") or sent[entry["same_as"]]
    number = next(number for number in script["inputs"] if number not in script["drops"])
    request = client(int(number), 0, id="c", agreement=agreement)
    request |= {"entropy": script["entropy"][f"client {number}"]}
    request["words"] = b"".join(
        int(word, 16).to_bytes(8, "little") for word in script["inputs"][number]["words"]
    ).hex()
    assert ask(request) == sent[f"advertise {number}"]
    steps = [step for step in script["steps"] if step["party"] == f"client {number}"]
    for step in steps[1:]:
        messages = ask({"op": "message", "id": "c", "message": sent[step["receives"][0]]})
        assert messages == [sent[name] for name in step["sends"]]
    assert len(steps) == 4


def test_a_refusal_names_the_layer_that_found_it(ask: Callable[..., Any]) -> None:
    message = ask(client(7, 1))
    for _ in range(2):
        ask(SERVER)
    receive = {"op": "receive", "id": "s", "messages": [message]}
    assert ask(receive, messages=["00"]) is Refusal.DECODE
    assert ask(receive) == 7
    assert ask(receive) is Refusal.RULE
    assert ask({"op": "result", "id": "s"}) is Refusal.LOCAL
    assert ask({"op": "close", "id": "s"}) is Refusal.TOO_FEW
    assert ask({"op": "close", "id": "s"}) is Refusal.LOCAL
    assert ask(receive) is Refusal.LOCAL
    assert ask(receive, messages=[message] * 2) is Refusal.LOCAL
    assert ask(client(8, 1, agreement={**AGREED, "clients": 1})) is Refusal.LOCAL
    assert ask(client(8, 1, agreement={**AGREED, "threshold": 3})) is Refusal.LOCAL
    assert ask(client(8, 1, identity="11" * 32)) is Refusal.LOCAL
    assert ask(client(8, 1, entropy="11" * 96)) is Refusal.LOCAL  # it repeats itself


def test_who_has_refused_is_out_of_the_round(ask: Callable[..., Any]) -> None:
    ask(SERVER)
    for number in (7, 9):
        ask({"op": "receive", "id": "s", "messages": [ask(client(number, 1))]})
    rosters = ask({"op": "close", "id": "s"})
    assert ask({"op": "message", "id": "7", "message": rosters["7"][:-2]}) is Refusal.DECODE
    assert ask({"op": "message", "id": "7", "message": rosters["7"]}) is Refusal.LOCAL


@pytest.mark.parametrize(
    "request_",
    [
        None,
        "hello",
        [],
        {},
        {"op": 1},
        {"op": "eval"},
        {"op": "hello", "id": "x"},
        {"op": "drop", "id": "nobody"},
        {"op": "message", "id": "nobody", "message": ""},
        {"op": "message", "id": "s", "message": ""},
        {"op": "close", "id": "7"},
        {"op": "receive", "id": "s", "messages": ""},
        {"op": "receive", "id": "s", "messages": [1]},
        {"op": "receive", "id": "s", "messages": []},
        {"op": "receive", "id": "s", "messages": ["0 0"]},
        {"op": "receive", "id": "s", "messages": ["0"]},
        {**SERVER, "id": "t", "entropy": None},
        {**SERVER, "id": "t", "agreement": []},
        SERVER,  # again
        client(8, 1, client=-1),
        client(8, 1, client=True),
        client(8, 1, client=1.0),
        client(8, 1, client="8"),
        client(8, 1, entropy="00"),
        client(8, 1, words="00"),
        client(8, 1, identities={"08": "11" * 32}),
        client(8, 1, identities={str(2**32): "11" * 32}),
        client(8, 1, identities={"8": "11"}),
        client(8, 1, agreement={**AGREED, "words": 2**30}),
        client(8, 1, agreement={**AGREED, "clients": 2**30}),
        client(8, 1, agreement={**AGREED, "suite": 3}),
        client(8, 1, agreement={**AGREED, "active": 0}),
        client(8, 1, agreement={**AGREED, "threshhold": 2}),
        client(8, 1, agreement={**AGREED, "rates": {"corrupt": 0.1, "dropout": "0"}}),
    ],
)
def test_what_is_no_request_is_answered_as_one(ask: Callable[..., Any], request_: Any) -> None:
    ask(client(7, 1))
    ask(SERVER)
    assert ask(request_) is Refusal.REQUEST
    assert ask({"op": "receive", "id": "s", "messages": [""]}) is Refusal.DECODE


def test_a_sparse_graph_needs_its_entropy(ask: Callable[..., Any]) -> None:
    rates = {"corrupt": "0", "dropout": "1/10"}
    agreed = {**AGREED, "clients": 5, "threshold": None, "rates": rates}
    ask(SERVER, agreement=agreed, entropy="00" * 79)
    for number in range(5):
        message = ask(client(number, 1, agreement=agreed))
        ask({"op": "receive", "id": "s", "messages": [message]})
    assert ask({"op": "close", "id": "s"}) is Refusal.REQUEST


def test_parties_are_dropped_and_only_so_many_are_held(ask: Callable[..., Any]) -> None:
    for number in range(MAX_PARTIES):
        ask(SERVER, id=str(number))
    assert ask(SERVER) is Refusal.REQUEST
    assert ask({"op": "drop", "id": "0"}) is None
    assert ask(SERVER) is None


TEXT = some.text("0aé ", max_size=4)
JSON = some.one_of(
    *(some.none(), some.booleans(), some.integers(), some.floats(), TEXT),
    *(some.lists(TEXT, max_size=2), some.dictionaries(TEXT, some.integers(), max_size=2)),
)


@given(
    some.dictionaries(some.sampled_from(["id", "client", "words", "agreement", "entropy"]), JSON),
    some.sampled_from(["hello", "agreement", "client", "server", "message", "close", "result"]),
)
def test_anything_gets_an_answer(fields: dict[str, Any], op: str) -> None:
    answer = Peer().answer_line(json.dumps({**client(7, 1), **fields, "op": op}).encode())
    assert answer.keys() in ({"ok"}, {"error", "message"})


@given(some.binary())
def test_any_line_gets_an_answer(line: bytes) -> None:
    assert Peer().answer_line(line)["error"] == Refusal.REQUEST


def served(data: bytes) -> list[dict[str, Any]]:
    sink = io.BytesIO()
    serve(io.BytesIO(data), sink)
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def test_every_line_gets_one_line_and_the_next_is_read() -> None:
    hello = b'{"op": "hello"}'
    huge = b"[" * (3 * MAX_LINE)
    lines = [b"", b"\xff", b"[" * 10**5, huge, b"1" * 5000, hello]
    answers = served(b"\n".join(lines))
    assert [answer.get("error") for answer in answers] == [Refusal.REQUEST] * 5 + [None]
    assert served(hello + b"\n" + huge)[1]["error"] == Refusal.REQUEST
    assert served(b"") == []


def test_the_command_answers_at_once_and_ends_with_its_input() -> None:
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):  # the second is written when the first was answered
            process.stdin.write(b'{"op": "hello"}\n')
            process.stdin.flush()
            assert b"secagg interop 1" in process.stdout.readline()
        process.stdin.close()
        assert process.wait() == 0


def test_an_output_that_nobody_reads_ends_it_without_a_traceback() -> None:
    with subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(b'{"op": "hello"}\n')
        process.stdin.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1
