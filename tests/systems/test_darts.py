"""The search of DARTS on tiny sets: its steps against plain ones, its records, PC-DARTS, the preflight."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from darts_golden import GOLDEN, from_genotype
from small_images import SmallImages
from tiny_search import PARTIAL, SMALL, Drawn, MakeJob, tiny_darts, without_seconds
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.config import replace
from segnas.costs.counts import count
from segnas.data.loading import Batch, halves
from segnas.forecast import as_measured
from segnas.nets import build
from segnas.nets.operations import MixedGraph
from segnas.spaces.architecture import from_json, identity
from segnas.spaces.choice import encode, from_indices
from segnas.spaces.darts import OPERATIONS, DartsOptions, DartsSpace
from segnas.strategies.bilevel import move
from segnas.systems import darts
from segnas.systems.darts import (
    SYSTEM,
    Relaxation,
    Search,
    SearchConfig,
    decode,
    preflight,
    search,
)
from segnas.training.preflight import DoesNotFit, Measurement

RECORD = {
    "epoch": int,
    "loss_weights": float,
    "entropy_alpha": float,
    "skip_share": float,
    "score_supernet": float,
    "score_one_hot": float,
    "parameters": int,
    "multiply_adds": int,
    "architecture": dict,
    "id": str,
}


def test_the_relaxation_is_normalised_over_operations_and_over_the_edges_into_a_block() -> None:
    relaxation = Relaxation(SearchConfig(edge_weights=True, partial_channels=4), seed=3)
    for variable in relaxation.parameters():
        torch.nn.init.normal_(variable, std=3.0)
    mixture = relaxation.mixture()
    assert mixture.normal.shape == mixture.reduction.shape == (14, 8)
    torch.testing.assert_close(mixture.normal.sum(-1), torch.ones(14))
    assert mixture.reduction_edges is not None
    logits = relaxation.reduction_edges.detach().double().numpy()
    for first, last in ((0, 2), (2, 5), (5, 9), (9, 14)):
        raised = np.exp(logits[first:last])
        np.testing.assert_allclose(mixture.reduction_edges[first:last].detach(), raised / raised.sum(), rtol=1e-5)
    plain = Relaxation(SearchConfig(), seed=3).mixture()
    assert plain.normal_edges is None
    assert plain.reduction_edges is None
    assert not any(tensor.requires_grad for tensor in vars(relaxation.mixture(detached=True)).values() if tensor is not False)


@pytest.mark.parametrize("settings", [{}, PARTIAL])
def test_the_gradient_reaches_every_variable(settings: dict[str, Any], make_job: MakeJob) -> None:
    """`none` too, through the softmax."""
    this = Search(make_job(config=tiny_darts(**settings)))
    this.supernet.double().train()
    this.relaxation.double()
    batch, _ = next(this.pairs())
    gradients = torch.autograd.grad(this.loss(*this.placed(doubled(batch)), this.relaxation.mixture()), this.variables)
    assert len(gradients) == (4 if settings else 2)
    assert all(bool(gradient.all()) for gradient in gradients)


def doubled(batch: Batch) -> Batch:
    return dataclasses.replace(batch, images=batch.images.double())


# Decoding -------------------------------------------------------------------------------------------------------------------


def by_brute_force(alpha: np.ndarray, beta: np.ndarray, operations: tuple[str, ...], blocks: int) -> list[Any]:
    """Of all pairs of edges into a block, in order, the pair of largest strengths; each with its best operation."""
    cell, row = [], 0
    columns = [column for column, name in enumerate(operations) if name != "none"]
    for block in range(blocks):
        strength = {s: max(beta[row + s] * alpha[row + s, column] for column in columns) for s in range(block + 2)}
        pairs = [(a, b) for a in strength for b in strength if a != b]
        first, second = max(pairs, key=lambda pair: (strength[pair[0]], strength[pair[1]]))
        best = [operations[max(columns, key=lambda column, s=s: alpha[row + s, column])] for s in (first, second)]
        cell.append(((first, second), tuple(best)))
        row += block + 2
    return cell


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("edge_weights", [False, True])
@pytest.mark.parametrize("operations", [OPERATIONS, ("skip_connect", "none", "sep_conv_5x5")])
def test_what_is_decoded_is_the_strongest_and_never_none(seed: int, edge_weights: bool, operations: tuple[str, ...]) -> None:
    config = SearchConfig(blocks=4, operations=operations, edge_weights=edge_weights)
    generator = torch.Generator().manual_seed(seed)
    relaxation = Relaxation(config, seed)
    with torch.no_grad():
        for variable in relaxation.parameters():
            variable.normal_(generator=generator)
        relaxation.normal[:, operations.index("none")] += 5.0  # `none` dominates everywhere
    network = tiny_darts().network
    mixture = relaxation.mixture(detached=True)
    found = decode(mixture, config, network)
    space = DartsSpace(4, tuple(name for name in operations if name != "none"), network)
    assert from_indices(space, encode(space, found)) == found
    for cell, alpha, beta in (
        (found.normal, mixture.normal, mixture.normal_edges),
        (found.reduction, mixture.reduction, mixture.reduction_edges),
    ):
        weights = np.ones(14, dtype=np.float32) if beta is None else beta.numpy()
        expected = by_brute_force(alpha.numpy(), weights, operations, 4)
        assert [(block.inputs, block.operations) for block in cell.blocks] == expected
    assert build(found, 3)(torch.zeros(2, 3, 33, 33)).shape == (2, 3, 33, 33)


@pytest.mark.parametrize("rule", ["A", "B"])
def test_the_genotype_of_partial_channels_is_the_published_codes(rule: str) -> None:
    """Edges weighed by beta; the rows of the golden file."""
    config = SearchConfig(channels=8, layers=5, partial_channels=4, edge_weights=True)
    relaxation = Relaxation(config, 0).double()
    place = torch.arange(14, dtype=torch.float64)
    with torch.no_grad():
        relaxation.normal.copy_(0.1 * torch.sin(8 * place[:, None] + torch.arange(8)))
        relaxation.reduction.copy_(0.1 * torch.cos(8 * place[:, None] + torch.arange(8)))
        relaxation.normal_edges.copy_(0.1 * torch.sin(place))
        relaxation.reduction_edges.copy_(0.1 * torch.cos(place))
    expected = from_genotype(GOLDEN["pc"][f"pcdarts_supernet_C8_L5_K4/rule{rule}/float64"]["genotype"])
    assert decode(relaxation.mixture(), config, DartsOptions()) == expected


@pytest.mark.parametrize("edge_weights", [False, True])
def test_the_one_hot_mixture_of_partial_channels_has_the_chosen_edges_alone(edge_weights: bool, make_job: MakeJob) -> None:
    """Each cell again as the plain sum of its two chosen edges a block; the others pass on no channel."""
    config = tiny_darts(form="cifar", partial_channels=2, edge_weights=edge_weights)
    this = Search(make_job(config=config, dataset=SmallImages()))
    supernet = this.supernet.eval()
    chosen = SYSTEM.typical(config)  # type: ignore[misc]
    images = torch.randn(2, 3, 16, 16)
    operations = config.search.operations
    with torch.no_grad():
        found = supernet(images, this.one_hot(chosen))
        before, previous = supernet.stem(images)
        for mixed in supernet.cells:
            states = [mixed.before(before), mixed.previous(previous)]
            for number, block in enumerate((chosen.reduction if mixed.reduces else chosen.normal).blocks):
                total: Tensor | float = 0.0
                for state, name in zip(block.inputs, block.operations, strict=True):
                    alone = torch.eye(len(operations))[operations.index(name)]
                    edge = mixed.graph.mixed[sum(earlier + 2 for earlier in range(number)) + state]
                    total = total + edge(states[state], alone, None) * (0.5 if edge_weights else 1.0)
                assert isinstance(total, Tensor)
                states.append(total)
            before, previous = previous, torch.cat(states[2:], dim=1)
        expected = supernet.head(previous, previous, (16, 16))
    torch.testing.assert_close(found, expected)


# The search -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "settings"),
    [("segmentation", {}), ("segmentation", {"order": "second", **SMALL}), ("cifar", PARTIAL), ("cifar", {"order": "second"})],
)
def test_the_search_writes_complete_records(form: str, settings: dict[str, Any], make_job: MakeJob) -> None:
    config = tiny_darts(form=form, epochs=4, architecture_from_epoch=2, steps_per_epoch=2, **settings)
    dataset, size = (Drawn(), (40, 44)) if form == "segmentation" else (SmallImages(), (32, 32))
    job = make_job(config=config, dataset=dataset)
    found = search(job)
    assert found.network == config.network
    written = job.run.read_json("search.json")
    records = written["epochs"]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    for record in records:
        for key, kind in RECORD.items():
            assert isinstance(record[key], kind), key
        assert record["loss_weights"] > 0
        assert 0 <= record["score_supernet"] <= 100
        assert 0 <= record["score_one_hot"] <= 100
        architecture = from_json(record["architecture"])
        assert record["id"] == identity(architecture)
        used = [name for block in architecture.normal.blocks for name in block.operations]
        assert record["skip_share"] == used.count("skip_connect") / len(used)
        costs = count(architecture, size, len(dataset.classes))
        assert (record["parameters"], record["multiply_adds"]) == (costs.parameters, costs.multiply_adds)
        assert "eigenvalue" not in record
    assert [record["loss_architecture"] is None for record in records] == [True, True, False, False]
    assert all(record["loss_architecture"] > 0 for record in records[2:])
    options = len(config.search.operations)
    assert records[0]["id"] == records[1]["id"], "alpha and beta rest before their epoch"
    assert records[0]["entropy_alpha"] == records[1]["entropy_alpha"] == pytest.approx(math.log(options), abs=1e-4)
    assert records[1]["entropy_alpha"] != records[2]["entropy_alpha"] != records[3]["entropy_alpha"]

    assert from_json(records[-1]["architecture"]) == found
    edges = [[0, 0], [0, 1], [1, 0], [1, 1], [1, 2]][: 5 if config.search.blocks == 2 else 2]
    assert written["edges"] == edges
    for name in ("alpha", "alpha_reduction"):
        assert np.array(written[name]).shape == (len(edges), options)
        np.testing.assert_allclose(np.array(written[name]).sum(-1), 1, atol=1e-6)
    assert written["alpha"] != written["alpha_reduction"]
    for name in ("edge_weights", "edge_weights_reduction"):
        assert (name in written) == config.search.edge_weights
        if config.search.edge_weights:
            np.testing.assert_allclose([sum(written[name][:2]), sum(written[name][2:])], 1, atol=1e-6)
    assert written["operations"] == list(config.search.operations)
    assert (written["last_epoch"], written["select"], written["system"]) == (4, "last", "darts")
    chosen = max(records[2:], key=lambda record: record["score_one_hot"])
    for name, record in (("last", records[-1]), ("best", chosen)):
        kept = job.run.read_json(f"architecture_{name}.json")
        assert from_json(kept) == from_json(record["architecture"])
        assert kept["provenance"] == {"system": "darts", "epoch": record["epoch"], "score_one_hot": record["score_one_hot"]}
    saved = job.run.load_checkpoint("search")
    assert saved is not None
    assert json.loads(json.dumps(saved["history"])) == saved["history"] == records, "JSON all the way"


def test_the_search_sees_the_training_set_alone_in_two_disjoint_halves(make_job: MakeJob) -> None:
    dataset = Drawn(forbidden=("val", "test"))
    job = make_job(config=tiny_darts(epochs=2, stop_by_curvature=True, curvature_every=1, **SMALL), dataset=dataset)
    preflight(job)
    search(job)
    assert {split for split, _ in dataset.seen} == {"train"}
    this = Search(job)
    assert (this.train_a.indices, this.train_b.indices) == halves(9, 0)
    assert set(this.scored.indices) <= set(this.train_b.indices)


def watched_losses(this: Search, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool, bool]]:
    """(where the labels lie, whether alpha may learn from them, whether with other weights) of each loss from now on."""
    seen: list[tuple[int, bool, bool]] = []
    loss = this.loss

    def watched(images: Tensor, labels: Tensor, mixture: Any, weights: Any = None) -> Tensor:
        own = weights is None or all(weights[name] is weight for name, weight in this.supernet.named_parameters())
        seen.append((labels.data_ptr(), mixture.normal.requires_grad or mixture.reduction.requires_grad, not own))
        return loss(images, labels, mixture, weights)

    monkeypatch.setattr(this, "loss", watched)
    return seen


@pytest.mark.parametrize("order", ["first", "second"])
def test_alpha_steps_first_on_train_b_and_the_weights_then_on_train_a(
    order: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the set epoch the weights alone move; second order looks at trainA three times more."""
    this = Search(make_job(config=tiny_darts(order=order, **PARTIAL)))
    seen = watched_losses(this, monkeypatch)
    batch_a, batch_b = next(this.pairs())
    half_a, half_b = batch_a.labels.data_ptr(), batch_b.labels.data_ptr()
    variables, weights = ([tensor.detach().clone() for tensor in group] for group in (this.variables, this.weights))
    this.search_step(batch_a, batch_b)
    assert seen == [(half_a, False, False)]
    assert all(torch.equal(now, then) for now, then in zip(this.variables, variables, strict=True))
    assert any(not torch.equal(now, then) for now, then in zip(this.weights, weights, strict=True))
    assert float(this.sums[1]) == 0
    this.epoch = 1
    seen.clear()
    this.search_step(batch_a, batch_b)
    last = (half_a, False, False)
    if order == "first":
        assert seen == [(half_b, True, False), last]
    else:
        shifted = (half_a, True, True)
        assert seen == [(half_a, True, False), (half_b, True, True), shifted, shifted, last]
    assert all(not torch.equal(now, then) for now, then in zip(this.variables, variables, strict=True))
    assert all(tensor.grad is None for tensor in [*this.variables, *this.weights])
    assert float(this.sums[1]) > 0


class Plain:
    """A step as the paper writes it, on copies of the supernet, in float64; it shares no code with the search's."""

    def __init__(self, this: Search, rate: float) -> None:
        self.this, self.rate = this, rate
        self.moments = [torch.zeros_like(weight) for weight in this.weights]  # of SGD
        self.first = [torch.zeros_like(variable) for variable in this.variables]  # of Adam
        self.second = [torch.zeros_like(variable) for variable in this.variables]

    def loss(self, network: Any, batch: Batch, variables: Any = None) -> Tensor:
        normal, reduction = variables or self.this.variables
        mixture = darts.Mixture(normal.softmax(-1), reduction.softmax(-1))
        return F.cross_entropy(network(batch.images, mixture), batch.labels, ignore_index=255)

    def gradients(self, order: str, batch_a: Batch, batch_b: Batch) -> list[Tensor]:
        """Of alpha."""
        network, variables = copy.deepcopy(self.this.supernet).train(), self.this.variables
        if order == "first":
            return list(torch.autograd.grad(self.loss(network, batch_b), variables))
        gradients = torch.autograd.grad(self.loss(network, batch_a), list(network.parameters()))
        stepped = copy.deepcopy(network)
        with torch.no_grad():
            for weight, gradient, moment in zip(stepped.parameters(), gradients, self.moments, strict=True):
                weight -= self.rate * (0.9 * moment + gradient + 3e-4 * weight)
        loss = self.loss(stepped, batch_b)
        direct = torch.autograd.grad(loss, variables, retain_graph=True)
        vector = torch.autograd.grad(loss, list(stepped.parameters()))
        radius = 0.01 / math.sqrt(sum(float((part**2).sum()) for part in vector))
        sides = []
        for sign in (1, -1):
            shifted = copy.deepcopy(network)
            with torch.no_grad():
                for weight, part in zip(shifted.parameters(), vector, strict=True):
                    weight += sign * radius * part
            sides.append(torch.autograd.grad(self.loss(shifted, batch_a), variables))
        return [d - self.rate * (plus - minus) / (2 * radius) for d, plus, minus in zip(direct, *sides, strict=True)]

    def adam(self, gradients: list[Tensor], step: int) -> list[Tensor]:
        """alpha after this step (from 1): betas 0.5 and 0.999, L2 regularisation 1e-3, rate 3e-4."""
        moved = []
        for place, (variable, gradient) in enumerate(zip(self.this.variables, gradients, strict=True)):
            gradient = gradient + 1e-3 * variable.detach()
            self.first[place] = 0.5 * self.first[place] + 0.5 * gradient
            self.second[place] = 0.999 * self.second[place] + 0.001 * gradient**2
            raised = self.first[place] / (1 - 0.5**step), (self.second[place] / (1 - 0.999**step)).sqrt()
            moved.append(variable.detach() - 3e-4 * raised[0] / (raised[1] + 1e-8))
        return moved

    def weights(self, batch_a: Batch, variables: Any, clip_norm: float) -> list[Tensor]:
        """The weights after their step, under these alpha."""
        network = copy.deepcopy(self.this.supernet).train()
        gradients = torch.autograd.grad(self.loss(network, batch_a, variables), list(network.parameters()))
        norm = math.sqrt(sum(float((gradient**2).sum()) for gradient in gradients))
        assert norm > clip_norm, "otherwise the test says nothing"
        moved = []
        for place, (weight, gradient) in enumerate(zip(self.this.weights, gradients, strict=True)):
            gradient = gradient * clip_norm / (norm + 1e-6) + 3e-4 * weight.detach()
            self.moments[place] = 0.9 * self.moments[place] + gradient
            moved.append(weight.detach() - self.rate * self.moments[place])
        return moved


@pytest.mark.parametrize("form", ["segmentation", "cifar"])
@pytest.mark.parametrize("order", ["first", "second"])
def test_the_steps_are_those_of_a_plain_implementation(
    order: str, form: str, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of the weights, then two of both, in float64: rate, momentum, decay, clipping and batches are handed on rightly."""
    config = tiny_darts(form=form, order=order, clip_norm=0.05)
    this = Search(make_job(config=config, dataset=Drawn() if form == "segmentation" else SmallImages()))
    this.supernet.double()
    this.relaxation.double()
    handed: list[list[Tensor]] = []

    def noting(variables: Any, gradients: Any, optimizer: Any, *rest: Any, **named: Any) -> None:
        move(variables, gradients, optimizer, *rest, **named)
        if optimizer is this.architecture_optimizer:
            handed.append([gradient.clone() for gradient in gradients])

    monkeypatch.setattr(darts, "move", noting)
    batches = [doubled(batch) for pair in this.pairs() for batch in pair]
    plain = Plain(this, rate=0.025)
    expected = plain.weights(batches[0], this.variables, 0.05)
    this.search_step(batches[0], batches[1])
    assert_close(this.weights, expected, 1e-9)
    this.epoch = 1
    plain.rate = 0.001 + 0.024 * (1 + math.cos(math.pi / 3)) / 2
    for step in (1, 2):
        batch_a, batch_b = batches[2:4] if step == 1 else batches[:2]
        gradients = plain.gradients(order, batch_a, batch_b)
        variables = plain.adam(gradients, step)
        weights = plain.weights(batch_a, variables, 0.05)
        this.search_step(batch_a, batch_b)
        assert_close(handed.pop(), gradients, 1e-9 if order == "first" else 1e-6)
        assert not handed
        assert_close(this.variables, variables, 1e-7)
        assert_close(this.weights, weights, 1e-7)


def assert_close(found: list[Any], expected: list[Tensor], tolerance: float) -> None:
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.detach(), other.detach(), rtol=tolerance, atol=tolerance)


def test_the_learning_rate_is_constant_within_an_epoch(make_job: MakeJob) -> None:
    this = Search(make_job(config=tiny_darts(epochs=4)))
    rates = []
    for epoch in range(4):
        this.epoch, this.step = epoch, 0
        for pair in this.pairs():
            this.search_step(*pair)
            rates.append(this.weight_optimizer.param_groups[0]["lr"])
    expected = [0.001 + 0.024 * (1 + math.cos(math.pi * (step // 2) / 4)) / 2 for step in range(8)]
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    group = this.architecture_optimizer.param_groups[0]
    assert (group["lr"], group["betas"], group["weight_decay"]) == (3e-4, (0.5, 0.999), 1e-3)


@pytest.mark.parametrize(("asked", "steps"), [(None, 6), (2, 2), (100, 6)])
def test_steps_per_epoch_shortens_an_epoch(asked: int | None, steps: int, make_job: MakeJob) -> None:
    """24 images: 6 batches of 2 in a half."""
    this = Search(make_job(config=tiny_darts(form="cifar", steps_per_epoch=asked, **SMALL), dataset=SmallImages()))
    assert this.steps == steps == len(list(this.pairs()))
    this.step = 1
    assert len(list(this.pairs())) == steps - 1


@pytest.mark.parametrize("order", ["first", "second"])
def test_the_same_seed_gives_the_same_search_and_another_seed_another(order: str, make_job: MakeJob) -> None:
    config = tiny_darts(epochs=1, architecture_from_epoch=0, order=order, **SMALL)
    first, again = make_job("first", config), make_job("again", config)
    search(first)
    torch.manual_seed(99)  # whatever was drawn before
    np.random.seed(99)
    search(again)
    assert without_seconds(first.run.read_json("search.json")) == without_seconds(again.run.read_json("search.json"))
    other = make_job("other", replace(config, seed=1))
    search(other)
    assert other.run.read_json("search.json")["alpha"] != first.run.read_json("search.json")["alpha"]


@pytest.mark.parametrize("settings", [{"order": "second"}, {**PARTIAL, "stop_by_curvature": True, "curvature_every": 2}])
def test_a_preflight_leaves_the_random_state_and_the_search_as_they_were(settings: dict[str, Any], make_job: MakeJob) -> None:
    config = tiny_darts(epochs=2, **{**SMALL, **settings})
    plain, checked = make_job("plain", config), make_job("checked", config)
    search(plain)
    state = torch.get_rng_state()
    measured = preflight(checked)
    assert torch.equal(torch.get_rng_state(), state)
    assert {path.name for path in checked.run.path.iterdir()} == {"checkpoints", ".lock", "config.yaml"}, "nothing is written"
    search(checked)
    assert without_seconds(plain.run.read_json("search.json")) == without_seconds(checked.run.read_json("search.json"))
    assert (measured.stage, measured.steps) == ("search", 4)
    assert measured.seconds > 0


def test_the_preflight_counts_epochs_of_weights_alone_as_shorter(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of weights takes a half of one of first order, and a fifth of one of second; the ends of epochs come on top."""
    monkeypatch.setattr("segnas.systems.supernet_search.watch", lambda this: None)
    monkeypatch.setattr("segnas.systems.supernet_search.seconds_of", lambda work: (work(), 0.0)[1])
    monkeypatch.setattr("segnas.systems.supernet_search.seconds_to_save", lambda state: 0.0)
    for order, share in (("first", 0.5), ("second", 0.2)):
        measured = preflight(make_job(order, tiny_darts(order=order, **SMALL)))  # one of three epochs is of weights alone
        assert measured.seconds == pytest.approx(measured.seconds_per_step * 6 * (2 / 3 + share / 3))


def test_cells_are_computed_twice_where_they_do_not_fit_otherwise(make_job: MakeJob, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else of the search changes; who forbids it, or has the plain engine, is told what would fit."""
    kept = []

    def measure(stage: str, step: Callable[[Batch], None], batch: Batch, *rest: Any) -> Measurement:
        (network,) = [one for one in rest if isinstance(one, nn.Module)]
        kept.append({module.recomputed for module in network.modules() if isinstance(module, MixedGraph)})
        if kept[-1] == {False}:
            raise DoesNotFit("a step of the search needs about 9.0 GiB")
        step(batch)
        return Measurement(stage, 1, 0.1, 0.1, 1, 1)

    monkeypatch.setattr("segnas.systems.supernet_search.measure", measure)
    measured = preflight(make_job("auto", tiny_darts(**SMALL)))
    assert kept == [{False}, {True}]
    assert as_measured(tiny_darts(**SMALL), [measured]) == tiny_darts(recompute_cells=True, **SMALL)
    for settings, told in (({"recompute_cells": False}, "or search.recompute_cells=true"), ({"engine": "plain"}, "9.0 GiB$")):
        with pytest.raises(DoesNotFit, match=told):
            preflight(make_job("-".join(settings), tiny_darts(**settings, **SMALL)))


def test_the_score_of_one_class_an_image_is_the_accuracy(make_job: MakeJob) -> None:
    this = Search(make_job(config=tiny_darts(form="cifar", scored_images=12), dataset=SmallImages()))
    mixture = this.relaxation.mixture(detached=True)
    before = {name: tensor.clone() for name, tensor in this.supernet.state_dict().items()}
    score = this.score(mixture)
    assert all(torch.equal(tensor, before[name]) for name, tensor in this.supernet.state_dict().items())
    right = []
    for batch in this.scored.epoch(0):
        right += (this.supernet.train()(batch.images, mixture).argmax(1) == batch.labels).tolist()
    assert len(right) == 12
    assert score == pytest.approx(100 * np.mean(right))
