"""Chapter 05: how does the model learn Shakespeare?

    python 05_train.py                          # no GPU: 6 minutes on two cores
    python 05_train.py --corpus my.txt          # any text file of your own
    python 05_train.py --config laptop-large    # a larger model, for a faster CPU or more patience
    python 05_train.py --plain 300              # only the plain loop of section 1, with a tiny model: half a minute

With a CUDA GPU the same command trains 10.7 million parameters (configs/gpu.yaml). Every setting is a flag and a line
of a settings file (--config). Press Ctrl-C to save and stop; run the same command again to resume.

The chapter begins with the shortest loop that trains; it gets a tiny model to a training loss of about 2.7. Then it
adds a schedule for the learning rate, Muon, an average of the weights, and 16-bit numbers. You should see the NELBO
fall from 4.2 nats per character (guessing among 65) through 3.3 (knowing only their frequencies) to about 1.9. If it
ends far above 1.9, other programs were using the cores. The same command with more --minutes then continues the run.

The path of a batch through the program: `main` reads the settings and the text. The tokenizer gives each character its
number in the sorted list of all characters, and the last tenth of the text is kept for evaluations. A task (section 2)
draws batches from the first nine tenths and computes their loss. `start` makes the model, and a Run, which keeps the
time, the log and the folder, checkpoints/NAME. `train` is the loop. With the laptop settings a batch is (16, 128)
tokens. Up to 103 of the 128 tokens of a row are hidden (t_max 0.8); the logits are (16, 128, 65), and the loss is one
number.

To change one thing: the loss is `MaskedDiffusion.loss`, the optimizers come from `make_optimizers`, the schedule is
`learning_rate`. A new field of TrainConfig also becomes a flag, whose comment is its --help text, and can stand in a
settings file. Follow `t_max` to see how a setting gets to where it is used. Give a changed program another --run.
"""

import copy
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Literal

# These come before torch, because they set how its threads wait (plumbing/__init__.py).
from plumbing import checkpoint, cli, devices, files, text
from plumbing.run import Run, origin, read_log

import torch

tensors = import_module("01_tensors")
attention = import_module("02_attention")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")


# 1. The plain loop


def random_windows(tokens, n, window):
    """Return n windows from random places of the tokens (N,), in one indexing operation: (n, window)."""
    start = torch.randint(len(tokens) - window + 1, (n, 1), device=tokens.device)
    return tokens[start + torch.arange(window, device=tokens.device)]


def plain_loop(model, tokens, steps, batch_size=32, lr=3e-3):
    """Train `model` on tokens (N,) for `steps` steps, and return the loss of each step.

    AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) averages the gradients of the last steps and divides each
    average by the usual size of its gradient, so that all weights move at about the same rate. It also pulls the
    weights slightly towards zero.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    window = model.config.seq_len
    losses = []
    for step in range(steps):
        # A batch is a few windows of the text, from random places: it stands for the whole text.
        x0 = random_windows(tokens, batch_size, window)  # (B, T)
        # The forward pass hides some tokens and measures how badly the model predicts them.
        loss = diffusion.simple_loss(model, x0, diffusion.spread_evenly(batch_size, window))
        # The backward pass finds, for every weight, in which direction the loss grows.
        optimizer.zero_grad()
        loss.backward()
        # Limiting the norm of the gradient keeps one unusual batch from undoing the work of many.
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # The optimizer moves every weight a small step in the opposite direction.
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0 or step == steps - 1:
            print(f"  step {step:5}   loss {losses[-1]:.3f}", flush=True)
    return losses


# 2. The task: what to learn from, and how good a model is


class Text:
    """A text as a long row of tokens. It has random windows to learn from, and unseen windows to evaluate on.

    parts: the training text and the validation text. window: the number of tokens in a window.
    """

    def __init__(self, tokenizer, parts, window, device):
        train, val = (torch.tensor(tokenizer.encode(part), device=device) for part in parts)  # (N,), (M,)
        if min(len(train), len(val)) < 2 * window:
            raise cli.UserError(f"the text is too short for windows of {window} {tokenizer.unit}s: lower --seq-len")
        self.tokenizer, self.train, self.window = tokenizer, train, window
        self.windows = val[: len(val) // window * window].view(-1, window)  # (M / window, window)

    def batch(self, n):
        """Return n windows of the training text: (n, window)."""
        return random_windows(self.train, n, self.window)


class MaskedDiffusion(Text):
    """The task of a dLLM: restore hidden tokens.

    t_max: the largest share of hidden tokens in training. Little can be learned from texts that are almost completely
    hidden, so in a short run it helps to leave them out (docs/ablation.md), although writing begins with a completely
    hidden text.
    """

    measure = "NELBO"

    def __init__(self, tokenizer, parts, window, device, t_max=1.0):
        super().__init__(tokenizer, parts, window, device)
        self.t_max = t_max

    def loss(self, model, x0):
        """Return the loss for a batch (B, T), a scalar."""
        B, T = x0.shape
        return diffusion.simple_loss(model, x0, diffusion.spread_evenly(B, self.t_max * T, x0.device))

    def evaluate(self, model, windows):
        """Return the number to report for windows (N, T): (mean, standard error), in nats per token."""
        return diffusion.nelbo(model, windows)

    def sample(self, model):
        """Return a text that the model writes, in the way of chapter 04. (Chapter 06 has found better settings.)"""
        canvas = torch.full((1, model.config.seq_len), model.config.mask_id, device=model.head.weight.device)
        *_, last = diffusion.denoise(model, canvas)
        return self.tokenizer.decode(last.canvas[0])


# 3. The settings


@dataclass(frozen=True)
class TrainConfig:
    """How to train. configs/laptop.yaml changes some of these values."""

    steps: int = 50_000  # largest number of steps
    minutes: float = 0.0  # largest number of minutes of training, without the evaluations; 0: no limit
    batch_size: int = 64  # windows per step
    accumulate: int = 1  # parts into which a step's batch is split, to save memory; the steps are almost the same
    optimizer: Literal["muon", "adamw"] = "muon"  # optimizer of the matrices inside the blocks
    lr_matrix: float = 0.02  # learning rate of the matrices inside the blocks; for AdamW, 0.003 is better
    lr_other: float = 0.005  # learning rate of AdamW, for embeddings, head and norms
    momentum: float = 0.95  # decay factor of Muon's running average of gradients
    weight_decay: float = 0.0  # pull towards zero, relative to the learning rate
    warmup: int = 100  # steps in which the learning rate rises
    cooldown: float = 0.7  # share of the run, at its end, in which the learning rate falls to 0
    clip: float = 1.0  # largest norm of the gradient
    ema: float = 0.995  # decay factor of the averaged weights, which are evaluated and saved
    evaluations: int = 20  # evaluations during the run
    evaluate_windows: int = 256  # windows of validation text per evaluation
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # number format of the matrix products
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; auto: with CUDA, or a C++ compiler on Linux
    seed: int = 1  # seed of the weights, batches and masks

    def __post_init__(self):
        for name in ("steps", "batch_size", "accumulate", "clip"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0")
        for name in ("minutes", "lr_matrix", "lr_other", "weight_decay", "warmup", "evaluations", "seed"):
            if not 0 <= getattr(self, name) < 1e9:
                raise ValueError(f"{name} must be at least 0, and below 1e9")
        for name in ("momentum", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be from 0 to below 1")
        if not 0 <= self.cooldown <= 1:
            raise ValueError("cooldown must be from 0 to 1")
        if self.evaluate_windows < 2:
            raise ValueError("evaluate_windows must be at least 2")
        if self.batch_size % self.accumulate:
            raise ValueError("batch_size must be a multiple of accumulate")


@dataclass(frozen=True)
class DiffusionTrainConfig(TrainConfig):
    """How to train a diffusion model."""

    t_max: float = 1.0  # largest share of hidden tokens in training

    def __post_init__(self):
        super().__post_init__()
        if not 0.01 <= self.t_max <= 1:
            raise ValueError("t_max must be from 0.01 to 1")


def learning_rate(step, progress, config):
    """Return the factor (0 to 1) of both learning rates: it rises over the first steps, stays, and then falls to 0.

    At first the gradients change quickly, so the steps begin small. At the end, small steps let the weights settle.
    progress: the share of the run that is done, in steps or in time, from 0 to 1.
    """
    rise = (step + 1) / config.warmup if config.warmup else 1.0
    fall = (1 - progress) / config.cooldown if config.cooldown else 1.0
    return min(1.0, rise, fall)


# 4. Muon

# A polynomial a x + b x³ + c x⁵ for each step. The first polynomial brings all numbers from 0.01 to 1 as near to 1 as
# such a polynomial can, and each later polynomial does the same with the results of the one before. At the end all
# numbers lie between 0.72 and 1.28. (Found by linear programming. The method is that of Polar Express, Amsel et al.
# 2025, arXiv:2505.16932.)
POLYNOMIALS = (8.0934, -23.6205, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526)


def orthogonalize(x):
    """Return, for each matrix in x (N, m, n), approximately the nearest (semi-)orthogonal matrix: (N, m, n).

    A matrix stretches space by a different factor, its singular value, in each of several directions. We bring all
    factors near 1 and keep the directions. Polynomials of the matrix do just that, and they need only matrix products,
    which are fast (Newton-Schulz steps, Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).
    """
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # now no factor is above 1
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT  # (N, m, m)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Gradient descent with momentum, whose step for each matrix is made orthogonal (Jordan et al. 2024).

    The gradient of a matrix is usually dominated by a few directions, so AdamW learns little in the other directions.
    An orthogonal step moves equally far in all directions. docs/ablation.md says how much that gains in a minute of
    training.
    dtype: the number format of the matrix products.
    """

    def __init__(self, matrices, lr, momentum, weight_decay=0.0, dtype=torch.float32):
        super().__init__(matrices, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        shapes = dict.fromkeys(p.shape for p in group["params"])
        for shape in shapes:  # all matrices of one shape are computed together, which is faster
            matrices = [p for p in group["params"] if p.shape == shape]
            ahead = []
            for p in matrices:
                average = self.state[p].setdefault("momentum", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                ahead.append(p.grad.lerp(average, group["momentum"]))  # the new gradient counts once more (Nesterov)
            update = orthogonalize(torch.stack(ahead).to(self.dtype)).float()  # (N, m, n)
            # A shape is (outputs, inputs). With more outputs than inputs, a step is spread over more numbers, so we
            # raise the rate.
            rate = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
            for p, direction in zip(matrices, update):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(rate * direction)


def make_optimizers(model, config, dtype):
    """Return two optimizers: one for the matrices inside the blocks, and AdamW for everything else."""
    matrices = [p for p in model.blocks.parameters() if p.ndim == 2]
    inside = set(matrices)
    others = [p for p in model.parameters() if p not in inside]
    adamw = dict(betas=(0.9, 0.95), weight_decay=config.weight_decay)
    if config.optimizer == "adamw":
        of_matrices = torch.optim.AdamW(matrices, config.lr_matrix, **adamw)
    else:
        of_matrices = Muon(matrices, config.lr_matrix, config.momentum, config.weight_decay, dtype)
    return of_matrices, torch.optim.AdamW(others, config.lr_other, **adamw)


# 5. The loop


def train(model, task, config, run, device, distribute=lambda model: model):
    """Train `model` on `task`. The folder of the run then holds the averaged weights of the best evaluation.

    The average follows the weights slowly (an exponential moving average, EMA), which removes the noise of the last few
    batches. In one minute of training, neither the average nor the falling learning rate brings a measurable gain
    (docs/ablation.md). We use them for longer runs, in which the noise would otherwise remain at the end.

    With 16-bit numbers a matrix product is faster and needs half the memory; autocast chooses the format of each
    operation, and the weights stay in float32. Small gradients would vanish in float16, so a GradScaler multiplies the
    loss by a large number and later divides the gradients by the same number.

    distribute: wraps the model for several processes (chapter 12).
    """
    dtype = devices.pick_dtype(config.dtype, device)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    make_faster(model, dtype, device, config)
    network = distribute(model)
    # Muon converts gradients to its format before it scales them, and in float16 small ones would become 0.
    optimizers = make_optimizers(model, config, torch.float32 if dtype == torch.float16 else dtype)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    # The run saves all of these at each evaluation, and at Ctrl-C. An interrupted run resumes from what it saved.
    run.resume(model=model, averaged=averaged, matrices=optimizers[0], others=optimizers[1], scaler=scaler)

    # `run.steps` seeds the random numbers of each step. It ends when the steps or the minutes are over, or after
    # Ctrl-C.
    for step in run.steps():
        # There is an evaluation before the first step, and then at equal shares of the run.
        if run.is_due():
            evaluate(averaged, task, config, run)

        # The learning rate rises, stays and falls.
        factor = learning_rate(step, run.progress, config)
        for optimizer, rate in zip(optimizers, rates):
            optimizer.param_groups[0]["lr"] = rate * factor

        for _ in range(config.accumulate):
            batch = task.batch(config.batch_size // config.accumulate)
            with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                loss = task.loss(network, batch)
            scaler.scale(loss / config.accumulate).backward()

        for optimizer in optimizers:
            scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip)

        for optimizer in optimizers:
            scaler.step(optimizer)
            optimizer.zero_grad()
        scaler.update()

        # The first weights are poor, so after n steps the average covers only the last n / 9 or so.
        decay = min(config.ema, (step + 1) / (step + 10))
        for average, weight in zip(averaged.parameters(), model.parameters()):
            average.lerp_(weight.detach(), 1 - decay)
        run.show(loss)

    # The run is over, and not only stopped by Ctrl-C: measure what it has learned.
    if run.is_over() and not run.reported:
        if run.is_due():
            evaluate(averaged, task, config, run)
        report(type(model), task, run, device)


def make_faster(model, dtype, device, config):
    """Choose and compile code that computes the same in less time."""
    if dtype == torch.bfloat16 and device.type == "cpu":  # there, the gradient of plain products is faster
        for block in model.blocks:
            block.attn.kernel = attention.by_products
    # Blocks of one shape share their compiled code, so this takes half the time of compiling the model as a whole.
    devices.compile_parts([*model.blocks, *model.convs], device, config)


def evenly(windows, count):
    """Return at most `count` of the windows (N, T), from evenly spaced places of the text."""
    count = min(count, len(windows))
    return windows[torch.arange(count, device=windows.device) * len(windows) // count]


def evaluate(model, task, config, run):
    """Measure `model` on some unseen text, and save the model if this is its best evaluation so far."""
    with run.pause():  # an evaluation does not count as training time
        mean, error = task.evaluate(model, evenly(task.windows, config.evaluate_windows))
        numbers = {task.measure: mean, "error": error}
        if run.is_best(mean):
            run.save_model(model, task.tokenizer, numbers)
        run.record(numbers, task.sample(model) if run.is_saved else "")


FINAL_WINDOWS = 500  # windows of the last evaluation


def report(build, task, run, device):
    """Measure the best weights on more unseen text. The result is the number to report, saved with the weights.

    build: the class of the model.
    """
    if not run.is_saved:  # a short training inside another program
        return
    print("the last evaluation: the best weights on more unseen text ...", flush=True)
    model, tokenizer, info = checkpoint.load(run.folder, device, build=build)
    mean, error = task.evaluate(model, evenly(task.windows, FINAL_WINDOWS))
    checkpoint.save(run.folder, model, tokenizer, info | {task.measure: mean, "error": error})
    run.end()
    print(f"{task.measure} {mean:.4f} ± {error:.4f} nats per {tokenizer.unit}, weights of step {info['step']}.\n"
          f"They are in {run.folder}.")


def start(settings, kind, task, model_config, about, device, build=transformer.Transformer, make_run=Run,
          distribute=lambda model: model):
    """Make a model and train it as `settings` say. Returns the folder of the run, or None if Ctrl-C ended it.

    settings: has the fields train, config, run and fresh. kind: what the model is, a key of checkpoint.KINDS. about:
    plain values about the data, which a resumed run must share. build: makes the model from model_config. make_run,
    distribute: replace Run, and wrap the model, for several processes (chapter 12).
    """
    check_memory(model_config, settings.train, device)
    torch.set_float32_matmul_precision("high")  # on a GPU, float32 products may round their inputs to be faster
    settings_name = settings.config.removesuffix(".yaml").split("/")[-1]
    name = settings.run or f"{kind}-{about['corpus']}-{settings_name}"
    must_match = asdict(model_config) | asdict(settings.train) | about  # if the run is resumed
    info = {"kind": kind, "settings": settings.config, "train": asdict(settings.train)} | about | origin(device)
    with make_run(name, settings.train, must_match, info, settings.fresh) as run:
        torch.manual_seed(settings.train.seed)
        model = build(model_config).to(device)
        size = transformer.count_parameters(model)
        print(f"{checkpoint.KINDS[kind].noun}, {size:,} parameters, settings {settings.config!r}, {device}; run {name}",
              flush=True)
        train(model, task, settings.train, run, device, distribute)
    if not run.is_over() or not run.is_saved:
        return None
    draw_curves([run.folder], run.folder / "curve.png")
    return run.folder


def check_memory(shape, config, device):
    """Raise UserError if a training step cannot fit into the memory of the device. shape: the TransformerConfig."""
    size = sum(number for _, number in transformer.parameters_by_part(shape).values())
    rows = config.batch_size // config.accumulate
    # A weight, its gradient, average and momentum take 4 bytes each, and the Python objects of a block take 25 kB. The
    # logits are in float32, and the input of each block is kept for the backward pass in at least 16 bits.
    needed = 16 * size + 25_000 * shape.n_layer
    needed += rows * shape.seq_len * (4 * shape.vocab_size + 2 * shape.n_layer * shape.n_embd)
    devices.check_memory(device, needed, f"a step of {size:,} parameters on {rows:,} windows of {shape.seq_len} tokens",
                         "lower --n-layer, --n-embd or --batch-size, or raise --accumulate")


def draw_curves(folders, path):
    """Draw how the evaluations of one or more runs fell, by steps and by seconds of training, into a PNG file."""
    plt = tensors.pyplot(show=False)
    figure, (by_step, by_second) = plt.subplots(1, 2, figsize=(10, 4), sharey=True, layout="constrained")
    for folder in folders:
        records = read_log(folder)
        measure = "NLL" if "NLL" in records[0] else "NELBO"
        color = tensors.COLORS["gpt" if measure == "NLL" else "dllm"]
        for axes, name in ((by_step, "step"), (by_second, "seconds")):
            x, y = ([record[key] for record in records] for key in (name, measure))
            axes.plot(x, y, marker="o", markersize=3, color=color, label=f"{folder.name}: {measure}")
    by_step.set(xlabel="steps", ylabel="nats per token of unseen text")
    by_second.set(xlabel="seconds of training")
    by_step.legend()
    with files.whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    plt.close(figure)


# 6. The command line


@dataclass(frozen=True)
class Settings:
    """The flags of every program that trains on a text."""

    corpus: str = "shakespeare"  # the text to learn from: shakespeare, or the path of a text file
    # a settings file: a name in configs/, or the path of a YAML file
    config: str = field(default_factory=lambda: "gpu" if torch.cuda.is_available() else "laptop")
    run: str = ""  # name of the run, which is also its folder under checkpoints/; by default made from the text's name
    fresh: bool = False  # start the run again instead of resuming it
    device: str = "auto"  # auto, cpu, cuda or mps
    model: transformer.Shape = transformer.Shape()


@dataclass(frozen=True)
class Command(Settings):
    """The flags of this chapter."""

    plain: int = 0  # run only the plain loop of section 1, with a tiny model, for this many steps; save nothing
    train: DiffusionTrainConfig = DiffusionTrainConfig()


def main(argv=None):
    settings = cli.parse(Command, argv, section="dllm")  # from a settings file it takes what stands below dllm
    corpus = text.load(settings.corpus)
    parts = text.split(corpus.text)
    tokenizer = text.Characters.of(corpus.text)
    if settings.plain > 0:
        torch.set_num_threads(1)  # the fastest for such a small model
        torch.manual_seed(settings.train.seed)
        config = transformer.TransformerConfig(64, 2, 2, 96, vocab_size=tokenizer.vocab_size)
        plain_loop(transformer.Transformer(config), torch.tensor(tokenizer.encode(parts[0])), settings.plain)
        return
    device = devices.pick_device(settings.device)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=tokenizer.vocab_size)
    task = MaskedDiffusion(tokenizer, parts, config.seq_len, device, settings.train.t_max)
    about = {"corpus": corpus.name, "corpus_sha256": corpus.sha256}
    if start(settings, "dllm", task, config, about, device):
        print("Next: python 06_generate.py writes with your model.")


if __name__ == "__main__":
    cli.run(main)
