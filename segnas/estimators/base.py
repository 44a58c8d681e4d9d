"""What an estimator is: it says how good an architecture is, and what it costs.

    costs = estimator.costs(architecture)                       cheap, without training: {"parameters": ..., "multiply_adds": ...}
    estimate = estimator.estimate(architecture, seed, hint)     {"mIoU": ...}: minutes or days
    hint = estimator.hint(estimates so far)                     what an estimate should know of the others, plain values

An estimate is a function of architecture, seed and hint alone, so that a trial that was killed can be done again. It runs
wherever there is a worker; `hint` is computed where the search runs. What compares trials (early stopping) does it by the hint.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from segnas.spaces.architecture import Architecture
from segnas.training.preflight import Measurement


@dataclass(frozen=True)
class Estimate:
    """metrics: by name, in percent where the name says so elsewhere in segnas (mIoU). costs: those that only training tells, such
    as a measured latency. stopped: the trial was given up early; the metrics are what it had reached."""

    metrics: Mapping[str, float]
    costs: Mapping[str, float] = field(default_factory=dict)
    stopped: bool = False


class Estimator(Protocol):
    """Gives metrics and costs for an architecture. `str(estimator)` says in a few words how: "training of 5 epochs on ..."."""

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that it gives, the deciding one first; larger is better in each."""
        ...

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        """What the architecture costs, known without training it."""
        ...

    def estimate(self, architecture: Architecture, seed: int, hint: Mapping[str, Any]) -> Estimate:
        """How good it is. Raises what training raises (Diverged, torch.OutOfMemoryError, ...): such a trial has failed."""
        ...

    def hint(self, estimates: Sequence[Estimate]) -> Mapping[str, Any]:
        """What the next estimate is to know of those that are finished, in the order in which they were; plain values."""
        ...


class TrialEstimator(Estimator, Protocol):
    """An estimator that a run's trials use: it knows what they will take, and what all of them share."""

    def prepare(self, architecture: Architecture) -> None:
        """Make what all trials share, such as cached features, once, before the first of them; nothing when it is there.

        architecture: any of those that will be tried.
        """
        ...

    def preflight(self, architecture: Architecture, trials: int, workers: int) -> Measurement:
        """What so many trials will take with so many workers (0: in this process), from some real steps; memory: of one trial."""
        ...
