"""Part 5 of chapter 10: new models read a part of the training text for many epochs, and meet held-out text.

    measure(...)    train every model on every share of the text, and return their curves
"""

import dataclasses
import itertools
import tempfile
from importlib import import_module

import torch

from plumbing import cli, runs

transformer = import_module("03_transformer")
training = import_module("05_train")
gpt_training = import_module("07_train_gpt")


def learning_curve(kind, part, val_ids, shape, config, tokenizer):
    """Train a new model on part (N,): a dLLM if kind is "dllm", otherwise a GPT. Returns its evaluations, with "epochs"
    and "loss"."""
    torch.manual_seed(config.seed)
    model = transformer.Transformer(dataclasses.replace(shape, causal=kind != "dllm")).to(part.device)
    objective = training.masked_diffusion(config) if kind == "dllm" else gpt_training.next_token(0)
    with tempfile.TemporaryDirectory() as scratch, runs.Run(
            f"{scratch}/run", {}, config, tokenizer, {}, quiet=True) as run:
        training.train(training.Trainer(model, config, part.device), part, val_ids, objective, run)
        records = runs.read_log(run.folder / "log.jsonl")
    if run.stopped:
        raise KeyboardInterrupt  # Ctrl-C ends the whole comparison, not only this run.
    return [r | {"epochs": r["tokens"] / len(part), "loss": r[objective.measure]} for r in records]


def measure(train_ids, val_ids, fractions, learners, size, seed, tokenizer):
    """Return the validation loss by epochs for each of `learners` on each of `fractions` of the training text.

    learners: {"dllm", "gpt" or "decayed": weight decay}. size: a `Size` of chapter 10. The learning rate is constant,
    so each point of a curve is the loss of a run that ends there.
    """
    config = training.DiffusionTrainConfig(**size.train, seed=seed, cooldown=0.0)
    shape = transformer.TransformerConfig(tokenizer.vocab_size, **size.shape)
    learned = []
    cli.heading(f"5. Reading the same text again: {config.steps} steps on 5 %, 20 % and 100 % of the text")
    print("Lower is better. If the loss at the end is above the lowest loss, the model overfits.")
    for fraction, (kind, weight_decay) in itertools.product(fractions, learners.items()):
        part = train_ids[: int(fraction * len(train_ids))]
        own = dataclasses.replace(config, weight_decay=weight_decay)
        # The last record is not a point of the curve: it measures the best weights on all windows.
        *curve, last = learning_curve(kind, part, val_ids, shape, own, tokenizer)
        best, end = min(curve, key=lambda r: r["loss"]), curve[-1]
        learned.append({"model": kind, "fraction": fraction, "characters": len(part), "curve": curve, "best": best,
                        "end": end, "all_windows": last})
        print(f"  {fraction:4.0%} {kind:7} lowest {best['loss']:.3f} after {best['epochs']:5.1f} epochs, "
              f"{end['loss']:.3f} at the end after {end['epochs']:.1f}", flush=True)
    return {"model": dataclasses.asdict(shape), "train": dataclasses.asdict(config),
            "parameters": transformer.count_parameters(transformer.Transformer(shape)),
            "own": {kind: {"weight_decay": decay} for kind, decay in learners.items()}, "runs": learned}
