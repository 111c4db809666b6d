"""How fast tiles are cut, against the usual way, OpenSlide, the floor and other tools; and in what memory.

    python benchmarks/tiles.py --slides ../shared/data/slides --peer-python tiatoolbox=/path/to/python
    python benchmarks/tiles.py --memory
    python benchmarks/tiles.py --quick

The slide is a JPEG pyramid of 30208 x 30208 px at 20x made of the real CMU-1 region, all of it tissue. The
work: 512 px at 10x and the four lower magnifications of every field, in one HDF5. One core is pinned; the
ways take turns.

- ours: `lowmag tiles`, from the record of the slide to the published file
- usual: OpenSlide reads every tile at every magnification at the best level, Pillow resizes (LANCZOS) and
  encodes, h5py appends
- aligned: ours, but pixels come through OpenSlide: one read per tile at whole multiples of the level
- floor: every segment decoded once and every stored tile encoded once, with the same library; nothing else
- peers: the tool reads the tiles at 10x and keeps nothing; against ours doing the same
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from big_slide import REGION, write_big_slide
from tile_ways import Study, floor, ours, prepare, read_only, usual

HERE = Path(__file__).parent
RATIOS = {"aperio": (1, 4, 16), "octaves": (1, 2, 4)}
FLOORS = {"usual": 3.0, "aligned": 1.8, "floor": 0.6}
MEMORY_FLOOR_GB = 1.0
AREAS = (1, 4, 16)


def main() -> None:
    """Print speeds as median and range, then one line per figure: name, value, floor, verdict."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slides", type=Path, default=HERE / "../../shared/data/slides")
    parser.add_argument("--edge", type=int, default=30208, help="edge of the slide, pixels")
    parser.add_argument("--levels", choices=RATIOS, default="aperio", help="ratios 1 4 16 or 1 2 4")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--core", type=int, default=0, help="the core to run on")
    parser.add_argument(
        "--peer-python", action="append", default=[], metavar="TOOL=PYTHON",
        help="tiatoolbox, histolab or lazyslide and the interpreter of an environment that has it",
    )  # fmt: skip
    parser.add_argument("--memory", action="store_true", help="memory and time against area instead")
    parser.add_argument("--plot", type=Path, default=HERE / "../docs/images/tiles_memory.svg")
    parser.add_argument("--quick", action="store_true", help="a smaller slide, one round")
    args = parser.parse_args()
    if args.quick:
        args.edge, args.rounds = 16384, 1
    os.sched_setaffinity(0, {args.core})
    with tempfile.TemporaryDirectory() as folder:
        figures = measure_memory(Path(folder), args) if args.memory else measure_speed(Path(folder), args)
    for figure in figures:
        print(figure)


@dataclass(frozen=True)
class Figure:
    """One figure; `at_most` where the floor is a ceiling."""

    name: str
    value: float
    floor: float
    at_most: bool = False

    def __str__(self) -> str:
        is_ok = self.value <= self.floor if self.at_most else self.value >= self.floor
        return f"{self.name} {self.value:.3f} {self.floor:.3f} {'ok' if is_ok else 'short'}"


def measure_speed(folder: Path, args: argparse.Namespace) -> list[Figure]:
    """The ratios of speeds, of the medians over the rounds."""
    slide = write_big_slide(folder / "big.svs", args.slides / REGION, args.edge, RATIOS[args.levels])
    study = prepare(folder, slide)
    ways: dict[str, Callable[[Study], float]] = {
        "ours": ours,
        "usual": usual,
        "aligned": lambda study: ours(study, source="openslide"),
        "floor": floor,
        "reading": read_only,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(args.rounds):
        order = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for name in order:
            seconds[name].append(ways[name](study))
    for name, found in seconds.items():
        _say(name, study.n, found)
    median = {name: statistics.median(found) for name, found in seconds.items()}
    figures = [
        Figure("tiles_to_usual", median["usual"] / median["ours"], FLOORS["usual"]),
        Figure("tiles_to_aligned_openslide", median["aligned"] / median["ours"], FLOORS["aligned"]),
        Figure("tiles_to_floor", median["floor"] / median["ours"], FLOORS["floor"]),
    ]
    for peer in args.peer_python:
        tool, python = peer.split("=", 1)
        if found := _peer(tool, python, study):
            _say(f"{tool}, reading", study.n, found)
            figures.append(Figure(f"reading_to_{tool}", statistics.median(found) / median["reading"], 1.0))
    return figures


def _say(name: str, n: int, seconds: list[float]) -> None:
    speeds = sorted(n / each for each in seconds)
    spread = f"{speeds[0]:.1f} to {speeds[-1]:.1f}, n={len(speeds)}"
    print(f"{name}: {statistics.median(speeds):.1f} tiles/s ({spread}), {n} tiles", flush=True)


def _peer(tool: str, python: str, study: Study) -> list[float]:
    """Seconds of every round of another tool, none if it could not be run."""
    places = study.folder / "places.json"
    places.write_text(json.dumps(study.places))
    command = [python, HERE / "tile_peers.py", tool, study.slide, places]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    if done.returncode:
        print(f"{tool} could not be run: {done.stderr.strip().splitlines()[-1]}")
        return []
    found = json.loads(done.stdout.splitlines()[-1])
    print(f"{tool} {found['version']}")
    return found["seconds"]


CHILD = """
import json, resource, sys, time
from pathlib import Path
from lowmag import tiles
from lowmag.sections import Tiles
start = time.perf_counter()
tiles.write_tiles(*map(Path, sys.argv[1:4]), Tiles())
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(json.dumps([peak / 2**20, time.perf_counter() - start]))
"""


def measure_memory(folder: Path, args: argparse.Namespace) -> list[Figure]:
    """Peak memory and time at 1, 4 and 16 times an area, the largest about 100 000 pixels square."""
    base = 4096 if args.quick else 25088
    rows = []
    for area in AREAS:
        edge = base * round(area**0.5)
        slide = write_big_slide(folder / "big.svs", args.slides / REGION, edge, RATIOS[args.levels])
        study = prepare(folder, slide)
        command = [sys.executable, "-c", CHILD, study.record, study.outline, folder / "t.h5"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        gigabytes, seconds = json.loads(done.stdout)
        rows.append((edge, study.n, gigabytes, seconds))
        print(f"{edge} x {edge} px, {study.n} tiles: {gigabytes:.3f} GB, {seconds:.1f} s", flush=True)
    if not args.quick:
        _plot(rows, args.plot)
    per_tile = [seconds / n for _, n, _, seconds in rows]
    return [
        Figure("tiles_peak_memory_gb", rows[-1][2], MEMORY_FLOOR_GB, at_most=True),
        Figure("tiles_time_per_tile_16_to_1", per_tile[-1] / per_tile[0], 1.5, at_most=True),
    ]


def _plot(rows: list[tuple[int, int, float, float]], out: Path) -> None:
    import matplotlib as mpl
    from lowmag.palette import COLOURS, STYLE
    from matplotlib.figure import Figure as Drawing

    with mpl.rc_context(STYLE):
        drawing = Drawing(figsize=(7, 2.8), layout="constrained")
        memory, took = drawing.subplots(1, 2)
        gigapixels = [edge**2 / 1e9 for edge, *_ in rows]
        memory.plot(gigapixels, [row[2] for row in rows], "o-", color=COLOURS[0])
        memory.axhline(MEMORY_FLOOR_GB, color="grey", linestyle="--", linewidth=1)
        memory.set(xlabel="area of the slide, gigapixels", ylabel="peak memory, GB", ylim=(0, 1.1))
        took.plot(gigapixels, [row[3] for row in rows], "o-", color=COLOURS[0])
        took.set(xlabel="area of the slide, gigapixels", ylabel="time, s", ylim=(0, None))
        drawing.savefig(out, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
