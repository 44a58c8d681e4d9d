"""The configuration that every run has, whichever system found its architecture, and its presets.

`segnas retrain ARCHITECTURE` uses one of these presets as it is, that of the data's task; a system's preset adds its search.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt

from segnas.config import configuration
from segnas.costs.budget import BudgetConfig
from segnas.data.transforms import DataConfig
from segnas.errors import Registry
from segnas.training.device import DeviceConfig
from segnas.training.evaluate import EvaluationConfig
from segnas.training.retrain import RetrainConfig


@configuration
class ExportConfig:
    """size: (height, width) of the exported network's input; None: the size at which it sees the evaluated images."""

    size: tuple[PositiveInt, PositiveInt] | None = None


@configuration
class ComparisonConfig:
    """What `segnas run` trains beside the network that was found, to compare it with.

    baseline: a network made by hand ("auto": a U-Net, or a ResNet where an image has one class; "none": no other network at all,
    and of seeds the searched network's alone).
    random: a random architecture of the same space, too. random_search: of a system that searches by trials, as many trials with
    the same estimator, but drawn at random, and the best of them. seeds: how many trainings of each.
    """

    baseline: Literal["auto", "unet", "deeplab-v3-plus", "resnet", "none"] = "auto"
    random: bool = True
    random_search: bool = False
    seeds: PositiveInt = 1


@configuration
class RunConfig:
    """What every run has; systems add their own parts in subclasses.

    time_limit: seconds that the lengths of search and retraining were chosen for; None: the preset's lengths.
    """

    seed: int = 0
    data: DataConfig
    device: DeviceConfig = DeviceConfig()
    retrain: RetrainConfig = RetrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    export: ExportConfig = ExportConfig()
    budget: BudgetConfig = BudgetConfig()
    comparison: ComparisonConfig = ComparisonConfig()
    time_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @property
    def training_seed(self) -> int:
        """The seed of retraining."""
        return self.seed if self.retrain.seed is None else self.retrain.seed

    def __post_init__(self) -> None:
        if self.retrain.batch_size == 1 and max(self.data.crop) <= 32:
            raise ValueError("data.crop: one image of at most 32 pixels is one pixel at stride 32, too few for batch norm")


def plain(config: RunConfig) -> RunConfig:
    """The settings of training alone, as `segnas retrain` of a known architecture has them: no budget, nothing beside."""
    values = {name: getattr(config, name) for name in ("seed", "data", "device", "retrain", "evaluation", "export")}
    return RunConfig(**values, comparison=ComparisonConfig(baseline="none"))


def of_every_run(config: RunConfig) -> dict[str, Any]:
    """The settings that every run has, of a configuration that may have more, by name: for another one to begin with."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(RunConfig)}


run_presets: Registry[Callable[[], RunConfig]] = Registry("preset")  # for segmentation
classification_presets: Registry[Callable[[], RunConfig]] = Registry("preset")
DEFAULT_PRESET = "small"
PRESETS = {"segmentation": run_presets, "classification": classification_presets}


def run_preset(name: str, task: str = "segmentation") -> RunConfig:
    """The configuration of a preset for a task; UserError names the nearest."""
    return PRESETS[task][name]()


@run_presets.register("quick")
def quick() -> RunConfig:
    """The demo: images of about 100 pixels, minutes on two cores. One thread: calls this small gain nothing from a second."""
    return RunConfig(
        data=DataConfig(crop=(96, 128), scale=(0.75, 1.5), brightness=0.1, contrast=0.1, saturation=0.1),
        device=DeviceConfig(channels_last=True, threads=1),
        retrain=RetrainConfig(epochs=12, batch_size=8, optimizer="adamw", learning_rate=0.004, warmup_steps=50, clip_norm=5.0),
    )


@run_presets.register("small")
def small() -> RunConfig:
    """Sets of the size of CamVid (hundreds of images), on one GPU or a patient CPU."""
    return RunConfig(
        data=DataConfig(crop=(321, 321), brightness=0.2, contrast=0.2, saturation=0.2),
        retrain=RetrainConfig(epochs=200, batch_size=8, optimizer="adamw", learning_rate=0.003, warmup_steps=100, clip_norm=5.0),
    )


@run_presets.register("paper")
def paper() -> RunConfig:
    """Auto-DeepLab on Cityscapes (section 5.2): 1.5 million steps of crop 769 from scratch, poly 0.9 from 0.05.

    The batch, the weight decay and the keep probability are DeepLab's usual values, not the paper's.
    """
    return RunConfig(
        data=DataConfig(crop=(769, 769), workers=4),
        retrain=RetrainConfig(
            steps=1_500_000,
            batch_size=8,
            learning_rate=0.05,
            weight_decay=4e-5,
            drop_path=0.8,
            batch_norm_momentum=3e-4,
        ),
    )


# Classification of images of 32x32 pixels, after DARTS on CIFAR-10 (Liu et al., 2019, section 3.2 and appendix A.2).


@classification_presets.register("quick")
def quick_classification() -> RunConfig:
    """A first look: two epochs, without what only long trainings need."""
    return RunConfig(
        data=_small_images(cutout=0),
        device=DeviceConfig(channels_last=True),
        retrain=RetrainConfig(**DARTS_RECIPE, epochs=2, validate_every=1),
    )


@classification_presets.register("small")
def small_classification() -> RunConfig:
    """Tens of epochs, for networks with or without an auxiliary head."""
    return RunConfig(data=_small_images(), retrain=RetrainConfig(**DARTS_RECIPE, epochs=50, validate_every=5))


@classification_presets.register("paper")
def paper_classification() -> RunConfig:
    """DARTS on CIFAR-10: 600 epochs, with cutout, an auxiliary head of weight 0.4 and drop path of probability up to 0.2."""
    return RunConfig(
        data=_small_images(workers=4),
        retrain=RetrainConfig(**DARTS_RECIPE, epochs=600, auxiliary_weight=0.4, drop_path=0.8),
    )


DARTS_RECIPE: dict[str, Any] = {
    "batch_size": 96,
    "learning_rate": 0.025,
    "schedule": "cosine",
    "weight_decay": 3e-4,
    "clip_norm": 5.0,
}


def _small_images(cutout: int = 16, workers: int = 0) -> DataConfig:
    return DataConfig(crop=(32, 32), scale=(1.0, 1.0), padding=4, cutout=cutout, workers=workers)
