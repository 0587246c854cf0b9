"""What a run leaves of its ledger: the audit beside the report, checked against the last round."""

import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

from dp.errors import BudgetExceeded, LedgerCorrupt
from dp.ledger.ledger import Key, Ledger, State
from secagg.audit.released import digest_of_file
from secagg.audit.report import audit
from secagg.audit.values import HEAD_BESIDE
from secagg.training import loop as training
from secagg.training.report import report
from secagg.training.runs import AUDIT, AUDIT_JSON, REPORT, RunFolder, load_run
from secagg.training.settings import TrainingConfig, noise_and_unit
from secagg.vectors.arrays import model_digest

SMALL = {"clients": 4, "rounds": 2, "dropout": 0.0}


def finished(folder: Path, **settings: Any) -> tuple[training.Trainer, dict[str, Any]]:
    run = training.start(TrainingConfig(**SMALL | settings), folder)
    for _ in run:
        pass
    return run, run.finish()


def last_head(folder: Path) -> str:
    kept = RunFolder.open(folder).metrics["final"]["ledger"]
    return f"{kept['seq']}:{kept['hash']}"


@pytest.mark.parametrize("mode_name", ["distributed", "client", "local"])
def test_a_run_with_a_ledger_leaves_its_audit_and_the_report_links_to_it(
    tmp_path: Path, mode_name: str
) -> None:
    run, final = finished(tmp_path / "run", **noise_and_unit(mode_name))
    found = json.loads((tmp_path / "run" / AUDIT_JSON).read_text())
    assert found["head"] == last_head(tmp_path / "run")
    assert found["protection"] == [HEAD_BESIDE]
    assert found["verdict"] == "sound"
    (section,) = found["sections"]
    books = section["books"].values()
    assert section["epsilon"] == final["epsilon"]
    assert max(book["rdp"] for book in books) == final["epsilon_rdp"]
    assert max(book["actual"] for book in books) == final["epsilon_actual"]
    assert {book["accountant"] for book in books} == {final["accountant"]}
    page = (tmp_path / "run" / AUDIT).read_text()
    assert found["head"] in page
    assert section["sentence"] in page
    assert final["audit"] == AUDIT
    assert f'href="{AUDIT}"' in (tmp_path / "run" / REPORT).read_text()
    assert run.closing_lines(final)[-1] == f"audit: {tmp_path / 'run' / AUDIT}"


def test_the_audit_says_that_the_head_lay_beside_the_ledger(tmp_path: Path) -> None:
    """Who can write the folder can write both, and a page that is silent on it claims too much."""
    finished(tmp_path / "run")
    found = json.loads((tmp_path / "run" / AUDIT_JSON).read_text())
    words = "whoever can write both could have made all of it"
    assert words in found["protection_in_words"][-1]
    row = next(row for row in found["statement"] if row["item"] == "Against tampering")
    assert words in row["text"]
    page = (tmp_path / "run" / AUDIT).read_text()
    assert "whoever can write the whole folder could have made all of it" in page
    with Ledger.open(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        head = ledger.head()
    assert words not in str(audit(tmp_path / "run" / "ledger.sqlite", head=head).as_json())


@pytest.mark.parametrize("mode_name", ["distributed", "client", "local"])
def test_both_pages_call_public_what_is_public_in_that_mode(tmp_path: Path, mode_name: str) -> None:
    """A client's number of examples divides the sum, but where a whole client is hidden."""
    finished(tmp_path / "run", **noise_and_unit(mode_name), rounds=1)
    for name in (AUDIT, REPORT):
        shown = (tmp_path / "run" / name).read_text().lower()
        assert ("how many examples each client has" in shown) is (mode_name != "client")
        assert ("keep it to themselves" in shown or "leave out their noise" in shown) is (
            mode_name != "local"
        )


def test_a_simulation_is_called_one_wherever_it_is_told_of(
    secagg: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """One process could read every update, whatever the protocol would hide between parties."""
    run, _ = finished(tmp_path / "run")
    assert "4 clients simulated in one process" in run.headline
    said = "Simulated: all clients and the server in one process, which could read every update"
    found = json.loads((tmp_path / "run" / AUDIT_JSON).read_text())
    assert found["parties"].startswith(said)
    rows = {row["item"]: row for row in found["statement"]}
    assert said in rows["Where the parties ran"]["text"]
    assert said in (tmp_path / "run" / AUDIT).read_text()
    assert "simulated in one process" in (tmp_path / "run" / REPORT).read_text()
    code, out, _ = secagg("audit", tmp_path / "run" / "ledger.sqlite")
    assert (code, said in " ".join(out.split())) == (0, True)
    everywhere = (out, *(path.read_text() for path in (tmp_path / "run").glob("*.html")))
    assert not any("nobody saw one update" in text for text in everywhere)


def test_without_a_ledger_there_is_no_audit_and_no_link(tmp_path: Path) -> None:
    run, final = finished(tmp_path / "run", noise="none")
    assert final["audit"] is None
    assert not (tmp_path / "run" / AUDIT).exists()
    assert not (tmp_path / "run" / AUDIT_JSON).exists()
    assert "<a " not in (tmp_path / "run" / REPORT).read_text()
    assert not any(line.startswith("audit") for line in run.closing_lines(final))


@pytest.mark.parametrize(
    "said", [None, "", "http://x.test/", "javascript:alert(1)", "../audit.html"]
)
def test_the_report_links_to_that_one_name_and_no_other(tmp_path: Path, said: str | None) -> None:
    finished(tmp_path / "run")
    metrics = RunFolder.open(tmp_path / "run").metrics
    metrics["final"]["audit"] = said
    assert "<a " not in report(metrics)
    metrics["final"] = None
    assert "<a " not in report(metrics)


def test_the_report_shows_each_epsilon_under_its_name(tmp_path: Path) -> None:
    finished(tmp_path / "run", noise="distributed", minimum_survivors=3)
    page = (tmp_path / "run" / REPORT).read_text()
    cards = dict(re.findall(r"<div><dt>((?:actual )?epsilon.*?)</dt><dd>(.*?)</dd></div>", page))
    assert list(cards) == [
        "epsilon spent, by RDP; the budget is 2.0",
        "actual epsilon, by RDP: with the noise that was really in the sums, if no output "
        "decided who dropped out. It frees no budget",
    ]
    spent, actual = map(float, cards.values())
    assert actual < spent

    finished(tmp_path / "local", noise="local")
    page = (tmp_path / "local" / REPORT).read_text()
    cards = dict(re.findall(r"<div><dt>((?:actual )?epsilon.*?)</dt><dd>(.*?)</dd></div>", page))
    assert list(cards) == [
        "epsilon spent, by PLD; the budget is 2.0",
        "epsilon by RDP, by which the ledger admits",
    ]
    by_pld, by_rdp = map(float, cards.values())
    assert by_pld < by_rdp


def test_a_run_that_was_interrupted_has_the_audit_of_all_its_rounds(tmp_path: Path) -> None:
    run = training.start(TrainingConfig(**SMALL), tmp_path / "run")
    next(iter(run))
    again = training.resume(tmp_path / "run")
    for _ in again:
        pass
    again.finish()
    found = json.loads((tmp_path / "run" / AUDIT_JSON).read_text())
    assert found["head"] == last_head(tmp_path / "run")
    assert [row["number"] for row in found["sections"][0]["rounds"]] == [1, 2]
    # Finishing once more changes nothing that was found.
    training.resume(tmp_path / "run").finish()
    assert json.loads((tmp_path / "run" / AUDIT_JSON).read_text()) == found


def cut_off(folder: Path) -> None:
    """One round finished, the next reserved and never heard of again."""
    run = training.start(TrainingConfig(**SMALL), folder)
    next(iter(run))
    assert run._books is not None
    run._books.reserve(2, [0, 1, 2, 3])


def test_a_run_that_the_budget_stopped_has_the_audit_of_what_stands_charged(
    tmp_path: Path,
) -> None:
    cut_off(tmp_path / "run")
    again = training.resume(tmp_path / "run")
    assert list(again) == []  # the round that was cut off has spent the rest
    final = again.finish()
    found = json.loads((tmp_path / "run" / AUDIT_JSON).read_text())
    kept = RunFolder.open(tmp_path / "run").metrics["rounds"][-1]["ledger"]["seq"]
    assert int(found["head"].split(":")[0]) > kept  # the round that was cut off came after
    assert found["head"] == last_head(tmp_path / "run")
    assert found["protection"] == [HEAD_BESIDE]
    assert found["verdict"] == "sound"
    assert [row["open"] for row in found["sections"][0]["rounds"]] == [0, 4]
    assert found["sections"][0]["epsilon"] == final["epsilon"]
    assert f'href="{AUDIT}"' in (tmp_path / "run" / REPORT).read_text()


def test_who_could_pay_for_a_round_that_never_began_is_not_charged_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Too few could pay, so nothing left anybody: coming back to the run costs nothing."""
    run = training.start(TrainingConfig(**SMALL), tmp_path / "run")
    next(iter(run))
    assert run._books is not None
    reserve, poor = run._books._ledger.reserve_next, {"client-0", "client-1"}

    def refusing(charges: Any, **more: Any) -> Key:
        for name in sorted(poor & charges.keys()):
            raise BudgetExceeded(subject=name, book="server", spent=1, would_be=3, budget=2)
        return reserve(charges, **more)

    monkeypatch.setattr(run._books._ledger, "reserve_next", refusing)
    before = run._books.epsilon()
    assert list(run) == []
    assert run._books.epsilon() == before
    with Ledger.open(tmp_path / "run" / "ledger.sqlite", read_only=True) as ledger:
        assert {held.state for held in ledger.reservations(2)} == {State.ABORTED}


def test_a_ledger_that_is_not_the_last_rounds_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older copy is perfect in itself; only the head that the round kept shows it."""
    run = training.start(TrainingConfig(**SMALL), tmp_path / "run")
    rounds = iter(run)
    next(rounds)
    older = tmp_path / "older"
    with Ledger.open(tmp_path / "run" / "ledger.sqlite") as ledger:
        ledger._file.connection.execute(f"VACUUM INTO '{older}'")
    next(rounds)
    assert audit(older).verdict == "sound"
    monkeypatch.setattr(RunFolder, "ledger", older)
    with pytest.raises(LedgerCorrupt):
        run.finish()
    assert not (tmp_path / "run" / AUDIT).exists()
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["final"] is None


def test_an_older_or_another_runs_ledger_in_a_runs_folder_is_found(
    secagg: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out, older = tmp_path / "run", tmp_path / "older"
    run = training.start(TrainingConfig(**SMALL), out)
    rounds = iter(run)
    next(rounds)
    with Ledger.open(out / "ledger.sqlite") as ledger:
        ledger._file.connection.execute(f"VACUUM INTO '{older}'")
    list(rounds)
    run.finish()
    code, said, _ = secagg("audit", out)
    assert code == 0
    said = " ".join(said.split())
    assert "agrees with itself and with metrics.json beside it; not tamper-evident" in said
    assert "model.safetensors holds that model" in said
    del run, rounds
    gc.collect()
    finished(tmp_path / "other", rounds=1)
    for place in (older, tmp_path / "other" / "ledger.sqlite"):
        (out / "ledger.sqlite").write_bytes(place.read_bytes())
        for words in (("audit",), ("audit", "--verify"), ("ledger", "verify")):
            code, said, err = secagg(*words, out)
            assert (code, said) == (3, ""), words
            assert "was kept" in err
            assert "metrics.json" in err
    with Ledger.open(older) as ledger:
        head = ledger.head()
    given = f"{head.seq}:{head.hash.hex()}"
    (out / "ledger.sqlite").write_bytes(older.read_bytes())
    assert secagg("audit", out, "--expected-head", given)[0] == 3
    assert secagg("audit", out, out / "ledger.sqlite")[0] == 3
    assert secagg("audit", older, "--expected-head", given)[0] == 0


def test_another_model_in_a_runs_folder_is_found(
    secagg: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    finished(out)
    found = json.loads((out / AUDIT_JSON).read_text())
    assert found["model_file"] == {
        "file": "model.safetensors",
        "digest": found["models"][-1]["sha256"],
        "round": 2,
        "last": True,
    }
    assert "model.safetensors holds that model" in (out / AUDIT).read_text()
    state = load_run(out).state_dict()
    assert digest_of_file(out / "model.safetensors") == model_digest(state)
    first = next(iter(state))
    save_file({**state, first: state[first] + 1}, tmp_path / "other.safetensors")
    own = json.loads(secagg("audit", out, "--json")[1])
    assert (own["verdict"], own["model_file"]["last"]) == ("sound", True)
    page = tmp_path / "page"
    code, said, _ = secagg("audit", out, "--model", tmp_path / "other.safetensors", "--html", page)
    assert code == 3
    assert "other.safetensors holds ANOTHER MODEL" in said
    assert "Verdict: contradicted by the model's file" in said
    assert "holds ANOTHER MODEL" in page.read_text()
    code, said, _ = secagg("audit", out, "--model", out / "config.toml")
    assert (code, said) == (2, "")
    (out / "model.safetensors").write_bytes((tmp_path / "other.safetensors").read_bytes())
    code, said, _ = secagg("audit", out, "--json")
    assert (code, json.loads(said)["verdict"]) == (3, "contradicted")


def test_a_new_run_in_the_folder_removes_the_audit_of_the_old_one(tmp_path: Path) -> None:
    finished(tmp_path / "run")
    training.start(TrainingConfig(**SMALL), tmp_path / "run", overwrite=True)
    assert not (tmp_path / "run" / AUDIT).exists()
    assert not (tmp_path / "run" / AUDIT_JSON).exists()
