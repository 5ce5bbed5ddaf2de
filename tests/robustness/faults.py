"""What a server can do wrong. Each function draws one fault and returns (what goes wrong, the fault).

A fault is a function of (connection, headers, body): a connection of faulty.py, and the good answer, which it spoils.
"""

import gzip
import json
import random
import zlib

from faulty import BLOCK, head
from forging import TEXTS, forge, to_json

LINES = [text.replace("\n", " ") for text in TEXTS[:8]]  # hostile texts that stay inside one header


def draw_fault(draw, shapes=False):
    """One fault of any kind. shapes: only answers in JSON of another shape."""
    kinds = (status, redirect, header, length, endless, slow, broken, other, json_shape, compressed)
    kind = json_shape if shapes else draw.choice(kinds)
    label, fault = kind(draw)
    return f"{kind.__name__}: {label}", fault


def status(draw):
    """Another status, a hostile reason, and pauses that no clock knows."""
    code = draw.choice(
        (100, 199, 201, 204, 206, 301, 304, 400, 401, 403, 404, 407, 416, 418, 429, 451, 500, 503, 599, 999, 0)
    )
    reason = draw.choice(("", "OK", "Not Found", *LINES))
    pauses = "0", "1", "²", "-1", "nan", "1e9", "99999999999", "Mon, 99 Foo", "9" * 5000, ""
    more = draw.choice(
        (
            {},
            {"Retry-After": draw.choice(pauses)},
            {"WWW-Authenticate": "Basic"},
            {"X-Error-Code": draw.choice(("RepoNotFound", "GatedRepo", "EntryNotFound", *LINES))},
            {"X-Error-Message": draw.choice(LINES)},
        )
    )

    def fault(connection, headers, body):
        connection.reply(headers | more | {"Content-Length": 5}, b"sorry", f"{code} {reason}")

    return f"{code} {reason!r} {more!r:.60}", fault


def redirect(draw):
    """A redirect to an address that no program should follow, or cannot."""
    addresses = """file:///etc/passwd file:secret.txt ftp://127.0.0.1/x gopher://x data:,x // http:// http://[ /
        http://127.0.0.1:99999/ http://127.0.0.1:9/ http://user:pass@127.0.0.1:9/ javascript:x""".split()
    target = draw.choice((*addresses, "", "http://" + "a" * 300 + "/", "http://\x1b[2J/", "x" * 60_000, *LINES))
    code = draw.choice((301, 302, 303, 307, 308, 300))

    def fault(connection, headers, body):
        connection.reply(headers | {"Location": target, "Content-Length": 0}, status=f"{code} Found")

    return f"{code} to {target!r:.60}", fault


def header(draw):
    """A header that lies, or that is a weapon. A newline in it begins another header."""
    names = """ETag X-Repo-Commit Content-Type Content-Range Last-Modified Set-Cookie X-Linked-Size X-Linked-Etag Link
        Date Transfer-Encoding Content-Encoding Content-Disposition""".split()
    values = ["", "0" * 64, '"' + "0" * 64 + '"', "-1", "9" * 400, "1e9", "../../x", "bytes 5-9/3", "bytes */*", "zstd"]
    values += ["identity, br", "chunked", 'W/"x"', *(text[:60_000].replace("\n", "\r\n") for text in TEXTS)]
    name, value = draw.choice(names), draw.choice(values)

    def fault(connection, headers, body):
        connection.reply(headers | {"Content-Length": len(body), name: value}, body)

    return f"{name}: {value!r:.60}", fault


def length(draw):
    """A length that is not the body's, or no number."""
    values = "0", "1", "-1", "1" + "0" * 18, "9" * 400, "²", "1, 2", "abc", "1e3", "", "0x10", str(1 << 29)
    value = draw.choice(values)
    word = draw.choice(("200 OK", "206 Partial Content"))

    def fault(connection, headers, body):
        connection.reply(headers | {"Content-Length": value}, body, word)

    return f"{value!r:.40} with {word}", fault


def endless(draw):
    """An answer without an end."""
    bodies = {"body": BLOCK, "brackets": b"[" * (1 << 16), "zeros": bytes(1 << 16), "tags": b"<![" * 20_000}
    way = draw.choice((*bodies, "headers", "one header", "100 Continue", "chunks", "redirects"))

    def fault(connection, headers, body):
        if way in ("headers", "one header"):
            connection.send(b"HTTP/1.1 200 OK\r\nX-A: ")
            connection.endlessly(b"b\r\nX-A: " * 1000 if way == "headers" else BLOCK)
        elif way == "100 Continue":
            connection.endlessly(b"HTTP/1.1 100 Continue\r\n\r\n" * 50, seconds=0.0005)
        elif way == "chunks":
            connection.reply(headers | {"Transfer-Encoding": "chunked"})
            connection.endlessly(b"10000\r\n" + BLOCK + b"\r\n")
        elif way == "redirects":
            connection.reply(headers | {"Location": "/again", "Content-Length": 0}, status="302 Found")
        else:
            connection.reply(headers)
            connection.endlessly(bodies[way])

    return way, fault


def slow(draw):
    """Silence, or five bytes a second."""
    way = draw.choice(("silence", "status", "headers", "body", "body after half", "chunk sizes"))

    def fault(connection, headers, body):
        start = head(headers | {"Content-Length": len(body)})
        if way == "silence":
            connection.server.closing.wait(120)
        elif way == "status":
            connection.slowly(start)
        elif way == "headers":
            connection.send(b"HTTP/1.1 200 OK\r\n")
            connection.slowly(b"X-A: b\r\n" * 10_000)
        elif way == "chunk sizes":
            connection.reply(headers | {"Transfer-Encoding": "chunked"})
            connection.slowly(b"1\r\nx\r\n" * 10_000)
        else:
            half = len(body) // 2 if way == "body after half" else 0
            connection.send(start + body[:half])
            connection.slowly(body[half:] + bytes(10_000))

    return way, fault


def broken(draw):
    """An answer that breaks off, or that is not HTTP."""
    noise, chunks = draw.randbytes(3000), head({"Transfer-Encoding": "chunked"})
    ways = {
        "nothing": lambda start, body: b"",
        "noise": lambda start, body: noise,
        "half a status": lambda start, body: b"HTTP/1.1 2",
        "half the headers": lambda start, body: start[: len(start) // 2],
        "half the body": lambda start, body: start + body[: len(body) // 2],
        "wrong bytes": lambda start, body: start + body[::-1],
        "bad chunks": lambda start, body: chunks + b"zz\r\n" + body[:100] + b"\r\n-5\r\n",
        "HTTP/9": lambda start, body: b"HTTP/9.9 200 OK\r\n\r\n" + body,
        "ICY": lambda start, body: b"ICY 200 OK\r\n\r\n" + body,
    }
    way = draw.choice(list(ways))

    def fault(connection, headers, body):
        connection.send(ways[way](head(headers | {"Content-Length": len(body)}), body))

    return way, fault


def other(draw):
    """A good answer with another body: a login page, an empty one, a page that is hard to parse."""
    poems = "<br>1.<br>யாதும்\x9bஊரே\u202e<br>\x1b]0;FORGED\x07 யாதும் ஊரே<br>".encode()
    bodies = [b"", b"<html><title>Log in</title>", b"<![" * 300_000, b"<" * 500_000, b"&#" * 300_000, b"<a " * 300_000]
    bodies += [b"<!--" * 200_000, b"<table>" * 100_000, b"\xff\xfe" * 1000, b"PK\3\4" + bytes(1000), poems * 200]
    bodies += [b"BZh9" + bytes(1000), bytes(100_000)]
    body = draw.choice(bodies)

    def fault(connection, headers, good):
        connection.reply(headers | {"Content-Length": len(body)}, body)

    return f"{body[:20]!r} and so on, {len(body):,} bytes", fault


def json_shape(draw):
    """JSON of another shape."""
    information = {"code": draw.choice(("maxlag", "x", *LINES)), "info": draw.choice((None, 3, [], *TEXTS))}
    texts = {
        "deep": "[" * 200_000,
        "digits": "9" * 5000,
        "not a number": '{"query": NaN}',
        "error": json.dumps({"error": information}),
        "other": draw.choice(("null", "[]", "3", '"x"', "{}")),
    }
    way, seed = draw.choice((*texts, *["forged"] * 4)), draw.randrange(2**31)

    def fault(connection, headers, body):
        text = texts.get(way, '{"a": ["b"]}')
        if way == "forged" and body[:1] in b"{[":
            text = to_json(forge(json.loads(body), random.Random(seed))[1])
        data = text.encode("utf-8", "surrogatepass")
        connection.reply(headers | {"Content-Length": len(data)}, data)

    return f"{way} {texts.get(way, seed)!r:.60}", fault


def compressed(draw):
    """A body that is compressed although nobody asked for it, or that says so and is not."""
    form = draw.choice(("gzip", "deflate", "br", "zstd", "gzip, gzip", "x"))
    data = bytes(1 << 28) if draw.random() < 0.6 else b"small" * 100
    squeeze = zlib.compress if form == "deflate" else gzip.compress

    def fault(connection, headers, body):
        small = squeeze(data)
        connection.reply(headers | {"Content-Length": len(small), "Content-Encoding": form}, small)

    return f"{form}, {len(data):,} bytes", fault
