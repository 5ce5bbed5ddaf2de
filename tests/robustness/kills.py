"""Attack 1: SIGKILL at a random moment, mostly of a run that saves after every step. Then the run is resumed.

Nothing may be lost: the weights and the state load, the log has every step up to the state, and the resumed run goes on
with the numbers of a run that nobody killed. Nor may temporary files stay behind.
"""

import json

import network
from faulty import Server, head
from fixtures import command
from outcomes import Result, classify, result

from plumbing import checkpoint, cli, runs

STEPS = 30  # a run that saves after every step takes some seconds for them
SAVING = "--evaluate-every", 1


def attack(arena, draw):
    """Kill a training run, or the download of a model."""
    return (download if draw.random() < 0.1 else training)(arena, draw)


def download(arena, draw):
    """Kill a program that downloads a model from a slow server, and start it again with a fast one."""
    client = network.CLIENTS["hub"]
    half, seconds = draw.random(), draw.uniform(0.1, 3.0)

    def slow(connection, headers, body):
        connection.send(head(headers | {"Content-Length": len(body)}) + body[: int(half * len(body))])
        connection.server.closing.wait(4)

    with Server(lambda method, path: client.answer(arena, method, path), slow, draw.choice((0, 1, 2, 3))) as server:
        environment = {client.variable: server.url + client.path}
        arena.run(*client.command, environment=environment, patience=network.PATIENCE, kill_after=seconds)
        server.fault = None
        ended = arena.run(*client.command, environment=environment, patience=network.PATIENCE)
    found = result(f"download killed after {seconds:.2f} s", ended)
    left = [path.name for path in arena.runs.rglob(".*") if path.name.startswith(".hub-") or path.suffix == ".part"]
    return Result(found.label, "lost", f"left behind: {left}") if left else found


def training(arena, draw):
    """Kill a run that goes on from step 6, look at its files, resume it for three steps, and look again."""
    name = draw.choice(("dllm", "dllm", "dllm", "gpt", "gpt", "scale"))
    fresh = ("--fresh",) * (draw.random() < 0.2)
    expected = uninterrupted(arena, name)
    seconds = draw.uniform(0.05, 2.0 if name == "scale" else 1.2)
    label = f"{name}{' --fresh' * bool(fresh)} killed after {seconds:.2f} s"
    program, *argv = command(name, "--steps", STEPS, *SAVING, *fresh, run=f"{name}-slow")
    arena.run(program, *argv, kill_after=seconds)
    folder = arena.runs / f"{name}-slow"
    complaint, step = inspect(folder, killed=True)
    if complaint:
        return Result(label, "lost", complaint)
    program, *argv = command(name, "--steps", min(STEPS, step + 3), *SAVING, run=f"{name}-slow")
    ended = arena.run(program, *argv)
    if fresh and classify(ended) == "message" and not (folder / "train_state.pt").exists():
        return Result(label, "message", ended.err[-300:])  # killed after it had deleted the old log, as it was told to
    if ended.code:
        return Result(label, classify(ended) if classify(ended) != "message" else "lost", ended.err[-300:])
    complaint, _ = inspect(folder, killed=False)
    logged = numbers(folder)
    if not complaint and logged[:-1] != expected[: len(logged) - 1]:  # the last evaluation is a longer one
        complaint = "the numbers differ from those of a run that nobody killed"
    outcome = "lost" if complaint else "accepted"
    return Result(f"{label}, at step {step}", outcome, complaint, ended.seconds, ended.megabytes)


def uninterrupted(arena, name):
    """The log of the run that nobody kills. It and the six steps from which the attack goes on are made only once."""
    path = arena.store / f"{name}.json"
    if not path.exists():
        slow = command(name, "--steps", STEPS, *SAVING, run=f"{name}-slow")
        assert arena.run(*slow).code == 0
        path.write_text(json.dumps(numbers(arena.runs / f"{name}-slow")))
        arena.reset()
        assert arena.run(*command(name, "--steps", 6, *SAVING, run=f"{name}-slow")).code == 0
        arena.keep()
    return json.loads(path.read_text())


def numbers(folder):
    """(step, training loss) of each line of a log."""
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [[record["step"], record["train_loss"]] for record in records]


def inspect(folder, killed, every=1):
    """(what is wrong with the files of a run or "", the step of its state). every: the steps between evaluations."""
    try:
        if (folder / "model.safetensors").exists():
            checkpoint.load(folder)
        state = runs.load_state(folder)
        step = state["progress"]["step"] if state else 0
        lines = (folder / "log.jsonl").read_text().splitlines() if (folder / "log.jsonl").exists() else []
        if killed and lines and not lines[-1].endswith("}"):
            lines.pop()  # the line that was being written
        steps = [json.loads(line)["step"] for line in lines]
    except (cli.UserError, ValueError, KeyError) as error:
        return str(error), 0
    if steps != [every * (i + 1) for i in range(len(steps))] or step > (steps[-1] if steps else 0):
        return f"the log has the steps {steps}, the state is of step {step}", step
    left = [path.name for path in folder.rglob("*") if path.name.endswith(".part")]
    if not killed and left:
        return f"left behind: {left}", step
    folders = [path.name for path in folder.glob("state-*")]
    if not killed and len(folders) > 1:
        return f"left behind: {folders}", step
    return "", step
