"""What a run found out, in the terminal."""

import sys
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from backdoor_privacy.system.terminal import VisibleConsole

_WIDTH = 120  # characters, where the output is no terminal
_ROWS = {
    "idia/tpr_removed": "removed people inferred by IDIA",
    "idia/tpr_kept": "kept people inferred by IDIA",
    "idia/fpr": "never-seen people inferred by IDIA",
    "idia/wrongly_unlearned": "others no longer inferred",
    "idia/newly_recalled": "others newly inferred",
    "names/prompts_moved_further": "random names moved further",
    "names/prompts_nearer_target": "random names nearer to the target",
    "zero_shot/top1": "zero-shot top-1",
    "zero_shot/top5": "zero-shot top-5",
    "similarity/clean": "similarity to the original",
}


def print_table(metrics: Mapping[str, Any], folder: str) -> None:
    """Before and after, side by side, and where the results lie."""
    table = Table(title=f"{metrics['experiment']}, seed {metrics['seed']}")
    table.add_column("")
    table.add_column("before", justify="right")
    for model in metrics["after"]:
        table.add_column("after: both" if model == "both" else f"after: {model} only", justify="right")
    columns = [metrics["before"], *metrics["after"].values()]
    for key, title in _ROWS.items():
        if key.startswith("names/") and not any(key in column for column in columns):
            continue  # everybody has photos
        table.add_row(title, *(_rate(column, key) for column in columns))
    console = VisibleConsole(width=None if sys.stdout.isatty() else _WIDTH)
    console.print(table)
    console.print(f"Results: {folder}", soft_wrap=True, highlight=False)


def _rate(values: Mapping[str, float], key: str) -> str:
    if key not in values:
        return "-"
    count = values.get(f"idia/num_{key.removeprefix('idia/')}")
    return f"{values[key]:.3f}" + (f" of {count:.0f}" if count is not None else "")
