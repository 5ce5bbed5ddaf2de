"""What does each ingredient of the training recipe buy, in a fixed time?

    python -m plumbing.reports.ablation          # about 10 minutes; two runs at a time, each on one core
    python -m plumbing.reports.ablation --page   # only write the page again, from the logs

The program trains the laptop settings, with one thing changed per run, for 60 seconds each. It writes docs/ablation.md
from the logs of the runs in docs/logs/. Run nothing else on the machine at the same time.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from plumbing import cli, files, settings
from plumbing.settings import Switch

LOGS = files.ROOT / "docs" / "logs"
PAGE = files.ROOT / "docs" / "ablation.md"
COMMON = "--config laptop --minutes 1 --compile off --evaluate-every 100000"
CLASSIC = "--positions learned --norm layer --activation gelu"
RUNS = {
    "full recipe": "",
    "AdamW at 0.003 for every weight": "--optimizer adamw --lr-matrix 0.003 --lr-other 0.003",
    "no convolution over the embeddings": "--conv 0",
    "learned positions, LayerNorm, GELU": CLASSIC,
    "all three: the classic recipe":
        f"{CLASSIC} --conv 0 --optimizer adamw --lr-matrix 0.001 --lr-other 0.001 --t-max 1",
    "noise levels up to 1, not 0.8": "--t-max 1",
    "momentum 0.95, not 0.9": "--momentum 0.95",
    "no averaging of weights": "--ema 0",
    "no cooldown": "--cooldown 0",
    "batches of 32 windows, not 8": "--batch-size 32",
    "float32 products": "--dtype float32",
}


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    page: Switch = False  # write the page from the logs that exist, and train nothing


def run(item):
    """Train one variant, (number, (what changed, its flags)), and copy its log to docs/logs/."""
    number, (name, flags) = item
    folder = f"ablation-{number}"
    command = [sys.executable, "05_train.py", *COMMON.split(), *flags.split(), "--run", folder, "--fresh"]
    subprocess.run(command, cwd=files.ROOT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.copy(files.ROOT / "checkpoints" / folder / "config.json", LOGS / f"{folder}.json")
    print(name, flush=True)


def read(name):
    """What the log docs/logs/NAME.json says of its run."""
    return json.loads((LOGS / f"{name}.json").read_text(encoding="utf-8"))["info"]


def page():
    """Return the page as text. It is made from the logs alone."""
    infos = [read(f"ablation-{n}") for n in range(len(RUNS))]
    recipe = infos[0]
    lines = [
        "# What each ingredient of the recipe buys", "",
        "The table shows the NELBO (negative evidence lower bound, an upper bound on the negative log-likelihood) of "
        "the validation text of TinyShakespeare after 60 seconds of training on one core "
        f"({recipe['machine']}; PyTorch {recipe['torch']}; commit {recipe['commit']}; seed {recipe['train']['seed']}). "
        f"It is in nats per character, and lower is better. Each run is `python 05_train.py {COMMON}` with the flags "
        "of its row. Its settings and numbers are in docs/logs/. `python -m plumbing.reports.ablation` trains all "
        "runs and writes this page.", "",
        "The time is fixed, not the number of characters: a slower variant sees fewer of them. The error comes from "
        "the random masks. Each row is one run with one seed. How much another seed changes a number was not measured, "
        "so a small difference says little.", "",
        "| changed | flags | characters seen | NELBO |", "|---|---|---|---|",
    ]
    for (name, flags), info in zip(RUNS.items(), infos):
        lines.append(f"| {name} | `{flags or '(none)'}` | {info['tokens'] / 1e6:.2f}M "
                     f"| {info['NELBO']:.3f} ± {info['error']:.3f} |")
    for (name, _), info in zip(RUNS.items(), infos):
        if info["NELBO"] < recipe["NELBO"]:
            gain = recipe["NELBO"] - info["NELBO"]
            lines += ["", f"One row is better than the full recipe: \"{name}\", by {gain:.3f}. It was measured with "
                      "one seed and in runs of one minute only."]
    whole, constant = (read(f"laptop-amd{name}") for name in ("", "-no-cooldown"))
    lines += ["", "In the whole time of the laptop settings, on two cores of another machine, the cooldown costs "
              f"nothing: the NELBO is {whole['NELBO']:.3f} ± {whole['error']:.3f} with it ({whole['step']} steps) and "
              f"{constant['NELBO']:.3f} ± {constant['error']:.3f} without it ({constant['step']} steps), with one seed "
              "each. So the settings keep it."]
    return "\n".join(lines) + "\n"


def main(argv=None):
    if not settings.parse(Command, argv).page:
        LOGS.mkdir(exist_ok=True)
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(run, enumerate(RUNS.items())))
    with files.whole_file(PAGE) as path:
        path.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(files.ROOT)}")


if __name__ == "__main__":
    cli.run(main)
