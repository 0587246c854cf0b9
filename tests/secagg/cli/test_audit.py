"""``secagg audit``: what it prints, and how it fails."""

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest

from dp.accounting.accountant import epsilon_pld
from dp.accounting.events import GaussianEvent, NoSampling, PoissonSampling
from dp.ledger.ledger import Budget, Head, HeadSigner, Ledger
from protocols.primitives.sign import SigningKey
from protocols.secrets import Secret
from secagg.audit.report import SEAL_LABEL, seal_of
from secagg.nodes.identities import fingerprint

Run = Callable[..., tuple[int, str, str]]
SAMPLED = GaussianEvent(noise_multiplier=4, sampling=PoissonSampling(rate=0.1))
QUIET = GaussianEvent(noise_multiplier=10, sampling=NoSampling())
LOUD = GaussianEvent(noise_multiplier=1, sampling=NoSampling())
KEY = SigningKey(Secret(bytes(range(32))))


@pytest.fixture
def audit(secagg: Run) -> Run:
    return partial(secagg, "audit")


def charged(path: Path, *, seal: HeadSigner | None = None, rounds: int = 4) -> Head:
    with Ledger.create(path, Budget(epsilon=2, delta=1e-5), seal=seal) as book:
        for number in range(rounds):
            book.reserve(number, {"a": SAMPLED, "[bold]b": SAMPLED})
            book.commit(number, ["a"])
        return book.head()


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    charged(tmp_path / "ledger")
    return tmp_path / "ledger"


def edit(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(statement)
        connection.commit()


def text_of(head: Head) -> str:
    return f"{head.seq}:{head.hash.hex()}"


def test_a_sound_ledger_exits_0_and_says_what_it_is_worth(audit: Run, ledger: Path) -> None:
    code, out, err = audit(ledger)
    assert (code, err) == (0, "")
    assert "not tamper-evident" in out
    assert "Verdict: agrees with itself; not tamper-evident" in out
    assert "Nobody stated" in out
    with Ledger.open(ledger) as book:
        assert text_of(book.head()) in out


def test_json_alone_is_on_stdout(audit: Run, ledger: Path) -> None:
    code, out, err = audit(ledger, "--json")
    data = json.loads(out)
    assert (code, err, data["schema"]) == (0, "", "secagg audit 1")
    assert data["sections"][0]["epsilon"] == epsilon_pld({SAMPLED: 4}, 1e-5)


def test_over_budget_exits_1_and_still_reports(audit: Run, tmp_path: Path) -> None:
    with Ledger.create(tmp_path / "ledger", Budget(epsilon=1, delta=1e-5)) as book:
        book.reserve(1, {"[red]a": QUIET})
        book.commit(1, {"[red]a": LOUD})
    code, out, err = audit(tmp_path / "ledger", "--html", tmp_path / "page.html")
    assert (code, err) == (1, "")
    assert "OVER BUDGET: [red]a" in out
    assert "passed the budget" in (tmp_path / "page.html").read_text()


def test_verify_prices_nothing(audit: Run, ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secagg.audit.report._sections", None)
    code, out, _ = audit(ledger, "--verify")
    assert code == 0
    assert "not tamper-evident" in out
    code, out, _ = audit(ledger, "--verify", "--json")
    assert json.loads(out)["verdict"] == "verified"


def test_a_kept_head_is_checked(audit: Run, tmp_path: Path) -> None:
    head = charged(tmp_path / "ledger")
    for more in ((), ("--verify",)):
        code, out, _ = audit(tmp_path / "ledger", "--expected-head", text_of(head), *more)
        assert code == 0
        assert "not tamper-evident" not in out
        wrong = Head(seq=head.seq, hash=bytes(32))
        code, out, err = audit(tmp_path / "ledger", "--expected-head", text_of(wrong), *more)
        assert (code, out) == (3, "")
        assert "not the one whose hash was kept" in err
    charged(tmp_path / "older", rounds=2)
    code, _, err = audit(tmp_path / "older", "--expected-head", text_of(head))
    assert code == 3
    assert "truncated" in err


def test_a_head_shows_the_records_up_to_it_and_no_others(audit: Run, tmp_path: Path) -> None:
    """Anybody can make a head of record 0 fit; it must not make all of it look checked."""
    place, page = tmp_path / "ledger", tmp_path / "page"
    charged(place)
    with Ledger.open(place) as book:
        heads = [Head(seq=one.seq, hash=one.hash) for one in book.records()]
    last = heads[-1].seq
    later = f"records 1 to {last}"
    code, out, _ = audit(place, "--expected-head", text_of(heads[0]), "--html", page)
    assert code == 0
    assert f"Verdict: sound up to record 0; not tamper-evident in {later}" in out
    assert f"nothing was changed or lost up to record 0; of {later} it shows nothing" in out
    assert "only if you had it from elsewhere than the ledger's folder" in out
    assert f"Not tamper-evident in {later}" in page.read_text()
    data = json.loads(audit(place, "--expected-head", text_of(heads[0]), "--json")[1])
    assert (data["verdict"], data["head_given"]) == ("sound", 0)
    assert data["verdict_in_words"].endswith(f"not tamper-evident in {later}")
    code, out, _ = audit(place, "--expected-head", text_of(heads[0]), "--verify")
    assert f"of {later} it shows nothing" in out
    code, out, _ = audit(place, "--expected-head", text_of(heads[-1]), "--html", page)
    assert "Verdict: sound, if the head that you gave was kept elsewhere" in out
    assert f"up to record {last}, the last" in out
    assert "Not tamper-evident in" not in page.read_text()


def test_a_head_from_the_ledgers_own_folder_is_kept_beside(audit: Run, tmp_path: Path) -> None:
    head = charged(tmp_path / "ledger")
    (tmp_path / "head").write_text(text_of(head))
    for more in ((), ("--verify",)):
        told = audit(tmp_path / "ledger", "--expected-head", tmp_path / "head", *more)[1]
        assert "the head kept in head, beside the ledger" in told
        said = audit(tmp_path / "ledger", "--expected-head", tmp_path / "head", "--json", *more)[1]
        assert json.loads(said)["protection"] == ["head kept beside"]
    assert (
        "and with head beside it; not tamper-evident"
        in json.loads(
            audit(tmp_path / "ledger", "--expected-head", tmp_path / "head", "--json")[1]
        )["verdict_in_words"]
    )


def test_a_signed_head_is_checked_by_hex_or_file(audit: Run, tmp_path: Path) -> None:
    sign = HeadSigner(
        verify=seal_of(KEY.public).verify, sign=lambda message: KEY.sign(SEAL_LABEL, message)
    )
    charged(tmp_path / "ledger", seal=sign)
    (tmp_path / "raw").write_bytes(KEY.public)
    (tmp_path / "hex").write_text(KEY.public.hex() + "\n")
    for key in (KEY.public.hex(), tmp_path / "raw", tmp_path / "hex"):
        code, out, _ = audit(tmp_path / "ledger", "--head-key", key)
        assert code == 0
        assert "by anyone without the key" in out
        assert f"against the key of fingerprint {fingerprint(KEY.public)}" in out
    told = json.loads(audit(tmp_path / "ledger", "--head-key", tmp_path / "raw", "--json")[1])
    assert told["key"] == fingerprint(KEY.public)
    code, out, err = audit(tmp_path / "ledger", "--head-key", fingerprint(KEY.public))
    assert (code, out) == (2, "")
    assert "is a fingerprint, not a key" in err
    code, _, err = audit(
        tmp_path / "ledger", "--head-key", SigningKey(Secret(bytes(32))).public.hex()
    )
    assert code == 3
    assert "either the key is not its signer's or the ledger was changed" in err
    code, out, _ = audit(tmp_path / "ledger")
    assert code == 0
    assert "signed, not checked: no key was given" in out
    assert "Verdict: signed, not checked" in out


def test_an_edited_record_exits_3_and_is_named(audit: Run, ledger: Path) -> None:
    edit(ledger, "UPDATE records SET body = replace(body, ':4.0', ':9.0') WHERE seq = 3")
    for more in ((), ("--verify",), ("--json",)):
        code, out, err = audit(ledger, *more)
        assert (code, out) == (3, "")
        assert "record 3" in err
        assert err.count("\n") == 1


def test_forged_accounts_exit_3(audit: Run, ledger: Path) -> None:
    edit(ledger, "UPDATE spent SET held = 0")
    code, _, err = audit(ledger)
    assert code == 3
    assert "records and accounts disagree: records were removed or accounts edited" in err


def test_a_damaged_file_exits_3(audit: Run, ledger: Path, tmp_path: Path) -> None:
    whole = ledger.read_bytes()
    for size in (len(whole) // 2, 5000, 4096, 200):
        short = tmp_path / f"short-{size}"
        short.write_bytes(whole[:size])
        code, out, err = audit(short)
        assert (code, out, err.count("\n")) == (3, "", 1)


@pytest.mark.parametrize("at", [3, 35, 52, 60, 62, 68])
def test_one_changed_byte_of_the_header_is_damage(
    audit: Run, ledger: Path, tmp_path: Path, at: int
) -> None:
    """What carries a ledger's tables was one: that it is damaged is no fault of who asks."""
    whole = bytearray(ledger.read_bytes())
    whole[at] ^= 0x41
    (tmp_path / "changed").write_bytes(whole)
    code, out, err = audit(tmp_path / "changed")
    assert (code, out, err.count("\n")) == (3, "", 1)
    assert "***" not in err


def test_bad_input_exits_2_in_one_line(audit: Run, ledger: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not a ledger\n" * 99)
    (tmp_path / "empty").touch()
    (tmp_path / "pem").write_text("-----BEGIN PUBLIC KEY-----\n")
    newer = tmp_path / "newer"
    charged(newer)
    edit(newer, "PRAGMA user_version = 99")
    coarse = tmp_path / "coarse"
    with Ledger.create(coarse, Budget(epsilon=9, delta=0.5)) as book:
        book.reserve(1, {"a": QUIET, "b": QUIET})
    for arguments, word in (
        ((tmp_path / "nothing",), "nothing does not exist; give"),
        ((tmp_path,), "a folder without a ledger.sqlite"),
        ((tmp_path / "text",), "is no ledger"),
        ((tmp_path / "empty",), "empty"),
        ((newer,), "schema 99"),
        ((coarse,), "below 1/2"),
        ((), "LEDGER"),
        ((ledger, "--expected-head", "12"), "SEQ:HASH"),
        ((ledger, "--expected-head", f"-1:{'0' * 64}"), "SEQ:HASH"),
        ((ledger, "--expected-head", f"1:{'g' * 64}"), "SEQ:HASH"),
        ((ledger, "--head-key", "abc"), "cannot read"),
        ((ledger, "--head-key", tmp_path / "pem"), "no Ed25519 public key"),
        ((ledger, "--html", ledger), "the ledger itself"),
        ((ledger, "--html", f"{ledger}-wal"), "the ledger itself"),
        ((ledger, "--html", tmp_path), "no regular file"),
        ((ledger, "--html", tmp_path / "none" / "page.html"), "there is no folder"),
        ((ledger, "--html", tmp_path / "page.html", "--verify"), "--verify"),
    ):
        code, out, err = audit(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert word in err


def test_a_link_to_the_ledger_is_the_ledger(audit: Run, ledger: Path, tmp_path: Path) -> None:
    before = ledger.read_bytes()
    (tmp_path / "link").symlink_to(ledger)
    (tmp_path / "hard").hardlink_to(ledger)
    for name in ("link", "hard"):
        assert audit(ledger, "--html", tmp_path / name)[0] == 2
    assert ledger.read_bytes() == before


def test_a_ledger_without_charges_is_sound(audit: Run, tmp_path: Path) -> None:
    Ledger.create(tmp_path / "ledger", Budget(epsilon=2, delta=1e-5)).close()
    code, out, _ = audit(tmp_path / "ledger", "--html", tmp_path / "page.html")
    assert code == 0
    assert "No charge stands" in out
    assert "No charge stands" in (tmp_path / "page.html").read_text()


def test_no_digest_is_said_of_a_file_with_a_log_beside_it(audit: Run, tmp_path: Path) -> None:
    place = tmp_path / "ledger"
    charged(place)
    assert json.loads(audit(place, "--json")[1])["sha256"] == sha256(place.read_bytes()).hexdigest()
    with Ledger.open(place) as book:
        book.reserve(9, {"a": SAMPLED})
        said = "no digest of the file: a log (-wal) lies beside it"
        assert said in audit(place, "--html", tmp_path / "page")[1]
        assert said in (tmp_path / "page").read_text()
        assert json.loads(audit(place, "--json")[1])["sha256"] is None
        book.checkpoint()
        whole = sha256(place.read_bytes()).hexdigest()
        assert json.loads(audit(place, "--json")[1])["sha256"] == whole
    assert sha256(place.read_bytes()).hexdigest() == whole


def test_the_audit_leaves_the_ledger_as_it_was(audit: Run, ledger: Path, tmp_path: Path) -> None:
    before = ledger.read_bytes()
    assert audit(ledger, "--json", "--html", tmp_path / "page.html")[0] == 0
    assert ledger.read_bytes() == before


def test_two_ledgers_stand_side_by_side_and_add_up(audit: Run, tmp_path: Path) -> None:
    charged(tmp_path / "first"), charged(tmp_path / "second", rounds=3)
    code, out, err = audit(tmp_path / "first", tmp_path / "second")
    assert (code, err) == (0, "")
    said = " ".join(out.split())
    assert "2 in more than one ledger" in said
    assert "composed by PLD, not added up" in said
    assert "No budget stands over all of them" in said
    code, out, _ = audit(tmp_path / "first", tmp_path / "second", "--json")
    data = json.loads(out)
    (together,) = data["together"]
    assert together["epsilon"] == pytest.approx(epsilon_pld({SAMPLED: 7}, 1e-5))
    assert together["subjects"] == together["shared"] == 2
    each = [one["sections"][0]["epsilon"] for one in data["ledgers"]]
    assert max(each) < together["epsilon"] < sum(each)


def test_an_open_reservation_and_whose_word_it_is_stand_on_screen(audit: Run, ledger: Path) -> None:
    said = " ".join(audit(ledger)[1].split())
    assert "4 reservations open: counted as spent, unfinished" in said  # of [bold]b
    assert "On the keeper's word alone: How parameters were chosen." in said
    assert "for one example (one row; a person with k rows: k times)" in said
    assert "2 clients charged" in said
    for name in ("against", "budget", "accountant", "epsilon by RDP", "with actual noise"):
        assert name in said


def test_one_ledger_is_not_added_to_itself(audit: Run, ledger: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(ledger.read_bytes())
    code, out, err = audit(ledger, copy)
    assert (code, out) == (2, "")
    assert "the same chain would be counted twice" in err
    code, _, err = audit(ledger, copy, "--html", tmp_path / "page")
    assert code == 2
    assert "name one" in err


@pytest.mark.parametrize("kind", ["link", "pipe", "device"])
def test_a_page_takes_the_place_of_no_link_pipe_or_device(
    audit: Run, ledger: Path, tmp_path: Path, kind: str
) -> None:
    place = tmp_path / "page"
    match kind:
        case "link":
            place.symlink_to(tmp_path / "elsewhere")
        case "pipe":
            os.mkfifo(place)
        case _:
            place = Path("/dev/null")
    before = place.lstat()
    code, out, err = audit(ledger, "--html", place)
    assert (code, out) == (2, "")
    assert "no regular file" in err
    assert place.lstat().st_mode == before.st_mode
