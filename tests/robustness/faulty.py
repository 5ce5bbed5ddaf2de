"""A server that gives good answers, and then those of a fault. It speaks HTTP by hand: no library would be so wrong."""

import contextlib
import socket
import socketserver
import threading

BLOCK = b"x" * (1 << 16)


class Server(socketserver.ThreadingTCPServer):
    """Gives `healthy` good answers, then faults. fault: a function of (connection, headers, body), or None.

    answer: a function of (method, path) that returns the headers and the body of a good answer.
    """

    daemon_threads, allow_reuse_address = True, True

    def __init__(self, answer, fault, healthy):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.fault, self.healthy = answer, fault, healthy
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.closing = threading.Event()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.closing.set()
        self.shutdown()
        self.server_close()

    def handle_error(self, request, address):
        """Print nothing: the program under attack may be killed while we speak to it."""


class Handler(socketserver.StreamRequestHandler):
    """One connection. It is what a fault speaks through."""

    def handle(self):
        lines = []
        while (line := self.rfile.readline(1 << 16)) not in (b"\r\n", b"\n", b""):
            lines.append(line.decode("latin-1"))
        if not lines:
            return
        method, path, *_ = lines[0].split()
        headers, body = self.server.answer(method, path.partition("?")[0])
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(OSError):
            if self.server.fault is None or self.server.healthy > 0:
                self.server.healthy -= 1
                self.reply(headers | {"Content-Length": len(body)}, body if method == "GET" else b"")
            else:
                self.server.fault(self, headers, body)

    def reply(self, headers, body=b"", status="200 OK"):
        """Send a whole answer."""
        self.send(head(headers, status) + body)

    def send(self, data):
        self.connection.sendall(data)

    def slowly(self, data, seconds=0.2):
        """Send one byte after the other, until the client or the attack ends."""
        for byte in data:
            self.send(bytes([byte]))
            if self.server.closing.wait(seconds):
                return

    def endlessly(self, data=BLOCK, limit=1 << 30, seconds=0.0):
        """Send the same bytes again and again. limit: more bytes than any program of the book may accept."""
        for _ in range(limit // len(data)):
            self.send(data)
            if self.server.closing.wait(seconds):
                return


def head(headers, status="200 OK"):
    """The bytes before the body of an answer."""
    lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode("utf-8", "surrogatepass")
