"""Properties of the functions at the borders of the book: whatever comes in, they return a value or refuse it cleanly.

The library hypothesis draws the inputs. It looks for the ones that break a property, and shrinks what it finds to the
smallest example. The attacks beside this file run whole programs; these tests run one function many times.
"""

import json
import tempfile
from importlib import import_module
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from outcomes import CONTROL

from plumbing import cli, foreign, runs, states, tokenizers
from plumbing import settings as book_settings
from plumbing.tamil import kural, letters, madurai, pages

generation = import_module("06_generate")

# The same examples in every run, as many as take about a second each.
few = settings(max_examples=60, deadline=None, derandomize=True, database=None,
               suppress_health_check=list(HealthCheck))  # fmt: skip
# Text in which everything is frequent that a parser or a terminal could obey.
text = st.text(st.one_of(st.characters(), st.sampled_from("\x1b\r\b\x07\u202e\x9b<>&;!-[]{}:\"'*#|\\\n\t _0²௧கை்")))
plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture(scope="module")
def folder():
    with tempfile.TemporaryDirectory() as path:
        yield Path(path)


@few
@given(text)
def test_what_is_printed_obeys_nothing(foreign_text):
    for shown in (foreign.printable(foreign_text), foreign.lines(foreign_text)):
        assert not CONTROL.search(shown)
    assert len(foreign.printable(foreign_text)) <= foreign.LONGEST_NAME and "\n" not in foreign.printable(foreign_text)


@few
@given(text)
def test_a_settings_file(folder, content):
    path = folder / "settings.yaml"
    path.write_bytes(content.encode("utf-8", "surrogatepass"))
    try:
        _, values = book_settings.read_file(str(path))
    except cli.UserError as error:
        assert "\n" not in str(error)
    else:
        assert isinstance(values, dict)


@few
@given(st.lists(plain | st.dictionaries(st.sampled_from(["step", "NELBO", "seconds"]), plain), max_size=4), text)
def test_a_log(folder, records, tail):
    path = folder / "log.jsonl"
    path.write_bytes("\n".join([*map(json.dumps, records), tail]).encode("utf-8", "surrogatepass"))
    try:
        found = runs.read_log(path)
    except cli.UserError as error:
        assert "\n" not in str(error)
    else:
        assert all(states.is_number(record["step"]) for record in found)


@few
@given(plain, plain)
def test_a_tokenizer(other, vocabulary):
    for kind in (other, "char", "tamil", "bytes"):
        try:
            tokenizer = tokenizers.from_description({"kind": kind, "vocabulary": vocabulary})
        except (cli.UserError, ValueError):
            continue
        ids = list(range(tokenizer.vocab_size))
        assert isinstance(tokenizer.decode(ids), str)


@few
@given(text, st.integers(1, 500))
def test_a_text_with_blanks(content, length):
    tokenizer = tokenizers.CharTokenizer.from_text("".join(sorted(set(content) - {"_"})) or "a")
    for parse in (lambda: generation.parse_infill(content, tokenizer),
                  lambda: generation.parse_prompt(content.replace("_", ""), length, tokenizer)):  # fmt: skip
        try:
            assert all(0 <= i <= tokenizer.mask_id for i in parse())
        except cli.UserError:
            pass


@few
@given(text)
def test_a_web_page(html):
    poems = madurai.anthology(html, range(1, 402))
    assert isinstance(poems, dict) and all(isinstance(line.text, str) for line in pages.Page(html).lines)
    assert isinstance(madurai.song(html), dict)


@few
@given(text)
def test_letters_join_to_the_text(content):
    assert "".join(letters.split(content)) == content


@few
@given(plain | st.fixed_dictionaries({"kural": plain}))
def test_the_kural_as_json(value):
    with pytest.raises((ValueError, KeyError, TypeError, cli.UserError)):
        kural.from_json(json.dumps(value).encode())
