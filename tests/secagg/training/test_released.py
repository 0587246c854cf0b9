"""A run's ledger says what it is of, is signed if asked, and names each model that came of it."""

import gc
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

import secagg
from dp.errors import LedgerCorrupt, LedgerError, PrivacyError
from dp.ledger.ledger import Ledger, Protection
from secagg.audit import audit, seal_of, signer
from secagg.errors import InputError
from secagg.nodes.identities import create_identity
from secagg.training import loop
from secagg.training.settings import TrainingConfig

Run = Callable[..., tuple[int, str, str]]
SMALL = {"clients": 4, "rounds": 2, "dropout": 0.0}
OPTIONS = ("--clients", "4", "--rounds", "2", "--dropout", "0")


def trained(out: Path, **settings: object) -> None:
    run = loop.start(TrainingConfig(**{**SMALL, **settings}), out)
    run.run()


def test_the_ledger_names_the_model_of_every_round_and_the_last_is_the_runs(tmp_path: Path) -> None:
    trained(tmp_path / "run", purpose="a study of digits")
    found = audit(tmp_path / "run" / "ledger.sqlite")
    assert [one.round for one in found.releases] == [1, 2]
    model = secagg.load_run(tmp_path / "run").state_dict()
    assert found.releases[-1].model == secagg.model_digest(model)
    assert found.purpose == "a study of digits"
    rows = {row.item: row for row in found.rows}
    assert rows["Data set"].text == "Digits."
    assert rows["Who sees intermediate models"].source == "keeper"
    assert rows["Bias"].source == "nobody"


def test_another_data_set_has_another_digest(tmp_path: Path) -> None:
    digests = []
    for seed in (0, 0, 1):
        out = tmp_path / str(len(digests))
        trained(out, seed=seed, rounds=1)
        with Ledger.open(out / "ledger.sqlite") as book:
            stated = book.statement()
        assert stated is not None
        digests.append(stated.data_digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_sealed_run_is_signed_from_its_first_record_and_resumed_with_its_key(
    tmp_path: Path,
) -> None:
    key = signer(create_identity(tmp_path / "keeper.key", "keeper").key)
    run = loop.start(TrainingConfig(**SMALL), tmp_path / "run", seal=key)
    next(iter(run))
    del run
    with pytest.raises(LedgerError, match="give seal with its key"):
        loop.resume(tmp_path / "run").run()
    other = signer(create_identity(tmp_path / "other.key", "other").key)
    with pytest.raises(LedgerCorrupt, match="signature"):
        loop.resume(tmp_path / "run", seal=other)
    loop.resume(tmp_path / "run", seal=key).run()
    with Ledger.open(tmp_path / "run" / "ledger.sqlite", seal=key) as book:
        verified = book.verify()
    assert (verified.protection, verified.signed_from) == ((Protection.SIGNATURE,), 0)


def test_a_run_without_noise_has_no_ledger_to_seal(secagg: Run, tmp_path: Path) -> None:
    create_identity(tmp_path / "keeper.key", "keeper")
    code, _, err = secagg(
        *("train", *OPTIONS, "--noise", "none", "--out", tmp_path / "run"),
        *("--seal", tmp_path / "keeper.key"),
    )
    assert code == 2
    assert "without noise has none" in err


def test_what_is_refused_removes_no_run(tmp_path: Path) -> None:
    """The old run and its ledger are gone for good otherwise, and nothing came of it."""
    out = tmp_path / "run"
    trained(out, rounds=1)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    key = signer(create_identity(tmp_path / "keeper.key", "keeper").key)
    readers = seal_of(create_identity(tmp_path / "other.key", "other").key.public)
    for settings, seal, said in (
        ({"noise": "none"}, key, "without noise has none"),
        ({}, readers, "seal has no sign"),
        ({"data": "own" * 500 + ":x"}, None, "."),
        ({"delta": 0.4}, None, "."),
    ):
        with pytest.raises((InputError, PrivacyError), match=said):
            loop.start(TrainingConfig(**SMALL | settings), out, overwrite=True, seal=seal)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_the_digest_of_the_ledger_is_the_one_that_sha256sum_prints(tmp_path: Path) -> None:
    """The page goes with the file: read while its log is open, the file is another."""
    out, digests = tmp_path / "run", []
    for seed in (0, 1):
        run = loop.start(TrainingConfig(**SMALL, seed=seed), out, overwrite=True)
        run.run()
        said = json.loads((out / "audit.json").read_text())["sha256"]
        assert said in (out / "audit.html").read_text()
        assert hashlib.sha256((out / "ledger.sqlite").read_bytes()).hexdigest() == said
        del run
        gc.collect()  # closes the ledger
        assert not (out / "ledger.sqlite-wal").exists()
        assert hashlib.sha256((out / "ledger.sqlite").read_bytes()).hexdigest() == said
        digests.append(said)
    assert digests[0] != digests[1]


def test_a_run_without_noise_says_that_it_has_nothing_to_audit_and_no_budget(
    secagg: Run, tmp_path: Path
) -> None:
    trained(tmp_path / "run", noise="none", rounds=1)
    code, out, err = secagg("audit", tmp_path / "run")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "made without noise: no differential privacy, so there is no ledger to audit" in err
    page = (tmp_path / "run" / "report.html").read_text()
    for name in ("epsilon", "delta", "uncounted_shares"):
        assert f"<td><code>{name}</code></td><td>not used: no noise</td>" in page


def test_the_command_seals_and_the_audit_of_the_run_is_checked(secagg: Run, tmp_path: Path) -> None:
    create_identity(tmp_path / "keeper.key", "keeper")
    code, out, err = secagg(
        *("train", *OPTIONS, "--purpose", "a study", "--organisation", "a clinic"),
        *("--out", tmp_path / "run"),
        *("--seal", tmp_path / "keeper.key"),
    )
    assert (code, err) == (0, "")
    assert "epsilon by RDP" in out
    made = json.loads((tmp_path / "run" / "audit.json").read_text())
    assert made["verdict"] == "sound"
    assert made["protection"] == ["head kept beside", "signed head"]
    assert (made["purpose"], made["organisation"]) == ("a study", "a clinic")
    assert "a clinic" in (tmp_path / "run" / "audit.html").read_text()
    code, out, _ = secagg(
        *("audit", tmp_path / "run" / "ledger.sqlite"), "--head-key", tmp_path / "keeper.key.pub"
    )
    assert code == 0
    assert "a study: ledger.sqlite" in out


def test_a_run_of_which_nothing_came_says_so_and_exits_4(secagg: Run, tmp_path: Path) -> None:
    code, out, _ = secagg(
        "train", "--clients", "4", "--rounds", "2", "--dropout", "1", "--out", tmp_path / "run"
    )
    assert code == 4
    assert "NOTHING CAME OUT: of 2 rounds none was opened" in out
    assert audit(tmp_path / "run" / "ledger.sqlite").releases == ()
    page = (tmp_path / "run" / "report.html").read_text()
    assert "trained together" not in page


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--noise", "none", "--epsilon", "3"), "epsilon is about noise"),
        (("--noise", "none", "--delta", "1e-5"), "delta is about noise"),
        (("--noise", "none", "--purpose", "a study"), "purpose stands in the ledger"),
        (("--noise", "none", "--organisation", "a clinic"), "organisation stands in the ledger"),
        (("--partition", "dirichlet"), "must be iid"),
        (("--partition", "dirichlet:"), "must be iid"),
        (("--purpose", " "), "purpose"),
        (("--purpose", "two\nlines"), "purpose"),
        (("--out", "b\udcff"), "no UTF-8"),
    ],
)
def test_bad_settings_are_refused_before_a_folder_is_made(
    secagg: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = secagg("train", *words)
    assert (code, out) == (2, "")
    assert said in err
    assert list(tmp_path.iterdir()) == []


def test_a_models_digest_is_of_its_arrays_alone() -> None:
    one = {"a": torch.tensor([1.0, 2.0]), "b": torch.tensor(3)}
    same = {"b": np.array(3), "a": np.array([1.0, 2.0], np.float32)}
    assert secagg.model_digest(one) == secagg.model_digest(same)
    for other in (
        {"a": torch.tensor([1.0, 2.5]), "b": torch.tensor(3)},
        {"a": torch.tensor([[1.0, 2.0]]), "b": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.0]).double(), "b": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.0]), "c": torch.tensor(3)},
        {"a": torch.tensor([1.0, 2.0])},
    ):
        assert secagg.model_digest(other) != secagg.model_digest(one)
    assert len(secagg.model_digest({"x": torch.zeros(2, dtype=torch.bfloat16)})) == 32
    assert secagg.model_digest({"x": [0.0, 1.0]}) == secagg.model_digest({"x": np.array([0.0, 1])})
    for wrong in (3, {"a": "text"}, {"a": [object()]}):
        with pytest.raises(InputError):
            secagg.model_digest(wrong)
