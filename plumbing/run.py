"""A training run: its steps, its folder, and how it resumes after Ctrl-C or a kill.

    checkpoints/NAME/model.safetensors, config.json    the best weights so far
    checkpoints/NAME/log.jsonl                         a line per evaluation
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
    """Return where a number comes from: {command, commit, machine, torch}. It is saved with every model."""
    return {"command": cli.command_line(), "commit": files.commit(), "machine": devices.machine(device),
            "torch": torch.__version__}


def read_log(folder):
    """Return the log of the run in `folder`, a list with a dict per evaluation. Raises UserError if it is damaged."""
    lines = files.read_text(folder / "log.jsonl", limit=1 << 24).splitlines()
    try:
        return check_log([json.loads(line) for line in lines])
    except Exception:  # damaged lines raise many kinds of errors
        raise UserError(f"{folder / 'log.jsonl'} is damaged, or has no evaluation") from None


def check_log(records):
    """Return the records of a log. Raises some error if it is empty, a step is missing, or a value is no number."""
    measure = "NLL" if "NLL" in records[0] else "NELBO"
    for record in records:
        if not math.isfinite(sum(record.values()) + record["step"] + record["seconds"] + record[measure]):
            raise ValueError("a number is not finite")
    return records


def of_optimizer(optimizer, saved):
    """Return a saved state for load_state_dict: the saved numbers, and the optimizer's own options.

    Raises some error if the saved numbers don't have the names and shapes that the optimizer needs.
    """
    names = ("exp_avg", "exp_avg_sq", "step") if isinstance(optimizer, torch.optim.AdamW) else ("momentum",)
    parameters = optimizer.param_groups[0]["params"]
    state = {}
    for i, values in saved["state"].items():
        shapes = {name: () if name == "step" else parameters[i].shape for name in names}
        state[i] = {name: torch.empty(shape).copy_(values[name]) for name, shape in shapes.items()}
    return {"state": state, "param_groups": optimizer.state_dict()["param_groups"]}


class Run:
    """One run, to be used as `with Run(…) as run`.

    It ends after `steps` steps or after `minutes` of training, whichever comes first; 0 minutes: no limit of time.
    name: the name of its folder; None: nothing is written or printed (for a short training inside another program).
    config: has the fields steps, minutes, evaluations and seed. settings: {name: value}; a resumed run must have the
    same values, except for the settings in MAY_CHANGE. info: what to save with the model. fresh: forget what an earlier
    run with this name has saved.
    """

    MAY_CHANGE = {"steps", "minutes", "evaluations", "evaluate_windows", "compile"}
    NUMBERS = ("step", "seconds", "best", "log", "loss", "reported")  # saved in addition to models and optimizers

    def __init__(self, name, config, settings=(), info=(), fresh=False):
        self.name = name
        self.settings = dict(settings)
        self.info = dict(info)
        self.is_saved = name is not None
        self.limit_steps, self.limit_seconds = config.steps, 60 * config.minutes
        self.evaluations, self.seed = config.evaluations, config.seed
        self.step = 0
        self.seconds = 0.0  # seconds of training; evaluations do not count
        self.paused = 0.0  # seconds of all evaluations
        self.last_pause = 0.0  # seconds of the last evaluation
        self.progress = 0.0  # the share of the run that is done, from 0 to 1
        self.loss = 0.0  # the loss of a recent step
        self.log = []  # one record per evaluation
        self.best = math.inf  # the best (lowest) result of all evaluations
        self.reported = False  # whether the run's final number has been measured
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
        """Lock the folder. Raises UserError if no folder can have this name, or if another program trains this run."""
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
        """Let other programs train this run."""
        if self.is_saved:
            self.lock.release()

    # Resuming

    def load_state(self):
        """Return the saved state, or None if there is none. Nothing in the file is executed."""
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
        """Turn any error into a UserError, because damaged bytes raise many kinds of errors."""
        try:
            yield
        except Exception:
            path = self.folder / "state.pt"
            raise UserError(f"{path} is damaged: use --fresh to start this run again") from None

    def resume(self, **parts):
        """Resume from the saved state, if there is one. parts: {name: model or optimizer}; save_state writes them."""
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
            torch.save(state, file)  # given a path instead, PyTorch hides why it could not write
        with files.whole_file(self.folder / "log.jsonl") as path:
            path.write_text("".join(json.dumps(record) + "\n" for record in self.log), encoding="utf-8")

    # Running

    def steps(self):
        """Yield the number of each step until the run ends. Ctrl-C ends the run after the current step and saves it."""
        before = signal.signal(signal.SIGINT, self.stop)
        torch.set_flush_denormal(True)  # numbers below 1e-38 become 0, because CPUs compute with them very slowly
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
        """Make this step's random numbers depend on no earlier step, so that a resumed run draws the same numbers."""
        torch.manual_seed(self.seed * 1_000_003 + self.step)

    def progress_now(self):
        return self.share(self.step, self.seconds)

    def share(self, step, seconds):
        """Return the share of the run that is done: by steps or by time, whichever share is larger."""
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
        """Show the loss beside the progress bar, but only now and then, because reading it waits for the device."""
        if self.step % 20 == 0:
            self.loss = loss.item()
            self.check_finite(self.loss)
            self.bar.set_postfix_str(f"{self.progress:.0%} of the run, loss {self.loss:.3f}")

    def check_finite(self, number):
        """Raise UserError if a number is infinite or NaN, before it is saved."""
        if not math.isfinite(number):
            raise UserError(f"the loss is not finite at step {self.step}: lower --lr-matrix or --lr-other")

    # Evaluating

    def is_due(self):
        """Return whether it is time for an evaluation: before the first step, and then at equal shares of the run.

        If the time is limited and evaluations would take more than a twentieth of it, some are left out, but never the
        last one.
        """
        if not self.evaluations:
            return False
        if not self.log:
            return True
        if self.limit_seconds and not self.is_over() and self.paused + self.last_pause > 0.05 * self.seconds:
            return False
        last = self.share(self.log[-1]["step"], self.log[-1]["seconds"])  # anew: the run may have become longer
        number = math.floor(last * self.evaluations + 1e-9) + 1
        return self.progress * self.evaluations + 1e-9 >= number

    @contextmanager
    def pause(self):
        """Stop the training clock for a `with` block, and leave the training's random numbers as they were."""
        began = time.monotonic()
        yield
        self.seed_step()
        self.last_pause = time.monotonic() - began
        self.paused += self.last_pause
        self.began += self.last_pause

    def is_best(self, number):
        """Return whether an evaluation is the best one so far (lower is better). If so, remember it."""
        self.check_finite(number)
        is_best = number < self.best
        self.best = min(self.best, number)
        return is_best

    def save_model(self, model, tokenizer, numbers):
        if self.is_saved:
            about = {"step": self.step, "seconds": round(self.seconds, 1)}
            checkpoint.save(self.folder, model, tokenizer, self.info | about | numbers)

    def record(self, numbers, text):
        """Add an evaluation to the log and save the state. Print the numbers, and a text that the model wrote."""
        self.log.append({"step": self.step, "seconds": round(self.seconds, 1), "loss": self.loss} | numbers)
        self.save_state()
        if self.is_saved:
            shown = "   ".join(f"{name} {value:.4g}" for name, value in self.log[-1].items())
            self.bar.write(f"\n{shown}\n{cli.printable(text, keep=chr(10))}\n")

    def end(self):
        """Note that the final number is saved with the model, so nothing is left to do."""
        self.reported = True
        self.save_state()
