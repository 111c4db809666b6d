"""Students on a cluster that end before their training does: by time, by hand, by preemption."""

import json
import math
import time

import pytest

from tests.slurm.cluster import LONGEST_S, N_GPUS
from tests.workflow.picture_study import PICTURES, write_pictures
from tests.workflow.study_folder import REPOSITORY, StudyFolder

EPOCHS = 60
STUDENT = "results/students/{}/2.5x/u0/seed0"
TERMS = {"cross_entropy": 1, "soft_labels": 1}
# One method under five names: their students have the same weights. Only what happens to them differs.
FATES = ("undisturbed", "cancelled", "requeued", "preempted")
STUDY = {
    **PICTURES,
    "students": {**PICTURES["students"], "epochs": EPOCHS},
    "methods": {
        **dict.fromkeys([*FATES, "short"], TERMS),
        "delamor2024": None,
        "dipalma2021": None,
        "labels-only": None,
    },
}
PROFILE = ("--workflow-profile", str(REPOSITORY / "profiles/slurm"))
QUICK = ("--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyFolder:
    """A study of pictures, made on this machine as far as the teacher's targets."""
    study = StudyFolder(tmp_path_factory.mktemp("study"))
    write_pictures(study.folder)
    study.configure(**STUDY)
    made = study.snakemake("--", "results/targets/seed0/targets.json", CUDA_VISIBLE_DEVICES="")
    assert made.returncode == 0, made.stdout + made.stderr
    return study


def is_training(study: StudyFolder, method: str) -> bool:
    log = study.folder / "results/logs" / STUDENT.format(method).removeprefix("results/")
    return log.with_suffix(".log").exists() and "epoch 2/" in log.with_suffix(".log").read_text()


def weights(study: StudyFolder, method: str) -> bytes:
    return (study.folder / STUDENT.format(method) / "model.safetensors").read_bytes()


def record(study: StudyFolder, method: str) -> dict:
    return json.loads((study.folder / STUDENT.format(method) / "run.json").read_text())


@pytest.fixture(scope="module")
def disturbed(cluster, study) -> StudyFolder:
    """The study, finished after its students were cancelled, requeued and preempted while they trained."""

    def job_of(method):
        return cluster.running("student", f"_{method}_")[-1]

    strikes = {
        "cancelled": lambda: cluster.ask("scancel", job_of("cancelled")),
        "requeued": lambda: cluster.ask("scontrol", "requeue", job_of("requeued")),
        # Whoever holds a GPU now has to make room for it.
        "preempted": lambda: cluster.ask(
            "sbatch", "-p", "urgent", f"--gpus={N_GPUS}", "--output=/dev/null", "--wrap=sleep 1"
        ),
    }
    first, *wanted = [f"{STUDENT.format(method)}/model.safetensors" for method in FATES]
    # Before the others: the urgent job takes every GPU, whosoever it is.
    done = study.snakemake(*PROFILE, *QUICK, "--", first, **cluster.environment)
    assert done.returncode == 0, done.stdout + done.stderr
    with study.running(*PROFILE, *QUICK, "--", *wanted, **cluster.environment) as snakemake:
        give_up = time.monotonic() + LONGEST_S
        while snakemake.poll() is None:
            assert time.monotonic() < give_up, study.said
            for method in [method for method in strikes if is_training(study, method)]:
                strikes.pop(method)()
            cluster.release()
            time.sleep(0.5)
    assert snakemake.returncode == 0, study.said
    assert not strikes, f"never trained: {sorted(strikes)}"
    return study


def test_each_student_met_its_fate(cluster, disturbed):
    jobs = {method: cluster.jobs_of("student", f"_{method}_") for method in FATES}
    assert [(job["JobState"], job["Restarts"]) for job in jobs["undisturbed"]] == [("COMPLETED", "0")]
    assert record(disturbed, "undisturbed")["sessions"] == 1
    assert [job["JobState"] for job in jobs["cancelled"]] == ["CANCELLED", "COMPLETED"]
    assert [job["JobState"] for job in jobs["requeued"]] == ["COMPLETED"]
    assert int(jobs["requeued"][0]["Restarts"]) >= 1
    assert [job["JobState"] for job in jobs["preempted"]] == ["COMPLETED"]
    assert int(jobs["preempted"][0]["Restarts"]) >= 1


@pytest.mark.parametrize("method", FATES[1:])
def test_weights_are_those_of_an_undisturbed_student(disturbed, method):
    assert weights(disturbed, method) == weights(disturbed, "undisturbed")
    assert record(disturbed, method)["sessions"] >= 2


def test_student_longer_than_its_limit_stops_in_time_and_goes_on(cluster, disturbed):
    """SLURM counts in minutes, so the training is made to last longer than one."""
    before = record(disturbed, "undisturbed")
    epochs = math.ceil(EPOCHS * 75 / before["seconds"])
    disturbed.configure(**STUDY | {"students": {**STUDY["students"], "epochs": epochs}})
    model = f"{STUDENT.format('short')}/model.safetensors"
    limited = [*PROFILE, *QUICK, "--retries", "20", "--set-resources", "student:runtime=1"]
    with disturbed.running(*limited, "--", model, **cluster.environment) as snakemake:
        undisturbed = f"{STUDENT.format('undisturbed')}/model.safetensors"
        done = disturbed.snakemake("--", undisturbed, CUDA_VISIBLE_DEVICES="")
        assert done.returncode == 0, done.stdout + done.stderr
        assert snakemake.wait(1800) == 0, disturbed.said
    *stopped, last = cluster.jobs_of("student", "_short_")
    assert stopped
    assert {job["TimeLimit"] for job in [*stopped, last]} == {"00:01:00"}
    # It left by itself, or SLURM would have written TIMEOUT: that is for jobs that were slow to start.
    assert "FAILED" in {job["JobState"] for job in stopped} <= {"FAILED", "TIMEOUT"}
    assert last["JobState"] == "COMPLETED"
    assert 2 <= record(disturbed, "short")["sessions"] <= len(stopped) + 1
    assert weights(disturbed, "short") == weights(disturbed, "undisturbed")
