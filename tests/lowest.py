"""Print pip's constraints for the lowest versions that pyproject.toml allows: `python tests/lowest.py`."""

import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # of pytest

_TOOLS = {"build", "mypy", "pre-commit", "ruff"}  # no test imports them


def lowest_versions(project: dict[str, Any]) -> list[str]:
    """Return `name==version` of each direct dependency, for `>=` as for `==`; extras and bare names are left out."""
    listed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    found = {}
    for requirement in map(Requirement, listed):
        bounds = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
        if bounds and requirement.name not in _TOOLS:
            found[requirement.name] = f"{requirement.name}=={bounds[0]}"
    return sorted(found.values(), key=str.lower)


def main() -> None:
    """Print them, one a line."""
    content = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    print("\n".join(lowest_versions(content["project"])))


if __name__ == "__main__":
    main()
