"""Chapter 07: what changes for a GPT, and which of the two learns faster?

    python 07_train_gpt.py                                      # no GPU: 6 minutes on two cores
    python 07_train_gpt.py --teachers FIRST,SECOND --run THIRD  # learn from what two trained GPTs predict
    python 07_train_gpt.py --write --prompt "ROMEO:"            # write with your latest GPT, else the shipped one
    python 07_train_gpt.py --write --num 2 --temp 0.7 --topk 10 --seed 1
    python 07_train_gpt.py --write --hub                        # write with the published GPT

The Transformer, the corpus, the optimizers and the loop are those of chapter 05. Five things differ. Each of them takes
a few lines:

    1. causal=True        a position sees itself and the positions before it
    2. the loss           every token predicts the next one; no token is masked, and all of them count
    3. the evaluation     the exact likelihood of text that the model has not seen, not a bound on it
    4. the generation     from left to right, one token per pass, with the key-value buffer of chapter 02
    5. the overfitting    a GPT predicts the same tokens in every epoch, so its best weights may come early

With --write the program writes; without it, it trains. You should see the NLL (negative log-likelihood) fall faster
than chapter 05's NELBO (negative evidence lower bound) did. At the end curves.png, in the run's folder, shows both. The
two numbers do not measure quite the same: the NLL is exact, while the NELBO is an upper bound on the dLLM's own NLL.
For a slow CPU, chapter 05 chooses a smaller dLLM; with `--config laptop` it trains one that is as large as this GPT.
"""

import dataclasses
import random
from dataclasses import dataclass, field
from importlib import import_module

import torch
import torch.nn.functional as F

from plumbing import checkpoint, cli, corpora, devices, figures, files, hub, measures, runs, settings, tokenizers
from plumbing.settings import NonNegative, OptionalCount, OptionalText, Switch, number

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")


# 1. Loss and likelihood


def next_token_cross_entropy(model, windows):
    """Return -log p(next token | all tokens before it) for windows (B, T+1): (B, T), in nats."""
    logits = model(windows[:, :-1])  # (B, T, V)
    loss = F.cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten(), reduction="none")
    return loss.view(logits.shape[:2])  # (B, T)


@torch.no_grad()
def nll_by_position(model, windows, batch_size=64):
    """Return the cross-entropy of each token of windows (N, T+1) but the first, which is given: (N, T), in nats."""
    return torch.cat([next_token_cross_entropy(model, rows) for rows in windows.split(batch_size)])


def nll(model, windows, batch_size=64):
    """Return the negative log-likelihood of windows (N, T+1), in nats per token: (mean, standard error over windows).

    The chain rule, -log p(x1 … xT | x0) = -Σ log p(xi | x0 … xi-1), makes it exact: nothing is drawn at random. The
    error is the sampling error of the text. Two models that are measured on the same windows share most of it.
    """
    return measures.mean_and_error(nll_by_position(model, windows, batch_size).cpu().double().mean(1))


def taught_cross_entropy(model, teachers, windows):
    """Return the cross-entropy between the mean prediction of the teachers and the model's, for windows (B, T+1).

    The result is (B, T), in nats. The text shows one next token, although others were possible. A trained GPT says how
    probable each of them is, and the mean prediction of several GPTs is better than each, since their errors differ. A
    model that learns it learns sooner and overfits less (knowledge distillation, Hinton et al. 2015, arXiv:1503.02531).
    The NLL of the shipped GPT is 1.385. Its two teachers learned from the text, and have 1.404 and 1.405.
    """
    tokens = windows[:, :-1]
    with torch.no_grad():
        target = torch.stack([teacher(tokens).float().softmax(-1) for teacher in teachers]).mean(0)  # (B, T, V)
    loss = F.cross_entropy(model(tokens).float().flatten(0, 1), target.flatten(0, 1), reduction="none")
    return loss.view(tokens.shape)


def next_token(start, teachers=()):
    """Return the Objective of this chapter. start: the token with which the samples at evaluations begin.

    teachers: models; if there are any, their mean prediction is the target in training, not the next token.
    """

    def sample(model):
        first = torch.tensor([[start]], device=model.head.weight.device)
        return generate(model, first, model.config.seq_len - 1)[0]

    def losses(model, windows):
        return taught_cross_entropy(model, teachers, windows) if teachers else next_token_cross_entropy(model, windows)

    return training.Objective(
        measure="NLL",
        extra=1,  # a window of T + 1 tokens has T pairs of a token and the next one
        loss=lambda model, windows: losses(model, windows).mean(),
        evaluate=lambda model, windows, draws: nll(model, windows),
        sample=sample,
    )


# 2. Generation


@torch.no_grad()
def stream(model, canvas, temperature=0.8, top_k=None, generator=None, cached=True):
    """Write the masks at the end of canvas (B, T), from left to right. Yields a State per token, like chapter 04.

    At least the first token must be given. The model sees up to seq_len tokens. When its window is full, it forgets all
    but the last seq_len // 2 tokens, whose positions then begin at 0 again; the next pass computes all their rows. With
    `cached`, all further passes compute only the row of the newest token. That is exact, because in a causal model no
    row depends on a later one.
    """
    given, window = canvas != model.config.mask_id, model.config.seq_len
    first = int(given.sum(1).max())  # the first column to write
    if first == 0:
        raise ValueError("a GPT continues a text: give it at least one token")
    state = diffusion.State(canvas=canvas, confidence=given.float(), committed=given & False, step=0, nfe=0)
    yield state
    start, cache = 0, None  # the model sees canvas[:, start:end]
    for end in range(first, canvas.shape[1]):
        if end - start > window:
            start, cache = end - max(1, window // 2), None
        context = state.canvas[:, start:end]  # (B, S)
        S = context.shape[1]
        if not cached:
            logits = model(context)  # (B, S, V)
        elif cache is None:
            cache = model.make_cache(len(canvas), window)
            logits = model(context, cache=cache)  # (B, S, V)
        else:
            newest = torch.tensor([S - 1], device=canvas.device)
            logits = model(context[:, -1:], positions=newest, cache=cache)  # (B, 1, V)
        token, sure = diffusion.propose(logits[:, -1:], temperature, top_k, generator)  # (B, 1) each
        here = slice(end, end + 1)
        canvas, confidence, committed = state.canvas.clone(), state.confidence.clone(), given & False
        canvas[:, here], confidence[:, here], committed[:, here] = token, sure, True
        state = diffusion.State(
            canvas=canvas, confidence=confidence, committed=committed, step=state.step + 1, nfe=state.nfe + 1)
        yield state


def generate(model, tokens, length, temperature=0.8, top_k=None, generator=None, cached=True):
    """Continue tokens (B, P), P at least 1, by `length` tokens: (B, P + length). See `stream`."""
    canvas = F.pad(tokens, (0, length), value=model.config.mask_id)  # (B, P + length)
    *_, state = stream(model, canvas, temperature, top_k, generator, cached)
    return state.canvas


def opening(tokenizer):
    """Return the token that begins a text without a prompt: a new line if the corpus has one, otherwise token 0."""
    return tokenizer.encode("\n")[0] if "\n" in tokenizer.vocabulary else 0


def write(folder, command, seed, device):
    """Print what the GPT in `folder` writes. command: has the fields prompt, len, temp, topk and num."""
    model, tokenizer, _ = checkpoint.load(folder, device)
    if not model.config.causal:
        raise cli.UserError(f"{folder} is a dLLM: python 06_generate.py writes with it")
    given = tokenizer.encode(command.prompt.replace("\\n", "\n"))
    if len(given) >= command.len:
        raise cli.UserError(f"the prompt fills {len(given)} of {command.len} positions: raise --len")
    unseen = [] if given else [opening(tokenizer)]  # the first character must have one before it
    tokens = torch.tensor([unseen + given] * command.num, device=device)  # (B, P)
    temperature = generation.usable_temperature(command.temp)
    generator = torch.Generator(device).manual_seed(seed)
    tokens = generate(model, tokens, command.len - len(given), temperature, command.topk, generator)
    texts = [tokenizer.decode(row) for row in tokens[:, len(unseen) :]]
    generation.print_texts(texts, f"seed {seed} · {folder.resolve().name}", quiet=False)


# 3. Both curves


def read_run(folder):
    """Return (a line with name and final loss, measure, records of the log) of the run in `folder`.

    A shipped model has its log in docs/logs/.
    """
    model, _, info = checkpoint.load(folder)
    log = folder / "log.jsonl"
    records = runs.read_log(log if log.is_file() else files.ROOT / "docs" / "logs" / f"{folder.name}.jsonl")
    name, measure = ("GPT", "NLL") if model.config.causal else ("dLLM", "NELBO")
    meaning = "NLL, exact" if model.config.causal else "NELBO, an upper bound on the NLL"
    size = transformer.count_parameters(model) / 1e6
    return f"{name} {folder.name}, {size:.2f}M: {info.get(measure, float('nan')):.3f} ({meaning})", measure, records


def draw_curves(curves, path):
    """Draw validation losses against steps, tokens and seconds, into the PNG file `path`. curves: from `read_run`.

    A star marks the last evaluation. At the end of a run, it measures the weights that are kept.
    """
    plt = figures.pyplot()
    figure, axes = plt.subplots(1, 3, figsize=(12, 4.4), sharey=True, layout="constrained")
    for label, measure, records in curves:
        color = figures.COLORS["gpt" if measure == "NLL" else "dllm"]
        records = [record for record in records if {measure, "tokens", "seconds"} <= record.keys()]
        losses = [record[measure] for record in records]
        for axis, key, scale in zip(axes, ("step", "tokens", "seconds"), (1, 1e6, 1)):
            x = [record[key] / scale for record in records]
            axis.plot(x[:-1], losses[:-1], marker="o", ms=3, color=color, label=label)
            axis.plot(x[-1:], losses[-1:], marker="*", ms=12, color=color, linestyle="none")
    for axis, name in zip(axes, ("steps", "tokens seen, millions", "seconds of training")):
        axis.set(xlabel=name)
        axis.grid(alpha=0.3)
    axes[0].set(ylabel="validation loss, nats per character")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", title="star: the last evaluation")
    figures.write_figure(figure, path, dpi=130)
    plt.close(figure)


def compare(folder):
    """Draw the losses of the GPT in `folder` and of the latest dLLM for the same text, and print the final ones."""
    folders = [folder]
    try:
        other = checkpoint.find()
        if checkpoint.load(other)[2].get("corpus_sha256") != checkpoint.load(folder)[2].get("corpus_sha256"):
            raise cli.UserError(f"{other.name} learned from another text: train a dLLM with python 05_train.py")
        folders.append(other)
    except cli.UserError as error:
        print(f"no dLLM to compare with: {error}")
    curves = [read_run(run) for run in folders]
    draw_curves(curves, folder / "curves.png")
    print(*(label for label, *_ in curves), f"both curves: {folder / 'curves.png'}", sep="\n")


# 4. The command line


@dataclass(frozen=True)
class GPTTrainConfig(training.TrainConfig):
    """How to train a GPT."""

    teachers: str = ""  # runs of GPTs, separated by commas, whose mean prediction the model learns; empty: the text


@dataclass(frozen=True)
class Command(runs.RunFlags):
    """The flags of this chapter."""

    # the settings file: a name in configs/, or the path of a YAML file
    config: str = field(default_factory=lambda: "gpt-gpu" if torch.cuda.is_available() else "gpt-laptop")
    write: Switch = False  # write with a trained GPT (the run that --run names, or the latest) instead of training
    prompt: str = ""  # with --write: how the text begins; \n is a new line
    len: number(int, 1, 100_000) = 256  # with --write: number of characters, the prompt included
    temp: NonNegative = 0.8  # with --write: temperature; 0 always takes the most probable character
    topk: OptionalCount = None  # with --write: sample from this many most probable characters only
    num: number(int, 1, generation.MAX_SAMPLES) = 1  # with --write: number of samples, written in one batch
    hub: OptionalText = None  # with --write: OWNER/NAME on the Hugging Face Hub; --hub alone: the published GPT
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    train: GPTTrainConfig = GPTTrainConfig()


def check_flags(command):
    """Raise UserError if a flag of writing is given without --write, or a flag of training with it."""
    usual = settings.parse(Command, ["--config", command.config])
    writing = [name for name in ("prompt", "len", "temp", "topk", "num", "hub")
               if getattr(command, name) != getattr(usual, name)]
    if writing and not command.write:
        raise cli.UserError(f"--{writing[0]} is a flag of writing: add --write, or leave it out to train")
    trained = command.model, dataclasses.replace(command.train, seed=usual.train.seed), command.fresh
    if command.write and trained != (usual.model, usual.train, False):
        raise cli.UserError("--write uses a trained model: leave out the flags of training")
    if command.model.time_conditioned:
        raise cli.UserError("--time-conditioned is for diffusion models: a GPT has no noise level")
    if command.hub and command.run:
        raise cli.UserError("--hub and --run both name a model: leave one out")


def find_teachers(command, kind, seq_len, corpus, tokenizer, device):
    """Return the models that --teachers names, [] if it names none. UserError if one of them cannot teach this run.

    kind: "gpt" or "dllm".
    """
    student = runs.folder_of(command.run, kind, corpus.name, command.config)
    own, other = ("a GPT", "a dLLM") if kind == "gpt" else ("a dLLM", "a GPT")
    teachers = []
    for name in command.train.teachers.split(",") if command.train.teachers else ():
        folder = checkpoint.find(name.strip(), kind)
        teacher, known, info = checkpoint.load(folder, device)
        for wrong, message in (
                (teacher.config.causal != (kind == "gpt"), f"is {other}, and only {own} can teach {own}"),
                (folder.resolve() == student.resolve(), "cannot teach itself: name the new run with --run"),
                (info.get("corpus_sha256") != corpus.sha256 or known.vocabulary != tokenizer.vocabulary,
                 f"learned from another text than {corpus.name}"),
                (teacher.config.seq_len < seq_len, f"reads {teacher.config.seq_len} characters: lower --seq-len")):
            if wrong:
                raise cli.UserError(f"{folder.name} {message}")
        teachers.append(teacher)
    return teachers


def main(argv=None):
    command = settings.parse(Command, argv, bare={"--hub": hub.ADDRESSES[0]})
    check_flags(command)
    if command.write:
        folder = hub.fetch(command.hub, "gpt") if command.hub else checkpoint.find(command.run, "gpt")
        seed = command.train.seed if settings.given(argv, "--seed") else random.randrange(2**31)
        write(folder, command, seed, devices.pick_device(command.device))
        return
    corpus = corpora.load(command.corpus)
    tokenizer = tokenizers.CharTokenizer.from_text(corpus.text)
    model_config = dataclasses.replace(command.model, vocab_size=tokenizer.vocab_size, causal=True)
    device = devices.pick_device(command.device)
    teachers = find_teachers(command, "gpt", model_config.seq_len, corpus, tokenizer, device)
    objective = next_token(opening(tokenizer), teachers)
    folder = training.start_run(command, "gpt", model_config, objective, tokenizer, corpus, corpora.split(corpus.text))
    if runs.read_log(folder / "log.jsonl"):  # empty if the run was stopped before its first evaluation
        compare(folder)
        write(folder, command, command.train.seed, device)
    print("\nNext: 08_train_tamil.py, where the dLLM learns classical Tamil in its own letters.")


if __name__ == "__main__":
    cli.run(main)
