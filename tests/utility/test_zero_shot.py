import io
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import webdataset as wds
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from PIL import Image
from sklearn.metrics import top_k_accuracy_score

from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.data.shards import ShardSample, find_shards, unpack_shards
from backdoor_privacy.errors import InputError
from backdoor_privacy.system.paths import CONFIG_FOLDER
from backdoor_privacy.utility.zero_shot import ZeroShot, clip_benchmark, imagenet, zero_shot_classifier

CLASSES = ["apple", "boat", "red car", "dog", "empty road", "fox", "goose"]
TEMPLATES: Sequence[str] = ("a photo of {}", "{}", "two of {}, drawn")


@pytest.fixture(scope="module")
def photos(write_photo, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("zero_shot")
    for number, classname in enumerate(CLASSES):
        for photo in range(4):
            write_photo(folder / classname / f"{photo}.png", 10 * number + photo)
    return folder


@pytest.mark.parametrize("templates", [TEMPLATES, open_clip.SIMPLE_IMAGENET_TEMPLATES])
def test_classifier_is_that_of_the_whole_model(tiny_clip: Clip, tiny_clip_folder: Path, templates: Sequence):
    model = open_clip.create_model(f"local-dir:{tiny_clip_folder}").eval()
    expected = open_clip.build_zero_shot_classifier(model, tiny_clip.tokenizer, CLASSES, templates)
    torch.testing.assert_close(zero_shot_classifier(tiny_clip, CLASSES, templates), expected)


def test_classifier_is_the_mean_of_normalised_prompts_normalised_again(tiny_clip: Clip):
    found = zero_shot_classifier(tiny_clip, CLASSES, TEMPLATES).numpy()
    for column, classname in enumerate(CLASSES):
        rows = tiny_clip.embed_texts([template.format(classname) for template in TEMPLATES]).numpy()
        mean = rows.mean(0)
        np.testing.assert_allclose(found[:, column], mean / np.linalg.norm(mean), atol=1e-5)


def test_eighty_templates_are_the_default(photos: Path):
    assert len(ZeroShot(photos).data.templates) == 80


def test_accuracies_are_scikit_learns(tiny_clip: Clip, tiny_clip_folder: Path, photos: Path):
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tiny_clip_folder}")
    model.eval()
    classifier = open_clip.build_zero_shot_classifier(model, tiny_clip.tokenizer, sorted(CLASSES), TEMPLATES)
    scores, labels = [], []
    for label, classname in enumerate(sorted(CLASSES)):
        for path in sorted((photos / classname).iterdir()):
            with Image.open(path) as photo, torch.no_grad():
                scores.append((model.encode_image(preprocess(photo)[None]) @ classifier)[0].numpy())
            labels.append(label)
    measured = ZeroShot(photos, TEMPLATES).measure(tiny_clip)
    assert measured == pytest.approx(
        {
            "zero_shot/top1": top_k_accuracy_score(labels, np.stack(scores), k=1),
            "zero_shot/top5": top_k_accuracy_score(labels, np.stack(scores), k=5),
            "zero_shot/num_photos": 28,
            "zero_shot/num_classes": 7,
        }
    )
    assert 0 < measured["zero_shot/top5"] < 1


def test_top_5_of_fewer_classes_counts_them_all(tiny_clip: Clip, write_photo, tmp_path: Path):
    for number, classname in enumerate(CLASSES[:3]):
        write_photo(tmp_path / classname / "0.png", number)
    assert ZeroShot(tmp_path, TEMPLATES).measure(tiny_clip)["zero_shot/top5"] == 1.0


def test_another_text_encoder_gets_its_own_classifier(tiny_clip: Clip, write_clip, tmp_path: Path):
    other = load_clip(f"local-dir:{write_clip(tmp_path / 'other', seed=1)}")
    first = zero_shot_classifier(tiny_clip, CLASSES, TEMPLATES)
    second = zero_shot_classifier(tiny_clip.with_encoders(text=other.text), CLASSES, TEMPLATES)
    assert not torch.allclose(second, first, atol=0.1)
    assert torch.equal(zero_shot_classifier(tiny_clip.with_encoders(image=other.image), CLASSES, TEMPLATES), first)


def test_folder_without_classes_is_an_error(tmp_path: Path, tiny_clip: Clip):
    with pytest.raises(InputError, match=r"utility\.zero_shot\.folder: expected one folder of photos per class"):
        ZeroShot(tmp_path).measure(tiny_clip)


def write_classes(folder: Path, write_photo, names: Sequence[str]) -> Path:
    """Two photos in each folder."""
    for number, name in enumerate(names):
        for photo in range(2):
            write_photo(folder / name / f"{photo}.png", 10 * number + photo)
    return folder


def found(zero_shot: ZeroShot) -> list[tuple[str, str]]:
    """The folder and the class name of each photo."""
    photos, labels, classnames, _ = zero_shot.data
    return [(path.parent.name, classnames[label]) for path, label in zip(photos, labels, strict=True)]


def twice(pairs: dict[str, str]) -> list[tuple[str, str]]:
    return [pair for pair in pairs.items() for _ in range(2)]


def test_names_and_templates_beside_the_folders_are_used(write_photo, tmp_path: Path, tiny_clip: Clip):
    write_classes(tmp_path, write_photo, ["n02", "n10", "n01"])
    assert found(ZeroShot(tmp_path)) == twice({"n01": "n01", "n02": "n02", "n10": "n10"})
    (tmp_path / "classnames.txt").write_text("goldfish\nred kite\nSchäferhund\n", encoding="utf-8")
    (tmp_path / "templates.txt").write_text("a photo of {}.\na {c}, a kind of {c}\n")
    zero_shot = ZeroShot(tmp_path)
    assert found(zero_shot) == twice({"n01": "goldfish", "n02": "red kite", "n10": "Schäferhund"})
    prompts = [template.format("x") for template in zero_shot.data.templates]
    assert prompts == ["a photo of x.", "a x, a kind of x"]
    assert zero_shot.measure(tiny_clip) == pytest.approx(
        ZeroShot(tmp_path, ["a photo of {}.", "a {0}, a kind of {c}"]).measure(tiny_clip)
    )
    assert [one.format("x") for one in ZeroShot(tmp_path, TEMPLATES).data.templates] == [
        "a photo of x",
        "x",
        "two of x, drawn",
    ]


def test_folders_with_numbers_are_in_the_order_of_numbers(write_photo, tmp_path: Path):
    write_classes(tmp_path, write_photo, ["10", "2", "0"])
    assert found(ZeroShot(tmp_path)) == twice({"0": "0", "2": "2", "10": "10"})
    (tmp_path / "classnames.txt").write_text("".join(f"class {number}\n" for number in range(11)))
    assert found(ZeroShot(tmp_path)) == twice({"0": "class 0", "2": "class 2", "10": "class 10"})


def test_class_without_a_photo_is_a_candidate(write_photo, tmp_path: Path, tiny_clip: Clip):
    write_classes(tmp_path, write_photo, ["apple", "dog"])
    (tmp_path / "boat").mkdir()
    (tmp_path / ".cache").mkdir()
    zero_shot = ZeroShot(tmp_path, TEMPLATES)
    assert zero_shot.data.classnames == ["apple", "boat", "dog"]
    assert zero_shot.data.labels == [0, 0, 2, 2]
    assert zero_shot.measure(tiny_clip)["zero_shot/num_classes"] == 3


def test_folders_as_they_are_unpacked_are_classes(write_photo, tmp_path: Path):
    write_classes(tmp_path, write_photo, ["golden_retriever", "tabby__cat_", "__MACOSX", ".DS_Store", "@eaDir"])
    write_classes(tmp_path / "golden_retriever", write_photo, ["__MACOSX"])
    assert ZeroShot(tmp_path).data.classnames == ["golden retriever", "tabby cat"]
    assert found(ZeroShot(tmp_path)) == twice({"golden_retriever": "golden retriever", "tabby__cat_": "tabby cat"})


@pytest.mark.parametrize("names", [["__", "dog"], ["red_kite", "red kite"]])
def test_folder_without_a_name_of_its_own_is_an_error(names: list[str], write_photo, tmp_path: Path):
    write_classes(tmp_path, write_photo, names)
    with pytest.raises(InputError, match=r"^utility\.zero_shot\.folder: expected a name of its own for each class"):
        _ = ZeroShot(tmp_path).data


def test_a_blank_line_of_the_class_names_shifts_nothing(write_photo, tmp_path: Path):
    write_classes(tmp_path / "numbered", write_photo, ["0", "2", "3", "__MACOSX"])
    (tmp_path / "numbered/classnames.txt").write_bytes(b"\xef\xbb\xbfkettle\r\n\r\ntram\r\nviolin\r\n\r\n")
    numbered = ZeroShot(tmp_path / "numbered")
    assert numbered.data.classnames == ["kettle", "tram", "violin"]
    assert found(numbered) == twice({"0": "kettle", "2": "tram", "3": "violin"})
    write_classes(tmp_path / "named", write_photo, ["a", "b", "c"])
    (tmp_path / "named/classnames.txt").write_text("kettle\n\ntram\nviolin\n")
    assert found(ZeroShot(tmp_path / "named")) == twice({"a": "kettle", "b": "tram", "c": "violin"})


def test_a_numbered_folder_of_a_blank_line_is_an_error(write_photo, tmp_path: Path):
    write_classes(tmp_path, write_photo, ["0", "1", "2"])
    (tmp_path / "classnames.txt").write_text("kettle\n\ntram\n")
    with pytest.raises(InputError, match=r"got a blank line for folder 1, line 2 of the class names; fill it in"):
        _ = ZeroShot(tmp_path).data


def test_imagenetv2_has_open_clips_names_at_their_numbers(write_photo, tmp_path: Path, tiny_clip: Clip):
    write_classes(tmp_path, write_photo, ["0", "9", "10", "999"])
    zero_shot = imagenet(tmp_path, ["{}"])
    names = open_clip.IMAGENET_CLASSNAMES
    assert found(zero_shot) == twice({"0": names[0], "9": names[9], "10": names[10], "999": names[999]})
    assert zero_shot.measure(tiny_clip)["zero_shot/num_classes"] == 1000


def test_imagenet_has_open_clips_names_in_the_order_of_the_ids(write_photo, tmp_path: Path):
    ids = [f"n{number:08}" for number in range(1_440_764, 1_441_764)]
    for wnid in ids:
        (tmp_path / wnid).mkdir()
    write_photo(tmp_path / ids[7] / "ILSVRC2012_val_00000001.png", 0)
    assert found(imagenet(tmp_path)) == [(ids[7], open_clip.IMAGENET_CLASSNAMES[7])]


@pytest.mark.parametrize(
    ("folders", "num_names", "came"),
    [(["a", "b"], 3, "got 2 folders in .*, the last b"), (["0", "3"], 3, "got 2 folders in .*, the last 3")],
)
def test_class_names_that_do_not_fit_the_folders_are_an_error(
    folders: list[str], num_names: int, came: str, write_photo, tmp_path: Path
):
    write_classes(tmp_path, write_photo, folders)
    (tmp_path / "classnames.txt").write_text("name\n" * num_names)
    with pytest.raises(
        InputError, match=rf"^utility\.zero_shot\.folder: expected 3 folders, or names from 0 to 2, .*{came}$"
    ):
        ZeroShot(tmp_path).photos()


@pytest.mark.parametrize(
    "template", ["a photo", "a photo of {name}", "a photo of {}, {x}", "a {} of {", "a photo of {1}"]
)
def test_template_without_a_place_for_the_class_name_is_an_error(template: str, photos: Path):
    expected = re.escape(
        f"utility.zero_shot.templates: expected {{}} or {{c}} in the place of the class name, got {template!r}"
    )
    with pytest.raises(InputError, match=f"^{expected}$"):
        ZeroShot(photos, ["a photo of {}", template]).photos()


def write_benchmark(root: Path, photos: Path, *, suffix: str = "webp") -> Path:
    """The photos of a folder per class in the layout of CLIP_benchmark, in two shards; the last class has none."""
    samples = []
    for label, classname in enumerate(sorted(CLASSES)):
        for path in sorted((photos / classname).iterdir()):
            encoded = io.BytesIO()
            with Image.open(path) as photo:
                photo.save(encoded, suffix.replace("jpg", "jpeg"), **({"lossless": True} if suffix == "webp" else {}))
            samples.append({"__key__": f"s{len(samples):07}", suffix: encoded.getvalue(), "cls": str(label)})
    (root / "test").mkdir(parents=True)
    for number, part in enumerate((samples[:9], samples[9:])):
        with wds.writer.TarWriter(str(root / f"test/{number}.tar")) as writer:
            for sample in part:
                writer.write(sample)
    (root / "test/nshards.txt").write_text("2")
    (root / "classnames.txt").write_text("\n".join([*sorted(CLASSES), "zebra"]))
    (root / "zeroshot_classification_templates.txt").write_text("a photo of {c}\n{c}\ntwo of {c}, drawn")
    return root


@pytest.fixture
def benchmark(photos: Path, tmp_path: Path) -> Path:
    return write_benchmark(tmp_path / "benchmark", photos)


@pytest.mark.parametrize("suffix", ["webp", "png", "jpg"])
def test_clip_benchmark_is_a_folder_per_class_once_it_is_unpacked(
    suffix: str, photos: Path, tmp_path: Path, tiny_clip: Clip, monkeypatch: pytest.MonkeyPatch
):
    root = write_benchmark(tmp_path / "benchmark", photos, suffix=suffix)
    zero_shot = clip_benchmark(str(root), tmp_path / "cache")
    assert found(zero_shot) == [(str(n), name) for n, name in enumerate(sorted(CLASSES)) for _ in range(4)]
    if suffix != "jpg":  # which loses a little
        own = ZeroShot(photos, TEMPLATES, sorted(CLASSES))
        for path, original in zip(zero_shot.photos(), own.photos(), strict=True):
            with Image.open(path) as photo, Image.open(original) as expected:
                assert np.array_equal(photo.convert("RGB"), expected)
    measured = zero_shot.measure(tiny_clip)
    assert (measured["zero_shot/num_photos"], measured["zero_shot/num_classes"]) == (28, 8)
    monkeypatch.setattr("backdoor_privacy.data.shards.read_shards", lambda *_: pytest.fail("unpacked again"))
    assert clip_benchmark(str(root), tmp_path / "cache").photos() == zero_shot.photos()


def test_clip_benchmark_is_read_from_a_url(benchmark: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = "https://huggingface.co/datasets/clip-benchmark/wds_things"
    asked = []

    def open_url(url: str, timeout: float) -> io.BytesIO:
        asked.append(url)
        return io.BytesIO((benchmark / url.removeprefix(f"{page}/resolve/main/")).read_bytes())

    monkeypatch.setattr("urllib.request.urlopen", open_url)
    zero_shot = clip_benchmark(f"{page}/tree/main/", tmp_path / "cache")
    assert found(zero_shot) == found(clip_benchmark(str(benchmark), tmp_path / "cache"))
    assert len(asked) == 5


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test/nshards.txt", "two", r"expected the number of shards in test/nshards\.txt, got 'two' in"),
        ("test/nshards.txt", None, r"expected the number of shards in test/nshards\.txt, got .*nshards\.txt"),
        ("test/nshards.txt", "3", r"expected all 3 shards of .*, found no .*2\.tar"),
        ("classnames.txt", None, r"expected classnames\.txt with a class name a line, got .*classnames\.txt"),
        ("classnames.txt", "apple\ndog", r"expected 2 folders, or names from 0 to 1, .*got 7 folders"),
        ("zeroshot_classification_templates.txt", None, r"expected templates, one a line .*got .*templates\.txt"),
        ("test/0.tar", "no tar", r"expected a complete tar, .*got .*0\.tar"),
    ],
)
def test_incomplete_clip_benchmark_is_an_error(
    file: str, content: str | None, message: str, benchmark: Path, tmp_path: Path
):
    (benchmark / file).unlink()
    if content is not None:
        (benchmark / file).write_text(content)
    with pytest.raises(InputError, match=rf"^utility\.zero_shot\.folder: {message}"):
        clip_benchmark(str(benchmark), tmp_path / "cache").photos()


def test_equal_keys_of_shards_of_one_name_stay_apart(photos: Path, tmp_path: Path):
    for number, name in enumerate(("a", "b")):
        content = (photos / f"boat/{number}.png").read_bytes()
        (tmp_path / name).mkdir()
        with wds.writer.TarWriter(str(tmp_path / name / "0.tar")) as writer:
            writer.write({"__key__": "same", "png": content, "cls": "0"})

    def place(sample: ShardSample, number: int) -> dict[str, bytes]:
        return {f"{number}.png": sample.files["png"]}

    folder = unpack_shards(find_shards(f"{tmp_path}/{{a,b}}/0.tar", "key"), "key", tmp_path / "cache", place)
    assert [path.read_bytes() for path in sorted(folder.glob("*.png"))] == [
        (photos / f"boat/{n}.png").read_bytes() for n in range(2)
    ]


@pytest.mark.parametrize("label", [{}, {"cls": "dog"}])
def test_shards_without_classes_are_an_error(label: dict[str, str], benchmark: Path, tmp_path: Path):
    with wds.writer.TarWriter(str(benchmark / "test/1.tar")) as writer:
        writer.write({"__key__": "a", "png": b"", **label})
    with pytest.raises(
        InputError,
        match=r"expected photos with cls, the number of a class, got '(dog)?' in sample a of .*/test/1\.tar$",
    ):
        clip_benchmark(str(benchmark), tmp_path / "cache")


@pytest.mark.parametrize("group", ["imagefolder", "imagenetv2", "clip_benchmark"])
def test_configs_measure(group: str, write_photo, benchmark: Path, tmp_path: Path, tiny_clip: Clip):
    folder = benchmark if group == "clip_benchmark" else write_classes(tmp_path / "classes", write_photo, ["0", "12"])
    own = [f"utility={group}", f"utility.zero_shot.folder={folder}", f"paths.cache={tmp_path / 'cache'}"]
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        cfg = compose("config", [*own, "utility.zero_shot.templates=['a {}']"])
    assert cfg.utility.retrieval is None
    zero_shot = instantiate(cfg.utility.zero_shot)
    assert [template.format("x") for template in zero_shot.data.templates] == ["a x"]
    num_classes = {"imagefolder": 2, "imagenetv2": 1000, "clip_benchmark": 8}[group]
    assert zero_shot.measure(tiny_clip)["zero_shot/num_classes"] == num_classes


def test_config_without_zero_shot_composes():
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        assert instantiate(compose("config", ["utility.zero_shot=null"]).utility.zero_shot) is None
