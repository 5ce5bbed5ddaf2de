"""Write texts for visitors: the models to choose from, the options for a text, and texts that take turns."""

import contextlib
import functools
import random
import re
import threading
import time
from dataclasses import dataclass
from importlib import import_module

from plumbing import checkpoint, cli, devices, files, measures, runtimes, text

import torch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
hybrid = import_module("13_block_diffusion")

LONGEST = 512  # the largest number of tokens in a text, and the largest number of passes
SAMPLERS = {
    "with correction": diffusion.denoise,
    "scattered": functools.partial(diffusion.denoise, correction=0),
    "surest first": functools.partial(diffusion.denoise, select=diffusion.by_confidence, correction=0),
}


# 1. Models and options


def names(*kinds):
    """Return the names of all models of these kinds. Within each kind, the default of `checkpoint.find` comes first."""
    found = []
    for kind in kinds:
        paths = sorted(path for path in files.RUNS.glob("*/model.safetensors") if path.is_file())
        models = [path.parent.name for path in paths if checkpoint.kind_of(path.parent) == kind]
        with contextlib.suppress(cli.UserError):  # there may be no model of this kind
            usual = checkpoint.find("", kind).name
            models.sort(key=lambda name: name != usual)
        found += models
    return [name for name in found if name == cli.printable(name)]  # a page could not show the other names


def opened(name, *kinds):
    """Return (model, tokenizer, info). Raises UserError if no model of these kinds has this name."""
    if name not in names(*kinds):  # a visitor can send any text, which must not become a path
        raise cli.UserError("this model is not here: choose one from the list, or train one")
    folder = files.RUNS / name
    return loaded(folder, kinds, (folder / "model.safetensors").stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def loaded(folder, kinds, changed):
    """Load a model once for all visitors. Load it again after its file has changed.

    `changed` is the time of the file's last change.
    """
    build = hybrid.Hybrid if checkpoint.kind_of(folder) == "hybrid" else transformer.Transformer
    with ONE_PASS:  # making a model also draws random numbers
        return checkpoint.load(folder, devices.pick_device("auto"), kinds, build)


def quick(model, name):
    """Return a fast copy of a model. The copy uses ONNX Runtime. Hybrids and models on a GPU stay as they are.

    The fast copy computes the same numbers, except for rounding. The first call for a model writes its ONNX file.
    """
    if isinstance(model, hybrid.Hybrid) or model.head.weight.device.type != "cpu":
        return model
    return stand_in(model, files.RUNS / name)


@functools.lru_cache(maxsize=8)
def stand_in(model, folder):
    """Return the fast copy of a model. All visitors share this copy."""
    with ONE_PASS:
        return runtimes.choose("onnx", model, folder)


@dataclass
class Options:
    """How to write a text. The input fields of the page limit the numbers to a valid range."""

    sampler: str
    passes: int
    temperature: float
    top_k: int | None  # 0: all tokens
    seed: str  # a number; empty: a random number

    def __post_init__(self):
        self.passes = int(self.passes)
        self.top_k = int(self.top_k) or None
        seed = self.seed or str(random.randrange(10**6))
        if not re.fullmatch("[0-9]{1,18}", seed):
            raise cli.UserError("the seed must be a number of at most 18 digits")
        self.seed = int(seed)

    def facts(self, name):
        """Return a line with the model's name and the options, to show below a text."""
        return f"{name} · seed {self.seed} · temperature {self.temperature:g} · top-k {self.top_k or 'off'}"

    def states(self, model, canvas):
        """Return an iterator of the States of `model` while it fills the masks of `canvas` (B, T)."""
        if isinstance(model, hybrid.Hybrid):
            return hybrid.stream(model, canvas, self.temperature, self.top_k)
        if model.config.causal:
            return gpt.stream(model, canvas, self.temperature, self.top_k)
        sampler = SAMPLERS[self.sampler]
        return generation.generate(model, canvas, self.passes, self.temperature, self.top_k, sampler)


def prompt_canvas(prompt, length, model, tokenizer):
    """Return a canvas (1, length): the prompt, then masks. Without a prompt, a causal model gets a first token."""
    if not prompt and model.config.causal:
        prompt = tokenizer.decode([gpt.opening(tokenizer)])
    tokens = generation.from_prompt(prompt, int(length), tokenizer)
    return torch.tensor([tokens], device=model.head.weight.device)


def infill_canvas(words, ways, model, tokenizer):
    """Return a canvas (ways, T): a text with blanks, copied `ways` times. Raises UserError if the text is too long."""
    tokens = generation.from_infill(words, tokenizer)
    if len(tokens) > LONGEST:
        raise cli.UserError(f"the text has {len(tokens):,} tokens, and {LONGEST} are allowed")
    return torch.tensor([tokens] * ways, device=model.head.weight.device)


# 2. One pass at a time

ONE_PASS = threading.Lock()


def in_turn(states, seed):
    """Yield (State, seconds) for each pass. `states` is the sampler, and `seed` is the seed of its random numbers.

    Texts of several visitors are written at the same time, but only one pass is computed at a time. All samplers share
    PyTorch's random number generator. So after each pass, we save the state of the generator, and we restore this state
    before the next pass of the same text. In this way, a seed always gives the same text, whatever other visitors do.
    """
    device = devices.pick_device("auto")
    sources = [torch] if device.type == "cpu" else [torch, torch.get_device_module(device)]
    numbers = None
    while True:
        with ONE_PASS:
            if numbers is None:
                torch.manual_seed(seed)
            else:
                for source, state in zip(sources, numbers):
                    source.set_rng_state(state)
            began = time.perf_counter()
            state = next(states, None)
            seconds = time.perf_counter() - began
            numbers = [source.get_rng_state() for source in sources]
        if state is None:
            return
        yield state, seconds


class Recording:
    """Records texts while a sampler writes them.

    `canvas` (B, T) is the canvas with which the sampler begins. `labels` has a name for each of the B texts. `facts` is
    a line about the texts. `columns` is a slice: only these columns of the canvas are recorded.

    `states` holds the State before the first pass and the State after each pass. `written_in` (B, T) says which pass
    wrote each token. `seconds` is the time that all passes took. `remark` is more text to show below the texts.
    """

    def __init__(self, canvas, tokenizer, labels, facts, columns=slice(None)):
        self.tokenizer, self.labels, self.facts, self.columns = tokenizer, labels, facts, columns
        self.canvas = canvas[:, columns].cpu()
        self.given = self.canvas != tokenizer.mask_id
        self.shown = [cli.printable(letters, keep="\n") for letters in tokenizer.shown]
        self.states = [diffusion.State(self.canvas, self.given.float(), torch.zeros_like(self.given))]
        self.written_in = torch.zeros_like(self.canvas)
        self.seconds = 0.0
        self.remark = ""

    @property
    def passes(self):
        return len(self.states) - 1

    @property
    def speed(self):
        """The speed of the model as a string, such as "90 characters/s"."""
        written = (self.states[-1].canvas != self.canvas).sum().item()
        return f"{written / max(self.seconds, 1e-9):,.0f} {self.tokenizer.unit}s/s"

    @property
    def texts(self):
        return [self.tokenizer.decode(row) for row in self.states[-1].canvas]

    def record(self, states, seed):
        """Record what a sampler writes. Yields after each pass."""
        for state, seconds in in_turn(states, seed):
            parts = (state.canvas, state.confidence, state.committed)
            state = diffusion.State(*[part[:, self.columns].cpu() for part in parts])
            self.states.append(state)
            self.written_in[state.committed] = self.passes
            self.seconds += seconds
            yield


def take_turns(writers):
    """Let several samplers take turns, and yield after each pass. `writers` is a dict {Recording: result of `record`}.

    The next pass always goes to the sampler that has used the least time so far. So at any moment, all samplers have
    used about the same time. During its pass, each sampler has the machine to itself.
    """
    while writers:
        recording = min(writers, key=lambda recording: recording.seconds)
        if next(writers[recording], "finished") == "finished":
            del writers[recording]
        yield


def known_words(sample, info):
    """Return a string: the share of known words in `sample`, or "" if the training text is not on this machine."""
    path = files.DATA / "tinyshakespeare.txt"
    corpus = text.Corpus("", files.read_text(path) if path.is_file() else "")
    if corpus.sha256 != info.get("corpus_sha256"):
        return ""
    whole_words = re.sub(r"\S+$", "", sample)  # the last word can be cut off
    return f" · {measures.known_words([whole_words], set(measures.words_of(corpus.text))):.0%} known words"
