"""Python files that a user names on the command line in the place of a name: a system, a strategy or a space of one's own."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from segnas.errors import UserError


def import_file(name: str, what: str) -> ModuleType:
    """The module in the file, imported once however often it is asked for; UserError when there is no such file.

    what: how the message goes on, what may be named instead.
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
        except BaseException:
            del sys.modules[module_name]
            raise
    return sys.modules[module_name]


def absolute(name: str) -> str:
    """What a configuration says of a name that may be a file: found wherever the run is continued from."""
    return str(Path(name).absolute()) if name.endswith(".py") else name
