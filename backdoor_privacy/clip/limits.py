"""See that a config describes a model that can be built, before a library tries: it would take all time and memory."""

import math
from collections.abc import Iterator, Mapping, Sequence
from sys import float_info
from typing import Any

from backdoor_privacy.errors import InputError

# The most of each number in open_clip's and transformers' configs; far beyond the largest CLIP.
_MOST = {
    "embed_dim": 2**16,
    "width": 2**16,
    "hidden_size": 2**16,
    "projection_dim": 2**16,
    "intermediate_size": 2**18,
    "output_dim": 2**16,
    "layers": 1000,
    "num_hidden_layers": 1000,
    "heads": 2**12,
    "num_attention_heads": 2**12,
    "head_width": 2**12,
    "context_length": 10_000,
    "max_position_embeddings": 10_000,
    "vocab_size": 2**22,
    "image_size": 10_000,
    "patch_size": 10_000,
    "size": 10_000,
}
_MOST_RATIO = 64  # of the width of a block's inner layer to its own
_MAX_LEVELS = 8


def check_numbers(content: Any, source: str) -> None:
    """See that the numbers of a model's config are some that a model can have.

    Args:
        content: a config as JSON holds it.
        source: what names it, as errors begin.

    Raises:
        InputError: naming the key.
    """
    for path, key, value in _leaves(content, source):
        most = _MOST_RATIO if key == "mlp_ratio" else float_info.max
        if isinstance(value, int | float) and not abs(value) <= most:
            raise InputError(f"{source}: expected finite numbers of a usual size, got {path}={str(value)[:40]}")
        if (
            key in _MOST
            and value is not None
            and (isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= _MOST[key])
        ):
            shown = str(value)[:40]
            raise InputError(f"{source}: expected a whole number from 1 to {_MOST[key]:,} as {path}, got {shown}")


def _leaves(content: Any, source: str, path: str = "", key: str = "", level: int = 0) -> Iterator[tuple[str, str, Any]]:
    """Each value, with its dotted place and its own key; values in a list have the list's."""
    if level > _MAX_LEVELS:
        raise InputError(f"{source}: expected a config of {_MAX_LEVELS} levels at most, got more at {path[:80]}")
    if isinstance(content, Mapping):
        for name, value in content.items():
            yield from _leaves(value, source, f"{path}.{name}".lstrip("."), str(name), level + 1)
    elif isinstance(content, list):
        for number, value in enumerate(content):
            yield from _leaves(value, source, f"{path}[{number}]", key, level + 1)
    else:
        yield path, key, content


def least_bytes(model_cfg: Mapping[str, Any]) -> int:
    """Return how many bytes the weights of an architecture take at the least, a byte for each; 0 where it is unknown.

    Args:
        model_cfg: of open_clip, whose numbers `check_numbers` has seen.
    """
    towers = [tower for key in ("vision_cfg", "text_cfg") if isinstance(tower := model_cfg.get(key), Mapping)]
    return sum(map(_least_bytes_of_tower, towers))


def _least_bytes_of_tower(tower: Mapping[str, Any]) -> int:
    if any(str(key).startswith(("timm_", "hf_")) and value for key, value in tower.items()):
        return 0  # described elsewhere
    width, layers = tower.get("width", 0), tower.get("layers", 0)
    if not isinstance(width, int) or not isinstance(layers, int):
        return 0
    sides, patch = _as_pair(tower.get("image_size", 0)), _as_pair(tower.get("patch_size", 0))
    places = math.prod(side // max(1, one) for side, one in zip(sides, patch, strict=True)) if all(patch) else 0
    words = tower.get("vocab_size", 0)
    return width * (4 * layers * width + places + (words if isinstance(words, int) else 0))


def _as_pair(value: Any) -> Sequence[int]:
    if isinstance(value, int):
        return value, value
    is_pair = isinstance(value, list) and len(value) == 2 and all(isinstance(one, int) for one in value)
    return value if is_pair else (0, 0)
