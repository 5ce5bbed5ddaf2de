"""Chapter 09, and 08 before it: couplets in their form, honest measures, and which model writes."""

import json
import math
import re
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from helpers import make_model, refusal, write_settings
from tamil_verse import ALL, SOURCES, poems

import tamil_dataset
from plumbing import checkpoint, cli, files, measures, runs, tokenizers
from plumbing.tamil import letters

diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
tamil = import_module("08_train_tamil")
verse = import_module("09_generate_tamil")


@pytest.fixture
def model(runs_folder):
    tokenizer = tokenizers.TamilTokenizer.from_text(tamil.joined(SOURCES))
    info = {"corpus": "kural-sangam", "corpus_sha256": "other"}
    model = make_model(tokenizer.vocab_size, 32)
    checkpoint.save(runs_folder / "m", model, tokenizer, info)
    return SimpleNamespace(folder=str(runs_folder / "m"), tokenizer=tokenizer, model=model)


# 1. Whole runs


def test_train_and_write(tamil_data, runs_folder, tmp_path, capsys, monkeypatch):
    """Both chapters in small, from data/tamil.txt to verse."""
    config = str(write_settings(tmp_path / "tiny.yaml", seq_len=32, steps=12, evaluate_every=6))
    tamil.main(["--config", config])
    out = capsys.readouterr().out
    folder = runs_folder / "tamil-kural-sangam-tiny"
    records = runs.read_log(folder / "log.jsonl")
    info = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    text, train, val = tamil.load("kural,sangam")
    held_out = tamil.joined(val)
    for record in (*records, info["info"]):
        bits = record["NELBO"] * len(letters.split(held_out)) / len(held_out) / math.log(2)
        assert record["bits_per_code_point"] == pytest.approx(bits)
    assert info["tokenizer"]["kind"] == "tamil" and info["info"]["corpus_sha256"] == text.sha256
    assert "bits per code point" in out and "kural" in out and "09_generate_tamil.py" in out
    assert checkpoint.find(kind="tamil") == folder
    tamil.main(["--config", config])
    assert "finished" in capsys.readouterr().out

    # Free text
    verse.main(["--len", "50", "--prompt", "அகர", "--seed", "1", "--num", "3", "--steps", "8"])
    out = capsys.readouterr().out
    assert out.count("--- sample") == 3 and out.count("\nஅகர") == 3 and "13 NFE" in out and "letters/s" in out
    table = re.findall(r"^(written here|held-out poems) +(\d+) +([\d.]+%) +([\d.]+%) +(\d+) letters +(.*)$", out, re.M)
    assert [row[1] for row in table] == ["150", "150"] and all(row[2] == "100.0%" for row in table)
    assert table[1][3] == "100.0%"  # these words are in every poem

    # Couplets
    flags = ["--kural", "--seed", "1", "--num", "3", "--steps", "8"]
    verse.main([*flags, "--gif", str(tmp_path / "a.gif"), "--html", str(tmp_path / "a.html")])
    out = capsys.readouterr().out
    assert re.search("written here .* given$", out, re.M) and re.search("held-out poems .* 3 of 3$", out, re.M)
    page = (tmp_path / "a.html").read_text(encoding="utf-8")
    run = json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', page, re.S)[1])
    assert run["letters"] == [*info["tokenizer"]["vocabulary"], tokenizers.MASK_CHAR]
    for sample in run["samples"]:
        tokens = list(sample["start"])
        for position, token, _ in (change for step in sample["events"] for change in step):
            assert sample["start"][position] == run["mask"]  # a letter may be taken back and written again
            tokens[position] = token
        couplet = "".join(run["letters"][token] for token in tokens)
        assert couplet in out and verse.word_counts(couplet.strip("\n")) == verse.COUPLET
    assert re.search(r"rhyme +words in -um .*\nwritten here +\d+% .*\nheld-out poems +\d+% ", out)
    verse.main([*flags, "--quiet"])
    quiet = capsys.readouterr().out
    assert "written here" not in quiet and all(line in out for line in quiet.split("\n"))
    couplets = quiet.removesuffix("\n").split("\n\n")  # one empty line between two couplets, and none around them
    assert [verse.word_counts(couplet) for couplet in couplets] == [verse.COUPLET] * 3

    # Without the corpus there is text, but no report and no couplet
    (tamil_data / "tamil.txt").unlink()
    verse.main(["--len", "20", "--seed", "1"])
    assert "no report: there is no " in capsys.readouterr().out

    def offline():
        raise cli.UserError("no network")

    monkeypatch.setattr(tamil_dataset, "build", offline)
    assert "no network" in refusal(verse.main, ["--kural"])  # couplets take their form from real ones


def test_kinds_of_models_are_not_mixed_up(tiny, runs_folder):
    tokenizer = tokenizers.TamilTokenizer(ALL)

    def save(name, kind, model, tokenizer):
        checkpoint.save(runs_folder / name, model, tokenizer, {"kind": kind, "corpus": "kural"})
        (runs_folder / name / "train_state.pt").touch()
        return runs_folder / name

    for kind, chapter in (("dllm", "05_train.py"), ("gpt", "07_train_gpt.py"), ("tamil", "08_train_tamil.py")):
        with pytest.raises(cli.UserError, match=chapter):
            checkpoint.find(kind=kind)
    shipped = save("tamil", "tamil", make_model(tokenizer.vocab_size, 32), tokenizer)
    (shipped / "train_state.pt").unlink()
    play = save("play", "dllm", tiny.model, tiny.tokenizer)
    assert checkpoint.find() == play and checkpoint.find(kind="tamil") == shipped
    poem = save("poem", "tamil", make_model(tokenizer.vocab_size, 32), tokenizer)
    assert checkpoint.find() == play and checkpoint.find(kind="tamil") == poem
    assert checkpoint.find("poem") == poem  # a name finds a model of any kind
    assert "06_generate.py" in refusal(verse.main, ["--checkpoint", "play"])
    causal = save("left", "gpt", make_model(tokenizer.vocab_size, 32, causal=True), tokenizer)
    assert checkpoint.find(kind="tamil") == poem and "GPT" in refusal(verse.main, ["--checkpoint", str(causal)])


@pytest.mark.parametrize("flags", [
    ["--kural", "--prompt", "அ"], ["--kural", "--infill", "_"], ["--kural", "--len", "9"], ["--kural", "--infill", ""],
    ["--prompt", "hello"], ["--prompt", "ா"], ["--infill", "அகர"], ["--infill", "க\u0bce_"], ["--len", "0"],
    ["--topk", "9999"], ["--prompt", "அகர", "--len", "3"], ["--steps", "x"], ["--checkpoint", "nowhere"], ["--kurals"],
], ids=" ".join)  # fmt: skip
def test_a_mistake_is_one_line_before_any_sampling(flags, model, tamil_data, monkeypatch):
    monkeypatch.setattr(generation, "generate", lambda *_: pytest.fail("sampled before the check"))
    assert refusal(verse.main, ["--checkpoint", model.folder, "--device", "cpu", *flags])


def test_another_corpus_than_the_models_is_said(model, tamil_data, capsys):
    verse.main(["--checkpoint", model.folder, "--len", "40", "--steps", "4"])
    assert "not quite those that the model learned from" in capsys.readouterr().out


# 2. Couplets


def test_a_canvas_has_the_form_of_a_real_couplet(model):
    tokenizer = model.tokenizer
    others = ["அகர\nமுதல", poems(1, (5, 3))[0]]
    rows = verse.couplet_rows(others + SOURCES["kural"], 5, tokenizer, seed=3)
    assert len(rows) == 5 and len(set(map(len, rows))) == 1
    forms = {re.sub(r"\S", "_", "".join("_" if not letter.isspace() else letter for letter in tokenizer.split(couplet)))
             for couplet in SOURCES["kural"]}  # fmt: skip
    for row in rows:
        text = tokenizer.decode(row)
        assert text.startswith("\n\n") and text.endswith("\n\n")
        assert text.strip("\n").replace(tokenizers.MASK_CHAR, "_") in forms
        assert verse.word_counts(text.strip("\n")) == [4, 3]
    assert rows == verse.couplet_rows(others + SOURCES["kural"], 5, tokenizer, seed=3)
    assert len({tuple(verse.couplet_rows(SOURCES["kural"], 1, tokenizer, seed)[0]) for seed in range(9)}) > 1
    with pytest.raises(cli.UserError, match="no couplets"):
        verse.couplet_rows(others, 1, tokenizer, 0)


def test_only_letters_go_into_a_word(model):
    tokenizer, tokens = model.tokenizer, torch.full((2, 16), model.tokenizer.vocab_size)
    spaces = [tokenizer.encode(character)[0] for character in " \n"]
    before = model.model(tokens)
    with verse.only_letters(model.model, tokenizer):
        logits = model.model(tokens)
        *_, last = generation.generate(model.model, tokens, 4, temperature=3.0)
    assert (logits[..., spaces] == -torch.inf).all()
    others = [i for i in range(tokenizer.vocab_size) if i not in spaces]
    assert torch.equal(logits[..., others], before[..., others])
    assert not torch.isin(last.canvas, torch.tensor(spaces)).any()
    assert torch.equal(model.model(tokens), before)  # afterwards the model is unchanged


# 3. Measures


def test_measures_of_texts_with_known_answers():
    corpus_text = "அகர முதல\nகொடு\n\n"
    vocabulary = set(measures.words_of(corpus_text))
    assert vocabulary == {"அகர", "முதல", "கொடு"} and measures.words_of("அகர, முதல… (கொடு)!") == ["அகர", "முதல", "கொடு"]
    assert measures.known_words(["அகர கொ", "கொடு"], vocabulary) == pytest.approx(2 / 3)
    found = verse.measure(["அகர x முதல", "டு அகர\n\n"], vocabulary, corpus_text)
    # Copied: " முதல", of four letters and five code points. Known of the whole words, x and அகர: one of two.
    assert found == {"letters": 16, "well-formed": 1.0, "words": 1 / 2, "copied": 4, "poems": 0, "couplets": 0}
    couplet, other = poems(1, (4, 3))[0], poems(1, (4, 4))[0]
    texts = [f"அகர\n\n{couplet}\n\n{other}\n\nமுதல", f"\n\n{couplet}\n\n", couplet]
    assert verse.whole_poems(texts) == [couplet, other, couplet]
    assert verse.well_formed(["காா", "க"]) == pytest.approx(2 / 3)


def test_measures_of_style():
    """Rhyme, words in -உம், and words known to two readers, of couplets with known answers."""
    assert [verse.second_consonant(line) for line in ("கற்க கசடற", "கிறங்க", "அ", "அ ஆ", "")] == ["ற", "ற", "", "ஆ", ""]
    held = {"kural": ["கற்க கசடறக்\nநிற்க அதற்கும்", "அகர கற்க\nபகவன்"], "sangam": ["யாதும் ஊரே"]}
    reader = verse.Reader(held)
    written = ["கற்றும் ஊரே\nநிறமும் அறமும்", "அகர முதல\nயாதும் பகவன்"]
    found = verse.verse_measures(written, {"முதல", "ஊரே"}, reader)
    assert found == {"rhyme": 1 / 2, "um": 4 / 8, "train": 2 / 8, "held": 4 / 8}
    assert verse.verse_measures(held["kural"], set(), reader)["held"] == 2 / 7  # கற்க is in two poems, the others in one


def test_real_texts_are_as_many_and_as_long():
    _, val = tamil.split(SOURCES)
    texts = verse.real_texts(val, 30, 5, kural=False)
    assert [len(letters.split(text)) for text in texts] == [30] * 5
    assert all(text in tamil.joined(val) for text in texts) and tamil.joined(val).endswith(texts[-1])
    assert len(verse.real_texts(val, 30, 1, kural=False)) == 1 and verse.real_texts(val, 10**6, 3, kural=False) == []
    couplets = verse.real_texts(val, 30, 4, kural=True)
    assert len(couplets) == 4 and len(set(couplets)) > 1 and all(text.strip("\n") in val["kural"] for text in couplets)
    assert len(verse.real_texts(val, 30, 999, kural=True)) == len(val["kural"])


def test_the_shipped_model_writes_whole_letters_only():
    model, tokenizer, info = checkpoint.load(files.ROOT / "checkpoints" / "tamil")
    assert (tokenizer.kind, info["kind"]) == ("tamil", "tamil")
    canvas = torch.full((2, 48), model.config.mask_id)
    *_, last = diffusion.denoise(model, canvas, steps=4)
    assert verse.well_formed([tokenizer.decode(row) for row in last.canvas]) == 1
