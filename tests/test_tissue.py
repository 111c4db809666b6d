import json
import logging

import numpy as np
import pytest
import shapely
from lowmag import outline, staining, tissue
from lowmag.grid import read_outline
from lowmag.record import load_record
from lowmag.sections import Demo, Tissue
from PIL import Image
from skimage.filters import threshold_otsu
from synthetic_slides import REAL_SLIDES, write_record, write_slide

real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")
WHITE, PINK, PURPLE = (242, 240, 241), (228, 160, 196), (120, 80, 150)
GREEN_INK, BLUE_INK, RED_INK, BLACK_INK = (30, 110, 80), (40, 80, 190), (200, 20, 25), (25, 25, 28)


def canvas(height=200, width=240, colour=WHITE, seed=0):
    """A picture of one colour with a little noise, as a scanner gives glass."""
    grain = np.random.default_rng(seed).integers(-3, 4, (height, width, 1))
    return (np.array(colour) + grain).clip(0, 255).astype(np.uint8)


def stained(picture, rows, columns, colour=PINK):
    picture[rows, columns] = canvas(*picture[rows, columns].shape[:2], colour, seed=1)
    return picture


def find(picture, **options):
    return staining.find_tissue(picture, 8.0, Tissue(**options)).tissue


def test_stained_rectangle_is_found_exactly():
    picture = stained(canvas(), slice(40, 120), slice(60, 180))
    expected = np.zeros(picture.shape[:2], bool)
    expected[40:120, 60:180] = True
    differ = find(picture) ^ expected
    assert differ.sum() <= 4  # the median rounds the corners


def test_both_stains_are_tissue_and_glass_is_not():
    picture = stained(
        stained(canvas(), slice(20, 100), slice(20, 100)), slice(20, 100), slice(120, 220), PURPLE
    )
    found = find(picture)
    assert found[22:98, 22:98].all()
    assert found[22:98, 122:218].all()
    assert not found[110:].any()


@pytest.mark.parametrize("fill", [WHITE, PINK, PURPLE])
def test_empty_and_full_slides(fill):
    found = find(canvas(colour=fill))
    assert found.mean() == (0 if fill == WHITE else 1)


@pytest.mark.parametrize("ink", [GREEN_INK, BLUE_INK, RED_INK, BLACK_INK])
def test_pen_is_left_out_beside_and_across_tissue(ink):
    picture = stained(canvas(), slice(40, 160), slice(60, 180))
    picture[90:110] = ink
    found = find(picture)
    assert not found[90:110].any()
    assert found[45:80, 65:175].all()
    assert found[120:155, 65:175].all()


@pytest.mark.parametrize("haematoxylin", [0, 0.3, 1, 2])
@pytest.mark.parametrize("eosin", [0, 0.2, 0.8])
def test_no_mixture_of_the_stains_is_pen(haematoxylin, eosin):
    density = haematoxylin * np.array([0.65, 0.70, 0.29]) + eosin * np.array([0.07, 0.99, 0.11])
    colour = np.rint(255 * 10**-density).astype(np.uint8).reshape(1, 1, 3)
    assert not staining.pen_mask(colour).any()


def test_gaps_are_closed_and_the_border_stays():
    picture = stained(canvas(), slice(0, 100), slice(0, 100))
    picture[:, 49:51] = WHITE
    found = find(picture)
    assert found[2:98, 2:98].all()
    assert not found[:, 106:].any()


@pytest.mark.parametrize("seed", range(3))
def test_otsu_agrees_with_scikit_image(seed):
    random = np.random.default_rng(seed)
    values = np.concatenate([random.normal(20, 6, 500), random.normal(90 + 20 * seed, 20, 300)])
    values = values.clip(0, 255).astype(np.uint8)
    assert staining.otsu(np.bincount(values, minlength=256)) == threshold_otsu(values)


def test_otsu_of_nothing_and_of_one_value():
    assert staining.otsu(np.zeros(256, int)) == 0
    assert 0 <= staining.otsu(np.bincount([7] * 5, minlength=256)) <= 7


def test_outline_keeps_large_holes_and_drops_small_pieces():
    mask = np.zeros((200, 200), bool)
    mask[20:150, 30:160] = True
    mask[40:80, 50:90] = False  # 40 pixels of 8 micrometres: kept, above 190
    mask[100:110, 100:110] = False  # filled
    mask[170:180, 10:20] = True  # dropped, below 200
    (piece,) = outline.outline_of(mask, 8.0, Tissue())
    assert piece.is_valid
    assert piece.bounds == (30, 20, 160, 150)
    assert len(piece.interiors) == 1
    assert piece.area == 130 * 130 - 40 * 40
    (larger, smaller) = outline.outline_of(mask, 8.0, Tissue(min_piece_um=0, max_hole_um=0))
    assert (larger.area, smaller.area) == (130 * 130 - 40 * 40 - 100, 100)


def test_outline_without_smoothing_has_the_area_of_the_mask(monkeypatch):
    monkeypatch.setattr(outline, "SIMPLIFY_PX", 0)
    mask = (
        np.random.default_rng(5).random((60, 70)) < 0.5
    )  # pixels that touch at corners, holes in pieces in holes
    pieces = outline.outline_of(mask, 8.0, Tissue(min_piece_um=0, max_hole_um=0))
    assert sum(piece.area for piece in pieces) == mask.sum()
    union = shapely.union_all(pieces)
    rows, columns = np.nonzero(mask)
    assert shapely.contains_xy(union, columns + 0.5, rows + 0.5).all()


def test_outline_of_an_empty_mask_is_empty():
    assert outline.outline_of(np.zeros((5, 6), bool), 8.0, Tissue()) == []


@pytest.fixture
def slide(tmp_path):
    """A slide at 0.5 mpp, 2000 x 1600 pixels, with one rectangle of tissue of 1200 x 800 pixels."""
    picture = np.repeat(np.repeat(stained(canvas(100, 125), slice(20, 70), slice(25, 100)), 16, 0), 16, 1)
    return write_slide(tmp_path / "slide.tiff", picture)


def test_outline_file_is_what_qupath_opens(tmp_path, slide, caplog):
    record = write_record(tmp_path, slide)
    with caplog.at_level(logging.INFO):
        tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue())
    content = json.loads((tmp_path / "o.geojson").read_text())
    assert set(content) == {"type", "features"}
    (feature,) = content["features"]
    assert feature["type"] == "Feature"
    assert feature["geometry"]["type"] == "Polygon"
    assert feature["properties"]["objectType"] == "annotation"
    assert feature["properties"]["classification"] == {"name": "Tissue", "color": [0, 128, 0]}
    expected = shapely.box(25 * 16, 20 * 16, 100 * 16, 70 * 16)
    found = read_outline(tmp_path / "o.geojson")
    assert found.intersection(expected).area / found.union(expected).area > 0.995
    assert "1 pieces, 0.24 mm2, 30.0 % of the scan" in caplog.text
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
    assert json.loads((tmp_path / "o.geojson").read_text()) == {"type": "FeatureCollection", "features": []}
    assert read_outline(tmp_path / "o.geojson").is_empty
    with Image.open(tmp_path / "o.png") as overlay:
        assert overlay.convert("L").getextrema()[0] < 50


def test_slide_without_tissue_is_said_to_be(tmp_path, caplog):
    record = write_record(
        tmp_path, write_slide(tmp_path / "blank.tiff", np.full((640, 640, 3), 240, np.uint8))
    )
    tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue())
    assert json.loads((tmp_path / "o.geojson").read_text())["features"] == []
    assert "look at the overlay" in caplog.text


@real
@pytest.mark.parametrize(("name", "pixel_um"), [("red", 2.0), ("green", 4.0), ("blue", 20.0)])
def test_pen_of_real_slides_is_mostly_left_out(name, pixel_um):
    with Image.open(REAL_SLIDES / f"pen-{name}.png") as image:
        picture = np.asarray(image.convert("RGB"))
    red, green, blue = np.moveaxis(picture.astype(int), 2, 0)
    ink = {
        "red": (red > 150) & (green < 40) & (blue < 40),
        "green": (green > red + 40) & (green > blue),
        "blue": (blue > red + 90) & (green > red + 20),
    }[name]
    stain = (green < red - 25) & (blue > green + 25)
    found = staining.find_tissue(picture, pixel_um, Tissue()).tissue
    assert ink.sum() > 100
    assert found[ink].mean() < 0.05
    assert found[stain].mean() > 0.85


@real
def test_real_tissue_is_found(tmp_path):
    record = write_record(tmp_path, REAL_SLIDES / "CMU-1-Small-Region.svs")
    tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue())
    outline = read_outline(tmp_path / "o.geojson")
    assert 0.3 < outline.area / (2220 * 2967) < 0.45
    assert outline.contains(shapely.Point(1000, 1800))  # epidermis
    assert not outline.intersects(shapely.box(0, 0, 700, 700))  # glass


def test_demo_slide_with_pen_agrees_with_its_truth(tmp_path):
    demo = pytest.importorskip("lowmag.demo")
    demo.write_slides(tmp_path, Demo(slides=5, patients=3, size_um=1024))
    shares = []
    for path in sorted(tmp_path.glob("slides/*.tiff")):
        record = write_record(tmp_path, path, path.stem)
        tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue())
        with Image.open(path.with_suffix(".truth.png")) as image:
            truth = np.asarray(image.convert("L")) > 0
        scale = load_record(record).width / truth.shape[1]
        rows, columns = np.indices(truth.shape) + 0.5
        found = shapely.contains_xy(read_outline(tmp_path / "o.geojson"), columns * scale, rows * scale)
        if not truth.any():
            assert not found.any()
            continue
        shares.append((found & truth).sum() / (found | truth).sum())
    assert len(shares) == 4
    assert np.median(shares) > 0.85
