"""What does each ingredient of the training recipe buy, in a fixed time?

    python -m plumbing.reports.ablation          # about an hour; two runs at a time, each on one core
    python -m plumbing.reports.ablation --page   # only write the page again, from the logs

The program trains the settings laptop-small, with one thing changed per run, for 60 seconds each and with two seeds. It
writes docs/ablation.md from the logs of the runs in docs/logs/. Run nothing else on the machine at the same time.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from statistics import mean, median

from plumbing import cli, files, settings
from plumbing.settings import Count, Switch

LOGS = files.ROOT / "docs" / "logs"
PAGE = files.ROOT / "docs" / "ablation.md"
COMMON = "--config laptop-small --minutes 1 --compile off --evaluate-every 100000"
SEEDS = 1, 2
CLASSIC = "--positions learned --norm layer --activation gelu"
VARIANTS = "-m plumbing.reports.variants"  # the program of what is not a setting
RUNS = {  # what changes: the program, its flags
    "full recipe": ("05_train.py", ""),
    "AdamW at 0.003 for every weight": ("05_train.py", "--optimizer adamw --lr-matrix 0.003 --lr-other 0.003"),
    "five Newton-Schulz steps, not three": (VARIANTS, "--variant five-steps"),
    "learning rate 0.005, not 0.01, for embeddings and the like": ("05_train.py", "--lr-other 0.005"),
    "a convolution in the first block only": ("05_train.py", "--conv-in first"),
    "no convolution": ("05_train.py", "--conv 0"),
    "learned positions, LayerNorm, GELU": ("05_train.py", CLASSIC),
    "all three: the classic recipe":
        ("05_train.py", f"{CLASSIC} --conv 0 --optimizer adamw --lr-matrix 0.001 --lr-other 0.001 --t-max 1"),
    "noise levels up to 1, not 0.8": ("05_train.py", "--t-max 1"),
    "noise levels with a bell-shaped density": (VARIANTS, "--variant bell"),
    "noise levels up to 1, weight 1/t": ("05_train.py", "--t-max 1 --weight 1/t"),
    "complementary masks": (VARIANTS, "--variant complementary"),
    "windows cut to a random length": (VARIANTS, "--variant cropped"),
    "middle blocks run twice": (VARIANTS, "--variant looped"),
    "deeper and narrower": ("05_train.py", "--n-layer 7 --n-embd 96"),
    "wider and shallower": ("05_train.py", "--n-layer 2 --n-embd 184"),
    "weight decay 0.1": ("05_train.py", "--weight-decay 0.1"),
    "dropout 0.1": ("05_train.py", "--dropout 0.1"),
    "momentum 0.95, not 0.9": ("05_train.py", "--momentum 0.95"),
    "no averaging of weights": ("05_train.py", "--ema 0"),
    "no cooldown": ("05_train.py", "--cooldown 0"),
    "batches of 64 windows, not 16": ("05_train.py", "--batch-size 64"),
    "windows of 256, batches of 8": ("05_train.py", "--seq-len 256 --batch-size 8"),
    "1.8 million parameters, not 0.8": ("05_train.py", "--n-embd 192 --n-head 3"),
    "a learned noise schedule for each character (MD4)": (VARIANTS, "--variant schedules"),
}


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    page: Switch = False  # write the page from the logs that exist, and train nothing
    processes: Count = 2  # runs at a time, each on one core


def run(item):
    """Train one variant, ((number, (what changed, (program, its flags))), seed), and copy its log to docs/logs/."""
    (number, (name, (program, flags))), seed = item
    folder = f"ablation-{number}-{seed}"
    command = [sys.executable, *program.split(), *COMMON.split(), *flags.split(), "--seed", str(seed), "--run", folder]
    subprocess.run([*command, "--fresh"], cwd=files.ROOT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    shutil.copy(files.ROOT / "checkpoints" / folder / "config.json", LOGS / f"{folder}.json")
    print(f"{name}, seed {seed}: {read(folder)['NELBO']:.3f}", flush=True)


def read(name):
    """What the log docs/logs/NAME.json says of its run."""
    return json.loads((LOGS / f"{name}.json").read_text(encoding="utf-8"))["info"]


def page():
    """Return the page as text. It is made from the logs alone."""
    rows = [(name, flags, [read(f"ablation-{number}-{seed}") for seed in SEEDS])
            for number, (name, (_, flags)) in enumerate(RUNS.items())]
    recipe = rows[0][-1]
    about, full = recipe[0], mean(info["NELBO"] for info in recipe)
    commits = " or ".join(dict.fromkeys(info["commit"] for *_, infos in rows for info in infos))
    apart = median(abs(infos[0]["NELBO"] - infos[1]["NELBO"]) for *_, infos in rows)
    lines = [
        "# What each ingredient of the recipe buys", "",
        "The table shows the NELBO (negative evidence lower bound, an upper bound on the negative log-likelihood) of "
        "the validation text of TinyShakespeare, with a time budget of 60 seconds on one core "
        f"({about['machine']}; PyTorch {about['torch']}; commit {commits}; seeds 1 and 2). "
        f"It is in nats per character, and lower is better. Each run is `python 05_train.py {COMMON}` with the flags "
        f"of its row. Where it names a variant, `python {VARIANTS}` takes the place of `python 05_train.py`, "
        "because the variant is not a setting. All settings and numbers are in docs/logs/. "
        "`python -m plumbing.reports.ablation` trains all runs and writes this page.", "",
        "The time is fixed, not the number of characters: a slower variant sees fewer of them. The budget includes the "
        "last evaluation. The last column is the difference from the full recipe. In half of the rows the two seeds "
        f"differ by {apart:.3f} or more, so a difference below {2 * apart:.2f} says little.", "",
        "| changed | flags | characters seen | NELBO, seed 1 | seed 2 | difference |", "|---|---|---|---|---|---|",
    ]
    for name, flags, infos in rows:
        numbers = " | ".join(f"{info['NELBO']:.3f} ± {info['error']:.3f}" for info in infos)
        seen = mean(info["tokens"] for info in infos) / 1e6
        lines.append(f"| {name} | `{flags or '(none)'}` | {seen:.2f}M | {numbers} "
                     f"| {mean(info['NELBO'] for info in infos) - full:+.3f} |")
    whole, constant = (read(f"laptop-amd{name}") for name in ("", "-no-cooldown"))
    lines += ["", "In five and a half minutes, with a model of 1.8 million parameters and windows of 256 on two cores "
              "of another machine, the cooldown costs nothing. With the earlier recipe, whose only convolution was in "
              "the first block, the NELBO is "
              f"{whole['NELBO']:.3f} ± {whole['error']:.3f} with it ({whole['step']} steps) and "
              f"{constant['NELBO']:.3f} ± {constant['error']:.3f} without it ({constant['step']} steps), with one seed "
              "each. So the settings keep it."]
    return "\n".join(lines) + "\n"


def main(argv=None):
    command = settings.parse(Command, argv)
    if not command.page:
        LOGS.mkdir(exist_ok=True)
        with ThreadPoolExecutor(command.processes) as pool:
            list(pool.map(run, product(enumerate(RUNS.items()), SEEDS)))
    with files.whole_file(PAGE) as path:
        path.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE.relative_to(files.ROOT)}")


if __name__ == "__main__":
    cli.run(main)
