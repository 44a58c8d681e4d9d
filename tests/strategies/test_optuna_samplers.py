"""NSGA-II and TPE of Optuna as strategies: they search, over spaces whose options depend on each other too, and say nothing."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from segnas.spaces.auto_deeplab import AutoDeepLabSpace
from segnas.spaces.choice import Space
from segnas.spaces.tabular import NasBench201, NasBench201Space
from segnas.strategies.base import Result, Strategy
from segnas.strategies.optuna_samplers import Nsga2, Tpe

SPACE = NasBench201Space()


def searched(strategy: Strategy, count: int) -> list[NasBench201]:
    """Proposals of a search for many convolutions 3x3 and, as a second objective, many skip connections."""
    found = []
    for number in range(count):
        found.append(strategy.ask())
        values = tuple(float(found[-1].edges.count(operation)) for operation in ("nor_conv_3x3", "skip_connect"))
        strategy.tell(Result(number, found[-1], "done", values[: strategy.objectives]))
    return found


def test_tpe_finds_what_is_good() -> None:
    found = searched(Tpe(SPACE, 0), 60)
    convolutions = [architecture.edges.count("nor_conv_3x3") for architecture in found]
    assert np.mean(convolutions[:10]) < 2.5  # random: 6 / 5 is expected
    assert np.mean(convolutions[-15:]) > 3.5


def test_nsga2_covers_both_objectives() -> None:
    found = searched(Nsga2(SPACE, 0, {"population": 10}, objectives=2), 200)
    sums = [sum(edge in ("nor_conv_3x3", "skip_connect") for edge in architecture.edges) for architecture in found]
    assert np.mean(sums[:10]) < 3.5  # random: 12 / 5 is expected
    assert np.mean(sums[-50:]) > 4.5
    front = {architecture for architecture, total in zip(found, sums, strict=True) if total == 6}
    assert len({architecture.edges.count("skip_connect") for architecture in front}) > 2


def test_nsga2_follows_one_objective_too() -> None:
    found = searched(Nsga2(SPACE, 0, {"population": 10}), 120)
    assert np.mean([architecture.edges.count("nor_conv_3x3") for architecture in found[-20:]]) > 4


@pytest.mark.parametrize("kind", [Nsga2, Tpe])
def test_the_first_proposals_are_uniform(kind: type[Strategy]) -> None:
    drawn = Counter(operation for seed in range(60) for operation in kind(SPACE, seed).ask().edges)
    assert len(drawn) == 5
    assert max(drawn.values()) < 110  # of 360, 72 are expected
    assert min(drawn.values()) > 40


def heights(strategy: Strategy, space: Space, count: int) -> list[float]:
    """The mean level of the path of each proposal of a search for high ones; where it may go depends on where it is."""
    found = []
    for number in range(count):
        architecture = strategy.ask()
        found.append(float(np.mean(architecture.path)))
        strategy.tell(Result(number, architecture, "done", (found[-1],)))
    return found


@pytest.mark.parametrize(("kind", "options"), [(Nsga2, {"population": 8}), (Tpe, {})])
def test_options_that_depend_on_earlier_choices_are_learnt_too(kind: type[Strategy], options: dict[str, int]) -> None:
    space = AutoDeepLabSpace(layers=6, blocks=1)
    found = heights(kind(space, 0, options), space, 80)
    assert np.mean(found[-20:]) > np.mean(found[:8]) + 0.7
    assert max(found) <= np.mean([1, 2, 3, 3, 3, 3])


@pytest.mark.parametrize("kind", [Nsga2, Tpe])
def test_failures_are_left_out(kind: type[Strategy]) -> None:
    """As if they had not been: the best proposals fail, and are not imitated."""
    strategy = kind(SPACE, 0, {"population": 8} if kind is Nsga2 else {})
    for number in range(60):
        architecture = strategy.ask()
        convolutions = architecture.edges.count("nor_conv_3x3")
        failed = convolutions > 1
        strategy.tell(Result(number, architecture, "failed" if failed else "done", None if failed else (float(-convolutions),)))
    assert np.mean([strategy.ask().edges.count("nor_conv_3x3") for _ in range(10)]) < 1.2


@pytest.mark.parametrize("kind", [Nsga2, Tpe])
def test_optuna_prints_nothing(kind: type[Strategy], capfd: pytest.CaptureFixture[str]) -> None:
    searched(kind(SPACE, 0), 13)
    assert capfd.readouterr() == ("", "")
