"""Predictions: what the network says, slides as the mean of their tiles, the cost beside them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lowmag import device
from lowmag.errors import UserError
from lowmag.models import load_model, prepare, save_model
from lowmag.networks import build
from lowmag.predict import PredictionJob, write_predictions
from lowmag.recipe import Architecture
from lowmag.store import TileFile
from synthetic_tiles import LOW, STUDENT, Cohort, make_cohort

COHORT = Cohort(
    val=("calm", "busy", ""),
    test=("busy", ""),
    tile_labels={"test1": (0, 1, -1)},
    flags={"val1": (0, 1, 0, 0)},
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("predict")
    tiles, splits = make_cohort(folder, COHORT)
    torch.manual_seed(1)
    save_model(folder / "model.safetensors", build(Architecture(stride=8), 2), STUDENT)
    write_predictions(PredictionJob(folder / "model.safetensors", tiles, splits, folder / "out", 1))
    return folder


def test_tiles_are_the_labelled_usable_ones(folder: Path) -> None:
    table = pd.read_parquet(folder / "out" / "tiles.parquet")
    assert list(table) == ["slide_id", "patient_id", "split", "tile", "x", "y", "label", "p_calm", "p_busy"]
    found = list(zip(table.slide_id, table.tile, strict=True))
    slides = {"val0": (0, 1, 2, 3), "val1": (0, 2, 3), "test0": (0, 1, 2, 3), "test1": (0, 1)}
    assert found == [(slide, tile) for slide, tiles in slides.items() for tile in tiles]
    assert table.label.tolist() == ["calm"] * 4 + ["busy"] * 7 + ["calm", "busy"]
    assert table.x.tolist() == [64 * tile for _, tile in found]
    assert set(table.split[table.slide_id.str.startswith("val")]) == {"val"}
    assert table.patient_id.tolist() == [f"patient-{slide}" for slide, _ in found]


def test_probabilities_are_what_the_network_says(folder: Path) -> None:
    table = pd.read_parquet(folder / "out" / "tiles.parquet")
    network, spec = load_model(folder / "model.safetensors")
    rows = table[table.slide_id == "test0"]
    with TileFile(folder / "tiles" / "test0.h5") as file:
        pictures = torch.from_numpy(file.read_all(LOW))
    with torch.inference_mode():
        expected = network(prepare(pictures, spec))[1].softmax(1).numpy()
    # Another batch size sums in another order.
    assert np.allclose(np.stack([rows.p_calm, rows.p_busy], 1), expected, atol=1e-5)


def test_slides_are_the_mean_of_their_tiles(folder: Path) -> None:
    tiles = pd.read_parquet(folder / "out" / "tiles.parquet")
    slides = pd.read_parquet(folder / "out" / "slides.parquet")
    assert list(slides) == ["slide_id", "patient_id", "split", "label", "n_tiles", "p_calm", "p_busy"]
    assert slides.slide_id.tolist() == ["val0", "val1", "test0"]  # test1 has tiles of two classes
    assert slides.n_tiles.tolist() == [4, 3, 4]
    assert slides.label.tolist() == ["calm", "busy", "busy"]
    for slide_id, p_busy in zip(slides.slide_id, slides.p_busy, strict=True):
        assert p_busy == pytest.approx(tiles.p_busy[tiles.slide_id == slide_id].mean(), abs=1e-6)
    assert (slides.p_calm + slides.p_busy).tolist() == pytest.approx([1] * 3, abs=1e-6)


def test_cost_is_that_of_the_model(folder: Path) -> None:
    cost = json.loads((folder / "out" / "cost.json").read_text())
    assert cost["parameters"] == 1_231_011 - 257  # DiPalma's ResNet-10 with 2 in place of 3 classes
    assert cost["gmac_per_mm2"] == pytest.approx(cost["gmac_per_tile"] / 0.064**2)
    assert cost["n_timed"] >= 3
    assert cost["tiles_per_s"] > 0
    named = {"tile_px": 16, "magnification": LOW, "model": "resnet10gn", "stride": 8, "input": "native"}
    assert {name: cost[name] for name in named} == named
    # As many tiles as are predicted at once: 1024 at most.
    assert (cost["threads"], cost["batch_size"], cost["precision"]) == (1, 1024, "float32")


def test_upsampled_student_costs_what_the_teacher_does(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "INFERENCE_PIXELS", 4 * 64**2)  # timing 1024 such tiles would take a minute
    network, _ = load_model(folder / "model.safetensors")
    save_model(tmp_path / "model.safetensors", network, replace(STUDENT, input="upsampled"))
    write_predictions(
        PredictionJob(tmp_path / "model.safetensors", folder / "tiles", folder / "splits.csv", tmp_path, 1)
    )
    native, upsampled = (
        json.loads(path.read_text()) for path in (folder / "out" / "cost.json", tmp_path / "cost.json")
    )
    # 64 in place of 16 px: 16 times the pixels; the head alone does not grow.
    assert upsampled["gmac_per_tile"] == pytest.approx(16 * native["gmac_per_tile"], rel=1e-3)


def test_nothing_to_predict_is_refused(folder: Path, tmp_path: Path) -> None:
    tiles, splits = make_cohort(tmp_path, Cohort(val=("",), test=()))
    with pytest.raises(UserError, match="no labelled val or test slide"):
        write_predictions(PredictionJob(folder / "model.safetensors", tiles, splits, tmp_path / "out", 1))
