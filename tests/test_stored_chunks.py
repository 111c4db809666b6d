"""Chunks that unpack to more or less than they should: really written, and refused in little memory."""

import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from lowmag import hdf5
from lowmag.errors import UserError

GIGABYTE = 1 << 30
OPEN = """
import re, sys
from pathlib import Path
from lowmag.errors import UserError
from lowmag.hdf5 import open_hdf5
def peak_kb():  # of this program alone: what `resource` says begins with the peak of who started it
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
before = peak_kb()
try:
    with open_hdf5(sys.argv[1], "file", "-") as file:
        file["x"][:10]
    said = "read"
except UserError as error:
    said = str(error)
print((peak_kb() - before) // 1024, said)
"""
READ = OPEN.replace("from lowmag.hdf5 import open_hdf5", "import h5py").replace(
    'open_hdf5(sys.argv[1], "file", "-")', "h5py.File(sys.argv[1])"
)


@pytest.fixture(scope="module")
def bomb() -> bytes:
    """A megabyte that unpacks to a gigabyte."""
    packing = zlib.compressobj(9)
    packed = b"".join(packing.compress(bytes(1 << 20)) for _ in range(GIGABYTE >> 20)) + packing.flush()
    assert len(packed) < 1.1e6
    return packed


def written(path: Path, stored: bytes, mask: int = 0, n: int = 1000, **options) -> Path:
    """A file of one chunk of `n` bytes, whose stored bytes are these."""
    with h5py.File(path, "w") as file:
        values = file.create_dataset("x", (n,), "u1", chunks=(n,), **options)
        values.id.write_direct_chunk((0,), stored, filter_mask=mask)
    return path


def grown_mb(program: str, path: Path) -> tuple[int, str]:
    """Megabytes that a process needs to open a file and read ten values, and what it said."""
    end = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    grown, said = end.stdout.split(" ", 1)
    return int(grown), said.strip()


needs_linux = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="the kernel has no /proc/self/status"
)


@needs_linux
@pytest.mark.parametrize("declared", [1000, 1 << 20, 2 << 20])
def test_megabyte_that_unpacks_to_a_gigabyte_is_refused_in_little_memory(tmp_path, bomb, declared):
    path = written(tmp_path / "a.h5", bomb, n=declared, compression="gzip")
    assert path.stat().st_size < 1.1e6
    grown, said = grown_mb(OPEN, path)
    assert "has a chunk that does not hold its" in said
    assert grown < 32


@needs_linux
def test_hdf5_alone_would_have_taken_the_gigabyte(tmp_path, bomb):
    grown, said = grown_mb(READ, written(tmp_path / "a.h5", bomb, n=2 << 20, compression="gzip"))
    assert said == "read"
    assert grown > 900


def refused(path: Path, why: str) -> None:
    with pytest.raises(UserError, match=why):
        hdf5.open_hdf5(path, "file", "-")


@pytest.mark.parametrize(
    ("stored", "mask", "options"),
    [
        (zlib.compress(b"abc"), 0, {"compression": "gzip"}),
        (zlib.compress(bytes(1001)), 0, {"compression": "gzip"}),
        (zlib.compress(bytes(1000))[:-6], 0, {"compression": "gzip"}),
        (b"rubbish" * 20, 0, {"compression": "gzip"}),
        (b"abc", 1, {"compression": "gzip"}),
        (b"abc", 0, {}),
        (bytes(1001), 0, {}),
    ],
    ids=["short", "long", "cut", "rubbish", "short, unpacked by its mask", "short, plain", "long, plain"],
)
def test_chunk_of_another_size_than_declared_is_refused(tmp_path, stored, mask, options):
    refused(written(tmp_path / "a.h5", stored, mask, **options), "a chunk that does not hold its 1000 bytes")


def packed_by(path: Path, *filters: int) -> Path:
    """A file whose values are packed by filters, by their numbers, in an order that h5py does not make."""
    with h5py.File(path, "w") as file:
        plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plan.set_chunk((1000,))
        for number in filters:
            plan.set_filter(number, h5py.h5z.FLAG_OPTIONAL, (4,))
        space = h5py.h5s.create_simple((1000,))
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_UINT8, space, dcpl=plan)
    return path


@pytest.mark.parametrize("filters", [(1, 1), (1, 2), (1, 1, 1), (32000,), (307,), (3, 1)])
def test_several_packings_and_filters_of_others_are_refused(tmp_path, filters):
    refused(packed_by(tmp_path / "a.h5", *filters), "is packed by the filters")


@pytest.mark.parametrize("packing", ["lzf", "scaleoffset"])
def test_packings_that_are_not_looked_into_are_refused(tmp_path, packing):
    options = {"compression": "lzf"} if packing == "lzf" else {"scaleoffset": 0}
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", data=np.arange(1000), **options)
    refused(tmp_path / "a.h5", f"is packed by the filters {'32000' if packing == 'lzf' else '6'};")


@pytest.mark.parametrize("n", [300_000_000, 70_000_000])
def test_packed_values_beyond_what_is_sane_are_refused(tmp_path, n):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (n,), "u1", chunks=(1 << 20,), compression="gzip")
    refused(tmp_path / "a.h5", r"claims \d+ bytes in a file of \d+;")


@pytest.mark.parametrize("libver", ["earliest", "latest"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("fletcher32", [False, True])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_honest_chunks_are_read(tmp_path, libver, shuffle, fletcher32, compression):
    values = np.random.default_rng(0).integers(0, 9, (1037, 2))
    options = {"shuffle": shuffle, "fletcher32": fletcher32, "compression": compression}
    with h5py.File(tmp_path / "a.h5", "w", libver=libver) as file:
        file.create_dataset("coords", data=values, chunks=(100, 2), **options)
        file.create_dataset("growing", data=values, maxshape=(None, 2), **options)
        file.create_dataset("none", (0, 2), "i8", chunks=(100, 2), maxshape=(None, 2), **options)
        file.create_dataset("sparse", (1000, 2), "i8", chunks=(100, 2), **options)[500] = 1
    with hdf5.open_hdf5(tmp_path / "a.h5", "file", "-") as file:
        assert (file["coords"][()] == values).all()
        assert (file["growing"][()] == values).all()
        assert file["sparse"][()].sum() == 2


@pytest.mark.parametrize("size", [3, 1001])
def test_own_files_are_compared_in_sum(tmp_path, size):
    path = written(tmp_path / "a.h5", bytes(size))
    with pytest.raises(UserError, match="a chunk that does not hold its 1000 bytes"):
        hdf5.open_hdf5(path, "file", "-", is_own=True)
