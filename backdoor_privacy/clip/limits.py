"""Check that a config describes a model of a usual size, before a library spends all time and memory on it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from sys import float_info

from backdoor_privacy.errors import InputError

# The largest value of each number in open_clip's and transformers' configs; far beyond the largest CLIP.
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


def check_numbers(content: object, source: str) -> None:
    """Check that the numbers in the config of a model are of a usual size.

    Args:
        content: a config as JSON holds it.
        source: its name, with which errors begin.

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


def _leaves(
    content: object, source: str, path: str = "", key: str = "", level: int = 0
) -> Iterator[tuple[str, str, object]]:
    """Yield each value with its dotted path and its key; values in a list have the key of the list."""
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


def least_bytes(model_cfg: Mapping[str, object]) -> int:
    """Return a lower bound of the bytes of an architecture's weights, one byte for each; 0 where it is unknown.

    Args:
        model_cfg: of open_clip; `check_numbers` has checked its numbers.
    """
    towers = [tower for key in ("vision_cfg", "text_cfg") if isinstance(tower := model_cfg.get(key), Mapping)]
    return sum(map(_least_bytes_of_tower, towers))


def _least_bytes_of_tower(tower: Mapping[str, object]) -> int:
    if any(str(key).startswith(("timm_", "hf_")) and value for key, value in tower.items()):
        return 0  # described elsewhere
    width, layers = tower.get("width", 0), tower.get("layers", 0)
    if not isinstance(width, int) or not isinstance(layers, int):
        return 0
    sides, patch = _as_pair(tower.get("image_size", 0)), _as_pair(tower.get("patch_size", 0))
    places = math.prod(side // max(1, size) for side, size in zip(sides, patch, strict=True)) if all(patch) else 0
    words = tower.get("vocab_size", 0)
    return width * (4 * layers * width + places + (words if isinstance(words, int) else 0))


def _as_pair(value: object) -> Sequence[int]:
    if isinstance(value, int):
        return value, value
    if isinstance(value, list) and len(value) == 2 and all(isinstance(part, int) for part in value):
        return value
    return 0, 0
