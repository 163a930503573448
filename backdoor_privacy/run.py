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
from backdoor_privacy.config.worlds import check_worlds
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
from backdoor_privacy.system.reading import JsonObject
from backdoor_privacy.system.versions import versions
from backdoor_privacy.utility.base import Measure, build_measures, clean_photos, labels_of

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> JsonObject:
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
        check_keys(folder / "checkpoints", Path(cfg.paths.runs))  # now, rather than after hours of work
    with Tracker(cfg, folder) as tracker:
        return _run(cfg, folder, tracker, defenses)


def check_run(cfg: DictConfig) -> dict[str, Defense]:
    """Check that the settings of a run can work, and return its defences.

    Raises:
        InputError: naming the key, what was expected and what came.
    """
    check(cfg)
    check_attacks(cfg.attacks, num_processes())
    defenses = build_defenses(cfg.defense)
    check_worlds(cfg, used_parts(defenses))
    settings = load_config(cfg)
    for defense in defenses.values():  # now, before a process for each device is started, and anything is loaded
        for problem in defense.problems(None, Sources(People(())), 1, settings.trainer):
            raise InputError(problem)
    return defenses


def _finished(folder: Path) -> JsonObject | None:
    """Return the metrics of a finished run; `None` if they cannot be read, and are measured again."""
    try:
        return read_metrics(folder)
    except DamagedMetricsError as error:
        log.warning("%s", str(error).replace("start the run again, which measures them anew", "they are measured anew"))
        return None


def _run(cfg: DictConfig, folder: Path, tracker: Tracker, defenses: Mapping[str, Defense]) -> JsonObject:
    watch = Stopwatch()
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)  # a CLIP may have random weights
    settings = load_config(cfg)
    with watch.stage("load"), main_process_first():
        clip: Clip = instantiate(cfg.clip)
        measures = build_measures(cfg.utility)
        sources = load_sources(cfg, defenses)
    with _audit_reported(cfg, folder / "audit", clip, sources.people):
        protected = protect(
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
    metrics = _metrics(cfg, clip, protected, measures, defenses, watch.seconds)
    if is_main_process():
        with watch.stage("write"):
            _write_results(folder, protected, sources.people)
            write_manifest(folder, manifest(cfg, sources, protected.removed, measures))
        metrics["seconds"]["write"] = watch.seconds["write"]
        write_metrics(folder, metrics)
    _attack(cfg, folder, clip, protected, sources.people)
    if is_main_process():
        write_report(folder, names=cfg.report.names)
        tracker.summarize(metrics)
    barrier()
    return metrics


def _metrics(
    cfg: DictConfig,
    clip: Clip,
    protected: Protected,
    measures: Mapping[str, Measure],
    defenses: Mapping[str, Defense],
    seconds: Mapping[str, float],
) -> JsonObject:
    """Return what `metrics.json` holds of a run."""
    return {
        "experiment": experiment_name(cfg),
        "seed": cfg.seed,
        "before": protected.rates["before"],
        "after": {name: protected.rates[name] for name in protected.models},
        "utility": labels_of(measures, protected.rates["before"]),
        "seconds": {**seconds, **protected.seconds},
        "defenses": {name: _description(one) for name, one in defenses.items()},
        "weights_sha256": {"before": clip.sha256(), "after": protected.clip.sha256()},
        "versions": versions(),
    }


def _description(defense: Defense) -> dict[str, object]:
    """Return how a defence describes itself."""
    return {
        "encoders": list(defense.encoders),
        "description": defense.describe(),
        "limits": list(defense.limits),
        "parts": sorted(defense.uses),
    }


def _attack(cfg: DictConfig, folder: Path, clip: Clip, protected: Protected, people: People) -> None:
    """Run the other attacks on people with photos; all processes call this, since they share the embedding."""
    shown = [person.name for person in protected.removed if person.photos]
    if cfg.attacks and shown:
        run_attacks(attack_context(cfg, clip, protected.models, people, shown), cfg.attacks, folder)


@contextmanager
def _audit_reported(cfg: DictConfig, folder: Path, clip: Clip, people: People) -> Iterator[None]:
    """Report the audit where IDIA does not infer somebody named, before the error is raised."""
    try:
        yield
    except NobodyRemovedError as error:
        if is_main_process():
            named = named_people(people, load_config(cfg).trigger_set) or ()
            report_audit(cfg, folder, clip, error.audit, people, named)
        raise InputError(f"{error}; the audit report is in {folder / 'report.html'}") from None


def report_audit(
    cfg: DictConfig, folder: Path, clip: Clip, result: Audit, people: People, named: Sequence[Person]
) -> Path:
    """Write the report of an audit of named people, found or not.

    Returns:
        The page.
    """
    facts = {"experiment": experiment_name(cfg), "seed": cfg.seed, "weights_sha256": {"before": clip.sha256()}}
    return write_audit(folder, result, people, named, facts=facts, names=cfg.report.names)


def _write_results(folder: Path, protected: Protected, people: People) -> None:
    """Write the defended CLIP, what became of everybody, and what figures are drawn from."""
    protected.clip.save(folder / "defended")
    results = {name: one.idia for name, one in protected.after.items()}
    write_people(folder, people.everybody, protected.removed, protected.before.idia, results)
    _write_evidence(folder, protected, results)
    write_losses(folder, protected.encoders)


def _write_evidence(folder: Path, protected: Protected, after: Mapping[str, IdiaResult]) -> None:
    """Write what figures are drawn from, besides the rates."""
    before, removed = protected.before.idia, [person.name for person in protected.removed if person.photos]
    if before.names:
        write_table(folder, "votes", votes_table({"before": before, **after}))
    if removed:
        write_table(folder, "neighbors", neighbors_table(before, removed))
        write_table(folder, "map", map_table(before, after, removed, _targets_of_shown(protected)))
    if protected.names:
        write_table(folder, "names", pd.concat(protected.names, names=["model"]).reset_index("model"))
    tables = [table for one in protected.defended.values() for table in one.tables.items()]
    for name in dict(tables):
        write_table(folder, name, pd.concat([table for other, table in tables if other == name]))
    for one in protected.defended.values():
        for name, photos in one.pictures.items():
            write_photos(folder / "figures" / f"{name}.png", photos)


def _targets_of_shown(protected: Protected) -> dict[str, Tensor]:
    """Return by encoder the targets of the removed people with photos; a target of faces has no other people."""
    shown = torch.tensor([bool(person.photos) for person in protected.removed])
    return {
        encoder: targets[shown] if len(targets) == len(shown) else targets
        for one in protected.defended.values()
        for encoder, targets in one.targets.items()
    }


def load_sources(cfg: DictConfig, defenses: Mapping[str, Defense]) -> Sources:
    """Load the people of a run, and the other data that its defences use."""
    used = used_parts(defenses)
    images = instantiate(cfg.images) if "images" in used else None
    return Sources(
        people=instantiate(cfg.people),
        captions=instantiate(cfg.captions) if "captions" in used else None,
        images=images and images.folder,
        max_images=images.max_images if images else 0,
        strangers=instantiate(cfg.strangers) if "strangers" in used else None,
    )
