"""The two steps of the bilevel search against steps computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.strategies.bilevel import architecture_step, entropy, weight_step


class Mixed(nn.Module):
    """Two linear layers, mixed by the softmax of alpha."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.first = nn.Parameter(torch.randn(4, 3, dtype=torch.float64, generator=generator))
        self.second = nn.Parameter(torch.randn(4, 3, dtype=torch.float64, generator=generator))
        self.inputs = torch.randn(8, 3, dtype=torch.float64, generator=generator)
        self.targets = torch.randint(0, 4, (8,), generator=generator)

    def loss(self, alpha: Tensor) -> Tensor:
        weights = alpha.softmax(0)
        logits = weights[0] * F.linear(self.inputs, self.first) + weights[1] * torch.tanh(F.linear(self.inputs, self.second))
        return F.cross_entropy(logits, self.targets)


def test_an_architecture_step_is_adam_and_touches_no_weight() -> None:
    """Three steps beside Adam with L2 decay as Kingma and Ba write it, its gradient by finite differences."""
    network = Mixed()
    alpha = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))
    optimizer = torch.optim.Adam([alpha], lr=0.05, weight_decay=0.1)
    before = [parameter.clone() for parameter in network.parameters()]
    expected, mean, square = alpha.detach().numpy().copy(), np.zeros(2), np.zeros(2)

    def slope(value: np.ndarray, entry: int) -> float:
        ends = []
        for shift in (1e-6, -1e-6):
            moved = value.copy()
            moved[entry] += shift
            ends.append(network.loss(torch.from_numpy(moved)).item())
        return (ends[0] - ends[1]) / 2e-6

    for step in range(1, 4):
        gradient = np.array([slope(expected, entry) for entry in range(2)]) + 0.1 * expected
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.999 * square + 0.001 * gradient**2
        expected = expected - 0.05 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)

        architecture_step(network.loss(alpha), [alpha], optimizer)
        np.testing.assert_allclose(alpha.detach().numpy(), expected, rtol=1e-6)
        assert alpha.grad is None
    for parameter, value in zip(network.parameters(), before, strict=True):
        assert parameter.grad is None, "no gradient of a weight is computed"
        assert torch.equal(parameter, value)


@pytest.mark.parametrize("clip_norm", [0.0, 0.05, 100.0])
def test_a_weight_step_is_clipped_sgd_and_leaves_the_architecture(clip_norm: float) -> None:
    network = Mixed()
    alpha = nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64))
    weights = list(network.parameters())
    optimizer = torch.optim.SGD(weights, lr=0.5)
    gradients = torch.autograd.grad(network.loss(alpha.detach()), weights)
    norm = float(torch.cat([gradient.flatten() for gradient in gradients]).norm())
    assert 0.05 < norm < 100, "one of the cases clips, one does not"
    scale = min(1.0, clip_norm / norm) if clip_norm else 1.0
    expected = [weight.detach() - 0.5 * scale * gradient for weight, gradient in zip(weights, gradients, strict=True)]

    weight_step(network.loss(alpha.detach()), weights, optimizer, clip_norm)
    for weight, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(weight.detach(), value, rtol=1e-4, atol=0)
        assert weight.grad is None
    assert alpha.grad is None


def test_gradients_are_averaged_before_they_are_clipped_and_used() -> None:
    """As if another process had found three times the same gradient: the mean is twice this one."""
    network, other = Mixed(), Mixed()
    alphas = [nn.Parameter(torch.tensor([0.3, -0.2], dtype=torch.float64)) for _ in range(2)]

    def average(tensors: Sequence[Tensor]) -> None:
        for tensor in tensors:
            tensor *= 2

    for one, alpha, factor, given in ((network, alphas[0], 1, average), (other, alphas[1], 2, None)):
        weights = list(one.parameters())
        weight_step(factor * one.loss(alpha.detach()), weights, torch.optim.SGD(weights, lr=0.5), 0.5, given)
        architecture_step(factor * one.loss(alpha), [alpha], torch.optim.SGD([alpha], lr=0.5), given)
    assert torch.equal(*alphas)
    for weight, value in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, value, rtol=1e-12, atol=0)


def test_entropy_is_the_mean_over_rows_that_hold_something() -> None:
    rows = np.random.default_rng(0).dirichlet(np.ones(5), size=(4, 3))
    rows[1, 2] = 0  # a node that does not exist
    rows[2, 0] = [0, 1, 0, 0, 0]
    expected = [-(row[row > 0] * np.log(row[row > 0])).sum() for row in rows.reshape(-1, 5) if row.sum() > 0]
    assert len(expected) == 11
    assert entropy(torch.from_numpy(rows)) == pytest.approx(np.mean(expected), abs=1e-12)
    assert entropy(torch.full((2, 4), 0.25)) == pytest.approx(np.log(4))
