"""Labels of tiles from drawn regions: which class wins; what is said of names, origins and wrong files."""

import json
import logging

import numpy as np
import pytest
from lowmag import cli
from lowmag.errors import UserError
from lowmag.record import SlideRecord
from lowmag.sections import Annotations
from lowmag.slides import SlideRow
from lowmag.store import TileFile
from lowmag.tile_labels import TileLabels, classes_of_slides
from synthetic_slides import noise, write_record, write_slide, write_whole_outline

CLASSES = ["normal", "tumour"]
BOXES = np.array([[0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10], [90, 90, 100, 100]], float)


def rectangle(name, x0, y0, x1, y1):
    ring = [[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]
    return {
        "type": "Feature",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {"classification": {"name": name, "color": [1, 2, 3]}},
    }


def write(folder, *features, name="a.geojson"):
    path = folder / name
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path


def labels(path, slide=None, boxes=BOXES, **options):
    found = TileLabels(path, CLASSES, Annotations(**options), slide).labels(boxes)
    assert found.dtype == np.int16
    return found.tolist()


def test_a_tile_gets_the_class_that_covers_enough_of_it(tmp_path):
    path = write(tmp_path, rectangle("tumour", 0, 0, 15, 10), rectangle("normal", 24, 0, 30, 9))
    assert labels(path) == [1, 1, 0, -2]  # all, a half, 54 %, nothing
    assert labels(path, min_overlap=0.51) == [1, -2, 0, -2]
    assert labels(path, min_overlap=1) == [1, -2, -2, -2]


def test_the_class_that_covers_most_wins(tmp_path):
    path = write(tmp_path, rectangle("tumour", 0, 0, 6, 10), rectangle("normal", 6, 0, 16, 10))
    assert labels(path, min_overlap=0.2) == [1, 0, -2, -2]


def test_parts_of_a_class_count_together_and_overlaps_once(tmp_path):
    apart = write(tmp_path, rectangle("tumour", 0, 0, 3, 10), rectangle("tumour", 7, 0, 10, 10))
    assert labels(apart)[0] == 1
    twice = write(tmp_path, rectangle("tumour", 0, 0, 3, 10), rectangle("tumour", 0, 0, 3, 10.1))
    assert labels(twice)[0] == -2


@pytest.mark.parametrize("reverse", [False, True])
def test_a_region_within_another_takes_its_place(tmp_path, reverse):
    regions = [rectangle("tumour", 0, 0, 100, 100), rectangle("normal", 10, 0, 20, 10)]
    path = write(tmp_path, *(regions[::-1] if reverse else regions))
    assert labels(path) == [1, 0, 1, 1]


def test_names_are_mapped_and_none_cuts_out(tmp_path):
    path = write(tmp_path, rectangle("Tumor", 0, 0, 100, 100), rectangle("Exclusion", 0, 0, 10, 6))
    names = {"Tumor": "tumour", "Exclusion": "none"}
    assert labels(path, classes=names) == [-2, 1, 1, 1]
    assert labels(path, classes=names, outside="normal") == [-2, 1, 1, 1]


def test_a_derived_class_goes_by_its_base(tmp_path):
    path = write(tmp_path, rectangle("tumour: Positive", 0, 0, 10, 10))
    assert labels(path)[0] == 1
    assert labels(path, classes={"tumour: Positive": "normal"})[0] == 0


def test_outside_is_none_the_slide_or_a_class(tmp_path):
    path = write(tmp_path, rectangle("tumour", 0, 0, 14, 10))
    assert labels(path) == [1, -2, -2, -2]
    assert labels(path, outside="slide") == [1, -1, -1, -1]
    assert labels(path, outside="normal") == [1, 0, 0, 0]


def test_the_ground_counts_as_a_region_of_the_class_outside(tmp_path):
    """A tile on the border, too little of either, has no label."""
    path = write(tmp_path, rectangle("tumour", 0, 0, 14, 10))
    assert labels(path, outside="normal", min_overlap=0.7) == [1, -2, 0, 0]
    assert labels(path, outside="slide", min_overlap=0.7) == [1, -2, -1, -1]
    drawn = write(tmp_path, rectangle("normal", 0, 0, 4, 10), rectangle("tumour", 4, 0, 8, 10))
    assert labels(drawn, outside="normal", min_overlap=0.6)[0] == 0  # 40 % drawn and 20 % ground


def test_a_file_without_regions_leaves_all_outside(tmp_path, caplog):
    path = write(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert labels(path) == [-2] * 4
    assert "no regions, so all of the slide is outside" in caplog.text
    assert labels(path, outside="normal") == [0] * 4
    assert labels(path, boxes=np.zeros((0, 4))) == []


def test_unknown_names_are_left_out_with_a_warning(tmp_path, caplog):
    features = [rectangle("tumour", 0, 0, 10, 10), *[rectangle("Fold", 0, 0, 5, 5)] * 2]
    with caplog.at_level(logging.WARNING):
        assert labels(write(tmp_path, *features))[0] == 1
    assert "left out: 'Fold' (2)" in caplog.text


def test_a_file_without_a_known_name_is_refused(tmp_path):
    path = write(tmp_path, rectangle("Tumor", 0, 0, 10, 10), rectangle("Stroma", 0, 0, 10, 10))
    with pytest.raises(UserError) as caught:
        labels(path)
    assert "names no class of the study: found 'Tumor' (1), 'Stroma' (1)" in str(caught.value)
    assert "the classes are normal, tumour; say which is which in annotations.classes" in str(caught.value)


MIRAX = SlideRecord("M", "m.mrxs", width=5000, height=4000, bounds=(1000, 2000, 300, 200))


def test_geojson_starts_at_the_scanned_part_as_in_qupath(tmp_path):
    path = write(tmp_path, rectangle("tumour", 0, 0, 10, 10))
    assert labels(path, MIRAX) == [-2] * 4
    moved = BOXES + np.array([1000, 2000, 1000, 2000])
    assert labels(path, MIRAX, moved) == [1, -2, -2, -2]
    assert labels(path, MIRAX, origin="level0") == [1, -2, -2, -2]


def test_asap_starts_at_level_0(tmp_path):
    points = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}" />'
        for i, (x, y) in enumerate([(0, 0), (10, 0), (10, 10), (0, 10)])
    )
    path = tmp_path / "a.xml"
    path.write_text(
        '<ASAP_Annotations><Annotations><Annotation Name="0" Type="Polygon" PartOfGroup="tumour">'
        f"<Coordinates>{points}</Coordinates></Annotation></Annotations></ASAP_Annotations>"
    )
    assert labels(path, MIRAX) == [1, -2, -2, -2]


def test_annotations_of_another_slide_are_refused(tmp_path):
    path = write(tmp_path, rectangle("tumour", 79_000, 75_000, 80_000, 76_000))
    slide = SlideRecord("S", "s.svs", width=2220, height=2967, bounds=(0, 0, 2220, 2967))
    with pytest.raises(UserError) as caught:
        labels(path, slide)
    assert "regions at x 79000 to 80000, y 75000 to 76000, but slide S is 2220 x 2967" in str(caught.value)


def row(slide_id, annotations=None, label=None):
    return SlideRow(slide_id, annotations, label, "P", None, None, annotations)


def test_classes_that_a_slide_can_have(tmp_path):
    both = write(tmp_path, rectangle("tumour", 0, 0, 9, 9), rectangle("normal", 20, 20, 29, 29))
    one = write(tmp_path, rectangle("tumour", 0, 0, 9, 9), name="b.geojson")
    rows = [row("A", both), row("B", one, "normal"), row("C")]
    assert classes_of_slides(rows, CLASSES, Annotations()) == {"A": ("normal", "tumour"), "B": ("tumour",)}
    assert classes_of_slides(rows, CLASSES, Annotations(outside="slide"))["B"] == ("normal", "tumour")
    assert classes_of_slides(rows, CLASSES, Annotations(outside="normal"))["B"] == ("normal", "tumour")


def test_all_files_that_cannot_be_used_are_named_at_once(tmp_path):
    bad = write(tmp_path, rectangle("Tumor", 0, 0, 9, 9))
    rows = [row("A", bad), row("B", tmp_path / "none.xml")]
    with pytest.raises(UserError) as caught:
        classes_of_slides(rows, CLASSES, Annotations())
    message = str(caught.value)
    assert message.startswith("2 annotation files cannot be used:\n  slide A: annotations ")
    assert "slide B: " in message
    assert "does not exist" in message


def test_labels_reach_the_tile_file_by_the_command_line(tmp_path, capsys):
    record = write_record(tmp_path, write_slide(tmp_path / "a.tiff", noise(256, 256), 1.0))
    outline = write_whole_outline(tmp_path, record)
    regions = write(tmp_path, rectangle("Tumor", 0, 0, 128, 256), rectangle("Normal", 128, 0, 192, 256))
    arguments = ["tiles", "--record", record, "--outline", outline, "--out", tmp_path / "t.h5"]
    arguments += ["--options", '{"field_um": 64, "students": [5]}', "--annotations", regions]

    def run(*further):
        return cli.main([str(argument) for argument in (*arguments, *further)])

    assert run() == 2
    assert "--annotations needs --classes" in capsys.readouterr().err
    names = '{"classes": {"Tumor": "tumour", "Normal": "normal"}}'
    assert run("--classes", json.dumps(CLASSES), "--labels-options", names) == 0
    with TileFile(tmp_path / "t.h5") as file:
        assert file.column("label").tolist() == [1, 1, 0, -2] * 4
        assert file.classes == CLASSES


def test_a_rejected_slide_needs_no_labels(tmp_path):
    record = write_record(tmp_path, write_slide(tmp_path / "a.tiff", noise(256, 256), None))
    (tmp_path / "o.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    arguments = ["--record", record, "--outline", tmp_path / "o.geojson", "--out", tmp_path / "t.h5"]
    arguments += ["--annotations", write(tmp_path), "--classes", json.dumps(CLASSES)]
    assert cli.main(["tiles", *map(str, arguments)]) == 0
    with TileFile(tmp_path / "t.h5") as file:
        assert (file.n, file.classes) == (0, [])


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"outside": "tumor"}, "annotations.outside: found 'tumor', expected none, slide or one of"),
        ({"classes": {"Tumor": "tumor"}}, "annotations.classes: found tumor, expected none or one of"),
    ],
)
def test_options_that_name_no_class_are_refused_without_the_config_too(tmp_path, options, complaint):
    with pytest.raises(UserError, match=complaint):
        labels(write(tmp_path, rectangle("tumour", 0, 0, 15, 10)), **options)
