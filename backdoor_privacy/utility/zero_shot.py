"""Zero-shot classification of photos by class names in prompt templates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import open_clip
import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from backdoor_privacy.clip import Clip
from backdoor_privacy.data.people import PHOTO_SUFFIXES
from backdoor_privacy.errors import InputError
from backdoor_privacy.hardware import fastest_attention


@dataclass(frozen=True)
class ZeroShot:
    """Photos in a folder per class; the folders' names are the class names.

    Classifier: mean of the normalised embeddings of all templates, normalised again (open_clip).
    """

    folder: str | Path
    templates: Sequence[str | Callable[[str], str]] = open_clip.OPENAI_IMAGENET_TEMPLATES

    def measure(self, clip: Clip) -> dict[str, float]:
        """Top-1 and top-5 accuracy in [0, 1], and the number of photos behind them.

        Raises:
            InputError: if the folder holds no class.
        """
        photos = self.photos()
        classnames = sorted({path.parent.name for path in photos})
        labels = torch.tensor([classnames.index(path.parent.name) for path in photos])
        features, readable = clip.embed_photos(photos)
        logits = (features @ self.classifier(clip, classnames))[readable]
        accuracies = {
            f"zero_shot/top{k}": MulticlassAccuracy(len(classnames), top_k=min(k, len(classnames)), average="micro")(
                logits, labels[readable]
            ).item()
            for k in (1, 5)
        }
        return accuracies | {
            "zero_shot/num_photos": float(readable.sum()),
            "zero_shot/num_classes": float(len(classnames)),
        }

    def classifier(self, clip: Clip, classnames: Sequence[str]) -> Float[Tensor, "dim class"]:
        """open_clip's zero-shot classifier of the CLIP's text encoder."""
        key = (*classnames, *self.templates)
        if key not in clip.text.embedded:
            device = next(clip.text.parameters()).device
            with (
                fastest_attention(device),
                torch.autocast(device.type, torch.bfloat16, enabled=clip.precision == "bf16"),
            ):
                classifier = open_clip.build_zero_shot_classifier(
                    clip.text.model, clip.tokenizer, classnames, self.templates, num_classes_per_batch=10, device=device
                )
            clip.text.embedded[key] = classifier.float().cpu()
        return clip.text.embedded[key]

    def photos(self) -> list[Path]:
        """All photos, class by class.

        Raises:
            InputError: if the folder holds no class.
        """
        photos = sorted(path for path in Path(self.folder).glob("*/*") if path.suffix.lower() in PHOTO_SUFFIXES)
        if not photos:
            raise InputError(
                f"utility.zero_shot.folder: expected one folder of photos per class, found none in {self.folder}"
            )
        return photos
