"""How low one can go: the lowest magnification whose students are not worse than the teacher by the margin.

Magnifications are tested from the highest down, each at the full level, and the first that fails ends the
sequence. A fixed sequence keeps the chance of any false "not worse" in it at that level, without dividing it
(Maurer, Hothorn and Lehmacher 1995; Westfall and Krishen 2001, doi 10.1016/S0378-3758(01)00077-5). Holm's
correction would let a magnification pass below one that fails, at the price of a smaller level for every one.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from lowmag.comparisons import Comparison

COLUMNS = (
    "level",
    "method",
    "unlabelled",
    "magnification",
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


def with_verdict(family: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with `low_enough` filled in: whether they pass in the sequence of their method."""
    passed = {row.student for rows in sequences(family).values() for row in in_sequence(rows)}
    return [replace(row, low_enough=row.student in passed) for row in family]


def lowest_of_methods(
    family: Sequence[Comparison], record: Callable[[Comparison], Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """For every method and unlabelled share the record of the lowest magnification that passes, or None."""
    return [
        {"method": method, "unlabelled": share, "lowest": record(passed[-1]) if passed else None}
        for (method, share), rows in sequences(family).items()
        for passed in [in_sequence(rows)]
    ]


def table_rows(level: str, lowest: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of how_low.tsv; of a method none of whose magnifications passes the rest is empty."""
    return [
        dict.fromkeys(COLUMNS)
        | {name: (row["lowest"] or {}).get(name) for name in COLUMNS}
        | {"level": level, "method": row["method"], "unlabelled": row["unlabelled"]}
        for row in lowest
    ]
