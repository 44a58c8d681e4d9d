"""Runs a command of segnas that sends itself a signal at a given moment.

    python command_that_stops.py SIGNAL MOMENT REPORT search auto-deeplab ...

Moments are calls of functions made by segnas' own code, numbered from 1: between any two lines that do something, in the
midst of a step or of writing a file, and the same ones in every run (MOMENT 0: no signal). A command that ends by itself
writes {"begun": the moment at which the run directory was made, "total": all} into REPORT.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any


def main() -> None:
    number, moment, report = signal.Signals[sys.argv[1]], int(sys.argv[2]), Path(sys.argv[3])
    import segnas
    from segnas.cli import main as command

    root = str(Path(segnas.__file__).parent)
    calls = begun = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls, begun
        if event not in ("call", "c_call") or not frame.f_code.co_filename.startswith(root):
            return
        calls += 1
        if event == "call" and frame.f_code.co_qualname == "Run.create":
            begun = calls
        if calls == moment:
            os.kill(os.getpid(), number)

    sys.setprofile(count)
    try:
        command(sys.argv[4:])
    finally:
        sys.setprofile(None)
        report.write_text(json.dumps({"begun": begun, "total": calls}))


if __name__ == "__main__":
    main()
