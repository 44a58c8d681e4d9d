"""Proximal policy optimization: several steps from the same results, none far from the policy that drew them.

    ratio = p(architecture) / p(architecture) when it was drawn
    loss = mean of -min(ratio A, clip(ratio, 1 - clip, 1 + clip) A) - entropy_weight * entropy,    A = R - b

Schulman et al., 2017 (arXiv 1707.06347), equation 7. After every `batch` results, `epochs` passes over the last `buffer` ones,
in minibatches whose order is a function of the seed and of the number of updates; all advantages are less today's baseline.
The policy, the reward and the baseline: controller.py, policy_gradient.py.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from segnas.config import configuration
from segnas.randomness import numpy_generator
from segnas.spaces.choice import Space
from segnas.strategies.base import strategies
from segnas.strategies.controller import join
from segnas.strategies.policy_gradient import Experience, PolicyGradient, PolicyGradientConfig, plain

# Zoph et al., CVPR 2018 (arXiv 1707.07012), appendix A. It names neither epochs nor clip; with one epoch, results that are told
# in the order of the proposals give REINFORCE.
NASNET: dict[str, Any] = {
    "controller": {"hidden": 100, "init_range": 0.1},
    "learning_rate": 3.5e-4,
    "baseline_decay": 0.95,
    "entropy_weight": 1e-5,
    "batch": 20,
    "buffer": 20,
    "minibatch": 20,
    "epochs": 1,
    "clip": 0.2,
}
# Nekrasov et al., CVPR 2019 (arXiv 1810.10804), the published code; its reward is a share, not in percent.
FAST_NAS: dict[str, Any] = {
    "controller": {
        "hidden": 100,
        "layers": 2,
        "init_range": 0.1,
        "feedback": "output",
        "encode_steps": 4,
        "shared": True,
    },
    "learning_rate": 1e-4,
    "baseline_decay": 0.95,
    "entropy_weight": 0.0,
    "batch": 1,
    "buffer": 100,
    "minibatch": 1,
    "epochs": 1,
    "clip": 0.1,
    "clip_norm": 2.0,
}


@configuration
class PPOConfig(PolicyGradientConfig):
    """clip: how far a ratio may be from 1. buffer: how many of the last results are learnt from; minibatch: in one step.

    The defaults are for a hundred trials; the papers' NASNET and FAST_NAS, for ten thousands.
    """

    entropy_weight: NonNegativeFloat = 0.005
    batch: PositiveInt = 5
    clip: Annotated[float, Field(gt=0, lt=1)] = 0.2
    epochs: PositiveInt = 4
    buffer: PositiveInt = 20
    minibatch: PositiveInt = 20

    def __post_init__(self) -> None:
        if self.batch > self.buffer:
            raise ValueError(f"buffer must hold at least the batch={self.batch} results of an update")


@strategies.register("ppo")
class PPO(PolicyGradient):
    """Proximal policy optimization over a ring of results."""

    options = PPOConfig

    def __init__(self, space: Space, seed: int, options: Mapping[str, Any] | None = None, objectives: int = 1) -> None:
        super().__init__(space, seed, options, objectives)
        self.buffer: deque[Experience] = deque(maxlen=self.config.buffer)
        self.results = 0  # how many were learnt from

    def learn(self, experience: Experience) -> None:
        """Update after every `batch` results."""
        self.buffer.append(experience)
        self.results += 1
        if self.results % self.config.batch == 0:
            generator = numpy_generator(self.seed, "minibatches", self.results)
            for _ in range(self.config.epochs):
                order = [self.buffer[place] for place in generator.permutation(len(self.buffer))]
                for first in range(0, len(order), self.config.minibatch):
                    self._improve(order[first : first + self.config.minibatch])

    def state_dict(self) -> dict[str, Any]:
        """With the ring of results."""
        return super().state_dict() | {"buffer": [plain(one) for one in self.buffer], "results": self.results}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        super().load_state_dict(state)
        self.buffer = deque((self.restored(values) for values in state["buffer"]), maxlen=self.config.buffer)
        self.results = int(state["results"])

    def _improve(self, minibatch: list[Experience]) -> None:
        log_probabilities, entropies = self.controller.score(join([one.trace for one in minibatch]))
        drawn = log_probabilities.new_tensor([one.log_probability for one in minibatch])
        ratios = torch.exp(log_probabilities - drawn)
        advantages = self.advantages(minibatch)
        self.step(clipped_loss(ratios, advantages, entropies, self.config.clip, self.config.entropy_weight))


def clipped_loss(ratios: Tensor, advantages: Tensor, entropies: Tensor, clip: float, entropy_weight: float) -> Tensor:
    """The loss of (B,) drawn architectures, a scalar (equation 7, with an entropy bonus)."""
    clipped = ratios.clamp(1 - clip, 1 + clip)
    return -(torch.minimum(ratios * advantages, clipped * advantages) + entropy_weight * entropies).mean()
