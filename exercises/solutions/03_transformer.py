"""Our solutions to the exercises for chapter 03. Other solutions can be just as good."""

from importlib import import_module

import torch

attention = import_module("02_attention")
transformer = import_module("03_transformer")


def predict_growth():
    # Each block has 4 C² parameters in its attention and 8 C² in its MLP. So only L and C count, and twice the C gives
    # four times the parameters. More heads only cut the channels into smaller parts. The window and the vocabulary
    # appear in no matrix of a block.
    return [2, 4, 1, 1, 1]


def logits_by_depth(model, tokens):
    # Every block only adds to the residual stream, so norm and head can read the stream after any block. The next block
    # gets the stream without this norm. In a trained model, the logits show after which block the model knows a token.
    positions = torch.arange(tokens.shape[1], device=tokens.device)
    table = attention.rotary_table(positions, model.config.n_embd // model.config.n_head)
    x = model.token_emb(tokens)  # (B, T, C)
    logits = [model.head(model.norm(x))]
    for block in model.blocks:
        x = block(x, positions, table)
        logits.append(model.head(model.norm(x)))
    return torch.stack(logits)  # (L + 1, B, T, V)


def sees_the_future(model, T):
    # If one token changes, the logits of a causal model can change only at this position and at later ones. We try
    # every position, because the mistake can be at a single position. The tolerance is for rounding errors.
    V = model.config.vocab_size
    tokens = torch.randint(V, (1, T))
    before = model(tokens)
    for place in range(T):
        changed = tokens.clone()
        changed[0, place] = (changed[0, place] + 1) % V
        if not torch.allclose(model(changed)[:, :place], before[:, :place], atol=1e-5):
            return True
    return False
