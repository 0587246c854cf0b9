"""A model's file held against the models that a ledger names.

Read is safetensors, without torch: u64 length, little-endian; that much JSON; the values.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from protocols.wire import digest
from secagg.audit.values import ModelFile, Release
from secagg.errors import InputError

_TYPES: Final = {  # in the file: as ``model_digest`` names it, and bytes of one
    **{f"F{8 * size}": (f"float{8 * size}", size) for size in (2, 4, 8)},
    **{f"I{8 * size}": (f"int{8 * size}", size) for size in (1, 2, 4, 8)},
    **{f"U{8 * size}": (f"uint{8 * size}", size) for size in (1, 2, 4, 8)},
    "BF16": ("bfloat16", 2),
    "BOOL": ("bool", 1),
    "C64": ("complex64", 8),
    "F8_E4M3": ("float8_e4m3fn", 1),
    "F8_E5M2": ("float8_e5m2", 1),
}


def model_file(path: Path, releases: Sequence[Release], *, apart: str = "") -> ModelFile:
    """The file at ``path`` held against ``releases``; else as ``digest_of_file``."""
    found = digest_of_file(path, apart=apart)
    release = next((one for one in reversed(releases) if one.model == found), None)
    return ModelFile(
        name=path.name,
        digest=found,
        release=release,
        last=bool(releases) and releases[-1].model == found,
        named=len(releases),
    )


def digest_of_file(path: Path, *, apart: str = "") -> bytes:
    """``secagg.model_digest`` of the model in a safetensors file.

    Args:
      path: of the file.
      apart: values whose name begins so are no part of the model, and left out.

    Raises:
      InputError: it cannot be read, or is no whole safetensors file of numbers.
    """
    try:
        data = memoryview(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"cannot read the model {path}: {reason}") from error
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        if start > len(data):
            raise ValueError("shorter than its header")
        header = json.loads(bytes(data[8:start]), object_pairs_hook=_once)
        header.pop("__metadata__", None)
        parts: list[bytes | memoryview] = []
        for name in sorted(header):
            if not (apart and name.startswith(apart)):
                parts += _parts(name, header[name], data[start:])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} is no model that can be compared ({error!s:.100}); give a .safetensors file"
        ) from error
    return digest(*parts)


def _parts(name: str, said: Any, body: memoryview) -> tuple[bytes | memoryview, ...]:
    kind, size = _TYPES[said["dtype"]]
    shape, (begin, end) = tuple(said["shape"]), said["data_offsets"]
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise ValueError(f"{name!r:.80} has no shape or place")
    if end > len(body) or end - begin != math.prod(shape) * size:
        raise ValueError(f"{name!r:.80} is not where its header says")
    return name.encode(), kind.encode(), repr(shape).encode(), body[begin:end]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(held := dict(pairs)) < len(pairs):
        raise ValueError("a name stands there twice")
    return held
