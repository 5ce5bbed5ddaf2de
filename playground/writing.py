"""Writing for visitors: the models that they can choose, the texts that they ask for, and turns of one pass."""

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

LONGEST = 512  # the largest number of tokens of a text, and of passes for it
SAMPLERS = {
    "with correction": diffusion.denoise,
    "scattered": functools.partial(diffusion.denoise, correction=0),
    "surest first": functools.partial(diffusion.denoise, select=diffusion.by_confidence, correction=0),
}


# 1. What a visitor asks for


def names(*kinds):
    """Return the names of the models of these kinds. `checkpoint.find`'s choice comes first in each kind."""
    found = []
    for kind in kinds:
        paths = sorted(path for path in files.RUNS.glob("*/model.safetensors") if path.is_file())
        models = [path.parent.name for path in paths if checkpoint.kind_of(path.parent) == kind]
        with contextlib.suppress(cli.UserError):  # of this kind there may be neither a run of yours nor a shipped model
            usual = checkpoint.find("", kind).name
            models.sort(key=lambda name: name != usual)
        found += models
    return [name for name in found if name == cli.printable(name)]  # a page could not show the other names


def opened(name, *kinds):
    """Return (model, tokenizer, info). Raises UserError if `name` is not a whole model of these kinds."""
    if name not in names(*kinds):  # a visitor may send any text, which must not become a path
        raise cli.UserError("this model is not here: choose one from the list, or train one")
    folder = files.RUNS / name
    return loaded(folder, kinds, (folder / "model.safetensors").stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def loaded(folder, kinds, changed):
    """Return what `checkpoint.load` returns: the same objects for all visitors. changed: when the file was written."""
    build = hybrid.Hybrid if checkpoint.kind_of(folder) == "hybrid" else transformer.Transformer
    with ONE_PASS:  # making a model draws random numbers, too
        return checkpoint.load(folder, devices.pick_device("auto"), kinds, build)


def quick(model, name):
    """Return a faster stand-in for the dLLM or GPT `name`: ONNX Runtime, if the model is on a CPU.

    It computes the same numbers, except for rounding. For a model's first text, its ONNX file must first be written.
    """
    if isinstance(model, hybrid.Hybrid) or model.head.weight.device.type != "cpu":
        return model
    return stand_in(model, files.RUNS / name)


@functools.lru_cache(maxsize=8)
def stand_in(model, folder):
    """Return the stand-in of a model: the same object for all visitors."""
    with ONE_PASS:
        return runtimes.choose("onnx", model, folder)


@dataclass
class Options:
    """How to write a text. The fields of the page limit the numbers."""

    sampler: str
    passes: int
    temperature: float
    top_k: int | None  # 0: all tokens
    seed: str  # a number; empty: a random one

    def __post_init__(self):
        self.passes = int(self.passes)
        self.top_k = int(self.top_k) or None
        seed = self.seed or str(random.randrange(10**6))
        if not re.fullmatch("[0-9]{1,18}", seed):
            raise cli.UserError("the seed must be a number of at most 18 digits")
        self.seed = int(seed)

    def facts(self, name):
        """Return a line that describes a text by the model `name`."""
        return f"{name} · seed {self.seed} · temperature {self.temperature:g} · top-k {self.top_k or 'off'}"

    def states(self, model, canvas):
        """Return the States in which the model fills the masks of canvas (B, T), an iterator."""
        if isinstance(model, hybrid.Hybrid):
            return hybrid.stream(model, canvas, self.temperature, self.top_k)
        if model.config.causal:
            return gpt.stream(model, canvas, self.temperature, self.top_k)
        sampler = SAMPLERS[self.sampler]
        return generation.generate(model, canvas, self.passes, self.temperature, self.top_k, sampler)


def prompt_canvas(prompt, length, model, tokenizer):
    """Return a prompt and then masks, (1, length). Without a prompt, a causal model gets a token that begins a text."""
    if not prompt and model.config.causal:
        prompt = tokenizer.decode([gpt.opening(tokenizer)])
    tokens = generation.from_prompt(prompt, int(length), tokenizer)
    return torch.tensor([tokens], device=model.head.weight.device)


def infill_canvas(words, ways, model, tokenizer):
    """Return `ways` copies of a text with blanks: (ways, T). Raises UserError if the text is too long."""
    tokens = generation.from_infill(words, tokenizer)
    if len(tokens) > LONGEST:
        raise cli.UserError(f"the text has {len(tokens):,} tokens, and {LONGEST} are allowed")
    return torch.tensor([tokens] * ways, device=model.head.weight.device)


# 2. One pass at a time

ONE_PASS = threading.Lock()


def in_turn(states, seed):
    """Yield (State, seconds of its pass) of a sampler whose random numbers begin with `seed`.

    Several visitors write at once, but only one pass is computed at a time. Samplers draw from PyTorch's global random
    numbers. So each pass first restores the state of these numbers that the last pass of the same text has left, and a
    seed always gives the same text, whatever other visitors do.
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
    """Texts while they are written.

    canvas: (B, T), with which the sampler begins. labels: a name for each of the B texts. facts: a line about the
    texts. columns: a slice, the columns of the canvas that are recorded. states: the State before the first pass and
    after each pass. written_in: (B, T), the pass that wrote each token. seconds: the time that the model has taken.
    remark: what else to say below the texts.
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
        """How fast the model has written, as text."""
        written = (self.states[-1].canvas != self.canvas).sum().item()
        return f"{written / max(self.seconds, 1e-9):,.0f} {self.tokenizer.unit}s/s"

    @property
    def texts(self):
        return [self.tokenizer.decode(row) for row in self.states[-1].canvas]

    def record(self, states, seed):
        """Let a sampler write. Yields after each of its passes."""
        for state, seconds in in_turn(states, seed):
            parts = (state.canvas, state.confidence, state.committed)
            state = diffusion.State(*[part[:, self.columns].cpu() for part in parts])
            self.states.append(state)
            self.written_in[state.committed] = self.passes
            self.seconds += seconds
            yield


def take_turns(writers):
    """Let several samplers write in turn. Yields after each pass. writers: {Recording: what its `record` returns}.

    The next pass is always that of the sampler that has used the least time so far. So at any moment all samplers have
    used about the same time, and each had the machine to itself during its passes.
    """
    while writers:
        recording = min(writers, key=lambda recording: recording.seconds)
        if next(writers[recording], "finished") == "finished":
            del writers[recording]
        yield


def known_words(sample, info):
    """Return the share of known words in `sample`, as text; "" if the model's training text is not here."""
    path = files.DATA / "tinyshakespeare.txt"
    corpus = text.Corpus("", files.read_text(path) if path.is_file() else "")
    if corpus.sha256 != info.get("corpus_sha256"):
        return ""
    whole_words = re.sub(r"\S+$", "", sample)  # the last word may be cut off
    return f" · {measures.known_words([whole_words], set(measures.words_of(corpus.text))):.0%} known words"
