"""Plumbing: settings from dataclass defaults, a YAML file and flags, in that order; and what the hardware does well."""

import argparse
import dataclasses
import difflib
import math
from pathlib import Path

import yaml

from plumbing import cli, files

CONFIGS = files.ROOT / "configs"


def setting(default, meaning, low=-math.inf, high=math.inf, choices=None, bare=None):
    """A dataclass field that knows what it means and which values it may take. bare: its flag's value without one."""
    metadata = dict(help=meaning, low=low, high=high, choices=choices, bare=bare)
    return dataclasses.field(default=default, metadata=metadata)


def check(config):
    """ValueError for the first field of a dataclass of `setting`s that is out of its range."""
    for field in dataclasses.fields(config):
        value, (_, low, high, choices, _) = getattr(config, field.name), field.metadata.values()
        if choices and value not in choices:
            raise ValueError(f"{field.name} is {value!r}; choose from {', '.join(choices)}")
        if not choices and field.type is not str and not low <= value <= high:
            limit = f"between {low:g} and {high:g}" if high < math.inf else f"at least {low:g}"
            raise ValueError(f"{field.name} must be {limit}, not {value}")


TEXT = ("shakespeare", "shakespeare, or a text file of your own")


def parse(argv, description, groups, default, fixed=(), text=TEXT, sections=()):
    """Command line → (arguments, one dict of given settings a group).

    groups: dataclasses whose fields become flags. default: the settings file when --config is not given.
    fixed: fields that the chapter decides itself and that are no flags. text: what --corpus is when it is not
    given, and its meaning. sections: a name for each group, which is then a section of the settings file; `seed` in
    the section `train` is the flag --train.seed, or --seed for short, and there is no --corpus.
    UserError for unknown names and for values of the wrong type.
    """
    parser = cli.Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if not sections:
        parser.add_argument("--corpus", default=text[0], help=text[1])
    parser.add_argument("--config", default=default, help=f"a name in configs/ or a YAML file (here: {default})")
    # torchrun takes a --run for one of its own flags, wherever it stands.
    names = ["--run", "--run-name"] if sections else ["--run"]
    parser.add_argument(*names, help="name of the run, its folder under checkpoints/")
    parser.add_argument("--fresh", action="store_true", help="start the run again instead of going on with it")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps")
    fields = {}
    for group, prefix in zip(groups, sections or [""] * len(groups)):
        part = parser.add_argument_group(prefix or group.__name__)
        for field in dataclasses.fields(group):
            if field.name not in fixed:
                name = f"{prefix}.{field.name}".removeprefix(".")
                fields[name] = field
                usual = "" if field.default is dataclasses.MISSING else f"default {field.default}"
                meaning = field.metadata.get("help", "").replace("%", "%%")
                bare, names = field.metadata.get("bare"), ["--" + field.name.replace("_", "-")]
                if prefix:
                    names = ["--" + name, *names]
                part.add_argument(*names, dest=name, metavar=field.type.__name__.upper(), nargs="?" if bare else None,
                                  const=bare, help=f"{meaning} ({usual})" if meaning else usual)
    arguments = parser.parse_args(argv)
    values = read_config(arguments.config)
    if sections:
        values = flatten(values, sections, arguments.config)
    for name in values:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            if isinstance(values[name], dict):
                hint = " (files with sections are for 12_scale.py)"
            raise cli.UserError(f"unknown setting {name!r} in {arguments.config}{hint}")
    values |= {name: value for name in fields if (value := getattr(arguments, name)) is not None}
    values = {name: coerce(name, value, fields[name].type) for name, value in values.items()}
    own = [{f.name: values[name] for f in dataclasses.fields(group)
            if (name := f"{prefix}.{f.name}".removeprefix(".")) in values}
           for group, prefix in zip(groups, sections or [""] * len(groups))]
    return arguments, *own


def flatten(values, sections, file):
    """{"train": {"seed": 1}} → {"train.seed": 1}, where every name must stand in one of the `sections`."""
    flat = {}
    for section, lines in values.items():
        if section not in sections or not isinstance(lines, dict | None):
            near = difflib.get_close_matches(str(section), sections, 1)
            hint = f"; did you mean {near[0]}?" if near and near[0] != section else ""
            raise cli.UserError(f"{file} must have its settings in the sections {', '.join(sections)}, "
                                   f"not in {section!r}{hint}")
        flat |= {f"{section}.{name}": value for name, value in (lines or {}).items()}
    return flat


def coerce(name, value, kind):
    """A value from a flag or a YAML file as `kind`; YAML reads 3e-4 as a string."""
    try:
        if isinstance(value, (list, dict)) or value is None:
            raise ValueError
        if kind is bool:
            return {"true": True, "false": False}[str(value).lower()]
        if kind is str and isinstance(value, bool):
            return "on" if value else "off"  # YAML reads these two words as true and false
        if isinstance(value, bool) or kind is int and float(value) != int(float(value)):
            raise ValueError
        return int(float(value)) if kind is int else kind(value)
    except (ValueError, TypeError, KeyError, OverflowError):
        raise cli.UserError(f"{name} must be {kind.__name__}, not {value!r}") from None


def build(group, **values):
    """group(**values), with its ValueError as a UserError."""
    try:
        return group(**values)
    except ValueError as error:
        raise cli.UserError(str(error)) from None


def read_config(name):
    """Settings in configs/NAME.yaml, or in the file at a path, as a dict."""
    path = next((p for p in (Path(name), CONFIGS / f"{name}.yaml") if p.is_file()), None)
    if path is None:
        known = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.yaml")))
        raise cli.UserError(f"no settings file {name!r}; there are: {known}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise cli.UserError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(values, dict):
        raise cli.UserError(f"{path} must hold lines of the form name: value")
    return values
