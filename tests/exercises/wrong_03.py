"""Plausible mistakes in the exercises for chapter 03. Each docstring names the mistake."""

from importlib import import_module

import torch

attention = import_module("02_attention")


def growth_with_heads():
    """More heads are taken for more matrices."""
    return [2, 4, 2, 1, 1]


def growth_in_proportion():
    """A matrix is taken to grow in proportion to its width."""
    return [2, 2, 1, 1, 1]


def growth_with_the_window():
    """Attention is taken to have parameters for each pair of positions."""
    return [2, 4, 1, 4, 1]


def growth_with_the_vocabulary():
    """The embedding is counted as a part of the blocks."""
    return [2, 4, 1, 1, 2]


def width_without_the_embedding(budget, vocab_size, n_layer):
    """Only the blocks are counted."""
    width = 64
    while 12 * n_layer * (width + 64) ** 2 <= budget:
        width += 64
    return width


def width_without_the_mask_token(budget, vocab_size, n_layer):
    """The embedding has as many rows as the head."""
    width = 64
    while 12 * n_layer * (width + 64) ** 2 + 2 * vocab_size * (width + 64) <= budget:
        width += 64
    return width


def width_that_is_too_large(budget, vocab_size, n_layer):
    """The first width that exceeds the budget."""
    width = 64
    while 12 * n_layer * width**2 + (2 * vocab_size + 1) * width <= budget:
        width += 64
    return width


def width_below_the_budget(budget, vocab_size, n_layer):
    """A model that uses the budget up is refused."""
    width = 64
    while 12 * n_layer * (width + 64) ** 2 + (2 * vocab_size + 1) * (width + 64) < budget:
        width += 64
    return width


def width_of_any_number(budget, vocab_size, n_layer):
    """Not a multiple of 64."""
    width = 64
    while 12 * n_layer * (width + 1) ** 2 + (2 * vocab_size + 1) * (width + 1) <= budget:
        width += 1
    return width


def stream(model, tokens):
    """The residual stream after each block, as a list."""
    positions = torch.arange(tokens.shape[1])
    table = attention.rotary_table(positions, model.config.n_embd // model.config.n_head)
    xs = [model.token_emb(tokens)]
    for block in model.blocks:
        xs.append(block(xs[-1], positions, table))
    return xs


def depths_without_norm(model, tokens):
    """The head reads the stream as it is."""
    return torch.stack([model.head(x) for x in stream(model, tokens)])


def depths_without_the_embedding(model, tokens):
    """The first entry is that of the first block."""
    return torch.stack([model.head(model.norm(x)) for x in stream(model, tokens)[1:]])


def depths_with_a_normed_stream(model, tokens):
    """The norm is applied to the stream itself, so the next block reads and continues it."""
    positions = torch.arange(tokens.shape[1])
    table = attention.rotary_table(positions, model.config.n_embd // model.config.n_head)
    x = model.norm(model.token_emb(tokens))
    logits = [model.head(x)]
    for block in model.blocks:
        x = model.norm(block(x, positions, table))
        logits.append(model.head(x))
    return torch.stack(logits)


def depths_of_single_blocks(model, tokens):
    """Each block reads the embedding, and not what the block before it returned."""
    positions = torch.arange(tokens.shape[1])
    table = attention.rotary_table(positions, model.config.n_embd // model.config.n_head)
    x = model.token_emb(tokens)
    xs = [x, *(block(x, positions, table) for block in model.blocks)]
    return torch.stack([model.head(model.norm(x)) for x in xs])


def depths_in_a_list(model, tokens):
    """A list of tensors."""
    return [model.head(model.norm(x)) for x in stream(model, tokens)]


def future_by_config(model, T):
    """Believes the config."""
    return not model.config.causal


def future_of_the_last_token(model, T):
    """Changes the last token only."""
    tokens = torch.zeros(1, T, dtype=torch.long)
    changed = tokens.clone()
    changed[0, -1] = 1
    return not torch.allclose(model(tokens)[:, :-1], model(changed)[:, :-1], atol=1e-5)


def future_of_the_first_position(model, T):
    """Looks at the logits of the first position only."""
    tokens = torch.zeros(1, T, dtype=torch.long)
    changed = tokens.clone()
    changed[0, 1:] = 1
    return not torch.allclose(model(tokens)[:, 0], model(changed)[:, 0], atol=1e-5)


def future_with_the_present(model, T):
    """Compares the changed position too."""
    tokens = torch.zeros(1, T, dtype=torch.long)
    for place in range(T):
        changed = tokens.clone()
        changed[0, place] = 1
        if not torch.allclose(model(tokens)[:, : place + 1], model(changed)[:, : place + 1], atol=1e-5):
            return True
    return False


def past_for_future(model, T):
    """Compares the later positions."""
    tokens = torch.zeros(1, T, dtype=torch.long)
    for place in range(T):
        changed = tokens.clone()
        changed[0, place] = 1
        if not torch.allclose(model(tokens)[:, place + 1 :], model(changed)[:, place + 1 :], atol=1e-5):
            return True
    return False


WRONG = {
    "predict_growth": [growth_with_heads, growth_in_proportion, growth_with_the_window, growth_with_the_vocabulary],
    "largest_width": [width_without_the_embedding, width_without_the_mask_token, width_that_is_too_large,
                      width_below_the_budget, width_of_any_number],
    "logits_by_depth": [depths_without_norm, depths_without_the_embedding, depths_with_a_normed_stream,
                        depths_of_single_blocks, depths_in_a_list],
    "sees_the_future": [future_by_config, future_of_the_last_token, future_of_the_first_position,
                        future_with_the_present, past_for_future],
}
