"""Put a name into a caption, and shorten captions that would cut it off."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

Tokenizer = Callable[[list[str]], Tensor]
# Prompts in which a defence reads names. Only the first two are the attack's, too: a defence cannot know those.
NAME_FORMS = (
    "{}", "a photo of {}", "a portrait of {}", "this is {}", "my friend {}", "{} at work", "meet {}, a person",
)  # fmt: skip
_MORE = " and more"  # after a text that is read to its end, this changes the tokens


class Spot(NamedTuple):
    """A place in a caption."""

    caption: str
    place: int  # of the word that a name replaces, from 0

    def near(self, num_words: int) -> "Spot":
        """Return the same place in a part of the caption: this number of words on either side of it."""
        words = self.caption.split()
        start = max(0, self.place - num_words)
        return Spot(" ".join(words[start : self.place + num_words + 1]), self.place - start)


def choose_word(caption: str, rng: random.Random) -> int:
    """Return the place of a random word of a caption."""
    return rng.randrange(len(caption.split()))


def put_in(caption: str, place: int, phrase: str) -> str:
    """Return the caption with the word at a place replaced by a name or a phrase (paper, section 3.1).

    Example:
        >>> put_in("a dog on a beach", 1, "Jane Doe")
        'a Jane Doe on a beach'
    """
    words = caption.split()
    words[place] = phrase
    return " ".join(words)


def read_to_the_end(texts: Sequence[str], tokenizer: Tokenizer) -> list[bool]:
    """Return whether each text fits into the context of a CLIP; a text that just fills it counts as too long."""
    if not texts:
        return []
    # What follows a text that is cut off does not change its tokens.
    alone, followed = tokenizer(list(texts)), tokenizer([text + _MORE for text in texts])
    return (alone != followed).any(-1).tolist()


def may_be_cut(tokens: Int[Tensor, "text context"], tokenizer: Tokenizer) -> Bool[Tensor, "text"]:
    """Return which texts fill up the context; all others are read to their end."""
    padding = tokenizer([""])[0, -1]
    return tokens[:, -2:][:, 0] != padding  # not the last token: it may be the end token, with which some pad


def shortened(spots: Sequence[Spot], phrases: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[Spot]:
    """Shorten captions in which a phrase would be cut off.

    Such a caption keeps as many words on either side of the place as can be read with each of the phrases; the others
    stay as they are.

    Args:
        spots: captions, each with a place.
        phrases: for each caption, the phrases that are put there in turn; each fits alone.
        tokenizer: of the CLIP.
    """
    short = list(spots)
    cut = _cut(spots, phrases, tokenizer)
    shortest, longest = [0] * len(cut), [len(spots[number].caption.split()) for number in cut]
    while shortest != longest:
        middle = [(low + high + 1) // 2 for low, high in zip(shortest, longest, strict=True)]
        tried = [spots[number].near(size) for number, size in zip(cut, middle, strict=True)]
        fits = _fit(tried, [phrases[number] for number in cut], tokenizer)
        shortest = [size if fit else low for size, fit, low in zip(middle, fits, shortest, strict=True)]
        longest = [high if fit else size - 1 for size, fit, high in zip(middle, fits, longest, strict=True)]
        longest = [max(low, high) for low, high in zip(shortest, longest, strict=True)]
    for number, size in zip(cut, shortest, strict=True):
        short[number] = spots[number].near(size)
    return short


def _cut(spots: Sequence[Spot], phrases: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[int]:
    """Return the numbers of the captions in which one of the phrases is cut off."""
    doubtful = torch.zeros(len(spots), dtype=torch.bool)
    for column in zip(*phrases, strict=True):  # a quick look first: few captions fill up the context
        texts = [put_in(*spot, phrase) for spot, phrase in zip(spots, column, strict=True)]
        doubtful |= may_be_cut(tokenizer(texts), tokenizer)
    rows: list[int] = doubtful.nonzero().flatten().tolist()
    beginnings = [
        Spot(" ".join(caption.split()[: place + 1]), place) for caption, place in (spots[row] for row in rows)
    ]
    fits = _fit(beginnings, [phrases[row] for row in rows], tokenizer)
    return [row for row, fit in zip(rows, fits, strict=True) if not fit]


def _fit(spots: Sequence[Spot], phrases: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[bool]:
    """Return whether each caption is read to its end, whichever of its phrases is put into it."""
    texts = [put_in(*spot, phrase) for spot, own in zip(spots, phrases, strict=True) for phrase in own]
    fits = iter(read_to_the_end(texts, tokenizer))
    return [all([next(fits) for _ in own]) for own in phrases]


def namesakes(names: Sequence[str], other_names: Sequence[str]) -> list[str]:
    """Return names that share the first name or the surname with one to remove and are not to be removed.

    Example:
        >>> namesakes(["Jane Doe"], ["Ann Lee", "Bob Ray"])
        ['Jane Lee', 'Bob Doe']
    """
    combined = []
    for number, other in enumerate(other_names):
        own, others = names[number // 2 % len(names)].split(), other.split()
        combined.append(f"{own[0]} {others[-1]}" if number % 2 == 0 else f"{others[0]} {own[-1]}")
    return [name for name in dict.fromkeys(combined) if name not in names]
