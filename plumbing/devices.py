"""The hardware: its devices, its fast number formats, compilation, a clock, and the speed of matrix products."""

import ctypes
import math
import os
import platform
import shutil
import sys
import time

import torch
import torch.nn.functional as F

from plumbing import cli


def pick_device(name):
    """Return the torch.device for a value of --device; "auto" prefers cuda, then mps. UserError if there is none."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.zeros(1, device=name).item()  # this fails for absent devices, and for "meta", which holds no numbers
        return torch.device(name)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError) as error:
        if "out of memory" in str(error):  # the device is there, but other programs have filled it
            raise
        raise cli.UserError(f"no device {name!r} on this machine; try --device cpu") from None


def processor_name():
    """Return the name of the processor, or "CPU" if Python cannot find it."""
    return getattr(torch.cpu, "get_capabilities", dict)().get("cpu_name") or platform.processor() or "CPU"


def machine(device=None):
    """Return the name of the GPU, or of the processor with the numbers of its cores and of PyTorch's threads.

    device: the torch.device that does the work, by default the GPU if there is one.
    """
    if torch.cuda.is_available() and (device is None or device.type == "cuda"):
        return torch.cuda.get_device_name(device)
    cores, threads = os.cpu_count(), torch.get_num_threads()
    return f"{processor_name()}, {platform.machine()}, {cores} cores, {threads} threads"


def pick_dtype(name, device):
    """Return the number format of matrix products. "auto": 16 bits, if the hardware multiplies such numbers fast."""
    if name != "auto":
        return getattr(torch, name)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability() >= (8, 0) else torch.float16
    if device.type == "cpu":
        can = getattr(torch.cpu, "get_capabilities", dict)()
        if can.get("amx_bf16") or can.get("avx512_bf16"):
            return torch.bfloat16
    return torch.float32


def compile_model(model, when, device):
    """Return the model, compiled if `when` is "on", or if it is "auto" and compiling is likely to work and to pay.

    That is the case with CUDA, and on Linux with a C++ compiler (there training is 1.4 times as fast on two cores).
    """
    if when == "auto":
        if device.type != "cuda" and not (device.type == "cpu" and sys.platform == "linux" and shutil.which("g++")):
            return model
        torch._dynamo.config.suppress_errors = True  # if compiling fails, run the model as it is
    return torch.compile(model) if when != "off" else model


def total_memory(device):
    """Return the bytes of memory that the device has, infinity if that is not known."""
    try:
        if device.type == "cuda":
            return torch.cuda.get_device_properties(device).total_memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return math.inf


def check_memory(device, rows, shape):
    """Raise UserError if a training step on `rows` windows cannot fit into the memory of the device.

    shape: the TransformerConfig. Only the logits in float32 and the input of each block in 16 bits are counted, so a
    step needs several times as much.
    """
    needed = rows * shape.seq_len * (4 * shape.vocab_size + 2 * shape.n_layer * shape.n_embd)
    if needed > total_memory(device):
        raise cli.UserError(f"a step on {rows:,} windows of {shape.seq_len} tokens needs more than "
                            f"{needed / 1e9:,.0f} GB of memory: lower --batch-size, or raise --accumulate")


def now(device):
    """Return the seconds on a clock, read after the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize()
    return time.perf_counter()


def best_product(device, dtype, size=2048, seconds=0.0):
    """Return the floating-point operations per second (FLOP/s) of a product of two square matrices: the best of 4.

    seconds: repeat it for at least so long. The model FLOPs utilisation (MFU) of a training step is relative to it.
    """
    a, b = torch.randn(2, size, size, device=device, dtype=dtype)
    times, end = [], time.perf_counter() + seconds
    while len(times) < 4 or time.perf_counter() < end:
        began = time.perf_counter()
        (a @ b).sum().item()
        times.append(time.perf_counter() - began)
    return 2 * size**3 / min(times)


def attention_by_products(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
    """Compute the same as F.scaled_dot_product_attention. q: (..., T, d), k and v: (..., S, d) → (..., T, d).

    In bfloat16 on a CPU, the gradient of these plain products is faster than that of PyTorch's kernel.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # (..., T, S)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).tril()
    weights = (scores if attn_mask is None else scores.masked_fill(~attn_mask, -math.inf)).softmax(dim=-1)
    return F.dropout(weights, dropout_p) @ v


def return_free_memory():
    """Return freed memory to the system, where the C library is glibc (on most Linux systems).

    Training frees and allocates large tensors of several sizes in every step. glibc keeps the freed pieces, and a new
    tensor often fits into none of them, so without this a long run can fill the memory.
    """
    if sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim"):
        ctypes.CDLL(None).malloc_trim(0)
