"""How much damage to JPEG tiles ends in wrong tiles without a flag: by length and by reader.

python benchmarks/fuzz.py [--quick]
"""

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from damage import Case, Damage, run
from synthetic_slides import REAL_SLIDES
from test_fuzz import SURE_BYTES, Run, write_real, write_svs, wrong_places

ZEROES = (1, 4, 16, 32, 64, 128, 512)
MOST = 0.0


def main() -> None:
    """Print the share of wrong outcomes by reader and kind of damage; none may come of SURE_BYTES zeroes."""
    n = 5 if "--quick" in sys.argv[1:] else 60
    writers = {"svs": write_svs} | ({"real": write_real} if REAL_SLIDES.is_dir() else {})
    sure = []
    for name, write in writers.items():
        for reader in ("segments", "openslide"):
            with tempfile.TemporaryDirectory() as folder:
                found = wrong_shares(Path(folder), write, reader, n)
            print(f"{name} by {reader}: " + ", ".join(f"{kind} {share:.0%}" for kind, share in found.items()))
            if reader == "segments":
                sure += [found[f"{length} zeroes"] for length in ZEROES if length >= SURE_BYTES]
    print(f"fuzz_wrong_of_long {max(sure):.3f} {MOST:.3f} {'ok' if max(sure) <= MOST else 'short'}")


def wrong_shares(folder: Path, write, reader: str, n: int) -> dict[str, float]:
    """By kind of damage the share of `n` damaged slides that have a wrong tile without a flag."""
    path = folder / "a.tif"
    write(path)
    kinds = {"1 bit": ("flip", 1)} | {f"{length} zeroes": ("zero", length) for length in ZEROES}
    random = np.random.default_rng(0)
    size = path.stat().st_size
    places = {
        kind: [Damage(what, int(random.integers(size - length)), length) for _ in range(n)]
        for kind, (what, length) in kinds.items()
    }
    return {kind: _wrong_share(folder, path, found, reader) for kind, found in places.items()}


def _wrong_share(folder: Path, path: Path, places: Sequence[Damage], reader: str) -> float:
    whole, *found = run(folder, [Case(str(path), place, reader) for place in (None, *places)])
    one = Run(path, list(places), whole, found)
    return sum(bool(wrong_places(one, result)) for result in found) / len(found)


if __name__ == "__main__":
    main()
