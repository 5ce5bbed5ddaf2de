"""Choose a device and a number format, compile models, and check whether the memory is large enough."""

import os
import platform
import shutil
import sys
import time

from plumbing.cli import UserError

import torch


def pick_device(name):
    """Return the torch.device for the value of --device. "auto" chooses cuda if possible, otherwise mps, otherwise cpu.

    Raises UserError if the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # fails if the device is absent, or is "meta", which holds no numbers
        return torch.device(name)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        if "out of memory" in str(error):  # the device exists, but other programs fill its memory
            raise
        raise UserError(f"no device {name!r} on this machine; try --device cpu") from None


def machine(device):
    """Return a description of the machine: the GPU's name, or the CPU's name, cores and PyTorch threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "CPU"
    return f"{name}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def pick_dtype(name, device):
    """Return the number format for matrix products.

    "auto" chooses a 16-bit format if the hardware computes fast in this format.
    """
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    can = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if can.get("amx_bf16") or can.get("avx512_bf16") else torch.float32


def compile_parts(parts, device, config):
    """Compile the modules in `parts` in place, depending on `config.compile`.

    "on" always compiles, and "off" never does. "auto" compiles only long trainings (see `config.steps` and
    `config.minutes`), and only on a CUDA GPU, or on a CPU under Linux with a C++ compiler.
    """
    when = config.compile
    likely = device.type == "cuda" or device.type == "cpu" and sys.platform == "linux" and shutil.which("g++")
    short = config.steps < 500 or 0 < config.minutes < 3
    if when == "off" or when == "auto" and (short or not likely):
        return
    if when == "auto":
        torch._dynamo.config.suppress_errors = True  # if compiling fails, run the model uncompiled
    print("compiling the model: the first step may take half a minute (--compile off avoids this)", flush=True)
    for part in parts:
        part.compile()


def now(device):
    """Wait until the device has finished its work, then return the time in seconds."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def check_memory(device, needed, what, advice):
    """Raise UserError if a task needs more memory than the device has. Call this before the task starts.

    `needed` is a low estimate in bytes. It counts only data that is certainly in memory at the same time, so a task
    that could succeed is never refused. `what` names the task, and `advice` says how to save memory.
    """
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory
    elif hasattr(os, "sysconf"):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    else:  # Windows
        return
    if needed > memory:
        raise UserError(f"{what} needs more than {needed // 10**9:,} GB of memory, and {device} has "
                        f"{memory / 1e9:,.0f} GB: {advice}")
