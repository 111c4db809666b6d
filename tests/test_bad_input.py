"""Ways in which real slides go wrong, from the file to the tiles: those that no other test goes through.

The list of all of them, and where each is tested, is in docs/inputs.md.
"""

import fcntl
import json
import re
import struct
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import openslide
import pytest
import tifffile
import yaml
from lowmag import check, tiles, tissue
from lowmag.record import load_record
from lowmag.sections import Check, Tiles, Tissue
from lowmag.store import FLAGS, TileFile
from synthetic_slides import noise, reduced, spoil_tile, write_record, write_slide, write_whole_outline

REPOSITORY = Path(__file__).parents[1]
OPTIONS = Tiles(field_um=64, students=[5, 2.5])
PINK = (205, 130, 185)


def cut(folder, path, outline=None, options=OPTIONS):
    """The path of the tile file that inspect, tissue (or the whole slide) and tiles make of a slide."""
    record = write_record(folder, path)
    tiles.write_tiles(record, outline or write_whole_outline(folder, record), folder / "t.h5", options)
    return folder / "t.h5"


def write_transparent(path, kind):
    """A pink square of 256 px in 512 px of transparent black; the extra sample as `kind`."""
    picture = np.zeros((512, 512, 4), np.uint8)
    picture[128:384, 128:384] = (*PINK, 255)
    tifffile.imwrite(
        path, picture, tile=(64, 64), photometric="rgb", extrasamples=[kind], compression="zlib",
        resolution=(1e4, 1e4), resolutionunit="CENTIMETER", metadata=None,
    )  # fmt: skip
    return path


@pytest.mark.parametrize("kind", ["unassalpha", "assocalpha"])
def test_transparent_black_is_white_and_no_tissue(tmp_path, kind):
    record = write_record(tmp_path, write_transparent(tmp_path / "a.tiff", kind))
    options = Tissue(mpp=4, min_piece_um=50)
    tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", options)
    tiles.write_tiles(record, tmp_path / "o.geojson", tmp_path / "t.h5", OPTIONS)
    with TileFile(tmp_path / "t.h5") as file:
        assert file.column("coords").min() == 128
        assert file.column("coords").max() == 128 + 256 - 64
        assert not (file.column("flags") & FLAGS["transparent"]).any()
        assert np.abs(file.read_all(2.5).astype(int) - PINK).max() <= 1


def test_half_transparent_tile_is_laid_on_white_and_flagged(tmp_path):
    """Fields of 128 px: a quarter of each corner one is pink."""
    path = write_transparent(tmp_path / "a.tiff", "unassalpha")
    with TileFile(cut(tmp_path, path, options=Tiles(field_um=192, students=[5]))) as file:
        corner = file.read(5, 0).astype(int)
        assert np.abs(corner[:60, :60] - 255).max() <= 1
        assert np.abs(corner[68:, 68:] - PINK).max() <= 1
        assert file.column("flags")[0] & FLAGS["transparent"]


def empty_tile(path, index):
    """Make a TIFF sparse: a tile with neither offset nor bytes, as Philips and others write."""
    with tifffile.TiffFile(path) as file:
        places = [file.pages[0].tags[number] for number in (324, 325)]
        order = file.byteorder
    with open(path, "r+b") as file:
        for tag in places:
            width = {3: 2, 4: 4, 16: 8}[tag.dtype]
            file.seek(tag.valueoffset + index * width)
            file.write(struct.pack(f"{order}{width}x"))


def test_missing_tiles_of_a_sparse_slide_are_background_and_flagged(tmp_path):
    picture = noise(256, 256)
    path = write_slide(tmp_path / "a.tiff", picture, 1.0)
    empty_tile(path, 5)
    with TileFile(cut(tmp_path, path)) as file:
        flags = file.column("flags")
        assert file.attributes["verdict"] == "ok"
        assert np.flatnonzero(flags & FLAGS["transparent"]).tolist() == [5]
        assert not (flags & FLAGS["read_error"]).any()
        assert file.read(5, 5).min() == 255
        x, y = file.column("coords")[6]
        np.testing.assert_array_equal(file.read(5, 6), reduced(picture[y : y + 64, x : x + 64], 2))


def test_part_that_was_scanned_is_cut_and_the_rest_is_not(tmp_path):
    """MRXS states bounds within a far larger level 0; no such file is at hand, so the record is told them."""
    picture = noise(700, 600)
    record = write_record(tmp_path, write_slide(tmp_path / "a.tiff", picture, 1.0))
    content = json.loads(record.read_text()) | {"bounds": [100, 200, 300, 400]}
    record.write_text(json.dumps(content))
    tiles.write_tiles(record, write_whole_outline(tmp_path, record), tmp_path / "t.h5", OPTIONS)
    with TileFile(tmp_path / "t.h5") as file:
        coords = file.column("coords")
        assert file.attributes["bounds"].tolist() == [100, 200, 300, 400]
        assert (coords.min(axis=0) >= (100, 200)).all()
        assert (coords.max(axis=0) + 64 <= (400, 600)).all()
        x, y = coords[0]
        np.testing.assert_array_equal(file.read(5, 0), reduced(picture[y : y + 64, x : x + 64], 2))


def test_label_and_macro_pictures_are_never_read(tmp_path, monkeypatch):
    """They show names. Neither the commands touch them nor does any module know the word."""

    def refuse(_):
        raise AssertionError("associated images were read")

    monkeypatch.setattr(openslide.OpenSlide, "associated_images", property(refuse))
    assert TileFile(cut(tmp_path, write_slide(tmp_path / "a.tiff", noise(128, 128), 1.0))).n == 4
    for module in (REPOSITORY / "workflow/lowmag").glob("*.py"):
        assert ".associated_images" not in module.read_text(), module.name


def test_tags_with_names_do_not_come_into_what_is_written(tmp_path):
    path = tmp_path / "a.tiff"
    tifffile.imwrite(
        path, noise(128, 128), tile=(64, 64), photometric="rgb", description="Jane Doe", software="Jane Doe",
        extratags=[(315, 2, 9, "Jane Doe", True)], resolution=(1e4, 1e4), resolutionunit="CENTIMETER",
    )  # fmt: skip
    out = cut(tmp_path, path)
    assert b"Jane" not in out.read_bytes()
    assert "Jane" not in (tmp_path / "S1.json").read_text()


LOCKING = """
import fcntl, sys
with open(sys.argv[1]) as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    print(flush=True)
    sys.stdin.read()
"""


def test_tile_file_locked_by_another_process_is_read(tmp_path):
    """As on network file systems whose locks fail or hang; HDF5 by itself refuses."""
    out = cut(tmp_path, write_slide(tmp_path / "a.tiff", noise(128, 128), 1.0))
    command = [sys.executable, "-c", LOCKING, str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        with open(out) as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(OSError, match="lock"):
            h5py.File(out, "r", locking=True)
        with TileFile(out) as file:
            assert file.n == 4
        other.stdin.close()


def test_slide_without_a_coarse_level_is_cut_in_bounded_memory(tmp_path):
    """One level of 151 MB as OpenSlide gives it: the thumbnail is made in blocks, and of 453 MB likewise."""
    path = tmp_path / "flat.tiff"
    row = np.zeros((256, 256, 3), np.uint8)
    tifffile.imwrite(
        path, (row for _ in range(24 * 24)), shape=(6144, 6144, 3), dtype=np.uint8, tile=(256, 256),
        photometric="rgb", compression="zlib", resolution=(1e4, 1e4), resolutionunit="CENTIMETER",
    )  # fmt: skip
    record = write_record(tmp_path, path)
    code = (
        "import resource, sys; from lowmag import cli; cli.build_parser(); import lowmag.tissue;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "cli.main(sys.argv[1:]); print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [
        "tissue",
        "--record",
        record,
        "--outline",
        tmp_path / "o.geojson",
        "--overlay",
        tmp_path / "o.png",
    ]
    end = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, check=True)
    assert int(end.stdout) < 135_000  # kilobytes


def test_cluster_waits_for_slow_network_folders():
    profile = yaml.safe_load((REPOSITORY / "profiles/slurm/profile.yaml").read_text())
    assert profile["latency-wait"] >= 60
    assert profile["rerun-incomplete"] is True


def test_damage_in_tissue_is_flagged_and_not_taken_for_glass(tmp_path, caplog):
    """A block that no level gives would be white in the thumbnail, and its tiles missing without a word."""
    picture = np.full((1024, 1024, 3), 245, np.uint8)
    picture[128:896, 128:896] = np.clip(np.array(PINK) + noise(768, 768) // 8 - 16.0, 0, 255)
    path = write_slide(tmp_path / "a.tiff", picture, 1.0)
    record = write_record(tmp_path, path)
    spoil_tile(path, level=0, index=5 * 16 + 5)
    tissue.write_outline(record, tmp_path / "o.geojson", tmp_path / "o.png", Tissue(mpp=4, max_hole_um=0))
    tiles.write_tiles(record, tmp_path / "o.geojson", tmp_path / "t.h5", OPTIONS)
    with TileFile(tmp_path / "t.h5") as file:
        assert file.n == 12 * 12
        (hit,) = np.flatnonzero(file.column("flags") & FLAGS["read_error"])
        assert file.column("coords")[hit].tolist() == [320, 320]
    assert "of the scan cannot be read and counts as tissue" in caplog.text


@pytest.mark.parametrize("name", ["a.svs", "a.ndpi", "a.mrxs", "a.dcm", "a.scn", "a.bif", "a.tiff", "a.czi"])
@pytest.mark.parametrize(
    "content", [b"\0" * 1000, b"II*\0", b"II*\0\x08\0\0\0\xff\xff", b"MM\0*" + b"\xff" * 100]
)
def test_rubbish_of_any_name_has_a_verdict(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    record = check.inspect(check.SlideToCheck("S1", tmp_path / name), 10.0, Check())
    assert record.verdict in ("unsupported", "truncated", "unreadable")
    assert record.reason
    assert record.cure


def test_replaced_slide_is_not_cut_by_the_record_of_another(tmp_path):
    """Between inspection and cutting: the size is compared, and the message says what to do."""
    path = write_slide(tmp_path / "a.tiff", noise(128, 128), 1.0)
    record = write_record(tmp_path, path)
    outline = write_whole_outline(tmp_path, record)
    write_slide(path, noise(192, 128), 1.0)
    command = ["tiles", "--record", record, "--outline", outline, "--out", tmp_path / "t.h5"]
    end = subprocess.run(
        [sys.executable, "-m", "lowmag.cli", *command], capture_output=True, text=True, check=False
    )
    assert end.returncode == 2
    assert "the file was replaced: inspect it again" in end.stderr
    assert not (tmp_path / "t.h5").exists()
    assert load_record(record).usable


def test_list_of_failures_names_tests_that_exist():
    """docs/inputs.md has a row for each of the 34, and whatever it says is tested is."""
    section = (REPOSITORY / "docs/inputs.md").read_text().split("## What goes wrong with real slides")[1]
    rows = re.findall(r"^\| (\d+) \|.*\| (.+) \|$", section, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, 35))
    for number, tested in rows:
        named = re.findall(r"`(test_\w+)(?:::(test_\w+))?`", tested)
        assert named or tested in ("by design", "not done") or "untested" in tested, number
        for module, test in named:
            content = (REPOSITORY / f"tests/{module}.py").read_text()
            assert not test or f"def {test}(" in content, (number, test)
