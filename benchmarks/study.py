"""The demo study, run whole: minutes it takes, and how its figures stand to what is asked of them.

    python benchmarks/study.py             # three seeds
    python benchmarks/study.py --quick     # one seed, the study of config.yaml as it is

Results stay in `--outdir`; what is there is not made again, so minutes count only for an empty folder.
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd

REPOSITORY = Path(__file__).parents[1]
MINUTES, TEACHER, GAP = 12.0, 0.9, 0.1


def main() -> None:
    """Run the study, then print one line per figure: name, value, floor, ok or short."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one seed")
    parser.add_argument("--outdir", default="results/benchmark")
    args = parser.parse_args()
    seeds = [0] if args.quick else [0, 1, 2]
    began = time.monotonic()
    command = [sys.executable, "-m", "snakemake", "--cores", "all", "--config", f"outdir={args.outdir}"]
    subprocess.run([*command, f"students={{seeds: {seeds}}}"], cwd=REPOSITORY, check=True)
    minutes = (time.monotonic() - began) / 60
    metrics = pd.read_csv(REPOSITORY / args.outdir / "evaluation/metrics.tsv", sep="\t")
    teacher = value(metrics, "tile", "teacher", 10)
    figures = {
        "teacher_slide_balanced_accuracy": (value(metrics, "slide", "teacher", 10), TEACHER),
        "teacher_minus_labels_only_0.625x_tile": (
            teacher - value(metrics, "tile", "labels-only", 0.625),
            GAP,
        ),
    }
    for name, (found, floor) in figures.items():
        print(f"{name} {found:.3f} {floor:.3f} {'ok' if found >= floor else 'short'}")
    if args.quick:
        print(f"demo_study_minutes {minutes:.1f} {MINUTES:.1f} {'ok' if minutes <= MINUTES else 'short'}")


def value(metrics: pd.DataFrame, level: str, method: str, magnification: float) -> float:
    """Balanced accuracy on the test split, mean over seeds."""
    chosen = metrics.query(
        "level == @level and split == 'test' and method == @method and magnification == @magnification "
        "and metric == 'balanced_accuracy' and seed == 'mean'"
    )
    return float(chosen["value"].iloc[0])


if __name__ == "__main__":
    main()
