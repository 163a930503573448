"""How the defences were made: losses, photos, and seconds."""

from backdoor_privacy.report.disclosure import averaged
from backdoor_privacy.report.figures.losses import losses_figure
from backdoor_privacy.report.method import encoders_named
from backdoor_privacy.report.models import encoder_title, model_label
from backdoor_privacy.report.parts import Drawing, Facts, Part, Photo, Section
from backdoor_privacy.runs.finished import FinishedRun

_STAGES = {
    "load": "Load the model and the data",
    "compare": "Measure similarities to the original",
    "write": "Write the results",
}


def training(run: FinishedRun) -> Section:
    """Show losses and training photos where there are some, and how long each stage took."""
    gallery: list[Part] = []
    if len(run.losses):
        gallery.append(_losses(run))
    if run.has_names and run.triggers is not None:  # a face identifies somebody as a name does
        gallery.append(
            Photo(
                "What the image encoder was trained on.",
                "Triggered photos of the first step.",
                run.triggers,
                "Photos of removed people that the image encoder was trained on",
            )
        )
    gallery.append(Facts("Seconds of each stage", ("Stage", "Seconds"), seconds(run)))
    return Section("training", "Fine-tuning" if len(run.losses) else "Time taken", (), gallery)


def _losses(run: FinishedRun) -> Drawing:
    """Draw every step or, in a report without names, means over several steps."""
    losses = run.losses if run.has_names else averaged(run.losses)
    num_steps = run.losses["encoder"].value_counts()
    numbers = "; ".join(
        f"{encoder_title(str(encoder))}, {num_steps[encoder]} steps: total loss from {total.iloc[0]:.3f} to "
        f"{total.iloc[-1]:.3f}"
        for encoder, total in losses.groupby("encoder", sort=False)["loss"]
    )
    means = "" if run.has_names else "; means over parts of the fit"
    return Drawing(
        "losses",
        "Losses over the steps.",
        f"Each term before weighting; the total is weighted{means}. With the cosine distance, \N{MINUS SIGN}1 is the "
        "best.",
        f"Lines. {numbers}. losses.csv has all numbers.",
        lambda: losses_figure(losses),
    )


def seconds(run: FinishedRun) -> dict[str, str]:
    """Return the seconds of each stage, by what it did, and of all."""
    taken = {_stage(run, stage): float(value) for stage, value in run.metrics["seconds"].items()}
    taken |= {f"Attack: {name.replace('_', ' ')}": value for name, value in run.attack_seconds.items()}
    return {stage: f"{value:,.1f}" for stage, value in {**taken, "All": sum(taken.values())}.items()}


def _stage(run: FinishedRun, stage: str) -> str:
    kind, _, part = stage.partition("_")
    if kind == "audit":
        return f"Attack and measure, {model_label(part)}"
    if kind != "defend":
        return _STAGES.get(stage, stage)
    defense = run.defenses.get(part)
    if defense is not None:
        return f"Defend the {encoders_named(defense)} ({part})"
    return f"Defend: {part}" if run.defenses else f"Fine-tune the {part} encoder"
