"""Appendix of chapter 11: rules and caches from the literature that are not the best ones.

    from experiments.decoding_rules import isolated
    denoise_blocks(model, canvas, steps=64, select=isolated)

The rules have the interface of chapter 04, and the caches have the interface of chapter 11's BlockModel.
docs/fast_decoding.md measures them.
"""

from importlib import import_module

import torch

diffusion = import_module("04_diffusion")
fast = import_module("11_fast_decoding")


# 1. Rules that write the planned number of tokens


def at_random(logits, confidence, masked, count):
    """Rule: write at random positions."""
    return diffusion.highest(torch.rand(masked.shape, device=masked.device), masked, count)


def by_peak(logits, confidence, masked, count):
    """Rule: write where the model's first choice is most probable, even if the sampler drew another token there."""
    return diffusion.highest(logits.float().softmax(-1).amax(-1), masked, count)


def by_margin(logits, confidence, masked, count):
    """Rule: write where the two most probable tokens differ most in probability (Kim et al. 2025, arXiv:2502.06768)."""
    two = logits.float().softmax(-1).topk(2).values  # (B, T, 2)
    return diffusion.highest(two[..., 0] - two[..., 1], masked, count)


def noisy_confidence(confidence, masked):
    """Return (B, T): the logarithm of the confidence, plus Gumbel noise.

    The fewer masks there are, the weaker the noise is. Without noise, early passes write mostly spaces and short words
    (MaskGIT, Chang et al. 2022, arXiv:2202.04200).
    """
    u = torch.rand(confidence.shape, device=confidence.device).clamp(1e-6, 1 - 1e-6)
    gumbel = -(-u.log()).log()
    return confidence.log() + masked.float().mean(1, keepdim=True) * gumbel


def noisy(logits, confidence, masked, count):
    """Rule: write the proposals with the highest noisy confidence."""
    return diffusion.highest(noisy_confidence(confidence, masked), masked, count)


def isolated(logits, confidence, masked, count):
    """Rule: write where the nearest mask with a higher noisy confidence is farthest away."""
    distance = diffusion.distance_to_higher(noisy_confidence(confidence, masked), masked)
    return diffusion.highest(distance + confidence, masked, count)


# 2. Rules that decide by themselves how many tokens to write


def apart(distance):
    """Make a rule that writes a proposal if no position within `distance` has a higher noisy confidence.

    The proposals are then far apart, but not always certain. (Luxembourg et al. 2025, arXiv:2506.19037, use fixed
    distances.)
    """

    def rule(logits, confidence, masked, count):
        chosen = diffusion.distance_to_higher(noisy_confidence(confidence, masked), masked) > distance
        return fast.top_up(chosen, confidence, masked, count)

    return rule


class Remembering:
    """A rule that remembers something from the previous pass.

    If the masks are not those that the last pass left, a new block or a new text has begun. The rule then forgets what
    it remembers.
    """

    left = None  # the masks that the last pass left

    def __call__(self, logits, confidence, masked, count):
        if self.left is None or not torch.equal(self.left, masked):
            self.begin()
        chosen = self.choose(logits, confidence, masked, count)
        self.left = masked & ~chosen
        return chosen


class Ancestral(Remembering):
    """Fills each mask with the same probability, independently of all other masks.

    If n passes remain, this probability is 1 / n. Such a sampler reverses the masking of training. (MDLM, Sahoo et al.
    2024, arXiv:2406.07524, with the linear schedule.)
    """

    def __init__(self, steps):
        self.steps = steps

    def begin(self):
        self.to_go = self.steps

    def choose(self, logits, confidence, masked, count):
        chosen = masked & (torch.rand(masked.shape, device=masked.device) < 1 / self.to_go)
        self.to_go = max(1, self.to_go - 1)
        return chosen


class Stable(Remembering):
    """Writes a confident proposal if the model's prediction at its position has hardly changed since the pass before.

    Let p be the distribution of the tokens at a position, and q the distribution there in the pass before. The
    Kullback-Leibler divergence Σ p log(p / q) must be at most epsilon (KLASS, Kim et al. 2025, arXiv:2511.05664).
    """

    def __init__(self, epsilon, tau=0.9):
        self.epsilon, self.tau = epsilon, tau

    def begin(self):
        self.before = None

    def choose(self, logits, confidence, masked, count):
        now = logits.float().log_softmax(-1)
        chosen = torch.zeros_like(masked)
        if self.before is not None:
            divergence = (now.exp() * (now - self.before)).sum(-1)  # (B, T)
            chosen = masked & (confidence >= self.tau) & (divergence <= self.epsilon)
        self.before = now
        return fast.top_up(chosen, confidence, masked, count)


# 3. Caches


class PrefixBlockModel(fast.CachedBlockModel):
    """Keeps the rows before the block, and computes all other rows (Fast-dLLM, arXiv:2505.22618)."""

    def __call__(self, block, t):
        if self.cache is None:
            return super().__call__(block, t)
        canvas, t = self.put(block)
        positions = torch.arange(self.start, canvas.shape[1], device=block.device)
        return self.model(canvas[:, self.start :], t, positions, self.cache)[:, : block.shape[1]]


class DelayedBlockModel(fast.CachedBlockModel):
    """Computes the rows of all masks, and the rows of the tokens that the last pass wrote.

    All other rows are kept. After every `refresh` passes, all rows are computed again. If `refresh` is 0, this never
    happens. (dKV-Cache, Ma et al. 2025, arXiv:2505.15781.)
    """

    def __init__(self, model, refresh=0):
        super().__init__(model)
        self.refresh = refresh

    def enter(self, canvas, start, end):
        super().enter(canvas, start, end)
        self.passes = 0

    def __call__(self, block, t):
        canvas, t = self.put(block)
        masked = (canvas == self.config.mask_id).any(0)  # (T,) whether any text of the batch is masked there
        if self.refresh and self.passes % self.refresh == 0:
            self.cache = None
        self.passes += 1
        if self.cache is None:
            logits = super().__call__(block, t)
        else:
            positions = (masked | self.before).nonzero()[:, 0]
            computed = self.model(canvas[:, positions], t, positions, self.cache)
            logits = computed.new_zeros(*canvas.shape, computed.shape[-1])  # other rows stay 0: nobody reads them
            logits = logits.index_copy(1, positions, computed)[:, self.start : self.end]
        self.before = masked
        return logits
