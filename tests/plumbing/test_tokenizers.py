"""tokenizers.py: characters there and back, the mask, and mistakes. test_scale.py tests bytes and byte pairs."""

import pytest

from plumbing import cli, tokenizers


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
