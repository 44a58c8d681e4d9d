"""What a person sees while a stage runs: a live line on a terminal, plain lines elsewhere, and a stop that loses nothing."""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from segnas.processes import is_first

console = Console(stderr=True, highlight=False, soft_wrap=not sys.stderr.isatty(), quiet=not is_first())


table_of_trials: Callable[[Mapping[str, Any]], Any] | None = None  # search.json -> a table, set by the command line


class StopRequest:
    """Set by Ctrl-C or SIGTERM; a loop looks at `requested` after every step, saves, and raises `Interrupted`."""

    requested = False


@contextlib.contextmanager
def stop_between_steps(after: str = "this step") -> Iterator[StopRequest]:
    """Turn the first Ctrl-C (or SIGTERM) inside the block into `request.requested = True`; a second one stops at once.

    after: what will still be done, as the message says.
    """
    request = StopRequest()

    def ask(number: int, frame: FrameType | None) -> None:
        if request.requested:
            raise KeyboardInterrupt
        request.requested = True
        console.print(f"stopping after {after} and saving (once more to stop at once)")

    previous = {}
    with contextlib.suppress(ValueError):  # not in the main thread: nobody sends signals there
        previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


class StageProgress:
    """Steps done, time left and the figures of the last epoch of one stage ("search", "retrain", "evaluate", ...)."""

    def __init__(self, stage: str, total_steps: int, done_steps: int = 0, bar: bool = True) -> None:
        """bar: whether a bar moves on a terminal; without it there are only the lines of `epoch`."""
        self.stage = stage
        self.total_steps = total_steps
        self.started = time.monotonic()
        self.bar = Progress(
            TextColumn("[bold]{task.fields[stage]}"),
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=console.quiet or not console.is_terminal or not bar,
        )
        self.task = self.bar.add_task(stage, total=total_steps, completed=done_steps, stage=stage)
        self.done_before = self.done = done_steps

    def __enter__(self) -> StageProgress:
        self.bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.bar.stop()

    def step(self) -> None:
        """One step is done."""
        self.done += 1
        self.bar.advance(self.task)

    def epoch(self, epoch: int, epochs: int, values: Mapping[str, float | str]) -> None:
        """A line that stays: the epoch (counted from 1), its figures, time used and time left, within 80 columns."""
        figures = "  ".join(f"{name} {value if isinstance(value, str) else figure(value)}" for name, value in values.items())
        used = time.monotonic() - self.started
        rate = used / max(1, self.done - self.done_before)
        left = clock(rate * (self.total_steps - self.done))
        console.print(f"{self.stage} {epoch}/{epochs}  {figures}  [dim]{clock(used)}, {left} left[/dim]")


def figure(value: float) -> str:
    """`0.4123`, `63.5`, `143,507`: four digits, of large numbers all before the point."""
    return f"{value:,.0f}" if abs(value) >= 9999.5 else f"{value:.4g}"


def clock(seconds: float) -> str:
    """`0:41`, `3:20`, `5:12:00`: short enough for a line of figures."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def duration(seconds: float) -> str:
    """`41 s`, `3 min 20 s`, `5 h 12 min`, `2 d 3 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
