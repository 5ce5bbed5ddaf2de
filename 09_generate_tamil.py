"""Chapter 09: can it write verse, and how would we know?

    python 09_generate_tamil.py                     # your latest Tamil run, else the shipped model
    python 09_generate_tamil.py --kural --num 4     # couplets: two lines, four words and three
    python 09_generate_tamil.py --prompt "யாதும் ஊரே" --steps 128
    python 09_generate_tamil.py --infill "அகர முதல {10} ஆதி" --gif out.gif --html out.html

The flags and the three ways to watch are chapter 06's, in letters of Tamil where that has characters. A canvas can hold
more than a prompt: --kural gives the model the form of a couplet, with spaces and the line break in place, as many
letters to a word as in some real couplet, and leaves it the letters. A few seconds on two cores; at the end a table
sets what was written beside real poems that the model has never seen.
"""

import contextlib
import random
import re
from importlib import import_module

import torch

import tamil_dataset
from plumbing import checkpoint, cli, measures, tokenizers
from plumbing.tamil import letters

generation = import_module("06_generate")
tamil = import_module("08_train_tamil")

COUPLET = [4, 3]  # words a line: the form of all but a few couplets of the Kural
LENGTH = 200  # letters of a text without --len: about one Sangam poem, or five couplets


# 1. The canvas of a couplet


def word_counts(poem):
    """How many words each line of a poem has."""
    return [len(line.split()) for line in poem.split("\n")]


def blank_couplet(couplet, tokenizer):
    """Ids of a real couplet's form: its letters masked, its spaces and line break given, and the poem's ends."""
    ids = [tokenizer.vocab_size if not letter.isspace() else tokenizer.encode(letter)[0]
           for letter in tokenizer.split(couplet)]
    end = tokenizer.encode("\n\n")
    return end + ids + end


def couplet_rows(couplets, number, tokenizer, seed):
    """Canvases after `number` couplets of 4 + 3 words, drawn at random among those as long as the first one drawn."""
    canvases = [blank_couplet(couplet, tokenizer) for couplet in couplets if word_counts(couplet) == COUPLET]
    if not canvases:
        raise cli.UserError("the corpus of this model has no couplets to take a form from: leave out --kural")
    draw = random.Random(seed)
    first = draw.choice(canvases)
    return [first, *draw.choices([canvas for canvas in canvases if len(canvas) == len(first)], k=number - 1)]


@contextlib.contextmanager
def only_letters(model, tokenizer):
    """Within it, the model gives no probability to spaces, line breaks and signs: what it writes is one word."""
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
    """Share of the letters of `samples` that are well-formed."""
    pieces = [letter for text in samples for letter in letters.split(text)]
    return 1 - sum(map(letters.ill_formed, pieces)) / max(1, len(pieces))


def whole_poems(samples):
    """The poems of `samples` of which both ends are there: each stands between empty lines."""
    return [poem for text in samples for poem in text.split("\n\n")[1:-1] if poem.strip("\n")]


def measure(samples, vocabulary, text):
    """Every measure of a list of texts; vocabulary and text: the words and the text of the training corpus."""
    symbols, known = as_symbols(samples, text)
    whole = [re.sub(r"^\S+|\S+$", "", sample) for sample in samples]  # without a word that an end of the text cuts
    poems = whole_poems(samples)
    return {"letters": sum(map(len, symbols)), "well-formed": well_formed(samples),
            "words": measures.known_words(whole, vocabulary), "copied": measures.longest_copy(symbols, known),
            "poems": len(poems), "couplets": sum(word_counts(poem) == COUPLET for poem in poems)}


def as_symbols(samples, text):
    """`samples` and `text` with one character for each letter, so that runs are counted, and cut, in letters."""
    cut = [letters.split(sample) for sample in (*samples, text)]
    symbol = {letter: chr(i) for i, letter in enumerate(set().union(*cut))}
    *short, long = ("".join(symbol[letter] for letter in pieces) for pieces in cut)
    return short, long


# 3. The report


def read_corpus(info, needed):
    """(Corpus, training poems, held-out poems) that the model learned from, as its `info` names them.

    If they are not here, they are fetched when they are `needed`; a report can do without.
    """
    if not needed and not tamil_dataset.FILE.is_file():
        raise cli.UserError(f"no {tamil_dataset.FILE}: run python tamil_dataset.py")
    return tamil.load(str(info.get("corpus")).replace("-", ","))


def real_texts(val, length, number, kural):
    """Held-out poems to compare `number` texts with: couplets if `kural`, else runs of `length` letters."""
    if kural:
        couplets = val["kural"]
        chosen = [couplets[i * len(couplets) // number] for i in range(number)] if number < len(couplets) else couplets
        return [f"\n\n{couplet}\n\n" for couplet in chosen]
    pieces = letters.split(tamil.joined(val))
    number = min(number, len(pieces) // length)
    starts = [i * (len(pieces) - length) // max(1, number - 1) for i in range(number)]
    return ["".join(pieces[start : start + length]) for start in starts]


def report(samples, data, kural, length):
    """Print the measures of `samples` beside those of as much real text that the model has not seen."""
    _, train, val = data
    text = tamil.joined(train)
    vocabulary = set(measures.words_of(text))
    real = real_texts(val, length, len(samples), kural)
    print(f"\n{'':16} letters  well-formed  known words  longest copy      4 + 3 form")
    for name, texts in (("written here", samples), ("held-out poems", real)):
        if texts:
            found = measure(texts, vocabulary, text)
            form = "given" if kural and texts is samples else f"{found['couplets']} of {found['poems']}"
            print(f"{name:16} {found['letters']:7,}  {found['well-formed']:11.1%}  {found['words']:11.1%}  "
                  f"{found['copied']:4} letters  {form:>14}")
    print("Known words stand in the training poems. The copy is the longest run of letters that stands there too.\n"
          + ("The form of the couplets was given to the model, and is no merit of it." if kural else
             "Of the poems with both ends in a text, so many are couplets of 4 + 3 words.")
          + ("" if len(samples) > 20 else " With --num 50 the numbers are steadier."))


# 4. The command


def parse_arguments(argv=None):
    parser = cli.Parser(description="Write classical Tamil with a diffusion model, and watch.", allow_abbrev=False)
    generation.add_flags(parser, "letter", LENGTH)
    parser.add_argument("--kural", action="store_true", help="write couplets: 4 words and 3, the letters left blank")
    args = generation.parse_flags(parser, argv)
    if args.kural and (args.prompt or args.infill is not None or args.len is not None):
        parser.error("--kural lays the canvas itself: leave out --prompt, --infill and --len")
    return args


def main(argv=None):
    args = parse_arguments(argv)
    folder = checkpoint.find(args.checkpoint, "tamil")
    model, tokenizer, info = generation.open_model(folder, args.device)
    if not isinstance(tokenizer, tokenizers.TamilTokenizer):
        raise cli.UserError(f"{folder} knows no letters of Tamil: python 06_generate.py writes with it")
    data, note = None, ""
    try:
        data = read_corpus(info, args.kural) if args.kural or not args.quiet else None
        if data and data[0].sha256 != info.get("corpus_sha256"):
            note = "the poems here are not quite those that the model learned from"
    except cli.UserError as error:
        if args.kural:
            raise
        note = f"no report: {error}"
    if args.kural:
        rows = couplet_rows(data[1].get("kural", []), args.num, tokenizer, args.seed)
    else:
        rows = generation.canvas_rows(args, tokenizer, LENGTH)
    try:
        with only_letters(model, tokenizer) if args.kural else contextlib.nullcontext():
            samples = generation.watch(model, tokenizer, rows, args, folder.resolve().name)
    except torch.OutOfMemoryError:
        raise cli.UserError("out of GPU memory: lower --num, or use --device cpu") from None
    if not args.quiet:
        if note:
            print(f"\n{note}")
        if data:
            report(samples, data, args.kural, len(rows[0]))


if __name__ == "__main__":
    cli.run(main)

# Next: 10_dllm_vs_gpt.py compares diffusion with a GPT in all that can be compared.
