"""Several processes that train one model together (chapter 12).

    join(device)               the Team of this process; torchrun starts several processes, otherwise there is one
    TeamRun                    a run whose log and model one process writes, and whose state all processes write
    orthogonalize_sharded      a step of Muon with matrices of which each process holds a part
    save, restore              the state of a run, of which each process holds a part
    export                     the whole model, as the files that chapter 06 reads
    watcher(kind, ...)         sends the log to TensorBoard or Weights & Biases
"""

import os
import shutil
import signal
import time
import warnings
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict as sharded
from torch.distributed.tensor import DTensor, Replicate

from plumbing import checkpoint, cli, devices, muon, runs, states

# 1. The team


@dataclass(frozen=True)
class Team:
    """The number of this process, the number of all processes, and the device of this one."""

    rank: int  # number of this process, from 0
    world: int  # number of processes
    device: torch.device

    @property
    def lead(self):
        """Whether this process is the one that prints and writes."""
        return self.rank == 0

    def total(self, *values):
        """Return the sum of each of `values` over all processes. Every process must call it and wait for the others."""
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        sums = torch.tensor(values, dtype=kind, device=self.device)
        if self.world > 1:
            dist.all_reduce(sums)
        return sums.tolist()


def join(name):
    """Return the Team of this process. Each process of a machine takes the GPU that has its local number."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun started this process
        cli.end_with_parent()
    here = int(os.environ.get("LOCAL_RANK", rank))  # number among the processes of this machine
    if world > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        if here >= torch.cuda.device_count():
            raise cli.UserError(f"{torch.cuda.device_count()} GPUs are here: start at most so many processes")
        name = f"cuda:{here}"
        torch.cuda.set_device(here)
    device = devices.pick_device("cpu" if world > 1 and name == "auto" else name)
    if world > 1 and device.type not in ("cpu", "cuda"):
        raise cli.UserError(f"several processes cannot share the device {device}: use --device cpu, or one process")
    if world > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))
    else:
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # this is expected with one process
    return Team(rank, world, device)


def check(config, team):
    """Raise UserError if the settings do not fit the number of processes or the device."""
    if config.batch_size % (team.world * config.accumulate):
        raise cli.UserError(f"--batch-size {config.batch_size} must be a multiple of {team.world} processes × "
                            f"--accumulate {config.accumulate}")
    if config.engine == "fsdp" and devices.pick_dtype(config.dtype, team.device) == torch.float16:
        raise cli.UserError("--engine fsdp needs bfloat16 or float32: use ddp, or --dtype float32")


# 2. Matrices of which each process holds a part


def orthogonalize_sharded(matrices, dtype):
    """Muon's `orthogonalize` for a DTensor (N, m, n), of which each process holds a part.

    The singular values of a part are not those of the matrix. So every process gathers the whole matrices, computes
    all results, and returns its part of them.
    """
    whole = muon.orthogonalize(matrices.full_tensor(), dtype)
    return DTensor.from_local(whole, matrices.device_mesh, [Replicate()]).redistribute(placements=matrices.placements)


def norms(trainer):
    """Return [norm of the last gradient before clipping, norm of the weights]. Every process must call it."""
    found = trainer.gradient_norm, torch.nn.utils.get_total_norm(list(trainer.model.parameters()))
    return [(norm.full_tensor() if isinstance(norm, DTensor) else norm).item() for norm in found]


# 3. State and model


def tensors_of(trainer):
    """Return all tensors that resuming needs, as torch.distributed.checkpoint stores them.

    Each process reads and writes its own part, and the number of processes may change between writing and reading.
    """
    weights, moments = sharded.get_state_dict(trainer.model, trainer.optimizers)
    return {"model": weights, "averaged": sharded.get_model_state_dict(trainer.averaged), "optimizers": moments}


def only_tensors(values):
    """Return a dict of dicts without everything that is not a tensor: the settings of the optimizers are known."""
    return {key: only_tensors(value) if isinstance(value, dict) else value for key, value in values.items()
            if isinstance(value, (dict, torch.Tensor))}


def save(folder, team, trainer, progress, settings):
    """Write the tensors to a new folder, then train_state.pt, which names that folder.

    If a process is killed meanwhile, the old file and the old folder remain whole. Every process must call it.
    """
    new = folder / f"state-{trainer.step}"
    if progress.get("tensors") != new.name:  # otherwise the tensors of this step are saved already
        write_tensors(new, team, trainer)
    progress |= {"tensors": new.name, "parts": parts_in(new), "scaler": trainer.scaler.state_dict()}
    if team.lead:
        runs.save_state(folder, {"progress": progress, "settings": settings})
        for old in folder.glob("state-*"):
            if old != new:
                shutil.rmtree(old)


def write_tensors(folder, team, trainer):
    """Write the tensors to `folder`, in the format safetensors, which holds numbers and nothing to be executed."""
    if team.lead:
        shutil.rmtree(folder, ignore_errors=True)  # a killed run, perhaps of more processes, may have left files
    team.total(0)  # the others wait for that
    try:
        writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
        dcp.save(only_tensors(tensors_of(trainer)), storage_writer=writer)
    except dcp.api.CheckpointException as error:
        if team.lead:
            shutil.rmtree(folder, ignore_errors=True)
        for failure, _ in error.failures.values():
            if line := cli.no_room(failure):
                raise cli.UserError(line) from None
        raise


def parts_in(folder):
    """Return the number of files of a saved state."""
    return sum(path.is_file() for path in folder.glob("*.safetensors"))


def restore(folder, progress, trainer):
    """Set `trainer` to the state that `save` wrote. Nothing in its files is executed."""
    tensors, saved = tensors_of(trainer), folder / progress.get("tensors", "state-0")
    with states.reading(saved, "--fresh starts again"):
        if "parts" not in progress:
            raise states.Damaged("an earlier edition of this book wrote it, in files that could execute code")
        if parts_in(saved) != progress["parts"]:
            raise states.Damaged("it is not complete")
        reader = dcp.HuggingFaceStorageReader(str(saved))
        reader.read_metadata()  # if this fails in dcp.load, PyTorch prints a traceback
        try:
            dcp.load(only_tensors(tensors), storage_reader=reader)
        except dcp.api.CheckpointException:  # this is no subclass of Exception
            raise states.Damaged("it does not hold the tensors of this model") from None
    sharded.set_state_dict(trainer.model, trainer.optimizers, model_state_dict=tensors["model"],
                           optim_state_dict=tensors["optimizers"])
    sharded.set_model_state_dict(trainer.averaged, tensors["averaged"])
    if progress.get("scaler"):
        trainer.scaler.load_state_dict(progress["scaler"])
    trainer.step = progress["step"]


def export(folder, team, averaged, model_class, tokenizer, info):
    """Write the averaged weights to the two files that chapter 06 reads. Every process must call it.

    model_class: the class of `averaged` without the changes that its engine made.
    """
    options = sharded.StateDictOptions(full_state_dict=True, cpu_offload=True)
    weights = sharded.get_model_state_dict(averaged, options=options)
    if team.lead:
        with torch.device("meta"):
            whole = model_class(averaged.config)
        whole.load_state_dict(weights, assign=True)
        checkpoint.save(folder, whole, tokenizer, info)


# 4. The run


class TeamRun(runs.Run):
    """A run of several processes. The processes stop together, and each saves its own part of the state.

    watch: where else the log is shown (see `watcher`). model_class: see `export`. The other arguments are those of Run.
    """

    PARTS = ("progress", "settings")
    # None of these settings changes what a step computes, so a resumed run may change them.
    MAY_CHANGE = ("steps", "accumulate", "engine", "recompute", "watch", "compile", "evaluate_every",
                  "evaluate_windows")

    def __init__(self, team, model_class, folder, settings, config, tokenizer, info, fresh=False):
        self.team, self.model_class, self.interrupted, self.loss = team, model_class, False, 0.0
        self.looked, self.look = (0, 0.0), 0  # step and time of the last common sum, and the step of the next one
        refusal = None
        for turn in (team.lead, not team.lead):  # with --fresh the first process deletes files before the others read
            if turn and not refusal:
                try:
                    super().__init__(folder, settings, config, tokenizer, info, fresh, quiet=not team.lead)
                except cli.UserError as error:
                    refusal = error
            if team.total(refusal is not None)[0]:  # they end together, and the first one says why
                self.__exit__()
                raise refusal or cli.UserError("another process of this run cannot begin")

    def claim(self):
        """Return the lock if this is the first process. It holds the lock for all of them."""
        return super().claim() if self.team.lead else None

    def begin(self, trainer):
        self.watch = watcher(self.config.watch if self.team.lead else "none", self.folder, self.settings)
        super().begin(trainer)
        self.looked = trainer.step, time.monotonic()
        signal.signal(signal.SIGTERM, self.interrupt)  # clusters and torchrun ask a process to stop with this signal

    def restore(self, trainer):
        restore(self.folder, self.progress, trainer)

    def interrupt(self, signum, frame):
        """Note that this process was asked to stop. It stops when all processes do: see `count_step`."""
        self.interrupted = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def count_step(self, trainer, loss):
        """Count a finished step. At some steps, sum the loss over all processes, and decide together whether to stop.

        self.loss is the last such sum. Summing waits for the device and all processes, so not every step does it. But
        torchrun kills a process 30 seconds after it was asked to stop, so slow steps are summed more often.
        """
        self.progress["step"] = step = trainer.step
        alone = self.interrupted and self.team.world == 1
        if alone or self.wants_an_evaluation() or step >= self.look:
            pace = (time.monotonic() - self.looked[1]) / (step - self.looked[0])  # seconds per step
            self.loss, requests, pace = self.team.total(loss.item(), self.interrupted, pace / self.team.world)
            self.looked, self.stopped = (step, time.monotonic()), requests > 0
            self.look = step + max(1, min(runs.GLANCE_EVERY, int(5 / max(pace, 1e-3))))  # all processes find the same
        super().count_step(trainer, torch.tensor(self.loss))

    def end(self, trainer):
        record = super().end(trainer)
        if self.team.lead and self.stopped and not self.finished:
            print(f"stopped after step {trainer.step}; run the same command again to resume")
        return record

    def truncate_log(self, step):
        if self.team.lead:
            super().truncate_log(step)

    def write_record(self, record):
        if self.team.lead:
            super().write_record(record)
            self.watch(record)

    def write_model(self, model, record):
        export(self.folder, self.team, model, self.model_class, self.tokenizer, self.info | record)

    def save_state(self, trainer):
        self.progress["seconds"] = self.seconds()
        save(self.folder, self.team, trainer, self.progress, self.settings)


def watcher(kind, folder, values):
    """Return a function that sends a record of the log to `kind`: tensorboard, wandb or none. values: the settings."""
    try:
        if kind == "tensorboard":
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(folder / "tensorboard")
            return lambda record: [writer.add_scalar(key, value, record["step"]) for key, value in record.items()]
        if kind == "wandb":
            import wandb

            return wandb.init(project="tiny-dllm", name=folder.name, dir=folder, config=values).log
    except ImportError:
        raise cli.UserError(f"--watch {kind} needs the package {kind}: pip install {kind}") from None
    return lambda record: None
