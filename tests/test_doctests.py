import doctest
import importlib
from pathlib import Path

import pytest

from backdoor_privacy.system import paths

PACKAGE = Path(paths.__file__).parents[1]
MODULES = sorted(
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    for path in PACKAGE.rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


def test_losses_and_names_have_examples():
    assert {"backdoor_privacy.defenses.backdoor.losses", "backdoor_privacy.triggers.names"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_examples_in_docstrings_hold(module: str):
    found = doctest.testmod(importlib.import_module(module))
    assert found.attempted > 0
    assert found.failed == 0
