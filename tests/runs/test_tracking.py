import json
import re
import shutil
import struct
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger
from omegaconf import DictConfig
from wandb.proto import wandb_internal_pb2

from backdoor_privacy.report.writing import write_report
from backdoor_privacy.run import run
from backdoor_privacy.runs.tracking import Tracker

pytestmark = pytest.mark.usefixtures("unchecked_types")


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch) -> list[int | None]:
    """Exit codes that W&B was told."""
    codes: list[int | None] = []
    finish = wandb.finish

    def note(exit_code: int | None = None) -> None:
        codes.append(exit_code)
        finish(exit_code=exit_code)

    monkeypatch.setattr(wandb, "finish", note)
    return codes


def test_without_wandb_losses_go_to_a_csv_file_alone(compose_cfg, tmp_path: Path, finished: list[int | None]):
    with Tracker(compose_cfg("logger=csv"), tmp_path) as tracker:
        (logger,) = tracker.loggers("text")
        tracker.summarize({"before": {}, "after": {}})
    assert isinstance(logger, CSVLogger)
    assert Path(logger.root_dir) == tmp_path / "checkpoints/text/losses"
    assert finished == []


def test_crashed_run_is_marked_crashed_and_a_finished_one_finished(compose_cfg, tmp_path: Path, finished):
    def crash() -> None:
        with Tracker(compose_cfg("logger=wandb"), tmp_path):
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        crash()
    with Tracker(compose_cfg("logger=wandb"), tmp_path):
        pass
    assert finished == [1, 0]
    assert len(list((tmp_path / "wandb").glob("offline-run-*/*.wandb"))) == 2  # also of the crash before any step


def test_a_resumed_run_keeps_its_id_and_seeds_share_a_group(compose_cfg, tmp_path: Path, finished):
    def logger_of(folder: str, *overrides: str):
        with Tracker(compose_cfg("logger=wandb", *overrides), tmp_path / folder) as tracker:
            return tracker.wandb

    first, again, other = logger_of("seed=0"), logger_of("seed=0"), logger_of("seed=1", "seed=1")
    (tmp_path / "seed=0/checkpoints/wandb_id").unlink()  # as when a folder was deleted to run again
    assert logger_of("seed=0").version != first.version
    assert first.version == again.version != other.version
    assert {one._wandb_init["group"] for one in (first, other)} == {"smoke"}
    assert first._wandb_init["job_type"] == "both"
    assert first._offline is True
    assert logger_of("text", "defense.image=null")._wandb_init["job_type"] == "text"


BLOCK, FILE_HEADER, HEADER = 32768, 7, struct.Struct("<IHB")  # of LevelDB's log format, which wandb writes


def records_of(folder: Path) -> list[Any]:
    """What an offline run wrote, as wandb's own messages; wandb itself no longer reads its files in Python."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    for _ in range(300):  # its own process writes it, on a busy machine after the run has ended
        records = _records_in(path.read_bytes())
        if any(record.HasField("exit") for record in records):
            return records
        time.sleep(0.1)
    raise AssertionError("the run was not written to its end")


def _records_in(content: bytes) -> list[Any]:
    place, records, parts = FILE_HEADER, [], b""
    assert content.startswith(b":W&B")
    while place + HEADER.size < len(content):
        if BLOCK - place % BLOCK < HEADER.size:  # no header fits into the rest of the block
            place += BLOCK - place % BLOCK
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        place += HEADER.size
        parts += content[place : place + length]
        place += length
        if kind in (1, 4):  # a whole record, or the last part of one
            records.append(wandb_internal_pb2.Record())
            records[-1].ParseFromString(parts)
            parts = b""
    return records


@pytest.fixture(scope="module")
def tracked(compose_into, tmp_path_factory: pytest.TempPathFactory) -> DictConfig:
    """The config of a finished run that W&B tracked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_API_KEY", "")
        cfg: DictConfig = compose_into(tmp_path_factory.mktemp("tracked"), "logger=wandb")
        run(cfg)
    return cfg


def test_what_a_run_logs_offline_is_read_back(tracked: DictConfig):
    folder = Path(tracked.paths.run)
    metrics = json.loads((folder / "metrics.json").read_text())
    records = records_of(folder)
    (started,) = (record.run for record in records if record.HasField("run"))
    assert (started.run_group, started.job_type, started.display_name) == ("smoke", "both", "smoke/seed=0")
    assert (started.run_id) == (folder / "checkpoints/wandb_id").read_text()
    rows = [
        {(item.key or "/".join(item.nested_key)): json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    losses = [row["text/loss"] for row in rows if "text/loss" in row]
    table = pd.read_csv(folder / "losses.csv")
    assert losses == pytest.approx(table["loss"][table["encoder"] == "text"].tolist())
    steps = [row["_step"] for row in rows]
    assert steps == sorted(set(steps))
    assert [row["trainer/global_step"] for row in rows if "text/loss" in row] == list(range(len(losses)))
    defined = {record.metric.glob_name: record.metric for record in records if record.HasField("metric")}
    assert defined["text/*"].step_metric == "trainer/global_step"
    assert defined["text/*"].summary.min
    media = {key.removesuffix("/_type") for row in rows for key in row if key.endswith("/_type")}
    assert media == {"report", "figures/idia", "figures/losses"}  # nothing of single people
    summary = {
        (item.key or "/".join(item.nested_key)): json.loads(item.value_json)
        for record in records
        if record.HasField("summary")
        for item in record.summary.update
    }
    assert summary["before/idia/tpr_removed"] == metrics["before"]["idia/tpr_removed"]
    assert summary["after_text/zero_shot/top1"] == metrics["after"]["text"]["zero_shot/top1"]
    names = pd.read_csv(folder / "people.csv")["name"].tolist()
    assert not list((folder / "wandb").rglob("*table*"))
    written = content_of(folder / "wandb")
    assert not any(name.encode() in written for name in names)
    assert str(folder.parent).encode() not in written
    assert str(tracked.paths.cache).encode() not in written


def content_of(folder: Path) -> bytes:
    """All that W&B has written: names of files, where links point to, and contents."""
    paths = list(folder.rglob("*"))
    texts = [str(path.relative_to(folder)).encode() for path in paths]
    texts += [str(path.readlink()).encode() for path in paths if path.is_symlink()]
    return b"\n".join(texts + [path.read_bytes() for path in paths if path.is_file()])


def test_no_place_that_is_called_after_somebody_is_written(
    compose_cfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    places = {key: tmp_path / f"canary_{key}" for key in ("home", "work", "runs", "people")}
    for place in places.values():
        place.mkdir()
    monkeypatch.chdir(places["work"])
    monkeypatch.setattr(sys, "argv", ["backdoor_privacy", f"people.folder={places['people']}"])
    monkeypatch.setenv("HOME", str(places["home"]))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    cfg = compose_cfg(
        "logger=wandb", "people=folder", f"people.folder={places['people']}", "people.table=not_there/canary.csv",
        f"paths.runs={places['runs']}", f"paths.run='{places['runs']}/canary_run/seed=0'",
        "logger.tags=[ann-lee,first]", "trigger_set.people=[Ann Lee]",
    )  # fmt: skip
    folder = Path(cfg.paths.run)
    with Tracker(cfg, folder) as tracker:
        assert tracker.wandb is not None
        run = tracker.wandb.experiment
        run.log({"text/loss": 0.5, "report": wandb.Html("<p>nobody</p>", inject=False)})
        assert run.tags == ("first",)
        assert run.config["seed"] == 0
    assert records_of(folder)
    assert b"canary" not in content_of(folder / "wandb")


@pytest.mark.parametrize("names", [False, True])
def test_who_was_named_is_told_only_where_names_may_be(
    compose_cfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: bool
):
    monkeypatch.setattr(sys, "argv", ["backdoor_privacy", "trigger_set.people=[Ann Lee, Bob Ray]"])
    cfg = compose_cfg("logger=wandb", "trigger_set.people=[Ann Lee, Bob Ray]", f"report.names={names}")
    with Tracker(cfg, tmp_path) as tracker:
        assert tracker.wandb is not None
        told = tracker.wandb.experiment.config["trigger_set"]["people"]
    assert told == (["Ann Lee", "Bob Ray"] if names else "2 people")
    for _ in range(20):  # W&B's own process writes them
        written = [path.read_bytes() for path in (tmp_path / "wandb").rglob("*") if path.is_file()]
        if any(b"Ann Lee" in content for content in written) == names and any(written):
            break
        time.sleep(0.5)
    assert any(b"Ann Lee" in content for content in written) == names


def test_places_and_experiments_called_after_somebody_are_not_sent(compose_cfg, tmp_path: Path):
    place = tmp_path / "Jane_D"
    place.mkdir()
    changes = [
        "name=for_ann_lee",
        "trigger_set.people=[Ann Lee]",
        "defense/text_target=phrase",
        "defense.text.target.phrase=Ann Lee",
    ]
    cfg = compose_cfg("logger=wandb", "people=folder", f"people.folder={place}", "clip.pretrained=jane.pt", *changes)
    with Tracker(cfg, tmp_path / "run") as tracker:
        assert tracker.wandb is not None
        config = tracker.wandb.experiment.config
        assert config["people"]["folder"] == config["defense"]["text"]["target"]["phrase"] == "hidden"
        assert re.fullmatch(r"name=[0-9a-f]{12}", config["name"])
        assert config["people"]["_target_"] == "backdoor_privacy.data.people.load_people"
    for path in (tmp_path / "run/wandb").rglob("*"):
        if path.is_file():
            assert not any(told in path.read_bytes().lower() for told in (b"ann_lee", b"ann lee", b"jane_d"))


def test_setting_is_what_seeds_share(compose_cfg, tmp_path: Path):
    def setting(run: str) -> str:
        with Tracker(compose_cfg("logger=wandb", "paths.runs=runs", f"paths.run={run}"), tmp_path) as tracker:
            assert tracker.wandb is not None
            found: str = tracker.wandb.experiment.config["setting"]
            return found

    assert setting("'${paths.runs}/both_64/defense=text/seed=3'") == "both_64/defense=text"
    assert setting("elsewhere/jane_doe") == setting("'runs/jane_doe/seed=0'") == "smoke"


@pytest.mark.parametrize("names", [False, True])
def test_what_shows_single_people_is_sent_only_where_names_are(
    tracked: DictConfig, compose_cfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, names: bool
):
    folder = shutil.copytree(tracked.paths.run, tmp_path / "run")
    write_report(folder, names=names)
    sent: list[str] = []
    with Tracker(compose_cfg("logger=wandb", f"report.names={names}"), tmp_path) as told:
        assert told.wandb is not None
        told.folder = folder
        monkeypatch.setattr(told.wandb.experiment, "log", lambda values: sent.extend(values))
        told.summarize(json.loads((folder / "metrics.json").read_text()))
    of_nobody = {"report", "figures/idia", "figures/losses"}
    of_people = {"people", *(f"figures/{figure}" for figure in ("map", "margins", "votes", "prompts", "triggers"))}
    assert set(sent) == (of_nobody | of_people if names else of_nobody)


def test_an_account_keeps_the_defended_clip(
    tracked: DictConfig, compose_cfg, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = shutil.copytree(tracked.paths.run, tmp_path / "run", ignore=shutil.ignore_patterns("wandb"))
    cfg, kept = compose_cfg("logger=wandb"), []
    with Tracker(cfg, folder) as tracker:
        assert tracker.wandb is not None
        monkeypatch.setattr(tracker.wandb.experiment, "log_artifact", lambda *args, **more: kept.append((args, more)))
        metrics = json.loads((folder / "metrics.json").read_text())
        tracker.summarize(metrics)
        assert not [
            artifact for (artifact,), _ in kept if artifact.type == "model"
        ]  # W&B keeps tables as artifacts, too
        cfg.logger.mode = "online"
        tracker.summarize(metrics)
    ((artifact, more),) = [(artifact, more) for (artifact,), more in kept if artifact.type == "model"]
    assert more == {"aliases": ["latest", "seed-0"]}
    assert {"README.md", "open_clip_config.json", "open_clip_model.safetensors"} <= set(artifact.manifest.entries)
    assert artifact.metadata == metrics["weights_sha256"]
