"""Progressive search with a learned predictor: PNAS (Liu et al., ECCV 2018, algorithm 1), on any space.

A space that grows (spaces/choice.py) is searched from its smallest architectures to the largest. All those of the first stage
are tried; then, stage by stage, the best `beam` are grown by one step in every way, the predictor scores what came out, and
the best `beam` by its word are tried. What follows the last stage, and the whole of a search in any other space, is this:

    results so far -> predictor -> a pool of candidates not yet proposed (mutations of the best found, and random ones)
                   -> the next `refit` proposals: the candidates of the highest predicted scores

It takes the first objective, and of proposals at work at the same time each its own candidate: no two are the same.

    paper                                        here
    all of stage 1, K = 256 of later ones        the same; `first` and `beam` make a smaller search of it
    ends with the last stage                     goes on as above
    a stage begins when the last has ended       when all of it is proposed: what has no result yet counts as predicted
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Literal, cast

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

    refit: results after which the predictor is trained anew, and proposals that it then ranks. pool: candidates among which it
    does, a third of them random, the others mutations in two rounds: of the best `parents` found, then of the best predicted.
    exploration: by which predictions; "members": each proposal is the best by one member that is drawn, as in Thompson
    sampling; "bound": by their mean and standard deviation added; "none": by their mean, as in the stages.
    """

    first: Positive | None = None
    beam: Positive = 256
    initial: Positive = 10
    refit: Positive = 5
    pool: Annotated[int, Field(ge=3)] = 600
    parents: Positive = 10
    exploration: Literal["members", "bound", "none"] = "members"


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
        self._spaces = [self.growing.stage(number + 1) for number in range(self.stages)] if self.growing else [space]
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
        """The next `refit` proposals in their order, fewer when the pool has no more new ones."""
        pool, predicted = self._pool(generator)
        if not pool:
            return []
        exploration = self.config.exploration
        if exploration == "members":
            chosen: list[int] = []
            for member in generator.integers(len(predicted), size=min(self.config.refit, len(pool))):
                order = np.argsort(-predicted[member], kind="stable")
                chosen.append(next(int(index) for index in order if index not in chosen))
        else:
            values = predicted.mean(axis=0) + (predicted.std(axis=0) if exploration == "bound" else 0)
            chosen = np.argsort(-values, kind="stable")[: self.config.refit].tolist()
        return [Candidate(pool[index], self.stages) for index in chosen]

    def _pool(self, generator: np.random.Generator) -> tuple[list[Architecture], np.ndarray]:
        """Candidates that were not proposed, all different, and their predictions (members, candidates)."""
        ensemble, third = self._fitted(), self.config.pool // 3
        pool: dict[Any, Architecture] = {}
        rounds: list[np.ndarray] = []

        def add(architectures: Iterable[Architecture]) -> None:
            keyed = ((self._key(architecture), architecture) for architecture in architectures)
            new = {key: architecture for key, architecture in keyed if key not in self._keys and key not in pool}
            if new:
                rounds.append(ensemble.predict([tokens_of(self.space, architecture) for architecture in new.values()]))
                pool.update(new)

        def mutants(parents: list[Architecture]) -> Iterable[Architecture]:
            for _ in range(third if parents else 0):
                yield mutate(self.space, parents[int(generator.integers(len(parents)))], generator)

        add(sample(self.space, generator) for _ in range(third))
        add(mutants(self._best_found()))
        if pool:
            architectures, predicted = list(pool.values()), np.concatenate(rounds, axis=1).mean(axis=0)
            best = np.argsort(-predicted, kind="stable")[: self.config.parents]
            add(mutants([architectures[index] for index in best]))
        return list(pool.values()), np.concatenate(rounds, axis=1) if rounds else np.empty((self.config.members, 0))

    def _best_found(self) -> list[Architecture]:
        """The `parents` architectures of the full space with the best scores, each once."""
        best: dict[Any, Architecture] = {}
        for number in sorted(self.scores, key=lambda number: -self.scores[number]):
            architecture, stage = self.proposals[number].architecture, self.proposals[number].stage
            if stage == self.stages and len(best) < self.config.parents:
                best.setdefault(self._key(architecture), architecture)
        return list(best.values())

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
        return self._spaces[stage - 1]

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
