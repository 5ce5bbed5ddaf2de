"""Write models to ONNX files, and compute their logits with ONNX Runtime, which is faster than PyTorch on a CPU.

    torch        PyTorch itself
    onnx         ONNX Runtime with the same 32-bit weights: the same logits, except for rounding
    onnx-int8    ONNX Runtime with most weights as 8-bit integers: nearly the same logits

An ONNX file lists all operations of a model. ONNX Runtime reads the whole list before it starts. So it can merge
operations, and it runs no Python code between two operations.
"""

import contextlib
import copy
import hashlib
import logging
import sys
import warnings
from dataclasses import replace
from types import SimpleNamespace

from plumbing import files
from plumbing.cli import UserError, reason

import torch
import torch.nn as nn
from filelock import FileLock

RUNTIMES = ("torch", "onnx", "onnx-int8")

# 1. To a file


def require_packages():
    """Raise UserError if one of the packages that write and run ONNX files is missing."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError:
        raise UserError("ONNX needs more packages: pip install -r requirements-dev.txt") from None


@contextlib.contextmanager
def hushed():
    """Hide all warnings in a `with` block. The exporters give many warnings that do not concern us."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def export(model, path, metadata=None):
    """Write a Transformer to an ONNX file.

    The input `tokens` (B, T) consists of 64-bit integers, and the output is `logits` (B, T, V). B can be any number,
    and T any number up to seq_len. A time-conditioned model also has the input `t` (B,). `metadata` is a dict
    {name: text} to store in the file. Raises UserError if seq_len is 1, because torch.export would then treat T as a
    constant.
    """
    if model.config.seq_len == 1:
        raise UserError("an ONNX file needs a model with a window of at least two tokens")
    batch, length = torch.export.Dim("B"), torch.export.Dim("T", max=model.config.seq_len)
    # The sizes of these example inputs must differ from 1 and from each other. They don't limit the model.
    inputs = {"tokens": torch.zeros(2, min(8, model.config.seq_len), dtype=torch.long)}
    shapes = [{0: batch, 1: length}]
    if model.config.time_conditioned:
        inputs["t"] = torch.tensor([0.25, 0.75])
        shapes.append({0: batch})
    write(model, tuple(inputs.values()), shapes, list(inputs), ["logits"], path, metadata)


def write(module, inputs, shapes, names, outputs, path, metadata=None):
    """Write any module to an ONNX file. For each input, `shapes` names the dimensions that can vary."""
    require_packages()
    with hushed():
        program = torch.onnx.export(module, inputs, input_names=names, output_names=outputs, verbose=False, dynamo=True,
                                    dynamic_shapes=tuple(shapes))
    program.model.metadata_props.update(metadata or {})
    with files.whole_file(path) as partial:
        program.save(partial, external_data=False)


class Rows:
    """Replaces chapter 02's KVBuffer in an ONNX file. k and v (B, nh, rows, hd) come from earlier passes.

    An ONNX graph has no memory, so it cannot write new rows into a buffer. It returns the new rows as outputs instead.
    """

    def __init__(self, k, v):
        self.k, self.v = k, v

    def write(self, positions, k, v):
        self.new = k, v  # (B, nh, T, hd) each

    def mask(self, positions, causal):
        return positions, *self.new  # `attend` makes the mask itself


def attend(q, k, v, attn_mask):
    """Return the output of causal attention.

    The queries q (B, nh, T, hd) attend to the k and v of earlier passes, and to the new k and v.

    PyTorch's kernel needs all keys in one tensor. To make this tensor, each pass would have to copy the earlier keys.
    """
    positions, new_k, new_v = attn_mask
    rows = k.shape[2]
    old = (q @ k.mT).masked_fill(torch.arange(rows) >= positions[0], -torch.inf)  # (B, nh, T, rows)
    new = (q @ new_k.mT).masked_fill(positions > positions[:, None], -torch.inf)  # (B, nh, T, T)
    weights = (torch.cat((old, new), -1) * q.shape[-1] ** -0.5).softmax(-1)
    return weights[..., :rows] @ v + weights[..., rows:] @ new_v  # (B, nh, T, hd)


class Tail(nn.Module):
    """A causal convolution (chapter 03's Neighbours) whose inputs are x (B, T, C) and the vectors just before x."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x, positions, before):
        self.new = x
        return self.conv(torch.cat((before, x), 1))[:, before.shape[1] :]  # (B, T, C)


class Continuation(nn.Module):
    """A causal Transformer that gets its buffers as inputs, and returns the new rows of the buffers."""

    def __init__(self, model):
        super().__init__()
        self.model = copy.deepcopy(model)
        self.model.convs = nn.ModuleList(map(Tail, self.model.convs))
        for block in self.model.blocks:
            block.attn.kernel = attend

    def forward(self, tokens, positions, k, v, before):
        """Return logits (B, T, V), new rows (2, L, B, nh, T, hd), and the input of each convolution (B, T, C).

        `tokens` has the shape (B, T), and `positions` has the shape (T,). `k` and `v` are lists with one tensor
        (B, nh, rows, hd) per layer. `before` is a list with one tensor (B, conv-1, C) per convolution.
        """
        layers = [Rows(*pair) for pair in zip(k, v)]
        logits = self.model(tokens, positions=positions, cache=SimpleNamespace(layers=layers, streams=before))
        new = torch.stack([torch.stack([layer.new[i] for layer in layers]) for i in (0, 1)])
        return logits, new, [conv.new for conv in self.model.convs]


def export_continuation(model, path):
    """Write a causal Transformer, as a Continuation, to an ONNX file."""
    c = model.config
    batch, length, rows = (torch.export.Dim(name) for name in ("B", "T", "rows"))
    kv, before = buffers(model, 2, 5)  # sizes that differ from each other, as in `export`
    inputs = torch.zeros(2, 3, dtype=torch.long), torch.arange(3) % c.seq_len, list(kv[0]), list(kv[1]), before
    layers = [{0: batch, 2: rows}] * c.n_layer
    shapes = [{0: batch, 1: length}, {0: length}, layers, layers, [{0: batch}] * len(before)]
    names = ["tokens", "positions", *named(kv, before)]
    outputs = ["logits", "rows", *(f"x{i}" for i in range(len(before)))]
    write(Continuation(model), inputs, shapes, names, outputs, path)


def buffers(model, batch, rows):
    """Return empty buffers of a causal model.

    The buffers are one tensor kv (2, L, B, nh, rows, hd), and one tensor (B, conv-1, C) for each convolution.
    """
    c = model.config
    kv = torch.zeros(2, c.n_layer, batch, c.n_head, rows, c.n_embd // c.n_head)
    return kv, [torch.zeros(batch, c.conv - 1, c.n_embd) for _ in model.convs]


def named(kv, before):
    """Return the buffers as a dict {name of the input in the ONNX file: buffer}."""
    layers = {f"{letter}{i}": layer for letter, part in zip("kv", kv) for i, layer in enumerate(part)}
    return layers | {f"before{i}": vectors for i, vectors in enumerate(before)}


def to_int8(path, smaller, n_embd):
    """Read the ONNX file `path`, and write the file `smaller`, in which most weights are 8-bit integers.

    Each column of a weight matrix has its own scale. In each pass, all inputs of a matrix share one scale.

    The head and the second matrix of each MLP stay in 32 bits. The head is small, and rounding it would change the
    logits directly. The inputs of the MLP's second matrix are squares. Most of these squares are much smaller than the
    largest one, so 256 steps are too coarse for them.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(path).graph
    sizes = {weight.name: weight.dims for weight in graph.initializer}
    kept = [node.name for node in graph.node if "logits" in node.output
            or node.op_type == "MatMul" and node.input[1] in sizes and sizes[node.input[1]][0] == 4 * n_embd]
    with hushed(), files.whole_file(smaller) as partial:
        # We use only seven bits per weight, because older processors add two products in 16 bits. With eight bits per
        # weight, this sum could overflow.
        quantize_dynamic(path, partial, op_types_to_quantize=["MatMul"], per_channel=True, reduce_range=True,
                         weight_type=QuantType.QInt8, nodes_to_exclude=kept)


# 2. From a file


class OnnxModel:
    """Replaces chapter 03's Transformer in the samplers, and computes on the CPU."""

    def __init__(self, model, path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors only
        options.intra_op_num_threads = torch.get_num_threads()
        options.add_session_config_entry("session.force_spinning_stop", "1")  # PyTorch gets the cores between passes
        try:
            self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # damaged bytes raise many kinds of errors
            raise UserError(f"cannot read {path} ({reason(error)}): delete it") from None
        self.model, self.config = model, model.config

    def __call__(self, tokens, t=None):
        """tokens (B, T) → logits (B, T, V). Only a time-conditioned model reads the noise levels t (B,)."""
        inputs = {"tokens": tokens.numpy()}
        if self.config.time_conditioned:
            inputs["t"] = t.numpy()
        return torch.from_numpy(self.session.run(["logits"], inputs)[0])


class OnnxGPT(OnnxModel):
    """Replaces a causal Transformer. `export_continuation` writes the file for this class."""

    def __call__(self, tokens, t=None, positions=None, cache=None):
        """tokens (B, T) → logits (B, T, V). `positions` (T,) and `cache` work as in chapter 03, with two limits.

        Each pass must begin where the previous pass ended, and the cache must come from this object's `make_cache`.
        """
        T = tokens.shape[1]
        positions = torch.arange(T) if positions is None else positions
        cache = self.make_cache(len(tokens), 0) if cache is None else cache
        inputs = {"tokens": tokens.numpy(), "positions": positions.numpy(), **cache.inputs}
        logits, rows, *streams = map(torch.from_numpy, self.session.run(None, inputs))
        start = int(positions[0])
        if cache.kv.shape[-2]:
            cache.kv[..., start : start + T, :] = rows
        for before, x in zip(cache.before, streams):
            before.copy_(torch.cat((before, x), 1)[:, T:])
        return logits

    def make_cache(self, batch, rows):
        """Return empty buffers for `batch` sequences of up to `rows` positions.

        The arrays in `inputs` share the memory of these buffers.
        """
        kv, before = buffers(self.model, batch, rows)
        inputs = {name: buffer.numpy() for name, buffer in named(kv, before).items()}
        return SimpleNamespace(kv=kv, before=before, inputs=inputs)


def choose(runtime, model, folder):
    """Return `model` itself if `runtime` is "torch". Otherwise return an OnnxModel that replaces `model`.

    `folder` is the folder of the model. ONNX files are kept in data/onnx/, and you can delete them at any time. The
    name of such a file contains a hash of the weights and of the code that wrote the file.
    """
    if runtime == "torch":
        return model
    require_packages()
    code = [files.ROOT / name for name in ("02_attention.py", "03_transformer.py", "plumbing/runtimes.py")]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in [folder / "model.safetensors", *code])).hexdigest()
    path = files.DATA / "onnx" / f"{folder.resolve().name[:50]}-{digest[:12]}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_suffix(".lock")):  # another program may want the same file
        if not path.is_file():
            print(f"writing {path}, once: this takes some seconds", file=sys.stderr)
            (export_continuation if model.config.causal else export)(model, path)
        if runtime == "onnx-int8":
            exact, path = path, path.with_suffix(".int8.onnx")
            if not path.is_file():
                to_int8(exact, path, model.config.n_embd)
    return (OnnxGPT if model.config.causal else OnnxModel)(model, path)


def on_cpu(settings):
    """Return a program's settings. If `settings` choose ONNX Runtime, the device in the result is "cpu".

    Raises UserError if `settings` choose ONNX Runtime and a device other than the CPU.
    """
    if settings.runtime == "torch":
        return settings
    if settings.device not in ("auto", "cpu"):
        raise UserError(f"--runtime {settings.runtime} computes on the CPU: leave out --device {settings.device}")
    return replace(settings, device="cpu")
