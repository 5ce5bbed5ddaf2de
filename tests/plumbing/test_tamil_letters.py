"""Letters of Tamil, also on input that is not well-formed."""

import unicodedata
from collections import Counter

from plumbing import tokenizers
from plumbing.tamil import cleaning, letters


def test_letters_of_every_kind():
    assert letters.split("கற்க கசடற") == ["க", "ற்", "க", " ", "க", "ச", "ட", "ற"]
    assert letters.split("கொக்கோ கௌ") == ["கொ", "க்", "கோ", " ", "கௌ"]
    assert letters.split("அஃது ஔவை") == ["அ", "ஃ", "து", " ", "ஔ", "வை"]
    assert letters.split("பக்ஷி லக்ஷ்மி ஸ்ரீ ஶ்ரீ") == [*"ப", "க்ஷி", " ", "ல", "க்ஷ்", "மி", " ", "ஸ்ரீ", " ", "ஶ்ரீ"]


def test_letters_join_to_their_text_whatever_it_is():
    texts = ["", "\n", "ா", "்்", "காி", "க\u0b96ா", "\ud800க", "abcகx", "\U0001f469\u200d", "က\u103a", "க\u0301", "\u0bd7"]
    for text in texts:
        assert "".join(letters.split(text)) == text


def test_what_is_no_letter_stands_out():
    bad = lambda text: [letter for letter in letters.split(text) if letters.ill_formed(letter)]  # noqa: E731
    assert bad("கற்க கசடற abc தமிழ் ௧௨ ॐ é …!\n") == []
    assert bad("ாக") == ["ா"]
    assert bad("காி") == ["ி"]  # two signs in a row
    assert bad("க்்") == ["்"]
    assert bad("அி") == ["ி"]  # a sign after a vowel
    assert bad("க\u0b96ா") == ["\u0b96", "ா"]  # unassigned, with a sign
    assert bad("\u0ba6நொந்து") == ["\u0ba6"]
    assert bad("\ud800") == ["\ud800"] and bad("\ue000\ufffd") == ["\ue000", "\ufffd"]
    assert bad("e\u0301") == ["\u0301"]  # not composed: normalise first


def test_normalise():
    assert letters.normalise("கெ\u0bbe") == "கொ" and letters.normalise("ஒ\u0bd7") == "ஔ"
    assert letters.normalise("\ufeffக்\u200dஷ\u200d\u200b\u2060 க\u200cஷ") == "க்ஷ கஷ"
    for text in ["கொ", "ஸ்ரீ", "e\u0301", "பக்\u200cஷி", "க்\u200c", "க்\u200c\u200b\u200cஷ"]:
        once = letters.normalise(text)
        assert letters.normalise(once) == once and unicodedata.is_normalized("NFC", once)


def test_a_non_joiner_separates_two_letters():
    """Without it, க்ஷ and ஸ்ரீ are one letter. With it they are two, through normalising, splitting and encoding."""
    for text in ("ரிக்\u200cஷா", "பஸ்\u200cரீதி", "ஶ்\u200cரீ", "பக்\u200d\u200cஷி"):
        pieces = letters.split(letters.normalise(text))
        assert "".join(pieces) == letters.normalise(text) and not any(map(letters.ill_formed, pieces))
        assert len(pieces) == 1 + len(letters.split(letters.normalise(text.replace("\u200c", ""))))
        tokenizer = tokenizers.TamilTokenizer.from_text(text)  # every entry of its vocabulary is a whole letter
        assert tokenizer.decode(tokenizer.encode(text)) == letters.normalise(text)
    assert cleaning.clean("ரிக்\u200cஷா அக்\u200c", Counter()) == "ரிக்\u200cஷா அக்"
