"""Chapter 07: what changes for a GPT, and which of the two learns faster?

    python 07_train_gpt.py                                   # no GPU: under 6 minutes on two cores
    python 07_train_gpt.py --prompt "ROMEO:" --len 300       # writes with your latest GPT, else the shipped one
    python 07_train_gpt.py --num 2 --temp 0.7 --topk 10 --seed 1
    python 07_train_gpt.py --hub                             # writes with the published GPT

The same Transformer, corpus, optimizers and loop as in chapter 05. Five things differ, and each is a few lines:

    1. causal=True        a position looks back only
    2. the loss           every token predicts the next one; every position counts, none is masked
    3. the evaluation     the exact likelihood of held-out text, not a bound on it
    4. the generation     left to right, one token a pass, over the rows that the KV buffer keeps
    5. the overfitting    a GPT has one way to read a text, a dLLM many: its best weights may come early

With one of --prompt, --len, --temp, --topk, --num and --hub it writes (with the GPT that --run names, if it does);
without, it trains, and every other flag of chapter 05 holds. You will see the NLL fall faster than chapter 05's
NELBO did, and at the end both curves in one picture, curves.png in the run's folder. They do not measure quite the
same: the NLL is exact, the NELBO an upper bound, and a dLLM's true NLL lies somewhere below its curve.
"""

import random
from dataclasses import dataclass
from importlib import import_module

import torch
import torch.nn.functional as F

from plumbing import checkpoint, cli, corpora, devices, figures, files, hub, runs, settings, tokenizers
from plumbing.settings import setting

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


# 1. Loss and likelihood


def next_token_cross_entropy(model, windows):
    """-log p(next token | all tokens before it), for windows (B, T+1): (B, T), in nats."""
    logits = model(windows[:, :-1])  # (B, T, V)
    loss = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
    return loss.view(logits.shape[:2])  # (B, T)


@torch.no_grad()
def nll_by_position(model, windows, batch_size=64):
    """What each token of windows (N, T+1) costs after the first, which is given: (N, T), in nats."""
    return torch.cat([next_token_cross_entropy(model, rows) for rows in windows.split(batch_size)])


def nll(model, windows, batch_size=64):
    """Negative log-likelihood of windows (N, T+1), in nats per token: (mean, standard error over windows).

    -log p(x1 … xT | x0) = -Σ log p(xi | x0 … xi-1), the chain rule: exact, with nothing drawn at random. The
    error says how far another sample of text might lie; two models on the same windows differ far less.
    """
    means = nll_by_position(model, windows, batch_size).cpu().double().mean(1)  # (N,)
    return means.mean().item(), (means.std() / len(means) ** 0.5).item()


def next_token(start):
    """The objective of this chapter. start: the token that the samples at evaluations begin with."""

    def sample(model):
        first = torch.tensor([[start]], device=model.head.weight.device)
        return generate(model, first, model.config.seq_len - 1)[0]

    return training.Objective(
        measure="NLL",
        extra=1,  # T predictions need T tokens to predict from and T to predict
        loss=lambda model, x0: next_token_cross_entropy(model, x0).mean(),
        evaluate=lambda model, windows, draws: nll(model, windows),
        sample=sample,
    )


# 2. Generation


@torch.no_grad()
def generate(model, tokens, length, temperature=0.8, top_k=None, generator=None, cached=True):
    """Continue tokens (B, P), P at least 1, by `length` tokens: (B, P + length).

    The model sees up to seq_len tokens. When they are full, it forgets all but the last seq_len // 2, whose
    positions then begin at 0 again: one longer pass now and then, and cheap steps between. With `cached` a
    step computes one row only; without, all of them, which gives the same tokens.
    """
    if tokens.shape[1] == 0:
        raise ValueError("a GPT continues a text: give it at least one token")
    window = model.config.seq_len
    start, cache = 0, None  # the model sees tokens[:, start:]
    for _ in range(length):
        if tokens.shape[1] - start > window:
            start, cache = tokens.shape[1] - max(1, window // 2), None
        context = tokens[:, start:]  # (B, S)
        S = context.shape[1]
        if not cached:
            logits = model(context)  # (B, S, V)
        elif cache is None:
            cache = model.make_cache(len(tokens), window)
            logits = model(context, cache=cache)  # (B, S, V)
        else:
            here = torch.tensor([S - 1], device=tokens.device)
            logits = model(context[:, -1:], positions=here, cache=cache)  # (B, 1, V)
        token, _ = diffusion.propose(logits[:, -1:], temperature, top_k, generator)  # (B, 1)
        tokens = torch.cat((tokens, token), dim=1)
    return tokens


@dataclass(frozen=True)
class Writing:
    """How to write. Any of these flags means: write with a trained model, and train none."""

    prompt: str = setting("", "how the text begins; \\n is a new line")
    len: int = setting(256, "characters, the prompt included", 1, 100_000)
    temp: float = setting(0.8, "temperature: 0 always takes the likeliest", 0, 100)
    topk: int = setting(0, "draw among so many likeliest characters; 0: among all", 0)
    num: int = setting(1, "samples, made in one batch", 1, 1000)
    hub: str = setting("", "OWNER/NAME on the Hugging Face Hub; alone: the published GPT", bare=hub.ADDRESSES[0])

    def __post_init__(self):
        settings.check(self)


def opening(tokenizer):
    """The token before a text that has no prompt: a new line, where the corpus has one."""
    return tokenizer.encode("\n")[0] if "\n" in tokenizer.vocabulary else 0


def write(folder, wanted, seed, device):
    """Print what the GPT in `folder` writes; wanted: a `Writing`."""
    model, tokenizer, _ = checkpoint.load(folder, device)
    if not model.config.causal:
        raise cli.UserError(f"{folder} is a dLLM: python 06_generate.py writes with it")
    given = tokenizer.encode(wanted.prompt.replace("\\n", "\n"))
    if len(given) >= wanted.len:
        raise cli.UserError(f"the prompt fills {len(given)} of {wanted.len} places: raise --len")
    unseen = [] if given else [opening(tokenizer)]  # a text must begin after something
    tokens = torch.tensor([unseen + given] * wanted.num, device=device)  # (B, P)
    # Below a thousandth, dividing by the temperature would overflow; the draw is greedy long before.
    temperature = wanted.temp if wanted.temp > 1e-3 else 0
    generator = torch.Generator(device).manual_seed(seed)
    tokens = generate(model, tokens, wanted.len - len(given), temperature, wanted.topk or None, generator)
    print(f"seed {seed} · {folder.resolve().name}")
    for number, row in enumerate(tokens[:, len(unseen) :], 1):
        print(f"\n--- sample {number} of {wanted.num} ---" if wanted.num > 1 else "")
        print(tokenizer.decode(row))


# 3. Both curves


def read_run(folder):
    """(name and last number in a line of text, measure, records of the log) of the run in `folder`.

    A model that came with the repository has its log in docs/logs/.
    """
    model, _, info = checkpoint.load(folder)
    log = folder / "log.jsonl"
    records = runs.read_log(log if log.is_file() else files.ROOT / "docs" / "logs" / f"{folder.name}.jsonl")
    name, measure = ("GPT", "NLL") if model.config.causal else ("dLLM", "NELBO")
    meaning = "NLL, exact" if model.config.causal else "NELBO, an upper bound of the NLL"
    size = transformer.count_parameters(model) / 1e6
    return f"{name} {folder.name}, {size:.2f}M: {info.get(measure, float('nan')):.3f} ({meaning})", measure, records


def draw_curves(runs, path):
    """The validation losses of the runs in the folders `runs` against steps, tokens and seconds, to the PNG `path`.

    The last evaluation stands apart from its curve: it is of the kept weights, on the whole validation split.
    """
    plt = figures.pyplot(False)
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), sharey=True, layout="constrained")
    for folder in runs:
        label, measure, records = read_run(folder)
        losses = [record[measure] for record in records]
        for axis, key, scale in zip(axes, ("step", "tokens", "seconds"), (1, 1e6, 1), strict=True):
            x = [record[key] / scale for record in records]
            line = axis.plot(x[:-1], losses[:-1], marker="o", ms=3, label=label)[0]
            axis.plot(x[-1:], losses[-1:], marker="*", ms=12, color=line.get_color(), linestyle="none")
    for axis, name in zip(axes, ("steps", "tokens seen, millions", "seconds of training"), strict=True):
        axis.set(xlabel=name)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="validation loss, nats per character")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", title="star: the weights kept, on the whole split")
    with files.whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
    plt.close(figure)


def compare(folder):
    """Draw the GPT in `folder` and the latest dLLM of the same text in one picture, and print their numbers."""
    runs = [folder]
    try:
        other = checkpoint.find()
        if checkpoint.load(other)[2].get("corpus_sha256") != checkpoint.load(folder)[2].get("corpus_sha256"):
            raise cli.UserError(f"{other.name} learned from another text: train one with python 05_train.py")
        runs.append(other)
    except cli.UserError as error:
        print(f"no dLLM to compare with: {error}")
    draw_curves(runs, folder / "curves.png")
    print(*(read_run(run)[0] for run in runs), f"both curves: {folder / 'curves.png'}", sep="\n")


# 4. The command line


def main(argv=None):
    default = "gpt-gpu" if torch.cuda.is_available() else "gpt-laptop"
    groups = (transformer.TransformerConfig, training.TrainConfig, Writing)
    arguments, shape, learning, writing = settings.parse(
        argv, __doc__, groups, default, fixed=("vocab_size", "causal", "time_conditioned", "t_max"))
    wanted = settings.build(Writing, **writing)
    config = settings.build(training.TrainConfig, **learning)
    if writing:
        given = [name for name in shape | learning if name != "seed" and getattr(arguments, name) is not None]
        if given or arguments.fresh:
            flag = "--" + (given or ["fresh"])[0].replace("_", "-")
            raise cli.UserError(f"--{next(iter(writing))} writes with a trained model: leave out {flag}")
        seed = config.seed if arguments.seed is not None else random.randrange(2**31)
        if wanted.hub and arguments.run:
            raise cli.UserError("--hub and --run both name a model: leave one out")
        folder = hub.fetch(wanted.hub, "gpt") if wanted.hub else checkpoint.find(arguments.run, "gpt")
        write(folder, wanted, seed, devices.pick_device(arguments.device))
        return
    text = corpora.load(arguments.corpus)
    tokenizer = tokenizers.CharTokenizer.from_text(text.text)
    model_config = settings.build(transformer.TransformerConfig, vocab_size=tokenizer.vocab_size, causal=True, **shape)
    folder = training.start_run(arguments, "gpt", model_config, config, next_token(opening(tokenizer)), tokenizer, text,
                                corpora.split(text.text))
    if runs.read_log(folder / "log.jsonl"):  # not if it was stopped before its first evaluation
        compare(folder)
        write(folder, wanted, config.seed, devices.pick_device(arguments.device))
    print("\nNext: 08_train_tamil.py, where the dLLM learns classical Tamil in its own letters.")


if __name__ == "__main__":
    cli.run(main)
