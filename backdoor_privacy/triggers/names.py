"""Put a name into a caption."""

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Tokenizer = Callable[[list[str]], Tensor]
# Prompts that a defence reads names in; but for the first two, others than the attack's, whose choice is not ours.
NAME_FORMS = (
    "{}", "a photo of {}", "a portrait of {}", "this is {}", "my friend {}", "{} at work", "meet {}, a person",
)  # fmt: skip
_MORE = " and more"  # that a text which is read to its end cannot have after it without a difference


class Spot(NamedTuple):
    """A place in a caption."""

    caption: str
    place: int  # of the word that gives way to a name

    def near(self, num_words: int) -> "Spot":
        """Return the same place in the part of the caption that begins and ends so many words from it."""
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
    """Return whether each text fits into the context of a CLIP; one that fills it up just so does not."""
    if not texts:
        return []
    # What follows a text that is cut off changes nothing.
    alone, followed = tokenizer(list(texts)), tokenizer([text + _MORE for text in texts])
    return (alone != followed).any(-1).tolist()


def may_be_cut(tokens: Tensor, tokenizer: Tokenizer) -> Tensor:
    """Return which of some tokenized texts fill up the context, (text,): the others are surely read to their end."""
    padding = tokenizer([""])[0, -1]
    return tokens[:, -2:][:, 0] != padding  # the last token may be that of the end, which some pad with


def shortened(spots: Sequence[Spot], phrases: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[Spot]:
    """Return captions that are short enough for what is put into them to be read.

    A caption that cuts off what stands in its place keeps as many words on either side as can be read with each of the
    phrases; the others stay as they are.

    Args:
        spots: captions, each with a place.
        phrases: for each caption those that take the place in turn; each fits alone.
        tokenizer: of the CLIP.
    """
    found = list(spots)
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
        found[number] = spots[number].near(size)
    return found


def _cut(spots: Sequence[Spot], phrases: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[int]:
    """Return which captions cut off one of the phrases that take their place."""
    doubtful = torch.zeros(len(spots), dtype=torch.bool)
    for column in zip(*phrases, strict=True):  # a quick look first: few captions fill up the context
        texts = [put_in(*spot, phrase) for spot, phrase in zip(spots, column, strict=True)]
        doubtful |= may_be_cut(tokenizer(texts), tokenizer)
    rows: list[int] = doubtful.nonzero().flatten().tolist()
    begun = [Spot(" ".join(caption.split()[: place + 1]), place) for caption, place in (spots[row] for row in rows)]
    fits = _fit(begun, [phrases[row] for row in rows], tokenizer)
    return [row for row, fit in zip(rows, fits, strict=True) if not fit]


def _fit(spots: Sequence[Spot], phrases: Sequence[Sequence[str]], tokenizer: Tokenizer) -> list[bool]:
    """Return whether captions are read to their end with each of the phrases in their place."""
    texts = [put_in(*spot, phrase) for spot, each in zip(spots, phrases, strict=True) for phrase in each]
    fits = iter(read_to_the_end(texts, tokenizer))
    return [all([next(fits) for _ in each]) for each in phrases]


def namesakes(names: Sequence[str], other_names: Sequence[str]) -> list[str]:
    """Return names that share the first name or the surname with one to remove, and are not to be removed themselves.

    Example:
        >>> namesakes(["Jane Doe"], ["Ann Lee", "Bob Ray"])
        ['Jane Lee', 'Bob Doe']
    """
    made = []
    for number, other in enumerate(other_names):
        own, others = names[number // 2 % len(names)].split(), other.split()
        made.append(f"{own[0]} {others[-1]}" if number % 2 == 0 else f"{others[0]} {own[-1]}")
    return [name for name in dict.fromkeys(made) if name not in names]
