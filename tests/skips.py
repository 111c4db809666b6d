"""What may skip where nothing is to be missing: with LOWMAG_SKIPS=fail, as in CI, any other skip fails."""

import os
import re
from collections.abc import Generator

import pytest

# What nobody can install: data that are not everybody's, the opposite of a user, what a kernel refuses.
ALLOWED = re.compile(
    r"the shared (slides|annotations) are not on this machine"
    r"|shared/data/\w+ is not there"
    r"|(not )?root: .*"
    r"|the kernel .*",
    re.DOTALL,
)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if not hasattr(report, "wasxfail"):
        refuse_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Of a module that skips as a whole."""
    report = yield
    refuse_skip(report)
    return report


def refuse_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Make a failure of a skip that is not allowed."""
    if os.environ.get("LOWMAG_SKIPS") != "fail" or report.outcome != "skipped":
        return
    reason = str(report.longrepr[2]).removeprefix("Skipped: ")
    if not ALLOWED.fullmatch(reason):
        report.outcome = "failed"
        report.longrepr = f"skipped, which is a failure here (LOWMAG_SKIPS=fail): {reason}"
