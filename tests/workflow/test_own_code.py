"""Jobs run the workflow's own code, also where another lowmag is installed and stands first on PATH."""

import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.study_folder import REPOSITORY, StudyFolder

TARGET = "results/demo/slides.csv"


@pytest.fixture
def other(tmp_path) -> Path:
    """An environment with another lowmag installed: one that draws a cohort without a single patient."""
    environment = tmp_path / "env"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    installed = next(environment.glob("lib/python*/site-packages"))
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "workflow/lowmag", installed / "lowmag", ignore=ignored)
    (installed / "others.pth").write_text("\n".join(site.getsitepackages()))  # its dependencies
    module = installed / "lowmag/demo.py"
    text, n = re.subn(
        r"(?m)^def write_sheet\(.*$", r"\g<0>\n    raise SystemExit('the other lowmag')", module.read_text()
    )
    assert n == 1
    module.write_text(text)
    return environment


def command(environment: Path, lines: str) -> Path:
    """The command `lowmag` of an environment."""
    path = environment / "bin/lowmag"
    path.write_text(lines)
    path.chmod(0o755)
    return path


def installed_command(environment: Path) -> Path:
    python = environment / "bin/python"
    return command(environment, f"#!{python}\nimport sys\nfrom lowmag.cli import main\nsys.exit(main())\n")


def run(study: StudyFolder, environment: Path):
    return study.snakemake("--", TARGET, PATH=f"{environment / 'bin'}:{os.environ['PATH']}")


def test_another_lowmag_first_on_path_is_not_run(study, other):
    lowmag = installed_command(other)
    alone = subprocess.run(
        [lowmag, "demo", "--sheet", "--out", study.folder / "x"], capture_output=True, text=True, check=False
    )
    assert "the other lowmag" in alone.stderr
    result = run(study, other)
    assert result.returncode == 0, result.stdout + result.stderr
    assert len((study.folder / TARGET).read_text().splitlines()) > 1


def test_job_that_cannot_see_the_workflows_code_stops(study, other):
    """As in a container: the variable with the folder is not heeded there."""
    inner = f'env -u PYTHONPATH {other / "bin/python"} -m lowmag.cli "$@"'
    command(other, f"#!/bin/sh\nexec {inner}\n")
    result = run(study, other)
    assert result.returncode != 0
    log = (study.folder / "results/logs/demo_sheet.log").read_text()
    assert re.search(r"this job runs the lowmag in .*, the workflow is that of ", log), log
    assert not (study.folder / TARGET).exists()


def test_same_code_elsewhere_will_do(study, other):
    shutil.copy(REPOSITORY / "workflow/lowmag/demo.py", next(other.glob("lib/python*/site-packages/lowmag")))
    command(other, f'#!/bin/sh\nexec env -u PYTHONPATH {other / "bin/python"} -m lowmag.cli "$@"\n')
    result = run(study, other)
    assert result.returncode == 0, result.stdout + result.stderr


def test_study_can_be_laid_out_for_conda(study):
    result = study.snakemake("-n", "--quiet", "host", "--sdm", "conda")
    said = result.stdout + result.stderr
    assert result.returncode == 0 or "Is conda installed and accessible?" in said, said
