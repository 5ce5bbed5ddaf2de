"""Chapter 05: how does the model learn Shakespeare?

    python 05_train.py                      # no GPU: under 6 minutes on two cores
    python 05_train.py --corpus my.txt      # any text file of your own

With CUDA the same command trains the 10.7M model (`configs/gpu.yaml`). Every setting is a flag
(`--help`), or a line in a file (`--config configs/laptop.yaml`). Ctrl-C saves and stops; the same command
goes on where it stopped. You will see the loss fall from 4.2 (guessing) through 3.3 (letter frequencies)
to under 1.9, and a sample at every evaluation that turns from noise into something like a play.
"""

import copy
import dataclasses
import json
import math
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

import torch
from tqdm import tqdm

from plumbing import checkpoint, cli, corpora, devices, files, runs, settings, tokenizers
from plumbing.settings import setting

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")


# 1. Settings


@dataclass(frozen=True)
class TrainConfig:
    """How to train. Every field is a flag and a key of the files in configs/: default, meaning, range."""

    steps: int = setting(50_000, "at most", 1)
    minutes: float = setting(0.0, "when set, the number of steps follows from the speed of the first ones", 0)
    batch_size: int = setting(64, "windows a step", 1)
    accumulate: int = setting(1, "passes to split a step's batch into, to save memory", 1)
    optimizer: str = setting("muon", "for the hidden matrices", choices=("muon", "adamw"))
    lr_matrix: float = setting(0.02, "its learning rate", 0, 1)
    lr_other: float = setting(0.005, "learning rate of AdamW, for embeddings, head and norms", 0, 1)
    momentum: float = setting(0.95, "memory of Muon's mean gradient", 0, 0.999)
    weight_decay: float = setting(0.0, "pull towards zero, relative to the learning rate", 0, 10)
    warmup: int = setting(100, "steps over which the learning rate rises", 0)
    cooldown: float = setting(0.7, "last part of the run, over which it falls to 0", 0, 1)
    clip: float = setting(1.0, "largest gradient norm", 1e-9)
    ema: float = setting(0.995, "memory of the averaged weights, which are evaluated, saved and shipped", 0, 0.99999)
    t_max: float = setting(0.8, "highest noise level of the training loss", 0.01, 1)
    evaluate_every: int = setting(500, "steps", 1)
    evaluate_windows: int = setting(256, "validation windows of an evaluation; the last takes all", 2)
    dtype: str = setting("auto", "of matrix products", choices=("auto", "float32", "bfloat16", "float16"))
    compile: str = setting("auto", "auto: with CUDA, or a C++ compiler on Linux", choices=("auto", "on", "off"))
    seed: int = setting(1, "of weights, batches and masks", 0, 10**9)

    def __post_init__(self):
        settings.check(self)
        if self.batch_size % self.accumulate:
            raise ValueError("batch_size must be a multiple of accumulate")


MAY_CHANGE = ("steps", "t_max")  # when a run is taken up again: a finished one goes on with more --steps
STATE = ("progress", "settings", "model", "averaged", "best", "scaler")  # of what resuming needs, the dicts


@dataclass(frozen=True)
class Objective:
    """What a dLLM and a GPT do not share; the rest of the training loop they do."""

    measure: str  # name of what `evaluate` returns, in nats per token
    extra: int  # tokens a training window has beyond the model's seq_len
    loss: Callable  # (model, x0 (B, seq_len + extra)) → scalar
    evaluate: Callable  # (model, windows (N, seq_len + extra), draws) → (mean, standard error)
    sample: Callable  # (model) → tokens (T,)
    units: Callable = lambda mean: {}  # (what `evaluate` returned) → the same in other units, to log as well


def masked_diffusion(config):
    """The objective of this chapter."""

    def sample(model):
        canvas = torch.full((1, model.config.seq_len), model.config.mask_id, device=model.head.weight.device)
        *_, last = diffusion.denoise(model, canvas, steps=64)
        return last.canvas[0]

    return Objective(
        measure="NELBO",
        extra=0,
        loss=lambda model, x0: diffusion.diffusion_loss(model, x0, config.t_max),
        evaluate=lambda model, windows, draws: diffusion.nelbo(model, windows, draws),
        sample=sample,
    )


# 2. Optimizers


def orthogonalize(matrices, dtype):
    """The nearest (semi-)orthogonal matrix to each of `matrices` (N, m, n), roughly: all singular values
    pushed to about 1 by five Newton-Schulz steps (Jordan et al. 2024), whose quintic has the coefficients
    below. Only products of matrices, so it is fast, and batched over all matrices of one shape.
    """
    x = matrices.to(dtype)
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT  # (N, m, m)
        gram = torch.baddbmm(gram, gram, gram, beta=-4.7750, alpha=2.0315)  # 2.0315 gram² - 4.7750 gram
        x = torch.baddbmm(x, gram, x, beta=3.4445)  # 3.4445 x + gram x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal, for matrices: every direction of a layer learns at one rate.

    torch.optim.Muon does the same one matrix at a time and in bf16 only, which is slow on a CPU.
    """

    orthogonalize = staticmethod(orthogonalize)

    def __init__(self, params, lr, momentum, weight_decay=0.0, dtype=torch.float32):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure=None):  # none is needed; PyTorch's tools pass one
        for group in self.param_groups:
            by_shape = {}
            for p in group["params"]:
                by_shape.setdefault(p.shape, []).append(p)
            for shape, params in by_shape.items():
                grads = [p.grad for p in params]
                buffers = [self.state[p].setdefault("momentum", torch.zeros_like(p)) for p in params]
                torch._foreach_lerp_(buffers, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, buffers, group["momentum"])  # Nesterov: look one step on
                update = self.orthogonalize(torch.stack(ahead), self.dtype)
                torch._foreach_mul_(params, 1 - group["lr"] * group["weight_decay"])
                scale = max(1, shape[0] / shape[1]) ** 0.5  # the same change of output for any shape
                torch._foreach_add_(params, list(update.unbind()), alpha=-group["lr"] * scale)


def make_optimizers(model, config, dtype):
    """Muon for the matrices inside the blocks, AdamW for everything else."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    adamw = partial(torch.optim.AdamW, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    muon = partial(Muon, momentum=config.momentum, weight_decay=config.weight_decay, dtype=dtype)
    return [(muon if config.optimizer == "muon" else adamw)(matrices, config.lr_matrix), adamw(others, config.lr_other)]


def learning_rate(step, steps, config):
    """Factor in (0, 1]: linear warm-up, constant, then linear to 0 over the last `cooldown` of the run."""
    up = (step + 1) / config.warmup if config.warmup else 1.0
    down = (1 - step / steps) / config.cooldown if config.cooldown else 1.0
    return min(1.0, up, down)


# 3. The loop


def get_batch(data, n, window):
    """n random windows of the corpus data (N,), already on the device, by one gather: (n, window)."""
    start = torch.randint(len(data) - window + 1, (n, 1), device=data.device)
    return data[start + torch.arange(window, device=data.device)]


def windows_of(data, window, limit=None):
    """data (N,) cut into rows (n, window), the first `limit` spread evenly over it; the tail is dropped."""
    rows = data[: len(data) // window * window].view(-1, window)
    if limit is None or limit >= len(rows):
        return rows
    return rows[torch.arange(limit, device=data.device) * len(rows) // limit]


def train(model, train_data, val_data, config, objective, folder, tokenizer, info, wanted):
    """Train `model` on train_data (N,), both on one device, and leave a checkpoint in `folder`.

    The model that is saved has the averaged weights of the best evaluation so far, so that a run which begins
    to overfit keeps what it had. Resumes from `folder` if there is a state: the random numbers of step n depend
    on (seed, n) alone, so a resumed run on a CPU equals an uninterrupted one bit for bit. Returns the record of
    the saved weights: step, the step they are from, measure, standard error, tokens, seconds.
    """
    began = time.time()
    device = train_data.device
    dtype = devices.pick_dtype(config.dtype, device)
    window = model.config.seq_len + objective.extra
    tokens_a_step = config.batch_size * model.config.seq_len
    optimizers = make_optimizers(model, config, torch.float32 if dtype == torch.float16 else dtype)
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    best = copy.deepcopy(averaged)  # as averaged was at the lowest evaluation
    state = {"step": 0, "steps": config.steps, "seconds": 0.0, "record": {}, "lowest": math.inf, "best_step": 0}
    saved = runs.load_state(folder, STATE)
    if saved:
        state = saved["progress"]
        if config.steps != saved["settings"]["steps"]:
            state["steps"] = config.steps  # the schedule goes by progress: a finished run warms up again a little
        model.load_state_dict(saved["model"])
        averaged.load_state_dict(saved["averaged"])
        best.load_state_dict(saved["best"])
        for optimizer, values in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(values)
        scaler.load_state_dict(saved["scaler"])
    log = folder / "log.jsonl"
    runs.truncate_log(log, state["step"])
    began -= state["seconds"]

    compiled = devices.compile_model(model, config.compile, device)
    params, averages = list(model.parameters()), list(averaged.parameters())
    check_windows = windows_of(val_data, window, config.evaluate_windows)
    stop = catch_interrupt()
    record = state["record"]

    def save():
        state["seconds"] = time.time() - began
        checkpoint.save(folder, best if state["record"] else averaged, tokenizer, info | state["record"])
        runs.save_state(folder, {
            "progress": state, "settings": wanted, "model": model.state_dict(),
            "averaged": averaged.state_dict(), "best": best.state_dict(),
            "optimizers": [o.state_dict() for o in optimizers], "scaler": scaler.state_dict(),
        })

    bar = tqdm(total=state["steps"], initial=state["step"], unit="step", dynamic_ncols=True, mininterval=1)
    warm, warm_time = state["step"] + 20, 0.0
    while state["step"] < state["steps"] and not stop:
        step = state["step"]
        torch.manual_seed(config.seed * 1_000_003 + step)
        factor = learning_rate(step, state["steps"], config)
        for optimizer, lr in zip(optimizers, (config.lr_matrix, config.lr_other)):
            optimizer.param_groups[0]["lr"] = lr * factor
        for _ in range(config.accumulate):
            x0 = get_batch(train_data, config.batch_size // config.accumulate, window)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = objective.loss(compiled, x0) / config.accumulate
            scaler.scale(loss).backward()
        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(params, config.clip)
        for optimizer in optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()
        torch._foreach_lerp_(averages, params, 1 - min(config.ema, (step + 1) / (step + 10)))
        state["step"] = step = step + 1
        bar.update()

        if step == warm:
            warm_time = time.time()
        if config.minutes and step == warm + 20 and state["steps"] == config.steps:
            left = 60 * config.minutes * 0.93 - (time.time() - began)  # the rest is for evaluations
            state["steps"] = min(config.steps, step + int(left / (time.time() - warm_time) * 20))
            bar.total = state["steps"]
        last = step >= state["steps"]
        evaluate = last or step % config.evaluate_every == 0
        if evaluate or step % 20 == 0:
            if not math.isfinite(loss.item()):
                raise cli.UserError(f"the loss is not finite at step {step}; lower --lr-matrix or --lr-other")
            speed = (step - bar.initial) * tokens_a_step / (time.time() - bar.start_t)
            known = {objective.measure: f"{record[objective.measure]:.3f}"} if record else {}
            bar.set_postfix({"loss": f"{loss.item() * config.accumulate:.3f}"} | known | {"tok/s": f"{speed:,.0f}"})
        if evaluate:
            mean, error = objective.evaluate(averaged, check_windows, 1)
            improved = mean <= state["lowest"]
            if improved:
                state["lowest"], state["best_step"] = mean, step
                best.load_state_dict(averaged.state_dict())
            if last:  # the number to report: of the weights that stay, on everything
                mean, error = objective.evaluate(best, windows_of(val_data, window), 4)
            record = {
                "step": step, "best_step": state["best_step"], objective.measure: mean, "error": error,
                "train_loss": loss.item() * config.accumulate, "tokens": step * tokens_a_step,
                "seconds": round(time.time() - began, 1),
            } | objective.units(mean)
            if improved or last:
                state["record"] = record
            with open(log, "a", encoding="utf-8") as file:  # before saving: resuming drops a line too many,
                file.write(json.dumps(record) + "\n")  # but could not know of one too few
            save()
            text = tokenizer.decode(objective.sample(best if last else averaged).tolist())
            bar.write(f"\nstep {step}: {objective.measure} {mean:.4f} ± {error:.4f} nats/token\n{text}\n", sys.stdout)
    bar.close()
    if stop and state["step"] < state["steps"]:
        save()
    return state["record"]


def catch_interrupt():
    """A list that Ctrl-C makes non-empty, so that a step is never left half done; a second Ctrl-C kills."""
    stop = []

    def handler(signum, frame):
        stop.append(signum)
        signal.signal(signal.SIGINT, signal.default_int_handler)

    signal.signal(signal.SIGINT, handler)
    return stop


# 4. The curve


def draw_curve(folder, measure):
    """folder/curve.png from folder/log.jsonl. The last point is of the saved weights, on the whole split."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    records = runs.read_log(folder / "log.jsonl")
    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    steps = [r["step"] for r in records]
    axes.errorbar(steps, [r[measure] for r in records], [r["error"] for r in records], marker="o", ms=3,
                  label=f"validation {measure}")
    axes.set(xlabel="step", ylabel="nats per token", title=folder.name)
    axes.grid(alpha=0.3)
    axes.legend()
    with files.whole_file(folder / "curve.png") as path:
        figure.savefig(path, format="png", dpi=130)
    plt.close(figure)


# 5. The command line


def open_run(name, wanted, fresh=False, parts=STATE, may_change=MAY_CHANGE):
    """The folder of run `name` and the state saved there, or None; `fresh` forgets it.

    UserError if it was begun with other settings than `wanted` in more than those that `may_change`.
    """
    folder = checkpoint.RUNS / name
    if fresh:
        for file in ("train_state.pt", "log.jsonl"):
            (folder / file).unlink(missing_ok=True)
    saved = runs.load_state(folder, parts)
    if (folder / "model.safetensors").is_file() and not (folder / "log.jsonl").is_file() and not fresh:
        raise cli.UserError(f"{folder} holds a model that cannot be trained on; use --run NEW_NAME, or --fresh")
    changed = [key for key in wanted if saved and saved["settings"].get(key) != wanted[key]]
    if changed := ", ".join(key for key in changed if key not in may_change):
        raise cli.UserError(f"run {name} was begun with another {changed}; use --run NEW_NAME or --fresh")
    return folder, saved


def start_run(arguments, kind, model_config, config, objective, tokenizer, text, parts):
    """Everything between parsed settings and a trained model: the folder, resuming, training, the curve.

    text: the Corpus; parts: its training and validation text, tokenised here. Returns the run's folder.
    """
    device = devices.pick_device(arguments.device)
    torch.set_float32_matmul_precision("high")
    data = [torch.tensor(tokenizer.encode(part), device=device) for part in parts]
    if min(map(len, data)) < 2 * (model_config.seq_len + objective.extra):
        raise cli.UserError(f"{text.name} is too short for windows of {model_config.seq_len}; lower --seq-len")
    name = arguments.run or f"{kind}-{text.name}-{Path(arguments.config).stem.removeprefix(kind + '-')}"
    wanted = dataclasses.asdict(model_config) | dataclasses.asdict(config) | {"corpus": text.sha256}
    folder, saved = open_run(name, wanted, arguments.fresh)
    torch.manual_seed(config.seed)
    model = transformer.Transformer(model_config).to(device)
    print(f"{kind}, {transformer.count_parameters(model) / 1e6:.2f}M parameters, settings {arguments.config!r}, "
          f"{device}\n"
          f"{text.name}: {len(data[0]):,} tokens to train on, {len(data[1]):,} to validate; run {name}", flush=True)
    if saved:
        progress, more = saved["progress"], config.steps != saved["settings"]["steps"]
        done = progress["step"] >= (config.steps if more else progress["steps"])
        print("this run is finished; more --steps go on, --fresh starts it again" if done else
              f"going on from step {progress['step']}")
    info = {"kind": kind, "corpus": text.name, "corpus_sha256": text.sha256, "source": text.source,
            "settings": arguments.config, "train": dataclasses.asdict(config)} | runs.provenance()
    record = train(model, *data, config, objective, folder, tokenizer, info, wanted)
    if record:
        draw_curve(folder, objective.measure)
        print(f"{objective.measure} {record[objective.measure]:.4f} ± {record['error']:.4f} nats per token, weights "
              f"of step {record['best_step']} of {record['step']}, after {record['seconds']:.0f} s\n"
              f"model, log and curve: {folder}")
    return folder


def main(argv=None):
    default = "gpu" if torch.cuda.is_available() else "laptop"
    arguments, shape, training = settings.parse(
        argv, __doc__, (transformer.TransformerConfig, TrainConfig), default, fixed=("vocab_size", "causal"))
    config = settings.build(TrainConfig, **training)
    text = corpora.load(arguments.corpus)
    tokenizer = tokenizers.CharTokenizer.from_text(text.text)
    model_config = settings.build(transformer.TransformerConfig, vocab_size=tokenizer.vocab_size, **shape)
    start_run(arguments, "dllm", model_config, config, masked_diffusion(config), tokenizer, text,
              corpora.split(text.text))
    print("Next: python 06_generate.py writes with your model.")


if __name__ == "__main__":
    cli.run(main)
