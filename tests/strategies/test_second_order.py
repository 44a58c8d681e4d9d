"""Whole DARTS steps of both orders against the published code's, the exact second-order gradient, the curvature of alpha."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from darts_golden import GOLDEN, alphas, close, fill, from_genotype, images, labels, mixture, uniform
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from segnas.nets.darts_supernet import DartsSupernet
from segnas.nets.engines import choose_engine
from segnas.spaces.cells import states_of
from segnas.spaces.darts import OPERATIONS, DartsOptions, cell_of
from segnas.strategies.bilevel import frozen, gradients_of, move
from segnas.strategies.curvature import DELTA, FACTOR, WINDOW, eigenvalues, epoch_to_return_to, hessian
from segnas.strategies.decoding import strongest_edges
from segnas.strategies.second_order import hessian_vector_product, unrolled_gradients


class Steps:
    """The golden search: three steps of architecture, then weights, on the same two batches."""

    def __init__(self, rule: str, layers: int = 5, size: int = 16, fused: bool = False) -> None:
        self.supernet = fill(DartsSupernet(10, DartsOptions(form="cifar", channels=4, layers=layers)), rule).train()
        choose_engine(self.supernet, fused)
        self.variables = alphas()
        self.weights = list(self.supernet.parameters())
        self.weight_optimizer = torch.optim.SGD(self.weights, lr=0.025, momentum=0.9, weight_decay=3e-4)
        self.architecture_optimizer = torch.optim.Adam(self.variables, lr=3e-4, betas=(0.5, 0.999), weight_decay=1e-3)
        self.train = images(4, size), labels(4)
        self.valid = images(4, size, validation=True), labels(4, validation=True)

    def loss(self, batch: tuple[Tensor, Tensor], weights: Any = None) -> Tensor:
        inputs = (batch[0], mixture(self.variables))
        logits = self.supernet(*inputs) if weights is None else functional_call(self.supernet, dict(weights), inputs)
        return F.cross_entropy(logits, batch[1])

    def gradients(self, second_order: bool) -> list[Tensor]:
        if not second_order:
            return list(torch.autograd.grad(self.loss(self.valid), self.variables))
        return unrolled_gradients(
            self.supernet,
            lambda weights: self.loss(self.train, weights),
            lambda weights: self.loss(self.valid, weights),
            self.variables,
            self.weight_optimizer,
        )[0]

    def move(self, gradients: list[Tensor]) -> None:
        for variable, gradient in zip(self.variables, gradients, strict=True):
            variable.grad = gradient
        self.architecture_optimizer.step()


def agrees(found: Tensor, expected: Any, tolerance: float) -> bool:
    """With all numbers, or with the sums that the golden file keeps of them."""
    if isinstance(expected, list):
        return close(found, expected, tolerance)
    sums = {"sum": found.sum(), "abs_sum": found.abs().sum(), "sq_sum": (found**2).sum()}
    return all(close(value, expected[name], tolerance) for name, value in sums.items())


@pytest.mark.parametrize("rule", ["A", "B"])
@pytest.mark.parametrize("order", ["first", "second"])
@pytest.mark.parametrize("fused", [False, True])
def test_three_whole_steps(rule, order, fused):
    tolerance = 1e-9 if order == "first" else 1e-6
    steps = Steps(rule, fused=fused)
    for expected in GOLDEN["func_search"][f"supernet/rule{rule}/float64"][f"search_{order}_order_3steps"]:
        gradients = steps.gradients(order == "second")
        assert agrees(gradients[0], expected["dalpha_normal"], tolerance)
        assert agrees(gradients[1], expected["dalpha_reduce"], tolerance)
        steps.move(gradients)
        loss = steps.loss(steps.train)
        assert close(loss, expected["train_loss"], tolerance)
        norm = torch.sqrt(sum((g**2).sum() for g in torch.autograd.grad(loss, steps.weights, retain_graph=True)))
        assert close(norm, expected["grad_norm_before_clip"], tolerance)
        _, *found = gradients_of(loss, steps.weights)
        move(steps.weights, found, steps.weight_optimizer, clip_norm=5.0)
        assert agrees(steps.variables[0].detach(), expected["alpha_normal_after"], tolerance)
        assert agrees(steps.variables[1].detach(), expected["alpha_reduce_after"], tolerance)
        assert close(torch.sqrt(sum((w.detach() ** 2).sum() for w in steps.weights)), expected["weights_l2"], tolerance)


def test_the_first_order_step_of_the_search_is_the_golden_one():
    steps = Steps("B")
    with frozen(steps.weights):
        _, *gradients = gradients_of(steps.loss(steps.valid), steps.variables)
    move(steps.variables, gradients, steps.architecture_optimizer)
    expected = GOLDEN["func_search"]["supernet/ruleB/float64"]["search_first_order_3steps"][0]
    assert agrees(steps.variables[0].detach(), expected["alpha_normal_after"], 1e-9)


def test_the_exact_gradient_is_met_without_kinks_crossed():
    """With a tiny epsilon the quotient is the exact product, which the golden file holds by double backward."""
    steps = Steps("B")
    expected = GOLDEN["func_search"]["exact_autograd_second_order_first_step/ruleB/float64"]
    weights = dict(steps.supernet.named_parameters())
    gradients = torch.autograd.grad(steps.loss(steps.train), list(weights.values()))
    moved = {
        name: (weight - 0.025 * (gradient + 3e-4 * weight)).detach().requires_grad_(True)
        for (name, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
    both = torch.autograd.grad(steps.loss(steps.valid, moved), [*steps.variables, *moved.values()])
    product = hessian_vector_product(
        lambda shifted: steps.loss(steps.train, shifted), weights, both[2:], steps.variables, radius=1e-6
    )
    for direct, second, name in zip(both, product, ("dalpha_normal", "dalpha_reduce"), strict=False):
        assert close(direct - 0.025 * second, expected[name], 1e-5)


def test_running_statistics_move_with_the_passes_at_w_alone():
    """Three passes of the training batch at w and w +- epsilon g; the validation batch at w' leaves them alone."""
    steps, beside = Steps("A"), Steps("A")
    steps.gradients(second_order=True)
    norm, other = (next(m for m in s.supernet.modules() if isinstance(m, nn.BatchNorm2d)) for s in (steps, beside))
    assert int(norm.num_batches_tracked) == 3
    with torch.no_grad():
        for _ in range(3):
            beside.loss(beside.train)
    assert torch.allclose(norm.running_mean, other.running_mean, atol=1e-3)  # the stem's weights differ by epsilon g
    assert all(parameter.grad is None for parameter in steps.supernet.parameters())


@pytest.mark.parametrize("case", GOLDEN["decode"])
def test_decoding_with_its_ties_and_without_none(case):
    golden = GOLDEN["decode"][case]
    place = 8 * torch.arange(14, dtype=torch.float64)[:, None] + torch.arange(8, dtype=torch.float64)
    tables = {
        "sin_cos": (0.1 * torch.sin(place), 0.1 * torch.cos(place)),
        "all_zero": (torch.zeros(14, 8), torch.zeros(14, 8)),
    }
    if case.startswith("mix1"):
        pair = tuple(torch.tensor(golden[f"alpha_{name}"], dtype=torch.float64).reshape(14, 8) for name in ("normal", "reduce"))
        assert close(pair[0], uniform((14, 8), 1), 1e-9)
    elif case.startswith("none_dominates"):
        normal, reduction = torch.zeros(14, 8), torch.zeros(14, 8)
        normal[:, 0] = reduction[:, 0] = 5
        reduction[:, 3] = 1
        pair = (normal, reduction)
    else:
        pair = tables[case.split(":")[0].split(" ")[0]]
    expected = from_genotype(golden["genotype"])
    cells = [cell_of(strongest_edges(table.softmax(-1).numpy(), states_of(4), OPERATIONS)) for table in pair]
    assert cells == [expected.normal, expected.reduction]


def test_the_dominant_eigenvalue_is_the_golden_one():
    expected = GOLDEN["func_search"]["alpha_hessian/ruleB/C4_L3_size8_batch4/float64"]
    steps = Steps("B", layers=3, size=8)
    found = eigenvalues(steps.loss(steps.valid), steps.variables)
    assert close(found[-1], 0.443476441213657, 1e-8)
    assert close(found[-5:], expected["top5"], 1e-8)
    assert close(found[0], expected["lambda_min"], 1e-8)
    assert close(found.sum(), expected["trace"], 1e-8)


def test_the_hessian_is_that_of_torch():
    variables = [
        torch.randn(3, 2, dtype=torch.float64, requires_grad=True),
        torch.randn(2, dtype=torch.float64, requires_grad=True),
    ]

    def value(first: Tensor, second: Tensor) -> Tensor:
        return (first.exp() @ second.sin()).pow(2).sum()

    expected = torch.autograd.functional.hessian(
        lambda flat: value(flat[:6].reshape(3, 2), flat[6:]), torch.cat([v.detach().flatten() for v in variables])
    )
    assert torch.allclose(hessian(value(*variables), variables), expected)


def test_the_early_stop_compares_smoothed_eigenvalues():
    epochs = list(range(0, 60, 2))
    steady = [1.0] * len(epochs)
    assert epoch_to_return_to(epochs, steady) is None
    rising = [1.0] * 12 + [2.0] * 8
    stopped = [
        (count, found)
        for count in range(1, len(rising) + 1)
        if (found := epoch_to_return_to(epochs[:count], rising[:count])) is not None
    ]
    # the first mean above 1.3: two of its five values are 2 (1.4); the mean four places before stands for its middle
    assert stopped[0] == (14, epochs[14 - DELTA - 1 - WINDOW // 2])
    assert sum(rising[9:14]) / 5 > FACTOR * sum(rising[5:10]) / 5
    early = [1.0] * 5 + [9.0] * 5  # a rise of the first epochs: the epoch to return to would be before the tenth
    assert epoch_to_return_to(epochs[:10], early) is None
