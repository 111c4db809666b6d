"""Tiles, their labels and the tissue as GeoJSON that QuPath opens with classes and colours."""

import gzip
import io
import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TextIO

import numpy as np
import shapely

from lowmag.errors import UserError
from lowmag.export import label_names
from lowmag.publish import publishing
from lowmag.store import FLAGS, QC_COLUMNS, TileFile
from lowmag.wording import count

# Okabe and Ito's colours (lowmag.palette) as red, green, blue, by number of the class.
COLOURS = (
    (213, 94, 0), (0, 114, 178), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0),
)  # fmt: skip
Origin = Literal["bounds", "level0"]

log = logging.getLogger(__name__)


def write_geojson(file: TileFile, out: Path, *, outline: Path | None, origin: Origin) -> None:
    """Write every tile of a file with class and measurements, after the tissue's outline where there is one.

    QuPath draws objects of type tile by the hundred thousand; as annotations they would stall it. `origin`
    says where x and y start: at the scanned part of the slide, as QuPath counts where it crops a slide to
    it, or at level 0. A name that ends in .gz is packed: QuPath opens it as well. Raises UserError when
    `outline` is no GeoJSON.
    """
    start = _start(file, origin)
    with _writing(out) as text:
        text.write('{"type":"FeatureCollection","features":[')
        for number, feature in enumerate(chain(_outlines(outline, start), _tiles(file, start))):
            text.write(",\n" if number else "\n")
            json.dump(feature, text, separators=(",", ":"))
        text.write("\n]}\n")
    log.info("slide %s: %s", file.slide_id, count(file.n, file.unit))


@contextmanager
def _writing(out: Path) -> Iterator[TextIO]:
    with publishing(out) as temporary, open(temporary, "wb") as raw:
        if out.suffix != ".gz":
            with io.TextIOWrapper(raw, encoding="utf-8") as text:
                yield text
            return
        with gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed:
            with io.TextIOWrapper(packed, encoding="utf-8") as text:
                yield text


def _start(file: TileFile, origin: Origin) -> np.ndarray:
    """Level-0 x, y that become 0, 0."""
    bounds = file.attributes.get("bounds")
    if origin == "level0" or bounds is None or np.size(bounds) != 4:
        return np.zeros(2)
    return np.asarray(bounds, float)[:2]


def _tiles(file: TileFile, start: np.ndarray) -> Iterator[dict[str, Any]]:
    boxes = (file.boxes() - np.tile(start, 2)).round(2).tolist()
    names, labels, measured = label_names(file), file.column("label"), _measurements(file)
    for number, (x0, y0, x1, y1) in enumerate(boxes):
        properties: dict[str, Any] = {"objectType": "tile", "measurements": measured[number]}
        if names[number] is not None:
            colour = COLOURS[labels[number] % len(COLOURS)]
            properties["classification"] = {"name": names[number], "color": colour}
        yield {
            "type": "Feature",
            "id": _id(file, number),
            "geometry": {
                "type": "Polygon",
                "coordinates": [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]],
            },
            "properties": properties,
        }


def _id(file: TileFile, number: int) -> str:
    """An id that stays: QuPath then asks before it takes in the same tiles twice."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"{file.slide_id}/tile/{number}"))


def _measurements(file: TileFile) -> list[dict[str, float]]:
    """What is known of every tile as numbers: its place in the file, tissue, quality, flags that occur."""
    flags, quality = file.column("flags"), file.column("qc").round(4)
    columns = {"tile": np.arange(file.n), "tissue_fraction": file.column("tissue_fraction").round(4)}
    columns |= {name: quality[:, k] for k, name in enumerate(QC_COLUMNS)}
    columns |= {name: (flags & bit) > 0 for name, bit in FLAGS.items() if (flags & bit).any()}
    rows = zip(*(values.astype(float).round(4).tolist() for values in columns.values()), strict=True)
    return [
        {name: value for name, value in zip(columns, row, strict=True) if not np.isnan(value)} for row in rows
    ]


def _outlines(path: Path | None, start: np.ndarray) -> Iterator[dict[str, Any]]:
    """The features of an outline as they are, but for where x and y start."""
    if path is None:
        return
    try:
        features = json.loads(path.read_text(encoding="utf-8"))["features"]
        for feature in features:
            shape = shapely.from_geojson(json.dumps(feature["geometry"]))
            moved = shapely.transform(shape, lambda xy: xy - start)
            yield {**feature, "geometry": json.loads(shapely.to_geojson(moved))}
    except (OSError, ValueError, KeyError, TypeError, shapely.GEOSException) as error:
        raise UserError(
            f"{path} is not a GeoJSON FeatureCollection ({error}); make it with `lowmag tissue`"
        ) from error
