"""checkpoint.py: what is saved is loaded again, a kill loses nothing, and hostile files are refused."""

import json
import os
import pickle
import shutil
import signal
import struct
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import pytest
import safetensors.torch
import torch
from helpers import COMMANDS, ESCAPED, HOSTILE, Trap, seeded
from helpers import refusal as refusal_of

from plumbing import checkpoint, cli, runs

transformer = import_module("03_transformer")


@pytest.fixture
def folder(tmp_path, tiny):
    checkpoint.save(tmp_path / "model", tiny.model, tiny.tokenizer, {"step": 7, "corpus": "é"})
    return tmp_path / "model"


def weights_of(folder):
    return safetensors.torch.load_file(folder / "model.safetensors")


def config_of(folder):
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def refusal(folder):
    """The one line in which loading `folder` ends."""
    line = refusal_of(checkpoint.load, folder)
    assert len(line) < 500
    return line


def rewrite(folder, change_weights=None, change_config=None):
    """The same model with its weights or its config changed in place by a function."""
    weights, config = weights_of(folder), config_of(folder)
    if change_weights:
        change_weights(weights)
    if change_config:
        change_config(config)
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"config": json.dumps(config)})
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


# Round trips


def test_a_model_comes_back_exactly(folder, tiny):
    model, tokenizer, info = checkpoint.load(folder)
    assert model.config == tiny.config and tokenizer.vocabulary == tiny.tokenizer.vocabulary
    assert info == {"step": 7, "corpus": "é"}
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    for name, tensor in tiny.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor)
    tokens = torch.arange(8)[None]
    with torch.no_grad():
        assert torch.equal(model(tokens), tiny.model(tokens))


def test_bf16_halves_the_file_and_rounds(tmp_path, folder, tiny):
    checkpoint.save(tmp_path / "half", tiny.model, tiny.tokenizer, {}, torch.bfloat16)
    sizes = [(path / "model.safetensors").stat().st_size for path in (folder, tmp_path / "half")]
    assert sizes[0] - sizes[1] > 1.9 * transformer.count_parameters(tiny.model)
    model, _, _ = checkpoint.load(tmp_path / "half")
    for name, tensor in tiny.model.state_dict().items():
        loaded = model.state_dict()[name]
        assert loaded.dtype == torch.float32
        torch.testing.assert_close(loaded, tensor, rtol=2**-8, atol=0)  # bf16 keeps 8 bits of the fraction


def test_every_kind_of_model_comes_back(tmp_path, tiny):
    for i, change in enumerate(({"positions": "learned", "norm": "layer", "activation": "gelu"},
                                {"time_conditioned": True, "dropout": 0.1}, {"causal": True})):  # fmt: skip
        config = transformer.TransformerConfig(tiny.tokenizer.vocab_size, 16, 1, 2, 16, **change)
        model = transformer.Transformer(config).eval()
        checkpoint.save(tmp_path / str(i), model, tiny.tokenizer, {})
        loaded, _, _ = checkpoint.load(tmp_path / str(i))
        assert loaded.config == config
        tokens, t = torch.zeros(1, 16, dtype=torch.long), torch.tensor([0.5])
        with torch.no_grad():
            assert torch.equal(loaded(tokens, t), model(tokens, t))


def test_the_weights_carry_their_own_config(folder):
    """A kill between the two files leaves new weights beside an old config.json: the new config counts."""
    old = config_of(folder)
    rewrite(folder, change_config=lambda config: config["info"].update(step=8))
    (folder / "config.json").write_text(json.dumps(old), encoding="utf-8")
    assert checkpoint.load(folder)[2]["step"] == 8


def test_weights_without_a_config_inside_read_the_file_beside_them(folder):
    safetensors.torch.save_file(weights_of(folder), folder / "model.safetensors")
    assert checkpoint.load(folder)[2]["step"] == 7


def test_a_state_comes_back(tmp_path):
    state = {"progress": {"step": 3, "best": {"NELBO": 1.5}}, "none": None}
    state["tensors"] = [torch.randn(3), torch.arange(2)]
    runs.save_state(tmp_path / "run", state)
    loaded = runs.load_state(tmp_path / "run")
    assert loaded["progress"] == state["progress"] and loaded["none"] is None
    assert all(map(torch.equal, loaded["tensors"], state["tensors"]))
    assert runs.load_state(tmp_path / "nothing") is None


# Kills and full disks

KILLED_SAVE = """
import os, signal, sys
from pathlib import Path
import safetensors.torch, torch
from plumbing import checkpoint, runs
folder, victim = Path(sys.argv[1]), sys.argv[2]
model, tokenizer, info = checkpoint.load(folder)
for p in model.parameters():
    p.add_(1)
def killed(path):
    Path(path).write_bytes(Path(path).read_bytes()[:1000] if Path(path).exists() else b"half a file")
    os.kill(os.getpid(), signal.SIGKILL)
if victim == "model":
    real = safetensors.torch.save_file
    def save_file(weights, path, metadata):
        real(weights, path, metadata)
        killed(path)
    safetensors.torch.save_file = save_file
else:
    torch.save = lambda state, file: killed(file.name)
checkpoint.save(folder, model, tokenizer, {"step": 8})
runs.save_state(folder, {"step": 8})
"""


@pytest.mark.parametrize("victim", ["model", "state"])
def test_a_kill_during_a_save_leaves_the_old_file_whole(book, folder, tiny, victim):
    runs.save_state(folder, {"step": 7})
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert book.run("-c", KILLED_SAVE, folder, victim).code == -signal.SIGKILL
    whole = ["train_state.pt"] if victim == "state" else list(before)
    for name in whole:
        assert (folder / name).read_bytes() == before[name]
    assert runs.load_state(folder) == {"step": 7}
    model, _, info = checkpoint.load(folder)
    assert info["step"] == (7 if victim == "model" else 8)
    moved = model.head.weight - tiny.model.head.weight
    assert torch.allclose(moved, torch.full_like(moved, 0 if victim == "model" else 1))
    checkpoint.save(folder, tiny.model, tiny.tokenizer, {"step": 9})  # the remains of the killed save do no harm
    assert checkpoint.load(folder)[2] == {"step": 9}


def test_an_error_during_a_save_leaves_the_old_files_and_no_litter(folder, tiny, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def full_disk(weights, path, metadata):
        path.write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.torch, "save_file", full_disk)
    with pytest.raises(OSError):
        checkpoint.save(folder, tiny.model, tiny.tokenizer, {})
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


# Damaged models


@pytest.mark.parametrize("share", [0, 1, 7, 8, 100, 0.5, -1])
def test_truncated_weights(folder, share):
    path = folder / "model.safetensors"
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data)) if isinstance(share, float) else share])
    assert str(folder) in refusal(folder)


@pytest.mark.parametrize("data", [b"\xff" * 2000, struct.pack("<Q", 2**60) + b"{}", struct.pack("<Q", 4) + b"nope",
                                  b"PK\x03\x04 a zip, perhaps a .pt"])  # fmt: skip
def test_weights_that_are_no_safetensors(folder, data):
    (folder / "model.safetensors").write_bytes(data)
    refusal(folder)


def test_flipped_bytes_never_give_a_traceback(folder):
    """Damage in the header is refused, unless it only renames a key that nobody reads."""
    path = folder / "model.safetensors"
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for place in range(0, header, 17):
        path.write_bytes(data[:place] + bytes([data[place] ^ 0x15]) + data[place + 1 :])
        try:
            checkpoint.load(folder)
        except cli.UserError as error:
            assert "\n" not in str(error)


def test_a_folder_where_the_weights_should_be(folder):
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").mkdir()
    refusal(folder)


def test_no_model_at_all(tmp_path):
    assert "no model in" in refusal(tmp_path / "nowhere")
    tmp_path.joinpath("file").write_text("not a folder")
    refusal(tmp_path / "file")


def drop(weights):
    del weights["head.weight"]


def add(weights):
    weights["extra.weight"] = torch.zeros(2)


def reshape(weights):
    weights["head.weight"] = weights["head.weight"][:, :8].contiguous()


def transpose(weights):
    weights["head.weight"] = weights["head.weight"].T.contiguous()


def not_a_number(weights):
    weights["head.weight"][0, 0] = torch.nan


def infinite(weights):
    weights["head.weight"][0, 0] = torch.inf


@pytest.mark.parametrize("change", [drop, add, reshape, transpose, not_a_number, infinite])
def test_weights_that_do_not_fit_are_named(folder, change):
    rewrite(folder, change_weights=change)
    assert ("extra.weight" if change is add else "head.weight") in refusal(folder)


@pytest.mark.filterwarnings("ignore:Casting complex")
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.complex64, torch.int8, torch.bool])
def test_weights_of_a_strange_type_are_refused_or_read(folder, dtype):
    def change(weights):
        weights["head.weight"] = torch.zeros(weights["head.weight"].shape).to(dtype)

    rewrite(folder, change_weights=change)
    try:
        assert checkpoint.load(folder)[0].head.weight.dtype == torch.float32
    except cli.UserError as error:
        assert "\n" not in str(error)


def test_names_of_a_stranger_do_not_command_the_terminal(folder):
    rewrite(folder, change_weights=lambda weights: weights.update({HOSTILE + "\nerror: x" + "y" * 999: torch.ones(1)}))
    assert ESCAPED in refusal(folder)
    for name in (HOSTILE + "\nerror: x", HOSTILE + "y" * 10**6):
        rewrite(folder, change_config=lambda config, name=name: config["model"].update({name: 1}))
        assert r"a\x1b[2J" in refusal(folder) and not COMMANDS.search(refusal(folder))


def test_thousands_of_layers_of_empty_tensors_are_not_built(folder, monkeypatch):
    many = {f"blocks.{i}.norm1.weight": torch.zeros(0) for i in range(2000)}
    rewrite(folder, lambda weights: weights.update(many), lambda config: config["model"].update(n_layer=2000))
    monkeypatch.setattr(transformer, "Transformer", lambda config: pytest.fail("built"))
    assert "makes no sense" in refusal(folder)


# Damaged configs


@pytest.mark.parametrize("text", [
    "", "{", "null", "[]", "7", '"text"', "{}", '{"model": 3}', '{"model": []}',
    '{"model": {}, "tokenizer": {}, "info": {}}', "[" * 100_000, "\ud800",
])  # fmt: skip
@pytest.mark.parametrize("inside", [True, False])
def test_garbage_for_a_config(folder, text, inside):
    data = text.encode("utf-8", "surrogatepass")
    if inside:
        if text == "\ud800":
            pytest.skip("safetensors itself refuses to write this")
        safetensors.torch.save_file(weights_of(folder), folder / "model.safetensors", {"config": text})
        if text == "":  # no config inside: config.json counts
            (folder / "config.json").write_bytes(data)
    else:
        safetensors.torch.save_file(weights_of(folder), folder / "model.safetensors")
        (folder / "config.json").write_bytes(data)
    refusal(folder)


@pytest.mark.parametrize("change", [
    {"surprise": 1}, {"__class__": "x"}, {"n_head": 3}, {"n_head": 0}, {"n_layer": -1}, {"n_layer": "2"},
    {"n_layer": None}, {"n_layer": 1.5}, {"n_embd": [16]}, {"dropout": 2}, {"dropout": "a lot"},
    {"positions": "absolute"}, {"norm": []}, {"activation": None}, {"vocab_size": 0}, {"vocab_size": 10**18},
    {"n_embd": 10**12}, {"n_layer": 10**12}, {"seq_len": float("nan")},
])  # fmt: skip
def test_a_model_config_that_cannot_be(folder, change):
    rewrite(folder, change_config=lambda config: config["model"].update(change))
    refusal(folder)


@pytest.mark.parametrize("key", ["model", "tokenizer", "info"])
def test_a_part_of_the_config_is_missing(folder, key):
    rewrite(folder, change_config=lambda config: config.pop(key))
    assert key in refusal(folder)


@pytest.mark.parametrize("tokenizer", [
    {}, [], "char", {"kind": "char"}, {"kind": "pickle", "vocabulary": "ab"}, {"kind": ["char"], "vocabulary": "ab"},
    {"kind": "char", "vocabulary": ""}, {"kind": "char", "vocabulary": "aab"}, {"kind": "char", "vocabulary": 8},
    {"kind": "char", "vocabulary": None}, {"kind": "char", "vocabulary": list(range(8))},
    {"kind": "char", "vocabulary": [[i] for i in range(8)]}, {"kind": "char", "vocabulary": dict.fromkeys("abcdefgh")},
    {"kind": "char", "vocabulary": "abcdefg"}, {"kind": "char", "vocabulary": "abcdefghi"},
])  # fmt: skip
def test_a_tokenizer_that_does_not_fit(folder, tokenizer):
    rewrite(folder, change_config=lambda config: config.update(tokenizer=tokenizer))
    refusal(folder)


def test_an_unknown_tokenizer_and_a_wrong_vocabulary_are_named(folder):
    rewrite(folder, change_config=lambda config: config["tokenizer"].update(kind="morse"))
    assert "unknown tokenizer 'morse'" in refusal(folder)
    rewrite(folder, change_config=lambda config: config["tokenizer"].update(kind="char", vocabulary="abc"))
    assert "vocabulary" in refusal(folder)


@pytest.mark.parametrize("info", [None, [], "text", 3])
def test_info_must_be_a_dictionary(folder, info):
    rewrite(folder, change_config=lambda config: config.update(info=info))
    refusal(folder)


# Damaged and hostile states


def state_refusal(folder):
    line = refusal_of(runs.load_state, folder)
    assert "train_state.pt" in line
    return line


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("writer", [
    torch.save,
    lambda trap, path: torch.save(trap, path, _use_new_zipfile_serialization=False),
    lambda trap, path: path.write_bytes(pickle.dumps(trap)),
])  # fmt: skip
def test_a_pickle_in_a_state_is_never_executed(tmp_path, writer):
    sprung = tmp_path / "sprung"
    writer({"progress": Trap(sprung)}, tmp_path / "train_state.pt")
    state_refusal(tmp_path)
    assert not sprung.exists()
    with suppress(Exception):
        torch.load(tmp_path / "train_state.pt", weights_only=False)
    assert sprung.exists()  # the trap was a real one


@pytest.mark.parametrize("size", [0, 1, 4, 100, 0.5, -1])
def test_a_truncated_state(tmp_path, size):
    runs.save_state(tmp_path, {"weights": torch.randn(100), "step": 3})
    path = tmp_path / "train_state.pt"
    data = path.read_bytes()
    path.write_bytes(data[: int(size * len(data)) if isinstance(size, float) else size])
    assert "delete it" in state_refusal(tmp_path)


def test_a_state_of_random_bytes(tmp_path):
    generator = seeded(0)
    for _ in range(50):
        noise = torch.randint(256, (200,), generator=generator, dtype=torch.uint8)
        (tmp_path / "train_state.pt").write_bytes(bytes(noise.tolist()))
        state_refusal(tmp_path)


def test_a_text_file_for_a_state(tmp_path):
    (tmp_path / "train_state.pt").write_text("hello, I am no state\n" * 20)
    state_refusal(tmp_path)


# Finding


def put(folder, source, own=True, when=1000):
    shutil.copytree(source, folder)
    if own:
        runs.save_state(folder, {})
    os.utime(folder / "model.safetensors", (when, when))
    return folder


def test_find_nothing(runs_folder):
    with pytest.raises(cli.UserError, match="python 05_train.py"):
        checkpoint.find()
    with pytest.raises(cli.UserError, match="no model at 'mine'.*python 05_train.py"):
        checkpoint.find("mine")


def test_find_prefers_your_latest_run_to_the_shipped_model(runs_folder, folder):
    shipped = put(runs_folder / "shakespeare", folder, own=False, when=9000)
    assert checkpoint.find() == shipped
    first = put(runs_folder / "first", folder, when=1000)
    assert checkpoint.find() == first
    second = put(runs_folder / "second", folder, when=2000)
    put(runs_folder / "tamil", folder, own=False, when=9000)  # also shipped, and not yours
    assert checkpoint.find() == second
    os.utime(first / "model.safetensors", (3000, 3000))
    assert checkpoint.find() == first


def test_find_by_name_and_by_path(runs_folder, folder, tmp_path, monkeypatch):
    run = put(runs_folder / "mine", folder)
    assert checkpoint.find("mine") == run
    assert checkpoint.find(str(folder)) == folder
    monkeypatch.chdir(tmp_path)
    assert checkpoint.find("model") == Path("model")
    with pytest.raises(cli.UserError, match="there are: mine"):
        checkpoint.find("yours")
    (runs_folder / "begun").mkdir()  # a run that was stopped before its first save
    assert checkpoint.find() == run
