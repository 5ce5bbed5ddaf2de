"""Texts of any size as one file of 16-bit tokens, made once and checked, and the windows that a training step reads."""

import hashlib
import json
import math
import re
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from plumbing import cli, corpora, files, settings, tokenizers
from plumbing.settings import setting

BATCH = 1 << 22  # characters to tokenise at once


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
        text = corpora.load(config.dataset).text
        parts = text.split(tokenizers.END_MARK)
        yield from filter(None, (part.strip("\n") for part in parts)) if len(parts) > 1 else parts
        return
    try:
        import datasets
    except ImportError:
        raise cli.UserError("data sets need the package datasets: pip install -r requirements.txt") from None
    try:
        if is_local(config.dataset):
            form = "parquet" if config.dataset.endswith(".parquet") else "json"
            rows = datasets.load_dataset(form, data_files=config.dataset, split="train", streaming=True)
        else:
            rows = datasets.load_dataset(config.dataset, config.subset or None, split=config.split, streaming=True)
        for row in rows:
            if config.column not in row:
                raise cli.UserError(f"{config.dataset} has no column {config.column!r}; "
                                       f"--data.column is one of {', '.join(row)}")
            if row[config.column]:
                yield row[config.column]
    except (cli.UserError, GeneratorExit):
        raise
    except Exception as error:  # whatever that package and the network raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise cli.UserError(f"cannot read {config.dataset}: {reason}") from None


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
            raise cli.UserError(f"column {config.column} holds tokens of GPT-2: use --data.tokenizer bpe")
        for row in ids:
            if len(row) and not 0 <= min(row) <= max(row) < tokenizer.vocab_size:
                raise cli.UserError(f"column {config.column} holds tokens that are not GPT-2's")
            yield np.concatenate((np.array(row[: config.max_length or None], np.uint16), end))


def write(path, config, tokenizer):
    """All tokens of `config` to the file `path`, whole or not at all. Returns what is to know about them."""
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
    """(tokens, tokenizer, info): everything `config` names as one read-only array of 16-bit tokens.

    Made once, into folder (data/tokens), whole or not at all; its sha256 is checked each time. The name tells apart
    all settings that change it, and versions of a local file. wait: another process is making it.
    """
    source = sorted(Path().glob(config.dataset) if "*" in config.dataset else [Path(config.dataset)])
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
            raise cli.UserError("chars need a .txt file; use --data.tokenizer bytes for a data set")
        tokenizer = tokenizers.CharTokenizer.from_text("".join(texts(config)))
    else:
        tokenizer = {"bpe": tokenizers.BytePairs, "bytes": tokenizers.Bytes}[config.tokenizer]()
    if not about.is_file() and not wait:
        info = write(path, config, tokenizer)  # a kill leaves no file of this name
        with files.whole_file(about) as partial:  # last: where it stands, the tokens are complete
            partial.write_text(json.dumps(info | what, indent=2) + "\n", encoding="utf-8")
    while not about.is_file():
        time.sleep(1)
    info = json.loads(about.read_text(encoding="utf-8"))
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != info["sha256"]:
            raise cli.UserError(f"{path} is damaged: delete it and {about.name} to make it again")
    return np.memmap(path, np.uint16, "r"), tokenizer, info


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
