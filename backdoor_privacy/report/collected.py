"""Collect many runs in one table, and draw what they have in common."""

import math
import re
from collections import defaultdict
from collections.abc import Mapping
from math import nan
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf
from rich.box import SIMPLE_HEAD
from rich.table import Table

from backdoor_privacy.attacks.record import read_seconds
from backdoor_privacy.data.cells import csv_text
from backdoor_privacy.errors import InputError, without_names
from backdoor_privacy.report import earlier
from backdoor_privacy.report.figures.runs import pareto_figure, people_figure
from backdoor_privacy.report.figures.style import save_figure
from backdoor_privacy.report.labels import labels_in
from backdoor_privacy.report.verdict import TOP1_LOSS
from backdoor_privacy.runs.folder import claimed_names, read_metrics
from backdoor_privacy.system.files import write_text
from backdoor_privacy.system.paths import CONFIG_FOLDER
from backdoor_privacy.system.reading import MIB, JsonObject, open_ordinary

_VERSIONS = ("commit", "python", "torch", "open_clip_torch", "lightning")
_LOG = "backdoor_privacy.log"  # of Hydra, in the folder of each job


def collect(folder: Path) -> tuple[pd.DataFrame, list[str]]:
    """Collect the finished runs below a folder.

    Returns:
        A row for each audited model of each finished run, and for each other run a line that says why it has no row.
        Losses are before minus after, of the same people and photos; seconds include those of the attacks.

    Raises:
        InputError: if there is no run.
    """
    rows, failed = [], []
    begun = {claimed.parent.parent for claimed in folder.rglob("checkpoints/config.yaml")}
    begun |= {log.parent for log in folder.rglob(_LOG)}  # runs, too, that failed before they did anything
    for run in sorted(begun):
        try:
            metrics = read_metrics(run)
            if metrics is None:
                failed.append(f"not finished: {run}{_last_words(run)}")
            else:
                rows += _rows(folder, run, metrics)
        except InputError as error:
            failed.append(f"broken: {error}")
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            file = run / "metrics.json"
            failed.append(f"broken: {file}: expected the measures of a finished run, got {error!r}; start it again")
    if not begun:
        raise InputError(f"{folder}: expected run folders in it, found none; give the folder of runs, paths.runs")
    return pd.DataFrame(rows), failed


def _rows(folder: Path, run: Path, metrics: JsonObject) -> list[dict[str, object]]:
    """Return a row for each audited model of a finished run."""
    rows: list[dict[str, object]] = []
    before = defaultdict(lambda: nan, metrics["before"])  # a rate over nobody is left out
    for model, measures in metrics["after"].items():
        after = defaultdict(lambda: nan, measures)
        rows.append(
            {
                "experiment": metrics["experiment"],
                "overrides": _overrides(run.parent.relative_to(folder), metrics["experiment"]),
                "seed": metrics["seed"],
                "model": model,
                "tpr_removed_before": before["idia/tpr_removed"],
                "num_removed": after["idia/num_tpr_removed"],
                "tpr_removed": after["idia/tpr_removed"],
                "num_kept": after["idia/num_tpr_kept"],
                "tpr_kept_loss": before["idia/tpr_kept"] - after["idia/tpr_kept"],
                "wrongly_unlearned": after["idia/wrongly_unlearned"],
                "fpr": after["idia/fpr"],
                **_utility(metrics, before, after),
                "seconds": sum(metrics["seconds"].values()) + _attack_seconds(run),
                **{key: metrics["versions"].get(key) for key in _VERSIONS},
                "run": str(run.relative_to(folder)),
            }
        )
    return rows


def _attack_seconds(run: Path) -> float:
    """Return the seconds of the attacks other than IDIA; they are not in `metrics.json`."""
    paths = sorted((run / "attacks").glob("*.json"))
    return sum(map(read_seconds, paths))


def _utility(metrics: JsonObject, before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return the columns of the utility measures, each with its loss; those of earlier versions are always there."""
    columns: dict[str, float] = {}
    for key, label in {**earlier.labels(metrics["before"]), **labels_in(metrics)}.items():
        if label.column:
            columns |= {label.column: after[key], f"{label.column}_loss": before[key] - after[key]}
    return columns


def _overrides(runs: Path, experiment: str) -> str:
    """Return what sets these runs apart from others of the experiment, as their folder's name says."""
    return "/".join(part for part in runs.parts if part != experiment)


def _last_words(run: Path) -> str:
    """Return the last line of a run's log, which says why it failed, without names of people."""
    log = run / _LOG
    if not log.is_file():
        return ""
    with open_ordinary(log) as file:
        file.seek(max(0, log.stat().st_size - MIB))
        lines = file.read(MIB).decode(errors="replace").split("\n")
    line = next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
    return without_names(line, claimed_names(run))


def _setting(experiment: str, overrides: str) -> str:
    """Return what sets runs apart, except their seed and the number of people they remove."""
    path = CONFIG_FOLDER / "experiment" / f"{experiment}.yaml"
    # An experiment that sets more than whom to remove, as faces_500, is not another size of faces_64.
    if path.is_file() and set(OmegaConf.load(path)) == {"defaults", "name", "trigger_set"}:
        experiment = re.sub(r"_\d+$", "", experiment)
    overrides = re.sub(r"(^|,)trigger_set\.num_people=\w+", "", overrides).lstrip(",")
    return "/".join(filter(None, (experiment, overrides)))


def _means(rows: pd.DataFrame, title: str) -> Table:
    """Return the means over seeds as a table for the terminal."""
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in ("experiment", "model"):
        table.add_column(column, overflow="fold")
    for column in ("seeds", "removed TPR", "kept TPR loss", "others lost", "FPR", "top-1 loss"):
        table.add_column(column, justify="right")
    for (*experiment, model), group in rows.groupby(["experiment", "overrides", "model"], sort=True):
        mean = group.mean(numeric_only=True)
        table.add_row(
            "/".join(filter(None, experiment)),
            model,
            str(group["seed"].nunique()),
            f"{_cell(mean['tpr_removed'])} of {mean['num_removed']:.0f}",
            f"{_cell(mean['tpr_kept_loss'])} of {mean['num_kept']:.0f}",
            _cell(mean["wrongly_unlearned"]),
            _cell(mean["fpr"]),
            _cell(mean[TOP1_LOSS]),
        )
    return table


def _cell(rate: float) -> str:
    return "-" if math.isnan(rate) else f"{rate:.3f}"


def write_collected(rows: pd.DataFrame, folder: Path) -> Table:
    """Write every row to `collected.csv`, draw `figures/`, and return the means over seeds."""
    write_text(folder / "collected.csv", csv_text(rows))
    settings = [_setting(*names) for names in zip(rows["experiment"], rows["overrides"], strict=True)]
    sized = rows.assign(setting=settings)
    sized = sized[sized.groupby("setting")["num_removed"].transform("nunique") > 1]  # one size makes no line
    if len(sized):
        save_figure(people_figure(sized, sized["setting"].tolist()), folder / "figures", "people")
    save_figure(pareto_figure(rows), folder / "figures", "pareto")
    return _means(rows, f"Means over seeds; every run: {folder / 'collected.csv'}")
