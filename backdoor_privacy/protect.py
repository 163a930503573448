"""Attack a CLIP, defend it, attack it again: the whole line in Python, without files or configs.

The command (`run.py`) adds a config before it and a run folder after it.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning
import pandas as pd
import torch
from lightning.pytorch.loggers import Logger

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.names_alone import NamesAlone, summed_up
from backdoor_privacy.audit import Audit, Measure, audit, idia_rates, null_rates
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import Defense, Trainer, TriggerSet, load_defense, load_trainer
from backdoor_privacy.data.people import Person
from backdoor_privacy.data.selection import NotInferredError, named_people, select_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor.fitting import Fitted, Removal, check_trainer, fit_image, fit_text
from backdoor_privacy.defenses.backdoor.requirements import check_number, check_removal
from backdoor_privacy.defenses.backdoor.similarity import lowest
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.distributed import is_main_process
from backdoor_privacy.system.files import write_text
from backdoor_privacy.system.keys import RUN_KEY, key_of_run, keyed_digest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Protected:
    """What came of it, by audited model: `text`, `image`, and `both` where both encoders were defended."""

    models: Mapping[str, Clip]
    removed: tuple[Person, ...]
    before: Audit
    after: Mapping[str, Audit]
    rates: Mapping[str, Mapping[str, float]]  # flat measures of `before` and of each audited model
    names: Mapping[str, pd.DataFrame]  # of removed people without photos, see `attacks.names_alone`; by model
    fitted: Mapping[str, Fitted]  # by defended encoder
    seconds: Mapping[str, float]  # of each stage

    @property
    def clip(self) -> Clip:
        """The defended CLIP, with all that was defended."""
        return list(self.models.values())[-1]


def protect(
    clip: Clip,
    sources: Sources,
    remove: TriggerSet | Sequence[str],
    defense: Defense | str = "both",
    *,
    attack: Idia | None = None,
    measures: Sequence[Measure] = (),
    clean_photos: Sequence[Path] = (),
    seed: int = 0,
    trainer: Trainer | None = None,
    max_held_out: int = 2000,
    checkpoints: Path | None = None,
    loggers: Callable[[str], list[Logger]] = lambda encoder: [],
) -> Protected:
    """Remove people from a CLIP, and measure before and after whether they are gone.

    Args:
        clip: of `load_clip` or `wrap_clip`; it is left as it is.
        sources: people, and clean captions and photos.
        remove: names of people in `sources`, or how to draw them among those whom the attack infers.
        defense: of each encoder, or the name of one in `conf/defense`.
        attack: IDIA with its settings; `None`: the published ones.
        measures: of what the CLIP is good for, as `ZeroShot`.
        clean_photos: to measure how alike the defended image encoder sees them.
        seed: of everything that is drawn.
        trainer: Lightning's settings.
        max_held_out: captions that measure a text defence and do not train it, at most.
        checkpoints: folder to resume an interrupted fit from; `None`: it cannot be resumed.
        loggers: Lightning's, for the fit of an encoder.

    Raises:
        InputError: on anything that the caller can mend.
    """
    defense = load_defense(defense) if isinstance(defense, str) else defense
    choice = remove if isinstance(remove, TriggerSet) else TriggerSet(people=list(remove))
    attack = attack or Idia(num_candidates=1000, num_photos=20, threshold=1, seed=seed)
    options = trainer or load_trainer(progress_bar=False, num_workers=0)  # a script may lack a main guard
    people, watch = sources.people, Stopwatch()
    _check_defense(clip, defense, options)
    named = named_people(choice.people, choice.file)
    clip.check_fits([person.name for person in people.pick(named or ())])  # what is misspelt or too long ends it here
    if named is not None:
        check_removal(defense, sources, people.pick(named))
    else:
        sources.check(defense.needs())
        if choice.num_people is not None:
            check_number(defense, sources, choice.num_people)
    lightning.seed_everything(seed, workers=True, verbose=False)

    with watch.stage("audit_before"):
        before = audit(clip, people, attack, measures)
    inferred = {name for name, found in before.idia.inferred.items() if found}
    try:
        removed = select_people(people, **vars(choice), seed=seed, inferred=inferred)
    except NotInferredError as error:
        error.audit = before  # that they were looked for and not found is a result
        raise
    clip.check_fits([person.name for person in removed], tell=named is not None)
    check_removal(defense, sources, removed, tell=named is not None)  # a log tells nobody who was drawn
    if checkpoints is not None and is_main_process():
        _claim(checkpoints, f"{clip.sha256()} {[person.name for person in removed]} {seed} {defense}")

    kept = [person for person in people.everybody if person.name in inferred and person not in removed]
    alone = [person.name for person in removed if not person.photos]
    reserved = {*attack.candidates(people.with_photos.names), *people.names}
    if alone:
        reserved.update(NamesAlone.random_names(attack.seed, people.names))
    removal = Removal(clip, sources, removed, kept, reserved, seed, options, checkpoints, max_held_out, clean_photos)
    fitted: dict[str, Fitted] = {}
    if defense.text is not None:
        with watch.stage("defend_text"):
            fitted["text"] = fit_text(defense.text, removal, loggers("text"))
    if defense.image is not None:
        with watch.stage("defend_image"):
            text: Any = fitted["text"].student if "text" in fitted else None
            fitted["image"] = fit_image(defense.image, removal, loggers("image"), text)

    students: dict[str, Any] = {encoder: one.student for encoder, one in fitted.items()}
    models = {encoder: clip.with_encoders(**{encoder: student}) for encoder, student in students.items()}
    if len(models) > 1:
        models["both"] = clip.with_encoders(**students)
    after = {}
    for name, model in models.items():
        with watch.stage(f"audit_{name}"):
            after[name] = audit(model, people, attack, measures)

    def flat(name: str, model: Clip) -> dict[str, float]:
        found = before if name == "before" else after[name]
        parts = fitted.values() if name in ("before", "both") else [fitted[name]]
        rates = idia_rates(
            before.idia.measured,
            found.idia.measured,
            {person.name for person in removed},
            {person.name: person.member for person in people.everybody},
        )
        rates |= null_rates(found.idia, {person.name for person in removed})
        return rates | found.utility | lowest([part.similarity.measure(model, clip) for part in parts])

    with watch.stage("compare"):
        audited = {"before": clip, **models}
        names = _names_alone(alone, fitted, audited, attack.seed, people.names)
        rates = {name: flat(name, model) | summed_up(names.get(name)) for name, model in audited.items()}
    return Protected(models, removed, before, after, rates, names, fitted, watch.seconds)


def _names_alone(
    alone: Sequence[str], fitted: Mapping[str, Fitted], models: Mapping[str, Clip], seed: int, everybody: Sequence[str]
) -> dict[str, pd.DataFrame]:
    """Test the removed names without photos on the original and on each model whose text encoder was defended."""
    if not alone or "text" not in fitted:
        return {}
    similarity: Any = fitted["text"].similarity
    test = NamesAlone(alone, similarity.names, similarity.targets, seed, everybody)
    return {name: test.table(model, models["before"]) for name, model in models.items() if name != "image"}


def _check_defense(clip: Clip, defense: Defense, trainer: Trainer) -> None:
    """Find what cannot be done with this CLIP before anything is computed."""
    if defense.text is None and defense.image is None:
        raise InputError("defense: expected a defence of the text or the image encoder, got none")
    if clip.text.is_sequence:
        _check_sequence_defense(defense)
    _check_adversary(clip, defense)
    for encoder, settings in (("text", defense.text), ("image", defense.image)):
        if settings is not None:
            getattr(clip, encoder).to_train(settings.trained, settings.trained_blocks)
            check_trainer(clip, encoder, settings, trainer)


def _check_sequence_defense(defense: Defense) -> None:
    """Find what a text encoder that is read token by token cannot do."""
    if defense.image is not None:
        raise InputError(
            "defense.image: expected null for the text encoder of Stable Diffusion, whose image encoder only attacks "
            "it; choose defense=text_published"
        )
    text = defense.text
    if text is not None and (text.target.value in ("nameless", "composed") or text.num_anchors):
        raise InputError(
            "defense.text: expected target=phrase, fitting or pseudonym and num_anchors=0 for a text encoder that is "
            f"read token by token, got {text.target.value} and {text.num_anchors}; choose defense=text_published"
        )


def _check_adversary(clip: Clip, defense: Defense) -> None:
    """Find an adversarial loss that there is none of."""
    if defense.image is not None and defense.image.loss_weights.adversarial:
        raise InputError(
            "defense.image.loss_weights.adversarial: expected 0, since it is a loss of names, got "
            f"{defense.image.loss_weights.adversarial:g}"
        )
    text: Any = clip.text
    is_asked = defense.text is not None and defense.text.loss_weights.adversarial
    if is_asked and not isinstance(getattr(text, "token_embedding", None), torch.nn.Embedding):
        raise InputError(
            "defense.text.loss_weights.adversarial: expected 0 for a text encoder of Hugging Face, whose embeddings "
            "cannot be shifted"
        )


def _claim(checkpoints: Path, fit: str) -> None:
    """Note what is fitted, so that it is resumed under the same settings only.

    Raises:
        InputError: if the folder holds checkpoints of something else, or no key to tell by.
    """
    path, is_begun = checkpoints / "fit", any(checkpoints.rglob("*.ckpt"))
    known = path.read_text(encoding="utf-8") if path.is_file() else ""
    plain = hashlib.sha256(fit.encode()).hexdigest()  # what earlier versions noted: a list of suspects tests it
    if is_begun and known != plain and not (checkpoints / RUN_KEY).exists():
        raise InputError(
            f"{checkpoints / RUN_KEY}: expected the key that these checkpoints were begun with, got none; put it back "
            f"from a copy, or delete {checkpoints} to begin anew"
        )
    digest = keyed_digest(key_of_run(checkpoints), f"fit\0{fit}")
    if is_begun and known not in (digest, plain):
        raise InputError(
            f"checkpoints: expected an empty folder, or one of the same CLIP, people, seed and defence, got "
            f"{checkpoints}; delete it or choose another"
        )
    write_text(path, digest, private=True)


@dataclass
class Stopwatch:
    """Seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        log.info("%s", name.replace("_", " ").capitalize())
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)
