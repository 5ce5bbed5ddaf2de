"""How fast is this machine, and how much of its speed do we use?

    python benchmark.py                     # no GPU: about six minutes on two cores
    python benchmark.py --only sampling     # one part: laptop, gpu (10.7M parameters), sampling, threads or scale
    python benchmark.py --only scale        # the sizes of chapter 12: dLLM and GPT, batches, lengths, two processes

The program prints a table: training (tokens per second, and the share of the machine's fastest matrix product of the
same number format), Muon's part of a step, sampling (characters per second, and NFE, the number of forward passes),
peak memory and start-up time. Without a GPU it also keeps one core busy for some seconds, and measures how this slows
training with all threads, with one thread, and with the number that a run chooses. It writes the same numbers to a file
in docs/benchmarks/. With CUDA it measures the GPU. Let the machine do nothing else meanwhile.
"""

import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import torch

from plumbing import checkpoint, cli, devices, files, runs, settings
from plumbing.settings import OptionalPath, Switch

CPU_BATCH = 16  # at 10.7M parameters, where the full batch of 64 would take a CPU many seconds per step
MEMORY_LIMIT = 3000  # MB on CUDA at 10.7M parameters: a card of 4 GB, less what the desktop takes
QUICK = {"n_layer": 2, "n_head": 2, "n_embd": 32, "seq_len": 32, "batch_size": 8}

TABLES = {  # kind of row: (heading, one line)
    "peak": ("\nbest matrix product", "  {dtype:9} {tflops:8.3f} TFLOP/s, {size} x {size}"),
    "training": (
        "\nsettings parameters  batch in window  type      mode       s/step  tokens/s TFLOP/s  share     MB",
        "{settings:8} {parameters:10,} {batch:6} {accumulate:2} {window:6}  {dtype:9} {mode:8} {step_seconds:8.4f}"
        " {tokens_per_second:9,.0f} {tflops:7.3f} {utilisation:6.1%} {memory:>6}"),
    "muon": ("", "  of it Muon {seconds:.4f} s, {share_of_step:.1%}; torch.optim.Muon takes {torch_muon_ratio:.1f} x"),
    "sampling": (
        "\nsampling parameters  batch characters  NFE  seconds  characters/s     MB  model",
        "{parameters:19,} {batch:6} {characters:10} {nfe:4} {seconds:8.2f} {characters_per_second:13,.0f}"
        " {memory:>6}  {model}"),
    "threads": (
        "\nseconds per step  all threads  one thread   chosen",
        "{machine:16} {all_seconds:12.4f} {one_seconds:11.4f} {chosen_seconds:8.4f}, {chosen_threads} of {threads}"),
    "start-up": ("\n06_generate.py, start to exit",
                 "  {characters} characters, {steps} steps, {model}: {seconds:.2f} s"),
    "forward": (
        "\nsettings    parameters  model  batch length    s/pass  tokens/s   NFE  writing, s  tokens/s",
        "{settings:11} {parameters:10,}  {model:5} {batch:6} {length:6} {pass_seconds:9.4f}"
        " {pass_tokens_per_second:9,.0f} {nfe:5} {seconds:11.2f} {tokens_per_second:9,.0f}"),
    "scaling": (
        "\nweak scaling, settings  processes  windows each    s/step  tokens/s  of ideal",
        "{settings:23} {processes:9} {batch:13} {step_seconds:9.4f} {tokens_per_second:9,.0f} {efficiency:9.0%}"),
}


def plan(only, device, quick):
    """The jobs in order, as dicts of plain values. Each is measured by a process of its own."""
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
    if only not in ("sampling", "threads"):
        jobs += [{"kind": "peak", "dtype": dtype} for dtype in dtypes]
    for name in {"laptop", "gpu"} & {only} if only else ("laptop", "gpu"):
        changes = QUICK if quick else {"batch_size": CPU_BATCH} if (name, device.type) == ("gpu", "cpu") else {}
        for dtype, mode in itertools.product(dtypes, ("eager", "compiled")):
            # The default of chapter 05 with CUDA; and, for a card of 4 GB, the same with 4 passes per step.
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
    if only in (None, "threads") and device.type == "cpu":
        jobs.append({"kind": "threads", "changes": QUICK if quick else {}})
    return [job | {"device": str(device), "quick": quick} for job in jobs]


def run_all(jobs):
    """Measure each job in a fresh process, so that peaks of memory do not mix. Print the rows and return them."""
    rows, peaks, heading = [], {}, None
    with tempfile.TemporaryDirectory() as cache:  # empty, so that the first compiled step really compiles
        for job in jobs:
            job = job | ({"peak_tflops": peaks[job["dtype"]]} if job["kind"] == "training" else {})
            done = subprocess.run([sys.executable, "-m", "plumbing.reports.speed", json.dumps(job)], cwd=files.ROOT,
                                  capture_output=True, text=True, env=os.environ | {"TORCHINDUCTOR_CACHE_DIR": cache})
            last = (done.stderr.strip().splitlines() or [f"ended with code {done.returncode}"])[-1]
            if done.returncode == 2:  # a user's mistake, such as a damaged model
                raise cli.UserError(last.removeprefix("error: "))
            for row in json.loads(done.stdout.splitlines()[-1]) if not done.returncode else [job | {"error": last}]:
                rows.append(row)
                title, form = TABLES[row["kind"]]
                if title and title != heading:
                    print(heading := title)
                if "error" in row:
                    form = " ".join(row.get(key, "") for key in ("settings", "dtype", "mode")) + ": {error}"
                memory = "-" if row.get("memory_mb") is None else f"{row['memory_mb']:,.0f}"
                print(form.format(**row, memory=memory), flush=True)
                if row["kind"] == "peak":
                    peaks[row["dtype"]] = row.get("tflops")
    return rows


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    only: Literal["all", "laptop", "gpu", "sampling", "threads", "scale"] = "all"  # measure this part alone
    quick: Switch = False  # tiny sizes, to try the program; the numbers are saved only if --out names a file
    out: OptionalPath = None  # the file to write (usually docs/benchmarks/MACHINE.json)
    device: str = "auto"  # auto, cpu, cuda or mps


def main(argv=None):
    command = settings.parse(Command, argv)
    device, out = devices.pick_device(command.device), command.out
    origin = runs.provenance(device)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
    cpu, cores = devices.processor_name(), os.cpu_count()
    if out and (out.is_dir() or not out.absolute().parent.is_dir()):
        raise cli.UserError(f"cannot write {out}: name a file in a folder that exists with --out")
    only = None if command.only == "all" else command.only
    if not out and not command.quick:
        name = re.sub("[^a-z0-9]+", "-", f"{gpu or cpu} {cores} cores {only or ''}".lower()).strip("-")
        out = files.ROOT / "docs" / "benchmarks" / f"{name}.json"
    machine = {"cpu": cpu, "cores": cores, "threads": torch.get_num_threads(), "gpu": gpu,
               "system": platform.system(), "torch": torch.__version__}
    print(*(f"{key}: {value}" for key, value in machine.items() if value), sep=", ")
    # The report does not name --out, which may be a path of this machine.
    shown = {"--only": only, "--device": command.device if command.device != "auto" else None}
    words = ["python benchmark.py", *["--quick"] * command.quick, *(f"{k} {v}" for k, v in shown.items() if v)]
    rows = run_all(plan(only, device, command.quick))
    report = {"machine": machine, "date": datetime.now(UTC).isoformat(timespec="seconds"), "commit": origin["commit"],
              "dirty": str(origin["commit"]).endswith("-dirty"), "command": " ".join(words),
              "memory": "CUDA allocations" if gpu else "the whole process, PyTorch included", "rows": rows}
    if out:
        with files.whole_file(out) as path:
            path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
        print(f"\nwrote {out}")
    for mb in [row["memory_mb"] for row in rows if row.get("default") and "memory_mb" in row]:
        assert mb < MEMORY_LIMIT, f"the 10.7M default takes {mb:,.0f} MB on CUDA"


if __name__ == "__main__":
    cli.run(main)
