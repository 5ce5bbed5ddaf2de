"""Chapter 12: how do the same few hundred lines train on words, real data and many GPUs?

    python 12_scale.py --config configs/tiny.yaml                # 25M parameters, any GPU; a CPU for a try
    torchrun --standalone --nproc_per_node=4 12_scale.py --config configs/medium.yaml
    python 06_generate.py --checkpoint dllm-shakespeare-tiny --prompt "The quick brown"

Model, noise, likelihood, sampler and optimizers are those of chapters 03 to 05. What scale adds to them:

    1. words        50,257 pieces of words instead of 65 characters: four characters a token, so the same window
                    reaches four times as far; but the embedding and the head become most of a small model, and
                    a loss in nats per token is no longer one in nats per character
    2. data         tokenised once into a file that no memory must hold; a step's windows and masks follow from
                    (seed, step, row) alone, so any number of processes reads the same batch, and resumes exactly
    3. noise        other schedules, clean prefixes, texts that end, and short windows
    4. engines      one process, copies that share gradients (DDP), or shards of one model (FSDP2)
    5. the loop     chapter 05's, with a loss that many processes sum up rightly

docs/scale.md says what each of the named sizes needs, in memory and in time.

Ctrl-C saves and stops; the same command goes on, also on another number of GPUs. Every setting is a line in a
section of the settings file, a flag (--train.steps 100), and for short --steps 100.
"""

import copy
import dataclasses
import json
import math
import os
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import yaml
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint as recompute
from tqdm import tqdm

from plumbing import cli, devices, files, parallel, runs, settings, tokenized
from plumbing.settings import setting

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


@dataclass(frozen=True)
class TrainConfig(training.TrainConfig):
    """Chapter 05's settings, and what scale adds. batch_size is that of all processes together."""

    lr: float = setting(0.0, "when set, both learning rates: usual with --train.optimizer adamw", 0, 1)
    decay: str = setting("wsd", "of the learning rate: warm-up, stable, linear decay; or", choices=("wsd", "cosine"))
    schedule: str = setting("linear", "of the noise: which levels get the samples",
                            choices=diffusion.NoiseSchedule.NAMES)
    prefix: float = setting(0.2, "share of the windows that begin with clean tokens, as behind a prompt", 0, 1)
    short: float = setting(0.01, "share of the steps whose windows are cut to a random length", 0, 1)
    engine: str = setting("ddp", "of many processes: copies or shards of the model", choices=("ddp", "fsdp"))
    recompute: bool = setting(False, "keep only the inputs of blocks and compute the rest twice, to save memory")
    watch: str = setting("none", "show the log elsewhere too", choices=("none", "tensorboard", "wandb"))

    def __post_init__(self):
        super().__post_init__()
        if self.lr:
            object.__setattr__(self, "lr_matrix", self.lr)
            object.__setattr__(self, "lr_other", self.lr)


# What may differ when a run is taken up again: none of it changes what a step computes.
MAY_CHANGE = (*training.MAY_CHANGE, "accumulate", "engine", "recompute", "watch", "compile",
              "evaluate_every", "evaluate_windows")


# 1. Words (how they are made, and 2, the data, is plumbing: words.py)


def characters_a_token(tokens, tokenizer):
    """How long a token is on average, which turns nats per token into nats per character."""
    ids = tokens[:100_000].tolist()
    return len(tokenizer.decode(ids)) / len(ids)


def show_words(tokens, tokenizer):
    pieces = [tokenizer.decode([i]).replace("\n", "/") for i in tokens[:16].tolist()]
    print(f"the first tokens held out: {'|'.join(pieces)}\n{characters_a_token(tokens, tokenizer):.2f} characters a "
          f"token; a guess among all {tokenizer.vocab_size:,} costs {math.log(tokenizer.vocab_size):.2f} nats")


# 3. Noise


def draw(windows, config, mask_id, step, rank=0, world=1):
    """What process `rank` of `world` trains on at step `step`: (x0, xt, masked).

    x0, xt: (batch_size / world, T), its share of the batch; masked: how many masks the whole batch has. Every
    process draws the same levels for the whole batch, so it knows that without asking the others.
    """
    B, T = config.batch_size, windows.length
    seed = config.seed * 1_000_003 + step
    generator = torch.Generator().manual_seed(seed)
    if torch.rand((), generator=generator) < config.short:  # a sampler's canvas may be shorter than the window
        T = int(torch.randint(1, T + 1, (), generator=generator))
    t = diffusion.stratified(B, generator=generator) * config.t_max  # (B,)
    hidden = 1 - diffusion.NoiseSchedule(config.schedule).alpha(t)
    prompted = torch.rand(B, generator=generator) < config.prefix
    given = (prompted * torch.rand(B, generator=generator) * T).long()  # (B,) clean tokens at the beginning
    k = 1 + (hidden * (T - given)).long().clamp(max=T - given - 1)  # (B,) masks, of the others
    mine = range(rank, B, world)
    numbers, laps = windows.order(step, B, config.seed)
    x0 = windows.read(numbers[mine], laps[mine])[:, :T]
    xt = [diffusion.mask_exactly(row[None], k[i : i + 1], mask_id, generator.manual_seed(seed * (B + 1) + i + 1),
                                 int(given[i])) for i, row in zip(mine, x0)]
    return x0, torch.cat(xt), int(k.sum())


# 4. Engines


def distribute(model, averaged, config, team, dtype):
    """`model` as an engine that averages its gradients over all processes.

    DDP: every process holds everything. FSDP2: it holds one part of each parameter, gradient and average, and
    gathers a block's weights when it comes to that block. "fsdp" with one process is one plain process.
    """
    if config.recompute:
        for block in model.blocks:
            block.forward = partial(recompute, block.forward, use_reentrant=False)
    if team.world == 1:
        return model
    if config.engine != "fsdp":
        gpu = [team.device] if team.device.type == "cuda" else None
        engine = DistributedDataParallel(model, device_ids=gpu, gradient_as_bucket_view=True)
        engine.config = model.config
        return engine
    mesh = init_device_mesh(team.device.type, (team.world,))
    # Blocks gather 16-bit weights and sum gradients in 32; the noise level must not lose digits on its way in.
    policy = MixedPrecisionPolicy(dtype, torch.float32, cast_forward_inputs=False)
    for part in [*model.blocks, model, *averaged.blocks, averaged]:
        # True for the root too: the averages change between two passes, and must be gathered again.
        fully_shard(part, mesh=mesh, mp_policy=policy, reshard_after_forward=True)
    return model


def orthogonalize_sharded(matrices, dtype):
    """Chapter 05's `orthogonalize` for a DTensor (N, m, n): a part of a matrix has other singular values, so
    every process gathers the whole ones, works on all of them, and keeps its part of the result."""
    whole = training.orthogonalize(matrices.full_tensor(), dtype)
    return DTensor.from_local(whole, matrices.device_mesh, [Replicate()]).redistribute(placements=matrices.placements)


def make_optimizers(model, config, dtype):
    optimizers = training.make_optimizers(model, config, torch.float32 if dtype == torch.float16 else dtype)
    if isinstance(optimizers[0], training.Muon) and isinstance(model.head.weight, DTensor):
        optimizers[0].orthogonalize = orthogonalize_sharded
    return optimizers


def backward(engine, x0, xt, masked, team, parts=1, dtype=torch.float32, scale=lambda loss: loss):
    """Add the gradient of the whole batch's mean loss, in `parts` passes; return this process's part of that loss.

    A batch's loss is Σ of the cross-entropies over all masks / number of all masks. The mean of the processes'
    own means is another number, since some have more masks: divide the sums by the common number instead. An
    engine then averages gradients over `world` processes, which we undo.
    """
    mine = torch.zeros((), device=team.device)
    for i, (x, y) in enumerate(zip(x0.chunk(parts), xt.chunk(parts)), 1):
        engine.require_backward_grad_sync = i == parts  # DDP, once is enough; others do not read it
        x, y = x.to(team.device, non_blocking=True), y.to(team.device, non_blocking=True)  # (B / world / parts, T)
        t = (y == engine.config.mask_id).float().mean(1)  # what `denoise` tells the model as well
        with torch.autocast(team.device.type, dtype, enabled=dtype != torch.float32):
            loss = diffusion.masked_cross_entropy(engine, x, y, t).sum() / masked
        scale(loss * team.world).backward()
        mine += loss.detach()
    return mine


def learning_rate(step, steps, config):
    """Factor in (0, 1]: chapter 05's warm-up, stable part and decay, or half a cosine after the warm-up."""
    if config.decay == "wsd":
        return training.learning_rate(step, steps, config)
    up = (step + 1) / config.warmup if config.warmup else 1.0
    return min(1.0, up) * (1 + math.cos(math.pi * step / steps)) / 2


# 5. The loop


def evaluate(model, windows, config, team, batch):
    """NELBO in nats per token of text, on windows spread evenly over the held-out tokens: (mean, standard error).

    Each process takes its share. What fills a window after its text costs almost nothing, and is not counted.
    """
    count = max(2, min(config.evaluate_windows, windows.n) // team.world) * team.world
    rows = windows.read((np.arange(count) * windows.n // count)[team.rank :: team.world]).to(team.device)
    mean, error = diffusion.nelbo(model, rows, batch_size=batch, seed=team.rank)
    nats, variance, tokens = team.total(mean * rows.numel(), (error * rows.numel()) ** 2, windows.text_of(rows).sum())
    return nats / tokens, variance**0.5 / tokens


def train(model, windows, held_out, config, team, folder, saved, tokenizer, info, wanted):
    """Train `model` on `windows`, evaluated on `held_out`; the best evaluated average stays in `folder`.

    saved: the state of the run so far, or None. Returns the record of the last evaluation.
    """
    dtype = devices.pick_dtype(config.dtype, team.device)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    engine = distribute(model, averaged, config, team, dtype)
    optimizers = make_optimizers(model, config, dtype)
    scaler = torch.amp.GradScaler(team.device.type, enabled=dtype == torch.float16)
    state = {"step": 0, "seconds": 0.0, "lowest": math.inf, "best_step": 0, "record": {}, "scaler": {}}
    if saved:
        state = saved["progress"]
        parallel.restore(folder, state, model, averaged, optimizers)
        if state["scaler"]:
            scaler.load_state_dict(state["scaler"])
    network = devices.compile_model(engine, config.compile, team.device)
    params, averages = list(model.parameters()), list(averaged.parameters())
    batch = config.batch_size // team.world // config.accumulate
    peak = devices.best_product(team.device, dtype) * team.world
    stop = training.catch_interrupt()
    signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))  # how a cluster, and torchrun, ask us to stop
    log, began = folder / "log.jsonl", time.time() - state["seconds"]
    if team.lead:
        runs.truncate_log(log, state["step"])
    show = parallel.watcher(config.watch if team.lead else "none", folder, wanted)
    bar = tqdm(total=config.steps, initial=state["step"], unit="step", dynamic_ncols=True, mininterval=1,
               disable=not team.lead)
    marks = [(state["step"], time.time())]
    while state["step"] < config.steps:
        step = state["step"]
        torch.manual_seed((config.seed * 1_000_003 + step) * team.world + team.rank)  # for dropout
        factor = learning_rate(step, config.steps, config)
        for optimizer, lr in zip(optimizers, (config.lr_matrix, config.lr_other)):
            optimizer.param_groups[0]["lr"] = lr * factor
        x0, xt, masked = draw(windows, config, model.config.mask_id, step, team.rank, team.world)
        loss = backward(network, x0, xt, masked, team, config.accumulate, dtype, scaler.scale)
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(params, config.clip)
        for optimizer in optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()
        torch._foreach_lerp_(averages, params, 1 - min(config.ema, (step + 1) / (step + 10)))
        state["step"] = step = step + 1
        bar.update()

        last = step == config.steps
        due = last or step % config.evaluate_every == 0
        if not due and step % 10 and not (stop and team.world == 1):
            continue  # the rest waits for the GPU, and for all processes
        loss, stopping = team.total(loss.item(), len(stop))
        if not math.isfinite(loss):
            raise cli.UserError(f"the loss is not finite at step {step}; lower --lr-matrix or --lr-other")
        bar.set_postfix(loss=f"{loss:.3f}")
        if due:
            tokens_a_second = (step - marks[-1][0]) * config.batch_size * windows.length / (time.time() - marks[-1][1])
            weight = torch.nn.utils.get_total_norm(params)
            norm, weight = (n.full_tensor() if isinstance(n, DTensor) else n for n in (norm, weight))
            with torch.autocast(team.device.type, dtype, enabled=dtype != torch.float32):
                mean, error = evaluate(averaged, held_out, config, team, batch)
                text = training.masked_diffusion(config).sample(averaged)  # each process holds a part of the model
            if mean <= state["lowest"]:
                state["lowest"], state["best_step"] = mean, step
            state["seconds"] = time.time() - began
            state["record"] = record = {
                "step": step, "best_step": state["best_step"], "NELBO": mean, "error": error, "train_loss": loss,
                "tokens": step * config.batch_size * windows.length, "seconds": round(state["seconds"], 1),
                "lr": config.lr_other * factor, "grad_norm": norm.item(), "param_norm": weight.item(),
                "tokens_per_second": round(tokens_a_second, 1),
                "mfu": round(tokens_a_second * transformer.flops_per_token(model.config) / peak, 4),
            }
            if state["best_step"] == step:
                parallel.export(folder, team, averaged, tokenizer, info | record)
            if team.lead:
                with open(log, "a", encoding="utf-8") as file:  # before saving: see chapter 05
                    file.write(json.dumps(record) + "\n")
                show(record)
                bar.write(f"\nstep {step}: NELBO {mean:.4f} ± {error:.4f} nats/token, {tokens_a_second:,.0f} tokens/s, "
                          f"{record['mfu']:.1%} of the best matrix product\n{tokenizer.decode(text)}\n", sys.stdout)
        if due or stopping:
            state["seconds"], state["scaler"] = time.time() - began, scaler.state_dict()
            parallel.save(folder, team, model, averaged, optimizers, state, wanted)
            marks.append((step, time.time()))
        if stopping:
            if team.lead:
                bar.write(f"stopped after step {step}; the same command goes on", sys.stdout)
            break
    bar.close()
    return state["record"]


# 6. The command line


def main(argv=None):
    try:
        start(argv)
    except cli.UserError:
        if int(os.environ.get("RANK", 0)):
            sys.exit(2)  # the first process says it for all
        raise


def start(argv):
    groups = {"model": transformer.TransformerConfig, "data": tokenized.DataConfig, "train": TrainConfig}
    fixed = ("vocab_size", "causal", "minutes")
    arguments, shape, data, learning = settings.parse(
        argv, __doc__, groups.values(), "tiny", fixed, sections=tuple(groups))
    config, source = settings.build(TrainConfig, **learning), settings.build(tokenized.DataConfig, **data)
    tokens, tokenizer, made = tokenized.prepare(source, wait=int(os.environ.get("LOCAL_RANK", 0)) > 0)
    model_config = settings.build(transformer.TransformerConfig, vocab_size=tokenizer.vocab_size, **shape)
    team = parallel.join(arguments.device)
    if config.batch_size % (team.world * config.accumulate):
        raise cli.UserError(f"--train.batch-size {config.batch_size} is no multiple of {team.world} processes × "
                               f"--train.accumulate {config.accumulate}")
    if config.engine == "fsdp" and devices.pick_dtype(config.dtype, team.device) == torch.float16:
        raise cli.UserError("--train.engine fsdp needs bfloat16 or float32: use ddp, or --train.dtype float32")
    torch.set_float32_matmul_precision("high")
    cut = int(len(tokens) * (1 - source.validation))
    end = tokenizer.end if source.documents else None
    windows, held_out = (tokenized.Windows(part, model_config.seq_len, end) for part in (tokens[:cut], tokens[cut:]))
    if windows.n < 2 or held_out.n < 2 * team.world:
        raise cli.UserError(f"{source.dataset} is too short for windows of {model_config.seq_len} tokens; "
                               "lower --model.seq-len or raise --data.validation")
    name = arguments.run or f"dllm-{Path(source.dataset).stem}-{Path(arguments.config).stem}"
    resolved = {section: {k: v for k, v in dataclasses.asdict(values).items() if k not in fixed}
                for section, values in zip(groups, (model_config, source, config))}
    wanted = dataclasses.asdict(config) | resolved["model"] | {
        "data": made["sha256"], "documents": source.documents, "validation": source.validation}
    for turn in (team.lead, not team.lead):  # the others look when the first has tidied up
        if turn:
            folder, saved = training.open_run(name, wanted, arguments.fresh, ("progress",), MAY_CHANGE)
        team.total(0)
    torch.manual_seed(config.seed)
    model = transformer.Transformer(model_config).to(team.device)
    if team.lead:
        with files.whole_file(folder / "settings.yaml") as path:
            path.write_text(yaml.safe_dump(resolved, sort_keys=False), encoding="utf-8")
        print(f"{transformer.count_parameters(model) / 1e6:.1f}M parameters, {team.world} × {team.device.type}, "
              f"settings {arguments.config!r}\n{source.dataset}: {len(tokens):,} tokens, {windows.n:,} windows of "
              f"{model_config.seq_len} to train on, {held_out.n:,} held out; run {name}", flush=True)
        show_words(tokens[cut:], tokenizer)
        if saved:
            done = saved["progress"]["step"]
            print(f"going on from step {done}" if done < config.steps else
                  "this run is finished; more --steps go on, --fresh starts it again")
    info = {"kind": "dllm", "corpus": source.dataset, "corpus_sha256": made["sha256"], "settings": resolved,
            "processes": team.world} | runs.provenance()
    record = train(model, windows, held_out, config, team, folder, saved, tokenizer, info, wanted)
    if team.lead and record:
        training.draw_curve(folder, "NELBO")
        each = record["NELBO"] / characters_a_token(tokens[cut:], tokenizer)
        print(f"NELBO {record['NELBO']:.4f} ± {record['error']:.4f} nats per token, or {each:.3f} per character, "
              f"after {record['seconds']:.0f} s\n"
              f"model, log, curve and settings: {folder}\n"
              f"This is the last chapter. python 06_generate.py --checkpoint {name} writes with your model.")
    if team.world > 1:
        dist.destroy_process_group()


if __name__ == "__main__":
    cli.run(main)
