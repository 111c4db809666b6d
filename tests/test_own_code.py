"""What the shell lines of jobs begin with, in a real shell, and what a job of other code is told."""

import os
import shutil
import subprocess
import sys

import pytest
from lowmag import own_code
from lowmag.errors import UserError
from lowmag.fingerprint import PACKAGE, whole_package
from snakemake.shell import shell


@pytest.fixture
def said(monkeypatch):
    """Runs a shell line behind the prefix as Snakemake puts it together; returns what it prints."""

    def run(prefix: str, line: str, **environment: str) -> str:
        monkeypatch.setattr(shell, "_process_prefix", None)
        shell.prefix(prefix)
        command = shell._get_process_prefix("bash") + line
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, env=clean | environment, check=True
        )
        return done.stdout.strip()

    return run


def test_jobs_find_this_package_first(said):
    assert said(own_code.shell_prefix(has_command=True), 'echo "$PYTHONPATH"') == str(PACKAGE.parent)
    both = said(own_code.shell_prefix(has_command=True), 'echo "$PYTHONPATH"', PYTHONPATH="/own place")
    assert both == f"{PACKAGE.parent}:/own place"
    line = 'echo "$LOWMAG_PACKAGE $LOWMAG_CODE"'
    assert said(own_code.shell_prefix(has_command=True), line) == f"{PACKAGE} {whole_package()}"


def test_folders_of_any_name_are_passed_on(said, tmp_path, monkeypatch):
    package = tmp_path / "of {it} $(touch pwned) 'q' \"p\"" / "lowmag"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(own_code, "PACKAGE", package)
    line = f"{sys.executable} -c 'import lowmag; print(lowmag.__file__)'"
    assert said(own_code.shell_prefix(has_command=True), line) == str(package / "__init__.py")


def test_where_no_command_is_installed_there_is_the_module(said):
    prefix = own_code.shell_prefix(has_command=False)
    assert said(prefix, "type -t lowmag") == "function"
    path = os.path.dirname(sys.executable)  # noqa: PTH120
    assert said(prefix, "lowmag --version", PATH=f"{path}:/usr/bin:/bin").startswith("lowmag ")


def test_job_of_other_code_is_refused_and_of_the_same_code_elsewhere_not(monkeypatch):
    own_code.check()
    monkeypatch.setenv(own_code.FOLDER, "/elsewhere/lowmag")
    monkeypatch.setenv(own_code.FINGERPRINT, whole_package())
    own_code.check()
    monkeypatch.setenv(own_code.FINGERPRINT, "0123456789abcdef")
    with pytest.raises(
        UserError, match=r"runs the lowmag in .*, the workflow is that of /elsewhere/lowmag \(code 0123"
    ):
        own_code.check()
