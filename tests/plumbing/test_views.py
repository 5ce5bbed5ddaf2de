"""views.py: rows for the terminal, GIFs and the web page, from States made by hand or by a tiny untrained model."""

import io
import json
import re
import signal
from importlib import import_module

import pytest
import torch
from helpers import make_model, seeded
from tamil_verse import ALL, SOURCES

from plumbing import cli, tokenizers, views

diffusion = import_module("04_diffusion")
generation = import_module("06_generate")


def state_of(rows):
    """A State with the canvas `rows` and nothing new."""
    canvas = torch.tensor(rows)
    return diffusion.State(
        canvas=canvas, confidence=torch.ones(canvas.shape), committed=canvas < 0, step=1, nfe=1)


def test_tokens_show_as_their_text_and_the_mask_comes_last(tiny):
    assert views.shown_tokens(tiny.tokenizer) == [*"\n abcdeé", tokenizers.MASK_CHAR]
    assert views.shown_tokens(tokenizers.Bytes()) == tokenizers.Bytes().letters


def test_control_characters_do_not_reach_the_screen():
    state = state_of([[0, 1, 2]])
    rows = views.page(state, [[False] * 3], ["\x1b", "a", "\n", tokenizers.MASK_CHAR], 80)
    assert rows == [[(r"\x1b", "old"), ("a", "old")], []]


def test_rows_wrap_and_the_tail_ends_at_the_text():
    rows = [[("a", "old")]] * 5 + [[("░", "mask")]] * 5
    assert views.tail(rows, 20) == rows and views.tail(rows, 3) == rows[2:5]
    state = state_of([[1] * 10])
    assert [len(row) for row in views.page(state, [[False] * 10], ["\n", "a", "░"], 4)] == [4, 4, 2]


def test_gif_thins_out_a_long_run(tiny, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(views, "GIF_FRAMES", 10)
    letters = [*"xabcdefg", tokenizers.MASK_CHAR]
    history = list(generation.generate(tiny.model, torch.full((1, 60), 8), steps=32))
    data = views.gif_bytes(history, [[False] * 60], letters)
    with image.open(io.BytesIO(data)) as gif:
        assert len(history) > 100 and gif.n_frames == 12  # each twelfth State, and the last one twice


def test_html_needs_nothing_from_outside():
    page = views.PLAYER.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bsrc=|<link|innerHTML", page)
    assert page.count("__RUN__") == 1


def test_a_token_that_is_written_again_has_its_new_probability():
    """Also if it is the same token: position 0 here. Position 1 gets another one, and position 2 stays as it is."""
    history = [
        diffusion.State(canvas=torch.tensor([canvas]), confidence=torch.tensor([sure]), nfe=step, step=step,
                        committed=torch.tensor([committed]) > 0)
        for step, (canvas, sure, committed) in enumerate(
            [([2, 2, 2], [0.0, 0.0, 0.0], [0, 0, 0]), ([0, 0, 1], [0.25, 0.5, 0.75], [1, 1, 1]),
             ([0, 1, 1], [0.5, 1.0, 0.75], [1, 1, 0])])]  # fmt: skip
    page = views.html_page(history, ["a", "b", tokenizers.MASK_CHAR], "", "")
    run = json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', page, re.S)[1])
    assert run["samples"][0]["events"] == [[], [[0, 0, 25], [1, 0, 50], [2, 1, 75]], [[0, 0, 50], [1, 1, 100]]]


def test_hostile_text_is_escaped(tiny):
    letters = ["</script><b>&<!--\u2028", *7 * "x", tokenizers.MASK_CHAR]
    history = list(generation.generate(tiny.model, torch.full((1, 8), 8), steps=4))
    page = views.html_page(history, letters, "</title><b>", "<i>")
    plain = views.PLAYER.read_text(encoding="utf-8")
    assert page.count("</script>") == plain.count("</script>")
    assert "<b>&" not in page and "</title><b>" not in page
    run = json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', page, re.S)[1])
    assert run["letters"] == letters and run["title"] == "</title><b>"


def test_sigterm_gives_the_cursor_back():
    out, before = io.StringIO(), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stop:
        with views.Terminal([[False]], ["a", "░"], out):
            signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == 143 and out.getvalue().endswith("\x1b[?25h")
    assert signal.getsignal(signal.SIGTERM) == before


# Tamil


@pytest.fixture
def tamil_tokenizer():
    return tokenizers.TamilTokenizer.from_text(SOURCES["kural"][0])


def test_a_row_in_the_terminal_never_wraps(tamil_tokenizer):
    letters = [*tamil_tokenizer.vocabulary, tokenizers.MASK_CHAR]
    canvas = torch.randint(len(letters), (2, 200), generator=seeded(0))
    state = diffusion.State(canvas=canvas, confidence=canvas.float(), committed=canvas < 0, step=1, nfe=1)
    rows = views.page(state, [[False] * 200] * 2, letters, 20)
    assert max(sum(len(text) for text, _ in row) for row in rows) in (18, 19, 20)
    shown = "".join(text for row in rows for text, style in row if style != "note")
    assert shown == "".join(letters[i] for i in canvas.flatten().tolist()).replace("\n", "")


def test_letters_are_drawn_whole(tamil_tokenizer, monkeypatch):
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

    model, empty = make_model(tamil_tokenizer.vocab_size, 32), torch.full((2, 24), tamil_tokenizer.mask_id)
    history = list(generation.generate(model, empty, steps=6))
    letters = [*tamil_tokenizer.vocabulary, tokenizers.MASK_CHAR]
    with image.open(io.BytesIO(views.gif_bytes(history, [[False] * 24] * 2, letters))) as gif:
        assert gif.n_frames == 8 and gif.size[0] >= 24 * 10
    monkeypatch.setattr(views.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(cli.UserError, match="fontpkg-noto-sans-tamil"):
        views.tamil_font(ALL)
