"""runtimes.py: ONNX Runtime computes the same logits as PyTorch, keeps a GPT's rows, and writes the same texts."""

import sys
from importlib import import_module

from helpers import make_model, refusal
from plumbing import checkpoint, files, runtimes, text

import pytest
import torch
import torch.nn.functional as F

generation = import_module("06_generate")
gpt = import_module("07_train_gpt")

SHAPE = {"std": 0.3, "n_layer": 2, "seq_len": 8, "conv": 3, "conv_in": "every"}
OLD_PARTS = {"positions": "learned", "norm": "layer", "activation": "gelu", "conv": 0}
TOKENIZER = text.Characters("\n abcdeé")
MODELS = {"dllm": {"time_conditioned": True}, "gpt": {"causal": True}, "old": {"causal": True, **OLD_PARTS}}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with models and their ONNX files. The tests share the files, because writing one takes seconds."""
    pytest.importorskip("onnxruntime")
    folder = tmp_path_factory.mktemp("place")
    for name, shape in MODELS.items():
        model = make_model(TOKENIZER.vocab_size, **SHAPE | shape)
        info = {"kind": "dllm" if name == "dllm" else "gpt"}
        checkpoint.save(folder / name, model, TOKENIZER, info)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(files, "DATA", folder / "data")
            runtimes.choose("onnx", model, folder / name)
    return folder


@pytest.fixture
def opened(place, monkeypatch):
    """A function that returns a model, and the object that replaces it in a given runtime."""
    monkeypatch.setattr(files, "DATA", place / "data")

    def open_in(name, runtime):
        model, _, _ = checkpoint.load(place / name)
        return model, runtimes.choose(runtime, model, place / name)

    return open_in


def test_a_dllm_has_the_logits_of_pytorch(opened):
    model, other = opened("dllm", "onnx")
    for B, T in ((1, 1), (2, 8), (3, 5)):
        tokens, t = torch.randint(TOKENIZER.vocab_size + 1, (B, T)), torch.rand(B)
        assert (other(tokens, t) - model(tokens, t)).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["gpt", "old"])
def test_a_gpt_has_them_too_row_by_row(opened, name):
    model, other = opened(name, "onnx")
    tokens = torch.randint(TOKENIZER.vocab_size, (3, 8))
    full = model(tokens)  # (B, T, V)
    assert (other(tokens) - full).abs().max() < 1e-4
    cache, found = other.make_cache(3, 8), []
    for rows in torch.arange(8).split([3, 1, 1, 2, 1]):
        found.append(other(tokens[:, rows], positions=rows, cache=cache))
    assert (torch.cat(found, 1) - full).abs().max() < 1e-4


@pytest.mark.parametrize("name", ["gpt", "old"])
@pytest.mark.parametrize("prompt", [1, 5, 11])
def test_a_gpt_writes_the_same_past_its_window(opened, name, prompt):
    texts = []
    for model in opened(name, "onnx"):
        torch.manual_seed(prompt)
        canvas = F.pad(torch.randint(TOKENIZER.vocab_size, (2, prompt)), (0, 30), value=model.config.mask_id)
        *_, last = gpt.stream(model, canvas, lean=False)
        texts.append(last.canvas)
    assert torch.equal(*texts) and len(texts[0].unique()) > 2


@pytest.mark.parametrize("name", ["dllm", "gpt"])
def test_eight_bits_are_near(opened, name):
    model, other = opened(name, "onnx-int8")
    assert any(entry.name.endswith("int8.onnx") for entry in (files.DATA / "onnx").iterdir())
    torch.manual_seed(0)
    tokens, t = torch.randint(TOKENIZER.vocab_size, (4, 8)), torch.rand(4)
    exact = model(tokens, t)
    assert 0 < (other(tokens, t) - exact).square().mean().sqrt() < 0.1 * exact.std()


@pytest.mark.parametrize("program, name, flags", [
    (generation, "dllm", ["--len", "20", "--steps", "8"]), (gpt, "gpt", ["write", "--len", "20"])])
def test_the_programs_write_the_same_letters(opened, place, program, name, flags, capsys):
    texts = []
    for runtime in ("torch", "onnx"):
        program.main([*flags, "--checkpoint", str(place / name), "--seed", "1", "--quiet", "--runtime", runtime])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != ""
    opened(name, "onnx")
    assert capsys.readouterr().err == ""  # the file is there, and nothing warns


def test_changed_weights_are_written_to_another_file(opened, place, capsys, monkeypatch):
    monkeypatch.setattr(runtimes, "export_continuation", lambda model, path: path.write_bytes(b"x"))
    model = make_model(TOKENIZER.vocab_size, seed=1, **SHAPE | MODELS["gpt"])
    checkpoint.save(place / "changed", model, TOKENIZER, {"kind": "gpt"})
    with pytest.raises(runtimes.UserError, match="delete it"):  # these bytes are no model
        opened("changed", "onnx")
    assert "once" in capsys.readouterr().err


@pytest.mark.parametrize("program, flags", [(generation, []), (gpt, ["write"])])
def test_mistakes_end_in_a_clear_message(opened, place, program, flags, monkeypatch):
    flags = [*flags, "--checkpoint", str(place / ("gpt" if flags else "dllm"))]
    with pytest.raises(runtimes.UserError, match="at least two"):
        runtimes.export(make_model(8, seq_len=1), place / "one.onnx")
    assert "leave out --device cuda" in refusal(program.main, [*flags, "--runtime", "onnx", "--device", "cuda"])
    refusal(program.main, [*flags, "--runtime", "fast"])
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "requirements-dev.txt" in refusal(program.main, [*flags, "--runtime", "onnx"])
