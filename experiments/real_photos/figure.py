"""Draw `removal.svg` from `collected.csv`: how many of the removed people each audited model still gives away."""

from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import pandas as pd

FOLDER = Path(__file__).parent
COLOURS = {"text": "#0072b2", "image": "#e69f00", "both": "#009e73"}  # Okabe and Ito's, for every eye


def main() -> None:
    """Means over seeds, each seed as a dot."""
    rows = pd.read_csv(FOLDER / "collected.csv")
    sizes = sorted(rows["num_removed"].unique())
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    columns = {"tpr_removed": "removed people, still inferred", "wrongly_unlearned": "others, inferred no longer"}
    for axis, (column, title) in zip(axes, columns.items(), strict=True):
        for place, (model, colour) in enumerate(COLOURS.items()):
            for row, size in enumerate(sizes):
                values = rows[(rows["model"] == model) & (rows["num_removed"] == size)][column]
                x = row + 0.27 * (place - 1)
                axis.bar(x, values.mean(), 0.25, color=colour, label=model if row == 0 else None)
                axis.plot([x] * len(values), values, "o", color="black", markersize=3)
        axis.set_xticks(range(len(sizes)), [f"{size:.0f} removed" for size in sizes])
        axis.set_ylim(0, 1)
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel("share of these people")
    axes[0].axhline(1, color="grey", linestyle=":", linewidth=1)
    axes[0].text(-0.4, 0.95, "before", color="grey", fontsize=8)
    axes[0].legend(title="defended", frameon=False, fontsize=8)
    figure.savefig(FOLDER / "removal.svg")
    figure.savefig(FOLDER / "removal.png", dpi=150)


if __name__ == "__main__":
    main()
