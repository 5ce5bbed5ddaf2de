"""playground.py in a real browser: every tab as a person would use it, hostile input, and many visitors at once.

PLAYGROUND_PICTURE=docs/figures/playground.png python -m pytest tests/chapters/test_playground.py -k picture
takes the picture of the README, with the shipped model.
"""

import asyncio
import concurrent.futures
import contextlib
import html
import json
import os
import re
import shutil
import socket
import threading
import time
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import requests
import torch
from helpers import Book, make_model, seeded, start
from tamil_verse import SOURCES

from plumbing import checkpoint, cli, stage, tokenizers, widgets

diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
hybrid = import_module("13_block_diffusion")
playground = import_module("playground")

LETTERS = "\n abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,:!'\"<>/=(){}$`&;"
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update",
             "--disable-sync", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
SECONDS = 1000  # in the milliseconds of Playwright


# 1. A server and a browser


def free_port():
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return listener.getsockname()[1]


def listing(folder):
    """The files below a folder and their sizes, without those that Python caches."""
    return {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*")
            if path.is_file() and "__pycache__" not in path.parts}  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """playground.py with small untrained models: a dLLM, a larger and slower one, a GPT and a Tamil dLLM.

    It has folders of its own for HOME and temporary files. It must leave nothing behind.
    """
    pytest.importorskip("gradio", reason="the page needs gradio")
    folder = tmp_path_factory.mktemp("playground")
    book, characters = Book(folder / "book"), tokenizers.CharTokenizer(LETTERS)
    tamil = tokenizers.TamilTokenizer.from_text(SOURCES["kural"][0])
    slow = dict(seq_len=512, n_layer=16, n_embd=128)
    for name, kind, tokenizer, shape in (
            ("slow", "dllm", characters, slow), ("tiny", "dllm", characters, {"seq_len": 64}),
            ("tiny-gpt", "gpt", characters, {"causal": True}), ("tiny-tamil", "tamil", tamil, {"seq_len": 64})):
        model = make_model(tokenizer.vocab_size, std=0.1, **shape)
        checkpoint.save(book.runs / name, model, tokenizer, {"kind": kind})
    both = hybrid.Hybrid(make_model(len(LETTERS), causal=True, seq_len=64).config)
    checkpoint.save(book.runs / "tiny-hybrid", both, characters, {"kind": "hybrid"})
    if (checkpoint.SHIPPED / "model.safetensors").is_file():  # it keeps its date, and the latest is the default
        shutil.copytree(checkpoint.SHIPPED, book.runs / checkpoint.SHIPPED.name)
    before, port = listing(book.folder), free_port()
    for name in ("home", "temporary"):
        (folder / name).mkdir()
    with open(folder / "log", "w") as log:
        process = start("playground.py", "--port", port, cwd=book.folder, stderr=log, HOME=str(folder / "home"),
                        BROWSER="true", TMPDIR=str(folder / "temporary"))
        try:
            address = f"http://127.0.0.1:{port}"
            while not answers(address):
                assert process.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            jobs = requests.get(f"{address}/config", timeout=60).json()["dependencies"]
            write = next(job["id"] for job in jobs if job["api_name"] == "write")
            yield SimpleNamespace(address=address, port=port, runs=book.runs, write=write)
            assert listing(book.folder) == before and not listing(folder / "home")
        finally:
            process.terminate()
            process.communicate(timeout=60)
    assert not listing(folder / "temporary") and "Traceback" not in (folder / "log").read_text()


def answers(address):
    with contextlib.suppress(requests.ConnectionError):
        return requests.get(address, timeout=5).ok


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the tests of the page need playwright")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("the tests of the page need chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        browser.close()


@contextlib.contextmanager
def visiting(browser, server, width=1200, height=900, scheme="light"):
    """The page, opened by a new visitor. No error, no dialog and no request to another machine may occur."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page, complaints = context.new_page(), []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: complaints.append(request.url)
            if not request.url.startswith((server.address, "data:", "blob:", "about:")) else None)  # fmt: skip
    page.set_default_timeout(60 * SECONDS)
    page.goto(server.address)
    page.get_by_role("button", name="Write", exact=True).wait_for()
    yield page
    context.close()
    assert not complaints


@pytest.fixture
def page(browser, server):
    with visiting(browser, server) as page:
        yield page


def press(page, name):
    page.get_by_role("button", name=name, exact=True).locator("visible=true").click()


def labelled(page, label):
    """The visible field with this label, behind which there may be a hint."""
    field = page.get_by_label(re.compile(rf"^\s*{label}")).and_(page.locator("input, textarea"))
    return field.locator("visible=true").first


def give(page, **fields):
    """Fill in fields of the visible tab: give(page, Passes=20, Prompt="a")."""
    for name, value in fields.items():
        label = f"number input for {name}" if name in ("Length", "Passes") else name
        labelled(page, label).fill(str(value))
        page.keyboard.press("Tab")


def choose(page, label, option):
    labelled(page, label).click()
    page.get_by_role("option", name=option, exact=True).click()


def texts(page, tab="write"):
    """The texts that the page shows, a list."""
    return page.locator(f"#{tab} .text").all_text_contents()


def said(page, words, tab="write"):
    """Wait for a message that contains `words`, and return it whole."""
    message = page.locator(f"#{tab} .prose.said", has_text=words)
    message.wait_for()
    return message.text_content()


def states(page, number, tab="write"):
    """Wait for `number` different texts, and return them."""
    seen, end = [], time.monotonic() + 120
    while len(seen) < number:
        assert time.monotonic() < end, f"the page shows only {len(seen)} different texts"
        if texts(page, tab) not in seen:
            seen.append(texts(page, tab))
        page.wait_for_timeout(10)
    return seen


def settled(page, tab="write"):
    """Wait until the texts have stayed the same for a second, and return them."""
    before = None
    while before != texts(page, tab):
        before = texts(page, tab)
        page.wait_for_timeout(1 * SECONDS)
    return before


def expected(folder, prompt, length, passes, seed):
    """The text that the model in `folder` writes with a random generator of its own."""
    model, tokenizer, _ = checkpoint.load(folder)
    canvas = torch.tensor([generation.parse_prompt(prompt, length, tokenizer)])
    *_, last = generation.generate(model, canvas, passes, generator=seeded(seed))
    return tokenizer.decode(last.canvas[0])


# 2. The four tabs


def test_write_shows_the_text_while_it_appears(page, server):
    give(page, Prompt="ab", Length=60, Passes=30, Seed=5)
    below = page.locator("#write .keep")
    place = below.bounding_box()
    press(page, "Write")
    said(page, "Finished")
    text = expected(server.runs / "tiny", "ab", 60, 30, 5)
    assert texts(page) == [text] and text.startswith("ab")
    assert page.locator("#write .text .given").all_text_contents() == ["ab"]

    choose(page, "Model", "slow")
    give(page, Prompt="abc", Length=250, Passes=490)
    press(page, "Write")
    seen = [state for [state] in states(page, 4)]
    assert all(state.startswith("abc") and len(state) == 250 and "░" in state for state in seen[1:])
    counts = [state.count("░") for state in seen[1:]]
    assert counts == sorted(counts, reverse=True)
    assert page.locator("#write .text .new").count()
    press(page, "Stop")
    said(page, "Stopped")
    [text] = settled(page)
    assert "░" in text and below.bounding_box() == place


def test_the_keepsakes_of_a_text(page, server):
    give(page, Prompt="ab", Length=40, Passes=8)
    press(page, "Write")
    said(page, "Finished")
    player = page.frame_locator("#write iframe.player")
    player.get_by_role("slider", name="Denoising step").press("End")
    assert player.locator("#step").text_content() == "step 8 of 8"
    assert player.locator("#canvas").text_content() == texts(page)[0]
    for name, begins in (("Text", texts(page)[0].encode()), ("Page", b"<!doctype html>"), ("GIF", b"GIF89a")):
        with page.expect_download() as download:
            press(page, name)
        assert Path(download.value.path()).read_bytes().startswith(begins)
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    press(page, "Copy")
    said(page, "Copied")
    assert page.evaluate("navigator.clipboard.readText()") == texts(page)[0]


def test_colours_and_samplers(page):
    give(page, Prompt="ab", Length=30, Passes=8)
    for sampler in ("scattered", "random", "confidence"):
        choose(page, "Sampler", sampler)
        press(page, "Write")
        page.locator("#write .said", has_text="Writing").first.wait_for(state="detached")
        said(page, "Finished")
    cell = page.locator("#write .text .old").first
    plain = cell.evaluate("cell => getComputedStyle(cell).backgroundColor")
    shades = set()
    for colour in ("probability", "pass"):
        page.get_by_label(colour, exact=True).check()
        shades.add(cell.evaluate("cell => getComputedStyle(cell).backgroundColor"))
    assert len(shades | {plain}) == 3


def test_fill_in_and_try_a_word_again(page):
    page.get_by_role("tab", name="Fill in").click()
    area = page.get_by_label("Text with blanks")
    area.fill("a good {4} and __ more")
    give(page, Passes=4)
    press(page, "Fill in")
    said(page, "Finished", "fill-in")
    found = texts(page, "fill-in")
    assert len(found) == 4 and all(re.fullmatch("a good .{4} and .. more", text, re.S) for text in found)
    press(page, "Keep 2")
    page.wait_for_function(f"document.querySelector('#blanks textarea').value === {json.dumps(found[1])}")
    area.fill("one bad word here")
    area.evaluate("area => area.setSelectionRange(4, 7)")
    press(page, "Try again here")
    page.wait_for_function("document.querySelector('#blanks textarea').value === 'one {3} word here'")
    page.wait_for_function("document.querySelector('#fill-in .text').textContent.startsWith('one ')")
    said(page, "Finished", "fill-in")
    assert all(re.fullmatch("one .{3} word here", text, re.S) for text in texts(page, "fill-in"))


def test_a_race_is_timed_alone_and_replayed(page):
    page.get_by_role("tab", name="Race").click()
    choose(page, "dLLM", "slow")
    give(page, Prompt="ab", Length=200, Passes=190)
    press(page, "Race")
    seen = states(page, 4, "race")
    result = said(page, "First", "race")
    order = re.findall(r"(\w+) after ([\d.]+) s", result)
    assert {name for name, _ in order} == {"dLLM", "GPT", "Hybrid"}
    assert [float(seconds) for _, seconds in order] == sorted(float(seconds) for _, seconds in order)
    assert all(len(text) == 200 for pair in seen for text in pair if text.startswith("ab"))
    facts = page.locator("#race .facts").all_text_contents()
    assert facts[0].startswith("190 passes · ") and facts[1].startswith("198 passes · ")
    assert all("characters/s" in fact for fact in facts)


def test_tamil_is_laid_down_letter_by_letter_in_a_font_of_the_page(page):
    page.get_by_role("tab", name="Tamil").click()
    choose(page, "With the form of", "Kural 391")
    press(page, "Compose")
    seen = [state for [state] in states(page, 5, "tamil")]
    said(page, "shown slowly", "tamil")
    page.locator("#tamil iframe.player").wait_for()
    [couplet] = texts(page, "tamil")
    assert [len(line.split()) for line in couplet.split("\n")] == [4, 3] and "░" not in couplet
    assert seen[-1].count("░") and [len(line.split()) for line in seen[-1].split("\n")] == [4, 3]
    assert page.evaluate("[...document.fonts].filter(font => font.family == 'Tamil').map(font => font.status)") == [
        "loaded"]


# 3. Mistakes and hostile input


def test_a_mistake_is_a_message_and_the_server_stays_up(page, server):
    for fields, words in (({"Prompt": "naïve"}, "outside the vocabulary: 'ï'"),
                          ({"Prompt": "ab" * 40, "Length": 60}, "raise the length"),
                          ({"Prompt": "ab", "Seed": "x"}, "the seed must be a number")):
        give(page, **fields)
        press(page, "Write")
        assert "--" not in said(page, words)
    give(page, Seed="")
    for name in ("damaged", "leaving"):
        shutil.copytree(server.runs / "tiny", server.runs / name)
    weights = server.runs / "damaged" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    try:
        page.reload()
        choose(page, "Model", "damaged")
        press(page, "Write")
        assert str(server.runs) not in said(page, "damaged model")
        choose(page, "Model", "leaving")
        shutil.rmtree(server.runs / "leaving")
        press(page, "Write")
        said(page, "this model is not here")
    finally:
        shutil.rmtree(weights.parent)
    page.get_by_role("tab", name="Fill in").click()
    for text, words in (("no blank", "there is no blank"), ("{600}", "the length of the text must be"),
                        ("{999999999}", "shorten its blanks")):
        page.get_by_label("Text with blanks").fill(text)
        press(page, "Fill in")
        assert "--" not in said(page, words, "fill-in")
    page.get_by_role("tab", name="Write").click()
    choose(page, "Model", "tiny")
    give(page, Prompt="ab", Length=20)
    press(page, "Write")
    said(page, "Finished")


def test_text_never_becomes_markup(page):
    hostile = "</script><img src=x onerror=alert()>${alert()}{{alert()}}&lt;"
    assert set(hostile) <= set(LETTERS)
    give(page, Prompt=hostile, Length=100, Passes=8)
    press(page, "Write")
    said(page, "Finished")
    assert texts(page)[0].startswith(hostile)
    player = page.frame_locator("#write iframe.player")
    player.get_by_role("slider", name="Denoising step").press("End")
    assert player.locator("#canvas").text_content().startswith(hostile)
    assert not player.locator("img").count()
    give(page, Prompt="<img src=x onerror=alert()>é")
    press(page, "Write")
    said(page, "'é'")
    assert not page.locator("#write img").count()


def test_values_that_no_field_allows_are_refused():
    pytest.importorskip("gradio")
    for change in ({"passes": 10**9}, {"passes": None}, {"temperature": -1}, {"temperature": float("nan")},
                   {"top_k": "5"}, {"seed": "-1"}, {"seed": "9" * 30}, {"seed": "9" * 5000}, {"sampler": "none"}):
        fields = {"sampler": "default", "passes": 8, "temperature": 0.8, "top_k": 0, "seed": ""} | change
        [(message, *_)] = list(playground.write("tiny", "a", 20, *fields.values()))
        assert 'role="alert"' in message
    for name in ("../..", "/etc", "", None):
        [(message, *_)] = list(playground.write(name, "a", 20, "default", 8, 0.8, 0, ""))
        assert "this model is not here" in message


def test_a_control_character_is_a_space():
    run = stage.Run(["a"], tokenizers.CharTokenizer("\x1b\u202ea\n<"), "")
    assert run.spans([0, 1, 2, 3, 4], [1.0] * 5, [0] * 5, [True] * 5, [False] * 5) == '<i class="given">  a\n&lt;</i>'


def test_a_race_names_the_fastest_first_even_if_two_end_in_the_same_frame():
    runs = []
    for label, seconds in (("slower", 0.002), ("faster", 0.001)):
        run = stage.Run([label], tokenizers.CharTokenizer("ab"), "", timed=True)
        all_new = torch.ones(1, 1, dtype=torch.bool)
        list(run.record(diffusion.State(canvas=torch.tensor([[token]]), confidence=torch.ones(1, 1), committed=all_new,
                                        step=step, nfe=step)
                        for step, token in enumerate((2, 0))))
        run.seconds = [0.0, seconds]
        runs.append(run)

    async def last():
        return [output async for output in widgets.replay(runs)][-1][0]

    # The browser of the other tests has an event loop in this thread; the coroutine gets one in its own thread.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        page = pool.submit(asyncio.run, last()).result()
    assert "First: faster after 0.00 s, then slower after 0.00 s." in html.unescape(str(page))


# 4. For everybody


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_narrow_screen_and_the_keyboard(browser, server, scheme):
    with visiting(browser, server, 360, 740, scheme) as page:
        for tab in ("Write", "Fill in", "Race", "Tamil"):
            page.get_by_role("tab", name=tab).click()
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            for field in page.locator("input, textarea, button").locator("visible=true").all():
                name = field.evaluate(
                    "e => e.ariaLabel || e.textContent.trim() || [...e.labels || []].map(l => l.textContent).join()")
                assert name, field.evaluate("e => e.outerHTML")
        page.get_by_role("tab", name="Write").click()
        ink, paper = (page.locator("#write .text").evaluate(f"e => getComputedStyle(e).{key}")
                      for key in ("color", "backgroundColor"))
        colours = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ink, paper)]
        assert abs(colours[0] - colours[1]) > 500 and (colours[0] > colours[1]) == (scheme == "dark")
        give(page, Length=20)
        labelled(page, "Prompt").fill("ab")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # the button follows the prompt
        said(page, "Finished")
        assert page.locator("#write .prose.said").get_attribute("aria-live") == "polite"


def test_a_closed_page_frees_the_machine(browser, server):
    with visiting(browser, server) as leaving:
        choose(leaving, "Model", "slow")
        give(leaving, Length=512, Passes=512)
        began = time.monotonic()
        press(leaving, "Write")
        leaving.wait_for_function("parseInt(document.querySelector('#write .facts').textContent) > 20")
        passes = int(leaving.locator("#write .facts").text_content().split()[0])
        needed = (time.monotonic() - began) / passes * (512 - passes)
    began = time.monotonic()
    assert visit(server, "ab", 20, 2, 1)[1]
    assert time.monotonic() - began < needed / 2


# 5. Many visitors


def visit(server, prompt, length, passes, seed, visitor="one"):
    """Write as a browser does, but without one. Returns a function that waits for (its end, its text), and calls it."""
    return wait(server, join(server, prompt, length, passes, seed, visitor))


def join(server, prompt, length, passes, seed, visitor):
    """Ask for a text, and return the name of the session."""
    data = ["tiny", prompt, length, "default", passes, generation.DEFAULT[1], 0, str(seed)]
    body = {"data": data, "fn_index": server.write, "session_hash": visitor}
    requests.post(f"{server.address}/gradio_api/queue/join", json=body, timeout=30).raise_for_status()
    return visitor


def wait(server, visitor):
    """Read the stream of a session to its end: (the time of the end, the text)."""
    found = None
    with requests.get(f"{server.address}/gradio_api/queue/data", params={"session_hash": visitor}, stream=True,
                      timeout=60) as stream:  # fmt: skip
        for line in stream.iter_lines():
            event = json.loads(line.removeprefix(b"data:")) if line else {}
            if event.get("msg") in ("process_generating", "process_completed"):
                assert event["success"], event
                whole = re.findall(r'translate=\\"no\\">(.*?)</div>', json.dumps(event["output"], ensure_ascii=False))
                found = whole[-1] if whole else found
            if event.get("msg") == "process_completed":
                text = json.loads(f'"{re.sub("<[^>]*>", "", found)}"'.replace("\\\\", "\\"))
                return time.monotonic(), html.unescape(text)


def test_twenty_visitors_are_served_in_order_and_get_their_own_texts(server):
    visitors = [f"visitor{chr(ord('a') + i)}" for i in range(20)]
    results, threads = {}, []
    for i, visitor in enumerate(visitors):
        join(server, visitor, 60, 50, i, visitor)
        threads.append(threading.Thread(target=lambda name=visitor: results.update({name: wait(server, name)})))
        threads[-1].start()
    for thread in threads:
        thread.join(120)
    assert sorted(results) == visitors
    assert sorted(visitors, key=lambda name: results[name][0]) == visitors
    folder = server.runs / "tiny"
    for i, visitor in enumerate(visitors):
        assert results[visitor][1] == expected(folder, visitor, 60, 50, i)


# 6. The program


def test_only_this_machine_reaches_it_and_a_used_port_is_a_mistake(server, monkeypatch):
    address = socket.gethostbyname(socket.gethostname())
    if not address.startswith("127."):
        with pytest.raises(OSError):
            socket.create_connection((address, server.port), 2)
    monkeypatch.setattr(os, "environ", os.environ.copy())
    monkeypatch.setattr(widgets.signal, "signal", lambda *_: None)

    def build(gr):
        with gr.Blocks() as page:
            return page

    with pytest.raises(cli.UserError, match="cannot listen at 127.0.0.1"):
        widgets.serve(build, None, server.port)


def test_the_picture_of_the_readme(browser, server, tmp_path):
    """A text by the shipped model, half-written: a small file."""
    if not (server.runs / "shakespeare").is_dir():
        pytest.skip("the shipped model is not here")
    path = Path(os.environ.get("PLAYGROUND_PICTURE", tmp_path / "playground.png"))
    with visiting(browser, server, 1160, 860) as page:
        choose(page, "Model", "shakespeare")
        give(page, Prompt="ROMEO:", Seed=1)
        page.get_by_label("probability", exact=True).check()
        press(page, "Write")
        page.wait_for_function("parseInt(document.querySelector('#write .facts').textContent) > 24")
        page.screenshot(path=path)
        press(page, "Stop")
    assert 10_000 < path.stat().st_size < 200_000
