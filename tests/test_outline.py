import json

import numpy as np
import shapely
from lowmag import outline
from lowmag.grid import read_outline
from lowmag.sections import Tissue


def test_outline_keeps_large_holes_and_drops_small_pieces():
    mask = np.zeros((200, 200), bool)
    mask[20:150, 30:160] = True
    mask[40:80, 50:90] = False  # 40 pixels of 8 micrometres: kept, above 190
    mask[100:110, 100:110] = False  # filled
    mask[170:180, 10:20] = True  # dropped, below 200
    (piece,) = outline.outline_of(mask, 8.0, Tissue())
    assert piece.is_valid
    assert piece.bounds == (30, 20, 160, 150)
    assert len(piece.interiors) == 1
    assert piece.area == 130 * 130 - 40 * 40
    (larger, smaller) = outline.outline_of(mask, 8.0, Tissue(min_piece_um=0, max_hole_um=0))
    assert (larger.area, smaller.area) == (130 * 130 - 40 * 40 - 100, 100)


def test_outline_without_smoothing_has_the_area_of_the_mask(monkeypatch):
    monkeypatch.setattr(outline, "SIMPLIFY_PX", 0)
    mask = (
        np.random.default_rng(5).random((60, 70)) < 0.5
    )  # pixels that touch at corners, holes in pieces in holes
    pieces = outline.outline_of(mask, 8.0, Tissue(min_piece_um=0, max_hole_um=0))
    assert sum(piece.area for piece in pieces) == mask.sum()
    union = shapely.union_all(pieces)
    rows, columns = np.nonzero(mask)
    assert shapely.contains_xy(union, columns + 0.5, rows + 0.5).all()


def test_outline_of_an_empty_mask_is_empty():
    assert outline.outline_of(np.zeros((5, 6), bool), 8.0, Tissue()) == []


def test_collection_carries_facts_and_review_beside_its_features(tmp_path):
    path = tmp_path / "o.geojson"
    path.write_text(outline.geojson([shapely.box(0, 0, 10, 10)], "S1", {"source": "mask", "review": "odd"}))
    content = json.loads(path.read_text())
    assert content["type"] == "FeatureCollection"
    assert content["properties"] == {"source": "mask", "review": "odd"}
    assert read_outline(path).area == 100


def test_ids_are_the_same_twice_and_differ_between_slides():
    pieces = [shapely.box(0, 0, 10, 10), shapely.box(20, 0, 30, 10)]
    ids = [
        [f["id"] for f in json.loads(outline.geojson(pieces, name))["features"]] for name in ("a", "a", "b")
    ]
    assert ids[0] == ids[1]
    assert len({*ids[0], *ids[2]}) == 4
