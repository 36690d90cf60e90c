"""Imports point one way: config ← sources, benchmarks, scoring, sandbox ← store, record ← models, methods ← stages ← cli."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from itertools import pairwise
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "src/lora_ns"
LAYERS = [
    {"errors", "gpus", "metric_names", "owner", "processes", "slurm", "units"},
    {"config"},
    {"scoring", "sandbox", "statistics"},
    {"benchmarks", "sources"},
    {"record", "store", "run", "tuning", "integrity", "comparing", "progress"},
    {
        "prompts",
        "chat",
        "encoding",
        "overlap",
        "models",
        "machine",
        "launch",
        "node",
        "trackers",
        "engines",
        "calibration",
        "optimizers",
        "methods",
        "experiment",
        "experiment_file",
        "editor_schema",
        "failure",
        "history",
    },
    {"parity", "combine", "model_card", "training", "importing", "answering", "prediction", "preflight"},
    {"fetch", "pretrain", "tokenize", "train", "evaluate", "merge", "infer", "choose", "trial", "tables", "report"},
    {"sweep", "grouping", "dag", "chain", "provenance", "difference", "verify", "archive", "doctor"},
    {"plan", "status"},
    {"cli"},
    {"__main__"},
]
STAGES = LAYERS[7]


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return {name.split(".")[1] for name in found if name.startswith("lora_ns.") and name.count(".") >= 1}


def level(room: str) -> int:
    places = [i for i, layer in enumerate(LAYERS) if room in layer]
    assert places, f"{room} has no layer: say in this test where it belongs"
    return places[0]


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_below(path: Path) -> None:
    room = room_of(path)
    rooms = imported_rooms(path) - {room, "__version__"}
    rooms = {name for name in rooms if (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").is_file()}
    for other in rooms:
        assert level(other) <= level(room), f"{room} imports {other}, which lies above it"
        if room in STAGES:
            assert other not in STAGES, f"stage {room} imports stage {other}: they meet as artefacts"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_module_starts_the_command_line_again(path: Path) -> None:
    """Snakemake's rules and a launcher do, by the words of launch.py."""
    lists = [node.elts for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.List | ast.Tuple)]
    said = [[getattr(item, "value", None) for item in items] for items in lists]
    starts = any(one == "-m" and other == "lora_ns" for items in said for one, other in pairwise(items))
    assert starts == (path == PACKAGE / "launch.py")
    assert "PROGRAM" not in path.read_text() or path in (PACKAGE / "launch.py", PACKAGE / "dag.py")


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
