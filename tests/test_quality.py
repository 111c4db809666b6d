import time

import numpy as np
import pytest
from lowmag.quality import measure
from PIL import Image, ImageFilter
from synthetic_slides import REAL_SLIDES
from synthetic_tissue import INKS

real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")
MPP = 2.0


@pytest.fixture(scope="module")
def drawn():
    """Tiles (256, 256, 3) of a drawn slide at 1 micrometre per pixel that show tissue for the most part."""
    from lowmag import drawing
    from lowmag.demo import DemoSlide

    slide = DemoSlide("T", "P", "cribriform", "", "cribriform", 1.0, 11)
    picture, truth = drawing.draw(slide, 1536)
    pixels = picture.numpy()
    tiles = [(y, x) for y in range(0, 1281, 256) for x in range(0, 1281, 256)]
    share = {(y, x): truth.numpy()[y // 8 : y // 8 + 32, x // 8 : x // 8 + 32].mean() for y, x in tiles}
    return [Image.fromarray(pixels[y : y + 256, x : x + 256]) for y, x in tiles if share[y, x] > 128]


def tile(image, blur_um=0.0, mpp=1.0):
    """An image at 2 micrometres per pixel, blurred first at its own scale."""
    blurred = image.filter(ImageFilter.GaussianBlur(blur_um / mpp)) if blur_um else image
    return np.asarray(blurred.reduce(round(MPP / mpp)))


def test_drawn_tiles_are_sharp_and_blurred_ones_are_not(drawn):
    assert len(drawn) > 10
    assert not any(measure(tile(image), MPP).is_blurred for image in drawn)
    for blur_um in (2, 4, 8):
        assert all(measure(tile(image, blur_um), MPP).is_blurred for image in drawn)


def test_sharpness_falls_with_blur_and_hardly_with_contrast(drawn):
    image = drawn[0]
    falling = [measure(tile(image, blur_um), MPP).sharpness for blur_um in (0, 1, 2, 4)]
    assert falling == sorted(falling, reverse=True)
    pale = (243 - 0.4 * (243 - tile(image).astype(float))).astype(np.uint8)
    assert measure(pale, MPP).sharpness == pytest.approx(falling[0], rel=0.15)


def test_sharpness_does_not_depend_on_flips(drawn):
    picture = tile(drawn[0])
    sharpness = measure(picture, MPP).sharpness
    for turned in (picture[::-1], picture[:, ::-1], picture.transpose(1, 0, 2)):
        assert measure(np.ascontiguousarray(turned), MPP).sharpness == pytest.approx(sharpness, rel=0.1)


@real
def test_real_tissue_is_sharp_until_it_is_blurred():
    import openslide

    with openslide.OpenSlide(REAL_SLIDES / "CMU-1-Small-Region.svs") as slide:
        image = slide.read_region((600, 1500), 0, (1024, 1024)).convert("RGB")
    assert not measure(tile(image, mpp=0.5), MPP).is_blurred
    for blur_um in (2, 4, 8):
        assert measure(tile(image, blur_um, mpp=0.5), MPP).is_blurred


@pytest.mark.parametrize("level", [0, 200, 255])
def test_empty_tiles_are_not_called_blurred(level):
    grain = np.random.default_rng(0).normal(0, 1.2, (256, 256, 3))
    found = measure((level + grain).clip(0, 255).astype(np.uint8), MPP)
    assert found.sharpness == 1
    assert not found.is_blurred


def test_noise_is_sharp_and_a_ramp_is_not_detail():
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    assert measure(noise, MPP).sharpness > 0.5
    ramp = np.broadcast_to(np.arange(256, dtype=np.uint8)[None, :, None], (256, 256, 3)).copy()
    assert measure(ramp, MPP).sharpness == 1


@pytest.mark.parametrize("ink", INKS)
def test_pen_is_flagged_by_its_share(drawn, ink):
    picture = tile(drawn[0])
    assert not measure(picture, MPP).has_pen
    inked = picture.copy()
    inked[:40] = INKS[ink]
    found = measure(inked, MPP)
    assert found.has_pen
    assert found.pen_share == pytest.approx(40 / len(inked), abs=0.02)


def test_soft_edge_of_pen_does_not_make_a_sharp_tile_blurred(drawn):
    picture = tile(drawn[0]).astype(float)
    cover = np.clip((np.arange(len(picture)) - 50) / 20, 0, 1)[:, None, None]
    inked = (picture * cover + np.array(INKS["black"]) * (1 - cover)).astype(np.uint8)
    assert not measure(inked, MPP).is_blurred


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (4, 5), (7, 64), (33, 31), (640, 480)])
def test_any_shape_is_measured(shape):
    picture = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    found = measure(picture, MPP)
    assert 0 <= found.sharpness <= 1
    assert 0 <= found.pen_share <= 1


def test_measuring_is_quick():
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    picture[:, :, 1] //= 2
    times = []
    for _ in range(50):
        began = time.thread_time()
        measure(picture, MPP)
        times.append(time.thread_time() - began)
    assert min(times) < 2e-3  # 0.3 ms on an idle core; benchmarks/tissue.py holds the figure
