"""Checks of the exercises for chapter 03. check.py calls check_NAME with the learner's function NAME."""

from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace

import torch

transformer = import_module("03_transformer")
tools = import_module("exercises.checks.tools")


def check_predict_growth(f):
    config = transformer.TransformerConfig()
    answer = f()
    assert tools.are_numbers(answer, 5), "The function must return a list of five numbers."
    for name, factor in zip(("n_layer", "n_embd", "n_head", "seq_len", "vocab_size"), answer):
        true = in_blocks(replace(config, **{name: 2 * getattr(config, name)})) / in_blocks(config)
        assert tools.close(factor, true), f"If {name} is doubled, the number grows by another factor."


def in_blocks(config):
    parts = transformer.parameters_by_part(config)
    return parts["attn"][1] + parts["mlp"][1]


def check_logits_by_depth(f):
    for n_layer, T, settings in ((3, 8, {}), (2, 6, {"norm": "layer", "activation": "gelu", "causal": True})):
        model = tools.small_model(5, std=0.3, n_layer=n_layer, n_head=2, n_embd=16, **settings).requires_grad_(False)
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
    """Return a model without weights. At position i, the model reads the positions look(i).

    `causal` is what the model's config says, which can be wrong.
    """

    def model(tokens):
        logits = torch.zeros(*tokens.shape, 5)
        for i in range(tokens.shape[1]):
            for j in look(i):
                logits[:, i] += ((tokens[:, j, None] + 1) * (j + 2) * torch.arange(1, 6)).sin()
        return logits

    model.config = SimpleNamespace(vocab_size=5, causal=causal)
    return model


def check_sees_the_future(f):
    causal = {"a GPT": tools.small_model(5, n_layer=2, causal=True),
              "a model that reads one token only": reader(lambda i: [i], False),
              "a model that reads only earlier tokens": reader(lambda i: range(i), False)}
    looking = {"a dLLM": tools.small_model(5, n_layer=2),
               "a model whose first position reads the last one": reader(lambda i: [0, 7] if i == 0 else [i], True),
               "a model whose first position reads the second one": reader(lambda i: [0, 1] if i == 0 else [i], True),
               "a model whose position 4 reads the next one": reader(lambda i: [4, 5] if i == 4 else range(i), True)}
    for name, model in (causal | looking).items():
        answer = f(model, 8)
        right = isinstance(answer, bool) or tools.is_tensor(answer, (), torch.bool)
        assert right, "The function must return True or False."
        said = "sees the future, but it does not" if answer else "does not see the future, but it does"
        assert bool(answer) == (name in looking), f"You say that {name} {said}."
