"""Slides in chunks: the target `slides`, as a cluster takes it."""

import pytest

PER_SLIDE = {"inspect", "tissue", "tiles"}
FILES = ("slides/*.json", "tissue/*.geojson", "tissue/*.png", "tiles/*.h5")
FIVE = {"slides": 5, "patients": 5, "size_um": 1024}


def stamps(folder):
    """Modification time of every per-slide file."""
    found = [path for pattern in FILES for path in (folder / "results").glob(pattern)]
    return {path.name: path.stat().st_mtime_ns for path in found}


@pytest.fixture
def cohort(study):
    """Five slides in chunks of three; enough to cut, not to train."""
    study.configure(demo=FIVE, compute={"chunk": {"slides": 3}})
    return study


def test_chunks_of_any_size_and_single_slides_take_each_others_files(cohort):
    first = cohort.snakemake("--", "slides")
    assert first.returncode == 0, first.stdout + first.stderr
    made = stamps(cohort.folder)
    assert len(made) == 4 * 5
    assert len(list((cohort.folder / "results/chunks/3").glob("*.done"))) == 2
    planned = cohort.planned()
    assert not PER_SLIDE & set(planned), planned
    assert planned["check"] == planned["teacher"] == 1

    (cohort.folder / "results/tiles/D003.h5").unlink()
    cohort.configure(demo=FIVE, compute={"chunk": {"slides": 5}})
    assert cohort.snakemake("--", "slides").returncode == 0
    after = stamps(cohort.folder)
    assert {name for name in made if after[name] != made[name]} == {"D003.h5"}


def test_bad_slide_stops_no_other_of_its_chunk(cohort):
    """A folder with something in it where an overlay belongs: this job fails however often it is tried."""
    blocked = cohort.folder / "results/tissue/D001.png"
    blocked.mkdir(parents=True)
    (blocked / "in the way").touch()
    result = cohort.snakemake("--", "slides")
    assert result.returncode != 0
    assert "D001" in (cohort.folder / "results/logs/chunks/3/0000.log").read_text()
    assert {path.stem for path in (cohort.folder / "results/tiles").glob("D*.h5")} == {
        "D002",
        "D003",
        "D004",
        "D005",
    }
    assert [path.stem for path in (cohort.folder / "results/chunks/3").glob("*.done")] == ["0001"]
