"""Text that strangers wrote, made safe to print: names in a file, answers of a server, texts that a model writes.

A terminal obeys some characters instead of showing them. ESC can move the cursor, change the window's title or hide
what was printed; a backspace or a carriage return overwrites it; U+202E reverses the order of what follows. A name
with a line break could print a second line that looks like a message of our own.
"""

import unicodedata

LONGEST_NAME = 80  # characters of a foreign name that a message shows
LONGEST_MESSAGE = 2000  # characters of a whole message
LETTER_JOINERS = "\u200c\u200d"  # Persian, Malayalam and emoji need them, and no terminal obeys them


def printable(text, limit=LONGEST_NAME):
    """Return `text` on one line of at most `limit` characters, in which nothing commands a terminal.

    A character that cannot be printed becomes its escape in Python, such as \\x1b for ESC and \\n for a line break.
    The sign … at the end says that the text was longer. text: anything with a str(). limit: None shortens nothing.
    """
    text = str(text)
    shown = escaped(text if limit is None else text[: limit + 1])
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def lines(text):
    """Return a text of several lines, such as a sample: whole, and escaped except for its line breaks and tabs."""
    return escaped(text, keep="\n\t")


def escaped(text, keep=""):
    """Return `text` with an escape for each character that is neither printable nor in `keep`."""
    if text.isprintable():
        return text
    return "".join(character if character in keep or is_harmless(character)
                   else character.encode("unicode_escape").decode() for character in text)


def is_harmless(character):
    """Return whether a terminal shows this character and obeys nothing in it. Spaces of any width are harmless."""
    return character.isprintable() or character in LETTER_JOINERS or unicodedata.category(character) == "Zs"


def reason(error):
    """Return the first line of an error's message, printable and short; the name of its class if it has no message."""
    message = str(error).strip() or type(error).__name__
    return printable(message.splitlines()[0], 200)
