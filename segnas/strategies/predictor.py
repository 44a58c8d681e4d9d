"""Predictors of an architecture's score from its choices: ensembles of small networks, all members trained at once.

    ensemble = Ensemble(config, sequences, scores, generator)      sequences: the choices of each architecture (`tokens_of`)
    ensemble.predict(others)                                       (members, architectures), in the units of the scores

The ensembles of PNAS (Liu et al., ECCV 2018, section 4.2): a multilayer perceptron over mean embeddings of the choices, or an
LSTM over the choices in their order; 5 members, each of which leaves out a fifth of the data. Choices of one kind share their
embeddings: the kind is the name of a choice without its numbers, `cell.blocks.operations` of `cell.blocks.3.operations.0`.

    paper                                        here
    I1, I2, O1, O2, each averaged over blocks    what the choices are called, averaged by `slot_of` (nothing, or what grows)
    accuracies, a sigmoid, bias 1.8              scores of any unit, standardised; linear output, bias 0
    L1 loss                                      that, or a logistic loss of pairs of architectures, which only ranks
    -                                            and each kind averaged over all of its choices
    100 embeddings and hidden units              16 and 64: for less data, and fitted more often
    Adam at 0.01, later 0.002, further trained   Adam at 0.01 falling to 0, from new weights, so that a fit is a function of the
    after each stage                             data and the generator
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import softplus

from segnas.config import configuration
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import Space, choices_of

Token = tuple[str, Hashable]  # (name of a choice, its option)
Positive = Annotated[int, Field(ge=1)]

BATCH = 4096  # architectures that are scored at a time
PAIRS = 200_000  # of architectures at most, in the ranking loss


@configuration
class EnsembleConfig:
    """What the members are and how they are trained.

    predictor: "mlp" or "lstm". members: each leaves out its share of the data; a single one leaves out nothing. embedding: size
    of an option's embedding. width: of the hidden layers, or the LSTM's state. loss: "l1" of standardised scores, or "ranking".
    steps: of Adam, over all data, at a rate that falls from `learning_rate` to 0 by a cosine.
    """

    predictor: Literal["mlp", "lstm"] = "mlp"
    members: Positive = 5
    embedding: Positive = 16
    width: Positive = 64
    loss: Literal["l1", "ranking"] = "ranking"
    steps: Positive = 60
    learning_rate: Annotated[float, Field(gt=0)] = 0.01


def tokens_of(space: Space, architecture: Architecture) -> tuple[Token, ...]:
    """The choices that give `architecture`, in order; raises NotInSpace when none do."""
    return tuple((choice.name, choice.option) for choice in choices_of(space, architecture))


@cache
def kind_of(name: str) -> str:
    """The name of a choice without its numbers."""
    return ".".join(part for part in name.split(".") if not part.isdigit())


class Vocabulary:
    """The options of each kind of choice that some data has, and the slots in which its choices stand.

    A choice stands in the slot that `slot_of` gives for its name, and in that of its kind: what holds for all choices of a kind
    shows in few data, what holds for one of them in many.
    """

    def __init__(self, sequences: Sequence[Sequence[Token]], slot_of: Callable[[str], str]) -> None:
        self._slot_of = slot_of
        self.slots: dict[str, int] = {}
        self.options: dict[tuple[str, Hashable], int] = {}
        self._places: dict[Token, tuple[int, ...]] = {}
        for sequence in sequences:
            for name, option in sequence:
                for slot in (slot_of(name), kind_of(name)):
                    self.slots.setdefault(slot, len(self.slots))
                self.options.setdefault((kind_of(name), option), len(self.options))

    def shares(self, sequences: Sequence[Sequence[Token]]) -> Tensor:
        """(architectures, slots, options): the share of a slot's choices that have each option; unknown ones count nowhere."""
        size = len(self.slots) * len(self.options)
        flat = [row * size + place for row, sequence in enumerate(sequences) for token in sequence for place in self._at(token)]
        counts = np.bincount(np.array(flat, dtype=np.int64), minlength=len(sequences) * size).astype(np.float32)
        counts = counts.reshape(len(sequences), len(self.slots), len(self.options))
        return torch.from_numpy(counts / counts.sum(axis=2, keepdims=True).clip(min=1))

    def columns(self, sequences: Sequence[Sequence[Token]]) -> Tensor:
        """(architectures, longest): the option of each choice in order; those unknown have the number of options.

        Shorter sequences end in -1.
        """
        columns = np.full((len(sequences), max(len(sequence) for sequence in sequences)), -1)
        for row, sequence in enumerate(sequences):
            columns[row, : len(sequence)] = [
                self.options.get((kind_of(name), option), len(self.options)) for name, option in sequence
            ]
        return torch.from_numpy(columns)

    def _at(self, token: Token) -> tuple[int, ...]:
        """Where a choice counts in an architecture's (slots, options), as if flat; remembered, for it is asked for often."""
        if token not in self._places:
            name, option = token
            column = self.options.get((kind_of(name), option))
            slots = {self.slots[slot] for slot in (self._slot_of(name), kind_of(name)) if slot in self.slots}
            self._places[token] = () if column is None else tuple(slot * len(self.options) + column for slot in slots)
        return self._places[token]


class Perceptron:
    """Two hidden layers over the concatenated slots, each the mean embedding of its options."""

    def __init__(self, config: EnsembleConfig, vocabulary: Vocabulary, generator: torch.Generator) -> None:
        members, slots, width = config.members, len(vocabulary.slots), config.width
        self.encode = vocabulary.shares
        self.embedding = _uniform((members, len(vocabulary.options), config.embedding), 0.1, generator)
        sizes = (slots * config.embedding, width, width)
        self.weights = [
            _normal((members, inputs, outputs), (2 / inputs) ** 0.5, generator) for inputs, outputs in pairwise(sizes)
        ]
        self.weights.append(_normal((members, width, 1), 0.1 * (2 / width) ** 0.5, generator))
        self.biases = [torch.zeros(members, 1, weight.shape[2]) for weight in self.weights]
        self.parameters = [self.embedding, *self.weights, *self.biases]

    def __call__(self, shares: Tensor) -> Tensor:
        """(architectures, slots, options) -> (members, architectures)"""
        hidden = torch.einsum("nsv,mvd->mnsd", shares, self.embedding).flatten(2)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            hidden = torch.baddbmm(bias, torch.relu(hidden) if layer else hidden, weight)
        return hidden[..., 0]


class Recurrent:
    """An LSTM of one layer over the embedded options, and a linear layer on its last state."""

    def __init__(self, config: EnsembleConfig, vocabulary: Vocabulary, generator: torch.Generator) -> None:
        members, width = config.members, config.width
        self.encode = vocabulary.columns
        self.embedding = _uniform((members, len(vocabulary.options), config.embedding), 0.1, generator)
        scale = width**-0.5
        self.weight_input = _uniform((members, config.embedding, 4 * width), scale, generator)
        self.weight_state = _uniform((members, width, 4 * width), scale, generator)
        self.bias = torch.zeros(members, 1, 4 * width)
        self.weight_out = _uniform((members, width, 1), scale, generator)
        self.bias_out = torch.zeros(members, 1, 1)
        self.parameters = [
            self.embedding,
            self.weight_input,
            self.weight_state,
            self.bias,
            self.weight_out,
            self.bias_out,
        ]

    def __call__(self, columns: Tensor) -> Tensor:
        """(architectures, longest) -> (members, architectures)"""
        rows = torch.baddbmm(self.bias, self.embedding, self.weight_input)
        rows = torch.cat([rows, self.bias], dim=1)  # what is unknown is an embedding of 0
        state = rows.new_zeros(rows.shape[0], columns.shape[0], self.weight_state.shape[1])
        cell = state
        for column in columns.T:
            gates = torch.baddbmm(rows[:, column.clamp(min=0)], state, self.weight_state)
            enter, forget, fresh, leave = gates.chunk(4, dim=2)
            following = forget.sigmoid() * cell + enter.sigmoid() * fresh.tanh()
            there = (column >= 0)[:, None]
            cell, state = (
                torch.where(there, following, cell),
                torch.where(there, leave.sigmoid() * following.tanh(), state),
            )
        return torch.baddbmm(self.bias_out, state, self.weight_out)[..., 0]


NETWORKS: dict[str, type[Perceptron] | type[Recurrent]] = {"mlp": Perceptron, "lstm": Recurrent}


class Ensemble:
    """Networks that predict a score, trained when they are made.

    sequences: the choices of each architecture, of any number each. scores: one each, at least one. generator: all that is
    drawn: which data each member leaves out, and its weights. slot_of: the slot of a choice in the perceptron, from its name;
    choices in one slot are averaged.
    """

    def __init__(
        self,
        config: EnsembleConfig,
        sequences: Sequence[Sequence[Token]],
        scores: Sequence[float],
        generator: torch.Generator,
        slot_of: Callable[[str], str] = str,
    ) -> None:
        self.network = NETWORKS[config.predictor](config, Vocabulary(sequences, slot_of), generator)
        inputs = self.network.encode(sequences)
        target = torch.tensor(scores, dtype=torch.float64)
        self.mean, self.deviation = float(target.mean()), float(target.std(correction=0))
        target = ((target - self.mean) / (self.deviation or 1.0)).float()
        kept = folds(len(scores), config.members, generator)
        loss = _ranking_loss(target, kept, generator) if config.loss == "ranking" else _l1_loss(target, kept)
        self._train(inputs, loss, config)
        with torch.no_grad():
            outputs = self.network(inputs)
        if config.loss == "ranking":  # has no unit: each member's outputs are brought to the scores' mean and deviation
            spread = outputs.std(dim=1, correction=0, keepdim=True)
            self.shift, self.scale = outputs.mean(dim=1, keepdim=True), self.deviation / spread.clamp(min=1e-6)
        else:
            self.shift, self.scale = torch.zeros(1, 1), torch.tensor(self.deviation)

    def _train(self, inputs: Tensor, loss: Callable[[Tensor], Tensor], config: EnsembleConfig) -> None:
        parameters = [parameter.requires_grad_() for parameter in self.network.parameters]
        optimizer = torch.optim.Adam(parameters, lr=config.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.steps)
        for _ in range(config.steps):
            optimizer.zero_grad()
            loss(self.network(inputs)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()

    @torch.no_grad()
    def predict(self, sequences: Sequence[Sequence[Token]]) -> np.ndarray:
        """(members, architectures) predictions, in the units of the scores; options that the data had not say nothing."""
        batches = [sequences[start : start + BATCH] for start in range(0, len(sequences), BATCH)]
        outputs = torch.cat([self.network(self.network.encode(batch)) for batch in batches], dim=1)
        predicted: np.ndarray = (self.mean + (outputs - self.shift) * self.scale).numpy()
        return predicted


def folds(count: int, members: int, generator: torch.Generator) -> Tensor:
    """(members, count): 1 for what a member is trained on, 0 for what it leaves out; every item is left out by one of several."""
    if members == 1:
        return torch.ones(1, count)
    fold = torch.randperm(count, generator=generator) % members
    return (fold != torch.arange(members)[:, None]).float()


def _l1_loss(target: Tensor, kept: Tensor) -> Callable[[Tensor], Tensor]:
    """Mean absolute difference of each member on its data, summed over members, whose gradients then do not depend on others."""
    weight = kept / kept.sum(dim=1, keepdim=True).clamp(min=1)
    return lambda outputs: ((outputs - target).abs() * weight).sum()


def _ranking_loss(target: Tensor, kept: Tensor, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Mean of log(1 + exp(worse - better)) over the pairs of each member's data (RankNet, Burges et al., ICML 2005), summed."""
    better, worse = torch.triu_indices(len(target), len(target), offset=1)
    if len(better) > PAIRS:
        some = torch.randperm(len(better), generator=generator)[:PAIRS]
        better, worse = better[some], worse[some]
    swapped = target[better] < target[worse]
    better, worse = torch.where(swapped, worse, better), torch.where(swapped, better, worse)
    differ = target[better] != target[worse]
    better, worse = better[differ], worse[differ]
    weight = kept[:, better] * kept[:, worse]
    weight = weight / weight.sum(dim=1, keepdim=True).clamp(min=1)
    return lambda outputs: (softplus(outputs[:, worse] - outputs[:, better]) * weight).sum()


def _uniform(shape: tuple[int, ...], bound: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).uniform_(-bound, bound, generator=generator)


def _normal(shape: tuple[int, ...], deviation: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape).normal_(0, deviation, generator=generator)
