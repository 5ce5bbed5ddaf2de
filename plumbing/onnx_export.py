"""A model as an ONNX file, which many programs and languages can run: python -m plumbing.hub RUN --onnx FILE

The file has the input `tokens` (B, T), 64-bit integers, and the output `logits` (B, T, V). A time-conditioned model
also has the input `t` (B,), its noise levels. Any B is allowed, and any T up to seq_len. The metadata of the file has
one entry, `tiny_dllm`, which is JSON with these keys:

    model        the fields of chapter 03's TransformerConfig
    tokenizer    "kind" and "vocabulary"; in "char" and "tamil", entry i of the vocabulary is the text of token i
    mask_id      the token of a masked position
    info         the origin of the model's training, and its results
"""

import dataclasses
import json
import warnings

import torch

from plumbing import checkpoint, cli, files


def export(run, path):
    """Write the model in the folder `run` to an ONNX file. UserError if the run or the path is not usable."""
    try:
        import onnxscript  # noqa: F401, torch.onnx needs it
    except ImportError:
        raise cli.UserError("ONNX files need more packages: pip install -r requirements.txt") from None
    if path.suffix != ".onnx" or path.is_dir():
        raise cli.UserError(f"the path {str(path)!r} must end in .onnx")
    model, tokenizer, info = checkpoint.load(run)
    # The shape of the example is no limit, but its sizes must differ from 1 and from each other.
    example = (torch.randint(tokenizer.vocab_size, (2, min(8, model.config.seq_len))),)
    batch, length = torch.export.Dim("B"), torch.export.Dim("T", max=model.config.seq_len)
    shapes = ({0: batch, 1: length},)
    if model.config.time_conditioned:
        example, shapes = (*example, torch.tensor([0.25, 0.75])), (*shapes, {0: batch})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter warns of its own future
        program = torch.onnx.export(model, example, dynamo=True, dynamic_shapes=shapes, output_names=["logits"],
                                    input_names=["tokens", "t"][: len(example)], verbose=False)
    description = {"model": dataclasses.asdict(model.config), "mask_id": tokenizer.mask_id, "info": info,
                   "tokenizer": {"kind": tokenizer.kind, "vocabulary": tokenizer.vocabulary}}
    program.model.metadata_props["tiny_dllm"] = json.dumps(description, ensure_ascii=False)
    with files.whole_file(path) as partial:
        program.save(partial, external_data=False)
