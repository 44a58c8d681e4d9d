"""Python files that a user names on the command line in the place of a name: a system, a strategy or a space of one's own."""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from segnas.errors import UserError


def import_file(name: str, what: str) -> ModuleType:
    """The module in the file, imported once however often it is asked for.

    what: how the message goes on, what may be named instead. Raises UserError when there is no such file, and, with its line, for
    one that cannot be imported.
    """
    path = Path(name).resolve()
    if not path.is_file():
        raise UserError(f"there is no file {name}; {what}")
    module_name = f"segnas_file_{path.with_suffix('')}"  # the whole path: two files may have one name
    if module_name not in sys.modules:
        specification = importlib.util.spec_from_file_location(module_name, path)
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules[module_name] = module
        try:
            specification.loader.exec_module(module)
        except BaseException as error:
            del sys.modules[module_name]
            if isinstance(error, UserError) or not isinstance(error, Exception):
                raise
            raise UserError(f"{name} cannot be imported: {_fault(error, path)}") from error
    return sys.modules[module_name]


def _fault(error: Exception, path: Path) -> str:
    """`line 12: ModuleNotFoundError: No module named 'torchx'`; the line is the last one of the file that was reached."""
    if isinstance(error, SyntaxError):
        return f"line {error.lineno}: {type(error).__name__}: {error.msg}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    said = " ".join(str(error).split())
    return f"{f'line {lines[-1]}: ' if lines else ''}{type(error).__name__}: {said:.300}"


def absolute(name: str) -> str:
    """What a configuration says of a name that may be a file: found wherever the run is continued from."""
    return str(Path(name).absolute()) if name.endswith(".py") else name
