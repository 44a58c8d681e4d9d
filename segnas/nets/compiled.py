"""The kernels of compiled.c as torch functions: what kernels.py defines, on the CPU in few passes over memory.

Gradients are by hand, and only those that are asked for. The library is compiled on first use where a C compiler is there, and
kept in the user's cache. A function returns nothing that a second derivative could be taken of: see engines.plain_engine.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from segnas.nets.statistics import Moments

SOURCE = Path(__file__).with_suffix(".c")
WIDEST = 7  # kernel: sums of a row of its weights fit into registers
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=gnu11")


def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there are none: see `absence`."""
    return _loaded()[0]


def absence() -> str | None:
    """Why there are no compiled kernels, in a few words; None where there are, or SEGNAS_KERNELS=off forbids them."""
    return _loaded()[1]


@functools.cache
def _loaded() -> tuple[ctypes.CDLL | None, str | None]:
    """Compiled for this very processor. Their threads are torch's where both use the OpenMP library of gcc, as on Linux."""
    if os.environ.get("SEGNAS_KERNELS") == "off":
        return None, None
    compiler = next(filter(None, map(shutil.which, (os.environ.get("CC", "cc"), "cc", "gcc"))), None)
    if compiler is None:
        return None, "no C compiler was found (CC)"
    about = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if Path("/proc/cpuinfo").exists() else ""
    processor = [line for line in about.splitlines() if line.startswith(("flags", "model name", "Features"))]
    processor += [platform.machine(), platform.processor()]
    name = hashlib.sha256("\n".join([SOURCE.read_text(), compiler, *FLAGS, *processor]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "segnas"
    reason = f"{compiler} could not be used"
    for folder in (cache, Path(tempfile.gettempdir()) / f"segnas-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid == os.getuid():  # nobody else's code
                found = ctypes.CDLL(str(_built(compiler, folder / f"kernels-{name}.so")))
                _keep_freed_memory()
                return found, None
        except subprocess.CalledProcessError as error:
            said = error.stderr.decode(errors="replace").strip().splitlines()
            reason = f"{compiler} failed" + (f": {said[0]}" if said else "")
        except (OSError, subprocess.SubprocessError) as error:
            reason = f"{compiler} could not be used: {error}"
    return None, reason


def _built(compiler: str, target: Path) -> Path:
    """`target`, compiled unless it is there; whole or not at all, as several processes may begin at once."""
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            command = [compiler, *FLAGS, str(SOURCE), "-o", str(made), "-lm"]
            subprocess.run(command, check=True, capture_output=True, timeout=300)
            os.replace(made, target)
    return target


def _keep_freed_memory() -> None:
    """Let glibc keep what is freed for what comes next: a step frees and asks for the same sizes over and over, and each page
    that the system hands out anew costs as much time as computing what is in it."""
    with contextlib.suppress(AttributeError, OSError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD, at its highest
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD


def takes(first: Tensor, *others: Tensor) -> bool:
    """Whether these tensors go through the compiled kernels: all on the CPU, and of one type, float32 or float64."""
    kind = first.dtype
    if kind not in (torch.float32, torch.float64) or not first.is_cpu or library() is None:
        return False
    return all(other.is_cpu and other.dtype == kind for other in others)


class Shape(ctypes.Structure):
    """`Shape` of compiled.c."""

    _fields_ = [
        *[(name, ctypes.c_longlong) for name in ("images", "height", "width", "edges", "copies", "into", "out")],
        *[(name, ctypes.c_longlong) for name in ("kernel", "stride", "dilation", "out_height", "out_width")],
        *[(name, ctypes.c_longlong) for name in ("rectify", "paths", "threads")],
    ]


def _call(name: str, x: Tensor, *arguments: Any) -> None:
    """The kernel of the type of `x`; tensors go by their address, numbers as 64-bit integers."""
    function = getattr(library(), f"{name}_{'float' if x.dtype == torch.float32 else 'double'}")
    function(*[_as_c(argument) for argument in arguments])


def _as_c(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_longlong(argument)
    if isinstance(argument, float):
        return ctypes.c_double(argument)
    return argument


def _addresses(tensors: Sequence[Tensor | None]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*[None if tensor is None else tensor.data_ptr() for tensor in tensors])


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass that refuses to be differentiated itself (torch's once_differentiable gives zeros for some questions)."""

    @functools.wraps(backward)
    def checked(*given: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("the fused engine can be differentiated once here; see engines.plain_engine")
        return backward(*given)

    return checked


# Separable ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Separation:
    """What is fixed of a separable convolution: its norm's epsilon (-1: none), its ReLU, window (kernel, stride, dilation), edges
    and paths."""

    epsilon: float
    rectify: bool
    window: tuple[int, int, int]
    edges: int
    paths: int
    known: Moments | None

    def shape(self, x: Tensor, pointwise: Tensor) -> Shape:
        """x: (images, H, W, C); pointwise: the weight of an edge."""
        images, height, width, channels = x.shape
        out, into = pointwise.shape[:2]
        copies = self.edges if channels == into else 1
        stride = self.window[1]
        sides = (*self.window, (height - 1) // stride + 1, (width - 1) // stride + 1)
        threads = torch.get_num_threads()
        return Shape(images, height, width, self.edges, copies, into, out, *sides, int(self.rectify), self.paths, threads)


def separable(
    x: Tensor,
    epsilon: float | None,
    rectify: bool,
    depthwise: Sequence[Tensor],
    pointwise: Sequence[Tensor],
    window: tuple[int, int, int],
    paths: int,
    known: Moments | None,
) -> tuple[Tensor, Moments | None]:
    """`kernels.separable`."""
    if x.shape[0] % paths or not x.numel():
        raise ValueError(f"{x.shape[0]} images cannot be divided into {paths} paths")
    settings = Separation(-1.0 if epsilon is None else epsilon, rectify, window, len(depthwise), paths, known)
    out, *found = Separable.apply(x, settings, *depthwise, *pointwise)
    return out, tuple(found) or None  # type: ignore[return-value]


class Separable(torch.autograd.Function):
    """Saved are the input and the weights alone: what lies between the two convolutions is computed again for the gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, settings: Separation, *weights: Tensor) -> Any:
        x = x.contiguous()
        weights = tuple(weight if weight.is_contiguous() else weight.contiguous() for weight in weights)
        shape = settings.shape(x, weights[-1])
        out = x.new_empty(shape.images, shape.out_height, shape.out_width, shape.edges * shape.out)
        found: Any = ()
        if settings.epsilon >= 0:
            found = settings.known or tuple(x.new_empty(settings.paths, x.shape[-1]) for _ in range(3))
        listed = _addresses(weights[: shape.edges]), _addresses(weights[shape.edges :])
        tables = found or (None, None, None)
        _call("separable", x, ctypes.byref(shape), x, settings.epsilon, int(settings.known is not None), *tables, *listed, out)
        ctx.save_for_backward(x, *weights, *found[:2])
        ctx.settings = settings
        ctx.mark_non_differentiable(*found)
        ctx.set_materialize_grads(False)
        return out, *found

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        settings, edges = ctx.settings, ctx.settings.edges
        x, *rest = ctx.saved_tensors
        weights, found = rest[: 2 * edges], rest[2 * edges :] or (None, None)
        shape = settings.shape(x, weights[-1])
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_weights: list[Tensor | None] = [None, None]
        if any(ctx.needs_input_grad[2:]):
            of_weights = [x.new_empty(edges, *weight.shape) for weight in (weights[0], weights[-1])]
        listed = _addresses(weights[:edges]), _addresses(weights[edges:])
        given = (ctypes.byref(shape), x, settings.epsilon, *found, *listed, gradient.contiguous(), of_x, *of_weights)
        _call("separable_back", x, *given)
        parts = [part for of_weight in of_weights for part in ([None] * edges if of_weight is None else of_weight.unbind())]
        return of_x, None, *parts


# Mix ----------------------------------------------------------------------------------------------------------------------


def mix(
    carry: Tensor | None,
    weights: Tensor,
    terms: Sequence[Tensor],
    epsilons: Sequence[float | None],
    paths: int,
    channels: int,
    known: Sequence[Moments | None] | None,
) -> tuple[Tensor, list[Moments | None]]:
    """`kernels.mix`."""
    _require_sums(carry, terms, paths)
    tables = None if known is None else _tables(known, terms[0], paths, weights.shape[1] * channels)
    out, mean, scale, variance = Mix.apply(carry, weights, tuple(epsilons), paths, channels, tables, *terms)
    if known is not None:
        return out, list(known)
    found: list[Moments | None] = []
    for number, (term, epsilon) in enumerate(zip(terms, epsilons, strict=True)):
        width = term.shape[-1]
        pair = tuple(table[number, :, :width] for table in (mean, scale, variance))
        found.append(None if epsilon is None else pair)  # type: ignore[arg-type]
    return out, found


def _require_sums(carry: Tensor | None, terms: Sequence[Tensor], paths: int) -> None:
    """Raise ValueError unless what is to be summed has one size, and images that can be divided into paths."""
    given = [*terms, *([] if carry is None else [carry])]
    images = terms[0].shape[0]
    divided = images % paths == 0 and (carry is None or images % carry.shape[0] == 0)
    if not divided or any(one.shape[1:-1] != terms[0].shape[1:-1] for one in given) or any(len(one) != images for one in terms):
        raise ValueError(f"cannot be summed for {paths} paths: {', '.join(str(tuple(one.shape)) for one in given)}")


def _tables(known: Sequence[Moments | None], like: Tensor, paths: int, width: int) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation of all terms, (terms, paths, edges * C), from those of each."""
    nothing = like.new_zeros(paths, width), like.new_ones(paths, width)
    given = [found[:2] if found is not None else nothing for found in known]
    mean, scale = (
        torch.stack([table.repeat(1, width // table.shape[1]) for table in tables]) for tables in zip(*given, strict=True)
    )
    return mean, scale


class Mix(torch.autograd.Function):
    """Saved are the terms alone: weighting them costs no memory, and the sums over rows that the batch norms' gradients need are
    those that the gradient of the weights is made of."""

    @staticmethod
    def forward(
        ctx: Any,
        carry: Tensor | None,
        weights: Tensor,
        epsilons: tuple[float | None, ...],
        paths: int,
        channels: int,
        tables: tuple[Tensor, Tensor] | None,
        *terms: Tensor,
    ) -> Any:
        terms = tuple(term.contiguous() for term in terms)
        weights, edges = weights.contiguous(), weights.shape[1]
        out = terms[0].new_empty(*terms[0].shape[:-1], edges * channels)
        layout = _layout(terms, epsilons, paths, edges, channels)
        if tables is not None:
            mean, scale = tables
            variance = scale  # nobody asks
        else:
            mean, scale, variance = (out.new_empty(len(terms), paths, edges * channels) for _ in range(3))
            carry = None if carry is None else carry.contiguous()
            rows = 0 if carry is None else carry.numel() // (edges * channels)
            listed, sizes = layout
            _call("mix", out, carry, rows, *listed, weights, *sizes, mean, scale, variance, out)
        ctx.save_for_backward(weights, mean, scale, *terms)
        ctx.settings = epsilons, paths, channels, None if carry is None else carry.shape[0]
        ctx.mark_non_differentiable(mean, scale, variance)
        ctx.set_materialize_grads(False)
        return out, mean, scale, variance

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        weights, mean, scale, *terms = ctx.saved_tensors
        epsilons, paths, channels, carried = ctx.settings
        gradient = gradient.contiguous()
        listed, sizes = _layout(terms, epsilons, paths, weights.shape[1], channels)
        of_terms = [torch.empty_like(term) if want else None for term, want in zip(terms, ctx.needs_input_grad[6:], strict=True)]
        of_weights = torch.empty_like(weights) if ctx.needs_input_grad[1] else None
        _call("mix_back", gradient, gradient, *listed, weights, mean, scale, *sizes, _addresses(of_terms), of_weights)
        return of_carry(gradient, carried) if ctx.needs_input_grad[0] else None, of_weights, None, None, None, None, *of_terms


def of_carry(gradient: Tensor, images: int) -> Tensor:
    """The gradient of what was added to a result, of as many images: the same for every path."""
    return gradient if gradient.shape[0] == images else gradient.unflatten(0, (-1, images)).sum(dim=0)


def _layout(terms: Sequence[Tensor], epsilons: Sequence[float | None], paths: int, edges: int, channels: int) -> Any:
    """The terms' addresses, which are shared by all edges, their epsilons (-1: none) and number; paths, rows of a path, edges,
    channels and threads."""
    count = len(terms)
    shared = (ctypes.c_longlong * count)(*[int(edges > 1 and term.shape[-1] == channels) for term in terms])
    norms = (ctypes.c_double * count)(*[-1.0 if epsilon is None else epsilon for epsilon in epsilons])
    rows = terms[0].numel() // (paths * terms[0].shape[-1])
    return (_addresses(terms), shared, norms, count), (paths, rows, edges, channels, torch.get_num_threads())
