"""The strategy printed in docs/adding_a_strategy.md: short, lawful over several spaces, used from its file in a search."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import segnas
from segnas.runs.run import Run
from segnas.spaces.choice import all_spaces, encode
from segnas.strategies.base import Event, Result, Strategy, load_strategy, replay, strategies

PAGE = Path(__file__).resolve().parents[2] / "docs" / "adding_a_strategy.md"


def example() -> str:
    (block,) = re.findall(r"<!-- a test runs this file -->\n```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return block


@pytest.fixture(scope="module")
def annealing(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("strategy") / "annealing.py"
    path.write_text(example(), encoding="utf-8")
    return str(path)


def test_it_is_one_file_of_under_100_lines() -> None:
    lines = example().splitlines()
    assert len(lines) < 100
    assert max(map(len, lines)) <= 130


@pytest.mark.parametrize("name", ["nasbench201", "darts", "dpc", "transnas-macro", "pnas"])
def test_its_history_and_its_state_go_on_alike(name: str, annealing: str) -> None:
    kind = load_strategy(annealing)
    assert strategies["annealing"] is kind

    def new() -> Strategy:
        return kind(all_spaces()[name](), 3)

    strategy, events = new(), []
    for number in range(12):
        architecture = strategy.ask()
        events.append(Event(architecture))
        encode(strategy.space, architecture)
        score = float(np.random.default_rng(number).normal()) if number != 4 else None
        result = Result(number, architecture, "failed" if score is None else "done", None if score is None else (score,))
        strategy.tell(result)
        events.append(Event(architecture, result))
    again, restored = new(), new()
    replay(again, events)
    restored.load_state_dict(strategy.state_dict())
    assert strategy.ask() == again.ask() == restored.ask()


def test_a_cold_walk_climbs_and_a_hot_one_wanders(annealing: str) -> None:
    def best(temperature: float) -> list[float]:
        strategy = load_strategy(annealing)(all_spaces()["nasbench201"](), 0, {"temperature": temperature, "cooling": 1.0})
        scores = []
        for number in range(60):
            architecture = strategy.ask()
            score = float(sum(encode(strategy.space, architecture).values()))
            strategy.tell(Result(number, architecture, "done", (score,)))
            scores.append(strategy.score)  # type: ignore[attr-defined]
        return scores

    assert best(1e-3) == sorted(best(1e-3))
    assert best(1e3) != sorted(best(1e3))


def test_a_search_uses_it_from_its_file(annealing: str, my_images: Path) -> None:
    settings = ["search.trials=3", "search.training.recipe.epochs=1", "search.training.recipe.batch_size=2", "data.crop=[33,33]"]
    settings += ["search.training.held_out=0.3", f"search.strategy={annealing}", "search.options.annealing.temperature=2"]
    settings += ["network.channels=4", "network.layers=3", "network.aspp_width=4", "network.aspp_rates=[1]"]
    segnas.search("random", data="my_images", out="runs/a", preset="quick", overrides=["space=darts", *settings])
    run = Run.open(Path("runs/a"))
    assert len(run.read_json("search.json")["trials"]) == 3
    assert run.config()["search"]["options"]["annealing"] == {"temperature": 2.0, "cooling": 0.97}
    assert segnas.search("random", data=None, out="runs/a", resume=True) is not None
