"""Attack 4: a settings file that is damaged or forged, of a training of two steps."""

from fixtures import command
from forging import DEEP, DIGITS, TEXTS, VALUES, damage, forge
from outcomes import result

WORDS = ("", "~", "null", "true", "on", "no", "-1", "0", "1", "2", "1e3", "1e308", "1e-320", ".inf", "nan", "-.inf",
         "0x10", "0o17", "1_000", "²", "١", "0.5", "1e18", "999999999999", "1:30", "2001-01-01",
         "!!python/object/apply:os.mkdir [EXECUTED]", "!!python/name:os.system", "!!binary aGVsbG8=", "&a [*a]", "*a",
         "[1, 2]", "{a: 1}", "'", '"', "|", ">", "@", "`", "%", "? x", "- 1", "${HOME}", "$(touch EXECUTED)",
         "9" * 5000, "[" * 900, "{" * 900, "bfloat16", "float16", "adamw", "auto")  # fmt: skip
NAMES = ("steps", "base", "config", "model", "train", "n_layer", "n-layer", "N_LAYER", "nlayer", "vocab_size",
         "causal", "minutes", "__class__", "<<", "*a", "&a", "? ", "run", "fresh", "corpus", "device", "settings",
         "momentum", "clip", "dtype")  # fmt: skip


def attack(arena, draw):
    """Write one hostile settings file and train with it."""
    label, data = draw.choice((values, values, values, names, structure, trees, raw))(arena, draw)
    path = arena.folder / "attack.yaml"
    path.write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))
    name = draw.choice(("dllm", "dllm", "dllm", "gpt", "gpt", "scale"))
    program, *argv = command(name, "--steps", 2, run="attack")
    argv[argv.index("--config") + 1] = path.name
    return result(f"{program}: {label}", arena.run(program, *argv))


def base(arena, draw):
    """The lines of a valid settings file."""
    return (arena.folder / draw.choice(("tiny.yaml", "tiny.yaml", "scale.yaml"))).read_text().splitlines()


def values(arena, draw):
    lines = base(arena, draw)
    place = draw.randrange(len(lines))
    name, word = lines[place].partition(":")[0], draw.choice((*WORDS, *TEXTS))
    lines[place] = f"{name}: {word}"
    return f"{name}: {word!r:.60}", "\n".join(lines)


def names(arena, draw):
    name = draw.choice((*NAMES, *TEXTS))
    word = draw.choice(("1", "0.5", "laptop", "attack", "defaults", "[1]", "{a: 1}", "true"))
    return f"{name!r:.60}: {word}", "\n".join([*base(arena, draw), f"{name}: {word}"])


def structure(arena, draw):
    """Trees that are much larger than their text, and files that are based on themselves."""
    levels = draw.choice((3, 7, 12, 40, 400))
    kinds = {
        f"{levels} levels of aliases": "a0: &a0 [x, x]\n"
        + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, levels)),
        f"{levels} levels of merged maps": "a0: &a0 {steps: 2}\n"
        + "".join(f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, levels)),
        f"{levels} aliases of itself": "a: &a [" + "*a, " * levels + "1]",
        f"{25 * levels} brackets": "steps: " + "[" * 25 * levels,
        f"{25 * levels} closed brackets": "steps: " + "[" * 25 * levels + "]" * 25 * levels,
        f"{25 * levels} indented keys": "".join(" " * i + "a:\n" for i in range(25 * levels)),
        f"{250 * levels} keys": "".join(f"key{i}: 1\n" for i in range(250 * levels)),
        f"{levels} times 128 kB of one value": "steps: " + "1" * (levels << 17),
        "based on itself": "base: attack.yaml",
        "based on a device": "base: /dev/zero",
        "based on a pipe": "base: /dev/stdin",
        "based on a folder": "base: configs",
        "two documents": "steps: 2\n---\nsteps: 3\n",
        "nothing": "",
        "a list": "- 1\n- 2\n",
        "a text": "laptop",
        "a number": "3",
        "a question": "? [a, b]\n: 1\n",
    }
    kind = draw.choice(list(kinds))
    return kind, kinds[kind]


def trees(arena, draw):
    """A forged value of any kind in one of the sections."""
    section = {
        "train": {"steps": 2, "batch_size": 4},
        "model": {"n_layer": 1, "n_head": 2, "n_embd": 16},
        "base": "defaults",
    }
    plain = [value for value in VALUES if value not in (DEEP, DIGITS)]
    label, tree = forge(section, draw, plain)
    return label, repr(tree)  # JSON's braces are YAML, and so are Python's


def raw(arena, draw):
    text = "\n".join(base(arena, draw)).encode()
    if draw.random() < 0.2:
        form = draw.choice(("utf-16", "utf-32", "utf-8-sig", "latin-1"))
        return f"in {form}", ("# é\n" + text.decode()).encode(form)
    label, data = damage(text, draw)
    return f"bytes: {label}", data
