"""Fetch models from the Hugging Face Hub, upload them, and write them as ONNX files, which many programs can run.

    python -m plumbing.hub RUN --export FOLDER     copy a run to a folder that can be shared, with a page about it
    python -m plumbing.hub RUN --push OWNER/NAME   also upload this folder (with a token in HF_TOKEN)
    python -m plumbing.hub RUN --onnx FILE         write a run to an ONNX file

We do not trust what we download: its size is limited, its checksum is compared, nothing in it is executed, and every
weight must have the expected name and shape. A model appears in checkpoints/ either whole or not at all.
"""

import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from plumbing import checkpoint, cli, runtimes
from plumbing.cli import UserError, reason
from plumbing.files import RUNS, get, within

import tyro
from filelock import FileLock

# 1. From the Hub

PATIENCE = 10  # seconds in which the Hub must answer, so that nobody waits for long without a network


def library():
    """Return the package huggingface_hub, which is imported only when it is needed."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub

    return huggingface_hub


def check_address(repo):
    """Raise UserError unless `repo` has the form OWNER/NAME. It becomes a folder's name, so it must be safe."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII) or "--" in repo or ".." in repo:
        raise UserError(f"{repo!r} is not an address on the Hub: it must look like OWNER/NAME")


def fetch(repo, kind="dllm"):
    """Return the local folder of a model on the Hub. If it is in checkpoints/ already, no network is needed.

    repo: OWNER/NAME of a model that `export` wrote; "published": a model of the original tiny-dllm. kind: "dllm" or
    "gpt". Raises UserError if the model cannot be fetched or is not valid.
    """
    if repo != "published":
        check_address(repo)
    folder = RUNS / (f"published-{kind}" if repo == "published" else repo.replace("/", "--"))
    RUNS.mkdir(exist_ok=True)
    with FileLock(RUNS / ".fetching"):  # another program may want the same model
        if (folder / "model.safetensors").is_file():
            return folder
        if folder.exists():
            raise UserError(f"{folder} is in the way and holds no model: move it away")
        new = RUNS / ".fetched"
        shutil.rmtree(new, ignore_errors=True)  # a program that was killed may have left it
        try:
            if repo == "published":
                checkpoint.save(new, *import_module("plumbing.published").fetch(kind, download))
            else:
                data, _ = download(repo, "model.safetensors")
                new.mkdir()
                (new / "model.safetensors").write_bytes(data)
            checkpoint.save(new, *checkpoint.load(new))  # keep what has been checked, and nothing else
            new.rename(folder)
        except UserError as error:
            raise UserError(str(error).replace(str(new), repo)) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)
    print(f"fetched {repo}; from now on it is in {folder}", file=sys.stderr)
    return folder


def download(repo, file, limit=1 << 30):
    """Return the bytes of a large file of the model `repo`, and the commit that it is from.

    limit: the largest number of bytes. The Hub tells us the checksum of each large file. The file itself is on another
    host, which must not see the token.
    """
    hub = library()
    name = f"{file} of {repo}"
    try:
        found = within(PATIENCE, hub.get_hf_file_metadata, hub.hf_hub_url(repo, file))
    except hub.errors.GatedRepoError:
        raise UserError(f"{repo} is gated: accept its terms on the Hub, then set HF_TOKEN to your token") from None
    except hub.errors.RepositoryNotFoundError:
        raise UserError(f"no model {repo} on the Hub (or set HF_TOKEN to a token that may read it)") from None
    except hub.errors.EntryNotFoundError:
        raise UserError(f"{repo} has no file {file}") from None
    except (hub.errors.HTTPError, OSError, ValueError) as error:
        raise UserError(f"cannot fetch {name} from {hub.constants.ENDPOINT} ({reason(error)}): "
                        "try again later, or use a local model") from None
    if not (found.commit_hash and found.etag):
        raise UserError(f"{hub.constants.ENDPOINT} does not answer like the Hub: does this network want you to log in?")
    if (found.size or 0) > limit:
        raise UserError(f"{name} has {found.size:,} bytes, but the limit is {limit:,}")
    try:
        data = get(found.location, limit, seconds=600)
    except UserError as error:  # don't quote the address: it is long, and signed for this download
        raise UserError(str(error).replace(found.location, name)) from None
    if hashlib.sha256(data).hexdigest() != found.etag:
        raise UserError(f"{name} has other bytes than the Hub says: try again later")
    return data, found.commit_hash


# 2. To the Hub, and to other programs

CARD = """---
pipeline_tag: text-generation
---

# {name}

This model, {noun}, was trained with tiny-dllm, a book in code on language models small enough for a laptop. Its files
hold only numbers and text, so loading them executes no code. In a copy of tiny-dllm, this command writes with it:

    python {command} --hub {repo}

What is known about it, from its config.json:

    {facts}
"""


def export(run, folder, repo):
    """Write the model in the folder `run`, and a page about it, to the new folder `folder`. repo: its address."""
    model, tokenizer, info = checkpoint.load(run, kinds=("dllm", "tamil", "gpt"))  # kinds of chapters 06 and 07
    kind = info.get("kind", "dllm")
    noun = checkpoint.KINDS[kind].noun
    command = checkpoint.KINDS["gpt" if kind == "gpt" else "dllm"].user
    facts = json.dumps(info, indent=2, ensure_ascii=False).replace("\n", "\n    ")
    card = CARD.format(name=repo.split("/")[-1], noun=noun, command=command, repo=repo, facts=facts)
    folder.mkdir(parents=True)
    checkpoint.save(folder, model, tokenizer, info)
    (folder / "README.md").write_text(card, encoding="utf-8")


def push(folder, repo):
    """Upload a folder written by `export` to the Hub, as the public model `repo`. Returns its address."""
    hub = library()
    try:
        url = hub.HfApi().create_repo(repo, exist_ok=True)
        hub.HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="A model trained with tiny-dllm")
        return url
    except (hub.errors.HTTPError, OSError, ValueError) as error:
        raise UserError(f"cannot upload to {repo} ({reason(error)}): set HF_TOKEN to a token that may") from None


def export_onnx(run, path):
    """Write the model in the folder `run` to an ONNX file; runtimes.export describes its inputs and its output.

    The metadata entry `tiny_dllm` holds config.json, which includes the vocabulary.
    """
    model, _, _ = checkpoint.load(run)
    runtimes.export(model, path, {"tiny_dllm": json.dumps(checkpoint.read_config(run), ensure_ascii=False)})


@dataclass(frozen=True)
class Command:
    """Which run to share, and where."""

    run: tyro.conf.Positional[str] = ""  # name or folder of the run
    export: Path | None = None  # write the model and a page about it to this new folder
    push: str = ""  # OWNER/NAME: upload the model to the Hugging Face Hub under this name
    onnx: Path | None = None  # write the model to this file, whose name ends in .onnx


def main(argv=None):
    command = cli.parse(Command, argv)
    if not command.run or not (command.export or command.push or command.onnx):
        raise UserError("name a run and a target: --export FOLDER, --push OWNER/NAME or --onnx FILE")
    if command.export and os.path.lexists(command.export):
        raise UserError(f"{command.export} exists already: name a new folder")
    if command.onnx and (command.onnx.suffix != ".onnx" or command.onnx.is_dir()):
        raise UserError(f"the path {str(command.onnx)!r} must end in .onnx")
    if command.push:
        check_address(command.push)
        if not library().get_token():
            raise UserError("no token for the Hub: create one that may write in your account, and set HF_TOKEN to it")
    run = checkpoint.find(command.run, "dllm")
    if command.onnx:
        export_onnx(run, command.onnx)
        print(f"wrote {command.onnx}: the model, with its vocabulary in the metadata")
    if command.export:
        export(run, command.export, command.push or f"OWNER/{command.export.name}")
        print(f"wrote {command.export}: model.safetensors, config.json and README.md")
    if command.push:
        with tempfile.TemporaryDirectory() as scratch:
            export(run, Path(scratch) / "model", command.push)
            print(f"uploaded to {push(Path(scratch) / 'model', command.push)}")


if __name__ == "__main__":
    cli.run(main)
