"""Another implementation behind a pipe: a program that answers one line with one line.

It runs in a group of its own, with a limit on its memory and on the time of each answer, and is
killed with its children when we are done or it goes astray.
"""

import json
import os
import resource
import selectors
import shlex
import signal
import subprocess
import time
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

from secagg.errors import InputError, SecaggError
from secagg.interop.peer import MAX_LINE, PROTOCOL, ROLES, SPEAKS, Answer, Refusal, Request

TIMEOUT: Final = 60.0  # seconds for one answer; ours take at most one
MEMORY: Final = 2**31  # bytes that the program may write to; ours needs under 2**28
GRACE: Final = 2.0  # seconds to end by itself once its input has ended
_CHUNK: Final = 2**16  # bytes, what a pipe holds


class PeerError(SecaggError):
    """The other program ended, was silent for too long, or sent a line that is no answer."""


class ForeignPeer:
    """A program that speaks the protocol of docs/protocols/interop.md.

    Args:
      command: the program and its arguments, as in a shell, which is not used.
      timeout: seconds for one answer.
      memory: bytes that the program may write to (``RLIMIT_DATA``).
    """

    def __init__(self, command: str, *, timeout: float = TIMEOUT, memory: int = MEMORY) -> None:
        try:
            words = shlex.split(command)
        except ValueError as error:
            raise InputError(f"--peer {command!r:.200} is no command: {error}") from None
        if not words:
            raise InputError("--peer names no program")
        try:
            self._process = subprocess.Popen(  # noqa: S603  # the caller's own program
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise InputError(f"cannot start {words[0]!r:.200}: {error.strerror}") from None
        if self._process.stdin is None or self._process.stdout is None:
            raise PeerError("the program has no pipes")
        self._timeout, self._read = timeout, b""
        self._to, self._from = self._process.stdin, self._process.stdout
        os.set_blocking(self._to.fileno(), False)
        with suppress(ProcessLookupError):  # a program that has ended by now says so when asked
            resource.prlimit(self._process.pid, resource.RLIMIT_DATA, (memory, memory))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._to.close()
        self._ended(GRACE if kind is None else 0)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its children too; not yet reaped
        self._process.wait()
        self._from.close()

    def _ended(self, seconds: float) -> str:
        """How it ended, after at most so long. It is not reaped: its number stays its own."""
        deadline = time.monotonic() + seconds
        while True:
            found = os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG)
            if found is not None:
                by = "exit code" if found.si_code == os.CLD_EXITED else "signal"
                return f"it ended with {by} {found.si_status}"
            if time.monotonic() >= deadline:
                return "it closed its output"
            time.sleep(0.01)

    def hello(self) -> frozenset[str]:
        """The roles that it plays; ``InputError`` if it speaks another protocol or version."""
        answer = self.answer({"op": "hello"}).get("ok")
        found = answer if isinstance(answer, dict) else {}
        if (found.get("protocol"), found.get("speaks")) != (PROTOCOL, SPEAKS):
            raise InputError(
                f"the peer's hello is {json.dumps(answer)[:200]}, expected protocol {PROTOCOL!r} "
                f"and speaks {SPEAKS!r}"
            )
        roles = found.get("roles")
        if not isinstance(roles, list) or not roles or any(role not in ROLES for role in roles):
            raise InputError(f"the peer's roles are not among {', '.join(ROLES)}")
        return frozenset(roles)

    def answer(self, request: Request) -> Answer:
        """Its answer to one request.

        Raises:
          PeerError: it gave none in time, or a line that is none.
        """
        line = self._exchange(json.dumps(request).encode() + b"\n")
        try:
            answer = json.loads(line.decode())
        except (ValueError, RecursionError):
            raise PeerError(f"a line that is no JSON: {line[:80]!r}") from None
        if isinstance(answer, dict):
            if answer.keys() == {"ok"}:
                return answer
            if answer.get("error") in list(Refusal) and answer.keys() <= {"error", "message"}:
                return answer
        raise PeerError(f"a line that is no answer: {line[:80]!r}")

    def _exchange(self, line: bytes) -> bytes:
        """Write ``line`` and read one, in turns: a pipe that nobody reads must not hold us."""
        left, deadline = memoryview(line), time.monotonic() + self._timeout
        with selectors.PollSelector() as ready:
            ready.register(self._from, selectors.EVENT_READ)
            ready.register(self._to, selectors.EVENT_WRITE)
            while b"\n" not in self._read[-_CHUNK:]:
                events = ready.select(max(deadline - time.monotonic(), 0))
                if not events:
                    raise PeerError(f"no answer within {self._timeout:g} s")
                for key, _ in events:
                    if key.fileobj is self._from:
                        self._take()
                        continue
                    with suppress(BrokenPipeError):  # what it said before it ended comes first
                        left = left[os.write(self._to.fileno(), left[:_CHUNK]) :]
                        if left:
                            continue
                    ready.unregister(self._to)
        found, _, more = self._read.partition(b"\n")
        if more or left:
            raise PeerError("more than one line for one request, or one before it was sent")
        self._read = b""
        return found

    def _take(self) -> None:
        part = os.read(self._from.fileno(), _CHUNK)
        if not part:
            raise PeerError(self._ended(GRACE))
        self._read += part
        if len(self._read) > MAX_LINE:
            raise PeerError(f"a line of more than {MAX_LINE} bytes")
