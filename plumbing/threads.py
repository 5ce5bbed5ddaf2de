"""The number of threads with which a CPU computes: all of them, or one where another program keeps a core busy.

At the end of each operation, PyTorch's threads wait for the slowest of them, hundreds of times in a step. If another
program uses one of the cores, the slowest thread waits for its turn there, and a step takes several times as long as
with one thread alone. `python benchmark.py --only threads` measures both situations.

The number of threads can change the order of additions, and so the last bits of a result. So a resumed run equals an
uninterrupted one exactly only if both had as many threads; a fixed number, such as OMP_NUM_THREADS=2, makes sure.
"""

import math
import os
import time

import torch

SLICE = 0.1  # seconds of each measurement with one number of threads
SLOW_STEPS = 5  # so many steps in a row must take more than twice the shortest time before a run measures again
# One thread takes over when it computes products at this share of the speed of all threads, and gives back when at that
# share. In a step, all threads also have to wait for each other after hundreds of operations smaller than a product.
TO_ONE, TO_ALL = 0.8, 0.65
PATIENCE = 30  # seconds between two measurements while one thread is at work; they double with each change to it


def may_choose(device):
    """Return whether the number is ours to choose: on a CPU, if neither the user nor torchrun has set it."""
    given = {"OMP_NUM_THREADS", "MKL_NUM_THREADS"} & os.environ.keys() or os.environ.get("WORLD_SIZE", "1") != "1"
    return torch.device(device).type == "cpu" and torch.get_num_threads() > 1 and not given


def speed(number, operands):
    """Return how many products per second `number` threads compute, each as large as one in a step of laptop.yaml."""
    torch.set_num_threads(number)
    a, b, count, began = *operands, 0, time.perf_counter()
    while not count or time.perf_counter() - began < SLICE:
        (a @ b).relu_()
        count += 1
    return count / (time.perf_counter() - began)


class Threads:
    """One thread or all of them, whichever is faster at the moment; nothing where the number is not ours to choose.

    Call `choose` before a model is compiled, since its code is made for one number of threads. Then call `begin_step`
    and `end_step` around each step, and `restore` at the end.
    """

    def __init__(self, device):
        self.all, self.free = torch.get_num_threads(), may_choose(device)
        self.patience = PATIENCE
        self.forget()

    def forget(self):
        """Forget the speed of the steps so far."""
        self.best, self.slow, self.checked = math.inf, 0, time.perf_counter()

    def choose(self, turns=4):
        """Measure both numbers in turn, `turns` times each, and compute with the faster one from now on."""
        if not self.free:
            return
        current, operands = torch.get_num_threads(), (torch.ones(2048, 192), torch.ones(192, 768))
        speeds = {number: 0.0 for number in (1, self.all)}
        for _ in range(turns):
            for number in speeds:
                speeds[number] += speed(number, operands)
        share = speeds[1] / speeds[self.all]
        chosen = 1 if share > (TO_ALL if current == 1 else TO_ONE) else self.all
        if chosen == 1 and current != 1:
            self.patience *= 2
        torch.set_num_threads(chosen)
        self.forget()

    def begin_step(self):
        self.began = time.perf_counter()

    def end_step(self):
        """Measure again if the steps have become slow, or if one thread has been at work for some time."""
        if not self.free:
            return
        seconds = time.perf_counter() - self.began
        self.best, self.slow = min(self.best, seconds), self.slow + 1 if seconds > 2 * self.best else 0
        waited = time.perf_counter() - self.checked
        alone = torch.get_num_threads() == 1
        if alone and waited > self.patience or not alone and self.slow >= SLOW_STEPS and waited > 10 * SLICE:
            self.choose(turns=2)

    def restore(self):
        """Compute with all threads again."""
        if self.free:
            torch.set_num_threads(self.all)
