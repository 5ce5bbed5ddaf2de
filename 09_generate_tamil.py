"""Chapter 09: can it write verse, and how would we know?

    python 09_generate_tamil.py                     # your latest Tamil run; if you have none, the shipped model
    python 09_generate_tamil.py --kural --num 4     # couplets: a line of four words and a line of three
    python 09_generate_tamil.py --prompt "யாதும் ஊரே" --steps 128
    python 09_generate_tamil.py --infill "அகர முதல {10} ஆதி" --gif out.gif --html out.html

The flags are those of chapter 06, without --fast, --hub and --runtime. A token is a Tamil letter. With --kural, the
canvas has the form of a real couplet: the spaces and the line break are given, and all letters are masked. The model
fills in new letters. docs/tamil_couplets.md compares such couplets with the Kural.

A text takes a few seconds on two cores. At the end, a table compares the written texts with real poems that the model
has never seen.
"""

import contextlib
import random
import re
from collections import Counter
from dataclasses import dataclass
from importlib import import_module

import tamil_dataset
from plumbing import checkpoint, cli, measures
from tamil import letters

import torch

generation = import_module("06_generate")
tamil = import_module("08_train_tamil")

COUPLET = [4, 3]  # words per line: the form of nearly all couplets of the Kural
LENGTH = 200  # letters of a text without --len: about one Sangam poem, or five couplets


# 1. The canvas of a couplet


def word_counts(poem):
    """Return the number of words in each line of a poem."""
    return [len(line.split()) for line in poem.split("\n")]


def blank_couplet(couplet, tokenizer):
    """Return the tokens of a couplet as a list in which all letters are masked. The spaces and the line break stay.

    As in the training text, there is an empty line before and after the couplet.
    """
    end = tokenizer.encode("\n\n")
    tokens = tokenizer.encode(couplet)
    spaces = [token for token in set(tokens) if tokenizer.shown[token].isspace()]
    return end + [token if token in spaces else tokenizer.mask_id for token in tokens] + end


def couplet_rows(couplets, number, tokenizer, seed):
    """Return `number` canvases of equal length, each with the form of a random couplet of 4 + 3 words.

    Each canvas is a list of tokens. The first couplet is drawn from all couplets, and the others from the couplets of
    the same length. Raises UserError if there are no couplets.
    """
    canvases = [blank_couplet(couplet, tokenizer) for couplet in couplets if word_counts(couplet) == COUPLET]
    if not canvases:
        raise cli.UserError("this model has learned no couplets, whose form --kural needs: leave it out")
    draw = random.Random(seed)
    first = draw.choice(canvases)
    same_length = [canvas for canvas in canvases if len(canvas) == len(first)]
    return [first, *draw.choices(same_length, k=number - 1)]


@contextlib.contextmanager
def only_letters(model, tokenizer):
    """In a `with` block, the model gives probability 0 to every token that is not a Tamil letter.

    So the model cannot write a space inside a word.
    """
    banned = torch.tensor([not "\u0b80" <= letter[0] <= "\u0bff" for letter in tokenizer.vocabulary])

    def without(module, arguments, logits):  # (B, T, V)
        return logits.masked_fill(banned.to(logits.device), -torch.inf)

    hook = model.register_forward_hook(without)
    try:
        yield
    finally:
        hook.remove()


# 2. Measures


def whole_poems(samples):
    """Return the complete poems in a list of texts. A complete poem has an empty line before it and after it."""
    return [poem for text in samples for poem in text.split("\n\n")[1:-1] if poem.strip("\n")]


def measure(samples, vocabulary, text):
    """Measure the texts in `samples`, and return {name of the measure: number}.

    `vocabulary` is the set of all words in the training poems. `text` is the text of all training poems. The first and
    last word of a sample do not count, because they can be incomplete.
    """
    whole_words = [re.sub(r"^\S+|\S+$", "", sample) for sample in samples]
    poems = whole_poems(samples)
    return {
        "train": measures.known_words(whole_words, vocabulary),
        "copied": measures.longest_copy(*as_symbols(samples, text)),
        "poems": len(poems),
        "couplets": sum(word_counts(poem) == COUPLET for poem in poems),
    }


def as_symbols(samples, text):
    """Replace each Tamil letter of `samples` and `text` by one character, so that lengths are counted in letters."""
    cut = [letters.split(sample) for sample in (*samples, text)]
    symbol = {letter: chr(i) for i, letter in enumerate(set().union(*cut))}
    *short, long = ("".join(symbol[letter] for letter in pieces) for pieces in cut)
    return short, long


def second_consonant(line):
    """Return the consonant of the second letter of a line.

    If the second letter has no consonant, return the letter itself. If there is no second letter, return "".
    """
    return "".join(letter[0] for letter in letters.split(line.replace(" ", ""))[1:2])


def verse_measures(couplets, vocabulary, reader):
    """Return measures of the style of couplets: {name: share from 0 to 1}.

    "rhyme" is the share of couplets in which the second letters of the two lines have the same consonant (எதுகை).
    "um" is the share of words that end in -உம். This ending joins words, like "and".
    "train" is the share of words that occur in `vocabulary`, the set of words in the training poems.
    "held" is the share of words that occur in held-out (validation) poems. If a couplet is held out itself, only the
    other held-out poems count. `reader` is the Reader of the held-out poems.
    """
    words, known = [], 0
    for couplet in couplets:
        own = couplet in reader.poems
        words += measures.words_of(couplet)
        known += sum(reader[word] > own for word in measures.words_of(couplet))
    pairs = [[second_consonant(line) for line in couplet.split("\n")] for couplet in couplets]
    return {
        "rhyme": sum(first == second != "" for first, second in pairs) / len(couplets),
        "um": sum(word.endswith("ும்") for word in words) / len(words),
        "train": sum(word in vocabulary for word in words) / len(words),
        "held": known / len(words),
    }


class Reader(Counter):
    """A Counter {word: number of held-out poems that contain the word}. `held_out` is {source: poems}."""

    def __init__(self, held_out):
        self.poems = {poem for poems in held_out.values() for poem in poems}
        super().__init__(word for poem in self.poems for word in set(measures.words_of(poem)))


# 3. The report


def real_texts(val, length, number, kural):
    """Return at most `number` texts from the validation poems.

    If `kural` is true, the texts are couplets. Otherwise each text has `length` letters.
    """
    if kural:
        couplets = val["kural"]
        number = min(number, len(couplets))
        return [f"\n\n{couplets[i * len(couplets) // number]}\n\n" for i in range(number)]
    pieces = letters.split(tamil.joined(val))
    number = min(number, len(pieces) // length)
    starts = [i * (len(pieces) - length) // max(1, number - 1) for i in range(number)]
    return ["".join(pieces[start : start + length]) for start in starts]


def report(samples, train, val, kural, length):
    """Print the measures of `samples` and, for comparison, the measures of validation poems.

    `kural` says whether the samples are couplets (written with --kural). `length` is the number of letters in a sample.
    """
    text = tamil.joined(train)
    vocabulary = set(measures.words_of(text))
    rows = {"written here": samples, "unseen poems": real_texts(val, length, len(samples), kural)}
    columns = "rhyme  words in -um  known words  known to a reader" if kural else "known words  couplets"
    print(f"\n{'':14}{columns}  longest copy")
    for name, texts in rows.items():
        if not texts:
            continue
        found = measure(texts, vocabulary, text)
        if kural:
            found |= verse_measures([text.strip("\n") for text in texts], vocabulary, Reader(val))
            numbers = f"{found['rhyme']:5.0%}{found['um']:14.1%}{found['train']:13.1%}{found['held']:19.1%}"
        else:
            numbers = f"{found['train']:11.1%}{found['couplets']:5} of {found['poems']:2}"
        print(f"{name:14}{numbers}{found['copied']:6} letters")
    if kural:
        print("Rhyme (எதுகை): the second letters of both lines have the same consonant. Words in -um (-உம்): this\n"
              'ending means "and", and a model that chains such words writes no sentence. Known to a reader: words\n'
              "that occur in other unseen poems. The form of 4 + 3 words was given, so it is no evidence of skill.")
    else:
        print("Couplets: how many of the whole poems in the texts have lines of 4 + 3 words.")
    print("Known words also occur in the training poems. The longest copy is the longest run of letters found there.\n"
          "Good verse has numbers near those of unseen poems, not above them. More texts (--num) say more.")


# 4. The command line


@dataclass(frozen=True)
class Command(generation.Writing):
    """The flags of this chapter. The default is 64 passes at temperature 0.8."""

    kural: bool = False  # write couplets of 4 and 3 words; the model fills in the letters

    def __post_init__(self):
        super().__post_init__()
        if self.kural and (self.prompt or self.infill or self.len is not None):
            raise ValueError("kural makes the canvas itself: leave out prompt, infill and len")


def read_corpus(info, needed):
    """Return (Corpus, training poems, validation poems) for the model whose checkpoint contains `info`.

    If the poems are not on this machine and `needed` is true, they are downloaded. If `needed` is false, UserError is
    raised instead.
    """
    if not needed and not tamil_dataset.FILE.is_file():
        raise cli.UserError(f"there is no {tamil_dataset.FILE}: run python tamil_dataset.py")
    return tamil.load(str(info.get("corpus")).replace("-", ","))


def main(argv=None):
    settings = cli.parse(Command, argv)
    folder, model, tokenizer = generation.open_model(settings, "tamil")
    if tokenizer.kind != "tamil":
        raise cli.UserError(f"the tokens of {folder} are not Tamil letters: use python 06_generate.py")
    info = checkpoint.read_config(folder)["info"]
    corpus, remark = None, ""
    if settings.kural or not settings.quiet:
        try:
            corpus, train, val = read_corpus(info, settings.kural)
        except cli.UserError as error:
            if settings.kural:
                raise
            remark = f"no report: {error}"
    if corpus and corpus.sha256 != info.get("corpus_sha256"):
        remark = "The poems on this machine are not quite those that the model learned from."

    seed = generation.pick_seed(settings)
    if settings.kural:
        canvas = torch.tensor(couplet_rows(train.get("kural", []), settings.num, tokenizer, seed))
    else:
        canvas = generation.make_canvas(settings, tokenizer, LENGTH)
    canvas = canvas.to(model.head.weight.device)
    temperature = 0.8 if settings.temp is None else settings.temp
    title = f"seed {seed} · {cli.printable(folder.name)} · temperature {temperature:g}"
    with only_letters(model, tokenizer) if settings.kural else contextlib.nullcontext():
        states = generation.generate(model, canvas, settings.steps or 64, temperature, settings.topk)
        last = generation.watch(states, canvas, tokenizer, settings, title)
    if settings.quiet:
        return
    if remark:
        print(f"\n{remark}")
    if corpus:
        report([tokenizer.decode(row) for row in last.canvas], train, val, settings.kural, canvas.shape[1])
    print("\nNext: 10_dllm_vs_gpt.py compares the diffusion model with a GPT.")


if __name__ == "__main__":
    cli.run(main, out_of_memory="lower --num, or use --device cpu")
