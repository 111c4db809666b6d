"""A job of a cluster that outlives its Snakemake, which is begun again with other options."""

import os
import signal

from lowmag.store import TileFile

from tests.slurm.test_killed import PROFILE, QUICK
from tests.workflow.slow_command import SlowCommand, until
from tests.workflow.study_folder import StudyFolder

TARGET = "results/tiles/D001.h5"


def test_what_it_made_does_not_take_the_place_of_the_new(cluster, tmp_path):
    """Nor do the Snakemakes of its job take the new away, as they do with outputs of what failed."""
    study, slow = StudyFolder(tmp_path), SlowCommand(tmp_path / "bin")
    study.configure()
    slow.make(f"--out {TARGET}")
    environment = {"PATH": slow.ahead(cluster.environment["PATH"])}
    with study.running(*PROFILE, *QUICK, "--", TARGET, **environment) as snakemake:
        until(lambda: slow.waits)
        os.kill(snakemake.pid, signal.SIGKILL)
        snakemake.wait()
        (outlived,) = own_jobs(cluster, study)
        study.configure(tiles={"max_per_slide": 1})
        assert study.snakemake("--unlock").returncode == 0
        made = study.snakemake(*PROFILE, *QUICK, "--", TARGET, **environment)
        assert made.returncode == 0, made.stdout + made.stderr
        assert outlived in cluster.running("tiles")
        slow.go_on()
        until(lambda: outlived not in cluster.running("tiles"))
    with TileFile(study.folder / TARGET) as file:
        assert file.n == 1
    assert study.planned("--", TARGET) == {}


def test_one_that_was_still_in_the_queue_takes_nothing_away(cluster, tmp_path):
    """It runs when everything is made already, by another Snakemake with other options."""
    study, path = StudyFolder(tmp_path), cluster.environment["PATH"]
    study.configure()
    ready = study.snakemake("--", "results/tissue/D001.geojson", "results/tissue/D001.png")
    assert ready.returncode == 0, ready.stdout + ready.stderr
    cluster.ask("scontrol", "update", "NodeName=n1", "State=DRAIN", "Reason=test")
    try:
        with study.running(*PROFILE, *QUICK, "--", TARGET, PATH=path) as snakemake:
            until(lambda: own_jobs(cluster, study, "PENDING"))
            os.kill(snakemake.pid, signal.SIGKILL)
            snakemake.wait()
        (queued,) = own_jobs(cluster, study, "PENDING")
        cluster.ask("scontrol", "hold", queued)
    finally:
        cluster.ask("scontrol", "update", "NodeName=n1", "State=RESUME")
    study.configure(tiles={"max_per_slide": 1})
    assert study.snakemake("--unlock").returncode == 0
    made = study.snakemake(*PROFILE, *QUICK, "--", TARGET, PATH=path)
    assert made.returncode == 0, made.stdout + made.stderr
    before = (study.folder / TARGET).stat()
    cluster.ask("scontrol", "release", queued)
    until(lambda: queued in own_jobs(cluster, study, "FAILED"))
    assert (study.folder / TARGET).stat() == before
    assert study.planned("--", TARGET) == {}


def own_jobs(cluster, study, state: str = "RUNNING") -> list[str]:
    """Ids of the study's jobs in a state."""
    jobs = cluster.jobs_of("tiles")
    return [job["JobId"] for job in jobs if job["WorkDir"] == str(study.folder) and job["JobState"] == state]
