"""Chapter 01: what does it take to make a table of numbers learn?

    python 01_tensors.py             # about 5 seconds on a CPU; draws figures/01_tensors.png
    python 01_tensors.py --show      # the same, and opens the figure in a window

Five steps lead to an answer: tensors and their shapes, broadcasting, derivatives that PyTorch works
out (checked against ours), modules that hold parameters, and the training loop. The last step fits
the smallest language model there is, a table of "which character follows which", to one sentence.

You should see small tables, derivatives that agree with the ones done by hand, and a loss that
falls from ln(15) = 2.708 to the entropy of the sentence and stops there, because nothing that looks
only one character back can do better.
"""

import argparse
import math
from collections import Counter
from pathlib import Path

import torch
import torch.nn as nn
import torch.nn.functional as F

from plumbing import cli, figures

SENTENCE = "to be, or not to be, that is the question. "
FIGURE = Path(__file__).resolve().parent / "figures" / "01_tensors.png"


def show_shapes() -> None:
    """One text, followed through the shapes that every later chapter uses: [B, T], then [B, T, C]."""
    cli.heading("1. Tensors and their shapes")
    B, T, C = 2, 4, 3  # batch: texts side by side; time: positions in a text; channels: numbers per position
    tokens = torch.tensor([[0, 1, 2, 1], [2, 2, 0, 1]])  # (B, T) integers that name characters
    table = torch.arange(9.0).view(3, C)  # (V, C): row v describes character v
    x = table[tokens]  # (B, T, C): indexing with a tensor looks up every entry at once
    rows = [
        ("tokens", tokens, "B, T      character numbers"),
        ("x = table[tokens]", x, "B, T, C   a vector for each character"),
        ("x.transpose(1, 2)", x.transpose(1, 2), "B, C, T   same numbers, other order"),
        ("x.view(B * T, C)", x.view(B * T, C), "B*T, C    the batch as one long list"),
        ("x @ x.transpose(1, 2)", x @ x.transpose(1, 2), "B, T, T   every position against every other"),
    ]
    for name, tensor, meaning in rows:
        print(f"  {name:22} {str(tuple(tensor.shape)):10} {meaning}")
    # A view shares its memory with the original: nothing is copied, so writing to one changes the other.
    x.view(B * T, C)[0, 0] = 100.0
    print(f"  writing 100 into a view of x also changed x[0, 0, 0]: it is now {x[0, 0, 0].item():g}")


def show_dtypes() -> None:
    """A dtype trades precision for memory and speed; a device is where the numbers lie."""
    cli.heading("2. dtype and device")
    print("  dtype       bytes    1 + 1/1000 becomes    largest")
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        value = torch.tensor(1.001, dtype=dtype)
        name = str(dtype).removeprefix("torch.")
        print(f"  {name:10} {value.element_size():6} {value.item():21.7f} {torch.finfo(dtype).max:10.2g}")
    print("  bfloat16 keeps the range of float32 and gives up digits. Tokens are int64, masks are bool.")
    device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    x = torch.ones(2, 3).to(device)
    print(f"  This machine's best device: {x.device.type}. Tensors must share a device to be combined.")


def show_broadcasting() -> None:
    """Shapes are lined up from the right; a missing dimension, or one of size 1, is repeated for free."""
    cli.heading("3. Broadcasting")
    T, C = 4, 3
    x = torch.zeros(2, T, C)
    for shape, meaning in [
        ((C,), "one bias for every position"),
        ((T, 1), "one number for each position"),
        ((2, 1, 1), "one number for each text (a noise level, in chapter 4)"),
        ((1, T, C), "a vector for each position (learned positions, in chapter 3)"),
    ]:
        other = torch.ones(shape)
        assert torch.equal(x + other, x + other.expand(2, T, C))
        print(f"  (2, 4, 3) + {str(shape):9} -> {tuple((x + other).shape)}   {meaning}")
    try:
        x + torch.ones(T)
    except RuntimeError:
        print("  (2, 4, 3) + (4,)      -> an error: from the right, 4 meets 3 and neither is 1")
    # Where broadcasting earns its keep: a column against a row compares every position with every other.
    position = torch.arange(T)
    may_look_back = position[:, None] >= position[None, :]  # (T, 1) >= (1, T) -> (T, T)
    print("  a column of positions >= a row of positions (the causal mask of chapter 2):")
    for row in may_look_back.int().tolist():
        print("    ", *row)


def squared_error_gradient(w: float, b: float, x: float, y: float) -> tuple[float, float]:
    """d/dw and d/db of (w x + b - y)^2, by the chain rule: 2 (w x + b - y) times x, and times 1."""
    residual = w * x + b - y
    return 2 * residual * x, 2 * residual


def cross_entropy_gradient(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Gradient of the mean of -ln softmax(logits)[target] over N rows. logits (N, V), target (N,) -> (N, V).

    -ln softmax(z)_y = ln(sum_v exp z_v) - z_y, so d/dz_v = softmax(z)_v - [v = y]: what the model
    says minus what was true. It is zero when they agree, which is all that training asks for.
    """
    return (logits.softmax(-1) - F.one_hot(target, logits.size(-1))) / len(target)


def show_autograd() -> None:
    cli.heading("4. Autograd against the derivative by hand")
    w, b = (torch.tensor(v, requires_grad=True) for v in (1.5, -0.5))
    loss = (w * 2.0 + b - 4.0) ** 2  # PyTorch writes down every operation on the way to the loss ...
    loss.backward()  # ... and walks back through them with the chain rule
    by_hand = squared_error_gradient(1.5, -0.5, 2.0, 4.0)
    print("  loss = (w x + b - y)^2 at w=1.5, b=-0.5, x=2, y=4")
    print("                 autograd    by hand")
    for name, auto, hand in zip(("dloss/dw", "dloss/db"), (w.grad, b.grad), by_hand, strict=True):
        print(f"    {name:10} {auto.item():10.4f} {hand:10.4f}")
        assert math.isclose(auto.item(), hand, rel_tol=1e-6)

    logits = torch.tensor([[2.0, 0.0, -1.0]], requires_grad=True)
    target = torch.tensor([1])
    F.cross_entropy(logits, target).backward()
    hand = cross_entropy_gradient(logits.detach(), target)
    assert torch.allclose(logits.grad, hand, atol=1e-6)
    print("  cross-entropy of logits [2, 0, -1] when the answer is number 1")
    print("    autograd    ", *(f"{g:8.4f}" for g in logits.grad[0].tolist()))
    print("    p - one_hot ", *(f"{g:8.4f}" for g in hand[0].tolist()), "  (descent raises number 1)")
    # Gradients add up until cleared: useful for a large batch in pieces, a classic bug when forgotten.
    F.cross_entropy(logits, target).backward()
    assert torch.allclose(logits.grad, 2 * hand, atol=1e-6)
    print("  backward() again without clearing: every gradient is now twice as large, for they add up")


class Linear(nn.Module):
    """y = x W^T + b, as nn.Linear has it. x (..., n_in) -> (..., n_out)."""

    def __init__(self, n_in: int, n_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(n_out, n_in) / math.sqrt(n_in))  # keeps the size of y near x's
        self.bias = nn.Parameter(torch.zeros(n_out))
        self.scratch = torch.zeros(n_out)  # a plain tensor: no optimizer and no checkpoint will see it
        self.register_buffer("calls", torch.tensor(0))  # saved and moved with the module, but not trained

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return x @ self.weight.T + self.bias


def show_modules() -> None:
    cli.heading("5. nn.Module and nn.Parameter")
    torch.manual_seed(0)
    layer = Linear(3, 2)
    x = torch.randn(2, 4, 3)  # (B, T, C): a linear layer treats every position alike
    y = layer(x)  # (B, T, 2)
    assert torch.allclose(y, F.linear(x, layer.weight, layer.bias), atol=1e-6)
    print(f"  Linear(3, 2): {tuple(x.shape)} -> {tuple(y.shape)}, equal to PyTorch's own F.linear")
    print("  attribute   trained   saved   shape")
    for name in ("weight", "bias", "calls", "scratch"):
        trained = "yes" if name in dict(layer.named_parameters()) else "no"
        saved = "yes" if name in layer.state_dict() else "no"
        print(f"  {name:9} {trained:>9} {saved:>7}   {tuple(getattr(layer, name).shape)}")


class Bigram(nn.Module):
    """P(next | current) = softmax(table[current]). Tokens (N,) -> logits (N, V)."""

    def __init__(self, vocab_size: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(vocab_size, vocab_size))  # all equal: nothing is known yet

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.table[tokens]


def bigram_entropy(text: str) -> float:
    """H(next | current) of a text in nats per character: -sum_ab n(ab)/N ln(n(ab)/n(a)), by counting.

    No model that sees one character back has a lower loss on this text (Gibbs' inequality).
    """
    pairs, firsts = Counter(zip(text, text[1:], strict=False)), Counter(text[:-1])
    return -sum(n / (len(text) - 1) * math.log(n / firsts[a]) for (a, _), n in pairs.items())


def train_bigram(tokens: torch.Tensor, vocab_size: int, steps: int = 1500, lr: float = 10.0):
    """Gradient descent on tokens (T,). Returns the model and the loss at each step, in nats per character."""
    model = Bigram(vocab_size)
    # A step this long is safe only because the loss is convex and each row sees few of the pairs.
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    losses = []
    for _ in range(steps):
        loss = F.cross_entropy(model(tokens[:-1]), tokens[1:])  # forward: guess each next character
        optimizer.zero_grad()  # forget the gradients of the last step
        loss.backward()  # backward: which way is worse
        optimizer.step()  # one step the other way
        losses.append(loss.item())
    return model, losses


@torch.no_grad()
def sample(model: Bigram, start: int, length: int, generator: torch.Generator) -> list[int]:
    """Draw `length` more characters, each from the row of the one before it."""
    tokens = [start]
    for _ in range(length):
        probabilities = model(torch.tensor(tokens[-1:]))[0].softmax(-1)  # (V,)
        tokens.append(torch.multinomial(probabilities, 1, generator=generator).item())
    return tokens


def show_training():
    """Fit the bigram to SENTENCE. Returns (model, losses, characters) for the figure."""
    cli.heading("6. The training loop and the smallest language model")
    characters = sorted(set(SENTENCE))
    tokens = torch.tensor([characters.index(c) for c in SENTENCE])  # (T,)
    V, entropy = len(characters), bigram_entropy(SENTENCE)
    print(f"  text: {SENTENCE!r}, {len(tokens)} characters, {V} different ones")
    model, losses = train_bigram(tokens, V)
    print("   step   loss (nats per character)")
    for step in (0, 1, 10, 100, len(losses) - 1):
        note = "   = ln V: all equally likely" if step == 0 else ""
        print(f"  {step:5}   {losses[step]:.4f}{note}")
    print(f"  limit   {entropy:.4f}   = entropy of the sentence given one character, counted")
    assert math.isclose(losses[0], math.log(V), rel_tol=1e-5)
    assert entropy <= losses[-1] < entropy + 0.01

    for name, m in (("before", Bigram(V)), ("after", model)):
        drawn = sample(m, characters.index("t"), 50, torch.Generator().manual_seed(0))
        text = "".join(characters[i] for i in drawn)
        print(f"  {name:7} {text!r}")
    assert set(zip(text, text[1:], strict=False)) <= set(zip(SENTENCE, SENTENCE[1:], strict=False))
    print("  Now every pair of neighbours occurs in the sentence, and still the whole makes no sense:")
    print("  to do better a model must look further than one character.")
    return model, losses, characters


def draw(model: Bigram, losses: list[float], characters: list[str], show: bool) -> None:
    """The loss against its limit, and the learned table."""
    figure, (left, right) = figures.pyplot(show).subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    left.semilogx(range(1, len(losses) + 1), losses, label="training loss")
    left.axhline(bigram_entropy(SENTENCE), ls="--", color="black", label="bigram entropy (counted)")
    left.set(xlabel="step", ylabel="nats per character", title="The loss falls to the entropy and stops")
    left.legend()
    image = right.imshow(model.table.detach().softmax(-1), cmap="Blues", vmin=0, vmax=1)
    names = [c.replace(" ", "␣") for c in characters]
    right.set_xticks(range(len(names)), names)
    right.set_yticks(range(len(names)), names)
    right.set(xlabel="next character", ylabel="current character", title="Learned: P(next | current)")
    figure.colorbar(image, ax=right)
    figures.save_figure(figure, FIGURE, show)


def main() -> None:
    parser = argparse.ArgumentParser(description="Tensors, derivatives, modules and a training loop.")
    parser.add_argument("--show", action="store_true", help="open the figure in a window as well")
    args = parser.parse_args()
    show_shapes()
    show_dtypes()
    show_broadcasting()
    show_autograd()
    show_modules()
    draw(*show_training(), show=args.show)
    print("Next: 02_attention.py, where every position may look at every other.")


if __name__ == "__main__":
    cli.run(main)
