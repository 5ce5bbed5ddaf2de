"""Chapter 06: how does noise become text, and what does it look like while it happens?

    python 06_generate.py                                        # your latest run; if you have none, the shipped model
    python 06_generate.py --prompt "ROMEO:" --steps 128 --topk 5
    python 06_generate.py --infill "To be, or not to be, ____ is the question"
    python 06_generate.py --num 2 --seed 1 --gif out.gif --html out.html
    python 06_generate.py --fast                                 # a third of the passes
    python 06_generate.py --hub                                  # the published model, from the Hugging Face Hub

A text takes a few seconds on two cores. In a terminal, each grey block is a masked character. Blocks all over the
text turn into letters, and the newest letters are highlighted. Then the later half of the passes corrects letters that
the model doubts. The page that --html writes has a slider over the steps. It can colour each character by the last
step that wrote it, or by how sure the model was. NFE, the number of function evaluations, counts the forward passes.

The sampler of chapter 04 yields one State per step. The terminal, the GIF and the page all read that stream.
"""

import contextlib
import os
import random
import re
import shlex
import sys
import time
from dataclasses import dataclass, replace
from importlib import import_module

import torch

from plumbing import checkpoint, cli, devices, foreign, hub, settings, tokenizers, views

diffusion = import_module("04_diffusion")

MAX_LENGTH = 100_000  # positions; a slip such as {1000000} must not fill the memory
MAX_SAMPLES = 256  # in one batch; so many samples of the shipped model need 1.3 GB
DEFAULT, FAST = (96, 1.05), (32, 0.85)  # passes and temperature, without and with --fast; see docs/fast_decoding.md
MAX_RECORDED = 20_000_000  # positions × steps that --gif and --html may keep, about 300 MB
BLANK = re.compile(r"_|\{([0-9]{1,9})\}")


# 1. The canvas: a prompt and a blank differ only in which positions are masked


def parse_prompt(text, length, tokenizer):
    """The ids of `text`, then masks up to `length` positions: a list of ints."""
    ids, mask_id = tokenizer.encode(text), tokenizer.vocab_size
    if len(ids) >= length:
        raise cli.UserError(f"the prompt fills {len(ids)} of {length} places: raise --len")
    return ids + [mask_id] * (length - len(ids))


def parse_infill(text, tokenizer):
    """The ids of `text` with its blanks masked, a list of ints: _ is one masked position, {20} is twenty."""
    ids, end, mask_id = [], 0, tokenizer.vocab_size
    for blank in BLANK.finditer(text):
        ids += tokenizer.encode(text[end : blank.start()])
        ids += [mask_id] * min(int(blank[1] or 1), MAX_LENGTH + 1)
        end = blank.end()
        if len(ids) > MAX_LENGTH:
            raise cli.UserError(f"--infill is longer than {MAX_LENGTH:,} positions: shorten its blanks")
    ids += tokenizer.encode(text[end:])
    if mask_id not in ids:
        raise cli.UserError("--infill has no blank: write _ for one character, or {20} for twenty")
    return ids


# 2. Sampling, also beyond the window that the model was trained on


def plan_windows(canvas, mask_id, size, steps):
    """Windows of at most `size` positions with all masks of canvas (B, T): a list of (left, right, steps), in order.

    A window begins a quarter of its size before the text that it adds, so that the model continues from known text. The
    last window is moved to the left until it is full. On a canvas of several windows, `steps` is the number for a
    window full of masks, and a window with fewer masks gets proportionally fewer. So all windows together take as many
    steps for any overlap; but with more overlap, fewer of them work on a place. At most half of the steps of a window
    correct what the others wrote, so no window gets more than two steps for each mask.
    """
    length, windows, done = canvas.shape[1], [], 0
    while done < length:
        left = max(0, min(done - size // 4, length - size))
        right = min(left + size, length)
        masks = int((canvas[:, done:right] == mask_id).sum(dim=1).max())
        budget = steps if length <= size else -(-steps * masks // size)  # rounded up
        if masks:
            windows.append((left, right, min(budget, 2 * masks - 1)))
        done = right
    return windows


def generate(model, canvas, steps=DEFAULT[0], temperature=DEFAULT[1], top_k=None, generator=None,
             denoise=diffusion.denoise):
    """Fill the masks of canvas (B, T) for any T. Yields a `diffusion.State` of the whole canvas for each step.

    The first State is the canvas before any step. Tokens that are given never change, wherever they are.
    denoise: the sampler of chapter 04, or another that takes the same arguments and yields States.
    """
    mask_id, canvas = model.config.mask_id, canvas.clone()
    nothing = torch.zeros_like(canvas, dtype=torch.bool)
    state = diffusion.State(
        canvas=canvas, confidence=(canvas != mask_id).float(), committed=nothing, step=0, nfe=0)
    yield state
    for left, right, budget in plan_windows(canvas, mask_id, model.config.seq_len, steps):
        before = state  # of the whole canvas, when this window begins
        window, sure = before.canvas[:, left:right], before.confidence[:, left:right]  # (B, right - left)
        for inner in denoise(model, window, budget, temperature, top_k, generator=generator):
            if inner.step == 0:
                continue  # nothing has changed since `before`
            # For this window's sampler, text of an earlier window is given. That text keeps its own confidence.
            confidence = torch.where(window == mask_id, inner.confidence, sure)
            state = diffusion.State(
                canvas=before.canvas.slice_scatter(inner.canvas, 1, left, right),
                confidence=before.confidence.slice_scatter(confidence, 1, left, right),
                committed=nothing.slice_scatter(inner.committed, 1, left, right),
                step=before.step + inner.step, nfe=before.nfe + inner.nfe)
            yield state


def usable_temperature(temperature):
    """`temperature`, or 0 below a thousandth: dividing by less would overflow, and sampling is greedy long before."""
    return temperature if temperature > 1e-3 else 0.0


# 3. Flags


@dataclass(frozen=True)
class Flags:
    """The flags that chapters 09 and 11 share with this one."""

    checkpoint: settings.OptionalText = None  # name or folder of a run; by default your latest, or the shipped model
    steps: settings.Count = 64  # passes for one window of the model, half of them to correct; fewer for few masks
    temp: settings.NonNegative = 1.0  # temperature; 0 always takes the likeliest token, 1 leaves the model as it is
    topk: settings.OptionalCount = None  # sample among this many likeliest tokens; by default among all
    len: settings.number(int, 1, MAX_LENGTH, optional=True) = None  # tokens with the prompt; usually 256, of Tamil 200
    num: settings.number(int, 1, MAX_SAMPLES) = 1  # number of samples, made in one batch
    seed: settings.OptionalSeed = None  # the same seed writes the same text; by default a random one
    device: str = "auto"  # cpu, cuda, mps or auto
    prompt: str = ""  # how the text begins; \n is a line break
    infill: settings.OptionalText = None  # a text with blanks to fill: _ is one token, {20} is twenty
    quiet: settings.Switch = False  # print the text and nothing else
    gif: settings.OptionalPath = None  # save the run as an animation: a path that ends in .gif
    html: settings.OptionalPath = None  # save the run as a web page with a player: a path that ends in .html


def prepare(flags):
    """`flags` with a seed filled in. UserError if two flags contradict each other or a file cannot be written."""
    if flags.infill is not None and (flags.prompt or flags.len is not None):
        raise cli.UserError("--infill already gives the whole text: leave out --prompt and --len")
    for path, suffix in ((flags.gif, ".gif"), (flags.html, ".html")):
        if path is not None:
            views.check_path(path, suffix)
    return replace(flags, seed=random.randrange(2**31) if flags.seed is None else flags.seed)


def canvas_rows(flags, tokenizer, length=256):
    """The canvases that --prompt, --len or --infill describe: `num` equal lists of ids. length: used without --len."""
    if flags.infill is None:
        ids = parse_prompt(flags.prompt.replace("\\n", "\n"), flags.len or length, tokenizer)
    else:
        ids = parse_infill(flags.infill.replace("\\n", "\n"), tokenizer)
    return [ids] * flags.num


def open_model(folder, device):
    """(model, tokenizer, info) of the dLLM in `folder`, on the device of this name. UserError if it is a GPT."""
    model, tokenizer, info = checkpoint.load(folder, devices.pick_device(device))
    if model.config.causal:
        raise cli.UserError(f"{folder} is a GPT, which cannot fill masks: use python 07_train_gpt.py --write")
    return model, tokenizer, info


# 4. Watching


def watch(model, tokenizer, rows, flags, name, denoise=diffusion.denoise, write=generate):
    """Fill the masks of `rows` (B lists of T ids) and show it in every way that `flags` ask for. Returns B texts.

    flags: from `prepare`. name: the model's. denoise: the sampler, as in `generate`. write: `generate`, or a function
    that takes the same arguments and also yields States of the whole canvas.
    """
    mask_id, unit, letters = model.config.mask_id, tokenizer.unit, views.shown_tokens(tokenizer)
    name = foreign.printable(name)
    if flags.topk is not None and flags.topk > mask_id:
        raise cli.UserError(f"--topk is {flags.topk}, but the vocabulary has {mask_id} symbols: lower it")
    canvas = torch.tensor(rows, device=next(model.parameters()).device)  # (B, T)
    given, blank = (canvas != mask_id).tolist(), int((canvas == mask_id).sum())
    total = sum(steps for *_, steps in plan_windows(canvas, mask_id, model.config.seq_len, flags.steps))
    record, history = flags.gif or flags.html, []
    total_of_all = total if write is generate else total * len(rows)  # chapter 13 writes one text after the other
    if record and canvas.numel() * total_of_all > MAX_RECORDED:
        raise cli.UserError("this run is too long for --gif and --html: lower --len or --num")
    if flags.gif:
        views.tamil_font(letters)  # a missing font must stop the program now and not after sampling
    of = f"/{total}" if (denoise, write) == (diffusion.denoise, generate) else ""  # others may need fewer steps
    generator = torch.Generator(canvas.device).manual_seed(flags.seed)
    temperature, start = usable_temperature(flags.temp), time.perf_counter()
    live = sys.stdout.isatty() and not flags.quiet and os.environ.get("TERM") != "dumb"
    terminal = views.Terminal(given, letters, sys.stdout)
    with terminal if live else contextlib.nullcontext():
        for state in write(model, canvas, flags.steps, temperature, flags.topk, generator, denoise):
            state = state.to("cpu")
            rate = (blank - int((state.canvas == mask_id).sum())) / (time.perf_counter() - start)
            status = (f"step {state.step}{of} · {state.nfe} NFE · {rate:,.0f} {unit}s/s "
                      f"· seed {flags.seed} · {name}")
            if record:
                history.append(state)
            if live:
                terminal.draw(state, status)
        if live:
            terminal.draw(replace(state, committed=torch.zeros_like(state.committed)), status, whole=True)
    texts = [tokenizer.decode(row) for row in state.canvas]
    if not live:
        print_texts(texts, status, flags.quiet)
    if record:
        save_run(history, given, letters, flags, name, unit)
    return texts


def print_texts(texts, status, quiet):
    """Print the texts as lines, without control characters. quiet: without the status line, the numbers of the samples
    and the empty lines around a text."""
    if not quiet:
        print(foreign.printable(status, limit=None))
    for number, text in enumerate(texts, 1):
        if number > 1 or not quiet:
            print()
        if len(texts) > 1 and not quiet:
            print(f"--- sample {number} of {len(texts)} ---")
        print(foreign.lines(text.strip("\n") if quiet else text))


def save_run(history, given, letters, flags, name, unit):
    """Write the States in `history` to the files that --gif and --html name."""
    title = f"{given[0].count(False)} {unit}s in {history[-1].step} steps"
    facts = f"{name} · seed {flags.seed} · temperature {flags.temp:g} · top-k {flags.topk or 'off'}"
    for path, make in ((flags.gif, lambda: views.gif_bytes(history, given, letters)),
                       (flags.html, lambda: views.html_page(history, letters, title, facts).encode())):
        if path:
            size = views.save(path, make())
            if not flags.quiet:
                print(f"wrote {path} ({size})")


# 5. The command


OptionalTemperature = settings.number(float, 0, optional=True)


@dataclass(frozen=True)
class Command(Flags):
    """The flags of this chapter."""

    steps: settings.OptionalCount = None  # passes for one window, half of them to correct; usually 96, with --fast 32
    temp: OptionalTemperature = None  # temperature; 0 always takes the likeliest token; usually 1.05, with --fast 0.85
    fast: settings.Switch = False  # a third of the passes, at a lower temperature
    hub: settings.OptionalText = None  # a model on the Hugging Face Hub, OWNER/NAME; --hub alone: the published model


def refuse_moved_flags(argv):
    """UserError that names the successor of a flag that has moved to chapter 11."""
    moved = "order threshold factor entropy stable apart block cache refresh guidance remask".split()
    for flag in (word.partition("=")[0] for word in argv):
        if flag.startswith("--") and flag[2:] in moved:
            successor = f"python 11_fast_decoding.py --write {shlex.join(argv)}"
            raise cli.UserError(f"{flag} is now a flag of chapter 11: {successor}")


def main(argv=None):
    argv = list(sys.argv[1:] if argv is None else argv)
    refuse_moved_flags(argv)
    command = prepare(settings.parse(Command, argv, bare={"--hub": hub.ADDRESSES[0]}))
    if command.hub is not None and command.checkpoint is not None:
        raise cli.UserError("--hub and --checkpoint both name a model: leave one out")
    folder = checkpoint.find(command.checkpoint) if command.hub is None else hub.fetch(command.hub)
    name, shipped = folder.resolve().name, checkpoint.SHIPPED.name
    model, tokenizer, _ = open_model(folder, command.device)
    try:
        rows = canvas_rows(command, tokenizer)
    except tokenizers.UnknownText as error:
        advice = "" if name == shipped else f"; --checkpoint {shipped} names the shipped model"
        raise cli.UserError(f"the model {name} cannot read this text: {error}{advice}") from None
    if command.checkpoint is None and command.hub is None and name != shipped and not command.quiet:
        print(f"This is {name}, your latest run. --checkpoint {shipped} names the shipped model.")
    steps, temp = FAST if command.fast else DEFAULT
    command = replace(command, steps=command.steps or steps, temp=temp if command.temp is None else command.temp)
    watch(model, tokenizer, rows, command, name)
    if not command.quiet:
        print("\nNext: 07_train_gpt.py trains the same Transformer with causal attention, to compare with.")


if __name__ == "__main__":
    cli.run(main, out_of_memory="lower --num, or use --device cpu")
