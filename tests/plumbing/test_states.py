"""states.py: whatever lies in a run's folder ends in one line or in a run that goes on, and nothing is executed."""

import copy
import io
import json
import math
import random
import zipfile
from importlib import import_module

import pytest
import torch
from helpers import Trap, refusal

from plumbing import checkpoint, cli, runs, states

transformer = import_module("03_transformer")
training = import_module("05_train")

OBJECTIVE = training.Objective(
    measure="NELBO", extra=0, loss=lambda model, x0: model(x0).square().mean(),
    evaluate=lambda model, windows, draws: (1.0, 0.1), sample=lambda model: torch.zeros(3, dtype=torch.long),
)  # fmt: skip
# What a forged file may hold instead of what it should.
STRANGE = [None, True, -1, 0, 1.5, math.nan, math.inf, -math.inf, 10**30, "text", "../../x", "", [], [1], {}, {"a": 1},
           (), torch.zeros(0), torch.zeros(3), torch.tensor(math.nan), torch.zeros(2, 2, dtype=torch.int8),
           torch.zeros(16, 16, dtype=torch.complex64), torch.zeros(1).expand(10**12),
           torch.zeros(2, 2).to_sparse(), torch.zeros(2, device="meta"), [[[[]]]], {1: 2}, b"bytes", {"step": "x"}]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder whose run has taken six steps, and `go(steps)`, which resumes it: what the whole program does."""
    folder = tmp_path_factory.mktemp("run") / "mine"
    torch.manual_seed(0)
    shape = transformer.TransformerConfig(8, 8, n_layer=1, n_head=1, n_embd=8)
    model, data = transformer.Transformer(shape), torch.randint(8, (200,))
    tokenizer = import_module("plumbing.tokenizers").CharTokenizer("\n abcdeé")

    def go(steps):
        config = training.DiffusionTrainConfig(steps=steps, evaluate_every=3, evaluate_windows=2, batch_size=2,
                                               dtype="float32", compile="off")  # fmt: skip
        with runs.Run(folder, {"steps": steps}, config, tokenizer, {}, quiet=True) as run:
            trainer = training.Trainer(copy.deepcopy(model), config, "cpu")
            training.train(trainer, data, data, OBJECTIVE, run)

    go(6)
    return folder, go


@pytest.fixture
def attempt(place, capsys, monkeypatch):
    """attempt(bytes of train_state.pt): whether the run resumes; if not, it must say why in one line."""
    folder, go = place
    monkeypatch.setattr(checkpoint, "save", lambda *_: None)  # the model is not the subject, and saving takes long
    monkeypatch.setattr(checkpoint, "load", lambda *_: (None, None, None))
    kept = {name: (folder / name).read_bytes() for name in ("train_state.pt", "log.jsonl")}

    def attempt(data):
        (folder / "train_state.pt").unlink()  # some file systems are slow to overwrite a file
        (folder / "train_state.pt").write_bytes(data)
        try:
            go(7)
        except cli.UserError as error:
            line = str(error)
            assert line.isprintable() and "weights_only" not in line and "torch.load" not in line, line
            return False
        put_back()  # it has taken a step
        return True

    def put_back():
        for name, old in kept.items():
            (folder / name).write_bytes(old)

    yield attempt
    put_back()


def written(state):
    """The bytes of a state, as a run writes them."""
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


def test_truncated_and_mutated_files(place, attempt):
    """400 lengths, and 300 files with some other bytes."""
    whole, draw = (place[0] / "train_state.pt").read_bytes(), random.Random(17)
    assert attempt(whole)
    for length in sorted(draw.sample(range(len(whole)), 400)):
        assert not attempt(whole[:length])
    refused = 0
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(draw.choice((1, 1, 2, 8))):
            data[draw.randrange(len(data))] = draw.randrange(256)
        refused += not attempt(bytes(data))
    assert refused > 150  # the others changed what nobody reads, such as the padding between two entries


def branches(value, path=()):
    """The paths to everything inside nested dicts and lists."""
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from branches(inner, (*path, key))


def test_forged_states(place, attempt):
    """Entries of a state are replaced by something strange, or removed."""
    state, draw = torch.load(place[0] / "train_state.pt", weights_only=True), random.Random(18)
    paths = list(branches(state))[1:]  # the first one is that of the whole state
    for path in paths + draw.choices(paths, k=100):
        forged, strange = {"state": copy.deepcopy(state)}, draw.choice([*STRANGE, KeyError])
        *above, last = "state", *path
        inner = forged
        for key in above:
            inner = inner[key]
        if strange is KeyError:
            del inner[last]
        else:
            inner[last] = strange
        attempt(written(forged["state"]))


@pytest.mark.parametrize("path, strange", [
    (("progress", "step"), -1), (("progress", "seconds"), "x"), (("progress", "lowest"), math.nan),
    (("progress", "record"), {"NELBO": "low"}), (("settings", "steps"), torch.zeros(2)), (("scaler",), {"scale": "x"}),
    (("model", "head.weight"), torch.zeros(1).expand(10**12)), (("averaged", "head.weight"), "x"),
    (("optimizers",), []), (("optimizers", 0, "state", 0, "momentum"), torch.zeros(1)),
    (("optimizers", 1, "state", 0, "step"), torch.tensor(-1.0)), (("optimizers", 1, "state", 0), {}),
    (("optimizers", 0, "state", 99), {"momentum": torch.zeros(1)}),
])  # fmt: skip
def test_what_is_refused(place, attempt, path, strange):
    state = torch.load(place[0] / "train_state.pt", weights_only=True)
    inner = state
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = strange
    if path == ("scaler",):  # on this device there is none, so what is saved of one does not matter
        with pytest.raises(states.Damaged):
            trainer = training.Trainer(transformer.Transformer(transformer.TransformerConfig(8, 8, 1, 1, 8)),
                                       training.TrainConfig(compile="off"), "cpu")  # fmt: skip
            trainer.scaler = torch.amp.GradScaler("cpu")
            states.check_tensors(state | {"optimizers": [], "model": {}}, trainer)
    else:
        assert not attempt(written(state))


def test_nothing_is_executed_and_nobody_is_advised_to(place, attempt, tmp_path):
    folder = place[0]
    for forged in (Trap(tmp_path / "trap"), {"progress": Trap(tmp_path / "trap")}):
        (folder / "train_state.pt").write_bytes(written(forged))
        line = refusal(runs.load_state, folder)
        assert "holds more than tensors" in line and "weights_only" not in line and "trust" not in line
    assert not (tmp_path / "trap").exists()


def test_a_compressed_state_does_not_fill_the_memory(place, attempt):
    folder = place[0]
    with zipfile.ZipFile(folder / "train_state.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/9999", bytes(1 << 24))
    assert "compressed" in refusal(runs.load_state, folder)


@pytest.mark.parametrize("error", [PermissionError(13, "no permission", "x"), OSError(24, "too many"), MemoryError()])
def test_a_healthy_file_is_not_called_damaged(place, monkeypatch, error):
    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", refuse)
    with pytest.raises(type(error)):
        runs.load_state(place[0])


# The log and the origin of a model

RECORD = {"step": 1, "NELBO": 2.5, "error": 0.1, "tokens": 8, "seconds": 1.5}


@pytest.mark.parametrize("line", [
    "null", "[]", "3", "{}", "{", "[" * 9000, '{"step": "1"}', '{"step": -1}', '{"step": true}', '{"step": 1e400}',
    '{"step": 1, "NELBO": "low"}', '{"step": 1, "seconds": [1]}', '{"step": 1, "error": -1}',
    '{"step": 1, "NLL": 1e308}',
    '{"step": 1, "tokens": 1' + "0" * 400 + "}", "\x1b[2J", "\xff",
])  # fmt: skip
def test_a_strange_line_of_a_log_is_named(tmp_path, line):
    path = tmp_path / "log.jsonl"
    good = json.dumps(RECORD)
    path.write_text(f"{good}\n{line}\n{good}\n", encoding="latin-1")
    said = refusal(runs.read_log, path)
    assert "line 2 of" in said and "delete this line" in said and said.isprintable()


def test_a_last_line_that_a_kill_cut_off_is_left_out(tmp_path):
    path, good = tmp_path / "log.jsonl", json.dumps(RECORD)
    for cut in range(len(good)):
        path.write_text(f"{good}\n{good[:cut]}")
        assert runs.read_log(path) == [RECORD]
    path.write_text(f"{good}\n{good}")
    assert runs.read_log(path, ("step", "NELBO")) == [RECORD, RECORD]
    assert "NLL is missing" in refusal(runs.read_log, path, ("step", "NLL"))
    path.write_bytes(b"")
    assert runs.read_log(path) == runs.read_log(tmp_path / "nothing") == []


@pytest.mark.parametrize("info", [None, [], {"NELBO": "low"}, {"step": -1}, {"corpus": 3}, {"train": [1]},
                                  {"train": {"seed": {}}}, {"source": {}}, {"seconds": math.nan}])
def test_a_forged_origin_is_refused(tmp_path, tiny, info):
    with pytest.raises(states.Damaged):
        states.check_info(info)
    checkpoint.save(tmp_path, tiny.model, tiny.tokenizer, info)
    assert "damaged" in refusal(checkpoint.load, tmp_path)


def test_half_a_character_is_no_text():
    states.check_info({"commit": "é", "source": None})
    with pytest.raises(states.Damaged):
        states.check_info({"commit": "\ud800"})


def test_a_log_that_lacks_numbers_is_drawn_without_them(tmp_path, tiny, monkeypatch):
    """A record without its error must not end a run after all its work."""
    drawn = []
    monkeypatch.setattr(runs.figures, "draw_curve", lambda records, *_: drawn.append(records))
    records = {"step": 1}, RECORD, {"step": 2, "error": 1}
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = training.TrainConfig(compile="off")
    with runs.Run(tmp_path, {}, config, tiny.tokenizer, {}, quiet=True) as run:
        run.progress["record"] = RECORD | {"best_step": 1}
        run.report("NELBO")
        assert drawn == [[RECORD]]
        run.progress["record"] = RECORD
        assert "best_step is missing" in refusal(run.report, "NELBO")


def test_the_origins_that_runs_write_are_accepted(tmp_path, tiny):
    for info in ({}, {"kind": "dllm", "commit": None, "NLL": 1.5, "train": {"seed": 1, "dtype": "auto"}, "other": [1]},
                 RECORD | {"settings": {"model": {"n_layer": 2}}, "processes": 4}):
        states.check_info(info)
