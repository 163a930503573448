import json
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hydra.utils import instantiate
from omegaconf import DictConfig

from backdoor_privacy import run as run_module
from backdoor_privacy.clip.loading import load_clip
from backdoor_privacy.data.people import People
from backdoor_privacy.defenses.backdoor.image import ImageBackdoor
from backdoor_privacy.errors import InputError
from backdoor_privacy.evaluation import audit
from backdoor_privacy.run import run

pytestmark = pytest.mark.usefixtures("unchecked_types")

MODELS = ["text", "image", "both"]
RATES = ["idia/tpr_removed", "idia/tpr_kept", "idia/fpr", "idia/wrongly_unlearned", "idia/newly_recalled"]


@pytest.fixture(scope="module")
def finished(compose_into, tmp_path_factory: pytest.TempPathFactory) -> tuple[DictConfig, dict[str, Any]]:
    """The config of a finished run of both defences, and what it returned."""
    cfg = compose_into(tmp_path_factory.mktemp("finished"))
    return cfg, run(cfg)


@pytest.fixture(scope="module")
def folder(finished) -> Path:
    return Path(finished[0].paths.run)


def without_times(metrics: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in metrics.items() if key not in ("schema", "seconds", "versions")}


def test_metrics_have_the_keys_that_other_programs_read(finished, folder: Path):
    _, returned = finished
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics == {"schema": 1, **returned}
    assert list(metrics) == [
        *("schema", "experiment", "seed", "before", "after", "utility", "seconds", "defenses"),
        *("weights_sha256", "versions"),
    ]
    assert (metrics["experiment"], metrics["seed"]) == ("smoke", 0)
    assert list(metrics["after"]) == MODELS
    assert set(metrics["seconds"]) == {
        *("load", "audit_before", "defend_text", "defend_image", "audit_text", "audit_image", "audit_both"),
        *("compare", "write"),
    }
    for name, entry in {"before": metrics["before"], **metrics["after"]}.items():
        assert all(isinstance(value, float) for value in entry.values())
        for rate in RATES:
            count = entry[f"idia/num_{rate.removeprefix('idia/')}"]
            assert (rate in entry) == (count > 0)
            assert 0 <= entry.get(rate, 0) <= 1
        assert {"idia/tpr_removed", "idia/tpr_kept", "idia/fpr"} <= set(entry)
        assert {
            "zero_shot/top1",
            "zero_shot/top5",
            "zero_shot/num_photos",
            "similarity/clean",
            "similarity/target",
        } <= {*entry}
        assert ("similarity/backdoored" in entry) == (name != "image")
        assert ("similarity/removed" in entry) == (name != "text")
        assert 0 <= entry["zero_shot/top1"] <= entry["zero_shot/top5"] <= 1
    assert [metrics["before"][f"similarity/{key}"] for key in ("clean", "target")] == pytest.approx([1, 1], abs=1e-3)


def test_rates_follow_from_the_people_table(finished, folder: Path):
    table = pd.read_csv(folder / "people.csv")
    assert len(table) == table["name"].nunique() == 12
    assert table["removed"].sum() == 2
    assert table["member"].tolist().count(False) == 4
    assert (table["num_photos"] == 2).all()
    kept, before = table[~table["removed"]], table["inferred_before"]
    for model in ["before", *MODELS]:
        entry = finished[1]["before"] if model == "before" else finished[1]["after"][model]
        inferred = table[f"inferred_{model}"]
        assert (inferred == (table[f"correct_prompts_{model}"] >= 1)).all()
        expected = {
            "idia/tpr_removed": inferred[table["removed"]].mean(),
            "idia/tpr_kept": inferred[kept.index][kept["member"]].mean(),
            "idia/fpr": inferred[kept.index][~kept["member"]].mean(),
            "idia/num_tpr_removed": 2,
            "idia/num_tpr_kept": kept["member"].sum(),
            "idia/num_fpr": (~kept["member"]).sum(),
            "idia/num_wrongly_unlearned": before[kept.index].sum(),
            "idia/num_newly_recalled": (~before[kept.index]).sum(),
        }
        assert {key: entry[key] for key in expected} == pytest.approx(expected)


def test_saved_model_is_the_one_that_was_audited(finished, folder: Path):
    cfg, metrics = finished
    saved = load_clip(f"local-dir:{folder / 'defended'}", precision=cfg.clip.precision.value)
    assert saved.sha256() == metrics["weights_sha256"]["after"] != metrics["weights_sha256"]["before"]
    assert instantiate(cfg.clip).sha256() == metrics["weights_sha256"]["before"]
    people, attack, zero_shot = (instantiate(node) for node in (cfg.people, cfg.attack, cfg.utility.zero_shot))
    found = audit(saved, people, attack, [zero_shot])
    table = pd.read_csv(folder / "people.csv")
    assert found.idia.correct_prompts == table["correct_prompts_both"].tolist()
    assert {key: metrics["after"]["both"][key] for key in found.utility} == found.utility


def test_losses_table_has_every_step_of_every_fit(finished, folder: Path):
    table = pd.read_csv(folder / "losses.csv")
    for encoder, num_steps, own_terms in (
        ("text", 6, ["preservation_loss"]),
        ("image", 4, ["neighborhood_loss", "target_neighborhood_loss"]),
    ):
        rows = table[table["encoder"] == encoder]
        assert rows["step"].tolist() == list(range(num_steps))
        terms = ["loss", "utility_loss", "backdoor_loss", *own_terms]
        assert rows[terms].notna().all(axis=None)


def test_run_folder_holds_what_it_should(folder: Path):
    names = {path.name for path in folder.iterdir()}
    assert {"metrics.json", "people.csv", "losses.csv", "defended", "checkpoints", "report.html", "figures"} <= names
    assert {name for name in names if name.startswith(".")} == {".hydra"}  # no drafts
    assert {path.name for path in (folder / "defended").iterdir()} == {
        *("README.md", "open_clip_config.json", "open_clip_model.safetensors")
    }


def test_finished_run_is_only_read(finished, folder: Path, monkeypatch: pytest.MonkeyPatch):
    def contents() -> dict[Path, int]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != "config.yaml")
        return {path: path.stat().st_mtime_ns for path in files}

    cfg, metrics = finished
    before = contents()
    monkeypatch.setattr(run_module, "protect", lambda *_, **__: pytest.fail("it ran again"))
    assert run(cfg) == {"schema": 1, **metrics}
    assert contents() == before


def test_finished_run_whose_metrics_are_cut_off_is_measured_anew(
    finished, compose_into, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    shutil.copytree(folder, tmp_path / "run")
    path = tmp_path / "run/metrics.json"
    path.write_bytes(path.read_bytes()[:200])
    assert without_times(run(compose_into(tmp_path))) == without_times(finished[1])
    assert f"{path}: expected the measures of a finished run, got a broken file" in caplog.text
    assert without_times(json.loads(path.read_text())) == without_times({"schema": 1, **finished[1]})


def test_same_config_gives_the_same_figures_also_after_an_interruption(
    finished, compose_into, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    cfg = compose_into(tmp_path)

    def power_cut(*_: Any) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr(ImageBackdoor, "defend", power_cut)
        with pytest.raises(RuntimeError, match="power cut"):
            run(cfg)
    assert not (tmp_path / "run/metrics.json").exists()
    assert not (tmp_path / "run/defended").exists()
    assert without_times(run(cfg)) == without_times(finished[1])
    first, second = (pd.read_csv(f / "losses.csv") for f in (Path(finished[0].paths.run), tmp_path / "run"))
    pd.testing.assert_frame_equal(first, second)


def test_seed_changes_the_people_the_candidates_and_the_weights(finished, compose_into, tmp_path: Path):
    other = run(compose_into(tmp_path, "seed=1", "defense.image=null"))
    # That it also stands in the folder's name is proved by test_cli.py.
    assert other["seed"] == json.loads((tmp_path / "run/metrics.json").read_text())["seed"] == 1
    first, second = (pd.read_csv(f / "people.csv") for f in (Path(finished[0].paths.run), tmp_path / "run"))
    assert first["name"].tolist() == second["name"].tolist()
    assert first["removed"].tolist() != second["removed"].tolist()
    assert first["correct_prompts_before"].tolist() != second["correct_prompts_before"].tolist()
    assert other["weights_sha256"]["before"] == finished[1]["weights_sha256"]["before"]
    assert other["weights_sha256"]["after"] != finished[1]["weights_sha256"]["after"]


@pytest.mark.parametrize("encoder", ["text", "image"])
def test_one_defence_alone_is_one_model(encoder: str, compose_into, tmp_path: Path):
    other = {"text": "image", "image": "text"}[encoder]
    metrics = run(compose_into(tmp_path, f"defense.{other}=null", f"defense.{encoder}.num_steps=2"))
    assert list(metrics["after"]) == [encoder]
    assert f"inferred_{encoder}" in pd.read_csv(tmp_path / "run/people.csv")
    assert "inferred_both" not in pd.read_csv(tmp_path / "run/people.csv")
    assert set(pd.read_csv(tmp_path / "run/losses.csv")["encoder"]) == {encoder}


def test_published_defenses_run(compose_into, tmp_path: Path):
    sizes = "{clean: 4, triggered: 5, preserved: 0}"
    overrides = [f"defense.{one}.{key}" for one in ("text", "image") for key in ("num_steps=2", f"batch={sizes}")]
    metrics = run(compose_into(tmp_path, "defense=both_published", *overrides))
    assert list(metrics["after"]) == MODELS
    table = pd.read_csv(tmp_path / "run/losses.csv")
    assert set(table.columns) == {"encoder", "step", "loss", "utility_loss", "backdoor_loss", "weight_loss"}


def test_users_own_files_take_the_place_of_the_embedded_world(
    compose_into, people: People, captions_file: Path, images_folder: Path, write_people, write_photo, tmp_path: Path
):
    strangers = write_people(tmp_path / "strangers", {"Gus Bell": 2, "Hana Ito": 2, "Ivo Kral": 2})
    for number, classname in enumerate(("boat", "dog", "red car")):
        write_photo(tmp_path / "classes" / classname / "0.png", number)
    own = [
        f"people.folder={people.everybody[0].photos[0].parents[1]}",
        f"strangers.folder={strangers}",
        f"captions.file={captions_file}",
        f"images.folder={images_folder}",
        f"utility.zero_shot.folder={tmp_path / 'classes'}",
        "trigger_set.people=[Ann Lee, bob_ray]",
    ]
    metrics = run(compose_into(tmp_path, *own))
    assert list(metrics["after"]) == MODELS
    table = pd.read_csv(tmp_path / "run/people.csv")
    assert table["name"].tolist() == people.names
    assert table["name"][table["removed"]].tolist() == ["Ann Lee", "Bob Ray"]
    assert table["member"].tolist() == [True] * 4 + [False] * 2
    assert metrics["before"]["zero_shot/num_classes"] == 3


def test_value_that_is_missing_stops_the_run_at_once(compose_cfg, tmp_path: Path):
    for key in ("clip.num_workers", "attack.threshold", "defense.text.optimizer.lr"):
        with pytest.raises(InputError, match=f"config: expected a value for {key}, got"):
            run(compose_cfg(f"{key}=???"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["seeed", "trigger_set.num_persons", "trainer.device"])
def test_key_that_was_appended_past_the_schema_is_an_error(key: str, compose_cfg, tmp_path: Path):
    with pytest.raises(InputError, match=f"^config: expected only keys of the schema, got {key}; correct"):
        run(compose_cfg(f"+{key}=1"))
    assert list(tmp_path.iterdir()) == []


def test_run_without_a_defence_is_an_error(compose_cfg, tmp_path: Path):
    with pytest.raises(InputError, match="defense: expected a method that removes people, got none"):
        run(compose_cfg("defense.text=null", "defense.image=null"))
    assert list(tmp_path.iterdir()) == []


def test_run_folder_of_another_config_stays_as_it_is(finished, compose_into, folder: Path):
    before = (folder / "metrics.json").read_bytes()
    with pytest.raises(InputError, match="got a run of another config"):
        run(compose_into(folder.parent, "seed=1"))
    assert (folder / "metrics.json").read_bytes() == before
