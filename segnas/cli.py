"""The command line: runs a verb (verbs.py) and turns what goes wrong into one line on standard error and an exit status."""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import typer

from segnas import processes
from segnas.errors import Disconnected, Interrupted, UserError
from segnas.printing import trials_table
from segnas.runs import progress
from segnas.runs.run import FULL_DISK
from segnas.verbs import app

STOPPED = 130  # exit status after Ctrl-C
SHARED_VERBS = ("run", "search", "retrain", "evaluate")  # what several processes can work on together
GRACE = 3.0  # seconds in which torchrun ends this process, should another one have said already what went wrong
UNUSABLE = (PermissionError, IsADirectoryError, NotADirectoryError)  # errors of the file system that a user can mend


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point: runs a verb and turns what goes wrong into one line and an exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if processes.world() == 1:
        answer(given)
        return
    try:
        if not processes.is_first():
            sys.stdout = open(os.devnull, "w", encoding="utf-8")
        if given and given[0] not in SHARED_VERBS and not given[0].startswith("-"):
            fail(f"{given[0]} takes one process; start it without torchrun (several processes: {', '.join(SHARED_VERBS)})")
        answer(given)
        from segnas.training.device import disconnect

        disconnect()
    except SystemExit as done:
        processes.leave(done.code if isinstance(done.code, int) else int(done.code is not None))
    except BaseException:
        traceback.print_exc()
        processes.leave(1)


def answer(given: list[str]) -> None:
    """Run a verb; `main` for one process."""
    if given in ([], ["data"]):
        given.append("--help")
    command = typer.main.get_command(app)
    progress.table_of_trials = trials_table
    try:
        with command.make_context("segnas", list(given)) as context:  # not app(...), which keeps Ctrl-C to itself
            command.invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:  # of --help
        sys.exit(done.exit_code)
    except Disconnected as error:
        time.sleep(GRACE)
        fail(str(error))
    except UserError as error:
        fail(str(error))
    except Interrupted as error:
        fail(f"{str(error).removesuffix('; go on with --resume')}; go on with: {resuming(given)}", STOPPED)
    except KeyboardInterrupt:
        begun = any((Path(word.removeprefix("--out=")) / "config.yaml").exists() for word in given)
        fail(f"stopped; what was saved last is kept; go on with: {resuming(given)}" if begun else "stopped", STOPPED)
    except BrokenPipeError:  # the reader of our output went away, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno in FULL_DISK:
            fail(f"the disk is full: cannot write {error.filename or 'a file'}; free some space and go on with --resume")
        if isinstance(error, UNUSABLE):
            fail(f"cannot use {error.filename}: {error.strerror}")
        raise
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's own complaints about the words of the command
            raise
        command_path = getattr(getattr(error, "ctx", None), "command_path", "segnas")  # with the verb whose words they are
        fail(f"{error.format_message().rstrip('.')}; see {command_path} --help")


def resuming(given: Sequence[str]) -> str:
    """The command that goes on with what `given` began."""
    words = [word for word in given if word != "--resume"]
    return shlex.join([*processes.program(), *words, "--resume"])


def fail(message: str, status: int = 2) -> NoReturn:
    """Print one line on standard error and exit; of several processes only one prints."""
    if not processes.is_first():
        if status == STOPPED:
            sys.exit(status)
        time.sleep(GRACE)
    print(f"segnas: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


if __name__ == "__main__":
    main()
