"""onnx_export.py: the exported file gives the logits of PyTorch, for any batch and length, and describes itself."""

import json
from pathlib import Path

import pytest
import torch
from helpers import make_model, refusal, seeded

from plumbing import checkpoint, hub, onnx_export, tokenizers


@pytest.mark.parametrize("causal", [False, True])
def test_the_logits_are_those_of_pytorch(tmp_path, causal):
    onnxruntime = pytest.importorskip("onnxruntime")
    tokenizer = tokenizers.CharTokenizer("\n abcdeé")
    # Each switch of chapter 03 is in one of the two models.
    shape = dict(causal=True, positions="learned", norm="layer", activation="gelu") if causal else dict(
        conv=3, time_conditioned=True)
    model, path = make_model(tokenizer.vocab_size, std=0.3, **shape), tmp_path / "new" / "model.onnx"
    checkpoint.save(tmp_path / "run", model, tokenizer, {"step": 7})
    hub.main([str(tmp_path / "run"), "--onnx", str(path)])
    session = onnxruntime.InferenceSession(path)
    for B, T in ((1, 1), (2, 8), (3, 16)):
        tokens = torch.randint(tokenizer.vocab_size + 1, (B, T), generator=seeded(T))  # also masks
        inputs = {"tokens": tokens, "t": torch.linspace(0.1, 0.9, B)}
        wanted = model(**inputs)
        given = {key.name: inputs[key.name].numpy() for key in session.get_inputs()}
        [logits] = session.run(["logits"], given)
        assert logits.shape == (B, T, tokenizer.vocab_size) and wanted.std() > 0.1
        assert (torch.from_numpy(logits) - wanted).abs().max() < 1e-4
    assert {key.name for key in session.get_inputs()} == ({"tokens"} if causal else {"tokens", "t"})
    description = json.loads(session.get_modelmeta().custom_metadata_map["tiny_dllm"])
    assert description["tokenizer"] == {"kind": "char", "vocabulary": "\n abcdeé"}
    assert description["mask_id"] == 8 and description["info"] == {"step": 7}
    assert description["model"]["seq_len"] == 16 and description["model"]["causal"] is causal


def test_a_mistake_writes_nothing(tmp_path):
    checkpoint.save(tmp_path / "run", make_model(8), tokenizers.CharTokenizer("\n abcdeé"), {})
    assert "must end in .onnx" in refusal(onnx_export.export, tmp_path / "run", tmp_path / "model.pt")
    assert "no model in" in refusal(onnx_export.export, tmp_path / "none", tmp_path / "model.onnx")
    assert "--onnx FILE" in refusal(hub.main, [str(tmp_path / "run")])
    assert [Path(path).name for path in tmp_path.iterdir()] == ["run"]
