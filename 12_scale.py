"""Chapter 12: how does the same small program train on words, on large corpora and on many GPUs?

    python 12_scale.py --config configs/tiny.yaml      # 25M parameters, on any GPU; on a CPU only to try it
    torchrun --standalone --nproc_per_node=4 12_scale.py --config configs/medium.yaml
    python 06_generate.py --checkpoint dllm-shakespeare-tiny --prompt "The quick brown"

Model, masking, likelihood, sampler and trainer are those of chapters 03 to 05. This chapter adds what scale needs:

    1. words      50,257 tokens, nearly all of them pieces of words, instead of 65 characters. A token has three to
                  four characters, so a window of equal length holds more text. But most parameters of a small model
                  are then in its embedding and head, and nats per token are not nats per character.
    2. noise      Other schedules, clean prefixes and short windows. The windows and masks of a step follow from (seed,
                  step, row) alone, so any number of processes draws the same batch, even after an interruption.
    3. engines    One process; copies of the model that average their gradients (PyTorch's DistributedDataParallel,
                  DDP); or one model that is divided among all GPUs (FullyShardedDataParallel, FSDP).
    4. the loop   The loop of chapter 05, with a loss that is correct when several processes sum it.

plumbing/tokenized.py keeps the tokens in one file. docs/scale.md says how much memory and time each named size needs.
Press Ctrl-C to save and stop. Run the same command again to resume, even on a different number of GPUs. Every setting
is a flag (--train.steps 100, or for short --steps 100) and a line of a settings file (--config).
"""

import dataclasses
import math
import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
import torch.distributed as dist
import torch.nn as nn
import tyro
import yaml
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recompute

from plumbing import cli, devices, files, foreign, parallel, runs, sampling, settings, tokenized
from plumbing.settings import Decided, OptionalText, Share, Switch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


@dataclass(frozen=True)
class TrainConfig(training.DiffusionTrainConfig):
    """How to train: the settings of chapter 05, and more. batch_size counts the windows of all processes together."""

    lr: Share = 0.0  # if not 0, replaces lr_matrix and lr_other: usual with --optimizer adamw
    decay: Literal["wsd", "cosine"] = "wsd"  # learning rate: wsd (warm-up, stable, decay), or half a cosine
    schedule: Literal["linear", "cosine", "sqrt"] = "linear"  # noise schedule: which noise levels are frequent
    prefix: Share = 0.2  # share of the windows that begin with clean tokens, as if after a prompt
    short: Share = 0.01  # share of the steps whose windows are cut to a random length
    engine: Literal["ddp", "fsdp"] = "ddp"  # with several processes: copies of the model (ddp), or parts of it (fsdp)
    recompute: bool = False  # keep only the inputs of the blocks and compute the rest again, to save memory
    watch: Literal["none", "tensorboard", "wandb"] = "none"  # service that also receives the log
    minutes: Decided[float] = 0.0  # this chapter has no time budget
    weight: Decided[str] = "equal"  # in this chapter all masks of a batch count the same

    def with_one_rate(self):
        """These settings, with `lr` as both learning rates if it is set."""
        return dataclasses.replace(self, lr_matrix=self.lr, lr_other=self.lr) if self.lr else self


# 1. Words


def characters_per_token(tokens, tokenizer):
    """Return the mean length of a token in characters. Nats per token divided by it are nats per character."""
    ids = tokens[:100_000].tolist()
    return len(tokenizer.decode(ids)) / len(ids)


def show_words(tokens, tokenizer):
    pieces = [foreign.printable(tokenizer.decode([i]).replace("\n", "/")) for i in tokens[:16].tolist()]
    print(f"the first held-out tokens: {'|'.join(pieces)}\n{characters_per_token(tokens, tokenizer):.2f} characters "
          f"per token; guessing among all {tokenizer.vocab_size:,} costs {math.log(tokenizer.vocab_size):.2f} nats")


# 2. Noise


def draw(windows, config, mask_id, step, rank=0, world=1):
    """Return the batch of step `step` for process number `rank` of `world` processes: (x0, xt, masked).

    x0, xt: (batch_size / world, T), clean and masked rows; masked: the number of masks in the whole batch. Every
    process draws the noise levels of the whole batch, so it knows that number without asking the others.
    """
    B, T = config.batch_size, windows.length
    seed = config.seed * 1_000_003 + step
    generator = torch.Generator().manual_seed(seed)
    if torch.rand((), generator=generator) < config.short:  # a sampler's canvas may be shorter than the window
        T = int(torch.randint(1, T + 1, (), generator=generator))
    t = sampling.stratified(B, generator=generator) * config.t_max  # (B,)
    hidden = 1 - diffusion.NoiseSchedule(config.schedule).alpha(t)  # (B,) expected share of masks
    prompted = torch.rand(B, generator=generator) < config.prefix
    given = (prompted * torch.rand(B, generator=generator) * T).long()  # (B,) clean tokens at the beginning
    k = 1 + (hidden * (T - given)).long().clamp(max=T - given - 1)  # (B,) masks among the other tokens
    mine = range(rank, B, world)
    numbers, laps = windows.order(step, B, config.seed)
    x0 = windows.read(numbers[mine], laps[mine])[:, :T]
    xt = [diffusion.mask_exactly(row[None], k[i : i + 1], mask_id, generator.manual_seed(seed * (B + 1) + i + 1),
                                 int(given[i])) for i, row in zip(mine, x0)]
    return x0, torch.cat(xt), int(k.sum())


# 3. Engines


class RecomputedBlock(transformer.Block):
    """A block that keeps only its input for the backward pass, and computes everything else again there."""

    def forward(self, *inputs):
        return recompute(super().forward, *inputs, use_reentrant=False)


class RecomputedTransformer(transformer.Transformer):
    """The Transformer of chapter 03 with such blocks. Weights, results and gradients are the same."""

    def __init__(self, config):
        super().__init__(config)
        blocks = nn.ModuleList(RecomputedBlock(config) for _ in self.blocks)
        blocks.load_state_dict(self.blocks.state_dict())
        self.blocks = blocks


def make_model(model_config, config):
    return (RecomputedTransformer if config.recompute else transformer.Transformer)(model_config)


def distribute(model, averaged, dtype, config, team):
    """Return the network that averages the gradients of `model` over all processes; with one process, the model itself.

    DDP: every process holds the whole model, and the processes average their gradients. FSDP2 (version 2 of FSDP):
    every process holds a part of each parameter, gradient and average, and gathers the weights of a block when it
    needs them.
    """
    if team.world == 1:
        return model
    if config.engine != "fsdp":
        gpu = [team.device] if team.device.type == "cuda" else None
        network = DistributedDataParallel(model, device_ids=gpu, gradient_as_bucket_view=True)
        network.config = model.config
        return network
    mesh = init_device_mesh(team.device.type, (team.world,))
    # Weights are gathered in 16 bits and gradients summed in 32. Inputs are not cast: t would lose digits.
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for part in [*model.blocks, model, *averaged.blocks, averaged]:
        # By default the outermost part stays gathered. But the averages change, so each pass must gather them again.
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    return model


def make_trainer(model, config, team):
    """Return the Trainer of chapter 05, distributed over the team."""
    trainer = training.Trainer(model, config, team.device, partial(distribute, config=config, team=team))
    if config.optimizer == "muon" and config.engine == "fsdp" and team.world > 1:
        trainer.optimizers[0].orthogonalize = parallel.orthogonalize_sharded
    return trainer


# 4. The loop


def parts_of(x0, xt, count):
    """Return the batch in `count` parts: [(x0, xt, whether it is the last part)]."""
    return list(zip(x0.chunk(count), xt.chunk(count), [False] * (count - 1) + [True]))


def share_of_loss(network, part, masked, team):
    """Return the share of one part in the loss of the whole batch, times the number of processes.

    The loss of a batch is Σ of the cross-entropies over all masks / number of all masks. The mean of the processes'
    own means is a different number, since some processes have more masks. So each process divides its sum by `masked`,
    the common number. An engine then divides the sum of the gradients by the number of processes; we undo that here.
    """
    x, y, last = part
    network.require_backward_grad_sync = last  # DDP then communicates once per step; the other engines ignore it
    x, y = x.to(team.device, non_blocking=True), y.to(team.device, non_blocking=True)  # (B / world / accumulate, T)
    t = (y == network.config.mask_id).float().mean(1)  # `denoise` gives the model the same number
    return diffusion.masked_cross_entropy(network, x, y, t).sum() / masked * team.world


def update(trainer, x0, xt, masked, team, factor=1.0):
    """Take one step with a batch from `draw`. Returns the share of this process in the loss of the whole batch."""
    parts = parts_of(x0, xt, trainer.config.accumulate)
    return trainer.update(partial(share_of_loss, masked=masked, team=team), parts, factor) / team.world


def learning_rate_factor(step, steps, config):
    """Return the factor in (0, 1] of both learning rates: that of chapter 05, or a warm-up and half a cosine."""
    if config.decay == "wsd":
        return training.learning_rate_factor(step, steps, config)
    up = (step + 1) / config.warmup if config.warmup else 1.0
    return min(1.0, up) * (1 + math.cos(math.pi * step / steps)) / 2


def evaluate(model, windows, config, team, batch):
    """Return the NELBO in nats per token, on windows that are spread evenly over the text: (mean, standard error).

    NELBO is the negative evidence lower bound of chapter 04. Each process evaluates some of the windows. The tokens
    that fill a window after its text cost almost nothing, so they are not counted.
    """
    count = max(2, min(config.evaluate_windows, windows.n) // team.world) * team.world
    rows = windows.read((np.arange(count) * windows.n // count)[team.rank :: team.world]).to(team.device)
    mean, error = diffusion.nelbo(model, rows, batch_size=batch, seed=team.rank)
    nats, variance, tokens = team.total(mean * rows.numel(), (error * rows.numel()) ** 2, windows.text_of(rows).sum())
    return nats / tokens, variance**0.5 / tokens


def train(trainer, windows, held_out, team, run):
    """Train on `windows` and evaluate on `held_out`. The run keeps the averaged weights of its best evaluation.

    mfu in the log is the model FLOPs utilisation (MFU): the floating-point operations (FLOPs) per second that the
    model needs, divided by those that this machine reaches in its best matrix product.
    """
    config, shape, averaged = trainer.config, trainer.model.config, trainer.averaged
    tokens_per_step, part = config.batch_size * windows.length, config.batch_size // team.world // config.accumulate
    peak = devices.best_product(team.device, trainer.dtype) * team.world
    run.begin(trainer)
    before, began = trainer.step, time.time()
    while run.wants_a_step():
        torch.manual_seed(run.seed() * team.world + team.rank)  # for dropout
        batch = draw(windows, config, shape.mask_id, trainer.step, team.rank, team.world)
        factor = learning_rate_factor(trainer.step, run.steps, config)
        run.count_step(trainer, update(trainer, *batch, team, factor))
        if not run.wants_an_evaluation():
            continue
        speed = (trainer.step - before) * tokens_per_step / (time.time() - began)
        with torch.autocast(team.device.type, trainer.dtype, enabled=trainer.dtype != torch.float32):
            mean, error = evaluate(averaged, held_out, config, team, part)
            text = training.masked_diffusion(config).sample(averaged)  # all processes: each may hold only a part
        keep, (gradient, weights) = run.improved(mean), parallel.norms(trainer)
        record = {"step": trainer.step, "best_step": run.progress["best_step"], "NELBO": mean, "error": error,
                  "train_loss": run.loss, "tokens": trainer.step * tokens_per_step, "lr": config.lr_other * factor,
                  "grad_norm": gradient, "param_norm": weights, "tokens_per_second": round(speed, 1),
                  "mfu": round(speed * transformer.flops_per_token(shape) / peak, 4)}
        run.save(trainer, record, averaged if keep else None)
        run.show(f"step {trainer.step}: NELBO {mean:.4f} ± {error:.4f} nats per token, {speed:,.0f} tokens/s, "
                 f"{record['mfu']:.1%} of the best matrix product\n{run.tokenizer.decode(text)}")
        before, began = trainer.step, time.time()
    return run.end(trainer)


# 5. The command line


@dataclass(frozen=True)
class Command:
    """The flags of this chapter. torchrun takes --run for its own --run-path, so this one is --run-name."""

    config: str = "tiny"  # the settings file: a name in configs/, or the path of a YAML file
    # name of the run, which is also its folder under checkpoints/
    run_name: Annotated[OptionalText, tyro.conf.arg(aliases=["--run"])] = None
    fresh: Switch = False  # start the run again instead of resuming it
    device: str = "auto"  # auto, cpu, cuda or mps
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    data: tokenized.DataConfig = tokenized.DataConfig()
    train: TrainConfig = TrainConfig()


def start(argv):
    command = settings.parse(Command, argv)
    config, source = command.train.with_one_rate(), command.data
    folder = runs.folder_of(command.run_name, "dllm", Path(source.dataset).stem, command.config)
    team = parallel.join(command.device)
    parallel.check(config, team)
    tokens, tokenizer, made = tokenized.prepare(source, wait=int(os.environ.get("LOCAL_RANK", 0)) > 0)
    model_config = dataclasses.replace(command.model, vocab_size=tokenizer.vocab_size)
    devices.check_memory(team.device, config.batch_size // team.world // config.accumulate, model_config)
    torch.set_float32_matmul_precision("high")
    windows, held_out = tokenized.split(tokens, source, model_config.seq_len, tokenizer, 2 * team.world)
    resolved = {section: {k: v for k, v in dataclasses.asdict(values).items() if k in settings.flag_types(type(values))}
                for section, values in (("model", model_config), ("data", source), ("train", config))}
    wanted = dataclasses.asdict(config) | resolved["model"] | {
        "data": made["sha256"], "documents": source.documents, "validation": source.validation}
    info = {"kind": "dllm", "corpus": source.dataset, "corpus_sha256": made["sha256"], "settings": resolved,
            "processes": team.world} | runs.provenance(team.device)
    with parallel.TeamRun(team, transformer.Transformer, folder, wanted, config, tokenizer, info, command.fresh) as run:
        torch.manual_seed(config.seed)
        model = make_model(model_config, config).to(team.device)
        trainer = make_trainer(model, config, team)
        if team.lead:
            with files.whole_file(run.folder / "settings.yaml") as path:  # --config reads this file again
                path.write_text(yaml.safe_dump({"base": "defaults"} | resolved, sort_keys=False), encoding="utf-8")
            print(f"{transformer.count_parameters(model) / 1e6:.1f}M parameters, {team.world} × {team.device.type}, "
                  f"settings {command.config!r}\n{source.dataset}: {len(tokens):,} tokens, {windows.n:,} windows of "
                  f"{model_config.seq_len} for training, {held_out.n:,} held out; run {run.name}", flush=True)
            show_words(held_out.tokens, tokenizer)
            run.announce(compiled=hasattr(trainer.network, "_orig_mod"))  # torch.compile keeps the original there
        record = train(trainer, windows, held_out, team, run)
        if team.lead:
            run.report("NELBO")
            if record:
                each = record["NELBO"] / characters_per_token(held_out.tokens, tokenizer)
                print(f"That is {each:.3f} nats per character. The settings are in {run.folder / 'settings.yaml'}.")
            print(f"Next: python 06_generate.py --checkpoint {run.name} writes with your model.")
    if team.world > 1:
        dist.destroy_process_group()


def main(argv=None):
    try:
        start(argv)
    except cli.UserError:
        if int(os.environ.get("RANK", 0)):
            sys.exit(2)  # the first process prints the message for all
        raise


if __name__ == "__main__":
    cli.run(main)
