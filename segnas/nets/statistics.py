"""Statistics of batch norms: which are used outside training, and how the running ones move when many norms work at once."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

Layer = Sequence[Any]  # of an operation on the edges that leave one state: that module of each edge
Moments = tuple[Tensor, Tensor, Tensor]  # that batch norms found: mean, 1 / deviation and unbiased variance, each (paths, C)


@contextlib.contextmanager
def batch_statistics(network: nn.Module) -> Iterator[None]:
    """Inside the block batch norms normalise with the statistics of the batch and leave the running ones untouched.

    The running statistics of a supernet mix all directions and operations; they fit no single decoded path.
    """
    norms = [(module, module.training) for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm, _ in norms:
        norm.train()
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm, training in norms:
            norm.train(training)
            norm.track_running_stats = True


@dataclass
class Statistics:
    """What batch norms found, for their running statistics; and again when a cell is computed a second time for its gradients.

    before: what they found the first time.
    """

    seen: list[tuple[Layer, Moments]] = field(default_factory=list)
    before: Iterator[Moments] | None = None

    def again(self) -> Statistics:
        """These for the next computation of the same: themselves for the first one."""
        return Statistics(before=iter([found for _, found in self.seen])) if self.seen else self

    def known(self, norms: Layer | None) -> Moments | None:
        return None if norms is None or self.before is None else next(self.before)

    def add(self, norms: Layer | None, found: Moments | None) -> None:
        """found: (paths, edges * C), or (paths, C) for all edges."""
        if norms is not None and found is not None and self.before is None:
            self.seen.append((norms, found))


@torch.no_grad()
def update(statistics: Sequence[Statistics], times: int) -> None:
    """Move the running statistics as one pass of each path after the other would; a single path counts `times` times."""
    groups: dict[tuple[float, int], list[tuple[Layer, Moments]]] = defaultdict(list)
    for norms, found in (pair for one in statistics for pair in one.seen):
        if norms[0].track_running_stats:
            groups[norms[0].momentum, found[0].shape[0]].append((norms, found))
    for (momentum, paths), group in groups.items():
        steps = times if paths == 1 else paths
        moved = 1 - (1 - momentum) ** steps
        buffers = [norm._buffers for norms, _ in group for norm in norms]
        for name, part in (("running_mean", 0), ("running_var", 2)):
            running = [buffer[name] for buffer in buffers]
            values = torch.cat([_for_edges(found[part], norms) for norms, found in group], dim=1)
            if paths > 1:
                values = _shares(momentum, steps, values.device, values.dtype) @ values
            towards = values.view(-1).to(running[0].dtype).split([tensor.numel() for tensor in running])
            torch._foreach_lerp_(running, towards, moved)
        counters = [buffer["num_batches_tracked"] for buffer in buffers]
        torch._foreach_add_([counter for counter in counters if counter is not None], steps)


def _for_edges(values: Tensor, norms: Layer) -> Tensor:
    """(paths, edges * C) of (paths, C) for all edges, or of what is that already."""
    copies = len(norms) * norms[0].num_features // values.shape[1]
    return values if copies == 1 else values.repeat(1, copies)


@lru_cache
def _shares(momentum: float, steps: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """What each of `steps` values counts in a running mean that moves by one after the other; they sum to 1."""
    with torch.inference_mode(False):  # kept for calls of any mode
        shares = (1 - momentum) ** torch.arange(steps - 1, -1, -1, device=device, dtype=dtype)
        return shares / shares.sum()
