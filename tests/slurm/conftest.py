import os
import shutil
import tempfile
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster():
    """A running cluster; skips where SLURM is not installed, unless LOWMAG_SLURM=required."""
    if lacking := missing():
        problem = f"not installed: {', '.join(lacking)} (Debian: apt install slurm-wlm munge)"
        if os.environ.get("LOWMAG_SLURM") == "required":
            pytest.fail(problem)
        pytest.skip(problem)
    # Short, because a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="lowmag-slurm-", dir="/tmp"))
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)
