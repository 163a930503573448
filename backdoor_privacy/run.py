"""One run, from a config to a run folder; reads top to bottom."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
from hydra.utils import instantiate
from omegaconf import DictConfig

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.audit import audit, idia_rates
from backdoor_privacy.checks import check
from backdoor_privacy.clip import Clip, write_local_dir
from backdoor_privacy.data.people import People
from backdoor_privacy.fitting import Fitted, fit_image, fit_text
from backdoor_privacy.report import write_report
from backdoor_privacy.results import claim_folder, read_metrics, versions, write_losses, write_metrics, write_people
from backdoor_privacy.tracking import Tracker
from backdoor_privacy.triggers.selection import named_people, select_people
from backdoor_privacy.utility.similarity import lowest
from backdoor_privacy.utility.zero_shot import ZeroShot

log = logging.getLogger(__name__)


def run(cfg: DictConfig) -> dict[str, Any]:
    """Attack, defend, attack again, and write the run folder; a finished run is only read.

    Returns:
        What `metrics.json` holds.

    Raises:
        InputError: on anything that the user can mend.
    """
    check(cfg)
    folder = Path(cfg.paths.run)
    claim_folder(folder, cfg, named_people(cfg.trigger_set.people, cfg.trigger_set.file))
    finished = read_metrics(folder)
    if finished is not None:
        log.info("%s is finished already; delete it to run again", folder)
        if not (folder / "report.html").is_file():
            write_report(folder)
        return finished
    with Tracker(cfg, folder) as tracker:
        return _run(cfg, folder, tracker)


def _run(cfg: DictConfig, folder: Path, tracker: Tracker) -> dict[str, Any]:
    lightning.seed_everything(cfg.seed, workers=True, verbose=False)
    watch = Stopwatch()
    with watch.stage("load"):
        clip: Clip = instantiate(cfg.clip)
        people: People = instantiate(cfg.people)
        attack: Idia = instantiate(cfg.attack)
        zero_shot: ZeroShot = instantiate(cfg.utility.zero_shot)
        people.pick(named_people(cfg.trigger_set.people, cfg.trigger_set.file) or ())  # a misspelt name ends it here
    with watch.stage("audit_before"):
        before = audit(clip, people, attack, zero_shot)
    inferred = {name for name, found in before.idia.inferred.items() if found}
    removed = select_people(people, **cfg.trigger_set, seed=cfg.seed, inferred=inferred)

    kept = [person for person in people.everybody if person.name in inferred and person not in removed]
    reserved = set(attack.candidates(people.names))
    fitted: dict[str, Fitted] = {}
    if cfg.defense.text is not None:
        with watch.stage("defend_text"):
            fitted["text"] = fit_text(cfg, clip, people, removed, reserved, tracker.loggers("text"))
    if cfg.defense.image is not None:
        with watch.stage("defend_image"):
            text: Any = fitted["text"].student if "text" in fitted else None
            loggers = tracker.loggers("image")
            fitted["image"] = fit_image(cfg, clip, people, removed, reserved, loggers, text, kept)

    students: dict[str, Any] = {encoder: one.student for encoder, one in fitted.items()}
    models = {encoder: clip.with_encoders(**{encoder: student}) for encoder, student in students.items()}
    if len(models) > 1:
        models["both"] = clip.with_encoders(**students)
    after = {}
    for name, model in models.items():
        with watch.stage(f"audit_{name}"):
            after[name] = audit(model, people, attack, zero_shot)

    def flat(name: str, model: Clip) -> dict[str, float]:
        found = before if name == "before" else after[name]
        parts = fitted.values() if name in ("before", "both") else [fitted[name]]
        rates = idia_rates(
            before.idia.inferred,
            found.idia.inferred,
            {person.name for person in removed},
            {person.name: person.member for person in people.everybody},
        )
        return rates | found.utility | lowest([part.similarity.measure(model, clip) for part in parts])

    with watch.stage("write"):
        metrics = {
            "experiment": cfg.name,
            "seed": cfg.seed,
            "before": flat("before", clip),
            "after": {name: flat(name, model) for name, model in models.items()},
        }
        defended = list(models.values())[-1]
        write_local_dir(folder / "defended", defended.to_open_clip(), defended.config)
        results = {name: found.idia for name, found in after.items()}
        write_people(folder, people.everybody, {person.name for person in removed}, before.idia, results)
        write_losses(folder, list(fitted))
    metrics |= {
        "seconds": watch.seconds,
        "weights_sha256": {"before": clip.sha256(), "after": defended.sha256()},
        "versions": versions(),
    }
    write_metrics(folder, metrics)
    write_report(folder)
    tracker.summarize(metrics)
    return metrics


class Stopwatch:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time one stage."""
        log.info("%s", name.replace("_", " ").capitalize())
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 2)
