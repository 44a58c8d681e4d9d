"""The trial store on a real PostgreSQL server: the same as in a file, several drivers at once, a server that goes away."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from postgres_server import Server, running_server
from small_trials import all_there, begin, write_at_once

from segnas.errors import UserError
from segnas.runs.trials import Trial, TrialStore

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with running_server() as server:
        yield server


def written(location: str | Path) -> list[Trial]:
    """What a study of one trial of each status reads like, without its times."""
    store = TrialStore.open(location, "chain", ["maximize", "minimize"], ["mIoU", "latency_ms"])
    for known in range(5):
        begin(store, known=known, hint={"long": "x" * 20_000})
    store.again(2)
    store.finish(0, "done", 0, (50.1, 3.0), {"mIoU": 50.1, "loss": float("inf")}, {"latency_ms": 3.0}, None, 1.5, "here")
    store.finish(1, "stopped", 1, (20.0, 1 / 3))
    store.finish(2, "over budget", 2)
    store.finish(3, "failed", 3, error="Diverged: no ‹number›")
    assert not store.finish(3, "failed", 4)
    trials = store.trials()
    store.close()
    again = TrialStore.open(location, "chain", ["maximize", "minimize"])
    assert again.trials() == trials
    again.close()
    assert all(trial.finished is None or trial.finished >= trial.started for trial in trials)
    return [dataclasses.replace(trial, started=0.0, finished=None) for trial in trials]


def test_a_server_and_a_file_read_the_same(server: Server, tmp_path: Path) -> None:
    location = server.create("same")
    assert written(location) == written(tmp_path / "trials.sqlite")
    studies = [
        optuna.load_study(study_name="chain", storage=url)
        for url in (location.replace("postgresql:", "postgresql+psycopg:"), f"sqlite:///{tmp_path / 'trials.sqlite'}")
    ]
    seen = [[(t.number, t.state, t.values, t.params, t.user_attrs) for t in study.get_trials()] for study in studies]
    assert seen[0] == seen[1]
    assert studies[0].directions == studies[1].directions
    assert studies[0].metric_names == studies[1].metric_names


def test_two_drivers_write_to_one_study(server: Server) -> None:
    all_there(write_at_once(server.create("shared"), 100), 100)


def test_a_database_that_is_not_there_is_one_line(server: Server) -> None:
    with pytest.raises(UserError, match="does not exist") as error:
        TrialStore.open(server.url("nowhere"), "chain", ["maximize"])
    assert "\n" not in str(error.value)


def test_a_server_may_be_started_again_between_two_trials(server: Server) -> None:
    store = TrialStore.open(server.create("restarted"), "chain", ["maximize"])
    begin(store)
    server.stop()
    with pytest.raises(UserError, match="cannot use the trials in postgresql") as error:
        begin(store)
    assert "\n" not in str(error.value)
    server.start()
    assert store.finish(0, "done", 0, (1.0,))
    assert [trial.status for trial in store.trials()] == ["done"]
    store.close()
