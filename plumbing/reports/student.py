"""Train a dLLM on what other dLLMs predict, as chapter 07 does with --teachers for a GPT.

    cp -r checkpoints/RUN checkpoints/FIRST
    python -m plumbing.reports.student --teachers FIRST,SECOND --run RUN --steps 28000    # and all flags of 05_train.py

A run may begin in this way, or go on so after it has learned from the text. A model cannot teach itself, but a copy of
it can.
"""

from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module

import torch
import torch.nn.functional as F

from plumbing import cli, corpora, devices, sampling, settings, tokenizers

diffusion = import_module("04_diffusion")
training = import_module("05_train")
gpt_training = import_module("07_train_gpt")


def taught_loss(model, x0, teachers, t_max=1.0, generator=None):
    """Return chapter 04's diffusion_loss of x0 (B, T) with the mean prediction of the teachers in place of the text.

    The text shows one token at a masked position, although others were possible. The teachers see the same visible
    tokens, and say how probable each of them is (knowledge distillation, Hinton et al. 2015, arXiv:1503.02531).
    """
    B, T = x0.shape
    k = 1 + (sampling.stratified(B, x0.device, generator) * t_max * T).long().clamp(max=T - 1)  # (B,)
    xt, t = diffusion.mask_exactly(x0, k, model.config.mask_id, generator), k / T
    with torch.no_grad():
        target = torch.stack([teacher(xt, t).float().softmax(-1) for teacher in teachers]).mean(0)  # (B, T, V)
    losses = F.cross_entropy(model(xt, t).float().flatten(0, 1), target.flatten(0, 1), reduction="none")  # (B T,)
    return losses.view(B, T)[xt == model.config.mask_id].sum() / k.sum()


@dataclass(frozen=True)
class TrainConfig(training.DiffusionTrainConfig):
    """How to train a dLLM that has teachers."""

    teachers: str = ""  # runs of dLLMs, separated by commas, whose mean prediction the model learns


@dataclass(frozen=True)
class Command(training.Command):
    """The flags of chapter 05, and the teachers."""

    config: str = "shakespeare"  # the settings file: a name in configs/, or the path of a YAML file
    train: TrainConfig = TrainConfig()


def main(argv=None):
    command = settings.parse(Command, argv)
    if not command.train.teachers or command.plain or command.train.weight != "equal":
        raise cli.UserError("a student needs --teachers; it has neither --plain nor --weight")
    corpus, device = corpora.load(command.corpus), devices.pick_device(command.device)
    tokenizer = tokenizers.CharTokenizer.from_text(corpus.text)
    model_config = replace(command.model, vocab_size=tokenizer.vocab_size)
    teachers = [devices.compile_model(teacher, command.train.compile, device) for teacher in
                gpt_training.find_teachers(command, "dllm", model_config.seq_len, corpus, tokenizer, device)]
    objective = replace(training.masked_diffusion(command.train),
                        loss=partial(taught_loss, teachers=teachers, t_max=command.train.t_max))
    training.start_run(command, "dllm", model_config, objective, tokenizer, corpus, corpora.split(corpus.text))


if __name__ == "__main__":
    cli.run(main)
