"""A local web server for tests, with the faults of real servers.

    with FaultServer(answer) as server:
        fetch(server.url + "/file")

`answer(request)` returns a Reply, or a word that `fault` turns into a Reply. Each request first takes the next entry of
`server.faults`: a word, a Reply, or None for an ordinary answer. `server.always` is a fault for all requests, and
`server.requests` lists all requests.
"""

import gzip
import itertools
import socket
import threading
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
    wait: float = 0  # seconds of silence before the answer
    drop: bool = False  # close the connection without any answer
    stream: object = None  # an iterable of bytes, sent in place of all above, with a pause of `pace` after each
    pace: float = 0


def fault(word, body=b"x" * 1000):
    """Return the faulty Reply for a word, in place of the correct answer `body`. The word is one of these:

    "404", "429 7" (a status, and its Retry-After), "302 ADDRESS" (a redirect), "drop", "truncated", "wrong" (one byte
    differs), or a key of ENDLESS.
    """
    if word in ENDLESS:
        return Reply(stream=ENDLESS[word](), pace=0.02 if word.startswith("slow") else 0)
    word, _, rest = word.partition(" ")
    if word.isdigit():
        name = "Location" if word.startswith("3") else "Retry-After"
        return Reply(int(word), headers={name: rest} if rest else {})
    return {
        "drop": Reply(drop=True),
        "truncated": Reply(body=body[: len(body) // 2], length=len(body)),
        "wrong": Reply(body=body[:-1] + bytes([body[-1] ^ 1])),
    }[word]


def after(head, piece):
    """Return a function that makes an endless answer: the bytes `head`, then `piece` again and again."""
    return lambda: itertools.chain([b"HTTP/1.1 200 OK\r\n" + head + b"\r\n"], itertools.repeat(piece))


ENDLESS = {  # answers that never end. Those whose name begins with "slow" send 50 pieces in a second.
    "slow body": after(b"", b"x"),
    "slow chunk": after(b"Transfer-Encoding: chunked\r\n", b"0"),
    "body": after(b"", b"x" * 60_000),
    "compressed": after(b"Content-Encoding: gzip\r\n", gzip.compress(bytes(1 << 22))),
}


def refused():
    """Return an address of this machine at which no server listens."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


class Handler(BaseHTTPRequestHandler):
    def handle_request(self):
        server = self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        request = SimpleNamespace(method=self.command, path=self.path, headers=self.headers, body=body)
        server.requests.append(request)
        due = server.faults.pop(0) if server.faults else None
        reply = server.always or due or server.answer(request)
        reply = server.fault(reply) if isinstance(reply, str) else reply
        server.closing.wait(reply.wait)
        with suppress(OSError):  # the client may have gone
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
        if self.command != "HEAD":
            self.wfile.write(reply.body)

    def log_message(self, *args):
        pass


class FaultServer(ThreadingHTTPServer):
    daemon_threads, block_on_close = True, False

    def __init__(self, answer, fault=fault):
        """`answer` is a function of a request (method, path, headers, body). `fault` is a function of a word."""
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.fault = answer, fault
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.requests, self.faults, self.always = [], [], None
        self.closing = threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.closing.set()
        self.shutdown()
        self.server_close()
