"""What the exercises for chapter 03 must do. check.py gives each function the learner's function of the same name."""

from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import torch

transformer = import_module("03_transformer")
answers = import_module("exercises.checks.01_tensors")


def check_predict_growth(f):
    config, answer = transformer.TransformerConfig(), f()
    assert isinstance(answer, (list, tuple)) and len(answer) == 5, "The function must return a list of five numbers."
    assert all(map(answers.is_number, answer)), "Each entry of the list must be a number."
    for name, factor in zip(("n_layer", "n_embd", "n_head", "seq_len", "vocab_size"), answer):
        true = in_blocks(replace(config, **{name: 2 * getattr(config, name)})) / in_blocks(config)
        assert answers.close(factor, true), f"If {name} is doubled, the number grows by another factor."


def in_blocks(config):
    parts = transformer.parameters_by_part(config)
    return parts["attn"][1] + parts["mlp"][1]


def count(n_embd, vocab_size, n_layer):
    """The number of parameters of a whole model. Chapter 03 asserts that its formulas agree with a real model."""
    config = transformer.TransformerConfig(vocab_size, n_layer=n_layer, n_head=1, n_embd=n_embd)
    return sum(number for _, number in transformer.parameters_by_part(config).values())


def check_largest_width(f):
    for width, vocab_size, n_layer in ((64, 65, 1), (128, 65, 4), (384, 65, 6), (192, 5000, 2)):
        exact, more = count(width, vocab_size, n_layer), count(width + 64, vocab_size, n_layer)
        for budget in (exact, (exact + more) // 2, more - 1):
            answer = f(budget, vocab_size, n_layer)
            assert isinstance(answer, int) and answer > 0 and answer % 64 == 0, "The result must be a multiple of 64."
            assert count(answer, vocab_size, n_layer) <= budget, "A model of this width has too many parameters."
            assert answer >= width, "A wider model would not exceed the budget either."


def small_model(seed=0, **settings):
    """An untrained model with large random weights, so that every part of it changes the logits."""
    torch.manual_seed(seed)
    config = transformer.TransformerConfig(5, 8, n_head=2, n_embd=16, **settings)
    model = transformer.Transformer(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model.requires_grad_(False)


def check_logits_by_depth(f):
    for n_layer, T, settings in ((3, 8, {}), (1, 5, {"causal": True}), (2, 6, {"norm": "layer", "activation": "gelu"})):
        model = small_model(n_layer=n_layer, **settings)
        tokens = torch.randint(6, (2, T))
        answer = f(model, tokens)
        assert torch.is_tensor(answer) and answer.dim() == 4, "The result must be one tensor with four dimensions."
        assert len(answer) == n_layer + 1, "There must be one entry for the embedding and one for each block."
        assert answer.shape[1:] == (2, T, 5), "Each entry must have the shape (B, T, V)."
        same = torch.allclose(answer[-1], model(tokens), atol=1e-4)
        assert same, "The last entry must be what model(tokens) returns."
        wanted = model.head(model.norm(model.token_emb(tokens)))
        assert torch.allclose(answer[0], wanted, atol=1e-4), "Entry 0 is not what norm and head make of the embedding."
        for n in range(1, n_layer):
            shorter = transformer.Transformer(replace(model.config, n_layer=n)).eval()
            shorter.load_state_dict(model.state_dict(), strict=False)
            same = torch.allclose(answer[n], shorter(tokens), atol=1e-4)
            assert same, f"Entry {n} is not what a model with only the first {n} blocks would return."


def reader(look, causal):
    """A model without weights. look(i, T): the positions that position i reads. causal: what its config says."""

    def model(tokens):
        B, T = tokens.shape
        logits = torch.zeros(B, T, 5)
        for i in range(T):
            for j in look(i, T):
                logits[:, i] += ((tokens[:, j, None] + 1) * (j + 2) * torch.arange(1, 6)).sin()
        return logits

    model.config = SimpleNamespace(vocab_size=5, causal=causal)
    return model


def check_sees_the_future(f):
    T = 8
    causal = {"a GPT": small_model(n_layer=2, causal=True),
              "a GPT with a convolution": small_model(n_layer=2, causal=True, conv=3),
              "a model that reads one token only": reader(lambda i, T: [i], False),
              "a model that reads only earlier tokens": reader(lambda i, T: range(i), False)}  # fmt: skip
    looking = {"a dLLM": small_model(n_layer=2),
               "a model that reads the next token": reader(lambda i, T: range(min(i + 2, T)), True),
               "a model whose first position reads the last one": reader(lambda i, T: [i, -1][: 1 + (i == 0)], True),
               "a model whose first position reads the second one": reader(lambda i, T: [i, 1][: 1 + (i == 0)], True),
               "a model in which only one position, in the middle, reads the next one":
               reader(lambda i, T: [i, i + 1] if i == T // 2 else range(i + 1), True)}  # fmt: skip
    for name, model in causal.items():
        assert not said(f, model, T), f"You say that {name} sees the future, but it does not."
    for name, model in looking.items():
        assert said(f, model, T), f"You say that {name} does not see the future."


def said(f, model, T):
    torch.manual_seed(0)
    answer = f(model, T)
    boolean = isinstance(answer, bool) or torch.is_tensor(answer) and answer.dtype == torch.bool and answer.numel() == 1
    assert boolean, "The function must return True or False."
    return bool(answer)
