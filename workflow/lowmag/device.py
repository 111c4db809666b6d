"""The device that training and prediction run on, and how much it holds."""

import ctypes
import logging
import re
from pathlib import Path
from typing import Literal

import torch

# Pixels of one batch without gradients: 16 tiles of 512 px. VGG16 then needs about 2 GB, ResNets less.
INFERENCE_PIXELS = 1 << 22
Precision = Literal["auto", "float32", "bfloat16"]

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # parameters of mallopt(3)
TRIM_THRESHOLD, MMAP_MAX = 128 << 10, 1 << 16  # what they are by themselves

logger = logging.getLogger(__name__)


def pick_device(threads: int) -> torch.device:
    """The GPU when there is one, else the CPU with `threads` threads, which it says once."""
    torch.set_num_threads(threads)
    if not torch.cuda.is_available():
        logger.info("no GPU found: running on the CPU with %d thread%s", threads, "" if threads == 1 else "s")
        keep_freed_memory()
        return torch.device("cpu")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
    return torch.device("cuda")


def keep_freed_memory() -> bool:
    """Whether the C library now keeps what is freed instead of giving it back; only glibc can.

    The activations of every step are of the same sizes: asking the system for them anew costs a step on the
    CPU a tenth to a third (`benchmarks/kept_memory.py`).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def expect_any_size() -> None:
    """Take back what pays only where all pictures are of one size.

    To look for the quickest convolution of every new size takes longer than it saves, and freed memory that
    is kept for the next step fits no other size.
    """
    torch.backends.cudnn.benchmark = False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, MMAP_MAX)
        mallopt(M_TRIM_THRESHOLD, TRIM_THRESHOLD)


def device_name(device: torch.device) -> str:
    """What the device calls itself: the name of the GPU, or of the processor."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text()) if cpuinfo.exists() else None
    return f"CPU ({found.group(1).strip()})" if found else "CPU"


def memory_format(device: torch.device) -> torch.memory_format:
    """Channels last on a GPU; a CPU gains nothing by it."""
    return torch.channels_last if device.type == "cuda" else torch.contiguous_format


def settled(device: torch.device, precision: Precision) -> Precision:
    """What a precision means on a device: `auto` is bfloat16 on a GPU, else float32."""
    if precision != "auto":
        return precision
    return "bfloat16" if device.type == "cuda" else "float32"


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """The context of a forward pass: bfloat16 when asked for, or by itself on a GPU."""
    reduced = settled(device, precision) == "bfloat16"
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=reduced)


def inference_batch(px: int) -> int:
    """Tiles of `px` pixels that go through a network at once without gradients, 1 to 1024; px 0: 1."""
    return 1 if px == 0 else max(1, min(1024, INFERENCE_PIXELS // px**2))


def free_bytes(device: torch.device) -> int:
    """Bytes that are free on the device; for the CPU what the machine and the job's control group leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min(_machine_bytes(), _group_bytes())


def memory_in_use(device: torch.device) -> int:
    """Bytes this process holds: the most on the GPU so far, or resident on the CPU now."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    return _field(Path("/proc/self/status"), "VmRSS") or 0


def _machine_bytes() -> int:
    # Without /proc (macOS) 4 GB: too little makes reading slower, too much ends the job.
    return _field(Path("/proc/meminfo"), "MemAvailable") or 4 << 30


def _field(path: Path, name: str) -> int | None:
    if not path.exists():
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else None


def _group_bytes(root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes left under the tightest limit of the control groups (version 2) this process is in."""
    left = 1 << 62
    if not membership.exists():
        return left
    found = re.search(r"^0::/(.*)$", membership.read_text(), re.MULTILINE)
    group = root / found.group(1) if found else root
    for folder in [group, *group.parents]:
        limit, used = folder / "memory.max", folder / "memory.current"
        if limit.exists() and used.exists() and limit.read_text().strip() != "max":
            left = min(left, int(limit.read_text()) - int(used.read_text()))
        if folder == root:
            break
    return max(left, 0)
