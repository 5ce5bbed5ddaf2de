"""Download models from the Hugging Face Hub, and upload them to it.

    hub.fetch()                                    the published dLLM; kind="gpt" for the published GPT
    hub.fetch("OWNER/NAME")                        a model that was uploaded by this program
    python -m plumbing.hub RUN --export FOLDER     copy a run to a folder that can be shared, with a model card
    python -m plumbing.hub RUN --push OWNER/NAME   do the same and upload the folder
    python -m plumbing.hub RUN --onnx FILE         write a run to an ONNX file, which many other programs can run

We do not trust what we download. The size is limited, the checksum is compared, nothing in the files is executed, and
every weight must have the expected name and shape. A model appears in checkpoints/ whole or not at all.
"""

import os
import re
import shutil
import sys
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path

import tyro

from plumbing import checkpoint, cli, corpora, download, files, foreign, onnx_export, published, settings, tokenizers
from plumbing.settings import OptionalPath, OptionalText

ADDRESSES = "sutharsan-311/tiny-dllm", "sutharsan311/tiny-dllm"  # new and old address of the published models
FILES = {"dllm": "dllm_step50000.pt", "gpt": "gpt_step50000.pt"}

LARGEST_CONFIG = 1 << 24  # the largest config.json that we accept, in bytes
ANSWER = 5  # seconds in which the Hub must describe a file, so that nobody waits for long without a network
TRANSFER = 1800  # seconds in which a whole file must arrive


# 1. The library and its errors


class NotThere(cli.UserError):
    """The Hub has no such model or no such file. Another address may have it."""


def library():
    """Return the package huggingface_hub. It is imported only when it is needed, and prints nothing of its own."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # send nothing but the request for the file
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils

        huggingface_hub.utils.logging.set_verbosity_error()
    except ImportError:
        raise cli.UserError("this needs huggingface_hub: pip install -r requirements.txt") from None
    except ValueError as error:
        raise cli.UserError(f"the environment variable HF_ENDPOINT is not a valid address: {error}") from None
    return huggingface_hub


def explain(error, repo, file, writing=False):
    """Return a UserError that explains an error of huggingface_hub about the file `file` of the model `repo`."""
    errors, place = library().errors, library().constants.ENDPOINT
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    # Without a token, the Hub also answers 401 for a model that does not exist.
    unknown = status == 401 and "Invalid credentials" not in response.headers.get("X-Error-Message", "")
    if isinstance(error, errors.GatedRepoError):
        return cli.UserError(f"{repo} is gated: accept its terms at {place}/{repo}, then set HF_TOKEN to your token")
    if not writing and (unknown or isinstance(error, errors.RepositoryNotFoundError)):
        return NotThere(f"no model {repo} on the Hub; if it is private, set HF_TOKEN to a token that may read it")
    if status in (401, 403):
        need = "a token with write access to it" if writing else "a valid token, or unset it"
        return cli.UserError(f"the Hub refuses access to {repo} ({status}): set HF_TOKEN to {need}")
    if status == 404 and not writing:
        return NotThere(f"{repo} has no file {file}")
    if status:
        return cli.UserError(f"the Hub answered {status} for {repo}: try again later")
    reason = foreign.reason(error)
    advice = "try again later" if writing else "connect to the network, or leave out --hub to use a local model"
    verb = "understand" if isinstance(error, ValueError) else "reach"
    return cli.UserError(f"cannot {verb} the Hub at {place} ({reason}): {advice}")


def check_address(repo):
    """Raise UserError unless `repo` has the form OWNER/NAME. It becomes the name of a folder, so it must be safe."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", repo, re.ASCII) or "--" in repo or ".." in repo:
        raise cli.UserError(f"{repo!r} is not an address on the Hub: it must look like OWNER/NAME")


# 2. From the Hub


def describe(repo, file, revision):
    """Ask the Hub about a file. Returns huggingface_hub's description: commit, checksum, size and address.

    The question is asked in a thread of its own, because a server that sends a byte now and then is never silent, and
    the library's time limit would not end. UserError if there is no answer in time; NotThere if there is no such file.
    """
    hub, found = library(), []

    def ask():
        try:
            found.append(hub.get_hf_file_metadata(hub.hf_hub_url(repo, file, revision=revision), timeout=ANSWER))
        except Exception as error:  # it is handled below, in the thread of the program
            found.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(4 * ANSWER)  # it may follow a redirect, and connect to more than one address of the Hub
    answer = found[0] if found else TimeoutError("timed out: it answers too slowly")
    if isinstance(answer, (hub.errors.HTTPError, OSError, ValueError)):
        raise explain(answer, repo, file)
    if isinstance(answer, Exception):
        raise answer
    return answer


def download_file(repo, file, path, revision="main", limit=published.LARGEST):
    """Download a file of the model `repo` to `path`, and return the id of its commit.

    It first asks the Hub once, without retries, about the file. For a large file the Hub also sends its sha256.
    UserError if the download fails; NotThere if the file does not exist.
    """
    home = library().constants.ENDPOINT
    found = describe(repo, file, revision)
    if found.commit_hash is None or found.etag is None or not re.match("https?://", found.location):
        raise cli.UserError(f"{home} does not answer like the Hub: does this network ask you to log in first?")
    published.check_size(f"{repo}/{file}", found.size or 0, limit)
    # Large files lie on another host, at a signed address. That host needs no token and must not receive one.
    headers = library().utils.build_hf_headers() if found.location.startswith(home + "/") else {}
    sha256 = found.etag if re.fullmatch("[0-9a-f]{64}", found.etag) else None
    try:
        download.fetch(found.location, path, sha256, timeout=TRANSFER, headers=headers, limit=limit)
    except cli.UserError as error:
        raise cli.UserError(str(error).replace(found.location, f"{repo}/{file}")) from None
    return found.commit_hash


def fetch(repo=ADDRESSES[0], kind="dllm"):
    """Return the local folder of a model on the Hub. If it is in checkpoints/ already, no network is needed.

    repo: OWNER/NAME of a model that `save_for_hub` wrote, or of the published models. kind: which of the two
    published models, "dllm" or "gpt". UserError if the model cannot be fetched or is not valid.
    """
    check_address(repo)
    is_published = repo in ADDRESSES
    name = {"dllm": "published", "gpt": "published-gpt"}[kind] if is_published else repo.replace("/", "--")
    folder = checkpoint.RUNS / name
    if (folder / "model.safetensors").is_file():
        return folder
    if folder.exists():
        raise cli.UserError(f"{folder} is in the way and holds no model: move it away")
    try:
        with files.whole_folder(folder) as new:
            source = fetch_published(kind, new) if is_published else fetch_ours(repo, new)
            check_model(new, repo)
    except OSError:
        if (folder / "model.safetensors").is_file():  # another program has fetched it in the meantime
            return folder
        raise
    print(f"fetched {source}; from now on it is in {folder}", file=sys.stderr)
    return folder


def fetch_ours(repo, folder):
    """Download a model that `save_for_hub` wrote to `folder`. Returns a description of its source."""
    commit = download_file(repo, "model.safetensors", folder / "model.safetensors")
    download_file(repo, "config.json", folder / "config.json", commit, limit=LARGEST_CONFIG)
    return f"{repo} at commit {commit[:12]}"


def fetch_published(kind, folder):
    """Download the published model of this kind and write it to `folder` as a model of this book.

    Returns a description of its source.
    """
    path = folder / FILES[kind]
    for repo, file in [(repo, prefix + path.name) for repo in ADDRESSES for prefix in ("checkpoints/", "")]:
        try:
            commit = download_file(repo, file, path)
            break
        except NotThere:
            continue
    else:
        command = {"dllm": "05_train.py", "gpt": "07_train_gpt.py"}[kind]
        raise cli.UserError(f"{path.name} is no longer on the Hub, neither at {ADDRESSES[0]} nor at {ADDRESSES[1]}: "
                            f"train your own model with python {command}")
    saved = published.read_pt(path)
    path.unlink()
    model = published.convert(saved, kind == "gpt", path.name)
    source = f"{repo}/{file} at commit {commit[:12]}"
    info = {"kind": kind, "corpus": "shakespeare", "corpus_sha256": corpora.SHAKESPEARE_SHA256, "source": source}
    if type(saved.get("step")) is int:
        info["step"] = saved["step"]
    checkpoint.save(folder, model, tokenizers.CharTokenizer(published.VOCABULARY), info)
    return source


def check_model(folder, repo):
    """Raise UserError unless `folder` holds a valid model."""
    try:
        checkpoint.load(folder)
    except cli.UserError as error:
        raise cli.UserError(str(error).replace(str(folder), repo)) from None


# 3. To the Hub


def check_new_folder(folder):
    """Raise UserError unless the folder can be made: nothing has its name, and it lies below a folder."""
    above = next(path for path in folder.absolute().parents if os.path.lexists(path))
    if os.path.lexists(folder):
        raise cli.UserError(f"{folder} exists already: name a new folder")
    if not above.is_dir():
        raise cli.UserError(f"{folder} cannot be made, because {above} is not a folder")


def save_for_hub(run, folder, write_card, repo="OWNER/NAME"):
    """Copy the model in the folder `run` to the new folder `folder`, and write its README.md.

    write_card: function of (name, model, tokenizer, info, repo) that returns the text of README.md.
    """
    model, tokenizer, info = checkpoint.load(run)
    if isinstance(model, published.PublishedTransformer):
        raise cli.UserError(f"{run.name} is published already: share its address, {info.get('source')}")
    name = repo.split("/")[1] if repo != "OWNER/NAME" else folder.name
    card = write_card(name, model, tokenizer, info, repo)
    with files.whole_folder(folder) as new:
        for file in ("model.safetensors", "config.json"):
            shutil.copy(run / file, new)
        (new / "README.md").write_text(card, encoding="utf-8")


def push(folder, repo):
    """Upload the folder that `save_for_hub` wrote to the Hub as the public model `repo`. Returns its address."""
    hub = library()
    try:
        api = hub.HfApi()
        url = api.create_repo(repo, exist_ok=True)
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message="A model trained with tiny-dllm")
    except (hub.errors.HTTPError, OSError, ValueError) as error:
        raise explain(error, repo, "", writing=True) from None
    return url


# 4. The command line


@dataclass(frozen=True)
class Command:
    """Which run to share, and where."""

    run: tyro.conf.Positional[str] = ""  # the run's name or folder
    export: OptionalPath = None  # write the model and its card to this new folder
    push: OptionalText = None  # OWNER/NAME: upload the model to the Hugging Face Hub under this name
    onnx: OptionalPath = None  # write the model to this ONNX file


def main(argv=None):
    from plumbing.reports import model_card  # imported here, because it imports chapters, which import this module

    command = settings.parse(Command, argv)
    if not command.run or command.export is None and command.push is None and command.onnx is None:
        raise cli.UserError("name a run and a target: python -m plumbing.hub RUN with --export FOLDER, "
                            "--push OWNER/NAME, or --onnx FILE")
    if command.export is not None:
        check_new_folder(command.export)
    run = checkpoint.find(command.run)
    if command.onnx is not None:
        onnx_export.export(run, command.onnx)
        print(f"wrote {command.onnx}: the model, with its vocabulary in the metadata")
    if command.export is None and command.push is None:
        return
    if command.push is not None:
        check_address(command.push)
        if not library().get_token():
            raise cli.UserError("no token for the Hub: create one with write access in your account's settings, and "
                                "set HF_TOKEN to it")
    with tempfile.TemporaryDirectory() as scratch:
        folder = command.export or Path(scratch) / run.name
        save_for_hub(run, folder, model_card.write, command.push or "OWNER/NAME")
        if command.export is not None:
            print(f"wrote {folder}: model.safetensors, config.json, and the model card README.md")
        if command.push is not None:
            print(f"uploaded to {push(folder, command.push)}")


if __name__ == "__main__":
    cli.run(main)
