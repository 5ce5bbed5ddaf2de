"""docs/quiz.md: five questions on each chapter, and answers that name their source and are true."""

import ast
import math
import re
from importlib import import_module

from helpers import ROOT, make_model
from plumbing import sudoku
from plumbing.run import Run

import pytest
import torch
import torch.nn.functional as F

tensors = import_module("01_tensors")
attention = import_module("02_attention")
transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt = import_module("07_train_gpt")
chapter_14 = import_module("14_sudoku")

PAGE = ROOT / "docs" / "quiz.md"
ENTRY = re.compile(r"\n\*\*([\d.]+)\*\* ([^\n]+)\n<details><summary>Answer</summary>\n\n(.+?)\n</details>\n", re.DOTALL)
LINK = re.compile(r"\[([^\]]+)\]\(([^)]+)\)")
UNIT = r" ?%| ?×| ?°| nats?\b| percentage points"
MEASURED = re.compile(rf"(?<![\d.])\d[\d,]*(?:\.\d+|(?={UNIT}))")  # a decimal number, or one with a unit of a measure

ENTRIES = ENTRY.findall(PAGE.read_text(encoding="utf-8"))  # (number, question, answer)
each_entry = pytest.mark.parametrize("question, answer", [pytest.param(*rest, id=number) for number, *rest in ENTRIES])


def definitions(body, prefix=""):
    """Yield the names of functions, classes and constants of a module. A name inside a class is Class.name."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from definitions(node.body, f"{prefix}{node.name}.")
        if isinstance(node, (ast.Assign, ast.AnnAssign)):
            yield from (prefix + name.id for name in ast.walk(node) if isinstance(name, ast.Name))


# 1. The page


def test_every_chapter_has_five_questions():
    chapters = sorted(path.name for path in ROOT.glob("[0-9][0-9]_*.py"))
    assert [number for number, *_ in ENTRIES] == [f"{c}.{n}" for c in range(1, len(chapters) + 1) for n in range(1, 6)]
    headings = re.findall(r"^## \[.*\]\(\.\./(.*)\)$", PAGE.read_text(encoding="utf-8"), re.M)
    assert headings == chapters


@each_entry
def test_an_answer_names_places_that_exist(question, answer):
    assert LINK.search(answer.split("See")[-1]), "an answer ends with: See [file, names](link)."
    for label, target in LINK.findall(answer):
        path = (PAGE.parent / target).resolve()
        file, what = re.sub(r"\s+", " ", label).split(", ", 1)
        assert path.is_file() and path in (ROOT / file, PAGE.parent / file), f"{label} does not lead to {target}"
        source = path.read_text(encoding="utf-8")
        if path.suffix == ".py":
            known = set(definitions(ast.parse(source).body))
            assert set(what.split(", ")) <= known, f"{file} does not define all of {what}"
        else:
            assert what.strip('"') in re.sub(r"\s+", " ", source), f"{file} does not say {what}"


@each_entry
def test_the_numbers_of_an_answer_stand_at_the_places_that_it_names(question, answer):
    places = [(PAGE.parent / target).read_text(encoding="utf-8") for _, target in LINK.findall(answer)]
    for number in MEASURED.findall(f"{question} {LINK.sub('', answer)}"):
        whole = re.compile(rf"(?<![\d.])(?<!\d,){re.escape(number)}(?!\d|[.,]\d)")  # not a part of a longer number
        assert any(whole.search(place) for place in places), f"{number} is in none of the places"


# 2. What answers say about behaviour that no chapter prints

SENTENCE = torch.tensor([sorted(set(tensors.SENTENCE)).index(character) for character in tensors.SENTENCE])


def test_1_3_without_zero_grad_the_loss_does_not_settle(monkeypatch):
    good, entropy = tensors.train_bigram(SENTENCE, 15, 300)[1], tensors.bigram_entropy(tensors.SENTENCE)
    monkeypatch.setattr(torch.optim.SGD, "zero_grad", lambda self: None)
    bad = tensors.train_bigram(SENTENCE, 15, 300)[1]
    assert bad[5] < good[5] and sum(bad[-100:]) / 100 - entropy > 5 * (good[-1] - entropy)


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
    model = make_model(8, n_layer=2, causal=True)
    gpt.next_token_losses(model, torch.randint(8, (4, 17))).mean().backward()
    for name, parameter in model.blocks.named_parameters():
        assert bool(parameter.grad.any()) is name.endswith(("out.weight", "down.weight"))


def test_3_4_doubling_the_width():
    def parameters(**shape):
        parts = transformer.parameters_by_part(transformer.TransformerConfig(**shape))
        return sum(number for _, number in parts.values())

    tiny = dict(vocab_size=50_257, n_layer=12, n_head=3)
    assert 3.9 < parameters(n_embd=384) / parameters(n_embd=192) < 4
    assert 2 < parameters(n_embd=384, **tiny) / parameters(n_embd=192, **tiny) < 3


@pytest.mark.parametrize("how, equal", [({}, False), ({"select": diffusion.by_confidence, "correction": 0}, True)])
def test_6_4_the_order_is_random_even_at_temperature_0(how, equal):
    model = make_model(8, n_layer=2, std=0.5)
    texts = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        *_, last = diffusion.denoise(model, torch.full((4, 16), model.config.mask_id), 8, temperature=0.0, **how)
        texts.append(last.canvas)
    assert torch.equal(*texts) is equal


class RandomText:
    """A task with random text, so that no correct model has a loss below ln 8."""

    def batch(self, n):
        return torch.randint(8, (n, 17))

    def loss(self, model, windows):
        return gpt.next_token_losses(model, windows).mean()


@pytest.mark.parametrize("causal", [True, False])
def test_7_1_without_the_causal_mask_the_answer_is_visible(causal):
    model = make_model(8, n_layer=2, n_embd=32, causal=causal).train()
    config = training.TrainConfig(steps=100, batch_size=16, warmup=10, evaluations=0, dtype="float32", compile="off")
    training.train(model, RandomText(), config, Run(None, config), torch.device("cpu"))
    mean, _ = gpt.nll(model.eval(), torch.randint(8, (64, 17)))
    assert mean > math.log(8) - 0.05 if causal else mean < 1


def test_14_4_rows_of_two_bands_cannot_be_exchanged():
    solution = torch.tensor([[(3 * row + row // 3 + column) % 9 + 1 for column in range(9)] for row in range(9)])
    order = chapter_14.shuffled_lines(1)[0]
    assert not sudoku.conflicts(solution.view(1, 81)).any() and not sudoku.conflicts(solution[order].view(1, 81)).any()
    wrong = sudoku.conflicts(solution[[3, 1, 2, 0, 4, 5, 6, 7, 8]].view(1, 81))[0]
    assert wrong.any() and {sudoku.BOX[i] for i in wrong.nonzero()[:, 0].tolist()} <= set(range(6))
