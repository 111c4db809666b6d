"""What the documentation says of the tests' own cluster."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from tests.slurm import cluster as module

NOBODY = 65534
RUN = """
import os, sys, tempfile, time
from pathlib import Path
from cluster import Cluster

cluster = Cluster(Path(tempfile.mkdtemp(prefix="lowmag-slurm-", dir="/tmp")))
try:
    cluster.start()
    said = cluster.folder / "said"
    job = "--wrap=id -u; echo $CUDA_VISIBLE_DEVICES"
    cluster.ask("sbatch", "-p", "gpu", "--gpus=1", f"--output={said}", job)
    cluster.until(lambda: cluster.jobs()[0]["JobState"] == "COMPLETED")
    print(os.geteuid(), *said.read_text().split())
finally:
    cluster.stop()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="not root: every other test here shows it")
def test_it_needs_no_root(cluster):
    """The fixture is asked for so that this skips where SLURM is missing."""
    python, setpriv = shutil.which("python3", path="/usr/bin"), shutil.which("setpriv")
    if not python or not setpriv:
        pytest.skip("no python3 in /usr/bin for another user, or no setpriv")
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        shutil.copy(module.__file__, folder)
        Path(folder).chmod(0o755)
        (Path(folder) / "cluster.py").chmod(0o644)
        done = subprocess.run(
            [setpriv, f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", python, "-c", RUN],
            cwd=folder,
            env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "HOME": folder, "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [str(NOBODY), str(NOBODY), "0"]
