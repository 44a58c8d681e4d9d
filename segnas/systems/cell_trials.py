"""What NASNet, AmoebaNet and PNAS share: trials of cells in a smaller network than the one that is retrained, and presets.

The cells are searched in a proxy (fewer filters, fewer cells: NASNet, section 4) and transferred to the network of `network`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import PositiveInt

from segnas.config import configuration, replace
from segnas.estimators.base import TrialEstimator
from segnas.estimators.short_training import ShortTrainingConfig
from segnas.spaces.choice import Space
from segnas.spaces.nasnet import NasNet, NasNetOptions
from segnas.systems import trial_search
from segnas.systems.base import Job, System
from segnas.systems.settings import RunConfig, of_every_run, run_preset
from segnas.systems.trials import ShortTrialRunConfig, ShortTrialsConfig, short_training


@configuration
class CellSearchConfig(ShortTrialsConfig):
    """filters, stack_cells: of the smaller network in which the cells are tried."""

    filters: PositiveInt = 24
    stack_cells: PositiveInt = 2


@configuration
class CellConfig(ShortTrialRunConfig):
    """search: the trials; network: form and size of the network that is retrained; the rest as for every run."""

    search: CellSearchConfig = CellSearchConfig()
    network: NasNetOptions = NasNetOptions()


def proxy(architecture: NasNet, search: CellSearchConfig) -> NasNet:
    """The network in which a trial's cells are trained: all other widths in proportion to the filters."""
    network = architecture.network
    stem = max(4, round(network.stem_filters * search.filters / network.filters))
    smaller = dataclasses.replace(network, filters=search.filters, stack_cells=search.stack_cells, stem_filters=stem)
    return dataclasses.replace(architecture, network=smaller)


def estimator(job: Job) -> TrialEstimator:
    """Short training of the proxy."""
    return short_training(job, lambda architecture: proxy(architecture, job.config.search))


def quick(strategy: str, options: dict[str, Any]) -> CellConfig:
    """Segmentation of images of about 100 pixels: minutes on two cores."""
    base = run_preset("quick")
    network = NasNetOptions(
        form="segmentation", filters=8, stack_cells=1, stem_filters=24, aspp_width=48, low_level_width=16, decoder_width=48
    )
    return _config(base, network, strategy, options, trials=12, filters=6, stack_cells=1, epochs=2, trained=192, scored=48)


def small(strategy: str, options: dict[str, Any]) -> CellConfig:
    """Segmentation of sets of the size of CamVid (hundreds of images), on one GPU or a patient CPU."""
    network = NasNetOptions(
        form="segmentation", filters=16, stack_cells=2, stem_filters=48, aspp_width=128, low_level_width=32, decoder_width=128
    )
    made = _config(run_preset("small"), network, strategy, options, trials=200, filters=8, stack_cells=1, epochs=20)
    return replace(made, search=replace(made.search, rerank=5, rerank_epochs=50))


def quick_classification(strategy: str, options: dict[str, Any]) -> CellConfig:
    """CIFAR-10 in minutes on two cores: narrow networks, a part of the images."""
    network = NasNetOptions(form="cifar", filters=6, stack_cells=1, stem_filters=18)
    base = run_preset("quick", "classification")
    images = {"trained": 1920, "scored": 500}  # in small batches, for enough steps
    return _config(base, network, strategy, options, trials=12, filters=4, stack_cells=1, epochs=2, **images, batch_size=32)


def small_classification(strategy: str, options: dict[str, Any]) -> CellConfig:
    """CIFAR-10 on one GPU in a day."""
    network = NasNetOptions(form="cifar", filters=24, stack_cells=4, stem_filters=72)
    base = run_preset("small", "classification")
    made = _config(base, network, strategy, options, trials=200, filters=12, stack_cells=2, epochs=5)
    return replace(made, search=replace(made.search, rerank=5, rerank_epochs=20))


def paper_classification(strategy: str, options: dict[str, Any], trials: int, search: dict[str, Any]) -> CellConfig:
    """A paper's search on CIFAR-10; hundreds of GPU days. search: filters, stack_cells, epochs and what else it says."""
    base = run_preset("paper", "classification")
    return _config(base, NasNetOptions(), strategy, options, trials=trials, **search)


def _config(
    base: RunConfig,
    network: NasNetOptions,
    strategy: str,
    options: dict[str, Any],
    trials: int,
    filters: int,
    stack_cells: int,
    epochs: int,
    trained: int | None = None,
    scored: int | None = None,
    **recipe: Any,
) -> CellConfig:
    training = ShortTrainingConfig(
        recipe=replace(base.retrain, epochs=epochs, validate_every=0, auxiliary_weight=0.0, drop_path=1.0, **recipe),
        trained_images=trained,
        scored_images=scored,
    )
    search = CellSearchConfig(
        trials=trials,
        strategy=strategy,
        options={strategy: options},
        filters=filters,
        stack_cells=stack_cells,
        training=training,
    )
    return CellConfig(**of_every_run(base), search=search, network=network)


def cell_system(
    name: str,
    paper: str,
    state: str,
    make_space: Callable[[NasNetOptions], Space],
    strategy: str,
    few: dict[str, Any],
    hundreds: dict[str, Any],
    published: tuple[int, dict[str, Any], dict[str, Any]],
) -> System:
    """A system whose trials are cells.

    few, hundreds: options of the strategy for so many trials. published: trials, options and search (see `paper_classification`)
    of the paper.
    """
    trials, options, search = published
    classification = {
        "quick": partial(quick_classification, strategy, few),
        "small": partial(small_classification, strategy, hundreds),
        "paper": partial(paper_classification, strategy, options, trials, search),
    }
    return trial_search.trial_system(
        name,
        paper,
        state,
        CellConfig,
        {"quick": partial(quick, strategy, few), "small": partial(small, strategy, hundreds)},
        {"classification": classification},
        lambda config: make_space(config.network),
        estimator,
    )
