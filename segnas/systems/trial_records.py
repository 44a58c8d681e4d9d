"""What a search by trials leaves beside its store for whoever watches or reports: search.json, the best, the Pareto set."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

from rich.live import Live

from segnas.runs import progress
from segnas.runs.progress import StageProgress, console
from segnas.runs.trials import Trial
from segnas.systems.trial_state import Round, TrialSearch

SHARE = 20.0  # search.json is written again after this many times the seconds that writing it takes, and
WRITE_EVERY = 2.0  # after these seconds at least


class Records:
    """Writes search.json now and then, and a line on the terminal for each finished trial."""

    def __init__(self, this: TrialSearch) -> None:
        self.this = this
        self.full: Round | None = None  # the trials by full training
        self.live: Live | None = None
        self.soon = self.next = self.drawn = 0.0

    @contextlib.contextmanager
    def watched(self, round: Round, planned: int, done: int) -> Iterator[StageProgress]:
        """On a terminal a live table of the trials inside the block; elsewhere, and for callers from Python, lines alone."""
        live = progress.table_of_trials is not None and console.is_terminal and not console.quiet
        shown = StageProgress(round.kind, planned, done, bar=not live)
        if not live:
            with shown:
                yield shown
            return
        with Live(console=console, transient=True, refresh_per_second=2) as self.live:
            yield shown
        self.live = None

    def show(self, round: Round, trial: Trial, planned: int, lines: StageProgress) -> None:
        """A line for a finished trial: its figures, the best so far, what runs and what failed."""
        counts = round.counts()
        figures: dict[str, float | str] = {}
        if trial.values is not None:
            figures[next(iter(trial.metrics))] = next(iter(trial.metrics.values()))
            if round is self.this.round:
                measured = {**trial.metrics, **trial.costs}
                figures |= {one.name: measured[one.name] for one in self.this.objectives.objectives}
        else:
            console.print(f"[dim]trial {trial.number} {trial.status}: {trial.error}[/dim]")
        best = self.this.best() if round is self.this.round else []
        if best and best[0].values:
            figures["best"] = best[0].values[0]
        figures |= {status: str(counts[status]) for status in ("running", "failed") if counts[status]}
        lines.epoch(round.begun() - counts["running"], planned, figures)

    def write(self, final: bool = False, ended: bool = False) -> None:
        """search.json, architecture_best.json and pareto/, unless they were written a moment ago.

        ended: a trial has, which is to be found there although all be killed now; then only slow writing is a reason to wait.
        """
        started = time.monotonic()
        if self.live is not None and progress.table_of_trials is not None and started > self.drawn + 0.5:
            self.live.update(progress.table_of_trials(self.content()))
            self.drawn = time.monotonic()
        if not final and started < (self.soon if ended else self.next):
            return
        this, run = self.this, self.this.job.run
        run.write_json("search.json", self.content())
        best = this.best()
        if best:
            run.write_json("architecture_best.json", self.described(best[0]))
        if len(this.objectives.objectives) > 1:
            for trial in this.pareto():
                if not run.has(f"pareto/{trial.id}.json"):
                    run.write_json(f"pareto/{trial.id}.json", self.described(trial))
            kept = {f"{trial.id}.json" for trial in this.pareto()}
            for path in (run.path / "pareto").glob("*.json"):
                if path.name not in kept:  # another one beats it by now
                    path.unlink()
        written = time.monotonic()
        self.soon, self.next = written + SHARE * (written - started), written + max(WRITE_EVERY, SHARE * (written - started))

    def described(self, trial: Trial) -> dict[str, Any]:
        """An architecture file: what it is, and which trial it was."""
        provenance = {"system": self.this.system.name, "trial": trial.number, "metrics": trial.metrics, "costs": trial.costs}
        return {"architecture": trial.architecture, "id": trial.id, "provenance": provenance}

    def content(self) -> dict[str, Any]:
        """search.json: all trials without their architectures, which are in the store."""
        this, round = self.this, self.this.round
        trials = [*round.trials, *(self.full.trials if self.full else ())]
        begun = min((trial.started for trial in trials), default=0.0)
        best = this.best()
        return {
            "kind": "trials",
            "system": this.system.name,
            "space": this.system.name.removeprefix("random/"),
            "estimator": str(this.bench.estimator),
            "strategy": this.config.strategy,
            "options": this.config.chosen_options,
            "objectives": [{"name": one.name, "direction": one.direction} for one in this.objectives.objectives],
            "constraints": [str(limit) for limit in this.objectives.constraints],
            "planned": this.config.trials,
            "workers": this.job.config.execution.workers,
            "seconds": this.seconds,
            "best": best[0].number if best else None,
            "pareto": [trial.number for trial in this.pareto()],
            "trials": [row(trial, begun) | {"smaller": this.is_smaller(trial)} for trial in trials],
        }


def row(trial: Trial, begun: float) -> dict[str, Any]:
    """A trial in search.json; its times count from when the search began."""
    return {
        "number": trial.number,
        "stage": trial.stage,
        "status": trial.status,
        "error": trial.error,
        "id": trial.id,
        "seed": trial.seed,
        "attempts": trial.attempts,
        "started": trial.started - begun,
        "finished": None if trial.finished is None else trial.finished - begun,
        "seconds": trial.seconds,
        "metrics": dict(trial.metrics),
        "costs": dict(trial.costs),
        "machine": trial.machine,
    }
