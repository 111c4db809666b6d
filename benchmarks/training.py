"""How near training comes to the hardware's limit: every figure a ratio of two ways measured in turns.

    python benchmarks/training.py                 # all figures
    python benchmarks/training.py --quick         # few tiles, one round: that it runs, not how fast
    python benchmarks/training.py --only student_to_bare resident_to_files --rounds 5

On a GPU where there is one, else on the CPU. Ends with a line per figure: name, value, floor, ok or short.

student_to_bare      student at 1.25x (64 px), ResNet-18, labels, soft labels, features, attention, stored
                     targets, views, colours drawn: our loop by the bare step (one fixed batch on the
                     device, forward, cross-entropy, backward, clipping, optimiser)
teacher_to_bare      teacher at 10x (512 px), JPEG tiles from HDF5: our loop by the bare step
to_released_recipe   pictures/s of that student by those of the released recipe (see ordinary_loops)
vgg_to_released      the same for the method of that recipe on its own network, VGG16 at native 64 px
to_ordinary_loop     by those of an ordinary loop, whose batches are as large as pictures at 10x allow
targets_to_passes    seconds of writing targets of 8 views by those of 8 bare passes; lower is better
memory_to_resident   on a GPU: pictures/s from host memory by those with all tiles on the device
files_to_resident    pictures/s reading every batch from HDF5 by those with all tiles held
"""

import argparse
import dataclasses
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from lowmag import targets, train
from lowmag.bank import Bank, Place
from lowmag.checkpoint import Checkpoint, Stop
from lowmag.device import inference_batch, pick_device
from lowmag.lesson import Job, Lesson, Task, prepare_lesson
from lowmag.models import Network, save_model
from lowmag.recipe import StudentTraining
from lowmag.study import TargetOptions
from lowmag.terms import CrossEntropy, Method
from lowmag.views import Feed
from ordinary_loops import OrdinaryLoop, Pairs, ReleasedRecipe, finish
from torch.nn import functional
from torch.nn.utils import clip_grad_norm_
from training_cohort import CLASSES, Tiling, draw_targets, make_cohort

HIGH, LOW, PX = 10.0, 1.25, {10.0: 512, 1.25: 64}
EVERY_TERM = Method.model_validate(
    {"cross_entropy": 1, "soft_labels": 1, "features": {"resize": "area"}, "attention": 10}
)
DELAMOR = Method.model_validate(
    {
        "cross_entropy": 1,
        "features": {"weight": 0.1, "distance": "rmse", "resize": "area"},
        "attention": {"weight": 10, "relu": "inside", "distance": "rmse"},
    }
)
LABELS = Method(cross_entropy=CrossEntropy())


@dataclass(frozen=True)
class Sizes:
    """Tiles and batches of each measurement; every one is a few steps."""

    students: int
    student_batch: int
    teachers: int
    teacher_batch: int
    target_tiles: int
    released_batch: int


GPU = Sizes(65536, 1024, 2048, 64, 2048, 32)
CPU = Sizes(1024, 128, 64, 8, 64, 1)
QUICK = Sizes(64, 16, 8, 4, 4, 1)


@dataclass
class Bench:
    """Where everything lies, what it runs on, and what was found: medians of rates by name."""

    folder: Path
    device: torch.device
    sizes: Sizes
    rounds: int
    threads: int
    found: dict[str, dict[str, list[float]]] = dataclasses.field(default_factory=dict)

    def in_turns(self, figure: str, ways: dict[str, Callable[[], float]]) -> float:
        """Median of the first way's rate by the second's, after a round of each that is not counted."""
        for run in ways.values():
            run()
        rates = {name: [] for name in ways}
        for _ in range(self.rounds):
            for name, run in ways.items():
                rates[name].append(run())
        self.found[figure] = rates
        for name, values in rates.items():
            spread = f"{min(values):.4g} to {max(values):.4g}, n={len(values)}"
            print(f"{figure}: {name} {statistics.median(values):.4g} ({spread})", flush=True)
        first, second = (statistics.median(values) for values in rates.values())
        return first / second

    def lesson(self, name: str, options: StudentTraining, method: Method) -> Lesson:
        """A student of `method` at 1.25x, or without a teacher a network at 10x, ready to be trained."""
        folder, is_student = self.folder / name, method.needs_teacher
        n = self.sizes.students if is_student else self.sizes.teachers
        if not folder.exists():
            px = {2.5: 128, LOW: 64} if is_student else PX
            make_cohort(folder, Tiling(px, n))
        stored = folder / options.model
        if is_student and not stored.exists():
            shape = (512, 2 if options.model == "resnet18" else 4)
            draw_targets(stored, folder / "tiles", folder / "splits.csv", shape, LOW)
        job = Job(
            tiles=folder / "tiles",
            splits=folder / "splits.csv",
            classes=CLASSES,
            magnification=LOW if is_student else HIGH,
            seed=0,
            out=folder / "out",
            state=folder / "state",
            threads=self.threads,
        )
        role = "student" if is_student else "teacher"
        task = Task(job, role, options, method, stored if is_student else None)
        return prepare_lesson(task, self.device)


def main() -> None:
    """Print the rates of both ways of every figure, then the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few tiles, one round")
    parser.add_argument("--only", nargs="*", choices=list(FIGURES), default=list(FIGURES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rates", type=Path, help="write every rate that was measured, JSON")
    args = parser.parse_args()
    device = pick_device(args.threads)
    sizes = QUICK if args.quick else GPU if device.type == "cuda" else CPU
    lines = []
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), device, sizes, 1 if args.quick else args.rounds, args.threads)
        for name in args.only:
            measure, floor, lower_is_better = FIGURES[name]
            if (value := measure(bench, name)) is None:
                continue
            kept = value <= floor if lower_is_better else value >= floor
            lines.append(f"{name} {value:.3f} {floor:.3f} {'ok' if kept else 'short'}")
    if args.rates:
        args.rates.write_text(json.dumps(bench.found, indent=1) + "\n", encoding="utf-8")
    print("\n".join(lines))


def student_to_bare(bench: Bench, name: str) -> float:
    """Our loop of a student with every term by the bare step."""
    options = StudentTraining(model="resnet18", batch_size=bench.sizes.student_batch, epochs=1000)
    lesson = bench.lesson("student", options, EVERY_TERM)
    return bench.in_turns(name, {"loop": partial(_loop, lesson), "bare step": partial(_bare, lesson)})


def teacher_to_bare(bench: Bench, name: str) -> float:
    """Our loop of a teacher that reads every batch from HDF5 and decodes it, by the bare step."""
    options = StudentTraining(model="resnet18", batch_size=bench.sizes.teacher_batch, epochs=1000)
    lesson = bench.lesson("teacher", options, LABELS)
    lesson = _placed(lesson, "files")
    return bench.in_turns(name, {"loop": partial(_loop, lesson), "bare step": partial(_bare, lesson)})


def to_released_recipe(bench: Bench, name: str) -> float:
    """Our student by the released recipe."""
    options = StudentTraining(model="resnet18", batch_size=bench.sizes.student_batch, epochs=1000)
    return _by_released(bench, name, bench.lesson("student", options, EVERY_TERM))


def vgg_to_released(bench: Bench, name: str) -> float:
    """The recipe's own network and method, at the student's own size from stored targets, by the recipe."""
    batch = max(8, bench.sizes.student_batch // 8)
    options = StudentTraining(model="vgg16", stride=16, batch_size=batch, epochs=1000)
    return _by_released(bench, name, bench.lesson("student", options, DELAMOR))


def _by_released(bench: Bench, name: str, lesson: Lesson) -> float:
    recipe = ReleasedRecipe(PX[HIGH], PX[HIGH] // PX[LOW], bench.sizes.released_batch, bench.device)
    steps = 8 if bench.device.type == "cuda" else 1
    return bench.in_turns(name, {"loop": partial(_loop, lesson), "released": partial(recipe.run, steps)})


def to_ordinary_loop(bench: Bench, name: str) -> float:
    """Our student by the same student in an ordinary loop."""
    options = StudentTraining(model="resnet18", batch_size=bench.sizes.student_batch, epochs=1000)
    lesson = bench.lesson("student", options, EVERY_TERM)
    bench.lesson("teacher", options, LABELS)  # tiles at both magnifications
    pairs = Pairs(bench.folder / "teacher" / "tiles", (HIGH, LOW), bench.sizes.teachers // len(CLASSES))
    ordinary = OrdinaryLoop(pairs, min(bench.sizes.teacher_batch, len(pairs)), bench.threads, bench.device)
    return bench.in_turns(name, {"loop": partial(_loop, lesson), "ordinary": ordinary.run})


def targets_to_passes(bench: Bench, name: str) -> float:
    """Seconds of writing targets by those of eight passes over as many ready pictures."""
    folder, n = bench.folder / "targets", bench.sizes.target_tiles
    small = dataclasses.replace(bench, sizes=dataclasses.replace(bench.sizes, teachers=n))
    lesson = small.lesson("targets", StudentTraining(model="resnet18", batch_size=4), LABELS)
    model = folder / "model.safetensors"
    save_model(model, lesson.network, lesson.spec)
    grids = {"5x": 8, "2.5x": 4, "1.25x": 2, "0.625x": 1}
    every = ["logits", *(f"features/{form}" for form in ("area", "bicubic", "maxpool"))]
    every += [f"attention/{form}" for form in ("inside", "outside")]
    wish = TargetOptions(grids=grids, reads=dict.fromkeys(grids, every))
    job = lesson.task.job

    def write() -> float:
        began = time.perf_counter()
        targets.write_targets(
            targets.Source(model, job.tiles, job.splits, bench.threads), folder / "out", wish
        )
        return (time.perf_counter() - began) / n

    network = lesson.network.eval()
    return bench.in_turns(name, {"seconds a tile": write, "of 8 passes": partial(_passes, network, n, bench)})


def memory_to_resident(bench: Bench, name: str) -> float | None:
    """From host memory by from the device; None without a GPU, where they are one."""
    return _by_resident(bench, name, "memory") if bench.device.type == "cuda" else None


def files_to_resident(bench: Bench, name: str) -> float:
    """From files by from where tiles are held."""
    return _by_resident(bench, name, "files")


def _by_resident(bench: Bench, name: str, place: Place) -> float:
    options = StudentTraining(model="resnet18", batch_size=bench.sizes.student_batch, epochs=1000)
    lesson = bench.lesson("student", options, EVERY_TERM)
    return bench.in_turns(
        name, {place: partial(_loop, _placed(lesson, place)), "resident": partial(_loop, lesson)}
    )


FIGURES: dict[str, tuple[Callable[[Bench, str], float | None], float, bool]] = {
    "student_to_bare": (student_to_bare, 0.9, False),
    "teacher_to_bare": (teacher_to_bare, 0.8, False),
    "to_released_recipe": (to_released_recipe, 50, False),
    "vgg_to_released": (vgg_to_released, 50, False),
    "to_ordinary_loop": (to_ordinary_loop, 5, False),
    "targets_to_passes": (targets_to_passes, 1.2, True),
    "memory_to_resident": (memory_to_resident, 0.9, False),
    "files_to_resident": (files_to_resident, 0.8, False),
}


def _placed(lesson: Lesson, place: Place) -> Lesson:
    """The same lesson with its tiles kept elsewhere."""
    bank = lesson.bank
    other = Bank(
        bank.index,
        bank.ids,
        bank.magnification,
        bank.device,
        threads=lesson.task.job.threads,
        place=place,
    )
    return dataclasses.replace(lesson, bank=other, feed=Feed(other, None))


def _loop(lesson: Lesson) -> float:
    """Pictures per second over an epoch, all of it but the validation counted."""
    progress = train.begin(lesson, None)
    finish(lesson.device)
    began = time.perf_counter()
    with Stop(float("inf")) as stop:
        train.run_epoch(lesson, progress, Checkpoint(lesson.task.job.state, "", 60.0), stop)
    finish(lesson.device)
    seconds = time.perf_counter() - began - progress.validation_seconds
    return lesson.steps * lesson.options.batch_size / seconds


def _bare(lesson: Lesson) -> float:
    """Pictures per second of as many bare steps as an epoch has, in the same precision."""
    n, px = lesson.options.batch_size, lesson.spec.network_px
    pictures = torch.rand(n, 3, px, px, device=lesson.device)
    pictures = pictures.contiguous(memory_format=train.memory_format(lesson.device))
    labels = torch.zeros(n, dtype=torch.long, device=lesson.device)
    finish(lesson.device)
    began = time.perf_counter()
    for _ in range(lesson.steps):
        with train.autocast(lesson.device, lesson.options.precision):
            logits = lesson.network(pictures)[1]
        lesson.optimizer.zero_grad()
        functional.cross_entropy(logits.float(), labels).backward()
        clip_grad_norm_(lesson.optimizer.parameters, 1.0)
        lesson.optimizer.step(1e-4)
    finish(lesson.device)
    return lesson.steps * n / (time.perf_counter() - began)


def _passes(network: Network, n: int, bench: Bench) -> float:
    """Seconds per tile of eight passes over ready batches."""
    batch = min(n, inference_batch(PX[HIGH]))
    pictures = torch.rand(batch, PX[HIGH], PX[HIGH], 3, device=bench.device).permute(0, 3, 1, 2)
    finish(bench.device)
    began = time.perf_counter()
    with torch.inference_mode():
        for _ in range(8 * (n // batch)):
            network(pictures)
    finish(bench.device)
    return (time.perf_counter() - began) / (n // batch * batch)


if __name__ == "__main__":
    main()
