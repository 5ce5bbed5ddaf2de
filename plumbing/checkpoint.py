"""A model's folder: save a model, load it, find it.

    model.safetensors    the weights, and a copy of the config
    config.json          the model's config, its tokenizer, the origin of its training and its results
    train_state.pt       only for resuming a run (plumbing/runs.py)

Each file is written under a temporary name and then renamed. So the old file stays whole if the program is killed.
plumbing/hub.py copies a model to a folder that can be shared, and uploads it.
"""

import dataclasses
import json
from importlib import import_module
from pathlib import Path

import safetensors
import safetensors.torch
import torch

from plumbing import cli, files, foreign, states, tokenizers

transformer = import_module("03_transformer")

RUNS = files.ROOT / "checkpoints"
MOST_LAYERS = 500
KINDS = {  # of models: the name of the shipped one, and the program that trains another
    "dllm": ("shakespeare", "05_train.py"), "gpt": ("shakespeare-gpt", "07_train_gpt.py"),
    "tamil": ("tamil", "08_train_tamil.py"), "hybrid": ("shakespeare-hybrid", "13_block_diffusion.py"),
    "sudoku": ("sudoku", "14_sudoku.py"), "robot-path": ("robot-path", "15_robot_path.py")}
SHIPPED, SHIPPED_GPT, SHIPPED_TAMIL, SHIPPED_HYBRID, SHIPPED_SUDOKU, SHIPPED_ROBOT_PATH = (
    RUNS / name for name, _ in KINDS.values())


def save(folder, model, tokenizer, info, dtype=torch.float32):
    """Write a model to `folder`. info: plain values to save with it, such as step, metrics and corpus."""
    folder = Path(folder)
    weights = {name: tensor.detach().to("cpu", dtype).contiguous() for name, tensor in model.state_dict().items()}
    config = {
        "model": dataclasses.asdict(model.config),
        "tokenizer": {"kind": tokenizer.kind, "vocabulary": tokenizer.vocabulary},
        "info": info,
    }
    if hasattr(model, "wiring"):  # its class is in plumbing/published.py, not in chapter 03
        config["wiring"] = model.wiring
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    # The weights file contains the config too, so that a kill between the two renames cannot mix two models.
    metadata = {"config": json.dumps(config, ensure_ascii=False)}
    with files.whole_file(folder / "model.safetensors") as path:
        safetensors.torch.save_file(weights, path, metadata)
    with files.whole_file(folder / "config.json") as path:
        path.write_text(text, encoding="utf-8")


def load(folder, device="cpu", build=transformer.Transformer):
    """Return (model, tokenizer, info), the model in float32 and evaluation mode. UserError if a file is not valid.

    build: the class of the model, if it is not chapter 03's Transformer.
    """
    folder = Path(folder)
    path = folder / "model.safetensors"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            embedded = (file.metadata() or {}).get("config")
            config = json.loads(embedded or (folder / "config.json").read_text(encoding="utf-8"))
            shape, info = checked_shape(config["model"], len(file.keys())), config["info"]
            weights = {name: file.get_tensor(name).to(torch.float32, copy=True) for name in file.keys()}
        states.check_info(info)
        wiring, wanted = config.get("wiring"), getattr(build, "wiring", None)
        if "wiring" in config and wiring != "hybrid":
            build = import_module("plumbing.published").architecture(wiring)
        with torch.device("meta"):
            model = build(shape)
        tokenizer = tokenizers.from_description(config["tokenizer"])
    except FileNotFoundError:
        raise cli.UserError(f"no model in {folder} (it needs model.safetensors and config.json)") from None
    except Exception as error:  # damaged bytes raise many kinds of errors
        raise cli.UserError(f"{folder} holds a damaged model: {foreign.reason(error)}") from None
    check_hybrid(folder, wiring, wanted)
    if tokenizer.vocab_size != model.config.vocab_size:
        raise cli.UserError(f"{folder}: the vocabulary does not fit the model")
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    found = {name: tensor.shape for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise cli.UserError(f"{folder} does not fit its config: weight {foreign.printable(name)}")
        if not weights[name].isfinite().all():
            raise cli.UserError(f"{folder} holds a damaged model: weight {name} is not finite")
    model.load_state_dict(weights, assign=True)
    return model.to(device).eval().requires_grad_(False), tokenizer, info


def checked_shape(fields, tensors):
    """Return the TransformerConfig of the dict `fields`, for a file with so many tensors. TypeError or ValueError."""
    shape = transformer.TransformerConfig(**fields)
    for field in dataclasses.fields(shape):
        value, kind = getattr(shape, field.name), type(field.default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise TypeError(f"{field.name} is {value!r}")
    # A damaged config could ask for a billion layers, or for a key-value buffer of a billion positions. Building a
    # layer takes milliseconds, even if the file has only empty tensors for it.
    if shape.n_layer > min(tensors, MOST_LAYERS) or shape.seq_len > 1 << 16:
        raise ValueError("its config makes no sense")
    return shape


def check_hybrid(folder, wiring, wanted):
    """Raise UserError if the model in `folder` is a hybrid and the program wants none, or the other way round."""
    if wiring == "hybrid" != wanted:
        raise cli.UserError(f"{folder} is a hybrid: use python 13_block_diffusion.py --write --run {folder.name}")
    if wanted == "hybrid" != wiring:
        raise cli.UserError(f"{folder} is not a hybrid: chapter 13 can use only models that it has trained itself; "
                            "python 06_generate.py writes with a dLLM, and python 07_train_gpt.py --write with a GPT")


def find(name=None, kind="dllm"):
    """Return the folder of a model. name: a path or a run's name; None: your latest run of `kind`, or the shipped.

    kind: a key of KINDS. UserError, with the command that trains such a model, if there is none.
    """
    shipped, command = RUNS / KINDS[kind][0], KINDS[kind][1]
    models = sorted(RUNS.glob("*/model.safetensors"))
    if name is not None:
        for folder in (Path(name), RUNS / name):
            if (folder / "model.safetensors").is_file():
                return folder
        names = ", ".join(path.parent.name for path in models)
        hint = f"there are: {names}" if names else f"train one with python {command}"
        raise cli.UserError(f"no model at {name!r}; {hint}")
    own = [path for path in models if (path.parent / "train_state.pt").is_file() and kind_of(path.parent) == kind]
    if own:
        return max(own, key=lambda path: path.stat().st_mtime).parent
    if (shipped / "model.safetensors").is_file():
        return shipped
    raise cli.UserError(f"no trained {kind} yet: run python {command}")


def kind_of(folder):
    """Return the kind of a run from its config.json, such as "dllm" or "gpt"."""
    try:
        return json.loads((folder / "config.json").read_text(encoding="utf-8"))["info"].get("kind", "dllm")
    except Exception:  # it is damaged; `load` reports this if the run is used
        return "dllm"
