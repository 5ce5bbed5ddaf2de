"""A masked diffusion language model in one file. Such a model can write the characters of a text in any order.

    python minimal.py           # about three minutes on two CPU cores: it learns from Shakespeare, then it writes
    python minimal.py my.txt    # the same with a text file of your own

A GPT learns to predict the next character. This model learns to predict hidden characters from the visible ones on
both sides. To write, it starts from a text in which everything is hidden, and fills in a few characters in each pass.

You should see words that are almost English, and a NELBO of about 2.1. The NELBO says how badly the model predicts new
text, so lower is better. If your NELBO is far above 2.3, your machine was too slow or too busy for three minutes of
training. Then make SECONDS larger.
"""

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # so PyTorch's idle threads leave the cores to other programs
import torch
import torch.nn.functional as F
from torch import nn

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
WINDOW = 128  # T in the shapes: how many characters the model reads at once. B is the number of texts
SECONDS = 180  # how long the model trains

# 1. The text (chapter 05) -------------------------------------------------------------------------
def read(name=None):
    """Return the text of the file `name`. Without a name, return TinyShakespeare, which is downloaded if necessary."""
    beside = Path(__file__).resolve().with_name("tinyshakespeare.txt")
    path = Path(name) if name else beside if beside.is_file() else beside.parent / "data" / beside.name
    try:
        if not name and not path.is_file():
            path.parent.mkdir(exist_ok=True)
            torch.hub.download_url_to_file(URL, str(path), SHA256, progress=False)
        text = "".join(c for c in path.read_text("utf-8") if c.isprintable() or c == "\n")  # no terminal codes
        if len(text) < 20 * WINDOW:
            raise ValueError(f"it has {len(text):,} characters, and {20 * WINDOW:,} are needed")
        return text
    except Exception as error:
        advice = "give the path of a text file in UTF-8" if name else (
            f"save {URL} there, or run python 05_train.py --plain 1, which also tries other sources")
        print(f"error: cannot use {str(path)!r} ({str(error)!r}): {advice}", file=sys.stderr)
        sys.exit(2)

# 2. The network (chapters 02 and 03) --------------------------------------------------------------
def norm(x):  # divide each vector by its root mean square, so that no number grows out of range
    return F.rms_norm(x, x.shape[-1:])

def rotate(x):  # rotate x (..., T, D) by angles that grow with the position, so that attention can see distances
    a, b = x.chunk(2, dim=-1)  # (..., T, D/2) each
    angle = (torch.arange(a.shape[-2])[:, None] * 10000 ** (-torch.arange(a.shape[-1]) / a.shape[-1])).to(x)
    return torch.cat((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), dim=-1)

class Model(nn.Module):
    """Turn tokens (B, T) into scores (B, T, symbols): at each position, a score for each symbol.
    The tokens are numbers below `symbols`. The mask is one more token, the number `symbols` itself."""
    def __init__(self, symbols, width=128, heads=4, layers=4):
        super().__init__()
        self.mask, self.heads = symbols, heads
        self.embedding = nn.Embedding(symbols + 1, width)
        self.near = nn.Conv1d(width, width, 5, padding=2, groups=width, bias=False)  # sees the nearest characters
        self.blocks = nn.Parameter(torch.randn(layers, 12, width, width) * width**-0.5)  # q, k, v, out, 4 up, 4 down
        self.head = nn.Linear(width, symbols, bias=False)
        for weight in (self.near.weight, self.head.weight, self.blocks[:, 3], self.blocks[:, 8:]):
            nn.init.zeros_(weight)  # at first all symbols are equally likely, and the blocks change nothing

    def forward(self, tokens):
        x = self.embedding(tokens)  # (B, T, width)
        x = x + self.near(x.mT).mT
        for block in self.blocks:
            qkv, out, up, down = (part.flatten(0, 1) for part in block.split((3, 1, 4, 4)))
            # Attention, softmax(qkᵀ/√D)v: each position reads from both sides. A GPT would add is_causal=True.
            q, k, v = (norm(x) @ qkv.mT).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (B, heads, T, D)
            y = F.scaled_dot_product_attention(rotate(norm(q)), rotate(norm(k)), v)
            x = x + y.transpose(1, 2).flatten(2) @ out
            x = x + F.relu(norm(x) @ up.mT).square() @ down  # two layers that work on each position alone
        return self.head(norm(x))

# 3. The idea (chapter 04) -------------------------------------------------------------------------
def losses(model, x0, highest=1.0):
    """Hide k characters in each row of x0 (B, T). Each row has its own k, and the shares k / T are spread evenly
    from 0 to `highest`. Return two tensors (B,): the sum of the losses in each row, and k."""
    B, T = x0.shape
    k = 1 + ((torch.rand(B) + torch.randperm(B)) / B * highest * T).long().clamp(max=T - 1).to(x0.device)
    hidden = torch.rand(x0.shape, device=x0.device).argsort(1) < k[:, None]  # argsort: 0 … T-1 in random order
    scores = model(torch.where(hidden, model.mask, x0))
    return (F.cross_entropy(scores.mT, x0, reduction="none") * hidden).sum(1), k

@torch.no_grad()
def nelbo(model, x0):
    """Estimate the NELBO of x0 (N, T), an upper bound on -log p(x0).
    Return (mean, standard error) in nats per character.
    A model that writes one character per pass meets every k from T down to 1 exactly once. So all k count equally,
    and the bound is the average over k of the mean loss per hidden character, total / k."""
    bounds = torch.stack([(total / k).mean() for total, k in (losses(model, part) for part in x0.chunk(16))])
    return bounds.mean().item(), (bounds.std() / len(bounds) ** 0.5).item()

# 4. Learning (chapter 05) -------------------------------------------------------------------------
def orthogonal(x):  # Newton-Schulz steps: bring all singular values of each matrix in x close to 1
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.775 * gram) @ x
    return x

def train(model, data, seconds, batch=8):
    """Train the model on `data` (N,) for `seconds` seconds.
    At most 80 % of a window is hidden, because a window with more masks teaches little at first."""
    adamw = torch.optim.AdamW((p for name, p in model.named_parameters() if name != "blocks"), betas=(0.9, 0.95))
    momentum = torch.zeros_like(model.blocks)
    windows = data.unfold(0, WINDOW, 1)
    start, step = time.perf_counter(), 0
    while (share := (time.perf_counter() - start) / seconds) < 1:
        total, k = losses(model, windows[torch.randint(len(windows), (batch,))], highest=0.8)
        loss = total.sum() / k.sum()
        model.zero_grad()
        loss.backward()
        rate = min(1, 50 * share, 1.4 * (1 - share))  # the learning rate rises, stays, and falls to 0
        adamw.param_groups[0]["lr"] = 0.005 * rate
        adamw.step()
        momentum.lerp_(model.blocks.grad, 0.1)  # Muon: an orthogonal update, in which no direction dominates
        model.blocks.data -= 0.02 * rate * torch.stack([orthogonal(block) for block in momentum])
        if step % 50 == 0:
            print(f"{share:4.0%}  step {step}  loss {loss:.3f}", end="\r" if sys.stdout.isatty() else "\n", flush=True)
        step += 1

# 5. Writing (chapters 04 and 06) ------------------------------------------------------------------
@torch.no_grad()
def write(model, canvas, passes=128):
    """Replace the masks of `canvas` (B, T), and yield the canvas after each pass. Characters that are not masks stay.
    At first the model writes in random order. In the second half of the passes, it rewrites doubtful characters."""
    half = passes // 2
    sure = torch.ones(canvas.shape, device=canvas.device)  # given characters are never doubtful
    for step in range(passes):
        hidden = (canvas == model.mask) | (step >= half) & (torch.rand_like(sure) < 0.2 * (1 - sure))
        scores = model(torch.where(hidden, model.mask, canvas))
        temperature = 0.8 * min(1, 2 - 2 * step / passes)  # in the second half, it falls towards 0
        guess = torch.distributions.Categorical(logits=scores / temperature).sample()
        now = hidden & (torch.rand_like(sure) < 1 / max(1, half - step))  # at first a few positions, later all
        canvas = torch.where(now, guess, canvas)
        sure = torch.where(now, scores.softmax(-1).gather(-1, guess[..., None])[..., 0], sure)
        yield canvas

def main(name=None, seconds=SECONDS):
    text = read(name)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    codes, data = torch.tensor([*map(ord, text)], device=device).unique(return_inverse=True)  # (symbols,), (N,)
    symbols = [*map(chr, codes), "░"]  # all characters of the text, and a sign for the mask
    model = Model(len(symbols) - 1).to(device)
    cut = len(data) * 9 // 10
    with suppress(KeyboardInterrupt):  # Ctrl-C ends the training early
        train(model, data[:cut], seconds)
    held_out = data[cut:].unfold(0, WINDOW, WINDOW)[:1024]
    report = "NELBO {:.3f} ± {:.3f} nats per character of held-out text".format(*nelbo(model, held_out))
    for canvas in write(model, torch.full((4, WINDOW), model.mask, device=device)):
        page = "\n\n".join([report] + ["".join(symbols[token] for token in row) for row in canvas.tolist()])
        if sys.stdout.isatty():
            print("\x1b[H\x1b[J" + page, flush=True)
            time.sleep(0.05)
    print("" if sys.stdout.isatty() else page)

if __name__ == "__main__":
    main(*sys.argv[1:2])
