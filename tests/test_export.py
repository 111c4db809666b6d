"""What other programs find in our exports, read by their own rules written out here."""

import gzip
import json

import h5py
import numpy as np
import pyarrow.parquet
import pytest
import shapely
from lowmag import cli, tiles
from lowmag.annotations import read_annotations
from lowmag.errors import UserError
from lowmag.exchange import read_coords
from lowmag.export import write_clam, write_table, write_trident
from lowmag.qupath_export import write_geojson
from lowmag.record import Level, SlideRecord, load_record
from lowmag.sections import Tiles
from lowmag.store import FLAGS, NO_LABEL, QC_COLUMNS, Layout, TileFile, TileRow, writing
from synthetic_slides import noise, reduced, write_record, write_slide, write_whole_outline

OPTIONS = Tiles(field_um=64, students=[5, 1.25])


def cut(folder, mpp, factors=(2, 4), size=(600, 500)):
    """A record and a tile file of noise at `mpp` with levels coarser by `factors`."""
    picture = noise(*size)
    path = write_slide(folder / "a.tiff", picture, mpp, [reduced(picture, factor) for factor in factors])
    record = write_record(folder, path)
    tiles.write_tiles(record, write_whole_outline(folder, record), folder / "t.h5", OPTIONS)
    return record, folder / "t.h5"


def trident_boxes(path):
    """TRIDENT: a field is patch_size pixels at the target, rounded times the ratio to level 0."""
    with h5py.File(path) as file:
        attributes, coords = dict(file["coords"].attrs), file["coords"][:]
    ratio = attributes["level0_magnification"] / attributes["target_magnification"]
    edge = round(attributes["patch_size"] * ratio)
    return [(x, y, x + edge, y + edge) for x, y in coords.tolist()], attributes


def clam_boxes(path, levels):
    """CLAM: patch_size pixels of patch_level, from level-0 coordinates."""
    with h5py.File(path) as file:
        found = file["coords"]
        edge = found.attrs["patch_size"] * levels[found.attrs["patch_level"]].downsample
        return [(x, y, x + edge, y + edge) for x, y in found[:].tolist()]


@pytest.mark.parametrize("mpp", [0.25, 0.253, 0.5, 0.97, 0.31])
def test_trident_reads_our_fields(tmp_path, mpp):
    _, path = cut(tmp_path, mpp)
    out = tmp_path / "a_patches.h5"
    with TileFile(path) as file:
        write_trident(file, out)
        expected = file.boxes()
    boxes, attributes = trident_boxes(out)
    assert len(boxes) >= 2
    np.testing.assert_allclose(boxes, expected, atol=0.5)
    assert {"overlap", "name", "savetodir", "level0_width", "level0_height"} <= set(attributes)
    assert "patch_level" not in attributes
    with h5py.File(out) as file:
        assert file["coords"].dtype == np.int64
        assert list(file) == ["coords"]


@pytest.mark.parametrize(
    ("mpp", "factors", "level", "expected"),
    [(0.25, (2, 4), None, 2), (1.0, (2,), None, 0), (0.25, (2, 4), 1, 1), (0.5, (4,), 0, 0)],
)
def test_clam_reads_our_fields(tmp_path, mpp, factors, level, expected):
    record, path = cut(tmp_path, mpp, factors)
    slide = load_record(record)
    with TileFile(path) as file:
        write_clam(file, slide, tmp_path / "a.h5", level)
        boxes = file.boxes()
    np.testing.assert_allclose(clam_boxes(tmp_path / "a.h5", slide.levels), boxes, atol=0.5)
    with h5py.File(tmp_path / "a.h5") as file:
        assert file["coords"].attrs["patch_level"] == expected
        assert {"downsample", "downsampled_level_dim", "level_dim", "name", "save_path"} <= set(
            file["coords"].attrs
        )


def test_clam_is_refused_where_no_level_has_the_scale_and_told_what_fits(tmp_path):
    record, path = cut(tmp_path, 0.5, (4,))
    with TileFile(path) as file, pytest.raises(UserError) as caught:
        write_clam(file, load_record(record), tmp_path / "a.h5")
    assert "the field of 128 level-0 pixels no level shows it in 64 px" in str(caught.value)
    assert "take --level 0 (128 px) or --level 1 (32 px)" in str(caught.value)
    slide = SlideRecord("S1", "s", levels=(Level(600, 500, 1.0), Level(199, 166, 3.012)))
    with (
        TileFile(path) as file,
        pytest.raises(UserError, match=r"level 1 does not show it so; take --level 0"),
    ):
        write_clam(file, slide, tmp_path / "a.h5", 1)
    assert not (tmp_path / "a.h5").exists()


def test_clam_is_refused_the_record_of_another_slide(tmp_path):
    """Its levels would give another field, without a word."""
    _, path = cut(tmp_path, 0.5)
    slide = SlideRecord("S2", "s", levels=(Level(600, 500, 1.0), Level(300, 250, 2.0)))
    with TileFile(path) as file, pytest.raises(UserError, match="record is of slide S2, the tiles of S1"):
        write_clam(file, slide, tmp_path / "a.h5")


@pytest.mark.parametrize("form", ["trident", "clam"])
def test_what_we_export_we_read(tmp_path, form):
    record, path = cut(tmp_path, 0.25)
    with TileFile(path) as file:
        if form == "trident":
            write_trident(file, tmp_path / "a.h5")
        else:
            write_clam(file, load_record(record), tmp_path / "a.h5")
        expected = file.column("coords").tolist()
    found = read_coords(tmp_path / "a.h5")
    assert (found.xy.tolist(), found.field_px, found.source) == (expected, 256, form)


def store(path, labels=(0, 1, -1, NO_LABEL), unit="tile", **attributes):
    """A tile file of four tiles without a slide."""
    layout = Layout([10.0, 5.0], {10.0: 8, 5.0: 4} if unit == "tile" else {}, unit=unit)
    root = {"slide_id": "S", "ratio": (4.0, 4.0), "bounds": (1000, 2000, 500, 400), "verdict": "ok"}
    root |= {"classes": json.dumps(["normal", "tumour"])} | attributes
    with writing(path, layout, root) as writer:
        for k, label in enumerate(labels):
            pictures = {10.0: np.zeros((8, 8, 3), np.uint8), 5.0: np.zeros((4, 4, 3), np.uint8)}
            quality = (1.0, 0, 0, 200, 100, 150) if k else ()
            flags = FLAGS["blur"] if k == 1 else 0
            writer.append(TileRow(1000 + 32 * k, 2000, 0, k, 0.5, pictures, flags, label, quality))
    return path


def test_a_table_has_a_row_per_tile(tmp_path):
    with TileFile(store(tmp_path / "t.h5")) as file:
        write_table(file, tmp_path / "t.parquet")
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet").to_pydict()
    assert {"slide_id", "row", "column", "tissue_fraction", *FLAGS, *QC_COLUMNS} <= set(table)
    assert table["x"] == [1000, 1032, 1064, 1096]
    assert table["width"] == table["height"] == [32.0] * 4
    assert table["label"] == ["normal", "tumour", None, None]
    assert table["label_number"] == [0, 1, -1, -2]
    assert table["blur"] == [False, True, False, False]
    assert np.isnan(table["sharpness"][0])
    assert table["mean_red"][1:] == [200.0] * 3


def test_labels_without_names_keep_their_number(tmp_path):
    with TileFile(store(tmp_path / "t.h5", labels=(3,))) as file:
        write_table(file, tmp_path / "t.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "t.parquet")["label"].to_pylist() == ["class 3"]


OUTLINE = {
    "type": "FeatureCollection",
    "features": [
        {
            "type": "Feature",
            "id": "x",
            "geometry": json.loads(shapely.to_geojson(shapely.box(1000, 2000, 1200, 2100))),
            "properties": {
                "objectType": "annotation",
                "classification": {"name": "Tissue", "color": [0, 1, 2]},
            },
        }
    ],
}


def test_qupath_gets_tiles_with_class_colour_and_measurements(tmp_path):
    outline = tmp_path / "o.geojson"
    outline.write_text(json.dumps(OUTLINE))
    with TileFile(store(tmp_path / "t.h5")) as file:
        write_geojson(file, tmp_path / "q.geojson", outline=outline, origin="bounds")
    tissue, *features = json.loads((tmp_path / "q.geojson").read_text())["features"]
    assert shapely.from_geojson(json.dumps(tissue["geometry"])).bounds == (0, 0, 200, 100)
    assert tissue["properties"] == OUTLINE["features"][0]["properties"]
    assert [f["properties"]["objectType"] for f in features] == ["tile"] * 4
    assert len({f["id"] for f in features}) == 4
    # QuPath takes a classification with a name only together with a colour.
    assert [f["properties"].get("classification") for f in features] == [
        {"name": "normal", "color": [213, 94, 0]},
        {"name": "tumour", "color": [0, 114, 178]},
        None,
        None,
    ]
    assert features[0]["properties"]["measurements"] == {"tile": 0, "tissue_fraction": 0.5, "blur": 0}
    assert features[1]["properties"]["measurements"]["blur"] == 1
    assert features[1]["properties"]["measurements"]["mean_red"] == 200
    assert "NaN" not in (tmp_path / "q.geojson").read_text()
    (ring,) = features[1]["geometry"]["coordinates"]
    assert ring == [[32, 0], [64, 0], [64, 32], [32, 32], [32, 0]]


def test_qupaths_file_may_start_at_level_0_and_be_packed(tmp_path):
    with TileFile(store(tmp_path / "t.h5")) as file:
        for _ in range(2):
            write_geojson(file, tmp_path / "q.geojson.gz", outline=None, origin="level0")
            content = (tmp_path / "q.geojson.gz").read_bytes()
    features = json.loads(gzip.decompress(content))["features"]
    assert features[0]["geometry"]["coordinates"][0][0] == [1000, 2000]
    drawing = read_annotations(tmp_path / "q.geojson.gz")  # as annotations again
    assert [region.name for region in drawing.regions] == ["normal", "tumour", "(no class)", "(no class)"]


def test_sections_go_to_qupath_but_not_to_programs_of_squares(tmp_path):
    path = store(tmp_path / "t.h5", unit="section")
    with TileFile(path) as file:
        write_geojson(file, tmp_path / "q.geojson", outline=None, origin="level0")
        with pytest.raises(UserError, match="holds sections; TRIDENT and CLAM know squares"):
            write_trident(file, tmp_path / "a.h5")


def test_a_rejected_slide_has_nothing_to_export(tmp_path):
    with TileFile(store(tmp_path / "t.h5", labels=(), verdict="no_mpp")) as file:
        with pytest.raises(UserError, match="its verdict is no_mpp"):
            write_trident(file, tmp_path / "a.h5")
        write_table(file, tmp_path / "t.parquet")
        write_geojson(file, tmp_path / "q.geojson", outline=None, origin="bounds")
    assert pyarrow.parquet.read_table(tmp_path / "t.parquet").num_rows == 0
    assert json.loads((tmp_path / "q.geojson").read_text())["features"] == []


def test_an_outline_that_is_none_is_refused(tmp_path):
    (tmp_path / "o.geojson").write_text("[]")
    with TileFile(store(tmp_path / "t.h5")) as file:
        with pytest.raises(UserError, match="is not a GeoJSON FeatureCollection"):
            write_geojson(file, tmp_path / "q", outline=tmp_path / "o.geojson", origin="bounds")
    assert not (tmp_path / "q").exists()


def test_tiles_go_out_and_come_back_by_the_command_line(tmp_path, capsys):
    record, path = cut(tmp_path, 0.5)
    options = json.dumps(OPTIONS.model_dump())

    def run(*arguments):
        return cli.main([str(argument) for argument in arguments])

    assert run("export", "--to", "trident", "--tiles", path, "--out", tmp_path / "c.h5") == 0
    back = ["import", "--coords", tmp_path / "c.h5", "--record", record, "--out", tmp_path / "b.h5"]
    assert run(*back, "--outline", tmp_path / "S1.geojson", "--options", options) == 0
    with TileFile(path) as ours, TileFile(tmp_path / "b.h5") as theirs:
        for column in ("coords", "size", "tissue_fraction", "flags"):
            np.testing.assert_array_equal(ours.column(column), theirs.column(column))
        assert ours.jpegs(10.0) == theirs.jpegs(10.0)
    assert run(*back, "--options", options) == 0  # tissue is found where no outline is given
    assert run(*back, "--options", '{"field_um": 512}') == 2
    assert "set tiles.field_um: 64" in capsys.readouterr().err

    assert run("export", "--to", "clam", "--tiles", path, "--out", tmp_path / "d.h5") == 2
    assert "--to clam needs --record" in capsys.readouterr().err
    for form in ("clam", "parquet", "qupath"):
        arguments = ["--tiles", path, "--record", record, "--out", tmp_path / form]
        assert run("export", "--to", form, *arguments) == 0


def test_no_export_or_import_writes_over_what_it_reads(tmp_path, capsys):
    record, path = cut(tmp_path, 0.5)
    outline, coords = tmp_path / "S1.geojson", tmp_path / "c.h5"
    assert cli.main(["export", "--to", "trident", "--tiles", str(path), "--out", str(coords)]) == 0
    kept = {file: file.read_bytes() for file in (path, record, outline, coords)}
    common = ["--record", str(record), "--outline", str(outline), "--out"]
    for out in (path, record, outline):
        assert cli.main(["export", "--to", "qupath", "--tiles", str(path), *common, str(out)]) == 2
        assert f"--out is {out} itself" in capsys.readouterr().err
    for out in (coords, record, outline):
        assert cli.main(["import", "--coords", str(coords), *common, str(out)]) == 2
        assert f"--out is {out} itself" in capsys.readouterr().err
    assert {file: file.read_bytes() for file in kept} == kept
