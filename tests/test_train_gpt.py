"""Chapter 07: the likelihood is exact, the cache changes nothing, and a GPT trains and writes like a dLLM."""

import itertools
import math
import shutil
from importlib import import_module

import helpers
from helpers import Unigram, log_of, refusal, write_settings
from plumbing import checkpoint, cli, files, text

import pytest
import torch
import torch.nn.functional as F

training = import_module("05_train")
generation = import_module("06_generate")
gpt = import_module("07_train_gpt")

TEXT = "abracadabra, simsalabim.\n"


def make_model(vocab_size=5, seq_len=8, **changes):
    return helpers.make_model(vocab_size, seq_len, **{"std": 0.3, "n_layer": 2, "causal": True} | changes)


# The task


def test_the_nll_is_the_product_of_conditionals():
    torch.manual_seed(1)
    model, windows = make_model(conv=3), torch.randint(5, (3, 9))
    by_position = gpt.nll_by_position(model, windows, batch_size=2)
    for row, losses in zip(windows, by_position):
        for i in range(1, 9):  # one pass for each prefix, which sees nothing else
            probability = model(row[None, :i])[0, -1].softmax(-1)[row[i]]
            assert losses[i - 1].item() == pytest.approx(-math.log(probability), abs=1e-4)
    mean, error = gpt.nll(model, windows, batch_size=2)
    assert mean == pytest.approx(by_position.mean().item(), abs=1e-5)
    assert error == pytest.approx(by_position.mean(1).std().item() / 3**0.5, abs=1e-5)


def test_the_likelihoods_of_all_texts_add_up_to_one():
    model = make_model(vocab_size=3, seq_len=4)
    windows = torch.tensor([[2, *rest] for rest in itertools.product(range(3), repeat=4)])
    assert gpt.nll_by_position(model, windows).double().sum(1).neg().exp().sum() == pytest.approx(1, abs=1e-5)


def test_the_nll_of_a_model_that_knows_frequencies_only(tiny):
    model = Unigram(tiny.config, torch.tensor([0.5, 0.25, 0.125, 0.125]))
    windows = torch.tensor([[3, 0, 0, 0, 0, 1, 1, 2, 3]])  # as often as the model thinks; the first is given
    assert gpt.nll(model, windows.repeat(2, 1)) == (pytest.approx(1.75 * math.log(2)), 0)


def make_task(**named):
    tokenizer = text.Characters.of(TEXT)
    return gpt.NextToken(tokenizer, (TEXT * 9, TEXT * 3), 8, torch.device("cpu"), **named)


def test_the_task_trains_on_every_position_and_reports_the_nll():
    task = make_task()
    model = make_model(task.tokenizer.vocab_size)
    windows = task.batch(6)
    assert windows.shape == (6, 9) and task.windows.shape == (len(TEXT) * 3 // 9, 9)
    assert task.loss(model, windows).item() == pytest.approx(task.evaluate(model, windows)[0], abs=1e-5)
    assert len(task.sample(model)) == 8 and task.sample(model)[0] == "\n"
    for i in range(1, 9):  # each token but the first counts
        changed = windows.clone()
        changed[:, i] = (changed[:, i] + 1) % 5
        assert task.loss(model, changed) != task.loss(model, windows)


# Writing


@pytest.mark.parametrize("changes", [{}, {"positions": "learned", "norm": "layer", "activation": "gelu"},
                                     {"conv": 3, "conv_in": "every"}])
@pytest.mark.parametrize("temperature, top_k, prompt", [(0, None, 1), (1.0, None, 8), (0.8, 3, 5), (1.0, None, 30)])
def test_lean_and_plain_and_uncached_write_the_same_past_the_window(changes, temperature, top_k, prompt):
    model = make_model(vocab_size=11, **changes)
    torch.manual_seed(prompt)
    start = torch.randint(11, (3, prompt))
    texts = []
    for way in ({"lean": True}, {"lean": False}, {"cached": False}):
        torch.manual_seed(1)
        canvas = F.pad(start, (0, 30), value=model.config.mask_id)
        *_, last = gpt.stream(model, canvas, temperature, top_k, **way)
        texts.append(last.canvas)
    assert texts[0].shape == (3, prompt + 30) and torch.equal(texts[0][:, :prompt], start)
    assert torch.equal(texts[0], texts[1]) and torch.equal(texts[0], texts[2]) and len(texts[0].unique()) > 2


@pytest.mark.parametrize("changes", [{}, {"conv": 5}, {"conv": 3, "conv_in": "every", "n_head": 1}])
@torch.no_grad()
def test_lean_rows_are_the_numbers_of_the_model(changes):
    model, tokens = make_model(vocab_size=11, **changes), torch.arange(8).repeat(2, 1)
    assert gpt.LeanRows.fits(model.config)
    cache = model.make_cache(2, 8)
    model(tokens[:, :3], cache=cache)
    rows = gpt.LeanRows(model, cache)
    found = [model.head(rows(model.token_emb(tokens[:, i : i + 1]), i)) for i in range(3, 8)]
    assert torch.allclose(torch.cat(found, 1), model(tokens)[:, 3:], atol=1e-4)


@pytest.mark.parametrize("change", [{"positions": "learned"}, {"norm": "layer"}, {"activation": "gelu"}])
def test_lean_rows_do_not_fit_other_parts(change):
    assert not gpt.LeanRows.fits(make_model(vocab_size=11, **change).config)


def test_a_full_window_is_halved_and_the_cache_saves_rows():
    model = make_model(vocab_size=11)
    tokens = gpt.write(model, torch.tensor([[3]]), 20, temperature=0)
    start = 0
    for end in range(1, 21):
        if end - start > 8:
            start = end - 4
        assert model(tokens[:, start:end])[0, -1].argmax() == tokens[0, end]
    rows = []
    model.token_emb.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[1]))
    gpt.write(model, torch.tensor([[1, 2, 3]]), 10, temperature=0)
    assert rows == [3, 1, 1, 1, 1, 1, 4, 1, 1, 1]


def test_each_state_writes_one_token_in_every_row():
    model = make_model()
    canvas = F.pad(torch.tensor([[1], [2]]), (0, 5), value=model.config.mask_id)
    for end, state in enumerate(gpt.stream(model, canvas), 1):
        assert state.committed.nonzero().tolist() == [[0, end], [1, end]]
        assert (state.canvas == model.config.mask_id).sum() == 2 * (5 - end) and (state.confidence[:, end] < 1).all()
    assert end == 5


def test_writing_nothing_and_from_nothing():
    model, start = make_model(), torch.tensor([[1, 2]])
    assert torch.equal(gpt.write(model, start, 0), start)
    with pytest.raises(ValueError, match="at least one"):
        gpt.write(model, start[:, :0], 5)
    assert gpt.write(make_model(seq_len=1), start, 5).shape == (1, 7)


# Whole runs


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "spell.txt").write_text(TEXT * 60, encoding="utf-8")
    write_settings(folder / "tiny.yaml", n_embd=32, seq_len=32, batch_size=8, steps=80, evaluations=2,
                   evaluate_windows=4)
    return ["--corpus", str(folder / "spell.txt"), "--config", str(folder / "tiny.yaml"), "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, command):
    """A folder of runs. The commands of chapters 05 and 07 train a dLLM and a GPT on the same text."""
    runs = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        for module in (files, checkpoint):
            patch.setattr(module, "RUNS", runs)
        training.main([*command, "--run", "dllm", "--steps", "20"])
        gpt.main([*command, "--run", "gpt"])
    return runs


@pytest.fixture
def both(runs_folder, trained):
    shutil.copytree(trained, runs_folder)
    return runs_folder


def test_a_gpt_learns_a_text_that_repeats_and_both_curves_are_drawn(trained):
    model, _, info = checkpoint.load(trained / "gpt", kinds=("gpt",))
    assert model.config.causal and info["NLL"] < 0.3
    assert {"step", "seconds", "NLL", "error", "loss"} <= log_of(trained / "gpt")[-1].keys() | {"seconds"}
    assert (trained / "gpt" / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_dllm_of_another_text_is_not_compared(both, capsys):
    gpt.compare(both / "gpt", text.Corpus("other", "x"))
    assert "no dLLM to compare with" in capsys.readouterr().out


def test_writing_with_your_latest_gpt(both, capsys):
    gpt.main(["write", "--prompt", "abraca", "--len", "24", "--temp", "0", "--quiet"])
    assert capsys.readouterr().out.endswith("abracadabra, simsalabim.\n")
    flags = ["write", "--prompt", r"a,\n", "--len", "40", "--num", "2", "--quiet", "--seed"]
    texts = []
    for seed in ("1", "1", "2"):
        gpt.main([*flags, seed])
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2] and texts[0].count("a,\n") >= 2


def test_each_program_finds_its_kind_and_refuses_others(both):
    assert checkpoint.find("", "gpt").name == "gpt" and checkpoint.find("", "dllm").name == "dllm"
    assert "06_generate.py" in refusal(gpt.main, ["write", "--checkpoint", "dllm"])
    assert "07_train_gpt.py write" in refusal(generation.main, ["--checkpoint", "gpt"])


@pytest.mark.parametrize("flags", [
    ["--steps", "0"], ["--time-conditioned"], ["--teachers", "nobody"], ["--teachers", "dllm"], ["--teachers", "gpt"],
    ["write", "--len", "0"], ["write", "--prompt", "é"], ["write", "--prompt", "abc", "--len", "3"],
    ["write", "--temp", "-1"], ["write", "--steps", "5"], ["write", "--checkpoint", "a", "--hub", "a/b"],
])
def test_mistakes_end_in_a_clear_message_and_exit_code_2(both, command, flags):
    own = ["write"] if flags[0] == "write" else command
    refusal(gpt.main, own + flags[flags[0] == "write" :] + ([] if flags[0] == "write" else ["--run", "gpt"]))


# Teachers


def test_the_target_is_the_mean_prediction_of_the_teachers():
    torch.manual_seed(0)
    student, first, second = (make_model(seed=seed) for seed in range(3))
    windows = torch.randint(5, (2, 9))
    losses = gpt.taught_losses(student, [first, second], windows)
    target = (first(windows[:, :-1]).softmax(-1) + second(windows[:, :-1]).softmax(-1)) / 2
    expected = -(target * student(windows[:, :-1]).log_softmax(-1)).sum(-1)
    torch.testing.assert_close(losses, expected)
    same = gpt.taught_losses(first, [first], windows)
    entropy = torch.special.entr(first(windows[:, :-1]).softmax(-1)).sum(-1)
    torch.testing.assert_close(same, entropy)  # the lowest value that it can have


def test_only_the_student_learns():
    teacher, student = make_model(seed=1), make_model(seed=2)
    task = make_task(teachers=[teacher])
    windows = torch.randint(5, (4, 9))
    task.loss(student, windows).backward()
    assert all(p.grad is not None for p in student.parameters() if p.ndim == 2)
    assert all(p.grad is None for p in teacher.parameters())


def test_a_run_with_teachers_learns_their_text(both, command):
    gpt.main([*command, "--teachers", "gpt", "--run", "student", "--steps", "60"])
    _, _, info = checkpoint.load(both / "student")
    assert info["NLL"] < 0.6 and info["train"]["teachers"] == "gpt"


def test_a_teacher_of_another_text_is_refused(both, command, tmp_path):
    other = tmp_path / "other.txt"
    other.write_text(TEXT[::-1] * 60, encoding="utf-8")  # the same letters, another text
    error = refusal(gpt.main, ["--corpus", str(other), *command[2:], "--teachers", "gpt", "--run", "new"])
    assert "learned from another text" in error
    assert "lower --seq-len" in refusal(gpt.main, [*command, "--teachers", "gpt", "--run", "new", "--seq-len", "64"])


def test_the_laptop_settings_are_one_network_for_both_sides():
    dllm = cli.parse(training.Command, ["--config", "laptop"], section="dllm")
    own = cli.parse(gpt.Train, ["--config", "laptop"], section="gpt")
    assert dllm.model == own.model and dllm.train.minutes == own.train.minutes
    assert dllm.train.t_max < 1 and own.train.weight_decay > 0
