"""What a study costs against its tiles, runs and seeds: a table and a plot from the rates of training.py.

    python benchmarks/training.py --rates rates.json
    python benchmarks/study_cost.py rates.json --out docs/images/study_cost.svg

A study here: per seed a teacher at 10x (512 px), its targets of 8 views, and students of three methods at 5x,
2.5x, 1.25x and 0.625x, ResNet-18, the same number of epochs each. `online` is the same study with the teacher
asked in every step of every student but those of one method, labels-only, which never asks. Rates of 1.25x
are measured; a student's step is taken to cost in proportion to its pixels. Cutting tiles, predicting and
evaluating are left out. One device, one run after another.
"""

import argparse
import json
import statistics
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from lowmag.palette import STYLE, WIDTH_IN
from matplotlib.figure import Figure

EPOCHS, METHODS = 20, 3
PIXELS = {"5x": 16.0, "2.5x": 4.0, "1.25x": 1.0, "0.625x": 0.25}  # by those of a tile at 1.25x
TILES, SEEDS = (1_000, 10_000, 100_000, 1_000_000), (1, 3, 5)
SHOWN_TILES = 10_000


@dataclass(frozen=True)
class Rates:
    """Tiles per second of training a student at 1.25x and a teacher; seconds per tile of targets, 8 views."""

    student: float
    teacher: float
    targets_s: float

    @property
    def pass_s(self) -> float:
        """Seconds of asking the teacher about one picture."""
        return self.targets_s / 8


def hours(rates: Rates, tiles: int, methods: int, seeds: int, *, online: bool) -> float:
    """Hours of a study of so many training tiles, methods (one without a teacher) and seeds."""
    seen = tiles * EPOCHS
    steps = sum(seen * pixels / rates.student for pixels in PIXELS.values())
    asked = len(PIXELS) * seen * rates.pass_s
    of_teacher = (methods - 1) * asked if online else tiles * rates.targets_s
    return seeds * (seen / rates.teacher + methods * steps + of_teacher) / 3600


def main() -> None:
    """Print the table and write the plot."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rates", type=Path, help="what training.py --rates wrote")
    parser.add_argument("--out", type=Path, help="SVG to write")
    args = parser.parse_args()
    rates = read_rates(args.rates)
    print(f"| training tiles | seeds | runs | hours, stored targets | hours, online | ratio |\n|{'---|' * 6}")
    for tiles in TILES:
        for seeds in SEEDS:
            stored, online = (hours(rates, tiles, METHODS, seeds, online=kind) for kind in (False, True))
            runs = seeds * METHODS * len(PIXELS)
            print(f"| {tiles} | {seeds} | {runs} | {stored:.3g} | {online:.3g} | {online / stored:.1f} |")
    if args.out:
        with mpl.rc_context(STYLE):
            plot(rates).savefig(args.out, metadata={"Date": None, "Creator": "lowmag"})


def read_rates(path: Path) -> Rates:
    """Medians of what was measured."""
    found = json.loads(path.read_text(encoding="utf-8"))

    def median(figure: str, way: str) -> float:
        return statistics.median(found[figure][way])

    return Rates(
        student=median("student_to_bare", "loop"),
        teacher=median("teacher_to_bare", "loop"),
        targets_s=median("targets_to_passes", "seconds a tile"),
    )


def plot(rates: Rates) -> Figure:
    """Hours against runs (methods and seeds), and against tiles; stored and online."""
    figure = Figure(figsize=(WIDTH_IN, 2.8), layout="constrained")
    by_runs, by_tiles = figure.subplots(1, 2)
    for online, label, style in ((False, "stored targets", "-"), (True, "teacher online", "--")):
        for seeds, colour in zip(SEEDS, ("#1b6ca8", "#d1495b", "#3c8d40"), strict=True):
            methods = range(2, 11)
            runs = [seeds * n * len(PIXELS) for n in methods]
            spent = [hours(rates, SHOWN_TILES, n, seeds, online=online) for n in methods]
            by_runs.plot(runs, spent, style, color=colour, linewidth=1, label=f"seeds: {seeds}, {label}")
        spent = [hours(rates, tiles, METHODS, 3, online=online) for tiles in TILES]
        by_tiles.plot(TILES, spent, style, color="#d1495b", marker="o", markersize=3, label=label)
    by_runs.set(xlabel=f"students ({SHOWN_TILES} tiles)", ylabel="hours on one device", yscale="log")
    by_tiles.set(xlabel="training tiles (36 students, 3 seeds)", xscale="log", yscale="log")
    by_tiles.legend(loc="upper left")
    for axis in (by_runs.yaxis, by_tiles.xaxis, by_tiles.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:,.0f}".replace(",", " "))
    by_tiles.set_xticks(TILES, labels=["1 000", "10 000", "100 000", "1 million"])
    handles, labels = by_runs.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


if __name__ == "__main__":
    main()
