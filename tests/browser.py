"""Headless Chromium, driven over two pipes by the DevTools protocol: JSON ended by zero bytes."""

import base64
import contextlib
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile

import pytest

_PATIENCE = 240  # seconds without a word from the browser

# The browser reads commands from file descriptor 3, and answers on 4.
_EXEC = """if True:
    import fcntl, os, sys
    pipes = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1].split()]
    for number, pipe in zip((3, 4), pipes):
        os.dup2(pipe, number)
    os.execv(sys.argv[2], sys.argv[2:])
"""


def find_chromium() -> str:
    """Returns the browser; skips where there is none."""
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    if not any(found):
        pytest.skip("there is no chromium; apt-get install chromium")
    return next(path for path in found if path)


class Page:
    """A page that has been loaded.

    Attributes:
      events: what the browser told since, dicts with `method` and `params`.
    """

    def __init__(self, commands, answers):
        self.events = []
        self._commands, self._answers, self._rest, self._count = commands, answers, b"", 0
        self._session = None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]

    def call(self, method: str, **params):
        """Sends a command; returns its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "result" in answer, answer
                return answer["result"]
            self.events.append(answer)

    def open(self, path: pathlib.Path, *, width: int, height: int = 900, dark: bool = False):
        """Loads a file in a window of this width, in CSS pixels, and waits for it."""
        self.events = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.absolute().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def evaluate(self, expression: str):
        """Returns the value of JavaScript."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def complaints(self) -> list[str]:
        """Returns what the console would show in red or yellow, and uncaught exceptions."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event) for event in self.events if event["method"] in kinds]

    def requests(self) -> list[str]:
        """Returns the addresses that were asked for, but those of data in the page."""
        sent = [e for e in self.events if e["method"] == "Network.requestWillBeSent"]
        urls = [event["params"]["request"]["url"] for event in sent]
        return [url for url in urls if not url.startswith("data:")]

    def screenshot(self, path: pathlib.Path) -> None:
        """Writes the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], _PATIENCE)
            received = os.read(self._answers, 2**20) if ready else b""
            assert received, "the browser is gone or hangs"
            self._rest += received
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@contextlib.contextmanager
def browser():
    """Starts a browser; yields a page of it, and ends it after."""
    executable = find_chromium()
    commands, to_browser = os.pipe()
    from_browser, answers = os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--no-first-run",
            "--remote-debugging-pipe",
            f"--user-data-dir={profile}",
        ]

        process = subprocess.Popen(
            [sys.executable, "-ISc", _EXEC, f"{commands} {answers}", executable, *flags],
            pass_fds=(commands, answers),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        try:
            yield Page(to_browser, from_browser)
        finally:
            process.kill()
            process.wait()
            os.close(to_browser)
            os.close(from_browser)
