"""Whose results a folder holds now: those of the Snakemake that began there last.

A Snakemake that is killed by SIGKILL leaves jobs at work, on a cluster for hours. Once it was begun again,
maybe with other options, what they publish would take the place of what it has made. So every start leaves
its name in the folder and in the environment of its jobs, and outputs are published where both agree.
Trainers need none of this: the lock on their run makes the new one wait, and look whose run it then finds
(`run_lock`).
"""

import os
import signal
import uuid
from contextlib import suppress
from pathlib import Path

from lowmag.errors import UserError

RUN = "LOWMAG_RUN"  # file that names the last start, and the name of our own, with a colon between


def begin(results: Path) -> None:
    """Take over a folder of results for this process and the jobs it will start."""
    file, name = results.absolute() / "state/begun", uuid.uuid4().hex
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f"begun.{name}")
    temporary.write_text(name, encoding="ascii")
    temporary.replace(file)
    os.environ[RUN] = f"{file}:{name}"


def exempt() -> None:
    """Let this process publish whatever has begun since."""
    os.environ.pop(RUN, None)


def refuse_outlived(path: Path) -> None:
    """Raise UserError instead of publishing `path` for a Snakemake that another one has followed."""
    file, _, name = os.environ.get(RUN, "").rpartition(":")
    with suppress(FileNotFoundError):  # no start is known, or results were taken away: nobody to follow
        if file and Path(file).read_text(encoding="ascii") != name:
            end_job()
            raise UserError(
                f"{path} is not written: Snakemake has been started anew since it started this job, "
                "and makes it again; there is nothing to do"
            )


def end_job() -> None:
    """End the Snakemakes within our job of SLURM, if it is one: they would remove the outputs of what failed.

    Those would by now be the outputs of another. All that Snakemake starts itself carry `--no-hooks`.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # another user's, or it has ended
            variables = (process / "environ").read_bytes().split(b"\0")
            words = (process / "cmdline").read_bytes().split(b"\0")
            if f"SLURM_JOB_ID={job}".encode() in variables and b"--no-hooks" in words:
                os.kill(int(process.name), signal.SIGKILL)
