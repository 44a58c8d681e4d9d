"""The entry point, `segnas` or `python -m segnas`; torchrun starts modules: torchrun --nproc-per-node 2 -m segnas run ...

Loading torch takes a second, or many from a cold disk, in which Ctrl-C must be as quiet as later.
"""

from __future__ import annotations

import os
import signal
from typing import NoReturn

from segnas.processes import is_first


def main() -> None:
    """Load the command line and run it."""
    usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # ignored in a job in the background
    try:
        if usual:
            signal.signal(signal.SIGINT, stop)
        from segnas.cli import main as command_line

        if usual:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        command_line()
    except KeyboardInterrupt:
        stop()


def stop(*_: object) -> NoReturn:
    """End at once, for nothing is begun; an exception would have to pass through whatever is being loaded."""
    if is_first():
        os.write(2, b"segnas: stopped\n")
    os._exit(130)


if __name__ == "__main__":
    main()
