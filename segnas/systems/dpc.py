"""DPC: searching for dense prediction cells (Chen et al., NeurIPS 2018, arXiv 1809.04184).

The idea: keep the encoder and search what reads it, a cell of branches that takes the place of ASPP. The encoder is small and
frozen in the search, so its features are computed once; a candidate is trained on them for a short while, and only the best are
trained in full.

    cell = 5 branches, branch b an operation on the features or on an earlier branch; all are concatenated; 5! 81^5 = 4.2e11 cells
    search: random cells, and cells near the best found                                            (strategies/near_best.py)

| paper                                                    | here                                                             |
|----------------------------------------------------------|------------------------------------------------------------------|
| encoder for the search: MobileNet-v2, from ImageNet, COCO| `encoder_weights=FILE`, else trained on the set before the search|
| 28,000 cells on 370 GPUs, a week                         | `search.trials`, `--workers`, `--ray`                            |
| random and near the best, how is not said                | `search.options.near-best`                                       |
| the best 50 are trained in full and ranked again         | `search.rerank` of the best, by the recipe of retraining         |
| Xception-71 for the final network, Cityscapes            | MobileNet-v2; the published cell is `dpc-cityscapes-top1`        |

Read on: estimators/cached_features.py, trial_search.py (the loop), nets/dpc.py.
"""

from __future__ import annotations

from typing import Any

from segnas.config import configuration, replace
from segnas.estimators.cached_features import CachedFeatureConfig, CachedFeatureEstimator
from segnas.estimators.encoder_training import EncoderConfig
from segnas.spaces.dpc import BRANCHES, DpcOptions, DpcSpace
from segnas.systems import trial_search
from segnas.systems.base import Job, systems
from segnas.systems.settings import of_every_run, run_preset
from segnas.systems.trials import TrialRunConfig, TrialsConfig


@configuration
class SearchConfig(TrialsConfig):
    """branches: of a cell. estimate: how a candidate is judged."""

    branches: int = BRANCHES
    estimate: CachedFeatureConfig = CachedFeatureConfig()


@configuration
class DpcConfig(TrialRunConfig):
    """search: the trials; network: encoder and widths; the rest as for every run."""

    search: SearchConfig = SearchConfig()
    network: DpcOptions = DpcOptions()


def space(config: DpcConfig) -> DpcSpace:
    """What is searched."""
    return DpcSpace(config.search.branches, config.network)


def estimator(job: Job) -> CachedFeatureEstimator:
    """Cells on cached features."""
    config = job.config
    return CachedFeatureEstimator(
        job.dataset,
        config.data,
        job.normalization,
        job.device,
        config.search.estimate,
        job.run.path,
        config.retrain.encoder_weights,
        network=config.network,
        seed=config.seed,
        split=config.evaluation.split,
    )


def quick() -> DpcConfig:
    """Images of about 100 pixels: minutes on two cores."""
    base = run_preset("quick")
    network = DpcOptions(encoder_width=0.25, cell_width=24, low_level_width=8, decoder_width=24, dropout=0.1)
    encoder = EncoderConfig(epochs=4, batch_size=8)
    estimate = CachedFeatureConfig(
        cached_samples=256, held_out=40, steps=60, batch_size=16, learning_rate=0.01, validate_every=30, encoder=encoder
    )
    return _config(base, network, trials=16, estimate=estimate)


def small() -> DpcConfig:
    """Sets of the size of CamVid (hundreds of images), on one GPU or a patient CPU."""
    network = DpcOptions(encoder_width=0.5, cell_width=64, low_level_width=24, decoder_width=64)
    made = _config(run_preset("small"), network, trials=200, estimate=CachedFeatureConfig())
    return replace(made, search=replace(made.search, rerank=5, rerank_epochs=50))


def paper() -> DpcConfig:
    """As far as the paper says: 28,000 cells, the best 50 ranked again (section 4)."""
    estimate = CachedFeatureConfig(cached_samples=4000, held_out=300, steps=30_000, patience=5)
    made = _config(run_preset("paper"), DpcOptions(), trials=28_000, estimate=estimate)
    return replace(made, search=replace(made.search, rerank=50, rerank_epochs=100))


def _config(base: Any, network: DpcOptions, trials: int, estimate: CachedFeatureConfig) -> DpcConfig:
    base = replace(base, retrain=replace(base.retrain, drop_path=1.0))  # its networks have no paths to drop
    search = SearchConfig(trials=trials, strategy="near-best", estimate=estimate)
    return DpcConfig(**of_every_run(base), search=search, network=network)


SYSTEM = trial_search.trial_system(
    name="dpc",
    paper="Searching for Efficient Multi-Scale Architectures for Dense Image Prediction (NeurIPS 2018)",
    state="exact space, cell and counts; the search as far as the paper says how",
    config=DpcConfig,
    presets={"quick": quick, "small": small, "paper": paper},
    task_presets={},
    space=space,
    estimator=estimator,
)
systems.register(SYSTEM.name)(SYSTEM)
