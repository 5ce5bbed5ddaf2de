"""How an attack ended: in exactly one of these ways. If several apply, the first one counts."""

import re
from dataclasses import dataclass, field

# {name: what it means}, worst first. Only the last two are good.
OUTCOMES = {
    "executed": "code in a file was executed, or a local file was read that a stranger had named",
    "lost": "something that existed before is lost, damaged or left half-written",
    "raw": "a control character, or a line that a stranger wrote, reached the terminal",
    "memory": "the process needed more than 2 GB",
    "hang": "the process did not end within a minute",
    "traceback": "a traceback, or the death of the process by a signal",
    "unclear": "another end without one clear message and exit code 2",
    "message": "one clear message and exit code 2",
    "accepted": "the program did its work",
}
GOOD = "message", "accepted"
FORGED = "FORGED"  # every hostile text contains this word behind its control character

# Control characters of C0 and C1 but tab and newline, and the characters that change the direction of writing.
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
FAKE_LINE = re.compile(rf"^(?:error: )?{FORGED}", re.MULTILINE)
LONGEST = 20_000  # characters; a longer explanation is not clear


@dataclass
class Ended:
    """The end of one process."""

    code: int  # exit code; negative: the number of the signal that ended the process
    out: str
    err: str
    seconds: float
    megabytes: float  # largest resident memory
    stopped: str = ""  # "hang" or "memory" if the arena had to stop the process, "kill" if it was told to
    signs: set = field(default_factory=set)  # "executed" and "lost", which the arena found in the files


def classify(ended):
    """The name of the outcome of a process that nobody killed on purpose."""
    for sign in ("executed", "lost"):
        if sign in ended.signs:
            return sign
    if is_raw(ended):
        return "raw"
    if ended.stopped in ("memory", "hang"):
        return ended.stopped
    if ended.code < 0 or "Traceback (most recent" in ended.err or "Exception ignored" in ended.err:
        return "traceback"
    if ended.code == 0:
        return "accepted"
    return "message" if ended.code == 2 and is_clear(ended.err) else "unclear"


def is_raw(ended):
    """Whether the output can command a terminal. A progress bar may return to the start of its line, on stderr only."""
    err = re.sub(rf"\r(?!{FORGED})", "\n", ended.err)
    return any(CONTROL.search(text) or FAKE_LINE.search(text) for text in (ended.out, err))


def is_clear(err):
    """Whether the last line is the only one that begins with "error: ", or tyro has explained the mistake in a box."""
    lines = [line for line in err.replace("\r", "\n").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ")]
    if len(err) > LONGEST or "weights_only" in err or len(errors) > 1:
        return False
    return bool(errors) and lines[-1] == errors[0] or not errors and "╭" in err


@dataclass
class Result:
    """One attack. label: what was done. detail: the last line that the program printed to stderr, escaped."""

    label: str
    outcome: str
    detail: str = ""
    seconds: float = 0.0
    megabytes: float = 0.0


def result(label, ended):
    """The Result of an attack on one process."""
    lines = [line for line in re.split(r"[\r\n]+", ended.err) if line.strip()]
    return Result(
        ascii(label)[1:-1][:300],
        classify(ended),
        ascii(lines[-1])[1:-1][:300] if lines else "",
        ended.seconds,
        ended.megabytes,
    )
