"""Chapter 06: canvases, generation beyond the window, and the three views, on a tiny untrained model."""

import io
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from plumbing import checkpoint, cli, tokenizers, views

ROOT = Path(__file__).resolve().parents[2]
transformer = import_module("03_transformer")
generate = import_module("06_generate")

VOCABULARY = "\n !'(),./:;<>?{}_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKENIZER = tokenizers.CharTokenizer(VOCABULARY)
MASK = TOKENIZER.vocab_size


def make_model(tokenizer=TOKENIZER, **changes):
    torch.manual_seed(0)
    settings = {"seq_len": 32, "n_layer": 1, "n_head": 2, "n_embd": 16} | changes
    config = transformer.TransformerConfig(vocab_size=tokenizer.vocab_size, **settings)
    return transformer.Transformer(config).eval()


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """Models this small only lose time to more threads, above all beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model():
    return make_model()


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("tiny")
    checkpoint.save(path, model, TOKENIZER, {})
    return path


@pytest.fixture
def run(folder, capsys):
    def run(*flags):
        generate.main(["--checkpoint", str(folder), "--device", "cpu", "--steps", "8", *flags])
        return capsys.readouterr().out

    return run


def quiet(run, *flags):
    return run("--quiet", *flags).removesuffix("\n")


# ---- Canvas ----


@pytest.mark.parametrize(
    "text, shape",
    [("a_b", "a_b"), ("___", "___"), ("a{3}b_", "a___b_"), ("{0}a{1}", "a_"), ("{x}_{}", "{x}_{}")],
)
def test_infill_reads_underscores_and_lengths(text, shape):
    expected = [MASK if character == "_" else TOKENIZER.encode(character)[0] for character in shape]
    assert generate.parse_infill(text, TOKENIZER) == expected


def test_prompt_is_followed_by_masks():
    ids = generate.parse_prompt("ROMEO:\n", 20, TOKENIZER)
    assert TOKENIZER.decode(ids) == "ROMEO:\n" + 13 * tokenizers.MASK_CHAR


@pytest.mark.parametrize("text", ["no blank", "", "{}", "{0}", "_" * 100_001, "{99999999}"])
def test_infill_without_a_blank_or_too_long_is_refused(text):
    with pytest.raises(cli.UserError):
        generate.parse_infill(text, TOKENIZER)


# ---- Sampling ----


@pytest.mark.parametrize("length, size", [(1, 32), (32, 32), (33, 32), (100, 32), (7, 1), (50, 3)])
def test_windows_cover_the_canvas_with_context(length, size):
    windows = generate.plan_windows(torch.full((2, length), MASK), MASK, size, 8)
    done = 0
    for left, right, steps in windows:
        assert 0 <= left <= done < right <= length and right - left == min(size, length)
        assert done == 0 or done - left >= size // 2  # at least half a window to continue from
        assert 1 <= steps <= right - done
        done = right
    assert done == length


def test_windows_without_masks_take_no_steps():
    canvas = torch.full((1, 96), 5)
    canvas[0, 90] = MASK
    assert generate.plan_windows(canvas, MASK, 32, 8) == [(64, 96, 1)]


@pytest.mark.parametrize("length", [1, 20, 32, 33, 100])
def test_generate_fills_every_mask_and_nothing_else(model, length):
    canvas = torch.full((3, length), MASK)
    canvas[:, ::7] = 4  # given positions all along, also beyond the first window
    canvas[:, 0] = MASK
    start = canvas.clone()
    states = list(generate.generate(model, canvas, steps=8, generator=torch.Generator().manual_seed(1)))
    assert torch.equal(canvas, start) and torch.equal(states[0].canvas, start) and states[0].nfe == 0
    given = start != MASK
    for number, (before, state) in enumerate(zip(states, states[1:]), 1):
        assert state.canvas.shape == state.confidence.shape == state.committed.shape == start.shape
        assert state.step == state.nfe == number
        assert torch.equal(state.canvas[given], start[given]) and (state.confidence[given] == 1).all()
        assert torch.equal(state.committed, before.canvas != state.canvas)
        kept = before.canvas != MASK  # once drawn, a character keeps the probability it was drawn with
        assert torch.equal(state.confidence[kept], before.confidence[kept])
    assert (states[-1].canvas < MASK).all()


def test_length_prompt_and_seed(run):
    text = quiet(run, "--len", "100", "--prompt", r"ROMEO:\nO", "--seed", "1")
    assert len(text) == 100 and text.startswith("ROMEO:\nO") and tokenizers.MASK_CHAR not in text
    assert text == quiet(run, "--len", "100", "--prompt", r"ROMEO:\nO", "--seed", "1")
    assert text != quiet(run, "--len", "100", "--prompt", r"ROMEO:\nO", "--seed", "2")


def test_a_random_seed_is_printed_and_reproduces(run):
    out = run("--len", "40", "--num", "2")
    seed = re.search(r"seed (\d+)", out)[1]
    again = run("--len", "40", "--num", "2", "--seed", seed)
    assert out.split("---", 1)[1] == again.split("---", 1)[1]


def test_infill_keeps_the_text_around_blanks(run):
    text = quiet(run, "--infill", r"To be, ____ is\n{40} the question", "--seed", "1")
    assert re.fullmatch(r"To be, .{4} is\n.{40} the question", text, flags=re.S)


def test_steps_temperature_and_topk_change_the_result(run):
    base = ("--len", "60", "--seed", "1")
    assert "step 8/8 · 8 NFE" in run("--len", "30") and "step 3/3 · 3 NFE" in run("--infill", "a___")
    greedy = quiet(run, *base, "--temp", "0")
    assert greedy == quiet(run, "--len", "60", "--seed", "2", "--temp", "0")
    assert greedy == quiet(run, *base, "--temp", "1e-300") == quiet(run, *base, "--topk", "1")
    assert greedy != quiet(run, *base)


# ---- Text output ----


def test_a_console_without_our_characters_does_not_stop_the_run(run, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    run("--len", "20", "--seed", "1")
    console.flush()
    assert b"step 8/8 ? 8 NFE" in console.buffer.getvalue()


def test_plain_output_has_a_header_and_no_control_codes(run):
    out = run("--num", "2", "--len", "20", "--seed", "7")
    assert "seed 7" in out and "--- sample 2 of 2 ---" in out
    assert "\x1b" not in out and "\r" not in out


def test_quiet_prints_only_text(run, tmp_path, capsys):
    out = run("--quiet", "--infill", "ab__", "--html", str(tmp_path / "a.html"))
    assert re.fullmatch(r"ab..\n", out, flags=re.S) and capsys.readouterr().err == ""


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_terminal_gives_the_cursor_back(run, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    for fails in (False, True):
        screen = Screen()
        monkeypatch.setattr(sys, "stdout", screen)
        if fails:
            monkeypatch.setattr(views.Terminal, "paint", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run("--len", "20")
        else:
            run("--len", "20")
            assert "\x1b[30;43m" in screen.getvalue()
        assert screen.getvalue().startswith("\x1b[?25l") and screen.getvalue().endswith("\x1b[?25h")


def test_no_color_and_a_small_screen(run, monkeypatch):
    for name, value in {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "20", "LINES": "8"}.items():
        monkeypatch.setenv(name, value)
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    run("--len", "200", "--num", "3", "--seed", "1")
    assert not re.search(r"\x1b\[[0-9;]*m", screen.getvalue())
    frames = re.split(r"\r(?:\x1b\[\d+A)?", screen.getvalue())[1:]
    assert all(frame.count("\n") <= 7 for frame in frames[:-1])  # the last is the whole text
    assert all(len(row) < 20 for row in frames[3].replace("\x1b[K", "").replace("\x1b[J", "").split("\n"))


def test_control_characters_do_not_reach_the_screen():
    state = generate.diffusion.State(
        torch.tensor([[0, 1, 2]]), torch.ones(1, 3), torch.zeros(1, 3, dtype=torch.bool), 1, 1
    )
    rows = views.page(state, [[False] * 3], ["\x1b", "a", "\n", tokenizers.MASK_CHAR], 80)
    assert rows == [[(" ", "old"), ("a", "old")], []]


def test_rows_wrap_and_the_tail_ends_at_the_text():
    rows = [[("a", "old")]] * 5 + [[("░", "mask")]] * 5
    assert views.tail(rows, 20) == rows and views.tail(rows, 3) == rows[2:5]
    canvas = torch.full((1, 10), 1)
    state = generate.diffusion.State(canvas, canvas.float(), canvas == 1, 1, 1)
    assert [len(row) for row in views.page(state, [[False] * 10], ["\n", "a", "░"], 4)] == [4, 4, 2]


# ---- Files ----


def test_gif_has_a_frame_a_step_and_a_still_at_the_end(run, tmp_path):
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "out.gif"
    run("--infill", "To be ____ and {12} too", "--gif", str(path))
    with image.open(path) as gif:
        # Untouched canvas, 8 steps, the clean ending; a step that only wrote spaces still shows its number.
        assert gif.n_frames == 10 and gif.size[0] > 200
        gif.seek(9)
        assert gif.info["duration"] == 2000
        assert len(gif.convert("RGB").getcolors()) <= 32
    assert path.stat().st_size < 100_000 and list(tmp_path.iterdir()) == [path]


def test_gif_thins_out_a_long_run(model, monkeypatch):
    image = pytest.importorskip("PIL.Image")
    monkeypatch.setattr(views, "GIF_FRAMES", 10)
    letters = list(VOCABULARY.replace("\n", "x")) + [tokenizers.MASK_CHAR]
    history = list(generate.generate(model, torch.full((1, 60), MASK), steps=32))
    data = views.gif_bytes(history, [[False] * 60], letters)
    with image.open(io.BytesIO(data)) as gif:
        assert len(history) == 61 and gif.n_frames == 11


def embedded(page):
    return json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', page, re.S)[1])


def test_html_replays_to_the_printed_text(run, tmp_path):
    path = tmp_path / "out.html"
    text = quiet(run, "--len", "60", "--prompt", "ROMEO:", "--seed", "3", "--html", str(path))
    data = embedded(path.read_text(encoding="utf-8"))
    tokens, letters = data["samples"][0]["start"], data["letters"]
    assert "".join(letters[t] for t in tokens) == "ROMEO:" + 54 * tokenizers.MASK_CHAR
    events = data["samples"][0]["events"]
    assert events[0] == [] and len(events) == len(data["samples"][0]["guesses"])
    for position, token, percent in (change for step in events for change in step):
        assert tokens[position] == data["mask"] and 0 <= percent <= 100
        tokens[position] = token
    assert "".join(letters[t] for t in tokens) == text
    assert all(len(guess) == 60 for guess in data["samples"][0]["guesses"])


def test_html_needs_nothing_from_outside():
    page = views.PLAYER.read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|\bsrc=|<link|innerHTML", page)
    assert page.count("__RUN__") == 1


def test_hostile_text_is_escaped():
    class Hostile(tokenizers.CharTokenizer):
        def decode(self, ids):
            return "".join("</script><b>&<!--\u2028" if i == 0 else "x" for i in ids)

    tokenizer = Hostile("ab")
    tiny = make_model(tokenizer)
    history = list(generate.generate(tiny, torch.full((1, 8), 2), steps=4))
    letters = [tokenizer.decode([0]), "x", tokenizers.MASK_CHAR]
    page = views.html_page(history, letters, "</title><b>", "<i>")
    plain = views.PLAYER.read_text(encoding="utf-8")
    assert page.count("</script>") == plain.count("</script>")
    assert "<b>&" not in page and "</title><b>" not in page
    assert embedded(page)["letters"] == letters and embedded(page)["title"] == "</title><b>"


# ---- Mistakes ----

BAD = [
    ["--steps", "0"], ["--steps", "x"], ["--steps", "1.5"], ["--temp", "-1"], ["--temp", "nan"],
    ["--temp", "inf"], ["--topk", "0"], ["--topk", "1000"], ["--len", "0"], ["--len", "1000000"],
    ["--num", "0"], ["--seed", "-1"], ["--seed", str(2**64)], ["--device", "toaster"],
    ["--prompt", "é"], ["--prompt", "ROMEO:", "--len", "6"],
    ["--infill", "é_"], ["--infill", "no blank"], ["--infill", ""],
    ["--infill", "a_", "--len", "9"], ["--infill", "a_", "--prompt", "b"],
    ["--gif", "out.png"], ["--gif", "missing/out.gif"], ["--gif", 300 * "x" + ".gif"], ["--html", "out.htm"],
    ["--html", "missing/out.html"], ["--html", "folder.html"], ["--html", "file/a.html"],
    ["--len", "100000", "--num", "9", "--html", "out.html"],
    ["--checkpoint", "nowhere"], ["--step", "3"], ["extra"],
]  # fmt: skip


@pytest.mark.parametrize("flags", BAD, ids=lambda flags: " ".join(flags)[:40])
def test_a_mistake_is_one_line_before_any_sampling(flags, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(generate, "generate", lambda *_: pytest.fail("sampled before the check"))
    monkeypatch.setattr(sys, "argv", ["06_generate.py", "--checkpoint", str(folder), *flags])
    with pytest.raises(SystemExit) as stop:
        cli.run(generate.main)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    assert err.startswith("error: ") and err.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.html"]


def test_a_gpt_is_refused(tmp_path):
    checkpoint.save(tmp_path, make_model(causal=True), TOKENIZER, {})
    with pytest.raises(cli.UserError, match="GPT"):
        generate.main(["--checkpoint", str(tmp_path)])


def test_existing_file_survives_a_failed_write(run, tmp_path, monkeypatch):
    path = tmp_path / "out.html"
    path.write_text("precious")
    monkeypatch.setattr(views, "html_page", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("--len", "9", "--html", str(path))
    assert path.read_text() == "precious"


def test_as_a_program_from_another_folder(folder, tmp_path):
    command = [sys.executable, str(ROOT / "06_generate.py"), "--checkpoint", str(folder), "--len", "20"]
    # A prompt that leaves nothing to write is noticed only once the model and its vocabulary are read.
    bad = subprocess.run([*command, "--prompt", 20 * "a"], cwd=tmp_path, capture_output=True, text=True)
    assert bad.returncode == 2 and bad.stdout == "" and bad.stderr.count("\n") == 1
