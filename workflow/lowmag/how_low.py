"""How low one can go: the lowest magnification whose students are not worse than the teacher by the margin.

Magnifications of a method are tested from the highest down, and the first that fails ends the sequence. A
fixed sequence keeps the chance of any false "not worse" in it at the level of each test, without dividing it
(Maurer, Hothorn and Lehmacher 1995; Westfall and Krishen 2001, doi 10.1016/S0378-3758(01)00077-5). Over the
methods of a study the level is divided: each sequence gets an equal share, and one that passes to its end
hands its share on to the others, as in Holm's correction (Bretz et al. 2009, doi 10.1002/sim.3495). So the
chance of any false "low enough" among all methods and magnifications is that of one test.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lowmag.bootstrap import CONFIDENCE
from lowmag.comparisons import Comparison

LEVEL = 1 - CONFIDENCE
COLUMNS = (
    "level",
    "method",
    "unlabelled",
    "magnification",
    "magnification_alone",
    "difference",
    "lower_bound",
    "compute_saving",
    "bytes_saving",
    "time_saving",
)


def in_sequence(rows: Sequence[Comparison]) -> list[Comparison]:
    """The rows, one per magnification, that pass from the highest down, until one fails."""
    passed = []
    for row in sorted(rows, key=lambda row: -row.student.magnification):
        if not row.not_worse:
            break
        passed.append(row)
    return passed


def sequences(family: Sequence[Comparison]) -> dict[tuple[str, int], list[Comparison]]:
    """Comparisons of one metric with the teacher by method and unlabelled share, each one sequence."""
    found: dict[tuple[str, int], list[Comparison]] = {}
    for row in family:
        found.setdefault((row.student.method, row.student.unlabelled), []).append(row)
    return found


def over_methods(family: Sequence[Comparison]) -> dict[tuple[str, int], list[Comparison]]:
    """The rows of each method and share that pass in its sequence, the level divided over the sequences."""
    ordered = {
        key: sorted(rows, key=lambda row: -row.student.magnification)
        for key, rows in sequences(family).items()
    }
    level = dict.fromkeys(ordered, LEVEL / max(len(ordered), 1))
    passed = dict.fromkeys(ordered, 0)
    while level:
        for key, share in level.items():
            rest = ordered[key][passed[key] :]
            failed = next((i for i, row in enumerate(rest) if not _passes(row, share)), len(rest))
            passed[key] += failed
        through = [key for key in level if passed[key] == len(ordered[key])]
        handed_on = sum(level.pop(key) for key in through)
        if not through:
            break
        level = {key: share + handed_on / len(level) for key, share in level.items()}
    return {key: rows[: passed[key]] for key, rows in ordered.items()}


def _passes(row: Comparison, level: float) -> bool:
    # At the whole level the bound decides, as everywhere else: p counts in steps of one resample.
    return row.not_worse and (level >= LEVEL * (1 - 1e-9) or row.p_worse < level)


def with_verdict(family: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with `low_enough` filled in: whether they pass in `over_methods`."""
    passed = {row.student for rows in over_methods(family).values() for row in rows}
    return [replace(row, low_enough=row.student in passed) for row in family]


def lowest_of_methods(
    family: Sequence[Comparison], record: Callable[[Comparison], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For every method and unlabelled share the record of the lowest magnification that passes, or None.

    `alone` is the lowest magnification of a method that was decided on beforehand, in a sequence of its own.
    """
    corrected, found = over_methods(family), []
    for (method, share), rows in sequences(family).items():
        passed, alone = corrected[method, share], in_sequence(rows)
        lowest = record(passed[-1]) if passed else None
        lowest_alone = alone[-1].student.magnification if alone else None
        found.append({"method": method, "unlabelled": share, "lowest": lowest, "alone": lowest_alone})
    return found


def table_rows(level: str, lowest: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of how_low.tsv; of a method none of whose magnifications passes the rest is empty."""
    return [
        {name: (row["lowest"] or {}).get(name) for name in COLUMNS}
        | {"level": level, "magnification_alone": row["alone"]}
        | {name: row[name] for name in ("method", "unlabelled")}
        for row in lowest
    ]
