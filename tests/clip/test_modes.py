"""Towers of timm and transformers: what they drop at random, and how they normalise."""

from pathlib import Path
from typing import Any

import open_clip
import pytest
import timm
import torch
from torch import Tensor, nn

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.image import ImageEncoder
from backdoor_privacy.clip.text import OpenClipTextEncoder, TextEncoder
from backdoor_privacy.defenses.backdoor.caption_steps import TextBatch
from backdoor_privacy.defenses.backdoor.module import TextModule
from backdoor_privacy.defenses.backdoor.optimizer import Optimizer
from backdoor_privacy.defenses.backdoor.targets.base import FittedTextTarget
from backdoor_privacy.defenses.backdoor.terms import Backdoor, Utility, Weight

transformers = pytest.importorskip("transformers")

TOWERS = ["XLM-RoBERTa", "MT5", "ConvNeXt", "ViT"]


def make_model(folder: Path, text: str = "XLM-RoBERTa", vision: str = "test_convnext") -> Any:
    """A CLIP of small towers with a lot of dropout and stochastic depth."""
    if text == "MT5":
        config = transformers.MT5Config(
            vocab_size=100, d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2, dropout_rate=0.1
        )
    else:
        config = transformers.XLMRobertaConfig(
            vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
            max_position_embeddings=40, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
        )  # fmt: skip
    config.save_pretrained(folder)
    torch.manual_seed(0)
    return open_clip.CustomTextCLIP(
        embed_dim=32,
        vision_cfg={
            "timm_model_name": vision, "timm_model_pretrained": False, "timm_drop_path": 0.5, "timm_drop": 0.2,
            "image_size": 32, "timm_pool": "" if "conv" in vision else "avg", "timm_proj": "linear",
        },
        text_cfg={
            "hf_model_name": str(folder), "hf_model_pretrained": False, "hf_tokenizer_name": str(folder),
            "hf_pooler_type": "mean_pooler", "hf_proj_type": "mlp", "context_length": 8,
        },
    )  # fmt: skip


@pytest.fixture(params=TOWERS)
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> Encoder:
    if request.param in ("XLM-RoBERTa", "MT5"):
        return OpenClipTextEncoder(make_model(tmp_path, text=request.param))
    return ImageEncoder(make_model(tmp_path, vision={"ConvNeXt": "test_convnext", "ViT": "test_vit"}[request.param]))


def inputs_for(encoder: Encoder) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if isinstance(encoder, TextEncoder):
        return torch.randint(5, 100, (4, 8), generator=generator)
    return torch.rand(4, 3, 32, 32, generator=generator)


@torch.no_grad()
def test_unfitted_student_is_its_teacher_bit_for_bit_in_any_mode(encoder: Encoder):
    teacher, student, inputs = encoder.frozen(), encoder.student(), inputs_for(encoder)
    assert torch.equal(student(inputs), teacher(inputs))
    assert torch.equal(student.train()(inputs), teacher(inputs))
    dropped = [part for part in student.modules() if "Drop" in type(part).__name__]
    assert dropped
    assert not any(part.training for part in dropped)
    loose: Any = encoder.copy()
    for part in loose.modules():
        part.training = True
    assert not torch.equal(loose(inputs), teacher(inputs))  # what it would be with all that on


@torch.no_grad()
def test_features_are_the_projections_of_its_inputs(encoder: Encoder):
    teacher, inputs = encoder.frozen(), inputs_for(encoder)
    weight = teacher.projection()
    torch.testing.assert_close(teacher.projection_inputs(inputs) @ weight.T, teacher(inputs), rtol=1e-6, atol=1e-6)
    changed = teacher.with_projection(2 * weight)
    torch.testing.assert_close(changed(inputs), 2 * teacher(inputs), rtol=1e-5, atol=1e-5)


def test_gradients_reach_all_but_norms(encoder: Encoder):
    student = encoder.student()
    student(inputs_for(student)).square().sum().backward()
    for name, parameter in student.named_parameters():
        norm = "norm" in type(student.get_submodule(name.rpartition(".")[0])).__name__.lower()
        is_used = parameter.grad is not None
        assert not (norm and is_used), name
        assert parameter.requires_grad is not (norm or "logit_scale" in name), name
    assert sum(parameter.grad is not None for parameter in student.parameters()) > 10


def test_student_of_a_module_that_trains_stays_its_teacher(tmp_path: Path):
    defense = TextModule(
        OpenClipTextEncoder(make_model(tmp_path)),
        target=FittedTextTarget(["a person"]),
        terms={"utility": Utility(), "backdoor": Backdoor(0.6), "weight": Weight(0.01)},
        optimizer=Optimizer(lr=1e-3),
        num_steps=2,
    )
    tokens = inputs_for(defense.teacher)
    nobody, person = torch.empty(0, 8, dtype=torch.int64), torch.zeros(4, dtype=torch.int64)
    batch = TextBatch(tokens, tokens.flip(0), tokens, nobody, person, torch.full((4,), 0.25))
    lesson = defense.ask_teacher(batch)
    for mode in (True, False, True):  # as before, during and after a validation
        defense.train(mode)
        assert defense.losses(lesson)["utility"].item() == pytest.approx(-1.0, abs=1e-6)


class OfMyOwnNormalization(nn.Module):
    """With a weight, as norms of a research code are."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(8))


NORMS: list[nn.Module] = [
    nn.LayerNorm(8), nn.GroupNorm(2, 8), nn.BatchNorm1d(8), nn.BatchNorm2d(8), nn.InstanceNorm2d(8, affine=True),
    nn.RMSNorm(8), timm.layers.LayerNorm2d(8), timm.layers.LayerNormAct(8), timm.layers.LayerNormAct2d(8),
    timm.layers.BatchNormAct2d(8), timm.layers.GroupNorm1(8), timm.layers.GroupNormAct(8, 2), timm.layers.RmsNorm(8),
    timm.layers.SimpleNorm(8), timm.layers.EvoNorm2dS0(8), open_clip.transformer.LayerNormFp32(8),
    transformers.models.t5.modeling_t5.T5LayerNorm(8), transformers.models.mt5.modeling_mt5.MT5LayerNorm(8),
    transformers.models.llama.modeling_llama.LlamaRMSNorm(8), OfMyOwnNormalization(),
]  # fmt: skip


class Tower(Encoder):
    """A norm between two layers."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.before, self.within, self.after = nn.Linear(8, 8), nn.Sequential(norm, nn.GELU()), nn.Linear(8, 8)

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.state_dict())


@pytest.mark.parametrize("norm", NORMS, ids=lambda norm: type(norm).__name__)
def test_norms_of_every_kind_are_frozen(norm: nn.Module):
    student = Tower(norm).student().train()
    assert {name for name, _ in student.trainable()} == {
        f"{place}.{part}" for place in ("before", "after") for part in ("weight", "bias")
    }
    assert any(True for _ in student.within.parameters())
    assert not any(part.training for part in student.modules())


# The layout of pixels


@pytest.mark.parametrize("vision", ["test_convnext", "test_vit", "test_efficientnet", "fastvit_t8"])
def test_only_a_modified_resnet_gets_another_layout(vision: str, tmp_path: Path):
    model, side = (FastVit(), 64) if vision == "fastvit_t8" else (make_model(tmp_path, vision=vision), 32)
    encoder, inputs = ImageEncoder(model), torch.rand(2, 3, side, side)
    student = encoder.student()
    assert all(tensor.is_contiguous() for tensor in student.parameters())
    student(inputs.contiguous(memory_format=torch.channels_last)).square().sum().backward()  # as photos may come
    assert all(torch.isfinite(tensor.grad).all() for _, tensor in student.trainable() if tensor.grad is not None)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(encoder.frozen()(inputs), model.visual(inputs))


class FastVit(nn.Module):
    """MobileCLIP's image tower, smaller: its strides of 1x1 convolutions end the process in the other layout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.visual = timm.create_model("fastvit_t8", pretrained=False, num_classes=16)
