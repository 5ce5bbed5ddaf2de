"""Chapter 06: how do masks become text, and what does that look like?

    python 06_generate.py                                        # your latest run; if you have none, the shipped model
    python 06_generate.py --prompt "ROMEO:" --steps 128 --topk 5
    python 06_generate.py --infill "To be, or not to be, ____ is the question"
    python 06_generate.py --num 2 --seed 1 --gif out.gif --html out.html
    python 06_generate.py --fast                                 # a third of the passes
    python 06_generate.py --runtime onnx-int8                    # the same passes in less time, without a GPU
    python 06_generate.py --hub                                  # the published model, from the Hugging Face Hub

On two CPU cores, the model writes a text in a few seconds. In a terminal, masks are grey blocks. For the first half of
the passes, the model writes characters at random places, and the newest ones are highlighted. Then it goes back over
the characters that it doubts. If a text is longer than the model's window, it is written window by window. With --html,
you get a web page with a slider that shows the text after any pass.

This is how a text moves through the program: `main` loads a model, by default your latest run in checkpoints/. Section
1 makes a canvas (B, T), which holds the tokens of the prompt and then masks. `generate` (section 2) cuts the canvas
into windows, and chapter 04's `denoise` fills each window. After each pass, `generate` yields a State of the canvas.
`watch` (section 3) shows every State in a terminal, in a GIF or on a web page.

To change one thing: pass another sampler to `generate` in `main`. For example,
denoise=functools.partial(diffusion.denoise, select=diffusion.by_confidence) uses another selection rule of chapter 04.
"""

import math
import random
import re
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Literal

from plumbing import checkpoint, cli, devices, hub, runtimes, views

import torch

diffusion = import_module("04_diffusion")

MAX_LENGTH = 100_000  # length of the longest canvas; a typing error such as {1000000} must not fill the memory
MAX_DRAWN = 20_000_000  # largest number of tokens in all frames of an animation together


# 1. The canvas: a prompt and a blank differ only in which positions are masked


def from_prompt(prompt, length, tokenizer):
    """Return a list of `length` tokens: the tokens of `prompt`, and then masks."""
    tokens = tokenizer.encode(prompt)
    if len(tokens) >= length:
        raise cli.UserError(f"the prompt fills {len(tokens)} of {length} places: raise --len")
    return tokens + [tokenizer.mask_id] * (length - len(tokens))


def from_infill(text, tokenizer):
    """Return the tokens of `text` as a list. In `text`, _ stands for one mask, and {20} for twenty masks."""
    tokens = []
    for part in re.split(r"(_|\{[0-9]{1,9}\})", text):
        if part == "_":
            tokens.append(tokenizer.mask_id)
        elif re.fullmatch(r"\{[0-9]{1,9}\}", part):
            tokens += [tokenizer.mask_id] * min(int(part[1:-1]), MAX_LENGTH + 1)
        else:
            tokens += tokenizer.encode(part)
        if len(tokens) > MAX_LENGTH:
            raise cli.UserError(f"--infill is longer than {MAX_LENGTH:,} positions: shorten its blanks")
    if tokenizer.mask_id not in tokens:
        raise cli.UserError("--infill has no blank: write _ for one character, or {20} for twenty")
    return tokens


# 2. Texts of any length, window by window


def plan_windows(masked, size, steps):
    """Return the windows that cover all masks: a list of (left, right, passes), from left to right.

    `masked` (B, T) is True at every mask. A window has at most `size` positions. From the second window on, the first
    quarter of a window overlaps the window before it, so that the model can continue the text. The last window is moved
    to the left until it has `size` positions. If the whole canvas fits into one window, this window gets `steps`
    passes. On a longer canvas, a window gets passes in proportion to the new masks that it covers: `size` masks get
    `steps` passes.

    For example, let `size` be 128, let `steps` be 96, and let a canvas consist of 256 masks. The windows are [0, 128),
    [96, 224) and [128, 256). They cover 128, 96 and 32 new masks, and get 96, 72 and 24 passes.
    """
    length = masked.shape[1]
    windows = []
    done = 0  # all positions before this one are planned
    while done < length:
        left = max(0, min(done - size // 4, length - size))
        right = min(left + size, length)
        masks = int(masked[:, done:right].sum(1).max())
        passes = steps
        if length > size:
            passes = math.ceil(steps * masks / size)
        if masks:
            windows.append((left, right, passes))
        done = right
    return windows


def generate(model, canvas, steps, temperature=1.0, top_k=None, denoise=diffusion.denoise):
    """Fill the masks of `canvas` (B, T), window by window. Yields a State of the whole canvas after each pass.

    `denoise` is the sampler of chapter 04, or another sampler that takes the same arguments.
    """
    rows = len(canvas)
    length = min(canvas.shape[1], model.config.seq_len)
    devices.check_memory(canvas.device, 8 * rows * length * model.config.vocab_size,  # logits and probabilities
                         f"writing {rows:,} texts at once", "lower --num or --len")
    masked = canvas == model.config.mask_id
    confidence = (~masked).float()
    for left, right, passes in plan_windows(masked, model.config.seq_len, steps):
        window = canvas[:, left:right]
        blank = window == model.config.mask_id
        for state in denoise(model, window, passes, temperature, top_k):
            # In this window, tokens from earlier windows count as given, and keep their confidence.
            sure = torch.where(blank, state.confidence, confidence[:, left:right])
            canvas = canvas.slice_scatter(state.canvas, 1, left, right)
            confidence = confidence.slice_scatter(sure, 1, left, right)
            committed = torch.zeros_like(masked).slice_scatter(state.committed, 1, left, right)
            yield diffusion.State(canvas, confidence, committed)


# 3. Watching


def watch(states, canvas, tokenizer, settings, title):
    """Show the States of a sampler in a terminal, in a GIF or on a web page. Returns the last State.

    `settings` say which of the three viewers are used. If none of these viewers leaves the texts on the screen, the
    texts are printed at the end. `canvas` (B, T) is the canvas with which the sampler begins. The viewers show `title`,
    a line about the run.
    """
    canvas = canvas.cpu()
    viewers = []
    if settings.gif:
        viewers.append(views.Gif(settings.gif, canvas, tokenizer.shown))
    if settings.html:
        viewers.append(views.Page(settings.html, canvas, tokenizer.shown, title))
    if not settings.quiet:
        viewers.append(views.live(canvas, tokenizer.shown, title))

    for state in states:
        state = replace(state, **{name: tensor.cpu() for name, tensor in vars(state).items()})
        for viewer in viewers:
            viewer.show(state)
    for viewer in reversed(viewers):  # the terminal closes before the paths of files are printed
        path = viewer.close()
        if path and not settings.quiet:
            print(f"wrote {path}")

    if not any(viewer.leaves_text for viewer in viewers):
        print_texts(state.canvas, tokenizer, settings.quiet)
    return state


def print_texts(canvas, tokenizer, quiet):
    """Print each row of `canvas` (B, T) as a text. If `quiet` is true, leave out the headings."""
    for number, row in enumerate(canvas, 1):
        if len(canvas) > 1 and not quiet:
            print(f"--- sample {number} of {len(canvas)} ---")
        elif number > 1:
            print()
        print(cli.printable(tokenizer.decode(row), keep="\n\t").strip("\n"))


# 4. The command line


@dataclass(frozen=True)
class Writing:
    """The flags of chapters 06, 09 and 11, which all write with a dLLM."""

    checkpoint: str = ""  # name or folder of a run; by default your latest run, or the shipped model
    prompt: str = ""  # how the text begins; \n is a line break
    infill: str = ""  # a text with blanks to fill: _ is one token, {20} is twenty
    len: int | None = None  # number of tokens, including the prompt; by default 256, or 200 for Tamil
    num: int = 1  # number of samples, made in one batch
    steps: int | None = None  # passes per window; the second half corrects; a window with few masks gets fewer
    temp: float | None = None  # temperature; 0 always takes the most likely token, 1 leaves the model as it is
    topk: int | None = None  # draw only among this many of the most likely tokens; by default among all
    seed: int | None = None  # the same seed writes the same text; by default a random seed
    device: str = "auto"  # cpu, cuda, mps or auto
    quiet: bool = False  # print the text and nothing else
    gif: Path | None = None  # save the run as an animation: a path that ends in .gif
    html: Path | None = None  # save the run as a web page with a player: a path that ends in .html

    def __post_init__(self):
        check_ranges(self)
        if self.infill and (self.prompt or self.len is not None):
            raise ValueError("infill already gives the whole text: leave out prompt and len")


RANGES = {"len": (1, MAX_LENGTH), "num": (1, 256), "steps": (1, 10**6), "temp": (0, 10**9), "topk": (1, 10**9),
          "seed": (0, 2**63 - 1)}


def check_ranges(settings):
    """Raise ValueError if a number in `settings` is outside its range in RANGES."""
    for name, (lowest, largest) in RANGES.items():
        value = getattr(settings, name, None)
        if value is not None and not lowest <= value <= largest:
            raise ValueError(f"{name} must be from {lowest} to {largest}, not {value}")


def make_canvas(settings, tokenizer, length=256):
    """Return the canvas (B, T) that `settings` describe. `length` is the number of tokens T if --len is not given."""
    if settings.infill:
        tokens = from_infill(settings.infill.replace("\\n", "\n"), tokenizer)
    else:
        tokens = from_prompt(settings.prompt.replace("\\n", "\n"), settings.len or length, tokenizer)
    drawn = settings.num * len(tokens) * (settings.steps or 100)
    if (settings.gif or settings.html) and drawn > MAX_DRAWN:
        raise cli.UserError("this run is too long for --gif and --html: lower --len or --num")
    return torch.tensor([tokens] * settings.num)


def open_model(settings, kind):
    """Return (folder, model, tokenizer) of the dLLM that `settings` name.

    If `settings` name no model and you have a run, this function loads your latest run and prints its name.
    """
    folder = checkpoint.find(settings.checkpoint, kind)
    device = devices.pick_device(settings.device)
    model, tokenizer, _ = checkpoint.load(folder, device, kinds=("dllm", "tamil"))  # both kinds write in the same way
    shipped = checkpoint.KINDS[kind].shipped
    if not settings.checkpoint and folder.name != shipped and not settings.quiet:
        print(f"This is {cli.printable(folder.name)}, your latest run. --checkpoint {shipped} names the shipped model.")
    return folder, model, tokenizer


def pick_seed(settings):
    """Seed PyTorch with the seed in `settings`, or with a random seed, and return this seed."""
    seed = random.randrange(2**31) if settings.seed is None else settings.seed
    torch.manual_seed(seed)
    return seed


@dataclass(frozen=True)
class Command(Writing):
    """The flags of this chapter. The default is 96 passes at temperature 1.05. --fast uses 32 passes at 0.85."""

    fast: bool = False  # a third of the passes, at a lower temperature (docs/fast_decoding.md)
    hub: str = ""  # OWNER/NAME of a model on the Hugging Face Hub; --hub alone: the model of the original tiny-dllm
    runtime: Literal["torch", "onnx", "onnx-int8"] = "torch"  # what runs the model: PyTorch, or ONNX Runtime (on a CPU)


def main(argv=None):
    settings = cli.parse(Command, argv, alone={"--hub": "published"})
    if settings.hub and settings.checkpoint:
        raise cli.UserError("--hub and --checkpoint both name a model: leave one out")
    if settings.hub:
        settings = replace(settings, checkpoint=str(hub.fetch(settings.hub)))
    settings = runtimes.on_cpu(settings)
    folder, model, tokenizer = open_model(settings, "dllm")
    # Of all settings that we tried, these bring the texts nearest to real text (docs/fast_decoding.md). A temperature
    # above 1 makes the first draft varied. While the sampler corrects, the temperature falls.
    steps = settings.steps or (32 if settings.fast else 96)
    temperature = settings.temp
    if temperature is None:
        temperature = 0.85 if settings.fast else 1.05
    canvas = make_canvas(settings, tokenizer).to(model.head.weight.device)
    model = runtimes.choose(settings.runtime, model, folder)
    seed = pick_seed(settings)
    title = f"seed {seed} · {cli.printable(folder.name)} · temperature {temperature:g}"
    states = generate(model, canvas, steps, temperature, settings.topk)
    watch(states, canvas, tokenizer, settings, title)
    if not settings.quiet:
        print("\nNext: 07_train_gpt.py trains the same Transformer with causal attention, to compare with.")


if __name__ == "__main__":
    cli.run(main, out_of_memory="lower --num, or use --device cpu")
