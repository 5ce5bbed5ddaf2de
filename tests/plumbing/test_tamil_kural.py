"""The Kural: both editions give the same couplets, and their faults are corrected."""

import json
from collections import Counter

import pytest
from tamil_pages import REAL, check_text, kural_json, kural_wheel, real

from plumbing.tamil import kural


def test_both_editions_give_the_same_couplets(tmp_path):
    of_json = kural.mend(kural.from_json(kural_json()), Counter())
    mended = Counter()
    of_wheel = kural.mend(kural.from_wheel(kural_wheel(tmp_path / "kural.whl")), mended)
    assert list(of_json) == list(of_wheel) == list(kural.NUMBERS)
    assert [n for n in kural.NUMBERS if of_json[n] != of_wheel[n]] == [49]  # the wheel has another text there
    assert of_wheel[49] == "அறனெனப் பட்டதே இல்வாழ்க்கை அஃதும்\nபிறன்பழிப்ப தில்லாயின் நன்று"
    assert mended["typos of the Kural"] == 1


@pytest.mark.parametrize("content", [b"{}", b"<html>", b"[]", b'{"kural": []}', b'{"kural": [{"Number": 1}]}', b"\xff"])
def test_another_file_is_refused(content):
    with pytest.raises((ValueError, KeyError, TypeError)):
        kural.from_json(content)


@pytest.mark.parametrize("line", ["a line of English", "", "…"])
def test_couplets_without_verse_are_refused(line):
    rows = [{"Number": n, "Line1": line, "Line2": "பகவன் முதற்றே உலகு"} for n in kural.NUMBERS]
    with pytest.raises(ValueError):
        kural.mend(kural.from_json(json.dumps({"kural": rows}).encode()), Counter())


def test_each_mend_changes_its_couplet():
    couplets = dict.fromkeys(kural.NUMBERS, "அகர முதல\nபகவன்")
    for number, wrong, right, reason in kural.MENDS:
        assert number in kural.NUMBERS and wrong != right and reason
        mended = Counter()
        assert right.split()[0] in kural.mend(couplets | {number: f"அகர {wrong}\nபகவன்"}, mended)[number]
        assert mended["typos of the Kural"] >= 1


@real
def test_the_real_edition():
    couplets = kural.mend(kural.from_json((REAL / "thirukkural_tk120404.json").read_bytes()), Counter())
    assert len(couplets) == 1330
    check_text(list(couplets.values()))
