"""Chapter 11: how few forward passes does a text need, and how cheap can a pass be?

    python 11_fast_decoding.py                                    # compare the rules on a few texts: a minute
    python 11_fast_decoding.py write --steps 32 --correction 32   # chapter 06 with 64 passes, at temperature 0.8
    python 11_fast_decoding.py write --threshold 0.9 --block 32 --cached
    python 11_fast_decoding.py write --entropy 0.5 --prompt "ROMEO:" --correction 16
    python 11_fast_decoding.py time                               # where a pass spends its time: ten seconds

The sampler of chapter 04 writes a planned number of tokens in each pass, and each pass computes all positions. This
chapter adds three things to this sampler. New selection rules write more tokens in a pass if the model is certain.
Blocks of the canvas are filled from left to right. With a cache, a pass computes only the positions of one block.

You should see that the rules `threshold` and `factor` spell best, because they wait until the model is certain. But
they need many passes, and their texts repeat themselves. docs/fast_decoding.md measures more texts, and also the rules
and caches of experiments/decoding_rules.py. On that page, the method whose texts are nearest to real text writes at
scattered positions, and then corrects the text. So `python 06_generate.py --fast` uses this method.

The command `time` measures how long a pass takes, and how long its matrix products alone take. You should see that a
pass of the GPT, which computes one position, takes several times as long as its matrix products. A pass of the dLLM,
which computes all positions, spends most of its time on matrix products.
"""

import functools
import math
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from statistics import median

from plumbing import checkpoint, cli, devices, measures, text

import torch
import torch.nn.functional as F

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")


# 1. Rules: which proposals of a pass to write
#
# All rules have the interface of chapter 04: (logits, confidence, masked, count) → True where to write. Chapter 04 has
# two rules:
#
#   scattered      Writes at random positions that are far from each other. A random order favours no token, so the
#                  texts stay varied. The tokens of one pass cannot see each other, but this does little harm, because
#                  tokens that are far apart hardly depend on each other. The rule also writes tokens of which the
#                  model is not sure. Correction can replace wrong tokens later, when the text on both sides is known.
#                  So this rule is best if correction follows.
#   by_confidence  Writes the proposals with the highest confidence. This rule is best if only one answer is right, as
#                  for a blank in a known text (chapter 10) or a digit of a Sudoku (chapter 14). In free text, the
#                  model is most certain of common tokens, such as spaces and the letters of "the". The rule writes
#                  them first everywhere, so they become even more common.
#
# Both rules write the planned number of tokens. The rules below decide in each pass how many tokens are safe to write.
# A function makes each rule from a number that says how safe a token must be: threshold(0.9) is a rule.


def top_up(chosen, confidence, masked, count):
    """Add the most confident proposals to `chosen` (B, T), until each row has at least `count` (B,) proposals.

    Every row gets at least one proposal. Even if a rule finds no proposal safe, it must write one, because otherwise
    the text would never be finished.
    """
    missing = count.clamp(min=1) - chosen.sum(1)
    return chosen | diffusion.highest(confidence, masked & ~chosen, missing)


def before_first_false(fits, order):
    """Return a boolean tensor (B, T): True at the positions that are tested before the first failed test of their row.

    `order` (B, T) lists the positions of each row in the order of testing, and `fits` (B, T) has the test results in
    this order.
    """
    keep = fits.long().cumprod(1).bool()
    return torch.zeros_like(keep).scatter(1, order, keep)


def threshold(tau):
    """Make a rule that writes every proposal whose probability is at least tau (Fast-dLLM, arXiv:2505.22618).

    If the model is nearly certain of each of two tokens, it is nearly certain of the pair. So it does little harm that
    the two tokens do not see each other. With many tokens, small doubts add up; the next two rules take this into
    account. The threshold rule is fast if most tokens of a text can be guessed from the other tokens. It is slow in
    verse, where several words are often possible.
    """

    def rule(logits, confidence, masked, count):
        chosen = masked & (confidence >= tau)
        return top_up(chosen, confidence, masked, count)

    return rule


def factor(f):
    """Make a rule that writes the n most confident proposals, if each has a probability of at least 1 - f / (n + 1).

    The rule takes the largest n that satisfies this condition (Fast-dLLM, Wu et al. 2025, arXiv:2505.22618). So ten
    tokens in one pass must be more certain than two tokens. With f = 1, the n tokens are the most probable combination.
    Proof: each token is wrong with a probability of at most 1 / (n + 1). So the probability that at least one token is
    wrong is at most n / (n + 1), and the combination is right with a probability of at least 1 / (n + 1). Any other
    combination contradicts at least one of the n tokens, so its probability is at most 1 / (n + 1).
    """

    def rule(logits, confidence, masked, count):
        sorted_confidence, order = confidence.masked_fill(~masked, -math.inf).sort(1, descending=True)
        n = torch.arange(1, masked.shape[1] + 1, device=masked.device)
        chosen = before_first_false(sorted_confidence >= 1 - f / (n + 1), order)
        return top_up(chosen, confidence, masked, count)

    return rule


def entropy_bound(gamma):
    """Make a rule that writes the most certain proposals, and stops before Σ H - max H exceeds gamma nats.

    H is the entropy of the model's prediction at a position. The sum and the maximum are over all positions that the
    pass writes. If a pass draws several tokens independently, its error is their mutual information, and Σ H - max H is
    an upper bound on this error (EB-Sampler, Ben-Hamu et al. 2025, arXiv:2505.24857). The rule looks at the
    probabilities of all tokens at a position, and not at the token that was drawn. So it also writes unlikely tokens,
    which the two rules above reject, and its texts stay more varied.
    """

    def rule(logits, confidence, masked, count):
        entropy = torch.special.entr(logits.float().softmax(-1)).sum(-1)  # (B, T)
        entropy, order = entropy.masked_fill(~masked, math.inf).sort(1)
        bound = entropy.cumsum(1) - entropy  # (B, T) Σ H - max H: the last entropy is the largest
        chosen = before_first_false((bound <= gamma) & entropy.isfinite(), order)
        return top_up(chosen, confidence, masked, count)

    return rule


# 2. Blocks, from left to right


def plan_blocks(masked, size, steps):
    """Return the blocks that contain masks, from left to right: a list of (start, end, passes).

    `masked` (B, T) says where the masks are. A block has `size` columns, and the first block starts at the first mask.
    If `size` is 0, the whole canvas is one block. The blocks share `steps` passes in proportion to their masks. Each
    block gets at least one pass, and at most one pass per mask.
    """
    length = masked.shape[1]
    first = int(masked.any(0).long().argmax())
    edges = [*range(first, length, size), length] if size else [0, length]
    masks = [int(masked[:, start:end].sum(1).max()) for start, end in pairwise(edges)]
    steps = min(steps, sum(masks))
    blocks = []
    done = used = 0  # masks in the blocks so far, and the passes planned for these blocks
    for (start, end), n in zip(pairwise(edges), masks):
        if n:
            done += n
            due = math.ceil(steps * done / sum(masks))
            blocks.append((start, end, max(1, due - used)))
            used = due
    return blocks


class BlockModel:
    """Stands in for the model, so that chapter 04's `unmask` can write a block as if it were the whole text.

    Each pass puts the block into the canvas, lets the model read the whole canvas, and returns the logits of the block.
    """

    def __init__(self, model):
        self.model = model
        self.config = model.config

    def enter(self, canvas, start, end):
        """Begin to write the columns [start, end) of canvas (B, T)."""
        self.canvas = canvas
        self.start, self.end = start, end

    def put(self, block):
        """Put `block` (B, b) into the canvas. Return this canvas (B, T) and its share of masks (B,)."""
        canvas = self.canvas.slice_scatter(block, 1, self.start, self.end)
        return canvas, (canvas == self.config.mask_id).float().mean(1)

    def __call__(self, block, t):
        """Return the logits (B, b, V) of block (B, b).

        The argument t is the share of masks in the block. The model needs the share of masks in the whole canvas, so
        this method computes t again.
        """
        canvas, t = self.put(block)
        return self.model(canvas, t)[:, self.start : self.end]


@torch.no_grad()
def denoise_blocks(model, canvas, steps, temperature=1.0, top_k=None, select=diffusion.scattered, block=0,
                   reader=BlockModel, correction=0):
    """Fill the masks of canvas (B, T) block by block, and then correct the new text. Yields States.

    All blocks share `steps` passes of writing. `block` is the number of positions in a block; 0 makes the whole canvas
    one block. `reader` is BlockModel or a subclass, which decides how the model reads a block. At the end, the model
    corrects the text in `correction` more passes.
    """
    masked = canvas == model.config.mask_id
    confidence = (~masked).float()
    stand_in = reader(model)
    state = None
    for start, end, passes in plan_blocks(masked, block, steps):
        stand_in.enter(canvas, start, end)
        for part in diffusion.unmask(stand_in, canvas[:, start:end], passes, temperature, top_k, select):
            state = diffusion.State(
                canvas.slice_scatter(part.canvas, 1, start, end),
                confidence.slice_scatter(part.confidence, 1, start, end),
                torch.zeros_like(masked).slice_scatter(part.committed, 1, start, end))
            yield state
        canvas, confidence = state.canvas, state.confidence
    if state is not None:  # there was a mask
        correction = min(correction, int(masked.sum(1).max()) - 1)  # a few tokens need few passes
        yield from diffusion.correct(model, state, masked, correction, temperature, top_k)


# 3. A cache


class CachedBlockModel(BlockModel):
    """Computes all rows in the first pass over a block, and only the rows of the block in later passes.

    A row is a position that a pass computes. In each layer, every row has a key and a value, which other rows read. The
    cache keeps keys and values for later passes. In a GPT the cache is exact, because a row depends only on its own
    token and the tokens before it, and none of these tokens changes. In a dLLM every row depends on every token. When
    the tokens of the block change, the keys and values of all rows outside of the block should change, too, but the
    cache keeps the old ones.

    In the first layer the old keys and values are right, because they depend only on the row's own token. From the
    second layer on they are wrong. If the model reads the noise level, or mixes neighbouring rows by a convolution,
    some keys and values are wrong even in the first layer. The next block begins with a pass over all rows, which
    removes these errors.

    Fast-dLLM calls this cache the dual cache. Of the three caches that docs/fast_decoding.md measures, the dual cache
    saves the most time, both for one text and for a batch, because it computes by far the fewest rows. The prefix cache
    saves little, because it also computes all rows to the right of the block. The delayed cache computes all masked
    rows. It makes a batch slower, because the texts of a batch have masks at different positions.
    """

    def enter(self, canvas, start, end):
        super().enter(canvas, start, end)
        self.cache = None

    def __call__(self, block, t):
        canvas, t = self.put(block)
        if self.cache is None:
            self.cache = self.model.make_cache(*canvas.shape)
            return self.model(canvas, t, cache=self.cache)[:, self.start : self.end]
        positions = torch.arange(self.start, self.end, device=block.device)
        return self.model(block, t, positions, self.cache)


# 4. Where does a pass spend its time?
#
# A pass cannot be faster than its matrix products, and the machine limits their speed. If there are many rows, the
# limit is how many multiplications the processor does per second. If there is only one row, the limit is how fast the
# memory delivers the weights, because each weight is used in a single multiplication. The rest of the time goes into
# attention, small operations, and calls of Python modules.


def matrices(model):
    """Return the weight matrices by which the Transformer `model` multiplies every row: a list of tensors (out, in)."""
    layers = []
    for block in model.blocks:
        layers += [block.attn.qkv, block.attn.out, block.mlp.up, block.mlp.down]
    return [layer.weight for layer in (*layers, model.head)]


def products(model, rows):
    """Return a function that computes the matrix products of a pass over `rows` rows, and nothing else."""
    pairs = [(torch.randn(rows, weight.shape[1], device=weight.device), weight) for weight in matrices(model)]
    return lambda: [F.linear(x, weight) for x, weight in pairs]


@torch.no_grad()
def milliseconds(ways, device, turns=10, repeat=5):
    """Return the median time of each function in `ways`, in milliseconds: {name: time}.

    `ways` is {name: function}. The functions take turns, so that other work on the machine slows all of them equally.
    In each turn a function is called `repeat` times, because the first call is slow: the processor's caches still hold
    the data of the previous function.
    """
    seconds = {name: [] for name in ways}
    for _ in range(turns + 1):
        for name, way in ways.items():
            began = devices.now(device)
            for _ in range(repeat):
                way()
            seconds[name].append((devices.now(device) - began) / repeat)
    return {name: 1000 * median(times[1:]) for name, times in seconds.items()}  # the first turn is a warm-up


LEAN = "one row, with chapter 07's LeanRows"
LIMIT = "the limit: its matrix products alone"


def ways_of_one_row(model):
    """Return {name: function}. Each function computes one row in the middle of the window of the GPT `model`."""
    middle = model.config.seq_len // 2
    tokens = torch.zeros(1, middle + 1, dtype=torch.long, device=model.head.weight.device)
    newest = tokens[:, middle:]
    place = torch.tensor([middle], device=tokens.device)
    cache = model.make_cache(1, model.config.seq_len)
    with torch.no_grad():
        model(tokens[:, :middle], cache=cache)
    rows = gpt.LeanRows(model, cache)
    return {f"all {middle + 1} rows, no cache": lambda: model(tokens),
            "one row, with chapter 03's modules": lambda: model(newest, positions=place, cache=cache),
            LEAN: lambda: model.head(rows(model.token_emb(newest), middle)),
            LIMIT: products(model, 1)}


def ways_of_all_rows(model):
    """Return {name: function}. Each function computes all rows of a window of the dLLM `model`."""
    rows = model.config.seq_len
    tokens = torch.zeros(1, rows, dtype=torch.long, device=model.head.weight.device)
    t = torch.ones(1, device=tokens.device)
    return {f"all {rows} rows, with chapter 03's modules": lambda: model(tokens, t),
            LIMIT: products(model, rows)}


def show_time(settings):
    device = devices.pick_device(settings.device)
    for kind, ways, rows in (("gpt", ways_of_one_row, 1), ("dllm", ways_of_all_rows, None)):
        folder = checkpoint.RUNS / checkpoint.KINDS[kind][1]
        model, _, _ = checkpoint.load(folder, device, kinds=(kind,))
        rows = rows or model.config.seq_len
        times = milliseconds(ways(model), device)
        fastest = times[LIMIT]
        weights = sum(weight.numel() for weight in matrices(model))
        tensors.heading(f"{folder.name}: a pass over {rows} row{'s' if rows > 1 else ''}")
        for name, spent in times.items():
            print(f"   {name:42} {spent:8.2f} ms {fastest / spent:8.0%} of the limit")
        operations = 2 * weights * rows
        size = 4 * weights
        print(f"   At the limit, this machine does {operations / fastest / 1e6:.0f} billion operations a second, and "
              f"reads {size / fastest / 1e6:.1f} GB of weights.")
    print("\n   One row: much of the time goes into everything around the products, so lean code helps.\n"
          "   All rows: most of it goes into the products. Only fewer rows, fewer passes or smaller numbers help.")


# 5. The demonstration


@dataclass(frozen=True)
class Show:
    """The flags of the demonstration."""

    checkpoint: str = ""  # name or folder of a run; by default your latest run, or the shipped model
    corpus: str = "shakespeare"  # the text from which the model learned: shakespeare, or the path of a text file
    texts: int = 8  # number of texts for each way of writing
    seed: int = 1  # the same seed writes the same texts
    device: str = "auto"  # auto, cpu, cuda or mps

    def __post_init__(self):
        if not 1 <= self.texts <= 256:
            raise ValueError("texts must be from 1 to 256")
        generation.check_ranges(self)


LENGTH = 64  # characters of a text
WAYS = {  # name: arguments of `denoise_blocks`
    "scattered, 32 passes": dict(steps=32),
    "scattered, 16 passes, 16 of correction": dict(steps=16, correction=16),
    "by_confidence, 32 passes": dict(steps=32, select=diffusion.by_confidence),
    "threshold(0.9)": dict(steps=LENGTH, select=threshold(0.9)),
    "factor(1)": dict(steps=LENGTH, select=factor(1)),
    "entropy_bound(0.5)": dict(steps=LENGTH, select=entropy_bound(0.5)),
    "scattered, blocks of 16, 32 passes": dict(steps=32, block=16),
    "scattered, blocks of 16, 32 passes, cached": dict(steps=32, block=16, reader=CachedBlockModel),
}


def show_ways(name, model, tokenizer, corpus, settings):
    """Write some texts with each method in WAYS, and print the cost and the measures of these texts."""
    learned, unseen = text.split(corpus.text)
    vocabulary = set(measures.words_of(learned))
    length = min(LENGTH, model.config.seq_len)
    tokens = torch.tensor(tokenizer.encode(unseen), device=model.head.weight.device)
    real = training.evenly(tokens[: len(tokens) // length * length].view(-1, length), settings.texts)  # (B, T)
    canvas = torch.full_like(real, tokenizer.mask_id)
    canvas[:, 0] = real[:, 0]

    tensors.heading(f"{name} writes {len(real)} texts of {length} characters in each way, at temperature 0.8")
    print(f"   {'':42} passes   rows per character   known words   distinct runs of 4")
    line = "   {:42} {:>6} {:>20} {:13.1%} {:20.1%}"
    samples = [tokenizer.decode(row) for row in real]
    print(line.format("real text", "", "", measures.known_words(samples, vocabulary), measures.distinct(samples)))
    rows = []  # how many rows each forward pass computes
    hook = model.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].numel()))
    for way, how in WAYS.items():
        torch.manual_seed(settings.seed)
        rows.clear()
        passes = 0.0
        for state in denoise_blocks(model, canvas, temperature=0.8, **how):
            passes += state.committed.any(1).float().mean().item()  # a text that waits for others needs no pass
        samples = [tokenizer.decode(row) for row in state.canvas]
        print(line.format(way, f"{passes:.0f}", f"{sum(rows) / canvas[:, 1:].numel():.1f}",
                          measures.known_words(samples, vocabulary), measures.distinct(samples)), flush=True)
    hook.remove()
    print("   Known words: the share that is in the training text. Distinct runs: low where texts repeat themselves.\n"
          "   threshold and factor wait for certainty and spell well, but look at their passes and distinct runs.\n"
          "   06_generate.py --fast writes like the second way, at a temperature of 0.85.\n"
          "   With so few texts, differences of a few percent are chance: docs/fast_decoding.md has measured more.")


def show(settings):
    device = devices.pick_device(settings.device)
    folder = checkpoint.find(settings.checkpoint, "dllm")
    model, tokenizer, info = checkpoint.load(folder, device, kinds=("dllm",))
    corpus = text.load(settings.corpus)
    if info.get("corpus_sha256") != corpus.sha256:
        raise cli.UserError(f"{folder.name} learned from another text than {corpus.name}: name that with --corpus, "
                            "or another run with --checkpoint")
    show_ways(folder.name, model, tokenizer, corpus, settings)
    print("\nNext: 12_scale.py, where model and text outgrow this machine.")


# 6. The command line


@dataclass(frozen=True)
class Time:
    """The flags of the measurement of time."""

    device: str = "auto"  # auto, cpu, cuda or mps


RULES = {"threshold": threshold, "factor": factor, "entropy": entropy_bound}


@dataclass(frozen=True)
class Rule:
    """The flags that choose a rule; give at most one of them. The default rule is `scattered`, as in chapter 04."""

    confidence: bool = False  # write the proposals with the highest probability first
    threshold: float | None = None  # write every proposal with at least this probability
    # write the n most probable proposals, if each has a probability of at least 1 - factor / (n + 1)
    factor: float | None = None
    # write the most certain proposals, and stop before the bound on their mutual information exceeds this many nats
    entropy: float | None = None

    def __post_init__(self):
        numbers = {name: getattr(self, name) for name in RULES if getattr(self, name) is not None}
        if len(numbers) + self.confidence > 1:
            raise ValueError("confidence, threshold, factor and entropy are different rules: choose one")
        for name, number in numbers.items():
            highest = 1 if name == "threshold" else 10**6
            if not 0 <= number <= highest:
                raise ValueError(f"{name} must be from 0 to {highest}")

    def select(self):
        """Return the rule and a bool: True if the rule decides by itself how many proposals a pass writes."""
        for name, make in RULES.items():
            if getattr(self, name) is not None:
                return make(getattr(self, name)), True
        return diffusion.by_confidence if self.confidence else diffusion.scattered, False


@dataclass(frozen=True)
class Write(generation.Writing):
    """The flags of writing."""

    # passes that write a window; by default 64, but with threshold, factor or entropy as many as needed
    steps: int | None = None
    temp: float | None = None  # temperature, by default 0.8; 0 always takes the most likely token
    rule: Rule = Rule()
    block: int = 0  # size of a block; each block is finished before the next one begins; 0 makes the canvas one block
    cached: bool = False  # compute only the rows of the block: faster, and slightly wrong
    correction: int = 0  # passes of correction at the end of a window, in addition to --steps

    def __post_init__(self):
        super().__post_init__()
        for name in ("block", "correction"):
            if not 0 <= getattr(self, name) <= 10**6:
                raise ValueError(f"{name} must be from 0 to 1000000")
        if self.cached and not self.block:
            raise ValueError("cached keeps the rows outside of a block: name its size with --block")


def write(settings):
    folder, model, tokenizer = generation.open_model(settings, "dllm")
    select, adaptive = settings.rule.select()
    steps = settings.steps or (model.config.seq_len if adaptive else 64)
    temperature = 0.8 if settings.temp is None else settings.temp
    canvas = generation.make_canvas(settings, tokenizer).to(model.head.weight.device)
    sampler = functools.partial(
        denoise_blocks, select=select, block=settings.block,
        reader=CachedBlockModel if settings.cached else BlockModel, correction=settings.correction)
    seed = generation.pick_seed(settings)
    states = generation.generate(model, canvas, steps, temperature, settings.topk, sampler)
    generation.watch(states, canvas, tokenizer, settings, f"seed {seed} · {folder.name}")


def main(argv=None):
    command, words = cli.sub_command(("show", "write", "time"), argv)
    if command == "write":
        write(cli.parse(Write, words))
    elif command == "time":
        show_time(cli.parse(Time, words))
    else:
        show(cli.parse(Show, words))


if __name__ == "__main__":
    cli.run(main, out_of_memory="lower --num, or use --device cpu")
