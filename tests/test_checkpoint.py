"""checkpoint.py: saving and loading is exact, bad files give a message of one line, and the right model is found."""

import json
import os
import random

from helpers import COMMANDS, HOSTILE, Killed, make_model, refusal
from plumbing import checkpoint, files, text

import pytest
import safetensors.torch
import torch

INFO = {"kind": "dllm", "corpus": "x", "step": 3, "NELBO": 1.5, "error": 0.1}


@pytest.fixture
def folder(tmp_path, tiny):
    checkpoint.save(tmp_path / "m", tiny.model, tiny.tokenizer, INFO)
    return tmp_path / "m"


def rewrite(folder, change=lambda config: None, weights=lambda weights: None):
    """Change the config and the weights of a saved model."""
    tensors = safetensors.torch.load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    change(config)
    weights(tensors)
    safetensors.torch.save_file(tensors, folder / "model.safetensors", {"config": json.dumps(config)})


# Saving and loading


@pytest.mark.parametrize("shape", [{}, {"conv": 3, "conv_in": "every"}, {"causal": True}, {"time_conditioned": True},
                                   {"positions": "learned", "norm": "layer", "activation": "gelu", "dropout": 0.1}])
def test_a_model_of_every_shape_comes_back_exactly(tmp_path, tiny, shape):
    model = make_model(tiny.tokenizer.vocab_size, std=0.3, **shape)
    checkpoint.save(tmp_path, model, tiny.tokenizer, INFO)
    again, tokenizer, info = checkpoint.load(tmp_path)
    assert again.config == model.config and tokenizer.vocabulary == tiny.tokenizer.vocabulary and info == INFO
    assert not again.training and not any(p.requires_grad for p in again.parameters())
    tokens = torch.tensor([[1, 2, 8, 3]])
    assert torch.equal(again(tokens, torch.tensor([0.3])), model(tokens, torch.tensor([0.3])))


def test_16_bit_weights_halve_the_file_and_come_back_in_32(tmp_path, tiny):
    for name, dtype in (("full", torch.float32), ("half", torch.bfloat16)):
        checkpoint.save(tmp_path / name, tiny.model, tiny.tokenizer, INFO, dtype)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("full", "half")]
    assert sizes[1] < 0.75 * sizes[0]
    model, *_ = checkpoint.load(tmp_path / "half")
    for name, weight in tiny.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.bfloat16().float())


def test_the_weights_carry_their_own_config(folder, tmp_path, tiny):
    """So the files of two models cannot get mixed if the program is killed while it saves."""
    other = make_model(3, seq_len=8)
    real, calls = os.replace, []

    def replace(*paths):
        calls.append(paths)
        if len(calls) == 2:
            raise Killed
        real(*paths)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(files.os, "replace", replace)
        checkpoint.save(folder, other, text.Characters("abc"), INFO | {"step": 4})
    model, tokenizer, info = checkpoint.load(folder)
    assert model.config == other.config and tokenizer.vocabulary == "abc" and info["step"] == 4
    assert json.loads((folder / "config.json").read_text())["info"]["step"] == 3  # the file beside it is the old one


def test_a_shipped_model_of_before_loads_with_its_old_name_of_the_convolution(tmp_path, tiny):
    model = make_model(tiny.tokenizer.vocab_size, std=0.3, conv=3)
    checkpoint.save(tmp_path, model, tiny.tokenizer, INFO)

    def old(weights):
        weights["conv.weight"] = weights.pop("convs.0.weight")

    rewrite(tmp_path, weights=old, change=lambda config: config["model"].pop("conv_in"))
    tokens = torch.tensor([[1, 2, 8, 3]])
    assert torch.equal(checkpoint.load(tmp_path)[0](tokens), model(tokens))


def test_a_kill_or_an_error_during_a_save_leaves_the_old_files(folder, tiny, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for error in (Killed, OSError):
        def write(data, error=error):
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(safetensors.torch, "save", lambda *arguments: b"half")
            patch.setattr(files.os, "fsync", write)
            with pytest.raises(error):
                checkpoint.save(folder, tiny.model, tiny.tokenizer, INFO)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# Damaged and hostile files


def test_truncated_and_mutated_bytes_end_in_one_line(folder):
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    draw = random.Random(0)
    damaged = [whole[:size] for size in (0, 1, 8, 100, len(whole) // 2, len(whole) - 1)]
    for _ in range(60):
        data = bytearray(whole)
        data[draw.randrange(800)] ^= 1 << draw.randrange(8)
        damaged.append(bytes(data))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            checkpoint.load(folder)
        except Exception as error:  # a flipped bit in a name of the corpus changes nothing that matters
            assert type(error).__name__ == "UserError" and not COMMANDS.search(str(error))
            refused += 1
    assert refused > 30


@pytest.mark.parametrize("change", [
    lambda c: c["model"].update(n_layer=10**9), lambda c: c["model"].update(n_layer=2),
    lambda c: c["model"].update(seq_len=10**9), lambda c: c["model"].update(seq_len=-1),
    lambda c: c["model"].update(n_head=3), lambda c: c["model"].update(n_embd="16"),
    lambda c: c["model"].update(vocab_size=9), lambda c: c["model"].update({HOSTILE: 1}),
    lambda c: c.pop("model", None), lambda c: c.pop("tokenizer", None), lambda c: c.pop("info", None),
    lambda c: c.update(info=[]), lambda c: c["info"].update(NELBO=HOSTILE), lambda c: c["info"].update(step=None),
    lambda c: c["info"].update(kind="unknown"), lambda c: c.update(wiring=HOSTILE), lambda c: c.update(wiring="hybrid"),
    lambda c: c.update(tokenizer={"kind": "char", "vocabulary": 5}), lambda c: c["tokenizer"].update(vocabulary="aa"),
    lambda c: c["tokenizer"].update(kind=HOSTILE), lambda c: c["tokenizer"].update(vocabulary="ab"),
])
def test_a_config_that_makes_no_sense(folder, change):
    rewrite(folder, change)
    assert not COMMANDS.search(refusal(checkpoint.load, folder))


@pytest.mark.parametrize("change", [
    lambda w: w.pop("head.weight"), lambda w: w.update({HOSTILE: torch.zeros(1)}),
    lambda w: w.update({"head.weight": torch.zeros(3, 3)}), lambda w: w["head.weight"].fill_(torch.nan),
    lambda w: w["head.weight"].fill_(torch.inf), lambda w: w.update({"blocks.0.attn.out.weight": torch.zeros(16, 15)}),
])
def test_weights_that_do_not_fit(folder, change):
    rewrite(folder, weights=change)
    assert not COMMANDS.search(refusal(checkpoint.load, folder))


def test_something_else_in_the_place_of_a_file(folder):
    (folder / "model.safetensors").rename(folder / "kept")
    assert "no model in" in refusal(checkpoint.load, folder)
    os.mkfifo(folder / "model.safetensors")
    assert "no model in" in refusal(checkpoint.load, folder)
    (folder / "model.safetensors").unlink()
    safetensors.torch.save_file(safetensors.torch.load_file(folder / "kept"), folder / "model.safetensors")
    assert "carry no config" in refusal(checkpoint.load, folder)
    (folder / "kept").rename(folder / "model.safetensors")
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")  # nobody reads it
    checkpoint.load(folder)


# Finding


def test_another_kind_is_refused_with_the_command_that_uses_it(folder):
    rewrite(folder, lambda config: config["info"].update(kind="sudoku"))
    error = refusal(checkpoint.load, folder, kinds=("gpt", "dllm"))
    assert error == "m is a Sudoku model, and this program needs a GPT or a dLLM: use python 14_sudoku.py solve"
    assert checkpoint.load(folder, kinds=("sudoku",))


def test_your_latest_run_of_a_kind_comes_before_the_shipped_model(runs_folder, tiny):
    assert "python 05_train.py" in refusal(checkpoint.find, "", "dllm")
    names = (("shakespeare", "dllm"), ("old", "dllm"), ("new", "dllm"), ("mine", "gpt"))
    for time, (name, kind) in enumerate(names):
        checkpoint.save(runs_folder / name, tiny.model, tiny.tokenizer, {"kind": kind})
        os.utime(runs_folder / name / "model.safetensors", (time, time))
    assert checkpoint.find("", "dllm").name == "shakespeare"  # the others are no runs: they have no state
    for name in ("old", "new", "mine"):
        (runs_folder / name / "state.pt").touch()
    assert checkpoint.find("", "dllm").name == "new" and checkpoint.find("", "gpt").name == "mine"
    (runs_folder / "new" / "model.safetensors").write_text("damaged")
    assert checkpoint.find("", "dllm").name == "old"
    (runs_folder / "old" / "model.safetensors").unlink()
    os.mkfifo(runs_folder / "old" / "model.safetensors")  # a neighbour must not stop everybody
    assert checkpoint.find("", "dllm").name == "shakespeare"


def test_a_model_is_found_by_its_name_or_path(runs_folder, tiny, tmp_path, monkeypatch):
    for place in (runs_folder / "mine", tmp_path / "elsewhere"):
        checkpoint.save(place, tiny.model, tiny.tokenizer, INFO)
    monkeypatch.chdir(tmp_path)
    assert checkpoint.find("mine", "dllm") == runs_folder / "mine"
    assert checkpoint.find("elsewhere", "dllm").name == "elsewhere"
    assert "there are: mine" in refusal(checkpoint.find, "nowhere", "dllm")
