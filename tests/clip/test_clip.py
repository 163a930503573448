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
from safetensors.torch import load_file, save_file
from torch import nn

from backdoor_privacy.clip import export as export_module
from backdoor_privacy.clip import loading
from backdoor_privacy.clip import model as clip_module
from backdoor_privacy.clip.export import write_local_dir
from backdoor_privacy.clip.loading import load_clip, wrap_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.errors import InputError
from backdoor_privacy.system import hardware

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
    "changes",
    [
        {},
        {"mean": [0.1, 0.2, 0.3]},
        {"interpolation": "bilinear"},
        {"resize_mode": "squash"},
        {"mean": [0.0, 0.5, 1.0], "std": [1.0, 0.7, 0.1], "interpolation": "bilinear", "resize_mode": "squash"},
    ],
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


def test_every_trained_tensor_is_in_the_saved_model(clip: Clip, tmp_path: Path):
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


def test_loaded_weights_are_exactly_those_asked_for(write_clip, tmp_path: Path):
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

    monkeypatch.setattr(export_module, "save_file", fail)
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
    with pytest.raises(InputError, match=r"expected a tag of test-tiny .* or a weight file, got nowhere\.pt"):
        load_clip(architecture, pretrained="nowhere.pt")


def test_weight_file_that_is_damaged_is_an_error(architecture: str, tmp_path: Path):
    for number, content in enumerate((b"", b"no weights", b"\x80\x02K\x01.")):
        (tmp_path / f"{number}.pt").write_bytes(content)
        with pytest.raises(InputError, match=r"expected weights of this architecture|a pickle that is damaged"):
            load_clip(architecture, pretrained=str(tmp_path / f"{number}.pt"))


@pytest.mark.parametrize("kind", [torch.int8, torch.int64, torch.complex64, torch.bool])
def test_weights_of_whole_or_complex_numbers_are_an_error(write_clip, tmp_path: Path, kind: torch.dtype):
    folder = write_clip(tmp_path / "clip")
    weights = load_file(folder / "open_clip_model.safetensors")
    weights["text_projection"] = weights["text_projection"].to(kind)
    save_file(weights, folder / "open_clip_model.safetensors")
    with pytest.raises(InputError, match=rf"with 1 of whole or complex numbers \(text_projection: {kind}\); choose"):
        load_clip(f"local-dir:{folder}")


@pytest.mark.parametrize("value", [["x", 0.4, 0.4], [0.4, 0.4], [[], 0, 0]])
def test_preprocessing_of_a_folder_is_told_by_its_file(write_clip, tmp_path: Path, value: list):
    folder = write_clip(tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["preprocess_cfg"]["mean"] = value
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"^clip\.model=.*, open_clip_config\.json: expected mean and std of"):
        load_clip(f"local-dir:{folder}")


def test_weights_of_another_architecture_are_an_error(architecture: str, write_clip, tmp_path: Path):
    wide = {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
    folder = write_clip(tmp_path / "other", text_cfg=wide)
    torch.save(weights_of(folder), tmp_path / "weights.pt")
    with pytest.raises(
        InputError, match=r"^clip\.model=test-tiny.*expected weights of this architecture.*29 of another shape"
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
    with pytest.raises(InputError, match=r"expected weights of the architecture .*, got: 4 bytes in open_clip_model"):
        load_clip(f"local-dir:{folder}")
    (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match=r"clip\.model=local-dir:.*expected weights in it .*, found none"):
        load_clip(f"local-dir:{folder}")
    (folder / "open_clip_config.json").write_text("{")
    with pytest.raises(InputError, match=r"expected model_cfg in open_clip_config\.json, got JSONDecodeError"):
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


def interrupt(*_: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("error", [InputError, KeyboardInterrupt])
def test_photos_that_were_repaired_after_an_error_are_read_again(
    error: type[BaseException], tiny_clip: Clip, photos: list[Path], monkeypatch: pytest.MonkeyPatch
):
    content = photos[1].read_bytes()
    photos[1].write_bytes(b"no photo")
    clip = replace(tiny_clip, image=tiny_clip.image.frozen(), decoded={})
    with monkeypatch.context() as patch:
        if error is KeyboardInterrupt:
            patch.setattr(type(clip.image), "embed", interrupt)
        with pytest.raises(error):
            clip.embed_photos(photos)
    photos[1].write_bytes(content)
    features, readable = clip.embed_photos(photos)
    assert readable.all()
    torch.testing.assert_close(features[1], clip.embed_photos(photos[1:])[0][0])


def test_no_photos_have_no_features(tiny_clip: Clip):
    features, readable = tiny_clip.embed_photos([])
    assert (features.shape, readable.shape) == ((0, 32), (0,))


# Devices


def devices(encoder: nn.Module) -> set[str]:
    return {tensor.device.type for tensor in (*encoder.parameters(), *encoder.buffers())}


def test_clip_is_loaded_onto_the_device_that_is_asked_for(tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch):
    asked = []
    monkeypatch.setattr(hardware, "default_device", lambda: torch.device("meta"))  # in place of a GPU
    monkeypatch.setattr(loading, "computes_in_bf16", lambda device: asked.append(device) or True)
    for device, expected in (("auto", "meta"), ("cpu", "cpu")):
        clip = load_clip(f"local-dir:{tiny_clip_folder}", precision="auto", device=device)
        assert devices(clip.text) == devices(clip.image) == {expected}
        assert clip.precision == "bf16"
    assert [device.type for device in asked] == ["meta", "cpu"]


@pytest.mark.parametrize("device", ["gpu", "cuda:99"])
def test_device_that_is_not_there_is_an_error(device: str, tiny_clip_folder: Path):
    with pytest.raises(InputError, match=rf"^clip\.device: expected auto, cpu or a GPU .*; got {device}$"):
        load_clip(f"local-dir:{tiny_clip_folder}", device=device)


def test_other_encoders_go_where_those_are_that_they_replace(tiny_clip: Clip):
    elsewhere = replace(tiny_clip, text=tiny_clip.text.copy().to("meta"))
    changed = elsewhere.with_encoders(text=tiny_clip.text.copy(), image=tiny_clip.image.copy().to("cpu"))
    assert (devices(changed.text), devices(changed.image)) == ({"meta"}, {"cpu"})
    assert devices(elsewhere.with_encoders(image=tiny_clip.image.copy()).text) == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_clip_on_a_gpu_is_the_same(tiny_clip: Clip, tiny_clip_folder: Path, photos: list[Path], tmp_path: Path):
    clip = load_clip(f"local-dir:{tiny_clip_folder}", device="cuda")
    assert clip.embed_texts(TEXTS).device.type == "cpu"
    torch.testing.assert_close(clip.embed_texts(TEXTS), tiny_clip.embed_texts(TEXTS), atol=1e-3, rtol=0)
    torch.testing.assert_close(clip.embed_photos(photos)[0], tiny_clip.embed_photos(photos)[0], atol=1e-3, rtol=0)
    clip.with_encoders(text=tiny_clip.text.copy()).save(tmp_path / "saved")
    assert load_clip(f"local-dir:{tmp_path / 'saved'}").sha256() == clip.sha256() == tiny_clip.sha256()


def test_exported_model_can_be_trained(clip: Clip):
    model = clip.to_open_clip()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(parameter.requires_grad for parameter in [*clip.text.parameters(), *clip.image.parameters()])


# Other architectures

VISION = {"image_size": 24, "layers": 2, "width": 64, "head_width": 32, "patch_size": 12}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
COCA = {
    "custom_text": True,
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "layers": 1, "attn_pooler_heads": 2},
}
SIGLIP = {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
EOS = {**TEXT, "pool_type": "eos", "eos_id": 49407}
ARCHITECTURES: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "plain": (open_clip.CLIP, {}),
    "odd context": (open_clip.CLIP, {"text_cfg": {**TEXT, "context_length": 20}}),
    "plain, eos": (open_clip.CLIP, {"text_cfg": EOS}),
    "plain, not causal": (open_clip.CLIP, {"text_cfg": SIGLIP}),
    "custom text": (open_clip.CustomTextCLIP, {"custom_text": True}),
    "custom text, eos": (open_clip.CustomTextCLIP, {"custom_text": True, "text_cfg": EOS}),
    "SigLIP's text": (open_clip.CustomTextCLIP, {"custom_text": True, "text_cfg": SIGLIP, "init_logit_bias": -10}),
    "CoCa": (open_clip.CoCa, COCA),
    "timm ConvNeXt": (
        open_clip.CLIP,
        {"vision_cfg": {"timm_model_name": "test_convnext", "timm_pool": "avg", "image_size": 64}},
    ),
    "timm ResNet": (
        open_clip.CustomTextCLIP,
        {
            "custom_text": True,
            "vision_cfg": {"timm_model_name": "test_resnet", "timm_pool": "", "timm_proj": "mlp", "image_size": 64},
        },
    ),
}


@pytest.fixture(scope="module", params=ARCHITECTURES)
def other(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[nn.Module, Clip]:
    """A model of open_clip, and the same as a CLIP that was loaded from a folder."""
    kind, changes = ARCHITECTURES[request.param]
    config: dict[str, Any] = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT, **changes}
    preprocess = {"size": config["vision_cfg"]["image_size"], "mean": [0.5, 0.4, 0.3], "std": [0.3, 0.2, 0.1]}
    torch.manual_seed(0)
    model = kind(**{key: value for key, value in config.items() if key != "custom_text"}).eval()
    for weights in model.parameters():  # open_clip leaves a projection of CoCa's decoder as the memory was
        weights.data.nan_to_num_(posinf=0, neginf=0)
    folder = tmp_path_factory.mktemp("other") / "clip"
    write_local_dir(folder, model, {"model_cfg": config, "preprocess_cfg": preprocess})
    return model, load_clip(f"local-dir:{folder}")


def features_of(model: Any, clip: Clip) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Plain open_clip's features of texts and of pixels, and the pixels."""
    side = clip.preprocess(Image.new("RGB", (50, 40))).shape[-1]
    pixels = torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        texts = model.encode_text(clip.tokenizer(TEXTS), normalize=True)
        return texts, model.encode_image(pixels, normalize=True), pixels


def test_every_architecture_gives_open_clips_features(other: tuple[nn.Module, Clip]):
    model, clip = other
    texts, images, pixels = features_of(model, clip)
    torch.testing.assert_close(clip.embed_texts(TEXTS), texts, atol=1e-6, rtol=0)
    torch.testing.assert_close(clip.embed_pixels(pixels), images, atol=1e-6, rtol=0)


def test_features_of_every_architecture_are_not_normalised(other: tuple[nn.Module, Clip]):
    model, clip = other
    with torch.no_grad():
        found = clip.text(clip.tokenizer(TEXTS))
        expected = model.encode_text(clip.tokenizer(TEXTS), normalize=False)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found.norm(dim=-1) - 1).abs().max() > 1e-3


def test_texts_are_only_read_short_where_that_is_exact(other: tuple[nn.Module, Clip], monkeypatch):
    model, clip = other
    lengths = []
    read = type(clip.text.encode).forward

    def reading(self: Any, tokens: torch.Tensor) -> torch.Tensor:
        lengths.append(tokens.shape[1])
        return read(self, tokens)

    monkeypatch.setattr(type(clip.text.encode), "forward", reading)
    clip.with_encoders(text=clip.text.copy()).embed_texts(["a dog"])
    exact = isinstance(model, open_clip.CLIP) and model.text_pool_type == "argmax" and model.attn_mask is not None
    context = clip.config["model_cfg"]["text_cfg"]["context_length"]
    assert lengths == ([4] if exact else [context])


def test_every_architecture_is_trained_saved_and_loaded_by_open_clip(other: tuple[nn.Module, Clip], tmp_path: Path):
    model, clip = other
    _, _, pixels = features_of(model, clip)
    encoders = {}
    for name, inputs in (("text", clip.tokenizer(TEXTS)), ("image", pixels)):
        student = getattr(clip, name).student()
        optimizer = torch.optim.SGD([parameter for _, parameter in student.trainable()], lr=0.1)
        student(inputs)[:, 0].sum().backward()
        assert all(parameter.grad is not None for _, parameter in student.trainable())
        optimizer.step()
        encoders[name] = student.frozen()
    defended = clip.with_encoders(**encoders)
    defended.save(tmp_path / "defended")
    name = f"local-dir:{tmp_path / 'defended'}"
    again = open_clip.create_model(name).eval()
    assert type(again) is type(model) is type(defended.to_open_clip())
    assert json.dumps(again.visual.preprocess_cfg) == json.dumps(clip.config["preprocess_cfg"])
    assert torch.equal(open_clip.get_tokenizer(name)(TEXTS), clip.tokenizer(TEXTS))
    texts, images, _ = features_of(again, clip)
    torch.testing.assert_close(defended.embed_texts(TEXTS), texts, atol=1e-6, rtol=0)
    torch.testing.assert_close(defended.embed_pixels(pixels), images, atol=1e-6, rtol=0)
    assert (defended.embed_texts(TEXTS) - clip.embed_texts(TEXTS)).abs().max() > 1e-3
    assert (defended.embed_pixels(pixels) - clip.embed_pixels(pixels)).abs().max() > 1e-3


# A model that the caller has loaded


@pytest.mark.parametrize("described", ["by name", "by config"])
def test_model_of_the_caller_is_wrapped(
    described: str, architecture: str, tiny_clip: Clip, tiny_clip_folder: Path, photos: list[Path], tmp_path: Path
):
    file = str(tiny_clip_folder / "open_clip_model.safetensors")
    model, _, preprocess = open_clip.create_model_and_transforms(
        architecture, pretrained=file, image_mean=(0.1, 0.2, 0.3), image_resize_mode="squash"
    )
    if described == "by name":
        clip = wrap_clip(model, architecture)
    else:
        config = {"model_cfg": open_clip.get_model_config(architecture), "preprocess_cfg": model.visual.preprocess_cfg}
        clip = wrap_clip(model, config, open_clip.get_tokenizer(architecture))
    assert clip.sha256() == tiny_clip.sha256()
    clip.save(tmp_path / "saved")
    again = load_clip(f"local-dir:{tmp_path / 'saved'}")
    with Image.open(photos[0]) as photo, torch.no_grad():
        pixels = preprocess(photo)
        expected = model.eval().encode_image(pixels[None], normalize=True)
        assert torch.equal(clip.preprocess(photo), pixels)
        assert torch.equal(again.preprocess(photo), pixels)
    for one in (clip, again):
        torch.testing.assert_close(one.embed_texts(TEXTS), tiny_clip.embed_texts(TEXTS))
        torch.testing.assert_close(one.embed_photos(photos[:1])[0], expected)


@pytest.mark.parametrize(("configured", "real"), [(False, True), (True, False)])
def test_activation_of_a_wrapped_model_is_the_one_that_it_has(
    configured: bool, real: bool, tiny_clip_folder: Path, tmp_path: Path
):
    config = json.loads((tiny_clip_folder / "open_clip_config.json").read_text())
    model = open_clip.CLIP(**config["model_cfg"] | {"quick_gelu": real}).eval()
    config["model_cfg"]["quick_gelu"] = configured
    clip = wrap_clip(model, config, open_clip.SimpleTokenizer(context_length=32))
    assert clip.config["model_cfg"]["quick_gelu"] is real
    assert config["model_cfg"]["quick_gelu"] is configured  # the caller's is left alone
    clip.save(tmp_path / "saved")
    again = open_clip.create_model(f"local-dir:{tmp_path / 'saved'}").eval()
    tokens = clip.tokenizer(TEXTS)
    with torch.no_grad():
        expected = model.encode_text(tokens, normalize=True)
        torch.testing.assert_close(again.encode_text(tokens, normalize=True), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(clip.embed_texts(TEXTS), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("precision", ["fp16", "pure_bf16"])
def test_wrapped_model_in_half_precision_becomes_fp32(
    precision: str, architecture: str, tiny_clip: Clip, tiny_clip_folder: Path, photos: list[Path]
):
    file = str(tiny_clip_folder / "open_clip_model.safetensors")
    model = open_clip.create_model(architecture, pretrained=file, precision=precision)
    clip = wrap_clip(model, architecture)
    assert {tensor.dtype for tensor in (clip.text.tensors() | clip.image.tensors()).values()} == {torch.float32}
    assert {parameter.dtype for parameter in model.parameters()} != {torch.float32}  # the caller's is left alone
    torch.testing.assert_close(clip.embed_texts(TEXTS), tiny_clip.embed_texts(TEXTS), atol=3e-2, rtol=0)
    assert clip.embed_photos(photos)[1].all()


def test_wrapped_model_with_a_forced_text_tower_keeps_its_class(architecture: str, tmp_path: Path):
    model = open_clip.create_model(architecture, force_custom_text=True).eval()
    clip = wrap_clip(model, architecture)
    clip.save(tmp_path / "saved")
    again = load_clip(f"local-dir:{tmp_path / 'saved'}")
    assert isinstance(again.to_open_clip(), open_clip.CustomTextCLIP)
    torch.testing.assert_close(again.embed_texts(TEXTS), clip.embed_texts(TEXTS), atol=1e-6, rtol=0)


def test_model_under_the_name_of_another_architecture_is_an_error(architecture: str, tiny_clip: Clip):
    model = tiny_clip.to_open_clip()
    model.visual.preprocess_cfg = tiny_clip.config["preprocess_cfg"]
    for name in ("RN50", "ViT-B-32", "ViT-B/32"):
        with pytest.raises(InputError, match=r"^clip: expected a model of the architecture that its config") as caught:
            wrap_clip(model, name)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match=r"expected an architecture of open_clip"):
        wrap_clip(model, "no-such-model")
    with pytest.raises(InputError, match="expected the tokenizer of a model"):
        wrap_clip(model, tiny_clip.config)


def test_model_that_open_clip_did_not_create_is_an_error():
    with pytest.raises(InputError, match=r"^clip: expected a model that open_clip created, got a Linear without"):
        wrap_clip(nn.Linear(1, 1), "ViT-B-32")


def test_name_with_a_slash_is_the_architecture_as_open_clip_lists_it(tiny_clip: Clip, monkeypatch):
    config = dict(tiny_clip.config["model_cfg"], text_cfg={**tiny_clip.config["model_cfg"]["text_cfg"]})
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-B-12", config)
    clip = load_clip("Tiny-B/12", "random")
    assert clip.tokenizer(["a dog"]).shape == (1, 32)  # and not the 77 of an unknown one


# Names


def test_name_that_is_cut_off_is_found(tiny_clip: Clip):
    tiny_clip.check_fits(["Ann Lee", "李小龍", "O'Brien"])
    tiny_clip.check_fits([])
    with pytest.raises(InputError, match=r"expected names that fit into the 32 tokens of a text, got 1 longer"):
        tiny_clip.check_fits(["Ann Lee", "Wolfeschlegelsteinhausenbergerdorff " * 6])
