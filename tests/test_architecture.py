"""The house: rooms in the order of imports, no way back, and nobody reads another library's source."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest
from house import ROOMS

PACKAGE = Path(__file__).resolve().parents[1] / "src/lora_ns"


def room_of(module: str) -> str:
    return (module + ".").split(".")[1]


LAUNCHER = PACKAGE / "workflow/launch_command.py"
MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def test_the_house_has_these_rooms_and_no_other() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.name != "__pycache__"}
    assert there == {*ROOMS, "__init__", "__main__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_its_own_room_and_those_before_it(path: Path) -> None:
    own = room_of(name_of(path))
    if own == "__main__":
        return
    later = ROOMS[ROOMS.index(own) + 1 :]
    up = sorted(module for module in imported_modules(path) if room_of(module) in later)
    assert not up, f"{name_of(path)} imports {', '.join(up)}"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_starts_the_command_line_again(path: Path) -> None:
    """Snakemake's rules and a launcher do, by the words of launch_command.py."""
    lists = [node.elts for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.List | ast.Tuple)]
    said = [[getattr(item, "value", None) for item in items] for items in lists]
    starts = any(one == "-m" and other == "lora_ns" for items in said for one, other in pairwise(items))
    assert starts == (path == LAUNCHER)
    assert "PROGRAM" not in path.read_text() or path in (LAUNCHER, PACKAGE / "workflow/rule_params.py")


def imported_modules(path: Path) -> set[str]:
    """The package's modules that a module imports, inside functions too; what only a type checker reads does not count."""
    known = {name_of(other) for other in MODULES}
    tree = ast.parse(path.read_text())
    unread = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    found = set()
    for node in ast.walk(tree):
        if node in unread or not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        within = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
        for alias in node.names:
            name = within + alias.name
            found.add(name if name in known else name.rpartition(".")[0])
    return found & known - {name_of(path)}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def test_no_module_comes_back_to_itself_through_its_imports() -> None:
    graph = {name_of(path): imported_modules(path) for path in MODULES}
    assert "lora_ns.training.multi_adapter.runner" in graph["lora_ns.workflow.pipeline"], "imported inside a function"
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the way round


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_reads_or_runs_another_librarys_source(path: Path) -> None:
    called = {ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)}
    assert not called & {"inspect.getsource", "inspect.getsourcelines"}
    its_own = path.parent.name == "sandbox" or path.name == "python_functions.py"  # run programs that a model or we wrote
    assert its_own or not called & {"exec", "eval"}
    assert not {"co_code", "_destroy", "shortcuts ="} & set(path.read_text().split())


def test_no_module_is_named_for_nothing_in_particular() -> None:
    assert not [path for path in MODULES if path.stem in {"utils", "helpers", "common", "misc"}]
