"""Chapter 01: what does it take to make a table of numbers learn?

    python 01_tensors.py             # about 5 seconds on a CPU; draws figures/01_tensors.png
    python 01_tensors.py --show      # the same, and opens the figure in a window

The answer has six parts: tensors and their shapes, number types and devices, broadcasting, derivatives, modules, and
the training loop. The last part trains the smallest language model, a table that says which character follows which.

You should see small tables, PyTorch's derivatives next to ones that we worked out by hand, and a loss that falls. It
starts at ln(15) = 2.708, because the untrained model guesses among 15 characters. It ends near the bigram entropy of
the training sentence (see part 6). No model that sees only one character can reach a lower loss on this sentence.

Every file whose name begins with a number is a chapter. You can run every chapter, and later chapters import earlier
ones. Python's `import` statement refuses names that begin with a digit, so the chapters use a function:

    from importlib import import_module
    tensors = import_module("01_tensors")
"""

import argparse
import math
from collections import Counter
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

SENTENCE = "to be, or not to be, that is the question. "


# 1. Tensors and their shapes


def show_shapes():
    """Print the shapes that all later chapters use: (B, T) for tokens and (B, T, C) for vectors."""
    heading("1. Tensors and their shapes")
    B, T, C = 2, 4, 3  # B texts in a batch, T positions in a text, C numbers (channels) at a position
    tokens = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])  # (B, T): a token is an integer that stands for a character
    table = torch.arange(9.0).view(3, C)  # (V, C): row v describes token v of a vocabulary of V tokens
    x = table[tokens]  # (B, T, C): the row of every token, all looked up at once
    rows = [
        ("tokens", tokens, "B, T      one integer per character"),
        ("x = table[tokens]", x, "B, T, C   one vector per character"),
        ("x.transpose(1, 2)", x.transpose(1, 2), "B, C, T   the same numbers in another order"),
        ("x.view(B * T, C)", x.view(B * T, C), "B*T, C    the whole batch as one list of vectors"),
        ("x @ x.transpose(1, 2)", x @ x.transpose(1, 2), "B, T, T   every position with every other position"),
    ]
    for name, tensor, meaning in rows:
        print(f"  {name:22} {str(tuple(tensor.shape)):10} {meaning}")
    # A view uses the memory of the original tensor. So writing to the view changes the original, too.
    x.view(B * T, C)[0, 0] = 100.0
    print(f"  We wrote 100 into a view of x. Now x[0, 0, 0] is {x[0, 0, 0].item():g}, since a view copies nothing.")


# 2. dtype and device


def show_dtypes():
    """Print the size, precision and range of four dtypes (number types), and the best device of this machine."""
    heading("2. dtype and device")
    print("  dtype       bytes    1 + 1/1000 becomes    largest")
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        value = torch.tensor(1.001, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        print(f"  {name:10} {value.element_size():6} {value.item():21.7f} {torch.finfo(dtype).max:10.2g}")
    print("  bfloat16 has the range of float32, but fewer digits. Tokens have the dtype int64, masks have bool.")
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    x = torch.ones(2, 3).to(device)
    print(f"  The best device of this machine: {x.device.type}. To combine tensors, move them to the same device.")


# 3. Broadcasting


def show_broadcasting():
    """Print how PyTorch combines tensors of different shapes.

    Write the two shapes below each other, aligned at the right. If one tensor has size 1 in a dimension, or lacks the
    dimension, PyTorch repeats that tensor along the dimension, without copying any numbers.
    """
    heading("3. Broadcasting")
    T, C = 4, 3
    x = torch.zeros(2, T, C)
    for shape, meaning in [
        ((C,), "the same vector at every position (a bias)"),
        ((T, 1), "one number per position"),
        ((2, 1, 1), "one number per text (a noise level, in chapter 04)"),
        ((1, T, C), "one vector per position (learned positions, in chapter 03)"),
    ]:
        other = torch.ones(shape)
        assert torch.equal(x + other, x + other.expand(2, T, C))
        print(f"  (2, 4, 3) + {str(shape):9} → {tuple((x + other).shape)}   {meaning}")
    try:
        x + torch.ones(T)
    except RuntimeError:
        print("  (2, 4, 3) + (4,)      → an error: the last sizes are 3 and 4, and neither is 1")
    # The most useful case: comparing a column with a row gives a table of all pairs.
    position = torch.arange(T)
    may_look_back = position[:, None] >= position[None, :]  # (T, 1) >= (1, T) → (T, T)
    print("  a column of positions >= a row of positions (the causal mask of chapter 02):")
    for row in may_look_back.int().tolist():
        print("    ", *row)


# 4. Autograd


def squared_error_gradient(w, b, x, y):
    """Return the derivatives of (w x + b - y)² with respect to w and with respect to b."""
    residual = w * x + b - y
    return 2 * residual * x, 2 * residual


def cross_entropy_gradient(logits, target):
    """Return the gradient of the cross-entropy with respect to `logits` (N, V), as a tensor (N, V).

    A logit is a score and can be any real number. Softmax turns a row z of logits into probabilities:
    softmax(z)_v = exp z_v / sum_u exp z_u. `target` (N,) holds the right token y of each row. The loss of a row is
    -ln softmax(z)_y, and the cross-entropy is the mean loss of the N rows.

    The loss of a row equals ln(sum_u exp z_u) - z_y. So the derivative of this loss with respect to z_v is the
    probability softmax(z)_v, minus 1 if v = y. To get the gradient of the mean loss, we divide by N.
    """
    return (logits.softmax(-1) - F.one_hot(target, logits.size(-1))) / len(target)


def show_autograd():
    """Print PyTorch's derivatives next to derivatives by hand, and check that the numbers agree."""
    heading("4. Autograd against the derivative by hand")
    w, b = (torch.tensor(v, requires_grad=True) for v in (1.5, -0.5))
    loss = (w * 2.0 + b - 4.0) ** 2  # PyTorch records every operation that leads to the loss
    loss.backward()  # PyTorch applies the chain rule to the recorded operations, last one first
    by_hand = squared_error_gradient(1.5, -0.5, 2.0, 4.0)
    print("  loss = (w x + b - y)² at w=1.5, b=-0.5, x=2, y=4")
    print("                 autograd    by hand")
    for name, auto, hand in zip(("dloss/dw", "dloss/db"), (w.grad, b.grad), by_hand, strict=True):
        print(f"    {name:10} {auto.item():10.4f} {hand:10.4f}")
        assert math.isclose(auto.item(), hand, rel_tol=1e-6)

    logits = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    target = torch.tensor([1])
    F.cross_entropy(logits, target).backward()
    hand = cross_entropy_gradient(logits.detach(), target)
    assert torch.allclose(logits.grad, hand, atol=1e-6)
    print("  cross-entropy of the logits [2, 0, -1], where the target is token 1 (logit 0)")
    print("    autograd    ", *(f"{g:8.4f}" for g in logits.grad[0].tolist()))
    print("    p - one_hot ", *(f"{g:8.4f}" for g in hand[0].tolist()), "  (a step the other way raises logit 1)")
    # backward() adds the new gradients to the old ones, so that we can process a large batch in parts.
    # Forgetting to reset the gradients is a common error.
    F.cross_entropy(logits, target).backward()
    assert torch.allclose(logits.grad, 2 * hand, atol=1e-6)
    print("  After a second backward() every gradient is twice as large: new gradients are added to the old ones.")


# 5. Modules and parameters


class Linear(nn.Module):
    """Compute y = x Wᵀ + b, like nn.Linear. The shape of x is (..., n_in), and the shape of y is (..., n_out)."""

    def __init__(self, n_in, n_out):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / math.sqrt(n_in))  # so y is about as large as x
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.scratch = torch.zeros(n_out)  # a plain tensor: neither trained nor saved
        self.register_buffer("calls", torch.tensor(0))  # saved and moved with the module, but not trained

    def forward(self, x):
        self.calls += 1
        return x @ self.weight.T + self.bias


def show_modules():
    """Print the shapes of a module's input and output, and which attributes are trained and which are saved."""
    heading("5. nn.Module and nn.Parameter")
    torch.manual_seed(0)
    layer = Linear(3, 2)
    x = torch.randn(2, 4, 3)  # (B, T, C): the layer does the same at every position
    y = layer(x)  # (B, T, 2)
    assert torch.allclose(y, F.linear(x, layer.weight, layer.bias), atol=1e-6)
    print(f"  Linear(3, 2): {tuple(x.shape)} → {tuple(y.shape)}, equal to PyTorch's F.linear")
    print("  attribute   trained   saved   shape")
    for name in ("weight", "bias", "calls", "scratch"):
        trained = "yes" if name in dict(layer.named_parameters()) else "no"
        saved = "yes" if name in layer.state_dict() else "no"
        print(f"  {name:9} {trained:>9} {saved:>7}   {tuple(getattr(layer, name).shape)}")


# 6. The training loop and the smallest language model


class Bigram(nn.Module):
    """The smallest language model: a table with a row of logits for each token.

    The model turns tokens (N,) into logits (N, V) for the next token: P(next | current) = softmax(table[current]).
    """

    def __init__(self, vocab_size):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocab_size, vocab_size))  # equal logits: all tokens are equally likely

    def forward(self, tokens):
        return self.table[tokens]


def bigram_entropy(text):
    """Return the bigram entropy H(next | current) of a text, in nats per character.

    The formula is -sum_ab n(ab)/N ln(n(ab)/n(a)). The text has N pairs of neighbours. In n(a) of these pairs, the first
    character is a, and in n(ab) of them, the character b follows. So the entropy is the mean of -ln p(b | a) over all
    pairs, where p(b | a) is the share n(ab)/n(a). All other probabilities give a larger mean (Gibbs' inequality), so a
    model that sees only the current character cannot have a lower loss on this text. The nat is the unit that goes with
    the natural logarithm: 1 nat is 1.44 bits.
    """
    pairs, firsts = Counter(zip(text, text[1:], strict=False)), Counter(text[:-1])
    return -sum(n / (len(text) - 1) * math.log(n / firsts[a]) for (a, _), n in pairs.items())


def train_bigram(tokens, vocab_size, steps=1500, lr=10.0):
    """Train a Bigram on `tokens` (T,) by gradient descent. Return the model and all losses, in nats per character."""
    model = Bigram(vocab_size)
    # A learning rate of 10 is safe only for this model: its loss is convex, and each row has a small gradient.
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(tokens[:-1]), tokens[1:])  # forward pass: predict each next character
        optimizer.zero_grad()  # delete the gradients of the previous step
        loss.backward()  # backward pass: compute the gradient, the direction in which the loss grows
        optimizer.step()  # one step in the opposite direction
        losses.append(loss.item())
    return model, losses


@torch.no_grad()
def sample(model, start, length, generator):
    """Let the model write `length` tokens after the token `start`. Return a list of all tokens, `start` included."""
    tokens = [start]
    for _ in range(length):
        probabilities = model(torch.tensor(tokens[-1:]))[0].softmax(-1)  # (V,)
        tokens.append(torch.multinomial(probabilities, 1, generator=generator).item())
    return tokens


def show_training():
    """Train a Bigram on SENTENCE and print some of the losses. Return (model, losses, list of characters)."""
    heading("6. The training loop and the smallest language model")
    characters = sorted(set(SENTENCE))
    tokens = torch.tensor([characters.index(c) for c in SENTENCE])  # (T,)
    V = len(characters)
    entropy = bigram_entropy(SENTENCE)
    print(f"  text: {SENTENCE!r}, {len(tokens)} characters, {V} of them different")
    model, losses = train_bigram(tokens, V)
    print("   step   loss (nats per character)")
    for step in (0, 1, 10, 100, len(losses) - 1):
        note = "   = ln V: all characters are equally likely" if step == 0 else ""
        print(f"  {step:5}   {losses[step]:.4f}{note}")
    print(f"  limit   {entropy:.4f}   = the bigram entropy of the sentence, from its counts")
    assert math.isclose(losses[0], math.log(V), rel_tol=1e-5)
    assert entropy <= losses[-1] < entropy + 0.01

    for name, m in (("before", Bigram(V)), ("after", model)):
        sampled = sample(m, characters.index("t"), 50, torch.Generator().manual_seed(0))
        text = "".join(characters[i] for i in sampled)
        print(f"  {name:7} {text!r}")
    assert set(zip(text, text[1:], strict=False)) <= set(zip(SENTENCE, SENTENCE[1:], strict=False))
    print("  After training, every pair of neighbours occurs in the sentence. The text as a whole makes no sense,")
    print("  because the model sees only one character: a better model must look back further.")
    return model, losses, characters


def draw(model, losses, characters, show):
    """Draw the loss and its lower bound on the left, and the learned table on the right."""
    figure, (left, right) = pyplot(show).subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    left.semilogx(range(1, len(losses) + 1), losses, color=COLORS["other"], label="training loss")
    left.axhline(bigram_entropy(SENTENCE), ls="--", color="black", label="bigram entropy, from counts")
    left.set(xlabel="step", ylabel="nats per character", title="The loss falls to the entropy and stops")
    left.legend()
    image = right.imshow(model.table.detach().softmax(-1), cmap="Blues", vmin=0, vmax=1)
    names = [c.replace(" ", "␣") for c in characters]
    right.set(xticks=range(len(names)), xticklabels=names, yticks=range(len(names)), yticklabels=names)
    right.set(xlabel="next character", ylabel="current character", title="Learned: P(next | current)")
    figure.colorbar(image, ax=right)
    save_figure(figure, "01_tensors", show)


# What later chapters use, too: headings, figures and flags

# Paul Tol's "high contrast" colours and black. The colours differ in lightness, so that you can tell them apart with
# colour blindness or in a black-and-white print.
COLORS = {"dllm": "#004488", "gpt": "#DDAA33", "real": "#000000", "other": "#BB5566"}


def heading(text):
    """Print an empty line, and then the underlined text."""
    print(f"\n{text}\n{'-' * len(text)}")


def read_flags(chapter, **numbers):
    """Return an object that has an attribute for each flag. A wrong flag ends the program with a message.

    `chapter` is the docstring that --help prints. A chapter that draws figures has one flag, --show. A chapter without
    figures has flags for whole numbers, and `numbers` gives the names and default values of these flags.
    """
    parser = argparse.ArgumentParser(description=chapter, formatter_class=argparse.RawDescriptionHelpFormatter)
    if not numbers:
        parser.add_argument("--show", action="store_true", help="also open the figure in a window")
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default: {default}")
    return parser.parse_args()


def pyplot(show):
    """Return the module matplotlib.pyplot. If `show` is False, the module draws only to files, and needs no screen."""
    import matplotlib  # imported here, because the import takes a second and most programs draw nothing

    if not show:
        matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    return plt


def save_figure(figure, name, show):
    """Write `figure` to figures/NAME.png and print this path. If `show` is True, also open the figure in a window."""
    path = Path(__file__).with_name("figures") / f"{name}.png"
    path.parent.mkdir(exist_ok=True)
    figure.savefig(path, dpi=110)
    print(f"\nFigure: figures/{path.name}")
    if show:
        pyplot(show).show()
    pyplot(show).close(figure)


def main():
    flags = read_flags(__doc__)
    torch.set_num_threads(1)  # for such small tensors, one thread is the fastest
    show_shapes()
    show_dtypes()
    show_broadcasting()
    show_autograd()
    show_modules()
    draw(*show_training(), flags.show)
    print("Next: 02_attention.py, where every position may look at every other position.")


if __name__ == "__main__":
    main()
