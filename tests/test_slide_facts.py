"""What a folder of results says of its slides."""

import dataclasses
from pathlib import Path

import h5py
import pytest
from lowmag.errors import UserError
from lowmag.sections import Tiles
from lowmag.slide_facts import SlideFacts, read_cohort_facts
from lowmag.tiles import write_tiles
from synthetic_cohort import SIZE_PX, Slide, make_results
from synthetic_slides import noise, write_record, write_slide, write_whole_outline


def read(folder: Path, *slides: Slide) -> list[SlideFacts]:
    return read_cohort_facts(make_results(folder, slides))


def test_everything_the_stages_left_is_found(tmp_path):
    (facts,) = read(tmp_path, Slide("A", 8, {"blur": 2, "mask_edge": 8}, notes=("one level only",)))
    assert facts.notes == ("one level only",)
    assert facts.mpp == 1.0
    assert facts.tissue
    assert facts.tissue.pieces == 1
    assert facts.tissue.area_mm2 == pytest.approx(0.4**2)
    assert facts.tissue.share == pytest.approx((400 / SIZE_PX) ** 2)
    assert facts.tiles
    assert facts.tiles.n == 8
    assert facts.tiles.flags == {"blur": 2, "mask_edge": 8}
    assert facts.tiles.share("blur") == 0.25
    assert facts.tiles.share("pen") == 0
    assert facts.tiles.magnifications == (10.0, 2.5)
    assert facts.tiles.seconds == 1.5
    assert facts.tiles.n_bytes == (tmp_path / "tiles/A.h5").stat().st_size


def test_seconds_are_what_the_log_of_the_tiles_says(tmp_path, caplog):
    """Of real tiles, so that the words of the log and those looked for stay the same."""
    path = write_slide(tmp_path / "A.tiff", noise(256, 256), mpp=1.0)
    record = write_record(tmp_path / "slides", path, "A")
    outline = write_whole_outline(tmp_path, record)
    (tmp_path / "tiles").mkdir()
    caplog.set_level("INFO")
    options = Tiles(field_um=128, students=[5])
    write_tiles(record, outline, tmp_path / "tiles/A.h5", options)
    (tmp_path / "check.tsv").write_text("slide_id\tverdict\nA\tok\n")
    (facts,) = read_cohort_facts(tmp_path)
    assert facts.tiles
    assert facts.tiles.seconds is None
    log = tmp_path / "logs/tiles/A.log"
    log.parent.mkdir(parents=True)
    log.write_text(caplog.text)
    (facts,) = read_cohort_facts(tmp_path)
    assert facts.tiles
    assert facts.tiles.seconds is not None
    assert 0 <= facts.tiles.seconds < 60


def test_a_check_alone_is_enough(tmp_path):
    make_results(tmp_path, [Slide("A"), Slide("B", verdict="no_mpp", reason="none", mpp=None)], tiled=False)
    for name in ("A", "B"):
        (tmp_path / f"slides/{name}.json").unlink()
        (tmp_path / f"tissue/{name}.geojson").unlink()
    a, b = read_cohort_facts(tmp_path)
    assert (a.tissue, a.tiles, a.mpp, a.record.width) == (None, None, 1.0, SIZE_PX)
    assert (b.record.verdict, b.record.reason, b.mpp) == ("no_mpp", "none", None)


def test_an_empty_slide_is_not_a_rejected_one(tmp_path):
    empty, rejected = read(tmp_path, Slide("A", 0, tissue_px=0), Slide("B", verdict="missing"))
    assert empty.is_empty
    assert empty.tissue
    assert empty.tissue.area_mm2 == 0
    assert not rejected.is_empty
    assert rejected.tissue is None


def test_what_tiling_found_out_counts(tmp_path):
    make_results(tmp_path, [Slide("A")])
    with h5py.File(tmp_path / "tiles/A.h5", "r+") as file:
        file.attrs.update({"verdict": "unreadable", "reason": "3 of 9 fields", "cure": "copy it again"})
    (facts,) = read_cohort_facts(tmp_path)
    record = facts.record
    assert (record.verdict, record.reason, record.cure) == ("unreadable", "3 of 9 fields", "copy it again")


def test_notes_are_read_from_the_table_without_a_record(tmp_path):
    make_results(tmp_path, [Slide("A")], tiled=False)
    (tmp_path / "slides/A.json").unlink()
    lines = (tmp_path / "check.tsv").read_text().splitlines()
    (tmp_path / "check.tsv").write_text(f"{lines[0]}\tnotes\n{lines[1]}\tone level only; a gap\n")
    (facts,) = read_cohort_facts(tmp_path)
    assert facts.notes == ("one level only", "a gap")


def test_what_cannot_be_read_is_named_with_the_cure(tmp_path):
    with pytest.raises(UserError, match=r"has no check\.tsv.*run `snakemake` or `lowmag check`"):
        read_cohort_facts(tmp_path)
    make_results(tmp_path, [Slide("A")])
    (tmp_path / "tissue/A.geojson").write_text("{")
    with pytest.raises(UserError, match=r"A\.geojson is not GeoJSON.*delete it and rerun"):
        read_cohort_facts(tmp_path)


def test_facts_do_not_change_once_read(tmp_path):
    (facts,) = read(tmp_path, Slide("A"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        facts.notes = ()  # pyright: ignore
