"""Chapter 07: what changes for a GPT, and does it learn faster than the dLLM?

    python 07_train_gpt.py                                      # no GPU: 6 minutes on two cores
    python 07_train_gpt.py --teachers FIRST,SECOND --run THIRD  # learn from what two trained GPTs predict
    python 07_train_gpt.py write --prompt "ROMEO:"              # your latest GPT; if you have none, the shipped GPT
    python 07_train_gpt.py write --num 2 --temp 0.7 --topk 10 --seed 1
    python 07_train_gpt.py write --runtime onnx-int8            # in less time, without a GPU

The Transformer, the corpus, the optimizers and the loop are those of chapter 05. Five things differ:

    1. causal=True        each position sees only itself and the positions before it
    2. the loss           no token is masked, and every position predicts the next token
    3. the evaluation     the exact likelihood of held-out text, where chapter 05 computes a bound
    4. the generation     from left to right, one token per pass, with the key-value buffer of chapter 02
    5. the overfitting    a GPT predicts the same tokens in every epoch, so it can overfit before the run ends

You should see the NLL (negative log-likelihood) of the GPT fall faster than the NELBO (negative evidence lower bound)
of chapter 05's dLLM. The two models have the same size and learn from the same text. At the end, curves.png in the
folder of the run shows the curves of the two models. The GPT's NLL is exact, while the NELBO is an upper bound on the
dLLM's NLL.

If the NLL ends far above 1.6, repeat the command with a larger number of --minutes to continue the run. If the NLL
rises again before the end, the text is too small for the model. The program then keeps the weights of the best
evaluation.
"""

from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Literal

from plumbing import checkpoint, cli, devices, hub, runtimes, text

import torch
import torch.nn.functional as F

attention = import_module("02_attention")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")


# 1. The task: predict the next token


def next_token_losses(model, windows):
    """Return the losses (B, T) of `windows` (B, T+1), in nats. A loss is -log p(next token | all tokens before it)."""
    logits = model(windows[:, :-1])  # (B, T, V)
    losses = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
    return losses.view(logits.shape[:2])  # (B, T)


@torch.no_grad()
def nll_by_position(model, windows, batch_size=64):
    """Return the losses (N, T) of `windows` (N, T+1), in nats. A loss is -log p(token | all tokens before it)."""
    return torch.cat([next_token_losses(model, rows) for rows in windows.split(batch_size)])


def nll(model, windows, batch_size=64):
    """Return the NLL of `windows` (N, T+1) as (mean, standard error over windows), in nats per token.

    The mean is exact: by the chain rule, -log p(x1 … xT | x0) = -Σ log p(xi | x0 … xi-1), and nothing is drawn at
    random. The standard error says how much the mean would change with another text. For a comparison of two models on
    the same windows, this error is too large.
    """
    means = nll_by_position(model, windows, batch_size).cpu().double().mean(1)  # (N,)
    return means.mean().item(), (means.std() / len(means) ** 0.5).item()


class NextToken(training.Text):
    """The task of a GPT: predict the next token. In a window of T + 1 tokens, the model predicts T tokens.

    `teachers` are trained GPTs. If there are teachers, the model learns their mean prediction instead of the next
    token of the text.
    """

    measure = "NLL"

    def __init__(self, tokenizer, parts, seq_len, device, teachers=()):
        super().__init__(tokenizer, parts, seq_len + 1, device)
        self.teachers = teachers

    def loss(self, model, windows):
        if self.teachers:
            return taught_losses(model, self.teachers, windows).mean()
        return next_token_losses(model, windows).mean()

    def evaluate(self, model, windows):
        return nll(model, windows)

    def sample(self, model):
        first = torch.tensor([[opening(self.tokenizer)]], device=model.head.weight.device)
        return self.tokenizer.decode(write(model, first, model.config.seq_len - 1)[0])


def taught_losses(model, teachers, windows):
    """Return the cross-entropy between the teachers' mean prediction and the model's prediction, for windows (B, T+1).

    The result is (B, T), in nats. The text shows only one next token, although other tokens were possible. A trained
    GPT says how probable each token is. Several GPTs make different errors, so their mean prediction is better than
    that of any single GPT. With this mean prediction as its target, a model learns faster and overfits less (knowledge
    distillation, Hinton et al. 2015, arXiv:1503.02531). The shipped GPT learned in this way from two teachers with NLLs
    of 1.404 and 1.405. Its own NLL is 1.385.
    """
    tokens = windows[:, :-1]
    with torch.no_grad():
        target = torch.stack([teacher(tokens).float().softmax(-1) for teacher in teachers]).mean(0)  # (B, T, V)
    losses = F.cross_entropy(model(tokens).float().flatten(0, 1), target.flatten(0, 1), reduction="none")
    return losses.view(tokens.shape)


# 2. Writing, from left to right


@torch.no_grad()
def stream(model, canvas, temperature=0.8, top_k=None, cached=True, lean=True):
    """Fill the masks at the end of `canvas` (B, T) from left to right. Yields a State (chapter 04) after each token.

    At least the first token must be given. The first pass computes one row (the vectors of one position) for each given
    token. With `cached`, each later pass computes only the row of the newest token. The result is exact, because in a
    causal model no row depends on a later row. If `lean` is True and the model has what LeanRows (section 3) needs,
    LeanRows makes the later passes faster.

    The model sees at most seq_len tokens. When this window is full, the model forgets all but the last seq_len // 2
    tokens. Their positions then begin at 0 again, so the next pass computes all their rows.
    """
    given = canvas != model.config.mask_id
    if not given[:, 0].all():
        raise ValueError("a GPT continues a text: give it at least one token")
    confidence = given.float()
    window = model.config.seq_len
    start, cache = 0, None  # the model sees canvas[:, start:end]
    lean = lean and isinstance(model, transformer.Transformer) and LeanRows.fits(model.config)
    for end in range(int(given.sum(1).max()), canvas.shape[1]):
        if end - start > window:
            start, cache = end - max(1, window // 2), None
        context = canvas[:, start:end]  # (B, S)
        with torch.inference_mode():  # computes without gradients, with even less overhead than no_grad
            if not cached:
                logits = model(context)  # (B, S, V)
            elif cache is None:
                cache = model.make_cache(len(canvas), window)
                logits = model(context, cache=cache)  # (B, S, V)
                rows = LeanRows(model, cache) if lean else None
            elif lean:
                x = rows(model.token_emb(context[:, -1:]), end - start - 1)  # (B, 1, C)
                logits = model.head(x)  # (B, 1, V)
            else:
                newest = torch.tensor([end - start - 1], device=canvas.device)
                logits = model(context[:, -1:], positions=newest, cache=cache)  # (B, 1, V)
            token, probability = diffusion.propose(logits[:, -1:], temperature, top_k)  # (B, 1) each
        canvas = canvas.slice_scatter(token, 1, end, end + 1)
        confidence = confidence.slice_scatter(probability, 1, end, end + 1)
        committed = torch.zeros_like(given)
        committed[:, end] = True
        yield diffusion.State(canvas, confidence, committed)


def write(model, tokens, count, temperature=0.8, top_k=None, cached=True):
    """Write `count` more tokens after `tokens` (B, P). Return (B, P + count). P must be at least 1."""
    canvas = F.pad(tokens, (0, count), value=model.config.mask_id)  # (B, P + count)
    for state in stream(model, canvas, temperature, top_k, cached):
        canvas = state.canvas
    return canvas


def opening(tokenizer):
    """Return the token that begins a text without a prompt: a line break if the vocabulary has one, otherwise 0."""
    return tokenizer.encode("\n")[0] if "\n" in tokenizer.vocabulary else 0


# 3. The same rows, in less time
#
# The product of one row and a matrix takes little time. So a large part of a pass goes into other work: calls of
# modules, and small operations that compute the same numbers again for each row. Chapter 11 measures this part. The
# code of chapter 03 is written to be read. The code of this section computes the same results faster.


class LeanRows:
    """Computes new rows of a causal model of chapter 03 without calling the modules of the model.

    The cache must already hold the first rows of the text. LeanRows is faster than the model for three reasons. The
    angles of the rotary positions are computed once for all rows. Queries and keys are normalised and rotated together.
    A single row sees all keys, so it needs no mask. A test compares the results with those of the model.
    """

    @staticmethod
    def fits(config):
        """Return True if a model has what LeanRows needs: rotary positions, RMSNorm and squared ReLU."""
        return (config.positions, config.norm, config.activation) == ("rope", "rms", "relu2")

    def __init__(self, model, cache):
        c = model.config
        self.n_head, self.size = c.n_head, c.n_embd // c.n_head
        device = model.head.weight.device
        room = cache.layers[0].k.shape[2]
        cos, sin = attention.rotary_table(torch.arange(room, device=device), self.size)  # (room, hd/2) each
        self.cos = torch.cat((cos, cos), -1)  # (room, hd)
        self.sin = torch.cat((-sin, sin), -1)
        self.layers = []
        for block, buffer in zip(model.blocks, cache.layers, strict=True):
            layers = block.attn.qkv, block.attn.out, block.mlp.up, block.mlp.down
            self.layers.append(([layer.weight for layer in layers], buffer))
        self.ahead = max(0, c.conv - 1)  # number of earlier rows that a convolution reads
        self.before = torch.arange(self.ahead + 1, device=device)[None]  # (1, conv)
        self.streams = [F.pad(stream, (0, 0, self.ahead, 0)) for stream in cache.streams]  # zeros stand before the text
        self.convs = [conv.weight for conv in model.convs]

    @torch.inference_mode()
    def __call__(self, x, start, positions=None, visible=None, read=None):
        """Run all blocks on x (B, R, C), the embeddings of R new rows. Return the head's input (B, R, C).

        `start` is the place of the first new row in the cache. A single row needs no other argument. Chapter 13
        computes several rows at once, and passes three more arguments. `positions` (R,) are the positions of the rows.
        `visible` (R, start + R) says which rows each row sees. `read` (R, conv) says which rows a convolution of
        width conv reads.
        """
        B, R, C = x.shape
        end = start + R
        positions = slice(start, end) if positions is None else positions
        cos, sin = self.cos[positions], self.sin[positions]  # (R, hd) each
        read = self.before if read is None else read
        for i, ((qkv, out, up, down), buffer) in enumerate(self.layers):
            if i < len(self.convs):
                stream = self.streams[i]
                stream[:, start + self.ahead : end + self.ahead] = x
                around = stream[:, start : end + self.ahead][:, read]  # (B, R, conv, C)
                x = x + (self.convs[i] * around).sum(2)
            rows = F.linear(normalised(x), qkv).view(B, R, 3, self.n_head, self.size).permute(2, 0, 3, 1, 4)
            qk = normalised(rows[:2])  # (2, B, nh, R, hd)
            qk = qk * cos + qk.roll(self.size // 2, -1) * sin
            buffer.k[:, :, start:end] = qk[1]
            buffer.v[:, :, start:end] = rows[2]
            keys, values = buffer.k[:, :, :end], buffer.v[:, :, :end]
            y = F.scaled_dot_product_attention(qk[0], keys, values, attn_mask=visible)  # (B, nh, R, hd)
            x = x + F.linear(y.transpose(1, 2).reshape(B, R, C), out)
            x = x + F.linear(F.linear(normalised(x), up).relu().square(), down)
        return normalised(x)


def normalised(x):
    """Return the vectors x (…, C), each divided by its root mean square. PyTorch's RMSNorm needs more operations."""
    return x * (x.shape[-1] ** 0.5 / torch.linalg.vector_norm(x, dim=-1, keepdim=True))


# 4. The command line


@dataclass(frozen=True)
class GPTTrainConfig(training.TrainConfig):
    """The settings for training a GPT."""

    teachers: str = ""  # runs of GPTs, separated by commas; the model learns their mean prediction, not the text


@dataclass(frozen=True)
class Train(training.Settings):
    """The flags for training."""

    train: GPTTrainConfig = GPTTrainConfig()

    def __post_init__(self):
        if self.model.time_conditioned:
            raise ValueError("time_conditioned is for diffusion models: a GPT has no noise level")


@dataclass(frozen=True)
class Continue:
    """The flags for writing from left to right, which chapters 07 and 13 share."""

    checkpoint: str = ""  # name or folder of a run; by default your latest run, or the shipped model
    prompt: str = ""  # how the text begins; \n is a new line
    len: int = 256  # number of characters, including the prompt
    num: int = 1  # number of samples
    temp: float = 0.8  # temperature; 0 always takes the most likely character
    topk: int | None = None  # draw only among this many of the most likely characters; by default among all
    seed: int | None = None  # the same seed writes the same text; by default a random seed
    device: str = "auto"  # auto, cpu, cuda or mps
    quiet: bool = False  # print the text and nothing else
    gif: Path | None = None  # save the run as an animation: a path that ends in .gif
    html: Path | None = None  # save the run as a web page with a player: a path that ends in .html

    def __post_init__(self):
        generation.check_ranges(self)


@dataclass(frozen=True)
class Write(Continue):
    """The flags for writing."""

    hub: str = ""  # OWNER/NAME of a GPT on the Hugging Face Hub; --hub alone: the GPT of the original tiny-dllm
    runtime: Literal["torch", "onnx", "onnx-int8"] = "torch"  # what runs the model: PyTorch, or ONNX Runtime (on a CPU)


def load_teachers(settings, config, corpus, tokenizer, device):
    """Return a list of the models that --teachers names. Raises UserError if a model cannot be a teacher."""
    teachers = []
    for name in filter(None, settings.train.teachers.split(",")):
        folder = checkpoint.find(name.strip(), "gpt")
        teacher, known, info = checkpoint.load(folder, device, kinds=("gpt",))
        if folder.name == settings.run:
            raise cli.UserError(f"{folder.name} cannot teach itself: name the new run with --run")
        if info.get("corpus_sha256") != corpus.sha256 or known.vocabulary != tokenizer.vocabulary:
            raise cli.UserError(f"{folder.name} learned from another text than {corpus.name}")
        if teacher.config.seq_len < config.seq_len:
            raise cli.UserError(f"{folder.name} reads {teacher.config.seq_len} characters: lower --seq-len")
        teachers.append(teacher)
    return teachers


def train_gpt(settings):
    corpus = text.load(settings.corpus)
    tokenizer = text.Characters.of(corpus.text)
    device = devices.pick_device(settings.device)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=tokenizer.vocab_size, causal=True)
    teachers = load_teachers(settings, config, corpus, tokenizer, device)
    task = NextToken(tokenizer, text.split(corpus.text), config.seq_len, device, teachers)
    about = {"corpus": corpus.name, "corpus_sha256": corpus.sha256}
    folder = training.start(settings, "gpt", task, config, about, device)
    if folder:
        compare(folder, corpus)
        print("Next: 08_train_tamil.py, where the dLLM learns classical Tamil in its own letters.")


def compare(folder, corpus):
    """Draw the curves of the GPT in `folder` and of the latest dLLM, if this dLLM learned from the same text."""
    try:
        other = checkpoint.find("", "dllm")
        if checkpoint.read_config(other)["info"].get("corpus_sha256") != corpus.sha256:
            raise cli.UserError("the latest dLLM learned from another text")
        training.draw_curves([folder, other], folder / "curves.png")
    except cli.UserError as error:
        print(f"no dLLM to compare with ({error}): python 05_train.py trains one")
        return
    print(f"the curves of {folder.name} and {other.name}: {folder / 'curves.png'}")


def make_canvas(settings, tokenizer):
    """Return the canvas (B, T) that `settings` describe: the prompt, and then masks.

    Without a prompt, the canvas begins with the token from `opening`.
    """
    tokens = generation.from_prompt(settings.prompt.replace("\\n", "\n"), settings.len, tokenizer)
    if not settings.prompt:
        tokens = [opening(tokenizer), *tokens]  # the first character must have a character before it
    return torch.tensor([tokens] * settings.num)


def write_text(settings):
    if settings.hub and settings.checkpoint:
        raise cli.UserError("--hub and --checkpoint both name a model: leave one out")
    settings = runtimes.on_cpu(settings)
    folder = hub.fetch(settings.hub, "gpt") if settings.hub else checkpoint.find(settings.checkpoint, "gpt")
    model, tokenizer, _ = checkpoint.load(folder, devices.pick_device(settings.device), kinds=("gpt",))
    canvas = make_canvas(settings, tokenizer).to(model.head.weight.device)  # (B, T)
    model = runtimes.choose(settings.runtime, model, folder)
    seed = generation.pick_seed(settings)
    states = stream(model, canvas, settings.temp, settings.topk)
    title = f"seed {seed} · {cli.printable(folder.name)} · temperature {settings.temp:g}"
    generation.watch(states, canvas, tokenizer, settings, title)


def main(argv=None):
    command, words = cli.sub_command(("train", "write"), argv)
    if command == "write":
        write_text(cli.parse(Write, words, alone={"--hub": "published"}))
    else:
        train_gpt(cli.parse(Train, words, section="gpt"))


if __name__ == "__main__":
    cli.run(main)
