import socket
from pathlib import Path

import pytest

import processes
from oracle import APP, accuracies, assert_averaged, read
from processes import HOST, Cluster

DEADLINE = 300  # seconds; a message takes 2 to 8


def test_four_hospitals_average_over_tls(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with Cluster(tmp_path, nodes=4) as cluster:
        cluster.run(APP, deadline=DEADLINE, rounds=1, report=str(report))
    assert_averaged(read(report), rounds=1)


def test_nothing_is_left_of_a_cluster_that_is_closed_in_mid_round(tmp_path: Path) -> None:
    with Cluster(tmp_path, nodes=2) as cluster:
        cluster.submit(APP)
        cluster.wait_for("supernode-0", "Start `flwr-clientapp` process", deadline=DEADLINE)
        # SuperLink, two SuperNodes, a SuperExec of each; flwr run, its ServerApp, a ClientApp
        assert len(cluster.alive()) >= 9
    assert not cluster.alive()
    for port in cluster.ports:
        with socket.socket() as free:
            free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            free.bind((HOST, port))


def test_a_hospital_whose_key_nobody_registered_is_not_let_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "REGISTER", "")
    with (
        pytest.raises(RuntimeError, match="supernode-0 ended") as caught,
        Cluster(tmp_path, nodes=1),
    ):
        pass
    assert "No SuperNode found with the given public key" in caught.value.__notes__[0]


@pytest.mark.slow
def test_four_hospitals_average_at_flowers_own_pace(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with Cluster(tmp_path, nodes=4, poll=None) as cluster:
        cluster.run(APP, deadline=DEADLINE, rounds=3, report=str(report))
    assert_averaged(read(report), rounds=3)


@pytest.mark.slow
def test_a_hospital_killed_in_mid_round_does_not_stop_the_others(tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    with Cluster(tmp_path, nodes=4) as cluster:
        cluster.submit(APP, rounds=3, timeout=30, report=str(report))
        cluster.wait_for("supernode-1", "Receiving: train", times=2, deadline=DEADLINE)
        cluster.kill(1)
        log = cluster.finish(deadline=DEADLINE)
    assert "aggregate_train: Received 4 results and 0 failures" in log
    assert log.count("aggregate_train: Received 3 results") == 2
    assert accuracies(read(report))[-1] > 0.7
