"""The warm process of the arena: it has imported the book, and forks itself for each attack.

python warm.py FOLDER    reads lists of orders from stdin, one a line, and answers each with a list of their ends
"""

import contextlib
import json
import os
import pkgutil
import resource
import signal
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

import torch

PROGRAMS = """05_train 06_generate 07_train_gpt 08_train_tamil 09_generate_tamil 10_dllm_vs_gpt 11_fast_decoding
    12_scale tamil_dataset tamil_wikipedia plumbing.hub""".split()
LIBRARIES = "torch._dynamo.aot_compile", "matplotlib.pyplot", "matplotlib.backends.backend_agg", "requests", "openpyxl"


def serve(folder):
    """Read lists of orders from stdin, one a line, and answer each with a list of the ends."""
    torch.set_num_threads(1)
    sys.path[0], sys.modules["warm"] = folder, sys.modules[__name__]
    for name in (*PROGRAMS, *LIBRARIES):
        import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        children = [Child(request) for request in json.loads(line)]
        while any(child.end is None for child in children):
            for child in children:
                child.look()
            time.sleep(0.005)
        answers.write(json.dumps([child.end for child in children]) + "\n")
        answers.flush()


class Child:
    """One forked process. `end` is None until it has ended, and then what Ended needs."""

    def __init__(self, request):
        self.request, self.end, self.stopped, self.peak = request, None, "", 0.0
        self.files = [open(f"attack.{id(self)}.{name}", "w+b") for name in ("out", "err")]
        self.began = time.monotonic()
        self.pid = os.fork()
        if not self.pid:
            become(request, *self.files)

    def look(self):
        """Stop the process at its limits, and note its end."""
        if self.end is not None:
            return
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        seconds = time.monotonic() - self.began - self.request["wait"]
        if pid:
            self.kill()  # what it has started itself
            self.finish(os.waitstatus_to_exitcode(status), seconds, usage.ru_maxrss / 1024)
        elif reached := self.reached(seconds):
            self.stopped = self.stopped or reached
            self.kill()

    def reached(self, seconds):
        """The limit that the process has reached, or ""."""
        with contextlib.suppress(OSError):
            pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
            self.peak = max(self.peak, pages * os.sysconf("SC_PAGE_SIZE") / 2**20)
        if self.request["kill_after"] is not None and seconds > self.request["kill_after"]:
            return "kill"
        if seconds > self.request["seconds"]:
            return "hang"
        return "memory" if self.peak > self.request["megabytes"] else ""

    def finish(self, code, seconds, megabytes):
        """Set `end`. megabytes: the largest memory that the system has seen, which may be more than we have."""
        peak = max(self.peak, megabytes)
        if peak > self.request["megabytes"]:
            self.stopped = "memory"
        out, err = map(self.content, self.files)
        self.end = {"code": code, "out": out, "err": err, "stopped": self.stopped}
        self.end |= {"seconds": round(seconds, 2), "megabytes": round(peak)}

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    @staticmethod
    def content(file):
        """The text of an output file, which is deleted; of a very long one the first megabytes."""
        file.seek(0)
        text = file.read(1 << 23).decode("utf-8", "replace")
        file.close()
        os.unlink(file.name)
        return text


def become(request, out, err):
    """Turn a forked process into the program that was asked for. Does not return."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(os.open(request["stdout"], os.O_WRONLY) if request["stdout"] else out.fileno(), 1)
    os.dup2(err.fileno(), 2)
    sys.stdin, sys.stdout, sys.stderr = (
        os.fdopen(os.dup(i), mode, encoding="utf-8", errors=errors, buffering=1 if i == 2 else -1)
        for i, mode, errors in ((0, "r", "strict"), (1, "w", "strict"), (2, "w", "backslashreplace"))
    )
    if request["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["file_size"],) * 2)
    os.environ.update(request["environment"])
    time.sleep(request["wait"])
    os._exit(start(request))


def start(request):
    """Run the program of a request, as Python itself would. Returns its exit code."""
    from plumbing import cli

    code = 0
    try:
        for name, value in request["patience"].items():
            owner, _, constant = name.rpartition(".")
            setattr(pkgutil.resolve_name(owner), constant, value)
        sys.argv = [request["program"].split(":")[0] + ".py", *request["argv"]]
        module, _, function = request["program"].partition(":")
        cli.run(getattr(import_module(module), function or "main"))
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else bool(end.code)
    except BaseException:
        traceback.print_exc()
        code = 1
    with contextlib.suppress(OSError):  # cli.run has reported it
        sys.stdout.flush()
    sys.stderr.flush()
    return code


def read_published():
    """A program that converts a published file, as hub.fetch does once it has downloaded the file."""
    from plumbing import published

    path = Path(sys.argv[1])
    published.convert(published.read_pt(path), causal=False, file=path.name)


if __name__ == "__main__":
    serve(sys.argv[1])
