"""One run of ``secagg train`` on disk, so that it can be killed at any moment and continued.

    config.toml         the settings; ``secagg train --config`` reads it again
    metrics.json        {"schema": 1, "config", "versions", "rounds": [...], "final": {...} or null}
    metrics.csv         its rounds as a table, for other programs; written when the run is finished
    model.safetensors   tensors after the last round, and that round's record as metadata
    ledger.sqlite       the privacy spent; written by ``dp.ledger.ledger``, never by this module
    curves.svg          pictures of metrics.json, for people
    report.html
    audit.html          what the ledger proves, for people; with privacy alone
    audit.json          the same, for programs

Guarantee: a file here is whole or absent, since each is written under a
temporary name, synced and renamed. A round's tensors and record are one file, so
they appear together; metrics.json follows it, and is brought up to date by
``RunFolder.open`` if the run died between the two. Any other disagreement is
``RunError``. The digest in model.safetensors finds accidents; whoever edits the
folder on purpose can write a new one.
"""

import csv
import hashlib
import io
import json
import math
import re
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from secagg.errors import InputError, RunError
from secagg.extras import require
from secagg.files import (
    LOCK,
    FolderLock,
    cannot,
    sync_folder,
    temporary,
    write_atomically,
)

if TYPE_CHECKING:
    import torch

CONFIG = "config.toml"
METRICS = "metrics.json"
TABLE = "metrics.csv"
LEDGER = "ledger.sqlite"
MODEL = "model.safetensors"
CURVES = "curves.svg"
REPORT = "report.html"
AUDIT = "audit.html"
AUDIT_JSON = "audit.json"

MOMENTS = "server optimizer: "  # before the name of each of its vectors in MODEL

SCHEMA = 1

Setting: TypeAlias = str | int | float | bool | None
RoundRecord: TypeAlias = dict[str, Any]

_HEADER = "# A run of `secagg train`; --config reads this file again.\n"
# In the order of removal: without metrics.json nothing can be resumed, so that no run goes on
# with the ledger gone; config.toml, which tells that the folder is a run, goes last.
_FILES = (
    *(METRICS, MODEL, LEDGER, f"{LEDGER}-wal", f"{LEDGER}-shm", f"{LEDGER}-journal"),
    *(TABLE, CURVES, REPORT, AUDIT, AUDIT_JSON, CONFIG),
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")  # TOML 1.0, "Keys"


class RunFolder:
    """The folder of one run. Make one with ``create`` or ``open``.

    The folder is locked as long as the object lives: a second process is refused.

    Attributes:
      path: the folder.
      config: the settings, without those that are ``None``.
    """

    __slots__ = ("_final", "_lock", "_rounds", "_versions", "config", "path")

    def __init__(
        self,
        path: Path,
        config: dict[str, Setting],
        *,
        versions: dict[str, str],
    ) -> None:
        self._lock: FolderLock | None = None
        self.path = path
        self.config = config
        self._versions = versions
        self._rounds: list[RoundRecord] = []
        self._final: RoundRecord | None = None

    @classmethod
    def create(
        cls,
        path: str | Path,
        config: Mapping[str, Setting],
        *,
        versions: Mapping[str, str] | None = None,
        overwrite: bool = False,
    ) -> Self:
        """Start a run in ``path``, a folder that is new or empty.

        Args:
          path: made, with its parents, if it is not there.
          config: flat; a setting of ``None`` is left out.
          versions: of the libraries that do the work, for the report.
          overwrite: remove the run that is there. Only its own files, and only if it is a run.

        Raises:
          InputError: a setting is not finite, or not a str, int, float, bool or ``None``.
          RunError: the folder is not empty, is no folder, cannot be written, or another process
            works in it. Then no file of a new run is left in it.
        """
        folder = Path(path)
        settings: dict[str, Setting] = {k: v for k, v in config.items() if v is not None}
        toml = _to_toml(settings).encode()
        run = cls(folder, settings, versions=dict(versions or {}))
        metrics = run._encode([], None)
        made = _make(folder)
        _check_free(folder, overwrite=overwrite)  # before a lock is put into it
        run._lock = FolderLock(folder)
        _check_free(folder, overwrite=overwrite)
        _remove_run(folder)
        try:
            write_atomically(folder / CONFIG, toml)
            write_atomically(folder / METRICS, metrics)
            if made:
                sync_folder(folder.parent)
        except BaseException as error:
            with suppress(RunError, OSError):
                _remove_run(folder)
                if made:
                    (folder / LOCK).unlink(missing_ok=True)
                    folder.rmdir()
            if isinstance(error, OSError):
                raise cannot("write", folder, error) from error
            raise
        return run

    @classmethod
    def open(cls, path: str | Path) -> Self:
        """Open the run in ``path``, to continue it; see ``load``.

        Raises:
          RunError: a file is missing, corrupt, or of another run; the message names it.
        """
        folder = Path(path)
        run = cls(folder, _read_config(folder / CONFIG), versions={})
        run._lock = FolderLock(folder)
        run.load()
        return run

    @property
    def ledger(self) -> Path:
        return self.path / LEDGER

    @property
    def metrics(self) -> RoundRecord:
        """What metrics.json holds now; a copy."""
        result: RoundRecord = json.loads(self._encode(self._rounds, self._final))
        return result

    def load(self) -> tuple[list[RoundRecord], dict[str, "torch.Tensor"]]:
        """The records of all finished rounds, and the tensors after the last of them.

        | on disk                                   | then                              |
        |-------------------------------------------|-----------------------------------|
        | no round in metrics.json, no model        | ([], {})                          |
        | model and metrics.json of the same round  | both                              |
        | model one round ahead                     | metrics.json is completed, both   |
        | rounds that spent epsilon, and no ledger  | ``RunError``: unknown what it cost |
        | anything else                             | ``RunError``                      |
        """
        metrics = _read_metrics(self.path / METRICS, self.config)
        rounds, final = metrics["rounds"], metrics["final"]
        model = self.path / MODEL
        tensors: dict[str, torch.Tensor] = {}
        behind = False
        if _exists(model):
            record, history, tensors = _read_model(model)
            behind = final is None and _digest(rounds) == history
            if behind:
                rounds.append(record)
            elif not rounds or rounds[-1] != record or _digest(rounds[:-1]) != history:
                raise RunError(
                    f"{model} and {METRICS} are not of the same run: one was changed or copied "
                    "alone; start again with --overwrite"
                )
        elif rounds:
            raise RunError(
                f"{model} is missing, and {METRICS} has {len(rounds)} rounds; "
                "start again with --overwrite"
            )
        if [record["round"] for record in rounds] != [*range(1, len(rounds) + 1)]:
            raise _corrupt(self.path / METRICS, "its rounds are not numbered 1, 2, 3, ...")
        spent = any(record.get("epsilon") is not None for record in rounds)
        if spent and not _exists(self.ledger):
            raise RunError(
                f"{self.ledger} is missing, so what was spent is unknown; "
                "start again with --overwrite"
            )
        if behind:
            write_atomically(self.path / METRICS, self._encode(rounds, None))
        self._rounds, self._final, self._versions = rounds, final, metrics["versions"]
        return self.metrics["rounds"], tensors

    def save(
        self,
        round: int,  # noqa: A002 - the word that the record, the ledger and the protocol use
        tensors: Mapping[str, "torch.Tensor"],
        record: Mapping[str, Any],
    ) -> None:
        """Write down a finished round: first the model with its record, then metrics.json.

        Args:
          round: from 1, without gaps; ``record["round"]`` is the same.
          tensors: everything that the next round starts from; copied, of any device and layout.
          record: JSON values, floats finite.

        Raises:
          RunError: out of order, a value is not finite or not JSON, or the folder cannot be
            written. On disk is then the state before this round, or this round complete.
        """
        if self._final is not None:
            raise RunError(f"{self.path} is finished and takes no further round; start another run")
        if round != len(self._rounds) + 1 or record.get("round") != round:
            raise RunError(
                f"round {round} with the record of round {record.get('round')!r} cannot follow "
                f"round {len(self._rounds)} in {self.path}"
            )
        rounds = [*self._rounds, _plain(record, f"round {round}")]
        metrics = self._encode(rounds, None)
        write_atomically(self.path / MODEL, _encode_model(tensors, rounds))
        # From here on the round is on disk: a second attempt would be refused by ``load`` too.
        self._rounds = rounds
        write_atomically(self.path / METRICS, metrics)

    def finish(self, final: Mapping[str, Any]) -> None:
        """Write the final record into metrics.json; finishing again replaces it.

        Raises:
          RunError: a value is not finite or not JSON, or the folder cannot be written.
        """
        record = _plain(final, "the final record")
        write_atomically(self.path / METRICS, self._encode(self._rounds, record))
        self._final = record

    def _encode(self, rounds: list[RoundRecord], final: RoundRecord | None) -> bytes:
        metrics = {
            "schema": SCHEMA,
            "config": self.config,
            "versions": self._versions,
            "rounds": rounds,
            "final": final,
        }
        return (_json(metrics, METRICS, indent=1) + "\n").encode()


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What a run folder says, finished or not.

    Attributes:
      path: the folder.
      config: its settings.
      versions: of the libraries that did the work.
      rounds: a record of each finished round.
      final: the record of the whole run; ``None`` while it is not finished.
    """

    path: Path
    config: Mapping[str, Setting]
    versions: Mapping[str, str]
    rounds: tuple[RoundRecord, ...]
    final: RoundRecord | None

    @property
    def ledger(self) -> Path | None:
        """The file of what was spent; ``None`` without privacy."""
        path = self.path / LEDGER
        return path if _exists(path) else None

    def state_dict(self) -> dict[str, "torch.Tensor"]:
        """The model's tensors after the last finished round, for ``load_state_dict``.

        Raises:
          MissingExtraError: torch or safetensors is not installed.
          RunError: there is no model yet, or the file is corrupt.
        """
        require("Run.state_dict", "torch", "safetensors", extra="train")
        _, _, tensors = _read_model(self.path / MODEL)
        return {name: kept for name, kept in tensors.items() if not name.startswith(MOMENTS)}

    @property
    def table(self) -> dict[str, list[Any]]:
        """The rounds column by column, as metrics.csv has them: ``pandas.DataFrame(run.table)``.

        A record of numbers becomes a column for each, ``seconds.mask``; any other record or list
        its JSON. ``None`` where a round has no such value.
        """
        rows = [_row(record) for record in self.rounds]
        names = dict.fromkeys(name for row in rows for name in row)
        return {name: [row.get(name) for row in rows] for name in names}

    def to_csv(self) -> str:
        """``table`` as RFC 4180 has it, with a head, but for line ends, which are those of Unix."""
        table, text = self.table, io.StringIO()
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(table)
        lines.writerows(zip(*table.values(), strict=True))
        return text.getvalue()


def load_run(path: str | Path) -> Run:
    """Read the run in ``path``, of ``secagg train``; nothing is locked or written.

    A run that goes on meanwhile is read as of its last finished round.

    Raises:
      InputError: ``path`` is no path.
      RunError: a file is missing, corrupt, or of another run; the message names it.
    """
    try:
        folder = Path(path)
    except TypeError:
        raise InputError(f"{path!r:.80} is no path") from None
    config = _read_config(folder / CONFIG)
    metrics = _read_metrics(folder / METRICS, config)
    return Run(
        path=folder,
        config=config,
        versions=metrics["versions"],
        rounds=tuple(metrics["rounds"]),
        final=metrics["final"],
    )


def _row(record: RoundRecord) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, dict) and value and all(map(_is_number, value.values())):
            row |= {f"{name}.{inner}": number for inner, number in value.items()}
        else:
            row[name] = json.dumps(value) if isinstance(value, dict | list) else value
    return row


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def shown(record: Mapping[str, Any]) -> str:
    """The number of a record that tells best how good the model is; empty without evaluation."""
    for name in ("metric", "accuracy", "loss"):
        if (value := record.get(name)) is not None:
            return f"{name} {value:.3f}"
    return ""


def _make(folder: Path) -> bool:
    """Make ``folder`` exist; true if it was not there."""
    try:
        made = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise RunError(f"{folder} is a file; choose another folder with --out") from error
    except (OSError, ValueError) as error:
        raise cannot("make", folder, error) from error
    return made


def _check_free(folder: Path, *, overwrite: bool) -> None:
    """Raise ``RunError`` unless ``folder`` is empty, or holds a run that is to be replaced."""
    try:
        found = {entry.name for entry in folder.iterdir()}
    except OSError as error:
        raise cannot("read", folder, error) from error
    if found - {LOCK} - {temporary(folder / name).name for name in _FILES}:
        if not overwrite:
            raise RunError(
                f"{folder} is not empty; continue the run in it with --resume, replace it with "
                "--overwrite, or choose another folder with --out"
            )
        if CONFIG not in found or not _read(folder / CONFIG).startswith(_HEADER.encode()):
            raise RunError(
                f"{folder} does not look like a run, so --overwrite removes nothing; "
                "choose another folder with --out"
            )


def _remove_run(folder: Path) -> None:
    for path in (folder / name for name in _FILES):
        try:
            temporary(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise cannot("remove", path, error) from error


def _corrupt(path: Path, why: object) -> RunError:
    reason = str(why).splitlines()[0][:200] if str(why) else type(why).__name__
    return RunError(f"{path} is corrupt ({reason}); start again with --overwrite")


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise cannot("read", path, error) from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing: no run to continue there") from error
    except (OSError, ValueError) as error:
        raise cannot("read", path, error) from error


def _json(value: object, what: str, *, indent: int | None = None) -> str:
    try:
        return json.dumps(value, allow_nan=False, indent=indent)
    except (TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{what} cannot be written as JSON: {error}") from error


def _plain(record: Mapping[str, Any], what: str) -> RoundRecord:
    """The record as it will be read again: keys of mappings are strings, tuples are lists."""
    result: RoundRecord = json.loads(_json(dict(record), what))
    return result


def _digest(rounds: list[RoundRecord]) -> str:
    return hashlib.sha256(_canonical(rounds)).hexdigest()


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _parse(path: Path, data: bytes | str) -> RoundRecord:
    """One JSON object with finite numbers."""
    try:
        value = json.loads(data)
        json.dumps(value, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, error) from error
    if not isinstance(value, dict):
        raise _corrupt(path, "not an object")
    return value


def _to_toml(config: Mapping[str, Setting]) -> str:
    return _HEADER + "".join(
        f"{name if _BARE_KEY.fullmatch(name) else _toml_string(name, name)} = "
        f"{_toml_value(name, value)}\n"
        for name, value in config.items()
    )


def _toml_value(name: str, value: Setting) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _toml_string(name, value)
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    raise InputError(f"setting {name!r} is {value!r}: not a text, truth or finite number")


def _toml_string(name: str, text: str) -> str:
    # Every escape of JSON is one of TOML's; DEL is the one character that only TOML escapes.
    quoted = json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    try:
        quoted.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"setting {name!r} is {text!r}, which is not valid Unicode") from error
    return quoted


def _read_config(path: Path) -> dict[str, Setting]:
    try:
        config = tomllib.loads(_read(path).decode())
        _to_toml(config)
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, error) from error
    return config


def _read_metrics(path: Path, config: Mapping[str, Setting]) -> RoundRecord:
    metrics = _parse(path, _read(path))
    if metrics.get("schema") != SCHEMA:
        raise _corrupt(path, f"schema {metrics.get('schema')!r}, expected {SCHEMA}")
    for name, kind in (
        *(("config", dict), ("versions", dict)),
        *(("rounds", list), ("final", dict | None)),
    ):
        if name not in metrics or not isinstance(metrics[name], kind):
            raise _corrupt(path, f"no {name!r} of the right kind in it")
    if not all(isinstance(record, dict) and "round" in record for record in metrics["rounds"]):
        raise _corrupt(path, "a round that is no record")
    if metrics["config"] != config:
        raise RunError(
            f"{path} belongs to other settings than {CONFIG} beside it; restore {CONFIG}, "
            "or start again with --overwrite"
        )
    return metrics


def _encode_model(tensors: Mapping[str, "torch.Tensor"], rounds: list[RoundRecord]) -> bytes:
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save

    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise RunError(f"round {rounds[-1]['round']}: tensor {name!r} is not finite")
    # Copies, because safetensors refuses tensors that share memory.
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    metadata = {
        "round": str(rounds[-1]["round"]),
        "record": json.dumps(rounds[-1]),
        "history": _digest(rounds[:-1]),
    }
    try:
        header, body = _split(save(copies, metadata))
        return save(copies, metadata | {"sha256": _model_digest(header, body)})
    except (SafetensorError, TypeError, ValueError) as error:
        raise RunError(f"round {rounds[-1]['round']}: tensors cannot be saved: {error}") from error


def _read_model(path: Path) -> tuple[RoundRecord, str, dict[str, "torch.Tensor"]]:
    """The record of the model's round, the digest of the records before it, and the tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    data = _read(path)
    try:
        header, body = _split(data)
        metadata = header["__metadata__"]
        claimed = metadata.pop("sha256")
        # Before anything else looks at the file: past this line it is as it was written.
        if _model_digest(header, body) != claimed:
            raise _corrupt(path, "its digest does not match")
        record = _parse(path, metadata["record"])
        if str(record["round"]) != metadata["round"]:
            raise _corrupt(path, f"record of another round than {metadata['round']}")
        return record, metadata["history"], load(data)
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise _corrupt(path, error) from error
    except SafetensorError as error:
        raise _corrupt(path, error) from error


def _split(data: bytes) -> tuple[RoundRecord, memoryview]:
    """A safetensors file: u64 length, little-endian; that much JSON; the tensors."""
    start = 8 + int.from_bytes(data[:8], "little")
    if start > len(data):
        raise ValueError(f"{len(data)} bytes, the header alone needs {start}")
    header: RoundRecord = json.loads(data[8:start])
    return header, memoryview(data)[start:]


def _model_digest(header: RoundRecord, body: memoryview) -> str:
    """Over names, types, shapes, metadata and contents; not over the layout of the JSON."""
    digest = hashlib.sha256(_canonical(header) + b"\0")
    digest.update(body)
    return digest.hexdigest()
