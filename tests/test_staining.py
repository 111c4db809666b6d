import numpy as np
import pytest
from lowmag import staining
from lowmag.sections import Tissue
from PIL import Image
from synthetic_slides import REAL_SLIDES
from synthetic_tissue import INKS, PIXEL_UM, compressed, dotted, drawn_tissue, framed, paled, penned, tinted

real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")
WHITE, PINK, PURPLE = (242, 240, 241), (228, 160, 196), (120, 80, 150)
RIM = np.s_[8:-8, 8:-8]


def canvas(height=200, width=240, colour=WHITE, seed=0):
    """A picture of one colour with a little noise, as a scanner gives glass."""
    grain = np.random.default_rng(seed).integers(-3, 4, (height, width, 1))
    return (np.array(colour) + grain).clip(0, 255).astype(np.uint8)


def stained(picture, rows, columns, colour=PINK):
    picture[rows, columns] = canvas(*picture[rows, columns].shape[:2], colour, seed=1)
    return picture


def find(picture, **options):
    return staining.find_tissue(picture, PIXEL_UM, Tissue(**options)).tissue


def agreement(found, truth, where=True):
    return (found & truth & where).sum() / ((found | truth) & where).sum()


def test_stained_rectangle_is_found_exactly():
    picture = stained(canvas(), slice(40, 120), slice(60, 180))
    expected = np.zeros(picture.shape[:2], bool)
    expected[40:120, 60:180] = True
    assert (find(picture) ^ expected).sum() <= 4  # the median rounds the corners


def test_both_stains_are_tissue_and_glass_is_not():
    picture = stained(canvas(), slice(20, 100), slice(20, 100))
    found = find(stained(picture, slice(20, 100), slice(120, 220), PURPLE))
    assert found[22:98, 22:98].all()
    assert found[22:98, 122:218].all()
    assert not found[110:].any()


@pytest.mark.parametrize("fill", [WHITE, PINK, PURPLE])
def test_empty_and_full_slides(fill):
    assert find(canvas(colour=fill)).mean() == (0 if fill == WHITE else 1)


def test_gaps_are_closed_and_the_border_stays():
    picture = stained(canvas(), slice(0, 100), slice(0, 100))
    picture[:, 49:51] = WHITE
    found = find(picture)
    assert found[2:98, 2:98].all()
    assert not found[:, 106:].any()


def test_a_higher_floor_leaves_out_pale_tissue():
    picture = stained(canvas(), slice(20, 100), slice(20, 100), (236, 216, 228))
    assert find(picture)[25:95, 25:95].all()
    assert not find(picture, saturation_floor=40).any()


def test_drawn_tissue_agrees_with_its_truth():
    picture, truth = drawn_tissue()
    assert agreement(find(picture), truth) > 0.95


@pytest.mark.parametrize(
    "glass", [(238, 226, 190), (200, 200, 200), (170, 172, 175), (205, 232, 235), (240, 222, 232)]
)
def test_tinted_glass_is_known_and_changes_little(glass):
    picture, truth = drawn_tissue()
    mask = staining.find_tissue(tinted(picture, glass), PIXEL_UM, Tissue())
    own = np.array(staining.glass_colour(picture)) / 243
    np.testing.assert_allclose(mask.white, np.array(glass) * own, atol=3)
    assert agreement(mask.tissue, truth) > 0.95


def test_parts_that_were_not_scanned_are_not_taken_for_the_glass():
    picture, truth = drawn_tissue()
    picture = tinted(picture, (228, 218, 190))
    picture[: len(picture) // 3] = 255
    found = find(picture)
    assert not found[: len(picture) // 3 - 3].any()
    rows = np.arange(len(picture))[:, None] >= len(picture) // 3 + 3
    assert agreement(found, truth, rows) > 0.95


def test_glass_burnt_out_to_white_leaves_pale_tissue_alone():
    picture, truth = drawn_tissue()
    picture = paled(picture, 0.3)
    picture = np.where((picture > 235).all(axis=2, keepdims=True), 255, picture).astype(np.uint8)
    assert agreement(find(picture), truth) > 0.9


def test_pale_tissue_is_found():
    picture, truth = drawn_tissue()
    assert agreement(find(paled(picture, 0.3)), truth) > 0.95
    assert agreement(find(tinted(paled(picture, 0.3), (238, 226, 190))), truth) > 0.95


def test_compression_and_grain_change_little():
    picture, truth = drawn_tissue()
    assert agreement(find(compressed(picture, 30)), truth) > 0.92
    grain = np.random.default_rng(0).normal(0, 4, picture.shape)
    assert agreement(find((picture + grain).clip(0, 255).astype(np.uint8)), truth) > 0.95


def test_coarse_grain_raises_the_threshold():
    grain = np.random.default_rng(0).normal(0, 9, (200, 240, 3))
    picture = (canvas() + grain).clip(0, 255).astype(np.uint8)
    assert staining.find_tissue(picture, PIXEL_UM, Tissue()).threshold > 10
    assert find(picture).mean() < 0.02


def test_dark_rim_is_left_out():
    picture, truth = drawn_tissue()
    found = find(framed(picture))
    assert agreement(found[RIM], truth[RIM]) > 0.95
    for side in (found[:6], found[-6:], found[:, :6], found[:, -6:]):
        assert not side.any()


def test_grid_of_dots_is_left_out():
    picture, truth = drawn_tissue()
    from lowmag.outline import outline_of

    mask = find(dotted(picture))
    assert agreement(mask, truth) > 0.94
    area = sum(piece.area for piece in outline_of(mask, PIXEL_UM, Tissue()))
    assert 0.97 < area / truth.sum() < 1.03


@pytest.mark.parametrize("glass", [(243, 243, 243), (238, 226, 190)])
@pytest.mark.parametrize("ink", INKS)
def test_pen_is_left_out_and_tissue_beside_it_stays(ink, glass):
    picture, truth = drawn_tissue()
    picture, cover = penned(tinted(picture, glass), INKS[ink])
    mask = staining.find_tissue(picture, PIXEL_UM, Tissue())
    assert mask.tissue[cover > 0.5].mean() < 0.01
    assert mask.pen[cover > 0.5].mean() > 0.97
    assert agreement(mask.tissue, truth, cover == 0) > 0.9
    assert 0.02 < mask.pen_share < 0.4


def test_pen_across_pale_tissue_is_left_out():
    picture, cover = penned(paled(drawn_tissue()[0], 0.3), INKS["blue"])
    mask = staining.find_tissue(picture, PIXEL_UM, Tissue())
    assert mask.tissue[cover > 0.5].mean() < 0.01
    assert agreement(mask.tissue, drawn_tissue()[1], cover == 0) > 0.9


def test_pen_that_takes_most_of_the_stain_is_left_in():
    picture = stained(canvas(), slice(10, 50), slice(10, 50))
    picture[100:160] = INKS["green"]
    mask = staining.find_tissue(picture, PIXEL_UM, Tissue())
    assert mask.pen_share > 0.5
    assert not mask.pen.any()
    assert mask.tissue[102:158].all()


@real
@pytest.mark.parametrize(("name", "pixel_um"), [("red", 2.0), ("red", 4.0), ("green", 4.0), ("blue", 20.0)])
def test_pen_of_real_slides_is_left_out(name, pixel_um):
    with Image.open(REAL_SLIDES / f"pen-{name}.png") as image:
        picture = np.asarray(image.convert("RGB"))
    red, green, blue = np.moveaxis(picture.astype(int), 2, 0)
    ink = {
        "red": (red > 150) & (green < 40) & (blue < 40),
        "green": (green > red + 40) & (green > blue),
        "blue": (blue > red + 50) & (blue > green + 20) & (green > red + 20),
    }[name]
    stain = (green < red - 25) & (blue > green + 25)
    found = staining.find_tissue(picture, pixel_um, Tissue()).tissue
    assert ink.sum() > 100
    assert found[ink].mean() < 0.02
    assert found[stain].mean() > 0.85


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (3, 2), (5, 300)])
@pytest.mark.parametrize("colour", [WHITE, PINK, (0, 0, 0), INKS["blue"]])
def test_any_shape_and_colour_gives_a_mask(shape, colour):
    picture = np.broadcast_to(np.array(colour, np.uint8), (*shape, 3)).copy()
    mask = staining.find_tissue(picture, PIXEL_UM, Tissue())
    assert mask.tissue.shape == mask.pen.shape == shape
    assert not (mask.tissue & mask.pen).any()
