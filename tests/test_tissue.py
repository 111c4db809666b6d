import json
import logging
from pathlib import Path

import numpy as np
import pytest
import shapely
from lowmag import demo, tissue
from lowmag.grid import read_outline
from lowmag.masks import GivenMask
from lowmag.record import load_record
from lowmag.sections import Demo, Tissue
from lowmag.segmenter import NetworkFinder
from PIL import Image
from synthetic_slides import REAL_SLIDES, write_record, write_slide

real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")
WHITE, PINK, GREEN_INK = (242, 240, 241), (228, 160, 196), (30, 110, 80)


def glass(height=100, width=125):
    """Empty glass with a little grain, at 8 micrometres per pixel."""
    grain = np.random.default_rng(0).integers(-3, 4, (height, width, 1))
    return (np.array(WHITE) + grain).clip(0, 255).astype(np.uint8)


def enlarged(picture):
    """A picture at 8 micrometres per pixel as level 0 of a slide at 0.5."""
    return np.repeat(np.repeat(picture, 16, 0), 16, 1)


@pytest.fixture
def slide(tmp_path):
    """A slide at 0.5 mpp, 2000 x 1600 pixels, with one rectangle of tissue of 1200 x 800 pixels."""
    picture = glass()
    picture[20:70, 25:100] = PINK
    return write_slide(tmp_path / "slide.tiff", enlarged(picture))


def test_outline_file_is_what_qupath_opens(tmp_path, slide, caplog):
    record = write_record(tmp_path, slide)
    with caplog.at_level(logging.INFO):
        tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue())
    content = json.loads((tmp_path / "o.geojson").read_text())
    assert set(content) == {"type", "properties", "features"}
    assert content["properties"]["review"] == ""
    assert content["properties"]["source"] == "colour"
    (feature,) = content["features"]
    assert feature["type"] == "Feature"
    assert feature["geometry"]["type"] == "Polygon"
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"] == {"name": "Tissue", "color": [0, 128, 0]}
    expected = shapely.box(25 * 16, 20 * 16, 100 * 16, 70 * 16)
    found = read_outline(tmp_path / "o.geojson")
    assert found.intersection(expected).area / found.union(expected).area > 0.995
    assert "1 piece, 0.24 mm2, 30.0 % of the scan" in caplog.text
    with Image.open(tmp_path / "o.png") as overlay:
        assert overlay.size == (125, 100)


def test_outline_is_the_same_twice(tmp_path, slide):
    record = write_record(tmp_path, slide)
    for name in "ab":
        tissue.write_outline(record, tmp_path / f"{name}.geojson", tmp_path / f"{name}.png", Tissue())
    for suffix in ("geojson", "png"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()


def test_rejected_slide_has_an_empty_outline_and_a_picture_that_says_so(tmp_path):
    record = write_record(tmp_path, tmp_path / "absent.tiff")
    tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue())
    assert json.loads((tmp_path / "o.geojson").read_text())["features"] == []
    assert read_outline(tmp_path / "o.geojson").is_empty
    with Image.open(tmp_path / "o.png") as overlay:
        assert overlay.convert("L").getextrema()[0] < 50


def test_slide_without_tissue_is_said_to_be(tmp_path, caplog):
    record = write_record(
        tmp_path, write_slide(tmp_path / "blank.tiff", np.full((640, 640, 3), 240, np.uint8))
    )
    tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue())
    assert json.loads((tmp_path / "o.geojson").read_text())["features"] == []
    assert "needs review: no tissue was found. Look at the overlay" in caplog.text
    collection = json.loads((tmp_path / "o.geojson").read_text())
    assert collection["properties"]["review"] == "no tissue was found"
    with Image.open(tmp_path / "o.png") as overlay:
        assert overlay.getpixel((0, 0)) == (170, 0, 0)  # the band that says so


def write(tmp_path, picture, options=None, finder=None):
    """Outline a slide made of `picture` at 8 micrometres per pixel; returns the content of the GeoJSON."""
    record = write_record(tmp_path, write_slide(tmp_path / "s.tiff", enlarged(picture)))
    tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", options or Tissue(), finder)
    return json.loads((tmp_path / "o.geojson").read_text())


def test_slide_full_of_tissue_needs_review(tmp_path):
    picture = glass()
    picture[:] = PINK
    picture[:3, :3] = WHITE
    assert write(tmp_path, picture)["properties"]["review"] == "99.9 % of the scan is tissue"


def test_pen_is_outlined_beside_the_tissue_and_left_out(tmp_path):
    picture = glass()
    picture[20:60, 20:100] = PINK
    picture[80:95] = GREEN_INK
    content = write(tmp_path, picture)
    assert content["properties"]["review"] == ""
    assert 0.2 < content["properties"]["pen_share"] < 0.5
    assert len(content["features"]) == 1
    with Image.open(tmp_path / "o.png") as overlay:
        colours = {colour for _, colour in overlay.getcolors(1 << 20)}
    assert {(0, 128, 0), (230, 159, 0)} <= colours


def test_pen_that_takes_most_of_the_stain_is_left_in_and_needs_review(tmp_path, caplog):
    picture = glass()
    picture[5:30, 5:40] = PINK
    picture[50:95] = GREEN_INK
    content = write(tmp_path, picture)
    assert "of the stain has the colours of pen; it was left in" in content["properties"]["review"]
    assert "left in" in caplog.text
    assert len(content["features"]) == 2


def test_options_of_a_slide_change_its_outline(tmp_path):
    picture = glass()
    picture[20:60, 20:60] = PINK
    picture[66:92, 20:46] = (236, 220, 229)
    assert len(write(tmp_path, picture)["features"]) == 2
    assert len(write(tmp_path, picture, Tissue(saturation_floor=25))["features"]) == 1
    assert len(write(tmp_path, picture, Tissue(min_piece_um=250))["features"]) == 1


def test_given_mask_takes_the_place_of_what_is_stained(tmp_path):
    picture = glass()
    picture[20:60, 20:60] = PINK
    given = np.zeros((100, 125), np.uint8)
    given[70:90, 80:120] = 1
    Image.fromarray(given).save(tmp_path / "mask.png")
    content = write(tmp_path, picture, finder=GivenMask(tmp_path / "mask.png"))
    assert content["properties"] == {"review": "", "source": "mask"}
    assert read_outline(tmp_path / "o.geojson").equals(shapely.box(80 * 16, 70 * 16, 120 * 16, 90 * 16))


def test_own_outline_is_a_mask_that_changes_nothing(tmp_path, slide):
    record = write_record(tmp_path, slide)
    tissue.write_outline(record, tmp_path / "a.geojson", tmp_path / "a.png", Tissue())
    mask = GivenMask(tmp_path / "a.geojson")
    tissue.write_outline(record, tmp_path / "b.geojson", tmp_path / "b.png", Tissue(), mask)
    assert read_outline(tmp_path / "b.geojson").equals(read_outline(tmp_path / "a.geojson"))


@pytest.mark.parametrize("mpp", [8.0, 10.0])
def test_network_of_the_user_takes_the_place_of_the_colours(tmp_path, monkeypatch, mpp):
    picture = glass()
    picture[20:60, 20:60] = PINK
    shapes = []

    def right_half(pixels, path):
        assert path.name == "model.onnx"
        shapes.append(pixels.shape)
        found = np.zeros(pixels.shape[:2], bool)
        found[:, pixels.shape[1] // 2 :] = True
        return found

    monkeypatch.setattr("lowmag.segmenter.find_tissue", right_half)
    content = write(tmp_path, picture, Tissue(mpp=mpp), NetworkFinder(Path("model.onnx")))
    assert content["properties"]["source"] == "model"
    assert shapes == [(round(100 * 8 / mpp), round(125 * 8 / mpp), 3)]
    expected = shapely.box(1000, 0, 2000, 1600)
    found = read_outline(tmp_path / "o.geojson")
    assert found.symmetric_difference(expected).area < 0.02 * expected.area


@real
def test_real_tissue_is_found(tmp_path):
    record = write_record(tmp_path, REAL_SLIDES / "CMU-1-Small-Region.svs")
    tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue())
    outline = read_outline(tmp_path / "o.geojson")
    assert 0.3 < outline.area / (2220 * 2967) < 0.45
    assert outline.contains(shapely.Point(1000, 1800))  # epidermis
    assert not outline.intersects(shapely.box(0, 0, 700, 700))  # glass


def test_demo_slides_agree_with_their_truth(tmp_path):
    demo.write_slides(tmp_path, Demo(slides=5, patients=3, size_um=1024))
    shares = {}
    for path in sorted(tmp_path.glob("slides/*.tiff")):
        record = write_record(tmp_path, path, path.stem)
        tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue())
        with Image.open(path.with_suffix(".truth.png")) as image:
            truth = np.asarray(image.convert("L")) > 0
        scale = load_record(record).width / truth.shape[1]
        rows, columns = np.indices(truth.shape) + 0.5
        found = shapely.contains_xy(read_outline(tmp_path / "o.geojson"), columns * scale, rows * scale)
        if truth.any():
            shares[path.stem] = (found & truth).sum() / (found | truth).sum()
        else:
            assert not found.any()
    (inked,) = [slide.slide_id for slide in demo.cohort(Demo(slides=5, patients=3)) if slide.has_ink]
    assert shares.pop(inked) > 0.6  # tissue under ink is left out
    assert len(shares) == 3
    assert min(shares.values()) > 0.95
