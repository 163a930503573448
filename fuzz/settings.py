"""Give valid and odd settings on the command line."""

import json
import random
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.attacks.choice import check_attacks
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.config.build import build
from backdoor_privacy.config.checks import check
from backdoor_privacy.system.paths import CONFIG_FOLDER
from fuzz.cases import UNKNOWN, Case
from fuzz.world import overrides

_ODD = (
    "null", "???", "-1", "0", "1e999", "nan", "-inf", "true", "[]", "{}", "[1,2]", "{a: 1}", '""', "' '", "x",
    "${seed}", "${x.y}",
    "${oc.env:HOME}", "${oc.env:NOT_THERE}", "${oc.decode:__import__}", "1.5", "99999999999999999999", "/dev/null",
    "/nothing/here", "..",
    "'\x1b[2J'", "'a\nb'", "é", "{_target_: os.system}", "{_target_: fuzz.cases.canary}", "[null]", "0x10",
    "1_000", "'[unclosed", "a,b", "null,null",
)  # fmt: skip
# Keys of a default run, and other valid values of each.
_VALID: dict[str, tuple[Any, ...]] = {
    "seed": (1, 7, 4294967295), "name": ("mine", "ä b", "x" * 60), "quiet": (True,), "report.names": (True,),
    "trigger_set.num_people": (1, 3), "trigger_set.require_inferred": (True,),
    "trigger_set.people": (["Doe, Jane"], ["李 小明", "O'Hara"]),
    "attack.num_candidates": (50, 999), "attack.num_photos": (1, 7), "attack.threshold": (1, 2),
    "defense.text.num_steps": (1, 500), "defense.image.num_steps": (3,), "defense.text.optimizer.lr": (0.1, 1e-6),
    "defense.text.batch.clean": (2, 64), "defense.text.num_other_names": (10,), "defense.image.num_anchors": (16,),
    "trainer.checkpoint_every_steps": (1, 100), "trainer.num_workers": (0, 2),
    "utility.similarity.num_captions": (2, 100), "logger.project": ("mine",), "clip.precision": ("fp32",),
    "clip.device": ("cpu",),
}  # fmt: skip


def make(folder: Path, rng: random.Random) -> Case:
    """Draw a setting."""
    return rng.choice((_valid, _odd))(folder, rng)


def _composed(folder: Path, settings: list[str]) -> DictConfig:
    """Compose and check a config as the command does before it computes."""
    base = overrides(folder.parent / "_world", folder / "out" / "runs", folder / "out" / "cache")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", [*base, f"paths.run={folder / 'out' / 'run'}", *settings])
    check(cfg)
    check_attacks(cfg.attacks, 1)
    build(cfg.attack, Idia)
    return cfg


def _valid(folder: Path, rng: random.Random) -> Case:
    key = rng.choice(list(_VALID))
    value = rng.choice(_VALID[key])
    text = f"{key}={json.dumps(value, ensure_ascii=False)}"

    def read() -> Any:
        setting = OmegaConf.select(_composed(folder, [text]), key)
        plain = OmegaConf.to_container(setting) if OmegaConf.is_config(setting) else setting
        return getattr(plain, "value", plain)

    return Case(f"setting {text}", read, value, "read")


@cache
def _keys() -> list[str]:
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        return list(leaves(OmegaConf.to_container(compose("config"), resolve=False)))


def leaves(content: Any, prefix: str = "") -> list[str]:
    """Return all dotted keys of a config, including those of its groups."""
    if not isinstance(content, dict):
        return [prefix]
    keys = [prefix] if prefix else []
    for key, value in content.items():
        keys += leaves(value, f"{prefix}.{key}" if prefix else str(key))
    return keys


def _odd(folder: Path, rng: random.Random) -> Case:
    GlobalHydra.instance().clear()
    keys = [key for key in _keys() if not key.startswith("paths.")]  # they name the folders that a run writes to
    key, value = rng.choice(keys), rng.choice(_ODD)
    way = rng.choice(("{}={}", "{}={}", "{}={}", "+{}={}", "++{}={}", "~{}", "{}.x={}", "{}x={}", "{}"))
    text = way.format(key, value)
    parts = key.split(".")
    return Case(
        f"setting {text!r}",
        lambda: bool(_composed(folder, [text])),
        UNKNOWN,
        "either",
        (parts[-1], parts[0].rstrip("s")),
    )
