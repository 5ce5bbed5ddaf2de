"""What does each ingredient of the training recipe buy, in a fixed time?

    python -m plumbing.reports.ablation               # about 10 minutes: each run has one core, two go at a time

Trains the laptop settings with one thing changed a run, for 60 seconds each, and writes docs/ablation.md from
the runs' logs. Run it on a machine with nothing else to do.
"""

import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
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


def run(item):
    """Train one variant; its row: (what changed, flags, record, provenance)."""
    number, (name, flags) = item
    folder = f"ablation-{number}"
    command = [sys.executable, "05_train.py", *COMMON.split(), *flags.split(), "--run", folder, "--fresh"]
    subprocess.run(command, cwd=ROOT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    path = ROOT / "checkpoints" / folder
    info = json.loads((path / "config.json").read_text(encoding="utf-8"))["info"]
    shutil.copy(path / "config.json", ROOT / "docs" / "logs" / f"{folder}.json")
    print(f"{info['NELBO']:.3f}  {name}", flush=True)
    return name, flags, info


def main():
    (ROOT / "docs" / "logs").mkdir(exist_ok=True)
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(run, enumerate(RUNS.items())))
    info = rows[0][2]
    lines = [
        "# What each ingredient buys", "",
        "Validation NELBO on TinyShakespeare, nats per character, after 60 seconds of training on one core "
        f"({info['machine']}; PyTorch {info['torch']}; commit {info['commit']}; seed {info['train']['seed']}). "
        f"Made by `python -m plumbing.reports.ablation`; each run is `python 05_train.py {COMMON}` and the flags "
        "of its row, "
        "and its settings and numbers are in docs/logs/.", "",
        "| changed | flags | characters seen | NELBO |", "|---|---|---|---|",
    ]
    for name, flags, info in rows:
        lines.append(f"| {name} | `{flags or '(none)'}` | {info['tokens'] / 1e6:.2f}M "
                     f"| {info['NELBO']:.3f} ± {info['error']:.3f} |")
    (ROOT / "docs" / "ablation.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
