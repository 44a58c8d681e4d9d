"""The supernet against equation 7 evaluated slowly and separately, in float64."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.nets.auto_deeplab_supernet import (
    AutoDeepLabSupernet,
    Mixture,
    levels_at,
    one_hot,
    source_before,
)
from segnas.nets.blocks import FactorizedReduction, ReLUConvBN
from segnas.nets.operations import MixedGraph
from segnas.nets.statistics import batch_statistics
from segnas.spaces.auto_deeplab import OPERATIONS, AutoDeepLab, AutoDeepLabSpace
from segnas.spaces.cells import edges
from segnas.spaces.choice import sample

CLASSES = 3
PATHS = [(0, 0, 0, 0), (0, 1, 0, 1), (1, 2, 3, 2), (1, 2, 3, 3), (1, 1, 2, 1), (0, 0, 1, 2)]


def tiny(layers: int = 4, blocks: int = 2, filters: int = 2) -> AutoDeepLabSupernet:
    """A supernet of odd widths in float64, whose affine parameters are not what initialisation makes them."""
    torch.manual_seed(0)
    network = AutoDeepLabSupernet(CLASSES, layers, blocks, filters, OPERATIONS, stem=(3, 4, 5), head_width=3).double()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network


def images(height: int = 35, width: int = 46, batch: int = 2) -> Tensor:
    return torch.randn(batch, 3, height, width, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def random_mixture(layers: int = 4, blocks: int = 2, seed: int = 2) -> Mixture:
    """Positive weights that sum to nothing in particular: the network must not normalise."""
    generator = torch.Generator().manual_seed(seed)
    alpha = 0.1 + torch.rand(len(edges(blocks)), len(OPERATIONS), dtype=torch.float64, generator=generator)
    return Mixture(alpha, 0.1 + torch.rand(layers, 4, 3, dtype=torch.float64, generator=generator))


def as_float64(mixture: Mixture, sparse: bool) -> Mixture:
    return Mixture(mixture.alpha.double(), mixture.beta.double(), sparse)


def last_features(network: AutoDeepLabSupernet, mixture: Mixture, x: Tensor) -> tuple[dict[int, Tensor], Tensor]:
    """What enters the head of each scale, and the logits."""
    seen: dict[int, Tensor] = {}
    handles = [
        head.register_forward_pre_hook(lambda _, given, level=int(level): seen.__setitem__(level, given[0]))
        for level, head in network.heads.items()
    ]
    logits = network(x, mixture)
    for handle in handles:
        handle.remove()
    return seen, logits


def layers_of(network: AutoDeepLabSupernet) -> list[dict[int, Any]]:
    """The nodes of each layer by level."""
    return [{int(level): node for level, node in nodes.items()} for nodes in network.layers]  # type: ignore[operator, union-attr]


def count_calls(network: nn.Module, kind: type[nn.Module]) -> Counter[str]:
    """Counts, from now on, how often each module of that kind runs."""
    counter: Counter[str] = Counter()
    for name, module in network.named_modules():
        if isinstance(module, kind):
            module.register_forward_hook(lambda *_, name=name: counter.update([name]))
    return counter


def bilinear(x: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(x, size=size, mode="bilinear", align_corners=True)


# H^{l-2} as the reference settles it: (layer, level) -> the level it is taken from; -1 is the stem's tensor of stride 2.
BEFORE = {(1, 0): -1, (1, 1): -1, (2, 0): 0, (2, 1): 0, (2, 2): 0, (3, 0): 0, (3, 1): 1, (3, 2): 1, (3, 3): 1, (4, 3): 2}


class Recursion:
    """Equation 7 from its last layer backwards: H(l, s) asks for what it needs. Batch norms use the batch."""

    def __init__(self, network: AutoDeepLabSupernet, mixture: Mixture, x: Tensor) -> None:
        self.network, self.mixture = network, mixture
        half, quarter = network.stem(x)
        self.known: dict[tuple[int, int], Tensor] = {(-1, -1): half, (0, 0): quarter}
        height, width = x.shape[2:]
        for _ in range(2):
            height, width = math.ceil(height / 2), math.ceil(width / 2)
        self.sizes = [(math.ceil(height / 2**level), math.ceil(width / 2**level)) for level in range(4)]

    def exists(self, layer: int, level: int) -> bool:
        return 0 <= level <= min(layer, 3)

    def h(self, layer: int, level: int) -> Tensor:
        if (layer, level) not in self.known:
            node = layers_of(self.network)[layer - 1][level]
            total: Tensor | float = 0.0
            for source in (level - 1, level, level + 1):
                if self.exists(layer - 1, source):
                    weight = self.mixture.beta[layer - 1, source, level - source + 1]
                    total = total + weight * self.cell(node, layer, level, source)
            assert isinstance(total, Tensor)
            self.known[layer, level] = total
        return self.known[layer, level]

    def cell(self, node: Any, layer: int, level: int, source: int) -> Tensor:
        previous = self.h(layer - 1, source)
        if source > level:
            previous = bilinear(previous, self.sizes[level])
        states = [node.before(self.h(layer - 2, BEFORE.get((layer, level), level))), node.directions[str(source)](previous)]
        assert states[0].shape == states[1].shape
        edge = 0
        for _ in range(node.cell.blocks):
            total: Tensor | float = 0.0
            for state in list(states):
                for column, name in enumerate(OPERATIONS):
                    value = torch.zeros_like(state) if name == "none" else node.cell.mixed[edge].candidates[name](state)
                    total = total + self.mixture.alpha[edge, column] * value
                edge += 1
            assert isinstance(total, Tensor)
            states.append(total)
        return torch.cat(states[2:], dim=1)

    def logits(self, layers: int, size: tuple[int, int]) -> Tensor:
        total: Tensor | float = 0.0
        for level in range(min(layers, 3) + 1):
            total = total + bilinear(self.network.heads[str(level)](self.h(layers, level)), self.sizes[0])
        assert isinstance(total, Tensor)
        return bilinear(total, size)


@pytest.mark.parametrize("size", [(35, 46), (64, 33)])
def test_a_random_mixture_equals_the_slow_recursion_of_equation_7(size: tuple[int, int]) -> None:
    network, x, mixture = tiny(), images(*size), random_mixture()
    expected = Recursion(network, mixture, x).logits(4, size)
    logits = network(x, mixture)
    assert logits.shape == (2, CLASSES, *size)
    torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


def walk(network: AutoDeepLabSupernet, architecture: AutoDeepLab, x: Tensor) -> Tensor:
    """The output of the path's last cell: one node a layer, two operations a block; H^{l-2} off the path is 0."""
    half, quarter = network.stem(x)
    produced = {(-1, -1): half, (0, 0): quarter}  # (layer, level) -> tensor on the path
    level = 0
    for layer, following in enumerate(architecture.path, start=1):
        node = layers_of(network)[layer - 1][following]
        previous = produced[layer - 1, level]
        height, width = quarter.shape[2:]
        size = (math.ceil(height / 2**following), math.ceil(width / 2**following))
        state1 = node.directions[str(level)](bilinear(previous, size) if level > following else previous)
        source = (layer - 2, BEFORE.get((layer, following), following))
        state0 = node.before(produced[source]) if source in produced else torch.zeros_like(state1)
        states = [state0, state1]
        for number, block in enumerate(architecture.cell):
            first = sum(earlier + 2 for earlier in range(number))
            values = []
            for state, operation in zip(block.inputs, block.operations, strict=True):
                if operation == "none":
                    values.append(torch.zeros_like(state1))
                else:
                    values.append(node.cell.mixed[first + state].candidates[operation](states[state]))
            states.append(values[0] + values[1])
        produced[layer, following] = torch.cat(states[2:], dim=1)
        level = following
    return produced[len(architecture.path), level]


def architectures() -> list[AutoDeepLab]:
    """Random cells on chosen paths; among them repeated edges and `none`."""
    space = AutoDeepLabSpace(4, 2)
    found = []
    for seed, path in enumerate(PATHS):
        drawn = sample(space, np.random.default_rng(seed))
        found.append(AutoDeepLab(path, drawn.cell, drawn.network))
    return found


@pytest.mark.parametrize("architecture", architectures(), ids=lambda a: "".join(map(str, a.path)))
def test_a_one_hot_mixture_is_one_path(architecture: AutoDeepLab) -> None:
    """Dense and sparse: the same bits where the path ends.

    Sparse: one head alone. Dense: the heads of the scales where the path does not end see zeros and add what they make of zeros.
    """
    network, x = tiny(), images()
    expected = walk(network, architecture, x)
    end = architecture.path[-1]
    mixture = one_hot(architecture, OPERATIONS)
    assert mixture.sparse

    features, logits = last_features(network, as_float64(mixture, sparse=True), x)
    assert list(features) == [end]
    assert torch.equal(features[end], expected)
    quarter = (9, 12)
    on_path = bilinear(network.heads[str(end)](expected), quarter)
    torch.testing.assert_close(logits, bilinear(on_path, (35, 46)), rtol=1e-12, atol=1e-12)

    features, logits = last_features(network, as_float64(mixture, sparse=False), x)
    assert sorted(features) == [0, 1, 2, 3]
    assert torch.equal(features[end], expected)
    for level in {0, 1, 2, 3} - {end}:
        assert not features[level].any()
    others = sum(bilinear(network.heads[str(level)](features[level]), quarter) for level in {0, 1, 2, 3} - {end})
    torch.testing.assert_close(logits, bilinear(on_path + others, (35, 46)), rtol=1e-12, atol=1e-12)


def test_a_sparse_mixture_evaluates_one_cell_a_layer_and_one_operation_an_edge() -> None:
    network = tiny()
    architecture = architectures()[2]
    calls = count_calls(network, MixedGraph)
    network(images(), as_float64(one_hot(architecture, OPERATIONS), sparse=True))
    assert calls.total() == len(architecture.path)


def test_sparse_changes_nothing_when_all_weights_are_positive() -> None:
    network, x, mixture = tiny(), images(), random_mixture()
    assert torch.equal(network(x, mixture), network(x, Mixture(mixture.alpha, mixture.beta, sparse=True)))


@pytest.mark.parametrize(("layers", "evaluations"), [(1, 2), (2, 7), (3, 15), (4, 25), (12, 105)])
def test_every_node_and_direction_is_evaluated_once(layers: int, evaluations: int) -> None:
    """105 evaluations of the cell in the paper's 12 layers."""
    network = tiny(layers, blocks=1).eval()
    calls = count_calls(network, MixedGraph)
    with torch.no_grad():
        network(images(33, 33, 1), random_mixture(layers, 1))
    assert calls.total() == evaluations
    directions = {
        f"layers.{i}.{level}.cell": len(node.directions) for i, n in enumerate(layers_of(network)) for level, node in n.items()
    }
    assert dict(calls) == directions


def test_the_nodes_of_each_layer_and_their_neighbours() -> None:
    network = tiny(layers=5)
    assert [sorted(nodes) for nodes in layers_of(network)] == [[0, 1], [0, 1, 2], [0, 1, 2, 3], [0, 1, 2, 3], [0, 1, 2, 3]]
    assert [list(levels_at(layer)) for layer in (0, 1, 3, 9)] == [[0], [0, 1], [0, 1, 2, 3], [0, 1, 2, 3]]
    directions = [{level: sorted(map(int, node.directions)) for level, node in nodes.items()} for nodes in layers_of(network)]
    assert directions[0] == {0: [0], 1: [0]}
    assert directions[1] == {0: [0, 1], 1: [0, 1], 2: [1]}
    assert directions[2] == {0: [0, 1], 1: [0, 1, 2], 2: [1, 2], 3: [2]}
    assert directions[3] == directions[4] == {0: [0, 1], 1: [0, 1, 2], 2: [1, 2, 3], 3: [2, 3]}


def test_what_stands_in_for_a_missing_earlier_tensor() -> None:
    """(source level, stride, channels) of H^{l-2}: the author's rule, stem widths (., 4, 5), cells of 2 blocks x 2 filters."""
    network = tiny(layers=5)
    found = {}
    for layer, nodes in enumerate(layers_of(network), start=1):
        for level, node in nodes.items():
            reduction = isinstance(node.before, FactorizedReduction)
            convolution = node.before.first if reduction else node.before.conv
            found[layer, level] = (source_before(layer, level), convolution.stride[0], convolution.in_channels)
    assert found[1, 0] == (-1, 2, 4)
    assert found[1, 1] == (-1, 4, 4)
    assert [found[2, level] for level in range(3)] == [(0, 1, 5), (0, 2, 5), (0, 4, 5)]
    assert [found[3, level] for level in range(4)] == [(0, 1, 4), (1, 1, 8), (1, 2, 8), (1, 4, 8)]
    assert [found[4, level] for level in range(4)] == [(0, 1, 4), (1, 1, 8), (2, 1, 16), (2, 2, 16)]
    assert [found[5, level] for level in range(4)] == [(0, 1, 4), (1, 1, 8), (2, 1, 16), (3, 1, 32)]
    for layer, nodes in enumerate(layers_of(network), start=1):
        for level, node in nodes.items():
            for source, entry in node.directions.items():
                assert isinstance(entry, FactorizedReduction if int(source) < level else ReLUConvBN)
                convolution = entry.first if isinstance(entry, FactorizedReduction) else entry.conv
                assert convolution.stride[0] == (2 if int(source) < level else 1)
                assert convolution.in_channels == (5 if layer == 1 else 4 * 2 ** int(source))


@pytest.mark.parametrize("size", [(33, 33), (32, 64), (47, 38), (50, 33)])
@pytest.mark.parametrize("batch", [1, 2])
def test_any_size_and_batch_one_train(size: tuple[int, int], batch: int) -> None:
    network = tiny(layers=3)
    if batch == 1 and size[0] == 32:
        size = (34, 64)  # one value a channel has no statistics of its own: the smallest map needs two
    logits = network(images(*size, batch), random_mixture(3))
    assert logits.shape == (batch, CLASSES, *size)
    logits.square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in network.parameters())


def test_a_node_shares_operations_between_its_directions_and_not_with_other_nodes() -> None:
    network = tiny()
    calls = count_calls(network, nn.Conv2d)
    network(images(), random_mixture())
    inner = [number for name, number in calls.items() if name.startswith("layers.3.1.cell.")]
    assert set(inner) == {3}, "each convolution of the inner node's cell runs once a direction"
    entries = [number for name, number in calls.items() if ".directions." in name or ".before." in name]
    assert set(entries) == {1}, "preprocessing belongs to one direction"
    owners = Counter(
        id(parameter) for node_set in layers_of(network) for node in node_set.values() for parameter in node.parameters()
    )
    assert set(owners.values()) == {1}, "no parameter stands in two nodes"


def test_affine_batch_norm_in_stem_and_heads_alone() -> None:
    for name, module in tiny().named_modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.affine == (not name.startswith("layers.")), name


def test_the_head_of_each_scale() -> None:
    """Three branches: pooling, 1x1, one dense 3x3 of rate 96 / stride."""
    for level, head in tiny().heads.items():
        aspp, classifier = head[1], head[2]  # type: ignore[index]
        assert [branch.conv.dilation[0] for branch in aspp.atrous] == [96 // (4 * 2 ** int(level))]
        assert aspp.atrous[0].conv.groups == 1
        assert aspp.project.conv.in_channels == 3 * 3
        assert classifier.out_channels == CLASSES


def test_gradients_equal_finite_differences() -> None:
    """d loss / d alpha and d loss / d beta, all entries, central differences in float64."""
    network, x = tiny(layers=3, blocks=1), images(33, 34)
    labels = torch.randint(0, CLASSES, (2, 33, 34), generator=torch.Generator().manual_seed(3))
    mixture = random_mixture(3, 1)
    alpha, beta = mixture.alpha.requires_grad_(), mixture.beta.requires_grad_()

    def loss() -> Tensor:
        return F.cross_entropy(network(x, Mixture(alpha, beta)), labels)

    gradients = torch.autograd.grad(loss(), (alpha, beta))
    step = 1e-6
    with torch.no_grad():
        for variable, gradient in zip((alpha, beta), gradients, strict=True):
            flat, expected = variable.view(-1), gradient.reshape(-1)
            for index in range(flat.numel()):
                middle = flat[index].item()
                flat[index] = middle + step
                upper = loss()
                flat[index] = middle - step
                slope = (upper - loss()) / (2 * step)
                flat[index] = middle
                assert slope.item() == pytest.approx(expected[index].item(), rel=1e-4, abs=1e-8), index
    assert not gradients[0][:, OPERATIONS.index("none")].any(), "`none` itself adds nothing"
    assert gradients[0][:, 1:].all()
    possible = torch.tensor(
        [[[s <= layer and 0 <= s + move <= 3 for move in (-1, 0, 1)] for s in range(4)] for layer in range(3)]
    )
    assert torch.equal(gradients[1] != 0, possible)


def test_batch_statistics_leave_no_trace() -> None:
    network, mixture = tiny(), random_mixture()
    network.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    expected_training = network(images(), mixture)
    with torch.no_grad(), batch_statistics(network):
        scored = network(images(), mixture)
        with_batch = tiny().train()(images(), mixture)
    assert torch.equal(scored, with_batch), "normalised by the batch, as in training"
    assert not torch.allclose(scored, expected_training), "and not by the running statistics"
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for module in network.modules():
        assert not module.training
        if isinstance(module, nn.BatchNorm2d):
            assert module.track_running_stats
    network.train()
    network(images(), mixture)
    assert not torch.equal(network.state_dict()["stem.first.1.running_mean"], before["stem.first.1.running_mean"])


def test_batch_statistics_are_given_back_after_an_error() -> None:
    network = tiny().eval()
    with pytest.raises(ZeroDivisionError), batch_statistics(network):
        1 / 0  # noqa: B018
    assert all(m.track_running_stats and not m.training for m in network.modules() if isinstance(m, nn.BatchNorm2d))
