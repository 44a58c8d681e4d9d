"""docs/design.md is the map: every file on it exists, every folder is on it, and imports go the way it says."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
LAYOUT = TEXT.split("## 2. Layout")[1].split("Later:")[0]
FLOORS = [
    line.split() for line in TEXT.split("Who may import whom")[1].split("A test reads")[0].splitlines() if line.startswith("    ")
]


def parts() -> set[str]:
    """The modules and packages directly in segnas/."""
    package = ROOT / "segnas"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    return folders | {path.stem for path in package.glob("*.py") if path.stem != "__init__"}


def imports() -> dict[str, set[str]]:
    """Part -> the other parts that its files import, at the top or inside functions."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "segnas").rglob("*.py"):
        part = path.relative_to(ROOT / "segnas").parts[0].removesuffix(".py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == "segnas":
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("segnas."):
                names = [(node.module or "").split(".")[1]]
            elif isinstance(node, ast.Import):
                names = [alias.name.split(".")[1] for alias in node.names if alias.name.startswith("segnas.")]
            else:
                continue
            found[part] |= {name for name in names if name in parts() and name != part}
    return found


def test_every_part_has_its_floor() -> None:
    assert sorted(name for floor in FLOORS for name in floor) == sorted(parts())


def test_nothing_imports_a_later_floor() -> None:
    floor_of = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    upwards = [(a, b) for a, others in imports().items() if a != "__init__" for b in others if floor_of[b] > floor_of[a]]
    assert upwards == []


def test_there_are_no_circles_on_a_floor() -> None:
    found = imports()

    def reach(name: str, floor: list[str], seen: frozenset[str]) -> set[str]:
        onwards = {other for other in found[name] if other in floor} - seen
        return onwards.union(*(reach(other, floor, seen | {other}) for other in onwards)) if onwards else set()

    assert [name for floor in FLOORS for name in floor if name in reach(name, floor, frozenset())] == []


def test_the_import_of_segnas_alone_loads_its_verbs_from_api() -> None:
    assert imports()["__init__"] == {"api"}


def test_every_file_on_the_map_exists() -> None:
    named = {name for line in LAYOUT.splitlines() for name in re.findall(r"\b\w+\.py\b", line.split("later:")[0])}
    there = {path.name for folder in ("segnas", "docs") for path in (ROOT / folder).rglob("*.py")}
    assert len(named) > 30
    assert named - there == set()


def test_every_part_is_on_the_map() -> None:
    assert [part for part in sorted(parts()) if not re.search(rf"\b{part}(/|\.py)", LAYOUT)] == []
