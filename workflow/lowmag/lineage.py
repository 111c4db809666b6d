"""`provenance.json`: what a study was made of, by what and where, from the records its stages have left.

Models and slides that the folder of results still holds of an earlier state of the study are none of it.
No folder, host or user of the machine stands in it; with `qc.anonymise` no id of a slide either.
"""

import csv
import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PurePath
from typing import Any

from lowmag import __version__
from lowmag.errors import UserError
from lowmag.fingerprint import whole_package
from lowmag.inputs import inputs_of
from lowmag.job_records import rules_of
from lowmag.job_stamp import hardware
from lowmag.publish import write_json
from lowmag.trust import sha256_of

SCHEMA = {"schema": "lowmag-provenance", "schema_version": 1}
PACKAGES = (
    "snakemake", "torch", "numpy", "openslide-python", "openslide-bin", "pyvips", "pyvips-binary", "h5py",
    "simplejpeg", "safetensors", "shapely", "pandas", "pyarrow", "matplotlib", "pillow", "pydantic",
)  # fmt: skip
TABLES = ("splits.csv", "check.tsv", "report.html", "qc.html")
FOLDERS = ("evaluation", "figures")
OF_SLIDES = ("slides", "tissue", "tiles")  # folders of a file per slide
OF_RUN = ("role", "seed", "magnification", "unlabelled", "seconds", "sessions", "code", "device", "threads")
OF_RUN += ("weights_sha256", "teacher_sha256", "splits_sha256", "tiles_sha256", "features_sha256", "versions")


@dataclass(frozen=True)
class Made:
    """A finished study: results, config, folders of its models (`Study.models`), sheet, jobs' records."""

    results: Path
    config: Mapping[str, Any]
    models: Sequence[str]
    sheet: Path | None = None
    metadata: Path = Path(".snakemake/metadata")


def write_lineage(out: Path, made: Made) -> None:
    """Write provenance.json; raises UserError when there are no results."""
    if not made.results.is_dir():
        raise UserError(
            f"there is no folder of results {made.results}; run `snakemake`, or correct --results"
        )
    slides = _slides(made.results)
    _require(made, slides)
    records = [_read(made.results / f"slides/{slide}.json") for slide in slides]
    rules = rules_of(made.metadata, os.path.normpath(made.results), _Gone(made.models, set(slides)).has)
    rules.pop("provenance", None)  # of the last time it was written
    content = {
        **SCHEMA,
        "config": _without_folders(made.config),
        "code": {"lowmag": __version__, "fingerprint": whole_package()},
        "software": software(),
        "hardware": hardware(),
        "inputs": inputs_of(made.config, made.sheet, records),
        "runs": _runs(made),
        "rules": rules,
        "rules_from": "Snakemake's record of every output's last job" if rules else "no records were found",
        "outputs": {name: sha256_of(made.results / name) for name in _outputs(made, out)},
    }
    write_json(out, content)


def software() -> dict[str, str]:
    """Versions of Python, of packages, and of the libraries that read slides, as they are installed here."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    import openslide
    import pyvips

    found["openslide"] = openslide.__library_version__
    found["libvips"] = ".".join(str(pyvips.version(part)) for part in range(3))
    return found


def _slides(results: Path) -> list[str]:
    """The slides of the study, by the table of their verdicts; none of pictures cut beforehand."""
    check = results / "check.tsv"
    if not check.is_file():
        return []
    with check.open(encoding="utf-8", newline="") as lines:
        return sorted(row["slide_id"] for row in csv.DictReader(lines, delimiter="\t"))


def _require(made: Made, slides: Sequence[str]) -> None:
    """Raise UserError where a record of the study is not there any more: what is left is not the study."""
    needed = [f"{model}/run.json" for model in made.models] + [f"slides/{slide}.json" for slide in slides]
    if gone := [name for name in needed if not (made.results / name).is_file()]:
        more = f" and {len(gone) - 5} more" if len(gone) > 5 else ""
        raise UserError(
            f"{made.results} lacks {', '.join(gone[:5])}{more}, of which its study was made; "
            "run `snakemake` with them as targets first"
        )


@dataclass(frozen=True)
class _Gone:
    """Tells outputs of models and slides that are no longer of the study, by paths below the results."""

    models: Sequence[str]
    slides: Set[str]

    def has(self, output: str) -> bool:
        first, _, rest = output.partition("/")
        if first in ("predictions", "teacher", "students"):
            model = rest if first == "predictions" else output
            return not any(model.startswith(f"{one}/") for one in self.models)
        return bool(self.slides) and first in OF_SLIDES and PurePath(rest).stem not in self.slides


def _runs(made: Made) -> dict[str, Any]:
    """What every training says of itself, by folder; `sessions` counts its starts, attempts among them."""
    records = {model: _read(made.results / model / "run.json") for model in sorted(made.models)}
    return {
        model: {key: value for key, value in record.items() if key in OF_RUN}
        for model, record in records.items()
    }


def _outputs(made: Made, out: Path) -> Iterable[str]:
    """Results that people read, and models: paths below the folder, sorted."""
    found = [made.results / name for name in TABLES if (made.results / name).is_file()]
    for folder in (*FOLDERS, *made.models):
        found += [path for path in (made.results / folder).rglob("*") if path.is_file()]
    names = (path.relative_to(made.results).as_posix() for path in found if path != out)
    return sorted(name for name in names if not PurePath(name).name.startswith("."))


def _without_folders(value: Any) -> Any:
    """The config with the last part alone of every absolute path."""
    if isinstance(value, Mapping):
        return {key: _without_folders(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_folders(part) for part in value]
    is_place = isinstance(value, str) and value.startswith(("/", "~", ".."))
    return PurePath(value).name if is_place else value


def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text("utf-8"))
