"""Attack 6: hostile words in the command lines of all programs."""

from importlib import import_module

from fixtures import command
from forging import TEXTS
from outcomes import result

from plumbing import settings

WORDS = ("", "-1", "0", "1", "1e308", "-1e308", "1e-320", "inf", "-inf", "nan", "²", "١٢", "9" * 5000, "1e400",
         "1000000", "100000000", "2147483648", "9223372036854775808", "1e18", "0x10", "1_000", "True", "None", "[]",
         "{}", "{999999999}", "{1000000}_", "_" * 2000, "\udcff\udcfe", "a/b", "/dev/null", "/dev/full", "/dev/zero",
         "~nouser", "~", ".", "..", "/", "x" * 300, "é" * 200, "x" * 5000, "text.txt", "text.txt/x", "secret.txt/",
         "checkpoints", "configs", "dllm", "gpt", "scale", "tamil", "shakespeare", "kural,,", ",", "--", "-",
         "--fresh", "cuda", "cuda:9", "mps", "meta", "xla", "out.gif", "out.html", "no/such/out.gif", "/proc/out.gif",
         *TEXTS)  # fmt: skip
# Flags for which such a number is an order for hours of work, and not a mistake.
PATIENT = {"steps", "minutes", "plain", "compare", "limit"}
LARGE = {"inf", "1e308", "1e18", "1000000", "100000000", "2147483648", "9" * 5000}
MODEL = "--device", "cpu", "--seed", 1
BASES = {  # {program: the command lines that an attack changes}
    "05_train": [command("dllm", "--steps", 2, run="new")],
    "06_generate": [
        ("06_generate", "--checkpoint", "dllm", "--len", 24, "--steps", 4, *MODEL),
        ("06_generate", "--checkpoint", "dllm", "--infill", "ab{9}_c", *MODEL),
    ],
    "07_train_gpt": [
        command("gpt", "--steps", 2, run="new"),
        ("07_train_gpt", "--write", "--run", "gpt", "--len", 24, "--device", "cpu"),
    ],
    "08_train_tamil": [command("tamil", "--steps", 2, run="new")],
    "09_generate_tamil": [
        ("09_generate_tamil", "--checkpoint", "tamil", "--len", 24, "--steps", 4, *MODEL),
        ("09_generate_tamil", "--checkpoint", "tamil", "--kural", "--steps", 4, *MODEL),
    ],
    "11_fast_decoding": [("11_fast_decoding", "--write", "--checkpoint", "dllm", "--len", 24, *MODEL)],
    "12_scale": [command("scale", "--steps", 2, run="new")],
    "tamil_dataset": [("tamil_dataset", "--only", "kural,kuruntokai")],
    "tamil_wikipedia": [
        ("tamil_wikipedia", "--api", "--limit", 1, "--contact", "you@example.org"),
        ("tamil_wikipedia", "--dump"),
    ],
    "plumbing.hub": [("plumbing.hub", "dllm", "--export", "out"), ("plumbing.hub", "dllm", "--push", "owner/name")],
}
PATIENCE = {"plumbing.web.LONGEST_PAUSE": 0.1, "plumbing.tamil.fetching.Fetcher.PAUSE": 0.0}


def attack(arena, draw):
    """Change one or two flags of a command line that works, or give it words that are no flags."""
    program = draw.choice(list(BASES))
    _, *argv = map(str, draw.choice(BASES[program]))
    names = [*settings.flag_types(import_module(program).Command), "config"]
    for _ in range(draw.choice((1, 1, 1, 2))):
        name, word = draw.choice(names), draw.choice(WORDS)
        if name in PATIENT and word in LARGE:
            word = "²"
        way = draw.random()
        flag = "--" + name.replace("_", "-")
        if way < 0.75:
            argv += [flag, word]
        elif way < 0.85:
            argv += [f"{flag}={word}"]
        elif way < 0.92:
            argv.insert(draw.randrange(len(argv) + 1), word)
        else:
            argv.insert(draw.randrange(len(argv) + 1), flag)
    argv = [word.replace("\0", "") for word in argv]  # no command line can contain it
    label = " ".join([program, *(ascii(word)[1:-1][:60] for word in argv)])
    return result(label, arena.run(program, *argv, patience=PATIENCE))
