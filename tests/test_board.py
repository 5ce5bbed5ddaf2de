"""The board: which entries are valid, and the order of the entries."""

import json

from experiments import board
from helpers import made_up_text, refusal
from plumbing import text

import pytest

WORDS = ["--steps", "2", "--minutes", "0", "--n-layer", "1", "--n-head", "2", "--n-embd", "16", "--seq-len", "16",
         "--batch-size", "4", "--compile", "off", "--evaluations", "1"]


@pytest.fixture
def log(tmp_path, runs_folder, monkeypatch):
    monkeypatch.setattr(board, "LOG", tmp_path / "board.jsonl")
    monkeypatch.setattr(text, "load", lambda name: text.Corpus(name, made_up_text()))
    monkeypatch.setattr(board.training, "FINAL_WINDOWS", 4)
    monkeypatch.setattr(board.training.MaskedDiffusion, "sample", lambda task, model: "")
    return board.LOG


@pytest.mark.parametrize("goal, counts", [(9.0, True), (0.1, False)])
def test_a_training_is_an_entry_if_it_reaches_the_goal(goal, counts, log, monkeypatch, capsys):
    monkeypatch.setattr(board, "GOAL", goal)
    board.main(WORDS)
    out = capsys.readouterr().out
    assert log.is_file() == counts and ("This is an entry" in out) == counts
    if counts:
        (entry,) = board.entries()
        assert entry["step"] == 2 and entry["NELBO"] < goal and "--n-embd 16" in entry["command"]


def test_the_board_is_about_shakespeare(log):
    assert "leave out --corpus" in refusal(board.main, [*WORDS, "--corpus", "other"])


def test_the_fastest_entry_comes_first(log):
    lines = [{"seconds": seconds} for seconds in (30.0, 10.0, 20.0)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert [entry["seconds"] for entry in board.entries()] == [10.0, 20.0, 30.0]
