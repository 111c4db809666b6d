"""Thumbnails with tiles laid over them, and tiles close up."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lowmag.errors import UserError
from lowmag.overlay import BAND_PX, REVIEW_COLOUR
from lowmag.slide_facts import TissueFacts, read_cohort_facts
from lowmag.slide_pictures import FLAG_COLOURS, PLAIN, SAMPLE_PX, choose, draw_tiles, overview, samples
from lowmag.store import FLAGS, Layout, TileFile, TileRow, writing
from PIL import Image
from synthetic_cohort import HIGH, LOW, PX, Slide, make_results


def decoded(uri: str) -> Image.Image:
    kind, content = uri.split(",", 1)
    assert kind in ("data:image/jpeg;base64", "data:image/png;base64")
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    return make_results(tmp_path, [Slide("A", 16, {"blur": 1}), Slide("B", verdict="missing")])


def test_tiles_lie_where_they_were_cut(results):
    first, _ = read_cohort_facts(results)
    found = overview(results, first)
    assert found
    assert found.tiles
    grid = np.asarray(decoded(found.tiles).convert("RGBA"))
    assert grid.shape[:2] == (found.height, found.width) == (160, 160)
    # 16 tiles of 64 px in two rows from the corner, on a slide of 640 px shown with 160
    assert not grid[:, 130:, 3].any()
    assert not grid[34:, :, 3].any()
    assert grid[8, 8, 3] > grid[8, 24, 3] > 0
    assert tuple(grid[8, 8, :3]) == FLAG_COLOURS["blur"]
    assert tuple(grid[8, 24, :3]) == PLAIN


@pytest.mark.parametrize("kept", [0, 60])
def test_damaged_overlay_is_named(results, kept):
    first, _ = read_cohort_facts(results)
    path = results / "tissue/A.png"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"A\.png is no picture, or a damaged one .*; delete it and rerun"):
        overview(results, first)


def test_the_gravest_flag_gives_the_colour():
    boxes = np.array([[10 * k, 0, 10 * k + 10, 10] for k in range(3)], float)
    bits = np.array([FLAGS["mask_edge"], FLAGS["blur"] | FLAGS["pen"], FLAGS["read_error"] | FLAGS["blur"]])
    drawn = np.asarray(draw_tiles(boxes, bits, (40, 10)).convert("RGBA"))[5]
    assert [tuple(drawn[x, :3]) for x in (5, 15, 25)] == [
        PLAIN,
        FLAG_COLOURS["pen"],
        FLAG_COLOURS["read_error"],
    ]
    assert drawn[35, 3] == 0


def test_ten_thousand_tiles_are_a_small_picture():
    x, y = (axis.ravel() * 5.0 for axis in np.meshgrid(np.arange(100), np.arange(100)))
    boxes = np.stack([x, y, x + 5, y + 5], axis=1)
    bits = np.random.default_rng(0).choice([0, FLAGS["blur"]], 10_000, p=[0.9, 0.1])
    stored = io.BytesIO()
    image = draw_tiles(boxes, bits, (520, 520))
    image.save(stored, "PNG", optimize=True)
    assert len(stored.getvalue()) < 10_000


def test_the_placeholder_of_a_rejected_slide_is_never_shown(results):
    """It has the slide's id written on it."""
    _, rejected = read_cohort_facts(results)
    assert (results / "tissue/B.png").is_file()
    assert overview(results, rejected) is None
    assert samples(results, "B", 4) == []


def test_the_band_above_an_overlay_is_cut_off(results):
    """Otherwise the tiles would lie beside their tissue."""
    first, _ = read_cohort_facts(results)
    banded = Image.new("RGB", (160, 160 + BAND_PX), REVIEW_COLOUR)
    banded.paste("pink", (0, BAND_PX, 160, 160 + BAND_PX))
    banded.save(results / "tissue/A.png")
    reviewed = replace(first, tissue=TissueFacts(1, 1.0, 0.1, review="look"))
    found = overview(results, reviewed)
    assert found
    assert (found.width, found.height) == (160, 160)
    assert np.asarray(decoded(found.large))[0].mean() > 150


def test_samples_are_the_stored_tiles_at_every_magnification(results):
    found = samples(results, "A", 3)
    assert len(found) == 3
    for sample in found:
        stored = [(picture.name, picture.edge_px) for picture in sample.pictures]
        assert stored == [("10x", PX[HIGH]), ("2.5x", PX[LOW])]
    flagged = [sample for sample in found if sample.flags]
    assert [(sample.place, sample.flags) for sample in flagged] == [("row 0, column 0", ("blur",))]
    with TileFile(results / "tiles/A.h5") as file:
        stored = file.read(LOW, 0)
    shown = np.asarray(decoded(flagged[0].pictures[1].uri))
    assert np.abs(shown.mean((0, 1)) - stored.mean((0, 1))).max() < 4  # JPEG of noise


def test_large_tiles_are_shown_smaller(tmp_path):
    (tmp_path / "tiles").mkdir()
    picture = np.full((512, 512, 3), 200, np.uint8)
    with writing(tmp_path / "tiles/A.h5", Layout([10.0], {10.0: 512}), {"slide_id": "A"}) as writer:
        writer.append(TileRow(0, 0, 0, 0, 1.0, {10.0: picture}))
    (sample,) = samples(tmp_path, "A", 4)
    (shown,) = sample.pictures
    assert shown.edge_px == 512
    assert decoded(shown.uri).size == (SAMPLE_PX, SAMPLE_PX)


def test_sections_keep_their_shape_and_say_their_size(tmp_path):
    (tmp_path / "tiles").mkdir()
    layout = Layout([10.0, 2.5], {}, unit="section")
    picture = np.full((1024, 4096, 3), 200, np.uint8)
    with writing(tmp_path / "tiles/A.h5", layout, {"slide_id": "A", "ratio": (1.0, 1.0)}) as writer:
        writer.append(TileRow(0, 0, 2, -1, 0.7, {10.0: picture, 2.5: picture[::4, ::4]}))
    (sample,) = samples(tmp_path, "A", 4)
    assert sample.place == "section 3, 4096 × 1024 px"
    assert [(shown.name, shown.edge_px) for shown in sample.pictures] == [("10x", 4096), ("2.5x", 1024)]
    assert all(decoded(shown.uri).size == (SAMPLE_PX, SAMPLE_PX // 4) for shown in sample.pictures)


@pytest.mark.parametrize(
    ("flagged", "n", "expected"),
    [
        ([], 4, [12, 37, 62, 87]),
        ([99], 4, [12, 37, 62, 99]),
        ([3, 4, 5], 4, [4, 12, 37, 62]),
        ([37], 4, [12, 37, 62, 87]),
        ([], 1, [50]),
        ([], 200, list(range(100))),
    ],
)
def test_samples_are_spread_and_show_a_flag_if_there_is_one(flagged, n, expected):
    bits = np.full(100, FLAGS["mask_edge"])  # most tiles of a small piece: not worth a look
    bits[flagged] |= FLAGS["blur"]
    assert choose(bits, n) == expected
