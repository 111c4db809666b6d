"""A tiny study in a folder of its own, and Snakemake run on it as a user would."""

import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml
from lowmag import chunks, publish

REPOSITORY = Path(__file__).parents[2]
N_SLIDES = 15  # the fewest with three labelled patients of each class

# Two tiles of 256 um per slide and one epoch: a minute for the whole study on two cores.
TINY = {
    "demo": {"slides": N_SLIDES, "patients": N_SLIDES, "size_um": 1280},
    "splits": {"val": 0.34, "test": 0.33},
    "tiles": {"field_um": 256, "max_per_slide": 2, "students": [5, 1.25]},
    "teacher": {"epochs": 1, "batch_size": 8, "require": "nothing"},  # one epoch teaches little
    "students": {"epochs": 1, "batch_size": 8, "unlabelled": [0, 100]},
    "methods": {"labels-only": {"cross_entropy": 1}, "dipalma2021": None},
    "evaluation": {"bootstrap": 200},
    "compute": {"teacher": {"threads": 1}, "students": {"threads": 1}, "predictions": {"threads": 1}},
}


@dataclass
class StudyFolder:
    """A working folder with a config of its own; the repository stays untouched."""

    folder: Path

    def configure(self, **changes) -> None:
        """Write the tiny config with top-level sections updated."""
        config = {key: dict(value) if isinstance(value, dict) else value for key, value in TINY.items()}
        for key, value in changes.items():
            config[key] = {**config[key], **value} if isinstance(value, dict) and key in config else value
        (self.folder / "tiny.yaml").write_text(yaml.safe_dump(config))

    def command(self, *arguments: str, repository: Path = REPOSITORY) -> list[str]:
        """What a user would type, in the folder."""
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(repository / "Snakefile")]
        return [
            *command,
            "--cores",
            "2",
            "--configfile",
            str(repository / "config.yaml"),
            "tiny.yaml",
            *arguments,
        ]

    def snakemake(self, *arguments: str, repository: Path = REPOSITORY, **environment: str):
        """Run Snakemake in the folder; returns the finished process with its text."""
        return subprocess.run(
            self.command(*arguments, repository=repository),
            cwd=self.folder,
            capture_output=True,
            text=True,
            env={**os.environ, **environment},
            timeout=2400,  # far above what it takes: only against hanging for ever
            check=False,
        )

    def in_chunks(self, lists: list[list[str]], *arguments: str, outdir: str = "results", **environment: str):
        """Make a batch of lists of files as a cluster would, then the same command; the finished process."""
        batch = f"{outdir}/chunks/1-1"
        for number, files in enumerate(lists):
            publish.write_json(self.folder / batch / f"{number:04d}.json", files)
        package = str(REPOSITORY / "workflow")
        makes = [sys.executable, "-c", chunks.MAKE, package, batch]
        return subprocess.run(
            [*makes, *self.command(*arguments)[3:]],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env={**os.environ, chunks.ROUNDS: "1", **environment},
            timeout=2400,
            check=False,
        )

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """Snakemake at work in the folder, in a session of its own, writing to `running.log`."""
        with (self.folder / "running.log").open("w") as log:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                stdout=log,
                stderr=log,
                env={**os.environ, **environment},
                start_new_session=True,
            )

    @contextmanager
    def running(self, *arguments: str, **environment: str):
        """Snakemake at work, as by `start`; it and its jobs end with the block."""
        process = self.start(*arguments, **environment)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    @property
    def said(self) -> str:
        """What the last running Snakemake wrote."""
        return (self.folder / "running.log").read_text()

    def planned(self, *arguments: str, repository: Path = REPOSITORY) -> dict[str, int]:
        """Rules and job counts that a dry run lists."""
        result = self.snakemake("-n", "--quiet", "host", *arguments, repository=repository)
        assert result.returncode == 0, result.stdout + result.stderr
        return job_counts(result.stdout)


def job_counts(text: str) -> dict[str, int]:
    """Rule -> count from the last `Job stats` table of Snakemake's output."""
    if "Job stats:" not in text:
        return {}
    table = text.rsplit("Job stats:", 1)[1].splitlines()[3:]
    counts = {}
    for line in table:
        fields = line.split()
        if len(fields) != 2 or not fields[1].isdigit():
            break
        counts[fields[0]] = int(fields[1])
    counts.pop("total", None)
    return counts
