import sys

import pytest
from lowmag import chunks
from lowmag.plan import Plan

SLIDES = {f"S{n:03d}": [f"tissue/S{n:03d}.png", f"tiles/S{n:03d}.h5"] for n in range(23)}


@pytest.mark.parametrize("size", [1, 5, 23, 50])
def test_lists_hold_every_file_once_in_order(tmp_path, size):
    batch = chunks.write_batch(tmp_path, SLIDES, size)
    lists = [chunks.files_of(path) for path in chunks.lists(tmp_path / batch)]
    assert [file for files in lists for file in files] == [
        file for files in SLIDES.values() for file in files
    ]
    assert all(0 < len(files) <= 2 * size for files in lists)
    assert len(lists) == -(-23 // size)


def test_ten_thousand_slides_are_hundreds_of_jobs(tmp_path):
    size = Plan({"slides": "demo"}).job("chunk").slides
    batch = chunks.write_batch(tmp_path, {str(n): [f"{n}.h5"] for n in range(10_000)}, size)
    assert 100 <= len(chunks.lists(tmp_path / batch)) < 1000


def test_marks_of_a_batch_before_are_no_marks_of_the_next(tmp_path):
    first = chunks.write_batch(tmp_path, SLIDES, 5)
    (tmp_path / first / "0000.done").touch()
    chunks.write_batch(tmp_path, SLIDES, 5)
    assert not list(tmp_path.rglob("*.done"))


def test_files_that_do_not_show_are_named(tmp_path):
    there, missing = tmp_path / "there", tmp_path / "missing"
    there.touch()
    assert chunks.wait_for([str(there), str(missing)], 0) == [str(missing)]


@pytest.mark.parametrize(
    ("started", "arguments"),
    [
        (["/usr/bin/python", "-m", "snakemake", "-n", "slides"], ["-n", "slides"]),
        (["/usr/bin/python3", "/opt/bin/snakemake", "--jobs", "3"], ["--jobs", "3"]),
        (["/usr/bin/python3", "own_program.py", "snakemake"], None),
        (["/usr/bin/python3"], None),
    ],
)
def test_only_the_command_snakemake_can_be_begun_anew(monkeypatch, started, arguments):
    monkeypatch.setattr(sys, "orig_argv", started)
    assert chunks.command() == arguments


def test_jobs_do_not_take_themselves_for_the_command(monkeypatch):
    monkeypatch.setenv(chunks.ROUNDS, "1")
    assert chunks.rounds_so_far() == 1
    assert chunks.rounds_so_far() == 0
