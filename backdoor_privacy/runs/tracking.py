"""Log losses and results: always to CSV files, and to W&B if asked for."""

import logging
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from backdoor_privacy.config.containers import settings_of
from backdoor_privacy.config.identity import identifying, named_in
from backdoor_privacy.config.naming import experiment_name, holds_name
from backdoor_privacy.errors import InputError
from backdoor_privacy.runs.finished import FIGURES_OF_NOBODY, read_run
from backdoor_privacy.system.distributed import is_main_process
from backdoor_privacy.system.files import private_folder, write_text
from backdoor_privacy.system.reading import JsonObject

if TYPE_CHECKING:  # an extra
    from wandb import Run

# Settings whose texts are files and folders, even if they do not exist; and those with repositories, as `openai/clip`.
_PLACES = {"folder", "file", "table", "boxes", "names_file", "cache", "store", "face_models"}
_REPOSITORIES = {"model", "text_model", "pretrained"}
_ENCODERS = ("text", "image")  # those whose losses a method may log


class Tracker:
    """The loggers of one run; leaving the context finishes the W&B run, which counts as crashed after an error."""

    def __init__(self, cfg: DictConfig, folder: Path) -> None:
        self.cfg, self.folder = cfg, folder
        self.wandb: WandbLogger | None = None

    def __enter__(self) -> "Tracker":
        if self.cfg.logger.wandb and is_main_process():
            private_folder(self.folder / "wandb")  # with all that W&B writes into it
            defenses = [str(name) for name, settings in self.cfg.defense.items() if settings is not None]
            self.wandb = WandbLogger(
                name=f"{experiment_name(self.cfg)}/seed={self.cfg.seed}",
                id=self._id(),
                save_dir=self.folder,
                offline=self.cfg.logger.mode != "online",
                project=self.cfg.logger.project,
                entity=self.cfg.logger.entity,
                group=experiment_name(self.cfg),
                job_type="both" if len(defenses) > 1 else defenses[0],
                tags=self._tags(),
                config=self._config(),
                settings=self._settings(),
                resume="allow",
                log_model=False,
            )
            with nullcontext() if self.cfg.report.names else _logs_without_places(self.folder):
                run = self._started(self.wandb)  # now, so that W&B marks it as crashed after any error
            for encoder in _ENCODERS:  # a method has a name of its own
                # Each fit counts its own steps; the summary of a loss is its lowest and its highest value.
                run.define_metric(f"{encoder}/*", step_metric="trainer/global_step", summary="min,max")
        return self

    def _started(self, logger: WandbLogger) -> "Run":
        import wandb

        try:
            return logger.experiment
        except (wandb.errors.Error, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise InputError(
                f"logger.mode={self.cfg.logger.mode}: expected a run of W&B that can be started, with an account "
                f"(`wandb login`) and a network where it is online, got: {reason}; choose logger.mode=offline, or "
                "logger=csv"
            ) from error

    def _config(self) -> JsonObject:
        """Return the run's config; it has paths and names of people only if the report may name people."""
        config = settings_of(self.cfg, resolve=True)
        named = config["trigger_set"]["people"]
        if not self.cfg.report.names:
            del config["paths"], config["trigger_set"]["file"]
            if named is not None:
                config["trigger_set"]["people"] = f"{len(named)} people"
            for part in ("people", "strangers"):
                if config[part] is not None:
                    config[part].pop("names_file", None)
                    names = config[part].pop("names", None)
                    config[part] |= {} if names is None else {"names": f"{len(names)} people"}
            removed = named_in(identifying(self.cfg)) or ()
            config = {key: _without_places(value, removed, key) for key, value in config.items()}
            config["name"] = experiment_name(self.cfg)
        config["setting"] = self._setting()
        return config

    def _setting(self) -> str:
        """Return what seeds share: experiment and overrides as in the run's folder; nothing of a user's own folder."""
        run, runs = Path(self.cfg.paths.run), Path(self.cfg.paths.runs)
        is_own = OmegaConf.is_interpolation(self.cfg.paths, "run")
        if run.is_relative_to(runs) and (is_own or self.cfg.report.names):
            return str(run.relative_to(runs).parent)
        return experiment_name(self.cfg)

    def _tags(self) -> list[str]:
        names = () if self.cfg.report.names else named_in(identifying(self.cfg)) or ()
        return [tag for tag in self.cfg.logger.tags if not holds_name(tag, names)]

    def _settings(self) -> object:
        """Let W&B record command, terminal, code and machine only if the report may name people."""
        import wandb

        if self.cfg.report.names:
            return wandb.Settings()
        # Its links point to its own folders under the user's home.
        return wandb.Settings(
            x_disable_meta=True, x_disable_machine_info=True, disable_git=True, console="off", symlink=False
        )

    def _id(self) -> str:
        """Return the id of the W&B run; the run folder keeps it, so that a resumed run goes on there."""
        path = self.folder / "checkpoints" / "wandb_id"
        if not path.is_file():
            write_text(path, uuid.uuid4().hex[:12], private=True)
        return path.read_text(encoding="utf-8")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.wandb is not None:
            import wandb

            wandb.finish(exit_code=0 if error is None else 1)

    def loggers(self, encoder: str) -> list[Logger]:
        """Return Lightning's loggers for the fit of one encoder."""
        checkpoints = self.folder / "checkpoints" / encoder
        loggers: list[Logger] = [CSVLogger(checkpoints, name="losses", flush_logs_every_n_steps=1)]
        return loggers if self.wandb is None else [*loggers, self.wandb]

    def summarize(self, metrics: JsonObject) -> None:
        """Log the results as the run's summary, with figures and report; everybody's results if people may be named.

        With an account, the defended CLIP becomes an artifact.
        """
        if self.wandb is None:
            return
        import wandb

        run = self.wandb.experiment
        run.summary.update({f"before/{key}": value for key, value in metrics["before"].items()})
        for model, values in metrics["after"].items():
            run.summary.update({f"after_{model}/{key}": value for key, value in values.items()})
        figures = [path for path in (self.folder / "figures").glob("*.png") if path.stem in FIGURES_OF_NOBODY]
        if self.cfg.report.names:  # numbers and faces identify people as well as names do
            people = read_run(self.folder, names=True).people
            run.log({"people": wandb.Table(dataframe=people.astype({"member": str}))})
            figures = list((self.folder / "figures").glob("*.png"))
        run.log({f"figures/{path.stem}": wandb.Image(_figure(path)) for path in figures})
        run.log({"report": wandb.Html((self.folder / "report.html").read_text(encoding="utf-8"), inject=False)})
        if self.cfg.logger.mode == "online":
            defended = wandb.Artifact(f"defended-{run.id}", type="model", metadata=dict(metrics["weights_sha256"]))
            defended.add_dir(str(self.folder / "defended"))
            run.log_artifact(defended, aliases=["latest", f"seed-{self.cfg.seed}"])


def _figure(path: Path) -> Image.Image:
    """Open a figure as PNG only: to open some other formats, Pillow starts a program."""
    return Image.open(path, formats=["PNG"])


@contextmanager
def _logs_without_places(folder: Path) -> Iterator[None]:
    """Keep W&B from recording where its files lie: in its own log, and by a link to the log in the user's home."""
    log = logging.getLogger("wandb")  # W&B prints what the user must know
    log.addFilter(_nothing)
    try:
        yield
    finally:
        log.removeFilter(_nothing)
        for handler in log.handlers:
            if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).is_relative_to(folder.resolve()):
                handler.addFilter(_nothing)
        for link in folder.glob("wandb/*run-*/logs/*"):
            if link.is_symlink():
                link.unlink()


def _nothing(record: logging.LogRecord) -> bool:
    """Drop every record."""
    return False


def _without_places(content: object, names: Sequence[str], key: str = "") -> object:
    """Return a config with "hidden" in place of each name, and of each folder and file: somebody may be named in it."""
    if isinstance(content, dict):
        return {own: _without_places(value, names, own) for own, value in content.items()}
    if isinstance(content, list):
        return [_without_places(value, names, key) for value in content]
    if not isinstance(content, str):
        return content
    is_place = content.startswith(("/", "~", ".", "local-dir:")) or os.path.exists(content)
    is_place |= key in _PLACES or (os.sep in content and key not in _REPOSITORIES)
    return "hidden" if is_place or holds_name(content, names) else content
