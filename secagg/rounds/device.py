"""Masks expanded on a CUDA device: an ``Expand`` like those of ``secagg.rounds.masking``.

    Bonawitz(expand=on_device())        # of a session whose suite is ChaCha20

The suite is the session's (``Params.suite``), and only ``CHACHA20`` has a kernel: a device has no
instruction for AES. Another suite, or a machine without device or triton, takes the cores of this
machine instead, bit for bit the same, and says so once in the log.

Keys of masks are handed to the device, which is this machine's: whoever reads its memory reads
them, as with the memory of this process.
"""

import logging
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from protocols.errors import LocalProtocolError
from protocols.primitives.prg import (
    BLOCK_WORDS,
    MAX_WORDS,
    Expand,
    Mask,
    Streams,
    Suite,
    chacha20_material,
)
from secagg.errors import InputError
from secagg.rounds import masking

if TYPE_CHECKING:
    import torch

MATERIAL_SIZE: Final = 44  # bytes of key and nonce
PART_WORDS: Final = 2**24  # 128 MiB a copy to the device and back

_log: Final = logging.getLogger("secagg")
_said: Final[set[str]] = set()


def on_device(device: "torch.device | str" = "cuda") -> Expand:
    """Expand masks of ChaCha20 on a device, and all others on the cores of this machine.

    What it gives applies masks to words of this machine with ``apply_to``, and, where a device is
    used, to words that lie there with :meth:`DeviceMasks.apply_to_tensor`.

    Args:
      device: of torch, "cuda" or one of several, such as "cuda:1".
    """

    def expand(masks: Sequence[Mask], suite: Suite) -> Streams:
        if why := why_not(suite):
            if why not in _said:
                _said.add(why)
                _log.warning("secagg: masks are expanded on the cores of this machine: %s", why)
            return masking.expand(masks, suite)
        return DeviceMasks(masks, device)

    return expand


def why_not(suite: Suite) -> str | None:
    """Why no device expands masks of ``suite`` here; ``None`` if one does."""
    if suite is not Suite.CHACHA20:
        return "the session's suite is not CHACHA20, the only one with a kernel"
    for module in ("torch", "triton"):
        if find_spec(module) is None:
            return f"{module} is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":  # the kernel in numpy: for tests
        return None
    import torch

    return None if torch.cuda.is_available() else "torch finds no CUDA device"


class DeviceMasks(masking.OnThreads):
    """Streams of ChaCha20 that a device makes; see :func:`on_device`.

    Raises:
      InputError: a seed is not 32 bytes.
    """

    def __init__(self, masks: Sequence[Mask], device: "torch.device | str") -> None:
        import torch

        from secagg.rounds import chacha

        masking.check_seeds(masks)
        ordered = sorted(masks, key=lambda mask: not mask.subtract)
        material = b"".join(chacha20_material(mask.seed.expose(), mask.label) for mask in ordered)
        on_cpu = os.environ.get("TRITON_INTERPRET") == "1"
        self.device = torch.device("cpu" if on_cpu else device)
        numbers = np.frombuffer(material, "<i4").copy()
        self._material = torch.from_numpy(numbers).to(self.device)
        self._subtracted = sum(mask.subtract for mask in masks)
        self._seeds = len(masks)
        self._at = 0
        self._threads = masking.thread_count()
        self._launch = chacha.launch

    def apply_to(self, words: NDArray[np.uint64]) -> None:
        """Add and subtract the next words of each, in place, by way of the device."""
        import torch

        masking.check_words(words, self._at)
        for begin in range(0, len(words), PART_WORDS):
            part = words[begin : begin + PART_WORDS].view(np.int64)
            there = torch.from_numpy(part).to(self.device).contiguous()
            self.apply_to_tensor(there)
            part[:] = there.cpu().numpy()

    def apply_to_tensor(self, words: "torch.Tensor") -> None:
        """Add and subtract the next words of each, in place, where they lie.

        Args:
          words: int64, whose bits are the words; 1-D, contiguous, on our device.

        Raises:
          InputError: ``words`` is no such tensor.
          LocalProtocolError: a seed would give more words than it may.
        """
        import torch

        if words.dtype != torch.int64 or words.ndim != 1 or not words.is_contiguous():
            raise InputError(
                f"words of {words.dtype} in {words.ndim} dimensions; need contiguous int64"
            )
        if words.device != self._material.device:
            raise InputError(
                f"words lie on {words.device}, masks are made on {self._material.device}"
            )
        if self._at + len(words) > MAX_WORDS:
            raise LocalProtocolError(
                f"a seed gives at most {MAX_WORDS} words, asked for {self._at + len(words)}"
            )
        if len(words) and self._seeds:
            self._launch(
                words,
                self._material,
                count=len(words),
                skipped=self._at % BLOCK_WORDS,
                first_block=self._at // BLOCK_WORDS,
                subtracted=self._subtracted,
                seeds=self._seeds,
            )
        self._at += len(words)

    def __repr__(self) -> str:
        return f"<DeviceMasks of {self._seeds} seeds on {self.device}>"

    def __reduce__(self) -> Any:
        raise TypeError("masks hold keys: they are not pickled")
