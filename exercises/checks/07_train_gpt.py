"""Checks of the exercises for chapter 07. check.py calls check_NAME with the learner's function NAME."""

import math
from importlib import import_module

import torch

gpt = import_module("07_train_gpt")
tools = import_module("exercises.checks.tools")


def check_predict_rows(f):
    answer, rows = f(), []
    assert tools.are_numbers(answer, 9), "The function must return a list of nine numbers."
    model = tools.small_model(6, seq_len=8, causal=True)
    model.token_emb.register_forward_pre_hook(lambda module, inputs: rows.append(inputs[0].shape[1]))
    gpt.write(model, torch.tensor([[0, 1, 2]]), 9)
    for number, (mine, true) in enumerate(zip(answer, rows), 1):
        assert mine == true, f"In pass {number}, chapter 07 computes another number of rows than your list says."


def check_bits_per_character(f):
    for nats, tokens, characters, wanted, sentence in (
            (math.log(2), 10, 10, 1, "A token of one character that is as surprising as a fair coin must have 1 bit."),
            (math.log(8), 7, 7, 3, "A choice among 8 equally likely characters must have 3 bits."),
            (math.log(2), 10, 40, 0.25, "If a token is four characters, each of them must have a quarter of its bits."),
            (math.log(4), 30, 10, 6, "If a character is three tokens, it must have three times the bits of a token.")):
        value = f(nats, tokens, characters)
        assert tools.is_number(value), "The function must return a float."
        assert tools.close(value, wanted), sentence


def check_text_nll(f):
    model = tools.small_model(6, seq_len=8, causal=True).requires_grad_(False)
    texts = [torch.tensor(text) for text in ([0, 3, 2, 5, 1], [4, 1], [1, 0, 2, 3, 5, 2, 1, 1], [2, 5, 5])]
    wanted = torch.stack([gpt.next_token_losses(model, text[None]).sum() for text in texts])
    lengths = torch.tensor([len(text) for text in texts])
    for i in (1, 2):
        alone = f(model, texts[i][None], lengths[i : i + 1])
        assert tools.is_tensor(alone, (1,)), "The function must return a tensor (B,), one number for each text."
        right = torch.allclose(alone, wanted[i : i + 1], atol=1e-4)
        assert right, "For one text alone, the result must be the sum of -log p over all tokens but the first."
    results = []
    for token in (0, 5):
        padded = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=token)
        results.append(f(model, padded, lengths))
    same = torch.allclose(*results, atol=1e-4)
    assert same, "The result must not change with the token that fills the end of a row: the padding does not count."
    right = torch.allclose(results[0], wanted, atol=1e-4)
    assert right, "A text in a padded batch must have the same negative log-likelihood as alone. Count its terms."


def check_nucleus(f):
    probability = torch.tensor([0.1, 0.5, 0.15, 0.25])
    logits = probability.log() + 3  # the same number in all logits changes no probability
    before = logits.clone()
    for p, kept in ((0.6, [1, 3]), (0.45, [1]), (0.8, [1, 2, 3]), (1.0, [0, 1, 2, 3])):
        q = f(logits, p)
        assert tools.is_tensor(q, logits.shape), "The result must have the shape of the logits."
        assert torch.equal(logits, before), "The given logits must stay as they are."
        assert q.isfinite().all(), "A probability is not a finite number. At least one token must always stay."
        enough = (q > 0).sum() >= len(kept)
        assert enough, "Too few tokens stay. Those that stay must have at least the probability p together."
        assert (q > 0).sum() <= len(kept), "Too many tokens stay. It must be the fewest that have the probability p."
        right = (q > 0).nonzero()[:, 0].tolist() == kept
        assert right, "The wrong tokens stay. Each probability must be at its token's place in the vocabulary."
        wanted = probability[kept] / probability[kept].sum()
        assert torch.allclose(q[kept], wanted, atol=1e-5), "Those that stay must keep their proportions and sum to 1."
    logits = 2 * torch.randn(3, 4, 7)
    q = f(logits, 0.7)
    assert tools.is_tensor(q, logits.shape), "The result must have the shape of the logits, (..., V)."
    alone = torch.stack([f(row, 0.7) for row in logits.flatten(0, 1)]).view_as(logits)
    assert torch.allclose(q, alone, atol=1e-5), "Each position of a batch must have the same result as alone."
