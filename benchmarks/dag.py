"""What Snakemake needs before and between the jobs of a cohort, by the number of slides.

    python benchmarks/dag.py                 100, 1 000 and 10 000 slides
    python benchmarks/dag.py --quick         100 and 1 000, and the floors in proportion
    python benchmarks/dag.py --run-all       run the jobs of 10 000 slides, too, not of 1 000 alone (an hour)

The real Snakefile on invented cohorts. A dry run opens no slide, so the slides are files of a few bytes.
Scheduling is timed by running: all per-slide jobs go through Snakemake, its shells and its records, with a
`lowmag` that makes its outputs and does nothing. What one more job takes is the difference to a dry run of
these, by the number of jobs. Seconds are of the processor, which depend little on what else the machine does;
memory is the most that the process held. Last, what starting a job costs: `lowmag tiles` on a rejected slide.
Python keeps what it has compiled, also where PYTHONDONTWRITEBYTECODE forbids it, which costs 3 s a start.
"""

import argparse
import os
import re
import resource
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lowmag import chunks
from lowmag.plan import Plan
from lowmag.record import SlideRecord, save_record

REPOSITORY = Path(__file__).parents[1]
DRY_RUN_S, MEMORY_GB, JOB_S, CLUSTER_JOBS = 60.0, 2.0, 1.0, 999.0  # for 10 000 slides
LARGEST = 10_000
PER_CHUNK = Plan({"slides": "demo"}).job("chunk").slides
START_S = 5.0  # of Snakemake and of reading the rules, whatever the cohort
PER_SLIDE = ("slides/{}.json", "tissue/{}.geojson", "tissue/{}.png", "tiles/{}.h5", "logs/inspect/{}.log")
PER_SLIDE += ("logs/tissue/{}.log", "logs/tiles/{}.log")
MOST_RUN = 1000  # slides whose jobs are run without being asked to
TABLES = ("results/check.tsv", "results/tiles.tsv")
IDLE = """#!/bin/sh
while [ $# -gt 0 ]; do
    case "$1" in --out | --outline | --overlay) [ -e "$2" ] || : > "$2" ;; esac
    shift
done
"""  # a `lowmag` that does nothing


@dataclass(frozen=True)
class Cost:
    """What one command took: seconds of the processor and on the clock, and gigabytes at the most."""

    seconds: float
    clock_s: float
    gigabytes: float
    text: str


def main() -> None:
    """Print the figures by size, then one line per floor."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="to 1 000 slides, for CI")
    parser.add_argument("--starts", type=int, default=5, help="starts of a job, count")
    parser.add_argument("--run-all", action="store_true", help="run the jobs of every size")
    args = parser.parse_args()
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sizes = [100, 1000] if args.quick else [100, 1000, LARGEST]
    with tempfile.TemporaryDirectory() as folder:
        most = sizes[-1] if args.run_all else MOST_RUN
        dry = {n: _measure(Path(folder, str(n)), n, is_run=n <= most) for n in sizes}
        starts = [_job(Path(folder)) for _ in range(args.starts + 1)][1:]  # the first may compile
    print(f"a job of no tiles: {statistics.median(starts):.2f} s ({min(starts):.2f} to {max(starts):.2f}, "
          f"n={len(starts)})")  # fmt: skip
    largest = sizes[-1]
    share = largest / LARGEST
    _floor("dag_dry_run_s", dry[largest].seconds, DRY_RUN_S * share + START_S * (1 - share))
    _floor("dag_dry_run_gb", dry[largest].gigabytes, MEMORY_GB * max(share, 0.25))  # Snakemake alone: 0.15
    _floor("dag_job_start_s", statistics.median(starts), JOB_S)
    _floor("dag_cluster_jobs", _cluster_jobs(LARGEST), CLUSTER_JOBS)


def _floor(name: str, value: float, most: float) -> None:
    print(f"{name} {value:.3f} {most:.3f} {'ok' if value <= most else 'short'}")


def _measure(folder: Path, n: int, *, is_run: bool) -> Cost:
    """The dry run of a cohort of `n` slides; what scheduling takes is printed alone."""
    _cohort(folder, n)
    dry = _snakemake(folder, "-n", "--quiet", "rules")
    _tell(n, f"dry run of {_jobs(dry)} jobs", dry)
    wanted = {f"S{number:05d}": [f"results/tiles/S{number:05d}.h5"] for number in range(n)}
    batch = chunks.write_batch(folder / "results/chunks", wanted, PER_CHUNK)
    chunked = _snakemake(folder, "-n", "--quiet", "rules", "--", f"results/chunks/{batch}.done")
    _tell(n, "dry run of all slides in chunks", chunked)
    if is_run:
        _run_idle(folder, n)
    return dry


def _run_idle(folder: Path, n: int) -> None:
    """Runs all per-slide jobs with a `lowmag` that does nothing, and prints what one more of them takes."""
    laid_out = _snakemake(folder, "-n", "--quiet", "rules", "--", *TABLES)
    n_jobs, done = _jobs(laid_out), _snakemake(folder, "--quiet", "all", "--", *TABLES)
    each = (done.seconds - laid_out.seconds) / n_jobs * 1000
    _tell(n, f"running {n_jobs} per-slide jobs that do nothing, {each:.1f} ms each beyond the graph", done)
    n_files = _files(folder)
    print(f"{n} slides: {n_files} files of results, {n_files / n:.2f} per slide, and as many inodes")


def _jobs(dry: Cost) -> int:
    found = re.search(r"^total\s+(\d+)$", dry.text, re.MULTILINE)
    return int(found[1]) if found else 0


def _tell(n: int, what: str, cost: Cost) -> None:
    took = f"{cost.seconds:.1f} s ({cost.clock_s:.1f} s on the clock), {cost.gigabytes:.2f} GB"
    print(f"{n} slides, {what}: {took}", flush=True)


def _cluster_jobs(n: int) -> int:
    """Jobs of a cluster for slides in chunks, and the runs of the default study after them."""
    # Training, targets and prediction of every model, and what follows, at most.
    return -(-n // PER_CHUNK) + 4 * len(Plan({"slides": "demo"}).models)


def _cohort(folder: Path, n: int) -> None:
    """A sheet of `n` slides that are files of a few bytes."""
    (folder / "slides").mkdir(parents=True)
    lines = ["slide_id,path,label,patient_id"]
    for number in range(n):
        name = f"S{number:05d}"
        (folder / "slides" / f"{name}.svs").write_bytes(b"not read")
        label = ("benign", "tumour", "")[number % 3]
        lines.append(f"{name},slides/{name}.svs,{label},P{number // 2}")
    (folder / "slides.csv").write_text("\n".join(lines) + "\n")
    (folder / "study.yaml").write_text("slides: slides.csv\n")
    (folder / "bin").mkdir()
    (folder / "bin/lowmag").write_text(IDLE)
    (folder / "bin/lowmag").chmod(0o755)


def _files(folder: Path) -> int:
    """How many files the jobs have left, of all that every slide must have."""
    results = folder / "results"
    n = len(list((folder / "slides").iterdir()))
    expected = [f"{pattern.format(f'S{number:05d}')}" for pattern in PER_SLIDE for number in range(n)]
    if missing := [name for name in expected if not (results / name).exists()]:
        raise SystemExit(f"{len(missing)} of {len(expected)} files were not made, {missing[0]} the first")
    return sum(path.is_file() for path in results.rglob("*"))


def _snakemake(folder: Path, *arguments: str) -> Cost:
    command = [
        sys.executable,
        "-m",
        "snakemake",
        "--snakefile",
        str(REPOSITORY / "Snakefile"),
        "--cores",
        "2",
    ]
    command += ["--configfile", str(REPOSITORY / "config.yaml"), "study.yaml", *arguments]
    return _run(command, folder)


def _run(command: list[str], folder: Path) -> Cost:
    """Run a command in a child of its own, so that its memory is not hidden by a larger one before."""
    script = (
        "import resource, subprocess, sys, time\n"
        "began = time.monotonic()\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.stdout + done.stderr)\n"
        "clock = time.monotonic() - began\n"
        "print(done.returncode, used.ru_utime + used.ru_stime, clock, used.ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=folder, capture_output=True, text=True, check=True,
        env=os.environ | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
    )  # fmt: skip
    *text, figures = done.stdout.rstrip().splitlines()
    status, seconds, clock, kilobytes = figures.split()
    if int(status):
        raise SystemExit("\n".join(text))
    return Cost(float(seconds), float(clock), int(kilobytes) * 1024 / 1e9, "\n".join(text))


def _job(folder: Path) -> float:
    """Seconds of the processor of one `lowmag tiles` that has no tile to cut."""
    record = folder / "rejected.json"
    save_record(record, SlideRecord("rejected", "rejected.svs", verdict="missing", reason="-", cure="-"))
    (folder / "rejected.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    command = [str(Path(sys.executable).with_name("lowmag")), "tiles", "--record", str(record)]
    command += ["--outline", str(folder / "rejected.geojson"), "--out", str(folder / "rejected.h5")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
