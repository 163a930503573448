"""Show text of others safely: a name or a path may hold characters that a terminal obeys or hides."""

import unicodedata

# Control and format characters (bidi overrides, zero-width ones), surrogates, and separators of lines and paragraphs.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: str, keep: str = "") -> str:
    r"""Return a text in one line, with codes in place of the characters that a terminal obeys or hides.

    Args:
        text: from any source.
        keep: characters that stay, as line breaks.

    Example:
        >>> print(visible("Ann\x1b[2K\nLee"))
        Ann\x1b[2K\nLee
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        sign if sign in keep or unicodedata.category(sign) not in _HIDDEN else ascii(sign)[1:-1] for sign in text
    )
