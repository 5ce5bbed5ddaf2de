"""Chapter 07: an exact likelihood, a cache that changes nothing, both curves, and the weights that a run keeps."""

import dataclasses
import itertools
import json
import math
import os
import shutil
from importlib import import_module

import helpers
import pytest
import torch
from helpers import COMMANDS, Killed, Unigram, log_of, refusal, seeded, write_settings
from PIL import Image
from safetensors.torch import load_file

from plumbing import checkpoint, cli, corpora, files, runs, tokenizers

transformer = import_module("03_transformer")
diffusion = import_module("04_diffusion")
train = import_module("05_train")
generate = import_module("06_generate")
gpt = import_module("07_train_gpt")

TEXT = "abracadabra, simsalabim!\n"


def make_model(vocab_size=5, seq_len=8, **changes):
    shape = {"n_layer": 2, "causal": True} | changes
    return helpers.make_model(vocab_size, seq_len, std=0.5, **shape).requires_grad_(False)


# Likelihood


def test_nll_is_the_product_of_conditionals():
    model, windows = make_model(), torch.randint(5, (3, 9), generator=seeded(1))
    by_position = gpt.nll_by_position(model, windows, batch_size=2)
    assert by_position.shape == (3, 8)
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


def test_nll_of_a_model_that_knows_frequencies_only(tiny):
    frequencies = torch.tensor([0.5, 0.25, 0.125, 0.125])
    model = Unigram(dataclasses.replace(tiny.config, vocab_size=4), frequencies)
    windows = torch.tensor([[3, 0, 0, 0, 0, 1, 1, 2, 3]])  # as often as the model thinks; the first is given
    assert gpt.nll(model, windows.repeat(2, 1)) == (pytest.approx(1.75 * math.log(2)), 0)


def test_every_position_counts_in_the_loss_and_none_sees_its_answer():
    objective, model = gpt.next_token(0), make_model()
    windows = torch.randint(5, (4, 8 + objective.extra))
    loss = objective.loss(model, windows)
    assert loss.item() == pytest.approx(objective.evaluate(model, windows, 1)[0], abs=1e-5)
    before = gpt.nll_by_position(model, windows)
    windows[:, 6] = (windows[:, 6] + 1) % 5
    moved = (gpt.nll_by_position(model, windows) != before).any(0).tolist()
    assert not any(moved[:5]) and all(moved[5:])
    assert objective.sample(model).shape == (8,)


# Generation


@pytest.mark.parametrize("changes", [{}, {"positions": "learned", "norm": "layer", "activation": "gelu"}])
@pytest.mark.parametrize("temperature, top_k", [(0, None), (1.0, None), (0.8, 3)])
@pytest.mark.parametrize("prompt", [1, 5, 8, 30])
def test_cached_and_uncached_write_the_same_past_the_window(changes, temperature, top_k, prompt):
    model = make_model(vocab_size=11, **changes)
    start = torch.randint(11, (3, prompt), generator=seeded(prompt))
    texts = []
    for cached in (True, False):
        generator = seeded(1)
        texts.append(gpt.generate(model, start, 30, temperature, top_k, generator, cached))
    assert texts[0].shape == (3, prompt + 30) and torch.equal(texts[0][:, :prompt], start)
    assert torch.equal(*texts)
    assert len(texts[0].unique()) > 2


def test_a_full_window_is_halved():
    """Every token is the likeliest after what the rule leaves in view: 8 tokens, then the last 4 and what follows."""
    model = make_model(vocab_size=11)
    tokens = gpt.generate(model, torch.tensor([[3]]), 20, temperature=0)
    start = 0
    for end in range(1, 21):
        if end - start > 8:
            start = end - 4
        assert model(tokens[:, start:end])[0, -1].argmax() == tokens[0, end]
    assert start > 8


def test_the_cache_saves_rows(monkeypatch):
    model, rows = make_model(), []
    model.token_emb.register_forward_hook(lambda module, inputs, output: rows.append(inputs[0].shape[1]))
    gpt.generate(model, torch.tensor([[1, 2, 3]]), 10, temperature=0)
    assert rows == [3, 1, 1, 1, 1, 1, 4, 1, 1, 1]


def test_generation_of_nothing_and_from_nothing():
    model, start = make_model(), torch.tensor([[1, 2]])
    assert torch.equal(gpt.generate(model, start, 0), start)
    with pytest.raises(ValueError, match="at least one"):
        gpt.generate(model, start[:, :0], 5)
    assert gpt.generate(make_model(seq_len=1), start, 5).shape == (1, 7)


# Whole runs_folder


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "spell.txt").write_text(TEXT * 60, encoding="utf-8")
    write_settings(folder / "tiny.yaml", n_embd=32, seq_len=32, batch_size=8, steps=80, evaluate_every=40,
                   evaluate_windows=4)
    return ["--corpus", str(folder / "spell.txt"), "--config", str(folder / "tiny.yaml"), "--device", "cpu"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, command):
    """A folder of runs: a dLLM and a GPT of the same text, trained through the commands of their chapters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "RUNS", tmp_path_factory.mktemp("trained"))
        train.main([*command, "--run", "dllm", "--steps", "20", "--evaluate-every", "10"])
        gpt.main([*command, "--run", "gpt"])
        return checkpoint.RUNS


@pytest.fixture
def both(runs_folder, trained):
    shutil.copytree(trained, runs_folder)
    return runs_folder


def test_a_gpt_learns_a_text_that_repeats(trained):
    model, tokenizer, info = checkpoint.load(trained / "gpt")
    assert model.config.causal and info["kind"] == "gpt" and info["NLL"] < 0.3
    tokens = torch.tensor([tokenizer.encode("abra")])
    text = tokenizer.decode(gpt.generate(model, tokens, 46, temperature=0)[0])  # past its window of 32
    assert text == (TEXT * 2)[:50]


def test_both_curves_in_one_picture(both, capsys):
    gpt.compare(both / "gpt")
    out = capsys.readouterr().out
    assert "NLL, exact" in out and "upper bound" in out
    with Image.open(both / "gpt" / "curves.png") as image:
        image.load()
        assert min(image.size) > 300
    label, measure, records = gpt.read_run(both / "dllm")
    assert measure == "NELBO" and label.startswith("dLLM dllm") and [r["step"] for r in records] == [10, 20]
    label, measure, records = gpt.read_run(both / "gpt")
    assert measure == "NLL" and label.startswith("GPT gpt") and [r["step"] for r in records] == [40, 80]


def test_a_record_that_lacks_numbers_is_not_drawn(tmp_path):
    whole = {"step": 2, "NLL": 1.5, "tokens": 50, "seconds": 1.0}
    gpt.draw_curves([("GPT", "NLL", [{"step": 1}, whole])], tmp_path / "curves.png")
    assert (tmp_path / "curves.png").is_file()


def test_the_log_of_a_shipped_model_is_in_the_docs(tmp_path, monkeypatch, tiny):
    checkpoint.save(tmp_path / "shakespeare", tiny.model, tiny.tokenizer, {"NELBO": 1.5})
    monkeypatch.setattr(files, "ROOT", tmp_path)
    (tmp_path / "docs" / "logs").mkdir(parents=True)
    (tmp_path / "docs" / "logs" / "shakespeare.jsonl").write_text('{"step": 7}\n')
    assert gpt.read_run(tmp_path / "shakespeare")[2] == [{"step": 7}]


def test_a_gpt_alone_or_of_another_text_is_drawn_alone(both, capsys):
    config = json.loads((both / "dllm" / "config.json").read_text())
    model, tokenizer, info = checkpoint.load(both / "dllm")
    assert config["info"] == info
    checkpoint.save(both / "dllm", model, tokenizer, info | {"corpus_sha256": "other"})
    gpt.compare(both / "gpt")
    assert "another text" in capsys.readouterr().out and (both / "gpt" / "curves.png").is_file()
    shutil.rmtree(both / "dllm")
    gpt.compare(both / "gpt")
    assert "python 05_train.py" in capsys.readouterr().out


def test_the_same_command_trains_no_further_and_writes(both, command, capsys):
    before = {name: (both / "gpt" / name).read_bytes() for name in ("model.safetensors", "train_state.pt", "log.jsonl")}
    gpt.main([*command, "--run", "gpt"])
    out = capsys.readouterr().out
    assert "finished" in out and "both curves" in out and "simsalabim" in out
    assert all((both / "gpt" / name).read_bytes() == data for name, data in before.items())


def written(capsys, *flags):
    gpt.main(["--write", *flags, "--device", "cpu"])
    return capsys.readouterr().out


def test_a_gpt_of_control_characters_does_not_command_the_terminal(tmp_path, capsys):
    tokenizer = tokenizers.CharTokenizer("\x1b\x07\b\r\u202e\x9b\n")
    checkpoint.save(tmp_path / "gpt", make_model(tokenizer.vocab_size, causal=True), tokenizer, {"kind": "gpt"})
    out = written(capsys, "--run", str(tmp_path / "gpt"), "--len", "40", "--seed", "1", "--num", "2")
    assert r"\x1b" in out and set(COMMANDS.findall(out)) == {"\n"}


def test_writing_flags_write_and_train_nothing(both, capsys, monkeypatch):
    monkeypatch.setattr(train, "start_run", lambda *_: pytest.fail("trained"))
    header, text = written(capsys, "--prompt", r"abra\nab", "--len", "70", "--seed", "1").split("\n\n", 1)
    assert header == "seed 1 · gpt" and text.startswith("abra\nab") and len(text) == 71
    two = written(capsys, "--num", "2", "--len", "40", "--seed", "1", "--temp", "3")
    assert "sample 2 of 2" in two
    assert two == written(capsys, "--num", "2", "--len", "40", "--seed", "1", "--temp", "3", "--run", "gpt")
    assert two != written(capsys, "--num", "2", "--len", "40", "--seed", "2", "--temp", "3")
    greedy = written(capsys, "--temp", "0", "--seed", "1")
    assert greedy == written(capsys, "--topk", "1", "--seed", "1") == written(capsys, "--temp", "1e-300", "--seed", "1")
    assert len(greedy.split("\n\n", 1)[1]) == 257  # the new line that a text without a prompt follows is not shown


@pytest.mark.parametrize("flags", [
    ["--no-such-flag"], ["--len", "0"], ["--temp", "-1"], ["--temp", "nan"], ["--topk", "-1"], ["--num", "0"],
    ["--write", "--prompt", "é"], ["--write", "--prompt", "abra", "--len", "4"], ["--write", "--steps", "5"],
    ["--write", "--num", "2", "--fresh"], ["--write", "--run", "dllm"], ["--write", "--run", "nowhere"],
    ["--t-max", "1"], ["--causal", "true"], ["--time-conditioned"], ["--prompt"], ["--seed", "x", "--num", "1"],
    ["--prompt", "abra"], ["--temp", "0.5"], ["--write", "--hub", "a/b", "--run", "gpt"],
])  # fmt: skip
def test_mistakes_end_in_a_clear_message_and_exit_code_2(both, command, flags):
    before = {path: path.read_bytes() for path in both.glob("*/*")}
    error = refusal(gpt.main, [*command, *flags])
    assert "--write" in error or flags not in (["--prompt", "abra"], ["--temp", "0.5"])
    assert {path: path.read_bytes() for path in both.glob("*/*")} == before


def test_each_kind_of_run_is_found_by_its_chapter(both, tmp_path):
    times = {"dllm": 1000, "gpt": 2000}
    for name, when in times.items():
        os.utime(both / name / "model.safetensors", (when, when))
    assert checkpoint.find() == both / "dllm"  # although the GPT is newer
    assert checkpoint.find(kind="gpt") == both / "gpt"
    shutil.copytree(both / "gpt", checkpoint.SHIPPED_GPT)
    (checkpoint.SHIPPED_GPT / "train_state.pt").unlink()
    assert checkpoint.find(kind="gpt") == both / "gpt"
    shutil.rmtree(both / "gpt")
    assert checkpoint.find(kind="gpt") == checkpoint.SHIPPED_GPT
    shutil.rmtree(checkpoint.SHIPPED_GPT)
    with pytest.raises(cli.UserError, match="gpt.*python 07_train_gpt.py"):
        checkpoint.find(kind="gpt")
    with pytest.raises(cli.UserError, match="there are: dllm"):
        checkpoint.find("gpt", kind="gpt")
    (both / "dllm" / "config.json").write_text("damaged")
    assert checkpoint.find() == both / "dllm"  # reading it says what is wrong


def test_chapter_06_refuses_a_gpt_and_names_chapter_07(both):
    with pytest.raises(cli.UserError, match="07_train_gpt.py"):
        generate.main(["--checkpoint", "gpt"])


# The weights that a run keeps


def run_with(losses, folder, tiny):
    """Train four steps whose evaluations return `losses`; "killed" ends it. Returns [(windows, weights)] evaluated."""
    seen, losses = [], iter(losses)

    def evaluate(model, windows, draws):
        seen.append((len(windows), model.head.weight.clone()))
        loss = next(losses)
        if loss == "killed":
            raise Killed
        return loss, 0.1

    objective = train.Objective("loss", 1, lambda model, x0: gpt.next_token_cross_entropy(model, x0).mean(),
                                evaluate, lambda model: torch.zeros(3, dtype=torch.long))  # fmt: skip
    config = train.TrainConfig(steps=4, evaluate_every=1, evaluate_windows=2, batch_size=2, dtype="float32",
                               compile="off")  # fmt: skip
    data = torch.randint(tiny.config.vocab_size, (400,), generator=seeded(0))
    torch.manual_seed(0)
    model = transformer.Transformer(dataclasses.replace(tiny.config, causal=True, dropout=0.1))
    with runs.Run(folder, {"steps": 4}, config, tiny.tokenizer, {"kind": "gpt"}, quiet=True) as run:
        train.train(train.Trainer(model, config, "cpu"), data, data, objective, run)
    return seen


def test_a_run_that_gets_worse_keeps_its_best_weights(tiny, tmp_path):
    seen = run_with([3.0, 1.0, 2.0, 4.0, 1.5], tmp_path, tiny)
    assert [windows for windows, _ in seen] == [2, 2, 2, 2, 400 // 17]  # the last is of all
    assert not torch.equal(seen[1][1], seen[3][1]) and torch.equal(seen[1][1], seen[4][1])
    assert torch.equal(load_file(tmp_path / "model.safetensors")["head.weight"], seen[1][1])
    assert [record["loss"] for record in log_of(tmp_path)] == [3, 1, 2, 1.5]
    assert [record["step"] for record in log_of(tmp_path)] == [1, 2, 3, 4]
    assert [record["best_step"] for record in log_of(tmp_path)] == [1, 2, 2, 2]
    info = checkpoint.load(tmp_path)[2]
    assert (info["step"], info["best_step"], info["loss"]) == (4, 2, 1.5)
    assert torch.equal(runs.load_state(tmp_path)["averaged"]["head.weight"], seen[3][1])  # training continues here


def test_a_run_that_gets_better_keeps_its_last_weights(tiny, tmp_path):
    seen = run_with([3.0, 2.0, 2.0, 1.0, 1.5], tmp_path, tiny)
    assert torch.equal(load_file(tmp_path / "model.safetensors")["head.weight"], seen[3][1])
    assert [record["best_step"] for record in log_of(tmp_path)] == [1, 2, 3, 4]


def test_a_resumed_run_keeps_the_same_weights(tiny, tmp_path):
    run_with([3.0, 1.0, 2.0, 4.0, 1.5], tmp_path / "whole", tiny)
    with pytest.raises(Killed):
        run_with([3.0, 1.0, 2.0, "killed"], tmp_path / "parts", tiny)
    info = checkpoint.load(tmp_path / "parts")[2]
    assert (info["step"], info["loss"]) == (2, 1.0)  # these describe the saved weights, not the last evaluation
    with pytest.raises(Killed):
        run_with([4.0, "killed"], tmp_path / "parts", tiny)
    run_with([4.0, 1.5], tmp_path / "parts", tiny)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    one, two = (runs.load_state(tmp_path / name) for name in ("whole", "parts"))
    for part in ("model", "averaged"):
        assert all(torch.equal(one[part][name], two[part][name]) for name in one[part])
    assert log_of(tmp_path / "whole") == log_of(tmp_path / "parts")


def test_the_reported_number_is_of_the_saved_weights_on_everything(runs_folder, command, tmp_path, capsys):
    """The validation text is the reverse of the training text, so learning the one makes the other less probable."""
    (tmp_path / "turn.txt").write_text("abcdefgh\n" * 200 + "hgfedcba\n" * 20, encoding="utf-8")
    gpt.main([*command, "--corpus", str(tmp_path / "turn.txt"), "--evaluate-every", "10", "--run", "turn"])
    model, tokenizer, info = checkpoint.load(runs_folder / "turn")
    assert info["best_step"] < info["step"] == 80 and f"step {info['best_step']} of 80" in capsys.readouterr().out
    text = corpora.split((tmp_path / "turn.txt").read_text(encoding="utf-8"))[1]
    windows = train.windows_of(torch.tensor(tokenizer.encode(text)), 33)
    assert (info["NLL"], info["error"]) == pytest.approx(gpt.nll(model, windows), abs=1e-5)


# Teachers


def test_the_target_is_the_mean_prediction_of_the_teachers():
    models = [make_model() for _ in range(3)]
    for seed, model in enumerate(models):
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.5, generator=seeded(seed))
    student, *teachers = models
    windows = torch.randint(5, (3, 9), generator=seeded(1))
    loss = gpt.taught_cross_entropy(student, teachers, windows)
    wanted = sum(teacher(windows[:, :-1]).softmax(-1) for teacher in teachers) / 2  # (B, T, V)
    by_hand = -(wanted * student(windows[:, :-1]).log_softmax(-1)).sum(-1)
    assert loss.shape == (3, 8) and torch.allclose(loss, by_hand, atol=1e-5)
    assert gpt.next_token(0, teachers).loss(student, windows).item() == pytest.approx(loss.mean().item(), abs=1e-6)
    # Nothing is nearer to a teacher than the teacher itself: only its own uncertainty is left.
    own = gpt.taught_cross_entropy(teachers[0], teachers[:1], windows)
    assert (own < gpt.taught_cross_entropy(student, teachers[:1], windows)).all()
    assert gpt.next_token(0, teachers).evaluate(student, windows, 1) == gpt.nll(student, windows)


def test_only_the_student_learns():
    student, teacher = make_model().requires_grad_(True), make_model().requires_grad_(True)
    gpt.next_token(0, [teacher]).loss(student, torch.randint(5, (2, 9))).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert any(parameter.grad.abs().sum() > 0 for parameter in student.parameters() if parameter.grad is not None)


def test_a_run_with_teachers_learns_their_text(both, command):
    gpt.main([*command, "--run", "student", "--teachers", "gpt, gpt"])
    _, _, info = checkpoint.load(both / "student")
    assert info["NLL"] < 0.4 and info["train"]["teachers"] == "gpt, gpt"
    with pytest.raises(cli.UserError, match="different teachers"):
        gpt.main([*command, "--run", "student", "--steps", "90"])


@pytest.mark.parametrize("flags, message", [
    (["--teachers", "dllm"], "dllm is a dLLM"),
    (["--teachers", "nobody"], "no model at 'nobody'; there are: dllm, gpt"),
    (["--teachers", "gpt,"], "no model at ''"),
    (["--teachers", "gpt", "--run", "gpt", "--fresh"], "gpt cannot teach itself"),
    (["--teachers", "gpt", "--seq-len", "33"], "gpt reads 32 characters: lower --seq-len"),
    (["--teachers", "gpt", "--write", "--run", "gpt"], "leave out the flags of training")])
def test_who_cannot_teach(both, command, flags, message):
    before = files_of(both)
    with pytest.raises(cli.UserError, match=message):
        gpt.main([*command, *flags] if "--run" in flags else [*command, "--run", "student", *flags])
    assert files_of(both) == before


def test_a_teacher_of_another_text_is_refused(both, command, tmp_path):
    (tmp_path / "other.txt").write_text(TEXT.upper() * 60, encoding="utf-8")
    with pytest.raises(cli.UserError, match="gpt learned from another text than other"):
        gpt.main([*command, "--corpus", str(tmp_path / "other.txt"), "--run", "student", "--teachers", "gpt"])


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
