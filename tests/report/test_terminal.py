import pytest

from backdoor_privacy.report.terminal import print_table


def test_table_shows_before_and_after_with_counts(capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    entry = {"idia/tpr_removed": 1.0, "idia/num_tpr_removed": 64.0, "zero_shot/top1": 0.9125}
    after = {"text": entry | {"idia/tpr_removed": 0.25}, "both": entry | {"idia/tpr_removed": 0.0}}
    metrics = {"experiment": "both_64", "seed": 3, "before": entry, "after": after}
    print_table(metrics, "runs/both_64/seed=3")
    rows = [[part.strip() for part in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()]
    rows = [row for row in rows if row]
    assert ["removed people inferred by IDIA", "1.000 of 64", "0.250 of 64", "0.000 of 64"] in rows
    assert ["zero-shot top-1 accuracy", "0.912", "0.912", "0.912"] in rows
    assert ["never-seen people inferred by IDIA", "-", "-", "-"] in rows


def test_table_ends_with_the_folder(capsys: pytest.CaptureFixture[str]):
    folder = "runs/" + "a long name/" * 20 + "seed=0"
    print_table({"experiment": "smoke", "seed": 0, "before": {}, "after": {"both": {}}}, folder)
    assert capsys.readouterr().out.splitlines()[-1] == f"Results: {folder}"
