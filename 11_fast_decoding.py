"""Chapter 11: how few forward passes does a text need, and how cheap can a pass be?

    python 11_fast_decoding.py    # measure; 15 minutes on two cores (--size full: an hour)
    python 11_fast_decoding.py --write --steps 32 --remask 32    # the default of chapter 06
    python 11_fast_decoding.py --write --apart 12 --temp 0.6
    python 11_fast_decoding.py --write --order margin --threshold 0.9 --block 32 --cache dual
    python 11_fast_decoding.py --write --prompt "ROMEO:" --guidance 1 --remask 16

Chapter 04's sampler commits a planned number of characters per pass, and each pass computes all positions. This chapter
adds orders that ask how certain the model is, rules that commit more where that is safe, blocks, caches that let a pass
skip positions, and guidance by the prompt. It measures all of them against real text, with passes of correction or
without. A fast and good choice is `python 06_generate.py --fast`.
"""

import functools
import itertools
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import Literal

import torch

from plumbing import checkpoint, cli, sampling, settings

diffusion = import_module("04_diffusion")
generation = import_module("06_generate")


# 1. Selection rules: which proposals of a pass to commit

@dataclass(frozen=True)
class Proposals:
    """What one forward pass proposes for a block of b positions: all information that a selection rule may use."""

    logits: torch.Tensor  # (B, b, V)
    before: torch.Tensor | None  # (B, b, V) the logits of the previous pass; None in the first pass of a block
    confidence: torch.Tensor  # (B, b) probability of the proposed token
    masked: torch.Tensor  # (B, b) True where no token is committed yet
    quota: torch.Tensor  # (B,) how many positions to commit; a rule in RULES may commit more
    alphas: tuple  # chapter 04's alpha(t), the share of visible tokens, before and after this pass
    generator: torch.Generator | None

    @functools.cached_property
    def probability(self):
        return self.logits.float().softmax(-1)  # (B, b, V)


def noisy(seen):
    """Log-confidence plus Gumbel noise that falls with the number of masks (MaskGIT, Chang et al. 2022,
    arXiv:2202.04200): (B, b). Without the noise, early passes write spaces and short words between them."""
    noise = sampling.gumbel(seen.confidence, seen.generator)
    return seen.confidence.log() + seen.masked.float().mean(1, keepdim=True) * noise


def random_scores(seen):
    return torch.rand(seen.masked.shape, device=seen.masked.device, generator=seen.generator)  # (B, b)


def ancestral(seen):
    """Commit each mask independently with probability (α_s - α_t) / (1 - α_t), where the pass goes from noise level t
    to s (MDLM, Sahoo et al. 2024, arXiv:2406.07524). This reverses the masking of training; it ignores the quota."""
    alpha_t, alpha_s = seen.alphas
    return random_scores(seen) < (alpha_s - alpha_t) / (1 - alpha_t)


# An order by certainty writes common characters first, wherever they may belong. So the texts repeat themselves: at
# temperature 0.8, 26.2 % of their runs of four characters are distinct. With the order `ancestral` and correction it is
# 40.6 %, and in real text 42.9 % (docs/fast_decoding.md).
SCORES = {  # how certain the model is at each position: (B, b). The margin is from arXiv:2502.06768
    "peak": lambda seen: seen.probability.amax(-1),  # of the likeliest token, whichever token was drawn
    "margin": lambda seen: -seen.probability.topk(2).values.diff()[..., 0],  # p1 - p2 (Kim et al. 2025)
    "confidence": lambda seen: seen.confidence}
ORDERS = {  # each pass commits the positions with the highest scores, up to its quota; `ancestral` has no quota
    "scattered": lambda seen: (score := random_scores(seen)) + sampling.distance_to_surer(score, seen.masked),
    "isolated": lambda seen: sampling.distance_to_surer(noisy(seen), seen.masked) + seen.confidence,
    "random": random_scores,
    **SCORES, "noisy": noisy, "ancestral": ancestral}


def longest_prefix(score, masked, fits):
    """The longest run of lowest scores (B, b) for which fits(sorted scores) is True."""
    sorted_score, order = score.masked_fill(~masked, torch.inf).sort(1)
    keep = (fits(sorted_score) & sorted_score.isfinite()).long().cumprod(1).bool()  # False after the first False
    return torch.zeros_like(masked).scatter(1, order, keep)


def factor(seen, f):
    """The n most confident proposals, n the largest number with c_m ≥ 1 - f / (m + 1) for all m ≤ n (Fast-dLLM).
    If n tokens each have a probability above 1 - 1 / (n + 1), they are jointly the likeliest; f scales that bound."""
    n = torch.arange(1, seen.masked.shape[1] + 1, device=seen.masked.device)
    return longest_prefix(-seen.confidence, seen.masked, lambda c: -c >= 1 - f / (n + 1))


def entropy_bound(seen, gamma):
    """Positions of rising entropy H, as long as Σ H - max H ≤ γ nats. This bounds their mutual information, the
    error of sampling them independently (EB-Sampler, Ben-Hamu et al. 2025, arXiv:2505.24857)."""
    entropy = torch.special.entr(seen.probability).sum(-1)  # (B, b)
    return longest_prefix(entropy, seen.masked, lambda h: h.cumsum(1) - h <= gamma)


def stable(seen, epsilon, tau=0.9):
    """Confident proposals whose distribution p is close to that of the previous pass, q: their Kullback-Leibler (KL)
    divergence Σ p log(p / q), which is 0 only where p = q, is at most ε (KLASS, Kim et al. 2025, arXiv:2511.05664)."""
    if seen.before is None:
        return torch.zeros_like(seen.masked)
    log_p, log_q = seen.logits.float().log_softmax(-1), seen.before.float().log_softmax(-1)
    divergence = (seen.probability * (log_p - log_q)).sum(-1)  # (B, b)
    return (seen.confidence >= tau) & (divergence <= epsilon)


def apart(seen, distance):
    """Every proposal that is the most confident, after noise, within `distance` positions on both sides. Tokens of one
    pass do not see each other, and neighbours depend on each other most. So this rule asks how far apart the proposals
    are, and not how certain. (Luxembourg et al. 2025, arXiv:2506.19037, use fixed distances.)"""
    return sampling.distance_to_surer(noisy(seen), seen.masked) > distance


RULES = {  # each has a number, and commits more than its quota where it can: an adaptive rule
    "threshold": lambda seen, tau: seen.confidence >= tau,  # (Fast-dLLM, Wu et al. 2025, arXiv:2505.22618)
    "factor": factor, "entropy": entropy_bound, "stable": stable, "apart": apart}


# 2. Blocks, caches, guidance

@dataclass(frozen=True)
class Decoding:
    """How to fill a canvas. Give at most one of the rules --threshold … --apart; without one, --order decides alone."""

    order: Literal[tuple(ORDERS)] = "scattered"  # what to commit first; a rule can use peak, margin or confidence
    threshold: settings.number(float, 0, 1, optional=True) = None  # commit every proposal with at least this confidence
    factor: settings.number(float, 0, optional=True) = None  # commit n proposals if all are above 1 - factor / (n + 1)
    entropy: settings.number(float, 0, optional=True) = None  # commit the most certain up to this Σ H - max H, in nats
    stable: settings.number(float, 0, optional=True) = None  # commit confident proposals up to this KL to the last pass
    apart: settings.number(float, 1, 10_000, optional=True) = None  # commit the most confident within this distance
    block: settings.Natural = 0  # positions to finish before the next ones begin; 0: all at once
    cache: Literal["none", "prefix", "dual", "delayed"] = "none"  # which rows a pass does not compute
    refresh: settings.Natural = 0  # compute all rows again after so many passes; 0: only once in a block
    guidance: settings.NonNegative = 0.0  # how much more closely to follow the given text; 0: no guidance
    remask: settings.Natural = 0  # passes of correction at the end of a window, besides --steps
    schedule: settings.Decided[str] = "linear"  # of the order `ancestral`

    def __post_init__(self):
        settings.check(self)
        diffusion.NoiseSchedule(self.schedule)  # ValueError if there is no such schedule
        if len(self.rules) > 1:
            raise ValueError(f"--{self.rules[0]} and --{self.rules[1]} exclude each other: choose one")
        if self.rules and self.order not in ("scattered", *SCORES):
            raise ValueError(f"--{self.rules[0]} can use only one of these as --order: {', '.join(SCORES)}")
        if self.refresh and self.cache == "none":
            raise ValueError("--refresh renews a cache: add --cache")
        if self.cache == "dual" and not self.block:
            raise ValueError("--cache dual keeps the rows outside of a block: add --block")

    @property
    def rules(self):  # the adaptive rules that have a number: one or none
        return [name for name in RULES if getattr(self, name) is not None]

    def choose(self, seen):
        """Which of the Proposals to commit: (B, b). A rule is topped up to the quota with the highest scores."""
        if self.order == "ancestral":
            return ancestral(seen) & seen.masked
        if not self.rules:
            return sampling.top_ranked(ORDERS[self.order](seen), seen.masked, seen.quota)
        seen = replace(seen, confidence=SCORES.get(self.order, SCORES["confidence"])(seen))
        chosen = RULES[self.rules[0]](seen, getattr(self, self.rules[0])) & seen.masked
        return chosen | sampling.top_ranked(seen.confidence, seen.masked & ~chosen, seen.quota - chosen.sum(1))


def plan_blocks(masked, size, steps=None):
    """[(start, end, passes)]: the blocks of `size` columns that contain masks, from the first mask of masked (B, T) on.
    Size 0 is one block. The blocks share `steps` passes by their masks, with at least one each; None: one per mask."""
    first, length = int(masked.any(0).long().argmax()), masked.shape[1]
    edges = [*range(first, length, size), length] if size else [0, length]
    masks = [int(masked[:, start:end].sum(1).max()) for start, end in itertools.pairwise(edges)]
    done = [0, *itertools.accumulate(masks)]  # masks before each edge
    steps = done[-1] if steps is None else min(steps, done[-1])
    due = [-(-steps * n // max(1, done[-1])) for n in done]  # passes before each edge, rounded up
    return [(edges[i], edges[i + 1], max(1, due[i + 1] - due[i])) for i, n in enumerate(masks) if n]


class Network:
    """The model with a cache: it computes the logits of a block from as few rows as the cache allows.

    A pass computes one row per position. In each layer a row has a key and a value, which attention reads from other
    rows. A cache keeps keys and values, so that later passes compute only some rows:

      prefix   computes the block and what follows it, and keeps the rows before the block (Fast-dLLM)
      dual     computes the block, and keeps all rows outside of it (Fast-dLLM)
      delayed  computes the masks and the newest characters (after dKV-Cache, Ma et al. 2025, arXiv:2505.15781)

    A cache is exact where kept rows cannot change: in a causal model such as the GPT, where a row sees only the tokens
    to its left, which are final. In a dLLM every committed token changes the keys and values of all rows, from the
    second layer on, so kept rows belong to an older text. `dual` risks most: no row outside of the block learns what
    the block says, and errors accumulate until the next block or refresh."""

    def __init__(self, model, canvas, how):
        self.model, self.how, self.mask_id = model, how, model.config.mask_id
        self.nfe = 0  # number of function evaluations: forward passes so far
        self.given, (B, T) = canvas != self.mask_id, canvas.shape
        self.positions = torch.arange(T, device=canvas.device)
        self.cache = model.make_cache(2 * B if how.guidance else B, T) if how.cache != "none" else None

    def __call__(self, canvas, start, end, fresh):
        """Logits (B, end - start, V) of the columns [start, end) of canvas (B, T). fresh: compute all rows, and not
        only those that the cache asks for; the other logits are 0."""
        masked = (canvas == self.mask_id).any(0)  # (T,) masked in some text of the batch
        rows, x, kind = self.positions, canvas, self.how.cache
        if kind != "none" and not fresh:
            rows = {"prefix": rows[start:], "dual": rows[start:end], "delayed": rows[masked | self.before]}[kind]
        self.before = masked
        if self.how.guidance:  # with and without the given text, as one batch of 2 B texts
            x = torch.cat((canvas, canvas.masked_fill(self.given, self.mask_id)))
        logits = self.model(x[:, rows], (x == self.mask_id).float().mean(1), positions=rows, cache=self.cache)
        self.nfe += len(x) // len(canvas)
        logits = logits.new_zeros(*x.shape, logits.shape[-1]).index_copy(1, rows, logits)[:, start:end]
        if self.how.guidance:
            # Classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598): exaggerate what the given text changes
            # in the logits, w + 1 times, as LLaDA does (Nie et al. 2025, arXiv:2502.09992).
            known, unknown = logits.chunk(2)
            logits = unknown + (self.how.guidance + 1) * (known - unknown)
        return logits


# 3. The sampler

@torch.no_grad()
def decode(model, canvas, steps=None, temperature=0.8, top_k=None, generator=None, how=Decoding(), network=Network):
    """Fill the masks of `canvas` (B, T), T at most seq_len, as `how` says. Yields States like `diffusion.denoise`.
    steps: maximum number of passes, shared out among the blocks; None: one per mask. A text of the batch that has
    finished a block waits for the others. Its passes are the States that commit to it."""
    masked = canvas == model.config.mask_id
    network, alpha = network(model, canvas, how), diffusion.NoiseSchedule(how.schedule).alpha
    state = diffusion.State(canvas=canvas, confidence=(~masked).float(), committed=masked & False, step=0, nfe=0)
    yield state
    for start, end, passes in plan_blocks(masked, how.block, steps):
        here, total, before = slice(start, end), masked[:, start:end].sum(1), None
        for step in range(1, passes + 1):
            hidden = state.canvas[:, here] == network.mask_id  # (B, b)
            logits = network(state.canvas, start, end, fresh=(step - 1) % (how.refresh or passes) == 0)  # (B, b, V)
            token, confidence = diffusion.propose(logits, temperature, top_k, generator)  # (B, b) each
            quota = hidden.sum(1) - total * (passes - step) // passes  # (B,)
            levels = torch.tensor([1 - (step - 1) / passes, 1 - step / passes])  # noise before and after this pass
            chosen = how.choose(Proposals(
                logits=logits, before=before, confidence=confidence, masked=hidden, generator=generator,
                quota=quota.clamp(min=1) if how.rules else quota, alphas=alpha(levels).tolist()))
            state, before = commit(state, here, token, confidence, chosen, network), logits
            yield state
            if how.rules and torch.equal(chosen, hidden):  # the block is finished early
                break
    def predict(canvas, _):
        return network(canvas, 0, canvas.shape[1], fresh=True)  # all rows

    passes = max(0, min(how.remask, int(masked.sum(1).max()) - 1))  # a few characters need few passes
    for later in diffusion.correct(predict, network.mask_id, state, masked, passes, temperature, top_k, generator):
        yield replace(later, nfe=network.nfe)


def commit(state, here, token, confidence, chosen, network):
    """The next State: `token` (B, b) is committed where `chosen` (B, b) is True, in the columns of the slice `here`."""
    canvas, known, committed = state.canvas.clone(), state.confidence.clone(), torch.zeros_like(state.committed)
    known[:, here] = torch.where(canvas[:, here] == network.mask_id, confidence, known[:, here])
    canvas[:, here] = torch.where(chosen, token, canvas[:, here])
    committed[:, here] = chosen
    return replace(state, canvas=canvas, confidence=known, committed=committed, step=state.step + 1, nfe=network.nfe)


# 4. The program

@dataclass(frozen=True)
class Command(generation.Flags):
    steps: settings.OptionalCount = None  # maximum passes per window; usually 64, with --threshold … --apart no maximum
    write: settings.Switch = False  # write a text, instead of measuring
    decoding: Decoding = Decoding()
    dllm: settings.OptionalText = None  # measured dLLM: name or folder of a run; by default your latest, or the shipped
    gpt: settings.OptionalText = None  # measured GPT: the same
    corpus: str = "shakespeare"  # the text on which both models were trained: a name or a file
    size: Literal["auto", "quick", "full", "gpu"] = "auto"  # how much to measure; auto: gpu with CUDA, otherwise quick
    out: settings.OptionalPath = None  # folder for the page; by default report/ in the folder of the dLLM's run


def main(argv=None):
    command = settings.parse(Command, argv)
    changed = {field.name for field in fields(command) if getattr(command, field.name) != field.default}
    measuring, how = changed & {"dllm", "gpt", "corpus", "size", "out"}, command.decoding
    if not command.write:
        if changed - measuring - {"seed", "device"}:
            raise cli.UserError("a flag that describes a text, or how to write it, needs --write: add it")
        import_module("plumbing.reports.decoding_ways").run(command)  # imported late, because it imports this chapter
        print("\nNext: 12_scale.py, where model and text outgrow this machine.")
        return
    if measuring:
        raise cli.UserError(f"--{min(measuring)} is a flag of measuring: leave out --write")
    command = generation.prepare(replace(command, steps=command.steps or (generation.MAX_LENGTH if how.rules else 64)))
    folder = checkpoint.find(command.checkpoint)
    model, tokenizer, _ = generation.open_model(folder, command.device)
    rows = generation.canvas_rows(command, tokenizer)
    if how.guidance and set(rows[0]) == {model.config.mask_id}:
        raise cli.UserError("--guidance follows the text that is given: add --prompt or --infill")
    generation.watch(model, tokenizer, rows, command, folder.resolve().name, functools.partial(decode, how=how))


if __name__ == "__main__":
    cli.run(main, "lower --num, or use --device cpu")
