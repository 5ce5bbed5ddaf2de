"""Save models to folders, find saved models, and load them. The folder of a model has two files:

    model.safetensors    the weights, and the config: the model's shape, tokenizer, origin and results
    config.json          a copy of the config for human readers; no program reads this file
"""

import dataclasses
import json
import math
import zipfile
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from plumbing import devices, text
from plumbing.cli import UserError, reason
from plumbing.files import RUNS, whole_file

import safetensors.torch
import torch

transformer = import_module("03_transformer")

class Kind(NamedTuple):
    """The properties that all models of one kind share."""

    noun: str
    shipped: str  # the model of this kind that comes with the book
    trainer: str  # the program that trains models of this kind
    user: str  # the program that uses models of this kind


KINDS = {
    "dllm": Kind("a dLLM", "shakespeare", "05_train.py", "06_generate.py"),
    "gpt": Kind("a GPT", "shakespeare-gpt", "07_train_gpt.py", "07_train_gpt.py write"),
    "tamil": Kind("a dLLM for Tamil", "tamil", "08_train_tamil.py", "09_generate_tamil.py"),
    "hybrid": Kind("a hybrid", "shakespeare-hybrid", "13_block_diffusion.py", "13_block_diffusion.py write"),
    "sudoku": Kind("a Sudoku model", "sudoku", "14_sudoku.py", "14_sudoku.py solve"),
    "sudoku-gpt": Kind("a GPT for Sudoku", "sudoku-gpt", "14_sudoku.py", "14_sudoku.py"),
    "robot-path": Kind("a model of paths", "robot-path", "15_robot_path.py", "15_robot_path.py smooth"),
}


def save(folder, model, tokenizer, info, dtype=torch.float32):
    """Write a model to `folder`, together with `info`, a dict with the model's kind, origin and results."""
    config = {"model": dataclasses.asdict(model.config),
              "tokenizer": {"kind": tokenizer.kind, "vocabulary": tokenizer.vocabulary},
              "info": info}
    if hasattr(model, "wiring"):  # chapter 03's Transformer has no `wiring`
        config["wiring"] = model.wiring
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    metadata = {"config": json.dumps(config, ensure_ascii=False)}
    with whole_file(folder / "model.safetensors") as path:
        path.write_bytes(safetensors.torch.save(weights, metadata))
    with whole_file(folder / "config.json") as path:
        path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def load(folder, device="cpu", kinds=None, build=transformer.Transformer):
    """Return (model, tokenizer, info), with the model in float32 and in evaluation mode.

    No code from the files is executed. `kinds` lists the allowed kinds of models, and None allows all kinds. `build` is
    the class of the model. Raises UserError if the files are damaged or the model's kind is not allowed.
    """
    folder = Path(folder)
    config = read_config(folder)
    try:
        shape, info = transformer.TransformerConfig(**config["model"]), config["info"]
        kind = info.get("kind", "dllm")
        found = KINDS[kind]
        if kinds is not None and kind not in kinds:
            wanted = " or ".join(KINDS[other].noun for other in kinds)
            raise UserError(f"{folder.name} is {found.noun}, and this program needs {wanted}: use python {found.user}")
        numbers = [info.get(name, 0) for name in ("NELBO", "NLL", "error", "step")]
        sum(numbers, info.get("train", {}).get("batch_size", 0))  # raises an error if a value is not a number
        with safetensors.safe_open(folder / "model.safetensors", framework="pt") as file:
            model = make_model(shape, config.get("wiring"), build, file)
        tokenizer = text.from_description(config["tokenizer"])
        if tokenizer.vocab_size != shape.vocab_size:
            raise ValueError("the vocabulary does not fit the model")
    except UserError:
        raise
    except Exception as error:  # damaged bytes raise many kinds of errors
        raise UserError(f"{folder} holds a damaged model: {reason(error)}") from None
    return model.to(device).eval().requires_grad_(False), tokenizer, info


def make_model(shape, wiring, build, file):
    """Return a model of the class `build` with the weights from `file`. Raises ValueError if the weights don't fit."""
    sizes = {name: file.get_slice(name).get_shape() for name in file.keys()}
    if wiring == "published":
        build = import_module("plumbing.published").PublishedTransformer
    elif wiring != getattr(build, "wiring", None):
        raise ValueError(f"its wiring is {wiring!r}")
    # A damaged config could ask for a billion layers, or for a buffer with a billion positions.
    needed = sum(number for _, number in transformer.parameters_by_part(shape).values())
    if needed > sum(map(math.prod, sizes.values())) or shape.n_layer > min(500, len(sizes)) or shape.seq_len > 1 << 16:
        raise ValueError("its config asks for more numbers than the file holds")
    devices.check_memory(torch.device("cpu"), 4 * needed, f"a model of {needed:,} parameters", "choose a smaller one")
    model = build(shape)
    for name, weight in model.state_dict().items():
        if name == "convs.0.weight" and "conv.weight" in sizes:  # the name in older files
            name = "conv.weight"
        if sizes.pop(name) != list(weight.shape):
            raise ValueError(f"the weight {name} has another shape")
        weight.copy_(file.get_tensor(name))
        if not weight.isfinite().all():
            raise ValueError(f"the weight {name} is not finite")
    if sizes:
        raise ValueError(f"the model has no weight {min(sizes)}")
    return model


def read_config(folder):
    """Return the config, a dict, from model.safetensors in `folder`. Raises UserError if this file is not valid."""
    path = folder / "model.safetensors"
    if not path.is_file():
        raise UserError(f"no model in {folder}: it needs {path.name}")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        if "config" not in metadata:
            raise ValueError("its weights carry no config")
        config = json.loads(metadata["config"])
        return config | {"info": {**config["info"]}}
    except Exception as error:  # damaged bytes raise many kinds of errors
        raise UserError(f"{folder} holds a damaged model: {reason(error)}") from None


def read_tensors(file):
    """Return the tensors and plain values from a file that torch.save wrote. No code from the file is executed.

    `file` is a path or an io.BytesIO. With a path, the tensors stay on the disk until they are used. A damaged file
    can raise almost any exception.
    """
    with zipfile.ZipFile(file) as archive:
        if any(member.compress_type for member in archive.infolist()):
            raise ValueError("it is compressed")  # the unpacked data could be a thousand times larger
    is_path = isinstance(file, Path)
    if not is_path:
        file.seek(0)
    with torch.sparse.check_sparse_tensor_invariants():
        return torch.load(file, map_location="cpu", weights_only=True, mmap=is_path)


def find(name, kind):
    """Return the folder of a model. `name` is a path, or the name of a run.

    If `name` is empty, return the folder of your latest model of this kind. If you have none, return the folder of the
    shipped model of this kind. Raises UserError if no model is found.
    """
    models = sorted(path.parent for path in RUNS.glob("*/model.safetensors"))
    if name:
        for folder in (Path(name), RUNS / name):
            if (folder / "model.safetensors").is_file():
                return folder
        raise UserError(f"no model at {name!r}; there are: {', '.join(folder.name for folder in models)}")
    own = [folder for folder in models if (folder / "state.pt").is_file() and kind_of(folder) == kind]
    if own:
        return max(own, key=lambda folder: (folder / "model.safetensors").stat().st_mtime)
    shipped = RUNS / KINDS[kind].shipped
    if shipped in models:
        return shipped
    raise UserError(f"there is no trained model of this kind yet: run python {KINDS[kind].trainer}")


def kind_of(folder):
    """Return the kind of the model in `folder`, such as "dllm", or None if the config is damaged."""
    try:
        return read_config(folder)["info"].get("kind", "dllm")
    except Exception:  # the program that loads the model reports what is wrong
        return None
