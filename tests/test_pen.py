import numpy as np
import pytest
from lowmag.pen import pen_mask, pen_strokes
from PIL import Image
from synthetic_slides import REAL_SLIDES
from synthetic_tissue import INKS, PIXEL_UM

DATA = REAL_SLIDES.parent
real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")


def colour(*rgb):
    return np.array(rgb, np.uint8).reshape(1, 1, 3)


@pytest.mark.parametrize("haematoxylin", [0, 0.3, 1, 2])
@pytest.mark.parametrize("eosin", [0, 0.2, 0.8, 1.5])
def test_no_mixture_of_the_stains_is_pen(haematoxylin, eosin):
    density = haematoxylin * np.array([0.65, 0.70, 0.29]) + eosin * np.array([0.07, 0.99, 0.11])
    assert not pen_mask(np.rint(255 * 10**-density).astype(np.uint8).reshape(1, 1, 3)).any()


@pytest.mark.parametrize("blood", [(127, 26, 16), (177, 49, 53), (186, 52, 49), (200, 66, 75)])
def test_red_blood_cells_are_not_pen(blood):
    assert not pen_mask(colour(*blood)).any()


@pytest.mark.parametrize("dark", [(60, 20, 80), (45, 25, 70), (96, 30, 67)])
def test_densely_stained_nuclei_and_folds_are_not_pen(dark):
    assert not pen_mask(colour(*dark)).any()


@pytest.mark.parametrize("glass", [(238, 226, 190), (200, 200, 200), (190, 205, 200), (240, 222, 232)])
def test_no_glass_is_pen(glass):
    assert not pen_mask(colour(*glass)).any()


@pytest.mark.parametrize("ink", INKS)
def test_every_ink_is_pen(ink):
    assert pen_mask(colour(*INKS[ink])).all()


def test_specks_are_no_strokes_and_strokes_are_whole():
    picture = np.full((100, 100, 3), 250, np.uint8)
    picture[20:22, 20:22] = INKS["blue"]
    picture[60:75] = INKS["blue"]
    picture[66:68] = (110, 60, 130)  # tissue shows through
    picture[75:79] = (205, 215, 240)  # thin ink along the rim
    strokes = pen_strokes(picture, PIXEL_UM)
    assert not strokes[:50].any()
    assert strokes[59:80].all()
    assert not strokes[90:].any()


def test_blood_far_from_red_ink_stays():
    picture = np.full((60, 200, 3), 250, np.uint8)
    picture[10:50, 10:40] = INKS["red"]
    picture[10:50, 120:180] = (240, 70, 80)
    strokes = pen_strokes(picture, PIXEL_UM)
    assert strokes[10:50, 10:40].all()
    assert not strokes[:, 110:].any()


@real
@pytest.mark.parametrize("folder", ["osteosarcoma60", "ebhi"])
def test_no_stroke_is_seen_in_real_tissue_without_pen(folder):
    """Blood clots, bone, dense glands: 10x pictures of the one, about 5x of the other."""
    shrink = {"osteosarcoma60": 8, "ebhi": 4}[folder]
    files = sorted((DATA / folder).glob("*/*.jpg"))[:: {"osteosarcoma60": 2, "ebhi": 20}[folder]]
    found = []
    for file in files:
        with Image.open(file) as image:
            picture = np.asarray(image.convert("RGB").reduce(shrink))[2:-2, 2:-2]
        found.append(pen_mask(picture).mean())
    assert len(found) >= 30
    assert np.mean(np.array(found) > 0.05) == 0
