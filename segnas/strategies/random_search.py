"""Random search: every proposal is drawn anew. What any other strategy has to beat (Li and Talwalkar, UAI 2019)."""

from __future__ import annotations

import numpy as np

from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import sample
from segnas.strategies.base import Strategy, strategies


@strategies.register("random")
class RandomSearch(Strategy):
    """Draws from the space, whatever was found."""

    def propose(self, generator: np.random.Generator) -> Architecture:
        return sample(self.space, generator)
