"""Labels of tiles from the regions a person has drawn on the slide.

Every point of the slide has one class at most: where regions overlap, the smaller one lies on top, whichever
was drawn first, so that a region within another takes its place from it. A tile gets the class that covers
most of it, if that is at least `annotations.min_overlap` of the tile.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely

from lowmag.annotations import read_annotations
from lowmag.errors import UserError
from lowmag.overlap import class_shares
from lowmag.record import SlideRecord
from lowmag.regions import Drawing, Region
from lowmag.sections import NONE, SLIDE, Annotations
from lowmag.store import LABEL_OF_SLIDE, NO_LABEL

if TYPE_CHECKING:
    from lowmag.slides import SlideRow

ROUNDING = 1e-6  # of a tile: exact halves stay halves
SHOWN = 10
SHOWN_LETTERS = 100

log = logging.getLogger(__name__)


class TileLabels:
    """The labels that an annotation file gives to tiles of a slide; `slide` tells where its pixels lie.

    `present` are the classes of the study that the file can give. Raises UserError when the file cannot be
    read, none of its names is a class of the study, or nothing of it lies on the slide, and where options and
    classes do not go together.
    """

    def __init__(
        self, path: Path, classes: Sequence[str], options: Annotations, slide: SlideRecord | None = None
    ) -> None:
        self.classes, self.options = list(classes), options
        if problem := options.problem(classes):
            raise UserError(problem)
        drawing = read_annotations(path)
        if not drawing.regions:
            log.warning("%s: no regions, so all of the slide is outside", drawing.path.name)
        found = [(self._number_of(region), region) for region in drawing.regions]
        _report_unknown(drawing, [region for number, region in found if number is None], self.classes)
        known = [(number, region.shape) for number, region in found if number is not None]
        self.present = {self.classes[number] for number, _ in known if number < len(self.classes)}
        self.present |= {options.outside} & {*self.classes}
        parts = [(number, part) for number, shape in known for part in shapely.get_parts(shape)]
        self._shapes = np.array([part for _, part in parts], dtype=object)
        self._numbers = np.array([number for number, _ in parts], dtype=np.int64)
        if slide is not None:
            self._move_to(slide, drawing)

    def labels(self, boxes: np.ndarray) -> np.ndarray:
        """The label of every box, (N,) int16; boxes (N, 4) are level-0 x0, y0, x1, y1.

        A number of `classes`; -1 where the slide's label holds, -2 where none does.
        """
        n = len(self.classes)
        shares = class_shares(np.asarray(boxes, float), self._shapes, self._numbers, n + 1)
        codes = np.array([*range(n), NO_LABEL, NO_LABEL])  # of the classes, what is cut out, the ground
        outside, ground = self.options.outside, 1 - shares.sum(axis=1)
        if outside in self.classes:
            shares[:, self.classes.index(outside)] += ground
        elif outside == SLIDE:
            codes[-1] = LABEL_OF_SLIDE
            shares = np.column_stack([shares, ground])
        if not len(shares):
            return np.zeros(0, np.int16)
        best = shares.argmax(axis=1)
        enough = shares[np.arange(len(shares)), best] >= self.options.min_overlap - ROUNDING
        return np.where(enough, codes[best], NO_LABEL).astype(np.int16)

    def _number_of(self, region: Region) -> int | None:
        """The class of a region, `len(classes)` for one that is cut out, None for an unknown name."""
        for name in region.names:
            mapped = self.options.classes.get(name, name)
            if mapped in self.classes:
                return self.classes.index(mapped)
            if mapped == NONE and name in self.options.classes:
                return len(self.classes)
        return None

    def _move_to(self, slide: SlideRecord, drawing: Drawing) -> None:
        """Count coordinates from level 0, and make sure that they mean this slide."""
        if not len(self._shapes):
            return
        if self.options.origin == "bounds" and not drawing.is_level0:
            origin = np.array(slide.scanned[:2], float)
            self._shapes = shapely.transform(self._shapes, lambda xy: xy + origin)
        x0, y0, x1, y1 = shapely.total_bounds(self._shapes).tolist()
        if x0 >= (slide.width or 0) or y0 >= (slide.height or 0) or x1 <= 0 or y1 <= 0:
            raise drawing.refuse(
                f"has regions at x {x0:.0f} to {x1:.0f}, y {y0:.0f} to {y1:.0f}, but slide {slide.slide_id} "
                f"is {slide.width} x {slide.height} pixels; give it its own file, or see annotations.origin"
            )


def _report_unknown(drawing: Drawing, unknown: Sequence[Region], classes: Sequence[str]) -> None:
    if not unknown:
        return
    counts = Counter(region.name for region in unknown)
    names = ", ".join(f"{name[:SHOWN_LETTERS]!r} ({n})" for name, n in counts.most_common(SHOWN))
    names += f" and {len(counts) - SHOWN} more" if len(counts) > SHOWN else ""
    if len(unknown) == len(drawing.regions):
        raise drawing.refuse(
            f"names no class of the study: found {names}, the classes are {', '.join(classes)}; say which is "
            "which in annotations.classes, as {Tumor: tumour}"
        )
    log.warning("%s: regions of no class of the study are left out: %s", drawing.path.name, names)


def classes_of_slides(
    rows: Iterable["SlideRow"], classes: Sequence[str], options: Annotations
) -> Mapping[str, tuple[str, ...]]:
    """The classes that tiles of every annotated slide can get, by slide id.

    Raises one UserError for all the files that cannot be used.
    """
    found, problems = {}, []
    for row in rows:
        if row.annotations is None:
            continue
        try:
            present = TileLabels(row.annotations, classes, options).present
        except UserError as error:
            problems.append(f"  slide {row.slide_id}: {error}")
            continue
        if options.outside == SLIDE and row.label:
            present |= {row.label}
        found[row.slide_id] = tuple(name for name in classes if name in present)
    if problems:
        more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise UserError(
            "\n".join([f"{len(problems)} annotation files cannot be used:", *problems[:SHOWN], *more])
        )
    return found
