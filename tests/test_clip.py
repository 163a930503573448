import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from backdoor_privacy import clip as clip_module
from backdoor_privacy.clip import Clip, load_clip, write_local_dir
from backdoor_privacy.data.people import People
from backdoor_privacy.errors import InputError

RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 64}
RESNET_PREPROCESS = {"size": 32, "mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1]}
TEXTS = ["a dog on a hill", "Ann Lee", "Zoë Nuñez in a dress", "word " * 100]


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "open_clip_model.safetensors")


def trained(clip: Clip) -> Clip:
    """The CLIP with every trainable tensor of both encoders changed, as by a defence."""
    encoders = {"text": clip.text.student(), "image": clip.image.student()}
    generator = torch.Generator().manual_seed(7)
    for student in encoders.values():
        for _, parameter in student.trainable():
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    return clip.with_encoders(**{name: student.frozen() for name, student in encoders.items()})


@pytest.fixture(params=["vit", "vit with QuickGELU", "resnet"])
def clip(request: pytest.FixtureRequest, write_clip, tmp_path: Path) -> Clip:
    changes: dict[str, Any] = {"quick_gelu": "QuickGELU" in request.param}
    if request.param == "resnet":
        changes |= {"vision_cfg": RESNET, "preprocess": RESNET_PREPROCESS}
    return load_clip(f"local-dir:{write_clip(tmp_path / 'original', **changes)}")


@pytest.fixture
def photos(write_photo, tmp_path: Path) -> list[Path]:
    return [write_photo(tmp_path / f"{number}.png", number, size) for number, size in enumerate([(40, 30), (90, 120)])]


def save(clip: Clip, folder: Path) -> Path:
    write_local_dir(folder, clip.to_open_clip(), clip.config)
    return folder


def test_embeddings_are_open_clips_normalised(clip: Clip, photos: list[Path], tmp_path: Path):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{save(clip, tmp_path / 'saved')}")
    model.eval()
    with torch.no_grad():
        texts = model.encode_text(clip.tokenizer(TEXTS), normalize=True)
        pixels = torch.stack([preprocess(Image.open(path)) for path in photos])
        images = model.encode_image(pixels, normalize=True)
    torch.testing.assert_close(clip.embed_texts(TEXTS), texts)
    torch.testing.assert_close(clip.embed_photos(photos)[0], images)
    torch.testing.assert_close(clip.embed_pixels(pixels), images)


def test_many_texts_are_embedded_as_few_are(tiny_clip: Clip):
    texts = [f"caption number {number}" for number in range(600)]  # more than one batch
    found = tiny_clip.embed_texts(texts)
    assert found.shape == (600, 32)
    for place in (0, 511, 512, 599):
        torch.testing.assert_close(found[place], tiny_clip.embed_texts([texts[place]])[0])


def test_saved_clip_gives_identical_features(clip: Clip, photos: list[Path], tmp_path: Path):
    defended = trained(clip)
    again = load_clip(f"local-dir:{save(defended, tmp_path / 'defended')}")
    assert torch.equal(again.embed_texts(TEXTS), defended.embed_texts(TEXTS))
    assert torch.equal(again.embed_photos(photos)[0], defended.embed_photos(photos)[0])
    assert not torch.allclose(again.embed_texts(TEXTS), clip.embed_texts(TEXTS), atol=1e-3)
    assert not torch.allclose(again.embed_photos(photos)[0], clip.embed_photos(photos)[0], atol=1e-3)
    assert again.sha256() == defended.sha256() != clip.sha256()


def test_quick_gelu_is_kept(clip: Clip, tmp_path: Path):
    def activations(encoder: nn.Module) -> set[str]:
        return {type(module).__name__ for module in encoder.modules() if "GELU" in type(module).__name__}

    again = load_clip(f"local-dir:{save(clip, tmp_path / 'saved')}")
    assert again.config == clip.config
    expected = {"QuickGELU"} if clip.config["model_cfg"]["quick_gelu"] else {"GELU"}
    assert activations(again.text) == activations(again.to_open_clip()) == expected


@pytest.mark.parametrize(
    "changes", [{}, {"mean": [0.1, 0.2, 0.3]}, {"interpolation": "bilinear"}, {"resize_mode": "squash"}]
)
def test_preprocessing_is_unchanged(write_clip, tmp_path: Path, photos: list[Path], changes: dict[str, Any]):
    preprocess = {"size": 24, "mean": [0.48, 0.46, 0.41], "std": [0.27, 0.26, 0.28], **changes}
    folder = write_clip(tmp_path / "original", preprocess=preprocess)
    clip = load_clip(f"local-dir:{folder}")
    _, _, expected = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    again = load_clip(f"local-dir:{save(clip, tmp_path / 'saved')}")
    for path in photos:
        with Image.open(path) as photo:
            assert torch.equal(clip.preprocess(photo), expected(photo))
            assert torch.equal(again.preprocess(photo), expected(photo))
            torch.testing.assert_close(clip.normalize(clip.geometry(photo)), expected(photo))
            assert clip.geometry(photo).min() >= 0
            assert clip.geometry(photo).max() <= 1


def test_trap_2_every_trained_tensor_is_in_the_saved_model(clip: Clip, tmp_path: Path):
    # The published code trains the positional embedding but does not copy it back.
    defended = trained(clip)
    saved, original = (weights_of(save(one, tmp_path / str(number))) for number, one in enumerate((defended, clip)))
    students = {**dict(clip.text.student().trainable()), **dict(clip.image.student().trainable())}
    names = {name.removeprefix("encode.model.") for name in students}
    projection = "visual.attnpool.c_proj.weight" if "visual.attnpool.c_proj.weight" in original else "visual.proj"
    assert {"positional_embedding", "text_projection", projection} <= names
    assert any("positional_embedding" in name for name in names if name.startswith("visual."))
    assert {name for name in saved if not torch.equal(saved[name], original[name])} == names
    tensors = {**defended.text.tensors(), **defended.image.tensors()}
    assert all(torch.equal(saved[name], tensor) for name, tensor in tensors.items())


def test_only_the_defended_encoder_differs(clip: Clip, tmp_path: Path):
    defended, original = trained(clip), weights_of(save(clip, tmp_path / "original-again"))
    for encoder in ("text", "image"):
        one = clip.with_encoders(**{encoder: getattr(defended, encoder)})
        saved = weights_of(save(one, tmp_path / encoder))
        changed = {name for name in saved if not torch.equal(saved[name], original[name])}
        assert changed
        assert all(name.startswith("visual.") == (encoder == "image") for name in changed)


def test_trap_8_loaded_weights_are_exactly_those_asked_for(write_clip, tmp_path: Path):
    # The published code silently gives RN50 other weights than the ones named.
    for number, changes in enumerate(({}, {"vision_cfg": RESNET, "preprocess": RESNET_PREPROCESS})):
        first = write_clip(tmp_path / f"{number}-first", **changes)
        second = write_clip(tmp_path / f"{number}-second", seed=1, **changes)
        clips = [load_clip(f"local-dir:{folder}") for folder in (first, second)]
        for folder, clip in zip((first, second), clips, strict=True):
            asked = weights_of(folder)
            loaded = {**clip.text.tensors(), **clip.image.tensors()}
            assert set(loaded) == set(asked)
            assert all(torch.equal(loaded[name], tensor) for name, tensor in asked.items())
        assert clips[0].sha256() == load_clip(f"local-dir:{first}").sha256() != clips[1].sha256()


def test_digest_changes_with_a_single_weight(tiny_clip: Clip):
    text = tiny_clip.text.copy()
    text.model.positional_embedding.data[3, 5] += 1e-6
    assert tiny_clip.with_encoders(text=text).sha256() != tiny_clip.sha256()


def test_half_precision_keeps_counters_and_loads_as_fp32(write_clip, tmp_path: Path):
    folder = write_clip(tmp_path / "full", vision_cfg=RESNET, preprocess=RESNET_PREPROCESS)
    clip = load_clip(f"local-dir:{folder}")
    write_local_dir(tmp_path / "half", clip.to_open_clip(), clip.config, dtype=torch.float16)
    saved = weights_of(tmp_path / "half")
    counters = {name for name in saved if name.endswith("num_batches_tracked")}
    assert counters
    assert {name for name, tensor in saved.items() if tensor.dtype != torch.float16} == counters
    half = load_clip(f"local-dir:{tmp_path / 'half'}")
    assert {tensor.dtype for tensor in half.text.tensors().values()} == {torch.float32}
    torch.testing.assert_close(half.embed_texts(TEXTS), clip.embed_texts(TEXTS), atol=1e-2, rtol=0)


PLAIN = """
import json, sys
import open_clip, torch
from PIL import Image
torch.set_num_threads(1)
model, _, preprocess = open_clip.create_model_and_transforms(sys.argv[1])
tokenizer = open_clip.get_tokenizer(sys.argv[1])
with torch.no_grad():
    texts = model.eval().encode_text(tokenizer(["a dog", "Ann Lee"]), normalize=True)
    images = model.encode_image(preprocess(Image.open(sys.argv[2]))[None], normalize=True)
assert not any(name.startswith("backdoor_privacy") for name in sys.modules)
print(json.dumps([texts.tolist(), images.tolist()]))
"""


def test_saved_clip_loads_with_open_clip_alone(tiny_clip: Clip, photos: list[Path], tmp_path: Path):
    defended = trained(tiny_clip)
    command = [sys.executable, "-c", PLAIN, f"local-dir:{save(defended, tmp_path / 'defended')}", str(photos[0])]
    output = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    texts, images = json.loads(output.splitlines()[-1])
    np.testing.assert_allclose(texts, defended.embed_texts(["a dog", "Ann Lee"]), atol=1e-5)
    np.testing.assert_allclose(images, defended.embed_photos(photos[:1])[0], atol=1e-5)


def test_interrupted_saving_leaves_the_folder_as_it_was(tiny_clip: Clip, tmp_path: Path, monkeypatch):
    folder = save(tiny_clip, tmp_path / "out/defended")
    before = weights_of(folder)

    def fail(state: dict[str, torch.Tensor], path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(clip_module, "save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save(trained(tiny_clip), folder)
    assert [path.name for path in folder.parent.iterdir()] == ["defended"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights_of(folder).items())


@pytest.fixture
def architecture(tmp_path: Path, tiny_clip_folder: Path) -> Iterator[str]:
    """The tiny CLIP's architecture under a name, as open_clip's own ones."""
    path = tmp_path / "configs/test-tiny.json"
    path.parent.mkdir()
    path.write_text(json.dumps(json.loads((tiny_clip_folder / "open_clip_config.json").read_text())["model_cfg"]))
    open_clip.add_model_config(path)
    return "test-tiny"


def test_weights_come_from_a_local_file(architecture: str, tiny_clip: Clip, tiny_clip_folder: Path, tmp_path: Path):
    file = tmp_path / "weights.pt"
    torch.save(weights_of(tiny_clip_folder), file)
    loaded = load_clip(architecture, pretrained=str(file))
    assert loaded.sha256() == tiny_clip.sha256()
    again = load_clip(f"local-dir:{save(loaded, tmp_path / 'saved')}")
    assert torch.equal(again.embed_texts(TEXTS), tiny_clip.embed_texts(TEXTS))


def test_architecture_without_weights_is_an_error(architecture: str, tmp_path: Path):
    with pytest.raises(InputError, match=r"clip\.pretrained: expected a tag or a weight file for test-tiny, got null"):
        load_clip(architecture)
    with pytest.raises(InputError, match=r"clip\.pretrained=nowhere\.pt: .* not a known tag or valid file"):
        load_clip(architecture, pretrained="nowhere.pt")
    with pytest.raises(InputError, match=r"clip\.model=no-such-model.* not found"):
        load_clip("no-such-model", pretrained="openai")


def test_weight_file_that_is_damaged_is_an_error(architecture: str, tmp_path: Path):
    for number, content in enumerate((b"", b"no weights", b"\x80\x02K\x01.")):
        (tmp_path / f"{number}.pt").write_bytes(content)
        with pytest.raises(InputError, match="expected weights of this architecture"):
            load_clip(architecture, pretrained=str(tmp_path / f"{number}.pt"))


def test_weights_of_another_architecture_are_an_error(architecture: str, write_clip, tmp_path: Path):
    wide = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    folder = write_clip(tmp_path / "other", text_cfg=wide)
    torch.save(weights_of(folder), tmp_path / "weights.pt")
    with pytest.raises(
        InputError, match=r"^clip\.model=test-tiny.*expected weights of this architecture.*width changed"
    ):
        load_clip(architecture, pretrained=str(tmp_path / "weights.pt"))
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["layers"] = 3
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="expected weights of this architecture") as caught:
        load_clip(f"local-dir:{folder}")
    assert "\n" not in str(caught.value)


def test_folder_that_is_incomplete_is_an_error(write_clip, tmp_path: Path):
    with pytest.raises(InputError, match=r"clip\.model=local-dir:.*nowhere: expected a folder with open_clip_config"):
        load_clip(f"local-dir:{tmp_path / 'nowhere'}")
    folder = write_clip(tmp_path / "clip")
    (folder / "open_clip_model.safetensors").write_bytes(b"half")
    with pytest.raises(InputError, match=r"expected weights of this architecture, got: .*[Hh]eader"):
        load_clip(f"local-dir:{folder}")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"clip\.model=local-dir:.*could not be loaded"):
        load_clip(f"local-dir:{folder}")
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(InputError, match="Could not load valid config"):
        load_clip(f"local-dir:{folder}")


@pytest.mark.parametrize(("limit", "num_reads"), [(2**30, 1), (0, 2)])
def test_photos_are_decoded_once_for_all_image_encoders_as_far_as_there_is_room(
    limit: int, num_reads: int, tiny_clip: Clip, people: People, monkeypatch: pytest.MonkeyPatch
):
    reads: list[int] = []
    load = clip_module.photo_loader

    def counting(paths: Any, *arguments: Any, **settings: Any) -> Any:
        reads.append(len(paths))
        return load(paths, *arguments, **settings)

    monkeypatch.setattr(clip_module, "photo_loader", counting)
    monkeypatch.setattr(clip_module, "_MAX_DECODED_BYTES", limit)
    paths = list(people.everybody[0].photos)
    fresh = replace(tiny_clip, image=tiny_clip.image.frozen(), decoded={})
    changed = fresh.image.student()
    changed.visual.proj.data += 1
    other = fresh.with_encoders(image=changed.frozen())
    for clip in (fresh, other):
        features, readable = clip.embed_photos(paths)
        pixels = torch.stack([clip.preprocess(Image.open(path).convert("RGB")) for path in paths])
        with torch.no_grad():
            expected = torch.nn.functional.normalize(clip.image(pixels), dim=-1)
        torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-5)
        assert readable.all()
    assert reads == [len(paths)] * num_reads
