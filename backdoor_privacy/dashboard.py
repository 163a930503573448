"""A saved W&B workspace for sweeps: `python -m backdoor_privacy.dashboard <entity>/<project>` (extra `dashboard`)."""

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Any, TypeAlias

from backdoor_privacy.errors import CommandParser, InputError, ended_in_one_line

_Imported: TypeAlias = Any  # a class of wandb_workspaces, an extra that only this command imports
_MODELS = ("text", "image", "both")
_NUM_PEOPLE = "before/idia/num_tpr_removed"  # trigger_set.num_people is not it where people are named
# What the seeds of one setting have in common, besides their number of people.
_SETTING = ("name", "setting")
_MEASURES = {
    "idia/tpr_removed": "Removed people inferred",
    "idia/tpr_kept": "Kept people inferred",
    "idia/fpr": "Never-seen people inferred",
}
_LOSSES = ("loss", "backdoor_loss", "utility_loss")


def workspace(entity: str, project: str) -> _Imported:
    """Return the workspace: measures, parallel coordinates and losses, of runs that are grouped by people and defence.

    W&B's scatter plots have no groups, so bars show the mean and the range over seeds, in the order of the people.

    Raises:
        InputError: if wandb-workspaces is not installed.
    """
    try:
        import wandb_workspaces.reports.v2 as wr
        import wandb_workspaces.workspaces as ws
    except ImportError as error:
        raise InputError(
            "dashboard: expected wandb-workspaces to be installed; pip install 'backdoor_privacy[dashboard]'"
        ) from error
    from backdoor_privacy.report.verdict import TOP1  # here, since it imports PyTorch, which --help does not need

    measures = {**_MEASURES, TOP1: "Zero-shot top-1"}
    by_people = [_bars(wr, measure, title, model) for measure, title in measures.items() for model in _MODELS]
    coordinates = [_coordinates(wr, measures, model) for model in _MODELS]
    losses = [_losses(wr, encoder, loss) for encoder in ("text", "image") for loss in _LOSSES]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Removal: people, utility and losses",
        sections=[
            ws.Section(name="By the number of people, mean and range over seeds", panels=by_people, is_open=True),
            ws.Section(name="Settings and results", panels=coordinates, is_open=True),
            ws.Section(name="Losses, mean and range over seeds", panels=losses, is_open=True),
        ],
        runset_settings=ws.RunsetSettings(
            groupby=[ws.Summary(_NUM_PEOPLE), *map(ws.Config, _SETTING)],
            order=[ws.Ordering(ws.Summary(_NUM_PEOPLE))],
        ),
    )


def _bars(wr: ModuleType, measure: str, title: str, model: str) -> _Imported:
    """Return bars of one measure, a bar for each number of people."""
    return wr.BarPlot(
        title=f"{title}, {model}",
        metrics=[f"after_{model}/{measure}"],
        range_x=(0, 1),
        aggregate=True,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
        max_bars_to_show=50,
    )


def _coordinates(wr: ModuleType, measures: Mapping[str, str], model: str) -> _Imported:
    """Return a plot with a line for each run, from its number of people through its measures."""
    people = wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(_NUM_PEOPLE), "people", log=True)
    columns = [
        wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(f"after_{model}/{measure}"), title)
        for measure, title in measures.items()
    ]
    return wr.ParallelCoordinatesPlot(title=f"Settings and results, {model}", columns=[people, *columns])


def _losses(wr: ModuleType, encoder: str, loss: str) -> _Imported:
    """Return the curve of one loss of one encoder."""
    return wr.LinePlot(
        title=f"{encoder} encoder: {loss.replace('_', ' ')}",
        x="trainer/global_step",
        y=[f"{encoder}/{loss}"],
        aggregate=True,
        groupby_aggfunc="mean",
        groupby_rangefunc="minmax",
    )


@ended_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Save the workspace in a project.

    Returns:
        The exit code.
    """
    parser = CommandParser(prog="python -m backdoor_privacy.dashboard", description=__doc__)
    parser.add_argument("project", metavar="entity/project", help="the project that the sweep was logged to")
    address = parser.parse_args(arguments).project
    entity, slash, project = address.partition("/")
    if not (entity and slash and project):
        raise InputError(
            f"dashboard: expected <entity>/<project>, got {address}; the address of the project at W&B has both"
        )
    print(_save(workspace(entity, project)))
    return 0


def _save(saved: _Imported) -> str:
    """Save a workspace with the account of this machine, and return its address.

    Raises:
        InputError: if W&B cannot be reached, or refuses.
    """
    try:
        saved.save()
    except Exception as error:  # the errors of wandb and its transport have no class in common
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"dashboard: expected a W&B account (`wandb login`) that may write to {saved.entity}/{saved.project}, got: "
            f"{reason}"
        ) from error
    return str(saved.url)


if __name__ == "__main__":
    sys.exit(main())
