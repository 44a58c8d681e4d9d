"""DARTS: differentiable architecture search (Liu, Simonyan, Yang, ICLR 2019, arXiv 1806.09055), with PC-DARTS as an option.

The idea: put every candidate operation on every edge of a cell, weighted by a softmax over alpha, and train the weights w of this
supernet on one half of the training set and alpha on the other, by gradients, in turn. At the end keep, for each block, the two
strongest edges with their strongest operations. One normal and one reduction cell are searched; a network stacks copies.

    H_i   = sum_{j<i} sum_O softmax(alpha_{j->i})_O * O(H_j)                                                          (eq. 2)
    alpha <- Adam(grad_alpha L_trainB(w - xi grad_w L_trainA(w, alpha), alpha))     second order; first order: xi = 0  (eq. 5-8)
    w     <- SGD(grad_w L_trainA(w, alpha))                                         after the step of alpha            (alg. 1)

PC-DARTS (Xu et al., ICLR 2020, arXiv 1907.05737): `partial_channels=4 edge_weights=true` mixes a quarter of the channels, and
weighs each edge by beta, a softmax over the edges into its block; decoding multiplies the two.

| paper                                               | here                                                                |
|-----------------------------------------------------|---------------------------------------------------------------------|
| first half of the training images for w, rest: alpha| two halves drawn with the seed                                      |
| a new random batch of trainB at each step           | the same distribution, each image of trainB once an epoch           |
| all 50,000 images of CIFAR-10 are searched on       | the training split, from which a validation split may be set apart  |
| an incomplete last batch is used                    | dropped                                                             |
| classification of small images                      | the same, and a segmentation form of network (nets/darts.py)        |
| drop path grows epoch by epoch                      | step by step, to the same probability                               |
| four searches; the best after a short training      | one search a run; another `seed` is another search                  |
| ImageNet: resized crops, colour jitter, 0.97^epoch  | the views of data.* (scale, crop, flip, colours), no preset         |
| recurrent cells for language                        | not here                                                            |

Early stop by curvature (Zela et al., ICLR 2020): `stop_by_curvature=true`; off by default.

Read on: nets/darts_supernet.py, nets/operations.py (the mixture), strategies/second_order.py, strategies/bilevel.py; the loop of
epochs and the records are those of every such search: supernet_search.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn
from torch.func import functional_call

from segnas.config import configuration
from segnas.data.loading import Batch
from segnas.nets.darts_supernet import DartsSupernet, Mixture, one_hot
from segnas.nets.engines import plain_engine
from segnas.nets.statistics import batch_statistics
from segnas.randomness import forked, numpy_generator
from segnas.runs.progress import console
from segnas.spaces.cells import edges, states_of
from segnas.spaces.choice import sample
from segnas.spaces.darts import BLOCKS, OPERATIONS, Darts, DartsOptions, DartsSpace, cell_of
from segnas.strategies.bilevel import frozen, gradients_of, move
from segnas.strategies.curvature import eigenvalues, epoch_to_return_to, epochs_needed
from segnas.strategies.decoding import entropy, strongest_edges
from segnas.strategies.second_order import unrolled_gradients
from segnas.systems import supernet_search
from segnas.systems.base import Job, System, systems
from segnas.systems.settings import RunConfig, run_preset
from segnas.systems.supernet_search import SupernetConfig, SupernetSearch, require_operations
from segnas.tasks.base import cross_entropy
from segnas.training.optimization import cosine, set_learning_rate
from segnas.training.preflight import Measurement

BETAS = (0.5, 0.999)  # of Adam, which moves alpha


@configuration
class SearchConfig(SupernetConfig):
    """The supernet and its training. Defaults are the paper's on CIFAR-10 (section 3.1 and appendix A.1).

    channels, layers: of the supernet, not of the network that is retrained; head_width: its head in the segmentation form.
    order: of the gradient of alpha; "second" takes 2.8 times as long. partial_channels: K of PC-DARTS, 1 for DARTS.
    edge_weights: beta of PC-DARTS. stop_by_curvature: look at the dominant eigenvalue of the Hessian in alpha every
    `curvature_every` epochs, and stop when it has grown by too much.
    """

    channels: Annotated[int, Field(ge=2)] = 16
    layers: Annotated[int, Field(ge=3)] = 8  # with fewer all cells would reduce, and none would be a normal one
    blocks: PositiveInt = BLOCKS
    operations: tuple[str, ...] = OPERATIONS
    head_width: PositiveInt = 64
    order: Literal["first", "second"] = "first"
    partial_channels: PositiveInt = 1
    edge_weights: bool = False
    stop_by_curvature: bool = False
    curvature_every: PositiveInt = 2
    batch_size: PositiveInt = 64
    crop: tuple[PositiveInt, PositiveInt] = (32, 32)
    clip_norm: Annotated[float, Field(ge=0)] = 5.0
    architecture_learning_rate: Annotated[float, Field(gt=0)] = 3e-4

    def __post_init__(self) -> None:
        SupernetConfig.__post_init__(self)
        require_operations(self.operations, OPERATIONS)
        if self.channels % self.partial_channels:
            raise ValueError(f"partial_channels must divide channels={self.channels}")


@configuration
class DartsConfig(RunConfig):
    """search: the supernet; network: form, channels and layers of the network that is retrained; the rest as for every run."""

    search: SearchConfig = SearchConfig()
    network: DartsOptions = DartsOptions()


class Relaxation(nn.Module):
    """The logits of alpha (edges, operations) of both cells, those of beta (edges,) in PC-DARTS, and their mixture."""

    def __init__(self, config: SearchConfig, seed: int) -> None:
        super().__init__()
        count = len(edges(config.blocks))
        self.sizes = [len(states) for states in states_of(config.blocks)]
        with forked(seed, "search", "relaxation"):
            self.normal = nn.Parameter(1e-3 * torch.randn(count, len(config.operations)))
            self.reduction = nn.Parameter(1e-3 * torch.randn(count, len(config.operations)))
            if config.edge_weights:
                self.normal_edges = nn.Parameter(1e-3 * torch.randn(count))
                self.reduction_edges = nn.Parameter(1e-3 * torch.randn(count))
        self.weighs_edges = config.edge_weights

    def mixture(self, detached: bool = False) -> Mixture:
        """Softmax over the operations of an edge, and over the edges into a block."""
        normal, reduction = (self._seen(logits.softmax(dim=-1), detached) for logits in (self.normal, self.reduction))
        if not self.weighs_edges:
            return Mixture(normal, reduction)
        first, second = (self._seen(self._over_blocks(logits), detached) for logits in (self.normal_edges, self.reduction_edges))
        return Mixture(normal, reduction, first, second)

    @staticmethod
    def _seen(weights: Tensor, detached: bool) -> Tensor:
        return weights.detach() if detached else weights

    def _over_blocks(self, logits: Tensor) -> Tensor:
        return torch.cat([part.softmax(dim=0) for part in logits.split(self.sizes)])


def decode(mixture: Mixture, config: SearchConfig, network: DartsOptions) -> Darts:
    """The two strongest edges of each block with their strongest operations, strongest first; never `none` (section 2.4)."""
    cells = []
    for alpha, beta in ((mixture.normal, mixture.normal_edges), (mixture.reduction, mixture.reduction_edges)):
        weights = alpha if beta is None else beta[:, None] * alpha
        pairs = strongest_edges(weights.detach().cpu().numpy(), states_of(config.blocks), config.operations)
        cells.append(cell_of(pairs))
    return Darts(cells[0], cells[1], network)


class Search(SupernetSearch):
    """The search: a stack of mixed cells, a step of alpha and then one of the weights for each pair of batches."""

    system = "darts"
    width_key = "search.channels"

    def __init__(self, job: Job) -> None:
        config: SearchConfig = job.config.search
        self.weights_share = 0.5 if config.order == "first" else 0.2
        with forked(job.config.seed, "search", "initialization"):
            supernet = DartsSupernet(
                len(job.dataset.classes),
                supernet_options(config, job.config.network),
                config.blocks,
                config.operations,
                config.partial_channels,
            )
        super().__init__(job, supernet, Relaxation(config, job.config.seed), BETAS)

    def search_step(self, batch_a: Batch, batch_b: Batch) -> None:
        """From the set epoch on a step of alpha on trainB, then one of the weights on trainA (algorithm 1)."""
        config: SearchConfig = self.job.config.search
        self.supernet.train()
        rate = cosine(self.epoch, config.epochs, config.learning_rate, config.final_learning_rate)  # constant in an epoch
        set_learning_rate(self.weight_optimizer, rate)
        with self.at_step():
            if self.epoch >= config.architecture_from_epoch:
                self.sums[1] += self.architecture_step(batch_a, batch_b)
            loss, *gradients = self.replay(self.weight_gradients, batch_a)
            move(self.weights, gradients, self.weight_optimizer, config.clip_norm, self.job.device.average)
            self.sums[0] += loss
        self.step += 1

    def architecture_step(self, batch_a: Batch, batch_b: Batch) -> Tensor:
        """Move alpha (and beta) by the gradient of the chosen order; the loss on trainB."""
        if self.job.config.search.order == "first":
            loss, *gradients = self.replay(self.architecture_gradients, batch_b)
            move(self.variables, gradients, self.architecture_optimizer, average=self.job.device.average)
            return loss
        gradients, loss = unrolled_gradients(  # never replayed: the rate of the step that it looks through changes
            self.supernet,
            lambda weights: self.loss(*self.placed(batch_a), self.relaxation.mixture(), weights),
            lambda weights: self.loss(*self.placed(batch_b), self.relaxation.mixture(), weights),
            self.variables,
            self.weight_optimizer,
            self.job.device.average,
        )
        move(self.variables, gradients, self.architecture_optimizer)
        return loss

    def weight_gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor | None, ...]:
        """The loss, and its gradient for each weight."""
        return gradients_of(self.loss(images, labels, self.relaxation.mixture(detached=True)), self.weights)

    def architecture_gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor | None, ...]:
        """The loss, and its gradients of first order for alpha (and beta)."""
        with frozen(self.weights):
            return gradients_of(self.loss(images, labels, self.relaxation.mixture()), self.variables)

    def loss(self, images: Tensor, labels: Tensor, mixture: Mixture, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """Cross-entropy of the supernet under a mixture, with `weights` (by name) in the place of its own."""
        with self.job.device.autocast():
            logits = functional_call(self.supernet, dict(weights or {}), (images, mixture))
        return cross_entropy(logits, labels, average=self.job.device.average)

    def decode(self, mixture: Mixture) -> Darts:
        """The architecture that a mixture stands for, in the form that is retrained."""
        return decode(mixture, self.job.config.search, self.job.config.network)

    def one_hot(self, architecture: Darts) -> Mixture:
        """The mixture of two operations a block. With partial channels the other edges pass nothing on either, and with edge
        weights the two of a block count by half."""
        config: SearchConfig = self.job.config.search
        mixture = one_hot(architecture, config.operations, self.job.device.device)
        if config.partial_channels == 1 and not config.edge_weights:
            return mixture
        share = 0.5 if config.edge_weights else 1.0
        normal, reduction = (share * (weights.sum(dim=1) > 0) for weights in (mixture.normal, mixture.reduction))
        return dataclasses.replace(mixture, normal_edges=normal, reduction_edges=reduction)

    def figures(self, mixture: Mixture, architecture: Darts) -> dict[str, Any]:
        """How undecided alpha is, the share of skip-connections in the decoded normal cell, and the curvature when it is due."""
        config: SearchConfig = self.job.config.search
        used = [name for block in architecture.normal.blocks for name in block.operations]
        found = {
            "entropy_alpha": entropy(torch.cat([mixture.normal, mixture.reduction])),
            "skip_share": used.count("skip_connect") / len(used),
        }
        if config.stop_by_curvature and self.epoch % config.curvature_every == 0:
            found["eigenvalue"] = self.curvature()
        return found

    def curvature(self) -> float:
        """The dominant eigenvalue of the Hessian in alpha on a batch of trainB, weight decay included, in float32."""
        images, labels = self.placed(next(self.train_b.epoch(self.epoch)))
        average = self.job.device.average
        with batch_statistics(self.supernet), plain_engine(self.supernet), torch.enable_grad():
            loss = cross_entropy(self.supernet(images, self.relaxation.mixture()), labels, average=average)
            return float(eigenvalues(loss, self.variables, average)[-1]) + self.config.architecture_weight_decay

    def returns_to(self) -> int | None:
        """The epoch from before the curvature grew, when it has."""
        seen = [(record["epoch"] - 1, record["eigenvalue"]) for record in self.history if "eigenvalue" in record]
        if not seen:
            return None
        epoch = epoch_to_return_to([epoch for epoch, _ in seen], [value for _, value in seen])
        return None if epoch is None else epoch + 1

    def variables_in_words(self, mixture: Mixture) -> dict[str, Any]:
        """alpha of both cells with its rows and columns, and beta where there is one."""
        config: SearchConfig = self.job.config.search
        named = {
            "alpha": mixture.normal,
            "alpha_reduction": mixture.reduction,
            "edge_weights": mixture.normal_edges,
            "edge_weights_reduction": mixture.reduction_edges,
        }
        return {
            **{name: weights.tolist() for name, weights in named.items() if weights is not None},
            "operations": list(config.operations),
            "edges": [list(edge) for edge in edges(config.blocks)],
        }


def supernet_options(config: SearchConfig, network: DartsOptions) -> DartsOptions:
    """The form that is retrained, at the supernet's own widths; with a decoder if that one has it."""
    return dataclasses.replace(
        network,
        channels=config.channels,
        layers=config.layers,
        aspp_width=config.head_width,
        decoder_width=config.head_width,
        low_level_width=min(network.low_level_width, max(1, config.head_width // 4)),
        dropout=0.0,
    )


def search(job: Job) -> Darts:
    """From the training set to an architecture; goes on from checkpoints/search.pt when it is there."""
    config: SearchConfig = job.config.search
    needed = epochs_needed(config.curvature_every)
    if config.stop_by_curvature and config.epochs < needed:
        console.print(f"note: the curvature is recorded, but to stop by it a search needs search.epochs={needed} or more")
    if config.order == "second" and job.device.device.type == "cuda" and job.config.device.graphs:
        console.print("note: the gradient of second order is computed without a CUDA graph, the step of the weights with one")
    found: Darts = supernet_search.search(Search(job))
    return found


def preflight(job: Job) -> Measurement:
    """What the search will cost, from two real steps on a search made for this alone."""
    return supernet_search.preflight(Search(job))


def space(config: DartsConfig) -> DartsSpace:
    """What is searched: pairs of cells over the operations, without `none`, which is never chosen."""
    chosen = tuple(name for name in config.search.operations if name != "none")
    return DartsSpace(config.search.blocks, chosen, config.network)


def typical(config: DartsConfig) -> Darts:
    """A random architecture of the space that is searched: about what the search will find, in size and time."""
    return sample(space(config), numpy_generator(config.seed, "typical"))


def quick() -> DartsConfig:
    """Segmentation of images of about 100 pixels: minutes on two cores."""
    search = SearchConfig(
        channels=4,
        layers=4,
        head_width=24,
        crop=(64, 96),
        batch_size=8,
        epochs=5,
        architecture_from_epoch=1,
        architecture_learning_rate=0.03,  # a hundred steps must suffice to decide
    )
    network = DartsOptions(
        form="segmentation", channels=12, layers=6, aspp_width=48, low_level_width=16, decoder_width=48, dropout=0.1
    )
    return DartsConfig(**vars(run_preset("quick")), search=search, network=network)


def small() -> DartsConfig:
    """Segmentation of sets of the size of CamVid (hundreds of images), on one GPU or a patient CPU."""
    search = SearchConfig(
        channels=8,
        layers=6,
        head_width=64,
        crop=(160, 160),
        resize=0.5,
        batch_size=8,
        epochs=40,
        architecture_from_epoch=10,
        architecture_learning_rate=3e-3,
        partial_channels=2,
        edge_weights=True,
    )
    network = DartsOptions(
        form="segmentation", channels=24, layers=9, aspp_width=128, low_level_width=32, decoder_width=128, dropout=0.1
    )
    return DartsConfig(**vars(run_preset("small")), search=search, network=network)


def quick_classification() -> DartsConfig:
    """CIFAR-10 in a quarter of an hour on two cores, comparison included: narrow networks, a hundred steps, two epochs."""
    search = SearchConfig(
        channels=4,
        layers=4,
        batch_size=32,
        epochs=4,
        architecture_from_epoch=1,
        steps_per_epoch=30,
        architecture_learning_rate=0.03,  # a hundred steps must suffice to decide
        scored_images=256,
    )
    network = DartsOptions(form="cifar", channels=8, layers=5)
    return DartsConfig(**vars(run_preset("quick", "classification")), search=search, network=network)


def small_classification() -> DartsConfig:
    """CIFAR-10 with partial channels, on one GPU in hours."""
    search = SearchConfig(
        partial_channels=4,
        edge_weights=True,
        architecture_from_epoch=15,
        batch_size=256,
        learning_rate=0.1,
        final_learning_rate=0.0,
        architecture_learning_rate=6e-4,
        scored_images=2048,
    )
    network = DartsOptions(form="cifar", channels=24, layers=14)
    return DartsConfig(**vars(run_preset("small", "classification")), search=search, network=network)


def paper_classification() -> DartsConfig:
    """The paper's settings on CIFAR-10, of second order (section 3.1, appendix A); days on a GPU for search and training."""
    search = SearchConfig(order="second", scored_images=2048)
    return DartsConfig(**vars(run_preset("paper", "classification")), search=search)


SYSTEM = System(
    name="darts",
    paper="DARTS: Differentiable Architecture Search (ICLR 2019)",
    state="exact networks, counts and steps of both orders; PC-DARTS as an option; a segmentation form of our own",
    config=DartsConfig,
    presets={"quick": quick, "small": small},
    task_presets={
        "classification": {"quick": quick_classification, "small": small_classification, "paper": paper_classification}
    },
    search=search,
    preflight=preflight,
    typical=typical,
    sized=supernet_search.sized,
    space=space,
    space_settings=("blocks", "operations"),
)
systems.register(SYSTEM.name)(SYSTEM)
