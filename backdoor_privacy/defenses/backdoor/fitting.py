"""Fit one defence: from settings and the people to remove to a defended encoder."""

import itertools
import logging
import math
import os
import random
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import Logger
from lightning.pytorch.strategies import DDPStrategy
from rich.progress import track
from torch import Tensor
from torch.nn.functional import normalize

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.text import TextEncoder
from backdoor_privacy.config.schema import EncoderDefense as EncoderSettings
from backdoor_privacy.config.schema import ImageDefense as ImageSettings
from backdoor_privacy.config.schema import TextDefense as TextSettings
from backdoor_privacy.config.schema import Trainer as TrainerSettings
from backdoor_privacy.data.captions import carriers, without_names
from backdoor_privacy.data.images import load_images
from backdoor_privacy.data.inspection import photo_sizes
from backdoor_privacy.data.names import decoy_names, random_names
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.data.photos import check_readable, too_many
from backdoor_privacy.data.selection import draw_decoys
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor.budget import Evaluation, UtilityBudget
from backdoor_privacy.defenses.backdoor.module import (
    Adversary,
    BackdoorDefense,
    ImageDefense,
    LossWeights,
    OptimizerSettings,
    TextDefense,
)
from backdoor_privacy.defenses.backdoor.requirements import check_spellings
from backdoor_privacy.defenses.backdoor.similarity import ImageSimilarity, TextSimilarity
from backdoor_privacy.defenses.backdoor.steps import (
    BatchSizes,
    CaptionTriggers,
    Lesson,
    PhotoTriggers,
    Revision,
    TriggerData,
)
from backdoor_privacy.defenses.backdoor.targets import (
    FaceSwapper,
    NameComposer,
    NameEraser,
    anonymous_embedding,
    blended_faces,
    composed_names,
    disguises,
    fitting_phrases,
    mean_embeddings,
    name_features,
    name_readings,
    near_pseudonyms,
    neutral_phrases,
    shared_embeddings,
    stranger_embeddings,
)
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.system.checkpoints import LAST, DurableCheckpoints, last_checkpoint
from backdoor_privacy.system.distributed import (
    broadcast,
    check_parts,
    is_launched,
    is_main_process,
    num_devices,
    num_processes,
)
from backdoor_privacy.system.hardware import (
    computes_in_bf16,
    default_device,
    default_num_workers,
    fastest_attention,
    usable_workers,
)
from backdoor_privacy.system.signals import Stopped
from backdoor_privacy.system.stopping import KeepSignals, place_of
from backdoor_privacy.triggers.faces import FacePaster, PhotoVariation
from backdoor_privacy.triggers.names import namesakes
from backdoor_privacy.triggers.spellings import spelling

log = logging.getLogger(__name__)

_MAX_NAMES_TO_COMPARE = 500  # with a removed one: enough to tell whether it fits better than most
_MAX_EXAMPLES = 3000  # of names, that teach what a name's parts say
_NUM_DRAWS = 8  # misspellings and the like of each name that triggers
_NUM_EXAMPLES = 24  # triggered photos that a run shows
_NAME_ANCHORS = ("{}", "a photo of {}")


@dataclass(frozen=True)
class Fitted:
    """A defended encoder, how to measure how close it stays to the original, and what it was fitted to."""

    student: Encoder
    similarity: TextSimilarity | ImageSimilarity
    targets: Tensor  # what each removed person's name alone, or the mean of their attack photos, is mapped to
    triggered: Tensor | None = None  # some of the photos that it was trained on, pixels in [0, 1]
    evaluations: Sequence[Evaluation] = ()  # on the way, where there was a utility budget


@dataclass(frozen=True)
class Removal:
    """Whom to remove from which CLIP, with all that both fits need for it.

    Args:
        clip: the teacher.
        sources: people and clean data.
        removed: whom to forget.
        kept: whom the attack infers and who stays.
        reserved_names: names that may not become a pseudonym, the attack's candidates.
        seed: of everything that is drawn.
        trainer: Lightning's settings.
        checkpoints: folder to resume from; `None`: nothing is kept.
        max_held_out: captions that measure a text defence and do not train it, at most.
        clean_photos: that measure an image defence and do not train it.
    """

    clip: Clip
    sources: Sources
    removed: Sequence[Person]
    kept: Sequence[Person]
    reserved_names: Collection[str]
    seed: int
    trainer: TrainerSettings
    checkpoints: Path | None
    max_held_out: int
    clean_photos: Sequence[Path]

    @property
    def names(self) -> list[str]:
        """Of the people to remove."""
        return [person.name for person in self.removed]

    @property
    def strangers(self) -> People:
        """People whose names and faces must stay; nobody where there are none."""
        return self.sources.strangers or People(())

    def clean_captions(self) -> list[str]:
        """Captions without a name to remove."""
        self.sources.check(["captions"])
        return without_names(self.sources.captions or (), self.names)


def fit_text(settings: TextSettings, removal: Removal, loggers: list[Logger]) -> Fitted:
    """Map the names of people to a phrase, to a fictional name each, or to nothing (paper, section 3.1).

    Raises:
        InputError: if the captions are too few.
    """
    clip, removed, seed = removal.clip, removal.names, removal.seed
    names = [*removed, *decoy_names(settings.num_decoys, seed, exclude=removal.reserved_names)]
    phrases = neutral_phrases(len(names), settings.phrase)
    eraser: NameEraser | NameComposer | None = None
    if settings.target.value == "pseudonym":
        taken = {*removal.reserved_names, *names}
        phrases = near_pseudonyms(clip, names, settings.pseudonym_choice, seed + 1, taken)
    other_names = random_names(settings.num_other_names, seed + 2, exclude={*removal.reserved_names, *phrases, *names})
    if settings.target.value == "fitting":
        phrases = fitting_phrases(clip, names, other_names[:_MAX_NAMES_TO_COMPARE], settings.fitting_phrases)
    if settings.target.value in ("nameless", "composed"):
        compared = names, other_names[:_MAX_NAMES_TO_COMPARE]
        own, others = (name_features(clip, each)[None] for each in compared)
        eraser = NameEraser(own, others, settings.min_nearer_names)
        if settings.target.value == "composed":
            eraser = NameComposer(own[0], composed_names(clip, names, other_names[:_MAX_EXAMPLES]), eraser)
    clip.check_fits(phrases, "defense.text.target")
    strangers: Sequence[str] = ()
    if settings.strangers_share:
        removal.sources.check(["strangers"])
        strangers = clip.fitting(removal.strangers.names)
    captions = removal.clean_captions()
    random.Random(seed).shuffle(captions)
    able = carriers(captions)
    held_out = dict.fromkeys(able[: min(removal.max_held_out, len(able) // 2)])
    learned = [caption for caption in able if caption not in held_out]
    if not held_out or not learned:
        raise InputError(
            f"captions: expected two different ones or more that can carry a name, to learn from and to measure with, "
            f"and utility.similarity.num_captions of 1 or more; got {len(set(able))}, and "
            f"{removal.max_held_out}"
        )
    steps = CaptionTriggers(
        captions=[caption for caption in captions if caption not in held_out],
        carriers=learned,
        names=names,
        phrases=phrases,
        other_names=clip.fitting(other_names),
        tokenizer=clip.tokenizer,
        sizes=BatchSizes(**vars(settings.batch)),
        num_steps=settings.num_steps,
        seed=seed,
        bare_share=settings.bare_share,
        strangers=strangers,
        strangers_share=settings.strangers_share,
        namesakes=clip.fitting(namesakes(names, other_names)),
        namesakes_share=settings.namesakes_share,
        spellings=_spellings(settings, clip, names, phrases, seed) if settings.spellings_share else (),
        spellings_share=settings.spellings_share,
    )
    anchors = _photo_anchors(removal, settings.num_anchors)
    adversary = Adversary(**vars(settings.adversary))
    tokens = _name_tokens(clip, names) if settings.loss_weights.adversarial else None
    defense = TextDefense(
        clip.text, eraser=eraser, adversary=adversary, name_tokens=tokens, anchors=anchors, **_shared(settings)
    )
    evaluations = _train(defense, steps, settings, removal, loggers)
    similarity = TextSimilarity(list(held_out), removed, phrases, seed, eraser)
    targets = clip.embed_texts(phrases[: len(removed)] if eraser is None else removed)
    if eraser is not None:
        targets = eraser(targets, torch.arange(len(removed)))
    return Fitted(defense.student.frozen(), similarity, targets, evaluations=evaluations)


def _name_tokens(clip: Clip, names: Sequence[str]) -> Tensor:
    """The tokens that names consist of, without those that begin and end a text, (token,)."""
    tokens, special = clip.tokenizer(list(names)).unique(), clip.tokenizer([""]).unique()
    return tokens[~torch.isin(tokens, special)]


def _spellings(
    settings: TextSettings, clip: Clip, names: Sequence[str], phrases: Sequence[str], seed: int
) -> list[list[tuple[str, str]]]:
    """Return of each name its other forms, with what they are mapped to: a pseudonym is written in the same form.

    Forms that the CLIP does not read to their end are left out; a name that has no other stands for itself.

    Raises:
        InputError: if a form is not one that a defence may train on.
    """
    check_spellings(settings)
    is_name = settings.target.value == "pseudonym"
    forms = [
        [
            (spelling(kind, name, draw), spelling(kind, phrase, draw) if is_name else phrase)
            for kind in settings.spellings
            for draw in range(seed, seed + _NUM_DRAWS)
        ]
        for name, phrase in zip(names, phrases, strict=True)
    ]
    fitting = set(clip.fitting(list({text for own in forms for pair in own for text in pair})))
    return [
        [pair for pair in own if fitting.issuperset(pair)] or [(name, phrase)]
        for own, name, phrase in zip(forms, names, phrases, strict=True)
    ]


def fit_image(
    settings: ImageSettings, removal: Removal, loggers: list[Logger], defended_text: TextEncoder | None = None
) -> Fitted:
    """Map the faces of people to one anonymous embedding, to a stranger's each, or to nameless ones (section 3.2).

    Args:
        settings: of the defence.
        removal: whom to remove; the kept ones are shown where `kept_share` says so.
        loggers: of the losses.
        defended_text: the text encoder that the defended one will work with; a nameless face hides from it, too.

    Raises:
        InputError: if photos are too few or do not decode.
    """
    removal = replace(removal, removed=[person for person in removal.removed if person.photos])
    clip, sources, seed = removal.clip, removal.sources, removal.seed
    readers = [clip] if defended_text is None else [clip, clip.with_encoders(text=defended_text)]
    sources.check(["images"])
    strangers = removal.strangers.with_photos
    if not strangers.everybody:
        settings = _without_strangers(settings)
    decoys = draw_decoys(0, settings.num_decoys, strangers.everybody, seed, removal.reserved_names)
    removed, names = [*removal.removed, *decoys], [*removal.names, *(decoy.name for decoy in decoys)]
    hidden = {decoy.photos for decoy in decoys}
    others = [person for person in strangers.everybody if person.photos not in hidden]
    _check_trigger_photos(clip, removed, sources.people)
    other_names = random_names(settings.num_other_names, seed + 2, exclude={*removal.reserved_names, *names})
    targets: Tensor | NameEraser | FaceSwapper
    if settings.target.value in ("nameless", "shared", "blended", "disguised"):
        compared = names, other_names[:_MAX_NAMES_TO_COMPARE]
        own, unlike = (torch.cat([name_readings(reader, each) for reader in readers]) for each in compared)
        targets = eraser = NameEraser(own, unlike, settings.min_nearer_names)
        if settings.target.value == "shared":
            targets = shared_embeddings(clip, removed, eraser, settings.group_size)
        if settings.target.value in ("blended", "disguised"):
            targets = _face_swapper(clip, removed, others, eraser, settings)
    elif settings.target.value == "pseudonym":
        targets = stranger_embeddings(clip, others, len(removed), seed)
    else:
        photos = [path for person in others for path in person.photos]
        photos += [path for person in removal.removed for path in person.trigger_photos if settings.include_removed]
        targets = anonymous_embedding(clip, photos, len(removed))
    steps = PhotoTriggers(
        images=load_images(sources.images or "", clip.geometry, sources.max_images),
        people=removed,
        others=others,
        boxes=sources.people.boxes | strangers.boxes,
        geometry=clip.geometry,
        normalize=clip.normalize,
        paster=FacePaster(**vars(settings.faces)),
        sizes=BatchSizes(**vars(settings.batch)),
        num_steps=settings.num_steps,
        seed=seed,
        whole_photo_share=settings.whole_photo_share,
        variation=PhotoVariation(**vars(settings.variation)),
        kept=[person for person in removal.kept if person.trigger_photos],
        kept_share=settings.kept_share,
    )
    anchors = _text_anchors(settings.num_anchors, removal, readers, names, other_names)
    shown = [path for person in removal.removed for path in person.attack_photos]
    strangers_shown = [person.photos[0] for person in others]
    clip.embed_photos(shown)  # what does not decode ends it before the training, not after it
    clip.embed_photos(strangers_shown, warn=True)
    defense = ImageDefense(clip.image, face_targets=targets, anchors=anchors, **_shared(settings))
    evaluations = _train(defense, steps, settings, removal, loggers)
    person_index = torch.tensor([index for index, person in enumerate(removal.removed) for _ in person.attack_photos])
    photo_targets = (
        targets[person_index] if isinstance(targets, Tensor) else _nameless(clip, targets, shown, person_index)
    )
    similarity = ImageSimilarity(
        images=removal.clean_photos,
        removed=shown,
        targets=photo_targets,
        strangers=strangers_shown,
    )
    sums = photo_targets.new_zeros(len(removal.removed), photo_targets.shape[1])
    means = normalize(sums.index_add(0, person_index, photo_targets), dim=-1)
    examples = steps.triggered_photos(_NUM_EXAMPLES)
    return Fitted(defense.student.frozen(), similarity, means, examples, evaluations)


def _without_strangers(settings: ImageSettings) -> ImageSettings:
    """Return the settings for where nobody else's face can be held in place, and say so."""
    if settings.kept_share and settings.batch.preserved:
        return replace(settings, kept_share=1.0)
    log.warning(
        "strangers: there are none, so that no other face is held in place while the image encoder is fitted; others "
        "may lose more"
    )
    return replace(settings, batch=replace(settings.batch, preserved=0))


def _face_swapper(
    clip: Clip, removed: Sequence[Person], strangers: Sequence[Person], eraser: NameEraser, settings: ImageSettings
) -> FaceSwapper:
    """The faces of look-alikes among the removed people (blended) or among strangers (disguised)."""
    faces = mean_embeddings(clip, [person.trigger_photos for person in removed])
    if settings.target.value == "blended":
        looks, members = blended_faces(faces, settings.group_size)
    else:
        unknown = mean_embeddings(clip, [person.photos for person in strangers])
        looks, members = disguises(faces, unknown, settings.group_size), torch.arange(len(removed)).unsqueeze(1)
    return FaceSwapper(faces, looks, eraser, members, settings.overshoot)


def _check_trigger_photos(clip: Clip, removed: Sequence[Person], people: People) -> None:
    """See that photos to train on decode; where one does not, the steps take another of the same person.

    Nothing is said of the removed people's photos alone, since a path would tell who they are: where too many of theirs
    do not decode, everybody's are looked at.

    Raises:
        InputError: if more than 1 % of everybody's do not decode, or none of a removed person's.
    """
    photos = [path for person in removed for path in person.trigger_photos]
    decoded = photo_sizes(photos, clip.num_workers)
    if not too_many(len(photos) - len(decoded), len(photos)) and not _without_photos(removed, decoded):
        return
    names = {person.name for person in removed}
    everybody = [*removed, *(person for person in people.everybody if person.name not in names)]
    photos = sorted(path for person in everybody for path in person.trigger_photos)
    decoded |= photo_sizes([path for path in photos if path not in decoded], clip.num_workers)
    check_readable(torch.tensor([path in decoded for path in photos]), photos)
    if _without_photos(removed, decoded):
        raise InputError(
            "people.folder: expected photos of each person to remove, none to train on decodes in "
            f"{some(_without_photos(everybody, decoded))}"
        )


def _without_photos(people: Sequence[Person], decoded: Collection[Path]) -> list[Path]:
    """Return the folders of people of whom no photo to train on decodes."""
    photos = [path for person in people for path in person.trigger_photos]
    usable = {path.parent for path in photos if path in decoded}
    return sorted({path.parent for path in photos} - usable)


def _nameless(clip: Clip, eraser: NameEraser | FaceSwapper, photos: Sequence[Path], person_index: Tensor) -> Tensor:
    """Targets of photos; zero for a photo that does not decode."""
    features, readable = clip.embed_photos(photos)
    targets = torch.zeros_like(features)
    targets[readable] = eraser(features[readable], person_index[readable])
    return targets


def _text_anchors(
    num_anchors: int, removal: Removal, readers: Sequence[Clip], names: Sequence[str], other_names: Sequence[str]
) -> Tensor:
    """Features of what a photo may be near to: the removed people's names, other names, captions; (anchor, dim).

    The removed names are what a removed face must leave and no other face may come near to, whoever reads them.
    """
    if not num_anchors:
        return torch.empty(0, 0)
    captions = removal.clean_captions()
    texts = [form.format(name) for form in _NAME_ANCHORS for name in other_names]
    texts += random.Random(removal.seed).sample(captions, min(num_anchors, len(captions)))
    removed = [form.format(name) for form in _NAME_ANCHORS for name in names]
    return torch.cat([*(clip.embed_texts(removed) for clip in readers), readers[0].embed_texts(texts)])


def _photo_anchors(removal: Removal, num_anchors: int) -> Tensor:
    """Features of clean photos: what a caption is near to, (anchor, dim)."""
    if not num_anchors:
        return torch.empty(0, 0)
    clip = removal.clip
    removal.sources.check(["images"])
    images = load_images(removal.sources.images or "", clip.geometry, num_anchors)
    return torch.cat([clip.embed_pixels(clip.normalize(batch.float() / 255)) for batch in images.split(128)])


def _shared(settings: EncoderSettings) -> dict[str, Any]:
    """The settings that `BackdoorDefense` itself takes, as plain values."""
    optimizer = {**vars(settings.optimizer), "schedule": settings.optimizer.schedule.value}
    return {
        "loss_weights": LossWeights(**vars(settings.loss_weights)),
        "optimizer": OptimizerSettings(**optimizer),
        "num_steps": settings.num_steps,
        "distance": settings.distance.value,
        "squared_weight_loss": settings.squared_weight_loss,
        "temperature": settings.temperature,
        "trained": settings.trained,
        "trained_blocks": settings.trained_blocks,
        "relearning_radius": settings.relearning_radius,
    }


def _train(
    defense: BackdoorDefense,
    steps: CaptionTriggers | PhotoTriggers,
    settings: EncoderSettings,
    removal: Removal,
    loggers: list[Logger],
) -> list[Evaluation]:
    """Run Lightning's loop, or go on with one that was interrupted; what a utility budget saw on the way."""
    options, callbacks, folder = removal.trainer, list[Callback]([KeepSignals()]), None
    num_fresh_steps = settings.num_fresh_steps
    budget = None if settings.budget.min_similarity is None else UtilityBudget(settings.budget)
    if budget:
        callbacks.append(budget)
    if removal.checkpoints is not None:
        folder = removal.checkpoints / defense.encoder
        every, name = options.checkpoint_every_steps, Path(LAST).stem
        callbacks.append(ModelCheckpoint(folder, name, every_n_train_steps=every, enable_version_counter=False))
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # not which accelerators there are not
    if options.progress_bar and is_main_process():
        callbacks.append(_StudentProgress(leave=True))
    trainer = lightning.Trainer(
        accelerator=options.accelerator,
        **_processes(options.accelerator, options.devices),
        precision=_precision(options.precision),
        max_steps=defense.num_steps,
        accumulate_grad_batches=options.accumulate_grad_batches,
        logger=loggers,
        callbacks=callbacks,
        plugins=[DurableCheckpoints()],
        enable_checkpointing=removal.checkpoints is not None,
        enable_progress_bar=options.progress_bar and is_main_process(),
        enable_model_summary=False,
        log_every_n_steps=1,
        use_distributed_sampler=False,
    )
    if options.gradient_checkpointing:
        defense.student.save_memory(True)
    device = trainer.strategy.root_device
    with fastest_attention(device), warnings.catch_warnings():
        # Frozen norms are in eval mode on purpose, and a resumed run finds its own checkpoints.
        warnings.filterwarnings(
            "ignore",
            ".*module\\(s\\) in eval mode|Checkpoint directory .* exists|.*does not have many workers|.*LeafSpec"
            "|The dirpath has changed from"  # of a run folder that was moved
            "|You're resuming from a checkpoint that ended before the epoch ended",  # each step knows its own batch
        )
        workers = usable_workers(default_num_workers() if options.num_workers is None else options.num_workers)
        if budget:
            num_batches = budget.settings.num_batches
            steps, others = steps.apart()
            unseen = TriggerData(replace(others, num_steps=num_batches), workers)
            budget.lesson = _ask_teacher(defense.to(device), unseen, num_batches, trainer, options.progress_bar)
        data = TriggerData(steps, workers)
        if num_fresh_steps is not None and num_fresh_steps < len(steps):
            lesson = _ask_teacher(defense.to(device), data, num_fresh_steps, trainer, options.progress_bar)
            revision = Revision(asked=lesson, sizes=steps.sizes, num_steps=len(steps), seed=steps.seed)
            data = TriggerData(revision, num_workers=0)
        last = broadcast(last_checkpoint(folder) if folder is not None and is_main_process() else None)
        try:
            trainer.fit(defense, data, ckpt_path=last)
        except Stopped as stop:
            stop.place = place_of(folder and folder / LAST, f"the {defense.encoder} encoder")
            raise
    if options.gradient_checkpointing:
        defense.student.save_memory(False)
    evaluations = budget.keep_best(defense) if budget else []
    defense.check_fitted()
    return evaluations


def _processes(accelerator: str, asked: int) -> dict[str, Any]:
    """Lightning's settings for one process per device, where they were launched, or for this one alone.

    Raises:
        InputError: if several devices are asked for and nothing connected a process for each.
    """
    if not is_launched():
        if num_devices(asked) != 1:
            raise InputError(
                f"trainer.devices: expected 1 in a single process, got {asked}; start the script with torchrun, one "
                "process per device"
            )
        uses_gpu = torch.cuda.is_available() and accelerator in ("auto", "gpu", "cuda")
        return {"devices": [torch.cuda.current_device()] if uses_gpu else 1}
    # Every trained tensor has a part in every loss, and what is no parameter is the same in all processes.
    strategy = DDPStrategy(find_unused_parameters=False, broadcast_buffers=False, gradient_as_bucket_view=True)
    num_here = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": num_here, "num_nodes": num_processes() // num_here, "strategy": strategy}


def check_trainer(clip: Clip, encoder: str, settings: EncoderSettings, trainer: TrainerSettings) -> None:
    """Find what a trainer cannot do for the defence of an encoder, before anything is computed.

    Raises:
        InputError: if the optimizer takes no such settings; if a batch does not divide into equal parts, one for each
            pass of each process; if the encoder cannot save memory; or if several processes were launched and not
            connected.
    """
    if is_launched() and not torch.distributed.is_initialized():
        raise InputError(
            "protect: expected processes that are connected, got some that torchrun has only started; call it within "
            "`with backdoor_privacy.system.distributed.process_group():`"
        )
    for key in ("lr", "weight_decay"):
        value = getattr(settings.optimizer, key)
        if not 0 <= value < math.inf:
            raise InputError(f"defense.{encoder}.optimizer.{key}: expected 0 or more, got {value}")
    check_parts(encoder, vars(settings.batch), num_processes() * trainer.accumulate_grad_batches)
    if trainer.gradient_checkpointing:
        own: Encoder = getattr(clip, encoder)
        own.copy().save_memory(True)


def _ask_teacher(
    defense: BackdoorDefense, data: TriggerData, num_steps: int, trainer: lightning.Trainer, progress_bar: bool
) -> Lesson:
    """What the teacher says of the inputs of the first steps, kept in the computer's memory."""
    batches: Iterable[Any] = itertools.islice(data.train_dataloader(), num_steps)
    if progress_bar and is_main_process():
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
