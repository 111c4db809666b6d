"""The predictions of a whole study, read, checked and brought into one order."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from lowmag.errors import UserError
from lowmag.metrics import Truth
from lowmag.study import Run, Study

Level = Literal["tile", "slide"]
FILES: dict[Level, str] = {"tile": "tiles.parquet", "slide": "slides.parquet"}
KEYS: dict[Level, list[str]] = {
    "tile": ["split", "slide_id", "tile", "patient_id", "label"],
    "slide": ["split", "slide_id", "patient_id", "label"],
}


@dataclass(frozen=True)
class Group:
    """What is trained alike, whatever the seed: the teacher, or method x magnification x unlabelled share."""

    role: Literal["teacher", "student"]
    method: str
    magnification: float
    unlabelled: int

    def folder(self, seed: int) -> Path:
        """Folder of one seed below `predictions/`."""
        if self.role == "teacher":
            return Path("teacher") / f"seed{seed}"
        return Path("students") / Run(self.method, self.magnification, self.unlabelled, seed).folder


@dataclass(frozen=True)
class Part:
    """All predictions of one level and split; items are in the same order in every run."""

    level: Level
    split: Literal["val", "test"]
    truth: Truth
    slides: np.ndarray  # (N,) slide index
    probabilities: dict[Group, list[np.ndarray]]  # one (N, K) per seed, in the study's order

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self.truth.labels)

    @property
    def items_per_slide(self) -> np.ndarray:
        """Number of items of each slide."""
        return np.bincount(self.slides)


def groups(study: Study) -> list[Group]:
    """The teacher, then the students in the study's order."""
    students = [Group("student", run.method, run.magnification, run.unlabelled) for run in study.runs()]
    return [Group("teacher", "teacher", study.teacher, 0), *dict.fromkeys(students)]


def read_parts(folder: Path, study: Study) -> list[Part]:
    """Predictions of every run by level and split; a level or split without items is left out.

    Raises UserError when a file is missing, is not of this study's classes, or holds other items than the
    others do.
    """
    parts = []
    for level in FILES:
        frames = {
            group: [read_frame(folder / group.folder(seed), level, study) for seed in study.seeds]
            for group in groups(study)
        }
        _check_same_items(frames, level, study)
        for split in ("test", "val"):
            part = _part(frames, level, split, study)
            if part.n:
                parts.append(part)
    return parts


def read_frame(folder: Path, level: Level, study: Study) -> pd.DataFrame:
    """One run's predictions of a level, sorted by split, slide and tile."""
    path = folder / FILES[level]
    if not path.is_file():
        raise UserError(
            f"{path} is missing: the study has this run, but its predictions were not made; "
            f"run `snakemake -- {path}`, or `lowmag predict --out {folder}` with the run's model"
        )
    frame = pd.read_parquet(path)
    _check_content(frame, path, level, study)
    return pd.DataFrame(frame[_columns(level, study)]).sort_values(by=KEYS[level], ignore_index=True)


def _columns(level: Level, study: Study) -> list[str]:
    return [*KEYS[level], *probability_columns(study)]


def _check_content(frame: pd.DataFrame, path: Path, level: Level, study: Study) -> None:
    missing = [name for name in _columns(level, study) if name not in frame.columns]
    if missing:
        raise UserError(
            f"{path} lacks the columns {', '.join(missing)} (found {', '.join(frame.columns)}); "
            "it was made for other classes or by another version: delete it and rerun"
        )
    unknown = sorted(map(str, set(frame["label"]) - set(study.classes)))
    if unknown:
        raise UserError(
            f"{path} holds the labels {', '.join(unknown)}, but the study has {', '.join(study.classes)}; "
            "delete it and rerun, or mend `classes` in the config"
        )
    n_broken = int((~np.isfinite(frame[probability_columns(study)].to_numpy(np.float64))).any(axis=1).sum())
    if n_broken:
        raise UserError(
            f"{path} has probabilities that are not numbers in {n_broken} of {len(frame)} rows; the model "
            "has diverged: look at its metrics.csv, lower `lr` and train it again"
        )


def probability_columns(study: Study) -> list[str]:
    """Names of the probability columns, in the order of the classes."""
    return [f"p_{name}" for name in study.classes]


def _check_same_items(frames: dict[Group, list[pd.DataFrame]], level: Level, study: Study) -> None:
    keys, first_group = KEYS[level], next(iter(frames))
    first = frames[first_group][0][keys]
    for group, of_seeds in frames.items():
        for seed, frame in zip(study.seeds, of_seeds, strict=True):
            if not frame[keys].equals(first):
                raise UserError(
                    f"predictions/{group.folder(seed)}/{FILES[level]} holds {len(frame)} {level}s, which are "
                    f"not the {len(first)} of predictions/{first_group.folder(study.seeds[0])}; runs compare "
                    "only on the same items: delete the older of the two folders and rerun"
                )


def _part(
    frames: dict[Group, list[pd.DataFrame]], level: Level, split: Literal["val", "test"], study: Study
) -> Part:
    items = next(iter(frames.values()))[0]
    rows = np.asarray(items["split"] == split)
    items = items[rows]
    patients = np.unique(np.asarray(items["patient_id"], str), return_inverse=True)[1]
    index_of = {name: i for i, name in enumerate(study.classes)}
    labels = np.array([index_of[name] for name in items["label"]], int)
    columns = probability_columns(study)
    return Part(
        level=level,
        split=split,
        truth=Truth(labels, patients, len(study.classes)),
        slides=np.unique(np.asarray(items["slide_id"], str), return_inverse=True)[1],
        probabilities={
            group: [frame.loc[rows, columns].to_numpy(np.float64) for frame in of_seeds]
            for group, of_seeds in frames.items()
        },
    )
