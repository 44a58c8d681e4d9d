"""What a search by trials knows: its trials as they stand in the store, its strategy brought to where they left it.

The store (runs/trials.py) holds all that must survive: which architectures were proposed, and how many results the strategy had
been told by then, so that the history can be gone through again in its order (`history`). The loop is in trial_search.py.
"""

from __future__ import annotations

import functools
import heapq
import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from segnas.errors import UserError
from segnas.estimators.base import Estimate
from segnas.estimators.objectives import pareto_front
from segnas.randomness import derive
from segnas.runs.outcomes import Outcome, Task
from segnas.runs.trials import Status, Trial, TrialStore
from segnas.spaces.architecture import Architecture, from_json, identity, to_json
from segnas.spaces.choice import stage_choices, stage_of
from segnas.strategies.base import Event, Result, load_strategy, replay
from segnas.systems.base import Job, System
from segnas.systems.trial_work import Bench, described


class Round:
    """The trials of one kind, "search" or "rerank", as they stand in the store, by number; `told` of them are finished."""

    def __init__(self, kind: str, store: TrialStore, space: Any, seed: int) -> None:
        self.kind, self.store, self.space, self.seed = kind, store, space, seed
        self.trials: list[Trial] = store.trials()
        self.told = sum(trial.order is not None for trial in self.trials)
        self.broken = 0  # how many of those that were finished last, one after the other, broke a constraint
        for trial in self.in_order():
            self.broken = self.broken + 1 if trial.status == "over budget" else 0

    def begin(self, architecture: Architecture, costs: Mapping[str, float], hint: Mapping[str, Any]) -> Trial:
        """A new trial, running."""
        indices = {choice.name: (choice.index, len(choice.options)) for choice in stage_choices(self.space, architecture)}
        trial = self.store.start(
            to_json(architecture),
            identity(architecture),
            indices,
            stage=self.kind,
            seed=derive(self.seed, "trial", self.kind, len(self.trials)) >> 32,
            known=self.told,
            costs=costs,
            hint=hint,
        )
        self.trials.append(trial)
        return trial

    def again(self, number: int) -> Trial:
        """A trial whose worker died, once more."""
        self.trials[number] = replace(self.trials[number], attempts=self.store.again(number))
        return self.trials[number]

    def finish(self, number: int, status: Status, **figures: Any) -> Trial:
        """The end of a trial. figures: those of `TrialStore.finish`."""
        figures = {name: value for name, value in figures.items() if value is not None}
        self.store.finish(number, status, order=self.told, **figures)
        trial = replace(self.trials[number], status=status, order=self.told, finished=time.time(), **figures)
        self.trials[number] = trial
        self.told += 1
        self.broken = self.broken + 1 if status == "over budget" else 0
        return trial

    def counts(self) -> Counter[str]:
        """How many trials have each status."""
        return Counter(trial.status for trial in self.trials)

    def begun(self) -> int:
        """How many trials count: those that break a constraint cost nothing."""
        return len(self.trials) - self.counts()["over budget"]

    def in_order(self) -> list[Trial]:
        """The finished trials in the order in which they were."""
        return sorted((trial for trial in self.trials if trial.order is not None), key=lambda trial: trial.order or 0)


def worked(trials: Sequence[Trial]) -> float:
    """Seconds in which at least one of the trials ran: the least that the search has taken, also before a kill."""
    ran = sorted((one.finished - (one.seconds or 0.0), one.finished) for one in trials if one.finished is not None)
    total, until = 0.0, -math.inf
    for begun, finished in ran:
        total += max(0.0, finished - max(begun, until))
        until = max(until, finished)
    return total


class TrialSearch:
    """A search by trials: what changes during it is in the store, and follows from that."""

    def __init__(self, job: Job, system: System) -> None:
        if job.device.world_size > 1:
            raise UserError("a search by trials shares out trials, not batches; leave out torchrun and use --workers N")
        assert system.space is not None
        self.job, self.config, self.system = job, job.config.search, system
        self.bench = Bench(job, system)
        self.space = system.space(job.config)
        self.objectives = self.bench.objectives
        kind = load_strategy(self.config.strategy)
        self.multi_objective = kind.multi_objective
        self.strategy = kind(self.space, job.config.seed, self.config.chosen_options, len(self.objectives.objectives))
        self.estimates: list[Estimate] = []  # of trials that have a score, in the order in which they were finished
        self.ranked: dict[str, Trial] = {}  # id -> the best trial of each architecture of the last stage that was reached
        self.stage = 1
        self.stages: dict[str, int] = {}  # id -> the stage of the space, of finished trials
        self.seconds = 0.0

    @functools.cached_property
    def described(self) -> dict[str, Any]:
        """What other processes need to make the same job."""
        return described(self.job)

    # The history ----------------------------------------------------------------------------------------------------------

    def resume(self, round: Round) -> None:
        """Bring the strategy to where the store says it is."""
        self.round = round
        saved = self.job.run.load_checkpoint("search")
        events = history(round.trials, self.result)
        self.seconds = max(saved["seconds"] if saved is not None else 0.0, worked(round.trials))
        if saved is not None:
            done = saved["asked"] + saved["told"]
            if sum(event.result is None for event in events[:done]) == saved["asked"]:
                self.strategy.load_state_dict(saved["strategy"])
                events = events[done:]
        replay(self.strategy, events)
        for trial in round.in_order():
            self.note(trial)
            if saved is None or (trial.order or 0) >= saved["told"]:
                self.log(trial)

    def result(self, trial: Trial) -> Result:
        """What the strategy is told of a trial."""
        values = None if trial.values is None else self.objectives.upwards(trial.values)
        return Result(trial.number, from_json(trial.architecture), trial.status, values)

    def note(self, trial: Trial) -> None:
        """Keep what later trials and the choice of the best need of a finished one."""
        if trial.values is not None:
            self.estimates.append(Estimate(trial.metrics, trial.costs, trial.status == "stopped"))
        if trial.status == "done":
            stage, before = stage_of(self.space, from_json(trial.architecture)), self.ranked.get(trial.id)
            self.stages[trial.id] = stage
            if stage > self.stage:  # of a space that has stages: what is smaller is not what is sought
                self.ranked, self.stage = {}, stage
            if stage == self.stage and (before is None or self.score(trial) > self.score(before)):
                self.ranked[trial.id] = trial

    def is_smaller(self, trial: Trial) -> bool:
        """Whether it is of an earlier stage of the space than the last one reached, and so does not compete."""
        return self.stages.get(trial.id, self.stage) < self.stage

    def score(self, trial: Trial) -> float:
        """The first objective, larger is better."""
        assert trial.values is not None
        return self.objectives.upwards(trial.values)[0]

    def best(self, count: int = 1) -> list[Trial]:
        """The best trials by the first objective, of different architectures; the earlier of equals."""
        return heapq.nsmallest(count, self.ranked.values(), key=lambda trial: (-self.score(trial), trial.number))

    def pareto(self) -> list[Trial]:
        """The trials that no other one beats in every objective."""
        trials = self.best(len(self.ranked))
        points = [self.objectives.upwards(trial.values or ()) for trial in trials]
        return [trials[index] for index in pareto_front(points)]

    # One trial ------------------------------------------------------------------------------------------------------------

    def propose(self) -> Task | None:
        """Ask for an architecture and store it; None when it breaks a constraint on what is known without training."""
        architecture = self.strategy.ask()
        costs = self.bench.estimator.costs(architecture)
        return self.admitted(self.round.begin(architecture, costs, self.bench.estimator.hint(self.estimates)))

    def admitted(self, trial: Trial) -> Task | None:
        """A trial that was stored as running, for a worker; None when what it costs breaks a constraint, which ends it."""
        broken = self.objectives.broken(trial.costs)
        if broken:
            self.end(trial.number, "over budget", error=f"breaks {broken[0]}")
            return None
        return self.task(trial)

    def task(self, trial: Trial) -> Task:
        """A trial as a worker gets it."""
        payload = {"stage": trial.stage, "architecture": trial.architecture, "seed": trial.seed, "hint": dict(trial.hint)}
        return Task(trial.number, {**payload, "run": self.described}, trial.attempts)

    def take(self, outcome: Outcome) -> None:
        """Store what became of a trial of the search and tell the strategy."""
        number, common = outcome.number, {"seconds": outcome.seconds, "machine": outcome.machine}
        if outcome.kind != "ok":
            self.end(number, "failed", error=outcome.error, **common)
            return
        found, costs = outcome.result, {**self.round.trials[number].costs, **outcome.result["costs"]}
        if found.get("over_budget"):
            self.end(number, "over budget", costs=costs, error=f"breaks {self.objectives.broken(costs)[0]}", **common)
            return
        values = self.objectives.values({**found["metrics"], **costs})
        status: Status = "stopped" if found["stopped"] else "done"
        self.end(number, status, values=values, metrics=found["metrics"], costs=costs, **common)

    def end(self, number: int, status: Status, **figures: Any) -> None:
        """Store the end of a trial, and tell the strategy."""
        trial = self.round.finish(number, status, **figures)
        self.strategy.tell(self.result(trial))
        self.note(trial)
        self.log(trial)

    def log(self, trial: Trial) -> None:
        """A line a figure in metrics.jsonl, and so in TensorBoard."""
        if trial.values is not None:
            best = {"best": (self.best()[0].values or ())[0]} if self.ranked else {}
            self.job.run.log("search", (trial.order or 0) + 1, {**trial.metrics, **best})

    def save(self) -> None:
        """Write the strategy's state, which saves the time of a replay."""
        state = {"asked": len(self.round.trials), "told": self.round.told, "strategy": self.strategy.state_dict()}
        self.job.run.save_checkpoint("search", {**state, "seconds": self.seconds})


def history(trials: Sequence[Trial], result: Callable[[Trial], Result]) -> list[Event]:
    """The events that a strategy saw: each proposal in its order, each result before the first proposal that knew of it."""
    told = sorted((trial for trial in trials if trial.order is not None), key=lambda trial: trial.order or 0)
    events: list[Event] = []
    done = 0
    for trial in trials:
        while done < min(trial.known, len(told)):
            events.append(Event(from_json(told[done].architecture), result(told[done])))
            done += 1
        events.append(Event(from_json(trial.architecture)))
    return events + [Event(from_json(trial.architecture), result(trial)) for trial in told[done:]]
