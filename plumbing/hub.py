"""Plumbing: models from the Hugging Face Hub, and back. A reader may skip this file.

    fetch()                                        the published dLLM; its GPT with kind="gpt"
    fetch("OWNER/NAME")                            a model that this repository saved
    python -m plumbing.hub RUN --export FOLDER       a run as a folder that can be shared, with a model card
    python -m plumbing.hub RUN --push OWNER/NAME     the same, uploaded

Whatever comes from there is a stranger's file: its size is limited, its checksum compared, nothing in it is
executed, and every weight must be one that we expect. It appears under checkpoints/ whole or not at all.
"""

import dataclasses
import os
import re
import shutil
import string
import sys
import tempfile
import zipfile
from importlib import import_module
from pathlib import Path

import torch
import torch.nn as nn

from plumbing import checkpoint, cli, corpora, download, tokenizers

transformer = import_module("03_transformer")

ADDRESSES = "sutharsan-311/tiny-dllm", "sutharsan311/tiny-dllm"  # of the published models; they moved once
FILES = {"dllm": "dllm_step50000.pt", "gpt": "gpt_step50000.pt"}
VOCABULARY = "\n !$&',-.3:;?" + string.ascii_uppercase + string.ascii_lowercase  # of TinyShakespeare

LARGEST = 1 << 30  # bytes of a file that we accept,
LARGEST_CONFIG = 1 << 24  # and of a config.json
ANSWER = 5  # seconds that the Hub has to say what a file is; offline, nobody wants to wait longer
TRANSFER = 1800  # seconds for a whole file


# ---- The published architecture ----


class PublishedBlock(transformer.Block):
    """x + mlp(norm2(x + attn(norm1(x)))): what attention finds reaches the output through the MLP alone."""

    def forward(self, x, positions, table, buffer=None):
        """x: (B, T, C) → (B, T, C)."""
        mixed = x + self.drop(self.attn(self.norm1(x), positions, table, buffer))
        return x + self.drop(self.mlp(self.norm2(mixed)))


class PublishedTransformer(transformer.Transformer):
    """Chapter 03's model with the blocks above; config.json says "wiring": "published"."""

    wiring = "published"

    def __init__(self, config):
        super().__init__(config)
        self.blocks = nn.ModuleList(PublishedBlock(config) for _ in range(config.n_layer))


def architecture(wiring):
    """The class of a model whose config.json has that wiring."""
    if wiring != PublishedTransformer.wiring:
        raise ValueError(f"unknown wiring {wiring!r}")
    return PublishedTransformer


# ---- A stranger's .pt ----


def check_size(name, size, limit=LARGEST):
    if size > limit:
        raise cli.UserError(f"{name} has {size:,} bytes: in this book there is none of more than {limit:,}")


def read_pt(path):
    """The dict in the .pt file at `path`. Nothing in it is executed; UserError if it is anything but a plain one."""
    if torch.__version__ < (2, 10):
        raise cli.UserError("PyTorch before 2.10 does not read a stranger's file safely: install a newer one")
    size = path.stat().st_size
    check_size(path.name, size)
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
        # torch.save compresses nothing. Who does may hide terabytes in a megabyte.
        if any(r.compress_type != zipfile.ZIP_STORED for r in records) or sum(r.file_size for r in records) > size:
            raise ValueError("it is compressed")
        with torch.sparse.check_sparse_tensor_invariants():
            saved = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(saved, dict) or not isinstance(saved.get("model"), dict):
            raise ValueError("no dictionary with a model in it")
    except Exception as error:  # whatever a parser meets in hostile bytes
        reason = (str(error) or type(error).__name__).splitlines()[0]
        if "weights only" in reason.lower():  # PyTorch's own advice goes on with how to execute it
            reason = "it holds more than tensors and plain values, and none of that was executed"
        raise cli.UserError(f"{path.name} is not a checkpoint that we can read: {reason}") from None
    for name, tensor in saved["model"].items():
        dense = type(tensor) is torch.Tensor and tensor.layout == torch.strided and tensor.device.type == "cpu"
        if not (isinstance(name, str) and dense and (tensor.is_floating_point() or tensor.dtype == torch.bool)):
            raise cli.UserError(f"{path.name}: {str(name)[:80]!r} is not a dense tensor of floating-point numbers")
    # Strides of zero make a huge tensor of one number. Twice: tied weights are stored once.
    if sum(tensor.nbytes for tensor in saved["model"].values()) > 2 * size:
        raise cli.UserError(f"{path.name} claims more numbers than it holds")
    return saved


def convert(saved, causal, file="the file"):
    """The published model in `saved`, from `read_pt`, as one of ours. UserError unless it is exactly that."""
    theirs = dict(saved["model"])
    sizes = [saved.get(name) for name in ("vocab_size", "seq_len", "n_layers", "n_heads", "hidden")]
    if any(type(size) is not int for size in sizes) or sizes[0] != len(VOCABULARY) or sizes[2] > len(theirs):
        raise cli.UserError(f"{file}: its sizes are not those of a model of TinyShakespeare")
    try:
        config = transformer.TransformerConfig(
            *sizes, causal=causal, positions="learned", norm="layer", activation="gelu")
        with torch.device("meta"):
            model = PublishedTransformer(config)
    except Exception as error:  # sizes that cannot be, in more ways than one
        raise cli.UserError(f"{file}: {str(error).splitlines()[0]}") from None
    if causal:
        for i in range(config.n_layer):  # which positions a query may see: ours needs no table for that
            mask = theirs.pop(f"blocks.{i}.attn.mask", None)
            fits = mask is None or mask.shape == (config.seq_len, config.seq_len)
            if not fits or mask is not None and not torch.equal(mask, torch.ones_like(mask).tril()):
                raise cli.UserError(f"{file}: blocks.{i}.attn.mask is not causal")
        embedding = theirs.get("token_emb.weight")
        if embedding is not None and embedding.shape == (config.vocab_size, config.n_embd):  # a GPT has no mask token
            theirs["token_emb.weight"] = torch.cat((embedding, embedding.new_zeros(1, config.n_embd)))
    expected, weights = model.state_dict(), {}
    renamed = {name: name.replace("mlp.up", "ff.net.0").replace("mlp.down", "ff.net.2") for name in expected}
    if unknown := sorted(theirs.keys() - renamed.values()):
        raise cli.UserError(f"{file} does not have the published architecture: weight {unknown[0][:80]!r}")
    for ours, name in renamed.items():
        tensor = theirs.get(name)
        if tensor is None or tensor.shape != expected[ours].shape or not tensor.is_floating_point():
            raise cli.UserError(f"{file} does not have the published architecture: weight {name!r}")
        weights[ours] = tensor.float().clone()  # their head may lie in the embedding's memory
        if not weights[ours].isfinite().all():
            raise cli.UserError(f"{file}: weight {name!r} is not finite")
    model.load_state_dict(weights, strict=True, assign=True)
    return model.eval().requires_grad_(False)


# ---- From the Hub ----


class NotThere(cli.UserError):
    """The Hub has no such model or file; another address may."""


def library():
    """The package huggingface_hub, imported only when it is needed, and quiet: our line is the one to read."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # ask for the file, and say nothing else
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils

        huggingface_hub.utils.logging.set_verbosity_error()
    except ImportError:
        raise cli.UserError("this needs huggingface_hub: pip install -r requirements.txt") from None
    except ValueError as error:
        raise cli.UserError(f"the environment variable HF_ENDPOINT is no address: {error}") from None
    return huggingface_hub


def explain(error, repo, file, writing=False):
    """The UserError for what huggingface_hub raised about `file` of `repo`."""
    errors, place = library().errors, library().constants.ENDPOINT
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    # To somebody without a token the Hub says 401 of what does not exist, too.
    unknown = status == 401 and "Invalid credentials" not in response.headers.get("X-Error-Message", "")
    if isinstance(error, errors.GatedRepoError):
        return cli.UserError(f"{repo} is gated: accept its terms at {place}/{repo}, then set HF_TOKEN to a token "
                                "of yours")  # fmt: skip
    if not writing and (unknown or isinstance(error, errors.RepositoryNotFoundError)):
        return NotThere(f"no model {repo} on the Hub; if it is private, set HF_TOKEN to a token that may read it")
    if status in (401, 403):
        need = "a token with write access to it" if writing else "a valid token, or none"
        return cli.UserError(f"the Hub refuses access to {repo} ({status}): set HF_TOKEN to {need}")
    if status == 404 and not writing:
        return NotThere(f"{repo} has no file {file}")
    if status:
        return cli.UserError(f"the Hub answered {status} for {repo}: try again later")
    reason = (str(error) or type(error).__name__).strip().splitlines()[0]
    advice = "try again later" if writing else "go online, or leave out --hub to use a model that is here"
    verb = "understand" if isinstance(error, ValueError) else "reach"
    return cli.UserError(f"cannot {verb} the Hub at {place} ({reason}): {advice}")


def check_address(repo):
    """UserError unless `repo` looks like OWNER/NAME, by the Hub's rules. It becomes the name of a folder."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII) or "--" in repo or ".." in repo:
        raise cli.UserError(f"{repo!r} is no address on the Hub: it must look like OWNER/NAME")


def download_file(repo, file, path, revision="main", limit=LARGEST):
    """A file of `repo` on the Hub, whole, to `path`, and its commit. UserError, NotThere if there is none.

    One question what the file is, without retries, then its bytes: of large files the Hub keeps the sha256.
    """
    hub = library()
    home = hub.constants.ENDPOINT
    try:
        found = hub.get_hf_file_metadata(hub.hf_hub_url(repo, file, revision=revision), timeout=ANSWER)
    except (hub.errors.HTTPError, OSError, ValueError) as error:
        raise explain(error, repo, file) from None
    if found.commit_hash is None or found.etag is None:
        raise cli.UserError(f"{home} does not answer like the Hub: does this network ask you to log in first?")
    check_size(f"{repo}/{file}", found.size or 0, limit)
    # Large files are on another host, at a signed address that needs no token and must not get one.
    headers = hub.utils.build_hf_headers() if found.location.startswith(home + "/") else {}
    sha256 = found.etag if re.fullmatch("[0-9a-f]{64}", found.etag) else None
    try:
        download.fetch(found.location, path, sha256, timeout=TRANSFER, headers=headers, limit=limit)
    except cli.UserError as error:
        raise cli.UserError(str(error).replace(found.location, f"{repo}/{file}")) from None
    return found.commit_hash


def fetch(repo=ADDRESSES[0], kind="dllm"):
    """The folder of a model on the Hub: from checkpoints/, without any network, if it has been fetched before.

    repo: "OWNER/NAME" of a model that `save_for_hub` made, or the published one's. kind: "dllm" or "gpt", which
    of the published two. UserError if it cannot be had or is not what it should be.
    """
    check_address(repo)
    published = repo in ADDRESSES
    name = {"dllm": "published", "gpt": "published-gpt"}[kind] if published else repo.replace("/", "--")
    folder = checkpoint.RUNS / name
    if (folder / "model.safetensors").is_file():
        return folder
    if folder.exists():
        raise cli.UserError(f"{folder} is in the way, and holds no model: move it away")
    checkpoint.RUNS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".hub-", dir=checkpoint.RUNS) as scratch:
        new = Path(scratch) / name
        if published:
            source = fetch_published(kind, new)
        else:
            commit = download_file(repo, "model.safetensors", new / "model.safetensors")
            download_file(repo, "config.json", new / "config.json", commit, limit=LARGEST_CONFIG)
            source = f"{repo} at commit {commit[:12]}"
        try:
            _, tokenizer, _ = checkpoint.load(new)
        except cli.UserError as error:
            raise cli.UserError(str(error).replace(str(new), repo)) from None
        if re.search("[\x1b\x80-\x9f]", "".join(tokenizer.vocabulary)):
            raise cli.UserError(f"{repo}: its vocabulary could command a terminal")
        new.rename(folder)
    print(f"fetched {source}; from now on it is in {folder}", file=sys.stderr)
    return folder


def fetch_published(kind, folder):
    """Download the published model of `kind`, beside `folder`, and write it there as ours. Returns where it was."""
    path = folder.with_name(FILES[kind])
    for repo, file in [(repo, prefix + path.name) for repo in ADDRESSES for prefix in ("checkpoints/", "")]:
        try:
            commit = download_file(repo, file, path)
            break
        except NotThere:
            continue
    else:
        command = {"dllm": "05_train.py", "gpt": "07_train_gpt.py"}[kind]
        raise cli.UserError(f"{path.name} is neither at {ADDRESSES[0]} nor at {ADDRESSES[1]} on the Hub any more: "
                               f"train a model of your own with python {command}")  # fmt: skip
    saved = read_pt(path)
    model = convert(saved, kind == "gpt", path.name)
    source = f"{repo}/{file} at commit {commit[:12]}"
    info = {"kind": kind, "corpus": "shakespeare", "corpus_sha256": corpora.SHAKESPEARE_SHA256, "source": source}
    if type(saved.get("step")) is int:
        info["step"] = saved["step"]
    checkpoint.save(folder, model, tokenizers.CharTokenizer(VOCABULARY), info)
    return source


# ---- To the Hub ----

CARD = """\
---
pipeline_tag: text-generation
tags: [tiny-dllm, {tag}]
---

# {name}

{what} It has {parameters:,} parameters and was trained with tiny-dllm, a book in code on language models small
enough for a laptop.

{facts}

## Write with it

In a copy of tiny-dllm:

    python {program} --hub {repo}

The model is `model.safetensors` and `config.json`: numbers and plain text, nothing that is executed.

## A sample

The first one with seed 1, not chosen and not edited:

{sample}
"""
WHAT = {
    False: "A masked diffusion language model (dLLM): it writes by filling in masks, in any order.",
    True: "An autoregressive language model (GPT): it writes from left to right.",
}


def sample(model, tokenizer, length=256):
    """A text of the model: `length` tokens, as its chapter writes them by default with seed 1."""
    generator = torch.Generator().manual_seed(1)
    if model.config.causal:
        chapter = import_module("07_train_gpt")
        start = torch.tensor([[chapter.opening(tokenizer)]])
        return tokenizer.decode(chapter.generate(model, start, length, generator=generator)[0, 1:])
    chapter = import_module("06_generate")
    canvas = torch.full((1, length), model.config.mask_id)
    *_, last = chapter.generate(model, canvas, generator=generator)
    return tokenizer.decode(last.canvas[0])


def model_card(name, model, tokenizer, info, repo):
    """README.md for a model: only what its own config.json says, and a sample of its own."""
    c, facts, unit = model.config, [], tokenizer.unit
    measure = "NLL" if c.causal else "NELBO"
    if measure in info and "error" in info:
        meaning = "exact" if c.causal else "an upper bound of the NLL"
        loss = f"{info[measure]:.4f} ± {info['error']:.4f} (standard error)"
        facts.append(f"validation {measure}: {loss} nats per {unit}, {meaning}")
    if {"step", "tokens", "seconds"} <= info.keys():
        facts.append(f"training: {info['step']:,} steps, {info['tokens']:,} {unit}s, {info['seconds']:,.0f} s; the "
                     f"weights are of step {info.get('best_step', info['step']):,}")  # fmt: skip
    facts.append(f"corpus: {info.get('corpus', 'unknown')}. {info.get('source', '')}".strip())
    keys = "corpus_sha256", "command", "commit", "machine", "torch"
    facts += [f"{key}: `{info[key]}`" for key in keys if info.get(key)]
    facts.append("architecture: " + ", ".join(f"{key} {value}" for key, value in dataclasses.asdict(c).items()))
    return CARD.format(
        name=name, tag="gpt" if c.causal else "masked-diffusion", what=WHAT[c.causal], repo=repo,
        parameters=transformer.count_parameters(model), facts="\n".join(f"- {fact}" for fact in facts),
        program="07_train_gpt.py" if c.causal else "06_generate.py",
        sample="\n".join("    " + line for line in sample(model, tokenizer).split("\n")),
    )  # fmt: skip


def save_for_hub(run, folder, repo="OWNER/NAME"):
    """The run in the folder `run` as model.safetensors, config.json and README.md in the new folder `folder`."""
    if folder.exists():
        raise cli.UserError(f"{folder} exists already: name a new folder")
    model, tokenizer, info = checkpoint.load(run)
    if isinstance(model, PublishedTransformer):
        raise cli.UserError(f"{run.name} is published already: share its address, {info.get('source')}")
    name = repo.split("/")[1] if repo != "OWNER/NAME" else folder.name
    card = model_card(name, model, tokenizer, info, repo)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".hub-", dir=folder.parent) as scratch:
        new = Path(scratch) / "model"
        new.mkdir()
        for file in ("model.safetensors", "config.json"):
            shutil.copy(run / file, new)
        (new / "README.md").write_text(card, encoding="utf-8")
        new.rename(folder)


def push(folder, repo):
    """Upload `folder`, from `save_for_hub`, to the Hub as the public model `repo`, and return its address."""
    hub = library()
    try:
        api = hub.HfApi()
        url = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="A model trained with tiny-dllm")
    except (hub.errors.HTTPError, OSError, ValueError) as error:
        raise explain(error, repo, "", writing=True) from None
    return url


def main(argv=None):
    parser = cli.Parser(prog="python -m plumbing.hub", description="Share a run.", allow_abbrev=False)
    parser.add_argument("run", metavar="RUN", help="the run's name or folder")
    parser.add_argument("--export", metavar="FOLDER", help="save it there as the Hub wants it, with a model card")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it to the Hugging Face Hub under this name")
    args = parser.parse_args(argv)
    if args.export is None and args.push is None:
        parser.error("say where to: --export FOLDER, --push OWNER/NAME, or both")
    run = checkpoint.find(args.run)
    if args.push is not None:
        check_address(args.push)
        if not library().get_token():
            raise cli.UserError("no token for the Hub: make one with write access in your account's settings, and "
                                   "set HF_TOKEN to it")  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(args.export or Path(scratch) / run.name)
        save_for_hub(run, folder, args.push or "OWNER/NAME")
        if args.export is not None:
            print(f"wrote {folder}: model.safetensors, config.json and README.md, its model card")
        if args.push is not None:
            print(f"uploaded to {push(folder, args.push)}")


if __name__ == "__main__":
    cli.run(main)
