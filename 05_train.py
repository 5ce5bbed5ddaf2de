"""Chapter 05: how does the model learn Shakespeare?

    python 05_train.py                          # no GPU: 6 minutes on two cores
    python 05_train.py --corpus my.txt          # any text file of your own
    python 05_train.py --config laptop-large    # a larger model, for a faster CPU or more patience
    python 05_train.py --plain 300              # only the plain loop of section 1, with a tiny model: half a minute

With a CUDA GPU, the first command trains a model of 10.7 million parameters (configs/gpu.yaml). Every setting is a
flag, and can also be set in a settings file (--config). Press Ctrl-C to save and stop, and run the same command again
to resume.

The chapter begins with the shortest loop that trains a model. This loop brings a tiny model to a training loss of about
2.7. Then the chapter adds a schedule for the learning rate, the optimizer Muon, an average of the weights, and 16-bit
numbers.

You should see the NELBO fall from 4.2 to about 1.9 nats per character. A model that guesses among all 65 characters has
a NELBO of 4.2. A model that knows only the frequencies of the characters has a NELBO of 3.3. If the NELBO ends far
above 1.9, other programs were probably using the cores. To continue the run, repeat the command with a larger number of
--minutes.

The path of a batch through the program: `main` reads the settings and the text. The tokenizer turns each character into
its number in the sorted list of all characters. The last tenth of the text is kept for evaluations. A task (section 2)
draws batches from the other nine tenths and computes the loss of a batch. `start` makes the model and a Run, an object
that keeps the time, the log and the folder checkpoints/NAME. `train` is the loop. With the laptop settings, a batch has
the shape (16, 128), the logits have the shape (16, 128, 65), and the loss is one number. In each row, at most 103 of
the 128 tokens are masked (t_max 0.8).

To change one thing: `MaskedDiffusion.loss` computes the loss, `make_optimizers` makes the optimizers, and
`learning_rate` is the schedule. A field that you add to TrainConfig becomes a flag, and the comment beside the field
becomes the flag's --help text. To follow a setting through the program, search for its name, for example `t_max`. If
you change the program, use --run to save the new run in a folder of its own.
"""

import copy
from dataclasses import asdict, dataclass, field
from importlib import import_module
from typing import Literal

# plumbing comes before torch, because it sets how the threads of torch wait (plumbing/__init__.py).
from plumbing import checkpoint, cli, devices, files, text
from plumbing.run import Run, origin, read_log

import torch

tensors = import_module("01_tensors")
attention = import_module("02_attention")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")


# 1. The plain loop


def random_windows(tokens, n, window):
    """Return n windows (n, window) from random places of `tokens` (N,)."""
    start = torch.randint(len(tokens) - window + 1, (n, 1), device=tokens.device)
    return tokens[start + torch.arange(window, device=tokens.device)]


def plain_loop(model, tokens, steps, batch_size=32, lr=3e-3):
    """Train `model` on `tokens` (N,) for `steps` steps, and return the loss of each step.

    For each weight, AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) averages the gradients of the last steps, and
    divides the average by the usual size of the weight's gradient. So all weights move at about the same rate. AdamW
    also pulls all weights slightly towards zero.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr)
    window = model.config.seq_len
    losses = []
    for step in range(steps):
        # A batch is a few windows from random places of the text. It stands for the whole text.
        x0 = random_windows(tokens, batch_size, window)  # (B, T)
        # The forward pass masks some tokens and measures how badly the model predicts them.
        loss = diffusion.simple_loss(model, x0, diffusion.spread_evenly(batch_size, window))
        # The backward pass finds for every weight in which direction the loss grows.
        optimizer.zero_grad()
        loss.backward()
        # A limit on the norm of the gradient prevents one unusual batch from undoing the work of many batches.
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # The optimizer moves every weight a small step in the direction in which the loss falls.
        optimizer.step()
        losses.append(loss.item())
        if step % 20 == 0 or step == steps - 1:
            print(f"  step {step:5}   loss {losses[-1]:.3f}", flush=True)
    return losses


# 2. The task: what to learn from, and how good a model is


class Text:
    """The data of a task: random windows of a training text, and all windows of a validation text.

    `parts` are the training text and the validation text. `window` is the number of tokens in a window.
    """

    def __init__(self, tokenizer, parts, window, device):
        train, val = (torch.tensor(tokenizer.encode(part), device=device) for part in parts)  # (N,), (M,)
        if min(len(train), len(val)) < 2 * window:
            raise cli.UserError(f"the text is too short for windows of {window} {tokenizer.unit}s: lower --seq-len")
        self.tokenizer, self.train, self.window = tokenizer, train, window
        self.windows = val[: len(val) // window * window].view(-1, window)  # (M / window, window)

    def batch(self, n):
        """Return n windows (n, window) of the training text."""
        return random_windows(self.train, n, self.window)


class MaskedDiffusion(Text):
    """The task of a dLLM: predict masked tokens.

    `t_max` is the largest share of tokens that training masks. A model learns little from texts in which almost every
    token is masked. So in a short run, training without such texts gives a better model (docs/ablation.md), even
    though a sampler begins with masks only.
    """

    measure = "NELBO"

    def __init__(self, tokenizer, parts, window, device, t_max=1.0):
        super().__init__(tokenizer, parts, window, device)
        self.t_max = t_max

    def loss(self, model, x0):
        """Return the loss of the batch x0 (B, T), as one number."""
        B, T = x0.shape
        return diffusion.simple_loss(model, x0, diffusion.spread_evenly(B, self.t_max * T, x0.device))

    def evaluate(self, model, windows):
        """Return the NELBO of `windows` (N, T) as (mean, standard error), in nats per token."""
        return diffusion.nelbo(model, windows)

    def sample(self, model):
        """Return a text that the model writes with the settings of chapter 04. (Chapter 06 has better settings.)"""
        canvas = torch.full((1, model.config.seq_len), model.config.mask_id, device=model.head.weight.device)
        *_, last = diffusion.denoise(model, canvas)
        return self.tokenizer.decode(last.canvas[0])


# 3. The settings


@dataclass(frozen=True)
class TrainConfig:
    """The settings for training. configs/laptop.yaml changes some of these values."""

    steps: int = 50_000  # largest number of steps
    minutes: float = 0.0  # largest number of minutes of training, not counting evaluations; 0 means no limit
    batch_size: int = 64  # windows per step
    accumulate: int = 1  # number of parts into which a batch is split to save memory; the steps stay almost the same
    optimizer: Literal["muon", "adamw"] = "muon"  # optimizer of the matrices inside the blocks
    lr_matrix: float = 0.02  # learning rate of the matrices inside the blocks; for AdamW, 0.003 is better
    lr_other: float = 0.005  # learning rate of all other weights, which AdamW trains
    momentum: float = 0.95  # decay factor of Muon's running average of gradients
    weight_decay: float = 0.0  # share of each weight that a step takes away, divided by the learning rate
    warmup: int = 100  # number of steps at the beginning in which the learning rate rises
    cooldown: float = 0.7  # share of the run in which the learning rate falls to 0; this part comes last
    clip: float = 1.0  # largest norm of the gradient; a longer gradient is scaled down
    ema: float = 0.995  # decay factor of the averaged weights, which are evaluated and saved
    evaluations: int = 20  # number of evaluations during the run
    evaluate_windows: int = 256  # number of windows of validation text per evaluation
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"  # number format of the matrix products
    compile: Literal["auto", "on", "off"] = "auto"  # torch.compile; auto: in a long run, with CUDA or a C++ compiler
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
    """The settings for training a diffusion model."""

    t_max: float = 1.0  # largest share of tokens that training masks

    def __post_init__(self):
        super().__post_init__()
        if not 0.01 <= self.t_max <= 1:
            raise ValueError("t_max must be from 0.01 to 1")


def learning_rate(step, progress, config):
    """Return the factor, from 0 to 1, that scales the learning rates of both optimizers.

    The factor rises to 1 over the first steps, stays at 1, and falls to 0 at the end. At first the gradients change
    quickly, so the first steps are small. At the end, small steps let the weights settle. `progress` rises from 0 at
    the beginning of the run to 1 at the end, in proportion to the steps or to the time.
    """
    rise = (step + 1) / config.warmup if config.warmup else 1.0
    fall = (1 - progress) / config.cooldown if config.cooldown else 1.0
    return min(1.0, rise, fall)


# 4. Muon

# Each step has a polynomial a x + b x³ + c x⁵. The first polynomial brings all numbers from 0.01 to 1 as near to 1 as
# such a polynomial can. The second polynomial does the same with the results of the first, and the third with the
# results of the second. After the third, all numbers lie between 0.72 and 1.28. We found the coefficients by linear
# programming, with the method of Polar Express (Amsel et al. 2025, arXiv:2505.16932).
POLYNOMIALS = (8.0934, -23.6205, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526)


def orthogonalize(x):
    """For each matrix in x (N, m, n), return approximately the closest orthogonal matrix. The result is (N, m, n).

    A matrix stretches space along several directions, and each direction has its own factor, a singular value. We bring
    all singular values near 1 and keep the directions. We do this with polynomials of the matrix, because
    they need only matrix products, which are fast (Newton-Schulz steps, Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/). A matrix that is not square counts as orthogonal if all its singular
    values are 1.
    """
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)  # now no singular value is above 1
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT  # (N, m, m)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Gradient descent with momentum, in which every matrix takes orthogonal steps (Jordan et al. 2024).

    A few directions usually dominate the gradient of a matrix, so AdamW learns little in the other directions. An
    orthogonal step moves the matrix equally far in all directions. docs/ablation.md shows how much this gains in one
    minute of training. `dtype` is the number format of the matrix products that make a step orthogonal.
    """

    def __init__(self, matrices, lr, momentum, weight_decay=0.0, dtype=torch.float32):
        super().__init__(matrices, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.dtype = dtype

    @torch.no_grad()
    def step(self):
        (group,) = self.param_groups
        shapes = dict.fromkeys(p.shape for p in group["params"])
        for shape in shapes:  # computing all matrices of one shape together is faster
            matrices = [p for p in group["params"] if p.shape == shape]
            ahead = []
            for p in matrices:
                average = self.state[p].setdefault("momentum", torch.zeros_like(p))
                average.lerp_(p.grad, 1 - group["momentum"])
                ahead.append(p.grad.lerp(average, group["momentum"]))  # the new gradient counts once more (Nesterov)
            update = orthogonalize(torch.stack(ahead).to(self.dtype)).float()  # (N, m, n)
            # A shape is (outputs, inputs). If a matrix has more outputs than inputs, the entries of an orthogonal step
            # are smaller than for a square matrix, so we raise the learning rate.
            rate = group["lr"] * max(1, shape[0] / shape[1]) ** 0.5
            for p, direction in zip(matrices, update):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.sub_(rate * direction)


def make_optimizers(model, config, dtype):
    """Return two optimizers: one for the matrices inside the blocks, and AdamW for all other weights."""
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
    """Train `model` on `task`. Afterwards the run's folder holds the averaged weights that had the best evaluation.

    The averaged weights follow the trained weights slowly (an exponential moving average, EMA). Averaging removes the
    noise of the last few batches. In one minute of training, averaging brings no measurable gain (docs/ablation.md). We
    use it for longer runs, in which this noise would otherwise remain at the end.

    With 16-bit numbers, matrix products are faster and need half the memory. PyTorch's autocast chooses the number
    format of each operation. The weights stay in float32. In float16, small gradients would become 0. So a GradScaler
    multiplies the loss by a large number, and later divides the gradients by the same number.

    `distribute` is a function that prepares the model for several processes (chapter 12).
    """
    dtype = devices.pick_dtype(config.dtype, device)
    averaged = copy.deepcopy(model).eval().requires_grad_(False)
    make_faster(model, dtype, device, config)
    network = distribute(model)
    # Muon converts gradients to its number format before it scales them. In float16, small gradients would become 0.
    optimizers = make_optimizers(model, config, torch.float32 if dtype == torch.float16 else dtype)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
    # The run saves these five objects at each evaluation and at Ctrl-C. A resumed run loads them here.
    run.resume(model=model, averaged=averaged, matrices=optimizers[0], others=optimizers[1], scaler=scaler)

    # `run.steps` seeds the random numbers before each step. It ends when all steps are done, when the time is over, or
    # after Ctrl-C.
    for step in run.steps():
        # Evaluations come before the first step, and then after equal parts of the run.
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

        # The first weights are poor. So early in a run, the average after n steps covers only about the last n / 9
        # steps.
        decay = min(config.ema, (step + 1) / (step + 10))
        for average, weight in zip(averaged.parameters(), model.parameters()):
            average.lerp_(weight.detach(), 1 - decay)
        run.show(loss)

    # If the run is over, and not just interrupted by Ctrl-C, measure what the model has learned.
    if run.is_over() and not run.reported:
        if run.is_due():
            evaluate(averaged, task, config, run)
        report(type(model), task, run, device)


def make_faster(model, dtype, device, config):
    """Choose faster code for the same computation, and compile this code."""
    # In bfloat16 on a CPU, the backward pass of attention is faster if attention consists of plain matrix products.
    if dtype == torch.bfloat16 and device.type == "cpu":
        for block in model.blocks:
            block.attn.kernel = attention.by_products
    # Blocks of one shape share their compiled code. So compiling them takes half as long as compiling the whole model.
    devices.compile_parts([*model.blocks, *model.convs], device, config)


def evenly(windows, count):
    """Return at most `count` of the windows (N, T), from evenly spaced places of the text."""
    count = min(count, len(windows))
    return windows[torch.arange(count, device=windows.device) * len(windows) // count]


def evaluate(model, task, config, run):
    """Measure `model` on validation text, and save the model if this is its best evaluation so far."""
    with run.pause():  # an evaluation does not count as training time
        mean, error = task.evaluate(model, evenly(task.windows, config.evaluate_windows))
        numbers = {task.measure: mean, "error": error}
        if run.is_best(mean):
            run.save_model(model, task.tokenizer, numbers)
        run.record(numbers, task.sample(model) if run.is_saved else "")


FINAL_WINDOWS = 500  # number of windows in the last evaluation


def report(build, task, run, device):
    """Measure the best weights on more validation text. Print the result, and save it with the weights.

    `build` is the model's class.
    """
    if not run.is_saved:  # a short run inside another program saves nothing
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
    """Make a model and train it with `settings`. Returns the folder of the run, or None if Ctrl-C ended the run.

    `settings` has the fields train, config, run and fresh. `kind` is the kind of model, a key of checkpoint.KINDS.
    `about` is a dictionary about the data. A run can be resumed only with the same data. `build` makes the model from
    `model_config`. For several processes (chapter 12), `make_run` replaces Run, and `distribute` prepares the model.
    """
    check_memory(model_config, settings.train, device)
    torch.set_float32_matmul_precision("high")  # a GPU rounds the inputs of float32 products to be faster
    settings_name = settings.config.removesuffix(".yaml").split("/")[-1]
    name = settings.run or f"{kind}-{about['corpus']}-{settings_name}"
    must_match = asdict(model_config) | asdict(settings.train) | about  # a resumed run must have the same values
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
    """Raise UserError if the device lacks the memory for a training step. `shape` is the TransformerConfig."""
    size = sum(number for _, number in transformer.parameters_by_part(shape).values())
    rows = config.batch_size // config.accumulate
    # A weight takes 16 bytes: 4 for its value, 4 for its gradient, 4 for its average and 4 for its momentum. The Python
    # objects of a block take 25 kB. A logit takes 4 bytes. The backward pass needs the input of each block, at 2 bytes
    # or more per number.
    needed = 16 * size + 25_000 * shape.n_layer
    needed += rows * shape.seq_len * (4 * shape.vocab_size + 2 * shape.n_layer * shape.n_embd)
    devices.check_memory(device, needed, f"a step of {size:,} parameters on {rows:,} windows of {shape.seq_len} tokens",
                         "lower --n-layer, --n-embd or --batch-size, or raise --accumulate")


def draw_curves(folders, path):
    """Plot the NELBO or NLL of one or more runs against steps and seconds of training. Save the plot as a PNG file."""
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
    """The flags that all programs for training on a text share."""

    corpus: str = "shakespeare"  # the text to learn from: shakespeare, or the path of a text file
    # a settings file: a name in configs/, or the path of a YAML file
    config: str = field(default_factory=lambda: "gpu" if torch.cuda.is_available() else "laptop")
    run: str = ""  # name of the run and of its folder in checkpoints/; by default made from the name of the text
    fresh: bool = False  # start the run again instead of resuming it
    device: str = "auto"  # auto, cpu, cuda or mps
    model: transformer.Shape = transformer.Shape()


@dataclass(frozen=True)
class Command(Settings):
    """The flags of this chapter."""

    plain: int = 0  # above 0: run only the plain loop of section 1 for this many steps, with a tiny model; save nothing
    train: DiffusionTrainConfig = DiffusionTrainConfig()


def main(argv=None):
    settings = cli.parse(Command, argv, section="dllm")  # in a settings file, lines below "dllm:" are for this program
    corpus = text.load(settings.corpus)
    parts = text.split(corpus.text)
    tokenizer = text.Characters.of(corpus.text)
    if settings.plain > 0:
        torch.set_num_threads(1)  # one thread is fastest for such a small model
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
