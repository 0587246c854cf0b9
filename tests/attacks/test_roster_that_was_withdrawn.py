"""Put back an older roster of the operator's, with members and keys that it has withdrawn since."""

from pathlib import Path

import pytest

from secagg.errors import IdentityError, RefusedError
from secagg.nodes.identities import Identity, Roster, create_identity, sign_roster
from secagg.nodes.node import Node, new_folder
from secagg.nodes.policy import NodePolicy


class Home:
    def __init__(self, folder: Path) -> None:
        self.path = new_folder(folder / "node")
        self.own = create_identity(self.path / "identity.key", "mine")
        self.other = create_identity(folder / "other.key", "other")
        self.operator = create_identity(folder / "operator.key", "operator")

    def put(self, serial: int, operator: Identity | None = None) -> Roster:
        signer = operator or self.operator
        members = {c: (one.name, one.key.public) for c, one in enumerate((self.own, self.other))}
        signed = sign_roster(signer, members, serial=serial)
        (self.path / "roster.json").write_bytes(signed)
        return Roster.read(signed, operator=signer.key.public)

    def ask(self, roster: Roster, operator: Identity | None = None) -> int:
        signer = operator or self.operator
        return Node(self.path, NodePolicy(operator=signer.key.public)).identity(roster.digest)[1]


@pytest.fixture
def home(folder: Path) -> Home:
    return Home(folder)


def test_a_node_reads_no_roster_older_than_one_that_it_read(home: Home) -> None:
    old, new = home.put(3), home.put(5)
    assert home.ask(new) == 0
    home.put(3)
    with pytest.raises(IdentityError, match="has serial 3, and 5 was seen before"):
        home.ask(old)
    assert home.ask(home.put(5)) == 0
    assert home.ask(home.put(6)) == 0


def test_were_the_serial_not_kept_the_old_roster_would_count_again(home: Home) -> None:
    old, new = home.put(3), home.put(5)
    home.ask(new)
    (home.path / "roster.serial").unlink()
    home.put(3)
    assert home.ask(old) == 0


def test_a_newer_roster_counts_though_the_server_has_an_older_one(home: Home) -> None:
    old = home.put(3)
    home.put(5)
    with pytest.raises(RefusedError, match="one of the two is out of date"):
        home.ask(old)
    home.put(3)
    with pytest.raises(IdentityError, match="5 was seen before"):
        home.ask(old)


def test_another_operator_counts_from_the_start(home: Home, folder: Path) -> None:
    home.ask(home.put(5))
    other = create_identity(folder / "second.key", "second")
    assert home.ask(home.put(1, other), other) == 0


@pytest.mark.parametrize("content", [b"", b"five", b"\xff", b"5" * 300, b"-1 of ab"])
def test_a_damaged_serial_is_an_error(home: Home, content: bytes) -> None:
    roster = home.put(5)
    (home.path / "roster.serial").write_bytes(content)
    with pytest.raises(IdentityError):
        home.ask(roster)
