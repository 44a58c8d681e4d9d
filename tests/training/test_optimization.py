"""Schedules against closed forms, the optimizer against its formula, the moving average against a loop."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from segnas.training import optimization
from segnas.training.recipe import RetrainConfig, learning_rate


@pytest.mark.parametrize("step", [0, 1, 37, 99])
def test_poly_is_the_power_of_what_remains(step: int) -> None:
    config = RetrainConfig(learning_rate=0.05, schedule="poly", power=0.9)
    assert learning_rate(config, step, 100) == pytest.approx(0.05 * (1 - step / 100) ** 0.9, rel=1e-12)
    config = RetrainConfig(learning_rate=0.05, schedule="poly", power=2.0, final_learning_rate=0.01)
    assert learning_rate(config, step, 100) == pytest.approx(0.01 + 0.04 * (1 - step / 100) ** 2, rel=1e-12)


@pytest.mark.parametrize("step", [0, 1, 37, 99])
def test_cosine_is_that_of_torch(step: int) -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.025)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100, eta_min=0.001)
    for _ in range(step):
        optimizer.step()
        schedule.step()
    assert optimization.cosine(step, 100, 0.025, 0.001) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)


def test_schedules_stay_at_their_end() -> None:
    assert optimization.cosine(500, 100, 1.0, 0.25) == 0.25
    assert optimization.polynomial(500, 100, 1.0, 0.25) == 0.25
    assert optimization.polynomial(0, 0, 1.0, 0.25) == 1.0


@pytest.mark.parametrize("schedule", ["poly", "cosine"])
def test_warm_up_is_linear_and_the_schedule_begins_at_its_end(schedule: str) -> None:
    config = RetrainConfig(learning_rate=0.4, schedule=schedule, warmup_steps=8)
    assert [learning_rate(config, step, 50) for step in range(9)] == pytest.approx([0.05 * (i + 1) for i in range(8)] + [0.4])
    plain = RetrainConfig(learning_rate=0.4, schedule=schedule)
    assert learning_rate(config, 30, 50) == learning_rate(plain, 22, 42)


def test_a_warm_up_longer_than_the_training_never_reaches_the_rate() -> None:
    config = RetrainConfig(learning_rate=1.0, warmup_steps=100)
    assert learning_rate(config, 9, 10) == pytest.approx(0.1)


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="nesterov"):
        RetrainConfig(nesterov=True, optimizer="adamw")
    with pytest.raises(ValidationError, match="final_learning_rate"):
        RetrainConfig(learning_rate=0.01, final_learning_rate=0.02)


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_follows_its_formula(nesterov: bool) -> None:
    layer = nn.Linear(3, 2)
    optimizer = optimization.sgd(optimization.parameter_groups(layer, 0.1), 0.5, 0.9, nesterov)
    weight, velocity = layer.weight.detach().double().clone(), torch.zeros(2, 3, dtype=torch.float64)
    for step in range(4):
        rate = 0.5 / (step + 1)
        optimization.set_learning_rate(optimizer, rate)
        optimizer.zero_grad()
        layer(torch.ones(1, 3)).square().sum().backward()
        gradient = layer.weight.grad.double() + 0.1 * weight
        velocity = 0.9 * velocity + gradient if step else gradient
        weight = weight - rate * (gradient + 0.9 * velocity if nesterov else velocity)
        optimizer.step()
        weight_now = layer.weight.detach().double()
        assert torch.allclose(weight_now, weight, rtol=1e-4, atol=1e-5 * weight.abs().max())
        weight = weight_now


def test_biases_and_normalisation_are_spared_from_weight_decay_on_request() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1, bias=False))
    frozen = network[3].weight.requires_grad_(False)
    everything = optimization.parameter_groups(network, 0.1)
    assert [len(group["params"]) for group in everything] == [6]
    decayed, spared = optimization.parameter_groups(network, 0.1, decay_all=False)
    assert decayed["weight_decay"] == 0.1
    assert decayed["params"] == [network[0].weight]
    assert spared["weight_decay"] == 0
    assert {id(p) for p in spared["params"]} == {id(p) for p in network.parameters()} - {id(network[0].weight), id(frozen)}


def test_batch_norm_momentum_reaches_every_batch_norm() -> None:
    network = nn.Sequential(nn.BatchNorm2d(2), nn.Sequential(nn.BatchNorm1d(2)))
    optimization.set_batch_norm_momentum(network, 3e-4)
    assert [network[0].momentum, network[1][0].momentum] == [3e-4, 3e-4]


def test_the_moving_average_is_that_of_a_loop() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = optimization.ExponentialMovingAverage(network, decay=0.5)
    expected = network[0].weight.detach().double().clone()
    generator = torch.Generator().manual_seed(0)
    for update in range(12):
        with torch.no_grad():
            network[0].weight += torch.randn(network[0].weight.shape, generator=generator)
        network(torch.randn(4, 1, 3, 3, generator=generator))
        average.update(network)
        decay = min(0.5, (1 + update) / (10 + update))
        expected = decay * expected + (1 - decay) * network[0].weight.detach().double()
    assert torch.allclose(average.network[0].weight.double(), expected, rtol=1e-5)
    assert torch.equal(average.network[1].running_mean, network[1].running_mean)
    assert torch.equal(average.network[1].num_batches_tracked, torch.tensor(12))
    assert not any(parameter.requires_grad for parameter in average.network.parameters())


def test_the_moving_average_goes_on_from_its_state() -> None:
    network = nn.Conv2d(1, 1, 1)
    average = optimization.ExponentialMovingAverage(network, 0.9)
    for _ in range(3):
        with torch.no_grad():
            network.weight.mul_(1.5)
        average.update(network)
    other = optimization.ExponentialMovingAverage(nn.Conv2d(1, 1, 1), 0.9)
    other.load_state_dict(average.state_dict())
    for copy in (average, other):
        copy.update(network)
    assert torch.equal(average.network.weight, other.network.weight)
    assert math.isfinite(other.network.weight.item())
