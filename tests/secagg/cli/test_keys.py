"""``secagg keys``: what it makes, what it prints, and how it fails."""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from secagg.nodes.identities import Roster, fingerprint, load_identity, load_public

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def keys(secagg: Run) -> Run:
    return partial(secagg, "keys")


@pytest.fixture
def home(keys: Run, tmp_path: Path) -> Path:
    """A folder with the keys of an operator and of three hospitals."""
    for name in ("operator", "a", "b", "c"):
        assert keys("new", tmp_path / f"{name}.key", "--name", name)[0] == 0
    return tmp_path


def sign(keys: Run, home: Path, *more: object, out: str = "roster.json") -> tuple[int, str, str]:
    members = [home / f"{name}.key.pub" for name in "abc"]
    operator = ("--operator", home / "operator.key", "--out", home / out)
    return keys("roster", *operator, *more, *members)


def pinned(home: Path) -> bytes:
    return load_public(home / "operator.key.pub").public


def secrets(home: Path) -> list[str]:
    return [load_identity(path).key.secret.expose().hex() for path in home.glob("*.key")]


def test_new_makes_a_key_and_says_what_to_do_next(keys: Run, tmp_path: Path) -> None:
    code, out, err = keys("new", tmp_path / "a.key", "--name", "hospital-1")
    shown = load_public(tmp_path / "a.key.pub")
    assert (code, err) == (0, "")
    assert load_identity(tmp_path / "a.key").shown == shown
    assert shown.name == "hospital-1"
    assert fingerprint(shown.public) in out
    for whoever in ("client or server, the operator", "ledger's keeper, its auditor"):
        assert whoever in " ".join(out.split())


def test_new_overwrites_nothing(keys: Run, home: Path) -> None:
    before = (home / "a.key").read_bytes()
    code, out, err = keys("new", home / "a.key", "--name", "other")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "exists, and is left as it is" in err
    assert (home / "a.key").read_bytes() == before


def test_show_prints_keys_and_never_the_secret(keys: Run, home: Path) -> None:
    shown = load_public(home / "a.key.pub")
    for end, kind in (("", "private key"), (".pub", "public key")):
        code, out, err = keys("show", home / f"a.key{end}")
        assert (code, err) == (0, "")
        assert kind in out
        for word in ("a", shown.public.hex(), fingerprint(shown.public)):
            assert word in out
        code, out, err = keys("show", home / f"a.key{end}", "--json")
        assert (code, err) == (0, "")
        assert json.loads(out) == {
            "kind": kind,
            "path": str(home / f"a.key{end}"),
            "name": "a",
            "public": shown.public.hex(),
            "fingerprint": fingerprint(shown.public),
        }


def test_no_command_prints_a_secret(keys: Run, home: Path) -> None:
    said = ""
    for more in ((), ("--json",)):
        for arguments in (
            ("new", home / f"d{len(more)}.key", "--name", "d"),
            *(("show", home / f"{name}.key") for name in ("a", "operator")),
            ("show", home / "roster0.json"),
        ):
            said += "".join(map(str, keys(*arguments, *more)))
        said += "".join(map(str, sign(keys, home, *more, out=f"roster{len(more)}.json")))
        (home / "a.key").chmod(0o644)
        said += "".join(map(str, keys("show", home / "a.key", *more)))
        (home / "a.key").chmod(0o600)
    assert len(secrets(home)) == 6
    said += "".join(path.read_text() for path in home.iterdir() if path.suffix != ".key")
    assert not [secret for secret in secrets(home) if secret in said]


def test_show_says_how_to_mend_the_permissions(keys: Run, home: Path) -> None:
    (home / "a.key").chmod(0o640)
    code, out, err = keys("show", home / "a.key")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert f"chmod 600 {home / 'a.key'}" in err


def test_roster_deals_out_numbers_in_the_order_given(keys: Run, home: Path) -> None:
    code, out, err = sign(keys, home)
    assert (code, err) == (0, "")
    roster = Roster.read(home / "roster.json", operator=pinned(home))
    assert [roster.name_of(number) for number in range(3)] == ["a", "b", "c"]
    assert roster.serial == 1
    text = " ".join(re.sub(r"[│]", " ", out).split())
    for number, name in enumerate("abc"):
        public = load_public(home / f"{name}.key.pub").public
        assert f"{number} {name} {fingerprint(public)}" in text
    assert fingerprint(pinned(home)) in text
    assert roster.digest.hex() in out


def test_json_alone_is_on_stdout(keys: Run, home: Path) -> None:
    code, out, err = sign(keys, home, "--json")
    signed = json.loads(out)
    assert (code, err, signed["verified"]) == (0, "", True)
    assert [(each["number"], each["name"]) for each in signed["members"]] == [
        *((0, "a"), (1, "b"), (2, "c"))
    ]
    operator = ("--operator", home / "operator.key.pub")
    assert json.loads(keys("show", home / "roster.json", *operator, "--json")[1]) == signed
    claimed = json.loads(keys("show", home / "roster.json", "--json")[1])
    assert claimed == signed | {"verified": False}
    made = json.loads(keys("new", home / "d.key", "--name", "d", "--json")[1])
    assert made["public"] == load_public(home / "d.key.pub").public.hex()


def test_show_verifies_a_roster_against_the_operator_alone(keys: Run, home: Path) -> None:
    sign(keys, home)
    code, out, _ = keys("show", home / "roster.json", "--operator", home / "operator.key.pub")
    assert code == 0
    assert "Signed by operator" in out
    code, out, _ = keys("show", home / "roster.json")
    assert code == 0
    assert "NOT VERIFIED" in out
    assert "Signed by" not in out
    code, out, err = keys("show", home / "roster.json", "--operator", home / "a.key.pub")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "not signed by the operator" in err


def test_a_roster_after_another_has_the_next_serial(keys: Run, home: Path) -> None:
    def serial(name: str) -> int:
        return Roster.read(home / name, operator=pinned(home)).serial

    assert sign(keys, home, "--serial", 41)[0] == 0
    assert sign(keys, home, "--after", home / "roster.json", out="next")[0] == 0
    assert (serial("roster.json"), serial("next")) == (41, 42)
    assert sign(keys, home, "--after", home / "next", "--serial", 50, out="later")[0] == 0
    assert serial("later") == 50
    code, _, err = sign(keys, home, "--after", home / "next", "--serial", 42, out="same")
    assert (code, err.count("\n")) == (2, 1)
    assert "--serial is 42, must be above 42" in err
    assert not (home / "same").exists()


def test_bad_input_exits_2_in_one_line(keys: Run, home: Path, tmp_path: Path) -> None:
    sign(keys, home)
    (home / "text").write_text("hello\n")
    (home / "json").write_text("{}\n")
    operator, pub = home / "operator.key", home / "a.key.pub"
    signing: tuple[Any, ...] = ("roster", "--operator", operator, "--out", home / "new")
    others = (home / "b.key.pub", home / "c.key.pub")
    for arguments, word in (
        (("new", home / "d.key"), "--name"),
        (("new", home / "d.key", "--name", "d d"), "is not 1 to 64"),
        (("new", home / "none" / "d.key", "--name", "d"), "No such file"),
        (("show", home / "none"), "No such file"),
        (("show", home), "directory"),
        (("show", home / "text"), "no public key"),
        (("show", home / "json"), "no roster"),
        (("show", pub, "--operator", pub), "leave out --operator"),
        (("show", home / "roster.json", "--operator", operator), "no public key"),
        (signing, "PATH.pub"),
        ((*signing, pub), "a roster of 1"),
        ((*signing, pub, *others, pub), "stands twice"),
        ((*signing, pub, home / "operator.key.pub"), "stands twice"),
        ((*signing, pub, home / "b.key"), "no public key"),
        ((*signing, pub, *others, "--serial", "0"), "--serial is 0, must be above 0"),
        ((*signing, pub, *others, "--after", home / "json"), "no roster"),
        (("roster", "--operator", pub, "--out", home / "new", pub, *others), "others may"),
        (("roster", "--operator", home / "a.key", "--out", home / "new", pub, *others), "twice"),
        (
            ("roster", "--operator", operator, "--out", home / "roster.json", pub, *others),
            "exists, and is left as it is",
        ),
    ):
        code, out, err = keys(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), (arguments, err)
        assert word in err
    assert not (home / "new").exists()
    assert not list(home.glob("d.key*"))


def test_a_roster_that_another_operator_signed_is_not_replaced(keys: Run, home: Path) -> None:
    sign(keys, home)
    keys("new", home / "other.key", "--name", "other")
    code, _, err = keys(
        *("roster", "--operator", home / "other.key", "--out", home / "new"),
        *("--after", home / "roster.json", home / "a.key.pub", home / "b.key.pub"),
    )
    assert code == 2
    assert "not signed by the operator" in err


def test_the_help_of_each_command_has_an_example(keys: Run) -> None:
    for command in ("new", "show", "roster"):
        code, out, _ = keys(command, "--help")
        assert code == 0
        assert f"  secagg keys {command} " in out
