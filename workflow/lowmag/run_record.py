"""What a run leaves beside its weights: `metrics.csv` and `run.json`."""

import csv
import io
import json
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from lowmag import __version__
from lowmag.device import device_name
from lowmag.fingerprint import code_fingerprint
from lowmag.index import TileIndex
from lowmag.lesson import Lesson, described_options, file_sha256
from lowmag.models import weights_sha256
from lowmag.publish import write_json, write_text

PACKAGES = ("torch", "numpy", "h5py", "simplejpeg", "safetensors")
# The last columns of metrics.csv: they differ from run to run, everything before is a function of the seed.
TIME_COLUMNS = ("seconds", "images_per_s", "waiting_share", "memory_gb")


def write_metrics(path: Path, history: Sequence[dict[str, float]]) -> None:
    """Write one row per epoch, atomically; numbers with 6 digits, undefined ones as nan."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, list(history[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({k: f"{v:.6g}" for k, v in row.items()} for row in history)
    write_text(path, buffer.getvalue())


def write_run(path: Path, lesson: Lesson, *, epoch: int, seconds: float, sessions: int) -> None:
    """Write where a model comes from, atomically: options, data, code and machine; no path of the machine."""
    task = lesson.task
    content: dict[str, Any] = {
        "digest": lesson.digest,
        "role": task.role,
        "options": described_options(task.options),
        "method": {name: term.model_dump() for name, term in task.method.terms.items()},
        "unlabelled": task.unlabelled,
        "seed": task.job.seed,
        "magnification": task.job.magnification,
        "classes": list(task.job.classes),
        "selected_epoch": epoch,
        "steps": lesson.steps * lesson.options.epochs,
        "steps_per_epoch": lesson.steps,
        "seconds": round(seconds, 1),
        "sessions": sessions,
        "weights_sha256": weights_sha256(path.with_name("model.safetensors")),
        "teacher_sha256": lesson.teacher_sha256,
        "splits_sha256": file_sha256(task.job.splits),
        "tiles_sha256": lesson.bank.index.identity,
        "data": _data(lesson),
        "code": code_fingerprint("train"),
        "versions": versions(),
        "device": device_name(lesson.device),
        "threads": task.job.threads,
    }
    write_json(path, content)


def versions() -> dict[str, str]:
    """What a model was made with: this package, Python, and those it rests on."""
    found = {name: version(name) for name in PACKAGES}
    return {"lowmag": __version__, "python": platform.python_version(), **found}


def is_written(out: Path, lesson: Lesson) -> bool:
    """Whether `out` holds the whole of what this very run leaves: same digest, weights as the record says."""
    try:
        record = json.loads((out / "run.json").read_text(encoding="utf-8"))
        same = record["digest"] == lesson.digest and (out / "metrics.csv").is_file()
        return same and record["weights_sha256"] == weights_sha256(out / "model.safetensors")
    except (OSError, ValueError, KeyError):
        return False


def _data(lesson: Lesson) -> dict[str, dict[str, int]]:
    """Tiles, slides and patients that were used, by split."""
    train, validation = lesson.bank.index, lesson.validation.index
    return {
        "train_labelled": counts_of(train, lesson.pool.labelled),
        "train_unlabelled": counts_of(train, lesson.pool.unlabelled),
        "val": counts_of(validation, lesson.validation.ids),
    }


def counts_of(index: TileIndex, ids: np.ndarray) -> dict[str, int]:
    """Number of tiles, and of the slides and patients they come from."""
    slides = np.unique(index.slide[ids])
    return {"tiles": len(ids), "slides": len(slides), "patients": len(index.patients(ids))}
