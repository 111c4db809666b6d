"""The GPUs of this machine: which there are, and one of them for each job.

To Snakemake a GPU is a number to count with: nothing tells two jobs of a machine to take different ones. Here
every job locks the one it takes. The lock is a name among Linux's abstract sockets, which all users and jobs
of a machine share, wherever their temporary files lie, and which goes with the process, however that ends.
"""

import errno
import logging
import os
import re
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from lowmag.errors import UserError

VISIBLE, ORDER = "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"
MEMBER = "TORCHELASTIC_RUN_ID"  # the process that started this one has taken the devices
JOB = "SLURM_JOB_ID"
NONE = {"-1", "NoDevFiles"}  # nothing after these counts; the second is SLURM's
LISTED = re.compile(r"^\s*(GPU|MIG) .*\(UUID: ([^)]+)\)", re.MULTILINE)
WHOLE = re.compile(r"^GPU \d+: (.*) \(UUID: ([^)]+)\)", re.MULTILINE)
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """A GPU: as `CUDA_VISIBLE_DEVICES` is to name it, and the one name that all jobs of the machine lock."""

    name: str
    lock: str


def visible() -> list[str]:
    """The GPUs that jobs may use, as `CUDA_VISIBLE_DEVICES` names them: its own, else the machine's."""
    named = os.environ.get(VISIBLE)
    if named is None:
        return _of_machine()
    names = [name.strip() for name in named.split(",")]
    ends = [place for place, name in enumerate(names) if name in NONE]
    return [name for name in names[: ends[0] if ends else None] if name]


def take(n: int = 1) -> list[int]:
    """Bind this process to `n` free GPUs, waiting for them; returns the locks, which last as long as it does.

    Sets `CUDA_VISIBLE_DEVICES`, so it comes before anything asks CUDA. Does nothing within torchrun, in a job
    of SLURM that was given just so many, nor where there is no GPU. Raises UserError when there are fewer.
    """
    names = visible()
    if not names or MEMBER in os.environ or (JOB in os.environ and len(names) == n):
        return []
    if n > len(names):
        raise UserError(
            f"{n} GPUs are asked for, and this machine shows {len(names)} ({', '.join(names)}); "
            "lower teacher.gpus, or run on a machine that has them"
        )
    devices, pause, is_told = devices_of(names, _listing()), FIRST_PAUSE_S, False
    while len(held := _lock(devices, n)) < n:
        if not is_told:
            log.info("all of %d GPUs are taken: waiting for one to be free", len(names))
            is_told = True
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE_S)
    os.environ[VISIBLE] = ",".join(device.name for device in held)
    log.info("using GPU %s", os.environ[VISIBLE])
    return list(held.values())


def devices_of(names: Sequence[str], listing: str) -> list[Device]:
    """The devices that names stand for: numbers and shortened identifiers become those of `nvidia-smi -L`.

    So one GPU has one lock, whatever it is called. What is not listed keeps its name; in a job of
    SLURM, where numbers begin anew, the lock then holds for the job alone. Raises UserError for a number that
    may mean two.
    """
    whole, known = WHOLE.findall(listing), [name for _, name in LISTED.findall(listing)]
    is_numbered, kinds = any(name.isdigit() for name in names), {kind for kind, _ in whole}
    if is_numbered and len(kinds) > 1 and os.environ.get(ORDER) != "PCI_BUS_ID":
        raise UserError(
            f"{VISIBLE} is {','.join(names)}, and the GPUs here are of several kinds, which CUDA and "
            f"nvidia-smi number differently; set {ORDER}=PCI_BUS_ID for the numbers of nvidia-smi, or "
            f"name them as {whole[0][1]}"
        )
    found = []
    for name in names:
        if name.isdigit():
            same = [full for _, full in whole[int(name) : int(name) + 1]]
        else:
            same = [full for full in known if full.startswith(name)]
        found.append(Device(same[0], same[0]) if len(same) == 1 else Device(name, _unlisted(name)))
    return found


def _unlisted(name: str) -> str:
    return f"{os.environ.get(JOB, '')}-{name}"


def _of_machine() -> list[str]:
    """Identifiers of the NVIDIA devices (of the parts that one is split into by MIG), or their numbers."""
    n_devices = sum(bool(re.fullmatch(r"nvidia\d+", path.name)) for path in Path("/dev").glob("nvidia*"))
    if not n_devices:
        return []
    return names_of(_listing()) or [str(number) for number in range(n_devices)]


def _listing() -> str:
    """What `nvidia-smi -L` says; empty where there is none."""
    with suppress(OSError, subprocess.SubprocessError):
        asked = ["nvidia-smi", "-L"]
        return subprocess.run(asked, capture_output=True, text=True, timeout=30, check=True).stdout
    return ""


def names_of(listing: str) -> list[str]:
    """The devices of `nvidia-smi -L`; a GPU that is split stands for nothing itself."""
    found: list[tuple[str, str]] = LISTED.findall(listing)
    is_split = [pair == ("GPU", "MIG") for pair in pairwise(kind for kind, _ in [*found, ("GPU", "")])]
    return [name for (_, name), split in zip(found, is_split, strict=True) if not split]


def _lock(devices: Sequence[Device], n: int) -> dict[Device, int]:
    """Locks on `n` GPUs; none when so many are not free, lest two jobs wait for each other."""
    held: dict[Device, int] = {}
    for device in devices:
        if (handle := _bind(device.lock)) is None:
            continue
        held[device] = handle
        if len(held) == n:
            return held
    for handle in held.values():
        os.close(handle)
    return {}


def is_taken(lock: str) -> bool:
    """Whether a process of this machine holds a lock now."""
    if (handle := _bind(lock)) is None:
        return True
    os.close(handle)
    return False


def _bind(lock: str) -> int | None:
    """A descriptor that holds a lock; None while another one does."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bound:
            bound.bind(f"\0lowmag-gpu-{lock}"[:100])
            return bound.detach()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return None
        raise UserError(
            f"GPU {lock} cannot be locked: {os.strerror(error.errno or 0)}; let the system make abstract "
            "sockets, which a sandbox may forbid, or give each job its own GPU as a job of SLURM"
        ) from error
