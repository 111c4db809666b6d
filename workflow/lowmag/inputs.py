"""What a study was made from, by digests: sheet, slides and files with them, pictures, weights, features."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lowmag.pictures import read_pictures, sheet_files
from lowmag.recipe import is_file
from lowmag.record import WHOLE_BYTES, digest_of
from lowmag.sections import Pictures
from lowmag.slides import FILE_COLUMNS, read_slides
from lowmag.trust import sha256_of

OF_SLIDE = ("slide_id", "verdict", "source_size", "source_quickhash", "source_digest")
OF_SLIDE += ("width", "height", "mpp_x", "mpp_y")
DIGESTS = (
    f"SHA-256 of a file; of one over {WHOLE_BYTES >> 20} MiB of its first and last {WHOLE_BYTES >> 21} MiB; "
    "of many files of the sorted lines of digest, two spaces, name"
)
Content = Mapping[str, Any]


def inputs_of(config: Content, sheet: Path | None, records: Sequence[Content]) -> dict[str, Any]:
    """Digests of all that a study reads: of slides as they were inspected, of other files as they are now.

    None stands for a file that is not there any more.
    `records` are those of the slides, none of pictures cut beforehand. Of an anonymised study there is one
    digest of all slides, and none of the sheet, which could be guessed from that of a few slides.
    """
    is_anonymous = bool(config.get("qc", {}).get("anonymise"))
    found: dict[str, Any] = {"digests": DIGESTS, "files": dict(_named(config))}
    names = [record["slide_id"] for record in records]
    if sheet and sheet.exists():
        options = Pictures.model_validate(config.get("pictures", {}))
        if not is_anonymous:
            found["sheets"] = {_within(sheet, file): sha256_of(file) for file in sheet_files(sheet, options)}
        if config.get("images"):
            pictures = read_pictures(sheet, options)
            found["pictures"] = _together((picture.name, picture.image) for picture in pictures)
            names = sorted({picture.slide_id for picture in pictures})
    if folder := config.get("teacher", {}).get("features"):
        files = (Path(folder, f"{name}.h5") for name in names)
        found["features"] = _together((file.name, file) for file in files if file.is_file())
    slides = [_slide(record, beside) for record, beside in _with_files(records, sheet)]
    return found | _listed(slides, is_anonymous=is_anonymous) if slides else found


def _with_files(records: Sequence[Content], sheet: Path | None) -> Iterator[tuple[Content, dict[str, Path]]]:
    """Every slide's record with the files that the sheet gives beside it."""
    found = read_slides(sheet, require_files=False) if records and sheet and sheet.is_file() else []
    rows = {row.slide_id: row for row in found}
    for record in records:
        beside = {name: getattr(rows.get(record["slide_id"]), name, None) for name in FILE_COLUMNS}
        yield record, {name: file for name, file in beside.items() if file}


def _slide(record: Content, beside: Mapping[str, Path]) -> dict[str, Any]:
    digests = {f"{name}_digest": _if_there(file, digest_of) for name, file in beside.items()}
    return {key: record.get(key) for key in OF_SLIDE} | digests


def _listed(slides: Sequence[Content], *, is_anonymous: bool) -> dict[str, Any]:
    if not is_anonymous:
        return {"slides": slides}
    lines = sorted(json.dumps(slide, sort_keys=True) for slide in slides)
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return {"n_slides": len(slides), "slides_sha256": digest}


def _within(sheet: Path, file: Path) -> str:
    """The name of a sheet, or of a spreadsheet within the folder that is one."""
    return file.name if file == sheet else file.relative_to(sheet).as_posix()


def _named(config: Content, place: str = "") -> Iterator[tuple[str, str | None]]:
    """Files of initial weights, and of the network that finds tissue: keys of the config, and SHA-256."""
    for key, value in config.items():
        name = f"{place}{key}"
        if isinstance(value, Mapping):
            yield from _named(value, f"{name}.")
        elif isinstance(value, str) and (key == "weights" or name == "tissue.model") and is_file(value):
            yield name, _if_there(Path(value), sha256_of)


def _if_there(file: Path, digest: Callable[[Path], str]) -> str | None:
    return digest(file) if file.is_file() else None


def _together(files: Iterable[tuple[str, Path]]) -> dict[str, Any]:
    """How many files there are, by name and path, and one digest of all."""
    lines = sorted(f"{digest_of(path)}  {name}\n" for name, path in files)
    return {"n": len(lines), "digest": hashlib.sha256("".join(lines).encode()).hexdigest()}
