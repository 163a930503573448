"""What reports call the audited models and their encoders, and how many people a rate counts."""

from collections.abc import Mapping
from typing import NamedTuple


class Encoder(NamedTuple):
    """What reports call one encoder of a CLIP, and what belongs to it."""

    identifiers: str  # of people, which it reads and a defence of it removes
    swapped: str  # what the tower swap calls it beside the original other encoder


ENCODERS = {
    "text": Encoder(identifiers="names", swapped="original image encoder"),
    "image": Encoder(identifiers="faces", swapped="original text encoder"),
}
_LABELS = {"before": "before", "both": "after: both"}
_TITLES = {"both": "both encoders"}


def model_label(model: str) -> str:
    """Return what an audited model is called in figures and tables."""
    return _LABELS.get(model, f"after: {model} only")


def encoder_title(encoder: str) -> str:
    """Return the title of what is shown of one encoder, or of both together."""
    return _TITLES.get(encoder, f"{encoder} encoder")


def identifiers_of(encoder: str) -> str:
    """Return what a defence of this encoder removes: names or faces."""
    return ENCODERS[encoder].identifiers if encoder in ENCODERS else f"what the {encoder} encoder knows"


def defended(model: str) -> str:
    """Return which encoders were defended in a model, with the article."""
    return _TITLES.get(model, f"the {model} encoder")


def people_of(measures: Mapping[str, float], group: str) -> tuple[int, int] | None:
    """Return how many people a rate counts, and of how many; `None` if there is nobody to count."""
    count = round(measures.get(f"idia/num_{group}", 0))
    return (round(measures[f"idia/{group}"] * count), count) if count and f"idia/{group}" in measures else None
