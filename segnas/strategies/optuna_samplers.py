"""Strategies of Optuna (Akiba et al., KDD 2019) over the choices of a space: NSGA-II and the tree-structured Parzen estimator.

A study in memory holds the proposals, each choice an integer parameter of the same name. Every proposal gets a sampler of its
own, seeded for it: what it draws depends on the seed, the number and what was told, not on which process drew before.

| NSGA-II (Deb et al., IEEE TEC 2002)          | here                                                                  |
|----------------------------------------------|-----------------------------------------------------------------------|
| simulated binary crossover, mutation         | Optuna's: uniform crossover; a mutated choice is drawn anew           |
| all variables exist in all individuals       | a choice that some architectures do not have is always drawn at random |

The number of options of a choice may depend on earlier choices. NSGA-II inherits only parameters of one range, so that there an
option is stored as its place in 0 .. 5,039; the Parzen estimator is told the number of options and takes any.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from segnas.config import configuration
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import replay
from segnas.strategies.base import Result, Strategy, strategies

PLACES = 5040  # divisible by every number of options up to 10


class OptunaStrategy(Strategy):
    """What both have in common: the study, and how it is saved."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        import optuna

        optuna.logging.set_verbosity(optuna.logging.ERROR)  # it has a line for every study
        followed = self.objectives if self.multi_objective else 1
        self.storage = optuna.storages.InMemoryStorage()
        self.study = optuna.create_study(storage=self.storage, directions=["maximize"] * followed)
        self.study_id = self.storage.get_study_id_from_name(self.study.study_name)

    @abstractmethod
    def sampler(self, seed: int) -> Any:
        """A new optuna.samplers.BaseSampler."""

    @abstractmethod
    def index(self, trial: Any, name: str, count: int) -> int:
        """Which of `count` options the trial has for the choice `name`."""

    def propose(self, generator: np.random.Generator) -> Architecture:
        self.study.sampler = self.sampler(int(generator.integers(2**32)))
        trial = self.study.ask()

        def suggested(name: str, options: tuple[Any, ...]) -> int:
            return self.index(trial, name, len(options)) if len(options) > 1 else 0

        return replay(self.space, suggested)[0]

    def tell(self, result: Result) -> None:
        import optuna

        if result.values is None:
            self.study.tell(result.number, state=optuna.trial.TrialState.FAIL)  # samplers leave it out
        else:
            self.study.tell(result.number, list(result.values[: len(self.study.directions)]))

    def state_dict(self) -> dict[str, Any]:
        from optuna.distributions import distribution_to_json

        trials = [
            {
                "state": trial.state.name,
                "values": trial.values,
                "params": trial.params,
                "distributions": {name: distribution_to_json(found) for name, found in trial.distributions.items()},
                "attributes": trial.system_attrs,
            }
            for trial in self.study.get_trials()
        ]
        return {**super().state_dict(), "trials": trials, "attributes": self.storage.get_study_system_attrs(self.study_id)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        import optuna
        from optuna.distributions import json_to_distribution

        super().load_state_dict(state)
        for trial in state["trials"]:
            created = optuna.trial.create_trial(
                state=optuna.trial.TrialState[trial["state"]],
                values=trial["values"],
                params=trial["params"],
                distributions={name: json_to_distribution(text) for name, text in trial["distributions"].items()},
                system_attrs=trial["attributes"],
            )
            self.study.add_trial(created)
        for name, value in state["attributes"].items():
            self.storage.set_study_system_attr(self.study_id, name, value)


@configuration
class Nsga2Options:
    """population: individuals of a generation. crossover: probability that a child has two parents. swapping: probability that
    such a child takes a choice from the second. mutation: probability that a choice is drawn anew; None: one in all choices."""

    population: Annotated[int, Field(ge=2)] = 50
    crossover: Annotated[float, Field(ge=0, le=1)] = 0.9
    swapping: Annotated[float, Field(ge=0, le=1)] = 0.5
    mutation: Annotated[float, Field(ge=0, le=1)] | None = None


@strategies.register("nsga2")
class Nsga2(OptunaStrategy):
    """Keeps those that no other beats in all objectives, spread out, and crosses them."""

    options = Nsga2Options
    multi_objective = True

    def sampler(self, seed: int) -> Any:
        import optuna

        return optuna.samplers.NSGAIISampler(
            population_size=self.config.population,
            crossover_prob=self.config.crossover,
            swapping_prob=self.config.swapping,
            mutation_prob=self.config.mutation,
            seed=seed,
        )

    def index(self, trial: Any, name: str, count: int) -> int:
        return int(trial.suggest_int(name, 0, PLACES - 1)) * count // PLACES


@configuration
class TpeOptions:
    """startup: results before which proposals are random. candidates: drawn for a proposal, of which the likeliest to be good is
    taken."""

    startup: Annotated[int, Field(ge=1)] = 10
    candidates: Annotated[int, Field(ge=1)] = 24


@strategies.register("tpe")
class Tpe(OptunaStrategy):
    """Models the choices of good and of other results by densities, and proposes where their ratio is largest (Bergstra et al.,
    NeurIPS 2011). Those that are still running count among the others, so that workers do not all try the same."""

    options = TpeOptions

    def sampler(self, seed: int) -> Any:
        import optuna

        return optuna.samplers.TPESampler(
            n_startup_trials=self.config.startup,
            n_ei_candidates=self.config.candidates,
            multivariate=True,
            constant_liar=True,
            seed=seed,
        )

    def index(self, trial: Any, name: str, count: int) -> int:
        return int(trial.suggest_int(name, 0, count - 1))
