"""How fast does this machine train and write?

    python benchmark.py                     # no GPU: about six minutes on two cores
    python benchmark.py --only sampling     # one part: laptop, gpu (10.7M parameters), sampling, threads or scale
    python benchmark.py --only runtimes     # PyTorch and ONNX Runtime, which chapters 06 and 07 can write with

For training, the program prints the tokens per second and the model FLOPs utilisation: the FLOPs per second of the
training, divided by the FLOPs per second of a large matrix product on this machine. For writing, the program prints the
characters per second. Without a GPU, it also measures how much another busy program slows down the training (the part
`threads`). `--only scale` measures how well two processes of chapter 12 share the work. `--only runtimes` measures how
fast the shipped models write with each runtime, and how well they predict unseen text.

Don't run other programs at the same time. The environment variable OMP_NUM_THREADS sets the number of threads. The
numbers are also written to a file in docs/benchmarks/.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Literal

from plumbing import checkpoint, cli, devices, files, parallel, runtimes, text
from plumbing.run import Run, origin

import torch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
comparison = import_module("10_dllm_vs_gpt")
fast = import_module("11_fast_decoding")
scale = import_module("12_scale")

QUICK = ["--n-layer", "2", "--n-head", "2", "--n-embd", "32", "--seq-len", "32", "--batch-size", "8"]  # for a trial
SPIN = "import time\nend = time.time() + 600\nwhile time.time() < end: pass"  # a busy program, for ten minutes at most


# 1. Training


class Timed(training.MaskedDiffusion):
    """A variant of chapter 05's task that notes when each batch is drawn. A step lasts from one batch to the next."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.times = []

    def batch(self, n):
        self.times.append(devices.now(self.train.device))
        return super().batch(n)


def step_seconds(shape, config, device, distribute=lambda model: model):
    """Train a new model of this shape on Shakespeare for config.steps steps. Returns the median seconds per step."""
    corpus = text.load("shakespeare")
    task = Timed(text.Characters.of(corpus.text), text.split(corpus.text), shape.seq_len, device, config.t_max)
    training.train(transformer.Transformer(shape).to(device), task, config, Run(None, config), device, distribute)
    ends = [*task.times, devices.now(device)][:: config.accumulate]
    return statistics.median(end - begin for begin, end in pairwise(ends[2:]))  # without the first two steps


def read_settings(name, quick, steps, **changes):
    """Return (TransformerConfig, DiffusionTrainConfig) of configs/NAME.yaml.

    The training takes `steps` steps without evaluations. `changes` replaces other training settings. If `quick` is
    true, the model and the batch are tiny, and there are 6 steps.
    """
    command = cli.parse(training.Command, ["--config", name, *(QUICK if quick else [])], section="dllm")
    shape = transformer.TransformerConfig(**asdict(command.model), vocab_size=65)
    return shape, replace(command.train, steps=6 if quick else steps, minutes=0, evaluations=0, **changes)


def measure_training(name, device, quick):
    """For each number format, yield a row of results without compilation and, where possible, one with compilation."""
    large_on_cpu = name == "gpu" and device.type == "cpu" and not quick
    steps = 8 if large_on_cpu else 40
    changes = {"batch_size": 16} if large_on_cpu else {}  # a step on the usual 64 windows would take too long
    modes = ["off", "on"] if device.type == "cuda" or shutil.which("g++") else ["off"]
    for dtype in dict.fromkeys([torch.float32, devices.pick_dtype("auto", device)]):
        best = scale.best_product(device, dtype, 512 if quick else 2048)
        for mode in modes[:1] if quick else modes:
            number_format = str(dtype).removeprefix("torch.")
            shape, config = read_settings(name, quick, steps, dtype=number_format, compile=mode, **changes)
            seconds = step_seconds(shape, config, device)
            speed = config.batch_size * shape.seq_len / seconds
            yield {"part": "training", "settings": name, "dtype": number_format, "compile": mode,
                   "batch": config.batch_size, "window": shape.seq_len, "step_seconds": seconds,
                   "tokens_per_second": speed, "best_tflops": best / 1e12,
                   "utilisation": speed * transformer.flops_per_token(shape) / best}


# 2. Writing


def measure_sampling(device, quick):
    """Yield rows of results: the shipped dLLM and the shipped GPT each write a single text, and then a batch of texts.

    "share_of_limit" is the time of the matrix products alone (the limit of chapter 11), divided by the total time of
    writing.
    """
    length, steps = (32, 4) if quick else (256, 64)
    for kind in ("dllm", "gpt"):
        model, _, _ = checkpoint.load(checkpoint.RUNS / checkpoint.KINDS[kind][1], device, kinds=(kind,))
        passes = steps if kind == "dllm" else length - 1
        for batch in (1, 256 if device.type == "cuda" else 16):
            canvas = torch.full((batch, length), model.config.mask_id, device=device)
            canvas[:, 0] = 0  # a GPT needs a first character
            rows = batch * length if kind == "dllm" else batch
            ways = {kind: partial(write, diffusion.denoise, model, canvas, steps)}
            if kind == "gpt":
                ways = {"gpt": partial(write, gpt.stream, model, canvas),
                        "gpt without lean rows": partial(write, gpt.stream, model, canvas, lean=False)}
            times = fast.milliseconds(ways, device, turns=3, repeat=1)
            times |= fast.milliseconds({"limit": fast.products(model, rows)}, device)
            for name in ways:
                yield {"part": "sampling", "model": name, "batch": batch, "characters": length, "passes": passes,
                       "seconds": times[name] / 1000,
                       "characters_per_second": 1000 * batch * (length - 1) / times[name],
                       "share_of_limit": passes * times["limit"] / times[name]}


def write(sampler, *arguments, **named):
    """Run a sampler to the end."""
    for _ in sampler(*arguments, **named):
        pass


def write_with(model, quick):
    """Let a dLLM write a text as in chapter 06, or a GPT as in chapter 07. Returns the number of characters."""
    length, passes = (16, 4) if quick else (256, 96)
    canvas = torch.full((1, length + model.config.causal), model.config.mask_id)
    if model.config.causal:
        canvas[:, 0] = 0
        *_, _last = gpt.stream(model, canvas)
    else:
        *_, _last = generation.generate(model, canvas, passes)
    return length


def measure_runtimes(quick):
    """Yield a row of results for each shipped model in each runtime.

    Each row shows how fast the model writes one text, and how well it predicts unseen text. The runtimes write in
    turns, so that other work on the machine slows all of them alike. They predict the same windows with the same masks,
    one window at a time, just as they write one text at a time.
    """
    for kind, task in (("dllm", training.MaskedDiffusion), ("gpt", gpt.NextToken)):
        folder = checkpoint.find(checkpoint.KINDS[kind].shipped, kind)
        plain, tokenizer, _ = checkpoint.load(folder, kinds=(kind,))
        models = {name: runtimes.choose(name, plain, folder) for name in runtimes.RUNTIMES}
        parts = text.split(text.load("shakespeare").text)
        windows = task(tokenizer, parts, plain.config.seq_len, torch.device("cpu")).windows
        windows = training.evenly(windows, 4 if quick else 128)
        bound = gpt.nll if kind == "gpt" else diffusion.nelbo
        times = {name: [] for name in models}
        for _ in range(2 if quick else 8):
            for name, model in models.items():
                began = devices.now(torch.device("cpu"))
                length = write_with(model, quick)
                times[name].append(devices.now(torch.device("cpu")) - began)
        for name, model in models.items():
            seconds = statistics.median(times[name][1:])
            faster = statistics.median(one / other for one, other in zip(times["torch"][1:], times[name][1:]))
            with torch.no_grad():
                nats, _ = bound(model, windows, batch_size=1)
            row = {}
            if kind == "dllm":
                row["distance"] = nearness(model, windows, tokenizer, parts[0], quick)
            yield row | {"part": "runtimes", "model": folder.name, "runtime": name, "threads": torch.get_num_threads(),
                   "characters": length, "seconds": seconds, "characters_per_second": length / seconds,
                   "faster": faster, task.measure: nats}


def nearness(model, windows, tokenizer, train_text, quick):
    """Let a dLLM write texts. Return their mean distance from real text (chapter 10): [distance, standard error]."""
    rows = training.evenly(windows, 4 if quick else 64)  # (N, T)
    yardstick, _ = comparison.make_yardstick(rows, windows, tokenizer, train_text)
    passes, temperature = (4 if quick else 96), 1.05  # chapter 06's defaults
    written = comparison.write(model, rows[:, :1], windows.shape[1], passes, temperature, seed=1)
    return list(yardstick.quality([tokenizer.decode(row) for row in written])["mean"])


# 3. Threads and processes


@contextmanager
def busy_core():
    """In a `with` block, keep one core busy with another program."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        if hasattr(os, "sched_setaffinity"):  # otherwise the system may move the busy program to an idle core
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield process
    finally:
        process.kill()
        process.wait()


def in_child(words, **environment):
    """Run `python WORDS` in a new process, and return the last number that this process prints."""
    done = subprocess.run([sys.executable, *words], cwd=files.ROOT, capture_output=True, text=True,
                          env=os.environ | environment)
    if done.returncode:
        raise cli.UserError((done.stderr.strip() or "a process has failed").splitlines()[-1])
    return float(done.stdout.split()[-1])


def measure_threads(quick):
    """Yield a row of results for GOMP_SPINCOUNT=300000 and a row for GOMP_SPINCOUNT=1000.

    The number says how many times a waiting thread of PyTorch runs through a loop before it gives up its core.
    plumbing/__init__.py sets it to 1000 for all programs.
    """
    code = (f"import benchmark as b, torch; settings = b.read_settings('laptop', {quick}, 25); "
            "print(b.step_seconds(*settings, torch.device('cpu')))")
    for turns in ("300000", "1000"):
        row = {"part": "threads", "GOMP_SPINCOUNT": turns, "threads": torch.get_num_threads()}
        row["quiet_seconds"] = in_child(["-c", code], GOMP_SPINCOUNT=turns)
        with busy_core():
            row["busy_seconds"] = in_child(["-c", code], GOMP_SPINCOUNT=turns)
        yield row | {"slower": row["busy_seconds"] / row["quiet_seconds"]}


def measure_scale(device, quick):
    """Yield a row of results for one process of chapter 12, and a row for two. Each process gets 4 windows per step."""
    threads = str(max(1, os.cpu_count() // 2))  # threads of each process
    words = ["benchmark.py", "--only", "scale", "--device", device.type, *(["--quick"] if quick else [])]
    speeds = []
    for world in (1, 2) if device.type == "cpu" or torch.cuda.device_count() > 1 else (1,):
        torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={world}"]
        seconds = in_child([*torchrun, *words], OMP_NUM_THREADS=threads)
        speeds.append(world / seconds)
        yield {"part": "scale", "processes": world, "threads": int(threads), "step_seconds": seconds,
               "parallel_efficiency": speeds[-1] / world / speeds[0]}


def take_part(device, quick):
    """Train as one of several processes that torchrun has started. The first process prints the seconds per step."""
    team = parallel.join(device)
    shape, config = read_settings("laptop", quick, 10, batch_size=4, compile="off")
    if not quick:
        tiny = cli.parse(scale.Command, ["--config", "tiny"], configs="scale").model
        shape = transformer.TransformerConfig(**asdict(tiny), vocab_size=50257)
    print(step_seconds(shape, config, team.device, partial(scale.distribute, team=team)))


# 4. The command line


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    only: Literal["all", "laptop", "gpu", "sampling", "threads", "scale", "runtimes"] = "all"  # measure this part alone
    quick: bool = False  # tiny sizes, to try the program; the numbers are saved only if --out names a file
    out: Path | None = None  # the file to write; by default docs/benchmarks/MACHINE.json
    device: str = "auto"  # auto, cpu, cuda or mps


def measure(only, device, quick):
    """Measure the part named `only`, and yield its rows of results. "all" means all parts except runtimes and scale."""
    for name in ("laptop", "gpu"):
        if only in ("all", name):
            yield from measure_training(name, device, quick)
    if only in ("all", "sampling"):
        yield from measure_sampling(device, quick)
    if only in ("all", "threads") and device.type == "cpu":
        yield from measure_threads(quick)
    if only == "runtimes":
        yield from measure_runtimes(quick)
    if only == "scale":
        yield from measure_scale(device, quick)


def main(argv=None):
    settings = cli.parse(Command, argv)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        with parallel.one_voice():
            take_part(settings.device, settings.quick)
        return
    device = devices.pick_device(settings.device)
    torch.set_float32_matmul_precision("high")  # as in chapter 05
    about = origin(device) | {"command": f"python benchmark.py --only {settings.only}"}  # --out may be private
    name = re.sub("[^a-z0-9]+", "-", f"{about['machine']} {settings.only}".lower())
    out = settings.out or files.ROOT / "docs" / "benchmarks" / f"{name}.json"
    if out.is_dir():
        raise cli.UserError(f"cannot write {out}: name a file with --out")
    print(f"{about['machine']}, PyTorch {about['torch']}")
    rows = []
    for row in measure(settings.only, device, settings.quick):
        rows.append(row)
        shown = [f"{key} {value:,.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in row.items()]
        print(", ".join(shown), flush=True)
    if settings.out or not settings.quick:
        report = about | {"date": datetime.now(UTC).date().isoformat(), "rows": rows}
        with files.whole_file(out) as path:
            path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"wrote {out}")


if __name__ == "__main__":
    cli.run(main)
