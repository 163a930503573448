"""Read the files of a finished run, and check that each holds what a run writes."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, TypeVar

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.config.stored import read_stored
from backdoor_privacy.data.cells import read_csv
from backdoor_privacy.errors import InputError
from backdoor_privacy.runs.folder import read_metrics
from backdoor_privacy.system.reading import GIB, JsonObject, open_ordinary

_Content = TypeVar("_Content")
_MAX_COUNT = 10**12  # of people, photos or names
# The columns of the tables by person that figures and reports need.
EVIDENCE: Mapping[str, Mapping[str, type]] = {
    "votes": {"person": str, "model": str, "margin": float},
    "neighbors": {"person": str, "kind": str},
    "map": {"encoder": str, "stage": str, "person": str, "x": float, "y": float},
    "names": {"person": str, "model": str},
}
# The first is the one that the run claimed its folder with.
_CONFIGS = (Path("checkpoints") / "config.yaml", Path(".hydra") / "config.yaml")


class _Descriptions(TypedDict, total=False):
    """Entries that runs of earlier versions did not record."""

    utility: Mapping[str, Mapping[str, str]]  # label of each number of a utility measure, for reports
    defenses: Mapping[str, JsonObject]  # how each defence describes itself


class Metrics(_Descriptions):
    """The content of `metrics.json`."""

    experiment: str
    seed: int
    before: Mapping[str, float]
    after: Mapping[str, Mapping[str, float]]
    seconds: Mapping[str, float]
    weights_sha256: Mapping[str, str]
    versions: Mapping[str, str]


def read_file(path: Path, read: Callable[[Path], _Content]) -> _Content:
    """Read a file of a run.

    Raises:
        InputError: if it is missing or broken.
    """
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


def read_table(path: Path, read: Callable[[Path], pd.DataFrame]) -> pd.DataFrame:
    """Read a table that not every run has; return an empty one if the file is missing.

    Raises:
        InputError: if it is broken.
    """
    return read_file(path, read) if path.is_file() else pd.DataFrame()


def checked_metrics(path: Path) -> Metrics:
    """Read `metrics.json`, and check that it holds what a report needs."""
    metrics = read_metrics(path.parent)
    if metrics and "after" not in metrics and "audit" in metrics:
        raise InputError("expected the folder of a finished run, got one of an audit, which has its report already")
    if not metrics or not metrics["after"]:
        raise ValueError("no audited model")
    for measures in (metrics["before"], *metrics["after"].values()):
        _check_measures(measures)
    kinds = {"experiment": str, "seed": int, "seconds": dict, "weights_sha256": dict, "versions": dict}
    for key, kind in kinds.items():
        if not isinstance(metrics[key], kind):
            raise ValueError(f"{key} is no {kind.__name__}")
    if not all(isinstance(value, int | float) for value in metrics["seconds"].values()):
        raise ValueError("seconds that are no numbers")
    _check_descriptions(metrics)
    checked: Any = metrics  # JSON has no type
    return checked


def _check_measures(measures: Mapping[str, object]) -> None:
    numbers = ["idia/num_tpr_removed", *(["idia/tpr_removed"] if measures["idia/num_tpr_removed"] else [])]
    for key in {*numbers, *measures}:
        value = measures[key]
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise ValueError("measures that are no numbers")
        if "/num_" in key and not (0 <= value <= _MAX_COUNT and value == int(value)):
            raise ValueError(f"{key} is no count: {value}")


def _check_descriptions(metrics: JsonObject) -> None:
    """Check the descriptions of defences and the labels of utility measures."""
    for key, label in metrics.get("utility", {}).items():
        if set(label) != {"title", "note", "column"} or not all(isinstance(text, str) for text in label.values()):
            raise ValueError(f"utility.{key} is no label")
    for name, defense in metrics.get("defenses", {}).items():
        lists = defense["encoders"], defense.get("limits", []), defense.get("parts", [])
        is_list = all(isinstance(texts, list) and all(isinstance(text, str) for text in texts) for texts in lists)
        is_known = not set(defense) - {"encoders", "description", "limits", "parts"}
        if not (is_list and is_known and isinstance(defense["description"], str)):
            raise ValueError(f"defenses.{name} is no description")


def people_tables(path: Path, models: Sequence[str], num_removed: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read `people.csv`.

    Args:
        path: of the file.
        models: `before` and the audited models.
        num_removed: removed people with photos, as `metrics.json` counts them.

    Returns:
        A row for everybody whom IDIA was run on; and the people without photos: `person`, `removed`.
    """
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
    if people["removed"].sum() != num_removed:
        raise ValueError(f"{people['removed'].sum()} removed people, not as many as in metrics.json")
    return people, alone.rename(columns={"name": "person"}).reset_index(drop=True)


def evidence_table(path: Path, people: pd.Series, columns: Mapping[str, type]) -> pd.DataFrame:
    """Read a table of `EVIDENCE`, which may hold the people attacked and nobody else."""
    table = read_csv(path, dtype={"name": str}, keep_default_na=False, na_values=[""])
    table = table.rename(columns={"name": "person"}).astype(dict(columns))
    if not table["person"].isin(people).all():
        raise ValueError("people who are not in people.csv")
    if "margin" in columns and table["model"].value_counts().nunique() > 1:
        raise ValueError("not as many people of each model")
    return table


def losses_table(path: Path) -> pd.DataFrame:
    """Read every loss at every step of every encoder; a loss that an encoder does not have is empty there."""
    table = pd.read_csv(path)
    if table.empty or table["loss"].isna().any():
        raise ValueError("steps without a loss")
    return table.astype({name: float for name in table.columns if name != "encoder"} | {"encoder": str, "step": int})


def budget_table(path: Path) -> pd.DataFrame:
    """Read the evaluations of each encoder's utility budget; exactly one step of each encoder was kept."""
    used = {"encoder": str, "step": int, "utility": float, "removal": float, "kept": bool}
    table = pd.read_csv(path, usecols=list(used)).astype(used)
    if (table.groupby("encoder")["kept"].sum() != 1).any():
        raise ValueError("not one kept step of each encoder")
    return table


def stored_config(folder: Path) -> DictConfig:
    """Read the config of a run; return an empty one where the folder has none."""
    for path in (folder / name for name in _CONFIGS):
        if path.is_file():
            return read_stored(path)
    return OmegaConf.create({})
