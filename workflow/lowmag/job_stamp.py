"""What a job of a workflow says of itself as the end of its log: its code, its hardware, what it had loaded.

No folder, host or user of the machine stands in it.
"""

import json
import logging
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowmag import __version__
from lowmag.own_code import FINGERPRINT

# Modules, of which those that the job has loaded are told: to import one more takes longer than a small job.
LIBRARIES = (
    "h5py", "matplotlib", "numpy", "onnxruntime", "openslide", "pandas", "PIL", "pyarrow", "pydantic",
    "pyvips", "safetensors", "shapely", "simplejpeg", "timm", "torch",
)  # fmt: skip
STAMP = re.compile(r"^[0-9:]{8} made by (\{.*\})$", re.MULTILINE)
TAIL_BYTES = 1 << 14  # holds those of the processes of a teacher on several GPUs too

log = logging.getLogger(__name__)
Stamp = dict[str, Any]


def say() -> None:
    """Log what made the outputs of this job."""
    log.info("made by %s", json.dumps(stamp(), sort_keys=True))


def stamp() -> Stamp:
    """Code that the workflow was laid out by, hardware, and versions of what is loaded here."""
    loaded = {name: getattr(sys.modules.get(name), "__version__", None) for name in LIBRARIES}
    found = {name: version for name, version in loaded.items() if version}  # else the work is done, and stays
    software = {"lowmag": __version__, "python": platform.python_version(), **found}
    return {"code": os.environ.get(FINGERPRINT), "hardware": hardware(), "software": software}


def hardware() -> dict[str, Any]:
    """System, processor, CPUs and memory of this machine, and the GPU that this process has used."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text("utf-8").splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    torch = sys.modules.get("torch")
    gpu = torch.cuda.get_device_name() if torch and torch.cuda.is_initialized() else None
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": models[0] if models else platform.processor(),
        "cpus": os.cpu_count(),
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        **({"gpu": gpu} if gpu else {}),
    }


def stamps_in(path: Path) -> list[Stamp]:
    """What is said at the end of a log; nothing where there is no log, or one of an earlier version."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except OSError:
        return []
    found = []
    for line in STAMP.findall(text):
        try:
            found.append(json.loads(line))
        except ValueError:  # not ours
            continue
    return found


def together(stamps: Sequence[Stamp]) -> dict[str, Any]:
    """Every code, hardware and version that jobs told, each once: more than one where they differed."""
    software: dict[str, set[str]] = {}
    for one in stamps:
        for name, version in one["software"].items():
            software.setdefault(name, set()).add(version)
    places = {json.dumps(one["hardware"], sort_keys=True) for one in stamps}
    return {
        "code": sorted({str(one["code"]) for one in stamps}),
        "hardware": [json.loads(place) for place in sorted(places)],
        "software": {name: sorted(versions) for name, versions in sorted(software.items())},
    }
