"""Chapter 13: can one model be both a GPT and a dLLM, and does it then write faster than a GPT?

    python 13_block_diffusion.py                              # train a model; without a GPU: 6 minutes on two cores
    python 13_block_diffusion.py write --prompt "ROMEO:"      # draft and verify: a GPT's text in fewer passes
    python 13_block_diffusion.py write --block 8 --steps 4    # blocks of 8 characters, with 4 passes per block

A GPT writes one token per pass. A dLLM writes many tokens per pass, but the tokens of one pass do not see each other.
Block diffusion lies between a GPT and a dLLM (BD3-LM, Arriola et al. 2025, arXiv:2503.09573). It writes a text from
left to right, block by block, and it writes each block by unmasking, like a dLLM. With blocks of one token, it is a
GPT. With one block for the whole text, it is a dLLM.

The model of this chapter learns blocks of many sizes, so it can be a GPT and a dLLM in the same pass. As a dLLM, it
proposes tokens, which are called drafts. As a GPT, it verifies the drafts of the previous pass (TiDAR, Liu et al. 2025,
arXiv:2511.08923). The result has exactly the distribution of a text that the GPT writes alone. In a terminal, accepted
drafts are highlighted, and refused drafts are red.

On a first reading, you can skip `rows_before` in section 1 and `KeptRows` in section 3.

After training, you should see that the NELBO grows with the block size. For a block that fills the whole window, the
NELBO is far above that of chapter 05's dLLM, because only one training step in eight has such a block. You should also
see how many passes and seconds the drafts save. Drafts save time only on a processor that computes many positions
almost as fast as one (docs/block_diffusion.md).
"""

import functools
import math
import time
from dataclasses import asdict, dataclass
from importlib import import_module

from plumbing import checkpoint, cli, devices, measures, text

import torch
import torch.nn as nn
import torch.nn.functional as F

tensors = import_module("01_tensors")
attention = import_module("02_attention")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
fast = import_module("11_fast_decoding")


# 1. Who sees whom
#
# A pass computes rows. Each row is a token at a position, and belongs to one of two streams. The clean stream is a GPT:
# a clean row sees all clean rows up to its own position, and predicts the next token. The noisy stream consists of
# blocks, in which some tokens are masked. A noisy row sees all noisy rows of its own block, and all clean rows before
# the block. It predicts the token at its own position. The table shows what each row sees, for the text "abcde" in
# blocks of two tokens. Noisy rows are in parentheses:
#
#                    clean rows        noisy rows
#                    a   b   c   d     (b)  (c)   (d)  (e)
#        position    0   1   2   3      1    2     3    4
#        a sees      x
#        b sees      x   x
#        c sees      x   x   x
#        d sees      x   x   x   x
#      (b) sees      x                  x    x
#      (c) sees      x                  x    x
#      (d) sees      x   x   x                     x    x
#      (e) sees      x   x   x                     x    x
#
# (In BD3-LM, a clean row also sees the later clean rows of its block. Ours does not, so that it can act as a GPT.)

CLEAN = -1  # the `start` of a clean row, which belongs to no block


@dataclass(frozen=True)
class Rows:
    """The R rows that one pass computes, and what each row sees."""

    positions: torch.Tensor  # (R,)
    visible: torch.Tensor  # (R, R) True where row i sees row j in attention
    conv_rows: torch.Tensor  # (R, width) the rows that the convolution adds up for each row: see `rows_before`


def make_rows(positions, start, width):
    """Return the Rows of a pass. `positions` (R,) has the position of each row.

    `start` (R,) is the position where the block of each row starts, or CLEAN for a clean row. The first row of a pass
    has position 0. If rows of earlier passes are kept (section 3), every row of the pass also sees the kept rows.
    """
    is_clean = start == CLEAN
    before = torch.where(is_clean, positions + 1, start)  # a row sees the clean rows at positions below this
    sees_clean = is_clean[None, :] & (positions[None, :] < before[:, None])  # (R, R) row i sees column j
    sees_noisy = ~is_clean[None, :] & (start[None, :] == start[:, None])  # (R, R)
    visible = sees_clean | sees_noisy
    return Rows(positions, visible, rows_before(positions, visible, width))


def two_streams(starts, width):
    """Return the Rows for training on T + 1 tokens: first T clean rows, then T noisy rows.

    `starts` (T,) is the position where the block of each noisy row starts. The clean rows are at positions 0 to T - 1,
    and the noisy rows at positions 1 to T. Both streams predict the tokens at positions 1 to T.
    """
    place = torch.arange(len(starts), device=starts.device)
    clean = torch.full_like(starts, CLEAN)
    return make_rows(torch.cat((place, place + 1)), torch.cat((clean, starts)), width)


def rows_before(positions, visible, width):
    """For each row, return the numbers of the rows that a convolution of this width adds up: a tensor (R, width).

    For a row at position p, the convolution adds up the rows at positions p - width + 1 … p that this row sees. With a
    width of 3, it adds up b, c and (d) for the row (d) of the table above.

    The convolution's input is the last width - 1 rows of earlier passes, at negative positions, and then the new rows.
    The row numbers count the rows of this input from 0. For example, with a width of 3:

        row           two earlier rows    first new row    second new row    …
        position          -2    -1              0                 1
        number             0     1              2                 3
    """
    wanted = positions[:, None] - torch.arange(width - 1, -1, -1, device=positions.device)  # (R, width) positions
    stands_there = visible[:, None, :] & (positions == wanted[..., None])  # (R, width, R)
    row = stands_there.int().argmax(-1)  # (R, width); a row sees at most one new row at each position
    itself = torch.arange(len(positions), device=positions.device)[:, None]
    row = torch.where(stands_there.any(-1), row, itself)  # if no visible row is there, the row itself
    row = torch.where(wanted < 0, wanted, row)
    return row + width - 1


# 2. Random blocks, and random masks in them

SIZES = (1, 2, 4, 8, 16, 32, 64)  # block sizes in training, in addition to the whole window
SMALL = 16  # blocks up to this size are often masked completely: see `mask_blocks`


def draw_starts(T):
    """Draw random blocks that cover positions 1 to T. Return a tensor (T,) with the start of each position's block.

    One time in eight, a single block covers all positions. Otherwise small blocks are drawn more often than large
    blocks, so that each size covers about the same number of positions.
    """
    starts = torch.ones(T, dtype=torch.long)
    if torch.rand(()) < 1 / 8:
        return starts
    weights = 1 / torch.tensor(SIZES)
    at = 1
    while at <= T:
        size = SIZES[int(torch.multinomial(weights, 1))]
        starts[at - 1 : at - 1 + size] = at
        at += size
    return starts


def mask_blocks(x, starts, mask_id, whole=0.0):
    """Mask k tokens of each block of x (B, T), where k is spread evenly from 1 to the size of the block.

    With probability `whole`, a small block is masked completely, like the blocks in which drafts are made. Returns the
    masked text xt (B, T), and the masked share of each token's block (B, T).
    """
    B = len(x)
    first, block, size = torch.unique_consecutive(starts, return_inverse=True, return_counts=True)  # (G,), (T,), (G,)
    k = diffusion.spread_evenly(B * len(size), size.repeat(B), x.device).view(B, -1)  # (B, G)
    completely = (torch.rand(k.shape, device=x.device) < whole) & (size <= SMALL)
    k = torch.where(completely, size, k)
    score = block + torch.rand(x.shape, device=x.device)  # (B, T) scores of a block are below those of the next block
    rank = diffusion.ranks(score) - (first - starts[0])[block]  # (B, T) the rank of a score within its block
    return torch.where(rank < k[:, block], mask_id, x), (k / size)[:, block]


# 3. Keys and values of rows


class OnlyThisPass:
    """The keys and values of one layer in one pass. This class has the interface of chapter 02's KVBuffer.

    A KVBuffer computes the attention mask from the positions of the rows. Here several rows can have the same position,
    so the attention mask is given: `visible` (R, R), as in Rows.
    """

    def __init__(self, visible):
        self.visible = visible

    def write(self, positions, k, v):
        self.k, self.v = k, v

    def mask(self, positions, causal):
        return self.visible


class KeptRows:
    """Keeps the first n clean rows of a text from pass to pass, in a cache of chapter 03.

    No clean row depends on later rows, so the kept rows are exact. A pass writes its new rows after the kept rows,
    clean rows first. To keep some of the new clean rows, the caller adds their number to n. The next pass overwrites
    all rows after the first n.
    """

    def __init__(self, model, batch, rows):
        self.n = 0
        self.compute = gpt.LeanRows(model, model.make_cache(batch, rows))


# 4. The model: chapter 03's Transformer, with a different attention mask and an extra head for drafts


class Hybrid(transformer.Transformer):
    """A Transformer that is a GPT for clean rows and a dLLM of blocks for noisy rows."""

    wiring = "hybrid"  # a checkpoint stores this name, because the weights fit no other class

    def __init__(self, config):
        if not gpt.LeanRows.fits(config):
            raise ValueError("a hybrid has rotary positions, RMSNorm and squared ReLU")
        super().__init__(config)
        C = config.n_embd
        self.draft_up = nn.Linear(C, 2 * C, bias=False)
        self.draft_down = nn.Linear(2 * C, C, bias=False)
        # Each token has two vectors: one for the place right before a draft, and one for the place before that.
        self.previous = nn.Parameter(torch.zeros(2, config.vocab_size + 1, 2 * C))
        nn.init.normal_(self.draft_up.weight, std=C**-0.5)
        nn.init.zeros_(self.draft_down.weight)

    def forward(self, tokens, rows, kept=None):
        """Return the logits (B, R, V) of tokens (B, R), and the input of the head: (B, R, C).

        `rows` are the Rows of these tokens. If `kept` is a KeptRows, all new rows see the kept rows and are stored
        after them.
        """
        x = self.embed(tokens, None, rows.positions)  # (B, R, C)
        if kept:
            visible = F.pad(rows.visible, (kept.n, 0), value=True)  # (R, n + R)
            x = kept.compute(x, kept.n, rows.positions + kept.n, visible, rows.conv_rows)
            return self.head(x), x
        table = attention.rotary_table(rows.positions, self.config.n_embd // self.config.n_head)
        for i, layer in enumerate(self.blocks):  # blocks of a transformer, not blocks of text
            if i < len(self.convs):
                x = self.convolve(x, rows.conv_rows, self.convs[i].weight)
            x = layer(x, rows.positions, table, OnlyThisPass(rows.visible))
        x = self.norm(x)
        return self.head(x), x

    def convolve(self, x, conv_rows, weights):
        """Apply chapter 03's convolution to the rows of two streams, x (B, R, C).

        The convolution has `weights` (width, C). For each row, `conv_rows` (R, width) says which rows are added up.
        """
        around = F.pad(x, (0, 0, len(weights) - 1, 0))  # (B, width - 1 + R, C), with zeros before the text
        return x + sum(weight * around.index_select(1, conv_rows[:, i]) for i, weight in enumerate(weights))

    def draft_logits(self, x, previous):
        """Return the logits (…, V) of drafts, computed from the vectors x (…, C) of masked rows.

        `previous` (…, 2) has the two tokens before each draft, the nearest token first. The masked rows of one pass
        cannot see the drafts before them. But `previous` lets each draft depend on the two tokens before it, and this
        costs no further pass (as in Hydra, Ankner et al. 2024, arXiv:2402.05109).
        """
        inner = self.draft_up(x) + self.previous[0][previous[..., 0]] + self.previous[1][previous[..., 1]]  # (…, 2C)
        return self.head(self.norm(x + self.draft_down(F.relu(inner).square())))


# 5. Training


def read_both(model, windows, xt, starts):
    """Compute both streams of windows (B, T + 1) in one pass. Return logits (B, 2T, V) and vectors (B, 2T, C).

    `xt` (B, T) has the tokens at positions 1 to T, some of them masked. `starts` is as in `two_streams`.
    """
    return model(torch.cat((windows[:, :-1], xt), 1), two_streams(starts, model.config.conv))


def cross_entropies(logits, target):
    """Return -log p(target) in nats, in the shape of `target` (…). The logits are (…, V)."""
    losses = F.cross_entropy(logits.float().flatten(0, -2), target.flatten(), reduction="none")
    return losses.view(target.shape)


def hybrid_loss(model, windows):
    """Return the loss of windows (B, T + 1): a weighted sum of three mean cross-entropies.

    The means are over all tokens in the clean stream, over the masked tokens in the noisy stream, and over the drafts.
    The clean stream decides which drafts are accepted, so its mean has the largest weight.
    """
    target = windows[:, 1:]  # (B, T)
    T = target.shape[1]
    starts = draw_starts(T).to(windows.device)
    xt, share = mask_blocks(target, starts, model.config.mask_id, whole=0.25)
    logits, vectors = read_both(model, windows, xt, starts)
    hidden = xt == model.config.mask_id  # (B, T)
    clean = cross_entropies(logits[:, :T], target)
    noisy = cross_entropies(logits[:, T:][hidden], target[hidden])
    drafts = draft_losses(model, windows, vectors[:, T:], starts, share == 1)
    return 2 * clean.mean() + noisy.mean() / 2 + drafts.sum() / max(1, len(drafts)) / 2


def draft_losses(model, windows, vectors, starts, is_whole):
    """Return the cross-entropy of each draft in windows (B, T + 1): a tensor (n,).

    `vectors` (B, T, C) belong to the noisy rows. `is_whole` (B, T) is True in blocks that are masked completely. Drafts
    are the tokens at places 1 to SMALL - 1 of such blocks. The clean stream writes the token at place 0.
    """
    T = len(starts)
    place = torch.arange(1, T + 1, device=starts.device) - starts  # (T,) each token's place in its block
    drafted = is_whole & (place > 0) & (place < SMALL)  # (B, T)
    one_before = windows[:, :-1]  # (B, T)
    two_before = F.pad(windows[:, :-2], (1, 0))  # no token is two places before position 1, but position 1 has no draft
    previous = torch.stack((one_before, two_before), -1)  # (B, T, 2)
    logits = model.draft_logits(vectors[drafted], previous[drafted])  # (n, V)
    return cross_entropies(logits, windows[:, 1:][drafted])


class BlockDiffusion(gpt.NextToken):
    """The task of this chapter: the model learns to be a GPT and a dLLM of blocks. It is evaluated as a GPT."""

    def loss(self, model, windows):
        return hybrid_loss(model, windows)

    def evaluate(self, model, windows):
        return clean_nll(model, windows)

    def sample(self, model):
        canvas = torch.full((1, model.config.seq_len), model.config.mask_id, device=self.train.device)
        canvas[:, 0] = gpt.opening(self.tokenizer)
        *_, last = stream(model, canvas)
        return self.tokenizer.decode(last.canvas[0])


def clean_nll(model, windows):
    """Return the clean stream's exact NLL of windows (N, T + 1), in nats per token: (mean, standard error)."""

    def clean_stream(tokens):
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        rows = make_rows(positions, torch.full_like(positions, CLEAN), model.config.conv)
        return model(tokens, rows)[0]

    return gpt.nll(clean_stream, windows)


@torch.no_grad()
def block_nelbo(model, windows, size, draws=1, seed=0, batch_size=32):
    """Return the NELBO of windows (N, T + 1) in blocks of `size` tokens, in nats per token: (mean, standard error).

    By the chain rule, -log p(text) is the sum of -log p(block | text before the block) over all blocks. Chapter 04's
    NELBO is an upper bound for each term, and one pass estimates the bounds of all blocks. The first token of each
    window is given. The standard error comes from the differences between windows.
    """
    T = windows.shape[1] - 1
    starts = 1 + torch.arange(T, device=windows.device) // size * size  # (T,)
    bounds = []
    with diffusion.same_numbers(seed, windows.device):
        for batch in windows.split(batch_size):
            target = batch[:, 1:]
            bound = torch.zeros(len(batch), device=batch.device)
            for _ in range(draws):
                xt, share = mask_blocks(target, starts, model.config.mask_id)
                logits, _ = read_both(model, batch, xt, starts)
                losses = cross_entropies(logits[:, T:], target) * (xt == model.config.mask_id)
                bound = bound + (losses / share).mean(1)
            bounds.append(bound / draws)
    return measures.mean_and_error(torch.cat(bounds))


def curve(model, windows, draws=1):
    """Return the NELBO of windows (N, T + 1) for the block sizes 1, 2, 4, … T: a list of (size, mean, error)."""
    T = windows.shape[1] - 1
    sizes = [1]
    while sizes[-1] < T:
        sizes.append(min(2 * sizes[-1], T))
    return [(size, *block_nelbo(model, windows, size, draws)) for size in sizes]


# 6. Writing in blocks


class CleanBlockModel(fast.BlockModel):
    """Chapter 11's BlockModel for a Hybrid. It keeps finished blocks as clean rows.

    In chapter 11, kept rows are an approximation, because the rows before a block also see the block. Here they are
    exact, because a clean row sees no later rows.
    """

    kept = None

    def __call__(self, block, t):
        """Return logits (B, b, V) for the tokens `block` (B, b). All tokens before the block must be known."""
        canvas, _ = self.put(block)
        if self.kept is None:
            self.kept = KeptRows(self.model, *canvas.shape)
        n = self.kept.n
        positions = torch.arange(self.end - n, device=canvas.device)  # position 0 is the first row that is not kept
        start = self.start - n
        starts = torch.where(positions < start, CLEAN, start)
        rows = make_rows(positions, starts, self.config.conv)
        logits, _ = self.model(canvas[:, n : self.end], rows, self.kept)
        self.kept.n = self.start  # the rows before the block will not change
        return logits[:, start:]


# 7. Draft and verify

DRAFTS = 3  # drafts per pass; docs/block_diffusion.md compares other numbers


def probabilities(logits, temperature, top_k):
    """Turn logits (…, V) into the probabilities (…, V) with which chapter 04's `draw` draws tokens."""
    if temperature < diffusion.COLDEST:  # then `draw` always takes the most likely token
        return F.one_hot(diffusion.draw(logits, 0), logits.shape[-1]).to(logits.dtype)
    return diffusion.probabilities(logits, temperature, top_k)


def verify(p, q, drafts):
    """Accept drafts from left to right until one is refused, and draw the token after the accepted drafts.

    `drafts` is a list of m tokens. `p` (m + 1, V) has the GPT's probabilities at the place of each draft and at the
    place after the last draft. `q` (m or more, V) has the probabilities from which the drafts were drawn. Returns the
    number of accepted drafts, and the token after them. The new text has exactly the distribution p (speculative
    sampling, Leviathan et al. 2022, arXiv:2211.17192).

    A draft x is accepted with probability min(1, p(x) / q(x)). So the probability that x is drawn and accepted is
    q(x) min(1, p(x) / q(x)) = min(p(x), q(x)). But the next token must be x with probability p(x), so the difference
    max(0, p(x) - q(x)) is still missing. So a refused draft is replaced by a token that is drawn with probabilities
    proportional to this difference.
    """
    m = len(drafts)
    tokens = torch.tensor(drafts, dtype=torch.long, device=p.device)[:, None]
    ratio = p[:m].gather(1, tokens) / q[:m].gather(1, tokens)  # (m, 1)
    refused = (torch.rand(m, 1, device=p.device) >= ratio)[:, 0].tolist()
    accepted = [*refused, True].index(True)
    weights = (p[accepted] - q[accepted]).clamp(min=0) if accepted < m else p[m]
    return accepted, int(diffusion.pick(weights))


def draft_tokens(model, vectors, tokens, temperature, top_k):
    """Draft a token for each of the vectors (m, C), from left to right.

    `tokens` are the two tokens before the first draft. Returns the list of drafts, and the `q` (m, V) for `verify`.
    """
    tokens = list(tokens)
    q = vectors.new_zeros(len(vectors), model.config.vocab_size)
    for i, vector in enumerate(vectors):
        previous = torch.tensor([tokens[-1], tokens[-2]], device=vectors.device)
        q[i] = probabilities(model.draft_logits(vector, previous), temperature, top_k)
        tokens.append(int(diffusion.pick(q[i])))
    return tokens[2:], q


@functools.lru_cache
def rows_of_pass(known, drafts, size, width, device):
    """Return the Rows of one pass: clean rows for known tokens and for drafts, and then noisy rows for blocks of masks.

    `known` and `drafts` are the numbers of known tokens and of drafts. The pass can accept any number of the drafts,
    from none to all. For each number, the pass has a block of `size` masks, which see the accepted drafts. If exactly
    this number is accepted, these masks become the next drafts. The position right after the accepted drafts has no
    mask, because `verify` draws the token there. Here k is the last known token, x and y are drafts, and `size` is 2:

        clean rows:   k x y
        noisy rows:       _ _      if x is refused
                            _ _    if x is accepted, and y is refused
                              _ _  if both are accepted

    In training, a block also has a mask at its first position. Here that mask would hardly improve the next drafts.
    Without it, the pass in the example has 9 rows instead of 12.
    """
    positions = list(range(known + drafts))
    starts = [CLEAN] * (known + drafts)
    for accepted in range(drafts + 1):
        start = known + accepted
        positions += range(start + 1, start + 1 + size)
        starts += [start] * size
    return make_rows(torch.tensor(positions, device=device), torch.tensor(starts, device=device), width)


@dataclass(frozen=True)
class Pass:
    """What one pass of `draft_and_verify` does."""

    drafts: list  # the drafts that the pass verified
    new: list  # the tokens that the pass added to the text: the accepted drafts, and one more token
    probability: torch.Tensor  # (len(new),) the probability of each new token


@torch.no_grad()
def draft_and_verify(model, prompt, length, temperature=0.8, top_k=None, drafts=DRAFTS):
    """Continue `prompt`, a list of at least one token, to `length` tokens. Yields a Pass for each forward pass.

    The model sees at most seq_len tokens. When this window is full, it forgets all but the last seq_len // 2 tokens.
    Chapter 07's `stream` does the same, so the texts of both functions have the same distribution.
    """
    written = list(prompt)
    window, width, device = model.config.seq_len, model.config.conv, model.head.weight.device
    start = 0  # the model sees written[start:]
    kept = None
    proposed, q = [], torch.zeros(0, model.config.vocab_size, device=device)
    while len(written) < length:
        if len(written) - start > window:
            start = len(written) - max(1, window // 2)
            kept = None
        if kept is None:
            kept = KeptRows(model, 1, window + drafts * (drafts + 1))  # room for a full window and blocks of masks
        fit = min(length - len(written) - 1, start + window - len(written))  # how many drafts still fit
        proposed = proposed[:fit]
        known = written[start + kept.n :]  # the tokens whose rows are not kept yet

        masks = [model.config.mask_id] * (drafts * (len(proposed) + 1))
        rows = rows_of_pass(len(known), len(proposed), drafts, width, device)
        tokens = torch.tensor([known + proposed + masks], device=device)
        logits, vectors = model(tokens, rows, kept)  # (1, R, V), (1, R, C)

        last = len(known) - 1  # the row of the last known token predicts the token at the first draft's place
        p = probabilities(logits[0, last : last + len(proposed) + 1], temperature, top_k)  # (m + 1, V)
        accepted, token = verify(p, q, proposed)
        new = [*proposed[:accepted], token]
        written += new
        kept.n += len(known) + accepted  # keep the rows of the known tokens and of the accepted drafts
        yield Pass(proposed, new, p[range(len(new)), new])

        first = len(known) + len(proposed) + drafts * accepted  # the first row of the block after the accepted drafts
        proposed, q = draft_tokens(model, vectors[0, first : first + drafts], written[-2:], temperature, top_k)


@dataclass(frozen=True)
class Verified(diffusion.State):
    """A State that also has the drafts."""

    drafts: torch.Tensor  # (B, T) the drafts that this pass verified, accepted or refused; -1 elsewhere


def stream(model, canvas, temperature=0.8, top_k=None, drafts=DRAFTS):
    """Fill the masks at the end of canvas (B, T), one text after another. Yields a Verified after each pass.

    At least the first token of each text must be given.
    """
    given = canvas != model.config.mask_id
    confidence = given.float()
    for row, end in enumerate(given.sum(1).tolist()):
        prompt = canvas[row, :end].tolist()
        for step in draft_and_verify(model, prompt, canvas.shape[1], temperature, top_k, drafts):
            here = slice(end, end + len(step.new))
            canvas, confidence = canvas.clone(), confidence.clone()
            committed = torch.zeros_like(given)
            verified = torch.full_like(canvas, -1)
            canvas[row, here] = canvas.new_tensor(step.new)
            confidence[row, here] = step.probability
            committed[row, here] = True
            verified[row, end : end + len(step.drafts)] = canvas.new_tensor(step.drafts)
            yield Verified(canvas, confidence, committed, verified)
            end += len(step.new)


# 8. The command line


@dataclass(frozen=True)
class Train(training.Settings):
    """The flags of training."""

    train: training.TrainConfig = training.TrainConfig()

    def __post_init__(self):
        if not gpt.LeanRows.fits(self.model):
            raise ValueError("a hybrid has rotary positions, RMSNorm and squared ReLU: "
                             "leave out positions, norm and activation")
        if self.model.time_conditioned:
            raise ValueError("a hybrid has no noise level: leave out time_conditioned")


@dataclass(frozen=True)
class Write(gpt.Continue):
    """The flags of writing."""

    drafts: int | None = None  # drafts per pass, by default 3; with 0 the model writes like a GPT
    block: int = 0  # write in blocks of this many characters, without drafts
    steps: int | None = None  # with --block: passes per block; by default one pass per character
    rule: fast.Rule = fast.Rule()

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= (self.drafts or 0) <= 32:
            raise ValueError("drafts must be from 0 to 32")
        if not 0 <= self.block <= 10**6:
            raise ValueError("block must be from 0 to 1000000")
        if self.block and self.drafts is not None:
            raise ValueError("drafts and block are two ways to write: choose one")
        if not self.block and (self.steps is not None or self.rule != fast.Rule()):
            raise ValueError("steps, confidence, threshold, factor and entropy say how to write a block: add block")


def train(settings):
    corpus = text.load(settings.corpus)
    tokenizer = text.Characters.of(corpus.text)
    device = devices.pick_device(settings.device)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=tokenizer.vocab_size, causal=True)
    task = BlockDiffusion(tokenizer, text.split(corpus.text), config.seq_len, device)
    about = {"corpus": corpus.name, "corpus_sha256": corpus.sha256}
    folder = training.start(settings, "hybrid", task, config, about, device, Hybrid)
    if folder:
        show_results(folder, task, device)
        print("\nNext: 14_sudoku.py, where the freedom to choose the order wins.")


def show_results(folder, task, device):
    """Load the hybrid from `folder`. Print its NELBO for each block size, and its speed with and without drafts."""
    model, _, _ = checkpoint.load(folder, device, ("hybrid",), Hybrid)
    windows = training.evenly(task.windows, 48)
    tensors.heading(f"From GPT to dLLM: nats per character on {len(windows)} windows of unseen text")
    mean, error = clean_nll(model, windows)
    print(f"   next token, exact {mean:10.3f} ± {error:.3f}")
    for size, mean, error in curve(model, windows):
        print(f"   blocks of {size:4}, at most {mean:.3f} ± {error:.3f}")
    list(draft_and_verify(model, windows[0, :1].tolist(), 64))  # the first passes are slow
    for name, drafts in (("like a GPT, without drafts", 0), (f"with {DRAFTS} drafts in a pass", DRAFTS)):
        torch.manual_seed(1)
        began = time.perf_counter()
        passes = list(draft_and_verify(model, windows[0, :1].tolist(), 256, drafts=drafts))
        seconds = time.perf_counter() - began
        print(f"   writing {name:27} {255 / len(passes):5.2f} characters per pass, {255 / seconds:5.0f} per second")


def write(settings):
    folder = checkpoint.find(settings.checkpoint, "hybrid")
    model, tokenizer, _ = checkpoint.load(folder, devices.pick_device(settings.device), ("hybrid",), Hybrid)
    canvas = gpt.make_canvas(settings, tokenizer).to(model.head.weight.device)  # (B, T)
    seed = generation.pick_seed(settings)
    if settings.block:
        states = stream_blocks(model, canvas, settings)
    else:
        drafts = DRAFTS if settings.drafts is None else settings.drafts
        states = stream(model, canvas, settings.temp, settings.topk, drafts)
    generation.watch(states, canvas, tokenizer, settings, f"seed {seed} · {folder.name}")


def stream_blocks(model, canvas, settings):
    """Fill the masks of canvas (B, T) in blocks, as the settings say. Yields States."""
    steps = settings.steps or settings.block
    masks = int((canvas == model.config.mask_id).sum(1).max())
    if canvas.shape[1] > model.config.seq_len:
        masks = model.config.seq_len  # chapter 06 needs the number of passes for a window full of masks
    passes = steps * math.ceil(masks / settings.block)
    select, _ = settings.rule.select()
    denoise = functools.partial(fast.denoise_blocks, select=select, block=settings.block, reader=CleanBlockModel)
    return generation.generate(model, canvas, passes, settings.temp, settings.topk, denoise)


def main(argv=None):
    command, words = cli.sub_command(("train", "write"), argv)
    if command == "write":
        write(cli.parse(Write, words))
    else:
        train(cli.parse(Train, words, section="hybrid"))


if __name__ == "__main__":
    cli.run(main)
