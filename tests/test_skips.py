"""Skips that are failures with LOWMAG_SKIPS=fail, and those that are not, by a pytest of its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workflow.study_folder import REPOSITORY

TINY = """
import pytest

@pytest.fixture
def program():
    pytest.skip("rsync is not installed")

def test_fixture(program): pass

def test_body(): pytest.importorskip("no_such_module", reason="no_such_module is not installed")

@pytest.mark.skipif(True, reason="setpriv is not installed")
def test_mark(): pass

@pytest.mark.xfail(strict=True)
def test_expected(): assert False

def test_kernel(): pytest.skip("the kernel refuses to mount: permission\\ndenied")

@pytest.mark.skipif(True, reason="the shared slides are not on this machine")
def test_data(): pass

def test_passes(): pass
"""
MODULE = 'import pytest\npytest.importorskip("no_such_module", reason="no_such_module is not installed")\n'


@pytest.fixture
def ended(tmp_path):
    """Runs a file of tests under a value of LOWMAG_SKIPS; returns its exit status and what was counted."""

    def run(text: str, skips: str) -> tuple[int, dict[str, int], str]:
        (tmp_path / "test_tiny.py").write_text(text)
        command = [sys.executable, "-m", "pytest", "-p", "skips", "-p", "no:cacheprovider", "test_tiny.py"]
        environment = {"PYTHONPATH": str(Path(__file__).parent), "LOWMAG_SKIPS": skips}
        done = subprocess.run(
            command, cwd=tmp_path, env=os.environ | environment, capture_output=True, text=True, check=False
        )
        last = done.stdout.splitlines()[-1]
        return (
            done.returncode,
            {name: int(n) for n, name in re.findall(r"(\d+) (\w+)", last.split(" in ")[0])},
            done.stdout,
        )

    return run


def test_skips_that_can_be_cured_fail_where_they_are_to(ended):
    status, counts, text = ended(TINY, "fail")
    assert status == 1
    assert counts == {"failed": 1, "errors": 2, "skipped": 2, "xfailed": 1, "passed": 1}
    for name in ("rsync", "no_such_module", "setpriv"):
        assert f"skipped, which is a failure here (LOWMAG_SKIPS=fail): {name} is not installed" in text


def test_elsewhere_they_skip(ended):
    status, counts, _ = ended(TINY, "")
    assert (status, counts) == (0, {"skipped": 5, "xfailed": 1, "passed": 1})


@pytest.mark.parametrize(("skips", "expected"), [("fail", 2), ("", 5)])  # 2: interrupted, 5: no tests
def test_module_that_skips_as_a_whole_fails_too(ended, skips, expected):
    assert ended(MODULE, skips)[0] == expected


def test_ci_allows_no_other_skips():
    assert "LOWMAG_SKIPS=fail" in (REPOSITORY / ".ci/run").read_text()
