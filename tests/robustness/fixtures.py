"""The files with which every attack begins: tiny trained models, their settings, a text and a few Tamil poems."""

import json

from helpers import made_up_text, write_settings
from tamil_verse import SOURCES

TRAINING = {  # {name of a run: program and flags that trained it}
    "dllm": ("05_train", "--corpus", "text.txt"),
    "gpt": ("07_train_gpt", "--corpus", "text.txt"),
    "tamil": ("08_train_tamil", "--corpus", "kural"),
    "scale": ("12_scale", "--dataset", "text.txt", "--tokenizer", "bytes"),
}


def command(name, *flags, run=None):
    """The program and the flags of a training that takes a second, and whose numbers do not depend on its length."""
    settings = "scale.yaml" if name == "scale" else "tiny.yaml"
    return *TRAINING[name], "--config", settings, "--device", "cpu", "--run", run or name, *map(str, flags)


def furnish(arena):
    """Fill the arena: settings, texts, and the four runs, each of six steps with an evaluation every two."""
    folder = arena.folder
    (folder / "text.txt").write_text(made_up_text(), encoding="utf-8")
    write_settings(folder / "tiny.yaml", steps=6, evaluate_every=2, cooldown=0, evaluate_windows=4)
    scale = {"n_layer": 1, "n_head": 2, "n_embd": 16, "seq_len": 16, "batch_size": 4, "steps": 6, "evaluate_every": 2,
             "evaluate_windows": 4, "warmup": 2, "cooldown": 0, "dtype": "float32", "compile": "off",
             "validation": 0.2, "base": "defaults"}  # fmt: skip
    (folder / "scale.yaml").write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in scale.items()))
    arena.data.mkdir(exist_ok=True)
    text = "\n\n".join(f"# {name}\n" + "\n\n".join(poems) for name, poems in SOURCES.items())
    (arena.data / "tamil.txt").write_text(text.replace("# sangam", "# natrinai") + "\n", encoding="utf-8")
    for name in TRAINING:
        ended = arena.run(*command(name))
        assert ended.code == 0, ended.err
    arena.keep()
