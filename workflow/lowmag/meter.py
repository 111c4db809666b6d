"""What a person watches during training: a bar on a terminal, else one line per interval.

Both say where the run is, the parts of the loss, speed, the share of the time spent waiting for tiles,
memory, and the time left for the whole run.
"""

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import torch
from tqdm import tqdm

from lowmag.device import memory_in_use

LOG_EVERY_S = 30.0
BAR_EVERY_S = 5.0  # each time the host waits for the device
Part = TypeVar("Part")

logger = logging.getLogger(__name__)


class Meter:
    """Time of the steps of one epoch in this session (`n_steps` begun so far), and the lines about it."""

    def __init__(self, batch_size: int, expected_steps: int, device: torch.device) -> None:
        self._batch_size, self._expected, self._device = batch_size, expected_steps, device
        self._began = self._logged = time.monotonic()
        self._ended: float | None = None
        self._waited_s = 0.0
        self._bar: tqdm | None = None
        self.n_steps = 0

    def watching(self, parts: Iterable[Part], per_step: int = 1) -> Iterator[Part]:
        """The parts of batches, `per_step` to each; the time they let one wait is counted."""
        source = iter(parts)
        fetched = 0
        with tqdm(total=self._expected, unit="step", leave=False, disable=not sys.stderr.isatty()) as bar:
            self._bar = None if bar.disable else bar
            while True:
                asked = time.monotonic()
                part = next(source, None)
                self._waited_s += time.monotonic() - asked
                if part is None:
                    break
                self.n_steps += fetched % per_step == 0
                fetched += 1
                yield part
                bar.update(fetched % per_step == 0)
        self._bar = None

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

    @property
    def memory_gb(self) -> float:
        """Gigabytes held: the most on the GPU so far, or resident in the host now."""
        return memory_in_use(self._device) / 1e9

    def due(self) -> bool:
        """Whether it is time to show how it goes."""
        return time.monotonic() - self._logged >= (BAR_EVERY_S if self._bar else LOG_EVERY_S)

    def show(self, place: str, figures: Mapping[str, float], seconds_left: float) -> None:
        """Say how it goes: behind the bar where there is one, else as a line."""
        if self._bar is None:
            self.log(place, figures, seconds_left)
            return
        self._logged = time.monotonic()
        self._bar.set_description_str(place, refresh=False)
        self._bar.set_postfix_str(self._line(figures, seconds_left))

    def log(self, place: str, figures: Mapping[str, float], seconds_left: float) -> None:
        """Write one line: the place in the run, the figures, how fast it goes and how long it will."""
        self._logged = time.monotonic()
        logger.info("%s  %s", place, self._line(figures, seconds_left))

    def _line(self, figures: Mapping[str, float], seconds_left: float) -> str:
        memory = f"{memory_in_use(torch.device('cpu')) / 1e9:.1f} GB"
        if self._device.type == "cuda":
            memory += f", GPU {self.memory_gb:.1f} GB"
        shown = [f"{name} {value:.4g}" for name, value in figures.items()]
        speed = f"{self.images_per_s:.0f} img/s", f"waiting {100 * self.waiting_share:.0f} %"
        return "  ".join([*shown, *speed, memory, f"{duration(seconds_left)} left"])


def duration(seconds: float) -> str:
    """A time as a person says it: 45 s, 12 min, 3 h 05 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"
