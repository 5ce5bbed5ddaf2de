"""The place of the attacks: a copy of the book, and a warm process that forks a new one for each attack.

    with Arena(folder) as arena:
        arena.reset()                                      # the files of the copy are as at the beginning
        ended = arena.run("06_generate", "--checkpoint", "dllm", "--len", "24")

Importing PyTorch takes seconds. So one process imports the whole book, and forks itself for each attack; the child then
runs the main() of a program as `python program` would. The parent measures its memory, and stops it at the limits.
"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

from outcomes import Ended

ROOT = Path(__file__).resolve().parents[2]
LIMIT_SECONDS, LIMIT_MEGABYTES = 60, 2048
CANARY, SECRET = "EXECUTED", "a secret of this machine"
DERIVED = "log.jsonl", "curve.png", "settings.yaml"  # a run that is resumed writes them before anything else
OFFLINE = "http://127.0.0.1:9"  # an address where no server listens
ADDRESSES = """HF_ENDPOINT TINY_DLLM_SHAKESPEARE_URL TINY_DLLM_KURAL_URL TINY_DLLM_MADURAI_URL TINY_DLLM_PURANANURU_URL
    TINY_DLLM_WIKIPEDIA_API_URL TINY_DLLM_WIKIPEDIA_DUMP_URL""".split()


class Arena:
    """A copy of the book in `folder`, the files that each attack begins with, and the warm process."""

    def __init__(self, folder):
        self.folder, self.store = Path(folder) / "book", Path(folder) / "store"
        self.runs, self.data = self.folder / "checkpoints", self.folder / "data"
        shutil.copytree(
            ROOT,
            self.folder,
            ignore=shutil.ignore_patterns(".*", "checkpoints", "data", "docs", "tests", "exercises", "__pycache__"),
        )
        (self.folder / "secret.txt").write_text(SECRET)
        for name in ("checkpoints", "data"):
            (self.store / name).mkdir(parents=True)

    def __enter__(self):
        usual = {"OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8", "MPLBACKEND": "Agg", "PIP_NO_INDEX": "1"}
        usual |= dict.fromkeys(ADDRESSES, OFFLINE)
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("warm.py")), str(self.folder)],
            cwd=self.folder,
            env=os.environ | usual,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *error):
        self.process.kill()  # at its own end it would tidy up all of PyTorch
        self.process.wait()

    def reset(self):
        """Put checkpoints/ and data/ back to what is in the store, and remove what an attack has left."""
        for name in ("checkpoints", "data"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
            shutil.copytree(self.store / name, self.folder / name)
        for path in self.folder.iterdir():
            if path.name in (CANARY, "out") or path.name.startswith("attack"):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def keep(self):
        """Store checkpoints/ and data/ as they are, for every later reset."""
        for name in ("checkpoints", "data"):
            shutil.rmtree(self.store / name)
            shutil.copytree(self.folder / name, self.store / name)

    def run(self, program, *argv, **options):
        """Run one program to its end. options: those of `order`. Returns an Ended."""
        return self.run_together(order(program, *argv, **options))[0]

    def run_together(self, *orders):
        """Run several programs at the same time. Returns a list of Ended, whose signs are about all of them.

        If all of them refuse to begin, they must leave every file as it was.
        """
        before = self.snapshot()
        self.process.stdin.write(json.dumps(orders) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the warm process has ended")
        ends = [Ended(**values) for values in json.loads(answer)]
        signs = self.signs(
            before,
            untouched=all(end.code not in (0, -signal.SIGKILL) for end in ends)
            and not any(order["file_size"] is not None for order in orders),
        )
        for end in ends:
            end.signs = signs
        return ends

    def snapshot(self):
        """{path: checksum} of the files below checkpoints/ and data/, without links."""
        paths = [path for name in ("checkpoints", "data") for path in (self.folder / name).rglob("*")]
        return {
            path: hashlib.sha256(path.read_bytes()).hexdigest()
            for path in paths
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 26
        }

    def signs(self, before, untouched):
        """What the files say about an attack. untouched: every program refused, so all files must be as before."""
        after, signs = self.snapshot(), set()
        found = [*self.folder.rglob(CANARY)]
        if found or any(SECRET.encode() in path.read_bytes() for path in after):
            signs.add("executed")
        for path, checksum in before.items():
            if any(part.startswith(".") for part in path.relative_to(self.folder).parts):
                continue  # a temporary file, which a later program may remove
            changed = untouched and after.get(path) != checksum and path.name not in DERIVED
            if path not in after and "state-" not in str(path) or changed:
                signs.add("lost")
        new = [path.name for path in after.keys() - before.keys()]
        if untouched and any(name.startswith(".") and name.endswith(".part") for name in new):
            signs.add("lost")
        return signs


def order(
    program,
    *argv,
    environment=(),
    patience=(),
    seconds=LIMIT_SECONDS,
    megabytes=LIMIT_MEGABYTES,
    kill_after=None,
    wait=0.0,
    file_size=None,
    stdout=None,
):
    """A request to the warm process, a dict.

    patience: {"module.NAME" or "module.Class.NAME": a shorter time in seconds}.
    seconds, megabytes: the limits. kill_after, wait: seconds until SIGKILL, and until the start.
    file_size: the largest file in bytes that the process may write. stdout: a file to write to.
    """
    return {
        "program": program,
        "argv": list(map(str, argv)),
        "environment": dict(environment),
        "wait": wait,
        "patience": dict(patience),
        "seconds": seconds,
        "megabytes": megabytes,
        "kill_after": kill_after,
        "file_size": file_size,
        "stdout": stdout,
    }
