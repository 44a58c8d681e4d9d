"""Write the results of tabular benchmarks into docs/tabular_benchmarks.md: `python docs/make_benchmarks.py FILE ...`.

    segnas benchmark nasbench201 --data tables --seeds 500 --json > a.json
    python docs/make_benchmarks.py nasbench201=a.json nasbench-macro=b.json

A file may be named without its benchmark when it is called after it (`nasbench201.json`, `nasbench201-all.json`). Results of the
same benchmark, strategy and number of evaluations take the place of those that the page has; the others stay.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segnas.errors import UserError
from segnas.estimators.tabular import benchmarks

PAGE = Path(__file__).resolve().parent / "tabular_benchmarks.md"
BEGIN, END = "<!-- benchmarks: written by docs/make_benchmarks.py -->", "<!-- end of benchmarks -->"
HEAD = ("benchmark", "strategy", "figure", "mean", "std", "seeds", "evaluations", "published")
Row = tuple[str, ...]


def main(words: Sequence[str]) -> None:
    """Replace the marked table of the page."""
    text = PAGE.read_text(encoding="utf-8")
    rows = combined(known(text), [row for word in words for row in rows_of(*named(word))])
    lines = [f"| {' | '.join(cells)} |" for cells in (HEAD, ("--",) * len(HEAD), *rows)]
    table = "".join(f"{line}\n" for line in lines) if rows else ""
    PAGE.write_text(re.sub(f"{BEGIN}\n.*?{END}", lambda _: f"{BEGIN}\n{table}{END}", text, flags=re.DOTALL), encoding="utf-8")


def named(word: str) -> tuple[str, Path]:
    """`NAME=FILE`, or a file called after its benchmark -> its name and path; UserError for neither."""
    name, separator, path = word.rpartition("=")
    if separator and name in benchmarks:
        return name, Path(path)
    found = [one for one in benchmarks if Path(word).name.startswith(one)]
    if separator or not found:
        raise UserError(f"'{word}' names no benchmark; write NAME=FILE with one of {', '.join(benchmarks)}")
    return max(found, key=len), Path(word)


def rows_of(name: str, path: Path) -> list[Row]:
    """The rows of a file that `segnas benchmark --json` printed."""
    return [_row(name, values) for values in json.loads(path.read_text(encoding="utf-8"))]


def _row(name: str, values: dict[str, Any]) -> Row:
    published = values["published"]
    printed = "-" if published is None else f"{published['mean']:.2f}"
    if published is not None and published["std"] is not None:
        printed += f" ± {published['std']:.2f}"
    figures = (f"{values['mean']:.2f}", f"{values['std']:.2f}", str(values["seeds"]), str(values["evaluations"]))
    return (name, values["strategy"], values["metric"], *figures, printed)


def known(text: str) -> list[Row]:
    """The rows that the page has."""
    inside = text.split(BEGIN)[1].split(END)[0].strip().splitlines()
    return [tuple(line.strip("| ").split(" | ")) for line in inside[2:]]


def combined(before: Sequence[Row], after: Sequence[Row]) -> list[Row]:
    """Rows in the order of the benchmarks; new ones in the place of those of the same benchmark, strategy and evaluations."""
    renewed = {(row[0], row[1], row[6]) for row in after}
    rows = [row for row in before if (row[0], row[1], row[6]) not in renewed] + list(after)
    order = list(benchmarks)
    return sorted(rows, key=lambda row: order.index(row[0]))


if __name__ == "__main__":
    main(sys.argv[1:])
