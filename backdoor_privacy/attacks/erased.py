"""Erased (forget-set inference): who was removed? Suspects are ranked by what a defended CLIP makes of them."""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from backdoor_privacy.attacks.base import NEVER_SEEN, Approach, Attack, Headline
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.erased_scores import (
    Scores,
    Seen,
    changes,
    drifts,
    face_scores,
    known_or_mean,
    name_scores,
    see_faces,
    see_names,
)
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.scores import Score, auc_score
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError

_BETTER = "AUC, better direction"


def _told_apart(how: str, kind: str | Callable[[str], bool], measure: str = "AUC") -> Headline:
    return Headline(f"who was erased, told from never-seen people{how} (AUC)", NEVER_SEEN, measure, kind)


def _is_alone(kind: str) -> bool:
    """Return whether a score of this kind needs no original CLIP."""
    return "change" not in kind and "drift" not in kind


@dataclass(frozen=True)
class Erased(Attack):
    """Rank the suspects by many scores, with the defended model alone and with the original beside it.

    Suspects are everybody, and random names that nobody has.
    Kinds are the scores' names; a score with "change" or "drift" in its name needs the original. Of each, the AUC in
    its better direction is reported, max(AUC, 1 - AUC), with the interval of that direction. Three kinds sum up, for
    `defended alone` and `with the original` (which also has what is seen without it):

    - `worst, ...`: the largest over scores; choosing it afterwards flatters the attacker;
    - `worst, ..., chosen on other people`: score and direction are chosen on one half of the people, the other half
      is ranked by it, and the reverse; 0.5 is chance;
    - `combined, ...`: a logistic regression over all scores that ranks people whom it was not fitted to.

    The model `before` is a control: nobody is erased there, so what tells people apart is how they were chosen, as
    where only people are removed whom the attack infers.
    """

    headlines: ClassVar[Sequence[Headline]] = (
        _told_apart(", with the original at hand", "combined, with the original"),
        _told_apart("", "combined, defended alone"),
        _told_apart(" by one score chosen on other people", "worst, defended alone, chosen on other people"),
        _told_apart(" by the best score of names", lambda kind: kind.startswith("name: ") and _is_alone(kind), _BETTER),
        _told_apart(" by the best score of faces", lambda kind: kind.startswith("face: ") and _is_alone(kind), _BETTER),
        Headline("who was erased, told from kept people (AUC)", "removed / kept", "AUC", "combined, defended alone"),
        # Run folders of earlier versions have decoys.
        Headline("who was erased, told from decoys (AUC)", "removed / decoys", "AUC", "combined, defended alone"),
    )
    approach: ClassVar[Approach] = Approach.features

    phrases: Sequence[str]  # neutral ones
    num_random_names: int
    num_composed_names: int  # random ones, two or more, that teach what a name's parts make of it
    num_neighbors: int  # other suspects, or other people's photos
    num_folds: int  # of the cross-validation
    inverse_regularization: float  # C of the logistic regression

    def __post_init__(self) -> None:
        if self.num_composed_names < 2:
            raise InputError(f"erased.num_composed_names: expected 2 or more, got {self.num_composed_names}")

    def run(self, context: AttackContext) -> list[Score]:
        """Attack every CLIP of the context in the same way."""
        if "removed" not in context.groups:
            return []
        everybody = context.people.everybody
        seed = random.Random(f"erased {context.seed}").getrandbits(32)  # the seed itself draws the defence's pseudonyms
        known = [person.name for person in everybody]
        random_suspects = random_names(self.num_random_names, seed, exclude=known)
        examples = random_names(self.num_composed_names, seed + 1, exclude={*known, *random_suspects})
        suspects = [*known, *random_suspects]
        rows = {group: torch.tensor(context.rows(group)) for group in context.groups}
        removed = rows.pop("removed")
        if random_suspects:
            rows["random names"] = len(known) + torch.arange(len(random_suspects))
        # What two CLIPs share is embedded once: an encoder remembers.
        seen = {
            model: self._see(clip, suspects, examples, everybody, context.idia) for model, clip in context.clips.items()
        }
        scores = {model: self._scores(each) for model, each in seen.items()}
        findings = []
        for model, alone in scores.items():
            compared = alone | changes(alone, scores["before"]) | drifts(seen[model], seen["before"])
            for group, others in rows.items():
                # Of suspects without a face, only what is known of all suspects can be told apart.
                of_all = {kind: score for kind, score in compared.items() if len(score) > others.max()}
                telling = TellApart(of_all, removed, others, model, f"removed / {group}")
                findings += telling.findings(list(alone), self, context.seed)
        return findings

    def _see(
        self, clip: Clip, suspects: Sequence[str], examples: Sequence[str], people: Sequence[Person], idia: Idia
    ) -> Seen:
        shown = [person.attack_photos[: idia.num_photos] for person in people]
        return Seen(
            see_names(clip, suspects, examples, self.phrases, idia.templates),
            see_faces(clip, shown),
            idia.run(clip, people).evidence.margins,
        )

    def _scores(self, seen: Seen) -> Scores:
        return {
            **name_scores(seen.names, self.num_neighbors),
            **face_scores(seen.faces, self.num_neighbors),
            "both: margin of the own name": known_or_mean(seen.margins),
        }


@dataclass(frozen=True)
class TellApart:
    """Removed people and others, with the scores that are known of all of them."""

    scores: Mapping[str, Tensor]
    removed: Tensor  # their places in the scores
    others: Tensor
    model: str
    group: str

    def findings(self, alone: Sequence[str], settings: Erased, seed: int) -> list[Score]:
        """Return the finding of each score, and what sums them up.

        Args:
            alone: kinds of scores that need no original.
            settings: of the attack.
            seed: of the halves and folds of people.
        """
        one_by_one = {kind: self._either_way(kind) for kind in self.scores}
        findings = list(one_by_one.values())
        num_folds = min(settings.num_folds, len(self.removed), len(self.others))
        attackers = {"defended alone": [kind for kind in alone if kind in self.scores]}
        attackers["with the original"] = list(self.scores)
        for attacker, kinds in attackers.items():
            worst = max((one_by_one[kind] for kind in kinds), key=lambda finding: finding.value)
            findings.append(worst._replace(kind=f"worst, {attacker}"))
            if num_folds > 1:  # else there is nobody to choose or fit on
                table, labels = self._table(kinds)
                chosen = chosen_on_other_people(table, labels, seed)
                findings.append(self._held_out(chosen, f"worst, {attacker}, chosen on other people"))
                fitted = fitted_on_other_people(table, labels, num_folds, settings.inverse_regularization, seed)
                findings.append(self._held_out(fitted, f"combined, {attacker}"))
        return findings

    def _either_way(self, kind: str) -> Score:
        positives, negatives = (self.scores[kind][rows] for rows in (self.removed, self.others))
        score = auc_score(positives, negatives, kind=kind, model=self.model, group=self.group)
        if score.value < 0.5:
            score = auc_score(-positives, -negatives, kind=kind, model=self.model, group=self.group)
        return score._replace(measure=_BETTER)

    def _table(self, kinds: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Return the scores of the removed and then the others, (person, score), and whether each was removed."""
        rows = torch.cat([self.removed, self.others])
        labels = (torch.arange(len(rows)) < len(self.removed)).long()
        return torch.stack([self.scores[kind][rows] for kind in kinds], 1), labels

    def _held_out(self, ranking: Tensor, kind: str) -> Score:
        positives, negatives = ranking[: len(self.removed)], ranking[len(self.removed) :]
        return auc_score(positives, negatives, kind=kind, model=self.model, group=self.group)


def chosen_on_other_people(
    table: Float[Tensor, "person score"], is_removed: Int[Tensor, "person"], seed: int
) -> Float[Tensor, "person"]:
    """Rank each half of the people by the score, and its direction, that is the best on the other half.

    The halves hold as many removed ones each; a rank is a share of the own half, so that halves can be put together.
    """
    ranking = torch.empty(len(table))
    halves = StratifiedKFold(2, shuffle=True, random_state=seed).split(table.numpy(), is_removed.numpy())
    for chooses, is_ranked in halves:
        aucs = torch.tensor([roc_auc_score(is_removed[chooses].numpy(), one.numpy()) for one in table[chooses].T])
        best = _clearest(table[chooses], is_removed[chooses], (aucs - 0.5).abs())
        scores = table[is_ranked, best] * (1 if aucs[best] > 0.5 else -1)
        ordered = scores.sort().values
        ties = torch.searchsorted(ordered, scores) + torch.searchsorted(ordered, scores, right=True)
        ranking[is_ranked] = ties / (2 * len(scores))
    return ranking


def _clearest(table: Tensor, is_removed: Tensor, strengths: Tensor) -> int:
    """Return the strongest score; of equally strong ones, as where several make no mistake, that of the widest gap."""
    gaps = (table[is_removed == 1].mean(0) - table[is_removed == 0].mean(0)).abs()
    gaps /= table.std(0).clamp(min=torch.finfo(table.dtype).tiny)
    return int(gaps.masked_fill(strengths < strengths.max(), -1).argmax())


def fitted_on_other_people(
    table: Float[Tensor, "person score"],
    is_removed: Int[Tensor, "person"],
    num_folds: int,
    inverse_regularization: float,
    seed: int,
) -> Float[Tensor, "person"]:
    """Return what a logistic regression over all scores says of people whom it was not fitted to."""
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=inverse_regularization, class_weight="balanced", max_iter=1000)
    )
    folds = StratifiedKFold(num_folds, shuffle=True, random_state=seed)
    said = cross_val_predict(model, table.double().numpy(), is_removed.numpy(), cv=folds, method="decision_function")
    return torch.from_numpy(said).float()
