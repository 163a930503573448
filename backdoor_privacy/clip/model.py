"""A CLIP as two encoders: embed texts and photos with it, and save a defended one."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.tokenizer import HFTokenizer
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import Normalize

from backdoor_privacy.clip.encoders import Encoder, ImageEncoder, TextEncoder
from backdoor_privacy.clip.finite import check_weights, unit_length
from backdoor_privacy.clip.preprocessing import Preprocessing
from backdoor_privacy.clip.store import Features, FeatureStore, weights_sha256
from backdoor_privacy.data.photos import PhotoBatch, as_bytes, check_readable, content_of, photo_loader
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.distributed import gather_rows, rank, shares_of
from backdoor_privacy.system.files import complete_folder
from backdoor_privacy.system.hardware import fastest_attention
from backdoor_privacy.triggers.names import read_to_the_end

_TEXT_BATCH_SIZE, _PHOTO_BATCH_SIZE = 512, 128
_MAX_DECODED_BYTES = 400 * 2**20  # of photos kept for the next image encoder that is asked about them


@dataclass(frozen=True)
class Clip:
    """A CLIP as two encoders, with what they need to read texts and photos."""

    text: TextEncoder
    image: ImageEncoder
    tokenizer: Callable[[list[str]], Tensor]
    config: dict[str, Any] = field(repr=False)  # content of open_clip_config.json
    precision: Literal["fp32", "bf16"] = "fp32"  # of the passes of `embed_*`
    num_workers: int = 0  # processes that decode photos
    decoded: dict[tuple[Path, ...], list[PhotoBatch]] = field(default_factory=dict, repr=False)  # as bytes

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """open_clip's transform for evaluation: a photo to normalised pixels."""
        return Preprocessing(self.config["preprocess_cfg"])

    @property
    def geometry(self) -> Callable[[Image.Image], Tensor]:
        """The same without the normalisation: pixels in [0, 1], to put a face on."""
        plain = self.config["preprocess_cfg"] | {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        return Preprocessing(plain)

    @property
    def normalize(self) -> nn.Module:
        """The normalisation that `geometry` leaves out."""
        return Normalize(self.config["preprocess_cfg"]["mean"], self.config["preprocess_cfg"]["std"])

    @property
    def dim(self) -> int:
        """Numbers of an embedding."""
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        """The encoders by their names."""
        return {"text": self.text, "image": self.image}

    def with_encoders(self, **encoders: Encoder) -> "Clip":
        """Return the same CLIP with other encoders by their names, each moved to the device of the one it replaces.

        Lightning leaves a trained encoder on the CPU.
        """
        changes: dict[str, Any] = {name: one.to(_device_of(self.encoders[name])) for name, one in encoders.items()}
        return replace(self, **changes)

    def fitting(self, texts: Sequence[str]) -> list[str]:
        """Those of the texts that are read to their end."""
        return [text for text, fits in zip(texts, read_to_the_end(texts, self.tokenizer), strict=True) if fits]

    def check_fits(self, names: Sequence[str], key: str = "trigger_set", *, tell: bool = True) -> None:
        """See that names are read to their end.

        Args:
            names: of people, or phrases.
            key: of the setting that they come from, for the error.
            tell: whether the error may name one of them.

        Raises:
            InputError: if some are longer than the texts that the CLIP reads.
        """
        fitting = set(self.fitting(names))
        cut = [name for name in names if name not in fitting]
        if cut:
            length = self.tokenizer([""]).shape[1]
            raise InputError(
                f"{key}: expected names that fit into the {length} tokens of a text, got {len(cut)} "
                f"longer ones{f', {cut[0][:60]}...' if tell else ''}; shorten "
                + ("the names of their folders" if key == "trigger_set" else "it")
            )

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """Unit-length features, in fp32; each distinct text is read once."""
        known, key = self.text.embedded, tuple(texts)
        if key not in known:
            distinct = list(dict.fromkeys(texts))
            made = self.stored_texts("texts", distinct, lambda: {"features": self._read_texts(distinct)})
            features = made["features"]
            if len(distinct) < len(key):
                place = {text: number for number, text in enumerate(distinct)}
                features = features[[place[text] for text in texts]]
            known[key] = features
        return known[key]

    def _read_texts(self, texts: Sequence[str]) -> Tensor:
        shares = _shares(len(texts), _TEXT_BATCH_SIZE)
        own = list(texts[shares[rank()].start : shares[rank()].stop])
        features = torch.empty(len(own), self.config["model_cfg"]["embed_dim"])
        for start in range(0, len(own), _TEXT_BATCH_SIZE):
            batch = slice(start, start + _TEXT_BATCH_SIZE)
            features[batch] = self._embed(self.text, self.tokenizer(own[batch]))
        return gather_rows(features, [len(share) for share in shares])

    def embed_photos(
        self, paths: Sequence[Path], *, warn: bool = False
    ) -> tuple[Float[Tensor, "photo dim"], Bool[Tensor, "photo"]]:
        """Unit-length features in fp32, and which photos could be read; the rows of the others are zero.

        Args:
            paths: of the photos.
            warn: whether to name those that do not decode: of a few people's photos that would tell who they are.

        Raises:
            InputError: if more than 1 % do not decode, of these and all that this encoder has seen.
        """
        known: dict[Path, Tensor | None] = self.image.embedded  # None for a photo that does not decode
        asked = tuple(path for path in dict.fromkeys(paths) if path not in known)
        fresh: dict[Path, Tensor | None] = {}
        if asked:
            made = (
                self._look_at(asked)
                if self.image.store is None
                else self.image.store.get("photos", map(content_of, asked), lambda: self._look_at(asked))
            )
            rows = zip(asked, made["features"], made["readable"].tolist(), strict=True)
            fresh = {path: features if ok else None for path, features, ok in rows}
        found = [fresh[path] if path in fresh else known[path] for path in paths]
        readable = torch.tensor([features is not None for features in found], dtype=torch.bool)
        try:
            if asked:
                seen_before = [one is not None for one in known.values()]
                check_readable(made["readable"], asked, seen_before=seen_before, warn=warn)
        except InputError:
            self.decoded.clear()  # nor is anything remembered of them: they may be repaired
            raise
        known.update(fresh)
        features = torch.zeros(len(paths), self.config["model_cfg"]["embed_dim"])
        if readable.any():
            features[readable] = torch.stack([one for one in found if one is not None])
        return features, readable

    def _look_at(self, paths: Sequence[Path]) -> dict[str, Tensor]:
        shares = _shares(len(paths), _PHOTO_BATCH_SIZE)
        own = tuple(paths[shares[rank()].start : shares[rank()].stop])
        features = torch.zeros(len(own), self.config["model_cfg"]["embed_dim"])
        readable = torch.zeros(len(own), dtype=torch.bool)
        for pixels, places in self._decode(own) if own else ():
            if len(places):
                features[places] = self._embed(self.image, self.normalize(pixels.float() / 255))
                readable[places] = True
        num_rows = [len(share) for share in shares]
        return {"features": gather_rows(features, num_rows), "readable": gather_rows(readable, num_rows)}

    def stored_texts(self, kind: str, texts: Sequence[str], make: Callable[[], Features]) -> Features:
        """What the text encoder makes of these texts; from the disk, where it is kept there."""
        if self.text.store is None:
            return make()
        tokens = (
            row.numpy().tobytes()
            for start in range(0, len(texts), 4096)
            for row in self.tokenizer(list(texts[start : start + 4096]))
        )
        return self.text.store.get(kind, tokens, make)

    def keep_features(self, folder: str | Path) -> None:
        """Keep on disk what these encoders embed; what a defence makes of them does not."""
        for encoder in (self.text, self.image):
            tensors = {**dict(encoder.named_parameters()), **dict(encoder.named_buffers())}
            settings = {
                "config": self.config,
                "own_config": getattr(getattr(encoder, "model", None), "config", None),  # of transformers
                "precision": self.precision,
                "device": _device_of(encoder).type,
                "kind": type(encoder).__qualname__,
            }
            encoder.store = FeatureStore(folder, tensors, settings)

    def _decode(self, paths: tuple[Path, ...]) -> Iterator[PhotoBatch]:
        """Photos as bytes, not yet normalised; as far as there is room, they are read from their files only once."""
        if paths in self.decoded:
            yield from self.decoded[paths]
            return
        batches, num_bytes = [], sum(batch.pixels.nbytes for known in self.decoded.values() for batch in known)
        to_bytes = partial(as_bytes, geometry=self.geometry)  # not a lambda: a spawned process could not have it
        for batch in photo_loader(paths, to_bytes, batch_size=_PHOTO_BATCH_SIZE, num_workers=self.num_workers):
            yield batch
            num_bytes += batch.pixels.nbytes
            if num_bytes <= _MAX_DECODED_BYTES:
                batches.append(batch)
        if num_bytes <= _MAX_DECODED_BYTES:
            self.decoded[paths] = batches

    def embed_pixels(self, pixels: Float[Tensor, "photo 3 side side"]) -> Float[Tensor, "photo dim"]:
        """Unit-length features in fp32 of photos that are already normalised."""
        return self._embed(self.image, pixels)

    @torch.no_grad()
    def _embed(self, encoder: Encoder, inputs: Tensor) -> Tensor:
        device = _device_of(encoder)
        with fastest_attention(device), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features = encoder.embed(inputs.to(device))
        return unit_length(features.float(), "image" if encoder is self.image else "text").cpu()

    def to_open_clip(self) -> nn.Module:
        """A plain open_clip model of both encoders, of the class that the original had."""
        model = deepcopy(self.text.model)
        model.visual = deepcopy(self.image.visual)
        return model.eval().requires_grad_(True).to(memory_format=torch.contiguous_format)

    def save(self, folder: Path) -> None:
        """Write an open_clip local-dir, complete or not at all."""
        write_local_dir(folder, self.to_open_clip(), self.config, tokenizer=self.tokenizer)

    def sha256(self) -> str:
        """Digest over names, shapes and values of all weights."""
        return weights_sha256({**self.text.tensors(), **self.image.tensors()})


def write_local_dir(
    folder: Path,
    model: nn.Module,
    config: dict[str, Any],
    dtype: torch.dtype = torch.float32,
    tokenizer: Callable[[list[str]], Tensor] | None = None,
) -> None:
    """Write a model as an open_clip local-dir, complete or not at all: architecture, preprocessing and weights.

    Raises:
        InputError: if a weight is not finite, in this type; nothing is written then.
    """
    state = {
        # Counters, as of BatchNorm, stay whole numbers.
        name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous().clone()
        for name, tensor in model.state_dict().items()
    }
    check_weights(state, f"{folder}", "nothing was written; train again with a lower learning rate")
    with complete_folder(folder) as draft:
        save_file(state, draft / HF_SAFE_WEIGHTS_NAME)
        (draft / HF_CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        if isinstance(tokenizer, HFTokenizer):  # others are part of open_clip
            tokenizer.tokenizer.save_pretrained(str(draft))


def _shares(num: int, batch_size: int) -> list[range]:
    """Of so many inputs those of each process, in the very batches that one process would make."""
    parts = shares_of(-(-num // batch_size))
    return [range(min(num, part.start * batch_size), min(num, part.stop * batch_size)) for part in parts]


def _device_of(encoder: Encoder) -> torch.device:
    return next(encoder.parameters()).device
