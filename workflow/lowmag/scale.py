"""Micrometres per pixel of a slide: where they are stated, and whether they can be true."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lowmag.magnification import mpp_of, name_of
from lowmag.markup import read_elements
from lowmag.reader import COARSER_THAN_ASKED
from lowmag.record import RejectedError
from lowmag.sections import Check

LARGEST_DISAGREEMENT = 2.0  # between stated mpp and 10 / objective power
NOTABLE_DISAGREEMENT = 0.25  # of the same, and between the sheet and the slide
NOTABLE_ANISOTROPY = 0.02
MICROMETRES = {"inch": 25_400.0, "centimeter": 10_000.0}  # of the units of TIFF resolution
OME_MICROMETRES = {
    "m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "Å": 1e-4,
    "in": 25_400.0,
}  # fmt: skip
LARGEST_OME = 10_000_000  # characters


@dataclass(frozen=True)
class Scale:
    """Micrometres per pixel along x and y, and where they come from."""

    x: float
    y: float
    source: str


def find_scales(properties: Mapping[str, str], override: float | None, assumed: float | None) -> list[Scale]:
    """All that state a scale, the first to be believed.

    In order: the sheet, OpenSlide's properties, TIFF resolution, OME-XML; where there is none of these,
    objective power; where there is not that either, the config.
    """
    found = [] if override is None else [Scale(override, override, "override")]
    own = [positive(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
    if own[0] and own[1]:
        found.append(Scale(own[0], own[1], "openslide.mpp"))
    unit = MICROMETRES.get(properties.get("tiff.ResolutionUnit", "").lower())
    per_unit = [positive(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
    if unit and per_unit[0] and per_unit[1]:
        found.append(Scale(unit / per_unit[0], unit / per_unit[1], "tiff"))
    ome = [positive(properties.get(f"ome.PhysicalSize{axis}")) for axis in "XY"]
    if ome[0] and ome[1]:
        found.append(Scale(ome[0], ome[1], "ome"))
    if not found and (objective := positive(properties.get("openslide.objective-power"))):
        found.append(Scale(mpp_of(objective), mpp_of(objective), "objective"))
    if not found and assumed is not None:
        found.append(Scale(assumed, assumed, "assumed"))
    return found


def choose_scale(scales: list[Scale], options: Check) -> Scale:
    """The first that is plausible, else the first; what the sheet says is never passed over."""
    if scales[0].source == "override":
        return scales[0]
    return next((scale for scale in scales if _within(scale, options)), scales[0])


def _within(scale: Scale, options: Check) -> bool:
    return options.min_mpp <= min(scale.x, scale.y) and max(scale.x, scale.y) <= options.max_mpp


def check_scale(scale: Scale, objective: float | None, cure: str, options: Check) -> None:
    """Reject a scale outside the config's limits, against the objective power, or unequal along x and y."""
    _check_plausible(scale, options, objective, cure)
    if abs(scale.x - scale.y) / ((scale.x + scale.y) / 2) > options.max_anisotropy:
        raise RejectedError(
            "anisotropic",
            f"{scale.x:.4g} micrometres per pixel across and {scale.y:.4g} down "
            f"differ by more than {options.max_anisotropy:.0%}",
            f"{cure}, or raise check.max_anisotropy",
        )


def _check_plausible(scale: Scale, options: Check, objective: float | None, cure: str) -> None:
    if not _within(scale, options):
        raise RejectedError(
            "implausible_mpp",
            f"{scale.x:.4g} micrometres per pixel ({scale.source}), "
            f"expected {options.min_mpp:g} to {options.max_mpp:g}",
            f"{cure}, or widen check.min_mpp and check.max_mpp",
        )
    if objective is None or scale.source in ("override", "objective"):
        return
    expected = mpp_of(objective)
    if any(max(value / expected, expected / value) > LARGEST_DISAGREEMENT for value in (scale.x, scale.y)):
        raise RejectedError(
            "implausible_mpp",
            f"{scale.x:.4g} micrometres per pixel ({scale.source}) does not fit the objective power "
            f"{objective:g} (about {expected:.3g})",
            cure,
        )


def check_magnification(scale: Scale, magnification: float, slide_id: str) -> None:
    """Reject a slide whose level 0 is coarser than `magnification`."""
    wanted, own = mpp_of(magnification), max(scale.x, scale.y)
    if own > wanted * (1 + COARSER_THAN_ASKED):
        raise RejectedError(
            "too_coarse",
            f"level 0 has {own:.4g} micrometres per pixel, {name_of(magnification)} needs {wanted:g} or less",
            f"nothing is enlarged: take slide {slide_id} out of slides.csv, or lower tiles.teacher to "
            f"{10 / own:.3g} or less",
        )


def scale_notes(scale: Scale, scales: list[Scale], objective: float | None) -> list[str]:
    """What is odd about a scale and does not reject the slide."""
    notes = []
    passed = [other for other in scales[: scales.index(scale)] if other.source != "override"]
    if passed:
        notes.append(f"{_said(passed[0])} is implausible and passed over for {_said(scale)}")
    if scale.source == "override" and len(scales) > 1 and _differs(scale, scales[1]):
        notes.append(f"column mpp says {scale.x:.4g}, the slide {_said(scales[1])}")
    if objective and scale.source in ("openslide.mpp", "tiff", "ome"):
        usual = Scale(mpp_of(objective), mpp_of(objective), "")
        if _differs(scale, usual):
            notes.append(f"{_said(scale)}, {usual.x:.3g} is usual for its objective power {objective:g}")
    if abs(scale.x - scale.y) / ((scale.x + scale.y) / 2) > NOTABLE_ANISOTROPY:
        notes.append(f"{scale.x:.4g} micrometres per pixel across and {scale.y:.4g} down")
    return notes


def _said(scale: Scale) -> str:
    return f"{scale.x:.4g} micrometres per pixel ({scale.source})"


def _differs(one: Scale, other: Scale) -> bool:
    return max(abs(one.x / other.x - 1), abs(one.y / other.y - 1)) > NOTABLE_DISAGREEMENT


def ome_properties(description: str) -> dict[str, str]:
    """PhysicalSizeX and PhysicalSizeY of OME-XML in micrometres, as ome.PhysicalSizeX and -Y; else none.

    A document that `markup` refuses is not read: OME writes none such.
    """
    start = description.lstrip("\ufeff \r\n\t")
    if not start.startswith(("<?xml", "<OME", "<ome")) or len(start) > LARGEST_OME:
        return {}
    found: list[dict[str, str]] = []

    def keep_pixels(name: str, attributes: dict[str, str]) -> None:
        if name.rsplit(":", 1)[-1] == "Pixels":
            found.append(attributes)

    try:
        read_elements(start.encode(), keep_pixels)
    except ValueError:
        return {}
    sizes = {axis: _micrometres(found[0], f"PhysicalSize{axis}") for axis in "XY"} if found else {}
    return {f"ome.PhysicalSize{axis}": repr(size) for axis, size in sizes.items() if size}


def _micrometres(attributes: Mapping[str, str], name: str) -> float | None:
    size, unit = positive(attributes.get(name)), attributes.get(f"{name}Unit", "µm")
    return size * OME_MICROMETRES[unit] if size and unit in OME_MICROMETRES else None


def positive(text: str | None) -> float | None:
    """The number a text is, if it is finite and above zero."""
    try:
        number = float(text or "nan")
    except ValueError:
        return None
    return number if 0 < number < math.inf else None
