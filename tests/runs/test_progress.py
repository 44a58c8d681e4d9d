"""Stops between steps, and the lines that stay."""

from __future__ import annotations

import io
import signal
import threading

import pytest
from rich.console import Console

from segnas.runs import progress
from segnas.runs.progress import StageProgress, StopRequest, clock, duration, figure, stop_between_steps


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    stream = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=stream, highlight=False, width=80))
    return stream


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_stops(number: signal.Signals, written: io.StringIO) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(KeyboardInterrupt), stop_between_steps() as stop:  # noqa: PT012 - the second signal must be the one
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        assert "stopping after this step" in written.getvalue()
        signal.raise_signal(number)
    assert {each: signal.getsignal(each) for each in before} == before, "the handlers are given back"
    with stop_between_steps() as stop:
        assert not stop.requested, "every block asks anew"
    assert not StopRequest.requested


def test_another_thread_works_without_signals() -> None:
    answers: list[bool] = []

    def work() -> None:
        with stop_between_steps() as stop:
            answers.append(stop.requested)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert answers == [False]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_line_an_epoch_with_the_time_left(written: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten steps of 3 seconds each were done, of 40 after 20 that another process did."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with StageProgress("search", 60, done_steps=20) as stage:
        for _ in range(10):
            now[0] += 3
            stage.step()
        stage.epoch(3, 6, {"loss": 1.23456, "mIoU": 51.2, "of": "9 classes"})
    assert written.getvalue() == "search 3/6  loss 1.235  mIoU 51.2  of 9 classes  0:30, 1:30 left\n"


def test_figures_are_short_and_never_powers_of_ten_of_large_numbers() -> None:
    assert [figure(value) for value in (0.41234, 63.456, 9999.4, 9999.6, 143_507.0, 2.5e9, -12_345.6, float("nan"))] == [
        "0.4123", "63.46", "9999", "10,000", "143,507", "2,500,000,000", "-12,346", "nan"]  # fmt: skip


def test_clocks() -> None:
    assert [clock(seconds) for seconds in (0.4, 59.6, 200, 3600, 90_000)] == ["0:00", "1:00", "3:20", "1:00:00", "25:00:00"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600, "1 h 0 min"),
        (90_000, "1 d 1 h"),
        (86_399, "23 h 59 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
