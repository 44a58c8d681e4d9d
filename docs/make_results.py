"""Write the measured results into README.md and docs/results.md: `python docs/make_results.py runs/demo runs/camvid`.

Everything is read from the run directories; a run on another data folder can be named by its folder alone. A run takes the place
of the one of the same data and system; the others stay.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

from segnas.plans import command, planned
from segnas.runs.progress import duration
from segnas.runs.run import Run

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("data", "system", "seen at", "figure", "val", "test", "by hand", "random", "random search", "parameters",
           "multiply-adds", "search", "retraining", "device")  # fmt: skip


def main(paths: list[Path]) -> None:
    """Replace the marked table of README.md, and docs/results.md."""
    results = ROOT / "docs" / "results.md"
    rows, sections = _known(results.read_text(encoding="utf-8"))
    for run in map(Run.open, paths):
        row = dict(zip(COLUMNS, _row(run), strict=True))
        rows[f"{row['data']}, {row['system']}"] = row
        sections[f"{row['data']}, {row['system']}"] = _section(run)
    cells = [[row.get(column, "-") for column in COLUMNS] for row in rows.values()]
    table = "\n".join([_line(COLUMNS), _line(["--"] * len(COLUMNS)), *map(_line, cells)])
    readme = ROOT / "README.md"
    begin, end = "<!-- results: written by docs/make_results.py -->", "<!-- end of results -->"
    text = readme.read_text(encoding="utf-8")
    readme.write_text(re.sub(f"{begin}.*?{end}", lambda _: f"{begin}\n{table}\n{end}", text, flags=re.DOTALL), encoding="utf-8")
    parts = ["# Measured results", "Written by `docs/make_results.py` from the run directories.", table, *sections.values()]
    results.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def _known(text: str) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """The rows and the sections of the page as it is, by data and system."""
    head, *sections = re.split(r"\n\n(?=## )", text.rstrip("\n"))
    lines = [line.strip("| ").split(" | ") for line in head.splitlines() if line.startswith("| ")]
    rows = [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]
    named = {section.splitlines()[0].removeprefix("## "): section for section in sections}
    return {f"{row['data']}, {row['system']}": row for row in rows}, named


def _row(run: Run) -> list[str]:
    evaluations, cost, timing = _evaluations(run), run.read_json("cost.json"), run.read_json("timing.json")
    about, environment = run.read_json("data.json"), run.read_json("environment.json")
    metric = next(iter(evaluations.values()))["metric"]
    scores = [f"{evaluations[split][metric]:.1f}" if split in evaluations else "-" for split in ("val", "test")]
    counts = [f"{_short(cost['parameters'] / 1e6)} M", f"{_short(cost['multiply_adds'] / 1e9)} G"]
    times = [duration(timing[stage]) for stage in ("search", "retrain")]
    beside = [_compared(run, kind) for kind in ("hand-made", "random", "random search")]
    head = [about["name"], str(planned(run).system), "x".join(map(str, cost["size"])), metric]
    return [*head, *scores, *beside, *counts, *times, environment["device"]]


def _compared(run: Run, kind: str) -> str:
    """The figures on test (or val) of what the run was compared with, one a seed."""
    entries = run.read_json("comparison.json")["entries"] if run.has("comparison.json") else []
    found = [one["scores"] for entry in entries if entry["kind"] == kind for one in entry["runs"]]
    name = next((f"{entry['name']} " for entry in entries if entry["kind"] == kind == "hand-made"), "")
    return name + ", ".join(f"{scores.get('test', scores.get('val')):.1f}" for scores in found) if found else "-"


def _section(run: Run) -> str:
    environment, evaluations = run.read_json("environment.json"), _evaluations(run)
    packages, protocols = environment["packages"], [found["protocol"]["text"] for found in evaluations.values()]
    whole = duration(sum(run.read_json("timing.json").values()))
    repeated = command(planned(run), run.path)
    repeated = re.sub(r"--data \S*/", "--data ", re.sub(r"--out \S*/", "--out runs/", repeated))
    lines = [
        f"## {run.read_json('data.json')['name']}, {planned(run).system}",
        "\n".join(_wrapped(repeated)),
        f"Architecture {run.read_json('architecture.json')['id']}; {whole} in all on {environment['processor']}, "
        f"{environment['device']}, torch {packages['torch']}, Python {environment['python']}, seed {environment['seed']}.",
        *protocols,
        _classes(evaluations),
    ]
    return "\n\n".join(lines)


def _classes(evaluations: dict[str, Any]) -> str:
    names = [found["name"] for found in next(iter(evaluations.values()))["classes"]]
    figure = "IoU" if "IoU" in next(iter(evaluations.values()))["classes"][0] else "accuracy"
    rows = [[figure, *names]]
    for split, found in evaluations.items():
        rows.append([split, *("absent" if one[figure] is None else f"{one[figure]:.1f}" for one in found["classes"])])
    return "\n".join([_line(rows[0]), _line(["--"] * len(rows[0])), *map(_line, rows[1:])])


def _evaluations(run: Run) -> dict[str, Any]:
    found = [run.read_json(path.name) for path in sorted(run.path.glob("evaluation*.json"))]
    return {evaluation["split"]: evaluation for evaluation in found}


def _short(value: float) -> str:
    """Two digits after the point, or the first two that count."""
    return f"{value:.2f}" if value >= 0.1 else f"{value:#.2g}"


def _wrapped(text: str, width: int = 76) -> list[str]:
    """The command as an indented block, broken between words."""
    lines, line = [], "   "
    for word in text.split():
        if len(line) + len(word) > width:
            lines.append(f"{line} \\")
            line = "       "
        line += f" {word}"
    return [*lines, line]


def _line(cells: Any) -> str:
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
