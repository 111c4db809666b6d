"""What a tile file says of itself: where its pixels come from, how it was made, what other programs read."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import openslide

from lowmag import __version__
from lowmag.record import Level, SlideRecord
from lowmag.sections import Tiles

CLAM_TOLERANCE = 1e-3  # relative: of 1000 pixels, one


def root_attributes(slide: SlideRecord, options: Tiles) -> dict[str, Any]:
    """Attributes of the root: the slide, its scale, its file, the options, the versions of the software."""
    text = json.dumps(options.model_dump(), sort_keys=True)
    versions = {"lowmag": __version__, "openslide": openslide.__library_version__, "numpy": np.__version__}
    has_profile = slide.icc not in (None, "absent")
    return {
        "slide_id": slide.slide_id,
        "verdict": slide.verdict,
        "reason": slide.reason,
        "cure": slide.cure,
        "vendor": slide.vendor,
        "mpp_x": slide.mpp_x,
        "mpp_y": slide.mpp_y,
        "mpp_source": slide.mpp_source,
        "objective_power": slide.objective_power,
        "bounds": slide.bounds,
        "icc": {"keep": "kept", "srgb": "srgb"}[options.icc] if has_profile else "absent",
        "icc_profile": slide.icc if has_profile else None,
        "reader": slide.source,
        "lowres_source": options.lowres,
        "field_um": options.field_um,
        "source_size": slide.source_size,
        "source_mtime": slide.source_mtime,
        "source_quickhash": slide.source_quickhash,
        "options": text,
        "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
        "software": json.dumps(versions, sort_keys=True),
    }


def coords_attributes(
    slide: SlideRecord, extent: tuple[float, float], options: Tiles, *, overlap_px: int = 0
) -> Mapping[str, Any]:
    """Attributes of `coords` that TRIDENT reads, and CLAM's where a level has the teacher's scale.

    TRIDENT takes the field to be patch_size * level0_magnification / target_magnification level-0 pixels,
    so level0_magnification is chosen to give exactly ours. CLAM reads patch_size pixels of patch_level, so
    without a fitting level that is left out: CLAM then stops instead of reading another field.
    """
    edge = options.tile_px(options.teacher)
    field_px = round(sum(extent) / 2)
    attributes: dict[str, Any] = {
        "patch_size": edge,
        "patch_size_level0": field_px,
        "level0_magnification": options.teacher * field_px / edge,
        "target_magnification": options.teacher,
        "overlap": overlap_px,
        "name": slide.slide_id,
        "savetodir": "",
        "level0_width": slide.width,
        "level0_height": slide.height,
    }
    for number, level in enumerate(slide.levels):
        if abs(level.downsample * edge / field_px - 1) < CLAM_TOLERANCE:
            attributes |= clam_attributes(number, level)
    return attributes


def clam_attributes(number: int, level: Level) -> dict[str, Any]:
    """What CLAM writes of the level whose pixels its `patch_size` counts."""
    return {
        "patch_level": number,
        "downsample": [level.downsample] * 2,
        "downsampled_level_dim": [level.width, level.height],
        "level_dim": [level.width, level.height],
        "save_path": "",
    }
