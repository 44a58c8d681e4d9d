"""REINFORCE and PPO: gradients by enumeration, the clipped objective, learning, and what must survive an interruption."""

from __future__ import annotations

import copy
import io
import math
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from small_spaces import Chain, Dependent, FastNasLike, Graph, Independent
from test_controller import CONFIGS, all_choices, batch_of, controller_of

from segnas.errors import UserError
from segnas.spaces.choice import sample
from segnas.strategies.base import Event, Result, Strategy, replay, strategies
from segnas.strategies.ppo import FAST_NAS, NASNET, PPO, clipped_loss
from segnas.strategies.reinforce import ENAS, NAS_RL, Reinforce, reinforce_loss

SMALL: dict[str, Any] = {"hidden": 8, "init_range": 0.3}
SEARCHES = {
    "reinforce": (Reinforce, {"controller": SMALL, "batch": 3, "entropy_weight": 0.01}),
    "ppo": (PPO, {"controller": SMALL, "batch": 2, "buffer": 5, "minibatch": 2, "epochs": 2}),
    "ppo, attention": (PPO, {"controller": SMALL | {"attention": True, "shared": True}, "batch": 1, "buffer": 4, "minibatch": 3}),
    "reinforce, output": (Reinforce, {"controller": SMALL | {"feedback": "output", "encode_steps": 2}, "clip_norm": 0.1}),
}
every_search = pytest.mark.parametrize(("kind", "options"), SEARCHES.values(), ids=SEARCHES)


def value_of(architecture: Any) -> float:
    """A made-up score between 0 and 100, a function of the architecture's printed form."""
    return float(sum(map(ord, repr(architecture))) % 101)


def told(strategy: Strategy, number: int, architecture: Any, score: float | None = None) -> Result:
    """Tell a strategy a result of 'done'."""
    result = Result(number, architecture, "done", (value_of(architecture) if score is None else score,))
    strategy.tell(result)
    return result


def asked_and_told(strategy: Strategy, count: int) -> list[Event]:
    """Go on for `count` proposals, with two at a time, whose results come in the other order; the history."""
    events: list[Event] = []
    for _ in range(count // 2):
        first = strategy.asked
        pair = [strategy.ask(), strategy.ask()]
        events += [Event(architecture) for architecture in pair]
        for place in (1, 0):
            events.append(Event(pair[place], told(strategy, first + place, pair[place])))
    return events


def weights(strategy: Any) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in strategy.controller.parameters()])


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("space", [Dependent(), Graph(1, ("conv", "pool"))], ids=["dependent", "graph"])
def test_the_gradient_of_reinforce_is_that_of_the_expected_reward(space, config):
    """sum of p (R - b) grad log p over all architectures, for any b, against differences of the expected reward."""
    controller, listed = controller_of(space, config), all_choices(space)
    batch = batch_of(controller, listed)
    rewards = torch.tensor(np.random.default_rng(0).normal(size=len(listed)))

    def expected_reward() -> float:
        with torch.no_grad():
            return float(controller.score(batch)[0].exp() @ rewards)

    log_probabilities, entropies = controller.score(batch)
    share = len(listed) * log_probabilities.detach().exp()  # the loss is a mean over drawn architectures
    reinforce_loss(log_probabilities, share * (rewards - 0.37), entropies, 0.0).backward()
    generator = torch.Generator().manual_seed(0)
    for parameter in controller.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data += 1e-6 * direction
        above = expected_reward()
        parameter.data -= 2e-6 * direction
        below = expected_reward()
        parameter.data += 1e-6 * direction
        assert -(parameter.grad * direction).sum().item() == pytest.approx((above - below) / 2e-6, rel=1e-5, abs=1e-8)


def test_the_clipped_objective_equals_the_plain_formula():
    generator = np.random.default_rng(0)
    ratios, advantages, entropies = generator.uniform(0.5, 1.5, 40), generator.normal(size=40), generator.uniform(0, 3, 40)
    expected = 0.0
    for ratio, advantage, entropy in zip(ratios, advantages, entropies, strict=True):
        bounded = min(ratio, 1.2) if advantage > 0 else max(ratio, 0.8)  # no gain from going further than the clip
        expected -= (bounded * advantage + 0.1 * entropy) / 40
    tensors = [torch.tensor(values) for values in (ratios, advantages, entropies)]
    assert clipped_loss(*tensors, 0.2, 0.1).item() == pytest.approx(expected, abs=1e-12)


def test_at_the_policy_that_drew_ppo_steps_as_reinforce_does():
    options = {"controller": SMALL, "batch": 4, "learning_rate": 0.01, "entropy_weight": 0.01}
    reinforce = Reinforce(Dependent(), 0, options)
    ppo = PPO(Dependent(), 0, options | {"buffer": 4, "minibatch": 4, "epochs": 1})
    for strategy in (reinforce, ppo):
        for number in range(4):
            told(strategy, number, strategy.ask())
    torch.testing.assert_close(weights(reinforce), weights(ppo), rtol=0, atol=1e-5)
    assert (weights(reinforce) - weights(Reinforce(Dependent(), 0, options))).abs().max() > 0.005


def test_a_step_is_one_of_adam_on_the_loss_of_the_batch():
    options = {"controller": SMALL, "batch": 3, "learning_rate": 0.02, "baseline_decay": 0.8, "entropy_weight": 0.05}
    strategy = Reinforce(Graph(), 3, options)
    controller = copy.deepcopy(strategy.controller)
    optimizer = torch.optim.Adam(controller.parameters(), lr=0.02)
    proposals = [strategy.ask() for _ in range(3)]
    traces = [strategy.pending[number].trace for number in range(3)]
    for number, score in enumerate((50.0, 70.0, 20.0)):
        told(strategy, number, proposals[number], score)
    baseline = 0.8 * (0.8 * 0.5 + 0.2 * 0.7) + 0.2 * 0.2
    assert strategy.baseline == pytest.approx(baseline, abs=1e-12)
    loss = torch.zeros(())
    for trace, reward in zip(traces, (0.5, 0.7, 0.2), strict=True):
        log_probability, entropy = controller.score(trace)
        loss = loss - ((reward - baseline) * log_probability[0] + 0.05 * entropy[0]) / 3
    loss.backward()
    optimizer.step()
    torch.testing.assert_close(torch.cat([p.detach().flatten() for p in controller.parameters()]), weights(strategy))


def test_rewards_are_scaled_then_raised():
    assert Reinforce(Dependent(), 0, {"reward_exponent": 3}).reward(90.0) == pytest.approx(0.9**3)
    assert Reinforce(Dependent(), 0, {"reward_exponent": 2, "reward_scale": 1}).reward(-3.0) == pytest.approx(-9)
    assert Reinforce(Dependent(), 0).reward(50.0) == pytest.approx(0.5)


def test_the_gradient_is_clipped():
    strategy = Reinforce(Graph(), 0, {"controller": SMALL, "clip_norm": 1e-3})
    for number, score in enumerate((10.0, 90.0)):
        told(strategy, number, strategy.ask(), score)
    norm = torch.cat([parameter.grad.flatten() for parameter in strategy.controller.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


@every_search
def test_proposals_without_a_score_change_nothing(kind, options):
    strategy, plain = (kind(Graph(), 5, options) for _ in range(2))
    for other in (strategy, plain):
        for _ in range(8):
            other.ask()
    assert set(strategy.pending) == set(range(8))
    for number in (4, 1, 2):
        strategy.tell(Result(number, None, "failed" if number == 1 else "over budget", None))
    assert strategy.baseline is None
    for number in (0, 3, 5, 6):
        for other in (strategy, plain):
            told(other, number, other.space, float(10 * number))
    assert set(strategy.pending) == {7}
    assert torch.equal(weights(strategy), weights(plain))
    assert not torch.equal(weights(strategy), weights(kind(Graph(), 5, options)))
    with pytest.raises(ValueError, match="proposal 4 was never made, or its result was told before"):
        told(strategy, 4, None, 1.0)


@every_search
def test_a_saved_search_and_a_replayed_one_go_on_alike(kind, options):
    strategy = kind(Graph(), 7, options)
    events = asked_and_told(strategy, 12)
    waiting = strategy.ask()
    events.append(Event(waiting))
    file = io.BytesIO()
    torch.save(strategy.state_dict(), file)
    file.seek(0)
    loaded = kind(Graph(), 7, options)
    loaded.load_state_dict(torch.load(file, weights_only=True))
    replayed = kind(Graph(), 7, options)
    replay(replayed, events)
    futures = []
    for one in (strategy, loaded, replayed):
        told(one, 12, waiting)
        futures.append([event.architecture for event in asked_and_told(one, 10)])
        futures[-1].append(weights(one).tolist())
    assert futures[0] == futures[1] == futures[2]
    other = kind(Graph(), 8, options)
    assert [other.ask() for _ in range(5)] != [event.architecture for event in events if event.result is None][:5]


@every_search
def test_a_saved_state_does_not_move_with_the_search(kind, options):
    strategy = kind(Graph(), 7, options)
    asked_and_told(strategy, 6)
    state = strategy.state_dict()
    next_one = strategy.ask()
    asked_and_told(strategy, 6)
    loaded = kind(Graph(), 7, options)
    loaded.load_state_dict(state)
    assert loaded.ask() == next_one
    asked_and_told(loaded, 6)
    again = kind(Graph(), 7, options)
    again.load_state_dict(state)
    assert again.ask() == next_one


@every_search
@pytest.mark.parametrize("attention", [False, True])
def test_a_space_with_stages_is_entered_stage_by_stage(kind, options, attention):
    options = options | {"controller": options["controller"] | {"attention": attention}, "grow_every": 4}
    strategy = kind(Chain(layers=4), 7, options)
    events = asked_and_told(strategy, 10)
    waiting = [strategy.ask(), strategy.ask()]
    made = [event.architecture for event in events if event.result is None] + waiting
    assert [len(architecture) for architecture in made] == [1] * 4 + [2] * 4 + [3] * 4
    loaded, replayed = (kind(Chain(layers=4), 7, options) for _ in range(2))
    loaded.load_state_dict(strategy.state_dict())
    replay(replayed, [*events, *(Event(architecture) for architecture in waiting)])
    futures = []
    for one in (strategy, loaded, replayed):
        for number in (11, 10):
            told(one, number, waiting[number - 10])
        futures.append([event.architecture for event in asked_and_told(one, 8)])
        futures[-1].append(weights(one).tolist())
    assert futures[0] == futures[1] == futures[2]
    assert {len(architecture) for architecture in futures[0][:-1]} == {4}  # the last stage is the space itself
    at_once = kind(Chain(layers=4), 7, options | {"grow_every": 0})
    assert len(at_once.ask()) == 4


def test_another_order_of_results_is_another_search():
    """Both are repeatable, and what waited is scored with the log-probability of when it was drawn."""
    ends = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2), (3, 1, 0, 2)):
        strategy = PPO(Dependent(), 0, {"controller": SMALL, "batch": 1, "buffer": 4, "minibatch": 1})
        proposals = [strategy.ask() for _ in range(4)]
        drawn = {number: one.log_probability for number, one in strategy.pending.items()}
        for number in order:
            told(strategy, number, proposals[number])
        assert [one.log_probability for one in strategy.buffer] == [drawn[number] for number in order]
        ends.append(weights(strategy))
    assert torch.equal(ends[1], ends[2])
    assert not torch.equal(ends[0], ends[1])


def test_ppo_learns_from_the_last_results_each_once_an_epoch(monkeypatch):
    strategy = PPO(Independent(3, 3), 0, {"controller": SMALL, "batch": 2, "buffer": 5, "minibatch": 2, "epochs": 3})
    seen: list[list[float]] = []
    monkeypatch.setattr(strategy, "_improve", lambda minibatch: seen.append([one.reward for one in minibatch]))
    for number in range(8):
        assert len(seen) == 3 * sum(math.ceil(min(told_so_far, 5) / 2) for told_so_far in range(2, number + 1, 2))
        told(strategy, number, strategy.ask(), 100.0 * number)
    for epoch in range(3):
        passed = seen[-9 + 3 * epoch :][:3]
        assert [len(minibatch) for minibatch in passed] == [2, 2, 1]
        assert sorted(reward for minibatch in passed for reward in minibatch) == pytest.approx([3, 4, 5, 6, 7])
    assert seen[-9:-6] != seen[-6:-3]
    with pytest.raises(UserError, match="buffer must hold at least the batch=30 results"):
        PPO(Independent(3), 0, {"batch": 30})


@pytest.mark.parametrize(("name", "options"), [("reinforce", NAS_RL), ("reinforce", ENAS), ("ppo", NASNET), ("ppo", FAST_NAS)])
def test_the_settings_of_the_papers_make_searches(name, options):
    strategy = strategies[name](FastNasLike(), 0, options)
    before = weights(strategy)
    events = asked_and_told(strategy, options["batch"] + options["batch"] % 2 + 2)
    assert torch.isfinite(weights(strategy)).all()
    assert not torch.equal(before, weights(strategy))
    replay(strategies[name](FastNasLike(), 0, options), events)


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_searches_find_an_optimum_and_draw_near_it(name):
    """Of 4^6 architectures, scored by how many of six choices are right: random search scores 1.5, and would find all six once
    in 4,096 draws."""
    space, right = Independent(4, 4, 4, 4, 4, 4), (2, 0, 3, 1, 1, 2)
    for seed in range(3):
        strategy, scores = strategies[name](space, seed), []
        for number in range(400):
            architecture = strategy.ask()
            scores.append(100 / 6 * sum(a == b for a, b in zip(architecture, right, strict=True)))
            told(strategy, number, architecture, scores[-1])
        assert max(scores) == 100
        assert np.mean(scores[-50:]) > 100 / 6 * 4.5
    generator = np.random.default_rng(0)
    assert np.mean([sum(a == b for a, b in zip(sample(space, generator), right, strict=True)) for _ in range(400)]) < 2


@pytest.mark.parametrize("name", ["reinforce", "ppo"])
def test_another_process_proposes_the_same(name):
    program = f"""
from test_policy_gradient import *
print([event.architecture for event in asked_and_told(strategies["{name}"](Graph(), 11), 12)])
"""
    folder = __file__.rsplit("/", 1)[0]
    environment = {"PYTHONHASHSEED": "5", "PYTHONPATH": ":".join([folder, *sys.path]), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str([event.architecture for event in asked_and_told(strategies[name](Graph(), 11), 12)])
