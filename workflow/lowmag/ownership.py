"""Whose results a folder holds now: those of the Snakemakes that are at work there.

A Snakemake that is killed by SIGKILL leaves jobs at work or in the queue, on a cluster for hours. Once it was
begun again, maybe with other options, what they publish would take the place of what it has made. So every
start leaves a file in the folder, which it keeps locked, and the file's path in the environment of its jobs.
The next start takes away the files that nobody locks any more, and outputs are published only while the file
of one's own start is there. Two Snakemakes that make different files of a folder leave each other's alone.
"""

import fcntl
import os
import signal
import uuid
from contextlib import suppress
from pathlib import Path

from lowmag.errors import UserError

RUN = "LOWMAG_RUN"  # path of the file of our start


def begin(results: Path) -> None:
    """Take over a folder of results for this process, as long as it lives, and the jobs it will start."""
    folder, name = results.absolute() / "state/starts", uuid.uuid4().hex
    folder.mkdir(parents=True, exist_ok=True)
    hidden, own = folder / f".{name}", folder / name
    descriptor = os.open(hidden, os.O_RDWR | os.O_CREAT, 0o666)  # the lock ends with the process
    _lock(descriptor)
    hidden.rename(own)
    for other in folder.glob("[!.]*"):
        if other != own and not _is_alive(other):
            other.unlink(missing_ok=True)
    os.environ[RUN] = str(own)


def _is_alive(start: Path) -> bool:
    """Whether the process of a start has it locked; not where the file system has no locks."""
    try:
        descriptor = os.open(start, os.O_RDWR)
    except OSError:
        return False
    try:
        return not _lock(descriptor)
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> bool:
    """Whether no other process has it locked."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass
    return True


def publish_under_lock(path: Path) -> None:
    """Let this process, unless it is outlived now, publish whatever begins from here on.

    For a trainer of `path` that has its lock, for which the next one waits.
    """
    refuse_outlived(path)
    os.environ.pop(RUN, None)


def refuse_outlived(path: Path) -> None:
    """Raise UserError instead of making `path` for a Snakemake that is gone, once another has followed."""
    start = Path(os.environ.get(RUN) or "/")
    try:
        start.read_bytes()  # a network file system looks for the file itself only when it is opened
    except FileNotFoundError:
        if not start.parent.exists():  # results were taken away: nobody to follow
            return
        end_job()
        raise UserError(
            f"{path} is not written: Snakemake has been started anew since it started this job, "
            "and makes it again; there is nothing to do"
        ) from None
    except OSError:  # no start is known
        return


def end_job() -> None:
    """End the Snakemakes within our job of SLURM, if it is one: they would remove the outputs of what failed.

    Those would by now be the outputs of another. All that Snakemake starts itself carry `--no-hooks`.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    for process in Path("/proc").glob("[0-9]*"):
        if process.name == str(os.getpid()):  # says why first
            continue
        with suppress(OSError):  # another user's, or it has ended
            variables = (process / "environ").read_bytes().split(b"\0")
            words = (process / "cmdline").read_bytes().split(b"\0")
            if f"SLURM_JOB_ID={job}".encode() in variables and b"--no-hooks" in words:
                os.kill(int(process.name), signal.SIGKILL)
