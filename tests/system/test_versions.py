import subprocess
from pathlib import Path

import pandas as pd
import pytest

from backdoor_privacy.system import versions as module
from backdoor_privacy.system.versions import versions


def test_versions_name_everything_that_figures_depend_on(monkeypatch: pytest.MonkeyPatch):
    found = versions()
    assert {"python", "platform", "commit", "torch", "lightning", "open_clip_torch", "torchmetrics"} <= set(found)
    assert found["torch"].split("+")[0] == pd.Series([found["torch"]]).str.extract(r"([\d.]+)")[0][0]
    monkeypatch.setenv("PATH", "")  # no git
    assert versions()["commit"] == "unknown"


@pytest.mark.parametrize("place", ["lib/site-packages", "."])
def test_the_commit_of_another_project_is_not_recorded(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The package is installed within another project's checkout, or copied into it."""
    ours = versions()["commit"]

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.com"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    (tmp_path / "pyproject.toml").write_text('[project]\nname = "another"\n')
    git("init")
    git("add", "pyproject.toml")
    git("commit", "-m", "Begin")
    file = tmp_path / place / "backdoor_privacy/system/versions.py"
    file.parent.mkdir(parents=True)
    file.touch()
    monkeypatch.setattr(module, "__file__", str(file))
    assert versions()["commit"] == "unknown"
    monkeypatch.undo()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))  # as in a hook of the other project
    assert versions()["commit"] == ours
