import io

import numpy as np
import pytest
import tifffile
from lowmag import colour
from lowmag.errors import UserError
from lowmag.reader import open_slide
from lowmag.record import load_record
from PIL import Image, ImageCms
from synthetic_slides import REAL_SLIDES, noise, reduced, write_record

real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")


def profile(kind="sRGB"):
    """A profile of which sRGB differs: the red and green primaries of sRGB swapped, or Lab."""
    content = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile(kind)).tobytes())
    red, green = content.index(b"rXYZ"), content.index(b"gXYZ")
    content[red : red + 4], content[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(content)


def write_slide_with(path, picture, content):
    extra = [(34675, 7, len(content), content, True)]
    tifffile.imwrite(
        path, picture, tile=(64, 64), photometric="rgb", compression="zlib", metadata=None,
        resolution=(2e4, 2e4), resolutionunit="CENTIMETER", extratags=extra,
    )  # fmt: skip
    return path


def test_slide_is_read_in_srgb_when_asked_for(tmp_path):
    picture, content = noise(128, 128), profile()
    path = write_slide_with(tmp_path / "a.tif", picture, content)
    record = load_record(write_record(tmp_path, path))
    assert record.icc == colour.digest(content) != colour.ABSENT
    assert len(record.icc) == 16
    with open_slide(record) as kept, open_slide(record, icc="srgb") as converted:
        as_stored = kept.read(32, 16, 32, (64, 64))
        found = converted.read(32, 16, 32, (64, 64))
        small = converted.thumbnail(1.0, (0, 0, 128, 128)).picture
    np.testing.assert_array_equal(as_stored, reduced(picture[16:80, 32:96], 2))
    own = ImageCms.ImageCmsProfile(io.BytesIO(content))
    image = Image.fromarray(as_stored)
    expected = ImageCms.profileToProfile(image, own, ImageCms.createProfile("sRGB"), outputMode="RGB")
    np.testing.assert_array_equal(found, np.asarray(expected))
    np.testing.assert_array_equal(small[8:40, 16:48], found)
    np.testing.assert_allclose(found[..., [1, 0, 2]].astype(int), as_stored, atol=2)  # the swap, undone


def test_slide_without_a_profile_stays_as_it_is(tmp_path):
    picture = noise(64, 64)
    tifffile.imwrite(
        tmp_path / "a.tif", picture, tile=(64, 64), photometric="rgb", resolution=(2e4, 2e4), metadata=None
    )
    record = load_record(write_record(tmp_path, tmp_path / "a.tif", mpp=0.5))
    assert record.icc == "absent"
    with open_slide(record, icc="srgb") as slide:
        np.testing.assert_array_equal(slide.read(0, 0, 64, (64, 64)), picture)


@pytest.mark.parametrize("content", [b"no profile at all", b"", profile()[:200]])
def test_profile_of_no_use_is_named(content):
    with pytest.raises(UserError, match=r"ICC profile .*tiles\.icc to keep"):
        colour.to_srgb(content)


@real
def test_profile_of_a_real_slide_is_found():
    content = colour.read_profile(REAL_SLIDES / "TCGA-CR-7395-01A-01-TS1.svs")
    assert content is not None
    assert len(content) == 3144
    pixels = noise(32, 32)
    assert np.abs(colour.to_srgb(content)(pixels).astype(int) - pixels).max() <= 1  # it is sRGB's own
    for name in ("CMU-1-Small-Region.svs", "camelyon-overview.dcm", "broken-not-a-slide.svs"):
        assert colour.read_profile(REAL_SLIDES / name) is None
