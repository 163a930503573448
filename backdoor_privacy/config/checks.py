"""Find settings that cannot work before anything is computed: what the schemas of `settings.py` cannot say."""

from collections.abc import Iterator
from math import inf

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError

from backdoor_privacy.config.schema import Config
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.distributed import check_parts, num_devices


def check(cfg: DictConfig) -> None:
    """Look a run's config over.

    Raises:
        InputError: naming the key, what was expected and what came.
    """
    _check_keys(cfg)
    missing = OmegaConf.missing_keys(cfg)
    if missing:
        raise InputError(f"config: expected a value for {', '.join(sorted(missing))}, got ???")
    if cfg.defense.text is None and cfg.defense.image is None:
        raise InputError("defense: expected a defence of the text or the image encoder, got none")
    for key, lowest, highest in _ranges(cfg):
        value = OmegaConf.select(cfg, key)
        if value is not None and not lowest <= value <= highest:
            expected = f"{lowest} or more" if highest == inf else f"a number from {lowest} to {highest}"
            raise InputError(f"{key}: expected {expected}, got {value}")
    _check_devices(cfg.trainer.devices)
    for encoder, settings in cfg.defense.items():
        if settings is not None:  # now, before a process per device is started
            parts = num_devices(cfg.trainer.devices) * cfg.trainer.accumulate_grad_batches
            check_parts(encoder, settings.batch, parts)


def _check_devices(num_devices: int) -> None:
    """Find numbers of devices that make no sense, and several in a sweep, whose jobs Hydra starts in one process."""
    if num_devices < 1 and num_devices != -1:
        raise InputError(f"trainer.devices: expected 1 or more, or -1 for all GPUs, got {num_devices}")
    in_sweep = HydraConfig.initialized() and HydraConfig.get().mode is RunMode.MULTIRUN
    if num_devices != 1 and in_sweep:
        raise InputError(
            f"trainer.devices: expected 1 for each job of a sweep, since processes of a job would start the sweep "
            f"again; got {num_devices}; run it without --multirun, or one job per device"
        )


def _check_keys(cfg: DictConfig) -> None:
    """Find keys that were appended past the schema, as `+seeed=1` is."""
    try:
        OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(cfg))
    except ConfigKeyError as error:
        raise InputError(f"config: expected only keys that there are, got {error.full_key}") from error


def _ranges(cfg: DictConfig) -> Iterator[tuple[str, float, float]]:
    """Keys with the lowest and the highest value that makes sense."""
    at_least_one = ["attack.num_photos", "attack.threshold", "trainer.checkpoint_every_steps"]
    at_least_one.append("trainer.accumulate_grad_batches")
    at_least_one += ["images.max_images", "captions.max_captions", "utility.retrieval.max_photos"]
    shares, lengths = [], []
    for encoder, settings in cfg.defense.items():
        if settings is None:
            continue
        keys = ["num_steps", "num_fresh_steps", "trained_blocks", "batch.clean", "batch.triggered"]
        keys += ["budget.every", "budget.patience", "budget.num_batches"]
        if settings.loss_weights.adversarial and encoder == "text":
            keys.append("adversary.num_steps")
        nameless = settings.target.value in ("nameless", "composed", "shared", "blended", "disguised")
        if nameless or (encoder == "text" and settings.batch.preserved):
            keys.append("num_other_names")
        if settings.loss_weights.neighborhood or settings.loss_weights.target_neighborhood:
            keys.append("num_anchors")
        at_least_one += [f"defense.{encoder}.{key}" for key in keys]
        lengths += [
            f"defense.{encoder}.{key}" for key in ("relearning_radius", "optimizer.lr", "optimizer.weight_decay")
        ]
        shares += [f"defense.{encoder}.{key}" for key in settings if key.endswith(("_share", "_nearer_names"))]
    if cfg.defense.text is not None:
        at_least_one.append("utility.similarity.num_captions")
    yield from ((key, 1, inf) for key in at_least_one)
    yield from ((key, 0, 1) for key in shares)
    yield from ((key, 0, inf) for key in lengths)
