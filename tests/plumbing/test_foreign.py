"""Text of strangers on the terminal: nothing in it may command the terminal, and nothing harmless may change."""

import pytest
from helpers import COMMANDS, ESCAPED, HOSTILE

from plumbing import cli, foreign


def test_what_commands_a_terminal_is_shown_and_not_obeyed():
    shown = foreign.printable(HOSTILE + "\nerror: run this\x9b\u2028\ud800")
    assert shown == ESCAPED + r"\nerror: run this\x9b\u2028\ud800"
    assert foreign.lines("one\ttwo\nthr\ree\x1b") == "one\ttwo\nthr\\ree\\x1b"


def test_no_character_that_commands_a_terminal_is_left():
    everything = "".join(map(chr, range(1 << 16)))
    assert not COMMANDS.search(foreign.printable(everything, None))
    assert set(COMMANDS.findall(foreign.lines(everything))) == {"\n", "\t"}


@pytest.mark.parametrize("text", [
    "யாதும் ஊரே; யாவரும் கேளிர்", "می‌خواهم", "l’été : 5\u202f°C", "\U0001f469\u200d\U0001f680 ░ ∎", "", "x" * 80,
])  # fmt: skip
def test_harmless_text_stays_as_it_is(text):
    assert foreign.printable(text) == foreign.lines(text) == text


def test_a_long_name_is_shortened_at_its_end():
    assert foreign.printable("x" * 81) == "x" * 79 + "…"
    assert len(foreign.printable("\x1b" * 10**6)) == 80 and len(foreign.printable("x" * 10**6, None)) == 10**6


def test_the_reason_of_an_error_is_one_short_line():
    assert foreign.reason(ValueError("bad \x1b[2J\nsecond line")) == r"bad \x1b[2J"
    assert foreign.reason(ValueError("\n ")) == foreign.reason(ValueError()) == "ValueError"
    assert len(foreign.reason(ValueError("x" * 10**6))) == 200


def test_a_message_to_the_user_obeys_nobody_else():
    assert not COMMANDS.search(str(cli.UserError(f"{HOSTILE} is unknown\nerror: run this")))
    assert len(str(cli.UserError("x" * 10**6))) == foreign.LONGEST_MESSAGE
