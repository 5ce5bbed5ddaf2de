"""A page is accepted only as the work that it is, and only if it is whole."""

import pytest
from tamil_pages import HEAD, REAL, V, br, real, song_page, whole_page

from plumbing import cli
from plumbing.tamil import madurai, sources


def check(name, html, fewer=False):
    source = sources.SANGAM[name]
    sources.check_anthology(html, source, madurai.anthology(html, source.numbers), fewer)


def check_song(number, html, fewer=False):
    sources.check_song(html, sources.SONGS[number], madurai.song(html), fewer)


def test_a_whole_page_is_accepted_under_its_own_name_only():
    html = whole_page("kuruntokai")
    check("kuruntokai", html)
    for other in ("aingurunuru", "kalittokai"):
        with pytest.raises(cli.UserError, match="does not name"):
            check(other, html)


def test_another_work_that_mentions_this_one():
    """Quatrains under the name of குறுந்தொகை: the right number of poems, and a plausible title, but too short."""
    html = HEAD.replace("நற்றிணை", "நாலடியார் (குறுந்தொகை போல)")
    html += "".join(f"<p>{n} பாலை<p>{'<br>'.join(V(4, n))}<p>" for n in range(1, 402))
    with pytest.raises(cli.UserError, match="4.0 lines on average"):
        check("kuruntokai", html)
    with pytest.raises(cli.UserError, match="does not name"):
        check("kuruntokai", html.replace("குறுந்தொகை", ""))


def test_a_page_that_is_cut_off():
    html = whole_page("kuruntokai", count=146)
    with pytest.raises(cli.UserError, match="only 146 of 401 poems.*--fewer"):
        check("kuruntokai", html)
    check("kuruntokai", html, fewer=True)
    with pytest.raises(cli.UserError, match="no poem"):
        check("kuruntokai", HEAD.replace("நற்றிணை", "குறுந்தொகை"), fewer=True)


def test_songs():
    check_song("pmuni0063", song_page(br(V(248)), 248))
    for lines, words in ((200, "only 200 of 248 lines"), (7000, "7000 lines of verse"), (20, "no song")):
        with pytest.raises(cli.UserError, match=words):
            check_song("pmuni0063", song_page(br(V(lines)), lines))
    check_song("pmuni0063", song_page(br(V(200)), 200), fewer=True)
    with pytest.raises(cli.UserError, match="does not name"):
        check_song("pmuni0064", song_page(br(V(269)), 269))


def test_a_title_is_known_in_every_spelling():
    spellings = [("அகநானூறு", "அக நானூறு"), ("சிறுபாணாற்றுப்படை", "சிறுபாண் ஆற்றுப்படை"), ("மலைபடுகடாம்", "மலைபடு கடாஅம்"),
                 ("பதிற்றுப்பத்து", "பதிற்றுப் பத்து"), ("ஐங்குறுநூறு", '"ஐங்குறு<br>நூறு"'),
                 ("அகநானூறு", "அகநாநூறு"), ("அகநானூறு", "akanAnURu")]  # fmt: skip
    for title, spelling in spellings:
        sources.check_title(f"<h3>{spelling}</h3>", title, "akananuru")
        sources.check_title(f"<p>{'x<br>' * 500}{title} முற்றிற்று", title, "akananuru")  # "here ends", at the end
    for text in ("ஆக நானூறு பாடல்கள்", "புறநானூறு", "", "<br>" * 200 + "x<br>" * 200 + "அகநானூறு"):
        with pytest.raises(cli.UserError):
            sources.check_title(text, "அகநானூறு", "akananuru")


def test_less_does_not_replace_more():
    old = ["\n".join(V(9, n)) for n in range(20)]
    sources.check_less(old, old)
    sources.check_less(old, [])
    sources.check_less([*old[:19], "அகர"], old)  # a few letters less: a correction
    for new in (old[:19], [poem[:20] for poem in old]):
        with pytest.raises(cli.UserError, match="--fewer"):
            sources.check_less(new, old)


@real
@pytest.mark.parametrize("name, other", [("natrinai", "aingurunuru"), ("aingurunuru", "kuruntokai")])
def test_a_real_page_is_accepted_as_itself_alone(name, other):
    """The page of நற்றிணை mentions ஐங்குறுநூறு in its head, but its poems are longer."""
    html = (REAL / "madurai" / f"{name}.html").read_text(encoding="utf-8-sig")
    for work in (name, other):
        source = sources.SANGAM[work]
        poems = madurai.anthology(html, source.numbers, name == "aingurunuru")
        if work == name:
            sources.check_anthology(html, source, poems)
            continue
        with pytest.raises(cli.UserError):
            sources.check_anthology(html, source, poems)
