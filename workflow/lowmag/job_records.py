"""What is recorded of the jobs of a study, by Snakemake and by their logs: when, where, by what code."""

import base64
import binascii
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from lowmag.job_stamp import stamps_in, together

CONTINUED = "@"  # before the parts of a long name, all but the last


@dataclass
class _Job:
    """When one job began and ended, seconds from 1970, and its log."""

    start: float
    end: float
    log: Path


def rules_of(
    metadata: Path, results: str, is_gone: Callable[[str], bool] = lambda _: False
) -> dict[str, dict[str, Any]]:
    """Per rule that has written below `results`: its jobs, their times, and by what and where they were done.

    `metadata` is the folder `.snakemake/metadata`. Records hold the last run of each output; jobs before it,
    and attempts, are not kept. `is_gone` tells of an output, by its path below `results`, that it is no
    longer of the study. Empty where there are no records, as with another backend of Snakemake. Code,
    hardware and software are those that the jobs' logs tell; `jobs_silent` is how many do not.
    """
    jobs: dict[str, dict[str, _Job]] = defaultdict(dict)
    for output, record in _records(metadata):
        start, end = record.get("starttime"), record.get("endtime")
        if not (isinstance(start, int | float) and isinstance(end, int | float)):
            continue
        if output.startswith(f"{results}/") and not is_gone(output.removeprefix(f"{results}/")):
            logs = record.get("log")  # each job has its own
            log = metadata.parents[1] / (logs[0] if isinstance(logs, list) and logs else "")
            job = jobs[str(record.get("rule"))].setdefault(str(logs), _Job(start, end, log))
            job.start, job.end = min(job.start, start), max(job.end, end)
    return {rule: _summary(list(found.values())) for rule, found in sorted(jobs.items())}


def _summary(jobs: Sequence[_Job]) -> dict[str, Any]:
    """First start and last end (seconds from 1970), seconds together, what the jobs told of themselves."""
    told = [stamps for job in jobs if (stamps := stamps_in(job.log))]
    return {
        "jobs": len(jobs),
        "first_start": round(min(job.start for job in jobs), 3),
        "last_end": round(max(job.end for job in jobs), 3),
        "seconds": round(sum(job.end - job.start for job in jobs), 1),
        "jobs_silent": len(jobs) - len(told),
        **together(list(chain(*told))),
    }


def _records(metadata: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Path of every output and its record; damaged ones are passed over."""
    for path in sorted(metadata.rglob("*")) if metadata.is_dir() else ():
        if not path.is_file():
            continue
        name = "".join(part.removeprefix(CONTINUED) for part in path.relative_to(metadata).parts)
        try:
            output = base64.urlsafe_b64decode(name).decode()
            record = json.loads(path.read_text("utf-8"))
        except (binascii.Error, ValueError, OSError):
            continue
        if isinstance(record, dict) and not record.get("incomplete"):
            yield output, record
