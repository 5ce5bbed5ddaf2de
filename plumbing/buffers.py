"""Buffers for passes over rows of several kinds (chapter 13): who sees whom is given from outside.

Chapter 02's KVBuffer has one row per position. Here several rows of one pass can have the same position.
"""

import torch


class Layer:
    """What chapter 02's Attention needs as a buffer: the keys and values of all rows, and who sees whom.

    room: tensors (B, nh, rows, hd) for keys and values, whose first n rows are kept from earlier passes; None: no rows.
    """

    def __init__(self, visible, room=None, n=0):
        self.visible, self.room, self.n = visible, room, n

    def write(self, positions, k, v):
        self.k, self.v = k, v
        if self.room is not None:
            end = self.n + k.shape[2]
            for room, new in zip(self.room, (k, v)):
                room[:, :, self.n : end] = new
            self.k, self.v = (room[:, :, :end] for room in self.room)

    def mask(self, positions, causal):
        return self.visible


class Kept:
    """The keys, values and embeddings of the first n clean rows of a text, and room for the rows of one more pass.

    No clean row depends on a later one, so kept rows are exact. A pass writes its rows behind them, the clean ones
    first. To keep some of these, raise n; the next pass writes over the others.
    """

    def __init__(self, model, batch, rows):
        c, kind = model.config, dict(device=model.head.weight.device, dtype=model.head.weight.dtype)
        self.n = 0
        self.rooms = [torch.zeros(2, batch, c.n_head, rows, c.n_embd // c.n_head, **kind) for _ in range(c.n_layer)]
        self.embedded = torch.zeros(batch, rows + max(0, c.conv - 1), c.n_embd, **kind)  # zeros precede the text
