"""How many bytes a study's stored targets will take, before there is a teacher."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lowmag.config import Config, parse_config
from lowmag.errors import UserError
from lowmag.estimate import Estimate
from lowmag.magnification import factor_between
from lowmag.slides import SlideRow
from lowmag.study import TargetOptions
from lowmag.target_wishes import target_options
from lowmag.terms import FEATURES, LAST_STAGE, LOGITS, earlier_form
from lowmag.wording import byte_size, count, whole

FLOAT16, FLOAT32 = 2, 4


def read_config(files: Sequence[Path]) -> Config:
    """The config of a study of several files, a later one over those before it, read as Snakemake does."""
    from snakemake.common.configfile import load_configfile
    from snakemake.exceptions import WorkflowError
    from snakemake.utils import update_config

    content: dict[str, Any] = {}
    for file in files:
        try:
            update_config(content, load_configfile(str(file)))
        except (OSError, UnicodeError, WorkflowError) as error:
            raise UserError(f"{file} cannot be read as a config ({error}); correct it") from error
    return parse_config(content)


def bytes_per_tile(config: Config, n_classes: int, pixels: float = 0.0) -> dict[str, float]:
    """Bytes of one tile in all its views by the student's grid, of what the methods read of one teacher.

    `pixels` are those of a section of mean area at the teacher's magnification; that its edges round up to
    whole cells is left out.
    """
    from lowmag.networks import build, map_cells
    from lowmag.targets import measured

    options, px = measured(target_options(config)), config.tiles.tile_px(config.tiles.teacher)
    teacher = config.teacher.model_copy(update={"weights": None})
    network = build(teacher, n_classes, px)
    own = None if options.sections else map_cells(network, teacher, px)
    found = {}
    for name, datasets in options.reads.items():
        area = pixels / factor_between(config.tiles.teacher, float(name.split("x")[0])) ** 2
        forms = [dataset for dataset in datasets if dataset.startswith(f"{FEATURES}/")]
        again = forms[1:] if options.grids[name] == own else []  # all are one map there
        values = 0.0
        for dataset in datasets:
            if dataset == LOGITS:
                values += FLOAT32 * n_classes
            elif dataset not in again:
                channels = network.head.in_features if dataset in forms else n_classes
                values += FLOAT16 * channels * _cells(options, (name, dataset), area)
        found[name] = options.views * values
    return found


def _cells(options: TargetOptions, place: tuple[str, str], area: float) -> float:
    """Cells of a student's map, or of one at an earlier stage."""
    name, dataset = place
    form = dataset.split("/")[1]
    stage = earlier_form(form)[1] if "-" in form else LAST_STAGE
    if name in options.sections:
        return area / (options.sections[name].stride >> (LAST_STAGE - stage)) ** 2
    edge = options.grids[name] if stage == LAST_STAGE else options.earlier[form][name]
    return edge**2


def training_share(row: SlideRow, config: Config) -> float:
    """The share of a slide's tiles that are trained on, as far as the sheet tells before there are splits."""
    if row.split:
        return float(row.split == "train")
    return 1 - config.splits.val - config.splits.test if row.label or row.annotations else 1.0


def targets_text(estimates: Sequence[Estimate], rows: Sequence[SlideRow], config: Config) -> str:
    """What the stored targets of all seeds take, in a sentence; `rows` are the slides of the estimates."""
    if not target_options(config).reads:
        return "No method reads stored targets."
    if config.teacher.features:
        return "Targets of a teacher on features are one vector per tile, of as many numbers as the features."
    n_classes = max(2, len(config.classes or {row.label for row in rows if row.label}))
    shares = [training_share(row, config) for row in rows]
    n = sum(found.n * share for found, share in zip(estimates, shares, strict=True))
    highest = config.tiles.magnifications[-1]
    raw = sum(found.n_bytes.get(highest, 0.0) for found in estimates) / max(1, sum(e.n for e in estimates))
    pixels = raw / 3 * factor_between(config.tiles.teacher, highest) ** 2
    each = bytes_per_tile(config, n_classes, pixels)
    unit, n_seeds = config.tiles.unit, len(config.students.seeds)
    by_grid = ", ".join(f"{name} {byte_size(size)}" for name, size in each.items())
    return (
        f"Targets, of some {whole(n)} {unit}s that are trained on: {byte_size(sum(each.values()))} a {unit} "
        f"({by_grid}), with {count(n_seeds, 'seed')} {byte_size(n_seeds * n * sum(each.values()))}."
    )
