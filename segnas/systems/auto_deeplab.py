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

Read on: nets/auto_deeplab_supernet.py (equation 7), strategies/bilevel.py (the two steps), strategies/decoding.py.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt
from torch import Tensor, nn

from segnas.config import configuration, replace
from segnas.costs.counts import count
from segnas.data.loading import Batch, TrainingBatches, halves
from segnas.data.statistics import evenly_spaced
from segnas.data.transforms import DataConfig, scaled_size
from segnas.errors import Interrupted, UserError, did_you_mean
from segnas.nets.auto_deeplab_supernet import MOVES, AutoDeepLabSupernet, Mixture, levels_at, one_hot
from segnas.nets.statistics import batch_statistics
from segnas.randomness import forked, numpy_generator
from segnas.runs.progress import StageProgress, stop_between_steps
from segnas.runs.run import Run
from segnas.spaces.architecture import from_json, identity, to_json
from segnas.spaces.auto_deeplab import LEVELS, OPERATIONS, AutoDeepLab, AutoDeepLabSpace, Block, NetworkOptions, edges
from segnas.spaces.choice import sample
from segnas.strategies.bilevel import architecture_step, entropy, weight_step
from segnas.strategies.decoding import strongest_edges, viterbi
from segnas.systems.base import Job, System, systems
from segnas.systems.settings import RunConfig, run_preset
from segnas.tasks.base import confusion_matrix, cross_entropy, scores
from segnas.training.optimization import cosine, set_learning_rate
from segnas.training.preflight import Measurement, Size, measure, seconds_of


@configuration
class SearchConfig:
    """The supernet and its training. Defaults are the paper's (section 5.1: 40 epochs, alpha and beta from epoch 20 on).

    crop: (height, width); resize: factor applied to images and labels first (the paper searches at half resolution).
    filters, stem, head_width: widths of the supernet, not of the network that is retrained.
    scored_images: how many images of trainB the supernet and its decoded path are scored on after each epoch.
    select: which decoded architecture the search returns, the last or the one that scored best.
    """

    layers: PositiveInt = 12
    blocks: PositiveInt = 5
    filters: Annotated[int, Field(ge=2)] = 8  # a factorized reduction splits them in two
    operations: tuple[str, ...] = OPERATIONS
    stem: tuple[PositiveInt, PositiveInt, PositiveInt] = (64, 64, 128)
    head_width: PositiveInt = 256
    epochs: PositiveInt = 40
    architecture_from_epoch: int = 20
    batch_size: PositiveInt = 2
    crop: tuple[PositiveInt, PositiveInt] = (321, 321)
    resize: Annotated[float, Field(gt=0, le=4)] = 0.5
    learning_rate: PositiveFloat = 0.025
    final_learning_rate: NonNegativeFloat = 0.001
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    weight_decay: NonNegativeFloat = 3e-4
    clip_norm: NonNegativeFloat = 0.0
    architecture_learning_rate: PositiveFloat = 3e-3
    architecture_weight_decay: NonNegativeFloat = 1e-3
    scored_images: PositiveInt = 64
    select: Literal["last", "best"] = "last"

    def __post_init__(self) -> None:
        unknown = [name for name in self.operations if name not in OPERATIONS]
        if unknown:
            raise ValueError(f"operations: unknown '{unknown[0]}'{did_you_mean(unknown[0], OPERATIONS)}")
        if not set(self.operations) - {"none"}:
            raise ValueError("operations: none is left but 'none'")
        if len(set(self.operations)) < len(self.operations):
            raise ValueError("operations: one is named twice")
        if self.batch_size == 1 and max(self.crop) <= 32:
            raise ValueError("batch_size=1 needs a crop of at least 33: at stride 32 one value a channel has no statistics")
        if not 0 <= self.architecture_from_epoch < self.epochs:
            raise ValueError(f"architecture_from_epoch must lie in 0..{self.epochs - 1}, or alpha and beta are never trained")


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
    states: list[list[int]] = [[] for _ in range(config.blocks)]
    for block, state in edges(config.blocks):
        states[block].append(state)
    alpha, beta = mixture.alpha.detach().cpu().numpy(), mixture.beta.detach().cpu().numpy()
    cell = []
    for pair in strongest_edges(alpha, states, config.operations):
        first, second = sorted(pair)  # the sum of a block has no order: one architecture, one identity
        cell.append(Block(inputs=(first[0], second[0]), operations=(first[1], second[1])))
    return AutoDeepLab(path=viterbi(beta, MOVES), cell=tuple(cell), network=network)


class Search:
    """Everything that changes during a search, so that it can be saved and continued: see `state` and `load`."""

    def __init__(self, job: Job) -> None:
        config: SearchConfig = job.config.search
        self.config, self.job = config, job
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
        self.supernet = job.device.place(supernet)
        self.relaxation = Relaxation(config, job.config.seed).to(job.device.device)
        self.weights = list(self.supernet.parameters())
        self.variables = list(self.relaxation.parameters())
        self.weight_optimizer = torch.optim.SGD(
            self.weights, lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.architecture_optimizer = torch.optim.Adam(
            self.variables, lr=config.architecture_learning_rate, weight_decay=config.architecture_weight_decay
        )
        data = replace(job.config.data, crop=config.crop, resize=config.resize)
        names = job.dataset.splits["train"]
        half_a, half_b = halves(len(names), job.config.seed)
        self.train_a = self._batches(half_a, data, "trainA")
        self.train_b = self._batches(half_b, data, "trainB")
        plain = replace(data, scale=(1.0, 1.0), flip=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)
        scored = evenly_spaced(len(half_b), max(config.batch_size, config.scored_images))
        self.scored = self._batches([half_b[place] for place in scored], plain, "scored")
        self.steps = min(len(self.train_a), len(self.train_b))
        self.epoch = self.step = 0
        self.sums = torch.zeros(2, device=job.device.device)  # losses of the weights and of the architecture, this epoch
        self.seconds = 0.0
        self.history: list[dict[str, Any]] = []

    def _batches(self, indices: Sequence[int], data: DataConfig, stream: str) -> TrainingBatches:
        job, size = self.job, self.config.batch_size
        return TrainingBatches(
            job.dataset, "train", indices, data, job.normalization, size, job.config.seed, stream, "search.batch_size"
        )

    def loss(self, batch: Batch, mixture: Mixture) -> Tensor:
        """Cross-entropy of the supernet under a mixture."""
        with self.job.device.autocast():
            logits = self.supernet(self.job.device.images(batch.images), mixture)
        return cross_entropy(logits, self.job.device.labels(batch.labels))

    def search_step(self, batch_a: Batch, batch_b: Batch) -> None:
        """One step of weights on trainA, then, from the set epoch on, one step of alpha and beta on trainB (section 4.1)."""
        config, position = self.config, self.epoch * self.steps + self.step
        self.supernet.train()
        rate = cosine(position, config.epochs * self.steps, config.learning_rate, config.final_learning_rate)
        set_learning_rate(self.weight_optimizer, rate)
        with forked(self.job.config.seed, "search", self.epoch, self.step):
            loss = self.loss(batch_a, self.relaxation.mixture(detached=True))
            weight_step(loss, self.weights, self.weight_optimizer, config.clip_norm)
            self.sums[0] += loss.detach()
            if self.epoch >= config.architecture_from_epoch:
                loss = self.loss(batch_b, self.relaxation.mixture())
                architecture_step(loss, self.variables, self.architecture_optimizer)
                self.sums[1] += loss.detach()
        self.step += 1

    def pairs(self) -> Iterator[tuple[Batch, Batch]]:
        """The batches of trainA and trainB of this epoch that are not done yet."""
        return zip(self.train_a.epoch(self.epoch, self.step), self.train_b.epoch(self.epoch, self.step), strict=False)

    @torch.no_grad()
    def score(self, mixture: Mixture) -> float:
        """mIoU in percent on the scored images of trainB, not augmented, with the statistics of each batch."""
        total: Tensor | int = 0
        classes = len(self.job.dataset.classes)
        with batch_statistics(self.supernet.eval()):
            for batch in self.scored.epoch(0):
                with self.job.device.autocast():
                    logits = self.supernet(self.job.device.images(batch.images), mixture)
                total = total + confusion_matrix(logits.argmax(1), self.job.device.labels(batch.labels), classes)
        assert isinstance(total, Tensor)
        return scores(total.cpu()).mIoU

    def require_numbers(self) -> None:
        """Raise UserError when a loss of this epoch is no number."""
        if not bool(self.sums.isfinite().all()):
            advice = "lower search.learning_rate, set search.clip_norm=5, or use device.precision=32"
            raise UserError(f"the search's loss is no number in epoch {self.epoch + 1}; {advice} (the last checkpoint is kept)")

    def state(self) -> dict[str, Any]:
        """Tensors and plain values from which `load` goes on bit by bit."""
        return {
            "supernet": self.supernet.state_dict(),
            "relaxation": self.relaxation.state_dict(),
            "weight_optimizer": self.weight_optimizer.state_dict(),
            "architecture_optimizer": self.architecture_optimizer.state_dict(),
            "epoch": self.epoch,
            "step": self.step,
            "sums": self.sums,
            "seconds": self.seconds,
            "history": self.history,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.supernet.load_state_dict(state["supernet"])
        self.relaxation.load_state_dict(state["relaxation"])
        self.weight_optimizer.load_state_dict(state["weight_optimizer"])
        self.architecture_optimizer.load_state_dict(state["architecture_optimizer"])
        self.epoch, self.step, self.seconds, self.history = state["epoch"], state["step"], state["seconds"], state["history"]
        self.sums.copy_(state["sums"])


def search(job: Job) -> AutoDeepLab:
    """Search, watch, decode: from the training set to an architecture. Continues from checkpoints/search.pt when it is there."""
    run, config = job.run, job.config.search
    this = Search(job)
    saved = run.load_checkpoint("search")
    if saved is not None:
        this.load(saved)
    clock = Clock(this)
    done = this.epoch * this.steps + this.step
    with stop_between_steps() as stop, StageProgress("search", config.epochs * this.steps, done) as progress:
        while this.epoch < config.epochs:
            for batch_a, batch_b in this.pairs():
                this.search_step(batch_a, batch_b)
                progress.step()
                if stop.requested or clock.due():
                    clock.save(run)
                if stop.requested:
                    raise Interrupted(f"the search is saved at epoch {this.epoch + 1}, step {this.step}")
            record = watch(this)
            this.history.append(record)
            this.epoch, this.step = this.epoch + 1, 0
            this.sums.zero_()
            run.log("search", this.epoch, {key: value for key, value in record.items() if isinstance(value, (int, float))})
            clock.count()
            write_search(this, run)  # before the checkpoint: killed between the two, the epoch ends once more
            clock.save(run)
            progress.epoch(this.epoch, config.epochs, shown(record, best(this.history, config)))
            if stop.requested:
                raise Interrupted(f"the search is saved after epoch {this.epoch}")
    return from_json(chosen(this)["architecture"])


class Clock:
    """Counts the seconds of a search over all its parts, and says when a long epoch should be saved in its midst."""

    SAVE_EVERY = 600.0  # seconds

    def __init__(self, this: Search) -> None:
        self.this, self.before = this, this.seconds
        self.started = self.saved = time.monotonic()

    def due(self) -> bool:
        """Whether the last save lies too far back."""
        return time.monotonic() - self.saved > self.SAVE_EVERY

    def count(self) -> None:
        """Bring the seconds used so far up to date."""
        self.this.seconds = self.before + time.monotonic() - self.started

    def save(self, run: Run) -> None:
        """Write the checkpoint; UserError instead when a loss is no number, so that the one before is kept."""
        self.this.require_numbers()
        self.count()
        self.saved = time.monotonic()
        run.save_checkpoint("search", self.this.state())


def watch(this: Search) -> dict[str, Any]:
    """The figures of the epoch that just ended; raises UserError when the loss is no number.

    Low entropy: the search has decided. Many skip-connections, or a decoded path that scores far below the supernet: the
    mixture hides what the decoded network lacks (what users of public implementations learned to look at).
    """
    config, job = this.config, this.job
    this.require_numbers()
    losses = (this.sums / max(1, this.steps)).tolist()
    mixture = this.relaxation.mixture(detached=True)
    architecture = decode(mixture, config, job.config.network)
    used = [name for block in architecture.cell for name in block.operations]
    costs = count(architecture, seen_size(job), len(job.dataset.classes))
    return {
        "epoch": this.epoch + 1,
        "loss_weights": losses[0],
        "loss_architecture": losses[1] if this.epoch >= config.architecture_from_epoch else None,
        "entropy_alpha": entropy(mixture.alpha),
        "entropy_beta": entropy(mixture.beta),
        "skip_share": used.count("skip_connect") / len(used),
        "score_supernet": this.score(mixture),
        "score_one_hot": this.score(one_hot(architecture, config.operations, job.device.device)),
        "parameters": costs.parameters,
        "multiply_adds": costs.multiply_adds,
        "architecture": to_json(architecture),
        "id": identity(architecture),
    }


def shown(record: dict[str, Any], best_so_far: dict[str, Any]) -> dict[str, float | str]:
    """The few figures of an epoch that fit on a line of a terminal: mIoU of the supernet, of what is decoded, and its best."""
    scores = {"mIoU": record["score_supernet"], "decoded": record["score_one_hot"], "best": best_so_far["score_one_hot"]}
    return {"loss": record["loss_weights"], **scores}


def best(history: list[dict[str, Any]], config: SearchConfig) -> dict[str, Any]:
    """The epoch whose decoded architecture scored best, among those that trained alpha and beta; the earliest of equals."""
    decided = [record for record in history if record["epoch"] > config.architecture_from_epoch]
    return max(decided or history, key=lambda record: record["score_one_hot"])


def chosen(this: Search) -> dict[str, Any]:
    """The epoch whose architecture the search returns (`select`)."""
    return this.history[-1] if this.config.select == "last" else best(this.history, this.config)


def write_search(this: Search, run: Run) -> None:
    """search.json for whoever watches or reports, and the last and the best decoded architecture as files."""
    mixture = this.relaxation.mixture(detached=True)
    kept = {"last": this.history[-1], "best": best(this.history, this.config)}
    for name, record in kept.items():
        provenance = {"system": "auto-deeplab", "epoch": record["epoch"], "score_one_hot": record["score_one_hot"]}
        content = {"architecture": record["architecture"], "id": record["id"], "provenance": provenance}
        run.write_json(f"architecture_{name}.json", content)
    run.write_json(
        "search.json",
        {
            "system": "auto-deeplab",
            "epochs": this.history,
            "alpha": mixture.alpha.tolist(),
            "operations": list(this.config.operations),
            "edges": [list(edge) for edge in edges(this.config.blocks)],
            "beta": mixture.beta.tolist(),
            "best_epoch": kept["best"]["epoch"],
            "last_epoch": kept["last"]["epoch"],
            "select": this.config.select,
            "seconds": this.seconds,
        },
    )


def preflight(job: Job) -> Measurement:
    """Two real steps on a search made for this alone: weights, statistics and random state of the run's own stay untouched."""
    this, config = Search(job), job.config.search
    this.epoch = config.architecture_from_epoch  # the dearer kind of step: weights and architecture
    pairs = this.pairs()
    batch, _ = next(pairs)
    loading = seconds_of(lambda: next(pairs, None))
    steps = config.epochs * this.steps
    size = Size(config.crop, config.batch_size, config.filters, "search.crop", "search.batch_size", "search.filters")
    measured = measure("search", lambda some: this.search_step(some, some), batch, steps, job.device.device, size, this.supernet)
    both = 1 - config.architecture_from_epoch / config.epochs  # the other steps move weights alone: about half the time
    measured = dataclasses.replace(measured, seconds=measured.seconds * (1 + both) / 2)
    measured = measured.with_loading(loading, job.config.data.workers)
    scoring = seconds_of(lambda: watch(this))
    return dataclasses.replace(measured, seconds=measured.seconds + config.epochs * scoring)


def typical(config: AutoDeepLabConfig) -> AutoDeepLab:
    """A random architecture of the space that is searched: about what the search will find, in size and time."""
    search = config.search
    space = AutoDeepLabSpace(
        search.layers, search.blocks, tuple(name for name in search.operations if name != "none"), config.network
    )
    return sample(space, numpy_generator(config.seed, "typical"))


def seen_size(job: Job) -> tuple[int, int]:
    """(height, width) at which the retrained network sees the first training image."""
    return scaled_size(*job.dataset.size("train", 0), job.config.data.resize)


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
)
systems.register(SYSTEM.name)(SYSTEM)
