import csv
import json
import os
from pathlib import Path

import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from backdoor_privacy.attacks.idia import Evidence, IdiaResult
from backdoor_privacy.data.people import Person
from backdoor_privacy.errors import InputError
from backdoor_privacy.runs.folder import (
    DamagedMetricsError,
    claim_folder,
    claimed_names,
    read_metrics,
    write_losses,
    write_metrics,
    write_people,
    write_text,
)

pytestmark = pytest.mark.usefixtures("unchecked_types")

NO_EVIDENCE = Evidence(torch.empty(0, 0, dtype=torch.long), torch.empty(0), torch.empty(0, 0), torch.empty(0, 0))


def test_file_is_written_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "new/metrics.json"
    write_text(path, "first")
    assert path.read_text() == "first"
    seen: list[str] = []

    def fail(draft: str, target: Path) -> None:
        seen.extend([Path(draft).read_text(), Path(target).read_text()])
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="power cut"):
        write_text(path, "second")
    assert seen == ["second", "first"]  # the draft was complete before the old file would have gone
    assert path.read_text() == "first"


def test_metrics_are_read_as_written(tmp_path: Path):
    assert read_metrics(tmp_path) is None
    write_metrics(tmp_path, {"seed": 3, "before": {"idia/fpr": 0.25}})
    assert read_metrics(tmp_path) == {"schema": 1, "seed": 3, "before": {"idia/fpr": 0.25}}
    assert json.loads((tmp_path / "metrics.json").read_text())["schema"] == 1


def test_metrics_of_another_schema_are_an_error(tmp_path: Path):
    (tmp_path / "metrics.json").write_text('{"schema": 2}')
    with pytest.raises(InputError, match="expected schema 1, got 2"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("content", [b"", b'{"schema": 1, "seed', b"\xff\xfe\0", b"[1]", b"[" * 100_000, bytes(50)])
def test_metrics_that_do_not_read_are_told_in_one_line(tmp_path: Path, content: bytes):
    (tmp_path / "metrics.json").write_bytes(content)
    with pytest.raises(DamagedMetricsError, match=r"^[^\n]*metrics\.json: expected .*start the run again[^\n]*$"):
        read_metrics(tmp_path)


def test_config_that_does_not_read_names_nobody(tmp_path: Path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra/config.yaml").write_bytes(b"\xff\xfe\0garbage")
    write_text(tmp_path / "checkpoints/config.yaml", "seed: 0\n# removes Ann Lee\n")
    assert claimed_names(tmp_path) == ["Ann Lee"]


def test_people_table_has_everybody_before_and_after(tmp_path: Path):
    people = [Person("Ann Lee", (), True), Person("Bob, the Ray", (), None), Person("José Núñez", (), False)]
    names = [person.name for person in people]
    before = IdiaResult(names, [21, 0, 2], [20, 19, 0], threshold=2, evidence=NO_EVIDENCE)
    after = {
        "text": IdiaResult(names, [0, 0, 3], [20, 19, 0], threshold=2, evidence=NO_EVIDENCE),
        "both": IdiaResult(names, [1, 2, 0], [20, 19, 0], threshold=2, evidence=NO_EVIDENCE),
    }
    write_people(tmp_path, people, people[:1], before, after)
    with (tmp_path / "people.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == [
        *("name", "member", "removed", "num_photos", "correct_prompts_before", "inferred_before"),
        *("correct_prompts_text", "inferred_text", "correct_prompts_both", "inferred_both"),
    ]
    assert rows == [
        ["Ann Lee", "True", "True", "20", "21", "True", "0", "False", "1", "False"],
        ["Bob, the Ray", "", "False", "19", "0", "False", "0", "False", "2", "True"],
        ["José Núñez", "False", "False", "0", *[""] * 6],  # no photo could be read, so nothing was measured
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["people.csv"]


def write_log(folder: Path, encoder: str, version: int, losses: dict[int, float]) -> None:
    path = folder / f"checkpoints/{encoder}/losses/version_{version}/metrics.csv"
    path.parent.mkdir(parents=True)
    columns = {"step": list(losses), f"{encoder}/loss": list(losses.values())}
    pd.DataFrame(columns).to_csv(path, index=False)


def test_losses_of_resumed_fits_are_joined(tmp_path: Path):
    # Steps that were done again after a restart count once, as done last; version 10 comes after version 2.
    write_log(tmp_path, "text", 0, {0: 0.0, 1: 0.1, 2: 0.2, 3: 0.3})
    write_log(tmp_path, "text", 2, {2: 2.2, 3: 2.3, 4: 2.4})
    write_log(tmp_path, "text", 10, {4: 10.4, 5: 10.5})
    write_log(tmp_path, "image", 0, {0: 7.0})
    (tmp_path / "checkpoints/text/losses/version_11").mkdir()  # a fit that had nothing left to do
    write_losses(tmp_path, ["text", "image"])
    table = pd.read_csv(tmp_path / "losses.csv")
    assert table.columns.tolist() == ["encoder", "step", "loss"]
    assert table["encoder"].tolist() == ["text"] * 6 + ["image"]
    assert table["step"].tolist() == [0, 1, 2, 3, 4, 5, 0]
    assert table["loss"].tolist() == [0.0, 0.1, 2.2, 2.3, 10.4, 10.5, 7.0]


@pytest.mark.parametrize("cut", [0, 12, 22, 30])
def test_losses_that_a_kill_cut_off_are_those_of_the_resumed_fit(tmp_path: Path, cut: int):
    first, second = (tmp_path / f"checkpoints/text/losses/version_{number}/metrics.csv" for number in (0, 1))
    write_text(first, "step,text/loss\r\n0,0.5\r\n1,0.25\r\n"[:cut])
    write_text(second, "step,text/loss\r\n0,0.5\r\n1,0.25\r\n2,0.125\r\n")
    write_losses(tmp_path, ["text"])
    table = pd.read_csv(tmp_path / "losses.csv")
    assert table["step"].tolist() == [0, 1, 2]
    assert table["loss"].tolist() == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("encoders", [[], ["text"], ["text", "image"]])
def test_defences_that_logged_nothing_have_no_losses(tmp_path: Path, encoders: list[str]):
    write_text(tmp_path / "checkpoints/text/losses/version_0/metrics.csv", "")
    write_losses(tmp_path, encoders)
    assert not (tmp_path / "losses.csv").exists()


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A run folder that holds a checkpoint."""
    write_text(tmp_path / "checkpoints/text/last.ckpt", "")
    return tmp_path


def test_folder_in_which_nothing_was_done_yet_is_free(compose_cfg, tmp_path: Path):
    claim_folder(tmp_path, compose_cfg())
    claim_folder(tmp_path, compose_cfg("seed=1"))
    assert OmegaConf.load(tmp_path / ".hydra/config.yaml").seed == 1


def test_folder_belongs_to_one_list_of_people(compose_cfg, begun: Path):
    cfg = compose_cfg("trigger_set.file=people.txt")
    claim_folder(begun, cfg, ["Ann Lee"])
    claim_folder(begun, cfg, ["Ann Lee"])
    with pytest.raises(InputError, match="got a run of another config"):
        claim_folder(begun, cfg, ["Ann Lee", "Bob Ray"])


def test_config_of_a_run_stays_when_another_one_is_refused(compose_cfg, begun: Path):
    claim_folder(begun, compose_cfg())
    with pytest.raises(InputError, match="got a run of another config"):
        claim_folder(begun, compose_cfg("seed=1"))
    assert OmegaConf.load(begun / ".hydra/config.yaml").seed == 0


def test_folder_belongs_to_one_config(compose_cfg, begun: Path):
    claim_folder(begun, compose_cfg())
    claim_folder(begun, compose_cfg())
    for elsewhere in ("trainer.num_workers=3", "logger=wandb", "paths.runs=elsewhere"):
        claim_folder(begun, compose_cfg(elsewhere))
    for other in ("seed=1", "defense.text.num_steps=7", "attack.num_candidates=31", "trigger_set.num_people=3"):
        with pytest.raises(InputError, match="expected a new folder or one of the same config"):
            claim_folder(begun, compose_cfg(other))
    claim_folder(begun, compose_cfg())
