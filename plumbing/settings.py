"""Settings: the defaults of a frozen dataclass, then a settings file, then flags.

A program describes its flags as a dataclass, with a comment on each field. `parse` turns that class into flags and
--help through the library tyro. A field that holds another dataclass contributes that class's fields as flags too.

    @dataclass(frozen=True)
    class Command:
        corpus: str = "shakespeare"  # the text to learn from
        config: str = "laptop"  # a settings file
        train: TrainConfig = TrainConfig()

    command = settings.parse(Command, argv)

A settings file is YAML: lines of the form `n_layer: 2`, where every name is that of a flag. The line `base: laptop`
names another file whose settings hold where this one says nothing. A file without such a line is based on the
program's own default file, and `base: defaults` means the defaults of the dataclass.
"""

import contextlib
import dataclasses
import difflib
import io
import math
import sys
from pathlib import Path
from typing import Annotated, Literal, get_args, get_origin, get_type_hints

import tyro
import yaml
from tyro.constructors import PrimitiveConstructorSpec

from plumbing import cli, files, foreign

CONFIGS = files.ROOT / "configs"
LARGEST = 1 << 15  # bytes of a settings file
TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")  # the words for them in YAML files


# --help shows the default of a field, unless it is None: then the comment of the field says what happens.
HINT = tyro.conf.arg(help_behavior_hint=lambda default: "" if default == "None" else f"(default: {default})")


@dataclasses.dataclass(frozen=True)
class Range:
    """The numbers that a field may hold, both ends included."""

    low: float
    high: float

    def __str__(self):
        return f"from {self.low:g} to {self.high:g}" if self.high < math.inf else f"at least {self.low:g}"


def number(kind, low, high=math.inf, optional=False):
    """Return the type of a field for a number (kind: int or float) from low to high. optional: it may also be None."""
    limits, name = Range(low, high), kind.__name__.upper()

    def parse_words(words):
        value = whole_number(words[0]) if kind is int else float(words[0])
        if not (low <= value <= high and value < math.inf):  # NaN is in no range
            raise ValueError(f"it must be {limits}, not {foreign.printable(words[0])}")
        return value

    specification = PrimitiveConstructorSpec(
        nargs=1,
        metavar=f"{name} {low:g}..{high:g}" if high < math.inf else f"{name} {low:g}..",
        instance_from_str=parse_words,
        is_instance=lambda value: value is None or isinstance(value, (int, float)),
        str_from_instance=lambda value: [str(value)],
    )
    return Annotated[kind | None if optional else kind, limits, specification, HINT]


def whole_number(text):
    """Return the int that a text such as 1000, 5_000 or 1e3 means. ValueError if it means no int of 64 bits."""
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            value = kind(text)
            if abs(value) < 1 << 63 and value == int(value):
                return int(value)
    raise ValueError(f"it must be a whole number of at most 18 digits, not {foreign.printable(text)}")


def optional(kind, metavar):
    """The type of a field that holds a value of the class `kind` or None. metavar: what --help calls the value."""

    def parse_words(words):
        if kind is Path and not words[0]:
            raise ValueError("it must be a path, and not empty")
        return kind(words[0])

    specification = PrimitiveConstructorSpec(
        nargs=1,
        metavar=metavar,
        instance_from_str=parse_words,
        is_instance=lambda value: value is None or isinstance(value, kind),
        str_from_instance=lambda value: [str(value)],
    )
    return Annotated[kind | None, specification, HINT]


Count = number(int, 1)
OptionalCount = number(int, 1, optional=True)
Natural = number(int, 0)  # 0, 1, 2, …
NonNegative = number(float, 0)
Share = number(float, 0, 1)
Seed = number(int, 0, 10**9)
OptionalSeed = number(int, 0, 2**63 - 1, optional=True)
OptionalText = optional(str, "TEXT")
OptionalPath = optional(Path, "PATH")
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]  # a flag such as --fresh, without --no-fresh
Decided = tyro.conf.Fixed  # Decided[int]: no flag, since the program decides this value


def check(config):
    """Raise ValueError for the first field of a dataclass that is outside its range or its choices."""
    for name, kind in get_type_hints(type(config), include_extras=True).items():
        value = getattr(config, name)
        if get_origin(kind) is Literal and value not in get_args(kind):
            raise ValueError(f"{name} is {value!r}; choose from {', '.join(map(str, get_args(kind)))}")
        for limits in getattr(kind, "__metadata__", ()):
            if isinstance(limits, Range) and value is not None and not limits.low <= value <= limits.high:
                raise ValueError(f"{name} must be {limits}, not {value}")


def parse(command, argv=None, bare=()):
    """Return an instance of the dataclass `command`: its defaults, then its settings file, then the flags of argv.

    argv: a list of words; None means sys.argv. bare: {flag: its value if it is given without one}.
    A program has a settings file if its class has a field `config`. The description in --help is the docstring of the
    module that defines the class. If a flag or a file is wrong, the program ends with a message and exit code 2.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    for i, word in enumerate(argv):
        section, dot, name = word.removeprefix("--").partition(".")
        if word.startswith("--") and dot and section in groups(command):
            argv[i] = f"--{name}"  # --train.steps means --steps
    for flag, value in dict(bare).items():
        if flag in argv and (argv[-1] == flag or argv[argv.index(flag) + 1].startswith("--")):
            argv.insert(argv.index(flag) + 1, value)
    default = command()
    if hasattr(default, "config"):
        default = with_file(default, given(argv, "--config") or default.config, default.config)
    return run_tyro(command, argv, default)


def groups(command):
    """Return the names of the fields that hold another dataclass, a set."""
    return {field.name for field in dataclasses.fields(command) if dataclasses.is_dataclass(field.type)}


def run_tyro(command, words, default):
    description = sys.modules[command.__module__].__doc__
    options = (tyro.conf.OmitArgPrefixes, tyro.conf.SuppressFixed)
    # tyro quotes wrong words as they are. If they could command the terminal or fill it, its message is escaped and
    # shortened, and has no colours.
    odd = any(foreign.lines(word) != word or len(word) > 500 for word in words)
    try:
        with contextlib.redirect_stderr(io.StringIO()) if odd else contextlib.nullcontext() as said:
            return tyro.cli(command, args=words, default=default, description=description, config=options)
    except SystemExit:
        if odd:
            print(foreign.lines(said.getvalue())[: foreign.LONGEST_MESSAGE], file=sys.stderr)
        raise


def given(argv, flag):
    """Return the last value of `flag` in the list argv (None means sys.argv), or None if the flag is not there."""
    argv, found = list(sys.argv[1:] if argv is None else argv), None
    for word, following in zip(argv, [*argv[1:], None]):
        if word == flag:
            found = following
        elif word.startswith(f"{flag}="):
            found = word.removeprefix(f"{flag}=")
    return found


def with_file(default, name, own, seen=()):
    """Return `default`, changed by the settings of the file `name` and of the files that it is based on.

    own: the program's default file, the base of each file without a line `base:`. seen: the paths of the files that
    are based on this one. UserError if a file cannot be read.
    """
    if name == "defaults":
        return default
    path, values = read_file(name)
    if path in seen:
        raise cli.UserError(f"{path} is based on itself")
    base = values.pop("base", own if path.stem != own else "defaults")
    if not isinstance(base, str):
        raise cli.UserError(f"{path}: base must be the name of one settings file")
    default = with_file(default, base, own, (*seen, path))
    words, known = [], flag_types(type(default))
    for section in groups(type(default)) & values.keys():
        if not isinstance(values[section], dict):
            raise cli.UserError(f"{path}: below {section!r} must be lines of the form name: value")
        values |= values.pop(section)
    for key, value in values.items():
        key = key.replace("-", "_")
        if key not in known or isinstance(value, (list, dict)):
            near = difflib.get_close_matches(key, known, 1)
            hint = f"; did you mean {near[0]}?" if near and near[0] != key else ""
            raise cli.UserError(f"unknown setting '{foreign.printable(key)}' in {path}{hint}")
        flag = "--" + key.replace("_", "-")
        if known[key] is bool and value.lower() not in TRUE + FALSE:
            raise cli.UserError(f"{path}: {key} must be true or false, not {value}")
        if known[key] is bool:
            words.append(flag if value.lower() in TRUE else flag.replace("--", "--no-", 1))
        else:
            words.append(f"{flag}={value}")
    try:
        return dataclasses.replace(run_tyro(type(default), words, default), config=name)
    except SystemExit:
        raise cli.UserError(f"the settings file {path} is not valid (see above)") from None


def read_file(name):
    """Read configs/NAME.yaml, or the file at a path. Returns (path, {name: text}); a section is a dict of its own."""
    path = next((p for p in (Path(name), CONFIGS / f"{name}.yaml") if p.is_file()), None)
    if path is None:
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise cli.UserError(f"no settings file {name!r}; there are: {known}")
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise ValueError(f"it has more than {LARGEST:,} bytes")
        check_yaml(data.decode("utf-8"))
        # BaseLoader leaves every value as it is written: 3e-4 stays text, and so do on, off, yes and no.
        values = yaml.load(data, yaml.BaseLoader) or {}
    except (yaml.YAMLError, ValueError) as error:
        raise cli.UserError(f"{path} is not a valid settings file in YAML: {foreign.reason(error)}") from None
    if not isinstance(values, dict):
        raise cli.UserError(f"{path} must hold lines of the form name: value")
    return path, values


def check_yaml(text):
    """Raise ValueError if the YAML `text` uses more of the language than settings need.

    A few lines of aliases can expand to gigabytes, and Python cannot follow hundreds of brackets inside each other.
    """
    depth = 0
    for event in yaml.parse(text, yaml.BaseLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise ValueError("it uses the aliases of YAML, & and *")
        if depth > 3:
            raise ValueError("it has brackets within brackets")
        if isinstance(event, yaml.ScalarEvent) and foreign.printable(event.value, 1000) != event.value:
            raise ValueError(f"it contains '{foreign.printable(event.value)}', which is too long or cannot be printed")


def flag_types(command):
    """Return {name: type} of the flags of a dataclass and of the dataclasses in its fields, without `config`."""
    found = {}
    for name, kind in get_type_hints(command, include_extras=True).items():
        metadata = getattr(kind, "__metadata__", ())
        plain = get_args(kind)[0] if metadata else kind
        if dataclasses.is_dataclass(plain):
            found |= flag_types(plain)
        elif name != "config" and Decided[int].__metadata__[0] not in metadata:
            found[name] = plain
    return found
