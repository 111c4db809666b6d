"""What a loss term adds: methods that differ by it alone, compared at every magnification.

The pairs come from the config (`study.additions`): two methods trained alike, one with the other's terms and
one more. So the gain is the term's, and students with maps of several sizes tell where it says something.
"""

from typing import Any

from lowmag.comparisons import HEADLINE, Drawn, Scores, compare_pair, corrected, reference_at
from lowmag.magnification import name_of
from lowmag.predictions import Level, groups
from lowmag.study import Study

COLUMNS = (
    "level",
    "term",
    "method",
    "reference",
    "magnification",
    "unlabelled",
    "cells",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
)


def gains(level: Level, scored: Scores, drawn: Drawn, study: Study) -> list[dict[str, Any]]:
    """Rows of added_terms.tsv: what each addition gains in balanced accuracy, paired, with 95 % interval.

    p is two-sided, corrected by Holm over all rows of a term.
    """
    students = [group for group in groups(study) if group.role == "student"]
    rows = []
    for term in dict.fromkeys(addition.term for addition in study.additions):
        of_term = [
            (addition, student)
            for addition in study.additions
            for student in students
            if addition.term == term and student.method == addition.method
        ]
        pairs = [(student, reference_at(student, addition.reference, study)) for addition, student in of_term]
        found = corrected(compare_pair((level, HEADLINE), pair, scored, drawn, study) for pair in pairs)
        for (addition, student), row in zip(of_term, found, strict=True):
            cells = addition.cells.get(name_of(student.magnification), 0)
            rows.append(row.columns() | {"term": term, "cells": cells or None})
    return [{name: row[name] for name in COLUMNS} for row in rows]
