"""One run, from a config to a run folder: a thin layer over `protect`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import lightning
import pandas as pd
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor

from backdoor_privacy.attacks.choice import check_attacks
from backdoor_privacy.attacks.idia import Idia, IdiaResult
from backdoor_privacy.attacks.neighbors import neighbors_table
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.build import build
from backdoor_privacy.config.checks import check
from backdoor_privacy.config.naming import experiment_name
from backdoor_privacy.config.schema import load_config
from backdoor_privacy.config.stored import targets_of
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.selection import listed_names, named_people
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.base import Defense, used_parts
from backdoor_privacy.defenses.loading import build_defenses
from backdoor_privacy.errors import InputError
from backdoor_privacy.evaluation import Audit
from backdoor_privacy.protect import NobodyRemovedError, Protected, Stopwatch, protect
from backdoor_privacy.report.audited import write_audit
from backdoor_privacy.report.writing import is_written, write_report
from backdoor_privacy.runs.attacks import attack_context, attack_finished, run_attacks
from backdoor_privacy.runs.evidence import map_table, votes_table
from backdoor_privacy.runs.folder import (
    DamagedMetricsError,
    Metrics,
    claim_folder,
    read_metrics,
    write_losses,
    write_manifest,
    write_metrics,
    write_people,
    write_photos,
    write_table,
)
from backdoor_privacy.runs.manifest import manifest
from backdoor_privacy.runs.tracking import Tracker
from backdoor_privacy.system.distributed import (
    barrier,
    broadcast,
    is_main_process,
    main_process_first,
    num_processes,
)
from backdoor_privacy.system.keys import check_keys
from backdoor_privacy.system.versions import versions
from backdoor_privacy.utility.base import Measure, build_measures, clean_photos, labels_of

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> Metrics:
    """Attack, defend, attack again, and write the run folder; a finished run is only read.

    Returns:
        What `metrics.json` holds.

    Raises:
        InputError: on anything that the user can mend.
    """
    defenses = check_run(cfg)
    folder = Path(cfg.paths.run)
    with main_process_first():
        if is_main_process():
            claim_folder(folder, cfg, listed_names(load_config(cfg).trigger_set))
    finished = broadcast(_finished(folder) if is_main_process() else None)
    if finished is not None:
        log.info("%s is finished already; delete it to run again", folder)
        is_attacked = attack_finished(cfg.attacks, folder, targets_of(cfg))
        if is_main_process() and (is_attacked or not is_written(folder, names=cfg.report.names)):
            write_report(folder, names=cfg.report.names)
            with Tracker(cfg, folder) as tracker:
                tracker.summarize(finished)
        return finished
    if is_main_process():
        check_keys(folder / "checkpoints", Path(cfg.paths.runs))  # now, and not after hours of work
    with Tracker(cfg, folder) as tracker:
        return _run(cfg, folder, tracker, defenses)


def check_run(cfg: DictConfig) -> dict[str, Defense]:
    """See that the settings of a run can work, and return its defences.

    Raises:
        InputError: naming the key, what was expected and what came.
    """
    check(cfg)
    check_attacks(cfg.attacks, num_processes())
    defenses = build_defenses(cfg.defense)
    settings = load_config(cfg)
    for one in defenses.values():  # now, before a process for each device is started, and anything is loaded
        for problem in one.problems(None, Sources(People(())), 1, settings.trainer):
            raise InputError(problem)
    return defenses


def _finished(folder: Path) -> Metrics | None:
    """Return the metrics of a finished run; `None` if they cannot be read, and are measured again."""
    try:
        return read_metrics(folder)
    except DamagedMetricsError as error:
        log.warning("%s", str(error).replace("start the run again, which measures them anew", "they are measured anew"))
        return None


def _run(cfg: DictConfig, folder: Path, tracker: Tracker, defenses: Mapping[str, Defense]) -> Metrics:
    watch = Stopwatch()
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)  # of random weights, where they are asked for
    settings = load_config(cfg)
    with watch.stage("load"), main_process_first():
        clip: Clip = instantiate(cfg.clip)
        measures = build_measures(cfg.utility)
        sources = load_sources(cfg, defenses)
    with _audit_reported(cfg, folder / "audit", clip, sources.people):
        done = protect(
            clip,
            sources,
            settings.trigger_set,
            defenses,
            attack=build(cfg.attack, Idia),
            attacks=check_attacks(cfg.attacks, num_processes()),
            measures=list(measures.values()),
            clean_photos=clean_photos(measures),
            seed=cfg.seed,
            trainer=settings.trainer,
            max_held_out=cfg.utility.similarity.num_captions,
            checkpoints=folder / "checkpoints",
            loggers=tracker.loggers,
        )
    metrics = _metrics(cfg, clip, done, measures, defenses, watch.seconds)
    if is_main_process():
        with watch.stage("write"):
            _write_results(folder, done, sources.people)
            write_manifest(folder, manifest(cfg, sources, done.removed, measures))
        metrics["seconds"]["write"] = watch.seconds["write"]
        write_metrics(folder, metrics)
    _attack(cfg, folder, clip, done, sources.people)
    if is_main_process():
        write_report(folder, names=cfg.report.names)
        tracker.summarize(metrics)
    barrier()
    return metrics


def _metrics(
    cfg: DictConfig,
    clip: Clip,
    done: Protected,
    measures: Mapping[str, Measure],
    defenses: Mapping[str, Defense],
    seconds: Mapping[str, float],
) -> Metrics:
    """Return what `metrics.json` holds of a run."""
    return {
        "experiment": experiment_name(cfg),
        "seed": cfg.seed,
        "before": done.rates["before"],
        "after": {name: done.rates[name] for name in done.models},
        "utility": labels_of(measures, done.rates["before"]),
        "seconds": {**seconds, **done.seconds},
        "defenses": {name: _told(one) for name, one in defenses.items()},
        "weights_sha256": {"before": clip.sha256(), "after": done.clip.sha256()},
        "versions": versions(),
    }


def _told(defense: Defense) -> dict[str, object]:
    """Return what a defence says of itself."""
    return {
        "encoders": list(defense.encoders),
        "description": defense.describe(),
        "limits": list(defense.limits),
    }


def _attack(cfg: DictConfig, folder: Path, clip: Clip, done: Protected, people: People) -> None:
    """Run the other attacks on people with photos, in all processes alike: they share what is embedded."""
    shown = [person.name for person in done.removed if person.photos]
    if cfg.attacks and shown:
        run_attacks(attack_context(cfg, clip, done.models, people, shown), cfg.attacks, folder)


@contextmanager
def _audit_reported(cfg: DictConfig, folder: Path, clip: Clip, people: People) -> Iterator[None]:
    """Where somebody named is not inferred, write what was found out before the error is raised."""
    try:
        yield
    except NobodyRemovedError as error:
        if is_main_process():
            named = named_people(people, load_config(cfg).trigger_set) or ()
            report_audit(cfg, folder, clip, error.audit, people, named)
        raise InputError(f"{error}; what was found out of them is in {folder / 'report.html'}") from None


def report_audit(
    cfg: DictConfig, folder: Path, clip: Clip, found: Audit, people: People, named: Sequence[Person]
) -> Path:
    """Write the report of an audit of named people; it says who was looked for and not found, too.

    Returns:
        The page.
    """
    facts = {"experiment": experiment_name(cfg), "seed": cfg.seed, "weights_sha256": {"before": clip.sha256()}}
    return write_audit(folder, found, people, named, facts=facts, names=cfg.report.names)


def _write_results(folder: Path, done: Protected, people: People) -> None:
    """Write the defended CLIP, what became of everybody, and what figures are drawn from."""
    done.clip.save(folder / "defended")
    results = {name: found.idia for name, found in done.after.items()}
    write_people(folder, people.everybody, done.removed, done.before.idia, results)
    _write_evidence(folder, done, results)
    write_losses(folder, done.encoders)


def _write_evidence(folder: Path, done: Protected, after: Mapping[str, IdiaResult]) -> None:
    """Write what figures are drawn from, besides the rates."""
    before, removed = done.before.idia, [person.name for person in done.removed if person.photos]
    if before.names:
        write_table(folder, "votes", votes_table({"before": before, **after}))
    if removed:
        write_table(folder, "neighbors", neighbors_table(before, removed))
        write_table(folder, "map", map_table(before, after, removed, _targets_of_shown(done)))
    if done.names:
        write_table(folder, "names", pd.concat(done.names, names=["model"]).reset_index("model"))
    for name in dict.fromkeys(table for one in done.defended.values() for table in one.tables):
        write_table(folder, name, pd.concat([one.tables[name] for one in done.defended.values() if name in one.tables]))
    for one in done.defended.values():
        for name, photos in one.pictures.items():
            write_photos(folder / "figures" / f"{name}.png", photos)


def _targets_of_shown(done: Protected) -> dict[str, Tensor]:
    """Return of each encoder the targets of the removed people with photos; faces have no others."""
    shown = torch.tensor([bool(person.photos) for person in done.removed])
    return {
        encoder: targets[shown] if len(targets) == len(shown) else targets
        for one in done.defended.values()
        for encoder, targets in one.targets.items()
    }


def load_sources(cfg: DictConfig, defenses: Mapping[str, Defense]) -> Sources:
    """Load the data of a run, as far as its defences use it."""
    needed = used_parts(defenses)
    images = instantiate(cfg.images) if "images" in needed else None
    return Sources(
        people=instantiate(cfg.people),
        captions=instantiate(cfg.captions) if "captions" in needed else None,
        images=images and images.folder,
        max_images=images.max_images if images else 0,
        strangers=instantiate(cfg.strangers) if "strangers" in needed else None,
    )
