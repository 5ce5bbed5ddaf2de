"""Chapter 04: how can a model write text in any order?

    python 04_diffusion.py           # half a minute; draws figures/04_writing.png and 04_bound.png
    python 04_diffusion.py --show    # the same, and opens the figures in windows

A GPT learns to predict the next character. A masked diffusion model learns something else: we hide some characters
behind a mask, and the model predicts them from the ones that are still visible. To write, it starts from nothing but
masks, and in each pass it replaces some of them with characters.

We begin with the loss, which takes only a few lines. Then come the sampler, a bound on the probability of a text, the
same bound in the notation of the papers, and a demonstration.

You should see a model that learns four sentences by heart and then writes them from masks only. A table shows why we
chose our selection rule. At the end, one bound is computed in several ways, and the results agree.

If you want to change one thing, write your own selection rule, a function like `scattered`, and give it to `denoise` as
the argument `select`. You can also write your own loss, a function like `simple_loss`.
"""

import math
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from itertools import combinations, permutations

import torch
import torch.nn.functional as F

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")


# 1. The idea: hide some tokens, and predict them from the others


def hide(x0, k, mask_id, given=0):
    """Replace random tokens of x0 (B, T) with the mask, and return the result (B, T).

    k (B,) is the number of tokens to replace in each row. The tokens before position `given` always stay. The mask is
    one extra token with the number vocab_size: the model reads it, but never predicts it.
    """
    score = torch.rand(x0.shape, device=x0.device)
    score[:, :given] = 1  # higher than all others
    return torch.where(ranks(score) < k[:, None], mask_id, x0)


def ranks(score):
    """Rank the scores (B, T) within each row. Return the ranks (B, T); the lowest score of a row has rank 0."""
    order = score.argsort(1)  # order[b, 0] is the position of the lowest score
    return order.argsort(1)  # the inverse: the rank of each position


def simple_loss(model, x0, k):
    """Hide some tokens of each text in x0 (B, T), and return the training loss, in nats per hidden token.

    k (B,) is the number of tokens to hide in each text. The loss is the mean over all hidden tokens of the batch. So a
    text with many masks counts more than a text with few. In the bound of section 3, all texts count equally: we
    average within each text first, then over the texts.
    """
    xt = hide(x0, k, model.config.mask_id)  # (B, T)
    t = k / x0.shape[1]  # (B,) the noise level, which only a time-conditioned model reads
    logits = model(xt, t)  # (B, T, V): predict every token from the visible tokens
    hidden = xt == model.config.mask_id  # (B, T)
    return F.cross_entropy(logits[hidden].float(), x0[hidden])  # only hidden tokens count


def spread_evenly(n, most, device=None):
    """Draw how many tokens to hide in each of n texts. Return these counts k (n,).

    The range 1 … `most` is cut into n equal parts, one count is drawn from each part, and the counts are shuffled
    (stratified sampling). So every batch holds easy texts with few masks and hard texts with many masks, and its loss
    depends less on chance. `most` is one number, or a tensor (n,) with a number for each text. If a number is
    not whole, it is rounded up.
    """
    u = torch.rand(n, device=device)
    part = torch.randperm(n, device=device)
    k = 1 + ((part + u) / n * most).long()
    return k.clamp(max=torch.as_tensor(most, device=device).ceil().long())  # (part + u) / n can be rounded to 1


# 2. Writing: what to write, where to write, and when to write it again


def propose(logits, temperature=1.0, top_k=None):
    """Draw a token for each position of `logits` (B, T, V). Return the tokens (B, T) and their probabilities (B, T).

    The probabilities are those of the model itself, without `temperature` and `top_k`.
    """
    token = draw(logits, temperature, top_k)
    probability = logits.float().softmax(-1)  # (B, T, V)
    return token, probability.gather(-1, token[..., None])[..., 0]


def draw(logits, temperature=1.0, top_k=None):
    """Draw a token for each position of `logits` (…, V), and return the tokens (…).

    At a temperature below 1, likely tokens become even likelier, and at 0 the most likely token always wins. With
    `top_k`, only the `top_k` most likely tokens can be drawn. Infinite or NaN (not a number) logits raise
    FloatingPointError.
    """
    if temperature < COLDEST:
        check_finite(logits.amax(-1))
        return logits.argmax(-1)
    return pick(probabilities(logits, temperature, top_k))


COLDEST = 0.001  # dividing by a smaller temperature could overflow, and the most likely token would win anyway


def probabilities(logits, temperature, top_k=None):
    """Return the probabilities (…, V) that `draw` uses. The temperature must be above 0."""
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    return (logits.float() / temperature).softmax(-1)


def pick(weights):
    """Draw a token for each position, with probabilities proportional to `weights` (…, V). Return the tokens (…)."""
    total = weights.cumsum(-1)  # (…, V)
    check_finite(total[..., -1])
    # Take the first token at which the running sum reaches a random share of the total. torch.multinomial is slower.
    share = 1 - torch.rand(*weights.shape[:-1], 1, device=weights.device)  # never 0
    return torch.searchsorted(total, share * total[..., -1:])[..., 0]


def check_finite(values):
    """Raise FloatingPointError if one of the `values` is infinite or NaN."""
    if not values.isfinite().all():
        raise FloatingPointError("the model's predictions are not finite numbers: its weights are too large or damaged")


# A selection rule decides which proposals a pass writes. It is a function of four tensors: the logits (B, T, V), the
# probability of each proposal (B, T), a boolean tensor (B, T) that is True where masks are left, and the number of
# proposals to write in each row (B,). It returns a boolean tensor (B, T) that is True at the positions to write.
# Chapter 11 adds more rules.


def by_confidence(logits, confidence, masked, count):
    """Rule: write the proposals with the highest probability."""
    return highest(confidence, masked, count)


def scattered(logits, confidence, masked, count):
    """Rule: write at random positions that are far from each other.

    Tokens that are written in the same pass do not see each other. That hurts most between neighbours, because a token
    depends most on the tokens next to it. So this rule avoids writing neighbours in the same pass.
    """
    score = torch.rand(masked.shape, device=masked.device)
    distance = distance_to_higher(score, masked)
    return highest(distance + score, masked, count)  # the score, which is below 1, decides between equal distances


def highest(score, masked, count):
    """Choose the masked positions with the highest scores, `count` (B,) in each row. Return a boolean tensor (B, T)."""
    score = score.masked_fill(~masked, -math.inf)
    return (ranks(-score) < count[:, None]) & masked


def distance_to_higher(score, masked):
    """Return how far each masked position is from the nearest masked position with a higher score.

    The result is a tensor (B, T). The masked position with the highest score has an infinite distance. A position
    that is not masked has distance 0.
    """
    score = score.masked_fill(~masked, -math.inf)
    place = torch.arange(score.shape[1], device=score.device)
    distance = (place[:, None] - place).abs().float()  # (T, T)
    is_higher = score[:, None, :] > score[:, :, None]  # (B, T, T): does the second position have the higher score?
    nearest = torch.where(is_higher, distance, math.inf).amin(-1)  # (B, T)
    return nearest.masked_fill(~masked, 0)


@dataclass(frozen=True)
class State:
    """A sampler yields a State after each forward pass."""

    canvas: torch.Tensor  # (B, T) tokens, and the mask where nothing is written yet
    confidence: torch.Tensor  # (B, T) probability of the written token, or of the last proposal for a mask; 1 if given
    committed: torch.Tensor  # (B, T) True where this pass wrote


@torch.no_grad()
def unmask(model, canvas, steps, temperature=1.0, top_k=None, select=scattered):
    """Replace the masks of `canvas` (B, T) in at most `steps` passes. Yield a State after each pass.

    Each pass proposes a token for every mask, and the selection rule `select` decides which proposals the pass writes.
    Tokens that are not masks stay.
    """
    masked = canvas == model.config.mask_id  # (B, T)
    total = masked.sum(1)  # (B,)
    steps = min(steps, int(total.max()))
    confidence = (~masked).float()
    for step in range(1, steps + 1):
        logits = model(canvas, masked.float().mean(1))  # (B, T, V); the share of masks is the noise level
        token, probability = propose(logits, temperature, top_k)  # (B, T) each
        confidence = torch.where(masked, probability, confidence)
        left = total * (steps - step) // steps  # masks that this pass should leave: (B,)
        count = masked.sum(1) - left
        committed = select(logits, confidence, masked, count)  # (B, T)
        canvas = torch.where(committed, token, canvas)
        masked = masked & ~committed
        yield State(canvas, confidence, committed)
        if not masked.any():  # some rules write more than `count` proposals
            break


REACH = 4  # tokens that are hidden in the same correction pass are more than 4 positions apart


def doubtful(confidence, written):
    """Among the positions where `written` (B, T) is True, choose some to write again. Return a boolean tensor (B, T).

    Tokens with a low confidence are chosen more often: the weight of a position is 1 - confidence. If we add Gumbel
    noise to the logarithm of each weight, the position with the highest sum is a random draw with probabilities
    proportional to the weights. We choose every written position whose sum is the highest within the distance REACH, so
    the chosen positions are more than REACH apart.
    """
    doubt = (1 - confidence).clamp(min=1e-6)  # (B, T)
    u = torch.rand(doubt.shape, device=doubt.device).clamp(1e-6, 1 - 1e-6)
    gumbel = -(-u.log()).log()
    return distance_to_higher(doubt.log() + gumbel, written) > REACH


@torch.no_grad()
def correct(model, state, written, steps, temperature=1.0, top_k=None):
    """In each of `steps` passes, write doubtful tokens again. Yield a State after each pass.

    `written` (B, T) is True where the sampler has written a token. When the sampler writes a token, it does not know
    which tokens the same pass and later passes write. So some tokens do not fit the finished text. Each correction pass
    hides doubtful tokens and draws them again, now with the other tokens in view. The idea is from ReMDM (Wang et al.
    2025, arXiv:2503.00307). The temperature falls from pass to pass.
    """
    for step in range(steps):
        hidden = doubtful(state.confidence, written)  # (B, T)
        canvas = state.canvas.masked_fill(hidden, model.config.mask_id)
        logits = model(canvas, hidden.float().mean(1))  # (B, T, V)
        token, probability = propose(logits, temperature * (1 - step / steps), top_k)  # (B, T) each
        canvas = torch.where(hidden, token, canvas)
        confidence = torch.where(hidden, probability, state.confidence)
        state = State(canvas, confidence, committed=hidden)
        yield state


def denoise(model, canvas, steps=64, temperature=1.0, top_k=None, select=scattered, correction=0.5):
    """The sampler of this book: fill the masks of `canvas` (B, T), then correct the text.

    Yield a State after each pass. `steps` is the number of passes, and `correction` is the share of the passes that
    correct the text. Let n be the largest number of masks in any row. Then at most n passes fill masks, and at most
    n - 1 passes correct the text.
    """
    blanks = canvas == model.config.mask_id
    if not blanks.any():
        return
    most = int(blanks.sum(1).max()) - 1  # a short text needs few corrections, and a single token none
    corrections = min(int(correction * steps), most, steps - 1)
    for state in unmask(model, canvas, steps - corrections, temperature, top_k, select):
        yield state
    yield from correct(model, state, blanks, corrections, temperature, top_k)  # starts from the last State


# 3. From the loss to a bound on the probability of a text
#
# A good model gives a high probability p(text) to real text. The negative log-likelihood (NLL) is -log p(text), in
# nats. But what is p(text) for a model that writes in any order? Let it write T tokens in a random order, one token per
# pass. By the chain rule
#     log p(text | order) = sum over i of log p(token at order[i] | tokens at order[0] ... order[i-1]).
# Every one of the T! orders can write the text, so p(text) is the mean of p(text | order). For a long text, nobody can
# compute this mean. But we can estimate the mean of the logarithms, which is never above the logarithm of the mean
# (Jensen's inequality):
#     log p(text) = log mean p(text | order) >= mean log p(text | order).
# The right side is the evidence lower bound (ELBO). Its negative, the NELBO, is an upper bound on the NLL. NELBO and
# NLL describe a sampler that writes one token per pass. A faster sampler gives other probabilities to texts.


def hidden_losses(model, x0, xt, t):
    """Return the loss of each token of x0, in nats: a tensor (B, T).

    For a token that is hidden in xt, the loss is the cross-entropy. For a visible token, it is 0.
    """
    logits = model(xt, t).float()  # (B, T, V)
    losses = F.cross_entropy(logits.flatten(0, 1), x0.flatten(), reduction="none")  # (B T,)
    return losses.view_as(x0) * (xt == model.config.mask_id)


@contextmanager
def same_numbers(seed, device):
    """Seed the random numbers inside a `with` block. Afterwards, they continue as if the block had never run."""
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


@torch.no_grad()
def nelbo(model, x0, draws=1, batch_size=64, given=0, seed=0):
    """Estimate the NELBO of the texts x0 (N, T). Return (mean, standard error) in nats per token.

    In each text we hide k random tokens and take the mean of their losses. k runs from 1 to T - given, because the
    tokens before position `given` are never hidden and do not count. The average over all texts estimates the NELBO, an
    upper bound on the NLL (LLaDA, Nie et al. 2025, arXiv:2502.09992, equation 6); `nelbo_by_counts` below shows why.

    Each text is used `draws` times, with different masks. Because the seed is fixed, all models get the same masks. The
    standard error says how much the mean depends on the random masks. Differences between the texts make this error a
    little too large.
    """
    x0 = x0.repeat(draws, 1)
    N, T = x0.shape
    bounds = []
    with same_numbers(seed, x0.device):
        k = spread_evenly(N, T - given, x0.device)
        for rows, ks in zip(x0.split(batch_size), k.split(batch_size)):
            xt = hide(rows, ks, model.config.mask_id, given)
            losses = hidden_losses(model, rows, xt, ks / T)
            bounds.append(losses.sum(1) / ks)
    bounds = torch.cat(bounds)[k.argsort()].cpu().double()  # (N,), sorted from few masks to many
    # Because k is spread evenly, the choice of k adds hardly any variance. We estimate the remaining variance from
    # pairs of rows with almost equal k, which are neighbours in `bounds` (Cochran 1977, Sampling Techniques, section
    # 5A.12).
    pairs = bounds[: N // 2 * 2].view(-1, 2)
    error = pairs.diff().square().sum().sqrt() / N
    return bounds.mean().item(), error.item()


# For a short text we can compute everything exactly, from the losses for all sets of hidden positions.


@torch.no_grad()
def losses_of_all_sets(model, x0):
    """Hide each possible set of positions of a short text x0 (T,). Return {set: losses (T,) in nats}."""
    T = len(x0)
    table = {}
    for k in range(1, T + 1):
        for hidden in combinations(range(T), k):
            xt = x0.index_fill(0, torch.tensor(hidden), model.config.mask_id)
            losses = hidden_losses(model, x0[None], xt[None], torch.tensor([k / T]))
            table[frozenset(hidden)] = losses[0].double()
    return table


def nll_of_each_order(table, T):
    """Return a tensor (T!,): -log p(text | order) for each order in which T tokens can be written."""
    nlls = []
    for order in permutations(range(T)):
        total = 0.0
        for step, position in enumerate(order):
            still_hidden = frozenset(order[step:])
            total = total + table[still_hidden][position]  # the chain rule
        nlls.append(total)
    return torch.stack(nlls)


def nll_of_text(table, T):
    """Return the NLL, which is -log of the mean of p(text | order) over all orders."""
    nlls = nll_of_each_order(table, T)
    return math.log(len(nlls)) - (-nlls).logsumexp(0)


def nelbo_by_orders(table, T):
    """Return the NELBO, which is the mean of -log p(text | order) over all orders."""
    return nll_of_each_order(table, T).mean()


def nelbo_by_counts(table, T):
    """Return the NELBO as a sum over k, the number of hidden tokens. `nelbo` estimates this sum, divided by T.

    The order is random. So when k tokens are still hidden, all sets of k positions are equally likely, and each of the
    k tokens is written next with probability 1/k. For each k from 1 to T, we take the mean loss of all hidden tokens in
    all sets of k positions. The sum of these T means is the mean of -log p(text | order) over all orders.
    """
    total = 0.0
    for k in range(1, T + 1):
        losses = [table[frozenset(hidden)] for hidden in combinations(range(T), k)]
        total = total + torch.stack(losses).sum(1).mean() / k
    return total


def ell(table, T, t):
    """Return ℓ(t) for each of the noise levels t (n,).

    ℓ(t) is the mean loss of a hidden token if each of the other T - 1 tokens is hidden with probability t.
    """
    total = torch.zeros_like(t)
    for hidden, losses in table.items():
        others = len(hidden) - 1
        probability = t**others * (1 - t) ** (T - 1 - others)  # that exactly these other tokens are hidden
        total = total + probability * losses.sum()
    return total / T


def nelbo_by_clock(table, T):
    """Return the NELBO as T times the area under ℓ(t), for t from 0 to 1.

    Give each token a random time u in (0, 1), and let a clock run from 1 to 0. A token is written when the clock shows
    its time u, so all orders are equally likely. When a token is written at time t, each other token is still hidden
    with probability t. So the mean loss of a token is the area under ℓ, and the NELBO is T times this area.

    In the papers, the token itself is also hidden with probability t, and visible tokens have no loss. To make up for
    the missing losses, the papers multiply each loss by 1/t.
    """
    edges = torch.linspace(0, 1, 10001, dtype=torch.float64) ** 4  # narrow intervals near 0, where ℓ changes fast
    t = (edges[1:] + edges[:-1]) / 2
    return T * ell(table, T, t) @ edges.diff()


# 4. The same bound, as the papers write it


class NoiseSchedule:
    """A schedule says which share of the tokens is hidden at each noise level, from t = 0 (none) to t = 1 (all).

    alpha(t) is the probability that a token is visible. In the NELBO, the loss of a hidden token is multiplied by
    weight(t) = -alpha'(t) / (1 - alpha(t)) (MDLM, Sahoo et al. 2024, arXiv:2406.07524, equation 10).

    Another schedule changes the speed of the clock in `nelbo_by_clock`, but not the order of the tokens. So all
    schedules have the same NELBO. This requires that the model does not read t itself: it can read 1 - alpha(t), the
    share of hidden tokens, or no noise level at all.
    """

    NAMES = ("linear", "cosine", "sqrt")

    def __init__(self, name="linear"):
        if name not in self.NAMES:
            raise ValueError(f"no schedule {name!r}; choose from {', '.join(self.NAMES)}")
        self.name = name

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
            return math.pi / 2 / torch.tan(math.pi / 4 * t)  # because sin x / (1 - cos x) = 1 / tan(x / 2)
        return 0.5 / t


def mask_tokens(x0, rate, mask_id):
    """Mask each token of x0 (B, T) with probability `rate` (B,), independently of the other tokens."""
    hidden = torch.rand(x0.shape, device=x0.device) < rate[:, None]
    return torch.where(hidden, mask_id, x0)


@torch.no_grad()
def nelbo_by_schedule(model, x0, schedule, seed=0):
    """Estimate the NELBO of x0 (N, T) from random noise levels t, as MDLM does.

    Return (mean, standard error) in nats per token. Near t = 0 few tokens are hidden, but their losses have huge
    weights. With the linear and the sqrt schedule, a sample that misses such losses gives a mean and an error that are
    too small. With the cosine schedule, hardly any token is hidden near t = 0. `nelbo` avoids the problem, because it
    draws the number of masks directly.
    """
    N = len(x0)
    with same_numbers(seed, x0.device):
        part = torch.randperm(N, device=x0.device)
        t = ((part + torch.rand(N, device=x0.device)) / N).clamp(min=1e-6)  # (N,) spread evenly over (0, 1)
        rate = 1 - schedule.alpha(t)
        losses = hidden_losses(model, x0, mask_tokens(x0, rate, model.config.mask_id), rate)  # (N, T)
    bounds = (schedule.weight(t)[:, None] * losses).mean(1).double()  # (N,)
    return bounds.mean().item(), (bounds.std() / N**0.5).item()


# 5. The demonstration

SENTENCES = (
    "To be, or not to be, that is the question.",
    "All the world's a stage, and men are players.",
    "We are such stuff as dreams are made on.",
    "The course of true love never did run smooth.",
)
LENGTH = 46
LETTERS = [*sorted(set("".join(SENTENCES))), "░"]  # the last letter stands for the mask
MASK = len(LETTERS) - 1


def encode(text):
    return [LETTERS.index(letter) for letter in text]


def decode(tokens):
    return "".join(LETTERS[token] for token in tokens)


def show_hiding(x0):
    tensors.heading("Hiding k of 46 characters")
    for k in (12, 23, 34):
        print(f"   k = {k}   {decode(hide(x0[:1], torch.tensor([k]), MASK)[0])}")


def show_training(model, x0, steps=200):
    tensors.heading(f"Learning {len(x0)} sentences by heart: the loss in nats per hidden character")
    optimizer = torch.optim.AdamW(model.parameters())
    for step in range(steps + 1):
        optimizer.param_groups[0]["lr"] = 0.01 * (1 - step / (steps + 1))  # the learning rate falls
        batch = x0.repeat(8, 1)
        loss = simple_loss(model, batch, spread_evenly(len(batch), LENGTH))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 50 == 0:
            print(f"   step {step:3}   loss {loss.item():.3f}")


def show_writing(model, show):
    tensors.heading("From masks to a sentence in 12 passes, and 12 of correction")
    canvas = torch.full((1, LENGTH), MASK)
    states = list(denoise(model, canvas, steps=24))
    print(f"   pass  0   {decode(canvas[0])}")
    for number, state in enumerate(states, 1):
        print(f"   pass {number:2}   {decode(state.canvas[0])}")
    draw_writing(states, show)


def draw_writing(states, show):
    """Draw the States of one text, one row per pass. Masks are grey, and newly written tokens are yellow."""
    masked = torch.cat([state.canvas for state in states]) == MASK  # (passes, T)
    confidence = torch.cat([state.confidence for state in states])
    committed = torch.cat([state.committed for state in states])
    colors = torch.ones(*masked.shape, 3)  # white
    grey = 0.35 + 0.5 * confidence  # a mask with a more confident proposal is lighter
    colors[masked] = grey[masked][:, None].expand(-1, 3)
    colors[committed] = torch.tensor([1.0, 0.8, 0.3])

    figure, axes = tensors.pyplot(show).subplots(figsize=(10, 6), layout="constrained")
    axes.imshow(colors, aspect="auto")
    for row, state in enumerate(states):
        for column, token in enumerate(state.canvas[0].tolist()):
            if token != MASK:
                axes.text(column, row, LETTERS[token], ha="center", va="center", family="monospace", fontsize=8)
    axes.set(xlabel="position", ylabel="pass")
    axes.set_yticks(range(0, len(states), 4), range(1, len(states) + 1, 4))
    axes.set_title("Hide everything (grey). Each pass predicts all hidden letters (the lighter, the surer)\n"
                   "and commits some of them (yellow). The last passes write doubtful letters again.")
    tensors.save_figure(figure, "04_writing", show)


def show_rules(model, texts=100):
    tensors.heading(f"Where to write: {texts} texts for each rule, 24 passes for each text")
    print("   rule            share of correction   whole sentences   how often each of the four")
    canvas = torch.full((texts, LENGTH), MASK)
    different = {}
    for select in (scattered, by_confidence):
        for correction in (0, 0.5):
            *_, last = denoise(model, canvas, steps=24, select=select, correction=correction)
            written = [decode(row).strip() for row in last.canvas]
            times = [written.count(sentence) for sentence in SENTENCES]
            different[select] = sum(n > 0 for n in times)
            print(f"   {select.__name__:15} {correction:19.0%}   {sum(times):15}   {times}")
    print("   Without correction, by_confidence seems to be the better rule. But look at the right side. The surest\n"
          "   letters are always the same. Although the model knows all four sentences, by_confidence writes only\n"
          f"   {different[by_confidence]} of them, and scattered writes {different[scattered]}. scattered makes more "
          "mistakes,\n   but correction removes them, so it is our default.")


def show_bound(show):
    tensors.heading('The bound, for a random model and the word "tea", in nats per word')
    model = transformer.Transformer(transformer.TransformerConfig(3, n_layer=1, n_head=1, n_embd=8, vocab_size=3))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)  # in a fresh model, the order of writing matters less
    tea = torch.tensor([2, 1, 0])
    T = len(tea)
    table = losses_of_all_sets(model, tea)
    print(f"   NLL, {math.factorial(T)} orders                              {nll_of_text(table, T):.5f}")
    print("   It is below the NELBO, which we compute in several ways:")
    for name, bound in (("mean over orders", nelbo_by_orders), ("from how many are hidden", nelbo_by_counts),
                        ("area under ℓ(t)", nelbo_by_clock)):
        print(f"      {name:38} {bound(table, T):.5f}")
    many = tea.expand(2000, T)
    mean, error = nelbo(model, many)
    print(f"      {'estimated from 2000 random masks':38} {T * mean:.5f} ± {T * error:.5f}")
    for name in NoiseSchedule.NAMES:
        mean, error = nelbo_by_schedule(model, many, NoiseSchedule(name))
        print(f"      {f'estimated as MDLM does it, {name}':38} {T * mean:.5f} ± {T * error:.5f}")

    t = torch.linspace(0, 1, 200, dtype=torch.float64)
    figure, axes = tensors.pyplot(show).subplots(figsize=(5, 3.2), layout="constrained")
    axes.fill_between(t, ell(table, T, t), color=tensors.COLORS["dllm"], alpha=0.4)
    axes.set(xlabel="masking rate t", ylabel="ℓ(t), nats", title='"tea": the area is the NELBO per character')
    tensors.save_figure(figure, "04_bound", show)


def show_likelihood(model, x0):
    tensors.heading("How well does the model know its four sentences? In nats per character")
    mean, error = nelbo(model, x0, draws=100)
    lowest = math.log(4) / LENGTH
    print(f"   NELBO {mean:.3f} ± {error:.3f}. No model can give each of four texts more than 1/4, so\n"
          f"   NELBO ≥ NLL ≥ ln 4 / {LENGTH} = {lowest:.3f}. The training loss was higher, because\n"
          "   it gives more weight to texts with many masks, which are harder to predict.")


def main():
    flags = tensors.read_flags(__doc__)
    torch.set_num_threads(1)  # such small models are faster on one thread
    torch.manual_seed(20)
    x0 = torch.tensor([encode(sentence.ljust(LENGTH)) for sentence in SENTENCES])  # (4, T)
    show_hiding(x0)
    # Rotary positions know only distances. Here every sentence begins at position 0, so the position itself says a
    # lot, and we use learned positions.
    config = transformer.TransformerConfig(
        seq_len=LENGTH, n_layer=2, n_head=4, n_embd=64, positions="learned", vocab_size=MASK)
    model = transformer.Transformer(config)
    show_training(model, x0)
    show_writing(model, flags.show)
    show_rules(model)
    show_bound(flags.show)
    show_likelihood(model, x0)
    print("\nNext: 05_train.py trains such a model on one megabyte of Shakespeare.")


if __name__ == "__main__":
    main()
