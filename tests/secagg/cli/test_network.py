"""``secagg invite``, ``serve`` and ``join``: what they say, and what they refuse in one line."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from secagg.adapters.http.store import Store

Run = Callable[..., tuple[int, str, str]]

SETTINGS = 'state = "server.sqlite"\nlisten = "127.0.0.1:0"\n'
SUM = '[[sum]]\npurpose = "train"\nmodel = "start.npz"\n'


def serve(secagg: Run, config: Path) -> tuple[int, str, str]:
    import_module("starlette")  # without the server's extra all of these say just that
    return secagg("serve", "--config", config)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "server.toml"
    path.write_text(SETTINGS + SUM)
    return path


def test_a_token_is_shown_once_and_the_last_one_counts(secagg: Run, config: Path) -> None:
    code, out, err = secagg("invite", "a", "b", "--config", config)
    assert (code, err) == (0, "")
    names = dict(line.split() for line in out.splitlines())
    code, out, _ = secagg("invite", "a", "--config", config, "--json")
    with Store(config.parent / "server.sqlite") as store:
        assert store.member(names["a"]) is None
        assert store.member(json.loads(out)["a"]) == store.members()[0]
        assert store.member(names["b"]) == store.members()[1]


def test_who_may_join_is_listed_without_tokens(secagg: Run, config: Path) -> None:
    assert secagg("invite", "--config", config) == (0, "", "")
    secagg("invite", "a", "b", "--config", config)
    assert secagg("invite", "--revoke", "a", "--config", config) == (0, "a revoked\n", "")
    code, out, _ = secagg("invite", "--config", config, "--json")
    assert (code, json.loads(out)) == (0, {"a": "revoked", "b": "may join"})


@pytest.mark.parametrize(
    "words", [["--revoke"], ["--revoke", "nobody"], [""], ["a\nb"], ["x" * 65], ["é"]]
)
def test_a_name_that_cannot_be_is_one_line(secagg: Run, config: Path, words: list[str]) -> None:
    code, out, err = secagg("invite", *words, "--config", config)
    assert (code, out, err.count("\n")) == (2, "", 1)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "state is missing"),
        ("[", "cannot be read"),
        (SETTINGS, "nothing to sum"),
        (SETTINGS + "colour = 'red'\n" + SUM, "unknown line 'colour'"),
        (SETTINGS + SUM + "colour = 'red'\n", "unknown line 'colour'"),
        (SETTINGS + SUM + SUM, "one purpose"),
        (SETTINGS + "[[sum]]\npurpose = 'train'\n", "lacks model"),
        (SETTINGS + SUM + "rounds = 0\n", "rounds is 0"),
        (SETTINGS + SUM + "nodes = 1\n", "nodes is 1"),
        (SETTINGS + SUM + "pause = -1\n", "pause is -1"),
        (SETTINGS + SUM.replace("'train'", "5").replace('"train"', "5"), "purpose is 5"),
        (SETTINGS + "origins = 'https://x'\n" + SUM, "origins is"),
        (SETTINGS + SUM + "clip = 'x'\n", "clip"),
        (SETTINGS + SUM + "protocol = 'plain'\n", "unknown protocol"),
        (SETTINGS + SUM + "roster = 'r.json'\n", "give both"),
        (SETTINGS + "certificate = 'c.pem'\n" + SUM, "give both"),
        (SETTINGS + "client_ca = 'c.pem'\n" + SUM, "client_ca needs"),
        (SETTINGS + "deadline = 0\n" + SUM, "deadline is 0"),
        (SETTINGS + "deadline = 'x'\n" + SUM, "expected a number"),
        (SETTINGS + "rate = nan\n" + SUM, "rate is nan"),
        (SETTINGS + "connections = 0\n" + SUM, "connections is 0"),
        (SETTINGS + "metrics = 1\n" + SUM, "metrics is 1"),
        (SETTINGS.replace("127.0.0.1:0", "0.0.0.0:0") + SUM, "in clear"),
        (SETTINGS.replace("127.0.0.1:0", "here") + SUM, "expected ADDRESS:PORT"),
        (SETTINGS.replace("server.sqlite", "no/where.sqlite") + SUM, "cannot keep"),
        (SETTINGS + "certificate = 'c'\nkey = 'k'\n" + SUM, "cannot be used"),
    ],
)
def test_settings_that_cannot_hold_are_one_line_and_two(
    secagg: Run, config: Path, text: str, why: str
) -> None:
    config.write_text(text)
    code, out, err = serve(secagg, config)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert why in err


def test_a_model_that_is_none_ends_the_server_in_one_line(secagg: Run, config: Path) -> None:
    (config.parent / "start.npz").write_bytes(b"no model")
    code, out, err = serve(secagg, config)
    assert (code, out) == (2, "")
    assert err.splitlines()[-1].startswith("secagg: ")
    assert "no .npz file of arrays" in err.splitlines()[-1]


def test_a_file_that_is_another_programs_is_left_alone(secagg: Run, config: Path) -> None:
    import sqlite3

    path = config.parent / "server.sqlite"
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE theirs (x)")
    before = path.read_bytes()
    code, _, err = secagg("invite", "a", "--config", config)
    assert (code, err.count("\n")) == (2, 1)
    assert "another program's" in err
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("url", "token", "program", "why"),
    [
        ("http://sums.example.org", "ab", "clinic:train", "in clear"),
        ("sums", "ab", "clinic:train", "no address of a server"),
        ("http://127.0.0.1:1", None, "clinic:train", "token"),
        ("http://127.0.0.1:1", "two words", "clinic:train", "holds no token"),
        ("http://127.0.0.1:1", "ab", "clinic:none", "--program clinic:none"),
        ("http://127.0.0.1:1", "ab", "nowhere:train", "--program nowhere:train"),
    ],
)
def test_a_node_that_cannot_join_says_one_line(
    secagg: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    token: str | None,
    program: str,
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clinic.py").write_text("def train(model, proposal): ...\n")
    secagg("node", "new", tmp_path / "home")
    if token:
        (tmp_path / "home" / "token").write_text(token)
        (tmp_path / "home" / "token").chmod(0o600)
    code, out, err = secagg("join", url, "--home", tmp_path / "home", "--program", program)
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert why in err


def test_a_token_that_others_may_read_is_refused(secagg: Run, tmp_path: Path) -> None:
    secagg("node", "new", tmp_path / "home")
    (tmp_path / "home" / "token").write_text("ab")
    (tmp_path / "home" / "token").chmod(0o644)
    words = ("--home", tmp_path / "home", "--program", "json:dumps")
    code, _, err = secagg("join", "http://127.0.0.1:1", *words)
    assert (code, err.count("\n")) == (2, 1)
    assert "others may read" in err


def test_npz_files_keep_every_name_and_type(tmp_path: Path) -> None:
    from secagg.adapters.http.plans import read_model, write_model

    model = {"file": np.ones(2, np.float32), "a/b": np.zeros((0, 3)), "n": np.array(7)}
    write_model(tmp_path / "m.npz", model)
    found = read_model(tmp_path / "m.npz")
    assert {name: (a.dtype, a.shape) for name, a in found.items()} == {
        name: (a.dtype, a.shape) for name, a in model.items()
    }
