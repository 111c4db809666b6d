"""The demo cohort: who the slides belong to, and the files they are written to.

Patients, growth patterns and slides are invented. `cohort` is pure and imports no numerics, because it is
called while the rules are being read; the drawing is in `drawing`, `anatomy` and `nuclei`.
"""

import csv
import io
import random
from dataclasses import dataclass
from pathlib import Path

from lowmag.errors import UserError
from lowmag.publish import publishing, write_text
from lowmag.sections import Demo

GROWTH_PATTERNS = ("acinar", "cribriform", "trabecular")
TRUTH_MPP = 8.0
JPEG_QUALITY = 87
SLIDE_TILE_PX = 256


@dataclass(frozen=True)
class DemoSlide:
    """One slide of the cohort: its row in slides.csv and what it is drawn from."""

    slide_id: str
    patient_id: str
    label: str  # empty when the slide is unlabelled
    path: str  # relative to slides.csv
    growth: str  # the truth, for unlabelled slides too
    mpp: float
    seed: int
    has_tissue: bool = True
    has_ink: bool = False

    @property
    def truth_path(self) -> str:
        """Mask of the drawn tissue at `TRUTH_MPP`, relative to slides.csv."""
        return f"slides/{self.slide_id}.truth.png"


def cohort(options: Demo) -> list[DemoSlide]:
    """The slides of the cohort in the order of their ids, a function of the options alone.

    A third of the slides carry no label: some are of patients who also have labelled slides, some of
    patients who have none. A patient has one growth pattern. One unlabelled slide is without tissue and
    one labelled slide bears ink. Raises UserError when there are more patients than slides.
    """
    if options.patients > options.slides:
        raise UserError(
            f"demo: {options.patients} patients and {options.slides} slides; every patient has a slide: "
            "set demo.slides to at least demo.patients"
        )
    source = random.Random(options.seed)
    rows = _members(options.slides, options.patients)
    source.shuffle(rows)
    names = list(range(1, options.patients + 1))
    source.shuffle(names)
    bare = _first(rows, labelled=False)
    inked = _first(rows, labelled=True)
    slides = []
    for i, (patient, is_labelled) in enumerate(rows):
        growth = GROWTH_PATTERNS[patient % len(GROWTH_PATTERNS)]
        slide_id = f"D{i + 1:03d}"
        slides.append(
            DemoSlide(
                slide_id=slide_id,
                patient_id=f"P{names[patient]:03d}",
                label=growth if is_labelled else "",
                path=f"slides/{slide_id}.tiff",
                growth=growth,
                mpp=_mpp(i),
                seed=source.getrandbits(32),
                has_tissue=i != bare,
                has_ink=i == inked,
            )
        )
    return slides


def _members(n_slides: int, n_patients: int) -> list[tuple[int, bool]]:
    """(patient, labelled) of every slide; patients are numbered with the labelled ones first."""
    n_unlabelled = round(n_slides / 3)
    n_labelled = n_slides - n_unlabelled
    without_label = max(n_patients // 4, n_patients - n_labelled)
    with_label = n_patients - without_label
    labelled = [i % with_label for i in range(n_labelled)]
    unlabelled = [with_label + i for i in range(without_label)]
    for i in range(n_unlabelled - without_label):
        of_labelled = i % 2 == 0 or not without_label
        unlabelled.append(
            with_label - 1 - i // 2 % with_label if of_labelled else with_label + i // 2 % without_label
        )
    return [(patient, True) for patient in labelled] + [(patient, False) for patient in unlabelled]


def _first(rows: list[tuple[int, bool]], *, labelled: bool) -> int:
    """The first slide of that kind whose patient has another slide, else the first of that kind."""
    slides_of = [patient for patient, _ in rows]
    found = [i for i, (_, is_labelled) in enumerate(rows) if is_labelled == labelled]
    return next((i for i in found if slides_of.count(rows[i][0]) > 1), found[0])


def _mpp(i: int) -> float:
    """Most slides are 10x scans, some 20x, and a few have the odd mpp that real scanners have."""
    if i % 16 == 3:
        return 0.5
    return 0.97 if i % 24 == 1 else 1.0


def write_sheet(out: Path, options: Demo) -> None:
    """Write slides.csv (slide_id, path, label, patient_id) of the cohort; the slides state their own mpp."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["slide_id", "path", "label", "patient_id"])
    writer.writerows([s.slide_id, s.path, s.label, s.patient_id] for s in cohort(options))
    write_text(Path(out) / "slides.csv", text.getvalue())


def write_slides(out: Path, options: Demo) -> None:
    """Draw every slide of the cohort under `out`."""
    for slide in cohort(options):
        _write(Path(out), slide, options.size_um)


def write_slide(out: Path, slide_id: str, options: Demo) -> None:
    """Draw one slide of the cohort as a pyramidal JPEG TIFF, with the mask of its tissue beside it.

    The mask has one pixel per `TRUTH_MPP` micrometres, 255 where there is tissue.
    """
    slides = {slide.slide_id: slide for slide in cohort(options)}
    if slide_id not in slides:
        raise UserError(
            f"demo: no slide {slide_id!r}; the cohort of {options.slides} slides goes from D001 to "
            f"D{options.slides:03d}"
        )
    _write(Path(out), slides[slide_id], options.size_um)


def _write(out: Path, slide: DemoSlide, size_um: float) -> None:
    from lowmag import drawing

    picture, truth = drawing.draw(slide, size_um)
    with publishing(out / slide.truth_path) as temporary:
        truth.write_to_file(str(temporary))
    pixels_per_mm = 1000.0 / slide.mpp
    with publishing(out / slide.path) as temporary:
        picture.copy(xres=pixels_per_mm, yres=pixels_per_mm).tiffsave(
            str(temporary),
            compression="jpeg",
            Q=JPEG_QUALITY,
            tile=True,
            tile_width=SLIDE_TILE_PX,
            tile_height=SLIDE_TILE_PX,
            pyramid=True,
            resunit="cm",
        )
