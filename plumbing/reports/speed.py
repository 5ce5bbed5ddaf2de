"""What benchmark.py measures. Each function takes a job (a dict of plain values) and returns rows of numbers.

    python -m plumbing.reports.speed JOB      measures one job, as JSON, in this process
"""

import contextlib
import itertools
import json
import os
import statistics
import subprocess
import sys
from dataclasses import replace
from functools import partial
from importlib import import_module

import numpy as np
import torch

from plumbing import checkpoint, cli, devices, files, parallel, settings, threads, tokenized

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt = import_module("07_train_gpt")

VOCAB = 65  # as many characters as TinyShakespeare has; random tokens take the same time as text
WORDS = 50257  # the size of GPT-2's vocabulary, which chapter 12 uses
QUICK_SCALE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 100}
SPIN = "import time\nend = time.time() + 600\nwhile time.time() < end: pass"  # it ends even if nobody stops it
SHIPPED = (checkpoint.SHIPPED / "model.safetensors").is_file()


def measure_times(function, device, quick=False, seconds=8.0):
    """Seconds that a call of `function` takes, three times or more; the first call, which sets up, is left out."""

    def block(n):
        start = devices.now(device)
        for _ in range(n):
            function()
        return (devices.now(device) - start) / n

    function()
    once = block(1)
    n = max(1, int(0.2 / once))  # a GPU's step is too short to time alone
    if quick or n == 1 and seconds < 3 * once:
        return [once] if quick else [once, block(1), block(1)]
    return [block(n) for _ in range(min(30, max(3, int(seconds / (n * once)))))]


def memory_mb(device):
    """Peak so far: CUDA's allocations, else the whole process with PyTorch in it; None if unknown (Windows)."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3 / 1.024)


def measure_peak(job, device):
    """The best rate of a product of two square matrices, over several sizes."""
    dtype, best = getattr(torch, job["dtype"]), {"tflops": 0.0}
    for size in [512] if job["quick"] else [1024, 2048, 4096] + [8192] * (device.type != "cpu"):
        row = {"tflops": 1e-12 * devices.best_product(device, dtype, size), "size": size}
        best = max(best, row, key=lambda row: row["tflops"])
    return [job | best]


def read_setup(name, **changes):
    """(TransformerConfig, DiffusionTrainConfig) of configs/NAME.yaml, with `changes` of either."""
    command = settings.parse(training.Command, ["--config", name])
    shape = {key: value for key, value in changes.items() if hasattr(command.model, key)}
    train = {key: value for key, value in changes.items() if key not in shape}
    return replace(command.model, vocab_size=VOCAB, **shape), replace(command.train, **train)


def measure_training(job, device):
    """Steps of chapter 05's trainer: the first one, the typical one, and what Muon takes of it."""
    compiled = {"eager": "off", "compiled": "on"}[job["mode"]]
    shape, config = read_setup(job["settings"], dtype=job["dtype"], compile=compiled, **job["changes"])
    trainer = training.Trainer(transformer.Transformer(shape).to(device), config, device)
    data = torch.randint(VOCAB, (1_000_000,), device=device)  # about as long as TinyShakespeare
    objective = training.masked_diffusion(config)

    def step():
        part = config.batch_size // config.accumulate
        batch = (training.get_batch(data, part, shape.seq_len) for _ in range(config.accumulate))
        trainer.update(lambda network, x0: objective.loss(network, x0) / config.accumulate, batch)

    began = devices.now(device)
    step()
    first_step = devices.now(device) - began
    seconds = statistics.median(measure_times(step, device, job["quick"]))
    speed = config.batch_size * shape.seq_len / seconds
    tflops = 1e-12 * speed * transformer.flops_per_token(shape)
    row = job | {"parameters": transformer.count_parameters(trainer.model), "batch": config.batch_size,
                 "accumulate": config.accumulate, "window": shape.seq_len, "first_step_seconds": first_step,
                 "step_seconds": seconds, "tokens_per_second": speed, "tflops": tflops,
                 "utilisation": tflops / job["peak_tflops"], "memory_mb": memory_mb(device)}
    return [row] if job["mode"] == "compiled" else [row, *measure_muon(job, trainer, seconds)]


@contextlib.contextmanager
def busy_core():
    """Keep one of this program's cores busy with another process."""
    process = subprocess.Popen([sys.executable, "-c", SPIN])
    try:
        if hasattr(os, "sched_setaffinity"):  # otherwise the system may move it to a core that nobody needs
            os.sched_setaffinity(process.pid, {max(os.sched_getaffinity(0))})
        yield
    finally:
        process.kill()
        process.wait()


def measure_threads(job, device):
    """A training step with all threads, with one, and with the choice of threads.py, on a quiet and a busy machine."""
    shape, config = read_setup("laptop", compile="off", **job["changes"])
    trainer = training.Trainer(transformer.Transformer(shape), config, device)
    objective, data = training.masked_diffusion(config), torch.randint(VOCAB, (100_000,))
    rows, usual = [], torch.get_num_threads()

    def step():
        trainer.update(objective.loss, [training.get_batch(data, config.batch_size, shape.seq_len)])

    for machine, situation in (("quiet", contextlib.nullcontext), ("one core busy", busy_core)):
        row = job | {"machine": machine, "threads": usual}
        with situation():
            for name in ("all", "one", "chosen"):
                torch.set_num_threads(1 if name == "one" else usual)
                chosen = threads.Threads(device)
                if name == "chosen":
                    chosen.choose()
                    row["chosen_threads"] = torch.get_num_threads()
                times = measure_times(step, device, job["quick"], 6.0)
                row[f"{name}_seconds"] = sum(times) / len(times)
                torch.set_num_threads(usual)
        rows.append(row)
    return rows


def measure_muon(job, trainer, step_seconds):
    """A step of Muon alone, beside the step of PyTorch's own Muon. No row where PyTorch has none."""
    if not hasattr(torch.optim, "Muon"):
        return []
    matrices = trainer.optimizers[0].param_groups[0]["params"]
    for p in matrices:
        p.grad = torch.randn_like(p)
    own, naive = (statistics.median(measure_times(optimizer.step, trainer.device, job["quick"], 2.0))
                  for optimizer in (trainer.optimizers[0], torch.optim.Muon(matrices)))
    return [job | {"kind": "muon", "matrices": len(matrices), "seconds": own, "share_of_step": own / step_seconds,
                   "torch_muon_seconds": naive, "torch_muon_ratio": naive / own}]


def measure_sampling(job, device):
    """Writing with chapter 04's sampler and the shipped model."""
    if SHIPPED:
        model, name = checkpoint.load(checkpoint.SHIPPED, device)[0], checkpoint.SHIPPED.name
    else:
        model, name = transformer.Transformer(read_setup("laptop")[0]).to(device).eval(), "random weights"
    canvas = torch.full((job["batch"], job["characters"]), model.config.mask_id, device=device)

    def sample():
        *_, last = diffusion.denoise(model, canvas, job["steps"])
        return last

    seconds = statistics.median(measure_times(sample, device, job["quick"], 6.0))
    return [job | {"model": name, "parameters": transformer.count_parameters(model), "nfe": sample().nfe,
                   "seconds": seconds, "characters_per_second": canvas.numel() / seconds,
                   "memory_mb": memory_mb(device)}]


def measure_startup(job, device):
    """From starting chapter 06 to its exit, importing PyTorch included."""
    model = checkpoint.SHIPPED if SHIPPED else checkpoint.find()
    command = [sys.executable, "06_generate.py", "--quiet", "--len", str(job["characters"]), "--steps",
               str(job["steps"]), "--checkpoint", str(model), "--device", str(device)]

    def start():
        if subprocess.run(command, cwd=files.ROOT, capture_output=True).returncode:
            raise RuntimeError("06_generate.py failed: start it by hand to see why")

    times = measure_times(start, torch.device("cpu"), job["quick"])
    return [job | {"model": model.name, "seconds": statistics.median(times)}]


def build_size(job, causal, device):
    """A model of chapter 12's size job["settings"], with random weights."""
    shape = settings.parse(import_module("12_scale").Command, ["--config", job["settings"]]).model
    changes = {"vocab_size": WORDS, "causal": causal} | (QUICK_SCALE if job["quick"] else {})
    return transformer.Transformer(replace(shape, **changes)).to(device).eval()


def measure_forward(job, device):
    """The time of one pass and of writing, for a dLLM and a GPT of one size, for each batch and length.

    The dLLM commits 4 tokens per pass. The GPT commits one, with its key-value buffer. The texts have equal length, but
    not equal quality (chapter 10).
    """
    rows, dtype = [], devices.pick_dtype("auto", device)
    for causal in (False, True):
        model = build_size(job, causal, device)
        for batch, length in itertools.product(job["batches"], job["lengths"]):
            tokens = torch.randint(model.config.vocab_size, (batch, length), device=device)
            canvas = torch.full_like(tokens, model.config.mask_id)

            def write(model=model, tokens=tokens, canvas=canvas):
                if model.config.causal:
                    gpt.generate(model, tokens[:, :1], tokens.shape[1] - 1)
                else:
                    list(diffusion.denoise(model, canvas, canvas.shape[1] // 4))

            with torch.no_grad(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
                once = statistics.median(measure_times(partial(model, tokens), device, job["quick"], 2.0))
                whole = statistics.median(measure_times(write, device, job["quick"], 4.0))
            rows.append(job | {"model": "GPT" if causal else "dLLM", "parameters": transformer.count_parameters(model),
                               "batch": batch, "length": length, "pass_seconds": once,
                               "pass_tokens_per_second": batch * length / once,
                               "nfe": length - 1 if causal else length // 4, "seconds": whole,
                               "tokens_per_second": batch * length / whole})
    return rows


def measure_scaling(job, device):
    """Weak scaling: as many windows a process, with one process and with two (if there are two GPUs). A row each."""
    threads = max(1, os.cpu_count() // 2)  # of a process: the same for one and for two
    torch.set_num_threads(threads)
    rows = measure_member(job, device)
    if device.type == "cuda" and torch.cuda.device_count() < 2:
        return [rows[0] | {"efficiency": 1.0}]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
               "-m", "plumbing.reports.speed", json.dumps(job | {"kind": "member"})]
    for _ in range(2):  # between the choice of a port and its use, another program may take it
        done = subprocess.run(command, capture_output=True, text=True, cwd=files.ROOT,
                              env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        if not done.returncode:
            break
    else:
        raise RuntimeError("two processes did not come together: " + (done.stderr.strip() or "?").splitlines()[-1])
    rows += [row | {"kind": "scaling"} for row in json.loads(done.stdout.splitlines()[-1])]
    return [row | {"efficiency": row["tokens_per_second"] / row["processes"] / rows[0]["tokens_per_second"]}
            for row in rows]


def measure_member(job, device):
    """One of the processes of `measure_scaling`: some steps of chapter 12. It counts them, to stay in step."""
    scale = import_module("12_scale")
    team, model = parallel.join(str(device)), build_size(job, False, "cpu")
    c = model.config
    config = scale.TrainConfig(batch_size=job["batch"] * team.world, compile="off", short=0.0)
    trainer = scale.make_trainer(model.to(team.device).train(), config, team)
    tokens = np.random.default_rng(0).integers(0, c.vocab_size, 100_000).astype(np.uint16)
    windows = tokenized.Windows(tokens, c.seq_len)
    times = []
    for step in range(4 if job["quick"] else 12):
        began = devices.now(team.device)
        scale.update(trainer, *scale.draw(windows, config, c.mask_id, step, team.rank, team.world), team)
        times.append(devices.now(team.device) - began)
    seconds = statistics.median(times[2:])
    return [job | {"processes": team.world, "parameters": transformer.count_parameters(model), "step_seconds": seconds,
                   "tokens_per_second": config.batch_size * c.seq_len / seconds}]


MEASUREMENTS = {"peak": measure_peak, "training": measure_training, "sampling": measure_sampling,
                "threads": measure_threads, "start-up": measure_startup, "forward": measure_forward,
                "scaling": measure_scaling, "member": measure_member}


def measure(job):
    """The rows of one job. If this machine cannot do it (compile, hold the model), one row says why."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # as in chapter 05; the fastest product is measured under it too
    try:
        return MEASUREMENTS[job["kind"]](job, torch.device(job["device"]))
    except RuntimeError as error:  # errors of the compiler and a full memory are RuntimeErrors
        return [job | {"error": (str(error).strip() or type(error).__name__).splitlines()[0][:200]}]


def main():
    rows = measure(json.loads(sys.argv[1]))
    if int(os.environ.get("RANK", 0)) == 0:
        print(json.dumps(rows))


if __name__ == "__main__":
    cli.run(main)
