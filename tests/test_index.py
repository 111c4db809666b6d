"""Which files go together, and what a tile's own label says against its slide's."""

from pathlib import Path

import numpy as np
import pytest
from lowmag.errors import UserError
from lowmag.index import index_tiles
from lowmag.splits import read_splits
from lowmag.store import FLAGS, NO_LABEL, Layout, TileRow, writing
from synthetic_tiles import CLASSES, HIGH, LOW, PX, Cohort, make_cohort

LAYOUT = Layout([HIGH, LOW], PX)


def indexed(folder, **attributes):
    """The index of a cohort whose files say, one slide after the other, these values of attributes."""
    tiles, splits = make_cohort(folder)
    rows = read_splits(splits)
    for name, values in attributes.items():
        for row, value in zip(rows, values, strict=False):
            with writing(
                tiles / f"{row.slide_id}.h5", LAYOUT, {"slide_id": row.slide_id, name: value}
            ) as file:
                picture = {m: np.zeros((px, px, 3), np.uint8) for m, px in PX.items()}
                file.append(TileRow(0, 0, 0, 0, 1.0, picture))
    return index_tiles(tiles, rows, CLASSES)


def test_own_label_goes_before_the_slides_and_none_means_none(tmp_path):
    cohort = Cohort(
        train=("busy", ""), tile_labels={"train0": (0, -1, NO_LABEL), "train1": (1, -1, NO_LABEL)}
    )
    tiles, splits = make_cohort(tmp_path, cohort)
    rows = [row for row in read_splits(splits) if row.split == "train"]
    assert index_tiles(tiles, rows, CLASSES).labels.tolist() == [0, 1, -1, 1, -1, -1]


@pytest.mark.parametrize(("name", "bit"), FLAGS.items())
def test_only_what_cannot_be_read_is_left_out(tmp_path, name, bit):
    tiles, splits = make_cohort(tmp_path, Cohort(flags={"train0": (0, bit, 0, 0)}))
    index = index_tiles(tiles, read_splits(splits), CLASSES)
    assert np.flatnonzero(~index.usable).tolist() == ([1] if name == "read_error" else [])


@pytest.mark.parametrize(
    ("attribute", "values", "message"),
    [
        ("lowres_source", ("derived", "pyramid"), r"train1 were made with tiles\.lowres pyramid, .* derived"),
        ("icc", ("absent", "kept", "srgb"), r"train2 were made with tiles\.icc srgb, .* train1 with kept"),
        ("field_um", (64.0, 64.0, 32.0), r"train2 were made with tiles\.field_um 32, .* train0 with 64"),
    ],
)  # fmt: skip
def test_files_made_in_different_ways_are_refused(tmp_path, attribute, values, message):
    with pytest.raises(UserError, match=message):
        indexed(tmp_path, **{attribute: values})


def test_slides_without_a_profile_go_with_either(tmp_path):
    """`present` is how version 1 said that there is one."""
    indexed(tmp_path, icc=("absent", "srgb", "None", "srgb"))
    indexed(tmp_path, icc=("present", "kept", "absent"))


def test_sections_and_tiles_do_not_mix(tmp_path):
    tiles, splits = make_cohort(tmp_path)
    with writing(tiles / "train1.h5", Layout([HIGH, LOW], {}, unit="section"), {"slide_id": "train1"}):
        pass
    with pytest.raises(
        UserError, match=r"train1 were made with tiles\.unit section, those of train0 with tile"
    ):
        index_tiles(tiles, read_splits(splits), CLASSES)


def test_sections_have_their_own_sizes(tmp_path):
    tiles, splits = make_cohort(tmp_path, Cohort(train=("busy", "calm"), sections=[(64, 96), (100, 48)]))
    index = index_tiles(tiles, [row for row in read_splits(splits) if row.split == "train"], CLASSES)
    assert (index.unit, index.tile_px) == ("section", {HIGH: 0, LOW: 0})
    assert index.size_at(LOW).tolist() == [[16, 24], [25, 12]] * 2
    assert index.size_at(HIGH, np.array([1])).tolist() == [[100, 48]]
    other, splits = make_cohort(tmp_path / "b", Cohort(train=("busy", "calm"), sections=[(64, 96), (96, 48)]))
    rows = [row for row in read_splits(splits) if row.split == "train"]
    assert index_tiles(other, rows, CLASSES).identity != index.identity


def test_index_takes_the_bytes_that_the_documentation_says(tmp_path):
    index = indexed(tmp_path)
    columns = [index.slide, index.row, index.labels, index.flags, *index.coords.T, *index.size.T]
    page = (Path(__file__).parents[1] / "docs/scale.md").read_text()
    assert f"| {sum(column.nbytes for column in columns) // index.n} bytes a tile (by the types" in page
