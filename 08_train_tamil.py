"""Chapter 08: can the same model learn a classical language in its own script?

    python 08_train_tamil.py                        # no GPU: under 6 minutes on two cores
    python 08_train_tamil.py --corpus kural         # only the 1330 couplets of the Kural
    python 08_train_tamil.py --compare 300          # compares letters, code points and bytes: a minute or two

The model, the loss, the training loop and the flags are those of chapter 05. Two things are new: the text and the
tokens. The text consists of the Kural and Sangam poetry, which tamil_dataset.py collects.

A Tamil letter (எழுத்து) can consist of a consonant and a sign. For example, கோ is one letter, but two code points of
Unicode and six bytes of UTF-8. A diffusion model writes many tokens in the same pass, and these tokens cannot depend on
each other. If tokens were parts of letters, the model could write parts that do not fit together. Here a token is a
whole letter, so every text that the model writes is well-formed.

You should see the NELBO fall. The program prints it in nats per letter, and at the end also in bits per code point. At
every evaluation, the program prints a sample of the model's writing. First the lines look right, then the words, and
then the poems. If you see boxes instead of letters, the terminal has no Tamil font. A browser can show the texts that
chapter 09 writes (--html).
"""

import hashlib
import math
import re
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from importlib import import_module

import tamil_dataset
from plumbing import checkpoint, cli, devices, text
from plumbing.run import Run
from tamil import letters, works

import torch

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


# 1. Letters

LEAST = 50  # a symbol that is not Tamil stays in a source only if it occurs this often


def drop_rare(poems, least=LEAST):
    """Return the poems as the model will see them: normalised, and without invalid letters and rare symbols.

    Even a rare Tamil letter stays, because removing a letter would change a word. Other symbols, such as digits, Latin
    letters and brackets, stay only if they occur at least `least` times. The model could not learn rarer symbols. Lines
    and poems that become empty are removed.
    """
    cut = [letters.split(letters.normalise(poem)) for poem in poems]
    counts = Counter(letter for poem in cut for letter in poem)
    kept = set()
    for letter, count in counts.items():
        is_tamil = "\u0b80" <= letter[0] <= "\u0bff"
        if not letters.ill_formed(letter) and (is_tamil or letter.isspace() or count >= least):
            kept.add(letter)
    cleaned = []
    for poem in cut:
        rest = "".join(letter for letter in poem if letter in kept)
        lines = [" ".join(line.split()) for line in rest.split("\n")]
        if any(lines):
            cleaned.append("\n".join(filter(None, lines)))
    return cleaned


# 2. Poems


def read_poems(names):
    """Return {source: list of poems} for names such as "kural,sangam". Raises UserError if a source is missing.

    If Sangam poetry is missing, but the Kural is not, the function prints a message and returns only the other sources.
    """
    names = sorted({name.strip() for name in names.split(",")})
    if "sangam" in names:  # "sangam" contains all works of Sangam poetry
        names = [name for name in names if name not in works.SANGAM]
    sources = {}
    for name in names:
        try:
            sources[name] = tamil_dataset.poems(name)
        except cli.UserError as error:
            if name != "sangam" or not sources.get("kural"):
                raise
            print(f"{error}; this run continues without it", file=sys.stderr)
    return sources


def plain(poem):
    """Return the Tamil characters of a text. Spaces and punctuation are left out, because editions differ in them."""
    return re.sub("[^\u0b80-\u0bff]", "", poem)


def split(sources):
    """Split {source: poems} into training poems and validation poems: two dictionaries {source: poems}.

    Whether a poem is a candidate for validation depends only on a hash of its letters, and not on other poems. About
    one poem in ten is a candidate. A candidate whose lines all occur in training poems would test nothing, so it
    becomes a training poem.
    """
    candidates, training_lines = set(), set()
    for poems in sources.values():
        for poem in poems:
            if int(hashlib.sha256(plain(poem).encode()).hexdigest(), 16) % 10 == 0:
                candidates.add(poem)
            else:
                training_lines.update(plain(line) for line in poem.split("\n"))
    train, val = {}, {}
    for name, poems in sources.items():
        train[name], val[name] = [], []
        for poem in poems:
            has_new_line = any(plain(line) not in training_lines for line in poem.split("\n"))
            side = val if poem in candidates and has_new_line else train
            side[name].append(poem)
    return train, val


def joined(sources):
    """Return all poems of {source: poems} as one text, with an empty line after each poem."""
    return "".join(f"{poem}\n\n" for poems in sources.values() for poem in poems)


def load(names):
    """Return (Corpus, training poems, validation poems) for the sources in `names`. Poems are {source: list}."""
    sources = {name: drop_rare(poems) for name, poems in read_poems(names).items()}
    train, val = split(sources)
    name = "-".join(sources)
    if not joined(train) or not joined(val):
        raise cli.UserError(f"{name} has too few poems for training and validation: choose more sources")
    return text.Corpus(name, joined(train) + joined(val)), train, val


# 3. Why letters


class Utf8(text.Characters):
    """A tokenizer with one token per byte of UTF-8. Python's encoding latin-1 turns each byte into one character."""

    @classmethod
    def of(cls, text):
        return super().of(text.encode().decode("latin-1"))

    def split(self, text):
        return text.encode().decode("latin-1")

    def decode(self, tokens):
        return super().decode(tokens).encode("latin-1", "replace").decode(errors="replace")


def alphabets(poems):
    """Return three tokenizers for a text: {kind of token: tokenizer}."""
    return {"letters": letters.TamilLetters.of(poems), "code points": text.Characters.of(poems),
            "UTF-8 bytes": Utf8.of(poems)}


def ill_formed_share(poems):
    """Return the share of invalid letters in a text, from 0 to 1.

    An invalid letter is a sign without its consonant, or a byte that belongs to no UTF-8 character.
    """
    pieces = letters.split(poems)
    return sum(letters.ill_formed(piece) for piece in pieces) / len(pieces)


def small_model(tokenizer, poems, steps):
    """Train a small diffusion model on a text for `steps` steps. Return (model, task)."""
    config = training.DiffusionTrainConfig(steps=steps, batch_size=8, warmup=20, momentum=0.9, evaluations=0,
                                           dtype="float32", compile="off")  # fmt: skip
    shape = transformer.TransformerConfig(128, n_layer=3, n_head=3, n_embd=96, vocab_size=tokenizer.vocab_size)
    device = torch.device("cpu")
    task = training.MaskedDiffusion(tokenizer, (poems, poems), shape.seq_len, device, t_max=0.8)
    torch.manual_seed(1)
    model = transformer.Transformer(shape)
    with Run(None, config) as run:
        training.train(model, task, config, run, device)
    return model.eval(), task


def compare(couplets, steps, passes=(16, 128), texts=16):
    """Train a small model for each kind of token, and print how these models differ.

    The table shows the number of tokens per couplet, and the share of invalid letters in the models' texts. Each model
    trains for `steps` steps. Then the model writes texts: for each number in `passes`, it writes `texts` of them in
    this number of passes.
    """
    poems = joined({"kural": couplets})
    tensors.heading(f"Why letters: {len(couplets)} couplets of the Kural, {steps} steps for each kind of token")
    print(f"  {'':12} {'symbols':>8} {'tokens per':>11} | {'share of invalid letters':24}\n"
          f"  {'token':12} {'':8} {'couplet':>11} | {'unigram':>10}" + "".join(f"{n:4} passes" for n in passes))
    for name, tokenizer in alphabets(poems).items():
        model, task = small_model(tokenizer, poems, steps)
        unigram = task.train[torch.randint(len(task.train), (20_000,))]
        shares = [ill_formed_share(tokenizer.decode(unigram))]
        for n in passes:
            canvas = torch.full((texts, model.config.seq_len), model.config.mask_id)
            *_, last = diffusion.denoise(model, canvas, n)
            shares.append(ill_formed_share("\n".join(tokenizer.decode(row) for row in last.canvas)))
        cost = sum(len(tokenizer.encode(couplet)) for couplet in couplets) / len(couplets)
        print(f"  {name:12} {tokenizer.vocab_size:8} {cost:11.1f} | {shares[0]:10.1%}"
              + "".join(f"{share:11.1%}" for share in shares[1:]), flush=True)
    print("The column unigram is about tokens that were drawn independently, by their frequency. The other columns\n"
          "are about what a small model writes in the given number of passes.")


# 4. Training


class Poems(training.MaskedDiffusion):
    """The task of chapter 05 for poems. `train` and `val` are dictionaries {source: list of poems}."""

    def __init__(self, tokenizer, train, val, window, device, t_max=1.0):
        unseen = joined(val)
        super().__init__(tokenizer, (joined(train), unseen), window, device, t_max)
        self.letters_per_code_point = len(tokenizer.encode(unseen)) / len(unseen)

    def bits_per_code_point(self, nelbo):
        """Convert a NELBO of the validation poems from nats per letter to bits per code point.

        A larger token is harder to guess, so models with different tokens cannot be compared in nats per token. Bits
        per code point can be compared, because the number of code points in a text does not depend on the tokens.
        """
        return nelbo / math.log(2) * self.letters_per_code_point


def show_sources(model, tokenizer, val, device):
    """Print, for each source, the NELBO of its validation poems."""
    size = model.config.seq_len
    for name, poems in val.items():
        tokens = torch.tensor(tokenizer.encode(joined({name: poems})), device=device)
        windows = tokens[: len(tokens) // size * size].view(-1, size)
        if len(windows):
            mean, error = diffusion.nelbo(model, windows, draws=max(4, -(-256 // len(windows))))
            print(f"  {name:10} {len(poems):5} poems: NELBO {mean:.4f} ± {error:.4f} nats per letter")


# 5. The command line


@dataclass(frozen=True)
class Command(training.Settings):
    """The flags of this chapter."""

    corpus: str = "kural,sangam"  # sources to learn from, separated by commas: kural, sangam, wikipedia
    # a settings file: a name in configs/tamil/, or the path of a YAML file
    config: str = field(default_factory=lambda: "gpu" if torch.cuda.is_available() else "laptop")
    compare: int = 0  # above 0: only compare letters, code points and bytes, with models trained for this many steps
    train: training.DiffusionTrainConfig = training.DiffusionTrainConfig()

    def __post_init__(self):
        if self.compare < 0:
            raise ValueError("compare must be at least 0")


def main(argv=None):
    settings = cli.parse(Command, argv, configs="tamil", section="dllm")
    if settings.compare:
        compare(drop_rare(read_poems("kural")["kural"]), settings.compare)
        return
    corpus, train, val = load(settings.corpus)
    tokenizer = letters.TamilLetters.of(corpus.text)
    counts = ", ".join(f"{name} {len(train[name]):,} + {len(val[name]):,}" for name in train)
    print(f"poems for training + for validation: {counts}; {tokenizer.vocab_size} different letters and symbols")
    device = devices.pick_device(settings.device)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=tokenizer.vocab_size)
    task = Poems(tokenizer, train, val, config.seq_len, device, settings.train.t_max)
    about = {"corpus": corpus.name, "corpus_sha256": corpus.sha256}
    folder = training.start(settings, "tamil", task, config, about, device)
    if folder is None:
        return
    model, tokenizer, info = checkpoint.load(folder, device)
    print(f"{task.bits_per_code_point(info['NELBO']):.4f} bits per code point. By source, on the validation poems:")
    show_sources(model, tokenizer, val, device)
    print("Next: python 09_generate_tamil.py writes verse with your model.")


if __name__ == "__main__":
    cli.run(main)
