"""Embed texts and photos with the two encoders of a CLIP, exchange an encoder, and save the whole."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import Normalize

from backdoor_privacy.clip.architecture import OpenClipConfig
from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.export import write_local_dir
from backdoor_privacy.clip.finite import unit_length
from backdoor_privacy.clip.image import ImageEncoder
from backdoor_privacy.clip.preprocessing import Preprocessing
from backdoor_privacy.clip.store import Features, FeatureStore, weights_sha256
from backdoor_privacy.clip.text import OpenClipTextEncoder, TextEncoder
from backdoor_privacy.data.photos import PhotoBatch, as_bytes, check_readable, photo_loader, photo_sha256
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.distributed import gather_rows, rank, shares_of
from backdoor_privacy.system.hardware import fastest_attention
from backdoor_privacy.triggers.names import Tokenizer, read_to_the_end

_TEXT_BATCH_SIZE, _PHOTO_BATCH_SIZE = 512, 128
_MAX_DECODED_BYTES = 400 * 2**20  # of decoded photos kept for the next image encoder


@dataclass(frozen=True)
class Clip:
    """A CLIP as two encoders, with what they need to read texts and photos."""

    text: TextEncoder
    image: ImageEncoder
    tokenizer: Tokenizer
    config: OpenClipConfig = field(repr=False)  # content of open_clip_config.json
    precision: Literal["fp32", "bf16"] = "fp32"  # of the passes of `embed_*`
    num_workers: int = 0  # processes that decode photos
    decoded: dict[tuple[Path, ...], list[PhotoBatch]] = field(default_factory=dict, repr=False)  # photos, as bytes

    @property
    def preprocess(self) -> Callable[[Image.Image], Tensor]:
        """open_clip's transform for evaluation, from a photo to normalised pixels."""
        return Preprocessing(self.config["preprocess_cfg"])

    @property
    def geometry(self) -> Callable[[Image.Image], Tensor]:
        """`preprocess` without the normalisation: pixels in [0, 1], to paste a face onto."""
        plain = self.config["preprocess_cfg"] | {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        return Preprocessing(plain)

    @property
    def normalize(self) -> nn.Module:
        """The normalisation that `geometry` leaves out."""
        return Normalize(self.config["preprocess_cfg"]["mean"], self.config["preprocess_cfg"]["std"])

    @property
    def dim(self) -> int:
        """Dimension of the embedding space."""
        return int(self.config["model_cfg"]["embed_dim"])

    @property
    def encoders(self) -> Mapping[str, Encoder]:
        """The encoders by their names."""
        return {"text": self.text, "image": self.image}

    def with_encoders(self, **encoders: Encoder) -> "Clip":
        """Return the CLIP with other encoders, by name, each moved to the device of the one that it replaces.

        Lightning leaves a trained encoder on the CPU.
        """
        moved = {name: encoder.to(_device_of(self.encoders[name])) for name, encoder in encoders.items()}
        text, image = moved.get("text", self.text), moved.get("image", self.image)
        assert isinstance(text, TextEncoder)
        assert isinstance(image, ImageEncoder)
        return replace(self, text=text, image=image)

    def fitting(self, texts: Sequence[str]) -> list[str]:
        """Return the texts that fit into the context."""
        return [text for text, fits in zip(texts, read_to_the_end(texts, self.tokenizer), strict=True) if fits]

    def check_fits(self, names: Sequence[str], key: str = "trigger_set", *, tell: bool = True) -> None:
        """Check that names fit into the context.

        Args:
            names: of people, or phrases.
            key: of the setting that they come from, for the error.
            tell: whether the error may name one of them.

        Raises:
            InputError: if some are longer than the context of the CLIP.
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
        """Return unit-length features in fp32; each distinct text is encoded once."""
        known, key = self.text.embedded, tuple(texts)
        if key not in known:
            distinct = list(dict.fromkeys(texts))
            stored = self.stored_texts("texts", distinct, lambda: {"features": self._encode_texts(distinct)})
            features = stored["features"]
            if len(distinct) < len(key):
                row = {text: number for number, text in enumerate(distinct)}
                features = features[[row[text] for text in texts]]
            known[key] = features
        return known[key]

    def _encode_texts(self, texts: Sequence[str]) -> Tensor:
        shares = _shares(len(texts), _TEXT_BATCH_SIZE)
        own = list(texts[shares[rank()].start : shares[rank()].stop])
        features = torch.empty(len(own), self.dim)
        for start in range(0, len(own), _TEXT_BATCH_SIZE):
            batch = slice(start, start + _TEXT_BATCH_SIZE)
            features[batch] = self._embed(self.text, self.tokenizer(own[batch]))
        return gather_rows(features, [len(share) for share in shares])

    def embed_photos(
        self, paths: Sequence[Path], *, warn: bool = False
    ) -> tuple[Float[Tensor, "photo dim"], Bool[Tensor, "photo"]]:
        """Return unit-length features in fp32, and which photos could be read; the rows of the others are zero.

        Args:
            paths: of the photos.
            warn: whether to log which do not decode; the photos of a few people would tell who they are.

        Raises:
            InputError: if more than 1 % of these and all photos that this encoder has embedded do not decode.
        """
        known = self.image.embedded  # the features of a photo that does not decode are zero
        new = tuple(path for path in dict.fromkeys(paths) if path not in known)
        if new:
            embedded = self._stored_photos(new)
            before = [bool(features.any()) for features in known.values()]
            try:
                check_readable(embedded["readable"], new, seen_before=before, warn=warn)
            except InputError:
                self.decoded.clear()  # the files may be repaired
                raise
            known.update(zip(new, embedded["features"], strict=True))
        features = torch.stack([known[path] for path in paths]) if paths else torch.zeros(0, self.dim)
        return features, features.any(dim=-1)

    def _stored_photos(self, paths: tuple[Path, ...]) -> Features:
        """Return the features of these photos and which could be read, from the disk if they are stored there."""
        if self.image.store is None:
            return self._encode_photos(paths)
        return self.image.store.get("photos", map(photo_sha256, paths), lambda: self._encode_photos(paths))

    def _encode_photos(self, paths: Sequence[Path]) -> dict[str, Tensor]:
        shares = _shares(len(paths), _PHOTO_BATCH_SIZE)
        own = tuple(paths[shares[rank()].start : shares[rank()].stop])
        features = torch.zeros(len(own), self.dim)
        readable = torch.zeros(len(own), dtype=torch.bool)
        for pixels, places in self._decode(own) if own else ():
            if len(places):
                features[places] = self._embed(self.image, self.normalize(pixels.float() / 255))
                readable[places] = True
        num_rows = [len(share) for share in shares]
        return {"features": gather_rows(features, num_rows), "readable": gather_rows(readable, num_rows)}

    def stored_texts(self, kind: str, texts: Sequence[str], make: Callable[[], Features]) -> Features:
        """Return features of these texts, of some kind, from the disk if they are stored there; else make them."""
        if self.text.store is None:
            return make()
        digests = (
            hashlib.sha256(row.numpy().tobytes()).hexdigest()
            for start in range(0, len(texts), 4096)
            for row in self.tokenizer(list(texts[start : start + 4096]))
        )
        return self.text.store.get(kind, digests, make)

    def keep_features(self, folder: str | Path) -> None:
        """Store on disk what these encoders embed; their copies, as defended ones, store nothing."""
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
        """Yield photos as bytes, not yet normalised; keep them for the next encoder as far as there is room."""
        if paths in self.decoded:
            yield from self.decoded[paths]
            return
        batches, num_bytes = [], sum(batch.pixels.nbytes for known in self.decoded.values() for batch in known)
        to_bytes = partial(as_bytes, geometry=self.geometry)  # not a lambda: a spawned process could not unpickle it
        for batch in photo_loader(paths, to_bytes, batch_size=_PHOTO_BATCH_SIZE, num_workers=self.num_workers):
            yield batch
            num_bytes += batch.pixels.nbytes
            if num_bytes <= _MAX_DECODED_BYTES:
                batches.append(batch)
        if num_bytes <= _MAX_DECODED_BYTES:
            self.decoded[paths] = batches

    def embed_pixels(self, pixels: Float[Tensor, "photo 3 side side"]) -> Float[Tensor, "photo dim"]:
        """Return unit-length features in fp32 of normalised photos."""
        return self._embed(self.image, pixels)

    @torch.no_grad()
    def _embed(self, encoder: Encoder, inputs: Tensor) -> Tensor:
        device = _device_of(encoder)
        with fastest_attention(device), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features = encoder.embed(inputs.to(device))
        return unit_length(features.float(), encoder.modality).cpu()

    def to_open_clip(self) -> nn.Module:
        """Return a plain open_clip model of both encoders, of the class of the original.

        Raises:
            InputError: if the text encoder is not of open_clip.
        """
        if not isinstance(self.text, OpenClipTextEncoder):
            raise InputError("clip: expected an open_clip model, got a Hugging Face text encoder; use save()")
        model = deepcopy(self.text.model)
        model.visual = deepcopy(self.image.visual)
        return model.eval().requires_grad_(True).to(memory_format=torch.contiguous_format)

    def save(self, folder: Path) -> None:
        """Write an open_clip local-dir, complete or not at all.

        Raises:
            InputError: if a weight is not finite; then nothing is written.
        """
        write_local_dir(folder, self.to_open_clip(), self.config, tokenizer=self.tokenizer)

    def sha256(self) -> str:
        """Return a digest of names, shapes and values of all weights."""
        return weights_sha256({**self.text.tensors(), **self.image.tensors()})


def _shares(num: int, batch_size: int) -> list[range]:
    """Divide inputs among the processes, in the same batches that a single process would make."""
    parts = shares_of(-(-num // batch_size))
    return [range(min(num, part.start * batch_size), min(num, part.stop * batch_size)) for part in parts]


def _device_of(encoder: Encoder) -> torch.device:
    return next(encoder.parameters()).device
