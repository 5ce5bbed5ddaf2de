"""Chapter 03: counts, switches, the loss before training, causality, and cached = uncached in a whole model."""

import math
from dataclasses import FrozenInstanceError, replace
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT, python, refusal

transformer = import_module("03_transformer")

SMALL = transformer.TransformerConfig(vocab_size=11, seq_len=16, n_layer=3, n_head=2, n_embd=16)
CLASSIC = replace(SMALL, positions="learned", norm="layer", activation="gelu")
CONV = replace(SMALL, conv=3)
CONVS = replace(CONV, conv_in="every")
B, T = 3, 16


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def build(config=SMALL, **changes):
    """A model in evaluation mode. Parameters that start at zero get random values, so that all parts matter."""
    model = transformer.Transformer(replace(config, **changes)).eval().requires_grad_(False)
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.3)
    return model


def random_tokens(config=SMALL, length=T):
    return torch.randint(config.vocab_size + 1, (B, length))  # the mask token is one of them


def close(a, b):
    return torch.allclose(a, b, atol=1e-4)


# 1. Shape, count and cost


def test_the_default_is_10_7_million():
    model = transformer.Transformer(transformer.TransformerConfig(vocab_size=65))
    assert transformer.count_parameters(model) == 6 * 12 * 384**2 + (66 + 65) * 384 == 10_667_136


@pytest.mark.parametrize("config", [SMALL, CLASSIC, CONV, CONVS], ids=["modern", "classic", "conv", "convs"])
@pytest.mark.parametrize("change", [{}, {"time_conditioned": True}, {"n_layer": 1}], ids=str)
def test_parameter_formula(config, change):
    config = replace(config, **change)
    parts = transformer.parameters_by_part(config)
    model = transformer.Transformer(config)
    assert sum(number for _, number in parts.values()) == transformer.count_parameters(model)
    for part, (_, number) in parts.items():
        assert number == sum(p.numel() for name, p in model.named_parameters() if part in name), part


@pytest.mark.parametrize("vocab_size, seq_len, n_layer", [(11, 16, 3), (65, 40, 1)])
def test_flops_are_what_pytorch_counts(vocab_size, seq_len, n_layer):
    config = replace(SMALL, vocab_size=vocab_size, seq_len=seq_len, n_layer=n_layer)
    model, tokens = transformer.Transformer(config), torch.zeros(2, seq_len, dtype=torch.long)
    kernel = transformer.sdpa_kernel(transformer.SDPBackend.MATH)
    with transformer.FlopCounterMode(display=False) as counter, kernel:
        model(tokens).sum().backward()
    assert counter.get_total_flops() == tokens.numel() * transformer.flops_per_token(config)


@pytest.mark.parametrize("change", [
    {}, {"positions": "learned"}, {"norm": "layer"}, {"activation": "gelu"}, {"causal": True},
    {"dropout": 0.3}, {"time_conditioned": True},
    {"positions": "learned", "norm": "layer", "activation": "gelu"},
], ids=str)  # fmt: skip
def test_a_fresh_model_has_loss_ln_v(change):
    config = replace(SMALL, vocab_size=65, n_embd=64, seq_len=128, **change)
    model, tokens = transformer.Transformer(config).eval(), torch.randint(65, (8, 128))
    xt = torch.where(torch.rand(8, 128) < 0.5, config.mask_id, tokens)
    loss = F.cross_entropy(model(xt, torch.full((8,), 0.5)).flatten(0, 1), tokens.flatten())
    assert loss.item() == pytest.approx(math.log(65), abs=0.05)


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_a_fresh_block_is_the_identity(norm):
    model, x = transformer.Transformer(replace(SMALL, norm=norm)), torch.randn(B, T, 16)
    table = transformer.attention.rotary_table(torch.arange(T), 8)
    assert torch.equal(model.blocks[0](x, torch.arange(T), table), x)


def test_the_mask_can_be_read_and_not_predicted():
    model = build()
    assert SMALL.mask_id == SMALL.vocab_size == 11
    assert model.token_emb.num_embeddings == 12 and model.head.out_features == 11
    tokens = torch.full((B, T), SMALL.mask_id)
    assert model(tokens).shape == (B, T, 11)
    assert model(tokens).argmax(-1).max() < SMALL.mask_id
    changed = tokens.clone()
    changed[:, 3] = 0
    assert not close(model(tokens), model(changed))


def test_gradients_reach_every_parameter():
    model = transformer.Transformer(replace(CLASSIC, time_conditioned=True))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    tokens = torch.arange(T).remainder(12).expand(B, T)
    F.cross_entropy(model(tokens, torch.rand(B)).flatten(0, 1), torch.randint(11, (B * T,))).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


# 2. Switches


@pytest.mark.parametrize("positions", ["rope", "learned"])
@pytest.mark.parametrize("causal", [False, True])
def test_which_outputs_depend_on_an_input(causal, positions):
    model, tokens = build(causal=causal, positions=positions), random_tokens()
    changed = tokens.clone()
    changed[:, 9] = (tokens[:, 9] + 1) % 12
    before, after = model(tokens), model(changed)
    earlier = (before[:, :9] - after[:, :9]).abs().max()
    assert (earlier == 0) if causal else (earlier > 1e-4)
    assert ((before - after)[:, 9:].abs().amax((0, 2)) > 1e-6).all()


def test_switches_change_the_parts_that_they_name():
    def names(**change):
        return set(transformer.Transformer(replace(SMALL, **change)).state_dict())

    default = names()
    assert names(positions="learned") - default == {"pos_emb.weight"}
    layer = {f"{norm}.{kind}" for kind in ("weight", "bias") for norm in
             ["norm", *(f"blocks.{i}.norm{j}" for i in range(3) for j in (1, 2))]}  # fmt: skip
    assert names(norm="layer") - default == layer
    biases = {f"blocks.{i}.mlp.{m}.bias" for i in range(3) for m in ("up", "down")}
    assert names(activation="gelu") - default == biases
    time = {f"time_emb.{m}.{kind}" for m in ("up", "down") for kind in ("weight", "bias")}
    assert names(time_conditioned=True) - default == time
    assert names(causal=True) == names(dropout=0.5) == names(conv_in="every") == default
    assert names(conv=3) - default == {"conv.weight"}
    assert names(conv=3, conv_in="every") - default == {"conv.weight"} | {f"later_convs.{i}.weight" for i in (0, 1)}
    assert default <= names(positions="learned", norm="layer", activation="gelu", time_conditioned=True)


@pytest.mark.parametrize("change", [
    {"activation": "gelu"}, {"norm": "layer"}, {"causal": True}, {"positions": "learned"},
    {"conv": 3}, {"conv": 3, "conv_in": "every"},
], ids=str)  # fmt: skip
def test_each_switch_changes_the_output(change):
    model, other, tokens = build(), build(**change), random_tokens()
    other.load_state_dict(model.state_dict(), strict=False)  # the same weights for the parts that both models have
    assert not close(model(tokens), other(tokens))


def test_only_a_time_conditioned_model_reads_t():
    tokens, early, late = random_tokens(), torch.full((B,), 0.1), torch.full((B,), 0.9)
    model = build(time_conditioned=True)
    assert not close(model(tokens, early), model(tokens, late))
    mixed = model(tokens, torch.tensor([0.1, 0.9, 0.1]))  # each sequence has its own t
    assert close(mixed[1], model(tokens, late)[1]) and close(mixed[2], model(tokens, early)[2])
    with pytest.raises(ValueError, match="time-conditioned"):
        model(tokens)
    plain = build()
    assert torch.equal(plain(tokens, early), plain(tokens, late))
    fresh = transformer.Transformer(replace(SMALL, time_conditioned=True))
    assert torch.equal(fresh(tokens, early), fresh(tokens, late))  # before training, t has no effect


def test_dropout_acts_in_training_only():
    model, tokens = build(dropout=0.5), random_tokens()
    assert torch.equal(model(tokens), model(tokens))
    model.train()
    assert not torch.equal(model(tokens), model(tokens))
    model = build().train()
    assert torch.equal(model(tokens), model(tokens))


@pytest.mark.parametrize("change, word", [
    ({"conv": 4}, "conv"), ({"conv": -1}, "conv"), ({"conv_in": "last"}, "conv_in"),
    ({"positions": "sine"}, "positions"), ({"norm": "batch"}, "norm"), ({"activation": "tanh"}, "activation"),
    ({"vocab_size": 0}, "vocab_size"), ({"seq_len": 0}, "seq_len"), ({"n_layer": 0}, "n_layer"),
    ({"n_head": 0}, "n_head"), ({"n_embd": -4}, "n_embd"), ({"n_embd": 15}, "n_embd"),
    ({"n_embd": 6, "n_head": 2}, "twice"), ({"dropout": 1.0}, "dropout"), ({"dropout": -0.1}, "dropout"),
], ids=str)  # fmt: skip
def test_impossible_configurations_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        replace(SMALL, **change)


def test_a_configuration_is_frozen():
    with pytest.raises(FrozenInstanceError):
        SMALL.n_layer = 2


# 3. Cached = uncached


@pytest.mark.parametrize("config", [SMALL, CLASSIC, CONV, CONVS], ids=["modern", "classic", "conv", "convs"])
@pytest.mark.parametrize("sizes", [[1] * T, [6] + [1] * 10, [4, 4, 4, 4], [T]],
                         ids=["one by one", "prompt first", "blocks", "at once"])  # fmt: skip
def test_causal_append_equals_the_full_pass(config, sizes):
    model, tokens = build(config, causal=True), random_tokens()
    cache = model.make_cache(B, T + 5)  # no query may look at rows that were never written
    parts = [model(tokens[:, p], positions=p, cache=cache) for p in torch.arange(T).split(sizes)]
    assert close(torch.cat(parts, dim=1), model(tokens))


@pytest.mark.parametrize("config", [SMALL, CLASSIC, CONV, CONVS], ids=["modern", "classic", "conv", "convs"])
def test_causal_rewrite_after_a_change_equals_the_full_pass(config):
    model, tokens, positions = build(config, causal=True), random_tokens(), torch.arange(T)
    cache = model.make_cache(B, T)
    model(tokens, positions=positions, cache=cache)
    tokens[:, 5:9] = (tokens[:, 5:9] + 1) % 12
    rows = model(tokens[:, 5:9], positions=positions[5:9], cache=cache)
    assert close(rows, model(tokens)[:, 5:9])  # later rows are out of date, but these rows do not look at them
    rest = model(tokens[:, 9:], positions=positions[9:], cache=cache)
    assert close(rest, model(tokens)[:, 9:])


@pytest.mark.parametrize("config", [SMALL, CLASSIC], ids=["modern", "classic"])
@pytest.mark.parametrize("s, e", [(0, 4), (5, 11), (12, T), (0, T)])
def test_bidirectional_rewrite_equals_the_full_pass(config, s, e):
    """Exact with one layer. With several, only if the tokens are unchanged or every row is computed again."""
    tokens, positions = random_tokens(), torch.arange(T)
    for n_layer in (1, 3):
        model = build(config, n_layer=n_layer)
        cache = model.make_cache(B, T)
        assert close(model(tokens, positions=positions, cache=cache), model(tokens))
        again = model(tokens[:, s:e], positions=positions[s:e], cache=cache)
        assert close(again, model(tokens)[:, s:e])
        changed = tokens.clone()
        changed[:, s:e] = (tokens[:, s:e] + 1) % 12
        rows = model(changed[:, s:e], positions=positions[s:e], cache=cache)
        assert close(rows, model(changed)[:, s:e]) is (n_layer == 1 or e - s == T)
        full = model(changed, positions=positions, cache=cache)  # a full pass replaces every approximate row
        assert close(full, model(changed))


@pytest.mark.parametrize("config", [CONV, CONVS], ids=["conv", "convs"])
def test_neighbours_of_a_partial_pass_come_from_the_cache(config):
    """A partial pass through a convolution reads the vectors around it; with unchanged tokens it is exact."""
    tokens, positions, model = random_tokens(), torch.arange(T), build(config)
    cache = model.make_cache(B, T + 5)  # rows that were never written count as outside the text
    full = model(tokens, positions=positions, cache=cache)
    assert close(full, model(tokens))
    for s, e in ((0, 4), (5, 11), (12, T)):
        assert close(model(tokens[:, s:e], positions=positions[s:e], cache=cache), full[:, s:e])


@pytest.mark.parametrize("causal, width, seen", [(False, 5, [3, 4, 5, 6, 7]), (True, 4, [5, 6, 7, 8])])
def test_the_convolution_reads_as_many_neighbours_as_its_width_says(causal, width, seen):
    layer = transformer.Neighbours(replace(SMALL, causal=causal, conv=width))
    x = torch.randn(1, T, SMALL.n_embd)
    assert torch.equal(layer(x), x)  # before training it adds zero
    torch.nn.init.normal_(layer.weight)
    moved = (layer(x + (torch.arange(T) == 5)[:, None]) != layer(x)).any(-1)[0]  # (T,)
    assert moved.nonzero().flatten().tolist() == seen
    by_hand = torch.nn.functional.conv1d(torch.nn.functional.pad(x.mT, (layer.left, width - 1 - layer.left)),
                                         layer.weight.T[:, None], groups=SMALL.n_embd).mT
    assert close(layer(x), x + by_hand)


def test_each_block_has_a_convolution_of_its_own():
    """With weights that only the convolutions have, each block carries a change one position further on either side."""
    model, tokens = build(CONVS), random_tokens()
    for block in model.blocks:
        block.attn.out.weight.zero_()
    changed = tokens.clone()
    changed[:, 8] = (tokens[:, 8] + 1) % 12
    moved = (model(tokens) - model(changed)).abs().amax((0, 2)) > 1e-6  # (T,)
    assert moved.nonzero().flatten().tolist() == [5, 6, 7, 8, 9, 10, 11]


def test_batches_do_not_mix_in_the_cache():
    model, tokens, positions = build(causal=True), random_tokens(), torch.arange(T)
    together, alone = model.make_cache(B, T), model.make_cache(1, T)
    for p in positions.split(4):
        many = model(tokens[:, p], positions=p, cache=together)
        one = model(tokens[1:2, p], positions=p, cache=alone)
        assert close(many[1:2], one)


def test_rotary_positions_go_past_the_window_and_only_distances_count():
    model, tokens = build(), random_tokens(length=2 * T)
    far = model(tokens, positions=torch.arange(2 * T) + 100)
    assert far.shape == (B, 2 * T, 11) and close(far, model(tokens))


def test_learned_positions_end_with_the_window():
    with pytest.raises((IndexError, ValueError)):
        build(CLASSIC)(random_tokens(length=T + 1))


def test_decoding_past_the_window_with_a_rotary_cache():
    model, tokens = build(causal=True), random_tokens(length=2 * T)
    cache = model.make_cache(B, 2 * T)
    steps = torch.arange(2 * T).split([10] + [1] * 22)
    parts = [model(tokens[:, p], positions=p, cache=cache) for p in steps]
    assert close(torch.cat(parts, dim=1), model(tokens))


# 4. The chapter


def test_the_shape_comes_from_flags_and_counts_are_exact(capsys):
    flags = dict(vocab_size=1234, seq_len=24, n_layer=2, n_head=2, n_embd=32, conv=3, dropout=0.1, norm="layer")
    words = [word for name, value in flags.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    transformer.main([*words, "--causal", "--time-conditioned", "--positions", "learned", "--activation", "gelu"])
    config = transformer.TransformerConfig(**flags, causal=True, time_conditioned=True, positions="learned",
                                           activation="gelu")  # fmt: skip
    out = capsys.readouterr().out
    assert f"{transformer.count_parameters(transformer.Transformer(config)):,}" in out
    assert f"{transformer.flops_per_token(config):,}" in out
    assert "V=1234 tokens, T=24 positions, L=2 layers, 2 heads, C=32" in out


def test_a_large_shape_is_counted_without_memory(capsys):
    transformer.main("--vocab-size 50257 --n-layer 48 --n-head 25 --n-embd 1600 --causal".split())
    out = capsys.readouterr().out
    assert f"{48 * 12 * 1600**2 + (2 * 50257 + 1) * 1600:,}" in out and "left out" in out


@pytest.mark.parametrize("flags, word", [
    ("--n-embd 33", "n_embd"), ("--conv 2", "odd"), ("--n-layer 0", "n-layer"), ("--positions sine", "positions"),
    ("--dropout 1", "dropout"), ("--n-layr 3", "n-layer"), ("--vocab-size 0", "vocab-size"),
], ids=str)  # fmt: skip
def test_impossible_flags_are_refused(flags, word):
    assert word in refusal(transformer.main, flags.split())


def test_chapter_runs_from_anywhere_and_names_the_next(tmp_path):
    done = python(ROOT / "03_transformer.py", cwd=tmp_path)
    assert done.code == 0, done.err
    assert "04_diffusion.py" in done.out.splitlines()[-1]
    assert not list(tmp_path.iterdir())
