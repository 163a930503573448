"""The style that all figures share, and how they are saved."""

import io
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from backdoor_privacy.system.files import write_bytes, write_text

# Okabe and Ito's colours, which people with any colour vision tell apart; lines differ in their dashes too.
GREY, BLUE, ORANGE, GREEN, VERMILLION = "#7a7a7a", "#0072B2", "#E69F00", "#009E73", "#D55E00"
_COLOURS = {"before": GREY, "text": BLUE, "image": ORANGE, "both": GREEN}
_MARKERS = {"text": "o", "image": "s", "both": "^"}
WIDTH = 4.5  # inches: about a phone's width, so that 9 points stay legible there
STYLE = matplotlib.RcParams(
    {
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
)


def colour_of(model: str) -> str:
    """Return the colour of an audited model."""
    return _COLOURS.get(model, VERMILLION)


def marker_of(model: str) -> str:
    """Return the marker of an audited model."""
    return _MARKERS.get(model, "x")


def save_figure(figure: Figure, folder: Path, name: str, *, private: bool = False) -> str:
    """Write a figure as SVG and as PNG, each whole or not at all; private ones for their owner alone.

    Returns:
        The SVG.
    """
    with matplotlib.rc_context(STYLE):
        png = io.BytesIO()
        figure.savefig(png, format="png", metadata={"Software": None})
        write_bytes(folder / f"{name}.png", png.getvalue(), private=private)
        figure.set_layout_engine("none")  # all is in its place now
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    write_text(folder / f"{name}.svg", text.getvalue(), private=private)
    return text.getvalue()
