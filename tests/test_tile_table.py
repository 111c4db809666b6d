import csv

import numpy as np
import pytest
from lowmag import tile_table
from lowmag.errors import UserError
from lowmag.store import Layout, TileRow, writing

PX = 16


def write_tile_file(path, n_tiles, **attributes):
    found = {"slide_id": path.stem, "verdict": "ok", "reason": "", "cure": ""} | attributes
    with writing(path, Layout([10.0], {10.0: PX}), found) as writer:
        for n in range(n_tiles):
            writer.append(TileRow(PX * n, 0, 0, n, 1.0, {10.0: np.zeros((PX, PX, 3), np.uint8)}))


def test_every_file_has_its_row(tmp_path):
    write_tile_file(tmp_path / "A.h5", 3)
    write_tile_file(tmp_path / "B.h5", 0, verdict="unreadable", reason="2 of 9\tfields", cure="copy again")
    out = tmp_path / "tiles.tsv"
    tile_table.write_table(out, tmp_path, ["B", "A", "A"])
    with out.open(newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    assert [(row["slide_id"], row["n_tiles"]) for row in rows] == [("B", "0"), ("A", "3")]
    assert int(rows[1]["bytes"]) == (tmp_path / "A.h5").stat().st_size
    rejected = {"verdict": "unreadable", "reason": "2 of 9\tfields", "cure": "copy again"}
    assert tile_table.read_verdicts(out) == {"B": rejected}
    assert tile_table.read_verdicts(tmp_path / "none.tsv") == {}


def test_half_a_file_is_not_listed(tmp_path):
    write_tile_file(tmp_path / "A.h5", 3)
    (tmp_path / "A.h5").write_bytes((tmp_path / "A.h5").read_bytes()[:600])
    with pytest.raises(UserError, match=r"A\.h5: the file cannot be opened as HDF5"):
        tile_table.write_table(tmp_path / "tiles.tsv", tmp_path, ["A"])
    assert not (tmp_path / "tiles.tsv").exists()


def test_a_file_made_anew_changes_the_table_though_its_size_is_the_same(tmp_path):
    """Snakemake compares a small table by content: without a change there nothing would be trained again."""
    out, tables = tmp_path / "tiles.tsv", []
    for label in (0, 1):
        write_tile_file(tmp_path / "A.h5", 3, note=str(label))
        tile_table.write_table(out, tmp_path, ["A"])
        tables.append(out.read_text())
    sizes = [table.splitlines()[1].split("\t")[2] for table in tables]
    assert sizes[0] == sizes[1]
    assert tables[0] != tables[1]
