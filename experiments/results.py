"""Makes the page docs/results.md: the shipped models, and the two models that a reader trains first.

    python -m experiments.results              # takes seconds, and measures nothing
    python -m experiments.results --measure    # first measures two models again (see below)

The program reads its numbers from files. Each training has written numbers to checkpoints/NAME/config.json or
docs/logs/, and benchmark.py has written numbers to docs/benchmarks/. Run the program again when one of these files has
changed.

Two models were trained with programs that had not been committed to Git. So nobody can say exactly what the last
evaluations of these models measured. That is why --measure measures these two models again.
"""

import json
import math
from dataclasses import dataclass
from importlib import import_module

from experiments import pages
from plumbing import checkpoint, cli, files, sudoku, text

import safetensors
import torch

transformer = import_module("03_transformer")
gpt = import_module("07_train_gpt")
puzzles = import_module("14_sudoku")

PER_WINDOW = {"sudoku": "grids", "robot-path": "paths"}  # what a window holds; usually a piece of a longer text
UNITS = {"tamil": "letter", "sudoku": "blank", "robot-path": "waypoint"}  # what one token is; usually a character
LAPTOP = {"laptop-dllm": ("dLLM of `python 05_train.py`", "this one"),
          "laptop-gpt": ("GPT of `python 07_train_gpt.py`", "this one")}  # fmt: skip
SHIPPED = {
    "shakespeare": ("dLLM `shakespeare`", "[fast_decoding](fast_decoding.md)"),
    "shakespeare-gpt": ("GPT `shakespeare-gpt`", "[dllm_vs_gpt](dllm_vs_gpt.md)"),
    "shakespeare-hybrid": ("both in one, `shakespeare-hybrid`", "[block_diffusion](block_diffusion.md)"),
    "tamil": ("dLLM `tamil`", "[tamil_couplets](tamil_couplets.md)"),
    "sudoku": ("dLLM `sudoku`", "[sudoku](sudoku.md)"),
    "robot-path": ("dLLM `robot-path`", "[robot_path](robot_path.md)"),
}
BENCHMARK = "intel-xeon-2-cores-float32"
RUNTIMES = "amd-epyc-2-cores-runtimes"


@dataclass(frozen=True)
class Command(pages.Settings):
    """The flags of this program."""

    measure: bool = False  # measure two shipped models again, which takes a minute


def measure_again():
    """Measure two models again on all their unseen data, and return {name: numbers}."""
    device = torch.device("cpu")
    found = {}
    for name in ("shakespeare-gpt", "sudoku"):
        model, tokenizer, info = checkpoint.load(files.RUNS / name)
        if name == "sudoku":
            task = puzzles.AnyOrder(*sudoku.training_puzzles(info["puzzles"]), tokenizer)
        else:
            task = gpt.NextToken(tokenizer, text.split(text.load("shakespeare").text), model.config.seq_len, device)
        mean, error = task.evaluate(model, task.windows)
        numbers = {task.measure: mean, "error": error, "windows": len(task.windows)}
        found[name] = numbers | pages.origin("results", device)
        print(f"{name}: {task.measure} {mean:.4f} ± {error:.4f}", flush=True)
    return found


def read_json(path):
    return json.loads(files.read_text(path))


def laptop_run(name):
    """Return the config and the number of parameters of a run. The book keeps only its log, not its model."""
    config = read_json(pages.DOCS / "logs" / f"{name}.json")
    parts = transformer.parameters_by_part(transformer.TransformerConfig(**config["model"]))
    return config, sum(number for _, number in parts.values())


def shipped_model(name):
    """Return the config and the number of parameters of a shipped model."""
    folder = files.RUNS / name
    with safetensors.safe_open(folder / "model.safetensors", framework="pt") as weights:
        numbers = [math.prod(weights.get_slice(key).get_shape()) for key in weights.keys()]
    config = read_json(folder / "config.json")
    again = read_json(pages.AGAIN).get(name)
    if again:
        measure = measure_of(again)
        config["info"] |= {measure: again[measure], "error": again["error"], "again": again["commit"]}
    return config, sum(numbers)


def measure_of(info):
    return "NELBO" if "NELBO" in info else "NLL"


def number(info):
    """Return a string: the NELBO or NLL of a model, and the standard error of this number."""
    measure = measure_of(info)
    return f"{measure} {info[measure]:.3f} ± {info['error']:.3f}"


def row(config, parameters, name, page):
    """Return the table's line for a model."""
    info, train = config["info"], config["info"]["train"]
    windows = info["step"] * train["batch_size"] * train["accumulate"]
    unit = UNITS.get(info["kind"], "character")
    read = f"{windows * config['model']['seq_len'] / 1e6:.1f}M {unit}s"
    if info["kind"] in PER_WINDOW:
        read = f"{windows:,} {PER_WINDOW[info['kind']]}"
    mark = " †" if "again" in info else ""
    machine = info["machine"].replace(", x86_64", "").replace("1 threads", "1 thread")
    return [name, f"{parameters / 1e6:.2f}M", read, f"{info['seconds'] / 60:.1f} min",
            machine, f"{number(info)} per {unit}{mark}", page]


def speed_rows(benchmark):
    """Yield the lines of the table of speeds."""
    training = [row for row in benchmark["rows"] if row["kind"] == "training"]
    plain = {row["settings"]: row for row in training if row["mode"] == "eager"}
    compiled = {row["settings"]: row for row in training if row["mode"] == "compiled"}
    for settings, row in plain.items():
        yield [f"training, {row['batch']} windows of {row['window']} characters", f"{row['parameters'] / 1e6:.1f}M",
               f"{row['tokens_per_second']:,.0f}", f"{compiled[settings]['tokens_per_second']:,.0f}"]
    for row in benchmark["rows"]:
        if row["kind"] == "sampling":
            texts = f"{row['batch']} texts at once" if row["batch"] > 1 else "one text"
            yield [f"writing, {texts} of {row['characters']} characters in {row['nfe']} passes",
                   f"{row['parameters'] / 1e6:.1f}M", f"{row['characters_per_second']:,.0f}", ""]


def runtime_rows(benchmark):
    """Yield the lines of the table of runtimes."""
    for row in benchmark["rows"]:
        yield [f"{row['model']}, `--runtime {row['runtime']}`", f"{row['characters_per_second']:,.0f}",
               f"{row['faster']:.1f} ×", f"{measure_of(row)} {row[measure_of(row)]:.4f}",
               "{:.1f} ± {:.1f}".format(*row["distance"]) if "distance" in row else ""]


def collect(settings=None):
    """Return the numbers of the page."""
    if settings and settings.measure:
        with files.whole_file(pages.AGAIN) as path:
            path.write_text(json.dumps(measure_again(), indent=1) + "\n", encoding="utf-8")
    laptop = {name: laptop_run(name) for name in LAPTOP}
    shipped = {name: shipped_model(name) for name in SHIPPED}
    rows = [row(*laptop[name], *words) for name, words in LAPTOP.items()]
    rows += [row(*shipped[name], *words) for name, words in SHIPPED.items()]
    benchmark = read_json(pages.DOCS / "benchmarks" / f"{BENCHMARK}.json")
    runtimes = read_json(pages.DOCS / "benchmarks" / f"{RUNTIMES}.json")
    columns = ["model", "parameters", "read in training", "training", "machine", "nats, on unseen text", "page"]
    ways = ["", "characters/s", "speed relative to torch", "nats per character", "distance"]
    tables = {"models": pages.table(rows, columns),
              "speed": pages.table(speed_rows(benchmark), ["", "parameters", "characters/s", "compiled"]),
              "runtimes": pages.table(runtime_rows(runtimes), ways)}
    infos = {name: config["info"] for name, (config, _) in (laptop | shipped).items()}
    alone = read_json(pages.DOCS / "logs" / "shakespeare-gpt-first.json")["info"]
    again = {info["again"] for info in infos.values() if "again" in info}
    reached = {name: info[measure_of(info)] for name, info in infos.items()}
    return {"tables": tables, "reached": reached, "untaught": number(alone), "guessing": math.log(65),
            "again": ", ".join(sorted(again)),
            "benchmark": {key: benchmark[key] for key in ("machine", "date", "commit")},
            "runtimes": {key: runtimes[key] for key in ("machine", "date", "commit")}}


if __name__ == "__main__":
    cli.run(lambda: pages.run("results", Command, collect))
