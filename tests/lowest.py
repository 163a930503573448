"""Print the lowest versions that pyproject.toml allows, as pip takes them: `python tests/lowest.py`."""

import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # of pytest


def lowest_versions(project: dict[str, Any]) -> list[str]:
    """Return `name==version` of each direct dependency, of the package and of its extras that the tests use."""
    extras = (listed for extra, listed in project["optional-dependencies"].items() if extra not in ("dev", "ray"))
    listed = [*project["dependencies"], *(one for extra in extras for one in extra)]
    found = {}
    for requirement in map(Requirement, listed):
        bounds = [each.version for each in requirement.specifier if each.operator in (">=", "==")]
        if bounds:
            found[requirement.name] = f"{requirement.name}=={bounds[0]}"
    return sorted(found.values(), key=str.lower)


def main() -> None:
    """Print them, one a line."""
    content = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    print("\n".join(lowest_versions(content["project"])))


if __name__ == "__main__":
    main()
