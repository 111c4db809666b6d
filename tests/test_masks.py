import json

import numpy as np
import pytest
import shapely
from lowmag.errors import UserError
from lowmag.masks import GivenMask, read_mask
from lowmag.record import SlideRecord
from PIL import Image

SLIDE = SlideRecord("S1", "s.tiff", width=4096, height=3072, mpp_x=0.5, mpp_y=0.5, bounds=(0, 0, 4096, 3072))
CROPPED = SlideRecord(
    "S2", "s.mrxs", width=8192, height=8192, mpp_x=0.5, mpp_y=0.5, bounds=(1024, 2048, 4096, 3072)
)
BOX = shapely.box(1024, 512, 3072, 2560)


def feature(shape, name=None):
    properties = {"objectType": "annotation"}
    if name:
        properties["classification"] = {"name": name}
    return {"type": "Feature", "geometry": json.loads(shapely.to_geojson(shape)), "properties": properties}


def write_geojson(path, *features):
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def read(path, slide=SLIDE, origin="bounds"):
    return shapely.union_all(read_mask(GivenMask(path, origin), slide, 8.0))


def write_picture(path, shape=(384, 512), value=255, mode="L"):
    """The box drawn at 1/8 of level 0, for shape (384, 512)."""
    pixels = np.zeros(shape, np.uint8)
    h, w = shape
    pixels[h * 512 // 3072 : h * 2560 // 3072, w // 4 : w * 3 // 4] = value
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_all_polygons_are_tissue_where_none_is_named_so(tmp_path):
    path = write_geojson(tmp_path / "m.geojson", feature(BOX), feature(shapely.box(0, 0, 100, 100), "Tumor"))
    assert read(path).area == BOX.area + 10_000


@pytest.mark.parametrize("name", ["Tissue", "tissue", "Region*"])
def test_tissue_alone_is_taken_where_it_is_named(tmp_path, name):
    path = write_geojson(
        tmp_path / "m.geojson", feature(BOX, name), feature(shapely.box(0, 0, 99, 99), "Tumor")
    )
    assert read(path).equals(BOX)


def test_what_is_to_be_ignored_is_no_tissue(tmp_path):
    path = write_geojson(tmp_path / "m.geojson", feature(BOX), feature(shapely.box(0, 0, 99, 99), "Ignore*"))
    assert read(path).equals(BOX)


def test_holes_and_small_pieces_stay_as_they_were_drawn(tmp_path):
    shape = BOX.difference(shapely.box(1500, 1000, 1520, 1020)).union(shapely.box(10, 10, 20, 20))
    found = read(write_geojson(tmp_path / "m.geojson", feature(shape)))
    assert found.equals(shape)


def test_geojson_of_a_cropped_slide_starts_at_its_bounds_unless_said_otherwise(tmp_path):
    path = write_geojson(tmp_path / "m.geojson", feature(BOX))
    assert read(path, CROPPED).equals(shapely.box(2048, 2560, 4096, 4608))
    assert read(path, CROPPED, origin="level0").equals(BOX)


def test_polygons_are_cut_to_the_slide(tmp_path):
    path = write_geojson(tmp_path / "m.geojson", feature(shapely.box(3000, 2000, 6000, 6000)))
    assert read(path).equals(shapely.box(3000, 2000, 4096, 3072))


def test_polygons_of_another_slide_are_refused(tmp_path):
    path = write_geojson(tmp_path / "m.geojson", feature(shapely.box(9000, 9000, 9500, 9500)))
    with pytest.raises(UserError, match=r"x 9000 to 9500, .*slide S1 is 4096 x 3072 pixels"):
        read(path)


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff"])
@pytest.mark.parametrize("value", [1, 255])
def test_picture_is_tissue_where_it_is_not_zero(tmp_path, suffix, value):
    found = read(write_picture(tmp_path / f"m.{suffix}", value=value))
    assert found.equals(BOX)


@pytest.mark.parametrize("scale", [0.5, 2, 7])
def test_picture_may_have_any_scale(tmp_path, scale):
    found = read(write_picture(tmp_path / "m.png", (round(384 * scale), round(512 * scale))))
    assert found.symmetric_difference(BOX).area < 0.01 * BOX.area


def test_jpeg_leaves_no_trace_around_the_tissue(tmp_path):
    found = read(write_picture(tmp_path / "m.jpg"))
    assert found.symmetric_difference(BOX).area < 0.01 * BOX.area


def test_transparent_pixels_are_no_tissue(tmp_path):
    pixels = np.zeros((384, 512, 4), np.uint8)
    pixels[..., :3] = 200
    pixels[64:320, 128:384, 3] = 255
    Image.fromarray(pixels).save(tmp_path / "m.png")
    assert read(tmp_path / "m.png").equals(BOX)


def test_palette_and_two_level_pictures_are_read(tmp_path):
    assert read(write_picture(tmp_path / "1.png", mode="1")).equals(BOX)
    assert read(write_picture(tmp_path / "p.png", mode="P")).equals(BOX)


def test_picture_shows_the_scanned_part_or_all_of_level_0(tmp_path):
    scanned = read(write_picture(tmp_path / "s.png"), CROPPED)
    assert scanned.equals(shapely.box(2048, 2560, 4096, 4608))
    pixels = np.zeros((1024, 1024), np.uint8)
    pixels[100:200, 300:500] = 1
    Image.fromarray(pixels).save(tmp_path / "w.png")
    assert read(tmp_path / "w.png", CROPPED).equals(shapely.box(2400, 800, 4000, 1600))


def test_picture_of_another_shape_is_refused(tmp_path):
    with pytest.raises(
        UserError, match=r"is 500 x 400 pixels, .*shape of slide S1 \(4096 x 3072\) within 2%"
    ):
        read(write_picture(tmp_path / "m.png", (400, 500)))
    read(write_picture(tmp_path / "m.png", (378, 512)))


def test_empty_picture_is_an_empty_mask(tmp_path):
    assert read(write_picture(tmp_path / "m.png", value=0)).is_empty


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("m.png", b"\x89PNG\r\n\x1a\nrubbish", "cannot be read as a picture"),
        ("m.tif", b"no tiff", r"mask .*m\.tif.* no TIFF, PNG or JPEG"),
        ("m.geojson", b"no json", r"mask .*m\.geojson: .* neither GeoJSON nor XML"),
        ("m.geojson", b"{", "is not JSON"),
    ],
)
def test_files_that_are_no_mask_are_refused(tmp_path, name, content, problem):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=problem):
        read(tmp_path / name)


@pytest.mark.parametrize("name", ["absent.png", "absent.geojson"])
def test_absent_masks_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"does not exist; correct the path in slides\.csv"):
        read(tmp_path / name)


def test_truncated_picture_is_refused(tmp_path):
    path = write_picture(tmp_path / "m.png", (1500, 2000))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match="cannot be read as a picture"):
        read(path)
