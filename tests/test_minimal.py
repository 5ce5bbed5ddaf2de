"""minimal.py: it agrees with chapters 03 and 04 on the same weights, it learns, it writes, and it refuses bad files."""

import ast
import functools
import hashlib
import itertools
import math
import sys
from importlib import import_module
from types import SimpleNamespace

import pytest
import torch
from helpers import HOSTILE, ROOT, made_up_text, python, seeded

import minimal

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")

V, T = 7, 24
SMALL = functools.partial(minimal.Model, width=16, heads=2, layers=2)
SOURCE = (ROOT / "minimal.py").read_text(encoding="utf-8")


def tokens(n, length=T):
    return torch.randint(V, (n, length), generator=seeded())


@pytest.fixture
def model():
    """A small model with random weights everywhere: a fresh one ignores what it reads, which would hide mistakes."""
    model = SMALL(V)
    for i, parameter in enumerate(model.parameters()):
        torch.nn.init.normal_(parameter, std=0.3, generator=seeded(i))
    return model


class Frequencies:
    """A model that knows the frequencies of the characters and nothing else. Its exact likelihood is known."""

    mask, p = V, torch.tensor([0.3, 0.25, 0.2, 0.1, 0.08, 0.05, 0.02])

    def __call__(self, xt):
        return self.p.log().expand(*xt.shape, V)


class Spy:
    """A model that keeps what it reads."""

    def __init__(self, model):
        self.model, self.mask = model, model.mask

    def __call__(self, xt):
        self.seen = xt
        return self.model(xt)


# 1. The file


def test_it_is_one_short_file_that_needs_only_pytorch():
    assert len(SOURCE.splitlines()) <= 150
    imported = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module)
    assert {name.split(".")[0] for name in imported} - sys.stdlib_module_names == {"torch"}


# 2. The same numbers as in the chapters


def as_chapter_03(model):
    """Return chapter 03's Transformer with the weights of `model`."""
    layers, _, width, _ = model.blocks.shape
    theirs = transformer.Transformer(transformer.TransformerConfig(V, T, layers, model.heads, width, conv=5)).eval()
    weights = {"token_emb.weight": model.embedding.weight, "conv.weight": model.near.weight[:, 0].T,
               "head.weight": model.head.weight}
    for i, block in enumerate(model.blocks):
        weights |= {f"blocks.{i}.attn.qkv.weight": block[:3].flatten(0, 1), f"blocks.{i}.attn.out.weight": block[3].T,
                    f"blocks.{i}.mlp.up.weight": block[4:8].flatten(0, 1),
                    f"blocks.{i}.mlp.down.weight": block[8:].flatten(0, 1).T}  # fmt: skip
    theirs.load_state_dict(weights)
    return theirs


def test_the_network_is_that_of_chapter_03(model):
    xt = torch.where(torch.rand(4, T, generator=seeded()) < 0.5, V, tokens(4))
    ours = model(xt)
    assert ours.std() > 0.1
    assert torch.allclose(ours, as_chapter_03(model)(xt), atol=1e-5)


def with_the_same_masks(model, x0, highest, seed, monkeypatch):
    """Run minimal.losses, and let chapter 04 hide the same characters from now on. Returns (sums of losses, k)."""
    spy = Spy(model)
    torch.manual_seed(seed)
    total, k = minimal.losses(spy, x0, highest)

    def mask_exactly(theirs, their_k, mask_id, generator=None, given=0):
        assert torch.equal(theirs, x0) and torch.equal(their_k, k) and mask_id == model.mask
        return spy.seen

    monkeypatch.setattr(diffusion, "mask_exactly", mask_exactly)
    return total, k


@pytest.mark.parametrize("highest", [0.8, 1.0])
def test_the_training_loss_is_that_of_chapter_04(model, highest, monkeypatch):
    x0 = tokens(16)
    total, k = with_the_same_masks(model, x0, highest, 3, monkeypatch)
    theirs = as_chapter_03(model)
    torch.manual_seed(3)
    loss = diffusion.diffusion_loss(theirs, x0, highest)
    assert abs((total.sum() / k.sum() - loss).item()) < 1e-5


def test_the_bound_is_that_of_chapter_04(model, monkeypatch):
    x0 = tokens(16)
    total, k = with_the_same_masks(model, x0, 1.0, 5, monkeypatch)
    mean, _ = diffusion.nelbo(as_chapter_03(model), x0, seed=5)
    assert abs((total / k).mean().item() - mean) < 1e-5


def test_the_bound_of_a_known_model_is_its_cross_entropy():
    x0 = tokens(1600)
    bound, error = minimal.nelbo(Frequencies(), x0)
    assert 0 < error < 0.05
    assert abs(bound + Frequencies.p.log()[x0].mean().item()) < 4 * error


class Hesitant(Frequencies):
    """A model that is less sure of its frequencies when more characters are hidden, so that its loss depends on k."""

    def __call__(self, xt):
        return 3 * (1 - (xt == V).float().mean(1))[:, None, None] * super().__call__(xt)


def test_the_bound_gives_each_number_of_hidden_characters_the_same_weight():
    x0 = tokens(1600)
    losses = torch.stack([-(3 * (1 - k / T) * Frequencies.p.log()).log_softmax(0)[x0].mean() for k in range(1, T + 1)])
    k = torch.arange(1, T + 1)
    bound, error = minimal.nelbo(Hesitant(), x0)
    assert abs(bound - losses.mean().item()) < 4 * error
    assert abs(bound - (k * losses).sum().item() / k.sum().item()) > 10 * error  # the mean over all hidden characters


@pytest.mark.parametrize("highest", [0.5, 1.0])
def test_exactly_k_characters_are_hidden_and_the_shares_are_spread_evenly(highest):
    x0, spy = tokens(24), Spy(Frequencies())
    total, k = minimal.losses(spy, x0, highest)
    hidden = spy.seen == V
    assert torch.equal(hidden.sum(1), k) and torch.equal(spy.seen[~hidden], x0[~hidden])
    assert torch.allclose(total, (-Frequencies.p.log()[x0] * hidden).sum(1), atol=1e-4)
    expected = 1 + (torch.arange(24) * highest * T / 24).long()
    assert (k.sort().values - expected).abs().max() <= 1  # one k from each of 24 equal parts


def test_a_later_character_moves_an_earlier_output(model):
    x0 = tokens(1)
    changed = x0.clone()
    changed[0, -1] = (changed[0, -1] + 1) % V
    difference = (model(x0) - model(changed)).abs().amax(-1)[0]  # (T,)
    assert difference[0] > 1e-4 and difference[-1] > 1e-4


# 3. Learning


@pytest.mark.parametrize("shape", [(3, 16, 16), (2, 8, 8)])
def test_the_matrices_move_equally_far_in_all_directions(shape):
    x = torch.randn(shape, generator=seeded()) * 100
    values = torch.linalg.svdvals(minimal.orthogonal(x))
    assert 0.2 < values.min() and values.max() < 1.3
    assert torch.linalg.svdvals(x).amin() < 0.2 * torch.linalg.svdvals(x).amax()
    assert minimal.orthogonal(torch.zeros(shape)).abs().max() == 0


def steps_as_seconds(monkeypatch):
    """Let the clock of minimal.py advance by one second per step, so that a test does not depend on the machine."""
    monkeypatch.setattr(minimal, "time", SimpleNamespace(perf_counter=itertools.count().__next__, sleep=lambda s: None))


def test_it_learns_more_than_the_frequencies(monkeypatch, capsys):
    steps_as_seconds(monkeypatch)
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


# 4. Writing


def test_visible_characters_never_change_and_no_mask_remains(model):
    canvas = tokens(3)
    canvas[:, 4:20] = V
    canvas[2] = tokens(1)[0]  # a text without masks
    given, before = canvas != V, canvas.clone()
    states = list(minimal.write(model, canvas, passes=16))
    assert len(states) == 16 and torch.equal(canvas, before)
    assert all(torch.equal(state[given], before[given]) for state in states)
    assert (states[-1] != V).all() and states[-1].max() < V
    assert sum((state == V).sum().item() > 0 for state in states) >= 4  # not all at once


def test_the_second_half_takes_doubtful_characters_back():
    torch.manual_seed(0)
    states = list(minimal.write(Frequencies(), torch.full((4, 64), V), passes=20))
    assert (states[9] != V).all()
    assert any(not torch.equal(state, states[9]) for state in states[10:])


# 5. The program


@pytest.fixture
def book(tmp_path, monkeypatch):
    """A text file. The program uses a small model and a clock that counts its steps."""
    steps_as_seconds(monkeypatch)
    monkeypatch.setattr(minimal, "Model", SMALL)
    monkeypatch.setattr(minimal, "__file__", str(tmp_path / "minimal.py"))
    path = tmp_path / "book.txt"
    path.write_text(made_up_text(), encoding="utf-8")
    return path


def test_it_trains_measures_and_writes(book, capsys):
    minimal.main(str(book), 3)
    training, _, page = capsys.readouterr().out.partition("NELBO")
    report, *texts = (page + "\n").split("\n\n", 1)
    assert "step 0" in training and "nats per character" in report and "±" in report
    assert set("".join(texts)) <= set(made_up_text()) and len("".join(texts)) >= 4 * minimal.WINDOW
    assert "\x1b" not in page and "░" not in page


def test_a_terminal_shows_every_pass(book, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    minimal.main(str(book), 3)
    frames = capsys.readouterr().out.split("\x1b[H\x1b[J")[1:]
    assert len(frames) == 128 and "░" in frames[0] and "░" not in frames[-1]


def test_ctrl_c_ends_the_training_and_not_the_program(book, capsys, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(minimal, "train", interrupted)
    minimal.main(str(book))
    assert "NELBO" in capsys.readouterr().out


def test_what_a_terminal_would_obey_is_left_out(tmp_path):
    path = tmp_path / "book.txt"
    path.write_text((HOSTILE + "é\n") * 1000, encoding="utf-8")
    text = minimal.read(str(path))
    assert set(text) <= set(HOSTILE + "é\n") and all(c.isprintable() or c == "\n" for c in text) and "é" in text


# 6. Bad files


def refusal(capsys, *arguments):
    with pytest.raises(SystemExit) as end:
        minimal.read(*arguments)
    error = capsys.readouterr().err
    assert end.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1 and "\x1b" not in error
    return error


@pytest.mark.parametrize("content", [b"", b"short", b"\xff\xfe" * 5000, b"\x1b" * 5000])
def test_a_useless_file_ends_with_one_message(content, tmp_path, capsys):
    path = tmp_path / "a\x1b[2Jb.txt"
    path.write_bytes(content)
    assert "a text file in UTF-8" in refusal(capsys, str(path))


def test_a_missing_file_or_a_folder_ends_with_one_message(tmp_path, capsys):
    assert "no-such.txt" in refusal(capsys, str(tmp_path / "no-such.txt"))
    assert "a text file" in refusal(capsys, str(tmp_path))


def test_the_process_ends_with_code_2_and_no_traceback(tmp_path):
    end = python(ROOT / "minimal.py", tmp_path / "no-such.txt")
    assert end.code == 2 and "Traceback" not in end.err and end.err.count("\n") == 1


def serve(monkeypatch, tmp_path, content, sha256):
    (tmp_path / "server.txt").write_text(content, encoding="utf-8")
    monkeypatch.setattr(minimal, "URL", (tmp_path / "server.txt").as_uri())
    monkeypatch.setattr(minimal, "SHA256", sha256)
    monkeypatch.setattr(minimal, "__file__", str(tmp_path / "minimal.py"))


def test_the_text_is_downloaded_once_and_its_sha256_checked(tmp_path, monkeypatch):
    text = made_up_text()
    serve(monkeypatch, tmp_path, text, hashlib.sha256(text.encode()).hexdigest())
    assert minimal.read() == text
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["tinyshakespeare.txt"]
    (tmp_path / "server.txt").unlink()
    assert minimal.read() == text
    (tmp_path / "tinyshakespeare.txt").write_text(2 * text, encoding="utf-8")  # the file beside the program comes first
    assert minimal.read() == 2 * text


def test_another_text_from_the_network_is_refused(tmp_path, monkeypatch, capsys):
    serve(monkeypatch, tmp_path, made_up_text(), "0" * 64)
    error = refusal(capsys)
    assert minimal.URL in error and "save" in error and "tinyshakespeare.txt" in error
    assert not list((tmp_path / "data").iterdir())


def test_without_a_network_one_message_says_which_file_to_save(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(minimal, "URL", "http://127.0.0.1:9/input.txt")
    monkeypatch.setattr(minimal, "__file__", str(tmp_path / "minimal.py"))
    error = refusal(capsys)
    assert minimal.URL in error and "tinyshakespeare.txt" in error
