"""A job that is still at work when its Snakemake was killed and begun again with other options."""

import os
import signal

from lowmag.store import TileFile

from tests.workflow.slow_command import SlowCommand, until

TARGET, OTHER = "results/tiles/D001.h5", "results/tiles/D002.h5"


def test_what_it_made_does_not_take_the_place_of_the_new(study, tmp_path):
    slow = SlowCommand(tmp_path / "bin")
    slow.make(f"--out {TARGET}")
    with study.running("--", TARGET, PATH=slow.ahead()) as snakemake:
        until(lambda: slow.waits)
        os.kill(snakemake.pid, signal.SIGKILL)
        snakemake.wait()
        study.configure(tiles={"max_per_slide": 1})
        assert study.snakemake("--unlock").returncode == 0
        made = study.snakemake("--", TARGET, PATH=slow.ahead())
        assert made.returncode == 0, made.stdout + made.stderr
        slow.go_on()
        until(lambda: len(slow.ended) == 2)
    assert slow.ended == ["0", "2"]
    with TileFile(study.folder / TARGET) as file:
        assert file.n == 1
    assert study.planned("--", TARGET) == {}


def test_a_snakemake_of_its_that_starts_late_takes_nothing_away(study):
    """As in a job that waited in a cluster's queue: Snakemake would remove what it was to make anew."""
    made = study.snakemake("--", TARGET)
    assert made.returncode == 0, made.stdout + made.stderr
    before = (study.folder / TARGET).stat()
    swept = str(study.folder / "results/state/starts/swept")
    late = study.snakemake("--force", "--nolock", "--no-hooks", "--", TARGET, LOWMAG_RUN=swept)
    assert late.returncode == 1
    assert "Snakemake has been started anew since it started this job" in late.stdout + late.stderr
    assert (study.folder / TARGET).stat() == before


def test_two_at_work_on_different_files_leave_each_others_alone(study, tmp_path):
    slow = SlowCommand(tmp_path / "bin")
    slow.make(f"--out {TARGET}")
    with study.running("--", TARGET, PATH=slow.ahead()) as first:
        until(lambda: slow.waits)
        second = study.snakemake("--", OTHER)
        assert second.returncode == 0, second.stdout + second.stderr
        slow.go_on()
        assert first.wait() == 0
    assert study.planned("--", TARGET, OTHER) == {}
