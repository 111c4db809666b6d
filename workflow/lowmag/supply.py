"""What students lack of stored targets is written before they train.

`lowmag targets` writes what the study reads. A method that is added later may read more: then its first
student has the rest written, the others of its kind wait, and what is there stays as it is. So neither more
methods and magnifications nor deleted files touch a student that is trained.
"""

import logging
from pathlib import Path

from lowmag.checkpoint import Stop
from lowmag.errors import UserError
from lowmag.hdf5 import open_hdf5
from lowmag.models import weights_sha256
from lowmag.run_lock import locked
from lowmag.study import TargetOptions
from lowmag.target_file import CURE, VALUES, asked_of, checked_attributes, file_of
from lowmag.targets import Source, StoppedError, add_targets, measured
from lowmag.time_limit import minutes_left

logger = logging.getLogger(__name__)


def supply(source: Source, targets: Path, options: TargetOptions, budget_minutes: float) -> bool:
    """Whether the folder `targets` of a student's grid now holds all that `options` ask for there.

    What any grid of the study lacks is written with it, in one go. False when there was no time, or a signal.
    """
    out = targets.parent
    if targets.name not in options.grids:
        raise UserError(
            f"{targets} is no grid that is asked for ({', '.join(options.grids) or 'none'}): name one of them"
        )
    own = _restricted(options, {targets.name: options.reads[targets.name]})
    if not _lacking(source, out, measured(own)).reads:
        return True
    with Stop(min(budget_minutes, minutes_left())) as stop, locked(out, stop) as hold:
        if not hold.ours:
            return False
        every = measured(options)
        lacking = _lacking(source, out, every)
        if lacking.reads and not _added(source, out, every, lacking, stop):
            return False
        return not stop.signalled()


def _added(source: Source, out: Path, every: TargetOptions, lacking: TargetOptions, stop: Stop) -> bool:
    """Whether what is lacking of `every` dataset was written in time."""
    logger.info("writing what is not stored yet: %s", _told(lacking))
    there = {name: {*datasets} - {*lacking.reads.get(name, ())} for name, datasets in every.reads.items()}
    try:
        add_targets(source, out, lacking, stop.asked, there)
    except StoppedError:
        logger.warning(
            "%s while writing targets, and nothing of it is kept: where a time limit is too short for it, "
            "raise compute.students.runtime",
            stop.reason,
        )
        return False
    return True


def _lacking(source: Source, out: Path, options: TargetOptions) -> TargetOptions:
    """The part of the options that no complete file of this teacher holds."""
    teacher = weights_sha256(source.teacher)
    reads = {
        name: [dataset for dataset in datasets if not _is_there(out, (name, dataset), options, teacher)]
        for name, datasets in options.reads.items()
    }
    return _restricted(options, {name: datasets for name, datasets in reads.items() if datasets})


def _restricted(options: TargetOptions, reads: dict[str, list[str]]) -> TargetOptions:
    earlier = {
        form: {name: cells for name, cells in grids.items() if f"attention/{form}" in reads.get(name, [])}
        for form, grids in options.earlier.items()
    }
    return options.model_copy(
        update={
            "reads": reads,
            "grids": {name: cells for name, cells in options.grids.items() if name in reads},
            "measured": {name: network for name, network in options.measured.items() if name in reads},
            "earlier": {form: grids for form, grids in earlier.items() if grids},
        }
    )


def _is_there(out: Path, place: tuple[str, str], options: TargetOptions, teacher: str) -> bool:
    name, dataset = place
    path = file_of(out / name, dataset)
    if not path.is_file():
        return False
    try:
        with open_hdf5(path, "targets", CURE, is_own=True) as file:
            found = checked_attributes(file, path)
            return (
                VALUES in file
                and found["teacher_sha256"] == teacher
                and int(found["views"]) >= options.views
                and found.get("asked") == asked_of(options, name, dataset)
            )
    except UserError as error:  # it is written over
        logger.warning("%s", error)
        return False


def _told(options: TargetOptions) -> str:
    return "; ".join(f"{name}: {', '.join(datasets)}" for name, datasets in options.reads.items())
