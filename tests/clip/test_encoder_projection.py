import open_clip
import pytest
import torch
from torch import Tensor, nn

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.image import ImageEncoder
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.clip.text import OpenClipTextEncoder, TextEncoder
from backdoor_privacy.errors import InputError

TEXT = {"context_length": 8, "vocab_size": 64, "width": 32, "heads": 2, "layers": 1}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "image_size": 32, "patch_size": None}
VIT = {"image_size": 24, "layers": 1, "width": 64, "head_width": 32, "patch_size": 12}


def custom_text(**settings: object) -> nn.Module:
    return open_clip.CustomTextCLIP(embed_dim=16, vision_cfg=VIT, text_cfg=TEXT | settings)


def coca() -> nn.Module:
    from open_clip.coca_model import CoCa

    text = TEXT | {"embed_cls": True, "output_tokens": True}
    vision = VIT | {"attentional_pool": True, "output_tokens": True}
    return CoCa(embed_dim=16, multimodal_cfg=TEXT, text_cfg=text, vision_cfg=vision)


ENCODERS = {
    "CLIP": lambda: OpenClipTextEncoder(open_clip.CLIP(16, VIT, TEXT)),
    "linear layer": lambda: OpenClipTextEncoder(open_clip.CLIP(16, VIT, TEXT | {"proj_bias": True})),
    "text tower": lambda: OpenClipTextEncoder(custom_text()),
    "text tower with a bias": lambda: OpenClipTextEncoder(custom_text(proj_bias=True, pool_type="last")),
    "CoCa": lambda: OpenClipTextEncoder(coca()),
    "ViT": lambda: ImageEncoder(open_clip.CLIP(16, VIT, TEXT)),
    "ResNet": lambda: ImageEncoder(open_clip.CLIP(16, RESNET, TEXT)),
}


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    torch.manual_seed(0)
    return ENCODERS[request.param]().frozen()


def inputs_for(encoder: Encoder) -> Tensor:
    if isinstance(encoder, TextEncoder):
        return torch.randint(1, 64, (3, 7), generator=torch.Generator().manual_seed(0)).repeat(1, 2)[:, :8]
    side = 32 if any("attnpool" in name for name in encoder.tensors()) else 24
    return torch.rand(3, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_features_are_the_projections_of_its_inputs(encoder: Encoder):
    inputs = inputs_for(encoder)
    weight, hidden = encoder.projection(), encoder.projection_inputs(inputs)
    assert weight.shape[0] == 16
    torch.testing.assert_close(hidden @ weight.T, encoder.embed(inputs), rtol=1e-6, atol=1e-6)


def test_the_same_weight_changes_nothing(encoder: Encoder):
    copy = encoder.with_projection(encoder.projection())
    assert copy is not encoder
    # A CoCa has tensors that nobody fills: NaN, perhaps.
    torch.testing.assert_close(copy.tensors(), encoder.tensors(), rtol=0, atol=0, equal_nan=True)


def test_another_weight_changes_only_the_copy(encoder: Encoder):
    inputs, before = inputs_for(encoder), {name: one.clone() for name, one in encoder.tensors().items()}
    weight = torch.randn(encoder.projection().shape, generator=torch.Generator().manual_seed(1))
    copy = encoder.with_projection(weight)
    expected = encoder.projection_inputs(inputs) @ weight.T
    torch.testing.assert_close(copy.embed(inputs), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(encoder.tensors(), before, rtol=0, atol=0, equal_nan=True)


def test_a_whole_clip_with_another_projection_embeds_texts_by_it(tiny_clip: Clip):
    changed = tiny_clip.with_encoders(text=tiny_clip.text.with_projection(-tiny_clip.text.projection()))
    texts = ["a photo of Jane Doe", "an old bicycle"]
    torch.testing.assert_close(changed.embed_texts(texts), -tiny_clip.embed_texts(texts))


def test_an_encoder_without_a_projection_says_so():
    text = OpenClipTextEncoder(custom_text(proj_type="none", width=16))
    with pytest.raises(InputError, match="linear projection"):
        text.projection()
