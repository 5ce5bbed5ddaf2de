"""Chapter 04: how can a model write text in any order?

    python 04_diffusion.py          # about 20 seconds on two cores

A GPT learns to predict the next character. A masked diffusion model learns to predict any hidden characters from the
visible ones. To write, it starts from masks alone and replaces them by characters in a few passes. You will see its
loss in ten lines, a form of it that bounds the probability of a text, and a model that learns four texts by heart.
"""

import math
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import combinations, permutations, product

import torch
import torch.nn.functional as F

from plumbing import cli, figures, files, measures, sampling, settings, tokenizers

transformer = import_module("03_transformer")
REACH = 4  # tokens that one pass of correction writes are further apart than this


# 1. The idea: hide some tokens, and predict them from the others
def mask_tokens(x0, t, mask_id, schedule=None, generator=None):
    """Mask each token of x0 (B, T) independently, with probability t (B,), or 1 - schedule.alpha(t). Returns (B, T)."""
    visible = 1 - t if schedule is None else schedule.alpha(t)  # (B,)
    hidden = torch.rand(x0.shape, device=x0.device, generator=generator) >= visible[:, None]  # (B, T)
    return torch.where(hidden, mask_id, x0)


def simple_loss(model, x0, generator=None):
    """The whole idea: a loss for texts x0 (B, T), in nats per masked token. It is NaN if no token is masked."""
    t = torch.rand(len(x0), device=x0.device, generator=generator)  # draw a noise level for each text: (B,)
    xt = mask_tokens(x0, t, model.config.mask_id, generator=generator)  # mask about that share of its tokens: (B, T)
    logits = model(xt, t)  # predict every token from the visible ones: (B, T, V)
    masked = xt == model.config.mask_id
    return F.cross_entropy(logits[masked], x0[masked])  # compare only where the answer was hidden


# 2. From the loss to a bound on the probability of a text
# A good model gives a high probability p(text) to real text. The negative log-likelihood (NLL) is -log p(text), in
# nats. Let the model write T tokens in a random order, one per pass. By the chain rule
#     log p(text | order) = sum over i of log p(token at order[i] | tokens at order[0] ... order[i-1]).
# All T! orders can write the same text, so p(text) is the mean of p(text | order). For a long text we can estimate
# only the mean of the logarithms. It is never above the logarithm of the mean (Jensen's inequality):
#     log p(text) = log mean p(text | order) >= mean log p(text | order).
# The right side is the evidence lower bound (ELBO). Its negative, the NELBO, is an upper bound on the NLL. Both
# describe this way to write. A faster sampler (section 5) gives texts other probabilities.
def masked_cross_entropy(model, x0, xt, t):
    """Cross-entropy of x0 under model(xt, t) at each masked position, 0 at the visible ones: (B, T), in nats."""
    logits, masked = model(xt, t).float().flatten(0, 1), xt == model.config.mask_id  # (B T, V), (B, T)
    return F.cross_entropy(logits, x0.flatten(), reduction="none").view_as(x0) * masked  # no loss where it was visible


@torch.no_grad()
def derive_bound(model, x0):
    """Compute the NLL and the NELBO of a short text x0 (T,) from all masks and orders. Returns ({step: nats}, ℓ): the
    first step is the NLL, all others are forms of the NELBO, and ℓ is the function that is explained below."""
    T = len(x0)
    sets = [masked for n in range(1, T + 1) for masked in combinations(range(T), n)]  # 2^T-1 sets of positions
    k = torch.tensor([len(masked) for masked in sets])
    xt = torch.stack([x0.index_fill(0, torch.tensor(masked), model.config.mask_id) for masked in sets])  # (2^T-1, T)
    losses = masked_cross_entropy(model, x0.expand_as(xt), xt, k / T).double()  # (2^T-1, T)
    loss_of, total = dict(zip(map(frozenset, sets), losses.tolist())), losses.sum(1)
    nll = torch.tensor([sum(loss_of[frozenset(order[i:])][order[i]] for i in range(T))  # in step i, order[i:] is masked
                        for order in permutations(range(T))], dtype=torch.float64)  # (T!,) -log p(text | order)
    steps = {"NLL: -log of the mean of p(text | order)": math.log(len(nll)) - (-nll).logsumexp(0)}
    steps["NELBO: mean of -log p(text | order)"] = nll.mean()
    # When k tokens are still masked, all sets of k positions are equally likely, and each of the k is next with
    # probability 1/k. So the mean over orders is the sum over k = 1 … T of the mean loss of a masked token, or T times
    # the mean over k. One pass gives the losses of all k tokens, although an order would use only one of them.
    count = torch.tensor([math.comb(T, n) for n in k.tolist()])  # how many sets have k masks
    steps["mean over k, and over sets of k masks, of T/k Σ loss"] = (T / k * total / count).sum() / T
    # The same by a clock: give each token a random u in (0, 1), and write the token with the largest u first. All
    # orders are equally likely, and when the token with u = t is written, each other one is still masked with
    # probability t. So its mean loss is the area under ℓ. If we mask all tokens at rate t instead, a token is hidden,
    # and has a loss, only with probability t: hence the weight 1/t.
    def ell(t):  # ℓ(t), the mean loss of a masked token if each of the others is masked with probability t (n,): (n,)
        return (t[:, None] ** (k - 1) * (1 - t[:, None]) ** (T - k)) @ total / T  # of k masks, k - 1 are others

    edges = torch.linspace(0, 1, 10001, dtype=torch.float64) ** 4  # narrow intervals near 0, where weights are large
    t, dt = (edges[1:] + edges[:-1]) / 2, edges.diff()
    steps["T times the area under ℓ(t), for t from 0 to 1"] = T * ell(t) @ dt
    # A noise schedule (section 6) is another clock, in the same order: at time t, the rate is u(t) = 1 - alpha(t). With
    # its weight u'(t) / u(t) the area is the same (substitute u for t), if the model is not told t, or is told u.
    for schedule in map(NoiseSchedule, NoiseSchedule.NAMES):
        u = 1 - schedule.alpha(t)
        steps[f"the same for u = 1 - alpha(t), {schedule.name} schedule"] = T * (schedule.weight(t) * u * ell(u)) @ dt
    return {step: number.item() for step, number in steps.items()}, ell


# 3. The NELBO, as this book reports it
def mask_exactly(x0, k, mask_id, generator=None, given=0):
    """Hide exactly k (B,) tokens of each row of x0 (B, T), but none of the first `given`. Returns (B, T)."""
    score = torch.rand(x0.shape, device=x0.device, generator=generator)
    score[:, :given] = 1  # higher than all others
    rank = score.argsort(1).argsort(1)  # (B, T) the rank of each score in its row
    return torch.where(rank < k[:, None], mask_id, x0)


@torch.no_grad()
def nelbo(model, x0, draws=1, batch_size=64, seed=0, given=0):
    """Estimate the NELBO of x0 (N, T), an upper bound on the NLL: (mean, standard error) in nats per token.

    It averages Σ loss / k, which is (T/k Σ loss) / T, over `draws` random masks per row (LLaDA, Nie et al. 2025,
    arXiv:2502.09992, equation 6). The first `given` tokens are never masked and do not count. The seed fixes the masks,
    so that all models meet the same ones. The error is that of random masks, enlarged by differences between texts.
    """
    generator = torch.Generator(x0.device).manual_seed(seed)
    x0 = x0.repeat(draws, 1)
    N, T = len(x0), x0.shape[1] - given
    k = 1 + (sampling.stratified(N, x0.device, generator) * T).long().clamp(max=T - 1)  # (N,) evenly from 1 to T
    bounds = []
    for rows, ks in zip(x0.split(batch_size), k.split(batch_size)):
        xt = mask_exactly(rows, ks, model.config.mask_id, generator, given)
        bounds.append(masked_cross_entropy(model, rows, xt, ks / (T + given)).sum(1) / ks)
    bounds = torch.cat(bounds)[k.argsort()].cpu().double()  # (N,) from few masks to many
    # Spreading k evenly (stratification) removes the variance between noise levels. We compute the error from pairs of
    # neighbours in this list, which have almost the same k (Cochran 1977, Sampling Techniques, section 5A.12).
    pairs = bounds[: N // 2 * 2].view(-1, 2)
    return bounds.mean().item(), (pairs.diff().square().sum().sqrt() / N).item()


# 4. The training loss
def diffusion_loss(model, x0, t_max=1.0, generator=None, weight="equal"):
    """simple_loss with less variance: the shares of masks in the rows of x0 (B, T) are spread evenly up to t_max.

    weight "1/t": all rows count the same, which estimates the NELBO, the mean of ℓ(t). The default "equal": all masked
    tokens do, so ℓ(t) has the weight t, and the loss exceeds the NELBO. Both are lowest for the true probabilities.
    """
    B, T = x0.shape
    k = 1 + (sampling.stratified(B, x0.device, generator) * t_max * T).long().clamp(max=T - 1)  # (B,)
    losses = masked_cross_entropy(model, x0, mask_exactly(x0, k, model.config.mask_id, generator), k / T).sum(1)  # (B,)
    return (losses / k).mean() if weight == "1/t" else losses.sum() / k.sum()


# 5. The sampler
@dataclass(frozen=True, kw_only=True)
class State:
    """What `denoise` yields before the first pass and after each pass. All views read these states."""

    canvas: torch.Tensor  # (B, T) tokens, and mask_id where a token is still masked
    confidence: torch.Tensor  # (B, T) probability of the token when written; of the last proposal if masked; 1 if given
    committed: torch.Tensor  # (B, T) True where this pass wrote a token
    step: int  # 0 before the first pass
    nfe: int  # number of function evaluations (forward passes) so far

    def to(self, device):
        """The same State with its tensors on `device`."""
        return replace(self, **{key: value.to(device) for key, value in vars(self).items() if torch.is_tensor(value)})


def propose(logits, temperature, top_k=None, generator=None):
    """Draw a token for each position of logits (B, T, V), and say how likely the model finds it: (B, T) each."""
    token = sampling.draw(logits, temperature, top_k, generator)
    return token, logits.float().softmax(-1).gather(-1, token[..., None])[..., 0]


def by_confidence(confidence, masked, count, generator=None):
    """Selection rule: write the `count` (B,) proposals that have the highest probability. Returns (B, T) bool."""
    return sampling.top_ranked(confidence, masked, count)


def scattered(confidence, masked, count, generator=None):
    """Selection rule: `count` (B,) random positions that are far from each other. Tokens of one pass do not see each
    other, and neighbours depend on each other most. by_confidence writes common words first, so that a text repeats
    them (chapter 11). This rule does not."""
    score = torch.rand(confidence.shape, device=confidence.device, generator=generator)
    return sampling.top_ranked(sampling.distance_to_surer(score, masked) + score, masked, count)


@torch.no_grad()
def denoise(model, canvas, steps=64, temperature=1.0, top_k=None, select=scattered, mend=0.5, generator=None):
    """Replace the masks of `canvas` (B, T) in `steps` forward passes, or in fewer if it has few masks. Yields `State`s.
    Each of the first passes proposes a token for every mask, and the rule `select` chooses which ones to write. The
    last passes, a share `mend` of all, correct what these wrote. Given tokens never change."""
    masked = canvas == model.config.mask_id
    total, written, confidence = masked.sum(1), masked, (~masked).float()  # (B,), (B, T), (B, T)
    mending = min(int(mend * steps), max(0, int(total.max()) - 1))
    steps = min(steps - mending, int(total.max()))
    yield (state := State(canvas=canvas, confidence=confidence, committed=masked & False, step=0, nfe=0))
    for step in range(1, steps + 1):
        logits = model(canvas, masked.float().mean(1))  # (B, T, V); the share of masks is the noise level
        token, sure = propose(logits, temperature, top_k, generator)
        count = masked.sum(1) - total * (steps - step) // steps  # (B,)
        commit = select(sure, masked, count, generator)  # (B, T)
        canvas, confidence = torch.where(commit, token, canvas), torch.where(masked, sure, confidence)
        masked = masked & ~commit
        yield (state := State(canvas=canvas, confidence=confidence, committed=commit, step=step, nfe=step))
    yield from correct(model, model.config.mask_id, state, written, mending, temperature, top_k, generator)


def doubtful(confidence, written, generator=None):
    """Which of the positions `written` (B, T) to write again: (B, T). They are drawn in proportion to the doubt of the
    model, and are more than REACH apart: each has the highest log(doubt) + noise within that distance."""
    doubt = (1 - confidence).clamp(min=1e-6)
    return sampling.distance_to_surer(doubt.log() + sampling.gumbel(doubt, generator), written) > REACH


@torch.no_grad()
def correct(model, mask_id, state, written, steps, temperature, top_k=None, generator=None):
    """Write some of the positions `written` (B, T) again in each of `steps` passes. Yields the next `State`s. A token
    may not fit what was written later or in the same pass. So each pass hides doubtful tokens and draws them again, now
    with the text around them (after ReMDM, Wang et al. 2025, arXiv:2503.00307). The temperature falls towards 0."""
    for step in range(steps):
        back = doubtful(state.confidence, written, generator)  # (B, T)
        logits = model(state.canvas.masked_fill(back, mask_id), back.float().mean(1))  # (B, T, V)
        token, sure = propose(logits, temperature * (1 - step / steps), top_k, generator)
        canvas, confidence = torch.where(back, token, state.canvas), torch.where(back, sure, state.confidence)
        state = State(canvas=canvas, confidence=confidence, committed=back, step=state.step + 1, nfe=state.nfe + 1)
        yield state


# 6. The same, as the papers write it
@dataclass(frozen=True)
class NoiseSchedule:
    """How tokens disappear from t = 0 (clean) to t = 1 (all masked). alpha(t): the probability that a token is visible.
    weight(t) = -alpha'(t) / (1 - alpha(t)): the factor of a masked token's loss in the NELBO (MDLM, Sahoo et al. 2024,
    arXiv:2406.07524, equation 10)."""

    NAMES = ("linear", "cosine", "sqrt")
    name: str = "linear"

    def __post_init__(self):
        if self.name not in self.NAMES:
            raise ValueError(f"schedule is {self.name!r}; choose from {', '.join(self.NAMES)}")

    def alpha(self, t):
        return {"linear": 1 - t, "cosine": torch.cos(math.pi / 2 * t), "sqrt": 1 - t.sqrt()}[self.name]

    def weight(self, t):
        cosine = math.pi / 2 / torch.tan(math.pi / 4 * t)  # because sin x / (1 - cos x) = 1 / tan(x / 2)
        return {"linear": 1 / t, "cosine": cosine, "sqrt": 0.5 / t}[self.name]


@torch.no_grad()
def nelbo_by_schedule(model, x0, schedule, seed=0):
    """Estimate the NELBO of x0 (N, T) from random t, as MDLM does: (mean, standard error) in nats per token."""
    generator = torch.Generator(x0.device).manual_seed(seed)
    t = sampling.stratified(len(x0), x0.device, generator).clamp(min=1e-6)  # (N,)
    xt = mask_tokens(x0, t, model.config.mask_id, schedule, generator)
    loss = masked_cross_entropy(model, x0, xt, 1 - schedule.alpha(t))  # (N, T)
    return measures.mean_and_error((schedule.weight(t)[:, None] * loss).mean(1))


# 7. The demonstration
SENTENCES = ("To be, or not to be, that is the question.", "All the world's a stage, and men are players.",
             "We are such stuff as dreams are made on.", "The course of true love never did run smooth.")


@dataclass(frozen=True)
class Command:
    show: settings.Switch = False  # open the figure in a window


def show_bound(show):
    cli.heading('2. The bound for a random model and the word "tea", in nats per word')
    model = transformer.Transformer(transformer.TransformerConfig(3, 3, n_layer=1, n_head=1, n_embd=8))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # the order matters more to such a model than to a fresh one
    steps, ell = derive_bound(model, torch.tensor([2, 1, 0]))
    nll, *bounds = steps.values()
    assert nll <= bounds[0] and max(bounds) - min(bounds) < 1e-4, "all forms of the NELBO must be equal"
    print(*(f"   {step:58} {nats:.5f}" for step, nats in steps.items()), sep="\n")
    tea = torch.tensor([[2, 1, 0]]).expand(2000, 3)
    for section, (mean, error) in ((3, nelbo(model, tea)), (6, nelbo_by_schedule(model, tea, NoiseSchedule()))):
        print(f"   estimated from 2000 random masks, as in section {section:<10} {3 * mean:.5f} ± {3 * error:.5f}")
    t = torch.linspace(0, 1, 200, dtype=torch.float64)
    figure, axes = figures.pyplot(show).subplots(figsize=(5, 3.2), layout="constrained")
    axes.fill_between(t, ell(t), color=figures.COLORS["dllm"], alpha=0.4)
    axes.set(xlabel="masking rate t", ylabel="ℓ(t), nats", title='"tea": the area is the NELBO per character')
    figures.save_figure(figure, files.ROOT / "figures" / "04_bound.png", show)


def show_training(model, x0, steps):
    cli.heading(f"4. Training on {len(x0)} sentences, in nats per character")
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(steps + 1):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / (steps + 1))  # smaller and smaller changes
        if step % 100 == 0:
            measured = diffusion_loss(model, x0.repeat(100, 1)).item(), *nelbo(model, x0, draws=100)
            print("   step {:3}   loss {:.3f}   NELBO {:.3f} ± {:.3f}".format(step, *measured))
        optimizer.zero_grad()
        diffusion_loss(model, x0.repeat(8, 1)).backward()
        optimizer.step()
    print(f"   No model can give four texts more than 1/4 each, so NELBO >= NLL >= ln 4 / 46 = {math.log(4) / 46:.3f}."
          "\n   The loss stays higher: it gives more weight to texts with many masks, which are harder to predict.")


def show_writing(model, tokenizer, length):
    cli.heading("5. From masks to a sentence in 8 passes, and 8 of correction")
    canvas = torch.full((20, length), model.config.mask_id)
    for state in denoise(model, canvas[:1], 16):
        print(f"   {state.step:4}   {tokenizer.decode(state.canvas[0])}")
    for select, passes, mend in product((scattered, by_confidence), (8, 16), (0, 0.5)):
        *_, last = denoise(model, canvas, passes, select=select, mend=mend)
        whole = sum(tokenizer.decode(row).strip() in SENTENCES for row in last.canvas)
        print(f"   {select.__name__:13} {passes:2} passes, {mend:3.0%} to correct: {whole:2} of 20 are whole sentences")


def main(argv=None, steps=200):
    command = settings.parse(Command, argv)
    torch.set_num_threads(1)  # such small models are faster on one thread
    torch.manual_seed(20)
    tokenizer, length = tokenizers.CharTokenizer.from_text("".join(SENTENCES)), 46
    x0 = torch.tensor([tokenizer.encode(sentence.ljust(length)) for sentence in SENTENCES])  # (4, T)
    cli.heading("1. Masking")
    for t in (0.25, 0.5, 0.75):
        print(f"   t = {t:4.2f}   {tokenizer.decode(mask_tokens(x0[:1], torch.tensor([t]), tokenizer.mask_id)[0])}")
    show_bound(command.show)
    # Learned positions, because these sentences begin at position 0, and rotary positions know only distances.
    config = transformer.TransformerConfig(tokenizer.vocab_size, length, 2, 4, 64, positions="learned")
    show_training(model := transformer.Transformer(config), x0, steps)
    show_writing(model, tokenizer, length)
    print("\nNext: 05_train.py trains such a model on one megabyte of Shakespeare.")


if __name__ == "__main__":
    cli.run(main)
