"""Chapter 08: can the same model learn a classical language in its own script?

    python 08_train_tamil.py                        # no GPU: under 6 minutes on two cores
    python 08_train_tamil.py --corpus kural         # only the 1330 couplets of the Kural
    python 08_train_tamil.py --compare 300          # compares letters, code points and bytes: a minute or two

The model, the loss, the training loop and the flags are those of chapter 05. Two things are new: the text, which
tamil_dataset.py collects from the Kural and Sangam poetry, and the tokens.

A letter of Tamil (எழுத்து) may consist of a consonant and a sign: கோ is one letter, but two code points of Unicode and
six bytes of UTF-8. A diffusion model writes many positions in the same pass, and these positions cannot see each other.
If a token were a part of a letter, parts that do not fit together could meet. Here a token is a whole letter, so every
text that the model writes is well-formed.

You should see the loss fall, in nats per letter; the end of the run also gives it in bits per code point. At every
evaluation the program prints a sample: first the lines look right, then the words, then the poems.
"""

import dataclasses
import hashlib
import math
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module

import tamil_dataset
from plumbing import checkpoint, cli, corpora, devices, files, runs, settings, tokenizers
from plumbing.settings import Natural
from plumbing.tamil import letters
from plumbing.tamil import sources as works

import torch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")

LEAST = 50  # a symbol that is not Tamil must occur this often in a source to be in the vocabulary


# 1. Letters


def drop_rare(poems, least=LEAST):
    """Return the poems as the model will see them: normalised, without invalid letters and rare symbols.

    Every Tamil letter stays, even a rare one, because without it a word would become another word. Any other symbol
    (a digit, a Latin letter, a bracket) must occur `least` times, because the model could not learn a rarer one. Lines
    and poems that are empty after this are removed.
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
        text = "".join(letter for letter in poem if letter in kept)
        lines = [" ".join(line.split()) for line in text.split("\n")]
        if any(lines):
            cleaned.append("\n".join(filter(None, lines)))
    return cleaned


# 2. Poems


def read_poems(names):
    """Return {source: list of poems} for names such as "kural,sangam". UserError if a source is missing.

    If only Sangam poetry is missing, and the Kural is there, the function prints a message and returns the Kural.
    """
    names = sorted({name.strip() for name in names.split(",")})
    if "sangam" in names:  # "sangam" contains all of these
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


def plain(text):
    """Return the Tamil characters of `text`, without spaces and punctuation, which differ between editions."""
    return re.sub("[^\u0b80-\u0bff]", "", text)


def split(sources):
    """Split {source: poems} into training poems and validation poems, two dicts of the same form. Poems stay whole.

    A hash of its letters makes about one poem in ten a candidate for validation, so the candidates do not depend on the
    rest of the corpus. A candidate whose lines all occur in training poems too would not test anything; it becomes a
    training poem.
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
    """Return all poems of {source: poems} as one text. Every poem ends with an empty line, which the model learns."""
    return "".join(f"{poem}\n\n" for poems in sources.values() for poem in poems)


def load(names):
    """Return (Corpus, training poems, validation poems) for the sources in `names`. The poems are {source: list}."""
    found = read_poems(names)
    sources = {name: drop_rare(poems) for name, poems in found.items()}
    train, val = split(sources)
    name, parts = "-".join(sources), (joined(train), joined(val))
    if not all(parts):
        raise cli.UserError(f"{name} has too few poems for training and validation: choose more sources")
    counts = ", ".join(f"{name} {len(train[name]):,} + {len(val[name]):,}" for name in sources)
    text, given = "".join(parts), len(joined(found))
    source = (f"poems for training + for validation: {counts}; {given - len(text):,} of {given:,} code points were "
              f"dropped (symbols that are not Tamil and occur fewer than {LEAST} times in a source, invalid letters, "
              "superfluous spaces)")
    return corpora.Corpus(name, text, source, files.sha256_of(text)), train, val


# 3. Why letters


def ill_formed_share(text):
    """Return the share (0 to 1) of invalid letters in `text`: signs without a consonant, bytes that are not UTF-8."""
    pieces = letters.split(text)
    return sum(letters.ill_formed(piece) for piece in pieces) / len(pieces)


def alphabets(text):
    """Return three ways to cut `text` into tokens, each as (name, tokenizer, encode, decode).

    encode turns Tamil text into the string that the tokenizer reads. decode turns that string back into Tamil text.
    """

    def to_bytes(text):
        return text.encode().decode("latin-1")  # one character for each byte

    def from_bytes(text):
        return text.encode("latin-1").decode(errors="replace")

    return [
        ("letters", tokenizers.TamilTokenizer.from_text(text), str, str),
        ("code points", tokenizers.CharTokenizer.from_text(text), str, str),
        ("UTF-8 bytes", tokenizers.CharTokenizer.from_text(to_bytes(text)), to_bytes, from_bytes),
    ]


def small_model(ids, vocab_size, steps, window=128, batch_size=8):
    """Return a diffusion model trained for `steps` steps on ids (N,). Its size is the same for every tokenizer."""
    model = transformer.Transformer(transformer.TransformerConfig(vocab_size, window, n_layer=3, n_head=3, n_embd=96))
    config = training.DiffusionTrainConfig(warmup=20, momentum=0.9, t_max=0.8, dtype="float32", compile="off")
    trainer, objective = training.Trainer(model, config, "cpu"), training.masked_diffusion(config)
    for step in range(steps):
        batch = training.get_batch(ids, batch_size, window)
        trainer.update(objective.loss, [batch], training.learning_rate_factor(step, steps, config))
    return model.eval()


def compare(couplets, steps, passes=(16, 128), texts=16):
    """Print the number of tokens per couplet for three alphabets, and the share of invalid letters that models write.

    steps: training steps of each model. passes: the numbers of passes in which the models write. texts: how many texts
    each model writes.
    """
    text = "".join(f"{couplet}\n\n" for couplet in couplets)
    cli.heading(f"Why letters: {len(couplets)} couplets of the Kural, {steps} steps for each kind of token")
    print(f"  {'':12} {'symbols':>8} {'tokens per':>11} | {'share of invalid letters':24}\n"
          f"  {'token':12} {'':8} {'couplet':>11} | {'unigram':>10}" + "".join(f"{n:4} passes" for n in passes))
    for name, tokenizer, encode, decode in alphabets(text):
        began = time.perf_counter()
        torch.manual_seed(1)
        ids = torch.tensor(tokenizer.encode(encode(text)))
        model = small_model(ids, tokenizer.vocab_size, steps)
        unigram = decode(tokenizer.decode(ids[torch.randint(len(ids), (20_000,))]))
        shares = [ill_formed_share(unigram)]
        for n in passes:
            canvas = torch.full((texts, model.config.seq_len), model.config.mask_id)
            *_, last = diffusion.denoise(model, canvas, n)
            shares.append(ill_formed_share("\n".join(decode(tokenizer.decode(row)) for row in last.canvas)))
        cost = sum(len(tokenizer.encode(encode(couplet))) for couplet in couplets) / len(couplets)
        print(f"  {name:12} {tokenizer.vocab_size:8} {cost:11.1f} | {shares[0]:10.1%}"
              + "".join(f"{share:11.1%}" for share in shares[1:])
              + f"   {time.perf_counter() - began:4.0f} s", flush=True)
    print("The column unigram is about tokens that were drawn independently, by their frequency. The other columns\n"
          "are about what a small model writes in the given number of passes.")


# 4. Training


def objective(config, text):
    """Return the objective of chapter 05 that also logs the NELBO in bits per code point of `text`.

    NELBO: negative evidence lower bound, in nats per letter (chapter 04). text: the validation text. Bits per code
    point are comparable between models that use different tokens.
    """
    bits_per_nat = len(letters.split(text)) / len(text) / math.log(2)
    return dataclasses.replace(training.masked_diffusion(config),
                               units=lambda nelbo: {"bits_per_code_point": nelbo * bits_per_nat})


def by_source(folder, val, device):
    """Print the NELBO of the validation poems of each source, under the model in `folder`."""
    model, tokenizer, _ = checkpoint.load(folder, device)
    for name, poems in val.items():
        ids = torch.tensor(tokenizer.encode(joined({name: poems})), device=device)
        windows = training.windows_of(ids, model.config.seq_len)
        if len(windows):
            mean, error = diffusion.nelbo(model, windows, draws=max(4, -(-256 // len(windows))))
            print(f"  {name:10} {len(poems):5} poems: NELBO {mean:.4f} ± {error:.4f} nats per letter")


# 5. The command line


@dataclass(frozen=True)
class Command(runs.RunFlags):
    """The flags of this chapter."""

    corpus: str = "kural,sangam"  # sources to learn from, with commas between: kural, sangam, wikipedia
    # the settings file: a name in configs/, or the path of a YAML file
    config: str = field(default_factory=lambda: "tamil-gpu" if torch.cuda.is_available() else "tamil-laptop")
    compare: Natural = 0  # only compare letters, code points and bytes, by models trained for this many steps
    model: transformer.TransformerConfig = transformer.TransformerConfig()
    train: training.DiffusionTrainConfig = training.DiffusionTrainConfig()


def main(argv=None):
    command = settings.parse(Command, argv)
    if command.compare:
        if command != dataclasses.replace(settings.parse(Command, []), compare=command.compare):
            raise cli.UserError("--compare has no other flags: it always reads the Kural, with small models")
        compare(drop_rare(read_poems("kural")["kural"]), command.compare)
        return
    corpus, train, val = load(command.corpus)
    tokenizer = tokenizers.TamilTokenizer.from_text(corpus.text)
    model_config = dataclasses.replace(command.model, vocab_size=tokenizer.vocab_size)
    print(f"{corpus.source}\n{tokenizer.vocab_size} different letters and symbols")
    folder = training.start_run(command, "tamil", model_config, objective(command.train, joined(val)), tokenizer,
                                corpus, (joined(train), joined(val)))
    if bits := checkpoint.load(folder)[2].get("bits_per_code_point"):  # of the weights that were kept
        print(f"{bits:.4f} bits per code point. By source, on the validation poems:")
        by_source(folder, val, devices.pick_device(command.device))
    print("Next: python 09_generate_tamil.py writes verse with your model.")


if __name__ == "__main__":
    cli.run(main)
