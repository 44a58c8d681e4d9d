"""What executors run in the tests: light functions at the top of a module that imports no torch."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

from segnas.errors import Diverged


def double(payload: dict[str, Any]) -> dict[str, Any]:
    """Where it ran, too."""
    place = {"pid": os.getpid(), "slot": payload["slot"], "threads": os.environ.get("OMP_NUM_THREADS")}
    return {"twice": 2 * payload["value"], **place}


def behave(payload: dict[str, Any]) -> Any:
    """What payload["how"] says; payload["folder"] then holds the process's number in the file `pid`."""
    if "folder" in payload:
        (Path(payload["folder"]) / "pid").write_text(str(os.getpid()))
    match payload["how"]:
        case "return":
            return payload["value"]
        case "diverge":
            raise Diverged("the loss is no number\nany more")
        case "out of memory":
            raise MemoryError
        case "leave":
            raise SystemExit(4)
        case "exit":
            os._exit(3)
        case "be killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "be killed once":
            mark = Path(payload["folder"]) / "killed"
            if not mark.exists():
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return "again"
        case "unpicklable":
            return lambda: None
        case "sleep":
            time.sleep(60)
    raise AssertionError(payload["how"])
