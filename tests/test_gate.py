import numpy as np
from lowmag import gate
from lowmag.store import Layout, TileRow, writing

HEADER = "slide_id\tverdict\treason\tcure\n"


def test_bad_slides_are_named_with_their_cure(tmp_path):
    table = tmp_path / "check.tsv"
    table.write_text(HEADER + "A\tok\t\t\nB\tno_mpp\tnone stated\tfill in mpp\n")
    message = gate.bad_slides(tmp_path)
    assert "1 slides were rejected" in message
    assert "B: no_mpp: none stated; fill in mpp" in message
    assert "A:" not in message


def test_good_cohort_and_missing_table_say_nothing(tmp_path):
    table = tmp_path / "check.tsv"
    assert gate.bad_slides(tmp_path) == ""
    table.write_text(HEADER + "A\tok\t\t\n")
    assert gate.bad_slides(tmp_path) == ""


def write_tile_file(path, verdict, n_tiles, edge=64):
    picture = np.random.default_rng(0).integers(0, 256, (edge, edge, 3)).astype(np.uint8)
    attributes = {"slide_id": path.stem, "verdict": verdict, "reason": "2 of 9 fields", "cure": "copy again"}
    with writing(path, Layout([10.0], {10.0: edge}), attributes) as writer:
        for n in range(n_tiles):
            writer.append(TileRow(edge * n, 0, 0, n, 1.0, {10.0: picture}))


def test_slide_found_unreadable_while_cut_is_named(tmp_path):
    """The check reads a few places; only the tile file knows of the others."""
    (tmp_path / "check.tsv").write_text(HEADER + "".join(f"{name}\tok\t\t\n" for name in "ABCD"))
    write_tile_file(tmp_path / "tiles/A.h5", "ok", 3)
    write_tile_file(tmp_path / "tiles/B.h5", "unreadable", 0)
    write_tile_file(tmp_path / "tiles/C.h5", "ok", 0)  # no tissue
    assert (tmp_path / "tiles/B.h5").stat().st_size < gate.MOST_BYTES_WITHOUT_TILES / 4
    assert gate.bad_slides(tmp_path).splitlines() == [
        "on_bad_slide is fail, and 1 slides were rejected:",
        "  B: unreadable: 2 of 9 fields; copy again",
    ]
    (tmp_path / "tiles/B.h5").write_bytes(b"half a file")
    assert gate.bad_slides(tmp_path) == ""


def test_folder_that_can_be_written_to_is_made_and_left_as_it_was(tmp_path):
    assert gate.problem_of_writing(tmp_path / "results") == ""
    assert list((tmp_path / "results").iterdir()) == []


def test_folder_that_cannot_be_written_to_is_named_with_the_cure(tmp_path):
    (tmp_path / "file").touch()
    problem = gate.problem_of_writing(tmp_path / "file/results")
    assert problem.startswith(
        f"{tmp_path}/file/results cannot be written to: Not a directory; make it writable"
    )
