"""A training run and its folder: log, saved state, time budget, Ctrl-C, and the origin of its numbers.

    checkpoints/NAME/model.safetensors, config.json    the weights of the best evaluation so far
    checkpoints/NAME/log.jsonl                         one record per evaluation
    checkpoints/NAME/train_state.pt                    everything that resuming needs
"""

import contextlib
import json
import math
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm import tqdm

from plumbing import budget, checkpoint, cli, devices, figures, files, foreign, locks, states, threads
from plumbing.settings import OptionalText, Switch

LONGEST_NAME = 200  # bytes of a run's name; most file systems allow 255 for a name, and the lock's is longer
GLANCE_EVERY = 20  # steps between two readings of the loss, since each reading waits for the device


@dataclass(frozen=True)
class RunFlags:
    """The flags of every program that trains."""

    corpus: str = "shakespeare"  # the text to learn from: shakespeare, or the path of a text file
    config: str = "laptop"  # the settings file: a name in configs/, or the path of a YAML file
    run: OptionalText = None  # name of the run, which is also its folder under checkpoints/
    fresh: Switch = False  # start the run again instead of resuming it
    device: str = "auto"  # auto, cpu, cuda or mps


class Run:
    """One run: it decides when to evaluate and when to stop, and it writes everything to its folder.

    settings: {name: value} that a resumed run must share with the saved one, but `steps` may differ and `teachers` be
    added. UserError if they differ, if the folder holds a model without a log, or if another process trains this run.
    config: has steps, minutes, evaluate_every, seed. Use it as `with Run(...) as run:`. At the end of the block, also
    after an error, the progress bar is closed, Ctrl-C does what it did before, and other processes may train the run.
    """

    PARTS = ("progress", "settings", "model", "averaged", "scaler")  # the dicts of a saved state
    MAY_CHANGE = ("steps",)  # the settings that may change when a run is resumed
    bar = lock = threads = budget = None  # until there are any
    compiled = True  # until `announce` knows better

    def __init__(self, folder, settings, config, tokenizer, info, fresh=False, quiet=False):
        self.folder, self.settings, self.config, self.quiet = Path(folder), settings, config, quiet
        self.tokenizer, self.info, self.name, self.stopped = tokenizer, info, self.folder.name, False
        self.lock = self.claim()
        try:
            for file in ("train_state.pt", "log.jsonl") if fresh else ():
                (self.folder / file).unlink(missing_ok=True)
            self.saved = load_saved(self.folder, settings, fresh, self.PARTS, self.MAY_CHANGE)
        except BaseException:
            self.__exit__()
            raise
        self.progress = {"step": 0, "steps": config.steps, "seconds": 0.0, "record": {},
                         "lowest": math.inf, "best_step": 0}
        if self.saved:
            self.progress |= self.saved["progress"]
            if config.steps != self.saved["settings"].get("steps"):
                self.progress["steps"] = config.steps

    def claim(self):
        """Return the lock on the folder. UserError if another process holds it."""
        return locks.Lock(self.folder)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        torch.set_flush_denormal(False)  # only training may count tiny numbers as 0
        self.stop_watching()
        if self.lock:
            self.lock.release()

    def stop_watching(self):
        """Close the progress bar, and give Ctrl-C and the threads back."""
        if self.threads:
            self.threads.restore()
        if self.bar is not None:
            with contextlib.suppress(OSError):  # nobody may be left who reads stderr
                self.bar.close()
            signal.signal(signal.SIGINT, self.handler)
            self.bar = None

    @property
    def steps(self):
        """The number of steps of the whole run."""
        return self.progress["steps"]

    @property
    def finished(self):
        return self.progress["step"] >= self.steps

    def announce(self, compiled):
        """Print what the run will do, since compilation may then be silent for a minute."""
        self.compiled = compiled
        if self.finished:
            print("this run is finished; a larger --steps continues it, --fresh starts it again")
            return
        if self.saved:
            print(f"resuming from step {self.progress['step']}")
        if compiled:
            print("compiling the model: the first step may take a minute (--compile off avoids this)", flush=True)

    def begin(self, trainer, *evaluation):
        """Restore a saved state, remove later lines of the log, start the clock. evaluation: see Budget.rehearse."""
        torch.set_flush_denormal(True)  # numbers below 1e-38 become 0, because CPUs are very slow with them
        asked = self.saved and self.saved["settings"].get("steps") != self.config.steps  # another number of steps
        if self.saved:
            self.restore(trainer)
        self.saved = None
        self.truncate_log(trainer.step)
        self.began = time.monotonic() - self.progress["seconds"]
        self.threads = threads.Threads(getattr(trainer, "device", "cpu"))
        if not self.finished:
            self.threads.choose()
        limit = 0 if asked or self.steps != self.config.steps else 60 * self.config.minutes  # the plan stands
        self.budget = budget.Budget(limit, self.steps, self.config.evaluate_every, self.seconds, trainer.step,
                                    self.compiled)
        self.handler = signal.signal(signal.SIGINT, self.interrupt)
        self.bar = tqdm(total=self.steps, initial=trainer.step, unit="step", dynamic_ncols=True, mininterval=1,
                        disable=self.quiet)
        if limit and evaluation:
            self.budget.rehearse(trainer.averaged, *evaluation)

    def restore(self, trainer):
        """Set the trainer to the saved state. UserError if the state does not fit it."""
        with states.reading(self.folder / "train_state.pt"):
            states.check_tensors(self.saved, trainer)
        trainer.restore(self.saved, self.progress["step"])

    def interrupt(self, signum, frame):
        """Ask the run to finish its current step, save and stop. A second Ctrl-C ends the program at once."""
        self.stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def wants_a_step(self):
        self.budget.begin_step()
        self.threads.begin_step()
        return not self.finished and not self.stopped

    def seed(self):
        """Return the seed of the current step. It depends on no earlier step, so a resumed run draws the same."""
        return self.config.seed * 1_000_003 + self.progress["step"]  # runs share no seed in their first million steps

    def count_step(self, trainer, loss):
        """Count a finished step: apply the time budget, show the progress. UserError if the loss is not finite."""
        step = self.progress["step"] = trainer.step
        self.bar.update()
        self.threads.end_step()
        if self.budget.is_due(step):
            loss.item()  # this waits until the device has done the step
            self.progress["steps"] = self.bar.total = self.budget.plan(step)
        if self.wants_an_evaluation() or step % GLANCE_EVERY == 0:
            devices.return_free_memory()
            if not math.isfinite(loss.item()):
                raise cli.UserError(f"the loss is not finite at step {step}; lower --lr-matrix or --lr-other")
            self.bar.set_postfix(loss=f"{loss.item():.3f}")

    def wants_an_evaluation(self):
        return self.finished or self.progress["step"] % self.config.evaluate_every == 0

    def improved(self, value):
        """Return whether an evaluation is the best one so far (lower is better), and remember it if so."""
        if not value <= self.progress["lowest"]:  # it is higher, or not a number
            return False
        self.progress |= {"lowest": value, "best_step": self.progress["step"]}
        return True

    def seconds(self):
        return time.monotonic() - self.began

    def save(self, trainer, record, model=None):
        """Save one evaluation: the log, then the model if it is the best so far, then the state.

        The log comes first: resuming can remove a line that is too many, but it cannot restore a missing one.
        """
        record |= {"seconds": round(self.seconds(), 1)} | self.budget.shortened
        self.write_record(record)
        if model is not None:
            self.progress["record"] = record
            self.write_model(model, record)
        self.save_state(trainer)

    def truncate_log(self, step):
        """Remove the records of later steps than `step`, which a killed run wrote after it had saved its state."""
        kept = [json.dumps(record) + "\n" for record in read_log(self.folder / "log.jsonl") if record["step"] <= step]
        with files.whole_file(self.folder / "log.jsonl") as partial:
            partial.write_text("".join(kept), encoding="utf-8")

    def write_record(self, record):
        with open(self.folder / "log.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def write_model(self, model, record):
        checkpoint.save(self.folder, model, self.tokenizer, self.info | record)

    def save_state(self, trainer):
        self.progress["seconds"] = self.seconds()
        save_state(self.folder, {"progress": self.progress, "settings": self.settings} | trainer.state())

    def show(self, text):
        """Print below the progress bar. What a model writes may command a terminal, so it is escaped."""
        if not self.quiet:
            self.bar.write(f"\n{foreign.lines(text)}\n", sys.stdout)

    def end(self, trainer):
        """Save the run if it was interrupted. Returns the record of the evaluation whose weights are in the folder."""
        self.stop_watching()
        if self.stopped and not self.finished:
            if not self.progress["record"]:  # nothing was evaluated yet: keep what there is
                self.write_model(trainer.averaged, {})
            self.save_state(trainer)
        return self.progress["record"]

    def report(self, measure):
        """Draw the curve of validation losses, and print the loss of the weights that were kept."""
        record = self.progress["record"]
        if not record:
            return
        with states.reading(self.folder / "train_state.pt"):
            states.check_record(record, (measure, "error", "step", "best_step", "seconds"))
        records = [record for record in read_log(self.folder / "log.jsonl") if {measure, "error"} <= record.keys()]
        figures.draw_curve(records, measure, self.folder / "curve.png", self.name)
        remark = self.budget.remark() if self.budget else ""
        print(f"{measure} {record[measure]:.4f} ± {record['error']:.4f} nats per token, weights of step "
              f"{record['best_step']} of {record['step']}, after {record['seconds']:.0f} s{remark}\n"
              f"model, log and curve: {self.folder}")


def load_saved(folder, settings, fresh, parts=Run.PARTS, may_change=Run.MAY_CHANGE):
    """Return the saved state of the run in `folder`, or None. UserError if it cannot be resumed with `settings`."""
    saved = load_state(folder, parts)
    if (folder / "model.safetensors").is_file() and not (folder / "log.jsonl").is_file() and not fresh:
        raise cli.UserError(f"{folder} holds a model that cannot be trained further; use --run NEW_NAME, or --fresh")
    changed = [k for k in settings if saved and k not in may_change and saved["settings"].get(k) != settings[k]
               and (k != "teachers" or saved["settings"].get(k))]  # a run without teachers may get some
    if changed:
        raise cli.UserError(f"run {folder.name} was started with a different {', '.join(changed)}; "
                            "use --run NEW_NAME or --fresh")
    return saved


def folder_of(name, kind, corpus, config):
    """Return the folder of the run `name`. UserError if a folder cannot have this name, so check it before any work.

    kind, corpus, config: make a name if `name` is None. config: name or path of a settings file.
    """
    if name is None:
        name = f"{kind}-{corpus}-{Path(config).stem.removeprefix(kind + '-')}"
    strange = foreign.printable(name, None) != name or set(name) & set('/\\:*?"<>|')
    if strange or name.startswith(".") or not name.strip() or len(name.encode()) > LONGEST_NAME:
        raise cli.UserError(f"{foreign.printable(name)!r} cannot name a run: give it with --run a name of at most "
                            f"{LONGEST_NAME} bytes, without slashes and the like, that does not begin with a dot")
    if (checkpoint.RUNS / name).is_file():
        raise cli.UserError(f"{checkpoint.RUNS / name} is a file, so no run can have this name: use --run NEW_NAME")
    return checkpoint.RUNS / name


def save_state(folder, state):
    """Write tensors and plain values to train_state.pt."""
    with files.whole_file(Path(folder) / "train_state.pt") as path, open(path, "wb") as file:
        torch.save(state, file)  # given a path instead, PyTorch hides why it could not write


def load_state(folder, parts=()):
    """Return train_state.pt as a dict that contains the dicts `parts`, or None if there is none. See states.py."""
    path = Path(folder) / "train_state.pt"
    if not path.is_file():
        return None
    with states.reading(path):
        return states.load(path, parts)


def read_log(path, needs=("step",)):
    """Return the records of a log.jsonl, oldest first. needs: the names of the numbers that every record must have.

    A last line that is incomplete is left out: the run was killed while it wrote it. UserError if another line is not
    a record.
    """
    records, lines = [], path.read_bytes().split(b"\n") if path.is_file() else [b""]
    for number, line in enumerate(lines if lines[-1].endswith(b"}") else lines[:-1], 1):
        with states.reading(f"line {number} of {path}", "delete this line"):
            records.append(json.loads(line))
            states.check_record(records[-1], needs)
    return records


def provenance(device=None):
    """Return the origin of a number: {command, commit, machine, torch}. It is saved with every trained model."""
    return {"command": cli.command_line(), "commit": files.commit(), "machine": devices.machine(device),
            "torch": torch.__version__}
