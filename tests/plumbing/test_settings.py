"""settings.py: flags override the YAML file, which overrides the defaults; each mistake gets a clear message."""

import dataclasses
import json
import re
import sys
import time
from importlib import import_module

import pytest
from helpers import COMMANDS, HOSTILE, refusal

from plumbing import cli, devices, files, settings

transformer = import_module("03_transformer")
train = import_module("05_train")
Model, Train = transformer.TransformerConfig, train.DiffusionTrainConfig
NAMES = ("laptop", "shakespeare", "gpu")  # the files of chapter 05


@pytest.fixture
def parse(tmp_path):
    def parse(yaml, *flags, base="base: defaults\n"):
        """(settings of the model, settings of the training) from the text or bytes of a YAML file, and flags."""
        path = tmp_path / "own.yaml"
        path.write_bytes(yaml if isinstance(yaml, bytes) else (yaml + "\n" + base * (":" in yaml)).encode())
        command = parse_all("--config", str(path), *flags)
        return command.model, command.train

    return parse


def parse_all(*flags):
    return settings.parse(train.Command, flags)


def test_flags_beat_the_file_and_the_file_beats_defaults(parse):
    model, training = parse("seed: 5\nsteps: 300\nn_layer: 3", "--steps", "7")
    assert (training.steps, training.seed, training.batch_size, model.n_layer) == (7, 5, Train().batch_size, 3)
    assert dataclasses.replace(model, n_layer=6) == Model()


def test_a_file_changes_only_what_it_says(parse):
    """A file without a base is based on the file that the program would have used."""
    usual = parse_all("--config", train.Command().config)
    model, training = parse("n_layer: 2", base="")
    assert model == dataclasses.replace(usual.model, n_layer=2) and training == usual.train
    assert parse("# only a comment") == parse("") == (usual.model, usual.train)
    model, training = parse("n_layer: 2\nbase: shakespeare", base="")
    shipped = parse_all("--config", "shakespeare")
    assert model == dataclasses.replace(shipped.model, n_layer=2) and training == shipped.train


def test_there_is_one_recipe():
    """The settings for a GPU are those of the shipped model, for a larger one, and the shipped model had them."""
    shipped, gpu = (parse_all("--config", name) for name in ("shakespeare", "gpu"))
    values = [dataclasses.asdict(command.model) | dataclasses.asdict(command.train) for command in (shipped, gpu)]
    assert {name for name in values[0] if values[0][name] != values[1][name]} == {
        "n_layer", "n_head", "n_embd", "batch_size", "steps"}
    config = json.loads((files.ROOT / "checkpoints" / "shakespeare" / "config.json").read_text(encoding="utf-8"))
    used = config["model"] | config["info"]["train"] | {"compile": "auto", "vocab_size": values[0]["vocab_size"]}
    used.setdefault("conv_in", "first")  # the record is older than this setting
    assert used == values[0]


def test_a_file_cannot_be_based_on_itself_or_on_nothing(parse, tmp_path):
    assert "itself" in refusal(parse, f"base: {tmp_path / 'own.yaml'}", base="")
    assert "nowhere" in refusal(parse, "base: nowhere", base="")


def test_sections_and_their_names_as_flags(parse):
    model, training = parse("model:\n  n_layer: 3\ntrain:\n  steps: 9\n", "--train.seed", "4", "--model.n_head=2")
    assert (model.n_layer, model.n_head, training.steps, training.seed) == (3, 2, 9, 4)


@pytest.mark.parametrize("yaml, name, value", [
    ("lr_other: 3e-4", "lr_other", 3e-4),  # a string to YAML 1.1
    ("lr_other: '0.001'", "lr_other", 1e-3),
    ("lr_other: 0", "lr_other", 0.0),
    ("steps: 1e3", "steps", 1000),
    ("steps: 5_000", "steps", 5000),
    ("steps: 20.0", "steps", 20),
    ("time_conditioned: true", "time_conditioned", True),
    ("time_conditioned: no", "time_conditioned", False),
    ("time_conditioned: 'False'", "time_conditioned", False),
    ("compile: on", "compile", "on"),  # true to YAML 1.1
    ("compile: off", "compile", "off"),
    ("dtype: float32", "dtype", "float32"),
    ("\ufeffsteps: 3", "steps", 3),  # as Windows editors save it
])  # fmt: skip
def test_values_that_yaml_reads_in_its_own_way(parse, yaml, name, value):
    model, training = parse(yaml)
    found = (dataclasses.asdict(model) | dataclasses.asdict(training))[name]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("yaml", [
    "steps: many", "steps: 1.5", "steps: true", "steps:", "steps: [1]", "steps: {a: 1}", "steps: .inf", "steps: .nan",
    "steps: 2020-01-01", "lr_other: true", "lr_other: fast", "dropout: [0.1]", "time_conditioned: 2",
    "time_conditioned: maybe", "time_conditioned: 1.0", "norm: [rms]", "norm:",
])  # fmt: skip
def test_values_of_the_wrong_type_are_named(parse, yaml):
    name = yaml.split(":")[0]
    assert name in refusal(parse, yaml).replace("-", "_")


@pytest.mark.parametrize("flags", [
    ("--steps", "many"), ("--steps", "1.5"), ("--steps", ""), ("--steps",), ("--lr-other", "fast"),
    ("--time-conditioned", "2"), ("--no-such-flag",), ("stray",),
])  # fmt: skip
def test_flags_that_cannot_be(parse, flags):
    refusal(parse, "", *flags)


def test_an_unknown_name_gets_the_nearest_one(parse):
    line = refusal(parse, "batchsize: 3")
    assert "'batchsize'" in line and "batch_size" in line
    assert "did you mean" not in refusal(parse, "zzzzzz: 3")
    refusal(parse, "3: 3")
    refusal(parse, "true: 3")
    refusal(parse, "vocab_size: 3")  # the corpus decides


@pytest.mark.parametrize("yaml", ["- steps\n", "just words", "7", "true"])
def test_a_file_without_names(parse, yaml):
    assert "name: value" in refusal(parse, yaml)


@pytest.mark.parametrize("yaml", [
    "steps: [1", "steps: 'x", "\tsteps: 3", "steps: 1\n- 2", "a: b: c", "[1]: 2", "{a: 1}: 2", "steps: \x00",
    b"\xff\xfe\x00", "!!python/object/apply:os.mkdir [trap]",
])  # fmt: skip
def test_a_file_that_is_no_yaml(parse, yaml, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "YAML" in refusal(parse, yaml)
    assert not (tmp_path / "trap").exists()


@pytest.mark.parametrize("yaml", [
    "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]", "model: &m {n_layer: 1}", "[" * 900, "{a: " * 900, "[" * 30_000,
    "steps: " + "9" * 5000, "steps: 1" + "0" * 400, "steps: 1e300", "steps: 1" + "_1" * 3000, "seed: " + "9" * 30,
    "steps: 3\n" * 20_000, "base: [a]", "base: {a: b}", "? [a]\n: b", "y" * 2000 + ": 1",
])  # fmt: skip
def test_a_file_that_asks_for_too_much(parse, yaml):
    start = time.monotonic()
    assert len(refusal(parse, yaml, base="")) < 2000
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("yaml", ['dtype: "{}"', '"{}": 1', 'steps: "{}"', 'base: "{}"', "seed: 1\n# {}"])
def test_a_file_does_not_command_the_terminal(parse, yaml):
    hostile = "".join(f"\\u{ord(character):04x}" for character in HOSTILE) if '"' in yaml else HOSTILE
    said = refusal(parse, yaml.format(hostile), base="")
    assert set(COMMANDS.findall(said)) <= {"\n"}


def test_a_wrong_word_on_the_command_line_does_not_command_the_terminal(parse):
    for flags in (["--seed", HOSTILE], [f"--{HOSTILE}", "1"], [f"--seed={HOSTILE}"], ["--seed", "x" * 5000]):
        said = refusal(parse, "", *flags)
        assert set(COMMANDS.findall(said)) <= {"\n"} and len(said) < 3000


def test_a_missing_file_names_those_there_are():
    line = refusal(parse_all, "--config", "lap-top")
    assert "lap-top" in line and all(name in line for name in NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_files_that_ship_are_valid(name):
    command = parse_all("--config", name)
    assert command.config == name and (command.model, command.train) != (Model(), Train())


def test_every_setting_is_in_the_help(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["05_train.py", "--help"])
    with pytest.raises(SystemExit) as end:
        train.main()
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", capsys.readouterr().out).split())  # as if the lines were long
    assert end.value.code == 0
    usual = parse_all()
    for group in (usual.model, usual.train):
        for name, value in dataclasses.asdict(group).items():
            if name not in ("vocab_size", "causal", "time_conditioned"):
                assert f"--{name.replace('_', '-')} " in text and f"(default: {value})" in text
    assert "{rope,learned}" in text and "INT 1.." in text and "FLOAT 0..1" in text and "--time-conditioned" in text
    for flag in ("--corpus", "--config", "--run", "--fresh", "--device"):
        assert flag in text
    assert "vocab-size" not in text and "causal" not in text


def build(group, **values):
    try:
        group(**values)
    except ValueError as error:
        raise cli.UserError(str(error)) from None


@pytest.mark.parametrize("values", [
    {"steps": 0}, {"minutes": -1}, {"batch_size": 0}, {"accumulate": 0}, {"batch_size": 8, "accumulate": 3},
    {"batch_size": 2, "accumulate": 4}, {"lr_matrix": -0.1}, {"lr_other": 2}, {"lr_other": float("nan")},
    {"warmup": -1}, {"cooldown": 1.5}, {"clip": 0}, {"ema": 1}, {"t_max": 0}, {"t_max": 1.1}, {"evaluate_every": 0},
    {"evaluate_windows": 1}, {"dtype": "float8"}, {"compile": "maybe"}, {"seed": -1},
])  # fmt: skip
def test_training_settings_out_of_range(values):
    assert list(values)[-1] in refusal(build, Train, **values)


@pytest.mark.parametrize("values", [
    {"seq_len": 0}, {"n_layer": 0}, {"n_head": 0}, {"n_head": -2}, {"n_embd": 0}, {"n_embd": 10},
    {"n_head": 5, "n_embd": 12}, {"n_head": 128, "n_embd": 384}, {"dropout": 1.0}, {"dropout": -0.1},
    {"dropout": float("nan")}, {"positions": "absolute"}, {"norm": "batch"}, {"activation": "tanh"},
])  # fmt: skip
def test_model_settings_out_of_range(values):
    assert list(values)[-1] in refusal(build, Model, vocab_size=65, **values)


def test_a_device_that_is_not_there():
    assert devices.pick_device("cpu").type == "cpu"
    for name in ("tpu", "cuda:99", "", "meta"):
        assert "--device cpu" in refusal(devices.pick_device, name)
