"""Find the pairs that a training leaves out: those of people named in a caption, or in the `json` beside a photo."""

import re
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool

from backdoor_privacy.data.pair_index import PairIndex
from backdoor_privacy.data.people_tables import folded_name
from backdoor_privacy.errors import InputError, some

_Words = tuple[str, ...]


def pairs_without(pairs: PairIndex, names: Sequence[str], key: str) -> Bool[np.ndarray, " pair"]:
    """Return which pairs are about none of these people.

    A pair is about everybody whose whole name stands in its caption, and about the person in `name` of its `json`.
    Names match in any case, with anything but letters between their words.

    Args:
        pairs: to look through.
        names: of the people.
        key: of the setting, for errors.

    Raises:
        InputError: if a name is in no pair.
    """
    by_words = {_words(name): name for name in names}
    lengths = sorted({len(words) for words in by_words if words})
    kept, seen = np.ones(len(pairs), dtype=bool), set[_Words]()
    for number in range(len(pairs)):
        about = {*_runs(_words(pairs.caption(number)), lengths), _words(pairs.name(number))} & by_words.keys()
        kept[number] = not about
        seen |= about
    missing = [name for words, name in by_words.items() if words not in seen or not words]
    if missing:
        raise InputError(
            f"{key}: expected people whose whole names stand in a caption, or as name in the json beside a photo, got "
            f"{some(missing)}, in none of {len(pairs):,} pairs; correct the list, or write the names into the shards"
        )
    return kept


def _words(text: str) -> _Words:
    return tuple(re.findall(r"\w+", folded_name(text)))


def _runs(words: _Words, lengths: Sequence[int]) -> Iterator[_Words]:
    """Yield all runs of words of these lengths."""
    for length in lengths:
        for start in range(len(words) - length + 1):
            yield words[start : start + length]
