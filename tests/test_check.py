import csv
import json
import logging

import numpy as np
import pytest
from lowmag import check
from lowmag.errors import UserError
from lowmag.record import load_record, require_same_file, save_record
from lowmag.sections import Check
from synthetic_slides import REAL_SLIDES, noise, reduced, spoil_tile, write_record, write_slide

real = pytest.mark.skipif(not REAL_SLIDES.is_dir(), reason="the shared slides are not on this machine")


@pytest.fixture(scope="module")
def picture():
    return noise(300, 280)


def inspect(path, mpp=None, magnification=10.0, **options):
    return check.inspect(check.SlideToCheck("S1", path, mpp), magnification, Check(**options))


def test_good_slide_is_recorded_whole(tmp_path, picture):
    path = write_slide(tmp_path / "a.tiff", picture, 0.25, [reduced(picture, 4)])
    record = load_record(write_record(tmp_path, path))
    assert record.usable
    assert (record.width, record.height) == (280, 300)
    assert record.mpp == pytest.approx((0.25, 0.25), rel=1e-4)
    assert record.mpp_source == "openslide.mpp"
    assert [(level.width, level.downsample) for level in record.levels] == [(280, 1), (70, 4)]
    assert record.scanned == (0, 0, 280, 300)
    assert (record.source_size, record.icc, record.vendor) == (path.stat().st_size, "absent", "generic-tiff")
    assert record == inspect(path)


def test_no_mpp_names_slide_column_and_key(tmp_path, picture):
    path = write_slide(tmp_path / "a.tiff", picture, None)
    record = inspect(path)
    assert record.verdict == "no_mpp"
    assert "column mpp of slide S1" in record.cure
    assert "check.assume_mpp" in record.cure
    assert inspect(path, mpp=0.5).mpp_source == "override"
    assert inspect(path, assume_mpp=0.5).mpp_source == "assumed"


@pytest.mark.parametrize(
    ("mpp", "verdict"), [(0.05, "implausible_mpp"), (0.25, "ok"), (250, "implausible_mpp")]
)
def test_implausible_scale_is_refused(tmp_path, picture, mpp, verdict):
    assert inspect(write_slide(tmp_path / "a.tiff", picture, mpp)).verdict == verdict


def test_too_coarse_depends_on_the_magnification_asked_for(tmp_path, picture):
    path = write_slide(tmp_path / "a.tiff", picture, 2.0)
    record = inspect(path)
    assert (record.verdict, record.mpp_x) == ("too_coarse", pytest.approx(2.0, rel=1e-4))
    assert "10x needs 1 or less" in record.reason
    assert "tiles.teacher to 5" in record.cure
    assert inspect(path, magnification=5.0).usable
    assert inspect(path, mpp=1.019).usable
    assert inspect(path, mpp=1.021).verdict == "too_coarse"


def test_unreadable_pixels_are_found_at_any_level(tmp_path, picture):
    path = write_slide(tmp_path / "a.tiff", picture, 0.25, [reduced(picture, 2)])
    assert inspect(path).usable
    spoil_tile(path, level=1, index=0)
    record = inspect(path)
    assert record.verdict == "unreadable"
    assert "1 of 18 places" in record.reason
    assert "level 1, segment 0 of a.tiff is damaged" in record.reason


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("big", [False, True])
def test_file_cut_short_is_truncated(tmp_path, picture, share, big):
    import tifffile

    path = tmp_path / "a.tiff"
    tifffile.imwrite(path, picture, tile=(64, 64), photometric="rgb", bigtiff=big, metadata=None)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    record = inspect(path, mpp=0.5)
    assert record.verdict == "truncated"
    assert "copy the file again" in record.cure


def test_file_with_its_directory_at_the_end_is_truncated(tmp_path, picture):
    import pyvips

    path = tmp_path / "a.tiff"
    pyvips.Image.new_from_array(picture).tiffsave(path, tile=True, pyramid=True, compression="jpeg")
    assert inspect(path, mpp=0.5).usable
    path.write_bytes(path.read_bytes()[:-200])
    assert inspect(path, mpp=0.5).verdict == "truncated"


def test_missing_folder_and_unknown_files(tmp_path):
    assert inspect(tmp_path / "absent.svs").verdict == "missing"
    assert inspect(tmp_path).verdict == "unsupported"
    (tmp_path / "text.svs").write_text("not a slide")
    assert inspect(tmp_path / "text.svs").verdict == "unsupported"
    (tmp_path / "slide.svs").mkdir()
    assert inspect(tmp_path / "text.svs" / "inside.svs").verdict == "missing"


def test_reasons_and_cures_hold_no_folder(tmp_path, picture):
    (tmp_path / "text.svs").write_text("not a slide")
    spoilt = write_slide(tmp_path / "spoilt.tiff", picture)
    spoil_tile(spoilt, level=0, index=0)
    for path in (tmp_path / "absent.svs", tmp_path / "text.svs", spoilt):
        record = inspect(path)
        assert not record.usable
        assert str(tmp_path) not in record.reason + record.cure


def test_table_has_a_row_for_every_slide(tmp_path, picture, caplog):
    write_slide(tmp_path / "good.tiff", picture)
    for name in ("plain", "given"):
        write_slide(tmp_path / f"{name}.tiff", picture, None)
    sheet = tmp_path / "slides.csv"
    sheet.write_text("slide_id,path,mpp\nG,good.tiff,\nP,plain.tiff,\nQ,given.tiff,0.5\nX,absent.tiff,\n")
    with caplog.at_level(logging.INFO):
        n_bad = check.write_table(tmp_path / "check.tsv", sheet, None, 10.0, Check())
    with open(tmp_path / "check.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert tuple(rows[0]) == check.COLUMNS
    assert [(row["slide_id"], row["verdict"]) for row in rows] == [
        ("G", "ok"), ("P", "no_mpp"), ("Q", "ok"), ("X", "missing"),
    ]  # fmt: skip
    assert [row["path"] for row in rows] == ["good.tiff", "plain.tiff", "given.tiff", "absent.tiff"]
    assert str(tmp_path) not in (tmp_path / "check.tsv").read_text()
    assert n_bad == 2
    assert "column mpp of slide P" in caplog.text
    assert "4 slides: 2 ok, 1 no_mpp, 1 missing" in caplog.text


def test_table_takes_records_as_they_are(tmp_path, picture):
    path = write_slide(tmp_path / "good.tiff", picture)
    records = tmp_path / "records"
    content = json.loads(write_record(records, path, "A").read_text())
    (records / "A.json").write_text(json.dumps(content | {"verdict": "too_coarse", "reason": "as written"}))
    (tmp_path / "slides.csv").write_text("slide_id,path\nA,good.tiff\nB,other.tiff\n")
    write_slide(tmp_path / "other.tiff", picture)
    assert check.write_table(tmp_path / "t.tsv", tmp_path / "slides.csv", records, 10.0, Check()) == 1
    assert "as written" in (tmp_path / "t.tsv").read_text()


def test_record_survives_its_file_and_a_broken_one_is_refused(tmp_path, picture):
    record = inspect(write_slide(tmp_path / "a.tiff", picture))
    save_record(tmp_path / "r.json", record)
    assert load_record(tmp_path / "r.json") == record
    (tmp_path / "r.json").write_text("{}")
    with pytest.raises(UserError, match="not a slide record"):
        load_record(tmp_path / "r.json")


def test_replaced_slide_is_noticed(tmp_path, picture):
    path = write_slide(tmp_path / "a.tiff", picture)
    record = inspect(path)
    require_same_file(record)
    write_slide(path, np.zeros_like(picture))
    with pytest.raises(UserError, match="inspect it again"):
        require_same_file(record)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read now"):
        require_same_file(record)


@real
@pytest.mark.parametrize(
    ("name", "mpp", "verdict", "words"),
    [
        ("CMU-1-Small-Region.svs", None, "ok", ""),
        ("TCGA-CR-7395-01A-01-TS1.svs", None, "no_mpp", "no micrometres per pixel"),
        ("TCGA-CR-7395-01A-01-TS1.svs", 0.5, "ok", ""),
        ("CMU-1-Small-Region.wrong-mpp.tiff", None, "implausible_mpp", "0.00499"),
        ("camelyon-overview.dcm", None, "too_coarse", "28.97"),
        ("broken-not-a-slide.svs", None, "unsupported", "knows no format"),
        ("broken-unopenable.tiff", None, "unsupported", "Unsupported TIFF compression"),
        ("broken-unreadable-tile.svs", None, "unreadable", "Bogus marker length"),
    ],
)
def test_real_slides_get_their_verdicts(name, mpp, verdict, words):
    record = inspect(REAL_SLIDES / name, mpp)
    assert record.verdict == verdict
    assert words in record.reason
    assert bool(record.cure) == (verdict != "ok")
