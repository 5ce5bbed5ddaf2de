"""The two models that chapters 10 and 11 compare: one dLLM and one GPT, trained on the same text."""

import dataclasses
import shlex

from plumbing import checkpoint, cli

UNEQUAL = 1.2  # ratio of the numbers of parameters above which a comparison says little about the kind of model


def load(name, kind, text, device):
    """Return (model, tokenizer, folder, about) of the run `name` of a kind, "dllm" or "gpt".

    name: None means your latest run of this kind, or the shipped one. about: a dict that describes the run. UserError
    if the run is of the other kind, or was not trained on the Corpus `text`.
    """
    folder = checkpoint.find(name, kind)
    model, tokenizer, info = checkpoint.load(folder, device)
    if model.config.causal != (kind == "gpt"):
        raise cli.UserError(f"{folder.name} is not a {kind}: name one with --{kind}")
    if info.get("corpus_sha256") != text.sha256:
        raise cli.UserError(f"{folder.name} was trained on another text, not on {text.name}: name it with --corpus")
    about = {"name": folder.resolve().name, "parameters": sum(p.numel() for p in model.parameters()),
             "model": dataclasses.asdict(model.config), "info": info}
    return model, tokenizer, folder, about


def announce(dllm, gpt, corpus):
    """Print which models are compared, and a warning if their sizes differ much.

    dllm, gpt: the dicts `about` from `load`; corpus: as the user named it.
    """
    print(f"dLLM: {dllm['name']}, {dllm['parameters']:,} parameters\n"
          f"GPT:  {gpt['name']}, {gpt['parameters']:,} parameters")
    sizes = dllm["parameters"], gpt["parameters"]
    if max(sizes) > UNEQUAL * min(sizes):
        print(f"Warning: one model has {max(sizes) / min(sizes):.1f} times as many parameters as the other. This alone "
              "can decide the comparison.\n"
              f"  To train a matching model:   {matching_command(dllm, gpt, corpus)}\n"
              "  To compare other runs:       --dllm RUN and --gpt RUN")


def matching_command(dllm, gpt, corpus):
    """Return the command that trains a partner of the same shape: for the GPT if the dLLM is the shipped one, or else
    for the dLLM. The run has a name of its own, because the usual one may exist already."""
    script, shape = "07_train_gpt.py", dllm["model"]
    if dllm["name"] == checkpoint.SHIPPED.name:
        script, shape = "05_train.py", gpt["model"]
    names = "n_layer", "n_head", "n_embd", "seq_len", "conv", "conv_in"
    flags = (f"--{name.replace('_', '-')} {shape[name]}" for name in names if name in shape)
    return f"python {script} --corpus {shlex.quote(corpus)} --run partner {' '.join(flags)}"
