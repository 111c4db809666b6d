"""What a slide's outline depends on: its own cells of the sheet, its mask, the network."""

import csv
import json

import numpy as np
import pytest
from lowmag import cli
from PIL import Image

from tests.workflow.study_folder import TINY, StudyFolder

SLIDES = ["A", "B", "C"]
OUTLINES = [f"results/tissue/{slide}.geojson" for slide in SLIDES]


def write_sheet(study, **cells):
    """A sheet of three slides; `cells` are columns, as {slide: value}."""
    with open(study.folder / "slides.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["slide_id", "path", "label", *cells])
        for number, slide in enumerate(SLIDES):
            row = [slide, f"slides/D00{number + 1}.tiff", "ab"[number % 2]]
            writer.writerow([*row, *(cells[name].get(slide, "") for name in cells)])


@pytest.fixture(scope="module")
def outlined(tmp_path_factory) -> StudyFolder:
    """Three slides whose tissue is outlined, the second by a mask of its left half."""
    study = StudyFolder(tmp_path_factory.mktemp("tissue"))
    for number in range(1, len(SLIDES) + 1):
        arguments = ["--slide", f"D00{number}", "--options", json.dumps(TINY["demo"])]
        assert cli.main(["demo", "--out", str(study.folder), *arguments]) == 0
    mask = np.zeros((100, 100), np.uint8)
    mask[:, :50] = 255
    Image.fromarray(mask).save(study.folder / "mask.png")
    write_sheet(study, mask={"B": "mask.png"})
    study.configure(slides="slides.csv")
    result = study.snakemake("--", *OUTLINES)
    assert result.returncode == 0, result.stdout + result.stderr
    return study


def sources(study):
    contents = [json.loads((study.folder / outline).read_text()) for outline in OUTLINES]
    return [content["properties"]["source"] for content in contents]


def test_mask_of_the_sheet_takes_the_place_of_the_colours(outlined):
    assert sources(outlined) == ["colour", "mask", "colour"]


@pytest.mark.parametrize(
    ("cells", "planned"),
    [
        ({}, {}),
        ({"saturation_floor": {"A": 15}}, {"tissue": 1}),
        ({"min_piece_um": {"C": 50}}, {"tissue": 1}),
        ({"min_piece_um": {"A": 50}, "max_hole_um": {"C": 0}}, {"tissue": 2}),
    ],
)
def test_a_cell_reruns_the_outline_of_its_own_slide(outlined, cells, planned):
    write_sheet(outlined, mask={"B": "mask.png"}, **cells)
    assert outlined.planned("--", *OUTLINES) == planned


def test_a_mask_that_goes_or_comes_reruns_its_slide(outlined):
    write_sheet(outlined)
    assert outlined.planned("--", *OUTLINES) == {"tissue": 1}
    write_sheet(outlined, mask={"A": "mask.png", "B": "mask.png"})
    assert outlined.planned("--", *OUTLINES) == {"tissue": 1}


def test_a_network_reruns_every_slide(outlined):
    write_sheet(outlined, mask={"B": "mask.png"})
    (outlined.folder / "model.onnx").write_bytes(b"one")
    planned = outlined.planned("--config", "tissue={model: model.onnx}", "--", *OUTLINES)
    assert planned == {"tissue": 3}


def test_a_cell_that_is_no_option_is_named(outlined):
    write_sheet(outlined, saturation_floor={"A": 300})
    result = outlined.snakemake("-n", "--", *OUTLINES)
    assert result.returncode != 0
    assert "row 2, column saturation_floor: found '300'" in result.stdout + result.stderr
