"""The annotation file of a slide: QuPath's GeoJSON or ASAP's XML, plain or gzipped, told apart by content."""

import codecs
import gzip
import logging
import zlib
from pathlib import Path

from lowmag.asap import read_xml
from lowmag.qupath import read_geojson
from lowmag.regions import Drawing

MOST_BYTES = 256 << 20  # unpacked
SHOWN = 10
GZIP = b"\x1f\x8b"

log = logging.getLogger(__name__)


def read_annotations(path: Path, purpose: str = "annotations") -> Drawing:
    """The regions a person has drawn, in the file's own coordinates; ASAP's are pixels of level 0.

    Points, lines, cells and outlines without area are left out with a warning that counts them. The file is
    not trusted. Raises UserError when it is absent, too large, or neither format.
    """
    drawing = Drawing(Path(path), purpose)
    content = _read(drawing)
    if content[:1] == b"<":
        drawing.is_level0 = True
        read_xml(content, drawing)
    elif content[:1] in (b"{", b"["):
        read_geojson(content, drawing)
    else:
        raise drawing.refuse(
            "is neither GeoJSON nor XML; export it from QuPath as GeoJSON or save it in ASAP"
        )
    if drawing.ignored:
        found = [(what[:40], n) for what, n in drawing.ignored.most_common(SHOWN)]
        left_out = ", ".join(f"{n} x {what if what.isprintable() else repr(what)}" for what, n in found)
        log.warning("%s: left out %s", drawing.path.name, left_out)
    return drawing


def _read(drawing: Drawing) -> bytes:
    """The unpacked content without byte order mark and leading white space."""
    try:
        with drawing.path.open("rb") as file:
            is_packed = file.read(len(GZIP)) == GZIP
        with (gzip.open if is_packed else open)(drawing.path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise drawing.refuse("does not exist; correct the path in slides.csv") from error
    except (OSError, EOFError, zlib.error) as error:
        raise drawing.refuse(f"cannot be read ({error}); copy it again from its source") from error
    if len(content) > MOST_BYTES:
        raise drawing.refuse(
            f"is larger than {MOST_BYTES >> 20} MB; export annotations alone, without cells and measurements"
        )
    return content.removeprefix(codecs.BOM_UTF8).lstrip()
