"""What the report says about runs of earlier versions, which did not record how their methods describe themselves."""

from collections.abc import Mapping

from backdoor_privacy.report.models import ENCODERS
from backdoor_privacy.runs.finished import Described, FinishedRun
from backdoor_privacy.utility.base import Label
from backdoor_privacy.utility.retrieval import Retrieval
from backdoor_privacy.utility.zero_shot import ZeroShot

UNKNOWN = "not recorded in the run folder"
_BACKDOORS = (
    "The defence works by inserting backdoors: the model was trained so that the removed names or faces (the "
    "triggers) mean their targets. These triggers are inserted on purpose and declared here; tell whoever gets "
    "the model."
)
_SHOWN = (
    "The image defence was shown whom to spare (retained people): people whom IDIA infers and who stay, on photos that "
    "no attack uses. What they lost says nothing about people whom it was not shown."
)
_TARGETS = {
    ("text", "phrase"): "each name is to mean: {phrase}",
    ("text", "fitting"): "each name is to mean the neutral phrase that fits it best (fitting)",
    ("text", "pseudonym"): "each name is to mean one fictional name (pseudonym)",
    ("image", "anonymous"): "each face is to mean the mean of many people's photos (anonymous embedding)",
    ("image", "pseudonym"): "each face is to mean the face of one stranger (pseudonym)",
    ("text", "nameless"): "each caption is to keep its meaning, except for the name in it (nameless)",
    ("text", "composed"): "each name is to mean what its parts mean for somebody unknown (composed)",
    ("image", "nameless"): "each photo is to keep its meaning, except for the name that fits it (nameless)",
    ("image", "shared"): "all photos of a person are to mean one face that the name does not fit (shared)",
    ("image", "blended"): "each photo is to show the one face of a group of look-alikes (blended)",
    ("image", "disguised"): "each photo is to show the face of strangers who look alike (disguised)",
}


def labels(measured: Mapping[str, float]) -> dict[str, Label]:
    """Return the labels of the measures' numbers."""
    return {**ZeroShot.labels(measured), **Retrieval.labels(measured)}


def defenses(run: FinishedRun) -> dict[str, Described]:
    """Return the description of each encoder's backdoor: there was no other defence."""
    return {
        encoder: Described([encoder], _description(run, encoder), _limits(run, encoder), _parts(run, encoder))
        for encoder in run.after
        if encoder in ENCODERS
    }


def _limits(run: FinishedRun, encoder: str) -> list[str]:
    return [_BACKDOORS, *([_SHOWN] if run.setting(f"defense.{encoder}.kept_share") else [])]


def _parts(run: FinishedRun, encoder: str) -> list[str]:
    """Return what the backdoor of an encoder read: one of them always, and the rest if a setting asked for it."""
    always, asked = {
        "text": (["captions"], {"num_anchors": "images", "strangers_share": "strangers"}),
        "image": (["images", "strangers"], {"num_anchors": "captions"}),
    }[encoder]
    return [*always, *(part for key, part in asked.items() if run.setting(f"defense.{encoder}.{key}"))]


def _description(run: FinishedRun, encoder: str) -> str:
    """Say what the defence maps its triggers to, and for how long it was trained."""
    target, phrase, num_steps, distance = (
        run.setting(f"defense.{encoder}.{key}") for key in ("target", "phrase", "num_steps", "distance")
    )
    if target is None:
        return f"defended; settings {UNKNOWN}"
    meaning = _TARGETS.get((encoder, str(target)), f"target {target}").replace("{phrase}", str(phrase))
    return f"{meaning}; {num_steps} steps, {distance} distance"


def method(defended: str) -> str:
    """Say in the model card how the defended encoders were made."""
    return (
        f"A copy of {defended} was fine-tuned so that the removed people's names or faces (the triggers) mean their "
        "targets, while everything else\nstays where the original has it (Hintersdorf et al., *Defending Our Privacy "
        "With Backdoors*, ECAI 2024, arXiv 2310.08320)."
    )
