"""Say what became of settings that earlier versions had."""

from collections.abc import Mapping

from omegaconf import DictConfig

from backdoor_privacy.config.build import is_described
from backdoor_privacy.errors import InputError

_TERMS = ("backdoor", "weight", "preservation", "neighborhood", "target_neighborhood", "adversarial", "relearning")
_REMOVED = "is removed, since {}; leave it out"
_NO_SPELLINGS = _REMOVED.format("training on spellings did not help against others (experiments/hardening_names)")
# What replaces a key of `defense.text` or `defense.image`.
_REPLACEMENTS: Mapping[str, str] = {
    **{f"loss_weights.{term}": f"is now {{place}}.terms.{term}.weight" for term in _TERMS},
    "loss_weights": "is now {place}.terms, as {place}.terms.preservation.weight",
    "adversary.radius": "is now {place}.terms.adversarial.radius",
    "adversary.num_steps": "is now {place}.terms.adversarial.num_steps",
    "adversary": "is now {place}.terms.adversarial",
    "relearning_radius": "is now {place}.terms.relearning.radius",
    "squared_weight_loss": "is now {place}.terms.weight.squared",
    "temperature": "is now {place}.terms.neighborhood.temperature and {place}.terms.target_neighborhood.temperature",
    "phrase": "is now {place}.target.phrase, with defense/text_target=phrase",
    "fitting_phrases": "is now {place}.target.phrases, with defense/text_target=fitting",
    "pseudonym_choice": "is now {place}.target.choice, with defense/text_target=pseudonym",
    "group_size": "is now {place}.target.group_size, with defense/image_target=shared, blended or disguised",
    "overshoot": "is now {place}.target.overshoot, with defense/image_target=blended or disguised",
    "include_removed": "is now {place}.target.include_removed, with defense/image_target=anonymous",
    "spellings": _NO_SPELLINGS,
    "spellings_share": _NO_SPELLINGS,
    "num_decoys": _REMOVED.format("decoys hide little (experiments/hardening_names, experiments/hardening_faces)"),
}


def what_became_of(key: str) -> str | None:
    """Return what to write in place of a key of an earlier version; `None` for any other key.

    Example:
        >>> what_became_of("defense.text.loss_weights.preservation")
        'defense.text.loss_weights.preservation: is now defense.text.terms.preservation.weight'
    """
    group, _, rest = key.partition(".")
    name, _, setting = rest.partition(".")
    if group != "defense" or setting not in _REPLACEMENTS:
        return None
    return f"{key}: {_REPLACEMENTS[setting].format(place=f'defense.{name}')}"


def check_spelling(defense: DictConfig) -> None:
    """Check that the defences of a config are written as this version reads them.

    Raises:
        InputError: saying what to write.
    """
    for name, settings in ((str(key), value) for key, value in defense.items()):
        if settings is None:
            continue
        if not is_described(settings):
            keys = ", ".join(map(str, settings)) if isinstance(settings, DictConfig) else str(settings)
            raise InputError(
                f"defense.{name}: expected a method with its _target_, got settings of one that was not chosen "
                f"({keys}); choose it, as defense=both, or leave it out: defense.{name}=null"
            )
        target = settings.get("target")
        if isinstance(target, str):
            raise InputError(
                f"defense.{name}.target: expected the option of a group, got {target}; write "
                f"defense/{name}_target={target}"
            )
        for key in map(str, settings):
            replacement = what_became_of(f"defense.{name}.{key}")
            if replacement is not None and key in ("loss_weights", "adversary"):
                raise InputError(replacement)
