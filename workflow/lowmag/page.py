"""The parts a page is put together from: templates, tables, and pictures inside the page as data URIs."""

import base64
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from lowmag.wording import whole

SIDE_PX = 240


@dataclass(frozen=True)
class Cell:
    """One cell of a table: its text, and a style class of the template."""

    text: str
    style: str = ""


@dataclass
class Table:
    """A table of the page; the first `n_names` columns are names, set to the left."""

    header: list[str]
    n_names: int = 1
    rows: list[list[Cell]] = field(default_factory=list)

    def add(self, *cells: str | Cell, style: str = "") -> None:
        """Append a row; `style` goes to every cell that has none."""
        self.rows.append([cell if isinstance(cell, Cell) else Cell(cell, style) for cell in cells])


def render(template: str, content: dict[str, Any]) -> str:
    """The HTML of a template of this package; text is escaped, and a name the content lacks is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lowmag"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = whole
    return environment.get_template(template).render(content)


def svg_uri(content: bytes) -> str:
    """An SVG picture as a data URI: as an image it can neither run a script nor fetch anything."""
    return _uri("image/svg+xml", content)


def jpeg_uri(
    path: Path, *, widest_px: int = SIDE_PX, highest_px: int | None = None, quality: int = 75
) -> str:
    """A picture file as a data URI: JPEG, made smaller to fit, without any metadata of the file."""
    with Image.open(path) as picture:
        small = picture.convert("RGB")
    small.thumbnail((widest_px, highest_px or widest_px), Image.Resampling.LANCZOS)
    return image_uri(small, quality=quality)


def image_uri(picture: Image.Image | np.ndarray, *, quality: int = 75) -> str:
    """A picture as a data URI: of a palette as PNG, with what is transparent in it, any other as JPEG."""
    image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    if image.mode == "P":
        image.save(buffer, "PNG", optimize=True)
        return _uri("image/png", buffer.getvalue())
    image.save(buffer, "JPEG", quality=quality, optimize=True)
    return _uri("image/jpeg", buffer.getvalue())


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
