"""What a worker does with one trial: from plain values to plain values, in this process or in any other.

A payload is {"stage", "architecture", "seed", "hint"} and, for other processes, "run": all from which they make the same job.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from segnas.config import replace
from segnas.data import open_dataset
from segnas.data.transforms import Normalization, seen_size
from segnas.errors import Diverged
from segnas.estimators.base import TrialEstimator
from segnas.estimators.objectives import Objectives
from segnas.estimators.short_training import ShortTraining, ShortTrainingConfig
from segnas.runs.progress import console
from segnas.runs.run import Run
from segnas.spaces.architecture import Architecture, from_json
from segnas.systems.base import Job, System, load_system, read_configuration
from segnas.training.device import launch
from segnas.training.timing import latency_meter


@dataclass
class Bench:
    """Where trials are done: the job, its estimators (each made when it is first used) and what is sought."""

    job: Job
    system: System

    @functools.cached_property
    def estimator(self) -> TrialEstimator:
        """That of the search."""
        assert self.system.estimator is not None
        return self.system.estimator(self.job)

    @functools.cached_property
    def full_training(self) -> TrialEstimator:
        """That which re-ranks the best: retraining's own recipe; trained and scored on training images alone."""
        config, job = self.job.config, self.job
        recipe = replace(
            config.retrain, epochs=config.search.rerank_epochs, steps=None, validate_every=0, seed=None, weights=None
        )
        training = ShortTrainingConfig(recipe=recipe)
        return ShortTraining(
            job.dataset, config.data, job.normalization, job.device, training, config.seed, split=config.evaluation.split
        )

    @functools.cached_property
    def objectives(self) -> Objectives:
        """What is sought."""
        search = self.job.config.search
        return Objectives.read(search.maximize, search.minimize, search.constraints, self.estimator.metrics)

    def latency_ms(self, architecture: Architecture) -> float:
        """Of the untrained network for one evaluated image, on the device of the run's budget, else where trials are computed."""
        job, config = self.job, self.job.config
        size = seen_size(job.dataset, config.evaluation.split, config.data.resize)
        device = config.budget.device or job.device.device
        return latency_meter(job.dataset, job.normalization, size, device, config.device)(architecture)

    def perform(self, payload: Mapping[str, Any]) -> dict[str, Any]:
        """One trial: {"metrics", "costs", "stopped"}, or {"costs", "over_budget": True} when a measured cost breaks a constraint.

        Raises what training raises, and Diverged for a metric that is no number.
        """
        architecture, costs = from_json(payload["architecture"]), {}
        again = payload["stage"] == "rerank"  # its latency is known, and was within the limit then
        if self.objectives.needs_latency and not again:
            costs["latency_ms"] = self.latency_ms(architecture)
            if self.objectives.broken(costs):
                return {"costs": costs, "over_budget": True}
        estimator = self.full_training if again else self.estimator
        found = estimator.estimate(architecture, int(payload["seed"]), payload["hint"])
        wrong = [name for name, value in found.metrics.items() if not math.isfinite(value)]
        if wrong:
            raise Diverged(f"{wrong[0]} is no number")
        return {"metrics": dict(found.metrics), "costs": {**costs, **found.costs}, "stopped": found.stopped}


def perform(payload: Mapping[str, Any]) -> dict[str, Any]:
    """One trial in a process of its own, which keeps data and estimators for the next one."""
    return _bench(json.dumps(payload["run"], sort_keys=True), int(payload.get("slot", 0))).perform(payload)


def described(job: Job) -> dict[str, Any]:
    """What other processes need to make the same job."""
    mean, std = job.normalization.mean, job.normalization.std
    return {"folder": str(job.run.path.absolute()), "config": job.run.config(), "mean": list(mean), "std": list(std)}


@functools.lru_cache(maxsize=1)
def _bench(run: str, slot: int) -> Bench:
    console.quiet = True  # what the run says of its device and data was said once
    described = json.loads(run)
    head, config = read_configuration(described["config"], where="the run's configuration")
    system = load_system(head["system"])
    dataset = open_dataset(head["dataset"], seed=config.seed)
    normalization = Normalization(tuple(described["mean"]), tuple(described["std"]))
    gpu = slot % max(1, torch.cuda.device_count())
    threads = torch.get_num_threads()  # as whoever started this process shares the cores
    device = launch(replace(config.device, threads=min(config.device.threads or threads, threads)), gpu)
    return Bench(Job(config, dataset, normalization, Run(Path(described["folder"])), device), system)
