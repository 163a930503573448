"""Fine-tune a CLIP as its new owner may: on photos of people with their names, by CLIP's own contrastive loss."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import open_clip
import torch
from torch import Tensor

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.text import OpenClipTextEncoder
from backdoor_privacy.data.photo_memory import PhotoMemory, Views
from backdoor_privacy.data.photos import as_bytes, read_photo
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.hardware import fastest_attention

_CAPTION = "a photo of {}"
_USUAL_TEMPERATURE = 0.07  # where the model has none of its own


class Lesson(NamedTuple):
    """A person to teach the CLIP: a name, and photos."""

    name: str
    photos: tuple[Path, ...]  # one or more


@dataclass(frozen=True)
class FineTuning:
    """Fine-tuning of both encoders by AdamW without weight decay; normalisation layers stay frozen."""

    batch_size: int  # pairs per step, each of another person
    learning_rate: float
    temperature: float | None  # of the contrastive loss; `None`: the model's own

    def __post_init__(self) -> None:
        # The contrastive loss of one pair is zero, so that nothing would be learnt.
        if self.batch_size < 2:
            raise InputError(f"fine-tuning: batch_size: expected 2 or more pairs, got {self.batch_size}")
        if self.temperature is not None and self.temperature <= 0:
            raise InputError(f"fine-tuning: temperature: expected more than 0, or null, got {self.temperature}")

    def run(
        self, clip: Clip, taught: Sequence[Lesson], others: Sequence[Lesson], steps: Sequence[int], seed: int
    ) -> Iterator[tuple[int, Clip]]:
        """Yield a copy of the CLIP after each of these numbers of steps; the CLIP itself stays as it is.

        Args:
            clip: to fine-tune.
            taught: half of each batch; all of it if there are no others.
            others: the rest of each batch, to contrast with.
            steps: ascending, each 1 or more.
            seed: of the order of people.
        """
        if not steps:
            return
        text, image = clip.text.student(), clip.image.student()
        trained = [parameter for encoder in (text, image) for _, parameter in encoder.trainable()]
        optimizer = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=0.0, fused=True)
        scale = torch.tensor(1 / (self.temperature or own_temperature(clip)), device=trained[0].device)
        # The memory holds bytes; the CLIP normalises pixels in [0, 1], see `Clip.geometry`.
        memory, decode = PhotoMemory(), partial(_decode, clip)
        for step, batch in enumerate(islice(batches(taught, others, self.batch_size, seed), steps[-1]), 1):
            readable = [(name, views[0]) for name, path in batch if (views := memory.get(path, decode)) is not None]
            if readable:
                captions = [_CAPTION.format(name) for name, _ in readable]
                pixels = clip.normalize(torch.stack([pixels for _, pixels in readable]).float() / 255)
                loss = self._loss(clip, text, image, clip.tokenizer(captions), pixels, scale)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            if step in steps:
                yield step, clip.with_encoders(text=text.frozen(), image=image.frozen())

    @staticmethod
    def _loss(clip: Clip, text: Encoder, image: Encoder, tokens: Tensor, pixels: Tensor, scale: Tensor) -> Tensor:
        device = scale.device
        with fastest_attention(device), torch.autocast(device.type, torch.bfloat16, enabled=clip.precision == "bf16"):
            features = [image.embed(pixels.to(device)), text.embed(tokens.to(device))]
        unit = [torch.nn.functional.normalize(part.float(), dim=-1) for part in features]
        return open_clip.ClipLoss()(*unit, scale)


def own_temperature(clip: Clip) -> float:
    """Return the temperature that a CLIP was trained with; 0.07 where its text encoder does not hold it."""
    model = clip.text.model if isinstance(clip.text, OpenClipTextEncoder) else None
    scale = getattr(model, "logit_scale", None)
    return _USUAL_TEMPERATURE if scale is None else 1 / scale.detach().exp().flatten()[0].item()


def batches(
    taught: Sequence[Lesson], others: Sequence[Lesson], batch_size: int, seed: int
) -> Iterator[list[tuple[str, Path]]]:
    """Yield batches of names with a photo, without end.

    Nobody is twice in a batch, and everybody is drawn as often as the others of the same kind.

    Args:
        taught: half of each batch, or as many as there are; all of it if there are no others.
        others: the rest, or as many as there are.
        batch_size: pairs, at most.
        seed: of the order of people; each person's photos come in their own order, again and again.
    """
    num_taught = min(len(taught), max(1, batch_size // 2) if others else batch_size)
    num_others = min(len(others), batch_size - num_taught)
    draws = [
        _rounds(len(lessons), count, random.Random(f"{seed} {kind}"))
        for kind, lessons, count in (("taught", taught, num_taught), ("others", others, num_others))
    ]
    times: dict[str, int] = {}
    for rows in zip(*draws, strict=True):
        batch = []
        for lesson in [taught[row] for row in rows[0]] + [others[row] for row in rows[1]]:
            times[lesson.name] = times.get(lesson.name, -1) + 1
            batch.append((lesson.name, lesson.photos[times[lesson.name] % len(lesson.photos)]))
        yield batch


def _rounds(num: int, count: int, rng: random.Random) -> Iterator[list[int]]:
    """Yield `count` different numbers below `num` at a time, so that each comes as often as the others."""
    queue: list[int] = []
    while True:
        drawn, queue = queue[:count], queue[count:]
        if len(drawn) < count:  # a new round; numbers drawn already wait for a later batch of it
            queue = list(range(num))
            rng.shuffle(queue)
            fresh = [number for number in queue if number not in drawn][: count - len(drawn)]
            drawn, queue = drawn + fresh, [number for number in queue if number not in fresh]
        yield drawn


def _decode(clip: Clip, path: Path) -> Views | None:
    """Return a photo in the CLIP's size; `None` if it does not decode."""
    photo = read_photo(path)
    return None if photo is None else (as_bytes(photo, clip.geometry),)
