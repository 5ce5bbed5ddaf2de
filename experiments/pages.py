"""How a page of docs/ is made: a program measures, and its numbers fill a template written by a person.

    docs/NAME.json             the numbers, and tables made of them
    docs/templates/NAME.md     the page, with a placeholder for each number: "an NLL of {likelihood[gpt][NLL]:.3f}"
    docs/NAME.md               the template with its numbers
    docs/figures/NAME_*.png    figures

Placeholders are written as for Python's str.format. To show a brace on the page, write two braces in the
template. All sentences are in templates, and all numbers come from programs. Such a program looks like this:

    @dataclass(frozen=True)
    class Command(pages.Settings):
        seed: int = 1  # its own flags

    def measure(settings):
        return {"origin": pages.origin("name", device), "seed": settings.seed, "nelbo": nelbo, "nll": nll}

    def draw(values, folder):
        figure, axes = tensors.pyplot(show=False).subplots()
        ...
        pages.save_figure(figure, folder / "name_losses.png")

    def tables(values):
        rows = [["dLLM", f"{values['nelbo']:.3f}"], ["GPT", f"{values['nll']:.3f}"]]
        return {"losses": pages.table(rows, ["model", "nats per character"])}

    if __name__ == "__main__":
        cli.run(lambda: pages.run("name", Command, measure, draw, tables))

In the template, {tables[losses]} stands for this table. If a text has several lines, put its placeholder between
``` and ```.
"""

import json
import shlex
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path

from plumbing import cli, files
from plumbing import run as runs

tensors = import_module("01_tensors")

DOCS = files.ROOT / "docs"


@dataclass(frozen=True)
class Settings:
    """The flags of every program that writes a page."""

    render: bool = False  # only write the page and its figures again, from the numbers of an earlier run
    out: Path = DOCS  # the folder of the page


def run(name, kind, measure, draw=None, tables=None, argv=None):
    """Make the page `name`: measure, draw, and write the page. With --render, use the numbers of an earlier run.

    `kind` is the dataclass of the flags, a subclass of Settings. measure(settings) returns the numbers. draw(numbers,
    folder) saves figures in the folder. tables(numbers) returns {name: Markdown}, also with --render.
    """
    settings = cli.parse(kind, argv)
    figures = settings.out / "figures"
    figures.mkdir(parents=True, exist_ok=True)  # before the work, so that an error comes early
    values = read(name, settings.out) if settings.render else measure(settings)
    measured(name, values, settings.out)  # before the tables, so that a mistake in them loses no measurement
    if tables:
        try:
            values["tables"] = tables(values)
        except KeyError as error:
            raise cli.UserError(f"the numbers of the page {name} lack {error}: measure them, too") from None
        measured(name, values, settings.out)
    if draw:
        draw(read(name, settings.out), figures)
    render(name, settings.out)


def measured(name, values, folder=DOCS):
    """Write the numbers of a page to its JSON file. `values` is a dict of plain values."""
    text = json.dumps(values, indent=1, ensure_ascii=False) + "\n"
    with files.whole_file(folder / f"{name}.json") as path:
        path.write_text(text, encoding="utf-8")


def read(name, folder=DOCS):
    """Return the numbers of a page."""
    return json.loads(files.read_text(folder / f"{name}.json"))


AGAIN = DOCS / "logs" / "measured-again.json"  # numbers that results.py has measured again


def earlier(name, only, folder):
    """Return the numbers that the page already has. If `only` is "all", return no numbers."""
    if only == "all" or not (folder / f"{name}.json").is_file():
        return {"origins": {}}
    return read(name, folder)


def fill(name, values):
    """Return the template of a page, filled with these numbers."""
    try:
        return files.read_text(DOCS / "templates" / f"{name}.md").format(**values)
    except (KeyError, IndexError) as error:
        raise cli.UserError(f"the numbers of the page {name} lack {error}: measure them again") from None


def render(name, folder=DOCS):
    """Write the page from its template and its numbers."""
    with files.whole_file(folder / f"{name}.md") as path:
        path.write_text(fill(name, read(name, folder)), encoding="utf-8")
    print(f"wrote {folder / name}.md")


def origin(name, device):
    """Return where the numbers of a page come from: {command, commit, machine, torch, date}."""
    command = shlex.join(["python", "-m", f"experiments.{name}", *sys.argv[1:]])
    return runs.origin(device) | {"command": command, "date": datetime.now(UTC).date().isoformat()}


def table(rows, columns):
    """Return a Markdown table. `columns` are the names of the columns.

    The first column is aligned to the left, and all others are aligned to the right.
    """
    line = ["---"] + ["---:"] * (len(columns) - 1)
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in [columns, line, *rows])


def save_figure(figure, path):
    """Write a figure to a PNG file."""
    with files.whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    tensors.pyplot(show=False).close(figure)
