"""tokenizers.py: characters, Tamil letters, the mask, and mistakes. test_tokenized.py tests bytes and byte pairs."""

import random
import unicodedata
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from helpers import make_model, seeded
from tamil_verse import ALL, LETTERS, SOURCES

from plumbing import checkpoint, cli, tokenizers
from plumbing.tamil import letters

tamil = import_module("08_train_tamil")
verse = import_module("09_generate_tamil")


# 1. Characters


def test_tokenizer_round_trip():
    text = "To be, or not to be: தமிழ் \n"
    tokenizer = tokenizers.CharTokenizer.from_text(text)
    assert tokenizer.vocabulary == "".join(sorted(set(text))) and tokenizer.kind == "char"
    assert tokenizer.vocab_size == len(tokenizer.vocabulary)
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizers.CharTokenizer(tokenizer.vocabulary).encode(text) == tokenizer.encode(text)
    assert tokenizers.CharTokenizer("ba").encode("ab") == [1, 0]
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


def test_tokenizer_mask_and_tensors():
    tokenizer = tokenizers.CharTokenizer("abc")

    class Tensor:  # what decode needs of a torch.Tensor
        def tolist(self):
            return [0, 3, 2]

    assert tokenizer.decode(Tensor()) == tokenizer.decode([0, 3, 2]) == "a" + tokenizers.MASK_CHAR + "c"
    for bad in ([4], [-1]):
        with pytest.raises(ValueError, match="0 .. 3"):
            tokenizer.decode(bad)


def test_tokenizer_mistakes():
    with pytest.raises(cli.UserError, match="^characters outside the vocabulary: 'é', '€'$"):
        tokenizers.CharTokenizer("abc").encode("a€éb€")
    for bad in ("", "aa"):
        with pytest.raises(cli.UserError, match="vocabulary"):
            tokenizers.CharTokenizer(bad)


def test_the_mask_follows_the_vocabulary():
    for tokenizer in (tokenizers.CharTokenizer("abc"), tokenizers.TamilTokenizer(["அ", "கா"]), tokenizers.Bytes()):
        assert tokenizer.mask_id == tokenizer.vocab_size
        assert tokenizer.decode([0, tokenizer.mask_id]).endswith(tokenizers.MASK_CHAR)
    assert tokenizers.Bytes().mask_id == 257 and issubclass(tokenizers.BytePairs, tokenizers.Bytes)


# 2. Tamil letters


def test_every_letter_is_one_token():
    assert len(LETTERS) == 247
    tokenizer = tokenizers.TamilTokenizer(["\n", " ", *ALL])
    for i, letter in enumerate(ALL):
        assert tokenizer.encode(letter) == [i + 2] and tokenizer.decode([i + 2]) == letter
    draw = random.Random(0)
    for _ in range(50):
        text = "".join(draw.choices([" ", "\n", *ALL], k=40))
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text and tokenizer.decode(torch.tensor(ids)) == text
        assert verse.well_formed([text]) == 1
    assert tokenizer.decode([2, tokenizer.vocab_size]) == "அ" + tokenizers.MASK_CHAR
    with pytest.raises(ValueError):
        tokenizer.decode([tokenizer.vocab_size + 1])


def test_whatever_tokens_stand_together_is_well_formed():
    tokenizer = tokenizers.TamilTokenizer(["\n", " ", "a", *ALL])
    ids = torch.randint(tokenizer.vocab_size, (20_000,), generator=seeded(0))
    text = tokenizer.decode(ids)
    assert verse.well_formed([text]) == 1
    assert tokenizer.decode(tokenizer.encode(text)) == text == letters.normalise(text)
    points = "".join(random.Random(0).choices("".join(ALL), k=2000))
    assert verse.well_formed([points]) < 0.9  # the measure notices the difference


def test_text_is_normalised_before_it_is_cut():
    tokenizer = tokenizers.TamilTokenizer(sorted(ALL))
    text = "கொடு ஹௌ".replace(" ", "")
    apart = unicodedata.normalize("NFD", text)
    assert apart != text and tokenizer.encode(apart) == tokenizer.encode(text)
    assert tokenizer.encode("க\u200c்\ufeffஷ\u200b") == tokenizer.encode("க்ஷ")


@pytest.mark.parametrize("text, named", [
    ("அா", "'ா'"), ("க்்", "'்'"), ("காா", "'ா'"), ("அ\ud83d", "ud83d"), ("க\u0bce", "u0bce"), ("கx", "'x'"),
    ("க\u0301", "'\u0301'"), ("ந", "'ந'"), ("ந்", "'ந்'"), ("\x00", "x00"),
])  # fmt: skip
def test_what_is_no_known_letter_is_named(text, named):
    tokenizer = tokenizers.TamilTokenizer(["அ", "க", "க்", "கா"])
    with pytest.raises(cli.UserError, match="letters outside the vocabulary") as error:
        tokenizer.encode(text)
    assert named in str(error.value) and "\n" not in str(error.value)


BAD = [[], "அக", None, {}, ["அ", "அ"], ["அஆ"], ["ா"], ["்"], [""], [1], [None], [["அ"]], ["க\u0bc6\u0bbe"],
       ["\u200b"], ["\u0bce"], ["\ue000"], ["\u0301"]]  # fmt: skip


@pytest.mark.parametrize("vocabulary", BAD, ids=ascii)
def test_a_damaged_vocabulary_is_refused(vocabulary, tmp_path, tiny):
    checkpoint.save(tmp_path, tiny.model, SimpleNamespace(kind="tamil", vocabulary=vocabulary), {})
    with pytest.raises(cli.UserError, match="damaged model") as error:
        checkpoint.load(tmp_path)
    assert "\n" not in str(error.value)


def test_the_tokenizer_comes_back_with_its_model(tmp_path):
    tokenizer = tokenizers.TamilTokenizer.from_text(tamil.joined(SOURCES))
    checkpoint.save(tmp_path, make_model(tokenizer.vocab_size, 32), tokenizer, {})
    _, loaded, _ = checkpoint.load(tmp_path)
    assert type(loaded) is tokenizers.TamilTokenizer and loaded.vocabulary == tokenizer.vocabulary
    text = SOURCES["kural"][0]
    assert loaded.encode(text) == tokenizer.encode(text) and loaded.decode(loaded.encode(text)) == text
