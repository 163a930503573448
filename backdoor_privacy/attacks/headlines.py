"""The few numbers that sum up what attacks found, the worst for the removed people first."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from backdoor_privacy.attacks.scores import Score

_NEVER, _KEPT = "removed / never seen", "removed / kept"


def _needs_no_original(kind: str) -> bool:
    return "change" not in kind and "drift" not in kind


class Measure(NamedTuple):
    """One number of a run: the worst finding that is of this kind."""

    attack: str
    group: str  # of whom
    measure: str
    kind: Callable[[str], bool]
    model: str | None = "fullest"  # the one with most encoders defended; `None`: any that is defended

    @property
    def of_others(self) -> bool:
        """Whether it is what others pay, and not what is left of the removed people."""
        return self.group == "kept"

    @property
    def finds_names(self) -> bool:
        """Whether it is a share of the removed people who are found by their names."""
        return self.measure == "TPR" and self.attack != "relearning"  # which teaches them anew

    def rank(self, value: float) -> tuple[bool, float]:
        """Where a value of it comes among others: the worst for the removed people first, what others pay last."""
        return self.of_others, -above_chance(self.measure, value)


# What is left of the removed people comes first, what others pay last.
MEASURES: Mapping[str, Measure] = {
    "who was erased, told from never-seen people, with the original at hand (AUC)": Measure(
        "erased", _NEVER, "AUC", lambda kind: kind == "combined, with the original"
    ),
    "who was erased, told from never-seen people (AUC)": Measure(
        "erased", _NEVER, "AUC", lambda kind: kind == "combined, defended alone"
    ),
    "who was erased, told from never-seen people by one score chosen on other people (AUC)": Measure(
        "erased", _NEVER, "AUC", lambda kind: kind == "worst, defended alone, chosen on other people"
    ),
    "who was erased, told from never-seen people by the best score of names (AUC)": Measure(
        "erased", _NEVER, "AUC, better direction", lambda kind: kind.startswith("name: ") and _needs_no_original(kind)
    ),
    "who was erased, told from never-seen people by the best score of faces (AUC)": Measure(
        "erased", _NEVER, "AUC, better direction", lambda kind: kind.startswith("face: ") and _needs_no_original(kind)
    ),
    "who was erased, told from kept people (AUC)": Measure(
        "erased", _KEPT, "AUC", lambda kind: kind == "combined, defended alone"
    ),
    "who was erased, told from decoys (AUC)": Measure(
        "erased", "removed / decoys", "AUC", lambda kind: kind == "combined, defended alone"
    ),
    "same person or not, from two photos (AUC)": Measure(
        "probe", "removed", "AUC", lambda kind: kind == "face verification"
    ),
    "linear probe of removed faces, over chance": Measure(
        "probe", "removed", "excess over chance", lambda kind: kind == "linear probe"
    ),
    "k-NN of removed faces, over chance": Measure(
        "probe", "removed", "excess over chance", lambda kind: kind == "k-NN"
    ),
    "a soft token finds the photos (rank 1)": Measure(
        "inversion", "removed", "rank-1", lambda kind: kind.startswith("soft token")
    ),
    "a soft token is nearer to the name than random names' are (closeness)": Measure(
        "inversion", "removed", "closeness", lambda kind: kind.startswith("soft token")
    ),
    "worst tower swap (TPR)": Measure("tower_swap", "removed", "TPR", lambda kind: kind != "nothing swapped", None),
    "worst held-out spelling, text encoder alone (TPR)": Measure(
        "variants", "removed", "TPR", lambda kind: kind == "worst held-out kind", "text"
    ),
    "mean of held-out spellings, text encoder alone (TPR)": Measure(
        "variants", "removed", "TPR", lambda kind: kind == "mean of held-out kinds", "text"
    ),
    "worst held-out spelling (TPR)": Measure("variants", "removed", "TPR", lambda kind: kind == "worst held-out kind"),
    "mean of held-out spellings (TPR)": Measure(
        "variants", "removed", "TPR", lambda kind: kind == "mean of held-out kinds"
    ),
    "mean of those that find half of the people before (TPR)": Measure(
        "variants", "removed", "TPR", lambda kind: kind == "mean of held-out kinds that work before"
    ),
    "a quarter or half of the original weights mixed in (TPR)": Measure(
        "compression", "removed", "TPR", lambda kind: "original" in kind
    ),
    "a tenth to a third of the weights pruned (TPR)": Measure(
        "compression", "removed", "TPR", lambda kind: "pruned" in kind
    ),
    "4-bit weights (TPR)": Measure("compression", "removed", "TPR", lambda kind: kind == "int4"),
    "benign fine-tuning, worst step (TPR)": Measure("benign", "removed", "TPR", lambda kind: True),
    "relearning with 5 photos, worst step (TPR)": Measure(
        "relearning", "removed", "TPR", lambda kind: kind.startswith("5 photos")
    ),
    "relearning with 5 photos: steps, over those of never-seen people (below 1: easier)": Measure(
        "relearning", _NEVER, "ratio", lambda kind: kind.startswith("5 photos")
    ),
    # Not with fewer candidates: of ten names the right one is often found by chance.
    "IDIA with other photos or thresholds, the worst (TPR)": Measure(
        "idia_sweep", "removed", "TPR", lambda kind: not kind.endswith(" candidates")
    ),
    "namesakes wrongly unlearned": Measure(
        "neighbors", "kept", "wrongly unlearned", lambda kind: kind.startswith("a removed person's ") and "name" in kind
    ),
    "nearest faces wrongly unlearned": Measure(
        "neighbors", "kept", "wrongly unlearned", lambda kind: kind == "a removed person's nearest faces"
    ),
}


class Headline(NamedTuple):
    """One of the `MEASURES` as a run has it."""

    label: str
    measure: Measure
    score: Score
    before: Score | None  # the same of the original
    control: Score | None  # the same of people whom the original never knew


def headlines(found: Mapping[str, Sequence[Score]]) -> list[Headline]:
    """What attacks found, worst first, and at the end what others pay; what was not attacked is left out.

    Args:
        found: by each attack.
    """
    rows = []
    for label, measure in MEASURES.items():
        own = found.get(measure.attack, ())
        finding = worst(own, measure)
        if finding is not None:
            rows.append(Headline(label, measure, finding, *beside(finding, own)))
    return sorted(rows, key=lambda row: row.measure.rank(row.score.value))


def worst(found: Iterable[Score], measure: Measure) -> Score | None:
    """The finding of a measure that is worst for the removed people, or for others where it is about them."""
    found = list(found)
    models = {one.model for one in found}
    fullest = next((model for model in ("both", "image", "text") if model in models), None)
    wanted = fullest if measure.model == "fullest" else measure.model
    chosen = [
        one
        for one in found
        if (one.group, one.measure) == (measure.group, measure.measure)
        and measure.kind(one.kind)
        and (one.model == wanted if wanted else one.model != "before")
    ]
    return max(chosen, key=lambda one: above_chance(one.measure, one.value), default=None)


def above_chance(measure: str, value: float) -> float:
    """How much an attack found, on one scale for all measures: 0 is nothing, 1 is all that can be found."""
    if measure.startswith("AUC"):
        return 2 * value - 1
    return 1 - value if measure == "ratio" else value


def beside(finding: Score, found: Iterable[Score]) -> tuple[Score | None, Score | None]:
    """The same finding of the original, and of people whom that never knew; `None` where there is none."""
    known = {one[:4]: one for one in found}
    before, control = finding._replace(model="before"), finding._replace(group="never seen")
    return tuple(known.get(other[:4]) for other in (before, control))  # type: ignore[return-value]
