"""What a teacher says of every training tile in every view, stored once for all students of its seed."""

import logging
import math
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import h5py
import numpy as np
import torch
from torch import Tensor

from lowmag.augment import dihedral
from lowmag.bank import Bank
from lowmag.device import expect_any_size, inference_batch, memory_format, pick_device
from lowmag.errors import UserError
from lowmag.fingerprint import code_fingerprint
from lowmag.hdf5 import publishing_hdf5
from lowmag.index import TileIndex, index_tiles
from lowmag.losses import NO_LABEL
from lowmag.magnification import factor_between
from lowmag.methods import TargetsBatch
from lowmag.models import ModelSpec, prepare, weights_sha256
from lowmag.networks import FEATURES_MODEL, Network, build, map_cells
from lowmag.ownership import refuse_outlived
from lowmag.patch_features import features_of_tiles
from lowmag.publish import publishing, write_json
from lowmag.recipe import Architecture
from lowmag.section_maps import cells_name, section_cells, stage_of, store_maps
from lowmag.splits import read_splits
from lowmag.study import TargetOptions
from lowmag.target_file import (
    EVERY_VIEW,
    RECORD,
    SCHEMA,
    SCHEMA_VERSION,
    TILES_IDENTITY,
    VALUES,
    asked_of,
    file_of,
    holds_targets,
)
from lowmag.teaching import Asked, Wish, load_teacher, say
from lowmag.terms import FEATURES, HEAD, LAST_STAGE, LOGITS, earlier_form

LOG_EVERY_S = 10.0
FEATURES_AT_ONCE = 4096
Stopped = Callable[[float], bool]  # whether to stop, given the seconds that the next batch takes
Reads = Mapping[str, Iterable[str]]  # datasets by the student's grid
Files = Mapping[tuple[str, str], h5py.File]  # by the student's grid and the dataset
Batch = tuple[int, dict[str, list[TargetsBatch]]]  # its first tile, and by grid what is said, one per view

logger = logging.getLogger(__name__)


class StoppedError(Exception):
    """Raised when writing was to stop before its end."""


@dataclass(frozen=True)
class Source:
    """Who speaks of what: a teacher's model file, tile files and splits, and the threads to use."""

    teacher: Path
    tiles: Path
    splits: Path
    threads: int = 1


def write_targets(source: Source, out: Path, options: TargetOptions) -> None:
    """Write all that `options` ask for in place of what `out` held, as `target_file` says.

    Tiles are those of all train slides, labelled and unlabelled; `out/targets.json` says which those are, and
    which teacher spoke.
    """
    load_teacher(source.teacher)  # before anything is deleted
    refuse_outlived(out)
    for path in (*out.glob("*/*.h5"), *out.glob("*.h5")):  # of other tiles, and of methods that are gone
        if holds_targets(path):
            path.unlink()
    index = add_targets(source, out, measured(options))
    record = {
        "teacher_sha256": weights_sha256(source.teacher),
        "tiles": index.n,
        TILES_IDENTITY: index.identity,
        "code": code_fingerprint("targets"),
    }
    write_json(out / RECORD, record)


def add_targets(
    source: Source,
    out: Path,
    options: TargetOptions,
    stopped: Stopped = lambda _: False,
    there: Reads = MappingProxyType({}),
) -> TileIndex:
    """The index of the tiles, after `out/{student's grid}/{dataset}.h5` were written, each when it is whole.

    The teacher sees each tile once per view, unless all that is wanted is the same as what is `there`.
    Raises StoppedError when `stopped` says so of the seconds that a batch takes, and then writes nothing.
    """
    network, spec = load_teacher(source.teacher)
    device = pick_device(source.threads)
    network.to(device).to(memory_format=memory_format(device))
    rows = [row for row in read_splits(source.splits) if row.split == "train"]
    index = index_tiles(source.tiles, rows, spec.classes)
    if index.n == 0:
        raise UserError(
            f"the train slides of {source.splits} have no tiles; see results/check.tsv and the overlays"
        )
    digest = weights_sha256(source.teacher)
    if spec.model == FEATURES_MODEL:
        said, alike = _said_of_features(network, index, options), {}
    else:
        # Every tile is used once, so there is nothing to gain from holding them.
        every = np.arange(index.n)
        bank = Bank(index, every, spec.magnification, device, threads=source.threads, place="files")
        if index.unit == "section":
            expect_any_size()
        said, alike = _said(network, spec, bank, options), _alike(network, spec, options, there)
    with ExitStack() as stack:
        files = {
            (name, dataset): _create(stack, out, (name, dataset), index, options)
            for name, datasets in options.reads.items()
            for dataset in datasets
            if (name, dataset) not in alike
        }
        if files:
            _write_behind(files, _until(stopped, said), index.n)
        for (name, _), file in files.items():
            _store_head(file, network)
            file.attrs[EVERY_VIEW] = spec.model == FEATURES_MODEL
            _finish(file, name, spec, options, digest)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # a student that trains next looks how much is free
    for (name, dataset), same in alike.items():
        _link(file_of(out / name, same), file_of(out / name, dataset))
    return index


@torch.inference_mode()
def _said_of_features(network: Network, index: TileIndex, options: TargetOptions) -> Iterator[Batch]:
    """What a head on features says: logits and a map of one cell, which hold for every view."""
    if options.features is None:
        raise UserError("the teacher is a head on features; give their folder as `features` in the options")
    found = features_of_tiles(Path(options.features), index, channels=network.head.in_features)
    features = torch.from_numpy(found.values)
    device = next(network.parameters()).device
    for start in range(0, index.n, FEATURES_AT_ONCE):
        maps, logits = network(features[start : start + FEATURES_AT_ONCE, :, None, None].to(device))
        labels = logits.new_full((len(logits),), NO_LABEL, dtype=torch.long)
        said = TargetsBatch(labels, logits.float(), {"area": maps})
        yield start, {name: [said] for name in options.grids}


def _alike(
    network: Network, spec: ModelSpec, options: TargetOptions, there: Reads
) -> dict[tuple[str, str], str]:
    """Forms of the map that are another one, by grid and dataset: on the teacher's own nothing is resized."""
    if options.sections:
        return {}
    own = map_cells(network, Architecture(model=spec.model, stride=spec.stride), spec.network_px)
    found = {}
    for name, datasets in options.reads.items():
        every = (*there.get(name, ()), *datasets)
        forms = [dataset for dataset in every if dataset.startswith(f"{FEATURES}/")]
        if options.grids[name] == own:
            found |= {(name, form): forms[0] for form in forms[1:] if form in datasets}
    return found


def _link(stored: Path, other: Path) -> None:
    """Make `other` the same file as `stored`; a copy where the file system has no such links."""
    with publishing(other) as temporary:
        temporary.unlink()
        try:
            os.link(stored, temporary)
        except OSError:
            shutil.copyfile(stored, temporary)


def measured(options: TargetOptions) -> TargetOptions:
    """The options with the grids of networks of torchvision or timm, found by passes of zeros."""
    found = {}
    for name, student in options.measured.items():
        architecture = Architecture(model=student.model, stride=student.stride)
        found[name] = map_cells(build(architecture, 1, student.px), architecture, student.px)
    return options.model_copy(update={"grids": {**options.grids, **found}})


def _until(stopped: Stopped, said: Iterator[Batch]) -> Iterator[Batch]:
    began = time.monotonic()
    for n, batch in enumerate(said, 1):
        yield batch
        if stopped((time.monotonic() - began) / n):
            raise StoppedError


def _said(network: Network, spec: ModelSpec, bank: Bank, options: TargetOptions) -> Iterator[Batch]:
    """First tile of a batch, and by student what the teacher says of the batch, one entry per view."""
    batch_size = inference_batch(spec.network_px)
    began = logged = time.monotonic()
    start = 0
    for pictures in bank.batches(bank.ids, batch_size):
        # Inference mode is quicker, but autograd, which earlier stages need, knows nothing of its tensors.
        with torch.inference_mode(not options.earlier), torch.no_grad():
            upright = prepare(pictures, spec)
            turned = (dihedral(upright, view) for view in range(options.views))
            views = [say(network, view, _wish(options, spec, view)) for view in turned]
            yield start, {name: [view[name] for view in views] for name in options.grids}
        start += len(pictures)
        if time.monotonic() - logged > LOG_EVERY_S or start == len(bank.ids):
            logged = time.monotonic()
            rate = start / (logged - began)
            left = (len(bank.ids) - start) / rate
            logger.info(
                "targets: %d of %d tiles, %.1f tiles/s, %.0f s left", start, len(bank.ids), rate, left
            )


def _wish(options: TargetOptions, spec: ModelSpec, pictures: Tensor) -> Wish:
    """What is asked of the teacher about pictures: of a section, on the students' grids of that very one."""
    if not options.sections:
        return options
    shape = np.array([pictures.shape[:1:-1]])  # width, height

    def grid(name: str, stage: int) -> tuple[int, int]:
        size = shape // factor_between(spec.magnification, _magnification(name))
        rows, columns = section_cells(options.sections[name], size, stage)[0].tolist()
        return rows, columns

    return Asked(
        grids={name: grid(name, LAST_STAGE) for name in options.grids},
        reads=options.reads,
        earlier={
            form: {name: grid(name, earlier_form(form)[1]) for name in grids}
            for form, grids in options.earlier.items()
        },
    )


def _write_behind(files: Files, said: Iterator[Batch], n: int) -> None:
    """Write what is said of every batch in the background, while the teacher looks at the next one."""
    with ThreadPoolExecutor(1) as background:
        writing: Future[None] | None = None
        for start, batch in said:
            if writing is not None:
                writing.result()
            writing = background.submit(_write_batch, files, start, batch, n)
        if writing is not None:
            writing.result()


def _write_batch(files: Files, start: int, batch: dict[str, list[TargetsBatch]], n: int) -> None:
    for (name, dataset), file in files.items():
        _store(file, dataset, start, [_part(view, dataset) for view in batch[name]], n)


def _part(said: TargetsBatch, dataset: str) -> Tensor:
    """The part of what is said that a dataset holds."""
    if dataset == LOGITS:
        assert said.logits is not None
        return said.logits
    kind, form = dataset.split("/")
    return (said.features if kind == FEATURES else said.attention)[form]


def _create(
    stack: ExitStack, out: Path, place: tuple[str, str], index: TileIndex, options: TargetOptions
) -> h5py.File:
    name, dataset = place
    file = stack.enter_context(publishing_hdf5(file_of(out / name, dataset)))
    file.attrs.update({"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "complete": False})
    file.attrs[TILES_IDENTITY] = index.identity
    file.attrs["asked"] = asked_of(options, name, dataset)
    file.create_dataset("slide_id", data=[slide.slide_id.encode() for slide in index.slides])
    file.create_dataset("count", data=index.counts)
    if network := options.sections.get(name):
        size = index.size_at(_magnification(name))
        for stage in {LAST_STAGE, stage_of(dataset)}:
            file.create_dataset(cells_name(stage), data=section_cells(network, size, stage))
    return file


def _magnification(name: str) -> float:
    return float(name.split("x")[0])  # of 1.25x or 1.25x-4


def _store(file: h5py.File, name: str, start: int, views: list[Tensor], n: int) -> None:
    dtype = torch.float32 if name == LOGITS else torch.float16  # before it is copied
    _refuse_divergence(name, start, views, dtype)
    if name != LOGITS and (cells := file.get(cells_name(stage_of(name)))) is not None:
        maps = [view.to(dtype).cpu().numpy() for view in views]
        store_maps(file, VALUES, start, maps, np.asarray(cells))
        return
    values = torch.stack(views, 1).to(dtype).cpu().numpy()  # (B, V, ...)
    stored = file.get(VALUES)
    if stored is None:
        stored = file.create_dataset(VALUES, (n, *values.shape[1:]), values.dtype)  # contiguous: no chunks
    assert isinstance(stored, h5py.Dataset)
    stored[start : start + len(values)] = values


def _refuse_divergence(name: str, start: int, views: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Raise UserError for what is no finite number, and for what would be none any more as it is stored."""
    largest = torch.stack([view.abs().max() for view in views]).max().item()  # NaN where there is any
    place = f"for tiles {start} to {start + len(views[0]) - 1}"
    if not math.isfinite(largest):
        raise UserError(
            f"the teacher's {name} are not finite numbers {place}; its training diverged: lower teacher.lr "
            "and train it again"
        )
    if largest > (most := torch.finfo(dtype).max):
        raise UserError(
            f"the teacher's {name} reach {largest:.3g} {place}, more than the {most:g} that stored targets "
            "hold: set students.targets: online, or raise teacher.weight_decay and train it again"
        )


def _store_head(file: h5py.File, network: Network) -> None:
    for name, values in network.head.state_dict().items():
        file.create_dataset(f"{HEAD}/{name}", data=values.cpu().numpy())


def _finish(file: h5py.File, name: str, spec: ModelSpec, options: TargetOptions, teacher_sha256: str) -> None:
    file.attrs.update(
        {
            "magnification": _magnification(name),
            "grid": options.grids[name],
            "classes": list(spec.classes),
            "views": options.views,
            "teacher_sha256": teacher_sha256,
        }
    )
    file.flush()
    file.attrs["complete"] = True
