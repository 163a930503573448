"""Figures of many runs, as `collect` draws them."""

from collections.abc import Hashable, Mapping, Sequence
from textwrap import fill

import matplotlib
import pandas as pd
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from backdoor_privacy.report.figures.style import BLUE, GREY, STYLE, WIDTH, colour_of, marker_of
from backdoor_privacy.report.models import model_label
from backdoor_privacy.report.verdict import TOP1_LOSS


def people_figure(rows: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Draw removed people inferred and what kept people lose, by how many are removed: mean and range over seeds.

    Args:
        rows: of `collect`: a row for each audited model of each run.
        labels: of the setting of each row; each setting has panels of its own.
    """
    groups = {label: rows[[one == label for one in labels]] for label in dict.fromkeys(labels)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6 * len(groups)))
        parts = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
        for part, (label, group) in zip(parts, groups.items(), strict=True):
            _draw_people(part, group)
            part.axes[0].set_title(fill(label.replace(",", ", "), 40))
    return figure


def _draw_people(part: SubFigure, rows: pd.DataFrame) -> None:
    """Draw one setting of `people_figure`."""
    removed, kept = part.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    before = rows.groupby("num_removed")["tpr_removed_before"].mean()
    removed.plot(before.index, before, color=GREY, linestyle="--", label="before")
    for model, group in rows.groupby("model", sort=False):
        colour, marker = colour_of(model), marker_of(model)
        for axes, column in ((removed, "tpr_removed"), (kept, "tpr_kept_loss")):
            rates = group.groupby("num_removed")[column].agg(["mean", "min", "max"])
            axes.plot(rates.index, rates["mean"], color=colour, marker=marker, label=model_label(str(model)))
            axes.fill_between(rates.index, rates["min"], rates["max"], color=colour, alpha=0.2, linewidth=0)
    kept.set_xscale("log", base=2)
    sizes = sorted(rows["num_removed"].unique())
    kept.set_xticks(sizes, [f"{size:.0f}" for size in sizes], minor=False)
    kept.set_xlabel("people removed")
    kept.set_ylabel("kept people's\nTPR loss")
    kept.set_ylim(min(-0.005, rows["tpr_kept_loss"].min()), max(0.05, 1.1 * rows["tpr_kept_loss"].max()))
    removed.set_ylim(-0.03, 1.05)
    removed.set_ylabel("share of the removed\nthat IDIA infers")
    for axes in (removed, kept):
        axes.grid()
    handles, labels = removed.get_legend_handles_labels()
    part.legend(handles, labels, loc="outside upper center", ncols=2)


def settings_figure(rows: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Draw what settings change: removed people, kept people, zero-shot; a dot for each seed, a bar at their mean.

    Args:
        rows: of `collect`, of one audited model.
        labels: of the setting of each row.
    """
    measures = {
        "tpr_removed": "removed people inferred",
        "tpr_kept_loss": "kept people's TPR loss",
        TOP1_LOSS: "zero-shot top-1 loss",
    }
    groups = {label: rows[[one == label for one in labels]] for label in dict.fromkeys(labels)}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.2 + 0.75 * len(groups)))
        panels = figure.subplots(len(measures), 1)
        for axes, (column, title) in zip(panels, measures.items(), strict=True):
            for place, group in enumerate(groups.values()):
                values = group[column]
                axes.scatter(values, [place] * len(values), s=16, color=BLUE, alpha=0.6, linewidths=0)
                axes.plot([values.mean()] * 2, [place - 0.35, place + 0.35], color="black", linewidth=1.5)
                axes.text(1.02, place, f"{values.mean():.3f}", transform=axes.get_yaxis_transform(), va="center")
            axes.set_yticks(range(len(groups)), list(groups))
            axes.set_ylim(len(groups) - 0.5, -0.5)
            axes.set_title(title)
            axes.xaxis.set_major_locator(MaxNLocator(5))  # more labels run into each other
            axes.grid(axis="x")
            axes.margins(x=0.1)
        most = max(0.05, rows["tpr_removed"].max())  # of a rate nothing is below 0, though all of it may be
        panels[0].set_xlim(-0.03 * most, 1.05 * most)
    return figure


def pareto_figure(rows: pd.DataFrame) -> Figure:
    """Draw what a removal costs: kept people's and zero-shot loss against the share of removed people still inferred.

    Means over seeds, a point for each experiment and audited model; the lower left corner is best.

    Args:
        rows: of `collect`.
    """
    losses = {"tpr_kept_loss": "kept people's TPR loss", TOP1_LOSS: "zero-shot top-1 loss"}
    means = rows.groupby(["experiment", "overrides", "model"], as_index=False, sort=True).mean(numeric_only=True)
    names = list(dict.fromkeys(_experiment(mean) for mean in means.to_dict("records")))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 5.4 + 0.16 * len(names)))
        for axes, (column, title) in zip(figure.subplots(2, 1, sharex=True), losses.items(), strict=True):
            for model, group in means.groupby("model", sort=False):
                colour, marker = colour_of(model), marker_of(model)
                axes.scatter(
                    group["tpr_removed"], group[column], color=colour, marker=marker, label=model_label(str(model))
                )
            for mean in means.to_dict("records"):
                number = str(1 + names.index(_experiment(mean)))
                place = mean["tpr_removed"], mean[column]
                axes.annotate(number, place, (4, 3), textcoords="offset points", fontsize=8)
            axes.set_ylabel(title)
            axes.margins(x=0.15, y=0.15)
            axes.grid()
        axes.set_xlabel("share of removed people that IDIA still infers")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=3)
        key = "\n".join(f"{number} {name}" for number, name in enumerate(names, 1))
        figure.legend([], [], title=key, loc="outside lower left", alignment="left", title_fontsize=8)
    return figure


def _experiment(row: Mapping[Hashable, str]) -> str:
    """Return the experiment of a row of `collect`, with its overrides."""
    return "/".join(filter(None, (row["experiment"], row["overrides"])))
