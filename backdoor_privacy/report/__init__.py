"""The report of a finished run: one page and its figures, made from the files of the run folder alone."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from backdoor_privacy.report import wording
from backdoor_privacy.report.figures import (
    idia_figure,
    losses_figure,
    map_figure,
    margins_figure,
    prompts_figure,
    save_figure,
    votes_figure,
)
from backdoor_privacy.report.html import compare, render
from backdoor_privacy.report.model_card import model_card
from backdoor_privacy.runs.finished import FIGURES_OF_PEOPLE, FinishedRun, read_run
from backdoor_privacy.system.files import write_text


def write_report(folder: Path, *, names: bool = False) -> None:
    """Write `figures/`, `defended/README.md` and `report.html` of a finished run, each file whole or not at all.

    The model card never holds names.

    Args:
        folder: of the run.
        names: whether the report may hold names, and what tells people as well as names do: everybody's numbers, the
            map and other figures of single people. Else it counts people, see `disclosure`.

    Raises:
        InputError: if the folder is no finished run.
    """
    run = read_run(folder, names=names)
    figures = {"idia": idia_figure(run.before, run.after), "losses": losses_figure(wording.drawn_losses(run))}
    if names:
        figures |= _figures_of_people(run)
    svgs = {
        name: save_figure(figure, folder / "figures", name, private=name in FIGURES_OF_PEOPLE)
        for name, figure in figures.items()
    }
    for name in set(FIGURES_OF_PEOPLE) - set(figures):  # of a report with names, or of an earlier version
        for path in (folder / "figures").glob(f"{name}.*"):
            path.unlink()
    if (folder / "defended").is_dir():
        write_text(folder / "defended" / "README.md", model_card(replace(run, has_names=False)))
    write_text(folder / "report.html", render(run, svgs), private=names)


def _figures_of_people(run: FinishedRun) -> dict[str, Figure]:
    """Draw what shows single people, or exact numbers of a few: who has the original could tell them by it."""
    figures = {}
    if len(run.sought):
        figures["prompts"] = prompts_figure(run.correct_prompts, run.num_prompts, run.threshold)
    if len(run.sought) and len(run.votes):
        figures["margins"] = margins_figure(_margins(run))
        votes = run.of_removed(run.votes).groupby("model", sort=False)
        figures["votes"] = votes_figure(votes[run.prompts].sum().T / run.sought["num_photos"].sum())
    if len(run.map):
        figures["map"] = map_figure(run.map, run.people.loc[run.people["removed"], "person"].tolist())
    return figures


def is_written(folder: Path, *, names: bool) -> bool:
    """Whether the report is there, and holds names or nobody as asked; one of an earlier version is neither."""
    path = folder / "report.html"
    wanted = wording.HOLDS_NAMES if names else wording.HOLDS_NOBODY
    return path.is_file() and wanted in path.read_text(encoding="utf-8")


def _margins(run: FinishedRun) -> dict[str, dict[str, list[float]]]:
    """Margins of removed people and of all others, for "before" and each audited model."""
    votes, removed = run.votes.dropna(subset="margin"), set(run.of_removed(run.votes)["person"])
    groups = {"Removed people": votes["person"].isin(removed), "Everybody else": ~votes["person"].isin(removed)}
    return {
        group: {str(model): rows["margin"].tolist() for model, rows in votes[chosen].groupby("model", sort=False)}
        for group, chosen in groups.items()
        if chosen.any()
    }


def write_comparison(folders: Sequence[Path]) -> Path:
    """Write `comparison.html`, which sets finished runs side by side, into the folder that they have in common.

    Returns:
        The page.

    Raises:
        InputError: if one of them is no finished run.
    """
    common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    runs = {folder.resolve().relative_to(common).as_posix(): read_run(folder) for folder in folders}
    write_text(common / "comparison.html", compare(runs))
    return common / "comparison.html"
