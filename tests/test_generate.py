"""Chapter 06: canvases, texts longer than the window, the ways to watch, flags and files. The model is untrained."""

import io
import json
import math
import os
import re
import sys
from importlib import import_module

import helpers
from helpers import COMMANDS, HOSTILE, make_model, python, refusal
from plumbing import checkpoint, cli, text, views

import pytest
import torch
from PIL import Image

ROOT = helpers.ROOT
diffusion = import_module("04_diffusion")
generation = import_module("06_generate")

VOCABULARY = "\n !'(),./:;<>?{}_ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
TOKENIZER = text.Characters(VOCABULARY)
MASK = TOKENIZER.mask_id


@pytest.fixture(scope="module")
def model():
    return make_model(TOKENIZER.vocab_size, seq_len=32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, model):
    path = tmp_path_factory.mktemp("tiny")
    checkpoint.save(path, model, TOKENIZER, {"kind": "dllm"})
    return path


@pytest.fixture
def write(folder, capsys):
    def write(*flags):
        generation.main(["--checkpoint", str(folder), "--device", "cpu", "--steps", "8", *flags])
        return capsys.readouterr().out

    return write


def quiet(write, *flags):
    return write("--quiet", *flags).removesuffix("\n")


# 1. The canvas


def test_an_infill_reads_underscores_and_lengths():
    cases = ("a_b", "a.b"), ("_{3}", "...."), ("x{0}_", "x."), ("{2}{x}{b", "..{x}{b"), ("a{12}", "a" + 12 * ".")
    for infill, shape in cases:
        tokens = generation.from_infill(infill, TOKENIZER)
        assert "".join("." if token == MASK else VOCABULARY[token] for token in tokens) == shape
    for wrong in ("no blank", "{0}", "é_", "{999999999}", "_" * 100_001):
        with pytest.raises(cli.UserError):
            generation.from_infill(wrong, TOKENIZER)


def test_a_prompt_is_followed_by_masks():
    assert generation.from_prompt("ab", 5, TOKENIZER) == [*TOKENIZER.encode("ab"), MASK, MASK, MASK]
    with pytest.raises(cli.UserError, match="--len"):
        generation.from_prompt("abcde", 5, TOKENIZER)


# 2. Windows


@pytest.mark.parametrize("length, size", [(1, 32), (32, 32), (33, 32), (100, 32), (7, 1), (50, 3)])
def test_windows_cover_the_canvas_and_continue_from_known_text(length, size):
    done = 0
    for left, right, steps in generation.plan_windows(torch.ones(2, length, dtype=torch.bool), size, 8):
        assert 0 <= left <= done < right <= length and right - left == min(size, length)
        assert done == 0 or done - left >= size // 4
        masks = right - done
        assert steps == (8 if length <= size else math.ceil(8 * masks / size))
        done = right
    assert done == length


def test_windows_without_masks_take_no_steps():
    masked = torch.zeros(1, 96, dtype=torch.bool)
    masked[0, 90] = True
    assert generation.plan_windows(masked, 32, 8) == [(64, 96, 1)]


@pytest.mark.parametrize("length", [1, 20, 33, 100])
def test_generate_fills_every_mask_and_nothing_else(model, length):
    canvas = torch.full((3, length), MASK)
    canvas[:, ::7] = 4  # given positions all along, also beyond the first window
    canvas[:, 0] = MASK
    start = canvas.clone()
    given = start != MASK
    torch.manual_seed(1)
    before = diffusion.State(start, given.float(), given & False)
    for state in generation.generate(model, canvas, steps=8):
        assert torch.equal(state.canvas[given], start[given]) and (state.confidence[given] == 1).all()
        written = state.committed
        assert written.any() and not (written & given).any() and (state.canvas[written] < MASK).all()
        assert torch.equal(state.canvas[~written], before.canvas[~written])
        kept = ~written & (before.canvas != MASK)  # a character keeps the probability with which it was written
        assert torch.equal(state.confidence[kept], before.confidence[kept])
        before = state
    assert (before.canvas < MASK).all() and torch.equal(canvas, start)


def test_each_window_is_written_and_then_corrected(model):
    canvas = torch.full((2, 80), MASK)
    canvas[:, ::7] = 4
    torch.manual_seed(1)
    states = list(generation.generate(model, canvas, steps=12))
    windows = generation.plan_windows(canvas == MASK, 32, 12)
    assert len(windows) > 2 and len(states) == sum(steps for *_, steps in windows)
    before = canvas
    for _, right, steps in windows:
        passes, states = states[:steps], states[steps:]
        writing, correcting = passes[: steps - steps // 2], passes[steps - steps // 2 :]
        times = torch.stack([state.committed for state in writing]).sum(0)
        assert torch.equal(times, (before == MASK).long() * (torch.arange(80) < right))  # each mask once
        assert correcting and not any((state.committed & (times == 0)).any() for state in correcting)
        before = passes[-1].canvas


def test_another_sampler_may_write(model):
    asked = []

    def sampler(model, canvas, steps, temperature, top_k):
        asked.append((canvas.shape[1], steps, temperature, top_k))
        yield from diffusion.denoise(model, canvas, 1)

    *_, last = generation.generate(model, torch.full((1, 40), MASK), 9, 0.5, 3, denoise=sampler)
    assert asked == [(32, 9, 0.5, 3), (32, 3, 0.5, 3)] and (last.canvas < MASK).all()


# 3. The command


def test_length_prompt_seed_and_infill(write):
    written = quiet(write, "--len", "100", "--prompt", r"ROMEO:\nO", "--seed", "1")
    assert len(written) == 100 and written.startswith("ROMEO:\nO") and text.MASK not in written
    assert written == quiet(write, "--len", "100", "--prompt", r"ROMEO:\nO", "--seed", "1")
    assert written != quiet(write, "--len", "100", "--prompt", r"ROMEO:\nO", "--seed", "2")
    filled = quiet(write, "--infill", r"To be ____\nor {12} not", "--seed", "1")
    assert re.fullmatch(r"To be .{4}\nor .{12} not", filled, re.S)
    many = write("--num", "3", "--len", "9", "--seed", "1")
    assert re.findall("sample . of 3", many) == ["sample 1 of 3", "sample 2 of 3", "sample 3 of 3"]


def test_a_random_seed_is_shown_and_reproduces(folder, capsys):
    generation.main(["--checkpoint", str(folder), "--len", "30", "--steps", "4"])
    out, err = capsys.readouterr()
    seed = re.search(r"pass 4 · [\d,]+ letters/s · seed (\d+) · ", err)[1]
    generation.main(["--checkpoint", str(folder), "--len", "30", "--steps", "4", "--seed", seed])
    assert capsys.readouterr().out == out


def test_steps_temperature_topk_and_fast_reach_the_sampler(folder, monkeypatch, capsys):
    asked = []
    real = generation.generate

    def spy(model, canvas, steps, temperature, top_k):
        asked.append((steps, temperature, top_k))
        return real(model, canvas, 1, temperature, top_k)

    monkeypatch.setattr(generation, "generate", spy)
    for flags in ("", "--fast", "--fast --steps 9", "--fast --temp 0", "--steps 50 --topk 5"):
        flags = flags.split()
        generation.main(["--checkpoint", str(folder), "--len", "8", *flags])
    assert asked == [(96, 1.05, None), (32, 0.85, None), (9, 0.85, None), (32, 0, None), (50, 1.05, 5)]


def test_the_model_that_replaces_the_shipped_one_is_named(runs_folder, model, capsys):
    for name in ("shakespeare", "mine"):
        checkpoint.save(runs_folder / name, model, TOKENIZER, {"kind": "dllm"})
    generation.main(["--len", "8", "--steps", "1"])
    assert "latest run" not in capsys.readouterr().out
    (runs_folder / "mine" / "state.pt").touch()
    generation.main(["--len", "8", "--steps", "1"])
    first = capsys.readouterr().out.splitlines()[0]
    assert first == "This is mine, your latest run. --checkpoint shakespeare names the shipped model."
    generation.main(["--len", "8", "--steps", "1", "--checkpoint", "mine"])
    assert "latest run" not in capsys.readouterr().out


@pytest.mark.parametrize("kind, program", [("gpt", "07_train_gpt.py write"), ("sudoku", "14_sudoku.py solve"),
                                           ("robot-path", "15_robot_path.py"), ("hybrid", "13_block_diffusion.py")])
def test_a_model_of_another_kind_is_refused_in_one_line(tmp_path, model, kind, program):
    checkpoint.save(tmp_path, model, TOKENIZER, {"kind": kind})
    error = refusal(generation.main, ["--checkpoint", str(tmp_path)])
    assert program in error and "this program needs a dLLM" in error


@pytest.mark.parametrize("flags", [
    ["--steps", "0"], ["--steps", "x"], ["--temp", "-1"], ["--temp", "nan"], ["--topk", "0"], ["--len", "0"],
    ["--len", "1000000"], ["--num", "1000000"], ["--seed", "-1"], ["--step", "3"], ["--device", "toaster"],
    ["--prompt", "é"], ["--prompt", "ROMEO:", "--len", "6"], ["--infill", "no blank"],
    ["--infill", "a_", "--len", "9"], ["--gif", ""], ["--gif", "out.png"], ["--gif", "missing/out.gif"],
    ["--html", "folder.html"], ["--html", "file/a.html"], ["--len", "100000", "--num", "9", "--html", "out.html"],
    ["--hub", "a/b"],
], ids=lambda flags: " ".join(flags)[:40])
def test_a_mistake_ends_the_program_before_any_pass(flags, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.html").mkdir()
    (tmp_path / "file").touch()
    monkeypatch.setattr(diffusion, "denoise", lambda *_: pytest.fail("a pass before the check"))
    refusal(generation.main, ["--checkpoint", str(folder), *flags])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.html"]


@pytest.mark.parametrize("temperature", ["0", "1"])
def test_weights_that_overflow_end_in_one_line(tmp_path, temperature):
    model = make_model(TOKENIZER.vocab_size, seq_len=32)
    model.head.weight.data.fill_(3e38)
    checkpoint.save(tmp_path, model, TOKENIZER, {"kind": "dllm"})
    end = python(ROOT / "06_generate.py", "--checkpoint", tmp_path, "--temp", temperature, "--len", "8")
    assert end.code == 2 and "not finite numbers" in end.err and "Traceback" not in end.err


def test_as_a_program_from_another_folder_into_a_closed_pipe(folder, tmp_path):
    command = f"{sys.executable} {ROOT}/06_generate.py --checkpoint {folder} --len 20 --steps 2 | head -c 1"
    assert os.system(f"cd {tmp_path} && {command} >out.txt 2>err.txt") == 0
    assert len((tmp_path / "out.txt").read_text()) == 1 and "Traceback" not in (tmp_path / "err.txt").read_text()


# 4. Watching


class Screen(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_every_pass_in_place_and_then_the_whole_text(write, monkeypatch):
    for name, value in {"TERM": "xterm", "COLUMNS": "20", "LINES": "8"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    write("--len", "200", "--num", "3", "--seed", "1")
    drawings = re.split(r"\r(?:\x1b\[\d+A)?", screen.getvalue())[1:]
    passes = sum(steps for *_, steps in generation.plan_windows(torch.ones(3, 200, dtype=torch.bool), 32, 8))
    assert len(drawings) == passes + 1
    assert all(drawing.count("\n") <= 7 for drawing in drawings[:-1])  # no more rows than the screen has
    plain = [re.sub(r"\x1b\[[0-9;]*[mKJ]", "", drawing) for drawing in drawings]
    assert all(len(row) < 20 for row in plain[3].split("\n")) and "\x1b[30;43m" in drawings[3]
    monkeypatch.setattr(sys, "stdout", sys.__stdout__)
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    write("--len", "20", "--seed", "1")
    assert not re.search(r"\x1b\[[0-9;]*m", screen.getvalue())


def test_a_gif_and_a_page_replay_to_the_printed_text(write, tmp_path):
    gif, page = tmp_path / "out.gif", tmp_path / "out.html"
    written = quiet(write, "--len", "60", "--prompt", "ROMEO:", "--seed", "3", "--gif", str(gif), "--html", str(page))
    masked = torch.tensor([[False] * 6 + [True] * 54])
    passes = sum(steps for *_, steps in generation.plan_windows(masked, 32, 8))
    with Image.open(gif) as image:
        assert image.n_frames in (passes, passes + 1) and gif.stat().st_size < 100_000
        image.seek(image.n_frames - 1)
        assert image.info["duration"] == 2000

    data = json.loads(re.search(r'<script type="application/json" id="run">(.*?)</script>', page.read_text(), re.S)[1])
    assert "temperature 1.05" in data["facts"] and "seed 3" in data["facts"]
    sample, letters = data["samples"][0], data["letters"]
    tokens = sample["start"]
    assert "".join(letters[t] for t in tokens) == "ROMEO:" + 54 * text.MASK
    assert sample["events"][0] == [] and len(sample["events"]) == len(sample["guesses"]) == passes + 1
    for position, token, percent in (change for step in sample["events"] for change in step):
        assert position >= len("ROMEO:") and token != data["mask"] and 0 <= percent <= 100
        tokens[position] = token
    assert "".join(letters[t] for t in tokens) == written
    assert sorted(tmp_path.iterdir()) == [gif, page]


def test_a_failed_write_leaves_the_old_file(write, tmp_path, monkeypatch):
    path = tmp_path / "out.html"
    path.write_text("old")
    monkeypatch.setattr(views.os, "access", lambda *_: True)
    monkeypatch.setattr("plumbing.files.os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write("--len", "9", "--html", str(path))
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_model_of_control_characters_commands_neither_terminal_nor_page(tmp_path, capsys, monkeypatch):
    tokenizer = text.Characters("\x1b\x07\b\r\u202e\x9b\n</script>")
    checkpoint.save(tmp_path / HOSTILE, make_model(tokenizer.vocab_size), tokenizer, {"kind": "dllm"})
    page = tmp_path / "out.html"
    generation.main(["--checkpoint", str(tmp_path / HOSTILE), "--len", "90", "--steps", "3", "--html", str(page)])
    out, err = capsys.readouterr()
    assert set(COMMANDS.findall(out)) == {"\n"}
    assert set(COMMANDS.findall(err.replace("\x1b[A", ""))) <= {"\n", "\r"}  # the progress line moves the cursor
    assert page.read_text().count("</script>") == 2  # only those of the player
    monkeypatch.setattr(sys, "stdout", screen := Screen())
    generation.main(["--checkpoint", str(tmp_path / HOSTILE), "--len", "90", "--steps", "3"])
    assert not COMMANDS.search(re.sub(r"\x1b\[[0-9;]*[mKJA]|\r|\n", "", screen.getvalue()))


def test_rows_end_at_the_width_and_the_tail_at_the_text():
    canvas = torch.tensor([[1, 2, 0, 1, 1, 1, 1, 3, 3, 3, 3, 3]])
    state = diffusion.State(canvas, torch.ones(1, 12), canvas == 2)
    rows = views.page(state, canvas == 1, ["\n", "a", "b", text.MASK], width=3)
    assert ["".join(letter for letter, _ in row) for row in rows] == ["ab", "aaa", "a░░", "░░░"]
    assert rows[0] == [("a", "given"), ("b", "new")]
    assert views.tail(rows, 2) == rows[1:3]


def test_a_batch_that_no_memory_holds_is_refused_before_the_model_reads_it(tiny):
    canvas = torch.full((1, 99), tiny.tokenizer.mask_id).expand(10**12, 99)  # one row in memory; a window has 16 places
    error = refusal(next, generation.generate(tiny.model, canvas, 1))
    assert "writing 1,000,000,000,000 texts at once needs more than 1,024,000 GB of memory" in error
