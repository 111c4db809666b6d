"""The tests of this folder where SLURM, munge or Snakemake's plugin are not installed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm import cluster
from tests.workflow.study_folder import REPOSITORY

# As Python sees a module that is not there: no spec, and no import.
BLOCK = "import sys\nsys.modules['snakemake_executor_plugin_slurm'] = None\n"
PROGRAMS = (*cluster.DAEMONS, *cluster.CLIENTS)


@pytest.fixture
def programs(tmp_path, monkeypatch) -> Path:
    """A folder with a file for each program, the only one looked into."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in PROGRAMS:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(cluster, "PLACES_OF_DAEMONS", "")
    return folder


def one_test(folder: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """A test that asks for the cluster, run to its end in a process of its own."""
    command = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *options]
    return subprocess.run(
        [*command, f"--basetemp={folder / 'pytest'}", "tests/slurm/test_outlived.py"],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(folder), "LOWMAG_SKIPS": ""} | environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.parametrize("name", PROGRAMS)
def test_each_program_is_missed(programs, name):
    assert cluster.missing() == []
    (programs / name).unlink()
    assert cluster.missing() == [name]


def test_they_skip_without_slurm_and_say_so(programs):
    for program in programs.iterdir():
        program.unlink()
    done = one_test(programs)
    assert done.returncode == 0, done.stdout
    assert " skipped in " in done.stdout
    assert " passed" not in done.stdout
    assert "not installed: " in done.stdout
    assert "sbatch" in done.stdout
    assert "apt install slurm-wlm munge" in done.stdout


@pytest.mark.parametrize(("skips", "ends"), [("", 0), ("fail", 1)])
def test_they_skip_without_the_plugin_and_fail_where_nothing_is_to_be_missing(programs, skips, ends):
    (programs / "blocked.py").write_text(BLOCK)
    done = one_test(programs, "-p", "blocked", LOWMAG_SKIPS=skips)
    assert done.returncode == ends, done.stdout
    assert (" skipped in " in done.stdout) == (not skips)
    assert "not installed: snakemake-executor-plugin-slurm (pip install -e '.[slurm]')" in done.stdout
