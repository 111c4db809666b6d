"""The GPUs of this machine: which there are, and one of them for each job.

To Snakemake a GPU is a number to count with: nothing tells two jobs of a workstation to take different ones.
Here every job locks the one it takes. The lock is the system's (flock): it ends with
the process, however that ends.
"""

import fcntl
import logging
import os
import re
import stat
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

from lowmag.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
BOUND = ("SLURM_JOB_ID", "TORCHELASTIC_RUN_ID")  # where one is set, the process was given its devices
LISTED = re.compile(r"^\s*(GPU|MIG) .*\(UUID: ([^)]+)\)", re.MULTILINE)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0

log = logging.getLogger(__name__)


def visible() -> list[str]:
    """The GPUs that jobs may use, as `CUDA_VISIBLE_DEVICES` names them: its own, else the machine's."""
    named = os.environ.get(VISIBLE)
    if named is None:
        return _of_machine()
    names = [name.strip() for name in named.split(",")]
    return names[: names.index("-1")] if "-1" in names else [name for name in names if name]


def take(n: int = 1) -> list[int]:
    """Bind this process to `n` free GPUs, waiting for them; returns the locks, which last as long as it does.

    Sets `CUDA_VISIBLE_DEVICES`, so it comes before anything asks CUDA. Does nothing under SLURM or torchrun,
    nor where there is no GPU. Raises UserError when fewer than `n` are there.
    """
    names = visible()
    if not names or any(name in os.environ for name in BOUND):
        return []
    if n > len(names):
        raise UserError(
            f"{n} GPUs are asked for, and this machine shows {len(names)} ({', '.join(names)}); "
            "lower teacher.gpus, or run on a machine that has them"
        )
    folder, pause, is_told = _folder(), FIRST_PAUSE_S, False
    while len(held := _lock(folder, names, n)) < n:
        if not is_told:
            log.info("all of %d GPUs are taken: waiting for one to be free", len(names))
            is_told = True
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
    os.environ[VISIBLE] = ",".join(held)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # the order of nvidia-smi
    log.info("using GPU %s", os.environ[VISIBLE])
    return list(held.values())


def _of_machine() -> list[str]:
    """Identifiers of the NVIDIA devices (of the parts that one is split into by MIG), or their numbers."""
    n_devices = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in Path("/dev").glob("nvidia*"))
    if not n_devices:
        return []
    with suppress(OSError, subprocess.SubprocessError):
        listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=True)
        if found := names_of(listing.stdout):
            return found
    return [str(number) for number in range(n_devices)]


def names_of(listing: str) -> list[str]:
    """The devices of `nvidia-smi -L`; a GPU that is split stands for nothing itself."""
    found: list[tuple[str, str]] = LISTED.findall(listing)
    is_split = [pair == ("GPU", "MIG") for pair in pairwise(kind for kind, _ in [*found, ("GPU", "")])]
    return [name for (_, name), split in zip(found, is_split, strict=True) if not split]


def _lock(folder: Path, names: Sequence[str], n: int) -> dict[str, int]:
    """Locks on `n` GPUs by name; none when so many are not free, lest two jobs wait for each other."""
    held: dict[str, int] = {}
    for name in names:
        handle = _open(folder / f"{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock")
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        held[name] = handle
        if len(held) == n:
            return held
    for handle in held.values():
        os.close(handle)
    return {}


def _folder() -> Path:
    """The folder of locks, which all users of a machine share."""
    folder = Path(tempfile.gettempdir(), "lowmag-gpus")
    with suppress(FileExistsError):
        folder.mkdir()
        folder.chmod(stat.S_ISVTX | 0o777)
    return folder


def _open(path: Path) -> int:
    """A file to lock; another user's is opened for reading, which is enough."""
    with suppress(FileExistsError):
        created = os.open(path, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_WRONLY, 0o644)
        os.fchmod(created, 0o644)  # whatever the umask: others open it, too
        os.close(created)
    return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
