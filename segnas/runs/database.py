"""Where trials are kept: a SQLite file or a database server, opened for Optuna, and what it refuses in one line."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segnas.errors import UserError

PATIENCE = 60  # seconds that a writer waits for another one of the same SQLite file
ANSWER = 10  # seconds within which a server has to answer
TRIES = 10  # at making the tables, which several drivers may do at once


def address_of(location: str | Path) -> tuple[str, str, dict[str, Any]]:
    """The URL for Optuna, how messages name it (without a password), and options of SQLAlchemy's create_engine.

    Raises UserError for a file in no folder and an address that is none.
    """
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
        except (sqlalchemy.exc.ArgumentError, sqlalchemy.exc.NoSuchModuleError, ValueError):
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


def require_database(address: str) -> None:
    """Raise UserError for what is no address of a database, and where none answers; nothing is written."""
    import sqlalchemy

    if "://" not in address:
        raise UserError(f"'{address}' is no address of a database; write execution.storage=postgresql://USER@HOST/DATABASE")
    url, shown, options = address_of(address)
    if not url.startswith("postgresql"):  # a file, which connecting would make
        return
    try:
        with one_line(shown):
            engine = sqlalchemy.create_engine(url.replace("{{", "{").replace("}}", "}"), **options)
            engine.connect().close()
            engine.dispose()
    except ImportError:
        raise UserError("a PostgreSQL server needs the package psycopg: pip install 'segnas[postgres]'") from None


def make_storage(url: str, options: Mapping[str, Any]) -> Any:
    """Optuna's storage with its tables, which several drivers may be making at this moment.

    Raises UserError when the database's driver is not installed or the tables are of another version of Optuna.
    """
    import optuna
    import sqlalchemy

    for attempt in range(1, TRIES + 1):
        try:
            return optuna.storages.RDBStorage(url, engine_kwargs=dict(options))
        except ImportError as error:
            if "psycopg" in url:
                raise UserError("a PostgreSQL server needs the package psycopg: pip install 'segnas[postgres]'") from None
            raise UserError(f"the driver of this database is not installed ({error.__cause__ or error})") from None
        except RuntimeError as error:  # tables of another version of Optuna
            raise UserError(" ".join(str(error).split())) from None
        except (sqlalchemy.exc.IntegrityError, sqlalchemy.exc.ProgrammingError, sqlalchemy.exc.OperationalError) as error:
            made_by_another = isinstance(error, sqlalchemy.exc.IntegrityError) or "already exists" in str(error)
            if not made_by_another or attempt == TRIES:
                raise
            time.sleep(random.uniform(0.05, 0.3))
    raise AssertionError("unreachable")


@contextlib.contextmanager
def one_line(shown: str) -> Iterator[None]:
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
