"""Chapter 04: how can a model write text in any order?

    python 04_diffusion.py          # about 20 seconds on two cores

A GPT learns to guess the next character. A masked diffusion model learns to guess any hidden characters
from all visible ones; to write, it starts from a canvas of masks and uncovers it in a few passes. You
will see how noise hides text, that the bound on the likelihood is exact where the truth is known, and a
small model that learns four sentences by heart and then brings them back from nothing, step by step.
"""

import argparse
import math
from dataclasses import dataclass, replace
from importlib import import_module
from typing import ClassVar

import torch
import torch.nn.functional as F

from plumbing import cli, figures, files, tokenizers

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")


# 1. Noise


@dataclass(frozen=True)
class NoiseSchedule:
    """How fast tokens disappear as t goes from 0 (clean) to 1 (all masked).

    alpha(t) is the probability that a token is still visible; weight(t) = -alpha'(t) / (1 - alpha(t)) is
    what a masked token's cross-entropy counts for in the NELBO (MDLM, Sahoo et al. 2024, equation 10).
    The NELBO itself is the same for each schedule: it only decides which noise levels get the samples.
    """

    NAMES: ClassVar = ("linear", "cosine", "sqrt")
    name: str = "linear"

    def __post_init__(self):
        if self.name not in self.NAMES:
            raise ValueError(f"schedule is {self.name!r}; choose from {', '.join(self.NAMES)}")

    def alpha(self, t):
        if self.name == "linear":
            return 1 - t
        if self.name == "cosine":
            return torch.cos(math.pi / 2 * t)
        return 1 - t.sqrt()

    def weight(self, t):
        if self.name == "linear":
            return 1 / t
        if self.name == "cosine":
            return math.pi / 2 / torch.tan(math.pi / 4 * t)  # sin x / (1 - cos x) = 1 / tan(x / 2)
        return 0.5 / t


def mask_tokens(x0, t, mask_id, schedule=NoiseSchedule(), generator=None):
    """Hide each token of x0 (B, T) on its own with probability 1 - alpha(t), t: (B,). Returns xt (B, T)."""
    hidden = torch.rand(x0.shape, device=x0.device, generator=generator) >= schedule.alpha(t)[:, None]
    return torch.where(hidden, mask_id, x0)


def mask_exactly(x0, k, mask_id, generator=None, given=0):
    """Hide exactly k (B,) tokens of each row of x0 (B, T), every choice equally likely. Returns xt (B, T).

    The first `given` tokens of a row are never hidden; k is at most T - given.
    """
    score = torch.rand(x0.shape, device=x0.device, generator=generator)
    score[:, :given] = 1  # all others are lower
    rank = score.argsort(1).argsort(1)  # (B, T)
    return torch.where(rank < k[:, None], mask_id, x0)


# 2. Training loss and likelihood


def stratified(n, device=None, generator=None):
    """n numbers in [0, 1), one in each n-th of the interval, in random order: (n,).

    Spreading the noise levels of a batch evenly takes most of the variance out of the loss.
    """
    u = torch.rand(n, device=device, generator=generator)
    return (torch.randperm(n, device=device, generator=generator) + u) / n


def masked_cross_entropy(model, x0, xt, t):
    """Cross-entropy of x0 under model(xt) at each masked position, 0 at the visible ones: (B, T), in nats."""
    logits = model(xt, t)  # (B, T, V)
    loss = F.cross_entropy(logits.float().flatten(0, 1), x0.flatten(), reduction="none").view_as(x0)
    return loss * (xt == model.config.mask_id)


def diffusion_loss(model, x0, t_max=0.8, generator=None):
    """What training minimises: the mean cross-entropy over masked tokens of x0 (B, T).

    It weighs each masked token alike, whatever t, which trains better than the NELBO's weight 1/t but is
    not a likelihood. Levels above `t_max` are left out: with almost nothing visible there is little to
    learn but letter frequencies, and a model meets those levels only in the first steps of sampling.
    """
    B, T = x0.shape
    k = 1 + (stratified(B, x0.device, generator) * t_max * T).long().clamp(max=T - 1)  # (B,)
    xt = mask_exactly(x0, k, model.config.mask_id, generator)
    return masked_cross_entropy(model, x0, xt, k / T).sum() / k.sum()


@torch.no_grad()
def nelbo_by_schedule(model, x0, schedule, seed=0):
    """Upper bound on -log p(x0), x0 (N, T), in nats per token, as the papers write it: (mean, standard error).

    -log p(x0) <= E over t uniform in [0, 1] of weight(t) Σ over the masked tokens of their cross-entropy
    (MDLM, equation 10). True for every schedule; `nelbo` below estimates the same with less noise.
    """
    generator = torch.Generator(x0.device).manual_seed(seed)
    t = stratified(len(x0), x0.device, generator).clamp(min=1e-6)  # (N,)
    xt = mask_tokens(x0, t, model.config.mask_id, schedule, generator)
    loss = masked_cross_entropy(model, x0, xt, 1 - schedule.alpha(t))  # (N, T)
    bounds = (schedule.weight(t)[:, None] * loss).mean(1).cpu().double()  # (N,)
    return bounds.mean().item(), (bounds.std() / len(bounds) ** 0.5).item()


@torch.no_grad()
def nelbo(model, x0, draws=1, batch_size=64, seed=0, given=0):
    """Upper bound on the negative log-likelihood of x0 (N, T), in nats per token: (mean, standard error).

    -log p(x0) <= E over k uniform in 1 … T of (T / k) Σ over the k masked tokens of their cross-entropy
    (LLaDA, Nie et al. 2025, equation 6). k is stratified over all N × draws evaluations, and the seed is
    fixed, so that two models are compared on the same masks. The error is that of the random masks.
    The first `given` tokens of each row are known and do not count: T above is then what follows them.
    """
    generator = torch.Generator(x0.device).manual_seed(seed)
    x0 = x0.repeat(draws, 1)
    N, T = len(x0), x0.shape[1] - given
    k = 1 + (stratified(N, x0.device, generator) * T).long().clamp(max=T - 1)  # (N,)
    bounds = []
    for rows, ks in zip(x0.split(batch_size), k.split(batch_size)):
        xt = mask_exactly(rows, ks, model.config.mask_id, generator, given)
        bounds.append(masked_cross_entropy(model, rows, xt, ks / (T + given)).sum(1) / ks)  # (T/k) Σ / T
    bounds = torch.cat(bounds)[k.argsort()].cpu().double()  # (N,) one a stratum, in order of noise
    # Most of the spread is between noise levels, which the strata take out: the error is what is left
    # between neighbours (collapsed strata, Cochran 1977, section 5A.12).
    pairs = bounds[: N // 2 * 2].view(-1, 2)
    return bounds.mean().item(), (pairs.diff().square().sum().sqrt() / N).item()


# 3. Sampling


@dataclass(frozen=True)
class State:
    """One step of `denoise`: what every view, progress bar and test consumes."""

    canvas: torch.Tensor  # (B, T) tokens, model.config.mask_id where still unknown
    confidence: torch.Tensor  # (B, T) probability when committed; given: 1; still masked: best guess so far
    committed: torch.Tensor  # (B, T) True where this step put a token
    step: int  # 0 is the untouched canvas
    nfe: int  # forward passes so far

    def to(self, device):
        return replace(
            self, canvas=self.canvas.to(device), confidence=self.confidence.to(device),
            committed=self.committed.to(device))


def by_confidence(confidence, masked, count, generator=None):
    """Selection rule: commit the `count` (B,) proposals that the model is surest of. Returns (B, T) bool."""
    return top_ranked(confidence, masked, count)


def by_isolation(confidence, masked, count, generator=None):
    """Selection rule: the peaks of confidence that stand furthest apart, so that neighbours do not go together.

    Characters that one pass commits do not see each other. Far apart that does little harm, but the third letter
    of a word depends on the second: drawn at once, they may belong to two different words.
    """
    far = distance_to_surer(noisy_log_confidence(confidence, masked, generator), masked)
    return top_ranked(far + confidence, masked, count)  # distances are whole numbers: of equal ones the surer


def distance_to_surer(score, masked):
    """How far the nearest masked position with a higher score is: (B, T), inf where there is none, 0 if not masked.

    The word is the mountaineer's: a peak's isolation is the way to the next higher ground.
    """
    score, T = score.masked_fill(~masked, -math.inf), score.shape[1]
    place = torch.arange(T, device=score.device, dtype=score.dtype)
    higher = score[:, None, :] > score[:, :, None]  # (B, T, T): is the second position above the first?
    distance = torch.where(higher, (place[:, None] - place).abs(), math.inf).amin(-1)  # (B, T)
    return distance.masked_fill(~masked, 0)


def noisy_log_confidence(confidence, masked, generator=None):
    """The logarithm of confidence (B, T), with Gumbel noise that fades as masks disappear.

    Pure confidence likes to begin with spaces and common short words, everywhere at once, and the rest must
    then fit between them. Some chance at the start gives livelier text (MaskGIT, Chang et al. 2022).
    """
    noise = torch.rand(confidence.shape, device=confidence.device, generator=generator)
    gumbel = -(-noise.clamp(1e-6, 1 - 1e-6).log()).log()
    return confidence.log() + masked.float().mean(1, keepdim=True) * gumbel


def at_random(confidence, masked, count, generator=None):
    """Selection rule: commit `count` (B,) masked positions chosen at random, as the theory has it."""
    noise = torch.rand(confidence.shape, device=confidence.device, generator=generator)
    return top_ranked(noise, masked, count)


def top_ranked(score, masked, count):
    """True at the `count` (B,) highest scores (B, T) among the masked positions of each row."""
    rank = score.masked_fill(~masked, -math.inf).argsort(1, descending=True).argsort(1)  # (B, T)
    return (rank < count[:, None]) & masked


def propose(logits, temperature, top_k=None, generator=None):
    """A token for each position and its probability, from logits (B, T, V): two tensors (B, T).

    temperature 0 takes the likeliest. The probability is that of the drawn token before temperature and
    top-k, so that it says how sure the model is and not how we draw.
    """
    probability = logits.float().softmax(-1)  # (B, T, V)
    if temperature == 0:
        token = logits.argmax(-1)
    else:
        if top_k is not None:
            least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
            logits = logits.masked_fill(logits < least, -math.inf)
        upto = (logits.float() / temperature).softmax(-1).cumsum(-1)  # (B, T, V) probability of a token and all before
        chance = 1 - torch.rand(*logits.shape[:2], 1, device=logits.device, generator=generator)  # never 0
        token = torch.searchsorted(upto, chance * upto[..., -1:])[..., 0]  # far quicker than torch.multinomial
    return token, probability.gather(-1, token[..., None])[..., 0]


PACE = 1.5  # more characters a pass while there is room to keep them apart; 1: as many in each


def masks_remaining(total, step, steps, pace=PACE):
    """How many of `total` (B,) masks to leave after pass `step` of `steps`: their share (1 - step / steps)^pace, but
    one a pass where that is more, so that no pass is idle."""
    share = (steps - step) / steps
    return torch.maximum((total * share**pace + 1e-3).long(), total.clamp(max=steps) * (steps - step) // steps)


@torch.no_grad()
def denoise(model, canvas, steps=64, temperature=0.8, top_k=None, select=by_isolation, pace=PACE, generator=None):
    """Fill the masks of `canvas` (B, T) in `steps` forward passes, or fewer if there are fewer masks.

    Each pass proposes a token for every masked position, and the rule `select` says which of them to keep, `pace`
    how many. Tokens that are given (a prompt, or the text around a blank) never change. Yields a `State` before the
    first pass and after each; the last has no masks.
    """
    mask_id = model.config.mask_id
    masked = canvas == mask_id
    total = masked.sum(1)  # (B,)
    steps = min(steps, int(total.max()))
    confidence = (~masked).float()
    yield State(canvas, confidence, torch.zeros_like(masked), 0, 0)
    for step in range(1, steps + 1):
        t = (canvas == mask_id).float().mean(1)  # (B,) the share of masks is the noise level
        token, sure = propose(model(canvas, t), temperature, top_k, generator)
        count = masked.sum(1) - masks_remaining(total, step, steps, pace)
        commit = select(sure, masked, count, generator)  # (B, T)
        canvas = torch.where(commit, token, canvas)
        confidence = torch.where(masked, sure, confidence)
        masked = masked & ~commit
        yield State(canvas, confidence, commit, step, step)


# 4. The demonstration


SENTENCES = (
    "To be, or not to be, that is the question.\n"
    "All the world's a stage, and men are players.\n"
    "We are such stuff as dreams are made on.\n"
    "The course of true love never did run smooth.\n"
)


def show_schedules(show):
    """Table and figure: how much is visible at t, and what a masked token counts for."""
    t = torch.tensor([0.1, 0.25, 0.5, 0.75, 0.9])
    cli.heading("1. Noise: the share of tokens still visible, alpha(t)")
    print("   t      " + "".join(f"{x:8.2f}" for x in t.tolist()))
    for name in NoiseSchedule.NAMES:
        print(f"   {name:7}" + "".join(f"{x:8.3f}" for x in NoiseSchedule(name).alpha(t).tolist()))
    t = torch.linspace(0.01, 1, 200)
    figure, (left, right) = figures.pyplot(show).subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    for schedule in map(NoiseSchedule, NoiseSchedule.NAMES):
        left.plot(t, schedule.alpha(t), label=schedule.name)
        right.plot(t, schedule.weight(t))
    left.set(xlabel="t", title="alpha(t): share of tokens visible")
    right.set(xlabel="t", yscale="log", title="weight of a masked token in the NELBO")
    left.legend()
    figures.save_figure(figure, files.ROOT / "figures" / "04_schedules.png", show)


def show_masking(tokenizer):
    """One sentence at four noise levels."""
    x0 = torch.tensor([tokenizer.encode(SENTENCES.split("\n")[0])])
    cli.heading("2. Masking: each character is hidden on its own")
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        xt = mask_tokens(x0, torch.tensor([t]), tokenizer.vocab_size)
        print(f"   t = {t:4.2f}   {tokenizer.decode(xt[0].tolist())}")


class Unigram(torch.nn.Module):
    """A model that knows letter frequencies and nothing else: its exact likelihood needs no bound."""

    def __init__(self, config, frequencies):
        super().__init__()
        self.config, self.logits = config, frequencies.log()

    def forward(self, tokens, t=None):
        return self.logits.expand(*tokens.shape, -1)  # (B, T, V)


def show_likelihood(x0, config):
    """The NELBO of a model whose likelihood is known."""
    frequencies = torch.bincount(x0.flatten(), minlength=config.vocab_size).float()
    frequencies /= frequencies.sum()
    exact = torch.special.entr(frequencies).sum().item()
    model, many = Unigram(config, frequencies), x0.repeat(2000, 1)
    cli.heading("3. Likelihood: the bound is tight where the truth is known")
    print(f"   {'exact':16} {exact:.4f}  nats per character, for a model of letter frequencies alone. The NELBO:")
    schedules = map(NoiseSchedule, NoiseSchedule.NAMES)
    estimates = {f"{schedule.name} schedule": nelbo_by_schedule(model, many, schedule) for schedule in schedules}
    estimates["exact counts"] = nelbo(model, many, batch_size=2000)
    for name, (mean, error) in estimates.items():
        print(f"   {name:16} {mean:.4f} ± {error:.4f}")
        assert abs(mean - exact) < 5 * error + 1e-3, "a bound that is tight for this model came out wrong"


def overfit(x0, config, steps=400):
    """A small transformer that learns x0 (N, T) by heart."""
    model = transformer.Transformer(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batch = x0.repeat(8, 1)
    cli.heading(f"4. Training on {len(x0)} sentences, {transformer.count_parameters(model):,} parameters")
    print("   step   loss   NELBO")
    for step in range(steps + 1):
        loss = diffusion_loss(model, batch, t_max=1)
        if step % 80 == 0:
            print(f"   {step:4}  {loss.item():5.3f}   {nelbo(model, batch)[0]:5.3f}")
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def show_denoising(model, tokenizer, length):
    """From masks to a sentence, in order of confidence and at random."""
    for name, select in (("surest first, far apart", by_isolation), ("random order", at_random)):
        cli.heading(f"5. Denoising {length} masks in 16 passes, {name}")
        canvas = torch.full((1, length), tokenizer.vocab_size)
        for state in denoise(model, canvas, steps=16, temperature=0.5, select=select):
            text = tokenizer.decode(state.canvas[0].tolist()).replace("\n", "/")
            print(f"   {state.step:4}   {text}   +{state.committed.sum()}")
    start = tokenizer.encode("All the ")
    canvas = torch.tensor([start + [tokenizer.vocab_size] * (length - len(start))])
    *_, last = denoise(model, canvas, steps=16, temperature=0)
    cli.heading("6. A prompt is text that is not masked")
    print("   " + tokenizer.decode(canvas[0].tolist()))
    print("   " + tokenizer.decode(last.canvas[0].tolist()).strip())


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--show", action="store_true", help="open the figure in a window")
    arguments = parser.parse_args(argv)
    torch.manual_seed(0)
    tokenizer = tokenizers.CharTokenizer.from_text(SENTENCES)
    lines = SENTENCES.splitlines(keepends=True)
    length = max(map(len, lines))
    x0 = torch.tensor([tokenizer.encode(line.strip().ljust(length)) for line in lines])  # (4, T)
    # Learned positions: rotary ones know distances only, and an all-masked canvas has no landmark to start from.
    shape = dict(n_layer=2, n_head=4, n_embd=128, positions="learned")
    config = transformer.TransformerConfig(tokenizer.vocab_size, length, **shape)
    show_schedules(arguments.show)
    show_masking(tokenizer)
    show_likelihood(x0, config)
    model = overfit(x0, config)
    show_denoising(model, tokenizer, length)
    print("\nNext: 05_train.py does the same on all of Shakespeare that fits in a megabyte.")


if __name__ == "__main__":
    cli.run(main)
