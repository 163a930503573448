"""Record the versions of the software."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_PACKAGES = ("backdoor_privacy", "torch", "torchvision", "lightning", "hydra-core", "omegaconf", "open_clip_torch",
             "torchmetrics", "webdataset", "wandb", "numpy", "pillow", "Faker")  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of Python and packages, the platform and the commit of a run."""
    software = {"python": platform.python_version(), "platform": platform.platform(), "commit": _commit()}
    for package in _PACKAGES:
        try:
            software[package] = version(package)
        except PackageNotFoundError:
            software[package] = "not installed"
    return software


def _commit() -> str:
    """Return the commit of the checkout; `unknown` for an installed package, which may lie in another checkout."""
    root = Path(__file__).resolve().parents[2]
    if not _is_ours(root):
        return "unknown"
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=_env_of_git()).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _is_ours(root: Path) -> bool:
    """Return whether a folder is the top of a checkout of this project."""
    project = root / "pyproject.toml"
    return (root / ".git").exists() and project.is_file() and 'name = "backdoor_privacy"' in project.read_text("utf-8")


def _env_of_git() -> dict[str, str]:
    """Return the environment without the variables of Git: those of a hook point to another repository."""
    return {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
