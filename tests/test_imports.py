"""Who imports whom: nothing imports a later floor, there are no circles, only systems and the doors know which system runs."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import segnas

ROOT = Path(segnas.__file__).parent
DESIGN = (ROOT.parent / "docs" / "design.md").read_text(encoding="utf-8")
FLOORS = [  # the indented lines of the section, from the ground up
    line.split()
    for line in DESIGN.split("Who may import whom")[1].split("A test reads")[0].splitlines()
    if line.startswith("    ")
]
FLOOR_OF = {group: floor for floor, groups in enumerate(FLOORS) for group in groups}
DOORS = ("plans", "forecast", "workplace", "stages", "comparison", "api", "verbs")  # what may know systems, besides themselves


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports(name: str, everywhere: bool = True) -> set[str]:
    """The modules of segnas that a module imports; `everywhere`: in functions too, else only when it is itself imported."""
    tree = ast.parse(MODULES[name].read_text(encoding="utf-8"))
    if everywhere:
        nodes = list(ast.walk(tree))
    else:
        nodes = [inner for node in tree.body if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) for inner in ast.walk(node)]
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] == "segnas"}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: imports are absolute"
            if node.module and node.module.split(".")[0] == "segnas":
                for alias in node.names:
                    inner = f"{node.module}.{alias.name}"
                    found.add(inner if inner in MODULES else node.module)
    return found


def group_of(name: str) -> str:
    """The folder or file under segnas; "" for segnas itself."""
    return name.split(".")[1] if "." in name else ""


def test_every_part_stands_on_a_floor() -> None:
    groups = {group_of(name) for name in MODULES} - {""}
    assert groups == set(FLOOR_OF)


@pytest.mark.parametrize("name", [name for name in MODULES if group_of(name)])
def test_nothing_imports_a_later_floor(name: str) -> None:
    for imported in imports(name) - {"segnas"}:
        assert imported in MODULES, f"{name} imports {imported}, which is no module"
        assert FLOOR_OF[group_of(imported)] <= FLOOR_OF[group_of(name)], f"{name} imports {imported}"


def test_segnas_itself_imports_only_the_api() -> None:
    assert {group_of(imported) for imported in imports("segnas")} <= {"api", "errors"}


@pytest.mark.parametrize("name", MODULES)
def test_nothing_but_systems_knows_the_systems(name: str) -> None:
    if group_of(name) in ("systems", *DOORS):
        return
    assert not [imported for imported in imports(name) if group_of(imported) == "systems"]
    if group_of(name) not in ("", "spaces", "nets", "costs", "zoo", "report"):  # these hold one family a file
        text = MODULES[name].read_text(encoding="utf-8")
        assert "auto_deeplab" not in text, f"{name} names a system's module"


def test_there_are_no_circles() -> None:
    graph = {name: imports(name) - {"segnas"} for name in MODULES if name != "segnas"}
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle of imports: {' -> '.join(error.args[1])}")


def test_spaces_know_no_torch() -> None:
    for name, path in MODULES.items():
        if group_of(name) == "spaces":
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not [module for module in names if module.split(".")[0] == "torch"], name


def test_every_module_is_found_and_imports() -> None:
    """No module is forgotten by packaging: each folder has its __init__.py."""
    found = {name for _, name, _ in pkgutil.walk_packages(segnas.__path__, "segnas.")}
    assert found == set(MODULES) - {"segnas"}
    for name in found:
        importlib.import_module(name)


def test_files_stay_readable() -> None:
    """At most 500 lines a file."""
    assert {
        name: count for name, path in MODULES.items() if (count := len(path.read_text(encoding="utf-8").splitlines())) > 500
    } == {}
