"""Attack 5: a server that answers wrongly, slowly, endlessly or with lies, to every program that uses the network.

After an attack the same program meets a healthy server: what the faulty one left in data/ must not stand in its way.
"""

import bz2
import hashlib
import io
import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import openpyxl
from faults import draw_fault
from faulty import Server
from outcomes import Result, classify, result
from tamil_verse import WORDS

PATIENCE = {
    "plumbing.web.LONGEST_PAUSE": 0.1,
    "plumbing.web.LONGEST_WAIT": 3,
    "plumbing.web.ATTEMPTS": 3,
    "plumbing.web.SILENCE": 1.0,
    "plumbing.web.LONG_SILENCE": 2.0,
    "plumbing.hub.ANSWER": 2,
    "plumbing.hub.TRANSFER": 10,
    "plumbing.tamil.fetching.Fetcher.PAUSE": 0.0,
}


@dataclass
class Client:
    """A program that uses the network, the variable that names its server, and what a healthy server answers."""

    command: tuple
    variable: str
    path: str  # behind the server's address
    answer: Callable  # (arena, method, path) → (headers, body)


def attack(arena, draw):
    """One program against one fault, which begins at one of its first requests."""
    name = draw.choice(list(CLIENTS))
    client, healthy = CLIENTS[name], draw.choice((0, 0, 0, 1, 2))
    label, fault = draw_fault(draw, shapes=name in ("wikipedia", "kural") and draw.random() < 0.5)

    def answer(method, path):
        return client.answer(arena, method, path)

    with Server(answer, fault, healthy) as server:
        environment = {client.variable: server.url + client.path}
        ended = arena.run(*client.command, environment=environment, patience=PATIENCE, seconds=75)
        found = result(f"{name} after {healthy} good answers: {label}", ended)
        if found.outcome == "message":
            server.fault = None
            again = arena.run(*client.command, environment=environment)
            if again.code:
                outcome = "lost" if classify(again) == "message" else classify(again)
                detail = f"first {found.detail[:100]}; then with a healthy server {again.err[-150:]}"
                return Result(found.label, outcome, ascii(detail)[1:-1])
    return found


# What healthy servers answer


def hub_answer(arena, method, path):
    """The Hub, which offers two of our runs as models/dllm and models/gpt."""
    _, _, name, *_, file = path.split("/")
    data = (arena.store / "checkpoints" / name / file).read_bytes()
    headers = {"X-Repo-Commit": "c" * 40, "ETag": f'"{hashlib.sha256(data).hexdigest()}"', "Content-Type": "text/plain"}
    return headers, data


def text_of_words(number, form, seed):
    draw = random.Random(seed)
    return [[" ".join(draw.choices(WORDS, k=words)) for words in form] for _ in range(number)]


@cache
def kural():
    rows = [{"Number": i, "Line1": a, "Line2": b} for i, (a, b) in enumerate(text_of_words(1330, (4, 3), 1), 1)]
    return {"Content-Type": "application/json"}, json.dumps({"kural": rows}).encode()


@cache
def page():
    """A page of 401 poems in the form of Project Madurai."""
    poems = text_of_words(401, (4, 4, 4, 4, 4, 3), 2)
    body = "".join(f"<br>{i}. <br>\n" + "<br>\n".join(poem) + "<br>\n<br>\n" for i, poem in enumerate(poems, 1))
    html = f"<html><head><title>குறுந்தொகை</title></head><body><h2>குறுந்தொகை</h2>\n{body}</body></html>"
    return {"Content-Type": "text/html; charset=utf-8"}, html.encode()


@cache
def sheet():
    book = openpyxl.Workbook()
    for i, poem in enumerate(text_of_words(398, (4, 4, 4, 4, 4, 4, 3), 3), 1):
        book.active.append([i, "\n".join(poem)])
    file = io.BytesIO()
    book.save(file)
    return {}, file.getvalue()


ARTICLE = "யாதும் ஊரே யாவரும் கேளிர் தீதும் நன்றும் பிறர்தர வாரா நோதலும் தணிதலும் அவற்றோ ரன்ன சாதலும் புதுவது அன்றே " * 2


def wikipedia_answer(arena, method, path):
    random_list = {"random": [{"id": i, "ns": 0, "title": f"t{i}"} for i in range(1, 6)]}
    pages = {"pages": [{"pageid": 1, "title": "t", "extract": ARTICLE}]}
    return {"Content-Type": "application/json"}, json.dumps({"query": random_list | pages}).encode()


DUMP = """<mediawiki>
  <siteinfo>
    <base>https://ta.wikipedia.org/wiki/x</base>
    <namespaces>
      <namespace key="10" case="first-letter">வார்ப்புரு</namespace>
    </namespaces>
  </siteinfo>
  <page>
    <title>t</title>
    <ns>0</ns>
    <id>1</id>
    <revision>
      <id>1</id>
      <text xml:space="preserve">ARTICLE</text>
    </revision>
  </page>
</mediawiki>
"""


def dump_answer(arena, method, path):
    """A dump of one article. wikiextractor expects one tag in each line."""
    return {"ETag": '"1"'}, bz2.compress(DUMP.replace("ARTICLE", ARTICLE).encode())


WRITE_6 = "06_generate", "--hub", "models/dllm", "--len", 16, "--steps", 2
WRITE_7 = "07_train_gpt", "--write", "--hub", "models/gpt", "--len", 16
ARTICLES = "tamil_wikipedia", "--api", "--limit", 1, "--contact", "you@example.org"
CLIENTS = {
    "hub": Client(WRITE_6, "HF_ENDPOINT", "", hub_answer),
    "hub of the GPT": Client(WRITE_7, "HF_ENDPOINT", "", hub_answer),
    "kural": Client(("tamil_dataset", "--only", "kural"), "TINY_DLLM_KURAL_URL", "/kural.json", lambda *_: kural()),
    "madurai": Client(("tamil_dataset", "--only", "kuruntokai"), "TINY_DLLM_MADURAI_URL", "", lambda *_: page()),
    "spreadsheet": Client(("tamil_dataset", "--only", "purananuru"), "TINY_DLLM_PURANANURU_URL", "/p.xlsx",
                          lambda *_: sheet()),
    "wikipedia": Client(ARTICLES, "TINY_DLLM_WIKIPEDIA_API_URL", "/api.php", wikipedia_answer),
    "dump": Client(("tamil_wikipedia", "--dump"), "TINY_DLLM_WIKIPEDIA_DUMP_URL", "/dump.xml.bz2", dump_answer),
}  # fmt: skip
