"""The four parts that a fused mixed cell is made of, on images as rows of channels: (images, H, W, C) in memory.

    depthwise   a depthwise convolution of the rectified or plain input, for several edges that share it
    pointwise   1x1 convolutions, one matrix an edge
    normalize   batch norm without affine parameters, statistics a path
    mix         batch norm of the last results and their weighted sum into the blocks

Each is defined by plain torch operations (`..._plain`), which any device and type runs. On a CPU in float32 and float64 they go
through kernels.c: one pass over memory each, gradients by hand, and of those only the ones that are asked for. It is compiled
on first use where a C compiler is there, and kept in the user's cache.
"""

from __future__ import annotations

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
from torch import Tensor, nn
from torch.nn import functional as F

SOURCE = Path(__file__).with_suffix(".c")
WIDEST = 7  # kernel: sums of a row of its weights fit into registers
FLAGS = ("-O3", "-march=native", "-fopenmp", "-shared", "-fPIC", "-std=gnu11")


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels; None where there is no compiler, or SEGNAS_KERNELS=off says so.

    Compiled for this very processor. Their threads are torch's: both find the OpenMP library that is loaded already.
    """
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None or os.environ.get("SEGNAS_KERNELS") == "off":
        return None
    about = Path("/proc/cpuinfo").read_text().split("\n\n")[0] if Path("/proc/cpuinfo").exists() else platform.processor()
    processor = [line for line in about.splitlines() if line.startswith(("flags", "model name", "Features"))]
    name = hashlib.sha256("\n".join([SOURCE.read_text(), compiler, *FLAGS, *processor]).encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "segnas"
    for folder in (cache, Path(tempfile.gettempdir()) / f"segnas-{os.getuid()}"):
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            if folder.stat().st_uid == os.getuid():  # nobody else's code
                return ctypes.CDLL(str(_built(compiler, folder / f"kernels-{name}.so")))
        except (OSError, subprocess.SubprocessError):
            continue
    return None


def _built(compiler: str, target: Path) -> Path:
    """`target`, compiled unless it is there; whole or not at all, as several processes may begin at once."""
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            made = Path(folder) / target.name
            subprocess.run([compiler, *FLAGS, str(SOURCE), "-o", str(made)], check=True, capture_output=True, timeout=300)
            os.replace(made, target)
    return target


class Shape(ctypes.Structure):
    """`Shape` of kernels.c."""

    _fields_ = [
        *[(name, ctypes.c_longlong) for name in ("images", "height", "width", "channels", "copies", "up")],
        *[(name, ctypes.c_longlong) for name in ("kernel", "stride", "dilation", "out_height", "out_width")],
        *[(name, ctypes.c_longlong) for name in ("rectify", "threads")],
    ]


def _compiled(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and library() is not None


def _call(name: str, x: Tensor, *arguments: Any) -> None:
    """The kernel of the type of `x`; tensors go by their address, numbers as 64-bit integers."""
    function = getattr(library(), f"{name}_{'float' if x.dtype == torch.float32 else 'double'}")
    function(*[_as_c(argument) for argument in arguments])


def _as_c(argument: Any) -> Any:
    if isinstance(argument, Tensor):
        return ctypes.c_void_p(argument.data_ptr())
    if isinstance(argument, int):
        return ctypes.c_longlong(argument)
    if isinstance(argument, Shape):
        return ctypes.byref(argument)
    return argument


def once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A backward pass that refuses to be differentiated itself (torch's once_differentiable gives zeros for some questions)."""

    @functools.wraps(backward)
    def checked(*given: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("the compiled kernels can be differentiated once; see fused.plain_engine")
        return backward(*given)

    return checked


@dataclass(frozen=True)
class Window:
    """The window of a depthwise convolution: kernel (odd), stride, dilation; padded to keep the size at stride 1."""

    kernel: int
    stride: int = 1
    dilation: int = 1

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel // 2)

    def describes(self, layer: nn.Conv2d) -> bool:
        """Whether it is the window of this convolution, in both directions."""
        sides = (layer.kernel_size, layer.stride, layer.dilation, layer.padding)
        return sides == tuple((side, side) for side in (self.kernel, self.stride, self.dilation, self.padding))

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Of the output."""
        return (height - 1) // self.stride + 1, (width - 1) // self.stride + 1


# Depthwise ----------------------------------------------------------------------------------------------------------------


def depthwise(x: Tensor, weight: Tensor, copies: int, window: Window, rectify: bool) -> Tensor:
    """x (images, H, W, C), weight (kernel * kernel, copies * C) -> (images, h, w, copies * C): each copy of x (of max(x, 0) if
    `rectify`) with a kernel a channel."""
    if _compiled(x) and window.kernel <= WIDEST:
        out: Tensor = Depthwise.apply(x, weight, copies, window, rectify)
        return out
    return depthwise_plain(x, weight, copies, window, rectify)


def depthwise_plain(x: Tensor, weight: Tensor, copies: int, window: Window, rectify: bool) -> Tensor:
    """The definition of `depthwise`."""
    x = (x.relu() if rectify else x).repeat(1, 1, 1, copies).permute(0, 3, 1, 2)
    filters = weight.t().reshape(-1, 1, window.kernel, window.kernel)
    out = F.conv2d(x, filters, None, window.stride, window.padding, window.dilation, groups=x.shape[1])
    return out.permute(0, 2, 3, 1)


class Depthwise(torch.autograd.Function):
    """`depthwise` by kernels.c. The gradient of x is the same convolution of the gradient, its kernel turned around."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, copies: int, window: Window, rectify: bool) -> Tensor:
        x, weight = x.contiguous(), weight.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.settings = copies, window, rectify
        images, height, width, channels = x.shape
        out = x.new_empty(images, *window.size(height, width), channels * copies)
        _call("depthwise", x, Depthwise.shape(x, out, copies, window, rectify), x, weight, None, 0, out)
        return out

    @staticmethod
    def shape(x: Tensor, out: Tensor, copies: int, window: Window, rectify: bool, up: int = 1) -> Shape:
        """`out` of a convolution of x; up: zeros between the pixels of x."""
        images, height, width, channels = x.shape
        of = (images, height, width, channels, copies, up, window.kernel, window.stride, window.dilation, *out.shape[1:3])
        return Shape(*of, int(rectify), torch.get_num_threads())

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (x, weight), (copies, window, rectify) = ctx.saved_tensors, ctx.settings
        gradient = gradient.contiguous()
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = torch.empty_like(x)
            turned = weight.flip(0)
            back = Window(window.kernel, 1, window.dilation)
            shape = Depthwise.shape(gradient, x, 1, back, False, up=window.stride)
            _call("depthwise", x, shape, gradient, turned, x if rectify else None, x.shape[3], of_x)
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            _call("depthwise_weight", x, Depthwise.shape(x, gradient, copies, window, rectify), x, gradient, of_weight)
        return of_x, of_weight, None, None, None


# Pointwise ----------------------------------------------------------------------------------------------------------------


def pointwise(x: Tensor, weight: Tensor) -> Tensor:
    """x (images, H, W, edges * in), weight (edges, in, out) -> (images, H, W, edges * out): a matrix an edge."""
    if _compiled(x):
        out: Tensor = Pointwise.apply(x, weight)
        return out
    return pointwise_plain(x, weight)


def pointwise_plain(x: Tensor, weight: Tensor) -> Tensor:
    """The definition of `pointwise`."""
    return torch.einsum("...ei,eio->...eo", x.unflatten(-1, (weight.shape[0], -1)), weight).flatten(-2)


class Pointwise(torch.autograd.Function):
    """`pointwise` by kernels.c, which reads and writes the rows where they lie."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, weight)
        return Pointwise.product(x, weight)

    @staticmethod
    def product(x: Tensor, weight: Tensor) -> Tensor:
        edges, width, out_width = weight.shape
        out = x.new_empty(*x.shape[:-1], edges * out_width)
        _call("pointwise", x, x, weight.contiguous(), x.numel() // (edges * width), *weight.shape, torch.get_num_threads(), out)
        return out

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        gradient = gradient.contiguous()
        of_x = Pointwise.product(gradient, weight.transpose(1, 2)) if ctx.needs_input_grad[0] else None
        of_weight = None
        if ctx.needs_input_grad[1]:
            of_weight = x.new_empty(weight.shape)
            rows = x.numel() // (weight.shape[0] * weight.shape[1])
            _call("pointwise_weight", x, x, gradient, rows, *weight.shape, torch.get_num_threads(), of_weight)
        return of_x, of_weight


# Normalize ----------------------------------------------------------------------------------------------------------------


def moments(x: Tensor, paths: int) -> tuple[Tensor, Tensor]:
    """x (paths * images, H, W, C) in memory -> mean and biased variance of each path and channel, (paths, C)."""
    mean, variance = (x.new_empty(paths, x.shape[-1]) for _ in range(2))
    _call("moments", x, x, paths, x.numel() // mean.numel(), x.shape[-1], torch.get_num_threads(), mean, variance)
    return mean, variance


def normalize(x: Tensor, paths: int, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm of x (paths * images, H, W, C), and mean and biased variance (paths, C) of it, which carry no gradient."""
    if _compiled(x):
        out: tuple[Tensor, Tensor, Tensor] = Normalize.apply(x, paths, epsilon)
        return out
    return normalize_plain(x, paths, epsilon)


def normalize_plain(x: Tensor, paths: int, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    """The definition of `normalize`; in float32 where x has fewer digits."""
    rows = x.reshape(paths, -1, x.shape[-1]).to(torch.promote_types(x.dtype, torch.float32))
    variance, mean = torch.var_mean(rows, dim=1, correction=0)
    out = (rows - mean[:, None]) * (variance + epsilon).rsqrt()[:, None]
    return out.view_as(x).to(x.dtype), mean.detach(), variance.detach()


class Normalize(torch.autograd.Function):
    """`normalize` by kernels.c; what is saved is the result, which the next layer saves as well."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, paths: int, epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
        x = x.contiguous()
        mean, variance = moments(x, paths)
        scale = (variance + epsilon).rsqrt()
        out = torch.empty_like(x)
        rows, channels = x.numel() // mean.numel(), x.shape[-1]
        _call("normalize", x, x, mean, scale, paths, rows, channels, torch.get_num_threads(), out)
        ctx.save_for_backward(out, scale)
        ctx.mark_non_differentiable(mean, variance)
        return out, mean, variance

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        """scale * (g - mean(g) - y * mean(g * y)) with y the result."""
        y, scale = ctx.saved_tensors
        gradient, scale = gradient.contiguous(), scale[None, :, None]
        sums = _sums(gradient, [y], torch.zeros_like(scale)) / (y.numel() // scale.numel())
        (of_x,) = _terms(gradient, [y], torch.zeros_like(scale), scale, -scale * sums[1:], -scale * sums[:1], [True])
        return of_x, None, None


# Mix ----------------------------------------------------------------------------------------------------------------------


def mix(
    carry: Tensor | None, weights: Tensor, terms: Sequence[Tensor], epsilons: Sequence[float | None], paths: int, channels: int
) -> tuple[Tensor, list[tuple[Tensor, Tensor] | None]]:
    """What leaves one state, summed over the operations of each edge: (paths * images, H, W, edges * channels).

    out_e = carry_e + sum over the terms t of weights[t, e] * norm_t(term_t)_e.    weights: (terms, edges).

    A term has edges * channels, or `channels` where it is the same on every edge. epsilons: of its batch norm, None where it has
    none. carry: what came so far, of all paths or of images alone (then the same for every path). Also returns mean and biased
    variance (paths, channels) of each term with a batch norm.
    """
    if _compiled(terms[0]):
        out, *found = Mix.apply(carry, weights, tuple(epsilons), paths, channels, *terms)
        pairs = iter(zip(found[::2], found[1::2], strict=True))
        return out, [None if epsilon is None else next(pairs) for epsilon in epsilons]
    return mix_plain(carry, weights, terms, epsilons, paths, channels)


def mix_plain(
    carry: Tensor | None, weights: Tensor, terms: Sequence[Tensor], epsilons: Sequence[float | None], paths: int, channels: int
) -> tuple[Tensor, list[tuple[Tensor, Tensor] | None]]:
    """The definition of `mix`."""
    found: list[tuple[Tensor, Tensor] | None] = []
    total: Tensor | float = 0.0
    if carry is not None:
        total = carry.repeat(terms[0].shape[0] // carry.shape[0], 1, 1, 1).unflatten(-1, (-1, channels))
    for weight, term, epsilon in zip(weights, terms, epsilons, strict=True):
        found.append(None)
        if epsilon is not None:
            term, mean, variance = normalize_plain(term, paths, epsilon)
            found[-1] = (mean, variance)
        total = total + weight[:, None] * term.unflatten(-1, (-1, channels))
    assert isinstance(total, Tensor)
    return total.flatten(-2), found


class Mix(torch.autograd.Function):
    """`mix` by kernels.c. Saved are the terms alone: weighting them costs no memory, and the sums over rows that the batch
    norms' gradients need are those that the gradient of the weights is made of."""

    @staticmethod
    def forward(
        ctx: Any,
        carry: Tensor | None,
        weights: Tensor,
        epsilons: tuple[float | None, ...],
        paths: int,
        width: int,
        *terms: Tensor,
    ) -> Any:
        terms = tuple(term.contiguous() for term in terms)
        edges = weights.shape[1]
        found: list[Tensor] = []
        means, scales = [], []
        for term, epsilon in zip(terms, epsilons, strict=True):
            shape = (paths, term.shape[-1] // width, width)
            mean, scale = term.new_zeros(shape), term.new_ones(shape)
            if epsilon is not None:
                found += moments(term, paths)
                mean, scale = found[-2].view(shape), (found[-1] + epsilon).rsqrt().view(shape)
            means.append(mean.expand(paths, edges, width))
            scales.append(scale.expand(paths, edges, width))
        mean, scale = torch.stack(means), torch.stack(scales)  # (terms, paths, edges, C)
        out = terms[0].new_empty(*terms[0].shape[:-1], edges * width)
        carry = None if carry is None else carry.contiguous()
        by_term = (scale * weights[:, None, :, None]).contiguous()
        rows = 0 if carry is None else carry.numel() // (edges * width)
        _call("mix", out, carry, rows, *_listed(terms, width if edges > 1 else 0), by_term, mean, *_layout(out, mean), out)
        ctx.save_for_backward(weights, mean, scale, *terms)
        ctx.epsilons, ctx.carried = epsilons, None if carry is None else carry.shape[0]
        ctx.mark_non_differentiable(*found)
        return out, *found

    @staticmethod
    @once
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> Any:
        """With s = 1 / deviation over n rows and z less its mean, the gradients of a term and of its weight w are
        w s (g - mean(g) - s^2 z mean(g z)) and sum(g s z): the sums over rows that the first needs hold the second."""
        weights, mean, scale, *terms = ctx.saved_tensors
        gradient, by_g = gradient.contiguous(), scale * weights[:, None, :, None]
        sums = _sums(gradient, terms, mean)
        of_weights = (sums[1:] * scale).sum(dim=(1, 3)) if ctx.needs_input_grad[1] else None
        share = [0.0 if epsilon is None else mean[0].numel() / gradient.numel() for epsilon in ctx.epsilons]  # 1 / n, or 0
        normed = -by_g * by_g.new_tensor(share)[:, None, None, None]
        by_z, constant = normed * scale**2 * sums[1:], normed * sums[:1]
        of_terms = _terms(gradient, terms, mean, by_g, by_z, constant, ctx.needs_input_grad[5:])
        of_carry = None
        if ctx.needs_input_grad[0]:
            of_carry = gradient.view(-1, ctx.carried, *gradient.shape[1:])
            of_carry = of_carry[0] if of_carry.shape[0] == 1 else of_carry.sum(dim=0)
        return of_carry, of_weights, None, None, None, *of_terms


def _listed(terms: Sequence[Tensor], shared: int) -> tuple[Any, Any, int]:
    """The addresses of terms, which of them are the same on every edge (have `shared` channels), and how many they are."""
    count = len(terms)
    alike = [int(term.shape[-1] == shared) for term in terms]
    return (ctypes.c_void_p * count)(*[term.data_ptr() for term in terms]), (ctypes.c_longlong * count)(*alike), count


def _layout(gradient: Tensor, mean: Tensor) -> tuple[int, int, int, int, int]:
    """paths, rows of a path, edges, channels and threads. mean: (terms, paths, edges, C)."""
    _, paths, edges, channels = mean.shape
    return paths, gradient.numel() // (paths * edges * channels), edges, channels, torch.get_num_threads()


def _sums(gradient: Tensor, terms: Sequence[Tensor], mean: Tensor) -> Tensor:
    """Over the rows of a path: of the gradient, and of it times each term less its mean. (1 + terms, paths, edges, C)."""
    out = gradient.new_empty(len(terms) + 1, *mean.shape[1:])
    shared = mean.shape[-1] if mean.shape[-2] > 1 else 0
    _call("mix_sums", gradient, gradient, *_listed(terms, shared), mean.contiguous(), *_layout(gradient, mean), out)
    return out


def _terms(
    gradient: Tensor, terms: Sequence[Tensor], mean: Tensor, by_g: Tensor, by_z: Tensor, constant: Tensor, wanted: Sequence[bool]
) -> list[Tensor | None]:
    """by_g * gradient + by_z * (term - mean) + constant for each wanted term, summed over the edges that share it."""
    out = [torch.empty_like(term) if wish else None for term, wish in zip(terms, wanted, strict=True)]
    addresses = (ctypes.c_void_p * len(terms))(*[None if part is None else part.data_ptr() for part in out])
    shared = mean.shape[-1] if mean.shape[-2] > 1 else 0
    tables = [table.expand_as(mean).contiguous() for table in (mean, by_g, by_z, constant)]
    _call("mix_terms", gradient, gradient, *_listed(terms, shared), *tables, *_layout(gradient, mean), addresses)
    return out
