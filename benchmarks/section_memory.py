"""Memory of one training step on a whole section, by its size: what `tiles.max_section_px` must leave.

    uv run python benchmarks/section_memory.py [edge in pixels ...]

One process per size, float32 on the CPU: the highest resident memory over that before the step.
"""

import resource
import subprocess
import sys

EDGES = ("1024", "2048", "4096")


def measure(edge: int) -> None:
    """Print megapixels and megabytes of a step of DiPalma's ResNet-10."""
    import torch
    from lowmag.models import build
    from lowmag.recipe import Architecture

    torch.set_num_threads(1)
    network = build(Architecture(), 3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    features, logits = network(torch.rand(1, 3, edge, edge))
    (features.mean() + logits.mean()).backward()
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(f"{edge} px  {edge**2 / 1e6:.1f} megapixels  {used / 1e3:.0f} MB  {used * 1024 / edge**2:.0f} B/px")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        measure(int(sys.argv[2]))
    else:
        for edge in sys.argv[1:] or EDGES:
            subprocess.run([sys.executable, __file__, "--one", edge], check=True)
