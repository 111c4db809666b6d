"""A teacher on features: what it learns, its targets for every view, and students that learn from them."""

import json
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from lowmag.config import parse_config
from lowmag.errors import UserError
from lowmag.feature_teacher import train_feature_teacher
from lowmag.index import index_tiles
from lowmag.lesson import Job
from lowmag.models import load_model
from lowmag.predict import PredictionJob, write_predictions
from lowmag.recipe import StudentTraining, Teacher
from lowmag.splits import read_splits
from lowmag.study import TargetOptions
from lowmag.supply import supply
from lowmag.target_file import Targets
from lowmag.target_wishes import target_options
from lowmag.targets import Source, write_targets
from lowmag.terms import Method
from lowmag.train import train_student
from pyarrow import parquet
from synthetic_tiles import CLASSES, HIGH, LOW, Cohort, make_cohort

CHANNELS = 6


@dataclass(frozen=True)
class Made:
    folder: Path
    tiles: Path
    splits: Path

    @property
    def features(self) -> Path:
        return self.folder / "features"

    @property
    def teacher(self) -> Path:
        return self.folder / "teacher" / "model.safetensors"

    @property
    def targets(self) -> Path:
        return self.folder / "targets" / "2.5x"

    def job(self, name: str, magnification: float) -> Job:
        return Job(
            tiles=self.tiles,
            splits=self.splits,
            classes=CLASSES,
            magnification=magnification,
            seed=0,
            out=self.folder / name,
            state=self.folder / f"{name}-state",
            threads=1,
        )


OPTIONS = {"epochs": 20, "batch_size": 4, "lr": 0.05, "require": "nothing"}


def cohort_with_features(folder: Path, cohort: Cohort | None = None) -> Made:
    """Features whose third channel tells the class, far from zero and on another scale than the rest."""
    tiles, splits = make_cohort(folder, cohort)
    made = Made(folder, tiles, splits)
    made.features.mkdir()
    random = np.random.default_rng(0)
    for row in read_splits(splits):
        values = random.normal(size=(4, CHANNELS)) * 100 + 1000
        values[:, 2] = {"calm": -1e-3, "busy": 1e-3}.get(row.label, 0) + random.normal(size=4) * 1e-4
        with h5py.File(made.features / f"{row.slide_id}.h5", "w") as file:
            file["features"] = values.astype(np.float32)
            file["coords"] = [[64 * n, 0] for n in range(4)]
    return made


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    folder = tmp_path_factory.mktemp("features")
    made = cohort_with_features(folder)
    tiles, splits = made.tiles, made.splits
    train_feature_teacher(made.job("teacher", HIGH), Teacher(features=str(made.features), **OPTIONS))
    options = TargetOptions(
        grids={"2.5x": 1}, reads={"2.5x": ["logits", "features/area"]}, views=1, features=str(made.features)
    )
    write_targets(Source(made.teacher, tiles, splits), folder / "targets", options)
    return made


def test_it_learns_what_the_features_say(made):
    out = made.folder / "predictions"
    write_predictions(PredictionJob(made.teacher, made.tiles, made.splits, out, 1, made.features))
    table = parquet.read_table(out / "tiles.parquet").to_pandas()
    assert ((table["p_busy"] > 0.5) == (table["label"] == "busy")).all()
    assert set(table["split"]) == {"val", "test"}
    cost = json.loads((out / "cost.json").read_text())
    assert (cost["gmac_per_tile"], cost["tiles_per_s"]) == (None, None), "what computed them is not counted"
    job = PredictionJob(made.teacher, made.tiles, made.splits, out, 1, made.features, patch_gmac=60)
    write_predictions(job)
    cost = json.loads((out / "cost.json").read_text())
    assert (cost["gmac_per_tile"], cost["tiles_per_s"]) == (60, None), "one patch a tile"
    assert cost["gmac_per_mm2"] == pytest.approx(60 / 0.064**2)
    with pytest.raises(UserError, match="give their folder as --features"):
        write_predictions(PredictionJob(made.teacher, made.tiles, made.splits, out, 1))


def test_what_its_targets_lack_is_supplied(made, tmp_path):
    source = Source(made.teacher, made.tiles, made.splits)
    options = TargetOptions(
        grids={"2.5x": 1}, reads={"2.5x": ["features/area"]}, views=1, features=str(made.features)
    )
    assert supply(source, tmp_path / "2.5x", options, float("inf"))
    name = "2.5x/features-area.h5"
    with h5py.File(tmp_path / name) as added, h5py.File(made.folder / "targets" / name) as whole:
        assert (added["values"][()] == whole["values"][()]).all()  # pyright: ignore
        assert added.attrs["every_view"]


def test_the_same_seed_gives_the_same_head(made, tmp_path):
    job = made.job("again", HIGH)
    train_feature_teacher(job, Teacher(features=str(made.features), **OPTIONS))
    again, first = (load_model(path)[0] for path in (job.out / "model.safetensors", made.teacher))
    for name, value in first.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name


def test_a_head_trained_slide_by_slide_by_attention_tells_tiles_apart(tmp_path):
    made = cohort_with_features(tmp_path, Cohort(train=("calm", "busy") * 24))
    options = Teacher(features=str(made.features), head="attention", **OPTIONS)
    for name in ("teacher", "again"):
        assert train_feature_teacher(made.job(name, HIGH), options) == 0
    out = made.teacher.parent
    assert (out.parent / "again" / "model.safetensors").read_bytes() == made.teacher.read_bytes()
    write_predictions(PredictionJob(made.teacher, made.tiles, made.splits, out, 1, made.features))
    table = parquet.read_table(out / "tiles.parquet").to_pandas()
    # Not of few slides: their labels leave some say to the noise of single tiles.
    assert ((table["p_busy"] > 0.5) == (table["label"] == "busy")).mean() > 0.9
    assert load_model(made.teacher)[0].head.weight[1].abs().argmax() == 2
    record = json.loads((out / "run.json").read_text())
    assert 1 <= record["selected_epoch"] <= 20
    assert (record["steps"], record["steps_per_epoch"]) == (960, 48)  # slides in 20 epochs
    rows = (out / "metrics.csv").read_text().splitlines()
    assert rows[0].split(",")[:5] == ["epoch", "step", "lr", "loss", "cross_entropy"]
    assert len(rows) == 21


def test_attention_without_features_is_refused():
    with pytest.raises(UserError, match=r"teacher.features alone: set head: linear"):
        parse_config({"teacher": {"head": "attention"}})


def test_the_record_holds_no_path(made):
    record = json.loads((made.folder / "teacher" / "run.json").read_text())
    assert record["options"]["features"] == "features"
    assert str(made.folder) not in json.dumps(record)
    assert len(record["features_sha256"]) == 64
    assert record["data"]["train_labelled"] == {"tiles": 16, "slides": 4, "patients": 4}


def test_targets_are_the_heads_and_hold_for_every_view(made):
    method = Method.model_validate({"soft_labels": 1, "cosine": {"local": 0}})
    targets = Targets(made.targets, method, torch.device("cpu"))
    assert targets.n_views == 8
    ids = torch.arange(5)
    first, turned = (targets.batch(ids, torch.full((5,), view), ids) for view in (0, 7))
    assert first.logits is not None
    assert turned.logits is not None
    assert torch.equal(first.logits, turned.logits)
    network, spec = load_model(made.teacher)
    index = index_tiles(made.tiles, [r for r in read_splits(made.splits) if r.split == "train"], spec.classes)
    with h5py.File(made.features / f"{index.slides[0].slide_id}.h5") as file:
        said = network(torch.from_numpy(file["features"][()])[..., None, None])  # pyright: ignore
    torch.testing.assert_close(first.logits[:4], said[1].detach())
    torch.testing.assert_close(first.features["area"][:4], said[0], atol=1e-2, rtol=1e-3)  # float16
    assert first.features["area"].shape == (5, CHANNELS, 1, 1)


@pytest.mark.parametrize(
    "terms",
    [
        {"soft_labels": 1, "cosine": {"local": 0}},
        {"cross_entropy": 1, "relational": 1, "correlation": 1, "decoupled": 1},
    ],
)
def test_students_learn_from_them_in_every_view(made, terms):
    method = Method.model_validate(terms)
    options = StudentTraining(model="resnet10gn", stride=8, epochs=1, batch_size=8)
    job = made.job("student-" + "-".join(terms), LOW)
    assert train_student(job, options, method, made.targets, 0) == 0
    assert load_model(job.out / "model.safetensors")[1].role == "student"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"methods": {"m": {"features": 1}}}, "method m: .*features compares maps.*take soft_labels"),
        ({"methods": {"m": {"attention": 1}}}, "no maps, but attention"),
        ({"methods": {"m": {"cosine": 1}}}, "cosine with projector: linear and local: 0"),
        ({"methods": {"m": {"softmax_regression": 1}}}, "softmax_regression compares"),
        ({"methods": {"m": {"soft_labels": 1}}, "students": {"targets": "online"}}, "set targets: cached"),
        (
            {"methods": {"m": {"soft_labels": 1}}, "students": {"initial": "teacher"}},
            "set initial: noise, or higher",
        ),
    ],
)
def test_what_features_cannot_serve_is_refused_with_its_cure(content, message):
    with pytest.raises(UserError, match=message):
        parse_config({"teacher": {"features": "features"}, **content})


def test_students_on_features_may_begin_with_one_another():
    """Whatever the teacher's section says of a network that is not there; the highest begins with noise."""
    own = {"cross_entropy": 1, "soft_labels": 1, "training": {"initial": "higher", "model": "resnet18"}}
    config = parse_config({"teacher": {"features": "features"}, "methods": {"m": own}})
    assert config.student_training("m").initial == "higher"
    assert config.beginnings()[0][1:] == (256, 128)


def test_a_head_takes_no_gpus():
    with pytest.raises(UserError, match="set gpus: 1, not 2"):
        parse_config({"teacher": {"features": "features", "gpus": 2}})


def test_a_study_on_features_asks_for_one_view_and_one_cell():
    methods = {"m": {"soft_labels": 1, "cosine": {"local": 0}}}
    methods["fine"] = methods["m"] | {"training": {"cell_um": 64}}
    options = target_options(parse_config({"teacher": {"features": "f"}, "methods": methods}))
    assert options.grids == {"5x": 1, "2.5x": 1, "1.25x": 1, "0.625x": 1}, "whatever grids students have"
    assert (options.views, options.features) == (1, "f")
