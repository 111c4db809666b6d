"""What a teacher says of every training tile in every view, stored once for all students of its seed."""

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from lowmag.augment import dihedral
from lowmag.bank import Bank
from lowmag.device import expect_any_size, inference_batch, memory_format, pick_device
from lowmag.errors import UserError
from lowmag.hdf5 import publishing_hdf5
from lowmag.index import TileIndex, index_tiles
from lowmag.losses import NO_LABEL
from lowmag.magnification import factor_between
from lowmag.methods import TargetsBatch
from lowmag.models import ModelSpec, prepare, weights_sha256
from lowmag.networks import FEATURES_MODEL, Network, build, map_cells
from lowmag.patch_features import features_of_tiles
from lowmag.recipe import Architecture
from lowmag.section_maps import cells_name, section_cells, stage_of, store_maps
from lowmag.splits import read_splits
from lowmag.study import TargetOptions
from lowmag.target_file import EVERY_VIEW, SCHEMA, SCHEMA_VERSION
from lowmag.teaching import Asked, Wish, load_teacher, say
from lowmag.terms import HEAD, LAST_STAGE, earlier_form

LOG_EVERY_S = 10.0
FEATURES_AT_ONCE = 4096

logger = logging.getLogger(__name__)


def write_targets(
    teacher: Path, tiles: Path, splits: Path, out: Path, options: TargetOptions, threads: int
) -> None:
    """Write `out/{magnification}.h5` of every student's grid; the teacher sees each tile once per view.

    Tiles are those of all train slides, labelled and unlabelled. The format is that of `target_file`.
    """
    options = _measured(options)
    network, spec = load_teacher(teacher)
    device = pick_device(threads)
    network.to(device).to(memory_format=memory_format(device))
    index = index_tiles(tiles, [row for row in read_splits(splits) if row.split == "train"], spec.classes)
    if index.n == 0:
        raise UserError(f"the train slides of {splits} have no tiles; see results/check.tsv and the overlays")
    if spec.model == FEATURES_MODEL:
        _write_from_features(network, index, out, options, weights_sha256(teacher), spec)
        return
    # Every tile is used once, so there is nothing to gain from holding them.
    bank = Bank(index, np.arange(index.n), spec.magnification, device, threads=threads, place="files")
    digest = weights_sha256(teacher)
    if index.unit == "section":
        expect_any_size()
    with ExitStack() as stack:
        files = {name: _create(stack, out / f"{name}.h5", index, options) for name in options.grids}
        _write_behind(files, _said(network, spec, bank, options), index.n)
        for name, file in files.items():
            _store_head(file, network)
            _finish(file, name, spec, options, digest)


@torch.inference_mode()
def _write_from_features(
    network: Network, index: TileIndex, out: Path, options: TargetOptions, digest: str, spec: ModelSpec
) -> None:
    """Write what a head on features says: logits and a map of one cell, which hold for every view."""
    if options.features is None:
        raise UserError("the teacher is a head on features; give their folder as `features` in the options")
    found = features_of_tiles(Path(options.features), index, channels=network.head.in_features)
    features = torch.from_numpy(found.values)
    device = next(network.parameters()).device
    with ExitStack() as stack:
        files = {name: _create(stack, out / f"{name}.h5", index, options) for name in options.grids}
        for start in range(0, index.n, FEATURES_AT_ONCE):
            maps, logits = network(features[start : start + FEATURES_AT_ONCE, :, None, None].to(device))
            labels = logits.new_full((len(logits),), NO_LABEL, dtype=torch.long)
            said = TargetsBatch(labels, logits.float(), {"area": maps})
            for file in files.values():
                _write(file, start, [said], index.n)
        for name, file in files.items():
            _store_head(file, network)
            file.attrs[EVERY_VIEW] = True
            _finish(file, name, spec, options, digest)


def _measured(options: TargetOptions) -> TargetOptions:
    """The options with the grids of networks of torchvision or timm, found by passes of zeros."""
    found = {}
    for name, student in options.measured.items():
        architecture = Architecture(model=student.model, stride=student.stride)
        found[name] = map_cells(build(architecture, 1, student.px), architecture, student.px)
    return options.model_copy(update={"grids": {**options.grids, **found}})


def _said(
    network: Network, spec: ModelSpec, bank: Bank, options: TargetOptions
) -> Iterator[tuple[int, dict[str, list[TargetsBatch]]]]:
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
        resizes=options.resizes,
        attention=options.attention,
        earlier={
            form: {name: grid(name, earlier_form(form)[1]) for name in grids}
            for form, grids in options.earlier.items()
        },
    )


def _write_behind(
    files: dict[str, h5py.File], said: Iterator[tuple[int, dict[str, list[TargetsBatch]]]], n: int
) -> None:
    """Write what is said of every batch in the background, while the teacher looks at the next one."""
    with ThreadPoolExecutor(1) as background:
        writing: Future[None] | None = None
        for start, batch in said:
            if writing is not None:
                writing.result()
            writing = background.submit(_write_batch, files, start, batch, n)
        if writing is not None:
            writing.result()


def _write_batch(
    files: dict[str, h5py.File], start: int, batch: dict[str, list[TargetsBatch]], n: int
) -> None:
    for name, views in batch.items():
        _write(files[name], start, views, n)


def _create(stack: ExitStack, path: Path, index: TileIndex, options: TargetOptions) -> h5py.File:
    file = stack.enter_context(publishing_hdf5(path))
    file.attrs.update({"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "complete": False})
    file.create_dataset("slide_id", data=[slide.slide_id.encode() for slide in index.slides])
    file.create_dataset("count", data=index.counts)
    if network := options.sections.get(path.stem):
        size = index.size_at(_magnification(path.stem))
        for stage in {LAST_STAGE, *(earlier_form(form)[1] for form in options.earlier)}:
            file.create_dataset(cells_name(stage), data=section_cells(network, size, stage))
    return file


def _magnification(name: str) -> float:
    return float(name.split("x")[0])  # of 1.25x or 1.25x-4


def _write(file: h5py.File, start: int, views: list[TargetsBatch], n: int) -> None:
    first = views[0]
    assert first.logits is not None
    _store(file, "logits", start, [view.logits for view in views if view.logits is not None], n)
    stored: dict[int, str] = {}
    for form, maps in first.features.items():
        name = f"features/{form}"
        first_name = stored.setdefault(id(maps), name)
        if first_name == name:
            _store(file, name, start, [view.features[form] for view in views], n)
        elif name not in file:  # on the teacher's own grid nothing is resized: one array under several names
            file[name] = file[first_name]
    for relu in first.attention:
        _store(file, f"attention/{relu}", start, [view.attention[relu] for view in views], n)


def _store(file: h5py.File, name: str, start: int, views: list[Tensor], n: int) -> None:
    dtype = torch.float32 if name == "logits" else torch.float16  # before it is copied
    if name != "logits" and (cells := file.get(cells_name(stage_of(name)))) is not None:
        maps = [view.to(dtype).cpu().numpy() for view in views]
        _refuse_divergence(name, start, maps)
        store_maps(file, name, start, maps, np.asarray(cells))
        return
    values = torch.stack(views, 1).to(dtype).cpu().numpy()  # (B, V, ...)
    _refuse_divergence(name, start, [values])
    stored = file.get(name)
    if stored is None:
        stored = file.create_dataset(name, (n, *values.shape[1:]), values.dtype)  # contiguous: no chunks
    assert isinstance(stored, h5py.Dataset)
    stored[start : start + len(values)] = values


def _refuse_divergence(name: str, start: int, values: Sequence[np.ndarray]) -> None:
    if not all(np.isfinite(some).all() for some in values):
        raise UserError(
            f"the teacher's {name} are not finite numbers for tiles {start} to {start + len(values[0]) - 1}; "
            "its training diverged: lower teacher.lr and train it again"
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
