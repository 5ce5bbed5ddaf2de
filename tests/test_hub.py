"""hub.py and published.py: downloads, uploads, ONNX files and hostile files.

The Hub of these tests is a local server with the faults of a real server. Its main branch moves during a download.
"""

import hashlib
import io
import json
import math
import re
import sys
import threading
import time
import zipfile
from importlib import import_module

from fault_server import FaultServer, Reply, fault, refused
from helpers import COMMANDS, ESCAPED, HOSTILE, Trap, make_model, python, refusal
from plumbing import checkpoint, cli, files, hub, published, text

import pytest
import safetensors.torch
import torch
import torch.nn as nn
import torch.nn.functional as F

generation = import_module("06_generate")
gpt = import_module("07_train_gpt")
INFO = {"kind": "dllm", "corpus": "abc", "step": 40, "NELBO": 1.98768}


# A Hub of our own


class Hub(FaultServer):
    """The part of the Hub that these tests need.

    `repos` is a dict {"owner/name": list of commits}, and a commit is a dict {path: bytes}. Each answer about `main`
    describes the next commit of the list. `trouble` says what is wrong with the answers. `stored` is a dict
    {sha256: bytes} of files on another host.
    """

    def __init__(self):
        super().__init__(self.respond)
        self.storage = self.url.replace("127.0.0.1", "localhost")
        self.begin()

    def begin(self):
        """Return to the state at the start."""
        self.repos, self.stored, self.moves = {}, {}, 0
        self.trouble = None
        self.requests.clear()

    def respond(self, request):
        """Answer a request of huggingface_hub about a file, or send the file."""
        address, token = request.path, request.headers["Authorization"]
        if address.startswith("/storage/"):
            data = self.stored[address.split("/")[2].split("?")[0]]
            return fault(self.trouble, data) if self.trouble in ("truncated", "wrong", "404") else Reply(body=data)
        troubles = {
            "gated": Reply(403, headers={"X-Error-Code": "GatedRepo"}),
            "bad token": Reply(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"}),
            "login": Reply(body=b"<html>log in</html>"),
            "circle": Reply(302, headers={"Location": address}),
            "silent": Reply(wait=60),
            "slow": Reply(stream=[b"HTTP/1.1 200 OK\r\nX-A: ", *[b"x"] * 5000], pace=0.02),
        }
        if self.trouble in troubles:
            return troubles[self.trouble]
        owner, name, _, revision, path = address[1:].split("/", 4)
        commits = self.repos.get(f"{owner}/{name}")
        if not commits or self.trouble == "private" and token != "Bearer secret":
            return Reply(401, headers={"X-Error-Code": "RepoNotFound"})  # a Hub does not tell strangers which it is
        number = min(self.moves, len(commits) - 1) if revision == "main" else int(revision, 16)
        self.moves += revision == "main"
        if path not in commits[number]:
            return Reply(404, headers={"X-Error-Code": "EntryNotFound"})
        data = commits[number][path]
        digest = hashlib.sha256(data).hexdigest()
        self.stored[digest] = data
        place = "file:///etc/passwd" if self.trouble == "file" else f"{self.storage}/storage/{digest}?signature=x"
        size = 1 << 40 if self.trouble == "huge" else len(data)
        return Reply(302, headers={"X-Repo-Commit": f"{number:040x}", "X-Linked-ETag": f'"{digest}"',
                                   "X-Linked-Size": str(size), "Location": place})


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The test server in place of the real Hub, whose address huggingface_hub reads when it is imported."""
    def modules():
        return {name: module for name, module in sys.modules.items() if name.split(".")[0] == "huggingface_hub"}

    before = modules()
    with Hub() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", server.url)
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("home")))
        patch.setenv("HF_HUB_DISABLE_XET", "1")
        patch.setenv("no_proxy", "127.0.0.1,localhost")
        patch.delenv("HF_TOKEN", raising=False)
        for name in before:
            del sys.modules[name]
        yield server
    for name in modules():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture
def server(network, runs_folder, monkeypatch):
    network.begin()
    monkeypatch.setattr(files.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(hub, "PATIENCE", 0.5)
    return network


def in_memory(folder, vocabulary="\n abcdeé", **info):
    """Return the files of a model, as {path: bytes}, and the model itself."""
    model = make_model(len(vocabulary), std=0.3, seed=len(vocabulary))
    checkpoint.save(folder, model, text.Characters(vocabulary), INFO | info)
    return {path.name: path.read_bytes() for path in folder.iterdir()}, model


@pytest.fixture
def failing(server, runs_folder):
    """A function failing(repo, …) that returns the error message of hub.fetch, and checks that no file is left."""
    def call(*arguments):
        before = tree(runs_folder)
        line = refusal(hub.fetch, *arguments)
        assert not COMMANDS.search(line) and len(line) < 400 and "signature" not in line
        assert tree(runs_folder) == before
        return line

    return call


def tree(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob("*") if path.name != ".fetching"}


# From the Hub


def test_a_model_is_fetched_once_and_from_one_commit(server, runs_folder, tmp_path, capsys):
    first, model = in_memory(tmp_path / "a")
    second, _ = in_memory(tmp_path / "b", "\n abcdefghij", step=41)
    server.repos["o/ours"] = [first, second]  # the second is there as soon as somebody has asked for the first
    for _ in range(2):
        assert hub.fetch("o/ours") == runs_folder / "o--ours"
    found, tokenizer, info = checkpoint.load(runs_folder / "o--ours")
    tokens = torch.arange(9)[None]
    assert torch.equal(found(tokens), model(tokens)) and tokenizer.vocabulary == "\n abcdeé" and info == INFO
    assert checkpoint.read_config(runs_folder / "o--ours")["info"] == INFO
    assert {path.name for path in (runs_folder / "o--ours").iterdir()} == {"model.safetensors", "config.json"}
    assert len(server.requests) == 2  # one question, one file
    assert "fetched o/ours" in capsys.readouterr().err  # and nothing on stdout, for --quiet


def test_a_program_writes_with_a_model_of_the_hub(server, tmp_path, capsys):
    server.repos["o/ours"] = [in_memory(tmp_path / "a")[0]]
    generation.main(["--hub", "o/ours", "--len", "20", "--steps", "2", "--seed", "1", "--quiet", "--device", "cpu"])
    assert 10 < len(capsys.readouterr().out) < 30
    assert "leave one out" in refusal(generation.main, ["--hub", "o/ours", "--checkpoint", "mine"])
    assert "is a dLLM" in refusal(gpt.main, ["write", "--hub", "o/ours", "--device", "cpu"])


@pytest.mark.parametrize("trouble, said", [
    ("gated", "is gated"), ("private", "set HF_TOKEN"), ("bad token", "401"), ("silent", "no whole answer"),
    ("slow", "no whole answer"), ("login", "log in"), ("circle", "try again later"), ("huge", "limit"),
    ("file", "cannot download"), ("truncated", "cannot download"), ("404", "404"), ("wrong", "other bytes"),
])
def test_what_the_hub_may_do_instead(server, failing, tmp_path, trouble, said):
    server.repos["o/ours"] = [in_memory(tmp_path / "a")[0]]
    server.trouble = trouble
    assert said in failing("o/ours") and len(server.requests) < 30


def test_a_model_that_is_none(server, failing, tmp_path):
    assert "no model o/none" in failing("o/none")
    server.repos["o/other"] = [{"pytorch_model.bin": b"x"}]
    assert "o/other has no file model.safetensors" in failing("o/other")
    ours, _ = in_memory(tmp_path / "a")
    tensors = safetensors.torch.load(ours["model.safetensors"])
    bare = safetensors.torch.save(tensors)  # without the config
    tensors["head.weight"].fill_(math.nan)
    infected = safetensors.torch.save(tensors, {"config": ours["config.json"].decode()})
    for data in (b"", b"garbage", bare, infected):
        server.repos["o/ours"] = [ours | {"model.safetensors": data}]
        assert "o/ours" in failing("o/ours")


@pytest.mark.parametrize("repo", ["", "x", "../x", "a/../b", "o/..", "/etc/passwd", "a/b/c", "a--b/c", "o/ä", ".a/b",
                                  "o/x\n", f"o/{HOSTILE}"])
def test_an_address_that_is_none(server, failing, repo):
    assert "OWNER/NAME" in failing(repo) and not server.requests


def test_a_folder_in_the_way_is_left_alone(failing, runs_folder):
    (runs_folder / "o--mine").mkdir(parents=True)
    (runs_folder / "o--mine" / "notes.txt").write_text("mine")
    assert "in the way" in failing("o/mine")


def test_two_programs_at_once_and_one_that_was_killed(server, runs_folder, tmp_path, monkeypatch):
    server.repos["o/ours"] = [in_memory(tmp_path / "a")[0]]
    (runs_folder / ".fetched").mkdir(parents=True)
    (runs_folder / ".fetched" / "model.safetensors").write_bytes(b"half")
    answer = server.answer

    def slowly(request):
        time.sleep(0.2)
        return answer(request)

    monkeypatch.setattr(server, "answer", slowly)
    threads = [threading.Thread(target=hub.fetch, args=["o/ours"]) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert checkpoint.load(runs_folder / "o--ours") and len(server.requests) == 2
    assert {path.name for path in runs_folder.iterdir()} == {"o--ours", ".fetching"}


def test_a_private_model_with_a_token_that_the_other_host_never_sees(server, tmp_path, monkeypatch):
    server.repos["o/ours"], server.trouble = [in_memory(tmp_path / "a")[0]], "private"
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.fetch("o/ours")
    tokens = [(request.path.startswith("/storage/"), request.headers["Authorization"]) for request in server.requests]
    assert tokens == [(False, "Bearer secret"), (True, None)]


def test_without_a_network_the_program_ends_in_one_line(book):
    answer = python("06_generate.py", "--hub", "o/offline", cwd=book.folder, HF_ENDPOINT=refused())
    assert answer.code == 2 and answer.out == ""
    assert re.fullmatch(r"error: cannot fetch [^\n]* use a local model\n", answer.err)
    assert not (book.runs / "o--offline").exists()


def test_huggingface_hub_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "huggingface_hub is not installed: pip install" in refusal(cli.run, hub.library)


# To the Hub


def test_an_exported_run_is_served_and_fetched_again(server, runs_folder, tmp_path):
    _, model = in_memory(runs_folder / "mine", name=ESCAPED)
    (runs_folder / "mine" / "config.json").unlink()  # its weights hold a copy
    hub.main(["mine", "--export", str(tmp_path / "new" / "model")])
    exported = {path.name: path.read_bytes() for path in (tmp_path / "new" / "model").iterdir()}
    card = exported["README.md"].decode()
    assert "# model" in card and "1.98768" in card and "06_generate.py --hub OWNER/model" in card and "a dLLM" in card
    server.repos["o/again"] = [exported]
    again, _, info = checkpoint.load(hub.fetch("o/again"))
    tokens = torch.arange(9)[None]
    assert torch.equal(again(tokens), model(tokens)) and info == INFO | {"name": ESCAPED}


def test_a_pushed_run_comes_back(server, runs_folder, monkeypatch, capsys):
    class Api(hub.library().HfApi):
        def create_repo(self, repo_id, exist_ok):
            if hub.library().get_token() != "secret":
                raise hub.library().errors.HTTPError("403 Forbidden")
            return f"https://a.hub/{repo_id}"

        def upload_folder(self, repo_id, folder_path, commit_message):
            server.repos[repo_id] = [{path.name: path.read_bytes() for path in folder_path.iterdir()}]

    monkeypatch.setattr(hub.library(), "HfApi", Api)
    _, model = in_memory(runs_folder / "mine")
    assert "no token" in refusal(hub.main, ["mine", "--push", "o/pushed"])
    monkeypatch.setenv("HF_TOKEN", "another")
    assert "cannot upload to o/pushed (403 Forbidden)" in refusal(hub.main, ["mine", "--push", "o/pushed"])
    monkeypatch.setenv("HF_TOKEN", "secret")
    hub.main(["mine", "--push", "o/pushed"])
    assert "uploaded to https://a.hub/o/pushed" in capsys.readouterr().out
    assert b"--hub o/pushed" in server.repos["o/pushed"][0]["README.md"]
    tokens = torch.arange(9)[None]
    assert torch.equal(checkpoint.load(hub.fetch("o/pushed"))[0](tokens), model(tokens))


@pytest.mark.parametrize("flags, said", [
    (["mine"], "--export FOLDER, --push"), ([], "name a run"), (["nobody", "--export", "x"], "no model at 'nobody'"),
    (["mine", "--push", "no-address"], "OWNER/NAME"), (["mine", "--export", "mine"], "exists already"),
    (["mine", "--onnx", "a.pt"], "must end in .onnx"), (["hybrid", "--export", "x"], "is a hybrid"),
])
def test_what_cannot_be_shared(runs_folder, tmp_path, monkeypatch, flags, said):
    in_memory(runs_folder / "mine")
    in_memory(runs_folder / "hybrid", kind="hybrid")
    monkeypatch.chdir(runs_folder)
    before = tree(tmp_path)
    assert said in refusal(hub.main, flags) and tree(tmp_path) == before


def test_an_onnx_file_gives_the_logits_of_pytorch(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    tokenizer = text.Characters("\n abcdeé")
    model = make_model(tokenizer.vocab_size, std=0.3, causal=True, time_conditioned=True, conv=3)
    checkpoint.save(tmp_path / "run", model, tokenizer, {"step": 7})
    hub.main([str(tmp_path / "run"), "--onnx", str(tmp_path / "new" / "model.onnx")])
    session = onnxruntime.InferenceSession(tmp_path / "new" / "model.onnx")
    for B, T in ((1, 1), (2, 8), (3, 16)):
        inputs = {"tokens": torch.randint(tokenizer.vocab_size + 1, (B, T)), "t": torch.linspace(0.1, 0.9, B)}
        [logits] = session.run(["logits"], {name: value.numpy() for name, value in inputs.items()})
        assert logits.shape == (B, T, tokenizer.vocab_size)
        assert (torch.from_numpy(logits) - model(**inputs)).abs().max() < 1e-4
    description = json.loads(session.get_modelmeta().custom_metadata_map["tiny_dllm"])
    assert description == checkpoint.read_config(tmp_path / "run") and description["info"] == {"step": 7}


# A second implementation of the published format


class Published(nn.Module):
    """A model whose weights have the published names. Its forward pass is written step by step."""

    def __init__(self, causal, C=16, H=2, L=2, T=8, V=65):
        super().__init__()
        self.causal, self.H = causal, H
        self.token_emb, self.pos_emb = nn.Embedding(V if causal else V + 1, C), nn.Embedding(T, C)
        self.blocks = nn.ModuleList()
        for _ in range(L):
            block, block.attn, block.ff = nn.Module(), nn.Module(), nn.Module()
            block.norm1, block.norm2 = nn.LayerNorm(C), nn.LayerNorm(C)
            block.attn.qkv, block.attn.out = nn.Linear(C, 3 * C, bias=False), nn.Linear(C, C, bias=False)
            if causal:
                block.attn.register_buffer("mask", torch.ones(T, T).tril())
            block.ff.net = nn.Sequential(nn.Linear(C, 4 * C), nn.GELU(), nn.Linear(4 * C, C))
            self.blocks.append(block)
        self.norm, self.head = nn.LayerNorm(C), nn.Linear(C, V, bias=False)
        for p in self.parameters():  # every weight matters, so that no mistake can hide
            nn.init.normal_(p, std=0.5)
        self.head.weight.data = self.token_emb.weight.data[:V]  # tied: one memory in the file, too

    @torch.no_grad()
    def forward(self, tokens):
        T = tokens.shape[1]
        x = self.token_emb.weight[tokens] + self.pos_emb.weight[:T]
        for block in self.blocks:
            heads = []
            q, k, v = block.attn.qkv(block.norm1(x)).chunk(3, dim=-1)
            for a, b, c in zip(*(part.chunk(self.H, dim=-1) for part in (q, k, v))):
                scores = a @ b.mT / math.sqrt(a.shape[-1])  # (B, T, T)
                if self.causal:
                    scores = scores + torch.full((T, T), -math.inf).triu(1)
                heads.append(scores.softmax(-1) @ c)
            x = x + block.ff.net(block.norm2(x + block.attn.out(torch.cat(heads, -1))))
        return F.layer_norm(x, x.shape[-1:], self.norm.weight, self.norm.bias) @ self.head.weight.T


def make_published(causal=False):
    """Return (dictionary to save with torch.save, model)."""
    torch.manual_seed(int(causal))
    model = Published(causal)
    return {"step": 30, "model": model.state_dict(), "optimizer": {"state": {}}, "vocab_size": 65, "hidden": 16,
            "n_layers": 2, "n_heads": 2, "seq_len": 8}, model


def as_bytes(saved, **how):
    file = io.BytesIO()
    torch.save(saved, file, **how)
    return file.getvalue()


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
@pytest.mark.parametrize("causal", [False, True])
def test_the_converted_model_gives_the_published_logits(tmp_path, causal, prefix):
    saved, reference = make_published(causal)
    saved["model"] = {prefix + name: weight for name, weight in saved["model"].items()}
    model = published.read_published(as_bytes(saved), causal)
    tokens = torch.randint(65 if causal else 66, (3, 8))
    assert (model.eval()(tokens) - reference(tokens)).abs().max() < 1e-4
    checkpoint.save(tmp_path, model, text.Characters(published.VOCABULARY), {})
    loaded = checkpoint.load(tmp_path)[0]  # in our format, it is the same model
    assert torch.equal(loaded(tokens), model(tokens)) and loaded.config.causal is causal
    usual = import_module("03_transformer").Transformer(model.config).eval()
    usual.load_state_dict(model.state_dict())
    assert (usual(tokens) - reference(tokens)).abs().max() > 0.1  # and chapter 03's wiring is another


def test_the_published_models_are_looked_for_at_their_old_addresses(server, failing, runs_folder):
    shipped = checkpoint.read_config(files.ROOT / "checkpoints" / "shakespeare")
    assert "python 05_train.py" in failing("published")
    for kind, place in (("dllm", "dllm_step50000.pt"), ("gpt", "checkpoints/gpt_step50000.pt")):
        saved, reference = make_published(kind == "gpt")
        server.repos["sutharsan311/tiny-dllm"] = [{place: as_bytes(saved)}]
        model, tokenizer, info = checkpoint.load(hub.fetch("published", kind))
        assert tokenizer.vocabulary == shipped["tokenizer"]["vocabulary"]
        tokens = torch.arange(8)[None]
        assert (model(tokens) - reference(tokens)).abs().max() < 1e-4
        assert info["kind"] == kind and place in info["source"]
    asked = [request.path for request in server.requests[:4]]
    assert asked == [f"/{owner}/tiny-dllm/resolve/main/{folder}dllm_step50000.pt"
                     for owner in ("sutharsan-311", "sutharsan311") for folder in ("checkpoints/", "")]


def test_a_hostile_pickle_is_not_executed(server, failing, tmp_path):
    for place in ("model", "optimizer", "beside"):
        saved, _ = make_published()
        saved[place] = Trap(tmp_path / place)
        server.repos["sutharsan311/tiny-dllm"] = [{"dllm_step50000.pt": as_bytes(saved)}]
        assert "none of that was executed" in failing("published") and not (tmp_path / place).exists()
    torch.load(io.BytesIO(as_bytes(saved)), weights_only=False)
    assert (tmp_path / place).exists()  # the trap was a real one


def test_bytes_that_are_no_published_file():
    whole = as_bytes(make_published()[0])
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as old, zipfile.ZipFile(packed, "w") as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record), zipfile.ZIP_DEFLATED)
    assert "compressed" in refusal(published.read_published, packed.getvalue(), False)
    unusual = [as_bytes(saved) for saved in ([], {}, {"model": 3}, 7, torch.zeros(3))]
    old = as_bytes(make_published()[0], _use_new_zipfile_serialization=False)
    cut = [whole[:size] for size in (0, 10, len(whole) // 2, -1)]
    for data in (b"<html>", b"PK\x05\x06" + bytes(18), old, *cut, *unusual):
        line = refusal(published.read_published, data, False)
        assert "not a checkpoint that we can read" in line and "weights_only" not in line and len(line) < 300


@pytest.mark.parametrize("said, change", [
    ("", {"head.weight": None}), ("", {"extra": torch.zeros(2)}), ("", {7: torch.zeros(2)}),
    ("", {HOSTILE + "x" * 10**6: torch.zeros(2)}), ("", {"head.weight": torch.zeros(16, 65)}),
    ("", {"norm.bias": [0.0] * 16}), ("", {"norm.bias": torch.zeros(16).to_sparse()}),
    ("", {"norm.bias": torch.zeros(16, device="meta")}), ("claim more", {"norm.bias": torch.zeros(1).expand(10**12)}),
    ("", {"token_emb.weight": torch.zeros(65, 16)}), ("", {"blocks.0.attn.mask": torch.ones(8, 8)}),  # for a GPT
    ("", {"n_heads": 3}), ("", {"n_heads": 0}), ("", {"hidden": 10**12}),
    ("", {"hidden": "16"}), ("", {"n_layers": 0}), ("", {"n_layers": 3}), ("", {"n_layers": 10**12}),
    ("", {"seq_len": 9}), ("", {"seq_len": 10**15}), ("", {"seq_len": None}),
])
def test_sizes_and_weights_that_should_not_be(said, change):
    saved, _ = make_published()
    for name, value in change.items():
        (saved if name in saved else saved["model"])[name] = value
    line = refusal(published.read_published, as_bytes(saved), False)
    assert said in line and len(line) < 400 and not COMMANDS.search(line)
