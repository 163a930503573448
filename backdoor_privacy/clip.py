"""Load the CLIP to protect, embed texts and photos with it, and save a defended one."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import open_clip
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from open_clip.constants import HF_CONFIG_NAME, HF_SAFE_WEIGHTS_NAME
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.transforms.v2 import Normalize

from backdoor_privacy.data.photos import PhotoBatch, as_bytes, check_readable, photo_loader
from backdoor_privacy.encoders import Encoder, ImageEncoder, TextEncoder
from backdoor_privacy.errors import InputError
from backdoor_privacy.hardware import computes_in_bf16, fastest_attention
from backdoor_privacy.paths import ASSETS_FOLDER

LOCAL_DIR = "local-dir:"
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
        return image_transform_v2(PreprocessCfg(**self.config["preprocess_cfg"]), is_train=False)

    @property
    def geometry(self) -> Callable[[Image.Image], Tensor]:
        """The same without the normalisation: pixels in [0, 1], to put a face on."""
        plain = self.config["preprocess_cfg"] | {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
        return image_transform_v2(PreprocessCfg(**plain), is_train=False)

    @property
    def normalize(self) -> nn.Module:
        """The normalisation that `geometry` leaves out."""
        return Normalize(self.config["preprocess_cfg"]["mean"], self.config["preprocess_cfg"]["std"])

    def with_encoders(self, text: TextEncoder | None = None, image: ImageEncoder | None = None) -> "Clip":
        """The same CLIP with other encoders."""
        return replace(self, text=text or self.text, image=image or self.image)

    def embed_texts(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """Unit-length features, in fp32."""
        known = self.text.embedded
        key = tuple(texts)
        if key not in known:
            batches = [
                self._embed(self.text, self.tokenizer(list(texts[start : start + _TEXT_BATCH_SIZE])))
                for start in range(0, len(texts), _TEXT_BATCH_SIZE)
            ]
            known[key] = torch.cat(batches)
        return known[key]

    def embed_photos(self, paths: Sequence[Path]) -> tuple[Float[Tensor, "photo dim"], Bool[Tensor, "photo"]]:
        """Unit-length features in fp32, and which photos could be read; the rows of the others are zero.

        Raises:
            InputError: if more than 1 % of the photos do not decode.
        """
        known = self.image.embedded
        key = tuple(paths)
        if key not in known:
            features = torch.zeros(len(paths), self.config["model_cfg"]["embed_dim"])
            readable = torch.zeros(len(paths), dtype=torch.bool)
            for pixels, places in self._decode(key):
                if len(places):
                    features[places] = self._embed(self.image, self.normalize(pixels.float() / 255))
                    readable[places] = True
            check_readable(readable, paths)
            known[key] = features, readable
        return known[key]

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
        device = next(encoder.parameters()).device
        with fastest_attention(device), torch.autocast(device.type, torch.bfloat16, enabled=self.precision == "bf16"):
            features = encoder(inputs.to(device))
        return F.normalize(features.float(), dim=-1).cpu()

    def to_open_clip(self) -> nn.Module:
        """A plain open_clip model with the weights of both encoders."""
        model = _build(self.config)
        model.load_state_dict({**self.text.tensors(), **self.image.tensors()})
        return model.eval()

    def sha256(self) -> str:
        """Digest over names, shapes and values of all weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted({**self.text.tensors(), **self.image.tensors()}.items()):
            digest.update(f"{name}{tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def embedded_clip() -> str:
    """Name of the small CLIP that comes with the package, as `load_clip` takes it."""
    return f"{LOCAL_DIR}{ASSETS_FOLDER / 'embedded_clip'}"


def load_clip(
    model: str,
    pretrained: str | None = None,
    precision: Literal["fp32", "bf16", "auto"] = "fp32",
    num_workers: int = 0,
) -> Clip:
    """Load a CLIP with open_clip.

    Args:
        model: an architecture of open_clip (`ViT-B-32`) or `local-dir:<folder>`.
        pretrained: open_clip's tag or a weight file; not used for a folder.
        precision: of embedding; `auto` is bf16 where the processor computes in it, else fp32. Weights stay fp32.
        num_workers: processes that decode photos.

    Raises:
        InputError: if the folder or file is not there, or holds another architecture.
    """
    if model.startswith(LOCAL_DIR) and not (Path(model.removeprefix(LOCAL_DIR)) / HF_CONFIG_NAME).is_file():
        raise InputError(
            f"clip.model={model}: expected a folder with {HF_CONFIG_NAME}, found none; give an open_clip local-dir"
        )
    if not model.startswith(LOCAL_DIR) and pretrained is None:
        raise InputError(f"clip.pretrained: expected a tag or a weight file for {model}, got null")
    try:
        loaded = open_clip.create_model(model, pretrained=pretrained, require_pretrained=True)
    except Exception as error:  # what open_clip and the readers of weight files raise has no class in common
        reason = " ".join(str(error).split())[:300]
        raise InputError(
            f"clip.model={model}, clip.pretrained={pretrained}: expected weights of this architecture, got: {reason}"
        ) from error
    if precision == "auto":
        precision = "bf16" if computes_in_bf16() else "fp32"
    return wrap_clip(loaded, _read_config(model, loaded), _tokenizer(model), precision, num_workers)


def wrap_clip(
    model: nn.Module,
    config: dict[str, Any],
    tokenizer: Callable[[list[str]], Tensor],
    precision: Literal["fp32", "bf16"] = "fp32",
    num_workers: int = 0,
) -> Clip:
    """A CLIP that the caller has already loaded with open_clip."""
    text, image = TextEncoder(model).frozen(), ImageEncoder(model).frozen()
    return Clip(text, image, tokenizer, config, precision, num_workers)


def write_local_dir(folder: Path, model: nn.Module, config: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Write a model as an open_clip local-dir, complete or not at all: architecture, preprocessing and weights."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        state = {
            # Counters, as of BatchNorm, stay whole numbers.
            name: tensor.detach().cpu().to(dtype if tensor.is_floating_point() else tensor.dtype).contiguous().clone()
            for name, tensor in model.state_dict().items()
        }
        save_file(state, draft / HF_SAFE_WEIGHTS_NAME)
        (draft / HF_CONFIG_NAME).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        os.chmod(draft, 0o755)
        shutil.rmtree(folder, ignore_errors=True)
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _build(config: dict[str, Any]) -> nn.Module:
    model_config = config["model_cfg"]
    custom_text = model_config.get("custom_text", False)
    settings = {key: value for key, value in model_config.items() if key != "custom_text"}
    return (open_clip.CustomTextCLIP if custom_text else open_clip.CLIP)(**settings)


def _read_config(model: str, loaded: Any) -> dict[str, Any]:
    if model.startswith(LOCAL_DIR):
        config = json.loads((Path(model.removeprefix(LOCAL_DIR)) / HF_CONFIG_NAME).read_text(encoding="utf-8"))
        return {"model_cfg": config["model_cfg"], "preprocess_cfg": loaded.visual.preprocess_cfg}
    return {"model_cfg": open_clip.get_model_config(model), "preprocess_cfg": loaded.visual.preprocess_cfg}


def _tokenizer(model: str) -> Callable[[list[str]], Tensor]:
    return open_clip.get_tokenizer(model)
