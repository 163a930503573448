"""Choose which of the faces in a person's photos is theirs: the one that recurs."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy import ndarray

MIN_LEAD = 0.05  # cosine; two faces of a photo with a smaller difference are ambiguous, and the user chooses
MIN_SIMILARITY = 0.2  # cosine; a face that is less like the others may be somebody else's


class Choice(NamedTuple):
    """The face chosen in one photo."""

    chosen: int | None  # index of the face; none where there is no face, or none is clearly theirs
    similarities: tuple[float | None, ...]  # of each face to its best match in every other photo, on average


def choose_faces(photos: Sequence[Float[ndarray, "_ dim"]]) -> list[Choice]:
    """Choose the face that recurs over the photos of one person.

    In each photo this is the face with the greatest mean similarity to its best match in every other photo with faces.
    Where two faces of a photo are within `MIN_LEAD`, as those of a couple in two photos, none is chosen.

    Args:
        photos: features of unit length of the faces in each photo.
    """
    return [_choose(faces, [other for j, other in enumerate(photos) if j != i]) for i, faces in enumerate(photos)]


def _choose(faces: Float[ndarray, "face dim"], others: Sequence[Float[ndarray, "_ dim"]]) -> Choice:
    matches = [(faces @ other.T).max(axis=1) for other in others if len(other)]
    if not len(faces) or not matches:
        return Choice(0 if len(faces) == 1 else None, (None,) * len(faces))
    similarities = np.mean(matches, axis=0)
    order = np.argsort(-similarities)
    is_clear = len(faces) == 1 or similarities[order[0]] - similarities[order[1]] >= MIN_LEAD
    return Choice(int(order[0]) if is_clear else None, tuple(map(float, similarities)))
