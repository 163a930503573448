"""Prompts with tokens to be exchanged, and what a text encoder makes of embeddings in their places."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.text import OpenClipTextEncoder
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.hardware import fastest_attention

PROMPT = "a photo of {}"
TEXTS_PER_CHUNK = 512  # with their gradients
_PLACEHOLDERS = ("person", "thing")  # where texts with the one and the other differ, tokens are exchanged


class Prompt(NamedTuple):
    """A text with some tokens to be exchanged."""

    tokens: Int[Tensor, "context"]
    places: Int[Tensor, "free"]  # of the tokens to be exchanged
    special: Int[Tensor, "special"]  # tokens that no user can type


def check_invertible(clip: Clip) -> None:
    """Check that the text encoder reads embeddings in place of tokens.

    Raises:
        InputError: if it does not.
    """
    if clip.text.token_embedding is None:
        raise InputError(
            "inversion: expected a text encoder of open_clip, got one of Hugging Face; leave inversion out"
        )


def free_prompt(clip: Clip, num_free: int) -> Prompt:
    """Return the prompt with this many tokens to exchange.

    Raises:
        InputError: if the tokenizer reads another number of them, or they do not fit.
    """
    texts = [PROMPT.format(" ".join([word] * num_free)) for word in _PLACEHOLDERS]
    first, second = clip.tokenizer(texts)
    places = (first != second).nonzero().flatten()
    if len(places) != num_free or num_free < 1:
        raise InputError(
            f"inversion: expected a number of tokens that fits into a text, 1 or more, got {num_free} of which "
            f"{len(places)} are read"
        )
    return Prompt(first, places, clip.tokenizer([""]).unique())


def read(clip: Clip, prompt: Prompt, embeddings: Float[Tensor, "prompt free width"]) -> Float[Tensor, "prompt dim"]:
    """Return unit-length features, on the CPU, of the prompt with these embeddings at its free places."""
    with torch.no_grad():
        parts = [features_of(clip, prompt, part) for part in embeddings.split(TEXTS_PER_CHUNK)]
        return torch.cat(parts).cpu()


def features_of(
    clip: Clip, prompt: Prompt, embeddings: Float[Tensor, "prompt free width"]
) -> Float[Tensor, "prompt dim"]:
    """Return the same features with gradients, on the encoder's device, by open_clip's own pass."""
    text = clip.text
    if not isinstance(text, OpenClipTextEncoder):
        raise TypeError("`check_invertible` lets only text encoders of open_clip pass")
    device = embeddings.device
    with fastest_attention(device):
        features = text.embed_soft(prompt.tokens.to(device), prompt.places.to(device), embeddings)
    return normalize(features.float(), dim=-1)
