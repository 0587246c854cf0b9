"""The app's rounds in one process: what the server is told when too few hospitals are left."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Context, Error, Message, RecordDict

import homes
from hospitals import client_app, server_app
from oracle import EVERYBODY, LEARNING_RATE, STEPS, assert_accurate, assert_averaged, read
from secagg.adapters.testing import LocalGrid

CONFIG: dict[str, Any] = {"rounds": 1, "steps": STEPS, "learning-rate": LEARNING_RATE}
CONFIG |= {"minimum-hospitals": 4, "timeout": 0.5, "deadline": 0.5, "epsilon": 0.0, "roster": ""}
FIRST = 100  # the hospitals' node ids go on from here


class Hospitals(LocalGrid):
    """A grid of the four, whose nodes are told the run's configuration."""

    def __init__(self, folders: list[Path]) -> None:
        configs = homes.config(folders)
        nodes = {
            FIRST + number: {"partition-id": number, **configs[number]} for number in EVERYBODY
        }
        super().__init__(dict.fromkeys(nodes, client_app.app), configs=nodes)

    def context(self, node: int) -> Context:
        kept = super().context(node)
        return Context(kept.run_id, node, self.configs[node], kept.state, CONFIG)


def run(grid: Hospitals, report: Path, **config: Any) -> dict[str, Any]:
    said = CONFIG | {"report": str(report)} | config
    server_app.main(grid, Context(1, 1, {}, RecordDict(), said))
    return read(report)


def test_without_three_hospitals_the_run_ends_and_says_why(tmp_path: Path) -> None:
    grid = Hospitals(homes.make(tmp_path))
    grid.lost = lambda node, stage: stage == "mask" and node < FIRST + 2
    with pytest.raises(RuntimeError, match="no round has succeeded"):
        run(grid, tmp_path / "report.json")
    assert not (tmp_path / "report.json").exists()


def test_each_hospital_moves_the_mean_by_more_than_rounding_does(tmp_path: Path) -> None:
    grid = Hospitals(homes.make(tmp_path))
    said = run(grid, tmp_path / "report.json")
    assert_averaged(said, [EVERYBODY])
    assert_accurate(said)
    for left_out in EVERYBODY:
        others = [number for number in EVERYBODY if number != left_out]
        with pytest.raises(AssertionError):
            assert_averaged(said, [others])


def test_hospitals_that_sign_refuse_a_server_without_their_roster(tmp_path: Path) -> None:
    folders, settings = homes.make_signing(tmp_path)
    assert_averaged(run(Hospitals(folders), tmp_path / "report.json", **settings), [EVERYBODY])
    grid = Hospitals(folders)
    with pytest.raises(RuntimeError, match="no round has succeeded"):
        run(grid, tmp_path / "second.json")
    refusals = [reply.error.reason for reply in grid.seen if reply.has_error()]
    assert len(refusals) == 2 * len(EVERYBODY)  # to train and to evaluate
    assert all("refuses (active)" in reason for reason in refusals)


@pytest.mark.parametrize("made", ["error of the engine", "answer of a node nobody asked"])
def test_what_comes_from_another_node_counts_as_no_answer(
    made: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, pull = Hospitals(homes.make(tmp_path)), LocalGrid.pull_messages

    def spoilt(self: LocalGrid, names: Iterable[str]) -> list[Message]:
        return [spoil(reply) for reply in pull(self, names)]

    def spoil(reply: Message) -> Message:
        if reply.metadata.src_node_id != FIRST + 1:
            return reply
        if made == "error of the engine":  # codes 3 and 5 come with the SuperLink's own id
            error = Error(code=3, reason="Node Unavailable")
            asked = reply.metadata.reply_to_message_id
            reply = Message(error, reply_to=reply)
            reply.metadata.__dict__["_reply_to_message_id"] = asked
        reply.metadata.__dict__["_src_node_id"] = 1
        return reply

    monkeypatch.setattr(Hospitals, "pull_messages", spoilt)
    said = run(grid, tmp_path / "report.json")
    assert said["sums"][0].startswith("train sum: 3 of 4 nodes are in it")
    assert_averaged(said, [(0, 2, 3)])
