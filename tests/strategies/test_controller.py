"""The controller against a plain LSTM in NumPy, against enumeration of small spaces, and against published numbers."""

from __future__ import annotations

import math
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from small_spaces import Chain, Dependent, FastNasLike, Graph, Independent
from torch import Tensor

from segnas.randomness import numpy_generator
from segnas.spaces.choice import Choice, Space, choices_of, enumerate_space, replay
from segnas.spaces.darts import DartsSpace
from segnas.strategies.controller import Controller, ControllerConfig, join
from segnas.strategies.ppo import FAST_NAS

CONFIGS = {
    "plain": ControllerConfig(hidden=5, init_range=1.0),
    "two layers, shared": ControllerConfig(hidden=4, layers=2, init_range=1.0, shared=True),
    "attention": ControllerConfig(hidden=5, init_range=1.0, attention=True, tanh_constant=2.5, temperature=0.7),
    "output": ControllerConfig(hidden=4, layers=2, init_range=1.0, feedback="output", encode_steps=3, shared=True),
    "output, attention": ControllerConfig(hidden=4, init_range=1.0, feedback="output", attention=True),
}
SPACES: dict[str, Space] = {
    "independent": Independent(2, 3, 1, 4), "dependent": Dependent(), "graph": Graph(2, ("conv", "pool")), "chain": Chain(),
}  # fmt: skip


def controller_of(space: Space, config: ControllerConfig, seed: int = 0) -> Controller:
    return Controller(space, config, numpy_generator(seed, "controller")).double()


def all_choices(space: Space) -> list[tuple[Choice, ...]]:
    """The choices of every architecture of the space."""
    listed: list[tuple[Choice, ...]] = []

    class Recorded:
        def architecture(self, choose: Any) -> Any:
            made: list[Choice] = []

            def record(name: str, options: Sequence[Any], node: bool = False, member: str = "") -> Any:
                option = choose(name, options, node, member)
                made.append(Choice(name, tuple(options), tuple(options).index(option), node, member))
                return option

            architecture = space.architecture(record)
            listed.append(tuple(made))
            return architecture

    for _ in enumerate_space(Recorded()):
        pass
    return listed


def batch_of(controller: Controller, listed: Sequence[Sequence[Choice]]) -> Any:
    return join([controller.trace(choices) for choices in listed])


every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
every_space = pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)


@every_config
@every_space
def test_the_probabilities_of_all_architectures_sum_to_one(space, config):
    controller = controller_of(space, config)
    log_probabilities, _ = controller.score(batch_of(controller, all_choices(space)))
    assert log_probabilities.exp().sum().item() == pytest.approx(1, abs=1e-12)
    assert log_probabilities.std() > 0.01


@every_config
@every_space
def test_a_draw_has_the_probability_and_entropy_that_it_is_scored_with(space, config):
    controller, generator = controller_of(space, config), np.random.default_rng(1)
    for _ in range(5):
        draw = controller.draw(generator)
        log_probability, entropy = controller.score(controller.trace(draw.choices))
        assert log_probability.item() == pytest.approx(draw.log_probability, abs=1e-12)
        assert entropy.item() == pytest.approx(draw.entropy, abs=1e-12)
        assert replay(space, lambda name, options, d=draw: {c.name: c.index for c in d.choices}[name])[0] == draw.architecture


@every_config
def test_a_batch_scores_as_its_members_do(config):
    space = Dependent()
    controller, listed = controller_of(space, config), all_choices(space)
    assert {len(choices) for choices in listed} == {3, 4}
    together = torch.stack(controller.score(batch_of(controller, listed)))
    alone = torch.cat([torch.stack(controller.score(controller.trace(choices))) for choices in listed], dim=1)
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-12)


def test_draws_are_as_frequent_as_they_are_probable():
    space = Dependent()
    controller, generator = controller_of(space, CONFIGS["plain"]), np.random.default_rng(0)
    drawn = Counter(controller.draw(generator).choices for _ in range(3000))
    listed = all_choices(space)
    probabilities = controller.score(batch_of(controller, listed))[0].exp().tolist()
    for choices, probability in zip(listed, probabilities, strict=True):
        error = math.sqrt(probability * (1 - probability) / 3000)
        assert drawn[choices] / 3000 == pytest.approx(probability, abs=4 * error + 1e-3)


def plain_log_probability(controller: Controller, choices: Sequence[Choice]) -> float:
    """The log-probability by the equations of controller.py, one number after the other."""
    config = controller.config
    weights = {name: value.detach().numpy() for name, value in controller.named_parameters()}
    memory = [(np.zeros(config.hidden), np.zeros(config.hidden)) for _ in range(config.layers)]

    def sigmoid(values: np.ndarray) -> np.ndarray:
        return 1 / (1 + np.exp(-values))

    def step(value: np.ndarray) -> np.ndarray:
        for layer, (state, cell) in enumerate(memory):
            gates = sum(
                weights[f"lstm.weight_{side}_l{layer}"] @ vector + weights[f"lstm.bias_{side}_l{layer}"]
                for side, vector in (("ih", value), ("hh", state))
            )
            entry, keep, new, out = np.split(gates, 4)
            cell = sigmoid(keep) * cell + sigmoid(entry) * np.tanh(new)
            value = sigmoid(out) * np.tanh(cell)
            memory[layer] = value, cell
        return value

    value, total = weights["start"], 0.0
    for _ in range(config.encode_steps):
        value = step(value)
    anchors: dict[str, dict[Any, np.ndarray]] = {}
    of_layer: dict[str, np.ndarray] = {}  # the last state about each layer
    taken: list[np.ndarray] = []
    before = ""
    for choice in choices:
        owner, _, _ = choice.name.rpartition(".")
        together = config.attention and choice.member != ""
        if not (together and owner == before):
            state, taken = step(value), []
        before = owner if together else ""
        group: Any = choice.options if config.shared and not choice.node else choice.name
        layer = ".".join(choice.name.split(".")[:2])
        if together:
            anchor = of_layer[choice.member]
            score = weights["score_weight"] @ np.tanh(weights["anchor_weight"] @ anchor + weights["state_weight"] @ state)
            logits = np.array([0.0, score])
            taken += [anchor] if choice.option else []
        elif config.attention and choice.node:
            cell = choice.name.split(".")[0]
            first = cell not in anchors
            for option in choice.options:
                anchors.setdefault(cell, {}).setdefault(option, np.zeros(config.hidden) if first else state)
            logits = np.array(
                [
                    weights["score_weight"]
                    @ np.tanh(weights["anchor_weight"] @ anchors[cell][option] + weights["state_weight"] @ state)
                    for option in choice.options
                ]
            )
        else:
            rows = [controller.output_rows[group, option] for option in choice.options]
            logits = weights["weight"][rows] @ state + weights["bias"][rows]
        logits = logits / config.temperature
        if config.tanh_constant:
            logits = config.tanh_constant * np.tanh(logits)
        total += logits[choice.index] - math.log(np.exp(logits).sum())
        of_layer[layer] = state
        if config.feedback == "output":
            value = state
        elif together:
            value = np.sum([np.zeros(config.hidden), *taken], axis=0) / (1 + len(taken))
        else:
            value = weights["embedding"][controller.embedding_rows[group, choice.option]]
    return float(total)


@every_config
@every_space
def test_log_probabilities_equal_the_plain_formula(space, config):
    controller = controller_of(space, config)
    listed = all_choices(space)[::23]
    found = controller.score(batch_of(controller, listed))[0].tolist()
    assert found == pytest.approx([plain_log_probability(controller, choices) for choices in listed], abs=1e-10)


@every_config
@pytest.mark.parametrize("name", ["graph", "chain"])
def test_gradients_equal_finite_differences(config, name):
    space = SPACES[name]
    controller = controller_of(space, config)
    batch = batch_of(controller, all_choices(space)[:: 97 if name == "graph" else 7])

    def value() -> Tensor:
        log_probabilities, entropies = controller.score(batch)
        return log_probabilities.sum() + 0.3 * entropies.sum()

    value().backward()
    generator = torch.Generator().manual_seed(0)
    for parameter in controller.parameters():
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        expected = (parameter.grad * direction).sum().item()
        sides = []
        for sign in (1, -2):
            parameter.data += sign * 1e-6 * direction
            sides.append(value().item())
        assert (sides[0] - sides[1]) / 2e-6 == pytest.approx(expected, rel=1e-5, abs=1e-7)
        parameter.data += 1e-6 * direction


def test_a_factorised_policy_never_sees_its_samples():
    space = Independent(3, 4, 2)
    listed = all_choices(space)
    for name, same in (("output", True), ("plain", False)):
        controller = controller_of(space, CONFIGS[name])
        batch = batch_of(controller, listed)
        logarithms, (_, entropies) = controller.distributions(batch), controller.score(batch)
        assert torch.equal(logarithms, logarithms[:1].expand_as(logarithms)) is same
        assert (entropies.max() - entropies.min() < 1e-12).item() is same


@every_config
def test_without_weights_the_policy_is_uniform(config):
    space = Independent(3, 4, 2)
    settings = {name: getattr(config, name) for name in config.__dataclass_fields__}
    controller = controller_of(space, ControllerConfig(**settings | {"init_range": 0.0}))
    draw = controller.draw(np.random.default_rng(0))
    assert draw.entropy == pytest.approx(math.log(24), abs=1e-12)
    assert draw.log_probability == pytest.approx(-math.log(24), abs=1e-12)


def test_the_controller_of_fast_nas_has_its_parameters_and_entropy():
    """A layer of the LSTM has 4 * 100 * (100 + 100 + 2) parameters, the start vector 100, a row of a head 101.

    The published code has 169,365: 1, 4 and 7 positions in its heads, and 11 embeddings of operations that nothing uses.
    """
    config = ControllerConfig(**FAST_NAS["controller"])
    parameters = {
        positions: sum(p.numel() for p in Controller(FastNasLike(positions), config, numpy_generator(0)).parameters())
        for positions in ((2, 5, 8), (1, 4, 7))
    }
    assert parameters == {(2, 5, 8): 2 * 80_800 + 100 + 101 * (30 + 30 + 11), (1, 4, 7): 169_365 - 11 * 100}
    assert parameters[2, 5, 8] == 168_871
    uniform = Controller(FastNasLike(), ControllerConfig(**FAST_NAS["controller"] | {"init_range": 0.0}), numpy_generator(0))
    entropy = uniform.draw(np.random.default_rng(0)).entropy
    assert entropy == pytest.approx(math.log((4 * 5 * 6 * 2 * 5 * 8) ** 2 * 11**7), abs=1e-4)


def test_weights_are_a_function_of_the_seed_and_leave_the_generators_of_torch_alone():
    before = torch.get_rng_state()
    first, again, other = (controller_of(Dependent(), CONFIGS["plain"], seed) for seed in (0, 0, 1))
    first.draw(np.random.default_rng(0))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.weight, other.weight)
    values = torch.cat([p.flatten() for p in first.parameters()])
    assert values.abs().max() <= 1
    assert values.abs().mean().item() == pytest.approx(0.5, abs=0.05)


class Grown:
    """A space that offers more, and other choices, once a controller was made for it; with or without nodes before that."""

    def __init__(self, nodes: bool = True) -> None:
        self.nodes, self.grown = nodes, False

    def architecture(self, choose: Any) -> Any:
        first = choose("values.0", range(9) if self.grown else range(3))
        second = choose("values.1", range(2), node=self.nodes)
        return (first, second, choose("new", ("x", "y", "z"), node=True)) if self.grown else (first, second)


@every_config
@pytest.mark.parametrize("nodes", [False, True])
def test_options_that_were_not_found_are_legal(config, nodes):
    space = Grown(nodes)
    controller = controller_of(space, config)
    space.grown = True
    listed = all_choices(space)
    assert controller.score(batch_of(controller, listed))[0].exp().sum().item() == pytest.approx(1, abs=1e-12)
    generator = np.random.default_rng(0)
    drawn = {controller.draw(generator).architecture for _ in range(100)}
    assert {option for _, _, option in drawn} == {"x", "y", "z"}
    assert max(first for first, _, _ in drawn) > 2


def test_where_such_options_stand_is_the_same_in_another_process():
    program = """
from test_controller import CONFIGS, Grown, controller_of
space = Grown()
controller = controller_of(space, CONFIGS["plain"])
print(controller.rows_of("new", ("x", "y", ("z", 1))), controller.rows_of("values.0", range(9)))
"""
    folder = __file__.rsplit("/", 1)[0]
    outputs = set()
    for hash_seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": ":".join([folder, *sys.path]), "OMP_NUM_THREADS": "1"}
        ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        outputs.add(ran.stdout)
    assert len(outputs) == 1
    assert "[0, 1, 2," in outputs.pop()


def test_attention_follows_the_anchors_of_growing_graphs():
    """The logits of a later block's inputs depend on what was chosen while its nodes came into being; the first are equal."""
    space = Graph(blocks=3)
    controller = controller_of(space, CONFIGS["attention"])
    listed = [controller.draw(np.random.default_rng(seed)).choices for seed in range(8)]
    logarithms = controller.distributions(batch_of(controller, listed)).exp()
    torch.testing.assert_close(logarithms[:, 0, :2], torch.full((8, 2), 0.5, dtype=torch.float64))
    third = logarithms[:, 6, :4]  # of the third block's first input: four nodes
    assert (third > 0).all()
    assert (third - third[:1]).abs().max() > 0.01
    assert (third[:, 0] - third[:, 1]).abs().max() < 1e-12  # both were there from the beginning
    assert (third[:, 2:] - third[:, :1]).abs().min() > 1e-4


def test_a_set_is_decided_in_one_step_and_each_member_by_itself():
    """Given the layers before, the bits of a set are independent; what comes after depends on which were chosen."""
    space = Chain(layers=3, kinds="a")
    controller = controller_of(space, CONFIGS["attention"])
    listed = all_choices(space)
    assert [len(choices) for choices in listed] == [6] * 8
    steps = batch_of(controller, listed).steps
    assert steps.tolist() == [[0, 1, 2, 3, 4, 4]] * 8
    log = {tuple(c.index for c in choices if c.member): score for choices, score in zip(
        listed, controller.score(batch_of(controller, listed))[0].tolist(), strict=True)}  # fmt: skip
    for first in (0, 1):
        assert log[first, 0, 0] + log[first, 1, 1] == pytest.approx(log[first, 0, 1] + log[first, 1, 0], abs=1e-12)
    assert abs((log[0, 0, 0] - log[0, 0, 1]) - (log[1, 0, 0] - log[1, 0, 1])) > 1e-4


def test_members_are_plain_choices_where_there_is_no_attention():
    controller = controller_of(Chain(), CONFIGS["plain"])
    assert controller.trace(all_choices(Chain())[5]).steps.tolist() == [list(range(6))]
    assert ("layers.2.skips.1", 1) in controller.output_rows
    assert ("layers.2.skips.1", 1) not in controller_of(Chain(), CONFIGS["attention"]).output_rows


def test_stages_are_drawn_by_the_same_policy():
    space = Chain()
    controller = controller_of(space, CONFIGS["attention"])
    for stage in (1, 2, 3):
        draw = controller.draw(np.random.default_rng(stage), space.stage(stage))
        assert len(draw.architecture) == stage
        assert controller.score(controller.trace(draw.choices))[0].item() == pytest.approx(draw.log_probability, abs=1e-12)
    short, whole = (all_choices(space.stage(stage)) for stage in (2, 3))
    begun = dict(zip(short, controller.score(batch_of(controller, short))[0].exp().tolist(), strict=True))
    for choices, probability in begun.items():  # what a longer chain goes on to do sums to what the shorter one is
        longer = [other for other in whole if other[: len(choices)] == choices]
        assert controller.score(batch_of(controller, longer))[0].exp().sum().item() == pytest.approx(probability, abs=1e-12)


@every_config
def test_a_batch_of_different_depths_scores_as_its_members_do(config):
    space = Chain(layers=4)
    controller, generator = controller_of(space, config), np.random.default_rng(5)
    draws = [controller.draw(generator, space.stage(stage)) for stage in (3, 1, 4, 2, 4, 3)]
    log_probabilities, entropies = controller.score(batch_of(controller, [draw.choices for draw in draws]))
    assert log_probabilities.tolist() == pytest.approx([draw.log_probability for draw in draws], abs=1e-12)
    assert entropies.tolist() == pytest.approx([draw.entropy for draw in draws], abs=1e-12)


def test_architectures_are_scored_as_their_choices_are():
    space = DartsSpace()
    controller = controller_of(space, ControllerConfig(hidden=8, attention=True, shared=True))
    draws = [controller.draw(np.random.default_rng(seed)) for seed in range(3)]
    found = controller.score_architectures([draw.architecture for draw in draws])[0]
    assert found.tolist() == pytest.approx([draw.log_probability for draw in draws], abs=1e-10)
    assert choices_of(space, draws[0].architecture) == draws[0].choices


def test_encode_steps_are_for_the_feedback_of_outputs():
    with pytest.raises(ValidationError, match="encode_steps needs feedback=output"):
        ControllerConfig(encode_steps=4)
