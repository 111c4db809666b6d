"""The processes that train one network together, each with its equal part of every batch.

`lowmag teacher --gpus n` starts itself n times under torchrun. What a process does with its part is what
`accumulate` does with a part of a batch; the gradients are then added up over the processes, so that all take
the same step. Each holds its own copy of the tiles, and validates on its own.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm

from lowmag.errors import UserError

PATIENCE = timedelta(days=1)  # between two meetings: while the first waits for the run's lock, or validates
STATUS = "LOWMAG_TEAM_STATUS"  # file for the exit status of the first process: torchrun does not pass it on
T = TypeVar("T")
EXIT_FOR_USER = 2  # of a UserError
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # those that stop a trainer
RESEND_S = 1.0


@dataclass(frozen=True)
class Team:
    """Our place among the processes of a run; one process alone is a team, too."""

    rank: int = 0
    size: int = 1
    talk: Any = None  # the group that settles matters of the host, without waiting for a device

    @property
    def leads(self) -> bool:
        """Whether it is ours to write files."""
        return self.rank == 0

    def own(self, batch: slice) -> slice:
        """The part of a batch that is ours."""
        size = (batch.stop - batch.start) // self.size
        return slice(batch.start + self.rank * size, batch.start + (self.rank + 1) * size)

    def part_size(self, batch_size: int, at_most: int) -> int:
        """Tiles that go through the network at once: of equal parts of our share, none above `at_most`."""
        share = batch_size // self.size
        return next(n for n in range(min(at_most, share), 0, -1) if share % n == 0)

    def any(self, is_so: bool) -> bool:
        """Whether it is so for any of the team; all have to ask at the same place."""
        if self.size == 1:
            return is_so
        found = torch.tensor(float(is_so))
        distributed.all_reduce(found, group=self.talk)
        return bool(found)

    def in_turn(self, read: Callable[[], T]) -> T:
        """What `read` gives, which the first process does before the others: it may move the file away."""
        if self.leads:
            found = read()
            self.any(False)
            return found
        self.any(False)
        return read()

    def add_up(self, parameters: Sequence[nn.Parameter], losses: Tensor) -> Tensor:
        """The sum of `losses` over the team, after the same was done to the gradients in place."""
        if self.size == 1:
            return losses
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        flat = torch.cat([losses.float(), *(gradient.flatten().float() for gradient in gradients)])
        distributed.all_reduce(flat)
        summed, *parts = flat.split([len(losses), *(gradient.numel() for gradient in gradients)])
        for parameter, gradient, part in zip(parameters, gradients, parts, strict=True):
            parameter.grad = part.view_as(gradient).to(gradient.dtype)
        return summed

    def check(self, network: nn.Module, batch_size: int) -> None:
        """Raise UserError for a network or a batch that cannot be shared out."""
        if self.size == 1:
            return
        if batch_size % self.size:
            raise UserError(
                f"batch_size {batch_size} is not a whole multiple of {self.size} GPUs; change one of them"
            )
        if any(isinstance(module, _BatchNorm) for module in network.modules()):
            raise UserError(
                f"BatchNorm would see a part of the batch on each of {self.size} GPUs; set teacher.gpus: 1, "
                "or take a network without it, as resnet10gn or vgg16"
            )


ALONE = Team()


def dropout_seed(seed: int, step: int, rank: int) -> int:
    """Seed of what a network itself draws in a step: another one for each process of a team.

    So there is no state to be kept, of no device, and a resumed run draws what it would have drawn.
    """
    return int(np.random.SeedSequence((seed, step, rank)).generate_state(1, np.uint64)[0] >> np.uint64(1))


def join(device: torch.device) -> Team:
    """The team that torchrun started this process in; alone, where it did not."""
    if not is_member():
        return ALONE
    if device.type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    talk = distributed.new_group(backend="gloo", timeout=PATIENCE)
    return Team(distributed.get_rank(), distributed.get_world_size(), talk)


def leave(team: Team, status: int) -> int:
    """The exit status for torchrun, after all have come here and the first has left the true one."""
    if team.size == 1:
        return status
    distributed.barrier(group=team.talk)
    tell(team, status)
    distributed.destroy_process_group()
    return 0


def tell(team: Team, status: int) -> None:
    """Leave the exit status of the run for the process that started the team."""
    if team.leads and STATUS in os.environ:
        Path(os.environ[STATUS]).write_text(str(status), encoding="ascii")


def is_member() -> bool:
    """Whether torchrun started this process."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def run(n: int, arguments: Sequence[str], locks: Sequence[int] = ()) -> int:
    """Exit status of `lowmag` with some arguments in `n` processes, which are told of signals that come here.

    torchrun inherits `locks`, so that the GPUs stay taken should this process be killed.
    """
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={n}", *_deaf()]
    # Not --standalone: its way of meeting unpickles what anyone who reaches the port has left there.
    command += ["--rdzv-backend=static", "--nnodes=1", "--node-rank=0"]
    command += ["--master-addr=127.0.0.1", f"--master-port={_free_port()}", "-m", "lowmag.cli", *arguments]
    came: list[int] = []
    with tempfile.TemporaryDirectory(prefix="lowmag-team") as folder:
        status = Path(folder, "status")
        # torchrun inherits what is ignored here; the processes below it do not (checkpoint.Stop).
        previous = {number: signal.signal(number, signal.SIG_IGN) for number in SIGNALS}
        try:
            process = subprocess.Popen(command, env={**os.environ, STATUS: str(status)}, pass_fds=locks)
            for number in SIGNALS:
                signal.signal(number, lambda number, _: came.append(number))
            code = _wait(process, came)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
        return int(status.read_text(encoding="ascii")) if status.exists() else code


def _deaf() -> list[str]:
    """Options by which torchrun leaves signals alone, in versions that have them.

    At the first one it would kill in 30 s what has not ended by then, a save included; at the second, which a
    job of SLURM gets as often as not, it would end at once and leave its processes behind.
    """
    from torch.distributed.run import get_args_parser  # slow

    option = "--signals-to-handle"
    return [f"{option}=SIGHUP,SIGQUIT"] if option in get_args_parser().format_help() else []


def _wait(process: subprocess.Popen, came: Sequence[int]) -> int:
    """Exit status of torchrun; the last signal that came is given to its processes until they have ended."""
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(RESEND_S)
        for pid in children(process.pid) if came else ():
            with suppress(ProcessLookupError):
                os.kill(pid, came[-1])


def children(pid: int) -> list[int]:
    """Processes that a process has started and that have not ended."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except OSError:  # it is ending
        return []


def _free_port() -> int:
    """A port that nothing listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
