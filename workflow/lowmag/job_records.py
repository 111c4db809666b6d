"""What Snakemake has recorded of the jobs of a study: which rule, from when to when; read, never guessed."""

import base64
import binascii
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

CONTINUED = "@"  # before the parts of a long name, all but the last


def rule_times(
    metadata: Path, results: str, is_gone: Callable[[str], bool] = lambda _: False
) -> dict[str, dict[str, Any]]:
    """Per rule that has written below `results`: jobs, first start and last end (seconds from 1970), seconds.

    `metadata` is the folder `.snakemake/metadata`. Records hold the last run of each output; jobs before it,
    and attempts, are not kept. `is_gone` tells of an output, by its path below `results`, that it is no
    longer of the study. Empty where there are no records, as with another backend of Snakemake.
    """
    jobs: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    for output, record in _records(metadata):
        start, end = record.get("starttime"), record.get("endtime")
        if not (isinstance(start, int | float) and isinstance(end, int | float)):
            continue
        if output.startswith(f"{results}/") and not is_gone(output.removeprefix(f"{results}/")):
            of_rule, job = jobs[str(record.get("rule"))], str(record.get("log"))  # each job has its own log
            first, last = of_rule.get(job, (start, end))
            of_rule[job] = min(first, start), max(last, end)
    return {rule: _summary(list(found.values())) for rule, found in sorted(jobs.items())}


def _summary(times: Sequence[tuple[float, float]]) -> dict[str, Any]:
    return {
        "jobs": len(times),
        "first_start": round(min(start for start, _ in times), 3),
        "last_end": round(max(end for _, end in times), 3),
        "seconds": round(sum(end - start for start, end in times), 1),
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
