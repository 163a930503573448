"""Figures of people: whom IDIA infers, and by how much."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from statistics import median

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from backdoor_privacy.report.figures.style import BLUE, GREY, STYLE, VERMILLION, WIDTH, colour_of
from backdoor_privacy.report.models import encoder_title, model_label, people_of

_GROUPS = {
    "tpr_removed": "Removed people",
    "tpr_kept": "Kept people",
    "fpr": "Never-seen people",
}


def idia_figure(before: Mapping[str, float], after: Mapping[str, Mapping[str, float]]) -> Figure:
    """Draw the share of removed, kept and never-seen people that IDIA infers, for each model, with counts."""
    models = {"before": before, **after}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.0 + 3 * (0.35 + 0.24 * len(models))))
        panels = figure.subplots(len(_GROUPS), 1, sharex=True)
        for axes, (group, title) in zip(panels, _GROUPS.items(), strict=True):
            for row, (model, measures) in enumerate(models.items()):
                counts = people_of(measures, group)
                share = counts[0] / counts[1] if counts else 0.0
                axes.barh(row, share, height=0.72, color=colour_of(model))
                axes.text(share + 0.015, row, f"{counts[0]} of {counts[1]}" if counts else "nobody", va="center")
            axes.set_title(title)
            axes.set_yticks(range(len(models)), [model_label(model) for model in models])
            axes.invert_yaxis()
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
        panels[-1].set_xlim(0, 1.25)
        panels[-1].set_xticks([0, 0.25, 0.5, 0.75, 1])
        panels[-1].set_xlabel("share of them that IDIA infers")
    return figure


def prompts_figure(correct: Mapping[str, Sequence[int]], num_prompts: int, threshold: int | None) -> Figure:
    """Draw how many removed people each number of correct prompts has, one column per model.

    Args:
        correct: for "before" and each audited model, the correct prompts of each removed person.
        num_prompts: of the attack.
        threshold: correct prompts from which on somebody is inferred; a line marks it.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 4.6))
        columns = figure.subplots(1, len(correct), sharex=True, sharey=True, squeeze=False)[0]
        widest = max((number for counts in correct.values() for number in Counter(counts).values()), default=1)
        for axes, (model, counts) in zip(columns, correct.items(), strict=True):
            for prompts, number in sorted(Counter(counts).items()):
                axes.barh(prompts, number, height=0.8, color=colour_of(model))
                axes.text(number + 0.04 * widest, prompts, str(number), va="center", fontsize=8)
            axes.set_xticks([])
            axes.spines["bottom"].set_visible(False)
            axes.set_title(model_label(model).replace(": ", ":\n"), fontsize=9)
            if threshold is not None:
                axes.axhline(threshold - 0.5, color="black", linewidth=0.8, linestyle="--")
        columns[0].set_xlim(0, 1.35 * widest)
        columns[0].set_ylim(-0.8, num_prompts + 0.8)
        columns[0].set_yticks(range(0, num_prompts + 1, 3))
        columns[0].set_ylabel(f"correct prompts, of {num_prompts}")
        line = "" if threshold is None else "; above the dashed line IDIA infers them"
        figure.supxlabel(f"number of removed people{line}", fontsize=9)
    return figure


def margins_figure(margins: Mapping[str, Mapping[str, Sequence[float]]]) -> Figure:
    """Draw how much better the own name fits a person's photos than the best other: a dot for each person.

    Args:
        margins: of each group of people, for "before" and each audited model.
    """
    num_models = len(next(iter(margins.values())))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.8 + len(margins) * (0.3 + 0.36 * num_models)))
        panels = figure.subplots(len(margins), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (group, by_model) in zip(panels, margins.items(), strict=True):
            for row, (model, values) in enumerate(by_model.items()):
                colour = colour_of(model)
                # Dots are spread over the row in a fixed pattern, so that many beside each other can be seen.
                heights = [row + 0.28 * ((7 * place) % 11 - 5) / 5 for place in range(len(values))]
                many = len(values) > 40
                axes.scatter(
                    values, heights, s=5 if many else 12, color=colour, alpha=0.4 if many else 0.8, linewidths=0
                )
                if len(values):
                    axes.plot([median(values)] * 2, [row - 0.4, row + 0.4], color="black", linewidth=1.2)
            axes.axvline(0, color="black", linewidth=0.8, linestyle="--")
            axes.set_title(group)
            axes.set_yticks(range(len(by_model)), [model_label(model) for model in by_model])
            axes.set_ylim(num_models - 0.5, -0.5)
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
        panels[-1].set_xlabel("margin of the own name, in cosine similarity")
    return figure


def votes_figure(shares: pd.DataFrame) -> Figure:
    """Draw the share of removed people's photos that vote for the own name: a row per prompt, a column per model."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.9 + 0.2 * len(shares)))
        axes = figure.subplots()
        axes.imshow(shares.to_numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for (row, column), share in np.ndenumerate(shares.to_numpy()):
            axes.text(column, row, f"{share:.2f}", ha="center", va="center", fontsize=7,
                      color="white" if share > 0.6 else "black")  # fmt: skip
        titles = [model_label(str(model)).replace(": ", ":\n") for model in shares.columns]
        axes.set_xticks(range(len(titles)), titles, fontsize=7)
        axes.set_yticks(range(len(shares)), list(shares.index), fontsize=7)
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    return figure


def map_figure(points: pd.DataFrame, removed: Collection[str]) -> Figure:
    """Draw where people lie in an encoder's two main directions: the removed before and after, the others, the targets.

    Args:
        points: `encoder`, `stage`, `person`, `x` and `y`; `stage` has no `target` where a method has no targets.
        removed: who was removed.
    """
    encoders = list(dict.fromkeys(points["encoder"]))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 0.6 + 3.2 * len(encoders)))
        for axes, encoder in zip(figure.subplots(len(encoders), 1, squeeze=False)[:, 0], encoders, strict=True):
            own = points[points["encoder"] == encoder]
            at = {stage: rows.set_index("person")[["x", "y"]] for stage, rows in own.groupby("stage")}
            kept = at["after"][~at["after"].index.isin(list(removed))]
            before, after = (at[stage].reindex(list(removed)) for stage in ("before", "after"))
            axes.scatter(kept["x"], kept["y"], s=4, color="#bbbbbb", linewidths=0, label="kept")
            axes.plot([before["x"], after["x"]], [before["y"], after["y"]], color=GREY, linewidth=0.4, zorder=1)
            axes.scatter(
                before["x"], before["y"], s=14, facecolors="none", edgecolors=VERMILLION, linewidths=0.8,
                label="removed, before",
            )  # fmt: skip
            axes.scatter(after["x"], after["y"], s=14, color=BLUE, linewidths=0, label="removed, after")
            if "target" in at:
                target = at["target"]
                axes.scatter(target["x"], target["y"], s=18, color="black", marker="x", linewidths=0.9, label="target")
            axes.set_title(encoder_title(str(encoder)))
            axes.set_xticks([])
            axes.set_yticks([])
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure
