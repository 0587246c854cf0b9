"""A model's file held against a ledger: the digest is of its values, and it is read strictly."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from secagg.audit.released import digest_of_file, model_file
from secagg.audit.values import Release
from secagg.errors import InputError
from secagg.vectors.arrays import model_digest


def written(path: Path, header: Any, body: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + body)
    return path


def test_the_digest_of_a_file_is_the_models(tmp_path: Path) -> None:
    kinds = (
        *(torch.float16, torch.float32, torch.float64, torch.bfloat16, torch.bool),
        *(torch.int8, torch.int64, torch.uint8, torch.complex64),
        *(torch.float8_e4m3fn, torch.float8_e5m2),
    )
    state = {str(kind): torch.ones(2, 3).to(kind) for kind in kinds}
    state |= {"none": torch.zeros(0, 4), "one": torch.tensor(3), "b.a": torch.arange(4)}
    save_file(state | {"apart: x": torch.ones(1)}, tmp_path / "model", {"said": "x"})
    assert digest_of_file(tmp_path / "model", apart="apart: ") == model_digest(state)
    assert digest_of_file(tmp_path / "model") != model_digest(state)


def test_a_file_is_said_to_be_the_last_model_an_earlier_one_or_none(tmp_path: Path) -> None:
    place = tmp_path / "m.safetensors"
    save_file({"a": torch.ones(2)}, place)
    own = Release(round=1, attempt=0, model=digest_of_file(place))
    other = Release(round=2, attempt=0, model=bytes(32))
    for releases, said, foreign in (
        ((other, own), "m.safetensors holds that model", False),
        ((own, other), "m.safetensors holds the model of round 1, not the last", False),
        ((other,), "m.safetensors holds ANOTHER MODEL", True),
        ((), "m.safetensors was compared with nothing: the ledger names no model", False),
    ):
        found = model_file(place, releases)
        assert found.sentence.startswith(said)
        assert found.foreign is foreign


@pytest.mark.parametrize(
    "header",
    [
        b"no JSON",
        [],
        {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 8]}},
        {"a": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}},
        {"a": {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]}},
        {"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}},
        {"a": {"dtype": "X", "shape": [1], "data_offsets": [0, 4]}},
        {"a": {"shape": [1]}},
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": 1}',
    ],
)
def test_what_is_no_whole_file_of_numbers_is_bad_input(tmp_path: Path, header: Any) -> None:
    with pytest.raises(InputError, match="no model that can be compared"):
        digest_of_file(written(tmp_path / "model", header, bytes(8)))
    with pytest.raises(InputError, match="no model that can be compared"):
        digest_of_file(_short(tmp_path))
    with pytest.raises(InputError, match="cannot read the model"):
        digest_of_file(tmp_path / "nothing")


def _short(folder: Path) -> Path:
    (folder / "short").write_bytes((99).to_bytes(8, "little"))
    return folder / "short"
