"""Chapter 13: can one model be a GPT and a diffusion model, and does it then write faster?

    python 13_block_diffusion.py                              # train; no GPU: 7 minutes on two cores
    python 13_block_diffusion.py --write --prompt "ROMEO:"    # the text of a GPT, in fewer passes: draft and verify
    python 13_block_diffusion.py --write --block 8 --steps 4  # block by block: blocks of 8 characters, 4 passes each

A GPT writes one token per pass. A dLLM writes many, but its tokens of one pass do not see each other. Between them is
block diffusion (BD3-LM, Arriola et al. 2025, arXiv:2503.09573): the text is written block by block from left to right,
and each block by unmasking. A block of one token is a GPT, and a block as long as the text is a dLLM.

One network learns all block sizes here. So it can also do two jobs in one pass: as a GPT it verifies the tokens that
were proposed before, and as a dLLM it proposes the next ones (TiDAR, Liu et al. 2025, arXiv:2511.08923). The text then
has exactly the distribution of the GPT. In a terminal, accepted proposals are highlighted, and refused ones are red.
"""

import functools
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Literal, NamedTuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from plumbing import (
    blocks,
    checkpoint,
    cli,
    corpora,
    devices,
    kept_rows,
    measures,
    runs,
    sampling,
    settings,
    tokenizers,
)
from plumbing.settings import Count, Natural, NonNegative, OptionalCount, OptionalPath, Switch, number

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
gpt_training = import_module("07_train_gpt")
fast = import_module("11_fast_decoding")

CLEAN = -1  # stands where a noisy row has the start of its block
DRAFTS = 4  # per pass; docs/block_diffusion.md compares


# 1. Who sees whom


class Rows(NamedTuple):
    """The R rows that one pass computes. Each row is a token at a position, in one of two streams.

    The clean stream is a GPT: a clean row sees the clean rows up to its own position. The noisy stream consists of
    blocks with masks. A noisy row sees all rows of its own block, and the clean rows before the block.
    """

    positions: torch.Tensor  # (R,)
    visible: torch.Tensor  # (R, R) True where the first row sees the second one
    near: torch.Tensor  # (R, width) for the convolution: where the visible rows at the positions p - width + 1 … p are


def make_rows(positions, start, width=1):
    """Return the Rows at `positions` (R,). start (R,): where the block of each row starts, or CLEAN.

    Positions are counted from the first row. If clean rows precede it, they have negative positions, and all rows see
    them. The indices in `near` count the width - 1 rows before the first one too, because a convolution reads them.
    """
    clean, before = start == CLEAN, torch.where(start == CLEAN, positions + 1, start)  # sees clean rows below `before`
    visible = clean & (positions < before[:, None]) | ~clean & (start == start[:, None])  # (R, R)
    wanted = positions[:, None] - torch.arange(width - 1, -1, -1, device=positions.device)  # (R, width)
    found = visible[:, None] & (positions == wanted[..., None])  # (R, width, R), with at most one True per position
    near = torch.where(found.any(-1), found.int().argmax(-1), wanted)
    return Rows(positions, visible, near + width - 1)


def two_streams(starts, width=1):
    """The Rows of training on T + 1 tokens: T clean rows, which predict the next token, then T noisy rows.

    starts (T,): where the block of each noisy row starts. The noisy rows are at positions 1 to T, because the GPT, too,
    predicts these from the first token on.
    """
    here = torch.arange(len(starts), device=starts.device)
    return make_rows(torch.cat((here, here + 1)), torch.cat((torch.full_like(here, CLEAN), starts)), width)


# 2. The model: chapter 03's Transformer, with another attention mask and a head for drafts


class Hybrid(transformer.Transformer):
    """A causal Transformer that also reads noisy rows, and a small head that makes drafts hang together."""

    wiring = "hybrid"  # a checkpoint says so, since its weights fit no other class

    def __init__(self, config):
        super().__init__(config)
        V, C = config.vocab_size + 1, config.n_embd
        self.draft_up, self.draft_down = nn.Linear(C, 2 * C, bias=False), nn.Linear(2 * C, C, bias=False)
        self.previous = nn.Parameter(torch.zeros(2, V, 2 * C))  # one table for the token before, one for that before it
        nn.init.normal_(self.draft_up.weight, std=C**-0.5)
        nn.init.zeros_(self.draft_down.weight)

    def forward(self, tokens, rows=None, kept=None):
        """tokens (B, R) of the Rows `rows` → logits (B, R, V) and the vectors (B, R, C) from which they are made.

        Without `rows` all are clean: a GPT. kept: a kept_rows.Kept; its rows are seen by all rows, and the new ones join it.
        """
        B, R = tokens.shape
        if rows is None:
            here = torch.arange(R, device=tokens.device)
            rows = make_rows(here, torch.full_like(here, CLEAN), max(1, self.config.conv))
        x, n = self.token_emb(tokens), kept.n if kept else 0  # (B, R, C)
        if self.conv is not None:
            width = self.config.conv
            if kept:
                kept.embedded[:, n + width - 1 : n + width - 1 + R] = x
            near = kept.embedded[:, n : n + width - 1 + R] if kept else F.pad(x, (0, 0, width - 1, 0))
            x = x + sum(w * near.index_select(1, rows.near[:, i]) for i, w in enumerate(self.conv.weight))
        positions = rows.positions + n
        table = transformer.attention.rotary_table(positions, self.config.n_embd // self.config.n_head)
        visible = F.pad(rows.visible, (n, 0), value=True)  # (R, n + R)
        for i, block in enumerate(self.blocks):
            x = block(x, positions, table, kept_rows.Layer(visible, kept.rooms[i] if kept else None, n))
        x = self.norm(x)
        return self.head(x), x

    def follow(self, x, previous):
        """The logits of drafts: x (…, C) of rows of masks, previous (…, 2) the token before each and that before it.

        The drafts of a block are drawn one after another from these logits. They depend on each other through
        `previous` alone, which needs no pass of the network (Hydra, Ankner et al. 2024, arXiv:2402.05109).
        """
        inner = self.draft_up(x) + self.previous[0][previous[..., 0]] + self.previous[1][previous[..., 1]]  # (…, 2C)
        return self.head(self.norm(x + self.draft_down(F.relu(inner).square())))


# 3. Training: the loss of a GPT, the loss of a dLLM, and the loss of the drafts


def cross_entropies(network, windows, starts, whole=0.0, generator=None):
    """One training pass over windows (B, T + 1): the cross-entropies (B, T) of the clean stream, of the noisy stream
    (0 where it is not masked) and of the drafts (0 where a token could not be one), and the weights of blocks.mask_blocks."""
    T, x, mask_id = len(starts), windows[:, 1:], network.config.mask_id
    xt, weight = blocks.mask_blocks(x, starts, mask_id, whole, generator)
    rows = two_streams(starts, network.config.conv)
    logits, vectors = network(torch.cat((windows[:, :-1], xt), 1), rows)  # (B, 2T, V), (B, 2T, C)
    loss = F.cross_entropy(logits.float().flatten(0, 1), x.repeat(1, 2).flatten(), reduction="none").view(len(x), 2 * T)
    place = torch.arange(1, T + 1, device=x.device) - starts  # (T,) in the block
    drafts = (weight == 1) & (place > 0) & (place < blocks.SMALL)  # (B, T): the token at place 0 comes from the clean stream
    previous = torch.stack((windows[:, :-1], windows[:, :-1].roll(1, 1)), -1)  # (B, T, 2)
    follow = network.follow(vectors[:, T:], previous).float()  # (B, T, V)
    draft = F.cross_entropy(follow.flatten(0, 1), x.flatten(), reduction="none").view_as(x) * drafts
    return loss[:, :T], loss[:, T:] * (xt == mask_id), draft, weight


def hybrid_loss(network, windows):
    """The sum of three means: over all tokens, over the masked tokens, and over the drafts. windows: (B, T + 1)."""
    starts = blocks.draw_starts(windows.shape[1] - 1).to(windows.device)
    clean, noisy, draft, _ = cross_entropies(network, windows, starts, whole=0.25)
    return clean.mean() + noisy.sum() / (noisy > 0).sum() + draft.sum() / (draft > 0).sum().clamp(min=1)


# 4. Likelihood: an exact one, and a bound for every block size


def as_gpt(model):
    """The clean stream of a Hybrid as a Transformer of chapter 03, which shares its weights."""
    with torch.device("meta"):
        gpt = transformer.Transformer(model.config)
    gpt.load_state_dict({name: model.state_dict()[name] for name in gpt.state_dict()}, assign=True)
    return gpt.eval().requires_grad_(False)


@torch.no_grad()
def block_nelbo(model, windows, size, draws=1, seed=0, batch_size=32):
    """Estimate the NELBO of windows (N, T + 1), written in blocks of `size`: (mean, standard error) in nats per token.

    By the chain rule, -log p(text) is the sum of -log p(block | text before it). Each term has chapter 04's bound,
    which a single pass estimates for all blocks. The first token of a window is given. The error is over the windows.
    """
    generator = torch.Generator(windows.device).manual_seed(seed)
    T = windows.shape[1] - 1
    starts = 1 + torch.arange(T, device=windows.device) // size * size
    bounds = []
    for rows in windows.split(batch_size):
        losses = [cross_entropies(model, rows, starts, generator=generator) for _ in range(draws)]
        bounds.append(sum((weight * noisy).mean(1) for _, noisy, _, weight in losses) / draws)
    return measures.mean_and_error(torch.cat(bounds))


def two_losses(start):
    """The Objective of this chapter. start: the token with which the samples at evaluations begin."""

    def sample(model):
        first = torch.tensor([[start]], device=model.head.weight.device)
        return gpt_training.generate(as_gpt(model), first, model.config.seq_len - 1)[0]

    return training.Objective("NLL", 1, hybrid_loss, lambda model, windows, draws: gpt_training.nll(as_gpt(model), windows),
                              sample)


# 5. Writing in blocks


class BlockNetwork:
    """Computes the logits of a block for chapter 11's `decode`. Finished blocks join the clean rows, which are kept.

    In chapter 11 kept rows are an approximation, because a dLLM's rows see later ones. Here they are exact.
    """

    def __init__(self, model, canvas, how):
        self.model, self.how, self.mask_id, self.nfe = model, how, model.config.mask_id, 0
        self.kept = kept_rows.Kept(model, *canvas.shape)

    def __call__(self, canvas, start, end, fresh):
        """The logits (B, end - start, V) of the columns [start, end) of canvas (B, T), before which no mask is left."""
        n, self.nfe = self.kept.n, self.nfe + 1
        positions = torch.arange(end - n, device=canvas.device)
        rows = make_rows(positions, torch.where(positions < start - n, CLEAN, start - n), self.model.config.conv)
        logits, _ = self.model(canvas[:, n:end], rows, self.kept)
        self.kept.n = start  # the rows of the tokens before the block
        return logits[:, start - n :]


# 6. Draft and verify


@functools.lru_cache
def rows_of_pass(known, drafts, masks, width, device):
    """The Rows of one pass: `known` tokens of the text and `drafts` drafts, all clean, and then blocks of masks.

    masks: the size of the block behind the text if no draft is accepted, if one is, and so on. Every block starts where
    the next token of the text will be, sees the drafts before it, and will propose what follows that token.
    """
    starts = [CLEAN] * (known + drafts) + [known + j for j, size in enumerate(masks) for _ in range(size)]
    positions = [*range(known + drafts), *(known + j + i for j, size in enumerate(masks) for i in range(size))]
    return make_rows(*torch.tensor([positions, starts], device=device), width)


def verify(p, q, draft, generator=None):
    """Accept the first drafts and draw the token behind them, so that all have the distribution of p.

    draft: m tokens. p (m + 1, V): probability of each token at the place of each draft, and behind the last one. q
    (m, V): the probability with which each draft was drawn. Returns (number of accepted drafts, next token).

    Speculative sampling (Leviathan et al. 2022, arXiv:2211.17192): accept x with probability min(1, p(x) / q(x)). Then
    x is accepted with min(p(x), q(x)) in all. What is missing to p(x) is max(0, p(x) - q(x)), and the token that
    replaces a refused draft is drawn in proportion to it. So each token is drawn with probability p(x).
    """
    m, tokens = len(draft), torch.tensor(draft, dtype=torch.long, device=p.device)[:, None]
    ratio = p[:m].gather(1, tokens) / q[:m].gather(1, tokens)  # (m, 1)
    refused = (torch.rand(m, 1, device=p.device, generator=generator) >= ratio)[:, 0].tolist()
    accepted = refused.index(True) if True in refused else m
    weights = (p[accepted] - q[accepted]).clamp(min=0) if accepted < m else p[m]
    return accepted, int(sampling.pick(weights, generator))


def propose(model, vectors, previous, temperature, top_k, generator):
    """Draw a draft for each of vectors (m, C), one after another: m tokens, and the distributions q (m, V).

    previous: the last two tokens of the text.
    """
    draft, q = [], []
    for vector in vectors:
        logits = model.follow(vector, torch.tensor(previous[::-1], device=vectors.device))  # (V,)
        q.append(sampling.probabilities(logits, temperature, top_k))
        draft.append(int(sampling.pick(q[-1], generator)))
        previous = [previous[1], draft[-1]]
    return draft, torch.stack(q) if q else vectors.new_zeros(0, model.config.vocab_size)


@torch.no_grad()
def draft_and_verify(model, text, length, temperature=0.8, top_k=None, generator=None, drafts=DRAFTS):
    """Continue the list of tokens `text`, which it changes, to `length` tokens. Yields (drafts, number of accepted
    ones, probabilities of the new tokens) for each pass, which adds the accepted drafts and one more token.

    The distribution is that of chapter 07's `generate`: the model sees the last seq_len tokens at most, and when its
    window is full, it forgets all but the last seq_len // 2.
    """
    window, width, device = model.config.seq_len, model.config.conv, model.head.weight.device
    start, kept, draft, q = 0, None, [], torch.zeros(0, model.config.vocab_size, device=device)  # the model sees text[start:]; kept: the rows of some of it
    while len(text) < length:
        if len(text) - start > window:
            start, kept = len(text) - max(1, window // 2), None
        if kept is None:
            kept = kept_rows.Kept(model, 1, window + (drafts + 1) * (drafts + 2))
        known = len(text) - start - kept.n  # tokens whose rows are not kept
        m = min(len(draft), length - len(text) - 1, start + window - len(text))
        masks = tuple([drafts + 1] * (m + 1))
        rows = rows_of_pass(known, m, masks, width, device)
        tokens = text[-known:] + draft[:m] + [model.config.mask_id] * sum(masks)
        logits, vectors = model(torch.tensor([tokens], device=device), rows, kept)  # (1, R, V), (1, R, C)
        p = sampling.probabilities(logits[0, known - 1 : known + m], temperature, top_k)  # (m + 1, V)
        accepted, token = verify(p, q, draft[:m], generator)
        new = draft[:accepted] + [token]
        text += new
        kept.n += known + accepted
        yield draft[:m], accepted, p[range(accepted + 1), new]
        first = known + m + sum(masks[:accepted])  # the row of the block's first mask, where `token` is
        draft, q = propose(model, vectors[0, first + 1 : first + masks[accepted]], text[-2:], temperature, top_k, generator)


@dataclass(frozen=True, kw_only=True)
class Verified(diffusion.State):
    """A State of draft and verify."""

    drafts: torch.Tensor  # (B, T) the draft that this pass verified at each position, or -1; the canvas has it if accepted


def write(model, canvas, steps, temperature, top_k, generator, denoise=None, drafts=DRAFTS):
    """Write the rows of canvas (B, T) one after another by draft and verify. Yields Verified States.

    Each row begins with a prompt of at least one token and consists of masks from there on. The arguments are those of
    generation.generate; `steps` and `denoise` have no meaning here.
    """
    given = canvas != model.config.mask_id
    nothing, none = torch.zeros_like(given), torch.full_like(canvas, -1)
    state = Verified(canvas=canvas, confidence=given.float(), committed=nothing, step=0, nfe=0, drafts=none)
    yield state
    for row, end in enumerate(given.sum(1).tolist()):
        text = canvas[row, :end].tolist()
        for draft, accepted, sure in draft_and_verify(model, text, canvas.shape[1], temperature, top_k, generator, drafts):
            tokens, known, new, tried = state.canvas.clone(), state.confidence.clone(), nothing.clone(), none.clone()
            tokens[row, end : len(text)] = canvas.new_tensor(text[end:])
            known[row, end : len(text)], new[row, end : len(text)] = sure, True
            tried[row, end : end + len(draft)] = canvas.new_tensor(draft)
            end, step = len(text), state.step + 1
            state = Verified(canvas=tokens, confidence=known, committed=new, step=step, nfe=step, drafts=tried)
            yield state


# 7. The command line


@dataclass(frozen=True)
class HybridTrainConfig(training.TrainConfig):
    """How to train a hybrid."""

    steps: Count = 50_000  # maximum number of training steps; with --block: passes per block, by default one per token


@dataclass(frozen=True)
class Command(runs.RunFlags):
    """The flags of this chapter."""

    config: str = "hybrid-laptop"  # the settings file: a name in configs/, or the path of a YAML file
    write: Switch = False  # write with a trained model (the run that --run names, or the latest) instead of training
    prompt: str = "\\n"  # with --write: how the text begins, at least one character; \n is a new line
    len: number(int, 2, generation.MAX_LENGTH) = 256  # with --write: number of characters, the prompt included
    temp: NonNegative = 0.8  # with --write: temperature; 0 always takes the most probable character
    topk: OptionalCount = None  # with --write: sample from this many most probable characters only
    num: Count = 1  # with --write: number of samples
    drafts: Natural = DRAFTS  # with --write: drafts per pass; 0 writes like a GPT
    block: Natural = 0  # with --write: write in blocks of this many characters; 0: draft and verify
    order: Literal[tuple(fast.ORDERS)] = "isolated"  # with --block: what to commit first in a block (chapter 11)
    threshold: number(float, 0, 1, optional=True) = None  # with --block: commit all proposals with this confidence
    quiet: Switch = False  # with --write: print the text and nothing else
    gif: OptionalPath = None  # with --write: save the run as an animation: a path that ends in .gif
    html: OptionalPath = None  # with --write: save the run as a web page with a player: a path that ends in .html
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    train: HybridTrainConfig = HybridTrainConfig()


WRITING = "prompt len temp topk num drafts block order threshold quiet gif html".split()


def check_flags(command, argv):
    """Raise UserError if a flag is given that has no meaning together with the others."""
    given = [name for name in WRITING if settings.given(argv, f"--{name}") is not None]
    if given and not command.write:
        raise cli.UserError(f"--{given[0]} is a flag of writing: add --write")
    if command.write and command.block and "drafts" in given:
        raise cli.UserError("--drafts and --block are two ways to write: choose one")
    if command.write and not command.block and {"order", "threshold"} & set(given):
        raise cli.UserError("--order and --threshold choose within a block: add --block")
    if command.model.time_conditioned or command.model.positions != "rope":
        raise cli.UserError("a hybrid has rotary positions and is not told the noise level")


def write_text(command, argv):
    """Write with a trained model as the flags say."""
    folder = checkpoint.find(command.run, "hybrid")
    model, tokenizer, _ = checkpoint.load(folder, devices.pick_device(command.device), Hybrid)
    seed = command.train.seed if settings.given(argv, "--seed") else None
    passes = command.train.steps * -(-min(command.len, model.config.seq_len) // max(1, command.block))
    flags = generation.prepare(generation.Flags(
        steps=passes, temp=command.temp, topk=command.topk, len=command.len, num=command.num, seed=seed,
        prompt=command.prompt, quiet=command.quiet, gif=command.gif, html=command.html))
    if not command.prompt:
        raise cli.UserError("this model continues a text: give --prompt at least one character")
    rows = generation.canvas_rows(flags, tokenizer)
    how = fast.Decoding(order=command.order, threshold=command.threshold, block=command.block)
    sampler = functools.partial(fast.decode, how=how, network=BlockNetwork)
    writer = generation.generate if command.block else functools.partial(write, drafts=command.drafts)
    generation.watch(model, tokenizer, rows, flags, folder.resolve().name, sampler, writer)


def main(argv=None):
    command = settings.parse(Command, argv)
    check_flags(command, argv)
    if command.write:
        return write_text(command, argv)
    corpus = corpora.load(command.corpus)
    tokenizer, parts = tokenizers.CharTokenizer.from_text(corpus.text), corpora.split(corpus.text)
    model_config = replace(command.model, vocab_size=tokenizer.vocab_size, causal=True)
    objective = two_losses(gpt_training.opening(tokenizer))
    folder = training.start_run(command, "hybrid", model_config, objective, tokenizer, corpus, parts, Hybrid)
    import_module("plumbing.reports.block_diffusion").after_training(folder, parts[1])  # it imports this chapter
    print("\nNext: python 13_block_diffusion.py --write shows the accepted and the refused drafts.")


if __name__ == "__main__":
    cli.run(main, "lower --num, or use --device cpu")
