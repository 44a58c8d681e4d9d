"""Regularized evolution (Real, Aggarwal, Huang, Le, AAAI 2019, arXiv 1802.01548, algorithm 1).

A population of the P latest results. Each proposal takes a sample of S of them and changes the best of the sample a little; its
result joins the population and the oldest leaves it, however good it is (*aging*). So only what scores well again and again
stays, as a descendant.

| paper | here |
|---|---|
| P random architectures are trained before the first mutation | the first P proposals are random |
| workers in parallel share the population | the same: results count when they come; while there are none proposals are random |
| the sample is drawn with replacement | the same; `replacement=false` draws S different members |
| mutation of the NASNet space | of whatever space, as `choice.mutate` or the space itself says |
| the non-aging variant removes the worst | `aging=false`; among equals the oldest |
| no crossover | with probability `crossover` the child is first crossed with the best of a second sample |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from segnas.config import configuration
from segnas.spaces.architecture import Architecture, from_json, to_json
from segnas.spaces.choice import crossover, mutate, sample
from segnas.strategies.base import Result, Strategy, strategies

Member = tuple[Architecture, float]  # with its score


@configuration
class EvolutionOptions:
    """population: P, results that can be parents. sample: S, drawn for each parent. replacement: a member may be drawn twice.
    aging: the oldest leaves, else the worst. crossover: probability that a child has two parents."""

    population: Annotated[int, Field(ge=1)] = 100
    sample: Annotated[int, Field(ge=1)] = 25
    replacement: bool = True
    aging: bool = True
    crossover: Annotated[float, Field(ge=0, le=1)] = 0.0


@strategies.register("evolution")
class Evolution(Strategy):
    """Mutates the best of a sample of the latest results."""

    options = EvolutionOptions

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.population: deque[Member] = deque()  # in the order in which results came, the oldest first

    def propose(self, generator: np.random.Generator) -> Architecture:
        if self.asked < self.config.population or not self.population:
            return sample(self.space, generator)
        parent = self._parent(generator)
        if self.config.crossover and generator.random() < self.config.crossover:
            parent = crossover(self.space, parent, self._parent(generator), generator)
        return mutate(self.space, parent, generator)

    def tell(self, result: Result) -> None:
        if result.score is None:
            return
        self.population.append((result.architecture, result.score))
        if len(self.population) > self.config.population:
            leaves = 0 if self.config.aging else min(range(len(self.population)), key=lambda place: self.population[place][1])
            del self.population[leaves]

    def _parent(self, generator: np.random.Generator) -> Architecture:
        """The best of a sample; among equals the one drawn first."""
        members, count = len(self.population), self.config.sample
        if self.config.replacement:
            drawn = generator.integers(members, size=count).tolist()
        else:
            drawn = generator.permutation(members)[:count].tolist()  # all of them while there are fewer
        return self.population[max(drawn, key=lambda place: self.population[place][1])][0]

    def state_dict(self) -> dict[str, Any]:
        members = [{"architecture": to_json(architecture), "score": score} for architecture, score in self.population]
        return {**super().state_dict(), "population": members}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.population = deque((from_json(member["architecture"]), member["score"]) for member in state["population"])
