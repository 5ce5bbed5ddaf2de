"""Chapters 08 and 09: letters as tokens, poems that are held out, couplets in their form, and honest measures."""

import io
import json
import math
import random
import re
import unicodedata
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from helpers import make_model, refusal, seeded, write_settings

import tamil_dataset
from plumbing import checkpoint, cli, files, measures, runs, tokenizers, views
from plumbing.tamil import letters

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")
generation = import_module("06_generate")
tamil = import_module("08_train_tamil")
verse = import_module("09_generate_tamil")

VOWELS = "அஆஇஈஉஊஎஏஐஒஓஔ"
SIGNS = ["", *"ாிீுூெேைொோௌ"]
CONSONANTS = "கஙசஞடணதநபமயரலவழளறன"
GRANTHA = [*"ஜஶஷஸஹ", "க்ஷ"]
LETTERS = [*VOWELS, "ஃ", *(c + s for c in CONSONANTS for s in [*SIGNS, "்"])]
ALL = [*LETTERS, *(c + s for c in GRANTHA for s in [*SIGNS, "்"]), "ஸ்ரீ", "ஶ்ரீ"]
WORDS = "அகர முதல எழுத்தெல்லாம் ஆதி பகவன் முதற்றே உலகு கற்றதனால் ஆய பயனென்கொல் வாலறிவன் நற்றாள் யாதும் ஊரே".split()


def poems(number, form, seed=0):
    """Poems of known words, each line as many words as `form` says."""
    draw = random.Random(seed)
    return ["\n".join(" ".join(draw.choices(WORDS, k=words)) for words in form) for _ in range(number)]


SOURCES = {"kural": poems(100, (4, 3)), "sangam": poems(60, (4, 4, 5, 3), seed=1)}


# The tokenizer


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
    assert verse.well_formed([points]) < 0.9  # the measure can tell


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


# The corpus


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


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A data folder with a small data/tamil.txt and a Wikipedia of three articles."""
    folder = tmp_path / "data"
    folder.mkdir()
    blocks = {"kural": SOURCES["kural"], "natrinai": SOURCES["sangam"][:30], "purananuru": SOURCES["sangam"][30:]}
    text = "\n\n".join(f"# {name}\n" + "\n\n".join(poems) for name, poems in blocks.items())
    (folder / "tamil.txt").write_text(text + "\n", encoding="utf-8")
    articles = [f"{poem} 2026" for poem in poems(60, (5, 5, 5), seed=2)]
    (folder / "tamil_wikipedia.txt").write_text("# wikipedia\n" + "\n\n".join(articles) + "\n", encoding="utf-8")
    monkeypatch.setattr(tamil_dataset, "FILE", folder / "tamil.txt")
    monkeypatch.setattr(tamil_dataset, "WIKIPEDIA", folder / "tamil_wikipedia.txt")
    return folder


def test_any_mix_of_sources_can_be_read(data):
    assert tamil.read_poems("kural") == {"kural": SOURCES["kural"]}
    assert tamil.read_poems("sangam,kural") == tamil.read_poems("kural,sangam,kural") == SOURCES
    assert list(tamil.read_poems("wikipedia, kural")) == ["kural", "wikipedia"]
    assert tamil.read_poems("sangam,natrinai") == {"sangam": SOURCES["sangam"]}  # no poem twice
    assert tamil.read_poems("natrinai") == {"natrinai": SOURCES["sangam"][:30]}
    text, train, val = tamil.load("kural,sangam,wikipedia")
    assert text.name == "kural-sangam-wikipedia" and text.sha256 == files.sha256_of(text.text)
    assert "2026" in text.text and text.text.endswith("\n\n") and "\n\n\n" not in text.text
    assert len(text.text.split("\n\n")) - 1 == sum(len(p) for part in (train, val) for p in part.values()) == 220


def test_missing_sources_are_named(data, monkeypatch, capsys):
    for names, word in (("kural,iliad", "'iliad'"), ("", "''"), ("kural,", "''")):
        with pytest.raises(cli.UserError, match=word):
            tamil.read_poems(names)
    (data / "tamil_wikipedia.txt").unlink()
    with pytest.raises(cli.UserError, match="tamil_wikipedia.py"):
        tamil.read_poems("kural,wikipedia")
    (data / "tamil.txt").write_text("# kural\nஅகர\nமுதல\n", encoding="utf-8")
    with pytest.raises(cli.UserError, match="no poems of sangam"):
        tamil.read_poems("sangam")
    assert list(tamil.read_poems("kural,sangam")) == ["kural"]
    assert "no poems of sangam" in capsys.readouterr().err  # a message, and the run continues without
    with pytest.raises(cli.UserError, match="too few poems"):
        tamil.load("kural")
    (data / "tamil.txt").unlink()
    built = []
    monkeypatch.setattr(tamil_dataset, "build", lambda: built.append((data / "tamil.txt").write_text("# kural\nஅ\n")),
                        raising=False)
    assert tamil.read_poems("kural") == {"kural": ["அ"]} and built


# Why letters


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


# Whole runs

@pytest.fixture
def config(tmp_path):
    return str(write_settings(tmp_path / "tiny.yaml", seq_len=32, steps=12, evaluate_every=6))


def test_train_and_write(data, runs_folder, config, tmp_path, capsys, monkeypatch):
    """From data/tamil.txt to verse: the whole of both chapters, small."""
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
        tokens = sample["start"]
        for position, token, _ in (change for step in sample["events"] for change in step):
            assert tokens[position] == run["mask"]
            tokens[position] = token
        couplet = "".join(run["letters"][token] for token in tokens)
        assert couplet in out and verse.word_counts(couplet.strip("\n")) == verse.COUPLET
    verse.main([*flags, "--quiet"])
    quiet = capsys.readouterr().out
    assert "written here" not in quiet and all(line in out for line in quiet.split("\n"))

    # Without the corpus there is text, but no report and no couplet
    (data / "tamil.txt").unlink()
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
    assert checkpoint.find("poem") == poem  # by name: whatever it is
    assert "06_generate.py" in refusal(verse.main, ["--checkpoint", "play"])
    causal = save("left", "gpt", make_model(tokenizer.vocab_size, 32, causal=True), tokenizer)
    assert checkpoint.find(kind="tamil") == poem and "GPT" in refusal(verse.main, ["--checkpoint", str(causal)])


@pytest.fixture
def model(runs_folder):
    tokenizer = tokenizers.TamilTokenizer.from_text(tamil.joined(SOURCES))
    info = {"corpus": "kural-sangam", "corpus_sha256": "other"}
    model = make_model(tokenizer.vocab_size, 32)
    checkpoint.save(runs_folder / "m", model, tokenizer, info)
    return SimpleNamespace(folder=str(runs_folder / "m"), tokenizer=tokenizer, model=model)


@pytest.mark.parametrize("flags", [
    ["--kural", "--prompt", "அ"], ["--kural", "--infill", "_"], ["--kural", "--len", "9"], ["--kural", "--infill", ""],
    ["--prompt", "hello"], ["--prompt", "ா"], ["--infill", "அகர"], ["--infill", "க\u0bce_"], ["--len", "0"],
    ["--topk", "9999"], ["--prompt", "அகர", "--len", "3"], ["--steps", "x"], ["--checkpoint", "nowhere"], ["--kurals"],
], ids=" ".join)  # fmt: skip
def test_a_mistake_is_one_line_before_any_sampling(flags, model, data, monkeypatch):
    monkeypatch.setattr(generation, "generate", lambda *_: pytest.fail("sampled before the check"))
    assert refusal(verse.main, ["--checkpoint", model.folder, "--device", "cpu", *flags])


@pytest.mark.parametrize("flags", [
    ["--corpus", "iliad"], ["--corpus", "kural,"], ["--seq-len", "5000"], ["--compare", "-1"], ["--compare", "x"],
    ["--vocab-size", "9"], ["--causal", "true"],
])  # fmt: skip
def test_training_refuses_before_it_starts(flags, data, runs_folder, config):
    assert refusal(tamil.main, ["--config", config, *flags])
    assert not runs_folder.exists()


def test_another_corpus_than_the_models_is_said(model, data, capsys):
    verse.main(["--checkpoint", model.folder, "--len", "40", "--steps", "4"])
    assert "not quite those that the model learned from" in capsys.readouterr().out


# Couplets


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
    assert torch.equal(model.model(tokens), before)  # and afterwards all is as it was


# Measures


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


def test_real_texts_are_as_many_and_as_long():
    _, val = tamil.split(SOURCES)
    texts = verse.real_texts(val, 30, 5, kural=False)
    assert [len(letters.split(text)) for text in texts] == [30] * 5
    assert all(text in tamil.joined(val) for text in texts) and tamil.joined(val).endswith(texts[-1])
    assert len(verse.real_texts(val, 30, 1, kural=False)) == 1 and verse.real_texts(val, 10**6, 3, kural=False) == []
    couplets = verse.real_texts(val, 30, 4, kural=True)
    assert len(couplets) == 4 and len(set(couplets)) > 1 and all(text.strip("\n") in val["kural"] for text in couplets)
    assert len(verse.real_texts(val, 30, 999, kural=True)) == len(val["kural"])


# Views


def test_a_row_in_the_terminal_never_wraps(model):
    letters = [*model.tokenizer.vocabulary, tokenizers.MASK_CHAR]
    canvas = torch.randint(len(letters), (2, 200), generator=seeded(0))
    state = diffusion.State(canvas=canvas, confidence=canvas.float(), committed=canvas < 0, step=1, nfe=1)
    rows = views.page(state, [[False] * 200] * 2, letters, 20)
    assert max(sum(len(text) for text, _ in row) for row in rows) in (18, 19, 20)
    shown = "".join(text for row in rows for text, style in row if style != "note")
    assert shown == "".join(letters[i] for i in canvas.flatten().tolist()).replace("\n", "")


def test_letters_are_drawn_whole(model, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    font = views.tamil_font(ALL)
    drawn = {letter: views.draw_tamil(font, letter, 10, 22) for letter in ALL[:-1]}  # ஶ்ரீ looks like ஸ்ரீ
    ink = {letter: sum(glyph.get_flattened_data() if hasattr(glyph, "get_flattened_data") else glyph.getdata())
           for letter, glyph in drawn.items()}  # fmt: skip
    assert all(ink.values()) and all(glyph.height == 22 for glyph in drawn.values())
    assert len({(glyph.size, glyph.tobytes()) for glyph in drawn.values()}) == len(drawn)  # each its own shape
    # The sign of கெ stands on the left: the shape begins with it, and ends as க does.
    wide, narrow = (drawn[letter].crop(drawn[letter].getbbox()) for letter in ("கெ", "க"))
    assert wide.width > 1.5 * narrow.width and wide.height >= narrow.height
    assert wide.crop((wide.width - narrow.width, wide.height - narrow.height, *wide.size)).tobytes() == narrow.tobytes()
    assert views.tamil_font(["a", tokenizers.MASK_CHAR]) is None

    history = list(generation.generate(model.model, torch.full((2, 24), model.tokenizer.vocab_size), steps=6))
    letters = [*model.tokenizer.vocabulary, tokenizers.MASK_CHAR]
    with image.open(io.BytesIO(views.gif_bytes(history, [[False] * 24] * 2, letters))) as gif:
        assert gif.n_frames == 8 and gif.size[0] >= 24 * 10
    monkeypatch.setattr(views.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(cli.UserError, match="fontpkg-noto-sans-tamil"):
        views.tamil_font(ALL)


def test_the_shipped_model_writes_whole_letters_only():
    model, tokenizer, info = checkpoint.load(files.ROOT / "checkpoints" / "tamil")
    assert (tokenizer.kind, info["kind"]) == ("tamil", "tamil")
    canvas = torch.full((2, 48), model.config.mask_id)
    *_, last = diffusion.denoise(model, canvas, steps=4)
    assert verse.well_formed([tokenizer.decode(row) for row in last.canvas]) == 1
