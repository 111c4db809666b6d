"""Processor time to the first step of `lowmag.optimizer.Adam` and of torch's AdamW, each in its own process.

python benchmarks/optimizer_import.py [--quick]
"""

import statistics
import subprocess
import sys

FLOOR = 1.0  # seconds that are worth an optimiser of our own
PREPARE = "import time, torch; p = torch.nn.Parameter(torch.zeros(3)); p.grad = torch.ones(3)"
START = "t = time.process_time()"
STEPS = {
    "lowmag": "from lowmag.optimizer import Adam; Adam([p], 0.05, decoupled=True).step(1e-3)",
    "torch": "torch.optim.AdamW([p], lr=1e-3, weight_decay=0.05, fused=True).step()",
}


def main() -> None:
    """Print the median and the range of both, in seconds after the import of torch, and the saving."""
    rounds = 1 if "--quick" in sys.argv[1:] else 3
    medians = {}
    for name, step in STEPS.items():
        program = "; ".join([PREPARE, START, step, "print(time.process_time() - t)"])
        command = [sys.executable, "-c", program]
        found = [float(subprocess.check_output(command, text=True)) for _ in range(rounds)]
        medians[name] = statistics.median(found)
        print(f"{name}: {medians[name]:.2f} s ({min(found):.2f} to {max(found):.2f}, n={rounds})")
    saved = medians["torch"] - medians["lowmag"]
    print(f"optimizer_import_seconds_saved {saved:.2f} {FLOOR:.2f} {'ok' if saved >= FLOOR else 'short'}")


if __name__ == "__main__":
    main()
