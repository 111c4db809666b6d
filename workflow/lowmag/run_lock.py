"""One trainer per run folder: a second one waits for the first."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from lowmag.checkpoint import Stop
from lowmag.publish import reporting

POLL_S = 0.5  # between two looks at a lock that another process holds

logger = logging.getLogger(__name__)


@dataclass
class Hold:
    """Whether the run folder is ours, and whether another process had it before."""

    ours: bool = False
    waited: bool = False


@contextmanager
def locked(folder: Path, stop: Stop) -> Iterator[Hold]:
    """Hold a run folder, after waiting for another trainer that has it; not ours if `stop` came first.

    Such a trainer outlived its Snakemake: killed on a workstation, or on a cluster's submit host. The lock is
    the system's (flock) and ends with the process, however that ends. Raises UserError when the folder cannot
    be written to.
    """
    descriptor = _open(folder / "lock")
    hold = Hold()
    try:
        while not (held := _lock(descriptor, folder)) and not stop.asked():
            if not hold.waited:
                holder = os.pread(descriptor, 200, 0).decode(errors="replace")
                logger.warning("another trainer (%s) is at work in %s: waiting for it", holder, folder)
            hold.waited = True
            time.sleep(POLL_S)
        hold.ours = held
        if held:
            with suppress(OSError):  # a full disk: the name only serves the message above
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}".encode(), 0)
        yield hold
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    with reporting(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def _lock(descriptor: int, folder: Path) -> bool:
    """Whether the file is locked now, or cannot be on this file system."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        logger.warning("%s cannot be locked (%s); take care that no second trainer runs", folder, error)
    return True
