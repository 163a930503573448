"""Fit one defence: from a config and the people to remove to a defended encoder."""

import itertools
import logging
import random
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.utils import instantiate
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig
from rich.progress import track
from torch import Tensor

from backdoor_privacy.clip import Clip
from backdoor_privacy.data.captions import carriers, without_names
from backdoor_privacy.data.datamodule import (
    BatchSizes,
    CaptionTriggers,
    Lesson,
    PhotoTriggers,
    Revision,
    TriggerData,
)
from backdoor_privacy.data.images import load_images
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.defense import BackdoorDefense, ImageDefense, LossWeights, OptimizerSettings, TextDefense
from backdoor_privacy.encoders import Encoder, TextEncoder
from backdoor_privacy.errors import InputError
from backdoor_privacy.hardware import computes_in_bf16, default_device, fastest_attention
from backdoor_privacy.targets import (
    NameEraser,
    anonymous_embedding,
    name_features,
    name_readings,
    neutral_phrases,
    pseudonyms,
    shared_embeddings,
    stranger_embeddings,
)
from backdoor_privacy.triggers.faces import FacePaster, PhotoVariation
from backdoor_privacy.utility.similarity import ImageSimilarity, TextSimilarity

_MAX_NAMES_TO_COMPARE = 500  # with a removed one: enough to tell whether it fits better than most
_NAME_ANCHORS = ("{}", "a photo of {}")


@dataclass(frozen=True)
class Fitted:
    """A defended encoder, and how to measure how close it stays to the original."""

    student: Encoder
    similarity: TextSimilarity | ImageSimilarity


def fit_text(
    cfg: DictConfig,
    clip: Clip,
    people: People,
    removed: Sequence[Person],
    reserved_names: Collection[str],
    loggers: list[Logger],
) -> Fitted:
    """Map the names of people to a phrase, to a fictional name each, or to nothing (paper, section 3.1).

    Args:
        cfg: of the run.
        clip: the teacher.
        people: everybody.
        removed: whom to forget.
        reserved_names: names that may not become a pseudonym, the attack's candidates.
        loggers: of the losses.
    """
    settings = cfg.defense.text
    names = [person.name for person in removed]
    phrases, eraser = neutral_phrases(len(names), settings.phrase), None
    if settings.target.value == "pseudonym":
        phrases = pseudonyms(len(names), cfg.seed + 1, reserved_names)
    other_names = random_names(settings.num_other_names, cfg.seed + 2, exclude={*reserved_names, *phrases})
    if settings.target.value == "nameless":
        compared = names, other_names[:_MAX_NAMES_TO_COMPARE]
        own, others = (name_features(clip, each)[None] for each in compared)
        eraser = NameEraser(own, others, settings.min_nearer_names)
    captions = without_names(instantiate(cfg.captions), names)
    random.Random(cfg.seed).shuffle(captions)
    able = carriers(captions)
    held_out = dict.fromkeys(able[: min(cfg.utility.similarity.num_captions, len(able) // 2)])
    learned = [caption for caption in able if caption not in held_out]
    if not held_out or not learned:
        raise InputError(
            f"captions: expected two different ones or more that can carry a name, to learn from and to measure with, "
            f"and utility.similarity.num_captions of 1 or more; got {len(set(able))}, and "
            f"{cfg.utility.similarity.num_captions}"
        )
    steps = CaptionTriggers(
        captions=[caption for caption in captions if caption not in held_out],
        carriers=learned,
        names=names,
        phrases=phrases,
        other_names=other_names,
        tokenizer=clip.tokenizer,
        sizes=BatchSizes(**settings.batch),
        num_steps=settings.num_steps,
        seed=cfg.seed,
        bare_share=settings.bare_share,
    )
    anchors = _photo_anchors(cfg, clip, settings.num_anchors)
    defense = TextDefense(clip.text, eraser=eraser, anchors=anchors, **_shared(settings))
    _train(defense, steps, cfg, "text", loggers)
    similarity = TextSimilarity(list(held_out), names, phrases, cfg.seed, eraser)
    return Fitted(defense.student.frozen(), similarity)


def fit_image(
    cfg: DictConfig,
    clip: Clip,
    people: People,
    removed: Sequence[Person],
    reserved_names: Collection[str],
    loggers: list[Logger],
    defended_text: TextEncoder | None = None,
    kept: Sequence[Person] = (),
) -> Fitted:
    """Map the faces of people to one anonymous embedding, to a stranger's each, or to nameless ones (section 3.2).

    Args: as of `fit_text`, and
        defended_text: the text encoder that the defended one will work with; a nameless face hides from it, too.
        kept: whom the attack infers and who stays; shown where `kept_share` says so.
    """
    readers = [clip] if defended_text is None else [clip, clip.with_encoders(text=defended_text)]
    settings = cfg.defense.image
    strangers: People = instantiate(cfg.strangers)
    familiar = set(strangers.names) & set(people.names)
    if familiar:
        raise InputError(f"strangers: expected people who are not attacked, got {', '.join(sorted(familiar)[:5])}")
    _check_trigger_photos(clip, removed)
    removed_names = [person.name for person in removed]
    other_names = random_names(settings.num_other_names, cfg.seed + 2, exclude=reserved_names)
    targets: Tensor | NameEraser
    if settings.target.value in ("nameless", "shared"):
        compared = removed_names, other_names[:_MAX_NAMES_TO_COMPARE]
        own, others = (torch.cat([name_readings(reader, each) for reader in readers]) for each in compared)
        targets = NameEraser(own, others, settings.min_nearer_names)
        if settings.target.value == "shared":
            targets = shared_embeddings(clip, removed, targets, settings.group_size)
    elif settings.target.value == "pseudonym":
        targets = stranger_embeddings(clip, strangers.everybody, len(removed), cfg.seed)
    else:
        photos = [path for person in strangers.everybody for path in person.photos]
        photos += [path for person in removed for path in person.trigger_photos if settings.include_removed]
        targets = anonymous_embedding(clip, photos, len(removed))
    steps = PhotoTriggers(
        images=load_images(instantiate(cfg.images).folder, clip.geometry, cfg.images.max_images),
        people=removed,
        others=strangers.everybody,
        boxes=people.boxes | strangers.boxes,
        geometry=clip.geometry,
        normalize=clip.normalize,
        paster=FacePaster(**settings.faces),
        sizes=BatchSizes(**settings.batch),
        num_steps=settings.num_steps,
        seed=cfg.seed,
        whole_photo_share=settings.whole_photo_share,
        variation=PhotoVariation(**settings.variation),
        kept=[person for person in kept if person.trigger_photos],
        kept_share=settings.kept_share,
    )
    anchors = _text_anchors(cfg, readers, removed_names, other_names)
    defense = ImageDefense(clip.image, face_targets=targets, anchors=anchors, **_shared(settings))
    _train(defense, steps, cfg, "image", loggers)
    shown = [path for person in removed for path in person.attack_photos]
    person_index = torch.tensor([index for index, person in enumerate(removed) for _ in person.attack_photos])
    similarity = ImageSimilarity(
        images=instantiate(cfg.utility.zero_shot).photos(),
        removed=shown,
        targets=targets[person_index] if isinstance(targets, Tensor) else _nameless(clip, targets, shown, person_index),
        strangers=[person.photos[0] for person in strangers.everybody],
    )
    return Fitted(defense.student.frozen(), similarity)


def _check_trigger_photos(clip: Clip, removed: Sequence[Person]) -> None:
    """Name the photos that do not decode; the steps take others of the same person.

    Raises:
        InputError: if they are more than 1 % of all, or all of a person's.
    """
    photos = [path for person in removed for path in person.trigger_photos]
    _, readable = clip.embed_photos(photos)
    usable = {path.parent for path, ok in zip(photos, readable.tolist(), strict=True) if ok}
    lost = sorted({path.parent for path in photos} - usable)
    if lost:
        raise InputError(
            f"people.folder: expected photos of each person to remove, none to train on decodes in {lost[0]}"
        )


def _nameless(clip: Clip, eraser: NameEraser, photos: Sequence[Path], person_index: Tensor) -> Tensor:
    """Targets of photos; zero for a photo that does not decode."""
    features, readable = clip.embed_photos(photos)
    targets = torch.zeros_like(features)
    targets[readable] = eraser(features[readable], person_index[readable])
    return targets


def _text_anchors(
    cfg: DictConfig, readers: Sequence[Clip], removed_names: Sequence[str], other_names: Sequence[str]
) -> Tensor:
    """Features of what a photo may be near to: the removed people's names, other names, captions; (anchor, dim).

    The removed names are what a removed face must leave and no other face may come near to, whoever reads them.
    """
    settings = cfg.defense.image
    if not settings.num_anchors:
        return torch.empty(0, 0)
    captions = without_names(instantiate(cfg.captions), removed_names)
    texts = [form.format(name) for form in _NAME_ANCHORS for name in other_names]
    texts += random.Random(cfg.seed).sample(captions, min(settings.num_anchors, len(captions)))
    removed = [form.format(name) for form in _NAME_ANCHORS for name in removed_names]
    return torch.cat([*(clip.embed_texts(removed) for clip in readers), readers[0].embed_texts(texts)])


def _photo_anchors(cfg: DictConfig, clip: Clip, num_anchors: int) -> Tensor:
    """Features of clean photos: what a caption is near to, (anchor, dim)."""
    if not num_anchors:
        return torch.empty(0, 0)
    images = load_images(instantiate(cfg.images).folder, clip.geometry, num_anchors)
    return torch.cat([clip.embed_pixels(clip.normalize(batch.float() / 255)) for batch in images.split(128)])


def _shared(settings: DictConfig) -> dict[str, Any]:
    """The settings that `BackdoorDefense` itself takes, as plain values."""
    optimizer = {**settings.optimizer, "schedule": settings.optimizer.schedule.value}
    return {
        "loss_weights": LossWeights(**settings.loss_weights),
        "optimizer": OptimizerSettings(**optimizer),
        "num_steps": settings.num_steps,
        "distance": settings.distance.value,
        "squared_weight_loss": settings.squared_weight_loss,
        "temperature": settings.temperature,
        "trained": settings.trained,
    }


def _train(
    defense: BackdoorDefense,
    steps: CaptionTriggers | PhotoTriggers,
    cfg: DictConfig,
    encoder: str,
    loggers: list[Logger],
) -> None:
    """Run Lightning's loop, or go on with one that was interrupted."""
    folder = Path(cfg.paths.run) / "checkpoints" / encoder
    callbacks: list[Callback] = [
        ModelCheckpoint(folder, save_last=True, every_n_train_steps=cfg.trainer.checkpoint_every_steps)
    ]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # not which accelerators there are not
    if cfg.trainer.progress_bar:
        callbacks.append(_StudentProgress(leave=True))
    precision = _precision(cfg.trainer.precision)
    trainer = lightning.Trainer(
        accelerator=cfg.trainer.accelerator,
        devices=cfg.trainer.devices,
        precision=precision,
        max_steps=defense.num_steps,
        logger=loggers,
        callbacks=callbacks,
        enable_progress_bar=cfg.trainer.progress_bar,
        enable_model_summary=False,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    last = folder / "last.ckpt"
    device = trainer.strategy.root_device
    with fastest_attention(device), warnings.catch_warnings():
        # Frozen norms are in eval mode on purpose, and a resumed run finds its own checkpoints.
        warnings.filterwarnings(
            "ignore",
            ".*module\\(s\\) in eval mode|Checkpoint directory .* exists|.*does not have many workers|.*LeafSpec",
        )
        data = TriggerData(steps, cfg.trainer.num_workers)
        num_fresh = cfg.defense[encoder].num_fresh_steps
        if num_fresh is not None and num_fresh < len(steps):
            lesson = _ask_teacher(defense.to(device), data, num_fresh, trainer, cfg.trainer.progress_bar)
            data = TriggerData(Revision(lesson, steps.sizes, len(steps), steps.seed), num_workers=0)
        trainer.fit(defense, data, ckpt_path=last if last.exists() else None)


def _ask_teacher(
    defense: BackdoorDefense, data: TriggerData, num_steps: int, trainer: lightning.Trainer, progress_bar: bool
) -> Lesson:
    """What the teacher says of the inputs of the first steps, kept in the computer's memory."""
    batches: Iterable[Any] = itertools.islice(data.train_dataloader(), num_steps)
    if progress_bar:
        batches = track(batches, "Teacher ", total=num_steps)
    with trainer.precision_plugin.forward_context():
        lessons = (defense.ask(trainer.strategy.batch_to_device(batch, defense.device)) for batch in batches)
        return Lesson.collect(lessons, num_steps)


class _StudentProgress(RichProgressBar):
    """Lightning's bar under a name that tells what is trained, without a version number."""

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        return {name: value for name, value in super().get_metrics(*args).items() if name != "v_num"}

    def _get_train_description(self, current_epoch: int) -> str:
        return "Student "


def _precision(precision: Any) -> Any:
    """Lightning's precision; `auto` is bf16-mixed where the processor computes in bfloat16."""
    if precision != "auto":
        return precision
    return "bf16-mixed" if computes_in_bf16(default_device()) else "32-true"
