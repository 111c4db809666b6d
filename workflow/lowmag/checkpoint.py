"""Training state that survives a stop: one file under `state/`, and what decides that a run must stop.

Snakemake deletes the outputs of a job before every attempt, so this file is none of them. It is written
atomically, belongs to one digest of everything the run depends on, and is removed when the run has finished.
"""

import hashlib
import io
import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from lowmag.publish import publishing

EXIT_UNFINISHED = 75  # EX_TEMPFAIL of sysexits.h: try again
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)

logger = logging.getLogger(__name__)


def digest_of(content: dict[str, Any]) -> str:
    """SHA-256 of JSON content, as 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


class Stop:
    """Whether the run has to stop: a signal came (SIGTERM, SIGINT, SIGUSR1), or the budget is nearly used up.

    A context manager, because it takes over the signals. `budget_minutes` counts from its making. Repeated
    signals change nothing: SLURM may deliver SIGTERM both to the step and to its processes.
    """

    def __init__(self, budget_minutes: float) -> None:
        budget_s = budget_minutes * 60
        # For saving, and for what came before: importing torch, waiting for a slow file system.
        self._deadline = time.monotonic() + budget_s - min(60.0, 0.1 * budget_s)
        self._previous: dict[signal.Signals, Any] = {}
        self._signal = False
        self.reason = ""

    def __enter__(self) -> "Stop":
        # Python gives signals to its main thread only.
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._receive) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def asked(self, seconds_ahead: float = 0.0) -> bool:
        """Whether to stop now, given that what comes next takes `seconds_ahead`."""
        if not self.reason and time.monotonic() + seconds_ahead > self._deadline:
            self.reason = "the time budget is used up"
        return bool(self.reason)

    def signalled(self) -> bool:
        """Whether a signal came."""
        return self._signal

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._signal = True
        self.reason = f"received {signal.Signals(number).name}"


class Checkpoint:
    """The state file of one run in `folder`, bound to the digest of what the run depends on."""

    def __init__(self, folder: Path, digest: str, every_minutes: float) -> None:
        self.path = folder / "checkpoint.pt"
        self.digest = digest
        self._every_s = every_minutes * 60
        self._saved_at = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The saved state, tensors on the CPU; None when there is none of this digest.

        A state of another digest, or one that cannot be read, is set aside as `checkpoint.other.pt`.
        """
        for left_over in self.path.parent.glob(".checkpoint.*"):  # of a save that was killed
            left_over.unlink(missing_ok=True)
        if not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises a dozen kinds; all mean that the file cannot be used
            return self._set_aside(f"cannot be read ({str(error).splitlines()[0]})")
        if content.get("digest") != self.digest:
            return self._set_aside("belongs to other options, code, tiles, splits or teacher")
        return content["state"]

    def due(self) -> bool:
        """Whether the interval between two saves has passed."""
        return time.monotonic() - self._saved_at >= self._every_s

    def save(self, state: dict[str, Any]) -> None:
        """Write tensors and plain values, atomically, in place of the last ones."""
        content = io.BytesIO()  # torch's own writer raises RuntimeError on a full disk and does not say why
        torch.save({"digest": self.digest, "state": state}, content)
        with publishing(self.path) as temporary:
            temporary.write_bytes(content.getbuffer())
        self._saved_at = time.monotonic()

    def remove(self) -> None:
        """Delete the state: the run has finished and its outputs are there."""
        self.path.unlink(missing_ok=True)

    def _set_aside(self, reason: str) -> None:
        aside = self.path.with_name("checkpoint.other.pt")
        os.replace(self.path, aside)
        logger.warning("the checkpoint %s %s: starting anew, it is kept as %s", self.path, reason, aside.name)
