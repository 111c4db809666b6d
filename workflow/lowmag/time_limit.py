"""How long the scheduler lets a job live."""

import math
import os
import re
import subprocess

SECONDS_TO_ANSWER = 30


def minutes_left() -> float:
    """Minutes until SLURM ends the job this process is in; infinite outside one, or where SLURM does not say.

    The limit a job was given is not what is left to its trainer: two starts of Snakemake come between, other
    jobs of one allocation, a limit changed by `scontrol update`.
    """
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return math.inf
    command = ["squeue", "--noheader", "--format=%L", f"--jobs={job}"]
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, timeout=SECONDS_TO_ANSWER, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return math.inf  # a node without clients, or a controller that is down
    return minutes_of(answer.stdout.strip())


def minutes_of(text: str) -> float:
    """Minutes in SLURM's writing, [days-][hours:]minutes:seconds; infinite for words such as UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(?:(\d+):)?(\d+):(\d+)", text)
    if not found:
        return math.inf
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    return (days * 24 + hours) * 60 + minutes + seconds / 60
