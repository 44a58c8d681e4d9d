"""The trial store: what comes back, what Optuna sees of it, kills at every statement, mistakes in one line, several writers."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from small_trials import ARCHITECTURE, INDICES, all_there, begin, write_at_once

from segnas.errors import UserError
from segnas.runs.trials import STATES, Trial, TrialStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "trials.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[TrialStore]:
    store = TrialStore.open(path, "chain", ["maximize", "minimize"], ["mIoU", "latency_ms"])
    yield store
    store.close()


def one_line(error: pytest.ExceptionInfo[UserError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_a_trial_comes_back_as_it_was_started(store: TrialStore) -> None:
    before = time.time()
    trial = begin(store)
    assert before - 1e-3 <= trial.started <= time.time()
    assert dataclasses.replace(trial, started=0.0) == Trial(
        number=0,
        architecture=ARCHITECTURE,
        id="0123456789ab",
        status="running",
        stage="search",
        seed=7,
        known=0,
        order=None,
        attempts=1,
        values=None,
        metrics={},
        costs={"parameters": 12.0},
        error=None,
        seconds=None,
        started=0.0,
        finished=None,
        machine=None,
        hint={"median": [1.5, None]},
    )
    assert store.trials() == [trial]
    assert begin(store, stage="rerank", known=1).number == 1
    assert [(one.number, one.stage, one.known) for one in store.trials()] == [(0, "search", 0), (1, "rerank", 1)]


def test_results_come_back_from_another_process_of_the_search(store: TrialStore, path: Path) -> None:
    for _ in range(5):
        begin(store)
    assert store.again(1) == 2
    assert store.finish(1, "done", 0, (61.5, 0.1), {"mIoU": 61.5, "loss": float("nan")}, {"latency_ms": 0.1}, None, 2.5, "here")
    assert store.finish(0, "failed", 1, error="out of memory", seconds=0.5, machine="there")
    assert store.finish(4, "over budget", 2, costs={"parameters": 9e9})
    assert store.finish(3, "stopped", 3, (1 / 3, 4.0), {"mIoU": 1 / 3})
    store.close()
    again = TrialStore.open(path, "chain", ["maximize", "minimize"])
    trials = again.trials()
    again.close()
    assert [one.number for one in trials] == [0, 1, 2, 3, 4]
    assert [one.status for one in trials] == ["failed", "done", "running", "stopped", "over budget"]
    assert [one.order for one in trials] == [1, 0, None, 3, 2]
    assert [one.attempts for one in trials] == [1, 2, 1, 1, 1]
    assert [one.values for one in trials] == [None, (61.5, 0.1), None, (1 / 3, 4.0), None]
    assert (trials[0].error, trials[0].seconds, trials[0].machine) == ("out of memory", 0.5, "there")
    assert trials[1].metrics["mIoU"] == 61.5
    assert trials[1].metrics["loss"] != trials[1].metrics["loss"]
    assert trials[1].costs == {"latency_ms": 0.1}
    assert trials[0].costs == {"parameters": 12.0}, "those of the start"
    assert trials[2].finished is None
    assert trials[1].finished is not None
    assert trials[1].started <= trials[1].finished <= time.time()


def test_optuna_reads_the_study(store: TrialStore, path: Path) -> None:
    for _ in range(5):
        begin(store)
    store.finish(0, "done", 0, (50.0, 3.0), {"mIoU": 50.0})
    store.finish(1, "stopped", 1, (20.0, 3.0))
    store.finish(2, "over budget", 2)
    store.finish(3, "failed", 3, error="Diverged: no number")
    study = optuna.load_study(study_name="chain", storage=f"sqlite:///{path}")
    assert [direction.name for direction in study.directions] == ["MAXIMIZE", "MINIMIZE"]
    assert study.metric_names == ["mIoU", "latency_ms"]
    trials = study.get_trials()
    assert [trial.number for trial in trials] == [0, 1, 2, 3, 4]
    assert [trial.state.name for trial in trials] == ["COMPLETE", "PRUNED", "PRUNED", "FAIL", "RUNNING"]
    assert [trial.values for trial in trials] == [[50.0, 3.0], [20.0, 3.0], None, None, None]
    assert trials[0].params == {"widths.0": 0, "widths.1": 1, "name": 0}
    assert list(trials[0].params) == list(INDICES), "in the order of asking"
    assert trials[0].distributions["widths.0"] == optuna.distributions.IntDistribution(0, 2)
    attributes = trials[3].user_attrs
    assert attributes["architecture"] == json.dumps(ARCHITECTURE, sort_keys=True, separators=(",", ":"))
    assert (attributes["id"], attributes["status"], attributes["error"]) == ("0123456789ab", "failed", "Diverged: no number")
    assert [trial.user_attrs.get("status") for trial in trials] == ["done", "stopped", "over budget", "failed", None]
    for ours, theirs in zip(store.trials(), trials, strict=True):
        assert theirs.datetime_start is not None
        assert theirs.datetime_start.timestamp() == pytest.approx(ours.started, abs=1e-5)
    assert [trial.number for trial in study.best_trials] == [0]
    fresh = study.ask()  # what Optuna adds itself is numbered on
    assert fresh.number == 5


def test_trials_of_others_are_not_taken_for_architectures(store: TrialStore, path: Path) -> None:
    optuna.load_study(study_name="chain", storage=f"sqlite:///{path}").ask()
    with pytest.raises(UserError, match="no search of segnas made") as error:
        store.trials()
    one_line(error)


def test_options_may_be_fewer_than_before(store: TrialStore, path: Path) -> None:
    begin(store, indices={"path.1": (2, 3)})
    begin(store, indices={"path.1": (0, 1), "path.2": (4, 5)})
    begin(store, indices={})
    study = optuna.load_study(study_name="chain", storage=f"sqlite:///{path}")
    assert [trial.params for trial in study.get_trials()] == [{"path.1": 2}, {"path.1": 0, "path.2": 4}, {}]


def test_a_result_is_written_once(store: TrialStore) -> None:
    begin(store)
    assert store.finish(0, "done", 0, (50.0, 3.0), seconds=1.0)
    written = store.trials()
    assert not store.finish(0, "failed", 1, error="late")
    assert not store.finish(0, "done", 1, (51.0, 3.0))
    assert store.trials() == written
    with pytest.raises(ValueError, match="finished"):
        store.again(0)
    with pytest.raises(KeyError):
        store.finish(9, "failed", 0)


def test_values_that_do_not_fit_are_refused(store: TrialStore) -> None:
    begin(store)
    wrong: list[tuple[Any, Any]] = [
        *(("done", values) for values in (None, (1.0,), (1.0, 2.0, 3.0), (1.0, float("nan")), (float("inf"), 1.0))),
        *(("failed", (1.0, 2.0)), ("over budget", (1.0, 2.0)), ("running", None), ("finished", None)),
    ]
    for status, values in wrong:
        with pytest.raises(ValueError, match=r"values|finish"):
            store.finish(0, status, 0, values)
    assert store.trials()[0].status == "running"


def test_what_a_trial_takes_does_not_grow_with_its_choices(store: TrialStore) -> None:
    statements = []
    sqlalchemy.event.listen(store._storage.engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    for choices in (1, 200):
        statements.clear()
        number = begin(store, indices={f"cell.{choice}": (0, 4) for choice in range(choices)}).number
        store.finish(number, "done", number, (1.0, 2.0))
        assert len(statements) < 20
    statements.clear()
    assert len(store.trials()) == 2
    assert len(statements) < 6


def killed_at(path: Path, statement: int) -> bool:
    """Start and finish a trial in a process that is killed as it sends the `statement`-th one; whether it was."""
    child = os.fork()
    if child == 0:
        store = TrialStore.open(path, "chain", ["maximize"])
        sent = 0

        def count(*given: Any) -> None:
            nonlocal sent
            sent += 1
            if sent == statement:
                os.kill(os.getpid(), signal.SIGKILL)

        sqlalchemy.event.listen(store._storage.engine, "before_cursor_execute", count)
        sqlalchemy.event.listen(store._storage.engine, "commit", count)
        trial = begin(store, costs={})
        store.finish(trial.number, "done", trial.number, (1.0,), {"mIoU": 1.0}, {"parameters": 1.0})
        os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_a_kill_at_any_statement_leaves_a_trial_whole(path: Path) -> None:
    TrialStore.open(path, "chain", ["maximize"]).close()
    statuses, statement = [], 1
    while killed_at(path, statement):
        store = TrialStore.open(path, "chain", ["maximize"])
        trials = store.trials()
        assert [trial.number for trial in trials] == list(range(len(trials)))
        for trial in trials:
            assert trial.architecture == ARCHITECTURE
            assert (trial.values, trial.metrics, trial.costs) == (None, {}, {})
            assert trial.status == "running"
        statuses.append(len(trials))
        study = optuna.load_study(study_name="chain", storage=f"sqlite:///{path}")
        assert all(len(trial.params) == len(INDICES) for trial in study.get_trials())
        store.close()
        statement += 1
    assert statement > 10
    assert 0 in statuses, "killed before the trial was there"
    assert statuses[-1] > 3, "killed while it was being finished"
    store = TrialStore.open(path, "chain", ["maximize"])
    assert store.trials()[-1].status == "done"
    store.close()


def test_two_drivers_write_to_one_file(path: Path) -> None:
    all_there(write_at_once(str(path), 25), 25)


def test_a_full_disk_is_one_line_and_loses_nothing(store: TrialStore) -> None:
    begin(store)
    store.finish(0, "done", 0, (1.0, 2.0))
    kept = store.trials()
    with store._storage.engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()

    def limit(connection: Any, record: Any, proxy: Any) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}")

    sqlalchemy.event.listen(store._storage.engine, "checkout", limit)
    with pytest.raises(UserError, match=r"the disk is full: cannot write .*trials\.sqlite.*intact.*--resume") as error:
        begin(store, hint={"long": "x" * 100_000})
    one_line(error)
    assert store.trials() == kept


def test_a_study_of_other_objectives_is_refused(store: TrialStore, path: Path) -> None:
    with pytest.raises(UserError, match=r"'chain' .* is to maximize and minimize, not maximize") as error:
        TrialStore.open(path, "chain", ["maximize"])
    one_line(error)


def test_files_that_cannot_be_used_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database at all, and long enough to be looked at as one" * 100)
    (tmp_path / "folder").mkdir()
    for location, said in (
        (tmp_path / "text", "not a database"),
        (tmp_path / "folder", "unable to open"),
        (tmp_path / "none" / "trials.sqlite", "there is no folder"),
        ("mongo://me:secret@somewhere/x", "cannot be read .somewhere/x"),
        ("postgresql://host:port/x", "cannot be read"),
    ):
        with pytest.raises(UserError, match=said) as error:
            TrialStore.open(location, "chain", ["maximize"])
        assert "secret" not in one_line(error)


def test_names_of_files_may_hold_anything(tmp_path: Path) -> None:
    path = tmp_path / "a run? 100% {of} #1.sqlite"
    for _ in range(2):
        store = TrialStore.open(path, "chain", ["maximize"])
        begin(store)
        store.close()
    assert [one.name for one in tmp_path.iterdir()] == [path.name]
    store = TrialStore.open(str(path), "chain", ["maximize"])
    assert len(store.trials()) == 2
    store.close()


def test_a_server_that_does_not_answer_is_one_line() -> None:
    with pytest.raises(UserError, match=r"postgresql://me:\*\*\*@127\.0\.0\.1:9/x") as error:
        TrialStore.open("postgresql://me:secret@127.0.0.1:9/x", "chain", ["maximize"])
    assert "refused" in one_line(error)
    assert "secret" not in one_line(error)


def test_missing_packages_are_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(UserError, match=r"segnas\[postgres\]") as error:
        TrialStore.open("postgresql://127.0.0.1/x", "chain", ["maximize"])
    one_line(error)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UserError, match="pip install optuna") as error:
        TrialStore.open(path, "chain", ["maximize"])
    one_line(error)


def test_every_status_is_a_state_of_optunas() -> None:
    assert {optuna.trial.TrialState[state] for state in STATES.values()} == set(optuna.trial.TrialState) - {
        optuna.trial.TrialState.WAITING
    }
