"""The run folder: whole files or none, and a state that survives a kill at any step."""

import csv
import errno
import io
import json
import math
import os
import resource
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secagg.errors import InputError, RunError
from secagg.files import LOCK, write_atomically
from secagg.training import runs
from secagg.training.runs import RunFolder, load_run

CONFIG = {"data": "digits", "clients": 3, "epsilon": 8.0, "resume": False, "threshold": None}
TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.zeros(3)}


def record(number: int, **more: object) -> dict[str, Any]:
    return {"round": number, "accuracy": number / 10, "dropped": {"2": "mask"}, **more}


def tensors(number: int) -> dict[str, torch.Tensor]:
    return {name: tensor + number for name, tensor in TENSORS.items()}


def folder_with(path: Path, rounds: int) -> RunFolder:
    run = RunFolder.create(path, CONFIG)
    for number in range(1, rounds + 1):
        run.save(number, tensors(number), record(number))
    return run


def assert_state(run: RunFolder, rounds: int) -> None:
    records, found = run.load()
    assert records == [record(number) for number in range(1, rounds + 1)]
    expected = tensors(rounds) if rounds else {}
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def assert_one_line(error: BaseException) -> None:
    assert str(error)
    assert "\n" not in str(error)


def names(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()} - {LOCK}


# write_atomically


def test_a_file_is_replaced_and_nothing_temporary_stays(tmp_path: Path) -> None:
    target = tmp_path / "file"
    write_atomically(target, b"old")
    write_atomically(target, b"new")
    assert target.read_bytes() == b"new"
    assert names(tmp_path) == {"file"}


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.write
    monkeypatch.setattr(os, "write", lambda file, data: whole(file, data[:3]))
    write_atomically(tmp_path / "file", b"0123456789")
    assert (tmp_path / "file").read_bytes() == b"0123456789"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EIO])
@pytest.mark.parametrize("call", ["open", "write", "fsync"])
def test_a_failing_disk_leaves_the_old_file_and_says_so_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int
) -> None:
    target = tmp_path / "metrics.json"
    target.write_bytes(b"old")

    def fail(*_: object) -> NoReturn:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(RunError, match=os.strerror(number)) as caught:
            write_atomically(target, b"new")
    assert_one_line(caught.value)
    assert str(target) in str(caught.value)
    assert "; " in str(caught.value)  # what to do follows the reason
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == {"metrics.json"}


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """The kernel itself refuses to let any file grow beyond ``size`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_the_kernel_cuts_short_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    with disk_of(1000), pytest.raises(RunError, match="free some space"):
        write_atomically(target, bytes(5000))
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == {"file"}


def test_an_interrupt_removes_the_temporary(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(tmp_path / "file", b"new")
    assert names(tmp_path) == set()


@pytest.mark.parametrize("name", ["missing/file", "file\0name", "x" * 300])
def test_an_impossible_path_is_a_run_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError) as caught:
        write_atomically(tmp_path / name, b"")
    assert_one_line(caught.value)


def test_a_temporary_left_by_a_killed_process_is_no_obstacle(tmp_path: Path) -> None:
    (tmp_path / ".file.tmp").write_bytes(b"half")
    write_atomically(tmp_path / "file", b"new")
    assert names(tmp_path) == {"file"}


def test_a_link_planted_under_the_temporary_name_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / ".file.tmp").symlink_to(victim)
    with pytest.raises(RunError):
        write_atomically(tmp_path / "file", b"new")
    assert victim.read_bytes() == b"precious"


# create


def test_a_new_run_can_be_opened_before_its_first_round(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "deep" / "run", CONFIG, versions={"torch": "2"})
    run = RunFolder.open(tmp_path / "deep" / "run")
    assert run.config == {name: value for name, value in CONFIG.items() if value is not None}
    assert run.load() == ([], {})
    assert run.metrics == {
        "schema": 1,
        "config": run.config,
        "versions": {"torch": "2"},
        "rounds": [],
        "final": None,
    }


def test_a_folder_that_is_not_empty_is_refused_naming_both_ways_out(tmp_path: Path) -> None:
    folder_with(tmp_path, 1)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    with pytest.raises(RunError, match=r"--resume.*--overwrite") as caught:
        RunFolder.create(tmp_path, CONFIG)
    assert_one_line(caught.value)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(tmp_path: Path) -> None:
    run = folder_with(tmp_path, 2)
    for name in ("ledger.sqlite", "ledger.sqlite-wal", "report.html", "curves.svg", "notes.txt"):
        (tmp_path / name).write_text(name)
    run = RunFolder.create(tmp_path, {"clients": 4}, overwrite=True)
    assert names(tmp_path) == {"config.toml", "metrics.json", "notes.txt"}
    assert run.load() == ([], {})


@pytest.mark.parametrize("name", ["thesis.tex", "config.toml", "metrics.json"])
def test_overwrite_refuses_a_folder_that_is_no_run(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious = true")
    with pytest.raises(RunError, match="does not look like a run"):
        RunFolder.create(tmp_path, CONFIG, overwrite=True)
    assert (tmp_path / name).read_text() == "precious = true"


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file")
    for path in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(RunError) as caught:
            RunFolder.create(path, CONFIG, overwrite=True)
        assert_one_line(caught.value)


def test_a_full_disk_leaves_no_half_made_folder(tmp_path: Path) -> None:
    with disk_of(10), pytest.raises(RunError, match="free some space"):
        RunFolder.create(tmp_path / "run", CONFIG)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, [1], {"a": 1}, b"x", "\ud800"])
def test_a_setting_that_a_config_cannot_hold_is_refused(tmp_path: Path, value: object) -> None:
    with pytest.raises(InputError, match="'clip'") as caught:
        RunFolder.create(tmp_path / "run", {"clip": value})  # type: ignore[dict-item] - the claim
    assert_one_line(caught.value)
    assert names(tmp_path) == set()


TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SETTING = TEXT | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False)


@given(config=st.dictionaries(TEXT, SETTING | st.none()))
def test_any_config_is_read_back_as_it_was(config: dict[str, runs.Setting]) -> None:
    read = tomllib.loads(runs._to_toml({k: v for k, v in config.items() if v is not None}))
    assert read == {name: value for name, value in config.items() if value is not None}
    assert all(type(read[name]) is type(config[name]) for name in read)


def test_config_toml_and_metrics_json_agree(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, CONFIG)
    toml = tomllib.loads((tmp_path / "config.toml").read_text())
    assert toml == json.loads((tmp_path / "metrics.json").read_text())["config"] == run.config


# save, load, finish


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    folder_with(tmp_path, 3)
    assert_state(RunFolder.open(tmp_path), 3)


def test_tensors_of_any_kind_come_back(tmp_path: Path) -> None:
    base = torch.arange(12.0).reshape(3, 4)
    kept = {
        "transposed": base.T,
        "row": base[1],
        "tied": base,
        "tied again": base,
        "empty": torch.zeros(0, 3),
        "scalar": torch.tensor(7),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "trained": torch.nn.Parameter(torch.ones(2)),
    }
    RunFolder.create(tmp_path, CONFIG).save(1, kept, record(1))
    _, found = RunFolder.open(tmp_path).load()
    assert found.keys() == kept.keys()
    for name, tensor in kept.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_that_is_not_finite_is_written(tmp_path: Path, value: float) -> None:
    run = folder_with(tmp_path, 1)
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    for attempt in (
        lambda: run.save(2, tensors(2), record(2, loss=value)),
        lambda: run.save(2, tensors(2), record(2, milliseconds={"train": value})),
        lambda: run.save(2, {"weight": torch.tensor([1.0, value])}, record(2)),
        lambda: run.finish({"epsilon": value}),
        lambda: run.finish({"epsilon": object()}),
    ):
        with pytest.raises(RunError) as caught:
            attempt()
        assert_one_line(caught.value)
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    run.save(2, tensors(2), record(2))
    assert_state(RunFolder.open(tmp_path), 2)


@pytest.mark.parametrize(("number", "recorded"), [(1, 1), (3, 3), (2, 3), (2, None), (0, 0)])
def test_rounds_are_saved_in_order(tmp_path: Path, number: int, recorded: int | None) -> None:
    run = folder_with(tmp_path, 1)
    with pytest.raises(RunError, match="cannot follow round 1"):
        run.save(number, tensors(2), {"round": recorded})
    assert_state(RunFolder.open(tmp_path), 1)


def test_the_final_record_closes_the_run(tmp_path: Path) -> None:
    run = folder_with(tmp_path, 2)
    run.finish({"accuracy": 0.9, "epsilon": None})
    opened = RunFolder.open(tmp_path)
    assert opened.metrics["final"] == {"accuracy": 0.9, "epsilon": None}
    assert_state(opened, 2)
    with pytest.raises(RunError, match="finished"):
        opened.save(3, tensors(3), record(3))


def test_a_run_of_no_rounds_can_be_finished(tmp_path: Path) -> None:
    folder_with(tmp_path, 0).finish({"rounds": 0})
    assert RunFolder.open(tmp_path).metrics["final"] == {"rounds": 0}


# Killed


class Killed(BaseException):
    """Past this the process does nothing more, no clean-up either."""


def kill_after(patch: pytest.MonkeyPatch, steps: int) -> Callable[[], bool]:
    """Lets ``steps`` operations on files happen; the result tells whether it killed."""
    done = 0
    killed = False

    def guard(module: object, name: str) -> None:
        real = getattr(module, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            nonlocal done, killed
            if done == steps:
                killed = True
                raise Killed
            done += 1
            return real(*args, **kwargs)

        patch.setattr(module, name, step)

    for name in ("open", "write", "fsync"):
        guard(os, name)
    for name in ("replace", "unlink", "mkdir", "rmdir"):
        guard(Path, name)
    return lambda: killed


def each_kill(monkeypatch: pytest.MonkeyPatch, action: Callable[[int], object]) -> Iterator[int]:
    for steps in range(200):
        with monkeypatch.context() as patch:
            killed = kill_after(patch, steps)
            with suppress(Killed):
                action(steps)
        if not killed():
            assert steps > 5, "no step was ever interrupted"
            return
        yield steps
    pytest.fail("the action never came to its end")


def test_a_kill_between_any_two_steps_of_save_leaves_one_round_or_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = set()

    def save(steps: int) -> None:
        folders[steps].save(3, tensors(3), record(3))

    folders = {steps: folder_with(tmp_path / str(steps), 2) for steps in range(20)}
    for steps in each_kill(monkeypatch, save):
        run = RunFolder.open(tmp_path / str(steps))
        rounds = len(run.load()[0])
        assert rounds in (2, 3)
        seen.add(rounds)
        assert_state(run, rounds)
        metrics = json.loads((tmp_path / str(steps) / "metrics.json").read_text())
        assert len(metrics["rounds"]) == rounds
        run.save(rounds + 1, tensors(rounds + 1), record(rounds + 1))
        assert_state(RunFolder.open(tmp_path / str(steps)), rounds + 1)
    assert seen == {2, 3}


def test_a_kill_while_finishing_leaves_a_run_that_can_be_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder_with(tmp_path, 1)
    for _ in each_kill(monkeypatch, lambda _: run.finish({"rounds": 1})):
        opened = RunFolder.open(tmp_path)
        assert opened.metrics["final"] in (None, {"rounds": 1})
        assert_state(opened, 1)


def test_a_kill_while_repairing_can_be_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = folder_with(tmp_path, 1)
    old = (tmp_path / "metrics.json").read_bytes()
    run.save(2, tensors(2), record(2))
    (tmp_path / "metrics.json").write_bytes(old)
    for _ in each_kill(monkeypatch, lambda _: RunFolder.open(tmp_path)):
        assert_state(RunFolder.open(tmp_path), 2)
        (tmp_path / "metrics.json").write_bytes(old)


@pytest.mark.parametrize("rounds", [0, 2])
def test_a_kill_while_overwriting_never_leaves_rounds_without_their_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int
) -> None:
    def prepare(steps: int) -> Path:
        path = tmp_path / str(steps)
        if not path.exists():
            folder_with(path, rounds)
            (path / "ledger.sqlite").write_text("spent")
        return path

    folders = [prepare(steps) for steps in range(40)]
    for steps in each_kill(
        monkeypatch, lambda steps: RunFolder.create(folders[steps], CONFIG, overwrite=True)
    ):
        try:
            found, _ = RunFolder.open(folders[steps]).load()
        except RunError as error:
            assert_one_line(error)
        else:
            assert not found or (folders[steps] / "ledger.sqlite").exists()
        RunFolder.create(folders[steps], CONFIG, overwrite=True)
        assert RunFolder.open(folders[steps]).load() == ([], {})


def test_a_full_disk_in_the_middle_of_save_keeps_the_round_before(tmp_path: Path) -> None:
    run = folder_with(tmp_path, 1)
    with disk_of(50), pytest.raises(RunError, match=r"model\.safetensors"):
        run.save(2, tensors(2), record(2))
    assert names(tmp_path) == {"config.toml", "metrics.json", "model.safetensors"}
    assert_state(RunFolder.open(tmp_path), 1)
    run.save(2, tensors(2), record(2))
    assert_state(RunFolder.open(tmp_path), 2)


# Corrupt


@pytest.mark.parametrize("name", ["config.toml", "metrics.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["missing", "empty", "garbage", "folder"])
def test_a_file_that_is_gone_or_garbage_is_named(tmp_path: Path, name: str, damage: str) -> None:
    folder_with(tmp_path, 2)
    path = tmp_path / name
    path.unlink()
    if damage == "folder":
        path.mkdir()
    elif damage != "missing":
        path.write_bytes(b"" if damage == "empty" else b"\xff\x00[[[{{{\n")
    with pytest.raises(RunError, match=name.replace(".", r"\.")) as caught:
        RunFolder.open(tmp_path)
    assert_one_line(caught.value)


@pytest.mark.parametrize("name", ["metrics.json", "model.safetensors", "config.toml"])
def test_a_truncated_file_never_opens_half(
    tmp_path_factory: pytest.TempPathFactory, name: str
) -> None:
    path = tmp_path_factory.mktemp("run")
    folder_with(path, 2)
    whole = (path / name).read_bytes()
    for length in range(0, len(whole) - 1, 7):
        (path / name).write_bytes(whole[:length])
        with pytest.raises(RunError, match=name.replace(".", r"\.")) as caught:
            RunFolder.open(path)
        assert_one_line(caught.value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mutated")
    folder_with(path, 2)
    return path


@settings(deadline=None, max_examples=200)
@given(data=st.data(), name=st.sampled_from(["model.safetensors", "metrics.json", "config.toml"]))
def test_changed_bytes_are_a_run_error_or_change_nothing(
    finished: Path, data: st.DataObject, name: str
) -> None:
    path = finished / name
    whole = path.read_bytes()
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(changed) - 1))
        changed[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    path.write_bytes(changed)
    try:
        assert_state(RunFolder.open(finished), 2)
    except RunError as error:
        assert_one_line(error)
    finally:
        path.write_bytes(whole)


def test_one_flipped_bit_of_a_tensor_is_found(tmp_path: Path) -> None:
    folder_with(tmp_path, 1)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match="digest"):
        RunFolder.open(tmp_path)


@pytest.mark.parametrize(
    "edit",
    [
        lambda metrics: metrics["rounds"].pop(),  # then a finished run would lack a round
        lambda metrics: metrics["rounds"].pop(0),
        lambda metrics: metrics["rounds"][0].update(accuracy=0.99),
        lambda metrics: metrics["rounds"][-1].update(accuracy=0.99),
        lambda metrics: metrics["rounds"].append(record(3)),
        lambda metrics: metrics.update(schema=2),
        lambda metrics: metrics.pop("final"),
        lambda metrics: metrics.update(rounds={}),
        lambda metrics: metrics.update(rounds=[1, 2]),
        lambda metrics: metrics["config"].update(epsilon=80.0),
        lambda metrics: metrics["rounds"][0].update(accuracy=float("nan")),
    ],
)
def test_metrics_that_disagree_with_the_rest_are_refused(
    tmp_path: Path, edit: Callable[[dict[str, Any]], object]
) -> None:
    folder_with(tmp_path, 2).finish({"rounds": 2})
    path = tmp_path / "metrics.json"
    metrics = json.loads(path.read_text())
    edit(metrics)
    path.write_text(json.dumps(metrics))
    with pytest.raises(RunError, match=r"metrics\.json") as caught:
        RunFolder.open(tmp_path)
    assert_one_line(caught.value)


def test_a_number_beyond_all_floats_is_refused(tmp_path: Path) -> None:
    folder_with(tmp_path, 1)
    path = tmp_path / "metrics.json"
    path.write_text(path.read_text().replace("0.1", "1e999"))
    with pytest.raises(RunError, match="corrupt"):
        RunFolder.open(tmp_path)


def test_a_model_of_another_run_is_refused(tmp_path: Path) -> None:
    folder_with(tmp_path / "one", 2)
    folder_with(tmp_path / "two", 3)
    (tmp_path / "two" / "model.safetensors").replace(tmp_path / "one" / "model.safetensors")
    RunFolder.open(tmp_path / "one")  # the very same run, one round ahead: a kill looks like this
    folder_with(tmp_path / "three", 1).save(2, tensors(2), record(2, accuracy=0.5))
    (tmp_path / "three" / "model.safetensors").replace(tmp_path / "one" / "model.safetensors")
    with pytest.raises(RunError, match="not of the same run"):
        RunFolder.open(tmp_path / "one")


def test_rounds_that_spent_privacy_are_not_continued_without_their_ledger(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, CONFIG)
    run.save(1, tensors(1), record(1, epsilon=0.5))
    with pytest.raises(RunError, match=r"ledger\.sqlite is missing"):
        RunFolder.open(tmp_path)
    run.ledger.write_bytes(b"")
    assert len(RunFolder.open(tmp_path).load()[0]) == 1


# load_run


def test_a_run_is_read_while_it_goes_on_and_nothing_is_written(tmp_path: Path) -> None:
    run = folder_with(tmp_path, 2)  # which holds the lock
    before = {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()}
    found = load_run(str(tmp_path))
    assert {entry.name: entry.read_bytes() for entry in tmp_path.iterdir()} == before
    assert (found.path, found.config, found.final) == (tmp_path, run.config, None)
    assert [each["round"] for each in found.rounds] == [1, 2]
    run.finish({"accuracy": 0.2})
    assert load_run(tmp_path).final == {"accuracy": 0.2}


def test_a_table_has_a_column_for_every_number_and_text_for_the_rest(tmp_path: Path) -> None:
    run = RunFolder.create(tmp_path, CONFIG)
    first = record(1, seconds={"mask": 0.5, "share": 2}, name='a "b", c', epsilon=None)
    run.save(1, tensors(1), first)
    run.save(2, tensors(2), record(2, seconds={}, lost=True))
    found = load_run(tmp_path)
    assert found.table == {
        "round": [1, 2],
        "accuracy": [0.1, 0.2],
        "dropped": ['{"2": "mask"}'] * 2,
        "seconds.mask": [0.5, None],
        "seconds.share": [2, None],
        "name": ['a "b", c', None],
        "epsilon": [None, None],
        "seconds": [None, "{}"],
        "lost": [None, True],
    }
    rows = list(csv.reader(io.StringIO(found.to_csv(), newline="")))
    assert rows[0] == list(found.table)
    assert rows[1] == ["1", "0.1", '{"2": "mask"}', "0.5", "2", 'a "b", c', "", "", ""]
    assert len(rows) == 3


def test_a_run_without_rounds_is_an_empty_table(tmp_path: Path) -> None:
    RunFolder.create(tmp_path, CONFIG)
    assert load_run(tmp_path).table == {}
    assert load_run(tmp_path).to_csv() == "\n"


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"config\.toml is missing"):
        load_run(tmp_path)
    with pytest.raises(InputError, match="is no path"):
        load_run(5)  # type: ignore[arg-type]  # bad on purpose
    folder_with(tmp_path, 1)
    (tmp_path / "metrics.json").write_text("{")
    with pytest.raises(RunError, match="corrupt"):
        load_run(tmp_path)
