"""Ways to do the work of benchmarks/tiles.py; each returns the seconds it took."""

import io
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import openslide
import shapely
import simplejpeg
from lowmag import check, tiles
from lowmag.fields import tile_cut
from lowmag.grid import read_outline
from lowmag.magnification import mpp_of
from lowmag.outline import geojson
from lowmag.reader import open_slide
from lowmag.record import SlideRecord, load_record
from lowmag.sections import Check, Tiles
from lowmag.segments import SegmentSource
from lowmag.store import TileFile
from PIL import Image

OPTIONS = Tiles()
EXTENT = 1024  # level-0 pixels of a field: 512 um at 0.5 um per pixel


@dataclass(frozen=True)
class Study:
    """The slide, its record and outline, and level-0 x, y of every tile."""

    folder: Path
    slide: Path
    record: Path
    outline: Path
    places: list[tuple[int, int]]

    @property
    def n(self) -> int:
        """Number of tiles."""
        return len(self.places)

    @property
    def found(self) -> SlideRecord:
        """The record as read."""
        return load_record(self.record)


def prepare(folder: Path, slide: Path) -> Study:
    """Inspect a slide, take all of it for tissue, and lay its grid."""
    record, outline = folder / "big.json", folder / "big.geojson"
    check.write_record(record, check.SlideToCheck("big", slide, None), OPTIONS.teacher, Check())
    found = load_record(record)
    assert (found.verdict, found.source) == ("ok", "segments"), (found.verdict, found.reason, found.source)
    x, y, width, height = found.scanned
    outline.write_text(geojson([shapely.box(x, y, x + width, y + height)], "big"))
    with open_slide(found) as source:
        cut = tile_cut(source, found, read_outline(outline), OPTIONS)
    assert cut.ratio == (EXTENT / 512,) * 2, cut.ratio
    return Study(folder, slide, record, outline, [(field.x, field.y) for field in cut.fields])


def ours(study: Study, source: str | None = None) -> float:
    """`lowmag tiles` in this process; `source` forces another reader than the one inspection chose."""
    record = study.record
    if source:
        record = study.folder / f"{source}.json"
        record.write_text(json.dumps(json.loads(study.record.read_text()) | {"source": source}))
    out = study.folder / f"{source or 'ours'}.h5"
    start = time.perf_counter()
    tiles.write_tiles(record, study.outline, out, OPTIONS)
    seconds = time.perf_counter() - start
    with TileFile(out) as file:
        assert file.n == study.n, file.n
        assert file.attributes["reader"] == (source or "segments")
    return seconds


def usual(study: Study) -> float:
    """OpenSlide at the best level of every magnification, Pillow's LANCZOS and JPEG, h5py row by row."""
    start = time.perf_counter()
    with h5py.File(study.folder / "usual.h5", "w") as file, openslide.OpenSlide(study.slide) as slide:
        stacks = {m: _usual_stack(file, m) for m in OPTIONS.magnifications}
        coords = file.create_dataset("coords", (0, 2), np.int64, maxshape=(None, 2), chunks=(1, 2))
        for n, place in enumerate(study.places):
            for magnification, stack in stacks.items():
                picture = _usual_tile(slide, place, magnification)
                stack.resize(n + 1, axis=0)
                if magnification == OPTIONS.teacher:
                    blob = io.BytesIO()
                    picture.save(blob, "JPEG", quality=OPTIONS.jpeg_quality, subsampling=0)
                    stack[n] = np.frombuffer(blob.getvalue(), np.uint8)
                else:
                    stack[n] = np.asarray(picture)
            coords.resize(n + 1, axis=0)
            coords[n] = place
    return time.perf_counter() - start


def _usual_stack(file: h5py.File, magnification: float) -> h5py.Dataset:
    edge = OPTIONS.tile_px(magnification)
    if magnification == OPTIONS.teacher:
        return file.create_dataset(f"{magnification}x", (0,), h5py.vlen_dtype(np.uint8), maxshape=(None,))
    shape = (edge, edge, 3)
    return file.create_dataset(
        f"{magnification}x", (0, *shape), np.uint8, maxshape=(None, *shape), chunks=(1, *shape)
    )


def _usual_tile(slide: openslide.OpenSlide, place: tuple[int, int], magnification: float) -> Image.Image:
    edge = OPTIONS.tile_px(magnification)
    level = slide.get_best_level_for_downsample(EXTENT / edge)
    read_px = round(EXTENT / slide.level_downsamples[level])
    picture = slide.read_region(place, level, (read_px, read_px)).convert("RGB")
    return picture if read_px == edge else picture.resize((edge, edge), Image.Resampling.LANCZOS)


def floor(study: Study) -> float:
    """Every segment of every tile decoded once, every tile encoded once, and nothing else."""
    record = study.found
    source = SegmentSource(study.slide, [(level.width, level.height) for level in record.levels])
    ratio = EXTENT // OPTIONS.tile_px(OPTIONS.teacher)
    number = max(n for n, level in enumerate(record.levels) if level.downsample <= ratio)
    level, step = source.segments[number], round(record.levels[number].downsample)
    assert level.prefix is not None
    edge, buffer = level.tile[0], np.empty((level.tile[1], level.tile[0], 3), np.uint8)
    seconds = 0.0
    with open(study.slide, "rb") as file, TileFile(study.folder / "ours.h5") as stored:
        for n, (x, y) in enumerate(study.places):
            rows = range(y // step // edge, (y + EXTENT) // step // edge)
            columns = range(x // step // edge, (x + EXTENT) // step // edge)
            blobs = [
                level.prefix + os.pread(file.fileno(), int(level.counts[k]), int(level.offsets[k]))[2:]
                for k in (row * level.across + column for row in rows for column in columns)
            ]
            picture = stored.read(OPTIONS.teacher, n)
            start = time.perf_counter()
            for blob in blobs:
                simplejpeg.decode_jpeg(blob, "RGB", buffer=buffer)
            simplejpeg.encode_jpeg(picture, OPTIONS.jpeg_quality, "RGB", "444")
            seconds += time.perf_counter() - start
    source.close()
    return seconds


def read_only(study: Study) -> float:
    """Our reading of the tiles at the teacher's magnification alone."""
    edge = OPTIONS.tile_px(OPTIONS.teacher)
    assert mpp_of(OPTIONS.teacher) == 1.0
    with open_slide(study.found) as source:
        start = time.perf_counter()
        for x, y in study.places:
            source.read(x, y, edge, (EXTENT, EXTENT))
        return time.perf_counter() - start
