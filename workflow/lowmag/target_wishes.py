"""What the methods of a study ask of stored targets: which of them, on which grids, in how many views.

Only what a student reads is stored: nothing for methods that ask the teacher while they train.
"""

import re

from lowmag.config import Config
from lowmag.magnification import mpp_of, name_of
from lowmag.recipe import Architecture, StudentTraining, is_library
from lowmag.study import MeasuredGrid, TargetOptions
from lowmag.terms import HEAD, LAST_STAGE


def target_options(config: Config) -> TargetOptions:
    """What the teacher has to say for the students of a study: only what they read and do not ask."""
    reading = [name for name in config.methods if reads_targets(config, name)]
    views = [config.student_training(name).augment.n_views for name in reading]
    features = config.teacher.features if reading else None
    n_views = 1 if features else max(views, default=1)
    wishes = TargetOptions.model_validate({"views": n_views, "features": features})
    for method in reading:
        for magnification in config.tiles.students:
            _add(wishes, config, method, magnification)
    return wishes


def reads_targets(config: Config, method: str) -> bool:
    """Whether the students of a method compare with stored targets, not with a teacher they ask."""
    return config.methods[method].needs_teacher and config.student_training(method).targets == "cached"


def targets_name(config: Config, method: str, magnification: float) -> str:
    """Name of the targets of a method's students: 1.25x; 1.25x-4 on a grid of its own, of 4 cells.

    1.25x-torchvision-resnet50-64 for a network of its own whose grid is not known here, given 64 px.
    """
    name, usual = name_of(magnification), config.students
    training = config.student_training(method)
    cells = _grid(config, training, magnification)
    alike = cells == _grid(config, usual, magnification)
    if alike and is_library(training.model):
        alike = (training.model, training.input) == (usual.model, usual.input)
    if alike or not config.methods[method].reads_maps or config.teacher.features:  # of one cell for all
        return name
    own = re.sub(r"[^A-Za-z0-9]+", "-", f"{training.model}-{config.px(training, magnification)}")
    return f"{name}-{cells or own}"


def _grid(config: Config, training: StudentTraining, magnification: float) -> int | str:
    """What tells one grid from another: cells per edge; of sections, which differ, how they are reckoned."""
    if config.tiles.unit == "section":
        stride = training.at(mpp_of(magnification)).stride
        return f"{stride}-vgg16" if training.model == "vgg16" else stride  # it rounds down, others up
    return config.cells(training, magnification)


def _add(wishes: TargetOptions, config: Config, method: str, magnification: float) -> None:
    """Add what the students of a method at a magnification read."""
    terms, name = config.methods[method], targets_name(config, method, magnification)
    # Targets without maps serve every network: those of the usual one.
    training = config.student_training(method) if terms.reads_maps else config.students
    wishes.reads[name] = sorted({*wishes.reads.get(name, []), *terms.reads} - {HEAD})
    if config.teacher.features:  # one vector per tile serves every grid
        wishes.grids[name] = 1
        return
    wishes.grids[name] = config.cells(training, magnification)
    if is_library(training.model):
        px = config.px(training, magnification)
        wishes.measured[name] = MeasuredGrid(model=training.model, stride=training.stride, px=px)
    if (term := terms.attention) and term.stage != LAST_STAGE:
        cells = config.cells(training, magnification, term.stage)
        wishes.earlier.setdefault(term.form, {})[name] = cells
    if config.tiles.unit == "section":
        of_grid = training.at(mpp_of(magnification)).model_dump(include={"model", "stride"})
        wishes.sections.setdefault(name, Architecture.model_validate(of_grid))
