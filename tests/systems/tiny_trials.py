"""A system whose trials take no training: scores are computed from the architecture. A file, as users have them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from segnas.config import configuration
from segnas.data.transforms import DataConfig
from segnas.errors import Diverged
from segnas.estimators.base import Estimate
from segnas.estimators.rehearsal import measurement
from segnas.randomness import numpy_generator
from segnas.spaces.architecture import Architecture
from segnas.spaces.choice import encode, sample
from segnas.spaces.darts import DartsOptions, DartsSpace
from segnas.systems import trial_search
from segnas.systems.base import Job, System
from segnas.systems.trials import TrialRunConfig, TrialsConfig
from segnas.training.device import DeviceConfig
from segnas.training.preflight import Measurement
from segnas.training.retrain import RetrainConfig

NETWORK = DartsOptions("segmentation", 4, 3, aspp_width=4, aspp_rates=(1,), low_level_width=2, decoder_width=4)
SPACE = DartsSpace(1, ("skip_connect", "max_pool_3x3", "avg_pool_3x3"), NETWORK)


@configuration
class TinySearch(TrialsConfig):
    """seconds: that a trial takes. failing, nans, hungry: shares of trials that raise, whose score is no number, that need more
    memory than there is. stopping: share of trials that are given up early. deadly: a file; its trial kills its worker, as often
    as the file says. log: a file to which every trial adds a line when it begins."""

    seconds: float = 0.0
    failing: float = 0.0
    nans: float = 0.0
    hungry: float = 0.0
    stopping: float = 0.0
    deadly: str = ""
    log: str = ""


@configuration
class TinyConfig(TrialRunConfig):
    """As every system has."""

    search: TinySearch = TinySearch()


class Computed:
    """Scores by the indices of the choices."""

    metrics = ("mIoU", "other")

    def __init__(self, search: TinySearch) -> None:
        self.search = search

    def costs(self, architecture: Architecture) -> Mapping[str, float]:
        return {"parameters": 1000.0 + sum(encode(SPACE, architecture).values()), "multiply_adds": 5.0}

    def hint(self, estimates: Sequence[Estimate]) -> Mapping[str, Any]:
        return {"seen": len(estimates)}

    def estimate(self, architecture: Architecture, seed: int, hint: Mapping[str, Any]) -> Estimate:
        search = self.search
        if search.log:
            with open(search.log, "a", encoding="utf-8") as file:
                file.write(f"{seed}\n")
        time.sleep(search.seconds)
        left = Path(search.deadly) if search.deadly else None
        if left is not None and int(left.read_text()) > 0:
            left.write_text(str(int(left.read_text()) - 1))
            os.kill(os.getpid(), signal.SIGKILL)
        draw = numpy_generator(seed, "fate").random()
        if draw < search.failing:
            raise Diverged("the loss is no number at step 3")
        if draw < search.failing + search.hungry:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
        indices = encode(SPACE, architecture)
        score = float(sum(value * (place + 1) for place, value in enumerate(indices.values())))
        if draw > 1 - search.nans:
            score = float("nan")
        return Estimate({"mIoU": score, "other": -score}, stopped=draw > 1 - search.stopping)

    def prepare(self, architecture: Architecture) -> None:
        if self.search.log:
            with open(f"{self.search.log}.prepared", "a", encoding="utf-8") as file:
                file.write("once\n")

    def preflight(self, architecture: Architecture, trials: int, workers: int) -> Measurement:
        return measurement(trials, workers, 0.01, 0.0, 1000)


def space(config: TinyConfig) -> DartsSpace:
    return SPACE


def estimator(job: Job) -> Computed:
    return Computed(job.config.search)


def quick() -> TinyConfig:
    return TinyConfig(
        data=DataConfig(crop=(33, 33)),
        device=DeviceConfig(accelerator="cpu", threads=1),
        retrain=RetrainConfig(epochs=1, batch_size=2, validate_every=0),
        search=TinySearch(trials=12),
    )


SYSTEM = System(
    name="tiny-trials",
    paper="none",
    state="a test",
    config=TinyConfig,
    presets={"quick": quick},
    search=lambda job: trial_search.search(job, SYSTEM),
    preflight=lambda job: trial_search.preflight(job, SYSTEM),
    typical=lambda config: sample(SPACE, numpy_generator(config.seed, "typical")),
    sized=trial_search.sized,
    space=space,
    estimator=estimator,
)
