"""The book as a web site, with a side bar, a search, and a page on which the shipped model writes in the browser.

    python -m experiments.site            # about a minute; writes site/
    python -m experiments.site --quick    # without what chapters 01 to 04 print and draw
    python -m http.server -d site         # shows it at http://127.0.0.1:8000

Any server of static files can serve the site, and the site loads nothing from other hosts. Its pages are made from
README.md, docs/ and the sources, so no text is written twice. The program writes all pages as Markdown into a temporary
folder, and MkDocs makes the site from this folder. The settings of MkDocs are in mkdocs.yml, beside this file.

The page on which the model writes is write.md, and its program is write.js. The library onnxruntime-web runs the model
in the browser, and npm fetches this library. If npm or the network is missing, the site is built without this page.
"""

import ast
import hashlib
import importlib.util
import io
import logging
import os
import re
import shutil
import subprocess
import sys
import tarfile
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory

from plumbing import cli, files, hub

generation = import_module("06_generate")

HERE = Path(__file__).parent
ROOT = files.ROOT
SHIPPED = ROOT / "checkpoints" / "shakespeare"
CHAPTERS = ["minimal.py", *sorted(path.name for path in ROOT.glob("[0-9]*.py"))]
FAST = CHAPTERS[1:5]  # chapters 01 to 04, which take only seconds and import only each other
PARTS = {
    "exercises": sorted(ROOT.glob("exercises/*.py")),
    "plumbing": sorted(ROOT.glob("plumbing/*.py")),
    "experiments": [*sorted(ROOT.glob("experiments/*.py")), Path(__file__)],
    "other programs": [*(ROOT / f"{name}.py" for name in ("benchmark", "tamil_dataset", "tamil_wikipedia")),
                       *sorted(ROOT.glob("tamil/*.py")), *sorted(ROOT.glob("playground/*.py"))],
}  # fmt: skip
PARTS = {part: [path.relative_to(ROOT).as_posix() for path in paths] for part, paths in PARTS.items()}
SOURCES = {*CHAPTERS, *(name for names in PARTS.values() for name in names)}


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    quick: bool = False  # leave out what chapters 01 to 04 print and draw
    out: Path = ROOT / "site"  # the folder of the site


# 1. The pages


def linked(text, page):
    """Return the Markdown `text` of the file `page`. Links to sources and names of sources lead to their pages."""
    folder = (ROOT / page).parent

    def link(found):
        path = os.path.relpath(folder / f"{found[2]}.py", ROOT)
        return f"{found[1]}{found[2]}.md" if Path(path).as_posix() in SOURCES else found[0]

    def name(found):
        up = "../" * page.count("/")
        return f"[{found[0]}]({up}{found[1]}.md)" if f"{found[1]}.py" in SOURCES else found[0]

    text = text.replace("<details>", '<details markdown="1">')  # otherwise MkDocs reads the contents as HTML
    text = re.sub(r"(\]\(|\]: )([^()\s:]+)\.py\b", link, text)
    return re.sub(r"(?m)^    .*|(?<!\[)`([\w/]+)\.py`", name, text)  # names inside code stay as they are


def source_page(name, printed=""):
    """Return the page of a source: its docstring, its code in sections, what it printed, and its figures."""
    source = (ROOT / name).read_text(encoding="utf-8")
    module, lines = ast.parse(source), source.splitlines()
    title, intro = name, ast.get_docstring(module)
    if intro.startswith("Chapter "):
        title, intro = intro.split("\n", 1)
    page = [f"# {title}", intro, f"## {name}"]
    sections = [i for i, line in enumerate(lines) if re.match(r"# \d+\. ", line)]
    for start, end in pairwise([module.body[0].end_lineno, *sections, len(lines)]):
        if start in sections:
            page.append("## " + lines[start].strip("# -"))
            start += 1
        while start < end and not lines[start]:
            start += 1
        code = "\n".join(lines[start:end]).rstrip()
        page.append(f'~~~~~~{{.python linenums="{start + 1}"}}\n{code}\n~~~~~~' if code else "")
    if printed:
        page += ["## What it prints", f"~~~~~~text\n{printed}\n~~~~~~"]
        page += [f"![{figure}]({figure})" for figure in re.findall(r"^Figure: (\S+)", printed, re.M)]
    return "\n\n".join(page)


def start_chapters(folder):
    """Start copies of the fast chapters in `folder`, all at the same time. Returns {name: process}."""
    for name in FAST:
        shutil.copy(ROOT / name, folder)
    usual = os.environ | {"MPLBACKEND": "Agg", "PYTHONIOENCODING": "utf-8"}
    return {name: subprocess.Popen([sys.executable, name], cwd=folder, env=usual, stdout=subprocess.PIPE,
                                   encoding="utf-8") for name in FAST}  # fmt: skip


def write_pages(folder, printed):
    """Write all pages as Markdown, and the files to which the pages link.

    `printed` is {source: what this source printed}.
    """
    shutil.copytree(ROOT / "docs", folder / "docs", ignore=shutil.ignore_patterns("templates"))
    (folder / "exercises").mkdir()
    for name in ("README.md", "exercises/README.md"):
        shutil.copy(ROOT / name, folder / name)
    for path in folder.rglob("*.md"):
        text = path.read_text(encoding="utf-8")
        path.write_text(linked(text, path.relative_to(folder).as_posix()), encoding="utf-8")
    for name in SOURCES:
        path = (folder / name).with_suffix(".md")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source_page(name, printed.get(name)), encoding="utf-8")
    for name in ("watch.md", "style.css"):
        shutil.copy(HERE / name, folder)
    words = "--checkpoint shakespeare --prompt ROMEO: --seed 1 --quiet --html".split()
    with redirect_stdout(io.StringIO()):
        generation.main([*words, str(folder / "player.html")])


# 2. The model in the browser

RUNTIME = "onnxruntime-web@1.22.0"  # later versions are up to 3 MB larger, and no faster here
RUNTIME_SHA256 = "e293551f9d36d003e293d0f2937fee7b3dfdcef76d71d1449b55e2d4157c7aea"
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")


def fetch_runtime(folder):
    """Write the files of onnxruntime-web into `folder`. Raises UserError if npm cannot fetch it."""
    npm = shutil.which("npm")
    if npm is None:
        raise cli.UserError("there is no npm here")
    with TemporaryDirectory() as scratch:
        end = subprocess.run([npm, "pack", "--silent", "--fetch-retries=0", RUNTIME], cwd=scratch, capture_output=True)
        data = b"".join(path.read_bytes() for path in Path(scratch).glob("*.tgz"))
    if end.returncode or hashlib.sha256(data).hexdigest() != RUNTIME_SHA256:
        raise cli.UserError(f"npm could not fetch {RUNTIME}")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for name in RUNTIME_FILES:
            (folder / name).write_bytes(archive.extractfile(f"package/dist/{name}").read())


def write_model(path):
    """Write the shipped dLLM with 8-bit weights to the ONNX file `path`, which then has a quarter of the usual size.

    Each column of a matrix is stored as integers from -127 to 127 and one scale. When the runtime loads the model, it
    multiplies the integers by the scale. After that it computes everything in float32. (The dynamic quantization of
    onnxruntime also rounds activations, and is less exact.)
    """
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # it warns about a missing library that we do not need
    hub.export_onnx(SHIPPED, path)
    import numpy as np
    import onnx

    model = onnx.load(path)
    graph = model.graph
    for tensor in [tensor for tensor in graph.initializer if len(tensor.dims) == 2 and min(tensor.dims) > 1]:
        weight, name = onnx.numpy_helper.to_array(tensor), tensor.name
        scale = np.abs(weight).max(0) / 127
        stored = {f"{name}.rounded": np.round(weight / scale).astype(np.int8), f"{name}.scale": scale}
        graph.initializer.remove(tensor)
        graph.initializer.extend(onnx.numpy_helper.from_array(part, key) for key, part in stored.items())
        cast = onnx.helper.make_node("Cast", [f"{name}.rounded"], [f"{name}.float"], to=onnx.TensorProto.FLOAT)
        graph.node.insert(0, onnx.helper.make_node("Mul", [f"{name}.float", f"{name}.scale"], [name]))
        graph.node.insert(0, cast)
    onnx.save(model, path)


def write_browser(folder):
    """Write the page on which a reader's browser runs the model, with its files in `folder`/browser."""
    browser = folder / "browser"
    browser.mkdir()
    fetch_runtime(browser)
    write_model(browser / "model.onnx")
    shutil.copy(SHIPPED / "config.json", browser)
    shutil.copy(ROOT / "plumbing" / "player.html", browser)
    shutil.copy(HERE / "write.js", browser)
    size = sum(path.stat().st_size for path in browser.iterdir())
    page = linked((HERE / "write.md").read_text(encoding="utf-8"), "write.md")
    (folder / "write.md").write_text(page.replace("MEGABYTES", f"{size / 1e6:.0f}"), encoding="utf-8")


# 3. The site


def navigation(folder):
    """Return the side bar in the form that MkDocs expects."""
    pages = sorted(path.relative_to(folder).as_posix() for path in (folder / "docs").glob("*.md"))
    first = [f"docs/{name}.md" for name in ("paths", "change_one_thing", "glossary", "quiz", "results", "playground")]
    logs = sorted(path.relative_to(folder).as_posix() for path in (folder / "docs" / "logs").glob("*.md"))
    parts = {"exercises": ["exercises/README.md"]}
    for part, names in PARTS.items():
        parts.setdefault(part, []).extend({name.split("/", 1)[-1]: f"{name[:-3]}.md"} for name in names)
    return [{"The book": "README.md"}, "watch.md", *(["write.md"] if (folder / "write.md").exists() else []),
            {"Chapters": [{name: f"{name[:-3]}.md"} for name in CHAPTERS]},
            {"Pages": [*first, *(page for page in pages if page not in first), *logs]},
            {"Code": [{part: names} for part, names in parts.items()]}]  # fmt: skip


def build(folder, site):
    """Let MkDocs make the site from the Markdown in `folder`."""
    os.environ["NO_MKDOCS_2_WARNING"] = "1"
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    settings = load_config(str(HERE / "mkdocs.yml"), docs_dir=str(folder), site_dir=str(site), nav=navigation(folder))
    logging.basicConfig(format="%(message)s")
    try:
        build(settings)
    except Abort:
        raise cli.UserError("a page has a dead link (see above)") from None
    (site / "404.html").unlink()  # its links would work only at the root of a server


def main(argv=None):
    command = cli.parse(Command, argv)
    if importlib.util.find_spec("material") is None:
        raise cli.UserError("the web book needs more packages: pip install -r requirements-dev.txt")
    if command.out.exists() and not (command.out / "search" / "search_index.json").is_file():
        raise cli.UserError(f"{command.out} is in the way, and is no such site: name a new folder")
    with TemporaryDirectory() as scratch:
        folder, copies = Path(scratch) / "pages", Path(scratch) / "chapters"
        folder.mkdir()
        copies.mkdir()
        running = {} if command.quick else start_chapters(copies)
        try:
            write_browser(folder)
        except cli.UserError as error:
            shutil.rmtree(folder / "browser")
            print(f"The site has no page that writes in the browser: {error}.")
        printed = {name: process.communicate()[0].strip() for name, process in running.items()}
        if any(process.returncode for process in running.values()):
            raise cli.UserError("a chapter has failed (see above)")
        if running:
            shutil.copytree(copies / "figures", folder / "figures")
        printed["minimal.py"] = (ROOT / "docs" / "logs" / "minimal.txt").read_text(encoding="utf-8").strip()
        write_pages(folder, printed)
        build(folder, command.out.absolute())
    print(f"wrote {command.out}: python -m http.server -d {command.out} shows it at http://127.0.0.1:8000")


if __name__ == "__main__":
    cli.run(main)
