"""A teacher asked in every step says what its stored targets say, of the very picture, and learns nothing."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lowmag import train
from lowmag.bank import Bank
from lowmag.checkpoint import EXIT_UNFINISHED
from lowmag.errors import UserError
from lowmag.lesson import Lesson, Task, plan_epoch, prepare_lesson
from lowmag.methods import combine
from lowmag.models import load_model, normalise, save_model, weights_sha256
from lowmag.recipe import Augment, StudentTraining, Training
from lowmag.study import TargetOptions
from lowmag.targets import Source, write_targets
from lowmag.terms import Method
from safetensors.torch import load_file
from synthetic_tiles import CLASSES, HIGH, LOW, make_cohort
from synthetic_training import job_of

CPU = torch.device("cpu")
COLOURLESS = Augment(brightness=0, contrast=0, saturation=0, stain=0)
STILL = StudentTraining(stride=8, epochs=1, batch_size=4, augment=COLOURLESS)
DELAMOR = Augment(
    dihedral="horizontal", hue=0.1, rotation=45, zoom=(0.95, 1.2), shift=(0.05, 0.0), probability=0.5
)
# Every part of the targets: logits, head, all forms of the map, attention of the last map and before it.
NO_PROJECTOR = {"cosine": {"projector": "none"}}
TERMS = [
    {"soft_labels": 1, "features": {"resize": "maxpool+bicubic"}, "attention": {"relu": "outside"}},
    {"softmax_regression": {"map": "last"}, "cosine": 1, "attention": {"relu": "inside", "stage": -2}},
]
EVERY_FORM = ["logits", "features/area", "features/bicubic", "features/maxpool"]
EVERY_FORM += ["attention/outside", "attention/inside-2"]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort")
    tiles, splits = make_cohort(folder)
    job = job_of(folder, folder / "teacher", magnification=HIGH)
    assert train.train_teacher(job, Training(stride=8, epochs=1, batch_size=8)) == 0
    options = TargetOptions(
        grids={"2.5x": 2},
        reads={"2.5x": EVERY_FORM},
        earlier={"inside-2": {"2.5x": 4}},
    )
    write_targets(Source(teacher_of(folder), tiles, splits), folder / "targets", options)
    return folder


def teacher_of(cohort: Path) -> Path:
    return cohort / "teacher" / "model.safetensors"


def online(options: StudentTraining, **changes) -> StudentTraining:
    return options.model_copy(update={"targets": "online", **changes})


def lesson_of(cohort: Path, options: StudentTraining, terms: dict) -> Lesson:
    source = teacher_of(cohort) if options.targets == "online" else cohort / "targets" / "2.5x"
    task = Task(
        job_of(cohort, cohort / "none"), "student", options, Method.model_validate(terms), source, 100
    )
    return prepare_lesson(task, CPU)


def losses_of(lesson: Lesson) -> torch.Tensor:
    """The parts of the loss of the first batch, and the norm of its gradient."""
    plan = plan_epoch(lesson, 0)
    part = next(train._parts(lesson, plan, 0, lesson.options.part_size))
    parts = train._add_gradients(lesson, plan, train.Places(slice(0, 4), slice(0, 4)), part)
    gradients = [p.grad.norm() for p in lesson.network.parameters() if p.grad is not None]
    return torch.cat([parts, torch.stack(gradients).norm()[None]])


@pytest.mark.parametrize("terms", TERMS, ids=str)
@pytest.mark.parametrize("input", ["native", "upsampled"])
def test_online_is_what_is_cached_of_the_same_views(
    cohort: Path, tmp_path: Path, terms: dict, input: str
) -> None:
    """To the precision of the stored float16 maps, 11 bits; logits are stored whole."""
    options = STILL.model_copy(update={"input": input})
    if input == "upsampled":
        grids = TargetOptions(
            grids={"2.5x": 8},
            reads={"2.5x": EVERY_FORM},
            earlier={"inside-2": {"2.5x": 16}},
        )
        write_targets(Source(teacher_of(cohort), cohort / "tiles", cohort / "splits.csv"), tmp_path, grids)
        task = lesson_of(cohort, online(options), terms).task
        stored = replace(task, options=options, targets=tmp_path / "2.5x")
        cached = losses_of(prepare_lesson(stored, CPU))
    else:
        cached = losses_of(lesson_of(cohort, options, terms))
    asked = losses_of(lesson_of(cohort, online(options), terms))
    assert (cached > 0).all()
    torch.testing.assert_close(asked, cached, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_online_in_bfloat16_is_what_is_cached_to_its_precision(cohort: Path, terms: dict) -> None:
    """A teacher that is asked runs in the student's precision, one whose word is stored in float32.

    bfloat16 keeps 8 bits, so a layer rounds by up to 2^-9; ten layers one after the other, by chance in
    either direction, make about a hundredth. Float32 in the same place is a hundred times nearer.
    """
    options = STILL.model_copy(update={"precision": "bfloat16"})
    cached = losses_of(lesson_of(cohort, options, terms))
    asked = losses_of(lesson_of(cohort, online(options), terms))
    whole = losses_of(lesson_of(cohort, STILL, terms))
    torch.testing.assert_close(asked, cached, rtol=0.03, atol=1e-4)
    assert not torch.equal(asked, cached)
    assert not torch.equal(cached, whole), "bfloat16 was not used"


def test_colours_are_the_teachers_too(cohort: Path) -> None:
    """Cached targets are of unchanged colours; of the picture shown the teacher says another thing."""
    terms, colours = TERMS[0], Augment(brightness=0.5, contrast=0.5, hue=0.2)
    cached = losses_of(lesson_of(cohort, STILL.model_copy(update={"augment": colours}), terms))
    asked = losses_of(lesson_of(cohort, online(STILL, augment=colours), terms))
    assert (asked / cached - 1).abs().max() > 0.05


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_a_step_per_session_is_the_same_run(cohort: Path, tmp_path: Path, terms: dict) -> None:
    """With the whole of del Amor's recipe of views, upsampled input and a batch in two parts."""
    options = online(STILL, augment=DELAMOR, input="upsampled", accumulate=2)
    method = Method.model_validate(terms)
    if method.accumulation_problem(2):
        options = options.model_copy(update={"accumulate": 1})
    statuses, (whole, parted) = [], (job_of(cohort, tmp_path / name) for name in ("whole", "parted"))
    assert train.train_student(whole, options, method, teacher_of(cohort), 50) == 0
    while not statuses or statuses[-1] == EXIT_UNFINISHED:
        assert len(statuses) < 10
        job = replace(parted, budget_minutes=0)
        statuses.append(train.train_student(job, options, method, teacher_of(cohort), 50))
    weights = [load_file(job.out / "model.safetensors") for job in (whole, parted)]
    assert len(statuses) == 7
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    run = json.loads((whole.out / "run.json").read_text())
    assert run["teacher_sha256"] == weights_sha256(teacher_of(cohort))


@pytest.mark.parametrize("terms", TERMS, ids=str)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(cohort: Path, terms: dict) -> None:
    """The same weights, the same picture: every label-free term is 0, but for a projector that is random."""
    method = Method.model_validate(
        {name: term for name, term in terms.items() if name != "cosine"} | NO_PROJECTOR
    )
    lesson = lesson_of(cohort, online(STILL), method.model_dump(exclude_none=True))
    assert lesson.teacher
    fine = torch.rand(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    lesson.network.load_state_dict(lesson.teacher.network.state_dict())
    student = train._student(lesson, normalise(fine, lesson.teacher.spec))
    said = lesson.teacher.batch(fine, torch.full((4,), -1), student)
    losses = combine(method, student, said)
    assert len(losses) > 3
    for name, loss in losses.items():
        assert abs(loss.item()) < 1e-5, name


def test_the_teacher_learns_nothing(cohort: Path) -> None:
    lesson = lesson_of(cohort, online(STILL), TERMS[1])
    before = {name: value.clone() for name, value in lesson.teacher.network.state_dict().items()}  # pyright: ignore
    losses_of(lesson)
    network = lesson.teacher.network  # pyright: ignore
    assert not network.training
    assert all(p.grad is None and not p.requires_grad for p in network.parameters())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_only_what_is_shown_is_held(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Own tiles for exact views, teacher's tiles when it is asked, those alone when pictures are turned."""
    asked: list[tuple[float, str]] = []
    original = Bank._choose_place
    monkeypatch.setattr(
        Bank, "_choose_place", lambda self: asked.append((self.magnification, "memory")) or original(self)
    )
    turned = STILL.model_copy(update={"augment": DELAMOR})
    labels = {"cross_entropy": 1}
    for options, terms, expected in (
        (STILL, TERMS[0], [LOW]),
        (online(STILL), TERMS[0], [LOW, HIGH]),
        (online(turned), TERMS[0], [HIGH]),
        (turned, labels, [HIGH]),
        (online(STILL), labels, [LOW]),
    ):
        asked.clear()
        task = lesson_task(cohort, options, terms)
        prepare_lesson(task, CPU)
        assert [magnification for magnification, _ in asked][:-1] == expected  # the last is of validation


def lesson_task(cohort: Path, options: StudentTraining, terms: dict) -> Task:
    method = Method.model_validate(terms)
    source = teacher_of(cohort) if options.targets == "online" else cohort / "targets" / "2.5x"
    job = job_of(cohort, cohort / "none")
    return Task(job, "student", options, method, source if method.needs_teacher else None)


def test_stored_targets_of_views_that_are_not_exact_are_refused(cohort: Path) -> None:
    turned = STILL.model_copy(update={"augment": DELAMOR})
    with pytest.raises(UserError, match=r"targets are stored for the exact ones alone.*targets: online"):
        lesson_of(cohort, turned, TERMS[0])


def test_other_teachers_are_refused(cohort: Path, tmp_path: Path) -> None:
    network, spec = load_model(teacher_of(cohort))
    path = tmp_path / "model.safetensors"
    method = Method.model_validate(TERMS[0])
    for changes, message in (
        ({"role": "student"}, "is a student; give the model.safetensors of a teacher"),
        ({"classes": CLASSES[::-1]}, r"has classes .*expected"),
        ({"magnification": 20.0}, "has magnification 20x, expected 10x"),
        ({"tile_px": 32}, "has tiles, in pixels, 32, expected 64"),
    ):
        save_model(path, network, replace(spec, **changes))
        task = Task(job_of(cohort, tmp_path / "run"), "student", online(STILL), method, path)
        with pytest.raises(UserError, match=message):
            prepare_lesson(task, CPU)
    with pytest.raises(UserError, match="give --teacher, its model"):
        prepare_lesson(replace(task, targets=None), CPU)
