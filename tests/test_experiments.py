"""The pages of docs/ and the programs behind them: templates, verdicts, variants, the benchmark."""

import json
import re
from dataclasses import dataclass
from importlib import import_module

import benchmark
from experiments import ablation, pages
from helpers import make_model
from plumbing import checkpoint, cli, text

import pytest
import torch

training = import_module("05_train")

TEMPLATES = sorted(path.stem for path in (pages.DOCS / "templates").glob("*.md"))


# Pages


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_committed_page_is_its_template_with_the_committed_numbers(name):
    page = (pages.DOCS / f"{name}.md").read_text(encoding="utf-8")
    assert pages.fill(name, pages.read(name)) == page, f"python -m experiments.{name} --render"


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_has_no_measured_number_of_its_own(name):
    template = (pages.DOCS / "templates" / f"{name}.md").read_text(encoding="utf-8")
    for kept in (r"```.*?```", r"`[^`]*`", r"\{.*?\}", r"\]\([^)]*\)", r"arXiv:\d+\.\d+"):
        template = re.sub(kept, "", template, flags=re.DOTALL)
    assert not re.findall(r".*\d\.\d.*|.*\d ?%.*", template)


@dataclass(frozen=True)
class Command(pages.Settings):
    number: int = 7


@pytest.fixture
def template(tmp_path, monkeypatch):
    """A folder for pages, with a template for the page "example"."""
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates" / "example.md").write_text("{number:.1f} of {{7}}\n\n{tables[all]}\n")
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    return tmp_path


def test_a_program_measures_and_writes_its_page(template, capsys):
    measure = lambda settings: {"number": settings.number}  # noqa: E731
    tables = lambda values: {"all": pages.table([["a", values["number"]]], ["", "n"])}  # noqa: E731
    draw = lambda values, folder: (folder / "example.png").write_text(str(values["number"]))  # noqa: E731
    words = ["--out", str(template)]
    pages.run("example", Command, measure, draw, tables, ["--number", "8", *words])
    page = "8.0 of {7}\n\n|  | n |\n| --- | ---: |\n| a | 8 |\n"
    assert (template / "example.md").read_text() == page and (template / "figures" / "example.png").read_text() == "8"
    (template / "example.md").unlink()
    pages.run("example", Command, None, draw, tables, ["--render", *words])  # nothing is measured
    assert (template / "example.md").read_text() == page
    pages.measured("example", {"other": 1}, template)
    with pytest.raises(cli.UserError, match="lack 'number'"):
        pages.render("example", template)
    with pytest.raises(OSError):  # cli.run makes one line of it
        pages.run("example", Command, measure, argv=["--out", str(template / "example.md")])


# The ablation

def test_a_variant_reads_so_many_characters(monkeypatch):
    monkeypatch.setattr(ablation, "WINDOWS", 4)
    monkeypatch.setattr(training.MaskedDiffusion, "sample", lambda task, model: "")
    found = ablation.learn((ablation.VARIANTS["batches of 64 windows, not 16"], 1, 4 * 64 * 128))
    assert found["steps"] == 4 and 2 < found["NELBO"] < 5 and "--batch-size 64" in found["command"]


def test_a_training_that_ended_is_not_repeated(tmp_path, monkeypatch):
    monkeypatch.setattr(ablation, "LOG", tmp_path / "ablation.jsonl")
    line = {"flags": "--conv 0", "seed": 1, "characters": 100, "NELBO": 2.5}
    ablation.LOG.write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert ablation.learn_all([("--conv 0", 1, 100)], processes=1) == [line]


def test_the_differences_of_the_ablation():
    runs = [[{"NELBO": x, "core_seconds": 2.0}, {"NELBO": y, "core_seconds": 2.0}] for x, y in ((2.0, 2.2), (2.5, 2.6))]
    first, second = ablation.compared([{"runs": same} for same in runs])
    assert first["NELBO"] == pytest.approx(2.1) and first["error"] == pytest.approx(0.1)
    assert second["difference"] == pytest.approx(0.45) and second["work"] == 1
    assert second["difference_error"] == pytest.approx((0.1**2 + 0.05**2) ** 0.5)


# The benchmark


def rows_of(path):
    return json.loads(path.read_text(encoding="utf-8"))["rows"]


def test_training_is_timed(tmp_path, capsys):
    out = tmp_path / "numbers.json"
    benchmark.main(["--quick", "--only", "laptop", "--device", "cpu", "--out", str(out)])
    assert "tokens_per_second" in capsys.readouterr().out and str(tmp_path) not in out.read_text(encoding="utf-8")
    for row in rows_of(out):
        assert row["tokens_per_second"] == pytest.approx(row["batch"] * row["window"] / row["step_seconds"])
        assert 0 < row["utilisation"] < 1


def test_a_step_is_the_time_between_two_batches(monkeypatch):
    """This also holds if a step has two parts. In this test, reading the clock takes a second."""
    clock = iter(range(1000))
    monkeypatch.setattr(benchmark.devices, "now", lambda device: float(next(clock)))
    for parts in (1, 2):
        shape, config = benchmark.read_settings("laptop", True, 6, accumulate=parts)
        assert benchmark.step_seconds(shape, config, torch.device("cpu")) == parts


def test_writing_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark.checkpoint, "RUNS", tmp_path)
    for kind, name in (("dllm", "shakespeare"), ("gpt", "shakespeare-gpt")):
        model = make_model(8, seq_len=32, causal=kind == "gpt")
        checkpoint.save(tmp_path / name, model, text.Characters("abcdefgh"), {"kind": kind})
    rows = list(benchmark.measure_sampling(torch.device("cpu"), quick=True))
    models = ["dllm", "dllm", *["gpt", "gpt without lean rows"] * 2]
    assert [row["model"] for row in rows] == models and [row["batch"] for row in rows] == [1, 16, 1, 1, 16, 16]
    for row in rows:
        assert row["characters_per_second"] == pytest.approx(row["batch"] * 31 / row["seconds"])
        assert row["passes"] == (4 if row["model"] == "dllm" else 31) and 0 < row["share_of_limit"] < 1


def test_the_runtimes_are_measured_on_the_same_windows(monkeypatch):
    monkeypatch.setattr(benchmark.runtimes, "choose", lambda runtime, model, folder: model)  # all of them are PyTorch
    found = list(benchmark.measure_runtimes(quick=True))
    for rows, measure in ((found[:3], "NELBO"), (found[3:], "NLL")):
        assert [row["runtime"] for row in rows] == list(benchmark.runtimes.RUNTIMES)
        assert len({row[measure] for row in rows}) == 1 and rows[0]["faster"] == 1


def test_the_busy_program_ends_with_its_measurement():
    with pytest.raises(KeyboardInterrupt), benchmark.busy_core() as process:
        assert process.poll() is None
        raise KeyboardInterrupt
    assert process.poll() is not None


def test_threads_and_processes_are_compared_by_ratios(monkeypatch):
    asked = []

    def child(words, **environment):
        asked.append(environment)
        return float(len(asked))

    monkeypatch.setattr(benchmark, "in_child", child)
    assert [row["slower"] for row in benchmark.measure_threads(quick=True)] == [2, 4 / 3]
    assert [environment["GOMP_SPINCOUNT"] for environment in asked] == ["300000"] * 2 + ["1000"] * 2
    one, two = benchmark.measure_scale(torch.device("cpu"), quick=True)  # steps of 5 and of 6 seconds
    assert (one["parallel_efficiency"], two["parallel_efficiency"]) == (1, pytest.approx(5 / 6))


def test_a_process_of_torchrun_prints_the_time_of_a_step(monkeypatch, capsys):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    benchmark.main(["--quick", "--only", "scale", "--device", "cpu"])
    assert float(capsys.readouterr().out.split()[-1]) > 0


def test_a_child_that_fails_says_why():
    assert benchmark.in_child(["-c", "print(2.5)"]) == 2.5
    with pytest.raises(cli.UserError, match="no such thing"):
        benchmark.in_child(["-c", "raise SystemExit('no such thing')"])
