"""Predictors against members that are trained one by one with torch's own modules, and on functions that they should learn."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from segnas.config import from_dict
from segnas.spaces.tabular import NASBENCH201_OPERATIONS, NasBench201, NasBench201Space
from segnas.strategies.predictor import NETWORKS, Ensemble, EnsembleConfig, Token, Vocabulary, folds, kind_of, tokens_of

STEPS, RATE = 12, 0.01


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_sequences(count: int, seed: int, longest: int = 4) -> list[tuple[Token, ...]]:
    """Blocks of an input and an operation, 1 to `longest` of them."""
    draw = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        sequence: list[Token] = []
        for block in range(int(draw.integers(1, longest + 1))):
            sequence += [
                (f"blocks.{block}.input", int(draw.integers(block + 2))),
                (f"blocks.{block}.operations.0", "abc"[draw.integers(3)]),
            ]
        found.append(tuple(sequence))
    return found


class OnePerceptron(nn.Module):
    """A member by itself: the mean of the embeddings in each slot, one architecture at a time."""

    def __init__(self, vocabulary: Vocabulary, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        embedding, *rest = parameters
        self.embedding = nn.Embedding.from_pretrained(embedding.clone(), freeze=False)
        self.layers = nn.ModuleList()
        for weight, bias in zip(rest[:3], rest[3:], strict=True):
            layer = nn.Linear(*weight.shape)
            layer.weight.data, layer.bias.data = weight.T.clone(), bias[0].clone()
            self.layers.append(layer)

    def forward(self, sequence: Sequence[Token]) -> Tensor:
        slots = []
        for slot in self.vocabulary.slots:
            rows = [(kind_of(name), option) for name, option in sequence if slot in (name, kind_of(name))]
            known = [self.vocabulary.options[row] for row in rows]
            slots.append(self.embedding(torch.tensor(known)).mean(0) if known else torch.zeros(self.embedding.embedding_dim))
        first, second, last = self.layers
        return last(second(first(torch.cat(slots)).relu()).relu())[0]


class OneRecurrent(nn.Module):
    """A member by itself: torch's LSTM over one architecture at a time."""

    def __init__(self, vocabulary: Vocabulary, parameters: Sequence[Tensor]) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        embedding, weight_input, weight_state, bias, weight_out, bias_out = parameters
        self.embedding = nn.Embedding.from_pretrained(embedding.clone(), freeze=False)
        self.lstm = nn.LSTM(weight_input.shape[0], weight_state.shape[0])
        self.lstm.weight_ih_l0.data, self.lstm.weight_hh_l0.data = weight_input.T.clone(), weight_state.T.clone()
        self.lstm.bias_ih_l0.data = bias[0].clone()
        self.lstm.bias_hh_l0 = nn.Parameter(torch.zeros(4 * weight_state.shape[0]), requires_grad=False)
        self.out = nn.Linear(*weight_out.shape)
        self.out.weight.data, self.out.bias.data = weight_out.T.clone(), bias_out[0].clone()

    def forward(self, sequence: Sequence[Token]) -> Tensor:
        columns = torch.tensor([self.vocabulary.options[kind_of(name), option] for name, option in sequence])
        return self.out(self.lstm(self.embedding(columns))[0][-1])[0]


def trained_alone(member: nn.Module, sequences: Sequence[Sequence[Token]], target: Tensor, loss: str) -> None:
    optimizer = torch.optim.Adam([parameter for parameter in member.parameters() if parameter.requires_grad])
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATE * (1 + math.cos(math.pi * step / STEPS)) / 2
        outputs = torch.stack([member(sequence) for sequence in sequences])
        if loss == "l1":
            total = nn.functional.l1_loss(outputs, target)
        else:
            pairs = [(i, j) for i, j in itertools.permutations(range(len(target)), 2) if target[i] > target[j]]
            total = sum(((outputs[j] - outputs[i]).exp() + 1).log() for i, j in pairs) / len(pairs)  # type: ignore[assignment]
        optimizer.zero_grad()
        total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@pytest.mark.parametrize("loss", ["l1", "ranking"])
@pytest.mark.parametrize(("predictor", "alone"), [("mlp", OnePerceptron), ("lstm", OneRecurrent)])
def test_an_ensemble_trained_at_once_is_its_members_trained_one_by_one(
    predictor: str, alone: type[OnePerceptron] | type[OneRecurrent], loss: str
) -> None:
    values = {
        "predictor": predictor,
        "loss": loss,
        "members": 3,
        "embedding": 3,
        "width": 5,
        "steps": STEPS,
        "learning_rate": RATE,
    }
    config = from_dict(EnsembleConfig, values)
    sequences, others = random_sequences(13, seed=1), random_sequences(7, seed=2, longest=2)
    scores = np.random.default_rng(3).normal(80, 4, size=13).round(0)  # some are equal
    assert len(set(scores)) < 13
    predicted = Ensemble(config, sequences, scores.tolist(), generator(5)).predict(others)

    draws = generator(5)  # what the ensemble began with
    vocabulary = Vocabulary(sequences, str)
    assert {(kind_of(name), option) for sequence in others for name, option in sequence} <= set(vocabulary.options)
    network = NETWORKS[predictor](config, vocabulary, draws)
    kept = folds(13, 3, draws) > 0
    target = torch.tensor((scores - scores.mean()) / scores.std(), dtype=torch.float32)
    for number in range(3):
        member = alone(vocabulary, [parameter[number] for parameter in network.parameters])
        mine = [sequence for sequence, keep in zip(sequences, kept[number], strict=True) if keep]
        trained_alone(member, mine, target[kept[number]], loss)
        with torch.no_grad():
            raw = torch.stack([member(sequence) for sequence in others]).numpy()
            known = torch.stack([member(sequence) for sequence in sequences]).numpy()
        standing = (raw - known.mean()) / known.std() if loss == "ranking" else raw
        assert predicted[number] == pytest.approx(scores.mean() + scores.std() * standing, abs=5e-3)
    assert np.abs(predicted[0] - predicted[1]).max() > 0.1, "the members differ by more than the tolerance"


def test_folds_leave_out_each_item_once() -> None:
    kept = folds(23, 5, generator())
    assert (kept == 0).sum(dim=0).tolist() == [1] * 23
    assert sorted((kept == 0).sum(dim=1).tolist()) == [4, 4, 5, 5, 5]
    assert folds(23, 1, generator()).tolist() == [[1.0] * 23]


def spearman(first: np.ndarray, second: np.ndarray) -> float:
    ranks = [values.argsort().argsort() for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def toy_score(architecture: NasBench201) -> float:
    """Operations have a worth, edges a weight, and one pair of edges works together; steep at the bottom, as accuracies are."""
    worth = {operation: place / 4 for place, operation in enumerate(NASBENCH201_OPERATIONS)}
    weights = (1.0, 0.4, 0.8, 0.2, 0.6, 1.0)
    total = sum(weight * worth[operation] for weight, operation in zip(weights, architecture.edges, strict=True))
    return 100 - 60 * math.exp(-total - (architecture.edges[0] == architecture.edges[5]))


@pytest.mark.parametrize(
    ("options", "least"),
    [({}, 0.8), ({"loss": "l1"}, 0.75), ({"predictor": "lstm"}, 0.7), ({"predictor": "lstm", "loss": "l1"}, 0.7)],
)
def test_held_out_architectures_are_ranked(options: dict[str, str], least: float) -> None:
    space, draw = NasBench201Space(), np.random.default_rng(0)
    every = [NasBench201(tuple(draw.choice(NASBENCH201_OPERATIONS, 6))) for _ in range(400)]
    sequences, scores = [tokens_of(space, architecture) for architecture in every], np.array([toy_score(a) for a in every])
    torch.manual_seed(1)
    ensemble = Ensemble(from_dict(EnsembleConfig, options), sequences[:100], scores[:100].tolist(), generator(2))
    predicted = ensemble.predict(sequences[100:])
    assert predicted.shape == (5, 300)
    assert spearman(predicted.mean(axis=0), scores[100:]) > least
    assert abs(predicted.mean() - scores.mean()) < 3 * scores.std(), "in the units of the scores"
    assert torch.rand(1) == torch.rand(1, generator=generator(1)), "torch's own generator is as it was"


@pytest.mark.parametrize("predictor", ["mlp", "lstm"])
def test_a_prediction_depends_neither_on_the_batch_nor_on_what_is_unknown(predictor: str) -> None:
    sequences = random_sequences(20, seed=4)
    config = from_dict(EnsembleConfig, {"predictor": predictor})
    ensemble = Ensemble(config, sequences, list(range(20)), generator())
    together = ensemble.predict(sequences)
    alone = np.concatenate([ensemble.predict([sequence]) for sequence in sequences], axis=1)
    assert together == pytest.approx(alone, abs=1e-3)
    unknown = [[*sequence[:-1], (sequence[-1][0], option)] for sequence in sequences for option in ("x", "y")]
    predicted = ensemble.predict(unknown)
    assert np.array_equal(predicted[:, ::2], predicted[:, 1::2])
    assert not np.allclose(predicted[:, ::2], together)


@pytest.mark.parametrize("loss", ["l1", "ranking"])
def test_equal_scores_predict_themselves(loss: str) -> None:
    ensemble = Ensemble(from_dict(EnsembleConfig, {"loss": loss}), random_sequences(6, seed=5), [3.5] * 6, generator())
    assert ensemble.predict(random_sequences(9, seed=6)) == pytest.approx(np.full((5, 9), 3.5))


def test_slots_average_over_what_grows() -> None:
    sequence = [("blocks.0.input", 1), ("blocks.1.input", 2), ("blocks.1.operations.0", "a"), ("blocks.1.operations.1", "b")]
    vocabulary = Vocabulary(
        [sequence], lambda name: ".".join("*" if place == 1 else p for place, p in enumerate(name.split(".")))
    )
    shares = vocabulary.shares([sequence, sequence[1:3]])
    assert list(vocabulary.slots) == ["blocks.*.input", "blocks.input", "blocks.*.operations.0", "blocks.operations"] + [
        "blocks.*.operations.1"
    ]
    assert list(vocabulary.options) == [
        ("blocks.input", 1),
        ("blocks.input", 2),
        ("blocks.operations", "a"),
        ("blocks.operations", "b"),
    ]
    half = 0.5
    assert shares[0].tolist() == [[half, half, 0, 0], [half, half, 0, 0], [0, 0, 1, 0], [0, 0, half, half], [0, 0, 0, 1]]
    assert shares[1].tolist() == [[0, 1, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
