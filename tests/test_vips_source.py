import numpy as np
import pytest
import pyvips
import tifffile
from lowmag.openslide_source import OpenSlideSource
from lowmag.source import UnreadableError
from lowmag.vips_source import VipsSource
from synthetic_slides import noise, reduced, write_slide


@pytest.fixture(scope="module")
def picture():
    return noise(300, 280)


def write_ome(path, picture, **options):
    """An OME-TIFF as Bio-Formats writes them: coarser levels below the first page."""
    sizes = {f"PhysicalSize{axis}{end}": value for axis in "XY" for end, value in (("", 0.5), ("Unit", "µm"))}
    with tifffile.TiffWriter(path, ome=True) as file:
        common = {"tile": (64, 64), "photometric": "rgb", "compression": "zlib"} | options
        file.write(picture, subifds=1, metadata={"axes": "YXS", **sizes}, **common)
        file.write(reduced(picture, 4), subfiletype=1, **common)
    return path


def test_levels_below_a_page_and_in_pages_are_found(tmp_path, picture):
    for path in (
        write_ome(tmp_path / "ome.tif", picture),
        write_slide(tmp_path / "pages.tif", picture, levels=[reduced(picture, 4)]),
    ):
        source = VipsSource(path)
        assert [(level.width, level.downsample) for level in source.levels] == [(280, 1), (70, 4)]
        np.testing.assert_array_equal(source.read(0, 30, 70, 64, 90).pixels, picture[70:160, 30:94])
        np.testing.assert_array_equal(source.read(1, 3, 5, 20, 30).pixels, reduced(picture, 4)[5:35, 3:23])
        np.testing.assert_array_equal(
            source.read(0, 4, 8, 64, 96, 2).pixels, reduced(picture[8:104, 4:68], 2)
        )
        source.close()


def test_other_pages_are_no_levels(tmp_path, picture):
    """A thumbnail of another shape, a label, a mask of one channel, a second focal plane."""
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in (
            noise(70, 90),
            picture,
            noise(50, 60),
            picture[:150, :140, 0],
            picture,
            reduced(picture, 2),
        ):
            file.write(page, photometric="rgb" if page.ndim == 3 else "minisblack", metadata=None)
    source = VipsSource(tmp_path / "a.tif")
    assert [level.width for level in source.levels] == [280, 140]
    np.testing.assert_array_equal(source.read(0, 0, 0, 280, 300).pixels, picture)


@pytest.mark.parametrize(
    "options", [{"compression": "zlib"}, {"rowsperstrip": 300}, {"compression": "packbits"}]
)
def test_strips_are_read(tmp_path, picture, options):
    if options.get("compression") == "packbits":
        pyvips = pytest.importorskip("pyvips")
        pyvips.Image.new_from_array(picture).tiffsave(tmp_path / "a.tif", compression="packbits")
    else:
        tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", metadata=None, **options)
    with pytest.raises(UnreadableError):
        OpenSlideSource(tmp_path / "a.tif")
    found = VipsSource(tmp_path / "a.tif").read(0, -10, 250, 100, 100)
    np.testing.assert_array_equal(found.pixels[:50, 10:], picture[250:, :90])
    assert found.pixels[50:].min() == found.pixels[:, :10].min() == 255
    assert found.transparent == pytest.approx(1 - 50 * 90 / 1e4)


@pytest.mark.parametrize("options", [{"compression": "webp", "lossless": True}, {"compression": "lzw"}])
def test_other_compressions_are_read_exactly(tmp_path, options):
    picture = noise(96, 96)
    pyvips.Image.new_from_array(picture).tiffsave(
        tmp_path / "a.tif", tile=True, tile_width=64, tile_height=64, pyramid=True, **options
    )
    source = VipsSource(tmp_path / "a.tif")
    assert [level.downsample for level in source.levels] == [1, 2]
    np.testing.assert_array_equal(source.read(0, 20, 30, 64, 60).pixels, picture[30:90, 20:84])


@pytest.mark.parametrize(("kind", "multiplied"), [("unassalpha", False), ("assocalpha", True)])
def test_alpha_is_laid_on_white_as_openslide_does(tmp_path, picture, kind, multiplied):
    alpha = np.zeros((300, 280), np.uint8)
    alpha[:, 100:], alpha[:, 200:] = 255, 128
    cover = alpha[..., None] / 255
    stored = np.rint(picture * cover).astype(np.uint8) if multiplied else picture
    pixels = np.dstack([stored, alpha])
    tifffile.imwrite(
        tmp_path / "a.tif", pixels, tile=(64, 64), photometric="rgb", extrasamples=[kind],
        compression="zlib", metadata=None,
    )  # fmt: skip
    expected = np.rint(picture * cover + 255 * (1 - cover))
    for source in (VipsSource(tmp_path / "a.tif"), OpenSlideSource(tmp_path / "a.tif")):
        region = source.read(0, 0, 0, 280, 300)
        assert np.abs(region.pixels - expected).max() <= 1
        assert region.transparent == pytest.approx(1 - alpha.mean() / 255, abs=1e-6)


@pytest.mark.parametrize("compression", ["lzw", "webp", "deflate"])
@pytest.mark.parametrize("first_bad", [0.0, 0.5])
def test_damaged_tile_is_an_error_and_others_are_fine(tmp_path, picture, compression, first_bad, caplog):
    path = tmp_path / "a.tif"
    pyvips.Image.new_from_array(picture).tiffsave(
        path, tile=True, tile_width=64, tile_height=64, compression=compression
    )
    whole = VipsSource(path).read(0, 64, 64, 64, 64).pixels
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    start = int(first_bad * count)
    with open(path, "r+b") as file:
        file.seek(offset + start)
        file.write(b"\xff" * (count - start))
    source = VipsSource(path)
    for _ in range(2):
        with pytest.raises(UnreadableError, match="level 0 at 0, 0"):
            source.read(0, 0, 0, 32, 32)
        np.testing.assert_array_equal(source.read(0, 64, 64, 64, 64).pixels, whole)
    assert not caplog.records


@pytest.mark.parametrize("compression", ["lzw", "deflate", "jpeg"])
def test_damaged_strip_is_an_error(tmp_path, picture, compression):
    path = tmp_path / "a.tif"
    pyvips.Image.new_from_array(picture).tiffsave(path, compression=compression)
    with tifffile.TiffFile(path) as file:
        offset, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    with open(path, "r+b") as file:
        file.seek(offset + count // 2)
        file.write(bytes(count - count // 2))
    with pytest.raises(UnreadableError, match="level 0 at 0, 0"):
        VipsSource(path).read(0, 0, 0, 32, 32)


@pytest.mark.parametrize("pixels", [noise(64, 64)[..., 0], noise(64, 64).astype(np.uint16)])
def test_other_pixels_are_refused(tmp_path, pixels):
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), metadata=None)
    with pytest.raises(UnreadableError, match="8-bit RGB"):
        VipsSource(tmp_path / "a.tif").open_all()
    (tmp_path / "b.tif").write_bytes(b"no TIFF")
    with pytest.raises(UnreadableError, match="no TIFF"):
        VipsSource(tmp_path / "b.tif")
