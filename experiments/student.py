"""Train a dLLM on what other dLLMs predict, as chapter 07 does with --teachers for a GPT.

    python -m experiments.student --teachers FIRST,SECOND --run THIRD     # and all flags of 05_train.py

A run may begin in this way, or go on so after it has learned from the text: name it with --run and raise --steps. A
model cannot teach itself, but a copy of its folder can. The command that is saved with the model names the teachers.
"""

from dataclasses import asdict, dataclass
from importlib import import_module

from plumbing import checkpoint, cli, devices, text

import torch
import torch.nn.functional as F

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
training = import_module("05_train")


class Taught(training.MaskedDiffusion):
    """The task of chapter 05, with the mean prediction of the `teachers`, a list of models, in place of the text.

    The text shows one token at a hidden position, although others were possible. The teachers see the same visible
    tokens, and say how probable each of them is (knowledge distillation, Hinton et al. 2015, arXiv:1503.02531).
    """

    teachers = ()

    def loss(self, model, x0):
        B, T = x0.shape
        k = diffusion.spread_evenly(B, self.t_max * T, x0.device)
        xt = diffusion.hide(x0, k, model.config.mask_id)
        hidden = xt == model.config.mask_id  # (B, T)
        with torch.no_grad():
            target = torch.stack([teacher(xt, k / T)[hidden].float().softmax(-1) for teacher in self.teachers]).mean(0)
        return F.cross_entropy(model(xt, k / T)[hidden].float(), target)


@dataclass(frozen=True)
class Command(training.Settings):
    """The flags of chapter 05, and the teachers."""

    config: str = "shakespeare"  # a settings file: a name in configs/, or the path of a YAML file
    teachers: str = ""  # runs of dLLMs, separated by commas, whose mean prediction the model learns
    train: training.DiffusionTrainConfig = training.DiffusionTrainConfig()


def load_teachers(settings, corpus, device):
    """Return the models that --teachers names. UserError if one of them cannot teach this run."""
    teachers = []
    for name in filter(None, settings.teachers.split(",")):
        folder = checkpoint.find(name, "dllm")
        teacher, _, info = checkpoint.load(folder, device, kinds=("dllm",))
        if folder.name == settings.run:
            raise cli.UserError(f"{folder.name} cannot teach itself: name another run with --run")
        if info.get("corpus_sha256") != corpus.sha256:
            raise cli.UserError(f"{folder.name} learned from another text than {corpus.name}")
        if teacher.config.seq_len < settings.model.seq_len:
            raise cli.UserError(f"{folder.name} reads {teacher.config.seq_len} characters: lower --seq-len")
        teachers.append(teacher)
    if not teachers:
        raise cli.UserError("a student needs teachers: name their runs with --teachers")
    return teachers


def main(argv=None):
    settings = cli.parse(Command, argv, section="dllm")
    corpus = text.load(settings.corpus)
    tokenizer = text.Characters.of(corpus.text)
    device = devices.pick_device(settings.device)
    config = transformer.TransformerConfig(**asdict(settings.model), vocab_size=tokenizer.vocab_size)
    task = Taught(tokenizer, text.split(corpus.text), config.seq_len, device, settings.train.t_max)
    task.teachers = load_teachers(settings, corpus, device)
    training.start(settings, "dllm", task, config, {"corpus": corpus.name, "corpus_sha256": corpus.sha256}, device)


if __name__ == "__main__":
    cli.run(main)
