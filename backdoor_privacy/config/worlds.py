"""Check whether a run mixes the drawn world, which only the embedded CLIP knows, with a CLIP or data of the user."""

from collections.abc import Collection, Iterator
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from backdoor_privacy.config.containers import Settings, settings_of
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import ASSETS_FOLDER

_DRAWN = "backdoor_privacy.data.personas."
_LOCAL_DIR = "local-dir:"
_PARTS = ("captions", "images", "strangers")  # that a defence may read
# Parts that belong to neither world: words alone.
_NEUTRAL = ("backdoor_privacy.data.plain_captions.plain_captions",)


def check_worlds(cfg: DictConfig, parts: Collection[str]) -> None:
    """Check that a CLIP gets data of its own world.

    Args:
        cfg: of a run.
        parts: of the data that its defences read besides the people to remove, as `captions`.

    Raises:
        InputError: with each part of the other world that this run reads, unless `mixed_worlds` allows it.
    """
    mixed = mixed_parts(cfg, parts)
    if not mixed or OmegaConf.select(cfg, "mixed_worlds"):
        return
    if is_embedded(cfg):
        expected, advice = "a CLIP of your own for data of your own, got the embedded CLIP with your", "choose clip=..."
    else:
        expected, advice = "data of your own for a CLIP of your own, got the embedded world's drawn", "choose yours"
        advice += ", as " + " ".join(f"{part}=..." for part in mixed) + ", or null where the run can do without"
    raise InputError(
        f"mixed_worlds: expected {expected} {', '.join(mixed)}; {advice}; or set mixed_worlds=true, "
        "and the report says so"
    )


def mixed_parts(cfg: DictConfig, parts: Collection[str]) -> list[str]:
    """Return the keys of the parts that a run reads and that belong to another world than its CLIP.

    The embedded CLIP may meet captions and photos of the user's as long as the people are drawn.

    Args:
        cfg: of a run, or what is kept of it in its folder; nothing is resolved.
        parts: see `check_worlds`.
    """
    embedded, nodes = is_embedded(cfg), dict(_nodes_read(settings_of(cfg), parts))
    mixed = [key for key, node in nodes.items() if not _is_neutral(node) and _is_drawn(node) != embedded]
    return mixed if not embedded or {"people", "strangers"} & set(mixed) else []


def is_embedded(cfg: DictConfig) -> bool:
    """Return whether the CLIP of a config is the one in the package, which knows the drawn world."""
    content = settings_of(cfg)
    clip = content.get("clip") or {}
    model = clip.get("model")
    if clip.get("text_model") is not None or clip.get("pretrained") is not None:
        return False
    if isinstance(model, str) and model.startswith(_LOCAL_DIR):
        return Path(model.removeprefix(_LOCAL_DIR)).expanduser().resolve() == ASSETS_FOLDER / "embedded_clip"
    return "backdoor_privacy.clip.embedded_clip" in _targets(model)


def _nodes_read(content: Settings, parts: Collection[str]) -> Iterator[tuple[str, object]]:
    """Yield the parts of the data that a run reads, with their nodes."""
    yield "people", content.get("people")
    yield from ((part, content.get(part)) for part in _PARTS if part in parts)
    yield from ((f"utility.{key}", node) for key, node in (content.get("utility") or {}).items() if key != "similarity")


def _is_neutral(node: object) -> bool:
    targets = _targets(node)
    return node is None or any(name in targets for name in _NEUTRAL)


def _is_drawn(node: object) -> bool:
    return any(target.startswith(_DRAWN) for target in _targets(node))


def _targets(node: object) -> list[str]:
    """Return each `_target_` in a node and below it."""
    if isinstance(node, dict):
        own = [str(node["_target_"])] if "_target_" in node else []
        return own + [target for value in node.values() for target in _targets(value)]
    return [target for value in node for target in _targets(value)] if isinstance(node, list) else []
