"""A study of pictures: the quickest there is from sheet to student."""

import csv
from pathlib import Path

import numpy as np
from PIL import Image

N_SLIDES = 12  # two pictures each
PICTURES = {
    "images": "images.csv",
    "pictures": {"mpp": 1.0},
    "tiles": {"teacher": 10, "students": [2.5]},
    "splits": {"val": 0.34, "test": 0.33},
    "teacher": {"epochs": 1, "batch_size": 8},
    "students": {"epochs": 1, "batch_size": 8, "unlabelled": [0]},
    "compute": {name: {"threads": 1} for name in ("teacher", "targets", "students", "predictions")},
}


def write_pictures(folder: Path) -> None:
    """Pictures of 256 px with 3 or 6 dark stripes, and their sheet."""
    random = np.random.default_rng(0)
    rows = []
    for slide in range(N_SLIDES):
        for number in range(2):
            stripes = (3, 6)[slide % 2]
            wave = 0.5 + 0.5 * np.sin(2 * np.pi * (np.arange(256) / 256 * stripes + random.uniform()))
            grey = 120 + 80 * wave[:, None, None] + random.normal(0, 8, (256, 256, 3))
            name = f"{slide}_{number}.png"
            Image.fromarray(np.clip(grey, 0, 255).astype(np.uint8)).save(folder / name)
            rows.append({"image": name, "slide_id": f"S{slide}", "label": ("calm", "busy")[slide % 2]})
    with (folder / "images.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
