"""``secagg ledger seal | head | verify``: a seal without a program."""

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from dp.accounting.events import GaussianEvent, NoSampling
from dp.errors import LedgerCorrupt
from dp.ledger.ledger import Budget, Ledger, Protection
from secagg.audit.report import signer, verify
from secagg.nodes.identities import create_identity

Run = Callable[..., tuple[int, str, str]]
STEP = GaussianEvent(noise_multiplier=10, sampling=NoSampling())


@pytest.fixture
def run(secagg: Run) -> Run:
    return partial(secagg, "ledger")


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    with Ledger.create(tmp_path / "ledger", Budget(epsilon=2, delta=1e-5)) as book:
        book.reserve(1, {"a": STEP})
        book.commit(1, ["a"])
    return tmp_path / "ledger"


@pytest.fixture
def key(tmp_path: Path) -> Path:
    create_identity(tmp_path / "keeper.key", "keeper")
    return tmp_path / "keeper.key"


def test_a_key_of_secagg_keys_seals_and_its_public_half_checks(
    run: Run, secagg: Run, ledger: Path, key: Path
) -> None:
    code, out, err = run("seal", ledger, "--signing-key", key)
    assert (code, err) == (0, "")
    assert "is signed by keeper" in out
    code, out, _ = run("verify", ledger, "--head-key", f"{key}.pub")
    assert code == 0
    assert "by anyone without the key" in out
    code, out, _ = secagg("audit", ledger, "--head-key", f"{key}.pub")
    assert code == 0
    assert "Verdict: sound" in out
    code, out, _ = secagg("audit", ledger)
    assert "Verdict: signed, not checked" in out
    code, _, err = run("seal", ledger, "--signing-key", key)
    assert code == 2
    assert "signed already, and nothing was changed: it keeps the key" in err


def test_the_folder_of_a_run_stands_for_its_ledger(
    run: Run, secagg: Run, ledger: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    code, out, err = secagg("audit", folder)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "is a folder without a ledger.sqlite; name the file" in err
    (folder / "ledger.sqlite").write_bytes(ledger.read_bytes())
    for words in (("audit", folder, "--verify"), ("ledger", "head", folder)):
        assert secagg(*words)[0] == 0, words
    assert secagg("audit", folder) == secagg("audit", folder / "ledger.sqlite")
    (folder / "ledger.sqlite").unlink()
    assert run("verify", folder)[0] == 2


def test_a_signed_ledger_without_its_key_is_nowhere_called_unprotected(
    run: Run, secagg: Run, ledger: Path, key: Path, tmp_path: Path
) -> None:
    """It would mislead: the key is missing, not the seal. Every output says the same."""
    assert run("seal", ledger, "--signing-key", key)[0] == 0
    html = tmp_path / "a.html"
    told = {
        "verify": run("verify", ledger),
        "audit --verify": secagg("audit", ledger, "--verify"),
        "audit": secagg("audit", ledger, "--html", html),
        "verify --json": run("verify", ledger, "--json"),
        "audit --verify --json": secagg("audit", ledger, "--verify", "--json"),
        "audit --json": secagg("audit", ledger, "--json"),
    }
    for name, (code, out, err) in told.items():
        assert (code, err) == (0, ""), name
        assert "not tamper-evident" not in out, name
        if "--json" in name:
            data = json.loads(out)
            assert data["verdict"] == "signed, not checked"
            assert data["protection"] == ["signed, not checked"]
        else:
            assert "Verdict: signed, not checked" in out, name
    assert "not tamper-evident" not in html.read_text()
    assert "Signed, not checked" in html.read_text()
    assert "Verdict: verified" in run("verify", ledger, "--head-key", f"{key}.pub")[1]


def test_a_sealed_ledger_that_was_edited_is_found(run: Run, ledger: Path, key: Path) -> None:
    run("seal", ledger, "--signing-key", key)
    with closing(sqlite3.connect(ledger)) as connection:
        connection.execute("UPDATE seal SET signature = zeroblob(64)")
        connection.commit()
    for words in (("verify",), ("head",)):
        code, out, err = run(*words, ledger, "--head-key", f"{key}.pub")
        assert (code, out) == (3, "")
        assert "is not good" in err


def test_whoever_writes_in_a_sealed_ledger_needs_the_key(run: Run, ledger: Path, key: Path) -> None:
    run("seal", ledger, "--signing-key", key)
    from secagg.nodes.identities import load_identity

    with Ledger.open(ledger, seal=signer(load_identity(key).key)) as book:
        book.reserve(2, {"a": STEP})
        assert book.verify().protection == (Protection.SIGNATURE,)
    other = create_identity(key.with_name("other.key"), "other")
    with pytest.raises(LedgerCorrupt, match="signature"):
        verify(ledger, seal=signer(other.key))


def test_a_head_in_a_file_is_kept_and_checked(run: Run, ledger: Path, tmp_path: Path) -> None:
    code, out, _ = run("head", ledger, "--out", tmp_path / "head")
    assert code == 0
    assert (tmp_path / "head").read_text() == out
    code, again, _ = run("head", ledger, "--json")
    assert json.loads(again) == {"head": out.strip()}
    with Ledger.open(ledger) as book:
        book.reserve(2, {"a": STEP})
    code, said, _ = run("verify", ledger, "--expected-head", tmp_path / "head")
    assert code == 0
    assert "up to record 2; of record 3 it shows nothing" in said
    code, said, _ = run("verify", ledger, "--expected-head", out.strip(), "--json")
    assert json.loads(said)["protection"] == ["head kept elsewhere"]
    code, _, err = run("head", ledger, "--out", tmp_path / "head")
    assert code == 2
    assert "exists" in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("seal", "LEDGER", "--signing-key", "none"), "cannot open"),
        (("seal", "LEDGER", "--signing-key", "KEY.pub"), "others may read"),
        (("seal", "none", "--signing-key", "KEY"), "does not exist"),
        (("verify", "LEDGER", "--head-key", "KEY"), "private key"),
        (("verify", "LEDGER", "--head-key", "LEDGER"), "no Ed25519 public key"),
        (("verify", "LEDGER", "--head-key", "none"), "cannot read"),
        (("verify", "LEDGER", "--expected-head", "KEY"), "not SEQ:HASH"),
        (("verify", "LEDGER", "--expected-head", "none"), "not SEQ:HASH"),
        (("verify", "KEY"), "is no ledger"),
        (("head", "LEDGER", "--out", "none/here"), "there is no folder"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    run: Run, ledger: Path, key: Path, tmp_path: Path, words: tuple[str, ...], said: str
) -> None:
    names = {"LEDGER": str(ledger), "KEY": str(key), "KEY.pub": f"{key}.pub"}
    names |= {"none": str(tmp_path / "none"), "none/here": str(tmp_path / "none" / "here")}
    code, out, err = run(*(names.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert said in err
    assert err.count("\n") == 1
