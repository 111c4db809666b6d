"""A disk that is full or read-only: every stage says so, loses nothing, and ends well once there is room."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import pytest
import torch
from lowmag import cli
from lowmag.recipe import StudentTraining
from lowmag.sections import Tiles
from lowmag.study import TargetOptions
from small_disk import Disk, disk
from synthetic_slides import noise, write_record, write_slide, write_whole_outline
from synthetic_tiles import CLASSES, HIGH, LOW, make_cohort

__all__ = ["disk"]

TILES = Tiles(field_um=128, students=[5, 2.5, 1.25, 0.625])
TRAINING = StudentTraining(stride=8, epochs=2, batch_size=4)
TARGETS = TargetOptions(grids={"2.5x": 2}, reads={"2.5x": ["features/area"]})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """A slide with its record and outline; tiles and splits of a cohort; a teacher."""
    folder = tmp_path_factory.mktemp("data")
    record = write_record(folder, write_slide(folder / "a.tiff", noise(700, 700), 1.0))
    write_whole_outline(folder, record).rename(folder / "outline.geojson")
    Path(record).rename(folder / "record.json")
    make_cohort(folder)
    before = torch.get_num_threads()
    assert cli.main(training("teacher", folder, folder / "teacher", folder / "state")) == 0
    yield folder
    torch.set_num_threads(before)


def training(role: str, data: Path, out: Path, state: Path) -> list[str]:
    """The command line of a training that saves its state after every step."""
    options = TRAINING if role == "student" else TRAINING.model_copy(update={"epochs": 1})
    kept = options.model_dump(exclude_defaults=True)
    command = [
        role,
        "--tiles",
        data / "tiles",
        "--splits",
        data / "splits.csv",
        "--classes",
        json.dumps(CLASSES),
    ]
    command += ["--magnification", LOW if role == "student" else HIGH, "--out", out, "--state", state]
    command += ["--checkpoint-minutes", 0, "--threads", 1, "--options", json.dumps(kept)]
    command += ["--method", '{"cross_entropy": 1}'] if role == "student" else []
    return [str(part) for part in command]


def tiles(data: Path, out: Path) -> list[str]:
    command = ["tiles", "--record", data / "record.json", "--outline", data / "outline.geojson"]
    return [str(part) for part in [*command, "--out", out / "a.h5", "--options", TILES.model_dump_json()]]


def targets(data: Path, out: Path) -> list[str]:
    command = ["targets", "--teacher", data / "teacher/model.safetensors", "--tiles", data / "tiles"]
    command += ["--splits", data / "splits.csv", "--out", out, "--threads", 1]
    return [str(part) for part in [*command, "--options", TARGETS.model_dump_json()]]


def predictions(data: Path, out: Path) -> list[str]:
    command = ["predict", "--model", data / "teacher/model.safetensors", "--tiles", data / "tiles"]
    return [str(part) for part in [*command, "--splits", data / "splits.csv", "--out", out, "--threads", 1]]


def student(data: Path, out: Path) -> list[str]:
    return training("student", data, out, out.parent / "student-state")


def outputs_of_student(data: Path, out: Path) -> list[str]:
    """As `student`, its state on another disk."""
    return training("student", data, out, data / f"state-of-{out.parent.name}")


STAGES: list[Callable[[Path, Path], list[str]]] = [tiles, targets, predictions, student, outputs_of_student]


def note(found: dict[str, object], file: str, name: str, item: h5py.Dataset | h5py.Group) -> None:
    if isinstance(item, h5py.Dataset):
        found[f"{file}/{name}"] = item[()].tolist() if item.dtype.hasobject else item[()].tobytes()


def kept(folder: Path) -> dict[str, object]:
    """What a stage left that is the same in every run, by name; nothing half written among it."""
    found: dict[str, object] = {}
    for path in sorted(folder.rglob("*")):
        assert not path.name.startswith("."), f"{path} was left behind"
        if path.suffix in {".parquet", ".safetensors"}:
            found[path.name] = path.read_bytes()
        elif path.suffix == ".h5":
            with h5py.File(path) as file:
                assert file.attrs["complete"]
                file.visititems(partial(note, found, path.name))
    return found


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize(
    ("hinder", "cure", "said"),
    [
        (Disk.fill, Disk.make_room, "No space left on device; make room there"),
        (
            lambda disk: disk.remount("ro"),
            lambda disk: disk.remount("rw"),
            "Read-only file system; make its folder writable",
        ),
    ],
    ids=["full", "read-only"],
)
def test_is_said_and_cured(data, disk, tmp_path, capsys, stage, hinder, cure, said):
    out = disk.folder / "out"
    out.mkdir()
    assert cli.main(stage(data, tmp_path / "elsewhere")) == 0
    hinder(disk)
    assert cli.main(stage(data, out)) == 2
    message = capsys.readouterr().err
    assert f"lowmag {stage(data, out)[0]}: " in message
    assert said in message
    assert "Traceback" not in message
    assert kept(out) == {}
    cure(disk)
    assert cli.main(stage(data, out)) == 0
    assert kept(out) == kept(tmp_path / "elsewhere")
    assert kept(out)


def test_state_of_a_training_outlives_a_full_disk(data, disk, tmp_path, capsys):
    command = student(data, disk.folder / "out")
    assert cli.main(student(data, tmp_path / "elsewhere")) == 0
    assert cli.main([*command, "--budget", "0"]) == 75
    checkpoint = disk.folder / "student-state/checkpoint.pt"
    before = checkpoint.read_bytes()
    disk.fill()
    assert cli.main(command) == 2
    assert "checkpoint.pt cannot be written: No space left on device; make room" in capsys.readouterr().err
    assert checkpoint.read_bytes() == before
    disk.make_room()
    assert cli.main(command) == 0
    assert json.loads((disk.folder / "out/run.json").read_text())["sessions"] == 2
    assert kept(disk.folder / "out") == kept(tmp_path / "elsewhere")
    assert [path.name for path in checkpoint.parent.iterdir()] == ["lock"]
