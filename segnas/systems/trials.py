"""The settings that systems which try one architecture after the other share; what each adds is its space and its estimator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from segnas.config import configuration, replace, to_dict
from segnas.estimators.base import TrialEstimator
from segnas.estimators.short_training import ShortTraining, ShortTrainingConfig
from segnas.runs.execution import ExecutionConfig
from segnas.spaces.architecture import Architecture
from segnas.strategies.base import load_strategy, name_of, settings_of
from segnas.systems.base import Job
from segnas.systems.settings import RunConfig
from segnas.user_files import absolute


@configuration
class TrialsConfig:
    """How long is searched, how, and for what.

    trials: how many architectures are tried; those that break a constraint are not counted. strategy: a name, or a Python file
    with one. options: name of a strategy -> its settings; those of others are left alone. maximize, minimize: metrics and costs,
    the first is what strategies of one objective follow; nothing means the metric of the task. constraints: such as
    "parameters <= 1e6", checked before any training. rerank: how many of the best are trained once more, by the recipe of
    retraining for `rerank_epochs`, to choose among them.
    """

    trials: PositiveInt = 30
    strategy: str = "random"
    options: dict[str, dict[str, Any]] = Field(default_factory=dict)
    maximize: tuple[str, ...] = ()
    minimize: tuple[str, ...] = ()
    constraints: tuple[str, ...] = ()
    rerank: NonNegativeInt = 0
    rerank_epochs: PositiveInt = 20

    def __post_init__(self) -> None:
        kind = load_strategy(self.strategy)
        name = name_of(kind)
        for other in self.options:  # also of those that are not used, so that no typo goes unnoticed
            settings_of(load_strategy(other), self.options[other])
        chosen = to_dict(settings_of(kind, self.options.get(name, {})))  # with all defaults, as config.yaml is to show them
        object.__setattr__(self, "strategy", absolute(self.strategy))
        object.__setattr__(self, "options", {**self.options, name: chosen})

    @property
    def chosen_options(self) -> dict[str, Any]:
        """Those of the strategy that is used."""
        return self.options[name_of(load_strategy(self.strategy))]


@configuration
class TrialRunConfig(RunConfig):
    """Every run's, with the search by trials and where trials are computed."""

    search: TrialsConfig = TrialsConfig()
    execution: ExecutionConfig = ExecutionConfig()


@configuration
class ShortTrialsConfig(TrialsConfig):
    """With the training of a trial."""

    training: ShortTrainingConfig = ShortTrainingConfig()


@configuration
class ShortTrialRunConfig(TrialRunConfig):
    """Of systems whose trials are short trainings."""

    search: ShortTrialsConfig = ShortTrialsConfig()


def short_training(job: Job, child: Callable[[Architecture], Architecture] = lambda architecture: architecture) -> TrialEstimator:
    """The estimator of `search.training`."""
    config = job.config
    split = config.evaluation.split
    return ShortTraining(
        job.dataset, config.data, job.normalization, job.device, config.search.training, config.seed, child, split
    )


def short_trials(config: RunConfig) -> ShortTrialsConfig:
    """Trials that last a quarter of retraining."""
    epochs = max(1, config.retrain.epochs // 4)
    recipe = replace(config.retrain, epochs=epochs, steps=None, validate_every=0, seed=None, weights=None)
    return ShortTrialsConfig(training=ShortTrainingConfig(recipe=recipe))
