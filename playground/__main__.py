"""A web page for the models of this book: watch them write, fill blanks, race, and compose a couplet.

    python -m playground                     # opens your browser; works without a network
    python -m playground --host 0.0.0.0      # other machines in your network can open the page too

docs/playground.md explains the page, and how to put it on a Hugging Face Space.
"""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import traceback
from dataclasses import dataclass
from importlib import import_module

from plumbing import cli


@dataclass(frozen=True)
class Command:
    """The flags of this program."""

    host: str | None = None  # address to listen at; by default 127.0.0.1, which only your own machine can reach
    port: int | None = None  # port to listen at; by default, the first free port from 7860 upwards

    def __post_init__(self):
        if self.port is not None and not 1 <= self.port <= 65535:
            raise ValueError(f"port must be from 1 to 65535, not {self.port}")


class Log:
    """A stream that escapes control characters with cli.printable, because a log can quote the text of a visitor."""

    def __init__(self, stream):
        self.stream = stream

    def __getattr__(self, name):
        return getattr(self.stream, name)

    def write(self, text):
        return self.stream.write(cli.printable(text, keep="\n"))


def log_error(*_):
    """Print the current exception in one line."""
    print(f"bad call: {cli.reason(sys.exception())}", file=sys.stderr)


def log_errors_in_one_line():
    """Make Gradio and its server print one line for each invalid call, instead of a long traceback."""
    traceback.print_exc = log_error
    logging.getLogger("uvicorn.error").addFilter(lambda record: record.exc_info is None or log_error())


def main(argv=None):
    settings = cli.parse(Command, argv)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the temporary folder is deleted after SIGTERM
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="playground-", ignore_cleanup_errors=True))
        os.environ.update(GRADIO_TEMP_DIR=folder, GRADIO_ANALYTICS_ENABLED="False", HF_HUB_DISABLE_TELEMETRY="1")
        stack.enter_context(contextlib.redirect_stdout(Log(sys.stdout)))
        stack.enter_context(contextlib.redirect_stderr(Log(sys.stderr)))
        log_errors_in_one_line()
        page = import_module("playground.page")  # Gradio reads the environment when it is imported, so set it first
        page.serve(settings.host, settings.port, inbrowser=settings.host is None)


if __name__ == "__main__":
    cli.run(main, out_of_memory="close other programs that use the GPU, or set CUDA_VISIBLE_DEVICES to nothing")
