"""A headless Chromium driven through its DevTools pipe, with the standard library alone.

Without Chromium the test is skipped.
"""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell")
FLAGS = ("headless", "no-sandbox", "disable-gpu", "disable-dev-shm-usage", "hide-scrollbars", "no-first-run")
FLAGS += ("disable-background-networking", "disable-component-update", "disable-sync", "disable-quic")
FLAGS += ("remote-debugging-pipe",)
# Chromium reads from descriptor 3 and writes to 4; what they are here they need not be there.
LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
os.dup2(ends[0], 3), os.dup2(ends[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""
TIMEOUT_S = 60


def find() -> str:
    """The path of a Chromium; skips the test when there is none."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.skip(f"no {NAMES[0]} on the PATH; install it to test pages (apt-get install chromium)")


class Browser:
    """One page in a browser of its own; a context manager.

    `problems` collects what its scripts report as errors, `requests` the addresses it asks for.
    """

    def __init__(self) -> None:
        self._buffer, self._number, self._session = b"", 0, ""
        self.problems: list[str] = []
        self.requests: list[str] = []

    def __enter__(self) -> "Browser":
        with ExitStack() as stack:
            profile = stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True))
            self._start(profile, stack)
            target = self._call("Target.createTarget", url="about:blank")["targetId"]
            self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Network", "Log"):
                self._call(f"{domain}.enable")
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._session = ""
        self._call("Browser.close")
        self._stack.close()

    def _start(self, profile: str, stack: ExitStack) -> None:
        executable = find()
        theirs_in, self._to = os.pipe()
        self._from, theirs_out = os.pipe()
        for end in (self._to, self._from):
            stack.callback(os.close, end)
        command = [sys.executable, "-c", LAUNCH, str(theirs_in), str(theirs_out), executable]
        command += [*(f"--{flag}" for flag in FLAGS), f"--user-data-dir={profile}", "about:blank"]
        process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stderr=subprocess.DEVNULL)
        os.close(theirs_in)
        os.close(theirs_out)
        stack.callback(_end, process)

    def open(self, page: Path, fragment: str = "") -> None:
        """Load a page and wait until it is there; what the page before it reported is forgotten."""
        self._call("Page.navigate", url="about:blank")
        self.problems.clear()
        self.requests.clear()
        self._call("Page.navigate", url=page.as_uri() + fragment)
        ready = "location.href !== 'about:blank' && document.readyState === 'complete'"
        while not self.run(ready):
            pass

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited, errors raised."""
        result = self._call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def resize(self, width_px: int) -> None:
        """Make the page as wide as asked for."""
        size = {"width": width_px, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self._call("Emulation.setDeviceMetricsOverride", **size)

    def press(self, key: str, code: int) -> None:
        """Press and release a key, as Enter (13), where the focus is."""
        for kind in ("keyDown", "keyUp"):
            text = "\r" if key == "Enter" and kind == "keyDown" else ""
            self._call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code, text=text)

    def _call(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self._note(answer)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], TIMEOUT_S)
            received = os.read(self._from, 1 << 20) if ready else b""
            assert received, "the browser does not answer"
            self._buffer += received
        answer, _, self._buffer = self._buffer.partition(b"\0")
        return json.loads(answer)

    def _note(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        if event["method"] == "Runtime.exceptionThrown":
            self.problems.append(params["exceptionDetails"]["exception"].get("description", "an error"))
        elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.problems.append(params["entry"]["text"])
        elif event["method"] == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
