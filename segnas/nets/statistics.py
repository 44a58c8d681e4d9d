"""Which statistics batch norms use outside training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


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
