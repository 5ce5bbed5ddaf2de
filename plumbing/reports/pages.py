"""The parts of which every page in docs/ is made: Markdown tables, quoted texts, and the files of a page."""

import json
import textwrap
from datetime import UTC, datetime

from plumbing import cli, figures, files, runs


def make_folder(folder):
    """`folder`, after making it and its subfolder figures/. UserError if it is not a folder."""
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise cli.UserError(f"{folder} is not a folder: name one with --out") from None
    return folder


def origin():
    """The origin of a page's numbers: command, commit, machine, PyTorch and date."""
    return runs.provenance() | {"date": datetime.now(UTC).isoformat(timespec="seconds")}


def publish(results, folder, name, text, draws):
    """Write a page into `folder`: NAME.md with `text`, NAME.json with `results`, and figures/NAME_WORD.png.

    results: plain values. draws: {WORD: function (results, pyplot) → figure}.
    """
    make_folder(folder)
    for word, draw in draws.items():
        figures.save_figure(draw(results, figures.pyplot()), folder / "figures" / f"{name}_{word}.png")
    numbers = json.dumps(results, indent=1, ensure_ascii=False) + "\n"
    for suffix, content in ((".json", numbers), (".md", text)):
        with files.whole_file(folder / f"{name}{suffix}") as path:
            path.write_text(content, encoding="utf-8")
    print(f"\nPage: {folder / name}.md, with all numbers in {name}.json")


def table(head, rows):
    """A Markdown table. The first column is aligned to the left, the others to the right."""
    line = "|" + "|".join("---" if i == 0 else "---:" for i in range(len(head))) + "|"
    head, *body = ("| " + " | ".join(map(str, row)) + " |" for row in (head, *rows))
    return "\n".join((head, line, *body))


def quote(text):
    """A text as a Markdown block of code, unchanged."""
    return "\n".join("    " + line for line in text.split("\n"))


def wrap(page, width=118):
    """A Markdown page whose paragraphs and list items have lines of at most `width` characters.

    Tables, headings, figures and quoted text stay as they are.
    """
    blocks = []
    for block in page.split("\n\n"):
        if block.startswith("- "):
            items = block.removeprefix("- ").split("\n- ")
            block = "\n".join(fill(item, width, "- ", "  ") for item in items)
        elif not block.startswith(("#", "|", "    ", "![")):
            block = fill(block, width)
        blocks.append(block)
    return "\n\n".join(blocks)


def fill(text, width, first="", following=""):
    return textwrap.fill(" ".join(text.split()), width, initial_indent=first, subsequent_indent=following,
                         break_long_words=False, break_on_hyphens=False)
