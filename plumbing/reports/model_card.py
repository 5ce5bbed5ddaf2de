"""The model card: the README.md of a model on the Hugging Face Hub. plumbing/hub.py calls `write`."""

import dataclasses
from importlib import import_module

import torch

transformer = import_module("03_transformer")

CARD = """\
---
pipeline_tag: text-generation
tags: [tiny-dllm, {tag}]
---

# {name}

{what} It has {parameters:,} parameters and was trained with tiny-dllm, a book in code on language models small
enough for a laptop.

{facts}

## Write with it

In a copy of tiny-dllm:

    python {program} --hub {repo}

The model is `model.safetensors` and `config.json`. They contain only numbers and text, so loading them executes no
code.

## A sample

This is the first sample with seed 1. It was not chosen and not edited:

{sample}
"""
WHAT = {
    False: "A masked diffusion language model (dLLM): it writes by filling in masks, in any order.",
    True: "An autoregressive language model (GPT): it writes from left to right.",
}


def sample(model, tokenizer, length=256):
    """A text of `length` tokens that the model's chapter writes with its default settings and seed 1."""
    generator = torch.Generator().manual_seed(1)
    if model.config.causal:
        chapter = import_module("07_train_gpt")
        start = torch.tensor([[chapter.opening(tokenizer)]])
        return tokenizer.decode(chapter.generate(model, start, length, generator=generator)[0, 1:])
    chapter = import_module("06_generate")
    canvas = torch.full((1, length), model.config.mask_id)
    *_, last = chapter.generate(model, canvas, generator=generator)
    return tokenizer.decode(last.canvas[0])


def facts_of(config, tokenizer, info):
    """What is known about a model, as a list of lines. info: the values that its config.json holds."""
    facts, unit = [], tokenizer.unit
    # NLL: negative log-likelihood. NELBO: negative evidence lower bound, an upper bound on the NLL.
    measure = "NLL" if config.causal else "NELBO"
    if measure in info and "error" in info:
        meaning = "exact" if config.causal else "an upper bound on the negative log-likelihood"
        loss = f"{info[measure]:.4f} ± {info['error']:.4f} (standard error)"
        facts.append(f"validation {measure}: {loss} nats per {unit}, {meaning}")
    if {"step", "tokens", "seconds"} <= info.keys():
        facts.append(f"training: {info['step']:,} steps, {info['tokens']:,} {unit}s, {info['seconds']:,.0f} s; the "
                     f"weights are those of step {info.get('best_step', info['step']):,}")
    facts.append(f"corpus: {info.get('corpus', 'unknown')}. {info.get('source', '')}".strip())
    keys = "corpus_sha256", "command", "commit", "machine", "torch"
    facts += [f"{key}: `{info[key]}`" for key in keys if info.get(key)]
    facts.append("architecture: " + ", ".join(f"{key} {value}" for key, value in dataclasses.asdict(config).items()))
    return facts


def write(name, model, tokenizer, info, repo):
    """The text of a model card. It says only what the model's own config.json says, and ends with a sample."""
    causal = model.config.causal
    return CARD.format(
        name=name,
        tag="gpt" if causal else "masked-diffusion",
        what=WHAT[causal],
        repo=repo,
        parameters=transformer.count_parameters(model),
        facts="\n".join(f"- {fact}" for fact in facts_of(model.config, tokenizer, info)),
        program="07_train_gpt.py --write" if causal else "06_generate.py",
        sample="\n".join("    " + line for line in sample(model, tokenizer).split("\n")),
    )
