"""The report: one self-contained page that opens with the answer and works offline.

Everything is inside the page: figures and pictures as data URIs, no script is needed to read it, nothing is
fetched. Slides are named by their id; no path, label picture or macro picture is shown.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowmag import __version__, provenance
from lowmag.answer import answer
from lowmag.bootstrap import ENOUGH_PATIENTS
from lowmag.cohort import Cohort, check_rows, check_summary, overlays, read_cohort, split_table
from lowmag.errors import UserError
from lowmag.learning import learning_svg
from lowmag.magnification import name_of
from lowmag.page import jpeg_uri, render, svg_uri
from lowmag.publish import write_text
from lowmag.result_tables import (
    class_balanced_table,
    comparison_table,
    cost_table,
    how_low_table,
    score_table,
    untimed_teacher,
)
from lowmag.scores import FIGURES, LABELS_ONLY, has_reading, levels_of, read_table
from lowmag.study import Study
from lowmag.wording import count, whole

GALLERY_PX = 1290


@dataclass(frozen=True)
class Picture:
    """A figure of the page: its data URI and the text for those who cannot see it."""

    uri: str
    alt: str


ALTERNATIVES = {
    "accuracy_magnification": "Balanced accuracy against magnification with intervals",
    "accuracy_cost": "Balanced accuracy against measured seconds",
    "accuracy_compute": "Balanced accuracy against computation",
    "unlabelled_share": "Balanced accuracy against the share of unlabelled slides used",
    "added_terms": "Gain in balanced accuracy by a loss term against the cells of the student's map",
    "confusion": "Confusion matrices of teacher and students",
    "calibration": "Reliability curves of teacher and students",
    "gallery": "Test tiles with the attention of teacher and students",
    "learning": "Accuracy and loss on validation tiles over the epochs of training",
}


def write_report(results: Path, out: Path, study: Study) -> None:
    """Write the page of the results folder `results` to `out`; UserError when a needed file is missing."""
    _require(results)
    write_text(out, render("report.html.j2", collect(results, study)))


def _require(results: Path) -> None:
    needed = [
        "splits.csv",
        *(f"evaluation/{name}" for name in ("metrics.tsv", "comparisons.tsv", "cost.tsv")),
    ]
    needed += ["evaluation/summary.json", *(f"figures/{name}.svg" for name in FIGURES)]
    if missing := [name for name in needed if not (results / name).is_file()]:
        raise UserError(
            f"{results} lacks {', '.join(missing)}, which the report is made of; run `snakemake`, or "
            "`lowmag evaluate` and `lowmag figures` with this folder"
        )


def collect(results: Path, study: Study) -> dict[str, Any]:
    """Everything the template shows."""
    summary = _read_summary(results / "evaluation/summary.json")
    cohort = read_cohort(results, study)
    return {
        "version": __version__,
        "study": study,
        "name_of": name_of,
        "answer": answer(summary),
        "summary": summary,
        "enough_patients": ENOUGH_PATIENTS,
        "labels_only": LABELS_ONLY,
        "resamples": whole(study.evaluation.bootstrap),
        "warnings": summary["warnings"],
        "how_low": how_low_table(summary),
        "pictures": _pictures(results, study),
        **_cohort_parts(results, cohort, study),
        **_result_parts(results, study),
        **_method_parts(results, study),
    }


def _read_summary(path: Path) -> dict[str, Any]:
    summary = json.loads(path.read_text("utf-8"))
    if "as_measured" not in summary:
        raise UserError(
            f"{path} is of an older version, whose bound was too bold with few patients; run `snakemake`, or "
            "`lowmag evaluate` with this folder"
        )
    return summary


def _pictures(results: Path, study: Study) -> dict[str, Picture]:
    found = {name: svg_uri((results / f"figures/{name}.svg").read_bytes()) for name in FIGURES}
    gallery = results / "figures/gallery.png"
    if gallery.is_file():
        # Far higher than wide: only the width is to be limited.
        found["gallery"] = jpeg_uri(gallery, widest_px=GALLERY_PX, highest_px=100_000, quality=85)
    if curves := learning_svg(results, study):
        found["learning"] = svg_uri(curves)
    return {name: Picture(uri, ALTERNATIVES[name]) for name, uri in found.items()}


def _cohort_parts(results: Path, cohort: Cohort, study: Study) -> dict[str, Any]:
    shown, n_left_out = overlays(results, cohort)
    n_patients = len({row.patient_id for row in cohort.rows})
    return {
        "cohort_size": f"{count(len(cohort.rows), 'slide')} of {count(n_patients, 'patient')}",
        "n_tiles": count(cohort.index.n, "tile"),
        "splits": split_table(cohort, study.classes),
        "check_summary": check_summary(cohort) if cohort.checked else None,
        "check": check_rows(cohort) if cohort.checked else None,
        "overlays": shown,
        "n_overlays_left_out": n_left_out,
    }


def _result_parts(results: Path, study: Study) -> dict[str, Any]:
    metrics, comparisons, cost = (
        read_table(results / f"evaluation/{name}.tsv") for name in ("metrics", "comparisons", "cost")
    )
    levels = levels_of(metrics)
    return {
        "levels": levels,
        "scores": {level: score_table(metrics, level, study) for level in levels},
        "comparisons": {level: comparison_table(comparisons, level) for level in levels},
        "class_balanced": {
            level: class_balanced_table(metrics, level) for level in levels if study.evaluation.class_balanced
        },
        "cost": cost_table(cost),
        "has_reading": has_reading(cost),
        "untimed_teacher": untimed_teacher(cost),
        "timed_on": provenance.timing_conditions(results, study),
        "additions": [f"{a.method} − {a.reference} ({a.term})" for a in study.additions],
        "has_shares": any(len(study.shares(method)) > 1 for method in study.methods),
    }


def _method_parts(results: Path, study: Study) -> dict[str, Any]:
    runs = provenance.read_runs(results, study)
    return {
        "grid_words": provenance.grid(study),
        "options": provenance.option_table(runs) if runs else None,
        "terms": provenance.method_terms(results, study),
        "software": provenance.software(runs) if runs else None,
    }
