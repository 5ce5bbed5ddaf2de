"""docs/quiz.md: five questions on each chapter, and answers that name the place that shows them."""

import ast
import math
import re
from functools import cache
from importlib import import_module

import pytest
import torch
import torch.nn.functional as F
from helpers import ROOT

from plumbing import grids

tensors = import_module("01_tensors")
attention = import_module("02_attention")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt = import_module("07_train_gpt")
fast = import_module("11_fast_decoding")
sudoku = import_module("14_sudoku")

PAGE = ROOT / "docs" / "quiz.md"
CHAPTERS = sorted(path.name for path in ROOT.glob("[0-9][0-9]_*.py"))
ENTRY = re.compile(r"\n\*\*([\d.]+)\*\* ([^\n]+)\n<details><summary>Answer</summary>\n\n(.+?)\n</details>\n", re.DOTALL)
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
REFERENCES = re.compile(r"\sSee\s+(\[[^\]]+\]\([^)]+\)(\s+and\s+)?)+\.$")
UNIT = r" ?%| ?×| ?°| nats?\b| characters per pass| percentage points"
MEASURED = re.compile(rf"(?<![\d.])\d[\d,]*(?:\.\d+|(?={UNIT}))")  # a decimal number, or one with a unit of a measure


def sections():
    """[(heading, body)] of the page."""
    _, *parts = re.split(r"^## ", PAGE.read_text(encoding="utf-8"), flags=re.M)
    return [part.split("\n", 1) for part in parts]


ENTRIES = [entry for _, body in sections() for entry in ENTRY.findall(body)]  # (number, question, answer)
each_entry = pytest.mark.parametrize("question, answer", [pytest.param(*rest, id=n) for n, *rest in ENTRIES])


@cache
def defined(path):
    """The names of the functions, classes and constants of a Python file, and Class.name for what is in a class."""

    def names(body, prefix=""):
        for node in body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                yield prefix + node.name
            if isinstance(node, ast.ClassDef):
                yield from names(node.body, f"{prefix}{node.name}.")
            if isinstance(node, (ast.Assign, ast.AnnAssign)):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                yield from (prefix + name.id for t in targets for name in ast.walk(t) if isinstance(name, ast.Name))

    return set(names(ast.parse(path.read_text(encoding="utf-8")).body))


def occurs(number, text):
    """Whether a number stands in a text, and not only as a part of a longer number."""
    return re.search(rf"(?<![\d.])(?<!\d,){re.escape(number)}(?!\d|[.,]\d)", text) is not None


# 1. The form of the page


def test_every_chapter_has_five_questions():
    headings = [LINK.fullmatch(heading).groups() for heading, _ in sections()]
    assert [link for _, link in headings] == [f"../{chapter}" for chapter in CHAPTERS]
    assert [title[:3] for title, _ in headings] == [f"{chapter[:2]} " for chapter in CHAPTERS]
    for i, (_, body) in enumerate(sections(), 1):
        assert [number for number, *_ in ENTRY.findall(body)] == [f"{i}.{n}" for n in range(1, 6)]
        assert ENTRY.sub("", body).strip() == "", "something is neither a question nor its answer"


def test_the_page_can_be_read_in_one_go():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 650 and max(map(len, lines)) <= 120


@each_entry
def test_an_answer_is_short(question, answer):
    sentences = re.split(r"(?<=[.?])\s+", REFERENCES.sub("", answer))
    assert "?" in question and 2 <= len(sentences) <= 5
    assert all(sentence.endswith((".", "?")) for sentence in sentences)


# 2. The places that an answer names


@each_entry
def test_an_answer_names_places_that_exist(question, answer):
    assert REFERENCES.search(answer), "an answer ends with: See [file, names](link)."
    for label, target in LINK.findall(answer):
        path = (PAGE.parent / target).resolve()
        file, what = re.sub(r"\s+", " ", label).split(", ", 1)
        assert path.is_file() and path in (ROOT / file, PAGE.parent / file), f"{label} does not lead to {target}"
        if path.suffix == ".py":
            assert set(what.split(", ")) <= defined(path), f"{file} does not define all of {what}"
        else:
            words = re.fullmatch('"(.+)"', what)[1]
            assert words in re.sub(r"\s+", " ", path.read_text(encoding="utf-8")), f"{file} does not say {words!r}"


@each_entry
def test_the_numbers_of_an_answer_stand_at_the_places_that_it_names(question, answer):
    places = [(PAGE.parent / target).read_text(encoding="utf-8") for _, target in LINK.findall(answer)]
    for number in MEASURED.findall(f"{question} {LINK.sub('', answer)}"):
        assert any(occurs(number, place) for place in places), f"{number} is in none of the places"


@pytest.mark.parametrize("text, numbers", [
    ("a loss of 2.708 nats, 78% or 77.6 %", ["2.708", "78", "77.6"]),
    ("4 C² in 16 passes over 50,257 tokens, 1.8 × faster", ["1.8"]),
    ("0.58M characters, 1,234.5 of them; 104.1° and 9 nats", ["0.58", "1,234.5", "104.1", "9"]),
])  # fmt: skip
def test_which_numbers_are_looked_up(text, numbers):
    assert MEASURED.findall(text) == numbers


def test_a_part_of_a_number_is_not_that_number():
    assert occurs("2.5", "2.5 nats") and occurs("2.5", "x=2.5, y")
    assert not any(occurs("2.5", text) for text in ("2.54", "12.5", "2.5.1", "1,2.5"))


# 3. What answers say about behaviour that no chapter prints


SENTENCE = torch.tensor([sorted(set(tensors.SENTENCE)).index(character) for character in tensors.SENTENCE])


def small_model(causal):
    return transformer.Transformer(transformer.TransformerConfig(8, 16, n_layer=2, n_head=2, n_embd=32, causal=causal))


def test_1_3_without_zero_grad_the_loss_does_not_settle(monkeypatch):
    good, entropy = tensors.train_bigram(SENTENCE, 15, 500)[1], tensors.bigram_entropy(tensors.SENTENCE)
    monkeypatch.setattr(torch.optim.SGD, "zero_grad", lambda self: None)
    bad = tensors.train_bigram(SENTENCE, 15, 500)[1]
    assert bad[5] < good[5] and sum(bad[-200:]) / 200 - entropy > 5 * (good[-1] - entropy)


def test_1_4_a_random_table_is_worse_than_guessing():
    model = tensors.Bigram(15)
    torch.manual_seed(0)
    for _ in range(20):
        torch.nn.init.normal_(model.table, std=3)
        assert F.cross_entropy(model(SENTENCE[:-1]), SENTENCE[1:]) > math.log(15)


@pytest.mark.parametrize("causal", [False, True])
def test_2_3_a_causal_mask_tells_about_order(causal):
    torch.manual_seed(0)
    layer, x, order = attention.Attention(16, 1, causal, rotary=False), torch.randn(1, 8, 16), torch.randperm(8)
    shuffled, plain = layer(x[:, order], torch.arange(8)), layer(x, torch.arange(8))
    assert torch.allclose(shuffled, plain[:, order], atol=1e-5) is not causal


def test_3_3_the_last_matrices_learn_first():
    torch.manual_seed(0)
    model, x0 = small_model(causal=True), torch.randint(8, (4, 17))
    gpt.next_token_cross_entropy(model, x0).mean().backward()
    for name, parameter in model.blocks.named_parameters():
        assert bool(parameter.grad.any()) is name.endswith(("out.weight", "down.weight"))


def test_3_4_doubling_the_width():
    def factor(**shape):
        narrow, wide = (transformer.TransformerConfig(**shape | {"n_embd": C}) for C in (192, 384))
        number = [sum(n for _, n in transformer.parameters_by_part(config).values()) for config in (narrow, wide)]
        return number[1] / number[0]

    assert 3.9 < factor() < 4 and 2 < factor(vocab_size=50_257, n_layer=12, n_head=3) < 3


@pytest.mark.parametrize("how, equal", [(None, False), (fast.Decoding(order="confidence", remask=0), True)])
def test_6_4_the_order_is_random_even_at_temperature_0(how, equal):
    torch.manual_seed(0)
    model = small_model(causal=False)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    canvas, texts = torch.full((4, 16), model.config.mask_id), []
    for seed in (1, 2):
        random = dict(temperature=0.0, generator=torch.Generator().manual_seed(seed))
        states = fast.decode(model, canvas, 8, how=how, **random) if how else diffusion.denoise(
            model, canvas, 8, **random)
        texts.append(list(states)[-1].canvas)
    assert torch.equal(*texts) is equal


@pytest.mark.parametrize("causal", [True, False])
def test_7_1_without_the_causal_mask_the_answer_is_visible(causal):
    """The text is random, so no honest model has a loss below ln 8."""
    torch.manual_seed(0)
    model, text = small_model(causal), torch.randint(8, (20_000,))
    trainer = training.Trainer(model, training.TrainConfig(warmup=10, dtype="float32", compile="off"), "cpu")
    for _ in range(100):
        trainer.update(lambda network, x: gpt.next_token_cross_entropy(network, x).mean(),
                       [training.get_batch(text, 16, 17)])
    new_text = torch.randint(8, (64, 17))
    mean, _ = gpt.nll(model, new_text)
    assert mean > math.log(8) - 0.05 if causal else mean < 1


def test_14_4_rows_of_two_bands_cannot_be_exchanged():
    solution = torch.tensor([[(3 * row + row // 3 + column) % 9 + 1 for column in range(9)] for row in range(9)])
    assert not grids.conflicts(solution.flatten()).any()
    torch.manual_seed(0)
    assert not grids.conflicts(solution[sudoku.shuffled_lines(1)[0]].flatten()).any()
    order = [3, 1, 2, 0, 4, 5, 6, 7, 8]
    wrong = grids.conflicts(solution[order].flatten())
    assert wrong.any() and {grids.BOX[i] for i in wrong.nonzero().flatten().tolist()} <= set(range(6))
