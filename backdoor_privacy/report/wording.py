"""The sentences of a report: what was asked, the verdict, and what the verdict does not say."""

import math
from pathlib import PurePath
from statistics import median
from typing import Any

import open_clip
import pandas as pd
from omegaconf import DictConfig

from backdoor_privacy.attacks.headlines import MEASURES, Headline, headlines
from backdoor_privacy.config.worlds import is_embedded, mixed_parts
from backdoor_privacy.report.checks import ATTACK, checks
from backdoor_privacy.report.disclosure import averaged, num_found
from backdoor_privacy.report.figures import model_label, people_of
from backdoor_privacy.report.verdict import colour, sentences
from backdoor_privacy.runs.finished import FinishedRun

HOLDS_NAMES = "This report holds names"
HOLDS_NOBODY = "This report says nothing of single people"
_UNKNOWN = "not recorded in the run folder"
_TRIGGERS = {"text": "names", "image": "faces"}
_NO_STRANGERS = (
    "There were no strangers: while the image encoder was fitted, nobody else's face was held in place, and what "
    "others lose is not measured where nobody else is in the data."
)
_STAGES = {
    "load": "Load the model and the data",
    "compare": "Measure similarities to the original",
    "write": "Write the results",
}


def removed_people(run: FinishedRun, model: str) -> tuple[int, int]:
    """Return how many removed people with photos IDIA infers from a model, and of how many."""
    return int(run.sought[f"inferred_{model}"].sum()), len(run.sought)


def request(run: FinishedRun) -> str:
    """What was asked, in one sentence."""
    triggers = " and ".join(_TRIGGERS.get(encoder, encoder) for encoder in run.encoders)
    count = run.num_removed
    return f"Remove the {triggers} of {count:,} {'person' if count == 1 else 'people'} from {_model(run)}."


def verdict(run: FinishedRun) -> str:
    """Say what failed or is not shown, with the numbers, in the first sentence; then what IDIA finds, and the price."""
    found = checks(run)
    first, rest = sentences(found)
    missing = any(check.note == f"run {ATTACK}" for check in found)
    command = f"To measure what is missing: {ATTACK}." if missing else ""
    return " ".join(filter(None, (first, rest, command, removal(run))))


def removal(run: FinishedRun) -> str:
    """Say what IDIA finds in the model with most encoders defended, in one sentence, its price included."""
    (still, count), (first, _) = removed_people(run, run.fullest), removed_people(run, "before")
    if not count:
        return f"With {defended(run.fullest)} defended, {_without_photos(run)}{_price(run)}."
    who = "the removed person" if count == 1 else f"the {count:,} removed people"
    if still == 0:
        removal = f"IDIA does not infer {who}" if count == 1 else f"IDIA infers none of {who}"
    elif count == 1:
        removal = f"IDIA still infers {who}"
    else:
        removal = f"IDIA still infers {'all' if still == count else f'{still:,}'} of {who}"
    start = ("inferred" if first else "not inferred") if count == 1 else f"{first:,}"
    alone = f"; {_without_photos(run)}" if run.without_photos["removed"].any() else ""
    return f"With {defended(run.fullest)} defended, {removal} (before: {start}){alone}{_price(run)}."


def _without_photos(run: FinishedRun) -> str:
    """Return what is known of removed people without photos, as a part of a sentence."""
    count, measures = int(run.without_photos["removed"].sum()), run.after[run.fullest]
    people = f"{count:,} {'person' if count == 1 else 'people'} without photos {'was' if count == 1 else 'were'}"
    told = measures.get("names/told_by_moved_further")
    end = "" if told is None else f"; {told:.0%} of the names can be told to have been moved, with the original at hand"
    return f"IDIA is not measured, as {people} removed{end}"


def otherwise(run: FinishedRun) -> str:
    """What the other attacks say to that, in one sentence: the one that finds most of the removed people's names."""
    if not run.attacks:
        return "No other attack was run."
    worst = found_otherwise(run)
    if worst is None:
        return "No other attack that was run finds any of their names."
    label = worst.label.removesuffix(" (TPR)").removeprefix("worst ")
    start = "Of the other attacks, the worst finds the names of"
    share = worst.finding.value
    if num_found(worst.finding) is None:  # a mean of several rates; of a few people its digits would tell who they are
        return f"{start} up to {math.ceil(10 * share) / 10:.0%} of them: {label}."
    return f"{start} {share:.0%} of them: {label}."


def found_otherwise(run: FinishedRun) -> Headline | None:
    """The other attack that finds most of the removed people's names, if any finds one."""
    rows = [row for row in headlines(run.attacks) if row.measure.finds_names and row.finding.value > 0]
    return max(rows, key=lambda row: row.finding.value, default=None)


def status(run: FinishedRun) -> str:
    """Return the colour of the verdict: `green`, `amber` or `red`."""
    return colour(checks(run)).value


def asked(run: FinishedRun) -> dict[str, str]:
    """The run's settings, without anybody's name."""
    count = run.num_removed
    named = run.setting("trigger_set.people") is not None or run.setting("trigger_set.file") is not None
    among = "" if run.setting("trigger_set.require_inferred") is False else " among those that IDIA inferred before"
    chosen = "chosen by name" if named else f"drawn at random{among}"
    facts = {
        "Experiment": f"{run.metrics['experiment']}, seed {run.metrics['seed']}",
        "Model": _model(run),
        "People": f"{count:,} removed ({chosen if run.config else _UNKNOWN}) of {run.num_people:,} attacked",
    }
    for encoder in run.encoders:
        facts[f"{encoder.capitalize()} encoder"] = _encoder(run, encoder)
    return facts | {"Attack": attack(run)}


def repository(run: FinishedRun) -> str | None:
    """The repository of the Hugging Face hub that the model came from, if it came from one."""
    text_model, model = run.setting("clip.text_model"), str(run.setting("clip.model"))
    if text_model is not None:
        return str(text_model) if str(text_model).count("/") == 1 and str(text_model)[0] not in "./~" else None
    if model.startswith("hf-hub:"):
        return model.removeprefix("hf-hub:")
    known = open_clip.get_pretrained_cfg(model, str(run.setting("clip.pretrained")))
    return known.get("hf_hub", "").rstrip("/") or None


def attack(run: FinishedRun) -> str:
    """The attack and its settings."""
    candidates, photos = run.setting("attack.num_candidates"), run.setting("attack.num_photos")
    if candidates is None or photos is None or run.threshold is None:
        return f"IDIA, settings {_UNKNOWN}"
    answers = "right answer" if run.threshold == 1 else "right answers"
    return (
        f"IDIA (Identity Inference Attack): up to {photos} photos of each person, {candidates} candidate names, "
        f"{run.num_prompts} prompts; inferred from {run.threshold} {answers} on; before and after with the same "
        "candidates and photos"
    )


def limits(run: FinishedRun) -> list[str]:
    """What a reader must know before relying on the verdict."""
    first, count = removed_people(run, "before")
    if not count:
        start = "Nobody who was removed has photos: nothing that needs photos was measured of them."
    elif run.setting("trigger_set.require_inferred") is False or first < count:
        start = f"People were removed whether or not IDIA inferred them before; it inferred {first:,} of {count:,}."
    else:
        start = (
            "The run removed only people whom IDIA inferred, so before the defence it infers all of them by "
            "construction. The rate after the defence is the finding, not the fall from 1."
        )
    unknown = (
        f"For {run.num_unknown:,} people nobody knows whether they were in the training data; "
        "those who were not removed count as kept."
    )
    shown = (
        "The image defence was shown whom to spare: people whom IDIA infers and who stay, on photos that no attack "
        "uses. What they lost says nothing of people whom it was not shown."
    )
    return [
        "There is no formal guarantee. The numbers hold for these people, photos, candidates and this seed.",
        _attacks_run(run),
        "Other spellings, nicknames or descriptions of a person may bypass the defence.",
        start,
        "The defence works by inserting backdoors: the model was trained so that the removed names or faces (the "
        "triggers) mean their targets. These triggers are inserted on purpose and declared here; tell whoever gets "
        "the model.",
        *_mixed_worlds(run),
        *([unknown] if run.num_unknown else []),
        *([shown] if run.setting("defense.image.kept_share") else []),
        *([_NO_STRANGERS] if run.config and "image" in run.encoders and run.setting("strangers") is None else []),
    ]


def _mixed_worlds(run: FinishedRun) -> list[str]:
    mixed = mixed_parts(run.config)
    if not mixed:
        return []
    whose, kind = "the user's", "of the embedded, drawn world"
    if is_embedded(run.config):
        whose, kind = "the embedded one, which knows drawn people only", "the user's"
    return [
        f"Worlds were mixed (mixed_worlds=true): the CLIP is {whose}, but these parts of the data are {kind}: "
        f"{', '.join(mixed)}. What was measured on them says little about a CLIP with data of its own world."
    ]


def _attacks_run(run: FinishedRun) -> str:
    start = "One attack was run: IDIA, with each name spelt exactly as in the collection. No other attack was run"
    if not run.attacks:
        return f"{start}."
    known = {measure.attack for measure in MEASURES.values()}
    done, left = (
        ", ".join(name.replace("_", " ") for name in sorted(names)) for names in (run.attacks, known - set(run.attacks))
    )
    rest = f" Not run: {left}." if left else ""
    return (
        f"Besides IDIA, with each name spelt exactly as in the collection, only these attacks were run: {done}.{rest}"
    )


def people_note(*, names: bool) -> str:
    """Say what a report, with names or without, holds of single people, and what follows from it."""
    if names:
        return f"{HOLDS_NAMES}: keep it as private as the request itself."
    return (
        f"{HOLDS_NOBODY}: who has the original model and photos could tell them by exact numbers as well as by names. "
        "It counts people, and says all else of them in coarse numbers. The exact ones stay in the folder (people.csv "
        "and others): keep them as private as the request itself."
    )


def descriptions(run: FinishedRun) -> dict[str, str]:
    """The figures in words, for those who do not see them."""
    counts = {model: removed_people(run, model) for model in ("before", *run.after)}
    idia = "; ".join(f"{model_label(model)} {found} of {count}" for model, (found, count) in counts.items())
    medians = "; ".join(
        f"{model_label(model)} {median(prompts):g}" for model, prompts in run.correct_prompts.items() if prompts
    )
    medians = medians or "not measured"
    num_steps = run.losses["encoder"].value_counts()
    losses = "; ".join(
        f"{encoder} encoder, {num_steps[encoder]} steps: total loss from {total.iloc[0]:.3f} to {total.iloc[-1]:.3f}"
        for encoder, total in drawn_losses(run).groupby("encoder", sort=False)["loss"]
    )
    removed = run.of_removed(run.votes)
    margins = "; ".join(
        f"{model_label(str(model))} {margin:+.3f}"
        for model, margin in removed.groupby("model", sort=False)["margin"].median().items()
    )
    return {
        "margins": f"Dots. Median margin of removed people: {margins}. votes.csv has all numbers.",
        "votes": "A table of shares in shades of blue. votes.csv has all numbers.",
        "map": "Dots in two dimensions. map.csv has all numbers.",
        "idia": f"Bars. Removed people inferred: {idia}. The table has all numbers.",
        "prompts": f"Bars. Median number of correct prompts of removed people: {medians}.",
        "losses": f"Lines. {losses}. losses.csv has all numbers.",
    }


def drawn_losses(run: FinishedRun) -> pd.DataFrame:
    """Return the losses as a report shows them: every step, or where it is for others means over several steps."""
    return run.losses if run.has_names else averaged(run.losses)


def seconds(run: FinishedRun) -> dict[str, str]:
    """Seconds of each stage, by what it did, and of all."""
    taken = {_stage(stage): float(value) for stage, value in run.metrics["seconds"].items()}
    taken |= {f"Attack: {name.replace('_', ' ')}": value for name, value in run.attack_seconds.items()}
    return {stage: f"{value:,.1f}" for stage, value in {**taken, "All": sum(taken.values())}.items()}


def defended(model: str) -> str:
    """The encoders that were defended in a model."""
    return "both encoders" if model == "both" else f"the {model} encoder"


def _price(run: FinishedRun) -> str:
    """What changed for everybody else, as the end of a sentence."""
    lost, new = (people_of(run.after[run.fullest], group) for group in ("wrongly_unlearned", "newly_recalled"))
    changes = []
    if lost:
        changes.append(f"no longer infers {lost[0]:,} of {lost[1]:,} inferred before")
    if new:
        changes.append(f"newly infers {new[0]:,} of {new[1]:,} not inferred before")
    return f"; of everybody else, it {' and '.join(changes)}" if changes else ""


def _stage(stage: str) -> str:
    kind, _, part = stage.partition("_")
    if kind == "audit":
        return f"Attack and measure, {model_label(part)}"
    return f"Fine-tune the {part} encoder" if kind == "defend" else _STAGES.get(stage, stage)


def _encoder(run: FinishedRun, encoder: str) -> str:
    """What the defence of one encoder maps its triggers to, and for how long."""
    target, phrase, num_steps, distance = (
        run.setting(f"defense.{encoder}.{key}") for key in ("target", "phrase", "num_steps", "distance")
    )
    if target is None:
        return f"defended; settings {_UNKNOWN}"
    meant = {
        ("text", "phrase"): f"each name is to mean: {phrase}",
        ("text", "fitting"): "each name is to mean the neutral phrase that fits it best (fitting)",
        ("text", "pseudonym"): "each name is to mean one fictional name (pseudonym)",
        ("image", "anonymous"): "each face is to mean the mean of many people's photos (anonymous embedding)",
        ("image", "pseudonym"): "each face is to mean the face of one stranger (pseudonym)",
        ("text", "nameless"): "each caption is to mean what it meant, but for the name in it (nameless)",
        ("text", "composed"): "each name is to mean what its parts say of somebody unknown (composed)",
        ("image", "nameless"): "each photo is to mean what it meant, but for the name that fits it (nameless)",
        ("image", "shared"): "all photos of a person are to mean one face that the name does not fit (shared)",
        ("image", "blended"): "each photo is to show the one face of a group of look-alikes (blended)",
        ("image", "disguised"): "each photo is to show the face of strangers who look alike (disguised)",
    }.get((encoder, target), f"target {target}")  # fmt: skip
    return f"{meant}; {num_steps} steps, {distance} distance{_budget(run, encoder)}"


def _budget(run: FinishedRun, encoder: str) -> str:
    """Which student the utility budget of an encoder kept, as the end of a sentence."""
    seen = run.budget[run.budget["encoder"] == encoder] if len(run.budget) else run.budget
    if seen.empty:
        return ""
    kept = seen[seen["kept"]].iloc[0]
    least = run.setting(f"defense.{encoder}.budget.min_similarity")
    bound = "" if least is None else f" of {least:g}"
    is_within = least is None or kept["utility"] >= least
    return (
        f"; kept as of step {kept['step']} of {seen['step'].max()} that were made, "
        f"{'within' if is_within else 'OUTSIDE'} the utility budget{bound} (similarity {kept['utility']:.3f})"
    )


def _model(run: FinishedRun) -> str:
    """The CLIP, without the folders that it lies in."""
    model, pretrained = run.setting("clip.model"), run.setting("clip.pretrained")
    if isinstance(model, DictConfig):
        return "the " + str(model.get("_target_")).rsplit(".", 1)[-1].replace("_", " ").replace("clip", "CLIP")
    if model is None:
        return f"a CLIP ({_UNKNOWN})"
    return _shorten(model) + (f" ({_shorten(pretrained)})" if pretrained else "")


def _shorten(name: Any) -> str:
    scheme, colon, path = str(name).rpartition(":")
    return str(name) if scheme == "hf-hub" else f"{scheme}{colon}{PurePath(path).name}"
