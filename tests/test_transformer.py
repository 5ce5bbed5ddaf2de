"""Chapter 03: counts of parameters, settings of the model, the start of training, causality, and exact caches."""

import math
import sys
from dataclasses import replace
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

attention = import_module("02_attention")
transformer = import_module("03_transformer")

MODERN = transformer.TransformerConfig(vocab_size=11, seq_len=16, n_layer=3, n_head=2, n_embd=16)
CLASSIC = replace(MODERN, positions="learned", norm="layer", activation="gelu")
CONV = replace(MODERN, conv=3)
CONVS = replace(CONV, conv_in="every")
B, T = 3, 16
POSITIONS = torch.arange(T)

KINDS = {"modern": MODERN, "classic": CLASSIC, "conv": CONV, "convs": CONVS}
of_each_kind = pytest.mark.parametrize("config", KINDS.values(), ids=KINDS)


@pytest.fixture(autouse=True)
def usual_start():
    torch.manual_seed(0)


def build(config=MODERN, **changes):
    """Return a model in evaluation mode. Zero parameters get random values, so that every part has an effect."""
    model = transformer.Transformer(replace(config, **changes)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.3)
    return model


def random_tokens(length=T):
    return torch.randint(MODERN.vocab_size + 1, (B, length))  # the mask token is one of them


def changed(tokens, start, end):
    """Return the tokens, with other tokens at the positions start to end - 1."""
    tokens = tokens.clone()
    tokens[:, start:end] = (tokens[:, start:end] + 1) % 12
    return tokens


def moved_outputs(model, position):
    """Return the positions whose output changes if the token at `position` changes."""
    tokens = random_tokens()
    difference = model(tokens) - model(changed(tokens, position, position + 1))
    return (difference.abs().amax((0, 2)) > 1e-6).nonzero().flatten().tolist()


def close(a, b):
    return torch.allclose(a, b, atol=1e-4)


# 1. Counts and costs


def test_the_default_has_10_7_million_parameters():
    model = transformer.Transformer(transformer.TransformerConfig(vocab_size=65))
    assert transformer.count_parameters(model) == 6 * 12 * 384**2 + (66 + 65) * 384 == 10_667_136


@of_each_kind
@pytest.mark.parametrize("change", [{}, {"time_conditioned": True}, {"n_layer": 1}], ids=str)
def test_the_formulas_give_the_number_of_parameters_of_each_part(config, change):
    config = replace(config, **change)
    parts = transformer.parameters_by_part(config)
    model = transformer.Transformer(config)
    assert sum(number for _, number in parts.values()) == transformer.count_parameters(model)
    for part, (_, number) in parts.items():
        assert number == sum(p.numel() for name, p in model.named_parameters() if part in name), part


@pytest.mark.parametrize("change", [{}, {"vocab_size": 65, "seq_len": 40, "n_layer": 1}], ids=str)
def test_the_formula_gives_the_flops_that_pytorch_counts(change):
    config = replace(MODERN, **change)
    model, tokens = transformer.Transformer(config), torch.zeros(2, config.seq_len, dtype=torch.long)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        model(tokens).sum().backward()
    assert counter.get_total_flops() == tokens.numel() * transformer.flops_per_token(config)


def test_the_chapter_counts_the_shape_of_its_flags_without_memory_for_it(monkeypatch, capsys):
    words = "--vocab-size 50257 --seq-len 24 --n-layer 3 --n-head 4 --n-embd 2048".split()
    monkeypatch.setattr(sys, "argv", ["03_transformer.py", *words])
    transformer.main()
    out = capsys.readouterr().out
    assert f"{3 * 12 * 2048**2 + (2 * 50257 + 1) * 2048:,}" in out and "left out" in out
    assert "V=50257 tokens, T=24 positions, L=3 layers, 4 heads, C=2048" in out


# 2. The start of training


@pytest.mark.parametrize("change", [{}, {"norm": "layer"}, {"time_conditioned": True}, {"conv": 3}], ids=str)
def test_a_fresh_model_finds_all_tokens_almost_equally_likely(change):
    config = replace(MODERN, vocab_size=65, n_embd=64, seq_len=128, **change)
    model, tokens = transformer.Transformer(config), torch.randint(65, (8, 128))
    loss = F.cross_entropy(model(tokens, torch.full((8,), 0.5)).flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(65), abs=0.05)


@pytest.mark.parametrize("config, scale", [(MODERN, 1), (CLASSIC, 0.02)], ids=["modern", "classic"])
def test_a_fresh_block_is_the_identity_and_its_matrices_keep_the_size_of_what_they_read(config, scale):
    model, x = transformer.Transformer(replace(config, n_embd=256)), torch.randn(B, T, 256)
    block, table = model.blocks[0], attention.rotary_table(POSITIONS, 128)
    assert torch.equal(block(x, POSITIONS, table), x)
    for matrix in (block.attn.qkv, block.mlp.up):
        assert matrix(x).std().item() == pytest.approx(1, abs=0.05)
    assert model.token_emb.weight.std().item() == pytest.approx(scale, rel=0.05)


def test_the_mask_is_read_but_never_predicted():
    model = build()
    masks = torch.full((B, T), MODERN.mask_id)
    assert model(masks).shape == (B, T, 11) and MODERN.mask_id == 11
    assert not close(model(masks), model(torch.full((B, T), 10)))


def test_a_model_is_an_embedding_then_blocks_then_a_norm_and_a_head():
    model, tokens = build(), random_tokens()
    x, table = model.token_emb(tokens), attention.rotary_table(POSITIONS, 8)
    for block in model.blocks:
        x = block(x, POSITIONS, table)
    assert close(model(tokens), model.head(model.norm(x)))


def test_gradients_reach_every_parameter():
    model = build(CLASSIC, time_conditioned=True, conv=3, conv_in="every").requires_grad_()
    tokens = torch.arange(T).remainder(12).expand(B, T)
    F.cross_entropy(model(tokens, torch.rand(B)).flatten(0, 1), torch.randint(11, (B * T,))).backward()
    assert all(p.grad.abs().sum() > 0 for p in model.parameters())


# 3. The switches


@pytest.mark.parametrize("config", [MODERN, CLASSIC, CONVS], ids=["modern", "classic", "convs"])
@pytest.mark.parametrize("causal", [False, True])
def test_a_causal_model_does_not_see_later_tokens(config, causal):
    assert moved_outputs(build(config, causal=causal), 9) == list(range(9 if causal else 0, T))


def test_the_norms_and_activations_are_those_of_their_papers():
    x = 3 * torch.randn(B, T, 16) + 1
    for model in (build(MODERN), build(CLASSIC)):
        classic, mlp = model.config == CLASSIC, model.blocks[0].mlp
        centred = x - x.mean(-1, keepdim=True) if classic else x
        by_hand = centred / centred.square().mean(-1, keepdim=True).sqrt()
        norm = transformer.make_norm(model.config)
        assert close(norm(x), by_hand)
        inner = mlp.up(x)
        gelu = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
        assert close(mlp(x), mlp.down(gelu if classic else inner.clamp(min=0) ** 2))
        attn = model.blocks[0].attn
        assert (attn.rotary, attn.qk_norm) == (not classic, not classic)


def test_only_a_time_conditioned_model_reads_t_and_each_text_has_its_own():
    tokens, early, late = random_tokens(), torch.full((B,), 0.1), torch.full((B,), 0.9)
    model = build(time_conditioned=True)
    assert not close(model(tokens, early), model(tokens, late))
    mixed = model(tokens, torch.tensor([0.1, 0.9, 0.1]))
    assert close(mixed[1], model(tokens, late)[1]) and close(mixed[2], model(tokens, early)[2])
    with pytest.raises(ValueError, match="time-conditioned"):
        model(tokens)
    plain, fresh = build(), transformer.Transformer(replace(MODERN, time_conditioned=True))
    assert torch.equal(plain(tokens, early), plain(tokens, late))
    assert torch.equal(fresh(tokens, early), fresh(tokens, late))  # t has an effect only after training


def test_the_noise_level_enters_as_waves_of_many_frequencies():
    layer, t = transformer.TimeEmbedding(16), torch.tensor([0.0, 0.3])
    angle = 1000 * t[:, None] * torch.tensor([10000 ** (-i / 8) for i in range(8)])
    waves = torch.cat((angle.cos(), angle.sin()), dim=1)
    assert close(layer(t), layer.down(F.silu(layer.up(waves))))


def test_dropout_acts_in_training_only_on_the_input_and_in_both_halves_of_a_block():
    model, tokens = build(dropout=0.5), random_tokens()
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model.embed(tokens, None, POSITIONS), model.embed(tokens, None, POSITIONS))
    table, x = attention.rotary_table(POSITIONS, 8), torch.randn(B, T, 16)
    for block, silent in ((model.blocks[0], "mlp.down"), (model.blocks[1], "attn.out")):
        block.get_submodule(silent).weight.zero_()
        assert block.attn.dropout == 0.5
        block.attn.eval()  # what is left is the dropout of the block itself
        assert not torch.equal(block(x, POSITIONS, table), block(x, POSITIONS, table))
    plain = build().train()
    assert torch.equal(plain(tokens), plain(tokens))


@pytest.mark.parametrize("causal, width, seen", [(False, 5, [3, 4, 5, 6, 7]), (True, 5, [5, 6, 7, 8, 9])])
def test_the_convolution_reads_as_many_neighbours_as_its_width_says(causal, width, seen):
    """A causal convolution reads only neighbours on the left, so position 5 changes only positions on its right."""
    layer = transformer.Neighbours(replace(MODERN, causal=causal, conv=width))
    x = torch.randn(1, T, 16)
    assert torch.equal(layer(x), x)  # before training it adds zero
    torch.nn.init.normal_(layer.weight)
    moved = (layer(x + (POSITIONS == 5)[:, None]) != layer(x)).any(-1)[0]  # (T,)
    assert moved.nonzero().flatten().tolist() == seen
    padded = F.pad(x.mT, (width - 1, 0) if causal else (width // 2, width // 2))
    by_hand = F.conv1d(padded, layer.weight.T[:, None], groups=16).mT
    assert close(layer(x), x + by_hand)


@pytest.mark.parametrize("config, reach", [(CONV, 1), (CONVS, 3)], ids=["conv", "convs"])
def test_each_convolution_carries_a_change_one_position_further(config, reach):
    model = build(config)
    for block in model.blocks:
        block.attn.out.weight.zero_()  # now nothing else carries it
    assert moved_outputs(model, 8) == list(range(8 - reach, 8 + reach + 1))


@pytest.mark.parametrize("change, word", [
    ({"conv": 4}, "conv"), ({"conv": -1}, "conv"), ({"vocab_size": 0}, "vocab_size"), ({"seq_len": 0}, "seq_len"),
    ({"n_layer": 0}, "n_layer"), ({"n_head": 0}, "n_head"), ({"n_embd": -4}, "n_embd"), ({"n_embd": 15}, "n_embd"),
    ({"n_embd": 6, "n_head": 2}, "twice"), ({"dropout": 1.0}, "dropout"), ({"dropout": -0.1}, "dropout"),
], ids=str)  # fmt: skip
def test_impossible_configurations_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        replace(MODERN, **change)


# 4. Cached = uncached


@of_each_kind
@pytest.mark.parametrize("sizes", [[1] * T, [6, 1, 9], [T]], ids=["one by one", "blocks", "at once"])
def test_a_causal_model_with_a_cache_equals_the_full_pass(config, sizes):
    model, tokens = build(config, causal=True), random_tokens()
    cache = model.make_cache(B, T + 5)  # no query may look at rows that were never written
    parts = [model(tokens[:, p], positions=p, cache=cache) for p in POSITIONS.split(sizes)]
    assert close(torch.cat(parts, dim=1), model(tokens))


@pytest.mark.parametrize("config", [MODERN, CLASSIC], ids=["modern", "classic"])
@pytest.mark.parametrize("start, end", [(0, 4), (5, 11), (0, T)])
def test_a_bidirectional_cache_is_exact_in_one_layer_or_if_nothing_changed(config, start, end):
    tokens, some = random_tokens(), POSITIONS[start:end]
    for n_layer in (1, 3):
        model = build(config, n_layer=n_layer)
        cache = model.make_cache(B, T)
        assert close(model(tokens, positions=POSITIONS, cache=cache), model(tokens))
        assert close(model(tokens[:, some], positions=some, cache=cache), model(tokens)[:, some])
        other = changed(tokens, start, end)
        rows = model(other[:, some], positions=some, cache=cache)
        assert close(rows, model(other)[:, some]) is (n_layer == 1 or len(some) == T)
        assert close(model(other, positions=POSITIONS, cache=cache), model(other))  # all rows are computed again


@pytest.mark.parametrize("config", [CONV, CONVS], ids=["conv", "convs"])
def test_a_partial_pass_takes_the_neighbours_of_a_convolution_from_the_cache(config):
    tokens, model = random_tokens(), build(config)
    cache = model.make_cache(B, T + 5)  # rows that were never written count as outside the text
    assert close(model(tokens, positions=POSITIONS, cache=cache), model(tokens))
    for some in POSITIONS.split([4, 7, 5]):
        assert close(model(tokens[:, some], positions=some, cache=cache), model(tokens)[:, some])


def test_rotary_positions_go_past_the_window_and_only_distances_count():
    model, tokens = build(causal=True), random_tokens(length=2 * T)
    full, cache = model(tokens), model.make_cache(B, 2 * T)
    assert close(model(tokens, positions=torch.arange(2 * T) + 100), full)
    parts = [model(tokens[:, p], positions=p, cache=cache) for p in torch.arange(2 * T).split([10] + [1] * 22)]
    assert close(torch.cat(parts, dim=1), full)
    with pytest.raises(IndexError):
        build(CLASSIC)(tokens)  # learned positions end with the window
