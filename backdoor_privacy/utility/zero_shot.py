"""Measure the zero-shot classification of photos by class names in prompt templates."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, NamedTuple

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from backdoor_privacy.clip.finite import unit_length
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.photos import is_left_behind, list_photos, photo_files, photos_of
from backdoor_privacy.data.shards import ShardSample, find_shards, samples_left_out, unpack_shards
from backdoor_privacy.data.texts import read_lines
from backdoor_privacy.errors import InputError, some
from backdoor_privacy.system.digests import lines_sha256, name_and_size
from backdoor_privacy.system.files import name_as_text
from backdoor_privacy.system.hardware import fastest_attention
from backdoor_privacy.utility.base import Contents, Label, Measure

log = logging.getLogger(__name__)

Template = str | Callable[[str], str]
_KEY = "utility.zero_shot"
_RANKS = (1, 5)
_CLASSNAMES, _TEMPLATES, _BENCHMARK_TEMPLATES = (
    "classnames.txt",
    "templates.txt",
    "zeroshot_classification_templates.txt",
)
_EXPECTED_CLASSNAMES = f"{_KEY}.folder: expected {_CLASSNAMES} with a class name a line"
_EXPECTED_TEMPLATES = f"{_KEY}.folder: expected templates, one a line with {{}} or {{c}} for the class name"


class LabelledPhotos(NamedTuple):
    """Photos, each with the index of its class among the class names."""

    photos: list[Path]
    labels: list[int]
    classnames: Sequence[str]  # also those of classes without a photo, which are candidates as well
    templates: Sequence[Template]


@dataclass(frozen=True)
class ZeroShot(Measure):
    """Zero-shot classification of photos that lie in a folder per class.

    Classes have the order of the folders' names; if all names are numbers, the order of the numbers. An underscore in a
    folder's name is a space. Two files may lie beside the folders:

    - `classnames.txt` has one class name per line, in the order of the folders. If the folders are numbered, folder 0
      has the first line, and a blank line is a number without a class.
    - `templates.txt` has one prompt per line, with `{}` or `{c}` in the place of the class name.

    The classifier is the mean of the normalised embeddings of all templates, normalised again (open_clip).

    Args:
        folder: holds the folders of the classes.
        templates: replace those of `templates.txt`; without either, open_clip's 80.
        classnames: replace those of `classnames.txt`; without either, the folders' names.
    """

    name: ClassVar[str] = "zero_shot"

    folder: str | Path
    templates: Sequence[Template] | None = None
    classnames: Sequence[str] | None = None

    def measure(self, clip: Clip) -> dict[str, float]:
        """Measure top-1 and top-5 accuracy in [0, 1], with the counts behind them; with a single class both are 1.

        Raises:
            InputError: see `data`.
        """
        photos, class_indices, classnames, templates = self.data
        labels = torch.tensor(class_indices)
        features, readable = clip.embed_photos(photos, warn=True)
        logits = (features @ zero_shot_classifier(clip, classnames, templates))[readable]
        num_classes = max(2, len(classnames))  # torchmetrics needs two: the second one is the class of no photo
        logits = F.pad(logits, (0, num_classes - len(classnames)), value=-torch.inf)
        accuracies = {
            f"zero_shot/top{k}": MulticlassAccuracy(num_classes, top_k=min(k, len(classnames)), average="micro")(
                logits, labels[readable]
            ).item()
            for k in _RANKS
        }
        return accuracies | {
            "zero_shot/num_photos": float(readable.sum()),
            "zero_shot/num_classes": float(len(classnames)),
        }

    @classmethod
    def labels(cls, measured: Mapping[str, float]) -> dict[str, Label]:
        """Say what reports call the accuracies."""
        photos, classes = (measured.get(f"zero_shot/num_{counted}", 0) for counted in ("photos", "classes"))
        note = f"of {photos:,.0f} photos in {classes:,.0f} classes"
        return {
            f"zero_shot/top{k}": Label(f"Zero-shot top-{k} accuracy", note, f"zero_shot_top{k}" if k == 1 else "")
            for k in _RANKS
        }

    def photos(self) -> list[Path]:
        """Return all photos, class by class."""
        return self.data.photos

    def contents(self) -> Contents:
        """Return the photos, each with its class."""
        photos, labels, classnames, _ = self.data
        texts = {photo: classnames[label] for photo, label in zip(photos, labels, strict=True)}
        summary = f"{len(photos):,}, of {len(classnames):,} classes"
        return Contents("zero-shot photos", summary, texts, list_photos(self.folder, depth=2).left_out)

    def digest(self) -> dict[str, int | str]:
        """Return counts, and a digest of the photos' names and sizes with their classes."""
        photos, labels, classnames, _ = self.data
        lines = (f"{name_and_size(photo)}\t{classnames[label]}" for photo, label in zip(photos, labels, strict=True))
        return {"num_classes": len(classnames), "num_photos": len(photos), "sha256": lines_sha256(lines)}

    @cached_property
    def data(self) -> LabelledPhotos:
        """Return what the folder holds.

        Raises:
            InputError: if it holds no class, or the files beside the classes do not fit them.
        """
        root = Path(self.folder).expanduser()
        folders = [path for path in root.glob("*") if path.is_dir() and not is_left_behind(path.name)]
        numbered = all(path.name.isdecimal() for path in folders)
        folders.sort(key=lambda path: int(path.name) if numbered else path.name)
        lines = self.classnames or _lines_in(root, _EXPECTED_CLASSNAMES, _CLASSNAMES)
        if lines:
            classnames, class_indices = _named_by_lines(lines, folders, numbered)
        else:
            classnames, class_indices = _named_by_folders(folders), list(range(len(folders)))
        photos = [photo_files(folder, depth=1) for folder in folders]
        if not any(photos):
            raise InputError(f"{_KEY}.folder: expected one folder of photos per class, found none in {root}")
        _warn_of_empty([folder for folder, own in zip(folders, photos, strict=True) if not own])
        templates = self.templates or list(
            filter(None, _lines_in(root, _EXPECTED_TEMPLATES, _TEMPLATES, _BENCHMARK_TEMPLATES))
        )
        return LabelledPhotos(
            photos=[photo for own in photos for photo in own],
            labels=[index for index, own in zip(class_indices, photos, strict=True) for _ in own],
            classnames=classnames,
            templates=[_with_place(template) for template in templates or open_clip.OPENAI_IMAGENET_TEMPLATES],
        )


def _warn_of_empty(folders: Sequence[Path]) -> None:
    if folders:
        log.warning(
            "%s.folder: %d classes have no photo directly in their folder, and photos of others may be taken for them: "
            "%s",
            _KEY,
            len(folders),
            some(str(folder) for folder in folders),
        )


def imagenet(folder: str | Path, templates: Sequence[Template] | None = None) -> ZeroShot:
    """Return the measure on ImageNet's validation folders (named by WordNet id) or ImageNetV2's (0 to 999).

    The class names are open_clip's.
    """
    return ZeroShot(folder, templates, open_clip.IMAGENET_CLASSNAMES)


def clip_benchmark(
    folder: str, cache: str | Path, split: str = "test", templates: Sequence[Template] | None = None
) -> ZeroShot:
    """Return the measure on a data set of CLIP_benchmark: shards of photos with `cls`, the index of the class name.

    Args:
        folder: with `classnames.txt`, `zeroshot_classification_templates.txt`, `<split>/nshards.txt`, `<split>/0.tar`
            and so on; or its URL, as `https://huggingface.co/datasets/clip-benchmark/wds_cars/tree/main`.
        cache: folder that the shards are unpacked into, once.
        split: which shards to read.
        templates: replace those of the data set.

    Raises:
        InputError: if one of these files is missing or broken.
    """
    root = str(folder).rstrip("/")
    if root.startswith("https://huggingface.co/"):
        root = root.replace("/tree/", "/resolve/")  # from the page of a data set to its files
    counted = f"{_KEY}.folder: expected the number of shards in {split}/nshards.txt"
    num_shards = "".join(read_lines(f"{root}/{split}/nshards.txt", counted))
    if not num_shards.isdecimal() or int(num_shards) == 0:
        raise InputError(f"{counted}, got {num_shards[:20]!r} in {root}")
    shards = find_shards(f"{root}/{split}/{{0..{int(num_shards) - 1}}}.tar", f"{_KEY}.folder")
    classnames = read_lines(f"{root}/{_CLASSNAMES}", _EXPECTED_CLASSNAMES, keep_blank=True)
    templates = templates or read_lines(f"{root}/{_BENCHMARK_TEMPLATES}", _EXPECTED_TEMPLATES)
    unpacked = unpack_shards(shards, f"{_KEY}.folder", cache, _by_class)
    samples_left_out(unpacked, f"{_KEY}.folder")
    return ZeroShot(unpacked, templates, classnames)


def _by_class(sample: ShardSample, number: int) -> dict[str, bytes]:
    """Return the photo of a sample by its path: a folder named after the number of its class."""
    photos = photos_of(sample.files)
    if not photos:
        return {}
    label = sample.files.get("cls", b"").decode("utf-8-sig", errors="replace").strip()
    if not label.isdecimal():
        raise InputError(
            f"{_KEY}.folder: expected photos with cls, the number of a class, got {label!r} in sample {sample.place}"
        )
    return {f"{label}/{number:08}.{suffix}": content for suffix, content in photos.items()}


def _named_by_lines(lines: Sequence[str], folders: Sequence[Path], numbered: bool) -> tuple[list[str], list[int]]:
    """Return the class names in lines that are not blank, and the index of each folder's class among them."""
    classnames = [line for line in lines if line]
    if not (folders and (int(folders[-1].name) < len(lines) if numbered else len(folders) == len(classnames))):
        raise InputError(
            f"{_KEY}.folder: expected {len(classnames)} folders, or names from 0 to {len(lines) - 1}, for "
            f"{len(classnames)} class names, got {len(folders)} folders{_last(folders)}"
        )
    if not numbered:
        return classnames, list(range(len(folders)))
    numbers = [int(path.name) for path in folders]
    blank = [number for number in numbers if not lines[number]]
    if blank:
        raise InputError(
            f"{_KEY}.folder: expected a class name for each numbered folder, got a blank line for folder {blank[0]}, "
            f"line {blank[0] + 1} of the class names; fill it in"
        )
    return classnames, [sum(map(bool, lines[:number])) for number in numbers]


def _last(folders: Sequence[Path]) -> str:
    return f" in {folders[-1].parent}, the last {folders[-1].name}" if folders else ""


def _named_by_folders(folders: Sequence[Path]) -> list[str]:
    classnames = [" ".join(name_as_text(path.name).replace("_", " ").split()) for path in folders]
    odd = [path for path, name in zip(folders, classnames, strict=True) if not name or classnames.count(name) > 1]
    if odd:
        raise InputError(
            f"{_KEY}.folder: expected a name of its own for each class, with spaces for underscores, got the folder "
            f"{odd[0]}; rename it or write {_CLASSNAMES}"
        )
    return classnames


def _lines_in(root: Path, expected: str, *names: str) -> list[str]:
    """Return the lines of the first of these files that exists, blank ones too; without any file, no lines."""
    files = (root / name for name in names if (root / name).is_file())
    return next((read_lines(file, expected, keep_blank=True) for file in files), [])


def _with_place(template: Template) -> Template:
    """Return the template with `{0}` as the place of the class name; one that is a function as it is."""
    if not isinstance(template, str):
        return template
    placed = template.replace("{c}", "{0}").replace("{}", "{0}")
    rest = placed.replace("{0}", "")
    if rest == placed or {"{", "}"} & set(rest):
        raise InputError(f"{_KEY}.templates: expected {{}} or {{c}} in the place of the class name, got {template!r}")
    return placed


def zero_shot_classifier(
    clip: Clip, classnames: Sequence[str], templates: Sequence[Template]
) -> Float[Tensor, "dim class"]:
    """Return open_clip's zero-shot classifier, made with the CLIP's text encoder."""
    key = (*classnames, *templates)
    if key not in clip.text.embedded:
        texts = [_fill(template, name) for template in templates for name in classnames]
        features = clip.stored_texts("classifier", texts, lambda: {"classifier": _build(clip, classnames, templates)})
        clip.text.embedded[key] = features["classifier"]
    return clip.text.embedded[key]


def _fill(template: Template, classname: str) -> str:
    return template.format(classname) if isinstance(template, str) else template(classname)


def _build(clip: Clip, classnames: Sequence[str], templates: Sequence[Template]) -> Tensor:
    device = next(clip.text.parameters()).device
    reader = SimpleNamespace(encode_text=lambda tokens, normalize: unit_length(clip.text.embed(tokens), "text"))
    with fastest_attention(device), torch.autocast(device.type, torch.bfloat16, enabled=clip.precision == "bf16"):
        classifier = open_clip.build_zero_shot_classifier(
            reader, clip.tokenizer, classnames, templates, num_classes_per_batch=10, device=device
        )
    return classifier.float().cpu()
