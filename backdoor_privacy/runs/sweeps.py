"""Sweeps: the runs that a sweep consists of, which of them are finished, and its progress."""

import copy
import itertools
import json
import math
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

import backdoor_privacy.config.compose  # noqa: F401  registers the schemas
from backdoor_privacy.config.attacks import attacks_of
from backdoor_privacy.config.identity import identifying, named_in, run_key
from backdoor_privacy.config.naming import told_override
from backdoor_privacy.config.stored import read_stored, read_yaml
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.files import close_to_others, private_file, private_folder
from backdoor_privacy.system.paths import CONFIG_FOLDER

_MAX_JOBS = 100_000  # of a sweep: a range may have no end


def jobs(arguments: Sequence[str]) -> list[list[str]]:
    """Return the overrides of every run of a sweep, as Hydra's own sweeper makes them from its arguments."""
    overrides = OverridesParser.create().parse_overrides(list(arguments))
    choices = []
    for override in overrides:
        key = override.get_key_element()
        values = (
            override.sweep_string_iterator() if override.is_sweep_override() else [override.get_value_element_as_str()]
        )
        choices.append([f"{key}={value}" for value in itertools.islice(values, _MAX_JOBS + 1)])
    num_jobs = math.prod(map(len, choices))
    if num_jobs > _MAX_JOBS:
        raise InputError(f"sweep: expected {_MAX_JOBS:,} runs at most, got more; split it")
    return [list(job) for job in itertools.product(*choices)]


def recorded_sweep(name: str) -> list[list[str]]:
    """Return the runs of a sweep of `conf/sweep`."""
    config = OmegaConf.load(CONFIG_FOLDER / "sweep" / f"{name}.yaml")
    return jobs([f"{key}={value}" for key, value in config.hydra.sweeper.params.items()])


@lru_cache(maxsize=4096)
def job_key(job: tuple[str, ...]) -> str:
    """Return the `run_key` of a run of a sweep: that of the config that its overrides compose to."""
    seed = next((one for one in job if re.fullmatch(r"seed=\d+", one)), None)
    cfg = _composed(tuple(one for one in job if one != seed))
    if cfg is None:
        return " ".join(sorted(job))
    if seed is not None:  # composing takes time, and seeds share its result
        cfg = copy.deepcopy(cfg)
        cfg.seed = int(seed.removeprefix("seed="))
    return run_key(cfg)


@lru_cache(maxsize=256)
def _composed(job: tuple[str, ...]) -> DictConfig | None:
    """Return the config of a run; `None` if it does not compose here, as overrides of a user's own config folder."""
    try:
        with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
            return compose("config", overrides=list(job))
    except HydraException:
        return None


def finished_runs(runs: Path) -> dict[str, str]:
    """Return the folder of each finished run, relative to the folder of all runs, by its `run_key`."""
    folders = {}
    for metrics in runs.rglob("metrics.json"):
        folder = metrics.parent / ".hydra"
        if (folder / "config.yaml").is_file():
            try:
                key = run_key(read_stored(folder / "config.yaml"))
            except InputError:  # `collect` says what is wrong with it
                continue
        elif (folder / "overrides.yaml").is_file():
            overrides = read_yaml(folder / "overrides.yaml")
            key = job_key(tuple(map(str, overrides if isinstance(overrides, list) else ())))
        else:
            continue
        folders[key] = str(metrics.parent.relative_to(runs))
    return folders


def whole_run(job: Sequence[str], finished: Mapping[str, str], runs: Path) -> str | None:
    """Return a run's folder, if it is among the finished ones and has the attacks that its overrides ask for."""
    folder = finished.get(job_key(tuple(job)))
    if folder is None or not all((runs / folder / "attacks" / f"{name}.json").is_file() for name in asked_attacks(job)):
        return None
    return folder


def asked_attacks(job: Iterable[str]) -> list[str]:
    """Return the attacks other than IDIA that the overrides of a run choose."""
    overrides = OverridesParser.create().parse_overrides([one for one in job if one.startswith("attack=")])
    values = [one.value() for one in overrides]
    options = [option for value in values for option in (value if isinstance(value, list) else [value])]
    return list(dict.fromkeys(name for option in options for name in attacks_of(str(option))))


def missing_runs(runs: Path) -> dict[str, list[list[str]]]:
    """Return the overrides of the runs that are missing, by sweep.

    The sweeps are those of `conf/sweep` of which this folder has runs, and "the last sweep": the last one into this
    folder, if it consists of other runs.
    """
    finished = finished_runs(runs)
    missing = {}
    for path in sorted((CONFIG_FOLDER / "sweep").glob("*.yaml")):
        sweep = recorded_sweep(path.stem)
        if any(job_key(tuple(job)) in finished for job in sweep if _may_be_among(job, finished)):
            missing[path.stem] = [job for job in sweep if whole_run(job, finished, runs) is None]
    listed = {job_key(tuple(job)) for some in missing.values() for job in some}
    last = [job for job in _last_sweep(runs) if whole_run(job, finished, runs) is None]
    if not {job_key(tuple(job)) for job in last} <= listed:
        missing["the last sweep"] = last
    return {sweep: some for sweep, some in missing.items() if some}


def public_overrides(job: Sequence[str], runs: Path) -> str:
    """Return the overrides of a run in one line, without names of people unless its report may name them."""
    cfg = _composed(tuple(one for one in job if not re.fullmatch(r"seed=\d+", one)))
    if cfg is not None and cfg.report.names:
        return " ".join(job)
    names = _named(job) if cfg is None else named_in(identifying(cfg)) or []
    return " ".join(told_override(one, names, runs) for one in job)


def _named(job: Sequence[str]) -> list[str]:
    """Return the people who are named by overrides that do not compose here."""
    overrides = OverridesParser.create().parse_overrides(list(job))
    values = [one.value() for one in overrides if one.key_or_group == "trigger_set.people"]
    return [str(name) for names in values if isinstance(names, list) for name in names]


def _may_be_among(job: Sequence[str], finished: Mapping[str, str]) -> bool:
    """Return whether a finished run is of this run's experiment, which is a faster test than composing the run."""
    experiment = next((one.partition("=")[2] for one in job if one.startswith("+experiment=")), "")
    return any(json.dumps(experiment) in key for key in finished)


def _last_sweep(runs: Path) -> list[list[str]]:
    """Return the runs of the last sweep into a folder, as Hydra recorded it."""
    path = runs / "multirun.yaml"
    if not path.is_file():
        return []
    try:
        hydra = read_yaml(path)["hydra"]
        params = hydra["sweeper"].get("params") or {}
        return jobs([*(f"{key}={value}" for key, value in params.items()), *hydra["overrides"]["task"]])
    except (AttributeError, LookupError, TypeError, HydraException) as error:
        reason = " ".join(f"{type(error).__name__} {error}".split())[:200]
        raise InputError(f"{path}: expected what Hydra records of a sweep, got {reason}; delete it") from error


def spoken(seconds: float) -> str:
    """Return a time span in words: `40 s`, `12 min`, `3 h 05 min`."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class SweepProgress(Callback):
    """A callback that prints which run of a sweep starts and, after each run, how long the others will take."""

    def __init__(self) -> None:
        self.num_jobs: int | None = None  # only the process that launches them knows it
        self.seconds: list[float] = []  # of the runs that were not finished already
        self.start: float | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: object) -> None:
        """Count the runs, and make Hydra's records of the command private, which may name people."""
        if folder := OmegaConf.select(config, "hydra.sweep.dir"):
            private_file(Path(folder) / "multirun.yaml")
        if folder := OmegaConf.select(config, "hydra.launcher.submitit_folder"):
            private_folder(Path(folder.partition("%")[0]))  # below it is a folder for each job
        params = config.hydra.sweeper.get("params") or {}
        arguments = [f"{key}={value}" for key, value in params.items()]
        self.num_jobs = len(jobs([*arguments, *config.hydra.overrides.task]))

    def on_job_start(self, config: DictConfig, **kwargs: object) -> None:
        """Print the folder of the run that starts, which names nobody; record its start if it is not finished.

        Its log, which is still empty, is made private.
        """
        folder = Path(config.hydra.runtime.output_dir)
        close_to_others(folder / f"{OmegaConf.select(config, 'hydra.job.name')}.log")
        if HydraConfig.get().mode is RunMode.MULTIRUN and not config.get("quiet"):
            of_all = "" if self.num_jobs is None else f" of {self.num_jobs}"
            print(f"Run {config.hydra.job.num + 1}{of_all}: {folder}", flush=True)
        finished = (folder / "metrics.json").is_file()
        self.start = None if finished else time.monotonic()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: object) -> None:
        """Print how far the sweep is."""
        # Hydra shows the overrides of a run that failed, which may name people.
        job_return.overrides = [str(config.hydra.runtime.output_dir)]
        if self.num_jobs is None or config.get("quiet"):
            return
        if self.start is not None:
            self.seconds.append(time.monotonic() - self.start)
        number, left = config.hydra.job.num + 1, ""
        if number < self.num_jobs and self.seconds:
            mean = sum(self.seconds) / len(self.seconds)
            left = f"; about {spoken(mean * (self.num_jobs - number))} left"
        # Printed, not logged: the last line of a run's log says why it failed.
        print(f"Run {number} of {self.num_jobs} has ended{left}", flush=True)
