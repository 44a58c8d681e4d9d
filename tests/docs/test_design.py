"""docs/design.md is the map: every file on it exists, every folder is on it (tests/test_imports.py reads its import order)."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "design.md").read_text(encoding="utf-8")
LAYOUT = TEXT.split("## 2. Layout")[1].split("Who may import whom")[0]


def parts() -> set[str]:
    """The modules and packages directly in segnas/."""
    package = ROOT / "segnas"
    folders = {path.parent.name for path in package.glob("*/__init__.py")}
    return folders | {path.stem for path in package.glob("*.py") if path.stem != "__init__"}


def test_every_file_on_the_map_exists() -> None:
    named = {name for line in LAYOUT.splitlines() for name in re.findall(r"\b\w+\.py\b", line)}
    there = {path.name for folder in ("segnas", "docs", "benchmarks") for path in (ROOT / folder).rglob("*.py")}
    assert len(named) > 30
    assert named - there == set()


def test_every_part_is_on_the_map() -> None:
    assert [part for part in sorted(parts()) if not re.search(rf"\b{part}(/|\.py)", LAYOUT)] == []
