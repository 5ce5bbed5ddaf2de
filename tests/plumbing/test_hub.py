"""The Hugging Face Hub: converted models give the published logits, hostile files are refused without executing them,
and an uploaded model comes back unchanged. The Hub of these tests is a local server with the faults of a real one."""

import base64
import dataclasses
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn as nn
import torch.nn.functional as F
from fault_server import ENDLESS, FaultServer, Reply, fault
from helpers import COMMANDS, ESCAPED, HOSTILE, Trap, python, seeded, start
from helpers import refusal as refusal_of

from plumbing import checkpoint, cli, download, files, hub, published, tokenizers
from plumbing.reports import model_card

ROOT = files.ROOT
REAL = ROOT.parent / "shared" / "data"
transformer = import_module("03_transformer")


# The published architecture, written down once more


class Published(nn.Module):
    """A model with the published parameter names, and with its forward pass written step by step."""

    def __init__(self, causal, C=16, L=2, H=2, T=8, V=65):
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


def make_published(causal=False, **changes):
    """(The dictionary to be saved with torch.save, its model)."""
    torch.manual_seed(int(causal))
    model = Published(causal)
    saved = {"step": 30, "model": model.state_dict(), "optimizer": {"state": {}, "param_groups": []}, "vocab_size": 65,
             "hidden": 16, "n_layers": 2, "n_heads": 2, "seq_len": 8} | changes  # fmt: skip
    return saved, model


def write_pt(path, saved):
    torch.save(saved, path)
    return path


def as_bytes(saved):
    file = io.BytesIO()
    torch.save(saved, file)
    return file.getvalue()


@pytest.mark.parametrize("causal", [False, True])
def test_the_converted_model_gives_the_published_logits(tmp_path, causal):
    saved, reference = make_published(causal)
    model = published.convert(published.read_pt(write_pt(tmp_path / "x.pt", saved)), causal)
    tokens = torch.randint(65 if causal else 66, (3, 8), generator=seeded(2))
    shared = {w.untyped_storage().data_ptr() for name, w in saved["model"].items() if name[:4] in ("head", "toke")}
    assert len(shared) == 1
    with torch.no_grad():
        expected = reference(tokens)
        assert (model(tokens) - expected).abs().max() < 1e-5
        # Saved as our two files and read again, it is the same model, and chapter 03's wiring is another.
        checkpoint.save(tmp_path / "ours", model, tokenizers.CharTokenizer(published.VOCABULARY), {})
        loaded = checkpoint.load(tmp_path / "ours")[0]
        assert (loaded(tokens) - expected).abs().max() < 1e-5
        usual = transformer.Transformer(model.config).eval()
        usual.load_state_dict(model.state_dict())
        assert (usual(tokens) - expected).abs().max() > 0.1
    assert json.loads((tmp_path / "ours" / "config.json").read_text())["wiring"] == "published"
    assert loaded.config.causal is causal and (loaded.config.seq_len, loaded.config.n_embd) == (8, 16)


def test_a_cached_pass_of_the_published_gpt_equals_the_whole_one():
    saved, reference = make_published(True)
    model = published.convert(saved, True)
    tokens, cache = torch.arange(8)[None], model.make_cache(1, 8)
    rows = [model(tokens[:, i : i + 1], positions=torch.tensor([i]), cache=cache) for i in range(8)]
    assert (torch.cat(rows, 1) - reference(tokens)).abs().max() < 1e-5


def test_the_vocabulary_is_that_of_tinyshakespeare():
    shipped = json.loads((ROOT / "checkpoints" / "shakespeare" / "config.json").read_text(encoding="utf-8"))
    assert published.VOCABULARY == "".join(sorted(published.VOCABULARY)) == shipped["tokenizer"]["vocabulary"]


@pytest.mark.skipif(not (REAL / "published_format.pt").is_file(), reason="the real file is not here")
def test_a_real_file_gives_its_logits():
    model = published.convert(published.read_pt(REAL / "published_format.pt"), False)
    known = np.load(REAL / "published_format_logits.npz")
    with torch.no_grad():
        logits = model(torch.tensor(known["tokens"]))
    assert (logits - torch.tensor(known["logits"])).abs().max() < 1e-5


# A stranger's file


def refusal(path, causal=False):
    line = refusal_of(lambda: published.convert(published.read_pt(path), causal))
    assert len(line) < 300 and "weights_only" not in line
    return line


@pytest.mark.parametrize("place", ["model", "optimizer", "beside"])
def test_a_hostile_pickle_is_not_executed(tmp_path, place):
    sprung = tmp_path / "sprung"
    saved, _ = make_published()
    saved[place] = Trap(sprung) if place != "model" else saved["model"] | {"trap": Trap(sprung)}
    path = write_pt(tmp_path / "x.pt", saved)
    assert "none of that was executed" in refusal(path) and not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists()  # the trap was a real one


def test_an_old_torch_is_not_trusted(tmp_path, monkeypatch):
    path = write_pt(tmp_path / "x.pt", make_published()[0])
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.9.1"))
    assert "before 2.10" in refusal(path)


@pytest.mark.parametrize("size", [0, 10, 0.5, -1])
def test_a_truncated_file(tmp_path, size):
    data = as_bytes(make_published()[0])
    (tmp_path / "x.pt").write_bytes(data[: int(size * len(data)) if isinstance(size, float) else size])
    refusal(tmp_path / "x.pt")


@pytest.mark.parametrize("data", [b"", b"<html>log in</html>", b"\x80\x02" + b"\xff" * 99, b"PK\x05\x06" + b"\0" * 18])
def test_a_file_that_is_something_else(tmp_path, data):
    (tmp_path / "x.pt").write_bytes(data)
    refusal(tmp_path / "x.pt")


def test_a_compressed_archive_is_refusal_of(tmp_path):
    """PyTorch would decompress it to a thousand times its size."""
    write_pt(tmp_path / "x.pt", make_published()[0])
    with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(tmp_path / "y.pt", "w") as new:
        for record in old.infolist():
            new.writestr(record.filename, old.read(record), zipfile.ZIP_DEFLATED)
    assert torch.load(tmp_path / "y.pt", weights_only=True)["vocab_size"] == 65
    assert "compressed" in refusal(tmp_path / "y.pt")


def test_a_file_beyond_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(published.check_size, "__defaults__", (1000,))
    assert "the limit is 1,000" in refusal(write_pt(tmp_path / "x.pt", make_published()[0]))


@pytest.mark.parametrize("saved", [[], {}, {"model": 3}, {"model": []}, 7, torch.zeros(3)])
def test_something_other_than_a_checkpoint(tmp_path, saved):
    refusal(write_pt(tmp_path / "x.pt", saved))


def weight(name, change):
    """A change of one weight of the model."""

    def apply(saved):
        saved["model"][name] = change(saved["model"].get(name))

    return apply


def drop(name):
    return lambda saved: saved["model"].pop(name)


@pytest.mark.parametrize("change, said", [
    (drop("head.weight"), "head.weight"),
    (drop("blocks.1.ff.net.2.bias"), "blocks.1.ff.net.2.bias"),
    (weight("extra.weight", lambda _: torch.zeros(2)), "extra.weight"),
    (weight("blocks.0.mlp.up.weight", lambda _: torch.zeros(64, 16)), "blocks.0.mlp.up.weight"),
    (weight("blocks.0.attn.mask", lambda _: torch.ones(8, 8).tril()), "blocks.0.attn.mask"),  # not in a dLLM
    (weight(7, lambda _: torch.zeros(2)), "7"),
    (weight("head.weight", lambda w: w.T), "head.weight"),
    (weight("head.weight", lambda w: w[:, :8]), "head.weight"),
    (weight("token_emb.weight", lambda w: w[:65]), "token_emb.weight"),
    (weight("norm.bias", lambda w: w.fill_(math.nan)), "norm.bias"),
    (weight("norm.bias", lambda w: w.fill_(-math.inf)), "norm.bias"),
    (weight("norm.bias", lambda w: w.int()), "norm.bias"),
    (weight("norm.bias", lambda w: w.bool()), "norm.bias"),
    (weight("norm.bias", lambda w: w.to(torch.complex64)), "norm.bias"),
    (weight("norm.bias", lambda w: w.to_sparse()), "norm.bias"),
    (weight("norm.bias", lambda w: w.to("meta")), "norm.bias"),
    (weight("norm.bias", lambda w: nn.Parameter(w)), "norm.bias"),
    (weight("norm.bias", lambda w: w.tolist()), "norm.bias"),
    (weight("norm.bias", lambda w: torch.zeros(1).expand(10**12)), "claims more"),
])  # fmt: skip
def test_a_weight_that_should_not_be(tmp_path, change, said):
    saved, _ = make_published()
    change(saved)
    assert said in refusal(write_pt(tmp_path / "x.pt", saved))


def test_a_forged_name_does_not_command_the_terminal(tmp_path):
    saved, _ = make_published()
    saved["model"][HOSTILE + "\nerror: run this" + "x" * 10**6] = torch.zeros(2)
    line = refusal(write_pt(tmp_path / "x.pt", saved))
    assert ESCAPED in line and not COMMANDS.search(line)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
@pytest.mark.parametrize("causal", [False, True])
def test_the_prefixes_of_pytorchs_wrappers_are_harmless(prefix, causal):
    saved, reference = make_published(causal)
    saved["model"] = {prefix + name: tensor for name, tensor in saved["model"].items()}
    tokens = torch.arange(8)[None]
    assert (published.convert(saved, causal)(tokens) - reference(tokens)).abs().max() < 1e-5
    saved["model"]["head.weight"] = torch.zeros(65, 16)
    assert "twice" in refusal_of(published.convert, saved, causal)


def test_the_number_of_heads_is_compared_with_the_published_one(monkeypatch, capsys):
    """No shape depends on it, so another number would silently give other logits."""
    saved, _ = make_published()
    published.convert(saved, False, "file.pt")
    assert "file.pt has not the sizes of the published model, so nothing confirms" in capsys.readouterr().err
    monkeypatch.setattr(published, "SIZES", {name: saved[name] for name in published.SIZES})
    published.convert(saved, False)
    assert capsys.readouterr().err == ""
    line = refusal_of(published.convert, saved | {"n_heads": 4}, False, "file.pt")
    assert line == "file.pt claims 4 heads; the published model has 2"


@pytest.mark.parametrize("sizes", [
    {"vocab_size": 66}, {"hidden": 15}, {"hidden": 10**12}, {"hidden": "16"}, {"n_layers": 0}, {"n_layers": 3},
    {"n_layers": 10**12}, {"n_heads": 3}, {"n_heads": 0}, {"seq_len": 9}, {"seq_len": 10**15}, {"seq_len": 8.0},
    {"seq_len": None}, {"n_layers": True},
])  # fmt: skip
@pytest.mark.parametrize("causal", [False, True])
def test_sizes_that_do_not_fit(tmp_path, sizes, causal):
    refusal(write_pt(tmp_path / "x.pt", make_published(causal, **sizes)[0]), causal)


@pytest.mark.parametrize("mask", [torch.ones(8, 8), torch.ones(8, 8).triu(), torch.ones(4, 4).tril(),
                                  torch.full((8, 8), math.nan)])  # fmt: skip
def test_a_mask_that_is_not_causal(tmp_path, mask):
    saved, _ = make_published(True)
    saved["model"]["blocks.1.attn.mask"] = mask
    assert "blocks.1.attn.mask is not causal" in refusal(write_pt(tmp_path / "x.pt", saved), True)


def test_a_gpt_may_come_without_masks_and_with_a_row_for_them():
    saved, reference = make_published(True)
    for i in range(2):
        del saved["model"][f"blocks.{i}.attn.mask"]
    saved["model"]["token_emb.weight"] = torch.cat((saved["model"]["token_emb.weight"], torch.ones(1, 16)))
    tokens = torch.arange(8)[None]
    assert (published.convert(saved, True)(tokens) - reference(tokens)).abs().max() < 1e-5


@pytest.mark.parametrize("change", [{"wiring": "unknown"}, {"wiring": None}, {"wiring": ["published"]}])
def test_a_config_with_another_wiring(tmp_path, tiny, change):
    checkpoint.save(tmp_path / "m", tiny.model, tiny.tokenizer, {})
    weights = safetensors.torch.load_file(tmp_path / "m" / "model.safetensors")
    config = json.loads((tmp_path / "m" / "config.json").read_text(encoding="utf-8")) | change
    safetensors.torch.save_file(weights, tmp_path / "m" / "model.safetensors", {"config": json.dumps(config)})
    with pytest.raises(cli.UserError, match="unknown wiring"):
        checkpoint.load(tmp_path / "m")


# A Hub of our own


COMMIT = "c0ffee" * 6 + "c0ff"


def as_json(value, status=200):
    return Reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class Hub(FaultServer):
    """The Hub, as far as these tests need it.

    repos: {"owner/name": {path: bytes}}. troubles: {"owner/name": what is wrong with its answers}.
    stored: {sha256: bytes} of the large files, which are on another host, `storage`.
    """

    def __init__(self):
        super().__init__(self.respond)
        self.repos, self.troubles, self.stored = {}, {}, {}
        self.storage = self.url.replace("127.0.0.1", "localhost")

    def seen(self):
        return [(request.method, request.path, request.headers["Authorization"]) for request in self.requests]

    def respond(self, request):
        token = request.headers["Authorization"]
        if request.method in ("GET", "HEAD"):
            return self.file(request.path, token)
        if request.method == "PUT":
            digest = request.path.split("/")[-1]
            assert hashlib.sha256(request.body).hexdigest() == digest
            self.stored[digest] = request.body
            return Reply()
        return self.upload(request.path, request.body) if token == "Bearer hf_secret" else Reply(403)

    def file(self, address, token):
        if address.startswith("/storage-of-files"):
            return Reply(302, headers={"Location": "file:///etc/passwd"})
        if address.startswith("/storage/"):
            return Reply(body=self.stored[address.split("/")[2].split("?")[0]])
        if "/resolve/" not in address:
            return Reply(404, headers={"X-Error-Code": "RepoNotFound"})
        owner, name, _, revision, path = address[1:].split("/", 4)
        trouble, files = self.troubles.get(f"{owner}/{name}"), self.repos.get(f"{owner}/{name}")
        if trouble == "gated":
            return Reply(403 if token else 401, headers={"X-Error-Code": "GatedRepo"})
        if trouble == "bad token":
            return Reply(401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        if isinstance(trouble, int):
            return Reply(trouble)
        if trouble == "silent":
            return Reply(wait=60, drop=True)
        if trouble in ENDLESS:
            return fault(trouble)
        if trouble == "file":
            return Reply(302, headers={"Location": "file:///etc/passwd"})
        if trouble == "login":
            return Reply(body=b"<html>log in</html>")
        if files is None or trouble == "private" and token != "Bearer hf_secret":
            return Reply(401)  # the Hub does not tell strangers whether it exists
        if path not in files or revision not in ("main", COMMIT):
            return Reply(404, headers={"X-Error-Code": "EntryNotFound"})
        data = files[path]
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if trouble == "huge":
            return Reply(headers=headers, length=1 << 40)
        if path.endswith(("safetensors", ".pt")):
            digest = hashlib.sha256(data if trouble != "wrong bytes" else b"others").hexdigest()
            headers |= {"X-Linked-ETag": f'"{digest}"', "X-Linked-Size": str(len(data))}
            if trouble not in ("truncated", "slow"):
                self.stored[digest] = data
                place = "/storage-of-files" if trouble == "to a file" else f"/storage/{digest}"
                return Reply(302, headers=headers | {"Location": f"{self.storage}{place}?signature=x"})
        if trouble in ("truncated", "slow"):
            return Reply(body=data[:100], headers=headers, length=len(data), pace=0.5 if trouble == "slow" else 0)
        return Reply(body=data, headers=headers)

    def upload(self, address, body):
        """Create the repository, say how to send each file, store the large ones, commit."""
        if address == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            answer = {"url": f"{self.url}/{repo}"}
            if repo in self.repos:
                return as_json(answer | {"error": "exists"}, 409)
            self.repos[repo] = {}
            return as_json(answer)
        if address == "/api/validate-yaml":
            assert "pipeline_tag" in json.loads(body)["content"]
            return as_json({"errors": [], "warnings": []})
        if "/preupload/" in address:
            files = [{"path": file["path"], "shouldIgnore": False,
                      "uploadMode": "lfs" if file["path"].endswith("safetensors") else "regular"}
                     for file in json.loads(body)["files"]]  # fmt: skip
            return as_json({"files": files})
        if address.endswith("/objects/batch"):
            objects = [o | {"actions": {"upload": {"href": f"{self.url}/put/{o['oid']}"}}}
                       for o in json.loads(body)["objects"]]  # fmt: skip
            return as_json({"objects": objects, "transfer": "basic"})
        if "/commit/" not in address:
            return Reply(500)
        repo = "/".join(address.split("/")[3:5])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                self.repos[repo][line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            if line["key"] == "lfsFile":
                self.repos[repo][line["value"]["path"]] = self.stored[line["value"]["oid"]]
        commit = f"{self.url}/{repo}/commit/{COMMIT}"
        return as_json({"success": True, "commitOid": COMMIT, "commitUrl": commit, "hookOutput": ""})


# One Python for many calls, as HF_ENDPOINT is read when huggingface_hub is imported: calls come as lines of JSON.
CALLS = r"""
import contextlib, io, json, os, sys, time
from importlib import import_module
from plumbing import cli, hub
hub.ANSWER, hub.TRANSFER = 0.5, 2
usual = hub.ADDRESSES
for line in sys.stdin:
    call = json.loads(line)
    os.environ.pop("HF_TOKEN", None)
    os.environ.update(call.get("environment", {}))
    hub.ADDRESSES = call.get("addresses", usual)
    out, err, failed = io.StringIO(), io.StringIO(), None
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            if call["what"] == "fetch":
                print(hub.fetch(*call["arguments"]))
            else:
                import_module(call["what"]).main(call["arguments"])
        except cli.UserError as error:
            failed = str(error)
        except Exception as error:
            failed = f"{error}\nis a {type(error).__name__}"
    print(json.dumps({"out": out.getvalue(), "err": err.getvalue(), "failed": failed}), flush=True)
"""


@pytest.fixture(scope="module")
def place(book, tmp_path_factory):
    """The server, a copy of the book beside it, and `call(what, *arguments)`, which runs a program of the copy."""
    folder = tmp_path_factory.mktemp("hub") / "book"
    shutil.copytree(book.folder, folder)
    (folder / "docs").mkdir()
    with Hub() as server:
        environment = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path_factory.mktemp("home")),
                       "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": ""}  # fmt: skip
        process = start("-c", CALLS, cwd=folder, stdin=subprocess.PIPE, stderr=None, **environment)

        def call(what, *arguments, **more):
            process.stdin.write(json.dumps({"what": what, "arguments": arguments} | more) + "\n")
            process.stdin.flush()
            return SimpleNamespace(**json.loads(process.stdout.readline()))

        yield SimpleNamespace(server=server, call=call, folder=folder, runs=folder / "checkpoints",
                              environment=environment)  # fmt: skip
        process.kill()
        process.communicate()


def tree(folder):
    """Everything under a folder: {path: bytes}."""
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def failing(place):
    """`failing(what, ...)`: the one line in which the call ends. The runs are as before the call."""

    def call(what, *arguments, **more):
        before = tree(place.runs)
        answer = place.call(what, *arguments, **more)
        line = answer.failed
        assert line and "\n" not in line and len(line) < 300 and answer.out == ""
        assert tree(place.runs) == before and not list(place.runs.glob(".*"))
        return line

    return call


@pytest.fixture
def ours(tmp_path, tiny):
    """The two files of a model in our format, as a repository stores them."""
    checkpoint.save(tmp_path / "ours", tiny.model, tiny.tokenizer, {"kind": "dllm"})
    return {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}


# From the Hub


def test_two_programs_that_fetch_the_same_model(runs_folder, monkeypatch, tiny, capsys):
    """The one that comes second uses the model of the first."""
    def slow(repo, folder):
        checkpoint.save(folder, tiny.model, tiny.tokenizer, {"kind": "dllm"})
        checkpoint.save(runs_folder / "a--b", tiny.model, tiny.tokenizer, {"kind": "dllm"})  # meanwhile
        return repo

    monkeypatch.setattr(hub, "fetch_ours", slow)
    assert hub.fetch("a/b") == runs_folder / "a--b" and checkpoint.load(runs_folder / "a--b")
    assert [path.name for path in runs_folder.iterdir()] == ["a--b"]


def test_the_published_dllm_is_fetched_once_and_written_with(place):
    """The file is at the last of the four possible addresses."""
    saved, reference = make_published()
    place.server.repos["sutharsan311/tiny-dllm"] = {"dllm_step50000.pt": as_bytes(saved)}
    answer = place.call("06_generate", "--hub", "--len", "20", "--seed", "1", "--prompt", "ROMEO:")
    assert answer.failed is None and "sutharsan311/tiny-dllm/dllm_step50000.pt at commit c0ffee" in answer.err
    assert "published" in answer.out and "\nROMEO:" in answer.out
    asked = [path for method, path, _ in place.server.seen() if method == "HEAD"]
    assert [path.replace("/resolve/main", "") for path in asked] == [
        f"/{repo}/{file}" for repo in hub.ADDRESSES for file in ("checkpoints/dllm_step50000.pt", "dllm_step50000.pt")]
    gets = [path for method, path, _ in place.server.seen() if method == "GET"]
    assert len(gets) == 1 and gets[0].startswith("/storage/")  # nothing else is asked of the Hub
    model, tokenizer, info = checkpoint.load(place.runs / "published")
    tokens = torch.arange(58, 66)[None]
    assert (model(tokens) - reference(tokens)).abs().max() < 1e-5
    assert tokenizer.vocabulary == published.VOCABULARY and info["kind"] == "dllm" and info["step"] == 30
    assert sorted(path.name for path in (place.runs / "published").iterdir()) == ["config.json", "model.safetensors"]

    place.server.requests.clear()
    again = place.call("06_generate", "--hub", "--len", "20", "--seed", "1", "--prompt", "ROMEO:", "--quiet")
    assert again.failed is None and again.out.strip() in answer.out and not place.server.seen()
    longer = place.call("06_generate", "--hub", hub.ADDRESSES[0], "--len", "30", "--seed", "2", "--quiet")  # 8 a window
    assert len(longer.out) == 31  # with this seed the text does not end in a newline, which --quiet would leave out


def test_the_published_gpt(place):
    saved, reference = make_published(True)
    place.server.repos["sutharsan-311/tiny-dllm"] = {"checkpoints/gpt_step50000.pt": as_bytes(saved)}
    answer = place.call("07_train_gpt", "--write", "--hub", "--len", "30", "--seed", "1")
    assert answer.failed is None and "seed 1 · published-gpt" in answer.out
    model, _, info = checkpoint.load(place.runs / "published-gpt")
    assert (model(torch.arange(8)[None]) - reference(torch.arange(8)[None])).abs().max() < 1e-5
    assert info["kind"] == "gpt" and model.config.causal
    both = place.call("07_train_gpt", "--write", "--hub", "--run", "published-gpt")
    assert "leave one out" in both.failed
    assert "leave one out" in place.call("06_generate", "--hub", "--checkpoint", "published").failed


@pytest.mark.parametrize("fault, said", [
    (None, "no model o/none on the Hub"), ("gated", "is gated"), ("bad token", "valid token"), (403, "refuses access"),
    (404, "has no file"), (500, "answered 500"), (429, "answered 429"), ("login", "log in first"),
    ("silent", "cannot reach the Hub"), ("slow headers", "too slowly"), ("slow continue", "too slowly"),
    ("file", "no file model.safetensors|does not answer like the Hub"),
])  # fmt: skip
def test_what_the_hub_may_say_instead(place, failing, fault, said):
    repo = f"o/{str(fault).lower().replace(' ', '-')}"
    place.server.troubles[repo] = fault
    assert re.search(said, failing("fetch", repo))


@pytest.mark.parametrize("fault, said", [
    ("truncated", "truncated"), ("slow", "timed out|too slow"), ("wrong bytes", "other bytes"), ("huge", "bytes"),
    ("to a file", "not begin with http"),
])  # fmt: skip
def test_a_download_that_goes_wrong(place, failing, ours, fault, said):
    repo = f"o/{fault.replace(' ', '-')}"
    place.server.repos[repo], place.server.troubles[repo] = ours, fault
    line = failing("fetch", repo)
    assert re.search(said, line) and f"{repo}/model.safetensors" in line and "signature" not in line


@pytest.fixture
def unfetched(place, tmp_path):
    """Moves fetched models away, so that they must be fetched again."""
    for name in ("published", "published-gpt"):
        if (place.runs / name).exists():
            shutil.move(place.runs / name, tmp_path / f"away-{name}")
    yield
    for folder in tmp_path.glob("away-*"):
        shutil.move(folder, place.runs / folder.name.removeprefix("away-"))


def test_neither_address_has_the_published_model(unfetched, failing):
    line = failing("fetch", "o/gone", addresses=["o/gone", "o/gone-too"])
    assert "o/gone-too" in line and "python 05_train.py" in line
    assert "python 07_train_gpt.py" in failing("fetch", "o/gone", "gpt", addresses=["o/gone", "o/gone-too"])


def test_a_hostile_published_model(place, unfetched, failing, tmp_path):
    saved, _ = make_published()
    hostile = saved | {"step": Trap(tmp_path / "sprung")}
    place.server.repos["o/hostile"] = {"dllm_step50000.pt": as_bytes(hostile)}
    assert "none of that was executed" in failing("fetch", "o/hostile", addresses=["o/hostile"])
    assert not (tmp_path / "sprung").exists()
    place.server.repos["o/hostile"] = {"dllm_step50000.pt": b"not even a zip"}
    assert "dllm_step50000.pt is not a checkpoint" in failing("fetch", "o/hostile", addresses=["o/hostile"])


def change_config(files, change):
    """The two files with their config changed by a function."""
    config = json.loads(files["config.json"])
    change(config)
    weights = safetensors.torch.load(files["model.safetensors"])
    data = safetensors.torch.save(weights, {"config": json.dumps(config)})
    return {"model.safetensors": data, "config.json": json.dumps(config).encode()}


@pytest.mark.parametrize("change, said", [
    (lambda config: config["model"].update(seq_len=10**9), "makes no sense"),
    (lambda config: config["model"].update(n_layer=10**9), "makes no sense"),
    (lambda config: config["model"].update(n_embd=10**9), "o/stranger"),
    (lambda config: config.update(tokenizer={"kind": "../../x", "vocabulary": "ab"}), "unknown tokenizer"),
])  # fmt: skip
def test_a_strangers_config(place, failing, ours, change, said):
    place.server.repos["o/stranger"] = change_config(ours, change)
    line = failing("fetch", "o/stranger")
    assert said in line and ".hub-" not in line


def test_a_strangers_vocabulary_does_not_command_the_terminal(place, ours):
    vocabulary = "\x1b\x07\b\r\u202e\x9bab"
    place.server.repos["o/shady"] = change_config(ours, lambda c: c["tokenizer"].update(vocabulary=vocabulary))
    answer = place.call("06_generate", "--hub", "o/shady", "--seed", "1")
    assert answer.failed is None and r"\x1b" in answer.out and r"\u202e" in answer.out
    assert set(COMMANDS.findall(answer.out + answer.err)) == {"\n"}
    shutil.rmtree(place.runs / "o--shady")


def test_a_repository_of_another_kind(place, failing, ours):
    place.server.repos["o/other"] = {"pytorch_model.bin": b"x"}
    assert "o/other has no file model.safetensors" in failing("fetch", "o/other")
    place.server.repos["o/other"] = {"model.safetensors": ours["model.safetensors"]}
    assert "o/other has no file config.json" in failing("fetch", "o/other")
    place.server.repos["o/other"] = {"model.safetensors": b"garbage", "config.json": b"{}"}
    assert "o/other holds a damaged model" in failing("fetch", "o/other")


@pytest.mark.parametrize("repo", [
    "", "x", "../x", "a/../b", "o/..", "/etc/passwd", "a/b/c", "a--b/c", "o/ä", ".a/b", "o/x\n",
])  # fmt: skip
def test_an_address_that_is_none(place, failing, repo):
    place.server.requests.clear()
    assert "OWNER/NAME" in failing("fetch", repo)
    assert not place.server.seen()


def test_no_network(place, failing):
    """The real program: one line on stderr, exit code 2."""
    environment = place.environment | {"HF_ENDPOINT": "http://127.0.0.1:1"}
    answer = python("06_generate.py", "--hub", "o/offline", cwd=place.folder, **environment)
    assert answer.code == 2 and answer.out == ""
    assert re.fullmatch(r"error: cannot reach the Hub at http://127.0.0.1:1 \([^\n]*\)[^\n]*leave out --hub[^\n]*\n",
                        answer.err)  # fmt: skip


def test_a_folder_in_the_way_is_left_alone(place, failing):
    (place.runs / "o--mine").mkdir(parents=True)
    (place.runs / "o--mine" / "notes.txt").write_text("mine")
    assert "in the way" in failing("fetch", "o/mine")


def test_a_private_model_with_a_token_that_storage_never_sees(place, failing, ours):
    place.server.repos["o/private"], place.server.troubles["o/private"] = ours, "private"
    assert "set HF_TOKEN" in failing("fetch", "o/private")
    place.server.troubles["o/private"] = "private"
    place.server.requests.clear()
    answer = place.call("fetch", "o/private", environment={"HF_TOKEN": "hf_secret"})
    assert answer.failed is None
    tokens = {(path.startswith("/storage/"), token) for _, path, token in place.server.seen()}
    assert tokens == {(True, None), (False, "Bearer hf_secret")}
    shutil.rmtree(place.runs / "o--private")


def test_more_bytes_than_promised(place, tmp_path):
    place.server.stored["abc"] = b"x" * 500_000
    with pytest.raises(cli.UserError, match="larger than 1,000 bytes"):
        download.fetch(f"{place.server.url}/storage/abc", tmp_path / "x", None, limit=1000)
    assert not list(tmp_path.iterdir())


# To the Hub

INFO = {"kind": "dllm", "corpus": "abc", "source": "Your own file abc.txt.", "command": "python 05_train.py --steps 40",
        "commit": "0123456789ab", "step": 40, "best_step": 30, "tokens": 5120, "seconds": 3.2, "error": 0.0123}


@pytest.fixture
def run(place, tiny):
    """A run in the copy of the book: (its folder, its model)."""
    checkpoint.save(place.runs / "mine", tiny.model, tiny.tokenizer, INFO | {"NELBO": 1.98768}, torch.bfloat16)
    yield SimpleNamespace(folder=place.runs / "mine", model=checkpoint.load(place.runs / "mine")[0])
    shutil.rmtree(place.runs / "mine")


def test_an_exported_run_is_served_and_fetched_again(place, run):
    answer = place.call("plumbing.hub", "mine", "--export", "shared/model")
    exported = place.folder / "shared" / "model"
    assert answer.failed is None and sorted(tree(exported)) == [
        str(exported / name) for name in ("README.md", "config.json", "model.safetensors")]
    card = (exported / "README.md").read_text(encoding="utf-8")
    for fact in ("1.9877 ± 0.0123", "steps, 5,120", "of step 30", "Your own file abc.txt",
                 INFO["command"], f"{transformer.count_parameters(run.model):,} parameters", INFO["commit"], "(dLLM)",
                 "python 06_generate.py --hub OWNER/NAME", "masked-diffusion", "upper bound"):  # fmt: skip
        assert fact in card
    text = card.split("not edited:\n\n")[1]
    assert all(line.startswith("    ") for line in text.splitlines()) and "{" not in card
    assert len(text.replace("\n    ", "\n")) == 4 + 256 + 1  # the indent, the sample, the end of the file

    place.server.repos["o/again"] = {path.name: path.read_bytes() for path in exported.iterdir()}
    before = place.call("06_generate", "--checkpoint", "mine", "--seed", "3", "--len", "40", "--quiet")
    after = place.call("06_generate", "--hub", "o/again", "--seed", "3", "--len", "40", "--quiet")
    assert after.failed is None and after.out == before.out
    model = checkpoint.load(place.runs / "o--again")[0]
    tokens = torch.arange(9)[None]
    assert torch.equal(model(tokens), run.model(tokens))
    assert "exists already" in place.call("plumbing.hub", "mine", "--export", "shared/model").failed


def test_a_gpt_is_exported_as_one(place, tiny):
    config = dataclasses.replace(tiny.config, causal=True)
    info = INFO | {"kind": "gpt", "NLL": 1.5}
    checkpoint.save(place.runs / "gpt", transformer.Transformer(config), tiny.tokenizer, info)
    assert place.call("plumbing.hub", "gpt", "--export", "shared-gpt").failed is None
    card = (place.folder / "shared-gpt" / "README.md").read_text(encoding="utf-8")
    for fact in ("NLL: 1.5000 ± 0.0123 (standard error) nats per character, exact",
                 "python 07_train_gpt.py --write --hub"):
        assert fact in card
    assert "is a GPT" in place.call("06_generate", "--checkpoint", "gpt").failed


def test_a_card_invents_nothing(tiny):
    card = model_card.write("x", tiny.model, tiny.tokenizer, {}, "o/x")
    assert "NELBO" not in card and "steps" not in card and "None" not in card and "corpus: unknown" in card


def test_a_pushed_run_comes_back(place, run, failing):
    assert "no token" in failing("plumbing.hub", "mine", "--push", "o/pushed")
    reader = {"HF_TOKEN": "hf_reader"}
    assert "write access" in failing("plumbing.hub", "mine", "--push", "o/pushed", environment=reader)
    assert "o/pushed" not in place.server.repos
    for _ in range(2):  # the second is a new version
        answer = place.call("plumbing.hub", "mine", "--push", "o/pushed", environment={"HF_TOKEN": "hf_secret"})
        assert answer.failed is None and f"uploaded to {place.server.url}/o/pushed" in answer.out
    files = place.server.repos["o/pushed"]
    assert sorted(files) == ["README.md", "config.json", "model.safetensors"]
    assert "# pushed" in files["README.md"].decode() and "06_generate.py --hub o/pushed" in files["README.md"].decode()
    assert place.call("fetch", "o/pushed").failed is None
    tokens = torch.arange(9)[None]
    assert torch.equal(checkpoint.load(place.runs / "o--pushed")[0](tokens), run.model(tokens))


@pytest.mark.parametrize("arguments, said", [
    (["mine"], "--export FOLDER, --push"), (["nobody", "--export", "x"], "no model at 'nobody'"), ([], "RUN"),
    (["mine", "--push", "no-address"], "OWNER/NAME"), (["mine", "--export", "checkpoints"], "exists already"),
    (["published", "--export", "x"], "published already"),
    (["mine", "--export", "05_train.py/x"], "is not a folder"), (["mine", "--export", "05_train.py"], "exists already"),
])  # fmt: skip
def test_what_cannot_be_shared(place, run, failing, arguments, said):
    if not (place.runs / "published").exists():
        checkpoint.save(place.runs / "published", published.convert(make_published()[0], False),
                        tokenizers.CharTokenizer(published.VOCABULARY), {"source": "o/x"})  # fmt: skip
    assert said in failing("plumbing.hub", *arguments)
    assert not (place.folder / "x").exists()


def test_a_full_disk_is_an_error_like_any_other(tmp_path, tiny, monkeypatch):
    """safetensors raises an exception of its own."""

    def full(*_):
        raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(SystemExit) as end:
        cli.run(lambda: checkpoint.save(tmp_path / "m", tiny.model, tiny.tokenizer, {}))
    assert end.value.code == 2 and not list((tmp_path / "m").iterdir())


def test_huggingface_hub_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(cli.UserError, match="pip install -r requirements.txt"):
        hub.library()
