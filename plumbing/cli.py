"""Command-line flags, settings files, and one-line error messages."""

import argparse
import contextlib
import dataclasses
import io
import os
import shlex
import sys
import unicodedata
from pathlib import Path

# 1. Text from outside, and errors


def printable(text, keep="", limit=None):
    """Return `text` with every control character replaced by a printable escape code.

    A terminal obeys control characters instead of showing them. They could move the cursor, hide text, or imitate a
    message of this program. The characters in `keep` stay as they are. A result of more than `limit` characters is cut
    to this length, and ends in ….
    """
    shown = "".join(c if c in keep or is_harmless(c) else c.encode("unicode_escape").decode() for c in str(text))
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def is_harmless(character):
    """Return whether a terminal can safely show this character. Some scripts need the joiners U+200C and U+200D."""
    return character.isprintable() or character in "\u200c\u200d" or unicodedata.category(character) == "Zs"


def reason(error):
    """Return the first line of an error's message, safe to print. If there is no message, return the class name."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0], limit=200)


class UserError(Exception):
    """A mistake that the user can correct. The message is one line: what is wrong, and what to do."""

    def __init__(self, message):
        super().__init__(printable(message, limit=2000))


def run(main, out_of_memory="lower --batch-size, and raise --accumulate by the same factor"):
    """Call main(). If the user can correct an error, print it in one line on stderr, and exit with code 2.

    `out_of_memory` is the advice to print if memory runs out.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # the stream was closed (`>&-`), so nobody reads it
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))
        if hasattr(getattr(sys, name), "reconfigure"):
            getattr(sys, name).reconfigure(errors="replace")  # the terminal's encoding may lack a character
    try:
        main()
        sys.stdout.flush()  # a closed pipe raises its error here, and not during shutdown
    except KeyboardInterrupt:
        leave("interrupted", 130)
    except BrokenPipeError:  # the program that reads our output has ended (`... | head`)
        leave("", 141)
    except Exception as error:
        line = explain(error, out_of_memory)
        if line is None:  # the error is a bug in the program
            raise
        leave(f"error: {line}", 2)


def explain(error, out_of_memory):
    """Return one line that tells the user what to do about an error, or None if the error is a bug in the program."""
    message = str(error)
    if isinstance(error, (UserError, OSError, FloatingPointError)):  # chapter 04 raises FloatingPointError
        return message if isinstance(error, UserError) else reason(error)
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"{error.name} is not installed: pip install -r requirements-dev.txt"
    full = "out of memory" in message or "ALLOC_FAILED" in message or "DefaultCPUAllocator" in message
    if isinstance(error, MemoryError) or isinstance(error, RuntimeError) and full:
        return f"out of memory: {out_of_memory}"
    if type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
        return f"PyTorch cannot compile the model ({reason(error)}): use --compile off"
    return None


def leave(line, code):
    """Print `line` on stderr and end the program with exit code `code`. A closed stderr or stdout causes no error."""
    with contextlib.suppress(OSError):
        print(line, file=sys.stderr, end="\n" if line else "")
    try:
        sys.stdout.flush()
    except OSError:  # Python flushes stdout again on exit, so connect it to nowhere
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(code)


# 2. The command line


def command_line():
    """Return the command that started this program, quoted for a shell."""
    return shlex.join(["python", Path(sys.argv[0]).name, *sys.argv[1:]])


def sub_command(names, argv=None):
    """Return (sub-command, words after it). `names` lists the sub-commands, and the first name is the default."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in names:
        return words[0], words[1:]
    return names[0], words


def parse(kind, argv=None, configs="", section="", alone=()):
    """Return an instance of the dataclass `kind`, with the values of the command-line flags.

    Flags override the settings file, which overrides the defaults. If the dataclass has a field `config`, this field
    names the settings file. See `read` for this file, and for the arguments `configs` and `section`. The comment after
    a field is the help text of its flag. `alone` is a dict {flag: value}. If such a flag has no value on the command
    line, it gets the value from `alone`. A wrong flag ends the program with a message and exit code 2.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    for flag, value in dict(alone).items():
        if flag in words and (words[-1] == flag or words[words.index(flag) + 1].startswith("--")):
            words.insert(words.index(flag) + 1, value)
    for word in words:
        if any("\ud800" <= character <= "\udfff" for character in word):
            raise UserError(f"{printable(word)} is not UTF-8: rename the file, or name it otherwise")
    default = kind()
    if hasattr(default, "config"):
        finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        finder.add_argument("--config", default=default.config)
        name = finder.parse_known_args(words)[0].config
        path, values = read(name, default.config, configs, section)
        try:
            default = dataclasses.replace(run_tyro(kind, as_flags(values), default), config=name)
        except SystemExit:
            raise UserError(f"the settings file {path} is not valid (see above)") from None
    return run_tyro(kind, words, default)


def run_tyro(kind, words, default):
    """Let the library tyro read the flags in `words`. Return them as an instance of the dataclass `kind`."""
    import tyro

    description = sys.modules[kind.__module__].__doc__
    options = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)
    said = io.StringIO()
    odd = any(printable(word, keep="\n", limit=500) != word for word in words)  # tyro escapes nothing

    try:
        with contextlib.redirect_stderr(said) if odd else contextlib.nullcontext():
            return tyro.cli(kind, args=words, default=default, description=description, config=options)
    except SystemExit:
        print(printable(said.getvalue(), keep="\n", limit=2000), end="", file=sys.stderr)
        raise


# 3. Settings files


def read(name, own, configs="", section="", depth=0):
    """Read a settings file and return (path, {name: text}).

    `name` is the path of a YAML file, or the name of a file in configs/. The argument `configs` names a subfolder of
    configs/ that is searched first.

    A line such as `n_layer: 2` sets the flag --n-layer. The line `base: laptop` names another settings file, which
    supplies all settings that this file leaves out. Outside configs/, a file without this line is based on `own`, the
    program's default settings file. Indented lines below `gpt:` count only for programs whose `section` is "gpt".
    """
    from plumbing import files

    folder = files.ROOT / "configs"
    places = [Path(name), folder / configs / f"{name}.yaml", folder / f"{name}.yaml"]
    path = next((place for place in places if place.is_file()), None)
    if path is None:
        known = sorted({place.stem for place in [*folder.glob("*.yaml"), *(folder / configs).glob("*.yaml")]})
        raise UserError(f"no settings file {name!r}; there are: {', '.join(known)}")
    values = files.read_yaml(path)
    for other in ("dllm", "gpt", "hybrid"):
        lines = values.pop(other, {})
        if other == section and isinstance(lines, dict):
            values |= lines
    for key, value in values.items():
        if not isinstance(value, str):
            raise UserError(f"{path}: {key!r} must be followed by one value")
    base = values.pop("base", "" if folder in path.resolve().parents else own)
    if not base:
        return path, values
    if depth == 5:
        raise UserError(f"{path} is based on a file that is based on another one, and so on: name fewer bases")
    return path, read(base, own, configs, section, depth + 1)[1] | values


def as_flags(values):
    """Return the settings {name: text} as a list of command-line words."""
    words = []
    for name, value in values.items():
        flag = f"--{name.replace('_', '-')}"
        if value.lower() in ("true", "false"):
            words += [flag] if value.lower() == "true" else []
        else:
            words.append(f"{flag}={value}")
    return words
