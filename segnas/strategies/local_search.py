"""Local search: from a random architecture uphill by one choice at a time (White, Nolen, Savani, UAI 2021, arXiv 2005.02960).

The neighbours of an architecture, those with one other choice, are tried in random order. The first that scores better is the
next place to climb from; where none does the climb is over and another begins at random. Nothing is proposed twice before
everything was: what an earlier climb tried is known, and followed where it is better.

Several workers: while results are awaited the climb goes on from the best that is known. When all neighbours are proposed the
next climb begins, and a result of the former that comes later is not followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from segnas.spaces.architecture import Architecture, from_json, to_json
from segnas.spaces.choice import enumerate_space, neighbours, sample
from segnas.strategies.base import Result, Strategy, strategies

DRAWS = 100  # random architectures that are drawn in search of a new one before the space is gone through


@strategies.register("local-search")
class LocalSearch(Strategy):
    """Climbs by the first better neighbour, and starts again where there is none."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.seen: dict[Architecture, float | None] = {}  # proposed so far, in order, with the scores that are known
        self.climb_began = 0  # the number of its first proposal
        self.place: tuple[Architecture, float] | None = None  # where the climb has got to, with its score
        self.untried: list[Architecture] | None = None  # neighbours of the place, the next one last; None: not listed yet
        self.exhausted = False  # whether all architectures of the space were proposed

    def propose(self, generator: np.random.Generator) -> Architecture:
        proposal = self._neighbour(generator) if self.place is not None else None
        if proposal is None:
            if self.place is not None:
                self.climb_began, self.place, self.untried = self.asked, None, None
            proposal = self._start(generator)
        self.seen.setdefault(proposal, None)
        return proposal

    def tell(self, result: Result) -> None:
        if result.score is None:
            return
        self.seen[result.architecture] = result.score
        if result.number < self.climb_began:
            return
        if self.place is None or result.score > self.place[1]:
            self.place, self.untried = (result.architecture, result.score), None

    def _neighbour(self, generator: np.random.Generator) -> Architecture | None:
        """A neighbour of the place that was not proposed yet; None where there is none, nor a better one that is known."""
        assert self.place is not None
        while True:
            if self.untried is None:
                around = list(neighbours(self.space, self.place[0], generator))
                self.untried = [around[index] for index in generator.permutation(len(around))]
            if not self.untried:
                return None
            architecture = self.untried.pop()
            if architecture not in self.seen:
                return architecture
            score = self.seen[architecture]
            if score is not None and score > self.place[1]:
                self.place, self.untried = (architecture, score), None

    def _start(self, generator: np.random.Generator) -> Architecture:
        """A random architecture that was not proposed yet, while there is one."""
        if self.exhausted:
            return sample(self.space, generator)
        for _ in range(DRAWS):
            architecture = sample(self.space, generator)
            if architecture not in self.seen:
                return architecture
        for architecture in enumerate_space(self.space):  # most of it was seen, so that it is small
            if architecture not in self.seen:
                return architecture
        self.exhausted = True
        return sample(self.space, generator)

    def state_dict(self) -> dict[str, Any]:
        return {
            **super().state_dict(),
            "seen": [{"architecture": to_json(architecture), "score": score} for architecture, score in self.seen.items()],
            "climb_began": self.climb_began,
            "place": None if self.place is None else {"architecture": to_json(self.place[0]), "score": self.place[1]},
            "untried": None if self.untried is None else [to_json(architecture) for architecture in self.untried],
            "exhausted": self.exhausted,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.seen = {from_json(entry["architecture"]): entry["score"] for entry in state["seen"]}
        self.climb_began = int(state["climb_began"])
        place, untried = state["place"], state["untried"]
        self.place = None if place is None else (from_json(place["architecture"]), place["score"])
        self.untried = None if untried is None else [from_json(values) for values in untried]
        self.exhausted = bool(state["exhausted"])
