"""A training run: its steps, its folder, and how it resumes after it was stopped.

    checkpoints/NAME/model.safetensors, config.json    the best weights so far
    checkpoints/NAME/log.jsonl                         one line per evaluation
    checkpoints/NAME/state.pt                          everything needed to resume
"""

import json
import math
import signal
import time
from contextlib import contextmanager

from plumbing import checkpoint, cli, devices, files
from plumbing.cli import UserError

import torch
from filelock import FileLock, Timeout
from tqdm import tqdm


def origin(device):
    """Return {command, commit, machine, torch}, which is saved with every model to say how the model was made."""
    return {"command": cli.command_line(), "commit": files.commit(), "machine": devices.machine(device),
            "torch": torch.__version__}


def read_log(folder):
    """Return the log of the run in `folder`: a list with one dict per evaluation. A damaged log raises UserError."""
    lines = files.read_text(folder / "log.jsonl", limit=1 << 24).splitlines()
    try:
        return check_log([json.loads(line) for line in lines])
    except Exception:  # damaged lines raise many kinds of errors
        raise UserError(f"{folder / 'log.jsonl'} is damaged, or has no evaluation") from None


def check_log(records):
    """Return the list `records` if it is a valid log with at least one record. Otherwise raise an exception."""
    measure = "NLL" if "NLL" in records[0] else "NELBO"
    for record in records:
        if not math.isfinite(sum(record.values()) + record["step"] + record["seconds"] + record[measure]):
            raise ValueError("a number is not finite")
    return records


def of_optimizer(optimizer, saved):
    """Return a state for `optimizer.load_state_dict`: the saved tensors with the optimizer's current options.

    Raises an exception if the saved tensors don't have the names and shapes that the optimizer needs.
    """
    names = ("exp_avg", "exp_avg_sq", "step") if isinstance(optimizer, torch.optim.AdamW) else ("momentum",)
    parameters = optimizer.param_groups[0]["params"]
    state = {}
    for i, values in saved["state"].items():
        shapes = {name: () if name == "step" else parameters[i].shape for name in names}
        state[i] = {name: torch.empty(shape).copy_(values[name]) for name, shape in shapes.items()}
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


class Run:
    """One training run. Use it as `with Run(…) as run`.

    `name` is the name of the run's folder. If `name` is None, nothing is written or printed; this is for a short
    training inside another program. `config` has the fields steps, minutes, evaluations and seed. The run ends when the
    steps or the minutes of training are over, whichever comes first; 0 minutes means no time limit.

    `settings` is a dict {name: value}. Only the settings in MAY_CHANGE can change when a run is resumed. `info` is a
    dict to save with the model. If `fresh` is true, the run starts again from its first step.
    """

    MAY_CHANGE = {"steps", "minutes", "evaluations", "evaluate_windows", "compile"}
    NUMBERS = ("step", "seconds", "best", "log", "loss", "reported")  # saved together with models and optimizers

    def __init__(self, name, config, settings=(), info=(), fresh=False):
        self.name = name
        self.settings = dict(settings)
        self.info = dict(info)
        self.is_saved = name is not None
        self.limit_steps, self.limit_seconds = config.steps, 60 * config.minutes
        self.evaluations, self.seed = config.evaluations, config.seed
        self.step = 0
        self.seconds = 0.0  # seconds of training; evaluations do not count
        self.paused = 0.0  # seconds that all evaluations took
        self.last_pause = 0.0  # seconds that the last evaluation took
        self.progress = 0.0  # the share of the run that is done, from 0 to 1
        self.loss = 0.0  # the loss of a recent step
        self.log = []  # one record per evaluation
        self.best = math.inf  # the best (lowest) result of all evaluations
        self.reported = False  # whether the final result of the run is saved
        self.stopped = False  # whether Ctrl-C was pressed
        self.saved = None
        if self.is_saved:
            self.folder = files.RUNS / name
            self.claim()
            try:
                self.saved = None if fresh else self.load_state()
            except BaseException:
                self.lock.release()
                raise

    def claim(self):
        """Lock the run's folder. Raises UserError if the name is not valid, or if another program trains this run."""
        name = self.name
        strange = cli.printable(name) != name or set(name) & set('/\\:*?"<>|') or name.startswith(".")
        if strange or not name.strip() or len(name.encode()) > 200:
            raise UserError(f"{name!r} cannot name a run: give it another name with --run")
        self.folder.mkdir(parents=True, exist_ok=True)
        self.lock = FileLock(self.folder / ".lock", blocking=False)
        try:
            self.lock.acquire()
        except Timeout:
            raise UserError(f"another program trains the run {name}: wait for it, or use --run NEW_NAME") from None

    def __enter__(self):
        return self

    def __exit__(self, *error):
        """Unlock the folder, so that other programs can train this run."""
        if self.is_saved:
            self.lock.release()

    # Resuming

    def load_state(self):
        """Return the saved state, or None if no state was saved. No code from the file is executed."""
        path = self.folder / "state.pt"
        if not path.is_file():
            if (self.folder / "model.safetensors").is_file():
                raise UserError(f"{self.folder} holds a finished model: use --run NEW_NAME, or --fresh to replace it")
            return None
        with self.reading_state():
            saved = checkpoint.read_tensors(path)
            old = dict(saved["settings"])
            changed = [name for name, value in self.settings.items() if old.get(name) != value]
        changed = [name for name in changed if name not in self.MAY_CHANGE]
        if changed:
            raise UserError(f"the run {self.name} was started with another {', '.join(changed)}: "
                            "use --run NEW_NAME, or --fresh to start this run again")
        return saved

    @contextmanager
    def reading_state(self):
        """Turn every exception in a `with` block into a UserError. A damaged file can raise almost any exception."""
        try:
            yield
        except Exception:
            path = self.folder / "state.pt"
            raise UserError(f"{path} is damaged: use --fresh to start this run again") from None

    def resume(self, **parts):
        """Load the saved state into `parts`, a dict {name: model or optimizer}. `save_state` saves these parts."""
        self.parts = parts
        if self.saved is None:
            return
        with self.reading_state():
            for name, part in parts.items():
                saved = self.saved[name]
                part.load_state_dict(of_optimizer(part, saved) if isinstance(part, torch.optim.Optimizer) else saved)
            for name in self.NUMBERS:
                kind = type(getattr(self, name))
                setattr(self, name, kind(self.saved[name]))
            if not (0 <= self.step < 1e12 and 0 <= self.seconds < 1e12):
                raise ValueError("its numbers make no sense")
            if self.log:
                check_log(self.log)
            self.progress = self.progress_now()
        self.saved = None
        self.reported = self.reported and self.is_over()
        if self.reported:
            print("this run is finished: a larger --steps or --minutes continues it, --fresh starts it again")
        else:
            print(f"resuming from step {self.step}")

    def save_state(self):
        """Write everything that is needed to resume."""
        if not self.is_saved:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {name: getattr(self, name) for name in ("settings", *self.NUMBERS)}
        with files.whole_file(self.folder / "state.pt") as path, open(path, "wb") as file:
            torch.save(state, file)  # a path instead of a file would hide the cause of an error
        with files.whole_file(self.folder / "log.jsonl") as path:
            path.write_text("".join(json.dumps(record) + "\n" for record in self.log), encoding="utf-8")

    # Running

    def steps(self):
        """Yield the number of each step until the run ends. After Ctrl-C, the run stops after the current step."""
        before = signal.signal(signal.SIGINT, self.stop)
        torch.set_flush_denormal(True)  # numbers below 1e-38 become 0, because CPUs are slow with such numbers
        self.began = time.monotonic() - self.seconds
        self.bar = tqdm(initial=self.step, unit="step", mininterval=1, dynamic_ncols=True, disable=not self.is_saved)
        try:
            while True:
                self.seconds = time.monotonic() - self.began
                self.progress = self.progress_now()
                if self.is_over() or self.must_stop():
                    break
                self.seed_step()
                yield self.step
                self.step += 1
                self.bar.update()
        finally:
            self.bar.close()
            torch.set_flush_denormal(False)
            signal.signal(signal.SIGINT, before)
        if not self.is_over() and self.is_saved:
            self.save_state()
            print(f"saved at step {self.step}; the same command resumes")

    def seed_step(self):
        """Seed the random numbers by the number of the step, so that resuming a run does not change them."""
        torch.manual_seed(self.seed * 1_000_003 + self.step)

    def progress_now(self):
        return self.share(self.step, self.seconds)

    def share(self, step, seconds):
        """Return the share of the run that is done: the share of its steps or of its time, whichever is larger."""
        by_steps = step / self.limit_steps
        return max(by_steps, seconds / self.limit_seconds) if self.limit_seconds else by_steps

    def is_over(self):
        return self.progress >= 1

    def must_stop(self):
        return self.stopped

    def stop(self, *_):
        """Ask the run to end after its current step. A second Ctrl-C ends the program at once."""
        self.stopped = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def show(self, loss):
        """Show the loss beside the progress bar, but only every 20 steps, because reading the loss takes time."""
        if self.step % 20 == 0:
            self.loss = loss.item()
            self.check_finite(self.loss)
            self.bar.set_postfix_str(f"{self.progress:.0%} of the run, loss {self.loss:.3f}")

    def check_finite(self, number):
        """Raise UserError if a loss is infinite or NaN."""
        if not math.isfinite(number):
            raise UserError(f"the loss is not finite at step {self.step}: lower --lr-matrix or --lr-other")

    # Evaluating

    def is_due(self):
        """Return whether an evaluation is due. The first one is before the first step; the others are spread evenly.

        If the run has a time limit and evaluations take more than a twentieth of the time, some evaluations are left
        out, but never the last one.
        """
        if not self.evaluations:
            return False
        if not self.log:
            return True
        if self.limit_seconds and not self.is_over() and self.paused + self.last_pause > 0.05 * self.seconds:
            return False
        last = self.share(self.log[-1]["step"], self.log[-1]["seconds"])  # computed again: the run may be longer now
        number = math.floor(last * self.evaluations + 1e-9) + 1
        return self.progress * self.evaluations + 1e-9 >= number

    @contextmanager
    def pause(self):
        """Stop the training clock during a `with` block. The block does not affect the random numbers of training."""
        began = time.monotonic()
        yield
        self.seed_step()
        self.last_pause = time.monotonic() - began
        self.paused += self.last_pause
        self.began += self.last_pause

    def is_best(self, number):
        """Return whether `number` is the best result of all evaluations so far. Lower is better."""
        self.check_finite(number)
        is_best = number < self.best
        self.best = min(self.best, number)
        return is_best

    def save_model(self, model, tokenizer, numbers):
        if self.is_saved:
            about = {"step": self.step, "seconds": round(self.seconds, 1)}
            checkpoint.save(self.folder, model, tokenizer, self.info | about | numbers)

    def record(self, numbers, text):
        """Add the numbers of an evaluation to the log, and save the state. Print the numbers, and a sample of text."""
        self.log.append({"step": self.step, "seconds": round(self.seconds, 1), "loss": self.loss} | numbers)
        self.save_state()
        if self.is_saved:
            shown = "   ".join(f"{name} {value:.4g}" for name, value in self.log[-1].items())
            self.bar.write(f"\n{shown}\n{cli.printable(text, keep=chr(10))}\n")

    def end(self):
        """Mark the run as finished. Call this after the final result is saved with the model."""
        self.reported = True
        self.save_state()
