import sys
from math import isnan
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf

from backdoor_privacy.attacks.record import write_scores
from backdoor_privacy.collect import main
from backdoor_privacy.errors import InputError
from backdoor_privacy.report.collected import collect
from backdoor_privacy.report.figures.runs import pareto_figure, people_figure
from backdoor_privacy.runs.folder import read_metrics, write_metrics
from backdoor_privacy.runs.sweeps import recorded_sweep
from backdoor_privacy.system.files import write_text

pytestmark = pytest.mark.usefixtures("unchecked_types")

ENTRY = {
    "idia/num_tpr_removed": 4.0,
    "idia/tpr_removed": 1.0,
    "idia/num_tpr_kept": 6.0,
    "idia/tpr_kept": 0.75,
    "idia/wrongly_unlearned": 0.0,
    "idia/fpr": 0.25,
    "zero_shot/top1": 0.9,
}


def write_run(
    folder: Path, seed: int, *, experiment: str = "both_4", drop: tuple[str, ...] = (), **after: float
) -> None:
    write_text(folder / "checkpoints/config.yaml", "seed: 0\n")
    before = {key: value for key, value in ENTRY.items() if key not in drop}
    both = {**before, **{key.replace("__", "/"): value for key, value in after.items()}}
    metrics: dict[str, Any] = {"experiment": experiment, "seed": seed, "before": before, "after": {"both": both}}
    write_metrics(folder, {**metrics, "seconds": {"load": 1.5, "write": 2.0}, "versions": {"commit": "abc"}})


def test_every_model_of_every_finished_run_has_a_row(tmp_path: Path):
    write_run(tmp_path / "both_4/seed=0", 0, idia__tpr_removed=0.0, idia__tpr_kept=0.5, zero_shot__top1=0.85)
    write_run(tmp_path / "both_4/seed=1", 1, idia__tpr_removed=0.5)
    write_text(tmp_path / "both_4/seed=2/checkpoints/config.yaml", "seed: 2\n")
    rows, failed = collect(tmp_path)
    assert failed == [f"not finished: {tmp_path / 'both_4/seed=2'}"]
    assert rows["seed"].tolist() == [0, 1]
    first = rows.iloc[0].to_dict()
    assert (first["experiment"], first["model"], first["commit"]) == ("both_4", "both", "abc")
    assert first["run"] == "both_4/seed=0"
    assert first["seconds"] == 3.5
    assert (first["tpr_removed"], first["fpr"]) == (0.0, 0.25)
    assert first["tpr_kept_loss"] == pytest.approx(0.25)
    assert first["zero_shot_top1_loss"] == pytest.approx(0.05)


@pytest.mark.parametrize(
    "content", [b'{"schema": 1, "sec', b"", b"\xff\xfe", b'{"schema": 1, "seconds": "long", "findings": []}']
)
@pytest.mark.parametrize("file", ["metrics.json", "attacks/probe.json", ".hydra/config.yaml"])
def test_odd_run_is_named_by_its_file_and_the_others_are_collected(
    tmp_path: Path, file: str, content: bytes, capsys: pytest.CaptureFixture[str]
):
    for seed in range(2):
        write_run(tmp_path / f"both_4/seed={seed}", seed)
    write_scores(tmp_path / "both_4/seed=1/attacks/probe.json", "x", [], 1.0)
    odd = tmp_path / "both_4/seed=1" / file
    odd.parent.mkdir(exist_ok=True)
    odd.write_bytes(content)
    assert main([str(tmp_path)]) == 0
    rows, failed = collect(tmp_path)
    if file == ".hydra/config.yaml":  # nothing in a table is read from it
        assert (rows["seed"].tolist(), failed) == ([0, 1], [])
        return
    assert rows["seed"].tolist() == [0]
    (line,) = failed
    assert line.startswith(f"broken: {odd}: expected ")
    assert "\n" not in line
    assert line in capsys.readouterr().out


def test_seconds_are_with_those_of_the_attacks(tmp_path: Path):
    write_run(tmp_path / "both_4/seed=0", 0)
    for name, seconds in (("probe", 10.0), ("erased", 0.5)):
        write_scores(tmp_path / f"both_4/seed=0/attacks/{name}.json", "x", [], seconds)
    assert collect(tmp_path)[0]["seconds"].tolist() == [14.0]


def test_recalls_are_in_the_rows_of_runs_that_measured_them(tmp_path: Path):
    write_run(tmp_path / "both_4/seed=0", 0)
    write_run(tmp_path / "both_4/seed=1", 1, retrieval__image_to_text_r1=0.5, retrieval__text_to_image_r1=0.75)
    metrics = read_metrics(tmp_path / "both_4/seed=1")
    metrics["before"] |= {"retrieval/image_to_text_r1": 0.75, "retrieval/text_to_image_r1": 0.625}
    write_metrics(tmp_path / "both_4/seed=1", metrics)
    names = ["image_to_text_r1", "image_to_text_r1_loss", "text_to_image_r1", "text_to_image_r1_loss"]
    without, measured = collect(tmp_path)[0][names].to_numpy().tolist()
    assert all(map(isnan, without))
    assert measured == [0.5, 0.25, 0.75, -0.125]


def test_rates_over_nobody_are_left_empty(tmp_path: Path):
    write_run(tmp_path / "both_4/seed=0", 0, drop=("idia/fpr", "idia/tpr_kept"))
    (row,) = collect(tmp_path)[0].to_dict("records")
    assert isnan(row["fpr"])
    assert isnan(row["tpr_kept_loss"])
    assert row["tpr_removed"] == 1.0


def test_command_prints_means_over_seeds_and_writes_every_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    for seed, rate in enumerate((0.0, 0.5)):
        write_run(tmp_path / f"both_4/seed={seed}", seed, idia__tpr_removed=rate)
    write_text(tmp_path / "both_4/seed=2/checkpoints/config.yaml", "seed: 2\n")
    # A job that failed before it did anything has only its log.
    write_text(tmp_path / "both_4/seed=3/backdoor_privacy.log", "10:00:00 The run failed\nValueError: no luck\n\n")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["collect", str(tmp_path)])
    main()
    printed = capsys.readouterr().out
    assert "0.25" in printed
    lines = [line.rstrip() for line in printed.splitlines() if "not finished" in line]
    assert len(lines) == 2
    assert lines[0].endswith("both_4/seed=2")
    assert lines[1].endswith("both_4/seed=3: ValueError: no luck")
    assert len(pd.read_csv(tmp_path / "collected.csv")) == 2
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        *("pareto.svg", "pareto.png")  # one number of people is no line
    }


def test_runs_of_other_overrides_are_not_averaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_run(tmp_path / "both_4/seed=0", 0, idia__tpr_removed=0.125)
    write_run(tmp_path / "both_4/defense=image/seed=0", 0, idia__tpr_removed=0.625)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["collect", str(tmp_path)])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert [("defense=image" in line) for line in lines if "0.125" in line or "0.625" in line] == [False, True]
    assert not [line for line in lines if "0.375" in line]


def test_bad_runs_do_not_stop_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    write_run(tmp_path / "both_4/seed=0", 0, experiment="both[/4]")
    for number, text in enumerate(("{", "[]", '{"schema": 1}', '{"schema": 7}', "\udcff")):
        write_run(tmp_path / f"bad/{number}", 0)
        (tmp_path / f"bad/{number}/metrics.json").write_text(text, errors="surrogateescape")
    write_run(tmp_path / "bad/5", 0)
    write_text(tmp_path / "bad/5/attacks/probe.json", "{}")
    rows, failed = collect(tmp_path)
    assert len(rows) == 1
    broken = "expected the measures of a finished run"
    told = [broken, broken, broken, "expected schema 1, got 7", broken, "expected scores of an attack, got a broken"]
    assert len(failed) == 6
    for number, line in enumerate(failed):
        assert line.startswith(f"broken: {tmp_path}/bad/{number}")
        assert told[number] in line
    monkeypatch.setattr(sys, "argv", ["collect", str(tmp_path)])
    main()  # exit code 0
    assert [line for line in capsys.readouterr().out.splitlines() if "broken" in line] == failed


def test_brackets_and_colons_of_folders_and_logs_are_printed_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    folder = tmp_path / "[von dutch]"
    write_run(folder / "both_4/[a, b]/seed=0", 0)
    write_text(folder / "both_4/seed=1/backdoor_privacy.log", "expected a folder, got [/data/x] [a, b] :smile:\n")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["collect", str(folder)])
    main()
    printed = capsys.readouterr().out
    assert f"not finished: {folder}/both_4/seed=1: expected a folder, got [/data/x] [a, b] :smile:\n" in printed
    assert "both_4/[a, b] " in printed
    assert "[von dutch]/collected.csv" in " ".join(printed.split())


def test_missing_runs_of_a_sweep_are_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    first, *others = recorded_sweep("names")
    write_run(tmp_path / "names_1/seed=0", 0)
    write_text(tmp_path / "names_1/seed=0/.hydra/overrides.yaml", OmegaConf.to_yaml(first))
    monkeypatch.setattr(sys, "argv", ["collect", str(tmp_path)])
    main()
    shown = "; ".join(" ".join(job) for job in others[:3])
    assert f"missing of names: {len(others)} runs: {shown}; ...\n" in capsys.readouterr().out


def test_folder_without_runs_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(InputError, match="expected run folders in it, found none"):
        collect(tmp_path)
    monkeypatch.setattr(sys, "argv", ["collect", str(tmp_path)])
    assert main() == 1


def test_figures_show_means_and_ranges_over_seeds(tmp_path: Path):
    for seed, rate in enumerate((0.25, 0.75)):
        for size in (2, 8):
            run = tmp_path / f"names_{size}/seed={seed}"
            write_run(run, seed, idia__tpr_removed=rate / size, idia__tpr_kept=0.5, idia__num_tpr_removed=float(size))
    rows, _ = collect(tmp_path)
    figure = people_figure(rows, [""] * len(rows))
    before, after = figure.subfigs[0].axes[0].get_lines()
    assert list(before.get_ydata()) == [1.0, 1.0]
    assert (list(after.get_xdata()), list(after.get_ydata())) == ([2, 8], [0.25, 0.0625])
    (band,) = figure.subfigs[0].axes[0].collections
    low, high = band.get_paths()[0].get_extents().get_points()[:, 1]
    assert (low, high) == (0.25 / 8, 0.75 / 2)
    kept, zero_shot = pareto_figure(rows).axes
    points = sorted(tuple(point) for point in kept.collections[0].get_offsets().tolist())
    assert points == [(0.0625, 0.25), (0.25, 0.25)]
    assert {text.get_text() for text in zero_shot.texts} == {"1", "2"}
    assert pareto_figure(rows).legends[-1].get_title().get_text() == "1 both_4/names_2\n2 both_4/names_8"


def test_lines_are_of_runs_that_differ_in_people_and_seeds_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    settings = [
        ("names", ""),
        ("names", "defense=text_published"),
        ("faces", ""),
        ("faces", "trigger_set.num_people=16"),
    ]
    for number, (family, overrides) in enumerate(settings):
        for size in (2, 8) if "num_people" not in overrides else (16,):
            name = f"{family}_{size}" if size < 16 else f"{family}_2"
            folder = tmp_path / name / overrides / "seed=0"
            sizes = {"idia__num_tpr_removed": float(size), "idia__tpr_removed": number / 4}
            write_run(folder, 0, experiment=name, **sizes)
    # Neither an experiment with settings of its own nor a setting with one number of people makes a line.
    write_run(tmp_path / "faces_500/seed=0", 0, experiment="faces_500", idia__num_tpr_removed=500.0)
    write_run(tmp_path / "names_8/defense=hardened/seed=0", 0, experiment="names_8", idia__num_tpr_removed=8.0)
    drawn = []
    monkeypatch.setattr(
        "backdoor_privacy.report.collected.people_figure",
        lambda *given: drawn.append(people_figure(*given)) or drawn[-1],
    )
    monkeypatch.setattr(sys, "argv", ["collect", str(tmp_path)])
    main()
    (figure,) = drawn
    lines = {part.axes[0].get_title(loc="left"): part.axes[0].get_lines()[1] for part in figure.subfigs}
    found = {title: (list(line.get_xdata()), list(line.get_ydata())) for title, line in lines.items()}
    assert found == {
        "names": ([2, 8], [0.0, 0.0]),
        "names/defense=text_published": ([2, 8], [0.25, 0.25]),
        "faces": ([2, 8, 16], [0.5, 0.5, 0.75]),
    }
    assert (tmp_path / "figures/people.png").is_file()
