"""Results of an invented cohort as the workflow leaves them: verdicts, records, tissue, tiles with flags."""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import shapely
from lowmag.outline import geojson
from lowmag.record import Level, SlideRecord, save_record
from lowmag.store import FLAGS, Layout, TileRow, writing
from PIL import Image

HIGH, LOW = 10.0, 2.5
PX = {HIGH: 64, LOW: 16}
SIZE_PX = 640  # level-0 pixels along both edges
COLUMNS = ("slide_id", "verdict", "reason", "cure", "path", "width", "height")
COLUMNS += ("mpp_x", "mpp_y", "mpp_source", "vendor")


@dataclass(frozen=True)
class Slide:
    """One slide: how many of its tiles have which flag; `tissue_px` is the edge of its square of tissue."""

    slide_id: str
    tiles: int = 8
    flags: Mapping[str, int] = field(default_factory=dict)
    verdict: str = "ok"
    reason: str = ""
    cure: str = ""
    file: str = ""
    mpp: float | None = 1.0
    vendor: str = "aperio"
    notes: tuple[str, ...] = ()
    tissue_px: int = 400
    seconds: float = 1.5

    @property
    def record(self) -> SlideRecord:
        return SlideRecord(
            self.slide_id,
            f"/secret/folder/{self.file or self.slide_id + '.svs'}",
            self.verdict,
            self.reason,
            self.cure,
            SIZE_PX,
            SIZE_PX,
            self.mpp,
            self.mpp,
            "openslide.mpp" if self.mpp else None,
            vendor=self.vendor,
            levels=(Level(SIZE_PX, SIZE_PX, 1.0),),
            bounds=(0, 0, SIZE_PX, SIZE_PX),
            source_size=len(self.slide_id),
            reader="openslide 4.0.1",
            notes=self.notes,
        )


def make_results(folder: Path, slides: Sequence[Slide], *, tiled: bool = True) -> Path:
    """Write check.tsv, slides/, tissue/ and tiles/ into `folder`; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "check.tsv").open("w", encoding="utf-8", newline="") as out:
        table = csv.DictWriter(out, COLUMNS, delimiter="\t", lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        table.writerows(asdict(slide.record) | {"path": Path(slide.record.path).name} for slide in slides)
    for slide in slides:
        save_record(folder / "slides" / f"{slide.slide_id}.json", slide.record)
        _write_tissue(folder / "tissue", slide)
        if tiled:
            _write_tiles(folder / "tiles" / f"{slide.slide_id}.h5", slide)
    return folder


def _write_tissue(folder: Path, slide: Slide) -> None:
    folder.mkdir(exist_ok=True)
    usable = slide.verdict == "ok"
    pieces = [shapely.box(0, 0, slide.tissue_px, slide.tissue_px)] if usable and slide.tissue_px else []
    (folder / f"{slide.slide_id}.geojson").write_text(geojson(pieces, slide.slide_id))
    Image.new("RGB", (160, 160), "pink" if usable else "white").save(folder / f"{slide.slide_id}.png")


def _write_tiles(path: Path, slide: Slide) -> None:
    random = np.random.default_rng(len(slide.slide_id))
    n = slide.tiles if slide.verdict == "ok" else 0
    attributes = {
        "slide_id": slide.slide_id,
        "verdict": slide.verdict,
        "mpp_x": slide.mpp,
        "mpp_y": slide.mpp,
    }
    attributes |= {"field_um": 64.0}
    log = path.parents[1] / "logs/tiles" / f"{slide.slide_id}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text(f"slide {slide.slide_id}: {n} tiles at 2 magnifications in {slide.seconds} s (1/s)\n")
    with writing(path, Layout([HIGH, LOW], PX), attributes) as writer:
        for k in range(n):
            flags = sum(FLAGS[name] for name, count in slide.flags.items() if k < count)
            high = random.integers(0, 256, (PX[HIGH], PX[HIGH], 3)).astype(np.uint8)
            row, column = divmod(k, 8)
            pictures = {HIGH: high, LOW: high[::4, ::4]}
            writer.append(TileRow(column * 64, row * 64, row, column, 1.0, pictures, flags))
