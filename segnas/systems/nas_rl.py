"""NAS with reinforcement learning (Zoph and Le, ICLR 2017, arXiv 1611.01578): a controller writes networks layer by layer.

The idea: a recurrent network proposes, for each layer of a convolutional network, the size and number of its filters and which
earlier layers it reads; the proposed network is trained, and its accuracy is the reward by which the controller is trained.

    J(theta) = E_p(architecture; theta) [R],    theta <- theta + grad log p (R - b),    b: moving average of R     (section 3.2)
    R = accuracy^3                                                                                                (section 4.1)

| paper                                                     | here                                                              |
|-----------------------------------------------------------|-------------------------------------------------------------------|
| 15 layers of filters {1,3,5,7}^2 and {24,36,48,64}, skips | the same (spaces/nas_rl.py); `network.layers`, `network.strides`  |
| depth grows from 6 by 2 every 1,600 samples               | preset `paper`, up to `network.layers`                            |
| anchor points: attention over earlier layers for a skip   | the same; what the controller reads after them is ENAS's          |
| two LSTM layers of 35 units, Adam 6e-4, reward cubed      | preset `paper`; the others learn faster                           |
| 12,800 networks, 800 GPUs, 50 epochs each                 | preset `paper`, `--workers`, `--ray`                              |
| best networks grid-searched over learning rate and decay  | retrained once with the run's recipe                              |
| recurrent cells for language                              | not here                                                          |

Its networks classify: on a set with a class a pixel it says so. Read on: trial_search.py (the loop), strategies/reinforce.py.
"""

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt

from segnas.config import configuration, replace
from segnas.estimators.short_training import ShortTrainingConfig
from segnas.spaces.nas_rl import FILTERS, SIDES, NasRlSpace
from segnas.strategies.reinforce import NAS_RL
from segnas.systems import trial_search
from segnas.systems.base import systems
from segnas.systems.settings import of_every_run, run_preset
from segnas.systems.trials import ShortTrialRunConfig, ShortTrialsConfig, short_training

ATTENTION = {"controller": {"attention": True}}  # anchor points


@configuration
class NasRlOptions:
    """The size of the networks: layers; strides: whether they are searched; filters: the numbers to choose from."""

    layers: PositiveInt = 15
    strides: bool = False
    sides: tuple[PositiveInt, ...] = SIDES
    filters: tuple[PositiveInt, ...] = FILTERS


@configuration
class NasRlConfig(ShortTrialRunConfig):
    """search: the trials; network: what is searched; the rest as for every run."""

    network: NasRlOptions = NasRlOptions()


def space(config: NasRlConfig) -> NasRlSpace:
    """What is searched."""
    options = config.network
    return NasRlSpace(options.layers, options.strides, options.sides, options.filters)


def _config(
    name: str, network: NasRlOptions, trials: int, options: dict[str, Any], training: dict[str, Any], **recipe: Any
) -> NasRlConfig:
    base = run_preset(name, "classification")
    short = replace(base.retrain, validate_every=0, drop_path=1.0, auxiliary_weight=0.0, **recipe)
    base = replace(
        base, retrain=replace(base.retrain, drop_path=1.0, auxiliary_weight=0.0)
    )  # it has neither paths nor such a head
    search = ShortTrialsConfig(
        trials=trials,
        strategy="reinforce",
        options={"reinforce": options},
        training=ShortTrainingConfig(recipe=short, **training),
    )
    return NasRlConfig(**of_every_run(base), search=search, network=network)


def quick() -> NasRlConfig:
    """CIFAR-10 in minutes on two cores: six narrow layers, a part of the images."""
    network = NasRlOptions(layers=6, sides=(1, 3, 5), filters=(6, 9, 12, 16))  # strides of 3 would soon leave one pixel
    return _config("quick", network, 12, ATTENTION, {"trained_images": 1920, "scored_images": 500}, epochs=4, batch_size=32)


def small() -> NasRlConfig:
    """CIFAR-10 on one GPU in a day."""
    return _config("small", NasRlOptions(layers=8, strides=True), 200, ATTENTION, {}, epochs=5)


def paper() -> NasRlConfig:
    """The paper's search without strides: 12,800 networks, 50 epochs each with Nesterov at 0.1 (section 4.1)."""
    recipe = {"epochs": 50, "learning_rate": 0.1, "nesterov": True, "weight_decay": 1e-4}
    return _config("paper", NasRlOptions(), 12_800, NAS_RL, {"held_out": 0.1}, **recipe)


SYSTEM = trial_search.trial_system(
    name="nas-rl",
    paper="Neural Architecture Search with Reinforcement Learning (ICLR 2017)",
    state="exact networks and counts; the search as far as the paper says how",
    config=NasRlConfig,
    presets={},
    task_presets={"classification": {"quick": quick, "small": small, "paper": paper}},
    space=space,
    estimator=short_training,
)
systems.register(SYSTEM.name)(SYSTEM)
