"""Fast NAS: architecture search of compact segmentation models by auxiliary cells (Nekrasov et al., CVPR 2019, arXiv 1810.10804).

The idea: search a decoder for a light encoder, and judge a candidate in two stages: first the decoder alone, on features that are
computed once, with a teacher's logits and auxiliary cells to make it learn fast; most candidates end there. Those that promise
more are trained end to end, and their score is the reward of a controller.

    reward = (mIoU * mean accuracy * frequency-weighted IoU)^(1/3)                                        (section 3.3)
    theta <- PPO on reward - moving average of it, over the last 100 candidates                           (strategies/ppo.py)

| paper and public code                                    | here                                                              |
|----------------------------------------------------------|-------------------------------------------------------------------|
| encoder: MobileNet-v2 trained on VOC for segmentation    | `encoder_weights=FILE`, else trained on the set before the search |
| teacher: Light-Weight RefineNet-152                      | `search.estimate.teacher=RUN`, any trained network of the classes |
| controller: independent choices in effect                | the same (`feedback: output`); autoregressive by `feedback=choice`|
| heads for positions 1, 4, 7 in the last public code      | 2, 5, 8 as in the paper, which its published networks need        |
| early stopping counts some candidates twice              | once                                                              |
| an error is a reward of 0                                | a failed trial                                                    |
| search at 48 channels and 1 repeat, training at 64 and 2 | `search.agg_size`, `search.repeats`; `network.*`                  |

Read on: estimators/two_stage.py, trial_search.py (the loop), nets/fast_nas.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from pydantic import PositiveInt

from segnas.config import configuration, replace
from segnas.estimators.encoder_training import EncoderConfig
from segnas.estimators.two_stage import TwoStageConfig, TwoStageEstimator
from segnas.spaces.fast_nas import FastNas, FastNasOptions, FastNasSpace
from segnas.strategies.ppo import FAST_NAS
from segnas.systems import trial_search
from segnas.systems.base import Job, systems
from segnas.systems.settings import of_every_run, run_preset
from segnas.systems.trials import TrialRunConfig, TrialsConfig


@configuration
class SearchConfig(TrialsConfig):
    """agg_size, repeats: of a candidate's decoder in the search. encoder: how the encoder is trained where no weights are given.
    estimate: how a candidate is judged."""

    agg_size: PositiveInt = 48
    repeats: PositiveInt = 1
    encoder: EncoderConfig = EncoderConfig()
    estimate: TwoStageConfig = TwoStageConfig()


@configuration
class FastNasConfig(TrialRunConfig):
    """search: the trials; network: the widths of what is retrained; the rest as for every run."""

    search: SearchConfig = SearchConfig()
    network: FastNasOptions = FastNasOptions()


def space(config: FastNasConfig) -> FastNasSpace:
    """What is searched."""
    return FastNasSpace(network=config.network)


def candidate(architecture: FastNas, search: SearchConfig) -> FastNas:
    """The narrower decoder, with auxiliary cells, that a trial trains."""
    network = dataclasses.replace(architecture.network, agg_size=search.agg_size, repeats=search.repeats, auxiliary_cell=True)
    return dataclasses.replace(architecture, network=network)


def estimator(job: Job) -> TwoStageEstimator:
    """Two stages on the run's images."""
    config = job.config
    return TwoStageEstimator(
        job.dataset,
        config.data,
        job.normalization,
        job.device,
        config.search.estimate,
        job.run.path,
        config.seed,
        config.retrain.encoder_weights or config.search.encoder,
        lambda architecture: candidate(architecture, config.search),
        config.evaluation.split,
    )


def quick() -> FastNasConfig:
    """Images of about 100 pixels: minutes on two cores."""
    base = run_preset("quick")
    network = FastNasOptions(agg_size=24, repeats=1, encoder_width=8)
    estimate = TwoStageConfig(
        validation_share=0.15,
        validation_crop=(96, 128),
        cached_samples=192,
        stage0_crop=(96, 128),
        stage0_epochs=3,
        stage0_batch_size=16,
        stage1_crop=(96, 128),
        stage1_batch_size=8,
        learning_rate=0.01,
        encoder_learning_rate=0.01,
    )
    return _config(base, network, 12, {}, agg_size=16, encoder=EncoderConfig(epochs=4), estimate=estimate)


def small() -> FastNasConfig:
    """Sets of the size of CamVid (hundreds of images), on one GPU or a patient CPU."""
    network = FastNasOptions(agg_size=48, repeats=1, encoder_width=16)
    estimate = TwoStageConfig(
        validation_crop=(320, 448), cached_samples=1000, stage0_batch_size=16, stage1_crop=(320, 320), stage1_batch_size=8
    )
    made = _config(run_preset("small"), network, 200, {}, agg_size=32, estimate=estimate)
    return replace(made, search=replace(made.search, rerank=5, rerank_epochs=50))


def paper() -> FastNasConfig:
    """The public code's settings on VOC, with the networks of its tables; 20,000 candidates at most."""
    made = _config(run_preset("paper"), FastNasOptions(), 20_000, FAST_NAS, estimate=TwoStageConfig(omit_first_class=True))
    return replace(made, search=replace(made.search, rerank=10, rerank_epochs=100))


def _config(base: Any, network: FastNasOptions, trials: int, options: dict[str, Any], **search: Any) -> FastNasConfig:
    base = replace(base, retrain=replace(base.retrain, drop_path=1.0))  # its networks have no paths to drop
    chosen = options or {"controller": FAST_NAS["controller"]}
    return FastNasConfig(
        **of_every_run(base),
        search=SearchConfig(trials=trials, strategy="ppo", options={"ppo": chosen}, **search),
        network=network,
    )


SYSTEM = trial_search.trial_system(
    name="fast-nas",
    paper="Fast Neural Architecture Search of Compact Semantic Segmentation Models via Auxiliary Cells (CVPR 2019)",
    state="exact networks, counts, controller and rules of the public code; the encoder as the user has it",
    config=FastNasConfig,
    presets={"quick": quick, "small": small, "paper": paper},
    task_presets={},
    space=space,
    estimator=estimator,
)
systems.register(SYSTEM.name)(SYSTEM)
