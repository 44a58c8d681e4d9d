"""The two steps of the bilevel search against steps computed by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segnas.strategies.bilevel import frozen, gradients_of, move


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

        with frozen(list(network.parameters())):
            _, *gradients = gradients_of(network.loss(alpha), [alpha])
        move([alpha], gradients, optimizer)
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

    loss, *found = gradients_of(network.loss(alpha.detach()), weights)
    assert not loss.requires_grad
    assert loss == network.loss(alpha)
    move(weights, found, optimizer, clip_norm)
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
        _, *gradients = gradients_of(factor * one.loss(alpha.detach()), weights)
        move(weights, gradients, torch.optim.SGD(weights, lr=0.5), 0.5, given)
        with frozen(weights):
            _, *gradients = gradients_of(factor * one.loss(alpha), [alpha])
        move([alpha], gradients, torch.optim.SGD([alpha], lr=0.5), average=given)
    assert torch.equal(*alphas)
    for weight, value in zip(network.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(weight, value, rtol=1e-12, atol=0)


def test_what_the_loss_does_not_depend_on_is_not_moved() -> None:
    """Not even by weight decay, as torch's optimizers treat what has no gradient."""
    network, unused = Mixed(), nn.Parameter(torch.ones(2, dtype=torch.float64))
    weights = [*network.parameters(), unused]
    before = [weight.detach().clone() for weight in weights]
    _, *gradients = gradients_of(network.loss(torch.zeros(2, dtype=torch.float64)), weights)
    assert [gradient is None for gradient in gradients] == [False, False, True]
    move(weights, gradients, torch.optim.SGD(weights, lr=0.5, weight_decay=0.1), 5.0, lambda tensors: None)
    assert [torch.equal(weight, value) for weight, value in zip(weights, before, strict=True)] == [False, False, True]
