"""How fast is this machine, and how much of it do we use?

    python benchmark.py                     # no GPU: about six minutes on two cores
    python benchmark.py --only sampling     # or laptop, or gpu (the 10.7M settings, on any device)
    python benchmark.py --only scale        # chapter 12's sizes: dLLM and GPT, batch and length; two processes

You see a table of training (tokens/s, and the share of the best matrix product of the same type that this
machine does), Muon's part in a step, sampling (characters/s, forward passes), peak memory and start-up. The
same numbers go to a file in docs/benchmarks/. With CUDA it measures the GPU. Keep the machine quiet meanwhile.
"""

import argparse
import contextlib
import dataclasses
import itertools
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from plumbing import checkpoint, cli, devices, files, runs, settings, tokenized

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt = import_module("07_train_gpt")

VOCAB = 65  # as many symbols as TinyShakespeare has; the tokens are random, which takes the same time
CPU_BATCH = 16  # at the 10.7M settings, where the full 64 would take a CPU many seconds a step
MEMORY_LIMIT = 3000  # MB on CUDA at the 10.7M default: a 4 GB card, less what the desktop takes
WORDS = 50257  # GPT-2's, as chapter 12 has
QUICK_SCALE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "vocab_size": 100}
QUICK = {"n_layer": 2, "n_head": 2, "n_embd": 32, "seq_len": 32, "batch_size": 8}
SHIPPED = (checkpoint.SHIPPED / "model.safetensors").is_file()


def now(device):
    """Seconds on a clock, read when the device has done all it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def measure_times(function, device, quick=False, seconds=8.0):
    """Seconds that a call of `function` takes, three times or more; the first call, which sets up, is left out."""

    def block(n):
        start = now(device)
        for _ in range(n):
            function()
        return (now(device) - start) / n

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
    """The best rate of a product of two square matrices, over sizes and repeats."""
    best = {"tflops": 0.0}
    for size in [512] if job["quick"] else [1024, 2048, 4096] + [8192] * (device.type != "cpu"):
        a, b = torch.randn(2, size, size, device=device).to(getattr(torch, job["dtype"]))
        tflops = 2e-12 * size**3 / min(measure_times(partial(torch.mm, a, b), device, job["quick"], 4.0))
        best = max(best, {"tflops": tflops, "size": size}, key=lambda row: row["tflops"])
    return [job | best]


def read_setup(name, **changes):
    """(TransformerConfig, TrainConfig) of configs/NAME.yaml, with changes."""
    values = settings.read_config(name) | {"minutes": 0, "steps": 10**9, "evaluate_every": 10**9} | changes
    shape, config = ({f.name: values[f.name] for f in dataclasses.fields(group) if f.name in values}
                     for group in (transformer.TransformerConfig, training.TrainConfig))
    return transformer.TransformerConfig(vocab_size=VOCAB, **shape), training.TrainConfig(**config)


def measure_training(job, device):
    """Chapter 05's own loop, timed from within: it asks for a loss once a pass."""
    compiled = {"eager": "off", "compiled": "on"}[job["mode"]]
    shape, config = read_setup(job["settings"], dtype=job["dtype"], compile=compiled, **job["changes"])
    model = transformer.Transformer(shape).to(device)
    data = torch.randint(VOCAB, (1_000_000,), device=device)  # about as long as TinyShakespeare
    objective, calls, marks = training.masked_diffusion(config), itertools.count(), []
    every = 1 if device.type == "cpu" else 10  # steps between two looks at the clock, which stop a GPU

    def loss(network, x0):
        step, part = divmod(next(calls), config.accumulate)
        if part == 0 and (step < 3 or (step - 2) % every == 0):  # steps 0 to 2 set up, compile and warm up
            marks.append((step, now(device)))
            late = len(marks) > 5 and marks[-1][1] - marks[2][1] > 8
            if late or len(marks) == (4 if job["quick"] else 33):
                raise StopIteration  # leaves the training loop
        return objective.loss(network, x0)

    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(StopIteration):
        training.train(model, data, data, config, dataclasses.replace(objective, loss=loss), Path(folder), None, {}, {})
    seconds = statistics.median((t1 - t0) / (step1 - step0)
                                for (step0, t0), (step1, t1) in itertools.pairwise(marks[2:]))
    speed = config.batch_size * shape.seq_len / seconds
    tflops = 1e-12 * speed * transformer.flops_per_token(shape)
    row = job | {"parameters": transformer.count_parameters(model), "batch": config.batch_size,
                 "accumulate": config.accumulate, "window": shape.seq_len,
                 "first_step_seconds": marks[1][1] - marks[0][1], "step_seconds": seconds,
                 "tokens_per_second": speed, "tflops": tflops, "utilisation": tflops / job["peak_tflops"],
                 "memory_mb": memory_mb(device)}
    if job["mode"] == "compiled" or not hasattr(torch.optim, "Muon"):
        return [row]
    # In fp16 its iteration would overflow: chapter 05 gives it fp32 then.
    muon_dtype = torch.bfloat16 if job["dtype"] == "bfloat16" else torch.float32
    muon = training.make_optimizers(model, config, muon_dtype)[0]
    matrices = muon.param_groups[0]["params"]
    for p in matrices:
        p.grad = torch.randn_like(p)
    own, naive = (statistics.median(measure_times(optimizer.step, device, job["quick"], 2.0))
                  for optimizer in (muon, torch.optim.Muon(matrices)))
    return [row, job | {"kind": "muon", "matrices": len(matrices), "seconds": own, "share_of_step": own / seconds,
                        "torch_muon_seconds": naive, "torch_muon_ratio": naive / own}]


def measure_sampling(job, device):
    if SHIPPED:
        model, name = checkpoint.load(checkpoint.SHIPPED, device)[0], checkpoint.SHIPPED.name
    else:
        model, name = transformer.Transformer(read_setup("laptop")[0]).to(device).eval(), "random weights"
    canvas = torch.full((job["batch"], job["characters"]), model.config.mask_id, device=device)

    def sample():
        *_, sample.last = diffusion.denoise(model, canvas, job["steps"])

    seconds = statistics.median(measure_times(sample, device, job["quick"], 6.0))
    return [job | {"model": name, "parameters": transformer.count_parameters(model), "nfe": sample.last.nfe,
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
    shape = {"vocab_size": WORDS, "causal": causal} | settings.read_config(job["settings"])["model"]
    config = transformer.TransformerConfig(**shape | (QUICK_SCALE if job["quick"] else {}))
    return transformer.Transformer(config).to(device).eval()


def measure_forward(job, device):
    """One pass, and writing, of a dLLM and a GPT of one size, for each batch and length.

    A dLLM commits 4 tokens a pass, a GPT one, over its KV buffer: equal in length, not in quality (chapter 10).
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
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", __file__,
               "--job", json.dumps(job | {"kind": "member"})]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
    if done.returncode:
        raise RuntimeError("two processes did not come together: " + (done.stderr.strip() or "?").splitlines()[-1])
    rows += [row | {"kind": "scaling"} for row in json.loads(done.stdout.splitlines()[-1])]
    return [row | {"efficiency": row["tokens_per_second"] / row["processes"] / rows[0]["tokens_per_second"]}
            for row in rows]


def measure_member(job, device):
    """One of the processes of `measure_scaling`: some steps of chapter 12. It counts them, to stay in step."""
    parallel, words, scale = map(import_module, ("plumbing.parallel", "plumbing.words", "12_scale"))
    team, model = parallel.join(str(device)), build_size(job, False, "cpu")
    c = model.config
    config = scale.TrainConfig(batch_size=job["batch"] * team.world, compile="off", short=0.0)
    dtype = devices.pick_dtype("auto", team.device)
    model = model.to(team.device).train()
    engine = scale.distribute(model, model, config, team, dtype)
    optimizers = scale.make_optimizers(model, config, dtype)
    tokens = np.random.default_rng(0).integers(0, c.vocab_size, 100_000).astype(np.uint16)
    windows = tokenized.Windows(tokens, c.seq_len)
    times = []
    for step in range(4 if job["quick"] else 12):
        began = now(team.device)
        scale.backward(engine, *scale.draw(windows, config, c.mask_id, step, team.rank, team.world), team, 1, dtype)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        times.append(now(team.device) - began)
    seconds = statistics.median(times[2:])
    return [job | {"processes": team.world, "parameters": transformer.count_parameters(model), "step_seconds": seconds,
                   "tokens_per_second": config.batch_size * c.seq_len / seconds}]


KINDS = {  # how a kind of row is measured, its heading and its line in the table
    "peak": (measure_peak, "\nbest matrix product", "  {dtype:9} {tflops:8.3f} TFLOP/s, {size} x {size}"),
    "training": (
        measure_training,
        "\nsettings parameters  batch in window  type      mode       s/step  tokens/s TFLOP/s  share     MB",
        "{settings:8} {parameters:10,} {batch:6} {accumulate:2} {window:6}  {dtype:9} {mode:8} {step_seconds:8.4f}"
        " {tokens_per_second:9,.0f} {tflops:7.3f} {utilisation:6.1%} {memory:>6}"),
    "muon": (None, "", "  of it Muon {seconds:.4f} s, {share_of_step:.1%}; torch.optim.Muon {torch_muon_ratio:.1f} x"),
    "sampling": (
        measure_sampling, "\nsampling parameters  batch characters  NFE  seconds  characters/s     MB  model",
        "{parameters:19,} {batch:6} {characters:10} {nfe:4} {seconds:8.2f} {characters_per_second:13,.0f}"
        " {memory:>6}  {model}"),
    "start-up": (measure_startup, "\n06_generate.py, start to exit",
                 "  {characters} characters, {steps} steps, {model}: {seconds:.2f} s"),
    "forward": (
        measure_forward,
        "\nsettings    parameters  model  batch length    s/pass  tokens/s   NFE  writing, s  tokens/s",
        "{settings:11} {parameters:10,}  {model:5} {batch:6} {length:6} {pass_seconds:9.4f}"
        " {pass_tokens_per_second:9,.0f} {nfe:5} {seconds:11.2f} {tokens_per_second:9,.0f}"),
    "scaling": (
        measure_scaling, "\nweak scaling, settings  processes  windows each    s/step  tokens/s  of ideal",
        "{settings:23} {processes:9} {batch:13} {step_seconds:9.4f} {tokens_per_second:9,.0f} {efficiency:9.0%}"),
    "member": (measure_member, "", ""),
}


def plan(only, device, quick):
    """The jobs, in order: plain values, each to be measured by a process of its own."""
    if only == "scale":
        sizes, many = ("tiny", "small"), 4
        if device.type == "cuda":
            sizes, many = (*sizes, "medium"), 64
        grid = {"batches": [1, 2 if quick else many], "lengths": [8, 16] if quick else [64, 256]}
        jobs = [{"kind": "forward", "settings": name} | grid for name in (sizes[:1] if quick else sizes)]
        jobs.append({"kind": "scaling", "settings": "tiny", "batch": 2 if quick else 4})
        return [job | {"device": str(device), "quick": quick} for job in jobs]
    auto, jobs = str(devices.pick_dtype("auto", device)).removeprefix("torch."), []
    dtypes = list(dict.fromkeys(["float32", auto]))
    if only != "sampling":
        jobs += [{"kind": "peak", "dtype": dtype} for dtype in dtypes]
    for name in {"laptop", "gpu"} & {only} if only else ("laptop", "gpu"):
        changes = QUICK if quick else {"batch_size": CPU_BATCH} if (name, device.type) == ("gpu", "cpu") else {}
        for dtype, mode in itertools.product(dtypes, ("eager", "compiled")):
            # What chapter 05 does on CUDA by itself; and, for a card of 4 GB, the same in 4 passes a step.
            default = device.type == "cuda" and (name, dtype, mode) == ("gpu", auto, "compiled")
            for more in ({}, {"accumulate": 4}) if default else ({},):
                jobs.append({"kind": "training", "settings": name, "dtype": dtype, "mode": mode,
                             "changes": changes | more, "default": default and not more})
    if quick:  # one row a size is enough, and compiling would take too long
        jobs = [job for job in jobs if job["kind"] == "peak" or (job["dtype"], job["mode"]) == (
            auto if job["settings"] == "gpu" else "float32", "eager")]
    if only in (None, "sampling"):
        size = {"characters": 32, "steps": 4} if quick else {"characters": 256, "steps": 64}
        for batch in (1, 4 if quick else 16 if device.type == "cpu" else 256):
            jobs.append({"kind": "sampling", "batch": batch} | size)
        if any(checkpoint.RUNS.glob("*/model.safetensors")):
            jobs.append({"kind": "start-up"} | size)
    return [job | {"device": str(device), "quick": quick} for job in jobs]


def measure(job):
    """The rows of one job. What this machine cannot do (compile, hold so much) is a row that says why."""
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("high")  # as in chapter 05; the peak is measured under it too
    try:
        return KINDS[job["kind"]][0](job, torch.device(job["device"]))
    except RuntimeError as error:  # the compiler's errors and out of memory are kinds of it
        return [job | {"error": (str(error).strip() or type(error).__name__).splitlines()[0][:200]}]


def run_all(jobs):
    """Measure each job in a fresh process, so that peaks of memory do not mix; print its rows. All rows."""
    rows, peaks, heading = [], {}, None
    with tempfile.TemporaryDirectory() as cache:  # empty, so that the first compiled step really compiles
        for job in jobs:
            job = job | ({"peak_tflops": peaks[job["dtype"]]} if job["kind"] == "training" else {})
            done = subprocess.run([sys.executable, __file__, "--job", json.dumps(job)], capture_output=True,
                                  text=True, env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache})
            last = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
            if done.returncode == 2:  # a user's mistake, such as a damaged model
                raise cli.UserError(last.removeprefix("error: "))
            for row in json.loads(done.stdout.splitlines()[-1]) if not done.returncode else [job | {"error": last}]:
                rows.append(row)
                _, title, form = KINDS[row["kind"]]
                if title and title != heading:
                    print(heading := title)
                if "error" in row:
                    form = " ".join(row.get(key, "") for key in ("settings", "dtype", "mode")) + ": {error}"
                memory = "-" if row.get("memory_mb") is None else f"{row['memory_mb']:,.0f}"
                print(form.format(**row, memory=memory), flush=True)
                if row["kind"] == "peak":
                    peaks[row["dtype"]] = row.get("tflops")
    return rows


def main(argv=None):
    parser = cli.Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("laptop", "gpu", "sampling", "scale"), help="measure this part alone")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, a trial; saved only where --out says")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the file (docs/benchmarks/MACHINE.json)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    parser.add_argument("--job", help=argparse.SUPPRESS)  # for run_all
    args = parser.parse_args(argv)
    if args.job:
        rows = measure(json.loads(args.job))
        return None if int(os.environ.get("RANK", 0)) else print(json.dumps(rows))
    device, out, origin = devices.pick_device(args.device), args.out, runs.provenance()
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    cpu = getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name") or platform.processor() or platform.machine()
    if out and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise cli.UserError(f"cannot write {out}: name a file in a folder that exists with --out")
    if not out and not args.quick:
        name = re.sub("[^a-z0-9]+", "-", f"{gpu or cpu} {os.cpu_count()} cores {args.only or ''}".lower()).strip("-")
        out = files.ROOT / "docs" / "benchmarks" / f"{name}.json"
    machine = {"cpu": cpu, "cores": os.cpu_count(), "threads": torch.get_num_threads(), "gpu": gpu,
               "system": platform.system(), "torch": torch.__version__}
    print(*(f"{key}: {value}" for key, value in machine.items() if value), sep=", ")
    # --out stays out of the file: it may be a path of this machine.
    flags = {"--only": args.only, "--device": args.device if args.device != "auto" else None}
    command = ["python benchmark.py", *["--quick"] * args.quick, *(f"{k} {v}" for k, v in flags.items() if v)]
    rows = run_all(plan(args.only, device, args.quick))
    report = {"machine": machine, "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": origin["commit"],
              "dirty": str(origin["commit"]).endswith("-dirty"), "command": " ".join(command),
              "memory": "CUDA allocations" if gpu else "the whole process, PyTorch included", "rows": rows}
    if out:
        with files.whole_file(out) as path:
            path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"\nwrote {out}")
    for mb in [row["memory_mb"] for row in rows if row.get("default") and "memory_mb" in row]:
        assert mb < MEMORY_LIMIT, f"the 10.7M default takes {mb:,.0f} MB on CUDA"


if __name__ == "__main__":
    cli.run(main)
