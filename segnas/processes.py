"""The processes of one command: those that torchrun started, or one.

    torchrun --nproc-per-node 2 -m segnas run auto-deeplab --data DIR --out RUN

Read from the environment that torchrun sets, so that it is known before the processes are connected (training/device.py). Rank 0
alone writes files, prints and measures what takes one process; the others compute their parts of the batches and read files.
"""

from __future__ import annotations

import os
import sys
from typing import NoReturn


def rank() -> int:
    """The number of this process, from 0."""
    return _of_torchrun("RANK", 0)


def world() -> int:
    """How many processes work on the command."""
    return _of_torchrun("WORLD_SIZE", 1)


def on_this_machine() -> int:
    """How many of them share this machine, its memory and its cores."""
    return _of_torchrun("LOCAL_WORLD_SIZE", 1)


def is_first() -> bool:
    """Whether this is the process that writes and prints."""
    return rank() == 0


def program() -> list[str]:
    """The words that start segnas with as many processes as now."""
    if world() == 1:
        return ["segnas"]
    machines = world() // on_this_machine()
    nodes = ["--nnodes", str(machines)] if machines > 1 else []
    return ["torchrun", *nodes, "--nproc-per-node", str(on_this_machine()), "-m", "segnas"]


def leave(status: int) -> NoReturn:
    """End this process now, whatever its connections and threads still wait for; torchrun ends the others when it failed."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)


def _of_torchrun(name: str, alone: int) -> int:
    return int(os.environ[name]) if "TORCHELASTIC_RUN_ID" in os.environ else alone
