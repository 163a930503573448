"""Describe the settings as typed dataclasses, so that a mistyped key is an error at every level.

Hydra takes them as schemas of its configs; from Python they are used as they are. A `Node` holds a `_target_`, whose
own signature is checked when it is built (`config.build`).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Any, TypeAlias

from omegaconf import MISSING, DictConfig, OmegaConf

from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER

Node: TypeAlias = Any  # OmegaConf has no other type for it


class FaceSource(str, Enum):
    """Ways to get the faces in whole photos."""

    found = "found"  # by a face finder


class Precision(str, Enum):
    """Precision of the passes that embed texts and photos."""

    fp32 = "fp32"
    bf16 = "bf16"
    auto = "auto"  # bf16 where the processor computes in it


@dataclass
class Clip:
    """The CLIP to protect."""

    _target_: str = MISSING
    model: Node = MISSING
    pretrained: str | None = None
    precision: Precision = Precision.fp32
    num_workers: int = MISSING
    quick_gelu: bool | None = None
    text_model: str | None = None
    preprocess: Node = None  # a dict; untyped, since Hydra cannot replace a null of that type by one
    device: str = "auto"
    store: str | None = None


@dataclass
class People:
    """People in photos."""

    _target_: str = MISSING
    folder: Node = MISSING  # holds a folder of photos per person
    layout: str = "*"  # pattern of these folders within it
    table: str | None = None  # CSV of what is known of the CLIP's training data; null: people.csv in the folder
    boxes: str | None = None  # CSV of the faces; null: boxes.csv in the folder
    box: list[int] | None = None  # left, top, right and bottom of the face in all photos, in pixels
    min_photos: int = 1  # people with fewer are left out
    max_photos: int | None = None  # people with more are left out; null: nobody
    consenting: bool = False  # fictional, or agreed to stand in for others: defense/image_target=pseudonym
    names: Node = None  # of people without photos, a list; untyped, since Hydra cannot interpolate a typed list
    names_file: str | None = None  # text file of people without photos, with a name a line
    faces: FaceSource | None = None  # found: a face finder cuts the faces out of whole photos; null: photos are faces
    face_models: str | None = None  # folder of the user's own models of faces; null: those of the wheel
    cache: str | None = None  # folder that holds what is found


@dataclass
class Captions:
    """Clean captions."""

    _target_: str = MISSING
    file: Node = MISSING
    column: str | None = None
    max_captions: int | None = None


@dataclass
class Images:
    """Clean photos."""

    folder: Node = MISSING
    max_images: int = MISSING


@dataclass
class TriggerSet:
    """The people to remove."""

    num_people: int | None = None
    people: list[str] | None = None
    file: str | None = None
    require_inferred: bool = True


@dataclass
class Similarity:
    """Settings of the similarity of student and teacher."""

    num_captions: int = MISSING


def _no_measures() -> dict[str, Node]:
    """Return the keys of the measures that the shipped configs choose from, each unset; reports keep their order."""
    return {"zero_shot": None, "retrieval": None, "similarity": Similarity()}


@dataclass
class Trainer:
    """The settings of Lightning's Trainer that a user may choose."""

    accelerator: str = MISSING
    devices: int = MISSING
    precision: str = MISSING
    accumulate_grad_batches: int = 1
    gradient_checkpointing: bool = False
    num_workers: int | None = None
    checkpoint_every_steps: int = MISSING
    progress_bar: bool = MISSING


@dataclass
class Logger:
    """Trackers that get losses and results besides the run folder."""

    wandb: bool = MISSING
    mode: str = "offline"
    project: str = "backdoor_privacy"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class Report:
    """The report of a finished run."""

    names: bool = False


@dataclass
class Paths:
    """Folders that are written to."""

    runs: str = MISSING
    cache: str = MISSING
    run: str = MISSING


@dataclass
class Config:
    """Config of `python -m backdoor_privacy`."""

    name: str = MISSING
    seed: int = MISSING
    quiet: bool = False
    mixed_worlds: bool = False
    clip: Clip = field(default_factory=Clip)
    people: People = field(default_factory=People)
    strangers: People | None = None
    captions: Captions | None = None
    images: Images | None = None
    trigger_set: TriggerSet = field(default_factory=TriggerSet)
    defense: dict[str, Node] = field(default_factory=dict)  # methods, in the order in which they are applied
    attack: Node = MISSING  # the Identity Inference Attack
    attacks: dict[str, Node] = field(default_factory=dict)  # others than IDIA, each with its settings
    utility: dict[str, Node] = field(default_factory=_no_measures)  # by key, each with its `_target_`
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = field(default_factory=Logger)
    report: Report = field(default_factory=Report)
    paths: Paths = field(default_factory=Paths)


@dataclass
class Exclude:
    """The people whom a training leaves out."""

    people: str | None = None
    run: str | None = None


@dataclass
class Pretrain:
    """Config of `python -m backdoor_privacy.pretrain`."""

    name: str = MISSING
    seed: int = MISSING
    data: Node = MISSING
    exclude: Exclude = field(default_factory=Exclude)
    model: dict[str, Node] = field(default_factory=dict)
    preprocess: dict[str, Node] = field(default_factory=dict)
    augmentation: dict[str, Node] = field(default_factory=dict)
    batch_size: int = MISSING
    num_steps: int = MISSING
    num_warmup_steps: int = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    num_workers: int = MISSING
    checkpoint_every_steps: int = MISSING
    trainer: dict[str, Node] = field(default_factory=dict)
    paths: Paths = field(default_factory=Paths)


def load_config(cfg: DictConfig) -> Config:
    """Return a composed config as an object of its schema."""
    config = OmegaConf.to_object(cfg)
    assert isinstance(config, Config)
    return config


def load_trainer(name: str = "default", **changes: Node) -> Trainer:
    """Return the settings in a file of `conf/trainer`, some of them changed."""
    merged = OmegaConf.merge(OmegaConf.structured(Trainer), load_option("trainer", name), changes)
    trainer = OmegaConf.to_object(merged)
    assert isinstance(trainer, Trainer)
    return trainer


def load_option(group: str, name: str, chosen: Mapping[str, str] = MappingProxyType({})) -> DictConfig:
    """Return a file of a group of `conf`, and those that it is made of, merged as Hydra would.

    Args:
        group: as `defense`.
        name: of the file, without its suffix.
        chosen: options of groups within it that take the place of its own, as `{"text_target": "phrase"}`.

    Raises:
        InputError: if there is no such file.
    """
    file = CONFIG_FOLDER / group / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise InputError(f"{group}: expected one of {known}, got {name}")
    text = file.read_text(encoding="utf-8")
    own = OmegaConf.create(text)
    assert isinstance(own, DictConfig)
    defaults = [part for part in own.pop("defaults", []) if part != "_self_"]
    options = {str(key): str(value) for part in defaults if not isinstance(part, str) for key, value in part.items()}
    replaced = {key.removeprefix("override "): value for key, value in options.items() if key.startswith("override ")}
    within = {**replaced, **chosen}
    parts = [load_option(group, part, within) for part in defaults if isinstance(part, str)]
    parts += [
        load_option(f"{group}/{key}", within.get(key, value))
        for key, value in options.items()
        if key not in replaced and not key.startswith("override ")
    ]
    package = re.match(rf"# @package {group.partition('/')[0]}\.(\S+)", text)
    if package:
        OmegaConf.update(placed := OmegaConf.create(), package[1], own)
        own = placed
    merged = OmegaConf.merge(*parts, own)
    assert isinstance(merged, DictConfig)
    return merged
