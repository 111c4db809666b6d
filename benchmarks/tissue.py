"""How well outlines of tissue agree with drawn truth, and how well the flag for blur tells blur from focus.

    python benchmarks/tissue.py              # 48 demo slides of three seeds each
    python benchmarks/tissue.py --quick      # 12 slides of one seed
    python benchmarks/tissue.py --real FILE  # blur on the tissue of a slide of your own as well
    python benchmarks/tissue.py --pictures FOLDER  # and on pictures at 10x below a folder
    python benchmarks/tissue.py --montage docs/images/tissue.jpg

Intersection over union is of the outline as it is written with the mask the generator knows, per pixel of
8 micrometres. On the slide with ink, what is under the ink is left out of both: tissue, but not to be used.
"""

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from lowmag import check, demo, drawing, tissue
from lowmag.grid import read_outline
from lowmag.quality import measure
from lowmag.reader import open_slide
from lowmag.record import load_record
from lowmag.sections import Check, Demo, Tissue
from lowmag.staining import find_tissue
from PIL import Image, ImageFilter

IOU, LEAST_IOU, MILLISECONDS = 0.95, 0.9, 0.4
BLUR_FOUND, FOUND_IN_GRAIN, BLUR_FALSE = 0.95, 0.85, 0.02
QUALITY_MPP, FIELD_UM, BLURS_UM = 2.0, 256, (2, 4, 8)
GRAIN = 2.0  # grey levels, standard deviation per pixel of a field: what a camera adds after the optics
INKED = 25  # grey levels that ink changes
SHOWN = 6


@dataclass(frozen=True)
class Outlined:
    """One slide: agreement with the truth, away from ink and everywhere, and ink left in the outline."""

    slide_id: str
    iou: float
    iou_everywhere: float
    ink_in_outline: float | None
    overlay: Image.Image


def main() -> None:
    """Print one line per figure: name, value, floor, ok or short; n and spread above them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="12 slides of one seed")
    parser.add_argument("--real", type=Path, help="a slide whose tissue is blurred as well")
    parser.add_argument("--pictures", type=Path, help="folder of pictures at 10x that are blurred as well")
    parser.add_argument("--montage", type=Path, help="picture of a few outlines to write")
    args = parser.parse_args()
    cohorts = [Demo(slides=12, patients=8, size_um=2560)] if args.quick else []
    cohorts = cohorts or [Demo(size_um=2560, seed=seed) for seed in range(3)]
    with tempfile.TemporaryDirectory() as folder:
        outlined, fields = [], []
        for options in cohorts:
            for slide in demo.cohort(options):
                found = outline(Path(folder), slide, options)
                outlined += [found] if found else []
                if slide.has_tissue and not slide.has_ink and len(fields) < 400:
                    fields += list(fields_of(Path(folder, slide.path), Path(folder)))
        groups = {"drawn": fields}
        if args.real:
            groups["real"] = list(fields_of(args.real, Path(folder)))
        if args.pictures:
            groups["pictures"] = list(fields_of_pictures(args.pictures))
    report_outlines(outlined)
    for name, found in groups.items():
        report_blur(name, found)
    report_speed(fields[0][0])
    if args.montage:
        montage(outlined).save(args.montage, quality=85)


def outline(folder: Path, slide: demo.DemoSlide, options: Demo) -> Outlined | None:
    """Outline one demo slide as `lowmag tissue` does; None where there is no tissue and none was found."""
    demo.write_slide(folder, slide.slide_id, options)
    record = inspect(folder / slide.path, folder)
    tissue.write_outline(record, folder / "o.geojson", folder / "o.png", Tissue())
    with Image.open(folder / slide.truth_path) as image:
        truth = np.asarray(image) > 0
    scale = (load_record(record).width or 0) / truth.shape[1]
    rows, columns = np.indices(truth.shape) + 0.5
    found = shapely.contains_xy(read_outline(folder / "o.geojson"), columns * scale, rows * scale)
    ink = ink_of(slide, options.size_um, truth.shape) if slide.has_ink else np.zeros_like(truth)
    if not (found | truth).any():
        return None
    with Image.open(folder / "o.png") as image:
        overlay = image.copy()
    shares = [float((found & truth & part).sum() / ((found | truth) & part).sum()) for part in (~ink, True)]
    left = float(found[ink].mean()) if slide.has_ink else None
    return Outlined(slide.slide_id, *shares, left, overlay)


def ink_of(slide: demo.DemoSlide, size_um: float, shape: tuple[int, ...]) -> np.ndarray:
    """Where ink lies on a slide, (h, w) booleans: what differs from the same slide drawn without."""
    pictures = [
        drawing.draw(s, size_um)[0].numpy() for s in (slide, dataclasses.replace(slide, has_ink=False))
    ]
    change = np.abs(pictures[0].astype(np.int16) - pictures[1]).max(axis=2).astype(np.uint8)
    small = Image.fromarray(change).resize(shape[::-1], Image.Resampling.BOX)
    return np.asarray(small) > INKED


def inspect(path: Path, folder: Path) -> Path:
    record = folder / "record.json"
    check.write_record(record, check.SlideToCheck("S", path, None), 10, Check())
    return record


def fields_of(path: Path, folder: Path) -> Iterator[tuple[Image.Image, float]]:
    """Fields that are tissue for at least nine tenths, at the slide's own scale, and that scale."""
    record = inspect(path, folder)
    slide = load_record(record)
    tissue.write_outline(record, folder / "o.geojson", folder / "o.png", Tissue())
    outline = read_outline(folder / "o.geojson")
    own = 1.0 if slide.mpp[0] > 0.7 else 0.5
    edge = round(FIELD_UM / own)
    with open_slide(slide) as source:
        width, height = source.extent(edge, own, 0.04)
        for y in range(0, int(slide.scanned[3] - height), int(height)):
            for x in range(0, int(slide.scanned[2] - width), int(width)):
                box = shapely.box(x, y, x + width, y + height)
                if shapely.intersection(outline, box).area >= 0.9 * box.area:
                    yield Image.fromarray(source.read(x, y, edge, (width, height))), own


def fields_of_pictures(folder: Path) -> Iterator[tuple[Image.Image, float]]:
    """Fields of pictures at 10x that are tissue for at least nine tenths, and their scale."""
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".jpg", ".png", ".tif"}):
        with Image.open(path) as file:
            image = file.convert("RGB")
        mask = find_tissue(np.asarray(image.reduce(8)), 8.0, Tissue()).tissue
        for y in range(0, image.height - FIELD_UM + 1, FIELD_UM):
            for x in range(0, image.width - FIELD_UM + 1, FIELD_UM):
                if mask[y // 8 : (y + FIELD_UM) // 8, x // 8 : (x + FIELD_UM) // 8].mean() >= 0.9:
                    yield image.crop((x, y, x + FIELD_UM, y + FIELD_UM)), 1.0


def report_outlines(outlined: list[Outlined]) -> None:
    """Agreement over all slides with tissue; ink is judged on the slides that bear some."""
    shares = sorted(slide.iou for slide in outlined)
    middle = statistics.median(shares)
    print(f"outlines: n={len(shares)}, median {middle:.3f} ({shares[0]:.3f} to {shares[-1]:.3f})")
    for slide in inked(outlined):
        print(f"inked slide: {slide.iou:.3f} away from ink, {slide.iou_everywhere:.3f} with what is under it")
    figure("tissue_iou_mean", statistics.mean(shares), IOU)
    figure("tissue_iou_min", shares[0], LEAST_IOU)
    figure("ink_left_out", 1 - max(s.ink_in_outline or 0 for s in inked(outlined)), IOU)


def inked(outlined: list[Outlined]) -> list[Outlined]:
    return [slide for slide in outlined if slide.ink_in_outline is not None]


def report_blur(name: str, fields: list[tuple[Image.Image, float]]) -> None:
    """Share of fields called blurred, in focus and after Gaussian blurs at the slide's own scale."""
    print(f"{name} fields of {FIELD_UM} um: n={len(fields)}")
    for grain, ending, least in ((0.0, "", BLUR_FOUND), (GRAIN, "_in_grain", FOUND_IN_GRAIN)):
        for blur in (0, *BLURS_UM):
            share = float(np.mean([is_blurred(image, own, blur, grain) for image, own in fields]))
            if blur:
                figure(f"{name}_blur_{blur}um{ending}_flagged", share, least)
            else:
                figure(f"{name}_in_focus{ending}_not_flagged", 1 - share, 1 - BLUR_FALSE)


def is_blurred(image: Image.Image, own: float, blur_um: float, grain: float) -> bool:
    """Whether a field is called blurred after Gaussian blur, and grain added to that."""
    blurred = image.filter(ImageFilter.GaussianBlur(blur_um / own)) if blur_um else image
    if grain:
        noise = np.random.default_rng(0).normal(0, grain, (image.height, image.width, 1))
        blurred = Image.fromarray((np.asarray(blurred) + noise).clip(0, 255).astype(np.uint8))
    return measure(np.asarray(blurred.reduce(round(QUALITY_MPP / own))), QUALITY_MPP).is_blurred


def report_speed(field: Image.Image, rounds: int = 500) -> None:
    """Processor time of one tile of 256 x 256 px."""
    picture = np.asarray(field.resize((256, 256)))
    times = []
    for _ in range(rounds):
        began = time.process_time_ns()
        measure(picture, QUALITY_MPP)
        times.append((time.process_time_ns() - began) / 1e6)
    middle = statistics.median(times)
    print(f"quality of a tile: {middle:.2f} ms ({min(times):.2f} to {max(times):.2f}, n={rounds})")
    print(f"quality_ms {middle:.2f} {MILLISECONDS:.2f} {'ok' if middle <= MILLISECONDS else 'short'}")


def montage(outlined: list[Outlined]) -> Image.Image:
    """The overlays of inked slides and of those that agree least, side by side."""
    order = sorted(outlined, key=lambda slide: (slide.ink_in_outline is None, slide.iou))[:SHOWN]
    edge = 360
    sheet = Image.new("RGB", (edge * len(order) // 2, 2 * edge), "white")
    for number, slide in enumerate(order):
        picture = slide.overlay.resize((edge - 8, edge - 8), Image.Resampling.LANCZOS)
        sheet.paste(picture, (4 + number // 2 * edge, 4 + number % 2 * edge))
    return sheet


def figure(name: str, value: float, floor: float) -> None:
    print(f"{name} {value:.3f} {floor:.3f} {'ok' if value >= floor else 'short'}")


if __name__ == "__main__":
    main()
