"""The report on written couplets: what it measures, and that the page says what its numbers say."""

import json
from importlib import import_module

from helpers import make_model
from tamil_verse import SOURCES

from plumbing import tokenizers
from plumbing.reports import couplets

tamil = import_module("08_train_tamil")
verse = import_module("09_generate_tamil")


def test_each_way_is_measured_with_an_error():
    train, val = tamil.split(SOURCES)
    tokenizer = tokenizers.TamilTokenizer.from_text(tamil.joined(SOURCES))
    model = make_model(tokenizer.vocab_size, 96)
    command = couplets.Command(seeds=2, num=2, examples=1)
    row = couplets.measure(model, tokenizer, train, val, "the same behind a real couplet", command)
    assert len(row["examples"]) == 1 and verse.word_counts(row["examples"][0]) == verse.COUPLET
    assert all(0 <= mean <= 1 and error >= 0 for mean, error in (row[key] for key in couplets.NAMES))
    real = couplets.real(train, val)
    assert real["couplets"] == len(val["kural"]) and real["train"][0] == 1  # these words are in every poem


def test_a_couplet_stands_behind_real_ones():
    tokenizer = tokenizers.TamilTokenizer.from_text(tamil.joined(SOURCES))
    forms = verse.couplet_rows(SOURCES["kural"], 3, tokenizer, 0)
    rows = list(couplets.behind(forms, 20, SOURCES["kural"], tokenizer, 0))
    assert [row[20:] for row in rows] == forms and len({tuple(row[:20]) for row in rows}) > 1
    assert rows == list(couplets.behind(forms, 20, SOURCES["kural"], tokenizer, 0))  # the seed decides


def test_the_page_says_what_the_numbers_say():
    results = json.loads((couplets.FOLDER / "tamil_couplets.json").read_text(encoding="utf-8"))
    page = couplets.page(results)
    assert (couplets.FOLDER / "tamil_couplets.md").read_text(encoding="utf-8") == page
    for model in results["models"].values():
        assert model["seeds"] >= 5
        for row in model["rows"]:
            assert all(couplets.shown(row[key]) in page for key in couplets.NAMES)
