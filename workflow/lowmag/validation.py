"""How a network does on validation tiles: what chooses the epoch that is kept."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from lowmag.bank import Bank
from lowmag.device import Precision, autocast, inference_batch
from lowmag.errors import UserError
from lowmag.models import ModelSpec, prepare
from lowmag.networks import Network

FIGURES = ("val_loss", "val_accuracy", "val_balanced_accuracy", "val_kappa")


@dataclass(frozen=True)
class Validated:
    """How a network did: the figures by name, and its decision for every tile of the bank, (N,) int16."""

    figures: dict[str, float]
    decisions: np.ndarray


def validate(
    network: Network, spec: ModelSpec, bank: Bank, precision: Precision, asked: Callable[[], bool]
) -> Validated | None:
    """Loss, accuracy, balanced accuracy and quadratic kappa over the tiles of a bank, all of them labelled.

    None when `asked` says in between that the run must stop. Kappa is NaN where it is not defined (all in one
    class). The network comes back in training mode.
    """
    labels = torch.from_numpy(bank.index.labels[bank.ids]).to(bank.device)
    n_classes = len(spec.classes)
    decisions: list[Tensor] = []
    loss = torch.zeros((), device=bank.device)
    batch_size = inference_batch(spec.network_px)
    network.eval()
    try:
        with torch.inference_mode():
            parts = zip(bank.batches(bank.ids, batch_size), labels.split(batch_size), strict=True)
            for tiles, expected in parts:
                if asked():
                    return None
                with autocast(bank.device, precision):
                    logits = network(prepare(tiles, spec))[1]
                loss += functional.cross_entropy(logits.float(), expected, reduction="sum")
                decisions.append(logits.argmax(1))
    finally:
        network.train()
    decided = torch.cat(decisions)
    confusion = torch.bincount(labels * n_classes + decided, minlength=n_classes**2)
    figures = figures_of(confusion.view(n_classes, n_classes), float(loss) / len(bank.ids))
    return Validated(figures, decided.cpu().numpy().astype(np.int16))


@torch.no_grad()
def judge(logits: Tensor, expected: Tensor, cure: str) -> Validated:
    """How logits (n, K) on the CPU do; UserError with `cure` when their loss is no number."""
    n_classes, decided = logits.shape[1], logits.argmax(1)
    loss = float(functional.cross_entropy(logits, expected))
    if not math.isfinite(loss):
        raise UserError(f"the validation loss is not a finite number; {cure}")
    confusion = torch.bincount(expected * n_classes + decided, minlength=n_classes**2)
    figures = figures_of(confusion.view(n_classes, n_classes), loss)
    return Validated(figures, decided.numpy().astype(np.int16))


class Best:
    """The epoch of a small model that is best on validation, with its weights."""

    def __init__(self, model: nn.Module, select: str, margin: float = 0.0) -> None:
        self.model, self.select, self.margin, self.epoch = model, select, margin, 0
        self._score, self._weights = (-math.inf, -math.inf), dict[str, Tensor]()

    def offer(self, epoch: int, figures: dict[str, float]) -> None:
        """Keep the model's weights as they are, if the figures are better than the best so far."""
        reached = score(figures, self.select)
        if not self._weights or is_better(reached, self._score, self.margin):
            self._score, self.epoch = reached, epoch
            self._weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def restore(self) -> None:
        """Put the weights of the best epoch into the model."""
        self.model.load_state_dict(self._weights)


def figures_of(confusion: Tensor, loss: float) -> dict[str, float]:
    """The figures of a confusion matrix (K, K), rows the labels; balanced over the classes that occur."""
    counts = confusion.double().cpu().numpy()
    of_class, predicted, n = counts.sum(1), counts.sum(0), counts.sum()
    present = of_class > 0
    grades = np.arange(len(counts))
    disagreement = (grades[:, None] - grades) ** 2
    by_chance = (disagreement * np.outer(of_class, predicted)).sum() / n
    kappa = 1 - (disagreement * counts).sum() / by_chance if by_chance > 0 else math.nan
    balanced = (counts.diagonal()[present] / of_class[present]).mean()
    values = (loss, counts.trace() / n, balanced, kappa)
    return {name: float(value) for name, value in zip(FIGURES, values, strict=True)}


def is_better(reached: tuple[float, float], kept: tuple[float, float], margin: float) -> bool:
    """Whether an epoch of this score takes the place of the one kept: of equal ones the later.

    With a margin only when its figure is larger by more than that, as in the code released with del Amor et
    al. 2024 (arXiv 2401.06010). The first epoch is better than none, whose score is minus infinity twice.
    """
    if not margin or kept == (-math.inf, -math.inf):
        return reached >= kept
    return reached[0] > kept[0] + margin


def score(figures: dict[str, float], select: str) -> tuple[float, float]:
    """What an epoch is chosen by, larger is better: the figure, and at a tie the validation loss.

    Few validation tiles tie often, and the loss still tells the epochs apart. `last` ties always.
    """
    if select == "last":
        return 0.0, 0.0
    loss = -figures["val_loss"]
    figure = loss if select == "loss" else figures[f"val_{select}"]
    return (-math.inf if math.isnan(figure) else figure), loss
