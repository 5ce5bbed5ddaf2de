"""minimal.py agrees with chapters 03 and 04 on the same weights, learns, writes, and refuses bad files."""

import functools
import hashlib
import math
import sys
from importlib import import_module
from types import SimpleNamespace

import minimal
from helpers import made_up_text

import pytest
import torch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")

V, T = 7, 24
SMALL = functools.partial(minimal.Model, width=16, heads=2, layers=2)


def tokens(n):
    torch.manual_seed(0)
    return torch.randint(V, (n, T))


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(minimal, "WINDOW", 32)


@pytest.fixture
def model():
    """A small model with random weights everywhere. A new model ignores its input, which would hide mistakes."""
    torch.manual_seed(1)
    model = SMALL(V)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return model


@pytest.fixture
def clock(monkeypatch):
    """The clock of minimal.py advances by one second per step, and at second 150 someone presses Ctrl-C."""

    def ticks():
        yield from range(150)
        raise KeyboardInterrupt

    time = SimpleNamespace(perf_counter=ticks().__next__, sleep=lambda seconds: None)
    monkeypatch.setattr(minimal, "time", time)


class Frequencies:
    """A model that knows only the frequencies of the characters. It records its inputs."""

    mask, p = V, torch.tensor([0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02])

    def __call__(self, xt):
        self.seen = xt
        return self.p.log().expand(*xt.shape, V)


# 1. The same numbers as in the chapters


def as_chapter_03(model):
    """Return chapter 03's Transformer with the weights of `model`."""
    layers, _, width, _ = model.blocks.shape
    config = transformer.TransformerConfig(T, layers, model.heads, width, conv=5, vocab_size=V)
    weights = {"token_emb.weight": model.embedding.weight, "convs.0.weight": model.near.weight[:, 0].T,
               "head.weight": model.head.weight}
    for i, block in enumerate(model.blocks):
        weights[f"blocks.{i}.attn.qkv.weight"] = block[:3].flatten(0, 1)
        weights[f"blocks.{i}.attn.out.weight"] = block[3].T
        weights[f"blocks.{i}.mlp.up.weight"] = block[4:8].flatten(0, 1)
        weights[f"blocks.{i}.mlp.down.weight"] = block[8:].flatten(0, 1).T
    theirs = transformer.Transformer(config).eval()
    theirs.load_state_dict(weights)
    return theirs


def test_the_network_is_that_of_chapter_03(model):
    xt = tokens(4)
    xt[torch.rand(4, T) < 0.5] = V
    ours = model(xt)
    assert ours.std() > 0.1
    assert torch.allclose(ours, as_chapter_03(model)(xt), atol=1e-5)


def test_the_training_loss_and_the_bound_are_those_of_chapter_04(model, monkeypatch):
    x0, seen = tokens(16), []
    model.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    total, k = minimal.losses(model, x0)
    assert torch.equal((seen[0] == V).sum(1), k) and (0 < k).all()
    monkeypatch.setattr(diffusion, "hide", lambda *arguments: seen[0])  # the same characters are hidden
    theirs = as_chapter_03(model)
    assert abs((total.sum() / k.sum() - diffusion.simple_loss(theirs, x0, k)).item()) < 1e-5
    monkeypatch.setattr(diffusion, "spread_evenly", lambda *arguments: k)
    assert abs((total / k).mean().item() - diffusion.nelbo(theirs, x0)[0]) < 1e-5


@pytest.mark.parametrize("highest", [0.5, 1.0])
def test_the_shares_of_hidden_characters_are_spread_evenly(highest):
    model = Frequencies()
    total, k = minimal.losses(model, tokens(24), highest)
    assert torch.allclose(total, (-model.p.log()[tokens(24)] * (model.seen == V)).sum(1), atol=1e-4)
    expected = 1 + (torch.arange(24) * highest * T / 24).long()
    assert (k.sort().values - expected).abs().max() <= 1  # one k from each of 24 equal parts


class Hesitant(Frequencies):
    """A model that is less certain if more characters are hidden, so that its loss depends on k."""

    def __call__(self, xt):
        return 3 * (1 - (xt == V).float().mean(1))[:, None, None] * super().__call__(xt)


def test_the_bound_gives_each_number_of_hidden_characters_the_same_weight():
    x0 = tokens(1600)
    losses = torch.stack([-(3 * (1 - k / T) * Frequencies.p.log()).log_softmax(0)[x0].mean() for k in range(1, T + 1)])
    k = torch.arange(1, T + 1)
    bound, error = minimal.nelbo(Hesitant(), x0)
    assert 0 < error < 0.05 and abs(bound - losses.mean().item()) < 4 * error
    assert abs(bound - (k * losses).sum().item() / k.sum().item()) > 10 * error  # the mean over all hidden characters


# 2. Learning and writing


def test_it_learns_more_than_the_frequencies(clock, capsys):
    text = made_up_text()
    symbols = sorted(set(text))
    data = torch.tensor([symbols.index(c) for c in text])
    p = data.bincount() / len(data)
    torch.manual_seed(0)
    model = minimal.Model(len(symbols), width=32, heads=2, layers=1)
    windows = data.unfold(0, minimal.WINDOW, minimal.WINDOW)
    assert abs(minimal.nelbo(model, windows)[0] - math.log(len(symbols))) < 1e-5  # at first all are equally likely
    minimal.train(model, data, 121)
    bound, error = minimal.nelbo(model, windows)
    assert bound + 4 * error < torch.special.entr(p).sum().item() - 0.1
    assert all(part.abs().min(-1).values.max() > 0 for part in (model.blocks[:, 3], model.blocks[:, 8:]))  # began at 0
    assert "step 50" in capsys.readouterr().out


def test_visible_characters_never_change_and_no_mask_remains(model):
    canvas = tokens(3)
    canvas[:2, 4:20] = V  # the third text has no masks
    given, before = canvas != V, canvas.clone()
    states = list(minimal.write(model, canvas, passes=16))
    assert len(states) == 16 and torch.equal(canvas, before)
    assert all(torch.equal(state[given], before[given]) for state in states)
    assert (states[7] != V).all() and states[-1].max() < V
    assert sum((state == V).any().item() for state in states) >= 4  # not all at once
    assert any(not torch.equal(state, states[7]) for state in states[8:])  # the second half corrects


@pytest.mark.parametrize("terminal, seconds", [(False, 10**9), (True, 3)])
def test_the_program_trains_and_writes_also_after_ctrl_c(terminal, seconds, clock, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(minimal, "Model", SMALL)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: terminal)
    path = tmp_path / "book.txt"
    path.write_text(made_up_text() + "\x1b\u202e", encoding="utf-8")  # what a terminal would obey is left out
    minimal.main(str(path), seconds)
    first, *frames = capsys.readouterr().out.split("\x1b[H\x1b[J")
    assert "step 0" in first and len(frames) == 128 * terminal and (not terminal or "░" in frames[0])
    page = frames[-1] if terminal else first
    report, text = page[page.index("NELBO") :].split("\n\n", 1)
    assert "nats per character" in report and "±" in report
    assert set(text) <= set(made_up_text()) and len(text) >= 4 * minimal.WINDOW


# 3. Bad files


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        minimal.read(*arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and "\x1b" not in error
    return error


@pytest.mark.parametrize("content", [b"short", b"\xff\xfe" * 5000, b"\x1b" * 5000, None])
def test_a_useless_file_ends_with_one_message(content, tmp_path, capsys):
    path = tmp_path / "a\x1b[2Jb.txt"
    if content is not None:
        path.write_bytes(content)
    assert "a text file in UTF-8" in refusal(capsys, str(path))


def test_the_text_is_downloaded_once_and_another_one_is_refused(tmp_path, monkeypatch, capsys):
    text, server = made_up_text(), tmp_path / "server.txt"
    server.write_text(text, encoding="utf-8")
    monkeypatch.setattr(minimal, "URL", server.as_uri())
    monkeypatch.setattr(minimal, "__file__", str(tmp_path / "minimal.py"))
    error = refusal(capsys)
    assert minimal.URL in error and "tinyshakespeare.txt" in error and not list((tmp_path / "data").iterdir())
    monkeypatch.setattr(minimal, "SHA256", hashlib.sha256(text.encode()).hexdigest())
    assert minimal.read() == text
    server.unlink()
    assert minimal.read() == text
