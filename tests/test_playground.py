"""The playground: each tab, several visitors at the same time, hostile input, and the page in a browser."""

import html
import io
import os
import re
import shutil
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from importlib import import_module

from helpers import COMMANDS, ESCAPED, HOSTILE, make_model, refusal
from plumbing import checkpoint, files, text

import pytest
import requests
import torch

pytest.importorskip("gradio", reason="the page needs gradio")
generation = import_module("06_generate")
hybrid = import_module("13_block_diffusion")
letters = import_module("tamil.letters")
program = import_module("playground.__main__")
writing = import_module("playground.writing")

LETTERS = "\n abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,:!'\"<>/=(){}$`&;"
OPTIONS = {"sampler": "with correction", "passes": 8, "temperature": 1.0, "top_k": 0, "seed": "5"}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The module playground.page with small untrained models: a dLLM, a GPT, a hybrid and a Tamil dLLM."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "RUNS", runs)
        patch.setattr(checkpoint, "RUNS", runs)
        patch.setattr(files, "DATA", tmp_path_factory.mktemp("data"))  # for the models' ONNX files
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("temporary")))
        patch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
        module = import_module("playground.page")
        patch.setattr(module, "FRAME", 0)  # draw every State
        patch.setattr(module, "SESSIONS", 5)
        latin, tamil = text.Characters(LETTERS), letters.TamilLetters.of("\n".join(module.COUPLETS.values()))
        dllm, gpt = make_model(latin.vocab_size, 64, 0.1), make_model(latin.vocab_size, std=0.1, causal=True)
        checkpoint.save(runs / "shakespeare", dllm, latin, {"kind": "dllm"})
        checkpoint.save(runs / "shakespeare-gpt", gpt, latin, {"kind": "gpt"})
        checkpoint.save(runs / "shakespeare-hybrid", hybrid.Hybrid(gpt.config), latin, {"kind": "hybrid"})
        checkpoint.save(runs / "tamil", make_model(tamil.vocab_size, 64, 0.1), tamil, {"kind": "tamil"})
        yield module


def options(**changes):
    return (OPTIONS | changes).values()


def plain(markup):
    return html.unescape(re.sub("<[^>]*>", "", markup))


def texts(markup):
    """Return the texts in the HTML of a drawing."""
    return [plain(body) for body in re.findall(r'translate="no">(.*?)</div>', markup, re.S)]


def expected(prompt, length, seed):
    """Return the text that chapter 06 writes with the same options."""
    model, tokenizer, _ = checkpoint.load(files.RUNS / "shakespeare")
    canvas = torch.tensor([generation.from_prompt(prompt, length, tokenizer)])
    torch.manual_seed(seed)
    *_, last = generation.generate(model, canvas, OPTIONS["passes"], OPTIONS["temperature"])
    return tokenizer.decode(last.canvas[0])


# 1. The tabs


def test_a_text_can_be_watched_while_it_is_written(page):
    *drawings, last = page.write("shakespeare", "ab", 60, *options())
    seen = [texts(drawn[1])[0] for drawn in drawings]
    assert len(seen) == 8 and all(len(words) == 60 and words.startswith("ab") for words in seen)
    masks = [words.count("░") for words in seen]
    assert masks[0] > masks[1] > masks[2] > masks[3] == masks[7] == 0
    for drawn, before, after in zip(drawings[1:], seen, seen[1:]):
        highlighted = {plain(part) for part in re.findall('<i class="new".*?</i>', drawn[1], re.S)}
        changed = {letter for letter, old in zip(after, before) if letter != old}
        assert changed <= set("".join(highlighted))
    assert '<i class="given">ab</i>' in last[1] and 'class="new"' not in last[1]
    assert texts(last[1]) == [expected("ab", 60, 5)]


def test_afterwards_a_player_shows_it_pass_by_pass(page):
    *_, (said, _, player, button) = page.write("tamil", "", 30, *options())
    player = html.unescape(player)
    assert "Finished. tamil · seed 5" in said and "8 passes" in player
    assert 'sandbox="allow-scripts"' in player and "font-src data:" in player and "font-family: Tamil" in player


def test_blanks_are_filled_in_four_ways(page):
    *_, last = page.fill("shakespeare", "a good {4} and __ more", *options())
    found = texts(last[1])
    assert len(found) == 4 and len(set(found)) > 1
    assert all(re.fullmatch("a good .{4} and .. more", words, re.S) for words in found)


def test_a_couplet_has_the_form_of_a_real_one(page, monkeypatch):
    monkeypatch.setattr(page.time, "sleep", lambda seconds: None)
    for _, drawn, *_ in page.compose("tamil", "Kural 391", 0.8, "5"):
        [couplet] = texts(drawn)
        assert [len(line.split(" ")) for line in couplet.split("\n")] == [4, 3]
    assert "░" not in couplet and couplet != page.COUPLETS["Kural 391"]


def test_a_race_names_the_fastest_first(page):
    *_, last = page.race("ab", 40, *options(), "shakespeare", "shakespeare-gpt", "shakespeare-hybrid")
    places = re.findall(r"(\w+) after ([\d.]+) s", last[0])
    assert {name for name, _ in places} == {"dLLM", "GPT", "Hybrid"}
    assert [float(seconds) for _, seconds in places] == sorted(float(seconds) for _, seconds in places)
    assert all(re.fullmatch("ab[^░]{38}", words, re.S) for words in texts(last[1]))
    assert re.search(r">8 passes · [\d,]+ characters/s.*>38 passes · [\d,]+ characters/s", last[1], re.S)


def test_the_next_pass_of_a_race_is_that_of_the_model_with_the_least_time():
    class Racer:
        seconds = 0

        def run(self, cost, passes):
            for _ in range(passes):
                self.seconds += cost
                order.append(cost)
                yield

    order, fast, slow = [], Racer(), Racer()
    list(writing.take_turns({fast: fast.run(1, 6), slow: slow.run(3, 2)}))
    assert order == [1, 3, 1, 1, 1, 3, 1, 1]


# 2. What visitors must not be able to do


@pytest.mark.parametrize("work, values, words", [
    ("write", ("shakespeare", "naïve", 60), "does not know the characters &#x27;ï&#x27;"),
    ("write", ("shakespeare", "ab" * 40, 60), "raise the length"),
    ("write", ("../shakespeare", "ab", 60), "this model is not here"),
    ("write", ("shakespeare", "ab", 60, "with correction", 8, 1.0, 0, "9" * 5000), "the seed must be a number"),
    ("fill", ("shakespeare", "no blank"), "the text has no blank"),
    ("fill", ("shakespeare", "{600}"), "512 are allowed"),
    ("fill", ("shakespeare-gpt", "{6}"), "this model is not here"),
])  # fmt: skip
def test_a_mistake_is_a_message(page, work, values, words):
    values = (*values, *options())[: 7 if work == "fill" else 8]
    [answer] = page.answering(getattr(page, work), 4)(*values)
    assert len(answer) == 4 and words in answer[0] and 'role="alert"' in answer[0] and "--" not in answer[0]


def test_an_error_of_ours_tells_a_visitor_nothing_and_the_server_stays_up(page, capsys):
    def broken(*values):
        yield from ()
        raise RuntimeError("<secret>")

    [answer] = page.answering(broken, 4)()
    assert "RuntimeError" in answer[0] and "secret" not in answer[0] and "<secret>" in capsys.readouterr().err


def test_a_text_has_a_limit_of_time_and_what_is_written_stays(page, monkeypatch):
    monkeypatch.setattr(page, "LONGEST", 0)
    first, last = page.answering(lambda: iter([("said", "text"), ("said", "more")]), 2)()
    assert first == ("said", "text") and "choose fewer passes" in last[0] and last[1] == page.gr.skip()


def test_text_never_becomes_markup(page):
    hostile = "</script><img src=x onerror=alert()>${alert()}{{alert()}}&lt;"
    *_, (_, drawn, player, _) = page.write("shakespeare", hostile, 100, *options())
    assert texts(drawn)[0].startswith(hostile) and "<img" not in drawn + player + html.unescape(player)
    [answer] = page.answering(page.write, 4)("shakespeare", "<img src=x>é", 100, *options())
    assert "<img" not in answer[0]


def test_what_the_server_logs_cannot_command_a_terminal():
    stream = io.StringIO()
    print(HOSTILE, file=program.Log(stream))
    assert ESCAPED in stream.getvalue() and not COMMANDS.search(stream.getvalue().rstrip("\n"))


# 3. The models


@pytest.fixture
def copy(page):
    """A function that copies the dLLM. The copies are deleted after the test."""
    before = set(files.RUNS.iterdir())
    yield lambda name: shutil.copytree(files.RUNS / "shakespeare", files.RUNS / name)
    for path in set(files.RUNS.iterdir()) - before:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_your_latest_run_comes_first_and_the_page_says_so(page, copy):
    copy("another")
    assert page.choices(["dllm"]) == {"choices": ["shakespeare", "another"], "value": "shakespeare", "info": None}
    (copy("mine") / "state.pt").touch()
    found = page.choices(["dllm"])
    assert found["choices"][0] == found["value"] == "mine"
    assert found["info"] == "mine is yours. The shipped model is shakespeare."


def test_models_that_are_neither_yours_nor_shipped_are_listed_too(page, copy):
    shutil.move(files.RUNS / "shakespeare", files.RUNS / "other")
    found = page.choices(["dllm"])
    shutil.move(files.RUNS / "other", files.RUNS / "shakespeare")
    assert found["value"] == "other"


def test_a_damaged_neighbour_does_not_stop_the_page(page, copy):
    """A damaged folder is not in the lists, or gives an error of one line when somebody chooses it."""
    path = copy("pipe") / "model.safetensors"
    path.unlink()
    os.mkfifo(path)
    (copy("nonsense") / "model.safetensors").write_bytes(b"\xff{")
    os.truncate(copy("short") / "model.safetensors", 1000)
    copy("bad\x1b[2J\nname")
    os.mkfifo(files.RUNS / "file")
    assert writing.names("dllm") == ["shakespeare"]
    page.build()
    [answer] = page.answering(page.write, 4)("short", "a", 20, *options())
    assert "choose one from the list" in answer[0]


def test_the_letters_of_a_couplet_limit_no_other_text(page):
    couplet = page.compose("tamil", "Kural 391", 0.8, "5")
    alone = list(page.write("tamil", "", 30, *options()))[-1]
    next(couplet)
    assert list(page.write("tamil", "", 30, *options()))[-1][1] == alone[1]


# 4. The server


@pytest.fixture(scope="module")
def server(page):
    app, url, _ = page.serve(None, None, prevent_thread_lock=True, quiet=True)
    yield app, url
    app.get_blocks().close(verbose=False)


@pytest.fixture(scope="module")
def address(server):
    return server[1]


@pytest.fixture(scope="module")
def client(address):
    return import_module("gradio_client").Client(address, verbose=False, download_files=False)


@pytest.fixture(scope="module")
def visitor(server):
    """A function that creates a Visitor of the server."""
    app, url = server
    [number] = [number for number, part in app.get_blocks().fns.items() if part.api_name == "write"]
    return lambda session: Visitor(f"{url}gradio_api/", session, number)


@dataclass
class Visitor:
    """A visitor who sends requests to the server without Gradio's own client."""

    url: str
    session: str
    write: int  # the number of what the button Write does

    def ask(self, *values):
        """Request a text, and return the answer of the server."""
        asked = {"fn_index": self.write, "session_hash": self.session, "data": values}
        return requests.post(f"{self.url}queue/join", json=asked, timeout=10)

    def listen(self):
        """Listen until the text is finished, and return all messages of the server."""
        return requests.get(f"{self.url}queue/data", {"session_hash": self.session}, timeout=20).text


def test_visitors_at_the_same_time_get_their_own_texts(client):
    """Visitors with the same seed get the same text."""
    seeds = [0, 1, 2, 0, 1, 0]
    jobs = [client.submit("shakespeare", "ab", 60, *options(seed=str(seed)), api_name="/write") for seed in seeds]
    assert [texts(job.result()[1]) for job in jobs] == [[expected("ab", 60, seed)] for seed in seeds]


def test_a_stranger_cannot_read_or_cancel_what_another_visitor_has_asked_for(visitor, address):
    """Session names and event numbers are long and random, and the server tells a stranger neither."""
    owner, stranger = visitor("9f3a6c1e77b2"), visitor("stranger")
    event = owner.ask("shakespeare", "ab", 300, *options(passes=200)).json()["event_id"]
    heard = ThreadPoolExecutor().submit(owner.listen)
    for path in ("config", "gradio_api/info", "gradio_api/openapi.json", "gradio_api/queue/status"):
        told = requests.get(address + path, timeout=10).text
        assert told and event not in told and owner.session not in told
    for session in (stranger.session, "", owner.session[:-1]):
        for other in ("stranger", "", event[:-1]):
            body = {"session_hash": session, "fn_index": owner.write, "event_id": other}
            for path in ("cancel", "reset"):
                requests.post(stranger.url + path, json=body, timeout=10)
    with requests.get(f"{stranger.url}queue/data", {"session_hash": "stranger"}, stream=True, timeout=10) as answer:
        assert b'"session_not_found":true' in next(answer.iter_lines())
    assert "Finished. shakespeare" in heard.result()


def test_texts_that_nobody_listens_to_are_not_written(page, server, visitor, client):
    """Forty texts of 500 passes would make all other visitors wait, and their messages would fill the memory."""

    def ask(number):
        return visitor(f"flood{number}").ask("shakespeare", "ab", 500, *options(passes=500)).status_code

    assert set(ThreadPoolExecutor(30).map(ask, range(90))) == {200, 503}  # 503: the queue is full
    time.sleep(page.PATIENCE + 0.5)
    began = time.monotonic()
    client.predict("shakespeare", "ab", 60, *options(), api_name="/write")
    assert time.monotonic() - began < 5
    queue = server[0].get_blocks()._queue
    assert not [session for session in queue.pending_messages_per_session if session.startswith("flood")]


def test_only_some_sessions_are_kept(page, server, visitor):
    for number in range(page.SESSIONS + 3):
        quick = visitor(f"one{number}")
        quick.ask("nobody", "ab", 9, *options())
        quick.listen()
    kept = server[0].state_holder.session_data
    assert len(kept) <= page.SESSIONS and f"one{page.SESSIONS + 2}" in kept


def test_a_bad_call_is_one_line_of_the_log(visitor, monkeypatch, capsys):
    monkeypatch.setattr(traceback, "print_exc", traceback.print_exc)  # afterwards it is as before
    program.log_errors_in_one_line()
    calls = [("shakespeare", HOSTILE, "x", *options()), ({"path": HOSTILE}, "ab", 60, *options()), ("shakespeare",)]
    for number, values in enumerate(calls):
        bad = visitor(f"bad{number}")
        bad.ask(*values)
        assert '"success":false' in bad.listen()
    replace(bad, write=-1).ask("nothing has this number")
    lines = []
    until = time.monotonic() + 10  # the server can answer before it writes to the log
    while sum(line.startswith("bad call: ") for line in lines) < 4 and time.monotonic() < until:
        lines += capsys.readouterr().err.splitlines()
        time.sleep(0.1)
    assert sum(line.startswith("bad call: ") for line in lines) == 4, lines
    assert not any(COMMANDS.search(line) or "Traceback" in line or line.startswith("  ") for line in lines), lines


@pytest.mark.parametrize("change", [{"passes": 10**9}, {"temperature": -1}, {"top_k": 10**9}, {"sampler": "none"}])
def test_the_fields_limit_what_a_visitor_may_send(client, change):
    with pytest.raises(Exception, match="maximum|minimum|choices"):
        client.predict("shakespeare", "ab", 60, *options(**change), api_name="/write")


def test_nobody_can_upload_a_file(address):
    answer = requests.post(f"{address}gradio_api/upload", files={"files": ("a.txt", b"abc")}, timeout=10)
    assert answer.status_code == 413


def test_nobody_can_pass_the_queue(address):
    values = ["shakespeare", "ab", 60, *options()]
    assert requests.post(f"{address}gradio_api/run/write", json={"data": values}, timeout=10).status_code == 404


def test_a_used_port_or_a_wrong_one_is_a_mistake_of_the_user(page, address):
    assert "cannot listen at 127.0.0.1" in refusal(page.serve, None, int(address.strip("/").rpartition(":")[2]))
    assert "cannot listen at nope.invalid" in refusal(program.main, ["--host", "nope.invalid"])
    assert "port must be from 1 to 65535" in refusal(program.main, ["--port", "70000"])


def test_the_page_in_a_browser(address):
    """A visitor writes a text. The page loads nothing from another machine, and no request fails."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="this test needs playwright")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("this test needs chromium: apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab, complaints = browser.new_page(), []
        tab.on("pageerror", lambda error: complaints.append(str(error)))
        tab.on("request", lambda request: complaints.append(request.url)
               if not request.url.startswith((address, "data:", "blob:", "about:")) else None)  # fmt: skip
        tab.goto(address)
        tab.get_by_label("Prompt").first.fill("ab")
        tab.get_by_label("number input for Length").first.fill("40")
        tab.get_by_role("button", name="Write", exact=True).click()
        tab.locator("#write .prose.said", has_text="Finished").wait_for()
        tab.frame_locator("#write iframe.player").locator("#step", has_text="step").wait_for()
        words = tab.locator("#write .text").text_content()
        fonts = tab.evaluate("[...document.fonts].map(font => font.family)")
        browser.close()
    assert words.startswith("ab") and len(words) == 40 and "░" not in words and "Tamil" in fonts and not complaints
