"""A small folder laid out as SICAPv2 is downloaded, with pictures that a network can tell apart."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from openpyxl import Workbook
from PIL import Image

GRADES = ("NC", "G3", "G4", "G5")
TRAIN, VAL, TEST = (
    "partition/Validation/Val1/Train.xlsx",
    "partition/Validation/Val1/Test.xlsx",
    "partition/Test/Test.xlsx",
)
# Slides by spreadsheet, two of them of one patient.
SLIDES = {TRAIN: ("16B1", "16B2", "17B3"), VAL: ("17B4A", "17B5"), TEST: ("18B6", "18B7")}
PATIENTS = {"16B1": 1, "16B2": 1, "17B3": 2, "17B4A": 3, "17B5": 4, "18B6": 5, "18B7": 6}


def make_sicap(folder: Path, px: int = 64, slides: dict[str, Sequence[str]] = SLIDES) -> Path:
    """Write the folder: one picture of every grade per slide, and the same split as every fold; its path."""
    for sheet, names in slides.items():
        rows = []
        for slide in names:
            for number, grade in enumerate(GRADES):
                name = f"{slide}_Block_Region_0_{number}_0_xini_{100 * number}_yini_7.jpg"
                _draw(folder / "images" / name, number, px)
                rows.append([name, *(int(grade == other) for other in GRADES), 0])
        folds = [sheet.replace("Val1", f"Val{n}") for n in range(1, 5)] if "Val1" in sheet else [sheet]
        for path in folds:
            write_sheet(folder / path, ["image_name", *GRADES, "G4C"], rows)
    rows = [[slide, float(patient), 3, 4] for slide, patient in PATIENTS.items()]
    write_sheet(
        folder / "wsi_labels.xlsx", ["slide_id", "patient_id", "Gleason_primary", "Gleason_secondary"], rows
    )
    return folder


def write_sheet(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a spreadsheet with one sheet."""
    path.parent.mkdir(parents=True, exist_ok=True)
    book = Workbook(write_only=True)
    sheet = book.create_sheet()
    for row in [header, *rows]:
        sheet.append(row)
    book.save(path)


def _draw(path: Path, grade: int, px: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng([ord(c) for c in path.name])
    waves = 0.5 + 0.5 * np.sin(2 * np.pi * (grade + 1) * np.arange(px) / px + random.uniform())
    grey = 100 + 100 * waves[:, None, None] + random.normal(0, 6, (px, px, 1))
    Image.fromarray(np.clip(grey * [1.0, 0.7, 0.9], 0, 255).astype(np.uint8)).save(path, quality=95)
