"""Chapter 11: how few passes does a text need, and how cheap can a pass be?

    python 11_fast_decoding.py                # the shipped pair; a quarter of an hour on two cores
    python 11_fast_decoding.py --size full    # on more texts, as docs/fast_decoding.md has it: three quarters
    python 06_generate.py --fast              # what the measurements chose, put to use

Chapter 04's sampler commits a fixed number of characters a pass, far apart, and computes every row of every pass.
Here are the rules that let a pass commit more where it is safe, blocks that are written one after the other, caches
for the rows outside a block, a way to take characters back, and guidance by the prompt. Then all are measured, by
chapter 10's judge of samples; docs/fast_decoding.md is written from the numbers.
"""

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from importlib import import_module

import torch

from plumbing import cli, corpora, files, measures, settings, tokenizers, views
from plumbing.reports import fast_decoding as decoding_report

tensors = import_module("01_tensors")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
verse = import_module("09_generate_tamil")
comparison = import_module("10_dllm_vs_gpt")


# 1. Rules: which of a pass's proposals to keep


@dataclass(frozen=True)
class Look:
    """What a pass shows of a block of b positions, which is all that a rule may go by.

    A rule takes a Look and its own number, and returns (B, b) True where to commit.
    """

    logits: torch.Tensor  # (B, b, V)
    before: torch.Tensor | None  # (B, b, V) those of the pass before, none in a block's first
    confidence: torch.Tensor  # (B, b) probability of the proposed token
    masked: torch.Tensor  # (B, b) True where nothing is committed yet
    quota: torch.Tensor  # (B,) how many to commit, or to adaptive rules: how many at least
    levels: tuple  # noise levels (t, s) before and after this pass: block's budget in equal steps from 1 to 0
    generator: torch.Generator | None

    @functools.cached_property
    def probability(self):
        return self.logits.float().softmax(-1)  # (B, b, V)


def ranked_by(select):
    """A rule of chapter 04 as one of this chapter."""
    return lambda look, _: select(look.confidence, look.masked, look.quota, look.generator)


def noisy(look, _):
    """The surest first, wherever they stand, with chapter 04's noise (MaskGIT, Chang et al. 2022)."""
    score = diffusion.noisy_log_confidence(look.confidence, look.masked, look.generator)
    return diffusion.top_ranked(score, look.masked, look.quota)


def peak(look):
    """The largest probability, whichever token is then drawn, as the first dLLMs of this size had it: (B, b)."""
    return look.probability.amax(-1)


def margin(look):
    """p1 - p2, the likeliest token's lead over the second (Kim et al. 2025): (B, b)."""
    p1, p2 = look.probability.topk(2).values.unbind(-1)  # (B, b) each
    return p1 - p2


SCORES = {"confidence": lambda look: look.confidence, "peak": peak, "margin": margin}  # of how sure the model is


def surest_by(score):
    """The rule that commits what is highest by one of SCORES."""
    return lambda look, _: diffusion.top_ranked(score(look), look.masked, look.quota)


def ancestral(look, schedule):
    """Each mask resolves on its own with probability (α_s - α_t) / (1 - α_t) (MDLM, Sahoo et al. 2024).

    This is the process that the model was trained to reverse. How many it commits is left to chance.
    """
    t, s = (diffusion.NoiseSchedule(schedule).alpha(torch.tensor(level)) for level in look.levels)
    chance = torch.rand(look.masked.shape, device=look.masked.device, generator=look.generator)
    return chance < ((s - t) / (1 - t)).item()


def at_least(look, sure):
    """`sure` (B, b), and the surest of the others where a text has fewer than its quota."""
    sure = sure & look.masked
    return sure | diffusion.top_ranked(look.confidence, look.masked & ~sure, look.quota - sure.sum(1))


def threshold(look, tau):
    """All proposals with confidence ≥ τ (Fast-dLLM, Wu et al. 2025)."""
    return at_least(look, look.confidence >= tau)


def longest_prefix(score, masked, fits):
    """The first positions by `score` (B, b), lowest first, for as long as `fits` says yes of the sorted scores."""
    sorted_score, order = score.masked_fill(~masked, math.inf).sort(1)
    keep = fits(sorted_score) & sorted_score.isfinite()
    return torch.zeros_like(masked).scatter(1, order, keep.long().cumprod(1).bool())  # nothing after the first no


def factor(look, f):
    """The n surest proposals, n the largest with c_m ≥ 1 - f / (m + 1) for each m ≤ n (Fast-dLLM).

    If n tokens each are right with probability at least 1 - ε, drawing them apart is as good as drawing them
    together as long as (n + 1) ε ≤ 1; f is how much of that bound to use.
    """
    n = torch.arange(1, look.masked.shape[1] + 1, device=look.masked.device)
    return at_least(look, longest_prefix(-look.confidence, look.masked, lambda c: -c >= 1 - f / (n + 1)))


def entropy_bound(look, gamma):
    """The positions of lowest entropy H, as many as keep Σ H - max H ≤ γ (EB, Ben-Hamu et al. 2025).

    The left side bounds what is lost by drawing them apart: their mutual information. A single one is always free.
    """
    entropy = torch.special.entr(look.probability).sum(-1)  # (B, b)
    return at_least(look, longest_prefix(entropy, look.masked, lambda h: h.cumsum(1) - h <= gamma))


def stable(look, epsilon, tau=0.9):
    """Confident, and with KL(now || before) ≤ ε: the last pass no longer changed the opinion (KLASS, Kim et al. 2025).

    One pass is looked back at. In a block's first there is nothing to compare with.
    """
    if look.before is None:
        return at_least(look, torch.zeros_like(look.masked))
    p, log_p, log_q = look.probability, look.logits.float().log_softmax(-1), look.before.float().log_softmax(-1)
    kl = (p * (log_p - log_q)).sum(-1)  # (B, b)
    return at_least(look, (look.confidence >= tau) & (kl <= epsilon))


def apart(look, distance):
    """Every proposal that is the surest of all masks within `distance` on either side: chapter 04's rule by isolation,
    which commits a fixed number, turned round.

    The other rules ask how sure a proposal is, and letters are hardly ever sure. This one asks whom a commitment could
    contradict, and lets the far ones through. (Dilated unmasking, Luxembourg et al. 2025, fixes such gaps beforehand.)
    """
    score = diffusion.noisy_log_confidence(look.confidence, look.masked, look.generator)
    return at_least(look, diffusion.distance_to_surer(score, look.masked) > distance)


@dataclass(frozen=True)
class Rule:
    choose: Callable  # (Look, number) → (B, b) bool
    low: float = 0.0  # of its number
    high: float = math.inf
    adaptive: bool = True  # commits at least its quota, and ends early; others take their budget of passes exactly
    pace: float = 1.0  # chapter 04's: how a budget of passes is shared out


RULES = {
    "isolated": Rule(ranked_by(diffusion.by_isolation), adaptive=False, pace=diffusion.PACE),
    "noisy": Rule(noisy, adaptive=False),
    "confidence": Rule(ranked_by(diffusion.by_confidence), adaptive=False),
    "random": Rule(ranked_by(diffusion.at_random), adaptive=False),
    "peak": Rule(surest_by(peak), adaptive=False),
    "margin": Rule(surest_by(margin), adaptive=False),
    "ancestral": Rule(ancestral, adaptive=False),
    "threshold": Rule(threshold, 0, 1),
    "factor": Rule(factor),
    "entropy": Rule(entropy_bound),
    "stable": Rule(stable),
    "apart": Rule(apart, 1, 10_000),
}
ORDERS = [name for name, rule in RULES.items() if not rule.adaptive]


# 2. Blocks, caches, guidance


@dataclass(frozen=True)
class Decoding:
    """How to fill a canvas: a rule with its number, and what goes with it."""

    rule: str = "isolated"
    number: float = 0.0  # the rule's, if it has one
    score: str = "confidence"  # of SCORES: what an adaptive rule compares with its number
    schedule: str = "linear"  # of the ancestral rule
    block: int = 0  # positions that are finished before the next ones begin; 0: the whole canvas at once
    cache: str = "none"  # "none" | "prefix" | "dual" | "delayed"
    refresh: int = 0  # passes between two that recompute every row; 0: only a block's first does
    guidance: float = 0.0  # w of classifier-free guidance by what is given
    remask: int = 0  # passes at the end that take characters back and write them again
    sigma: float = 0.05  # the share that each of these takes back

    def __post_init__(self):
        if self.rule not in RULES:
            raise ValueError(f"no rule {self.rule!r}; choose from {', '.join(RULES)}")
        low, high = RULES[self.rule].low, RULES[self.rule].high
        if not (low <= self.number <= high and self.number < math.inf):
            limit = f"from {low:g} to {high:g}" if high < math.inf else f"{low:g} or more"
            raise ValueError(f"the number of rule {self.rule} must be {limit}, not {self.number:g}")
        if self.cache not in CACHES:
            raise ValueError(f"no cache {self.cache!r}; choose from {', '.join(CACHES)}")
        if self.refresh and self.cache == "none":
            raise ValueError("refresh says how often a cache is made anew: choose a cache too")
        if min(self.block, self.refresh, self.remask, self.guidance) < 0 or not 0 < self.sigma <= 1:
            raise ValueError("block, refresh, remask and guidance cannot be negative, and sigma is a share")
        if self.cache == "dual" and not self.block:
            raise ValueError("the dual cache keeps what is outside of a block: choose a block too")
        diffusion.NoiseSchedule(self.schedule)

    def choose(self, look):
        look = replace(look, confidence=SCORES[self.score](look))
        number = self.schedule if self.rule == "ancestral" else self.number
        return RULES[self.rule].choose(look, number) & look.masked


CACHES = ("none", "prefix", "dual", "delayed")
FAST, FAST_TEMPERATURE = Decoding("apart", 12, cache="delayed", refresh=8), 0.6


def sampler(flags, fast=False):
    """(a sampler to call like `diffusion.denoise`, whether it is adaptive) for flags of chapter 06, {name: value}."""
    values = asdict(FAST) if fast else {}
    if flags.get("cache") == "none":
        values.pop("refresh", None)
    for name, value in flags.items():
        values |= {"rule": name, "number": value} if name in RULES else {name: value}
    if order := values.pop("order", None):
        if order not in ORDERS:
            raise cli.UserError(f"no order {order!r}; choose from {', '.join(ORDERS)}")
        if "rule" in values and order not in SCORES:
            raise cli.UserError(f"--order {order} is no score of how sure the model is, which the rule "
                                   f"{values['rule']} needs: choose from {', '.join(SCORES)}")
        values |= {"score": order} if "rule" in values else {"rule": order}
    how = settings.build(Decoding, **values)
    return functools.partial(decode, how=how), RULES[how.rule].adaptive


def plan_blocks(masked, size, steps=None):
    """[(start, end, passes)]: blocks of `size` columns that have masks, from the first mask of masked (B, T) on;
    0: one block of all columns.

    `steps` passes are shared out by masks, at least one a block; None: as many as masks, one character a pass.
    """
    per_column = masked.long().cumsum(1)  # (B, T): one look at the device for all blocks
    columns = masked.any(0).nonzero()[:, 0].tolist()
    if not columns:
        return []
    length = masked.shape[1]
    edges = [*range(columns[0], length, size), length] if size else [0, length]
    upto = torch.cat((torch.zeros_like(per_column[:, :1]), per_column), 1)[:, edges]  # (B, blocks + 1)
    masks = upto.diff(dim=1).amax(0).tolist()  # of the text that has most
    done = [0, *itertools.accumulate(masks)]
    steps = done[-1] if steps is None else min(steps, done[-1])
    due = [-(-steps * n // done[-1]) for n in done]  # passes that may be used by the end of each block, rounded up
    return [(s, e, max(1, after - before)) for (s, e), n, (before, after)
            in zip(itertools.pairwise(edges), masks, itertools.pairwise(due)) if n]


class Network:
    """Logits of a block, from a pass over no more rows than the cache asks for.

    Keys and values of rows that are not computed come from chapter 02's buffer, where they stand at their absolute
    positions as they were when last computed. For a bidirectional model that is an approximation:

      prefix   all before the block is kept; the block and what follows it are computed (Fast-dLLM)
      dual     all outside of the block is kept (Fast-dLLM)
      delayed  all that was committed before the last pass is kept; masks, and what just stopped to be one, are
               computed (after dKV-Cache, Ma et al. 2025)
    """

    def __init__(self, model, canvas, how):
        self.model, self.how, self.nfe, (B, T) = model, how, 0, canvas.shape
        self.given = canvas != model.config.mask_id
        self.cache = model.make_cache(2 * B if how.guidance else B, T) if how.cache != "none" else None
        self.positions = torch.arange(T, device=canvas.device)

    def __call__(self, canvas, start, end, fresh):
        """Logits (B, end - start, V) of the block [start:end) of canvas (B, T). fresh: compute every row.

        Rows of the block that are not computed, for they have no mask, have logits 0.
        """
        mask_id, rows = self.model.config.mask_id, self.positions
        masked = (canvas == mask_id).any(0)  # (T,) in some text of the batch
        if self.cache is not None and not fresh:
            if self.how.cache == "prefix":
                rows = rows[start:]
            elif self.how.cache == "dual":
                rows = rows[start:end]
            else:
                rows = (masked | self.before).nonzero()[:, 0]
        self.before, x = masked, canvas
        if self.how.guidance:  # with and without what is given, as one batch of 2 B texts
            x = torch.cat((canvas, canvas.masked_fill(self.given, mask_id)))
        t = (x == mask_id).float().mean(1)
        logits = self.model(x[:, rows], t, positions=rows, cache=self.cache)
        self.nfe += len(x) // len(canvas)
        logits = logits.new_zeros(*x.shape, logits.shape[-1]).index_copy(1, rows, logits)[:, start:end]
        if self.how.guidance:
            known, unknown = logits.chunk(2)
            logits = unknown + (self.how.guidance + 1) * (known - unknown)  # as LLaDA has it (Nie et al. 2025)
        return logits


# 3. The sampler


@torch.no_grad()
def decode(model, canvas, steps=None, temperature=0.8, top_k=None, generator=None, how=Decoding()):
    """Fill the masks of `canvas` (B, T) as `how` says, T at most seq_len. Yields `diffusion.State`s like `denoise`.

    steps: passes in all, shared out among the blocks, each at least one; an adaptive rule takes fewer if it can.
    None: as many as masks. A text of a batch that is done with a block waits for the others; what each text alone
    would have needed is the number of states that commit something to it.
    """
    masked = canvas == model.config.mask_id
    written, confidence, nothing = masked, (~masked).float(), torch.zeros_like(masked)
    network, number, adaptive = Network(model, canvas, how), 0, RULES[how.rule].adaptive
    yield diffusion.State(canvas, confidence, nothing, 0, 0)
    for start, end, budget in plan_blocks(masked, how.block, steps):
        here, total, before = slice(start, end), masked[:, start:end].sum(1), None
        for step in range(1, budget + 1):
            fresh = step == 1 or how.refresh and (step - 1) % how.refresh == 0
            logits, hidden = network(canvas, start, end, fresh), masked[:, here]  # (B, b, V), (B, b)
            token, sure = diffusion.propose(logits, temperature, top_k, generator)
            quota = hidden.sum(1) - diffusion.masks_remaining(total, step, budget, RULES[how.rule].pace)  # (B,)
            if adaptive:
                quota = quota.clamp(min=1)
            levels = 1 - (step - 1) / budget, 1 - step / budget
            commit = how.choose(Look(logits, before, sure, hidden, quota, levels, generator))  # (B, b)
            canvas, confidence, committed, masked = (x.clone() for x in (canvas, confidence, nothing, masked))
            canvas[:, here] = torch.where(commit, token, canvas[:, here])
            confidence[:, here] = torch.where(hidden, sure, confidence[:, here])
            committed[:, here], masked[:, here], before, number = commit, hidden & ~commit, logits, number + 1
            yield diffusion.State(canvas, confidence, committed, number, network.nfe)
            if adaptive and not masked[:, here].any():  # the only rules that must look before they go on
                break
    for step in itertools.count():
        if step < how.remask:
            back = take_back(confidence, written & ~masked, how.sigma, generator)
            canvas, masked = torch.where(back, model.config.mask_id, canvas), masked | back
        elif not masked.any():
            break
        token, sure = diffusion.propose(network(canvas, 0, canvas.shape[1], True), temperature, top_k, generator)
        # What is taken back stands together, in one odd word: it must not be written again all at once.
        commit = apart(Look(None, None, sure, masked, nothing.sum(1), (0, 0), generator), FAST.number)
        canvas, confidence = torch.where(commit, token, canvas), torch.where(masked, sure, confidence)
        masked, number = masked & ~commit, number + 1
        yield diffusion.State(canvas, confidence, commit, number, network.nfe)


def take_back(confidence, written, sigma, generator=None):
    """Which of the characters `written` (B, T) to mask again: (B, T) bool, about a share `sigma`, unsure ones first.

    ReMDM (Wang et al. 2025): a sampler on its way from noise level t to s may mask what is visible again, with any
    probability σ ≤ (1 - α_s) / α_t, and still leads to the data. Theirs loops at one level in between; here the loop
    is at the end, between α_t = 1 and α_s = 1 - σ. The share of each character goes with 1 - its confidence when
    committed, so that where the model was sure nothing is undone.
    """
    doubt = (1 - confidence) * written
    share = sigma * doubt * written.sum(1, keepdim=True) / doubt.sum(1, keepdim=True).clamp(min=1e-9)  # (B, T)
    return torch.rand(confidence.shape, device=confidence.device, generator=generator) < share


# 4. What all of it buys


def ways(dllm, gpt, length):
    """Every `decoding_report.Way` to write so many characters that is measured, the lines to beat first."""
    long = length > dllm.config.seq_len

    def way(kind, name, steps=None, temperature=0.8, how=None, model=dllm, same_without=None):
        sampler = functools.partial(decode, how=how) if how else diffusion.denoise
        adaptive = how is not None and RULES[how.rule].adaptive
        return decoding_report.Way(kind, name, model, steps or length, temperature, sampler, adaptive, same_without)

    yield way("plain", "plain, one character a pass")
    yield way("plain", "plain, 64 passes a window (default)", 64)
    yield way("plain", "plain, 16 passes a window", 16)
    yield way("GPT", "GPT with KV cache", model=gpt)
    yield way("rule", "noisy, 64 passes a window", 64, how=Decoding("noisy"))
    if not long:
        for steps in (64, 16):
            yield way("ancestor", f"surest peak, drawn, {steps} passes", steps, how=Decoding("peak"))
        for how in (*(Decoding(rule) for rule in ("random", "confidence", "margin")),
                    *(Decoding("ancestral", schedule=name) for name in diffusion.NoiseSchedule.NAMES)):
            name = f"ancestral, {how.schedule}" if how.rule == "ancestral" else how.rule
            yield way("rule", f"{name}, 64 passes", 64, how=how)
        for cache in ("none", "prefix", "dual"):
            name = "confidence, blocks of 32, 64 passes"
            yield way("block" if cache == "none" else "cache", name + f", {cache}" * (cache != "none"), 64,
                      how=Decoding("confidence", block=32, cache=cache), same_without=name)
        for rule, number in (("threshold", 0.9), ("factor", 1.0), ("entropy", 0.5), ("stable", 0.01)):
            how = Decoding(rule, number, block=32, cache="dual")
            yield way("block", f"{rule} {number:g}, blocks of 32, dual", how=how)
        yield way("remask", "ancestral, 32 passes and 32 to mend", 32, how=Decoding("ancestral", remask=32))
        yield way("remask", "apart 4, and 16 to mend", how=Decoding("apart", 4, remask=16))
    for number, temperature in ((4, 0.8), (8, 0.8), (12, 0.8), (4, 0.6), (8, 0.6), (12, 0.6)):
        yield way("rule", f"apart {number}", None, temperature, Decoding("apart", number))
    for cache in ("prefix", "dual") if not long else ():
        yield way("cache", f"apart 12, blocks of 64, {cache}", None, FAST_TEMPERATURE,
                  Decoding("apart", 12, block=64, cache=cache), same_without="apart 12")
    yield way("cache", "apart 12, delayed", None, FAST_TEMPERATURE, replace(FAST, refresh=0), same_without="apart 12")
    yield way("fast", "apart 12, delayed, refreshed (--fast)", None, FAST_TEMPERATURE, FAST, same_without="apart 12")


SIZES = {"quick": (16, 4), "full": (32, 16), "gpu": (256, 64)}  # texts of LENGTHS
LENGTHS = (256, 1024)


def animate(model, tokenizer, seed):
    """A text in blocks of four, as the bytes of a GIF."""
    canvas = torch.full((1, 160), model.config.mask_id, device=model.head.weight.device)
    how, generator = Decoding("threshold", 0.9, block=4, cache="dual"), torch.Generator(canvas.device).manual_seed(seed)
    history = list(decode(model, canvas, generator=generator, how=how))
    letters = [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)] + [tokenizers.MASK_CHAR]
    return views.gif_bytes([generation.on_cpu(state) for state in history], [[False] * 160], letters)


def main(argv=None):
    args, text, dllm, gpt, tokenizer, about = comparison.prepare(argv, __doc__, SIZES)
    train_text, val_text = corpora.split(text.text)
    val_ids = torch.tensor(tokenizer.encode(val_text), device=args.device)
    judge = measures.Judge(train_text, tokenizer.vocab_size)
    vocabulary, parts = set(measures.words_of(train_text)), []
    for length, texts in zip(LENGTHS, SIZES[args.size]):
        rows = training.windows_of(val_ids, length, texts)  # (N, T)
        if len(rows) < 2:
            raise cli.UserError(f"{text.name} is too short to compare on: its last tenth must fill several texts")
        cli.heading(f"{len(rows)} texts of {length} characters")
        print(f"  {'':44} temp passes rows/ch. known words   judge's NLL     distinct")
        parts.append(decoding_report.measure(
            ways(dllm, gpt, length), rows, judge, vocabulary, tokenizer, args.seed))
    with files.whole_file(args.out / "figures" / "fast_decoding.gif") as path:
        path.write_bytes(animate(dllm, tokenizer, args.seed))
    decoding_report.write(about | {"size": args.size, "parts": parts}, args.out)
    print("\nNext: 12_scale.py, where model and text outgrow this machine.")


if __name__ == "__main__":
    cli.run(main)
