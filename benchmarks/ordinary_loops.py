"""Two ways to distil that ours is held against: the recipe released with del Amor 2024, a good ordinary loop.

The first follows what arXiv 2401.06010 and its released code do at every step, in our words: both networks
VGG16 in float32, the student's picture pooled and brought back to the teacher's size, the teacher asked every
time, attention maps by autograd, a backward pass per class, the student's twice differentiable. The second is
what a careful person writes today: DataLoader workers over the HDF5, one student on its own small picture,
the teacher asked every time in bfloat16 on a GPU, attention in closed form.
"""

import time
from pathlib import Path

import numpy as np
import torch
from lowmag.cam import attention, gradcam_reference, normalise_minmax
from lowmag.losses import resize_map
from lowmag.models import Network, build
from lowmag.recipe import Architecture
from lowmag.store import TileFile
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from training_cohort import CLASSES


def finish(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class ReleasedRecipe:
    """The step of del Amor 2024 as released: cross-entropy + 0.1 features + 10 attention (AT+), Adam 1e-4."""

    def __init__(self, px: int, factor: int, batch: int, device: torch.device) -> None:
        network = Architecture(model="vgg16", stride=16)
        self.teacher = build(network, len(CLASSES)).to(device).eval()
        self.student = build(network, len(CLASSES)).to(device).train()
        self.optimizer = torch.optim.Adam(self.student.parameters(), lr=1e-4)
        self.px, self.factor, self.device = px, factor, device
        # On the device as float32, as their code holds the whole split.
        self.pictures = torch.rand(batch, 3, px, px, device=device)
        self.labels = torch.arange(batch, device=device) % len(CLASSES)

    def run(self, steps: int) -> float:
        """Pictures per second over some steps."""
        finish(self.device)
        began = time.perf_counter()
        for _ in range(steps):
            self._step()
        finish(self.device)
        return steps * len(self.pictures) / (time.perf_counter() - began)

    def _step(self) -> None:
        turned = self.pictures.flip(
            3
        )  # for their augmentation, which costs next to nothing beside the networks
        pooled = functional.avg_pool2d(turned, self.factor)
        size = (self.px, self.px)
        seen = functional.interpolate(pooled, size=size, mode="bilinear", align_corners=True)
        teacher_map, teacher_logits = self.teacher(turned)
        expected = gradcam_reference(teacher_map, teacher_logits, "inside").detach()
        student_map, logits = self.student(seen)
        said = gradcam_reference(student_map, logits, "inside")
        difference = (normalise_minmax(said) - normalise_minmax(expected)).square()
        loss = functional.cross_entropy(logits, self.labels)
        loss = loss + 0.1 * (student_map - teacher_map.detach()).square().mean().sqrt()
        loss = loss + 10 * (difference.mean((1, 2, 3)) + 1e-12).sqrt().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()


class Pairs(Dataset):
    """Teacher's and student's picture of a tile, read one by one as DataLoader workers do."""

    def __init__(self, tiles: Path, magnifications: tuple[float, float], per_slide: int) -> None:
        self.paths = [tiles / f"train-{label}.h5" for label in CLASSES]
        self.magnifications, self.per_slide = magnifications, per_slide
        self.files: dict[int, TileFile] = {}

    def __len__(self) -> int:
        return len(self.paths) * self.per_slide

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray, int]:
        slide, row = divmod(i, self.per_slide)
        if slide not in self.files:  # opened by the worker itself
            self.files[slide] = TileFile(self.paths[slide])
        high, low = (self.files[slide].read(m, row) for m in self.magnifications)
        if np.random.random() < 0.5:
            high, low = high[:, ::-1], low[:, ::-1]
        return np.ascontiguousarray(high), np.ascontiguousarray(low), slide


class OrdinaryLoop:
    """Soft labels, features and attention of an online teacher for the same student as ours."""

    def __init__(self, pairs: Pairs, batch: int, workers: int, device: torch.device) -> None:
        architecture = Architecture(model="resnet18")
        self.teacher = build(architecture, len(CLASSES)).to(device).eval()
        self.student = build(architecture, len(CLASSES)).to(device).train()
        if device.type == "cuda":
            self.teacher, self.student = (n.to(memory_format=torch.channels_last) for n in self.networks)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), lr=1e-3, fused=device.type == "cuda")
        self.batch, self.device = batch, device
        self.loader = DataLoader(
            pairs,
            batch,
            shuffle=True,
            drop_last=True,
            num_workers=workers,
            persistent_workers=workers > 0,
            pin_memory=device.type == "cuda",
        )

    @property
    def networks(self) -> tuple[Network, Network]:
        """Teacher and student."""
        return self.teacher, self.student

    def run(self) -> float:
        """Pictures per second over an epoch, the starting of workers not counted after the first one."""
        finish(self.device)
        began, n = time.perf_counter(), 0
        for high, low, labels in self.loader:
            self._step(self._as_picture(high), self._as_picture(low), labels.to(self.device))
            n += len(labels)
        finish(self.device)
        return n / (time.perf_counter() - began)

    def _as_picture(self, tiles: Tensor) -> Tensor:
        tiles = tiles.to(self.device, non_blocking=True).permute(0, 3, 1, 2).float() / 255
        return (tiles - 0.5) / 0.25

    def _step(self, high: Tensor, low: Tensor, labels: Tensor) -> None:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            with torch.no_grad():
                teacher_map, teacher_logits = self.teacher(high)
            student_map, logits = self.student(low)
        cells = student_map.shape[-1]
        expected = resize_map(attention(teacher_map, self.teacher.head.weight, "inside"), cells, "area")
        said = attention(student_map, self.student.head.weight, "inside")
        soft = functional.log_softmax(teacher_logits.float(), 1)
        loss = functional.cross_entropy(logits.float(), labels)
        loss = loss + functional.kl_div(
            functional.log_softmax(logits.float(), 1), soft, reduction="batchmean", log_target=True
        )
        loss = loss + functional.mse_loss(student_map.float(), resize_map(teacher_map, cells, "area"))
        loss = loss + functional.mse_loss(normalise_minmax(said), normalise_minmax(expected))
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
