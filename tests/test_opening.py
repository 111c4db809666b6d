from typing import Any

import numpy as np
import pytest
import pyvips
import tifffile
from lowmag import check, opening, tiff_pictures
from lowmag.reader import open_slide
from lowmag.record import load_record
from lowmag.sections import Check
from lowmag.trust import sha256_of
from synthetic_slides import REAL_SLIDES, noise, reduced, write_record, write_slide
from synthetic_tiffs import Form, encode_tiles, smooth, write_jpeg_tiff

real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")


@pytest.fixture(scope="module")
def picture():
    return smooth(320, 300)


def inspect(path, mpp=None, magnification=10.0):
    return check.inspect(check.SlideToCheck("S1", path, mpp), magnification, Check())


def write_by_vips(path, picture, **options):
    image = pyvips.Image.new_from_array(picture).copy(xres=2000, yres=2000)
    image.tiffsave(path, tile=True, tile_width=64, tile_height=64, **options)
    return path


def write_ome(path, picture, **options):
    """An OME-TIFF with a level below its page and its scale in the description."""
    sizes = {f"PhysicalSize{axis}{end}": value for axis in "XY" for end, value in (("", 0.5), ("Unit", "µm"))}
    with tifffile.TiffWriter(path, ome=True) as file:
        common = {"tile": (64, 64), "photometric": "rgb"} | options
        file.write(picture, subifds=1, metadata={"axes": "YXS", **sizes}, **common)
        file.write(reduced(picture, 4), subfiletype=1, **common)
    return path


@pytest.mark.parametrize("order", ["<", ">"])
def test_jpeg_tiles_are_read_by_segment(tmp_path, picture, order):
    """Big-endian ones on libvips' word: OpenSlide does not take them."""
    path = tmp_path / "a.tif"
    expected = write_jpeg_tiff(path, [picture, reduced(picture, 4)], Form(order=order, mpp=0.25))
    record = load_record(write_record(tmp_path, path))
    assert (record.verdict, record.source, record.notes) == ("ok", "segments", ())
    assert record.reader.split()[0] == {"<": "openslide", ">": "libvips"}[order]
    assert record.mpp == pytest.approx((0.25, 0.25))
    assert [level.downsample for level in record.levels] == [1, 4]
    with open_slide(record) as slide:
        assert slide.source.name == "segments"
        np.testing.assert_array_equal(slide.read(64, 128, 32, (128, 128)), expected[1][32:64, 16:48])


@pytest.mark.parametrize("order", ["<", ">"])
def test_slide_that_openslide_does_not_read_is_known_by_a_digest(tmp_path, picture, order):
    path = tmp_path / "a.tif"
    write_jpeg_tiff(path, [picture], Form(order=order, mpp=0.25))
    record = load_record(write_record(tmp_path, path))
    known = {"<": (None, True), ">": (sha256_of(path), False)}
    assert (record.source_digest, bool(record.source_quickhash)) == known[order]


@pytest.mark.parametrize(("compression", "source"), [("lzw", "vips"), ("jpeg", "segments"), ("webp", "vips")])
def test_levels_below_a_page_are_found(tmp_path, picture, compression, source):
    path = write_by_vips(tmp_path / "a.tif", picture, pyramid=True, subifd=True, compression=compression)
    record = inspect(path)
    assert (record.verdict, record.source) == ("ok", source)
    assert [level.downsample for level in record.levels] == [1, 2, 4, 8]
    with open_slide(record) as slide:
        error = slide.read(64, 64, 32, (64, 64)).astype(int) - reduced(picture[64:128, 64:128], 2)
    assert np.abs(error).mean() < 6  # quality 75 with halved colours; other places differ by 40 and more


def test_ome_tiff_states_its_scale(tmp_path, picture):
    record = inspect(write_ome(tmp_path / "a.ome.tif", picture, compression="zlib"))
    assert (record.verdict, record.mpp, record.mpp_source) == ("ok", (0.5, 0.5), "ome")
    assert len(record.levels) == 2
    given = inspect(tmp_path / "a.ome.tif", mpp=0.25)
    assert (given.mpp_source, given.notes) == (
        "override", ("column mpp says 0.25, the slide 0.5 micrometres per pixel (ome)",),
    )  # fmt: skip


def test_strips_are_read_by_libvips(tmp_path, picture, monkeypatch):
    options = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", metadata=None, **options)
    record = inspect(tmp_path / "a.tif")
    assert (record.verdict, record.source, record.mpp_source) == ("ok", "vips", "tiff")
    assert record.mpp == pytest.approx((0.5, 0.5))
    monkeypatch.setattr(tiff_pictures, "LARGEST_FLAT_PX", 50_000)
    refused = inspect(tmp_path / "a.tif")
    assert (refused.verdict, "lowmag pyramid" in refused.cure) == ("unsupported", True)
    assert "300 x 320 pixels in strips" in refused.reason


def test_jpeg_strips_are_read_with_a_note(tmp_path, picture):
    image = pyvips.Image.new_from_array(picture).copy(xres=2000, yres=2000)
    image.tiffsave(tmp_path / "a.tif", compression="jpeg")
    record = inspect(tmp_path / "a.tif")
    assert (record.verdict, record.source) == ("ok", "vips")
    assert "goes unnoticed" in record.notes[0]


@pytest.mark.parametrize(
    ("pages", "options", "words"),
    [
        ([noise(128, 128)[..., 0]], {}, "has 1 grey channel, expected RGB of 8 bits"),
        ([noise(128, 128).astype(np.uint16)], {"photometric": "rgb"}, "has 16 bits per sample, expected RGB"),
        (
            [noise(128, 128)[..., 0].astype(np.uint16)] * 4,
            {},
            "16 bits per sample, 1 grey channel, 4 such pages, as fluorescence has",
        ),
        ([noise(128, 128).astype(np.float32)], {"photometric": "rgb"}, "32 bits per sample"),
        ([np.dstack([noise(128, 128)] * 2)[..., :5]], {"planarconfig": "contig"}, "5 grey channels"),
    ],
)
@pytest.mark.parametrize("tiled", [True, False])
def test_other_than_8_bit_rgb_is_refused(tmp_path, pages, options, words, tiled):
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for page in pages:
            file.write(page, tile=(64, 64) if tiled else None, metadata=None, **options)
    record = inspect(tmp_path / "a.tif", mpp=0.5)
    assert record.verdict == "unsupported"
    assert words in record.reason


def test_16_bits_are_not_sent_to_a_command_that_refuses_them(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", noise(128, 128).astype(np.uint16), photometric="rgb", tile=(64, 64))
    assert inspect(tmp_path / "a.tif", mpp=0.5).cure.startswith("save it as a TIFF of 8-bit RGB (")


def test_a_fourth_sample_counts_as_alpha_only_where_the_file_says_so(tmp_path, picture):
    """libtiff takes any for alpha: where it is 0, OpenSlide shows white."""
    samples = np.dstack([picture, np.zeros(picture.shape[:2], np.uint8)])
    options: dict[str, Any] = {"photometric": "rgb", "extrasamples": ["unspecified"], "tile": (64, 64)}
    tifffile.imwrite(tmp_path / "a.tif", samples, compression="zlib", metadata=None, **options)
    record = inspect(tmp_path / "a.tif", mpp=0.5)
    assert (record.verdict, record.source) == ("ok", "vips")
    with open_slide(record) as slide:
        region = slide.read_region(0, 0, (300, 320), (300.0, 320.0))
    np.testing.assert_array_equal(region.pixels, picture)
    assert region.transparent == 0


def overwritten(path, tag, value, page=0):
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages[page].tags[tag].overwrite(value)
    return path


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("ImageWidth", 3_000_000, "claims 3000000 x 320 pixels"),
        ("ImageLength", 4_000_000_000, "claims 300 x 4000000000 pixels"),
        ("TileWidth", 65_520, "tiles of 65520 x 64 pixels"),
    ],
)
def test_files_that_claim_too_much_are_refused(tmp_path, picture, tag, value, words, tiled):
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, picture, photometric="rgb", metadata=None, tile=(64, 64) if tiled else None)
    if tag == "TileWidth" and not tiled:
        return
    record = inspect(overwritten(path, tag, value), mpp=0.5)
    assert record.verdict == "unsupported"
    assert words in record.reason


def test_colours_that_differ_from_openslide_leave_it_to_openslide(tmp_path, picture):
    """The directory says RGB, the JPEG streams say YCbCr: OpenSlide believes the directory."""
    path = tmp_path / "a.tif"
    write_jpeg_tiff(path, [picture], Form(photometric=2))
    record = inspect(path)
    assert record.source == "openslide"
    assert "decode to other colours than openslide gives" in record.notes[0]


@pytest.mark.parametrize("edge", [1319, 2639])
def test_what_openslide_shifts_and_blurs_is_no_ground_to_leave_segments(tmp_path, edge):
    """Of a level of odd size OpenSlide draws all but a few places at fractions of a pixel."""
    fine = np.full((edge, edge, 3), 240, np.uint8)
    middle = slice(edge // 2 - 50, edge // 2 + 70)  # where OpenSlide is a quarter of a pixel off at level 1
    fine[middle, middle] = noise(120, 120)
    write_slide(tmp_path / "odd.tiff", fine, 0.5, [reduced(fine, 2), reduced(fine, 4)])
    record = inspect(tmp_path / "odd.tiff")
    assert (record.source, record.notes) == ("segments", ())
    assert [level.downsample for level in record.levels] == [1, 2, 4]


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_damaged_tile_leaves_the_slide_to_the_strict_reader(tmp_path, picture, order):
    tiles = encode_tiles(picture, Form())
    largest = int(np.argmax([len(blob) for blob in tiles]))
    tiles[largest] = tiles[largest][:300] + bytes(len(tiles[largest]) - 300)
    path = tmp_path / "a.tif"
    write_jpeg_tiff(path, [picture], Form(order=order), [tiles])
    opened = opening.open_file(path)
    assert opened.source.name == "segments"
    opened.source.close()


def test_a_tile_that_openslide_alone_takes_leaves_the_slide_to_the_strict_reader(tmp_path, picture):
    """libjpeg warns of a scan that ends early and makes up the rest; OpenSlide passes that on as pixels."""
    tiles = encode_tiles(picture, Form())
    largest = int(np.argmax([len(blob) for blob in tiles]))
    for damaged, source in (([largest], "segments"), (range(len(tiles)), "openslide")):
        cut = [blob[:-40] + b"\xff\xd9" if n in damaged else blob for n, blob in enumerate(tiles)]
        path = tmp_path / f"{source}.tif"
        write_jpeg_tiff(path, [picture], Form(), [cut])
        opened = opening.open_file(path)
        assert opened.source.name == source
        opened.source.close()


def test_slide_without_a_single_tile_is_refused(tmp_path, picture):
    path = write_slide(tmp_path / "a.tif", picture, 0.5, [picture[::2, ::2]])
    with tifffile.TiffFile(path) as file:
        n = len(file.pages[0].dataoffsets)
    record = inspect(overwritten(path, "TileByteCounts", [0] * n))
    assert (record.verdict, record.reason) == ("truncated", f"a.tif: {n} of its segments were never written")


def test_segments_never_written_reject_what_libvips_reads(tmp_path, picture):
    path = write_by_vips(tmp_path / "a.tif", picture, compression="webp")
    with tifffile.TiffFile(path) as file:
        counts = list(file.pages[0].databytecounts)
    counts[3] = 0
    record = inspect(overwritten(path, "TileByteCounts", counts))
    assert (record.verdict, record.cure) == ("truncated", "copy the file again from its source")
    assert "1 of its segments were never written" in record.reason


def test_oddities_of_levels_are_noted(tmp_path, picture, monkeypatch):
    path = write_slide(tmp_path / "a.tiff", picture, 0.5, [reduced(picture, 16)])
    assert inspect(path).notes == ("level 1 is 16 times coarser than level 0",)
    monkeypatch.setattr(check, "FLAT_PX", 10_000)
    (note,) = inspect(write_slide(tmp_path / "b.tiff", picture)).notes
    assert "`lowmag pyramid --image b.tiff --mpp 0.5 --out b.pyramid.tif`" in note


def test_notes_stand_in_the_table(tmp_path, picture, caplog):
    write_slide(tmp_path / "a.tiff", picture, 0.5, [reduced(picture, 16)])
    (tmp_path / "slides.csv").write_text("slide_id,path\nA,a.tiff\n")
    assert check.write_table(tmp_path / "check.tsv", tmp_path / "slides.csv", None, 10.0, Check()) == 0
    header, row = (line.split("\t") for line in (tmp_path / "check.tsv").read_text().splitlines())
    assert dict(zip(header, row, strict=True))["notes"] == "level 1 is 16 times coarser than level 0"
    assert "level 1 is 16 times coarser" in caplog.text


@real
@pytest.mark.parametrize(
    ("name", "mpp", "source", "ratios"),
    [
        ("CMU-1-Small-Region.svs", None, "segments", [1]),
        ("CMU-1-Small-Region.wrong-mpp.tiff", 0.499, "segments", [1]),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0.5, "openslide", [1, 2]),
    ],
)
def test_real_slides_get_the_reader_they_need(name, mpp, source, ratios):
    record = inspect(REAL_SLIDES / name, mpp)
    assert (record.verdict, record.source) == ("ok", source)
    assert [level.downsample for level in record.levels] == ratios
