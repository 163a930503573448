"""Run attacks on a finished run, and record what they find."""

import contextlib
import hashlib
import logging
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TypeVar

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.attacks.choice import make_attack
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.record import (
    key_scores,
    keyed,
    read_origin,
    read_scores,
    read_seconds,
    write_scores,
)
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.attacks import attacks_of
from backdoor_privacy.config.build import build
from backdoor_privacy.config.containers import settings_of
from backdoor_privacy.config.stored import for_this_machine, read_stored
from backdoor_privacy.data.people import People
from backdoor_privacy.errors import InputError, cause_of
from backdoor_privacy.runs.finished import removed_people
from backdoor_privacy.runs.folder import check_links, read_metrics
from backdoor_privacy.runs.sweeps import spoken
from backdoor_privacy.system.distributed import broadcast, is_main_process
from backdoor_privacy.system.keys import key_of_run

_Part = TypeVar("_Part")
log = logging.getLogger(__name__)
_FORMAT = 4  # raise it when an attack finds something else in the same models and people


def load_context(folder: Path, allow: Collection[str] = ()) -> AttackContext:
    """Load the CLIPs and people of a finished run.

    Args:
        folder: of the run; it may come from somebody who is not to be trusted.
        allow: targets that its config may name besides the package's own.

    Raises:
        InputError: if it is no finished run, its model is no whole CLIP, or its config names other targets.
    """
    check_links(folder)
    metrics, path = read_metrics(folder), config_path(folder)
    if metrics is None or not path.is_file():
        raise InputError(
            f"{folder}: expected the folder of a finished run, got one without metrics.json or its config; give a "
            "folder as runs/.../seed=0, or finish its run"
        )
    if not (folder / "defended" / "open_clip_config.json").is_file():
        raise InputError(f"{folder}/defended: expected a whole CLIP, got a text model, which only IDIA can attack")
    if not (folder / "people.csv").is_file():
        raise InputError(f"{folder}/people.csv: expected who was removed, got no such file; attacks need it")
    cfg = for_this_machine(read_stored(path), path, allow)
    original = _made(cfg.clip, Clip, path)
    defended = load_clip(f"local-dir:{folder / 'defended'}", precision=original.precision)
    encoders = [encoder for encoder in metrics["after"] if encoder != "both"]
    models = {encoder: original.with_encoders(**{encoder: getattr(defended, encoder)}) for encoder in encoders}
    if len(encoders) > 1:
        models["both"] = original.with_encoders(text=defended.text, image=defended.image)
    return attack_context(cfg, original, models, _made(cfg.people, People, path), removed_people(folder))


def config_path(folder: Path) -> Path:
    """Return where a run folder holds its config."""
    return folder / ".hydra" / "config.yaml"


def _made(node: DictConfig, kind: type[_Part], path: Path) -> _Part:
    """Return what a part of a stored config describes.

    Raises:
        InputError: if it takes no such settings, or describes something of another kind.
    """
    try:
        made: object = instantiate(node)
    except InstantiationException as error:
        cause = cause_of(error)
        if isinstance(cause, InputError | OSError):
            raise
        reason = " ".join(str(cause or error).split())[:200]
        raise InputError(f"{path}: expected other settings of {node._target_}, got: {reason}") from error
    if not isinstance(made, kind):
        raise InputError(f"{path}: expected a {kind.__name__}, got {node._target_}; copy its folder again")
    return made


def attack_context(
    cfg: DictConfig, original: Clip, models: Mapping[str, Clip], people: People, removed: Iterable[str]
) -> AttackContext:
    """Return what the attacks of a run see.

    Args:
        cfg: of the run.
        original: the CLIP that was not defended.
        models: the audited ones, the one with most encoders defended comes last.
        people: everybody.
        removed: names of those removed.
    """
    people = people.with_photos
    if not people.everybody:
        raise InputError("attack: expected photos to attack with, got names alone; of these nothing else is measured")
    chosen, idia = set(removed), build(cfg.attack, Idia)
    photos = [path for person in people.everybody for path in person.attack_photos[: idia.num_photos]]
    for clip in (original, *models.values()):
        clip.embed_photos(photos)  # all at once: up to 1 % of them may be unreadable
    return AttackContext(
        clips={"before": original, **models},
        people=people,
        removed=[name for name in people.names if name in chosen],
        idia=idia,
        seed=cfg.seed,
    )


def run_attacks(context: AttackContext, attacks: Mapping[str, DictConfig], folder: Path) -> dict[str, list[Score]]:
    """Run attacks one after the other, and write `attacks/<name>.json` of each; known results are read instead.

    All processes of a run call this together; the first one reads and writes.

    Args:
        context: what all attacks see.
        attacks: their settings by name.
        folder: of the run.

    Raises:
        InputError: if the only attack cannot be run on this model; one of several is left out.
    """
    scores_of, context_digest, key = {}, "", b""
    if is_main_process():
        context_digest, key = _context_digest(context), key_of_run(folder / "checkpoints")
        key_scores(folder / "attacks", key)
    for number, (name, settings) in enumerate(attacks.items()):
        path = folder / "attacks" / f"{name}.json"
        digest = hashlib.sha256(f"{context_digest} {OmegaConf.to_yaml(settings)}".encode()).hexdigest()
        origin = keyed(digest, key)
        read = read_scores(path) if is_main_process() and path.is_file() else None
        origin, known = broadcast((origin, read))
        if known is None or known[0] != origin:
            log.info("Attack %d of %d: %s%s", number + 1, len(attacks), name, _usual_time(name, folder))
            start = time.perf_counter()
            attack = make_attack(settings)
            try:
                scores = attack.run(context)
            except InputError as error:
                if len(attacks) == 1:
                    raise
                log.warning("%s is left out: %s", name, error)
                continue
            if is_main_process():
                seconds = time.perf_counter() - start
                write_scores(path, origin, scores, seconds, settings_of(settings), _FORMAT)
            known = origin, scores
        scores_of[name] = known[1]
    return scores_of


def missing_attacks(attacks: Mapping[str, DictConfig], folder: Path) -> list[str]:
    """Return the attacks of which a finished run holds no scores, or those of other settings or versions."""

    def is_known(name: str, settings: DictConfig) -> bool:
        path = folder / "attacks" / f"{name}.json"
        return path.is_file() and read_origin(path) == (settings_of(settings), _FORMAT)

    return [name for name, settings in attacks.items() if not is_known(name, settings)]


def attack_finished(attacks: Mapping[str, DictConfig], folder: Path, allow: Collection[str] = ()) -> bool:
    """Run the attacks that a finished run lacks; all processes call this together.

    Args:
        attacks: their settings by name.
        folder: of the run.
        allow: as of `load_context`.

    Returns:
        Whether some were run.

    Raises:
        InputError: if what they need is gone; if only attacks are missing that every run ends with, it is a warning.
    """
    missing = broadcast(missing_attacks(attacks, folder) if is_main_process() else [])
    if not missing:
        return False
    try:
        run_attacks(load_context(folder, allow), attacks, folder)
    except (InputError, InstantiationException) as error:
        if set(missing) - set(attacks_of("default")) or not isinstance(cause_of(error), InputError):
            raise
        log.warning("%s: not measured: %s", ", ".join(missing), cause_of(error))
        return False
    return True


def _context_digest(context: AttackContext) -> str:
    """Return a digest of models, people with their photos and IDIA's settings; files hold it under a key only."""
    photos = [
        (person.name, person.member, person.attributes, sorted(person.hashes.values()))
        for person in context.people.everybody
    ]
    models = {name: (clip.sha256(), clip.config, clip.precision) for name, clip in context.clips.items()}
    parts = [_FORMAT, models, photos, list(context.removed), context.idia, context.seed]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _usual_time(name: str, folder: Path) -> str:
    """Say how long the same attack took in other runs nearby, as the end of a sentence."""
    known = []
    for path in folder.resolve().parent.glob(f"*/attacks/{name}.json"):
        with contextlib.suppress(InputError, TypeError, ValueError):  # a broken file is no reason not to attack
            known.append(read_seconds(path))
    return f", about {spoken(sum(known) / len(known))}" if known else ""
