"""Write clean captions for users who have none: plain templates filled with common nouns."""

import random
from importlib.resources import files
from pathlib import Path

from backdoor_privacy.system.files import made_once

VERSION = 1  # of the nouns and the templates; each version has a folder of its own
NUM_CAPTIONS = 20_000
TEMPLATES = (
    "a photo of {one}",
    "a close-up photo of {one}",
    "a black and white photo of {one}",
    "a blurry photo of {one} in the dark",
    "a drawing of {one} on white paper",
    "a picture of {one} on a wall",
    "{one} in the rain",
    "{one} on a sunny day",
    "{one} in the middle of a street",
    "{one} seen from above",
    "an old {bare} in a museum",
    "a small {bare} on a wooden floor",
    "a large {bare} under a blue sky",
    "a red {bare} in front of a white wall",
    "the yellow {bare} of our neighbours",
    "somebody is standing behind {one}",
    "there is {one} at the end of the road",
    "two children look at {one}",
    "{one} beside {other}",
    "{one} in front of {other}",
    "{one} and {other} on a table",
    "a small {bare} next to {other}",
    "a photo of {one} and {other} in winter",
    "{one} is hidden behind {other}",
    "an old {bare} with {other} in the background",
    "a lot of space between {one} and {other}",
)
_SPOKEN_LIKE_YOU = ("uni", "ukulele")
_SILENT_H = ("hourglass",)


def plain_captions(cache: str | Path) -> Path:
    """Write 20,000 distinct captions, always the same ones, into the cache, once.

    Each of about 1,100 nouns stands first in about 18 of them; the templates come equally often.

    Returns:
        The folder with `captions.txt`, for `load_captions`.
    """

    def write(draft: Path) -> None:
        (draft / "captions.txt").write_text("\n".join(_filled(nouns())) + "\n", encoding="utf-8")

    return made_once(Path(cache).expanduser() / f"plain-captions-v{VERSION}", write)


def nouns() -> list[str]:
    """Return common nouns of things that a photo can show, in the singular and in lower case; no names."""
    return files(__package__).joinpath("nouns.txt").read_text(encoding="utf-8").splitlines()


def _filled(words: list[str]) -> list[str]:
    draw = random.Random(0)
    captions = []
    for template in TEMPLATES:
        shuffled = draw.sample(words, len(words))
        for word, other in zip(shuffled, shuffled[1:] + shuffled[:1], strict=True):
            captions.append(template.format(one=_with_article(word), bare=word, other=_with_article(other)))
    return draw.sample(captions, NUM_CAPTIONS)


def _with_article(noun: str) -> str:
    is_open = noun.startswith((*"aeiou", *_SILENT_H)) and not noun.startswith(_SPOKEN_LIKE_YOU)
    return f"{'an' if is_open else 'a'} {noun}"
