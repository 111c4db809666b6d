"""What the workflow says at its start and end: whether it can write, whether a slide was rejected."""

import csv
import os
import sys
import tempfile
from pathlib import Path

from lowmag.config import Config
from lowmag.errors import UserError
from lowmag.publish import FULL
from lowmag.recipe import Architecture, is_library

PROBE_BYTES = 1 << 20
MOST_BYTES_WITHOUT_TILES = 1 << 18  # of a tile file that holds none; larger ones need not be opened


def check_networks(config: Config) -> None:
    """Raise UserError unless networks of torchvision or timm are there and take the tiles they will be given.

    Found by passes of zeros, in seconds, before slides are cut for hours; without such networks at once.
    """
    if config.tiles.unit == "section":  # of no one size, and for networks written out here alone
        return
    sizes = dict.fromkeys((section, a.model, a.stride, px) for section, a, px in config.network_sizes())
    for section, model, stride, px in sizes:
        if not is_library(model):
            continue
        from lowmag.networks import build, map_cells  # torch

        plain = Architecture(model=model, stride=stride)
        try:
            map_cells(build(plain, 2, px), plain, px)
        except UserError as problem:
            raise UserError(f"{section}.model: {problem}") from problem
    _check_beginnings(config)


def _check_beginnings(config: Config) -> None:
    found = dict.fromkeys((a.model, a.stride, above, px) for a, above, px in config.beginnings())
    for model, stride, above, px in found:
        if not is_library(model) or above == px:
            continue
        from lowmag.models import take_over  # torch
        from lowmag.networks import build

        plain = Architecture(model=model, stride=stride)
        weights = build(plain, 2, above).state_dict()
        try:
            take_over(build(plain, 2, px), weights, f"of {model} for pictures of {above} px")
        except UserError as problem:
            raise UserError(f"students.initial, pictures of {px} px: {problem}") from problem


def problem_of_writing(results: Path) -> str:
    """What keeps the folder of results from being written to, and the cure; empty when nothing does.

    Snakemake itself tells of a read-only folder by a traceback, and of a full disk by empty logs: what its
    jobs have to say finds no room there either.
    """
    try:
        results.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=results) as file:
            file.write(bytes(PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        cure = (
            "make room there" if error.errno in FULL else "make it writable, or set outdir to another folder"
        )
        return f"{results} cannot be written to: {error.strerror}; {cure}, then run the same command again"
    return ""


def exit_on_bad_slides(results: Path) -> None:
    """End the process with status 1 after naming the slides rejected in a folder of results; else return.

    For the very end of the main process, where nothing else can set its status any more.
    """
    message = bad_slides(results)
    if message:
        print(message, file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(1)


def bad_slides(results: Path) -> str:
    """The slides rejected by `check.tsv` or while they were cut, with reason and cure, one per line.

    Empty if there are none, or no table.
    """
    check = results / "check.tsv"
    if not check.exists():
        return ""
    with check.open(encoding="utf-8", newline="") as file:
        rows = [row | _found_while_cut(results, row) for row in csv.DictReader(file, delimiter="\t")]
    bad = [row for row in rows if row["verdict"] != "ok"]
    lines = [f"  {row['slide_id']}: {row['verdict']}: {row['reason']}; {row['cure']}" for row in bad]
    return "\n".join([f"on_bad_slide is fail, and {len(bad)} slides were rejected:", *lines]) if bad else ""


def _found_while_cut(results: Path, row: dict[str, str]) -> dict[str, str]:
    """Verdict, reason and cure in the tile file of a slide that the check took for good, if there is one."""
    tiles = results / "tiles" / f"{row['slide_id']}.h5"
    if row["verdict"] != "ok" or not tiles.is_file() or tiles.stat().st_size > MOST_BYTES_WITHOUT_TILES:
        return {}
    from lowmag.store import TileFile  # h5py: only where there is something to look at

    try:
        with TileFile(tiles) as file:
            found = file.attributes
    except UserError:
        return {}  # not ours or not complete: it will be made again
    return {name: str(found[name]) for name in ("verdict", "reason", "cure") if name in found}
