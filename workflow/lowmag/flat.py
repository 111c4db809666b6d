"""Flat pictures through libvips: TIFF, PNG or JPEG by their first bytes, and none of its other loaders."""

from pathlib import Path
from typing import Any

import pyvips

from lowmag.errors import UserError

LOADERS = {
    b"\x89PNG": "pngload",
    b"\xff\xd8\xff": "jpegload",
    b"II*\0": "tiffload",
    b"MM\0*": "tiffload",
    b"II+\0": "tiffload",
    b"MM\0+": "tiffload",
}


def loader_of(path: Path) -> str:
    """The name of the loader for a file; raises UserError when it is no TIFF, PNG or JPEG."""
    with path.open("rb") as file:
        start = file.read(4)
    found = [loader for magic, loader in LOADERS.items() if start.startswith(magic)]
    if not found:
        raise UserError(
            f"{path} is no TIFF, PNG or JPEG (it starts with {start!r}); save the picture as one of them"
        )
    return found[0]


def load(path: Path, **options: Any) -> pyvips.Image:
    """The picture at `path`; raises UserError, or pyvips.Error for a damaged one."""
    return getattr(pyvips.Image, loader_of(path))(str(path), **options)
