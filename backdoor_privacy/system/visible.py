"""Show text that somebody else wrote: a name or a path may hold what a terminal would obey, or hide."""

import unicodedata

# Control and format characters (bidi overrides, zero-width ones), half characters, and ends of lines and paragraphs.
_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def visible(text: str, keep: str = "") -> str:
    r"""Return a text in one line in which what a terminal would obey or hide stands as its code.

    Args:
        text: of anybody.
        keep: characters that stay all the same, as the ends of lines.

    Example:
        >>> print(visible("Ann\x1b[2K\nLee"))
        Ann\x1b[2K\nLee
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        sign if sign in keep or unicodedata.category(sign) not in _HIDDEN else ascii(sign)[1:-1] for sign in text
    )
