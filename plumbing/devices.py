"""The hardware: its device, its fast number format, its memory, and compilation."""

import os
import platform
import shutil
import sys
import time

from plumbing.cli import UserError

import torch


def pick_device(name):
    """Return the torch.device for a value of --device; "auto" prefers cuda, then mps.

    Raises UserError if the machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # raises an error on an absent device, and on "meta", which holds no numbers
        return torch.device(name)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        if "out of memory" in str(error):  # the device exists, but other programs fill its memory
            raise
        raise UserError(f"no device {name!r} on this machine; try --device cpu") from None


def machine(device):
    """Return the name of the GPU; or the processor's name, its number of cores, and the number of PyTorch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    name = torch.cpu.get_capabilities().get("cpu_name") or platform.processor() or "CPU"
    return f"{name}, {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def pick_dtype(name, device):
    """Return the number format of matrix products; "auto": 16 bits if the hardware multiplies those numbers fast."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    can = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return torch.bfloat16 if can.get("amx_bf16") or can.get("avx512_bf16") else torch.float32


def compile_parts(parts, device, config):
    """Compile the modules `parts` in place if config.compile is "on", or if it is "auto" and compiling should pay.

    For a long training, compiling pays with CUDA, and on Linux with a C++ compiler. config: has the fields compile,
    steps and minutes.
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
    """Return the seconds on a clock, read after the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def check_memory(device, needed, what, advice):
    """Raise UserError if `needed` bytes are more than the memory of the device. Call it before any memory is used.

    needed: a low estimate, which counts only what is surely in memory at one time, so that we never refuse what could
    succeed. what: what needs the memory. advice: how to need less.
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
