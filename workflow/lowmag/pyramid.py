"""Flat pictures to slides: a TIFF, PNG or JPEG and its scale to a pyramidal TIFF that OpenSlide reads."""

import logging
import math
import mmap
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pyvips
import simplejpeg

from lowmag.errors import UserError
from lowmag.flat import load, loader_of
from lowmag.publish import publishing
from lowmag.sections import Check
from lowmag.segments import SegmentSource
from lowmag.source import UnreadableError

TILE_PX = 256
MICROMETRES_PER_MILLIMETRE = 1000
N_BANDS = {"b-w": (1, 2), "srgb": (3, 4), "rgb": (3, 4), "cmyk": (4,)}  # two and four: with alpha
WHITE = 255.0
ICC = "icc-profile-data"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlatPicture:
    """A picture to convert: its file, micrometres per pixel, and quality of the JPEG tiles (50-100)."""

    path: Path
    mpp: float | None
    quality: int = 90


def write_pyramid(picture: FlatPicture, out: Path) -> None:
    """Write the tiled BigTIFF pyramid of a flat picture to `out`, each level the mean of 2 x 2 of the finer.

    Pixels pass through from top to bottom, so memory is bounded by the width; only progressive JPEG and
    interlaced PNG are held whole. Grey and CMYK become RGB, transparency is laid on white, an RGB profile
    (ICC) is kept and everything else the file says is left behind: names of patients stand there. Raises
    UserError for what cannot be converted; `out` then stays as it was.
    """
    mpp = _plausible(picture.mpp)
    _check_arguments(picture, out)
    try:
        source = _open(picture.path)
        _check_pixels(source, picture.path)
        image = _as_rgb(source)
        with publishing(out) as temporary:
            _save(image, temporary, picture.quality, mpp)
    except pyvips.Error as error:
        raise UserError(
            f"{picture.path.name} cannot be converted, nothing was written: {_reason(error)}. "
            "A damaged file: copy it again from its source. A full disk: make room for --out and in TMPDIR"
        ) from error
    log.info("%s: %d x %d px at %g micrometres per pixel", out.name, image.width, image.height, mpp)


def _plausible(mpp: float | None) -> float:
    lowest, highest = Check().min_mpp, Check().max_mpp
    if mpp is None:
        raise UserError(
            "flat pictures rarely state their scale and often wrongly: give micrometres per pixel by --mpp "
            "(0.25 is usual for 40x, 0.5 for 20x)"
        )
    if not (math.isfinite(mpp) and lowest <= mpp <= highest):
        raise UserError(f"--mpp is {mpp:g}, expected {lowest:g} to {highest:g} micrometres per pixel")
    return mpp


def _check_arguments(picture: FlatPicture, out: Path) -> None:
    if not picture.path.is_file():
        raise UserError(f"there is no file {picture.path}; correct --image")
    if out.suffix.lower() not in (".tif", ".tiff"):
        raise UserError(f"--out is {out.name}, expected a name that ends in .tif")
    if out.exists() and out.samefile(picture.path):
        raise UserError(f"--out is the picture itself, {out.name}; give the pyramid a name of its own")
    if not 50 <= picture.quality <= 100:
        raise UserError(f"--quality is {picture.quality}, expected 50 to 100")


def _open(path: Path) -> pyvips.Image:
    """The picture as it will stream through; damaged files are refused here or while they are converted."""
    loader = loader_of(path)
    # Of TIFFs libvips would take a repeated description for damage.
    strict = "error" if loader == "tiffload" else "warning"
    image = load(path, access="sequential", fail_on=strict, unlimited=True, revalidate=True)
    if loader == "tiffload":
        _check_tiff(image, path)
        _check_segments(image, path)
    if loader == "jpegload":
        _check_jpeg(path)
    return image


def _check_jpeg(path: Path) -> None:
    """Refuse what libjpeg warns of and libvips passes over: grey or shifted blocks.

    Decoded at an eighth of the size, which finds the same errors for a tenth of the time of a conversion.
    """
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        try:
            simplejpeg.decode_jpeg(content, "GRAY", min_height=1, min_width=1, min_factor=8)
        except ValueError as error:
            raise _damaged(path, error) from error


def _check_segments(image: pyvips.Image, path: Path) -> None:
    """Refuse damaged JPEG and deflate tiles, which libvips passes over or paints black."""
    try:
        source = SegmentSource(path, [(image.width, image.height)])
    except UnreadableError:
        return  # no such tiles
    with closing(source):
        width, height = source.segments[0].tile
        try:
            for y in range(0, image.height, height):
                for x in range(0, image.width, width):
                    source.read(0, x, y, width, height)
        except UnreadableError as error:
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(f"{path.name} is damaged, nothing was written: {error}; copy it again from its source")


def _check_tiff(image: pyvips.Image, path: Path) -> None:
    """Refuse channels, focal planes and thumbnails, of which the first is not the picture."""
    if image.bands == 2:
        raise UserError(f"{path.name} has 2 channels, expected grey, RGB, RGBA or CMYK; save it as RGB")
    for page in range(1, image.get_n_pages()):
        other = pyvips.Image.tiffload(str(path), page=page, unlimited=True)
        if other.width >= image.width and other.height >= image.height:
            raise UserError(
                f"{path.name} has a first page of {image.width} x {image.height} px and another of "
                f"{other.width} x {other.height} (channels, focal planes, or a thumbnail in front), expected "
                "one picture; save the page you mean as RGB"
            )


def _check_pixels(image: pyvips.Image, path: Path) -> None:
    kind = f"{image.bands} samples of type {image.format} ({image.interpretation})"
    if image.format != "uchar":
        raise UserError(
            f"{path.name} has {kind}, expected 8 bits per sample; which grey levels to keep is for you to "
            "say: save it with 8 bits"
        )
    if image.bands not in N_BANDS.get(str(image.interpretation), ()):
        raise UserError(f"{path.name} has {kind}, expected grey, RGB, RGBA or CMYK; save it as RGB")


def _as_rgb(image: pyvips.Image) -> pyvips.Image:
    """Three 8-bit bands, of the colours of the embedded profile or else sRGB."""
    if image.hasalpha():
        image = image.flatten(background=[WHITE])
    if image.bands == 3:
        return image
    profile = ICC in image.get_fields()
    return image.icc_transform("srgb", embedded=True) if profile else image.colourspace("srgb")


def _save(image: pyvips.Image, out: Path, quality: int, mpp: float) -> None:
    scale = MICROMETRES_PER_MILLIMETRE / mpp
    image.tiffsave(
        str(out), bigtiff=True, tile=True, tile_width=TILE_PX, tile_height=TILE_PX, pyramid=True,
        subifd=False, region_shrink="mean", compression="jpeg", Q=quality,
        keep=pyvips.enums.ForeignKeep.ICC, properties=False, resunit="cm", xres=scale, yres=scale,
    )  # fmt: skip


def _reason(error: pyvips.Error) -> str:
    """The lines of the library's message that say something, each once."""
    lines = [line.strip() for line in f"{error.message}\n{error.detail}".splitlines()]
    return "; ".join(dict.fromkeys(line for line in lines if line and not line.startswith("unable to call")))
