"""Progressive search with a learned predictor: PNAS (Liu et al., ECCV 2018, algorithm 1), on any space.

A space that grows (spaces/choice.py) is searched from its smallest architectures to the largest. All those of the first stage
are tried; then, stage by stage, the best `beam` are grown by one step in every way, the predictor scores what came out, and
the best `beam` by its word are tried. What follows the last stage, and the whole of a search in any other space, is this:

    results so far -> predictor -> a pool of candidates not yet proposed (mutations of the best found, and random ones)
                   -> the next `refit` proposals: the candidates of the highest predicted scores

    paper                                        here
    all of stage 1, K = 256 of later ones        the same; `first` and `beam` make a smaller search of it
    ends with the last stage                     goes on as above
    a stage begins when the last has ended       when all of it is proposed: what has no result yet counts as predicted
    fine-tunes the best 256 by their scores      up to whoever reads the results
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, cast

import numpy as np
import torch
from pydantic import Field

from segnas.config import configuration
from segnas.randomness import derive
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import GrowingSpace, Space, encode, enumerate_space, from_indices, mutate, replay, sample
from segnas.strategies.base import Result, Strategy, strategies
from segnas.strategies.predictor import BATCH, Ensemble, EnsembleConfig, Positive, Token, kind_of, tokens_of

ATTEMPTS = 100  # draws in search of an architecture that was not proposed


@configuration
class ProgressiveConfig(EnsembleConfig):
    """Of a space that grows: `first`, how many architectures of stage 1, drawn at random (None: all), and `beam`, how many of
    each later stage. Of others: `initial` random proposals come first.

    refit: results after which the predictor is trained anew. pool: candidates that it ranks, in `rounds`: the first half of them
    are random, the rest are mutations, of the best `parents` found, and then of the best predicted. exploration: standard
    deviations of the members' predictions that are added to their mean (an upper confidence bound).
    """

    first: Positive | None = None
    beam: Positive = 256
    initial: Positive = 10
    refit: Positive = 5
    pool: Positive = 300
    rounds: Positive = 2
    parents: Positive = 10
    randoms: float = 0.3
    exploration: Annotated[float, Field(ge=0)] = 0.0
    thompson: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """An architecture, and the stage of the space that it belongs to (the only one of a space that does not grow is 1)."""

    architecture: Architecture
    stage: int


@strategies.register("progressive")
class ProgressiveSearch(Strategy):
    """Proposes what a predictor, fitted to the results, ranks highest."""

    options = ProgressiveConfig
    config: ProgressiveConfig

    def __init__(self, space: Space, seed: int, options: Mapping[str, Any] | None = None, objectives: int = 1) -> None:
        super().__init__(space, seed, options, objectives)
        self.growing = cast(GrowingSpace, space) if hasattr(space, "grow") else None
        self.stages = self.growing.stages if self.growing else 1
        self.slot_of = growing_slots(self.growing) if self.growing else str
        self.stage = 0 if self.growing else 1  # the last one that was begun
        self.proposals: list[Candidate] = []
        self.scores: dict[int, float] = {}  # of proposals, by number, in the order in which they came
        self.failed: set[int] = set()
        self.planned: list[Candidate] = []  # what of the stage is still to propose
        self.queue: list[Candidate] = []  # what the predictor ranks highest
        self.ranked_at = 0  # the number of results that it knew
        self._tokens: list[tuple[Token, ...]] = []
        self._keys: set[Any] = set()
        self._ensemble: tuple[int, Ensemble] | None = None

    def propose(self, generator: np.random.Generator) -> Architecture:
        """The next of the stage or of the ranking; random while there is too little to fit a predictor to."""
        while not self.planned and self.stage < self.stages and (self.stage == 0 or self._can_fit()):
            self.planned = self._first_stage(generator) if self.stage == 0 else self._next_stage()
            self.stage += 1
        if self.planned:
            return self._proposed(self.planned.pop(0))
        if not self._can_fit():
            return self._proposed(self._random(generator))
        if not self.queue or len(self.scores) >= self.ranked_at + self.config.refit:
            self.queue = self._ranked(generator)
            self.ranked_at = len(self.scores)
        return self._proposed(self.queue.pop(0) if self.queue else self._random(generator))

    def tell(self, result: Result) -> None:
        """Take note of a score; a failure is no data."""
        if result.score is None:
            self.failed.add(result.number)
        else:
            self.scores[result.number] = result.score

    def state_dict(self) -> dict[str, Any]:
        """Plain values; an architecture is its stage and the indices of its options."""
        return {
            **super().state_dict(),
            "stage": self.stage,
            "proposals": [self._plain(candidate) for candidate in self.proposals],
            "scores": list(self.scores.items()),
            "failed": sorted(self.failed),
            "planned": [self._plain(candidate) for candidate in self.planned],
            "queue": [self._plain(candidate) for candidate in self.queue],
            "ranked_at": self.ranked_at,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        super().load_state_dict(state)
        self.stage, self.ranked_at = int(state["stage"]), int(state["ranked_at"])
        self.proposals, self._tokens, self._keys = [], [], set()
        for stage, indices in state["proposals"]:
            self._proposed(self._candidate(stage, indices))
        self.scores = {int(number): float(score) for number, score in state["scores"]}
        self.failed = {int(number) for number in state["failed"]}
        self.planned = [self._candidate(stage, indices) for stage, indices in state["planned"]]
        self.queue = [self._candidate(stage, indices) for stage, indices in state["queue"]]

    def _first_stage(self, generator: np.random.Generator) -> list[Candidate]:
        """All architectures of stage 1, or `first` of them, in a random order; of those of the same network one."""
        distinct = {self._key(architecture): architecture for architecture in enumerate_space(self._space_of(1))}
        architectures = list(distinct.values())
        order = generator.permutation(len(architectures))[: self.config.first]
        return [Candidate(architectures[index], 1) for index in order]

    def _next_stage(self) -> list[Candidate]:
        """The `beam` architectures of the next stage of the highest predicted scores, among all that grow from the best."""
        assert self.growing is not None
        last = [
            number
            for number, candidate in enumerate(self.proposals)
            if candidate.stage == self.stage and number not in self.failed
        ]
        predicted = self._fitted().predict([self._tokens[number] for number in last]).mean(axis=0) if last else ()
        standing = {number: self.scores.get(number, float(value)) for number, value in zip(last, predicted, strict=True)}
        beam = sorted(last, key=lambda number: -standing[number])[: self.config.beam]
        grown = (larger for number in beam for larger in self.growing.grow(self.proposals[number].architecture))
        best = self._best(grown, self.stage + 1)
        return [Candidate(architecture, self.stage + 1) for architecture in best]

    def _best(self, architectures: Iterable[Architecture], stage: int) -> list[Architecture]:
        """The `beam` of the highest predicted scores, best first; looks at a batch at a time, for there may be a million."""
        best: dict[Any, tuple[float, Architecture]] = {}
        space, ensemble, architectures = self._space_of(stage), self._fitted(), iter(architectures)
        while batch := list(islice(architectures, BATCH)):
            predicted = ensemble.predict([tokens_of(space, architecture) for architecture in batch]).mean(axis=0)
            ranked = [*best.values(), *zip(predicted.tolist(), batch, strict=True)]
            best = {}
            for value, architecture in sorted(ranked, key=lambda pair: -pair[0]):
                if len(best) == self.config.beam:
                    break
                best.setdefault(self._key(architecture), (value, architecture))
        return [architecture for _, architecture in best.values()]

    def _ranked(self, generator: np.random.Generator) -> list[Candidate]:
        """The `refit` new candidates of the highest upper confidence bounds."""
        config, ensemble = self.config, self._fitted()
        complete = [number for number in self.scores if self.proposals[number].stage == self.stages]
        complete.sort(key=lambda number: -self.scores[number])
        found: dict[Any, Architecture] = {}
        for number in complete:
            if len(found) == config.parents:
                break
            architecture = self.proposals[number].architecture
            found.setdefault(self._key(architecture), architecture)
        parents = list(found.values())
        pool: dict[Any, tuple[Any, Architecture]] = {}

        def consider(architectures):
            new = {k: a for a in architectures if (k := self._key(a)) not in self._keys and k not in pool}
            if not new:
                return
            predicted = ensemble.predict([tokens_of(self.space, a) for a in new.values()])
            values = predicted.mean(axis=0) + config.exploration * predicted.std(axis=0)
            for (k, a), v, member in zip(new.items(), values.tolist(), predicted.T, strict=True):
                pool[k] = (v, a, member)

        n_random = int(config.pool * config.randoms)
        consider([sample(self.space, generator) for _ in range(n_random)])
        each = (config.pool - n_random) // config.rounds
        for round_ in range(config.rounds):
            if parents:
                consider([mutate(self.space, parents[int(generator.integers(len(parents)))], generator) for _ in range(each)])
            parents = [e[1] for e in sorted(pool.values(), key=lambda e: -e[0])[: config.parents]]
        if config.thompson:
            out = []
            for i in range(config.refit):
                m = int(generator.integers(config.members))
                if pool:
                    k = max(pool, key=lambda k: pool[k][2][m])
                    out.append(Candidate(pool.pop(k)[1], self.stages))
            return out
        best = sorted(pool.values(), key=lambda e: -e[0])[: config.refit]
        return [Candidate(e[1], self.stages) for e in best]

    def _random(self, generator: np.random.Generator) -> Candidate:
        """A random architecture that was not proposed yet; one that was, when the space seems to have no other."""
        for _ in range(ATTEMPTS):
            architecture = sample(self.space, generator)
            if self._key(architecture) not in self._keys:
                break
        return Candidate(architecture, self.stages)

    def _can_fit(self) -> bool:
        initial = 2 if self.growing else self.config.initial
        return len(self.scores) >= 2 and len(self.proposals) >= initial

    def _fitted(self) -> Ensemble:
        """The predictor of all results, a function of the seed and of them."""
        count = len(self.scores)
        if self._ensemble is None or self._ensemble[0] != count:
            generator = torch.Generator().manual_seed(derive(self.seed, "predictor", count))
            sequences = [self._tokens[number] for number in self.scores]
            self._ensemble = count, Ensemble(self.config, sequences, list(self.scores.values()), generator, self.slot_of)
        return self._ensemble[1]

    def _proposed(self, candidate: Candidate) -> Architecture:
        self.proposals.append(candidate)
        self._tokens.append(tokens_of(self._space_of(candidate.stage), candidate.architecture))
        self._keys.add(self._key(candidate.architecture))
        return candidate.architecture

    def _key(self, architecture: Architecture) -> Any:
        """Equal for architectures that are the same network, as far as the space can tell."""
        canonical = getattr(self.space, "canonical", None)
        return architecture if canonical is None else canonical(architecture)

    def _space_of(self, stage: int) -> Space:
        return self.growing.stage(stage) if self.growing else self.space

    def _plain(self, candidate: Candidate) -> list[Any]:
        return [candidate.stage, encode(self._space_of(candidate.stage), candidate.architecture)]

    def _candidate(self, stage: int, indices: Mapping[str, int]) -> Candidate:
        return Candidate(from_indices(self._space_of(stage), indices), stage)


def growing_slots(space: GrowingSpace) -> Callable[[str], str]:
    """The slot of a choice whose embeddings are averaged over what grows: its name without the numbers that grow.

    `cell.blocks.3.operations.0` becomes `cell.blocks.*.operations.0` where the first stage has block 0 and the last has more.
    """
    first, last = (_numbers(space.stage(stage)) for stage in (1, space.stages))
    grows = {place for place, numbers in last.items() if first.get(place) != numbers}

    def slot_of(name: str) -> str:
        parts = name.split(".")
        return ".".join("*" if part.isdigit() and (kind_of(name), place) in grows else part for place, part in enumerate(parts))

    return slot_of


def _numbers(space: Space) -> dict[tuple[str, int], set[str]]:
    """The numbers at each place of the names of each kind of choice, in the architecture of all first options."""
    found: dict[tuple[str, int], set[str]] = {}
    for choice in replay(space, lambda name, options: 0)[1]:
        for place, part in enumerate(choice.name.split(".")):
            if part.isdigit():
                found.setdefault((kind_of(choice.name), place), set()).add(part)
    return found
