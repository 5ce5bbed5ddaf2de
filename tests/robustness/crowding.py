"""Attack 7: a disk that is full, and two programs at once in one place.

A limit of the size of a file stands for the full disk: the write fails at some byte, with another error number.
"""

import json

from arena import order
from fixtures import command
from kills import SAVING, inspect, numbers
from outcomes import OUTCOMES, Result, classify, result


def attack(arena, draw):
    return draw.choice((small_disk, small_disk, twins, full_output))(arena, draw)


def small_disk(arena, draw):
    """No file may grow beyond a random size while a run is resumed. What was there must stay whole."""
    name = draw.choice(("dllm", "gpt", "scale"))
    sizes = [path.stat().st_size for path in (arena.runs / name).rglob("*") if path.is_file()]
    size = max(5000, draw.choice(sizes) + draw.choice((-1, -100, 0, 1, 100, -5000)))  # 5000 bytes hold the message
    program, *argv = command(name, "--steps", 8)
    found = result(f"{name} with files of at most {size:,} bytes", arena.run(program, *argv, file_size=size))
    complaint, _ = inspect(arena.runs / name, killed=False, every=2)
    if not complaint and (again := arena.run(program, *argv)).code:
        complaint = f"cannot be resumed: {again.err[-200:]}"
    if complaint:
        found.outcome, found.detail = "lost", complaint
    return found


def twins(arena, draw):
    """Two runs of one name, the second one a moment later. The second is refused, or both must be whole."""
    name, wait = draw.choice(("dllm", "gpt", "scale")), draw.choice((0.0, 0.05, draw.uniform(0, 1.5)))
    fresh = ("--fresh",) * (draw.random() < 0.3)
    first = command(name, "--steps", 12, *SAVING, run="twins")
    second = command(name, "--steps", 12, *SAVING, *fresh, run="twins")
    ends = arena.run_together(order(*first), order(*second, wait=wait))
    label = f"two runs {name}{' --fresh' * bool(fresh)} with {wait:.2f} s between"
    worst = min(map(classify, ends), key=list(OUTCOMES).index)
    complaint, step = inspect(arena.runs / "twins", killed=False)
    if not complaint and (step != 12 or [step for step, _ in numbers(arena.runs / "twins")] != list(range(1, 13))):
        complaint = f"the run ends at step {step}: {json.dumps(numbers(arena.runs / 'twins'))}"
    detail = complaint or " / ".join(end.err[-150:] for end in ends if end.code)
    return Result(label, "lost" if complaint else worst, ascii(detail)[1:-1][:300], max(end.seconds for end in ends))


def full_output(arena, draw):
    """The output goes to a full disk."""
    argv = draw.choice(
        (
            ("06_generate", "--checkpoint", "dllm", "--len", 24),
            command("dllm", "--steps", 8),
            ("09_generate_tamil", "--checkpoint", "tamil", "--len", 24),
            ("06_generate", "--help"),
            ("plumbing.hub", "dllm", "--export", "out"),
            command("scale", "--steps", 8),
        )
    )
    return result(f"{argv[0]} > /dev/full", arena.run(*argv, stdout="/dev/full"))
