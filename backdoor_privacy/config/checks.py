"""Check settings beyond their schemas, before anything is computed."""

import os
from collections.abc import Iterable, Iterator
from math import inf
from pathlib import Path
from sys import float_info

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError

from backdoor_privacy.config.build import Range
from backdoor_privacy.config.earlier import check_spelling
from backdoor_privacy.config.schema import Config
from backdoor_privacy.errors import InputError

_MAX_SEED = 2**32 - 1  # the largest that NumPy takes
_MAX_FINITE = float_info.max
_MAX_TAG, _MAX_PROJECT = 64, 128  # characters that W&B takes
_ACCELERATORS = ("auto", "cpu", "gpu", "cuda", "mps")
# Lightning's precisions whose weights stay fp32, with their aliases.
_PRECISIONS = ("auto", "32-true", "bf16-mixed", "16-mixed", "32", "bf16", "16")


def check(cfg: DictConfig) -> None:
    """Check the config of a run.

    Raises:
        InputError: with the key, what was expected and what came.
    """
    _check_groups(cfg)
    _check_keys(cfg)
    _check_missing(cfg)
    _check_names(cfg)
    check_spelling(cfg.defense)
    _check_ranges(cfg, _ranges(cfg))
    _check_trainer(cfg.trainer)
    _check_logger(cfg.logger)
    _check_cache(cfg)
    _check_devices(cfg.trainer.devices)


def check_pretrain(cfg: DictConfig) -> None:
    """Check the config of `pretrain`.

    Raises:
        InputError: with the key, what was expected and what came.
    """
    _check_missing(cfg)
    if cfg.exclude.people is not None and cfg.exclude.run is not None:
        raise InputError("exclude: expected either people or run, got both")
    at_least_one = ("batch_size", "num_steps", "checkpoint_every_steps")
    ranges = [("seed", 0, _MAX_SEED), ("num_workers", 0, inf), ("lr", 0, _MAX_FINITE)]
    ranges.append(("weight_decay", 0, _MAX_FINITE))
    _check_ranges(cfg, [*ranges, *((key, 1, inf) for key in at_least_one)])
    _check_trainer(cfg.trainer)


def _check_missing(cfg: DictConfig) -> None:
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        first = min(missing)
        raise InputError(
            f"config: expected a value for {', '.join(sorted(missing))}, got ???; give it, as {first}=<value>"
        )


def _check_names(cfg: DictConfig) -> None:
    """Refuse empty names of folders: they would mean the current folder."""
    for key in ("name", "paths.run", "paths.runs", "paths.cache"):
        value = OmegaConf.select(cfg, key)
        if isinstance(value, str) and not value.strip():
            raise InputError(f"{key}: expected a name, got nothing; leave {key}= out for the default")


def _check_ranges(cfg: DictConfig, ranges: Iterable[tuple[str, float, float]]) -> None:
    for key, lowest, highest in ranges:
        value = OmegaConf.select(cfg, key)
        if value is not None:
            Range(lowest, highest).check(value, key)


def _check_trainer(trainer: DictConfig) -> None:
    """Check what Lightning's Trainer would refuse only after the first audit."""
    for key, known in (("precision", _PRECISIONS), ("accelerator", _ACCELERATORS)):
        value = trainer.get(key)
        if value is not None and str(value) not in known:
            raise InputError(f"trainer.{key}: expected one of {', '.join(known)}, got {value}")
    num_devices, num_gpus = trainer.get("devices", 1), torch.cuda.device_count()
    has_gpu = num_gpus > 0 or (trainer.get("accelerator") != "cuda" and torch.backends.mps.is_available())
    needs_gpu = trainer.get("accelerator") in ("gpu", "cuda")
    if needs_gpu and not has_gpu:
        raise InputError(
            f"trainer.accelerator={trainer.accelerator}: expected a GPU that PyTorch sees, found none; choose "
            "trainer.accelerator=auto or cpu"
        )
    if needs_gpu and num_gpus and isinstance(num_devices, int) and num_devices > num_gpus:
        raise InputError(f"trainer.devices: expected at most {num_gpus}, as many as there are GPUs, got {num_devices}")


def _check_logger(logger: DictConfig) -> None:
    """Check what W&B would refuse."""
    if not logger.wandb:
        return
    if logger.mode not in ("offline", "online"):
        raise InputError(f"logger.mode: expected offline or online, got {logger.mode}")
    if not 1 <= len(logger.project) <= _MAX_PROJECT or set(logger.project) & set("/\\#?%:"):
        raise InputError(
            f"logger.project: expected 1 to {_MAX_PROJECT} characters and none of / \\ # ? % :, got {logger.project!r}"
        )
    wrong = [tag for tag in logger.tags if not 1 <= len(tag) <= _MAX_TAG]
    if wrong:
        raise InputError(f"logger.tags: expected tags of 1 to {_MAX_TAG} characters, got {wrong[0]!r}")


def _check_cache(cfg: DictConfig) -> None:
    """Check that the cache can be used."""
    place = Path(cfg.paths.cache).expanduser()
    try:
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"paths.cache: expected a folder that is there or can be made, got {place} ({error.strerror}); choose "
            "another paths.cache=... or BACKDOOR_PRIVACY_CACHE"
        ) from error
    if not os.access(place, os.W_OK) and cfg.clip.store is not None:
        raise InputError(
            f"paths.cache: expected a folder that can be written, got {place}; choose another paths.cache=..., or "
            "clip.store=null where all else is in it already"
        )


def _check_devices(num_devices: int) -> None:
    """Check the number of devices; it must be 1 in a sweep, whose jobs Hydra runs in one process."""
    if num_devices < 1 and num_devices != -1:
        raise InputError(f"trainer.devices: expected 1 or more, or -1 for all GPUs, got {num_devices}")
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    if num_devices != 1 and in_sweep:
        raise InputError(
            f"trainer.devices: expected 1 for each job of a sweep, since processes of a job would start the sweep "
            f"again; got {num_devices}; run it without --multirun, or one job per device"
        )


def _check_groups(cfg: DictConfig, prefix: str = "") -> None:
    """Refuse references in place of groups of settings, as `defense.text=${seed}`."""
    for key in map(str, cfg):
        node = cfg._get_node(key)
        if not isinstance(node, DictConfig) or node._is_none() or node._is_missing():
            continue
        if node._is_interpolation():
            raise InputError(
                f"{prefix}{key}: expected settings of several keys, got {node._value()}; change one of them, as "
                f"{prefix}{key}.<key>=<value>"
            )
        _check_groups(node, f"{prefix}{key}.")


def _check_keys(cfg: DictConfig) -> None:
    """Refuse keys that the schema does not have, as in `+seeed=1`."""
    try:
        OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(cfg))
    except ConfigKeyError as error:
        raise InputError(
            f"config: expected only keys of the schema, got {error.full_key}; correct or leave it out"
        ) from error


def _ranges(cfg: DictConfig) -> Iterator[tuple[str, float, float]]:
    """Yield keys with their lowest and highest possible value."""
    yield from (("seed", 0, _MAX_SEED), ("attack.seed", 0, _MAX_SEED))
    yield from (("clip.num_workers", 0, inf), ("trainer.num_workers", 0, inf))
    at_least_one = (
        "attack.num_photos",
        "attack.threshold",
        "trainer.checkpoint_every_steps",
        "trainer.accumulate_grad_batches",
        "images.max_images",
        "captions.max_captions",
        "utility.similarity.num_captions",
    )
    yield from ((key, 1, inf) for key in at_least_one)
