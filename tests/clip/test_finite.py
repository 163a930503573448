from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from backdoor_privacy.attacks.idia import Idia
from backdoor_privacy.clip.export import write_local_dir
from backdoor_privacy.clip.finite import unit_length
from backdoor_privacy.clip.loading import load_clip, wrap_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.errors import InputError
from backdoor_privacy.utility.zero_shot import zero_shot_classifier

NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize("name", ["text_projection", "visual.proj", "token_embedding.weight", "logit_scale"])
@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_that_are_not_finite_are_refused_by_name(
    name: str, value: float, precision: Any, tiny_clip_folder: Path, tmp_path: Path
):
    weights = load_file(tiny_clip_folder / "open_clip_model.safetensors")
    weights[name].view(-1)[-1] = value
    save_file(weights, tmp_path / "open_clip_model.safetensors")
    (tmp_path / "open_clip_config.json").write_bytes((tiny_clip_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(
        InputError, match=rf"expected finite weights, got NaN or infin.* in 1 of .* of {name};"
    ) as found:
        load_clip(f"local-dir:{tmp_path}", precision=precision)
    assert "\n" not in str(found.value)


def test_model_of_the_callers_own_is_looked_at_too(tiny_clip: Clip):
    model: Any = tiny_clip.to_open_clip()
    model.visual.proj.data[0, 0] = NAN
    with pytest.raises(InputError, match=r"expected finite weights, .* of visual\.proj"):
        wrap_clip(model, tiny_clip.config, tiny_clip.tokenizer)


def spoilt(clip: Clip, encoder: str, value: float) -> Clip:
    """With a projection of this value in one encoder."""
    student: Any = getattr(clip, encoder).copy()
    projection = student.model.text_projection if encoder == "text" else student.visual.proj
    projection.data.fill_(value)
    return replace(clip.with_encoders(**{encoder: student}), decoded={})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("value", [NAN, INF, 0.0, 3e38])
@pytest.mark.parametrize("encoder", ["text", "image"])
def test_nobody_is_attacked_with_embeddings_that_are_nothing(
    encoder: str, value: float, precision: Any, tiny_clip: Clip, people: People
):
    clip = replace(spoilt(tiny_clip, encoder, value), precision=precision)
    attack = Idia(num_candidates=20, num_photos=2, threshold=1, seed=0)
    with pytest.raises(InputError, match=f"expected finite embeddings other than zero of the {encoder} encoder, got "):
        attack.run(clip, people.everybody)
    if encoder == "text":
        with pytest.raises(InputError, match="other than zero of the text encoder"):
            zero_shot_classifier(clip, ["dog", "cat"], ["a {}"])
    else:
        with pytest.raises(InputError, match="other than zero of the image encoder"):
            clip.embed_pixels(torch.zeros(1, 3, 24, 24))


def test_one_bad_row_is_enough_and_good_ones_stay_as_they_are():
    features = torch.tensor([[3.0, 4.0], [NAN, 1.0]])
    with pytest.raises(InputError, match="got 1 of 2 that are"):
        unit_length(features, "text")
    assert unit_length(features[:1], "text").tolist() == [[pytest.approx(0.6), pytest.approx(0.8)]]
    assert unit_length(torch.empty(0, 2), "text").shape == (0, 2)


@pytest.mark.parametrize("value", [NAN, 0.0])
@pytest.mark.parametrize("kind", ["texts", "photos"])
def test_features_on_disk_that_are_nothing_are_made_anew(
    kind: str, value: float, tiny_clip_folder: Path, people: People, tmp_path: Path
):
    def embed() -> torch.Tensor:
        clip = load_clip(f"local-dir:{tiny_clip_folder}", store=str(tmp_path))
        if kind == "texts":
            return clip.embed_texts(["a dog", "a cat"])
        return clip.embed_photos(people.everybody[0].photos)[0]

    expected = embed()
    (file,) = tmp_path.rglob(f"{kind}-*.safetensors")
    kept = load_file(file)
    kept["features"][0] = value
    save_file(kept, file)
    assert torch.equal(embed(), expected)
    assert torch.equal(load_file(file)["features"], expected)


@pytest.mark.parametrize("value", [NAN, INF])
def test_model_that_is_not_finite_is_not_written(value: float, tiny_clip: Clip, tmp_path: Path):
    with pytest.raises(InputError, match=r"expected finite weights, .* of text_projection; nothing was written"):
        spoilt(tiny_clip, "text", value).save(tmp_path / "defended")
    assert not list(tmp_path.iterdir())


def test_weights_that_half_precision_cannot_hold_are_not_written(tiny_clip: Clip, tmp_path: Path):
    big = spoilt(tiny_clip, "image", 1e5)
    big.save(tmp_path / "full")
    with pytest.raises(InputError, match=r"expected finite weights, .* of visual\.proj; nothing was written"):
        write_local_dir(tmp_path / "half", big.to_open_clip(), big.config, dtype=torch.float16)
    assert [path.name for path in tmp_path.iterdir()] == ["full"]
