"""`slides/{slide}.json`: what one slide is, where its scale comes from, and the verdict on it."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from lowmag.errors import UserError
from lowmag.publish import write_json

WHOLE_BYTES = 64 << 20  # a larger file is known by its two ends


@dataclass(frozen=True)
class Level:
    """One level of a pyramid; `downsample` is its true ratio, see lowmag.source.true_levels."""

    width: int
    height: int
    downsample: float


class RejectedError(Exception):
    """A slide that cannot be used: verdict, what was found and expected, and what to do."""

    def __init__(self, verdict: str, reason: str, cure: str) -> None:
        super().__init__(verdict, reason, cure)
        self.verdict, self.reason, self.cure = verdict, reason, cure


@dataclass(frozen=True)
class SlideRecord:
    """What `lowmag inspect` found; fields that a rejected slide does not give are None."""

    slide_id: str
    path: str
    verdict: str = "ok"
    reason: str = ""
    cure: str = ""
    width: int | None = None
    height: int | None = None
    mpp_x: float | None = None
    mpp_y: float | None = None
    mpp_source: str | None = None
    objective_power: float | None = None
    vendor: str | None = None
    levels: tuple[Level, ...] = ()
    bounds: tuple[int, int, int, int] | None = None  # x, y, width, height of the scanned part, level-0 pixels
    source_size: int | None = None
    source_mtime: int | None = None
    source_quickhash: str | None = None
    source_digest: str | None = None  # `digest_of` the file, where OpenSlide gives no hash
    icc: str | None = None
    reader: str | None = None
    source: str = "openslide"  # openslide | segments | vips: what reads the pixels
    file: str | None = None  # the file to open, where `path` is the folder of a DICOM series
    notes: tuple[str, ...] = ()  # what does not reject the slide and should be known

    @property
    def usable(self) -> bool:
        """Whether tissue and tiles can be taken from the slide."""
        return self.verdict == "ok"

    @property
    def mpp(self) -> tuple[float, float]:
        """Micrometres per level-0 pixel along x and y, of a usable slide."""
        assert self.mpp_x is not None, self.slide_id
        assert self.mpp_y is not None, self.slide_id
        return self.mpp_x, self.mpp_y

    @property
    def scanned(self) -> tuple[int, int, int, int]:
        """The scanned part of a usable slide: x, y, width, height in level-0 pixels."""
        assert self.bounds is not None, self.slide_id
        return self.bounds


def save_record(path: Path, record: SlideRecord) -> None:
    """Write a record as JSON, atomically."""
    write_json(path, asdict(record))


def load_record(path: Path) -> SlideRecord:
    """The record at `path`; raises UserError when the file is absent or is no record."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        levels = tuple(Level(**level) for level in content.pop("levels"))
        bounds, notes = content.pop("bounds"), tuple(content.pop("notes", ()))
        return SlideRecord(levels=levels, bounds=tuple(bounds) if bounds else None, notes=notes, **content)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is not a slide record ({error}); make it with `lowmag inspect` and rerun"
        ) from error


def size_of(path: Path) -> int:
    """Bytes of a file, or of the files right in a folder; raises OSError."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.iterdir() if file.is_file())


def digest_of(path: Path) -> str:
    """SHA-256 of a file; of one over 64 MiB of its first and last 32 MiB, which are read at any size."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        digest.update(file.read(WHOLE_BYTES // 2))
        file.seek(max(file.tell(), path.stat().st_size - WHOLE_BYTES // 2))
        digest.update(file.read(WHOLE_BYTES // 2))
    return digest.hexdigest()


def require_same_file(record: SlideRecord) -> None:
    """Raise UserError when the slide's file is gone or has another size than when it was inspected."""
    try:
        size = size_of(Path(record.path))
    except OSError as error:
        raise UserError(
            f"slide {record.slide_id} was there when it was inspected and cannot be read now "
            f"({error.strerror}); put the file back or correct its path in slides.csv"
        ) from error
    if size != record.source_size:
        raise UserError(
            f"slide {record.slide_id} has {size} bytes, {record.source_size} when it was inspected; "
            "the file was replaced: inspect it again"
        )
