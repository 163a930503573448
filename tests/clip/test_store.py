from pathlib import Path
from unittest import mock

import pytest
import torch

from backdoor_privacy.clip.encoder import Encoder
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.people import People
from backdoor_privacy.utility.zero_shot import zero_shot_classifier

TEXTS = ["a dog", "a cat", "a dog", "Zoë Nuñez"]


@pytest.fixture
def load(tiny_clip_folder: Path, tmp_path: Path):
    """The tiny CLIP as another run would load it, with the same store."""
    store = {"store": str(tmp_path / "store")}
    return lambda **changes: load_clip(f"local-dir:{tiny_clip_folder}", **(store | changes))


def embeds(clip: Clip, people: People) -> tuple[list[torch.Tensor], int]:
    """Everything that is kept, and how many passes of an encoder it took."""
    photos = [path for person in people.everybody for path in person.attack_photos]
    with mock.patch.object(Encoder, "embed", autospec=True, side_effect=Encoder.embed) as embed:
        found = [clip.embed_texts(TEXTS), *clip.embed_photos(photos)]
        found.append(zero_shot_classifier(clip, ["cat", "dog"], [lambda name: f"a {name}", lambda name: f"one {name}"]))
    return found, embed.call_count


def test_another_run_asks_nothing_again_and_finds_the_same(load, people: People):
    first, num_passes = embeds(load(), people)
    again, num_passes_again = embeds(load(), people)
    assert num_passes > 0
    assert num_passes_again == 0
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def test_without_a_store_the_features_are_the_same(load, tiny_clip: Clip, people: People):
    stored, _ = embeds(load(), people)
    plain, _ = embeds(tiny_clip.with_encoders(text=tiny_clip.text.copy(), image=tiny_clip.image.copy()), people)
    assert all(torch.equal(one, other) for one, other in zip(stored, plain, strict=True))


def test_other_weights_other_precision_and_other_texts_are_asked(load, people: People, write_clip, tmp_path: Path):
    embeds(load(), people)
    assert embeds(load(precision="bf16"), people)[1] > 0
    other = load_clip(f"local-dir:{write_clip(tmp_path / 'other', seed=1)}", store=str(tmp_path / "store"))
    assert embeds(other, people)[1] > 0
    clip = load()
    assert clip.embed_texts(["a dog", "a ca", "tZoë Nuñez"]).shape == (3, 32)
    folders = [path for path in (tmp_path / "store").iterdir() if path.name != ".key"]
    assert len(folders) == 6  # two encoders, three times


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    return content[:-9] + bytes([content[-9] ^ 1]) + content[-8:]


@pytest.mark.parametrize("damage", [cut, flip, lambda content: b"", lambda content: bytes(len(content))])
def test_damaged_file_is_made_anew(load, people: People, damage, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    first, num_passes = embeds(load(), people)
    files = list((tmp_path / "store").rglob("*.safetensors"))
    for path in files:
        path.write_bytes(damage(path.read_bytes()))
    again, num_passes_again = embeds(load(), people)
    assert num_passes_again == num_passes
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert len(caplog.records) == len(files)
    assert embeds(load(), people)[1] == 0


def test_a_photo_that_changes_is_looked_at_again(load, write_photo, tmp_path: Path):
    photo = write_photo(tmp_path / "photo.png", 1)
    before, _ = load().embed_photos([photo])
    write_photo(photo, 2)
    after, _ = load().embed_photos([photo])
    assert not torch.equal(before, after)


def test_a_damaged_file_is_made_anew(load, people: People, tmp_path: Path):
    first, _ = embeds(load(), people)
    for path in (tmp_path / "store").rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-9])
    again, num_passes = embeds(load(), people)
    assert num_passes > 0
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))
    assert embeds(load(), people)[1] == 0


def test_photos_that_do_not_decode_are_not_kept(load, write_photo, tmp_path: Path):
    photos = [write_photo(tmp_path / f"{number}.png", number) for number in range(101)]
    photos[0].write_bytes(b"no photo")
    _, readable = load().embed_photos(photos)
    assert readable.tolist() == [False] + [True] * 100
    assert not list((tmp_path / "store").rglob("photos-*"))


def test_a_store_that_cannot_be_written_ends_no_run(load, people: People, tmp_path: Path, caplog):
    (tmp_path / "store").write_text("a file where the folder should be")
    expected, _ = embeds(load(store=None), people)
    found, _ = embeds(load(), people)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert "cannot store features in" in caplog.text


def test_what_a_defence_changes_is_never_kept(load, people: People, tmp_path: Path):
    clip = load()
    embeds(clip, people)
    known = set((tmp_path / "store").rglob("*.safetensors"))
    student = clip.text.student()
    with torch.no_grad():
        for _, parameter in student.trainable():
            parameter.add_(0.1)
    changed = clip.with_encoders(text=student.frozen())
    assert not torch.equal(changed.embed_texts(TEXTS), clip.embed_texts(TEXTS))
    assert set((tmp_path / "store").rglob("*.safetensors")) == known
