"""Chapter 06: canvases, generation beyond the window, flags and files, on a tiny untrained model."""

import io
import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import helpers
import pytest
import torch
from helpers import python, refusal, seeded

from plumbing import checkpoint, cli, tokenizers, views

ROOT = Path(__file__).resolve().parents[2]
transformer = import_module("03_transformer")
generate = import_module("06_generate")

VOCABULARY = "\n !'(),./:;<>?{}_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKENIZER = tokenizers.CharTokenizer(VOCABULARY)
MASK = TOKENIZER.vocab_size


def make_model(tokenizer=TOKENIZER, **changes):
    return helpers.make_model(tokenizer.vocab_size, **{"seq_len": 32} | changes)


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

    run.folder = str(folder)
    return run


def quiet(run, *flags):
    return run("--quiet", *flags).removesuffix("\n")


def test_a_model_of_control_characters_does_not_command_the_terminal(tmp_path, monkeypatch, capsys):
    """Every way of showing a text: lines, quiet lines, the redrawn page of a terminal, the bytes of a word model."""
    for tokenizer in (tokenizers.CharTokenizer("\x1b\x07\b\r\u202e\x9b\n"), tokenizers.Bytes()):
        kind = tokenizer.kind
        checkpoint.save(tmp_path / kind, make_model(tokenizer), tokenizer, {})
        for flags, terminal in (([], False), (["--quiet"], False), ([], True)):
            monkeypatch.setattr("sys.stdout.isatty", lambda terminal=terminal: terminal)
            generate.main(["--checkpoint", str(tmp_path / kind), "--len", "40", "--steps", "2", "--seed", "1", *flags])
            shown = capsys.readouterr().out
            if terminal:
                shown = re.sub(r"\x1b\[(?:\?25[lh]|[\d;]*[mAJK])", "", shown).replace("\r", "")  # our own commands
            assert r"\x0" in shown or r"\x1b" in shown
            assert set(helpers.COMMANDS.findall(shown)) <= {"\n", "\t"}


@pytest.mark.parametrize("temperature", ["0", "0.8"])
def test_weights_that_overflow_end_in_one_line(tmp_path, temperature):
    model = make_model(std=1)
    model.head.weight.data.fill_(3e38)
    checkpoint.save(tmp_path, model, TOKENIZER, {})
    line = refusal(generate.main, ["--checkpoint", str(tmp_path), "--len", "9", "--temp", temperature])
    assert "not finite numbers" in line


# 1. The canvas


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


# 2. Sampling


@pytest.mark.parametrize("length, size", [(1, 32), (32, 32), (33, 32), (100, 32), (7, 1), (50, 3)])
def test_windows_cover_the_canvas_with_context(length, size):
    windows = generate.plan_windows(torch.full((2, length), MASK), MASK, size, 8)
    done = 0
    for left, right, steps in windows:
        assert 0 <= left <= done < right <= length and right - left == min(size, length)
        assert done == 0 or done - left >= size // 4  # at least a quarter of a window to continue from
        masks = right - done
        assert 1 <= steps <= min(8, 2 * masks - 1)  # one pass writes at least one token; fewer than half correct one
        assert steps == min(8 if length <= size else -(-8 * masks // size), 2 * masks - 1)
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
    states = list(generate.generate(model, canvas, steps=8, generator=seeded(1)))
    assert torch.equal(canvas, start) and torch.equal(states[0].canvas, start) and states[0].nfe == 0
    given = start != MASK
    for number, (before, state) in enumerate(zip(states, states[1:]), 1):
        assert state.canvas.shape == state.confidence.shape == state.committed.shape == start.shape
        assert state.step == state.nfe == number
        assert torch.equal(state.canvas[given], start[given]) and (state.confidence[given] == 1).all()
        written = state.committed
        assert (written.any(1) & ~(written & given).any(1)).all() and (state.canvas[written] < MASK).all()
        assert torch.equal(state.canvas[~written], before.canvas[~written])
        kept = ~written & (before.canvas != MASK)  # a character keeps the probability with which it was last written
        assert torch.equal(state.confidence[kept], before.confidence[kept])
    assert (states[-1].canvas < MASK).all()


def test_each_window_is_written_and_then_corrected(model):
    """The first passes write masks, and each mask once. The others write some of the same positions again, but none of
    an earlier window."""
    canvas = torch.full((2, 80), MASK)
    canvas[:, ::7] = 4
    states, done = list(generate.generate(model, canvas, steps=12, generator=seeded(1))), 0
    windows = generate.plan_windows(canvas, MASK, 32, 12)
    assert len(windows) > 2 and len(states) == 1 + sum(steps for _, _, steps in windows)
    for _, right, steps in windows:
        before, passes = states[0].canvas, states[1 : 1 + steps]
        new, again = passes[: steps - steps // 2], passes[steps - steps // 2 :]
        times = torch.stack([state.committed for state in new]).sum(0)
        assert torch.equal(times, (before == MASK).long() * (torch.arange(80) < right))
        assert again and not any((state.committed & (times == 0)).any() for state in again)
        assert not torch.equal(again[-1].canvas, new[-1].canvas)
        states, done = states[steps:], right
    assert done == 80


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
    assert "step 8/8 · 8 NFE" in run("--len", "30")
    for masks, passes in ((1, 1), (2, 3), (3, 5), (20, 8)):  # a short canvas needs few: at most two for each mask
        assert f"step {passes}/{passes} · {passes} NFE" in run("--infill", f"a{{{masks}}}")
    greedy = quiet(run, *base, "--temp", "0")
    assert greedy == quiet(run, "--len", "60", "--seed", "2", "--temp", "0")
    assert greedy == quiet(run, *base, "--temp", "1e-300") == quiet(run, *base, "--topk", "1")
    assert greedy != quiet(run, *base)


# 3. Text output


def test_a_console_without_our_characters_does_not_stop_the_run(run, monkeypatch):
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", console)
    cli.run(lambda: run("--len", "20", "--seed", "1"))
    console.flush()
    assert b"step 8/8 ? 8 NFE" in console.buffer.getvalue()


def test_plain_output_has_a_header_and_no_control_codes(run):
    out = run("--num", "2", "--len", "20", "--seed", "7")
    assert "seed 7" in out and "--- sample 2 of 2 ---" in out and "\nNext: " in out
    assert "\x1b" not in out and "\r" not in out


def test_quiet_prints_only_text(run, tmp_path, capsys):
    # with this seed the text does not end in a newline, which --quiet would leave out
    out = run("--quiet", "--infill", "ab__", "--seed", "2", "--html", str(tmp_path / "a.html"))
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
        drawn = screen.getvalue().partition("\nNext: ")[0]
        assert drawn.startswith("\x1b[?25l") and drawn.endswith("\x1b[?25h")


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


# 4. Files


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
    written = set()
    for position, token, percent in (change for step in events for change in step):
        assert position >= len("ROMEO:") and token != data["mask"] and 0 <= percent <= 100
        assert (tokens[position] != data["mask"]) == (position in written)  # a later step may write it again
        tokens[position] = token
        written.add(position)
    assert "".join(letters[t] for t in tokens) == text
    assert all(len(guess) == 60 for guess in data["samples"][0]["guesses"])


# 5. Mistakes and models

WRONG_FLAGS = [
    ["--steps", "0"], ["--steps", "x"], ["--steps", "1.5"], ["--temp", "-1"], ["--temp", "nan"],
    ["--temp", "inf"], ["--topk", "0"], ["--len", "0"], ["--len", "1000000"], ["--num", "0"], ["--num", "1000000"],
    ["--seed", "-1"], ["--seed", str(2**64)], ["--step", "3"], ["extra"], ["--gif", ""], ["--html", ""],
]  # fmt: skip
MISTAKES = [
    ["--topk", "1000"], ["--device", "toaster"], ["--prompt", "é"], ["--prompt", "ROMEO:", "--len", "6"],
    ["--infill", "é_"], ["--infill", "no blank"], ["--infill", ""],
    ["--infill", "a_", "--len", "9"], ["--infill", "a_", "--prompt", "b"],
    ["--gif", "out.png"], ["--gif", "missing/out.gif"], ["--gif", 300 * "x" + ".gif"], ["--html", "out.htm"],
    ["--html", "missing/out.html"], ["--html", "folder.html"], ["--html", "file/a.html"],
    ["--len", "100000", "--num", "9", "--html", "out.html"],
    ["--checkpoint", "nowhere"], ["--hub"], ["--hub", ""],
]  # fmt: skip


@pytest.mark.parametrize("flags", WRONG_FLAGS + MISTAKES, ids=lambda flags: " ".join(flags)[:40])
def test_a_mistake_ends_the_program_before_any_sampling(flags, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(generate, "generate", lambda *_: pytest.fail("sampled before the check"))
    monkeypatch.setattr(sys, "argv", ["06_generate.py", "--checkpoint", str(folder), *flags])
    with pytest.raises(SystemExit) as stop:
        cli.run(generate.main)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == ""
    if flags in MISTAKES:
        assert err.startswith("error: ") and err.count("\n") == 1
    else:
        assert flags[0] in err and "Traceback" not in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.html"]


@pytest.mark.parametrize("flag", ["order", "threshold", "factor", "entropy", "stable", "apart", "block", "cache",
                                  "refresh", "guidance", "remask"])
def test_a_flag_that_moved_names_its_successor(flag):
    for words in (["--prompt", "a b", f"--{flag}", "3"], [f"--{flag}=3"]):
        assert f"python 11_fast_decoding.py --write {shlex.join(words)}" in refusal(generate.main, words)


def test_fast_means_fewer_passes_at_a_lower_temperature(folder, tmp_path, capsys):
    """Flags that are given count more than --fast."""
    page = tmp_path / "out.html"
    for flags, passes, temperature in (
            ([], 63, 1.05), (["--fast"], 32, 0.85), (["--fast", "--steps", "9"], 9, 0.85),
            (["--fast", "--temp", "0.25"], 32, 0.25)):  # 63: a window of 32 masks has no use for 96 passes
        generate.main(["--checkpoint", str(folder), "--len", "32", "--seed", "1", "--html", str(page), *flags])
        assert f"step {passes}/{passes} · {passes} NFE" in capsys.readouterr().out
        facts = embedded(page.read_text(encoding="utf-8"))["facts"]
        assert f"temperature {temperature:g} " in facts


def test_the_model_that_is_loaded_by_default_is_named(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(checkpoint, "RUNS", tmp_path)
    checkpoint.save(tmp_path / "toy", model, TOKENIZER, {})
    (tmp_path / "toy" / "train_state.pt").touch()
    generate.main(["--len", "9", "--steps", "2"])
    assert "toy, your latest run. --checkpoint shakespeare" in capsys.readouterr().out
    generate.main(["--len", "9", "--steps", "2", "--checkpoint", "toy"])
    assert "your latest run" not in capsys.readouterr().out
    with pytest.raises(cli.UserError, match="the model toy .*'é'.* --checkpoint shakespeare"):
        generate.main(["--prompt", "é"])


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
    # A prompt that leaves nothing to write is noticed only once the model and its vocabulary are read.
    flags = ("--checkpoint", folder, "--len", "20", "--prompt", 20 * "a")
    bad = python(helpers.ROOT / "06_generate.py", *flags, cwd=tmp_path)
    assert bad.code == 2 and bad.out == "" and bad.err.count("\n") == 1
