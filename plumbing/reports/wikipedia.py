"""How long does `tamil_wikipedia.py --dump` take, and how much memory?

    python -m plumbing.reports.wikipedia      # about five minutes on two cores; Linux

The program invents two dumps with 50 and 200 MB of XML: random Tamil words, in articles with the usual markup. It
extracts each with a copy of tamil_wikipedia.py and writes docs/benchmarks/tamil_wikipedia.json. The memory is the sum
over all processes, sampled ten times per second; if it grew with the dump, the second dump would show it. Other work on
the machine makes the wall time longer, and hardly changes the processor time.
"""

import bz2
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from plumbing import cli, files, runs, settings

OUT = files.ROOT / "docs" / "benchmarks" / "tamil_wikipedia.json"
WHOLE_TEXT, WHOLE_FILE = 1.1e9, 275e6  # bytes of the text and of the file of the whole dump, about
HEADER = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/" version="0.11" xml:lang="ta">
  <siteinfo>
    <base>https://ta.wikipedia.org/wiki/x</base>
    <namespaces>
      <namespace key="0" case="first-letter" />
      <namespace key="10" case="first-letter">வார்ப்புரு</namespace>
      <namespace key="14" case="first-letter">பகுப்பு</namespace>
    </namespaces>
  </siteinfo>
"""


def invent(path, size):
    """Write a dump of at least `size` bytes of XML to `path`, and return (bytes of XML, number of pages)."""
    rng = random.Random(0)
    consonants, signs = "கசடதபறஙஞணநமனயரலவழள", ["", "", "ா", "ி", "ீ", "ு", "ே", "ை", "ோ", "்"]
    letters = [consonant + sign for consonant in consonants for sign in signs]
    words = ["".join(rng.choices(letters, k=rng.randint(2, 7))) for _ in range(30_000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]  # Zipf's law

    def paragraph():
        text = rng.choices(words, weights, k=rng.randint(20, 120))
        text[3] = f"[[{text[3]}|{text[4]}]]"
        text[8] += f"&lt;ref name=&quot;a&quot;&gt;{{{{cite web|url=http://x.org/{rng.random()}|title=Y}}}}&lt;/ref&gt;"
        text[12] = f"'''{text[12]}''' ({{{{lang-en|word}}}})"
        return " ".join(text) + ".\n\n"

    written = page = 0
    with bz2.open(path, "wt", encoding="utf-8") as file:
        file.write(HEADER)
        while written < size:
            page += 1
            sections = (f"== {rng.choice(words)} ==\n{paragraph()}{paragraph()}" for _ in range(rng.randint(1, 5)))
            infobox = "{{Infobox\n| name = x\n| y = {{z}}\n}}\n"
            table = '{| class="wikitable"\n! a\n|-\n| 1 || 2\n|}\n* x\n* y\n'
            text = f"{infobox}{paragraph()}{''.join(sections)}{table}[[பகுப்பு:x]]"
            xml = f"""  <page>
    <title>{rng.choice(words)}</title>
    <ns>0</ns>
    <id>{page}</id>
    <revision>
      <id>{page}</id>
      <text bytes="1" xml:space="preserve">{text}</text>
    </revision>
  </page>
"""
            file.write(xml)
            written += len(xml.encode())
        file.write("</mediawiki>\n")
    return written, page


def tree_mb(root):
    """Resident memory of a process and of all its descendants, in MB. Shared pages count in each of them."""
    parents, memory = {}, {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # the process has just ended
        parents[int(folder.name)], memory[int(folder.name)] = int(fields[1]), int(fields[21])
    tree = {root}
    while more := {pid for pid, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sum(memory.get(pid, 0) for pid in tree) * os.sysconf("SC_PAGE_SIZE") / 1e6


def measure(size, folder):
    """Extract an invented dump of `size` bytes of XML in `folder`: {name: number}."""
    dump = folder / "dump.xml.bz2"
    xml, pages = invent(dump, size)
    shutil.copy(files.ROOT / "tamil_wikipedia.py", folder)
    shutil.copytree(files.ROOT / "plumbing", folder / "plumbing")
    before, start, peak = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter(), 0.0
    with subprocess.Popen([sys.executable, "tamil_wikipedia.py", "--dump", "--file", dump], cwd=folder) as process:
        while process.poll() is None:
            peak = max(peak, tree_mb(process.pid))
            time.sleep(0.1)
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if process.returncode:
        sys.exit(process.returncode)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    text = (folder / "data" / "tamil_wikipedia.txt").stat().st_size
    return {"xml_mb": xml / 1e6, "bz2_mb": dump.stat().st_size / 1e6, "pages": pages, "text_mb": text / 1e6,
            "seconds": seconds, "cpu_seconds": cpu, "peak_rss_mb": peak, "text_mb_per_second": text / 1e6 / seconds,
            "xml_mb_per_second": xml / 1e6 / seconds, "pages_per_second": pages / seconds,
            "load_average": os.getloadavg()[0]}  # fmt: skip


@dataclass(frozen=True)
class Command:
    """This program has no flags."""


def main(argv=None):
    settings.parse(Command, argv)
    rows = []
    for size in (50e6, 200e6):
        with tempfile.TemporaryDirectory() as folder:
            rows.append({k: round(v, 3) for k, v in measure(size, Path(folder)).items()})
        print(rows[-1])
    last, origin = rows[-1], runs.provenance() | {"command": "python -m plumbing.reports.wikipedia"}
    # The truth lies between the two: the real dump has less text per byte of XML, and compresses better.
    scales = {"by_text": WHOLE_TEXT / 1e6 / last["text_mb"], "by_file": WHOLE_FILE / 1e6 / last["bz2_mb"]}
    whole = {name: {"minutes": round(scale * last["seconds"] / 60, 1),
                    "cpu_minutes": round(scale * last["cpu_seconds"] / 60, 1)} for name, scale in scales.items()}
    whole["disk_gb"] = round((WHOLE_FILE + 2 * WHOLE_TEXT) / 1e9, 1)  # the dump, the store, the text
    result = {"rows": rows, "whole_dump_extrapolated": whole} | origin
    with files.whole_file(OUT) as partial:
        partial.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(result["whole_dump_extrapolated"])


if __name__ == "__main__":
    cli.run(main)
