"""Which pictures of a TIFF make up its pyramid, and whether they are what lowmag reads: 8-bit RGB."""

from dataclasses import dataclass

from lowmag import tiff
from lowmag.source import true_levels
from lowmag.tiff import Directory, Tiff

ALPHA = (1, 2)  # values of EXTRA_SAMPLES: multiplied in, and not; 0 is a sample of unknown meaning
PALETTE = 3  # a value of PHOTOMETRIC
COLOURS = {0: "grey", 1: "grey", 5: "CMYK", 8: "Lab"}  # those not taken
LARGEST_EDGE_PX = 1_000_000
LARGEST_TILE_PX = 8192
LARGEST_FLAT_PX = 1_000_000_000  # of a picture in strips, which is unpacked whole


@dataclass(frozen=True)
class Page:
    """Where a level is: page of the file, number among those below it (-1: itself), its alpha."""

    page: int
    below: int
    size: tuple[int, int]
    has_alpha: bool


def find_pages(file: Tiff) -> list[Page]:
    """The levels of a pyramid, finest first: the largest page, and what lies below it or else other pages.

    Other pages belong to it where a whole ratio explains their size; labels and macro pictures do not.
    """
    pages = [(number, -1, directory) for number, directory in enumerate(file.directories)]
    base = max(pages, key=lambda page: page[2].size[0] * page[2].size[1], default=None)
    if base is None or not min(base[2].size):
        return []
    below = [(base[0], number, directory) for number, directory in enumerate(base[2].below)]
    found = [base]
    for page in sorted(below or pages, key=lambda page: -page[2].size[0]):
        size, finer = page[2].size, found[-1][2].size
        if 0 < size[0] < finer[0] and 0 < size[1] < finer[1] and _kind(page[2]) == _kind(base[2]):
            ratio = true_levels([base[2].size, size])[1].downsample
            if ratio == round(ratio):
                found.append(page)
    return [Page(page, below, directory.size, _has_alpha(directory)) for page, below, directory in found]


def _kind(directory: Directory) -> tuple[int, ...]:
    return directory.number(tiff.SAMPLES, 1), *directory.numbers(tiff.BITS).tolist()


def _has_alpha(directory: Directory) -> bool:
    return directory.number(tiff.SAMPLES, 1) == 4 and directory.number(tiff.EXTRA_SAMPLES) in ALPHA


def has_odd_sample(file: Tiff, page: Page) -> bool:
    """Whether a page has a fourth sample that is no alpha, which libtiff and OpenSlide take for one."""
    return not page.has_alpha and directory_of(file, page).number(tiff.SAMPLES, 1) == 4


def directory_of(file: Tiff, page: Page) -> Directory:
    """The directory of a page."""
    base = file.directories[page.page]
    return base if page.below < 0 else base.below[page.below]


def size_problem(directory: Directory) -> str | None:
    """What is beyond the limits, else None: a file of a few bytes can claim any number of pixels."""
    width, height = directory.size
    tile = directory.number(tiff.TILE_WIDTH), directory.number(tiff.TILE_LENGTH)
    if max(width, height) > LARGEST_EDGE_PX:
        return f"claims {width} x {height} pixels, at most {LARGEST_EDGE_PX} along an edge are read"
    if max(tile) > LARGEST_TILE_PX:
        return f"has tiles of {tile[0]} x {tile[1]} pixels, at most {LARGEST_TILE_PX} along an edge are read"
    return None


def flat_problem(directory: Directory) -> str | None:
    """What keeps a picture in strips from being unpacked, else None."""
    width, height = directory.size
    if tiff.TILE_OFFSETS in directory.tags or width * height <= LARGEST_FLAT_PX:
        return None
    return f"has {width} x {height} pixels in strips, which cannot be read in part"


def kind_problem(directory: Directory, n_pages: int) -> str | None:
    """What makes a picture another than 8-bit RGB, else None; `n_pages` are those of its size in the file."""
    bits = sorted(set(directory.numbers(tiff.BITS).tolist()) or {1})
    samples, colours = directory.number(tiff.SAMPLES, 1), directory.number(tiff.PHOTOMETRIC, -1)
    found = [] if bits == [8] else [f"{' and '.join(map(str, bits))} bits per sample"]
    if colours == PALETTE:
        return f"has {found[0]}, expected 8" if found else None
    if samples not in (3, 4) or colours in COLOURS:
        kind = COLOURS.get(colours, "")
        found.append(f"{samples} {kind + ' ' if kind else ''}channel{'s' if samples > 1 else ''}")
        if n_pages > 1:
            found.append(f"{n_pages} such pages, as fluorescence has")
    return f"has {', '.join(found)}, expected RGB of 8 bits" if found else None


def missing_segments(directory: Directory) -> int:
    """Tiles or strips that were never written."""
    tags = tiff.TILE_COUNTS if tiff.TILE_COUNTS in directory.tags else tiff.STRIP_COUNTS
    return int((directory.numbers(tags) == 0).sum())
