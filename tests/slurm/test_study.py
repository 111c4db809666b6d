"""A study on a cluster, its node lost while tiles are cut: what was asked of SLURM, and what came out."""

import json
import shutil
import time
from pathlib import Path

import h5py
import pytest
import yaml
from lowmag import chunks, cli
from lowmag.plan import Plan
from snakemake.utils import update_config

from tests.slurm.cluster import LONGEST_S, rule_of
from tests.workflow.study_folder import N_SLIDES, REPOSITORY, TINY, StudyFolder

GPU_RULES = {"teacher", "targets", "student", "slide_head", "predictions"}
PER_CHUNK = 5
# No value is a default of the workflow or of the profile: megabytes, minutes and what SLURM makes of them.
ASKED = {
    "chunk": (3100, 61, "01:01:00"),
    "teacher": (4100, 62, "01:02:00"),
    "targets": (4200, 63, "01:03:00"),
    "students": (4300, 64, "01:04:00"),
    "predictions": (4400, 65, "01:05:00"),
}
COMPUTE = {name: {"threads": 1, "mem_mb": mb, "runtime": runtime} for name, (mb, runtime, _) in ASKED.items()}
STUDY = {
    "slides": "cohort/slides.csv",
    "tiles": {"students": [5]},
    "students": {"unlabelled": [100]},
    "evaluation": {"slide_score": "attention"},
    "compute": {**COMPUTE, "chunk": {**COMPUTE["chunk"], "slides": PER_CHUNK}},
}
PROFILE = ("--workflow-profile", str(REPOSITORY / "profiles/slurm"))
QUICK = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")


@pytest.fixture(scope="module")
def study(cluster, tmp_path_factory) -> StudyFolder:
    """A study that ran on the cluster by one command; the node was lost while its tiles were cut."""
    study = StudyFolder(tmp_path_factory.mktemp("study"))
    study.configure(**STUDY)
    demo = json.dumps(TINY["demo"])
    assert cli.main(["demo", "--out", str(study.folder / "cohort"), "--options", demo]) == 0
    with study.running(*PROFILE, *QUICK, **cluster.environment) as snakemake:
        cluster.until(lambda: any(study.folder.glob("results/tiles/*.h5")), seconds=600)
        cluster.lose_node()
        cluster.restart_node()
        give_up = time.monotonic() + LONGEST_S
        while snakemake.poll() is None:
            assert time.monotonic() < give_up, study.said
            cluster.release()
            time.sleep(0.5)
    assert snakemake.returncode == 0, study.said
    return study


@pytest.fixture(scope="module")
def jobs(cluster, study) -> dict[str, list[dict[str, str]]]:
    """SLURM's records of the study's jobs by rule."""
    found: dict[str, list[dict[str, str]]] = {}
    for job in cluster.jobs():
        if job["WorkDir"] == str(study.folder):
            found.setdefault(rule_of(job), []).append(job)
    return found


def test_study_ended_with_its_report(study):
    assert (study.folder / "results/report.html").exists()
    assert (study.folder / "results/qc.html").exists()


def test_slides_came_in_chunks(jobs):
    assert len({job["Comment"] for job in jobs["chunk"]}) == N_SLIDES / PER_CHUNK
    assert not {"inspect", "tissue", "tiles"} & set(jobs)


def test_gpu_rules_and_only_they_asked_for_a_gpu(jobs):
    assert set(jobs) > GPU_RULES
    for rule, records in jobs.items():
        for job in records:
            asked = {key: value for key, value in job.items() if key.startswith("TresPer") and "gpu" in value}
            assert asked == ({"TresPerJob": "gres:gpu:1"} if rule in GPU_RULES else {}), rule


def test_partition_of_the_profile_arrived(jobs):
    partitions = {rule: {job["Partition"] for job in records} for rule, records in jobs.items()}
    assert partitions == {rule: {"gpu" if rule in GPU_RULES else "cpu"} for rule in jobs}


@pytest.mark.parametrize("kind", ASKED)
def test_memory_and_time_of_the_config_arrived(jobs, kind):
    megabytes, _, limit = ASKED[kind]
    for job in jobs[{"students": "student"}.get(kind, kind)]:
        assert job["TimeLimit"] == limit
        assert job["MinMemoryNode"] == f"{megabytes}M"
        assert job["NumCPUs"] == "1"


def test_jobs_of_the_lost_node_ran_again(jobs):
    last = {job["Comment"]: job["JobState"] for records in jobs.values() for job in records}
    assert set(last.values()) == {"COMPLETED"}
    assert any(int(job["Restarts"]) for job in jobs["chunk"])


def test_tiles_are_those_of_an_undisturbed_run(study, tmp_path, monkeypatch):
    monkeypatch.chdir(study.folder)  # slides are named from there
    results = study.folder / "results"
    config = yaml.safe_load((REPOSITORY / "config.yaml").read_text())
    update_config(config, yaml.safe_load((study.folder / "tiny.yaml").read_text()))
    plan = Plan(config)
    records = sorted((results / "slides").glob("*.json"))
    assert len(records) == N_SLIDES
    for record in records:
        command = ["tiles", "--record", record, "--outline", results / f"tissue/{record.stem}.geojson"]
        command += ["--out", tmp_path / f"{record.stem}.h5", "--options", plan.options("tiles")]
        assert cli.main([str(part) for part in command]) == 0
        assert content(tmp_path / f"{record.stem}.h5") == content(results / f"tiles/{record.stem}.h5")


def test_forced_slides_are_refused_after_their_chunks(cluster, study):
    """They would be forced for ever: single slides again after every batch of chunks."""
    environment = cluster.environment | {chunks.ROUNDS: str(chunks.MOST_ROUNDS)}
    result = study.snakemake(*PROFILE, "--forceall", "--", "slides", **environment)
    assert result.returncode != 0
    assert f"{3 * N_SLIDES} jobs of one slide each are to be done" in result.stdout + result.stderr


def test_deleted_tiles_come_back_in_chunks(cluster, study):
    """And then nothing is left to do, whatever was marked as done before."""
    before = own_jobs(cluster, study)
    study.configure(**STUDY | {"compute": {**COMPUTE, "chunk": {**COMPUTE["chunk"], "slides": 4}}})
    shutil.rmtree(study.folder / "results/tiles")
    result = study.snakemake(*PROFILE, *QUICK, "--", "slides", **cluster.environment)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Nothing to be done" in result.stdout + result.stderr
    assert len(list(study.folder.glob("results/tiles/*.h5"))) == N_SLIDES
    assert own_jobs(cluster, study) == [*before, *["chunk"] * 4]


def own_jobs(cluster, study) -> list[str]:
    """Rules of the study's jobs, oldest first."""
    return [rule_of(job) for job in cluster.jobs() if job["WorkDir"] == str(study.folder)]


def content(path: Path) -> dict[str, bytes]:
    """Every dataset of a tile file by name."""
    found: dict[str, bytes] = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tobytes()

    with h5py.File(path) as file:
        assert file.attrs["complete"]
        file.visititems(note)
    return found
