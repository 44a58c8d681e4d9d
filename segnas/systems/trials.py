"""The settings that systems which try one architecture after the other share; what each adds is its space and its estimator."""

from __future__ import annotations

from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt

from segnas.config import configuration, to_dict
from segnas.runs.execution import ExecutionConfig
from segnas.strategies.base import load_strategy, settings_of
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
        kind, name = load_strategy(self.strategy), absolute(self.strategy)
        chosen = to_dict(settings_of(kind, self.options.get(name, {})))  # with all defaults, as config.yaml is to show them
        object.__setattr__(self, "strategy", name)
        object.__setattr__(self, "options", {**self.options, name: chosen})

    @property
    def chosen_options(self) -> dict[str, Any]:
        """Those of the strategy that is used."""
        return self.options[self.strategy]


@configuration
class TrialRunConfig(RunConfig):
    """Every run's, with the search by trials and where trials are computed."""

    search: TrialsConfig = TrialsConfig()
    execution: ExecutionConfig = ExecutionConfig()
