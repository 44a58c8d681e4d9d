"""The space printed in docs/adding_a_space.md: every strategy searches it, and a run goes from its file to the report."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import segnas
from segnas.nets import build
from segnas.runs.run import Run
from segnas.spaces.architecture import from_json, to_json
from segnas.spaces.choice import encode, sample, search_spaces, size
from segnas.strategies.base import Result, load_strategy, strategies
from segnas.user_files import import_file

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_space.md"


def example() -> str:
    (block,) = re.findall(r"<!-- a test runs this file -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return block


@pytest.fixture(scope="module")
def pyramids(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("space") / "pyramids.py"
    path.write_text(example(), encoding="utf-8")
    import_file(str(path), "")
    return str(path)


def test_it_is_one_short_file() -> None:
    lines = example().splitlines()
    assert len(lines) < 100
    assert max(map(len, lines)) <= 130


def test_its_size_its_values_and_its_networks(pyramids: str) -> None:
    space = search_spaces["pyramid"]()
    assert size(space) == 46_656
    for seed in range(5):
        architecture = sample(space, np.random.default_rng(seed))
        assert from_json(to_json(architecture)) == architecture
        network = build(architecture, 4).eval()
        assert network(torch.zeros(2, 3, 41, 57)).shape == (2, 4, 41, 57)


load_strategy("random")  # so that all are registered


@pytest.mark.parametrize("name", sorted({*strategies} - {"annealing"}))
def test_every_strategy_searches_it(name: str, pyramids: str) -> None:
    strategy = load_strategy(name)(search_spaces["pyramid"](), 0)
    for number in range(15):
        architecture = strategy.ask()
        assert architecture.stages[0].width in (8, 12, 16)
        score = float(sum(encode(strategy.space, architecture).values()))
        strategy.tell(Result(number, architecture, "done", (score,)))


def test_a_run_goes_from_its_file_to_the_report(pyramids: str, my_images: Path) -> None:
    settings = [f"space={pyramids}", "search.strategy=evolution", "search.options.evolution.population=2", "search.trials=4"]
    settings += ["search.training.recipe.epochs=1", "search.training.recipe.batch_size=2", "search.training.held_out=0.3"]
    settings += ["data.crop=[33,33]", "retrain.epochs=1", "retrain.batch_size=2", "comparison.baseline=none"]
    page = segnas.run("random", "my_images", "runs/p", "quick", settings, export=False)
    run = Run.open(Path("runs/p"))
    assert run.read_json("architecture.json")["architecture"]["family"] == "pyramid"
    assert "evolution" in page.read_text(encoding="utf-8")
    assert segnas.evaluate("runs/p", ["split=test"]).figures["mIoU"] >= 0
