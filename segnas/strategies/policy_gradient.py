"""What searches with a controller share: proposals, rewards, the baseline, a step of Adam, and what must be saved.

    R = sign(s) |reward_scale s|^reward_exponent of the score s          the paper of NAS-RL cubes an accuracy in [0, 1]
    b = decay b + (1 - decay) R, the first R at first                    moved by every result, before it is learnt from
    advantage = R - b

Zoph and Le, ICLR 2017, section 3.2. A subclass says when and what to learn: reinforce.py, ppo.py. A proposal whose result has no
score changes nothing. Results may come in any order: what was drawn, and how probable it was then, waits by its number.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn

from segnas.config import configuration
from segnas.randomness import numpy_generator
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import Space, replay, stages_of
from segnas.strategies.base import Result, Strategy
from segnas.strategies.controller import Controller, ControllerConfig, Trace


@configuration
class PolicyGradientConfig:
    """Settings of every search with a controller.

    learning_rate: of Adam. baseline_decay: how much of the baseline stays at each result. entropy_weight: of the entropy bonus.
    batch: results between two updates. clip_norm: of the gradient; 0: not clipped. reward_scale: 0.01 makes percent a share.
    grow_every: proposals after which the next stage of a space that has stages is drawn from, the first one in the beginning;
    0: all of the space at once. The defaults are for a hundred trials, in which a controller learns only by large steps.
    """

    controller: ControllerConfig = ControllerConfig()
    learning_rate: PositiveFloat = 0.005
    baseline_decay: Annotated[float, Field(ge=0, lt=1)] = 0.9
    entropy_weight: NonNegativeFloat = 0.02
    batch: PositiveInt = 1
    clip_norm: NonNegativeFloat = 0.0
    reward_scale: PositiveFloat = 0.01
    reward_exponent: PositiveFloat = 1.0
    grow_every: NonNegativeInt = 0


@dataclass(frozen=True)
class Experience:
    """A proposal: its choices as indices by name and as the controller's, its log-probability when it was drawn, its reward.

    stage: of the space, that it was drawn from.
    """

    stage: int
    indices: Mapping[str, int]
    trace: Trace
    log_probability: float
    reward: float = math.nan  # while there is no result


class PolicyGradient(Strategy):
    """A search that proposes what its controller draws."""

    options: ClassVar[type] = PolicyGradientConfig

    def __init__(self, space: Space, seed: int, options: Mapping[str, Any] | None = None, objectives: int = 1) -> None:
        super().__init__(space, seed, options, objectives)
        self.stages = stages_of(space)
        self.controller = Controller(space, self.config.controller, numpy_generator(seed, "controller"))
        self.optimizer = torch.optim.Adam(self.controller.parameters(), lr=self.config.learning_rate, fused=True)
        self.baseline: float | None = None
        self.pending: dict[int, Experience] = {}

    def propose(self, generator: np.random.Generator) -> Architecture:
        """Draw from the policy as it is now."""
        every = self.config.grow_every
        stage = min(len(self.stages), 1 + self.asked // every) if every else len(self.stages)
        draw = self.controller.draw(generator, self.stages[stage - 1])
        indices = {choice.name: choice.index for choice in draw.choices}
        self.pending[self.asked] = Experience(stage, indices, self.controller.trace(draw.choices), draw.log_probability)
        return draw.architecture

    def tell(self, result: Result) -> None:
        """Learn from a score; raises ValueError for a proposal that waits for no result."""
        if result.number not in self.pending:
            raise ValueError(f"proposal {result.number} was never made, or its result was told before")
        proposal = self.pending.pop(result.number)
        if result.score is None:
            return
        reward = self.reward(result.score)
        decay = self.config.baseline_decay
        self.baseline = reward if self.baseline is None else decay * self.baseline + (1 - decay) * reward
        self.learn(dataclasses.replace(proposal, reward=reward))

    def reward(self, score: float) -> float:
        """The reward of a score; powers keep its sign."""
        return math.copysign(abs(self.config.reward_scale * score) ** self.config.reward_exponent, score)

    @abstractmethod
    def learn(self, experience: Experience) -> None:
        """Take note of a proposal with its reward, which the baseline has seen; update the controller when it is time."""

    def advantages(self, experiences: Sequence[Experience]) -> Tensor:
        """(B,) rewards less the baseline as it is now."""
        assert self.baseline is not None
        return self.controller.start.new_tensor([experience.reward - self.baseline for experience in experiences])

    def step(self, loss: Tensor) -> None:
        """One step of Adam."""
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.clip_norm:
            nn.utils.clip_grad_norm_(self.controller.parameters(), self.config.clip_norm)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Weights, Adam's moments, the baseline, and the proposals without result."""
        return super().state_dict() | {
            "controller": {name: value.clone() for name, value in self.controller.state_dict().items()},
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "baseline": self.baseline,
            "pending": {number: plain(experience) for number, experience in self.pending.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        super().load_state_dict(state)
        self.controller.load_state_dict(state["controller"])
        self.optimizer.load_state_dict(copy.deepcopy(state["optimizer"]))
        self.baseline = state["baseline"]
        self.pending = {int(number): self.restored(values) for number, values in state["pending"].items()}

    def restored(self, values: Mapping[str, Any]) -> Experience:
        """The inverse of `plain`."""
        stage, indices = int(values.get("stage", len(self.stages))), dict(values["indices"])
        choices = replay(self.stages[stage - 1], lambda name, options: int(indices[name]))[1]
        return Experience(stage, indices, self.controller.trace(choices), values["log_probability"], values["reward"])


def plain(experience: Experience) -> dict[str, Any]:
    """An experience as plain values."""
    return {
        "stage": experience.stage,
        "indices": dict(experience.indices),
        "log_probability": experience.log_probability,
        "reward": experience.reward,
    }
