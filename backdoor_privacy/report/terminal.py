"""The table of a run's results in the terminal."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from backdoor_privacy.report.labels import labels_in
from backdoor_privacy.report.models import model_label
from backdoor_privacy.system.terminal import VisibleConsole

_WIDTH = 120  # characters, where the output is no terminal
_ROWS = {
    "idia/tpr_removed": "removed people inferred by IDIA",
    "idia/tpr_kept": "kept people inferred by IDIA",
    "idia/fpr": "never-seen people inferred by IDIA",
    "idia/wrongly_unlearned": "others lost (no longer inferred)",
    "idia/newly_recalled": "others newly inferred",
    "names/prompts_moved_further": "random names moved further",
    "names/prompts_nearer_target": "random names nearer to the target",
}
_OF_NAMES = "names/"  # rows that only runs have that removed people without photos


def print_table(metrics: Mapping[str, Any], folder: str) -> None:
    """Print the results before and after, side by side, and the folder that holds them."""
    table = Table(title=f"{metrics['experiment']}, seed {metrics['seed']}")
    table.add_column("")
    table.add_column("before", justify="right")
    for model in metrics["after"]:
        table.add_column(model_label(model), justify="right")
    columns = [metrics["before"], *metrics["after"].values()]
    utility = {key: _lower(label.title) for key, label in labels_in(metrics).items() if key in metrics["before"]}
    for key, title in {**_ROWS, **utility, "similarity/clean": "similarity to the original"}.items():
        if not key.startswith(_OF_NAMES) or any(key in column for column in columns):
            table.add_row(title, *(_rate(column, key) for column in columns))
    console = VisibleConsole(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(table)
    console.print(f"Results: {folder}", soft_wrap=True, highlight=False)


def _lower(title: str) -> str:
    return title[:1].lower() + title[1:]


def _rate(values: Mapping[str, float], key: str) -> str:
    if key not in values:
        return "-"
    count = values.get(f"idia/num_{key.removeprefix('idia/')}")
    return f"{values[key]:.3f}" + (f" of {count:.0f}" if count is not None else "")
