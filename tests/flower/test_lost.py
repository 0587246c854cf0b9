"""Hospitals that die in the middle of a sum; noise and its books; signatures. In processes.

A node that was killed is asked again until Flower misses its heartbeat, a minute later, so every
stage waits out its deadline for it.
"""

from pathlib import Path

import pytest

import homes
from oracle import APP, EVERYBODY, assert_accurate, assert_averaged, read
from processes import Cluster

pytestmark = pytest.mark.slow

DEADLINE = 600  # seconds for a run
WAIT = 30  # seconds for a stage; one takes 3 to 8
SENT = "Sent successfully"  # in a SuperNode's log, after every answer
FIRST_ROUND = 7  # answers of a node: four for its training, three for its evaluation


def test_the_sum_of_three_is_exact_where_the_fourth_dies_after_it_shared(tmp_path: Path) -> None:
    report, node_config = tmp_path / "report.json", homes.config(homes.make(tmp_path))
    with Cluster(tmp_path, nodes=4, node_config=node_config) as cluster:
        settings = {"minimum_hospitals": 3, "timeout": WAIT, "deadline": WAIT}
        cluster.submit(APP, rounds=2, report=str(report), **settings)
        cluster.wait_for("supernode-1", SENT, times=2, deadline=DEADLINE)  # its keys, its shares
        cluster.kill(1)
        cluster.finish(deadline=DEADLINE)
    said = read(report)
    assert said["sums"][0].startswith("train sum: 3 of 4 nodes are in it")
    assert "share 4/4" in said["sums"][0]
    assert "mask 3/4" in said["sums"][0]
    assert all("sum: 3 of " in line for line in said["sums"])
    assert_averaged(said, [(0, 2, 3)] * 2)
    assert_accurate(said, (0, 2, 3))


def test_nothing_is_opened_of_two_and_the_model_stays_as_it_was(tmp_path: Path) -> None:
    report, node_config = tmp_path / "report.json", homes.config(homes.make(tmp_path))
    with Cluster(tmp_path, nodes=4, node_config=node_config) as cluster:
        # A node that is lost stays on Flower's list for 30 to 60 s: that evaluation is still tried.
        settings = {"minimum_hospitals": 3, "timeout": 20, "deadline": WAIT}
        cluster.submit(APP, rounds=2, report=str(report), **settings)
        for node in (1, 2):
            cluster.wait_for(f"supernode-{node}", SENT, times=FIRST_ROUND + 1, deadline=DEADLINE)
        for node in (1, 2):
            cluster.kill(node)
        log = cluster.finish(deadline=DEADLINE)
    said = read(report)
    assert ["none" in line for line in said["sums"]] == [False, False, True, True]
    assert "mask 2/4" in said["sums"][2]
    assert "secagg: no sum" in log
    assert_averaged(said, [EVERYBODY])
    assert list(said["evaluate"]) == ["1"]


def test_noise_is_charged_in_the_servers_ledger_and_in_each_hospitals_own(tmp_path: Path) -> None:
    report, ledger, rounds = tmp_path / "report.json", tmp_path / "ledger.sqlite", 2
    folders = homes.make(tmp_path, noise=True)
    with Cluster(tmp_path, nodes=4, node_config=homes.config(folders)) as cluster:
        settings = {"epsilon": 4.0, "ledger": str(ledger)}
        cluster.run(APP, deadline=DEADLINE, rounds=rounds, report=str(report), **settings)
    said = read(report)
    assert [line.partition(" (")[0] for line in said["sums"]] == [
        "train sum: 4 of 4 nodes are in it"
    ] * rounds
    assert not said["evaluate"]
    code, audited = homes.secagg("audit", ledger)
    assert (code, audited["verdict"]) == (0, "sound")
    charged = [(each["reserved"], each["committed"]) for each in audited["sections"][0]["rounds"]]
    assert charged == [(4, 4)] * rounds
    assert audited["sections"][0]["epsilon"] <= 4.0
    for home in folders:
        code, shown = homes.secagg("node", "show", home)
        assert (code, shown["sums"]) == (0, rounds)
        assert 0 < shown["spent"] < 1
        code, _ = homes.secagg("audit", home / "ledger.sqlite")
        assert code == 0


def test_hospitals_that_sign_sum_by_the_operators_roster(tmp_path: Path) -> None:
    report, (folders, settings) = tmp_path / "report.json", homes.make_signing(tmp_path)
    with Cluster(tmp_path, nodes=4, node_config=homes.config(folders)) as cluster:
        cluster.run(APP, deadline=DEADLINE, rounds=1, report=str(report), **settings)
    said = read(report)
    assert all("4 of 4 nodes are in it" in line and "sign 4/4" in line for line in said["sums"])
    assert_averaged(said, [EVERYBODY])
    assert_accurate(said)
