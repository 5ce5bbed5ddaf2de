"""The red team: attacks on the programs of this book, and a table of how they ended.

    python tests/robustness/run.py --full --processes 6       # all attacks: ten minutes, six at once
    python tests/robustness/run.py --only states              # one kind of attack, or several with commas between
    python tests/robustness/run.py --only states --case 17    # one attack, and what the program printed last

The number of an attack is its seed, so the same command makes the same attack again. --full writes docs/robustness.json
and from it the page docs/robustness.md.
"""

import json
import queue
import random
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "robustness")]

from arena import Arena  # noqa: E402
from fixtures import furnish  # noqa: E402
from outcomes import GOOD  # noqa: E402

from plumbing import cli, settings  # noqa: E402
from plumbing.reports import pages, robustness  # noqa: E402

NUMBERS = {"kills": 100, "crowding": 60, "checkpoints": 1000, "states": 700, "settings_files": 300, "network": 500,
           "command_lines": 400}  # fmt: skip
SEED = 17


@dataclass(frozen=True)
class Command:
    """Which attacks to make."""

    full: settings.Switch = False  # make all attacks and write the page
    only: settings.OptionalText = None  # make only the attacks of these kinds
    case: settings.OptionalCount = None  # make only the attack with this number
    number: settings.OptionalCount = None  # make this many attacks of each kind
    processes: settings.Count = 2  # make this many attacks at the same time
    log: settings.OptionalPath = None  # also write every result to this file, one JSON object in each line


def make(arena, kind, number):
    """Make attack `number` of a kind in an arena. Returns a Result, which names no folder of this machine."""
    arena.reset()
    found = import_module(kind).attack(arena, random.Random(f"{SEED} {kind} {number}"))
    return replace(found, detail=found.detail.replace(str(arena.folder), "BOOK"))


def together(items, processes):
    """Yield {kind, case, and the fields of its Result} for each (kind, number) in items, in the order of their ends.

    Each thread has an arena of its own, so no attack sees the files of another.
    """
    with tempfile.TemporaryDirectory(prefix="robustness-") as folder, ExitStack() as open_arenas:
        free = queue.SimpleQueue()

        def furnished(number):
            arena = Arena(Path(folder) / str(number))
            arena.__enter__()
            open_arenas.push(arena)
            furnish(arena)
            free.put(arena)

        def work(kind, number):
            arena = free.get()
            try:
                return {"kind": kind, "case": number} | asdict(make(arena, kind, number))
            finally:
                free.put(arena)

        with ThreadPoolExecutor(processes) as pool:
            list(pool.map(furnished, range(processes)))
            for done in as_completed([pool.submit(work, *item) for item in items]):
                yield done.result()


def main(argv=None):
    command = settings.parse(Command, argv)
    kinds = list(NUMBERS) if command.only is None else command.only.split(",")
    if unknown := set(kinds) - NUMBERS.keys():
        raise cli.UserError(f"there is no attack {min(unknown)!r}; choose from {', '.join(NUMBERS)}")
    if command.full and (command.only or command.case or command.number):
        raise cli.UserError("--full makes all attacks: leave out the other flags")
    items = [(kind, number) for kind in kinds for number in range(1, (command.number or NUMBERS[kind]) + 1)]
    if command.case is not None:
        items = [(kind, command.case) for kind in kinds]
    random.Random(SEED).shuffle(items)  # attacks that wait for a server and attacks that compute go together
    began, results = time.time(), []
    for found in together(items, min(command.processes, len(items))):
        results.append(found)
        if command.log:
            with open(command.log, "a", encoding="utf-8") as log:
                print(json.dumps(found), file=log)
        if found["outcome"] not in GOOD or command.case is not None:
            print(robustness.describe(found), flush=True)
    table = robustness.count(results)
    print(f"\n{robustness.table(table)}\n\n{time.time() - began:.0f} s")
    if command.full:
        numbers = pages.origin() | {
            "seed": SEED,
            "minutes": round((time.time() - began) / 60),
            "table": table,
            "largest_megabytes": max(found["megabytes"] for found in results),
            "longest_seconds": max(found["seconds"] for found in results),
            "bad": [found for found in results if found["outcome"] not in GOOD],
        }
        robustness.write({"now": numbers})


if __name__ == "__main__":
    cli.run(main)
