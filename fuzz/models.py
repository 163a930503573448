"""Give model folders and weight files, whole, damaged and hostile."""

import copy
import io
import json
import pickle
import random
import shutil
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save, save_file

from backdoor_privacy.clip.loading import load_clip
from fuzz.cases import UNKNOWN, Case, canary
from fuzz.world import write_clip

_CONFIG, _WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"
_SPOILED = (
    None,
    -1,
    0,
    1e308,
    float("nan"),
    2**63,
    "x",
    "",
    [],
    {},
    True,
    [[]],
    "\x1b[2J",
    "a\nb",
    "builtins.eval",
    1.5,
    10**9,
    "__import__('os')",
)
_BLAMES = ("clip.model", "clip.pretrained", "clip:", _CONFIG, _WEIGHTS, "mine.")
State = dict[str, torch.Tensor]


class Hostile:
    """An object that runs code when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return canary, (str(self.target),)


@cache
def _original(place: Path) -> Path:
    return write_clip(place)


def make(folder: Path, rng: random.Random) -> Case:
    """Write a model folder or a weight file, whole, damaged or hostile."""
    clip = folder / "clip"
    shutil.copytree(_original(folder.parent / "_clip"), clip)
    state = load_file(clip / _WEIGHTS)
    return rng.choice([_whole] * 6 + [_whole_file] * 4 + [_config] * 5 + [_weights] * 5 + [_pickle] * 2 + [_bytes] * 2)(
        folder, clip, state, rng
    )


def _digest(state: State) -> dict[str, float]:
    return {name: float(tensor.double().sum()) for name, tensor in sorted(state.items())}


def _loaded(model: str, pretrained: str | None = None) -> Callable[[], Any]:
    """Return a function that loads a CLIP, embeds a text, and returns the sums of the weights."""

    def read() -> Any:
        clip = load_clip(model, pretrained, device="cpu")
        text = clip.embed_texts(["a photo of Ann Lee"])
        if not torch.isfinite(text).all():
            return "features that are not finite"
        return tuple(text.shape), {**_sums(clip.text), **_sums(clip.image)}

    return read


def _sums(encoder: Any) -> dict[str, float]:
    return {
        str(tuple(tensor.shape)): round(float(tensor.double().abs().sum()), 3)
        for _, tensor in sorted(encoder.named_parameters())
    }


@cache
def _expected(place: Path) -> Any:
    return _loaded(f"local-dir:{place}")()


def _whole(folder: Path, clip: Path, state: State, rng: random.Random) -> Case:
    """Write the same model as other programs do: another order of keys, other types, another file."""
    expected = _expected_of(folder)
    config = json.loads((clip / _CONFIG).read_text())
    way = rng.choice(("as it is", "order", "half", "bin", "indent"))
    if way == "order":
        config = {"preprocess_cfg": config["preprocess_cfg"], "model_cfg": dict(reversed(config["model_cfg"].items()))}
    elif way == "bin":
        torch.save(state, clip / "open_clip_pytorch_model.bin")
        (clip / _WEIGHTS).unlink()
    elif way == "half":
        state = {name: tensor.double() for name, tensor in state.items()}
        save_file(state, clip / _WEIGHTS)
    (clip / _CONFIG).write_text(json.dumps(config, indent=rng.choice((None, 4))))
    return Case(f"a model folder, {way}", _loaded(f"local-dir:{clip}"), expected, "read")


def _expected_of(folder: Path) -> Any:
    return _expected(folder.parent / "_clip")


def _whole_file(folder: Path, clip: Path, state: State, rng: random.Random) -> Case:
    """Write a weight file as training loops do."""
    wrapper = rng.choice((None, "state_dict", "model", "model_state_dict"))
    prefix = rng.choice(("", "module.", "model.", "_orig_mod.", "clip.", "module._orig_mod."))
    content: Any = {f"{prefix}{name}": tensor for name, tensor in state.items()}
    content = {wrapper: content, "epoch": 3} if wrapper else content
    path = clip / "open_clip_pytorch_model.bin"
    torch.save(content, path, _use_new_zipfile_serialization=rng.random() < 0.7)
    (clip / _WEIGHTS).unlink()
    return Case(f"weights under {wrapper}, with {prefix!r}", _loaded(f"local-dir:{clip}"), _expected_of(folder), "read")


def _config(folder: Path, clip: Path, state: State, rng: random.Random) -> Case:
    """Spoil, delete or add one or two values of a config."""
    config = json.loads((clip / _CONFIG).read_text())
    changes = []
    for _ in range(rng.choice((1, 1, 2))):
        place = _random_place(config, rng)
        parent = config
        for key in place[:-1]:
            parent = parent[key]
        way, value = rng.choice(("set", "set", "delete", "add")), copy.deepcopy(rng.choice(_SPOILED))
        if way == "delete":
            del parent[place[-1]]
        elif way == "add" and isinstance(parent, dict):
            parent[
                rng.choice(("hf_model_name", "timm_model_name", "hf_tokenizer_name", "x", "_target_", "custom_text"))
            ] = value
        else:
            parent[place[-1]] = value
        changes.append((way, place, value))
        if not config:
            break
    text = json.dumps(config)
    (clip / _CONFIG).write_text(text)
    return Case(f"a config with {changes}", _loaded(f"local-dir:{clip}"), UNKNOWN, "either", _BLAMES)


def _random_place(config: Any, rng: random.Random) -> list[Any]:
    keys: list[Any] = []
    while isinstance(config, (dict, list)) and config:
        key = rng.choice(list(config)) if isinstance(config, dict) else rng.randrange(len(config))
        keys.append(key)
        config = config[key]
        if rng.random() < 0.15:
            break
    return keys


def _weights(folder: Path, clip: Path, state: State, rng: random.Random) -> Case:
    """Write tensors that are missing, superfluous, of another shape or type, or not finite."""
    way = rng.choice(("missing", "extra", "shape", "nan", "inf", "int", "empty", "other", "complex", "transposed"))
    name = rng.choice(sorted(state))
    if way == "missing":
        del state[name]
    elif way == "extra":
        state["visual.extra.weight"] = torch.ones(3)
    elif way == "shape":
        state[name] = torch.cat([state[name].reshape(-1), torch.ones(1)])
    elif way == "transposed":
        name = "text_projection"
        state[name] = torch.cat([state[name], state[name]])
    elif way in ("nan", "inf"):
        state[name] = torch.full_like(state[name], float(way))
    elif way == "int":
        state[name] = state[name].long() if name != "logit_scale" else state[name]
    elif way == "empty":
        state = {}
    elif way == "complex":
        state[name] = torch.zeros_like(state[name], dtype=torch.complex64)
    else:
        state = {"a": torch.ones(2), "b": torch.ones(3)}
    save_file(state, clip / _WEIGHTS)
    answer: Any = "either" if way in ("int",) else "refused"
    return Case(f"weights, {way}: {name}", _loaded(f"local-dir:{clip}"), UNKNOWN, answer, _BLAMES)


def _pickle(folder: Path, clip: Path, state: State, rng: random.Random) -> Case:
    """Write files that run code when they are unpickled."""
    hostile, way = Hostile(folder / "ran"), rng.choice(("torch", "legacy", "plain", "npz", "safetensors", "nested"))
    name = "open_clip_pytorch_model.bin"
    (clip / _WEIGHTS).unlink()
    if way in ("torch", "legacy"):
        torch.save({**state, "x": hostile}, clip / name, _use_new_zipfile_serialization=way == "torch")
    elif way == "nested":
        torch.save({"state_dict": state, "hyper_parameters": {"a": [hostile]}}, clip / name)
    elif way == "plain":
        (clip / name).write_bytes(pickle.dumps({**state, "x": hostile}))
    elif way == "npz":
        np.savez(clip / "open_clip_model.npz", x=np.array([hostile], dtype=object))
        return Case(f"a pickle, {way}", _loaded("ViT-B-32", str(clip / "open_clip_model.npz")), UNKNOWN, "refused")
    else:
        (clip / _WEIGHTS).write_bytes(pickle.dumps({"x": hostile}))
    return Case(f"a pickle, {way}", _loaded(f"local-dir:{clip}"), UNKNOWN, "refused", _BLAMES)


def _bytes(folder: Path, clip: Path, state: State, rng: random.Random) -> Case:
    """Write a file that is cut off, has flipped bits, or a false header."""
    content, way = bytearray(save(state)), rng.choice(("cut", "header", "flip", "long", "none", "page", "lfs", "zip"))
    answer: Any = "refused"
    (length,) = struct.unpack("<Q", content[:8])
    if way == "cut":
        content = content[: rng.randrange(len(content))]
    elif way == "header":
        content[8 + rng.randrange(length)] ^= 1 << rng.randrange(8)
        answer = "either"
    elif way == "flip":
        content[rng.randrange(8 + length, len(content))] ^= 1 << rng.randrange(8)
        answer = "either"  # the format has no checksum
    elif way == "long":
        content[:8] = struct.pack("<Q", rng.choice((2**63, 2**40, 10**8, 0, 1)))
    elif way == "none":
        content = bytearray()
    elif way == "page":
        content = bytearray(b"<!DOCTYPE html><html>404</html>")
    elif way == "lfs":
        content = bytearray(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    else:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("../../escaped", "x")
            archive.writestr("archive/data.pkl", pickle.dumps(Hostile(folder / "ran")))
        content = bytearray(file.getvalue())
    path = clip / (_WEIGHTS if way != "zip" else "open_clip_pytorch_model.bin")
    (clip / _WEIGHTS).unlink()
    path.write_bytes(bytes(content))
    return Case(f"a weight file, {way}", _loaded(f"local-dir:{clip}"), UNKNOWN, answer, _BLAMES)
