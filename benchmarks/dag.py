"""What Snakemake needs before and between the jobs of a cohort, by the number of slides.

    python benchmarks/dag.py                 100, 1 000 and 10 000 slides
    python benchmarks/dag.py --quick         100 and 1 000, and the floors in proportion

The real Snakefile on invented cohorts. A dry run opens no slide, so the slides are files of a few bytes.
Scheduling is timed with `--touch` over results of no bytes: every job passes through the scheduler and runs
nothing. Seconds are of the processor, which depend little on what else the machine does; memory is the most
that the process held. Last, what starting a job costs: `lowmag tiles` on a slide that was rejected.
"""

import argparse
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
FILES_PER_SLIDE = ("slides/{}.json", "tissue/{}.geojson", "tissue/{}.png", "tiles/{}.h5")
TABLES = ("results/check.tsv", "results/tiles.tsv")
LOGS_PER_SLIDE = ("logs/inspect/{}.log", "logs/tissue/{}.log", "logs/tiles/{}.log")


@dataclass(frozen=True)
class Cost:
    """What one command took: seconds of the processor and gigabytes at the most."""

    seconds: float
    gigabytes: float
    text: str


def main() -> None:
    """Print the figures by size, then one line per floor."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="to 1 000 slides, for CI")
    parser.add_argument("--starts", type=int, default=5, help="starts of a job, count")
    args = parser.parse_args()
    sizes = [100, 1000] if args.quick else [100, 1000, LARGEST]
    with tempfile.TemporaryDirectory() as folder:
        dry = {n: _measure(Path(folder, str(n)), n) for n in sizes}
        starts = [_job(Path(folder)) for _ in range(args.starts)]
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


def _measure(folder: Path, n: int) -> Cost:
    """The dry run of a cohort of `n` slides; what scheduling takes is printed alone."""
    _cohort(folder, n)
    dry = _snakemake(folder, "-n", "--quiet", "rules")
    found = re.search(r"^total\s+(\d+)$", dry.text, re.MULTILINE)
    _tell(n, f"dry run of {found[1] if found else '?'} jobs", dry)
    wanted = {f"S{number:05d}": [f"results/tiles/S{number:05d}.h5"] for number in range(n)}
    batch = chunks.write_batch(folder / "results/chunks", wanted, PER_CHUNK)
    chunked = _snakemake(folder, "-n", "--quiet", "rules", "--", f"results/chunks/{batch}.done")
    _tell(n, "dry run of all slides in chunks", chunked)
    n_files = _results(folder, n)
    print(f"{n} slides: {n_files} files of results, {n_files // n} per slide, and as many inodes")
    touched = _snakemake(folder, "--touch", "--quiet", "rules", "--", *TABLES)
    _tell(n, "scheduling of all per-slide jobs, graph included", touched)
    return dry


def _tell(n: int, what: str, cost: Cost) -> None:
    print(f"{n} slides, {what}: {cost.seconds:.1f} s, {cost.gigabytes:.2f} GB", flush=True)


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


def _results(folder: Path, n: int) -> int:
    """Makes every per-slide file, of no bytes; the number of files."""
    patterns = [*FILES_PER_SLIDE, *LOGS_PER_SLIDE]
    for pattern in patterns:
        (folder / "results" / pattern).parent.mkdir(parents=True, exist_ok=True)
        for number in range(n):
            (folder / "results" / pattern.format(f"S{number:05d}")).touch()
    for name in ("check.tsv", "splits.csv", "tiles.tsv"):
        (folder / "results" / name).touch()
    return len(patterns) * n


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
        "import resource, subprocess, sys\n"
        "done = subprocess.run(sys.argv[1:], capture_output=True, text=True)\n"
        "used = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "print(done.stdout + done.stderr)\n"
        "print(done.returncode, used.ru_utime + used.ru_stime, used.ru_maxrss)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *command], cwd=folder, capture_output=True, text=True, check=True
    )
    *text, figures = done.stdout.rstrip().splitlines()
    status, seconds, kilobytes = figures.split()
    if int(status):
        raise SystemExit("\n".join(text))
    return Cost(float(seconds), int(kilobytes) * 1024 / 1e9, "\n".join(text))


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
