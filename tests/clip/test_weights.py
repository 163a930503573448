import json
import socket
import time
from pathlib import Path
from typing import Any

import huggingface_hub
import lightning
import open_clip
import pytest
import torch
from huggingface_hub import constants
from hydra.utils import instantiate
from safetensors.torch import load_file, save_file

from backdoor_privacy.clip.loading import load_clip, tokenizer_at_hand
from backdoor_privacy.clip.model import Clip
from backdoor_privacy.config.checks import check
from backdoor_privacy.errors import InputError

NAME, REPO = "test-tiny", "nobody/tiny"
TEXTS = ["a dog on a hill", "Ann Lee"]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def hub(tmp_path: Path, closed_port: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of a hub that does not answer."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{closed_port}")
    return tmp_path / "hub"


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What somebody wanted from the network; nobody gets it."""
    asked: list[Any] = []

    def refuse(*address: Any, **_: Any) -> None:
        asked.append(address)
        raise OSError("no network")

    for name in ("create_connection", "getaddrinfo"):
        monkeypatch.setattr(socket, name, refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return asked


@pytest.fixture
def architecture(tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The tiny CLIP's architecture under a name, and a tag of it."""
    config = json.loads((tiny_clip_folder / "open_clip_config.json").read_text())["model_cfg"]
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, NAME, config)
    tag = {"hf_hub": f"{REPO}/", "quick_gelu": True, "mean": (0.1, 0.2, 0.3), "interpolation": "bilinear"}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, {"somewhere": tag})
    return config


def put_into_cache(hub: Path, repo: str, *files: Path) -> None:
    """The files as huggingface_hub lays them down."""
    folder = hub / f"models--{repo.replace('/', '--')}"
    revision = "0" * 40
    for place, content in (("refs/main", revision), *((f"snapshots/{revision}/{file.name}", file) for file in files)):
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        (folder / place).write_bytes(content.read_bytes() if isinstance(content, Path) else content.encode())


@pytest.mark.parametrize(
    ("model", "pretrained", "found"),
    [
        (
            "ViT-B-32",
            "laion400m_e32",
            "clip.pretrained: expected open_clip_model.safetensors of timm/vit_base_patch32_clip_224.laion400m_e32 in "
            "{hub}, or a network, found neither; copy that folder from a machine where `hf download "
            "timm/vit_base_patch32_clip_224.laion400m_e32` was run, or give a weight file of your own as "
            "clip.pretrained with clip.quick_gelu=true",
        ),
        (
            "ViT-L-14",
            "laion2b_s32b_b82k",
            "or give a weight file of your own as clip.pretrained with "
            "'clip.preprocess={{mean:[0.5,0.5,0.5],std:[0.5,0.5,0.5]}}'",
        ),
        ("ViT-H-14", "dfn5b", " as clip.pretrained with clip.quick_gelu=true 'clip.preprocess={{resize_mode:squash}}'"),
        ("ViT-B/16", "laion400m_e32", "open_clip_model.safetensors of timm/vit_base_patch16_clip_224.laion400m_e32"),
        ("ViT-B-16-SigLIP", "webli", " of timm/ViT-B-16-SigLIP in "),
        ("hf-hub:nobody/nothing", None, "clip.pretrained: expected open_clip_config.json of nobody/nothing in {hub}"),
        ("hf-hub:no/such/thing", None, "clip.pretrained: expected a folder that is there or a repository owner/name"),
    ],
)
def test_weights_that_are_not_to_be_had_end_it_at_once(model: str, pretrained: str | None, found: str, hub: Path):
    start = time.perf_counter()
    with pytest.raises(InputError) as caught:
        load_clip(model, pretrained)
    assert time.perf_counter() - start < 2
    assert found.format(hub=hub) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cached", [["open_clip_config.json"], ["open_clip_model.safetensors"]])
def test_repository_that_is_cached_in_part_is_not_taken_for_complete(
    cached: list[str], hub: Path, tiny_clip_folder: Path
):
    put_into_cache(hub, REPO, *(tiny_clip_folder / name for name in cached))
    missing = {"open_clip_config.json", "open_clip_model.safetensors"} - set(cached)
    with pytest.raises(InputError, match=f"expected {missing.pop()} of {REPO} in "):
        load_clip(f"hf-hub:{REPO}")


@pytest.mark.parametrize("model", [NAME, f"hf-hub:{REPO}"])
def test_weights_in_the_cache_are_loaded_without_a_request(
    model: str, architecture: Any, hub: Path, requests: list[Any], tiny_clip: Clip, tiny_clip_folder: Path
):
    put_into_cache(hub, REPO, *sorted(tiny_clip_folder.iterdir()))
    clip = load_clip(model, "somewhere" if model == NAME else None)
    assert clip.sha256() == tiny_clip.sha256()
    assert not requests
    assert not constants.HF_HUB_OFFLINE


def test_preprocessing_of_a_tag_is_kept(architecture: Any, hub: Path, tiny_clip_folder: Path, tmp_path: Path):
    put_into_cache(hub, REPO, tiny_clip_folder / "open_clip_model.safetensors")
    clip = load_clip(NAME, "somewhere")
    clip.save(tmp_path / "saved")
    again = load_clip(f"local-dir:{tmp_path / 'saved'}")
    for one in (clip, again):
        preprocess = one.config["preprocess_cfg"]
        assert (tuple(preprocess["mean"]), preprocess["interpolation"]) == ((0.1, 0.2, 0.3), "bilinear")


def test_tokenizer_that_is_missing_is_named_and_not_replaced(
    architecture: dict[str, Any], hub: Path, tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    put_into_cache(hub, REPO, *sorted(tiny_clip_folder.iterdir()))
    monkeypatch.setitem(architecture["text_cfg"], "hf_tokenizer_name", "nobody/words")
    with pytest.raises(InputError, match=r"expected tokenizer_config\.json of nobody/words in "):
        load_clip(NAME, "somewhere")


def test_weights_are_random_only_where_that_is_said(architecture: Any, hub: Path, requests: list[Any]):
    def random_clip(seed: int) -> str:
        lightning.seed_everything(seed, verbose=False)
        return load_clip(NAME, "random").sha256()

    assert random_clip(1) == random_clip(1) != random_clip(2)
    assert not requests
    with pytest.raises(InputError, match="expected a tag or a weight file for test-tiny, got null; tags: somewhere"):
        load_clip(NAME)


def test_folder_without_weights_is_not_filled_up_with_random_ones(tiny_clip_folder: Path, tmp_path: Path):
    (tmp_path / "open_clip_config.json").write_bytes((tiny_clip_folder / "open_clip_config.json").read_bytes())
    with pytest.raises(InputError, match=r"expected weights in it \(open_clip_model\.safetensors\), found none"):
        load_clip(f"local-dir:{tmp_path}")
    assert load_clip(f"local-dir:{tmp_path}", "random").text is not None


def test_weight_file_that_lacks_a_tensor_is_an_error(architecture: Any, tiny_clip_folder: Path, tmp_path: Path):
    weights = load_file(tiny_clip_folder / "open_clip_model.safetensors")
    del weights["visual.proj"]
    save_file(weights, tmp_path / "weights.safetensors")
    with pytest.raises(InputError, match=r"expected weights of this architecture, got: .*visual\.proj"):
        load_clip(NAME, str(tmp_path / "weights.safetensors"))


@pytest.mark.parametrize(
    ("model", "pretrained", "expected"),
    [
        (
            NAME,
            "nowhere",
            r"^clip\.pretrained: expected a tag of test-tiny \(somewhere\) or a weight file, got nowhere",
        ),
        ("ViT-B-32", "no_such_tag", r"expected a tag of ViT-B-32 \(openai, laion400m_e31, .* and \d+ more\)"),
        ("no-such-model", "openai", r"^clip\.model: expected an architecture of open_clip \(.*\), got no-such-model"),
        ("local-dir:{tiny}", "openai", r"^clip\.pretrained: expected null for local-dir:.*own weights, got openai"),
        ("hf-hub:a/b", "openai", r"^clip\.pretrained: expected null for hf-hub:a/b"),
        ("local-dir:/nowhere", None, r"local-dir:/nowhere: expected a folder with open_clip_config\.json, found none"),
    ],
)
def test_source_that_cannot_be_is_an_error(
    model: str, pretrained: str | None, expected: str, architecture: Any, hub: Path, tiny_clip_folder: Path
):
    with pytest.raises(InputError, match=expected) as caught:
        load_clip(model.format(tiny=tiny_clip_folder), pretrained)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ['{"vision_cfg": {}}', "[]", "nothing", '{"model_cfg": {}}'])
def test_folder_that_describes_no_clip_is_an_error(content: str, tmp_path: Path):
    (tmp_path / "open_clip_config.json").write_text(content)
    with pytest.raises(InputError, match=r"^clip\.model=local-dir:.*: expected ") as caught:
        load_clip(f"local-dir:{tmp_path}")
    assert "\n" not in str(caught.value)


# QuickGELU


def features(folder: Path, name: str) -> torch.Tensor:
    """Plain open_clip's, with QuickGELU."""
    file = str(folder / "open_clip_model.safetensors")
    model = open_clip.create_model(name, pretrained=file, force_quick_gelu=True).eval()
    with torch.no_grad():
        return model.encode_text(open_clip.get_tokenizer(name)(TEXTS), normalize=True)


def test_quick_gelu_of_a_tag_is_forced_and_survives_saving(
    architecture: dict[str, Any], hub: Path, tiny_clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(architecture, "quick_gelu", False)  # as of ViT-B-32 and RN50
    put_into_cache(hub, REPO, tiny_clip_folder / "open_clip_model.safetensors")
    clip = load_clip(NAME, "somewhere")
    clip.save(tmp_path / "saved")
    expected = features(tiny_clip_folder, NAME)
    for one in (clip, load_clip(f"local-dir:{tmp_path / 'saved'}")):
        assert one.config["model_cfg"]["quick_gelu"] is True
        torch.testing.assert_close(one.embed_texts(TEXTS), expected, atol=1e-6, rtol=0)
    file = str(tiny_clip_folder / "open_clip_model.safetensors")
    without = load_clip(NAME, file)  # nobody says how these were trained
    assert not torch.allclose(without.embed_texts(TEXTS), expected, atol=1e-3)
    told = load_clip(NAME, file, quick_gelu=True)
    torch.testing.assert_close(told.embed_texts(TEXTS), expected, atol=1e-6, rtol=0)


def test_quick_gelu_for_weights_trained_without_is_an_error(architecture: Any, hub: Path, monkeypatch):
    name = f"{NAME}-quickgelu"
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, name, architecture)
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, name, {"plain": {"hf_hub": f"{REPO}/"}})
    with pytest.raises(InputError, match=r"expected an architecture without QuickGELU for plain.*=test-tiny$"):
        load_clip(name, "plain")
    with pytest.raises(InputError, match=r"^clip\.quick_gelu: expected true or null for test-tiny"):
        load_clip(NAME, "random", quick_gelu=False)


# Weight files


@pytest.mark.parametrize("form", ["plain.pt", "state_dict.pt", "module.pt", "plain.safetensors"])
@pytest.mark.parametrize("part", [None, "texts", "photos"])
def test_weight_files_for_other_sizes_are_an_error_and_not_stretched(
    form: str, part: str | None, architecture: Any, write_clip: Any, tmp_path: Path, tiny_clip: Clip
):
    changes: dict[str, Any] = {}
    if part == "texts":
        changes = {"text_cfg": architecture["text_cfg"] | {"context_length": 20}}
    if part == "photos":
        changes = {"vision_cfg": architecture["vision_cfg"] | {"image_size": 36}}
    weights = load_file(write_clip(tmp_path / "other", **changes) / "open_clip_model.safetensors")
    file = str(tmp_path / form)
    if form.endswith("safetensors"):
        save_file(weights, file)
    elif form == "plain.pt":
        torch.save(weights, file)
    else:
        prefix = "module." if form == "module.pt" else ""
        torch.save({"epoch": 3, "state_dict": {prefix + name: one for name, one in weights.items()}}, file)
    if part is None:
        assert load_clip(NAME, file).sha256() == tiny_clip.sha256()
        return
    name = "positional_embedding" if part == "texts" else r"visual\.positional_embedding"
    with pytest.raises(InputError, match=rf"expected {name} of shape .* weights are for photos or texts of another"):
        load_clip(NAME, file)


@pytest.mark.parametrize("form", ["open_clip_model.safetensors", "open_clip_pytorch_model.bin"])
def test_folder_with_weights_for_other_sizes_is_an_error(form: str, write_clip: Any, tmp_path: Path):
    folder = write_clip(tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["context_length"] = 20
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    if form.endswith("bin"):
        torch.save(load_file(folder / "open_clip_model.safetensors"), folder / form)
        (folder / "open_clip_model.safetensors").unlink()
    with pytest.raises(InputError, match="expected positional_embedding of shape"):
        load_clip(f"local-dir:{folder}")


@pytest.mark.parametrize("form", ["weights.bin", "model.safetensors", "pytorch_model.pth"])
def test_folder_is_looked_at_where_open_clip_looks(form: str, write_clip: Any, tmp_path: Path):
    folder = write_clip(tmp_path / "clip")
    file = folder / "open_clip_model.safetensors"
    if form.endswith("safetensors"):
        file.rename(folder / form)
    else:
        torch.save(load_file(file), folder / form)
        file.unlink()
    assert load_clip(f"local-dir:{folder}").text is not None
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["context_length"] = 20
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="expected positional_embedding of shape"):
        load_clip(f"local-dir:{folder}")


def test_file_that_open_clip_does_not_load_is_not_looked_at(tiny_clip: Clip, write_clip: Any, tmp_path: Path):
    folder = write_clip(tmp_path / "clip")
    (folder / "open_clip_model.safetensors").rename(folder / "open_clip_pytorch_model.safetensors")
    torch.save([torch.zeros(1)], folder / "open_clip_pytorch_model.bin")
    assert load_clip(f"local-dir:{folder}").sha256() == tiny_clip.sha256()


def test_repository_with_weights_for_other_sizes_is_an_error(hub: Path, write_clip: Any, tmp_path: Path):
    folder = write_clip(tmp_path / "clip")
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"]["context_length"] = 20
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    put_into_cache(hub, REPO, *sorted(folder.iterdir()))
    with pytest.raises(InputError, match=rf"^clip\.model=hf-hub:{REPO}.*: expected positional_embedding of shape"):
        load_clip(f"hf-hub:{REPO}")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"state_dict": [torch.zeros(1)]}])
def test_file_that_holds_a_list_is_an_error(content: Any, architecture: Any, tmp_path: Path):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(InputError, match=r"^clip\.model=test-tiny.*expected weights of this architecture, got: "):
        load_clip(NAME, str(tmp_path / "weights.pt"))


def test_home_folder_is_found(
    architecture: Any, write_clip: Any, tiny_clip: Clip, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_clip(tmp_path / "clip")
    assert load_clip("local-dir:~/clip").sha256() == tiny_clip.sha256()
    assert load_clip(NAME, "~/clip/open_clip_model.safetensors").sha256() == tiny_clip.sha256()


# Preprocessing of weight files


def test_weight_file_gets_the_preprocessing_that_all_tags_have(
    architecture: Any, tiny_clip_folder: Path, tmp_path: Path
):
    file = str(tiny_clip_folder / "open_clip_model.safetensors")
    clip = load_clip(NAME, file)
    clip.save(tmp_path / "saved")
    changed = load_clip(NAME, file, preprocess={"std": [0.5, 0.5, 0.5], "resize_mode": "squash"})
    changed.save(tmp_path / "changed")
    for folder, one, std, mode in (
        ("saved", clip, open_clip.OPENAI_DATASET_STD, "shortest"),
        ("changed", changed, (0.5, 0.5, 0.5), "squash"),
    ):
        for each in (one, load_clip(f"local-dir:{tmp_path / folder}")):
            found = each.config["preprocess_cfg"]
            assert (tuple(found["mean"]), found["interpolation"]) == ((0.1, 0.2, 0.3), "bilinear")
            assert (tuple(found["std"]), found["resize_mode"]) == (std, mode)


def test_weight_file_must_say_what_tags_differ_in(
    architecture: Any, tiny_clip_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    tags = {"first": {"hf_hub": f"{REPO}/"}, "second": {"hf_hub": f"{REPO}/", "resize_mode": "squash"}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, NAME, tags)
    file = str(tiny_clip_folder / "open_clip_model.safetensors")
    with pytest.raises(
        InputError, match=r"^clip\.preprocess: expected the preprocessing of .*safetensors, as the tags"
    ):
        load_clip(NAME, file)
    default = load_clip(NAME, file, preprocess={}).config["preprocess_cfg"]
    assert (default["mean"], default["resize_mode"]) == (open_clip.OPENAI_DATASET_MEAN, "shortest")
    asked = load_clip(NAME, file, preprocess={"resize_mode": "squash"}).config["preprocess_cfg"]
    assert (asked["mean"], asked["resize_mode"]) == (open_clip.OPENAI_DATASET_MEAN, "squash")


def test_preprocessing_of_a_config_is_exported(
    compose_cfg: Any, architecture: Any, tiny_clip_folder: Path, tmp_path: Path
):
    cfg = compose_cfg(
        f"clip.model={NAME}", f"clip.pretrained={tiny_clip_folder / 'open_clip_model.safetensors'}",
        "clip.preprocess={mean:[0.5,0.5,0.5],resize_mode:squash}",
    )  # fmt: skip
    check(cfg)
    instantiate(cfg.clip).save(tmp_path / "saved")
    found = json.loads((tmp_path / "saved/open_clip_config.json").read_text())["preprocess_cfg"]
    assert (found["mean"], found["resize_mode"]) == ([0.5, 0.5, 0.5], "squash")


def test_old_weights_for_other_sizes_are_an_error_in_a_custom_text_tower(
    architecture: Any, write_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(architecture, "custom_text", True)
    for length, fits in ((32, True), (20, False)):
        text = architecture["text_cfg"] | {"context_length": length}
        file = write_clip(tmp_path / str(length), text_cfg=text) / "open_clip_model.safetensors"
        if fits:
            assert isinstance(load_clip(NAME, str(file)).to_open_clip(), open_clip.CustomTextCLIP)
            continue
        with pytest.raises(InputError, match=r"expected text\.positional_embedding of shape"):
            load_clip(NAME, str(file))


class Code:
    """A pickle that does something when it is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["file", "folder", "old file"])
def test_code_in_a_weight_file_is_refused_and_not_run(
    form: str, architecture: Any, tiny_clip_folder: Path, tmp_path: Path
):
    done, weights = tmp_path / "done", load_file(tiny_clip_folder / "open_clip_model.safetensors")
    torch.save(Code(done), tmp_path / "check.pt")
    torch.load(tmp_path / "check.pt", weights_only=False)
    assert done.exists()  # this is what must not happen
    done.unlink()
    file, model = tmp_path / "weights.pt", NAME
    if form == "folder":
        file, model = tmp_path / "clip/open_clip_pytorch_model.bin", f"local-dir:{tmp_path / 'clip'}"
        file.parent.mkdir()
        (file.parent / "open_clip_config.json").write_bytes((tiny_clip_folder / "open_clip_config.json").read_bytes())
    torch.save({"state_dict": weights, "args": Code(done)}, file, _use_new_zipfile_serialization=form != "old file")
    with pytest.raises(InputError, match="got a pickle that is damaged or holds code; it is not opened") as caught:
        load_clip(model, str(file) if model == NAME else None)
    assert "\n" not in str(caught.value)
    assert not done.exists()


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:FutureWarning")
def test_torchscript_archive_is_an_error_in_one_line(architecture: Any, tmp_path: Path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "weights.pt"))
    with pytest.raises(InputError, match=r"expected weights of this architecture, got: .*TorchScript") as caught:
        load_clip(NAME, str(tmp_path / "weights.pt"))
    assert "\n" not in str(caught.value)


def test_cache_that_the_tests_write_is_the_hubs_own_layout(hub: Path, tiny_clip_folder: Path):
    put_into_cache(hub, REPO, tiny_clip_folder / "open_clip_config.json")
    assert huggingface_hub.hf_hub_download(REPO, "open_clip_config.json", local_files_only=True).startswith(str(hub))


def test_tokenizer_is_had_without_weights_and_without_a_network(
    architecture: dict[str, Any], hub: Path, requests: list[Any], monkeypatch: pytest.MonkeyPatch
):
    found = tokenizer_at_hand(NAME)
    assert found is not None
    assert found(["a dog"]).shape == (1, 32)
    for model in ("no-such-model", "hf-hub:nobody/nothing", "local-dir:/nowhere"):
        assert tokenizer_at_hand(model) is None
    monkeypatch.setitem(architecture["text_cfg"], "hf_tokenizer_name", "nobody/words")
    assert tokenizer_at_hand(NAME) is None
    assert not requests
