"""What the trials of a search say, against brute force and plain formulas."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from trial_runs import parsed, search_json

from segnas.config import from_dict
from segnas.errors import UserError
from segnas.report.trials import (
    Objective,
    TrialSearch,
    failures,
    improvements,
    pooled_deviation,
    ranks,
    spearman,
    value_at,
)

MORE, LESS = Objective("mIoU"), Objective("latency_ms", "minimize")


@pytest.mark.parametrize("seed", range(4))
def test_the_best_so_far_is_the_running_maximum(seed: int) -> None:
    search = search_json(seed)
    done = [(row["number"], row["finished"], row["metrics"]["mIoU"])
            for row in search["trials"] if row["stage"] == "search" and row["status"] == "done"]  # fmt: skip
    steps = parsed(search).by_number()
    for number in range(search["planned"]):
        before = [score for other, _, score in done if other <= number]
        assert value_at(steps, number) == (max(before) if before else None)
    times = parsed(search).by_time()
    for _, moment, _ in done:
        assert value_at(times, moment) == max(score for _, finished, score in done if finished <= moment)
    assert [value for _, value in steps] == sorted({value for _, value in steps}), "strictly better at each step"


def test_what_is_minimised_gets_smaller() -> None:
    points = [(3.0, 5.0), (1.0, 7.0), (2.0, None), (4.0, 5.0), (5.0, 1.0)]
    assert improvements(points, LESS) == ((1.0, 7.0), (3.0, 5.0), (5.0, 1.0))
    assert improvements(points, MORE) == ((1.0, 7.0),)
    assert value_at(((1.0, 7.0),), 0.5) is None


def test_ranks_share_the_mean_of_equal_values() -> None:
    values = np.random.default_rng(0).integers(0, 6, 40).tolist()
    expected = [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]
    np.testing.assert_array_equal(ranks(values), expected)


def test_spearman_is_the_formula_of_squared_differences() -> None:
    """1 - 6 sum d^2 / (n (n^2 - 1)), which holds without ties."""
    random = np.random.default_rng(3)
    for count in (3, 8, 30):
        a, b = random.permutation(count).tolist(), random.permutation(count).tolist()
        squares = sum((x - y) ** 2 for x, y in zip(a, b, strict=True))
        assert spearman(a, [math.exp(y) for y in b]) == pytest.approx(1 - 6 * squares / (count * (count**2 - 1)), abs=1e-12)
    assert spearman([1, 2, 3], [10, 20, 30]) == 1
    assert spearman([1, 2, 3], [30, 20, 10]) == -1


def test_spearman_with_ties_is_the_correlation_of_the_ranks() -> None:
    random = np.random.default_rng(4)
    a, b = random.integers(0, 5, 30).tolist(), random.integers(0, 5, 30).tolist()
    mean_ranks = [[sum(o < v for o in values) + (values.count(v) + 1) / 2 for v in values] for values in (a, b)]
    assert spearman(a, b) == pytest.approx(statistics.correlation(*mean_ranks))


def test_what_has_no_rank_correlation() -> None:
    assert spearman([1, 2], [1, 2]) is None
    assert spearman([1, 1, 1], [1, 2, 3]) is None
    with pytest.raises(ValueError, match="2 values beside 3"):
        spearman([1, 2], [1, 2, 3])


def test_the_deviation_over_groups_is_pooled() -> None:
    a, b = [1.0, 2.0, 6.0], [4.0, 5.0]
    squares = sum((x - statistics.fmean(group)) ** 2 for group in (a, b) for x in group)
    assert pooled_deviation([a, [9.0], b]) == pytest.approx(math.sqrt(squares / 3))
    assert pooled_deviation([[1.0], []]) is None


def test_one_architecture_with_several_seeds_tells_what_a_seed_changes() -> None:
    search = search_json(0, trials=30, reranked=0)
    assert len({row["id"] for row in search["trials"]}) < 30, "the made-up search proposes some architectures again"
    done = [row for row in search["trials"] if row["status"] == "done"]
    by_id = {row["id"]: [other["metrics"]["mIoU"] for other in done if other["id"] == row["id"]] for row in done}
    assert parsed(search).seed_spread() == pytest.approx(pooled_deviation(by_id.values()))
    for row in search["trials"]:
        row["seed"] = 7  # with one seed, a second trial says nothing about seeds
    assert parsed(search).seed_spread() is None


def test_trials_are_counted_by_how_they_ended() -> None:
    search = search_json(5, running=4)
    found = parsed(search)
    for status in ("running", "done", "stopped", "failed", "over budget"):
        assert len(found.having(status)) == sum(row["status"] == status for row in search["trials"])  # type: ignore[arg-type]
    assert len(found.ended) == 56
    assert not found.complete
    trained = sum(row["status"] in ("done", "stopped", "failed") for row in search["trials"])
    assert found.trials_per_hour == pytest.approx(3600 * trained / search["seconds"])
    assert found.busy is not None
    assert 0 < found.busy <= 1


def test_judging_again_pairs_each_architecture_with_its_best_trial() -> None:
    search = search_json(2, reranked=6)
    pairs = parsed(search).judged_again()
    assert 3 <= len(pairs) <= 6
    for first, later in pairs:
        assert (first.id, first.stage, later.stage) == (later.id, "search", "rerank")
        same = [row["metrics"]["mIoU"] for row in search["trials"]
                if row["id"] == first.id and row["stage"] == "search" and row["status"] == "done"]  # fmt: skip
        assert first.metrics["mIoU"] == max(same)


def test_failures_are_grouped_by_reason_and_figures_are_no_reason() -> None:
    search = search_json(1, trials=120)
    failed = [row["error"] for row in search["trials"] if row["status"] == "failed"]
    memory = sum(error.startswith("CUDA out of memory") for error in failed)
    found = failures(parsed(search))
    assert sorted(len(failure.trials) for failure in found) == sorted([memory, len(failed) - memory])
    assert found[0].reason in failed
    assert len(found[0].trials) >= len(found[1].trials)


def test_constraints_in_other_words_are_no_limits() -> None:
    search = {**search_json(0), "constraints": ["parameters <= 1e6", "latency_ms<12.5", "the moon is up", "x <= y"]}
    assert list(parsed(search).limits()) == [("parameters", 1e6), ("latency_ms", 12.5)]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"objectives": []}, r"^search\.json: .*at least one"),
        ({"objectives": [{"name": "mIoU", "direction": "up"}]}, r"^search\.json: objectives\.0\.direction"),
        ({"trials": [{"number": 0, "status": "gone", "id": "a"}]}, r"^search\.json: trials\.0\.status"),
        ({"system": None}, r"^search\.json: system"),
    ],
)
def test_a_file_that_does_not_fit_is_named_in_one_line(change: dict[str, object], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint) as caught:
        from_dict(TrialSearch, {**search_json(0), **change}, "search.json")
    assert "\n" not in str(caught.value)
