"""What other attacks than IDIA found in the runs of a sweep, in one table: `reproduce.py` writes it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from backdoor_privacy.attacks.headlines import MEASURES, worst
from backdoor_privacy.attacks.record import read_findings


def measured(runs: Path, folders: Mapping[str, str]) -> pd.DataFrame:
    """The `MEASURES` of runs: `run`, `setting`, and a column each; empty where the attack was not run.

    Args:
        runs: folder of all runs.
        folders: of the runs, each with its setting.
    """
    rows: list[dict[str, Any]] = []
    for folder, setting in folders.items():
        found = {path.stem: read_findings(path)[1] for path in (runs / folder / "attacks").glob("*.json")}
        if found:
            values = {label: worst(found.get(measure.attack, ()), measure) for label, measure in MEASURES.items()}
            known = {label: None if finding is None else finding.value for label, finding in values.items()}
            rows.append({"run": folder, "setting": setting, **known})
    return pd.DataFrame(rows, columns=["run", "setting", *MEASURES])


def findings_table(values: pd.DataFrame) -> str:
    """Means over seeds in Markdown, the least and the most in brackets: a row for each measure, a column a setting."""
    settings = list(dict.fromkeys(values["setting"]))
    lines = [f"| measure | {' | '.join(settings)} |", "|---" * (len(settings) + 1) + "|"]
    for label in values.columns.drop(["run", "setting"]):
        if values[label].isna().all():  # the attack was not run
            continue
        cells = [_spread(values.loc[values["setting"] == setting, label]) for setting in settings]
        lines.append(f"| {label} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float] | pd.Series) -> str:
    known = pd.Series(values).dropna()
    return "" if known.empty else f"{known.mean():.3f} ({known.min():.3f} to {known.max():.3f})"
