"""Neighbours (collateral damage): whom does a removal harm who was not removed?"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from backdoor_privacy.attacks.base import KEPT, Approach, Attack, Headline
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import IdiaResult
from backdoor_privacy.attacks.scores import Score, mean_score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import Person

MEASURE = "wrongly unlearned"
_NUM_LOOK_ALIKES = 5  # of each removed person


@dataclass(frozen=True)
class Neighbors(Attack):
    """Share of kept people, inferred by IDIA before, whom it no longer infers from a defended model.

    Kinds, all of the group `kept`:

    - `a removed person's first name`, `a removed person's surname`, `a removed person's nearest faces`: those who are
      neighbours of somebody removed, see `neighbors_table`; one person may be of several kinds;
    - `all others`: those who are of none of these;
    - `age: older`: those of whom the collection says so, of attributes with two or more values and not too many;
    - `the original CLIP says "a photo of a man"`: those whose mean face the original CLIP finds most similar to this
      phrase of a slice. No data set states this: it is what the CLIP says, not who somebody is.

    A kind with nobody in it has no score.
    """

    headlines: ClassVar[Sequence[Headline]] = (
        Headline(
            "namesakes wrongly unlearned",
            KEPT,
            MEASURE,
            lambda kind: kind.startswith("a removed person's ") and "name" in kind,
        ),
        Headline("nearest faces wrongly unlearned", KEPT, MEASURE, "a removed person's nearest faces"),
    )
    approach: ClassVar[Approach] = Approach.others

    slices: Sequence[Sequence[str]]  # each is a list of phrases, of which a face is most similar to one
    max_values: int  # of an attribute; one with more is no group of people but, say, a number of each

    def run(self, context: AttackContext) -> list[Score]:
        """Compare every defended CLIP of the context with the original, in the same way."""
        if "removed" not in context.groups:
            return []
        original, everybody = context.clips["before"], context.people.everybody
        before = context.idia.run(original, everybody)
        kept = {person.name for person in context.groups.get("kept", ()) if before.inferred[person.name]}
        kinds = self._kinds(original, before, context.removed, kept) | self._attributes(everybody, kept)
        scores = []
        for model, clip in context.clips.items():
            if model == "before":
                continue
            inferred = context.idia.run(clip, everybody).inferred
            for kind, names in kinds.items():
                lost = torch.tensor([not inferred[name] for name in names])
                if len(lost):
                    scores.append(mean_score(lost, kind=kind, model=model, group="kept", measure=MEASURE))
        return scores

    def _kinds(
        self, original: Clip, before: IdiaResult, removed: Sequence[str], kept: set[str]
    ) -> dict[str, list[str]]:
        """Return the names of the kept people of each kind, in the order of the collection."""
        table = neighbors_table(before, set(removed))
        of_kind = {
            "a removed person's first name": set(table.loc[table["kind"] == "first name", "name"]),
            "a removed person's surname": set(table.loc[table["kind"] == "surname", "name"]),
            "a removed person's nearest faces": set(table.loc[table["kind"] == "face", "name"]),
            "all others": kept - set(table["name"]),
        }
        for phrases in self.slices:
            said = most_similar(before.evidence.face_features, original.embed_texts(list(phrases)))
            for number, phrase in enumerate(phrases):
                named = [name for name, place in zip(before.names, said, strict=True) if place == number]
                of_kind[f'the original CLIP says "{phrase}"'] = set(named)
        return {
            kind: [name for name in before.names if name in kept and name in chosen] for kind, chosen in of_kind.items()
        }

    def _attributes(self, everybody: Sequence[Person], kept: set[str]) -> dict[str, list[str]]:
        """Return the names of the kept people of each kind that the collection tells of."""
        of_kind: dict[str, dict[str, list[str]]] = {}
        for person in everybody:
            for attribute, value in person.attributes:
                names = of_kind.setdefault(attribute, {}).setdefault(value, [])
                names += [person.name] if person.name in kept else []
        return {
            f"{attribute}: {value}": names
            for attribute, values in of_kind.items()
            if 2 <= len(values) <= self.max_values
            for value, names in values.items()
        }


def neighbors_table(before: IdiaResult, removed: Collection[str]) -> pd.DataFrame:
    """Return whom a removal may harm first: others with a removed person's first name, surname, or similar faces.

    A row for each pair: `name`, `removed`, and `kind`: `first name`, `surname` or `face`.
    """
    others = [row for row, name in enumerate(before.names) if name not in removed]
    faces, rows = before.evidence.face_features, []
    for own, name in enumerate(before.names):
        if name not in removed:
            continue
        for kind, part in (("first name", 0), ("surname", -1)):
            alike = [before.names[row] for row in others if before.names[row].split()[part] == name.split()[part]]
            rows += [(other, name, kind) for other in alike]
        nearest = (faces[others] @ faces[own]).topk(min(_NUM_LOOK_ALIKES, len(others))).indices
        rows += [(before.names[others[place]], name, "face") for place in nearest.tolist()]
    return pd.DataFrame(rows, columns=["name", "removed", "kind"])


def most_similar(faces: Float[Tensor, "person dim"], phrases: Float[Tensor, "phrase dim"]) -> list[int]:
    """Return the place of the phrase with the highest cosine similarity to each face; both are of unit length."""
    return (faces @ phrases.T).argmax(1).tolist()
