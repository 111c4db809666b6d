"""The jobs of a workflow run the very code that it was laid out by, and whose fingerprint it records."""

import os
import shlex

from lowmag.errors import UserError
from lowmag.fingerprint import PACKAGE, whole_package

FOLDER, FINGERPRINT = "LOWMAG_PACKAGE", "LOWMAG_CODE"  # what a job is told
MODULE = 'lowmag() {{ python -m lowmag.cli "$@"; }}; '  # braces doubled: Snakemake fills in single ones


def shell_prefix(*, has_command: bool) -> str:
    """What stands before every shell line of the rules, by which Python finds this package first.

    Without `has_command` (an environment of dependencies alone) `lowmag` is this package as a module.
    """
    folder = shlex.quote(str(PACKAGE.parent)).replace("{", "{{").replace("}", "}}")
    package = shlex.quote(str(PACKAGE)).replace("{", "{{").replace("}", "}}")
    lines = "set -euo pipefail; "  # Snakemake's own, which a prefix takes the place of
    lines += f'export PYTHONPATH={folder}"${{{{PYTHONPATH:+:$PYTHONPATH}}}}" '
    lines += f"{FOLDER}={package} {FINGERPRINT}={whole_package()}; "
    return lines + ("" if has_command else MODULE)


def check() -> None:
    """Raise UserError where a job runs other code than its workflow was laid out by, as in a container."""
    told = os.environ.get(FOLDER)
    if told is None or told == str(PACKAGE):
        return
    found, expected = whole_package(), os.environ.get(FINGERPRINT)
    if found != expected:
        raise UserError(
            f"this job runs the lowmag in {PACKAGE} (code {found}), the workflow is that of {told} (code "
            f"{expected}), so its results would be recorded as another code's; install the workflow's own "
            "(pip install -e CHECKOUT), or build the container anew, from that very checkout"
        )
