"""fitting.py: a slow processor gets the smaller model, and a run keeps what was chosen for it."""

from dataclasses import replace
from importlib import import_module

import pytest
from helpers import COMMANDS, HOSTILE, made_up_text, refusal

from plumbing import checkpoint, devices, fitting, runs

training = import_module("05_train")
NAMES = ("laptop", "laptop-small")
LINE = ["--device", "cpu", "--steps", "1", "--batch-size", "1", "--compile", "off", "--evaluate-windows", "2",
        "--minutes", "0", "--n-layer", "1", "--n-head", "1", "--n-embd", "8", "--seq-len", "16"]  # fmt: skip


@pytest.fixture
def machine(monkeypatch, runs_folder, tmp_path):
    """machine(speed): a machine without a GPU that multiplies matrices so fast; speed None: measuring is an error."""

    def machine(speed):
        def product(device, dtype, size, seconds):
            assert speed is not None, "nothing is to be measured here"
            formats.append(str(dtype))
            return speed

        formats = []
        monkeypatch.setattr(devices, "best_product", product)
        return formats

    text = tmp_path / "own.txt"
    text.write_text(made_up_text())
    machine.corpus = ["--corpus", str(text)]
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return machine


def parse(machine, *flags):
    return fitting.parse(training.Command, [*machine.corpus, "--device", "cpu", *flags])[0]


@pytest.mark.parametrize("speed, expected", [(fitting.SLOW, NAMES[0]), (fitting.SLOW * 0.99, NAMES[1])])
def test_the_speed_decides(machine, capsys, speed, expected):
    machine(speed)
    command = parse(machine)
    assert command.config == expected
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and repr(expected) in said and f"{speed / 1e9:,.0f} billion" in said
    assert ("--config laptop " if expected == "laptop-small" else "--config laptop-small ") in said
    assert command == training.settings.parse(
        training.Command, [*machine.corpus, "--device", "cpu", "--config", expected])  # fmt: skip


def test_the_small_settings_are_the_usual_ones_in_small():
    """The shape differs, and how many windows fill a step or an evaluation; both have as many tokens."""
    small, usual = (training.settings.parse(training.Command, ["--config", name]) for name in reversed(NAMES))
    assert replace(small.train, batch_size=8, evaluate_windows=128) == usual.train
    assert small.train.batch_size * small.model.seq_len == usual.train.batch_size * usual.model.seq_len
    assert small.model.n_embd < usual.model.n_embd and small.model.seq_len < usual.model.seq_len
    assert small.model.conv == usual.model.conv


def test_the_users_flags_win(machine, monkeypatch):
    formats = machine(1.0)
    command = parse(machine, "--seq-len", "64", "--dtype", "float32", "--minutes", "2")
    assert (command.config, command.model.seq_len, command.train.minutes) == ("laptop-small", 64, 2)
    assert formats == ["torch.float32"]
    parse(machine, "--dtype", "bfloat16")
    assert formats[1:] == ["torch.bfloat16"]
    machine(None)
    for config, *flags in (
            ("laptop", "--config", "laptop"), ("shakespeare", "--config=shakespeare"), ("laptop", "--plain", "1")):
        assert parse(machine, *flags).config == config
    monkeypatch.setattr("sys.argv", ["05_train.py", *machine.corpus, "--device", "cpu", "--config", "shakespeare"])
    assert fitting.parse(training.Command, None)[0].config == "shakespeare"


def test_the_flags_of_the_program_itself_are_read(machine, monkeypatch):
    machine(1.0)
    monkeypatch.setattr("sys.argv", ["05_train.py", *machine.corpus, "--device", "cpu", "--seed", "7"])
    command, corpus = fitting.parse(training.Command, None)
    assert (command.config, command.train.seed, corpus.name) == ("laptop-small", 7, "own")


def test_with_a_gpu_nothing_is_measured(machine, monkeypatch):
    machine(None)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert parse(machine).config == "gpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr(devices, "pick_device", lambda name: training.torch.device("meta"))
    assert parse(machine).config == "laptop"  # such as Apple's GPU


@pytest.mark.parametrize("speed, name", [(1.0, "laptop-small"), (1e15, "laptop")])
@pytest.mark.parametrize("run", [[], ["--run", "mine"]])
def test_the_same_command_resumes_the_run_and_does_not_measure(machine, runs_folder, capsys, speed, name, run):
    machine(speed)
    training.main([*machine.corpus, *LINE, *run])
    (folder,) = runs_folder.iterdir()
    assert folder.name == ("mine" if run else f"dllm-own-{name}")
    assert checkpoint.load(folder)[2]["settings"] == name
    assert checkpoint.find() == folder  # the model with which chapter 06 writes
    capsys.readouterr()
    machine(None)
    training.main([*machine.corpus, *LINE, *run])
    assert "finished" in capsys.readouterr().out
    training.main([*machine.corpus, *LINE, *run, "--steps", "2"])
    assert "resuming from step 1" in capsys.readouterr().out
    assert list(runs_folder.iterdir()) == [folder]
    machine(2.0)
    assert parse(machine, "--run", "other").config == "laptop-small"  # another run is measured


def test_the_latest_of_two_runs_goes_on(machine, runs_folder):
    machine(None)
    for name in ("laptop", "laptop-small", "laptop"):
        training.main([*machine.corpus, *LINE, "--config", name, "--fresh"])
        assert parse(machine).config == name


@pytest.mark.parametrize("text", [None, "{", "[]", '{"info": {"settings": "gpu"}}', '{"info": {"settings": ["a"]}}'])
def test_a_run_of_other_or_unknown_settings(machine, runs_folder, text):
    """Whether such a run can go on is for others to say: they compare all settings."""
    machine(None)
    folder = runs_folder / "mine"
    runs.save_state(folder, {})
    if text:
        (folder / "config.json").write_text(text)
    assert parse(machine, "--run", "mine").config == "laptop"


def test_a_wrong_name_is_one_message(machine):
    machine(None)
    error = refusal(parse, machine, "--run", HOSTILE)
    assert "cannot name a run" in error and not COMMANDS.findall(error)


def test_help_names_the_smaller_settings(capsys, monkeypatch):
    with pytest.raises(SystemExit):
        training.main(["--help"])
    assert "laptop-small" in capsys.readouterr().out.replace("\n", " ")


def test_the_product_is_repeated_for_some_time(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(devices, "time", type("Clock", (), {"perf_counter": lambda: next(clock)}))
    device, dtype = training.torch.device("cpu"), training.torch.float32
    assert devices.best_product(device, dtype, 4) == devices.best_product(device, dtype, 4, seconds=50.0) == 2 * 4**3
    assert next(clock) > 50
