"""What a reader must know before relying on the verdict."""

from collections.abc import Iterator

from backdoor_privacy.config.attacks import attack_names
from backdoor_privacy.config.worlds import is_embedded, mixed_parts
from backdoor_privacy.report.disclosure import people_note
from backdoor_privacy.report.method import defenses_of, parts_of
from backdoor_privacy.report.parts import Points, Section
from backdoor_privacy.report.wording import removed_people
from backdoor_privacy.runs.finished import FinishedRun

_GUARANTEE = "There is no formal guarantee. The numbers hold for these people, photos, candidates and this seed."
_SPELLINGS = "Other spellings, nicknames or descriptions of a person may bypass the defence."
_ON_PURPOSE = "The weights were changed on purpose, as described in this document; tell whoever gets the model."
_NO_STRANGERS = (
    "There were no strangers (auxiliary identities): the defence could not hold other people's faces in "
    "place. If nobody else is in the data, what other people lose is not measured."
)


def limits(run: FinishedRun) -> Section:
    """Say what the run does not prove."""
    return Section("limits", "What this does not prove", [Points([*limits_of(run), people_note(names=run.has_names)])])


def limits_of(run: FinishedRun) -> list[str]:
    """Return what a reader must know before relying on the verdict."""
    return [_GUARANTEE, _attacks_run(run), _SPELLINGS, _before(run), *_of_defenses(run), *_of_data(run)]


def _attacks_run(run: FinishedRun) -> str:
    if not run.attacks:
        return "One attack was run: IDIA, with each name spelt exactly as in the collection. No other attack was run."
    known = set(attack_names())
    names, left = (
        ", ".join(name.replace("_", " ") for name in sorted(group)) for group in (run.attacks, known - set(run.attacks))
    )
    rest = f" Not run: {left}." if left else ""
    return (
        f"Besides IDIA, with each name spelt exactly as in the collection, only these attacks were run: {names}.{rest}"
    )


def _before(run: FinishedRun) -> str:
    """Say what the rate before the defence means."""
    first, count = removed_people(run, "before")
    if not count:
        return "No removed person has photos, so nothing that needs photos was measured of them."
    if run.setting("trigger_set.require_inferred") is False or first < count:
        return f"People were removed whether or not IDIA inferred them before; it inferred {first:,} of {count:,}."
    return (
        "The run removed only people whom IDIA inferred, so before the defence it infers all of them by "
        "construction. The result is the rate after the defence, not the fall from 1."
    )


def _of_defenses(run: FinishedRun) -> Iterator[str]:
    """Yield what the defences say of their own limits, each sentence once."""
    yield from dict.fromkeys(limit for defense in defenses_of(run).values() for limit in defense.limits)
    if run.defenses:
        yield _ON_PURPOSE


def _of_data(run: FinishedRun) -> Iterator[str]:
    """Yield what follows from the data that the run had."""
    yield from _mixed_worlds(run)
    if run.num_unknown:
        yield (
            f"For {run.num_unknown:,} people nobody knows whether they were in the training data; "
            "those who were not removed count as kept."
        )
    if run.config and "strangers" in parts_of(run) and run.setting("strangers") is None:
        yield _NO_STRANGERS


def _mixed_worlds(run: FinishedRun) -> Iterator[str]:
    mixed = mixed_parts(run.config, parts_of(run))
    if mixed:
        embedded = "the embedded one, which knows drawn people only", "the user's"
        own = "the user's", "of the embedded, drawn world"
        whose, kind = embedded if is_embedded(run.config) else own
        yield (
            f"Worlds were mixed (mixed_worlds=true): the CLIP is {whose}, but these parts of the data are {kind}: "
            f"{', '.join(mixed)}. What was measured on them says little about a CLIP with data of its own world."
        )
