"""One table out of many runs: `python -m backdoor_privacy.collect runs`."""

import sys
from collections import defaultdict
from math import nan
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.table import Table

from backdoor_privacy.errors import InputError
from backdoor_privacy.results import read_metrics


def collect(folder: Path) -> tuple[pd.DataFrame, list[Path]]:
    """A row for each audited model of each finished run below a folder, and the runs that did not finish.

    Losses are before minus after, in the run's own pairing.

    Raises:
        InputError: if there is no run.
    """
    rows, unfinished = [], []
    for claimed in sorted(folder.rglob("checkpoints/config.yaml")):
        run = claimed.parent.parent
        metrics = read_metrics(run)
        if metrics is None:
            unfinished.append(run)
            continue
        before = defaultdict(lambda: nan, metrics["before"])  # a rate over nobody is left out
        for model, measures in metrics["after"].items():
            after = defaultdict(lambda: nan, measures)
            rows.append(
                {
                    "experiment": metrics["experiment"],
                    "overrides": _overrides(run.parent.relative_to(folder), metrics["experiment"]),
                    "seed": metrics["seed"],
                    "model": model,
                    "num_removed": after["idia/num_tpr_removed"],
                    "tpr_removed": after["idia/tpr_removed"],
                    "num_kept": after["idia/num_tpr_kept"],
                    "tpr_kept_loss": before["idia/tpr_kept"] - after["idia/tpr_kept"],
                    "wrongly_unlearned": after["idia/wrongly_unlearned"],
                    "fpr": after["idia/fpr"],
                    "zero_shot_top1": after["zero_shot/top1"],
                    "zero_shot_top1_loss": before["zero_shot/top1"] - after["zero_shot/top1"],
                    "seconds": sum(metrics["seconds"].values()),
                    "commit": metrics["versions"]["commit"],
                    "run": str(run.relative_to(folder)),
                }
            )
    if not rows and not unfinished:
        raise InputError(f"{folder}: expected run folders in it, found none")
    return pd.DataFrame(rows), unfinished


def _overrides(runs: Path, experiment: str) -> str:
    """What sets these runs apart from others of the experiment, as their folder's name says."""
    return "/".join(part for part in runs.parts if part != experiment)


def main() -> None:
    """Print the means over seeds and write every row to `collected.csv`."""
    console = Console()
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "runs")
    try:
        rows, unfinished = collect(folder)
    except InputError as error:
        console.print(str(error), style="red", highlight=False)
        sys.exit(1)
    if len(rows):
        rows.to_csv(folder / "collected.csv", index=False)
        columns = ["num_removed", "tpr_removed", "num_kept", "tpr_kept_loss", "wrongly_unlearned", "fpr"]
        columns += ["zero_shot_top1", "zero_shot_top1_loss", "seconds"]
        labels = ["experiment", "overrides", "model"]
        grouped = rows.groupby(labels, sort=True)
        table = Table(title=f"Means over seeds; every run: {folder / 'collected.csv'}")
        for column in (*labels, "seeds", *columns):
            table.add_column(column.replace("_", " "), justify="left" if column in labels else "right")
        for own_labels, group in grouped:
            means = [f"{group[column].mean():.3f}".rstrip("0").rstrip(".") for column in columns]
            table.add_row(*own_labels, str(group["seed"].nunique()), *means)
        console.print(table)
    for run in unfinished:
        console.print(f"not finished: {run}", style="yellow", highlight=False)


if __name__ == "__main__":
    main()
