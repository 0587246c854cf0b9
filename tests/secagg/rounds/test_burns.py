import multiprocessing
from pathlib import Path

import pytest

from protocols.bonawitz import CollectKeys, Params, join, restore
from protocols.errors import RemoteProtocolError
from protocols.testing import agreement_of
from secagg.errors import RunError
from secagg.rounds.burns import BurnFile, MemoryBurn

SESSION, REQUEST, OTHER = b"session", bytes(32), bytes([1]) * 32


def test_a_place_is_taken_once_and_the_same_request_may_come_again(tmp_path: Path) -> None:
    with BurnFile(tmp_path / "burns") as burn:
        assert burn(SESSION, 1, REQUEST)
        assert burn(SESSION, 1, REQUEST)
        assert not burn(SESSION, 1, OTHER)
        assert burn(SESSION, 2, OTHER)
        assert burn(b"another session", 1, OTHER)


def test_a_place_stays_taken_when_the_file_is_opened_again(tmp_path: Path) -> None:
    with BurnFile(tmp_path / "burns") as burn:
        assert burn(SESSION, 1, REQUEST)
    with BurnFile(tmp_path / "burns") as burn:
        assert not burn(SESSION, 1, OTHER)


def _burn(path: Path, request: bytes, answers: "multiprocessing.Queue[bool]") -> None:
    with BurnFile(path) as burn:
        answers.put(burn(SESSION, 1, request))


def test_of_two_processes_with_two_requests_one_wins(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[bool] = context.Queue()
    racers = [
        context.Process(target=_burn, args=(tmp_path / "burns", bytes([n]) * 32, answers))
        for n in range(4)
    ]
    for racer in racers:
        racer.start()
    won = [answers.get(timeout=60) for _ in racers]
    for racer in racers:
        racer.join()
    assert sorted(won) == [False, False, False, True]


def test_a_folder_in_place_of_the_file_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="cannot keep burn records"):
        BurnFile(tmp_path)


def test_a_closed_file_lets_no_answer_leave(tmp_path: Path) -> None:
    burn = BurnFile(tmp_path / "burns")
    burn.close()
    with pytest.raises(RunError):
        burn(SESSION, 1, REQUEST)


def test_a_restored_client_answers_no_second_roster(tmp_path: Path) -> None:
    agreement = agreement_of(Params(clients=3, threshold=2, words=1))
    first, second = CollectKeys(agreement), CollectKeys(agreement)
    message, client = join(agreement, 0)
    for server in (first, second):
        server.receive(message)
        for peer in (1, 2):
            server.receive(join(agreement, peer)[0])
    record = client.into_record()
    with BurnFile(tmp_path / "burns") as burn:
        restore(record, burn=burn).on_roster(first.close()[0][0])
    with (
        BurnFile(tmp_path / "burns") as burn,
        pytest.raises(RemoteProtocolError, match="answered for another"),
    ):
        restore(record, burn=burn).on_roster(second.close()[0][0])


def test_in_memory_the_same_holds_until_the_process_ends() -> None:
    burn = MemoryBurn()
    assert burn(SESSION, 1, REQUEST)
    assert burn(SESSION, 1, REQUEST)
    assert not burn(SESSION, 1, OTHER)
    assert burn(SESSION, 2, OTHER)
    assert MemoryBurn()(SESSION, 1, OTHER)
