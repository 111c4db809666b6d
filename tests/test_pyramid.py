"""Flat pictures to slides: what comes out is read by the same commands as any slide."""

import io
import logging
import subprocess
import sys

import numpy as np
import openslide
import pytest
import pyvips
import tifffile
from lowmag import check, cli
from lowmag.errors import UserError
from lowmag.pyramid import FlatPicture, write_pyramid
from lowmag.sections import Check
from PIL import Image, ImageCms
from synthetic_slides import noise, reduced


@pytest.fixture(scope="module")
def picture():
    """700 x 900 px that JPEG keeps well, with sizes that two does not divide on and on."""
    return noise(44, 57).repeat(16, 0).repeat(16, 1)[:701, :907]


def converted(folder, path, mpp=0.5, quality=90):
    out = folder / "pyramid.tif"
    write_pyramid(FlatPicture(path, mpp, quality), out)
    return out


def pixels(path, level=0):
    with openslide.OpenSlide(path) as slide:
        whole = slide.read_region((0, 0), level, slide.level_dimensions[level])
        return np.asarray(whole)[..., :3]


def flat(folder, name, array, **options):
    path = folder / name
    if path.suffix == ".tif":
        tifffile.imwrite(path, array, **{"photometric": "rgb"} | options)
    else:
        Image.fromarray(array).save(path, **options)
    return path


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("strips.tif", {"rowsperstrip": 16}),
        ("big.tif", {"bigtiff": True, "compression": "zlib"}),
        ("tiled.tif", {"tile": (128, 128), "compression": "zlib"}),
        ("planes.tif", {"planarconfig": "separate"}),
        ("a.png", {}),
        ("a.jpg", {"quality": 98, "subsampling": 0}),
        ("progressive.jpg", {"quality": 98, "subsampling": 0, "progressive": True}),
    ],
)
def test_pyramid_is_a_slide_with_the_pixels_of_the_picture(tmp_path, picture, name, options):
    array = picture.transpose(2, 0, 1) if "planarconfig" in options else picture
    out = converted(tmp_path, flat(tmp_path, name, array, **options), quality=98)
    record = check.inspect(check.SlideToCheck("S1", out), 10.0, Check())
    assert record.usable, record.reason
    assert (record.width, record.height) == (907, 701)
    assert record.mpp == pytest.approx((0.5, 0.5), rel=1e-4)
    assert [(level.width, level.height) for level in record.levels] == [(907, 701), (453, 350), (226, 175)]
    assert [level.downsample for level in record.levels] == pytest.approx([1, 2, 4], rel=0.01)
    for level, factor in enumerate((1, 2, 4)):
        found = pixels(out, level).astype(int)
        error = np.abs(found - reduced(picture, factor)[: found.shape[0], : found.shape[1]])
        assert error.mean() < 1.5  # quality 98, twice for JPEG
        assert np.abs(error.mean(axis=(0, 1))).max() < 1.5


def test_levels_are_means_and_not_single_pixels(tmp_path):
    """A fine chequerboard is grey from the second level on; picking pixels would keep it black or white."""
    board = (np.indices((600, 600)).sum(0) % 2 * 255).astype(np.uint8)
    out = converted(tmp_path, flat(tmp_path, "board.png", board))
    for level in (1, 2):
        assert np.abs(pixels(out, level)[:-8, :-8].astype(int) - 128).max() <= 2


def test_file_is_a_tiled_big_tiff_of_ordinary_directories(tmp_path, picture):
    out = converted(tmp_path, flat(tmp_path, "a.png", picture))
    with tifffile.TiffFile(out) as file:
        assert file.is_bigtiff
        assert [page.is_tiled for page in file.pages] == [True] * 3
        assert {page.compression.name for page in file.pages} == {"JPEG"}
        assert [page.subfiletype & 1 for page in file.pages] == [0, 1, 1]
    assert openslide.OpenSlide.detect_format(out) == "generic-tiff"


def test_transparency_is_laid_on_white(tmp_path):
    array = np.full((300, 300, 4), 100, np.uint8)
    array[..., 3] = 0
    array[:, 150:, 3] = 128
    for path in (
        flat(tmp_path, "a.png", array),
        flat(tmp_path, "a.tif", array, extrasamples=["unassalpha"]),
        flat(tmp_path, "b.png", array[..., [0, 3]]),
    ):
        found = pixels(converted(tmp_path, path)).astype(int)[:-8, :-8]  # edges ring a little
        assert np.abs(found[:, :140] - 255).max() <= 1
        assert np.abs(found[:, 160:] - 177).max() <= 1


def test_multiplied_transparency_is_not_laid_on_twice(tmp_path):
    array = np.full((300, 300, 4), 50, np.uint8)
    array[..., 3] = 128
    path = flat(tmp_path, "a.tif", array, extrasamples=["assocalpha"])
    assert np.abs(pixels(converted(tmp_path, path))[:-8, :-8].astype(int) - 177).max() <= 2


@pytest.mark.parametrize("options", [{"photometric": "minisblack"}, {"photometric": "miniswhite"}])
def test_grey_becomes_three_equal_channels(tmp_path, options):
    array = noise(20, 20)[..., 0].repeat(16, 0).repeat(16, 1)
    found = pixels(converted(tmp_path, flat(tmp_path, "a.tif", array, **options), quality=98)).astype(int)
    expected = array if options["photometric"] == "minisblack" else 255 - array.astype(int)
    assert np.abs(found - expected[..., None]).mean() < 1.5
    assert np.ptp(found, axis=2).max() <= 2


@pytest.mark.parametrize("name", ["a.tif", "a.jpg"])
def test_ink_becomes_colour(tmp_path, name):
    """Without ink it is white; cyan ink takes the red away."""
    array = np.zeros((256, 512, 4), np.uint8)
    array[:, 256:, 0] = 255
    path = tmp_path / name
    if name == "a.tif":
        tifffile.imwrite(path, array, photometric="separated")
    else:
        Image.fromarray(array, "CMYK").save(path, quality=95)
    found = pixels(converted(tmp_path, path)).astype(int)
    assert found[100, 100].min() >= 250
    red, green, blue = found[100, 400]
    assert red < 60 < 120 < green < blue + 40


def test_profile_stays_and_everything_else_is_left_behind(tmp_path, picture):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, picture, photometric="rgb", description="Patient Jane", software="Scanner of Jane",
        iccprofile=profile, extratags=[(315, 2, 5, "Jane", True)],
    )  # fmt: skip
    out = converted(tmp_path, path)
    with tifffile.TiffFile(out) as file:
        assert bytes(file.pages[0].tags[34675].value) == profile
    assert b"Jane" not in out.read_bytes()


@pytest.mark.parametrize("mpp", [None, 0.0, -1.0, 0.05, 250.0, float("nan"), float("inf")])
def test_scale_must_be_given_and_plausible(tmp_path, picture, mpp):
    path = flat(tmp_path, "a.png", picture)
    with pytest.raises(UserError, match=r"--mpp"):
        converted(tmp_path, path, mpp)
    assert [file.name for file in tmp_path.iterdir()] == ["a.png"]


@pytest.mark.parametrize(
    ("array", "options", "words"),
    [
        (noise(64, 64).astype(np.uint16), {}, "type ushort .*expected 8 bits"),
        (noise(64, 64).astype(np.float32), {}, "type float .*expected 8 bits"),
        (
            noise(64, 64)[..., [0, 1, 2, 0, 1]],
            {"photometric": "minisblack"},
            "5 samples .*expected grey, RGB",
        ),
        (noise(64, 64)[..., :2], {"photometric": "minisblack"}, "2 channels"),
        (np.stack([noise(64, 64)] * 3), {}, "another of 64 x 64"),
    ],
)
def test_what_is_no_picture_of_8_bits_is_refused(tmp_path, array, options, words):
    path = flat(tmp_path, "a.tif", array, planarconfig="contig", **options)
    with pytest.raises(UserError, match=words):
        converted(tmp_path, path)
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


def test_smaller_pages_are_passed_over_and_larger_ones_refused(tmp_path, picture):
    for name, pages in (
        ("pyramid.tif", (picture, reduced(picture, 4))),
        ("thumb.tif", (reduced(picture, 4), picture)),
    ):
        with tifffile.TiffWriter(tmp_path / name) as file:
            for page in pages:
                file.write(page, photometric="rgb")
    write_pyramid(FlatPicture(tmp_path / "pyramid.tif", 0.5), tmp_path / "out.tif")
    assert pixels(tmp_path / "out.tif").shape == picture.shape
    with pytest.raises(UserError, match="another of 907 x 701"):
        write_pyramid(FlatPicture(tmp_path / "thumb.tif", 0.5), tmp_path / "out.tif")


@pytest.mark.parametrize("name", ["strips.tif", "zlib.tif", "jpeg.tif", "a.png", "a.jpg", "progressive.jpg"])
@pytest.mark.parametrize("share", [0.001, 0.5, 0.97])
def test_truncated_picture_is_refused_and_leaves_nothing(tmp_path, picture, name, share):
    options = {"zlib.tif": {"compression": "zlib"}, "progressive.jpg": {"progressive": True}}.get(name, {})
    if name == "jpeg.tif":
        path = tmp_path / name
        pyvips.Image.new_from_array(picture).tiffsave(str(path), tile=True, compression="jpeg")
    else:
        path = flat(tmp_path, name, picture, **options)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    (tmp_path / "pyramid.tif").write_text("older")
    with pytest.raises(UserError, match=r"nothing was written|is no TIFF, PNG or JPEG"):
        converted(tmp_path, path)
    assert (tmp_path / "pyramid.tif").read_text() == "older"
    assert len(list(tmp_path.iterdir())) == 2


def test_damage_that_libvips_passes_over_is_found_in_jpeg(tmp_path):
    """A zeroed stretch desynchronises the blocks: libjpeg warns, and libvips writes shifted pixels."""
    stream = io.BytesIO()
    Image.fromarray(noise(700, 900)).save(stream, "JPEG")
    content = bytearray(stream.getvalue())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(8)
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(UserError, match=r"a\.jpg is damaged"):
        converted(tmp_path, tmp_path / "a.jpg")
    assert not (tmp_path / "pyramid.tif").exists()


@pytest.mark.parametrize("compression", ["jpeg", "deflate"])
def test_damaged_tiles_of_a_tiff_are_found(tmp_path, compression):
    """libvips alone writes shifted blocks and black tiles."""
    path = tmp_path / "a.tif"
    pyvips.Image.new_from_array(noise(700, 900)).tiffsave(str(path), tile=True, compression=compression)
    with tifffile.TiffFile(path) as file:
        place = file.pages[0].dataoffsets[5] + 700
    content = bytearray(path.read_bytes())
    content[place : place + 200] = bytes(200)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"a\.tif is damaged, nothing was written: level 0, segment 5"):
        converted(tmp_path, path)
    assert not (tmp_path / "pyramid.tif").exists()


@pytest.mark.parametrize(
    ("image", "out", "words"),
    [
        ("gone.png", "o.tif", "there is no file"),
        ("a.png", "o.svs", "ends in .tif"),
        ("text.png", "o.tif", "no TIFF, PNG or JPEG"),
        ("empty.png", "o.tif", "no TIFF, PNG or JPEG"),
        ("self.tif", "self.tif", "the picture itself"),
    ],
)
def test_arguments_that_cannot_be_meant(tmp_path, picture, image, out, words):
    flat(tmp_path, "a.png", picture)
    flat(tmp_path, "self.tif", picture)
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match=words):
        write_pyramid(FlatPicture(tmp_path / image, 0.5), tmp_path / out)


def test_command_prints_errors_without_a_traceback(tmp_path, picture, capsys, caplog):
    path, out = flat(tmp_path, "a.png", picture), tmp_path / "new" / "a.tiff"
    assert cli.main(["pyramid", "--image", str(path), "--out", str(out)]) == 2
    assert "give micrometres per pixel by --mpp" in capsys.readouterr().err
    logging.getLogger("pyvips").setLevel(logging.NOTSET)
    with caplog.at_level(logging.INFO):
        assert cli.main(["pyramid", "--image", str(path), "--mpp", "0.5", "--out", str(out)]) == 0
    assert out.is_file()
    assert "a.tiff: 907 x 701 px at 0.5" in caplog.text
    assert {record.name for record in caplog.records} == {"lowmag.pyramid"}  # no thread pools


CONVERT = """
import resource, sys
from pathlib import Path
from lowmag.pyramid import FlatPicture, write_pyramid
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
write_pyramid(FlatPicture(Path(sys.argv[1]), 0.5), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_height(tmp_path):
    """288 MB of pixels pass through less than a third of that."""
    path = tmp_path / "tall.tif"
    pyvips.Image.black(2000, 48_000, bands=3).tiffsave(str(path), compression="deflate")
    command = [sys.executable, "-c", CONVERT, str(path), str(tmp_path / "out.tif")]
    grown_kb = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert grown_kb < 90_000
