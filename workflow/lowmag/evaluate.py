"""The tables of a study: metrics, comparisons, cost, how low one can go; and `summary.json`.

All runs are scored under the same resamples of patients, so differences between them are paired. Validation
rows are in `metrics.tsv` for the record; every comparison is on the test split.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lowmag import added_terms, bootstrap, class_balanced, how_low, metrics, noninferiority
from lowmag.bootstrap import Estimate
from lowmag.comparisons import COLUMNS as COMPARISON_COLUMNS
from lowmag.comparisons import HEADLINE, TEACHER, Comparison, Drawn, Scores, compare
from lowmag.cost import COLUMNS as COST_COLUMNS
from lowmag.cost import cost_rows
from lowmag.errors import UserError
from lowmag.metrics import limits_of
from lowmag.predictions import Group, Part, read_parts
from lowmag.publish import publishing, write_json
from lowmag.study import Study
from lowmag.summary import Findings, summarise

log = logging.getLogger(__name__)

METRIC_COLUMNS = (
    "level",
    "split",
    "role",
    "method",
    "magnification",
    "unlabelled",
    "seed",
    "metric",
    "value",
    "low",
    "high",
    "sd_seeds",
    "n_patients",
    "n",
)


def write_tables(predictions: Path, reading: Path | None, out: Path, study: Study) -> None:
    """Write metrics, comparisons, cost, how_low and added_terms.tsv and summary.json of a study into `out`.

    `reading` is reading.tsv (None, or without rows: reading is not part of the time). Raises UserError when a
    run's predictions are missing or are not on the same items as the others', and when there is nothing to
    test on.
    """
    parts = {(part.level, part.split): part for part in read_parts(predictions, study)}
    if ("tile", "test") not in parts:
        raise UserError(
            f"{predictions} holds no labelled test tile; "
            "give some patients the split `test`, or raise splits.test, and rerun"
        )
    tiles_per_slide = float(np.median(parts["tile", "test"].items_per_slide))
    cost = cost_rows(predictions, reading, study, tiles_per_slide)
    drawn = {key: draw(part, study) for key, part in parts.items()}
    scored = {
        key: score_groups(part, drawn[key].resamples.weights, ordinal=study.ordinal)
        for key, part in parts.items()
    }
    tests = [key for key in parts if key[1] == "test"]
    compared = [row for key in tests for row in _compared(parts[key], scored[key], drawn[key], study)]
    warnings = [*_of_references(study)]
    warnings += [text for key in tests for text in _warnings(parts[key], drawn[key], scored[key], study)]
    for warning in warnings:
        log.warning("%s", warning)
    summary: dict[str, Any] = summarise(study, Findings(parts, drawn, scored, compared, cost))
    summary["warnings"] = warnings
    metric_table = [
        row for key, part in parts.items() for row in metric_rows(part, scored[key], drawn[key], study)
    ]
    if study.evaluation.class_balanced:
        metric_table += [row for key in tests for row in class_balanced_rows(parts[key], study)]
    _write_table(out / "metrics.tsv", metric_table, METRIC_COLUMNS)
    _write_table(out / "comparisons.tsv", [row.columns() for row in compared], COMPARISON_COLUMNS)
    _write_table(out / "cost.tsv", cost, COST_COLUMNS)
    lowest = how_low.table_rows(summary["level"], summary["how_low"])
    _write_table(out / "how_low.tsv", lowest, how_low.COLUMNS)
    gained = [
        row for key in tests for row in added_terms.gains(parts[key].level, scored[key], drawn[key], study)
    ]
    _write_table(out / "added_terms.tsv", gained, added_terms.COLUMNS)
    write_json(out / "summary.json", summary)


def _compared(part: Part, scored: Scores, drawn: Drawn, study: Study) -> list[Comparison]:
    """The comparisons of a part; those that decide how low one can go with their verdict of `how_low`."""
    rows = compare(part.level, scored, drawn, study)
    family = [row for row in rows if (row.metric, row.reference) == (HEADLINE, TEACHER)]
    verdicts = {row.student: row for row in how_low.with_verdict(family)}
    return [verdicts[row.student] if row in family else row for row in rows]


def draw(part: Part, study: Study) -> Drawn:
    """The resamples of a part's patients, the same for every run, and of the patient nobody saw."""
    n, seed, truth = study.evaluation.bootstrap, study.evaluation.seed, part.truth
    resamples = bootstrap.resample_patients(
        truth.patient_classes(), n=n, seed=seed, effective=truth.effective_patients()
    )
    shares = noninferiority.unseen_shares(noninferiority.effective_patients(truth), n=n, seed=seed)
    return Drawn(resamples, shares)


def score_groups(part: Part, weights: np.ndarray, *, ordinal: bool) -> Scores:
    """Every score of every group of runs, with every patient once and under each row of `weights` (B, P).

    The first group is the teacher; the others are also scored on agreement with the teacher of the same seed.
    """
    with_all = np.vstack([np.ones(weights.shape[1]), weights])
    present = part.truth.present
    teacher = next(iter(part.probabilities.values()))
    scored: Scores = {}
    for group, of_seeds in part.probabilities.items():
        found = []
        for probabilities, of_teacher in zip(of_seeds, teacher, strict=True):
            of_teacher = of_teacher if group.role == "student" else None
            sums = metrics.patient_sums(part.truth, probabilities, of_teacher)
            found.append(metrics.scores(sums, with_all, present, ordinal=ordinal))
        stacked = {name: np.stack([seed[name] for seed in found]) for name in found[0]}
        scored[group] = {name: Estimate(both[:, 0], both[:, 1:]) for name, both in stacked.items()}
    return scored


def metric_rows(part: Part, scored: Scores, drawn: Drawn, study: Study) -> list[dict[str, Any]]:
    """Rows of metrics.tsv: per group and metric one for each seed and `mean`, the mean over seeds."""
    rows = []
    for group, by_metric in scored.items():
        for name, estimate in by_metric.items():
            interval = partial(drawn.resamples.interval, limits=limits_of(name))
            for seed, value, samples in zip(study.seeds, estimate.values, estimate.samples, strict=True):
                rows.append(_metric_row(part, group, name, str(seed), (value, *interval(samples))))
            mean = (estimate.mean, *interval(estimate.mean_samples))
            rows.append(_metric_row(part, group, name, "mean", mean) | {"sd_seeds": estimate.sd_seeds})
    return rows


def class_balanced_rows(part: Part, study: Study) -> list[dict[str, Any]]:
    """Rows of metrics.tsv by DiPalma et al.'s class-balanced resamples: the value is the mean of them.

    Seeds are resampled apart, so their mean would look surer than any of them: `mean` is all their resamples
    together, and its interval that of one training.
    """
    rows = []
    for group, of_seeds in part.probabilities.items():
        options = study.evaluation
        samples = [
            class_balanced.resampled(
                _confusion(part, probabilities), n=options.bootstrap, seed=options.seed + i
            )
            for i, probabilities in enumerate(of_seeds)
        ]
        for name in class_balanced.NAMES:
            stacked = np.stack([of_seed[name] for of_seed in samples])
            named = zip([*map(str, study.seeds), "mean"], [*stacked, stacked.ravel()], strict=True)
            for seed, values in named:
                score = (float(values.mean()), *bootstrap.percentiles(values))
                rows.append(_metric_row(part, group, class_balanced.PREFIX + name, seed, score))
    return rows


def _confusion(part: Part, probabilities: np.ndarray) -> np.ndarray:
    counts = np.zeros((part.truth.n_classes, part.truth.n_classes), int)
    np.add.at(counts, (part.truth.labels, probabilities.argmax(1)), 1)
    return counts


def _metric_row(
    part: Part, group: Group, name: str, seed: str, score: tuple[float, float, float]
) -> dict[str, Any]:
    value, low, high = score
    return {
        "level": part.level,
        "split": part.split,
        "role": group.role,
        "method": group.method,
        "magnification": group.magnification,
        "unlabelled": group.unlabelled,
        "seed": seed,
        "metric": name,
        "value": value,
        "low": low,
        "high": high,
        "sd_seeds": float("nan"),
        "n_patients": part.truth.n_patients,
        "n": part.n,
    }


def _of_references(study: Study) -> Iterator[str]:
    """What is asked for as a reference and is none."""
    if unknown := [name for name in study.evaluation.references if name not in study.methods]:
        yield (
            f"evaluation.references: {', '.join(unknown)} is no method of this study "
            f"({', '.join(study.methods)}), so nothing is compared with it"
        )


def _warnings(part: Part, drawn: Drawn, scored: Scores, study: Study) -> Iterator[str]:
    """What a reader of the test figures must know, in one sentence each."""
    level, n_patients, resamples = part.level, part.truth.n_patients, drawn.resamples
    if n_patients < bootstrap.ENOUGH_PATIENTS:
        yield (
            f"{level} level: only {n_patients} test patients; below {bootstrap.ENOUGH_PATIENTS} the "
            "intervals can be narrower than their nominal 95 %"
        )
    margin = study.evaluation.margin
    if not noninferiority.can_tell(drawn.unseen, margin):
        effective = noninferiority.effective_patients(part.truth)
        yield (
            f"{level} level: no student can be shown to be not worse by {margin:g}, whatever it does: the "
            f"test patients weigh as {effective:.0f} ({len(part.truth.present)} classes, times the effective "
            f"number of patients of the rarest), and {noninferiority.patients_needed(margin)} are needed"
        )
    absent = [name for i, name in enumerate(study.classes) if i not in part.truth.present]
    if absent:
        yield (
            f"{level} level: {len(absent)} of {len(study.classes)} classes ({', '.join(absent)}) have no "
            f"test {level} and are left out of balanced accuracy, macro F1 and AUROC"
        )
    n_of_class = np.bincount(part.truth.patient_classes(), minlength=len(study.classes))
    alone = [name for name, n in zip(study.classes, n_of_class, strict=True) if n == 1]
    if resamples.stratified and alone:
        yield (
            f"{level} level: {', '.join(alone)} rests on a single test patient, who is in every resample; "
            "what another patient would have changed is not in the intervals"
        )
    for name in next(iter(scored.values())):
        undefined = [np.isnan(by_metric[name].samples).any(axis=0).sum() for by_metric in scored.values()]
        if max(undefined):
            n = len(resamples.weights)
            yield f"{level} level: {name} has no value in {max(undefined)} of {n} resamples (left out)"


def _write_table(path: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    table = pd.DataFrame(rows, columns=list(columns))
    with publishing(path) as temporary:
        table.to_csv(temporary, sep="\t", index=False, float_format="%.6g")
