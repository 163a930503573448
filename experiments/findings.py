"""What other attacks than IDIA found in the runs of a sweep, in one table: `reproduce.py` writes it."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from backdoor_privacy.attacks.record import read_findings
from backdoor_privacy.attacks.scene import Finding

_NEVER = "removed / never seen"


class Measure(NamedTuple):
    """One number of a run: the largest finding that is of this kind."""

    attack: str
    group: str  # of whom
    measure: str
    kind: Callable[[str], bool]
    model: str | None = "fullest"  # the one with most encoders defended; `None`: any that is defended


# What is left of the removed people comes first, what others pay last.
MEASURES: Mapping[str, Measure] = {
    "who was erased, with the original at hand (AUC)": Measure(
        "erased", _NEVER, "AUC", lambda kind: kind == "combined, with the original"
    ),
    "who was erased, from the defended model alone, names and faces (AUC)": Measure(
        "erased", _NEVER, "AUC", lambda kind: kind == "combined, defended alone"
    ),
    "the same from the best single score of other people (AUC)": Measure(
        "erased", _NEVER, "AUC", lambda kind: kind == "worst, defended alone, chosen on other people"
    ),
    "who was erased, by the best score of names (AUC)": Measure(
        "erased",
        _NEVER,
        "AUC, better direction",
        lambda kind: kind.startswith("name: ") and "change" not in kind and "drift" not in kind,
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
    "some prompt finds the photos, more than those of never-seen people": Measure(
        "inversion", _NEVER, "difference", lambda kind: True
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
    "a quarter or half of the original weights mixed in (TPR)": Measure(
        "compression", "removed", "TPR", lambda kind: "original" in kind
    ),
    "half or a third of the weights pruned (TPR)": Measure(
        "compression", "removed", "TPR", lambda kind: "pruned" in kind
    ),
    "4-bit weights (TPR)": Measure("compression", "removed", "TPR", lambda kind: kind == "int4"),
    "benign fine-tuning, worst step (TPR)": Measure("benign", "removed", "TPR", lambda kind: True),
    "relearning with 5 photos: steps, over those of never-seen people (below 1: easier)": Measure(
        "relearning", _NEVER, "ratio", lambda kind: kind.startswith("5 photos")
    ),
    "namesakes wrongly unlearned": Measure("neighbors", "kept", "wrongly unlearned", lambda kind: "name" in kind),
    "nearest faces wrongly unlearned": Measure("neighbors", "kept", "wrongly unlearned", lambda kind: "faces" in kind),
}


def read_all(runs: Path, folders: Mapping[str, str]) -> pd.DataFrame:
    """All findings of some runs: a row each.

    Args:
        runs: folder of all runs.
        folders: of the runs, each with its setting.
    """
    rows = []
    for folder, setting in folders.items():
        for path in sorted((runs / folder / "attacks").glob("*.json")):
            rows += [
                {"run": folder, "setting": setting, "attack": path.stem, **one._asdict()}
                for one in read_findings(path)[1]
            ]
    return pd.DataFrame(rows, columns=["run", "setting", "attack", *Finding._fields])


def measured(findings: pd.DataFrame) -> pd.DataFrame:
    """The `MEASURES` of each run: `run`, `setting`, and a column each; empty where the attack was not run."""
    found: list[dict[str, Any]] = []
    for (run, setting), own in findings.groupby(["run", "setting"], sort=False):
        values = {label: _value(own, measure) for label, measure in MEASURES.items()}
        found.append({"run": run, "setting": setting, **values})
    return pd.DataFrame(found, columns=["run", "setting", *MEASURES])


def _value(own: pd.DataFrame, measure: Measure) -> float | None:
    models = set(own["model"])
    fullest = next((model for model in ("both", "image", "text") if model in models), None)
    wanted = fullest if measure.model == "fullest" else measure.model
    chosen = [
        float(one.value)
        for one in own.itertuples()
        if (one.attack, one.group, one.measure) == (measure.attack, measure.group, measure.measure)
        and measure.kind(str(one.kind))
        and (one.model == wanted if wanted else one.model != "before")
    ]
    return max(chosen, default=None)


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
