"""Meanings of verdicts and lines to copy, held against the documentation."""

import re
import shlex
from pathlib import Path

import pytest
from lowmag.cures import UNKNOWN, VERDICTS, line_of
from lowmag.record import SlideRecord
from lowmag.slides import read_slides

DOCS = Path(__file__).parents[1] / "docs/inputs.md"


def test_the_page_explains_the_verdicts_of_the_documentation():
    section = DOCS.read_text(encoding="utf-8").split("## Verdicts", 1)[1].split("\n## ", 1)[0]
    assert set(VERDICTS) == set(re.findall(r"^\| `(\w+)` \|", section, flags=re.MULTILINE))


@pytest.mark.parametrize("verdict", ["no_mpp", "implausible_mpp", "anisotropic"])
def test_a_scale_goes_into_the_sheet(verdict, tmp_path):
    line = line_of(SlideRecord("A3", "A3.svs", verdict, objective_power=40.0), "A3", "A3.svs")
    assert line
    assert line.code == "slide_id,mpp\nA3,0.25"
    header, row = line.code.splitlines()
    (tmp_path / "slides.csv").write_text(f"{header},path\n{row},A3.svs\n")
    (slide,) = read_slides(tmp_path / "slides.csv", require_files=False)
    assert slide.mpp == 0.25


def test_a_scale_nobody_knows_is_left_to_be_filled_in():
    line = line_of(SlideRecord("A3", "A3.svs", "no_mpp"), "A3", "A3.svs")
    assert line
    assert line.code.endswith(f"A3,{UNKNOWN}")


def test_a_flat_picture_is_converted():
    name = "it's; rm -rf.png"
    line = line_of(SlideRecord("A3", name, "unsupported"), "A3", name)
    assert line
    words = shlex.split(line.code)
    assert words[:4] == ["lowmag", "pyramid", "--image", name]
    assert words[-1] == "it's; rm -rf.tif"


@pytest.mark.parametrize("name", ["grey.tif", "grey.TIF", "grey.tiff"])
def test_a_flat_picture_is_not_converted_into_itself(name):
    line = line_of(SlideRecord("A3", name, "unsupported"), "A3", name)
    assert line
    out = shlex.split(line.code)[-1]
    assert out.lower() != name.lower()
    assert out.endswith(".tif")


def test_another_file_is_no_line():
    for verdict in {*VERDICTS} - {"no_mpp", "implausible_mpp", "anisotropic", "unsupported"}:
        assert line_of(SlideRecord("A3", "A3.svs", verdict), "A3", "A3.svs") is None
