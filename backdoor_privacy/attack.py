"""Attack a finished run with more than IDIA: `python -m backdoor_privacy.attack <run> [attack ...]`."""

import contextlib
import hashlib
import logging
import sys
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.markup import escape
from rich.table import Table
from yaml import YAMLError

from backdoor_privacy.attacks.context import Attack, AttackContext
from backdoor_privacy.attacks.headlines import headlines
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
from backdoor_privacy.config.build import build
from backdoor_privacy.config.stored import for_this_machine, read_stored
from backdoor_privacy.data.people import People
from backdoor_privacy.data.selection import draw_decoys
from backdoor_privacy.errors import CommandParser, InputError, cause_of, ended_in_one_line, show_anything
from backdoor_privacy.report import write_report
from backdoor_privacy.runs.finished import removed_people
from backdoor_privacy.runs.folder import check_links, read_metrics
from backdoor_privacy.runs.sweeps import spoken
from backdoor_privacy.system.distributed import broadcast, is_main_process
from backdoor_privacy.system.keys import key_of_run
from backdoor_privacy.system.paths import CONFIG_FOLDER
from backdoor_privacy.system.terminal import VisibleConsole
from backdoor_privacy.system.visible import visible

log = logging.getLogger("backdoor_privacy.attack")  # also where this is the command
_SETTINGS = CONFIG_FOLDER / "attack" / "also"
_ALLOW = "allow="
_FORMAT = 4  # to be counted up when an attack finds something else of the same
_SHARED = ("tower_swap", "variants")  # what takes time in them is shared by the processes of a run


def attack_names() -> list[str]:
    """The attacks that there are besides IDIA."""
    return sorted(path.stem for path in _SETTINGS.glob("*.yaml"))


def quick_attacks() -> list[str]:
    """The faster ones, which `conf/attack/quick.yaml` lists."""
    return _listed("quick")


def default_attacks() -> list[str]:
    """Return the attacks that every run ends with, which `conf/attack/default.yaml` lists."""
    return _listed("default")


def _listed(choice: str) -> list[str]:
    parts = OmegaConf.load(CONFIG_FOLDER / "attack" / f"{choice}.yaml").defaults
    return [str(name) for part in parts if isinstance(part, DictConfig) for name in part.values()]


def check_attacks(attacks: Mapping[str, DictConfig], num_processes: int) -> None:
    """See that attacks can be run at the end of a run: a mistake in one shows before hours of work, not after.

    Raises:
        InputError: if a setting is of no use, or an attack cannot be shared by the processes of the run.
    """
    for settings in attacks.values():
        make_attack(settings)
    alone = [name for name in attacks if name not in _SHARED]
    if alone and num_processes > 1:  # what they embed would wait for the other processes
        raise InputError(
            f"attack: expected attack=default or attack=idia in a run of {num_processes} processes, got "
            f"{', '.join(alone)}; attack the finished run: python -m backdoor_privacy.attack <run>"
        )


def load_attacks(names: Sequence[str], changes: Sequence[str] = ()) -> dict[str, DictConfig]:
    """The settings of attacks.

    Args:
        names: of `conf/attack/also`; none: all of them.
        changes: as `probe.num_neighbors=3`.

    Raises:
        InputError: if there is no such attack, or no such setting.
    """
    known = attack_names()
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"attack: expected some of {', '.join(known)}, got {unknown[0]}; choose of these")
    found = OmegaConf.create({name: OmegaConf.load(_SETTINGS / f"{name}.yaml") for name in names or known})
    OmegaConf.set_struct(found, True)
    settings = [f"{name!s}.{key!s}" for name, one in found.items() for key in one if key != "_target_"]
    for change in changes:
        key, _, value = change.partition("=")
        try:
            OmegaConf.update(found, key, OmegaConf.create(f"value: {value}").value)
            if not all(isinstance(one, DictConfig) for one in found.values()):
                raise TypeError(change)
        except (OmegaConfBaseException, YAMLError, AssertionError, LookupError, TypeError, ValueError) as error:
            raise InputError(
                f"attack: expected a setting of {', '.join(map(str, found))}, got {change}; there are "
                f"{', '.join(settings)}"
            ) from error
    return {str(name): settings for name, settings in found.items()}


def load_context(folder: Path, allow: Collection[str] = ()) -> AttackContext:
    """The CLIPs and people of a finished run.

    Args:
        folder: of the run; a stranger may have written what is in it.
        allow: targets that its config may name besides the package's own.

    Raises:
        InputError: if it is no finished run, its model is no whole CLIP, or its config names other targets.
    """
    check_links(folder)
    metrics, path = read_metrics(folder), _config(folder)
    if metrics is None or not path.is_file():
        raise InputError(
            f"{folder}: expected the folder of a finished run, got one without metrics.json or its config; give a "
            "folder as runs/.../seed=0, or finish its run"
        )
    if not (folder / "defended" / "open_clip_config.json").is_file():
        raise InputError(f"{folder}/defended: expected a whole CLIP, got none; a text model alone is attacked by IDIA")
    if not (folder / "people.csv").is_file():
        raise InputError(f"{folder}/people.csv: expected who was removed, got no such file; attacks need it")
    cfg = for_this_machine(read_stored(path), path, allow)
    original: Clip = _made(cfg.clip, path)
    defended = load_clip(f"local-dir:{folder / 'defended'}", precision=original.precision)
    encoders = [encoder for encoder in metrics["after"] if encoder != "both"]
    models = {encoder: original.with_encoders(**{encoder: getattr(defended, encoder)}) for encoder in encoders}
    if len(encoders) > 1:
        models["both"] = original.with_encoders(text=defended.text, image=defended.image)
    return attack_context(cfg, original, models, _made(cfg.people, path), removed_people(folder))


def _config(folder: Path) -> Path:
    return folder / ".hydra" / "config.yaml"


def _made(node: DictConfig, path: Path) -> Any:
    """What a part of a stored config describes.

    Raises:
        InputError: if it takes no such settings.
    """
    try:
        return instantiate(node)
    except InstantiationException as error:
        cause = cause_of(error)
        if isinstance(cause, InputError | OSError):
            raise
        reason = " ".join(str(cause or error).split())[:200]
        raise InputError(f"{path}: expected other settings of {node._target_}, got: {reason}") from error


def attack_context(
    cfg: DictConfig, original: Clip, models: Mapping[str, Clip], people: People, removed: Iterable[str]
) -> AttackContext:
    """What the attacks of a run see.

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
    num_names, num_faces = (OmegaConf.select(cfg, f"defense.{one}.num_decoys") or 0 for one in ("text", "image"))
    strangers = instantiate(cfg.strangers).everybody if num_faces else ()
    photos = [path for person in people.everybody for path in person.attack_photos[: idia.num_photos]]
    for clip in (original, *models.values()):
        clip.embed_photos(photos)  # as the audit did: 1 % of all may be unreadable, of a few people it is more
    return AttackContext(
        clips={"before": original, **models},
        people=people,
        removed=[name for name in people.names if name in chosen],
        idia=idia,
        seed=cfg.seed,
        decoys=draw_decoys(num_names, num_faces, strangers, cfg.seed, set(idia.candidates(people.names))),
    )


def run_attacks(seen: AttackContext, attacks: Mapping[str, DictConfig], folder: Path) -> dict[str, list[Score]]:
    """Run attacks one after the other, and write `attacks/<name>.json` of each; what is known already is read.

    All processes of a run come here together; the first one reads and writes.

    Args:
        seen: by all of them.
        attacks: their settings by name.
        folder: of the run.

    Raises:
        InputError: if the only attack is none for this model; among others it is left out.
    """
    found, scene_digest, key = {}, "", b""
    if is_main_process():
        scene_digest, key = _context_digest(seen), key_of_run(folder / "checkpoints")
        key_scores(folder / "attacks", key)
    for number, (name, settings) in enumerate(attacks.items()):
        path = folder / "attacks" / f"{name}.json"
        digest = hashlib.sha256(f"{scene_digest} {OmegaConf.to_yaml(settings)}".encode()).hexdigest()
        wanted = keyed(digest, key)
        read = read_scores(path) if is_main_process() and path.is_file() else None
        wanted, known = broadcast((wanted, read))
        if known is None or known[0] != wanted:
            log.info("Attack %d of %d: %s%s", number + 1, len(attacks), name, _usual_time(name, folder))
            start = time.perf_counter()
            attack = make_attack(settings)
            try:
                scores = attack.run(seen)
            except InputError as error:
                if len(attacks) == 1:
                    raise
                log.warning("%s is left out: %s", name, error)
                continue
            plain: Any = OmegaConf.to_container(settings)
            if is_main_process():
                write_scores(path, wanted, scores, time.perf_counter() - start, plain, _FORMAT)
            known = wanted, scores
        found[name] = known[1]
    return found


def missing_attacks(attacks: Mapping[str, DictConfig], folder: Path) -> list[str]:
    """Return the attacks of which a finished run holds no scores, or those of other settings or versions."""

    def is_known(name: str, settings: DictConfig) -> bool:
        path = folder / "attacks" / f"{name}.json"
        return path.is_file() and read_origin(path) == (OmegaConf.to_container(settings), _FORMAT)

    return [name for name, settings in attacks.items() if not is_known(name, settings)]


def attack_finished(attacks: Mapping[str, DictConfig], folder: Path, allow: Collection[str] = ()) -> bool:
    """Run the attacks that a finished run lacks; all processes come here together.

    Args:
        attacks: their settings by name.
        folder: of the run.
        allow: as of `load_context`.

    Returns:
        Whether there were any.

    Raises:
        InputError: if what they need is gone, unless every run ends with these attacks: such a run is only read.
    """
    missing = broadcast(missing_attacks(attacks, folder) if is_main_process() else [])
    if not missing:
        return False
    try:
        run_attacks(load_context(folder, allow), attacks, folder)
    except (InputError, InstantiationException) as error:
        if set(missing) - set(default_attacks()) or not isinstance(cause_of(error), InputError):
            raise
        log.warning("%s: not measured: %s", ", ".join(missing), cause_of(error))
        return False
    return True


def make_attack(settings: Any) -> Attack:
    """An attack from its settings.

    Raises:
        InputError: if one of them is of no use.
    """
    if not isinstance(settings, DictConfig) or "_target_" not in settings:
        raise InputError(f"attack: expected settings of an attack with its _target_, got {settings}")
    try:
        attack: Attack = instantiate(settings)
    except InstantiationException as error:
        cause = cause_of(error)
        if isinstance(cause, InputError):
            raise cause from None
        raise InputError(f"attack: expected other settings of {settings._target_}: {cause}") from error
    return attack


def _context_digest(seen: AttackContext) -> str:
    """Of the models, the people with their photos and IDIA's settings; no file holds it but under a key."""
    everybody = [*seen.people.everybody, *seen.decoys]
    photos = [(person.name, person.member, person.attributes, sorted(person.hashes.values())) for person in everybody]
    models = {name: (clip.sha256(), clip.config, clip.precision) for name, clip in seen.clips.items()}
    parts = [_FORMAT, models, photos, list(seen.removed), seen.idia, seen.seed]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _usual_time(name: str, folder: Path) -> str:
    """How long the same attack took in other runs nearby, as the end of a sentence."""
    known = []
    for path in folder.resolve().parent.glob(f"*/attacks/{name}.json"):
        with contextlib.suppress(InputError, TypeError, ValueError):  # a broken file is no reason not to attack
            known.append(read_seconds(path))
    return f", about {spoken(sum(known) / len(known))}" if known else ""


def print_scores(found: Mapping[str, Sequence[Score]], folder: Path) -> None:
    """What sums up the attacks; what is worst for the removed people comes first."""
    table = Table("measure", "kind", "model", title="Worst first; what others pay comes last")
    for column in ("before", "after (95 %)", "never seen"):
        table.add_column(column, justify="right")
    for row in headlines(found):
        score = row.score
        others = ["" if other is None else f"{other.value:.3f}" for other in (row.before, row.control)]
        interval = f"{score.value:.3f} ({score.low:.3f} to {score.high:.3f})"
        table.add_row(row.label, escape(score.kind), score.model, others[0], interval, others[1])
    console = VisibleConsole(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    print(visible(f"All scores: {folder / 'attacks'}"))


def _listed_in(text: str) -> list[str]:
    """The targets of `allow=[a.b.C, ...]`."""
    return [one for one in text.removeprefix(_ALLOW).strip("[]").split(",") if one.strip()]


@ended_in_one_line
def main(arguments: Sequence[str] | None = None) -> int:
    """Attack the models of a run, print what was found, and write its report again.

    Returns:
        The exit code.
    """
    names = attack_names()
    parser = CommandParser(
        prog="python -m backdoor_privacy.attack",
        description="Attack the models of a finished run, and write attacks/<attack>.json and the report anew.",
        epilog="Example: python -m backdoor_privacy.attack runs/both_64/seed=0 probe variants variants.num_prompts=21",
    )
    parser.add_argument("run", type=Path, help="folder of a run: the one with metrics.json")
    parser.add_argument(
        "attacks",
        nargs="*",
        metavar="attack",
        help=f"{', '.join(names)}, quick, all (default), a setting, or allow=[my.module.Class]: what the run's config "
        "may call besides this package's own, if you trust it",
    )
    asked = parser.parse_args(arguments)
    allow = [one.strip(" '\"") for text in asked.attacks if text.startswith(_ALLOW) for one in _listed_in(text)]
    chosen, changes = ([one for one in asked.attacks if ("=" in one) == with_value] for with_value in (False, True))
    changes = [one for one in changes if not one.startswith(_ALLOW)]
    if "all" in chosen:
        chosen = names
    elif "quick" in chosen:
        chosen = list(dict.fromkeys([*quick_attacks(), *(one for one in chosen if one != "quick")]))
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("backdoor_privacy").setLevel(logging.INFO)
    show_anything()
    attacks = load_attacks(chosen, changes)
    for settings in attacks.values():
        make_attack(settings)  # a mistake in one shows before the others have run for long
    found = run_attacks(load_context(asked.run, allow), attacks, asked.run)
    write_report(asked.run, names=OmegaConf.select(read_stored(_config(asked.run)), "report.names") is True)
    print_scores(found, asked.run)
    return 0


if __name__ == "__main__":
    sys.exit(main())
