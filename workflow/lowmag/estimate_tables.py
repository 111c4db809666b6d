"""An estimate for people: a table of the cohort to read, and one of its slides to keep."""

from collections.abc import Sequence
from pathlib import Path

from lowmag.estimate import INTERVAL, SAMPLES, Estimate, total_of
from lowmag.magnification import name_of
from lowmag.publish import write_text
from lowmag.sections import Tiles
from lowmag.stacks import CHUNK_BYTES
from lowmag.wording import byte_size, count, whole


def cohort_table(estimates: Sequence[Estimate], options: Tiles) -> str:
    """Tiles and bytes of the cohort by magnification, as lines of text."""
    total = total_of(estimates)
    n_usable = sum(found.verdict == "ok" for found in estimates)
    edge = f" of {options.field_um:g} µm" if options.unit == "tile" else ""
    lines = [
        f"{count(len(estimates), 'slide')}, {whole(n_usable)} can be used: "
        f"{count(total.n, options.unit)}{edge} from {whole(total.area_mm2)} mm² of tissue",
        "",
    ]
    rows = [("", "edge", f"per {options.unit}", "all", "95 %")]
    highest = options.magnifications[0]
    for magnification in options.magnifications:
        n_bytes = total.n_bytes.get(magnification, 0.0)
        reach = INTERVAL * total.error if magnification == highest else 0.0
        edge = f"{options.tile_px(magnification)} px" if options.unit == "tile" else "any"
        mean = byte_size(n_bytes / max(1, total.n))
        rows.append((name_of(magnification), edge, mean, *_range(n_bytes, reach)))
    mean = byte_size(total.total / max(1, total.n))
    rows.append(("all", "", mean, *_range(total.total, INTERVAL * total.error)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    sampled = count(total.sampled, "tile" if options.unit == "tile" else "block")
    n_chunked = 1 if options.unit == "tile" else len(options.magnifications)
    lines += [
        "",
        f"JPEG bytes at {name_of(highest)} from {sampled} read and encoded, at most {SAMPLES} of a slide; "
        f"all else is exact. A file takes up to {byte_size(CHUNK_BYTES * (n_chunked + 0.5))} more.",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _range(n_bytes: float, reach: float) -> tuple[str, str]:
    low, high = max(0.0, n_bytes - reach), n_bytes + reach
    return byte_size(n_bytes), f"{byte_size(low)} to {byte_size(high)}" if reach else "exact"


def write_slides_table(out: Path, estimates: Sequence[Estimate], options: Tiles) -> None:
    """Write one row per slide: tiles, tissue, and bytes by magnification with the JPEGs' 95 % interval."""
    highest, *lower = options.magnifications
    names = ["slide_id", "verdict", "tiles", "tissue_mm2", "sampled"]
    names += [f"bytes_{name_of(highest)}{end}" for end in ("", "_low", "_high")]
    names += [f"bytes_{name_of(m)}" for m in lower]
    lines = ["\t".join([*names, "bytes"])]
    for found in estimates:
        jpeg, reach = found.n_bytes.get(highest, 0.0), INTERVAL * found.error
        numbers = [jpeg, max(0.0, jpeg - reach), jpeg + reach, *(found.n_bytes.get(m, 0.0) for m in lower)]
        cells = [found.slide_id, found.verdict, str(found.n), f"{found.area_mm2:.4g}", str(found.sampled)]
        lines.append("\t".join([*cells, *(f"{value:.0f}" for value in [*numbers, found.total])]))
    write_text(out, "\n".join(lines) + "\n")
