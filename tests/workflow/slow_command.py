"""A `lowmag` that waits before it makes one file for the first time, until it is told to go on."""

import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path

WRAPPER = """#!/bin/sh
case "$*" in
    *"{target}"*) if mkdir {folder}/first 2>/dev/null; then
        while test ! -e {folder}/go; do sleep 0.1; done
    fi ;;
esac
"{lowmag}" "$@"
status=$?
case "$*" in *"{target}"*) echo $status >> {folder}/ended ;; esac
exit $status
"""


@dataclass(frozen=True)
class SlowCommand:
    """A folder to be put ahead on PATH."""

    folder: Path

    def make(self, target: str) -> None:
        """Write the command that waits before it makes `target`."""
        self.folder.mkdir()
        command = self.folder / "lowmag"
        command.write_text(WRAPPER.format(folder=self.folder, target=target, lowmag=shutil.which("lowmag")))
        command.chmod(0o755)

    def ahead(self, path: str = os.environ["PATH"]) -> str:
        """PATH with this command in place of the other."""
        return f"{self.folder}:{path}"

    @property
    def waits(self) -> bool:
        """Whether the first has come to the file."""
        return (self.folder / "first").exists()

    def go_on(self) -> None:
        """Let the first go on."""
        (self.folder / "go").touch()

    @property
    def ended(self) -> list[str]:
        """Exit statuses of those that came to their end."""
        ended = self.folder / "ended"
        return ended.read_text().split() if ended.exists() else []


def until(condition, seconds: float = 600) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.1)
