"""Pictures of a slide for a page: its thumbnail with outline, its tiles on that, and some tiles close up."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from lowmag.errors import UserError
from lowmag.magnification import name_of
from lowmag.overlay import BAND_PX, PEN_COLOUR
from lowmag.page import image_uri
from lowmag.record import SlideRecord
from lowmag.slide_facts import SlideFacts
from lowmag.store import FLAGS, TileFile

SMALL_PX, LARGE_PX = 128, 520
SAMPLE_PX = 224
SHARP_PX = 64  # of an edge up to here every pixel is seen, and JPEG would be too
LEAST_OUTLINED_PX = 6.0

# Okabe and Ito's colours (lowmag.palette), in the order in which a flag hides the others; pen as on overlays.
FLAG_COLOURS = {
    "read_error": (213, 94, 0),
    "pen": PEN_COLOUR,
    "blur": (0, 114, 178),
    "transparent": (86, 180, 233),
    "out_of_bounds": (204, 121, 167),
}
PLAIN = (40, 40, 60)
LINE_ALPHA, TINT_ALPHA, FLAGGED_ALPHA = 150, 36, 130


@dataclass(frozen=True)
class Overview:
    """A slide's thumbnail with outline, small and large, and its tiles as a see-through picture on top."""

    small: str
    large: str
    tiles: str | None
    width: int
    height: int


@dataclass(frozen=True)
class Picture:
    """A tile at one magnification: its name, the data URI, the longer edge as stored in pixels."""

    name: str
    uri: str
    edge_px: int


@dataclass(frozen=True)
class Sample:
    """One tile or section: where it is, the names of its flags, its picture at every magnification."""

    place: str
    flags: tuple[str, ...]
    pictures: tuple[Picture, ...]


def overview(results: Path, facts: SlideFacts) -> Overview | None:
    """The pictures of one usable slide from its tissue overlay; None where there is no overlay.

    The overlay of a rejected slide is a placeholder with its id on it, so it is never taken. A band with
    what there is to review is cut off: the page says it in words. Raises UserError when it is damaged.
    """
    record = facts.record
    path = results / "tissue" / f"{record.slide_id}.png"
    if not record.usable or record.bounds is None or not path.is_file():
        return None
    try:
        with Image.open(path) as picture:
            large = picture.convert("RGB")
    except OSError as error:
        raise UserError(f"{path} is no picture, or a damaged one ({error}); delete it and rerun") from error
    if facts.tissue and facts.tissue.review:
        large = large.crop((0, BAND_PX, *large.size))
    large.thumbnail((LARGE_PX, LARGE_PX), Image.Resampling.LANCZOS)
    small = large.copy()
    small.thumbnail((SMALL_PX, SMALL_PX), Image.Resampling.LANCZOS)
    tiles = results / "tiles" / f"{record.slide_id}.h5"
    grid = _grid(tiles, record, large.size) if tiles.is_file() else None
    return Overview(image_uri(small), image_uri(large), grid, *large.size)


def _grid(path: Path, record: SlideRecord, size: tuple[int, int]) -> str | None:
    with TileFile(path) as file:
        if not file.n:
            return None
        boxes, bits = file.boxes(), file.column("flags").astype(int)
    left, top, width, height = record.scanned
    scale = np.array([size[0] / width, size[1] / height] * 2)
    return image_uri(draw_tiles((boxes - [left, top, left, top]) * scale, bits, size))


def draw_tiles(boxes: np.ndarray, bits: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """A palette picture of boxes (N, 4; pixels), tinted by their gravest flag, transparent elsewhere."""
    image = Image.new("P", size, 0)
    colours = [PLAIN, PLAIN, *FLAG_COLOURS.values()]
    image.putpalette([0, 0, 0, *(part for colour in colours for part in colour)])
    draw = ImageDraw.Draw(image)
    is_outlined = len(boxes) and (boxes[:, 2:] - boxes[:, :2]).min(axis=1).mean() >= LEAST_OUTLINED_PX
    for box, bit in zip(boxes, bits, strict=True):
        flagged = [n for n, name in enumerate(FLAG_COLOURS) if bit & FLAGS[name]]
        fill = flagged[0] + 3 if flagged else 2
        corners = [round(float(value)) for value in box]
        draw.rectangle(tuple(corners), fill=fill, outline=1 if is_outlined else None)
    alpha = [0, LINE_ALPHA, TINT_ALPHA, *[FLAGGED_ALPHA] * len(FLAG_COLOURS)]
    image.info["transparency"] = bytes(alpha)
    return image


def samples(results: Path, slide_id: str, n: int) -> list[Sample]:
    """At most `n` tiles of a slide, evenly through the file, the last one with a flag if any has one."""
    path = results / "tiles" / f"{slide_id}.h5"
    if not path.is_file():
        return []
    with TileFile(path) as file:
        bits = file.column("flags").astype(int)
        return [_sample(file, index, bits[index]) for index in choose(bits, n)]


def choose(bits: np.ndarray, n: int) -> list[int]:
    """Indices of at most `n` tiles, evenly through the file; a flagged one takes the place of the last."""
    if len(bits) <= n:
        return list(range(len(bits)))
    chosen = [int((k + 0.5) * len(bits) / n) for k in range(n)]
    shown = sum(FLAGS[name] for name in FLAG_COLOURS)
    flagged = [int(index) for index in np.flatnonzero(bits & shown)]
    if flagged and not set(flagged) & set(chosen):
        chosen[-1] = flagged[len(flagged) // 2]
    return sorted(chosen)


def _sample(file: TileFile, index: int, bits: int) -> Sample:
    row, column = file.column("grid")[index].tolist()
    size = file.column("size")[index]
    is_tile = file.unit == "tile"
    place = f"row {row}, column {column}" if is_tile else f"section {row + 1}, {size[0]} × {size[1]} px"
    flags = tuple(name for name in FLAG_COLOURS if bits & FLAGS[name])
    pictures = tuple(_picture(file, m, index, int(size.max())) for m in file.magnifications)
    return Sample(place, flags, pictures)


def _picture(file: TileFile, magnification: float, index: int, longest_px: int) -> Picture:
    """A tile small enough for the page; of a large section from a lower magnification, which is its mean."""
    highest = file.magnifications[0]
    enough = [m for m in file.magnifications if m <= magnification and longest_px * m / highest >= LARGE_PX]
    image = Image.fromarray(file.read(enough[-1] if enough else magnification, index))
    image.thumbnail((SAMPLE_PX, SAMPLE_PX), Image.Resampling.LANCZOS)
    edge_px = round(longest_px * magnification / highest)
    quality = 92 if edge_px <= SHARP_PX else 78
    return Picture(name_of(magnification), image_uri(image, quality=quality), edge_px)
