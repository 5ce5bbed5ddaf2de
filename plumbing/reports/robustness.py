"""The page docs/robustness.md: how the attacks of tests/robustness/ ended.

    python -m plumbing.reports.robustness        # only write the page again, from docs/robustness.json

tests/robustness/run.py makes the attacks, and calls `write` with their numbers.
"""

import json
from collections import Counter
from dataclasses import dataclass

from plumbing import cli, files, settings
from plumbing.reports import pages

NUMBERS, PAGE = files.ROOT / "docs" / "robustness.json", files.ROOT / "docs" / "robustness.md"
KINDS = {  # {kind of attack: its row in the table}
    "kills": "a training run is killed and resumed",
    "crowding": "a small disk, or two runs of one name",
    "checkpoints": "a forged or damaged model",
    "states": "a forged or damaged saved run",
    "settings_files": "a forged or damaged settings file",
    "network": "a faulty or hostile server",
    "command_lines": "hostile words in a command line",
}
OUTCOMES = {  # {outcome: its column}
    "message": "clear message",
    "accepted": "accepted",
    "executed": "executed",
    "lost": "lost",
    "raw": "raw",
    "traceback": "traceback",
    "unclear": "unclear",
    "hang": "hang",
    "memory": "memory",
}


@dataclass(frozen=True)
class Command:
    """This program has no flags."""


def count(results):
    """{kind: {outcome: number}} of a list of results, dicts with the keys kind and outcome."""
    return {kind: dict(Counter(found["outcome"] for found in results if found["kind"] == kind)) for kind in KINDS
            if any(found["kind"] == kind for found in results)}  # fmt: skip


def describe(found):
    """One result in two or three lines."""
    return (f"{found['kind']} {found['case']}: {found['outcome']} ({found['seconds']} s, {found['megabytes']} MB): "
            f"{found['label']}\n    {found['detail']}")


def table(counts):
    """The Markdown table of `count`, with a row of sums."""
    rows = [(title, sum(counts[kind].values()), *(counts[kind].get(name, 0) for name in OUTCOMES))
            for kind, title in KINDS.items() if kind in counts]  # fmt: skip
    sums = ("all", *(sum(row[i] for row in rows) for i in range(1, len(OUTCOMES) + 2)))
    return pages.table(("attack", "tried", *OUTCOMES.values()), [*rows, sums])


MEANINGS = (
    "**clear message**: the program ended with exit code 2 and one line that says what is wrong",
    "**accepted**: the program did its work, since the change was harmless or could not be seen",
    "**executed**: code in a file was executed, or a local file was read that a stranger had named",
    "**lost**: something that existed before was lost, damaged or left half-written, or what a bad server had sent "
    "still stood in the way when a good one answered",
    "**raw**: a control character, or a line that a stranger wrote, reached the terminal",
    "**traceback**: also the death of a process by a signal",
    "**unclear**: another end without one clear message",
    "**hang**: no end within a minute (75 seconds for the attacks by a server)",
    "**memory**: more than 2 GB",
)


def bullets(items):
    return "\n".join(f"- {item}" for item in items)


def page(numbers):
    """The page as text. numbers: the content of docs/robustness.json."""
    now, before = numbers["now"], numbers.get("before")
    text = [
        "# The red team",
        "The programs of this book meet killed runs, full disks, forged files, hostile servers and odd command lines. "
        "`tests/robustness/` attacks them at random, with fixed seeds, and this table says how the attacks ended. "
        f"`{now['command'].replace('run.py', 'tests/robustness/run.py')}` made it in {now['minutes']} minutes "
        f"({now['machine']}; PyTorch {now['torch']}; commit {now['commit']}; seed {now['seed']}; {now['date'][:10]}).",
        table(now["table"]),
        bullets(MEANINGS),
        f"The largest process had {now['largest_megabytes']:,} MB, and the slowest took {now['longest_seconds']:.0f} "
        "seconds, on a machine that was busy with other work. Each attack runs in a process that is forked from one in "
        "which PyTorch is loaded already. Where a program waits for a server, the attack shortens its patience.",
    ]
    if now["bad"]:
        text += ["These attacks ended badly:", bullets(
            f"`{found['kind']} {found['case']}`, {OUTCOMES[found['outcome']]}: {found['label'][:80]}"
            for found in now["bad"])]  # fmt: skip
    if before:
        text += ["## Before", f"The same kinds of attack on commit {before['commit']}, before the faults were mended:",
                 table(before["table"])]  # fmt: skip
    text += ["## Try it", "`python tests/robustness/run.py --only states --case 17` makes one attack again and shows "
             "what the program said last. A few attacks of each kind are part of the tests."]  # fmt: skip
    return pages.wrap("\n\n".join(text)) + "\n"


def write(numbers):
    """Write docs/robustness.json and docs/robustness.md. numbers: {"now": …}; the older numbers in the file stay."""
    if NUMBERS.exists():
        numbers = json.loads(NUMBERS.read_text(encoding="utf-8")) | numbers
    for path, text in ((NUMBERS, json.dumps(numbers, indent=1, ensure_ascii=False) + "\n"), (PAGE, page(numbers))):
        with files.whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
    print(f"wrote {PAGE.relative_to(files.ROOT)}")


def main(argv=None):
    settings.parse(Command, argv)
    write({})


if __name__ == "__main__":
    cli.run(main)
