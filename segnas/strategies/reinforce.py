"""REINFORCE: what scored above the baseline becomes more probable (Williams, 1992; Zoph and Le, ICLR 2017).

    loss = mean of -(R - b) log p(architecture) - entropy_weight * entropy      over `batch` results

Each log-probability is that of the policy at the time of the update; results that come late are learnt from as if it had just
drawn them. The policy, the reward and the baseline: controller.py, policy_gradient.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from segnas.spaces.choice import Space
from segnas.strategies.base import strategies
from segnas.strategies.controller import join
from segnas.strategies.policy_gradient import Experience, PolicyGradient, plain

# Zoph and Le, ICLR 2017 (arXiv 1611.01578), sections 3.3 and 4.1: skips by attention, accuracy cubed, two layers of 35 units,
# depth growing every 1,600 samples. The paper names no decay.
NAS_RL: dict[str, Any] = {
    "controller": {"hidden": 35, "layers": 2, "init_range": 0.08, "attention": True},
    "learning_rate": 6e-4,
    "entropy_weight": 0.0,
    "batch": 20,
    "reward_exponent": 3.0,
    "grow_every": 1600,
}
# Pham et al., ICML 2018 (arXiv 1802.03268), cells: its code's settings, but it bounds the logits of operations tighter still.
ENAS: dict[str, Any] = {
    "controller": {"hidden": 64, "init_range": 0.1, "tanh_constant": 1.1, "attention": True, "shared": True},
    "learning_rate": 0.0035,
    "baseline_decay": 0.99,
    "entropy_weight": 1e-4,
    "batch": 10,
}


@strategies.register("reinforce")
class Reinforce(PolicyGradient):
    """REINFORCE with a moving average as the baseline."""

    def __init__(self, space: Space, seed: int, options: Mapping[str, Any] | None = None, objectives: int = 1) -> None:
        super().__init__(space, seed, options, objectives)
        self.gathered: list[Experience] = []

    def learn(self, experience: Experience) -> None:
        """Update once there are `batch` results."""
        self.gathered.append(experience)
        if len(self.gathered) == self.config.batch:
            log_probabilities, entropies = self.controller.score(join([one.trace for one in self.gathered]))
            advantages = self.advantages(self.gathered)
            self.step(reinforce_loss(log_probabilities, advantages, entropies, self.config.entropy_weight))
            self.gathered = []

    def state_dict(self) -> dict[str, Any]:
        """With the results since the last update."""
        return super().state_dict() | {"gathered": [plain(experience) for experience in self.gathered]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state_dict` returned."""
        super().load_state_dict(state)
        self.gathered = [self.restored(values) for values in state["gathered"]]


def reinforce_loss(log_probabilities: Tensor, advantages: Tensor, entropies: Tensor, entropy_weight: float) -> Tensor:
    """The loss of (B,) drawn architectures, a scalar."""
    return -(advantages * log_probabilities + entropy_weight * entropies).mean()
