"""What a recording cannot hold, found without a GPU: a step on torch's device `meta`, which computes shapes alone.

There, as on a GPU, a tensor made from Python's numbers begins in the host's memory and is copied, which no call of an operation
shows: it is a tensor that comes from nowhere. And a value that Python reads has to be waited for.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

READS = ("_local_scalar_dense", "nonzero", "masked_select", "_unique2")  # for whose results the host waits


def tensors_in(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


class HostCopies(TorchDispatchMode):
    """`found`: the operation by the line of segnas where the host's memory came into a computation, or was waited for.

    known: the tensors that are on the device already. calls: of operations, views among them.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self.calls = 0
        self.storages = {tensor.untyped_storage()._cdata: tensor.untyped_storage() for tensor in known}  # kept: none comes again

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        self.calls += 1
        name = function.overloadpacket.__name__
        given = tensors_in(arguments, keywords)
        if name in READS or any(tensor.untyped_storage()._cdata not in self.storages for tensor in given):
            lines = [frame for frame in traceback.extract_stack() if "/segnas/" in frame.filename]
            place = f"{lines[-1].filename.rpartition('/segnas/')[2]}: {lines[-1].line}" if lines else "a backward pass"
            self.found.setdefault(place, name)
        results = function(*arguments, **(keywords or {}))
        for tensor in tensors_in(given, results):
            self.storages.setdefault(tensor.untyped_storage()._cdata, tensor.untyped_storage())
        return results


def host_copies(work: Callable[..., object], tensors: Iterable[Tensor], *modules: nn.Module) -> HostCopies:
    """What a second call of `work(*tensors)` copies from the host or reads: the first may make what is kept, as it is never
    recorded. All tensors, and those of the modules, on `meta`."""
    tensors = list(tensors)
    with HostCopies([*tensors, *(tensor for module in modules for tensor in (*module.parameters(), *module.buffers()))]) as mode:
        work(*tensors)
        mode.found.clear()
        work(*tensors)
    return mode
