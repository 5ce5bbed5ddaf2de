"""Plumbing for chapter 12: several processes that act as one.

    join(device)               the Team of this process: as torchrun started it, or alone
    save, restore, export      a run's state, each process its part; and a model in one piece
    watcher(kind, ...)         TensorBoard or Weights & Biases, for the process that writes

A second plumbing file of chapter 12, beside words.py, because what a process must agree on with the others has
nothing to do with what it reads, and the chapter is about neither.
"""

import os
import shutil
import warnings
from dataclasses import dataclass
from datetime import timedelta
from importlib import import_module

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict as sharded

from plumbing import checkpoint, cli, devices, runs

transformer = import_module("03_transformer")


@dataclass(frozen=True)
class Team:
    """This process among those that torchrun started (or one alone)."""

    rank: int
    world: int
    device: torch.device

    @property
    def lead(self):
        """Whether this is the process that prints and writes."""
        return self.rank == 0

    def total(self, *values):
        """The sums of `values` over all processes; each must call it, and waits for the others."""
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        sums = torch.tensor(values, dtype=kind, device=self.device)
        if self.world > 1:
            dist.all_reduce(sums)
        return sums.tolist()


def join(name):
    """The Team of this process. With torchrun, each process takes the GPU of its number on its machine."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = devices.pick_device(name)
    if world > 1:
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    else:
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # as we know when we save
    return Team(rank, world, device)


def tensors_of(model, averaged, optimizers):
    """All that resuming needs besides numbers, in the form that torch.distributed.checkpoint saves and fits to
    another number of processes: each writes and reads its own part."""
    weights, moments = sharded.get_state_dict(model, optimizers)
    return {"model": weights, "averaged": sharded.get_model_state_dict(averaged), "optimizers": moments}


def save(folder, team, model, averaged, optimizers, state, wanted):
    """Tensors to a new folder first; then train_state.pt, which names it. A kill leaves the old pair whole."""
    state["tensors"] = f"state-{state['step']}"
    dcp.save(tensors_of(model, averaged, optimizers), checkpoint_id=folder / state["tensors"])
    if team.lead:
        runs.save_state(folder, {"progress": state, "settings": wanted})
        for old in folder.glob("state-*"):
            if old.name != state["tensors"]:
                shutil.rmtree(old)


def restore(folder, state, model, averaged, optimizers):
    """What `save` wrote. It trusts the run's own folder: never take up a stranger's run, ask for the model."""
    tensors = tensors_of(model, averaged, optimizers)
    try:
        dcp.load(tensors, checkpoint_id=folder / state["tensors"])
    except (dcp.api.CheckpointException, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise cli.UserError(f"{folder / state['tensors']} is damaged ({reason}); --fresh starts again") from None
    sharded.set_state_dict(model, optimizers, model_state_dict=tensors["model"],
                           optim_state_dict=tensors["optimizers"])
    sharded.set_model_state_dict(averaged, tensors["averaged"])


def export(folder, team, averaged, tokenizer, info):
    """The averaged weights as the two files that chapter 06 reads. Every process must call it."""
    options = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = sharded.get_model_state_dict(averaged, options=options)
    if team.lead:
        with torch.device("meta"):
            whole = transformer.Transformer(averaged.config)
        whole.load_state_dict(weights, assign=True)
        checkpoint.save(folder, whole, tokenizer, info)


def watcher(kind, folder, values):
    """A function that shows a record of the log elsewhere, too."""
    try:
        if kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(folder / "tensorboard")
            return lambda record: [writer.add_scalar(key, value, record["step"]) for key, value in record.items()]
        if kind == "wandb":
            import wandb

            return wandb.init(project="tiny-dllm", name=folder.name, dir=folder, config=values).log
    except ImportError:
        raise cli.UserError(f"--train.watch {kind} needs its package: pip install {kind}") from None
    return lambda record: None
