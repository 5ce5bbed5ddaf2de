"""A local web server for tests, with the faults of real ones.

    with FaultServer(answer) as server:
        fetch(server.url + "/file")

`answer(request)` returns a Reply, or a word that `fault` turns into one. Before it is asked, each request takes the
next entry of `server.faults`: a word, a Reply, or None for an ordinary answer. `server.always` holds for all requests.
`server.requests` lists what was asked; `server.most_at_once` is the largest number of requests at the same time.
"""

import gzip
import itertools
import re
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace


@dataclass
class Reply:
    status: int = 200
    body: bytes = b""
    headers: dict = field(default_factory=dict)
    length: int | None = None  # the Content-Length, where it should differ from the length of the body
    wait: float = 0  # seconds of silence before the first byte
    pace: float = 0  # seconds after each byte of the body
    drop: bool = False  # close the connection without any answer
    stream: object = None  # an iterable of bytes, sent in place of all above, with a pause of `pace` after each


def fault(word, body=b"x" * 1000):
    """The Reply for a word: what goes wrong with an answer that should be `body`.

    "404", "429 7" (a status, and its Retry-After), "drop", "silent", "slow", "truncated", "wrong" (one byte differs),
    "ok", "302 ADDRESS" (a redirect), or a key of ENDLESS.
    """
    if word in ENDLESS:
        return Reply(stream=ENDLESS[word](), pace=0.02 if word.startswith("slow") else 0)
    word, _, rest = word.partition(" ")
    if word.isdigit():
        name = "Location" if word.startswith("3") else "Retry-After"
        return Reply(int(word), headers={name: rest} if rest else {})
    return {
        "ok": Reply(body=body),
        "drop": Reply(drop=True),
        "silent": Reply(wait=1.5, drop=True),
        "slow": Reply(body=body[:200], length=len(body), pace=0.05),
        "truncated": Reply(body=body[: len(body) // 2], length=len(body)),
        "wrong": Reply(body=body[:-1] + bytes([body[-1] ^ 1])),
    }[word]


def after(head, piece):
    """A function that returns an endless answer: the bytes `head`, then `piece` again and again."""
    return lambda: itertools.chain([b"HTTP/1.1 " + head.replace(b"\n", b"\r\n")], itertools.repeat(piece))


LARGE = b"x" * 60_000
ENDLESS = {  # answers that never end. Those whose name begins with "slow" send 50 pieces in a second.
    "slow status": lambda: itertools.repeat(b"H"),
    "slow headers": after(b"200 OK\nX: ", b"x"),
    "slow continue": after(b"100 Continue\n\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "continue": after(b"100 Continue\n\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "slow body": after(b"200 OK\n\n", b"x"),
    "slow chunk": after(b"200 OK\nTransfer-Encoding: chunked\n\n", b"0"),
    "slow trailer": after(b"200 OK\nTransfer-Encoding: chunked\n\n0\n", b"X: y\r\n"),
    "body": after(b"200 OK\n\n", LARGE),
    "chunks": after(b"200 OK\nTransfer-Encoding: chunked\n\n", b"%x\r\n%b\r\n" % (len(LARGE), LARGE)),
    "compressed": after(b"200 OK\nContent-Encoding: gzip\n\n", gzip.compress(bytes(1 << 22))),
    "redirect": after(b"302 Found\nLocation: /again\n\n", LARGE),
    "busy": after(b"503 Busy\n\n", LARGE),
    "missing": after(b"404 Missing\n\n", LARGE),
    "headers": after(b"200 OK\n", b"X: y\r\n"),
}


def part_of(asked, body, tag=None, shift=0):
    """The Reply to the headers `asked`, which may ask for a Range of body if its version, If-Range, is still `tag`.

    shift: an error in the range that is sent.
    """
    headers = {"ETag": tag} if tag else {}
    part = re.fullmatch(r"bytes=(\d+)-", asked.get("Range", ""))
    if not part or asked.get("If-Range", tag) != tag:
        return Reply(body=body, headers=headers)
    start = int(part[1])
    if start >= len(body):
        return Reply(416, headers={"Content-Range": f"bytes */{len(body)}"})
    headers["Content-Range"] = f"bytes {start + shift}-{len(body) - 1}/{len(body)}"
    return Reply(206, body[start:], headers)


def refused():
    """An address of this machine where no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


class Handler(BaseHTTPRequestHandler):
    def handle_request(self):
        server = self.server
        length = int(self.headers.get("Content-Length", 0))
        request = SimpleNamespace(method=self.command, path=self.path, headers=self.headers,
                                  body=self.rfile.read(length))  # fmt: skip
        with server.lock:
            server.requests.append(request)
            server.active += 1
            server.most_at_once = max(server.most_at_once, server.active)
            due = server.faults.pop(0) if server.faults else None
        reply = server.always or due or server.answer(request)
        reply = server.fault(reply) if isinstance(reply, str) else reply
        server.closing.wait(reply.wait)
        with server.lock:  # before the answer leaves, since the next request may come at once after it
            server.active -= 1
        with suppress(OSError):  # the client may have been killed
            self.send(reply)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def send(self, reply):
        for piece in reply.stream or ():
            self.wfile.write(piece)
            if self.server.closing.wait(reply.pace):
                break
        if reply.drop or reply.stream:
            self.close_connection = True
            return
        self.send_response(reply.status)
        length = len(reply.body) if reply.length is None else reply.length
        for name, value in ({"Content-Length": str(length)} | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        if not reply.pace:
            self.wfile.write(reply.body)
        for byte in reply.body if reply.pace else b"":
            self.wfile.write(bytes([byte]))
            if self.server.closing.wait(reply.pace):
                return

    def log_message(self, *args):
        pass


class FaultServer(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def __init__(self, answer, fault=fault):
        """answer: a function of a request (method, path, headers, body). fault: a function of a word. See above."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.fault = answer, fault
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests, self.faults, self.always = [], [], None
        self.lock, self.closing = threading.Lock(), threading.Event()
        self.active = self.most_at_once = 0

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.closing.set()
        self.shutdown()
        self.server_close()


def record_pauses(monkeypatch):
    """A list of the seconds that programs would wait before they repeat a request. They no longer wait."""
    pauses = []
    clock = SimpleNamespace(sleep=pauses.append, time=time.time, monotonic=time.monotonic)
    monkeypatch.setattr("urllib3.util.retry.time", clock)
    return pauses
