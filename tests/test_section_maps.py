"""Whole sections as input: grids, stored maps, and training one by one, as DiPalma et al. 2021 do."""

import csv
import json
import math
from itertools import islice
from pathlib import Path

import h5py
import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from lowmag import train
from lowmag.augment import dihedral
from lowmag.bank import Bank
from lowmag.checkpoint import EXIT_UNFINISHED
from lowmag.errors import UserError
from lowmag.index import TileIndex, index_tiles
from lowmag.lesson import Task, plan_epoch, prepare_lesson
from lowmag.methods import teacher_targets
from lowmag.models import load_model, prepare
from lowmag.networks import build, count_gmac
from lowmag.predict import PredictionJob, write_predictions
from lowmag.recipe import Architecture, StudentTraining, Training
from lowmag.section_maps import check_sections, section_cells
from lowmag.splits import read_splits
from lowmag.stages import teacher_attention
from lowmag.study import TargetOptions
from lowmag.supply import supply
from lowmag.target_file import Targets
from lowmag.targets import Source, write_targets
from lowmag.terms import Method
from safetensors.torch import load_file
from synthetic_tiles import CLASSES, HIGH, LOW, Cohort, make_cohort
from torch.nn import functional

CPU = torch.device("cpu")
NETWORK = Architecture(stride=8)
ONE_BY_ONE = StudentTraining(stride=8, epochs=1, batch_size=4, accumulate=4, select="last", lr=1e-4)
DIPALMA = Method.model_validate({"soft_labels": 1, "features": {"resize": "maxpool+bicubic"}})
EVERY_FORM = Method.model_validate(
    {"soft_labels": 1, "features": {"resize": "maxpool+bicubic"}, "attention": {"stage": -2}, "cosine": 1}
)
OPTIONS = TargetOptions(
    grids={"2.5x": 0},
    sections={"2.5x": NETWORK},
    reads={"2.5x": EVERY_FORM.reads},
    earlier={"inside-2": {"2.5x": 0}},
)
SIZES = [(96, 160), (72, 68)]  # width and height at HIGH; at LOW 24 x 40 and 18 x 17


def job_of(cohort: Path, out: Path, **changes) -> train.Job:
    fields = {"magnification": LOW, "seed": 0, "threads": 1, **changes}
    state = out.with_name(f"{out.name}-state")
    return train.Job(cohort / "tiles", cohort / "splits.csv", CLASSES, out=out, state=state, **fields)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sections of two shapes, a teacher of one epoch and its targets."""
    folder = tmp_path_factory.mktemp("sections")
    tiles, splits = make_cohort(folder, Cohort(train=("calm", "busy", ""), sections=SIZES))
    options = Training(stride=8, epochs=1, batch_size=2, accumulate=2)
    assert train.train_teacher(job_of(folder, folder / "teacher", magnification=HIGH), options) == 0
    write_targets(Source(folder / "teacher/model.safetensors", tiles, splits), folder / "targets", OPTIONS)
    return folder


def index_of(cohort: Path) -> TileIndex:
    rows = [row for row in read_splits(cohort / "splits.csv") if row.split == "train"]
    return index_tiles(cohort / "tiles", rows, CLASSES)


@pytest.mark.parametrize(("model", "stride"), [("resnet10gn", 8), ("resnet10gn", 32), ("vgg16", 16)])
def test_the_grid_of_a_section_is_that_of_the_networks_map(model: str, stride: int) -> None:
    architecture = Architecture.model_validate({"model": model, "stride": stride})
    network = build(architecture, 2).eval()
    size = np.array([[65, 32], [16, 100], [65, 32]])
    for (width, height), cells in zip(size, section_cells(architecture, size, -1), strict=True):
        with torch.no_grad():
            assert network(torch.zeros(1, 3, height, width))[0].shape[2:] == tuple(cells)


@pytest.mark.parametrize("view", range(8))
def test_cached_is_what_the_teacher_says_of_the_section_in_that_view(cohort: Path, view: int) -> None:
    index, targets = index_of(cohort), Targets(cohort / "targets/2.5x", EVERY_FORM, CPU)
    network, spec = load_model(cohort / "teacher/model.safetensors")
    bank = Bank(index, np.arange(index.n), HIGH, CPU)
    student, _ = load_model(cohort / "teacher/model.safetensors")  # any network of the student's stride
    for section in (0, 3):
        turned = dihedral(prepare(next(bank.batches(np.array([section]), 1)), spec), view)
        width, height = index.size_at(LOW)[section]
        with torch.inference_mode():
            own = student(dihedral(torch.zeros(1, 3, height, width), view))[0].shape[2:]
            expected = teacher_targets(
                network(turned),
                network.head.weight,
                tuple(own),
                resizes=["maxpool", "bicubic", "area"],
                relus=[],
            )
        cached = targets.batch(torch.tensor([section]), torch.tensor([view]), torch.tensor([-1]))
        torch.testing.assert_close(cached.logits, expected.logits, rtol=1e-4, atol=1e-5)
        assert set(cached.features) == {"maxpool", "bicubic", "area"}
        for form, maps in cached.features.items():
            # float16 keeps 11 bits.
            torch.testing.assert_close(maps, expected.features[form], rtol=1e-3, atol=1e-4)
        fine = teacher_attention(network, turned, -2, "inside")
        earlier = functional.adaptive_avg_pool2d(
            fine, section_cells(NETWORK, index.size_at(LOW), -2)[section].tolist()[:: -1 if view & 4 else 1]
        )
        scale = earlier.max().item()
        torch.testing.assert_close(cached.attention["inside-2"], earlier, rtol=1e-3, atol=1e-3 * scale)


def test_datasets_of_different_views_are_each_read_by_their_own(cohort: Path, tmp_path: Path) -> None:
    """A study of fewer views keeps files of more, and adds others of its own number beside them."""
    source = Source(cohort / "teacher/model.safetensors", cohort / "tiles", cohort / "splits.csv")
    forms = DIPALMA.reads[1:]
    maps = OPTIONS.model_copy(update={"reads": {"2.5x": forms}, "earlier": {}})
    write_targets(source, tmp_path, maps)
    more = {"reads": {"2.5x": ["logits", *forms]}, "views": 4}
    assert supply(source, tmp_path / "2.5x", maps.model_copy(update=more), math.inf)
    added, whole = (Targets(folder / "2.5x", DIPALMA, CPU) for folder in (tmp_path, cohort / "targets"))
    assert added.n_views == 4
    for told in ((torch.tensor([section]), torch.tensor([3]), torch.tensor([-1])) for section in range(6)):
        for form, expected in whole.batch(*told).features.items():
            assert torch.equal(added.batch(*told).features[form], expected)


def test_targets_say_the_grid_of_every_section(cohort: Path) -> None:
    with h5py.File(cohort / "targets/2.5x/attention-inside-2.h5") as file:
        assert file["cells-2"][:2].tolist() == [[10, 6], [5, 5]]  # pyright: ignore
    with h5py.File(cohort / "targets/2.5x/features-area.h5") as file:
        assert file["cells"][:2].tolist() == [[5, 3], [3, 3]]  # pyright: ignore
        assert file["values"].shape == (3 * (15 + 9) * 8 * 256,)  # pyright: ignore
        assert file.attrs["grid"] == 0


def test_targets_of_another_network_or_of_tiles_are_refused(cohort: Path, tmp_path: Path) -> None:
    job = job_of(cohort, tmp_path / "run")
    coarse = ONE_BY_ONE.model_copy(update={"stride": 16})
    with pytest.raises(UserError, match="have grid of another network for 6 sections"):
        train.train_student(job, coarse, DIPALMA, cohort / "targets/2.5x", 0)
    tiles, _ = make_cohort(tmp_path / "tiles", Cohort(train=("calm", "busy", ""), tiles_per_slide=2))
    with pytest.raises(UserError, match="are of tiles where sections are trained on, or the reverse"):
        train.train_student(
            job_of(tiles.parent, tmp_path / "b"), ONE_BY_ONE, DIPALMA, cohort / "targets/2.5x", 0
        )


@pytest.mark.parametrize("method", [DIPALMA, EVERY_FORM], ids=["dipalma", "every form"])
def test_students_train_on_labelled_and_unlabelled_sections(
    cohort: Path, tmp_path: Path, method: Method
) -> None:
    """Without a label in the loss, stopped after every step, and the same bit for bit."""
    targets = cohort / "targets/2.5x"
    assert train.train_student(job_of(cohort, tmp_path / "whole"), ONE_BY_ONE, method, targets, 100) == 0
    status, sessions = EXIT_UNFINISHED, 0
    while status == EXIT_UNFINISHED:
        job = job_of(cohort, tmp_path / "parted", budget_minutes=0)
        status, sessions = train.train_student(job, ONE_BY_ONE, method, targets, 100), sessions + 1
    assert (status, sessions) == (0, 3)
    whole, parted = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parted"))
    assert all(torch.equal(whole[name], parted[name]) for name in whole)
    run = json.loads((tmp_path / "whole/run.json").read_text())
    assert run["data"]["train_unlabelled"]["tiles"] == 2
    _, spec = load_model(tmp_path / "whole/model.safetensors")
    assert (spec.tile_px, spec.field_um, spec.mpp) == (0, 0, 4.0)


@pytest.mark.parametrize("rotation", [0, 30])
def test_a_teacher_can_be_asked_about_sections_in_every_step(
    cohort: Path, tmp_path: Path, rotation: int
) -> None:
    augment = {"dihedral": True, "hue": 0.1, "rotation": rotation}
    options = StudentTraining.model_validate(
        ONE_BY_ONE.model_dump() | {"targets": "online", "augment": augment}
    )
    job = job_of(cohort, tmp_path / "run", budget_minutes=0)
    teacher = cohort / "teacher/model.safetensors"
    assert train.train_student(job, options, EVERY_FORM, teacher, 100) == EXIT_UNFINISHED
    state = torch.load(job.state / "checkpoint.pt", weights_only=True)["state"]
    assert state["progress"]["totals"].isfinite().all()
    assert state["progress"]["totals"][0] > 0


def test_sections_one_by_one_are_the_whole_batch(tmp_path: Path) -> None:
    """Of equal sections, which alone can also be passed together: the loss and the step are the same."""
    tiles, splits = make_cohort(tmp_path, Cohort(train=("calm", "busy", ""), sections=[(96, 160)] * 2))
    assert (
        train.train_teacher(
            job_of(tmp_path, tmp_path / "teacher", magnification=HIGH),
            Training(stride=8, epochs=1, batch_size=2, accumulate=2),
        )
        == 0
    )
    write_targets(
        Source(tmp_path / "teacher/model.safetensors", tiles, splits), tmp_path / "targets", OPTIONS
    )
    unturned = ONE_BY_ONE.augment.model_copy(update={"dihedral": "flips"})  # which keep the shape
    for name, parts in (("one", 32), ("all", 1)):
        options = ONE_BY_ONE.model_copy(update={"augment": unturned, "batch_size": 32, "accumulate": parts})
        job = job_of(tmp_path, tmp_path / name)
        assert train.train_student(job, options, DIPALMA, tmp_path / "targets/2.5x", 100) == 0
    one, all_ = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "all"))
    for name, value in all_.items():
        torch.testing.assert_close(one[name], value, rtol=1e-3, atol=2e-5, msg=name)
    losses = []
    for name in ("one", "all"):
        with (tmp_path / name / "metrics.csv").open(newline="") as file:
            losses.append(float(next(csv.DictReader(file))["loss"]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_sections_of_several_sizes_do_not_go_together(cohort: Path, tmp_path: Path) -> None:
    options = ONE_BY_ONE.model_copy(update={"accumulate": 2})
    with pytest.raises(UserError, match="not 2 at a time; set accumulate to the value of batch_size"):
        train.train_student(job_of(cohort, tmp_path / "run"), options, DIPALMA, cohort / "targets/2.5x", 0)


def test_sections_too_small_for_a_network_are_named(cohort: Path) -> None:
    index = index_of(cohort)
    check_sections(index, np.arange(6), NETWORK, LOW)
    vgg = Architecture(model="vgg16", stride=16)
    check_sections(index, np.arange(6), vgg, LOW)
    index.size[3] = (60, 200)  # 15 pixels wide
    with pytest.raises(UserError, match=r"train1\[1\] is 15 x 50 px at 2.5x, too small for vgg16 \(1 such"):
        check_sections(index, np.arange(6), vgg, LOW)
    check_sections(index, np.arange(6), NETWORK, LOW)


def test_a_slides_score_is_the_mean_of_its_sections(cohort: Path, tmp_path: Path) -> None:
    model = cohort / "teacher/model.safetensors"
    write_predictions(PredictionJob(model, cohort / "tiles", cohort / "splits.csv", tmp_path, 1))
    tiles, slides = (
        parquet.read_table(tmp_path / f"{name}.parquet").to_pylist() for name in ("tiles", "slides")
    )
    assert [row["tile"] for row in tiles] == [0, 1] * 4
    for row in slides:
        of_slide = [tile["p_busy"] for tile in tiles if tile["slide_id"] == row["slide_id"]]
        assert row["p_busy"] == pytest.approx(np.mean(of_slide))
    found = json.loads((tmp_path / "cost.json").read_text())
    network, _ = load_model(model)
    # The mean area of 96 x 160 and 72 x 68 pixels lies as far from both; the first of them is timed.
    assert (found["timed_px"], found["batch_size"]) == ([96, 160], 1)
    assert found["gmac_per_tile"] == pytest.approx(count_gmac(network, (160, 96)))
    assert found["gmac_per_mm2"] == pytest.approx(found["gmac_per_tile"] / (96 * 160 * 1e-6))


@pytest.mark.parametrize("rotation", [0, 45])
def test_a_teacher_is_asked_about_sections_in_the_students_view(cohort: Path, rotation: float) -> None:
    """DiPalma's own way: one section at a time, one draw for both. Of exact views it says what is stored."""
    augment = {"brightness": 0, "contrast": 0, "saturation": 0, "stain": 0, "rotation": rotation}
    options = StudentTraining.model_validate({**ONE_BY_ONE.model_dump(), "augment": augment})
    sources = {"online": cohort / "teacher/model.safetensors", "cached": cohort / "targets/2.5x"}
    found = {}
    for kind, source in sources.items():
        if kind == "cached" and rotation:
            continue
        task = Task(
            job_of(cohort, cohort / "none"),
            "student",
            options.model_copy(update={"targets": kind}),
            EVERY_FORM,
            source,
            100,
        )
        lesson = prepare_lesson(task, CPU)
        plan = plan_epoch(lesson, 0)
        parts = list(islice(train._parts(lesson, plan, 0, 1), 4))
        assert len({tuple(part.fine.shape) for part in parts if part.fine is not None}) == 2 * (
            kind == "online"
        )
        places = [train.Places(slice(n, n + 1), slice(0, 4)) for n in range(4)]
        found[kind] = torch.stack(
            [train._add_gradients(lesson, plan, own, part) for own, part in zip(places, parts, strict=True)]
        )
        assert (found[kind] > 0).all()
    if not rotation:
        torch.testing.assert_close(found["online"], found["cached"], rtol=2e-3, atol=1e-5)
