"""Chapter 12: how does the same loop train on words, on large corpora and on many GPUs?

    python 12_scale.py --config tiny        # 25M parameters, on any GPU; on a CPU only to try it
    torchrun --standalone --nproc_per_node=4 12_scale.py --config medium
    python 06_generate.py --checkpoint dllm-shakespeare-tiny --prompt "The quick brown"

The model, the training loop, the evaluation and the sampler are those of chapters 03 to 06. This chapter adds a task
whose batches any number of processes can share. The chapter has four parts:

    1. words        The vocabulary has 50,257 tokens, mostly words and pieces of words. A token has three to four
                    characters, so a window holds more text. But most parameters of a small model are then in its
                    embedding and head. And nats per token cannot be compared with nats per character.
    2. a batch      The windows and masks of a step depend only on (seed, step, row). So the batch is the same for any
                    number of processes, even after an interruption.
    3. processes    Each process has a copy of the model and a share of the batch. All processes average their
                    gradients.
    4. memory       A block of the model can forget its results, and compute them again in the backward pass.

plumbing/token_files.py keeps all tokens in one file. docs/scale.md says how much memory and computation each settings
file in configs/scale/ needs. Press Ctrl-C to save the run and stop. To resume, run the same command again. You can even
change the number of GPUs, because --batch-size counts the windows of all processes together. This chapter has been
tested only on CPUs, with one and with two processes.
"""

import math
import os
from dataclasses import asdict, dataclass, replace
from functools import partial
from importlib import import_module
from typing import Literal

from plumbing import checkpoint, cli, devices, parallel, token_files

import numpy as np
import torch
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as computed_again

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


@dataclass(frozen=True)
class TrainConfig(training.DiffusionTrainConfig):
    """How to train: the settings of chapter 05, and more. `batch_size` counts the windows of all processes together."""

    schedule: Literal["linear", "cosine", "sqrt"] = "linear"  # noise schedule: how often each share of masks occurs
    prefix: float = 0.2  # share of the windows that begin with clean tokens, like a prompt
    short: float = 0.01  # share of the steps whose windows are cut to a random length
    recompute: bool = False  # keep only the inputs of the blocks and compute the rest again, to save memory

    def __post_init__(self):
        super().__post_init__()
        for name in ("prefix", "short"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1")


# 1. Words


def characters_per_token(tokens, tokenizer):
    """Return the mean number of characters per token.

    To turn nats per token into nats per character, divide by this number.
    """
    tokens = tokens[:100_000].tolist()
    return len(tokenizer.decode(tokens)) / len(tokens)


def show_words(tokens, tokenizer):
    pieces = [cli.printable(tokenizer.shown[token].replace("\n", "/")) for token in tokens[:16].tolist()]
    print(f"the first held-out tokens: {'|'.join(pieces)}\n{characters_per_token(tokens, tokenizer):.2f} characters "
          f"per token; guessing among all {tokenizer.vocab_size:,} costs {math.log(tokenizer.vocab_size):.2f} nats")


# 2. A batch that any number of processes draws alike


def draw(windows, config, mask_id, step, rank=0, world=1):
    """Return one process's part of a step's batch: (x0, xt, masks).

    `rank` is the number of this process, from 0 to world - 1. x0 and xt (batch_size / world, T) are the clean and the
    masked windows. `masks` is the number of masks in the whole batch. Every process draws the noise levels of the whole
    batch, so it knows this number without asking other processes.
    """
    B, T = config.batch_size, windows.length
    with diffusion.same_numbers(config.seed * 1_000_003 + step, torch.device("cpu")):
        if torch.rand(()) < config.short:  # a sampler's canvas can be shorter than the window
            T = int(torch.randint(1, T + 1, ()))
        u = torch.rand(B)
        t = (torch.randperm(B) + u) / B * config.t_max  # (B,) spread evenly
        prompted = torch.rand(B) < config.prefix
        given = (prompted * torch.rand(B) * T).long()  # (B,) clean tokens at the beginning
        score = torch.rand(B, T)
    share = 1 - diffusion.NoiseSchedule(config.schedule).alpha(t)  # (B,) share of masks among tokens not given
    k = 1 + (share * (T - given)).long().clamp(max=T - given - 1)  # (B,)
    score[torch.arange(T) < given[:, None]] = 1  # the highest score: given tokens are never masked
    hidden = diffusion.ranks(score[rank::world]) < k[rank::world, None]  # (B / world, T)

    numbers, laps = windows.order(step, B, config.seed)
    x0 = windows.read(numbers[rank::world], laps[rank::world])[:, :T]
    return x0, torch.where(hidden, mask_id, x0), int(k.sum())


class Words:
    """The task of one process: restore hidden tokens in its share of each batch.

    `windows` are Windows of the training text, and `held_out` are Windows of unseen text. `config` is the TrainConfig,
    whose batch_size counts the windows of all processes together.
    """

    measure = "NELBO"

    def __init__(self, tokenizer, windows, held_out, config, team):
        self.tokenizer, self.source = tokenizer, windows
        self.config, self.team = config, team
        count = min(held_out.n, max(config.evaluate_windows, training.FINAL_WINDOWS))
        spread = np.arange(count) * held_out.n // count  # evenly over the held-out text
        self.windows = held_out.read(spread).to(team.device)  # (count, T)
        self.parts = []  # the parts of this process's share that `batch` has not returned yet
        self.run = None  # `make_run` sets it

    def make_run(self, name, config, settings, info, fresh):
        """Return the run in which all processes act as one. The arguments are those of plumbing.run.Run."""
        whole = asdict(self.config)
        info = info | {"train": whole, "processes": self.team.world}
        tokens = self.config.batch_size * self.source.length
        self.run = parallel.TeamRun(self.team, tokens, name, config, settings | whole, info, fresh)
        return self.run

    def batch(self, n):
        """Return the next part of this process's share of the batch: n windows, and what `loss` needs."""
        if not self.parts:
            x0, xt, self.masks = draw(self.source, self.config, self.tokenizer.mask_id, self.run.step,
                                      self.team.rank, self.team.world)
            self.parts = list(zip(x0.split(n), xt.split(n)))
        x0, xt = self.parts.pop(0)
        is_last = not self.parts
        return x0.to(self.team.device), xt.to(self.team.device), self.masks, is_last

    def loss(self, network, batch):
        """Return a part's contribution to the batch's loss, multiplied by the numbers of parts and processes.

        The loss of a batch is the sum of the cross-entropies at all masks, divided by the number of masks in the batch.
        If each process divided by its own number of masks, the mean over the processes would be a different number,
        because some processes have more masks than others. So each process divides by the number of masks in the whole
        batch. Afterwards, the training loop divides by the number of parts, and DDP divides the sum of all gradients by
        the number of processes. Multiplying by both numbers here undoes these divisions.
        """
        x0, xt, masks, is_last = batch
        network.require_backward_grad_sync = is_last  # the processes communicate once per step, not in every part
        t = (xt == self.tokenizer.mask_id).float().mean(1)  # the samplers tell the model the same t
        total = diffusion.hidden_losses(network, x0, xt, t).sum()
        return total / masks * self.config.accumulate * self.team.world

    def evaluate(self, model, windows):
        """Return the NELBO of windows (N, T) in nats per token: (mean, standard error).

        With --documents, a window is filled up after the end of its text. Predicting this filler costs almost nothing,
        so the mean is taken over the other tokens.
        """
        rows = self.config.batch_size // self.team.world // self.config.accumulate  # a batch that fits into memory
        mean, error = diffusion.nelbo(model, windows, batch_size=rows)
        counted = windows.numel() / self.source.text_of(windows).sum().item()
        return mean * counted, error * counted

    def sample(self, model):
        """Return a text that the model writes."""
        canvas = torch.full((1, self.source.length), self.tokenizer.mask_id, device=self.team.device)
        *_, last = diffusion.denoise(model, canvas)
        return self.tokenizer.decode(last.canvas[0])


# 3. Several processes


def distribute(model, team):
    """Return a network that gives the same results as `model`, and averages its gradients over all processes.

    The returned network is PyTorch's DistributedDataParallel (DDP). The backward pass first computes the gradients of
    the last blocks. The processes exchange these gradients while the backward pass computes the gradients of the first
    blocks. Then all processes take the same step.
    """
    if team.world == 1:
        return model
    gpu = [team.device] if team.device.type == "cuda" else None
    network = DistributedDataParallel(model, device_ids=gpu, gradient_as_bucket_view=True)
    network.config = model.config
    return network


def best_product(device, dtype, size=2048):
    """Multiply two square matrices 4 times. Return the best speed in floating-point operations per second (FLOP/s)."""
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    times = []
    for _ in range(4):
        began = devices.now(device)
        a @ b
        times.append(devices.now(device) - began)
    return 2 * size**3 / min(times)


def show_speed(task, shape):
    """Print the speed of a run, and its model FLOPs utilisation (MFU).

    The MFU is the share of the hardware's speed that the run used.
    """
    run, team = task.run, task.team
    speed = run.step * run.tokens / run.seconds
    best = best_product(team.device, devices.pick_dtype(task.config.dtype, team.device)) * team.world
    utilisation = speed * transformer.flops_per_token(shape) / best
    print(f"{run.step * run.tokens:,} tokens in {run.seconds:,.0f} s of training: {speed:,.0f} tokens/s, "
          f"{utilisation:.1%} of the FLOP/s that this machine reaches in a product of matrices")


# 4. Memory


class RecomputedBlock(transformer.Block):
    """A block that keeps only its input, and computes everything else again in the backward pass.

    It has the same results and gradients as a Block, but a step takes a third longer.
    """

    def forward(self, *inputs):
        return computed_again(super().forward, *inputs, use_reentrant=False)


def make_model(shape, recompute):
    """Return a Transformer. If `recompute` is true, its blocks are RecomputedBlocks, which need less memory."""
    model = transformer.Transformer(shape)
    if recompute:
        for block in model.blocks:
            block.__class__ = RecomputedBlock
    return model


# 5. The command line


@dataclass(frozen=True)
class Command:
    """The flags of this chapter."""

    config: str = "tiny"  # a settings file: a name in configs/scale/, or the path of a YAML file
    run_name: str = ""  # name of the run, and of its folder under checkpoints/ (--run is already a flag of torchrun)
    fresh: bool = False  # start the run again instead of resuming it
    device: str = "auto"  # auto, cpu, cuda or mps
    model: transformer.Shape = transformer.Shape()
    data: token_files.Source = token_files.Source()
    train: TrainConfig = TrainConfig()

    @property
    def run(self):
        """The name of the run. Chapter 05 reads the attribute `run`."""
        return self.run_name


def train(settings, team):
    config, world = settings.train, team.world
    if config.batch_size % (world * config.accumulate):
        raise cli.UserError(f"--batch-size {config.batch_size} must be a multiple of {world} processes × "
                            f"--accumulate {config.accumulate}")
    is_first_here = int(os.environ.get("LOCAL_RANK", 0)) == 0
    tokens, tokenizer, checksum = token_files.prepare(settings.data, wait=not is_first_here)
    shape = transformer.TransformerConfig(**asdict(settings.model), vocab_size=tokenizer.vocab_size)
    windows, held_out = token_files.split(tokens, settings.data, shape.seq_len, tokenizer)
    print(f"{settings.data.dataset}: {len(tokens):,} tokens, {windows.n:,} windows of {shape.seq_len} for training, "
          f"{held_out.n:,} held out; {config.batch_size * shape.seq_len:,} tokens per step")
    show_words(held_out.tokens, tokenizer)

    task = Words(tokenizer, windows, held_out, config, team)
    about = {"corpus": settings.data.name, "corpus_sha256": checksum} | asdict(settings.data)
    own = replace(settings, train=replace(config, batch_size=config.batch_size // world))  # this process's settings
    build = partial(make_model, recompute=config.recompute)
    folder = training.start(own, "dllm", task, shape, about, team.device, build, task.make_run,
                            partial(distribute, team=team))
    if not folder:
        return
    show_speed(task, shape)
    number = checkpoint.read_config(folder)["info"]["NELBO"]
    print(f"{number / characters_per_token(held_out.tokens, tokenizer):.3f} nats per character\n"
          f"Next: python 06_generate.py --checkpoint {folder.name} writes with your model.")


def main(argv=None):
    with parallel.one_voice():
        settings = cli.parse(Command, argv, configs="scale")
        train(settings, parallel.join(settings.device))


if __name__ == "__main__":
    cli.run(main)
