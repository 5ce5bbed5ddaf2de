"""cli.py: how programs end, what --help shows, and which settings files are valid."""

import os
import re
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from helpers import ESCAPED, HOSTILE, ROOT, python, refusal
from plumbing import cli, files

import pytest


def program(body):
    return python("-c", f"from plumbing import cli\ndef main():\n    {body}\ncli.run(main)")


# How programs end


@pytest.mark.parametrize("error, code, line", [
    (None, None, r""),
    (cli.UserError("no such\nthing"), 2, r"error: no such\\nthing\n"),
    (KeyboardInterrupt(), 130, r"interrupted\n"),
    (BrokenPipeError(), 141, r""),
    (OSError(28, "No space left on device"), 2, r"error: .*No space left on device\n"),
    (PermissionError(13, "Permission denied", "a\x1b.txt"), 2, r"error: .*a\\+x1b\.txt.*\n"),
    (FloatingPointError("the model's predictions are not finite numbers"), 2, r"error: the model's .* numbers\n"),
    (MemoryError(), 2, r"error: out of memory: buy less\n"),
    (RuntimeError("CUDA out of memory. Tried to allocate"), 2, r"error: out of memory: buy less\n"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: no"), 2, r"error: out of memory: buy less\n"),
    (type("E", (Exception,), {"__module__": "torch._inductor.exc"})("no C++"), 2,
     r"error: .*\(no C\+\+\).*--compile off\n"),
])
def test_exit_codes(error, code, line, capsys):
    def main():
        if error:
            raise error

    if code is None:
        cli.run(main)
    else:
        with pytest.raises(SystemExit) as end:
            cli.run(main, out_of_memory="buy less")
        assert end.value.code == code
    assert re.fullmatch(line, capsys.readouterr().err)


@pytest.mark.parametrize("error", [ValueError("a bug"), RuntimeError("a bug"), SystemExit(5)])
def test_a_mistake_of_the_program_is_not_hidden(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        cli.run(main)


@pytest.mark.parametrize("closing, body, code", [
    (">&-", "print('x')", 0), (">&- 2>&-", "raise cli.UserError('wrong')", 2), (">/dev/full", "print('x')", 2),
    ("| true", "[print('line') for _ in range(100_000)]", 0),
])
def test_closed_and_full_streams_give_no_traceback(closing, body, code):
    text = f"from plumbing import cli\ndef main():\n    {body}\ncli.run(main)"
    done = subprocess.run(f'{sys.executable} -c "{text}" {closing}', shell=True, cwd=ROOT, capture_output=True)
    assert done.returncode == code and b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


def test_a_terminal_without_a_character_does_not_end_the_program():
    done = python("-c", "from plumbing import cli; cli.run(lambda: print('a░'))", PYTHONIOENCODING="ascii")
    assert (done.code, done.out.strip()) == (0, "a?")


def test_what_a_terminal_would_obey_is_escaped():
    assert cli.printable(HOSTILE) == ESCAPED == str(cli.UserError(HOSTILE))
    assert cli.printable("அன்பு \u200d é\t", keep="\t") == "அன்பு \u200d é\t"
    assert cli.printable("x" * 50, limit=10) == "x" * 9 + "…"
    assert cli.reason(ValueError("first\nsecond")) == "first" and cli.reason(ValueError()) == "ValueError"


def test_plumbing_sets_how_threads_wait_and_respects_the_user():
    code = "import os, sys, plumbing.cli; print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    assert python("-c", code, GOMP_SPINCOUNT="77").out == "77 False\n"
    os.environ.pop("GOMP_SPINCOUNT", None)
    assert python("-c", code).out == "1000 False\n"


# Flags and settings files


@dataclass(frozen=True)
class Training:
    steps: int = 5  # number of steps
    rate: float = 0.5  # learning rate
    mode: Literal["fast", "slow"] = "fast"  # how
    decay: bool = False  # whether

    def __post_init__(self):
        if not self.steps > 0:
            raise ValueError("steps must be above 0")


@dataclass(frozen=True)
class Command:
    """A program."""

    config: str = field(default_factory=lambda: "own")  # a settings file
    name: str = "x"  # a name
    limit: int | None = None  # a limit; by default none
    train: Training = Training()


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """A function parse({name: text}, *flags, section=…) that writes files to configs/ and then parses the flags."""
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (tmp_path / "configs" / "sub").mkdir(parents=True)
    (tmp_path / "configs" / "own.yaml").write_text("steps: 7\n")
    monkeypatch.chdir(tmp_path)

    def parse(texts, *flags, **named):
        for name, text in texts.items():
            Path(name).write_text(text, encoding="utf-8")
        return cli.parse(Command, list(flags), **named)

    return parse


def test_flags_beat_the_file_and_the_file_beats_the_defaults(parse):
    command = parse({"my.yaml": "rate: 3e-4\nname: 'off'\ndecay: true\n"}, "--config", "my.yaml", "--rate=0.1")
    assert (command.config, command.name, command.train) == ("my.yaml", "off", Training(7, 0.1, "fast", True))
    assert parse({}, "--limit", "3").limit == 3 and parse({}).train.steps == 7


def test_a_file_of_your_own_is_based_on_the_default_and_one_in_configs_is_not(parse):
    assert parse({"my.yaml": "rate: 0.1\n"}, "--config", "my.yaml").train == Training(7, 0.1)
    assert parse({"configs/other.yaml": "rate: 0.1\n"}, "--config", "other").train == Training(5, 0.1)
    assert parse({"configs/next.yaml": "base: own\nrate: 0.2\n"}, "--config", "next").train == Training(7, 0.2)
    assert parse({"configs/sub/own.yaml": "steps: 9\n"}, configs="sub").train.steps == 9


def test_a_section_holds_for_one_kind_of_model(parse):
    texts = {"configs/own.yaml": "steps: 7\ngpt:\n  steps: 8\n  decay: true\ndllm:\n  rate: 0.1\n"}
    assert parse(texts, section="gpt").train == Training(8, 0.5, "fast", True)
    assert parse(texts, section="dllm").train == Training(7, 0.1)
    assert parse(texts).train == Training(7)


@pytest.mark.parametrize("text, said", [
    ("step: 3", "steps"), ("steps: 0", "above 0"), ("steps: many", "not valid"), ("mode: medium", "not valid"),
    ("decay: maybe", "not valid"), ("steps: [1]", "one value"), ("other:\n  steps: 3", "one value"),
    ("- a", "name: value"),
    ("steps", "name: value"), ("a: [", "YAML"), ("a: &x 1\nb: *x", "alias"),
    ("a: " + "[" * 900, "YAML"), (f'steps: "{ESCAPED}"', "not valid"), ("a: 1\n" * 9000, "limit"),
    ("base: nowhere", "no settings file"), ("base: ./my.yaml", "fewer bases"),
])
def test_a_settings_file_that_makes_no_sense(parse, text, said, capsys):
    error = refusal(parse, {"my.yaml": text}, "--config", "my.yaml")
    assert said in error and "\x1b" not in error.replace("\x1b[", "") + capsys.readouterr().err


def test_a_settings_file_that_never_ends_or_is_not_there(parse):
    os.mkfifo("pipe.yaml")
    for name in ("pipe.yaml", "/dev/zero", "nowhere", "", "configs"):
        assert "there are: own" in refusal(parse, {}, "--config", name)


@pytest.mark.parametrize("flags", [["--steps", "0"], ["--stps", "1"], ["--mode", "x"], ["--decay", "3"], ["extra"],
                                   ["--config"], ["--train.steps", "3"], [f"--{HOSTILE}"]])
def test_wrong_flags(parse, flags):
    assert HOSTILE not in refusal(parse, {}, *flags)


def test_a_word_that_is_not_utf8(parse):
    assert "not UTF-8" in refusal(parse, {}, "--name", "caf\udce9")


def test_help_shows_the_comment_and_the_default_of_every_field(parse, capsys):
    with pytest.raises(SystemExit) as end:
        parse({}, "--help")
    out = capsys.readouterr().out
    assert end.value.code == 0
    for words in ("number of steps", "(default: 7)", "learning rate", "{fast,slow}", "a limit; by default none"):
        assert words in out


def test_sub_commands_and_flags_that_may_stand_alone(parse):
    assert cli.sub_command(("train", "write"), ["write", "--a"]) == ("write", ["--a"])
    assert cli.sub_command(("train", "write"), ["--a"]) == ("train", ["--a"])
    alone = {"--name": "everybody"}
    cases = (["--name"], "everybody"), (["--name", "--limit", "3"], "everybody"), (["--name", "me"], "me"), ([], "x")
    for flags, name in cases:
        assert cli.parse(Command, flags, alone=alone).name == name


def test_a_missing_package_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)

    def read_table():
        import openpyxl  # noqa: F401

    answer = refusal(cli.run, read_table)
    assert "openpyxl is not installed: pip install -r requirements-dev.txt" in answer
