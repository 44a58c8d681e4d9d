"""The pages say what is so: tables are up to date, links lead somewhere, commands parse, figures are those of the code."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
from pathlib import Path
from types import ModuleType

import pytest
import typer

from segnas import zoo
from segnas.config import override
from segnas.costs.latency import UNSTEADY
from segnas.data.layouts import HELD_OUT
from segnas.plans import over_space
from segnas.report import cautions
from segnas.systems.base import all_systems, load_system, preset
from segnas.systems.settings import run_preset
from segnas.training.evaluate import EvaluationConfig
from segnas.verbs import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINE_COUNT = re.compile(r"(\.py\) \| )(\d+)( \|)")


def page(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def make_tables() -> ModuleType:
    specification = importlib.util.spec_from_file_location("make_tables", ROOT / "docs" / "make_tables.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def test_the_tables_are_up_to_date(make_tables: ModuleType) -> None:
    """`python docs/make_tables.py` mends it. Lengths of files may drift by a fifth."""
    found = make_tables.pages()
    systems = {"auto_deeplab.md", "darts.md", "dpc.md", "fast_nas.md", "nas_rl.md", "nasnet.md"}
    assert {path.name for path in found} == {"README.md", "configuration.md", "trials.md", *systems}
    for path in found:
        committed = path.read_text(encoding="utf-8")
        written = make_tables.updated(committed)
        assert LINE_COUNT.sub(r"\1\3", written) == LINE_COUNT.sub(r"\1\3", committed), path.name
        for (_, stated, _), (_, counted, _) in zip(LINE_COUNT.findall(committed), LINE_COUNT.findall(written), strict=True):
            assert int(stated) == pytest.approx(int(counted), rel=0.2)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_link_leads_to_a_file(path: Path) -> None:
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8"))]
    local = [target for target in targets if not target.startswith("http")]
    assert [target for target in local if not (path.parent / target).exists()] == []


def test_the_readme_links_every_page() -> None:
    assert [path.name for path in PAGES[1:] if f"docs/{path.name}" not in page("README.md")] == []


def commands() -> list[str]:
    """All lines of the pages that begin with `    segnas`, continued ones joined."""
    found = []
    for path in PAGES:
        text = re.sub(r"\\\n\s+", "", path.read_text(encoding="utf-8"))
        found += [line.strip() for line in text.splitlines() if line.startswith("    segnas ")]
    return [line for line in dict.fromkeys(found) if not re.search(r"SYSTEM|RUN|DIR| \.\.\.", line)]


@pytest.mark.parametrize("line", commands())
def test_every_command_parses(line: str) -> None:
    group = typer.main.get_command(app)
    name, *rest = shlex.split(line)[1:]
    command = group.commands[name]  # type: ignore[attr-defined]
    if name == "data":
        name, *rest = rest
        command = command.commands[name]
    context = command.make_context(name, rest)
    overrides = context.params.get("overrides") or []
    if name in ("run", "search") and not str(context.params["system"]).endswith(".py") and "--resume" not in rest:
        chosen, overrides = over_space(context.params["system"], overrides)
        if not any(".py" in word for word in (str(chosen), *overrides)):  # files that a reader has
            system = load_system(str(chosen))
            override(preset(system, context.params["preset"] or "small", system.tasks[0]), overrides)
    elif name == "retrain":
        override(run_preset(context.params["preset"] or "small"), overrides)
    elif name == "count":
        source = str(context.params["source"])
        zoo.with_options(zoo.find(source if source in zoo.names() else "auto-deeplab-s"), overrides)
    elif name == "evaluate":
        override(EvaluationConfig(), overrides)


def test_there_are_commands_to_parse() -> None:
    assert len(commands()) > 15


def test_the_readme_lists_every_system_that_is_there() -> None:
    rows = [line for line in page("README.md").splitlines() if line.startswith("| ") and "| done" in line]
    assert len(rows) == len(all_systems())
    assert [system.name for system in all_systems() if not any(f"`{system.name}`" in row for row in rows)] == []


def test_thresholds_on_the_page_are_those_of_the_report() -> None:
    text = page("docs/reading_the_report.md")
    assert f"below {cautions.WEAK_IOU:.0f} %" in text
    assert f"accuracy of a class is below {cautions.WEAK_ACCURACY:.0f} %" in text
    assert f"above {100 * cautions.UNDECIDED:.0f} % of its maximum" in text
    assert f"more than {cautions.LARGE_GAP:.0f} points" in text
    assert f"fewer than {cautions.FEW_IMAGES}" in text
    assert cautions.SKIP_HEAVY == 0.5
    assert "half of its operations, or more" in text
    assert f"{100 * UNSTEADY:.0f} % of the median" in text
    assert f"fewer than {cautions.FEW_TRIALS} |" in text
    assert f"more than {100 * cautions.MANY_FAILURES:.0f} % of those that were trained" in text
    assert f"it has {100 * cautions.EDGE:.0f} % of a limit" in text
    assert f"among the last {100 - 100 * cautions.LATE:.0f} %" in text
    assert f"the best {cautions.LEADING} lie closer" in text


def test_the_share_held_out_is_stated() -> None:
    assert page("docs/data.md").count(f"{100 * HELD_OUT:.0f} %") == 3


@pytest.mark.parametrize("name", ["auto_deeplab", "darts"])
def test_one_step_of_the_search_is_short(name: str) -> None:
    """Four files and under 500 lines, as the README says."""
    system = ast.parse(page(f"segnas/systems/{name}.py"))
    classes = {node.name: node for node in system.body if isinstance(node, ast.ClassDef)}
    methods = {node.name: node for node in classes["Search"].body if isinstance(node, ast.FunctionDef)}
    parts = [classes["Relaxation"]]
    parts += [methods[name] for name in ("loss", "weight_gradients", "architecture_gradients", "search_step")]
    parts += [methods["architecture_step"]] if name == "darts" else []
    lines = sum((node.end_lineno or 0) - node.lineno + 1 for node in parts)
    others = (f"segnas/nets/{name}_supernet.py", "segnas/nets/operations.py", "segnas/strategies/bilevel.py")
    assert lines + sum(len(page(other).splitlines()) for other in others) < 500


def test_the_engine_is_under_500_lines() -> None:
    """As its page says; the compiled kernels, and which engine is chosen, come on top."""
    files = re.findall(r"segnas/nets/(?:fused|rules|kernels)\.py", page("docs/engine.md").split("To read the engine")[1])
    assert len(files) == 3
    assert sum(len(page(name).splitlines()) for name in files) <= 500
