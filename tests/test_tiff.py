import itertools
import struct
import time
import tracemalloc

import pytest
import tifffile
from lowmag import tiff
from lowmag.record import RejectedError
from lowmag.tiff import every_directory, open_tiff, referenced_end
from synthetic_slides import noise
from synthetic_tiffs import Form, smooth, write_jpeg_tiff


@pytest.mark.parametrize(("order", "big"), [*itertools.product("<>", (False, True))])
def test_directories_are_read_in_both_orders_and_sizes(tmp_path, order, big):
    path = tmp_path / "a.tif"
    levels = [smooth(300, 280), smooth(75, 70)]
    write_jpeg_tiff(path, levels, Form(order=order, big=big, tables=True, mpp=0.25, description="words"))
    with open_tiff(path) as file, tifffile.TiffFile(path) as expected:
        assert [directory.size for directory in file.directories] == [(280, 300), (70, 75)]
        for directory, page in zip(file.directories, expected.pages, strict=True):
            assert directory.numbers(tiff.TILE_OFFSETS).tolist() == list(page.dataoffsets)
            assert directory.numbers(tiff.TILE_COUNTS).tolist() == list(page.databytecounts)
            assert directory.numbers(tiff.BITS).tolist() == [8, 8, 8]
            assert directory.content(tiff.JPEG_TABLES) == page.jpegtables
            assert directory.text(tiff.DESCRIPTION) == "words"
            assert directory.ratio(tiff.X_RESOLUTION) == 40_000
        assert file.directories[0].number(tiff.EXTRA_SAMPLES, 7) == 7
    assert referenced_end(path) == path.stat().st_size


def test_directories_below_a_page_are_found(tmp_path):
    path = tmp_path / "a.tif"
    with tifffile.TiffWriter(path) as file:
        file.write(noise(64, 64), subifds=2, photometric="rgb")
        file.write(noise(32, 32), subfiletype=1, photometric="rgb")
        file.write(noise(16, 16), subfiletype=1, photometric="rgb")
        file.write(noise(8, 8), photometric="rgb")
    with open_tiff(path) as file:
        assert [directory.size for directory in file.directories] == [(64, 64), (8, 8)]
        assert [directory.size[0] for directory in every_directory(file)] == [64, 32, 16, 8]


def test_what_is_no_tiff_is_none(tmp_path):
    (tmp_path / "a").write_bytes(b"\x89PNG")
    assert open_tiff(tmp_path / "a") is None
    assert referenced_end(tmp_path / "a") is None


def write_overlapping(path, n_directories: int, n_tags: int):
    """A TIFF whose directories each begin one entry behind the last, so that all share their bytes."""
    first = 26 + 4 * n_directories
    below = struct.pack(f"<{n_directories}I", *(first + 12 * n for n in range(n_directories)))
    entries = (
        struct.pack("<HHHIH", n_tags, number % 65_536, 99, 0, 0) for number in range(n_tags + n_directories)
    )
    top = struct.pack("<HHHIII", 1, tiff.SUB_DIRECTORIES, 4, n_directories, 26, 0)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + top + below + b"".join(entries) + bytes(64))


def test_directories_that_overlap_are_given_no_more_memory_than_any(tmp_path):
    write_overlapping(tmp_path / "a.tif", 40, 60_000)
    tracemalloc.start()
    with open_tiff(tmp_path / "a.tif") as file:
        n_tags = sum(len(directory.tags) for directory in every_directory(file))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 60_000 < n_tags <= tiff.MOST_TAGS
    assert peak < 64 << 20


def write_sharing(path, n_directories, tags, n_bytes, value=0):
    """Directories one after another whose tags, (tag, type, count), all have the same values of 4 bytes."""
    first, size = 8 + n_bytes, 2 + len(tags) * 12 + 4
    content = [b"II*\0", struct.pack("<I", first), struct.pack("<I", value) * (n_bytes // 4)]
    entries = b"".join(struct.pack("<HHII", *tag, 8) for tag in tags)
    for number in range(1, n_directories + 1):
        following = first + number * size if number < n_directories else 0
        content += [struct.pack("<H", len(tags)), entries, struct.pack("<I", following)]
    path.write_bytes(b"".join(content))


@pytest.mark.parametrize(
    "tags",
    [
        [(tiff.TILE_OFFSETS, 4, 1 << 22), (tiff.TILE_COUNTS, 4, 1 << 22)],
        [(tiff.TILE_OFFSETS, 1, tiff.MOST_VALUES + 1), (tiff.TILE_COUNTS, 1, tiff.MOST_VALUES + 1)],
        [(tiff.TILE_OFFSETS, 4, 10), (tiff.TILE_COUNTS, 4, 1 << 22)],
        [(270, 2, 1 << 24)],
        [(tiff.ICC_PROFILE, 7, 1 << 24)],
    ],
    ids=["tables", "long tables", "lengths", "texts", "profiles"],
)
def test_values_that_many_directories_share_are_refused_in_time(tmp_path, tags):
    write_sharing(tmp_path / "a.tif", 10_000, tags, (1 << 24) + 4)
    began = time.process_time()
    with pytest.raises(
        RejectedError, match=r"directories of a\.tif name \d+ MB of values, in a file of 16 MB"
    ):
        referenced_end(tmp_path / "a.tif")
    assert time.process_time() - began < 10
    write_sharing(tmp_path / "a.tif", 2, tags, (1 << 24) + 4)
    assert referenced_end(tmp_path / "a.tif") == (tmp_path / "a.tif").stat().st_size


def test_directories_below_that_many_share_are_refused_in_time(tmp_path):
    n_bytes = 1 << 24
    tags = [(tiff.SUB_DIRECTORIES, 4, n_bytes // 4)]
    write_sharing(tmp_path / "a.tif", 10_000, tags, n_bytes, value=8 + n_bytes)  # all are the first one
    began = time.process_time()
    with pytest.raises(RejectedError, match="MB of values"):
        referenced_end(tmp_path / "a.tif")
    assert time.process_time() - began < 5


def head(offset, entries=b"", n=0):
    """A little-endian file whose first directory at 8 has `n` entries."""
    return b"II*\0" + struct.pack("<I", offset) + struct.pack("<H", n) + entries + bytes(4)


@pytest.mark.parametrize(
    "content",
    [
        b"II*\0",
        head(8),
        head(1 << 31),
        head(8, struct.pack("<HHII", 324, 4, 0xFFFFFFFF, 8), 1),  # four thousand million offsets
        head(8, struct.pack("<HHII", 324, 99, 1, 8), 1),  # a type that does not exist
        head(8, struct.pack("<HHII", 330, 4, 1, 8), 1),  # below itself
        head(8, struct.pack("<HHII", 282, 5, 1, 8), 1)[:-4] + struct.pack("<I", 8),  # followed by itself
        head(8, b"", 65535),
    ],
)
def test_nonsense_ends(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with open_tiff(path) as file:
        assert len(every_directory(file)) <= 2
        for directory in every_directory(file):
            assert directory.numbers(tiff.TILE_OFFSETS).size == 0
            assert directory.size == (0, 0)
    assert isinstance(referenced_end(path), int)
