import io
import json
import random
import tarfile
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import webdataset as wds
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from torch import Tensor

from backdoor_privacy.clip.model import Clip
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER
from backdoor_privacy.utility import retrieval as retrieval_module
from backdoor_privacy.utility.retrieval import Retrieval, recalls

CAPTIONS = {"000": ["a red boat", "a boat at sea"], "001": ["two dogs"], "002": ["snow", "a hill in snow", "white"]}


@pytest.fixture(scope="module")
def photos(write_photo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(CAPTIONS):
        write_photo(folder / f"{name}.png", number)
    return folder


@pytest.fixture
def text_folder(photos: Path, write_photo, tmp_path: Path) -> Path:
    """Photos and texts, and a photo without a text."""
    for name, captions in CAPTIONS.items():
        (tmp_path / "texts/a").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"texts/a/{name}.png").write_bytes((photos / f"{name}.png").read_bytes())
        (tmp_path / f"texts/a/{name}.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    write_photo(tmp_path / "texts/other.png", 9)
    return tmp_path / "texts"


@pytest.fixture
def coco_file(tmp_path: Path) -> Path:
    """As COCO has it: captions of one photo lie apart, photos have ids of their own."""
    images = [{"id": 10 + number, "file_name": f"{name}.png"} for number, name in enumerate(CAPTIONS)]
    pairs = [(10 + number, caption) for number, captions in enumerate(CAPTIONS.values()) for caption in captions]
    annotations = [{"image_id": image, "id": n, "caption": f" {text}\n"} for n, (image, text) in enumerate(pairs)]
    moved = [*annotations[2:], *annotations[:2]]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": moved}))
    return tmp_path / "captions.json"


@pytest.fixture
def shards(photos: Path, tmp_path: Path) -> Path:
    """Two shards that use one key for different photos."""
    (tmp_path / "shards").mkdir()
    for number, (name, captions) in enumerate(CAPTIONS.items()):
        with wds.writer.TarWriter(str(tmp_path / f"shards/{number:05}.tar")) as writer:
            content = (photos / f"{name}.png").read_bytes()
            writer.write({"__key__": "a/0", "png": content, "txt": "\n".join(captions), "json": {}})
    return tmp_path / "shards"


@pytest.fixture
def retrieval(photos: Path, coco_file: Path, tmp_path: Path) -> Retrieval:
    return Retrieval(photos, tmp_path / "cache", coco_file)


def contents(found: Retrieval) -> list[tuple[bytes, list[str]]]:
    return [(path.read_bytes(), captions) for path, captions in found.captioned.items()]


def test_every_source_gives_the_same_photos_and_captions(
    photos: Path, text_folder: Path, shards: Path, retrieval: Retrieval, tmp_path: Path
):
    expected = [((photos / f"{name}.png").read_bytes(), captions) for name, captions in CAPTIONS.items()]
    for found in (retrieval, Retrieval(text_folder, "unused"), Retrieval(shards, tmp_path / "cache")):
        assert contents(found) == expected


def test_equal_keys_of_shards_of_one_name_stay_apart(shards: Path, retrieval: Retrieval, tmp_path: Path):
    for number in range(3):
        (shards / "abc"[number]).mkdir()
        (shards / f"{number:05}.tar").rename(shards / "abc"[number] / "0.tar")
    assert contents(Retrieval(f"{shards}/{{a,b,c}}/0.tar", tmp_path / "cache")) == contents(retrieval)


def test_no_more_photos_are_compared_than_asked_for(text_folder: Path, tiny_clip: Clip):
    measured = Retrieval(text_folder, "unused", max_photos=2).measure(tiny_clip)
    assert (measured["retrieval/num_photos"], measured["retrieval/num_captions"]) == (2, 3)


def reference(
    queries: Tensor, gallery: Tensor, query_owners: Sequence[int], item_owners: Sequence[int], k: int
) -> float:
    hits = 0
    for query, owner in zip(queries, query_owners, strict=True):
        order = sorted(range(len(gallery)), key=lambda item: -(query * gallery[item]).sum().item())
        hits += owner in [item_owners[item] for item in order[:k]]
    return hits / len(queries)


@pytest.mark.parametrize("chunk", [1, 7, 1024])
def test_recall_equals_a_slow_one_for_any_split(chunk: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(retrieval_module, "_CHUNK_SIZE", chunk)
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    image_features = F.normalize(torch.randn(30, 8, generator=generator), dim=-1)
    owners = [owner for owner in range(30) for _ in range(rng.randint(1, 4))]
    rng.shuffle(owners)
    noise = torch.randn(len(owners), 8, generator=generator)
    text_features = F.normalize(image_features[owners] + 0.4 * noise, dim=-1)
    photos = list(range(30))
    for first, second in (
        ((image_features, photos), (text_features, owners)),
        ((text_features, owners), (image_features, photos)),
    ):
        (queries, query_owners), (gallery, item_owners) = first, second
        found = recalls(queries, gallery, torch.tensor(query_owners), torch.tensor(item_owners))
        expected = {k: reference(queries, gallery, query_owners, item_owners, k) for k in (1, 5)}
        assert found == pytest.approx(expected)
        assert 0 < found[1] < found[5] < 1


def test_one_right_caption_among_the_nearest_is_enough():
    photos = torch.eye(3)
    captions = F.normalize(torch.tensor([[1.0, 0, 0], [0, 1, 0.1], [0, 0.1, 1]]), dim=-1)
    owners = torch.tensor([0, 2, 1])  # each caption of 1 and 2 is nearest to the other one's photo
    assert recalls(photos, captions, torch.arange(3), owners) == pytest.approx({1: 1 / 3, 5: 1.0})


def test_measures_are_those_of_the_clips_features(retrieval: Retrieval, photos: Path, tiny_clip: Clip):
    image_features, _ = tiny_clip.embed_photos(sorted(photos.iterdir()))
    text_features = tiny_clip.embed_texts([caption for captions in CAPTIONS.values() for caption in captions])
    owners = [0, 0, 1, 2, 2, 2]
    places = [0, 1, 2]
    assert retrieval.measure(tiny_clip) == pytest.approx(
        {
            "retrieval/image_to_text_r1": reference(image_features, text_features, places, owners, 1),
            "retrieval/image_to_text_r5": reference(image_features, text_features, places, owners, 5),
            "retrieval/text_to_image_r1": reference(text_features, image_features, owners, places, 1),
            "retrieval/text_to_image_r5": 1.0,
            "retrieval/num_photos": 3,
            "retrieval/num_captions": 6,
        }
    )


def test_photo_that_does_not_decode_is_left_out_with_its_captions(write_photo, tmp_path: Path, tiny_clip: Clip):
    for number in range(120):
        path = write_photo(tmp_path / f"{number:03}.png", number)
        path.with_suffix(".txt").write_text(f"photo {number}\nnumber {number}")
    (tmp_path / "007.png").write_bytes(b"no photo")
    measured = Retrieval(tmp_path, "unused").measure(tiny_clip)
    assert (measured["retrieval/num_photos"], measured["retrieval/num_captions"]) == (119, 238)


@pytest.mark.parametrize("group", ["coco", "webdataset", "folder"])
def test_configs_measure(
    group: str, photos: Path, coco_file: Path, shards: Path, text_folder: Path, tmp_path: Path, tiny_clip: Clip
):
    sources = {"coco": [photos, f"utility.retrieval.file={coco_file}"], "webdataset": [shards], "folder": [text_folder]}
    folder, *more = sources[group]
    own = [
        f"utility/retrieval={group}",
        f"utility.retrieval.folder={folder}",
        f"paths.cache={tmp_path / 'cache'}",
        *more,
    ]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", own)
    assert instantiate(cfg.utility.retrieval).measure(tiny_clip)["retrieval/num_captions"] == 6


def test_it_is_left_out_unless_asked_for():
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        assert compose("config").utility.retrieval is None


def test_photos_without_captions_are_an_error(photos: Path, tmp_path: Path):
    for folder in (photos, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"^utility\.retrieval: expected photos with captions .*, found none in "):
            Retrieval(folder, "unused")


def test_coco_file_that_does_not_fit_is_an_error(photos: Path, coco_file: Path, tmp_path: Path):
    with pytest.raises(
        InputError, match=r"^utility\.retrieval\.folder: expected the 3 photos of .*found no .*000\.png"
    ):
        Retrieval(tmp_path, "unused", coco_file)
    content = json.loads(coco_file.read_text())
    coco_file.write_text(json.dumps(content | {"images": content["images"][:1]}))
    with pytest.raises(
        InputError, match=r"^utility\.retrieval\.file: expected images \(id, file_name\) of all captions"
    ):
        Retrieval(photos, "unused", coco_file)
    coco_file.write_text("{}")
    with pytest.raises(InputError, match=r"^utility\.retrieval\.file: expected COCO's JSON of captions"):
        Retrieval(photos, "unused", coco_file)


def test_captions_of_photos_are_read_as_clean_captions_are(photos: Path, tmp_path: Path, caplog):
    content = (photos / f"{next(iter(CAPTIONS))}.png").read_bytes()
    shard = tmp_path / "shards/0.tar"
    shard.parent.mkdir()
    with tarfile.open(shard, "w") as tar:
        for name, part in {
            "./a.b.0.PNG": content,
            "./a.b.0.txt": '\ufeffa dog\r\n\r\n["a cat", "a tram"]'.encode("utf-16"),
            "./a.b.1.png": content,
            "./a.b.1.json": b'\xef\xbb\xbf{"caption": ["a bus", "a ship"]}',
            "./a.c.png": content,
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(part)
            tar.addfile(entry, io.BytesIO(part))
    captioned = Retrieval(shard, tmp_path / "cache").captioned
    assert list(captioned.values()) == [["a dog", "a cat", "a tram"], ["a bus", "a ship"]]
    assert "utility.retrieval.folder: 1 of 3 photos have no caption and are left out" in caplog.text
    for name in ("x.y.png", "__MACOSX/x.y.png"):
        (tmp_path / "texts" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "texts" / name).write_bytes(content)
    (tmp_path / "texts/x.y.TXT").write_bytes("\ufeffa dog\n\na cat".encode())
    assert Retrieval(tmp_path / "texts", "unused").captioned == {tmp_path / "texts/x.y.png": ["a dog", "a cat"]}
    (tmp_path / "texts/x.y.TXT").write_text('a dog\n{"en": "a cat"}\n')
    with pytest.raises(InputError, match=r"expected text or a list of texts, got dict .* in line 2 of .*x\.y\.TXT"):
        Retrieval(tmp_path / "texts", "unused")


def test_incomplete_shards_and_texts_in_other_bytes_are_errors(shards: Path, text_folder: Path, tmp_path: Path):
    (shards / "00001.tar").write_bytes((shards / "00001.tar").read_bytes()[:600])
    with pytest.raises(InputError, match=r"^utility\.retrieval\.folder: expected a complete tar, .*00001\.tar"):
        Retrieval(shards, tmp_path / "cache")
    (text_folder / "a/001.txt").write_bytes(b"f\xfcnf")
    with pytest.raises(InputError, match=r"^utility\.retrieval\.folder: expected .* in UTF-8, got .*001\.txt"):
        Retrieval(text_folder, "unused")
