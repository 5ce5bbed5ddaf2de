"""The web book: no dead links, no files from other hosts, no missing pages, and a model that writes in the browser."""

import functools
import html.parser
import http.server
import json
import re
import shutil
import threading
from importlib import import_module
from urllib.parse import unquote, urlsplit

from helpers import ROOT, refusal
from plumbing import checkpoint

import pytest
import torch

pytest.importorskip("mkdocs", reason="the web book needs mkdocs-material")
diffusion = import_module("04_diffusion")
generation = import_module("06_generate")
program = import_module("experiments.site.__main__")

TEXT = """ROMEO:
God seek it that butching in joy into one.
I have no long I say as I honesty for the good,
To my mighted care visit of this all best,
Some boy, whipps you, and none to you in my grant.
"""

CODE = ("pre", "code", "script", "style")


class Page(html.parser.HTMLParser):
    """The links of a page, the files that it loads, its ids, its words, and the words outside code."""

    def __init__(self, path):
        super().__init__()
        self.links, self.loads, self.ids, self.words, self.prose = [], [], set(), [], []
        self.code = 0  # how many open elements hold no prose
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.code += tag in CODE
        self.ids |= {attributes.get("id"), attributes.get("name")}
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        self.loads += [attributes[name] for name in ("src", "srcset", "data") if name in attributes]
        if tag == "link":
            self.loads.append(attributes["href"])

    def handle_endtag(self, tag):
        self.code -= tag in CODE

    def handle_data(self, data):
        self.words.append(data)
        if not self.code:
            self.prose.append(data)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web") / "site"
    program.main(["--quick", "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def pages(site):
    return {path: Page(path) for path in site.rglob("*.html")}


# 1. The book


def test_no_link_of_the_site_is_dead(pages, site):
    for path, page in pages.items():
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file() and target.is_relative_to(site), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].ids, f"{path.name}: {link}"


def test_no_page_loads_anything_from_another_host(pages, site):
    elsewhere = re.compile(r"(?:https?:)?//")
    for path, page in pages.items():
        assert not [load for load in page.loads if elsewhere.match(load)], path
    for path in site.rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//", path.read_text(encoding="utf-8")), path


def test_every_page_and_every_source_is_in_the_site_and_its_search(pages, site):
    index = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    found = {entry["location"].split("#")[0] for entry in index["docs"]}
    names = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in ROOT.glob("docs/*.md")}
    names |= {f"{path.stem}.html" for path in ROOT.glob("[0-9]*.py")} | {"minimal.html", "plumbing/run.html"}
    assert names <= found and all((site / name).is_file() for name in names)


def test_the_page_of_a_chapter_holds_its_whole_code(pages, site):
    for name in ("04_diffusion", "10_dllm_vs_gpt", "plumbing/views", "experiments/pages"):
        source = (ROOT / f"{name}.py").read_text(encoding="utf-8").split('"""', 2)[2]
        words = "".join("".join(pages[site / f"{name}.html"].words).split())
        for line in source.splitlines():
            if not re.match(r"# \d+\. ", line):
                assert "".join(line.split()) in words, line
    assert "NELBO 2.012" in "".join(pages[site / "minimal.html"].words)


def test_no_markdown_is_left_in_the_prose(pages):
    for path, page in pages.items():
        left = re.findall(r".*(?:\]\(|\]\[|\*\*|~~~|`|<details|^#+ |^- |^\|).*", "".join(page.prose), re.M)
        assert not left, path


def test_a_link_to_a_source_and_its_name_lead_to_its_page():
    text = "[04](../04_diffusion.py), `04_diffusion.py`, `no.py`\n\n    cat `04_diffusion.py`\n\n[a]: ../05_train.py\n"
    assert program.linked(text, "docs/quiz.md") == (
        "[04](../04_diffusion.md), [`04_diffusion.py`](../04_diffusion.md), `no.py`\n\n    cat `04_diffusion.py`\n\n"
        "[a]: ../05_train.md\n")  # fmt: skip


def test_a_fast_chapter_prints_and_draws_on_its_page(tmp_path, monkeypatch):
    monkeypatch.setattr(program, "FAST", ["01_tensors.py"])
    [process] = program.start_chapters(tmp_path).values()
    printed = process.communicate()[0]
    assert "Autograd" in printed and (tmp_path / "figures" / "01_tensors.png").is_file()
    page = program.source_page("01_tensors.py", printed)
    assert printed in page and "(figures/01_tensors.png)" in page


def test_a_folder_that_holds_something_else_stays_as_it_is(tmp_path):
    (tmp_path / "mine.txt").touch()
    assert "is in the way" in refusal(program.main, ["--out", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_without_npm_the_site_lacks_one_page_and_says_so(tmp_path, monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(program.shutil, "which", lambda name: None)
    monkeypatch.setattr(program, "write_pages", lambda *arguments: None)
    monkeypatch.setattr(program, "build", lambda folder, out: seen.extend(program.navigation(folder)))
    program.main(["--quick", "--out", str(tmp_path / "site")])
    assert "no page that writes in the browser: there is no npm here" in capsys.readouterr().out
    assert "watch.md" in seen and "write.md" not in seen


# 2. The model in the browser


class Exported:
    """The ONNX model of the site, which replaces a Transformer. It runs in onnxruntime for Python."""

    def __init__(self, path, config):
        self.session = pytest.importorskip("onnxruntime").InferenceSession(path)
        self.config = config

    def __call__(self, tokens, t=None):
        return torch.from_numpy(self.session.run(["logits"], {"tokens": tokens.numpy()})[0])


@pytest.fixture(scope="module")
def browser(site):
    if not (site / "browser" / "model.onnx").is_file():
        pytest.skip("this test needs npm")
    return site / "browser"


@pytest.fixture(scope="module")
def shipped():
    model, tokenizer, _ = checkpoint.load(ROOT / "checkpoints" / "shakespeare")
    return model, tokenizer


def test_the_model_and_its_runtime_are_small(browser):
    assert sum(path.stat().st_size for path in browser.iterdir()) < 16_000_000


def test_eight_bits_cost_almost_nothing(browser, shipped):
    model, tokenizer = shipped
    x0 = torch.tensor([tokenizer.encode(TEXT)])
    exact, _ = diffusion.nelbo(model, x0, draws=40)
    rounded, _ = diffusion.nelbo(Exported(browser / "model.onnx", model.config), x0, draws=40)
    assert rounded != exact and abs(rounded - exact) < 0.001


@pytest.fixture(scope="module")
def tab(site, browser):
    """A tab of Chromium that shows the page from a static server. The list `complaints` should stay empty."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="this test needs playwright")
    chromium = shutil.which("chromium")
    if not chromium:
        pytest.skip("this test needs chromium: apt-get install chromium")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"
    with sync_api.sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        tab = window.new_page()
        tab.complaints = []
        # The same texts in every run: another text can have few of the words that a test counts.
        tab.add_init_script("let seed = 1; Math.random = () => (seed = seed * 48271 % 2147483647) / 2147483647;")
        tab.on("pageerror", lambda error: tab.complaints.append(str(error)))
        tab.on("request", lambda request: tab.complaints.append(request.url)
               if not request.url.startswith((address, "data:", "blob:", "about:")) else None)  # fmt: skip
        tab.goto(f"{address}write.html")
        yield tab
        window.close()
    server.shutdown()


def test_one_pass_and_a_greedy_text_are_those_of_pytorch(tab, browser, shipped):
    model, tokenizer = shipped
    blanks = "To be, or not to be, ____ is {3} question.\nMy l___, I know th__ you ar_ the k_ng, sp{3} to __ father."
    found = tab.evaluate("""async text => {
        const page = await import("./browser/write.js"), model = await page.load();
        const canvas = page.toCanvas(model, text);
        const logits = (await model.logits(canvas)).map(scores => Array.from(scores));
        let last;
        for await (last of page.unmask(model, canvas, 8, 0, page.byConfidence));
        return {canvas, logits, text: last.canvas, confidence: last.confidence};
    }""", blanks)  # fmt: skip
    canvas = torch.tensor([generation.from_infill(blanks, tokenizer)])
    assert found["canvas"] == canvas[0].tolist()
    exported = Exported(browser / "model.onnx", model.config)
    assert (torch.tensor(found["logits"]) - exported(canvas)[0]).abs().max() < 1e-3
    *_, last = diffusion.unmask(exported, canvas, 8, temperature=0, select=diffusion.by_confidence)
    assert found["text"] == last.canvas[0].tolist()
    assert (torch.tensor(found["confidence"]) - last.confidence[0]).abs().max() < 1e-3
    *_, last = diffusion.unmask(model, canvas, 8, temperature=0, select=diffusion.by_confidence)
    assert found["text"] == last.canvas[0].tolist()  # and of the model that is not rounded


def test_a_visitor_gets_256_letters_and_sees_their_order(tab):
    tab.get_by_label("Your text").fill("ROMEO:\n")
    tab.get_by_role("button", name="Write", exact=True).click()
    tab.locator("#said", has_text="Finished").wait_for(timeout=120_000)
    words = tab.locator("#live").text_content()
    player = tab.frame_locator("#player")
    player.locator("#slider").fill("1")
    early = player.locator("#canvas").text_content()
    player.locator("#slider").fill("96")
    assert player.locator("#step").text_content() == "step 96 of 96"
    assert player.locator("#canvas").text_content() == words != early
    assert len(words) == 256 and words.startswith("ROMEO:\n") and "░" not in words and not tab.complaints
    known = re.findall(r"\b(?:the|and|to|of|my|you|that|is|in|not|a|I|it|for|with|he|me|be|his|your|this)\b", words)
    assert len(known) >= 8  # an untrained model writes about one


def test_a_visitor_fills_blanks(tab):
    tab.get_by_label("Your text").fill("To be, or not to be, ____ is {3} question")
    tab.get_by_label("Passes").select_option(index=1)
    tab.get_by_role("button", name="Write", exact=True).click()
    tab.locator("#said", has_text="Pass").wait_for()
    tab.locator("#said", has_text="Finished").wait_for()
    assert re.fullmatch("To be, or not to be, .{4} is .{3} question", tab.locator("#live").text_content(), re.S)


@pytest.mark.parametrize("words, answer", [
    ("<img src=x onerror=alert()>", "has never seen the character <."),
    ("{999}", "reads 256 letters at once"),
    ("a" * 256, "reads 256 letters at once"),
])  # fmt: skip
def test_a_mistake_is_a_message(tab, words, answer):
    tab.get_by_label("Your text").fill(words)
    tab.get_by_role("button", name="Write", exact=True).click()
    tab.locator("#said", has_text=answer).wait_for()
    assert tab.get_by_role("button", name="Write", exact=True).is_enabled() and not tab.complaints
