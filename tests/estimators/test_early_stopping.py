"""Early stopping against a plain simulation of the published rule, and its probabilities against their formulas."""

from __future__ import annotations

import numpy as np
import pytest

from segnas.estimators.early_stopping import Mode, goes_on, standing


def published(scores: list[float], draws: list[float]) -> list[bool]:
    """The rule in the order of the public code, in 0..1, with a counter that rises by one a score."""
    mean, delta, counter = 0.01, 0.9, 0
    decisions = []
    for score, draw in zip(scores, draws, strict=True):
        if counter == 100:
            delta *= 0.9
        if counter == 200:
            delta *= 0.8
        if counter == 300:
            delta *= 0.7
        if counter == 400:
            delta *= 0.6
        counter += 1
        mean = 0.99 * mean + 0.01 * score
        decisions.append(score > mean or score > mean * (1 - draw * delta))
    assert counter <= 400 or delta == pytest.approx(0.27216)
    return decisions


def test_the_reference_rule_decides_as_its_simulation() -> None:
    generator = np.random.default_rng(0)
    scores = (0.5 * generator.random(450) ** 0.3).tolist()
    draws = generator.random(450).tolist()
    expected = published(scores, draws)
    percent = [100 * score for score in scores]
    found = [goes_on(percent[n], standing(percent[:n]), "reference", draws[n]) for n in range(len(percent))]
    assert found == expected
    assert 100 < sum(found) < 440, "both decisions occur"


def test_delta_is_tightened_four_times() -> None:
    deltas = [standing([10.0] * count)["delta"] for count in (0, 99, 100, 199, 200, 300, 400, 1000)]
    assert deltas == pytest.approx([0.9, 0.9, 0.81, 0.81, 0.648, 0.4536, 0.27216, 0.27216])
    assert standing([]) == {"mean": 1.0, "delta": 0.9, "finished": 0}
    assert standing([3.0, 5.0])["mean"] == pytest.approx(0.99 * (0.99 + 0.03) + 0.05)


@pytest.mark.parametrize("mode", ["reference", "bernoulli"])
@pytest.mark.parametrize("ratio", [0.05, 0.4, 0.8])
def test_the_share_of_bad_candidates_that_go_on(mode: Mode, ratio: float) -> None:
    hint = {"mean": 40.0, "delta": 0.648, "finished": 250}
    score = ratio * 0.99 * 40 / (1 - 0.01 * ratio)  # so that it is `ratio` of the mean that has it in
    draws = (np.arange(20000) + 0.5) / 20000
    share = np.mean([goes_on(score, hint, mode, draw) for draw in draws])
    expected = max(0.0, 1 - (1 - ratio) / 0.648) if mode == "reference" else 0.648
    assert share == pytest.approx(expected, abs=1e-3)


def test_better_than_the_mean_goes_on_and_without_the_rule_all_do() -> None:
    hint = {"mean": 40.0, "delta": 0.27216, "finished": 500}
    for mode in ("reference", "bernoulli"):
        assert goes_on(40.1, hint, mode, draw=1.0)  # type: ignore[arg-type]
        assert not goes_on(5.0, hint, mode, draw=0.99)  # type: ignore[arg-type]
    assert goes_on(0.0, {}, "none", draw=1.0)
