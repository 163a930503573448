"""Write the report of a finished run, and a page that compares several."""

import os
from collections.abc import Sequence
from pathlib import Path

from backdoor_privacy.report.comparison import compare
from backdoor_privacy.report.disclosure import HOLDS_NAMES, HOLDS_NOBODY
from backdoor_privacy.report.figures.style import save_figure
from backdoor_privacy.report.html import render
from backdoor_privacy.report.model_card import model_card
from backdoor_privacy.report.sections import sections_of
from backdoor_privacy.runs.finished import read_run
from backdoor_privacy.system.files import write_text

_OF_THE_RUN = "triggers"  # the one picture in `figures/` that the run writes, and the report does not


def write_report(folder: Path, *, names: bool = False) -> None:
    """Write `figures/`, `defended/README.md` and `report.html` of a finished run, each file whole or not at all.

    The model card never holds names.

    Args:
        folder: of the run.
        names: whether the report may hold names, and what identifies people as names do: everybody's numbers, the map
            and other figures of single people. If not, it counts people, see `disclosure`.

    Raises:
        InputError: if the folder is no finished run.
    """
    run = read_run(folder, names=names)
    drawings = [drawing for section in sections_of(run) for drawing in section.drawings]
    svgs = {
        drawing.name: save_figure(drawing.draw(), folder / "figures", drawing.name, private=drawing.is_private)
        for drawing in drawings
    }
    for path in (folder / "figures").glob("*.*"):  # a report with names, or an earlier version, had more figures
        if path.suffix in (".svg", ".png") and path.stem not in {*svgs, _OF_THE_RUN} and path.is_file():
            path.unlink()
    if (folder / "defended").is_dir():
        write_text(folder / "defended" / "README.md", model_card(run))
    write_text(folder / "report.html", render(run, svgs), private=names)


def is_written(folder: Path, *, names: bool) -> bool:
    """Return whether the report exists and says that it has names, or none, as asked; earlier versions' say neither."""
    path = folder / "report.html"
    sentence = HOLDS_NAMES if names else HOLDS_NOBODY
    return path.is_file() and sentence in path.read_text(encoding="utf-8")


def write_comparison(folders: Sequence[Path]) -> Path:
    """Write `comparison.html`, which sets finished runs side by side, into the folder that all of them are in.

    Returns:
        The page.

    Raises:
        InputError: if one of them is no finished run.
    """
    common = Path(os.path.commonpath([folder.resolve() for folder in folders]))
    runs = {folder.resolve().relative_to(common).as_posix(): read_run(folder) for folder in folders}
    write_text(common / "comparison.html", compare(runs))
    return common / "comparison.html"
