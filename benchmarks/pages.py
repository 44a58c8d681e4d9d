"""Parts of pages that a script writes: what stands between `<!-- NAME: written by SCRIPT -->` and `<!-- end of NAME -->`."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE = DOCS / "simulated_cluster.md"


def replaced(text: str, name: str, script: str, content: str) -> str:
    """The page with this part written anew; raises ValueError where it has no such part."""
    begin, end = f"<!-- {name}: written by {script} -->\n", f"<!-- end of {name} -->"
    pattern = re.compile(f"({re.escape(begin)}).*?({re.escape(end)})", re.DOTALL)
    written, count = pattern.subn(lambda match: f"{match[1]}\n{content}\n\n{match[2]}", text)
    if count != 1:
        raise ValueError(f"the page has {count} parts '{name}' of {script}; it needs one")
    return written


def write_part(name: str, script: str, content: str, page: Path = PAGE) -> None:
    """Write a part of a page."""
    page.write_text(replaced(page.read_text(encoding="utf-8"), name, script, content), encoding="utf-8")
