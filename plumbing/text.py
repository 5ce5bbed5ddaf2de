"""Training texts, and tokenizers, which turn a text into numbers and back."""

import hashlib
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from plumbing.cli import UserError, printable
from plumbing.files import read_text

# 1. Texts


@dataclass(frozen=True)
class Corpus:
    """A text with a name."""

    name: str
    text: str

    @property
    def sha256(self):
        """The SHA-256 checksum of the text in UTF-8, as 64 hexadecimal digits."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def load(name):
    """Return a Corpus. `name` is "shakespeare" or the path of a text file. Raises UserError if the file is unusable."""
    if name == "shakespeare":
        return Corpus(name, import_module("plumbing.shakespeare").read())
    path = Path(os.path.expanduser(name))
    if not os.path.exists(path):
        raise UserError(f"no corpus {name!r}: give the path of a text file, or the name shakespeare")
    text = read_text(path)
    if len(text) < 1000:
        raise UserError(f"{name} has only {len(text):,} characters: a corpus needs at least 1,000")
    return Corpus(printable(path.stem), text)


def split(text, share=0.9):
    """Return (training text, validation text): the first `share` of the characters, and the rest."""
    cut = int(share * len(text))
    return text[:cut], text[cut:]


# 2. Tokenizers

MASK = "░"  # what a mask looks like


class Tokenizer:
    """The base class of all tokenizers. A subclass sets vocab_size, the number of tokens without the mask."""

    kind = ""  # its name in a model's config.json
    unit = "token"
    vocab_size = 0

    @property
    def mask_id(self):
        """The number of the mask token: one more than the number of the last token in the vocabulary."""
        return self.vocab_size

    def checked(self, tokens):
        """Return `tokens`, a list or 1-D tensor, as a list. Raises ValueError if a token is outside 0 … mask_id."""
        tokens = tokens.tolist() if hasattr(tokens, "tolist") else list(tokens)
        if tokens and not 0 <= min(tokens) <= max(tokens) <= self.mask_id:
            raise ValueError(f"tokens must lie in 0 … {self.mask_id}, not {min(tokens)} … {max(tokens)}")
        return tokens


class Characters(Tokenizer):
    """A tokenizer with one token per character. `vocabulary` has each character once, in the order of the tokens."""

    kind, unit = "char", "character"

    def __init__(self, vocabulary):
        if not vocabulary or len(set(vocabulary)) != len(vocabulary):
            raise ValueError("a vocabulary must contain at least one entry, and none twice")
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary)
        self.shown = [*vocabulary, MASK]  # what each token looks like, including the mask
        self.number = {entry: i for i, entry in enumerate(vocabulary)}

    @classmethod
    def of(cls, text):
        """Return a tokenizer for all characters in `text`."""
        return cls("".join(sorted(set(text))))

    def split(self, text):
        """Return the pieces of `text`, one per token."""
        return text

    def encode(self, text):
        """Return a list of the tokens of `text`. Raises UserError if a piece of the text is not in the vocabulary."""
        pieces = self.split(text)
        unknown = sorted(set(pieces) - self.number.keys())
        if unknown:
            shown = " ".join(map(repr, unknown[:10]))
            raise UserError(f"this model does not know the {self.unit}s {shown}: it has learned from another text")
        return [self.number[piece] for piece in pieces]

    def decode(self, tokens):
        """Return the text of `tokens`, a list or 1-D tensor. Each mask becomes ░."""
        return "".join(self.shown[token] for token in self.checked(tokens))


# For each kind of tokenizer, its module and its class. A module is loaded only if a model needs it.
KINDS = {"char": "plumbing.text:Characters", "tamil": "tamil.letters:TamilLetters", "cells": "plumbing.robot:Cells",
         "bytes": "plumbing.token_files:Bytes", "bpe": "plumbing.token_files:BytePairs"}


def from_description(description):
    """Return the tokenizer that the dict `description` describes. Raises ValueError if the dict is not valid."""
    kind, vocabulary = description["kind"], description["vocabulary"]
    if kind not in KINDS:
        raise ValueError(f"unknown tokenizer {kind!r}")
    if kind == "char" and not isinstance(vocabulary, str):
        raise ValueError("its vocabulary is not text")
    module, name = KINDS[kind].split(":")
    return getattr(import_module(module), name)(vocabulary)
