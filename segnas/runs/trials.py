"""The trials of a search: an Optuna study in a SQLite file of the run, or in a database server such as PostgreSQL.

    store = TrialStore.open(run.path / "trials.sqlite", "darts", ["maximize"])
    trial = store.start(to_json(architecture), identity(architecture), indices, stage="search", seed=0, known=3, ...)
    store.finish(trial.number, "done", order=3, values=(61.2,), metrics={"mIoU": 61.2}, ...)

The study is Optuna's in every table, so that `optuna-dashboard sqlite:///trials.sqlite` and `optuna.load_study` open it as it is:
the index of each choice is an integer parameter, all else is a user attribute. Optuna makes the tables and the study. Rows are
written and read here, a trial in one transaction and all trials in three queries: through Optuna's own functions a trial of 40
choices takes 130 queries and 9 commits, and reading takes 30 times as long.

Only the process that drives a search writes. Several drivers, on several machines, may write to one study.
"""

from __future__ import annotations

import contextlib
import json
import math
import random
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

from segnas.errors import UserError

Status = Literal["running", "done", "stopped", "failed", "over budget"]
Direction = Literal["maximize", "minimize"]

STATES = {  # what Optuna calls each status; what was pruned says in its attribute `status` why
    "running": "RUNNING",
    "done": "COMPLETE",
    "stopped": "PRUNED",
    "over budget": "PRUNED",
    "failed": "FAIL",
}
PATIENCE = 60  # seconds that a writer waits for another one of the same SQLite file
ANSWER = 10  # seconds within which a server has to answer
TRIES = 10  # at making the tables, which several drivers may do at once


@dataclass(frozen=True)
class Trial:
    """One row of the study.

    number: from 0, unique in the study. architecture, id: canonical JSON and identity (spaces/architecture.py). stage: "search",
    "rerank", ... seed: of its estimate. known: how many results the strategy had been told when this was proposed. order: the
    position in which its own result was told, from 0; None while it runs. attempts: how often it was started. values: the
    objectives as the user named them, nothing negated; None where there are none. seconds: of the estimate. started, finished:
    seconds since 1970. machine: where it ran. hint: what its estimate knew of the others.
    """

    number: int
    architecture: dict[str, Any]
    id: str
    status: Status
    stage: str
    seed: int
    known: int
    order: int | None
    attempts: int
    values: tuple[float, ...] | None
    metrics: dict[str, float]
    costs: dict[str, float]
    error: str | None
    seconds: float | None
    started: float
    finished: float | None
    machine: str | None
    hint: dict[str, Any]


class TrialStore:
    """A study. `location` names it in messages, without a password."""

    def __init__(self, storage: Any, study: int, objectives: int, location: str) -> None:
        """For `open`. storage: an optuna RDBStorage. study: its number there."""
        from optuna.storages._rdb import models

        self.location = location
        self._storage, self._study, self._objectives = storage, study, objectives
        tables = models.BaseModel.metadata.tables
        self._trials, self._parameters, self._values = tables["trials"], tables["trial_params"], tables["trial_values"]
        self._attributes, self._studies = tables["trial_user_attributes"], tables["studies"]

    @classmethod
    def open(cls, location: str | Path, name: str, directions: Sequence[Direction], objectives: Sequence[str] = ()) -> TrialStore:
        """The study `name`, made when it is not there.

        location: a SQLite file, or a URL of SQLAlchemy's (`postgresql://user@host/database`). directions: one an objective.
        objectives: their names, for the dashboard.

        Raises UserError where a package is missing, the file or the server cannot be used, or the study has other directions.
        """
        try:
            import optuna
        except ImportError:
            raise UserError("trials are kept by the package optuna, which is not installed: pip install optuna") from None

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        url, shown, options = _address(location)
        with _one_line(shown):
            storage = _storage(url, options)
            study = optuna.create_study(storage=storage, study_name=name, directions=list(directions), load_if_exists=True)
            stored = [direction.name.lower() for direction in study.directions]
            if stored != list(directions):
                raise UserError(f"the study '{name}' in {shown} is to {' and '.join(stored)}, not {' and '.join(directions)}")
            if objectives and study.metric_names != list(objectives):
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # it is called experimental; the dashboard reads it all the same
                    study.set_metric_names(list(objectives))
            return cls(storage, study._study_id, len(stored), shown)

    def trials(self) -> list[Trial]:
        """All of them by number, whoever wrote them."""
        import sqlalchemy

        def of_study(table: Any) -> Any:
            inside = sqlalchemy.select(table).join(self._trials, table.c.trial_id == self._trials.c.trial_id)
            return inside.where(self._trials.c.study_id == self._study)

        attributes: dict[int, dict[str, Any]] = {}
        values: dict[int, dict[int, float]] = {}
        with _one_line(self.location), self._storage.engine.connect() as connection:
            if self._storage.engine.dialect.name == "postgresql":  # one moment for all three queries
                connection = connection.execution_options(isolation_level="REPEATABLE READ")
            else:
                connection.exec_driver_sql("BEGIN")
            rows = connection.execute(sqlalchemy.select(self._trials).where(self._trials.c.study_id == self._study)).all()
            for row in connection.execute(of_study(self._attributes)):
                attributes.setdefault(row.trial_id, {})[row.key] = json.loads(row.value_json)
            for row in connection.execute(of_study(self._values)):
                values.setdefault(row.trial_id, {})[row.objective] = row.value
        if any("architecture" not in attributes.get(row.trial_id, {}) for row in rows):
            raise UserError(f"the study in {self.location} holds trials that no search of segnas made; choose another database")
        found = [self._trial(row, attributes[row.trial_id], values.get(row.trial_id)) for row in rows]
        return sorted(found, key=lambda trial: trial.number)

    def start(
        self,
        architecture: Mapping[str, Any],
        id: str,
        indices: Mapping[str, tuple[int, int]],
        stage: str,
        seed: int,
        known: int,
        costs: Mapping[str, float],
        hint: Mapping[str, Any],
    ) -> Trial:
        """A new trial that runs from now on, with the next number; it is in the study whole or not at all.

        indices: by the name of the choice, the index of its option and how many options there were.
        """
        from optuna.distributions import IntDistribution, distribution_to_json
        from optuna.trial import TrialState

        attributes = {
            "architecture": json.dumps(architecture, sort_keys=True, separators=(",", ":")),
            "id": id,
            "stage": stage,
            "seed": seed,
            "known": known,
            "attempts": 1,
            "costs": dict(costs),
            "hint": dict(hint),
        }
        begun = time.time()
        with self._transaction() as connection:
            # Drivers take turns: the row of the study is locked on a server, the file by the first insertion in SQLite.
            connection.execute(self._studies.select().where(self._studies.c.study_id == self._study).with_for_update())
            new = self._trials.insert().values(study_id=self._study, state=TrialState.RUNNING, datetime_start=_utc(begun))
            key = connection.execute(new).inserted_primary_key[0]
            number = self._count_before(connection, key)
            connection.execute(self._trials.update().where(self._trials.c.trial_id == key).values(number=number))
            parameters = [
                {
                    "trial_id": key,
                    "param_name": name,
                    "param_value": float(index),
                    "distribution_json": distribution_to_json(IntDistribution(0, options - 1)),
                }
                for name, (index, options) in indices.items()
            ]
            if parameters:
                connection.execute(self._parameters.insert(), parameters)
            self._add(connection, key, attributes)
            row = connection.execute(self._trials.select().where(self._trials.c.trial_id == key)).one()
        return self._trial(row, json.loads(json.dumps(attributes)), None)

    def again(self, number: int) -> int:
        """Note that a trial is started once more; returns its attempts. Raises ValueError for one that is finished."""
        with self._transaction() as connection:
            key = self._running(connection, number)
            if key is None:
                raise ValueError(f"trial {number} is finished and is not started again")
            attempts = int(self._attribute(connection, key, "attempts")) + 1
            self._set(connection, key, "attempts", attempts)
        return attempts

    def finish(
        self,
        number: int,
        status: Status,
        order: int,
        values: Sequence[float] | None = None,
        metrics: Mapping[str, float] | None = None,
        costs: Mapping[str, float] | None = None,
        error: str | None = None,
        seconds: float | None = None,
        machine: str | None = None,
    ) -> bool:
        """Write a result, whole or not at all, so that a kill leaves the trial running; False where it has one already.

        costs: take the place of those that `start` noted, if given.

        Raises ValueError for values that do not fit: "done" needs a finite one for each objective, "failed" and "over budget"
        have none.
        """
        from optuna.trial import TrialState

        self._check(status, values)
        attributes = {"status": status, "order": order, "error": error, "seconds": seconds, "machine": machine}
        attributes = {name: value for name, value in attributes.items() if value is not None} | {"metrics": dict(metrics or {})}
        table = self._trials
        with self._transaction() as connection:
            key = self._running(connection, number)
            if key is None:
                return False
            state = {"state": TrialState[STATES[status]], "datetime_complete": _utc(time.time())}
            connection.execute(table.update().where(table.c.trial_id == key).values(state))
            if costs is not None:
                self._set(connection, key, "costs", dict(costs))
            self._add(connection, key, attributes)
            for objective, value in enumerate(values or ()):
                row = {"trial_id": key, "objective": objective, "value": float(value), "value_type": "FINITE"}
                connection.execute(self._values.insert(), row)
        return True

    def close(self) -> None:
        """Give the connections back."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Any]:
        with _one_line(self.location), self._storage.engine.begin() as connection:
            if self._storage.engine.dialect.name == "sqlite":  # now, not at the first write: what is read before stays true
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection

    def _count_before(self, connection: Any, key: int) -> int:
        """How many trials of the study were made before this one, which is how Optuna numbers them."""
        import sqlalchemy

        before = (self._trials.c.study_id == self._study) & (self._trials.c.trial_id < key)
        return int(connection.execute(sqlalchemy.select(sqlalchemy.func.count()).where(before)).scalar_one())

    def _running(self, connection: Any, number: int) -> int | None:
        """The key of a trial, locked for this transaction; None when it is finished. Raises KeyError when there is none."""
        from optuna.trial import TrialState

        table = self._trials
        query = table.select().where((table.c.study_id == self._study) & (table.c.number == number)).with_for_update()
        row = connection.execute(query).one_or_none()
        if row is None:
            raise KeyError(f"there is no trial {number} in {self.location}")
        return int(row.trial_id) if row.state == TrialState.RUNNING else None

    def _attribute(self, connection: Any, key: int, name: str) -> Any:
        where = (self._attributes.c.trial_id == key) & (self._attributes.c.key == name)
        return json.loads(connection.execute(self._attributes.select().where(where)).one().value_json)

    def _set(self, connection: Any, key: int, name: str, value: Any) -> None:
        where = (self._attributes.c.trial_id == key) & (self._attributes.c.key == name)
        connection.execute(self._attributes.update().where(where).values(value_json=json.dumps(value)))

    def _add(self, connection: Any, key: int, attributes: Mapping[str, Any]) -> None:
        rows = [{"trial_id": key, "key": name, "value_json": json.dumps(value)} for name, value in attributes.items()]
        connection.execute(self._attributes.insert(), rows)

    def _check(self, status: Status, values: Sequence[float] | None) -> None:
        if status not in get_args(Status) or status == "running":
            raise ValueError(f"a trial does not finish as '{status}'")
        if (status == "done" and values is None) or (status in ("failed", "over budget") and values is not None):
            raise ValueError(f"a trial that is {status} has {'values' if values is None else 'no values'}")
        if values is not None and (len(values) != self._objectives or not all(math.isfinite(value) for value in values)):
            raise ValueError(f"{self._objectives} finite values are needed, not {list(values)}")

    @staticmethod
    def _trial(row: Any, attributes: Mapping[str, Any], values: Mapping[int, float] | None) -> Trial:
        states = {state: status for status, state in STATES.items()}
        return Trial(
            number=row.number,
            architecture=json.loads(attributes["architecture"]),
            id=attributes["id"],
            status=attributes.get("status", states[row.state.name]),
            stage=attributes["stage"],
            seed=attributes["seed"],
            known=attributes["known"],
            order=attributes.get("order"),
            attempts=attributes["attempts"],
            values=None if values is None else tuple(values[objective] for objective in sorted(values)),
            metrics=attributes.get("metrics", {}),
            costs=attributes["costs"],
            error=attributes.get("error"),
            seconds=attributes.get("seconds"),
            started=row.datetime_start.replace(tzinfo=UTC).timestamp(),
            finished=None if row.datetime_complete is None else row.datetime_complete.replace(tzinfo=UTC).timestamp(),
            machine=attributes.get("machine"),
            hint=attributes["hint"],
        )


def _address(location: str | Path) -> tuple[str, str, dict[str, Any]]:
    """The URL for Optuna, how messages name it, and options of SQLAlchemy's create_engine."""
    import sqlalchemy

    if isinstance(location, Path) or "://" not in location:
        path = Path(location)
        if not path.parent.is_dir():
            raise UserError(f"cannot keep trials in {path}: there is no folder {path.parent}")
        url = sqlalchemy.URL.create("sqlite", database=str(path))
        shown = str(path)
    else:
        try:
            url = sqlalchemy.make_url(location)
            url.get_dialect()
        except (sqlalchemy.exc.ArgumentError, ValueError):
            raise UserError(
                f"the address of the trials' database cannot be read ({location.split('@')[-1]}); write postgresql://USER@HOST/DATABASE"
            ) from None
        shown = url.render_as_string(hide_password=True)
    if url.drivername == "postgresql":
        url = url.set(drivername="postgresql+psycopg")
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.get_backend_name() == "sqlite":
        # Python's own handling begins a transaction at the first write; BEGIN is sent here instead.
        options["connect_args"] = {"timeout": PATIENCE}
    elif url.get_backend_name() == "postgresql":
        options["connect_args"] = {"connect_timeout": ANSWER}
    whole = url.render_as_string(hide_password=False)
    return whole.replace("{", "{{").replace("}", "}}"), shown, options  # Optuna fills in braces


def _storage(url: str, options: Mapping[str, Any]) -> Any:
    """Optuna's storage with its tables, which several drivers may be making at this moment."""
    import optuna
    import sqlalchemy

    for attempt in range(1, TRIES + 1):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=dict(options))
        except ImportError as error:
            if "psycopg" in url:
                raise UserError("a PostgreSQL server needs the package psycopg: pip install 'segnas[postgres]'") from None
            raise UserError(f"the driver of this database is not installed ({error.__cause__ or error})") from None
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.OperationalError) as error:
            made_by_another = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
            if not made_by_another or attempt == TRIES:
                raise
            time.sleep(random.uniform(0.05, 0.3))
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _one_line(shown: str) -> Iterator[None]:
    """What a database refuses, as a UserError."""
    import optuna
    import sqlalchemy

    try:
        yield
    except (sqlalchemy.exc.DatabaseError, optuna.exceptions.StorageInternalError) as raised:
        error: BaseException = raised
        while error.__cause__ is not None and not isinstance(error, sqlalchemy.exc.DBAPIError):
            error = error.__cause__
        refused = type(error) in (sqlalchemy.exc.OperationalError, sqlalchemy.exc.DatabaseError)
        if not refused or not isinstance(error, sqlalchemy.exc.DBAPIError):
            raise  # a fault of what is written here, not of the disk or the server
        said = str(error.orig).strip()
        if "disk is full" in said or "No space left" in said:
            raise UserError(
                f"the disk is full: cannot write {shown}; the trials so far are intact; free some space and go on with --resume"
            ) from None
        raise UserError(f"cannot use the trials in {shown}: {' '.join(said.split()):.300}") from None


def _utc(seconds: float) -> datetime:
    """As Optuna's tables hold moments."""
    return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
