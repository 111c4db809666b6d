"""Slides in chunks: on a cluster as many go in one job as a workstation would take one after the other.

Snakemake says which files of single slides are to be made. The same command with another target, a batch of
chunks, makes those and no others; begun once more it finds them done. So there is one notion of what is up to
date: Snakemake's.
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from lowmag.publish import write_json

STAGES = ("inspect", "tissue", "tiles")  # rules with a job per slide
ROUNDS = "LOWMAG_CHUNK_ROUNDS"  # batches that this command has made so far
MOST_ROUNDS = 2
# In place of `-m`: the package need not be installed, and its folder must not be among those of modules.
MAKE = "import sys; sys.path.insert(0, sys.argv.pop(1)); from lowmag import chunks; chunks.make_batch()"


def write_batch(folder: Path, files: Mapping[str, Sequence[str]], size: int) -> str:
    """Name of a new batch in `folder`, the only one there: a list of files for every `size` slides."""
    shutil.rmtree(folder, ignore_errors=True)
    batch = f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    slides = list(files)
    for number, first in enumerate(range(0, len(slides), size)):
        wanted = [file for slide in slides[first : first + size] for file in files[slide]]
        write_json(folder / batch / f"{number:04d}.json", wanted)
    return batch


def lists(folder: Path) -> list[Path]:
    """The lists of a batch, one per chunk."""
    return sorted(folder.glob("*.json"))


def files_of(path: Path) -> list[str]:
    """The files of one list."""
    return json.loads(path.read_text(encoding="utf-8"))


def wait_for(files: Iterable[str], seconds: float) -> list[str]:
    """Those of the files that do not show within some seconds: network file systems tell late of new ones."""
    deadline, missing = time.monotonic() + seconds, list(files)
    while (missing := [file for file in missing if not Path(file).exists()]) and time.monotonic() < deadline:
        time.sleep(1)
    return missing


def rounds_so_far() -> int:
    """Batches that this command made before it was begun anew; cleared, for its jobs are not the command."""
    return int(os.environ.pop(ROUNDS, "0"))


def command() -> list[str] | None:
    """Arguments of the command `snakemake` that this process is; None of another program using Snakemake."""
    own = sys.orig_argv
    if own[1:3] == ["-m", "snakemake"]:
        return own[3:]
    return own[2:] if len(own) > 1 and Path(own[1]).name == "snakemake" else None


def begin_batch(batch: Path, rounds: int, folder: Path) -> NoReturn:
    """Put the making of a batch, and then this same command anew, in place of this process."""
    arguments = command()
    assert arguments is not None
    os.chdir(folder)
    os.environ[ROUNDS] = str(rounds + 1)
    package = str(Path(__file__).parents[1])
    _become([sys.executable, "-c", MAKE, package, str(batch), *arguments])


def make_batch() -> NoReturn:
    """Run Snakemake with a batch for its target, then begin the command anew; ends with 1 where it fails."""
    from snakemake.cli import args_to_api, parse_args

    batch, arguments = sys.argv[1], sys.argv[2:]
    folder, rounds = Path.cwd(), os.environ.pop(ROUNDS)
    parser, args = parse_args(arguments)
    args.targets = {f"{batch}.done"}
    args.forcerun = args.until = args.omit_from = args.prioritize = frozenset()
    args.force = args.forceall = False
    if not args_to_api(args, parser):
        sys.exit(1)
    os.chdir(args.directory or folder)
    wanted = [file for path in lists(Path(batch)) for file in files_of(path)]
    if missing := wait_for(wanted, args.latency_wait):
        print(
            f"{len(missing)} files of slides do not show, as {missing[0]}: see --latency-wait",
            file=sys.stderr,
        )
        sys.exit(1)
    os.chdir(folder)
    os.environ[ROUNDS] = rounds
    _become([sys.executable, "-m", "snakemake", *arguments])


def _become(command: list[str]) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(command[0], command)  # noqa: S606
