"""Measure whether a photo finds its captions among all captions, and a caption its photo among all photos."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import MeanMetric

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.build import AtLeastOne
from backdoor_privacy.data.captioned import load_captioned
from backdoor_privacy.data.photos import list_photos
from backdoor_privacy.data.shards import holds_shards
from backdoor_privacy.system.digests import lines_sha256, name_and_size
from backdoor_privacy.utility.base import Contents, Label, Measure

_RANKS = (1, 5)
_CHUNK_SIZE = 1024  # queries that are compared with the whole gallery at once


@dataclass(frozen=True)
class Retrieval(Measure):
    """Retrieval of the captions of photos, and of the photos of captions; see `load_captioned` for what is read.

    Args:
        folder: photos, photos with a `.txt` beside each, or WebDataset shards with `txt`.
        cache: folder that shards are unpacked into, once.
        file: COCO's captions of the photos, if they are COCO's.
        max_photos: how many photos to compare at most, the first ones with all their captions; `None`: all.
    """

    name: ClassVar[str] = "retrieval"

    folder: str | Path
    cache: str | Path
    file: str | Path | None = None
    max_photos: AtLeastOne | None = None

    def __post_init__(self) -> None:
        _ = self.captioned  # an error in the data is raised before anything is computed

    @cached_property
    def captioned(self) -> dict[Path, list[str]]:
        """Return the captions of each photo."""
        return dict(islice(load_captioned(self.folder, self.file, self.cache).items(), self.max_photos))

    @property
    def num_captions(self) -> int:
        """Number of captions of all photos."""
        return sum(map(len, self.captioned.values()))

    def measure(self, clip: Clip) -> dict[str, float]:
        """Measure recall at 1 and 5 in both directions, in [0, 1], with the number of photos and captions."""
        photos = list(self.captioned)
        captions = [caption for photo in photos for caption in self.captioned[photo]]
        owners = torch.tensor([number for number, photo in enumerate(photos) for _ in self.captioned[photo]])
        image_features, readable = clip.embed_photos(photos, warn=True)
        text_features = clip.embed_texts(captions)[readable[owners]]
        image_features, owners = image_features[readable], owners[readable[owners]]
        numbers = torch.arange(len(photos))[readable]
        recall_at = {
            "image_to_text": recalls(image_features, text_features, numbers, owners),
            "text_to_image": recalls(text_features, image_features, owners, numbers),
        }
        return {f"retrieval/{way}_r{k}": recall for way, ranks in recall_at.items() for k, recall in ranks.items()} | {
            "retrieval/num_photos": float(len(numbers)),
            "retrieval/num_captions": float(len(owners)),
        }

    @classmethod
    def labels(cls, measured: Mapping[str, float]) -> dict[str, Label]:
        """Say what reports call the recalls."""
        photos, captions = (measured.get(f"retrieval/num_{counted}", 0) for counted in ("photos", "captions"))
        note = f"of {photos:,.0f} photos and {captions:,.0f} captions"
        ways = {"image_to_text": "Photos that find their caption", "text_to_image": "Captions that find their photo"}
        return {
            f"retrieval/{way}_r{k}": Label(f"{title} (recall at {k})", note, f"{way}_r{k}" if k == 1 else "")
            for way, title in ways.items()
            for k in _RANKS
        }

    def photos(self) -> list[Path]:
        """Return all photos."""
        return list(self.captioned)

    def contents(self) -> Contents:
        """Return the photos, each with its first caption."""
        left_out: Counter[str] = Counter()
        if self.file is None and not holds_shards(self.folder):
            left_out += list_photos(self.folder).left_out
            del left_out[".txt"]
        summary = f"{len(self.captioned):,}, with {self.num_captions:,} captions"
        texts = {photo: captions[0] for photo, captions in self.captioned.items()}
        return Contents("retrieval photos", summary, texts, left_out)

    def digest(self) -> dict[str, int | str]:
        """Return counts, and a digest of the photos' names and sizes with their captions."""
        lines = ("\t".join([name_and_size(photo), *captions]) for photo, captions in self.captioned.items())
        counts = {"num_photos": len(self.captioned), "num_captions": self.num_captions}
        return {**counts, "sha256": lines_sha256(lines)}


def recalls(
    queries: Float[Tensor, "query dim"],
    gallery: Float[Tensor, "item dim"],
    query_owners: Int[Tensor, "query"],
    item_owners: Int[Tensor, "item"],
) -> dict[int, float]:
    """Return recall at 1 and 5: the share of queries with an item of their own among the k most similar, in [0, 1].

    torchmetrics' own retrieval metrics keep a score for each query and item, 125 million for COCO's 5,000 photos.
    """
    means = {k: MeanMetric() for k in _RANKS}
    for rows, owners in zip(queries.split(_CHUNK_SIZE), query_owners.split(_CHUNK_SIZE), strict=True):
        nearest = (rows @ gallery.T).topk(min(max(_RANKS), len(gallery))).indices
        own = item_owners[nearest] == owners[:, None]
        for k, mean in means.items():
            mean.update(own[:, :k].any(dim=1).float())
    return {k: mean.compute().item() for k, mean in means.items()}
