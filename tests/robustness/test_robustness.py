"""The red team in small: a few attacks of each kind, the same in every run. docs/robustness.md has many more.

A failure names the attack; `python tests/robustness/run.py --only KIND --case NUMBER` makes it again.
"""

import json
import sys

import pytest
from arena import Arena, order
from faulty import Server
from fixtures import command, furnish
from network import CLIENTS, PATIENCE
from outcomes import GOOD, OUTCOMES, Ended, classify
from run import NUMBERS, together

from plumbing.reports import robustness

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot fork")
# Attacks of each kind: together they take about a minute of two cores.
FEW = {"kills": 3, "crowding": 4, "checkpoints": 30, "states": 20, "settings_files": 24, "network": 15,
       "command_lines": 25}  # fmt: skip


# 1. The attacks


@pytest.fixture(scope="module")
def results():
    """The results of a few attacks of each kind, a list of dicts."""
    return list(together([(kind, number) for kind in FEW for number in range(1, FEW[kind] + 1)], processes=2))


@pytest.mark.parametrize("kind", NUMBERS)
def test_every_attack_ends_well(kind, results):
    mine = [found for found in results if found["kind"] == kind]
    assert len(mine) == FEW[kind]
    bad = [robustness.describe(found) for found in mine if found["outcome"] not in GOOD]
    assert not bad, "\n" + "\n".join(bad)


# 2. The arena and the classifier: without an attack all is well, and nothing bad is overlooked


@pytest.fixture(scope="module")
def arena(tmp_path_factory):
    with Arena(tmp_path_factory.mktemp("robustness")) as arena:
        furnish(arena)
        yield arena


@pytest.mark.parametrize("name", CLIENTS)
def test_a_healthy_server_is_accepted(name, arena):
    client = CLIENTS[name]
    arena.reset()
    with Server(lambda method, path: client.answer(arena, method, path), None, 0) as server:
        ended = arena.run(*client.command, environment={client.variable: server.url + client.path}, patience=PATIENCE)
    assert classify(ended) == "accepted", ended.err


def test_limits_of_time_and_memory(arena):
    arena.reset()
    endless = order(*command("dllm", "--steps", 10**6), seconds=0.5)
    assert [classify(end) for end in arena.run_together(endless)] == ["hang"]
    assert classify(arena.run(*command("dllm", "--steps", 8), megabytes=50)) == "memory"


def test_a_new_file_of_the_attacker_is_found(arena):
    arena.reset()
    (arena.folder / "EXECUTED").mkdir()
    assert classify(arena.run("06_generate", "--help")) == "executed"
    arena.reset()
    before = arena.snapshot()
    (arena.runs / "dllm" / "model.safetensors").unlink()
    assert arena.signs(before, untouched=False) == {"lost"}


@pytest.mark.parametrize(
    "out, err, code, outcome",
    [
        ("text", "", 0, "accepted"),
        ("text", " 50%|██   | 1/2\r100%|████| 2/2\n", 0, "accepted"),
        ("", "error: no such file: name one\n", 2, "message"),
        ("", "╭─ Parsing error ─╮\n", 2, "message"),
        ("", "error: one\nerror: two\n", 2, "unclear"),
        ("", "error: one\n", 1, "unclear"),
        ("", "", 2, "unclear"),
        ("", "error: " + "x" * 30_000, 2, "unclear"),
        ("", "Traceback (most recent call last):\n", 1, "traceback"),
        ("", "", -11, "traceback"),
        ("a\x1b[2J", "", 0, "raw"),
        ("a\rb", "", 0, "raw"),
        ("", "error: a\rFORGED\n", 2, "raw"),
        ("", "warning: \nerror: FORGED: run this\n", 2, "raw"),
        ("\u202etxt", "", 0, "raw"),
    ],
)
def test_the_classifier(out, err, code, outcome):
    assert classify(Ended(code, out, err, 1.0, 100.0)) == outcome


# 3. The page


def test_the_page_is_made_from_the_numbers():
    numbers = json.loads(robustness.NUMBERS.read_text(encoding="utf-8"))
    assert robustness.PAGE.read_text(encoding="utf-8") == robustness.page(numbers)
    tried = {kind: sum(counts.values()) for kind, counts in numbers["now"]["table"].items()}
    assert tried == NUMBERS and set(OUTCOMES) == set(robustness.OUTCOMES)
