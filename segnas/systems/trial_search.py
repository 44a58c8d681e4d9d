"""Searches that try one architecture after the other: ask, check, try, tell, whatever strategy, space and estimator are.

    while there are trials left:
        a worker is free:      architecture = strategy.ask(); over budget: told at once, else stored as running and handed over
        a worker is finished:  its result is stored, told to the strategy, shown

What survives is in the store (trial_state.py). Whatever died, a trial that is "running" when a search goes on is done once more,
with the same seed; nothing counts twice.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch

from segnas.config import replace as config_replace
from segnas.costs.memory import available_memory
from segnas.errors import Interrupted, UserError
from segnas.estimators.base import TrialEstimator
from segnas.randomness import numpy_generator
from segnas.runs.execution import ExecutionConfig, make_executor, require_possible, require_reachable, threads_of_each
from segnas.runs.outcomes import Executor, Outcome, Task
from segnas.runs.progress import console, stop_between_steps
from segnas.runs.trials import Trial, TrialStore
from segnas.spaces.architecture import Architecture, from_json
from segnas.spaces.choice import Space, sample, stages_of
from segnas.systems.base import Job, System
from segnas.systems.settings import RunConfig
from segnas.systems.trial_records import Records
from segnas.systems.trial_state import Round, TrialSearch
from segnas.systems.trial_work import perform
from segnas.training.preflight import Measurement

ATTEMPTS = 3  # a trial whose worker died is run again twice at most
TOLD_EVERY = 100  # such proposals
OVER_BUDGET = 1000  # proposals in a row that break a constraint: the space has hardly any that keep it
FAILING_FROM = 10  # finished trials from which on the share of failures counts
GIB = 2**30
STUDY = "study.json"  # the name of the run's studies, wherever they are
SAVE_EVERY = 30.0  # seconds between checkpoints of the strategy, which only save the time of a replay


def search(job: Job, system: System) -> Architecture:
    """From the training set to an architecture: the best that was tried. Goes on with the trials that the store holds."""
    this = TrialSearch(job, system)
    if len(this.objectives.objectives) > 1 and not this.multi_objective:
        first = this.objectives.objectives[0].name
        console.print(f"note: {this.config.strategy} follows {first} alone; the Pareto front is of all that it tries")
    store, full = stores(this)
    elsewhere = bool(job.config.execution.workers or job.config.execution.ray)
    executor = make_executor(job.config.execution, perform if elsewhere else this.bench.perform)
    records = Records(this)
    try:
        any_one = sample(this.space, numpy_generator(job.config.seed, "preflight"))
        this.bench.estimator.prepare(any_one)  # here, where it is shown and can be stopped, not in the workers
        this.resume(Round("search", store, this.space, job.config.seed))
        carry_out(this, this.round, this.config.trials, this.propose, this.admitted, this.take, executor, records)
        if not this.ranked:
            raise UserError(f"no trial of the search succeeded; {reasons(this.round)}")
        if this.stage < len(stages_of(this.space)):
            stage = f"stage {this.stage} of {len(stages_of(this.space))}"
            console.print(
                f"note: the trials ended in {stage}; kept is the best of these smaller architectures (more search.trials)"
            )
        if len(this.objectives.objectives) > 1:
            console.print(f"pareto/ has what no other architecture beats in every objective: {len(this.pareto())} of those tried")
        best = this.best()[0]
        found, score = from_json(best.architecture), (best.values or (0.0,))[0]
        told = f"kept: trial {best.number}, {this.objectives.objectives[0].name} {score:.4g}"
        if this.config.rerank:
            found, told = rerank(this, Round("rerank", full, this.space, job.config.seed), executor, records)
        records.write(final=True)
    finally:
        executor.close()
        store.close()
        full.close()
    console.print(told)
    return found


def stores(this: TrialSearch) -> tuple[TrialStore, TrialStore]:
    """The studies of the search and of the full trainings.

    Their name is drawn once and kept in the run. A path would not do: a run is moved, and a database may hold the trials of
    another run that lay at this path before, or lies at it on another machine. Raises UserError when trials are missing.
    """
    run, objectives = this.job.run, this.objectives.objectives
    location = this.job.config.execution.storage or run.path / "trials.sqlite"
    if not run.has(STUDY):
        run.write_json(STUDY, {"name": f"{run.path.absolute().name} {uuid.uuid4().hex[:12]}"})
    name = run.read_json(STUDY)["name"]
    store = TrialStore.open(location, name, [one.direction for one in objectives], [one.name for one in objectives])
    rows = run.read_json("search.json")["trials"] if run.has("search.json") else []
    known, there = sum(row["stage"] == "search" for row in rows), len(store.trials())
    if there < known:
        store.close()
        raise UserError(
            f"{store.location} holds {there} of the {known} trials of this search; go on with the execution.storage that has them"
        )
    return store, TrialStore.open(location, f"{name} full training", ["maximize"])


def rerank(this: TrialSearch, round: Round, executor: Executor, records: Records) -> tuple[Architecture, str]:
    """Train the best once more, longer, by the recipe of retraining; the best by that, and what to say of it."""
    waiting = this.best(this.config.rerank)[len(round.trials) :]
    records.full = round

    def begin() -> Task:
        trial = waiting.pop(0)
        return this.task(round.begin(from_json(trial.architecture), trial.costs, {}))

    def take(outcome: Outcome) -> None:
        common = {"seconds": outcome.seconds, "machine": outcome.machine}
        if outcome.kind != "ok":
            round.finish(outcome.number, "failed", error=outcome.error, **common)
            return
        metrics = outcome.result["metrics"]
        round.finish(outcome.number, "done", values=(next(iter(metrics.values())),), metrics=metrics, **common)

    carry_out(this, round, len(round.trials) + len(waiting), begin, this.task, take, executor, records)
    done = [trial for trial in round.trials if trial.status == "done"]
    if not done:
        raise UserError(f"no full training of the best trials succeeded; {reasons(round)}")
    best = max(done, key=lambda trial: ((trial.values or (0.0,))[0], -trial.number))
    figure = f"{next(iter(best.metrics))} {(best.values or (0.0,))[0]:.4g}"
    return from_json(best.architecture), f"kept: {best.id}, {figure} by full training"


def carry_out(
    this: TrialSearch,
    round: Round,
    planned: int,
    begin: Callable[[], Task | None],
    admitted: Callable[[Trial], Task | None],
    take: Callable[[Outcome], None],
    executor: Executor,
    records: Records,
) -> None:
    """Trials until `planned` are finished, those first that were running when the search was stopped.

    begin: a new one; admitted: one that is stored as running; both None for one that breaks a constraint, and has ended.
    """
    again = [trial for trial in round.trials if trial.status == "running"]
    done = round.begun() - round.counts()["running"]
    before, started, saved = this.seconds, time.monotonic(), time.monotonic()
    with stop_between_steps("the trials that run") as stop, records.watched(round, planned, done) as progress:
        while True:
            while executor.free() and not stop.requested and (again or round.begun() < planned):
                task = admitted(again.pop(0)) if again else begin()
                if task is not None:
                    executor.submit(task)
                else:
                    require_within_budget(this, round)
                records.write()
            if not round.counts()["running"] or (stop.requested and executor.free() == executor.workers):
                break
            outcomes = executor.wait(timeout=1.0)
            for outcome in outcomes:
                trial = round.trials[outcome.number]
                if outcome.kind == "died" and stop.requested:  # whoever stops the search may have stopped its workers, too
                    continue
                if outcome.kind == "died" and trial.attempts < ATTEMPTS:
                    console.print(f"note: trial {trial.number} is run again: {outcome.error}")
                    again.append(round.again(trial.number))
                    continue
                take(outcome)
                if round.trials[outcome.number].status == "over budget":
                    require_within_budget(this, round)
                else:
                    progress.step()
                records.show(round, round.trials[outcome.number], planned, progress)
                require_successes(round, this.job.config.execution.failing_share)
            this.seconds = before + time.monotonic() - started
            records.write(ended=bool(outcomes))
            if time.monotonic() - saved > SAVE_EVERY:
                this.save()
                saved = time.monotonic()
        this.seconds = before + time.monotonic() - started
        this.save()
        records.write(final=True)
        if stop.requested:
            raise Interrupted(f"the search is saved after {round.begun()} of {planned} trials")


def require_within_budget(this: TrialSearch, round: Round) -> None:
    """Of one more that broke a constraint, be it on a cost that a worker measures: say how many did, one after the other, and
    raise UserError when they are too many."""
    if round.broken % TOLD_EVERY and round.broken < OVER_BUDGET:
        return
    told = f"{round.broken} proposals in a row broke a constraint ({nearest(this, round)})"
    if round.broken >= OVER_BUDGET:
        raise UserError(f"{told}; loosen it, with another --out")
    console.print(f"note: {told}")


def nearest(this: TrialSearch, round: Round) -> str:
    """Each constraint that the last trial broke, with the value of all trials that came nearest to it."""
    told = []
    for limit in this.objectives.broken(round.in_order()[-1].costs):
        values = [trial.costs[limit.name] for trial in round.trials if limit.name in trial.costs]
        told.append(f"{limit}, and the nearest had {min(values) if limit.comparison == '<=' else max(values):,.10g}")
    return "; ".join(told)


def require_successes(round: Round, share: float) -> None:
    """Raise UserError when more than this share of the trials fails."""
    failed, finished = round.counts()["failed"], round.begun() - round.counts()["running"]
    if finished >= FAILING_FROM and failed > share * finished:
        raise UserError(f"{failed} of {finished} trials failed, more than execution.failing_share={share:g}; {reasons(round)}")


def reasons(round: Round) -> str:
    """Why trials failed, the most frequent first."""
    found = Counter(trial.error for trial in round.trials if trial.status == "failed")
    told = "; ".join(f"{count} x {error}" for error, count in found.most_common(3))
    return f"the reasons: {told}" if told else "none was finished"


def preflight(job: Job, system: System) -> Measurement:
    """What the search will cost, from what its estimator measures on a random architecture."""
    execution = job.config.execution
    require_possible(execution)
    require_reachable(execution)
    this = TrialSearch(job, system)
    trials = this.config.trials
    architecture = sample(this.space, numpy_generator(job.config.seed, "preflight"))
    with as_a_worker(execution):
        measured = this.bench.estimator.preflight(architecture, trials, execution.workers)
        if this.config.rerank:
            full = this.bench.full_training.preflight(architecture, this.config.rerank, execution.workers)
            seconds, memory = measured.seconds + full.seconds, max(measured.memory_bytes, full.memory_bytes)
            measured = replace(measured, seconds=seconds, once=measured.once + full.seconds, memory_bytes=memory)
    if execution.ray:  # on machines that this one does not see
        return measured
    return replace(measured, memory_bytes=together(measured.memory_bytes, execution.workers, job.device.device))


@contextlib.contextmanager
def as_a_worker(execution: ExecutionConfig) -> Iterator[None]:
    """With the threads of a worker: as many of them share the cores."""
    before = torch.get_num_threads()
    if execution.workers and not execution.ray:
        torch.set_num_threads(min(before, threads_of_each(execution.workers)))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def together(memory: int, workers: int, device: torch.device) -> int:
    """Bytes of the workers that share this device, of `memory` each; UserError when it has less."""
    devices = torch.cuda.device_count() if device.type == "cuda" else 1
    several, there = -(-max(1, workers) // devices), available_memory(device)
    if several > 1 and several * memory > there:
        fit = there // memory * devices
        raise UserError(
            f"{workers} workers need about {several * memory / GIB:.1f} GiB, and {there / GIB:.1f} GiB are there; "
            f"{f'set execution.workers to at most {fit}' if fit else 'try without workers (execution.workers=0)'}"
        )
    return several * memory


def trial_system(
    name: str,
    paper: str,
    state: str,
    config: type[RunConfig],
    presets: Mapping[str, Callable[[], Any]],
    task_presets: Mapping[str, Mapping[str, Callable[[], Any]]],
    space: Callable[[Any], Space],
    estimator: Callable[[Job], TrialEstimator],
) -> System:
    """A system that searches by trials: what is its own is its space, its estimator and its presets."""
    made = System(
        name=name,
        paper=paper,
        state=state,
        config=config,
        presets=presets,
        task_presets=task_presets,
        search=lambda job: search(job, made),
        preflight=lambda job: preflight(job, made),
        typical=lambda config: sample(space(config), numpy_generator(config.seed, "typical")),
        sized=sized,
        space=space,
        estimator=estimator,
    )
    return made


def sized(config: Any, factor: float) -> Any:
    """The configuration of a run with about `factor` times as many trials, at least 4."""
    return config_replace(config, search=config_replace(config.search, trials=max(4, int(config.search.trials * factor))))
