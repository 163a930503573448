"""Run the sweeps of the recorded results as far as they are not done, and record them: `make reproduce`.

python experiments/reproduce.py --list          what there is, what is done, how long the rest takes
python experiments/reproduce.py names faces     run these; without names all
python experiments/reproduce.py names -- clip=vit_b_32 people=facescrub ...   with overrides, recorded nowhere
"""

import argparse
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from findings import findings_table, measured, short, spread
from rich.console import Console
from rich.table import Table

from backdoor_privacy.data.cells import csv_text, read_csv
from backdoor_privacy.report.collected import collect
from backdoor_privacy.report.figures.runs import people_figure, settings_figure
from backdoor_privacy.report.figures.style import save_figure
from backdoor_privacy.runs.sweeps import finished_runs, recorded_sweep, spoken, whole_run
from backdoor_privacy.system.files import write_text

FOLDER = Path(__file__).parent
NAMES = (
    *("names", "faces", "both", "weight_loss", "target_phrase", "poisoned_samples", "distances", "faces_500"),
    *("hardening", "hardening_names", "hardening_faces"),
)
_MARK, _END = "<!-- results: written by experiments/reproduce.py -->", "<!-- end of results -->"
_MEASURES = {
    "tpr_removed": "removed TPR",
    "tpr_kept_loss": "kept TPR loss",
    "wrongly_unlearned": "others lost",
    "fpr": "FPR",
    "zero_shot_top1_loss": "top-1 loss",
}


def recorded_rows(name: str) -> pd.DataFrame:
    """The recorded table of a sweep."""
    rows = read_csv(FOLDER / name / "collected.csv")
    return rows.assign(overrides=["" if pd.isna(one) else str(one) for one in rows["overrides"]])


def recorded_seconds(name: str) -> float | None:
    """Mean seconds of a run with its attacks when the result was recorded."""
    path = FOLDER / name / "collected.csv"
    return float(recorded_rows(name).groupby("run")["seconds"].first().mean()) if path.is_file() else None


def whole_runs(name: str, finished: Mapping[str, str], runs: Path) -> dict[str, str]:
    """The folders of a sweep's runs that are finished, with the attacks that the sweep asks for, and their settings."""
    return {
        folder: setting_of(job)
        for job in recorded_sweep(name)
        if (folder := whole_run(job, finished, runs)) is not None
    }


def setting_of(job: Iterable[str]) -> str:
    """The overrides of a run but for its seed, its experiment and its attacks, without Hydra's quotes of spaces."""
    aside = ("seed=", "+experiment=", "attack=")
    return ",".join(sorted(one.replace("\\", "") for one in job if not one.startswith(aside)))


def record(name: str, runs: Path, folders: Mapping[str, str], *, keep: bool = False) -> None:
    """Write the table and the figure of a sweep, and its means into its README.

    Args:
        name: of the sweep.
        runs: folder of all runs.
        folders: of the sweep's finished runs, each with its setting.
        keep: whether rows recorded before stay, of runs that are not among these.
    """
    rows, _ = collect(runs)
    # A folder's own name may be a digest of its setting.
    rows = rows[rows["run"].isin(folders)].assign(overrides=lambda own: own["run"].map(folders))
    folder = FOLDER / name
    if keep and (folder / "collected.csv").is_file():
        known = recorded_rows(name)
        rows = pd.concat([known[~known["run"].isin(folders)], rows])
    places = {setting: place for place, setting in enumerate(dict.fromkeys(map(setting_of, recorded_sweep(name))))}
    rows = rows.assign(place=rows["overrides"].map(places)).sort_values(["num_removed", "place", "seed", "model"])
    rows = rows.drop(columns="place")
    write_text(folder / "collected.csv", csv_text(rows, float_format="%.6g"))
    rows = recorded_rows(name)
    if rows["num_removed"].nunique() > 1:
        figure = people_figure(rows, labels(rows["overrides"].tolist()))
    else:
        model = "both" if "both" in rows["model"].tolist() else rows["model"].iloc[-1]
        chosen = rows[rows["model"] == model]
        figure = settings_figure(chosen, short_labels(chosen["overrides"].tolist()))
    save_figure(figure, folder, name)
    record_measures(folder, runs, rows, keep=keep)
    readme = folder / "README.md"
    before, mark, rest = readme.read_text(encoding="utf-8").partition(_MARK)
    _, end, after = rest.partition(_END)
    picture = f"![Removed people inferred, and what kept people lose]({name}.png)"
    tables = "\n\n".join([*settings_key(rows), results_table(rows), *recorded_measures(name)])
    write_text(readme, f"{before}{mark}\n{tables}\n\n{picture}\n{end}{after}")


def record_measures(folder: Path, runs: Path, rows: pd.DataFrame, *, keep: bool) -> None:
    """Write what other attacks found in the runs, if there were any."""
    first = rows.drop_duplicates("run")
    settings = dict(zip(first["run"], labels(first["overrides"].tolist()), strict=True))
    found = measured(runs, settings)
    path = folder / "measures.csv"
    if keep and path.is_file():
        known = read_csv(path, keep_default_na=False, na_values=[""])
        found = pd.concat([known[~known["run"].isin(found["run"])], found]) if len(found) else known
    if found.empty:
        return
    order = {run: number for number, run in enumerate(settings)}
    found = found.sort_values("run", key=lambda column: column.map(order))
    write_text(path, csv_text(found, float_format="%.6g"))


def recorded_measures(name: str) -> list[str]:
    """The recorded table of what other attacks found; nothing where there were none."""
    path = FOLDER / name / "measures.csv"
    if not path.is_file():
        return []
    found = read_csv(path, keep_default_na=False, na_values=[""])
    return [findings_table(found.assign(setting=found["setting"].fillna("")))]


def settings_key(rows: pd.DataFrame) -> list[str]:
    """What the numbers of settings stand for, in Markdown; nothing where they have none."""
    own = short(labels(rows["overrides"].tolist()))
    numbered = [f"{number}. `{label}`" for label, number in own.items() if number != label]
    return ["\n".join(numbered)] if numbered else []


def results_table(rows: pd.DataFrame) -> str:
    """Means over seeds in Markdown, with the least and the most of them in brackets."""
    rows = rows.assign(setting=short_labels(rows["overrides"].tolist()))
    head = ["removed, of all who may be known", "audited model", "seeds", *_MEASURES.values()]
    has_settings = rows["setting"].any()
    if has_settings:
        head.insert(1, "setting")
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for (people, setting, model), group in rows.groupby(["num_removed", "setting", "model"], sort=False):
        cells = [f"{people:.0f} of {people + group['num_kept'].mean():.0f}", setting, model, str(len(group))]
        cells = cells if has_settings else [cell for cell in cells if cell]
        for column in _MEASURES:
            cells.append(spread(group[column]))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def labels(overrides: Sequence[str]) -> list[str]:
    """Of each run the override that sets it apart from the others."""
    parts = [re.split(",(?! )", one) for one in overrides]  # a comma in a text has a space behind it
    common = set.intersection(*map(set, parts)) if len(set(overrides)) > 1 else set()
    own = [", ".join(part for part in each if part not in common) for each in parts]
    return [
        re.sub(r"defense[./]|\+ablation=", "", one).replace("={", " ").replace("{", "").replace("}", "") for one in own
    ]


def short_labels(overrides: Sequence[str]) -> list[str]:
    """The same as they stand in tables and figures."""
    own = labels(overrides)
    shown = short(own)
    return [shown[one] for one in own]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked.

    Returns:
        The exit code: 1 if a sweep failed.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    given, overrides = (given[: given.index("--")], given[given.index("--") + 1 :]) if "--" in given else (given, [])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=", ".join(NAMES))
    parser.add_argument("--list", action="store_true", help="run nothing")
    parser.add_argument("--record", action="store_true", help="only record what is done")
    parser.add_argument("--keep", action="store_true", help="keep recorded rows of runs that are not there")
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all runs (runs)")
    asked = parser.parse_args(given)
    unknown = sorted(set(asked.names) - set(NAMES))
    if unknown:
        print(f"error: expected names of {', '.join(NAMES)}, got {unknown[0]}", file=sys.stderr)
        return 1
    names = asked.names or NAMES

    console = Console(markup=False, emoji=False)  # paths may have brackets and colons
    finished = finished_runs(asked.runs)
    table = Table("sweep", "runs", "done", "time left", title="Recorded results")
    total, num_unknown = 0.0, 0
    for name in names:
        num_runs, num_done = len(recorded_sweep(name)), len(whole_runs(name, finished, asked.runs))
        seconds = recorded_seconds(name)
        left = None if seconds is None else seconds * (num_runs - num_done)
        total += left or 0.0
        num_unknown += num_runs - num_done if left is None else 0
        table.add_row(name, str(num_runs), str(num_done), "not known" if left is None else spoken(left))
    console.print(table)
    time = f"{spoken(total)} and {num_unknown} runs of unknown length" if num_unknown else spoken(total)
    console.print(f"Left: about {time}, if runs take as long as when they were recorded, one after the other.")
    if asked.list:
        return 0

    failed = False
    for name in names:
        if not asked.record:
            command = [
                sys.executable,
                "-m",
                "backdoor_privacy",
                f"+sweep={name}",
                f"paths.runs={asked.runs}",
                *overrides,
            ]
            failed |= subprocess.run(command, check=False).returncode != 0
        if overrides:
            continue
        folders = whole_runs(name, finished_runs(asked.runs), asked.runs)
        if folders:
            record(name, asked.runs, folders, keep=asked.keep)
            console.print(FOLDER / name / "collected.csv", f"({len(folders)} of {len(recorded_sweep(name))} runs)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
