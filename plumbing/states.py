"""The one place that checks the files of a run before anything in them is used.

A state, a log and the origin of a model (`info` in config.json) may be damaged, or they come from a stranger. Each
`check` function raises Damaged, which says what is wrong; `reading` adds the name of the file and what to do.
"""

import errno
import math
import pickle
import re
import zipfile
from contextlib import contextmanager

import torch

from plumbing import cli

LARGEST = 1 << 63  # no honest number is as large; it would not fit into a tensor of whole numbers


class Damaged(ValueError):
    """A file of a run does not hold what it should."""


@contextmanager
def reading(path, advice="delete it, or use --fresh, to start this run again"):
    """Turn an error in the `with` block, which reads the file `path`, into a UserError with this advice."""
    try:
        yield
    except Exception as error:  # damaged bytes raise many kinds of error, whose texts are no help to the user
        of_the_system = isinstance(error, OSError) and error.errno not in (None, errno.EINVAL)  # such as no permission
        if of_the_system or isinstance(error, MemoryError):
            raise  # it is not the fault of the file, which may be healthy
        reason = error if isinstance(error, Damaged) else type(error).__name__
        raise cli.UserError(f"{path} is damaged ({reason}); {advice}") from None


# 1. Values


def is_number(value):
    """Return whether `value` is a number of a usual size, or NaN, or infinite."""
    return type(value) in (int, float) and not LARGEST <= abs(value) < math.inf


def is_error(value):
    return is_number(value) and not value < 0  # NaN is not below 0


def is_count(value):
    return type(value) is int and 0 <= value < LARGEST


def is_duration(value):
    return is_number(value) and 0 <= value < math.inf


def is_text(value):
    """Return whether `value` is nothing, or a text that can be written to a file: JSON may hold half a character."""
    return value is None or isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def is_plain(value):
    """Return whether `value` is a setting: a text, a number, true or false, nothing, or a list of these."""
    if isinstance(value, (list, tuple)):
        return all(map(is_plain, value))
    return is_text(value) or is_number(value) or isinstance(value, bool)


def is_table(value):
    """Return whether `value` is a dict of settings."""
    return isinstance(value, dict) and all(isinstance(key, str) and is_plain(v) for key, v in value.items())


def is_record(value):
    """Return whether `value` is a record of the log. Its usual entries are numbers; others may be anything plain."""
    return isinstance(value, dict) and all(RECORD[key](value[key]) for key in RECORD.keys() & value.keys())


# Entries that may be absent have to be right if they are there.
RECORD = {"step": is_count, "best_step": is_count, "tokens": is_number, "seconds": is_duration} | dict.fromkeys(
    ("NELBO", "NLL", "train_loss", "bits_per_code_point"), is_number) | {"error": is_error}
PROGRESS = {"step": is_count, "steps": is_count, "best_step": is_count, "seconds": is_duration, "record": is_record,
            "lowest": lambda value: is_number(value) and not math.isnan(value), "scaler": is_table,
            "tensors": lambda value: isinstance(value, str) and re.fullmatch(r"state-[0-9]+", value),
            "parts": is_count}
STATE = {"progress": lambda value: isinstance(value, dict) and "step" in value, "settings": is_table,
         "scaler": is_table}
INFO = RECORD | dict.fromkeys(
    ("kind", "corpus", "corpus_sha256", "source", "command", "commit", "machine", "torch"), is_text) | {
    "train": is_table, "processes": is_count}


def check(values, rules, needs=()):
    """Check the entries of a dict by rules, {name: test}. needs: the names that must be there."""
    if not isinstance(values, dict):
        raise Damaged("it is no table of names and values")
    for name in needs:
        if name not in values:
            raise Damaged(f"{name} is missing")
    for name, test in rules.items():
        if name in values and not test(values[name]):
            raise Damaged(f"{name} is not valid")


def check_info(info):
    """Check the origin and the results of a model."""
    check(info, INFO)


def check_record(record, needs=("step",)):
    """Check a record of the log. needs: the names of the numbers that its reader uses."""
    check(record, dict.fromkeys(needs, is_number) | RECORD, needs)


# 2. A saved state


def load(path, parts):
    """Return the state in the file `path`: a dict that contains the dicts `parts`.

    The file is a pickle, and a pickle can run any program when it is loaded. With weights_only=True, PyTorch reads
    tensors and plain values and refuses everything else.
    """
    with zipfile.ZipFile(path) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
            raise Damaged("it is compressed, which no state is")
        if archive.testzip():  # it compares the checksums of all entries, which PyTorch does not
            raise Damaged("its bytes have changed")
    try:
        with torch.sparse.check_sparse_tensor_invariants():
            state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # PyTorch's message explains how to load the file all the same
        raise Damaged("it holds more than tensors and plain values, so it is not loaded") from None
    check(state, STATE | {part: lambda value: isinstance(value, dict) for part in parts if part not in STATE}, parts)
    if "progress" in state:
        check(state["progress"], PROGRESS)
    return state


def check_tensors(state, trainer):
    """Check that the tensors of a state are those that `trainer`, a Trainer of chapter 05, can continue with."""
    for part in ("model", "averaged"):
        expected, found = getattr(trainer, part).state_dict(), state[part]
        if found.keys() != expected.keys() or not all(fits(found[k], expected[k].shape) for k in expected):
            raise Damaged(f"its weights ({part}) are not those of this model")
    if not isinstance(state.get("optimizers"), list) or len(state["optimizers"]) != len(trainer.optimizers):
        raise Damaged("its optimizers are not those of this run")
    for optimizer, values in zip(trainer.optimizers, state["optimizers"]):
        check_moments(optimizer, values)
    expected, found = trainer.scaler.state_dict(), state["scaler"]
    # Without float16 the scaler has nothing to save, here or on the machine that saved the state.
    if expected and found and not (found.keys() == expected.keys() and all(map(is_duration, found.values()))):
        raise Damaged("its scaler is not valid")


MOMENTS = {"Muon": {"momentum"}, "AdamW": {"step", "exp_avg", "exp_avg_sq"}}  # the tensors of each parameter


def check_moments(optimizer, values):
    """Check the state of one optimizer: for each of its parameters, tensors of the parameter's shape, and a step."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = values.get("state") if isinstance(values, dict) else None
    if not isinstance(moments, dict):
        raise Damaged("the state of an optimizer is missing")
    for number, found in moments.items():
        known = is_count(number) and number < len(parameters) and isinstance(found, dict)
        if not known or found.keys() != MOMENTS[type(optimizer).__name__] or not all(
                fits(tensor, () if name == "step" else parameters[number].shape) for name, tensor in found.items()):
            raise Damaged("the state of an optimizer is not that of this model")
        if found.get("step", 1) < 0:
            raise Damaged("the state of an optimizer has a negative step")


def fits(tensor, shape):
    """Return whether `tensor` is an ordinary tensor of this shape with finite floating-point numbers."""
    ordinary = isinstance(tensor, torch.Tensor) and tensor.layout is torch.strided and tensor.device.type == "cpu"
    if not ordinary or tensor.shape != torch.Size(shape) or not tensor.is_floating_point():
        return False
    return bool(tensor.isfinite().all())
