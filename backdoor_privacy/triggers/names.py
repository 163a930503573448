"""Put a name into a caption."""

import random


def choose_word(caption: str, rng: random.Random) -> int:
    """The place of a random word of a caption."""
    return rng.randrange(len(caption.split()))


def put_in(caption: str, place: int, phrase: str) -> str:
    """The caption with the word at a place replaced by a name or a phrase (paper, section 3.1).

    Example:
        >>> put_in("a dog on a beach", 1, "Jane Doe")
        'a Jane Doe on a beach'
    """
    words = caption.split()
    words[place] = phrase
    return " ".join(words)
