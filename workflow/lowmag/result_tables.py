"""The tables of results in the report: scores, comparisons and cost, written for people."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lowmag.class_balanced import PREFIX
from lowmag.magnification import name_of
from lowmag.page import Cell, Table
from lowmag.scores import HEADLINE, TEACHER, Row, has_reading, pick
from lowmag.study import Study
from lowmag.wording import METRICS, NONE, probability, score, signed, three_digits, whole, with_interval

SHOWN = ("balanced_accuracy", "accuracy", "macro_f1", "auroc", "kappa_quadratic", "ovr_accuracy")
CLASS_BALANCED = {
    "ovr_accuracy": "one-vs-rest accuracy",
    "macro_f1": "F1",
    "macro_precision": "precision",
    "macro_recall": "recall",
}


def score_table(metrics: Sequence[Row], level: str, study: Study) -> Table:
    """Scores of every run group on the test split of one level, with intervals and the spread over seeds."""
    rows = pick(metrics, level=level, split="test", seed="mean")
    names = [name for name in SHOWN if pick(rows, metric=name)]
    spread = [f"sample sd of balanced accuracy, {len(study.seeds)} seeds"] if len(study.seeds) > 1 else []
    table = Table(["magnification", "method", "unlabelled", *(METRICS[name] for name in names), *spread], 3)
    for role, method, magnification, share in _groups(rows):
        group = pick(rows, role=role, method=method, magnification=magnification, unlabelled=share)
        of = {row["metric"]: row for row in group}
        identity = [name_of(magnification), method, f"{share:.0f} %" if role == "student" else NONE]
        values = [with_interval(of[name]) for name in names]
        deviation = [score(of[HEADLINE]["sd_seeds"])] if spread else []
        table.add(*identity, *values, *deviation, style="teacher" if role == TEACHER else "")
    return table


def _groups(rows: Sequence[Row]) -> list[tuple[str, str, float, float]]:
    found = dict.fromkeys(
        (row["role"], row["method"], row["magnification"], row["unlabelled"]) for row in rows
    )
    # Stable: within a magnification the order is that of the config.
    return sorted(found, key=lambda group: (group[0] != TEACHER, -group[2]))


def how_low_table(summary: Mapping[str, Any]) -> Table:
    """The lowest magnification of every method and share that is not worse, and what it saves."""
    header = ["method", "unlabelled", "lowest not worse", "by itself", "difference to the teacher"]
    table = Table([*header, "lower bound", "less computation", "fewer bytes read", "less time"], 2)
    for row in summary["how_low"]:
        lowest, identity = row["lowest"], [row["method"], f"{row['unlabelled']:.0f} %"]
        alone = name_of(row["alone"]) if row["alone"] else "none"
        if lowest is None:
            table.add(*identity, "none", alone, *[NONE] * 5)
            continue
        of_difference = {"low": lowest["difference_low"], "high": lowest["difference_high"]}
        difference = with_interval({"difference": lowest["difference"]} | of_difference, "difference")
        savings = [lowest[name] for name in ("compute_saving", "bytes_saving", "time_saving")]
        shown = [NONE if saving is None else f"× {three_digits(saving)}" for saving in savings]
        where = Cell(name_of(lowest["magnification"]), "good")
        table.add(*identity, where, alone, difference, signed(lowest["lower_bound"]), *shown)
    return table


def class_balanced_table(metrics: Sequence[Row], level: str) -> Table:
    """Scores as DiPalma et al. 2021 report them, with intervals from class-balanced resamples of pictures."""
    rows = pick(metrics, level=level, split="test", seed="mean")
    named = {PREFIX + name: title for name, title in CLASS_BALANCED.items()}
    table = Table(["magnification", "method", "unlabelled", *named.values()], 3)
    for role, method, magnification, share in _groups(rows):
        group = pick(rows, role=role, method=method, magnification=magnification, unlabelled=share)
        of = {row["metric"]: row for row in group}
        identity = [name_of(magnification), method, f"{share:.0f} %" if role == "student" else NONE]
        cells = [with_interval(of[name]) for name in named]
        table.add(*identity, *cells, style="teacher" if role == TEACHER else "")
    return table


def comparison_table(comparisons: Sequence[Row], level: str) -> Table:
    """Paired differences of balanced accuracy of one level, to the teacher and to the reference methods."""
    rows = pick(comparisons, level=level, metric=HEADLINE)
    against = {reference: pick(rows, reference=reference) for reference in _references(rows)}
    header = ["magnification", "method", "unlabelled", "difference to the teacher", "Holm p", "not worse?"]
    header += ["and every higher one?"]
    for reference in list(against)[1:]:
        header += [f"difference to {reference}", "Holm p", "share of the gap closed"]
    table = Table(header, 3)
    for row in sorted(against[TEACHER], key=lambda row: -row["magnification"]):
        identity = {name: row[name] for name in ("magnification", "method", "unlabelled")}
        passes = row["not_worse"] == "True"
        verdict = Cell("not worse" if passes else "not shown", "good" if passes else "")
        low_enough = row["low_enough"] == "True"
        sequence = Cell("yes" if low_enough else "no", "good" if low_enough else "")
        cells = [with_interval(row, "difference"), probability(row["p_holm"]), verdict, sequence]
        for reference in list(against)[1:]:
            cells += _to_reference(pick(against[reference], **identity))
        table.add(name_of(row["magnification"]), row["method"], f"{row['unlabelled']:.0f} %", *cells)
    return table


def _references(rows: Sequence[Row]) -> list[str]:
    """The teacher, then the reference methods, in the table's order."""
    return list(dict.fromkeys([TEACHER, *(row["reference"] for row in rows)]))


def _to_reference(rows: Sequence[Row]) -> list[Any]:
    """Cells of one student's comparison with a reference method; dashes for the method itself."""
    if not rows:
        return [NONE] * 3
    (row,) = rows
    of_gap = {"gap_closed": row["gap_closed"], "low": row["gap_low"], "high": row["gap_high"]}
    share = with_interval(of_gap, "gap_closed") if math.isfinite(row["gap_closed"]) else NONE
    return [with_interval(row, "difference"), probability(row["p_holm"]), share]


def untimed_teacher(cost: Sequence[Row]) -> str:
    """What is known of the cost of a teacher on features computed elsewhere; empty of any other."""
    teacher = next(row for row in cost if row["role"] == TEACHER)
    if math.isfinite(teacher["tiles_per_s"]):
        return ""
    known = (
        "and its computation is what the config states of that network (teacher.patch_gmac), unchecked"
        if math.isfinite(teacher["gmac_per_mm2"])
        else "nor is its computation known: state it as teacher.patch_gmac for savings to be reported"
    )
    return (
        "The teacher is a head on features that another network computed elsewhere: neither its time nor "
        f"what it read was measured, {known}."
    )


def cost_table(cost: Sequence[Row]) -> Table:
    """What the teacher and the students of every magnification cost; one row per network."""
    alone = {row["magnification"] for row in cost if row["role"] != TEACHER}
    own = len(cost) > 1 + len(alone)  # some method has students of a network of its own
    header = [
        "",
        *(["methods"] if own else []),
        "network",
        "parameters",
        "GMAC per tile",
        "GMAC per mm²",
        "tiles/s",
        "mm²/s",
    ]
    read = has_reading(cost)
    sized = all(math.isfinite(row["read_mb_per_slide"]) for row in cost if row["role"] != TEACHER)
    header += ["reading, s per slide", "network, s per slide", "together, s per slide"] if read else []
    header += ["read, MB per slide"] if sized else []
    ratios = ["compute_saving", *(["bytes_saving"] if sized else []), "time_saving"]
    named = ["fewer GMAC", *(["fewer bytes read"] if sized else []), "less time"]
    table = Table([*header, *named], 3 if own else 2)
    for row in cost:
        name = f"{row['role']}, {name_of(row['magnification'])}"
        plain = ["gmac_per_tile", "gmac_per_mm2", "tiles_per_s", "mm2_per_s"]
        plain += ["read_s_per_slide", "network_s_per_slide", "seconds_per_slide"] if read else []
        plain += ["read_mb_per_slide"] if sized else []
        savings = [f"× {three_digits(row[key])}" if math.isfinite(row[key]) else NONE for key in ratios]
        numbers = [three_digits(row[key]) for key in plain]
        style = "teacher" if row["role"] == TEACHER else ""
        methods = [row["methods"]] if own else []
        table.add(name, *methods, row["model"], whole(row["parameters"]), *numbers, *savings, style=style)
    return table
