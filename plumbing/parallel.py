"""Several processes that act as one (chapter 12). torchrun starts them and tells each of them its number.

    one_voice()    let only the first process speak
    join(name)     return the Team of this process
    TeamRun        a run: all processes take its steps together, and the first process writes its files
"""

import ctypes
import os
import signal
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from datetime import timedelta

from plumbing import devices, files
from plumbing.cli import UserError
from plumbing.run import Run

import torch
import torch.distributed as dist


@contextmanager
def one_voice():
    """Let only the first process print, so that a mistake of the user is reported once."""
    if int(os.environ.get("RANK", 0)) == 0:
        yield
    else:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            try:
                yield
            except (Exception, SystemExit):
                # Usually the first process has the same error, or its end has caused ours. Then it reports the reason,
                # and torchrun ends this process while it sleeps. If nobody ends it, the error is ours alone, and we
                # report it.
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                time.sleep(10)
                raise
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True)
class Team:
    """The number of this process, the number of all processes, and the device of this one."""

    rank: int  # number of this process, from 0
    world: int  # number of processes
    device: torch.device

    @property
    def lead(self):
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def total(self, number):
        """Return the sum of a number over all processes. Each must call this, and waits until all have called it."""
        if self.world == 1:
            return float(number)
        total = torch.tensor(number, dtype=torch.float64)  # on the CPU, so that nobody waits for a GPU
        dist.all_reduce(total)
        return total.item()

    def mean(self, tensor):
        """Return the mean of a tensor over all processes, without its gradient."""
        mean = tensor.detach() / self.world
        if self.world > 1:
            dist.all_reduce(mean)
        return mean


def join(name):
    """Return the Team of this process. Each process takes the GPU whose number is its own number on its machine.

    name: a value of --device. Raises UserError if there are not enough devices for the processes.
    """
    world = int(os.environ.get("WORLD_SIZE", 1))
    if world == 1:
        return Team(0, 1, devices.pick_device(name))
    rank = int(os.environ["RANK"])
    if name in ("auto", "cuda") and torch.cuda.is_available():
        needed, found = int(os.environ.get("LOCAL_WORLD_SIZE", world)), torch.cuda.device_count()
        if needed > found:
            raise UserError(f"{needed} processes need {needed} GPUs, and {found} are here: start fewer processes")
        name = f"cuda:{os.environ.get('LOCAL_RANK', rank)}"
        torch.cuda.set_device(name)
    device = devices.pick_device("cpu" if name == "auto" else name)
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"several processes cannot share the device {device}: use --device cpu, or one process")
    if sys.platform == "linux" and "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent = 1  # PR_SET_PDEATHSIG: if torchrun is killed, we stop as if it had asked us to stop
        ctypes.CDLL(None).prctl(end_with_parent, signal.SIGTERM)
    # The library gloo connects CPUs, and nccl connects GPUs. While the first process evaluates, all other processes
    # wait.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    return Team(rank, world, device)


class TeamRun(Run):
    """A run of several processes. They take each step together and stop together; only the first process evaluates.

    tokens: number of tokens that all processes read in a step. All other arguments are those of Run.
    """

    MAY_CHANGE = Run.MAY_CHANGE | {"accumulate", "recompute", "dataset"}  # a checksum guards the data set's tokens

    def __init__(self, team, tokens, name, config, settings=(), info=(), fresh=False):
        self.team, self.tokens = team, tokens
        super().__init__(name if team.lead else None, config, settings, info, fresh)
        if not team.lead:  # without a name, a run neither writes nor prints
            self.folder = files.RUNS / name
            self.saved = None if fresh else self.load_state()
        if team.total(self.saved is not None) not in (0, team.world):
            raise UserError(f"only some processes find {self.folder}: all machines must share the folder checkpoints")

    def steps(self):
        before = signal.signal(signal.SIGTERM, self.stop)  # how torchrun and clusters ask us to stop
        try:
            yield from super().steps()
        finally:
            signal.signal(signal.SIGTERM, before)

    def seed_step(self):
        """Give each process its own random numbers, for dropout."""
        torch.manual_seed((self.seed * 1_000_003 + self.step) * self.team.world + self.team.rank)

    def progress_now(self):
        """Return the progress of the first process, since the clocks of the processes differ."""
        return self.team.total(super().progress_now() if self.team.lead else 0)

    def must_stop(self):
        """Return whether any process was asked to stop, because then all processes stop."""
        return self.team.total(self.stopped) > 0

    def show(self, loss):
        super().show(self.team.mean(loss))

    def is_due(self):
        return self.team.lead and super().is_due()

    def record(self, numbers, text):
        """Log the evaluation, and the tokens per second that all processes together have read."""
        speed = self.step * self.tokens / max(self.seconds, 1e-9)
        super().record(numbers | {"tokens_per_second": round(speed)}, text)
