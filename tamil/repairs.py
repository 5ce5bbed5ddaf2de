"""Clean the lines of classical verse: correct errors of the downloaded pages, keep only Tamil letters and spaces."""

import re

from tamil import letters

# The conversion of Project Madurai's pages from an older encoding left typical faults. Each entry has a pattern for
# wrong letters, and the right letters.
FAULTS = [(re.compile(wrong), right) for wrong, right in [
    ("(?<=[\u0b80-\u0bff])[·•](?=[\u0b80-\u0bff])", "ஃ"),
    ("[¡\u0ba1][¢\u0ba2]", "ரி"),
    ("[¡\u0ba1]£|\u0ba1ண", "ரீ"),
    ("ா[¢\u0ba2ி]", "ரி"),
    ("ொ[¢\u0ba2ி]", "ெரி"),
    ("ோ[¢\u0ba2ி]", "ேரி"),
    ("ா்", "ர்"),
    ("ாீ", "ரீ"),
    ("[¦\u0ba6]’?([க-ஹ])(?![\u0bbe-\u0bcd])", r"\1ெ"),
    ("(?<=[க-ஹ])\u0ba7 ?", "ி"),
    ("ௌ[¢\u0ba2ி]", "ெளி"),
    ("ௌ ?ளி", "ெள்ளி"),
    ("ௌ (?=[க-ஹ]்|தல்|வே$)", "ெளி"),
    ("ௌ ", "ெள் "),
    ("ெள(?=வ)|(?<=ப)ொள(?=வ)", "ௌ"),
    ("ஒள(?=வ|ட[^ி-்])", "ஔ"),
    ("ந்ஜ்ச", "ஞ்ச"),
    ("த்ஹு", "து"),
    ("ாண(?=இ)", "ரீ"),
    ("\u0ba6ஒ", "பொ"),
    ("இ¨", "இடை"),
    ("(?<=டோ) (?=[க-ஹ]்|ளே)", ""),
]]  # fmt: skip

# Words that a page garbles, and their right forms. Each entry is "wrong = right", and stands for a part of a line. We
# are certain of the right form for two reasons: in the wrong form, letters meet that never meet in Tamil, and only one
# similar word fits the line. Doubtful words stay as they are. docs/sangam_readings.md lists them.
WORDS = """
வழிவ்ழி = வழிவழி | மல்ர்ந்த = மலர்ந்த | மண்லாடு = மணலாடு | அலம்ரும் = அலமரும் | பச்ப்பணி = பசப்பணி
துங்சு = துஞ்சு | நல்ம்மேம் = நலம்மேம் | நண்றே = நன்றே | மய்ங்கினள் = மயங்கினள் | ல்ஃதே = லஃதே
ச்துப்பினள் = கதுப்பினள் | இறைஞ்ச்நின் = இறைஞ்சிநின் | நாமக்ல்வு = நாமகல்வு | வேண்க்கை = வேங்கை
வண்ட்மிர் = வண்டிமிர் | ய்ணீஇய = உணீஇய | திரித்ரும் = திரிதரும் | சென்ர = சென்ற | கம்ழும் = கமழும்
ப்ல்லிதல் = பல்லிதழ் | மண்ங்கமழ் = மணங்கமழ் | வல்ஞ்சுரி = வலஞ்சுரி | காளையொட்ய் = காளையொடு | கம்ழ்கொள = கமழ்கொள
கையற்ப் = கையறப் | கற்ங்கு = கறங்கு | உண்ர்ந்த = உணர்ந்த | நய்னதனை = நயந்தனை | நெடுட்ந்தேர் = நெடுந்தேர்
ந்ன்னுதல் = நன்னுதல் | கிள்ர்ந்த = கிளர்ந்த | எந்று = என்று | ஞாழ்ல = ஞாழல | ஞ்ழல = ஞாழல | அம்ர்ந்தான் = அமர்ந்தான்
உய்ர்ந்துழி = உயர்ந்துழி | விண்னோர் = விண்ணோர் | கண்னிய = கண்ணிய | கன்ணி = கண்ணி | தன்ணென் = தண்ணென்
பிள்லை = பிள்ளை | உள்லூதொறும் = உள்ளுதொறும் | உள்லுதொறும் = உள்ளுதொறும் | வேள்லியின் = வேள்வியின்
பிளிற்ரும் = பிளிற்றும் | ஏற்ரை = ஏற்றை | சூரலஞ்ச் = சூரலஞ் | நன்ந்தலை = நனந்தலை | வென்ந்தனும் = வேந்தனும்
பெரு ஞ்சின = பெருஞ்சின | செந்ந்நில = செந்நில | தொலைந்ந்தன = தொலைந்தன | மற்ந்த = மறந்த | மற்ந்தோ = மறந்தோ
வற்ந்த = வறந்த | வந்த் தனர் = வந் தனர் | மலையிறந்த் தோளே = மலையிறந் தோளே | கார்சிறந்த் ஆர்ப்ப = கார்சிறந்து ஆர்ப்ப
சுரட்திடை = சுரத்திடை | பிழைட்த = பிழைத்த | கொய்தனர் பொய்ரும் = கொய்தனர் பெயரும் | ய்ய்ரன் = யூரன்
த்ஹ்ட = த்த | கருந்கோட்டு = கருங்கோட்டு | மாங்திய = மாந்திய | தியம்ப்ப = தியம்பப் | வாங்கப்ப் = வாங்கப்
அஒரிந்த = சொரிந்த | இஅள்முலை = இளமுலை | தலிஅவன் = தலைவன் | நோள்ஞாண் = நோன்ஞாண் | தற்நின்று = தறநின்று
மருள்ப் = மருளப் | சுடர்நூதல் = சுடர்நுதல் | ஆய்நூதல் = ஆய்நுதல் | புகழ் சிரப்பின் = புகழ் சிறப்பின் | தண்புணல் = தண்புனல்
கர்ங்கண் = கருங்கண் | நுன்தாது = நுண்தாது | ஆள்வீழ்துத் = ஆள்வீழ்த்துத் | அழப்பிர்ந் = அழப்பிரிந்
மஞ்ஜை = மஞ்ஞை | முந்நர்ண = முந்நீர்
"""
WORDS = dict(entry.split(" = ") for entry in re.split(r" \| |\n", WORDS.strip()))
GARBLED = re.compile("|".join(map(re.escape, WORDS)))

LACUNA = re.compile(r"(?:…|\.(?:[ \xa0]*\.){2})(?:[ \xa0]*[.…])*|-(?:[ \xa0]+-){3,}")
LINE_NUMBER = re.compile(r"[\s.…]*\b\d+(?:-\d+)?\s*\.?\s*$")
RESTORED = re.compile(r" ?[(\[]([\u0b80-\u0bff]{1,4})[)\]]")  # letters that the editors of the text have restored
# If the letter யொ never occurs on a page, the page has lost every யொ and ளொ. Nearly all lost letters stood in யொடு and
# ளொடு.
LOST_O = re.compile("([யள])டு(?=(?:ம்)?(?![\u0b80-\u0bff]))")


def is_tamil(letter):
    """Return whether one item of `letters.split(text)` begins with a Tamil vowel, consonant or aytham."""
    return "\u0b83" <= letter[0] <= "\u0bb9"


def count_letters(text):
    """Return the number of Tamil letters in `text`."""
    return sum(map(is_tamil, letters.split(text)))


def clean(line):
    """Clean a line of verse: keep only Tamil letters, single spaces, and … for a gap in the manuscripts.

    All punctuation is removed. Palm leaves had no punctuation, and editors have added it to only some of our sources.
    """
    line = letters.normalise(line.replace("*", "")).rstrip("\u200c")  # stars mark the words that name a poem
    for wrong, right in FAULTS:
        line = wrong.sub(right, line)
    line = GARBLED.sub(lambda match: WORDS[match[0]], line)
    line = LINE_NUMBER.sub("", line)
    line = RESTORED.sub(r"\1", line)
    line = re.sub(r"\([^)]*\)|\[[^\]]*\]", " ", line)
    line = LACUNA.sub("…", line)
    kept = ""
    for letter in letters.split(line):
        if letters.ill_formed(letter) or letter.isascii() and letter.isalnum():
            continue
        kept += letter if is_tamil(letter) or letter == "…" else " "
    return " ".join(kept.split())


def clean_poem(lines):
    """Clean the lines of a poem, and return them as one text. Lines that are empty after cleaning are left out."""
    cleaned = [clean(line) for line in lines]
    return "\n".join(line for line in cleaned if line.strip("… "))
