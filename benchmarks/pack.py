"""Whether students of one magnification are trained faster together in one job than one after the other.

python benchmarks/pack.py [--quick]

Together they share tiles, views, colours and stored targets: each batch is made once and every network takes
its step on it, the most that a packed job could save in its steps. Apart, each makes its own. Start-up
(imports, reading) is timed by itself. Processor time of one thread of the CPU; on a GPU networks would also
run side by side, which is not measured here.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from lowmag import train
from lowmag.device import pick_device
from lowmag.lesson import Job, Task, plan_epoch, prepare_lesson
from lowmag.methods import combine
from lowmag.models import normalise
from lowmag.recipe import StudentTraining
from lowmag.views import show_both
from training import EVERY_TERM, LOW
from training_cohort import CLASSES, Tiling, draw_targets, make_cohort

PACKED, FLOOR = 4, 1.15  # worth an option of its own from here on


def main() -> None:
    """Print seconds of a step of four students apart and together, and their ratio, for two networks."""
    is_quick = "--quick" in sys.argv[1:]
    rounds, steps = (2, 2) if is_quick else (7, 6)
    device = pick_device(1)
    lines = []
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import lowmag.train"], check=True)
    print(f"start-up of a job, before its data: {time.perf_counter() - began:.1f} s")
    for model, channels in (("resnet10gn", 256), ("resnet18", 512)):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            tiles, splits = make_cohort(folder, Tiling({2.5: 128, LOW: 64}, 32 * steps))
            draw_targets(folder / "targets", tiles, splits, (channels, 2), LOW)
            options = StudentTraining(model=model, batch_size=32, epochs=1)
            lessons = []
            for n in range(PACKED):
                job = Job(tiles, splits, CLASSES, LOW, n, folder / "out", folder / "state", threads=1)
                task = Task(job, "student", options, EVERY_TERM, folder / "targets")
                lessons.append(prepare_lesson(task, device))
            apart, together = [], []
            for _ in range(rounds):
                apart.append(_apart(lessons) / steps)
                together.append(_together(lessons) / steps)
        for way, found in (("apart", apart), ("together", together)):
            spread = f"{min(found):.3f} to {max(found):.3f}, n={rounds}"
            print(f"{model}: {PACKED} students {way} {statistics.median(found):.3f} s a step ({spread})")
        ratio = statistics.median(apart) / statistics.median(together)
        lines.append(f"pack_{model} {ratio:.3f} {FLOOR:.3f} {'ok' if ratio >= FLOOR else 'short'}")
    print("\n".join(lines))


def _apart(lessons) -> float:
    began = time.process_time()
    for lesson in lessons:
        plan = plan_epoch(lesson, 0)
        for step, part in enumerate(train._parts(lesson, plan, 0, lesson.options.part_size)):
            train._step(lesson, plan, step, [part], 1e-4)
    return time.process_time() - began


def _together(lessons) -> float:
    first = lessons[0]
    began = time.process_time()
    plan, size = plan_epoch(first, 0), first.options.batch_size
    for step, part in enumerate(train._parts(first, plan, 0, size)):
        places = slice(step * size, (step + 1) * size)
        pictures = normalise(show_both(part, plan.views[places], first.factor)[0], first.spec).contiguous()
        said = first.targets.told(part.stored, plan.labels[places])
        for lesson in lessons:
            lesson.optimizer.zero_grad()
            combine(lesson.task.method, train._student(lesson, pictures), said)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(lesson.optimizer.parameters, 1.0)
            lesson.optimizer.step(1e-4)
    return time.process_time() - began


if __name__ == "__main__":
    main()
