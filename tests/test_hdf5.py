"""HDF5 on a disk that fills up: a clear message, the old file kept, and no crash."""

import os
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
from lowmag.hdf5 import publishing_hdf5

FILL = """
import sys
import numpy as np
from lowmag.errors import UserError
from lowmag.hdf5 import publishing_hdf5
try:
    with publishing_hdf5(sys.argv[1]) as file:
        for number in range(40):
            file.create_dataset(f"some/{number}", data=np.full((100, 100), number))
            file[f"some/{number}"].attrs["name"] = "x" * 100
except UserError as error:
    sys.exit(f"UserError {error}")
"""


def test_file_appears_when_the_block_ends(tmp_path):
    path = tmp_path / "a.h5"
    with publishing_hdf5(path) as file:
        file["x"] = np.arange(5)
        assert not path.exists()
    with h5py.File(path) as file:
        assert file["x"][()].tolist() == [0, 1, 2, 3, 4]


def test_error_in_the_block_is_passed_on_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.h5"
    path.write_text("old")

    def fail_half_way():
        with publishing_hdf5(path) as file:
            file["x"] = np.zeros((1000, 1000))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail_half_way()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("size_kb", [4, 16, 200, 2900])
def test_full_disk_is_said_and_does_not_crash_the_process(tmp_path, size_kb):
    """The sizes fill up in the header, among the data and when the file is closed; HDF5 alone segfaults."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = f'mount -t tmpfs -o size={size_kb}k none "{folder}"'
    if not shutil.which("unshare"):
        pytest.skip("unshare is not installed (Debian: apt install util-linux)")
    if (tried := _run(["true"], mount)).returncode:
        pytest.skip(f"the kernel refuses to mount a file system: {tried.stderr.strip()}")
    end = _run([sys.executable, "-c", FILL, f"{folder}/a.h5"], f'{mount} && "$@"; echo $?; ls -A "{folder}"')
    assert end.stdout == "1\n", end.stdout + end.stderr
    assert end.stderr.startswith(
        f"UserError {folder}/a.h5 cannot be written: No space left on device; make room"
    )


def _run(command, script):
    """A command as the arguments of a script in a mount namespace of its own."""
    own = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]
    return subprocess.run(
        [*own, "sh", "-c", script, "sh", *command], capture_output=True, text=True, check=False
    )
