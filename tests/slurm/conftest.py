import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.slurm.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster():
    """A running cluster; skips where SLURM or Snakemake's plugin is missing."""
    if lacking := missing():
        pytest.skip(f"not installed: {', '.join(lacking)} (Debian: apt install slurm-wlm munge)")
    if not find_spec("snakemake_executor_plugin_slurm"):
        pytest.skip("not installed: snakemake-executor-plugin-slurm (pip install -e '.[slurm]')")
    # Short, because a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="lowmag-slurm-", dir="/tmp"))
    cluster = Cluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(folder)
