import shutil
import socket
import struct
from pathlib import Path

import numpy as np
import pytest

import homes
import processes
from hospitals import task
from oracle import APP, EVERYBODY, assert_accurate, assert_averaged, read, trained
from processes import HOST, Cluster

DEADLINE = 300  # seconds; a message takes 2 to 8


def written(folder: Path) -> bytes:
    """Every file below ``folder`` that the server has: its logs, its FLWR_HOME, its database."""
    of_nodes = ("home-supernode-", "supernode-", "node-", "hospital-", "report.json")
    return b"".join(
        path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(of_nodes)
    )


def as_float(value: float) -> bytes:
    """Float64 without its last 16 bits, which two processes that add up may differ in."""
    return struct.pack("<d", value)[2:]


def as_text(value: float) -> bytes:
    """Its first digits."""
    return repr(abs(float(value)))[:10].encode()


def own(hospital: int) -> task.Array:
    """What a hospital computes in the first round: its weights that are not 0, and their loss."""
    weights, (patients, _) = trained(np.zeros(task.FEATURES), hospital), task.load(hospital)
    return np.append(weights[weights != 0], task.loss(weights, patients))


def test_the_server_has_the_mean_over_tls_and_no_hospitals_own_weights(tmp_path: Path) -> None:
    report, folders = tmp_path / "report.json", homes.make(tmp_path)
    node_config = homes.config(folders)
    with Cluster(tmp_path, nodes=4, node_config=node_config, on_disk=True) as cluster:
        cluster.run(APP, deadline=DEADLINE, rounds=1, report=str(report))
        # Read while the SuperLink runs: its database and its journal are as they are at work.
        kept = written(tmp_path)
    said = read(report)
    assert_averaged(said, [EVERYBODY])
    assert_accurate(said)
    assert [line.partition(" (")[0] for line in said["sums"]] == [
        "train sum: 4 of 4 nodes are in it",
        "evaluate sum: 4 of 4 nodes are in it",
    ]
    for hospital in EVERYBODY:
        for value in own(hospital):
            assert as_float(value) not in kept
            assert as_text(value) not in kept
    for home in folders:
        code, shown = homes.secagg("node", "show", home)
        assert (code, shown["allow_no_noise"], shown["sums"]) == (0, True, 0)


@pytest.mark.slow
def test_a_plain_app_leaves_every_hospitals_weights_with_the_server(tmp_path: Path) -> None:
    app = tmp_path / "supernode-plain"  # of a name that is not searched
    shutil.copytree(APP, app, ignore=shutil.ignore_patterns("__pycache__"))
    for name, private, plain in (
        ("client_app.py", "ClientApp(mods=[secure_mod()])", "ClientApp()"),
        ("server_app.py", "grid=secure,", "grid=grid,"),
    ):
        code = (app / "hospitals" / name).read_text()
        assert private in code
        (app / "hospitals" / name).write_text(code.replace(private, plain))
    with Cluster(tmp_path, nodes=4, on_disk=True) as cluster:
        cluster.run(app, deadline=DEADLINE, rounds=1)
        kept = written(tmp_path)
    for hospital in EVERYBODY:
        assert all(as_float(value) in kept for value in own(hospital))


def test_nothing_is_left_of_a_cluster_that_is_closed_in_mid_round(tmp_path: Path) -> None:
    node_config = homes.config(homes.make(tmp_path))[:3]
    with Cluster(tmp_path, nodes=3, node_config=node_config) as cluster:
        cluster.submit(APP, minimum_hospitals=3)
        cluster.wait_for("supernode-0", "Start `flwr-clientapp` process", deadline=DEADLINE)
        # SuperLink, three SuperNodes, a SuperExec of each; flwr run, its ServerApp, a ClientApp
        assert len(cluster.alive()) >= 11
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
    report, node_config = tmp_path / "report.json", homes.config(homes.make(tmp_path))
    with Cluster(tmp_path, nodes=4, node_config=node_config, poll=None) as cluster:
        cluster.run(APP, deadline=600, rounds=3, report=str(report))
    assert_averaged(read(report), [EVERYBODY] * 3)
    assert_accurate(read(report))
