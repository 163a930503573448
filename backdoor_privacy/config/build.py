"""Build what a node of a config describes: each class, or function, is the schema of its own node."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, is_dataclass, make_dataclass
from math import inf
from operator import or_
from pkgutil import resolve_name
from sys import float_info
from types import NoneType
from typing import Annotated, TypeVar, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from backdoor_privacy.errors import InputError

_Built = TypeVar("_Built")
TARGET = "_target_"


@dataclass(frozen=True)
class Range:
    """The values that a number may have, both ends included; it stands in an `Annotated` type."""

    low: float
    high: float

    def check(self, value: float, key: str) -> None:
        """Check that a value is within the range.

        Raises:
            InputError: if it is not.
        """
        if not self.low <= value <= self.high:
            is_open = self.high >= float_info.max
            expected = f"{self.low} or more" if is_open else f"a number from {self.low} to {self.high}"
            raise InputError(f"{key}: expected {expected}, got {value}")


AtLeastOne = Annotated[int, Range(1, inf)]
NotNegative = Annotated[int, Range(0, inf)]
Share = Annotated[float, Range(0, 1)]
Length = Annotated[float, Range(0, float_info.max)]  # finite and not negative


def build(node: DictConfig, kind: type[_Built], key: str = "") -> _Built:
    """Return the object that a node describes.

    `_target_` names a class or a function, and the other keys are its arguments. Nodes within it that have a `_target_`
    are built first. Each value is checked against the type that the signature annotates, and against its `Range`.

    Args:
        node: of a config.
        kind: class or protocol that the object must have.
        key: of the node in the whole config, for errors.

    Raises:
        InputError: naming the key, if there is no such setting, or its value has another type or is out of range.
    """
    key = key or str(node._get_full_key(None))
    if not is_described(node):
        raise InputError(f"{key}: expected settings with a {TARGET}, got {node}; choose an option of the group")
    built = _call(_factory(node, key), node, key)
    if not isinstance(built, kind):
        raise InputError(f"{key}.{TARGET}: expected a {kind.__name__}, got {node[TARGET]}; choose another")
    return built


def is_described(value: object) -> bool:
    """Return whether a value of a config says what to build."""
    return isinstance(value, DictConfig) and TARGET in value


def defaults_of(target: str) -> Mapping[str, object]:
    """Return the default of each argument of the class or function that a `_target_` names."""
    parameters = inspect.signature(resolve_name(target)).parameters
    return {name: argument.default for name, argument in parameters.items() if argument.default is not argument.empty}


def first_line(error: OmegaConfBaseException) -> str:
    """Return the first line of an error of OmegaConf; the others repeat the key and the type of the node."""
    return (str(error.msg or error).strip().splitlines() or [type(error).__name__])[0]


def _factory(node: DictConfig, key: str) -> Callable[..., object]:
    """Import the class or function that a node names."""
    target = node.get(TARGET)
    try:
        factory = resolve_name(str(target)) if target else None
    except (ImportError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{key}.{TARGET}: expected the path of a class or function, got {target} ({reason}); choose another"
        ) from error
    if factory is None or not callable(factory):
        raise InputError(f"{key}.{TARGET}: expected the path of a class or function, got {target}; choose another")
    return factory


def _call(factory: Callable[..., object], node: DictConfig, key: str) -> object:
    """Call a class or function with the settings of a node."""
    try:
        hints = get_type_hints(factory.__init__ if inspect.isclass(factory) else factory, include_extras=True)
        parameters = inspect.signature(factory).parameters
    except (NameError, TypeError, ValueError) as error:
        raise InputError(
            f"{key}.{TARGET}: expected a class or function with annotated settings, got {factory}; choose another"
        ) from error
    settings = [str(name) for name in node if name != TARGET]
    unknown = [name for name in settings if name not in parameters]
    if unknown:
        raise InputError(
            f"{key}.{unknown[0]}: expected one of the settings {', '.join(parameters)}, got {unknown[0]}; correct or "
            "leave it out"
        )
    required = [name for name, argument in parameters.items() if argument.default is argument.empty]
    missing = [name for name in required if name not in settings]
    if missing:
        raise InputError(f"{key}.{missing[0]}: expected a value, got none; give it, as {key}.{missing[0]}=<value>")
    return factory(**{name: _argument(node[name], hints.get(name, object), f"{key}.{name}") for name in settings})


def _argument(value: object, hint: object, key: str) -> object:
    """Return an argument from its value in a config: built if it has a `_target_`, else checked against its type."""
    if isinstance(value, DictConfig):
        if is_described(value):
            return build(value, object, key)
        kinds = (kind for kind in (hint, *get_args(hint)) if inspect.isclass(kind) and is_dataclass(kind))
        kind = next(kinds, None)
        if kind is not None:
            return _call(kind, value, key)
        if any(is_described(part) for part in value.values()):
            parts = {str(name): part for name, part in value.items() if part is not None}
            return {name: _argument(part, object, f"{key}.{name}") for name, part in parts.items()}
    plain = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return _checked(plain, hint, key)


def _checked(value: object, hint: object, key: str) -> object:
    """Return a plain value as its annotated type.

    Raises:
        InputError: if it has another type, or is out of range.
    """
    plain = _without_ranges(hint)
    try:
        schema = OmegaConf.structured(make_dataclass("Setting", [("value", plain)]))
    except OmegaConfBaseException:  # a type that no config can hold: the class itself checks it
        return value
    try:
        checked = vars(OmegaConf.to_object(OmegaConf.merge(schema, {"value": value})))["value"]
    except OmegaConfBaseException as error:
        raise InputError(
            f"{key}: expected a value of the right type, got: {first_line(error)}; --cfg job shows the usual values"
        ) from error
    for limits in _ranges(hint):
        if isinstance(checked, int | float):
            limits.check(checked, key)
    return checked


def _ranges(hint: object) -> list[Range]:
    """Return the ranges that a type is annotated with, or one of its alternatives."""
    own = [note for note in getattr(hint, "__metadata__", ()) if isinstance(note, Range)]
    return own + [limits for part in get_args(hint) if get_origin(hint) is not Annotated for limits in _ranges(part)]


def _without_ranges(hint: object) -> object:
    """Return a type without its annotations, as `int | None` of `Annotated[int, Range(1, inf)] | None`."""
    if get_origin(hint) is Annotated:
        return get_args(hint)[0]
    parts = [part for part in get_args(hint) if part is not NoneType]
    if len(parts) == 1 and NoneType in get_args(hint):
        return or_(_without_ranges(parts[0]), None)
    return hint
