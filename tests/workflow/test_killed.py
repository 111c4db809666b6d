"""Snakemake and its jobs are killed twenty times; then one plain rerun ends like a study left in peace."""

import json
import os
import random
import re
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import pytest
from lowmag import cli

from tests.workflow.study_folder import TINY, StudyFolder

N_KILLS = 20
SEED = 0
LONGEST_S = 3.0  # from the first job at work, or the strike before, to the strike
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGKILL)
STUDY = {
    "slides": "cohort/slides.csv",
    "tiles": {"students": [5]},
    "teacher": {"epochs": 3},
    "students": {"epochs": 4, "unlabelled": [100]},
    "compute": {name: {"threads": 1} for name in ("teacher", "targets", "students", "predictions")},
    "methods": {"labels-only": {"cross_entropy": 1}, "dipalma2021": None},
}
# What two runs share to the last byte: all but what tells times, as cost, reading, report and run.json do.
SAME = ("**/*.safetensors", "splits.csv", "check.tsv", "evaluation/metrics.tsv", "evaluation/comparisons.tsv")
SAME += ("predictions/**/*.parquet", "slides/*.json", "tissue/*")


def processes(session: int) -> dict[int, str]:
    """Command lines of a session's living processes by id."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            state, _, _, own_session = (entry / "stat").read_text().rsplit(") ", 1)[1].split()[:4]
            if int(own_session) == session and state != "Z":
                found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


def jobs_of(session: int) -> list[int]:
    """The processes of a session that do a stage's work."""
    return sorted(pid for pid, command in processes(session).items() if re.search(r"bin/lowmag \w", command))


def strike(chance: random.Random, snakemake: int) -> str:
    """Send a signal to Snakemake or to one of its jobs; what was struck, and with what."""
    number, jobs = chance.choice(SIGNALS), jobs_of(snakemake)
    if jobs and chance.random() < 0.5:
        with suppress(ProcessLookupError):
            os.kill(chance.choice(jobs), number)
        return f"job {number.name}"
    with suppress(ProcessLookupError):
        # A terminal sends Ctrl-C to all of them.
        (os.killpg if number == signal.SIGINT else os.kill)(snakemake, number)
    return f"snakemake {number.name}"


def wait_for_work(snakemake: subprocess.Popen) -> bool:
    """Whether a job is at work; False when Snakemake ended before."""
    while snakemake.poll() is None:
        if jobs_of(snakemake.pid):
            return True
        time.sleep(0.05)
    return False


@dataclass
class Siege:
    """A study that is struck again and again; finished ones give way to a new one in another `outdir`."""

    study: StudyFolder
    chance: random.Random = field(default_factory=lambda: random.Random(SEED))
    strikes: list[str] = field(default_factory=list)
    sessions: list[int] = field(default_factory=list)
    n_unlocked: int = 0
    n_finished: int = 0
    status: int | None = None

    @property
    def results(self) -> list[Path]:
        """Folders of results, the last one maybe not finished."""
        return [self.study.folder / f"results{n}" for n in range(self.n_finished + 1)]

    def arguments(self) -> list[str]:
        """The one command that is typed all the time."""
        return ["--config", f"outdir={self.results[-1].name}"]

    def run_and_strike(self) -> bool:
        """Run Snakemake and strike until it has ended; False if it asked for `--unlock`, and was given it."""
        snakemake = self.study.start(*self.arguments(), CUDA_VISIBLE_DEVICES="")
        self.sessions.append(snakemake.pid)
        while len(self.strikes) < N_KILLS and wait_for_work(snakemake):
            time.sleep(self.chance.uniform(0, LONGEST_S))
            if snakemake.poll() is None:
                self.strikes.append(strike(self.chance, snakemake.pid))
        snakemake.wait(1800)
        if "--unlock" in self.study.said:
            self.n_unlocked += 1
            assert self.study.snakemake("--unlock", *self.arguments()).returncode == 0
            return False
        self.n_finished += snakemake.returncode == 0
        self.status = snakemake.returncode
        return True

    def end(self) -> None:
        """End what outlived its Snakemake."""
        for session in self.sessions:
            for pid in processes(session):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> StudyFolder:
    """A tiny study with a cohort on disk, run once in peace."""
    study = StudyFolder(tmp_path_factory.mktemp("study"))
    demo = json.dumps(TINY["demo"])
    assert cli.main(["demo", "--out", str(study.folder / "cohort"), "--options", demo]) == 0
    study.configure(**STUDY)
    done = study.snakemake("--config", "outdir=peace", CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 0, done.stdout + done.stderr
    return study


@pytest.fixture(scope="module")
def siege(study):
    """The study after twenty strikes and one plain rerun."""
    siege = Siege(study)
    try:
        while len(siege.strikes) < N_KILLS:
            siege.run_and_strike()
        while not siege.run_and_strike():
            pass
        yield siege
    finally:
        siege.end()


def test_strikes_hit_snakemake_and_jobs(siege):
    assert len(siege.strikes) == N_KILLS
    assert {strike.split()[0] for strike in siege.strikes} == {"job", "snakemake"}
    assert {strike.split()[1] for strike in siege.strikes} == {number.name for number in SIGNALS}


def test_unlocking_is_asked_for_after_sigkill_alone(siege):
    assert siege.n_unlocked <= siege.strikes.count("snakemake SIGKILL")


def test_one_plain_rerun_ends_well(siege):
    assert siege.status == 0, siege.study.said
    assert siege.results[-2].joinpath("report.html").exists()


def test_results_are_those_of_a_study_left_in_peace(siege):
    peace = siege.study.folder / "peace"
    names = [path.relative_to(peace) for pattern in SAME for path in peace.glob(pattern)]
    assert {path.name for path in names} >= {"model.safetensors", "metrics.tsv", "tiles.parquet"}
    for results in siege.results[:-1]:
        for name in names:
            assert (results / name).read_bytes() == (peace / name).read_bytes(), name


def test_tiles_are_those_of_a_study_left_in_peace(siege):
    for tiles in (siege.study.folder / "peace/tiles").glob("*.h5"):
        for results in siege.results[:-1]:
            assert content(results / "tiles" / tiles.name) == content(tiles)


def content(path: Path) -> dict[str, object]:
    """Every dataset of a tile file by name."""
    found: dict[str, object] = {}

    def note(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[()].tolist() if item.dtype.hasobject else item[()].tobytes()

    with h5py.File(path) as file:
        assert file.attrs["complete"]
        file.visititems(note)
    return found


def test_nothing_half_written_is_left(siege):
    for results in siege.results[:-1]:
        assert [
            path for path in results.rglob(".*") if path.is_file() and path.name != ".snakemake_timestamp"
        ] == []
