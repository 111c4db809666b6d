"""What is stored of a teacher is added to, never written twice, and made again where it is gone."""

import json
import os
import signal
import threading
import time
from pathlib import Path

import h5py
import pytest
import torch
from lowmag import cli, ownership, run_lock, targets, train
from lowmag.checkpoint import EXIT_UNFINISHED
from lowmag.errors import UserError
from lowmag.models import load_model, save_model
from lowmag.recipe import Architecture, StudentTraining
from lowmag.study import TargetOptions
from lowmag.supply import supply
from lowmag.target_file import Targets, file_of
from lowmag.targets import Source, write_targets
from lowmag.terms import Method
from synthetic_tiles import CLASSES, LOW, TEACHER, make_cohort
from synthetic_training import assert_same_run

pytestmark = pytest.mark.usefixtures("one_thread")
SOFT = TargetOptions(grids={"2.5x": 2, "5x": 4}, reads={"2.5x": ["logits"], "5x": ["logits"]}, views=2)
MORE = TargetOptions(
    grids={"2.5x": 2, "5x": 4, "2.5x-4": 4},
    reads={"2.5x": ["logits", "features/area"], "5x": ["logits"], "2.5x-4": ["attention/inside-2"]},
    earlier={"inside-2": {"2.5x-4": 4}},
    views=2,
)
FOREVER = float("inf")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    folder = tmp_path_factory.mktemp("supply")
    tiles, splits = make_cohort(folder)
    save_teacher(folder / "model.safetensors", 0)
    return Source(folder / "model.safetensors", tiles, splits)


@pytest.fixture
def out(source: Source, tmp_path: Path) -> Path:
    """A seed's folder with what methods of soft labels read."""
    write_targets(source, tmp_path / "t", SOFT)
    return tmp_path / "t"


def save_teacher(path: Path, seed: int) -> None:
    from lowmag.networks import build

    torch.manual_seed(seed)
    save_model(path, build(Architecture(stride=8), 2), TEACHER)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    files = folder.rglob("*.h5")
    return {str(path.relative_to(folder)): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def test_soft_labels_alone_store_logits_alone(source: Source, out: Path) -> None:
    assert set(stamps(out)) == {"2.5x/logits.h5", "5x/logits.h5"}
    with h5py.File(out / "2.5x/logits.h5") as file:
        n, views, classes = file["values"].shape  # pyright: ignore
    assert (views, classes) == (2, 2)
    # Twice 2 numbers of 4 bytes a tile; the head of 256 channels and the names are some 20 kB in all.
    assert (out / "2.5x/logits.h5").stat().st_size < n * 2 * 2 * 4 + 20_000


def test_what_is_there_is_left_alone_and_the_rest_is_written(source: Source, out: Path) -> None:
    before, record = stamps(out), (out / "targets.json").stat().st_mtime_ns
    assert supply(source, out / "2.5x", SOFT, FOREVER)
    assert stamps(out) == before
    assert supply(source, out / "2.5x", MORE, FOREVER)
    after = stamps(out)
    assert set(after) - set(before) == {"2.5x/features-area.h5", "2.5x-4/attention-inside-2.h5"}
    assert {name: after[name] for name in before} == before
    assert (out / "targets.json").stat().st_mtime_ns == record  # Snakemake would train all students again
    assert supply(source, out / "2.5x-4", MORE, FOREVER)
    assert stamps(out) == after


def test_what_is_added_is_what_would_have_been_written_at_once(
    source: Source, out: Path, tmp_path: Path
) -> None:
    assert supply(source, out / "2.5x", MORE, FOREVER)
    write_targets(source, tmp_path / "at once", MORE)
    for name in stamps(out):
        with h5py.File(out / name) as added, h5py.File(tmp_path / "at once" / name) as whole:
            assert (added["values"][()] == whole["values"][()]).all(), name  # pyright: ignore
            assert added.attrs["asked"] == whole.attrs["asked"]


def test_a_form_on_the_teachers_own_grid_is_the_one_that_is_there(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There nothing is resized: another form takes neither a pass of the teacher nor room."""
    area = TargetOptions(grids={"2.5x": 8}, reads={"2.5x": ["features/area"]}, views=1)
    write_targets(source, tmp_path, area)
    both = area.model_copy(update={"reads": {"2.5x": ["features/area", "features/bicubic"]}})
    monkeypatch.setattr(targets, "say", lambda *_: pytest.fail("the teacher was asked"))
    assert supply(source, tmp_path / "2.5x", both, FOREVER)
    one, other = (file_of(tmp_path / "2.5x", form) for form in both.reads["2.5x"])
    assert one.samefile(other)


def test_deleted_and_damaged_files_are_made_again(source: Source, out: Path) -> None:
    expected = {name: (out / name).read_bytes() for name in stamps(out)}
    (out / "2.5x/logits.h5").unlink()
    (out / "5x/logits.h5").write_bytes(expected["5x/logits.h5"][:5000])
    assert supply(source, out / "2.5x", SOFT, FOREVER)
    with h5py.File(out / "5x/logits.h5") as file:
        assert file.attrs["complete"]
    assert len((out / "2.5x/logits.h5").read_bytes()) == len(expected["2.5x/logits.h5"])


@pytest.mark.parametrize(
    "changes",
    [
        {"views": 8},
        {"grids": {"2.5x": 4, "5x": 4}},
    ],
)
def test_other_views_or_grids_are_written_over(source: Source, out: Path, changes: dict) -> None:
    before = stamps(out)
    assert supply(source, out / "2.5x", SOFT.model_copy(update=changes), FOREVER)
    assert stamps(out)["2.5x/logits.h5"] != before["2.5x/logits.h5"]


def test_another_teachers_are_written_over(source: Source, out: Path, tmp_path: Path) -> None:
    save_teacher(tmp_path / "model.safetensors", 1)
    other = Source(tmp_path / "model.safetensors", source.tiles, source.splits)
    assert supply(other, out / "2.5x", SOFT, FOREVER)
    method = Method.model_validate({"soft_labels": 1})
    targets = Targets(out / "2.5x", method, torch.device("cpu"))
    network, _ = load_model(other.teacher)
    with h5py.File(out / "2.5x/logits.h5") as file:
        assert (file["head/weight"][()] == network.head.weight.detach().numpy()).all()  # pyright: ignore
    assert targets.n_views == 2


def test_another_one_at_work_is_waited_for(
    source: Source, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two students that lack the same one writes, and the other finds it."""
    monkeypatch.setattr(run_lock, "POLL_S", 0.05)
    written, original = [], targets._create
    monkeypatch.setattr(targets, "_create", lambda *told: written.append(told[2]) or original(*told))
    threads = [threading.Thread(target=supply, args=(source, out / "2.5x", MORE, FOREVER)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(written) == [("2.5x", "features/area"), ("2.5x-4", "attention/inside-2")]


def test_a_signal_stops_it_and_nothing_half_written_is_left(
    source: Source, out: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before, original = stamps(out), targets.say

    def say(*told):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*told)

    monkeypatch.setattr(targets, "say", say)
    assert not supply(source, out / "2.5x", MORE, FOREVER)
    assert stamps(out) == before
    monkeypatch.setattr(targets, "say", original)
    caplog.clear()
    assert not supply(source, out / "2.5x", MORE, 0)  # no time at all
    assert "raise compute.students.runtime" in caplog.text
    assert stamps(out) == before
    assert supply(source, out / "2.5x", MORE, FOREVER)


def test_a_signal_at_the_very_end_is_not_forgotten(
    source: Source, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written stays; but the student must not begin to train, whoever sent it waits for its end."""
    original = targets._finish

    def finish(*told):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(*told)

    monkeypatch.setattr(targets, "_finish", finish)
    assert not supply(source, out / "2.5x", MORE, FOREVER)
    assert file_of(out / "2.5x", "features/area").exists()


def test_whether_there_is_time_for_a_batch_is_asked_before_it(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, asked = targets.say, []
    monkeypatch.setattr(targets, "say", lambda *told: time.sleep(0.1) or original(*told))
    monkeypatch.setattr(targets, "inference_batch", lambda _: 1)
    with pytest.raises(targets.StoppedError):
        targets.add_targets(source, tmp_path, SOFT, lambda ahead: asked.append(ahead) or len(asked) == 3)
    assert len(asked) == 3
    assert min(asked) >= 0.2  # two views of a tile
    assert not stamps(tmp_path)


def test_a_student_that_outlived_its_snakemake_adds_nothing(
    source: Source, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one may have written the targets anew by then, of other tiles."""
    monkeypatch.setenv(ownership.RUN, str(tmp_path / "swept"))
    before = stamps(out)
    assert cli.main(command(source, out, tmp_path)) == 2
    assert stamps(out) == before


def test_a_grid_that_nobody_asks_for_is_refused(source: Source, out: Path) -> None:
    with pytest.raises(UserError, match=r"1.25x is no grid that is asked for \(2.5x, 5x\)"):
        supply(source, out / "1.25x", SOFT, FOREVER)


def command(source: Source, targets: Path, folder: Path, **flags) -> list[str]:
    options = StudentTraining(stride=8, epochs=1, batch_size=4).model_dump(exclude_defaults=True)
    options |= {"augment": {"dihedral": "horizontal"}}
    told = {
        **{"method": '{"features": {"resize": "area"}}', "tiles": source.tiles, "splits": source.splits},
        **{"classes": json.dumps(CLASSES), "magnification": LOW, "out": folder / "run"},
        **{"state": folder / "state", "threads": 1, "options": json.dumps(options)},
        **{"targets": targets / "2.5x", "teacher": source.teacher, "asked": MORE.model_dump_json(), **flags},
    }
    return ["student", *(str(part) for k, v in told.items() if v is not None for part in (f"--{k}", v))]


def test_what_writing_took_is_no_more_there_for_training(
    source: Source, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nothing but the budget tells when a job ends, it would be killed twice as late as it thinks."""
    left = []
    monkeypatch.setattr(train, "train_student", lambda job, *_: left.append(job.budget_minutes) or 0)
    assert cli.main(command(source, out, tmp_path, budget=5)) == 0
    assert file_of(out / "2.5x", "features/area").exists()
    assert 0 < left[0] < 5


def test_a_student_has_what_it_lacks_written_and_trains(source: Source, out: Path, tmp_path: Path) -> None:
    assert cli.main(command(source, out, tmp_path, asked=None)) == 2  # features were not stored
    assert cli.main(command(source, out, tmp_path, budget=0)) == EXIT_UNFINISHED
    assert not file_of(out / "2.5x", "features/area").exists()
    assert cli.main(command(source, out, tmp_path)) == 0
    again = {"out": tmp_path / "again", "state": tmp_path / "again-state"}
    assert cli.main(command(source, out, tmp_path, **again)) == 0  # and found all written: the same run
    assert_same_run(tmp_path / "run", tmp_path / "again")
    assert cli.main(command(source, out, tmp_path, teacher=None)) == 2
