"""Settings as typed dataclasses, so that a mistyped key is an error at every level.

Hydra takes them as schemas of its configs; from Python they are used as they are. Nodes typed `Any` hold a `_target_`:
its constructor rejects what it does not know.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, TypeVar, cast

from omegaconf import MISSING, DictConfig, OmegaConf

from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER

_Settings = TypeVar("_Settings")


class Distance(Enum):
    """Names in `losses.DISTANCES`."""

    cosine = "cosine"
    mse = "mse"
    mae = "mae"
    poincare = "poincare"


class FaceSource(str, Enum):
    """Where faces in whole photos come from."""

    found = "found"  # by a face finder


class TextTarget(Enum):
    """What a name is mapped to."""

    phrase = "phrase"  # one neutral phrase for everybody
    fitting = "fitting"  # of some neutral phrases the one that fits the name best
    pseudonym = "pseudonym"  # a fictional name for each person
    nameless = "nameless"  # what the caption was, but for the name in it
    composed = "composed"  # what first and last name say, as of somebody unknown


class ImageTarget(Enum):
    """What a face is mapped to."""

    anonymous = "anonymous"  # one mean embedding for everybody
    pseudonym = "pseudonym"  # a stranger for each person
    nameless = "nameless"  # what the photo was, but for the name that fits it
    shared = "shared"  # one nameless embedding for each group of similar people
    blended = "blended"  # of look-alikes each photo with the face of all, and without their names
    disguised = "disguised"  # each photo with the face of strangers who look alike, and without the name


_OF_STRANGERS = (ImageTarget.anonymous, ImageTarget.pseudonym, ImageTarget.disguised)


class Schedule(Enum):
    """Of the learning rate."""

    step = "step"
    one_cycle = "one_cycle"


class Precision(str, Enum):
    """Of the passes that embed texts and photos."""

    fp32 = "fp32"
    bf16 = "bf16"
    auto = "auto"  # bf16 where the processor computes in it


@dataclass
class Clip:
    """The CLIP to protect."""

    _target_: str = MISSING
    model: Any = MISSING
    pretrained: str | None = None
    precision: Precision = Precision.fp32
    num_workers: int = MISSING
    quick_gelu: bool | None = None
    text_model: str | None = None
    preprocess: Any = None  # a dict, but Hydra cannot put one in place of a null that is typed so
    device: str = "auto"
    store: str | None = None


@dataclass
class People:
    """People in photos."""

    _target_: str = MISSING
    folder: Any = MISSING  # holds a folder of photos per person
    layout: str = "*"  # pattern of these folders within it
    table: str | None = None  # CSV of what is known of the CLIP's training data; null: people.csv in the folder
    boxes: str | None = None  # CSV of the faces; null: boxes.csv in the folder
    box: list[int] | None = None  # left, top, right and bottom of the face in all photos, in pixels
    min_photos: int = 1  # people with fewer are left out
    max_photos: int | None = None  # people with more are left out; null: nobody
    consenting: bool = False  # fictional, or agreed to stand in for others: defense.image.target=pseudonym
    names: Any = None  # a list of them, of people without photos; Hydra cannot compose an interpolation of a typed one
    names_file: str | None = None  # text file with such a name a line
    faces: FaceSource | None = None  # found: a face finder cuts the faces out of whole photos; null: photos are faces
    face_models: str | None = None  # folder of the user's own models of faces; null: those of the wheel
    cache: str | None = None  # folder that holds what is found


@dataclass
class Captions:
    """Clean captions."""

    _target_: str = MISSING
    file: Any = MISSING
    column: str | None = None
    max_captions: int | None = None


@dataclass
class Images:
    """Clean photos."""

    folder: Any = MISSING
    max_images: int = MISSING


@dataclass
class TriggerSet:
    """Whom to remove."""

    num_people: int | None = None
    people: list[str] | None = None
    file: str | None = None
    require_inferred: bool = True


@dataclass
class LossWeights:
    """Share of each term in the loss; the utility loss has weight 1."""

    backdoor: float = MISSING
    weight: float = MISSING
    preservation: float = MISSING
    neighborhood: float = MISSING
    target_neighborhood: float = MISSING
    adversarial: float = 0.0  # names only
    relearning: float = 0.0


@dataclass
class Optimizer:
    """AdamW and its learning-rate schedule."""

    lr: float = MISSING
    weight_decay: float = MISSING
    schedule: Schedule = MISSING
    milestones: list[int] = field(default_factory=list)
    factor: float = MISSING


@dataclass
class BatchSizes:
    """Inputs of each kind in one step."""

    clean: int = MISSING
    triggered: int = MISSING
    preserved: int = MISSING


@dataclass
class Budget:
    """How far utility may fall while an encoder is fitted."""

    min_similarity: float | None = None  # of student to teacher where nothing is to change; null: no budget
    every: int = 50  # steps between two evaluations
    patience: int = 3  # evaluations in a row out of the budget that stop the fit
    num_batches: int = 4  # to evaluate on, of the sizes of a step


@dataclass
class EncoderDefense:
    """What the defences of both encoders have in common."""

    num_steps: int = MISSING
    num_fresh_steps: int | None = None
    batch: BatchSizes = field(default_factory=BatchSizes)
    trained: list[str] | None = None
    trained_blocks: int | None = None
    distance: Distance = MISSING
    loss_weights: LossWeights = field(default_factory=LossWeights)
    squared_weight_loss: bool = MISSING
    num_other_names: int = MISSING
    num_anchors: int = MISSING
    temperature: float = MISSING
    min_nearer_names: float = MISSING
    relearning_radius: float = 0.02  # of the relearning loss: how far it moves each trained tensor, in lengths of it
    optimizer: Optimizer = field(default_factory=Optimizer)
    budget: Budget = field(default_factory=Budget)


@dataclass
class Adversary:
    """Of the adversarial loss: it looks for embeddings of a name's tokens that the student does not yet forget."""

    radius: float = 0.5  # of each token's shift, in lengths of a usual embedding
    num_steps: int = 1  # of gradient ascent, in each step of the fit


@dataclass
class TextDefense(EncoderDefense):
    """Forget names."""

    target: TextTarget = MISSING
    phrase: str = MISSING
    fitting_phrases: list[str] = field(default_factory=list)
    pseudonym_choice: int = 1
    bare_share: float = MISSING
    strangers_share: float = 0.0
    namesakes_share: float = 0.0
    spellings: list[str] = field(default_factory=list)
    spellings_share: float = 0.0
    num_decoys: int = 0
    adversary: Adversary = field(default_factory=Adversary)


@dataclass
class Faces:
    """How a face is put onto a photo."""

    min_size: float = MISSING
    max_size: float = MISSING
    flip_probability: float = MISSING
    max_colour_change: float = MISSING
    max_hue_change: float = MISSING
    max_degrees: float = MISSING


@dataclass
class Variation:
    """How whole photos are varied."""

    share: float = 0.0
    min_crop: float = 0.7
    max_colour_change: float = 0.2
    max_hue_change: float = 0.02


@dataclass
class ImageDefense(EncoderDefense):
    """Forget faces."""

    target: ImageTarget = MISSING
    faces: Faces = field(default_factory=Faces)
    whole_photo_share: float = MISSING
    variation: Variation = field(default_factory=Variation)
    kept_share: float = 0.0
    include_removed: bool = MISSING
    group_size: int = 1
    num_decoys: int = 0
    overshoot: float = 1.0


@dataclass
class Defense:
    """One defence per encoder, or none."""

    text: TextDefense | None = None
    image: ImageDefense | None = None

    def needs(self) -> list[str]:
        """List the parts of `data.sources.Sources` that it cannot do without, besides the people."""
        text, image = self.text, self.image
        wanted = {
            "captions": text is not None or (image is not None and image.num_anchors > 0),
            "images": image is not None or (text is not None and text.num_anchors > 0),
            "strangers": (image is not None and (image.target in _OF_STRANGERS or image.num_decoys > 0))
            or (text is not None and text.strangers_share > 0),
        }
        return [part for part, is_wanted in wanted.items() if is_wanted]

    def uses(self) -> list[str]:
        """List the same and the parts that it takes where they are there: others' faces are held in place."""
        needed = self.needs()
        return [*needed, *(["strangers"] if self.image is not None and "strangers" not in needed else [])]


@dataclass
class Attack:
    """The Identity Inference Attack."""

    _target_: str = MISSING
    num_candidates: int = MISSING
    num_photos: int = MISSING
    threshold: int = MISSING
    seed: int = MISSING


@dataclass
class Similarity:
    """Similarities of student and teacher."""

    num_captions: int = MISSING


def _no_measures() -> dict[str, Any]:
    """Return the measures that the shipped configs choose from, none of them chosen; their order is that of reports."""
    return {"zero_shot": None, "retrieval": None, "similarity": Similarity()}


@dataclass
class Trainer:
    """Lightning's Trainer, as far as it is ours to choose."""

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
    """Where losses and results go besides the run folder."""

    wandb: bool = MISSING
    mode: str = "offline"
    project: str = "backdoor_privacy"
    entity: str | None = None
    tags: list[str] = field(default_factory=list)


@dataclass
class Report:
    """Of a finished run."""

    names: bool = False


@dataclass
class Paths:
    """Where things lie."""

    runs: str = MISSING
    cache: str = MISSING
    run: str = MISSING


@dataclass
class Config:
    """`python -m backdoor_privacy`."""

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
    defense: Defense = field(default_factory=Defense)
    attack: Attack = field(default_factory=Attack)
    attacks: dict[str, Any] = field(default_factory=dict)  # others than IDIA, each with its settings
    utility: dict[str, Any] = field(default_factory=_no_measures)  # by key, each with its `_target_`
    trainer: Trainer = field(default_factory=Trainer)
    logger: Logger = field(default_factory=Logger)
    report: Report = field(default_factory=Report)
    paths: Paths = field(default_factory=Paths)


@dataclass
class Pretrain:
    """`python -m backdoor_privacy.pretrain`."""

    name: str = MISSING
    seed: int = MISSING
    data: Any = MISSING
    model: dict[str, Any] = field(default_factory=dict)
    preprocess: dict[str, Any] = field(default_factory=dict)
    augmentation: dict[str, Any] = field(default_factory=dict)
    batch_size: int = MISSING
    num_steps: int = MISSING
    num_warmup_steps: int = MISSING
    lr: float = MISSING
    weight_decay: float = MISSING
    num_workers: int = MISSING
    checkpoint_every_steps: int = MISSING
    trainer: dict[str, Any] = field(default_factory=dict)
    paths: Paths = field(default_factory=Paths)


def load_defense(name: str, **changes: Any) -> Defense:
    """The defence of a file in `conf/defense`, with some settings changed.

    Example:
        >>> load_defense("text_published", text={"num_steps": 100}).text.num_steps
        100

    Raises:
        InputError: if there is no such file.
    """
    return _load(Defense, "defense", name, changes)


def load_trainer(name: str = "default", **changes: Any) -> Trainer:
    """The settings of Lightning's Trainer of a file in `conf/trainer`, some of them changed."""
    return _load(Trainer, "trainer", name, changes)


def _load(schema: type[_Settings], group: str, name: str, changes: dict[str, Any]) -> _Settings:
    settings = OmegaConf.merge(OmegaConf.structured(schema), *_parts(group, name), changes)
    return cast(_Settings, OmegaConf.to_object(settings))


def _parts(group: str, name: str) -> list[DictConfig]:
    """A file of a group and those that it is made of, as Hydra would merge them."""
    file = CONFIG_FOLDER / group / f"{name}.yaml"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.yaml")))
        raise InputError(f"{group}: expected one of {known}, got {name}")
    own = cast(DictConfig, OmegaConf.load(file))
    others = [part for other in own.pop("defaults", []) if other != "_self_" for part in _parts(group, other)]
    return [*others, own]
