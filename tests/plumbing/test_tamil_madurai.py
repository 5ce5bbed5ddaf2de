"""Sangam poetry: lines are cleaned, and poems are found on every shape of page."""

import io
import time
import zipfile
from collections import Counter

import pytest
from tamil_pages import FOOT, HEAD, REAL, V, br, check_text, lines_of, real, song_page

from plumbing.tamil import cleaning, letters, madurai, slips, sources

# Lines


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
    assert cleaning.clean(raw, mended) == clean
    assert cleaning.clean(clean, mended) == clean  # nothing more to do


@pytest.mark.parametrize("wrong, right", [
    ("மல்ர்ந்த பொய்கை முகைந்த தாமரைத்", "மலர்ந்த பொய்கை முகைந்த தாமரைத்"),
    ("சாந்த மரத்ஹ்ட கானத்ஹ்ட", "சாந்த மரத்த கானத்த"),
    ("மடமஞ்ஜை முந்நர்ண மாணஇ தாணஇய வீஞ்ழலொடு", "மடமஞ்ஞை முந்நீர் மரீஇ தரீஇய வீஞாழலொடு"),
    ("பெரு ஞ்சின வென்ந்தனும்", "பெருஞ்சின வேந்தனும்"),
])  # fmt: skip
def test_words_that_are_certainly_garbled(wrong, right):
    mended = Counter()
    assert cleaning.clean(wrong, mended) == right and mended.total() >= 1
    assert cleaning.clean(right, mended) == right


def test_every_slip_is_a_slip():
    """No right form contains a wrong one, and both forms are in the normal form in which lines are compared."""
    assert len(slips.WORDS) > 70
    for wrong, right in slips.WORDS.items():
        assert letters.normalise(wrong) == wrong and letters.normalise(right) == right
        assert slips.mend(right) == (right, 0) and slips.mend(f"அ{wrong}") == (f"அ{right}", 1)


def test_what_was_mended_is_counted():
    mended = Counter()
    cleaning.clean("வெ·கி எ·கு வி¡¢ந்த ாக", mended)
    assert +mended == {"dot for ஃ": 2, "¡¢ for ரி": 1, "dropped: no letter": 1}


# Pages


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
    poems = lines_of(madurai.anthology(html, range(1, 401)))
    assert poems == {0: V(7, 8), 1: first, 2: second, 4: V(5, 1), 5: fifth}


def test_page_of_breaks_with_poets_in_dashes():
    """A poet on the line of the verse, and a poem that stands behind later ones."""
    html = f"""{HEAD}<strong> கடவுள் வாழ்த்து</strong><br><br>{br(V(6, 2))}&nbsp; -பாரதம் பாடிய பெருந்தேவனார்.<br><br>
1. குறிஞ்சி - தோழி கூற்று <br><br>{br(V(4))}&nbsp; &nbsp; -திப்புத் தோளார்.<br><br>
3. பாலை - தலைவி கூற்று<br><br>{br(V(6, 4)[:5])}{V(6, 4)[5]}.  -நக்கீரர்.<br><br>
4. நெய்தல் - தலைமகள் கூற்று<br><br>{br(V(5, 6))}-. . . . . . . . . <br><br>
2. நெய்தல் - தோழி கூற்று<br><br>{br(V(5, 7))}- ஒக்கூர் மாசாத்தியார்.<br>
<strong>குறுந்தொகை முற்றிற்று</strong><br>-----------<br>{FOOT}"""
    poems = lines_of(madurai.anthology(html, range(1, 402)))
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
    poems = lines_of(madurai.anthology(html + FOOT, range(1, 501), verse_after_number=True))
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
    poems = lines_of(madurai.anthology(html + FOOT, range(1, 401)))
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
    poems = lines_of(madurai.anthology(html + FOOT, range(260, 401)))
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
    poems = lines_of(madurai.anthology(html + FOOT, sources.SANGAM["patirruppattu"].numbers))
    assert poems == {n: V(15, n) for n in range(11, 91)} | {90 + n: V(4, n) for n in range(1, 5)}


PREFACES = ["(பதிகம்)", "<b>(பதிகம்)</b>", "<i>பதிகம்</i>", "[ பதிகம் ]", "<h4>பதிகம்</h4>",
            "<center>மூன்றாம் பத்தின் பதிகம்:</center>", "*பதிகம்* 2", "<b>(மூன்றாம் பத்து)</b>"]  # fmt: skip


@pytest.mark.parametrize("preface", PREFACES)
@pytest.mark.parametrize("label", ["", "<b>பெயர் - புண்ணுமிழ் குருதி (8)</b><br>", "(துறை - செந்துறைப் பாடாண்பாட்டு)<br>"])
def test_a_preface_behind_a_poem_does_not_leak_into_it(preface, label):
    """பதிற்றுப்பத்து: a prefatory verse and its prose stand behind each tenth poem, under a heading of many forms."""
    prose = "இன்னாப் பாடல் பத்தும் பாடிப் பெற்ற பரிசில் உம்பற் காட்டு ஐந்நூறு ஊர் பிரமதாயங் கொடுத்தான் அக்கோ"
    html = HEAD
    for n in range(11, 31):
        html += f"<br>பாட்டு - {n}<br>~~~~~~~~~~<br>{br(V(15, n))}{label}"
        if n % 10 == 0:
            html += f"<br>{preface}<br>{br(V(9, n + 3))}<br>அவைதாம்<br>{prose}<br>புகழ்ந்து பாடினார்.<br>"
    poems = lines_of(madurai.anthology(html + FOOT, sources.SANGAM["patirruppattu"].numbers))
    assert poems == {n: V(15, n) for n in range(11, 31)}


def test_prose_behind_a_poem_without_a_heading():
    prose = "இப்பாட்டின் பொருளாவது நின் நாடு வளம் மிக்கது என்று கூறி அரசனைப் புகழ்ந்து அவன் கொடையை விரும்பி நின்றது"
    html = "".join(f"<p>{n} பாலை<p>{'<br>'.join(V(9, n))}<p>இதன் கருத்து<br>{prose}<br>{prose}<br>" for n in range(1, 9))
    assert lines_of(madurai.anthology(HEAD + html, range(1, 401))) == {n: V(9, n) for n in range(1, 9)}


STRAY = [
    "பாடியவர்: கபிலர்.<br><br>பாடியவன்: சேரமான் கணைக்கால் இரும்பொறை.<br>திணை: பொதுவியல்.<br><br>",
    "பாடியவன் : சோழன் நலங்கிள்ளி<br><br>துறை: வல்லாண் முல்லை.<br><br>",
    "பாடப்பட்டோர்: சோழன் குராப்பள்ளித் துஞ்சியவனும்<br><br>வெள்ளியம்பலத்துத் துஞ்சியவனும்.<br>திணை: பாடாண்.<br><br>",
    "பாடப்பட்டோர்: சோழன் குராப்பள்ளித் துஞ்சிய<br>பெருந் திருமா வளவனும்<br>வெள்ளியம் பலத்துத்<br>துஞ்சிய பெரு வழுதியும்.<br><br>",
    "<b>பாடியவன்:</b> சோழன்<br>(திணை: வஞ்சி)<br>",
    "பாடியவர்:<br>பெயர் தெரிந்திலது.<br><br>பெயர் தெரியவில்லை<br>திணை: வாகை.<br><br>",
    "குறிப்பு: பெயர் இல்லை.<br><br>பாடியவர் பெயர் தெரிந்திலது.<br>",
]


@pytest.mark.parametrize("stray", STRAY)
def test_stray_labels_before_a_poem(stray):
    """புறநானூறு: no poem is lost to a label, and no value of a label becomes a line."""
    html = HEAD
    for n in range(1, 9):
        usual = "பாடியவர்: கபிலர்.<br>திணை: பாடாண். துறை: இயன்மொழி.<br><br>"
        html += f"{n}. இறைவனின் திருவுள்ளம்!<br>{stray if n % 3 == 0 else usual}{br(V(7, n))}<br>{br(V(5, n + 1))}<br>"
    poems = lines_of(madurai.anthology(html + FOOT, range(1, 401)))
    assert poems == {n: V(7, n) + V(5, n + 1) for n in range(1, 9)}


@pytest.mark.parametrize("mark", ["<![", "<!--", "<?", "<b", "</"])
def test_a_page_of_unclosed_marks_is_read_in_seconds(mark):
    """HTMLParser needs hours for 3 MB of some of these."""
    size = 3_000_000 if mark.startswith(("<!", "<?")) else 60_000
    began = time.process_time()
    poems = madurai.anthology(f"1 பாலை<br>{br(V(5))}<br>2 பாலை<br>{br(V(5, 1))}{mark * (size // len(mark))}", range(1, 9))
    assert lines_of(poems)[1] == V(5) and time.process_time() - began < 10


def test_a_line_behind_an_unclosed_break_is_kept():
    html = f"{HEAD}1 பாலை<br> <br\n{br(V(5))}<br>2 பாலை<br>{br(V(5, 1))}{FOOT}"
    assert lines_of(madurai.anthology(html, range(1, 401))) == {1: V(5), 2: V(5, 1)}


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
    poems = lines_of(madurai.anthology(html + FOOT, range(1, 36)))
    assert poems == {n: V(5, n) + V(6, n + 2) for n in range(1, 23)} | {23: V(4, 1), 24: V(2, 2), 25: V(3, 3)}


def test_page_of_preformatted_text():
    """Line breaks that are no tags, and the numbers of lines on lines of their own."""
    text = ""
    for n in range(1, 9):
        body = V(12, n)
        text += f"\n{n}. குறிஞ்சி\n\n" + "\n".join([*body[:5], "5", *body[5:10], "10", *body[10:]]) + "\n"
    poems = lines_of(madurai.anthology(f"{HEAD}<pre>{text}</pre>{FOOT}", range(1, 402)))
    assert poems == {n: V(12, n) for n in range(1, 9)}


def test_page_of_a_song():
    song = V(120)
    numbered = [line + f" &nbsp; &nbsp; {i + 1}<br>" * (i % 10 == 9) for i, line in enumerate(song)]
    body = "<b>1. திருப்பரங்குன்றம்</b><br>" + br(numbered[:60]) + "<b><font>2. அலைவாய்</b></font><br>"
    body += "முனிவர்:<br>" + br(numbered[60:90]) + ".முப்பத்து மூவர்:<br>" + br(numbered[90:])
    assert lines_of(madurai.song(song_page(body, 120))) == {1: song}
    assert madurai.song(song_page(br(song[:20]), 20)) == {}  # no song is so short: this is something else


def test_page_of_a_song_with_commentary():
    song = V(103)
    prose = "இதன் பொருள் அகன்ற உலகத்தை வளைத்துச் சங்கு பொறித்த கையையுடைய திருமால் போல எழுந்த மேகம் என்க"
    body = f"{br([prose] * 30)}<b>முல்லைப்பாட்டு</b><br>{br(song)}<br>" + br(
        f"{n}. கடல் - முந்நீர்; {prose}<br>{V(6, n)[0]}" for n in range(1, 60)
    )
    assert lines_of(madurai.song(song_page(body, 103))) == {1: song}
    verses = f"தனிப்பாடல்கள்<br>{br(V(4, 3))}"  # by later hands
    assert lines_of(madurai.song(song_page(br(song) + verses, 103))) == {1: song}


def test_a_page_that_lost_its_o_signs():
    body = br([*V(100), "அருவியடு இழிதரும் மணியடும் வந்தே", "இவளடு வருமே அடுகளிறு வாழி"])
    *_, one, two = madurai.song(song_page(body, 102))[1].split("\n")
    assert one == "அருவியொடு இழிதரும் மணியொடும் வந்தே" and two == "இவளொடு வருமே அடுகளிறு வாழி"
    kept = madurai.song(song_page(br([*V(100), "குழலியொடு நடுநின்ற முடியடுக் கத்தே"]), 101))
    assert kept[1].endswith("குழலியொடு நடுநின்ற முடியடுக் கத்தே")


@pytest.mark.parametrize("html", ["", "no tags", "<p><b><i>1.", "<![if x]><table><tr><td>", "\0\ufffd<pre>\n", HEAD])
def test_pages_without_poems(html):
    assert madurai.anthology(html, range(1, 401)) == {} == madurai.song(html)


# The real pages


@real
@pytest.mark.parametrize("name, missing, lines", [
    ("natrinai", [234], None), ("kuruntokai", [], None), ("aingurunuru", [129, 130], None), ("paripatal", [], None),
    ("kalittokai", [], None), ("pmuni0063", [], 248), ("pmuni0067", [], 317)])  # fmt: skip
def test_real_pages(name, missing, lines):
    html = (REAL / "madurai" / f"{name}.html").read_text(encoding="utf-8-sig")
    mended = Counter()
    if lines:
        (poem,) = madurai.song(html, mended).values()
        assert poem.count("\n") + 1 == lines  # as the page says
        poems = {1: poem}
    else:
        numbers = sources.SANGAM[name].numbers
        poems = madurai.anthology(html, numbers, name == "aingurunuru", mended)
        assert [n for n in numbers if n not in poems] == missing and poems.keys() <= {0, *numbers}
    check_text(poems.values())
    assert name == "kuruntokai" or sum(mended.values()) > 0


def test_a_spreadsheet_that_expands_without_end_is_refused():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", b"0" * (madurai.UNPACKED + 1))
    with pytest.raises(ValueError):
        madurai.spreadsheet(stream.getvalue())


@real
def test_real_spreadsheet():
    poems = madurai.spreadsheet((REAL / "purananuru_dataset_v1.1.xlsx").read_bytes())
    assert list(poems) == [n for n in range(1, 401) if n not in (267, 268)]
    check_text(poems.values())
