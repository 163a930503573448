"""Run a Hydra command; an error in its input ends it with one line."""

import difflib
import json
import os
import re
import sys
import traceback
from collections.abc import Callable

import hydra
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException, InstantiationException, MissingConfigException, OverrideParseException
from omegaconf import Container, DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException, ValidationError

import backdoor_privacy.config.compose  # noqa: F401  registers the schemas
from backdoor_privacy.config.build import first_line
from backdoor_privacy.config.earlier import what_became_of
from backdoor_privacy.config.identity import flattened
from backdoor_privacy.errors import fault_of, line_of, traceback_of
from backdoor_privacy.system.output import make_output_last
from backdoor_privacy.system.paths import CONFIG_FOLDER
from backdoor_privacy.system.signals import Stopped, stopping_in_order
from backdoor_privacy.system.visible import visible

_EXTRAS = {"joblib": "joblib", "ray": "ray", "ray_aws": "ray", "submitit_slurm": "slurm", "submitit_local": "slurm"}
_NAMES = "trigger_set.people"


def run_command(task: Callable[[DictConfig], None], config_name: str) -> None:
    """Compose the config of the command line and pass it to a task; every error ends in one line and exit code 1.

    Ctrl-C and SIGTERM end it with exit code 130 and 143, and one line that says how to resume.

    Args:
        task: of the command; `one_line_errors` reports the errors within it.
        config_name: a file of `conf`.
    """
    make_output_last()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # else Hydra prints an error in its own words and exits
    try:
        with stopping_in_order():
            hydra.main(config_path=str(CONFIG_FOLDER), config_name=config_name, version_base="1.3")(task)()
        return
    except Stopped as stop:
        if not stop.is_reported:
            print(stop.line, file=sys.stderr)
        sys.exit(stop.exit_code)
    except SystemExit as end:
        if end.code != 2:  # of argparse, which has already reported the error
            sys.exit(end.code)
        line = (
            "command line: expected settings as key=value side by side, and options of Hydra as --multirun before or "
            "after all of them, got what is named above; see --help"
        )
    except Exception as error:
        line = line_of_hydra(error) or line_of(error) or ""
        if not line:  # a bug
            print(traceback_of(error), file=sys.stderr)
            line = fault_of(error)
    print(visible(line), file=sys.stderr)
    sys.exit(1)


def line_of_hydra(error: Exception) -> str | None:
    """Return one line for an error of Hydra or OmegaConf; `None` for other errors."""
    if isinstance(error, RuntimeError) and "srun" in str(error):  # of submitit
        return (
            "hydra/launcher=submitit_slurm: expected Slurm on this machine, found no srun; start it on a login node of "
            "the cluster, or choose hydra/launcher=submitit_local, joblib or basic"
        )
    if isinstance(error, OverrideParseException):
        return _unparsed(error.override)
    if isinstance(error, MissingConfigException):
        return _no_option(error)
    inner = error.__cause__ if isinstance(error.__cause__, OmegaConfBaseException) else error
    if line_of(inner) is not None or isinstance(error, InstantiationException):
        return None
    if isinstance(inner, ConfigKeyError | ConfigAttributeError):
        return _no_key(inner)
    if isinstance(inner, ValidationError):
        return _wrong_value(inner)
    if isinstance(inner, OmegaConfBaseException):
        return f"{_key_of(inner)}: expected a value that can be resolved, got: {first_line(inner)}"
    if isinstance(error, HydraException):
        return _as_said(error)
    return _of_libraries(error)


def _unparsed(override: str) -> str:
    key, _, value = override.partition("=")
    if "trigger_set" in key:
        listed = re.search(r"\[(.*)\]", value, re.DOTALL)
        names = [name.strip(" \"'") for name in listed[1].split(",")] if listed else ["Jane Doe"]
        advice = f"write {_quoted(names)}, each name in quotes within the brackets, or a file with a name a line: "
        advice += "trigger_set.file=names.txt"
    elif not value:
        advice = "--help shows examples"
    else:
        advice = (
            f"quote the value within the shell's quotes: {_shell(f'{key}={json.dumps(value, ensure_ascii=False)}')}"
        )
    return f"command line: expected key=value in Hydra's syntax, got {_joined(override)}; {advice}"


def _quoted(names: list[str]) -> str:
    return _shell(f"{_NAMES}=[{','.join(json.dumps(name, ensure_ascii=False) for name in names)}]")


def _shell(text: str) -> str:
    """Return a text in single quotes for a shell."""
    return "'" + text.replace("'", "'\\''") + "'"


def _no_option(error: MissingConfigException) -> str:
    group, _, option = str(error.missing_cfg_file or "").removesuffix(".yaml").rpartition("/")
    if not group or not error.options:
        return _as_said(error)
    extra = _EXTRAS.get(option) if group == "hydra/launcher" else None
    advice = f"pip install 'backdoor_privacy[{extra}]'" if extra else "choose one of these"
    return f"{group}: expected one of {', '.join(error.options)}, got {option}; {advice}"


def _no_key(error: OmegaConfBaseException) -> str:
    replacement = what_became_of(str(error.full_key))
    if replacement is not None:
        return replacement
    known = [str(key) for key in error.parent_node] if isinstance(error.parent_node, DictConfig) else []
    near = difflib.get_close_matches(str(error.key), known, 1)
    advice = f"did you mean {near[0]}?" if near else "--cfg job shows all keys"
    listed = f" ({', '.join(known)})" if known else ""
    return f"{_key_of(error)}: expected an existing key{listed}, got {error.key}; {advice}"


def _wrong_value(error: OmegaConfBaseException) -> str:
    is_names = str(error.full_key) == _NAMES
    advice = f"write {_quoted(['Jane Doe'])}" if is_names else "--cfg job shows the usual values"
    return f"{_key_of(error)}: expected a value of the right type, got: {first_line(error)}; {advice}"


def _key_of(error: OmegaConfBaseException) -> str:
    """Return the key of an error; if it is the run folder, whose name depends on all keys, the key that caused it."""
    key = str(error.full_key or (_setting_of(error) or "config").partition("=")[0])
    return (_unresolved_in(error.parent_node) or key) if key in ("hydra.run.dir", "paths.run", "config") else key


def _unresolved_in(node: object) -> str | None:
    """Return the first key of a whole config that cannot be resolved by itself."""
    root = node._get_root() if isinstance(node, Container) else OmegaConf.create()
    for key in flattened(OmegaConf.to_container(root, resolve=False)):
        if not key.startswith(("hydra.", "paths.run")):
            try:
                OmegaConf.select(root, key)
            except OmegaConfBaseException:
                return key
    return None


def _setting_of(error: Exception) -> str | None:
    """Return the setting of the command line at which Hydra failed, if there is one."""
    values = (frame.f_locals.get("override") for frame, _ in traceback.walk_tb(error.__traceback__))
    overrides = (value for value in values if isinstance(value, Override))
    return next((override.input_line for override in overrides if override.input_line), None)


def _of_libraries(error: Exception) -> str | None:
    """Return one line for an error in Hydra, OmegaConf or a launcher, as one about the number of jobs."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames or not re.search(r"[/\\](hydra|hydra_plugins|omegaconf|submitit|joblib)[/\\]", frames[-1].filename):
        return None
    setting = _setting_of(error)
    place = f"{_joined(setting)}: " if setting else ""
    return f"command line: expected settings that Hydra and its launcher take, got: {place}{_joined(str(error))}"


def _as_said(error: Exception) -> str:
    return f"command line: expected existing settings that fit together, got: {_joined(str(error))}"


def _joined(text: str) -> str:
    return " ".join(text.split())
