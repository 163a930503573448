from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from backdoor_privacy.attacks.compression import Compression, as_half, changed, mixed, pruned, rounded
from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import TEMPLATES, Idia
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.errors import InputError

SETTINGS: dict[str, Any] = {"fp16": True, "bits": [8, 4], "pruned": [0.3, 0.5], "original": [0.25, 0.5]}
IDIA = Idia(num_candidates=8, num_photos=3, threshold=1, seed=0, templates=TEMPLATES[:4])
KINDS = ["nothing changed", "fp16", "int8", "int4", "pruned 30 %", "pruned 50 %"]
MIXED = ["25 % original", "50 % original"]


def random_weights(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def slow_rounded(row: list[float], bits: int) -> list[float]:
    """The nearest of the values k * step, in plain Python."""
    largest = 2 ** (bits - 1) - 1
    step = max(map(abs, row)) / largest
    values = [k * step for k in range(-largest, largest + 1)]
    return [min(values, key=lambda value: abs(value - weight)) for weight in row]


@pytest.fixture
def defended(tiny_clip: Clip) -> Clip:
    """The tiny CLIP with other weights in both encoders."""

    def other(_: str, tensor: Tensor) -> Tensor:
        return tensor + 0.05 * random_weights(*tensor.shape)

    return tiny_clip.with_encoders(text=changed(tiny_clip.text, other), image=changed(tiny_clip.image, other))


@pytest.fixture
def context(tiny_clip: Clip, defended: Clip, people: People) -> AttackContext:
    clips = {"before": tiny_clip, "text": tiny_clip.with_encoders(text=defended.text), "both": defended}
    return AttackContext(clips, people, people.names[:2], IDIA, seed=0)


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize(("name", "is_transposed"), [("a.c_fc.weight", False), ("visual.proj", True)])
def test_rounding_is_to_the_nearest_value_of_each_output_channel(bits: int, name: str, is_transposed: bool):
    weights = random_weights(5, 7) * torch.logspace(-2, 2, 5)[:, None]
    given = weights.T if is_transposed else weights
    found = rounded(name, given, bits)
    rows = (found.T if is_transposed else found).double()
    expected = torch.tensor([slow_rounded(row.tolist(), bits) for row in weights])
    torch.testing.assert_close(rows.float(), expected)
    assert all(len(row.unique()) <= 2**bits - 1 for row in rows)


def test_rounding_of_a_convolution_goes_by_its_output_channels():
    weights = random_weights(4, 3, 5, 5)
    torch.testing.assert_close(
        rounded("conv1.weight", weights, 4), rounded("fc.weight", weights.flatten(1), 4).unflatten(1, (3, 5, 5))
    )


def test_zeros_stay_and_whole_numbers_too():
    assert rounded("weight", torch.zeros(2, 3), 4).tolist() == torch.zeros(2, 3).tolist()
    counts = torch.arange(6).view(2, 3)
    assert rounded("weight", counts, 4) is pruned(counts, 0.5) is as_half(counts) is counts


@pytest.mark.parametrize("share", [0.3, 0.5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_pruning_zeroes_the_smallest_of_all(share: float, memory_format: torch.memory_format):
    weights = random_weights(4, 5, 3, 3).to(memory_format=memory_format)
    found = pruned(weights, share)
    smallest = sorted(weights.flatten().tolist(), key=abs)[: round(share * weights.numel())]
    assert sorted(weights[found == 0].tolist(), key=abs) == smallest
    assert torch.equal(found[found != 0], weights[found != 0])


@pytest.mark.parametrize("change", [lambda name, one: rounded(name, one, 4), lambda _, one: pruned(one, 0.5)])
def test_matrices_change_and_biases_and_norms_stay(tiny_clip: Clip, change):
    for encoder in (tiny_clip.text, tiny_clip.image):
        before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
        after = changed(encoder, change).state_dict()
        for name, tensor in before.items():
            assert torch.equal(tensor, encoder.state_dict()[name])
            assert torch.equal(after[name], tensor) == (tensor.ndim < 2), name


def test_half_precision_is_that_of_the_type(tiny_clip: Clip):
    found = changed(tiny_clip.text, lambda _, tensor: as_half(tensor)).state_dict()
    for name, tensor in tiny_clip.text.state_dict().items():
        assert torch.equal(found[name], tensor.half().float())


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_mean_with_the_original_is_one_of_all_tensors(tiny_clip: Clip, defended: Clip, share: float):
    for own, original in ((defended.text, tiny_clip.text), (defended.image, tiny_clip.image)):
        found, others = mixed(own, original, share).state_dict(), original.state_dict()
        for name, tensor in own.state_dict().items():
            torch.testing.assert_close(found[name], (1 - share) * tensor + share * others[name])


def test_other_tensors_are_an_error(tiny_clip: Clip, write_clip, tmp_path: Path):
    larger = load_clip(f"local-dir:{write_clip(tmp_path / 'larger', embed_dim=64)}")
    with pytest.raises(InputError, match=r"compression\.original: expected .* the original's tensors"):
        mixed(larger.text, tiny_clip.text, 0.5)


@pytest.mark.parametrize("architecture", ["ViT", "ResNet"])
def test_attack_finds_what_idia_finds_on_changed_copies(
    architecture: str, context: AttackContext, write_clip, tmp_path: Path, people: People
):
    if architecture == "ResNet":
        vision = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 32, "patch_size": None}
        preprocess = {"size": 32, "mean": [0.5] * 3, "std": [0.25] * 3}
        folders = [
            write_clip(tmp_path / str(seed), seed=seed, vision_cfg=vision, preprocess=preprocess) for seed in (0, 1)
        ]
        clips = dict(zip(("before", "both"), (load_clip(f"local-dir:{folder}") for folder in folders), strict=True))
        context = AttackContext(clips, people, people.names[:2], IDIA, seed=0)
    before = {name: clip.sha256() for name, clip in context.clips.items()}
    findings = Compression(**SETTINGS).run(context)
    assert {name: clip.sha256() for name, clip in context.clips.items()} == before
    assert list(dict.fromkeys((one.model, one.kind) for one in findings)) == [
        *(("before", kind) for kind in KINDS),
        *(("both", kind) for kind in [*KINDS, *MIXED]),
    ]
    assert {one.measure for one in findings} == {"TPR"}
    both, original = context.clips["both"], context.clips["before"]
    clips = {
        "nothing changed": both,
        "int4": both.with_encoders(
            **{encoder: changed(one, lambda n, t: rounded(n, t, 4)) for encoder, one in both.encoders.items()}
        ),
        "50 % original": both.with_encoders(
            text=mixed(both.text, original.text, 0.5), image=mixed(both.image, original.image, 0.5)
        ),
    }
    for kind, clip in clips.items():
        inferred = context.idia.run(clip, people.everybody).inferred
        for group, members in context.groups.items():
            (found,) = (one for one in findings if (one.model, one.kind, one.group) == ("both", kind, group))
            expected = sum(inferred[person.name] for person in members) / len(members)
            assert (found.value, found.num_people) == (pytest.approx(expected), len(members))


def test_name_comes_back_with_the_original_weights(tiny_clip: Clip, defended: Clip, people: People):
    known = IDIA.run(tiny_clip, people.everybody).inferred
    removed = [name for name in people.names if known[name]]

    def silent(name: str, tensor: Tensor) -> Tensor:  # every text is the same one
        if name.endswith("text_projection"):
            return tensor
        return torch.ones_like(tensor) if name.endswith("ln_final.bias") else tensor * 0

    erased = tiny_clip.with_encoders(text=changed(tiny_clip.text, silent))
    seen = AttackContext({"before": tiny_clip, "text": erased}, people, removed, IDIA, seed=0)
    found = {
        (one.model, one.kind): one.value
        for one in Compression(True, [8], [], [1.0]).run(seen)
        if one.group == "removed"
    }
    assert found["before", "nothing changed"] == found["before", "fp16"] == found["text", "100 % original"] == 1
    assert found["text", "nothing changed"] == found["text", "int8"]
    assert found["text", "nothing changed"] < 1


def test_chosen_models_are_attacked(context: AttackContext):
    findings = Compression(False, [], [], [], models=["text"]).run(context)
    assert {(one.model, one.kind) for one in findings} == {("text", "nothing changed")}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": [1]}, r"compression\.bits: expected values from 2 to 16, got 1"),
        ({"pruned": [1.5]}, r"compression\.pruned: expected values from 0 to 1, got 1\.5"),
        ({"original": [-0.5]}, r"compression\.original: expected values from 0 to 1, got -0\.5"),
        ({"models": ["image"]}, r"compression\.models: expected some of before, text, both, got image"),
    ],
)
def test_setting_out_of_range_is_an_error(context: AttackContext, changes: dict[str, Any], message: str):
    with pytest.raises(InputError, match=message):
        Compression(**{**SETTINGS, **changes}).run(context)
