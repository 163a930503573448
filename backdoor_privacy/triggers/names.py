"""Put a name into a caption."""

import random
from collections.abc import Sequence


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


def namesakes(names: Sequence[str], other_names: Sequence[str]) -> list[str]:
    """Names that share the first name or the surname with one to remove, and are not to be removed themselves.

    Example:
        >>> namesakes(["Jane Doe"], ["Ann Lee", "Bob Ray"])
        ['Jane Lee', 'Bob Doe']
    """
    made = []
    for number, other in enumerate(other_names):
        own, others = names[number // 2 % len(names)].split(), other.split()
        made.append(f"{own[0]} {others[-1]}" if number % 2 == 0 else f"{others[0]} {own[-1]}")
    return [name for name in dict.fromkeys(made) if name not in names]
