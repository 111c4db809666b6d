"""Predictions of an invented study in the real format: what `evaluate`, `figures` and `report` read.

No network is behind them: a tile's logits are its label's evidence, which grows with magnification, plus
noise that all runs share (patient and tile) and noise of the run. So runs are paired, tiles of a patient are
alike, and lower magnifications do worse.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from lowmag.magnification import mpp_of
from lowmag.publish import write_json, write_text
from lowmag.study import Study

FIELD_UM = 512.0


@dataclass(frozen=True)
class Shape:
    """Size of the invented cohort, per split (val and test alike)."""

    patients: int = 8
    slides_per_patient: int = 2
    tiles_per_slide: int = 8
    mixed_slides: bool = False
    seed: int = 0


def make_study(**changes: object) -> Study:
    """A small study: teacher at 10x, two student magnifications, three methods, two seeds, two shares."""
    content: dict[str, object] = {
        "teacher": 10.0,
        "students": [2.5, 1.25],
        "methods": {"labels-only": False, "dipalma2021": True, "delamor2024": True},
        "seeds": [0, 1],
        "unlabelled": [0, 100],
        "classes": ["benign", "low", "high"],
        "evaluation": {"bootstrap": 500},
    }
    return Study.model_validate(content | changes)


def make_predictions(folder: Path, study: Study, shape: Shape | None = None) -> None:
    """Write `predictions/` of every run of `study` (teacher and students) into `folder`."""
    shape = shape or Shape()
    tiles = _tiles(study, shape)
    random = np.random.default_rng(shape.seed)
    patients = tiles["patient_id"].to_numpy()
    of_patient = {name: random.normal(size=len(study.classes)) for name in dict.fromkeys(patients)}
    shared = np.stack([of_patient[name] for name in patients]) + random.normal(
        size=(len(tiles), len(study.classes))
    )
    for seed in study.seeds:
        _write_run(
            folder / "teacher" / f"seed{seed}", study, tiles, shared, (study.teacher, 4.0, seed, shape)
        )
    for position, run in enumerate(study.runs()):
        evidence = 4.0 - 0.7 * np.log2(study.teacher / run.magnification)
        evidence += 0.004 * run.unlabelled + 0.3 * (run.method != "labels-only")
        identity = (run.magnification, float(evidence), 100 + position, shape)
        _write_run(folder / "students" / run.folder, study, tiles, shared, identity)


def make_reading(path: Path, study: Study, *, slides: int = 3) -> None:
    """Write `reading.tsv`: seconds that fall with magnification; a header only with `slides=0`."""
    lines = ["slide_id\tmagnification\tn_tiles\tmm2\tseconds\tbytes"]
    for slide in range(slides):
        for magnification in sorted({study.teacher, *study.students}, reverse=True):
            n = 40 + 10 * slide
            area = n * (FIELD_UM / 1000) ** 2
            seconds, n_bytes = area * magnification / 10, round(1e6 * area * magnification**2)
            lines.append(f"slide{slide}\t{magnification:g}\t{n}\t{area:.6g}\t{seconds:.6g}\t{n_bytes}")
    write_text(path, "\n".join(lines) + "\n")


def _tiles(study: Study, shape: Shape) -> pd.DataFrame:
    rows = []
    for split in ("val", "test"):
        for patient in range(shape.patients):
            for slide in range(shape.slides_per_patient):
                for tile in range(shape.tiles_per_slide):
                    label = (patient + (tile if shape.mixed_slides else 0)) % len(study.classes)
                    name = f"{split}-p{patient:02d}"
                    rows.append((f"{name}-s{slide}", name, split, tile, 512 * tile, 0, study.classes[label]))
    return pd.DataFrame(rows, columns=["slide_id", "patient_id", "split", "tile", "x", "y", "label"])


def _write_run(
    folder: Path,
    study: Study,
    tiles: pd.DataFrame,
    shared: np.ndarray,
    identity: tuple[float, float, int, Shape],
) -> None:
    magnification, evidence, stream, shape = identity
    random = np.random.default_rng([shape.seed, stream])
    truth = tiles["label"].to_numpy()[:, None] == np.array(study.classes)[None, :]
    logits = 0.5 * evidence * truth + shared + 0.5 * random.normal(size=shared.shape)
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    p /= p.sum(axis=1, keepdims=True)
    columns = [f"p_{name}" for name in study.classes]
    predicted = pd.concat([tiles, pd.DataFrame(p, columns=columns)], axis=1)
    folder.mkdir(parents=True, exist_ok=True)
    predicted.to_parquet(folder / "tiles.parquet", index=False)
    _slides(predicted, columns).to_parquet(folder / "slides.parquet", index=False)
    write_json(folder / "cost.json", _cost(magnification))


def _slides(predicted: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """One row per slide with one label: the mean of its tiles' probabilities."""
    groups = predicted.groupby("slide_id", sort=False)
    pure = groups["label"].nunique() == 1
    first = pd.DataFrame(groups[["patient_id", "split", "label"]].first())
    means = pd.DataFrame(groups[columns].mean())
    slides = pd.concat([first.assign(n_tiles=groups.size()), means], axis=1)
    return slides[pure].reset_index()


def _cost(magnification: float) -> dict[str, object]:
    edge = round(FIELD_UM / mpp_of(magnification))
    gmac = 5e-6 * edge**2
    return {
        "parameters": 1_231_011,
        "gmac_per_tile": gmac,
        "gmac_per_mm2": gmac / (FIELD_UM / 1000) ** 2,
        "tile_px": edge,
        "magnification": magnification,
        "model": "resnet10gn",
        "stride": 32,
        "input": "native",
        "tiles_per_s": 10.0 / gmac,
        "device": "cpu",
        "threads": 2,
        "batch_size": 16,
        "n_timed": 64,
    }
