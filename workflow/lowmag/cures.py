"""What each verdict means, and for a rejected slide the line that cures it, ready to be copied."""

import shlex
from dataclasses import dataclass
from pathlib import Path

from lowmag.magnification import mpp_of
from lowmag.record import SlideRecord

UNKNOWN = "?"  # where a person has to fill in a number: the sheet refuses it, a wrong guess it would not

# As the table in docs/inputs.md; a test holds both together.
VERDICTS = {
    "ok": "It is tiled.",
    "no_mpp": "Neither properties, TIFF tags nor objective state a scale.",
    "implausible_mpp": "The scale is outside check.min_mpp to check.max_mpp, or contradicts the objective.",
    "anisotropic": "The scale along x and y differs by more than check.max_anisotropy.",
    "too_coarse": "Level 0 is coarser than the teacher's magnification, and nothing is ever enlarged.",
    "unreadable": "It opens, but its pixels cannot be decoded.",
    "truncated": "The file ends before its data.",
    "missing": "There is no file at the path.",
    "unsupported": "No reader knows the format.",
}


@dataclass(frozen=True)
class Line:
    """Text to copy, and where it belongs."""

    where: str
    code: str


def line_of(record: SlideRecord, name: str, file_name: str) -> Line | None:
    """What to copy to cure a rejected slide called `name`; None where only another file helps."""
    if record.verdict in ("no_mpp", "implausible_mpp", "anisotropic"):
        guess = f"{mpp_of(record.objective_power):g}" if record.objective_power else UNKNOWN
        hint = (
            f"the usual scale at {record.objective_power:g}x" if record.objective_power else "fill in the ?"
        )
        return Line(f"slides.csv, column mpp ({hint})", f"slide_id,mpp\n{name},{guess}")
    if record.verdict == "unsupported":
        stem, suffix = Path(file_name).stem, Path(file_name).suffix.lower()
        out = f"{stem}.pyramid.tif" if suffix == ".tif" else f"{stem}.tif"  # never the picture itself
        paths = shlex.quote(file_name), shlex.quote(out)
        return Line(
            "command, for a flat picture; then column path of slides.csv",
            f"lowmag pyramid --image {paths[0]} --mpp {UNKNOWN} --out {paths[1]}",
        )
    return None
