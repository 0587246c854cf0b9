"""Files written whole or not at all, keys that nobody else may have touched, and locks."""

import csv
import errno
import fcntl
import io
import os
import stat
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EACCES, EDQUOT, EFBIG, ENOSPC, EPERM, EROFS
from pathlib import Path
from shlex import quote
from types import TracebackType
from typing import Final, Self

from secagg.errors import IdentityError, RunError

LOCK = ".lock"  # in a folder that one process works in; stays when it ends

_NO_SPACE = "free some space there"
_NO_RIGHT = "choose a folder that you may write"
_ADVICE = {
    **dict.fromkeys((ENOSPC, EDQUOT, EFBIG), _NO_SPACE),
    **dict.fromkeys((EACCES, EPERM, EROFS), _NO_RIGHT),
}


def write_new(path: str | Path, data: bytes, *, private: bool = False) -> None:
    """``data`` in a file that was not there before, on disk when this returns.

    Raises:
      IdentityError: the file exists, or cannot be written; no part of it is left then.
    """
    path, mode = Path(path), 0o600 if private else 0o644
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with _folder(path, private=private) as folder:
        file = os.open(path.name, flags, mode, dir_fd=folder)
        try:
            with open(file, "wb") as stream:
                os.fchmod(file, mode)  # whatever the umask
                stream.write(data)
                stream.flush()
                os.fsync(file)
            os.fsync(folder)
        except BaseException:
            os.unlink(path.name, dir_fd=folder)
            raise


def read_file(path: str | Path, most: int, *, private: bool = False) -> bytes:
    """What is in a file of at most ``most`` bytes; ``IdentityError`` says why it cannot be read."""
    path = Path(path)
    # A pipe does not make us wait.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if private else 0)
    with (
        _folder(path, private=private) as folder,
        open(path.name, "rb", opener=lambda name, _: os.open(name, flags, dir_fd=folder)) as stream,
    ):
        about = os.fstat(stream.fileno())
        if not stat.S_ISREG(about.st_mode):
            raise IdentityError(f"{path} is no regular file")
        if private and about.st_uid != os.geteuid():
            raise IdentityError(f"{path} belongs to somebody else: make a key of your own")
        if private and about.st_mode & 0o077:
            raise IdentityError(
                f"others may read or write {path}: chmod 600 {quote(str(path))}, "
                "or make another if they may have"
            )
        data = stream.read(most + 1)
    if len(data) > most:
        raise IdentityError(f"{path} has more than {most} bytes; is it the right file?")
    return data


@contextmanager
def _folder(path: Path, *, private: bool) -> Iterator[int]:
    """The folder of ``path``, opened, so that what was checked is what is used."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if private:
                _check_folder(path.parent, os.fstat(folder))
            yield folder
        finally:
            os.close(folder)
    except FileExistsError:
        raise IdentityError(f"{path} exists, and is left as it is: choose another name") from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        if private and getattr(error, "errno", None) == errno.ELOOP:
            raise IdentityError(f"{path} is a symbolic link: name the file itself") from None
        reason = getattr(error, "strerror", None) or error
        raise IdentityError(f"cannot open or write {path}: {reason}") from error


def _check_folder(folder: Path, about: os.stat_result) -> None:
    """Others can put another file in place of ours if the folder is theirs or open to them."""
    if about.st_uid not in (os.geteuid(), 0):
        raise IdentityError(f"the folder {folder} belongs to somebody else: keep keys in your own")
    if about.st_mode & 0o022 and not about.st_mode & stat.S_ISVTX:
        raise IdentityError(f"others may write to {folder}: chmod go-w {quote(str(folder))}")


def write_atomically(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, durably, or leave it as it was.

    What is no regular file is not replaced: a rename would put a file in the place of a device,
    a pipe or a link, and whoever reads there would wait for ever.

    Raises:
      RunError: ``path`` is a link, a pipe, a device or a folder; the disk is full, read-only, ...
        Nothing temporary is left behind, and the old file is untouched (only if syncing the
        *folder* fails may it be the new one already).
    """
    beside = temporary(path)
    try:
        if os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode):
            raise RunError(f"{str(path)!r} is no regular file, and is left as it is; name another")
        try:
            _write_synced(beside, data)
            beside.replace(path)
        except BaseException:
            with suppress(OSError, ValueError):
                beside.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
        raise cannot("write", path, error) from error


def temporary(path: Path) -> Path:
    """The file that ``write_atomically`` writes before it renames it."""
    # One fixed name: what a killed process left is replaced by the next write.
    return path.with_name(f".{path.name}.tmp")


def _write_synced(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, 0o666)
    try:
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """The names in ``folder`` are on disk when this returns."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FolderLock:
    """One process at a time works in a folder; several locks of one process are one.

    Held until ``close``, or until the process ends however it ends. Advisory: it stops those
    who ask for it, and nobody else.

    Raises:
      RunError: another process holds it; the message names that one. Or the folder cannot be
        written, or lies where files cannot be locked.
    """

    __slots__ = ("_place",)

    def __init__(self, folder: Path) -> None:
        self._place: tuple[int, int] | None = None
        try:
            file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC)
            about = os.fstat(file)
            place = (about.st_dev, about.st_ino)
            with _MUTEX:
                # A second descriptor of one file is locked out by the first, of our own too.
                if place in _HELD:
                    _HELD[place][1] += 1
                    os.close(file)
                else:
                    _lock(file, folder)
                    _HELD[place] = [file, 1]
        except (OSError, ValueError) as error:
            raise cannot("lock", folder, error) from error
        self._place = place

    def close(self) -> None:
        """Give the folder to the next process. Closing twice is harmless."""
        place, self._place = self._place, None
        with _MUTEX:
            if place not in _HELD:  # after a fork nothing is held
                return
            _HELD[place][1] -= 1
            if not _HELD[place][1]:
                os.close(_HELD.pop(place)[0])

    __del__ = close

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


_HELD: Final[dict[tuple[int, int] | None, list[int]]] = {}  # descriptor, locks on it
_MUTEX: Final = threading.RLock()  # a lock may be collected while another is made


def _lock(file: int, folder: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 20, 0).decode("ascii", "replace").strip()
        os.close(file)
        who = f" (pid {holder})" if holder.isdigit() else ""
        raise RunError(f"another process{who} works in {str(folder)!r}") from None
    except OSError:
        os.close(file)
        raise
    os.ftruncate(file, 0)
    os.pwrite(file, str(os.getpid()).encode(), 0)


def _forget() -> None:
    """A forked child holds no lock, and does not keep its parent's."""
    for file, _ in _HELD.values():
        os.close(file)
    _HELD.clear()


os.register_at_fork(after_in_child=_forget)


def cannot(verb: str, path: Path, error: OSError | ValueError) -> RunError:
    """What went wrong with ``path``, and what to do, in one line."""
    number = error.errno if isinstance(error, OSError) else None
    reason = os.strerror(number) if number is not None else str(error)
    advice = _ADVICE.get(number or 0, "choose another path")
    return RunError(f"cannot {verb} {str(path)!r}: {reason}; {advice}")


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows as CSV: every name a column, None an empty cell."""
    columns, text = list(dict.fromkeys(name for row in rows for name in row)), io.StringIO()
    lines = csv.DictWriter(text, columns, lineterminator="\n")
    lines.writeheader()
    lines.writerows(rows)
    return text.getvalue()
