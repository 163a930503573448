from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from backdoor_privacy.attacks.context import AttackContext
from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.attacks.inversion import (
    Inversion,
    closeness,
    inversion_scores,
    proposed,
    ranks_of,
    see_gallery,
)
from backdoor_privacy.attacks.photos import halves
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.attacks.soft_prompts import check_invertible, free_prompt, read
from backdoor_privacy.clip.loading import wrap_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.names import random_names
from backdoor_privacy.data.people import People, Person
from backdoor_privacy.errors import InputError

VISION = {"image_size": 24, "layers": 1, "width": 64, "head_width": 32, "patch_size": 12}
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1}
SIGLIP = {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
EOS = {**TEXT, "pool_type": "eos", "eos_id": 49407}
COCA = {
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "vision_cfg": {**VISION, "attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "layers": 1, "attn_pooler_heads": 2},
}
ARCHITECTURES: dict[str, tuple[type[nn.Module], dict[str, Any]]] = {
    "plain": (open_clip.CLIP, {}),
    "plain, eos": (open_clip.CLIP, {"text_cfg": EOS}),
    "plain, not causal": (open_clip.CLIP, {"text_cfg": SIGLIP}),
    "custom text": (open_clip.CustomTextCLIP, {"custom_text": True}),
    "CoCa": (open_clip.CoCa, {"custom_text": True, **COCA}),
}
ATTACK = Inversion(
    max_people=8,
    num_soft_tokens=1,
    num_steps=60,
    learning_rate=0.3,
    temperature=0.05,
    num_names=20,
    num_tokens=2,
    num_search_steps=6,
    num_tries=8,
    num_proposals=16,
)


@dataclass(frozen=True)
class Seen(Clip):
    """A CLIP with its own texts, and photos whose features are given."""

    photos: dict[Path, Tensor] = field(default_factory=dict)

    def embed_photos(self, paths, *, warn=False):
        found = [self.photos.get(path) for path in paths]
        readable = torch.tensor([one is not None for one in found], dtype=torch.bool)
        return torch.stack([torch.zeros(32) if one is None else one for one in found]), readable


def unit_rows(*shape: int, seed: int = 0) -> Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> People:
    """Twenty-four people with eight files that count as photos; the last eight no members."""
    folder, people = tmp_path_factory.mktemp("crowd"), []
    for number, name in enumerate(random_names(24, seed=5)):
        paths = [folder / f"{number}-{photo}.png" for photo in range(8)]
        for path in paths:
            path.write_text(path.name)
        people.append(Person(name, tuple(paths), member=number < 16))
    return People(tuple(people))


def with_photos(clip: Clip, people: People, face: Callable[[int, int], Tensor]) -> Seen:
    """Photos of a person's halves are around a face each."""
    photos = {}
    for number, person in enumerate(people.everybody):
        for which, half in enumerate(halves(person)):
            for place, path in enumerate(half):
                noise = 0.02 * unit_rows(32, seed=1000 * number + 10 * which + place)
                photos[path] = normalize(face(number, which) + noise, dim=-1)
    return Seen(**vars(clip), photos=photos)


def context(clip: Clip, people: People) -> AttackContext:
    return AttackContext({"before": clip}, people, people.names[:8], Idia(30, 4, 1, 0), seed=0)


@pytest.fixture(scope="module")
def spread(tiny_clip: Clip) -> Clip:
    """The tiny CLIP with large token embeddings, so that texts are not all the same to it."""
    text = tiny_clip.text.copy()
    with torch.no_grad():
        text.model.token_embedding.weight.mul_(20)
    return tiny_clip.with_encoders(text=text)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("num_free", [1, 3])
def test_embeddings_of_words_are_read_as_these_words(architecture: str, num_free: int):
    kind, changes = ARCHITECTURES[architecture]
    config: dict[str, Any] = {"embed_dim": 32, "vision_cfg": VISION, "text_cfg": TEXT, **changes}
    torch.manual_seed(0)
    model = kind(**{key: value for key, value in config.items() if key != "custom_text"})
    for weights in model.parameters():  # open_clip leaves a projection of CoCa's decoder as the memory was
        weights.data.nan_to_num_(posinf=0, neginf=0)
    preprocess = {"size": 24, "mean": [0.5] * 3, "std": [0.25] * 3}
    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    clip = wrap_clip(model, {"model_cfg": config, "preprocess_cfg": preprocess}, tokenizer)
    check_invertible(clip)
    words = ["cat", "dog", "boat"][:num_free]
    prompt = free_prompt(clip, num_free)
    tokens = clip.tokenizer([f"a photo of {' '.join(words)}", f"a photo of {' '.join(reversed(words))}"])
    table = clip.text.token_embedding.weight.detach()
    found = read(clip, prompt, table[tokens[:, prompt.places]])
    expected = clip.embed_texts([f"a photo of {' '.join(words)}", f"a photo of {' '.join(reversed(words))}"])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert not clip.text.model._forward_hooks
    assert not clip.text.token_embedding._forward_hooks


def test_gradient_is_that_of_the_loss(spread: Clip):
    prompt, fitted = free_prompt(spread, 1), unit_rows(6, 32)
    embeddings = 0.4 * torch.randn(3, 1, 64, generator=torch.Generator().manual_seed(2))
    own = torch.tensor([4, 0, 1])
    gradient, losses = ATTACK._gradient(spread, prompt, embeddings, fitted, own)
    direction = unit_rows(3, 64, seed=1).unsqueeze(1)
    around = [
        ATTACK._losses(read(spread, prompt, embeddings + sign * 1e-2 * direction), fitted, own) for sign in (1, -1)
    ]
    torch.testing.assert_close((gradient * direction).sum((1, 2)), (around[0] - around[1]) / 2e-2, rtol=0.05, atol=0.05)
    torch.testing.assert_close(losses, ATTACK._losses(read(spread, prompt, embeddings), fitted, own))
    similarities = read(spread, prompt, embeddings)[0] @ fitted.T / 0.05
    assert losses[0].item() == pytest.approx((similarities.exp().sum().log() - similarities[4]).item(), rel=1e-4)


def test_prompts_find_people_whom_the_text_encoder_can_say(spread: Clip, crowd: People):
    # Whoever is removed looks like what the encoder makes of their name, everybody else as another word says.
    words = [spread.embed_texts([f"a photo of {name}"])[0] for name in crowd.names]
    clip = with_photos(spread, crowd, lambda number, _: words[number])
    before = clip.sha256()
    seen = context(clip, crowd)
    found = {(one.kind, one.group, one.measure): one for one in ATTACK.run(seen)}
    assert clip.sha256() == before
    assert all(parameter.grad is None for parameter in clip.text.parameters())
    kinds = {"soft token finds the photos", "token search finds the photos"}
    assert {kind for kind, _, _ in found} == kinds
    for group in ("removed", "kept", "never seen"):
        soft = found["soft token finds the photos", group, "rank-1"]
        assert (soft.value, soft.num_people) == (pytest.approx(1, abs=0.15), 8)
        assert found["token search finds the photos", group, "rank-1"].value > 3 / 24
        assert found["soft token finds the photos", group, "closeness"].value > 0.1
    assert found["soft token finds the photos", "removed / never seen", "difference"].num_people == 16


def test_held_out_photos_of_strangers_are_found_by_chance(spread: Clip, crowd: People):
    faces = unit_rows(24, 2, 32, seed=8)  # the held-out photos show somebody else
    findings = ATTACK.run(context(with_photos(spread, crowd, lambda *place: faces[place]), crowd))
    for one in findings:
        if one.measure == "rank-1":
            assert one.value <= 0.3
        if one.measure == "closeness":
            assert abs(one.value) < 0.3
    ranks = [one.value for one in findings if one.measure == "MRR"]
    chance = sum(1 / rank for rank in range(1, 25)) / 24
    assert sum(ranks) / len(ranks) == pytest.approx(chance, abs=0.12)


def test_only_people_whom_prompts_can_reach_make_a_difference(spread: Clip, crowd: People):
    # The held-out photos of never-seen people are of somebody else: no prompt can lead from one half to the other.
    faces = unit_rows(24, 2, 32, seed=8)
    words = [spread.embed_texts([f"a photo of {name}"])[0] for name in crowd.names]
    clip = with_photos(spread, crowd, lambda number, which: words[number] if number < 16 else faces[number, which])
    found = {(one.kind, one.group, one.measure): one for one in replace(ATTACK, num_tokens=0).run(context(clip, crowd))}
    assert not any(kind.startswith("token search") for kind, _, _ in found)
    difference = found["soft token finds the photos", "removed / never seen", "difference"]
    assert difference.value > 0.6
    assert 0.2 < difference.low < difference.value <= difference.high


def test_each_prompt_is_optimised_as_if_it_were_alone(spread: Clip, monkeypatch: pytest.MonkeyPatch):
    fitted, own = unit_rows(10, 32), torch.tensor([3, 9, 0, 4, 5])
    attack = replace(ATTACK, num_steps=5)
    whole = attack.fit_soft(spread, fitted, own)
    torch.testing.assert_close(attack.fit_soft(spread, fitted, own.flip(0)).flip(0), whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(attack.fit_soft(spread, fitted, own[1:2])[0], whole[1], atol=1e-4, rtol=0)
    searched = attack.search(spread, fitted, own, seed=0)
    for module in ("inversion", "soft_prompts"):
        monkeypatch.setattr(f"backdoor_privacy.attacks.{module}.TEXTS_PER_CHUNK", 2)
    torch.testing.assert_close(attack.fit_soft(spread, fitted, own), whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(attack.search(spread, fitted, own, seed=0), searched, atol=1e-4, rtol=0)


def test_search_never_makes_a_prompt_worse(spread: Clip):
    fitted, own = unit_rows(10, 32), torch.arange(5)
    losses = [
        ATTACK._losses(replace(ATTACK, num_search_steps=steps).search(spread, fitted, own, seed=0), fitted, own)
        for steps in (0, 2, 6)
    ]
    assert (losses[1] <= losses[0] + 1e-5).all()
    assert (losses[2] <= losses[1] + 1e-5).all()
    assert losses[2].mean() < losses[0].mean() - 0.1


def test_proposals_are_the_tokens_down_the_gradient():
    gradient, table = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0)), unit_rows(30, 5, seed=1)
    special = torch.tensor([0, 28, 29])
    found = proposed(gradient, table, special, 4)
    for prompt in range(2):
        for place in range(3):
            order = sorted(
                (token for token in range(30) if token not in (0, 28, 29)),
                key=lambda token: sum(a * b for a, b in zip(gradient[prompt, place], table[token], strict=True)),
            )
            assert found[prompt, place].tolist() == order[:4]
    assert proposed(gradient, table, special, 99).shape == (2, 3, 27)


def test_rank_counts_those_who_are_as_similar():
    gallery = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.6, 0.8], [0.0, 1.0]])
    features = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert ranks_of(features, gallery, torch.tensor([0, 1, 0, 3])).tolist() == [1, 3, 4, 4]


def test_closeness_is_a_slow_difference():
    features, own, others = unit_rows(3, 4), unit_rows(3, 4, seed=1), unit_rows(5, 4, seed=2)
    for row, found in enumerate(closeness(features, own, others).tolist()):
        cosines = [sum(a * b for a, b in zip(features[row].tolist(), name.tolist(), strict=True)) for name in others]
        mine = sum(a * b for a, b in zip(features[row].tolist(), own[row].tolist(), strict=True))
        assert found == pytest.approx(mine - sum(cosines) / 5, abs=1e-5)


def test_gallery_is_the_mean_of_each_half(tiny_clip: Clip, crowd: People):
    faces = unit_rows(24, 2, 32)
    clip = with_photos(tiny_clip, crowd, lambda *place: faces[place])
    missing = crowd.everybody[3]
    for path in halves(missing)[1]:
        del clip.photos[path]
    del clip.photos[halves(crowd.everybody[4])[0][0]]
    gallery, place = see_gallery(clip, crowd.everybody)
    assert list(place) == [name for name in crowd.names if name != missing.name]
    for person in crowd.everybody:
        if person is not missing:
            for means, half in zip(gallery, halves(person), strict=True):
                shown = torch.stack([clip.photos[path] for path in half if path in clip.photos])
                torch.testing.assert_close(means[place[person.name]], normalize(shown.mean(0), dim=0))
    assert missing not in ATTACK.people(context(clip, crowd), place)["removed"]


def test_difference_is_of_two_groups():
    measures = {"rank-1": torch.tensor([True, True, False, True, False, False])}
    rows = {"removed": [0, 1, 2, 3], "never seen": [4, 5]}
    (*_, found) = inversion_scores(measures, rows, "x", "both")
    assert isinstance(found, Score)
    assert (found.measure, found.group, found.num_people) == ("difference", "removed / never seen", 6)
    assert found.value == pytest.approx(0.75)
    assert found.low < 0.75 < found.high
    assert len(inversion_scores(measures, {"removed": [0, 1]}, "x", "both")) == 1


@pytest.mark.parametrize("num_free", [0, 40])
def test_number_of_tokens_that_does_not_fit_is_an_error(tiny_clip: Clip, num_free: int):
    with pytest.raises(InputError, match=f"inversion: expected a number of tokens .* got {num_free} of which"):
        free_prompt(tiny_clip, num_free)


def test_what_ends_the_attack_is_known_before_it(tiny_clip: Clip, crowd: People):
    assert list(ATTACK.problems(context(tiny_clip, crowd), ["before", "both"])) == []
    (problem,) = replace(ATTACK, num_tokens=40).problems(context(tiny_clip, crowd), ["before", "both"])
    assert "expected a number of tokens" in problem
    alone = replace(context(tiny_clip, crowd), people=People(crowd.everybody[:1]), clips={})
    (problem,) = ATTACK.problems(alone, ["before", "both"])
    assert "expected two people or more" in problem


def test_text_encoder_of_hugging_face_is_an_error(tiny_clip: Clip, crowd: People):
    pytest.importorskip("transformers")
    from transformers import CLIPTextConfig, CLIPTextModel

    from backdoor_privacy.clip.hugging_face import SequenceEncoder

    sizes = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2}
    text = SequenceEncoder(CLIPTextModel(CLIPTextConfig(**sizes, num_hidden_layers=1)), torch.zeros(16, 32))
    clip = tiny_clip.with_encoders(text=text)
    with pytest.raises(InputError, match="inversion: expected a text encoder of open_clip, got one of Hugging Face"):
        ATTACK.run(context(clip, crowd))
    (problem,) = ATTACK.problems(context(clip, crowd), ["before", "both"])
    assert "got one of Hugging Face" in problem
