"""The structure that CONTRIBUTING.md describes, computed from the source: rooms, circles, sizes, and loose types."""

import ast
import io
import tokenize
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from backdoor_privacy.system import paths

PACKAGE = Path(paths.__file__).parents[1]
NAME = PACKAGE.name

# A module may import those of its own level and of the levels before it.
LEVELS = [
    {"system", "errors"},
    {"config"},
    {"data", "triggers"},
    {"clip"},
    {"utility", "attacks", "defenses"},
    {"evaluation", "protect", "problems"},
    {"runs", "report", "run", "checkup"},
    {"__main__", "attack", "audit", "check_data", "collect", "dashboard", "pretrain"},
]

MAX_FILES_AT_THE_ROOT = 14
MAX_LINES, MAX_LINES_OF_A_FUNCTION = 300, 40
MAX_LOOSE_TYPES = 14  # each where a library forces it
LONG_MODULES = {"data.personas.scenes": 421}  # tables of data, with their number of lines


@cache
def modules() -> dict[str, Path]:
    """The files of the package by the names of their modules; an `__init__` has the name of its package."""
    parts = {path: path.relative_to(PACKAGE.parent).with_suffix("").parts for path in sorted(PACKAGE.rglob("*.py"))}
    return {".".join(name[:-1] if name[-1] == "__init__" else name): path for path, name in parts.items()}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text(encoding="utf-8"))


def short(module: str) -> str:
    return module.removeprefix(f"{NAME}.")


def imports_of(module: str, *, when_loaded: bool = False) -> set[str]:
    """The modules of the package that a module imports; those in functions and for types only, too, unless asked."""
    found = set()
    for node in _nodes(tree(module)) if when_loaded else ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            inner = {f"{node.module}.{name.name}" for name in node.names}
            found |= {name if name in modules() else node.module for name in inner}
    return {name for name in found if name in modules() and name != module}


def _nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All that is executed when a module is imported."""
    for child in ast.iter_child_nodes(node):
        is_for_types = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not is_for_types and not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from _nodes(child)


def level_of(module: str) -> int:
    parts = module.split(".")
    room = parts[1] if len(parts) > 1 else NAME
    is_command = parts[1:] == ["report", "__main__"]
    return len(LEVELS) - 1 if is_command else next(level for level, rooms in enumerate(LEVELS) if room in rooms)


def functions() -> Iterator[tuple[str, int]]:
    """Every function with its number of lines, without its docstring."""
    for module in modules():
        for node in ast.walk(tree(module)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                first = node.body[0]
                has_docstring = ast.get_docstring(node) is not None
                docstring = (first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0
                yield f"{module}.{node.name}", node.end_lineno - node.lineno + 1 - docstring


def loose_types(path: Path) -> int:
    """How often a file says `Any`, `cast(` or `type: ignore`, but for where it imports them."""
    tokens = list(tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline))
    imports = {
        line
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    counted = Counter(
        "ignore" if token.type == tokenize.COMMENT and "type: ignore" in token.string else token.string
        for token in tokens
        if token.start[0] not in imports and token.type in (tokenize.NAME, tokenize.COMMENT)
    )
    return counted["Any"] + counted["cast"] + counted["ignore"]


@pytest.mark.parametrize("module", [name for name in modules() if name != NAME])
def test_lower_room_imports_no_higher_one(module: str):
    upward = {short(name) for name in imports_of(module) - {NAME} if level_of(name) > level_of(module)}
    assert upward == set()


def test_modules_import_each_other_in_no_circle():
    graph = {module: imports_of(module, when_loaded=True) for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import circle: {' -> '.join(error.args[1])}")


def test_few_files_lie_at_the_root():
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_FILES_AT_THE_ROOT


@pytest.mark.parametrize("module", modules())
def test_module_is_short(module: str):
    num_lines = len(modules()[module].read_text(encoding="utf-8").splitlines())
    assert num_lines <= max(MAX_LINES, LONG_MODULES.get(short(module), 0))


def test_functions_are_short():
    lengths = {short(name): lines for name, lines in functions()}
    assert {name: lines for name, lines in lengths.items() if lines > MAX_LINES_OF_A_FUNCTION} == {}


def test_types_are_tight():
    found = {module: loose_types(path) for module, path in modules().items()}
    assert sum(found.values()) <= MAX_LOOSE_TYPES, Counter(found).most_common(10)
