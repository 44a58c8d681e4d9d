"""Random search that also looks near the best (Chen et al., NeurIPS 2018, arXiv 1809.04184, section 3.3: how cells were drawn).

A proposal is random, or one of the best found so far with a few of its choices changed. The paper says no more of it than that;
shares and numbers are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import Field, PositiveInt

from segnas.config import configuration
from segnas.spaces.architecture import Architecture, from_json, to_json
from segnas.spaces.choice import Space, mutate, sample
from segnas.strategies.base import Result, Strategy, strategies


@configuration
class NearBestConfig:
    """random: share of proposals that are drawn from the whole space. best: how many of the best are looked near. changes: at
    most so many mutations, one after the other."""

    random: Annotated[float, Field(ge=0, le=1)] = 0.5
    best: PositiveInt = 3
    changes: PositiveInt = 2


@strategies.register("near-best")
class NearBest(Strategy):
    """Draws from the space, or near the best."""

    options = NearBestConfig

    def __init__(self, space: Space, seed: int, options: Mapping[str, Any] | None = None, objectives: int = 1) -> None:
        super().__init__(space, seed, options, objectives)
        self.best: list[tuple[float, int, Architecture]] = []  # (score, number of the proposal, architecture), best first

    def propose(self, generator: np.random.Generator) -> Architecture:
        if not self.best or generator.random() < self.config.random:
            return sample(self.space, generator)
        architecture = self.best[int(generator.integers(len(self.best)))][2]
        for _ in range(int(generator.integers(self.config.changes)) + 1):
            architecture = mutate(self.space, architecture, generator)
        return architecture

    def tell(self, result: Result) -> None:
        if result.score is not None:
            found = [*self.best, (result.score, result.number, result.architecture)]
            self.best = sorted(found, key=lambda one: (-one[0], one[1]))[: self.config.best]

    def state_dict(self) -> dict[str, Any]:
        best = [(score, number, to_json(architecture)) for score, number, architecture in self.best]
        return {**super().state_dict(), "best": best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.best = [(score, number, from_json(architecture)) for score, number, architecture in state["best"]]
