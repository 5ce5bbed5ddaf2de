"""Chapter 03: what is a transformer, part by part?

    python 03_transformer.py                            # about 5 seconds on a CPU
    python 03_transformer.py --n-layer 4 --n-embd 192   # the same for another size; --help lists the flags

A transformer is a stack of blocks. In each block, attention lets positions exchange information, and then an MLP
(multilayer perceptron) works on each position alone. With `causal=True`, no position looks at later positions, and the
transformer is a GPT. With `causal=False`, every position looks at all positions, and the transformer is a diffusion
language model (dLLM).

You should see how many parameters each part has, how many operations each token costs, and what each setting changes.
The last part of the output lists the shapes inside a forward pass, module by module.
"""

import math
import sys
from dataclasses import dataclass, fields, replace
from importlib import import_module
from typing import Literal, get_args

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

tensors = import_module("01_tensors")
attention = import_module("02_attention")


# 1. The configuration


@dataclass(frozen=True)
class Shape:
    """The settings of the model that a user can choose."""

    seq_len: int = 256  # the window: how many tokens the model reads at once
    n_layer: int = 6  # number of blocks
    n_head: int = 6  # number of attention heads per block
    n_embd: int = 384  # size of each position's vector; a multiple of twice n-head
    dropout: float = 0.0  # share of features set to zero at random in training
    time_conditioned: bool = False  # give the noise level t to the model as an input
    positions: Literal["rope", "learned"] = "rope"  # positions: rotary (rope), or one learned vector per position
    norm: Literal["rms", "layer"] = "rms"  # normalisation: RMSNorm with QK-norm, or LayerNorm without QK-norm
    activation: Literal["relu2", "gelu"] = "relu2"  # nonlinearity of the MLP: squared ReLU, or GELU with biases
    conv: int = 0  # width of a convolution over neighbours: an odd number, or 0 for no convolution
    conv_in: Literal["first", "every"] = "first"  # which blocks begin with this convolution

    def __post_init__(self):
        for name in ("seq_len", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.n_embd % (2 * self.n_head):
            raise ValueError(f"n_embd {self.n_embd} must be a multiple of twice n_head {self.n_head}")
        for field in fields(Shape):
            choices = get_args(field.type)
            if choices and getattr(self, field.name) not in choices:
                raise ValueError(f"{field.name} must be one of {', '.join(choices)}")
        if not 0 <= self.dropout < 1:
            raise ValueError("dropout must be from 0 to below 1")
        if self.conv < 0 or self.conv and self.conv % 2 == 0:
            raise ValueError(f"conv must be 0 or an odd number, not {self.conv}")


@dataclass(frozen=True)
class TransformerConfig(Shape):
    """All settings of the model. The text decides `vocab_size`, and the task decides `causal`."""

    vocab_size: int = 65  # number of different tokens, without the mask token
    causal: bool = False  # True for a GPT, in which no position looks at later positions; False for a dLLM

    def __post_init__(self):
        super().__post_init__()
        if self.vocab_size < 1:
            raise ValueError("vocab_size must be at least 1")

    @property
    def mask_id(self):
        """The mask token means "not yet known". The model reads this token, but never predicts it."""
        return self.vocab_size


# 2. The parts


def make_norm(config):
    """Return the normalisation that the config asks for: LayerNorm (arXiv:1607.06450) or RMSNorm (arXiv:1910.07467).

    RMSNorm divides each vector by its root mean square. LayerNorm also subtracts the mean.
    """
    if config.norm == "layer":
        return nn.LayerNorm(config.n_embd)
    return nn.RMSNorm(config.n_embd, elementwise_affine=False)


class MLP(nn.Module):
    """Two linear layers: (B, T, C) → (B, T, 4C) → (B, T, C).

    The nonlinearity between the layers is squared ReLU, max(0, x)² (arXiv:2109.08668), or GELU (arXiv:1606.08415).
    """

    def __init__(self, config):
        super().__init__()
        self.relu2 = config.activation == "relu2"
        bias = not self.relu2
        self.up = nn.Linear(config.n_embd, 4 * config.n_embd, bias=bias)
        self.down = nn.Linear(4 * config.n_embd, config.n_embd, bias=bias)

    def forward(self, x):
        x = self.up(x)  # (B, T, 4C)
        return self.down(F.relu(x).square() if self.relu2 else F.gelu(x))  # (B, T, C)


class Block(nn.Module):
    """An attention layer, and then an MLP. Each of these two parts adds its output to the residual stream.

    The residual stream is the vector of a position on its way through all blocks (He et al. 2015, arXiv:1512.03385).
    Gradients flow back through these additions, directly to the first block.
    """

    def __init__(self, config):
        super().__init__()
        rotary, qk_norm = config.positions == "rope", config.norm == "rms"
        self.norm1 = make_norm(config)
        self.attn = attention.Attention(config.n_embd, config.n_head, config.causal, config.dropout, rotary, qk_norm)
        self.norm2 = make_norm(config)
        self.mlp = MLP(config)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x, positions, table, buffer=None):
        """Return the residual stream (B, T, C) after this block. x (B, T, C) is the residual stream before it.

        Attention.forward in chapter 02 explains the other arguments.
        """
        x = x + self.drop(self.attn(self.norm1(x), positions, table, buffer))
        return x + self.drop(self.mlp(self.norm2(x)))


class Neighbours(nn.Module):
    """A depthwise convolution: it lets each position read its neighbours.

    For each position of x (B, T, C), the convolution computes a weighted sum of the vectors at the position and its
    neighbours, and adds the sum to x. Each channel has its own weight for each place in the neighbourhood. To spell, a
    position must know its neighbours. Attention has to learn where the neighbours are, but a convolution knows from
    the start. (The Primer model, arXiv:2109.08668, uses convolutions inside attention.)

    The tensor `stream` (B, rows, C) is a part of the cache. It holds the inputs of this convolution from earlier
    passes, and zeros for positions that no pass has read. The new inputs x replace the rows at `positions`.
    """

    def __init__(self, config):
        super().__init__()
        self.left = config.conv - 1 if config.causal else config.conv // 2  # a GPT sees earlier tokens only
        self.weight = nn.Parameter(torch.zeros(config.conv, config.n_embd))

    def forward(self, x, positions=None, stream=None):
        if stream is not None:  # the neighbours can come from earlier passes
            stream.index_copy_(1, positions, x.to(stream.dtype))
            return self(stream)[:, positions]
        T = x.shape[1]
        width = len(self.weight)
        padded = F.pad(x, (0, 0, self.left, width - 1 - self.left))  # (B, width-1+T, C), zero outside the text
        return x + sum(weight * padded[:, i : i + T] for i, weight in enumerate(self.weight))


class TimeEmbedding(nn.Module):
    """Turn noise levels t (B,) into vectors (B, C), as Ho et al. 2020 do (arXiv:2006.11239)."""

    def __init__(self, n_embd):
        super().__init__()
        self.up, self.down = nn.Linear(n_embd, n_embd), nn.Linear(n_embd, n_embd)

    def forward(self, t):
        half = self.up.in_features // 2
        frequency = torch.exp(-math.log(10000) * torch.arange(half, device=t.device) / half)
        angle = 1000 * t[:, None] * frequency  # (B, C/2)
        return self.down(F.silu(self.up(torch.cat((angle.cos(), angle.sin()), dim=-1))))  # (B, C)


# 3. The model


class Transformer(nn.Module):
    """The whole model turns tokens (B, T) into logits (B, T, V), where V is the vocabulary size.

    Logits are scores, and softmax turns logits into probabilities. The mask token has a row in the embedding, but no
    logit. Many models use one matrix as both embedding and head (weight tying, Press and Wolf 2016, arXiv:1608.05859).
    Our model has two, because their initial weights have different scales.
    """

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.token_emb = nn.Embedding(config.vocab_size + 1, config.n_embd)
        self.convs = nn.ModuleList(Neighbours(config) for _ in range(count_convs(config)))  # for the first blocks
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
        # Before training, the blocks change nothing, and all tokens are almost equally likely.
        outputs = [m for block in self.blocks for m in (block.attn.out, block.mlp.down)]
        for module in outputs + ([self.time_emb.down] if self.time_emb else []):
            nn.init.zeros_(module.weight)
        nn.init.normal_(self.head.weight, std=0.1 * self.config.n_embd**-0.5)

    def forward(self, tokens, t=None, positions=None, cache=None):
        """Return the logits (B, T, V) for `tokens` (B, T). Only a time-conditioned model reads the noise levels t (B,).

        `positions` (T,) says where the tokens stand in the text, by default at 0 … T-1. If there is a `cache` (from
        `make_cache`), this pass fills the cache's rows at `positions`, and the queries look at all rows written so far.
        """
        if positions is None:
            positions = torch.arange(tokens.shape[1], device=tokens.device)
        table = attention.rotary_table(positions, self.config.n_embd // self.config.n_head)
        x = self.embed(tokens, t, positions)  # (B, T, C)
        for i, block in enumerate(self.blocks):
            if i < len(self.convs):
                x = self.convs[i](x, positions, cache and cache.streams[i])
            x = block(x, positions, table, cache and cache.layers[i])
        return self.head(self.norm(x))  # (B, T, V)

    def embed(self, tokens, t, positions):
        """Return the token vectors (B, T, C). If the model embeds positions or noise levels, add these embeddings."""
        x = self.token_emb(tokens)  # (B, T, C)
        if self.pos_emb is not None:
            x = x + self.pos_emb(positions)
        if self.time_emb is not None:
            if t is None:
                raise ValueError("this model is time-conditioned: pass t, one noise level per sequence")
            x = x + self.time_emb(t)[:, None, :]
        return self.drop(x)

    def make_cache(self, batch, rows):
        """Return an empty `Cache` for `batch` sequences of up to `rows` positions."""
        c, weight = self.config, self.head.weight
        kind = dict(device=weight.device, dtype=weight.dtype)
        layers = [attention.KVBuffer(batch, c.n_head, rows, c.n_embd // c.n_head, **kind) for _ in range(c.n_layer)]
        return Cache(layers, [torch.zeros(batch, rows, c.n_embd, **kind) for _ in self.convs])


def count_convs(config):
    """Return how many blocks begin with a convolution."""
    if config.conv == 0:
        return 0
    return config.n_layer if config.conv_in == "every" else 1


@dataclass
class Cache:
    """What a model keeps for later passes. Chapter 02's KVBuffer explains when results with a cache are exact."""

    layers: list  # one KVBuffer per block
    streams: list  # the input of each convolution (B, rows, C), zero where not yet written


# 4. What the model costs, and what its settings change


def count_parameters(model):
    return sum(p.numel() for p in model.parameters())


def flops_per_token(config):
    """Return how many floating-point operations (FLOPs) a training step needs per token.

    Each weight of a matrix costs 6 FLOPs per token: 2 in the forward pass and 4 in the backward pass. In each layer,
    the attention scores and the weighted sums cost another 12 C T FLOPs per token, for T positions and vectors of size
    C (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
    """
    matrices = config.n_layer * 12 * config.n_embd**2 + config.n_embd * config.vocab_size
    return 6 * matrices + 12 * config.n_layer * config.n_embd * config.seq_len


def parameters_by_part(config):
    """Calculate from the config how many parameters each part of the model has. Return {part: (formula, number)}."""
    V, T, L, C = config.vocab_size, config.seq_len, config.n_layer, config.n_embd
    N, K = count_convs(config), config.conv
    gelu = config.activation == "gelu"
    layer = config.norm == "layer"  # True counts as 1, and False as 0
    return {
        "token_emb": ("(V+1) C", (V + 1) * C),  # one more row than the head, for the mask token
        "conv": ("N K C", N * K * C),
        "pos_emb": ("T C", T * C if config.positions == "learned" else 0),
        "time_emb": ("2 C² + 2 C", 2 * (C**2 + C) if config.time_conditioned else 0),
        "attn": ("L 4 C²", L * 4 * C**2),  # q, k, v and out
        "mlp": ("L (8 C² + 5 C)" if gelu else "L 8 C²", L * (8 * C**2 + 5 * C * gelu)),
        "norm": ("(2L+1) 2 C", (2 * L + 1) * 2 * C * layer),
        "head": ("V C", V * C),
    }


def show_costs(config):
    tensors.heading("1. Parameters, and floating-point operations (FLOPs) per token")
    c = replace(config, time_conditioned=False)  # a noise level costs FLOPs per sequence, not per token
    with torch.device("meta"):  # meta tensors have shapes but no data: enough to count
        model, counted_model = Transformer(config), Transformer(c)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            counted_model(torch.zeros(1, c.seq_len, dtype=torch.long)).sum().backward()
    total = count_parameters(model)
    print(f"  V={c.vocab_size} tokens, T={c.seq_len} positions, L={c.n_layer} layers, {c.n_head} heads, C={c.n_embd}")
    print("  part        formula               derived       counted    share")
    for part, (formula, derived) in parameters_by_part(config).items():
        counted = sum(p.numel() for name, p in model.named_parameters() if part in name)
        assert derived == counted
        if counted:
            print(f"  {part:11} {formula:15} {derived:13,} {counted:13,} {counted / total:8.1%}")
    assert total == sum(number for _, number in parameters_by_part(config).values())
    print(f"  {'total':27} {total:13,} {total:13,}   12 C² per layer: {12 * c.n_layer * c.n_embd**2 / total:.1%}")
    assert counter.get_total_flops() == c.seq_len * flops_per_token(c)
    print(f"  FLOPs, forward {flops_per_token(c) // 3:23,}   2 per weight of a matrix, 4 C T per layer for attention")
    print(f"  FLOPs, training {flops_per_token(c):22,}   three times the forward pass; PyTorch counts the same")
    return total


def show_switches(config, tokens):
    tensors.heading("2. The switches, and the loss before training")
    print("  changed                  parameters    loss   (TransformerConfig says what each switch does)")
    for change in ({}, {"positions": "learned"}, {"norm": "layer"}, {"activation": "gelu"}, {"conv": 5},
                   {"conv": 5, "conv_in": "every"}, {"time_conditioned": True}, {"dropout": 0.2}, {"causal": True}):
        torch.manual_seed(0)
        model = Transformer(replace(config, **change))
        t = torch.full((len(tokens),), 0.5)
        assert model.config.dropout or torch.equal(model(tokens, t), model(tokens, t))
        loss = F.cross_entropy(model.eval()(tokens, t).flatten(0, 1), tokens.flatten()).item()
        assert abs(loss - math.log(config.vocab_size)) < 0.3
        name = " ".join(f"{key}={value}" for key, value in change.items()) or "nothing"
        print(f"  {name:22} {count_parameters(model):12,} {loss:7.3f}")
    print(f"  ln V = {math.log(config.vocab_size):.3f}: before training, all tokens are almost equally likely.")


def show_shapes(model, tokens):
    tensors.heading("3. The shapes in one forward pass, module by module")
    for name, module in model.named_modules():
        if name and "drop" not in name and (name.count(".") < 2 or name.startswith("blocks.0.")):
            module.register_forward_hook(lambda _, inputs, y, name=name: print(f"  {name:20} {tuple(y.shape)}"))
    print(f"  {'tokens':20} {tuple(tokens.shape)} = B, T")
    model(tokens, torch.full((len(tokens),), 0.5))


def main():
    usual = TransformerConfig()
    sizes = ("vocab_size", "seq_len", "n_layer", "n_head", "n_embd")
    flags = tensors.read_flags(__doc__, **{name: getattr(usual, name) for name in sizes})
    try:
        config = TransformerConfig(**{name: getattr(flags, name) for name in sizes})
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    torch.set_num_threads(1)  # for such small tensors, one thread is the fastest
    torch.manual_seed(0)
    total = show_costs(config)
    if total < 100_000_000:
        tokens = torch.randint(config.vocab_size, (4, min(64, config.seq_len)))
        with torch.no_grad():
            show_switches(config, tokens)
            show_shapes(Transformer(config), tokens)
    else:
        print("\nParts 2 and 3 are left out, because a model of this size would take minutes.")
    print("\nNext: 04_diffusion.py, where this model learns to restore masked text.")


if __name__ == "__main__":
    main()
