import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file

from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.errors import InputError

NAME = "test-checkpoint"
Weights = dict[str, torch.Tensor]


@pytest.fixture(autouse=True)
def architecture(tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny CLIP's architecture under a name."""
    config = json.loads((tiny_clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, config)


@pytest.fixture(scope="module")
def weights(tiny_clip_folder: Path) -> Weights:
    return load_file(tiny_clip_folder / "open_clip_model.safetensors")


def named(prefix: str, weights: Weights) -> Weights:
    return {prefix + name: tensor for name, tensor in weights.items()}


def other(weights: Weights) -> Weights:
    """A moving average, which is not what was trained last."""
    return {name: tensor + 1 for name, tensor in weights.items()}


WRAPPED: dict[str, Callable[[Weights], Any]] = {
    "plain": lambda w: w,
    "Lightning": lambda w: {"state_dict": named("model.", w), "epoch": 3, "hyper_parameters": {"lr": 0.1}},
    "compiled": lambda w: named("_orig_mod.", w),
    "compiled, of Lightning, in several processes": lambda w: {"state_dict": named("model.module._orig_mod.", w)},
    "in several processes, compiled": lambda w: {"state_dict": named("module._orig_mod.", w)},
    "compiled in part": lambda w: {name.replace("visual.", "visual._orig_mod."): each for name, each in w.items()},
    "of another loop": lambda w: {"model_state_dict": w, "optimizer_state_dict": {"state": {}}, "epoch": 3},
    "under model": lambda w: {"model": named("module.", w), "args": None},
    "twice wrapped": lambda w: {"state_dict": {"model": w}},
    "an average alone": lambda w: {"state_dict_ema": w},
    "an average beside it": lambda w: {"state_dict": w, "state_dict_ema": other(w)},
    "an average in the same table": lambda w: {"state_dict": {**named("model.", w), **named("ema_model.", other(w))}},
    "an average with plain names": lambda w: {**w, **named("model_ema.", other(w))},
    "of AveragedModel": lambda w: {**named("module.", w), "n_averaged": torch.tensor(7)},
    "of OpenAI's archive": lambda w: {**w, "input_resolution": torch.tensor(24), "context_length": torch.tensor(32)},
    "in half precision": lambda w: {"state_dict": {name: tensor.half() for name, tensor in w.items()}},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_weights_are_found_however_training_wrapped_them(kind: str, weights: Weights, tiny_clip: Clip, tmp_path: Path):
    torch.save(WRAPPED[kind](weights), tmp_path / "weights.pt")
    clip = load_clip(NAME, str(tmp_path / "weights.pt"))
    if kind == "in half precision":
        torch.testing.assert_close(clip.embed_texts(["a dog"]), tiny_clip.embed_texts(["a dog"]), atol=1e-2, rtol=0)
    else:
        assert clip.sha256() == tiny_clip.sha256()


@pytest.mark.parametrize("prefix", ["model.", "module._orig_mod."])
@pytest.mark.parametrize("place", ["file", "folder", "without suffix"])
def test_names_in_safetensors_may_begin_otherwise(
    prefix: str, place: str, weights: Weights, tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path
):
    file = tmp_path / ("weights" if place == "without suffix" else "open_clip_model.safetensors")
    save_file(named(prefix, weights), file)
    (tmp_path / "open_clip_config.json").write_bytes((tiny_clip_folder / "open_clip_config.json").read_bytes())
    clip = load_clip(f"local-dir:{tmp_path}") if place == "folder" else load_clip(NAME, str(file))
    assert clip.sha256() == tiny_clip.sha256()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda w: {**named("student.", w), **named("teacher.", w)}, r"2 models, whose names begin student\., teacher"),
        (lambda w: {**named("model.", w), "adapter.lora": torch.ones(2)}, r"1 other tensors, adapter\.lora"),
        (lambda w: {**w, "adapter.lora": torch.ones(2)}, r"with 1 others \(adapter\.lora\)"),
        (
            lambda w: {name: each for name, each in w.items() if "visual" not in name},
            r"without \d+ of \d+ tensors \(vis",
        ),
        (lambda w: {"epoch": 3, "args": None}, "only epoch, args in weights.pt, and no tensors"),
        (lambda w: {"weights": w}, "only weights in weights.pt, and no tensors"),
        (lambda w: {f"clip/{name}": each for name, each in w.items() if name != "logit_scale"}, r"others \(clip/ln_f"),
        (lambda w: [w], "a list in weights.pt, and no tensors"),
    ],
)
def test_weights_that_are_not_clear_are_named(
    change: Callable[[Weights], Any], told: str, weights: Weights, tmp_path: Path
):
    torch.save(change(weights), tmp_path / "weights.pt")
    with pytest.raises(
        InputError, match=rf"^clip\.model={NAME}.*: expected weights of this .*, got: .*{told}"
    ) as found:
        load_clip(NAME, str(tmp_path / "weights.pt"))
    assert "\n" not in str(found.value)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 353976522\n"


@pytest.mark.parametrize("place", ["weights.pt", "weights.safetensors", "folder"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "an empty file, .*; copy or download it again$"),
        (LFS, "a Git LFS pointer in place of .*: git lfs pull$"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", "a web page in place of .*; download the file itself$"),
        (b"\n <html lang='en'></html>", "a web page in place of"),
    ],
)
def test_what_is_no_weight_file_is_named(place: str, content: bytes, told: str, tiny_clip_folder: Path, tmp_path: Path):
    file = tmp_path / ("open_clip_model.safetensors" if place == "folder" else place)
    file.write_bytes(content)
    (tmp_path / "open_clip_config.json").write_bytes((tiny_clip_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(InputError, match=f"got: {told}") as found:
        load_clip(f"local-dir:{tmp_path}") if place == "folder" else load_clip(NAME, str(file))
    assert "\n" not in str(found.value)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
def test_file_that_is_cut_off_is_named(name: str, share: float, weights: Weights, tmp_path: Path):
    file = tmp_path / name
    save_file(weights, file) if name.endswith("safetensors") else torch.save(weights, file)
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * share)])
    with pytest.raises(InputError, match=f"damaged or cut off, {name} .*; copy or download it again$") as found:
        load_clip(NAME, str(file))
    assert "\n" not in str(found.value)


def test_folder_in_the_place_of_a_weight_file_is_named(tiny_clip_folder: Path):
    with pytest.raises(InputError, match=r"got the folder .*; give a file in it, or for one with open_clip_"):
        load_clip(NAME, str(tiny_clip_folder))


@pytest.mark.filterwarnings("ignore:.torch.jit:FutureWarning", "ignore:.torch.jit:DeprecationWarning")
def test_torchscript_archive_says_what_to_do(tmp_path: Path):
    class Module(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    torch.jit.trace(Module(), torch.ones(1)).save(str(tmp_path / "ViT-B-32.pt"))
    with pytest.raises(InputError, match=r"a TorchScript archive, ViT-B-32\.pt, .*pretrained=openai, or"):
        load_clip(NAME, str(tmp_path / "ViT-B-32.pt"))
