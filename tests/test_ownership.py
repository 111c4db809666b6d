import os
import signal
import subprocess
import sys

import pytest
from lowmag import ownership
from lowmag.errors import UserError
from lowmag.publish import write_text

# A job: writes when it is told to.
JOB = """
import sys
from lowmag.publish import write_text
print(flush=True)
input()
write_text(sys.argv[1], "old")
"""


# A Snakemake: begins, and is at work until its input ends.
START = """
import os, pathlib, sys
from lowmag import ownership
ownership.begin(pathlib.Path(sys.argv[1]))
print(os.environ[ownership.RUN], flush=True)
input()
"""


@pytest.fixture(autouse=True)
def _no_run(monkeypatch):
    monkeypatch.setenv(ownership.RUN, "")


@pytest.fixture
def begin(tmp_path, monkeypatch):
    """Begins in a process of its own, whose jobs ours now are, and returns that process."""
    started = []

    def beginning():
        command = [sys.executable, "-c", START, str(tmp_path)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(process)
        monkeypatch.setenv(ownership.RUN, process.stdout.readline().strip())
        return process

    yield beginning
    for process in started:
        process.kill()
        process.communicate()


def kill(process):
    process.kill()
    process.communicate()


@pytest.fixture
def job(tmp_path):
    """A job of the run that has begun, ready to publish `out.txt`."""
    started = []

    def starting():
        command = [sys.executable, "-c", JOB, str(tmp_path / "out.txt")]
        pipe = subprocess.PIPE
        job = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        started.append(job)
        assert job.stdout.readline() == "\n"
        return job

    yield starting
    for job in started:
        job.kill()
        job.communicate()


def test_job_publishes_for_the_run_that_started_it(tmp_path, job, begin):
    begin()
    assert job().communicate("\n")[1] == ""
    assert (tmp_path / "out.txt").read_text() == "old"


def test_job_that_outlived_its_run_leaves_the_next_ones_output_alone(tmp_path, job, begin):
    first = begin()
    outlived = job()
    kill(first)
    begin()
    write_text(tmp_path / "out.txt", "new")
    _, said = outlived.communicate("\n")
    assert outlived.returncode != 0
    assert "out.txt is not written: Snakemake has been started anew" in said
    assert (tmp_path / "out.txt").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.txt", "state"]


def test_jobs_publish_for_a_run_that_is_at_work_beside_another(tmp_path, job, begin):
    """Snakemake lets two of it make different files of a folder."""
    begin()
    of_first = job()
    second = begin()
    assert of_first.communicate("\n")[1] == ""
    kill(second)
    begin()
    assert len(list((tmp_path / "state/starts").iterdir())) == 2


def test_job_publishes_after_its_run_while_no_other_has_begun(tmp_path, job, begin):
    first = begin()
    outlived = job()
    kill(first)
    assert outlived.communicate("\n")[1] == ""


def test_trainer_is_refused_before_it_has_its_lock_and_publishes_after(tmp_path, monkeypatch, begin):
    first = begin()
    old = os.environ[ownership.RUN]
    ownership.publish_under_lock(tmp_path)
    kill(first)
    begin()
    write_text(tmp_path / "out.txt", "under the lock")
    monkeypatch.setenv(ownership.RUN, old)
    with pytest.raises(UserError, match="started anew"):
        ownership.refuse_outlived(tmp_path / "out.txt")


@pytest.mark.parametrize("run", ["", "/nowhere/state/starts/name"])
def test_command_by_hand_publishes(tmp_path, monkeypatch, run):
    monkeypatch.setenv(ownership.RUN, run)
    write_text(tmp_path / "out.txt", "by hand")


def test_snakemakes_of_the_job_end_with_it_and_no_others(monkeypatch):
    """Those would remove the outputs of a failed job."""
    wait = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    monkeypatch.setenv("SLURM_JOB_ID", f"test-{os.getpid()}")
    begun = [[*wait, "--no-hooks"], [*wait]]
    own, users = (subprocess.Popen(command, stdout=subprocess.PIPE) for command in begun)
    monkeypatch.setenv("SLURM_JOB_ID", f"other-{os.getpid()}")
    others = subprocess.Popen(begun[0], stdout=subprocess.PIPE)
    monkeypatch.setenv("SLURM_JOB_ID", f"test-{os.getpid()}")
    try:
        for process in (own, users, others):
            process.stdout.readline()
        ownership.end_job()
        assert own.wait(10) == -signal.SIGKILL
        assert users.poll() is others.poll() is None
    finally:
        for process in (own, users, others):
            process.kill()
            process.communicate()
