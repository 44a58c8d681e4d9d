"""Auto-DeepLab: hierarchical neural architecture search for semantic segmentation (Liu et al., CVPR 2019, arXiv 1901.02985).

The idea: relax both levels of a segmentation network. The *cell* (which operation on which earlier state) is a mixture with
weights alpha, shared by all cells; the *path* through the resolutions is a mixture over a trellis with weights beta. Train
the weights of this supernet on one half of the training set and alpha, beta on the other half, by gradients, in turn; then
decode: the two strongest inputs of each block, and the path of largest probability (Viterbi).

    H_i   = sum_{j<i} sum_O softmax(alpha_{j->i})_O * O(H_j)                                                       (eq. 3-5)
    H^l_s = sum_{s' in {s/2, s, 2s}} beta^l_{s'->s} * Cell(H^{l-1}_{s'}, H^{l-2}_s; alpha)                         (eq. 7)
    w     <- w - lr * grad_w L_trainA;      alpha, beta <- Adam(grad L_trainB)     first order, alternating        (sec. 4.1)

| paper                                        | here                                                                       |
|----------------------------------------------|----------------------------------------------------------------------------|
| beta normalised over the moves out of a node | the same; it sums to 1 at the borders too (two moves)                      |
| H^{l-2}_s where it does not exist: open      | the nearest tensor of l-2, reduced with stride 2 or 4 (the authors' rule)  |
| decoded cell: argmax, open for `none`        | `none` is never decoded                                                    |
| one architecture at the end                  | the last, and the best by the score of the decoded one-hot mixture on trainB|
| Cityscapes at half resolution, crop 321      | any set; presets `quick`, `small`; `paper` keeps the letter                |
| how many gradients are clipped: open         | `clip_norm`, 0 (none) in the preset `paper`                                |

Read on: nets/auto_deeplab_supernet.py (equation 7), strategies/bilevel.py (the two steps), strategies/decoding.py; the loop of
epochs, the scores and the records are those of every such search: supernet_search.py.
"""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from segnas.config import configuration
from segnas.data.loading import Batch
from segnas.nets.auto_deeplab_supernet import MOVES, AutoDeepLabSupernet, Mixture, levels_at, one_hot
from segnas.randomness import forked, numpy_generator
from segnas.spaces.auto_deeplab import LEVELS, OPERATIONS, AutoDeepLab, AutoDeepLabSpace, NetworkOptions
from segnas.spaces.cells import Block, edges, states_of
from segnas.spaces.choice import sample
from segnas.strategies.bilevel import frozen, gradients_of, move
from segnas.strategies.decoding import entropy, strongest_edges, viterbi
from segnas.systems import supernet_search
from segnas.systems.base import Job, System, systems
from segnas.systems.settings import RunConfig, run_preset
from segnas.systems.supernet_search import SupernetConfig, SupernetSearch, require_operations
from segnas.tasks.base import cross_entropy
from segnas.training.optimization import cosine, set_learning_rate
from segnas.training.preflight import Measurement


@configuration
class SearchConfig(SupernetConfig):
    """The supernet and its training. Defaults are the paper's (section 5.1: 40 epochs, alpha and beta from epoch 20 on, half
    resolution).

    filters, stem, head_width: widths of the supernet, not of the network that is retrained.
    """

    layers: PositiveInt = 12
    blocks: PositiveInt = 5
    filters: Annotated[int, Field(ge=2)] = 8  # a factorized reduction splits them in two
    operations: tuple[str, ...] = OPERATIONS
    stem: tuple[PositiveInt, PositiveInt, PositiveInt] = (64, 64, 128)
    head_width: PositiveInt = 256
    epochs: PositiveInt = 40
    architecture_from_epoch: int = 20
    resize: Annotated[float, Field(gt=0, le=4)] = 0.5

    def __post_init__(self) -> None:
        SupernetConfig.__post_init__(self)
        require_operations(self.operations, OPERATIONS)
        if self.batch_size == 1 and max(self.crop) <= 32:
            raise ValueError("batch_size=1 needs a crop of at least 33: at stride 32 one value a channel has no statistics")


@configuration
class AutoDeepLabConfig(RunConfig):
    """search: the supernet; network: widths of the network that is retrained; the rest as for every run."""

    search: SearchConfig = SearchConfig()
    network: NetworkOptions = NetworkOptions()


class Relaxation(nn.Module):
    """The logits of alpha (edges, operations) and beta (layers, levels, moves), and the mixture they stand for."""

    possible: Tensor
    exists: Tensor

    def __init__(self, config: SearchConfig, seed: int) -> None:
        super().__init__()
        with forked(seed, "search", "relaxation"):
            self.alpha = nn.Parameter(1e-3 * torch.randn(len(edges(config.blocks)), len(config.operations)))
            self.beta = nn.Parameter(1e-3 * torch.randn(config.layers, LEVELS, len(MOVES)))
        levels = torch.arange(LEVELS)[:, None] + torch.tensor(MOVES)
        self.register_buffer("possible", (levels >= 0) & (levels < LEVELS), persistent=False)
        exists = torch.tensor([[level in levels_at(layer) for level in range(LEVELS)] for layer in range(config.layers)])
        self.register_buffer("exists", exists[:, :, None], persistent=False)

    def mixture(self, detached: bool = False) -> Mixture:
        """Softmax over the operations of an edge, and over the moves that leave a node: two at the borders, else three."""
        alpha = self.alpha.softmax(dim=-1)
        beta = self.beta.masked_fill(~self.possible, -math.inf).softmax(dim=-1) * self.exists
        return Mixture(alpha.detach(), beta.detach()) if detached else Mixture(alpha, beta)


def decode(mixture: Mixture, config: SearchConfig, network: NetworkOptions) -> AutoDeepLab:
    """The cell of the two strongest inputs of each block, and the most probable path (section 4.2)."""
    alpha, beta = mixture.alpha.detach().cpu().numpy(), mixture.beta.detach().cpu().numpy()
    cell = []
    for pair in strongest_edges(alpha, states_of(config.blocks), config.operations):
        first, second = sorted(pair)  # the sum of a block has no order: one architecture, one identity
        cell.append(Block(inputs=(first[0], second[0]), operations=(first[1], second[1])))
    return AutoDeepLab(path=viterbi(beta, MOVES), cell=tuple(cell), network=network)


class Search(SupernetSearch):
    """The search: a supernet of all paths and cells, alpha and beta, one step of each kind in turn."""

    system = "auto-deeplab"

    def __init__(self, job: Job) -> None:
        config: SearchConfig = job.config.search
        with forked(job.config.seed, "search", "initialization"):
            supernet = AutoDeepLabSupernet(
                len(job.dataset.classes),
                config.layers,
                config.blocks,
                config.filters,
                config.operations,
                config.stem,
                config.head_width,
            )
        super().__init__(job, supernet, Relaxation(config, job.config.seed))

    def loss(self, images: Tensor, labels: Tensor, mixture: Mixture) -> Tensor:
        """Cross-entropy of the supernet under a mixture."""
        with self.job.device.autocast():
            logits = self.supernet(images, mixture)
        return cross_entropy(logits, labels, average=self.job.device.average)

    def weight_gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor | None, ...]:
        """The loss, and its gradient for each weight."""
        return gradients_of(self.loss(images, labels, self.relaxation.mixture(detached=True)), self.weights)

    def architecture_gradients(self, images: Tensor, labels: Tensor) -> tuple[Tensor | None, ...]:
        """The loss, and its gradients for alpha and beta."""
        with frozen(self.weights):
            return gradients_of(self.loss(images, labels, self.relaxation.mixture()), self.variables)

    def search_step(self, batch_a: Batch, batch_b: Batch) -> None:
        """One step of weights on trainA, then, from the set epoch on, one step of alpha and beta on trainB (section 4.1)."""
        config, position = self.config, self.epoch * self.steps + self.step
        average = self.job.device.average
        self.supernet.train()
        rate = cosine(position, config.epochs * self.steps, config.learning_rate, config.final_learning_rate)
        set_learning_rate(self.weight_optimizer, rate)
        with self.at_step():
            loss, *gradients = self.replay(self.weight_gradients, batch_a)
            move(self.weights, gradients, self.weight_optimizer, config.clip_norm, average)
            self.sums[0] += loss
            if self.epoch >= config.architecture_from_epoch:
                loss, *gradients = self.replay(self.architecture_gradients, batch_b)
                move(self.variables, gradients, self.architecture_optimizer, average=average)
                self.sums[1] += loss
        self.step += 1

    def decode(self, mixture: Mixture) -> AutoDeepLab:
        """The architecture that a mixture stands for, at the width that is retrained."""
        return decode(mixture, self.job.config.search, self.job.config.network)

    def one_hot(self, architecture: AutoDeepLab) -> Mixture:
        """The mixture of one path and two operations a block."""
        return one_hot(architecture, self.job.config.search.operations, self.job.device.device)

    def figures(self, mixture: Mixture, architecture: AutoDeepLab) -> dict[str, Any]:
        """How undecided alpha and beta are, and the share of skip-connections in the decoded cell."""
        used = [name for block in architecture.cell for name in block.operations]
        return {
            "entropy_alpha": entropy(mixture.alpha),
            "entropy_beta": entropy(mixture.beta),
            "skip_share": used.count("skip_connect") / len(used),
        }

    def variables_in_words(self, mixture: Mixture) -> dict[str, Any]:
        """alpha with its rows and columns, and beta."""
        config: SearchConfig = self.job.config.search
        return {
            "alpha": mixture.alpha.tolist(),
            "operations": list(config.operations),
            "edges": [list(edge) for edge in edges(config.blocks)],
            "beta": mixture.beta.tolist(),
        }


def search(job: Job) -> AutoDeepLab:
    """From the training set to an architecture; goes on from checkpoints/search.pt when it is there."""
    found: AutoDeepLab = supernet_search.search(Search(job))
    return found


def preflight(job: Job) -> Measurement:
    """What the search will cost, from two real steps on a search made for this alone."""
    return supernet_search.preflight(Search(job))


def space(config: AutoDeepLabConfig) -> AutoDeepLabSpace:
    """What is searched: paths and cells over the operations, without `none`, which is never chosen."""
    chosen = tuple(name for name in config.search.operations if name != "none")
    return AutoDeepLabSpace(config.search.layers, config.search.blocks, chosen, config.network)


def typical(config: AutoDeepLabConfig) -> AutoDeepLab:
    """A random architecture of the space that is searched: about what the search will find, in size and time."""
    return sample(space(config), numpy_generator(config.seed, "typical"))


def quick() -> AutoDeepLabConfig:
    """The demo: minutes on two cores, a network of about 0.3 million parameters."""
    search = SearchConfig(
        layers=5,
        blocks=2,
        filters=4,
        stem=(12, 12, 24),
        head_width=24,
        crop=(65, 97),
        resize=1.0,
        batch_size=8,
        epochs=5,
        architecture_from_epoch=1,
        architecture_learning_rate=0.1,  # a hundred steps must suffice to decide
        clip_norm=5.0,
    )
    network = NetworkOptions(filters=12, stem=(16, 24, 48), aspp_width=64, low_level_width=24, decoder_width=64)
    return AutoDeepLabConfig(**vars(run_preset("quick")), search=search, network=network)


def small() -> AutoDeepLabConfig:
    """Sets of the size of CamVid (hundreds of images), on one GPU or a patient CPU."""
    search = SearchConfig(
        layers=8,
        blocks=4,
        filters=6,
        stem=(24, 24, 48),
        head_width=64,
        crop=(161, 161),
        batch_size=8,
        architecture_from_epoch=15,
        clip_norm=5.0,
    )
    network = NetworkOptions(filters=16, stem=(32, 32, 64), aspp_width=128, low_level_width=32, decoder_width=128)
    return AutoDeepLabConfig(**vars(run_preset("small")), search=search, network=network)


def paper() -> AutoDeepLabConfig:
    """The paper's settings on Cityscapes (sections 5.1 and 5.2); days on a GPU."""
    return AutoDeepLabConfig(**vars(run_preset("paper")))


SYSTEM = System(
    name="auto-deeplab",
    paper="Auto-DeepLab: Hierarchical Neural Architecture Search for Semantic Image Segmentation (CVPR 2019)",
    state="exact network and counts; the search as published, its open points settled",
    config=AutoDeepLabConfig,
    presets={"quick": quick, "small": small, "paper": paper},
    search=search,
    preflight=preflight,
    typical=typical,
    sized=supernet_search.sized,
    space=space,
    space_settings=("layers", "blocks", "operations"),
)
systems.register(SYSTEM.name)(SYSTEM)
