"""What the files of a finished run say; people go by a keyed hash of their name."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backdoor_privacy.attacks.idia import TEMPLATES
from backdoor_privacy.attacks.record import read_findings, read_seconds
from backdoor_privacy.attacks.scene import Finding
from backdoor_privacy.config.stored import read_stored
from backdoor_privacy.data.cells import read_csv
from backdoor_privacy.errors import InputError
from backdoor_privacy.runs.folder import read_metrics
from backdoor_privacy.system.keys import key_of_run, keyed_digest
from backdoor_privacy.system.reading import GIB, open_ordinary

_MAX_COUNT = 10**12  # of people, photos or names
_NUM_HASH_DIGITS = 12
# Figures that count people, and those that show single ones or exact numbers of a few.
FIGURES_OF_NOBODY = ("idia", "losses")
FIGURES_OF_PEOPLE = ("prompts", "margins", "votes", "map")
# Tables that figures are drawn from, and the columns that they need.
_EVIDENCE: Mapping[str, Mapping[str, type]] = {
    "votes": {"person": str, "model": str, "margin": float},
    "neighbors": {"person": str, "kind": str},
    "map": {"encoder": str, "stage": str, "person": str, "x": float, "y": float},
    "names": {"person": str, "model": str},
}
# The first is the one that the run claimed its folder with.
_CONFIGS = (Path("checkpoints") / "config.yaml", Path(".hydra") / "config.yaml")


@dataclass(frozen=True)
class FinishedRun:
    """One run, as far as a report needs it."""

    metrics: Mapping[str, Any]
    config: DictConfig  # not resolved; empty where the folder has none
    has_names: bool  # whether people go by their names
    people: pd.DataFrame  # everybody attacked, as in `people.csv`; `person` in place of the name
    without_photos: pd.DataFrame  # those of whom IDIA measured nothing: `person`, `removed`
    names: pd.DataFrame  # removed people without photos: `person`, `model`, and the columns of `attacks.names_alone`
    losses: pd.DataFrame
    # Runs of earlier versions have none of these: their tables are empty.
    votes: pd.DataFrame  # `person`, `model`, `margin`, and the votes under each prompt
    neighbors: pd.DataFrame  # `person` who is not removed, and by what `kind` they are near to one who is
    map: pd.DataFrame  # `encoder`, `stage`, `person`, `x`, `y`
    budget: pd.DataFrame  # `encoder`, `step`, `utility`, `removal`, `kept`: empty where there was no budget of utility
    attacks: Mapping[str, Sequence[Finding]]  # others than IDIA, what each found
    attack_seconds: Mapping[str, float]  # that each took
    triggers: Path | None  # a sheet of photos that the defence was trained on

    @property
    def before(self) -> Mapping[str, float]:
        """Flat measures of the untouched model."""
        found: Mapping[str, float] = self.metrics["before"]
        return found

    @property
    def after(self) -> Mapping[str, Mapping[str, float]]:
        """Flat measures of each audited model."""
        found: Mapping[str, Mapping[str, float]] = self.metrics["after"]
        return found

    @property
    def fullest(self) -> str:
        """The audited model with most encoders defended; it is the one that the run saved."""
        return "both" if "both" in self.after else list(self.after)[-1]

    @property
    def encoders(self) -> list[str]:
        """The encoders that were defended."""
        return [model for model in self.after if model != "both"]

    @property
    def num_people(self) -> int:
        """People attacked."""
        return len(self.people)

    @property
    def num_removed(self) -> int:
        """People removed, with photos or without."""
        return int(self.people["removed"].sum() + self.without_photos["removed"].sum())

    @property
    def num_unknown(self) -> int:
        """People of whom nobody knows whether they were in the training data."""
        return int(self.people["member"].isna().sum())

    @property
    def sought(self) -> pd.DataFrame:
        """The rows of `people` of removed people with photos: others cannot be looked for."""
        return self.people[self.people["removed"] & (self.people["num_photos"] > 0)]

    @property
    def never_seen(self) -> pd.DataFrame:
        """The rows of people who are known not to be in the training data, were not removed, and have photos."""
        is_never_seen = self.people["member"].isin([False, "False", "false"])
        return self.people[is_never_seen & ~self.people["removed"] & (self.people["num_photos"] > 0)]

    @property
    def num_random(self) -> int:
        """Candidates of the attack that are nobody's names."""
        candidates = self.setting("attack.num_candidates")
        guess = candidates - self.num_people if isinstance(candidates, int) else 0
        return int(self.before.get("idia/num_random_names", max(0, guess)))

    @property
    def correct_prompts(self) -> Mapping[str, list[int]]:
        """Of each removed person with photos, for "before" and each audited model."""
        removed = self.sought
        return {model: removed[f"correct_prompts_{model}"].tolist() for model in ("before", *self.after)}

    @property
    def prompts(self) -> list[str]:
        """Prompts whose votes were counted."""
        return [column for column in self.votes.columns if column not in _EVIDENCE["votes"]]

    def of_removed(self, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a table that are about removed people."""
        return table[table["person"].isin(self.people.loc[self.people["removed"], "person"])]

    @property
    def num_prompts(self) -> int:
        """Prompts of the attack."""
        return max([len(TEMPLATES), *(count for counts in self.correct_prompts.values() for count in counts)])

    @property
    def threshold(self) -> int | None:
        """Right answers that it takes to infer somebody, if the config says so."""
        found = self.setting("attack.threshold")
        return found if isinstance(found, int) else None

    def setting(self, key: str) -> Any:
        """One value of the config, `None` where it is not known."""
        try:
            return OmegaConf.select(self.config, key)
        except OmegaConfBaseException:  # an interpolation that means something only while the run is made
            return None


def read_run(folder: Path, *, names: bool = False) -> FinishedRun:
    """Read a run folder.

    Args:
        folder: of the run.
        names: whether people go by their names. Else each name becomes its HMAC under a key that stays in the run
            folder: who has only the report can neither read a name nor test whether one is among them.

    Raises:
        InputError: if it is no finished run, or one of its files is broken.
    """
    metrics, people, without_photos = _everybody(folder)
    everybody = pd.concat([people["person"], without_photos["person"]])
    votes, neighbors, embeddings, names_alone = (
        _read(folder / f"{name}.csv", partial(_evidence, people=everybody, columns=columns))
        if (folder / f"{name}.csv").is_file()
        else pd.DataFrame(columns=list(columns))
        for name, columns in _EVIDENCE.items()
    )
    if not names:
        hashes = code_names(folder, everybody.tolist())
        tables = []
        for table in (people, votes, neighbors, embeddings, names_alone, without_photos):
            table["person"] = table["person"].map(hashes)
            # Else the order of the names, which a list of suspects has too, would say who is who.
            tables.append(table.sort_values("person", kind="stable", ignore_index=True))
        people, votes, neighbors, embeddings, names_alone, without_photos = tables
    triggers, attacks = folder / "figures" / "triggers.png", sorted((folder / "attacks").glob("*.json"))
    return FinishedRun(
        metrics=metrics,
        config=_config(folder),
        has_names=names,
        people=people,
        without_photos=without_photos,
        names=names_alone,
        losses=_read(folder / "losses.csv", _losses),
        votes=votes,
        neighbors=neighbors,
        map=embeddings,
        budget=_read(folder / "budget.csv", _budget) if (folder / "budget.csv").is_file() else pd.DataFrame(),
        attacks={path.stem: _read(path, lambda each: read_findings(each)[1]) for path in attacks},
        attack_seconds={path.stem: _read(path, read_seconds) for path in attacks},
        triggers=triggers if triggers.is_file() else None,
    )


def removed_people(folder: Path) -> list[str]:
    """Return the names of whom a finished run removed.

    Raises:
        InputError: as of `read_run`.
    """
    _, *tables = _everybody(folder)
    return [name for table in tables for name in table.loc[table["removed"], "person"]]


def _everybody(folder: Path) -> tuple[dict[str, Any], pd.DataFrame, pd.DataFrame]:
    """What a run measured, everybody's row, and apart those without photos."""
    metrics = _read(folder / "metrics.json", lambda path: _checked(read_metrics(path.parent)))
    models = ["before", *metrics["after"]]
    people, without_photos = _read(folder / "people.csv", lambda path: _people(path, models, metrics["before"]))
    return metrics, people, without_photos


def code_names(folder: Path, names: Sequence[str]) -> dict[str, str]:
    """Return what people of a run or an audit go by in its report: the HMAC of each name under the folder's key."""
    key = key_of_run(folder / "checkpoints")
    return {name: keyed_digest(key, name)[:_NUM_HASH_DIGITS] for name in names}


def _evidence(path: Path, people: pd.Series, columns: Mapping[str, type]) -> pd.DataFrame:
    """A table of `evidence`, if it is about the people attacked and nobody else."""
    table = read_csv(path, dtype={"name": str}, keep_default_na=False, na_values=[""])
    table = table.rename(columns={"name": "person"}).astype(dict(columns))
    if not table["person"].isin(people).all():
        raise ValueError("people who are not in people.csv")
    if "margin" in columns and table["model"].value_counts().nunique() > 1:
        raise ValueError("not as many people of each model")
    return table


def _read(path: Path, read: Callable[[Path], Any]) -> Any:
    if not path.is_file():
        raise InputError(
            f"{path}: expected the folder of a finished run, got one without this file; give a folder as "
            "runs/.../seed=0, or finish its run"
        )
    try:
        with open_ordinary(path, GIB) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - 1))
            if path.suffix == ".csv" and file.read() != b"\n":
                raise ValueError("a last row that is cut off")
        return read(path)
    except InputError:
        raise
    except Exception as error:  # JSON, CSV and YAML readers have no error in common
        line = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise InputError(f"{path}: expected what a finished run writes, got a broken file: {line}") from error


def _checked(metrics: dict[str, Any] | None) -> dict[str, Any]:
    """The metrics, if they hold what a report cannot do without."""
    if metrics and "after" not in metrics and "audit" in metrics:
        raise InputError("expected the folder of a finished run, got one of an audit, which has its report already")
    if not metrics or not metrics["after"]:
        raise ValueError("no audited model")
    for found in (metrics["before"], *metrics["after"].values()):
        numbers = ["idia/num_tpr_removed", *(["idia/tpr_removed"] if found["idia/num_tpr_removed"] else [])]
        if not all(isinstance(found[key], int | float) and math.isfinite(found[key]) for key in {*numbers, *found}):
            raise ValueError("measures that are no numbers")
        for key, value in found.items():
            if "/num_" in key and not (0 <= value <= _MAX_COUNT and value == int(value)):
                raise ValueError(f"{key} is no count: {value}")
    kinds = {"experiment": str, "seed": int, "seconds": dict, "weights_sha256": dict, "versions": dict}
    for key, kind in kinds.items():
        if not isinstance(metrics[key], kind):
            raise ValueError(f"{key} is no {kind.__name__}")
    if not all(isinstance(value, int | float) for value in metrics["seconds"].values()):
        raise ValueError("seconds that are no numbers")
    return metrics


def _people(path: Path, models: list[str], before: Mapping[str, float]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read everybody's row, if the removed people are as many as the metrics say; apart, those without photos."""
    correct = {f"correct_prompts_{model}": int for model in models}
    inferred = {f"inferred_{model}": bool for model in models}
    used = {"name": str, "removed": bool, "num_photos": int, **correct, **inferred}
    ranks = [f"p_{model}" for model in models]  # runs of earlier versions have none
    people = read_csv(path, dtype={"name": str}, keep_default_na=False, na_values=[""])
    missing = sorted({"member", *used} - {*people})
    if missing:
        raise ValueError(f"no column {missing[0]}")
    people = people.reindex(columns=["member", *used, *ranks])
    is_measured = people[[*correct, *inferred]].notna().any(axis=1)
    alone = people.loc[~is_measured, ["name", "removed"]].astype({"name": str, "removed": bool})
    people = people[is_measured].astype({**used, **dict.fromkeys(ranks, float)}).rename(columns={"name": "person"})
    people = people.reset_index(drop=True)
    if people["removed"].sum() != before["idia/num_tpr_removed"]:
        raise ValueError(f"{people['removed'].sum()} removed people, not as many as in metrics.json")
    return people, alone.rename(columns={"name": "person"}).reset_index(drop=True)


def _losses(path: Path) -> pd.DataFrame:
    """Every loss at every step of every encoder; one that an encoder has not is empty there."""
    table = pd.read_csv(path)
    if table.empty or table["loss"].isna().any():
        raise ValueError("steps without a loss")
    return table.astype({name: float for name in table.columns if name != "encoder"} | {"encoder": str, "step": int})


def _budget(path: Path) -> pd.DataFrame:
    """What each encoder's utility budget saw; one of them was kept."""
    used = {"encoder": str, "step": int, "utility": float, "removal": float, "kept": bool}
    table = pd.read_csv(path, usecols=list(used)).astype(used)
    if (table.groupby("encoder")["kept"].sum() != 1).any():
        raise ValueError("not one kept step of each encoder")
    return table


def _config(folder: Path) -> DictConfig:
    for path in (folder / name for name in _CONFIGS):
        if path.is_file():
            return read_stored(path)
    return OmegaConf.create({})
