"""The pages of docs/ and the programs behind them: templates, verdicts, variants, a student, the benchmark."""

import json
import math
import re
from dataclasses import dataclass
from importlib import import_module

import benchmark
from experiments import ablation, dllm_vs_gpt, pages, student
from helpers import make_model, refusal, write_settings
from plumbing import checkpoint, cli, text

import pytest
import torch

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
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
    """A folder for pages, with the template of a page named example."""
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


# The page of chapter 10


@pytest.mark.parametrize("length", [2, 3, 4])
def test_a_true_bound_and_a_false_one(length):
    """The NELBO of equal letters is their entropy. If the letters of a step are coupled, the same sum is below it."""
    letters = torch.zeros(length, dtype=torch.long)
    table = diffusion.losses_of_all_sets(dllm_vs_gpt.EqualLetters(), letters)
    assert diffusion.nll_of_text(table, length).item() == pytest.approx(math.log(2))
    assert diffusion.nelbo_by_orders(table, length).item() == pytest.approx(math.log(2))
    true, false = dllm_vs_gpt.false_bound(length)
    assert true == pytest.approx(math.log(2)) and false == pytest.approx(math.log(2) / length)


def test_a_winner_needs_two_standard_errors():
    assert dllm_vs_gpt.winner(1.0, 2.0, 0.4) == "GPT" and dllm_vs_gpt.winner(1.0, 2.0, 0.4, lower=True) == "dLLM"
    assert dllm_vs_gpt.winner(1.0, 2.0, 0.6) == "no difference"


def measured(value, error=0.01):
    return {"words": value, "words_error": error}


@pytest.mark.parametrize("dllm, gpt, better", [
    (0.98, 0.90, "GPT"),  # real text has 0.91: a higher share of known words is not better
    (0.92, 0.98, "dLLM"),
    (0.94, 0.93, "no difference"),
    (0.90, 0.94, "no difference"),  # 0.01 below and 0.03 above: the error of real text counts twice
])
def test_the_model_nearer_to_real_text_is_better(dllm, gpt, better):
    assert dllm_vs_gpt.nearer(measured(dllm), measured(gpt), measured(0.91), "words") == better


@pytest.mark.parametrize("truth", [(0.5, 0.9, 0.7), (0.9, 0.8, 0.7)])  # on both sides of real text, and on one side
def test_the_error_of_a_difference_of_distances(truth, monkeypatch):
    """The error that `nearer` computes is the spread of the difference over many repetitions of the experiment."""
    errors, seen = (0.01, 0.02, 0.03), []
    monkeypatch.setattr(dllm_vs_gpt, "winner", lambda x, y, error, lower: seen.append((x - y, error)))
    torch.manual_seed(0)
    draws = torch.randn(4000, 3, dtype=torch.float64)
    for draw in (draws * torch.tensor(errors) + torch.tensor(truth)).tolist():
        dllm_vs_gpt.nearer(*map(measured, draw, errors), "words")
    differences, computed = torch.tensor(seen, dtype=torch.float64).unbind(1)
    assert computed.mean().item() == pytest.approx(differences.std().item(), rel=0.05)


# The ablation

T, MASK = 32, 7


class Recorder(torch.nn.Module):
    """A model that knows the frequencies of tokens only, and records its inputs."""

    def __init__(self):
        super().__init__()
        self.config = transformer.TransformerConfig(seq_len=T, vocab_size=MASK)
        self.logits = torch.linspace(-1, 1, MASK)
        self.seen = []

    def forward(self, tokens, t=None):
        self.seen.append(tokens)
        assert torch.allclose((tokens == MASK).float().mean(1), t)
        return self.logits.expand(*tokens.shape, MASK)


def loss_and_inputs(task, x0, t_max=1.0):
    """Return the loss of a task, and what the model has seen."""
    model = Recorder()
    made = object.__new__(task)  # without a text
    made.t_max = t_max
    return made.loss(model, x0).item(), model.seen[0]


@pytest.fixture
def x0():
    torch.manual_seed(0)
    return torch.randint(MASK, (8, T))


def losses_by_hand(x0):
    return -Recorder().logits.log_softmax(0)[x0]


def test_complementary_masks_hide_each_token_of_half_the_texts_once(x0):
    loss, seen = loss_and_inputs(ablation.Complementary, x0)
    hidden = seen == MASK
    assert torch.equal(hidden[:4], ~hidden[4:]) and torch.equal(seen[:4].minimum(seen[4:]), x0[:4])
    assert hidden.any(1).all() and loss == pytest.approx(losses_by_hand(x0[:4]).mean().item())


def test_bell_shaped_noise_levels_are_seldom_extreme(x0):
    _, seen = loss_and_inputs(ablation.BellShaped, x0.repeat(500, 1))
    share = (seen == MASK).float().mean(1)
    assert share.mean().item() == pytest.approx(0.5 + 0.5 / T, abs=0.01)  # k is rounded up
    assert (share < 0.1).float().mean() < 0.07 and (share > 0.9).float().mean() < 0.07
    assert share.min() <= 0.1 and share.max() >= 0.9


@pytest.mark.parametrize("t_max", [1.0, 0.5])
def test_with_the_weight_1_t_each_text_counts_the_same(x0, t_max):
    loss, seen = loss_and_inputs(ablation.Weighted, x0, t_max)
    hidden = seen == MASK
    by_hand = ((losses_by_hand(x0) * hidden).sum(1) / hidden.sum(1)).mean().item()
    assert loss == pytest.approx(by_hand) and hidden.sum(1).max() <= t_max * T


def test_one_batch_in_a_hundred_is_cropped(x0):
    lengths = [loss_and_inputs(ablation.Cropped, x0)[1].shape[1] for _ in range(400)]
    assert 0 < sum(length < T for length in lengths) < 20 and min(lengths) >= 16


def test_a_variant_is_trained_for_some_time(monkeypatch):
    monkeypatch.setattr(ablation, "WINDOWS", 4)
    monkeypatch.setattr(training.MaskedDiffusion, "sample", lambda task, model: "")
    found = ablation.learn(("windows of 256, batches of 8", 1, 0.005))
    assert found["characters"] == found["steps"] * 8 * 256 > 0 and 2 < found["NELBO"] < 5


def test_the_differences_of_the_ablation():
    rows = [{"runs": [{"NELBO": x}, {"NELBO": y}]} for x, y in ((2.0, 2.2), (2.5, 2.6), (1.8, 2.2))]
    found = ablation.compared(rows)
    assert [row["difference"] for row in found["rows"]] == pytest.approx([0, 0.45, -0.1])
    assert found["apart"] == pytest.approx(0.2) and found["doubt"] == pytest.approx(0.4)


# The student


class Certain(torch.nn.Module):
    """A teacher that knows the text x0."""

    def __init__(self, x0):
        super().__init__()
        self.x0 = x0

    def forward(self, xt, t):
        return 100 * torch.nn.functional.one_hot(self.x0, 5).float()


def taught_loss(model, teachers, x0, t_max):
    task = object.__new__(student.Taught)
    task.teachers, task.t_max = teachers, t_max
    torch.manual_seed(4)
    return task.loss(model, x0)


@pytest.mark.parametrize("t_max", [1.0, 0.5])
def test_a_certain_teacher_is_the_text(t_max):
    model = make_model(5, seq_len=8, std=0.5)
    x0 = torch.randint(5, (6, 8))
    torch.manual_seed(4)
    plain = diffusion.simple_loss(model, x0, diffusion.spread_evenly(6, t_max * 8))
    assert taught_loss(model, [Certain(x0)] * 2, x0, t_max).item() == pytest.approx(plain.item(), abs=1e-5)


def test_the_target_is_the_mean_of_the_teachers():
    model, *teachers = [make_model(5, seq_len=8, std=0.5, seed=seed) for seed in range(3)]
    seen = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(inputs))
    loss = taught_loss(model, teachers, torch.randint(5, (6, 8)), 1.0)
    ((xt, t),) = seen
    target = sum(teacher(xt, t).softmax(-1) for teacher in teachers) / 2
    by_hand = -(target * model(xt, t).log_softmax(-1)).sum(-1)[xt == model.config.mask_id].mean()
    assert loss.item() == pytest.approx(by_hand.item(), abs=1e-5)
    loss.backward()
    assert all(parameter.grad is None for teacher in teachers for parameter in teacher.parameters())


def test_a_run_learns_from_teachers(runs_folder, tmp_path, capsys):
    (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog\n" * 60, encoding="utf-8")
    config = write_settings(tmp_path / "small.yaml", base="laptop", evaluations=1)
    flags = ["--corpus", str(tmp_path / "fox.txt"), "--config", str(config), "--device", "cpu"]
    training.main([*flags, "--run", "first", "--steps", "20"])
    student.main([*flags, "--teachers", "first,first", "--run", "second", "--steps", "20"])
    first, second = (checkpoint.load(runs_folder / name)[2]["NELBO"] for name in ("first", "second"))
    assert abs(first - second) < 0.3 and second < 3.2  # guessing among 28 characters costs 3.33
    student.main([*flags, "--teachers", "second", "--run", "first", "--steps", "40"])
    assert "resuming from step 20" in capsys.readouterr().out  # it has learned from the text, and goes on
    for words, message in (([], "a student needs teachers"), (["--teachers", "nobody"], "no model at 'nobody'"),
                           (["--teachers", "first", "--run", "first", "--fresh"], "first cannot teach itself"),
                           (["--teachers", "first", "--seq-len", "20"], "first reads 16 characters")):
        assert message in refusal(student.main, [*flags, *words])


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
    """Also if a step has two parts. Here, every look at the clock takes a second."""
    clock = iter(range(1000))
    monkeypatch.setattr(benchmark.scale, "now", lambda device: float(next(clock)))
    for parts in (1, 2):
        shape, config = benchmark.read_settings("laptop", True, 6, accumulate=parts)
        assert benchmark.step_seconds(shape, config, torch.device("cpu")) == parts


def test_writing_is_timed(tmp_path, monkeypatch):
    model = make_model(8, seq_len=32)
    checkpoint.save(tmp_path / "model", model, text.Characters("abcdefgh"), {"kind": "dllm"})
    monkeypatch.setattr(benchmark.checkpoint, "find", lambda name, kind: tmp_path / "model")
    rows = list(benchmark.measure_sampling(torch.device("cpu"), quick=True))
    assert [row["batch"] for row in rows] == [1, 16]
    for row in rows:
        assert row["characters_per_second"] == pytest.approx(row["batch"] * 32 / row["seconds"])


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
