"""Annotation files of QuPath and ASAP: what is read, what is left out with a word, and what is refused."""

import gzip
import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
import shapely
from lowmag import annotations, regions
from lowmag.annotations import read_annotations
from lowmag.asap import closed_spline
from lowmag.errors import UserError
from lowmag.regions import parse_colour

DATA = Path(__file__).parents[1] / "../shared/data/annotations"
real = pytest.mark.skipif(not DATA.is_dir(), reason="the shared annotations are not on this machine")
SQUARE = [[0, 0], [100, 0], [100, 100], [0, 100], [0, 0]]
HOLE = [[20, 20], [20, 60], [60, 60], [60, 20], [20, 20]]


def feature(coordinates=(SQUARE,), kind="Polygon", **properties):
    return {
        "type": "Feature",
        "geometry": {"type": kind, "coordinates": list(coordinates)},
        "properties": properties,
    }


def collection(*features):
    return {"type": "FeatureCollection", "features": list(features)}


def read(folder, content):
    path = folder / "a.geojson"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_annotations(path)


def complaint(folder, content):
    with pytest.raises(UserError) as caught:
        read(folder, content)
    assert str(caught.value).startswith(f"annotations {folder / 'a.geojson'}: the file ")
    return str(caught.value)


def asap(*shapes, groups="", before='<?xml version="1.0"?>'):
    """An ASAP file of (attributes, points)."""
    annotations = "".join(
        f"<Annotation {attributes}><Coordinates>"
        + "".join(f'<Coordinate Order="{i}" X="{x}" Y="{y}" />' for i, (x, y) in enumerate(points))
        + "</Coordinates></Annotation>"
        for attributes, points in shapes
    )
    return (
        f"{before}<ASAP_Annotations><Annotations>{annotations}</Annotations>"
        f"<AnnotationGroups>{groups}</AnnotationGroups></ASAP_Annotations>"
    )


@real
def test_the_qupath_example_is_read():
    drawing = read_annotations(DATA / "qupath-feature-collection.geojson")
    assert [(region.name, region.colour) for region in drawing.regions] == [
        ("UT", (255, 0, 0)),
        ("I", (255, 0, 0)),
        ("I", (255, 0, 0)),
    ]
    assert drawing.regions[0].shape.bounds == (8837, 6277, 9070, 6563)
    assert not drawing.is_level0


@real
def test_the_asap_example_is_read():
    drawing = read_annotations(DATA / "camelyon16-tumor_009.xml")
    assert [region.name for region in drawing.regions] == ["metastasis"] * 6
    assert {region.colour for region in drawing.regions} == {(0, 0, 255)}  # the group's
    assert drawing.is_level0
    text = (DATA / "camelyon16-tumor_009.xml").read_text()
    for region, part in zip(drawing.regions, text.split("<Annotation ")[1:], strict=True):
        points = re.findall('X="([0-9.]+)" Y="([0-9.]+)"', part)
        assert region.shape.is_valid
        # The curve of a hand-drawn spline runs along its points.
        assert region.shape.area == pytest.approx(shapely.Polygon(np.array(points, float)).area, rel=5e-3)


@pytest.mark.parametrize(
    "content",
    [
        collection(feature()),
        [feature()],
        feature(),
        feature()["geometry"],
        {"type": "GeometryCollection", "geometries": [feature()["geometry"]]},
        feature([[SQUARE]], "MultiPolygon"),
        {**feature(), "geometry": {"type": "GeometryCollection", "geometries": [feature()["geometry"]]}},
    ],
    ids=["collection", "list", "feature", "geometry", "geometries", "multipolygon", "within a feature"],
)
def test_every_form_of_geojson_gives_the_same_region(tmp_path, content):
    (region,) = read(tmp_path, content).regions
    assert region.shape.equals(shapely.box(0, 0, 100, 100))


def test_holes_and_parts_are_kept(tmp_path):
    far = [[x + 500, y] for x, y in SQUARE]
    (region,) = read(tmp_path, feature([[SQUARE, HOLE], [far]], "MultiPolygon")).regions
    assert region.shape.area == 100**2 - 40**2 + 100**2
    assert not region.shape.contains(shapely.Point(30, 30))


@pytest.mark.parametrize(
    ("properties", "names", "colour"),
    [
        ({"classification": {"name": "Tumor", "color": [200, 0, 0]}}, ("Tumor",), (200, 0, 0)),
        ({"classification": {"name": "Tumor", "colorRGB": -3670016}}, ("Tumor",), (200, 0, 0)),
        (
            {"classification": {"names": ["Tumor", "Positive"], "color": [1, 2, 3, 4]}},
            ("Tumor: Positive", "Tumor"),
            (1, 2, 3),
        ),
        (
            {"classification": {"name": "Positive", "parentClass": {"name": "Tumor"}, "colorRGB": 255}},
            ("Tumor: Positive", "Tumor"),
            (0, 0, 255),
        ),
        ({"classification": "Stroma"}, ("Stroma",), None),
        ({"name": "Region 1", "classification": {"name": "Tumor"}}, ("Tumor",), None),
        ({"name": "Region 1", "color": "#00ff00"}, ("Region 1",), (0, 255, 0)),
        ({"classification": None, "measurements": [{"name": "Area", "value": "NaN"}]}, ("(no class)",), None),
    ],
)
def test_class_and_colour_of_every_version_of_qupath(tmp_path, properties, names, colour):
    (region,) = read(tmp_path, feature(**properties)).regions
    assert (region.names, region.colour) == (names, colour)


def test_measurements_may_be_no_numbers(tmp_path):
    text = json.dumps(feature(measurements={"Area": float("nan")}))
    assert "NaN" in text
    assert len(read(tmp_path, text).regions) == 1


def test_children_are_read_after_their_parent(tmp_path):
    child = feature([HOLE], name="child")
    drawing = read(tmp_path, feature(name="parent", childObjects=[child]))
    assert [region.name for region in drawing.regions] == ["parent", "child"]


def test_what_has_no_area_is_left_out_and_counted(tmp_path, caplog):
    content = collection(
        feature([1, 2], "Point"),
        feature([3, 4], "Point"),
        feature(SQUARE, "LineString"),
        feature(objectType="cell"),
        feature([[[0, 0], [1, 1]]]),
        feature([[[0, 0], [5, 5], [9, 9], [0, 0]]]),
        {"type": "Feature", "geometry": None, "properties": None},
        feature(name="kept"),
    )
    with caplog.at_level(logging.WARNING):
        drawing = read(tmp_path, content)
    assert [region.name for region in drawing.regions] == ["kept"]
    assert "2 x Point" in caplog.text
    for what in ("LineString", "cell", "fewer than 3 points", "without area", "without geometry"):
        assert re.search(f"1 x [^,]*{what}", caplog.text), what


def test_words_of_a_file_do_not_break_the_log(tmp_path, caplog):
    path = tmp_path / "a.xml"
    path.write_text(
        '<ASAP_Annotations><Annotation Type="of&#10;two lines"/><Annotation Type="Dot"/></ASAP_Annotations>'
    )
    with caplog.at_level(logging.WARNING):
        read_annotations(path)
    assert r"left out 1 x 'of\ntwo lines', 1 x Dot" in caplog.text


def test_gzipped_files_are_read(tmp_path):
    path = tmp_path / "a.geojson.gz"
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf " + json.dumps(collection(feature())).encode()))
    assert len(read_annotations(path).regions) == 1


def test_outlines_that_cross_themselves_are_filled_as_painted(tmp_path):
    bow_tie = [[0, 0], [100, 100], [100, 0], [0, 100], [0, 0]]
    twice = [[0, 0], [100, 0], [100, 100], [40, 100], [40, 40], [60, 40], [60, 60], [0, 60], [0, 0]]
    first, second = read(tmp_path, collection(feature([bow_tie]), feature([twice]))).regions
    assert first.shape.is_valid
    assert first.shape.area == pytest.approx(2 * 100 * 50 / 2)
    assert second.shape.contains(shapely.Point(50, 50))  # wound round twice, and still inside


def test_an_outline_that_runs_back_on_itself_is_valid(tmp_path):
    """GEOS mends this one into two parts that share an edge."""
    points = [[10, 30], [20, 20], [10, 20], [0, 0], [20, 20], [0, 20], [10, 30]]
    (region,) = read(tmp_path, feature([points])).regions
    assert region.shape.is_valid
    assert region.shape.area == pytest.approx(100 + 100)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is neither GeoJSON nor XML"),
        ("x,y\n1,2", "is neither GeoJSON nor XML"),
        ('{"type": "FeatureCollection", "features": [', "is not JSON"),
        ({"objects": []}, "is JSON but not GeoJSON (found type None"),
        ([1, 2], "is JSON but not GeoJSON"),
        ({"type": "FeatureCollection"}, "has a FeatureCollection without a list of features"),
        (feature("abc"), "has coordinates that are not pairs of numbers"),
        (feature([[[0, 0], [1], [2, 2]]]), "has coordinates that are not pairs of numbers"),
        (feature([[[0, 0], [None, 1], [2, 2]]]), "has the coordinates nan, 1, expected pixels of level 0"),
        (feature([[[0, 0], [1e12, 1], [2, 2]]]), "has the coordinates 1e+12, 1"),
        (feature([[[0, 0], [10**400, 1], [2, 2]]]), "has coordinates that are not pairs of numbers"),
        (json.dumps(feature([[[0, 0], [float("inf"), 1], [2, 2]]])), "has the coordinates inf, 1"),
        ("[" * 100_000, "is nested too deeply"),
        ({"type": "Polygon", "coordinates": {"a": 1}}, "has a Polygon without a list of coordinates"),
        ({"type": "MultiPolygon", "coordinates": [5]}, "has a MultiPolygon of something other than lists"),
        ({"type": ["Polygon"]}, "is JSON but not GeoJSON (found type None"),
        ({"type": {"a": 1}}, "is JSON but not GeoJSON (found type None"),
        ({"type": "x" * 2000}, "is JSON but not GeoJSON (found type '" + "x" * 40 + "',"),
        (
            feature([[["y" * 2000, 1], [1, 1], [2, 2]]]),
            "has coordinates that are not pairs of numbers (could not convert",
        ),
    ],
)
def test_what_is_no_geojson_in_pixels_is_refused(tmp_path, content, expected):
    message = complaint(tmp_path, content)
    assert expected in message
    assert len(message) < 1000


def test_geometry_of_no_type_has_no_area(tmp_path):
    content = collection({"type": "Feature", "geometry": {"type": ["Polygon"]}}, feature())
    assert len(read(tmp_path, content).regions) == 1


def test_files_too_large_are_refused_before_they_are_parsed(tmp_path, monkeypatch):
    monkeypatch.setattr(annotations, "MOST_BYTES", 1 << 20)
    path = tmp_path / "bomb.geojson.gz"
    path.write_bytes(gzip.compress(b" " * (64 << 20)))
    with pytest.raises(UserError, match="is larger than 1 MB; export annotations alone"):
        read_annotations(path)
    monkeypatch.setattr(regions, "MOST_VERTICES", 9)
    assert "has more than 9 vertices" in complaint(tmp_path, collection(feature(), feature()))


def test_files_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist; correct the path"):
        read_annotations(tmp_path / "none.xml")
    path = tmp_path / "cut.gz"
    path.write_bytes(gzip.compress(json.dumps(collection(feature())).encode())[:-20])
    with pytest.raises(UserError, match="cannot be read"):
        read_annotations(path)


def test_asap_groups_colours_and_names(tmp_path):
    groups = (
        '<Group Name="tumour" PartOfGroup="None" Color="#0000ff"><Attributes /></Group>'
        '<Group Name="necrosis" PartOfGroup="tumour" Color="#00ff00" />'
        '<Group Name="a" PartOfGroup="b" Color="" /><Group Name="b" PartOfGroup="a" Color="" />'
    )
    content = asap(
        ('Name="x" Type="Polygon" PartOfGroup="necrosis" Color="#F4FA58"', SQUARE),
        ('Name="alone" Type="Rectangle" PartOfGroup="None" Color="#F4FA58"', SQUARE[:4]),
        ('Name="y" Type="Polygon" PartOfGroup="a" Color="#000001"', SQUARE),
        ('Name="z" Type="Dot" PartOfGroup="tumour" Color="#000000"', [[1, 1]]),
        ('Name="p" Type="PointSet" PartOfGroup="tumour" Color="#000000"', [[1, 1], [2, 2]]),
        groups=groups,
    )
    drawing = read(tmp_path, content)
    assert [(region.names, region.colour) for region in drawing.regions] == [
        (("necrosis", "tumour"), (0, 255, 0)),
        (("alone",), (244, 250, 88)),
        (("a", "b"), (0, 0, 1)),  # groups in a circle end
    ]
    assert drawing.ignored == {"Dot": 1, "PointSet": 1}
    assert all(region.shape.equals(shapely.box(0, 0, 100, 100)) for region in drawing.regions)


def test_asap_coordinates_go_by_their_order(tmp_path):
    text = asap(('Name="x" Type="Polygon" PartOfGroup="None" Color=""', SQUARE[:4]))
    parts = re.findall("<Coordinate [^>]*>", text)
    swapped = text.replace("".join(parts), parts[2] + parts[0] + parts[3] + parts[1])
    assert swapped != text
    assert read(tmp_path, swapped).regions[0].shape.equals(shapely.box(0, 0, 100, 100))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<a><b></a>", "is not well-formed XML"),
        ("<Annotations></Annotations>", "has no ASAP_Annotations"),
        (asap(before='<!DOCTYPE a [<!ENTITY b "x">]>'), "declares a document type"),
        (asap(before='<!DOCTYPE a SYSTEM "file:///etc/passwd">'), "declares a document type"),
        (
            asap(('Name="x" Type="Polygon"', [["1,5", 2]] * 4)),
            "has a Coordinate without Order, X and Y as numbers",
        ),
        (asap(('Name="x" Type="Polygon"', [["nan", 2]] * 4)), "has the coordinates nan, 2"),
    ],
)
def test_what_is_no_asap_file_is_refused(tmp_path, content, expected):
    assert expected in complaint(tmp_path, content)


def test_a_spline_through_points_of_a_circle_is_nearly_that_circle():
    """Straight lines between 12 points would lose 4.5 % of the area."""
    angles = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    points = 500 * np.column_stack([np.cos(angles), np.sin(angles)])
    curve = closed_spline(points)
    assert shapely.Polygon(curve).area / (np.pi * 500**2) == pytest.approx(1, abs=0.01)
    distances = shapely.distance(shapely.MultiPoint(curve), shapely.points(points))
    np.testing.assert_allclose(distances, 0, atol=1e-9)  # it goes through every point
    steps = np.linalg.norm(np.diff(curve, axis=0, append=curve[:1]), axis=1)
    assert steps.max() < 20


def test_a_spline_equals_the_definition_by_barry_and_goldman():
    points = np.array([[0, 0], [300, 10], [320, 400], [-50, 180]], float)
    curve = closed_spline(points)
    p = points[[3, 0, 1, 2]]
    t = np.concatenate([[0], np.cumsum(np.sqrt(np.linalg.norm(np.diff(p, axis=0), axis=1)))])

    def between(a, b, ta, tb, at):
        return (tb - at) / (tb - ta) * a + (at - ta) / (tb - ta) * b

    n = int(np.ceil(np.linalg.norm(p[2] - p[1]) / 16))
    for i in range(n):
        at = t[1] + (t[2] - t[1]) * i / n
        a = [between(p[k], p[k + 1], t[k], t[k + 1], at) for k in range(3)]
        b = [between(a[k], a[k + 1], t[k], t[k + 2], at) for k in range(2)]
        np.testing.assert_allclose(curve[i], between(b[0], b[1], t[1], t[2], at), atol=1e-9)


def test_a_hand_drawn_spline_keeps_its_points():
    angles = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    points = 300 * np.column_stack([np.cos(angles), np.sin(angles)])
    np.testing.assert_allclose(closed_spline(np.repeat(points, 2, axis=0)), points)
    assert len(closed_spline(points[[0, 0, 1]])) == 2


@pytest.mark.parametrize("value", [None, True, "red", "#12345x", [1, 2], ["1", "2", "3"], {}])
def test_what_is_no_colour_is_none(value):
    assert parse_colour(value) is None


@real
@pytest.mark.parametrize("name", ["qupath-feature-collection.geojson", "camelyon16-tumor_009.xml"])
def test_spoiled_files_are_read_or_refused(tmp_path, name, caplog):
    """Bytes flipped, cut and doubled at seeded places: regions or a message, never another error."""
    whole = (DATA / name).read_bytes()[:20_000]
    random = np.random.default_rng(0)
    path = tmp_path / name
    n_refused = 0
    for _ in range(150):
        content = bytearray(whole)
        for place in random.integers(0, len(content), 3):
            content[place] = random.integers(0, 256)
        start, length = random.integers(0, len(content)), random.integers(0, 200)
        content[start : start + length] = content[start : start + length] * random.integers(0, 3)
        path.write_bytes(content)
        try:
            assert all(region.shape.is_valid for region in read_annotations(path).regions)
        except UserError:
            n_refused += 1
    assert n_refused > 0
