"""TensorBoard event files of a run, beside its checkpoint: an extra that nothing depends on.

They lie under the state of the run, which no rule declares as an output, so they outlive every attempt:
`tensorboard --logdir results/state` shows the runs of a study by their folders. Nothing is imported unless
asked.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

from lowmag.errors import UserError

FOLDER = "tensorboard"


class Board:
    """Writes figures by step below `state`; with None it writes nothing.

    Raises UserError when TensorBoard is not installed.
    """

    def __init__(self, state: Path | None) -> None:
        self._folder = state / FOLDER if state else None
        self._writer = None
        if state is None:
            return
        try:
            import torch.utils.tensorboard  # noqa: F401  # and with it protobuf: only where asked for
        except ImportError as error:
            raise UserError(
                f"tensorboard is asked for, but cannot be imported ({error}); install it "
                "(uv sync --extra tensorboard, or pip install -e '.[tensorboard]'), or leave the option out"
            ) from error

    def start(self, steps_done: int) -> None:
        """Go on after so many steps of the whole run.

        What a session wrote after them, because it was killed before it saved, is taken back; all of an
        earlier run when nothing is done yet.
        """
        if self._folder is None:
            return
        from torch.utils.tensorboard import SummaryWriter

        if steps_done == 0:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._writer = SummaryWriter(str(self._folder), purge_step=steps_done + 1)

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Add figures at a step of the whole run, counted from 1; validation has a heading of its own."""
        if self._writer is not None:
            for name, value in figures.items():
                group = "validation" if name.startswith("val_") else "training"
                self._writer.add_scalar(f"{group}/{name.removeprefix('val_')}", value, step)
            self._writer.flush()

    def close(self) -> None:
        """Close the file; nothing can be added afterwards."""
        if self._writer is not None:
            self._writer.close()
