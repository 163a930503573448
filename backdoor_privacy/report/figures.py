"""Figures of a run: pure functions from numbers to a figure, all in one style."""

import io
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from statistics import median
from textwrap import fill
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import MaxNLocator

from backdoor_privacy.system.files import write_bytes, write_text

# Okabe and Ito's colours, which people with any colour vision tell apart; lines differ in their dashes too.
_GREY, _BLUE, _ORANGE, _GREEN, _VERMILLION = "#7a7a7a", "#0072B2", "#E69F00", "#009E73", "#D55E00"
_MODEL_COLOURS = {"before": _GREY, "text": _BLUE, "image": _ORANGE, "both": _GREEN}
_MARKERS = {"text": "o", "image": "s", "both": "^"}
_GROUPS = {
    "tpr_removed": "Removed people",
    "tpr_kept": "Kept people",
    "fpr": "Never-seen people",
}
# Losses that are distances of embeddings share one panel, because they share one scale.
_DISTANCES = {
    "backdoor_loss": (_VERMILLION, "-"),
    "utility_loss": (_BLUE, (0, (5, 1))),
    "preservation_loss": (_GREEN, (0, (1, 0.8))),
}
_WIDTH = 4.5  # inches: about a phone's width, so that 9 points stay legible there
_STYLE: Any = {  # matplotlib's own type is the list of all its keys
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "text.parse_math": False,  # a dollar sign is a dollar sign
    "svg.fonttype": "none",  # text stays text: it can be read aloud, searched and enlarged
    "svg.hashsalt": "backdoor_privacy",  # the same numbers make the same file
    "savefig.dpi": 200,
}


def model_label(model: str) -> str:
    """What an audited model is called, in figures and tables."""
    return {"before": "before", "both": "after: both"}.get(model, f"after: {model} only")


def people_of(measures: Mapping[str, float], group: str) -> tuple[int, int] | None:
    """How many people a rate counts, and of how many; `None` where there is nobody to count."""
    count = round(measures.get(f"idia/num_{group}", 0))
    return (round(measures[f"idia/{group}"] * count), count) if count and f"idia/{group}" in measures else None


def idia_figure(before: Mapping[str, float], after: Mapping[str, Mapping[str, float]]) -> Figure:
    """Share of removed, kept and never-seen people that IDIA infers, for each model; the counts stand at the bars."""
    models = {"before": before, **after}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 1.0 + 3 * (0.35 + 0.24 * len(models))))
        panels = figure.subplots(len(_GROUPS), 1, sharex=True)
        for axes, (group, title) in zip(panels, _GROUPS.items(), strict=True):
            for row, (model, measures) in enumerate(models.items()):
                found = people_of(measures, group)
                share = found[0] / found[1] if found else 0.0
                axes.barh(row, share, height=0.72, color=_MODEL_COLOURS.get(model, _VERMILLION))
                axes.text(share + 0.015, row, f"{found[0]} of {found[1]}" if found else "nobody", va="center")
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
    """How many removed people each number of correct prompts has, one column per model.

    Args:
        correct: for "before" and each audited model, the correct prompts of each removed person.
        num_prompts: of the attack.
        threshold: correct prompts from which on somebody is inferred; a line marks it.
    """
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 4.6))
        columns = figure.subplots(1, len(correct), sharex=True, sharey=True, squeeze=False)[0]
        widest = max((number for counts in correct.values() for number in Counter(counts).values()), default=1)
        for axes, (model, counts) in zip(columns, correct.items(), strict=True):
            for prompts, number in sorted(Counter(counts).items()):
                axes.barh(prompts, number, height=0.8, color=_MODEL_COLOURS.get(model, _VERMILLION))
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
    """How much better the own name fits a person's photos than the best other: a dot for each person.

    Args:
        margins: of each group of people, for "before" and each audited model.
    """
    num_models = len(next(iter(margins.values())))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.8 + len(margins) * (0.3 + 0.36 * num_models)))
        panels = figure.subplots(len(margins), 1, sharex=True, squeeze=False)[:, 0]
        for axes, (group, found) in zip(panels, margins.items(), strict=True):
            for row, (model, values) in enumerate(found.items()):
                colour = _MODEL_COLOURS.get(model, _VERMILLION)
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
            axes.set_yticks(range(len(found)), [model_label(model) for model in found])
            axes.set_ylim(num_models - 0.5, -0.5)
            axes.grid(axis="x")
            axes.tick_params(axis="y", length=0)
        panels[-1].set_xlabel("margin of the own name, in cosine similarity")
    return figure


def votes_figure(shares: pd.DataFrame) -> Figure:
    """Share of removed people's photos that vote for the own name: a row for each prompt, a column for each model."""
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.9 + 0.2 * len(shares)))
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
    """Where everybody lies in an encoder's two main directions: the removed before and after, the others, the targets.

    Args:
        points: `encoder`, `stage`, `person`, `x` and `y`.
        removed: who was removed.
    """
    encoders = list(dict.fromkeys(points["encoder"]))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 0.6 + 3.2 * len(encoders)))
        for axes, encoder in zip(figure.subplots(len(encoders), 1, squeeze=False)[:, 0], encoders, strict=True):
            own = points[points["encoder"] == encoder]
            at = {stage: rows.set_index("person")[["x", "y"]] for stage, rows in own.groupby("stage")}
            kept = at["after"][~at["after"].index.isin(list(removed))]
            before, after = (at[stage].reindex(list(removed)) for stage in ("before", "after"))
            axes.scatter(kept["x"], kept["y"], s=4, color="#bbbbbb", linewidths=0, label="kept")
            axes.plot([before["x"], after["x"]], [before["y"], after["y"]], color=_GREY, linewidth=0.4, zorder=1)
            axes.scatter(
                before["x"], before["y"], s=14, facecolors="none", edgecolors=_VERMILLION, linewidths=0.8,
                label="removed, before",
            )  # fmt: skip
            axes.scatter(after["x"], after["y"], s=14, color=_BLUE, linewidths=0, label="removed, after")
            axes.scatter(
                at["target"]["x"], at["target"]["y"], s=18, color="black", marker="x", linewidths=0.9, label="target"
            )
            axes.set_title(f"{encoder} encoder")
            axes.set_xticks([])
            axes.set_yticks([])
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def losses_figure(losses: pd.DataFrame) -> Figure:
    """Every loss over the steps, before weighting: a column of panels per encoder.

    Args:
        losses: the columns `encoder` and `step`, and one for each loss.
    """
    losses = losses.dropna(axis="columns", how="all")
    encoders = list(dict.fromkeys(losses["encoder"]))
    others = [name for name in losses.columns if name not in {"encoder", "step", *_DISTANCES}]
    others.sort(key="loss".__eq__)  # the total comes last
    distances = [name for name in _DISTANCES if name in losses.columns]
    rows = [*([distances] if distances else []), *([name] for name in others)]
    heights = [1.6 if len(names) > 1 else 1.0 for names in rows]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 1.1 + 1.05 * sum(heights)))
        panels = figure.subplots(len(rows), len(encoders), sharex="col", squeeze=False, height_ratios=heights)
        for column, encoder in enumerate(encoders):
            table = losses[losses["encoder"] == encoder]
            for row, names in enumerate(rows):
                _draw_losses(panels[row, column], table, names)
            panels[0, column].set_title(f"{encoder} encoder")
            panels[-1, column].set_xlabel("step")
        for axes, names in zip(panels[:, 0], rows, strict=True):
            axes.set_ylabel("distance" if len(names) != 1 else _loss_label(names[0]))
        figure.align_ylabels()
        if len(rows[0]) > 1:
            drawn = {line.get_label(): line for axes in panels[0] for line in axes.get_lines()}
            figure.legend(list(drawn.values()), list(drawn), loc="outside upper center", ncols=3)
    return figure


def people_figure(rows: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Removed people inferred after the defence and what kept people lose, by how many go: mean and range over seeds.

    Args:
        rows: of `collect`: a row for each audited model of each run.
        labels: of the setting of each row; each setting has panels of its own.
    """
    groups = {label: rows[[one == label for one in labels]] for label in dict.fromkeys(labels)}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 4.6 * len(groups)))
        parts = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
        for part, (label, group) in zip(parts, groups.items(), strict=True):
            _draw_people(part, group)
            part.axes[0].set_title(fill(label.replace(",", ", "), 40))
    return figure


def _draw_people(part: SubFigure, rows: pd.DataFrame) -> None:
    """Draw one setting of `people_figure`."""
    removed, kept = part.subplots(2, 1, sharex=True, height_ratios=[3, 2])
    before = rows.groupby("num_removed")["tpr_removed_before"].mean()
    removed.plot(before.index, before, color=_GREY, linestyle="--", label="before")
    for model, group in rows.groupby("model", sort=False):
        colour, marker = _look(model)
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
    """What settings change: a dot for each seed, a bar at their mean; removed people, kept people, zero-shot.

    Args:
        rows: of `collect`, of one audited model.
        labels: of the setting of each row.
    """
    measures = {
        "tpr_removed": "removed people inferred",
        "tpr_kept_loss": "kept people's TPR loss",
        "zero_shot_top1_loss": "zero-shot top-1 loss",
    }
    groups = {label: rows[[one == label for one in labels]] for label in dict.fromkeys(labels)}
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 1.2 + 0.75 * len(groups)))
        panels = figure.subplots(len(measures), 1)
        for axes, (column, title) in zip(panels, measures.items(), strict=True):
            for place, group in enumerate(groups.values()):
                values = group[column]
                axes.scatter(values, [place] * len(values), s=16, color=_BLUE, alpha=0.6, linewidths=0)
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
    """What a removal costs: kept people's and zero-shot loss against the share of removed people still inferred.

    Means over seeds, a point for each experiment and audited model; the lower left corner is best.

    Args:
        rows: of `collect`.
    """
    losses = {"tpr_kept_loss": "kept people's TPR loss", "zero_shot_top1_loss": "zero-shot top-1 loss"}
    means = rows.groupby(["experiment", "overrides", "model"], as_index=False, sort=True).mean(numeric_only=True)
    names = list(dict.fromkeys(_experiment(mean) for mean in means.to_dict("records")))
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(_WIDTH, 5.4 + 0.16 * len(names)))
        for axes, (column, title) in zip(figure.subplots(2, 1, sharex=True), losses.items(), strict=True):
            for model, group in means.groupby("model", sort=False):
                colour, marker = _look(model)
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


def _experiment(row: Mapping[Any, Any]) -> str:
    """An experiment and its overrides, of a row of `collect`."""
    return "/".join(filter(None, (row["experiment"], row["overrides"])))


def _look(model: Any) -> tuple[str, str]:
    """Colour and marker of an audited model."""
    return _MODEL_COLOURS.get(model, _VERMILLION), _MARKERS.get(model, "x")


def _draw_losses(axes: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Draw some losses of one encoder; say so where it has none of them."""
    drawn = [name for name in names if table[name].notna().any()]
    for name in drawn:
        colour, dashes = _DISTANCES.get(name, ("black", "-"))
        axes.plot(
            table["step"], table[name], color=colour, linestyle=dashes, linewidth=1.2, label=_loss_label(name),
            marker="o" if len(table) == 1 else None,
        )  # fmt: skip
    if drawn:
        axes.grid()
    else:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not used", transform=axes.transAxes, ha="center", va="center", color=_GREY)


def _loss_label(name: str) -> str:
    return "total" if name == "loss" else name.removesuffix("_loss").replace("_", " ")


def save_figure(figure: Figure, folder: Path, name: str, *, private: bool = False) -> str:
    """Write a figure as SVG and as PNG, each whole or not at all; private ones for their owner alone.

    Returns:
        The SVG.
    """
    with matplotlib.rc_context(_STYLE):
        png = io.BytesIO()
        figure.savefig(png, format="png", metadata={"Software": None})
        write_bytes(folder / f"{name}.png", png.getvalue(), private=private)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    write_text(folder / f"{name}.svg", text.getvalue(), private=private)
    return text.getvalue()
