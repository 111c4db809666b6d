"""Slides in chunks, as a cluster takes them."""

import pytest

from tests.workflow.study_folder import REPOSITORY

PER_SLIDE = {"inspect", "tissue", "tiles"}
FILES = ("slides/*.json", "tissue/*.geojson", "tissue/*.png", "tiles/*.h5")
FIVE = {"slides": 5, "patients": 5, "size_um": 1024}
SLIDES = [f"D{number:03d}" for number in range(1, 6)]
PROFILE = ("--workflow-profile", str(REPOSITORY / "profiles/slurm"))


def stamps(folder):
    """Modification time of every per-slide file."""
    found = [path for pattern in FILES for path in (folder / "results").glob(pattern)]
    return {path.name: path.stat().st_mtime_ns for path in found}


def tiles_of(slides):
    return [f"results/tiles/{slide}.h5" for slide in slides]


@pytest.fixture
def cohort(study):
    """Five slides, enough to cut, not to train."""
    study.configure(demo=FIVE)
    return study


def test_slides_of_chunks_are_done_to_whatever_asks_for_them(cohort):
    """And a file deleted by hand is missed, whatever was marked as done."""
    options = ("--config", "tissue={mpp: 4}")  # must reach the Snakemake within
    lists = [tiles_of(SLIDES[:3]), tiles_of(SLIDES[3:])]
    made = cohort.in_chunks(lists, *options, "--", "slides")
    assert made.returncode == 0, made.stdout + made.stderr
    assert "Nothing to be done" in made.stdout + made.stderr
    before = stamps(cohort.folder)
    assert len(before) == 4 * 5
    planned = cohort.planned(*options)
    assert not PER_SLIDE & set(planned), planned
    assert planned["check"] == planned["teacher"] == 1

    (cohort.folder / "results/tiles/D003.h5").unlink()
    assert cohort.planned(*options)["tiles"] == 1
    again = cohort.snakemake(*options, "--", "slides")
    assert again.returncode == 0, again.stdout + again.stderr
    after = stamps(cohort.folder)
    assert {name for name in before if after[name] != before[name]} == {"D003.h5"}


def test_bad_slide_stops_no_other_of_its_chunk(cohort):
    """A folder with something in it where an overlay belongs: this job fails however often it is tried."""
    blocked = cohort.folder / "results/tissue/D001.png"
    blocked.mkdir(parents=True)
    (blocked / "in the way").touch()
    result = cohort.in_chunks([tiles_of(SLIDES[:3]), tiles_of(SLIDES[3:])], "--", "slides")
    assert result.returncode == 1
    assert "D001" in (cohort.folder / "results/logs/chunks/1-1/0000.log").read_text()
    assert {path.stem for path in (cohort.folder / "results/tiles").glob("D*.h5")} == {*SLIDES[1:]}
    assert [path.stem for path in (cohort.folder / "results/chunks/1-1").glob("*.done")] == ["0001"]


@pytest.mark.parametrize(("size", "is_said"), [(4, True), (5, False)])
def test_dry_run_for_a_cluster_says_what_goes_in_chunks(cohort, size, is_said):
    pytest.importorskip("snakemake_executor_plugin_slurm", reason="not installed: pip install -e '.[slurm]'")
    cohort.configure(demo=FIVE, compute={"chunk": {"slides": size}})
    result = cohort.snakemake(*PROFILE, "-n")
    assert result.returncode == 0, result.stderr
    assert (f"15 of these jobs go first, {size} slides to a job" in result.stdout + result.stderr) == is_said
