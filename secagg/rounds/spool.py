"""Frames of an upload on disk, for vectors larger than memory.

A server adds a vector only when all its frames are there, so until then they
have to wait somewhere. What waits is masked: no secret touches the disk.
"""

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, overload

from secagg.errors import RunError


class Spool(Sequence[bytes]):
    """The frames of one upload, in a temporary file that nobody else sees.

    ``append`` what arrives, hand the whole to ``CollectVectors.receive``, close.

    Args:
      folder: where the file lies; by default the system's folder for such files.

    Raises:
      RunError: the file cannot be written or read.
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self._ends = [0]
        try:
            self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by close()
        except OSError as error:
            raise RunError(f"cannot spool frames: {error}; give a folder with space") from error

    def append(self, frame: bytes) -> None:
        try:
            self._file.seek(self._ends[-1])
            self._file.write(frame)
        except (OSError, ValueError) as error:
            raise RunError(f"cannot spool a frame: {error}; give a folder with space") from error
        self._ends.append(self._ends[-1] + len(frame))

    def keep(self, frames: Iterable[bytes]) -> "SpooledPart":
        """Several uploads in one file: these frames behind what is there, to be read again."""
        begin = len(self)
        for frame in frames:
            self.append(frame)
        return SpooledPart(self, range(begin, len(self)))

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        begin, end = self._ends[place : place + 2]
        try:
            self._file.seek(begin)
            frame = self._file.read(end - begin)
        except (OSError, ValueError) as error:
            raise RunError(f"cannot read a spooled frame: {error}") from error
        if len(frame) != end - begin:
            raise RunError("a spooled frame was cut short on disk; start the round again")
        return frame

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class SpooledPart(Sequence[bytes]):
    """Some frames of a spool."""

    def __init__(self, spool: Spool, places: range) -> None:
        self._spool, self._places = spool, places

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> bytes: ...
    @overload
    def __getitem__(self, index: slice) -> list[bytes]: ...
    def __getitem__(self, index: int | slice) -> bytes | list[bytes]:
        if isinstance(index, slice):
            return [self._spool[place] for place in self._places[index]]
        return self._spool[self._places[index]]
