"""The search by trials: what is asked, stored, told and kept, and that nothing is lost or counted twice."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tiny_search import Drawn

import segnas
from segnas import api
from segnas.config import override
from segnas.errors import Interrupted, UserError
from segnas.plans import plan
from segnas.report.information import gather
from segnas.report.trial_course import in_words
from segnas.runs.progress import StopRequest
from segnas.runs.run import Run
from segnas.runs.trials import Trial, TrialStore
from segnas.spaces.architecture import from_json, identity
from segnas.systems import trial_search
from segnas.systems.base import load_system
from segnas.systems.trial_state import TrialSearch, worked
from segnas.systems.trial_work import Bench

SYSTEM = str(Path(__file__).with_name("tiny_trials.py"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(Drawn().write(tmp_path_factory.mktemp("drawn")))


def search(data: str, out: Path, *settings: str, resume: bool = False) -> dict[str, Any]:
    """A search of 12 trials, and search.json."""
    api.search(SYSTEM, None if resume else data, out, "quick", settings, resume)
    return found(out)


def found(out: Path) -> dict[str, Any]:
    return json.loads((out / "search.json").read_text())


def stored(out: Path) -> list[Trial]:
    name = json.loads((out / "study.json").read_text())["name"]
    store = TrialStore.open(out / "trials.sqlite", name, [one["direction"] for one in found(out)["objectives"]])
    try:
        return store.trials()
    finally:
        store.close()


def test_the_best_of_all_trials_is_kept(data: str, tmp_path: Path) -> None:
    told = search(data, tmp_path / "run")
    rows = told["trials"]
    assert [row["number"] for row in rows] == list(range(12))
    assert {row["status"] for row in rows} == {"done"}
    best = max(rows, key=lambda row: row["metrics"]["mIoU"])
    assert told["best"] == best["number"]
    assert json.loads((tmp_path / "run" / "architecture.json").read_text())["id"] == best["id"]
    assert [trial.id for trial in stored(tmp_path / "run")] == [row["id"] for row in rows]
    lines = Run(tmp_path / "run").metrics("search")
    running_best = [line["value"] for line in lines if line["name"] == "best"]
    assert running_best == [max(row["metrics"]["mIoU"] for row in rows[: place + 1]) for place in range(12)]


def test_the_same_seed_proposes_the_same_with_any_number_of_workers(data: str, tmp_path: Path) -> None:
    runs = [search(data, tmp_path / name, *settings) for name, settings in {"a": [], "b": ["execution.workers=2"]}.items()]
    first, second = ([(row["id"], row["seed"], row["metrics"]) for row in run["trials"]] for run in runs)
    assert first == second
    other = search(data, tmp_path / "c", "seed=1")
    assert [row["id"] for row in other["trials"]] != [row["id"] for row in runs[0]["trials"]]


def test_what_breaks_a_constraint_is_never_trained_and_not_counted(data: str, tmp_path: Path) -> None:
    log = tmp_path / "log"
    told = search(data, tmp_path / "run", 'search.constraints=["parameters <= 1005"]', f"search.log={log}", "search.trials=5")
    counts = Counter(row["status"] for row in told["trials"])
    assert counts["done"] == 5
    assert counts["over budget"] > 0
    assert len(log.read_text().splitlines()) == 5
    assert all((row["costs"]["parameters"] <= 1005) == (row["status"] == "done") for row in told["trials"])
    assert all(row["error"] == "breaks parameters <= 1,005" for row in told["trials"] if row["status"] == "over budget")


def test_a_constraint_that_nothing_keeps_ends_the_search_with_a_line(data: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"1000 proposals in a row broke a constraint \(parameters <= 10, and the nearest had 1,\d+\); loosen it"
    ):
        search(data, tmp_path / "run", 'search.constraints=["parameters <= 10"]')


def test_failures_are_failed_with_their_reason_and_the_search_goes_on(data: str, tmp_path: Path) -> None:
    settings = ["search.failing=0.1", "search.nans=0.1", "search.hungry=0.1", "search.trials=40", "search.strategy=evolution"]
    told = search(data, tmp_path / "run", *settings, "search.options.evolution.population=4")
    errors = Counter(row["error"] for row in told["trials"] if row["status"] == "failed")
    assert set(errors) == {
        "Diverged: the loss is no number at step 3",
        "Diverged: mIoU is no number",
        "out of memory: CUDA out of memory. Tried to allocate 9.00 GiB",
    }
    assert all(trial.values is None for trial in stored(tmp_path / "run") if trial.status == "failed")
    assert sum(errors.values()) + sum(row["status"] == "done" for row in told["trials"]) == 40


def test_too_many_failures_end_the_search_with_their_reasons(data: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"trials failed, more than execution.failing_share=0.5; the reasons: \d+ x Diverged"):
        search(data, tmp_path / "run", "search.failing=0.9", "search.trials=40")
    with pytest.raises(UserError, match="no trial of the search succeeded; the reasons: 3 x Diverged"):
        search(data, tmp_path / "few", "search.failing=1.0", "search.trials=3")


def test_trials_that_are_stopped_early_have_a_score_and_are_never_the_best(data: str, tmp_path: Path) -> None:
    told = search(data, tmp_path / "run", "search.stopping=0.5", "search.trials=30")
    stopped = [row for row in told["trials"] if row["status"] == "stopped"]
    assert stopped
    assert all(row["metrics"]["mIoU"] >= 0 for row in stopped)
    done = [row for row in told["trials"] if row["status"] == "done"]
    assert told["best"] == max(done, key=lambda row: row["metrics"]["mIoU"])["number"]


def test_two_objectives_leave_the_pareto_set_as_files(data: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    told = search(
        data, out, "search.trials=40", "search.maximize=[mIoU]", "search.minimize=[parameters]", "search.strategy=nsga2"
    )
    points = {row["id"]: (row["metrics"]["mIoU"], -row["costs"]["parameters"]) for row in told["trials"]}
    front = {
        one
        for one, point in points.items()
        if not any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points.values())
    }
    by_value = {points[one] for one in front}  # of architectures that are equal in both, one stands for all
    files = {path.stem for path in (out / "pareto").glob("*.json")}
    assert {points[one] for one in files} == by_value
    assert len(files) == len(by_value)
    assert {row["id"] for row in told["trials"] if row["number"] in told["pareto"]} == files


def test_a_trial_that_has_ended_is_in_the_files_at_once(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is killed between two regular writes leaves a report of all trials that are stored."""
    out, seen = tmp_path / "run", []
    real = Bench.perform

    def perform(self: Bench, payload: Any) -> Any:
        if (out / "search.json").exists():
            rows = found(out)["trials"]
            seen.append(sum(row["status"] == "done" for row in rows) == sum(trial.status == "done" for trial in stored(out)))
        return real(self, payload)

    monkeypatch.setattr(Bench, "perform", perform)
    monkeypatch.setattr("segnas.systems.trial_records.SHARE", 0.0)
    search(data, out)
    assert len(seen) >= 11
    assert all(seen)


def test_time_that_was_not_saved_before_a_kill_is_counted_by_its_trials(data: str, tmp_path: Path) -> None:
    first = search(data, tmp_path / "run", "search.trials=6", "search.seconds=0.2")
    state = tmp_path / "run" / "checkpoints" / "search.pt"
    state.unlink()
    (tmp_path / "run" / "architecture.json").unlink()
    again = search(data, tmp_path / "run", resume=True)
    assert again["seconds"] >= sum(row["seconds"] for row in first["trials"]) >= 6 * 0.2


def test_time_in_which_any_trial_ran_is_the_length_of_the_union() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        ran = [(begun, begun + took) for begun, took in zip(*random.integers(0, (40, 12), (6, 2)).T.tolist(), strict=True)]
        trials: list[Any] = [SimpleNamespace(finished=float(end), seconds=float(end - begun)) for begun, end in ran]
        assert worked(trials) == sum(any(begun <= second < end for begun, end in ran) for second in range(60))
    assert worked([]) == 0


def test_trials_of_smaller_stages_of_the_space_do_not_compete(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def first(architecture: Any) -> bool:
        return architecture.normal.blocks[0].operations[0] == "avg_pool_3x3"  # which score high here

    monkeypatch.setattr("segnas.systems.trial_state.stage_of", lambda space, architecture: 1 if first(architecture) else 2)
    told = search(data, tmp_path / "run", "search.trials=30", "search.maximize=[mIoU]", "search.minimize=[parameters]")
    smaller = {trial.number for trial in stored(tmp_path / "run") if first(from_json(trial.architecture))}
    assert {row["number"] for row in told["trials"] if row["smaller"]} == smaller
    rows = [row for row in told["trials"] if not row["smaller"]]
    best = max(row["metrics"]["mIoU"] for row in rows)
    assert best < max(row["metrics"]["mIoU"] for row in told["trials"])
    assert told["trials"][told["best"]]["metrics"]["mIoU"] == best
    found = gather(Run(tmp_path / "run")).trials
    assert found is not None
    assert found.ranked[0].number == told["best"]
    assert found.by_number()[-1][1] == found.by_time()[-1][1] == best
    assert {trial.number for trial in found.front(*found.objectives)} == set(told["pareto"])
    assert f"It began with smaller architectures, which do not count beside it: {len(smaller)} trials." in in_words(found)


def test_the_best_are_trained_again_in_full(data: str, tmp_path: Path) -> None:
    told = search(data, tmp_path / "run", "search.rerank=2", "search.rerank_epochs=1")
    again = [row for row in told["trials"] if row["stage"] == "rerank"]
    first = sorted(
        {row["id"]: row["metrics"]["mIoU"] for row in told["trials"] if row["stage"] == "search"}.items(), key=lambda x: -x[1]
    )
    assert len(again) == 2
    assert {row["id"] for row in again} <= {one for one, score in first if score >= first[1][1]}
    best = max(again, key=lambda row: row["metrics"]["mIoU"])
    assert json.loads((tmp_path / "run" / "architecture.json").read_text())["id"] == best["id"]


def test_a_worker_that_dies_is_replaced_and_its_trial_run_again_twice_at_most(data: str, tmp_path: Path) -> None:
    deadly = tmp_path / "left"
    deadly.write_text("2")
    told = search(data, tmp_path / "a", f"search.deadly={deadly}", "execution.workers=1", "search.trials=3")
    assert [(row["status"], row["attempts"]) for row in told["trials"]] == [("done", 3), ("done", 1), ("done", 1)]
    deadly.write_text("3")
    told = search(data, tmp_path / "b", f"search.deadly={deadly}", "execution.workers=1", "search.trials=3")
    assert [(row["status"], row["attempts"]) for row in told["trials"]] == [("failed", 3), ("done", 1), ("done", 1)]
    assert told["trials"][0]["error"] == "the worker died (signal 9)"


@pytest.mark.parametrize("strategy", ["random", "evolution", "reinforce", "progressive", "tpe"])
def test_stopping_and_going_on_is_never_stopping(
    strategy: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = [f"search.strategy={strategy}", "search.failing=0.1"]
    whole = search(data, tmp_path / "whole", *settings)
    out, count = tmp_path / "parts", 0
    original = TrialSearch.take

    def interrupted(self: TrialSearch, outcome: Any) -> None:
        nonlocal count
        count += 1
        if count in (2, 7):
            raise KeyboardInterrupt  # the trial is done, and not yet stored
        original(self, outcome)

    monkeypatch.setattr(TrialSearch, "take", interrupted)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            search(data, out, *settings, resume=resume)
    parts = search(data, out, *settings, resume=True)
    kept = ("number", "status", "id", "seed", "metrics", "costs", "error", "attempts")
    assert [{key: row[key] for key in kept} for row in parts["trials"]] == [
        {key: row[key] for key in kept} for row in whole["trials"]
    ]
    assert parts["best"] == whole["best"]
    first, second = (
        [(line["name"], line["value"]) for line in Run(path).metrics("search")] for path in (tmp_path / "whole", out)
    )
    assert first == second


def test_a_search_of_another_strategy_does_not_go_on(data: str, tmp_path: Path) -> None:
    search(data, tmp_path / "run")
    (tmp_path / "run" / "architecture.json").unlink()
    with pytest.raises(UserError, match=r"started with search\.strategy=random, not evolution"):
        search(data, tmp_path / "run", "search.strategy=evolution", resume=True)


def test_a_strategy_and_its_options_are_checked_before_anything_is_written(data: str, tmp_path: Path) -> None:
    for settings, message in {
        ("search.strategy=evolutoin",): "unknown strategy 'evolutoin'; did you mean 'evolution'",
        ("search.strategy=evolution", "search.options.evolution.populaton=4"): "unknown key 'populaton'",
        ("search.maximize=[mIuO]",): "there is nothing called 'mIuO'",
        ('search.constraints=["parameters < 5"]',): "'parameters < 5' is no constraint",
        ('search.constraints=["mIoU >= 5"]',): "constraints are on costs",
        ("execution.timeout_minutes=5",): "cannot be stopped after timeout_minutes",
    }.items():
        with pytest.raises(UserError, match=message):
            search(data, tmp_path / "run", *settings)
        assert not (tmp_path / "run").exists()


def test_a_proposal_over_budget_is_not_trained_after_a_kill_either(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the proposal is stored, and before it is stored that it breaks a constraint."""
    settings = ['search.constraints=["parameters <= 1005"]', "search.trials=5"]
    whole = search(data, tmp_path / "whole", *settings)
    original, kills = TrialSearch.end, 0

    def killed(self: TrialSearch, number: int, status: Any, **figures: Any) -> None:
        nonlocal kills
        if status == "over budget" and kills < 2:
            kills += 1
            raise KeyboardInterrupt
        original(self, number, status, **figures)

    monkeypatch.setattr(TrialSearch, "end", killed)
    for resume in (False, True):
        with pytest.raises(KeyboardInterrupt):
            search(data, tmp_path / "run", *settings, resume=resume)
    parts = search(data, tmp_path / "run", *settings, resume=True)
    kept = ("number", "status", "id", "seed", "metrics", "costs", "error")
    assert [[row[key] for key in kept] for row in parts["trials"]] == [[row[key] for key in kept] for row in whole["trials"]]


def test_a_latency_is_measured_before_training_and_a_limit_that_nothing_keeps_ends_the_search(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = tmp_path / "log"
    monkeypatch.setattr(Bench, "latency_ms", lambda self, architecture: 1.0)
    monkeypatch.setattr(trial_search, "OVER_BUDGET", 7)
    with pytest.raises(
        UserError, match=r"7 proposals in a row broke a constraint \(latency_ms <= 0.5, and the nearest had 1\); loosen it"
    ):
        search(data, tmp_path / "run", 'search.constraints=["latency_ms <= 0.5"]', f"search.log={log}")
    assert not log.exists()


def test_a_latency_near_its_limit_ends_no_full_training(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured once more it might be over; it was within when the trial was let in."""
    measured: list[str] = []

    def latency_ms(self: Bench, architecture: Any) -> float:
        measured.append(identity(architecture))
        return 1.0 if measured.count(measured[-1]) == 1 else 3.0

    monkeypatch.setattr(Bench, "latency_ms", latency_ms)
    settings = ['search.constraints=["latency_ms <= 2"]', "search.rerank=2", "search.rerank_epochs=1", "search.trials=4"]
    told = search(data, tmp_path / "run", *settings)
    again = [row for row in told["trials"] if row["stage"] == "rerank"]
    assert [(row["status"], row["costs"]["latency_ms"]) for row in again] == [("done", 1.0), ("done", 1.0)]


def test_a_run_that_was_moved_goes_on_with_its_trials(data: str, tmp_path: Path) -> None:
    told = search(data, tmp_path / "run", f"search.log={tmp_path / 'log'}")
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "moved" / "architecture.json").unlink()
    again = search(data, tmp_path / "moved", resume=True)
    assert len((tmp_path / "log").read_text().splitlines()) == 12
    assert [(row["id"], row["metrics"]) for row in again["trials"]] == [(row["id"], row["metrics"]) for row in told["trials"]]


def test_trials_in_a_database_are_of_one_run_though_another_lay_at_its_path(data: str, tmp_path: Path) -> None:
    storage = f"execution.storage=sqlite:///{tmp_path / 'shared.sqlite'}"
    for _ in range(2):
        search(data, tmp_path / "run", storage, f"search.log={tmp_path / 'log'}")
        shutil.rmtree(tmp_path / "run")
    assert len((tmp_path / "log").read_text().splitlines()) == 24


def test_a_search_does_not_go_on_without_its_trials(data: str, tmp_path: Path) -> None:
    search(data, tmp_path / "run")
    (tmp_path / "run" / "architecture.json").unlink()
    other = f"execution.storage=sqlite:///{tmp_path / 'other.sqlite'}"
    with pytest.raises(UserError, match=r"holds 0 of the 12 trials of this search; go on with the execution\.storage"):
        search(data, tmp_path / "run", other, resume=True)
    assert len(search(data, tmp_path / "run", 'execution.storage=""', resume=True)["trials"]) == 12


def test_a_worker_that_is_stopped_with_its_search_does_not_fail_its_trial(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a batch system ends all processes of a job: a trial of three attempts is not given up for that."""
    deadly = tmp_path / "left"
    deadly.write_text("3")
    settings = (f"search.deadly={deadly}", "execution.workers=1", "search.trials=3")
    with monkeypatch.context() as patched:
        patched.setattr(StopRequest, "requested", property(lambda self: deadly.read_text() == "0"))
        with pytest.raises(Interrupted):
            search(data, tmp_path / "run", *settings)
    assert found(tmp_path / "run")["trials"][0]["status"] == "running"
    told = search(data, tmp_path / "run", *settings, resume=True)
    assert [row["status"] for row in told["trials"]] == ["done"] * 3


def test_random_search_over_the_space_of_another_system(data: str, tmp_path: Path) -> None:
    system = load_system("random/darts")
    config = system.presets["quick"]()
    assert config.search.strategy == "random"
    assert config.network == load_system("darts").presets["quick"]().network
    with pytest.raises(UserError, match="say which space is to be searched"):
        segnas.search("random", data=data, out=tmp_path / "run", preset="quick")
    with pytest.raises(UserError, match="unknown space 'dart'; did you mean 'darts'"):
        segnas.search("random", data=data, out=tmp_path / "run", preset="quick", overrides=["space=dart"])


def test_a_space_in_a_file_is_found_wherever_its_run_is_continued_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(SYSTEM).parent)
    for system, settings in {"random/tiny_trials.py": (), "random": ("space=tiny_trials.py",)}.items():
        assert plan(system, "demo", "quick", settings).system == f"random/{SYSTEM}"


def test_a_setting_below_a_value_is_no_setting() -> None:
    config = load_system("amoebanet").presets["quick"]()
    with pytest.raises(UserError, match=r"unknown key '.*\.population\.x'; .*\.population is a value"):
        override(config, ["search.options.evolution.population.x=4"])


def test_a_stop_between_trials_saves_and_says_how_far(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StopRequest, "requested", property(lambda self: len(list((tmp_path / "run").glob("search.json"))) > 0))
    with pytest.raises(Interrupted, match=r"the search is saved after \d+ of 12 trials"):
        search(data, tmp_path / "run")
