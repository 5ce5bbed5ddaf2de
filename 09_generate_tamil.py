"""Chapter 09: can it write verse, and how would we know?

    python 09_generate_tamil.py                     # your latest Tamil run; if you have none, the shipped model
    python 09_generate_tamil.py --kural --num 4     # couplets: a line of four words and a line of three
    python 09_generate_tamil.py --prompt "யாதும் ஊரே" --steps 128
    python 09_generate_tamil.py --infill "அகர முதல {10} ஆதி" --gif out.gif --html out.html

The flags, all but --fast and --hub, and the three ways to watch are those of chapter 06. A token is a letter of Tamil.
A canvas can hold more than a prompt: --kural gives the model the form of a real couplet. The spaces and the line break
are in place, each letter of a word is masked, and the model writes new letters. docs/tamil_couplets.md compares its
couplets with the Kural.

A text takes a few seconds on two cores. At the end a table compares the written texts with real poems that the model
has never seen.
"""

import contextlib
import random
import re
from collections import Counter
from dataclasses import dataclass
from importlib import import_module

import tamil_dataset
from plumbing import checkpoint, cli, measures, settings, tokenizers
from plumbing.settings import NonNegative, Switch
from plumbing.tamil import letters

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
    """Return the form of a real couplet as ids: its letters are masked, its spaces and line break are given.

    The couplet has an empty line on both sides, as in the training text.
    """
    mask_id = tokenizer.vocab_size
    ids = [tokenizer.encode(letter)[0] if letter.isspace() else mask_id for letter in tokenizer.split(couplet)]
    end = tokenizer.encode("\n\n")
    return end + ids + end


def couplet_rows(couplets, number, tokenizer, seed):
    """Return `number` canvases, lists of ids of one length, with the forms of random couplets of 4 + 3 words.

    The first form is drawn from all, and the others from those of the same length. UserError if there are none.
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
    """Inside this context, the model gives probability 0 to all tokens but Tamil letters, so no word is split."""
    banned = torch.tensor([not "\u0b80" <= letter[0] <= "\u0bff" for letter in tokenizer.vocabulary])

    def without(module, arguments, logits):  # (B, T, V)
        return logits.masked_fill(banned.to(logits.device), -torch.inf)

    hook = model.register_forward_hook(without)
    try:
        yield
    finally:
        hook.remove()


# 2. Measures


def well_formed(samples):
    """Return the share of the letters in a list of texts that are well-formed."""
    pieces = [letter for text in samples for letter in letters.split(text)]
    return 1 - sum(map(letters.ill_formed, pieces)) / max(1, len(pieces))


def whole_poems(samples):
    """Return the poems in a list of texts that have both ends: each has an empty line before and after it."""
    return [poem for text in samples for poem in text.split("\n\n")[1:-1] if poem.strip("\n")]


def measure(samples, vocabulary, text):
    """Return all measures of a list of texts, {name: number}.

    vocabulary: the set of the words of the training poems; text: these poems. The first and the last word of a text
    may be cut off, so they are not counted.
    """
    symbols, known = as_symbols(samples, text)
    whole_words = [re.sub(r"^\S+|\S+$", "", sample) for sample in samples]
    poems = whole_poems(samples)
    return {
        "letters": sum(map(len, symbols)),
        "well-formed": well_formed(samples),
        "words": measures.known_words(whole_words, vocabulary),
        "copied": measures.longest_copy(symbols, known),
        "poems": len(poems),
        "couplets": sum(word_counts(poem) == COUPLET for poem in poems),
    }


def as_symbols(samples, text):
    """Return `samples` and `text` with one character for each letter, so that lengths are counted in letters."""
    cut = [letters.split(sample) for sample in (*samples, text)]
    symbol = {letter: chr(i) for i, letter in enumerate(set().union(*cut))}
    *short, long = ("".join(symbol[letter] for letter in pieces) for pieces in cut)
    return short, long


def second_consonant(line):
    """Return the consonant of the second letter of a line, or the letter itself if it has none; "" if there is none."""
    return "".join(letter[0] for letter in letters.split(line.replace(" ", ""))[1:2])


def verse_measures(couplets, vocabulary, reader):
    """Return measures of the style of a list of couplets, {name: share from 0 to 1}.

    rhyme: couplets whose two lines have the same consonant in their second letters (எதுகை).
    um: words that end in -உம், which joins words like "and".
    train: words in the set `vocabulary`, those of the training poems.
    held: words known to a reader of all held-out poems. reader: a Counter {word: number of held-out poems with it}.
    For a held-out couplet, the reader has read all of these poems but this one.
    """
    words = [measures.words_of(couplet) for couplet in couplets]
    every = [word for of_couplet in words for word in of_couplet]
    own = [couplet in reader.poems for couplet in couplets]
    held = sum(reader[word] > mine for mine, of_couplet in zip(own, words) for word in of_couplet)
    pairs = [[second_consonant(line) for line in couplet.split("\n")] for couplet in couplets]
    return {
        "rhyme": sum(first == second != "" for first, second in pairs) / len(couplets),
        "um": sum(word.endswith("ும்") for word in every) / len(every),
        "train": sum(word in vocabulary for word in every) / len(every),
        "held": held / len(every),
    }


class Reader(Counter):
    """Counts in how many of the held-out poems {source: poems} each word occurs. poems: the set of these poems."""

    def __init__(self, held_out):
        self.poems = {poem for poems in held_out.values() for poem in poems}
        super().__init__(word for poem in self.poems for word in set(measures.words_of(poem)))


# 3. The report


def read_corpus(info, needed):
    """Return (Corpus, training poems, validation poems) of the model whose checkpoint has this `info`.

    If the poems are not on this machine, they are downloaded, but only if they are `needed`; otherwise UserError.
    """
    if not needed and not tamil_dataset.FILE.is_file():
        raise cli.UserError(f"there is no {tamil_dataset.FILE}: run python tamil_dataset.py")
    return tamil.load(str(info.get("corpus")).replace("-", ","))


def real_texts(val, length, number, kural):
    """Return at most `number` texts from the validation poems: couplets if `kural`, else texts of `length` letters."""
    if kural:
        couplets = val["kural"]
        number = min(number, len(couplets))
        return [f"\n\n{couplets[i * len(couplets) // number]}\n\n" for i in range(number)]
    pieces = letters.split(tamil.joined(val))
    number = min(number, len(pieces) // length)
    starts = [i * (len(pieces) - length) // max(1, number - 1) for i in range(number)]
    return ["".join(pieces[start : start + length]) for start in starts]


def report_couplets(samples, real, vocabulary, val):
    """Print the measures of style of the couplets `samples` and of as many held-out couplets, `real`."""
    print(f"\n{'':16} rhyme  words in -um  known from held-out poems")
    for name, couplets in (("written here", samples), ("held-out poems", real)):
        found = verse_measures(couplets, vocabulary, Reader(val))
        print(f"{name:16} {found['rhyme']:5.0%}  {found['um']:12.1%}  {found['held']:25.1%}")
    print("Rhyme: the second letters of both lines have the same consonant. Few couplets say little about a model:\n"
          "docs/tamil_couplets.md measures those of several seeds, with errors.")


def report(samples, data, kural, length):
    """Print the measures of `samples`, and those of as many real texts that the model has not seen.

    data: what `read_corpus` returns; kural: whether the samples are couplets; length: letters in each sample.
    """
    _, train, val = data
    text = tamil.joined(train)
    vocabulary = set(measures.words_of(text))
    real = real_texts(val, length, len(samples), kural)
    if kural:
        report_couplets([text.strip("\n") for text in samples], [text.strip("\n") for text in real], vocabulary, val)
    print(f"\n{'':16} letters  well-formed  known words  longest copy      4 + 3 form")
    for name, texts in (("written here", samples), ("held-out poems", real)):
        if texts:
            found = measure(texts, vocabulary, text)
            form = "given" if kural and texts is samples else f"{found['couplets']} of {found['poems']}"
            print(f"{name:16} {found['letters']:7,}  {found['well-formed']:11.1%}  {found['words']:11.1%}  "
                  f"{found['copied']:4} letters  {form:>14}")
    print("Known words occur in the training poems too. The longest copy is the longest sequence of letters that also\n"
          "occurs there.")
    if kural:
        print("The program gave the form of the couplets to the model, so it is not evidence of skill.")
    else:
        print("The last column counts the whole poems in the texts, and how many are couplets of 4 + 3 words.")
    if len(samples) <= 20:
        print("With --num 50 the numbers have a smaller error.")


# 4. The command


@dataclass(frozen=True)
class Command(generation.Flags):
    """The flags of this chapter: those of chapter 06 with another temperature, and one more."""

    temp: NonNegative = 0.8  # temperature; 0 always takes the likeliest letter, 1 leaves the model as it is
    kural: Switch = False  # write couplets of 4 and 3 words; the model fills in the letters


def choose_data(info, command):
    """Return (what `read_corpus` returns, or None; a remark for the user, or "").

    UserError if --kural needs the poems and they cannot be read.
    """
    if command.quiet and not command.kural:
        return None, ""
    try:
        data = read_corpus(info, command.kural)
    except cli.UserError as error:
        if command.kural:
            raise
        return None, f"no report: {error}"
    if data[0].sha256 != info.get("corpus_sha256"):
        return data, "The poems on this machine are not quite those that the model learned from."
    return data, ""


def main(argv=None):
    command = settings.parse(Command, argv)
    if command.kural and (command.prompt or command.infill is not None or command.len is not None):
        raise cli.UserError("--kural makes the canvas itself: leave out --prompt, --infill and --len")
    command = generation.prepare(command)
    folder = checkpoint.find(command.checkpoint, "tamil")
    model, tokenizer, info = generation.open_model(folder, command.device)
    if not isinstance(tokenizer, tokenizers.TamilTokenizer):
        raise cli.UserError(f"the tokens of {folder} are not Tamil letters: use python 06_generate.py")
    data, remark = choose_data(info, command)
    if command.kural:
        rows = couplet_rows(data[1].get("kural", []), command.num, tokenizer, command.seed)
    else:
        rows = generation.canvas_rows(command, tokenizer, LENGTH)
    with only_letters(model, tokenizer) if command.kural else contextlib.nullcontext():
        samples = generation.watch(model, tokenizer, rows, command, folder.resolve().name)
    if command.quiet:
        return
    if remark:
        print(f"\n{remark}")
    if data:
        report(samples, data, command.kural, len(rows[0]))
    print("\nNext: 10_dllm_vs_gpt.py compares the diffusion model with a GPT.")


if __name__ == "__main__":
    cli.run(main, out_of_memory="lower --num, or use --device cpu")
