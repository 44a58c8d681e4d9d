"""Budgets against brute force over all widths, with latencies that are exact and noisy, and budgets that cannot be met."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segnas.config import override, to_dict
from segnas.costs import budget as module
from segnas.costs.budget import (
    MOST,
    BudgetConfig,
    Costs,
    fit,
    largest_that,
    nearest_multiply_adds,
    require_possible,
    smallest_costs,
)
from segnas.costs.counts import Counts
from segnas.costs.counts import count as count_anew
from segnas.errors import UserError
from segnas.spaces.auto_deeplab import AutoDeepLabSpace, NetworkOptions
from segnas.spaces.choice import sample
from segnas.spaces.hand_made import DeepLabV3Plus, ResNet, UNet
from segnas.spaces.width import filters_of, smallest_filters, with_filters

SIZE, CLASSES = (33, 40), 3
count = cache(count_anew)
OPTIONS = NetworkOptions(filters=2, stem=(4, 4, 6), aspp_width=8, low_level_width=4, decoder_width=6)
SPACE = AutoDeepLabSpace(3, 1, network=OPTIONS)
SEARCHED = sample(SPACE, np.random.default_rng(1))
ALL = [SEARCHED, UNet(2, 2), DeepLabV3Plus(2, 8, 4, 6), ResNet(2, 1)]


@pytest.fixture(autouse=True)
def _counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One count a network for the whole file: they take most of its time."""
    monkeypatch.setattr(module, "count", count)


@cache
def costs_of_all_widths(architecture: Any) -> dict[int, Counts]:
    widths = range(smallest_filters(architecture), MOST * filters_of(architecture) + 1)
    return {filters: count(with_filters(architecture, filters), SIZE, CLASSES) for filters in widths}


def brute_force(architecture: Any, passes: Callable[[int, Counts], bool]) -> int:
    return max(filters for filters, counts in costs_of_all_widths(architecture).items() if passes(filters, counts))


class Stopwatch:
    """Latencies of a pretended device: a + b * multiply-adds, with noise; `busy` makes the first of each network take longer."""

    def __init__(self, noise: float = 0.0, seed: int = 0, busy: float = 1.0) -> None:
        self.noise, self.busy, self.generator = noise, busy, np.random.default_rng(seed)
        self.measured: dict[Any, list[float]] = {}

    def true_ms(self, architecture: Any) -> float:
        return 0.5 + 1e-6 * count(architecture, SIZE, CLASSES).multiply_adds

    def __call__(self, architecture: Any) -> float:
        factor = (1 if architecture in self.measured else self.busy) * (1 + self.noise * self.generator.uniform(-1, 1))
        self.measured.setdefault(architecture, []).append(self.true_ms(architecture) * factor)
        return self.measured[architecture][-1]

    def at_most_twice(self, limit: float) -> bool:
        """Whether a network was timed again only where the first time was above the limit, but below three times it."""
        return all(len(times) == 1 + (limit < times[0] <= 3 * limit) for times in self.measured.values())


@pytest.mark.parametrize("architecture", ALL)
@pytest.mark.parametrize("share", [0.0, 0.003, 0.06, 0.4, 0.99, 1.0])
def test_the_largest_width_within_the_counts(architecture: Any, share: float) -> None:
    """The limits lie a share of the way from the smallest to the largest width."""
    every = list(costs_of_all_widths(architecture).values())
    for figure in ("parameters", "multiply_adds"):
        least, most = getattr(every[0], figure), getattr(every[-1], figure)
        limit = int(least + share * (most - least))
        fitted = fit(architecture, BudgetConfig(**{f"max_{figure}": limit}), SIZE, CLASSES)
        expected = brute_force(architecture, lambda _, counts, figure=figure, limit=limit: getattr(counts, figure) <= limit)
        assert fitted.filters == expected
        assert fitted.architecture == with_filters(architecture, expected)
        assert fitted.counts == costs_of_all_widths(architecture)[expected]
        assert (fitted.filters_before, fitted.latency_ms) == (filters_of(architecture), None)


@pytest.mark.parametrize("architecture", ALL)
def test_all_limits_hold_together(architecture: Any) -> None:
    generator = np.random.default_rng(0)
    every = costs_of_all_widths(architecture)
    for _ in range(20):
        first, second, third = (every[int(generator.integers(1, len(every) + 1))] for _ in range(3))
        watch = Stopwatch()
        latency = 0.5 + 1e-6 * third.multiply_adds
        budget = BudgetConfig(max_parameters=first.parameters, max_multiply_adds=second.multiply_adds, max_latency_ms=latency)
        fitted = fit(architecture, budget, SIZE, CLASSES, watch)
        assert fitted.filters == brute_force(
            architecture,
            lambda _, counts, first=first, second=second, third=third: (
                counts.parameters <= first.parameters and counts.multiply_adds <= min(second.multiply_adds, third.multiply_adds)
            ),
        )
        assert [fitted.latency_ms] == watch.measured[fitted.architecture]
        assert fitted.latency_ms is not None
        assert fitted.latency_ms <= latency


def test_a_limit_that_is_met_exactly_is_met() -> None:
    every = costs_of_all_widths(UNet(2, 2))
    for filters in (1, 2, 3, 9, 31, 32):
        for figure in ("parameters", "multiply_adds"):
            cost = getattr(every[filters], figure)
            assert fit(UNet(2, 2), BudgetConfig(**{f"max_{figure}": cost}), SIZE, CLASSES).filters == filters
            if filters > 1:
                assert fit(UNet(2, 2), BudgetConfig(**{f"max_{figure}": cost - 1}), SIZE, CLASSES).filters == filters - 1


def test_growing_ends_at_sixteen_times_the_width_and_nothing_changes_without_a_limit() -> None:
    assert fit(UNet(2, 1), BudgetConfig(max_parameters=10**12), SIZE, CLASSES).filters == 32
    unlimited = fit(UNet(2, 1), BudgetConfig(), SIZE, CLASSES)
    assert (unlimited.architecture, unlimited.limits) == (UNet(2, 1), {})


@pytest.mark.parametrize("seed", range(12))
def test_a_noisy_latency_gives_a_width_that_was_measured_within_the_limit(seed: int) -> None:
    noise, architecture = 0.08, ALL[seed % len(ALL)]
    limit = float(np.random.default_rng(seed).uniform(0.7, 2.5))
    counts_limit = 400_000 if seed % 3 == 0 else 10**12
    watch = Stopwatch(noise, seed)
    budget = BudgetConfig(max_multiply_adds=counts_limit, max_latency_ms=limit)
    fitted = fit(architecture, budget, SIZE, CLASSES, watch)
    assert fitted.latency_ms is not None
    assert fitted.latency_ms == watch.measured[fitted.architecture][-1] <= limit
    assert watch.at_most_twice(limit)

    def within(filters: int, counts: Counts, factor: float) -> bool:
        return counts.multiply_adds <= counts_limit and (0.5 + 1e-6 * counts.multiply_adds) * factor <= limit

    surely = brute_force(architecture, lambda filters, counts: within(filters, counts, 1 + noise))
    possibly = brute_force(architecture, lambda filters, counts: within(filters, counts, 1 - noise))
    assert surely <= fitted.filters <= possibly
    assert len(watch.measured) <= 10
    assert all(count(one, SIZE, CLASSES).multiply_adds <= counts_limit for one in watch.measured)


@pytest.mark.parametrize("limit", [0.7, 0.9, 1.3, 2.4])
def test_a_busy_moment_does_not_cost_width(limit: float) -> None:
    architecture = UNet(2, 2)
    quiet = fit(architecture, BudgetConfig(max_latency_ms=limit), SIZE, CLASSES, Stopwatch())
    watch = Stopwatch(busy=1.9)
    assert fit(architecture, BudgetConfig(max_latency_ms=limit), SIZE, CLASSES, watch) == quiet
    assert watch.at_most_twice(limit)
    require_possible(BudgetConfig(max_latency_ms=limit), [architecture], SIZE, CLASSES, Stopwatch(busy=1.9))


def test_no_network_far_beyond_the_limit_is_timed() -> None:
    """Sixteen times the width would be 256 times the work."""
    watch = Stopwatch()
    fitted = fit(UNet(2, 2), BudgetConfig(max_latency_ms=0.9), SIZE, CLASSES, watch)
    assert max(filters_of(one) for one in watch.measured) <= 2 * fitted.filters


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("architecture", ALL)
def test_a_budget_that_cannot_be_met_says_what_would_do(architecture: Any) -> None:
    least = costs_of_all_widths(architecture)[1]
    with pytest.raises(UserError) as error:
        fit(architecture, BudgetConfig(max_parameters=least.parameters - 1), SIZE, CLASSES)
    assert one_line(error) == (
        f"max_parameters={least.parameters - 1:,} cannot be met: the smallest width of this network has {least.parameters:,} "
        f"parameters; use --max-parameters {least.parameters} or more"
    )
    budget = BudgetConfig(max_parameters=10**9, max_multiply_adds=7, max_latency_ms=0.1)
    with pytest.raises(UserError) as error:
        fit(architecture, budget, SIZE, CLASSES, Stopwatch())
    message = one_line(error)
    assert "max_parameters" not in message
    assert f"max_multiply_adds=7 cannot be met: the smallest width of this network has {least.multiply_adds:,}" in message
    assert "; also max_latency_ms=0.1 cannot be met: the smallest width of this network took 0." in message
    advice = {key.replace("-", "_"): float(value) for key, value in re.findall(r"--([a-z-]+) ([\d.]+) or more", message)}
    fitted = fit(architecture, BudgetConfig(max_parameters=10**9, **advice), SIZE, CLASSES, Stopwatch())
    assert fitted.filters == 1


def test_an_impossible_budget_is_refused_before_the_search_for_the_neediest_network() -> None:
    generator = np.random.default_rng(0)
    samples = [sample(SPACE, generator) for _ in range(6)]
    smallest = [with_filters(one, smallest_filters(one)) for one in samples]
    counts = [count(one, SIZE, CLASSES) for one in smallest]
    most = max(one.parameters for one in counts)
    assert len({one.parameters for one in counts}) > 1
    watch = Stopwatch()
    assert smallest_costs(samples, SIZE, CLASSES, watch) == Costs(
        most, max(one.multiply_adds for one in counts), max(watch.true_ms(one) for one in smallest)
    )
    assert smallest_costs(samples, SIZE, CLASSES).latency_ms is None
    require_possible(BudgetConfig(), samples, SIZE, CLASSES)
    require_possible(BudgetConfig(max_parameters=most, max_latency_ms=9.0), samples, SIZE, CLASSES, Stopwatch())
    with pytest.raises(UserError, match=f"a network that the search may find has {most:,} parameters; use .* {most} or more"):
        require_possible(BudgetConfig(max_parameters=most - 1), samples, SIZE, CLASSES)
    refusal = r"max_latency_ms=0\.4 cannot be met: .* took 0\.6\d* ms at \d+x\d+ when measured here just now; use"
    with pytest.raises(UserError, match=refusal) as error:
        require_possible(BudgetConfig(max_latency_ms=0.4), samples, SIZE, CLASSES, Stopwatch())
    one_line(error)


@pytest.mark.parametrize("architecture", ALL)
def test_the_nearest_multiply_adds(architecture: Any) -> None:
    every = costs_of_all_widths(architecture)
    least, most = every[1].multiply_adds, list(every.values())[-1].multiply_adds
    halfway = (every[3].multiply_adds + every[4].multiply_adds) // 2
    for target in (1, least, halfway, halfway + 1, int(0.3 * most), most):
        expected = min(every, key=lambda filters, target=target: (abs(every[filters].multiply_adds - target), filters))
        assert nearest_multiply_adds(architecture, target, SIZE, CLASSES) == with_filters(architecture, expected)
    beyond = nearest_multiply_adds(architecture, 4 * most, SIZE, CLASSES)
    assert filters_of(beyond) > MOST * filters_of(architecture)


@pytest.mark.parametrize("architecture", ALL)
def test_the_nearest_multiply_adds_keep_a_budget(architecture: Any) -> None:
    every = costs_of_all_widths(architecture)
    for limit in (every[1].parameters - 1, every[2].parameters, every[4].parameters + 1):
        for target in (every[2].multiply_adds, every[5].multiply_adds):
            allowed = [filters for filters in every if every[filters].parameters <= limit] or [1]
            expected = min(allowed, key=lambda filters, target=target: (abs(every[filters].multiply_adds - target), filters))
            limits = {"max_parameters": limit, "max_latency_ms": 0.001}
            found = nearest_multiply_adds(architecture, target, SIZE, CLASSES, limits)
            assert found == with_filters(architecture, expected)


@given(st.integers(1, 300), st.integers(0, 300), st.integers(0, 300), st.integers(0, 400))
def test_the_search_is_exact(smallest: int, start: int, largest: int, last: int) -> None:
    start, largest = smallest + start, smallest + start + largest
    asked: list[int] = []

    def passes(number: int) -> bool:
        assert smallest <= number <= largest
        asked.append(number)
        return number <= last

    found = largest_that(passes, smallest, start, largest)
    assert found == (min(last, largest) if last >= smallest else None)
    assert len(asked) == len(set(asked)) <= 2 * np.log2(largest) + 3


def test_the_configuration_reads_what_people_write() -> None:
    budget = override(BudgetConfig(), ["max_multiply_adds=1e9", "max_parameters=2.5e5", "max_latency_ms=12", "device=cuda:0"])
    assert budget == BudgetConfig(max_multiply_adds=10**9, max_parameters=250_000, max_latency_ms=12.0, device="cuda:0")
    assert isinstance(budget.max_multiply_adds, int)
    assert budget.limits == {"max_parameters": 250_000, "max_multiply_adds": 10**9, "max_latency_ms": 12.0}
    assert override(budget, ["max_latency_ms=null", "device=''"]).max_latency_ms is None
    with pytest.raises(UserError, match="device says where max_latency_ms counts, which is not set"):
        override(budget, "max_latency_ms=null")
    assert BudgetConfig(**to_dict(budget)) == budget
    for wrong in ("max_parameters=0", "max_parameters=1.5", "max_latency_ms=-1", "max_latency_ms=.inf", "max_multiply_adds=lots"):
        with pytest.raises(UserError, match=wrong.split("=")[0]) as error:
            override(BudgetConfig(), wrong)
        one_line(error)


def test_what_a_run_stores() -> None:
    budget = BudgetConfig(max_parameters=2_000, max_latency_ms=1.5)
    fitted = fit(UNet(2, 2), budget, SIZE, CLASSES, Stopwatch())
    stored = json.loads(json.dumps(fitted.to_json()))
    assert stored["limits"] == {
        "max_parameters": {"limit": 2_000, "measured": fitted.counts.parameters},
        "max_latency_ms": {"limit": 1.5, "measured": fitted.latency_ms},
    }
    assert (stored["filters"], stored["filters_before"], stored["size"]) == (fitted.filters, 2, [33, 40])
    assert stored["multiply_adds"] == fitted.counts.multiply_adds


def test_a_limit_on_the_latency_needs_something_to_measure_it() -> None:
    with pytest.raises(ValueError, match="needs a function that measures it"):
        fit(UNet(2, 1), BudgetConfig(max_latency_ms=1.0), SIZE, CLASSES)
    with pytest.raises(ValueError, match="needs a function that measures it"):
        require_possible(BudgetConfig(max_latency_ms=1.0), [UNet(2, 1)], SIZE, CLASSES)
