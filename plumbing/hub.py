"""Download models from the Hugging Face Hub, upload models, and write models to ONNX files.

    python -m plumbing.hub RUN --export FOLDER     copy a model and a page about it to a folder, ready to be shared
    python -m plumbing.hub RUN --push OWNER/NAME   upload a model and a page about it (HF_TOKEN must hold your token)
    python -m plumbing.hub RUN --onnx FILE         write a model to an ONNX file, which many programs can run

We don't trust downloaded files: their size is limited, their checksum must be the one that the Hub names, and no code
in them is executed. Every weight must have the expected name and shape. An incomplete or wrong download leaves nothing
in checkpoints/.
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

PATIENCE = 10  # seconds that we wait for an answer from the Hub


def library():
    """Return the package huggingface_hub, which is imported only when it is needed."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import huggingface_hub

    return huggingface_hub


def check_address(repo):
    """Raise UserError if `repo` is not of the form OWNER/NAME, or is unsafe as part of a path."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII) or "--" in repo or ".." in repo:
        raise UserError(f"{repo!r} is not an address on the Hub: it must look like OWNER/NAME")


def fetch(repo, kind="dllm"):
    """Return the local folder of a model from the Hub. The model is downloaded only if it is not in checkpoints/ yet.

    `repo` is the OWNER/NAME of a model that `export` wrote. If `repo` is "published", the function fetches a model
    of the original tiny-dllm, and `kind` says which one: "dllm" or "gpt". Raises UserError if the download fails or the
    model is not valid.
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
        shutil.rmtree(new, ignore_errors=True)  # a program that was killed may have left this folder
        try:
            if repo == "published":
                checkpoint.save(new, *import_module("plumbing.published").fetch(kind, download))
            else:
                data, _ = download(repo, "model.safetensors")
                new.mkdir()
                (new / "model.safetensors").write_bytes(data)
            checkpoint.save(new, *checkpoint.load(new))  # keep only what has been checked
            new.rename(folder)
        except UserError as error:
            raise UserError(str(error).replace(str(new), repo)) from None
        finally:
            shutil.rmtree(new, ignore_errors=True)
    print(f"fetched {repo}; from now on it is in {folder}", file=sys.stderr)
    return folder


def download(repo, file, limit=1 << 30):
    """Return (bytes, commit) of a large file of the model `repo`. `limit` is the largest allowed number of bytes.

    The checksum comes from the Hub. The bytes come from another host, which must not see the user's token.
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
    """Copy the model in `run` to the new folder `folder`, with a page about the model. `repo` is OWNER/NAME."""
    model, tokenizer, info = checkpoint.load(run, kinds=("dllm", "tamil", "gpt"))  # for chapters 06 and 07
    kind = info.get("kind", "dllm")
    noun = checkpoint.KINDS[kind].noun
    command = checkpoint.KINDS["gpt" if kind == "gpt" else "dllm"].user
    facts = json.dumps(info, indent=2, ensure_ascii=False).replace("\n", "\n    ")
    card = CARD.format(name=repo.split("/")[-1], noun=noun, command=command, repo=repo, facts=facts)
    folder.mkdir(parents=True)
    checkpoint.save(folder, model, tokenizer, info)
    (folder / "README.md").write_text(card, encoding="utf-8")


def push(folder, repo):
    """Upload `folder`, which `export` wrote, to the Hub as the public model `repo`. Return the model's URL."""
    hub = library()
    try:
        url = hub.HfApi().create_repo(repo, exist_ok=True)
        hub.HfApi().upload_folder(repo_id=repo, folder_path=folder, commit_message="A model trained with tiny-dllm")
        return url
    except (hub.errors.HTTPError, OSError, ValueError) as error:
        raise UserError(f"cannot upload to {repo} ({reason(error)}): set HF_TOKEN to a token that may") from None


def export_onnx(run, path):
    """Write the model in the folder `run` to the ONNX file `path`. See `runtimes.export` for its inputs and outputs.

    The metadata entry `tiny_dllm` holds the model's config, including the vocabulary.
    """
    model, _, _ = checkpoint.load(run)
    runtimes.export(model, path, {"tiny_dllm": json.dumps(checkpoint.read_config(run), ensure_ascii=False)})


@dataclass(frozen=True)
class Command:
    """Which run to share, and where to write or upload its model."""

    run: tyro.conf.Positional[str] = ""  # name or folder of the run
    export: Path | None = None  # write the model and a page about it to this new folder
    push: str = ""  # OWNER/NAME: upload the model to the Hugging Face Hub under this name
    onnx: Path | None = None  # write the model to this file; its name must end in .onnx


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
