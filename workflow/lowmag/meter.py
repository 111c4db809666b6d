"""What a person watches during training: one line per interval with loss, speed, waiting and memory."""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from lowmag.device import memory_in_use

LOG_EVERY_S = 30.0

logger = logging.getLogger(__name__)


class Meter:
    """Time of the steps of one epoch in this session (`n_steps` begun so far), and the lines about it."""

    def __init__(self, batch_size: int, expected_steps: int, device: torch.device) -> None:
        self._batch_size, self._expected, self._device = batch_size, expected_steps, device
        self._began = self._logged = time.monotonic()
        self._ended: float | None = None
        self._waited_s = 0.0
        self.n_steps = 0

    def watching(self, parts: Iterable[Tensor], per_step: int = 1) -> Iterator[Tensor]:
        """The parts of batches; the time they let one wait is counted, and a bar is shown on a terminal."""
        bar = tqdm(total=self._expected, unit="step", leave=False, disable=not sys.stderr.isatty())
        source, n_parts = iter(parts), 0
        with bar:
            while True:
                asked = time.monotonic()
                part = next(source, None)
                self._waited_s += time.monotonic() - asked
                if part is None:
                    return
                self.n_steps += n_parts % per_step == 0
                yield part
                n_parts += 1
                bar.update(n_parts % per_step == 0)

    def stop(self) -> None:
        """Let the time end here: after the device has finished its steps, before validation."""
        self._ended = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds of the steps so far, validation not included."""
        return (self._ended or time.monotonic()) - self._began

    @property
    def seconds_per_step(self) -> float:
        """Mean time of a step."""
        return self.seconds / max(1, self.n_steps)

    @property
    def images_per_s(self) -> float:
        """Training tiles per second."""
        return self.n_steps * self._batch_size / max(self.seconds, 1e-9)

    @property
    def waiting_share(self) -> float:
        """Share of the time spent waiting for tiles, 0 to 1."""
        return self._waited_s / max(self.seconds, 1e-9)

    def due(self) -> bool:
        """Whether it is time for a line."""
        return time.monotonic() - self._logged >= LOG_EVERY_S

    def log(self, place: str, figures: Mapping[str, float]) -> None:
        """Write one line: the place in the run, the figures, and how fast it goes."""
        self._logged = time.monotonic()
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        logger.info(
            "%s  %s  %.0f img/s  waiting %.0f %%  %.1f GB",
            place,
            shown,
            self.images_per_s,
            100 * self.waiting_share,
            memory_in_use(self._device) / 1e9,
        )
