"""minimal.py: the same idea as chapter 04, in a file that stands alone."""

import ast
import math
import random
import subprocess
import sys
from collections import Counter
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from helpers import ROOT

minimal = import_module("minimal")
diffusion = import_module("04_diffusion")
FILE = ROOT / "minimal.py"


def tiny_model(symbols=9, seed=0):
    """A model of random weights, whose predictions depend on all characters."""
    torch.manual_seed(seed)
    model = minimal.Model(symbols, width=16, heads=2, layers=2)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


def as_in_the_book(model):
    """The same model with the interface of the book, and the canvases that it was given."""
    seen = []

    def network(tokens, t=None):
        seen.append(tokens)
        return model(tokens)

    network.mask = model.mask
    network.config = SimpleNamespace(mask_id=model.mask)
    return network, seen


def verse(length, seed=0):
    """A text of words, whose letters are easier to predict from their neighbours than from their frequency."""
    draw = random.Random(seed)
    words = "light water stone river night morning".split()
    return " ".join(draw.choices(words, k=length))[:length]


def test_it_is_short_and_needs_only_pytorch():
    source = FILE.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 150
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name for node in imports
             for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])}
    assert {name.split(".")[0] for name in names} - {"torch"} <= sys.stdlib_module_names


def test_the_losses_are_those_of_chapter_04_on_the_same_masks():
    network, seen = as_in_the_book(tiny_model())
    x0 = torch.randint(9, (12, 20), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        total, k = minimal.losses(network, x0)
        expected = diffusion.masked_cross_entropy(network, x0, seen[0], k / 20)
    assert torch.equal((seen[0] == 9).sum(1), k)
    assert torch.allclose(total, expected.sum(1), atol=1e-5)
    assert (total.sum() / k.sum()).item() == pytest.approx((expected.sum() / (seen[0] == 9).sum()).item(), abs=1e-5)


def test_the_shares_of_hidden_characters_are_spread_evenly():
    network, seen = as_in_the_book(tiny_model())
    for highest in (1.0, 0.8):
        minimal.losses(network, torch.zeros(50, 100, dtype=torch.long), highest)
        k = (seen[-1] == 9).sum(1).sort().values
        assert (k - torch.arange(50) * 2 * highest).abs().max() <= 2 * highest + 1


def test_the_bound_is_that_of_chapter_04():
    network, _ = as_in_the_book(tiny_model())
    x0 = torch.randint(9, (1, 12), generator=torch.Generator().manual_seed(1)).expand(4000, 12)
    bound, error = minimal.nelbo(network, x0)
    expected, expected_error = diffusion.nelbo(network, x0)
    assert abs(bound - expected) < 4 * math.hypot(error, expected_error) and 0 < error < 0.05


def test_attention_sees_both_sides():
    model, tokens = tiny_model(), torch.randint(9, (1, 30), generator=torch.Generator().manual_seed(2))
    changed = tokens.clone()
    changed[0, 20] = (changed[0, 20] + 1) % 9
    moved = (model(tokens) - model(changed)).abs().amax(-1)[0] > 1e-6
    assert moved[2] and moved[29]


@pytest.mark.parametrize("passes", [2, 7, 64])
def test_writing_fills_all_masks_and_keeps_the_rest(passes):
    model, canvas = tiny_model(), torch.full((3, 40), 9)
    canvas[:, 5:9] = torch.tensor([1, 2, 3, 4])
    states = list(minimal.write(model, canvas, passes=passes))
    assert len(states) == passes
    assert all(torch.equal(state[:, 5:9], canvas[:, 5:9]) for state in states)
    masks = [int((state == 9).sum()) for state in states]
    assert masks == sorted(masks, reverse=True) and masks[passes // 2 - 1] == 0
    assert passes < 60 or any(not torch.equal(a, b) for a, b in zip(states[passes // 2 :], states[passes // 2 + 1 :]))


def test_it_learns_more_than_the_frequencies_of_letters():
    text = verse(6000)
    symbols = sorted(set(text))
    data = torch.tensor([symbols.index(symbol) for symbol in text])
    shares = [n / len(text) for n in Counter(text).values()]
    entropy = -sum(p * math.log(p) for p in shares)
    torch.manual_seed(0)
    model = minimal.Model(len(symbols), width=32, heads=2, layers=1)
    windows = data[:4096].view(-1, 128)
    assert minimal.nelbo(model, windows)[0] == pytest.approx(math.log(len(symbols)), abs=0.01)
    minimal.train(model, data, seconds=6)
    assert minimal.nelbo(model, windows)[0] < entropy - 0.5


def test_the_whole_program_on_a_text_of_ones_own(tmp_path, capsys):
    (tmp_path / "my.txt").write_text(verse(4000) + "\x1b[2J", encoding="utf-8")
    minimal.main(str(tmp_path / "my.txt"), seconds=1)
    out = capsys.readouterr().out
    assert "NELBO" in out and "nats per character" in out and "░" not in out and "\x1b" not in out


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        minimal.main(*arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2 and out == "" and err.startswith("error: ") and err.count("\n") == 1
    return err


def test_wrong_files_are_one_clear_line(tmp_path, capsys):
    (tmp_path / "short.txt").write_text("to be")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe" * 5000)
    assert "characters" in refusal(capsys, str(tmp_path / "short.txt"))
    assert "UTF-8" in refusal(capsys, str(tmp_path / "bytes.txt"))
    assert "missing.txt" in refusal(capsys, str(tmp_path / "missing.txt"))
    assert "\x1b" not in refusal(capsys, str(tmp_path / "a\x1b[2Jb"))


def test_without_a_network_it_says_what_to_save_where(tmp_path, monkeypatch, capsys):
    def refused(url, path, sha256, progress):
        assert (url, sha256) == (minimal.URL, minimal.SHA256)
        raise OSError("the network is unreachable")

    monkeypatch.setattr(minimal, "__file__", str(tmp_path / "minimal.py"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    line = refusal(capsys)
    assert minimal.URL in line and "tinyshakespeare.txt" in line and "unreachable" in line


def test_a_download_with_other_bytes_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "other").write_bytes(b"not Shakespeare" * 1000)
    monkeypatch.setattr(minimal, "__file__", str(tmp_path / "minimal.py"))
    monkeypatch.setattr(minimal, "URL", (tmp_path / "other").as_uri())
    assert "hash" in refusal(capsys)
    assert not (tmp_path / "data" / "tinyshakespeare.txt").exists()


def test_import_is_silent():
    command = [sys.executable, "-c", "import minimal"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
