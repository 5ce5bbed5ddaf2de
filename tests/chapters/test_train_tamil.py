"""Chapter 08: poems that are held out, why letters are the tokens, and mistakes."""

import re
from importlib import import_module

import pytest
from helpers import refusal, write_settings
from tamil_verse import SOURCES

import tamil_dataset
from plumbing import cli, files, tokenizers
from plumbing.tamil import letters

tamil = import_module("08_train_tamil")


# 1. The corpus


def test_rare_symbols_go_and_tamil_letters_stay():
    dirty = ["க்ஷா 12\u200b\n[3]\nஅ\u00a0 ௵௵ா", "[]", "ஞௌ 12"]
    assert tamil.drop_rare(dirty, least=2) == ["க்ஷா 12\n[]\nஅ ௵௵", "[]", "ஞௌ 12"]
    assert tamil.drop_rare(dirty, least=3) == ["க்ஷா\nஅ ௵௵", "ஞௌ"]
    tokenizer = tokenizers.TamilTokenizer.from_text("\n\n".join(tamil.drop_rare(dirty, least=2)))
    assert set(tokenizer.vocabulary) == {"\n", " ", "1", "2", "[", "]", "அ", "ஞௌ", "க்ஷா", "௵"}
    with pytest.raises(cli.UserError, match="not a letter"):
        tokenizers.TamilTokenizer.from_text(dirty[0])


def test_validation_poems_are_whole_and_unseen():
    train, val = tamil.split(SOURCES)
    for name, given in SOURCES.items():
        assert sorted(train[name] + val[name]) == sorted(given) and not set(train[name]) & set(val[name])
        assert 0.03 < len(val[name]) / len(given) < 0.25
        assert train[name] == [poem for poem in given if poem in train[name]]  # in their order
    only, held = tamil.split({"kural": SOURCES["kural"]})
    assert (only["kural"], held["kural"]) == (train["kural"], val["kural"])  # whatever else there is


def test_what_stands_in_training_is_no_test():
    _, val = tamil.split(SOURCES)
    poem = val["kural"][0]
    assert poem.count("\n") == 1
    copies = SOURCES | {"wikipedia": [poem.replace(" ", "  ") + ".", "ஊரே\n" + "!\nஅகர\n".join(poem.split("\n"))]}
    train, held = tamil.split(copies)
    assert poem in train["kural"] and poem not in held["kural"]  # an article quotes its lines
    tested = [text for texts in held.values() for text in texts]
    assert tested and not any(tamil.plain(text) == tamil.plain(poem) for text in tested)
    seen = {tamil.plain(line) for texts in train.values() for text in texts for line in text.split("\n")}
    assert all(any(tamil.plain(line) not in seen for line in text.split("\n")) for text in tested)


def test_any_mix_of_sources_can_be_read(tamil_data):
    assert tamil.read_poems("kural") == {"kural": SOURCES["kural"]}
    assert tamil.read_poems("sangam,kural") == tamil.read_poems("kural,sangam,kural") == SOURCES
    assert list(tamil.read_poems("wikipedia, kural")) == ["kural", "wikipedia"]
    assert tamil.read_poems("sangam,natrinai") == {"sangam": SOURCES["sangam"]}  # no poem twice
    assert tamil.read_poems("natrinai") == {"natrinai": SOURCES["sangam"][:30]}
    text, train, val = tamil.load("kural,sangam,wikipedia")
    assert text.name == "kural-sangam-wikipedia" and text.sha256 == files.sha256_of(text.text)
    assert "2026" in text.text and text.text.endswith("\n\n") and "\n\n\n" not in text.text
    assert len(text.text.split("\n\n")) - 1 == sum(len(p) for part in (train, val) for p in part.values()) == 220


def test_missing_sources_are_named(tamil_data, monkeypatch, capsys):
    for names, word in (("kural,iliad", "'iliad'"), ("", "''"), ("kural,", "''")):
        with pytest.raises(cli.UserError, match=word):
            tamil.read_poems(names)
    (tamil_data / "tamil_wikipedia.txt").unlink()
    with pytest.raises(cli.UserError, match="tamil_wikipedia.py"):
        tamil.read_poems("kural,wikipedia")
    (tamil_data / "tamil.txt").write_text("# kural\nஅகர\nமுதல\n", encoding="utf-8")
    with pytest.raises(cli.UserError, match="no poems of sangam"):
        tamil.read_poems("sangam")
    assert list(tamil.read_poems("kural,sangam")) == ["kural"]
    assert "no poems of sangam" in capsys.readouterr().err  # a message, and the run continues without
    with pytest.raises(cli.UserError, match="too few poems"):
        tamil.load("kural")
    poems, built = tamil_data / "tamil.txt", []
    poems.unlink()
    content = "# kural\nஅ\n".encode()
    monkeypatch.setattr(tamil_dataset, "build", lambda: built.append(poems.write_bytes(content)))
    assert tamil.read_poems("kural") == {"kural": ["அ"]} and built


# 2. Why letters


def test_three_alphabets_spell_the_same_text():
    text = tamil.joined(SOURCES)
    lengths = []
    for _, tokenizer, encode, decode in tamil.alphabets(text):
        ids = tokenizer.encode(encode(text))
        assert decode(tokenizer.decode(ids)) == text
        lengths.append(len(ids))
    assert lengths == [len(letters.split(text)), len(text), len(text.encode())]
    assert tamil.ill_formed_share("கா") == 0 and tamil.ill_formed_share("காா") == 0.5
    assert tamil.ill_formed_share("க\ufffd\ufffdஅ") == 0.5


def test_comparison_measures_what_small_models_write(capsys):
    tamil.compare(SOURCES["kural"][:10], steps=2, passes=(2, 4), texts=2)
    rows = re.findall(r"^  (letters|code points|UTF-8 bytes) +(\d+) +([\d.]+) +(.*)$", capsys.readouterr().out, re.M)
    shares = [[float(share) for share in re.findall(r"([\d.]+)%", row[3])] for row in rows]
    assert len(rows) == 3 and shares[0] == [0, 0, 0]
    assert all(share > 0 for row in shares[1:] for share in row)
    couplets = SOURCES["kural"][:10]
    assert float(rows[1][2]) == pytest.approx(sum(map(len, couplets)) / 10, abs=0.06)


# 3. Mistakes


@pytest.mark.parametrize("flags", [
    ["--corpus", "iliad"], ["--corpus", "kural,"], ["--seq-len", "5000"], ["--compare", "-1"], ["--compare", "x"],
    ["--compare", "2", "--device", "cpu"],
    ["--vocab-size", "9"], ["--causal", "true"],
])  # fmt: skip
def test_training_refuses_before_it_starts(flags, tamil_data, runs_folder, tmp_path):
    config = str(write_settings(tmp_path / "tiny.yaml", seq_len=32))
    assert refusal(tamil.main, ["--config", config, *flags])
    assert not runs_folder.exists()
