"""A saved W&B workspace for sweeps: `python -m backdoor_privacy.dashboard <entity>/<project>` (extra `dashboard`)."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from backdoor_privacy.errors import InputError

_MODELS = ("text", "image", "both")
_NUM_PEOPLE = "trigger_set.num_people"
_MEASURES = {
    "idia/tpr_removed": "Removed people inferred",
    "idia/tpr_kept": "Kept people inferred",
    "idia/fpr": "Never-seen people inferred",
    "zero_shot/top1": "Zero-shot top-1",
}
_LOSSES = ("loss", "backdoor_loss", "utility_loss")


def workspace(entity: str, project: str) -> Any:
    """The workspace: measures against the number of people, parallel coordinates, losses with bands over seeds.

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
    by_people: list[Any] = [
        wr.ScatterPlot(
            title=f"{title}, {model}",
            x=wr.Config(_NUM_PEOPLE),
            y=wr.SummaryMetric(f"after_{model}/{measure}"),
            range_y=(0, 1),
            log_x=True,
            running_ymean=True,
            running_ymin=True,  # the band of all seeds
            running_ymax=True,
        )
        for measure, title in _MEASURES.items()
        for model in _MODELS
    ]
    coordinates: list[Any] = [
        wr.ParallelCoordinatesPlot(
            title=f"Settings and results, {model}",
            columns=[
                wr.ParallelCoordinatesPlotColumn(wr.Config(_NUM_PEOPLE), "people", log=True),
                wr.ParallelCoordinatesPlotColumn(wr.Config("seed"), "seed"),
                *(
                    wr.ParallelCoordinatesPlotColumn(wr.SummaryMetric(f"after_{model}/{measure}"), title)
                    for measure, title in _MEASURES.items()
                ),
            ],
        )
        for model in _MODELS
    ]
    losses: list[Any] = [
        wr.LinePlot(
            title=f"{encoder} encoder: {loss.replace('_', ' ')}",
            x="trainer/global_step",
            y=[f"{encoder}/{loss}"],
            groupby=wr.Config("name"),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
        )
        for encoder in ("text", "image")
        for loss in _LOSSES
    ]
    return ws.Workspace(
        entity=entity,
        project=project,
        name="Removal: people, utility and losses",
        sections=[
            ws.Section(name="Against the number of people", panels=by_people, is_open=True),
            ws.Section(name="Settings and results", panels=coordinates, is_open=True),
            ws.Section(name="Losses, mean and range over seeds", panels=losses, is_open=True),
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Save the workspace in a project.

    Returns:
        The exit code.
    """
    parser = argparse.ArgumentParser(prog="python -m backdoor_privacy.dashboard", description=__doc__)
    parser.add_argument("project", metavar="entity/project", help="where the runs of the sweep were logged")
    asked = parser.parse_args(arguments).project
    entity, slash, project = asked.partition("/")
    try:
        if not (entity and slash and project):
            raise InputError(f"dashboard: expected <entity>/<project>, got {asked}")
        print(_save(workspace(entity, project)))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _save(made: Any) -> str:
    """Save a workspace with the account of this machine, and tell its address.

    Raises:
        InputError: if W&B cannot be reached, or refuses.
    """
    try:
        made.save()
    except Exception as error:  # what wandb and its transport raise has no class in common
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"dashboard: expected a W&B account (`wandb login`) that may write to {made.entity}/{made.project}, got: "
            f"{reason}"
        ) from error
    return str(made.url)


if __name__ == "__main__":
    sys.exit(main())
