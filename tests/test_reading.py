import csv

import numpy as np
import pytest
from lowmag import reading, tiles
from lowmag.reader import Slide
from lowmag.sections import Tiles
from synthetic_slides import noise, reduced, write_record, write_slide, write_whole_outline

OPTIONS = Tiles(field_um=64, students=[2.5, 0.625])


@pytest.fixture
def cohort(tmp_path):
    """Slides A, B (test), C (train), D (test, rejected) with records and tile files, and splits.csv."""
    picture = noise(520, 400)
    for name in "ABCD":
        path = write_slide(
            tmp_path / f"{name}.tiff", picture, None if name == "D" else 0.5, [reduced(picture, 4)]
        )
        record = write_record(tmp_path, path, name)
        outline = tmp_path / "D.geojson"
        if name == "D":
            outline.write_text('{"type": "FeatureCollection", "features": []}')
        else:
            outline = write_whole_outline(tmp_path, record)
        tiles.write_tiles(record, outline, tmp_path / f"{name}.h5", OPTIONS)
    rows = "D,p,x,test\nA,p,x,test\nC,q,x,train\nB,r,,test\n"
    (tmp_path / "splits.csv").write_text("slide_id,patient_id,label,split\n" + rows)
    return tmp_path


def timings(folder, n_slides, records=None):
    reading.write_timings(records or folder, folder, folder / "splits.csv", n_slides, folder / "reading.tsv")
    with open(folder / "reading.tsv", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_test_slides_are_timed_at_every_magnification(cohort):
    rows = timings(cohort, 5)
    assert [(row["slide_id"], row["magnification"]) for row in rows] == [
        (slide, magnification) for slide in "AB" for magnification in ("0.625", "2.5", "10")
    ]
    assert {row["n_tiles"] for row in rows} == {"12"}
    assert float(rows[0]["mm2"]) == pytest.approx(12 * 0.064**2, rel=1e-3)
    assert all(float(row["seconds"]) > 0 for row in rows)
    if reading.COUNTERS.is_file():
        lowest, _, highest = (int(row["bytes"]) for row in rows[:3])
        # The slide has levels of 400 x 520 and 100 x 130 pixels, noise that JPEG hardly compresses.
        assert 2000 < lowest < highest / 4


def test_no_more_slides_are_timed_than_asked_for(cohort):
    assert {row["slide_id"] for row in timings(cohort, 1)} == {"A"}


def test_pictures_give_a_header_only(cohort):
    (cohort / "none").mkdir()
    assert timings(cohort, 3, cohort / "none") == []
    assert (cohort / "reading.tsv").read_text() == "slide_id\tmagnification\tn_tiles\tmm2\tseconds\tbytes\n"


def test_what_is_timed_is_the_stored_field(cohort, monkeypatch):
    seen = []
    read = Slide.read

    def watched(self, x, y, edge_px, extent, *, exact):
        seen.append((x, y, edge_px, extent, exact))
        picture = read(self, x, y, edge_px, extent, exact=exact)
        assert np.ptp(picture) > 0
        return picture

    monkeypatch.setattr(Slide, "read", watched)
    timings(cohort, 1)
    assert {entry[2:] for entry in seen} == {((edge, edge), (128, 128), False) for edge in (4, 16, 64)}
    assert len(seen) == 1 + 3 * 12  # the first warms up


@pytest.mark.skipif(not reading.COUNTERS.is_file(), reason="the kernel does not count what a process reads")
def test_asking_for_the_count_is_not_counted(tmp_path):
    """Its answer is a file of more or fewer digits: two runs would not tell the same bytes."""
    (tmp_path / "file").write_bytes(bytes(1234))
    for expected, read in ((0, lambda: None), (1234, (tmp_path / "file").read_bytes)):
        before = reading.bytes_asked_for()
        read()
        after = reading.bytes_asked_for()
        assert before
        assert after
        assert after[0] - before[1] == expected
