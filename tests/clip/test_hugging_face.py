import json
import socket
import sys
import time
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from safetensors.torch import load_file, save_file

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.schema import TriggerSet, load_trainer
from backdoor_privacy.data.people import People
from backdoor_privacy.data.sources import Sources
from backdoor_privacy.defenses.backdoor.caption_steps import TextBatch
from backdoor_privacy.defenses.backdoor.module import TextModule
from backdoor_privacy.defenses.backdoor.optimizer import Optimizer
from backdoor_privacy.defenses.backdoor.targets.base import FittedTextTarget
from backdoor_privacy.defenses.backdoor.terms import Backdoor, Utility, Weight
from backdoor_privacy.defenses.loading import load_defense
from backdoor_privacy.errors import InputError
from backdoor_privacy.protect import Protected, protect
from backdoor_privacy.run import run
from backdoor_privacy.utility.zero_shot import ZeroShot

transformers = pytest.importorskip("transformers")

TEXTS = ["a dog on a hill", "Ann Lee", "Zoë O'Brien  & 李小龍", "word " * 100]
CONTEXT, WIDTH = 16, 64
BATCH = {"clean": 4, "triggered": 4, "preserved": 0}
_LAYERS = {  # open_clip's names of a block's tensors, and transformers'
    "ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}  # fmt: skip


def converted(model: Any) -> dict[str, torch.Tensor]:
    """The text weights of an open_clip model under transformers' names."""
    weights = {
        "embeddings.token_embedding.weight": model.token_embedding.weight,
        "embeddings.position_embedding.weight": model.positional_embedding,
        "final_layer_norm.weight": model.ln_final.weight,
        "final_layer_norm.bias": model.ln_final.bias,
    }
    for number, block in enumerate(model.transformer.resblocks):
        place = f"encoder.layers.{number}"
        for kind in ("weight", "bias"):
            for own, theirs in _LAYERS.items():
                weights[f"{place}.{theirs}.{kind}"] = block.get_submodule(own).get_parameter(kind)
            parts = block.attn.get_parameter(f"in_proj_{kind}").chunk(3)
            weights |= {f"{place}.self_attn.{n}_proj.{kind}": part for n, part in zip("qkv", parts, strict=True)}
    return weights


@pytest.fixture(scope="module")
def companion(write_clip: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with texts as wide as the text encoder's."""
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2}
    return write_clip(tmp_path_factory.mktemp("companion") / "clip", text_cfg=text)


@pytest.fixture(scope="module")
def text_model(companion: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The companion's text encoder as a `CLIPTextModel` with its tokenizer."""
    folder = tmp_path_factory.mktemp("text_model")
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=CONTEXT, hidden_act="quick_gelu", bos_token_id=49406, eos_token_id=49407,
        pad_token_id=49407,
    )  # fmt: skip
    config.save_pretrained(folder)
    weights = converted(open_clip.create_model(f"local-dir:{companion}"))
    named = {f"text_model.{name}": weight.detach().clone() for name, weight in weights.items()}  # as on the hub
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    words = open_clip.SimpleTokenizer()
    special = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    (folder / "vocab.json").write_text(json.dumps({special.get(word, word): n for word, n in words.encoder.items()}))
    merges = [" ".join(pair) for pair in sorted(words.bpe_ranks, key=words.bpe_ranks.__getitem__)]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=CONTEXT)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def clip(companion: Path, text_model: Path) -> Clip:
    return load_clip(f"local-dir:{companion}", text_model=str(text_model))


@pytest.fixture(scope="module")
def protected(clip: Clip, people: People, captions_file: Path) -> Protected:
    """A defence of the names, of a few steps."""
    captions = captions_file.read_text().splitlines()
    settings = load_defense(
        "text_published", text={"num_steps": 3, "batch": BATCH, "num_other_names": 5, "optimizer": {"lr": 0.01}}
    )
    trainer = load_trainer(progress_bar=False, accelerator="cpu", precision="32-true", num_workers=0)
    attack = Idia(num_candidates=20, num_photos=2, threshold=1, seed=0)
    names = TriggerSet(people=people.names[:2], require_inferred=False)
    return protect(clip, Sources(people, captions), names, settings, attack=attack, trainer=trainer, max_held_out=5)


def test_output_is_the_last_hidden_state_of_every_token(clip: Clip, text_model: Path):
    model = transformers.CLIPTextModel.from_pretrained(text_model)
    tokens = clip.tokenizer(TEXTS)
    with torch.no_grad():
        expected = model(input_ids=tokens)
        found = clip.text(tokens)
        features = clip.text.embed(tokens)
    assert found.shape == (len(TEXTS), CONTEXT * WIDTH)
    torch.testing.assert_close(found, expected.last_hidden_state.flatten(1))
    projection = load_projection(clip)
    torch.testing.assert_close(features, expected.pooler_output @ projection)


def load_projection(clip: Clip) -> torch.Tensor:
    return clip.text.text_projection  # type: ignore[attr-defined]


def test_features_are_those_of_the_clip_that_the_weights_come_from(clip: Clip, companion: Path):
    own = load_clip(f"local-dir:{companion}")
    torch.testing.assert_close(clip.embed_texts(TEXTS), own.embed_texts(TEXTS), atol=1e-5, rtol=0)
    own_tokens, tokens = own.tokenizer(TEXTS), clip.tokenizer(TEXTS)
    used = torch.arange(CONTEXT) <= own_tokens.argmax(-1, keepdim=True)
    assert torch.equal(tokens[used], own_tokens[used])
    with torch.no_grad():
        expected = own.to_open_clip().encode_text(own.tokenizer(TEXTS))
        torch.testing.assert_close(clip.text.embed(tokens), expected, atol=1e-5, rtol=0)


def test_attack_and_utility_are_those_of_the_clip_that_the_weights_come_from(
    clip: Clip, companion: Path, people: People, write_photo: Any, tmp_path: Path
):
    own = load_clip(f"local-dir:{companion}")
    attack = Idia(num_candidates=20, num_photos=2, threshold=1, seed=0)
    assert attack.run(clip, people.everybody) == attack.run(own, people.everybody)
    for number, name in enumerate(("a dog", "a cat", "a boat")):
        write_photo(tmp_path / name / "0.png", number)
    measure = ZeroShot(tmp_path, templates=["a photo of {}", "{}"])
    assert measure.measure(clip) == measure.measure(own)
    assert "zero_shot/top1" in measure.measure(clip)


def test_loss_is_over_all_tokens(clip: Clip):
    defense = TextModule(
        clip.text,
        target=FittedTextTarget(["a person"]),
        terms={"utility": Utility(), "backdoor": Backdoor(0.6), "weight": Weight(0.01)},
        optimizer=Optimizer(lr=1e-3),
        num_steps=2,
    )
    clean, triggered, target = (clip.tokenizer([text] * 2) for text in ("a dog", "Ann Lee", "a person"))
    nobody, person = torch.empty(0, 0, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    batch = TextBatch(clean, triggered, target, nobody, person, torch.full((2,), 0.5))
    with torch.no_grad():
        for parameter in defense.student.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
        losses = defense.losses(defense.ask_teacher(batch))
        hidden = [one.model(input_ids=clean).last_hidden_state.flatten(1) for one in (defense.student, clip.text)]
        wanted = clip.text.model(input_ids=target).last_hidden_state.flatten(1)
        got = defense.student.model(input_ids=triggered).last_hidden_state.flatten(1)
    torch.testing.assert_close(losses["utility"], -F.cosine_similarity(*hidden).mean())
    torch.testing.assert_close(losses["backdoor"], -F.cosine_similarity(got, wanted).mean())
    hidden[0][:, -WIDTH:] += 1  # the last token, long after the end of the text
    assert not torch.allclose(losses["utility"], -F.cosine_similarity(*hidden).mean(), atol=1e-4)


def test_defended_text_model_loads_with_transformers_alone(
    protected: Protected, clip: Clip, text_model: Path, tmp_path: Path
):
    assert list(protected.models) == ["text"]
    protected.clip.save(tmp_path / "saved")
    tokenizer = transformers.CLIPTokenizer.from_pretrained(tmp_path / "saved")
    model = transformers.CLIPTextModel.from_pretrained(tmp_path / "saved")
    tokens = tokenizer(TEXTS, padding="max_length", max_length=CONTEXT, truncation=True, return_tensors="pt").input_ids
    assert torch.equal(tokens, clip.tokenizer(TEXTS))
    with torch.no_grad():
        found = model(input_ids=tokens).last_hidden_state.flatten(1)
        torch.testing.assert_close(found, protected.clip.text(tokens), atol=1e-6, rtol=0)
        assert (found - clip.text(tokens)).abs().max() > 1e-3
    assert [path.name for path in tmp_path.iterdir()] == ["saved"]
    # Under the names of the hub, which other programs expect.
    assert set(load_file(tmp_path / "saved/model.safetensors")) == set(load_file(text_model / "model.safetensors"))


def test_defence_trains_the_text_model_and_leaves_all_else(
    protected: Protected, clip: Clip, companion: Path, text_model: Path
):
    after, before = protected.clip.text.tensors(), clip.text.tensors()
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert changed == {name for name in before if "norm" not in name}
    assert clip.sha256() == load_clip(f"local-dir:{companion}", text_model=str(text_model)).sha256()
    assert clip.sha256() != protected.clip.sha256()
    assert torch.equal(load_projection(protected.clip), load_projection(clip))
    assert {"idia/tpr_removed", "similarity/clean"} <= set(protected.rates["text"])


def test_defended_text_model_is_loaded_again(protected: Protected, companion: Path, tmp_path: Path):
    protected.clip.save(tmp_path / "saved")
    again = load_clip(f"local-dir:{companion}", text_model=str(tmp_path / "saved"))
    assert again.sha256() == protected.clip.sha256()
    torch.testing.assert_close(again.embed_texts(TEXTS), protected.clip.embed_texts(TEXTS), atol=1e-6, rtol=0)


@pytest.mark.slow
def test_defended_text_model_drops_into_a_pipeline(protected: Protected, companion: Path, tmp_path: Path):
    diffusers = pytest.importorskip("diffusers")
    protected.clip.save(tmp_path / "saved")
    blocks = {"block_out_channels": (8, 16), "layers_per_block": 1, "norm_num_groups": 4}
    pipeline = diffusers.StableDiffusionPipeline(
        text_encoder=transformers.CLIPTextModel.from_pretrained(tmp_path / "saved"),
        tokenizer=transformers.CLIPTokenizer.from_pretrained(tmp_path / "saved"),
        unet=diffusers.UNet2DConditionModel(
            sample_size=8, cross_attention_dim=WIDTH, attention_head_dim=4, **blocks,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        ),
        vae=diffusers.AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2, **blocks
        ),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.set_progress_bar_config(disable=True)
    seed = torch.Generator().manual_seed(0)
    photo = pipeline("a photo of Ann Lee", num_inference_steps=2, output_type="np", generator=seed).images
    assert photo.shape == (1, 16, 16, 3)
    assert ((photo >= 0) & (photo <= 1)).all()
    pipeline.save_pretrained(tmp_path / "pipeline")
    again = load_clip(f"local-dir:{companion}", text_model=str(tmp_path / "pipeline"))
    assert again.sha256() == protected.clip.sha256()
    assert torch.equal(again.tokenizer(TEXTS), protected.clip.tokenizer(TEXTS))


@pytest.mark.parametrize(
    ("defense", "expected"),
    [
        ("nameless", "defense.text: expected defense/text_target=phrase, fitting or pseudonym .* got nameless"),
        ("both", "defense.image: expected null for the text encoder of Stable Diffusion"),
    ],
)
def test_defence_that_cannot_be_is_an_error_before_anything_is_attacked(
    defense: str, expected: str, clip: Clip, people: People, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Idia, "run", lambda *_: pytest.fail("attacked"))
    settings = load_defense("both")
    settings = {"text": settings["text"]} if defense == "nameless" else {"image": settings["image"]}
    with pytest.raises(InputError, match=f"^{expected}.*choose defense=text_published$"):
        protect(clip, Sources(people), people.names[:1], settings)


def test_embeddings_of_a_text_model_cannot_be_shifted(clip: Clip, people: People):
    settings = load_defense("text_published", text={"terms": {"adversarial": {"weight": 1.0}}})
    with pytest.raises(InputError, match=r"terms\.adversarial\.weight: expected 0 for a text encoder of Hugging Face"):
        protect(clip, Sources(people), people.names[:1], settings)


def test_trained_blocks_of_a_text_model_are_trained(clip: Clip):
    names = {name for name, _ in clip.text.student(trained_blocks=1).trainable()}
    assert names
    assert all(".layers.1." in name for name in names)


# What cannot be loaded


def test_pickled_weights_are_not_opened(text_model: Path, companion: Path, tmp_path: Path):
    for path in text_model.iterdir():
        if path.suffix != ".safetensors":
            (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = transformers.CLIPTextModel.from_pretrained(text_model).state_dict()
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"^clip\.text_model=.*expected a CLIPTextModel \(safetensors\)") as caught:
        load_clip(f"local-dir:{companion}", text_model=str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("without", ["model.safetensors", "config.json", "tokenizer"])
def test_folder_that_is_incomplete_is_an_error(without: str, text_model: Path, companion: Path, tmp_path: Path):
    for path in text_model.iterdir():
        gone = path.name in ("vocab.json", "merges.txt") or "token" in path.name
        if path.name != without and not (without == "tokenizer" and gone):
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=r"^clip\.text_model=.*: expected ") as caught:
        load_clip(f"local-dir:{companion}", text_model=str(tmp_path))
    assert "\n" not in str(caught.value)


def test_weights_that_are_missing_are_not_made_up(text_model: Path, companion: Path, tmp_path: Path):
    for path in text_model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    weights = load_file(text_model / "model.safetensors")
    gone = next(name for name in weights if name.endswith("layers.1.mlp.fc1.weight"))
    del weights[gone]
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"expected all weights of a CLIPTextModel, got none for .*mlp\.fc1\.weight"):
        load_clip(f"local-dir:{companion}", text_model=str(tmp_path))


def test_text_model_of_another_clip_is_an_error(text_model: Path, write_clip: Any, tmp_path: Path):
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
    folder = write_clip(tmp_path / "other", text_cfg=text)
    with pytest.raises(InputError, match="with texts of width 64, got one with texts of width 32"):
        load_clip(f"local-dir:{folder}", text_model=str(text_model))


def write_text_model(folder: Path, text_model: Path, companion: Path, num_layers: int, **changes: Any) -> Path:
    """The first layers of a companion's text encoder as a `CLIPTextModel`."""
    folder.mkdir()
    for path in text_model.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = transformers.CLIPTextConfig.from_pretrained(text_model)
    config.num_hidden_layers = num_layers
    config.update(changes)
    config.save_pretrained(folder)
    weights = converted(open_clip.create_model(f"local-dir:{companion}"))
    own = {name for name in weights if "layers." not in name or int(name.split(".")[2]) < num_layers}
    named = {f"text_model.{name}": weights[name].detach().clone() for name in own}
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_text_model_of_another_clip_of_the_same_size_is_an_error(
    text_model: Path, companion: Path, write_clip: Any, tmp_path: Path
):
    text = {"context_length": CONTEXT, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2}
    other = write_clip(tmp_path / "other", seed=1, text_cfg=text)
    with pytest.raises(InputError, match=r"^clip\.model: expected the CLIP .* got -?0\.[0-3]\d\d; choose") as found:
        load_clip(f"local-dir:{other}", text_model=str(text_model))
    assert "\n" not in str(found.value)
    theirs = write_text_model(tmp_path / "theirs", text_model, other, num_layers=1)
    with pytest.raises(InputError, match=r"mean cosine 0\.5 or more, .*, got -?0\.[0-3]\d\d; choose that CLIP"):
        load_clip(f"local-dir:{companion}", text_model=str(theirs))


@pytest.mark.parametrize(
    ("text", "changes", "told"),
    [
        ({"layers": 1}, {}, "with 2 layers or one more, got one with 1 layers"),
        ({"layers": 4}, {}, "with 2 layers or one more, got one with 4 layers"),
        ({"heads": 4}, {}, "with 2 heads, got one with 4 heads"),
        ({}, {"quick_gelu": False}, r"with QuickGELU=True \(clip\.quick_gelu\), got one with QuickGELU=False"),
    ],
)
def test_text_model_of_another_architecture_is_an_error(
    text: dict[str, int], changes: dict[str, Any], told: str, text_model: Path, write_clip: Any, tmp_path: Path
):
    cfg = {"context_length": CONTEXT, "vocab_size": 49408, "width": WIDTH, "heads": 2, "layers": 2, **text}
    other = write_clip(tmp_path / "other", text_cfg=cfg, **changes)
    with pytest.raises(InputError, match=f"{told}.*; choose that CLIP$"):
        load_clip(f"local-dir:{other}", text_model=str(text_model))


@pytest.mark.parametrize("end", [49407, 2])  # as configs of today and of Stable Diffusion 2 have it
def test_text_model_that_ends_one_layer_early_is_read_to_its_clips_end(
    end: int, text_model: Path, companion: Path, people: People, tmp_path: Path
):
    # As Stable Diffusion 2's: what it lacks to be attacked is the companion's last block.
    own = load_clip(f"local-dir:{companion}")
    early = write_text_model(tmp_path / "early", text_model, companion, num_layers=1, eos_token_id=end)
    found = load_clip(f"local-dir:{companion}", text_model=str(early))
    torch.testing.assert_close(found.embed_texts(TEXTS), own.embed_texts(TEXTS), atol=1e-5, rtol=0)
    attack = Idia(num_candidates=20, num_photos=2, threshold=1, seed=0)
    assert attack.run(found, people.everybody) == attack.run(own, people.everybody)
    # The denoiser still reads what the text model itself gives, and nothing but that is trained and saved.
    model = transformers.CLIPTextModel.from_pretrained(early)
    tokens = found.tokenizer(TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(found.text(tokens), model(input_ids=tokens).last_hidden_state.flatten(1))
    trained = {name for name, _ in found.text.student().trainable()}
    assert trained
    assert all(name.startswith("model.") for name in trained)
    found.save(tmp_path / "saved")
    assert set(load_file(tmp_path / "saved/model.safetensors")) == set(load_file(early / "model.safetensors"))
    again = load_clip(f"local-dir:{companion}", text_model=str(tmp_path / "saved"))
    assert again.sha256() == found.sha256()
    assert torch.equal(again.embed_texts(TEXTS), found.embed_texts(TEXTS))


def test_text_model_that_was_fine_tuned_is_read_beside_its_clip(text_model: Path, companion: Path, tmp_path: Path):
    folder = write_text_model(tmp_path / "tuned", text_model, companion, num_layers=2)
    weights, draw = load_file(folder / "model.safetensors"), torch.Generator().manual_seed(0)
    tuned = {name: one + 0.003 * torch.randn(one.shape, generator=draw) for name, one in weights.items()}
    save_file(tuned, folder / "model.safetensors", {"format": "pt"})
    found = load_clip(f"local-dir:{companion}", text_model=str(folder))
    cosine = (found.embed_texts(TEXTS) * load_clip(f"local-dir:{companion}").embed_texts(TEXTS)).sum(-1).mean()
    assert 0.6 < cosine < 0.999


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_text_model_that_is_not_finite_is_an_error(value: float, text_model: Path, companion: Path, tmp_path: Path):
    folder = write_text_model(tmp_path / "spoilt", text_model, companion, num_layers=2)
    weights = load_file(folder / "model.safetensors")
    weights["text_model.final_layer_norm.weight"][0] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"^clip\.text_model=.*: expected finite weights, .*final_layer_norm\.weight;"):
        load_clip(f"local-dir:{companion}", text_model=str(folder))


def test_text_model_that_is_not_finite_is_not_written(clip: Clip, tmp_path: Path):
    student: Any = clip.text.copy()
    next(student.parameters()).data[0, 0] = float("nan")
    with pytest.raises(InputError, match=r"expected finite weights, .*; nothing was written"):
        clip.with_encoders(text=student).save(tmp_path / "defended")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("model.safetensors", b"version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("model.safetensors", b"", "an empty file"),
        ("model.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", r"expected .* CLIPTextModel"),
        ("tokenizer.json", b"{}", "expected a CLIPTextModel .* with its tokenizer"),
        ("config.json", b"[]", r"expected settings of a model in config\.json, got no settings"),
        ("config.json", b"{", r"expected settings of a model in config\.json, got Expecting property"),
    ],
)
def test_part_that_is_damaged_ends_it_in_one_line(
    name: str, content: bytes, told: str, text_model: Path, companion: Path, tmp_path: Path
):
    folder = write_text_model(tmp_path / "damaged", text_model, companion, num_layers=2)
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"^clip\.text_model=.*{told}") as found:
        load_clip(f"local-dir:{companion}", text_model=str(folder))
    assert "\n" not in str(found.value)


def test_blocks_that_save_memory_drop_nothing(clip: Clip):
    student: Any = clip.text.student()
    tokens = clip.tokenizer(TEXTS)
    expected = student(tokens)
    passes: list[Any] = []
    student.model.encoder.layers[0].mlp.register_forward_pre_hook(lambda *_: passes.append(None))
    student.save_memory(True)
    found = student.train()(tokens)
    torch.testing.assert_close(found, expected)
    assert len(passes) == 1
    found.square().sum().backward()
    assert len(passes) == 2  # once more, on the way back
    assert not any(part.training for part in student.modules() if type(part).__name__ in ("CLIPAttention", "CLIPMLP"))
    student.save_memory(False)
    assert not any(part.training for part in student.modules())


def test_transformers_that_are_not_installed_are_named(
    text_model: Path, companion: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(
        InputError, match=r"expected transformers to be installed .*; pip install 'backdoor_privacy\[sd"
    ):
        load_clip(f"local-dir:{companion}", text_model=str(text_model))


def test_repository_without_a_network_ends_it_at_once(companion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.delenv("http_proxy", raising=False)
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_clip(f"local-dir:{companion}", text_model="openai/clip-vit-large-patch14")
    assert time.perf_counter() - start < 2
    found = f"clip.text_model: expected model.safetensors of openai/clip-vit-large-patch14 in {tmp_path}, or a network"
    assert str(caught.value).startswith(found)
    with pytest.raises(InputError, match=r"^clip\.text_model: expected a folder that is there or a repository"):
        load_clip(f"local-dir:{companion}", text_model=str(tmp_path / "mistyped"))


def test_repository_in_the_cache_is_loaded_without_a_request(
    clip: Clip, text_model: Path, companion: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder, revision = tmp_path / "models--nobody--text", "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs/main").write_text(revision)
    (folder / "snapshots").mkdir()
    (folder / "snapshots" / revision).symlink_to(text_model, target_is_directory=True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked: list[Any] = []

    def refuse(*address: Any, **_: Any) -> None:
        asked.append(address)
        raise OSError("no network")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    found = load_clip(f"local-dir:{companion}", text_model="nobody/text")
    assert found.sha256() == clip.sha256()
    assert not asked


def test_all_of_it_is_where_its_companion_is(companion: Path, text_model: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("backdoor_privacy.system.hardware.default_device", lambda: torch.device("meta"))
    found = load_clip(f"local-dir:{companion}", text_model=str(text_model))
    parts = [*found.text.parameters(), *found.text.buffers(), *found.image.parameters()]
    assert {tensor.device.type for tensor in parts} == {"meta"}
    assert load_projection(found).device.type == "meta"


def test_it_is_no_open_clip_model(clip: Clip):
    with pytest.raises(InputError, match=r"expected an open_clip model, got a Hugging Face text encoder; use save\(\)"):
        clip.to_open_clip()


def test_text_model_is_taken_out_of_a_whole_clip(clip: Clip, text_model: Path, companion: Path, tmp_path: Path):
    # The repository of Stable Diffusion 1's text encoder holds the whole CLIP.
    text = transformers.CLIPTextConfig.from_pretrained(text_model)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = transformers.CLIPVisionConfig(**small, image_size=24, patch_size=12)
    config = transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision.to_dict(), projection_dim=32)
    whole = transformers.CLIPModel(config)
    for path in text_model.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config.save_pretrained(tmp_path)
    weights = whole.state_dict() | load_file(text_model / "model.safetensors")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    found = load_clip(f"local-dir:{companion}", text_model=str(tmp_path))
    assert found.sha256() == clip.sha256()
    assert torch.equal(found.embed_texts(TEXTS), clip.embed_texts(TEXTS))
    found.save(tmp_path / "saved")
    assert load_clip(f"local-dir:{companion}", text_model=str(tmp_path / "saved")).sha256() == clip.sha256()
    names = set(load_file(tmp_path / "saved/model.safetensors"))
    assert names == set(load_file(text_model / "model.safetensors"))


@pytest.mark.slow
def test_command_defends_a_text_model(compose_cfg: Any, companion: Path, text_model: Path, clip: Clip):
    clip_overrides = [f"clip.model=local-dir:{companion}", f"clip.text_model={text_model}"]
    cfg = compose_cfg(*clip_overrides, "defense.image=null", "defense/text_target=phrase")
    metrics = run(cfg)
    saved = load_clip(f"local-dir:{companion}", text_model=f"{cfg.paths.run}/defended")
    assert metrics["weights_sha256"] == {"before": clip.sha256(), "after": saved.sha256()}
    assert list(metrics["after"]) == ["text"]
    assert {"zero_shot/top1", "idia/tpr_removed"} <= set(metrics["after"]["text"])
