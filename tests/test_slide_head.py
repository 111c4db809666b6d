"""Slide heads: gated attention by its equation, a problem that no mean solves, and what it predicts."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from lowmag.attention_pool import AttentionPool, load_slide_head
from lowmag.errors import UserError
from lowmag.models import save_model, weights_sha256
from lowmag.networks import build
from lowmag.predict import PredictionJob, write_predictions
from lowmag.recipe import Architecture
from lowmag.slide_head import Bags, HeadJob, Schedule, fit, moments, train_slide_head
from safetensors import safe_open
from synthetic_tiles import STUDENT, Cohort, make_cohort
from torch.nn import functional

CHANNELS, TILES = 4, 12


def needles(n: int, seed: int) -> Bags:
    """Slides of one tile far out, or of two half as far: the same mean, to be told apart tile by tile."""
    random = torch.Generator().manual_seed(seed)
    vectors = torch.randn(n, TILES, CHANNELS, generator=random)
    labels = torch.arange(n) % 2
    vectors[labels == 1, 3, 0] += 12
    vectors[labels == 0, 5:7, 0] += 6
    tiles = list(torch.arange(n * TILES).view(n, TILES))
    return Bags(vectors.flatten(0, 1), tiles, labels, np.array([f"p{i}" for i in range(n)]))


@pytest.fixture(scope="module")
def pool() -> AttentionPool:
    torch.manual_seed(0)
    return AttentionPool(torch.randn(CHANNELS), torch.rand(CHANNELS) + 0.5, 3)


def test_the_equation(pool):
    """Ilse et al. 2018, eq. 7 and 9, tile by tile."""
    with torch.no_grad():
        pool.score.weight.normal_()
        tiles = torch.randn(4, CHANNELS)
        logits, attention = pool(tiles)
        h = (tiles - pool.get_buffer("mean")) / pool.get_buffer("std")
        energy = []
        for tile in h:
            value = torch.tanh(pool.value.weight @ tile + pool.value.bias)
            gate = torch.sigmoid(pool.gate.weight @ tile + pool.gate.bias)
            energy.append((pool.score.weight[0] * value * gate).sum().exp())
        expected = torch.stack(energy) / sum(energy)
        torch.testing.assert_close(attention, expected)
        mean = sum(a * tile for a, tile in zip(expected, h, strict=True))
        torch.testing.assert_close(logits, pool.classifier.weight @ mean + pool.classifier.bias)


def test_it_begins_as_the_models_own_head_on_the_mean():
    torch.manual_seed(0)
    head, tiles = torch.nn.Linear(CHANNELS, 3), 5 + 2 * torch.randn(7, CHANNELS)
    pool = AttentionPool(tiles.mean(0), tiles.std(0), 3)
    pool.begin_with(head)
    logits, attention = pool(tiles)
    torch.testing.assert_close(logits, head(tiles.mean(0)))
    torch.testing.assert_close(attention, torch.full((7,), 1 / 7))


def accuracy(pool: AttentionPool, bags: Bags) -> float:
    with torch.no_grad():
        decided = torch.stack([pool(bags.vectors[tiles])[0].argmax() for tiles in bags.tiles])
    return float((decided == bags.labels).float().mean())


def test_it_solves_what_no_mean_of_tiles_can():
    torch.set_num_threads(1)
    train, val, test = needles(40, 1), needles(30, 2), needles(200, 3)
    torch.manual_seed(0)
    attended, averaged = (AttentionPool(*moments(train.vectors), 2) for _ in range(2))
    averaged.score.requires_grad_(False)  # so all tiles count alike for good
    fit(attended, train, val, Schedule(epochs=40))
    fit(averaged, train, val, Schedule(epochs=40))
    assert accuracy(averaged, test) < 0.6  # a coin reaches 0.57 in 2.5 % of tries
    assert accuracy(attended, test) > 0.85
    with torch.no_grad():
        attention = torch.stack([attended(test.vectors[tiles])[1] for tiles in test.tiles[1::2]])
    assert attention.mean(0).argmax() == 3  # of slides with the tile far out


def test_classes_weigh_alike_however_many_slides_they_have():
    """The loss of an epoch is the mean of the classes' means; the head knows one class of the two."""
    bags, drawn = needles(40, 1), needles(10, 2)
    few = [*range(0, 40, 2), 1]  # 20 slides of the first class, one of the second
    train = Bags(bags.vectors, [bags.tiles[n] for n in few], bags.labels[few], bags.patients[few])
    pool = AttentionPool(*moments(train.vectors), 2)
    with torch.no_grad():
        pool.classifier.weight.zero_()
        pool.classifier.bias.copy_(torch.tensor([2.0, -2.0]))
    fitted = fit(pool, train, drawn, Schedule(epochs=1, lr=1e-9))
    of_classes = functional.softplus(torch.tensor([-4.0, 4.0]))
    assert fitted.history[1]["loss"] == pytest.approx(float(of_classes.mean()), rel=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slide-head")
    make_cohort(folder, Cohort(test=("busy", "calm", ""), tile_labels={"test2": (0, 1, 1, 0)}))
    torch.manual_seed(1)
    save_model(folder / "model.safetensors", build(Architecture(stride=8), 2), STUDENT)
    train_slide_head(job(folder, "head.safetensors"))
    return folder


def job(folder: Path, name: str, **changes) -> HeadJob:
    inputs = {"tiles": folder / "tiles", "splits": folder / "splits.csv", "threads": 1}
    return HeadJob(folder / "model.safetensors", out=folder / name, **{**inputs, **changes})


def test_the_same_seed_gives_the_same_file(folder):
    train_slide_head(job(folder, "again.safetensors"))
    assert (folder / "again.safetensors").read_bytes() == (folder / "head.safetensors").read_bytes()


def test_the_file_says_what_was_kept(folder):
    with safe_open(folder / "head.safetensors", framework="pt") as file:
        said = json.loads(file.metadata()["lowmag"])
    assert (said["schema"], said["schema_version"]) == ("lowmag-slide-head", 1)
    assert (said["n_train"], said["n_val"], said["epochs"]) == (4, 2, 100)
    assert 0 <= said["selected_epoch"] <= 100


def test_predictions_are_the_heads(folder):
    model, head = folder / "model.safetensors", folder / "head.safetensors"
    inputs = (model, folder / "tiles", folder / "splits.csv")
    write_predictions(PredictionJob(*inputs, folder / "mean", 1))
    write_predictions(PredictionJob(*inputs, folder / "attended", 1, slide_head=head))
    tiles, slides = (pd.read_parquet(folder / "attended" / f"{name}.parquet") for name in ("tiles", "slides"))
    plain = pd.read_parquet(folder / "mean" / "tiles.parquet")
    assert list(tiles) == [*plain, "attention"]
    np.testing.assert_allclose(tiles.p_busy, plain.p_busy, atol=1e-5)
    np.testing.assert_allclose(tiles.groupby("slide_id").attention.sum(), 1, rtol=1e-5)
    assert slides.slide_id.tolist() == ["val0", "val1", "test0", "test1"]  # test2 has tiles of two classes
    np.testing.assert_allclose(slides.p_calm + slides.p_busy, 1, rtol=1e-5)
    assert not np.allclose(slides.p_busy, pd.read_parquet(folder / "mean" / "slides.parquet").p_busy)


def test_the_head_of_another_model_is_refused(folder, tmp_path):
    torch.manual_seed(2)
    save_model(tmp_path / "model.safetensors", build(Architecture(stride=8), 2), STUDENT)
    inputs = (tmp_path / "model.safetensors", folder / "tiles", folder / "splits.csv")
    with pytest.raises(UserError, match=r"trained on another model.*rerun `lowmag slide-head`"):
        write_predictions(PredictionJob(*inputs, tmp_path, 1, slide_head=folder / "head.safetensors"))
    with pytest.raises(UserError, match="expected lowmag-slide-head 1"):
        load_slide_head(folder / "model.safetensors", weights_sha256(folder / "model.safetensors"))
    with pytest.raises(UserError, match="is not there"):
        load_slide_head(folder / "none.safetensors", "")


def test_slides_of_several_labels_alone_are_refused(tmp_path):
    mixed: dict[str, Sequence[int]] = {f"train{n}": (0, 1, 0, 1) for n in range(6)}
    make_cohort(tmp_path, Cohort(tile_labels=mixed))
    torch.manual_seed(1)
    save_model(tmp_path / "model.safetensors", build(Architecture(stride=8), 2), STUDENT)
    with pytest.raises(UserError, match=r"no train slide has one label.*slide_score: mean"):
        train_slide_head(job(tmp_path, "head.safetensors"))
