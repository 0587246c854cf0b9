"""A headless Chromium over a pipe, as the DevTools protocol speaks it: no port, no driver.

https://chromedevtools.github.io/devtools-protocol: JSON ended by a zero byte, in on
descriptor 3 and out on 4.
"""

import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0  # seconds for one answer, on a machine that is busy
FIRST_FREE = 10  # no descriptor of ours may be 3 or 4, which the browser's shell writes over


class Browser:
    """One process. ``call`` waits for the answer; what happened meanwhile is in ``events``."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs, self._write = _pipe()
        self._read, answers = _pipe()
        command = [
            *("bash", "-c", f'exec "$@" 3<&{theirs} 4>&{answers} {theirs}<&- {answers}>&-', "bash"),
            *(program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}"),
            *("--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
            *(["--no-sandbox"] if os.geteuid() == 0 else []),  # Chromium refuses root otherwise
        ]
        with (profile / "stderr").open("wb") as log:
            self._process = subprocess.Popen(
                command, pass_fds=(theirs, answers), stdout=log, stderr=log
            )
        os.close(theirs)
        os.close(answers)
        self._buffer, self._last, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **params: Any) -> Any:
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": params}
        if self._session and not method.startswith("Target."):
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._message()).get("id") != self._last:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def open(self, url: str, **media: Any) -> list[dict[str, Any]]:
        """Show ``url`` in a fresh tab, laid out for ``media``; returns the events until loaded."""
        old, self._session = self._session, ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        if old:
            self.call("Target.closeTarget", targetId=self._target)
        self._target = target
        for domain in ("Page", "Network", "Log", "Runtime", "Audits"):
            self.call(f"{domain}.enable")
        self.show(**media)
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._message())
        # Two frames later whatever the page asks for has been asked for.
        self.script("new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))")
        return [event for event in self.events if event.get("sessionId") == self._session]

    def show(
        self, *, width: int = 1200, height: int = 900, scheme: str = "light", media: str = "screen"
    ) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def script(self, expression: str) -> Any:
        """What a JavaScript expression gives, as JSON."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"])
        return found["result"].get("value")

    def close(self) -> None:
        os.close(self._write)  # the end of its input is the end of it
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._read)

    def _message(self) -> dict[str, Any]:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(end - time.monotonic(), 0))
            data = os.read(self._read, 1 << 20) if ready else b""
            if not data:
                raise RuntimeError("chromium went away" if ready else "chromium did not answer")
            self._buffer += data
        message, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(message)
        return answer


def _pipe() -> tuple[int, int]:
    """Descriptors out of the way of those that the browser reads and writes."""
    ends = os.pipe()
    read, write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, FIRST_FREE) for end in ends)
    for end in ends:
        os.close(end)
    return read, write


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        pytest.skip(
            "NO BROWSER: nobody looked at the pages. `make browser` installs Chromium on Debian; "
            f"elsewhere put one of {', '.join(NAMES)} on PATH"
        )
    running = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield running
    running.close()


@pytest.fixture(scope="session")
def made() -> Callable[[str, Callable[[], Path]], Path]:
    """Files that are dear to make, each made once and when it is first asked for."""
    held: dict[str, Path] = {}

    def get(name: str, make: Callable[[], Path]) -> Path:
        if name not in held:
            held[name] = make()
        return held[name]

    return get
