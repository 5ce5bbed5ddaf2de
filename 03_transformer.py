"""Chapter 03: what is a transformer, part by part?

    python 03_transformer.py    # about 5 seconds on a CPU

A stack of blocks: attention lets positions exchange what they know, an MLP then works on each alone.
The GPT and the diffusion model of this book are both this one, with `causal` on or off.
You should see where 10.7 million parameters lie, what a token costs, and what each switch changes.
"""

import argparse
import math
from dataclasses import dataclass, replace
from importlib import import_module
from typing import Literal

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from plumbing import cli, settings
from plumbing.settings import Count, Decided, Natural, Share

tensors = import_module("01_tensors")
attention = import_module("02_attention")


@dataclass(frozen=True)
class TransformerConfig:
    """Everything that fixes a model's shape. Saved beside its weights."""

    vocab_size: Decided[int] = 65  # number of tokens; one more row of the embedding stands for the mask
    seq_len: Count = 256  # length of the window that the model reads, in tokens
    n_layer: Count = 6  # number of blocks
    n_head: Count = 6  # number of attention heads in a block
    n_embd: Count = 384  # size of the vector at each position
    causal: Decided[bool] = False  # False: a diffusion model, True: a GPT
    dropout: Share = 0.0  # share of activations set to zero in training
    time_conditioned: bool = False  # tell the model the noise level t
    positions: Literal["rope", "learned"] = "rope"  # how positions are encoded: rotary, or learned vectors
    norm: Literal["rms", "layer"] = "rms"  # RMSNorm with QK-norm, or LayerNorm
    activation: Literal["relu2", "gelu"] = "relu2"  # nonlinearity of the MLP
    conv: Natural = 0  # width of the convolution over the embeddings, an odd number; 0: none

    def __post_init__(self):
        settings.check(self)
        if self.n_embd % self.n_head or (self.n_embd // self.n_head) % 2:
            raise ValueError(f"n_embd {self.n_embd} must split into {self.n_head} heads of an even size")
        if not self.causal and self.conv and self.conv % 2 == 0:
            raise ValueError(f"conv must be 0 or an odd number, not {self.conv}")
        if self.dropout == 1:
            raise ValueError("dropout must be less than 1, or nothing is left")

    @property
    def mask_id(self):
        """The token that stands for "not yet known": embedded, never predicted."""
        return self.vocab_size


class RMSNorm(nn.Module):
    """Divide each vector of x (..., C) by its root mean square. No parameters: the next matrix can scale."""

    def forward(self, x):
        return F.rms_norm(x, x.shape[-1:])


class MLP(nn.Module):
    """Two matrices with a non-linearity between: (B, T, C) → (B, T, 4C) → (B, T, C).

    ReLU² (So et al. 2021) needs no biases; "gelu" is the classic form and has them.
    """

    def __init__(self, config):
        super().__init__()
        self.relu2, bias = config.activation == "relu2", config.activation == "gelu"
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=bias)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=bias)

    def forward(self, x):
        x = self.up(x)  # (B, T, 4C)
        return self.down(F.relu(x).square() if self.relu2 else F.gelu(x))  # (B, T, C)


def make_norm(config):
    return RMSNorm() if config.norm == "rms" else nn.LayerNorm(config.n_embd)


class Block(nn.Module):
    """Attention mixes positions, the MLP works on each alone; both are added to the residual stream."""

    def __init__(self, config):
        super().__init__()
        self.norm1, self.norm2 = make_norm(config), make_norm(config)
        self.attn = attention.Attention(
            config.n_embd, config.n_head, config.causal, config.dropout,
            rotary=config.positions == "rope", qk_norm=config.norm == "rms",
        )
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, positions, table, buffer=None):
        """x: (B, T, C) → (B, T, C)."""
        x = x + self.drop(self.attn(self.norm1(x), positions, table, buffer))
        return x + self.drop(self.mlp(self.norm2(x)))


class Neighbours(nn.Module):
    """Add to each vector of x (B, T, C) those next to it, with one weight for each distance and channel.

    A depthwise convolution over the embeddings (So et al. 2021 put one behind queries, keys and values). To
    spell, a position must know the letters beside it; attention has to learn where those are, and this need not.
    """

    def __init__(self, config):
        super().__init__()
        self.left = config.conv - 1 if config.causal else config.conv // 2  # a GPT sees no letter to come
        self.weight = nn.Parameter(torch.zeros(config.conv, config.n_embd))

    def forward(self, x):
        T, width = x.shape[1], len(self.weight)
        padded = F.pad(x, (0, 0, self.left, width - 1 - self.left))  # (B, width-1+T, C), zero beyond the ends
        return x + sum(weight * padded[:, i : i + T] for i, weight in enumerate(self.weight))


class TimeEmbedding(nn.Module):
    """Noise level t (B,) → a vector (B, C), zero at the start of training."""

    def __init__(self, n_embd):
        super().__init__()
        self.up = nn.Linear(n_embd, n_embd)
        self.down = nn.Linear(n_embd, n_embd)

    def forward(self, t):
        half = self.up.in_features // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angle = 1000 * t[:, None] * frequency  # (B, C/2)
        return self.down(F.silu(self.up(torch.cat((angle.cos(), angle.sin()), dim=-1))))  # (B, C)


class Transformer(nn.Module):
    """Tokens (B, T) → logits (B, T, V). The mask token has an embedding row but no logit."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_emb = nn.Embedding(config.vocab_size + 1, config.n_embd)
        self.conv = Neighbours(config) if config.conv else None
        self.pos_emb = nn.Embedding(config.seq_len, config.n_embd) if config.positions == "learned" else None
        self.time_emb = TimeEmbedding(config.n_embd) if config.time_conditioned else None
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = make_norm(config)
        self.head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self):
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02 if self.config.norm == "layer" else 1.0)
        # Each block starts as the identity, so depth costs nothing at first; logits start near zero.
        outputs = [m for block in self.blocks for m in (block.attn.out, block.mlp.down)]
        for module in outputs + ([self.time_emb.down] if self.time_emb else []):
            nn.init.zeros_(module.weight)
        nn.init.normal_(self.head.weight, std=0.1 * self.config.n_embd**-0.5)

    def forward(self, tokens, t=None, positions=None, cache=None):
        """tokens: (B, T); t: (B,) noise levels, read only by a time-conditioned model.

        positions: (T,) absolute places of the tokens, 0 … T-1 when not given. cache: from `make_cache`:
        the rows `positions` are written and all valid rows are attended to.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.token_emb(tokens)  # (B, T, C)
        if self.conv is not None and cache is None:
            x = self.conv(x)
        elif self.conv is not None:  # the neighbours may have come in an earlier pass
            cache.embedded.index_copy_(1, positions, x.to(cache.embedded.dtype))
            x = self.conv(cache.embedded)[:, positions]
        table = None
        if self.pos_emb is None:
            table = attention.rotary_table(positions, self.config.n_embd // self.config.n_head)
        else:
            x = x + self.pos_emb(positions)
        if self.time_emb is not None:
            if t is None:
                raise ValueError("this model is time-conditioned: pass t, one noise level a sequence")
            x = x + self.time_emb(t)[:, None, :]
        x = self.drop(x)
        for i, block in enumerate(self.blocks):
            x = block(x, positions, table, None if cache is None else cache.layers[i])
        return self.head(self.norm(x))  # (B, T, V)

    def make_cache(self, batch, rows):
        """An empty `Cache` for `batch` sequences of up to `rows` positions."""
        c, weight = self.config, self.head.weight
        kind = dict(device=weight.device, dtype=weight.dtype)
        layers = [attention.KVBuffer(batch, c.n_head, rows, c.n_embd // c.n_head, **kind) for _ in range(c.n_layer)]
        return Cache(layers, torch.zeros(batch, rows if c.conv else 0, c.n_embd, **kind))


@dataclass
class Cache:
    """What a model remembers of the positions that it has been given."""

    layers: list  # a KVBuffer for each
    embedded: torch.Tensor  # (B, rows, C) embeddings, zero where not yet given; only a model with `conv` has rows


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())


def flops_per_token(config):
    """FLOPs of one training step (forward and backward) per token.

    6 for each weight of a matrix that a token passes (2 forward, 4 backward), and 12 C T a layer for the
    scores and the weighted sum of attention over T positions (Chowdhery et al. 2022, appendix B).
    """
    matrices = config.n_layer * 12 * config.n_embd**2 + config.n_embd * config.vocab_size
    return 6 * matrices + 12 * config.n_layer * config.n_embd * config.seq_len


def parameters_by_part(config):
    """{part: (formula, number)}, derived from the config alone."""
    V, T, L, C = config.vocab_size, config.seq_len, config.n_layer, config.n_embd
    gelu, layer = config.activation == "gelu", config.norm == "layer"
    return {
        "token_emb": ("(V+1) C", (V + 1) * C),  # one row more than the head: the mask
        "conv": ("K C", config.conv * C),
        "pos_emb": ("T C", T * C if config.positions == "learned" else 0),
        "time_emb": ("2 C² + 2 C", 2 * (C**2 + C) if config.time_conditioned else 0),
        "attn": ("L 4 C²", L * 4 * C**2),  # q, k, v and out
        "mlp": ("L (8 C² + 5 C)" if gelu else "L 8 C²", L * (8 * C**2 + 5 * C * gelu)),
        "norm": ("(2L+1) 2 C", (2 * L + 1) * 2 * C * layer),
        "head": ("V C", V * C),
    }


def show_parameters(model):
    cli.heading("1. Where the parameters are")
    c, total = model.config, count_parameters(model)
    print(f"  V={c.vocab_size} symbols, T={c.seq_len}, L={c.n_layer} layers, {c.n_head} heads, C={c.n_embd}")
    print("  part        formula        derived     counted    share")
    for part, (formula, derived) in parameters_by_part(c).items():
        counted = sum(p.numel() for name, p in model.named_parameters() if part in name)
        assert derived == counted
        print(f"  {part:11} {formula:10} {derived:11,} {counted:11,} {counted / total:8.1%}")
    print(f"  total {total:39,}   nearly all of it 12 C² a layer")
    assert total == sum(number for _, number in parameters_by_part(c).values())


def show_flops(model):
    cli.heading("2. FLOPs per token")
    c = model.config
    matrices = c.n_layer * 12 * c.n_embd**2 + c.n_embd * c.vocab_size
    scores = c.n_layer * 4 * c.n_embd * c.seq_len
    print(f"  forward    2 for each of {matrices:,} weights in matrices {2 * matrices:13,}")
    print(f"             4 C T a layer for QKᵀ and weights times V     {scores:13,}")
    print("  backward   twice the forward: a gradient for the input and one for the weights of each product")
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(torch.zeros(1, c.seq_len, dtype=torch.long)).sum().backward()
    assert counter.get_total_flops() / c.seq_len == 3 * (2 * matrices + scores) == flops_per_token(c)
    print(f"  training   three times the forward; PyTorch's counter agrees {flops_per_token(c):13,}")
    work = flops_per_token(c) * 64 * c.seq_len / 1e12
    print(f"  64 texts: {work:.2f} TFLOP, {work / 0.1:.0f} s at 0.1 TFLOP/s, {work / 50:.3f} s at 50 (GPU)")


def show_switches(config, tokens):
    cli.heading("3. The switches, and the loss before training")
    print("  config                   parameters    loss   twice in training, and what the switch does")
    for change, meaning in [
        ({}, "rotary, RMSNorm with QK-norm, ReLU²"),
        ({"positions": "learned"}, "a trained vector for each of T places"),
        ({"norm": "layer"}, "LayerNorm: centres, has weights; no QK-norm"),
        ({"activation": "gelu"}, "smooth, with biases"),
        ({"conv": 5}, "each letter's embedding also sees its neighbours"),
        ({"time_conditioned": True}, "sees the noise level t"),
        ({"dropout": 0.2}, "zeroes a fifth of the features, in training only"),
        ({"causal": True}, "the GPT"),
    ]:
        torch.manual_seed(0)
        model = Transformer(replace(config, **change))
        t = torch.full((len(tokens),), 0.5)
        assert torch.equal(model(tokens, t), model(tokens, t)) is (model.config.dropout == 0)
        loss = F.cross_entropy(model.eval()(tokens, t).flatten(0, 1), tokens.flatten()).item()
        assert abs(loss - math.log(config.vocab_size)) < 0.05
        name = " ".join(f"{key}={value}" for key, value in change.items()) or "the default"
        twice = "differ" if model.config.dropout else "equal"
        print(f"  {name:24} {count_parameters(model):10,} {loss:7.3f}   {twice:7} {meaning}")
    print(f"  ln V = {math.log(config.vocab_size):.3f}: to a fresh model all symbols are equally likely.")


def show_shapes(model, tokens):
    cli.heading("4. One forward pass, module by module")
    notes = {"token_emb": "B, T, C", "blocks.0.attn.qkv": "q, k, v", "blocks.0.mlp.up": "4C", "head": "V"}
    names = {m: name for name, m in model.named_modules() if not isinstance(m, nn.Dropout)}

    def show(module, _, output):
        name = names.get(module)
        if name and (name.startswith("blocks.0.") or name.count(".") < 2):  # one block in detail is enough
            print(f"  {name:20} {str(tuple(output.shape)):16} {notes.get(name, '')}".rstrip())

    print(f"  {'tokens':20} {str(tuple(tokens.shape)):16} B, T")
    with nn.modules.module.register_module_forward_hook(show):
        model(tokens)
    x, table = model.token_emb(tokens), attention.rotary_table(torch.arange(tokens.shape[1]), 64)
    assert torch.equal(model.blocks[0](x, None, table), x)
    print("  A fresh block adds exactly zero (asserted): it starts shallow and grows deep by learning.")


def main():
    argparse.ArgumentParser(description="A transformer, part by part.").parse_args()
    torch.set_num_threads(1)  # so little work is quicker alone than waiting for a second, busy core
    torch.manual_seed(0)
    config = TransformerConfig(vocab_size=65)  # as many symbols as TinyShakespeare has
    model, tokens = Transformer(config), torch.randint(65, (2, 64))
    show_parameters(model)
    show_flops(model)
    with torch.no_grad():
        show_switches(config, tokens)
        show_shapes(model, tokens)
    print("\nNext: 04_diffusion.py, where this model learns to restore masked text.")


if __name__ == "__main__":
    cli.run(main)
