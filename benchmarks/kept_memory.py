"""What a training step on the CPU gains when freed memory is kept: steps before and after, in one process.

python benchmarks/kept_memory.py [--quick]
"""

import statistics
import sys
import time

import torch
from lowmag.device import keep_freed_memory
from lowmag.networks import build
from lowmag.recipe import Architecture
from torch.nn import functional

PX, BATCH, FLOOR = 512, 8, 1.05


def main() -> None:
    """Print seconds per step as median and range before and after, and their ratio."""
    steps = 4 if "--quick" in sys.argv[1:] else 15
    torch.set_num_threads(1)
    network = build(Architecture(), 3)
    before = timed(network, steps)
    keep_freed_memory()
    after = timed(network, steps)
    for name, found in (("before", before), ("after", after)):
        print(f"{name}: {statistics.median(found):.3f} s ({min(found):.3f} to {max(found):.3f}, n={steps})")
    ratio = statistics.median(before) / statistics.median(after)
    print(f"kept_memory_speedup {ratio:.3f} {FLOOR:.3f} {'ok' if ratio >= FLOOR else 'short'}")


def timed(network: torch.nn.Module, steps: int) -> list[float]:
    """Seconds of each forward and backward pass, after one that is not counted."""
    pictures, labels = torch.rand(BATCH, 3, PX, PX), torch.zeros(BATCH, dtype=torch.long)
    seconds = []
    for _ in range(steps + 1):
        began = time.perf_counter()
        functional.cross_entropy(network(pictures)[1], labels).backward()
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


if __name__ == "__main__":
    main()
