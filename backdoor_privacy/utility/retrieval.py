"""Retrieval: whether a photo finds its captions among all, and a caption its photo."""

from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import MeanMetric

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.captioned import load_captioned

_RANKS = (1, 5)
_CHUNK = 1024  # queries that are compared with everything at once


@dataclass(frozen=True)
class Retrieval:
    """Photos with one caption or several each, see `load_captioned`.

    Args:
        folder: photos, photos with a `.txt` beside each, or WebDataset shards with `txt`.
        cache: folder that shards are unpacked into, once.
        file: COCO's captions of the photos, where that is what there is.
        max_photos: how many to compare at most, the first ones with all their captions; without it all.
    """

    folder: str | Path
    cache: str | Path
    file: str | Path | None = None
    max_photos: int | None = None

    def __post_init__(self) -> None:
        _ = self.captioned  # what is wrong with the data is to be said before anything is computed

    @cached_property
    def captioned(self) -> dict[Path, list[str]]:
        """The captions of each photo."""
        return dict(islice(load_captioned(self.folder, self.file, self.cache).items(), self.max_photos))

    def measure(self, clip: Clip) -> dict[str, float]:
        """Recall at 1 and 5 of both directions, in [0, 1], and the number of photos and captions behind them."""
        photos = list(self.captioned)
        captions = [caption for photo in photos for caption in self.captioned[photo]]
        owners = torch.tensor([place for place, photo in enumerate(photos) for _ in self.captioned[photo]])
        image_features, readable = clip.embed_photos(photos, warn=True)
        text_features = clip.embed_texts(captions)[readable[owners]]
        image_features, owners = image_features[readable], owners[readable[owners]]
        places = torch.arange(len(photos))[readable]
        found = {
            "image_to_text": recalls(image_features, text_features, places, owners),
            "text_to_image": recalls(text_features, image_features, owners, places),
        }
        return {f"retrieval/{way}_r{k}": recall for way, each in found.items() for k, recall in each.items()} | {
            "retrieval/num_photos": float(len(places)),
            "retrieval/num_captions": float(len(owners)),
        }


def recalls(
    queries: Float[Tensor, "query dim"],
    gallery: Float[Tensor, "item dim"],
    query_owners: Int[Tensor, "query"],
    item_owners: Int[Tensor, "item"],
) -> dict[int, float]:
    """Recall at 1 and 5: the share of queries with an item of their own among the k most similar ones, in [0, 1].

    torchmetrics' own retrieval metrics keep a score for each query and item, 125 million for COCO's 5,000 photos.
    """
    means = {k: MeanMetric() for k in _RANKS}
    for rows, owners in zip(queries.split(_CHUNK), query_owners.split(_CHUNK), strict=True):
        nearest = (rows @ gallery.T).topk(min(max(_RANKS), len(gallery))).indices
        own = item_owners[nearest] == owners[:, None]
        for k, mean in means.items():
            mean.update(own[:, :k].any(dim=1).float())
    return {k: mean.compute().item() for k, mean in means.items()}
