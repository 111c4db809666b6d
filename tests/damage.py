"""Damaged copies of small slides, and what the stages make of each, in processes of their own.

As a program it goes through many of them, so that imports cost nothing; `run` starts it again behind a file
on which it crashed or hung: `python damage.py CASES.json RESULTS.jsonl DONE`.
"""

import hashlib
import json
import logging
import signal
import subprocess
import sys
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from lowmag import check, publish, tiles, tissue
from lowmag.errors import UserError
from lowmag.sections import Check, Tiles, Tissue
from lowmag.store import TileFile

FIELD_UM = 32
PATIENCE_S = 20
KINDS = ("truncate", "flip", "zero")
MADE = ("record.json", "outline.geojson", "overlay.png", "tiles.h5")


@dataclass(frozen=True)
class Damage:
    """What is done to a file: `kind`, the first byte it hits and the number of bytes."""

    kind: str
    start: int
    length: int

    def apply(self, content: bytes) -> bytes:
        if self.kind == "truncate":
            return content[: self.start]
        hit = np.frombuffer(content, np.uint8).copy()
        part = hit[self.start : self.start + self.length]
        part[:] = part ^ (1 << self.start % 8) if self.kind == "flip" else 0
        return hit.tobytes()


@dataclass(frozen=True)
class Case:
    """One file to go through the stages: damaged or whole, by the reader that inspection finds or another."""

    file: str
    damage: Damage | None = None
    reader: str | None = None


def damages(size: int, n: int, seed: int) -> list[Damage]:
    """`n` places of a file of `size` bytes, fixed by the seed; a third of each kind, 1 to 1024 zeroes."""
    random = np.random.default_rng(seed)
    lengths = {"truncate": lambda: 0, "flip": lambda: 1, "zero": lambda: int(2 ** random.uniform(0, 10))}
    kinds = [KINDS[number % len(KINDS)] for number in range(n)]
    return [Damage(kind, int(random.integers(size)), lengths[kind]()) for kind in kinds]


def run(folder: Path, cases: list[Case]) -> list[dict]:
    """What became of every case, in order; `signal` says what the process died of (14: it hung)."""
    (folder / "cases.json").write_text(json.dumps([asdict(case) for case in cases]))
    results = folder / "results.jsonl"
    results.write_text("")
    while (done := len(results.read_text().splitlines())) < len(cases):
        command = [sys.executable, __file__, folder / "cases.json", results, str(done)]
        died = subprocess.run(command, check=False).returncode
        if died:
            with results.open("a") as lines:
                lines.write(json.dumps({"signal": -died}) + "\n")
    return [json.loads(line) for line in results.read_text().splitlines()]


def stages(slide: Path, folder: Path, reader: str | None) -> dict:
    """Verdict and reason of a slide, and of every tile, by place, its flags and digests of its pictures."""
    record, outline, overlay, out = (folder / name for name in MADE)
    check.write_record(record, check.SlideToCheck("S", slide), 10.0, Check())
    content = json.loads(record.read_text())
    if reader and content["verdict"] == "ok":
        record.write_text(json.dumps(content | {"source": reader}))
    tissue.write_outline(record, outline, overlay, Tissue(min_piece_um=100))
    tiles.write_tiles(record, outline, out, Tiles(field_um=FIELD_UM, students=[5]))
    with TileFile(out) as file:
        pictures = [file.read_all(m) for m in file.magnifications]
        places, flags = file.column("coords").tolist(), file.column("flags").tolist()
        found = {
            f"{x},{y}": [flag, *(hashlib.sha1(p[n].tobytes()).hexdigest() for p in pictures)]
            for n, ((x, y), flag) in enumerate(zip(places, flags, strict=True))
        }
        said = {name: file.attributes[name] for name in ("verdict", "reason", "cure")}
    mpp = [content["mpp_x"], content["mpp_y"]]
    return {**said, "tiles": found, "mpp": mpp, "reader": reader or content["source"]}


def _run_case(case: Case, folder: Path) -> dict:
    """The outcome of one case; a refusal by UserError, and the trace of any other error."""
    source = Path(case.file)
    slide = folder / f"slide{source.suffix}"
    content = source.read_bytes()
    slide.write_bytes(case.damage.apply(content) if case.damage else content)
    for name in MADE:
        (folder / name).unlink(missing_ok=True)
    signal.alarm(PATIENCE_S)
    try:
        found = stages(slide, folder, case.reader)
    except UserError as error:
        found = {"refused": str(error)}
    except Exception:
        found = {"trace": traceback.format_exc()}
    signal.alarm(0)
    return found | {"hidden": [path.name for path in folder.iterdir() if path.name.startswith(".")]}


def main(cases: Path, results: Path, done: int) -> None:
    """Append the outcomes of the cases from number `done` on."""
    publish._fsync = lambda _: None  # power is not cut here
    logging.disable(logging.CRITICAL)
    work = results.parent / "work"
    work.mkdir(exist_ok=True)
    for case in json.loads(cases.read_text())[done:]:
        damage = Damage(**case["damage"]) if case["damage"] else None
        found = _run_case(Case(case["file"], damage, case["reader"]), work)
        with results.open("a") as lines:
            lines.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
