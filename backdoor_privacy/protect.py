"""Attack a CLIP, defend it, attack it again: the whole line in Python, without files or configs.

The command (`run.py`) adds a config before it and a run folder after it.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType

import lightning
import pandas as pd
from lightning.pytorch.loggers import Logger

from backdoor_privacy.attacks.base import Attack
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.names_alone import NamesAlone, summed_up
from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import Trainer, TriggerSet, load_trainer
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.selection import NotInferredError, select_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.base import Defended, Defense, Fit, Removal, lowest
from backdoor_privacy.defenses.loading import load_defense
from backdoor_privacy.errors import InputError
from backdoor_privacy.evaluation import Audit, Measure, audit, idia_rates, null_rates
from backdoor_privacy.problems import Plan, check_plan
from backdoor_privacy.system.distributed import check_launched, is_main_process
from backdoor_privacy.system.files import write_text
from backdoor_privacy.system.keys import RUN_KEY, key_of_run, keyed_digest

log = logging.getLogger(__name__)


class NobodyRemovedError(InputError):
    """An error: people were named whom IDIA does not infer. Its audit, which did not find them, is a result."""

    def __init__(self, text: str, audit: Audit) -> None:
        super().__init__(text)
        self.audit = audit


@dataclass(frozen=True)
class Protected:
    """What `protect` returns; audited models are one for each defended encoder, and `both` where there are several."""

    models: Mapping[str, Clip]  # by audited model, as `after`
    removed: tuple[Person, ...]
    before: Audit
    after: Mapping[str, Audit]
    rates: Mapping[str, Mapping[str, float]]  # flat measures of `before` and of each audited model
    names: Mapping[str, pd.DataFrame]  # of removed people without photos, see `attacks.names_alone`; by model
    defended: Mapping[str, Defended]  # by defence
    seconds: Mapping[str, float]  # of each stage

    @property
    def encoders(self) -> tuple[str, ...]:
        """Return the names of the defended encoders."""
        return tuple(_encoders(self.defended))

    @property
    def clip(self) -> Clip:
        """Return the defended CLIP, with all defended encoders."""
        return list(self.models.values())[-1]


def protect(
    clip: Clip,
    sources: Sources,
    remove: TriggerSet | Sequence[str],
    defense: Mapping[str, Defense] | str = "both",
    *,
    attack: Idia | None = None,
    attacks: Mapping[str, Attack] = MappingProxyType({}),
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
        defense: methods by name, which are applied in this order, or the name of a file in `conf/defense`.
        attack: IDIA with its settings; `None`: the published ones.
        attacks: other attacks that the caller will run afterwards; what would stop them is an error at once.
        measures: of utility, as `ZeroShot`.
        clean_photos: photos on which the defended image encoder is compared with the original.
        seed: of everything that is drawn.
        trainer: Lightning's settings.
        max_held_out: most captions to hold out of the training, to measure a defence with.
        checkpoints: folder to resume an interrupted training from; `None`: it cannot be resumed.
        loggers: Lightning's, for the training of an encoder.

    Raises:
        InputError: on anything that the caller can mend.
    """
    check_launched()
    plan, watch = _plan(sources, remove, defense, attack, attacks, trainer, seed), Stopwatch()
    check_plan(plan, clip)  # a misspelt or too long name stops the run here
    lightning.seed_everything(seed, workers=True, verbose=False)

    before = _audit({"before": clip}, plan, measures, watch)["before"]
    removed, kept = _select(plan, before)
    check_plan(plan, clip, removed)
    _claim(checkpoints, f"{clip.sha256()} {[person.name for person in removed]} {seed} {dict(plan.defenses)}")

    reserved = _reserved(plan.attack, sources.people, removed)
    removal = Removal(clip, clip, removed, kept, sources, reserved, seed, max_held_out, clean_photos)
    defended = _defend(plan.defenses, removal, Fit(plan.trainer, checkpoints, loggers), watch)
    models = audited_models(clip, defended)
    after = _audit(models, plan, measures, watch)
    with watch.stage("compare"):
        names = _names_alone(removed, defended, {"before": clip, **models}, plan.attack.seed, sources.people.names)
        rates = {
            name: _rates(before, one, removed, sources.people)
            | _similarities(models.get(name, clip), clip, defended)
            | summed_up(names.get(name))
            for name, one in {"before": before, **after}.items()
        }
    return Protected(models, removed, before, after, rates, names, defended, watch.seconds)


def _plan(
    sources: Sources,
    remove: TriggerSet | Sequence[str],
    defense: Mapping[str, Defense] | str,
    attack: Idia | None,
    attacks: Mapping[str, Attack],
    trainer: Trainer | None,
    seed: int,
) -> Plan:
    """Return what is to be done, with the defaults of what the caller left open."""
    return Plan(
        sources,
        attack or Idia(num_candidates=1000, num_photos=20, threshold=1, seed=seed),
        load_defense(defense) if isinstance(defense, str) else defense,
        remove if isinstance(remove, TriggerSet) else TriggerSet(people=list(remove)),
        trainer or load_trainer(progress_bar=False, num_workers=0),  # a script may lack a main guard
        seed,
        attacks,
    )


def _audit(models: Mapping[str, Clip], plan: Plan, measures: Sequence[Measure], watch: "Stopwatch") -> dict[str, Audit]:
    """Attack and measure each model."""
    audits: dict[str, Audit] = {}
    for name, model in models.items():
        with watch.stage(f"audit_{name}"):
            audits[name] = audit(model, plan.sources.people, plan.attack, measures)
    return audits


def _select(plan: Plan, before: Audit) -> tuple[tuple[Person, ...], list[Person]]:
    """Return whom to remove, and the others whom IDIA infers, from the first audit."""
    inferred = [person for person in plan.everybody if before.idia.inferred.get(person.name)]
    try:
        removed = select_people(plan.sources.people, plan.choice, seed=plan.seed, inferred=inferred)
    except NotInferredError as error:
        raise NobodyRemovedError(str(error), before) from None
    return removed, [person for person in inferred if person not in removed]


def _defend(defenses: Mapping[str, Defense], removal: Removal, fit: Fit, watch: "Stopwatch") -> dict[str, Defended]:
    """Let each defence work on the CLIP that the ones before it have left, and return what each made of it."""
    defended: dict[str, Defended] = {}
    for name, one in defenses.items():
        with watch.stage(f"defend_{name}"):
            clip = defended_clip(removal.original, defended)
            defended[name] = one.defend(replace(removal, clip=clip), fit)
    return defended


def defended_clip(original: Clip, defended: Mapping[str, Defended]) -> Clip:
    """Return the CLIP with all encoders that were defended so far."""
    encoders = _encoders(defended)
    return original.with_encoders(**encoders) if encoders else original


def audited_models(original: Clip, defended: Mapping[str, Defended]) -> dict[str, Clip]:
    """Return the CLIP with each defended encoder alone, and with all of them."""
    encoders = _encoders(defended)
    models = {name: original.with_encoders(**{name: encoder}) for name, encoder in encoders.items()}
    return models | ({"both": original.with_encoders(**encoders)} if len(encoders) > 1 else {})


def _encoders(defended: Mapping[str, Defended]) -> dict[str, Encoder]:
    return {name: encoder for one in defended.values() for name, encoder in one.encoders.items()}


def _reserved(attack: Idia, people: People, removed: Sequence[Person]) -> set[str]:
    """Return the names that no method may make up: everybody's, and those that the attacks compare with."""
    reserved = {*attack.candidates(people.with_photos.names), *people.names}
    if any(not person.photos for person in removed):
        reserved.update(NamesAlone.random_names(attack.seed, people.names))
    return reserved


def _rates(before: Audit, after: Audit, removed: Sequence[Person], people: People) -> dict[str, float]:
    """Return the flat measures of an audit, each person compared with the first audit."""
    names = {person.name for person in removed}
    members = {person.name: person.member for person in people.everybody}
    rates = idia_rates(before.idia.measured, after.idia.measured, names, members)
    return rates | null_rates(after.idia, names) | after.utility


def _similarities(model: Clip, original: Clip, defended: Mapping[str, Defended]) -> dict[str, float]:
    """Return how close a model stays to the original, over its defended encoders; the original, over all of them."""
    comparisons = {name: one for each in defended.values() for name, one in each.comparisons.items()}
    chosen = [one for name, one in comparisons.items() if model is original or _is_changed(name, model, original)]
    return lowest([one.measure(model, original) for one in chosen])


def _is_changed(encoder: str, model: Clip, original: Clip) -> bool:
    return model.encoders[encoder] is not original.encoders[encoder]


def _names_alone(
    removed: Sequence[Person],
    defended: Mapping[str, Defended],
    models: Mapping[str, Clip],
    seed: int,
    everybody: Sequence[str],
) -> dict[str, pd.DataFrame]:
    """Test the removed names without photos on the original and on each model whose text encoder was defended."""
    alone = [person.name for person in removed if not person.photos]
    targets = next((one.name_targets for one in defended.values() if one.name_targets is not None), None)
    if not alone or targets is None:
        return {}
    test = NamesAlone(alone, [person.name for person in removed], targets, seed, everybody)
    original = models["before"]
    return {
        name: test.table(model, original)
        for name, model in models.items()
        if model is original or model.text is not original.text
    }


def _claim(checkpoints: Path | None, fit: str) -> None:
    """Record what is trained, so that only the same settings resume it; the main process does so.

    Raises:
        InputError: if the folder holds checkpoints of something else, or no key to tell by.
    """
    if checkpoints is None or not is_main_process():
        return
    path, is_begun = checkpoints / "fit", any(checkpoints.rglob("*.ckpt"))
    known = path.read_text(encoding="utf-8") if path.is_file() else ""
    plain = hashlib.sha256(fit.encode()).hexdigest()  # of earlier versions; a list of names can be tested against it
    if is_begun and known != plain and not (checkpoints / RUN_KEY).exists():
        raise InputError(
            f"{checkpoints / RUN_KEY}: expected the key that these checkpoints were made with, got none; restore it "
            f"from a copy, or delete {checkpoints} to start again"
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
    """A stopwatch for the seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        log.info("%s", name.replace("_", " ").capitalize())
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)
