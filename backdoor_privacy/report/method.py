"""What the run did, and to which model."""

from collections.abc import Mapping
from pathlib import PurePath

import open_clip
from omegaconf import DictConfig

from backdoor_privacy.report import earlier
from backdoor_privacy.report.earlier import UNKNOWN
from backdoor_privacy.runs.finished import Described, FinishedRun


def defenses_of(run: FinishedRun) -> Mapping[str, Described]:
    """Return what each defence of a run says of itself, by name."""
    return run.defenses or earlier.defenses(run)


def encoders_of(run: FinishedRun) -> list[str]:
    """Return the encoders that were defended."""
    return list(dict.fromkeys(encoder for one in defenses_of(run).values() for encoder in one.encoders))


def parts_of(run: FinishedRun) -> set[str]:
    """Return the parts of the data that the defences of a run read besides the people to remove."""
    return {part for defense in defenses_of(run).values() for part in defense.parts}


def asked(run: FinishedRun) -> dict[str, str]:
    """Return what was asked and done, without anybody's name."""
    count = run.num_removed
    named = run.setting("trigger_set.people") is not None or run.setting("trigger_set.file") is not None
    among = "" if run.setting("trigger_set.require_inferred") is False else " among those that IDIA inferred before"
    chosen = "chosen by name" if named else f"drawn at random{among}"
    facts = {
        "Experiment": f"{run.metrics['experiment']}, seed {run.metrics['seed']}",
        "Model": model_of(run),
        "People": f"{count:,} removed ({chosen if run.config else UNKNOWN}) of {run.num_people:,} attacked",
    }
    for name, defense in defenses_of(run).items():
        term = encoders_named(defense).capitalize()
        text = f"{defense.description.rstrip('.')}{_budget(run, name, defense)}"
        facts[term] = f"{facts[term]}; {text}" if term in facts else text
    return facts | {"Attack": _attack(run)}


def encoders_named(defense: Described) -> str:
    """Return what the encoders of a defence are called together."""
    return f"{' and '.join(defense.encoders)} encoder{'s' if len(defense.encoders) > 1 else ''}"


def model_of(run: FinishedRun) -> str:
    """Return what the CLIP is called, without the folders that it lies in."""
    model, pretrained = run.setting("clip.model"), run.setting("clip.pretrained")
    if isinstance(model, DictConfig):
        return "the " + str(model.get("_target_")).rsplit(".", 1)[-1].replace("_", " ").replace("clip", "CLIP")
    if model is None:
        return f"a CLIP ({UNKNOWN})"
    return _shorten(str(model)) + (f" ({_shorten(str(pretrained))})" if pretrained else "")


def _shorten(name: str) -> str:
    scheme, colon, path = name.rpartition(":")
    return name if scheme == "hf-hub" else f"{scheme}{colon}{PurePath(path).name}"


def repository(run: FinishedRun) -> str | None:
    """Return the repository of the Hugging Face hub that the model came from, if it came from one."""
    text_model, model = run.setting("clip.text_model"), str(run.setting("clip.model"))
    if text_model is not None:
        return str(text_model) if str(text_model).count("/") == 1 and str(text_model)[0] not in "./~" else None
    if model.startswith("hf-hub:"):
        return model.removeprefix("hf-hub:")
    known = open_clip.get_pretrained_cfg(model, str(run.setting("clip.pretrained")))
    return known.get("hf_hub", "").rstrip("/") or None


def _attack(run: FinishedRun) -> str:
    """Say how IDIA was set."""
    candidates, photos = run.setting("attack.num_candidates"), run.setting("attack.num_photos")
    if candidates is None or photos is None or run.threshold is None:
        return f"IDIA, settings {UNKNOWN}"
    answers = "right answer" if run.threshold == 1 else "right answers"
    return (
        f"IDIA (Identity Inference Attack): up to {photos} photos of each person, {candidates} candidate names, "
        f"{run.num_prompts} prompts; inferred with {run.threshold} {answers} or more; before and after with the "
        "same candidates and photos"
    )


def _budget(run: FinishedRun, name: str, defense: Described) -> str:
    """Say which student the utility budget of each encoder kept, as the end of a sentence."""
    if run.budget.empty:
        return ""
    text = ""
    for encoder, seen in run.budget[run.budget["encoder"].isin([name, *defense.encoders])].groupby("encoder"):
        kept, least = seen[seen["kept"]].iloc[0], run.setting(f"defense.{name}.budget.min_similarity")
        place, bound = "within", ""
        if isinstance(least, int | float):
            place, bound = "within" if kept["utility"] >= least else "OUTSIDE", f" of {least:g}"
        whose = f" of the {encoder} encoder" if len(defense.encoders) > 1 else ""
        text += (
            f"; kept from step {kept['step']} of {seen['step'].max()}, {place} the utility "
            f"budget{whose}{bound} (similarity {kept['utility']:.3f})"
        )
    return text
