"""A study as an RO-Crate: results, figures, models and their provenance, described for archives and machines.

After Workflow Run RO-Crate's profile Process Run Crate (doi 10.1371/journal.pone.0309210): one action, by one
software, with results. No slide, tile or sheet goes in. The report and provenance.json name slides by their
ids, no patient and no folder; of an anonymised study (`qc.anonymise`) provenance.json names none.
"""

import json
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lowmag import __version__
from lowmag.errors import UserError
from lowmag.publish import publishing, reporting
from lowmag.trust import sha256_of

PROFILE = "https://w3id.org/ro/wfrun/process/0.5"
NEEDED = ("provenance.json", "report.html")
LEFT_OUT = ("check.tsv", "qc.html", "splits.csv")  # they name slides and patients
TYPES = {
    ".json": "application/json",
    ".tsv": "text/tab-separated-values",
    ".csv": "text/csv",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".html": "text/html",
    ".safetensors": "application/octet-stream",
}
DESCRIPTION = (
    "Teacher and students of a study of distillation across magnifications, their scores with intervals, "
    "figures, report, and where they come from."
)


def write_crate(results: Path, out: Path, title: str, licence: str) -> None:
    """Write the crate of a finished study into the new folder `out`, or as `out` where that ends in .zip.

    `licence` is the address of what others may do with the results. Raises UserError when results are missing
    or are not those that provenance.json tells of, or there is something at `out`.
    """
    try:
        from rocrate.model.contextentity import ContextEntity
        from rocrate.rocrate import ROCrate
    except ImportError as error:
        raise UserError(
            "an RO-Crate needs rocrate, which is not installed; pip install -e '.[crate]'"
        ) from error
    lineage = _lineage(results, out)
    crate = ROCrate(version="1.1")  # what the profile is built on
    crate.name, crate.description, crate.license = title, DESCRIPTION, licence
    crate.datePublished = datetime.now(UTC)
    profile = ContextEntity(
        crate, PROFILE, {"@type": "CreativeWork", "name": "Process Run Crate", "version": "0.5"}
    )
    crate.root_dataset["conformsTo"] = crate.add(profile)
    names = ["provenance.json", *(name for name in lineage["outputs"] if name not in LEFT_OUT)]
    files = [_add(crate, results, name, lineage["outputs"].get(name)) for name in names]
    tool = {"@type": "SoftwareApplication", "name": "lowmag", "softwareVersion": __version__}
    crate.root_dataset["mentions"] = crate.add(
        _action(crate, lineage, files, crate.add(ContextEntity(crate, "#lowmag", tool)))
    )
    _publish(crate, out)


def _publish(crate: Any, out: Path) -> None:
    """Write the crate so that it appears whole or not at all."""
    if out.suffix == ".zip":
        with publishing(out) as temporary:
            crate.write_zip(temporary)
        return
    with reporting(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            crate.write(folder / out.name)
            (folder / out.name).rename(out)
        finally:
            shutil.rmtree(folder)


def _lineage(results: Path, out: Path) -> dict[str, Any]:
    if missing := [name for name in NEEDED if not (results / name).is_file()]:
        raise UserError(f"{results} lacks {', '.join(missing)}; run `snakemake` to the end first")
    if out.exists():
        raise UserError(f"--out {out} is there already; name a new folder, or a .zip")
    found = json.loads((results / "provenance.json").read_text("utf-8"))
    if gone := [name for name in found["outputs"] if not (results / name).is_file()]:
        raise UserError(
            f"{results} lacks {', '.join(gone[:5])}, which provenance.json lists; run `snakemake`"
        )
    # What a crate says of its files holds for these files: one that was made anew has another origin.
    if changed := [name for name, sha256 in found["outputs"].items() if sha256_of(results / name) != sha256]:
        raise UserError(
            f"{', '.join(changed[:5])} in {results} changed after provenance.json was written; "
            "run `snakemake`"
        )
    return found


def _add(crate: Any, results: Path, name: str, sha256: str | None) -> Any:
    properties: dict[str, Any] = {"name": name, "contentSize": str((results / name).stat().st_size)}
    properties["encodingFormat"] = TYPES.get(Path(name).suffix, "application/octet-stream")
    return crate.add_file(
        results / name, name, properties=properties | ({"sha256": sha256} if sha256 else {})
    )


def _action(crate: Any, lineage: dict[str, Any], files: list[Any], tool: Any) -> Any:
    """The making of the results, from the first job's start to the last one's end where that is recorded."""
    from rocrate.model.contextentity import ContextEntity

    properties: dict[str, Any] = {"@type": "CreateAction", "name": "Run of the lowmag workflow"}
    properties["actionStatus"] = "http://schema.org/CompletedActionStatus"
    if rules := lineage["rules"].values():
        times = min(rule["first_start"] for rule in rules), max(rule["last_end"] for rule in rules)
        properties |= dict(zip(("startTime", "endTime"), map(_time, times), strict=True))
    action = ContextEntity(crate, "#run", properties)
    action["instrument"], action["result"] = tool, files
    return action


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
