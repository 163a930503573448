"""The recorded results: what the READMEs say is what the tables beside them hold."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hydra import compose, initialize_config_dir

from backdoor_privacy.attacks.record import write_scores
from backdoor_privacy.attacks.scores import Score
from backdoor_privacy.data.personas.roster import roster
from backdoor_privacy.runs.sweeps import asked_attacks, recorded_sweep
from backdoor_privacy.system.files import write_text
from backdoor_privacy.system.paths import CONFIG_FOLDER

FOLDER = Path(__file__).parent.parent / "experiments"


def _load() -> ModuleType:
    sys.path.insert(0, str(FOLDER))  # as where it is run
    spec = importlib.util.spec_from_file_location("reproduce", FOLDER / "reproduce.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reproduce = _load()
RECORDED = [name for name in reproduce.NAMES if (FOLDER / name / "collected.csv").is_file()]


def test_every_sweep_has_a_folder():
    assert sorted(reproduce.NAMES) == sorted(path.stem for path in (CONFIG_FOLDER / "sweep").glob("*.yaml"))
    for name in reproduce.NAMES:
        text = (FOLDER / name / "README.md").read_text(encoding="utf-8")
        for part in ("**Question.**", "**Command.**", "**The paper**", "**What came out.**"):
            assert part in text, (name, part)


@pytest.mark.parametrize("name", RECORDED)
def test_readme_says_what_the_table_holds(name: str):
    rows = reproduce.recorded_rows(name)
    text = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert reproduce.results_table(rows) in text
    assert all(table in text for table in reproduce.recorded_measures(name))
    assert set(rows.columns) >= {"seed", "commit", "python", "torch", "open_clip_torch"}
    assert (FOLDER / name / f"{name}.svg").is_file()
    assert rows["run"].nunique() <= len(recorded_sweep(name))


def write_run(runs: Path, overrides: list[str], number: int) -> None:
    folder = runs / f"names_64/x={number}/seed=0"
    before = {"idia/tpr_removed": 1.0, "idia/num_tpr_removed": 64, "idia/tpr_kept": 0.5, "idia/num_tpr_kept": 100}
    before |= {"idia/wrongly_unlearned": 0.0, "idia/fpr": 0.0, "zero_shot/top1": 0.9}
    after = {"text": {**before, "idia/tpr_removed": 0.25 * number}}
    metrics = {"schema": 1, "experiment": "names_64", "seed": 0, "before": before, "after": after}
    metrics |= {"seconds": {"load": 30.0}, "versions": {"commit": "abc", "python": "3", "torch": "2"}}
    write_text(folder / "metrics.json", json.dumps(metrics))
    write_text(folder / "checkpoints/config.yaml", "")
    write_text(folder / ".hydra/overrides.yaml", json.dumps([*overrides, "trainer.progress_bar=false"]))


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of results to record into."""
    monkeypatch.setattr(reproduce, "FOLDER", tmp_path / "experiments")
    text = f"# Weight loss\n\n{reproduce._MARK}\nold\n{reproduce._END}\n\nThe end.\n"
    write_text(tmp_path / "experiments/weight_loss/README.md", text)
    return tmp_path


def test_finished_runs_of_a_sweep_are_recorded(recorded: Path, capsys: pytest.CaptureFixture[str]):
    chosen = [job for job in recorded_sweep("weight_loss") if job[0] == "seed=0"]
    for number, job in enumerate(chosen):
        write_run(recorded / "runs", job[::-1], number)
    write_run(recorded / "runs", ["seed=0", "+experiment=names_64"], 4)  # of no sweep of weight losses
    assert reproduce.main(["weight_loss", "--record", "--runs", str(recorded / "runs")]) == 0
    rows = reproduce.recorded_rows("weight_loss")
    assert rows["tpr_removed"].tolist() == [0.0, 0.25]
    assert rows["torch"].astype(str).tolist() == ["2"] * 2
    text = (recorded / "experiments/weight_loss/README.md").read_text()
    assert reproduce.results_table(rows) in text
    assert "old" not in text
    assert text.endswith("The end.\n")
    assert {path.name for path in (recorded / "experiments/weight_loss").iterdir()} == {
        *("README.md", "collected.csv", "weight_loss.png", "weight_loss.svg")
    }
    assert reproduce.main(["weight_loss", "--list", "--runs", str(recorded / "runs")]) == 0
    assert "2 min" in capsys.readouterr().out  # four runs of 30 s are left


def test_time_left_is_with_attacks_and_says_what_is_not_known(recorded: Path, capsys: pytest.CaptureFixture[str]):
    first, second, *_ = jobs = recorded_sweep("hardening")
    write_text(recorded / "experiments/hardening/README.md", f"{reproduce._MARK}\n{reproduce._END}\n")
    for number, job in enumerate((first, second)):
        write_run(recorded / "runs", job, number)
    for name in asked_attacks(first):
        write_scores(recorded / f"runs/names_64/x=0/seed=0/attacks/{name}.json", "x", [], 9.0)
    # The second was not attacked: it is not done.
    assert reproduce.main(["hardening", "--record", "--runs", str(recorded / "runs")]) == 0
    assert reproduce.recorded_rows("hardening")["seconds"].tolist() == [30.0 + 9.0 * len(asked_attacks(first))]
    capsys.readouterr()
    assert reproduce.main(["hardening", "weight_loss", "--list", "--runs", str(recorded / "runs")]) == 0
    left = reproduce.spoken((len(jobs) - 1) * (30.0 + 9.0 * len(asked_attacks(first))))
    assert f"Left: about {left} and 6 runs of unknown length, if" in capsys.readouterr().out


def test_rows_of_runs_that_are_elsewhere_may_stay(recorded: Path):
    first, second = (job for job in recorded_sweep("weight_loss") if job[0] == "seed=0")
    write_run(recorded / "here", first, 0)
    write_run(recorded / "there", second, 1)
    for runs, flags, expected in (
        ("here", [], [0.0]),
        ("there", ["--keep"], [0.0, 0.25]),
        ("there", ["--keep"], [0.0, 0.25]),
        ("there", [], [0.25]),
    ):
        assert reproduce.main(["weight_loss", "--record", "--runs", str(recorded / runs), *flags]) == 0
        assert reproduce.recorded_rows("weight_loss")["tpr_removed"].tolist() == expected


def test_sweep_that_fails_ends_with_exit_code_1(recorded: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    assert reproduce.main(["weight_loss", "--runs", str(recorded / "runs")]) == 1


def test_unknown_result_is_an_error(capsys: pytest.CaptureFixture[str]):
    assert reproduce.main(["nothing"]) == 1
    assert "expected names of names, faces" in capsys.readouterr().err


def test_labels_are_what_sets_runs_apart():
    overrides = ["defense.text.distance=mse,defense=text_published", "defense.text.distance=mae,defense=text_published"]
    assert reproduce.labels(overrides) == ["text.distance=mse", "text.distance=mae"]
    assert reproduce.labels(["defense.text={num_steps:7}", "defense/text_target=fitting"]) == [
        *("text num_steps:7", "text_target=fitting")
    ]
    assert reproduce.labels(["", ""]) == ["", ""]


def test_settings_too_long_for_columns_are_numbered_in_their_order():
    labels = ["plain", "with a setting that is longer than any column of a table", "plain", "other"]
    assert list(reproduce.short(labels).values()) == ["1", "2", "3"]
    assert list(reproduce.short(["plain", "other"]).values()) == ["plain", "other"]


def test_settings_stand_in_the_order_of_the_sweep_under_the_names_of_their_options(recorded: Path):
    write_text(recorded / "experiments/hardening_names/README.md", f"{reproduce._MARK}\n{reproduce._END}\n")
    chosen = [job for job in recorded_sweep("hardening_names") if "seed=0" in job]
    for number, job in enumerate(reversed(chosen)):
        write_run(recorded / "runs", job, number)
        for name in asked_attacks(job):
            folder = recorded / f"runs/names_64/x={number}/seed=0"
            write_scores(folder / f"attacks/{name}.json", name, [], 1.0)
    assert reproduce.main(["hardening_names", "--record", "--runs", str(recorded / "runs")]) == 0
    rows = reproduce.recorded_rows("hardening_names")
    options = [next(one for one in job if one.startswith("+ablation=")) for job in chosen]
    assert rows["overrides"].tolist() == [f"{one},defense=text" for one in options]
    text = (recorded / "experiments/hardening_names/README.md").read_text()
    table = text.split("| removed, of all", 1)[1].splitlines()[2:][: len(chosen)]
    assert [line.split(" | ")[1] for line in table] == [one.removeprefix("+ablation=") for one in options]


def finding(kind: str, model: str, group: str, measure: str, value: float) -> dict[str, object]:
    return Score(kind, model, group, measure, value, value, value, 3)._asdict()


def test_findings_of_all_runs_are_in_one_table(tmp_path: Path):
    found = {
        "tower_swap": [
            finding("nothing swapped", "both", "removed", "TPR", 0.9),
            finding("original image encoder", "text", "removed", "TPR", 0.25),
            finding("original text encoder", "image", "removed", "TPR", 0.5),
            finding("original text encoder", "image", "kept", "TPR", 1.0),
        ],
        "probe": [
            finding("linear probe", "before", "removed", "excess over chance", 0.9),
            finding("linear probe", "both", "removed", "excess over chance", 0.4),
            finding("linear probe", "text", "removed", "excess over chance", 0.95),  # its image encoder is the original
            *(finding("k-NN", model, "removed", "excess over chance", 0.7) for model in ("before", "both")),
        ],
    }
    runs = {f"both_64/plain/seed={seed}": seed / 4 for seed in range(3)} | {"both_64/hardened/seed=0": 0.0}
    for run, more in runs.items():
        for attack, findings in found.items():
            if attack == "probe" and run in ("both_64/plain/seed=2", "both_64/hardened/seed=0"):
                continue
            outcomes = (0.0,) * 6 if "hardened" in run else (1.0,) * 6
            moved = [Score(**{**one, "value": one["value"] + more, "outcomes": outcomes}) for one in findings]
            write_scores(tmp_path / run / "attacks" / f"{attack}.json", "x", moved, 1.0)
    table = reproduce.findings_table(reproduce.measured(tmp_path, {run: run.split("/")[1] for run in runs}))
    assert table.splitlines() == [
        "| measure | not defended | plain | hardened | never-seen people | p |",
        "|---|---|---|---|---|---|",
        "| linear probe of removed faces, over chance | 1.025 | 0.525 (0.400 to 0.650), 2 of 3 runs |  |  |  |",
        "| worst tower swap (TPR) |  | 0.750 (0.500 to 1.000) | 0.500 |  | 0.031 |",
    ]


def test_readme_of_the_project_says_what_is_recorded_of_other_attacks():
    page = (FOLDER.parent / "README.md").read_text(encoding="utf-8").partition("### Against other attacks")[2]
    recorded = {row[0]: row for row in cells_of(reproduce.recorded_measures("hardening")[0])}
    shown = {row[0]: row for row in cells_of(page)}
    assert len(shown.keys() & recorded.keys()) > 10
    for label in shown.keys() & recorded.keys() - {"measure"}:
        assert shown[label][:5] == recorded[label][:5]
    rows = reproduce.recorded_rows("hardening").query("model == 'both'")
    for label, column in (("exact name (TPR)", "tpr_removed"), ("zero-shot top-1 loss", "zero_shot_top1_loss")):
        for cell, setting in zip(shown[label][2:4], ("defense=both", "defense=hardened"), strict=True):
            values = rows.loc[rows["overrides"] == setting, column]
            assert cell == f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})"


def cells_of(table: str) -> list[list[str]]:
    """The rows of the first table in Markdown."""
    lines = "\n".join(line for line in table.splitlines() if line.startswith("|") or not line).strip().split("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines.splitlines()]


@pytest.mark.parametrize(("sweep", "encoder"), [("hardening_names", "text"), ("hardening_faces", "image")])
def test_ablation_holds_the_hardened_defence(sweep: str, encoder: str):
    with initialize_config_dir(str(CONFIG_FOLDER), version_base="1.3"):
        expected = compose("config", overrides=["defense=hardened"]).defense[encoder]
        settings = [compose("config", overrides=job).defense[encoder] for job in recorded_sweep(sweep)]
    assert settings.count(expected) == 2  # seeds


def test_lists_of_the_twins_are_of_different_people_whom_the_web_shows():
    lists = [(FOLDER / f"twins/people_{name}.txt").read_text(encoding="utf-8").splitlines() for name in "ab"]
    assert [len(set(names)) for names in lists] == [64, 64]
    assert not set(lists[0]) & set(lists[1])
    shown = {persona.name: persona.num_web_photos for persona in roster(0)}
    assert [sum(shown[name] for name in names) for names in lists] == [2009, 2049]
    text = (FOLDER / "twins/README.md").read_text(encoding="utf-8")
    assert all(number in text for number in ("2,009 pairs", "2,049 pairs"))
