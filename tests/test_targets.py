"""Targets: what is stored is what the teacher says of the very same view; wrong files are refused."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from lowmag.augment import dihedral
from lowmag.bank import Bank
from lowmag.errors import UserError
from lowmag.index import TileIndex, index_tiles
from lowmag.methods import teacher_targets
from lowmag.models import load_model, prepare, save_model, weights_sha256
from lowmag.networks import build
from lowmag.recipe import Architecture
from lowmag.splits import read_splits
from lowmag.stages import teacher_attention
from lowmag.store import Layout, TileRow, writing
from lowmag.study import TargetOptions
from lowmag.target_file import Targets, file_of
from lowmag.targets import Source, write_targets
from lowmag.terms import Method
from synthetic_tiles import CLASSES, HIGH, STUDENT, TEACHER, Cohort, make_cohort

CPU = torch.device("cpu")
FORMS = ("features/area", "features/bicubic", "features/maxpool")
EVERY_FORM = ["logits", *FORMS, "attention/inside", "attention/outside"]
OPTIONS = TargetOptions(grids={"2.5x": 2, "5x": 4}, reads={"2.5x": EVERY_FORM, "5x": EVERY_FORM})
ALL_TERMS = Method.model_validate(
    {"soft_labels": 1, "features": {"resize": "maxpool+bicubic"}, "attention": 1}
)


@dataclass(frozen=True)
class Made:
    teacher: Path
    tiles: Path
    splits: Path
    out: Path

    @property
    def source(self) -> Source:
        return Source(self.teacher, self.tiles, self.splits)

    @property
    def index(self) -> TileIndex:
        return index_tiles(self.tiles, [r for r in read_splits(self.splits) if r.split == "train"], CLASSES)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("targets")
    # More tiles than a batch of the writer holds is not needed: 12 tiles, one slide of them empty.
    tiles, splits = make_cohort(
        folder, Cohort(train=("calm", "busy", "", "calm"), tile_labels={"train1": ()})
    )
    torch.manual_seed(0)
    teacher = folder / "model.safetensors"
    save_model(teacher, build(Architecture(stride=8), 2), TEACHER)
    write_targets(Source(teacher, tiles, splits), folder / "targets", OPTIONS)
    return Made(teacher, tiles, splits, folder / "targets")


def online(made: Made, ids: list[int], views: list[int], cells: int):
    network, spec = load_model(made.teacher)
    bank = Bank(made.index, np.arange(made.index.n), HIGH, CPU)
    pictures = prepare(torch.cat(list(bank.batches(np.array(ids), 100))), spec)
    turned = torch.stack([dihedral(picture, view) for picture, view in zip(pictures, views, strict=True)])
    with torch.inference_mode():
        return teacher_targets(
            network(turned),
            network.head.weight,
            cells,
            resizes=["maxpool", "bicubic", "area"],
            relus=["inside", "outside"],
        )


@pytest.mark.parametrize("views", [[view] * 4 for view in range(8)] + [[3, 0, 6, 5]])
def test_cached_is_what_the_teacher_says_online(made: Made, views: list[int]) -> None:
    ids = [0, 11, 5, 5]
    targets = Targets(made.out / "2.5x", ALL_TERMS, CPU)
    labels = torch.tensor([0, 0, -1, -1])
    cached = targets.batch(torch.tensor(ids), torch.tensor(views), labels)
    expected = online(made, ids, views, 2)
    assert cached.labels is labels
    torch.testing.assert_close(cached.logits, expected.logits, rtol=1e-4, atol=1e-5)
    assert set(cached.features) == {"maxpool", "bicubic"}
    assert set(cached.attention) == {"inside"}
    for form, maps in cached.features.items():
        # float16 keeps 11 bits.
        torch.testing.assert_close(maps, expected.features[form], rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(cached.attention["inside"], expected.attention["inside"], rtol=1e-3, atol=1e-4)


def test_attention_of_an_earlier_stage_is_stored_when_asked_for(made: Made, tmp_path: Path) -> None:
    """The teacher's map has 16 cells at stage -2, the student's 4: it is averaged, like the last one."""
    options = TargetOptions(
        grids={"2.5x": 2}, reads={"2.5x": ["attention/outside-2"]}, earlier={"outside-2": {"2.5x": 4}}
    )
    write_targets(made.source, tmp_path, options)
    method = Method.model_validate({"attention": {"relu": "outside", "stage": -2}})
    targets = Targets(tmp_path / "2.5x", method, CPU)
    targets.check_grid("attention/outside-2", 4)
    with pytest.raises(UserError, match="have a grid of attention/outside-2 of 4, expected 8"):
        targets.check_grid("attention/outside-2", 8)
    batch = targets.batch(torch.tensor([3]), torch.tensor([5]), torch.tensor([0]))
    network, spec = load_model(made.teacher)
    bank = Bank(made.index, np.arange(made.index.n), HIGH, CPU)
    picture = dihedral(prepare(next(bank.batches(np.array([3]), 1)), spec), 5)
    fine = teacher_attention(network, picture, -2, "outside")
    expected = fine.reshape(1, 2, 4, 4, 4, 4).mean((3, 5))
    torch.testing.assert_close(
        batch.attention["outside-2"], expected, rtol=1e-3, atol=1e-3 * expected.max().item()
    )
    assert [path.name for path in (tmp_path / "2.5x").iterdir()] == ["attention-outside-2.h5"]


def test_forms_that_are_one_map_are_stored_once(made: Made, tmp_path: Path) -> None:
    """On the teacher's own grid, as students of upsampled input have it, nothing is resized."""
    reads = {"2.5x": list(FORMS), "5x": list(FORMS)}
    options = TargetOptions(grids={"2.5x": 8, "5x": 4}, reads=reads, views=2)
    write_targets(made.source, tmp_path, options)
    own, resized = (tmp_path / name for name in options.grids)
    assert len({file_of(own, form).stat().st_ino for form in FORMS}) == 1
    assert len({file_of(resized, form).stat().st_ino for form in FORMS}) == 3
    with h5py.File(own / "features-area.h5") as file:
        assert file["values"].shape == (12, 2, 256, 8, 8)  # pyright: ignore
    assert (own / "features-area.h5").stat().st_size < 1.1 * 12 * 2 * (256 * 64) * 2 + 20_000
    method = Method.model_validate({"features": {"resize": "maxpool+bicubic"}})
    batch = Targets(own, method, CPU).batch(*torch.zeros(3, 4, dtype=torch.long))
    assert torch.equal(batch.features["maxpool"], batch.features["bicubic"])


def test_the_teachers_head_is_stored_beside(made: Made) -> None:
    network, _ = load_model(made.teacher)
    method = Method.model_validate({"softmax_regression": 1})
    batch = Targets(made.out / "2.5x", method, CPU).batch(*torch.zeros(3, 4, dtype=torch.long))
    assert batch.head is not None
    assert torch.equal(batch.head[0], network.head.weight)
    assert torch.equal(batch.head[1], network.head.bias)
    plain = Targets(made.out / "2.5x", Method.model_validate({"soft_labels": 1}), CPU)
    assert plain.batch(*torch.zeros(3, 4, dtype=torch.long)).head is None


def test_parts_fetched_ahead_are_the_batch_cut_up(made: Made) -> None:
    targets = Targets(made.out / "2.5x", ALL_TERMS, CPU)
    ids, views = torch.tensor([0, 11, 5, 5, 7]), torch.tensor([3, 0, 6, 5, 1])
    labels = torch.zeros(5, dtype=torch.long)
    whole = targets.batch(ids, views, labels)
    parts = [targets.told(stored, labels) for stored in targets.ahead(ids, views, 2)]
    assert [len(part.logits) for part in parts] == [2, 2, 1]
    for kind in ("features", "attention"):
        for form, maps in getattr(whole, kind).items():
            assert torch.equal(torch.cat([getattr(part, kind)[form] for part in parts]), maps)


def test_views_differ_by_more_than_a_flip_of_the_map(made: Made) -> None:
    """The stored views are worth their room: the map of a view is not the turned map of the tile."""
    targets = Targets(made.out / "2.5x", ALL_TERMS, CPU)
    ids = torch.arange(4)
    upright, flipped = (
        targets.batch(ids, torch.full((4,), view), ids).features["maxpool"] for view in (0, 1)
    )
    assert (dihedral(flipped, 1) - upright).abs().max() > 0.1 * upright.abs().max()


def test_map_follows_the_view(made: Made, tmp_path: Path) -> None:
    """What stands out in one quarter of a tile stands out in the turned quarter of every view's map."""
    splits = tmp_path / "splits.csv"
    splits.write_text("slide_id,patient_id,label,split\ns,p,calm,train\n")
    flat = np.full((64, 64, 3), 128, np.uint8)
    spotted = flat.copy()
    spotted[4:28, 36:60] = np.random.default_rng(0).integers(0, 256, (24, 24, 3))  # top right
    with writing(tmp_path / "tiles" / "s.h5", Layout([HIGH], {HIGH: 64}), {"slide_id": "s"}) as writer:
        for n, picture in enumerate((flat, spotted)):
            writer.append(TileRow(n, 0, 0, n, 1.0, {HIGH: picture}))
    write_targets(Source(made.teacher, tmp_path / "tiles", splits), tmp_path / "out", OPTIONS)
    with h5py.File(tmp_path / "out/2.5x/features-area.h5") as file:
        maps = torch.from_numpy(file["values"][()]).float()  # pyright: ignore
    place = torch.tensor([[0, 1], [0, 0]])
    for view in range(8):
        standing_out = (maps[1, view] - maps[0, view]).square().mean(0)
        assert standing_out.argmax() == dihedral(place, view).flatten().argmax(), view


def test_file_says_what_it_is(made: Made) -> None:
    found: dict[str, Any] = {}
    shapes = {}
    for name in ("logits", "features/area", "attention/outside"):
        with h5py.File(file_of(made.out / "5x", name)) as file:
            shapes[name] = file["values"].shape  # pyright: ignore
            found = dict(file.attrs)
    assert found["schema"] == "lowmag-targets"
    assert found["magnification"] == 5.0
    assert found["grid"] == 4
    assert list(found["classes"]) == list(CLASSES)
    assert found["teacher_sha256"] == weights_sha256(made.teacher)
    assert bool(found["complete"])
    assert shapes == {
        "logits": (12, 8, 2),
        "features/area": (12, 8, 256, 4, 4),
        "attention/outside": (12, 8, 2, 4, 4),
    }


def test_fits_its_tiles_and_student(made: Made) -> None:
    Targets(made.out / "2.5x", ALL_TERMS, CPU).check(made.index, STUDENT, 2, 256)


@pytest.mark.parametrize(
    ("changes", "cells", "channels", "message"),
    [
        ({"classes": ("busy", "calm")}, 2, 256, "have classes .*expected"),
        ({"magnification": 5.0}, 2, 256, "have magnification 2.5, expected 5"),
        ({}, 4, 256, "have grid 2, expected 4"),
        ({}, 2, 512, "have channels 256, expected 512"),
    ],
)
def test_other_student_is_refused(made: Made, changes, cells: int, channels: int, message: str) -> None:
    targets = Targets(made.out / "2.5x", ALL_TERMS, CPU)
    with pytest.raises(UserError, match=message):
        targets.check(made.index, replace(STUDENT, **changes), cells, channels)


def test_other_tiles_are_refused(made: Made) -> None:
    targets = Targets(made.out / "2.5x", ALL_TERMS, CPU)
    index = made.index
    index.counts[3] += 1
    with pytest.raises(UserError, match=r"of other slides or tiles.*train3 differ.*rerun"):
        targets.check(index, STUDENT, 2, 256)
    index.counts[3] -= 1
    with pytest.raises(UserError, match=r"are of tiles that were cut anew since.*rerun"):
        targets.check(replace(index, identity="of as many tiles"), STUDENT, 2, 256)
    other_order = replace(made.index, slides=made.index.slides[::-1], counts=made.index.counts[::-1])
    with pytest.raises(UserError, match="in another order"):
        targets.check(other_order, STUDENT, 2, 256)


def test_incomplete_and_foreign_files_are_refused(made: Made, tmp_path: Path) -> None:
    path = tmp_path / "2.5x"
    shutil.copytree(made.out / "2.5x", path)
    with h5py.File(path / "features-maxpool.h5", "a") as file:
        file.attrs["complete"] = False
    with pytest.raises(UserError, match="not complete"):
        Targets(path, ALL_TERMS, CPU)
    shutil.copy(made.tiles / "train0.h5", path / "logits.h5")
    with pytest.raises(UserError, match=r"schema 'lowmag-tiles', expected 'lowmag-targets'"):
        Targets(path, ALL_TERMS, CPU)
    (path / "logits.h5").write_text("nothing")
    with pytest.raises(UserError, match="cannot be opened as HDF5"):
        Targets(path, ALL_TERMS, CPU)
    with pytest.raises(UserError, match=r"absent hold no logits.*rerun `lowmag targets`"):
        Targets(tmp_path / "absent", ALL_TERMS, CPU)
    with pytest.raises(UserError, match="are one file, expected a folder"):  # as older versions wrote them
        Targets(path / "logits.h5", ALL_TERMS, CPU)


def test_datasets_of_two_teachers_or_of_other_tiles_are_not_mixed(made: Made, tmp_path: Path) -> None:
    shutil.copytree(made.out / "2.5x", tmp_path / "2.5x")
    for name in ("teacher_sha256", "tiles_identity"):
        with h5py.File(tmp_path / "2.5x/attention-inside.h5", "a") as file:
            before, file.attrs[name] = file.attrs[name], "0" * 64
        with pytest.raises(UserError, match=f"have another {name} than those beside them"):
            Targets(tmp_path / "2.5x", ALL_TERMS, CPU)
        with h5py.File(tmp_path / "2.5x/attention-inside.h5", "a") as file:
            file.attrs[name] = before


def test_what_was_there_is_deleted_when_all_is_written(made: Made, tmp_path: Path) -> None:
    """Nothing of other tiles is left to be read, and nothing else is touched."""
    shutil.copytree(made.out, tmp_path / "t")
    shutil.copy(made.out / "2.5x/logits.h5", tmp_path / "t/5x.h5")  # of older versions
    shutil.copy(made.tiles / "train0.h5", tmp_path / "t/2.5x/tiles.h5")
    options = TargetOptions(grids={"2.5x": 2}, reads={"2.5x": ["logits"]}, views=1)
    write_targets(made.source, tmp_path / "t", options)
    left = sorted(path.relative_to(tmp_path / "t").as_posix() for path in (tmp_path / "t").rglob("*.*"))
    assert left == ["2.5x", "2.5x/logits.h5", "2.5x/tiles.h5", "targets.json"]
    record = json.loads((tmp_path / "t/targets.json").read_text())
    assert record["teacher_sha256"] == weights_sha256(made.teacher)
    assert record["tiles"] == made.index.n


def test_form_that_was_not_stored_is_named(made: Made, tmp_path: Path) -> None:
    options = TargetOptions(grids={"2.5x": 2}, reads={"2.5x": ["logits", "features/area"]}, views=1)
    write_targets(made.source, tmp_path, options)
    with pytest.raises(UserError, match="hold no features/maxpool"):
        Targets(tmp_path / "2.5x", ALL_TERMS, CPU)
    assert Targets(tmp_path / "2.5x", Method.model_validate({"soft_labels": 1}), CPU).n_views == 1


def test_student_is_no_teacher(made: Made, tmp_path: Path) -> None:
    network, _ = load_model(made.teacher)
    save_model(tmp_path / "student.safetensors", network, STUDENT)
    with pytest.raises(UserError, match=r"is a student; give the model.safetensors of a teacher"):
        write_targets(Source(tmp_path / "student.safetensors", made.tiles, made.splits), tmp_path, OPTIONS)


def test_teacher_that_diverged_is_refused(made: Made, tmp_path: Path) -> None:
    network, spec = load_model(made.teacher)
    torch.nn.init.constant_(network.head.bias, float("nan"))
    save_model(tmp_path / "model.safetensors", network, spec)
    with pytest.raises(UserError, match="not finite numbers for tiles 0 to 11"):
        write_targets(
            Source(tmp_path / "model.safetensors", made.tiles, made.splits), tmp_path / "t", OPTIONS
        )
    assert list((tmp_path / "t").rglob("*.*")) == [tmp_path / "t/2.5x"]


def test_maps_too_large_to_be_stored_are_no_divergence(made: Made, tmp_path: Path) -> None:
    """float16 ends at 65504: a teacher may go beyond it and be a good one."""
    network, spec = load_model(made.teacher)
    with torch.no_grad():
        network.head.weight.mul_(1e6)
    save_model(tmp_path / "model.safetensors", network, spec)
    kept = TargetOptions(grids={"2.5x": 2}, reads={"2.5x": ["logits", "features/area"]}, views=1)
    told = tmp_path / "model.safetensors", made.tiles, made.splits
    write_targets(Source(*told), tmp_path / "kept", kept)
    with pytest.raises(UserError, match=r"attention/inside reach \d.*more than the 65504.*targets: online"):
        write_targets(Source(*told), tmp_path / "t", OPTIONS)
