"""Chapter 05: how does the model learn Shakespeare?

    python 05_train.py                      # no GPU: 6 minutes on two cores
    python 05_train.py --corpus my.txt      # any text file of your own
    python 05_train.py --plain 300          # only the plain loop of section 1, with a tiny model: half a minute

With a CUDA GPU the same command trains 10.7 million parameters (configs/gpu.yaml). Every setting is a flag and a line
of a settings file (--config). Press Ctrl-C to save and stop; run the same command again to resume.

The chapter begins with the shortest loop that trains; it gets a tiny model to a loss of about 2.7. Then it adds a
schedule for the learning rate, Muon, an average of the weights, and 16-bit numbers. You should see the loss fall from
4.2 nats per character (guessing among 65) through 3.3 (knowing their frequencies) to about 1.85.
"""

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib import import_module
from typing import Literal

import torch

from plumbing import checkpoint, cli, corpora, devices, fitting, muon, runs, settings, tokenizers
from plumbing.settings import Count, Natural, Seed, Share, number

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")


# 1. The plain loop


def get_batch(data, n, window):
    """Return n random windows of the tokens data (N,), in one indexing operation: (n, window)."""
    start = torch.randint(len(data) - window + 1, (n, 1), device=data.device)
    return data[start + torch.arange(window, device=data.device)]


def plain_loop(model, data, steps, batch_size=32, lr=3e-3):
    """Train `model` on data (N,) for `steps` steps, and return the loss of each step.

    AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) averages the gradients of the last steps and divides each
    average by its usual size, so that all weights move at about the same rate. It also pulls them slightly to zero.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    losses = []
    for step in range(steps):
        # A batch is a few windows of the text, from random places: it stands for the whole text.
        x0 = get_batch(data, batch_size, model.config.seq_len)  # (B, T)
        # The forward pass hides some tokens and measures how badly the model predicts them.
        loss = diffusion.diffusion_loss(model, x0)
        # The backward pass finds, for every weight, in which direction the loss grows.
        optimizer.zero_grad()
        loss.backward()
        # Limiting the norm of the gradient keeps one unusual batch from undoing the work of many.
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # The optimizer moves every weight a small step in the other direction.
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0 or step == steps - 1:
            print(f"  step {step:5}   loss {losses[-1]:.3f}", flush=True)
    return losses


# 2. Settings


@dataclass(frozen=True)
class TrainConfig:
    """How to train. The comments become --help, the types give the ranges; configs/laptop.yaml changes some values."""

    steps: Count = 50_000  # maximum number of steps
    minutes: number(float, 0, 1e6) = 0.0  # time budget; sets the number of steps from the measured speed; 0: none
    batch_size: Count = 64  # windows per step
    accumulate: Count = 1  # parts into which a step's batch is split, to save memory
    optimizer: Literal["muon", "adamw"] = "muon"  # optimizer of the matrices inside the blocks
    lr_matrix: Share = 0.02  # learning rate of Muon, or of AdamW in its place
    lr_other: Share = 0.005  # learning rate of AdamW, for embeddings, head and norms
    momentum: number(float, 0, 0.999) = 0.95  # decay factor of Muon's running average of gradients
    weight_decay: number(float, 0, 10) = 0.0  # pull towards zero, relative to the learning rate
    warmup: Natural = 100  # steps in which the learning rate rises
    cooldown: Share = 0.7  # share of the run, at its end, in which the learning rate falls to 0
    clip: number(float, 1e-9) = 1.0  # largest norm of the gradient
    ema: number(float, 0, 0.99999) = 0.995  # decay factor of the averaged weights, which are evaluated and saved
    evaluate_every: Count = 500  # steps between two evaluations
    evaluate_windows: number(int, 2) = 256  # windows of validation text per evaluation; the last one uses all it can
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # number format of the matrix products
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; auto: with CUDA, or a C++ compiler on Linux
    seed: Seed = 1  # seed of the weights, batches and masks

    def __post_init__(self):
        settings.check(self)
        if self.batch_size % self.accumulate:
            raise ValueError("batch_size must be a multiple of accumulate")


@dataclass(frozen=True)
class DiffusionTrainConfig(TrainConfig):
    """How to train a diffusion model."""

    t_max: number(float, 0.01, 1) = 1.0  # highest noise level of the training loss
    weight: Literal["equal", "1/t"] = "equal"  # weight of a masked token: equal, or 1/t of its text as in the NELBO


def learning_rate_factor(step, steps, config):
    """Return the factor in (0, 1] of both learning rates: a linear rise, a constant part, then a linear fall to 0.

    At first the gradients change quickly, so the steps begin small. At the end, small steps let the weights settle.
    """
    up = (step + 1) / config.warmup if config.warmup else 1.0
    down = (1 - step / steps) / config.cooldown if config.cooldown else 1.0
    return min(1.0, up, down)


# 3. Two optimizers


def make_optimizers(model, config, dtype):
    """Return [optimizer of the matrices inside the blocks, AdamW for everything else].

    The gradient of a matrix is often nearly of low rank: it changes the output in few directions, and AdamW learns
    little in the others. With Muon (plumbing/muon.py) the matrix moves equally far in all directions. After one minute
    (docs/ablation.md), AdamW for all weights reaches a NELBO of about 2.31, and Muon 2.15.
    """
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if not any(p is matrix for matrix in matrices)]
    shared = dict(betas=(0.9, 0.95), weight_decay=config.weight_decay)
    adamw = torch.optim.AdamW(others, config.lr_other, **shared)
    if config.optimizer == "adamw":
        return [torch.optim.AdamW(matrices, config.lr_matrix, **shared), adamw]
    return [muon.Muon(matrices, config.lr_matrix, config.momentum, config.weight_decay, dtype), adamw]


# 4. The trainer


class Trainer:
    """A model, its averaged copy, its optimizers and the number of steps: everything that a step of training changes.

    Averaging: `averaged` follows the weights slowly (an exponential moving average, EMA), which removes the noise of
    the last few batches. We evaluate and save it. docs/ablation.md measures what this buys in one minute.
    Precision: with 16-bit numbers a matrix product is faster, and needs half the memory. torch.autocast chooses the
    format for each operation, and the weights stay in float32. Small gradients would vanish in float16, so a
    GradScaler multiplies the loss by a large number and divides the gradients by it.

    distribute: wraps the model for several GPUs (chapter 12); by default it changes nothing.
    """

    def __init__(self, model, config, device, distribute=lambda model, averaged, dtype: model):
        self.model, self.config, self.device, self.step = model, config, torch.device(device), 0
        self.dtype = devices.pick_dtype(config.dtype, self.device)
        self.averaged = copy.deepcopy(model).eval().requires_grad_(False)
        network = distribute(model, self.averaged, self.dtype)
        # Muon converts gradients to this format before it scales them; small ones would become 0 in float16.
        self.optimizers = make_optimizers(model, config, torch.float32 if self.dtype == torch.float16 else self.dtype)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        if self.dtype == torch.bfloat16 and self.device.type == "cpu":  # plain products have the faster gradient there
            for block in model.blocks:
                block.attn.kernel = devices.attention_by_products
        self.network = devices.compile_model(network, config.compile, self.device)

    def update(self, loss, parts, factor=1.0):
        """Take one step down the sum of loss(network, part) over the parts of a batch, and return that sum (a scalar).

        factor: of both learning rates.
        """
        for optimizer, lr in zip(self.optimizers, (self.config.lr_matrix, self.config.lr_other)):
            optimizer.param_groups[0]["lr"] = lr * factor
        total = torch.zeros((), device=self.device)
        for part in parts:
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                value = loss(self.network, part)
            self.scaler.scale(value).backward()
            total += value.detach()
        for optimizer in self.optimizers:
            self.scaler.unscale_(optimizer)
        self.gradient_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        for optimizer in self.optimizers:
            self.scaler.step(optimizer)
            optimizer.zero_grad()
        self.scaler.update()
        # The first weights are poor, so after n steps the average covers only the last n / 9 or so.
        decay = min(self.config.ema, (self.step + 1) / (self.step + 10))
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), 1 - decay)
        self.step += 1
        return total

    def state(self):
        """Return what `restore` needs: tensors and plain values."""
        return {"model": self.model.state_dict(), "averaged": self.averaged.state_dict(),
                "optimizers": [o.state_dict() for o in self.optimizers], "scaler": self.scaler.state_dict()}

    def restore(self, state, step):
        """Continue from `state`. On a CPU with as many threads, every later number is as without the interruption."""
        self.model.load_state_dict(state["model"])
        self.averaged.load_state_dict(state["averaged"])
        for optimizer, values in zip(self.optimizers, state["optimizers"]):
            optimizer.load_state_dict(optimizer.state_dict() | {"state": values["state"]})
        self.scaler.load_state_dict(state["scaler"] or self.scaler.state_dict())
        self.step = step


# 5. What a run does


@dataclass(frozen=True)
class Objective:
    """The parts of training that differ between a dLLM and a GPT (chapter 07)."""

    measure: str  # name of the evaluation's number, in nats per token
    extra: int  # tokens that a training window has beyond the model's seq_len
    loss: Callable  # (model, x0 (B, seq_len + extra)) → scalar
    evaluate: Callable  # (model, windows (N, seq_len + extra), draws) → (mean, standard error)
    sample: Callable  # (model) → tokens (T,)
    units: Callable = lambda mean: {}  # (the evaluation's mean) → {name: the same in another unit}


def masked_diffusion(config):
    """Return the Objective of a diffusion model. config: a DiffusionTrainConfig."""

    def sample(model):
        canvas = torch.full((1, model.config.seq_len), model.config.mask_id, device=model.head.weight.device)
        return list(diffusion.denoise(model, canvas, steps=64))[-1].canvas[0]

    loss = partial(diffusion.diffusion_loss, t_max=config.t_max, weight=config.weight)
    return Objective("NELBO", 0, loss, diffusion.nelbo, sample)


def windows_of(data, window, limit=None):
    """Return data (N,) cut into rows (n, window), at most `limit` of them, evenly spaced. A short row is dropped."""
    rows = data[: len(data) // window * window].view(-1, window)
    limit = min(limit or len(rows), len(rows))
    return rows[torch.arange(limit, device=data.device) * len(rows) // max(1, limit)]


def train(trainer, train_data, val_data, objective, run):
    """Train on train_data (N,), evaluate on val_data (M,), and return the record of the weights that the run keeps.

    The run's folder holds the averaged weights of the best evaluation, since a model that overfits gets worse again.
    """
    config, window = trainer.config, trainer.model.config.seq_len + objective.extra
    part, some_windows = config.batch_size // config.accumulate, windows_of(val_data, window, config.evaluate_windows)
    run.begin(trainer, objective.evaluate, some_windows, len(val_data) // window)
    while run.wants_a_step():
        torch.manual_seed(run.seed())  # from the step alone, so that a resumed run draws the same numbers
        batch = (get_batch(train_data, part, window) for _ in range(config.accumulate))
        factor = learning_rate_factor(trainer.step, run.steps, config)
        loss = trainer.update(lambda network, x0: objective.loss(network, x0) / config.accumulate, batch, factor)
        run.count_step(trainer, loss)
        if not run.wants_an_evaluation():
            continue
        model = trainer.averaged
        mean, error = run.budget.evaluate(objective.evaluate, model, some_windows, 1)
        keep = run.improved(mean)
        if run.finished:  # the number to report: the best weights, all windows if there is time, four draws of masks
            model = model if keep else checkpoint.load(run.folder, trainer.device, type(trainer.model))[0]
            mean, error = objective.evaluate(model, windows_of(val_data, window, run.budget.affordable()), 4)
        record = {"step": trainer.step, "best_step": run.progress["best_step"], objective.measure: mean, "error": error,
                  "train_loss": loss.item(), "tokens": trainer.step * config.batch_size * trainer.model.config.seq_len}
        run.save(trainer, record | objective.units(mean), model if keep or run.finished else None)
        text = run.tokenizer.decode(objective.sample(model).tolist()) if not run.quiet else ""
        run.show(f"step {trainer.step}: {objective.measure} {mean:.4f} ± {error:.4f} nats per token\n{text}")
    return run.end(trainer)


# 6. The command line


@dataclass(frozen=True)
class Command(runs.RunFlags):
    """The flags of this chapter."""

    # the settings file: a name in configs/, or the path of a YAML file; without it, a slow CPU takes laptop-small
    config: str = field(default_factory=lambda: "gpu" if torch.cuda.is_available() else "laptop")
    plain: Natural = 0  # run only the plain loop of section 1, with a tiny model, for this many steps; save nothing
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    train: DiffusionTrainConfig = DiffusionTrainConfig()


def start_run(command, kind, model_config, objective, tokenizer, corpus, parts, build=transformer.Transformer):
    """Train a model of `kind` on `parts` (training and validation text) with the flags `command`. Return its folder."""
    device, config = devices.pick_device(command.device), command.train
    folder = runs.folder_of(command.run, kind, corpus.name, command.config)
    devices.check_memory(device, config.batch_size // config.accumulate, model_config)
    torch.set_float32_matmul_precision("high")  # on a GPU, float32 products may round their inputs to be faster
    data = [torch.tensor(tokenizer.encode(part), device=device) for part in parts]
    if min(map(len, data)) < 2 * (model_config.seq_len + objective.extra):
        raise cli.UserError(f"{corpus.name} is too short for windows of {model_config.seq_len}; lower --seq-len")
    wanted = asdict(model_config) | asdict(config) | {"corpus": corpus.sha256}
    info = {"kind": kind, "corpus": corpus.name, "corpus_sha256": corpus.sha256, "source": corpus.source,
            "settings": command.config, "train": asdict(config)} | runs.provenance(device)
    with runs.Run(folder, wanted, config, tokenizer, info, command.fresh) as run:
        torch.manual_seed(config.seed)
        model = build(model_config).to(device)
        print(f"{kind}, {transformer.count_parameters(model):,} parameters, settings {command.config!r}, {device}\n"
              f"{corpus.name}: {len(data[0]):,} tokens for training, {len(data[1]):,} for validation; run {run.name}")
        trainer = Trainer(model, config, device)
        run.announce(compiled=trainer.network is not model)
        train(trainer, *data, objective, run)
        run.report(objective.measure)
    return folder


def main(argv=None):
    command, corpus = fitting.parse(Command, argv)
    tokenizer, parts = tokenizers.CharTokenizer.from_text(corpus.text), corpora.split(corpus.text)
    model_config = replace(command.model, vocab_size=tokenizer.vocab_size)
    torch.manual_seed(command.train.seed)
    if command.plain:
        torch.set_num_threads(1)  # the fastest for such a small model
        model = transformer.Transformer(replace(model_config, n_layer=2, n_head=2, n_embd=96, seq_len=64))
        plain_loop(model, torch.tensor(tokenizer.encode(parts[0])), command.plain)
    else:
        start_run(command, "dllm", model_config, masked_diffusion(command.train), tokenizer, corpus, parts)
        print("Next: python 06_generate.py writes with your model.")


if __name__ == "__main__":
    cli.run(main)
