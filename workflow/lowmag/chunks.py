"""Slides in chunks: as many as one job of a cluster takes, as a workstation would take them."""

import hashlib
import json
from collections.abc import Sequence

from lowmag.plan import Plan

STAGES = ("check", "tissue", "tiles")
OF_THE_SHEET = ("tile_labels", "masks", "segmenter")  # code that some slides depend on


def names(n_slides: int, size: int) -> list[str]:
    """Names of the chunks of a cohort, `size/number`: those of another size are other chunks."""
    return [f"{size}/{number:04d}" for number in range(-(-n_slides // size))]


def members(slides: Sequence[str], chunk: str) -> list[str]:
    """The slides of a chunk, in the order of the sheet."""
    size, number = map(int, chunk.split("/"))
    return list(slides[size * number : size * (number + 1)])


def digest(plan: Plan, slides: Sequence[str]) -> str:
    """Digest of what the tiles of some slides depend on, so that a chunk is looked at again when it changes.

    It may change where no slide's tiles do (the code of masks, say): the job then finds nothing to do.
    """
    shared = [plan.options(stage) for stage in STAGES]
    shared += [plan.options("annotations") if plan.is_annotated else "", plan.tissue_model]
    shared += [plan.options("demo")] if plan.is_demo else []
    own = [(slide, repr(plan.slides[slide]), plan.slide_size(slide)) for slide in slides]
    found = json.dumps([shared, own, plan.classes, plan.code(*STAGES, *OF_THE_SHEET)])
    return hashlib.sha256(found.encode()).hexdigest()[:16]
