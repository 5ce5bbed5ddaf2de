"""Training with several processes (chapter 12). torchrun starts the processes and gives each process a number.

    one_voice()    let only the first process print
    join(name)     return the Team of this process
    TeamRun        a training run of several processes
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
    """Let only the first process print, so that an error message appears only once."""
    if int(os.environ.get("RANK", 0)) == 0:
        yield
    else:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            try:
                yield
            except (Exception, SystemExit):
                # Usually the first process has the same error, or the end of the first process has caused our error.
                # Then the first process reports the reason, and torchrun ends this process while it sleeps. If this
                # process wakes up, it is the only one with an error, and reports it.
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                time.sleep(10)
                raise
    if dist.is_initialized():
        dist.destroy_process_group()


@dataclass(frozen=True)
class Team:
    """What a process knows about the processes that train together."""

    rank: int  # number of this process, from 0
    world: int  # number of processes
    device: torch.device  # device of this process

    @property
    def lead(self):
        """Whether this process is the one that prints messages and writes files."""
        return self.rank == 0

    def total(self, number):
        """Return the sum of a number over all processes.

        All processes must call this method, which waits for all of them.
        """
        if self.world == 1:
            return float(number)
        total = torch.tensor(number, dtype=torch.float64)  # on the CPU, so that nobody waits for a GPU
        dist.all_reduce(total)
        return total.item()

    def mean(self, tensor):
        """Return the mean of a tensor over all processes. The mean has no gradient."""
        mean = tensor.detach() / self.world
        if self.world > 1:
            dist.all_reduce(mean)
        return mean


def join(name):
    """Return the Team of this process. On each machine, process i uses GPU i.

    `name` is the value of --device. Raises UserError if there are fewer GPUs than processes, or if the processes cannot
    share the device.
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
    # The library gloo connects CPUs, and nccl connects GPUs. The timeout is long, because the other processes wait
    # while the first process evaluates.
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, timeout=timedelta(minutes=30))
    return Team(rank, world, device)


class TeamRun(Run):
    """A run of several processes, which take each step together and stop together. Only the first process evaluates.

    `tokens` is the number of tokens that all processes together read in a step. The other arguments are those of Run.
    """

    MAY_CHANGE = Run.MAY_CHANGE | {"accumulate", "recompute", "dataset"}  # the tokens' checksum must stay the same

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
        """Return the progress of the first process, because the clocks of the processes differ."""
        return self.team.total(super().progress_now() if self.team.lead else 0)

    def must_stop(self):
        """Return whether any process was asked to stop. If so, all processes stop."""
        return self.team.total(self.stopped) > 0

    def show(self, loss):
        super().show(self.team.mean(loss))

    def is_due(self):
        return self.team.lead and super().is_due()

    def record(self, numbers, text):
        """Log the evaluation, and the number of tokens that all processes together read per second."""
        speed = self.step * self.tokens / max(self.seconds, 1e-9)
        super().record(numbers | {"tokens_per_second": round(speed)}, text)
