"""A corpus of any size as one file of 16-bit tokens, and the windows that a training step reads from it.

The file is written once, and its checksum is verified each time it is opened. The source can be a text file, Parquet or
JSON Lines files, or a data set of the Hugging Face Hub.
"""

import glob
import hashlib
import json
import math
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from tqdm import tqdm

from plumbing import cli, corpora, files, settings, states, tokenizers
from plumbing.settings import Natural, number

BATCH = 1 << 22  # number of characters that are tokenised at once
GOLDEN = 0.618  # multiples of this number, modulo 1, lie evenly spread over [0, 1]


@dataclass(frozen=True)
class DataConfig:
    """What to read. Every field is a flag and a line of a settings file."""

    dataset: str = "shakespeare"  # shakespeare, a .txt file, .parquet or .jsonl files, or a data set of the Hub
    subset: str = ""  # which part of a data set that has several parts, such as wikitext-103-raw-v1
    split: str = "train"  # split of a data set
    column: str = "text"  # column that holds the text, or the token ids of GPT-2
    tokenizer: Literal["bpe", "bytes", "chars"] = "bpe"  # GPT-2's word pieces, bytes, or the characters of a .txt file
    max_length: Natural = 0  # keep only this many tokens of each text; 0: all
    limit: Natural = 0  # stop after this many tokens; 0: read everything
    validation: number(float, 0.0001, 0.5) = 0.05  # share of the tokens, at the end, that is held out for evaluation
    documents: bool = False  # a window begins at the start of a text and ends with it, instead of anywhere

    def __post_init__(self):
        settings.check(self)
        if self.documents and self.tokenizer == "chars":
            raise ValueError("documents needs a tokenizer with an end-of-text token: bpe or bytes")


# 1. Texts and their tokens


def is_local(name):
    """Return whether the data set `name` is one or more files on this computer."""
    return name.endswith((".txt", ".parquet", ".jsonl", ".json"))


def texts(config):
    """Yield the texts that `config` names, one by one: strings, or lists of token ids if the column holds those.

    UserError if they cannot be read.
    """
    if config.dataset == "shakespeare" or config.dataset.endswith(".txt"):
        text = corpora.load(config.dataset).text
        parts = text.split(tokenizers.END_MARK)
        yield from filter(None, (part.strip("\n") for part in parts)) if len(parts) > 1 else parts
        return
    try:
        import datasets
    except ImportError:
        raise cli.UserError("this needs the package datasets: pip install -r requirements.txt") from None
    try:
        if is_local(config.dataset):
            form = "parquet" if config.dataset.endswith(".parquet") else "json"
            rows = datasets.load_dataset(form, data_files=config.dataset, split="train", streaming=True)
        else:
            rows = datasets.load_dataset(config.dataset, config.subset or None, split=config.split, streaming=True)
        for row in rows:
            if config.column not in row:
                raise cli.UserError(f"{config.dataset} has no column {config.column!r}; "
                                    f"--column must be one of {', '.join(row)}")
            value = row[config.column]
            if not isinstance(value, str) and not (isinstance(value, list) and all(type(i) is int for i in value)):
                raise cli.UserError(f"column {config.column!r} holds {type(value).__name__}, not text or token ids")
            if value:
                yield value
    except (cli.UserError, GeneratorExit):
        raise
    except Exception as error:  # the package and the network raise many kinds of exceptions
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise cli.UserError(f"cannot read {config.dataset}: {reason}") from None


def batches(items, size=BATCH):
    """Yield lists of consecutive items. The items of a list have about `size` characters (or tokens) in total."""
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
    """Yield each text of `config` as an array of 16-bit token ids that ends with the end-of-text token.

    Two exceptions: the tokenizer of characters has no such token, and a column of token ids must contain its own.
    """
    end = np.array([] if tokenizer.kind == "char" else [tokenizer.end], np.uint16)
    for batch in batches(texts(config)):
        if isinstance(batch[0], str):
            ids = [tokenizer.encode(text) for text in batch] if tokenizer.kind == "char" else (
                tokenizer.encode_batch(batch))
        elif tokenizer.kind == "bpe":  # these rows already contain end-of-text tokens
            ids, end = batch, end[:0]
        else:
            raise cli.UserError(f"column {config.column} holds token ids of GPT-2: use --tokenizer bpe")
        for row in ids:
            if len(row) and not 0 <= min(row) <= max(row) < tokenizer.vocab_size:
                raise cli.UserError(f"column {config.column} holds numbers that are not token ids of GPT-2")
            yield np.concatenate((np.array(row[: config.max_length or None], np.uint16), end))


def write(path, config, tokenizer):
    """Write all tokens of `config` to `path`, whole or not at all. Returns {tokens, documents, sha256}."""
    digest, count, documents = hashlib.sha256(), 0, 0
    with files.whole_file(path) as partial, open(partial, "wb") as file, tqdm(
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
            raise cli.UserError(f"{config.dataset} holds no text")
    return {"tokens": count, "documents": documents, "sha256": digest.hexdigest()}


def prepare(config, folder=None, wait=False):
    """Return all texts that `config` names as one array of tokens: (tokens, tokenizer, info).

    tokens: (N,) 16-bit token ids, read from the disk as needed; info: {tokens, documents, sha256, ...}. The file is
    written to `folder` (data/tokens) once. Its name depends on all settings that change its contents, and on the size
    and date of a local source. wait: let another process write it, and wait for that. UserError if the file is damaged.
    """
    source = sorted(map(Path, glob.glob(config.dataset))) if "*" in config.dataset else [Path(config.dataset)]
    stamps = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in source if path.is_file()]
    if is_local(config.dataset) and not stamps:
        raise cli.UserError(f"no file {config.dataset!r}")
    what = {key: value for key, value in asdict(config).items() if key not in ("validation", "documents")}
    tag = hashlib.sha256(json.dumps([what, stamps]).encode()).hexdigest()[:8]
    name = re.sub(r"\W+", "-", f"{Path(config.dataset).stem} {config.subset}").strip("-")
    path = Path(folder or files.DATA / "tokens") / f"{name}-{config.tokenizer}-{tag}.bin"
    about = path.with_suffix(".json")
    if config.tokenizer == "chars":
        if config.dataset != "shakespeare" and not config.dataset.endswith(".txt"):
            raise cli.UserError("--tokenizer chars needs a .txt file; use --tokenizer bytes for a data set")
        tokenizer = tokenizers.CharTokenizer.from_text("".join(texts(config)))
    else:
        tokenizer = {"bpe": tokenizers.BytePairs, "bytes": tokenizers.Bytes}[config.tokenizer]()
    if not (about.is_file() and path.is_file()) and not wait:
        info = write(path, config, tokenizer)  # a killed process leaves no file of this name
        with files.whole_file(about) as partial:  # written last: if it exists, the tokens are complete
            partial.write_text(json.dumps(info | what, indent=2) + "\n", encoding="utf-8")
    while not (about.is_file() and path.is_file()):
        time.sleep(1)
    with states.reading(about, "delete it to write the tokens again"):
        info = json.loads(about.read_text(encoding="utf-8"))
        states.check(info, {}, ("sha256", "tokens", "documents"))
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != info["sha256"]:
            raise cli.UserError(f"{path} is damaged: delete it and {about.name} to write them again")
    return np.memmap(path, np.uint16, "r"), tokenizer, info


# 2. Windows


def split(tokens, config, length, tokenizer, least):
    """Return (training, held-out) Windows of `length` tokens. UserError if fewer than `least` windows are held out."""
    cut = int(len(tokens) * (1 - config.validation))
    end = tokenizer.end if config.documents else None
    windows, held_out = (Windows(part, length, end) for part in (tokens[:cut], tokens[cut:]))
    if windows.n < 2 or held_out.n < least:
        raise cli.UserError(f"{config.dataset} is too short for windows of {length} tokens; "
                            "lower --seq-len or raise --validation")
    return windows, held_out


class Windows:
    """Windows of `length` tokens from `tokens` (N,), numbered from 0 to n-1. The tokens may be a file on the disk.

    end: None, or the end-of-text token. With it, a window holds one text from its beginning, and the rest of the
    window is filled with end-of-text tokens.
    """

    def __init__(self, tokens, length, end=None):
        self.tokens, self.length, self.end = tokens, length, end
        self.starts = None if end is None else np.r_[0, np.flatnonzero(tokens == end)[:-1] + 1]
        self.n = len(tokens) // length if end is None else len(self.starts)
        # A stride without a common divisor with n visits every window once before any window twice.
        candidates = range(round(GOLDEN * self.n), self.n)
        self.stride = next((s for s in candidates if math.gcd(s, self.n) == 1), 1)

    def order(self, step, batch, seed):
        """Return the windows of step `step`: (numbers, laps), each (batch,). A lap is one reading of all windows."""
        laps, i = np.divmod(np.int64(step) * batch + np.arange(batch), self.n)
        return (i * self.stride + seed) % self.n, laps

    def read(self, numbers, laps=None):
        """Return the windows `numbers` (B,) as int64 (B, length). Each lap cuts the tokens at different positions."""
        if self.end is None:
            shift = 0 if laps is None else (GOLDEN * laps % 1 * self.length).astype(np.int64)
            starts = np.minimum(numbers * self.length + shift, len(self.tokens) - self.length)
            return torch.tensor(np.stack([self.tokens[s : s + self.length] for s in starts]).astype(np.int64))
        rows = torch.full((len(numbers), self.length), self.end)
        for row, start in zip(rows, self.starts[numbers]):
            text = torch.from_numpy(self.tokens[start : start + self.length].astype(np.int64))
            row[: len(text)] = torch.where(self.text_of(text), text, self.end)
        return rows

    def text_of(self, rows):
        """Return True where rows (..., length) hold text or its first end-of-text token, False after it."""
        if self.end is None:
            return torch.ones_like(rows, dtype=torch.bool)
        ends = (rows == self.end).long()
        return ends.cumsum(-1) - ends == 0
