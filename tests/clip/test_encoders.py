import open_clip
import pytest
import torch
from torch import nn

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.hugging_face import SequenceEncoder
from backdoor_privacy.clip.image import ImageEncoder
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.text import OpenClipTextEncoder
from backdoor_privacy.clip.trained import last_blocks
from backdoor_privacy.errors import InputError

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "patch_size": None}
VIT = {"image_size": 24, "layers": 2, "width": 64, "head_width": 32, "patch_size": 12}
NORMS = (nn.LayerNorm, nn.BatchNorm2d)


def model_with(vision: dict) -> nn.Module:
    torch.manual_seed(0)
    return open_clip.CLIP(embed_dim=16, vision_cfg=vision, text_cfg=TEXT)


@pytest.fixture(scope="module")
def resnet() -> nn.Module:
    return model_with(RESNET)


@pytest.fixture(scope="module")
def vit() -> nn.Module:
    return model_with(VIT)


@pytest.fixture(params=["text", "vit", "resnet"])
def encoder(request: pytest.FixtureRequest, vit: nn.Module, resnet: nn.Module) -> Encoder:
    return {"text": OpenClipTextEncoder(vit), "vit": ImageEncoder(vit), "resnet": ImageEncoder(resnet)}[request.param]


def inputs_for(encoder: Encoder) -> torch.Tensor:
    if not isinstance(encoder, ImageEncoder):
        return torch.randint(1, 64, (3, 8), generator=torch.Generator().manual_seed(0))
    side = encoder.visual.image_size
    side = side if isinstance(side, int) else side[0]
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_encoders_give_the_features_of_the_model(vit: nn.Module, resnet: nn.Module):
    for model in (vit.eval(), resnet.eval()):
        text, image = OpenClipTextEncoder(model).frozen(), ImageEncoder(model).frozen()
        torch.testing.assert_close(text(inputs_for(text)), model.encode_text(inputs_for(text)))
        torch.testing.assert_close(image(inputs_for(image)), model.encode_image(inputs_for(image)))


def test_tensors_of_both_encoders_are_the_models(vit: nn.Module, resnet: nn.Module):
    for model in (vit, resnet):
        text, image = OpenClipTextEncoder(model).tensors(), ImageEncoder(model).tensors()
        expected = model.state_dict()
        assert not set(text) & set(image)
        assert set(text) | set(image) == set(expected)
        assert all(torch.equal({**text, **image}[name], tensor) for name, tensor in expected.items())


def test_text_tensors_hold_positional_embedding_and_projection(vit: nn.Module):
    student = OpenClipTextEncoder(vit).student()
    trained = {name.removeprefix("encode.model.") for name, _ in student.trainable()}
    assert {"positional_embedding", "text_projection", "token_embedding.weight"} <= trained & set(student.tensors())


def test_norms_of_a_student_stay_as_they_are(encoder: Encoder):
    student = encoder.student()
    norms = [(name, module) for name, module in student.named_modules() if isinstance(module, NORMS)]
    assert norms
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    optimizer = torch.optim.AdamW([p for _, p in student.trainable()], lr=0.1, weight_decay=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        student(inputs_for(student)).square().sum().backward()
        optimizer.step()
    after = student.state_dict()
    frozen = {f"{name}.{key}" for name, module in norms for key in module.state_dict()}
    frozen |= {name for name in after if "logit_scale" in name}
    changed = {name for name, tensor in after.items() if not torch.equal(tensor, before[name])}
    assert not changed & frozen
    # Everything else is trained; only what these inputs do not reach may stay.
    assert set(before) - frozen - changed == set()


def test_batch_norm_statistics_are_among_what_stays(resnet: nn.Module):
    student = ImageEncoder(resnet).student()
    assert any("running_mean" in name for name in student.tensors())
    assert all(not module.training for module in student.modules() if isinstance(module, nn.BatchNorm2d))
    assert not any(module.training for module in student.train().modules())


def test_student_starts_as_the_teacher(encoder: Encoder):
    teacher, student = encoder.frozen(), encoder.student()
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert all(torch.equal(tensor, teacher.tensors()[name]) for name, tensor in student.tensors().items())
    torch.testing.assert_close(student(inputs_for(student)), teacher(inputs_for(teacher)))


def test_copies_share_nothing(encoder: Encoder):
    encoder.embedded["asked"] = torch.zeros(1)
    for copy in (encoder.student(), encoder.frozen(), encoder.copy()):
        assert copy.embedded == {}
        copy.embedded["of the copy"] = 1
        places = {parameter.data_ptr() for parameter in copy.parameters()}
        assert not places & {parameter.data_ptr() for parameter in encoder.parameters()}
    assert set(encoder.embedded) == {"asked"}


def test_texts_read_to_the_longest_of_their_group_equal_the_whole_context(tiny_clip: Clip) -> None:
    student = tiny_clip.text.student()
    tokens = tiny_clip.tokenizer(["a photo of Jane Doe", "x", "an old bicycle in front of a wall"])
    parameters = [parameter for _, parameter in student.trainable()]
    short, whole = student(tokens), student.encode(tokens)
    torch.testing.assert_close(short, whole, rtol=1e-5, atol=1e-5)
    short_gradients = torch.autograd.grad(short.square().mean(), parameters)
    whole_gradients = torch.autograd.grad(whole.square().mean(), parameters)
    for own, other in zip(short_gradients, whole_gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("side", ["text", "image"])
def test_student_trains_only_the_tensors_that_are_named(tiny_clip: Clip, side: str):
    encoder = getattr(tiny_clip, side)
    everything = {name for name, _ in encoder.student().trainable()}
    beginnings = {"text": ["transformer.resblocks.0", "text_projection"], "image": ["visual.transformer.resblocks.0"]}
    student = encoder.student(beginnings[side])
    names = dict(zip(student.state_dict(), student.tensors(), strict=True))
    expected = {name for name in everything if names[name].startswith(tuple(beginnings[side]))}
    assert {name for name, _ in student.trainable()} == expected
    assert set() < expected < everything
    with pytest.raises(InputError, match=r"defense: expected prefixes of names .* in `trained`, .* got nothing"):
        encoder.student(["nothing"])


@pytest.mark.parametrize(
    ("vision", "trained", "num_blocks"),
    [
        (RESNET, ["visual.layer4", "visual.attnpool"], 7),
        (RESNET, ["visual.layer4.0.conv3", "visual.layer4.0.downsample", "visual.attnpool"], 8),
        (RESNET, ["visual.attnpool"], 9),
        (RESNET, ["visual.attnpool", "visual.conv1"], 0),
        ({**RESNET, "layers": [2, 1, 1, 3]}, ["visual.layer4.1", "visual.layer4.2", "visual.attnpool"], 11),
        ({**RESNET, "layers": [2, 1, 1, 3]}, ["visual.layer4.2.conv3", "visual.attnpool"], 14),
        (RESNET, None, 0),
        (VIT, ["visual.transformer.resblocks.1"], 0),
    ],
)
def test_shared_trunk_gives_the_features_and_gradients_of_the_whole_encoder(
    vision: dict, trained: list[str] | None, num_blocks: int
):
    encoder = ImageEncoder(model_with(vision))
    whole, cut = encoder.student(trained), encoder.student(trained)
    pixels = inputs_for(encoder)
    assert cut.num_frozen_blocks() == num_blocks
    with torch.no_grad():
        seen = encoder.frozen().trunk(pixels, num_blocks)
    features = cut.head(seen, num_blocks)
    torch.testing.assert_close(features, whole(pixels))
    features.square().sum().backward()
    whole(pixels).square().sum().backward()
    for (name, own), (_, other) in zip(cut.trainable(), whole.trainable(), strict=True):
        torch.testing.assert_close(own.grad, other.grad, msg=name)


def of_timm(name: str, side: int) -> dict:
    return {"timm_model_name": name, "timm_pool": "", "image_size": side}


def custom_text(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    return open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=VIT, text_cfg={**TEXT, "layers": 3, **changes})


def clip_text_model() -> Encoder:
    transformers = pytest.importorskip("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2,
        max_position_embeddings=8, bos_token_id=62, eos_token_id=63, pad_token_id=63,
    )  # fmt: skip
    return SequenceEncoder(transformers.CLIPTextModel(config), torch.zeros(32, 16))


STACKED = {  # encoders by what they are stacked of: how names of the blocks begin, in order, and of what comes after
    "text": (lambda: OpenClipTextEncoder(model_with(VIT)), ["transformer.resblocks.0."], {"text_projection"}),
    "custom text": (
        lambda: OpenClipTextEncoder(custom_text()),
        [f"text.transformer.resblocks.{number}." for number in range(3)],
        {"text.text_projection"},
    ),
    "custom text, projected with a bias": (
        lambda: OpenClipTextEncoder(custom_text(proj_bias=True)),
        [f"text.transformer.resblocks.{number}." for number in range(3)],
        {"text.text_projection.weight", "text.text_projection.bias"},
    ),
    "CLIPTextModel": (clip_text_model, [f"encoder.layers.{number}." for number in range(3)], set()),
    "ViT": (
        lambda: ImageEncoder(model_with({**VIT, "layers": 11})),  # 1 is how 10 begins
        [f"visual.transformer.resblocks.{number}." for number in range(11)],
        {"visual.proj"},
    ),
    "ResNet": (
        lambda: ImageEncoder(model_with({**RESNET, "layers": [2, 1, 1, 2]})),
        [f"visual.layer{place}." for place in ("1.0", "1.1", "2.0", "3.0", "4.0", "4.1")],
        {f"visual.attnpool.{part}_proj.{kind}" for part in "qkvc" for kind in ("weight", "bias")}
        | {"visual.attnpool.positional_embedding"},
    ),
    "timm ViT": (
        lambda: ImageEncoder(model_with(of_timm("test_vit", 160))),
        [f"visual.trunk.blocks.{number}." for number in range(6)],
        {"visual.head.proj.weight"},
    ),
    "timm ConvNeXt": (
        lambda: ImageEncoder(model_with({**of_timm("test_convnext", 64), "timm_pool": "avg"})),
        [f"visual.trunk.stages.{stage}.blocks.{n}." for stage, depth in enumerate((1, 2, 4, 2)) for n in range(depth)],
        {"visual.head.proj.weight"},
    ),
}


@pytest.mark.parametrize("num_blocks", [1, 2])
@pytest.mark.parametrize("kind", STACKED)
def test_student_trains_the_last_blocks_and_what_projects_their_output(kind: str, num_blocks: int):
    build, blocks, projection = STACKED[kind]
    encoder = build()
    if num_blocks > len(blocks):
        with pytest.raises(InputError, match="expected `trained_blocks` from 1 to 1, got 2"):
            encoder.student(trained_blocks=num_blocks)
        return
    student = encoder.student(trained_blocks=num_blocks)
    names = dict(zip(student.state_dict(), student.tensors(), strict=True))
    names = {place: name.removeprefix("text_model.") for place, name in names.items()}  # of older transformers
    everything = {names[name] for name, _ in encoder.student().trainable()}
    expected = {name for name in everything if name.startswith(tuple(blocks[-num_blocks:]))} | projection
    student(inputs_for(student)).square().sum().backward()
    assert {names[name] for name, parameter in student.named_parameters() if parameter.grad is not None} == expected
    assert {names[name] for name, _ in student.trainable()} == expected
    assert projection < expected < everything


@pytest.mark.parametrize("kind", STACKED)
def test_number_of_blocks_is_said_where_more_are_asked_for(kind: str):
    build, blocks, _ = STACKED[kind]
    encoder = build()
    for num_blocks in (0, len(blocks) + 1):
        expected = f"expected `trained_blocks` from 1 to {len(blocks)}, got {num_blocks}"
        with pytest.raises(InputError, match=expected):
            encoder.student(trained_blocks=num_blocks)
    assert any(True for _ in encoder.student(trained_blocks=len(blocks)).trainable())


def test_encoder_without_blocks_is_told_so():
    encoder = ImageEncoder(model_with({**of_timm("test_efficientnet", 64), "timm_pool": "avg"}))
    with pytest.raises(InputError, match=r"expected `trained` in place of `trained_blocks` for an encoder without bl"):
        encoder.student(trained_blocks=1)


def test_blocks_and_names_together_are_an_error(vit: nn.Module):
    with pytest.raises(InputError, match="expected either `trained` or `trained_blocks`, got both"):
        ImageEncoder(vit).student(["visual.proj"], trained_blocks=1)


@pytest.mark.parametrize(
    ("name", "num_blocks", "projection"),
    [
        ("eva02_enormous_patch14_clip_224", 64, {"head.weight", "head.bias"}),
        ("vit_base_patch16_siglip_224", 12, {"attn_pool.q.weight", "attn_pool.proj.bias"}),
        ("fastvit_mci0", 26, {"head.fc.weight", "head.fc.bias"}),
        ("vitamin_small_224", 20, {"head.weight", "head.bias"}),
        ("swin_base_patch4_window7_224", 24, {"head.fc.weight", "head.fc.bias"}),
    ],
)
def test_blocks_of_the_encoders_that_open_clip_takes_from_timm(name: str, num_blocks: int, projection: set[str]):
    with torch.device("meta"):
        trunk = pytest.importorskip("timm").create_model(name)
    encoder = ImageEncoder(nn.ModuleDict({"visual": nn.ModuleDict({"trunk": trunk})}))
    names = {name: name for name in encoder.tensors()}
    found = {place.removeprefix("visual.trunk.") for place in last_blocks(encoder, names, 1)}
    assert projection <= found
    assert not any(place.startswith(("stem", "patch_embed")) or "downsample" in place for place in found)
    with pytest.raises(InputError, match=f"from 1 to {num_blocks},"):
        last_blocks(encoder, names, 1000)


@pytest.mark.parametrize("changes", [{}, {"final_ln_after_pool": True}, {"pool_type": "avg"}, {"ls_init_value": 0.1}])
@pytest.mark.parametrize("training", [False, True])
def test_photos_are_read_as_open_clip_reads_them(changes: dict, training: bool):
    encoder = ImageEncoder(model_with({**VIT, **changes}))
    encoder = encoder.student() if training else encoder.frozen()
    pixels = torch.randn(3, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    classes = [type(part) for part in encoder.modules()]
    whole, fast = encoder.encode(pixels), encoder(pixels)
    torch.testing.assert_close(fast, whole, rtol=1e-5, atol=1e-6)
    assert [type(part) for part in encoder.modules()] == classes
    if training:
        parameters = [parameter for _, parameter in encoder.trainable()]
        gradients = (torch.autograd.grad(each.square().sum(), parameters) for each in (fast, whole))
        for own, wanted in zip(*gradients, strict=True):
            torch.testing.assert_close(own, wanted, rtol=1e-4, atol=1e-5)
