"""Chapter 08: can the same model learn a classical language in its own script?

    python 08_train_tamil.py                        # no GPU: under 6 minutes on two cores
    python 08_train_tamil.py --corpus kural         # 1330 couplets and nothing else
    python 08_train_tamil.py --compare 300          # why letters: against code points and bytes, a minute or two

Everything is chapter 05's: model, loss, loop, flags. New are the text, the Thirukkural and Sangam poetry of
tamil_dataset.py, and what a token is. A letter of Tamil (எழுத்து) is a vowel, or a consonant with the sign of its
vowel: கோ is one letter, two code points, six bytes. A diffusion model commits many positions at once, and half a letter
may meet the wrong other half; if a token is a whole letter, all that it can write is well-formed. You will see the loss
fall, in nats per letter and in bits per code point, and a sample at every evaluation in which lines, then words, then
poems take shape.
"""

import dataclasses
import hashlib
import math
import re
import sys
import time
from collections import Counter
from dataclasses import dataclass
from importlib import import_module

import torch

import tamil_dataset
from plumbing import checkpoint, cli, corpora, devices, files, runs, settings, tokenizers
from plumbing.settings import setting
from plumbing.tamil import letters

tensors = import_module("01_tensors")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")

LEAST = 50  # occurrences that a symbol of another script needs to be in the vocabulary


# 1. Letters


def drop_rare(poems, least=LEAST):
    """The poems as the model will see them: normalised, without ill-formed letters and rare symbols.

    A Tamil letter stays however rare it is: without it a word would be another. Anything else (a digit, a Latin
    letter, a bracket) must occur `least` times, or there is too little to learn it from. Where a line, or a poem,
    has nothing left, it goes too.
    """
    counts = Counter(letter for poem in poems for letter in letters.split(letters.normalise(poem)))
    kept = {letter for letter, count in counts.items() if not letters.ill_formed(letter)
            and (count >= least or letter.isspace() or "\u0b80" <= letter[0] <= "\u0bff")}
    poems = ["".join(letter for letter in letters.split(letters.normalise(poem)) if letter in kept)
             for poem in poems]
    lines = [[" ".join(line.split()) for line in poem.split("\n")] for poem in poems]
    return ["\n".join(filter(None, poem)) for poem in lines if any(poem)]


# 2. Poems


def read_poems(names):
    """The poems of the sources that `names` lists ("kural,sangam"): {"kural": [poem, ...], ...}.

    Where no page of Sangam poetry can be had, a list that has the Kural too goes on without.
    """
    names = sorted({name.strip() for name in names.split(",")})
    if "sangam" in names:  # which holds all of these
        names = [name for name in names if name not in tamil_dataset.SANGAM]
    sources = {}
    for name in names:
        try:
            sources[name] = tamil_dataset.poems(name)
        except cli.UserError as error:
            if name != "sangam" or not sources.get("kural"):
                raise
            print(f"{error}; going on without it", file=sys.stderr)
    return sources


def plain(text):
    """The Tamil of `text` without spaces and punctuation, in which editions differ."""
    return re.sub("[^\u0b80-\u0bff]", "", text)


def split(sources):
    """Whole poems to train on and to validate with: two dicts like `sources`.

    A poem's own hash decides, one in ten, so that it is on the same side whatever else the corpus holds. If all
    its lines stand in training poems too, it is no test, and goes there.
    """
    held = {name: [poem for poem in poems if int(hashlib.sha256(plain(poem).encode()).hexdigest(), 16) % 10 == 0]
            for name, poems in sources.items()}
    tested = {poem for poems in held.values() for poem in poems}
    seen = {plain(line) for poems in sources.values() for poem in poems if poem not in tested
            for line in poem.split("\n")}
    unseen = {name: [poem for poem in poems if any(plain(line) not in seen for line in poem.split("\n"))]
              for name, poems in held.items()}
    tested = {poem for poems in unseen.values() for poem in poems}
    return {name: [poem for poem in poems if poem not in tested] for name, poems in sources.items()}, unseen


def joined(sources):
    """All poems as one text. Two new lines end a poem: the model is to learn where poems begin and end."""
    return "".join(f"{poem}\n\n" for poems in sources.values() for poem in poems)


def load(names):
    """What --corpus names: a Corpus of all its text, the poems to train on, and those to validate with."""
    found = read_poems(names)
    sources = {name: drop_rare(poems) for name, poems in found.items()}
    train, val = split(sources)
    name, parts = "-".join(sources), (joined(train), joined(val))
    if not all(parts):
        raise cli.UserError(f"{name} has too few poems to train and to validate with: choose more sources")
    counts = ", ".join(f"{name} {len(train[name]):,} + {len(val[name]):,}" for name in sources)
    text, given = "".join(parts), len(joined(found))
    source = (f"poems to train on + to validate with: {counts}; {given - len(text):,} of {given:,} code points dropped "
              f"(other symbols that a source has fewer than {LEAST} times, ill-formed letters, spare spaces)")
    return corpora.Corpus(name, text, source, files.sha256_of(text)), train, val


# 3. Why letters


def ill_formed_share(text):
    """Share of the letters of `text` that are none: signs without a consonant, bytes that are no UTF-8."""
    pieces = letters.split(text)
    return sum(letters.ill_formed(piece) or piece == "\ufffd" for piece in pieces) / len(pieces)


def alphabets(text):
    """(name, tokenizer, text → what it encodes, what it decodes → text) of three ways to cut `text` into tokens."""

    def to_bytes(text):
        return text.encode().decode("latin-1")  # one character a byte

    def from_bytes(text):
        return text.encode("latin-1").decode(errors="replace")

    return [
        ("letters", tokenizers.TamilTokenizer.from_text(text), str, str),
        ("code points", tokenizers.CharTokenizer.from_text(text), str, str),
        ("UTF-8 bytes", tokenizers.CharTokenizer.from_text(to_bytes(text)), to_bytes, from_bytes),
    ]


def small_model(ids, vocab_size, steps, window=128, batch_size=8):
    """A diffusion model trained for so many steps on ids (N,): the same size and work whatever the tokens are."""
    model = transformer.Transformer(transformer.TransformerConfig(vocab_size, window, n_layer=3, n_head=3, n_embd=96))
    config = training.TrainConfig(warmup=20, momentum=0.9)
    optimizers = training.make_optimizers(model, config, torch.float32)
    for step in range(steps):
        for optimizer, lr in zip(optimizers, (config.lr_matrix, config.lr_other)):
            optimizer.param_groups[0]["lr"] = lr * training.learning_rate(step, steps, config)
        diffusion.diffusion_loss(model, training.get_batch(ids, batch_size, window)).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()


def compare(couplets, steps, passes=(16, 128), texts=16):
    """Print what letters, code points and bytes cost, and how much of what models of each write is no Tamil."""
    text = "".join(f"{couplet}\n\n" for couplet in couplets)
    cli.heading(f"Why letters: {len(couplets)} couplets of the Kural, {steps} steps for each kind of token")
    print(f"  {'':12} {'symbols':>8} {'tokens':>9} | {'ill-formed letters':18}\n"
          f"  {'token':12} {'':8} {'a couplet':>9} | {'unigram':>10}" + "".join(f"{n:4} passes" for n in passes))
    for name, tokenizer, encode, decode in alphabets(text):
        began = time.perf_counter()
        torch.manual_seed(1)
        ids = torch.tensor(tokenizer.encode(encode(text)))
        model, shares = small_model(ids, tokenizer.vocab_size, steps), []
        blind = decode(tokenizer.decode(ids[torch.randint(len(ids), (20_000,))]))
        for n in passes:
            canvas = torch.full((texts, model.config.seq_len), model.config.mask_id)
            *_, last = diffusion.denoise(model, canvas, n)
            shares.append(ill_formed_share("\n".join(decode(tokenizer.decode(row)) for row in last.canvas)))
        cost = sum(len(tokenizer.encode(encode(couplet))) for couplet in couplets) / len(couplets)
        print(f"  {name:12} {tokenizer.vocab_size:8} {cost:9.1f} | {ill_formed_share(blind):10.1%}"
              + "".join(f"{share:11.1%}" for share in shares) + f"   {time.perf_counter() - began:4.0f} s", flush=True)
    print("Unigram: tokens drawn by their frequency alone; beside it what a small model writes, in so many passes.")


# 4. Training


def objective(config, text):
    """Chapter 05's, with the NELBO of a letter also logged in bits per code point of `text`, the validation text."""
    a_code_point = len(letters.split(text)) / len(text) / math.log(2)
    return dataclasses.replace(training.masked_diffusion(config),
                               units=lambda nelbo: {"bits_per_code_point": nelbo * a_code_point})


@dataclass(frozen=True)
class Lesson:
    """Something to see instead of training."""

    compare: int = setting(0, "compare letters, code points and bytes by models of so many steps", 0)

    def __post_init__(self):
        settings.check(self)


def by_source(folder, val, device):
    """The NELBO of each source's validation poems under the model in `folder`, printed."""
    model, tokenizer, _ = checkpoint.load(folder, device)
    for name, poems in val.items():
        ids = torch.tensor(tokenizer.encode(joined({name: poems})), device=device)
        windows = training.windows_of(ids, model.config.seq_len)
        if len(windows):
            mean, error = diffusion.nelbo(model, windows, draws=max(4, -(-256 // len(windows))))
            print(f"  {name:10} {len(poems):5} poems: NELBO {mean:.4f} ± {error:.4f} nats per letter")


def main(argv=None):
    default = "tamil-gpu" if torch.cuda.is_available() else "tamil-laptop"
    arguments, shape, learning, lesson = settings.parse(
        argv, __doc__, (transformer.TransformerConfig, training.TrainConfig, Lesson), default,
        fixed=("vocab_size", "causal"), text=("kural,sangam", "of kural, sangam, wikipedia, with commas between"))
    lesson = settings.build(Lesson, **lesson)
    if lesson.compare:
        compare(drop_rare(read_poems("kural")["kural"]), lesson.compare)
        return
    config = settings.build(training.TrainConfig, **learning)
    text, train, val = load(arguments.corpus)
    tokenizer = tokenizers.TamilTokenizer.from_text(text.text)
    model_config = settings.build(transformer.TransformerConfig, vocab_size=tokenizer.vocab_size, **shape)
    print(f"{text.source}\n{tokenizer.vocab_size} different letters and signs")
    folder = training.start_run(arguments, "tamil", model_config, config, objective(config, joined(val)), tokenizer,
                                text, (joined(train), joined(val)))
    if records := runs.read_log(folder / "log.jsonl"):
        print(f"in bits per code point: {records[-1]['bits_per_code_point']:.4f}. By source, held-out poems:")
        by_source(folder, val, devices.pick_device(arguments.device))
    print("Next: python 09_generate_tamil.py writes verse with your model.")


if __name__ == "__main__":
    cli.run(main)
