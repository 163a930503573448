"""Read a finished run; people go by a keyed hash of their name unless names are asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backdoor_privacy.attacks.idia import TEMPLATES
from backdoor_privacy.attacks.record import read_scores, read_seconds
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.runs.tables import (
    EVIDENCE,
    Metrics,
    budget_table,
    checked_metrics,
    evidence_table,
    losses_table,
    people_tables,
    read_file,
    read_table,
    stored_config,
)
from backdoor_privacy.system.keys import key_of_run, keyed_digest

_NUM_HASH_DIGITS = 12
# Figures that only count people and are shareable; all others show single people, or exact numbers of a few.
FIGURES_OF_NOBODY = ("idia", "losses")


class Described(NamedTuple):
    """The description that one defence of a run gave of itself."""

    encoders: Sequence[str]  # that it changed
    description: str  # what it did, in one or two sentences
    limits: Sequence[str] = ()  # what a reader must know of it before relying on the numbers
    parts: Sequence[str] = ()  # of the data that it read besides the people to remove, as `captions`


@dataclass(frozen=True)
class FinishedRun:
    """What a report needs to know about a run. A table that the run does not have is empty."""

    metrics: Metrics
    config: DictConfig  # not resolved; empty where the folder has none
    defenses: Mapping[str, Described]  # by name; runs of earlier versions do not describe theirs
    has_names: bool  # whether people go by their names
    people: pd.DataFrame  # everybody attacked, as in `people.csv`; `person` in place of the name
    without_photos: pd.DataFrame  # people whom IDIA could not be run on: `person`, `removed`
    names: pd.DataFrame  # removed people without photos: `person`, `model`, and the columns of `attacks.names_alone`
    losses: pd.DataFrame  # `encoder`, `step`, and a column for each loss; `loss` is their weighted sum
    votes: pd.DataFrame  # `person`, `model`, `margin`, and the votes under each prompt
    neighbors: pd.DataFrame  # `person` who is not removed, and how (`kind`) they are near to somebody who is
    map: pd.DataFrame  # `encoder`, `stage`, `person`, `x`, `y`
    budget: pd.DataFrame  # `encoder`, `step`, `utility`, `removal`, `kept`
    attacks: Mapping[str, Sequence[Score]]  # what each attack other than IDIA found
    attack_seconds: Mapping[str, float]  # how long each of them took
    triggers: Path | None  # photos that the defence was trained on, on one sheet

    @property
    def before(self) -> Mapping[str, float]:
        """Return the flat measures of the original model."""
        return self.metrics["before"]

    @property
    def after(self) -> Mapping[str, Mapping[str, float]]:
        """Return the flat measures of each audited model."""
        return self.metrics["after"]

    @property
    def fullest(self) -> str:
        """Return the audited model with most encoders defended; it is the one that the run saved."""
        return list(self.after)[-1]

    @property
    def num_people(self) -> int:
        """Return the number of people attacked."""
        return len(self.people)

    @property
    def num_removed(self) -> int:
        """Return the number of people removed, with photos or without."""
        return int(self.people["removed"].sum() + self.without_photos["removed"].sum())

    @property
    def num_unknown(self) -> int:
        """Return the number of people who may or may not have been in the training data: nobody knows."""
        return int(self.people["member"].isna().sum())

    @property
    def sought(self) -> pd.DataFrame:
        """Return the rows of removed people with photos; others cannot be looked for."""
        return self.people[self.people["removed"] & (self.people["num_photos"] > 0)]

    @property
    def never_seen(self) -> pd.DataFrame:
        """Return the rows of people with photos who are known not to be in the training data, and were not removed."""
        is_never_seen = self.people["member"].isin([False, "False", "false"])
        return self.people[is_never_seen & ~self.people["removed"] & (self.people["num_photos"] > 0)]

    @property
    def num_random(self) -> int:
        """Return the number of the attack's candidates that are nobody's names."""
        candidates = self.setting("attack.num_candidates")
        guess = candidates - self.num_people if isinstance(candidates, int) else 0
        return int(self.before.get("idia/num_random_names", max(0, guess)))

    @property
    def correct_prompts(self) -> Mapping[str, list[int]]:
        """Return the right answers about each removed person with photos, for `before` and each audited model."""
        removed = self.sought
        return {model: removed[f"correct_prompts_{model}"].tolist() for model in ("before", *self.after)}

    @property
    def prompts(self) -> list[str]:
        """Return the prompts whose votes were counted."""
        return [column for column in self.votes.columns if column not in EVIDENCE["votes"]]

    def of_removed(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of a table that are about removed people."""
        return table[table["person"].isin(self.people.loc[self.people["removed"], "person"])]

    @property
    def num_prompts(self) -> int:
        """Return the number of the attack's prompts."""
        return max([len(TEMPLATES), *(count for counts in self.correct_prompts.values() for count in counts)])

    @property
    def threshold(self) -> int | None:
        """Return how many right answers infer somebody; `None` if the config does not say."""
        threshold = self.setting("attack.threshold")
        return threshold if isinstance(threshold, int) else None

    def setting(self, key: str) -> object:
        """Return one value of the config, `None` if it is not known."""
        try:
            return OmegaConf.select(self.config, key)
        except OmegaConfBaseException:  # an interpolation that means something only while the run is made
            return None


def read_run(folder: Path, *, names: bool = False) -> FinishedRun:
    """Read a run folder.

    Args:
        folder: of the run.
        names: whether people go by their names. If not, each name becomes its HMAC under a key that stays in the run
            folder: whoever has only the report can neither read a name nor test whether one is among them.

    Raises:
        InputError: if it is no finished run, or one of its files is broken.
    """
    metrics, people, without_photos = _everybody(folder)
    everybody = pd.concat([people["person"], without_photos["person"]])
    tables = [people, without_photos, *_evidence(folder, everybody)]
    if not names:
        hashes = code_names(folder, everybody.tolist())
        tables = [_by_hash(table, hashes) for table in tables]
    people, without_photos, votes, neighbors, embeddings, names_alone = tables
    triggers, attacks = folder / "figures" / "triggers.png", sorted((folder / "attacks").glob("*.json"))
    return FinishedRun(
        metrics=metrics,
        config=stored_config(folder),
        defenses={name: Described(**described) for name, described in metrics.get("defenses", {}).items()},
        has_names=names,
        people=people,
        without_photos=without_photos,
        names=names_alone,
        losses=read_table(folder / "losses.csv", losses_table),
        votes=votes,
        neighbors=neighbors,
        map=embeddings,
        budget=read_table(folder / "budget.csv", budget_table),
        attacks={path.stem: read_file(path, lambda each: read_scores(each)[1]) for path in attacks},
        attack_seconds={path.stem: read_file(path, read_seconds) for path in attacks},
        triggers=triggers if triggers.is_file() else None,
    )


def _evidence(folder: Path, everybody: pd.Series) -> list[pd.DataFrame]:
    """Read the tables of `EVIDENCE`, in their order; runs of earlier versions have none."""
    return [
        read_file(path, partial(evidence_table, people=everybody, columns=columns))
        if (path := folder / f"{name}.csv").is_file()
        else pd.DataFrame(columns=list(columns))
        for name, columns in EVIDENCE.items()
    ]


def _by_hash(table: pd.DataFrame, hashes: Mapping[str, str]) -> pd.DataFrame:
    """Return a table with hashes in place of names, sorted by hash.

    In the order of the names, a list of names would show who is who.
    """
    return table.assign(person=table["person"].map(hashes)).sort_values("person", kind="stable", ignore_index=True)


def removed_people(folder: Path) -> list[str]:
    """Return the names of the people whom a finished run removed.

    Raises:
        InputError: as of `read_run`.
    """
    _, *tables = _everybody(folder)
    return [name for table in tables for name in table.loc[table["removed"], "person"]]


def _everybody(folder: Path) -> tuple[Metrics, pd.DataFrame, pd.DataFrame]:
    """Read the metrics of a run, the rows of people with photos, and the rows of people without."""
    metrics = read_file(folder / "metrics.json", checked_metrics)
    read = partial(
        people_tables,
        models=["before", *metrics["after"]],
        num_removed=metrics["before"]["idia/num_tpr_removed"],
    )
    return metrics, *read_file(folder / "people.csv", read)


def code_names(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return what people of a run or an audit go by in its report: the HMAC of each name under the folder's key."""
    key = key_of_run(folder / "checkpoints")
    return {name: keyed_digest(key, name)[:_NUM_HASH_DIGITS] for name in names}
