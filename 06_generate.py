"""Chapter 06: how does noise become text, and what does it look like while it happens?

    python 06_generate.py                                        # your latest run, else the shipped model
    python 06_generate.py --prompt "ROMEO:" --steps 128 --topk 5
    python 06_generate.py --infill "To be, or not to be, ____ is the question"
    python 06_generate.py --num 2 --seed 1 --gif out.gif --html out.html
    python 06_generate.py --fast                                 # in half the passes: chapter 11
    python 06_generate.py --hub                                  # the published dLLM, from the Hugging Face Hub

A few seconds on two cores. In a terminal, grey blocks turn into letters in place, all over the text at
once, the newest ones highlighted. The page that --html writes has a slider over the steps, and colours each
character by when it was committed or by how sure the model was.

Chapter 04's sampler yields a state a step. Here one such stream feeds every way to watch it.
"""

import argparse
import contextlib
import importlib.util
import math
import os
import random
import re
import signal
import sys
import tempfile
import time
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import torch

from plumbing import checkpoint, cli, devices, hub, tokenizers, views

diffusion = import_module("04_diffusion")

MAX_LENGTH = 100_000  # positions; a typing slip such as {1000000} should not fill the memory
MAX_RECORDED = 20_000_000  # positions × steps that --gif and --html may keep: some 300 MB
BLANK = re.compile(r"_|\{([0-9]{1,9})\}")


# ---- The canvas: a prompt and a blank are the same thing, namely what is masked and what is not ----


def parse_prompt(text, length, tokenizer):
    """`text` as ids, then masks up to `length` positions. The mask is the id vocab_size."""
    ids = tokenizer.encode(text)
    if len(ids) >= length:
        raise cli.UserError(f"the prompt fills {len(ids)} of {length} places: raise --len")
    return ids + [tokenizer.vocab_size] * (length - len(ids))


def parse_infill(text, tokenizer):
    """Ids of `text` with its blanks masked: each underscore is one position, {20} is twenty."""
    ids, end = [], 0
    for blank in BLANK.finditer(text):
        ids += tokenizer.encode(text[end : blank.start()])
        ids += [tokenizer.vocab_size] * min(int(blank[1] or 1), MAX_LENGTH + 1)
        end = blank.end()
        if len(ids) > MAX_LENGTH:
            raise cli.UserError(f"--infill is longer than {MAX_LENGTH:,} positions: shorten its blanks")
    ids += tokenizer.encode(text[end:])
    if tokenizer.vocab_size not in ids:
        raise cli.UserError("--infill has no blank: write _ for one character, or {20} for twenty")
    return ids


# ---- Sampling, also beyond the model's window ----


def plan_windows(canvas, mask_id, size, steps):
    """[(left, right, steps)]: windows of `size` positions that together cover canvas (B, T), in order.

    A window starts half a window before the text it adds, so that this text has something to continue; the
    last one is moved left to be full. On a canvas longer than `size`, `steps` is the pace: so many for a
    window full of masks, fewer where only half of it is to be written.
    """
    length, windows, done = canvas.shape[1], [], 0
    while done < length:
        left = max(0, min(done - size // 2, length - size))
        right = min(left + size, length)
        masks = int((canvas[:, done:right] == mask_id).sum(dim=1).max())
        budget = steps if length <= size else -(-steps * masks // size)  # rounded up
        if masks:
            windows.append((left, right, min(budget, masks)))
        done = right
    return windows


def generate(model, canvas, steps=64, temperature=0.8, top_k=None, generator=None, denoise=diffusion.denoise):
    """Fill every mask of canvas (B, T), T of any size. Yields `diffusion.State`s of the whole canvas.

    denoise: chapter 04's sampler, or another that is called and yields like it. State 0 is the untouched canvas.
    Positions that are not masked stay as they are, wherever they stand.
    """
    mask_id, canvas, step, nfe = model.config.vocab_size, canvas.clone(), 0, 0
    confidence, committed = (canvas != mask_id).float(), torch.zeros_like(canvas, dtype=torch.bool)
    yield diffusion.State(canvas.clone(), confidence.clone(), committed, 0, 0)
    for left, right, budget in plan_windows(canvas, mask_id, model.config.seq_len, steps):
        window = canvas[:, left:right].clone()  # (B, right - left)
        for state in denoise(model, window, budget, temperature, top_k, generator=generator):
            if state.step == 0:
                continue  # the reader has seen this canvas
            here, before = slice(left, right), confidence[:, left:right]
            canvas[:, here] = state.canvas
            # Here, what an earlier window wrote counts as given (1.0): keep what it was drawn with.
            confidence[:, here] = torch.where(window == mask_id, state.confidence, before)
            committed = torch.zeros_like(committed)
            committed[:, here] = state.committed
            now = step + state.step, nfe + state.nfe
            yield diffusion.State(canvas.clone(), confidence.clone(), committed, *now)
        step, nfe = step + state.step, nfe + state.nfe


# ---- The command ----


def number(kind, lowest, highest=math.inf):
    """An argparse type: `kind` (int or float) from lowest to highest, never NaN or infinite."""

    def parse(text):
        value = kind(text)
        if not (lowest <= value <= highest and value < math.inf):
            limit = f"from {lowest} to {highest}" if highest < math.inf else f"{lowest} or more"
            raise argparse.ArgumentTypeError(f"must be {limit}, not {text}")
        return value

    parse.__name__ = "whole number" if kind is int else "number"  # argparse quotes it: invalid … value
    return parse


def output(suffix):
    """An argparse type: a path that can be written, found out now and not after minutes of sampling."""

    def parse(text):
        path = Path(text)
        if path.suffix.lower() != suffix:
            raise argparse.ArgumentTypeError(f"{text!r} must end in {suffix}")
        try:
            if path.is_dir() or path.exists() and not os.access(path, os.W_OK):
                raise argparse.ArgumentTypeError(f"cannot write {text!r}: a folder, or write-protected")
            with tempfile.NamedTemporaryFile(prefix=f".{path.name}.", dir=path.parent):
                return path
        except OSError as error:
            raise argparse.ArgumentTypeError(f"cannot write {text!r}: {error.strerror}") from None

    return parse


def add_flags(parser, unit="character", length=256):
    """The flags of this chapter, which chapter 09 shares. unit: what a token is; length: of a text without --len."""
    flag = parser.add_argument
    flag("--checkpoint", metavar="RUN", help="a run's name or folder (your latest, else the shipped one)")
    flag("--steps", type=number(int, 1), metavar="N",
         help="denoising steps for one window of the model (64); never more than there are masks")
    flag("--temp", type=number(float, 0), metavar="X",
         help=f"temperature (0.8; --fast: 0.6): 0 always takes the likeliest {unit}, above 1 is wilder than the model")
    flag("--topk", type=number(int, 1), metavar="N", help=f"draw among the N likeliest {unit}s (all)")
    flag("--len", type=number(int, 1, MAX_LENGTH), metavar="N", help=f"{unit}s, the prompt included ({length})")
    flag("--num", type=number(int, 1), default=1, metavar="N", help="samples, made in one batch (1)")
    flag("--seed", type=number(int, 0, 2**63 - 1), metavar="N", help="the same seed, the same text (random)")
    flag("--device", default="auto", help="cpu, cuda, mps or auto (auto)")
    flag("--prompt", default="", metavar="TEXT", help="how the text begins; \\n is a new line")
    flag("--infill", metavar="TEXT", help=f"text with blanks to fill: _ is one {unit}, {{20}} is twenty")
    flag("--quiet", action="store_true", help="print the text and nothing else")
    flag("--gif", type=output(".gif"), metavar="FILE", help="save the run as an animation")
    flag("--html", type=output(".html"), metavar="FILE", help="save the run as a web page with a player")
    group = parser.add_argument_group("faster decoding", "Chapter 11 explains these and measures them.")
    rules, flag = group.add_mutually_exclusive_group(), group.add_argument
    rules.add_argument("--fast", action="store_true", help="the best trade-off found there")
    flag("--order", metavar="RULE", help="which first: isolated (as without this flag), noisy, confidence, margin, "
         "peak, random or ancestral; with one of the rules below, its score: confidence (as without), margin or peak")
    for name, symbol, meaning in (
        ("threshold", "τ", "commit all that are at least so sure; --steps, if given, is then a limit"),
        ("factor", "F", "commit the n surest while each is surer than 1 - F / (n + 1)"),
        ("entropy", "γ", "commit the most certain while the sum of their entropies stays below"),
        ("stable", "ε", "commit the sure ones whose distribution moved by less than this in the last pass"),
        ("apart", "N", "commit each that is the surest within N positions on both sides"),
    ):
        rules.add_argument(f"--{name}", type=number(float, 0), metavar=symbol, help=meaning)
    flag("--block", type=number(int, 1), metavar="N", help="finish N positions before the next N begin")
    flag("--cache", metavar="KIND", help="none, prefix, dual or delayed: rows that a pass need not compute")
    flag("--refresh", type=number(int, 1), metavar="N", help="compute all rows in every Nth pass of a block")
    flag("--guidance", type=number(float, 0), metavar="W", help="follow what is given more closely (0)")
    flag("--remask", type=number(int, 0), metavar="N", help="passes at the end that mend what was unsure (0)")


def parse_flags(parser, argv=None):
    """The arguments of a parser with `add_flags`, a seed among them; an error where two do not go together."""
    args = parser.parse_args(argv)
    if args.infill is not None and (args.prompt or args.len is not None):
        parser.error("--infill already says how the text begins and ends: leave out --prompt and --len")
    if args.gif and not importlib.util.find_spec("PIL"):
        parser.error("--gif needs Pillow: pip install pillow")
    if args.html and not views.PLAYER.is_file():
        parser.error(f"--html needs the file docs/{views.PLAYER.name} of this repository")
    if args.seed is None:
        args.seed = random.randrange(2**31)
    args.denoise, adaptive, temperature = choose_sampler(args)
    args.steps = args.steps or (MAX_LENGTH if adaptive else 64)  # adaptive: as many as there are masks, at most
    args.temp = temperature if args.temp is None else args.temp
    return args


def choose_sampler(args):
    """(sampler, whether it decides itself how many steps it takes, temperature): chapter 04's, or 11's if asked."""
    names = ("order", "threshold", "factor", "entropy", "stable", "apart",
             "block", "cache", "refresh", "guidance", "remask")  # fmt: skip
    given = {name: getattr(args, name) for name in names if getattr(args, name) is not None}
    if not given and not args.fast:
        return diffusion.denoise, False, 0.8
    fast = import_module("11_fast_decoding")  # the one look ahead in this book: a reader of this page needs none of it
    return *fast.sampler(given, args.fast), fast.FAST_TEMPERATURE if args.fast else 0.8


def canvas_rows(args, tokenizer, length=256):
    """The canvases that --prompt, --len or --infill describe: args.num equal rows of ids."""
    if args.infill is None:
        ids = parse_prompt(args.prompt.replace("\\n", "\n"), args.len or length, tokenizer)
    else:
        ids = parse_infill(args.infill.replace("\\n", "\n"), tokenizer)
    return [ids] * args.num


def on_cpu(state):
    return replace(state, **{field: getattr(state, field).cpu() for field in ("canvas", "confidence", "committed")})


def watch(model, tokenizer, rows, args, name):
    """Fill the masks of `rows` (B lists of T ids) and show it in every way that `args` ask for: B texts."""
    mask_id = model.config.vocab_size
    if args.topk is not None and args.topk > mask_id:
        raise cli.UserError(f"--topk is {args.topk}, but the vocabulary has {mask_id} symbols: lower it")
    letters = getattr(tokenizer, "letters", None)  # of tokens that may be part of a character
    letters = letters or [tokenizer.decode([i]) for i in range(mask_id)] + [tokenizers.MASK_CHAR]
    canvas = torch.tensor(rows, device=next(model.parameters()).device)  # (B, T)
    given, unit = (canvas != mask_id).tolist(), tokenizer.unit
    total = sum(budget for *_, budget in plan_windows(canvas, mask_id, model.config.seq_len, args.steps))
    record, history = args.gif or args.html, []
    if record and canvas.numel() * total > MAX_RECORDED:
        raise cli.UserError("too long a run to record with --gif or --html: lower --len, --num")
    if args.gif:
        views.tamil_font(letters)  # a font that is not there is noticed now
    blank = int((canvas == mask_id).sum())
    if args.guidance and blank == canvas.numel():
        raise cli.UserError("--guidance is by the text that is given: add --prompt or --infill")
    generator = torch.Generator(canvas.device).manual_seed(args.seed)
    # Below a thousandth, dividing by the temperature would overflow; the draw is greedy long before.
    temperature = args.temp if args.temp > 1e-3 else 0
    live = sys.stdout.isatty() and not args.quiet and os.environ.get("TERM") != "dumb"
    terminal, start = views.Terminal(given, letters, sys.stdout), time.perf_counter()
    with terminal if live else contextlib.nullcontext():
        for state in generate(model, canvas, args.steps, temperature, args.topk, generator, args.denoise):
            state = on_cpu(state)
            rate = (blank - int((state.canvas == mask_id).sum())) / (time.perf_counter() - start)
            of = f"/{total}" if args.denoise is diffusion.denoise else ""
            status = f"step {state.step}{of} · {state.nfe} NFE · {rate:,.0f} {unit}s/s"
            status += f" · seed {args.seed} · {name}"
            if record:
                history.append(state)
            if live:
                terminal.draw(state, status)
        if live:
            terminal.draw(replace(state, committed=torch.zeros_like(state.committed)), status, whole=True)
    say = (lambda line: None) if args.quiet else print
    if not live:
        say(status)
        for number, row in enumerate(state.canvas, 1):
            if number > 1 or not args.quiet:
                print()
            if len(rows) > 1:
                say(f"--- sample {number} of {len(rows)} ---")
            print(tokenizer.decode(row))
    if args.gif:
        size = views.save(args.gif, views.gif_bytes(history, given, letters))
        say(f"wrote {args.gif} ({size})")
    if args.html:
        title = f"{given[0].count(False)} {unit}s in {history[-1].step} steps"
        facts = f"{name} · seed {args.seed} · temperature {args.temp:g} · top-k {args.topk or 'off'}"
        size = views.save(args.html, views.html_page(history, letters, title, facts).encode())
        say(f"wrote {args.html} ({size})")
    return [tokenizer.decode(row) for row in state.canvas]


def open_model(folder, device):
    """The model in `folder`, on what --device means: (model, tokenizer, info). UserError if it is a GPT.

    From here on the terminal is left in order, however the program ends.
    """
    with contextlib.suppress(AttributeError):
        sys.stdout.reconfigure(errors="replace")  # a console that cannot show ░ shows ? instead of failing
    # Terminated politely, we still leave through views.Terminal.__exit__, which gives the cursor back.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    model, tokenizer, info = checkpoint.load(folder, devices.pick_device(device))
    if model.config.causal:
        raise cli.UserError(f"{folder} is a GPT, which cannot fill masks: python 07_train_gpt.py writes with it")
    return model, tokenizer, info


def main(argv=None):
    parser = cli.Parser(description="Sample from a diffusion model, and watch.", allow_abbrev=False)
    add_flags(parser)
    parser.add_argument("--hub", nargs="?", const=hub.ADDRESSES[0], metavar="OWNER/NAME",
                        help="a model on the Hugging Face Hub; alone: the published dLLM")
    args = parse_flags(parser, argv)
    if args.hub and args.checkpoint:
        parser.error("--hub and --checkpoint both name a model: leave one out")
    folder = hub.fetch(args.hub) if args.hub else checkpoint.find(args.checkpoint)
    model, tokenizer, _ = open_model(folder, args.device)
    try:
        watch(model, tokenizer, canvas_rows(args, tokenizer), args, folder.resolve().name)
    except torch.OutOfMemoryError:
        raise cli.UserError("out of GPU memory: lower --num, or use --device cpu") from None


if __name__ == "__main__":
    cli.run(main)

# Next: 07_train_gpt.py trains the same Transformer with causal attention, to compare with.
