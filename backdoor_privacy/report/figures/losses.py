"""The figure of the losses."""

from collections.abc import Sequence

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from backdoor_privacy.report.figures.style import BLUE, GREEN, GREY, STYLE, VERMILLION, WIDTH
from backdoor_privacy.report.models import encoder_title

# Losses that are distances of embeddings share one panel, because they share one scale.
_DISTANCES = {
    "backdoor_loss": (VERMILLION, "-"),
    "utility_loss": (BLUE, (0, (5, 1))),
    "preservation_loss": (GREEN, (0, (1, 0.8))),
}


def losses_figure(losses: pd.DataFrame) -> Figure:
    """Draw every loss over the steps, before weighting: a column of panels per encoder.

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
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, 1.1 + 1.05 * sum(heights)))
        panels = figure.subplots(len(rows), len(encoders), sharex="col", squeeze=False, height_ratios=heights)
        for column, encoder in enumerate(encoders):
            table = losses[losses["encoder"] == encoder]
            for row, names in enumerate(rows):
                _draw_losses(panels[row, column], table, names)
            panels[0, column].set_title(encoder_title(str(encoder)))
            panels[-1, column].set_xlabel("step")
        for axes, names in zip(panels[:, 0], rows, strict=True):
            axes.set_ylabel("distance" if len(names) != 1 else _loss_label(names[0]))
        figure.align_ylabels()
        if len(rows[0]) > 1:
            drawn = {line.get_label(): line for axes in panels[0] for line in axes.get_lines()}
            figure.legend(list(drawn.values()), list(drawn), loc="outside upper center", ncols=3)
    return figure


def _draw_losses(axes: Axes, table: pd.DataFrame, names: Sequence[str]) -> None:
    """Draw some losses of one encoder; if it has none of them, say so."""
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
        axes.text(0.5, 0.5, "not used", transform=axes.transAxes, ha="center", va="center", color=GREY)


def _loss_label(name: str) -> str:
    return "total" if name == "loss" else name.removesuffix("_loss").replace("_", " ")
